//! Columns whose value depends on lookups in the target: planned from its catalog, begun when a row is mapped, and ended in the
//! target session when the row is about to be written.
//!
//! ```text
//! row ──begin──> a value, if nothing has to be looked up for this row
//!         └────> Wait: the cells that the expression reads, and what it asks for
//!                  └─ in the target transaction, right before the row is written ─> value
//! ```
//!
//! An answer is never older than the row's place in the transaction: the question is put after everything that comes before the
//! row has been written, and nothing that was answered earlier is used again. A crash loses nothing: what waits is of a
//! transaction that is not committed.
//!
//! What a row does not come to (the other branch of a CASE) is not asked for, so nothing is inserted for it either.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidelock_core::{
    Code, Error, Instant, JsonForm, LookupTarget, Result, Row, TableName, TargetColumn, Value,
    alike,
};

use super::computed;
use super::convert::{Conversion, Rule, Target, compatible};
use super::plan::{Catalog, MappingPlan, NEXT_PLAN, json_form, target_column};
use super::rules;
use crate::config::{TablePattern, TableRef};
use crate::expr::{
    Answer, Expr, Field, Input, Lookup, LookupFault, LookupNames, LookupPart, LookupShape, Lookups,
    Outcome,
};

/// A lookup, as the target's catalog has it.
#[derive(Debug, Clone)]
pub struct LookupPlan {
    /// The table as the expression names it.
    written: String,
    insert: bool,
    shape: LookupShape,
    /// The lookup itself.
    pub target: Arc<LookupTarget>,
    /// Whether a unique index is over the columns that are matched.
    pub unique: bool,
    /// How the columns that a missing row is inserted with take values.
    with: Vec<(bool, JsonForm)>,
}

/// The lookups that a mapping's columns may ask for.
#[derive(Debug, Clone, Default)]
pub struct LookupPlans(Vec<Arc<LookupPlan>>);

impl LookupPlan {
    fn is(&self, names: LookupNames<'_>) -> bool {
        let same = |columns: &[TargetColumn], names: &[String]| {
            columns.len() == names.len() && columns.iter().zip(names).all(|(c, n)| c.name == *n)
        };
        self.written == names.table
            && self.target.result.name == names.result
            && self.insert == names.insert.is_some()
            && same(&self.target.by, names.columns)
            && same(&self.target.with, names.insert.unwrap_or_default())
    }

    /// The cells that are asked with, in the types of their columns; `None` if no row can have this key.
    fn cells(&self, lookup: &Lookup, given: &[Value]) -> Result<Option<Box<[Value]>>> {
        let mut cells = Vec::with_capacity(given.len());
        let mut given = given.iter().zip(&lookup.given);
        for (column, (value, _)) in self.target.by.iter().zip(given.by_ref()) {
            match alike(value, &column.data_type) {
                Ok(Some(value)) => cells.push(value),
                Ok(None) if !self.insert => return Ok(None),
                Ok(None) | Err(_) => return Err(self.misfit(column, "no row can have this key")),
            }
        }
        let taken = self.target.with.iter().zip(&self.with);
        for ((column, (nullable, json_form)), (value, from)) in taken.zip(given) {
            let to = Target {
                data_type: &column.data_type,
                nullable: *nullable,
                same_family: false,
                json_form: *json_form,
            };
            let converted = Conversion::new(from, to, &Rule::default()).take(value.clone());
            cells.push(converted.map_err(|misfit| self.misfit(column, misfit.0))?);
        }
        Ok(Some(cells.into()))
    }

    fn misfit(&self, column: &TargetColumn, why: &str) -> Error {
        let place = format!("lookup in {}.{}", self.target.table, column.name);
        Error::data(Code::NotRepresentable, format!("{place}: {why}"))
            .with_hint("mend the value at the source, or the expression in the configuration")
    }

    /// Why what a missing row is inserted with does not fit its columns: the column, and why.
    pub fn faults(&self, lookup: &Lookup) -> Vec<(String, String)> {
        let types = lookup.given.iter().skip(self.target.by.len());
        let with = self.target.with.iter().zip(types);
        with.filter_map(|(column, from)| {
            let why = compatible(from, &column.data_type, &Rule::default()).err()?;
            Some((column.name.clone(), why))
        })
        .collect()
    }
}

impl LookupPlans {
    /// The plan of a lookup.
    pub fn of(&self, lookup: &Lookup) -> Option<&Arc<LookupPlan>> {
        self.find(LookupNames {
            table: &lookup.table,
            columns: &lookup.columns,
            result: &lookup.result,
            insert: lookup.insert.as_deref(),
        })
    }

    /// The tables that are looked up.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.0.iter().map(|plan| &plan.target.table)
    }

    /// The tables that missing rows are inserted into.
    pub fn inserted(&self) -> impl Iterator<Item = &TableName> {
        self.0.iter().filter(|plan| plan.insert).map(|plan| &plan.target.table)
    }

    fn find(&self, names: LookupNames<'_>) -> Option<&Arc<LookupPlan>> {
        self.0.iter().find(|plan| plan.is(names))
    }
}

/// What was planned, for shapes of the log.
impl Lookups for LookupPlans {
    fn shape(&self, names: LookupNames<'_>) -> std::result::Result<LookupShape, LookupFault> {
        self.find(names).map(|plan| plan.shape.clone()).ok_or_else(|| LookupFault {
            part: LookupPart::Table,
            message: "a lookup that was not planned".to_owned(),
            hint: String::new(),
        })
    }
}

/// The tables of a flow's target, while its mappings are planned.
pub struct TargetTables<'a> {
    system: &'a str,
    schema: &'a str,
    family: &'a str,
    catalog: &'a Catalog<'a>,
    planned: RefCell<LookupPlans>,
}

impl<'a> TargetTables<'a> {
    /// The target by its name in the file, the schema that a table without one means there, its family, and its tables.
    pub fn new(
        system: &'a str,
        schema: &'a str,
        family: &'a str,
        catalog: &'a Catalog<'a>,
    ) -> TargetTables<'a> {
        TargetTables { system, schema, family, catalog, planned: RefCell::default() }
    }

    /// What was planned so far.
    pub fn planned(&self) -> LookupPlans {
        self.planned.borrow().clone()
    }

    fn table(&self, written: &str) -> std::result::Result<&'a tidelock_core::Table, LookupFault> {
        let fault = |message: String, hint: &str| LookupFault {
            part: LookupPart::Table,
            message,
            hint: hint.to_owned(),
        };
        let named = TableRef::parse(written);
        let Some(TableRef { system, schema, table: TablePattern::Exact(table) }) = named else {
            return Err(fault("expected system.table or system.schema.table".to_owned(), ""));
        };
        if system != self.system {
            return Err(fault(
                format!("lookups are made in the target, which is {}", self.system),
                "what the source knows comes by a view, or by a dictionary that is a table",
            ));
        }
        let name = TableName::new(schema.as_deref().unwrap_or(self.schema), table);
        let found = self.catalog.get(&name);
        found.ok_or_else(|| {
            fault(
                format!("the target table {name} does not exist or may not be seen"),
                "create it, mend the name, or grant our role the right to see it",
            )
        })
    }
}

impl Lookups for TargetTables<'_> {
    fn shape(&self, names: LookupNames<'_>) -> std::result::Result<LookupShape, LookupFault> {
        let table = self.table(names.table)?;
        if let Some(plan) = self.planned.borrow().find(names) {
            return Ok(plan.shape.clone());
        }
        let column = |part: LookupPart, name: &str| {
            table.column(name).ok_or_else(|| {
                let near = table
                    .columns
                    .iter()
                    .map(|c| (strsim::jaro_winkler(&c.name, name), &c.name))
                    .filter(|(score, _)| *score > 0.8)
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                LookupFault {
                    part,
                    message: format!("the target table {} has no column {name}", table.name),
                    hint: near.map_or(String::new(), |(_, near)| format!("did you mean {near}?")),
                }
            })
        };
        let by = names.columns.iter().enumerate();
        let by = by
            .map(|(at, name)| column(LookupPart::Column(at), name))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let result = column(LookupPart::Result, names.result)?;
        let with = names.insert.unwrap_or_default().iter().enumerate();
        let with = with
            .map(|(at, name)| column(LookupPart::Insert(at), name))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let unique = table.is_unique(names.columns);
        if names.insert.is_some() && !unique {
            return Err(LookupFault {
                part: LookupPart::Column(0),
                message: format!(
                    "{} has no unique index over ({}), and without one two sessions could insert the same row",
                    table.name,
                    names.columns.join(", ")
                ),
                hint: "make these columns unique there".to_owned(),
            });
        }
        let shape = LookupShape {
            columns: by.iter().map(|c| c.data_type.clone()).collect(),
            result: result.data_type.clone(),
            result_nullable: result.nullable,
        };
        let target = LookupTarget {
            id: NEXT_PLAN.fetch_add(1, Ordering::Relaxed),
            table: table.name.clone(),
            by: by.into_iter().map(target_column).collect(),
            result: target_column(result),
            with: with.iter().map(|c| target_column(c)).collect(),
        };
        let form = |c: &&tidelock_core::Column| (c.nullable, json_form(self.family, &c.native));
        let plan = LookupPlan {
            written: names.table.to_owned(),
            insert: names.insert.is_some(),
            shape: shape.clone(),
            target: Arc::new(target),
            unique,
            with: with.iter().map(form).collect(),
        };
        self.planned.borrow_mut().0.push(Arc::new(plan));
        Ok(shape)
    }
}

/// A column whose expression may ask, tied to a shape of the source's rows.
#[derive(Debug)]
pub struct Seek {
    plan: Arc<MappingPlan>,
    /// The column of the target.
    column: usize,
    /// Over the fields below and no others, so that little has to be kept of a row that waits.
    expr: Expr,
    /// Where those are in the source's rows.
    fields: Vec<usize>,
    lookups: Vec<Arc<LookupPlan>>,
    convert: Conversion,
}

/// A cell that waits for an answer.
#[derive(Debug, Clone)]
pub struct Wait {
    seek: Arc<Seek>,
    new: Box<[Value]>,
    old: Option<Box<[Value]>>,
    /// The time that its expression sees, whenever it is answered.
    now: Instant,
    answers: Vec<Answer>,
    asks: usize,
    given: Vec<Value>,
}

/// What a cell is when its row is mapped.
pub enum Begun {
    /// This.
    Value(Value),
    /// What it waits for.
    Wait(Wait),
}

/// What is to be asked for a cell.
pub enum Question<'a> {
    /// No row can have its key.
    None,
    /// A row with these cells, which is inserted if it is missing and `insert` says so.
    Ask {
        /// The lookup.
        plan: &'a Arc<LookupPlan>,
        /// Whether a missing row is inserted.
        insert: bool,
        /// What is asked with.
        cells: Box<[Value]>,
    },
}

impl Seek {
    /// Ties an expression to the fields of a shape; `None` if it asks nothing.
    pub fn new(
        plan: &Arc<MappingPlan>,
        column: usize,
        text: &str,
        (expr, fields): (&Expr, &[Field]),
        convert: Conversion,
    ) -> Result<Seek> {
        let mut places: Vec<usize> = expr.fields().to_vec();
        places.extend(expr.old_fields());
        places.sort_unstable();
        places.dedup();
        let few: Vec<Field> = places.iter().filter_map(|&at| fields.get(at).cloned()).collect();
        let expr = computed::compile_column(text, &few, &plan.values, &*plan.lookups)
            .map_err(|fault| Error::bug(format!("{}: {}", plan.source, fault.message)))?;
        let planned = |lookup: &Lookup| {
            let found = plan.lookups.of(lookup).cloned();
            found.ok_or_else(|| Error::bug("a lookup that was not planned"))
        };
        let lookups = expr.lookups().iter().map(planned).collect::<Result<_>>()?;
        let plan = plan.clone();
        Ok(Seek { plan, column, expr, fields: places, lookups, convert })
    }

    /// The cell of a row, or what it waits for. What the log does not carry of what a cell that waits depends on makes it `Unchanged`.
    pub fn begin(self: &Arc<Self>, row: &Row, old: Option<&Row>, now: Instant) -> Result<Begun> {
        let cells = |row: &Row| -> Result<Box<[Value]>> {
            let cell = |&at: &usize| row.0.get(at).cloned();
            let cells: Option<Box<[Value]>> = self.fields.iter().map(cell).collect();
            cells.ok_or_else(|| {
                Error::bug(format!("{}: a row shorter than its shape", self.plan.source))
            })
        };
        let (new, old) = (cells(row)?, old.map(cells).transpose()?);
        let mut wait = Wait {
            seek: self.clone(),
            new,
            old,
            now,
            answers: vec![Answer::Open; self.lookups.len()],
            asks: 0,
            given: Vec::new(),
        };
        let Some(value) = wait.run()? else {
            let untold = |cells: &[Value], reads: &[usize]| {
                reads.iter().any(|&at| cells.get(at).is_none_or(Value::is_unchanged))
            };
            let old = wait.old.as_deref();
            if untold(&wait.new, self.expr.fields())
                || old.is_some_and(|old| untold(old, self.expr.old_fields()))
            {
                return Ok(Begun::Value(Value::Unchanged));
            }
            return Ok(Begun::Wait(wait));
        };
        Ok(Begun::Value(value))
    }

    fn failed(&self, error: &crate::expr::EvalError) -> Error {
        let column = self.plan.target.columns.get(self.column);
        rules::failed(&self.plan, column.map_or("an expression", |c| &c.name), error)
    }
}

impl Wait {
    /// The column of the target.
    pub fn column(&self) -> usize {
        self.seek.column
    }

    /// Whether a lookup in this table is asked for, now or later.
    pub fn may_ask(&self, table: &TableName) -> bool {
        self.seek.lookups.iter().any(|plan| plan.target.table == *table)
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let all = self.new.iter().chain(self.old.iter().flatten()).chain(&self.given);
        size_of::<Wait>() + all.map(|v| size_of::<Value>() + v.heap_bytes()).sum::<usize>()
    }

    /// What its value depends on besides the answers.
    pub fn inputs(&self) -> impl Iterator<Item = &Value> {
        self.new.iter().chain(self.old.iter().flatten())
    }

    /// Whether both come out the same if they are asked at the same time.
    pub fn is_same(&self, other: &Wait) -> bool {
        self.seek.expr.is_lookup()
            && self.asks == other.asks
            && self.given.len() == other.given.len()
            && self.given.iter().zip(&other.given).all(|(a, b)| a.is_same(b))
    }

    /// What it asks for.
    pub fn question(&self) -> Result<Question<'_>> {
        let lookup = self.seek.expr.lookups().get(self.asks);
        let (Some(plan), Some(lookup)) = (self.seek.lookups.get(self.asks), lookup) else {
            return Err(Error::bug("a lookup is asked for that is not there"));
        };
        Ok(match plan.cells(lookup, &self.given)? {
            None => Question::None,
            Some(cells) => Question::Ask { plan, insert: plan.insert, cells },
        })
    }

    /// Takes the answer; the value, unless it asks for more.
    pub fn answer(&mut self, answer: Answer) -> Result<Option<Value>> {
        if let Some(place) = self.answers.get_mut(self.asks) {
            *place = answer;
        }
        self.run()
    }

    fn run(&mut self) -> Result<Option<Value>> {
        let seek = self.seek.clone();
        let env = computed::env(&seek.plan, self.now);
        let input =
            Input { new: &self.new, old: self.old.as_deref(), lookups: &self.answers, env: &env };
        match seek.expr.run(&input).map_err(|error| seek.failed(&error))? {
            Outcome::Asks(lookup) => {
                let given = seek.expr.lookup_row(lookup, &input);
                self.given = given.map_err(|error| seek.failed(&error))?;
                self.asks = lookup;
                Ok(None)
            }
            Outcome::Value(value) => seek.convert.take(value).map(Some).map_err(|misfit| {
                let column = seek.plan.target.columns.get(seek.column);
                let (source, target) = (&seek.plan.source, &seek.plan.target.name);
                let column = column.map_or("", |c| &c.name);
                Error::data(
                    Code::NotRepresentable,
                    format!("{source} to {target}.{column}: {misfit}"),
                )
                .with_hint("mend the row in the target, or say with on_unrepresentable what else to do with such values")
            }),
        }
    }
}
