//! All flows of a pipeline: start, watch, pause, stop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::{Code, Connector, Error, ErrorKind, Result, StateRow, StoredState};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::flow::supervise::supervise;
use crate::flow::{FlowContext, FlowShared, FlowState};
use crate::registry;
use crate::status::{self, PipelineStatus};
use crate::telemetry::lag;

/// One running flow, seen from outside.
struct Running {
    context: FlowContext,
    wake: watch::Sender<u64>,
}

/// A running pipeline.
pub struct Engine {
    name: String,
    flows: BTreeMap<String, Running>,
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
    /// Makes the flows of a configuration, not yet running.
    pub fn new(config: &Config, checkpoint: Arc<Checkpoint>) -> Result<Engine> {
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
        let mut flows = BTreeMap::new();
        for flow in &config.flows {
            let context = FlowContext {
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
            };
            flows.insert(flow.name.clone(), Running { context, wake: watch::Sender::new(0) });
        }
        Ok(Engine { name: config.name.clone(), flows })
    }

    /// Runs all flows until `stop`; returns when each has drained, or after the deadline.
    pub async fn run(&self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        for running in self.flows.values() {
            tasks.spawn(supervise(running.context.clone(), running.wake.subscribe(), stop.clone()));
            tasks.spawn(lag::sample(running.context.clone(), stop.clone()));
        }
        stop.cancelled().await;
        let drained = tokio::time::timeout(Duration::from_secs(25), async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(panic) = ended {
                    tracing::error!(%panic, "a flow ended in a panic");
                }
            }
        });
        if drained.await.is_err() {
            tracing::error!(
                "not all flows drained in time; what was not committed is read again at the next start"
            );
            tasks.abort_all();
        }
    }

    /// Whether every flow streams or is paused by a person.
    pub fn ready(&self) -> bool {
        self.flows
            .values()
            .all(|f| matches!(f.context.shared.state().0, FlowState::Streaming | FlowState::Paused))
    }

    /// What `status` shows.
    pub fn status(&self) -> PipelineStatus {
        PipelineStatus {
            name: self.name.clone(),
            flows: self.flows.values().map(|f| status::of(&f.context.shared)).collect(),
        }
    }

    fn chosen(&self, flow: Option<&str>) -> Result<Vec<&Running>> {
        match flow {
            None => Ok(self.flows.values().collect()),
            Some(name) => match self.flows.get(name) {
                Some(running) => Ok(vec![running]),
                None if self.flows.values().any(|f| f.context.shared.mappings().contains_key(name)) => {
                    Err(Error::new(ErrorKind::Config, Code::Control, format!("{name} is a mapping, and a single mapping cannot be paused or resumed yet"))
                        .with_hint("rejoining a running flow needs a backfill of the mapping, which this version does not have; pause the flow"))
                }
                None => {
                    let known = self.flows.keys().cloned().collect::<Vec<_>>().join(", ");
                    Err(Error::new(ErrorKind::Config, Code::Control, format!("there is no flow {name}")).with_hint(format!("known flows: {known}")))
                }
            },
        }
    }

    /// Pauses flows, durably: a row at the target first, then the running attempt.
    pub async fn pause(&self, flow: Option<&str>) -> Result<String> {
        let mut names = Vec::new();
        for running in self.chosen(flow)? {
            let context = &running.context;
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
            running.wake.send_modify(|n| *n += 1);
            names.push(context.config.name.clone());
        }
        Ok(format!("paused {}", names.join(", ")))
    }

    /// Resumes flows: takes the row away, then wakes what waits.
    pub async fn resume(&self, flow: Option<&str>) -> Result<String> {
        let mut names = Vec::new();
        for running in self.chosen(flow)? {
            let context = &running.context;
            context.target.clear_state(&context.pipeline, &context.config.name, "").await?;
            running.wake.send_modify(|n| *n += 1);
            names.push(context.config.name.clone());
        }
        Ok(format!("resumed {}", names.join(", ")))
    }
}
