//! What a flow shows to the rest of the process: its state, counters and positions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidelock_core::{Connector, CopyPhase, CopyRow, OpKind, Position, SystemConfig, TableName};
use tokio::sync::{Notify, watch};

use super::copies;
use crate::checkpoint::Checkpoint;
use crate::config::FlowConfig;
use crate::telemetry::GONE;

/// The stages of `tidelock_snapshot_rows`.
const COPY_STAGES: [&str; 2] = ["done", "total"];

/// Everything an attempt needs that outlives it.
#[derive(Clone)]
pub struct FlowContext {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's configuration.
    pub config: Arc<FlowConfig>,
    /// A hash of the configuration file.
    pub config_hash: String,
    /// Host and process of ours.
    pub holder: String,
    /// The source.
    pub source: Arc<dyn Connector>,
    /// The target.
    pub target: Arc<dyn Connector>,
    /// The meta schema of the source.
    pub source_meta: String,
    /// Whether some flow reads the target: then writes that change nothing must leave no trace.
    pub target_is_read: bool,
    /// The local checkpoint; `None` only where the state folder cannot be used.
    pub checkpoint: Arc<Checkpoint>,
    /// What others see.
    pub shared: Arc<FlowShared>,
    /// How many pieces of copies may be read and written at once.
    pub copy_workers: usize,
    /// How many sessions may write the log at once.
    pub lanes: usize,
    /// Rows a second that copies may read, if limited.
    pub copy_rows_per_second: Option<u64>,
    /// The flow of the other direction.
    pub reverse: Option<Arc<FlowShared>>,
    /// Source and target as configured: to see whether a reload changes them.
    pub systems: [Option<SystemConfig>; 2],
}

impl FlowContext {
    /// Whether a reload would change nothing for this flow.
    pub fn same_as(&self, other: &FlowContext) -> bool {
        self.config == other.config
            && self.systems == other.systems
            && self.target_is_read == other.target_is_read
            && self.reverse.is_some() == other.reverse.is_some()
    }
}

/// The word for what a flow is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowState {
    /// Connecting, proving continuity.
    Starting,
    /// Following the log, and copying tables meanwhile.
    Snapshotting,
    /// Following the log.
    Streaming,
    /// A person asked for it.
    Paused,
    /// Something is away; we try again.
    Retrying,
    /// A person is needed.
    Halted,
    /// The process ends.
    Stopped,
}

impl FlowState {
    /// Every state.
    pub const ALL: [FlowState; 7] = [
        FlowState::Starting,
        FlowState::Snapshotting,
        FlowState::Streaming,
        FlowState::Paused,
        FlowState::Retrying,
        FlowState::Halted,
        FlowState::Stopped,
    ];

    /// The word in status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            FlowState::Starting => "starting",
            FlowState::Snapshotting => "snapshotting",
            FlowState::Streaming => "streaming",
            FlowState::Paused => "paused",
            FlowState::Retrying => "retrying",
            FlowState::Halted => "halted",
            FlowState::Stopped => "stopped",
        }
    }
}

/// An error as shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownError {
    /// `TL0101`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl From<&tidelock_core::Error> for ShownError {
    fn from(error: &tidelock_core::Error) -> Self {
        ShownError {
            code: error.code().as_str().to_owned(),
            message: error.to_string(),
            hint: error.hint().unwrap_or_default().to_owned(),
        }
    }
}

/// Rows of one mapping since the process started.
#[derive(Debug, Default)]
pub struct MappingCounters {
    /// Inserts, updates and deletes that are at the target: by themselves, or in what superseded them.
    pub applied: [AtomicU64; 3],
    /// Changes that a rule of the mapping filtered.
    pub filtered: AtomicU64,

    /// Changes left for a later backfill because the mapping is stopped.
    pub parked: AtomicU64,
}

/// The state of a mapping.
#[derive(Debug, Default)]
pub struct MappingShared {
    /// Its counters.
    pub counters: MappingCounters,
    /// Why it is stopped, if it is.
    pub stopped: Mutex<Option<ShownError>>,
    /// Whether that is because a person paused it.
    pub paused: AtomicBool,
    /// How far its copy has come, if there is one.
    pub copy: Mutex<Option<CopyRow>>,
    /// Whether a piece of that copy is read or written.
    begun: AtomicBool,
    /// What a person should know of it.
    pub notes: Mutex<Vec<String>>,
    /// What its copy waits for.
    pub waits: Mutex<Option<String>>,
    /// What the reading of its dictionaries waits for; nothing streams before.
    pub unread: Mutex<Option<String>>,
    /// The shape of its table at which the log was last found to hold rows of an older one.
    drift: Mutex<Option<String>>,
}

impl MappingShared {
    /// Whether its changes are parked.
    pub fn is_stopped(&self) -> bool {
        lock(&self.stopped).is_some()
    }

    /// Whether every row is there and every change reaches it.
    pub fn is_whole(&self) -> bool {
        let done = |c: &CopyRow| c.phase == CopyPhase::Done;
        !self.is_stopped() && lock(&self.copy).as_ref().is_none_or(done)
    }

    /// Whether its copy is bringing rows.
    pub fn is_copied(&self) -> bool {
        lock(&self.copy).as_ref().is_some_and(|c| c.phase == CopyPhase::Rows)
    }

    /// Whether its copy looks for rows to be removed.
    pub fn is_swept(&self) -> bool {
        lock(&self.copy).as_ref().is_some_and(|c| c.phase == CopyPhase::Sweep)
    }

    /// Whether its copy has begun to bring rows, now or before a restart.
    pub fn is_under_way(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let brought =
            |c: &CopyRow| c.phase != CopyPhase::Rows || !c.cursor.is_empty() || c.rows_done > 0;
        begun || lock(&self.copy).as_ref().is_some_and(brought)
    }

    /// Whether its copy has not brought all rows yet, so that changes of those to come are left to it.
    pub fn lacks_rows(&self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let lacks = |c: &CopyRow| match c.phase {
            CopyPhase::Held => true,
            CopyPhase::Rows => begun || !copies::is_followed(c),
            CopyPhase::Sweep | CopyPhase::Done | CopyPhase::Left => false,
        };
        lock(&self.copy).as_ref().is_some_and(lacks)
    }
}

/// Counts changes by what became of them; none makes the counters be there.
fn count(flow: &str, mapping: &str, op: OpKind, result: &'static str, rows: u64) {
    metrics::counter!("tidelock_rows_total", "flow" => flow.to_owned(), "mapping" => mapping.to_owned(),
        "op" => op.as_str(), "result" => result)
    .increment(rows);
    metrics::counter!("tidelock_rows_captured_total", "flow" => flow.to_owned(),
        "mapping" => mapping.to_owned(), "op" => op.as_str())
    .increment(rows);
}

/// What a flow shows.
pub struct FlowShared {
    /// The flow's name.
    pub name: String,
    /// What the file says of it by now: the flow of the other direction outlives a reload that changes this one.
    config: Mutex<Option<Arc<FlowConfig>>>,
    /// Held by the attempt that runs. Who holds it changes what attempts begin with while none does.
    pub attempt: tokio::sync::Mutex<()>,
    state: Mutex<(FlowState, Option<ShownError>)>,
    mappings: Mutex<BTreeMap<String, Arc<MappingShared>>>,
    /// Position received.
    pub received: watch::Sender<Option<Position>>,
    /// Position applied.
    pub applied: watch::Sender<Option<Position>>,
    /// Lag as last computed, in seconds and bytes.
    pub lag: Mutex<(Option<f64>, Option<u64>)>,
    /// When the checkpoint was last made durable, microseconds since 1970; 0 if not yet.
    pub checkpoint_micros: AtomicI64,
    /// When the source committed the transaction last taken in hand, microseconds since 1970; 0 if none yet.
    pub begun_micros: AtomicI64,
    /// What source tables are by now, by mapping, where the target does not know yet.
    shapes: Mutex<HashMap<(Arc<str>, TableName), String>>,
    /// Mappings whose changes the target took in log order only.
    ordered: Mutex<HashSet<String>>,
    /// Mappings whose changes met rows of before while they were compared anew.
    loose: Mutex<HashSet<String>>,
    /// What was told of tables without a mapping.
    told: Mutex<HashSet<String>>,
    /// Asks the reader to ask the source for the end of its log: something waits for the log to pass a place.
    pub nudge: Notify,
    /// Asks for the next position without changes to be written even if little log went by: the source keeps log for us.
    pub save_wanted: AtomicBool,
    /// Pieces of copies are written one by one: the target has refused one beside others.
    pub copy_alone: AtomicBool,
    /// Until when batches are written by the flow's own session alone, because the target has refused one beside others; microseconds
    /// since 1970.
    pub alone_until_micros: AtomicI64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FlowShared {
    /// A flow that has not begun.
    pub fn new(name: &str) -> Self {
        FlowShared {
            name: name.to_owned(),
            config: Mutex::new(None),
            attempt: tokio::sync::Mutex::new(()),
            state: Mutex::new((FlowState::Starting, None)),
            mappings: Mutex::default(),
            received: watch::Sender::new(None),
            applied: watch::Sender::new(None),
            lag: Mutex::default(),
            checkpoint_micros: AtomicI64::new(0),
            begun_micros: AtomicI64::new(0),
            shapes: Mutex::default(),
            ordered: Mutex::default(),
            loose: Mutex::default(),
            told: Mutex::default(),
            nudge: Notify::new(),
            save_wanted: AtomicBool::new(false),
            copy_alone: AtomicBool::new(false),
            alone_until_micros: AtomicI64::new(0),
        }
    }

    /// What the file says of the flow.
    pub fn config(&self) -> Option<Arc<FlowConfig>> {
        lock(&self.config).clone()
    }

    /// The file says this by now.
    pub fn set_config(&self, config: Arc<FlowConfig>) {
        *lock(&self.config) = Some(config);
    }

    /// Sets the state and why.
    pub fn set_state(&self, state: FlowState, error: Option<ShownError>) {
        let mut now = lock(&self.state);
        if now.0 != state {
            tracing::info!(flow = %self.name, from = now.0.as_str(), to = state.as_str(), "state");
        }
        *now = (state, error);
        drop(now);
        for each in FlowState::ALL {
            let value = if each == state { 1.0 } else { 0.0 };
            metrics::gauge!("tidelock_flow_state", "flow" => self.name.clone(), "state" => each.as_str()).set(value);
        }
    }

    /// Waits for another process to give the flow up: told once a holder.
    pub fn wait_for(&self, why: ShownError) {
        if self.state().1.as_ref() != Some(&why) {
            tracing::warn!(flow = %self.name, code = %why.code, hint = %why.hint, "{}", why.message);
        }
        self.set_state(FlowState::Retrying, Some(why));
    }

    /// State and why.
    pub fn state(&self) -> (FlowState, Option<ShownError>) {
        lock(&self.state).clone()
    }

    /// The mappings by name.
    pub fn mappings(&self) -> BTreeMap<String, Arc<MappingShared>> {
        lock(&self.mappings).clone()
    }

    /// Makes these the flow's mappings, keeping the counters of those already known.
    pub fn set_mappings<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut mappings = lock(&self.mappings);
        let old = std::mem::take(&mut *mappings);
        for name in names {
            if !old.contains_key(name) {
                metrics::gauge!("tidelock_exceptions_open", "flow" => self.name.clone(), "mapping" => name.to_owned()).set(0.0);
                for op in [OpKind::Insert, OpKind::Update, OpKind::Delete] {
                    count(&self.name, name, op, "applied", 0);
                }
            }
            mappings.insert(name.to_owned(), old.get(name).cloned().unwrap_or_default());
        }
        for gone in old.keys().filter(|name| !mappings.contains_key(*name)) {
            self.take_away(gone);
        }
    }

    /// Takes the gauges of a mapping that is no more away.
    fn take_away(&self, mapping: &str) {
        let (flow, mapping) = (|| self.name.clone(), || mapping.to_owned());
        metrics::gauge!("tidelock_exceptions_open", "flow" => flow(), "mapping" => mapping())
            .set(GONE);
        for stage in COPY_STAGES {
            metrics::gauge!("tidelock_snapshot_rows", "flow" => flow(), "mapping" => mapping(), "stage" => stage)
                .set(GONE);
        }
    }

    /// Takes all gauges of a flow that has ended away. One that goes on under the same name sets its own.
    pub fn take_gauges_away(&self) {
        for state in FlowState::ALL {
            metrics::gauge!("tidelock_flow_state", "flow" => self.name.clone(), "state" => state.as_str())
                .set(GONE);
        }
        for mapping in self.mappings().keys() {
            self.take_away(mapping);
        }
    }

    /// Adds a mapping that only the target knows of.
    pub fn add_mapping(&self, name: &str) {
        lock(&self.mappings).entry(name.to_owned()).or_default();
    }

    /// Marks a mapping as stopped, or as running again.
    pub fn set_stopped(&self, mapping: &str, why: Option<ShownError>, paused: bool) {
        let open = if why.is_some() && !paused { 1.0 } else { 0.0 };
        metrics::gauge!("tidelock_exceptions_open", "flow" => self.name.clone(), "mapping" => mapping.to_owned()).set(open);
        if let Some(entry) = lock(&self.mappings).get(mapping) {
            entry.paused.store(paused && why.is_some(), Ordering::Relaxed);
            *lock(&entry.stopped) = why;
        }
    }

    /// Sets what a person should know of a mapping; what is new is logged.
    pub fn set_notes(&self, mapping: &str, notes: Vec<String>) {
        let Some(entry) = lock(&self.mappings).get(mapping).cloned() else { return };
        let whole = |note: &String| crate::apply::whole_command(note, &self.name, mapping);
        let notes: Vec<String> = notes.iter().map(whole).collect();
        let mut known = lock(&entry.notes);
        for note in notes.iter().filter(|n| !known.contains(n)) {
            tracing::warn!(flow = %self.name, %mapping, "{note}");
        }
        *known = notes;
    }

    /// Sets what a mapping's copy waits for.
    pub fn set_waits(&self, mapping: &str, why: Option<String>) {
        if let Some(entry) = lock(&self.mappings).get(mapping) {
            *lock(&entry.waits) = why;
        }
    }

    /// Sets what the reading of a dictionary of a mapping waits for.
    pub fn set_unread(&self, mapping: &str, why: Option<String>) {
        if let Some(entry) = lock(&self.mappings).get(mapping) {
            *lock(&entry.unread) = why;
        }
    }

    /// Whether a person should know something of a mapping.
    pub fn has_notes(&self, mapping: &str) -> bool {
        lock(&self.mappings).get(mapping).is_some_and(|entry| !lock(&entry.notes).is_empty())
    }

    /// Tells, once, what is about no mapping.
    pub fn tell(&self, words: &str) {
        if lock(&self.told).insert(words.to_owned()) {
            tracing::warn!(flow = %self.name, "{words}");
        }
    }

    /// What a table that a mapping follows is by now, to be kept at the target.
    pub fn keep_shape(&self, mapping: &Arc<str>, table: &TableName, shape: String) {
        lock(&self.shapes).insert((mapping.clone(), table.clone()), shape);
    }

    /// What is to be kept.
    pub fn take_shapes(&self) -> HashMap<(Arc<str>, TableName), String> {
        std::mem::take(&mut *lock(&self.shapes))
    }

    /// From now on a mapping is written in log order.
    pub fn keep_ordered(&self, mapping: &str) {
        lock(&self.ordered).insert(mapping.to_owned());
    }

    /// The mappings that are written in log order whatever their tables are.
    pub fn ordered(&self) -> HashSet<String> {
        lock(&self.ordered).clone()
    }

    /// From now on changes of a mapping wait like the rows of its copy, while it is compared anew.
    pub fn keep_loose(&self, mapping: &str) {
        lock(&self.loose).insert(mapping.to_owned());
    }

    /// Whether they do.
    pub fn is_loose(&self, mapping: &str) -> bool {
        lock(&self.loose).contains(mapping)
    }

    /// Whether the log is found for the first time to hold rows of an older shape than this one.
    pub fn first_drift(&self, mapping: &str, shape: &str) -> bool {
        let Some(entry) = lock(&self.mappings).get(mapping).cloned() else { return false };
        let mut known = lock(&entry.drift);
        let first = known.as_deref() != Some(shape);
        *known = Some(shape.to_owned());
        first
    }

    /// Shows how far the copy of a mapping has come.
    pub fn show_copy(&self, mapping: &str, row: &CopyRow) {
        for (stage, rows) in COPY_STAGES.into_iter().zip([row.rows_done, row.rows_total]) {
            metrics::gauge!("tidelock_snapshot_rows", "flow" => self.name.clone(),
                "mapping" => mapping.to_owned(), "stage" => stage)
            .set(rows as f64);
        }
        if let Some(entry) = lock(&self.mappings).get(mapping) {
            *lock(&entry.copy) = Some(row.clone());
        }
    }

    /// Whether its changes are applied.
    pub fn flows(&self) -> bool {
        matches!(self.state().0, FlowState::Streaming | FlowState::Snapshotting)
    }

    /// A copy of a mapping is still to begin.
    pub fn copy_waits(&self, mapping: &str) {
        self.set_begun(mapping, false);
    }

    /// It begins.
    pub fn copy_begins(&self, mapping: &str) {
        self.set_begun(mapping, true);
    }

    fn set_begun(&self, mapping: &str, begun: bool) {
        if let Some(entry) = lock(&self.mappings).get(mapping) {
            entry.begun.store(begun, Ordering::Relaxed);
        }
    }

    /// Why a mapping is stopped, if it is.
    pub fn stopped(&self, mapping: &str) -> Option<ShownError> {
        lock(&self.mappings).get(mapping).and_then(|entry| lock(&entry.stopped).clone())
    }
}
