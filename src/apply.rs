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
pub mod place;
pub mod session;
pub mod tally;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidelock_core::{
    Change, Code, CopyPhase, CopyRow, Error, HopList, Load, LoadRows, LogEvent, Mark, Op, OpKind,
    Piece, Position, Result, Row, Sink, StateRow, StoredState, SystemId, TableChanged, TableName,
    TableSchema, TransactionId, Value, progress::HOP_LIST_COLUMN,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::OnTruncate;
use crate::copy::region::{Meeting, Outcome, Ready};
use crate::copy::{Regions, Request};
use crate::flow::copies;
use crate::flow::disposition::Care;
use crate::flow::shared::ShownError;
use crate::flow::{FlowShared, FlowState};
use crate::mapping::{BoundPlan, MappingPlan};
use crate::reader::Queue;
use batch::Batcher;
use place::Places;
use session::{Session, Work};
use tally::{Counters, Fate, Tally};

/// Rows or bytes that are collected at most while the session works: after that the log waits for it.
const ROWS_A_WRITE: usize = 8_000;
const BYTES_A_WRITE: usize = 4 << 20;
/// Changes after which the open target transaction ends at the next source commit, however few rows they are of.
const CHANGES_A_TRANSACTION: usize = 64_000;
/// How often a position without changes may be written.
const IDLE_SAVE: Duration = Duration::from_secs(10);
/// How often an idle session says that it lives; the server ends it after 30 seconds.
const PING: Duration = Duration::from_secs(10);

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
    /// How the copies that have ended stand at the target, by mapping.
    pub rows: HashMap<String, CopyRow>,
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
    plans: HashMap<TableName, Mapped>,
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
    /// Source transactions in what the session failed to do.
    failed: Option<u64>,
    /// The source transaction being read.
    source: SourceTransaction,
    /// Where everything relevant has been dealt with, and whether that is worth a row.
    reached: Position,
    unsaved: bool,
    last_write: Instant,
    last_save: Instant,
    /// The mapping being worked on, for blame.
    blame: Option<Arc<str>>,
    regions: Regions,
    requests: mpsc::Receiver<Request>,
    /// A piece is being written: whatever fails is about its mapping.
    in_piece: bool,
    /// How the copies that have ended stand at the target, by mapping.
    rows: HashMap<String, CopyRow>,
    /// The mappings must be planned anew.
    replan: bool,
}

/// The rows of a piece, converted as they are asked for.
struct Loading {
    bound: BoundPlan,
    rows: Vec<Row>,
}

impl LoadRows for Loading {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn put(&self, row: usize, cells: &mut Vec<Value>) -> Result<()> {
        let row =
            self.rows.get(row).ok_or_else(|| Error::bug("a piece is shorter than it says"))?;
        self.bound.load(row, cells)
    }
}

struct OpenTransaction {
    hops: HopList,
    /// When the source committed the first of it.
    begun_micros: i64,
    /// Until the session has been told of it.
    mark: Option<Mark>,
    changes: usize,
    transactions: u64,
    /// The last source commit inside.
    upto: Option<(Position, i64)>,
}

/// What is to be told when the session has committed.
struct Committing {
    position: Position,
    commit_micros: i64,
    seq: u64,
    transactions: u64,
    tally: Tally,
}

/// A mapping and its number.
#[derive(Clone)]
struct Mapped {
    plan: Arc<MappingPlan>,
    number: usize,
}

/// What a table of the log is to us.
enum Role {
    Progress,
    Copies,
    Unmapped,
    Mapped(Mapped),
}

struct Route {
    role: Role,
    bound: Option<BoundPlan>,
}

/// The shapes met in the log, and what they are to us: found by their address as long as a source keeps
/// one alive, else by name and version.
#[derive(Default)]
struct Routes {
    routes: Vec<Route>,
    known: HashMap<(TableName, u64), usize>,
    recent: Vec<(Arc<TableSchema>, usize)>,
    next: usize,
}

const RECENT: usize = 8;

impl Routes {
    fn recent(&self, shape: &Arc<TableSchema>) -> Option<usize> {
        self.recent.iter().find(|(known, _)| Arc::ptr_eq(known, shape)).map(|(_, at)| *at)
    }

    fn remember(&mut self, shape: &Arc<TableSchema>, at: usize) {
        if self.recent.len() < RECENT {
            self.recent.push((shape.clone(), at));
        } else {
            self.recent[self.next] = (shape.clone(), at);
            self.next = (self.next + 1) % RECENT;
        }
    }
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
            session: Session::Idle(sink),
            counters: Counters::new(&scope.flow, names, &shared),
            latency: metrics::histogram!("tidelock_apply_latency_seconds", "flow" => scope.flow.clone()),
            flow: scope.flow,
            source_id: scope.source_id,
            target_id: scope.target_id,
            progress_table: scope.progress_table,
            snapshot_table: scope.snapshot_table,
            held_for: scope.held_for,
            plans: scope
                .plans
                .into_iter()
                .enumerate()
                .map(|(number, plan)| (plan.source.clone(), Mapped { plan, number }))
                .collect(),
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
            failed: None,
            source: SourceTransaction::default(),
            reached: begin.position,
            unsaved: false,
            last_write: Instant::now(),
            last_save: Instant::now(),
            blame: None,
            regions: begin.regions,
            requests: begin.requests,
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
        committing + open + u64::from(self.source.inside)
    }

    /// Takes up how far the copies of the other direction had come when this was last written.
    fn recall_held(&mut self) {
        for Mapped { plan, .. } in self.plans.values().cloned().collect::<Vec<_>>() {
            if let Some(cursor) = self.regions.held_cursor(&plan.name) {
                self.regions.follow(&plan.name, &cursor, &plan);
            }
        }
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
        loop {
            let awaited = self.session.is_awaited();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.drain().await,
                outcome = self.session.settled(), if awaited => {
                    self.settle(outcome)?;
                    // What was collected meanwhile, and what waited for it.
                    if !self.source.inside {
                        self.finish().await?;
                        self.copy().await?;
                    }
                }
                // Before the log: a few questions, and a copy that waits keeps nothing back.
                Some(request) = self.requests.recv(), if !self.source.inside => {
                    self.regions.take(request, &self.reached);
                    self.copy().await?;
                }
                queued = queue.recv() => {
                    let Some(queued) = queued else { return self.drain().await };
                    for event in queued.chunk.events {
                        self.event(event).await?;
                        if self.replan {
                            // The rest is read again by the next attempt.
                            stop.cancel();
                            return self.drain().await;
                        }
                    }
                }
                _ = tick.tick() => self.idle().await?,
            }
        }
    }

    /// Waits for the session, and takes up what it did.
    async fn settled(&mut self) -> Result<()> {
        let outcome = self.session.settled().await;
        self.settle(outcome)
    }

    fn settle(&mut self, outcome: std::result::Result<(), session::Failure>) -> Result<()> {
        if let Err(session::Failure { error, mapping }) = outcome {
            let committing = self.committing.take().map(|c| c.transactions);
            // Without a commit it was a part of what is open.
            let open = || self.open.as_ref().map_or(0, |open| open.transactions);
            self.failed =
                Some(committing.unwrap_or_else(|| open() + u64::from(self.source.inside)));
            self.blame = mapping;
            return Err(error);
        }
        if !self.session.is_awaited()
            && let Some(mut done) = self.committing.take()
        {
            self.counters.publish(&mut done.tally);
            self.after_commit(done.position, done.seq, Some(done.commit_micros));
            // Only what was committed counts: echoes and foreign transactions in between are read again by
            // the next attempt, and must not use up the care before the row in question is met.
            if self.careful > 0 {
                self.careful = self.careful.saturating_sub(done.transactions);
                if self.careful == 0 {
                    self.trust_again();
                }
            }
            // What came after it is the oldest now.
            if let Some(open) = &self.open {
                self.shared.begun_micros.store(open.begun_micros, Ordering::Relaxed);
            } else if self.source.inside {
                self.shared.begun_micros.store(self.source.commit_micros, Ordering::Relaxed);
            } else {
                self.shared.applied.send_replace(Some(self.reached.clone()));
                self.counters.publish(&mut self.tally);
            }
        }
        Ok(())
    }

    /// Every transaction that was refused together has passed by itself.
    fn trust_again(&mut self) {
        if let Some(mapping) = self.suspect.take()
            && !self.is_stopped(&mapping)
        {
            tracing::info!(flow = %self.flow, %mapping, "the target takes the mapping's changes in the order of the log only; they are not compacted any more");
            self.shared.keep_ordered(&mapping);
            let plans: Vec<_> = self.plans.values().map(|m| m.plan.clone()).collect();
            self.places = Arc::new(Places::new(&plans, &self.shared.ordered()));
        }
        self.batcher = Batcher::new(self.places.clone(), false);
    }

    /// Commits what is complete. A source transaction that is not stays unapplied: its part in the
    /// open target transaction goes away with the session.
    async fn drain(&mut self) -> Result<()> {
        if !self.source.inside {
            self.finish().await?;
            self.settled().await?;
            if self.unsaved {
                self.save().await?;
            }
        }
        self.settled().await
    }

    /// Sends what is collected and gives the session out, with the open target transaction begun.
    async fn direct(&mut self) -> Result<&mut dyn Sink> {
        self.open_transaction().await?;
        self.flush().await?;
        self.settled().await?;
        self.session.sink()
    }

    /// Commits the open target transaction at a place between two source transactions, without going on.
    async fn commit_direct(&mut self) -> Result<()> {
        let position = self.reached.clone();
        self.session.sink()?.commit(&position, 0).await?;
        self.open = None;
        self.counters.publish(&mut self.tally);
        self.after_commit(position, self.seq, None);
        Ok(())
    }

    async fn event(&mut self, event: LogEvent) -> Result<()> {
        match event {
            LogEvent::Begin(begin) => {
                if self.open.is_none() && self.committing.is_none() {
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
                self.commit(commit.position, commit.commit_micros).await?;
                self.copy().await
            }
            LogEvent::Idle(idle) => {
                self.unsaved |= idle.grew || self.shared.save_wanted.swap(false, Ordering::Relaxed);
                self.reached = idle.position;
                if !self.session.is_busy() {
                    self.finish().await?;
                }
                if self.open.is_none() && self.committing.is_none() {
                    self.shared.applied.send_replace(Some(self.reached.clone()));
                }
                self.copy().await?;
                self.idle().await
            }
            LogEvent::TableFault(fault) => match self.plans.get(&fault.table) {
                Some(Mapped { plan, .. }) if !self.is_stopped(&plan.name) => {
                    self.blame = Some(plan.name.clone());
                    Err(fault.error)
                }
                Some(_) | None => Ok(()),
            },
            LogEvent::TableChanged(changed) => self.table_changed(changed).await,
        }
    }

    /// A table is another one from here on: what that means for its mapping is decided by a new attempt,
    /// so it is written down, with the position behind it, and this one ends.
    async fn table_changed(&mut self, changed: TableChanged) -> Result<()> {
        let Some(Mapped { plan, .. }) = self.plans.get(&changed.table).cloned() else {
            return Ok(());
        };
        if self.is_stopped(&plan.name) {
            return Ok(());
        }
        self.finish().await?;
        self.settled().await?;
        let change = changed.change;
        // What is still to be read shows whatever became of the rows.
        if change.why().is_some() && !self.regions.begins(&plan.name) {
            let row = self.regions.row(&plan.name).or_else(|| self.rows.get(&*plan.name));
            if let Some(row) = row.map(|row| copies::with_pending(row, &change)) {
                self.direct().await?.record_copy(&row).await?;
                self.commit_direct().await?;
            }
        } else if !changed.replan {
            return Ok(());
        }
        self.replan = true;
        Ok(())
    }

    async fn change(&mut self, change: Change) -> Result<()> {
        let first = self.source.changes == 0;
        self.source.changes += 1;
        let route = self.route(&change.table);
        let Mapped { plan, number } = match &self.routes.routes[route].role {
            Role::Progress => {
                if first {
                    self.meet_progress_row(&change)?;
                }
                return Ok(());
            }
            Role::Copies => return self.meet_copy_row(&change).await,
            Role::Unmapped => {
                self.source.others_than_progress = true;
                return Ok(());
            }
            Role::Mapped(mapped) => mapped.clone(),
        };
        self.source.others_than_progress = true;
        let kind = change.op.kind();
        if self.is_stopped(&plan.name) {
            let fate = if self.source.echo { Fate::Echo } else { Fate::Parked };
            self.tally.add(number, kind, fate);
            return Ok(());
        }
        let mut meeting = Meeting::Apply;
        if !self.regions.is_empty() {
            if let Some(id) = self.source.id {
                self.regions.note(id);
            }
            self.blame = Some(plan.name.clone());
            let held = self.regions.is_held(&plan.name);
            if !held {
                meeting = self.regions.meet(&plan.name, &change, self.source.echo).await?;
            } else if !self.source.echo {
                // The other direction's copy overwrites what it has not come to yet.
                let key = self.bound(route, &change.table)?.target_key(&change.op)?;
                if !self.regions.follows(&plan.name, &key, &plan).await? {
                    meeting = Meeting::Later;
                }
            }
        }
        if self.source.echo {
            self.tally.add(number, kind, Fate::Echo);
            return Ok(());
        }
        if matches!(meeting, Meeting::Later) {
            self.tally.add(number, kind, Fate::Superseded);
            return Ok(());
        }
        self.blame = Some(plan.name.clone());
        let bound = self.bound(route, &change.table)?;
        let write = match (meeting, change.op) {
            (Meeting::Later, _) => return Ok(()),
            (Meeting::Insert(insert), _) => bound.write(Op::Insert(insert))?,
            (Meeting::Erase, Op::Update(update)) => Some(bound.erase(&update.old, &update.new)?),
            (Meeting::Apply | Meeting::Erase, op) => bound.write(op)?,
        };
        let Some(write) = write else {
            self.tally.add(number, kind, Fate::Filtered);
            return Ok(());
        };
        self.blame = None;
        self.regions.wrote(&plan.name, write.keys);
        self.open_transaction().await?;
        self.tally.add(number, kind, Fate::Applied);
        if let Some(replaced) = self.batcher.push(&plan, write, kind) {
            self.tally.supersede(number, replaced);
        }
        if let Some(open) = &mut self.open {
            open.changes += 1;
        }
        if self.is_full() {
            self.flush().await?;
        }
        Ok(())
    }

    /// What a table of the log is to us.
    fn route(&mut self, shape: &Arc<TableSchema>) -> usize {
        if let Some(at) = self.routes.recent(shape) {
            return at;
        }
        let known = (shape.name.clone(), shape.version);
        let at = match self.routes.known.get(&known) {
            Some(at) => *at,
            None => {
                let role = if shape.name == self.progress_table {
                    Role::Progress
                } else if shape.name == self.snapshot_table {
                    Role::Copies
                } else {
                    self.plans.get(&shape.name).cloned().map_or(Role::Unmapped, Role::Mapped)
                };
                self.routes.routes.push(Route { role, bound: None });
                self.routes.known.insert(known, self.routes.routes.len() - 1);
                self.routes.routes.len() - 1
            }
        };
        self.routes.remember(shape, at);
        at
    }

    /// The hop list of a transaction that a tidelock wrote.
    fn meet_progress_row(&mut self, change: &Change) -> Result<()> {
        let row = match &change.op {
            Op::Insert(insert) => &insert.new,
            Op::Update(update) => &update.new,
            Op::Delete(_) => return Ok(()),
        };
        let text = hop_list_cell(&change.table, row).ok_or_else(|| {
            Error::continuity(Code::UnsupportedEvent, format!("{}: a progress row without a readable hop list", self.progress_table))
                .with_hint("do not change tidelock's own tables; a newer tidelock on the same database must be the same on all")
        })?;
        self.source.echo = text.contains(&self.target_id);
        self.source.hops = Some(text);
        Ok(())
    }

    /// A copy of the other direction has ended: what waited for it is followed from here on.
    async fn meet_copy_row(&mut self, change: &Change) -> Result<()> {
        let row = match &change.op {
            Op::Insert(insert) => &insert.new,
            Op::Update(update) => &update.new,
            Op::Delete(_) => return Ok(()),
        };
        let cell = |name: &str| {
            let at = change.table.columns.iter().position(|c| c.name == name)?;
            match row.0.get(at)? {
                Value::Text(text) => Some(text.to_string()),
                _ => None,
            }
        };
        let (Some(flow), Some(mapping), Some(phase), Some(cursor)) =
            (cell("flow"), cell("mapping"), cell("phase"), cell("cursor"))
        else {
            return Ok(());
        };
        let Some(ours) = self.held_for.get(&(flow, mapping)).cloned() else { return Ok(()) };
        let plan = self.plan_of(&ours)?.plan;
        let row = match CopyPhase::parse(&phase) {
            Some(CopyPhase::Done) => self.regions.release(&ours),
            Some(CopyPhase::Rows) => self.regions.follow(&plan.name, &cursor, &plan),
            Some(CopyPhase::Held | CopyPhase::Sweep) | None => None,
        };
        if let Some(row) = row {
            self.direct().await?.record_copy(&row).await?;
            self.shared.show_copy(&ours, &row);
            self.regions.committed(&ours, row.clone());
            self.rows.insert(ours, row);
            self.show_copies();
        }
        Ok(())
    }

    /// Between two source transactions: answers the copier, and writes what is ready.
    async fn copy(&mut self) -> Result<()> {
        if self.regions.is_empty() || self.source.inside {
            return Ok(());
        }
        loop {
            while let Ok(request) = self.requests.try_recv() {
                self.regions.take(request, &self.reached);
            }
            let Some(ready) = self.regions.ready(&self.reached)? else { return Ok(()) };
            self.finish().await?;
            self.settled().await?;
            self.in_piece = true;
            let (mapping, row, reply) = match ready {
                Ready::Rows { mapping, piece, row, reply } => {
                    self.blame = Some(mapping.clone());
                    self.direct().await?;
                    let plan = self.plan_of(&mapping)?.plan;
                    self.load(&plan, piece, &row).await?;
                    (mapping, row, reply)
                }
                Ready::Sweep { mapping, keys, row, reply } => {
                    self.blame = Some(mapping.clone());
                    let plan = self.plan_of(&mapping)?.plan;
                    let mut removed = 0;
                    for key in keys {
                        let write = BoundPlan::remove(&plan, &key);
                        if !self.regions.touched(&mapping, write.keys[0]) {
                            self.batcher.push(&plan, write, OpKind::Delete);
                            removed += 1;
                        }
                    }
                    if removed > 0 {
                        tracing::warn!(flow = %self.flow, %mapping, removed, "removing rows that the source does not have");
                    }
                    self.direct().await?;
                    self.blame = None;
                    let sink = self.session.sink()?;
                    sink.record_copy(&row).await?;
                    sink.commit(&self.reached, 0).await?;
                    (mapping, row, reply)
                }
            };
            self.open = None;
            self.in_piece = false;
            self.counters.publish(&mut self.tally);
            self.after_commit(self.reached.clone(), self.seq, None);
            self.regions.committed(&mapping, row.clone());
            self.rows.insert(mapping.to_string(), row.clone());
            self.shared.show_copy(&mapping, &row);
            self.show_copies();
            // A copier that has gone away is not told; the attempt ends then.
            let _gone = reply.send(Outcome::Written);
        }
    }

    /// Loads a piece, and commits it with the cursor and the position. The copier is answered
    /// meanwhile, so that the next piece is read while this one is written: the flow stands still
    /// until then, and its position is what this transaction commits.
    async fn load(&mut self, plan: &Arc<MappingPlan>, piece: Piece, row: &CopyRow) -> Result<()> {
        let Piece { table, rows, mut lines, .. } = piece;
        let bound = BoundPlan::new(plan, &table)?;
        let mut loading = Loading { bound, rows };
        let Applier { session, regions, requests, reached, blame, .. } = self;
        let sink = session.sink()?;
        let written = async {
            if let Some(lines) = lines.take()
                && !(loading.bound.is_identity(&table)
                    && sink.load_lines(&plan.target, loading.bound.columns(), &lines).await?)
            {
                loading.rows.extend(lines.rows()?);
            }
            if !loading.rows.is_empty() {
                let columns = loading.bound.columns().clone();
                let (mapping, table) = (plan.name.clone(), plan.target.clone());
                sink.load(&Load { mapping, table, columns, rows: &loading }).await?;
            }
            // What fails from here on is not about the rows.
            *blame = None;
            sink.record_copy(row).await?;
            sink.commit(reached, 0).await
        };
        tokio::pin!(written);
        loop {
            tokio::select! {
                biased;
                outcome = &mut written => return outcome,
                Some(request) = requests.recv() => regions.take(request, reached),
            }
        }
    }

    fn show_copies(&self) {
        let state =
            if self.regions.is_empty() { FlowState::Streaming } else { FlowState::Snapshotting };
        self.shared.set_state(state, None);
    }

    fn plan_of(&self, mapping: &str) -> Result<Mapped> {
        let mapped = self.plans.values().find(|m| &*m.plan.name == mapping).cloned();
        mapped.ok_or_else(|| Error::bug("a copy without its mapping"))
    }

    fn is_stopped(&self, mapping: &str) -> bool {
        self.stopped.contains(mapping)
            || self.stop_mapping.as_ref().is_some_and(|row| row.mapping == mapping)
    }

    fn bound(&mut self, route: usize, shape: &Arc<TableSchema>) -> Result<&mut BoundPlan> {
        let route = &mut self.routes.routes[route];
        if let (Role::Mapped(mapped), None) = (&route.role, &route.bound) {
            route.bound = Some(BoundPlan::new(&mapped.plan, shape)?);
        }
        route.bound.as_mut().ok_or_else(|| Error::bug("a plan that was just bound is gone"))
    }

    async fn truncate(&mut self, table: &TableName) -> Result<()> {
        self.source.changes += 1;
        self.source.others_than_progress = true;
        let Some(Mapped { plan, .. }) = self.plans.get(table).cloned() else { return Ok(()) };
        if self.is_stopped(&plan.name) {
            return Ok(());
        }
        if plan.on_truncate == OnTruncate::Delete && !self.regions.meet_truncate(&plan.name) {
            return Ok(());
        }
        if self.source.echo {
            return Ok(());
        }
        match plan.on_truncate {
            OnTruncate::Ignore => Ok(()),
            OnTruncate::Delete => {
                self.open_transaction().await?;
                self.batcher.delete_all(&plan);
                Ok(())
            }
            OnTruncate::Halt => {
                self.blame = Some(plan.name.clone());
                Err(Error::data(Code::Truncated, format!("{table} was truncated at the source"))
                    .with_hint("set on_truncate = \"delete\" or \"ignore\" for this mapping"))
            }
        }
    }

    /// Opens the target transaction, or goes on in the open one if its hop list is the same.
    async fn open_transaction(&mut self) -> Result<()> {
        if self.source.joined && self.open.is_some() {
            return Ok(());
        }
        self.source.joined = self.source.inside;
        let hops = self.source.hops.clone().unwrap_or_default().with(&self.source_id);
        if let Some(open) = &self.open {
            if open.hops == hops {
                return Ok(());
            }
            if open.upto.is_none() {
                return Err(Error::bug("two hop lists in one source transaction"));
            }
            self.finish().await?;
        }
        self.seq += 1;
        let mark = Mark { epoch: self.epoch, seq: self.seq, hops: hops.clone() };
        let mark = Some(mark);
        let begun_micros = self.source.commit_micros;
        self.open = Some(OpenTransaction {
            hops,
            begun_micros,
            mark,
            changes: 0,
            transactions: 0,
            upto: None,
        });
        Ok(())
    }

    /// Whether what is collected must go out before more is.
    fn is_full(&self) -> bool {
        self.batcher.rows() >= ROWS_A_WRITE || self.batcher.bytes() >= BYTES_A_WRITE
    }

    /// Sends what is collected, and leaves the target transaction open.
    async fn flush(&mut self) -> Result<()> {
        self.send(None).await
    }

    async fn send(&mut self, commit: Option<(Position, i64)>) -> Result<()> {
        self.settled().await?;
        let mark = self.open.as_mut().and_then(|open| open.mark.take());
        let stop = self.stop_mapping.clone().filter(|_| mark.is_some());
        let work = Work { mark, stop, batches: self.batcher.take(), commit };
        self.last_write = Instant::now();
        if work.mark.is_some() || work.commit.is_some() || !work.batches.is_empty() {
            self.session.start(work)?;
        }
        Ok(())
    }

    async fn commit(&mut self, position: Position, commit_micros: i64) -> Result<()> {
        let source = std::mem::take(&mut self.source);
        self.unsaved |= source.others_than_progress;
        self.reached = position.clone();
        let busy = self.session.is_busy();
        if let Some(open) = &mut self.open {
            open.upto = Some((position, commit_micros.max(source.commit_micros)));
            open.transactions += 1;
            let full = open.changes >= CHANGES_A_TRANSACTION || open.mark.is_none();
            if !busy || full || self.is_full() || self.careful > 0 {
                self.finish().await?;
            }
            if self.careful > 0 {
                self.settled().await?;
            }
        } else if self.committing.is_none() {
            self.shared.applied.send_replace(Some(position));
            self.counters.publish(&mut self.tally);
        }
        Ok(())
    }

    /// Ends the open target transaction at its last whole source transaction: the session commits it.
    async fn finish(&mut self) -> Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.settled().await?;
        let Some(open) = &self.open else { return Ok(()) };
        let Some((upto, commit_micros)) = open.upto.clone() else {
            return Err(Error::bug("a target transaction was to end inside a source transaction"));
        };
        let transactions = open.transactions;
        // What came after the last commit inside and needed no row is covered too.
        let position = if self.source.inside { upto } else { self.reached.clone() };
        self.send(Some((position.clone(), commit_micros))).await?;
        self.open = None;
        let tally = std::mem::take(&mut self.tally);
        let seq = self.seq;
        self.committing = Some(Committing { position, commit_micros, seq, transactions, tally });
        Ok(())
    }

    fn after_commit(&mut self, position: Position, seq: u64, commit_micros: Option<i64>) {
        self.last_write = Instant::now();
        self.last_save = Instant::now();
        // What has been met since is not in it.
        self.unsaved &= position != self.reached;
        self.note_stopped();
        if let Some(micros) = commit_micros {
            self.latency.record((now_micros() - micros).max(0) as f64 / 1e6);
        }
        self.shared.applied.send_replace(Some(position.clone()));
        self.committed.send_replace(Some(Committed { position, epoch: self.epoch, seq }));
    }

    fn note_stopped(&mut self) {
        let Some(row) = self.stop_mapping.take() else { return };
        self.regions.drop_mapping(&row.mapping);
        self.shared.set_stopped(&row.mapping, Some(shown(&row)), false);
        self.stopped.insert(row.mapping);
    }

    /// Writes the position on its own, with a pending stop of a mapping.
    async fn save(&mut self) -> Result<()> {
        self.settled().await?;
        let mark = Mark {
            epoch: self.epoch,
            seq: self.seq + 1,
            hops: HopList::default().with(&self.source_id),
        };
        let position = self.reached.clone();
        let sink = self.session.sink()?;
        if let Some(row) = self.stop_mapping.clone() {
            sink.begin(&mark).await?;
            sink.record(&row).await?;
            sink.commit(&position, 0).await?;
        } else {
            sink.save_position(&mark, &position).await?;
        }
        self.seq = mark.seq;
        self.counters.publish(&mut self.tally);
        self.after_commit(position, self.seq, None);
        Ok(())
    }

    /// Writes down what tables are by now, with the position.
    async fn keep_shapes(&mut self) -> Result<()> {
        for (mapping, shape) in self.shared.take_shapes() {
            if self.is_stopped(&mapping) {
                continue;
            }
            if self.regions.row(&mapping).is_some() {
                // Once its copy has ended.
                self.shared.keep_shape(&mapping, shape);
                continue;
            }
            let Some(row) = self.rows.get(&*mapping).and_then(|r| copies::with_shape(r, shape))
            else {
                continue;
            };
            self.direct().await?.record_copy(&row).await?;
            self.commit_direct().await?;
            self.rows.insert(mapping.to_string(), row);
        }
        Ok(())
    }

    async fn idle(&mut self) -> Result<()> {
        if self.open.is_some() || self.source.inside || self.session.is_awaited() {
            // A transaction that is piped through may wait for its source for long.
            if !self.session.is_awaited() && self.last_write.elapsed() >= PING {
                self.session.sink()?.ping().await?;
                self.last_write = Instant::now();
            }
            return Ok(());
        }
        self.keep_shapes().await?;
        if self.unsaved && self.last_save.elapsed() >= IDLE_SAVE {
            return self.save().await;
        }
        if self.last_write.elapsed() >= PING {
            self.session.sink()?.ping().await?;
            self.last_write = Instant::now();
        }
        Ok(())
    }
}

fn hop_list_cell(table: &TableSchema, row: &Row) -> Option<HopList> {
    let column = table.columns.iter().position(|c| c.name == HOP_LIST_COLUMN)?;
    match row.0.get(column)? {
        Value::Text(text) => HopList::decode(text).map(|(_, hops)| hops),
        _ => None,
    }
}

fn shown(row: &StateRow) -> ShownError {
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
        hint: error.hint().unwrap_or_default().to_owned(),
        position: position.to_string(),
    }
}

/// Microseconds since 1970 on our clock.
pub fn now_micros() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
