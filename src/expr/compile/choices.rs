//! What takes one of several values: `CASE`, `coalesce`, `nullif`, `greatest`, `least`.
//!
//! Parts that no row comes to are left out of the plan, as PostgreSQL does.

use std::ops::Range;

use sqlparser::ast::Expr as Ast;
use tidelock_core::DataType;

use super::operators::wider;
use super::{Compiler, Result, Typed};
use crate::expr::cell::Cell;
use crate::expr::error::Fault;
use crate::expr::kind::Kind;
use crate::expr::plan::{Comparison, Node};

impl Compiler<'_> {
    /// The branches of a choice brought to one type.
    pub(super) fn unified(
        &mut self,
        parts: Vec<Typed>,
        what: &str,
    ) -> Result<(Vec<Typed>, Kind, DataType)> {
        let mut kind = Kind::Unknown;
        for part in &parts {
            kind = match (kind.common(part.kind), kind) {
                (Some(Kind::Label | Kind::Bits), _) => Kind::Text,
                (Some(common), _) => common,
                (None, before) => {
                    return Err(Fault::new(
                        part.span.clone(),
                        format!(
                            "this is {}, but what stands before it in {what} is {before}",
                            part.shown()
                        ),
                    )
                    .hint("cast one of them, so that all have the same type"));
                }
            };
        }
        if kind == Kind::Unknown {
            kind = Kind::Text;
        }
        let mut unified = Vec::with_capacity(parts.len());
        for part in parts {
            let nothing = matches!(part.constant(), Some(Cell::Null));
            let mut part = if kind == Kind::Raw && nothing {
                Typed { kind: Kind::Raw, ..part }
            } else {
                self.coerce(part, kind)?
            };
            if nothing {
                part.nullable = true;
            }
            unified.push(part);
        }
        let mut known = unified.iter().filter(|p| !matches!(p.constant(), Some(Cell::Null)));
        let data_type = match known.next() {
            None => kind.data_type(),
            Some(first) => {
                let first = first.clone();
                known
                    .fold(first, |a, b| {
                        let data_type = wider(kind, &a, b);
                        Typed { node: Node::Const(Cell::Null), data_type, ..a }
                    })
                    .data_type
            }
        };
        Ok((unified, kind, data_type))
    }

    pub(super) fn coalesce(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        if args.is_empty() {
            return Err(self.arity("coalesce", "at least 1 argument", 0, &span));
        }
        let mut parts = Vec::with_capacity(args.len());
        for (at, arg) in args.iter().enumerate() {
            let last = at + 1 == args.len();
            parts.push(if last { self.expr(arg)? } else { self.leniently(arg)? });
        }
        let (parts, kind, data_type) = self.unified(parts, "coalesce")?;
        let nullable = parts.iter().all(|p| p.nullable);
        let mut constant = true;
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts {
            let last = part.constant().is_some_and(|c| !c.is_null());
            constant &= part.constant().is_some();
            kept.push(part.node);
            if last {
                break;
            }
        }
        let node = Node::Coalesce(kept);
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }

    pub(super) fn nullif(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [a, b] = self.exactly("nullif", args, &span)?;
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        let (a, b) = self.comparable(a, b, false, &span)?;
        // The result has the type in which `=` compares the first: nullif(7, 2.0) is a decimal.
        let a = match (a.kind, b.kind) {
            (Kind::Label, _) => self.coerce(a, Kind::Text)?,
            (Kind::Int2 | Kind::Int4 | Kind::Int8, Kind::Numeric) => {
                self.coerce(a, Kind::Numeric)?
            }
            (Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric, Kind::Real | Kind::Double) => {
                self.coerce(a, Kind::Double)?
            }
            _ => a,
        };
        if let Some(Cell::Null) = a.constant() {
            return Ok(a);
        }
        if let Some(Cell::Null) = b.constant() {
            return Ok(a);
        }
        let constant = a.constant().is_some() && b.constant().is_some();
        let (kind, data_type) = (a.kind, a.data_type.clone());
        let node = Node::NullIf { args: Box::new([a.node, b.node]), span: span.clone() };
        let made = Typed { data_type, ..self.made(node, kind, true, span) };
        self.folded(made, constant)
    }

    pub(super) fn extreme(
        &mut self,
        greatest: bool,
        args: &[&Ast],
        span: Range<usize>,
    ) -> Result<Typed> {
        let name = if greatest { "greatest" } else { "least" };
        if args.is_empty() {
            return Err(self.arity(name, "at least 1 argument", 0, &span));
        }
        let parts = self.exprs(args)?;
        let (parts, kind, data_type) = self.unified(parts, name)?;
        if matches!(kind, Kind::Json | Kind::Raw) {
            return Err(Fault::new(span, format!("values of type {kind} have no order")));
        }
        for part in &parts {
            self.warn_case(part);
        }
        let constant = parts.iter().all(|p| p.constant().is_some());
        let nullable = parts.iter().all(|p| p.nullable);
        let args = parts.into_iter().map(|p| p.node).collect();
        let node = Node::Extreme { greatest, args, span: span.clone() };
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }

    pub(super) fn case(&mut self, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        let Ast::Case { operand, conditions, else_result, .. } = ast else {
            return Err(Fault::new(span, "this syntax is not supported"));
        };
        let mut operand = match operand {
            Some(operand) => Some(self.expr(operand)?),
            None => None,
        };
        let settled = operand.as_ref().is_none_or(|o| o.constant().is_some());
        let mut tests = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for branch in conditions {
            tests.push(match &operand {
                None => self.condition(&branch.condition)?,
                Some(value) => {
                    let value = value.clone();
                    let test = self.expr(&branch.condition)?;
                    let place = test.span.clone();
                    if settled {
                        self.compare(Comparison::Eq, value, test, place)?
                    } else {
                        let (value, test) = self.comparable(value, test, false, &place)?;
                        operand = Some(value);
                        test
                    }
                }
            });
            results.push(self.expr(&branch.result)?);
        }
        if settled {
            operand = None;
        }
        let has_else = else_result.is_some();
        if let Some(result) = else_result {
            results.push(self.expr(result)?);
        }
        let (mut results, kind, data_type) = self.unified(results, "CASE")?;
        let mut otherwise = if has_else { results.pop() } else { None };
        // Branches that no row comes to are left out, and what follows one that all come to.
        let mut branches = Vec::with_capacity(tests.len());
        for (test, result) in tests.into_iter().zip(results) {
            match test.constant() {
                Some(Cell::Bool(true)) if settled => {
                    otherwise = Some(result);
                    break;
                }
                Some(Cell::Bool(false)) if settled => {}
                Some(Cell::Null) => {}
                _ => branches.push((test, result)),
            }
        }
        let nullable = otherwise.as_ref().is_none_or(|o| o.nullable)
            || branches.iter().any(|(_, r)| r.nullable);
        let constant =
            branches.is_empty() && otherwise.as_ref().is_none_or(|o| o.constant().is_some());
        let node = Node::Case {
            operand: operand.filter(|_| !branches.is_empty()).map(|o| Box::new(o.node)),
            branches: branches.into_iter().map(|(test, result)| (test.node, result.node)).collect(),
            otherwise: otherwise.map(|o| Box::new(o.node)),
            span: span.clone(),
        };
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }
}
