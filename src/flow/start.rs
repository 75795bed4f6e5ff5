//! From nothing to a position: what an attempt needs before it can stream.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{
    Code, CopyPhase, CopyReason, CopyRow, Error, Finding, Lease, OpenSink, PROGRESS_TABLE,
    Position, Progress, Result, SNAPSHOT_TABLE, Severity, SinkSpec, SourceSpec, StateRow, SystemId,
    Table, TableName,
};

use super::{FlowContext, names};
use crate::checkpoint::FlowRecord;
use crate::config::{FlowConfig, SnapshotMode, TableRef};
use crate::copy::Job;
use crate::mapping::plan::{Catalogs, mirrored, parents_first};
use crate::mapping::{MappingPlan, PlanOutcome, plan_flow};
use tidelock_core::Connector;

/// The two systems as an attempt found them.
pub struct Systems {
    /// The source's durable id.
    pub source_id: SystemId,
    /// The target's durable id.
    pub target_id: SystemId,
    /// Server and history of the source.
    pub source_history: String,
    /// The compiled mappings, those that foreign keys point to first.
    pub plans: Vec<Arc<MappingPlan>>,
    /// The mappings of the other direction that write the same columns: ours, and flow and name of
    /// theirs with the way they are copied.
    pub mirrors: Vec<Mirror>,
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

/// A flow that is held and knows where it stands.
pub struct Ready {
    /// The target session.
    pub open: OpenSink,
    /// Where the flow stands.
    pub progress: Progress,
    /// What is read.
    pub spec: SourceSpec,
    /// Lasting states of the flow and its mappings.
    pub states: Vec<StateRow>,
    /// Whether the target is behind what we remember of it.
    pub rewound: bool,
    /// What is to be copied.
    pub copies: Copies,
}

/// What the copies of a flow's mappings come to.
#[derive(Debug, Default)]
pub struct Copies {
    /// Those that have not ended, in the order in which they are made.
    pub jobs: Vec<Job>,
    /// Rows to be written once the stream is open: mappings that are followed without a copy.
    pub settled: Vec<CopyRow>,
    /// Which of our mappings waits for which copy of the other direction.
    pub held_for: HashMap<(String, String), String>,
}

/// What became of the wish to hold the flow.
pub enum Started {
    /// We hold it.
    Ready(Box<Ready>),
    /// Another live process holds it.
    Busy(String),
}

/// The schemas that a flow's mappings name on one side.
pub fn schemas<'a>(
    tables: impl Iterator<Item = &'a TableRef>,
    default_schema: &str,
) -> Vec<String> {
    let mut names: Vec<String> =
        tables.map(|t| t.schema.clone().unwrap_or_else(|| default_schema.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// Reads both catalogs and compiles the flow's mappings.
pub async fn plan(
    config: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    target_is_read: bool,
) -> Result<PlanOutcome> {
    let too_long = names::too_long(config, source.identifier_max(), target.identifier_max());
    if !too_long.is_empty() {
        return Ok(PlanOutcome { findings: too_long, ..PlanOutcome::default() });
    }
    let source_tables: Vec<Table> = source
        .catalog(&schemas(config.mappings.iter().map(|m| &m.from), source.default_schema()))
        .await?;
    let target_tables: Vec<Table> = target
        .catalog(&schemas(config.mappings.iter().map(|m| &m.to), target.default_schema()))
        .await?;
    let mut outcome = plan_flow(
        config,
        &Catalogs {
            source: &source_tables,
            target: &target_tables,
            source_schema: source.default_schema(),
            target_schema: target.default_schema(),
            target_system: target,
            same_family: source.family() == target.family(),
            two_way: target_is_read,
        },
    );
    outcome.findings.extend(names::shared(&outcome));
    Ok(outcome)
}

/// What a source must deliver for these mappings.
pub fn source_spec(
    pipeline: &str,
    config: &FlowConfig,
    plans: &[Arc<MappingPlan>],
    history: &str,
) -> SourceSpec {
    SourceSpec {
        pipeline: pipeline.to_owned(),
        flow: config.name.clone(),
        slot: config.slot.clone(),
        publication: config.publication.clone(),
        tables: plans.iter().map(|p| p.source_table()).collect(),
        start_at: None,
        identity: history.to_owned(),
    }
}

/// Identifies both systems and compiles the mappings; refuses what no attempt could mend.
pub async fn systems(context: &FlowContext) -> Result<Systems> {
    let (source, target) = (&*context.source, &*context.target);
    let source_id = source.ensure_meta().await.map_err(|e| e.at(&context.config.source))?;
    let target_id = target.ensure_meta().await.map_err(|e| e.at(&context.config.target))?;
    if source_id == target_id {
        return Err(Error::setup(
            Code::SameDatabase,
            format!("systems {} and {} are one and the same database", context.config.source, context.config.target),
        )
        .with_hint("if one is a copy of the other, delete the row of table `system` in the copy's meta schema and start again"));
    }
    let identity = source.identify().await.map_err(|e| e.at(&context.config.source))?;
    let outcome = plan(&context.config, source, target, context.target_is_read).await?;
    refuse_problems(&outcome.findings)?;
    context.shared.set_mappings(outcome.mappings.iter().map(|p| &*p.name));
    let plans = parents_first(&outcome.mappings);
    let mirrors = mirrors(context, &plans).await?;
    Ok(Systems { source_id, target_id, source_history: identity.history, plans, mirrors })
}

/// The mappings of the other direction that write the same columns.
async fn mirrors(context: &FlowContext, plans: &[Arc<MappingPlan>]) -> Result<Vec<Mirror>> {
    let Some((_, reverse)) = &context.reverse else { return Ok(Vec::new()) };
    // Its faults are its own flow's business.
    let theirs = plan(reverse, &*context.target, &*context.source, true).await?.mappings;
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

fn refuse_problems(findings: &[Finding]) -> Result<()> {
    let problems: Vec<&Finding> =
        findings.iter().filter(|f| f.severity == Severity::Problem).collect();
    let Some(first) = problems.first() else { return Ok(()) };
    let more = if problems.len() > 1 {
        format!(" (and {} more)", problems.len() - 1)
    } else {
        String::new()
    };
    Err(Error::setup(Code::Catalog, format!("{}{more}", first.message))
        .with_hint("`tidelock check` shows every problem and the statements that mend it"))
}

/// Takes the lease and finds or makes the position.
pub async fn start(context: &FlowContext, systems: &Systems) -> Result<Started> {
    let sink_spec = SinkSpec {
        pipeline: context.pipeline.clone(),
        flow: context.config.name.clone(),
        holder: context.holder.clone(),
        config_hash: context.config_hash.clone(),
        tables: systems.plans.iter().map(|p| p.target.name.clone()).collect(),
    };
    let mut spec =
        source_spec(&context.pipeline, &context.config, &systems.plans, &systems.source_history);
    let mut open = match context
        .target
        .open_sink(&sink_spec)
        .await
        .map_err(|e| e.at(&context.config.target))?
    {
        Lease::Busy { holder } => return Ok(Started::Busy(holder)),
        Lease::Held(open) => open,
    };
    let remembered = context.checkpoint.load(&context.config.name)?;
    let mut rewound = false;
    let progress = match open.progress.take() {
        Some(progress) => {
            if is_rewound(systems, &progress, remembered.as_ref()) {
                tracing::error!(
                    flow = %context.config.name, target = %progress.position,
                    "the target is behind what it had confirmed: it was restored, or lost commits in a crash; \
                     resuming from the target's position"
                );
                rewound = true;
            }
            spec.identity.clone_from(&progress.source_identity);
            progress
        }
        None => first_start(context, systems, &mut spec, &mut open, remembered.as_ref()).await?,
    };
    let states = context.target.read_states(&context.pipeline).await?;
    let states = states.into_iter().filter(|s| s.flow == context.config.name).collect();
    let copies = copies(context, systems, &mut spec).await?;
    Ok(Started::Ready(Box::new(Ready { open, progress, spec, states, rewound, copies })))
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
        rows_done: 0,
        rows_total: 0,
        started_micros: crate::apply::now_micros(),
        finished_micros: 0,
    }
}

/// What is copied already, what is not, and what is not to be. A mapping that the configuration no
/// longer has is forgotten: its history goes on without us, so if it comes back it is copied anew.
async fn copies(context: &FlowContext, systems: &Systems, spec: &mut SourceSpec) -> Result<Copies> {
    let flow = &context.config.name;
    let mut known: HashMap<String, CopyRow> = HashMap::new();
    for row in context.target.read_copies(&context.pipeline).await? {
        if row.flow != *flow {
            continue;
        }
        if systems.plans.iter().any(|p| *p.name == row.mapping) {
            known.insert(row.mapping.clone(), row);
        } else {
            context.target.clear_copy(&context.pipeline, flow, &row.mapping).await?;
        }
    }
    let mut copies = Copies::default();
    for plan in &systems.plans {
        let mirror = systems.mirrors.iter().find(|m| m.ours == plan.name);
        let row = match known.remove(&*plan.name) {
            Some(row) => row,
            None => unknown(context, plan, mirror).await?,
        };
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

/// Looks whether a mapping could be copied so, before it is written down.
pub async fn try_copy(context: &FlowContext, row: &CopyRow) -> Result<()> {
    let outcome =
        plan(&context.config, &*context.source, &*context.target, context.target_is_read).await?;
    let Some(plan) = outcome.mappings.iter().find(|p| *p.name == row.mapping) else {
        refuse_problems(&outcome.findings)?;
        return Err(Error::setup(
            Code::Catalog,
            format!("mapping {} cannot be planned", row.mapping),
        ));
    };
    let job = job(context, plan, row.clone())?;
    context.source.copier().await?.bound(&job.table, None, 1).await.map(drop)
}

fn job(context: &FlowContext, plan: &MappingPlan, row: CopyRow) -> Result<Job> {
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
    table.filter = Some(row.filter.clone()).filter(|f| !f.is_empty());
    let alike = plan.copy_key_types.iter().all(|t| context.source.orders_alike(t));
    Ok(Job { mapping: plan.name.clone(), table, alike, row })
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
        (SnapshotMode::Initial, _) => Ok(first),
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

/// A target behind what we remember was restored from a backup or lost its tail in a crash. The
/// target's position is what its data match; whether the log still covers it is for the source to
/// prove.
fn is_rewound(systems: &Systems, progress: &Progress, remembered: Option<&FlowRecord>) -> bool {
    remembered.is_some_and(|record| {
        record.target_id == systems.target_id.as_str() && record.seq > progress.seq
    })
}

async fn first_start(
    context: &FlowContext,
    systems: &Systems,
    spec: &mut SourceSpec,
    open: &mut OpenSink,
    remembered: Option<&FlowRecord>,
) -> Result<Progress> {
    let flow = &context.config.name;
    if let Some(record) = remembered {
        return Err(Error::continuity(
            Code::ProgressMissing,
            format!("flow {flow} ran up to {} but its progress row is gone from {}", record.position, context.config.target),
        )
        .with_hint("the target was replaced or emptied; restore it, or `tidelock resync` the flow: new position, compare and patch"));
    }
    spec.start_at = match &context.config.start_at {
        Some(text) => Some(context.source.parse_position(text)?),
        None => None,
    };
    let intent = context.checkpoint.intent(flow)?;
    context.checkpoint.put_intent(flow, &spec.slot)?;
    let position = context
        .source
        .create_stream(spec, intent.as_deref() == Some(&spec.slot))
        .await
        .map_err(|e| e.at(&context.config.source))?;
    if spec.start_at.is_some() {
        // The rows were copied by other means, as of that position.
        for plan in &systems.plans {
            let row = copy_row(context, &plan.name, CopyReason::Initial);
            context.target.write_copy(&CopyRow { phase: CopyPhase::Done, ..row }).await?;
        }
    }
    let progress = Progress {
        pipeline: context.pipeline.clone(),
        flow: flow.clone(),
        epoch: 1,
        seq: 0,
        source_identity: systems.source_history.clone(),
        position,
        config_hash: context.config_hash.clone(),
        source_commit_micros: 0,
    };
    open.sink.create_progress(&progress).await?;
    context.checkpoint.clear_intent(flow)?;
    tracing::info!(flow = %flow, position = %progress.position, "first start");
    Ok(progress)
}

/// The progress table of a system, as a table name.
pub fn progress_table(meta_schema: &str) -> TableName {
    TableName::new(meta_schema, PROGRESS_TABLE)
}

/// The copy table of a system, as a table name.
pub fn snapshot_table(meta_schema: &str) -> TableName {
    TableName::new(meta_schema, SNAPSHOT_TABLE)
}

/// The record that the checkpoint keeps of a commit.
pub fn record(
    progress_epoch: u64,
    seq: u64,
    position: &Position,
    history: &str,
    target_id: &SystemId,
) -> FlowRecord {
    FlowRecord {
        position: position.clone(),
        epoch: progress_epoch,
        seq,
        source_identity: history.to_owned(),
        target_id: target_id.as_str().to_owned(),
        saved_at_ms: crate::apply::now_micros() / 1000,
    }
}
