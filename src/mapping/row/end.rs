//! What the end of a row becomes: its removal, nothing, or a mark.

use std::sync::Arc;

use tidelock_core::{
    Code, Delete, Error, JsonForm, Key, LookupTarget, OldRow, Op, Result, Row, Value, WriteOp,
};

use super::hash::hash;
use super::{Becomes, BoundPlan, Write, bind};
use crate::expr::{Expr, Field, Input};
use crate::mapping::computed;
use crate::mapping::convert::{Conversion, Rule, Target};
use crate::mapping::plan::{EndPlan, MappingPlan};
use crate::mapping::rules;

/// What the end of a row becomes.
pub(super) enum End {
    Delete,
    Nothing,
    Set { columns: Arc<[usize]>, values: Vec<(Expr, Conversion)> },
}

impl End {
    pub(super) fn new(plan: &MappingPlan, fields: &[Field]) -> Result<End> {
        let set = match &plan.rows.end {
            EndPlan::Delete => return Ok(End::Delete),
            EndPlan::Ignore => return Ok(End::Nothing),
            EndPlan::Set(set) => set,
        };
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for (name, computed) in set {
            let at = plan.target.columns.iter().position(|c| c.name == *name);
            let target = at.and_then(|at| plan.target.columns.get(at));
            let (Some(at), Some(target)) = (at, target) else {
                return Err(Error::bug("a column that is set is not in the plan"));
            };
            let expr = bind(&computed.text.text, fields, plan, name)?;
            let known = plan.columns.get(at);
            let to = Target {
                data_type: &target.data_type,
                nullable: known.is_none_or(|c| c.nullable),
                same_family: plan.same_family,
                json_form: known.map_or(JsonForm::Text, |c| c.json_form),
            };
            let convert = Conversion::new(expr.data_type(), to, &Rule::default());
            columns.push(at);
            values.push((expr, convert));
        }
        Ok(End::Set { columns: columns.into(), values })
    }
}

impl BoundPlan {
    /// The key at the target of a row that has ended and stays there.
    pub(super) fn kept(&self, row: &Row) -> Option<Key> {
        match self.end {
            End::Nothing => self.key_of(row).ok().map(Key::from),
            End::Delete | End::Set { .. } => None,
        }
    }
    /// A row that left the filter.
    pub(super) fn left(&self, old: OldRow, new: Row) -> Result<Becomes> {
        // Outside the filter, the new key may be none.
        let before = old.row().unwrap_or(&new);
        match self.has_key(before)? {
            true => self.end(self.key_of(before)?.into(), &new, old.row()),
            false => Ok(Becomes::Nothing),
        }
    }

    /// A row that was deleted.
    pub(super) fn ended(&self, delete: &Delete, old: &Row) -> Result<Becomes> {
        match &self.end {
            End::Delete => self.delete(delete).map(Becomes::Write),
            End::Nothing | End::Set { .. } => self.end(self.key_of(old)?.into(), old, Some(old)),
        }
    }

    pub(super) fn end(&self, key: Box<[Value]>, row: &Row, old: Option<&Row>) -> Result<Becomes> {
        let hash = hash(key.iter());
        let keys = [hash, hash];
        match &self.end {
            End::Nothing => Ok(Becomes::Nothing),
            End::Delete => Ok(Becomes::Write(Write {
                op: WriteOp::Delete,
                columns: self.key.clone(),
                row: key,
                keys,
                uniques: self.uniques(None, old),
                waits: Vec::new(),
            })),
            End::Set { columns, values } => {
                let mut cells = Vec::with_capacity(values.len() + key.len());
                for (n, (expr, convert)) in values.iter().enumerate() {
                    let value = self.evaluate(expr, row, old, columns.get(n).copied())?;
                    if value.is_unchanged() {
                        return Err(self.identity_missing());
                    }
                    let column = columns.get(n).copied().unwrap_or_default();
                    cells.push(convert.take(value).map_err(|m| self.misfit(column, &m))?);
                }
                cells.extend(key);
                let (columns, row) = (columns.clone(), cells.into());
                let (op, waits) = (WriteOp::Patch, Vec::new());
                Ok(Becomes::Write(Write { op, columns, row, keys, uniques: None, waits }))
            }
        }
    }
    /// What an update leaves at the key that its row had, if the row has another one then and rows that have ended stay at the target: what
    /// their end becomes, where a row that has ended is at the other key already. Nothing where the two may be the target's same key.
    pub fn left_behind(&self, op: &Op) -> Option<LeftBehind> {
        let (Some(at), Op::Update(update)) = (&self.plan.kept_at, op) else { return None };
        let old = update.old.row()?;
        // A row outside the filter may come to no key, and has none to leave.
        let (before, after) = (self.key_of(old).ok()?, self.convert_keys(&update.new).ok()?);
        let likely = |(old, new): (&Value, &Value)| new.is_unchanged() || old.is_same(new);
        if before.iter().zip(&after).all(likely) {
            return None;
        }
        let end = self.end(before.into(), old, Some(old)).map(|end| match end {
            Becomes::Write(write) => Some(write),
            Becomes::Nothing | Becomes::Unknown { .. } => None,
        });
        Some(LeftBehind { at: at.clone(), end })
    }

    /// The removal of the row before a change, whatever `on_delete` says.
    pub fn erase(&self, old: &OldRow, new: &Row) -> Result<Write> {
        let row: Box<[Value]> = self.key_of(old.row().unwrap_or(new))?.into();
        let key = hash(row.iter());
        let columns = self.key.clone();
        let (op, waits) = (WriteOp::Delete, Vec::new());
        Ok(Write { op, columns, row, keys: [key, key], uniques: None, waits })
    }

    /// The removal of a row by its key at the target.
    pub fn remove(plan: &MappingPlan, key: &[Value]) -> Write {
        let hash = hash(key.iter());
        let columns = plan.target.key.iter().copied().collect();
        let (op, waits) = (WriteOp::Delete, Vec::new());
        Write { op, columns, row: key.into(), keys: [hash, hash], uniques: None, waits }
    }

    pub(super) fn delete(&self, delete: &Delete) -> Result<Write> {
        let Some(old) = delete.old.row() else {
            return Err(self.identity_missing());
        };
        let row: Box<[Value]> = self.key_of(old)?.into();
        let key = hash(row.iter());
        Ok(Write {
            op: WriteOp::Delete,
            columns: self.key.clone(),
            row,
            keys: [key, key],
            uniques: self.uniques(None, Some(old)),
            waits: Vec::new(),
        })
    }
}

/// What a row leaves at a key that it had.
#[derive(Debug)]
pub struct LeftBehind {
    /// By what it is found out whether the target has a row at the key that it has now.
    pub at: Arc<LookupTarget>,
    /// What its end becomes. What is wrong with that is told if it is needed.
    pub end: Result<Option<Write>>,
}

/// The mark of a row that ended, of which only the key is known.
pub fn mark(plan: &MappingPlan, key: &[Value]) -> Result<Write> {
    let End::Set { columns, values } = End::new(plan, &[])? else {
        return Err(Error::bug("a row is to be marked by a mapping that marks none"));
    };
    let env = computed::env(plan, computed::now());
    let mut cells = Vec::with_capacity(values.len() + key.len());
    for (expr, convert) in &values {
        let value = expr
            .eval(&Input { new: &[], old: None, lookups: &[], env: &env })
            .map_err(|error| rules::failed(plan, "on_delete", &error))?;
        cells.push(convert.take(value).map_err(|misfit| {
            Error::data(
                Code::NotRepresentable,
                format!("{}: on_delete: {misfit}", plan.target.name),
            )
        })?);
    }
    cells.extend_from_slice(key);
    let hash = hash(key.iter());
    let row = cells.into();
    let (op, waits) = (WriteOp::Patch, Vec::new());
    Ok(Write { op, columns, row, keys: [hash, hash], uniques: None, waits })
}

/// Whether a row can be marked of which nothing but the key is known.
pub fn marks_alone(plan: &MappingPlan) -> bool {
    matches!(End::new(plan, &[]), Ok(End::Set { .. }))
}
