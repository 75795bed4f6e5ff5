//! The tasks that read: each one part after the other and one piece after the other, the next one being
//! read while the one before is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidelock_core::{
    Code, Connector, Copier, CopyPhase, CopyReason, CopyRow, CopyTable, Error, ErrorKind, Key,
    KeyRange, Piece, Position, Reach, Result, copy::key_order,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::Reverse;
use super::region::parts_of;
use super::request::{Outcome, Request, Watching};
use super::schedule::{Schedule, Span, Work};
use crate::flow::{FlowContext, FlowShared, FlowState, copies, shapes};
use crate::mapping::MappingPlan;

/// Rows of the first piece; later ones follow the width of the rows.
const ROWS_FIRST: usize = 1_000;
/// Rows of a piece at most: what the log brings waits while a piece is written.
const ROWS_MAX: usize = 100_000;
/// Rows of a piece at most whose rows at the target are locked while it is written.
const ROWS_LOCKED_MAX: usize = 5_000;
/// Memory that the pieces of all workers should take, each counted once. Of each worker three are about at most: one
/// written, one waiting, one being read.
const PIECE_BYTES: usize = 16 << 20;
/// Memory beyond which they are cut smaller.
const PIECE_BYTES_MAX: usize = 32 << 20;
/// Rows of a part at least, and at most: to find the end of one the server counts its keys.
const PART_ROWS_MIN: u64 = 10_000;
const PART_ROWS_MAX: u64 = 2_000_000;
/// Parts at most; fewer where the database must be asked in which part a key lies.
const PARTS_MAX: u64 = 256;
const PARTS_MAX_ASKED: u64 = 16;
/// Between two looks whether a snapshot shows what was applied already.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often a log at rest is asked for its end.
const NUDGE_EVERY: Duration = Duration::from_millis(5);
/// How long that may take before it is told.
const NOTICE_AFTER: Duration = Duration::from_secs(5);
/// Between two looks whether the other direction goes on.
const STANDS_LOOK: Duration = Duration::from_millis(100);
/// Time that copying may have been late and still make up for.
const PACE_CREDIT: Duration = Duration::from_secs(1);

/// A mapping to be copied.
#[derive(Debug, Clone)]
pub struct Job {
    /// The mapping.
    pub mapping: Arc<str>,
    /// What is read.
    pub table: CopyTable,
    /// Whether its keys can be compared here.
    pub alike: bool,
    /// Whether the target takes the source's rows as they are, so that they may stay text.
    pub as_lines: bool,
    /// Whether it may be cut into parts that are copied at once.
    pub splits: bool,
    /// Whether the pieces are but keys, whose rows are read again: the stream is applied everywhere meanwhile.
    pub by_key: bool,
    /// How far it has come.
    pub row: CopyRow,
}

/// What the task works with.
pub struct Copying {
    /// The flow's name.
    pub flow: String,
    /// The source.
    pub source: Arc<dyn Connector>,
    /// The target.
    pub target: Arc<dyn Connector>,
    /// The mappings.
    pub plans: Vec<Arc<MappingPlan>>,
    /// How many read at once.
    pub workers: usize,
    /// Rows a second at most.
    pub rows_per_second: Option<u64>,
    /// What others see.
    pub shared: Arc<FlowShared>,
    /// The flow of the other direction, where there is one: rows of the target may be on their way.
    pub reverse: Option<Reverse>,
    /// To the applier.
    pub requests: mpsc::Sender<Request>,
    /// What a copy that begins waits for: the look at the source that the mappings were planned after.
    pub context: FlowContext,
    /// Its place in the log.
    pub look_at: Position,
}

/// Why copying cannot go on.
pub struct CopyFailed {
    /// The error.
    pub error: Error,
    /// The mapping it is about.
    pub mapping: Option<Arc<str>>,
}

/// Copies these mappings in this order; comes back only with an error.
pub async fn copy(copying: Copying, jobs: Vec<Job>) -> CopyFailed {
    match all(copying, jobs).await {
        Ok(()) => std::future::pending().await,
        Err(failed) => failed,
    }
}

async fn all(copying: Copying, jobs: Vec<Job>) -> std::result::Result<(), CopyFailed> {
    let jobs: Vec<Arc<Job>> = jobs
        .into_iter()
        .filter(|job| matches!(job.row.phase, CopyPhase::Rows | CopyPhase::Sweep))
        .map(Arc::new)
        .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    for job in &jobs {
        copying.shared.set_waits(&job.mapping, None);
    }
    let early = |error| CopyFailed { error, mapping: None };
    let mut reader = copying.source.copier().await.map_err(early)?;
    let flow = copying.flow.clone();
    let waits = |why: Option<String>| {
        for job in &jobs {
            copying.shared.set_waits(&job.mapping, why.clone());
        }
    };
    let notice = |words: String| {
        tracing::warn!(%flow, "{words}");
        waits(Some(words));
    };
    let settled = reader.settle(&notice).await;
    waits(None);
    settled.map_err(early)?;
    let shared = Arc::new(Shared {
        schedule: Mutex::new(Schedule::new(&jobs, &copying.plans)),
        changed: Notify::new(),
        paid_until: Mutex::new(None),
        untold: AtomicBool::new(true),
        copying,
        jobs,
    });
    let mut tasks = JoinSet::new();
    let mut reader = Some(reader);
    for _ in 0..shared.copying.workers.max(1) {
        let worker = Worker { shared: shared.clone(), reader: reader.take(), shown: 0 };
        tasks.spawn(worker.run());
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|panic| {
            Err(early(Error::bug(format!("copying ended in a panic: {panic}"))))
        })?;
    }
    Ok(())
}

/// The applier ends its side first, and then we are ended too.
pub(super) fn gone() -> Error {
    Error::bug("the applier went away while copying")
}

impl Copying {
    pub(super) async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T> {
        self.requests.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Waits for the log to pass the place of a piece. A log at rest is asked for its end meanwhile.
    pub(super) async fn outcome(&self, mut outcome: oneshot::Receiver<Outcome>) -> Result<Outcome> {
        loop {
            tokio::select! {
                biased;
                known = &mut outcome => return known.map_err(|_| gone()),
                () = tokio::time::sleep(NUDGE_EVERY) => self.shared.nudge.notify_one(),
            }
        }
    }

    async fn unwatch(&self, job: &Job, part: usize, all: bool) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Unwatch { mapping: job.mapping.clone(), part, all, reply }, answer).await
    }

    /// What of a number is one worker's share.
    fn share(&self, all: usize) -> usize {
        (all / self.workers.max(1)).max(1)
    }

    /// Why rows that only the target has cannot be told from those that the other direction has still to bring: its
    /// mapping stands still, so that what it lets go by is brought by a copy later, or it is being copied.
    fn reverse_stands(&self, mapping: &str) -> Option<String> {
        let reverse = self.reverse.as_ref()?;
        let target = &self.plans.iter().find(|plan| *plan.name == *mapping)?.target.name;
        // Whatever they make of its rows: a routine may bring them, too.
        let theirs = copies::readers(&*reverse.shared.config()?, target, &*self.target);
        let known = reverse.shared.mappings();
        let stands = |theirs: &str| match known.get(theirs) {
            Some(mapping) if mapping.is_stopped() => Some("is stopped or paused"),
            Some(mapping) if mapping.lacks_rows() => Some("is being copied"),
            // A wildcard may leave the table out; and before it has begun the flow does not stream.
            Some(_) | None => None,
        };
        let mut standing =
            theirs.iter().filter_map(|name| Some(format!("mapping {name} {}", stands(name)?)));
        if let Some(why) = standing.next() {
            return Some(why);
        }
        match reverse.shared.state().0 {
            FlowState::Streaming | FlowState::Snapshotting => None,
            state => Some(format!("it is {}", state.as_str())),
        }
    }

    /// A row that only the target has may be one that the other direction is still bringing: waits
    /// until that has applied everything that the target's log holds now.
    pub(super) async fn reverse_has_passed(&self, mapping: &str, what: &str) -> Result<()> {
        let Some(reverse) = &self.reverse else { return Ok(()) };
        let end = reverse.end().await?;
        let began = Instant::now();
        let mut told = false;
        loop {
            if reverse.has_passed(&end)? {
                self.shared.set_waits(mapping, None);
                return Ok(());
            }
            reverse.shared.nudge.notify_one();
            if !told && began.elapsed() > NOTICE_AFTER {
                told = true;
                let said = format!("{what} waits until the other direction has caught up");
                tracing::warn!(flow = %self.flow, reverse = %reverse.shared.name, "{said}");
                self.shared.set_waits(mapping, Some(said));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether the other direction may have something to bring of rows that are copied.
    fn is_written_back(&self, job: &Job) -> bool {
        let reverse = self.reverse.as_ref().filter(|_| job.row.reason != CopyReason::Initial);
        reverse.is_some_and(|reverse| reverse.mirrors_any(&job.mapping))
    }

    /// Where the other direction writes the same columns, waits until it has caught up: the applier waits for it once more, with rows locked.
    async fn let_reverse_go(&self, job: &Job) -> Result<()> {
        let Some(reverse) = self.reverse.as_ref().filter(|_| self.is_written_back(job)) else {
            return Ok(());
        };
        while reverse.goes_before(&job.mapping, &self.shared) {
            let said = format!("copying waits for flow {}, which goes first", reverse.shared.name);
            self.shared.set_waits(&job.mapping, Some(said));
            tokio::time::sleep(STANDS_LOOK).await;
        }
        self.shared.set_waits(&job.mapping, None);
        match reverse.brings(&job.mapping) {
            true => self.reverse_has_passed(&job.mapping, "copying").await,
            false => Ok(()),
        }
    }
}

/// What the workers have in common.
pub(super) struct Shared {
    pub(super) copying: Copying,
    jobs: Vec<Arc<Job>>,
    schedule: Mutex<Schedule>,
    changed: Notify,
    /// Until when the rows read so far are paid for, where there is a limit.
    paid_until: Mutex<Option<Instant>>,
    /// Whether it is still to be told that a sweep waits.
    untold: AtomicBool,
}

impl Shared {
    fn schedule<T>(&self, change: impl FnOnce(&mut Schedule) -> T) -> T {
        change(&mut self.schedule.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Work on a job is done.
    fn did(&self, at: usize) {
        let ended = self.schedule(|s| s.did(at));
        if ended && let Some(job) = self.jobs.get(at) {
            tracing::info!(flow = %self.copying.flow, mapping = %job.mapping, "copied");
        }
        self.changed.notify_waiters();
    }

    /// Waits as long as so many rows are to take for all workers together.
    async fn throttle(&self, rows: usize) {
        let Some(rate) = self.copying.rows_per_second.filter(|rate| *rate > 0) else { return };
        let due = {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = paid.unwrap_or(now).max(now.checked_sub(PACE_CREDIT).unwrap_or(now));
            let due = from + Duration::from_secs_f64(rows as f64 / rate as f64);
            *paid = Some(due);
            due
        };
        tokio::time::sleep_until(due.into()).await;
    }
}

/// One that reads.
pub(super) struct Worker {
    shared: Arc<Shared>,
    /// None while there is nothing to do: a snapshot keeps the source from cleaning up.
    reader: Option<Box<dyn Copier>>,
    /// The number of the last transaction that a snapshot of ours has shown.
    pub(super) shown: u64,
}

/// A piece that the applier has in hand.
struct Sent {
    upto: Option<Key>,
    last: bool,
    rows: usize,
    outcome: oneshot::Receiver<Outcome>,
}

impl Worker {
    async fn run(mut self) -> std::result::Result<(), CopyFailed> {
        while let Some(work) = self.next().await {
            let (Work::Begin(at) | Work::Part(at, _) | Work::Sweep(at)) = work;
            let Some(job) = self.shared.jobs.get(at).cloned() else { continue };
            let done = match work {
                Work::Begin(_) => self.begin(at, &job).await,
                Work::Part(_, span) => self.rows(&job, span).await,
                Work::Sweep(_) => self.sweep(&job).await,
            };
            if let Err(mut error) = done {
                // Only what is about the data is about a mapping.
                let mapping = (error.kind() == ErrorKind::Data).then(|| job.mapping.clone());
                let copying = self.copying();
                let plan = copying.plans.iter().find(|plan| plan.name == job.mapping);
                if let Some(plan) = plan.filter(|_| error.code() == Code::Privilege) {
                    error = copies::unread(&copying.context, plan, error).await;
                }
                return Err(CopyFailed { error, mapping });
            }
            self.shared.did(at);
        }
        Ok(())
    }

    /// Waits for something to do; `None` when everything is done.
    async fn next(&mut self) -> Option<Work> {
        let shared = self.shared.clone();
        let began = Instant::now();
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let stands = |job: usize| {
                shared.jobs.get(job).and_then(|j| shared.copying.reverse_stands(&j.mapping))
            };
            let (work, done, to_be_swept) = shared.schedule(|s| {
                let work = s.take(|job| stands(job).is_none());
                (work, s.is_done(), s.to_be_swept().collect::<Vec<usize>>())
            });
            if let Some(Work::Sweep(at)) = &work
                && let Some(job) = shared.jobs.get(*at)
            {
                shared.copying.shared.set_waits(&job.mapping, None);
            }
            if work.is_some() || done {
                return work;
            }
            self.reader = None;
            if to_be_swept.is_empty() {
                changed.await;
                continue;
            }
            for swept in to_be_swept {
                let Some(job) = shared.jobs.get(swept) else { continue };
                let why = stands(swept).map(|why| format!(
                    "looking for rows that only the target has waits for the other direction: {why}"
                ));
                if began.elapsed() > NOTICE_AFTER
                    && let Some(why) = &why
                    && shared.untold.swap(false, Ordering::Relaxed)
                {
                    tracing::warn!(flow = %shared.copying.flow, mapping = %job.mapping, "{why}");
                }
                shared.copying.shared.set_waits(&job.mapping, why);
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(STANDS_LOOK) => {}
            }
        }
    }

    pub(super) fn copying(&self) -> &Copying {
        &self.shared.copying
    }

    pub(super) async fn reader(&mut self) -> Result<&mut Box<dyn Copier>> {
        if self.reader.is_none() {
            self.reader = Some(self.shared.copying.source.copier().await?);
        }
        self.reader.as_mut().ok_or_else(|| Error::bug("a reader that was just opened is gone"))
    }

    /// Opens a snapshot that shows all that the applier had applied when it began to watch.
    pub(super) async fn snapshot(&mut self, watching: Watching) -> Result<Position> {
        let Watching { reached, delivered, last } = watching;
        let began = Instant::now();
        let mut told = false;
        loop {
            let opened = self.reader().await?.snapshot(&reached, &delivered).await?;
            if let Some(upto) = opened {
                self.shown = last;
                // The log passes that place while the rows are read.
                self.copying().shared.nudge.notify_one();
                return Ok(upto);
            }
            if !told && began.elapsed() > NOTICE_AFTER {
                told = true;
                tracing::warn!(flow = %self.copying().flow, "copying waits: the source has logged transactions that its own queries do not see yet (a synchronous standby that does not answer?)");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Finds the parts of a mapping; what is found is read by others meanwhile.
    async fn begin(&mut self, at: usize, job: &Job) -> Result<()> {
        if job.row.phase != CopyPhase::Rows {
            return Ok(());
        }
        if job.row.cursor.is_empty() {
            // Before that place the log may hold rows of an older shape than the mapping has.
            shapes::passed(&self.copying().context, &self.copying().look_at).await;
        }
        let mut parts = parts_of(&job.row, &job.table);
        let total = self.reader().await?.estimate(&job.table).await?;
        let shared = self.shared.clone();
        let tell = |span: Span| {
            shared.schedule(|s| s.found(at, span));
            shared.changed.notify_waiters();
        };
        let mut after = None;
        let last = parts.pop();
        for (part, found) in parts.iter().enumerate() {
            let from = match &found.reach {
                Reach::All => None,
                Reach::Nothing => Some(after.clone()),
                Reach::UpTo(key) => Some(Some(key.clone())),
            };
            if let Some(from) = from {
                tell(Span {
                    part,
                    range: KeyRange { after: from, upto: found.upto.clone() },
                    total,
                });
            }
            after.clone_from(&found.upto);
        }
        let mut part = parts.len();
        let mut after = match last.map(|last| last.reach) {
            Some(Reach::UpTo(key)) => Some(key),
            Some(Reach::Nothing) | None => after,
            Some(Reach::All) => return Ok(()),
        };
        let (rows, parts_max) = self.part_rows(job, total.saturating_sub(job.row.rows_done));
        while part + 1 < parts_max {
            let end = self.reader().await?.bound(&job.table, after.as_ref(), rows).await?;
            let Some(end) = end else { break };
            let (reply, answer) = oneshot::channel();
            let split = Request::Split { mapping: job.mapping.clone(), at: end.clone(), reply };
            self.copying().ask(split, answer).await?;
            let range = KeyRange { after: after.take(), upto: Some(end.clone()) };
            tell(Span { part, range, total });
            after = Some(end);
            part += 1;
        }
        tell(Span { part, range: KeyRange { after, upto: None }, total });
        Ok(())
    }

    /// How many rows a part has, and how many parts there are at most.
    fn part_rows(&self, job: &Job, rows: u64) -> (usize, usize) {
        let workers = self.copying().workers as u64;
        if workers < 2 || !job.splits || rows < 2 * PART_ROWS_MIN {
            return (0, 0);
        }
        let (parts, parts_max) = match job.alike {
            true => (2 * workers, PARTS_MAX),
            false => (workers, PARTS_MAX_ASKED),
        };
        let rows = (rows / parts).clamp(PART_ROWS_MIN, PART_ROWS_MAX);
        (rows as usize, parts_max as usize)
    }

    /// Copies a part.
    async fn rows(&mut self, job: &Job, span: Span) -> Result<()> {
        let Span { part, range, total } = span;
        let KeyRange { mut after, upto: end } = range;
        let mut done = after.clone();
        let mut size = ROWS_FIRST;
        // All workers together read no more than a second's worth at a time.
        let rate = self.copying().rows_per_second.filter(|rate| *rate > 0);
        let most = if self.copying().is_written_back(job) { ROWS_LOCKED_MAX } else { ROWS_MAX };
        let rows_max =
            rate.map_or(most, |rate| self.copying().share(rate.min(most as u64) as usize));
        let mut sent: Option<Sent> = None;
        loop {
            self.copying().let_reverse_go(job).await?;
            let read = match &sent {
                // Nothing is left to be read.
                Some(before) if before.last => None,
                Some(_) | None => {
                    let upto = self.bound(job, after.as_ref(), end.as_ref(), size).await?;
                    let last = upto == end;
                    let range = KeyRange { after: after.clone(), upto };
                    let (piece, covered) = self.piece(job, part, &range, last, &mut size).await?;
                    Some((range.upto, last, piece, covered))
                }
            };
            // The one before must be in place: pieces are written in the order of their keys.
            if let Some(before) = sent.take() {
                match self.copying().outcome(before.outcome).await? {
                    Outcome::Written if before.last => return Ok(()),
                    Outcome::Written => done = before.upto,
                    Outcome::Spoiled => {
                        self.copying().unwatch(job, part, true).await?;
                        size = (before.rows / 2).max(1);
                        after.clone_from(&done);
                        continue;
                    }
                }
            }
            let Some((upto, last, Some(piece), covered)) = read else {
                after.clone_from(&done);
                continue;
            };
            let (rows, bytes) = (piece.count(), piece.bytes);
            let (reply, outcome) = oneshot::channel();
            let mapping = job.mapping.clone();
            let request = Request::Rows { mapping, part, piece, upto: covered, total, reply };
            self.copying().requests.send(request).await.map_err(|_| gone())?;
            sent = Some(Sent { upto: upto.clone(), last, rows, outcome });
            after = upto;
            let wanted = rows.saturating_mul(self.copying().share(PIECE_BYTES));
            if let Some(fitting) = wanted.checked_div(bytes) {
                size = fitting.clamp(1, rows_max).min(size.saturating_mul(4));
            }
            self.shared.throttle(rows).await;
        }
    }

    /// The last key of the next piece: so many rows on, but not beyond the end of the part.
    async fn bound(
        &mut self,
        job: &Job,
        after: Option<&Key>,
        end: Option<&Key>,
        size: usize,
    ) -> Result<Option<Key>> {
        let reader = self.reader().await?;
        let (found, end) = match (reader.bound(&job.table, after, size).await?, end) {
            (Some(found), Some(end)) => (found, end),
            (found, None) => return Ok(found),
            (None, Some(end)) => return Ok(Some(end.clone())),
        };
        let ends = match key_order(end, &found) {
            Some(order) if job.alike => order.is_le(),
            Some(_) | None => reader.up_to(&job.table, end, &found).await?,
        };
        Ok(Some(if ends { end.clone() } else { found }))
    }

    /// Reads a range. No piece if it was too big: then `size` says how many rows to try.
    async fn piece(
        &mut self,
        job: &Job,
        part: usize,
        range: &KeyRange,
        last: bool,
        size: &mut usize,
    ) -> Result<(Option<Piece>, Position)> {
        let (reply, answer) = oneshot::channel();
        let (mapping, upto) = (job.mapping.clone(), range.upto.clone());
        let watch = Request::Watch { mapping, part, upto, last, shown: self.shown, reply };
        let watching = self.copying().ask(watch, answer).await?;
        let upto = self.snapshot(watching).await?;
        let limit = if *size == 1 { usize::MAX } else { self.copying().share(PIECE_BYTES_MAX) };
        let reader = self.reader().await?;
        let piece = match job.as_lines {
            true => reader.read_lines(&job.table, range, limit).await?,
            false => reader.read(&job.table, range, limit).await?,
        };
        if piece.cut {
            *size = (piece.count() / 2).max(1);
            self.copying().unwatch(job, part, false).await?;
            return Ok((None, upto));
        }
        Ok((Some(piece), upto))
    }
}
