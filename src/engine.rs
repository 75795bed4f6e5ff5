//! All flows of a pipeline: start, watch, pause, stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidelock_core::{
    Code, Connector, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, Result, StateRow,
    StoredState,
};
use tokio::sync::{MutexGuard, RwLock, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::flow::supervise::supervise;
use crate::flow::{FlowContext, FlowShared, FlowState};
use crate::flow::{copies, start};
use crate::registry;
use crate::status::{self, Failure, PipelineStatus};
use crate::telemetry::lag;

/// How long an answer waits for flows to show what was asked for.
const SHOW: Duration = Duration::from_secs(10);
/// How long an attempt may take to end for what a person asks.
const REST: Duration = Duration::from_secs(60);
/// How often it is told to.
const REST_LOOK: Duration = Duration::from_millis(200);
/// How long a flow may take to commit what is complete when it is asked to stop.
const DRAIN: Duration = Duration::from_secs(25);

/// One running flow, seen from outside.
struct Running {
    context: FlowContext,
    wake: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// A running pipeline.
pub struct Engine {
    name: String,
    state_dir: PathBuf,
    checkpoint: Arc<Checkpoint>,
    flows: RwLock<BTreeMap<String, Running>>,
}

/// A name for us that a person at the target understands.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host} pid {}", std::process::id())
}

/// Opens the checkpoint and says so if it had to be begun anew. One that another process has is waited for so long.
pub fn open_checkpoint(state_dir: &Path, patience: Duration) -> Result<Arc<Checkpoint>> {
    let (checkpoint, aside) = Checkpoint::open_within(state_dir, patience)?;
    if let Some(aside) = aside {
        tracing::error!(moved_to = %aside.display(), "the checkpoint store was damaged and is begun anew; positions come back from the targets");
    }
    Ok(Arc::new(checkpoint))
}

impl Engine {
    /// Makes a pipeline; its flows begin with [`Engine::begin`].
    pub fn new(config: &Config, checkpoint: Arc<Checkpoint>) -> Result<Engine> {
        let flows = contexts(config, &checkpoint, &BTreeMap::new())?
            .into_iter()
            .map(|context| (context.config.name.clone(), Running::idle(context)))
            .collect();
        Ok(Engine {
            name: config.name.clone(),
            state_dir: config.state_dir.clone(),
            checkpoint,
            flows: RwLock::new(flows),
        })
    }

    /// Starts every flow.
    pub async fn begin(&self) {
        for running in self.flows.write().await.values_mut() {
            running.start();
        }
    }

    /// Runs all flows until `stop`; returns when each has drained, or after the deadline.
    pub async fn run(&self, stop: CancellationToken) {
        self.begin().await;
        stop.cancelled().await;
        let mut flows = self.flows.write().await;
        for running in flows.values() {
            running.stop.cancel();
        }
        for running in flows.values_mut() {
            running.end().await;
        }
    }

    /// Takes up a changed configuration: stops flows that are gone or changed, starts those that are
    /// new or changed, and leaves the others alone. Name and state folder cannot change. Tells which
    /// were touched; [`Reloaded::settle`] waits for what they do.
    pub async fn reload(&self, config: &Config) -> Result<Reloaded> {
        if config.name != self.name || config.state_dir != self.state_dir {
            return Err(Error::new(
                ErrorKind::Config,
                Code::Config,
                "name and state_dir cannot change while running",
            )
            .with_hint("restart instead"));
        }
        let mut flows = self.flows.write().await;
        let known = flows.iter().map(|(name, f)| (name.clone(), f.context.shared.clone()));
        let mut wanted: BTreeMap<String, FlowContext> =
            contexts(config, &self.checkpoint, &known.collect())?
                .into_iter()
                .map(|c| (c.config.name.clone(), c))
                .collect();
        for context in wanted.values() {
            context.shared.set_config(context.config.clone());
        }
        let mut touched = Vec::new();
        let mut started = Vec::new();
        let names: Vec<String> = flows.keys().cloned().collect();
        for name in names {
            let same = wanted
                .get(&name)
                .is_some_and(|new| flows.get(&name).is_some_and(|old| old.context.same_as(new)));
            if same {
                wanted.remove(&name);
            } else if let Some(mut old) = flows.remove(&name) {
                old.stop.cancel();
                old.end().await;
                touched.push(name);
            }
        }
        for (name, context) in wanted {
            let mut running = Running::idle(context);
            running.start();
            started.push(running.context.shared.clone());
            if !touched.contains(&name) {
                touched.push(name.clone());
            }
            flows.insert(name, running);
        }
        drop(flows);
        touched.sort();
        let touched = (!touched.is_empty()).then(|| format!("took up {}", touched.join(", ")));
        Ok(Reloaded { done: touched.into_iter().collect(), failed: Vec::new(), started })
    }

    /// Whether every flow streams or is paused by a person.
    pub async fn ready(&self) -> bool {
        let flows = self.flows.read().await;
        flows.values().all(|f| {
            let state = f.context.shared.state().0;
            matches!(state, FlowState::Streaming | FlowState::Snapshotting | FlowState::Paused)
        })
    }

    /// What `status` shows.
    pub async fn status(&self) -> PipelineStatus {
        let flows = self.flows.read().await;
        PipelineStatus {
            name: self.name.clone(),
            flows: flows.values().map(|f| status::of(&f.context.shared)).collect(),
            leftovers: Vec::new(),
        }
    }

    /// What a person means by a name: all flows, one flow, or one mapping (`FLOW/MAPPING` where two
    /// flows have one of that name).
    async fn chosen(&self, name: Option<&str>) -> Result<Vec<Chosen>> {
        let mut all: Vec<Chosen> = Vec::new();
        for running in self.flows.read().await.values() {
            let (context, wake) = (running.context.clone(), running.wake.clone());
            let runs = !running.tasks.is_empty();
            all.push(Chosen { context, wake, runs, mapping: None });
        }
        let Some(name) = name else { return Ok(all) };
        if let Some(at) = all.iter().position(|c| c.context.config.name == name) {
            return Ok(vec![all.swap_remove(at)]);
        }
        let (flow, mapping) = match name.split_once('/') {
            Some((flow, mapping)) if all.iter().any(|c| c.context.config.name == flow) => {
                (Some(flow), mapping)
            }
            _ => (None, name),
        };
        let mut found = Vec::new();
        for chosen in &all {
            if flow.is_none_or(|flow| chosen.context.config.name == flow)
                && mappings(&chosen.context).await?.iter().any(|m| m == mapping)
            {
                found.push(Chosen { mapping: Some(mapping.to_owned()), ..chosen.clone() });
            }
        }
        let flows = || all.iter().map(|c| c.context.config.name.as_str()).collect::<Vec<_>>();
        match found.len() {
            1 => Ok(found),
            0 => Err(Error::new(
                ErrorKind::Config,
                Code::Control,
                format!("there is no flow or mapping {name}"),
            )
            .with_hint(format!("known flows: {}", flows().join(", ")))),
            _ => {
                let names: Vec<String> =
                    found.iter().map(|c| format!("{}/{mapping}", c.context.config.name)).collect();
                Err(Error::new(
                    ErrorKind::Config,
                    Code::Control,
                    format!("more than one flow has a mapping {mapping}"),
                )
                .with_hint(format!("name one: {}", names.join(", "))))
            }
        }
    }

    /// Pauses flows or a mapping, durably: a row at the target first, then the running attempt. Answers
    /// when they show it, or after a bounded time.
    pub async fn pause(&self, name: Option<&str>) -> Result<String> {
        let all = self.chosen(name).await?;
        for chosen in &all {
            let context = &chosen.context;
            let applied = context.shared.applied.borrow().as_ref().map(ToString::to_string);
            let row = StateRow {
                pipeline: context.pipeline.clone(),
                flow: context.config.name.clone(),
                mapping: chosen.mapping.clone().unwrap_or_default(),
                state: StoredState::Paused,
                code: None,
                message: "paused by a person".to_owned(),
                hint: "`tidelock resume` goes on".to_owned(),
                position: applied.unwrap_or_default(),
            };
            context.target.write_state(&row).await?;
        }
        // Only now: each of them reads the rows of all.
        let names: Vec<String> = all.iter().map(Chosen::named).collect();
        let deadline = Instant::now() + SHOW;
        let (mut paused, mut pausing) = (Vec::new(), Vec::new());
        for (chosen, name) in all.iter().zip(names) {
            match !chosen.runs || until(deadline, || chosen.shows_paused()).await {
                true => paused.push(name),
                false => pausing.push(name),
            }
        }
        let words = [("paused", paused), ("pausing", pausing)].map(|(word, names)| {
            if names.is_empty() { String::new() } else { format!("{word} {}", names.join(", ")) }
        });
        Ok(words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join("; "))
    }

    /// Resumes flows: takes the row away, then wakes what waits. A mapping comes back by a resync, as
    /// its changes went by meanwhile.
    pub async fn resume(&self, name: Option<&str>) -> Result<String> {
        let mut names = Vec::new();
        for chosen in self.chosen(name).await? {
            let context = &chosen.context;
            match &chosen.mapping {
                None => {
                    context.target.clear_state(&context.pipeline, &context.config.name, "").await?;
                }
                Some(mapping) => {
                    let states = context.target.read_states(&context.pipeline).await?;
                    let there = states
                        .iter()
                        .any(|s| s.flow == context.config.name && s.mapping == *mapping);
                    if !there {
                        return Err(Error::new(
                            ErrorKind::Config,
                            Code::Control,
                            format!("mapping {mapping} is neither paused nor stopped"),
                        ));
                    }
                    let row = copyable(context, mapping).await?;
                    let _at_rest = chosen.at_rest().await?;
                    rejoin(context, row).await?;
                }
            }
            names.push(chosen.named());
        }
        Ok(format!("resumed {}", names.join(", ")))
    }

    /// Brings a mapping, or a whole flow at a new position, back in step: compares and patches, deletes
    /// included.
    pub async fn resync(&self, name: &str) -> Result<String> {
        let mut names = Vec::new();
        for chosen in self.chosen(Some(name)).await? {
            let context = &chosen.context;
            let mut rows = Vec::new();
            match &chosen.mapping {
                Some(mapping) => rows.push(copyable(context, mapping).await?),
                None => {
                    for mapping in mappings(context).await? {
                        rows.push(copyable(context, &mapping).await?);
                    }
                }
            }
            let runs = context.shared.flows();
            // An attempt that is copying one of them writes down how far it has come, and would write that over this.
            let _at_rest = chosen.at_rest().await?;
            // A whole flow takes a new position, and what is before that is not followed.
            if let (true, Some(mapping)) = (runs, &chosen.mapping)
                && context.shared.mappings().get(mapping).is_some_and(|m| m.is_whole())
            {
                rows.iter_mut().for_each(|row| row.columns = copies::FOLLOWED.to_owned());
            }
            // First what is to be repaired, then the position: whatever happens in between, no
            // position is lost without its repair being on record.
            for row in rows {
                rejoin(context, row).await?;
            }
            match &chosen.mapping {
                Some(_) => {}
                None => {
                    let flow = &context.config.name;
                    context.checkpoint.forget(flow)?;
                    context.checkpoint.put_intent(flow, &context.config.slot)?;
                    context.target.forget_progress(&context.pipeline, flow).await?;
                    context.target.clear_state(&context.pipeline, flow, "").await?;
                }
            }
            tracing::warn!(flow = %context.config.name, mapping = chosen.mapping.as_deref().unwrap_or("all"), "resync asked for by a person");
            names.push(chosen.named());
        }
        Ok(format!("resyncing {}; `tidelock status` shows how far it has come", names.join(", ")))
    }

    /// Reads rows of a mapping again while everything streams.
    pub async fn backfill(&self, name: &str, filter: Option<&str>) -> Result<String> {
        let refuse = |words: String| Err(Error::new(ErrorKind::Config, Code::Control, words));
        let mut names = Vec::new();
        for chosen in self.chosen(Some(name)).await? {
            let context = &chosen.context;
            let flow = &context.config.name;
            let Some(mapping) = &chosen.mapping else {
                return refuse(format!("{name} is a flow; name one of its mappings"));
            };
            let stopped = context.target.read_states(&context.pipeline).await?;
            if stopped.iter().any(|s| s.flow == *flow && s.mapping == *mapping) {
                return refuse(format!(
                    "mapping {mapping} is stopped: `tidelock resync {flow}/{mapping}` brings it back"
                ));
            }
            let copies = context.target.read_copies(&context.pipeline).await?;
            let copy = copies.iter().find(|c| c.flow == *flow && c.mapping == *mapping);
            if copy.is_none_or(|c| c.phase != CopyPhase::Done) {
                return refuse(format!("mapping {mapping} is being copied already"));
            }
            let row = CopyRow {
                filter: filter.unwrap_or_default().to_owned(),
                ..copies::copy_row(context, mapping, CopyReason::Backfill)
            };
            copies::try_copy(context, &row).await?;
            let _at_rest = chosen.at_rest().await?;
            context.target.write_copy(&row).await?;
            names.push(chosen.named());
        }
        Ok(format!("backfilling {}; `tidelock status` shows how far it has come", names.join(", ")))
    }
}

/// A flow, or a mapping of it, that a person means.
#[derive(Clone)]
struct Chosen {
    context: FlowContext,
    wake: watch::Sender<u64>,
    /// Whether this process runs the flow.
    runs: bool,
    mapping: Option<String>,
}

impl Chosen {
    /// Whether it shows as paused.
    fn shows_paused(&self) -> bool {
        let shared = &self.context.shared;
        let whole = shared.state().0 == FlowState::Paused;
        match &self.mapping {
            None => whole,
            Some(mapping) => {
                let own = shared.mappings().get(mapping).map(|m| m.paused.load(Ordering::Relaxed));
                whole || own == Some(true)
            }
        }
    }

    /// Ends the attempt that runs, and keeps the next one from beginning.
    async fn at_rest(&self) -> Result<MutexGuard<'_, ()>> {
        let deadline = Instant::now() + REST;
        let rests = self.context.shared.attempt.lock();
        tokio::pin!(rests);
        loop {
            // One that began only now has not heard the one before.
            self.wake.send_modify(|n| *n += 1);
            tokio::select! {
                biased;
                guard = &mut rests => return Ok(guard),
                () = tokio::time::sleep(REST_LOOK) => {}
            }
            if Instant::now() >= deadline {
                let flow = &self.context.config.name;
                return Err(Error::transient(
                    Code::ServerBusy,
                    format!("flow {flow} does not come to rest: it still waits for a server"),
                )
                .with_hint("try again; `tidelock status` shows how it is"));
            }
        }
    }

    /// Its name; and as what was asked is written by now, wakes the flow.
    fn named(&self) -> String {
        self.wake.send_modify(|n| *n += 1);
        match &self.mapping {
            None => self.context.config.name.clone(),
            Some(mapping) => format!("{}/{mapping}", self.context.config.name),
        }
    }
}

/// What a reload did.
pub struct Reloaded {
    /// What was taken up and how it goes.
    pub done: Vec<String>,
    /// Flows that do not run with what was taken up.
    pub failed: Vec<Failure>,
    /// Flows that were started.
    started: Vec<Arc<FlowShared>>,
}

impl Reloaded {
    /// Waits a bounded time until what was started runs, is paused or fails, and adds that.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + SHOW;
        for shared in std::mem::take(&mut self.started) {
            let settled = |state| {
                use FlowState::{Halted, Paused, Snapshotting, Streaming};
                matches!(state, Streaming | Snapshotting | Paused | Halted)
            };
            until(deadline, || settled(shared.state().0)).await;
            match shared.state() {
                (FlowState::Halted | FlowState::Retrying, Some(error)) => {
                    self.failed.push(Failure { flow: shared.name.clone(), error: error.into() });
                }
                (state, _) => self.done.push(format!("{} is {}", shared.name, state.as_str())),
            }
        }
    }
}

/// Waits until it holds, or until the deadline; tells whether it holds.
async fn until(deadline: Instant, mut holds: impl FnMut() -> bool) -> bool {
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// The names of a flow's mappings: as it runs, or as its catalogs tell.
async fn mappings(context: &FlowContext) -> Result<Vec<String>> {
    let known: Vec<String> = context.shared.mappings().into_keys().collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let planned = start::plan(&context.config, &*context.source, &*context.target, false).await?;
    Ok(planned.mappings.iter().map(|p| p.name.to_string()).collect())
}

/// A resync of a mapping that can be copied.
async fn copyable(context: &FlowContext, mapping: &str) -> Result<CopyRow> {
    let row = copies::copy_row(context, mapping, CopyReason::Resync);
    copies::try_copy(context, &row).await?;
    Ok(row)
}

/// Lets a mapping come back: its rows are compared and patched, and then it is followed again.
async fn rejoin(context: &FlowContext, row: CopyRow) -> Result<()> {
    context.target.write_copy(&row).await?;
    // The other direction must not take what it has let go by for what it has brought.
    context.shared.show_copy(&row.mapping, &row);
    context.shared.copy_waits(&row.mapping);
    context.target.clear_state(&context.pipeline, &context.config.name, &row.mapping).await
}

impl Running {
    fn idle(context: FlowContext) -> Running {
        Running {
            context,
            wake: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    fn start(&mut self) {
        self.context.shared.set_config(self.context.config.clone());
        // There from the start, so that a rate over the first increment is true.
        for system in [&self.context.config.source, &self.context.config.target] {
            metrics::counter!("tidelock_reconnects_total", "system" => system.clone()).increment(0);
        }
        self.context.shared.set_state(FlowState::Starting, None);
        self.tasks.spawn(supervise(self.context.clone(), self.wake.subscribe(), self.stop.clone()));
        self.tasks.spawn(lag::sample(self.context.clone(), self.stop.clone()));
    }

    /// Waits until the flow has drained, or gives up on it.
    async fn end(&mut self) {
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(panic) = ended {
                    tracing::error!(%panic, "a flow ended in a panic");
                }
            }
        });
        if drained.await.is_err() {
            tracing::error!(flow = %self.context.config.name, "did not drain in time; what was not committed is read again");
            self.tasks.shutdown().await;
        }
        self.context.shared.take_gauges_away();
    }
}

/// The contexts of a configuration's flows, each with connectors of its systems. What a flow shows that is known already
/// stays where others look for it.
fn contexts(
    config: &Config,
    checkpoint: &Arc<Checkpoint>,
    known: &BTreeMap<String, Arc<FlowShared>>,
) -> Result<Vec<FlowContext>> {
    let mut connectors: BTreeMap<&str, Arc<dyn Connector>> = BTreeMap::new();
    for (name, system) in &config.systems {
        connectors.insert(name, registry::connector(system)?);
    }
    let connector = |name: &str| {
        connectors
            .get(name)
            .cloned()
            .ok_or_else(|| Error::bug(format!("no connector for system {name}")))
    };
    let shared: BTreeMap<&str, Arc<FlowShared>> = config
        .flows
        .iter()
        .map(|flow| {
            let shared = known.get(&flow.name).cloned();
            let shared = shared.unwrap_or_else(|| Arc::new(FlowShared::new(&flow.name)));
            (flow.name.as_str(), shared)
        })
        .collect();
    config
        .flows
        .iter()
        .map(|flow| {
            let reverse = config
                .flows
                .iter()
                .find(|other| other.source == flow.target && other.target == flow.source)
                .and_then(|other| shared.get(other.name.as_str()).cloned());
            let own = shared.get(flow.name.as_str()).cloned();
            Ok(FlowContext {
                pipeline: config.name.clone(),
                config: Arc::new(flow.clone()),
                config_hash: config.hash.clone(),
                holder: holder(),
                source: connector(&flow.source)?,
                target: connector(&flow.target)?,
                source_meta: config
                    .systems
                    .get(&flow.source)
                    .map(|s| s.meta_schema.clone())
                    .unwrap_or_default(),
                target_is_read: config.flows.iter().any(|other| other.source == flow.target),
                checkpoint: checkpoint.clone(),
                shared: own.ok_or_else(|| Error::bug("a flow without its state"))?,
                copy_workers: flow.copy_workers,
                lanes: flow.lanes,
                copy_rows_per_second: flow.snapshot_rows_per_second,
                reverse,
                systems: [&flow.source, &flow.target].map(|name| config.systems.get(name).cloned()),
            })
        })
        .collect()
}
