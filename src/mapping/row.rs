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

mod cell;
mod constant;
mod end;
mod hash;
mod keys;
mod signed;
mod update;

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{Code, Error, Instant, Key, Op, Result, Row, TableSchema, Value, WriteOp};

use self::cell::{Cell, From};
pub use self::constant::{constant, constant_of, converted};
use self::end::End;
pub use self::end::{LeftBehind, mark, marks_alone};
pub use self::hash::likeness;
pub use self::signed::Signed;
use super::computed;
use super::convert::{Conversion, Target, compatible};
use super::lookups::{Seek, Wait};
use super::plan::{Feed, MappingPlan};
use super::rules::{self, Holds, Rules};
use crate::expr::{Env, Expr, Field};

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

    fn too_short(&self) -> Error {
        Error::bug(format!("{}: a row shorter than its shape", self.plan.source))
    }

    fn identity_missing(&self) -> Error {
        self.error(Code::IdentityMissing, "the log does not carry the columns that feed the mapping key")
            .with_hint("on PostgreSQL set REPLICA IDENTITY FULL or USING INDEX over them; on MySQL and MariaDB set binlog_row_image = FULL")
    }

    fn error(&self, code: Code, message: &str) -> Error {
        Error::data(code, format!("{}: {message}", self.plan.source))
    }
}
