//! The applier's part in copies: between two source transactions it writes the pieces whose place in the log has come.

use std::sync::Arc;

use tidelock_core::{
    Change, CopyPhase, CopyRow, Error, Load, LoadRows, Op, OpKind, Piece, Result, Row, Value,
};

use super::Applier;
use super::route::Mapped;
use crate::copy::region::{Outcome, Ready};
use crate::flow::FlowState;
use crate::mapping::{BoundPlan, MappingPlan};

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

impl Applier {
    /// Takes up how far the copies of the other direction had come when this was last written.
    pub(super) fn recall_held(&mut self) {
        for Mapped { plan, .. } in self.plans.values().cloned().collect::<Vec<_>>() {
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
    pub(super) async fn copy(&mut self) -> Result<()> {
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
    pub(super) async fn load(
        &mut self,
        plan: &Arc<MappingPlan>,
        piece: Piece,
        row: &CopyRow,
    ) -> Result<()> {
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

    pub(super) fn show_copies(&self) {
        let state =
            if self.regions.is_empty() { FlowState::Streaming } else { FlowState::Snapshotting };
        self.shared.set_state(state, None);
    }
}
