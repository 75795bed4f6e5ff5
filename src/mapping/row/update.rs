//! Updates: on which side of the filter a row was and is, whether the change is worth sending, and what it becomes.

use std::sync::Arc;

use tidelock_core::{OldRow, Op, Result, Row, Update, Value, WriteOp};

use super::cell::{Cell, From};
use super::hash::hash;
use super::{Becomes, BoundPlan, Write};
use crate::mapping::lookups::Begun;
use crate::mapping::rules::Holds;

impl BoundPlan {
    pub(super) fn update(&mut self, update: Update) -> Result<Becomes> {
        let Update { old, mut new } = update;
        if self.joins && !new.is_full() {
            new = told(new, &old);
        }
        let (mut before, mut worth, mut judged) = (Holds::Yes, true, true);
        if !self.plain {
            // What did not change and is not in the log of the new row may be in that of the old one.
            let filled = filled(&new, &old);
            let seen = filled.as_ref().unwrap_or(&new);
            let was = old.row();
            if self.rules.filters() {
                before = match was {
                    Some(row) => self.held(row)?,
                    None => Holds::Untold,
                };
            }
            match (before, self.rules.holds(&self.plan, &seen.0, &self.env())?) {
                (Holds::No, Holds::No) => return Ok(Becomes::Nothing),
                (_, Holds::Untold) => return self.unknown(&new, was),
                (_, Holds::No) => return self.left(old, new),
                (Holds::No, Holds::Yes) => {
                    let judged = self.rules.check(&self.plan, &seen.0, None, &self.env())?;
                    // There is nothing of it at the target, under whatever key it was.
                    return match seen.is_full() && judged {
                        true => self.insert(seen.clone(), WriteOp::Insert).map(Becomes::Write),
                        false => self.unknown(&new, was),
                    };
                }
                (Holds::Yes | Holds::Untold, Holds::Yes) => {}
            }
            judged = self.rules.check(&self.plan, &seen.0, was.map(|row| &*row.0), &self.env())?
                || !self.rules.concerns(|at| self.may_differ(&old, seen, at));
            worth = self.rules.is_worth(&new.0, full(&old));
            if let Some(filled) = filled {
                // Nothing partial of rows that come and go: one that is read again may be gone ahead of the log.
                return self.send(old, filled, before, (worth, judged));
            }
        }
        self.send(old, new, before, (worth, judged))
    }

    /// An update of a row that is to be at the target: whether it is worth sending, and whether all that must hold of it is told.
    fn send(
        &mut self,
        old: OldRow,
        new: Row,
        before: Holds,
        (worth, judged): (bool, bool),
    ) -> Result<Becomes> {
        let told = full(&old);
        // Where changes are kept back, the target may not have what was before.
        let gated = self.plan.rows.is_gated();
        if let Some(told) = told
            && before == Holds::Yes
            && !gated
            && self.is_same(&new, told)?
        {
            return Ok(Becomes::Nothing);
        }
        let partial = self.joins && !new.is_full();
        // A row that was read again may have left the filter ahead of the log, and be gone.
        let leaves = partial && self.rules.filters();
        let again = before == Holds::Untold || self.plan.call.is_some() || gated || leaves;
        let fed = if partial { self.fed(&old, &new) } else { Vec::new() };
        let stays = self.plan.kept_at.is_some();
        let source = (again || partial || (stays && !new.is_full())).then(|| new.0.clone());
        let (mut row, mut waits) = self.take_all(new, told)?;
        let mut old_key = None;
        let mut moved = false;
        if old.row().is_some() || self.key.iter().any(|&i| row[i].is_unchanged()) {
            let key = self.old_key(&old, &row)?;
            for (&i, old) in self.key.iter().zip(&key) {
                if row[i].is_unchanged() {
                    row[i] = old.clone();
                }
            }
            moved = self.key.iter().zip(&key).any(|(&i, old)| !row[i].is_same(old));
            old_key = Some(key);
        }
        if before == Holds::Yes && !worth && !moved {
            return Ok(Becomes::Nothing);
        }
        let key = self.hash_key(|i| &row[i]);
        let full = !row.iter().any(Value::is_unchanged);
        let uniques = self.uniques(Some(&row), old.row());
        if again && (!full || !judged) {
            // It may be one that has just come; and a routine takes whole rows, as does a row of which changes were kept back.
            return self.unknown(&Row(source.unwrap_or_default()), old.row());
        }
        // A cell is made of what changed and of what the log does not carry, or a rule looks at both: the row is read again, in
        // the same transaction. What the log tells is written before: later changes find the row where they expect it, though
        // the reading may have found it gone or moved already. So a row that moves is read as well: the reading for a change
        // before may have looked for it under its old key.
        let lacks = !judged || (!full && (moved || fed.iter().any(|&n| row[n].is_unchanged())));
        // One that comes to the key of a row that has ended may find anything there but what the log tells.
        let revives = moved && !full && stays;
        let reread = match (partial && lacks) || revives {
            true => Some(self.known_key(&Row(source.unwrap_or_default()), old.row())?),
            false => None,
        };
        if full && !moved {
            let (op, columns) = (WriteOp::Overwrite, self.all.clone());
            let write = Write { op, columns, row, keys: [key, key], uniques, waits };
            return Ok(Becomes::of(write, reread));
        }
        let old_key = old_key.unwrap_or_else(|| self.key.iter().map(|&i| row[i].clone()).collect());
        let keys = [key, hash(old_key.iter())];
        let (op, columns) = if full {
            (WriteOp::Move, self.all.clone())
        } else {
            let present = (0..row.len())
                .filter(|&i| !row[i].is_unchanged() && (moved || !self.key.contains(&i)))
                .collect::<Vec<_>>();
            if present.is_empty() {
                return Ok(match reread {
                    Some(key) => Becomes::Unknown { key, moved: None },
                    None => Becomes::Nothing,
                });
            }
            let cached =
                self.partial.entry(present).or_insert_with_key(|k| Arc::from(k.as_slice()));
            (WriteOp::Update, cached.clone())
        };
        let mut cells: Vec<Value> = columns.iter().map(|&i| row[i].clone()).collect();
        cells.extend(old_key);
        waits.retain(|wait| columns.contains(&wait.column()));
        let write = Write { op, columns, row: cells.into(), keys, uniques, waits };
        Ok(Becomes::of(write, reread))
    }

    /// Whether a column of the source may have another value after a change than before.
    fn may_differ(&self, old: &OldRow, new: &Row, at: usize) -> bool {
        let Some(now) = new.0.get(at).filter(|now| !now.is_unchanged()) else { return false };
        match old.row() {
            Some(old) => old.0.get(at).is_none_or(|was| was.is_unchanged() || !now.is_same(was)),
            // What tells rows apart did not change then.
            None => !self.copy_key.as_ref().is_some_and(|key| key.contains(&at)),
        }
    }

    /// The cells of which an input may have changed, while the log does not carry another.
    fn fed(&self, old: &OldRow, new: &Row) -> Vec<usize> {
        let untold = |at: usize| new.0.get(at).is_none_or(Value::is_unchanged);
        let is_fed = |cell: &Cell| {
            let reads = cell.reads();
            reads.iter().any(|&at| untold(at))
                && reads.iter().any(|&at| self.may_differ(old, new, at))
        };
        (0..self.cells.len()).filter(|&n| self.cells.get(n).is_some_and(is_fed)).collect()
    }

    /// The reading of a row that is not at the target, and of which the log does not carry all.
    pub fn again(&self, update: &Update) -> Result<Becomes> {
        self.unknown(&update.new, None).map(|becomes| match becomes {
            Becomes::Unknown { key, .. } => Becomes::Unknown { key, moved: None },
            other => other,
        })
    }

    /// What a change that is no delete becomes where rows are read again, because they may have to wait for others.
    pub fn later(&self, op: &Op) -> Result<Option<Becomes>> {
        match op {
            Op::Insert(insert) => self.unknown(&insert.new, None).map(Some),
            Op::Update(update) => self.unknown(&update.new, update.old.row()).map(Some),
            Op::Delete(_) => Ok(None),
        }
    }
    /// Whether an update leaves every mapped value as it was.
    fn is_same(&self, new: &Row, old: &Row) -> Result<bool> {
        let same = |at: usize| match (new.0.get(at), old.0.get(at)) {
            (Some(new), Some(old)) => new.is_unchanged() || new.is_same(old),
            _ => false,
        };
        let mut doubtful = Vec::new();
        for (n, cell) in self.cells.iter().enumerate() {
            let alike = match &cell.from {
                From::Column { at, .. } => same(*at),
                // One that changes by itself is no reason to send a row.
                From::Computed { steady: false, .. } => true,
                From::Computed { expr, .. } => expr.fields().iter().all(|&at| same(at)),
                From::Sought { reads, .. } => reads.iter().all(|&at| same(at)),
            };
            match (alike, &cell.from) {
                (true, _) => {}
                (false, From::Computed { .. } | From::Sought { .. }) => doubtful.push(n),
                (false, From::Column { .. }) => return Ok(false),
            }
        }
        for cell in doubtful {
            let alike = match self.cells.get(cell).map(|cell| &cell.from) {
                Some(From::Sought { seek, .. }) => {
                    match (seek.begin(new, None, self.now)?, seek.begin(old, None, self.now)?) {
                        (Begun::Value(new), Begun::Value(old)) => new.is_same(&old),
                        (Begun::Wait(new), Begun::Wait(old)) => new.is_same(&old),
                        (Begun::Value(_), Begun::Wait(_)) | (Begun::Wait(_), Begun::Value(_)) => {
                            false
                        }
                    }
                }
                _ => self.convert(cell, new)?.is_same(&self.convert(cell, old)?),
            };
            if !alike {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The old row, if the log carries all of it.
pub(super) fn full(old: &OldRow) -> Option<&Row> {
    match old {
        OldRow::Full(row) => Some(row),
        OldRow::Key(_) | OldRow::Absent => None,
    }
}

/// A new row with what did not change taken from the old one, as far as the log has it.
pub(super) fn told(mut new: Row, old: &OldRow) -> Row {
    for (cell, was) in new.0.iter_mut().zip(old.row().iter().flat_map(|old| &old.0)) {
        if cell.is_unchanged() {
            cell.clone_from(was);
        }
    }
    new
}

/// A new row with what did not change taken from the old one, where that is needed and the log has it.
pub(super) fn filled(new: &Row, old: &OldRow) -> Option<Row> {
    let old = full(old)?;
    if new.is_full() {
        return None;
    }
    let cells = new.0.iter().zip(&old.0);
    Some(Row(cells.map(|(new, old)| if new.is_unchanged() { old } else { new }.clone()).collect()))
}
