//! Expressions of the file, tied to tables: what they may name, and how their faults are told.

use std::ops::Range;
use std::sync::Arc;

use tidelock_core::{Column, DataType, Finding, Instant, StreamColumn, Table, TableSchema};

use super::lookups::TargetTables;
use crate::config::{Placed, Values};
use crate::expr::{self, Env, Expr, Fault, Field, Lookups, NoLookups, Scope};
use crate::mapping::MappingPlan;

/// A source table as expressions see it.
pub struct Origin<'a> {
    /// The table.
    pub table: &'a Table,
    /// Its columns.
    pub fields: Vec<Field>,
    /// What else expressions may use.
    pub values: &'a Arc<Values>,
    /// The tables of the target, where expressions may look something up in them.
    pub target: Option<&'a TargetTables<'a>>,
    /// Whether its server knows no infinite dates and times.
    pub finite: bool,
}

/// What an expression must give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A value of any type.
    Value,
    /// A value of any type for a column of rows that are written: it may be looked up.
    Column,
    /// A truth value, of a row as it is.
    Condition,
    /// A truth value, of a row that is sent and what it was before.
    Rule,
}

impl<'a> Origin<'a> {
    /// Of this table.
    pub fn new(table: &'a Table, values: &'a Arc<Values>) -> Origin<'a> {
        let fields = table.columns.iter().map(field).collect();
        Origin { table, fields, values, target: None, finite: false }
    }

    /// With the tables of the target.
    #[must_use]
    pub fn with(self, target: &'a TargetTables<'a>) -> Origin<'a> {
        Origin { target: Some(target), ..self }
    }

    /// Compiles an expression over the table's rows; the finding of a fault shows its place.
    pub fn compile(&self, text: &Placed, wanted: Wanted, what: &str) -> Result<Expr, Finding> {
        let compiled = match (wanted, self.target) {
            (Wanted::Column, Some(target)) => {
                compile_column(&text.text, &self.fields, self.values, target)
            }
            _ => compile(&text.text, &self.fields, self.values, wanted),
        };
        compiled.map_err(|fault| finding(text, &fault, what))
    }

    /// Whether an expression of a column may be NULL where no time is infinite.
    pub fn nullable_of_finite(&self, text: &Placed) -> bool {
        let scope = match self.target {
            Some(target) => scope(&self.fields, self.values, target),
            None => scope(&self.fields, self.values, &NoLookups),
        };
        expr::compile(&text.text, &Scope { finite: true, ..scope })
            .is_ok_and(|expr| expr.nullable())
    }

    /// The names of the columns of these numbers.
    pub fn names(&self, fields: &[usize]) -> Vec<String> {
        fields.iter().filter_map(|&i| Some(self.fields.get(i)?.name.clone())).collect()
    }
}

fn field(column: &Column) -> Field {
    let ignores_case =
        column.collation.as_deref().is_some_and(|c| c.to_ascii_lowercase().contains("_ci"));
    Field {
        case_insensitive: ignores_case,
        ..Field::new(&*column.name, column.data_type.clone(), column.nullable)
    }
}

/// The columns of a shape of the log.
pub fn fields_of(shape: &TableSchema) -> Vec<Field> {
    let field = |c: &StreamColumn| Field::new(&*c.name, c.data_type.clone(), true);
    shape.columns.iter().map(field).collect()
}

/// Compiles an expression over these columns.
pub fn compile(
    text: &str,
    fields: &[Field],
    values: &Values,
    wanted: Wanted,
) -> Result<Expr, Fault> {
    let scope = scope(fields, values, &NoLookups);
    match wanted {
        Wanted::Value | Wanted::Column => expr::compile(text, &scope),
        Wanted::Rule => expr::compile_condition(text, &scope),
        Wanted::Condition => expr::compile_condition(text, &Scope { old: false, ..scope }),
    }
}

/// Compiles an expression over these columns that may look something up.
pub fn compile_column(
    text: &str,
    fields: &[Field],
    values: &Values,
    lookups: &dyn Lookups,
) -> Result<Expr, Fault> {
    expr::compile(text, &scope(fields, values, lookups))
}

fn scope<'a>(fields: &'a [Field], values: &'a Values, lookups: &'a dyn Lookups) -> Scope<'a> {
    let mask_key = values.mask().is_some();
    Scope { fields, old: true, dictionaries: values, lookups, mask_key, finite: false }
}

/// A fault of an expression, with its part of the file underlined.
pub fn finding(text: &Placed, fault: &Fault, what: &str) -> Finding {
    at(text, &fault.span, Finding::problem(format!("{what}: {}", fault.message)).hint(&*fault.hint))
}

/// A finding about a part of an expression.
pub fn at(text: &Placed, span: &Range<usize>, finding: Finding) -> Finding {
    finding.place(text.part(span).show())
}

/// Whether a literal text can be read as a value of this type.
pub fn sql_type(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Bool => "boolean",
        DataType::Int { .. } => "bigint",
        DataType::Decimal { .. } => "numeric",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Date => "date",
        DataType::Time { .. } => "time",
        DataType::Timestamp { .. } => "timestamp",
        DataType::Instant { .. } => "timestamptz",
        DataType::Interval { .. } => "interval",
        _ => return None,
    })
}

/// The time that the expressions of a row see. It is taken once for all of them.
pub fn now() -> Instant {
    Instant(crate::apply::now_micros())
}

/// What expressions of a mapping look at besides the row.
pub fn env(plan: &MappingPlan, now: Instant) -> Env<'_> {
    env_of(&plan.values, now)
}

/// What expressions of these values look at besides the row.
pub fn env_of(values: &Values, now: Instant) -> Env<'_> {
    Env { now, dictionaries: values, mask_key: values.mask() }
}
