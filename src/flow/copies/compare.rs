//! A mapping and its source table against what they were when it was copied.

use tidelock_core::{Code, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, Result, ShapeChange};

use super::added::notes;
use super::begin::{copy_row, is_empty, unknown};
use super::columns::{Columns, is_followed};
use super::mirrors::Mirror;
use super::unread;
use crate::config::SnapshotMode;
use crate::flow::FlowContext;
use crate::flow::attempt::MappingStop;
use crate::flow::shapes::{self, Answer};
use crate::mapping::plan::EndPlan;
use crate::mapping::{MappingPlan, row};

/// What was found of a mapping besides its plan.
pub(super) struct Found<'a> {
    /// What its source table is now.
    pub(super) shape: String,
    /// What the tables are now that it follows beside it.
    pub(super) beside: Vec<(shapes::Watched, String)>,
    /// Whether the other direction writes the same columns.
    pub(super) two_way: bool,
    /// The mapping of the other direction that does.
    pub(super) mirror: Option<&'a Mirror>,
    /// Whether the table was away.
    pub(super) returns: bool,
    /// An error for which it was to stop.
    pub(super) drift: Option<&'a MappingStop>,
}

/// What comes of comparing a mapping with what it was.
pub(super) enum Compared {
    /// It goes on, or is copied again.
    Goes {
        /// Its error is mended by that.
        mended: bool,
    },
    /// It must stop.
    Stops(Error),
}

const GOES: Compared = Compared::Goes { mended: false };

/// Compares a mapping and its source table with what they were when it was copied, and does what the
/// difference asks for.
pub(super) async fn compare(
    context: &FlowContext,
    plan: &MappingPlan,
    found: Found<'_>,
    row: &mut CopyRow,
) -> Result<Compared> {
    let before: Option<Columns> = serde_json::from_str(&row.columns).ok();
    let mut now = Columns::of(plan, &found, before.as_ref());
    now.followed = row.reason == CopyReason::Resync && is_followed(row);
    if before.is_none() && row.reason == CopyReason::Resync {
        now.notes.extend(unseen_deletes(plan));
    }
    let anew = row.phase == CopyPhase::Rows && row.cursor.is_empty() && row.rows_done == 0;
    let is_stored = row.phase != CopyPhase::Done || row.started_micros != 0;
    row.columns = now.encode();
    context.shared.set_notes(&plan.name, notes(context, plan, &now).await?);
    let Some(before) = before else {
        if is_stored {
            context.target.write_copy(row).await?;
        }
        return Ok(GOES);
    };
    if before.to.is_some() && before.to != now.to {
        tracing::warn!(flow = %context.config.name, mapping = %plan.name,
            "the mapping writes another table than before, and begins anew");
        *row = CopyRow { columns: now.encode(), ..unknown(context, plan, found.mirror).await? };
        context.target.write_copy(row).await?;
        return Ok(GOES);
    }
    let repairs = row.reason == CopyReason::Resync && row.phase != CopyPhase::Done;
    if plan.view.is_some() && before.makes_others(&now) {
        // Other tables may be tracked by now, of which nothing was followed until here.
        tracing::warn!(flow = %context.config.name, mapping = %plan.name,
            "the mapping is another one than before: its rows are compared with the view");
        // Without a sweep, what is remembered of the view tells which rows were ours.
        let sweep = plan.snapshot == SnapshotMode::Initial;
        *row = CopyRow {
            columns: now.encode(),
            sweep,
            ..copy_row(context, &plan.name, CopyReason::Resync)
        };
        context.target.write_copy(row).await?;
        return Ok(GOES);
    }
    if let Some((source, target)) = before.without(&now).first()
        && !repairs
    {
        let place = format!("{}.{source} to {}.{target}", plan.source, plan.target.name);
        return Ok(Compared::Stops(
            Error::data(Code::SchemaDrift, format!("{place}: one of the columns is gone"))
                .with_hint(format!(
                    "put it back, or list the columns in the mapping; then `tidelock resync {}`",
                    plan.name
                )),
        ));
    }
    if before.keyed && !now.keyed && !repairs {
        let feeds: Vec<String> = plan.key_reads().collect();
        return Ok(Compared::Stops(
            Error::data(
                Code::SchemaDrift,
                format!("{}: its key changed: ({}) is not kept unique any more", plan.source, feeds.join(", ")),
            )
            .with_hint(format!(
                "put the key back, or name the new one in the mapping by `key`; then `tidelock resync {}`",
                plan.name
            )),
        ));
    }
    let (change, mended) = what_changed(context, plan, &before, &found);
    let covered = anew && row.reason != CopyReason::Backfill || row.phase == CopyPhase::Held;
    if change.why().is_some() && !covered {
        let empty = match change {
            ShapeChange::Replaced(_) => match is_empty(context, plan).await {
                Ok(empty) => empty,
                // Made again, and not granted to us again.
                Err(error) if error.kind() == ErrorKind::Data => {
                    return Ok(Compared::Stops(unread(context, plan, error).await));
                }
                Err(error) => return Err(error),
            },
            _ => false,
        };
        match shapes::answer(plan, &change, found.two_way, empty) {
            Answer::Stop(error) => return Ok(Compared::Stops(error)),
            Answer::Note(note) => {
                now.notes.retain(|n| *n != note);
                now.notes.push(note);
                row.columns = now.encode();
                context.shared.set_notes(&plan.name, notes(context, plan, &now).await?);
            }
            Answer::Resync { why, sweep } => {
                tracing::warn!(flow = %context.config.name, mapping = %plan.name,
                    "{}: {why}; the log does not tell the rows, so they are compared with the source", plan.source);
                now.notes.clear();
                now.notes.extend(unseen_deletes(plan));
                context.shared.set_notes(&plan.name, notes(context, plan, &now).await?);
                *row = CopyRow {
                    columns: now.encode(),
                    sweep,
                    ..copy_row(context, &plan.name, CopyReason::Resync)
                };
                context.target.write_copy(row).await?;
                return Ok(Compared::Goes { mended });
            }
            Answer::Nothing => {}
        }
    }
    let other_edge = before.gated && before.edge != now.edge;
    if (before.makes_others(&now) || other_edge) && !anew && is_stored {
        let note = format!(
            "the mapping's columns or conditions changed, or the dictionaries, zones or mask key behind them: rows from before are as they were; `tidelock resync {}` makes them what it says now",
            plan.name
        );
        tracing::warn!(flow = %context.config.name, mapping = %plan.name, "{note}");
        now.notes.retain(|n| *n != note);
        now.notes.push(note);
        row.columns = now.encode();
        context.shared.set_notes(&plan.name, notes(context, plan, &now).await?);
    }
    let new = now.without(&before);
    let names = new.iter().map(|(source, _)| source.as_str()).collect::<Vec<_>>().join(", ");
    if new.is_empty() && !(now.again && row.phase == CopyPhase::Done) {
        if before != now && is_stored {
            context.target.write_copy(row).await?;
        }
    } else if row.phase != CopyPhase::Done {
        // What is copied from here on has them.
        now.again |= !anew && row.phase != CopyPhase::Held && !found.two_way;
        row.columns = now.encode();
        context.target.write_copy(row).await?;
    } else if found.two_way || plan.copy.is_none() {
        tracing::warn!(flow = %context.config.name, mapping = %plan.name, columns = %names,
            "new columns are followed from here on; rows from before keep what the target has");
        now.again = false;
        row.columns = now.encode();
        context.target.write_copy(row).await?;
    } else {
        tracing::warn!(flow = %context.config.name, mapping = %plan.name, columns = %names,
            "new columns are brought by a backfill");
        now.again = false;
        *row = CopyRow {
            columns: now.encode(),
            ..copy_row(context, &plan.name, CopyReason::Backfill)
        };
        context.target.write_copy(row).await?;
    }
    Ok(GOES)
}

/// What to say where a comparison does not find what the source has deleted unseen: of a table's rows that went to a routine, or that
/// are marked by what the source's row says, nothing is remembered.
fn unseen_deletes(plan: &MappingPlan) -> Option<String> {
    let lost = match plan.rows.end {
        EndPlan::Ignore => false,
        EndPlan::Delete => plan.call.is_some(),
        EndPlan::Set(_) => !row::marks_alone(plan),
    };
    (lost && plan.view.is_none()).then(|| {
        format!(
            "what was deleted at the source while the mapping stood still, until it was compared last, may still be at the target: {} takes \
             away only what the log tells; look for it by hand, or put a view over the table; `tidelock backfill {}` takes this note away",
            plan.target.name, plan.name
        )
    })
}

/// What became of a mapping's table since it was last planned, and whether that explains the error for
/// which it was to stop.
fn what_changed(
    context: &FlowContext,
    plan: &MappingPlan,
    before: &Columns,
    found: &Found<'_>,
) -> (ShapeChange, bool) {
    let mut change = before.pending.clone().unwrap_or(ShapeChange::Same);
    if found.returns {
        change = change.or(ShapeChange::Replaced("it was away and is there again".to_owned()));
    }
    if !before.shape.is_empty() && !found.shape.is_empty() {
        let mut mapped = plan.reads.clone();
        mapped.extend(before.pairs.iter().map(|(source, _)| source.clone()));
        change = change.or(context.source.shape_change(&before.shape, &found.shape, &mapped));
    }
    for (watched, now) in &found.beside {
        // One that was not followed before is no news: what is told of it is followed from here on.
        let Some(before) = before.beside.get(&watched.table.to_string()) else { continue };
        let said = context.source.shape_change(before, now, &watched.columns);
        change = change.or(said.at(&watched.table));
    }
    // The plan fits the table, so the log was at an older shape of it. Once only for each shape.
    let drifted = found.drift.is_some_and(|s| s.error.code() == Code::SchemaDrift)
        && !found.two_way
        && context.shared.first_drift(&plan.name, &found.shape);
    if drifted {
        // It may have been made again, too.
        let why = "the log holds rows of another shape than it has now".to_owned();
        change = change.or(ShapeChange::Replaced(why));
    }
    (change, drifted)
}
