//! What is met inside a source transaction.

use std::sync::Arc;

use tidelock_core::{
    Change, Code, CopyRow, Error, HopList, Key, Op, OpKind, Result, Row, ShapeChange, TableChanged,
    TableName, TableSchema, Value, WriteOp, alike,
    progress::{HOP_LIST_COLUMN, SEQ_COLUMN},
};

use super::batch::moves;
use super::gate::Pass;
use super::route::{Followed, Mapped, Role};
use super::tally::Fate;
use super::{Applier, KEYS_MAX, now_micros};
use crate::config::OnTruncate;
use crate::copy::region::Meeting;
use crate::flow::copies;
use crate::mapping::call::calls;
use crate::mapping::dictionaries::Keeper;
use crate::mapping::row::Signed;
use crate::mapping::{Becomes, MappingPlan, Write};
use crate::reread::{Refused, put_off, put_off_values};

impl Applier {
    pub(super) async fn change(&mut self, change: Change) -> Result<()> {
        let first = self.source.changes == 0;
        self.source.changes += 1;
        let route = self.route(&change.table);
        let followed = match &self.routes.routes[route].role {
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
            Role::Mapped(followed) => followed.clone(),
        };
        self.source.others_than_progress = true;
        self.keep_dictionaries(&followed, |keeper| keeper.meet(&change))?;
        for (nth, (one, _, _)) in followed.tracked.iter().enumerate() {
            self.touch(one, (route, nth), &change).await?;
        }
        for (one, column) in &followed.pushing {
            self.push(one, column, &change).await?;
        }
        if let Some((last, others)) = followed.mapped.split_last() {
            for (nth, one) in others.iter().enumerate() {
                self.change_of(one, (route, nth), change.clone()).await?;
            }
            self.change_of(last, (route, others.len()), change).await?;
        }
        Ok(())
    }

    /// What a table's dictionaries make of a change, whoever made it. A fault is the first running mapping's that uses them.
    fn keep_dictionaries(
        &mut self,
        followed: &Followed,
        mut keep: impl FnMut(&mut Keeper) -> Result<()>,
    ) -> Result<()> {
        for (name, users) in &followed.dictionaries {
            let user = users.iter().find(|user| !self.is_stopped(&user.plan.name));
            let (Some(user), Some(keeper)) = (user, self.keepers.get_mut(name)) else { continue };
            if let Some(ahead) = keeper.ahead()
                && self.regions.is_past(&self.reached, ahead)?
            {
                keeper.caught_up();
            }
            if let Err(error) = keep(keeper) {
                self.blame = Some(user.plan.name.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    /// A change of a table that a view is made of.
    async fn touch(
        &mut self,
        Mapped { plan, .. }: &Mapped,
        route: (usize, usize),
        change: &Change,
    ) -> Result<()> {
        if self.source.echo || self.is_stopped(&plan.name) {
            return Ok(());
        }
        self.touching().await?;
        self.blame = Some(plan.name.clone());
        let mut touched = std::mem::take(&mut self.touched);
        let outcome = self.trace(route, change, &mut touched);
        self.touched = touched;
        outcome?;
        self.blame = None;
        Ok(())
    }

    /// Something is about to be touched, and read again with the open transaction. It must be the one of this change: the
    /// one before may be committed by what it shows without it.
    async fn touching(&mut self) -> Result<()> {
        self.open_transaction().await?;
        if self.touched.weight() >= KEYS_MAX {
            self.put_off().await?;
        }
        self.touched.note(self.source.id);
        if let Some(open) = &mut self.open {
            open.changes += 1;
        }
        Ok(())
    }

    /// A change as one of the table's mappings meets it.
    async fn change_of(
        &mut self,
        Mapped { plan, number }: &Mapped,
        route: (usize, usize),
        change: Change,
    ) -> Result<()> {
        let number = *number;
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
                if !self.regions.follows(&plan.name, &key, plan).await? {
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
        let gated = self.gates.has(number);
        let loose = self.is_loose(number);
        let again = loose || self.leans(number);
        let bound = self.bound(route, &change.table)?;
        let signed = match gated {
            true => bound.signs(&change.op)?,
            false => Signed::default(),
        };
        let left = match &meeting {
            Meeting::Apply => bound.left_behind(&change.op),
            Meeting::Insert(_) | Meeting::Again | Meeting::Erase | Meeting::Later => None,
        };
        let later = match (again, &meeting) {
            (true, Meeting::Apply) => bound.later(&change.op)?,
            (true, Meeting::Insert(insert)) => bound.later(&Op::Insert(insert.clone()))?,
            (true, Meeting::Again | Meeting::Erase | Meeting::Later) | (false, _) => None,
        };
        let becomes = match (meeting, change.op) {
            (Meeting::Later, _) => return Ok(()),
            (Meeting::Apply | Meeting::Insert(_), _) if let Some(later) = later => later,
            (Meeting::Insert(insert), _) => bound.write(Op::Insert(insert))?,
            (Meeting::Erase, Op::Update(update)) => {
                Becomes::Write(bound.erase(&update.old, &update.new)?)
            }
            (Meeting::Again, Op::Update(update)) => bound.again(&update)?,
            (Meeting::Apply | Meeting::Again | Meeting::Erase, op) => bound.write(op)?,
        };
        let counted = matches!(becomes, Becomes::Unknown { .. });
        let write = match becomes {
            Becomes::Write(write) => write,
            Becomes::Nothing => {
                self.tally.add(number, kind, Fate::Filtered);
                if let Some(key) = signed.ended.filter(|key| self.gates.knows(number, key)) {
                    // It stays at the target, and is new to the gate when it comes back.
                    self.open_transaction().await?;
                    self.gates.forget(number, &key);
                }
                return Ok(());
            }
            Becomes::Unknown { key, moved } => {
                if gated && !self.passes_again(number, kind, moved.as_ref(), signed.clone()).await?
                {
                    return Ok(());
                }
                self.blame = None;
                self.tally.add(number, kind, Fate::Applied);
                self.touching().await?;
                let by = self.touched.of(number, plan);
                by.row(key);
                if loose {
                    by.refused = by.refused.max(Refused::PutOff);
                }
                match moved {
                    Some(write) => write,
                    None => return Ok(()),
                }
            }
        };
        if gated && !counted && !self.passes(plan, number, kind, &write, signed).await? {
            return Ok(());
        }
        self.blame = None;
        self.regions.wrote(&plan.name, write.keys);
        self.open_transaction().await?;
        if !counted {
            self.tally.add(number, kind, Fate::Applied);
        }
        match &plan.call {
            Some(call) if write.waits.is_empty() => self.batcher.call(calls(plan, call, &write)?),
            Some(_) => self.batcher.call_sought(plan, write),
            None => match left {
                Some(left) if moves(&write, &plan.target) && write.keys[0] != write.keys[1] => {
                    self.batcher.push_moved(plan, write, left);
                }
                _ => {
                    if let Some(replaced) = self.batcher.push(plan, write, kind) {
                        self.tally.supersede(number, replaced);
                    }
                }
            },
        }
        if let Some(open) = &mut self.open {
            open.changes += 1;
        }
        if self.is_overfull() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Whether a write is worth sending now; counts it else, and sees to it that what is to be remembered is committed.
    async fn passes(
        &mut self,
        plan: &Arc<MappingPlan>,
        number: usize,
        kind: OpKind,
        write: &Write,
        Signed { signs, source, .. }: Signed,
    ) -> Result<bool> {
        let width = write.columns.len();
        let key_at = |row: &[Value]| -> Vec<Value> {
            plan.target.key.iter().filter_map(|&i| row.get(i).cloned()).collect()
        };
        if matches!(write.op, WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert)
            && self.gates.is_quiet(number, &key_at(&write.row), signs)
        {
            self.tally.add(number, kind, Fate::Filtered);
            self.blame = None;
            return Ok(false);
        }
        // What is remembered of this change must not be committed with the transaction before.
        self.open_transaction().await?;
        match write.op {
            WriteOp::Delete => self.gates.forget(number, &write.row),
            WriteOp::Patch => self.gates.forget(number, write.row.get(width..).unwrap_or_default()),
            WriteOp::Move => {
                self.gates.forget(number, write.row.get(width..).unwrap_or_default());
                self.gates.settle(number, &key_at(&write.row), signs);
            }
            WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => {
                let key = key_at(&write.row);
                let source = (source, self.source.id);
                let pass = self.gates.pass(number, &key, signs, source, now_micros());
                return Ok(self.told(number, kind, pass));
            }
            WriteOp::Update | WriteOp::DeleteAll => {}
        }
        Ok(true)
    }

    /// The same for a row that is to be read again. Where the log does not tell that it meets the filter, it is read in any case.
    async fn passes_again(
        &mut self,
        number: usize,
        kind: OpKind,
        moved: Option<&Write>,
        Signed { signs, source, key, holds, .. }: Signed,
    ) -> Result<bool> {
        let Some(key) = key else { return Ok(true) };
        if moved.is_none() && holds && self.gates.is_quiet(number, &key, signs) {
            return Ok(self.told(number, kind, Pass::Keep));
        }
        self.open_transaction().await?;
        if let Some(moved) = moved {
            self.gates.forget(number, &moved.row);
        }
        if moved.is_some() || !holds {
            self.gates.settle(number, &key, signs);
            return Ok(true);
        }
        let source = (source, self.source.id);
        let pass = self.gates.pass(number, &key, signs, source, now_micros());
        Ok(self.told(number, kind, pass))
    }

    /// Whether that is to be sent; counts it else.
    fn told(&mut self, number: usize, kind: OpKind, pass: Pass) -> bool {
        let fate = match pass {
            Pass::Send => return true,
            Pass::Hold => Fate::Superseded,
            Pass::Keep => Fate::Filtered,
        };
        self.tally.add(number, kind, fate);
        self.blame = None;
        false
    }

    /// Leaves the keys touched so far to the target's memory, in the open transaction.
    async fn put_off(&mut self) -> Result<()> {
        self.direct().await?;
        for (plan, values) in self.touched.take_values()? {
            put_off_values(self.session.sink()?, &plan, &values).await?;
        }
        for (number, plan, keys) in self.touched.take_keys() {
            put_off(self.session.sink()?, &plan, keys).await?;
            // Those of a view are taken up before this transaction is committed.
            if plan.view.is_none() {
                self.delayed.add(number);
            }
        }
        Ok(())
    }

    /// A row of a table that makes keys of a mapping worth sending, whoever wrote it.
    async fn push(
        &mut self,
        Mapped { plan, number }: &Mapped,
        column: &str,
        change: &Change,
    ) -> Result<()> {
        let row = match &change.op {
            Op::Insert(insert) => &insert.new,
            Op::Update(update) => &update.new,
            Op::Delete(_) => return Ok(()),
        };
        let at = change.table.columns.iter().position(|c| c.name == column);
        let value = at.and_then(|at| row.0.get(at));
        let (Some(value), Some(by)) = (value, &plan.rows.pushed) else { return Ok(()) };
        if self.is_stopped(&plan.name) {
            return Ok(());
        }
        // No key of the mapping is that, else.
        let Ok(Some(key)) = alike(value, &by.data_type) else { return Ok(()) };
        self.touching().await?;
        self.blame = Some(plan.name.clone());
        let key = Key::from([key]);
        if plan.read_by() == std::slice::from_ref(&by.column) {
            self.owe(*number, plan, key).await?;
        } else if !self.regions.is_partial(&plan.name) {
            let loose = self.is_loose(*number);
            let by = self.touched.of(*number, plan);
            by.push(key);
            if loose {
                by.refused = by.refused.max(Refused::PutOff);
            }
        }
        self.blame = None;
        Ok(())
    }

    /// The hop list of a transaction that a tidelock wrote.
    pub(super) fn meet_progress_row(&mut self, change: &Change) -> Result<()> {
        let row = match &change.op {
            Op::Insert(insert) => &insert.new,
            // No mark: somebody takes the flow over, and the log holds only what an update sets.
            Op::Update(update) if is_unchanged(&change.table, &update.new, SEQ_COLUMN) => {
                return Ok(());
            }
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

    pub(super) async fn truncate(&mut self, table: &TableName) -> Result<()> {
        self.source.changes += 1;
        self.source.others_than_progress = true;
        let Some(followed) = self.tables.get(table).cloned() else { return Ok(()) };
        self.keep_dictionaries(&followed, |keeper| {
            keeper.clear();
            Ok(())
        })?;
        for Mapped { plan, number } in &followed.mapped {
            self.truncate_of(plan, *number, table).await?;
        }
        for (Mapped { plan, .. }, _, _) in &followed.tracked {
            if self.source.echo
                || self.is_stopped(&plan.name)
                || plan.on_truncate == OnTruncate::Ignore
                || self.regions.begins_anew(&plan.name)
            {
                continue;
            }
            self.blame = Some(plan.name.clone());
            if plan.on_truncate == OnTruncate::Delete && self.compare_anew(plan, table).await? {
                self.blame = None;
                continue;
            }
            return Err(Error::data(
                Code::Truncated,
                format!("{table} was truncated at the source, and {} is made of it", plan.source),
            )
            .with_hint(format!(
                "`tidelock resync {}` compares the target with the view",
                plan.name
            )));
        }
        Ok(())
    }

    /// A view is to be compared with its rows at the target: that is written down with this transaction, and this attempt
    /// ends behind it. Answers whether there is a place to write it down.
    async fn compare_anew(&mut self, plan: &Arc<MappingPlan>, table: &TableName) -> Result<bool> {
        let row = self.regions.row(&plan.name).or_else(|| self.rows.get(&*plan.name));
        let Some(row) = row else { return Ok(false) };
        let change = ShapeChange::Rows(format!("{table} was truncated"));
        let row = copies::with_pending(row, &change);
        self.direct().await?.record_copy(&row).await?;
        self.rows.insert(plan.name.to_string(), row);
        self.source.replans = true;
        Ok(true)
    }

    async fn truncate_of(
        &mut self,
        plan: &Arc<MappingPlan>,
        number: usize,
        table: &TableName,
    ) -> Result<()> {
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
            OnTruncate::Ignore => {
                if self.gates.has(number) {
                    self.open_transaction().await?;
                    self.gates.forget_all(number);
                }
                Ok(())
            }
            OnTruncate::Delete => {
                self.open_transaction().await?;
                self.gates.forget_all(number);
                self.batcher.delete_all(plan);
                Ok(())
            }
            OnTruncate::Halt if self.regions.begins_anew(&plan.name) => Ok(()),
            OnTruncate::Halt => {
                self.blame = Some(plan.name.clone());
                Err(Error::data(Code::Truncated, format!("{table} was truncated at the source"))
                    .with_hint("set on_truncate = \"delete\" or \"ignore\" for this mapping"))
            }
        }
    }

    /// A table is another one from here on: what that means for its mapping is decided by a new attempt,
    /// so it is written down, with the position behind it, and this one ends.
    pub(super) async fn table_changed(&mut self, changed: TableChanged) -> Result<()> {
        let (mut pending, mut any): (Vec<(Arc<str>, ShapeChange)>, bool) = (Vec::new(), false);
        let Some(followed) = self.tables.get(&changed.table).cloned() else { return Ok(()) };
        let change = changed.change;
        let beside = followed.tracked.iter().map(|(mapped, _, _)| mapped);
        let beside = beside.chain(followed.pushing.iter().map(|(mapped, _)| mapped));
        let beside = beside.map(|mapped| (mapped, change.at(&changed.table)));
        for (Mapped { plan, .. }, change) in
            followed.mapped.iter().map(|mapped| (mapped, change.clone())).chain(beside)
        {
            if self.is_stopped(&plan.name) {
                continue;
            }
            // What is still to be read shows whatever became of the rows.
            if change.why().is_some()
                && !self.regions.begins(&plan.name)
                && pending.iter().all(|(name, _)| *name != plan.name)
            {
                pending.push((plan.name.clone(), change));
            }
            any = true;
        }
        any |= !followed.dictionaries.is_empty();
        if !any || (pending.is_empty() && !changed.replan) {
            return Ok(());
        }
        self.finish().await?;
        self.settled().await?;
        let rows: Vec<CopyRow> = pending
            .iter()
            .filter_map(|(name, change)| {
                let row = self.regions.row(name).or_else(|| self.rows.get(&**name))?;
                Some(copies::with_pending(row, change))
            })
            .collect();
        if !rows.is_empty() {
            let sink = self.direct().await?;
            for row in &rows {
                sink.record_copy(row).await?;
            }
            self.commit_direct().await?;
        }
        self.replan = true;
        Ok(())
    }
}

fn is_unchanged(table: &TableSchema, row: &Row, column: &str) -> bool {
    let at = table.columns.iter().position(|c| c.name == column);
    at.is_some_and(|at| matches!(row.0.get(at), Some(Value::Unchanged)))
}

fn hop_list_cell(table: &TableSchema, row: &Row) -> Option<HopList> {
    let column = table.columns.iter().position(|c| c.name == HOP_LIST_COLUMN)?;
    match row.0.get(column)? {
        Value::Text(text) => HopList::decode(text).map(|(_, hops)| hops),
        _ => None,
    }
}
