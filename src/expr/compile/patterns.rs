//! `LIKE`, regular expressions, and the operators that take JSON apart.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{BinaryOperator, Expr as Ast, Value as Literal};

use super::operators::comparison;
use super::{Compiler, Result, Typed};
use crate::expr::cell::Cell;
use crate::expr::error::Fault;
use crate::expr::functions::Native;
use crate::expr::kind::Kind;
use crate::expr::pattern;
use crate::expr::plan::Special;

impl Compiler<'_> {
    pub(super) fn arrow(
        &mut self,
        name: &'static str,
        kind: Kind,
        run: Native,
        a: Typed,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        let document = self.json_side(a)?;
        let key = if b.kind.is_integer() { b } else { self.coerce(b, Kind::Text)? };
        let part = self.native(name, vec![document, key], kind, run, span)?;
        Ok(Typed { nullable: true, ..part })
    }

    pub(super) fn json_side(&mut self, side: Typed) -> Result<Typed> {
        if side.kind == Kind::Json {
            return Ok(side);
        }
        Err(Fault::new(side.span.clone(), format!("this is {}, json is expected", side.shown()))
            .hint(if side.kind.casts(Kind::Json) { "cast it: (…)::json" } else { "" }))
    }

    pub(super) fn json_path(
        &mut self,
        name: &'static str,
        kind: Kind,
        run: Native,
        a: Typed,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        let document = self.json_side(a)?;
        let inner = b.text().and_then(|t| t.trim().strip_prefix('{')?.strip_suffix('}'));
        let Some(inner) = inner.filter(|t| !t.contains(['"', '\\', '{'])) else {
            return Err(Fault::new(b.span.clone(), "the path must be a plain list in a literal")
                .hint("write '{lines,0,price}', or json_extract_path(x, 'lines', '0', 'price')"));
        };
        let mut args = vec![document];
        for step in inner.split(',').map(str::trim).filter(|_| !inner.trim().is_empty()) {
            args.push(self.constant(Cell::text(step.to_owned()), Kind::Text, b.span.clone()));
        }
        let part = self.native(name, args, kind, run, span)?;
        Ok(Typed { nullable: true, ..part })
    }

    pub(super) fn like(
        &mut self,
        expr: &Ast,
        pattern: &Ast,
        escape: Option<&Ast>,
        any_case: bool,
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let (a, b) = (self.expr(expr)?, self.expr(pattern)?);
        let escape = match escape {
            None => Some('\\'),
            Some(Ast::Value(value)) => match &value.value {
                Literal::SingleQuotedString(s) if s.chars().count() <= 1 => s.chars().next(),
                _ => return Err(Fault::new(span, "ESCAPE takes one character in quotes, or ''")),
            },
            Some(_) => return Err(Fault::new(span, "ESCAPE takes one character in quotes, or ''")),
        };
        self.like_typed(a, b, escape, any_case, negated, span)
    }

    pub(super) fn like_typed(
        &mut self,
        a: Typed,
        b: Typed,
        escape: Option<char>,
        any_case: bool,
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        if !any_case {
            self.warn_case(&a);
        }
        let args = vec![self.coerce(a, Kind::Text)?, self.coerce(b, Kind::Text)?];
        let name = if any_case { "ILIKE" } else { "LIKE" };
        self.special(name, args, Kind::Bool, Special::Like { escape, any_case, negated }, span)
    }

    /// A regular expression, which must be constant: it is compiled once.
    /// `found`: whether it matters which part it matches.
    pub(super) fn regex(
        &mut self,
        pattern: Typed,
        flags: &str,
        found: bool,
    ) -> Result<Arc<regex::Regex>> {
        let span = pattern.span.clone();
        let Some(text) = pattern.text() else {
            return Err(Fault::new(span, "the pattern must be a text literal"));
        };
        pattern::regex(text, flags, found)
            .map(Arc::new)
            .map_err(|why| Fault::new(span, format!("this pattern is not valid: {why}")))
    }

    pub(super) fn matches(
        &mut self,
        left: &Ast,
        right: &Ast,
        (name, flags, negated): (&'static str, &str, bool),
        span: Range<usize>,
    ) -> Result<Typed> {
        // The parser binds these weaker than PostgreSQL does; where that would matter, brackets must say what is meant.
        let weaker =
            |ast: &Ast| matches!(ast, Ast::BinaryOp { op, .. } if comparison(op).is_some());
        let same = |ast: &Ast| {
            matches!(
                ast,
                Ast::BinaryOp {
                    op: BinaryOperator::StringConcat
                        | BinaryOperator::Arrow
                        | BinaryOperator::LongArrow
                        | BinaryOperator::HashArrow
                        | BinaryOperator::HashLongArrow,
                    ..
                } | Ast::Like { .. }
                    | Ast::ILike { .. }
                    | Ast::Between { .. }
                    | Ast::InList { .. }
            )
        };
        if weaker(left)
            || same(right)
            || matches!(left, Ast::Like { .. } | Ast::ILike { .. } | Ast::Between { .. })
        {
            return Err(Fault::new(span, format!("what {name} is about is not clear"))
                .hint("put brackets around its sides"));
        }
        let (a, b) = (self.expr(left)?, self.expr(right)?);
        let regex = self.regex(b, flags, false)?;
        let args = vec![self.coerce(a, Kind::Text)?];
        self.special(name, args, Kind::Bool, Special::Matches { regex, negated }, span)
    }
}
