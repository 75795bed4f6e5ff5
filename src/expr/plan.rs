//! The typed plan of an expression, and its evaluation.
//!
//! Every node knows its types, so a row meets no decision that the text could have answered. All arguments of a function
//! are evaluated before it is called, as PostgreSQL does: an error in one is an error; then NULL makes the result NULL;
//! then a cell that is not in the log makes it unknown. `AND`, `OR`, `CASE`, `COALESCE` and `IN` stop where the result no
//! longer depends on the rest.

mod special;

use std::cmp::Ordering;
use std::ops::Range;

use sha2::{Digest, Sha256};
use tidelock_core::Value;

use super::cast::{self, Target};
use super::cell::{Cell, Text};
use super::datetime;
use super::error::{EvalError, EvalErrorKind, Fail};
use super::functions::Native;
use super::kind::Kind;
use super::number::{self, Op};
use super::{Answer, Input};
use special::special;
pub use special::{Mask, Special};

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Comparison {
    pub fn sign(self) -> &'static str {
        match self {
            Comparison::Eq => "=",
            Comparison::Ne => "<>",
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Eq => order.is_eq(),
            Comparison::Ne => order.is_ne(),
            Comparison::Lt => order.is_lt(),
            Comparison::Le => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::Ge => order.is_ge(),
        }
    }
}

/// What reads the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Now,
    Today,
    Local,
}

/// A step of the plan.
#[derive(Debug, Clone)]
pub enum Node {
    Const(Cell<'static>),
    Column {
        index: usize,
        old: bool,
        kind: Kind,
    },
    Clock(Clock),
    Compare {
        op: Comparison,
        args: Box<[Node; 2]>,
        span: Range<usize>,
    },
    Distinct {
        args: Box<[Node; 2]>,
        negated: bool,
        span: Range<usize>,
    },
    Arith {
        op: Op,
        kind: Kind,
        args: Box<[Node; 2]>,
        span: Range<usize>,
    },
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    IsNull {
        arg: Box<Node>,
        negated: bool,
    },
    /// `IS [NOT] TRUE`, `FALSE`, `UNKNOWN`.
    Is {
        arg: Box<Node>,
        truth: Option<bool>,
        negated: bool,
    },
    In {
        arg: Box<Node>,
        list: Vec<Node>,
        negated: bool,
        span: Range<usize>,
    },
    Case {
        operand: Option<Box<Node>>,
        branches: Vec<(Node, Node)>,
        otherwise: Option<Box<Node>>,
        span: Range<usize>,
    },
    Coalesce(Vec<Node>),
    NullIf {
        args: Box<[Node; 2]>,
        span: Range<usize>,
    },
    Extreme {
        greatest: bool,
        args: Vec<Node>,
        span: Range<usize>,
    },
    Cast {
        arg: Box<Node>,
        from: Kind,
        to: Target,
        span: Range<usize>,
    },
    Call {
        name: &'static str,
        args: Vec<Node>,
        run: Native,
        lax: bool,
        span: Range<usize>,
    },
    Special {
        name: &'static str,
        args: Vec<Node>,
        what: Special,
        span: Range<usize>,
    },
    Dictionary {
        index: usize,
        name: String,
        code: Vec<Node>,
        default: Option<Box<Node>>,
        kind: Kind,
        span: Range<usize>,
    },
    /// The answer to a lookup; NULL without asking where an argument is NULL.
    Lookup {
        index: usize,
        table: String,
        args: Vec<Node>,
        missing: Missing,
        kind: Kind,
        span: Range<usize>,
    },
}

/// What a lookup that finds no row is.
#[derive(Debug, Clone)]
pub(super) enum Missing {
    /// An error.
    Error,
    /// NULL.
    Null,
    /// An error of the dictionary of this name.
    Code(String),
    /// The default of a dictionary.
    Default(Box<Node>),
}

type Out<'a> = Result<Cell<'a>, Box<EvalError>>;

const NULL: Cell<'static> = Cell::Null;

/// Arguments of one call; few stay on the stack.
fn with_args<'a, R>(
    args: &'a [Node],
    input: &'a Input<'a>,
    run: impl FnOnce(&mut [Cell<'a>]) -> R,
) -> Result<R, Box<EvalError>> {
    if args.len() <= 4 {
        let mut cells: [Cell<'a>; 4] = [NULL; 4];
        for (cell, arg) in cells.iter_mut().zip(args) {
            *cell = arg.eval(input)?;
        }
        Ok(run(cells.get_mut(..args.len()).unwrap_or_default()))
    } else {
        let mut cells: Vec<Cell<'a>> = Vec::with_capacity(args.len());
        for arg in args {
            cells.push(arg.eval(input)?);
        }
        Ok(run(&mut cells))
    }
}

/// What a strict function gives without being called: NULL for NULL, nothing known for what is not in the log.
fn early<'a>(cells: &[Cell<'a>]) -> Option<Result<Cell<'a>, Fail>> {
    if cells.iter().any(Cell::is_null) {
        return Some(Ok(Cell::Null));
    }
    if cells.iter().any(Cell::is_unchanged) {
        return Some(Ok(Cell::Unchanged));
    }
    cells.iter().any(|c| matches!(c, Cell::Raw(_))).then(|| Err(cast::no_form()))
}

fn compared(a: &Cell<'_>, b: &Cell<'_>) -> Result<Ordering, Fail> {
    if matches!(a, Cell::Raw(_)) || matches!(b, Cell::Raw(_)) {
        return Err(cast::no_form());
    }
    a.compare(b).ok_or_else(Fail::unexpected)
}

/// Equal, not equal, or not known: for lack of a value, or of a cell in the log.
fn equal<'a>(a: &Cell<'_>, b: &Cell<'_>) -> Result<Cell<'a>, Fail> {
    if a.is_null() || b.is_null() {
        return Ok(Cell::Null);
    }
    if a.is_unchanged() || b.is_unchanged() {
        return Ok(Cell::Unchanged);
    }
    compared(a, b).map(|order| Cell::Bool(order.is_eq()))
}

fn inverted(cell: Cell<'_>) -> Cell<'_> {
    match cell {
        Cell::Bool(b) => Cell::Bool(!b),
        other => other,
    }
}

impl Node {
    /// The value for a row.
    pub fn eval<'a>(&'a self, input: &'a Input<'a>) -> Out<'a> {
        match self {
            Node::Const(cell) => Ok(cell.lend()),
            Node::Column { index, old, kind } => column(input, *index, *old, *kind),
            Node::Clock(clock) => Ok(match clock {
                Clock::Now => datetime::instant(input.env.now),
                Clock::Today => Cell::Date(datetime::day(input.env.now.0)),
                Clock::Local => Cell::Stamp(input.env.now.0),
            }),
            Node::Compare { op, args, span } => {
                let [a, b] = &**args;
                let (a, b) = (a.eval(input)?, b.eval(input)?);
                if a.is_null() || b.is_null() {
                    return Ok(Cell::Null);
                }
                if a.is_unchanged() || b.is_unchanged() {
                    return Ok(Cell::Unchanged);
                }
                let order = compared(&a, &b).map_err(|fail| fail.at(op.sign(), span))?;
                Ok(Cell::Bool(op.holds(order)))
            }
            Node::Distinct { args, negated, span } => {
                let [a, b] = &**args;
                let (a, b) = (a.eval(input)?, b.eval(input)?);
                let same = match (&a, &b) {
                    (Cell::Unchanged, _) | (_, Cell::Unchanged) => return Ok(Cell::Unchanged),
                    (Cell::Null, Cell::Null) => true,
                    (Cell::Null, _) | (_, Cell::Null) => false,
                    _ => {
                        compared(&a, &b).map_err(|fail| fail.at("IS DISTINCT FROM", span))?.is_eq()
                    }
                };
                Ok(Cell::Bool(same == *negated))
            }
            Node::Arith { op, kind, args, span } => {
                let [a, b] = &**args;
                let (a, b) = (a.eval(input)?, b.eval(input)?);
                if a.is_null() || b.is_null() {
                    return Ok(Cell::Null);
                }
                if a.is_unchanged() || b.is_unchanged() {
                    return Ok(Cell::Unchanged);
                }
                number::arithmetic(*op, *kind, &a, &b).map_err(|fail| fail.at(op.sign(), span))
            }
            Node::Not(arg) => arg.eval(input).map(inverted),
            Node::And(args) => junction(args, input, false),
            Node::Or(args) => junction(args, input, true),
            Node::IsNull { arg, negated } => Ok(match arg.eval(input)? {
                Cell::Unchanged => Cell::Unchanged,
                cell => Cell::Bool(cell.is_null() != *negated),
            }),
            Node::Is { arg, truth, negated } => Ok(match arg.eval(input)? {
                Cell::Unchanged => Cell::Unchanged,
                Cell::Bool(b) => Cell::Bool((Some(b) == *truth) != *negated),
                _ => Cell::Bool(truth.is_none() != *negated),
            }),
            Node::In { arg, list, negated, span } => {
                let sought = arg.eval(input)?;
                let mut result = Cell::Bool(false);
                for item in list {
                    let item = item.eval(input)?;
                    match equal(&sought, &item).map_err(|fail| fail.at("IN", span))? {
                        Cell::Bool(true) => return Ok(Cell::Bool(!negated)),
                        Cell::Bool(false) => {}
                        Cell::Null if result.is_unchanged() => {}
                        unknown => result = unknown,
                    }
                }
                Ok(if *negated { inverted(result) } else { result })
            }
            Node::Case { operand, branches, otherwise, span } => {
                let operand = match operand {
                    Some(operand) => Some(operand.eval(input)?),
                    None => None,
                };
                for (when, then) in branches {
                    let test = match &operand {
                        Some(operand) => equal(operand, &when.eval(input)?)
                            .map_err(|fail| fail.at("CASE", span))?,
                        None => when.eval(input)?,
                    };
                    match test {
                        Cell::Bool(true) => return then.eval(input),
                        Cell::Unchanged => return Ok(Cell::Unchanged),
                        _ => {}
                    }
                }
                otherwise.as_ref().map_or(Ok(Cell::Null), |node| node.eval(input))
            }
            Node::Coalesce(args) => {
                for arg in args {
                    let cell = arg.eval(input)?;
                    if !cell.is_null() {
                        return Ok(cell);
                    }
                }
                Ok(Cell::Null)
            }
            Node::NullIf { args, span } => {
                let [a, b] = &**args;
                let (a, b) = (a.eval(input)?, b.eval(input)?);
                Ok(match equal(&a, &b).map_err(|fail| fail.at("nullif", span))? {
                    Cell::Bool(true) => Cell::Null,
                    Cell::Unchanged => Cell::Unchanged,
                    _ => a,
                })
            }
            Node::Extreme { greatest, args, span } => extreme(*greatest, args, input, span),
            Node::Cast { arg, from, to, span } => {
                let cell = arg.eval(input)?;
                cast::convert(cell, *from, *to).map_err(|fail| fail.at("cast", span))
            }
            Node::Call { name, args, run, lax, span } => with_args(args, input, |cells| {
                if *lax {
                    if cells.iter().any(Cell::is_unchanged) {
                        return Ok(Cell::Unchanged);
                    }
                } else if let Some(result) = early(cells) {
                    return result;
                }
                run(cells)
            })?
            .map_err(|fail| fail.at(name, span)),
            Node::Special { name, args, what, span } => with_args(args, input, |cells| {
                early(cells).unwrap_or_else(|| special(what, cells, input))
            })?
            .map_err(|fail| fail.at(name, span)),
            Node::Dictionary { .. } => self.dictionary(input),
            Node::Lookup { index, table, args, missing, kind, span } => {
                let unknown = with_args(args, input, |cells| {
                    if cells.iter().any(Cell::is_null) {
                        Some(Cell::Null)
                    } else {
                        cells.iter().any(Cell::is_unchanged).then_some(Cell::Unchanged)
                    }
                })?;
                if let Some(unknown) = unknown {
                    return Ok(unknown);
                }
                match input.lookups.get(*index) {
                    Some(Answer::Found(value)) => Ok(Cell::load(value, *kind)),
                    Some(Answer::Missing) => match missing {
                        Missing::Null => Ok(Cell::Null),
                        Missing::Default(default) => default.eval(input),
                        Missing::Code(name) => with_args(args, input, |cells| {
                            let parts: Vec<Text<'_>> =
                                cells.iter().filter_map(Cell::form).collect();
                            let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
                            Err(no_code(name, hash(&parts)).at("dictionary", span))
                        })?,
                        Missing::Error => {
                            let missing = EvalErrorKind::LookupMissing { table: table.clone() };
                            Err(Fail::new(missing, format!("{table} has no row with this key"))
                                .at("lookup", span))
                        }
                    },
                    Some(Answer::Open) | None => {
                        let open = EvalErrorKind::LookupOpen { lookup: *index };
                        Err(Fail::new(open, "the lookup was not answered").at("lookup", span))
                    }
                }
            }
        }
    }

    fn dictionary<'a>(&'a self, input: &'a Input<'a>) -> Out<'a> {
        let Node::Dictionary { index, name, code, default, kind, span } = self else {
            return Ok(Cell::Null);
        };
        let found = with_args(code, input, |cells| {
            if let Some(result) = early(cells) {
                return result.map(Ok);
            }
            let parts: Vec<Text<'_>> = cells.iter().filter_map(Cell::form).collect();
            let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
            Ok(match input.env.dictionaries.get(*index, &parts) {
                Some(value) => Ok(loaded(value, *kind)),
                None => Err(hash(&parts)),
            })
        })?
        .map_err(|fail| fail.at("dictionary", span))?;
        match (found, default) {
            (Ok(cell), _) => Ok(cell),
            (Err(_), Some(default)) => default.eval(input),
            (Err(code_hash), None) => Err(no_code(name, code_hash).at("dictionary", span)),
        }
    }
}

fn no_code(name: &str, code_hash: String) -> Fail {
    let message = format!("dictionary {name:?} lacks the code (hash {code_hash})");
    let dictionary = name.to_owned();
    Fail::new(EvalErrorKind::DictionaryMissing { dictionary, code_hash }, message)
}

fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    hex::encode(digest.finalize().get(..6).unwrap_or_default())
}

fn column<'a>(input: &'a Input<'a>, index: usize, old: bool, kind: Kind) -> Out<'a> {
    let value = if old {
        match input.old {
            // A row that is new has no values before the change.
            None => return Ok(Cell::Null),
            Some(cells) => cells.get(index),
        }
    } else {
        input.new.get(index)
    };
    match value {
        None => {
            Err(Fail::new(EvalErrorKind::Unexpected, "the row lacks a column")
                .at("column", &(0..0)))
        }
        Some(value) => Ok(Cell::load(value, kind)),
    }
}

/// `AND` (decided by false) or `OR` (decided by true).
fn junction<'a>(args: &'a [Node], input: &'a Input<'a>, decides: bool) -> Out<'a> {
    let mut result = Cell::Bool(!decides);
    for arg in args {
        match arg.eval(input)? {
            Cell::Bool(b) if b == decides => return Ok(Cell::Bool(b)),
            Cell::Bool(_) => {}
            Cell::Null if result.is_unchanged() => {}
            unknown => result = unknown,
        }
    }
    Ok(result)
}

/// NULLs do not count.
fn extreme<'a>(
    greatest: bool,
    args: &'a [Node],
    input: &'a Input<'a>,
    span: &Range<usize>,
) -> Out<'a> {
    let name = if greatest { "greatest" } else { "least" };
    let mut best: Option<Cell<'a>> = None;
    let mut unchanged = false;
    for arg in args {
        let cell = arg.eval(input)?;
        if cell.is_null() {
            continue;
        }
        if cell.is_unchanged() {
            unchanged = true;
            continue;
        }
        let better = match &best {
            None => true,
            Some(best) => {
                let order = compared(&cell, best).map_err(|fail| fail.at(name, span))?;
                if greatest { order.is_gt() } else { order.is_lt() }
            }
        };
        if better {
            best = Some(cell);
        }
    }
    Ok(if unchanged { Cell::Unchanged } else { best.unwrap_or(Cell::Null) })
}

/// An answer of a dictionary.
fn loaded<'a>(value: Value, kind: Kind) -> Cell<'a> {
    match value {
        Value::Text(text) if kind == Kind::Text => Cell::Text(Text::Own(text)),
        Value::Json(text) => Cell::Json(Text::Own(text)),
        other => Cell::load(&other, kind).detach().unwrap_or(Cell::Null),
    }
}
