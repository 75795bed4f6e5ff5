//! What of a flow is copied already, what is not, and what must stop because the tables no longer are
//! what they were when it was.
//!
//! **Columns are remembered.** Which columns are mapped follows, without a list in the file, from both
//! catalogs, so a column that was dropped or renamed would silently drop out of the mapping at the next
//! start. The columns therefore stand beside the copy: one that is missing now, though the file did not
//! change, stops the mapping. One that is new is brought by a backfill, as rows from before it would
//! keep another value; where the other direction maps it too, nobody can say whose value it is, and it
//! is only told. With them stands what the source table was ([`tidelock_core::shape`]); what becomes of a
//! mapping whose table is another one by now is decided in [`super::shapes`].

mod added;
mod begin;
mod columns;
mod compare;
mod mirrors;
mod views;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{
    Code, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, Part, Result, Side, SourceSpec,
    StateRow, TableFault, TableName,
};

pub(super) use self::added::add_columns;
use self::begin::{again, job, leave, unknown};
pub use self::begin::{copy_row, try_copy};
pub(super) use self::columns::owners;
pub use self::columns::{FOLLOWED, goes_again, is_followed, was_gated, with_pending, with_shape};
use self::compare::{Compared, Found, compare};
pub(super) use self::mirrors::mirrors;
pub use self::mirrors::{Mirror, both_initial, mirrors_of, readers};
pub use self::views::untracked;
use super::FlowContext;
use super::attempt::MappingStop;
use super::shapes;
use super::start::Systems;
use crate::config::{SnapshotMode, TablePattern};
use crate::copy::{Job, region};
use crate::mapping::MappingPlan;
use crate::mapping::plan::like;

/// What the copies of a flow's mappings come to.
#[derive(Debug, Default)]
pub struct Copies {
    /// Those that have not ended, in the order in which they are made.
    pub jobs: Vec<Job>,
    /// Rows to be written once the stream is open: mappings that are followed without a copy.
    pub settled: Vec<CopyRow>,
    /// Which of our mappings waits for which copy of the other direction.
    pub held_for: HashMap<(String, String), String>,
    /// Mappings that must stop, and why.
    pub faults: Vec<(String, Error)>,
    /// Source tables that are not there; their mappings come back when they do.
    pub absent: Vec<TableName>,
    /// How the copies that have ended stand.
    pub rows: HashMap<String, CopyRow>,
    /// When some mapping is to be looked at again because time has passed, microseconds since 1970.
    pub refresh_at: Option<i64>,
    /// The mapping that was to stop is compared with its source instead.
    pub mended: bool,
}

/// What is copied already, what is not, and what is not to be. A mapping that the configuration no
/// longer has goes on without us, so if it comes back it is copied or compared anew.
pub(super) async fn copies(
    context: &FlowContext,
    systems: &Systems,
    spec: &mut SourceSpec,
    states: &mut Vec<StateRow>,
    stop: Option<&MappingStop>,
) -> Result<Copies> {
    let mut copies = Copies::default();
    let mut tables = Tables::default();
    let flow = &context.config.name;
    let mut known: HashMap<String, CopyRow> = HashMap::new();
    let mut ours: HashSet<&str> = systems.plans.iter().map(|p| &*p.name).collect();
    ours.extend(systems.failed.iter().map(|(name, _)| name.as_str()));
    for row in context.target.read_copies(&context.pipeline).await? {
        if row.flow != *flow {
            continue;
        }
        if ours.contains(row.mapping.as_str()) {
            known.insert(row.mapping.clone(), row);
        } else if let Some(table) = gone_of_wildcard(context, systems, &row.mapping) {
            context.shared.add_mapping(&row.mapping);
            copies.faults.push((row.mapping.clone(), gone(&table, &row.mapping)));
            copies.absent.push(table);
        } else if let Some((_, table)) = systems.keyless.iter().find(|(n, _)| *n == row.mapping) {
            context.shared.add_mapping(&row.mapping);
            copies.faults.push((row.mapping.clone(), keyless(table, &row.mapping)));
        } else {
            leave(context, row).await?;
        }
    }
    for (name, table) in &systems.keyless {
        if copies.faults.iter().all(|(stops, _)| stops != name) {
            context.shared.tell(&format!(
                "{table} has no usable key and is left out; give it a primary key, or exclude it by name"
            ));
        }
    }
    for (name, finding) in &systems.failed {
        if let Some(table) = systems.gone.get(name) {
            copies.faults.push((name.clone(), gone(table, name)));
            copies.absent.push(table.clone());
            continue;
        }
        let error = Error::data(Code::SchemaDrift, finding.message.clone())
            .with_hint(format!("mend it as `tidelock check` says, then `tidelock resync {name}`"));
        copies.faults.push((name.clone(), error));
    }
    for plan in &systems.plans {
        let mirror = systems.mirrors.iter().find(|m| m.ours == plan.name);
        let mut returns = false;
        let stored = states.iter().find(|s| *s.mapping == *plan.name).cloned();
        let mut row = match known.remove(&*plan.name) {
            Some(row) if row.phase != CopyPhase::Left => row,
            before => {
                // One that could not even be planned when it first came, and is mended now.
                if states.iter().any(|s| *s.mapping == *plan.name) {
                    context.target.clear_state(&context.pipeline, flow, &plan.name).await?;
                    states.retain(|s| *s.mapping != *plan.name);
                }
                let begun = match before {
                    Some(row) => again(context, plan, mirror, &row).await,
                    None => unknown(context, plan, mirror).await,
                };
                match begun {
                    Ok(row) => row,
                    Err(error) if error.kind() == ErrorKind::Data => {
                        tables.ask(plan, Asked::Nothing);
                        copies
                            .faults
                            .push((plan.name.to_string(), unread(context, plan, error).await));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let stopped = states.iter().any(|s| *s.mapping == *plan.name);
        if stopped && stored.is_some_and(|s| s.code == Some(Code::TableGone)) {
            states.retain(|s| *s.mapping != *plan.name);
            returns = true;
        }
        let drift = stop.filter(|s| *s.mapping == *plan.name);
        if stopped && !returns {
            // Whatever became of the table, it is compared when the mapping comes back.
            tables.ask(plan, Asked::Nothing);
        } else {
            let shape = match plan.view {
                // It has no rows of its own: the tables that it is made of are looked at beside it.
                Some(_) => String::new(),
                None => systems.look.shapes.get(&plan.source).cloned().unwrap_or_default(),
            };
            let beside = shapes::watched(plan)
                .into_iter()
                .filter(|w| plan.view.is_some() || w.table != plan.source);
            let beside = beside.filter_map(|w| {
                let shape = systems.look.shapes.get(&w.table)?.clone();
                Some((w, shape))
            });
            let beside = beside.collect();
            let two_way = mirror.is_some();
            let found = Found { shape, beside, two_way, mirror, returns, drift };
            match compare(context, plan, found, &mut row).await? {
                Compared::Goes { mended } => {
                    copies.mended |= mended;
                    if returns {
                        // Only now: what is to be done is on record.
                        context.target.clear_state(&context.pipeline, flow, &plan.name).await?;
                    }
                }
                Compared::Stops(error) => {
                    tables.ask(plan, Asked::Nothing);
                    copies.faults.push((plan.name.to_string(), error));
                    continue;
                }
            }
        }
        if let Some(due) = refresh_due(plan, &row)
            && (!stopped || returns)
        {
            let now = crate::apply::now_micros();
            let mut next = due;
            if due <= now {
                // Of a view the keys that are there are read, and so what left it must be looked for at the target. So must
                // what left a window whose rows may share their keys: the end of one row is not the end of its key.
                let reason = match plan.view.is_some() || plan.shares_keys {
                    true => CopyReason::Resync,
                    false => CopyReason::Backfill,
                };
                let columns = std::mem::take(&mut row.columns);
                let begun = copy_row(context, &plan.name, reason);
                let sweep = begun.sweep && plan.snapshot == SnapshotMode::Initial;
                row = CopyRow { columns, sweep, ..begun };
                context.target.write_copy(&row).await?;
                next = refresh_due(plan, &row).unwrap_or(now);
            }
            copies.refresh_at = Some(copies.refresh_at.unwrap_or(i64::MAX).min(next));
        }
        let fresh = row.cursor.is_empty() && row.rows_done == 0 && row.phase != CopyPhase::Sweep;
        let new = fresh
            && row.reason != CopyReason::Backfill
            && (row.phase != CopyPhase::Done || row.started_micros == 0);
        let new = new && (!stopped || returns);
        if !stopped || returns {
            let joins = new && !is_followed(&row);
            tables.ask(plan, if joins { Asked::Joins } else { Asked::Follows });
        }
        tables.put(spec);
        let admitted = match new && row.reason == CopyReason::Resync {
            true => admit(context, spec, plan).await,
            false => Ok(()),
        };
        if let Err(error) = admitted {
            // A table made again belongs to nobody's publication yet, and may be somebody else's to add.
            if error.code() != Code::Privilege {
                return Err(error.at(&context.config.source).of(Side::Source));
            }
            tables.ask(plan, Asked::Nothing);
            let hint = error.hint().unwrap_or_default().to_owned();
            let error = Error::data(error.code(), error.message().to_owned())
                .with_hint(format!("{hint} Then `tidelock resync {}`.", plan.name));
            copies.faults.push((plan.name.to_string(), error));
            continue;
        }
        if row.phase == CopyPhase::Held {
            match mirror {
                Some(mirror) => {
                    let theirs = (mirror.flow.clone(), mirror.theirs.to_string());
                    copies.held_for.insert(theirs, plan.name.to_string());
                }
                None => {
                    tracing::warn!(flow = %context.config.name, mapping = %plan.name,
                        "the copy of the other direction that it waited for is none any more: it is followed from here on");
                    region::ended(&mut row);
                    context.target.write_copy(&row).await?;
                }
            }
        }
        if row.phase == CopyPhase::Sweep && !job(context, plan, row.clone())?.row.sweep {
            // By now, rows that only the target has are meant to be there.
            region::ended(&mut row);
            context.target.write_copy(&row).await?;
        }
        let cut = plan.copy.as_ref().map(|table| Part::decode(&row.cursor, &table.key));
        if row.phase == CopyPhase::Rows && !row.cursor.is_empty() && cut == Some(None) {
            // It was cut by another key before. It begins anew beside the rows that it has brought: changes to these are followed.
            let sweep = row.sweep;
            let reason = if sweep { CopyReason::Resync } else { CopyReason::Backfill };
            let (columns, filter) =
                (std::mem::take(&mut row.columns), std::mem::take(&mut row.filter));
            row = CopyRow { columns, filter, ..copy_row(context, &plan.name, reason) };
            context.target.write_copy(&row).await?;
        }
        context.shared.show_copy(&plan.name, &row);
        context.shared.copy_waits(&plan.name);
        copies.rows.insert(plan.name.to_string(), row.clone());
        if row.phase == CopyPhase::Done {
            if row.started_micros == 0 {
                let row = CopyRow { started_micros: crate::apply::now_micros(), ..row };
                copies.rows.insert(plan.name.to_string(), row.clone());
                copies.settled.push(row);
            }
            continue;
        }
        copies.jobs.push(job(context, plan, row)?);
    }
    tables.put(spec);
    for fault in context.source.left_out(spec).await.map_err(|e| e.at(&context.config.source))? {
        let TableFault { table, error } = fault;
        for plan in systems.plans.iter().filter(|p| p.follows().any(|t| *t == table)) {
            let stops = |name: &str| copies.faults.iter().any(|(stopped, _)| stopped == name);
            if stops(&plan.name) || states.iter().any(|s| *s.mapping == *plan.name) {
                continue;
            }
            tables.ask(plan, Asked::Nothing);
            copies.jobs.retain(|job| job.mapping != plan.name);
            let hint = error.hint().unwrap_or_default();
            let hint = format!("{hint} Then `tidelock resync {}`.", plan.name);
            let error = Error::data(error.code(), error.message()).with_hint(hint);
            copies.faults.push((plan.name.to_string(), error));
        }
    }
    tables.put(spec);
    for (name, table) in &systems.namesakes {
        context.shared.tell(&format!(
            "{table} is not mapped: mapping {name} is of another table; write it as a mapping of its own with another `name`, or exclude it"
        ));
    }
    Ok(copies)
}

/// Lets the tables of a mapping that is compared anew into the stream.
async fn admit(context: &FlowContext, spec: &SourceSpec, plan: &MappingPlan) -> Result<()> {
    for table in plan.follows() {
        context.source.admit(spec, table).await?;
    }
    Ok(())
}

/// When the rows of a mapping are to be looked at again because time has passed, microseconds since 1970.
fn refresh_due(plan: &MappingPlan, row: &CopyRow) -> Option<i64> {
    let period = i64::try_from(plan.rows.refresh?.as_micros()).unwrap_or(i64::MAX);
    let from = match row.phase {
        // A clock that was set back since keeps it from nothing.
        CopyPhase::Done => {
            row.finished_micros.max(row.started_micros).min(crate::apply::now_micros())
        }
        // What is being read is looked at again when it has ended.
        CopyPhase::Held | CopyPhase::Rows | CopyPhase::Sweep | CopyPhase::Left => {
            crate::apply::now_micros()
        }
    };
    Some(from.saturating_add(period))
}

/// What the mappings of each source table ask of the stream, which hands a table over once however many it has.
#[derive(Default)]
struct Tables(HashMap<TableName, HashMap<Arc<str>, Asked>>);

#[derive(Clone, Copy)]
enum Asked {
    /// The mapping has stopped: the stream may lack the table.
    Nothing,
    /// The mapping joins the stream only now.
    Joins,
    /// The mapping was followed before: nothing may be missing.
    Follows,
}

impl Tables {
    fn ask(&mut self, plan: &MappingPlan, asked: Asked) {
        for table in plan.follows() {
            self.0.entry(table.clone()).or_default().insert(plan.name.clone(), asked);
        }
    }

    fn put(&self, spec: &mut SourceSpec) {
        for table in &mut spec.tables {
            let Some(asked) = self.0.get(&table.name) else { continue };
            let any = |wanted: fn(&Asked) -> bool| asked.values().any(wanted);
            let followed = any(|a| matches!(a, Asked::Follows));
            table.joins = any(|a| matches!(a, Asked::Joins)) && !followed;
            table.optional = !table.joins && !followed;
        }
    }
}

fn gone(table: &TableName, mapping: &str) -> Error {
    Error::data(Code::TableGone, format!("table {table} is not there, or may not be seen"))
        .with_hint(format!(
            "the target's rows stay; when the table is there again, mapping {mapping} comes back by itself"
        ))
}

fn keyless(table: &TableName, mapping: &str) -> Error {
    Error::data(
        Code::SchemaDrift,
        format!("{table}: its key is gone, and it has no other that could be used"),
    )
    .with_hint(format!("give it a primary key, then `tidelock resync {mapping}`"))
}

/// A table that cannot be read stops its mapping alone.
pub async fn unread(context: &FlowContext, plan: &MappingPlan, error: Error) -> Error {
    let TableName { schema, name } = &plan.source;
    let mut hint = error.hint().unwrap_or_default().to_owned();
    if error.code() == Code::Privilege
        && let Ok(found) = context.source.preflight_unseen(schema, Some(name), false).await
        && !found.sql.is_empty()
    {
        hint = found.sql.join(" ");
    }
    error.with_hint(format!("{hint} Then `tidelock resync {}`.", plan.name).trim_start().to_owned())
}

/// The table of a wildcard's mapping, if the wildcard still takes it and the source does not have it.
fn gone_of_wildcard(context: &FlowContext, systems: &Systems, mapping: &str) -> Option<TableName> {
    context.config.mappings.iter().find_map(|m| {
        if m.from.table != TablePattern::All || m.exclude.iter().any(|p| like(p, mapping)) {
            return None;
        }
        let schema = m.from.schema.as_deref().unwrap_or(context.source.default_schema());
        let table = TableName::new(schema, mapping);
        (!systems.look.shapes.contains_key(&table)).then_some(table)
    })
}
