//! Lanes: several sessions write source transactions side by side, and commit one after the other.
//!
//! As long as the flow keeps up, its own session writes everything. When a batch is full before that session has ended the one
//! before, the batch is written by another session at the same time, in a transaction of its own, and so are those after it,
//! up to the flow's number of lanes. Each waits with its commit until the one before has committed: so transactions become
//! visible in the order of the log, and each moves the flow's one position from where the one before has left it
//! ([`tidelock_core::sink`]). A crash leaves a beginning of them committed and nothing of the others. The number of lanes is nobody's
//! business but ours: it may be another at each start.
//!
//! **What goes side by side** has nothing in common ([`Footprint`]): no key of a table; no table with more unique indexes than its key, unless all
//! that is done there is to insert; no table that points to itself, and none that a foreign key or a lookup leads to from a table of the other. A batch that has waits
//! until what it depends on has landed. Only whole source transactions go by lanes, and only rows: calls, lookups, views, gates, rows that wait for others, and
//! mappings that are written in the order of the log are left to the flow's own session, which waits for all lanes.
//!
//! **Refused together.** What two batches may have in common beyond that (what triggers do, a unique value that the log does not tell of) can only be refused, or be waited
//! for: rows are named by their keys, so no order leaves another row. What is refused is no verdict: the flow goes on with its own
//! session alone for an hour, and what is refused then counts. A batch that waits for a lock of a later one, which waits for its turn, is seen by the time that takes ([`STALL`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidelock_core::{
    Code, Error, ErrorKind, Mark, Position, Result, TableName, WriteBatch, WriteOp,
};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::Applier;
use super::batch::{Keys, Step, keys_of};
use super::loaders::{Loader, Opening};
use super::now_micros;
use super::place::Places;
use super::session::{Failure, perform_step};
use super::transaction::Committing;

/// How long a batch may wait for its turn while the one before is still being written. Well below the time after which
/// the servers end a transaction that does nothing.
const STALL: Duration = Duration::from_secs(10);
/// How long a flow goes on with its own session where the target refused what was written at once.
const ALONE_MICROS: i64 = 3_600_000_000;
/// Between two looks whether one does.
const STALL_LOOK: Duration = Duration::from_millis(500);

/// What a batch writes, as far as it matters to others beside it.
#[derive(Debug, Default)]
pub struct Footprint {
    tables: HashMap<TableName, Trace>,
    /// What the tables point to or look up.
    above: HashSet<TableName>,
}

/// What a batch does to a table.
#[derive(Debug)]
struct Trace {
    /// The keys, as far as they are known.
    keys: Option<Keys>,
    /// Whether there is more than one unique value to a row, and something else is done than to insert.
    hands_over: bool,
    has_uniques: bool,
    points_to_itself: bool,
}

impl Footprint {
    /// Of these steps; `None` if they may not go beside others at all.
    pub fn of(steps: &[Step], places: &Places) -> Option<Footprint> {
        let mut tables: HashMap<TableName, Trace> = HashMap::new();
        for step in steps {
            let Step::Write(batches) = step else { return None };
            for batch in batches {
                let WriteBatch { table, op, .. } = batch;
                let place = places.of(table.id);
                if place.strict || place.shared || *op == WriteOp::DeleteAll {
                    return None;
                }
                let trace = tables.entry(table.name.clone()).or_insert_with(|| Trace {
                    keys: Some(Keys::default()),
                    hands_over: false,
                    has_uniques: place.has_uniques,
                    points_to_itself: place.in_order,
                });
                trace.hands_over |= place.has_uniques && *op != WriteOp::Insert;
                match (trace.keys.as_mut(), keys_of(batch)) {
                    (Some(keys), Some(more)) => keys.extend(more),
                    (Some(_) | None, Some(_) | None) => trace.keys = None,
                }
            }
        }
        let above = places.above(&tables.keys().cloned().collect());
        Some(Footprint { tables, above })
    }

    /// Whether two batches have something in common.
    pub fn meets(&self, other: &Footprint) -> bool {
        let leads = |from: &Footprint, to: &Footprint| {
            !from.above.is_empty() && to.tables.keys().any(|table| from.above.contains(table))
        };
        leads(self, other)
            || leads(other, self)
            || self
                .tables
                .iter()
                .any(|(name, ours)| other.tables.get(name).is_some_and(|theirs| ours.meets(theirs)))
    }
}

impl Trace {
    fn meets(&self, other: &Trace) -> bool {
        self.points_to_itself
            || (self.has_uniques && (self.hands_over || other.hands_over))
            || match (&self.keys, &other.keys) {
                (Some(ours), Some(theirs)) => !ours.is_disjoint(theirs),
                _ => true,
            }
    }
}

/// What is under way beside, or in, the flow's own session.
#[derive(Default)]
pub struct Lanes {
    flights: VecDeque<Flight>,
    /// Tells when the last batch that was begun has committed.
    last: Option<oneshot::Receiver<()>>,
    /// What the flow's own session is writing; `None` if nothing may go beside it.
    own: Option<Footprint>,
}

/// A batch that a lane writes.
struct Flight {
    task: AbortOnDropHandle<(Loader, std::result::Result<(), Failure>)>,
    footprint: Footprint,
    committing: Committing,
    waits: Waits,
}

/// Since when a batch waits for its turn.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Option<Instant>>>);

impl Waits {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn for_long(&self) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > STALL)
    }
}

impl Lanes {
    /// Whether none is at work.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether the last one is.
    pub fn is_busy(&self) -> bool {
        self.flights.back().is_some_and(|flight| !flight.task.is_finished())
    }

    /// The flow's own session begins a batch that ends with a commit, with nothing else under way. Answers whom to tell of it.
    pub fn begin_own(&mut self, footprint: Option<Footprint>) -> oneshot::Sender<()> {
        let (done, last) = oneshot::channel();
        (self.own, self.last) = (footprint, Some(last));
        done
    }

    /// It has ended.
    pub fn end_own(&mut self) {
        self.own = None;
    }

    /// Gives up what is under way: the servers take it back with the sessions.
    pub fn abandon(&mut self) {
        self.flights.clear();
    }

    /// Source transactions in what is under way.
    pub fn transactions(&self) -> u64 {
        self.flights.iter().map(|flight| flight.committing.transactions).sum()
    }

    /// When the source committed the first of what is under way, microseconds since 1970.
    pub fn begun_micros(&self) -> Option<i64> {
        self.flights.front().map(|flight| flight.committing.begun_micros)
    }

    /// What the oldest comes to; never while there is none. Cancel-safe.
    pub async fn landed(&mut self) -> Landed {
        let Some(flight) = self.flights.front_mut() else { return std::future::pending().await };
        let outcome = (&mut flight.task).await;
        let committing = self.flights.pop_front().map(|flight| flight.committing);
        let (loader, outcome) = match outcome {
            Ok((loader, outcome)) => (Some(loader), outcome),
            Err(panic) => {
                let error = Error::bug(format!("writing by a lane ended in a panic: {panic}"));
                (None, Err(Failure { error, mapping: None }))
            }
        };
        Landed { loader, committing, outcome }
    }

    /// The same; `None` if that takes too long.
    async fn landed_or_stalled(&mut self) -> Option<Landed> {
        loop {
            match tokio::time::timeout(STALL_LOOK, self.landed()).await {
                Ok(landed) => return Some(landed),
                Err(_) if self.is_stalled() => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether a batch has waited for its turn for too long: the one before may be waiting for a lock that it holds.
    pub fn is_stalled(&self) -> bool {
        self.flights.iter().any(|flight| flight.waits.for_long())
    }

    /// Comes back when one has.
    async fn stalled(&self) {
        while !self.is_stalled() {
            tokio::time::sleep(STALL_LOOK).await;
        }
    }
}

/// What a lane has done.
pub struct Landed {
    loader: Option<Loader>,
    committing: Option<Committing>,
    outcome: std::result::Result<(), Failure>,
}

/// What a lane is to do.
struct Flying {
    loader: Loader,
    opening: Arc<Opening>,
    steps: Vec<Step>,
    turn: Mark,
    position: Position,
    commit_micros: i64,
    /// Tells when the one before has committed.
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
    waits: Waits,
}

async fn fly(flying: Flying) -> (Loader, std::result::Result<(), Failure>) {
    let Flying { mut loader, opening, steps, turn, position, commit_micros, before, done, waits } =
        flying;
    let blamed = |error: Error| Failure { error, mapping: None };
    let flown = async {
        let (sink, mark) = loader.next(&opening, turn.hops.clone()).await.map_err(blamed)?;
        sink.begin_lane(&mark).await.map_err(blamed)?;
        for step in steps {
            perform_step(sink, step).await?;
        }
        if let Some(before) = before {
            waits.set(Some(Instant::now()));
            let committed = before.await;
            waits.set(None);
            committed.map_err(|_| blamed(Error::bug("the batch before was not committed")))?;
        }
        sink.commit_in_turn(&turn, &position, commit_micros).await.map_err(|error| {
            let mapping = error.mapping().map(Arc::from);
            Failure { error, mapping }
        })?;
        // Perhaps nothing comes after it.
        let _nobody = done.send(());
        Ok(())
    };
    let flown = flown.await;
    (loader, flown)
}

impl Applier {
    /// Whether work is under way whose end has not been told.
    pub(super) fn is_awaited(&self) -> bool {
        self.session.is_awaited() || !self.lanes.is_empty()
    }

    /// Whether work is under way that has not ended.
    pub(super) fn is_busy(&self) -> bool {
        self.session.is_busy() || self.lanes.is_busy()
    }

    /// Whether what is collected may go by a lane, as far as that does not depend on its rows.
    pub(super) fn may_fly(&self) -> bool {
        self.loaders.lanes() > 1
            && self.careful == 0
            && self.stop_mapping.is_none()
            && self.touched.is_empty()
            && self.late.is_empty()
            && self.waiting.is_empty()
            && self.delayed.is_empty()
            && self.regions.is_empty()
            && self.gates.is_empty()
            && now_micros() >= self.shared.alone_until_micros.load(Ordering::Relaxed)
    }

    /// Sends a full batch that ends with a source transaction, while others are under way: beside them, when a lane is
    /// free and nothing that it depends on is under way any more.
    pub(super) async fn fly(&mut self) -> Result<()> {
        let steps = self.batcher.take();
        let Some(footprint) = Footprint::of(&steps, &self.places) else {
            self.settled().await?;
            return self.finish_with(steps, None);
        };
        let loader = loop {
            if !self.is_awaited() {
                return self.finish_with(steps, Some(footprint));
            }
            let meets_own = self.session.is_awaited()
                && self.lanes.own.as_ref().is_none_or(|own| own.meets(&footprint));
            let meets = meets_own
                || self.lanes.flights.iter().any(|flight| flight.footprint.meets(&footprint));
            if !meets && let Some(loader) = self.loaders.take_lane() {
                break loader;
            }
            self.settle_oldest().await?;
        };
        // It may have nothing to do for as long as the flow is behind.
        self.keep_alive().await?;
        let Some((turn, committing)) = self.close()? else { return Ok(()) };
        let Some(turn) = turn else {
            return Err(Error::bug("a transaction that was begun was given to a lane"));
        };
        let (done, last) = oneshot::channel();
        let waits = Waits::default();
        let task = fly(Flying {
            loader,
            opening: self.loaders.opening().clone(),
            steps,
            turn,
            position: committing.position.clone(),
            commit_micros: committing.commit_micros,
            before: self.lanes.last.replace(last),
            done,
            waits: waits.clone(),
        });
        let task = AbortOnDropHandle::new(tokio::spawn(task));
        self.lanes.flights.push_back(Flight { task, footprint, committing, waits });
        Ok(())
    }

    /// Waits for what was begun first, and takes up what it did.
    async fn settle_oldest(&mut self) -> Result<()> {
        let Applier { session, lanes, .. } = self;
        if session.is_awaited() {
            let outcome = tokio::select! {
                biased;
                outcome = session.settled() => Some(outcome),
                () = lanes.stalled() => None,
            };
            return match outcome {
                Some(outcome) => self.settle(outcome),
                None => Err(self.stalled()),
            };
        }
        if lanes.is_empty() {
            return Ok(());
        }
        let landed = lanes.landed_or_stalled().await;
        match landed {
            Some(landed) => self.land(landed),
            None => Err(self.stalled()),
        }
    }

    /// Waits for everything that is under way, and takes up what it did.
    pub(super) async fn settled(&mut self) -> Result<()> {
        while self.is_awaited() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    /// Takes up what a lane did.
    pub(super) fn land(&mut self, landed: Landed) -> Result<()> {
        let Landed { loader, committing, outcome } = landed;
        match (outcome, committing) {
            (Ok(()), Some(committing)) => {
                if let Some(loader) = loader {
                    self.loaders.give(loader);
                }
                metrics::counter!("tidelock_lane_transactions_total", "flow" => self.flow.clone())
                    .increment(1);
                self.committed(committing);
                Ok(())
            }
            (Ok(()), None) => Err(Error::bug("a lane has landed that never began")),
            (Err(Failure { error, mapping }), committing) => {
                let transactions = committing.map_or(0, |c| c.transactions);
                self.failed = Some(transactions + self.lanes.transactions());
                self.blame = mapping;
                // Those after it cannot have their turn any more.
                self.lanes.abandon();
                Err(self.refused_beside(error))
            }
        }
    }

    /// What an error means that came up while several batches were written at once.
    pub(super) fn refused_beside(&self, error: Error) -> Error {
        // Deadlocks and waits for locks are among the busy ones.
        if error.kind() != ErrorKind::Data && error.code() != Code::ServerBusy {
            return error;
        }
        self.go_alone(&format!("{error}"));
        let said = format!("a batch was refused beside others, and is tried by itself: {error}");
        Error::transient(Code::ServerBusy, said)
    }

    /// Looks whether one waits for ever.
    pub(super) fn watch_lanes(&mut self) -> Result<()> {
        if self.lanes.is_stalled() { Err(self.stalled()) } else { Ok(()) }
    }

    fn stalled(&mut self) -> Error {
        let said =
            "a batch waits for another that comes after it (do triggers write the same rows?)";
        self.go_alone(said);
        self.lanes.abandon();
        Error::transient(Code::ServerBusy, said)
    }

    fn go_alone(&self, why: &str) {
        tracing::warn!(flow = %self.flow, why, "batches are written one after the other for an hour");
        let until = now_micros().saturating_add(ALONE_MICROS);
        self.shared.alone_until_micros.store(until, Ordering::Relaxed);
    }
}
