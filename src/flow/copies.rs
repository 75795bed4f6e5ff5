//! What of a flow is copied already, what is not, and what must stop because the tables no longer are
//! what they were when it was.
//!
//! **Columns are remembered.** Which columns are mapped follows, without a list in the file, from both
//! catalogs, so a column that was dropped or renamed would silently drop out of the mapping at the next
//! start. The columns therefore stand beside the copy: one that is missing now, though the file did not
//! change, stops the mapping. One that is new is brought by a backfill, as rows from before it would
//! keep another value; where the other direction maps it too, nobody can say whose value it is, and it
//! is only told.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidelock_core::{Code, CopyPhase, CopyReason, CopyRow, Error, Result, SourceSpec, StateRow};

use super::FlowContext;
use super::start::{self, Systems};
use crate::config::{OnDelete, SnapshotMode};
use crate::copy::Job;
use crate::mapping::MappingPlan;
use crate::mapping::plan::mirrored;

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
}

/// The columns of a mapping, as they stand beside its copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Columns {
    rule: String,
    pairs: Vec<(String, String)>,
}

impl Columns {
    fn of(plan: &MappingPlan) -> Columns {
        let targets = plan.target.columns.iter().map(|c| c.name.clone());
        Columns {
            rule: plan.rule.clone(),
            pairs: plan.sources.iter().cloned().zip(targets).collect(),
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
    let Some((_, reverse)) = &context.reverse else { return Ok(Vec::new()) };
    // Its faults are its own flow's business.
    let theirs = start::plan(reverse, &*context.target, &*context.source, true).await?.mappings;
    Ok(mirrors_of(plans, &theirs, &reverse.name))
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
/// longer has is forgotten: its history goes on without us, so if it comes back it is copied anew.
pub(super) async fn copies(
    context: &FlowContext,
    systems: &Systems,
    spec: &mut SourceSpec,
    states: &mut Vec<StateRow>,
) -> Result<Copies> {
    let flow = &context.config.name;
    let mut known: HashMap<String, CopyRow> = HashMap::new();
    for row in context.target.read_copies(&context.pipeline).await? {
        if row.flow != *flow {
            continue;
        }
        let failed = systems.failed.iter().any(|(name, _)| *name == row.mapping);
        if failed || systems.plans.iter().any(|p| *p.name == row.mapping) {
            known.insert(row.mapping.clone(), row);
        } else {
            context.target.clear_copy(&context.pipeline, flow, &row.mapping).await?;
        }
    }
    let mut copies = Copies::default();
    for (name, finding) in &systems.failed {
        let error = Error::data(Code::SchemaDrift, finding.message.clone())
            .with_hint(format!("mend it as `tidelock check` says, then `tidelock resync {name}`"));
        copies.faults.push((name.clone(), error));
    }
    for plan in &systems.plans {
        let mirror = systems.mirrors.iter().find(|m| m.ours == plan.name);
        let mut row = match known.remove(&*plan.name) {
            Some(row) => row,
            None => {
                // One that could not even be planned when it first came, and is mended now.
                if states.iter().any(|s| *s.mapping == *plan.name) {
                    context.target.clear_state(&context.pipeline, flow, &plan.name).await?;
                    states.retain(|s| *s.mapping != *plan.name);
                }
                unknown(context, plan, mirror).await?
            }
        };
        if let Some(error) = compare_columns(context, plan, mirror.is_some(), &mut row).await? {
            copies.faults.push((plan.name.to_string(), error));
            continue;
        }
        let fresh = row.cursor.is_empty() && row.rows_done == 0 && row.phase != CopyPhase::Sweep;
        let new = fresh
            && row.reason != CopyReason::Backfill
            && (row.phase != CopyPhase::Done || row.started_micros == 0);
        if let Some(table) = spec.tables.iter_mut().find(|t| t.name == plan.source) {
            table.joins = new;
        }
        if row.phase == CopyPhase::Held
            && let Some(mirror) = mirror
        {
            copies
                .held_for
                .insert((mirror.flow.clone(), mirror.theirs.to_string()), plan.name.to_string());
        }
        context.shared.show_copy(&plan.name, &row);
        if row.phase == CopyPhase::Done {
            if row.started_micros == 0 {
                copies.settled.push(CopyRow { started_micros: crate::apply::now_micros(), ..row });
            }
            continue;
        }
        copies.jobs.push(job(context, plan, row)?);
    }
    Ok(copies)
}

/// Compares a mapping's columns with those that were copied; a reason to stop it if some are gone.
async fn compare_columns(
    context: &FlowContext,
    plan: &MappingPlan,
    two_way: bool,
    row: &mut CopyRow,
) -> Result<Option<Error>> {
    let now = Columns::of(plan);
    let before: Option<Columns> = serde_json::from_str(&row.columns).ok();
    row.columns = now.encode();
    let Some(before) = before else { return Ok(None) };
    if before == now || row.reason == CopyReason::Resync && row.phase != CopyPhase::Done {
        return Ok(None);
    }
    if let Some((source, target)) = before.without(&now).first() {
        let place = format!("{}.{source} to {}.{target}", plan.source, plan.target.name);
        return Ok(Some(
            Error::data(Code::SchemaDrift, format!("{place}: one of the columns is gone"))
                .with_hint(format!(
                    "put it back, or list the columns in the mapping; then `tidelock resync {}`",
                    plan.name
                )),
        ));
    }
    let new = now.without(&before);
    let names = new.iter().map(|(source, _)| source.as_str()).collect::<Vec<_>>().join(", ");
    if new.is_empty() || row.phase != CopyPhase::Done {
        context.target.write_copy(row).await?;
    } else if two_way || plan.copy.is_none() {
        tracing::warn!(flow = %context.config.name, mapping = %plan.name, columns = %names,
            "new columns are followed from here on; rows from before keep what the target has");
        context.target.write_copy(row).await?;
    } else {
        tracing::warn!(flow = %context.config.name, mapping = %plan.name, columns = %names,
            "new columns are brought by a backfill");
        let columns = std::mem::take(&mut row.columns);
        *row = CopyRow { columns, ..copy_row(context, &plan.name, CopyReason::Backfill) };
        context.target.write_copy(row).await?;
    }
    Ok(None)
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
    row.sweep &= plan.on_delete == OnDelete::Delete;
    table.filter = Some(row.filter.clone()).filter(|f| !f.is_empty());
    let alike = plan.copy_key_types.iter().all(|t| context.source.orders_alike(t));
    // Lines hold what the target's columns hold, in their order, and nothing else.
    let as_lines = plan.as_lines && table.columns == plan.sources;
    Ok(Job { mapping: plan.name.clone(), table, alike, as_lines, row })
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
            context.target.write_copy(&first).await?;
            Ok(first)
        }
        (SnapshotMode::Never, Some(mirror)) if mirror.snapshot == SnapshotMode::Initial => {
            let rows = context.source.read_copies(&context.pipeline).await?;
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
    let mut copier = context.source.copier().await?;
    let first = copier.bound(table, None, 1).await?;
    Ok(first.is_none())
}
