//! Sessions that load pieces of copies beside the flow's own, which stands still meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{
    Code, Connector, Error, HopList, Load, LoadRows, Mark, Piece, Result, Row, Sink, SinkSpec,
    Value,
};

use super::batch::batches_of;
use super::seek;
use crate::mapping::call::calls;
use crate::mapping::{Becomes, BoundPlan, MappingPlan, Write};
use crate::reread::memory::Pending;
use crate::reread::{Left, all_but_refused, put_off};

/// How long a session waits for its next piece before it is let go; the server ends it after 30 seconds.
const IDLE: Duration = Duration::from_secs(10);

/// The rows of a piece, converted as they are asked for.
struct Loading {
    bound: BoundPlan,
    rows: Vec<Row>,
}

impl Loading {
    /// Takes out the rows that do not meet the mapping's filter. Where the target may hold rows of before (`known`), they
    /// have ended there.
    fn leave_out(&mut self, known: bool) -> Result<Vec<Write>> {
        let (mut kept, mut gone) = (Vec::with_capacity(self.rows.len()), Vec::new());
        for row in std::mem::take(&mut self.rows) {
            if self.bound.takes(&row)? {
                kept.push(row);
            } else if known
                && !self.bound.plan().shares_keys
                && let Becomes::Write(write) = self.bound.outside(&row)?
            {
                gone.push(write);
            }
        }
        self.rows = kept;
        Ok(gone)
    }
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

/// Puts the rows of a piece into the open transaction of a session. `known`: the target may hold rows of before. Answers
/// whether some of them wait for what they point to.
pub(super) async fn put(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    piece: Piece,
    known: bool,
) -> Result<bool> {
    let Piece { table, rows, lines, .. } = piece;
    let mut loading = Loading { bound: BoundPlan::new(plan, &table)?, rows };
    if let Some(lines) = lines {
        let as_they_are = loading.bound.is_identity(&table)
            && sink.load_lines(&plan.target, loading.bound.columns(), &lines).await?;
        if !as_they_are {
            loading.rows.extend(lines.rows()?);
        }
    }
    if !plan.rows.takes_all() {
        let gone = loading.leave_out(known)?;
        write(sink, plan, gone).await?;
    }
    if loading.rows.is_empty() {
        return Ok(false);
    }
    if plan.call.is_some() {
        let mut writes = Vec::with_capacity(loading.rows.len());
        for row in &loading.rows {
            if let Becomes::Write(write) = loading.bound.now(row)? {
                writes.push(write);
            }
        }
        write(sink, plan, writes).await?;
        return Ok(false);
    }
    let columns = loading.bound.columns().clone();
    let (mapping, table) = (plan.name.clone(), plan.target.clone());
    if loading.bound.seeks() {
        // What they wait for is asked at once for the whole piece.
        let mut writes = Vec::with_capacity(loading.rows.len());
        for row in &loading.rows {
            writes.push(loading.bound.loaded(row)?);
        }
        seek::answer_writes(sink, plan, &mut writes).await?;
        let rows: Vec<Box<[Value]>> = writes.into_iter().map(|write| write.row).collect();
        let load = Load { mapping, table, columns, rows: &rows };
        return loaded(sink, plan, &loading, load, known).await;
    }
    let load = Load { mapping, table, columns, rows: &loading };
    loaded(sink, plan, &loading, load, known).await
}

/// Loads rows. Those that point to what a copy has not brought yet wait for it, and so do those whose unique values a row has
/// that is of before and will be compared or removed later: their keys are left to the target's memory.
async fn loaded(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    loading: &Loading,
    load: Load<'_>,
    known: bool,
) -> Result<bool> {
    if !plan.points && !known {
        sink.load(&load).await?;
        return Ok(false);
    }
    let waits = |error: &Error| match error.code() {
        Code::ForeignKey => plan.points,
        Code::KeyConflict => known,
        _ => false,
    };
    let Some(refused) = sink.attempt_load(&load).await? else { return Ok(false) };
    if !waits(&refused) {
        return Err(refused);
    }
    let mut steps = Vec::with_capacity(loading.rows.len());
    for (at, row) in loading.rows.iter().enumerate() {
        steps.push((Some(at), loading.bound.loaded(row)?));
    }
    let Left { steps, error } = all_but_refused(sink, plan, steps, refused, false).await?;
    if let Some(error) = error.filter(|error| !waits(error)) {
        return Err(error);
    }
    let mut keys = Vec::with_capacity(steps.len());
    for row in steps.iter().filter_map(|(at, _)| loading.rows.get((*at)?)) {
        keys.push(Pending { key: loading.bound.source_key(row)?, owed: false, force: false });
    }
    let waits = !keys.is_empty();
    put_off(sink, plan, keys).await?;
    Ok(waits)
}

/// Writes rows, or calls the routine for them.
async fn write(sink: &mut dyn Sink, plan: &Arc<MappingPlan>, writes: Vec<Write>) -> Result<()> {
    let Some(call) = &plan.call else { return sink.write(&batches_of(plan, writes)).await };
    for mut write in writes {
        seek::answer_writes(sink, plan, std::slice::from_mut(&mut write)).await?;
        sink.call(&calls(plan, call, &write)?).await?;
    }
    Ok(())
}

/// The sessions of a flow beside its own.
pub struct Loaders {
    opening: Arc<Opening>,
    workers: usize,
    lanes: usize,
    /// How many are at work.
    out: usize,
    free: Vec<u32>,
    idle: Vec<Loader>,
}

/// How they are opened.
pub(super) struct Opening {
    target: Arc<dyn Connector>,
    spec: SinkSpec,
    epoch: u64,
}

/// A session, or the number of one that is to be opened.
pub(super) struct Loader {
    lane: u32,
    seq: u64,
    sink: Option<Box<dyn Sink>>,
    since: Instant,
}

impl Loaders {
    /// So many at most that load copies, and that write the log ([`super::lanes`]), which they never do at once. With one the
    /// flow does it by its own.
    pub fn new(
        target: Arc<dyn Connector>,
        spec: SinkSpec,
        epoch: u64,
        (workers, lanes): (usize, usize),
    ) -> Loaders {
        let most = match workers.max(lanes) {
            0 | 1 => 0,
            most => u32::try_from(most).unwrap_or(u32::MAX),
        };
        Loaders {
            opening: Arc::new(Opening { target, spec, epoch }),
            workers,
            lanes,
            out: 0,
            free: (1..=most).rev().collect(),
            idle: Vec::new(),
        }
    }

    /// Whether several load copies at once.
    pub(super) fn are_used(&self) -> bool {
        self.workers > 1
    }

    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// How sessions are opened.
    pub(super) fn opening(&self) -> &Arc<Opening> {
        &self.opening
    }

    /// One that has nothing to do, to load; `None` if all are at work.
    pub(super) fn take(&mut self) -> Option<Loader> {
        self.take_of(self.workers)
    }

    /// One that has nothing to do, to write the log; `None` if all are at work.
    pub(super) fn take_lane(&mut self) -> Option<Loader> {
        self.take_of(self.lanes)
    }

    fn take_of(&mut self, most: usize) -> Option<Loader> {
        self.let_go();
        if self.out >= most {
            return None;
        }
        let loader = self.idle.pop().or_else(|| {
            let lane = self.free.pop()?;
            Some(Loader { lane, seq: 0, sink: None, since: Instant::now() })
        })?;
        self.out += 1;
        Some(loader)
    }

    /// Takes one back that has committed.
    pub(super) fn give(&mut self, loader: Loader) {
        self.out = self.out.saturating_sub(1);
        self.idle.push(Loader { since: Instant::now(), ..loader });
    }

    /// Ends sessions that have waited for long.
    pub(super) fn let_go(&mut self) {
        let (stay, go): (Vec<_>, Vec<_>) =
            self.idle.drain(..).partition(|loader| loader.since.elapsed() < IDLE);
        self.idle = stay;
        self.free.extend(go.into_iter().map(|loader| loader.lane));
    }

    /// Ends all sessions.
    pub(super) fn end(&mut self) {
        self.free.extend(self.idle.drain(..).map(|loader| loader.lane));
    }

    /// A load, to run beside others: it ends with the rows in the open transaction of the session. Answers also whether some of
    /// them wait for what they point to.
    pub(super) fn load(
        &self,
        mut loader: Loader,
        plan: Arc<MappingPlan>,
        piece: Piece,
        hops: HopList,
        known: bool,
    ) -> impl Future<Output = Result<(Loader, bool)>> + Send + 'static {
        let opening = self.opening.clone();
        async move {
            let (sink, mark) = loader.next(&opening, hops).await?;
            sink.begin(&mark).await?;
            let waits = put(sink, &plan, piece, known).await?;
            Ok((loader, waits))
        }
    }
}

impl Loader {
    /// The session, and the next mark of its row.
    pub(super) async fn next(
        &mut self,
        opening: &Opening,
        hops: HopList,
    ) -> Result<(&mut dyn Sink, Mark)> {
        let Opening { target, spec, epoch } = opening;
        if self.sink.is_none() {
            (self.sink, self.seq) = (Some(target.open_loader(spec, *epoch, self.lane).await?), 0);
        }
        self.seq += 1;
        let mark = Mark { epoch: *epoch, seq: self.seq, hops };
        Ok((&mut **self.sink()?, mark))
    }

    /// The session.
    pub(super) fn sink(&mut self) -> Result<&mut Box<dyn Sink>> {
        self.sink.as_mut().ok_or_else(|| Error::bug("a loader without its session"))
    }
}
