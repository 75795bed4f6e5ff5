//! Row by row: a canonical operation becomes a [`Write`], or nothing, or an error that names column
//! and cause but no value.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tidelock_core::{
    Code, Delete, Error, OldRow, Op, Result, Row, TableSchema, Update, Value, WriteOp,
};

use super::convert::{Conversion, Misfit, Target, compatible};
use super::plan::MappingPlan;
use crate::config::OnDelete;

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
    source: usize,
    convert: Conversion,
    /// Whether a later cell takes the same source column.
    shared: bool,
}

/// A mapping plan tied to one shape of the source's rows.
pub struct BoundPlan {
    plan: Arc<MappingPlan>,
    cells: Vec<Cell>,
    all: Arc<[usize]>,
    key: Arc<[usize]>,
    /// Whether the cells are the source's columns, all of them and in their order.
    in_place: bool,
    partial: HashMap<Vec<usize>, Arc<[usize]>>,
}

impl BoundPlan {
    /// Ties a plan to a shape. [`Code::SchemaDrift`] if a mapped column is gone or has a type that
    /// the target column cannot take.
    pub fn new(plan: &Arc<MappingPlan>, shape: &TableSchema) -> Result<BoundPlan> {
        let mut cells = Vec::with_capacity(plan.sources.len());
        for (source_name, target) in plan.sources.iter().zip(&plan.target.columns) {
            let place = format!("{}.{source_name}", shape.name);
            let Some(index) = shape.columns.iter().position(|c| &c.name == source_name) else {
                return Err(Error::data(
                    Code::SchemaDrift,
                    format!("{place}: the column is gone from the source table"),
                )
                .with_hint(
                    "put the column back or change the mapping, then take the mapping up again",
                ));
            };
            let from = &shape.columns[index].data_type;
            let column =
                plan.columns.get(cells.len()).ok_or_else(|| Error::bug("a plan lacks a column"))?;
            compatible(from, &target.data_type, &column.rule).map_err(|why| {
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
            let convert = Conversion::new(from, to, &column.rule);
            cells.push(Cell { source: index, convert, shared: false });
        }
        for at in 0..cells.len() {
            let source = cells[at].source;
            cells[at].shared = cells.iter().skip(at + 1).any(|later| later.source == source);
        }
        Ok(BoundPlan {
            plan: plan.clone(),
            all: (0..cells.len()).collect(),
            key: plan.target.key.iter().copied().collect(),
            in_place: cells.len() == shape.columns.len()
                && cells.iter().enumerate().all(|(at, cell)| cell.source == at),
            cells,
            partial: HashMap::new(),
        })
    }

    /// Whether the target's columns have exactly the types of the source's, as the shape has them.
    pub fn is_identity(&self, shape: &TableSchema) -> bool {
        self.cells.len() == shape.columns.len()
            && self.cells.iter().enumerate().all(|(i, cell)| {
                let target = self.plan.target.columns.get(i).map(|c| &c.data_type);
                cell.source == i && shape.columns.get(i).map(|c| &c.data_type) == target
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

    /// The plan.
    pub fn plan(&self) -> &Arc<MappingPlan> {
        &self.plan
    }

    /// What an operation becomes; `None` if a rule of the mapping filters it, or if it changes
    /// nothing that is mapped.
    pub fn write(&mut self, op: Op) -> Result<Option<Write>> {
        match op {
            Op::Insert(insert) => self.insert(insert.new).map(Some),
            Op::Update(update) => self.update(update),
            Op::Delete(delete) => match self.plan.on_delete {
                OnDelete::Ignore => Ok(None),
                OnDelete::Delete => self.delete(&delete).map(Some),
            },
        }
    }

    fn insert(&self, new: Row) -> Result<Write> {
        let row = self.take_all(new)?;
        if row.iter().any(Value::is_unchanged) {
            return Err(self
                .error(Code::Rejected, "an inserted row came without all mapped columns")
                .with_hint("set binlog_row_image = FULL on the source"));
        }
        let key = self.hash_key(|i| &row[i]);
        Ok(Write {
            op: WriteOp::Insert,
            columns: self.all.clone(),
            uniques: self.uniques(Some(&row), None),
            row,
            keys: [key, key],
        })
    }

    fn update(&mut self, update: Update) -> Result<Option<Write>> {
        let mut row = self.take_all(update.new)?;
        let mut old_key = None;
        let mut moved = false;
        if update.old.row().is_some() || self.key.iter().any(|&i| row[i].is_unchanged()) {
            let old = self.old_key(&update.old, &row)?;
            for (&i, old) in self.key.iter().zip(&old) {
                if row[i].is_unchanged() {
                    row[i] = old.clone();
                }
            }
            moved = self.key.iter().zip(&old).any(|(&i, old)| !row[i].is_same(old));
            old_key = Some(old);
        }
        let key = self.hash_key(|i| &row[i]);
        let full = !row.iter().any(Value::is_unchanged);
        let uniques = self.uniques(Some(&row), update.old.row());
        if full && !moved {
            return Ok(Some(Write {
                op: WriteOp::Overwrite,
                columns: self.all.clone(),
                row,
                keys: [key, key],
                uniques,
            }));
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
                return Ok(None);
            }
            let cached =
                self.partial.entry(present).or_insert_with_key(|k| Arc::from(k.as_slice()));
            (WriteOp::Update, cached.clone())
        };
        let mut cells: Vec<Value> = columns.iter().map(|&i| row[i].clone()).collect();
        cells.extend(old_key);
        Ok(Some(Write { op, columns, row: cells.into(), keys, uniques }))
    }

    /// The key at the target of the row that a change is about: before it, or, for an insert, after.
    pub fn target_key(&self, op: &Op) -> Result<Vec<Value>> {
        match op {
            Op::Insert(insert) => self.key.iter().map(|&i| self.present(i, &insert.new)).collect(),
            Op::Update(update) => {
                let new = self.convert_all(&update.new)?;
                self.old_key(&update.old, &new)
            }
            Op::Delete(delete) => {
                let old = delete.old.row().ok_or_else(|| self.identity_missing())?;
                self.key.iter().map(|&i| self.present(i, old)).collect()
            }
        }
    }

    /// The removal of the row before a change, whatever `on_delete` says.
    pub fn erase(&self, old: &OldRow, new: &Row) -> Result<Write> {
        let new = self.convert_all(new)?;
        let row: Box<[Value]> = self.old_key(old, &new)?.into();
        let key = hash(row.iter());
        let columns = self.key.clone();
        Ok(Write { op: WriteOp::Delete, columns, row, keys: [key, key], uniques: None })
    }

    /// The removal of a row by its key at the target.
    pub fn remove(plan: &MappingPlan, key: &[Value]) -> Write {
        let hash = hash(key.iter());
        let columns = plan.target.key.iter().copied().collect();
        Write { op: WriteOp::Delete, columns, row: key.into(), keys: [hash, hash], uniques: None }
    }

    fn delete(&self, delete: &Delete) -> Result<Write> {
        let Some(old) = delete.old.row() else {
            return Err(self.identity_missing());
        };
        let row =
            self.key.iter().map(|&i| self.present(i, old)).collect::<Result<Box<[Value]>>>()?;
        let key = hash(row.iter());
        Ok(Write {
            op: WriteOp::Delete,
            columns: self.key.clone(),
            row,
            keys: [key, key],
            uniques: self.uniques(None, Some(old)),
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
            Some(old) => self.key.iter().map(|&i| self.present(i, old)).collect(),
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

    fn present(&self, cell: usize, row: &Row) -> Result<Value> {
        let value = self.convert(cell, row)?;
        if value.is_unchanged() { Err(self.identity_missing()) } else { Ok(value) }
    }

    fn convert_all(&self, row: &Row) -> Result<Vec<Value>> {
        (0..self.cells.len()).map(|i| self.convert(i, row)).collect()
    }

    /// As [`BoundPlan::convert_all`], for a row that nobody else needs: what passes is moved.
    fn take_all(&self, row: Row) -> Result<Box<[Value]>> {
        let mut row = row.0;
        if self.in_place && row.len() == self.cells.len() {
            for (cell, value) in row.iter_mut().enumerate() {
                let given = std::mem::replace(value, Value::Null);
                *value = self.take(cell, given)?;
            }
            return Ok(row);
        }
        let mut taken = Vec::with_capacity(self.cells.len());
        for (cell, plan) in self.cells.iter().enumerate() {
            let Some(value) = row.get_mut(plan.source) else {
                return Err(self.too_short());
            };
            let value =
                if plan.shared { value.clone() } else { std::mem::replace(value, Value::Null) };
            taken.push(self.take(cell, value)?);
        }
        Ok(taken.into())
    }

    fn take(&self, cell: usize, value: Value) -> Result<Value> {
        self.cells[cell].convert.take(value).map_err(|misfit| self.misfit(cell, &misfit))
    }

    fn convert(&self, cell: usize, row: &Row) -> Result<Value> {
        let plan = &self.cells[cell];
        let value = row.0.get(plan.source).ok_or_else(|| self.too_short())?;
        plan.convert.apply(value).map_err(|misfit| self.misfit(cell, &misfit))
    }

    fn too_short(&self) -> Error {
        Error::bug(format!("{}: a row shorter than its shape", self.plan.source))
    }

    fn misfit(&self, cell: usize, misfit: &Misfit) -> Error {
        let column = &self.plan.target.columns[cell].name;
        let place = format!(
            "{}.{} to {}.{column}",
            self.plan.source, self.plan.sources[cell], self.plan.target.name
        );
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
