//! The applier's part in copies: between two source transactions it writes the pieces whose place in the log has come.
//!
//! **A volley.** With several workers, pieces are loaded by several sessions at once ([`super::loaders`]), each in a
//! transaction of its own. The flow stands still at a place F from before the first of them begins until the last has
//! committed, and F is the position at the target before any of them begins. Each piece has been followed up to F,
//! so each commit leaves its range as the source has it at F, whichever of the others are committed, and so does a crash
//! between them. The rows travel side by side; the commits come one after the other, each with a row that tells of all parts committed
//! so far. A loader's transaction can commit only while our epoch holds ([`tidelock_core::sink`]).
//!
//! **Refused together.** Order among pieces can only be refused (a unique value that one piece gives up and another takes;
//! a deadlock), never change a row. So what is refused in a volley is no verdict: copying begins anew with one
//! worker, and what is refused then is the row's own fault.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidelock_core::{
    Change, Code, CopyPhase, CopyReason, CopyRow, Error, ErrorKind, HopList, Key, Op, OpKind,
    Piece, Position, Result, Value,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};

use super::gate::Memories;
use super::loaders::{Loader, put};
use super::route::Mapped;
use super::{Applier, PING};
use crate::copy::region::{RowsReady, Step, SweepReady};
use crate::copy::{Outcome, Regions, Request};
use crate::flow::{FlowState, copies};
use crate::mapping::plan::EndPlan;
use crate::mapping::{BoundPlan, MappingPlan};
use crate::reread::{Refused, Touched};

/// How long rows of the target may be locked while the other direction is waited for.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// A piece that a loader has in hand.
struct Shot {
    mapping: Arc<str>,
    step: Step,
    reply: oneshot::Sender<Outcome>,
    loaded: Result<(Loader, bool)>,
}

impl Applier {
    /// Takes up how far the copies of the other direction had come when this was last written.
    pub(super) fn recall_held(&mut self) {
        for Mapped { plan, .. } in self.mapped().cloned().collect::<Vec<_>>() {
            if let Some(cursor) = self.regions.held_cursor(&plan.name) {
                self.regions.follow(&plan.name, &cursor, &plan);
            }
        }
    }

    /// A copy of the other direction has ended: what waited for it is followed from here on.
    pub(super) async fn meet_copy_row(&mut self, change: &Change) -> Result<()> {
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
            Some(CopyPhase::Sweep) => self.regions.follow_all(&plan.name, &plan),
            Some(CopyPhase::Held | CopyPhase::Left) | None => None,
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
    pub(super) async fn copy(&mut self) -> Result<()> {
        if self.regions.is_empty() || self.source.inside {
            return Ok(());
        }
        self.regions.forget_shown(&self.reached).await?;
        loop {
            while let Ok(request) = self.requests.try_recv() {
                self.regions.take(request, &self.reached);
            }
            if let Some(ready) = self.regions.rows_ready(&self.reached)? {
                self.finish().await?;
                self.settled().await?;
                match self.loaders.are_used() && !self.goes_alone(&ready)? {
                    true => self.volley(ready).await?,
                    false => self.rows(ready).await?,
                }
            } else if !self.delayed.holds_sweeps()
                && let Some(ready) = self.regions.sweep_ready(&self.reached)?
            {
                // Rows that wait still point to what they pointed to before, and would go with it.
                self.finish().await?;
                self.settled().await?;
                self.sweep(ready).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Writes a piece through the flow's own session.
    async fn rows(&mut self, ready: RowsReady) -> Result<()> {
        let RowsReady { mapping, piece, step, reply } = ready;
        let row = self.regions.after(&mapping, &step)?;
        self.in_piece = true;
        self.blame = Some(mapping.clone());
        self.direct().await?;
        let mapped = self.plan_of(&mapping)?;
        match (mapped.plan.view.is_some(), self.is_written_back(&mapping, &row)) {
            (true, _) => self.read_again(&mapped, &piece, &row).await?,
            (false, true) => {
                self.settle_gates(&mapped, &piece, row.reason)?;
                self.lay_over(&mapped, piece, &row).await?;
            }
            (false, false) => {
                self.settle_gates(&mapped, &piece, row.reason)?;
                if self.load(&mapped.plan, piece, &row).await? {
                    self.delayed.add(mapped.number);
                }
            }
        }
        self.wrote_copy();
        self.stepped(&mapping, &step, row, reply);
        Ok(())
    }

    /// Whether a piece is written by our own session, whatever others there are: of a view and of what is written back it only names keys, and what
    /// a gate knows of its rows is kept here.
    fn goes_alone(&self, ready: &RowsReady) -> Result<bool> {
        let Mapped { plan, number } = self.plan_of(&ready.mapping)?;
        let row = self.regions.row(&ready.mapping);
        let is_written_back = row.is_some_and(|row| self.is_written_back(&ready.mapping, row));
        Ok(plan.view.is_some() || self.gates.has(number) || is_written_back)
    }

    /// Whether the other direction may have something to bring of rows of a copy ([`crate::copy::reverse`]).
    fn is_written_back(&self, mapping: &str, row: &CopyRow) -> bool {
        row.reason != CopyReason::Initial
            && self.reverse.as_ref().is_some_and(|reverse| reverse.brings(mapping))
    }

    /// Writes the rows of a piece as they are when the other direction has brought what the target's users did to them.
    async fn lay_over(&mut self, mapped: &Mapped, piece: Piece, row: &CopyRow) -> Result<()> {
        let Mapped { plan, number } = mapped;
        let Some(reverse) = self.reverse.clone() else {
            return Err(Error::bug("a piece waits for a flow that is none"));
        };
        let Piece { table, mut rows, lines, .. } = piece;
        if let Some(lines) = lines {
            rows.extend(lines.rows()?);
        }
        let bound = BoundPlan::new(plan, &table)?;
        let mut touched = Touched::default();
        let by = touched.of(*number, plan);
        // Some may wait for others of the copy.
        by.refused = Refused::PutOff;
        let mut keys: Vec<Key> = Vec::with_capacity(rows.len());
        for row in &rows {
            // One outside the filter says nothing of the target's row where another may be that row's.
            if plan.shares_keys && !bound.takes(row)? {
                continue;
            }
            by.row(bound.source_key(row)?);
            if bound.has_key(row)? {
                keys.push(bound.key_of(row)?.into());
            }
        }
        let memories = self.gates.take();
        let hands = self.session.hands()?;
        for Memories { scope, put, gone } in &memories {
            hands.sink.remember(scope, put, gone).await?;
        }
        hands.sink.lock_rows(&plan.target, &keys).await?;
        reverse.pass(LOCKED_MAX).await?;
        let run = hands.rereads.run(&mut *hands.sink, touched, &self.reached).await;
        let mut reread = run.map_err(|blamed| blamed.error)?;
        hands.sink.record_copy(row).await?;
        hands.sink.commit(&self.reached, 0).await?;
        self.take_reread(&mut reread);
        Ok(())
    }

    /// Takes note on which side of their edges the rows of a piece are.
    fn settle_gates(&mut self, mapped: &Mapped, piece: &Piece, reason: CopyReason) -> Result<()> {
        let Mapped { plan, number } = mapped;
        if !self.gates.has(*number) {
            return Ok(());
        }
        if reason != CopyReason::Backfill && self.regions.is_at_first(&plan.name) {
            // Of rows that are not there any more.
            self.gates.forget_all(*number);
        }
        let bound = BoundPlan::new(plan, &piece.table)?;
        for row in &piece.rows {
            if bound.takes(row)? {
                self.gates.settle(*number, &bound.key_of(row)?, bound.signs_of(row)?);
            } else if let Ok(key) = bound.key_of(row) {
                self.gates.forget(*number, &key);
            }
        }
        Ok(())
    }

    /// The keys of a piece of a view are read again where the flow stands, whatever is remembered of them: so a view is copied.
    /// The piece itself may be older than what was sent since it was read.
    async fn read_again(&mut self, mapped: &Mapped, piece: &Piece, row: &CopyRow) -> Result<()> {
        let Mapped { plan, number } = mapped;
        let Some(view) = &plan.view else { return Err(Error::bug("a table was taken for a view")) };
        let places = view.places(&piece.table)?;
        let mut touched = Touched::default();
        let by = touched.of(*number, plan);
        by.force = true;
        for row in &piece.rows {
            by.key(places.iter().filter_map(|&at| row.0.get(at).cloned()).collect());
        }
        let first = self.regions.is_at_first(&plan.name);
        let hands = self.session.hands()?;
        if first && row.reason == CopyReason::Resync && !row.sweep {
            // Nobody looks for rows that only the target has: what is remembered tells which were ours.
            let gone = hands.rereads.gone(&mut *hands.sink, *number, plan, &self.reached).await;
            self.waiting.append(&mut gone.map_err(|blamed| blamed.error)?);
        }
        if first && row.sweep {
            // Of rows that are about to be swept away.
            hands.sink.forget_memory(&plan.name).await?;
            hands.rereads.gates.forget_all(*number);
        }
        let run = hands.rereads.run(&mut *hands.sink, touched, &self.reached).await;
        let mut reread = run.map_err(|blamed| blamed.error)?;
        hands.sink.record_copy(row).await?;
        hands.sink.commit(&self.reached, 0).await?;
        self.waiting.append(&mut reread.waiting);
        Ok(())
    }

    async fn sweep(&mut self, ready: SweepReady) -> Result<()> {
        let SweepReady { mapping, keys, row, reply } = ready;
        self.in_piece = true;
        self.blame = Some(mapping.clone());
        let plan = self.plan_of(&mapping)?.plan;
        let mut removed = 0;
        for key in keys {
            let Some(write) = plan.removal(&key)? else { continue };
            if !self.regions.touched(&mapping, write.keys[0]) {
                self.batcher.push(&plan, write, OpKind::Delete);
                removed += 1;
            }
        }
        if removed > 0 {
            let doing = if plan.rows.end == EndPlan::Delete { "removing" } else { "marking" };
            tracing::warn!(flow = %self.flow, %mapping, rows = removed, "{doing} rows that the source does not have");
        }
        self.direct().await?;
        let sink = self.session.sink()?;
        sink.record_copy(&row).await?;
        sink.commit(&self.reached, 0).await?;
        self.wrote_copy();
        self.regions.committed(&mapping, row.clone());
        self.show_step(&mapping, row, reply);
        Ok(())
    }

    /// The flow's own session has committed at the place where the flow stands.
    fn wrote_copy(&mut self) {
        self.last_write = std::time::Instant::now();
        self.open = None;
        self.in_piece = false;
        self.blame = None;
        self.counters.publish(&mut self.tally);
        self.after_commit(self.reached.clone(), self.seq, None);
    }

    fn stepped(
        &mut self,
        mapping: &str,
        step: &Step,
        row: CopyRow,
        reply: oneshot::Sender<Outcome>,
    ) {
        self.regions.stepped(mapping, step, row.clone());
        self.show_step(mapping, row, reply);
    }

    fn show_step(&mut self, mapping: &str, row: CopyRow, reply: oneshot::Sender<Outcome>) {
        self.shared.show_copy(mapping, &row);
        self.replan |= copies::goes_again(&row);
        self.rows.insert(mapping.to_owned(), row);
        self.show_copies();
        // A copier that has gone away is not told; the attempt ends then.
        let _gone = reply.send(Outcome::Written);
    }

    /// Loads a piece, and commits it with the cursor and the position. The copier is answered
    /// meanwhile, so that the next piece is read while this one is written: the flow stands still
    /// until then, and its position is what this transaction commits.
    async fn load(&mut self, plan: &Arc<MappingPlan>, piece: Piece, row: &CopyRow) -> Result<bool> {
        let memories = self.gates.take();
        let Applier { session, regions, requests, reached, .. } = self;
        let sink = session.sink()?;
        let written = async {
            for Memories { scope, put, gone } in &memories {
                sink.remember(scope, put, gone).await?;
            }
            let waits = put(sink, plan, piece, row.reason != CopyReason::Initial).await?;
            // A constraint may have waited for the commit: what is refused there is about the rows still.
            sink.record_copy(row).await?;
            sink.commit(reached, 0).await?;
            Ok(waits)
        };
        answering(regions, requests, reached, written).await
    }

    /// Loads this piece and all whose place has come by several sessions at once; those that come to it meanwhile, too.
    /// A session that is lost or refused ends it all: what was not committed is read again.
    async fn volley(&mut self, first: RowsReady) -> Result<()> {
        if self.saved.as_ref() != Some(&self.reached) {
            self.save().await?;
        }
        let hops = HopList::default().with(&self.source_id);
        let mut next = Some(first);
        let mut later = None;
        let mut loads: JoinSet<Shot> = JoinSet::new();
        loop {
            while later.is_none()
                && let Some(loader) = self.loaders.take()
            {
                let ready = match next.take() {
                    Some(ready) => Some(ready),
                    None => self.regions.rows_ready(&self.reached)?,
                };
                let ready = match ready {
                    Some(ready) if self.goes_alone(&ready)? => {
                        later = Some(ready);
                        None
                    }
                    other => other,
                };
                let Some(RowsReady { mapping, piece, step, reply }) = ready else {
                    self.loaders.give(loader);
                    break;
                };
                let plan = self.plan_of(&mapping)?.plan;
                let known =
                    self.regions.row(&mapping).is_some_and(|r| r.reason != CopyReason::Initial);
                let load = self.loaders.load(loader, plan, piece, hops.clone(), known);
                loads.spawn(async move { Shot { mapping, step, reply, loaded: load.await } });
            }
            if loads.is_empty() {
                return match later {
                    Some(ready) => self.rows(ready).await,
                    None => Ok(()),
                };
            }
            let ping_at = self.last_write + PING;
            tokio::select! {
                biased;
                Some(shot) = loads.join_next() => self.hit(shot).await?,
                Some(request) = self.requests.recv() => self.regions.take(request, &self.reached),
                () = tokio::time::sleep_until(ping_at.into()) => {
                    self.session.sink()?.ping().await?;
                    self.last_write = std::time::Instant::now();
                }
            }
        }
    }

    /// The rows of a piece are at the target: commits them with how far the copy has come.
    async fn hit(&mut self, shot: std::result::Result<Shot, JoinError>) -> Result<()> {
        let Shot { mapping, step, reply, loaded } =
            shot.map_err(|panic| Error::bug(format!("loading ended in a panic: {panic}")))?;
        let committed = async {
            let (mut loader, waits) = loaded?;
            let row = self.regions.after(&mapping, &step)?;
            let Applier { regions, requests, reached, .. } = &mut *self;
            let sink = loader.sink()?;
            let written = async {
                sink.record_copy(&row).await?;
                sink.commit(reached, 0).await
            };
            answering(regions, requests, reached, written).await?;
            Ok((loader, row, waits))
        };
        let (loader, row, waits) =
            committed.await.map_err(|error| self.refused(&mapping, error))?;
        if waits {
            let number = self.plan_of(&mapping)?.number;
            self.delayed.add(number);
        }
        self.loaders.give(loader);
        self.stepped(&mapping, &step, row, reply);
        Ok(())
    }

    /// What an error of a piece means that was written beside others.
    fn refused(&self, mapping: &str, error: Error) -> Error {
        // Deadlocks and waits for locks are among the busy ones.
        if error.kind() != ErrorKind::Data && error.code() != Code::ServerBusy {
            return error;
        }
        tracing::warn!(flow = %self.flow, %mapping, code = %error.code(), %error,
            "a piece was refused while others were written; tables are copied by one worker from here on");
        self.shared.copy_alone.store(true, Ordering::Relaxed);
        let said = format!("a piece was refused beside others, and is tried by itself: {error}");
        Error::transient(Code::ServerBusy, said)
    }

    pub(super) fn show_copies(&mut self) {
        if self.regions.is_empty() {
            self.loaders.end();
            self.shared.copy_alone.store(false, Ordering::Relaxed);
        }
        // Rows that wait for others are a part of what is copied.
        let state = match self.regions.is_empty() && !self.delayed.goes_in_rounds() {
            true => FlowState::Streaming,
            false => FlowState::Snapshotting,
        };
        self.shared.set_state(state, None);
    }
}

/// Does something at the target while the copier is answered.
async fn answering<T>(
    regions: &mut Regions,
    requests: &mut mpsc::Receiver<Request>,
    reached: &Position,
    doing: impl Future<Output = T>,
) -> T {
    tokio::pin!(doing);
    loop {
        tokio::select! {
            biased;
            outcome = &mut doing => return outcome,
            Some(request) = requests.recv() => regions.take(request, reached),
        }
    }
}
