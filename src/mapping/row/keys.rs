//! The keys of a row, at the source and at the target, and what it holds in other unique indexes.

use tidelock_core::{Code, Key, OldRow, Op, Result, Row, TableSchema, Value};

use super::hash::hash;
use super::{Becomes, BoundPlan, Uniques};

impl BoundPlan {
    /// The key at the target of which the source's columns `names` alone are known; `None` if they do not tell it.
    pub fn key_alone(
        &self,
        shape: &TableSchema,
        names: &[String],
        key: &[Value],
    ) -> Result<Option<Key>> {
        let mut cells = vec![Value::Unchanged; shape.columns.len()];
        for (name, value) in names.iter().zip(key) {
            let at = shape.columns.iter().position(|c| c.name == *name);
            if let Some(cell) = at.and_then(|at| cells.get_mut(at)) {
                cell.clone_from(value);
            }
        }
        let target = self.convert_keys(&Row(cells.into()))?;
        Ok((!target.iter().any(Value::is_unchanged)).then(|| target.into()))
    }
    /// Whether the target can have the key that a row comes to. The key of a row outside the filter may be none.
    pub fn has_key(&self, row: &Row) -> Result<bool> {
        match self.key_of(row) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Code::IdentityMissing => Err(error),
            Err(_) => Ok(false),
        }
    }
    /// The key at the source by which a whole row is read again.
    pub fn source_key(&self, row: &Row) -> Result<Key> {
        let cells = self.copy_key.iter().flatten().map(|&at| row.0.get(at).cloned());
        match cells.collect::<Option<Key>>() {
            Some(key) if !key.is_empty() => Ok(key),
            Some(_) | None => Err(self.identity_missing()),
        }
    }

    /// The row is to be read again by its key.
    pub(super) fn unknown(&self, new: &Row, old: Option<&Row>) -> Result<Becomes> {
        let key = self.known_key(new, old)?;
        let before = old.and_then(|old| self.key_of(old).ok());
        // One that comes to no key is outside the filter, or an error when it is read.
        let after = self.convert_keys(new).ok();
        let changed = |(old, new): (&Value, &Value)| !new.is_unchanged() && !old.is_same(new);
        let differs = |before: &Vec<Value>| {
            after.as_ref().is_none_or(|after| before.iter().zip(after).any(changed))
        };
        let moved = before.filter(differs).map(|before| Self::remove(&self.plan, &before));
        Ok(Becomes::Unknown { key, moved })
    }

    /// The key at the source of a row of which the log carries a part.
    pub(super) fn known_key(&self, new: &Row, old: Option<&Row>) -> Result<Key> {
        let Some(places) = &self.copy_key else {
            return Err(self
                .error(Code::UpdateMissing, "the log does not carry all of a row that is needed whole, and there is no key by which it could be read")
                .with_hint("set REPLICA IDENTITY FULL (PostgreSQL) or binlog_row_image = FULL (MySQL, MariaDB)"));
        };
        let told = |row: &Row, at: usize| row.0.get(at).filter(|v| !v.is_unchanged()).cloned();
        let key: Option<Key> = places
            .iter()
            .map(|&at| told(new, at).or_else(|| old.and_then(|old| told(old, at))))
            .collect();
        key.ok_or_else(|| self.identity_missing())
    }
    /// The key at the target of the row that a change is about: before it, or, for an insert, after.
    pub fn target_key(&self, op: &Op) -> Result<Vec<Value>> {
        match op {
            Op::Insert(insert) => self.key_of(&insert.new),
            Op::Update(update) => self.key_of(update.old.row().unwrap_or(&update.new)),
            Op::Delete(delete) => {
                self.key_of(delete.old.row().ok_or_else(|| self.identity_missing())?)
            }
        }
    }
    /// What a write means to the unique indexes beside the key. A NULL collides with nothing.
    pub(super) fn uniques(&self, new: Option<&[Value]>, old: Option<&Row>) -> Option<Box<Uniques>> {
        if self.plan.uniques.is_empty() {
            return None;
        }
        let mut marks = Uniques::default();
        let mark = |index: usize, values: &[Value]| {
            let known = |v: &Value| !v.is_null() && !v.is_unchanged();
            values.iter().all(known).then(|| hash(values.iter()) ^ (index as u64 + 1))
        };
        for (index, columns) in self.plan.uniques.iter().enumerate() {
            if let Some(new) = new {
                let values: Vec<Value> = columns.iter().map(|&i| new[i].clone()).collect();
                marks.new.extend(mark(index, &values));
            }
            if let Some(old) = old {
                // What was stored fits; a value that does not has no mark.
                let values =
                    columns.iter().map(|&i| self.convert(i, old)).collect::<Result<Vec<_>>>();
                marks.old.extend(values.ok().and_then(|values| mark(index, &values)));
            }
        }
        Some(Box::new(marks))
    }

    /// The key of the row before the change: from the old row where the log carries one, else from
    /// the new row, which the source says has the same identity.
    pub(super) fn old_key(&self, old: &OldRow, new: &[Value]) -> Result<Vec<Value>> {
        match old.row() {
            Some(old) => self.key_of(old),
            None => {
                let key: Vec<Value> = self.key.iter().map(|&i| new[i].clone()).collect();
                if key.iter().any(Value::is_unchanged) {
                    Err(self.identity_missing())
                } else {
                    Ok(key)
                }
            }
        }
    }

    /// The key that a whole row, or one of which the log carries what feeds the key, has at the target.
    pub fn key_of(&self, row: &Row) -> Result<Vec<Value>> {
        self.key.iter().map(|&i| self.present(i, row)).collect()
    }

    pub(super) fn convert_keys(&self, row: &Row) -> Result<Vec<Value>> {
        self.key.iter().map(|&i| self.convert(i, row)).collect()
    }

    pub(super) fn present(&self, cell: usize, row: &Row) -> Result<Value> {
        let value = self.convert(cell, row)?;
        if value.is_unchanged() { Err(self.identity_missing()) } else { Ok(value) }
    }
    pub(super) fn hash_key<'a>(&self, cell: impl Fn(usize) -> &'a Value) -> u64 {
        hash(self.key.iter().map(|&i| cell(i)))
    }
}
