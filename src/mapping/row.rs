//! Row by row: a canonical operation becomes a [`Write`], or nothing, or an error that names column
//! and cause but no value.
//!
//! **Filters.** A row that leaves the filter has ended, as a deleted one has; one that enters it is inserted. Where the log
//! carries the old row, it says on which side of the filter the row was; where not, the row may have been on either, and what
//! is written holds for both: an upsert of the whole row, or a delete of one that may not be there.
//!
//! **What changes nothing.** An update that leaves every mapped value as it was is not sent, where the log carries
//! the old row.
//!
//! **What the log does not carry.** A column that did not change may be left out of the log. A cell that is made of it alone stays as it
//! is; one that is made of others, too, which changed, cannot be told: the row is read again by its key.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tidelock_core::{
    Code, Delete, Error, Instant, JsonForm, Key, OldRow, Op, Result, Row, TableSchema,
    TargetColumn, Update, Value, WriteOp,
};

use super::computed;
use super::convert::{Conversion, Misfit, Rule, Target, compatible};
use super::lookups::{Begun, Seek, Wait};
use super::plan::{ColumnPlan, Computed, EndPlan, Feed, MappingPlan};
use super::rules::{self, Holds, Rules, Signs};
use crate::expr::{Env, Expr, Field, Input};

/// One row for the target.
#[derive(Debug, Clone)]
pub struct Write {
    /// What to do.
    pub op: WriteOp,
    /// Indexes into the target table's columns: the first cells of `row`.
    pub columns: Arc<[usize]>,
    /// The cells, followed by the old key for updates and moves.
    pub row: Box<[Value]>,
    /// Hashes of the keys the write touches (new and old). Two writes with a common hash may be about
    /// the same row and never share a statement.
    pub keys: [u64; 2],
    /// The values of other unique indexes; `None` where the target table has none.
    pub uniques: Option<Box<Uniques>>,
    /// What cells wait for; they hold NULL until it is answered.
    pub waits: Vec<Wait>,
}

impl Write {
    /// What the row is made of, as far as the source tells: the same for two rows that come out the same, but for what is looked up.
    pub fn made_of(&self) -> impl Iterator<Item = &Value> {
        self.row.iter().chain(self.waits.iter().flat_map(Wait::inputs))
    }
}

/// Hashes of the values of unique indexes beside the key, so that it is seen when one row takes what
/// another gave up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uniques {
    /// What the row has after the write.
    pub new: Vec<u64>,
    /// What it had before, as far as the log tells.
    pub old: Vec<u64>,
}

struct Cell {
    from: From,
    convert: Conversion,
}

enum From {
    /// A cell of the source row; `shared` if a later cell or an expression takes it too.
    Column { at: usize, shared: bool },
    /// An expression over the source row, and whether the same row always gives the same value.
    Computed { expr: Box<Expr>, steady: bool },
    /// An expression that may have to look something up; `reads` are the columns that it reads.
    Sought { seek: Arc<Seek>, reads: Vec<usize> },
}

/// What an operation becomes.
#[derive(Debug, Clone)]
pub enum Becomes {
    /// This.
    Write(Write),
    /// Nothing: a rule of the mapping filters it, or it changes nothing that is mapped.
    Nothing,
    /// What the row of this key of the source is now, which the log does not tell whole.
    Unknown {
        /// The key.
        key: Key,
        /// What is written before: the removal of the row that had another key, or what the log tells of the row.
        moved: Option<Write>,
    },
}

impl Becomes {
    /// A write, and the key by which its row is read again, if it is.
    fn of(write: Write, reread: Option<Key>) -> Becomes {
        match reread {
            Some(key) => Becomes::Unknown { key, moved: Some(write) },
            None => Becomes::Write(write),
        }
    }
}

/// What a change tells a mapping's gate.
#[derive(Debug, Clone, Default)]
pub struct Signed {
    /// On which side of the edge the row is after it; nothing where the log does not tell, and for rows that go.
    pub signs: Option<Signs>,
    /// Its key at the source.
    pub source: Option<Key>,
    /// Its key at the target.
    pub key: Option<Key>,
    /// Whether the log tells that it meets the filter.
    pub holds: bool,
    /// The key at the target of a row that has ended and stays there.
    pub ended: Option<Key>,
}

/// A mapping plan tied to one shape of the source's rows.
pub struct BoundPlan {
    plan: Arc<MappingPlan>,
    rules: Rules,
    /// Whether every row goes, whatever changed in it.
    plain: bool,
    cells: Vec<Cell>,
    end: End,
    all: Arc<[usize]>,
    key: Arc<[usize]>,
    /// Whether the cells are the source's columns, all of them and in their order.
    in_place: bool,
    computes: bool,
    /// Whether a cell, or what must hold of a row, takes several columns of the source together.
    joins: bool,
    /// The time that expressions see.
    now: Instant,
    /// Whether a row may have left the filter without a change.
    ends_unseen: bool,
    /// Where the key is by which the source's rows are read.
    copy_key: Option<Vec<usize>>,
    partial: HashMap<Vec<usize>, Arc<[usize]>>,
}

/// What the end of a row becomes.
enum End {
    Delete,
    Nothing,
    Set { columns: Arc<[usize]>, values: Vec<(Expr, Conversion)> },
}

fn drift(message: String) -> Error {
    Error::data(Code::SchemaDrift, message)
        .with_hint("put the column back or change the mapping, then take the mapping up again")
}

/// Ties an expression to a shape.
fn bind(text: &str, fields: &[Field], plan: &MappingPlan, column: &str) -> Result<Expr> {
    computed::compile_column(text, fields, &plan.values, &*plan.lookups).map_err(|fault| {
        drift(format!("{} to {}.{column}: {}", plan.source, plan.target.name, fault.message))
    })
}

impl BoundPlan {
    /// Ties a plan to a shape. [`Code::SchemaDrift`] if a mapped column is gone or has a type that
    /// the target column cannot take.
    pub fn new(plan: &Arc<MappingPlan>, shape: &TableSchema) -> Result<BoundPlan> {
        let fields = computed::fields_of(shape);
        let mut cells: Vec<Cell> = Vec::with_capacity(plan.columns.len());
        let mut sought = Vec::new();
        for (column, target) in plan.columns.iter().zip(&plan.target.columns) {
            let (from, data_type, place) = match &column.feed {
                Feed::Column(name) => {
                    let place = format!("{}.{name}", shape.name);
                    let Some(at) = shape.columns.iter().position(|c| c.name == *name) else {
                        return Err(drift(format!(
                            "{place}: the column is gone from the source table"
                        )));
                    };
                    let data_type = shape.columns[at].data_type.clone();
                    (From::Column { at, shared: false }, data_type, place)
                }
                Feed::Computed(computed) => {
                    let expr = bind(&computed.text.text, &fields, plan, &target.name)?;
                    let data_type = expr.data_type().clone();
                    let expr = Box::new(expr);
                    let steady = computed.steady;
                    if computed.seeks {
                        sought.push((cells.len(), &computed.text.text));
                    }
                    (From::Computed { expr, steady }, data_type, shape.name.to_string())
                }
            };
            compatible(&data_type, &target.data_type, &column.rule).map_err(|why| {
                Error::data(
                    Code::SchemaDrift,
                    format!("{place} to {}.{}: {why}", plan.target.name, target.name),
                )
                .with_hint("give the target column a type that can hold the source's values")
            })?;
            let to = Target {
                data_type: &target.data_type,
                nullable: column.nullable,
                same_family: plan.same_family,
                json_form: column.json_form,
            };
            cells.push(Cell { from, convert: Conversion::new(&data_type, to, &column.rule) });
        }
        for (n, text) in sought {
            let Some(cell) = cells.get_mut(n) else { continue };
            if let From::Computed { expr, .. } = &cell.from {
                let seek = Seek::new(plan, n, text, (expr, &fields), cell.convert.clone())?;
                let reads = expr.fields().to_vec();
                cell.from = From::Sought { seek: Arc::new(seek), reads };
            }
        }
        let places: Vec<Option<usize>> = cells.iter().map(Cell::column).collect();
        for (n, cell) in cells.iter_mut().enumerate() {
            if let From::Column { at, shared } = &mut cell.from {
                *shared = places.iter().skip(n + 1).any(|later| *later == Some(*at));
            }
        }
        let rules = Rules::new(plan, shape)?;
        Ok(BoundPlan {
            end: End::new(plan, &fields)?,
            plain: plan.rows.takes_all() && plan.rows.on_change.is_none() && !plan.rows.is_gated(),
            ends_unseen: rules.passes_with_time() && !plan.shares_keys,
            plan: plan.clone(),
            all: (0..cells.len()).collect(),
            key: plan.target.key.iter().copied().collect(),
            in_place: cells.len() == shape.columns.len()
                && places.iter().enumerate().all(|(at, place)| *place == Some(at)),
            computes: places.iter().any(Option::is_none),
            joins: cells.iter().any(|cell| cell.reads().len() > 1) || rules.join(),
            now: computed::now(),
            copy_key: plan.copy.as_ref().and_then(|copy| {
                let place = |name: &String| shape.columns.iter().position(|c| c.name == *name);
                copy.key.iter().map(place).collect()
            }),
            cells,
            rules,
            partial: HashMap::new(),
        })
    }

    /// A row comes: its expressions see the time of now, all of them the same.
    pub fn tick(&mut self) {
        if self.computes || !self.plain {
            self.now = computed::now();
        }
    }

    fn env(&self) -> Env<'_> {
        computed::env(&self.plan, self.now)
    }

    /// Whether cells of its rows may wait for lookups.
    pub fn seeks(&self) -> bool {
        self.cells.iter().any(|cell| matches!(cell.from, From::Sought { .. }))
    }

    /// Whether the target's columns have exactly the types of the source's, as the shape has them.
    pub fn is_identity(&self, shape: &TableSchema) -> bool {
        self.in_place
            && (0..self.cells.len()).all(|i| {
                let target = self.plan.target.columns.get(i).map(|c| &c.data_type);
                shape.columns.get(i).map(|c| &c.data_type) == target
            })
    }

    /// All mapped columns: what the cells of a loaded row are.
    pub fn columns(&self) -> &Arc<[usize]> {
        &self.all
    }

    /// The cells of a row that a copy brings.
    pub fn load(&self, row: &Row, cells: &mut Vec<Value>) -> Result<()> {
        for cell in 0..self.cells.len() {
            let value = self.convert(cell, row)?;
            if value.is_unchanged() {
                return Err(Error::bug(format!("{}: a copied row lacks a cell", self.plan.source)));
            }
            cells.push(value);
        }
        Ok(())
    }

    /// A row that a copy brings, of which cells may wait for lookups.
    pub fn loaded(&self, row: &Row) -> Result<Write> {
        self.insert(row.clone(), WriteOp::Upsert)
    }

    /// Whether a row that a copy brings is to be there at the target.
    pub fn takes(&self, row: &Row) -> Result<bool> {
        if self.plain {
            return Ok(true);
        }
        let lacks = || Error::bug(format!("{}: a copied row lacks a cell", self.plan.source));
        match self.rules.holds(&self.plan, &row.0, &self.env())? {
            Holds::No => Ok(false),
            Holds::Yes => match self.rules.check(&self.plan, &row.0, None, &self.env())? {
                true => Ok(true),
                false => Err(lacks()),
            },
            Holds::Untold => Err(lacks()),
        }
    }

    /// What becomes of a row as it is read now.
    pub fn now(&self, row: &Row) -> Result<Becomes> {
        if self.takes(row)? {
            return self.insert(row.clone(), WriteOp::Upsert).map(Becomes::Write);
        }
        self.outside(row)
    }

    /// What becomes of a row that does not meet the filter, whose key was the same before.
    pub fn outside(&self, row: &Row) -> Result<Becomes> {
        match self.has_key(row)? {
            true => self.end(self.key_of(row)?.into(), row, Some(row)),
            false => Ok(Becomes::Nothing),
        }
    }

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

    /// What a change tells the mapping's gate.
    pub fn signs(&self, op: &Op) -> Result<Signed> {
        let (new, old) = match op {
            Op::Insert(insert) => (&insert.new, None),
            Op::Update(update) => (&update.new, Some(&update.old)),
            Op::Delete(delete) => {
                let ended = delete.old.row().and_then(|old| self.kept(old));
                return Ok(Signed { ended, ..Signed::default() });
            }
        };
        let filled = old.and_then(|old| filled(new, old));
        let row = filled.as_ref().unwrap_or(new);
        let source = self.copy_key.as_ref().and_then(|places| {
            let cell = |at: &usize| row.0.get(*at).filter(|v| !v.is_unchanged()).cloned();
            places.iter().map(cell).collect()
        });
        let before = old.and_then(OldRow::row);
        let holds = self.rules.holds(&self.plan, &row.0, &self.env())?;
        let key = self.convert_keys(row).ok().and_then(|mut key| {
            if key.iter().any(Value::is_unchanged) {
                // It is what it was.
                let old = self.convert_keys(before?).ok()?;
                key.iter_mut()
                    .zip(old)
                    .filter(|(new, _)| new.is_unchanged())
                    .for_each(|(new, old)| *new = old);
            }
            Some(key).filter(|key| !key.iter().any(Value::is_unchanged)).map(Key::from)
        });
        let ended = (holds == Holds::No).then(|| self.kept(before.unwrap_or(row))).flatten();
        let signs = self.rules.signs(&self.plan, &row.0, &self.env())?;
        Ok(Signed { signs, source, key, holds: holds == Holds::Yes, ended })
    }

    /// The key at the target of a row that has ended and stays there.
    fn kept(&self, row: &Row) -> Option<Key> {
        match self.end {
            End::Nothing => self.key_of(row).ok().map(Key::from),
            End::Delete | End::Set { .. } => None,
        }
    }

    /// On which side of the mapping's edge a whole row is.
    pub fn signs_of(&self, row: &Row) -> Result<Option<Signs>> {
        self.rules.signs(&self.plan, &row.0, &self.env())
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<MappingPlan> {
        &self.plan
    }

    /// What an operation becomes. An error that is about the row tells a hash of its key.
    pub fn write(&mut self, op: Op) -> Result<Becomes> {
        if self.plain && !self.computes {
            return self.become_of(op);
        }
        let row = match &op {
            Op::Insert(insert) => Some(&insert.new),
            Op::Update(update) => Some(&update.new),
            Op::Delete(delete) => delete.old.row(),
        };
        let key = row.and_then(|row| self.convert_keys(row).ok());
        self.become_of(op).map_err(|error| match &key {
            Some(key) => error.with_detail(format!("key hash {}", rules::key_hash(key))),
            None => error,
        })
    }

    fn become_of(&mut self, op: Op) -> Result<Becomes> {
        match op {
            Op::Insert(insert) => {
                if !self.plain {
                    let row = &insert.new;
                    match self.rules.holds(&self.plan, &row.0, &self.env())? {
                        Holds::No => return Ok(Becomes::Nothing),
                        Holds::Yes => {
                            if !self.rules.check(&self.plan, &row.0, None, &self.env())? {
                                return self.unknown(row, None);
                            }
                        }
                        Holds::Untold => return self.unknown(row, None),
                    }
                }
                self.insert(insert.new, WriteOp::Insert).map(Becomes::Write)
            }
            Op::Update(update) => self.update(update),
            Op::Delete(delete) => {
                let old = delete.old.row().ok_or_else(|| self.identity_missing())?;
                if self.rules.filters() && self.held(old)? == Holds::No {
                    return Ok(Becomes::Nothing);
                }
                self.ended(&delete, old)
            }
        }
    }

    /// Whether a row met the filter when it was last judged. One that does not by now may have, where that changes as time passes:
    /// it is still at the target then.
    fn held(&self, old: &Row) -> Result<Holds> {
        match self.rules.holds(&self.plan, &old.0, &self.env())? {
            Holds::No if self.ends_unseen && self.has_key(old)? => Ok(Holds::Untold),
            held => Ok(held),
        }
    }

    /// Whether the target can have the key that a row comes to. The key of a row outside the filter may be none.
    fn has_key(&self, row: &Row) -> Result<bool> {
        match self.key_of(row) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Code::IdentityMissing => Err(error),
            Err(_) => Ok(false),
        }
    }

    fn insert(&self, new: Row, op: WriteOp) -> Result<Write> {
        let (row, waits) = self.take_all(new, None)?;
        if row.iter().any(Value::is_unchanged) {
            return Err(self
                .error(Code::Rejected, "an inserted row came without all mapped columns")
                .with_hint("set binlog_row_image = FULL on the source"));
        }
        let key = self.hash_key(|i| &row[i]);
        Ok(Write {
            op,
            columns: self.all.clone(),
            uniques: self.uniques(Some(&row), None),
            row,
            keys: [key, key],
            waits,
        })
    }

    fn update(&mut self, update: Update) -> Result<Becomes> {
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
        let source = (again || partial).then(|| new.0.clone());
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
        let reread = match partial && lacks {
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

    /// The key at the source by which a whole row is read again.
    pub fn source_key(&self, row: &Row) -> Result<Key> {
        let cells = self.copy_key.iter().flatten().map(|&at| row.0.get(at).cloned());
        match cells.collect::<Option<Key>>() {
            Some(key) if !key.is_empty() => Ok(key),
            Some(_) | None => Err(self.identity_missing()),
        }
    }

    /// The row is to be read again by its key.
    fn unknown(&self, new: &Row, old: Option<&Row>) -> Result<Becomes> {
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
    fn known_key(&self, new: &Row, old: Option<&Row>) -> Result<Key> {
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

    /// A row that left the filter.
    fn left(&self, old: OldRow, new: Row) -> Result<Becomes> {
        // Outside the filter, the new key may be none.
        let before = old.row().unwrap_or(&new);
        match self.has_key(before)? {
            true => self.end(self.key_of(before)?.into(), &new, old.row()),
            false => Ok(Becomes::Nothing),
        }
    }

    /// A row that was deleted.
    fn ended(&self, delete: &Delete, old: &Row) -> Result<Becomes> {
        match &self.end {
            End::Delete => self.delete(delete).map(Becomes::Write),
            End::Nothing | End::Set { .. } => self.end(self.key_of(old)?.into(), old, Some(old)),
        }
    }

    fn end(&self, key: Box<[Value]>, row: &Row, old: Option<&Row>) -> Result<Becomes> {
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

    fn delete(&self, delete: &Delete) -> Result<Write> {
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

    /// What a write means to the unique indexes beside the key. A NULL collides with nothing.
    fn uniques(&self, new: Option<&[Value]>, old: Option<&Row>) -> Option<Box<Uniques>> {
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
    fn old_key(&self, old: &OldRow, new: &[Value]) -> Result<Vec<Value>> {
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

    fn convert_keys(&self, row: &Row) -> Result<Vec<Value>> {
        self.key.iter().map(|&i| self.convert(i, row)).collect()
    }

    fn present(&self, cell: usize, row: &Row) -> Result<Value> {
        let value = self.convert(cell, row)?;
        if value.is_unchanged() { Err(self.identity_missing()) } else { Ok(value) }
    }

    /// All cells of a row that nobody else needs: what passes is moved.
    fn take_all(&self, row: Row, old: Option<&Row>) -> Result<(Box<[Value]>, Vec<Wait>)> {
        if self.in_place && row.0.len() == self.cells.len() {
            let mut row = row.0;
            for (cell, value) in row.iter_mut().enumerate() {
                let given = std::mem::replace(value, Value::Null);
                *value = self.take(cell, given)?;
            }
            return Ok((row, Vec::new()));
        }
        let (mut computed, mut waits) = (Vec::new(), Vec::new());
        if self.computes {
            for (n, cell) in self.cells.iter().enumerate() {
                match &cell.from {
                    From::Computed { expr, .. } => {
                        let value = self.evaluate(expr, &row, old, Some(n))?;
                        computed.push(self.take(n, value)?);
                    }
                    From::Sought { seek, .. } => match seek.begin(&row, old, self.now)? {
                        Begun::Value(value) => computed.push(value),
                        Begun::Wait(wait) => {
                            waits.push(wait);
                            computed.push(Value::Null);
                        }
                    },
                    From::Column { .. } => {}
                }
            }
        }
        let (mut row, mut computed) = (row.0, computed.into_iter());
        let mut taken = Vec::with_capacity(self.cells.len());
        for (n, cell) in self.cells.iter().enumerate() {
            let value = match cell.from {
                From::Computed { .. } | From::Sought { .. } => {
                    taken.push(computed.next().unwrap_or(Value::Null));
                    continue;
                }
                From::Column { at, shared } => match row.get_mut(at) {
                    None => return Err(self.too_short()),
                    Some(value) if shared => value.clone(),
                    Some(value) => std::mem::replace(value, Value::Null),
                },
            };
            taken.push(self.take(n, value)?);
        }
        Ok((taken.into(), waits))
    }

    fn take(&self, cell: usize, value: Value) -> Result<Value> {
        self.cells[cell].convert.take(value).map_err(|misfit| self.misfit(cell, &misfit))
    }

    fn convert(&self, cell: usize, row: &Row) -> Result<Value> {
        let plan = &self.cells[cell];
        match &plan.from {
            From::Column { at, .. } => {
                let value = row.0.get(*at).ok_or_else(|| self.too_short())?;
                plan.convert.apply(value).map_err(|misfit| self.misfit(cell, &misfit))
            }
            From::Computed { expr, .. } => {
                self.take(cell, self.evaluate(expr, row, None, Some(cell))?)
            }
            // Where this is asked, nothing is written: it is no part of a key.
            From::Sought { seek, .. } => Ok(match seek.begin(row, None, self.now)? {
                Begun::Value(value) => value,
                Begun::Wait(_) => Value::Null,
            }),
        }
    }

    fn evaluate(
        &self,
        expr: &Expr,
        row: &Row,
        old: Option<&Row>,
        column: Option<usize>,
    ) -> Result<Value> {
        let env = self.env();
        let input = Input { new: &row.0, old: old.map(|old| &*old.0), lookups: &[], env: &env };
        expr.eval(&input).map_err(|error| {
            let column = column.and_then(|c| self.plan.target.columns.get(c));
            let what = column.map_or("an expression", |c| &c.name);
            rules::failed(&self.plan, what, &error)
        })
    }

    fn too_short(&self) -> Error {
        Error::bug(format!("{}: a row shorter than its shape", self.plan.source))
    }

    fn misfit(&self, cell: usize, misfit: &Misfit) -> Error {
        let column = &self.plan.target.columns[cell].name;
        let source = match self.plan.columns.get(cell).map(|c| &c.feed) {
            Some(Feed::Column(name)) => format!("{}.{name}", self.plan.source),
            Some(Feed::Computed(_)) | None => self.plan.source.to_string(),
        };
        let place = format!("{source} to {}.{column}", self.plan.target.name);
        Error::data(Code::NotRepresentable, format!("{place}: {misfit}")).with_hint(
            "mend the value at the source, widen the target column, or say with \
                 on_unrepresentable what else to do with such values",
        )
    }

    fn hash_key<'a>(&self, cell: impl Fn(usize) -> &'a Value) -> u64 {
        hash(self.key.iter().map(|&i| cell(i)))
    }

    fn identity_missing(&self) -> Error {
        self.error(Code::IdentityMissing, "the log does not carry the columns that feed the mapping key")
            .with_hint("on PostgreSQL set REPLICA IDENTITY FULL or USING INDEX over them; on MySQL and MariaDB set binlog_row_image = FULL")
    }

    fn error(&self, code: Code, message: &str) -> Error {
        Error::data(code, format!("{}: {message}", self.plan.source))
    }
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

/// A value of the source as a column of the target holds it.
pub fn converted(
    plan: &MappingPlan,
    column: &ColumnPlan,
    target: &TargetColumn,
    value: &Value,
) -> Result<Value> {
    let to = Target {
        data_type: &target.data_type,
        nullable: column.nullable,
        same_family: plan.same_family,
        json_form: column.json_form,
    };
    Conversion::new(&column.from, to, &column.rule).apply(value).map_err(|misfit| {
        Error::data(
            Code::NotRepresentable,
            format!("{} to {}.{}: {misfit}", plan.source, plan.target.name, target.name),
        )
    })
}

/// Equal for keys that a collation of the source may call equal.
pub fn likeness<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    hash(values)
}

/// What a column that is fed by a constant holds in every row of the mapping.
pub fn constant(plan: &MappingPlan, column: usize) -> Result<Value> {
    match plan.columns.get(column).map(|column| &column.feed) {
        Some(Feed::Computed(computed)) => constant_of(plan, column, computed),
        Some(Feed::Column(_)) => Err(Error::bug("a column of the source was taken for a constant")),
        None => Err(Error::bug("a plan lacks a column")),
    }
}

/// What a constant is in a column.
pub fn constant_of(plan: &MappingPlan, column: usize, computed: &Computed) -> Result<Value> {
    let Some(to) = plan.target.columns.get(column) else {
        return Err(Error::bug("a plan lacks a column"));
    };
    let known = plan.columns.get(column);
    let expr = bind(&computed.text.text, &[], plan, &to.name)?;
    let env = computed::env(plan, computed::now());
    let value = expr
        .eval(&Input { new: &[], old: None, lookups: &[], env: &env })
        .map_err(|error| rules::failed(plan, &to.name, &error))?;
    let target = Target {
        data_type: &to.data_type,
        nullable: known.is_none_or(|c| c.nullable),
        same_family: plan.same_family,
        json_form: known.map_or(JsonForm::Text, |c| c.json_form),
    };
    let rule = known.map_or_else(Rule::default, |c| c.rule.clone());
    Conversion::new(expr.data_type(), target, &rule).take(value).map_err(|misfit| {
        Error::data(Code::NotRepresentable, format!("{}.{}: {misfit}", plan.target.name, to.name))
    })
}

impl Cell {
    fn column(&self) -> Option<usize> {
        match self.from {
            From::Column { at, .. } => Some(at),
            From::Computed { .. } | From::Sought { .. } => None,
        }
    }

    /// The columns of the source that it is made of.
    fn reads(&self) -> &[usize] {
        match &self.from {
            From::Column { at, .. } => std::slice::from_ref(at),
            From::Computed { expr, .. } => expr.fields(),
            From::Sought { reads, .. } => reads,
        }
    }
}

impl End {
    fn new(plan: &MappingPlan, fields: &[Field]) -> Result<End> {
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

/// The old row, if the log carries all of it.
fn full(old: &OldRow) -> Option<&Row> {
    match old {
        OldRow::Full(row) => Some(row),
        OldRow::Key(_) | OldRow::Absent => None,
    }
}

/// A new row with what did not change taken from the old one, as far as the log has it.
fn told(mut new: Row, old: &OldRow) -> Row {
    for (cell, was) in new.0.iter_mut().zip(old.row().iter().flat_map(|old| &old.0)) {
        if cell.is_unchanged() {
            cell.clone_from(was);
        }
    }
    new
}

/// A new row with what did not change taken from the old one, where that is needed and the log has it.
fn filled(new: &Row, old: &OldRow) -> Option<Row> {
    let old = full(old)?;
    if new.is_full() {
        return None;
    }
    let cells = new.0.iter().zip(&old.0);
    Some(Row(cells.map(|(new, old)| if new.is_unchanged() { old } else { new }.clone()).collect()))
}

/// A hash in which equal keys are equal; unequal keys may be too, which only cuts a batch early.
fn hash<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    let mut state = DefaultHasher::new();
    for value in values {
        match value {
            Value::Null | Value::Unchanged => 0u8.hash(&mut state),
            Value::Bool(b) => u64::from(*b).hash(&mut state),
            Value::Int(i) => (*i as u64).hash(&mut state),
            Value::UInt(u) => u.hash(&mut state),
            // Numbers written differently may be equal (1.0 and 1.00).
            Value::Decimal(t) => plain(t).hash(&mut state),
            Value::Float32(f) => number_bits(f64::from(*f)).hash(&mut state),
            Value::Float64(f) => number_bits(*f).hash(&mut state),
            // A collation of the target may call texts equal that differ in case or blanks.
            Value::Text(t) | Value::Json(t) | Value::Enum(t) | Value::Foreign(t) => {
                let text = t.trim_end();
                if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
                    text.hash(&mut state);
                } else {
                    text.to_lowercase().hash(&mut state);
                }
            }
            Value::Bytes(b) => b.hash(&mut state),
            Value::Date(d) => d.hash(&mut state),
            Value::Time(t) => t.hash(&mut state),
            Value::Timestamp(t) => t.hash(&mut state),
            Value::Instant(t) => t.hash(&mut state),
            // Spans written differently may be equal (a month and 30 days).
            Value::Interval(_) => 2u8.hash(&mut state),
            Value::Uuid(u) => u.hash(&mut state),
        }
    }
    state.finish()
}

/// The digits of a number without zeros that mean nothing: equal numbers are written alike.
fn plain(text: &str) -> (bool, &str) {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let digits = digits.trim_start_matches('0');
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    (negative && !digits.is_empty(), digits)
}

/// One pattern for the two zeros, and one for all that is no number.
fn number_bits(f: f64) -> u64 {
    if f.is_nan() {
        f64::NAN.to_bits()
    } else if f == 0.0 {
        0
    } else {
        f.to_bits()
    }
}
