//! From nothing to a position: what an attempt needs before it can stream.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{
    Code, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, Finding, Lease, Look, OpenSink,
    PROGRESS_TABLE, Position, Progress, Result, Routine, SNAPSHOT_TABLE, Scope, Severity,
    ShapeChange, Side, SinkSpec, SourceSpec, SourceTable, StateRow, SystemId, Table, TableName,
    comparable,
};

use super::attempt::MappingStop;
use super::copies::{self, Copies, Mirror};
use super::{FlowContext, names};
use crate::checkpoint::FlowRecord;
use crate::config::{FlowConfig, TableRef};
use crate::mapping::plan::{Catalog, Catalogs, parents_first};
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
    /// The mappings that cannot run, and why.
    pub failed: Vec<(String, Finding)>,
    /// The mappings of the other direction that write the same columns: ours, and flow and name of
    /// theirs with the way they are copied.
    pub mirrors: Vec<Mirror>,
    /// What the source's tables were before the mappings were planned.
    pub look: Look,
    /// The source tables that are not there, by mapping.
    pub gone: HashMap<String, TableName>,
    /// What is wrong, if no mapping is left and none of them lost its table.
    pub hopeless: Vec<Finding>,
    /// Tables of wildcards that have no usable key, by the names of their mappings.
    pub keyless: Vec<(String, TableName)>,
    /// Tables that are left out because a mapping of another table has their name, with that.
    pub namesakes: Vec<(String, TableName)>,
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

/// What the catalogs of both ends show of a flow.
#[derive(Debug, Default)]
pub struct Seen {
    /// The source's tables and views.
    pub source: Vec<Table>,
    /// The target's tables.
    pub target: Vec<Table>,
    /// The target's routines, where mappings call some.
    pub routines: Vec<Routine>,
}

/// Reads both catalogs and compiles the flow's mappings.
pub async fn plan(
    config: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    target_is_read: bool,
) -> Result<PlanOutcome> {
    Ok(plan_seen(config, source, target, target_is_read).await?.0)
}

/// As [`plan`], with what the catalogs showed.
pub async fn plan_seen(
    config: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    target_is_read: bool,
) -> Result<(PlanOutcome, Seen)> {
    plan_owned(config, source, target, target_is_read, &HashMap::new()).await
}

/// The same for a flow that has run: `owners` tells whose rows its mappings have brought.
async fn plan_owned(
    config: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    target_is_read: bool,
    owners: &HashMap<String, TableName>,
) -> Result<(PlanOutcome, Seen)> {
    let too_long = names::too_long(config, source.identifier_max(), target.identifier_max());
    if !too_long.is_empty() {
        let outcome = PlanOutcome { findings: too_long, ..PlanOutcome::default() };
        return Ok((outcome, Seen::default()));
    }
    let seen = see(config, source, target).await?;
    let mut outcome = plan_flow(
        config,
        &Catalogs {
            source: &Catalog::new(&seen.source),
            target: &Catalog::new(&seen.target),
            routines: &seen.routines,
            source_schema: source.default_schema(),
            target_schema: target.default_schema(),
            source_system: source,
            target_system: target,
            same_family: source.family() == target.family(),
            two_way: target_is_read,
            owners,
        },
    );
    outcome.findings.extend(names::shared(config, &outcome));
    judge_queries(source, &mut outcome).await.map_err(of_source)?;
    Ok((outcome, seen))
}

fn of_source(error: Error) -> Error {
    error.of(Side::Source)
}

async fn see(config: &FlowConfig, source: &dyn Connector, target: &dyn Connector) -> Result<Seen> {
    let source_tables: Vec<Table> = source
        .catalog(&schemas(config.read(), source.default_schema()))
        .await
        .map_err(of_source)?;
    let looked_up = config.looked_up();
    let written = config.mappings.iter().map(|m| &m.to).chain(&looked_up);
    let target_tables: Vec<Table> =
        target.catalog(&schemas(written, target.default_schema())).await?;
    let called: Vec<&TableRef> = config
        .mappings
        .iter()
        .filter_map(|m| Some((&m.to, m.call.as_ref()?)))
        .flat_map(|(to, call)| {
            std::iter::once(to).chain(call.delete.as_ref().map(|(delete, _)| delete))
        })
        .collect();
    let routines = match called.is_empty() {
        true => Vec::new(),
        false => target.routines(&schemas(called.into_iter(), target.default_schema())).await?,
    };
    Ok(Seen { source: source_tables, target: target_tables, routines })
}

/// Has the source look at the queries of tracks: what it refuses, and what gives no keys of the view, stops its mapping.
async fn judge_queries(source: &dyn Connector, outcome: &mut PlanOutcome) -> Result<()> {
    let mut faults: Vec<(String, Finding)> = Vec::new();
    for plan in &outcome.mappings {
        let Some(view) = &plan.view else { continue };
        for (query, (text, parameters)) in view.queries.iter().zip(&view.parameters) {
            let wrong = match source.describe_query(query, parameters).await {
                Err(error) if error.kind() == ErrorKind::Data => Some(error.message().to_owned()),
                Err(error) => return Err(error),
                Ok(columns) if columns.len() != view.by.len() => Some(format!(
                    "it gives {} columns, and the view's key has {}: select ({})",
                    columns.len(),
                    view.by.len(),
                    view.by.join(", ")
                )),
                Ok(columns) => columns
                    .iter()
                    .zip(&view.by_types)
                    .find(|(column, to)| !comparable(&column.data_type, to))
                    .map(|(column, _)| {
                        format!(
                            "its column {} has no values in common with the view's key",
                            column.name
                        )
                    }),
            };
            if let Some(words) = wrong {
                let finding = Finding::problem(format!("mapping {}: keys: {words}", plan.name))
                    .place(text.place.show());
                faults.push((plan.name.to_string(), finding));
            }
        }
    }
    for (name, finding) in faults {
        outcome.mappings.retain(|p| *p.name != *name);
        outcome.findings.push(finding.clone());
        outcome.failed.push((name, finding));
    }
    Ok(())
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
        tables: source_tables(plans),
        start_at: None,
        identity: history.to_owned(),
    }
}

/// The tables of these mappings, each once with what all of its mappings read.
fn source_tables(plans: &[Arc<MappingPlan>]) -> Vec<SourceTable> {
    let mut tables: Vec<SourceTable> = Vec::with_capacity(plans.len());
    let mut known: HashMap<TableName, usize> = HashMap::new();
    for table in plans.iter().flat_map(|plan| plan.source_tables()) {
        let Some(before) = known.get(&table.name).and_then(|at| tables.get_mut(*at)) else {
            known.insert(table.name.clone(), tables.len());
            tables.push(table);
            continue;
        };
        let unite = |into: &mut Vec<String>, more: Vec<String>| {
            for column in more {
                if !into.contains(&column) {
                    into.push(column);
                }
            }
        };
        unite(&mut before.columns, table.columns);
        unite(&mut before.key_columns, table.key_columns);
    }
    tables
}

/// Identifies both systems and compiles the mappings; refuses what no attempt could mend.
pub async fn systems(context: &FlowContext) -> Result<Systems> {
    let (source, target) = (&*context.source, &*context.target);
    let source_id =
        source.ensure_meta().await.map_err(|e| e.at(&context.config.source).of(Side::Source))?;
    let target_id = target.ensure_meta().await.map_err(|e| e.at(&context.config.target))?;
    if source_id == target_id {
        return Err(Error::setup(
            Code::SameDatabase,
            format!("systems {} and {} are one and the same database", context.config.source, context.config.target),
        )
        .with_hint("if one is a copy of the other, delete the row of table `system` in the copy's meta schema and start again"));
    }
    let identity =
        source.identify().await.map_err(|e| e.at(&context.config.source).of(Side::Source))?;
    // Before the catalogs: what is altered in between is then met as a change.
    let read = schemas(context.config.read(), source.default_schema());
    let look = source
        .look(Scope::Schemas(&read), &context.config.publication)
        .await
        .map_err(|e| e.at(&context.config.source).of(Side::Source))?;
    let owners = copies::owners(context).await?;
    let (config, read) = (&*context.config, context.target_is_read);
    let mut outcome = plan_owned(config, source, target, read, &owners).await?.0;
    if copies::add_columns(context, &outcome.mappings).await? {
        outcome = plan_owned(config, source, target, read, &owners).await?.0;
    }
    // Whatever else there is: mappings that cannot be told apart must not run.
    refuse_problems(&names::shared(config, &outcome))?;
    if outcome.failed.is_empty() {
        refuse_problems(&outcome.findings)?;
    }
    let gone = |name: &str| {
        outcome.unseen.iter().any(|u| !u.target && u.table.is_some() && u.mapping == name)
    };
    let hopeless = match outcome.failed.iter().all(|(name, _)| gone(name)) {
        false if outcome.mappings.is_empty() => outcome.findings.clone(),
        true | false => Vec::new(),
    };
    let failed = outcome.failed.iter().map(|(name, _)| name.as_str());
    context.shared.set_mappings(outcome.mappings.iter().map(|p| &*p.name).chain(failed));
    let plans = parents_first(&outcome.mappings);
    let mirrors = copies::mirrors(context, &plans).await?;
    Ok(Systems {
        source_id,
        target_id,
        source_history: identity.history,
        plans,
        failed: outcome.failed,
        mirrors,
        look,
        hopeless,
        keyless: outcome.keyless,
        namesakes: outcome.namesakes,
        gone: outcome
            .unseen
            .into_iter()
            .filter(|unseen| !unseen.target)
            .filter_map(|unseen| {
                Some((unseen.mapping, TableName::new(unseen.schema, unseen.table?)))
            })
            .collect(),
    })
}

pub(super) fn refuse_problems(findings: &[Finding]) -> Result<()> {
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

/// Whose sessions at the target ours are.
pub fn sink_spec(context: &FlowContext, systems: &Systems) -> SinkSpec {
    SinkSpec {
        pipeline: context.pipeline.clone(),
        flow: context.config.name.clone(),
        holder: context.holder.clone(),
        config_hash: context.config_hash.clone(),
        tables: written(&systems.plans),
        routines: called(&systems.plans),
        lookups: looked_up(&systems.plans),
    }
}

/// The tables that these mappings write.
pub fn written(plans: &[Arc<MappingPlan>]) -> Vec<TableName> {
    plans.iter().filter(|p| p.call.is_none()).map(|p| p.target.name.clone()).collect()
}

/// The tables that these mappings look values up in, and whether they insert what is missing.
pub fn looked_up(plans: &[Arc<MappingPlan>]) -> Vec<(TableName, bool)> {
    let mut tables: Vec<(TableName, bool)> = Vec::new();
    let all = plans.iter().flat_map(|plan| {
        let read = plan.lookups.tables().map(|table| (table, false));
        read.chain(plan.lookups.inserted().map(|table| (table, true)))
    });
    for (table, inserts) in all {
        match tables.iter_mut().find(|(known, _)| known == table) {
            Some((_, known)) => *known |= inserts,
            None => tables.push((table.clone(), inserts)),
        }
    }
    tables
}

/// The routines that these mappings call.
pub fn called(plans: &[Arc<MappingPlan>]) -> Vec<TableName> {
    let calls = plans.iter().filter_map(|p| p.call.as_ref());
    calls
        .flat_map(|call| {
            std::iter::once(&call.call).chain(call.delete.as_ref().map(|(delete, _)| delete))
        })
        .map(|routine| routine.name.clone())
        .collect()
}

/// Takes the lease and finds or makes the position.
pub async fn start(
    context: &FlowContext,
    systems: &mut Systems,
    stop: Option<&MappingStop>,
) -> Result<Started> {
    let sink_spec = sink_spec(context, systems);
    let mut spec =
        source_spec(&context.pipeline, &context.config, &systems.plans, &systems.source_history);
    for table in &mut spec.tables {
        table.shape = systems.look.shapes.get(&table.name).cloned().unwrap_or_default();
    }
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
            // What the servers changed stops mappings, be they all of them, and the flow's position moves on. A file in
            // which nothing fits is for a person to mend.
            if progress.config_hash != context.config_hash {
                refuse_problems(&systems.hopeless)?;
            }
            spec.identity.clone_from(&progress.source_identity);
            progress
        }
        None => {
            // A flow that never ran begins whole or not at all.
            let problems: Vec<Finding> = systems.failed.iter().map(|(_, f)| f.clone()).collect();
            refuse_problems(&problems)?;
            let progress =
                first_start(context, systems, &mut spec, &mut open, remembered.as_ref()).await?;
            look_again(context, &mut systems.look, &mut spec).await?;
            progress
        }
    };
    let states = context.target.read_states(&context.pipeline).await?;
    let mut states: Vec<StateRow> =
        states.into_iter().filter(|s| s.flow == context.config.name).collect();
    let copies = copies::copies(context, systems, &mut spec, &mut states, stop).await?;
    Ok(Started::Ready(Box::new(Ready { open, progress, spec, states, rewound, copies })))
}

/// When the tables of a new flow were looked at, what hands their changes over (a publication) may not have been there. What it says is part of what
/// they are, and must be on record from the beginning: what is altered later is met as a change, and copies read nothing before the log has
/// passed this look. Whatever else has come of a table since it was planned is met as a change of what it was then.
async fn look_again(context: &FlowContext, look: &mut Look, spec: &mut SourceSpec) -> Result<()> {
    let source = &*context.source;
    if source.logs_schema_changes() {
        return Ok(());
    }
    let names: Vec<TableName> = spec.tables.iter().map(|table| table.name.clone()).collect();
    let mut now = source
        .look(Scope::Tables(&names), &context.config.publication)
        .await
        .map_err(|e| e.at(&context.config.source).of(Side::Source))?;
    look.at = now.at;
    for table in &mut spec.tables {
        let Some(shape) = now.shapes.remove(&table.name) else { continue };
        let columns: Vec<String> =
            table.columns.iter().chain(&table.key_columns).cloned().collect();
        if source.shape_change(&table.shape, &shape, &columns) == ShapeChange::Same {
            table.shape.clone_from(&shape);
            look.shapes.insert(table.name.clone(), shape);
        }
    }
    Ok(())
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
        .map_err(|e| e.at(&context.config.source).of(Side::Source))?;
    if spec.start_at.is_some() {
        // The rows were copied by other means, as of that position.
        for plan in &systems.plans {
            let row = copies::copy_row(context, &plan.name, CopyReason::Initial);
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
