//! SQL expressions over rows, with PostgreSQL's meaning whatever the source.
//!
//! ```text
//! text ──parse──> syntax ──compile(scope)──> typed plan ──eval(row)──> value
//!                          once a start                    once a row
//! ```
//!
//! Pure: no I/O, no clock, no state. What an expression needs from outside (the time, dictionaries, answers of lookups)
//! comes in with each row, so the same row replayed after a crash gives the same result as long as those are the same;
//! functions that could not promise that (`random()`, `gen_random_uuid()`) are refused.
//!
//! **Types** are settled when the expression is compiled: a text is never taken for a number, an integer divides as an
//! integer, decimals are exact. `check` therefore knows every fault that does not depend on a row, with its place.
//!
//! **A cell that is not in the log** ([`Value::Unchanged`]) makes the result unknown only if the result depends on it:
//! `false AND x` is false whatever `x` was. The caller reads the row by its key and evaluates again.
//!
//! **An error of a row** names the function, its place in the expression and the cause, never a value.
//!
//! The language is described in `docs/EXPRESSIONS.md`.

mod cast;
mod cell;
mod compile;
mod datetime;
mod decimal;
mod error;
mod explain;
mod format;
mod functions;
mod json;
mod kind;
mod number;
mod pattern;
mod place;
mod plan;
mod shows;
mod tells;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::ops::Range;

use tidelock_core::{ByteString, DataType, Instant, Value};

pub use compile::{compile, compile_condition, dictionary_names, lookup_tables};
pub use error::{EvalError, EvalErrorKind, Fault};

use cell::Cell;
use error::Fail;
use kind::Kind;
use plan::Node;
pub use shows::{Shown, Veil};

/// A column of the source, as expressions see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name as the catalog spells it.
    pub name: String,
    /// What it holds.
    pub data_type: DataType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether its server compares it without regard to case: comparing it here deserves a warning.
    pub case_insensitive: bool,
}

impl Field {
    /// A field that its server compares letter by letter.
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Field {
        Field { name: name.into(), data_type, nullable, case_insensitive: false }
    }
}

/// What an expression may refer to.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The columns, in the order of the rows that will be evaluated.
    pub fields: &'a [Field],
    /// Whether `old.column` may be written.
    pub old: bool,
    /// The dictionaries of the configuration.
    pub dictionaries: &'a dyn Dictionaries,
    /// The tables of the target.
    pub lookups: &'a dyn Lookups,
    /// Whether there is a key for `mask(x, 'hash')`.
    pub mask_key: bool,
    /// Whether dates and times are never infinite, so that all of them have a month.
    pub finite: bool,
}

impl<'a> Scope<'a> {
    /// Columns alone: no old row, no dictionaries, no lookups.
    pub fn of(fields: &'a [Field]) -> Scope<'a> {
        Scope {
            fields,
            old: false,
            dictionaries: &NoDictionaries,
            lookups: &NoLookups,
            mask_key: true,
            finite: false,
        }
    }
}

/// What is known of a dictionary before a row moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DictionaryShape {
    /// The number that [`Contents`] knows it by.
    pub index: usize,
    /// How many values make a code.
    pub arity: usize,
    /// What the codes stand for.
    pub result: DataType,
    /// Whether a code may stand for NULL.
    pub result_nullable: bool,
    /// The types that the values of a code must have; any, by their texts, if empty.
    pub types: Vec<DataType>,
    /// If it is looked up in the target: where.
    pub sought: Option<SoughtDictionary>,
}

/// A dictionary that is a table of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoughtDictionary {
    /// The table: `system.schema.table` or shorter.
    pub table: String,
    /// The columns that make up a code.
    pub columns: Vec<String>,
    /// The column of the meaning.
    pub result: String,
}

/// The dictionaries that there are.
pub trait Dictionaries {
    /// The dictionary of this name.
    fn get(&self, name: &str) -> Option<DictionaryShape>;
    /// All names, for hints.
    fn names(&self) -> Vec<String>;
    /// Why a dictionary cannot be used, and what to do about it.
    fn fault(&self, _name: &str) -> Option<(String, String)> {
        None
    }
}

/// No dictionaries.
pub struct NoDictionaries;

impl Dictionaries for NoDictionaries {
    fn get(&self, _name: &str) -> Option<DictionaryShape> {
        None
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What dictionaries hold at the time of a row.
pub trait Contents: Sync {
    /// What a code stands for, each of its values by its text; `None` if the dictionary lacks it.
    fn get(&self, dictionary: usize, code: &[&str]) -> Option<Value>;
}

impl Contents for NoDictionaries {
    fn get(&self, _dictionary: usize, _code: &[&str]) -> Option<Value> {
        None
    }
}

/// The types of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupShape {
    /// Of the columns that are matched, in the order that they are named.
    pub columns: Vec<DataType>,
    /// Of the column that is the result.
    pub result: DataType,
    /// Whether that column may be NULL.
    pub result_nullable: bool,
}

/// What of a lookup is to be found in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookupNames<'a> {
    /// The table.
    pub table: &'a str,
    /// The columns that are matched.
    pub columns: &'a [String],
    /// The column that is the result.
    pub result: &'a str,
    /// What a missing row is inserted with besides those that are matched; `None` if it is not inserted.
    pub insert: Option<&'a [String]>,
}

/// What of a lookup is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupPart {
    /// The table.
    Table,
    /// The column to match of this number.
    Column(usize),
    /// The column that is the result.
    Result,
    /// The column of this number that a missing row is inserted with.
    Insert(usize),
}

/// Why a lookup is not possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupFault {
    /// What is wrong.
    pub part: LookupPart,
    /// Why.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// The tables that lookups may read.
pub trait Lookups {
    /// The types of a lookup by these columns; also refuses columns that do not name one row.
    fn shape(&self, names: LookupNames<'_>) -> Result<LookupShape, LookupFault>;
}

/// No lookups.
pub struct NoLookups;

impl Lookups for NoLookups {
    fn shape(&self, _names: LookupNames<'_>) -> Result<LookupShape, LookupFault> {
        Err(LookupFault {
            part: LookupPart::Table,
            message: "lookups are not possible here".to_owned(),
            hint: "a lookup is answered when a row is written, so it may stand in [mappings.columns]; here the answer would have to stay the same \
                   without a change of the row. What the source itself knows comes by a view, or by a dictionary that is a table of the source"
                .to_owned(),
        })
    }
}

/// A lookup that an expression may ask for: which of them it does, a row decides ([`Expr::run`]). The caller computes the key
/// ([`Expr::lookup_row`]), finds the row, hands the answer in ([`Input::lookups`]), and runs the expression again.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The table as it was written: `system.schema.table` or shorter.
    pub table: String,
    /// The columns that are matched.
    pub columns: Vec<String>,
    /// The column that is the result.
    pub result: String,
    /// What that column holds.
    pub data_type: DataType,
    /// Whether that column may be NULL.
    pub nullable: bool,
    /// What a missing row is inserted with besides those that are matched; `None` if it is not inserted.
    pub insert: Option<Vec<String>>,
    /// What the values are that are matched and, after them, inserted.
    pub given: Vec<DataType>,
    /// The call in the expression's text.
    pub span: Range<usize>,
    args: Vec<Node>,
}

/// The answer to a lookup.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It was not asked for yet.
    Open,
    /// The table has no row of that key.
    Missing,
    /// The value of the row.
    Found(Value),
}

/// What running an expression came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A value.
    Value(Value),
    /// It needs the answer to the lookup of this number first.
    Asks(usize),
}

/// The key of masks. Never shown.
pub struct MaskKey(ring::hmac::Key);

impl MaskKey {
    /// A key from its bytes.
    pub fn new(key: &[u8]) -> MaskKey {
        MaskKey(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key))
    }

    /// What tells it from other keys.
    pub fn mark(&self) -> String {
        self.hash(b"which key this is")
    }

    fn hash(&self, bytes: &[u8]) -> String {
        hex::encode(ring::hmac::sign(&self.0, bytes))
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey")
    }
}

/// What expressions read besides the row.
#[derive(Clone, Copy)]
pub struct Env<'e> {
    /// The time, the same for all expressions of a row.
    pub now: Instant,
    /// What the dictionaries hold.
    pub dictionaries: &'e dyn Contents,
    /// The key of `mask(x, 'hash')`.
    pub mask_key: Option<&'e MaskKey>,
}

/// A row to evaluate an expression for.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The row.
    pub new: &'a [Value],
    /// The row before the change; `None` if there was none, then its columns are NULL. What the log does not tell of it is
    /// `Unchanged`.
    pub old: Option<&'a [Value]>,
    /// The answers to [`Expr::lookups`], in that order; those that are not there are open.
    pub lookups: &'a [Answer],
    /// All else.
    pub env: &'a Env<'a>,
}

/// The answer of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Neither, for want of a value; a filter treats it as false.
    Null,
    /// It depends on a cell that is not in the log: read the row and ask again.
    NotInLog,
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Expr {
    root: Node,
    kind: Kind,
    data_type: DataType,
    nullable: bool,
    column: Option<usize>,
    literal: Option<ByteString>,
    span: Range<usize>,
    fields: Vec<usize>,
    old_fields: Vec<usize>,
    clock: bool,
    lookups: Vec<Lookup>,
    dictionaries: Vec<String>,
    warnings: Vec<Fault>,
}

impl Expr {
    /// What its values are: of a bare column its very type, of a computed number as many digits as are known.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Whether it can be NULL.
    pub fn nullable(&self) -> bool {
        self.nullable
    }

    /// The column, if it is nothing else.
    pub fn as_column(&self) -> Option<usize> {
        self.column
    }

    /// The text of a bare text literal, which may become a value of any type.
    pub fn literal(&self) -> Option<&str> {
        self.literal.as_deref()
    }

    /// A bare literal as a value of this type; `None` if the expression is none, an error if the text does not fit.
    pub fn literal_as(&self, data_type: &DataType) -> Option<Result<Value, Fault>> {
        let text = self.literal.as_ref()?;
        let kind = Kind::of(data_type);
        let labels = match data_type {
            DataType::Enum { labels } => Some(labels),
            _ => None,
        };
        if labels.is_some_and(|labels| !labels.iter().any(|l| **l == **text)) {
            return Some(Err(Fault::new(self.span.clone(), "the enum has no such label")));
        }
        let cell = Cell::Text(cell::Text::Ref(text));
        let converted = cast::convert(cell, Kind::Text, cast::Target::plain(kind));
        Some(match converted {
            Ok(Cell::Text(text)) if labels.is_some() => Ok(Value::Enum(text.own())),
            Ok(cell) => Ok(cell.into_value()),
            Err(fail) => Err(Fault::new(self.span.clone(), fail.message.to_string())),
        })
    }

    /// The columns that it reads.
    pub fn fields(&self) -> &[usize] {
        &self.fields
    }

    /// The columns that it reads of the row before the change.
    pub fn old_fields(&self) -> &[usize] {
        &self.old_fields
    }

    /// Whether it changes with time: `now()`, `today()` and their like.
    pub fn uses_clock(&self) -> bool {
        self.clock
    }

    /// The lookups that it needs answered.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// The names of the dictionaries that it reads.
    pub fn dictionaries(&self) -> &[String] {
        &self.dictionaries
    }

    /// What is allowed but worth saying.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// The plan, indented, a step a line, with the names of these columns, which it was compiled over.
    pub fn explain(&self, fields: &[Field]) -> String {
        explain::explain(self, fields)
    }

    /// How much of each column that it reads is in its result.
    pub fn shows(&self) -> Vec<Shown> {
        shows::shows(self)
    }

    /// The dictionaries of which something may be in its result or in what it looks up, and how much.
    pub fn shows_dictionaries(&self) -> Vec<(String, Veil)> {
        shows::shows_dictionaries(self)
    }

    /// The columns that it tells: two rows that differ in these never come out the same, as far as can be seen.
    pub fn tells(&self) -> Vec<usize> {
        tells::tells(self)
    }

    /// How many characters its value has in every row, where that is known.
    pub fn length(&self) -> Option<u64> {
        match &self.root {
            Node::Special { what: plan::Special::Mask(plan::Mask::Hash), .. } => Some(64),
            Node::Call { name: "sha256_hex", .. } => Some(64),
            Node::Call { name: "md5", .. } => Some(32),
            _ => None,
        }
    }

    /// Whether it is a lookup and nothing else.
    pub fn is_lookup(&self) -> bool {
        matches!(self.root, Node::Lookup { .. })
    }

    /// Of a lookup that a row asks for: the cells that are matched, and after them those that a missing row is inserted with.
    pub fn lookup_row(&self, lookup: usize, row: &Input<'_>) -> Result<Vec<Value>, EvalError> {
        let args = self.lookups.get(lookup).map(|lookup| &lookup.args[..]).unwrap_or_default();
        let cells = args.iter().map(|arg| arg.eval(row).map(Cell::into_value));
        cells.collect::<Result<_, _>>().map_err(|error| *error)
    }

    /// Its value for a row, or the lookup that must be answered first. What no row comes to is not asked for.
    pub fn run(&self, row: &Input<'_>) -> Result<Outcome, EvalError> {
        match self.eval(row) {
            Ok(value) => Ok(Outcome::Value(value)),
            Err(EvalError { kind: EvalErrorKind::LookupOpen { lookup }, .. }) => {
                Ok(Outcome::Asks(lookup))
            }
            Err(error) => Err(error),
        }
    }

    /// Its value for a row.
    pub fn eval(&self, row: &Input<'_>) -> Result<Value, EvalError> {
        if let Some(index) = self.column {
            return row
                .new
                .get(index)
                .cloned()
                .ok_or_else(|| *Fail::unexpected().at("column", &(0..0)));
        }
        self.root.eval(row).map(Cell::into_value).map_err(|error| *error)
    }

    /// The answer of a condition for a row.
    pub fn test(&self, row: &Input<'_>) -> Result<Truth, EvalError> {
        match self.root.eval(row) {
            Ok(Cell::Bool(true)) => Ok(Truth::True),
            Ok(Cell::Bool(false)) => Ok(Truth::False),
            Ok(Cell::Null) => Ok(Truth::Null),
            Ok(Cell::Unchanged) => Ok(Truth::NotInLog),
            Ok(_) => Err(*Fail::unexpected().at("condition", &(0..0))),
            Err(error) => Err(*error),
        }
    }
}
