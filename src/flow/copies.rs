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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidelock_core::{
    Code, Column, Connector, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, NewColumn, Note,
    Part, Result, ShapeChange, Side, SourceSpec, StateRow, TableFault, TableName,
};

use super::FlowContext;
use super::attempt::MappingStop;
use super::shapes::{self, Answer};
use super::start::{self, Systems};
use crate::config::{
    FlowConfig, MappingConfig, SchemaChanges, SnapshotMode, TablePattern, TableRef,
};
use crate::copy::{Job, region};
use crate::mapping::plan::{EndPlan, like, mirrored};
use crate::mapping::{MappingPlan, row};

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

/// The columns of a mapping, as they stand beside its copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Columns {
    rule: String,
    pairs: Vec<(String, String)>,
    /// Schema and name of the source table.
    #[serde(default)]
    table: Option<(String, String)>,
    /// What the source table was, as its connector writes it.
    #[serde(default)]
    shape: String,
    /// The same of the tables that it follows beside it: those that a view is made of, those that push.
    #[serde(default)]
    beside: BTreeMap<String, String>,
    /// Whether the source kept the columns of the key unique.
    #[serde(default)]
    keyed: bool,
    /// Columns of the source that were left out from the beginning, because the target lacks them.
    #[serde(default)]
    left: Option<Vec<String>>,
    /// Columns of the source that came later and that the target lacks.
    #[serde(default)]
    came: Vec<String>,
    /// What became of the table and was not answered yet.
    #[serde(default)]
    pending: Option<ShapeChange>,
    /// Columns came while rows were being copied: those that were copied before are without them.
    #[serde(default)]
    again: bool,
    /// The target table.
    #[serde(default)]
    to: Option<String>,
    /// What a person should know.
    #[serde(default)]
    notes: Vec<String>,
}

impl Columns {
    fn of(plan: &MappingPlan, found: &Found<'_>, before: Option<&Columns>) -> Columns {
        let unmapped: Vec<String> = plan.unmapped.iter().map(|c| c.name.clone()).collect();
        let left = match before.and_then(|b| b.left.as_ref()) {
            Some(left) => left.iter().filter(|c| unmapped.contains(c)).cloned().collect(),
            None => unmapped.clone(),
        };
        Columns {
            rule: plan.rule.clone(),
            pairs: plan.pairs(),
            table: Some((plan.source.schema.clone(), plan.source.name.clone())),
            shape: found.shape.clone(),
            beside: found
                .beside
                .iter()
                .map(|(watched, shape)| (watched.table.to_string(), shape.clone()))
                .collect(),
            keyed: plan.keyed,
            came: unmapped.into_iter().filter(|c| !left.contains(c)).collect(),
            left: Some(left),
            pending: None,
            again: before.is_some_and(|b| b.again),
            to: Some(plan.target.name.to_string()),
            notes: before.map(|b| b.notes.clone()).unwrap_or_default(),
        }
    }

    fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The pairs that only the first has, if the file says the same for both.
    fn without<'a>(&'a self, other: &Columns) -> Vec<&'a (String, String)> {
        if self.rule != other.rule {
            return Vec::new();
        }
        self.pairs.iter().filter(|pair| !other.pairs.contains(pair)).collect()
    }
}

/// A row with a change of its table that is still to be answered.
pub fn with_pending(row: &CopyRow, change: &ShapeChange) -> CopyRow {
    let mut columns: Columns = serde_json::from_str(&row.columns).unwrap_or_default();
    let pending = columns.pending.take().unwrap_or(ShapeChange::Same).or(change.clone());
    columns.pending = Some(pending);
    CopyRow { columns: columns.encode(), ..row.clone() }
}

/// Whether a copy that has ended is to be followed by another one.
pub fn goes_again(row: &CopyRow) -> bool {
    row.phase == CopyPhase::Done
        && serde_json::from_str::<Columns>(&row.columns).is_ok_and(|columns| columns.again)
}

/// A row with what its table is by now; `None` if the row knows nothing of tables.
pub fn with_shape(row: &CopyRow, table: &TableName, shape: String) -> Option<CopyRow> {
    let mut columns: Columns = serde_json::from_str(&row.columns).ok()?;
    let own = columns
        .table
        .as_ref()
        .is_none_or(|(schema, name)| (schema, name) == (&table.schema, &table.name));
    match own {
        true => columns.shape = shape,
        false => drop(columns.beside.insert(table.to_string(), shape)),
    }
    Some(CopyRow { columns: columns.encode(), ..row.clone() })
}

/// Whose rows the flow's mappings have brought, as far as the rows of their copies tell.
pub(super) async fn owners(context: &FlowContext) -> Result<HashMap<String, TableName>> {
    let rows = context.target.read_copies(&context.pipeline).await?;
    let owner = |row: CopyRow| {
        let columns: Columns = serde_json::from_str(&row.columns).ok()?;
        let (schema, name) = columns.table?;
        Some((row.mapping, TableName::new(schema, name)))
    };
    let ours = |row: &CopyRow| row.flow == context.config.name && row.phase != CopyPhase::Left;
    Ok(rows.into_iter().filter(ours).filter_map(owner).collect())
}

/// A mapping of ours and one of the other direction that write one column both ways.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Our mapping.
    pub ours: Arc<str>,
    /// The other flow.
    pub flow: String,
    /// Its mapping.
    pub theirs: Arc<str>,
    /// How theirs is copied.
    pub snapshot: SnapshotMode,
}

/// The mappings of the other direction that write the same columns.
pub(super) async fn mirrors(
    context: &FlowContext,
    plans: &[Arc<MappingPlan>],
) -> Result<Vec<Mirror>> {
    let Some(reverse) = context.reverse.as_ref().and_then(|r| r.config()) else {
        return Ok(Vec::new());
    };
    // Its faults are its own flow's business.
    let theirs = start::plan(&reverse, &*context.target, &*context.source, true).await?;
    let mut mirrors = mirrors_of(plans, &theirs.mappings, &reverse.name);
    // Of one that cannot be planned nobody knows which columns it writes: it is taken to write ours.
    for (name, _) in &theirs.failed {
        let Some(config) = reverse.mappings.iter().find(|m| is_named(m, name)) else { continue };
        let reads =
            |table: &TableName| is_of(&config.from, table, context.target.default_schema(), name);
        let writes =
            |table: &TableName| is_of(&config.to, table, context.source.default_schema(), name);
        for plan in plans.iter().filter(|p| reads(&p.target.name) && writes(&p.source)) {
            mirrors.push(Mirror {
                ours: plan.name.clone(),
                flow: reverse.name.clone(),
                theirs: name.as_str().into(),
                snapshot: config.snapshot,
            });
        }
    }
    Ok(mirrors)
}

/// The mappings of a flow that read a table of its source: its rows, or those of a view that is made of it.
pub fn readers(flow: &FlowConfig, table: &TableName, source: &dyn Connector) -> Vec<String> {
    let schema = source.default_schema();
    let reads = |mapping: &MappingConfig| {
        let name = match mapping.from.table {
            TablePattern::All => &table.name,
            TablePattern::Exact(_) => &mapping.name,
        };
        let is_excluded = || mapping.exclude.iter().any(|pattern| like(pattern, &table.name));
        let from = is_of(&mapping.from, table, schema, name) && !is_excluded();
        let tracks = mapping.tracks.iter().any(|t| is_of(&t.table, table, schema, name));
        (from || tracks).then(|| name.clone())
    };
    flow.mappings.iter().filter_map(reads).collect()
}

/// Whether a mapping of this name comes of what the file says here: a wildcard's are named after their tables.
fn is_named(mapping: &MappingConfig, name: &str) -> bool {
    mapping.name == name || mapping.from.table == TablePattern::All
}

/// Whether a table is what the file names, of a mapping of this name.
fn is_of(named: &TableRef, table: &TableName, schema: &str, mapping: &str) -> bool {
    let is_table = match &named.table {
        TablePattern::Exact(name) => *name == table.name,
        TablePattern::All => table.name == mapping,
    };
    is_table && named.schema.as_deref().unwrap_or(schema) == table.schema
}

/// Our mappings that write the same columns as mappings of the other flow do the other way round.
pub fn mirrors_of(
    ours: &[Arc<MappingPlan>],
    theirs: &[Arc<MappingPlan>],
    flow: &str,
) -> Vec<Mirror> {
    let found = mirrored(ours, theirs).into_iter().filter_map(|(i, j)| {
        let (ours, theirs) = (ours.get(i)?, theirs.get(j)?);
        Some(Mirror {
            ours: ours.name.clone(),
            flow: flow.to_owned(),
            theirs: theirs.name.clone(),
            snapshot: theirs.snapshot,
        })
    });
    found.collect()
}

/// A copy that has just begun.
pub fn copy_row(context: &FlowContext, mapping: &str, reason: CopyReason) -> CopyRow {
    CopyRow {
        pipeline: context.pipeline.clone(),
        flow: context.config.name.clone(),
        mapping: mapping.to_owned(),
        reason,
        phase: CopyPhase::Rows,
        sweep: reason == CopyReason::Resync,
        cursor: String::new(),
        filter: String::new(),
        columns: String::new(),
        rows_done: 0,
        rows_total: 0,
        started_micros: crate::apply::now_micros(),
        finished_micros: 0,
    }
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
                // Of a view the keys that are there are read, and so what left it must be looked for at the target.
                let reason = match plan.view {
                    Some(_) => CopyReason::Resync,
                    None => CopyReason::Backfill,
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
            tables.ask(plan, if new { Asked::Joins } else { Asked::Follows });
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
        CopyPhase::Done => row.finished_micros.max(row.started_micros),
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

/// What was found of a mapping besides its plan.
struct Found<'a> {
    /// What its source table is now.
    shape: String,
    /// What the tables are now that it follows beside it.
    beside: Vec<(shapes::Watched, String)>,
    /// Whether the other direction writes the same columns.
    two_way: bool,
    /// The mapping of the other direction that does.
    mirror: Option<&'a Mirror>,
    /// Whether the table was away.
    returns: bool,
    /// An error for which it was to stop.
    drift: Option<&'a MappingStop>,
}

/// What comes of comparing a mapping with what it was.
enum Compared {
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
async fn compare(
    context: &FlowContext,
    plan: &MappingPlan,
    found: Found<'_>,
    row: &mut CopyRow,
) -> Result<Compared> {
    let before: Option<Columns> = serde_json::from_str(&row.columns).ok();
    let mut now = Columns::of(plan, &found, before.as_ref());
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
    if plan.view.is_some() && before.rule != now.rule {
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
    if before.rule != now.rule && !anew && is_stored {
        let note = format!(
            "the mapping's columns or conditions changed: rows from before are as they were; `tidelock resync {}` makes them what it says now",
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

/// Adds at the target what came at the source, where the configuration says so; tells whether anything
/// was added. Never where the target is read by the other direction: schema changes stay on their side there.
pub(super) async fn add_columns(context: &FlowContext, plans: &[Arc<MappingPlan>]) -> Result<bool> {
    let wants = |p: &&Arc<MappingPlan>| {
        p.schema_changes == SchemaChanges::Add
            && !p.unmapped.is_empty()
            && context.reverse.is_none()
    };
    let wanting: Vec<&Arc<MappingPlan>> = plans.iter().filter(wants).collect();
    if wanting.is_empty() {
        return Ok(false);
    }
    let rows = context.target.read_copies(&context.pipeline).await?;
    let mut added = false;
    for plan in wanting {
        let row = rows.iter().find(|r| r.flow == context.config.name && *r.mapping == *plan.name);
        let before = row.and_then(|r| serde_json::from_str::<Columns>(&r.columns).ok());
        let Some(left) = before.and_then(|b| b.left) else { continue };
        for column in plan.unmapped.iter().filter(|c| !left.contains(&c.name)) {
            let Ok((statements, limits)) = added_column(context, plan, column).await? else {
                // Noted with the reason.
                continue;
            };
            let limits: Vec<String> =
                limits.into_iter().map(|l| format!(" ({})", l.text)).collect();
            let (flow, mapping) = (&context.config.name, &plan.name);
            let mut all = true;
            for sql in statements {
                match context.target.run_ddl(&sql).await {
                    Ok(()) => {
                        tracing::warn!(%flow, %mapping, "a column came at the source: {sql}{}", limits.concat());
                    }
                    // Noted with the statement, for somebody who may.
                    Err(error) if error.kind() != ErrorKind::Transient => {
                        tracing::warn!(%flow, %mapping, code = %error.code(), %error, "a column that came at the source was not added");
                        all = false;
                        break;
                    }
                    Err(error) => return Err(error.at(&context.config.target)),
                }
            }
            added |= all;
        }
    }
    Ok(added)
}

/// What a person should know of a mapping.
async fn notes(
    context: &FlowContext,
    plan: &MappingPlan,
    columns: &Columns,
) -> Result<Vec<String>> {
    let mut notes = columns.notes.clone();
    for column in plan.unmapped.iter().filter(|c| columns.came.contains(&c.name)) {
        notes.push(unmapped_note(context, plan, column).await?);
    }
    Ok(notes)
}

/// What to say of a column that came at the source and that the target lacks.
async fn unmapped_note(
    context: &FlowContext,
    plan: &MappingPlan,
    column: &Column,
) -> Result<String> {
    let cure = match added_column(context, plan, column).await? {
        Ok((sql, _)) => format!("to take it up, run at the target: {}", sql.join(" ")),
        Err(why) => format!("to take it up, add it at the target ({why})"),
    };
    Ok(format!("{}.{} ({}) is not at the target; {cure}", plan.source, column.name, column.native))
}

/// The statements that add a column of the source at the target, and what is to be known of it there; why there
/// are none.
async fn added_column(
    context: &FlowContext,
    plan: &MappingPlan,
    column: &Column,
) -> Result<std::result::Result<(Vec<String>, Vec<Note>), String>> {
    let schema = plan.target.name.schema.clone();
    let at = |e: Error| e.at(&context.config.target);
    let mut dialect = context.target.dialect(&[schema]).await.map_err(at)?;
    let new = NewColumn { name: column.name.clone(), from: column.clone() };
    Ok(dialect.add_column(&plan.target.name, &new, plan.same_family).map_err(|refused| refused.why))
}

/// Looks whether a mapping could be copied so, before it is written down.
pub async fn try_copy(context: &FlowContext, row: &CopyRow) -> Result<()> {
    let outcome =
        start::plan(&context.config, &*context.source, &*context.target, context.target_is_read)
            .await?;
    let Some(plan) = outcome.mappings.iter().find(|p| *p.name == row.mapping) else {
        start::refuse_problems(&outcome.findings)?;
        return Err(Error::setup(
            Code::Catalog,
            format!("mapping {} cannot be planned", row.mapping),
        ));
    };
    let job = job(context, plan, row.clone())?;
    context.source.copier().await?.bound(&job.table, None, 1).await.map(drop)
}

fn job(context: &FlowContext, plan: &MappingPlan, mut row: CopyRow) -> Result<Job> {
    let Some(mut table) = plan.copy.clone() else {
        return Err(Error::setup(
            Code::Catalog,
            format!(
                "mapping {}: {} has no key by which it could be copied",
                plan.name, plan.source
            ),
        )
        .with_hint("give it a primary key that its replica identity holds"));
    };
    // Where the mapping keeps what the source deletes, rows that only the target has are meant to be there.
    row.sweep &= match &plan.rows.end {
        EndPlan::Delete => true,
        // Of a view, what is remembered tells which rows are to be marked.
        EndPlan::Set(_) => plan.view.is_none() && row::marks_alone(plan),
        EndPlan::Ignore => false,
    };
    // Of a view whose keys do not lead back, what is remembered tells which rows were sent and are gone.
    row.sweep &= plan.view.is_none() || crate::copy::leads_back(plan);
    table.filter = Some(row.filter.clone()).filter(|f| !f.is_empty());
    let alike = plan.copy_key_types.iter().all(|t| context.source.orders_alike(t));
    // Lines hold what the target's columns hold, in their order, and nothing else.
    let as_lines = plan.as_lines && plan.sources().as_ref() == Some(&table.columns);
    // A row may point to one of another part that is not there yet.
    let splits =
        table.filter.is_none() && !plan.before.contains(&plan.target.name) && plan.view.is_none();
    // Of a view the keys are read, and then the rows of those keys.
    let by_key = plan.view.is_some();
    if by_key {
        table.columns.clone_from(&table.key);
    }
    row.sweep &= plan.call.is_none();
    Ok(Job { mapping: plan.name.clone(), table, alike, as_lines, splits, by_key, row })
}

/// A mapping met for the first time. `started_micros` 0 says: followed from here on without a copy.
async fn unknown(
    context: &FlowContext,
    plan: &MappingPlan,
    mirror: Option<&Mirror>,
) -> Result<CopyRow> {
    let first = copy_row(context, &plan.name, CopyReason::Initial);
    let followed = CopyRow { phase: CopyPhase::Done, started_micros: 0, ..first.clone() };
    match (plan.snapshot, mirror) {
        (SnapshotMode::Initial, Some(mirror)) if mirror.snapshot == SnapshotMode::Initial => {
            if is_empty(context, plan).await? {
                return Ok(followed);
            }
            Err(both_initial(&plan.name, mirror))
        }
        (SnapshotMode::Initial, _) => {
            // Of a mapping of this name that was before. What is followed from here on is remembered for good, also before the first piece.
            let (pipeline, flow) = (&context.pipeline, &context.config.name);
            context.target.forget_memory(pipeline, flow, &plan.name).await?;
            context.target.write_copy(&first).await?;
            Ok(first)
        }
        (SnapshotMode::Never, Some(mirror)) if mirror.snapshot == SnapshotMode::Initial => {
            let rows = context.source.read_copies(&context.pipeline).await;
            let rows = rows.map_err(|e| e.of(Side::Source))?;
            let ended = rows.iter().any(|r| {
                r.flow == mirror.flow && *r.mapping == *mirror.theirs && r.phase == CopyPhase::Done
            });
            if ended {
                return Ok(followed);
            }
            let held = CopyRow { phase: CopyPhase::Held, ..first };
            context.target.write_copy(&held).await?;
            Ok(held)
        }
        (SnapshotMode::Never, _) => Ok(followed),
    }
}

/// Takes note that the configuration does not have a mapping any more: its history goes on without us.
async fn leave(context: &FlowContext, row: CopyRow) -> Result<()> {
    match row.phase {
        CopyPhase::Left => Ok(()),
        // It has brought nothing.
        CopyPhase::Held => {
            context.target.clear_copy(&context.pipeline, &row.flow, &row.mapping).await
        }
        CopyPhase::Rows | CopyPhase::Sweep | CopyPhase::Done => {
            let row = CopyRow { phase: CopyPhase::Left, cursor: String::new(), ..row };
            context.target.write_copy(&row).await
        }
    }
}

/// A mapping that was taken out of the configuration and is there again. If it is still one of the same tables, what it brought is compared, so that what
/// the source has deleted meanwhile goes, too. Where the other direction writes the same columns, rows that only the target has may be its own, and stay.
async fn again(
    context: &FlowContext,
    plan: &MappingPlan,
    mirror: Option<&Mirror>,
    left: &CopyRow,
) -> Result<CopyRow> {
    let row = unknown(context, plan, mirror).await?;
    let before: Columns = serde_json::from_str(&left.columns).unwrap_or_default();
    let from =
        before.table.is_some_and(|(schema, name)| plan.source == TableName::new(schema, name));
    let same = from && before.to.is_some_and(|to| to == plan.target.name.to_string());
    if row.phase != CopyPhase::Rows || mirror.is_some() || !same {
        return Ok(row);
    }
    tracing::warn!(flow = %context.config.name, mapping = %plan.name,
        "the mapping is in the configuration again: its rows are compared with the source, and those that are gone there are removed");
    let row = copy_row(context, &plan.name, CopyReason::Resync);
    context.target.write_copy(&row).await?;
    Ok(row)
}

/// Two first copies that would swap values.
pub fn both_initial(ours: &str, mirror: &Mirror) -> Error {
    Error::setup(
        Code::Catalog,
        format!(
            "mapping {ours} and mapping {} of flow {} copy the same columns into each other",
            mirror.theirs, mirror.flow
        ),
    )
    .with_hint(
        "set snapshot = \"never\" for the side whose rows are to be overwritten by the other's",
    )
}

async fn is_empty(context: &FlowContext, plan: &MappingPlan) -> Result<bool> {
    let Some(table) = &plan.copy else { return Ok(false) };
    let source = |e: Error| e.of(Side::Source);
    let mut copier = context.source.copier().await.map_err(source)?;
    let first = copier.bound(table, None, 1).await.map_err(source)?;
    Ok(first.is_none())
}
