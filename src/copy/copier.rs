//! The task that reads: one mapping after the other, one piece after the other, the next one being
//! read while the one before is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{
    Connector, Copier, CopyPhase, CopyRow, CopyTable, Cursor, DataType, Error, ErrorKind, JsonForm,
    Key, KeyRange, Piece, Position, Result, SourceSpec, TransactionId,
};
use tokio::sync::{mpsc, oneshot};

use super::region::{Outcome, Request, Watching};
use crate::flow::{FlowContext, FlowShared, shapes};
use crate::mapping::MappingPlan;
use crate::mapping::convert::{Conversion, Target, compatible};

/// Rows of the first piece; later ones follow the width of the rows.
const ROWS_FIRST: usize = 1_000;
/// Rows of a piece at most: what the log brings waits while a piece is written.
const ROWS_MAX: usize = 100_000;
/// Memory that a piece should take. Three are about at most: one written, one waiting, one being read.
const PIECE_BYTES: usize = 16 << 20;
/// Memory beyond which a piece is cut smaller.
const PIECE_BYTES_MAX: usize = 32 << 20;
/// Keys of the target asked for at the source at a time.
const SWEEP_KEYS: usize = 5_000;
/// Between two looks whether a snapshot shows what was applied already.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often a log at rest is asked for its end.
const NUDGE_EVERY: Duration = Duration::from_millis(5);
/// How long that may take before it is told.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

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

/// The flow that reads the target.
pub struct Reverse {
    /// What it shows.
    pub shared: Arc<FlowShared>,
    /// What it reads.
    pub spec: SourceSpec,
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
    let mut at = None;
    match all(copying, jobs, &mut at).await {
        Ok(()) => std::future::pending().await,
        // Only what is about the data is about a mapping.
        Err(error) => CopyFailed { mapping: at.filter(|_| error.kind() == ErrorKind::Data), error },
    }
}

async fn all(copying: Copying, jobs: Vec<Job>, at: &mut Option<Arc<str>>) -> Result<()> {
    let jobs: Vec<Job> = jobs
        .into_iter()
        .filter(|job| matches!(job.row.phase, CopyPhase::Rows | CopyPhase::Sweep))
        .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    let mut reader = copying.source.copier().await?;
    let flow = copying.flow.clone();
    let notice = move |words: String| tracing::warn!(%flow, "{words}");
    reader.settle(&notice).await?;
    let mut task = Task { copying, reader, delivered: Vec::new() };
    for job in jobs {
        *at = Some(job.mapping.clone());
        if job.row.cursor.is_empty() && job.row.phase == CopyPhase::Rows {
            // Before that place the log may hold rows of an older shape than the mapping has.
            shapes::passed(&task.copying.context, &task.copying.look_at).await;
        }
        if job.row.phase == CopyPhase::Rows {
            task.rows(&job).await?;
        }
        if job.row.sweep {
            task.sweep(&job).await?;
        }
        tracing::info!(flow = %task.copying.flow, mapping = %job.mapping, "copied");
    }
    Ok(())
}

/// The applier ends its side first, and then we are ended too.
fn gone() -> Error {
    Error::bug("the applier went away while copying")
}

impl Copying {
    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Result<T> {
        self.requests.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Waits for the log to pass the place of a piece. A log at rest is asked for its end meanwhile.
    async fn outcome(&self, mut outcome: oneshot::Receiver<Outcome>) -> Result<Outcome> {
        loop {
            tokio::select! {
                biased;
                known = &mut outcome => return known.map_err(|_| gone()),
                () = tokio::time::sleep(NUDGE_EVERY) => self.shared.nudge.notify_one(),
            }
        }
    }

    async fn unwatch(&self, job: &Job, all: bool) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Unwatch { mapping: job.mapping.clone(), all, reply }, answer).await
    }

    async fn throttle(&self, began: Instant, copied: u64) {
        let Some(rate) = self.rows_per_second.filter(|rate| *rate > 0) else { return };
        let due = Duration::from_secs_f64(copied as f64 / rate as f64);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            tokio::time::sleep(early).await;
        }
    }

    /// A row that only the target has may be one that the other direction is still bringing: waits
    /// until that has applied everything that the target's log holds now.
    async fn reverse_has_passed(&self) -> Result<()> {
        let Some(reverse) = &self.reverse else { return Ok(()) };
        let end = self.target.probe(&reverse.spec, None).await?.end;
        let began = Instant::now();
        let mut told = false;
        loop {
            let applied = reverse.shared.applied.borrow().clone();
            if let Some(applied) = applied
                && self.target.compare(&applied, &end)?.reached()
            {
                return Ok(());
            }
            if !told && began.elapsed() > NOTICE_AFTER {
                told = true;
                tracing::warn!(flow = %self.flow, reverse = %reverse.shared.name,
                    "looking for rows that only the target has waits until the other direction has caught up");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

struct Task {
    copying: Copying,
    reader: Box<dyn Copier>,
    /// Transactions applied that no snapshot of ours has been asked about.
    delivered: Vec<TransactionId>,
}

/// A piece that the applier has in hand.
struct Sent {
    upto: Option<Key>,
    rows: usize,
    outcome: oneshot::Receiver<Outcome>,
}

impl Task {
    /// Opens a snapshot that shows all that the applier had applied when it began to watch.
    async fn snapshot(&mut self, watching: Watching) -> Result<Position> {
        self.delivered.extend(watching.delivered);
        let began = Instant::now();
        let mut told = false;
        loop {
            let opened = self.reader.snapshot(&watching.reached, &self.delivered).await?;
            if let Some(upto) = opened {
                self.delivered.clear();
                // The log passes that place while the rows are read.
                self.copying.shared.nudge.notify_one();
                return Ok(upto);
            }
            if !told && began.elapsed() > NOTICE_AFTER {
                told = true;
                tracing::warn!(flow = %self.copying.flow, "copying waits: the source has logged transactions that its own queries do not see yet (a synchronous standby that does not answer?)");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn rows(&mut self, job: &Job) -> Result<()> {
        let mut after = Cursor::decode(&job.row.cursor, &job.table.key);
        let mut done = after.clone();
        let mut size = ROWS_FIRST;
        // No piece is more than a second's worth.
        let rate = self.copying.rows_per_second.filter(|rate| *rate > 0);
        let rows_max = rate.map_or(ROWS_MAX, |rate| rate.min(ROWS_MAX as u64) as usize);
        let mut sent: Option<Sent> = None;
        let total = self.reader.estimate(&job.table).await?;
        let (began, mut copied) = (Instant::now(), 0u64);
        loop {
            let upto = self.reader.bound(&job.table, after.as_ref(), size).await?;
            let range = KeyRange { after: after.clone(), upto };
            let (piece, covered) = self.piece(job, &range, &mut size).await?;
            // The one before must be in place: pieces are written in the order of their keys.
            if let Some(before) = sent.take() {
                match self.copying.outcome(before.outcome).await? {
                    Outcome::Written => done = before.upto,
                    Outcome::Spoiled => {
                        self.copying.unwatch(job, true).await?;
                        size = (before.rows / 2).max(1);
                        after = done.clone();
                        continue;
                    }
                }
            }
            let Some(piece) = piece else {
                after = done.clone();
                continue;
            };
            let (rows, bytes) = (piece.count(), piece.bytes);
            let (reply, outcome) = oneshot::channel();
            let request =
                Request::Rows { mapping: job.mapping.clone(), piece, upto: covered, total, reply };
            self.copying.requests.send(request).await.map_err(|_| gone())?;
            if range.upto.is_none() {
                return match self.copying.outcome(outcome).await? {
                    Outcome::Written => Ok(()),
                    Outcome::Spoiled => {
                        self.copying.unwatch(job, true).await?;
                        Box::pin(
                            self.rows(&Job { row: with_cursor(job, done.as_ref()), ..job.clone() }),
                        )
                        .await
                    }
                };
            }
            sent = Some(Sent { upto: range.upto.clone(), rows, outcome });
            after = range.upto;
            if bytes > 0 {
                let fitting = rows.saturating_mul(PIECE_BYTES) / bytes.max(1);
                size = fitting.clamp(1, rows_max).min(size.saturating_mul(4));
            }
            copied += rows as u64;
            self.copying.throttle(began, copied).await;
        }
    }

    /// Reads a range. No piece if it was too big: then `size` says how many rows to try.
    async fn piece(
        &mut self,
        job: &Job,
        range: &KeyRange,
        size: &mut usize,
    ) -> Result<(Option<Piece>, Position)> {
        let (reply, answer) = oneshot::channel();
        let watch = Request::Watch { mapping: job.mapping.clone(), range: range.clone(), reply };
        let watching = self.copying.ask(watch, answer).await?;
        let upto = self.snapshot(watching).await?;
        let limit = if *size == 1 { usize::MAX } else { PIECE_BYTES_MAX };
        let piece = match job.as_lines {
            true => self.reader.read_lines(&job.table, range, limit).await?,
            false => self.reader.read(&job.table, range, limit).await?,
        };
        if piece.cut {
            *size = (piece.count() / 2).max(1);
            self.copying.unwatch(job, false).await?;
            return Ok((None, upto));
        }
        Ok((Some(piece), upto))
    }

    /// Looks for rows that only the target has, key by key of the target.
    async fn sweep(&mut self, job: &Job) -> Result<()> {
        let plan = self
            .copying
            .plans
            .iter()
            .find(|p| p.name == job.mapping)
            .cloned()
            .ok_or_else(|| Error::bug("a copy without its mapping"))?;
        let (theirs, ours, back) = sweep_tables(&plan)?;
        let leads_back = leads_back(&plan);
        if !leads_back {
            tracing::warn!(flow = %self.copying.flow, mapping = %job.mapping,
                "rows that only the target has stay: its keys cannot be led back to the types of the source's");
        }
        let mut target = self.copying.target.copier().await?;
        let resumed = job.row.phase == CopyPhase::Sweep;
        let mut after = resumed.then(|| Cursor::decode(&job.row.cursor, &theirs.key)).flatten();
        loop {
            let upto = target.bound(&theirs, after.as_ref(), SWEEP_KEYS).await?;
            let range = KeyRange { after: after.clone(), upto: upto.clone() };
            let keys: Vec<Key> = target
                .read(&theirs, &range, usize::MAX)
                .await?
                .rows
                .into_iter()
                .map(|row| row.0)
                .collect();
            self.copying.reverse_has_passed().await?;
            let (reply, answer) = oneshot::channel();
            let watching = self
                .copying
                .ask(Request::WatchKeys { mapping: job.mapping.clone(), reply }, answer)
                .await?;
            let covered = self.snapshot(watching).await?;
            let asked: Vec<Option<Key>> = keys.iter().map(|key| source_key(key, &back)).collect();
            let askable: Vec<Key> = asked.iter().flatten().cloned().collect();
            let mut found = self.reader.present(&ours, &askable).await?.into_iter();
            let mut absent = Vec::new();
            for (key, asked) in keys.into_iter().zip(asked) {
                // A key that the source's columns could not hold is not there.
                if leads_back && (asked.is_none() || !found.next().unwrap_or(false)) {
                    absent.push(key);
                }
            }
            let cursor = upto.as_ref().and_then(|key| Cursor::new(&theirs.key, key));
            let (reply, answer) = oneshot::channel();
            let sweep = Request::Sweep {
                mapping: job.mapping.clone(),
                absent,
                upto: covered,
                cursor,
                reply,
            };
            self.copying.requests.send(sweep).await.map_err(|_| gone())?;
            match self.copying.outcome(answer).await? {
                Outcome::Written if upto.is_none() => return Ok(()),
                Outcome::Written => after = upto,
                Outcome::Spoiled => {}
            }
        }
    }
}

fn with_cursor(job: &Job, done: Option<&Key>) -> CopyRow {
    let mut row = job.row.clone();
    row.cursor = done
        .and_then(|key| Cursor::new(&job.table.key, key))
        .map(|cursor| cursor.encode())
        .unwrap_or_default();
    row
}

/// The target's keys, the same keys at the source, and the way back from the one to the other.
fn sweep_tables(plan: &MappingPlan) -> Result<(CopyTable, CopyTable, Vec<Conversion>)> {
    let columns: Vec<_> = plan
        .target
        .key
        .iter()
        .filter_map(|&i| Some((plan.target.columns.get(i)?, &plan.columns.get(i)?.rule)))
        .collect();
    let names: Vec<String> = columns.iter().map(|(c, _)| c.name.clone()).collect();
    let theirs = CopyTable {
        name: plan.target.name.clone(),
        columns: names.clone(),
        key: names,
        filter: None,
    };
    let source: Vec<(String, DataType)> = plan
        .target
        .key
        .iter()
        .filter_map(|&i| Some((plan.sources.get(i)?.clone(), plan.source_types.get(i)?.clone())))
        .collect();
    let names: Vec<String> = source.iter().map(|(name, _)| name.clone()).collect();
    let ours =
        CopyTable { name: plan.source.clone(), columns: names.clone(), key: names, filter: None };
    let back = columns
        .iter()
        .zip(&source)
        .map(|((target, rule), (_, data_type))| {
            let back = Target {
                data_type,
                nullable: false,
                same_family: plan.same_family,
                json_form: JsonForm::Text,
            };
            Conversion::new(&target.data_type, back, rule)
        })
        .collect();
    Ok((theirs, ours, back))
}

/// Whether every key of the target can be led back to the source's types. One that cannot says nothing about what
/// the source has: a text does not tell which number it was made of, nor a civil time which hour that came twice.
fn leads_back(plan: &MappingPlan) -> bool {
    plan.target.key.iter().all(|&i| {
        let (Some(target), Some(from), Some(column)) =
            (plan.target.columns.get(i), plan.source_types.get(i), plan.columns.get(i))
        else {
            return false;
        };
        column.rule.zone.is_none() && compatible(&target.data_type, from, &column.rule).is_ok()
    })
}

fn source_key(key: &Key, back: &[Conversion]) -> Option<Key> {
    key.iter().zip(back).map(|(value, back)| back.apply(value).ok()).collect()
}
