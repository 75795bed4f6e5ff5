//! The cells of a target row, each from a column, an expression or what is looked up.

use std::sync::Arc;

use tidelock_core::{Code, Error, Result, Row, Value};

use super::BoundPlan;
use crate::expr::{Expr, Input};
use crate::mapping::convert::{Conversion, Misfit};
use crate::mapping::lookups::{Begun, Seek, Wait};
use crate::mapping::plan::Feed;
use crate::mapping::rules;

pub(super) struct Cell {
    pub(super) from: From,
    pub(super) convert: Conversion,
}

pub(super) enum From {
    /// A cell of the source row; `shared` if a later cell or an expression takes it too.
    Column { at: usize, shared: bool },
    /// An expression over the source row, and whether the same row always gives the same value.
    Computed { expr: Box<Expr>, steady: bool },
    /// An expression that may have to look something up; `reads` are the columns that it reads.
    Sought { seek: Arc<Seek>, reads: Vec<usize> },
}

impl Cell {
    pub(super) fn column(&self) -> Option<usize> {
        match self.from {
            From::Column { at, .. } => Some(at),
            From::Computed { .. } | From::Sought { .. } => None,
        }
    }

    /// The columns of the source that it is made of.
    pub(super) fn reads(&self) -> &[usize] {
        match &self.from {
            From::Column { at, .. } => std::slice::from_ref(at),
            From::Computed { expr, .. } => expr.fields(),
            From::Sought { reads, .. } => reads,
        }
    }
}

impl BoundPlan {
    /// All cells of a row that nobody else needs: what passes is moved.
    pub(super) fn take_all(
        &self,
        row: Row,
        old: Option<&Row>,
    ) -> Result<(Box<[Value]>, Vec<Wait>)> {
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

    pub(super) fn take(&self, cell: usize, value: Value) -> Result<Value> {
        self.cells[cell].convert.take(value).map_err(|misfit| self.misfit(cell, &misfit))
    }

    pub(super) fn convert(&self, cell: usize, row: &Row) -> Result<Value> {
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

    pub(super) fn evaluate(
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
    pub(super) fn misfit(&self, cell: usize, misfit: &Misfit) -> Error {
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
}
