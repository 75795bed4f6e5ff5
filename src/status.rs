//! What `status --json` shows: one model for the command, the control socket and HTTP.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tidelock_core::{Code, CopyPhase, CopyRow, StateRow};

use crate::config::ConfigError;
use crate::flow::shared::ShownError;
use crate::flow::{FlowShared, FlowState};

/// A pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PipelineStatus {
    /// Its name.
    pub name: String,
    /// Its flows.
    pub flows: Vec<FlowStatus>,
    /// Slots and publications with this pipeline's prefix that none of its flows uses.
    #[serde(default)]
    pub leftovers: Vec<Leftover>,
}

/// Something on a server that was made for this pipeline and is used by no flow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leftover {
    /// The system.
    pub system: String,
    /// What it is and its name (`replication slot tidelock_a_b`).
    pub name: String,
}

/// An error as shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorStatus {
    /// `TL0101`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The part of the configuration that it is about, as shown to people; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
}

impl ErrorStatus {
    /// For people: code, message and, where there is one, the place of the file.
    pub fn told(&self) -> String {
        if self.place.is_empty() {
            return format!("error[{}]: {}", self.code, self.message);
        }
        let (message, place) = (self.message.clone(), self.place.clone());
        let fault = ConfigError { message, place, hint: String::new() };
        format!("error: {}", fault.told())
    }
}

impl From<&ConfigError> for ErrorStatus {
    fn from(error: &ConfigError) -> Self {
        ErrorStatus {
            code: Code::Config.as_str().to_owned(),
            message: error.message.clone(),
            hint: error.hint.clone(),
            place: error.place.clone(),
        }
    }
}

/// A flow that does not run, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The flow.
    pub flow: String,
    /// Why.
    pub error: ErrorStatus,
}

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowStatus {
    /// Its name.
    pub flow: String,
    /// `starting`, `streaming`, `paused`, `retrying`, `halted`, `stopped`.
    pub state: String,
    /// Position received.
    pub source_position: Option<String>,
    /// Position applied.
    pub applied_position: Option<String>,
    /// Lag in seconds.
    pub lag_seconds: Option<f64>,
    /// Lag in bytes of log.
    pub lag_bytes: Option<u64>,
    /// Exceptions that wait for a person.
    pub exceptions_open: u64,
    /// Why it is not streaming.
    pub error: Option<ErrorStatus>,
    /// Its mappings.
    pub mappings: Vec<MappingStatus>,
}

/// A mapping.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MappingStatus {
    /// Its name.
    pub name: String,
    /// `streaming` or `stopped`, or the flow's state.
    pub state: String,
    /// Rows inserted since the process started.
    pub rows_inserted: u64,
    /// Rows updated.
    pub rows_updated: u64,
    /// Rows deleted.
    pub rows_deleted: u64,
    /// Changes filtered by a rule of the mapping.
    pub rows_filtered: u64,
    /// Changes that wait for a backfill because the mapping is stopped.
    pub rows_parked: u64,
    /// Exceptions that wait for a person.
    pub exceptions_open: u64,
    /// Why it is stopped.
    pub error: Option<ErrorStatus>,
    /// How far its copy has come; absent if there was none.
    #[serde(default)]
    pub snapshot: Option<SnapshotStatus>,
    /// What a person should know of it, such as columns that came at the source, or what its copy waits for.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// How far a copy has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Rows copied.
    pub done: u64,
    /// Rows there are, about.
    pub total: u64,
    /// `initial`, `backfill` or `resync`.
    pub reason: String,
    /// `held`, `rows`, `sweep` or `done`.
    pub phase: String,
    /// Seconds until its end at the speed so far, while it runs.
    pub eta_seconds: Option<f64>,
    /// The above in words, while it runs.
    #[serde(default)]
    pub words: Option<String>,
}

impl SnapshotStatus {
    /// How far it has come, in words; `None` once it has ended.
    pub fn progress(&self) -> Option<String> {
        let reason = &self.reason;
        match CopyPhase::parse(&self.phase)? {
            CopyPhase::Held => Some("waits for the copy of the other direction".to_owned()),
            CopyPhase::Rows => {
                let percent = (self.done * 100).checked_div(self.total).unwrap_or(0).min(100);
                let left =
                    self.eta_seconds.map_or(String::new(), |s| format!(", about {s:.0} s left"));
                Some(format!(
                    "{reason} copy: {} of about {} rows, {percent} %{left}",
                    self.done, self.total
                ))
            }
            CopyPhase::Sweep => Some(format!(
                "{reason} copy: {} rows, looking for rows that only the target has",
                self.done
            )),
            CopyPhase::Done | CopyPhase::Left => None,
        }
    }
}

impl From<&CopyRow> for SnapshotStatus {
    fn from(row: &CopyRow) -> Self {
        let elapsed = (crate::apply::now_micros() - row.started_micros).max(0) as f64 / 1e6;
        let left = row.rows_total.saturating_sub(row.rows_done) as f64;
        let running = row.phase == CopyPhase::Rows && row.rows_done > 0;
        let mut status = SnapshotStatus {
            words: None,
            done: row.rows_done,
            total: row.rows_total,
            reason: row.reason.as_str().to_owned(),
            phase: row.phase.as_str().to_owned(),
            eta_seconds: running.then(|| left * elapsed / row.rows_done as f64),
        };
        status.words = status.progress();
        status
    }
}

impl PipelineStatus {
    /// Whether something waits for a person or keeps a flow from streaming.
    pub fn has_findings(&self) -> bool {
        self.flows.iter().any(|f| f.exceptions_open > 0 || f.error.is_some())
    }
}

impl MappingStatus {
    /// A mapping of a process that does not run: nothing is counted.
    pub fn idle(name: &str, state: &str, error: Option<ErrorStatus>) -> MappingStatus {
        MappingStatus {
            name: name.to_owned(),
            state: state.to_owned(),
            rows_inserted: 0,
            rows_updated: 0,
            rows_deleted: 0,
            rows_filtered: 0,
            rows_parked: 0,
            exceptions_open: u64::from(error.is_some()),
            error,
            snapshot: None,
            notes: Vec::new(),
        }
    }
}

impl From<&StateRow> for ErrorStatus {
    fn from(row: &StateRow) -> Self {
        ErrorStatus {
            code: row.code.map_or_else(String::new, |c| c.as_str().to_owned()),
            message: row.message.clone(),
            hint: row.hint.clone(),
            place: String::new(),
        }
    }
}

impl From<ShownError> for ErrorStatus {
    fn from(error: ShownError) -> Self {
        let ShownError { code, message, hint } = error;
        ErrorStatus { code, message, hint, place: String::new() }
    }
}

/// The status of a flow.
pub fn of(shared: &FlowShared) -> FlowStatus {
    let (state, error) = shared.state();
    let (lag_seconds, lag_bytes) = *shared.lag.lock().unwrap_or_else(PoisonError::into_inner);
    let mappings: Vec<MappingStatus> = shared
        .mappings()
        .into_iter()
        .map(|(name, mapping)| {
            let stopped = mapping.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let [inserted, updated, deleted] = &mapping.counters.applied;
            let copy = mapping.copy.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let paused = mapping.paused.load(Ordering::Relaxed);
            let copied = copy.as_ref().is_none_or(|row| row.phase == CopyPhase::Done);
            let mut notes = mapping.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let copies = copy
                .as_ref()
                .is_some_and(|row| matches!(row.phase, CopyPhase::Rows | CopyPhase::Sweep));
            if copies && state == FlowState::Snapshotting && stopped.is_none() {
                notes.extend(mapping.waits.lock().unwrap_or_else(PoisonError::into_inner).clone());
            }
            notes.extend(mapping.unread.lock().unwrap_or_else(PoisonError::into_inner).clone());
            let shown = match state {
                FlowState::Streaming | FlowState::Snapshotting if copied => FlowState::Streaming,
                FlowState::Streaming | FlowState::Snapshotting => FlowState::Snapshotting,
                other => other,
            };
            MappingStatus {
                name,
                state: match &stopped {
                    Some(_) if paused => "paused",
                    Some(_) => "stopped",
                    None => shown.as_str(),
                }
                .to_owned(),
                snapshot: copy.as_ref().map(SnapshotStatus::from),
                rows_inserted: inserted.load(Ordering::Relaxed),
                rows_updated: updated.load(Ordering::Relaxed),
                rows_deleted: deleted.load(Ordering::Relaxed),
                rows_filtered: mapping.counters.filtered.load(Ordering::Relaxed),
                rows_parked: mapping.counters.parked.load(Ordering::Relaxed),
                exceptions_open: u64::from(stopped.is_some() && !paused),
                error: stopped.filter(|_| !paused).map(Into::into),
                notes,
            }
        })
        .collect();
    let text =
        |position: &Option<tidelock_core::Position>| position.as_ref().map(ToString::to_string);
    FlowStatus {
        flow: shared.name.clone(),
        state: state.as_str().to_owned(),
        source_position: text(&shared.received.borrow()),
        applied_position: text(&shared.applied.borrow()),
        lag_seconds,
        lag_bytes,
        exceptions_open: mappings.iter().map(|m| m.exceptions_open).sum(),
        error: error.map(Into::into),
        mappings,
    }
}

impl From<&tidelock_core::Error> for ErrorStatus {
    fn from(error: &tidelock_core::Error) -> Self {
        ShownError::from(error).into()
    }
}
