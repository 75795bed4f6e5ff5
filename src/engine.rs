//! All flows of a pipeline: start, watch, pause, stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::{Code, Connector, Error, ErrorKind, Result, StateRow, StoredState};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::flow::supervise::supervise;
use crate::flow::{FlowContext, FlowShared, FlowState};
use crate::registry;
use crate::status::{self, PipelineStatus};
use crate::telemetry::lag;

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

/// Opens the checkpoint and says so if it had to be begun anew.
pub fn open_checkpoint(state_dir: &Path) -> Result<Arc<Checkpoint>> {
    let (checkpoint, aside) = Checkpoint::open(state_dir)?;
    if let Some(aside) = aside {
        tracing::error!(moved_to = %aside.display(), "the checkpoint store was damaged and is begun anew; positions come back from the targets");
    }
    Ok(Arc::new(checkpoint))
}

impl Engine {
    /// Makes a pipeline; its flows begin with [`Engine::begin`].
    pub fn new(config: &Config, checkpoint: Arc<Checkpoint>) -> Result<Engine> {
        let flows = contexts(config, &checkpoint)?
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
    /// were touched, if any.
    pub async fn reload(&self, config: &Config) -> Result<Option<String>> {
        if config.name != self.name || config.state_dir != self.state_dir {
            return Err(Error::new(
                ErrorKind::Config,
                Code::Config,
                "name and state_dir cannot change while running",
            )
            .with_hint("restart instead"));
        }
        let mut wanted: BTreeMap<String, FlowContext> = contexts(config, &self.checkpoint)?
            .into_iter()
            .map(|c| (c.config.name.clone(), c))
            .collect();
        let mut flows = self.flows.write().await;
        let mut touched = Vec::new();
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
            if !touched.contains(&name) {
                touched.push(name.clone());
            }
            flows.insert(name, running);
        }
        touched.sort();
        Ok((!touched.is_empty()).then(|| format!("took up {}", touched.join(", "))))
    }

    /// Whether every flow streams or is paused by a person.
    pub async fn ready(&self) -> bool {
        let flows = self.flows.read().await;
        flows
            .values()
            .all(|f| matches!(f.context.shared.state().0, FlowState::Streaming | FlowState::Paused))
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

    /// The flows that a person means: context, and how to wake it.
    async fn chosen(&self, flow: Option<&str>) -> Result<Vec<(FlowContext, watch::Sender<u64>)>> {
        let flows = self.flows.read().await;
        let of = |f: &Running| (f.context.clone(), f.wake.clone());
        let Some(name) = flow else { return Ok(flows.values().map(of).collect()) };
        if let Some(running) = flows.get(name) {
            return Ok(vec![of(running)]);
        }
        if flows.values().any(|f| f.context.shared.mappings().contains_key(name)) {
            let message = format!(
                "{name} is a mapping, and a single mapping cannot be paused or resumed yet"
            );
            return Err(Error::new(ErrorKind::Config, Code::Control, message).with_hint(
                "rejoining a running flow needs a backfill of the mapping, which this version does not have; pause the flow",
            ));
        }
        let known = flows.keys().cloned().collect::<Vec<_>>().join(", ");
        Err(Error::new(ErrorKind::Config, Code::Control, format!("there is no flow {name}"))
            .with_hint(format!("known flows: {known}")))
    }

    /// Pauses flows, durably: a row at the target first, then the running attempt.
    pub async fn pause(&self, flow: Option<&str>) -> Result<String> {
        let mut names = Vec::new();
        for (context, wake) in self.chosen(flow).await? {
            let row = StateRow {
                pipeline: context.pipeline.clone(),
                flow: context.config.name.clone(),
                mapping: String::new(),
                state: StoredState::Paused,
                code: None,
                message: "paused by a person".to_owned(),
                hint: String::new(),
                position: context
                    .shared
                    .applied
                    .borrow()
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            };
            context.target.write_state(&row).await?;
            wake.send_modify(|n| *n += 1);
            names.push(context.config.name.clone());
        }
        Ok(format!("paused {}", names.join(", ")))
    }

    /// Resumes flows: takes the row away, then wakes what waits.
    pub async fn resume(&self, flow: Option<&str>) -> Result<String> {
        let mut names = Vec::new();
        for (context, wake) in self.chosen(flow).await? {
            context.target.clear_state(&context.pipeline, &context.config.name, "").await?;
            wake.send_modify(|n| *n += 1);
            names.push(context.config.name.clone());
        }
        Ok(format!("resumed {}", names.join(", ")))
    }
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
    }
}

/// The contexts of a configuration's flows, each with connectors of its systems.
fn contexts(config: &Config, checkpoint: &Arc<Checkpoint>) -> Result<Vec<FlowContext>> {
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
    config
        .flows
        .iter()
        .map(|flow| {
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
                shared: Arc::new(FlowShared::new(&flow.name)),
                systems: [&flow.source, &flow.target].map(|name| config.systems.get(name).cloned()),
            })
        })
        .collect()
}
