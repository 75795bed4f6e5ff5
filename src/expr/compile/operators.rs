//! Operators: which there are for which types, and what type comes out.

use std::ops::Range;

use sqlparser::ast::{BinaryOperator, Expr as Ast, UnaryOperator, Value as Literal};
use tidelock_core::DataType;

use super::{Compiler, Result, Typed};
use crate::expr::cell::Cell;
use crate::expr::error::Fault;
use crate::expr::functions::Native;
use crate::expr::kind::{self, Kind};
use crate::expr::number::Op;
use crate::expr::plan::{Comparison, Node, Special};
use crate::expr::{json, text};

/// Digits before and after the point that values of a number's type have at most, where that is known.
pub(super) fn digits(typed: &Typed) -> Option<(u32, u32)> {
    if let Some(Cell::Int(i)) = typed.constant() {
        return Some((i.unsigned_abs().checked_ilog10().unwrap_or(0) + 1, 0));
    }
    match &typed.data_type {
        DataType::Int { bits, .. } => Some((
            match bits {
                0..=8 => 3,
                9..=16 => 5,
                17..=24 => 8,
                25..=32 => 10,
                _ => 20,
            },
            0,
        )),
        DataType::Year => Some((4, 0)),
        DataType::Decimal { precision: Some(p), scale: Some(s) } => {
            Some((u32::from(*p).saturating_sub(u32::from(*s)), u32::from(*s)))
        }
        _ => None,
    }
}

/// The type of numbers with so many digits.
pub(super) fn decimal((whole, fraction): (u32, u32)) -> DataType {
    match (u16::try_from(whole + fraction), u16::try_from(fraction)) {
        (Ok(precision), Ok(scale)) if precision <= 1_000 => {
            DataType::Decimal { precision: Some(precision), scale: Some(scale) }
        }
        _ => DataType::Decimal { precision: None, scale: None },
    }
}

/// What holds values of both.
pub(super) fn wider(kind: Kind, a: &Typed, b: &Typed) -> DataType {
    match kind {
        Kind::Numeric => match (digits(a), digits(b)) {
            (Some((wa, fa)), Some((wb, fb))) => decimal((wa.max(wb), fa.max(fb))),
            _ => kind.data_type(),
        },
        Kind::Text => kind::text(chars(a).zip(chars(b)).map(|(a, b)| a.max(b))),
        _ if a.data_type == b.data_type => a.data_type.clone(),
        _ => kind.data_type(),
    }
}

/// The most characters that a text can have, where that is known.
pub(super) fn chars(typed: &Typed) -> Option<u64> {
    match &typed.data_type {
        DataType::Text { chars_max, .. } => *chars_max,
        DataType::Enum { labels } => labels.iter().map(|l| l.chars().count() as u64).max(),
        DataType::Bool => Some(5),
        DataType::Int { bits: 64, .. } => Some(20),
        DataType::Int { .. } => Some(11),
        DataType::Uuid => Some(36),
        _ => None,
    }
}

pub(super) fn comparison(op: &BinaryOperator) -> Option<Comparison> {
    Some(match op {
        BinaryOperator::Eq => Comparison::Eq,
        BinaryOperator::NotEq => Comparison::Ne,
        BinaryOperator::Lt => Comparison::Lt,
        BinaryOperator::LtEq => Comparison::Le,
        BinaryOperator::Gt => Comparison::Gt,
        BinaryOperator::GtEq => Comparison::Ge,
        _ => return None,
    })
}

fn is_match(op: &BinaryOperator) -> Option<(&'static str, &'static str, bool)> {
    Some(match op {
        BinaryOperator::PGRegexMatch => ("~", "", false),
        BinaryOperator::PGRegexIMatch => ("~*", "i", false),
        BinaryOperator::PGRegexNotMatch => ("!~", "", true),
        BinaryOperator::PGRegexNotIMatch => ("!~*", "i", true),
        _ => return None,
    })
}

/// The type that `+` or `-` of two times gives.
fn temporal(plus: bool, a: Kind, b: Kind) -> Option<Kind> {
    use Kind as K;
    let int = |k: Kind| matches!(k, K::Int2 | K::Int4);
    Some(match (a, b) {
        (K::Date, n) if int(n) => K::Date,
        (n, K::Date) if plus && int(n) => K::Date,
        (K::Date, K::Date) if !plus => K::Int4,
        (K::Date, K::Time) | (K::Time, K::Date) if plus => K::Stamp,
        (K::Date, K::Interval) => K::Stamp,
        (K::Interval, K::Date) if plus => K::Stamp,
        (K::Stamp | K::Instant | K::Time | K::Interval, K::Interval) => a,
        (K::Interval, K::Stamp | K::Instant | K::Time) if plus => b,
        (K::Stamp, K::Stamp) | (K::Instant, K::Instant) | (K::Time, K::Time) if !plus => {
            K::Interval
        }
        (K::Date | K::Stamp | K::Instant, K::Date | K::Stamp | K::Instant) if !plus => K::Interval,
        _ => return None,
    })
}

impl Compiler<'_> {
    pub(super) fn operator(&mut self, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        match ast {
            Ast::BinaryOp { left, op, right } => self.binary(ast, left, op, right, span),
            Ast::UnaryOp { op, expr } => self.unary(*op, expr, span),
            Ast::IsNull(e) => self.is_null(e, false, span),
            Ast::IsNotNull(e) => self.is_null(e, true, span),
            Ast::IsTrue(e) => self.is(e, Some(true), false, span),
            Ast::IsNotTrue(e) => self.is(e, Some(true), true, span),
            Ast::IsFalse(e) => self.is(e, Some(false), false, span),
            Ast::IsNotFalse(e) => self.is(e, Some(false), true, span),
            Ast::IsUnknown(e) => self.is(e, None, false, span),
            Ast::IsNotUnknown(e) => self.is(e, None, true, span),
            Ast::IsDistinctFrom(a, b) => self.distinct(a, b, false, span),
            Ast::IsNotDistinctFrom(a, b) => self.distinct(a, b, true, span),
            Ast::InList { expr, list, negated } => self.in_list(expr, list, *negated, span),
            Ast::Between { expr, negated, low, high } => {
                let (value, low, high) = (self.expr(expr)?, self.expr(low)?, self.expr(high)?);
                let above = self.compare(Comparison::Ge, value.clone(), low, span.clone())?;
                let below = self.compare(Comparison::Le, value, high, span.clone())?;
                let both = self.junction(vec![above, below], false, span.clone())?;
                if *negated { self.not(both, span) } else { Ok(both) }
            }
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), false, *negated, span)
            }
            Ast::ILike { negated, any: false, expr, pattern, escape_char } => {
                self.like(expr, pattern, escape_char.as_deref(), true, *negated, span)
            }
            Ast::SimilarTo { .. } => Err(Fault::new(span, "SIMILAR TO is not supported")
                .hint("write a regular expression: x ~ 'pattern'")),
            Ast::Subquery(_) | Ast::Exists { .. } | Ast::InSubquery { .. } => {
                Err(Fault::new(span, "queries are not supported in expressions")
                    .hint("use a view as the source, dictionary(…) or lookup(…)"))
            }
            Ast::Tuple(_) => Err(Fault::new(span, "a list of values is not a value")
                .hint("lists may stand after IN, in dictionary(…) and in lookup(…)")),
            Ast::Collate { .. } => {
                Err(Fault::new(span, "COLLATE is not supported")
                    .hint("text is compared by code point"))
            }
            Ast::Array(_)
            | Ast::AnyOp { .. }
            | Ast::AllOp { .. }
            | Ast::CompoundFieldAccess { .. } => Err(Fault::new(span, "arrays are not supported")
                .hint("write x IN (1, 2, 3), or take json apart with ->")),
            _ => Err(Fault::new(span, "this syntax is not supported")),
        }
    }

    pub(super) fn binary(
        &mut self,
        ast: &Ast,
        left: &Ast,
        op: &BinaryOperator,
        right: &Ast,
        span: Range<usize>,
    ) -> Result<Typed> {
        if matches!(op, BinaryOperator::And | BinaryOperator::Or) {
            return self.chain(left, op, right, span);
        }
        if let Some((name, flags, negated)) = is_match(op) {
            return self.matches(left, right, (name, flags, negated), span);
        }
        // A chain is as deep as it is long, so it is not followed by recursion.
        let mut links = Vec::new();
        let mut first = ast;
        while let Ast::BinaryOp { left, op, right } = first {
            if matches!(op, BinaryOperator::And | BinaryOperator::Or) || is_match(op).is_some() {
                break;
            }
            links.push((first, op, &**right));
            if comparison(op).is_some()
                && matches!(&**left, Ast::BinaryOp { op: inner, .. } if comparison(inner).is_some())
            {
                return Err(Fault::new(self.span(first), "comparisons cannot be chained")
                    .hint("write a < b AND b < c"));
            }
            first = left;
        }
        let depth = links.len();
        self.deeper(depth, ast)?;
        let mut value = self.expr(first)?;
        for (link, op, right) in links.into_iter().rev() {
            let right = self.expr(right)?;
            let span = self.span(link);
            value = Typed { span: span.clone(), ..self.combined(value, op, right, span)? };
        }
        self.depth -= depth;
        Ok(value)
    }

    pub(super) fn combined(
        &mut self,
        a: Typed,
        op: &BinaryOperator,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        if let Some(op) = comparison(op) {
            return self.compare(op, a, b, span);
        }
        let escape = Some('\\');
        match op {
            BinaryOperator::Plus => self.arithmetic(Op::Add, a, b, span),
            BinaryOperator::Minus => self.arithmetic(Op::Sub, a, b, span),
            BinaryOperator::Multiply => self.arithmetic(Op::Mul, a, b, span),
            BinaryOperator::Divide => self.arithmetic(Op::Div, a, b, span),
            BinaryOperator::Modulo => self.arithmetic(Op::Rem, a, b, span),
            BinaryOperator::StringConcat => self.concat(a, b, span),
            BinaryOperator::Arrow => self.arrow("->", Kind::Json, json::arrow, a, b, span),
            BinaryOperator::LongArrow => {
                self.arrow("->>", Kind::Text, json::arrow_text, a, b, span)
            }
            BinaryOperator::HashArrow => self.json_path("#>", Kind::Json, json::path, a, b, span),
            BinaryOperator::HashLongArrow => {
                self.json_path("#>>", Kind::Text, json::path_text, a, b, span)
            }
            BinaryOperator::PGStartsWith => {
                let args = vec![self.coerce(a, Kind::Text)?, self.coerce(b, Kind::Text)?];
                self.native("^@", args, Kind::Bool, text::starts_with, span)
            }
            BinaryOperator::PGLikeMatch => self.like_typed(a, b, escape, false, false, span),
            BinaryOperator::PGILikeMatch => self.like_typed(a, b, escape, true, false, span),
            BinaryOperator::PGNotLikeMatch => self.like_typed(a, b, escape, false, true, span),
            BinaryOperator::PGNotILikeMatch => self.like_typed(a, b, escape, true, true, span),
            BinaryOperator::PGExp | BinaryOperator::BitwiseXor => {
                Err(Fault::new(span, "the operator ^ is not supported").hint("write power(x, y)"))
            }
            other => Err(Fault::new(span, format!("the operator {other} is not supported"))),
        }
    }

    /// A strict function as a node, computed at once if its arguments are constant.
    pub(super) fn native(
        &mut self,
        name: &'static str,
        args: Vec<Typed>,
        kind: Kind,
        run: Native,
        span: Range<usize>,
    ) -> Result<Typed> {
        let nullable = args.iter().any(|a| a.nullable);
        let nodes = args.iter().map(|a| a.node.clone()).collect();
        let node = Node::Call { name, args: nodes, run, lax: false, span: span.clone() };
        self.strict(self.made(node, kind, nullable, span), &args)
    }

    /// The same for an operation with settled parameters.
    pub(super) fn special(
        &mut self,
        name: &'static str,
        args: Vec<Typed>,
        kind: Kind,
        what: Special,
        span: Range<usize>,
    ) -> Result<Typed> {
        let nullable = args.iter().any(|a| a.nullable);
        let nodes = args.iter().map(|a| a.node.clone()).collect();
        let masks = matches!(what, Special::Mask(_));
        let node = Node::Special { name, args: nodes, what, span: span.clone() };
        let made = self.made(node, kind, nullable, span);
        // The key of masks is not known yet.
        if masks { Ok(made) } else { self.strict(made, &args) }
    }

    /// `a AND b AND c` as one list.
    pub(super) fn chain(
        &mut self,
        left: &Ast,
        op: &BinaryOperator,
        right: &Ast,
        span: Range<usize>,
    ) -> Result<Typed> {
        let mut parts = vec![right];
        let mut rest = left;
        while let Ast::BinaryOp { left, op: inner, right } = rest {
            if inner != op {
                break;
            }
            parts.push(right);
            rest = left;
        }
        parts.push(rest);
        let mut args = Vec::with_capacity(parts.len());
        for part in parts.into_iter().rev() {
            args.push(self.condition(part)?);
        }
        self.junction(args, *op == BinaryOperator::Or, span)
    }

    pub(super) fn junction(
        &mut self,
        args: Vec<Typed>,
        or: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        // A constant that decides it decides it, wherever it stands.
        if args.iter().any(|a| matches!(a.constant(), Some(Cell::Bool(b)) if *b == or)) {
            return Ok(self.constant(Cell::Bool(or), Kind::Bool, span));
        }
        let constant = args.iter().all(|a| a.constant().is_some());
        let nullable = args.iter().any(|a| a.nullable);
        let args = args.into_iter().map(|a| a.node).collect();
        let node = if or { Node::Or(args) } else { Node::And(args) };
        self.folded(self.made(node, Kind::Bool, nullable, span), constant)
    }

    pub(super) fn not(&mut self, arg: Typed, span: Range<usize>) -> Result<Typed> {
        let (constant, nullable) = (arg.constant().is_some(), arg.nullable);
        self.folded(self.made(Node::Not(Box::new(arg.node)), Kind::Bool, nullable, span), constant)
    }

    pub(super) fn unary(
        &mut self,
        op: UnaryOperator,
        expr: &Ast,
        span: Range<usize>,
    ) -> Result<Typed> {
        match op {
            UnaryOperator::Not => {
                let arg = self.condition(expr)?;
                self.not(arg, span)
            }
            UnaryOperator::Plus | UnaryOperator::Minus => {
                // The least integer of a type has no positive one, so a sign belongs to the literal.
                if let (UnaryOperator::Minus, Ast::Value(value)) = (op, expr)
                    && let Literal::Number(digits, false) = &value.value
                {
                    return self.number(&format!("-{digits}"), span);
                }
                let arg = self.expr(expr)?;
                let kind = arg.kind;
                if !(kind.is_number() || (kind == Kind::Interval && op == UnaryOperator::Minus)) {
                    return Err(Fault::new(
                        arg.span.clone(),
                        format!("this is {}, a number is expected", arg.shown()),
                    ));
                }
                if op == UnaryOperator::Plus {
                    return Ok(Typed { span, ..arg });
                }
                let data_type = arg.data_type.clone();
                let negated = self.special("-", vec![arg], kind, Special::Negate(kind), span)?;
                Ok(if kind == Kind::Numeric { Typed { data_type, ..negated } } else { negated })
            }
            other => Err(Fault::new(span, format!("the operator {other} is not supported"))),
        }
    }

    pub(super) fn is_null(
        &mut self,
        expr: &Ast,
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let arg = self.leniently(expr)?;
        let constant = arg.constant().is_some();
        let node = Node::IsNull { arg: Box::new(arg.node), negated };
        self.folded(self.made(node, Kind::Bool, false, span), constant)
    }

    pub(super) fn is(
        &mut self,
        expr: &Ast,
        truth: Option<bool>,
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let arg = self.condition(expr)?;
        let constant = arg.constant().is_some();
        let node = Node::Is { arg: Box::new(arg.node), truth, negated };
        self.folded(self.made(node, Kind::Bool, false, span), constant)
    }

    /// Both sides made ready to be compared with each other.
    pub(super) fn comparable(
        &mut self,
        a: Typed,
        b: Typed,
        ordered: bool,
        span: &Range<usize>,
    ) -> Result<(Typed, Typed)> {
        let kind = match (a.kind, b.kind) {
            (Kind::Unknown, Kind::Unknown) => Some(Kind::Text),
            (a, b) => a.common(b),
        };
        let Some(kind) = kind else {
            let hint = match (a.kind, b.kind) {
                (x, y) if x.is_number() && y.is_text() => {
                    format!("cast one of them: (…)::{x} or (…)::text")
                }
                (x, y) if y.is_number() && x.is_text() => {
                    format!("cast one of them: (…)::{y} or (…)::text")
                }
                (Kind::Bool, y) if y.is_number() => "write x, or NOT x".to_owned(),
                (Kind::Json, _) | (_, Kind::Json) => {
                    "take a value out of it with ->> and cast that".to_owned()
                }
                _ => String::new(),
            };
            return Err(Fault::new(
                span.clone(),
                format!("{} and {} cannot be compared", a.shown(), b.shown()),
            )
            .hint(hint));
        };
        match kind {
            Kind::Json => {
                return Err(Fault::new(span.clone(), "json documents cannot be compared")
                    .hint("take a value out with ->>, or compare their text: (…)::text"));
            }
            Kind::Raw => {
                return Err(Fault::new(
                    span.clone(),
                    "values of a type that only its server knows cannot be compared",
                )
                .hint("compare their text: (…)::text"));
            }
            Kind::Label if ordered => {
                return Err(Fault::new(span.clone(), "labels of an enum have no order here")
                    .hint("cast them: (…)::text compares by letters"));
            }
            _ => {}
        }
        for side in [&a, &b] {
            self.warn_case(side);
        }
        if let (Some(text), DataType::Enum { labels }) = (b.text(), &a.data_type)
            && !labels.iter().any(|l| l == text)
        {
            let near = super::source::nearest(text, labels.iter().map(String::as_str));
            self.warnings.push(
                Fault::new(b.span.clone(), "the enum has no such label, so this is never true")
                    .hint(near.map_or(String::new(), |near| format!("did you mean '{near}'?"))),
            );
        }
        // Cells of different number types, and of dates and times, compare as they are.
        let as_is = |k: Kind| k == kind || (k != Kind::Unknown && kind != Kind::Interval);
        let (ka, kb) = (a.kind, b.kind);
        let a = if as_is(ka) { a } else { self.coerce(a, kind)? };
        let b = if as_is(kb) { b } else { self.coerce(b, kind)? };
        Ok((a, b))
    }

    pub(super) fn compare(
        &mut self,
        op: Comparison,
        a: Typed,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        let ordered = !matches!(op, Comparison::Eq | Comparison::Ne);
        let (a, b) = self.comparable(a, b, ordered, &span)?;
        let nullable = a.nullable || b.nullable;
        let args = [a, b];
        let nodes = Box::new(args.clone().map(|a| a.node));
        let node = Node::Compare { op, args: nodes, span: span.clone() };
        self.strict(self.made(node, Kind::Bool, nullable, span), &args)
    }

    pub(super) fn distinct(
        &mut self,
        a: &Ast,
        b: &Ast,
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        let (a, b) = self.comparable(a, b, false, &span)?;
        let constant = a.constant().is_some() && b.constant().is_some();
        let node = Node::Distinct { args: Box::new([a.node, b.node]), negated, span: span.clone() };
        self.folded(self.made(node, Kind::Bool, false, span), constant)
    }

    pub(super) fn in_list(
        &mut self,
        expr: &Ast,
        list: &[Ast],
        negated: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let mut sought = self.expr(expr)?;
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            items.push(self.expr(item)?);
        }
        if sought.kind == Kind::Unknown {
            let kind =
                items.iter().map(|i| i.kind).find(|k| *k != Kind::Unknown).unwrap_or(Kind::Text);
            sought = self.coerce(sought, kind)?;
        }
        if let Some(Cell::Null) = sought.constant() {
            return Ok(self.constant(Cell::Null, Kind::Bool, span));
        }
        // Several constants are looked at first, as PostgreSQL does: what they decide cannot fail any more. It gives them
        // one type, so decimals among them are as exact as a real that is sought.
        if items.iter().filter(|item| item.constant().is_some()).count() > 1 {
            items.sort_by_key(|item| item.constant().is_none());
            let double = |item: &Typed| item.constant().is_some() && item.kind == Kind::Double;
            if sought.kind == Kind::Real && !items.iter().any(double) {
                for item in items.iter_mut().filter(|item| item.constant().is_some()) {
                    *item = self.coerce(item.clone(), Kind::Real)?;
                }
            }
        }
        let mut nodes = Vec::with_capacity(items.len());
        let mut constant = sought.constant().is_some();
        let mut nullable = sought.nullable;
        for item in items {
            let place = item.span.clone();
            // The sought value keeps its form: every item is brought to it, or compares as it is.
            let (_, item) = self.comparable(sought.clone(), item, false, &place)?;
            constant &= item.constant().is_some();
            nullable |= item.nullable;
            nodes.push(item.node);
        }
        // A constant that is found among constants is found, whatever the others are.
        if sought.constant().is_some() && !constant {
            let settled: Vec<Node> =
                nodes.iter().filter(|n| matches!(n, Node::Const(_))).cloned().collect();
            let arg = Box::new(sought.node.clone());
            let node = Node::In { arg, list: settled, negated, span: span.clone() };
            let found = self.folded(self.made(node, Kind::Bool, true, span.clone()), true)?;
            if matches!(found.constant(), Some(Cell::Bool(b)) if *b != negated) {
                return Ok(found);
            }
        }
        let node =
            Node::In { arg: Box::new(sought.node), list: nodes, negated, span: span.clone() };
        self.folded(self.made(node, Kind::Bool, nullable, span), constant)
    }

    pub(super) fn arithmetic(
        &mut self,
        op: Op,
        a: Typed,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        let (a, b) = match (a.kind, b.kind) {
            (Kind::Unknown, k) if k.is_number() => (self.coerce(a, k)?, b),
            (k, Kind::Unknown) if k.is_number() => {
                let b = self.coerce(b, k)?;
                (a, b)
            }
            (Kind::Stamp | Kind::Instant | Kind::Interval, Kind::Unknown) if op == Op::Add => {
                let b = self.coerce(b, Kind::Interval)?;
                (a, b)
            }
            (k @ (Kind::Stamp | Kind::Instant | Kind::Interval | Kind::Date), Kind::Unknown)
                if op == Op::Sub =>
            {
                let b = self.coerce(b, k)?;
                (a, b)
            }
            _ => (a, b),
        };
        let none = |a: &Typed, b: &Typed| {
            let hint = match (a.kind, b.kind, op) {
                (x, y, Op::Add)
                    if x.is_text() || y.is_text() || (x == Kind::Unknown && y == Kind::Unknown) =>
                {
                    "|| joins texts; a number in a text is cast: (…)::numeric"
                }
                (x, y, _) if x.is_text() || y.is_text() => {
                    "a number in a text is cast: (…)::numeric"
                }
                (Kind::Date | Kind::Stamp | Kind::Instant, _, _) => {
                    "write a span as interval '1 day'"
                }
                (_, _, Op::Rem) => "cast to numeric: (…)::numeric",
                _ => "",
            };
            let message = format!("there is no {} for {} and {}", op.sign(), a.shown(), b.shown());
            Err(Fault::new(span.clone(), message).hint(hint))
        };
        if a.kind.is_number() && b.kind.is_number() {
            let kind = match a.kind.common(b.kind) {
                Some(Kind::Real) if a.kind != b.kind => Kind::Double,
                Some(kind) => kind,
                None => return none(&a, &b),
            };
            if op == Op::Rem && kind.is_float() {
                return none(&a, &b);
            }
            return self.calculated(op, kind, a, b, span);
        }
        let (plus, mul) = (op == Op::Add, matches!(op, Op::Mul | Op::Div));
        if mul
            && ((a.kind == Kind::Interval && b.kind.is_number())
                || (op == Op::Mul && a.kind.is_number() && b.kind == Kind::Interval))
        {
            return self.special(
                op.sign(),
                vec![a, b],
                Kind::Interval,
                Special::Scale { divide: op == Op::Div },
                span,
            );
        }
        if !matches!(op, Op::Add | Op::Sub) {
            return none(&a, &b);
        }
        let Some(kind) = temporal(plus, a.kind, b.kind) else { return none(&a, &b) };
        let (a, b) = match (a.kind, b.kind) {
            // Of two kinds of moments the one without zone becomes the other.
            (x, y) if kind == Kind::Interval && x != y && y != Kind::Interval => {
                let common = x.common(y).unwrap_or(Kind::Instant);
                let a = self.coerce(a, common)?;
                (a, self.coerce(b, common)?)
            }
            _ => (a, b),
        };
        self.special(op.sign(), vec![a, b], kind, Special::Temporal { plus }, span)
    }

    pub(super) fn calculated(
        &mut self,
        op: Op,
        kind: Kind,
        a: Typed,
        b: Typed,
        span: Range<usize>,
    ) -> Result<Typed> {
        let nullable = a.nullable || b.nullable;
        let known = digits(&a).zip(digits(&b));
        let data_type = match (kind, known, op) {
            (Kind::Numeric, Some(((wa, fa), (wb, fb))), Op::Add | Op::Sub) => {
                decimal((wa.max(wb) + 1, fa.max(fb)))
            }
            (Kind::Numeric, Some(((wa, fa), (wb, fb))), Op::Mul) => decimal((wa + wb, fa + fb)),
            (Kind::Numeric, Some(((wa, fa), (wb, fb))), Op::Rem) => {
                decimal((wa.min(wb), fa.max(fb)))
            }
            _ => kind.data_type(),
        };
        let args = [a, b];
        let nodes = Box::new(args.clone().map(|a| a.node));
        let node = Node::Arith { op, kind, args: nodes, span: span.clone() };
        let typed = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.strict(typed, &args)
    }

    pub(super) fn concat(&mut self, a: Typed, b: Typed, span: Range<usize>) -> Result<Typed> {
        if a.kind == Kind::Bytes || b.kind == Kind::Bytes {
            let a = self.coerce(a, Kind::Bytes)?;
            let b = self.coerce(b, Kind::Bytes)?;
            return self.native("||", vec![a, b], Kind::Bytes, text::join, span);
        }
        if let Some(raw) = [&a, &b].into_iter().find(|side| side.kind == Kind::Raw) {
            return Err(self.foreign(raw));
        }
        let texts = |k: Kind| k.is_text() || k == Kind::Unknown;
        if (!texts(a.kind) && !texts(b.kind)) || a.kind == Kind::Json || b.kind == Kind::Json {
            return Err(Fault::new(
                span,
                format!("there is no || for {} and {}", a.shown(), b.shown()),
            )
            .hint("|| joins texts; cast one of them: (…)::text"));
        }
        let most = chars(&a).zip(chars(&b)).map(|(a, b)| a + b);
        let a = if a.kind == Kind::Unknown { self.coerce(a, Kind::Text)? } else { a };
        let b = if b.kind == Kind::Unknown { self.coerce(b, Kind::Text)? } else { b };
        // A chain is joined at once.
        if let (Kind::Text, Node::Call { name: "||", .. }) = (a.kind, &a.node)
            && !matches!(b.constant(), Some(Cell::Null))
        {
            let nullable = a.nullable || b.nullable;
            let Node::Call { name, mut args, run, lax, .. } = a.node else { return Ok(a) };
            args.push(b.node);
            let node = Node::Call { name, args, run, lax, span: span.clone() };
            let data_type = kind::text(most);
            return Ok(Typed { data_type, ..self.made(node, Kind::Text, nullable, span) });
        }
        let joined = self.native("||", vec![a, b], Kind::Text, text::join, span)?;
        Ok(Typed { data_type: kind::text(most), ..joined })
    }
}
