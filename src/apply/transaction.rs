//! Target transactions: opened by the first write, sent when the session is free, committed at the end of a source transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tidelock_core::{Error, ErrorKind, HopList, Key, Mark, Position, Result, Sink, WriteBatch};

use super::batch::{Batcher, Step};
use super::gate::Due;
use super::lanes::Footprint;
use super::place::Places;
use super::session::{Failure, Work};
use super::tally::Tally;
use super::{
    Applier, BYTES_A_WRITE, CHANGES_A_TRANSACTION, Committed, IDLE_SAVE, KEYS_A_TRANSACTION,
    KEYS_MAX, PING, ROWS_A_WRITE, now_micros, shown,
};
use crate::flow::copies;
use crate::mapping::MappingPlan;
use crate::reread::{Refused, Reread, Touched};

pub(super) struct OpenTransaction {
    pub(super) hops: HopList,
    /// When the source committed the first of it.
    pub(super) begun_micros: i64,
    /// Until the session has been told of it.
    pub(super) mark: Option<Mark>,
    pub(super) changes: usize,
    pub(super) transactions: u64,
    /// The last source commit inside.
    pub(super) upto: Option<(Position, i64)>,
}

/// What is to be told when the session has committed.
pub(super) struct Committing {
    pub(super) position: Position,
    pub(super) commit_micros: i64,
    pub(super) seq: u64,
    pub(super) transactions: u64,
    /// When the source committed the first of it.
    pub(super) begun_micros: i64,
    pub(super) tally: Tally,
}

impl Applier {
    /// Takes up what the session did.
    pub(super) fn settle(&mut self, outcome: std::result::Result<Reread, Failure>) -> Result<()> {
        let mut reread = match outcome {
            Ok(reread) => reread,
            Err(Failure { error, mapping }) => {
                let alone = self.lanes.is_empty();
                let committing = self.committing.take().map(|c| c.transactions);
                // Without a commit it was a part of what is open.
                let open = || self.open.as_ref().map_or(0, |open| open.transactions);
                self.failed =
                    Some(committing.unwrap_or_else(|| open() + u64::from(self.source.inside)));
                self.blame = mapping;
                // What it was refused may have been held by a lane, unless that is about its rows.
                let beside = !alone && error.kind() != ErrorKind::Data;
                self.lanes.abandon();
                return Err(if beside { self.refused_beside(error) } else { error });
            }
        };
        self.tally.absorb(&mut reread.tally);
        self.take_reread(&mut reread);
        if !self.session.is_awaited() {
            self.last_write = Instant::now();
            self.lanes.end_own();
            if let Some(done) = self.committing.take() {
                self.committed(done);
            }
        }
        Ok(())
    }

    /// Takes up what became of rows that were read again.
    pub(super) fn take_reread(&mut self, reread: &mut Reread) {
        self.waiting.append(&mut reread.waiting);
        self.put_off_again(&reread.put_off);
        // A row that was read later than the sweep's own look is not to be swept away: it may be remembered as sent.
        for (mapping, rows) in &reread.wrote {
            for keys in rows {
                self.regions.wrote(mapping, *keys);
            }
        }
    }

    /// What was to be told when that has been committed.
    pub(super) fn committed(&mut self, mut done: Committing) {
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
        let oldest = self.lanes.begun_micros().or(self.open.as_ref().map(|o| o.begun_micros));
        if let Some(begun) = oldest {
            self.shared.begun_micros.store(begun, Ordering::Relaxed);
        } else if self.source.inside {
            self.shared.begun_micros.store(self.source.commit_micros, Ordering::Relaxed);
        } else {
            self.shared.applied.send_replace(Some(self.reached.clone()));
            self.counters.publish(&mut self.tally);
        }
    }

    /// Sends the latest states of keys that were held, when their time has come.
    pub(super) async fn due(&mut self) -> Result<()> {
        if self.source.inside || self.is_awaited() {
            return Ok(());
        }
        let now = now_micros();
        let mut due = self.gates.due(now);
        due.extend(self.session.hands()?.rereads.gates.due(now));
        due.retain(|due| !self.is_stopped(&due.plan.name));
        if due.is_empty() {
            return Ok(());
        }
        self.open_transaction().await?;
        if let Some(open) = &mut self.open {
            open.upto.get_or_insert_with(|| (self.reached.clone(), now));
        }
        for Due { number, plan, keys, within } in due {
            within.into_iter().for_each(|id| self.touched.note(Some(id)));
            for key in keys {
                self.owe(number, &plan, key).await?;
            }
        }
        self.finish().await
    }

    /// A row is to be read again and sent whatever gate its mapping has, unless a copy has yet to bring it.
    pub(super) async fn owe(
        &mut self,
        number: usize,
        plan: &Arc<MappingPlan>,
        key: Key,
    ) -> Result<()> {
        if plan.view.is_none() && !self.regions.has_come(&plan.name, &key).await? {
            return Ok(());
        }
        let loose = self.is_loose(number);
        let by = self.touched.of(number, plan);
        by.owe(key);
        if loose {
            by.refused = by.refused.max(Refused::PutOff);
        }
        Ok(())
    }

    /// Every transaction that was refused together has passed by itself.
    pub(super) fn trust_again(&mut self) {
        if let Some(mapping) = self.suspect.take()
            && !self.is_stopped(&mapping)
        {
            tracing::info!(flow = %self.flow, %mapping, "the target takes the mapping's changes in the order of the log only; they are not compacted any more");
            self.shared.keep_ordered(&mapping);
            let plans: Vec<_> = self.mapped().map(|m| m.plan.clone()).collect();
            self.places = Arc::new(Places::new(&plans, &self.shared.ordered()));
        }
        self.batcher = Batcher::new(self.places.clone(), false);
    }

    /// Commits what is complete. A source transaction that is not stays unapplied: its part in the
    /// open target transaction goes away with the session.
    pub(super) async fn drain(&mut self) -> Result<()> {
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
    pub(super) async fn direct(&mut self) -> Result<&mut dyn Sink> {
        self.open_transaction().await?;
        self.flush().await?;
        self.settled().await?;
        self.session.sink()
    }

    /// Commits the open target transaction at a place between two source transactions, without going on.
    pub(super) async fn commit_direct(&mut self) -> Result<()> {
        let position = self.reached.clone();
        self.session.sink()?.commit(&position, 0).await?;
        self.last_write = Instant::now();
        self.open = None;
        self.counters.publish(&mut self.tally);
        self.after_commit(position, self.seq, None);
        Ok(())
    }

    /// Opens the target transaction, or goes on in the open one if its hop list is the same.
    pub(super) async fn open_transaction(&mut self) -> Result<()> {
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

    /// Whether what is collected is to go out at the end of the source transaction.
    pub(super) fn is_full(&self) -> bool {
        self.batcher.rows() >= ROWS_A_WRITE || self.batcher.bytes() >= BYTES_A_WRITE
    }

    /// Whether it must go out before more is collected. A transaction that ends soon is left whole for a lane.
    pub(super) fn is_overfull(&self) -> bool {
        self.is_full()
            && (self.batcher.rows() >= 2 * ROWS_A_WRITE
                || self.batcher.bytes() >= 2 * BYTES_A_WRITE
                || self.open.as_ref().is_none_or(|open| open.mark.is_none())
                || !self.may_fly())
    }

    /// Sends what is collected, and leaves the target transaction open.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.send(None).await
    }

    async fn send(&mut self, commit: Option<(Position, i64)>) -> Result<()> {
        self.settled().await?;
        let mark = self.open.as_mut().and_then(|open| open.mark.take());
        let steps = self.batcher.take();
        self.start(mark, steps, commit, None)
    }

    /// Begins work of the session.
    fn start(
        &mut self,
        mark: Option<Mark>,
        mut steps: Vec<Step>,
        commit: Option<(Position, i64)>,
        footprint: Option<Footprint>,
    ) -> Result<()> {
        let stop = self.stop_mapping.clone().filter(|_| mark.is_some());
        let (touched, memories) = match commit {
            Some(_) => (std::mem::take(&mut self.touched), self.gates.take()),
            None => (Touched::default(), Vec::new()),
        };
        let late = self.keep_late(&mut steps, commit.is_some());
        let places = self.places.clone();
        let done = commit.is_some().then(|| self.lanes.begin_own(footprint));
        let work = Work { mark, stop, steps, touched, late, places, memories, commit, done };
        self.last_write = Instant::now();
        if work.mark.is_some() || work.commit.is_some() || !work.steps.is_empty() {
            self.session.start(work)?;
        }
        Ok(())
    }

    /// Deletes of rows that touched rows may still point to wait for the end of a transaction that is piped through, up to a
    /// limit and as long as nothing comes that must not be written before them. Answers those that are due now.
    fn keep_late(&mut self, steps: &mut Vec<Step>, commits: bool) -> Vec<WriteBatch> {
        let rows = |late: &[WriteBatch]| late.iter().map(|batch| batch.rows.len()).sum::<usize>();
        if !self.late.is_empty()
            && (rows(&self.late) >= KEYS_MAX || Step::meet(steps, &self.late, &self.places))
        {
            steps.insert(0, Step::Write(std::mem::take(&mut self.late)));
        }
        if commits {
            return std::mem::take(&mut self.late);
        }
        if !self.touched.is_empty() {
            let tables = self.touched.targets();
            self.late.extend(Step::split_deletes(steps, &tables, &self.places, false));
        }
        Vec::new()
    }

    pub(super) async fn commit(&mut self, position: Position, commit_micros: i64) -> Result<()> {
        let source = std::mem::take(&mut self.source);
        self.unsaved |= source.others_than_progress;
        self.reached = position.clone();
        let busy = self.is_busy();
        if let Some(open) = &mut self.open {
            open.upto = Some((position, commit_micros.max(source.commit_micros)));
            open.transactions += 1;
            let full = open.changes >= CHANGES_A_TRANSACTION
                || open.mark.is_none()
                || self.touched.weight() >= KEYS_A_TRANSACTION;
            let whole = open.mark.is_some();
            let full = full || self.is_full();
            if busy && full && whole && self.may_fly() {
                self.fly().await?;
            } else if !busy || full || self.careful > 0 {
                self.finish().await?;
            }
            if self.careful > 0 {
                self.settled().await?;
            }
        } else if self.committing.is_none() && self.lanes.is_empty() {
            self.shared.applied.send_replace(Some(position));
            self.counters.publish(&mut self.tally);
        }
        Ok(())
    }

    /// Ends the open target transaction at its last whole source transaction: the session commits it.
    pub(super) async fn finish(&mut self) -> Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.settled().await?;
        let steps = self.batcher.take();
        let whole = self.open.as_ref().is_some_and(|open| open.mark.is_some());
        let many = || steps.iter().map(Step::rows).sum::<usize>() >= ROWS_A_WRITE / 2;
        let footprint = match whole && self.may_fly() && many() {
            true => Footprint::of(&steps, &self.places),
            false => None,
        };
        self.finish_with(steps, footprint)
    }

    /// The same with what has been collected already, and nothing else under way.
    pub(super) fn finish_with(
        &mut self,
        steps: Vec<Step>,
        footprint: Option<Footprint>,
    ) -> Result<()> {
        let Some((mark, committing)) = self.close()? else { return Ok(()) };
        let commit = (committing.position.clone(), committing.commit_micros);
        self.start(mark, steps, Some(commit), footprint)?;
        self.committing = Some(committing);
        Ok(())
    }

    /// Takes the open target transaction, to be committed at its last whole source transaction.
    pub(super) fn close(&mut self) -> Result<Option<(Option<Mark>, Committing)>> {
        let Some(open) = self.open.take() else { return Ok(None) };
        let OpenTransaction { mark, upto, transactions, begun_micros, .. } = open;
        let Some((upto, commit_micros)) = upto else {
            return Err(Error::bug("a target transaction was to end inside a source transaction"));
        };
        // What came after the last commit inside and needed no row is covered too.
        let position = if self.source.inside { upto } else { self.reached.clone() };
        let tally = std::mem::take(&mut self.tally);
        let seq = self.seq;
        let committing =
            Committing { position, commit_micros, seq, transactions, begun_micros, tally };
        Ok(Some((mark, committing)))
    }

    pub(super) fn after_commit(
        &mut self,
        position: Position,
        seq: u64,
        commit_micros: Option<i64>,
    ) {
        self.last_save = Instant::now();
        // What has been met since is not in it.
        self.unsaved &= position != self.reached;
        self.note_stopped();
        if let Some(micros) = commit_micros {
            self.latency.record((now_micros() - micros).max(0) as f64 / 1e6);
        }
        self.shared.applied.send_replace(Some(position.clone()));
        self.saved = Some(position.clone());
        self.committed.send_replace(Some(Committed { position, epoch: self.epoch, seq }));
    }

    pub(super) fn note_stopped(&mut self) {
        let Some(row) = self.stop_mapping.take() else { return };
        self.regions.drop_mapping(&row.mapping);
        self.touched.drop_mapping(&row.mapping);
        self.shared.set_stopped(&row.mapping, Some(shown(&row)), false);
        self.stopped.insert(row.mapping);
    }

    /// Writes the position on its own, with a pending stop of a mapping.
    pub(super) async fn save(&mut self) -> Result<()> {
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
        self.last_write = Instant::now();
        self.seq = mark.seq;
        self.counters.publish(&mut self.tally);
        self.after_commit(position, self.seq, None);
        Ok(())
    }

    /// Writes down what tables are by now, with the position.
    pub(super) async fn keep_shapes(&mut self) -> Result<()> {
        for ((mapping, table), shape) in self.shared.take_shapes() {
            if self.is_stopped(&mapping) {
                continue;
            }
            if self.regions.row(&mapping).is_some() {
                // Once its copy has ended.
                self.shared.keep_shape(&mapping, &table, shape);
                continue;
            }
            let row = self.rows.get(&*mapping);
            let Some(row) = row.and_then(|r| copies::with_shape(r, &table, shape)) else {
                continue;
            };
            self.direct().await?.record_copy(&row).await?;
            self.commit_direct().await?;
            self.rows.insert(mapping.to_string(), row);
        }
        Ok(())
    }

    pub(super) async fn idle(&mut self) -> Result<()> {
        if self.open.is_some() || self.source.inside || self.is_awaited() {
            // A transaction that is piped through may wait for its source for long.
            return self.keep_alive().await;
        }
        self.loaders.let_go();
        self.keep_shapes().await?;
        if self.unsaved && self.last_save.elapsed() >= IDLE_SAVE {
            return self.save().await;
        }
        self.keep_alive().await
    }

    /// Says that the flow's own session lives, if it has not worked for a while.
    pub(super) async fn keep_alive(&mut self) -> Result<()> {
        if !self.session.is_awaited() && self.last_write.elapsed() >= PING {
            self.session.sink()?.ping().await?;
            self.last_write = Instant::now();
        }
        Ok(())
    }
}
