//! Stage 3: from the queue of events to guarded target transactions.
//!
//! A target transaction holds whole source transactions: as many as have arrived, up to the limits,
//! all with one hop list. A source transaction larger than the limits is piped into the open target
//! transaction piece by piece, so memory stays bounded while the transaction stays whole.
//!
//! **Batches that adapt.** The session works in a task of its own ([`session`]). Whenever it is idle at the end of a source
//! transaction, what has been collected goes out; while it works, what arrives is collected. So a transaction
//! is on its way at once when it is quiet, and thousands share a commit when there is much to do, without a
//! timer. Changes of one row in what is collected become one ([`batch`]).
//!
//! **A refused order.** If a target refuses what was collected, its transactions are replayed one by one and one row a statement, in
//! log order. What is refused then is the row's own fault and stops its mapping. If all pass, the order was
//! to blame: the mapping is written in log order from then on ([`FlowShared::ordered`]).
//!
//! **Echo.** The first change of a transaction that some tidelock wrote is its progress row. Its hop
//! list names the systems the changes have been at. If our target is among them, the transaction is an
//! echo and only moves the position; else it goes on, with our source added to the list. A transaction
//! without a progress row begins a list with our source alone.
//!
//! **Copies.** Between two source transactions the applier answers the copier and writes the pieces
//! whose place in the log has come ([`crate::copy`]).
//!
//! **Idle.** A position that moved without changes is written at most every ten seconds, and only if
//! the log grew by more than progress rows, or the source asks by keeping too much: else two flows in a ring would wake each other for ever.

pub mod batch;
mod changes;
mod delayed;
pub mod gate;
pub mod lanes;
pub mod loaders;
mod pieces;
pub mod place;
mod route;
pub(crate) mod seek;
pub mod session;
pub mod tally;
mod transaction;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidelock_core::{
    Code, CopyRow, Error, HopList, LogEvent, Position, Result, Sink, StateRow, StoredState,
    SystemId, TableName, TransactionId, WriteBatch,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::copy::{Regions, Request, Reverse};
use crate::flow::FlowShared;
use crate::flow::disposition::Care;
use crate::flow::shared::ShownError;
use crate::mapping::MappingPlan;
use crate::mapping::dictionaries::Keeper;
use crate::reader::Queue;
use crate::reread::{Rereads, Touched, Waiting};
use batch::Batcher;
use delayed::Delayed;
use gate::Gates;
use lanes::Lanes;
use loaders::Loaders;
use place::Places;
use route::{Followed, Mapped, Routes};
use session::{Hands, Session};
use tally::{Counters, Tally};
use transaction::{Committing, OpenTransaction};

/// Rows or bytes that are collected at most while the session works: after that the log waits for it.
const ROWS_A_WRITE: usize = 8_000;
const BYTES_A_WRITE: usize = 4 << 20;
/// Changes after which the open target transaction ends at the next source commit, however few rows they are of.
const CHANGES_A_TRANSACTION: usize = 64_000;
/// Keys that are read again at most with one target transaction, unless one source transaction touches more.
const KEYS_A_TRANSACTION: usize = 20_000;
/// Keys of one transaction that are kept here at most.
pub(crate) const KEYS_MAX: usize = 100_000;
/// How often a position without changes may be written.
const IDLE_SAVE: Duration = Duration::from_secs(10);
/// How often an idle session says that it lives; the server ends it after 30 seconds.
pub(crate) const PING: Duration = Duration::from_secs(10);

/// What apply reports after each target commit: what the checkpoint stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The position that is now in the progress row.
    pub position: Position,
    /// The epoch it was written under.
    pub epoch: u64,
    /// Its sequence number.
    pub seq: u64,
}

/// Where the flow stands at the target when the attempt begins, and how it is to run.
pub struct Begin {
    /// The epoch we hold.
    pub epoch: u64,
    /// The last sequence number used.
    pub seq: u64,
    /// The position in the progress row.
    pub position: Position,
    /// How to run.
    pub care: Care,
    /// A mapping to stop: recorded in the first transaction.
    pub stop_mapping: Option<StateRow>,
    /// Mappings that are stopped already.
    pub stopped: HashSet<String>,
    /// What is being copied.
    pub regions: Regions,
    /// What the copier asks.
    pub requests: mpsc::Receiver<Request>,
    /// The flow of the other direction, where there is one.
    pub reverse: Option<Reverse>,
    /// How the copies that have ended stand at the target, by mapping.
    pub rows: HashMap<String, CopyRow>,
    /// The sessions that load pieces beside ours.
    pub loaders: Loaders,
    /// The dictionaries that are tables of the source, by their names.
    pub keepers: HashMap<String, Keeper>,
    /// What reads rows again.
    pub rereads: Rereads,
    /// The mappings of which keys may wait in the target's memory.
    pub put_off: Vec<usize>,
    /// What the tables' gates remember.
    pub gates: Gates,
}

/// The applier of one attempt.
pub struct Applier {
    session: Session,
    flow: String,
    source_id: SystemId,
    target_id: SystemId,
    progress_table: TableName,
    snapshot_table: TableName,
    held_for: HashMap<(String, String), String>,
    plans: Vec<Mapped>,
    /// Who follows which table.
    tables: HashMap<TableName, Arc<Followed>>,
    /// The dictionaries that are tables of the source, by their names.
    keepers: HashMap<String, Keeper>,
    /// Keys that the open transaction's changes touched.
    touched: Touched,
    /// Deletes of the open transaction that come after what it touched is read again.
    late: Vec<WriteBatch>,
    /// What of the tables' rows is worth sending.
    gates: Gates,
    /// Keys that wait for the flow to come to what their rows point to.
    waiting: Vec<Waiting>,
    /// The mappings with keys that wait in the target's memory.
    delayed: Delayed,
    places: Arc<Places>,
    routes: Routes,
    shared: Arc<FlowShared>,
    counters: Counters,
    latency: metrics::Histogram,
    committed: watch::Sender<Option<Committed>>,

    epoch: u64,
    seq: u64,
    careful: u64,
    /// The mapping whose batch was refused before the replay.
    suspect: Option<String>,
    stop_mapping: Option<StateRow>,
    stopped: HashSet<String>,

    batcher: Batcher,
    tally: Tally,
    /// The target transaction that is being collected.
    open: Option<OpenTransaction>,
    /// The one that the session was told to commit.
    committing: Option<Committing>,
    /// Those that others write beside it.
    lanes: Lanes,
    /// Source transactions in what the session failed to do.
    failed: Option<u64>,
    /// The source transaction being read.
    source: SourceTransaction,
    /// Where everything relevant has been dealt with, and whether that is worth a row.
    reached: Position,
    /// The position that is known to be in the progress row.
    saved: Option<Position>,
    unsaved: bool,
    last_write: Instant,
    last_save: Instant,
    /// The mapping being worked on, for blame.
    blame: Option<Arc<str>>,
    regions: Regions,
    requests: mpsc::Receiver<Request>,
    reverse: Option<Reverse>,
    loaders: Loaders,
    /// A piece is being written: whatever fails is about its mapping.
    in_piece: bool,
    /// How the copies that have ended stand at the target, by mapping.
    rows: HashMap<String, CopyRow>,
    /// The mappings must be planned anew.
    replan: bool,
}

#[derive(Default)]
struct SourceTransaction {
    inside: bool,
    commit_micros: i64,
    id: Option<TransactionId>,
    hops: Option<HopList>,
    echo: bool,
    changes: u64,
    others_than_progress: bool,
    /// Whether the mappings must be planned anew behind it.
    replans: bool,
    /// Whether it is in the open target transaction.
    joined: bool,
}

/// Tables and ids an applier needs to judge events.
pub struct Scope {
    /// The flow's name.
    pub flow: String,
    /// The source's id.
    pub source_id: SystemId,
    /// The target's id.
    pub target_id: SystemId,
    /// The progress table of the source system.
    pub progress_table: TableName,
    /// The copy table of the source system, and what ends when it tells that a copy of this pipeline
    /// has ended there: the flow and mapping named, and the mapping of ours that waits for it.
    pub snapshot_table: TableName,
    /// See above: `(flow, mapping)` to our mapping.
    pub held_for: HashMap<(String, String), String>,
    /// The mappings.
    pub plans: Vec<Arc<MappingPlan>>,
}

impl Applier {
    /// An applier over an open session.
    pub fn new(
        sink: Box<dyn Sink>,
        scope: Scope,
        begin: Begin,
        shared: Arc<FlowShared>,
        committed: watch::Sender<Option<Committed>>,
    ) -> Self {
        let (careful, suspect) = match begin.care {
            Care::Normal => (0, None),
            Care::Careful { transactions, suspect } => (transactions, suspect),
        };
        let places = Arc::new(Places::new(&scope.plans, &shared.ordered()));
        let names = scope.plans.iter().map(|plan| plan.name.clone());
        Applier {
            session: Session::Idle(Box::new(Hands { sink, rereads: begin.rereads })),
            counters: Counters::new(&scope.flow, names, &shared),
            latency: metrics::histogram!("tidelock_apply_latency_seconds", "flow" => scope.flow.clone()),
            flow: scope.flow,
            source_id: scope.source_id,
            target_id: scope.target_id,
            progress_table: scope.progress_table,
            snapshot_table: scope.snapshot_table,
            held_for: scope.held_for,
            tables: route::by_table(&scope.plans),
            plans: numbered(&scope.plans),
            keepers: begin.keepers,
            touched: Touched::default(),
            late: Vec::new(),
            waiting: Vec::new(),
            delayed: Delayed::new(&scope.plans, begin.put_off),
            gates: begin.gates,
            batcher: Batcher::new(places.clone(), careful > 0),
            places,
            routes: Routes::default(),
            shared,
            committed,
            epoch: begin.epoch,
            seq: begin.seq,
            careful,
            suspect,
            stop_mapping: begin.stop_mapping,
            stopped: begin.stopped,
            tally: Tally::default(),
            open: None,
            committing: None,
            lanes: Lanes::default(),
            failed: None,
            source: SourceTransaction::default(),
            saved: Some(begin.position.clone()),
            reached: begin.position,
            unsaved: false,
            last_write: Instant::now(),
            last_save: Instant::now(),
            blame: None,
            regions: begin.regions,
            requests: begin.requests,
            reverse: begin.reverse,
            loaders: begin.loaders,
            in_piece: false,
            rows: begin.rows,
            replan: false,
        }
    }

    /// Whether rows go one by one.
    pub fn is_careful(&self) -> bool {
        self.careful > 0 || self.in_piece
    }

    /// The mapping an error is about, if the failing statement belonged to one.
    pub fn blame(&self) -> Option<&str> {
        self.blame.as_deref()
    }

    /// Source transactions that may hold what went wrong.
    pub fn open_transactions(&self) -> u64 {
        if let Some(failed) = self.failed {
            return failed;
        }
        let committing = self.committing.as_ref().map_or(0, |c| c.transactions);
        let open = self.open.as_ref().map_or(0, |open| open.transactions);
        committing + self.lanes.transactions() + open + u64::from(self.source.inside)
    }

    /// Runs until `stop` (then what is complete is committed), an error, or the end of the queue.
    pub async fn run(&mut self, queue: &mut Queue, stop: &CancellationToken) -> Result<()> {
        match self.follow(queue, stop).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // What was wrong with what came before is told first, and what was right with it stays.
                self.settled().await?;
                Err(error)
            }
        }
    }

    async fn follow(&mut self, queue: &mut Queue, stop: &CancellationToken) -> Result<()> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.recall_held();
        if let Some(row) = &self.stop_mapping {
            let code = row.code.map_or("", Code::as_str);
            tracing::warn!(flow = %self.flow, mapping = %row.mapping, code, "the mapping stops; its changes are parked from here on");
            // At once: the position stands right before what it cannot apply.
            self.save().await?;
        }
        self.retry().await?;
        loop {
            let awaited = self.session.is_awaited();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.drain().await,
                outcome = self.session.settled(), if awaited => {
                    self.settle(outcome)?;
                    self.go_on().await?;
                }
                landed = self.lanes.landed(), if !awaited && !self.lanes.is_empty() => {
                    self.land(landed)?;
                    self.go_on().await?;
                }
                // Before the log: a few questions, and a copy that waits keeps nothing back.
                Some(request) = self.requests.recv(), if !self.source.inside => {
                    self.regions.take(request, &self.reached);
                    self.copy().await?;
                    // A copy that has ended may be all that rows have waited for.
                    self.retry().await?;
                }
                queued = queue.recv() => {
                    let Some(queued) = queued else { return self.drain().await };
                    for event in queued.chunk.events {
                        self.event(event).await?;
                        if self.replan {
                            break;
                        }
                    }
                }
                _ = tick.tick() => {
                    self.watch_lanes()?;
                    self.retry().await?;
                    self.due().await?;
                    self.idle().await?;
                }
            }
            if self.replan {
                // The rest is read again by the next attempt.
                stop.cancel();
                return self.drain().await;
            }
        }
    }

    /// When nothing is under way any more: what was collected meanwhile, and what waited for it.
    async fn go_on(&mut self) -> Result<()> {
        if self.source.inside || !self.lanes.is_empty() {
            return Ok(());
        }
        // Before what was collected makes the session busy again.
        self.retry().await?;
        self.finish().await?;
        self.copy().await?;
        self.retry().await
    }

    async fn event(&mut self, event: LogEvent) -> Result<()> {
        match event {
            LogEvent::Begin(begin) => {
                if self.open.is_none() && self.committing.is_none() && self.lanes.is_empty() {
                    // The first of a batch is the oldest that is not applied.
                    self.shared.begun_micros.store(begin.commit_micros, Ordering::Relaxed);
                }
                self.source = SourceTransaction {
                    inside: true,
                    commit_micros: begin.commit_micros,
                    id: begin.id,
                    ..Default::default()
                };
                Ok(())
            }
            LogEvent::Change(change) => self.change(change).await,
            LogEvent::Truncate(truncate) => {
                for table in truncate.tables {
                    self.truncate(&table).await?;
                }
                Ok(())
            }
            LogEvent::Commit(commit) => {
                let replans = self.source.replans;
                self.commit(commit.position, commit.commit_micros).await?;
                if replans {
                    self.finish().await?;
                    self.settled().await?;
                    self.replan = true;
                    return Ok(());
                }
                self.copy().await?;
                self.retry().await
            }
            LogEvent::Idle(idle) => {
                self.unsaved |= idle.grew || self.shared.save_wanted.swap(false, Ordering::Relaxed);
                self.reached = idle.position;
                if !self.is_busy() {
                    self.finish().await?;
                }
                if self.open.is_none() && self.committing.is_none() && self.lanes.is_empty() {
                    self.shared.applied.send_replace(Some(self.reached.clone()));
                }
                self.copy().await?;
                self.retry().await?;
                self.idle().await
            }
            LogEvent::TableFault(fault) => match self.running(&fault.table) {
                // The others of the table have their turn in the next attempts.
                Some(Mapped { plan, .. }) => {
                    self.blame = Some(plan.name.clone());
                    Err(fault.error)
                }
                None => Ok(()),
            },
            LogEvent::TableChanged(changed) => self.table_changed(changed).await,
        }
    }

    fn is_stopped(&self, mapping: &str) -> bool {
        self.stopped.contains(mapping)
            || self.stop_mapping.as_ref().is_some_and(|row| row.mapping == mapping)
    }
}

/// The mappings with their numbers.
fn numbered(plans: &[Arc<MappingPlan>]) -> Vec<Mapped> {
    plans.iter().enumerate().map(|(number, plan)| Mapped { plan: plan.clone(), number }).collect()
}

/// What others are shown of a stop.
pub fn shown(row: &StateRow) -> ShownError {
    ShownError {
        code: row.code.map(|c| c.as_str().to_owned()).unwrap_or_default(),
        message: row.message.clone(),
        hint: row.hint.clone(),
    }
}

/// The row that makes a mapping's stop last.
pub fn stop_row(
    pipeline: &str,
    flow: &str,
    mapping: &str,
    error: &Error,
    position: &Position,
) -> StateRow {
    StateRow {
        pipeline: pipeline.to_owned(),
        flow: flow.to_owned(),
        mapping: mapping.to_owned(),
        state: StoredState::Stopped,
        code: Some(error.code()),
        message: error.to_string(),
        hint: whole_command(error.hint().unwrap_or_default(), flow, mapping),
        position: position.to_string(),
    }
}

/// A text whose commands name the mapping with its flow: another flow may have one of the same name.
pub fn whole_command(text: &str, flow: &str, mapping: &str) -> String {
    let bare = format!("`tidelock resync {mapping}`");
    text.replace(&bare, &format!("`tidelock resync {flow}/{mapping}`"))
}

/// Microseconds since 1970 on our clock.
pub fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
