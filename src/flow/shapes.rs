//! Answers to schema changes of the source: decided here and nowhere else.
//!
//! What a table was when its mapping was last planned stands beside the mapping's copy at the target, so
//! a change is noticed whether or not we ran when it was made. Each attempt compares; a change that the
//! log tells ([`tidelock_core::TableChanged`]) is written there too before anything behind it is applied;
//! and where the log does not tell, [`watch`] looks every few seconds. All of them end in a new attempt,
//! which plans anew and decides:
//!
//! - rows changed or came without the log telling: the mapping is compared with its source (a resync);
//! - rows went away in bulk: what `on_truncate` says, as for a `TRUNCATE`; if others came, too, `ignore` is about
//!   those that went alone;
//! - another table took the name: a resync; if it is empty, what `on_truncate` says;
//! - the same in a two-way pipeline: nobody can say which side's rows hold, so it is only noted, or, where
//!   the table is another one, the mapping stops.
//!
//! **A plan of now and a log of before.** A new attempt plans by the catalog, which may be ahead of the
//! log. A copy therefore reads nothing before the log has been followed up to the look that the plan was
//! made after, and a resync leaves every change until then to what it will read. Where an older shape is
//! met though (the mapping is followed while a backfill waits), the mapping is resynced once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{Code, Error, Look, Position, Scope, ShapeChange, TableName};
use tokio_util::sync::CancellationToken;

use super::FlowContext;
use crate::config::{OnTruncate, SnapshotMode};
use crate::mapping::MappingPlan;

/// How often tables are looked at where the log does not tell of schema changes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the applied position.
const PASSED_EVERY: Duration = Duration::from_millis(20);
/// How often a log at rest is moved on while its end is waited for.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

/// What is done about a change.
pub enum Answer {
    /// Nothing beyond the new plan.
    Nothing,
    /// The mapping is compared with its source.
    Resync {
        /// Why.
        why: String,
        /// Whether rows that only the target has are removed.
        sweep: bool,
    },
    /// The mapping stops.
    Stop(Error),
    /// A person is told.
    Note(String),
}

/// Decides. `empty` tells whether the source table has no rows.
pub fn answer(plan: &MappingPlan, change: &ShapeChange, two_way: bool, empty: bool) -> Answer {
    let (name, table) = (&plan.name, &plan.source);
    let ignores = plan.on_truncate == OnTruncate::Ignore;
    let comparable = plan.copy.is_some() && !two_way;
    let by_hand = if two_way {
        "which side's rows hold is for you to say"
    } else {
        "the table has no key by which it could be compared"
    };
    let truncated = |why: &str| {
        Error::data(Code::Truncated, format!("{table}: {why}")).with_hint(format!(
            "`tidelock resync {name}` removes at the target what the source no longer has; \
             on_truncate = \"delete\" does so by itself, \"ignore\" keeps it"
        ))
    };
    // Rows that only the target has are meant to be there unless a first copy made the target what the source is.
    let sweeps = plan.snapshot == SnapshotMode::Initial;
    let change = match change {
        ShapeChange::Mixed(why) if ignores => &ShapeChange::Rows(why.clone()),
        ShapeChange::Mixed(why) => &ShapeChange::Vanished(why.clone()),
        one => one,
    };
    match change {
        ShapeChange::Same | ShapeChange::Columns | ShapeChange::Mixed(_) => Answer::Nothing,
        ShapeChange::Rows(why) if !comparable => Answer::Note(format!(
            "{table}: {why}, and the log does not tell; {by_hand}: `tidelock resync {name}` brings the source's"
        )),
        ShapeChange::Rows(why) => Answer::Resync { why: why.clone(), sweep: !ignores && sweeps },
        ShapeChange::Vanished(why) => match plan.on_truncate {
            OnTruncate::Halt => Answer::Stop(truncated(why)),
            OnTruncate::Ignore => Answer::Nothing,
            // Which of the rows that only the target has are those, nobody can tell.
            OnTruncate::Delete if comparable && !sweeps => Answer::Stop(
                Error::data(Code::Truncated, format!("{table}: {why}")).with_hint(format!(
                    "`tidelock resync {name}` removes at the target what the source does not have, the target's own rows \
                     included; on_truncate = \"ignore\" keeps them"
                )),
            ),
            OnTruncate::Delete if comparable => Answer::Resync { why: why.clone(), sweep: true },
            OnTruncate::Delete => Answer::Note(format!(
                "{table}: {why}, and the log does not tell which rows; {by_hand}: `tidelock resync {name}`"
            )),
        },
        ShapeChange::Replaced(why) if !comparable => Answer::Stop(
            Error::data(Code::SchemaDrift, format!("{table}: {why}"))
                .with_hint(format!("{by_hand}: `tidelock resync {name}` brings the source's")),
        ),
        ShapeChange::Replaced(why) if empty && plan.on_truncate == OnTruncate::Halt => {
            Answer::Stop(truncated(&format!("{why}, and it is empty")))
        }
        ShapeChange::Replaced(why) => {
            Answer::Resync { why: why.clone(), sweep: !ignores && sweeps }
        }
    }
}

/// Waits until everything up to a position of the source is applied. A log at rest is moved on meanwhile.
pub async fn passed(context: &FlowContext, at: &Position) {
    let mut moved = Instant::now();
    loop {
        let applied = context.shared.applied.borrow().clone();
        if applied.is_some_and(|a| context.source.compare(&a, at).is_ok_and(|o| o.reached())) {
            return;
        }
        context.shared.nudge.notify_one();
        if moved.elapsed() > HEARTBEAT_EVERY {
            moved = Instant::now();
            if let Err(error) = context.source.heartbeat().await {
                tracing::debug!(flow = %context.config.name, %error, "no heartbeat");
            }
        }
        tokio::time::sleep(PASSED_EVERY).await;
    }
}

/// A table to be watched.
pub struct Watched {
    /// Its mapping.
    pub mapping: Arc<str>,
    /// The table.
    pub table: TableName,
    /// Its mapped columns.
    pub columns: Vec<String>,
}

/// The tables that a mapping follows, with the columns that it reads there.
pub fn watched(plan: &MappingPlan) -> Vec<Watched> {
    let follows: Vec<&TableName> = plan.follows().collect();
    let tables = plan.source_tables().into_iter().filter(|table| follows.contains(&&table.name));
    let watched = tables.map(|table| {
        let mut columns = table.columns;
        columns.extend(table.key_columns);
        Watched { mapping: plan.name.clone(), table: table.name, columns }
    });
    watched.collect()
}

/// Has the applier write down what tables are that are others without a difference that matters (another
/// file after `VACUUM FULL`): compared with what they were long ago, a later harmless change would pass
/// for one that was made together with it.
fn keep(
    context: &FlowContext,
    tables: &[Watched],
    known: &HashMap<TableName, String>,
    look: &Look,
) {
    for Watched { mapping, table, .. } in tables {
        if let (Some(before), Some(now)) = (known.get(table), look.shapes.get(table))
            && before != now
        {
            context.shared.keep_shape(mapping, table, now.clone());
        }
    }
}

/// A target table of which something was noted.
pub struct Noted {
    /// The table.
    pub table: TableName,
    /// Columns of the source that it did not have when the mapping was planned.
    pub lacks: Vec<String>,
}

/// Looks at the source's tables until one of them is another than it was, or one that was not there is;
/// then waits until the log has been followed up to that look, and ends the attempt. So it does when a
/// target table is altered of which something was `noted`.
pub async fn watch(
    context: FlowContext,
    mut tables: Vec<Watched>,
    absent: Vec<TableName>,
    noted: Vec<Noted>,
    mut known: HashMap<TableName, String>,
    end: CancellationToken,
) {
    if context.source.logs_schema_changes() {
        tables.clear();
    }
    let names: Vec<TableName> = tables.iter().map(|w| &w.table).chain(&absent).cloned().collect();
    if names.is_empty() && noted.is_empty() {
        return std::future::pending().await;
    }
    let mut targets = None;
    loop {
        if target_altered(&context, &noted, &mut targets).await {
            end.cancel();
            return std::future::pending().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        if names.is_empty() {
            continue;
        }
        let look = match context
            .source
            .look(Scope::Tables(&names), &context.config.publication)
            .await
        {
            Ok(look) => look,
            Err(error) => {
                tracing::debug!(flow = %context.config.name, %error, "the source's tables were not looked at");
                continue;
            }
        };
        let Some((table, change)) = first_change(&context, &tables, &absent, &known, &look) else {
            keep(&context, &tables, &known, &look);
            known.extend(look.shapes);
            continue;
        };
        tracing::info!(flow = %context.config.name, %table, %change, "schema change seen; planning anew once the log has been followed so far");
        passed(&context, &look.at).await;
        end.cancel();
        return std::future::pending().await;
    }
}

/// Whether a target table that lacks something is another one since it was first looked at: a person may
/// have done what a note says.
async fn target_altered(
    context: &FlowContext,
    noted: &[Noted],
    known: &mut Option<HashMap<TableName, String>>,
) -> bool {
    if noted.is_empty() {
        return false;
    }
    let names: Vec<TableName> = noted.iter().map(|n| n.table.clone()).collect();
    let Ok(look) = context.target.look(Scope::Tables(&names), "").await else { return false };
    let Some(known) = known else {
        // It may have been altered since it was planned with: from now on every change shows.
        let mut schemas: Vec<String> = names.into_iter().map(|n| n.schema).collect();
        schemas.sort();
        schemas.dedup();
        let Ok(catalog) = context.target.catalog(&schemas).await else { return false };
        *known = Some(look.shapes);
        return noted.iter().any(|n| {
            let table = catalog.iter().find(|t| t.name == n.table);
            table.is_some_and(|t| n.lacks.iter().any(|column| t.column(column).is_some()))
        });
    };
    // No column of it counts as mapped here: what its rows are is the source's business.
    let altered =
        noted.iter().any(|Noted { table, .. }| match (known.get(table), look.shapes.get(table)) {
            (Some(before), Some(now)) => {
                context.target.shape_change(before, now, &[]) != ShapeChange::Same
            }
            _ => false,
        });
    if altered {
        tracing::info!(flow = %context.config.name, "a target table was altered; planning anew");
    }
    altered
}

fn first_change(
    context: &FlowContext,
    tables: &[Watched],
    absent: &[TableName],
    known: &HashMap<TableName, String>,
    look: &Look,
) -> Option<(TableName, String)> {
    for Watched { table, columns, .. } in tables {
        let words = match (known.get(table), look.shapes.get(table)) {
            (Some(_), None) => "it is gone".to_owned(),
            (Some(before), Some(now)) => match context.source.shape_change(before, now, columns) {
                ShapeChange::Same => continue,
                ShapeChange::Columns => "other columns, types or keys".to_owned(),
                ShapeChange::Rows(why)
                | ShapeChange::Vanished(why)
                | ShapeChange::Mixed(why)
                | ShapeChange::Replaced(why) => why,
            },
            (None, _) => continue,
        };
        return Some((table.clone(), words));
    }
    let back = absent.iter().find(|table| look.shapes.contains_key(table))?;
    Some((back.clone(), "it is there again".to_owned()))
}
