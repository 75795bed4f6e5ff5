//! Casts, typed literals and the names of types.

use sqlparser::ast::{
    CastKind, CharacterLength, DataType as Type, DateTimeField, ExactNumberInfo, Expr as Ast,
    TimezoneInfo,
};

use super::{Compiler, Result, Typed};
use crate::expr::cast::{Limit, Target};
use crate::expr::cell::Cell;
use crate::expr::datetime;
use crate::expr::error::Fault;
use crate::expr::functions;
use crate::expr::kind::Kind;
use crate::expr::plan::Node;

const NAMES: &str = "types are boolean, smallint, integer, bigint, numeric(p,s), real, double precision, text, \
                     varchar(n), char(n), bytea, date, time, timestamp, timestamptz, interval, uuid, json, jsonb";

/// The type that is meant; `None` if there is none of that name.
fn target(data_type: &Type) -> Option<Target> {
    let fraction = |kind: Kind, digits: &Option<u64>| match digits {
        None => Some(Target::plain(kind)),
        Some(n) => Some(Target { kind, limit: Limit::Fraction(u8::try_from(*n).ok()?.min(6)) }),
    };
    let numeric = |info: &ExactNumberInfo| {
        let digits = |p: u64, s: i64| {
            let (precision, scale) = (u16::try_from(p).ok()?, u16::try_from(s).ok()?);
            let valid = (1..=1_000).contains(&precision) && scale <= 1_000;
            valid.then_some(Target {
                kind: Kind::Numeric,
                limit: Limit::Digits { precision, scale },
            })
        };
        match info {
            ExactNumberInfo::None => Some(Target::plain(Kind::Numeric)),
            ExactNumberInfo::Precision(p) => digits(*p, 0),
            ExactNumberInfo::PrecisionAndScale(p, s) => digits(*p, *s),
        }
    };
    let chars = |kind: Kind, length: &Option<CharacterLength>, default: Limit| match length {
        None => Some(Target { kind, limit: default }),
        Some(CharacterLength::IntegerLength { length, .. }) if *length > 0 => {
            Some(Target { kind, limit: Limit::Chars(*length) })
        }
        Some(_) => None,
    };
    match data_type {
        Type::Bool | Type::Boolean => Some(Target::plain(Kind::Bool)),
        Type::SmallInt(None) | Type::Int2(None) => Some(Target::plain(Kind::Int2)),
        Type::Int(None) | Type::Integer(None) | Type::Int4(None) => Some(Target::plain(Kind::Int4)),
        Type::BigInt(None) | Type::Int8(None) => Some(Target::plain(Kind::Int8)),
        Type::Numeric(info) | Type::Decimal(info) | Type::Dec(info) => numeric(info),
        Type::Real | Type::Float4 => Some(Target::plain(Kind::Real)),
        Type::Float(ExactNumberInfo::Precision(1..=24)) => Some(Target::plain(Kind::Real)),
        Type::DoublePrecision
        | Type::Float8
        | Type::Double(ExactNumberInfo::None)
        | Type::Float(ExactNumberInfo::None | ExactNumberInfo::Precision(25..=53)) => {
            Some(Target::plain(Kind::Double))
        }
        Type::Text => Some(Target::plain(Kind::Text)),
        Type::Varchar(n) | Type::CharacterVarying(n) | Type::CharVarying(n) => {
            chars(Kind::Text, n, Limit::None)
        }
        Type::Char(n) | Type::Character(n) => chars(Kind::Char, n, Limit::Chars(1)),
        Type::Bytea => Some(Target::plain(Kind::Bytes)),
        Type::Date => Some(Target::plain(Kind::Date)),
        Type::Time(n, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            fraction(Kind::Time, n)
        }
        Type::Timestamp(n, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            fraction(Kind::Stamp, n)
        }
        Type::Timestamp(n, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            fraction(Kind::Instant, n)
        }
        Type::Interval { fields: None, precision } => fraction(Kind::Interval, precision),
        Type::Uuid => Some(Target::plain(Kind::Uuid)),
        Type::JSON => Some(Target::plain(Kind::Json)),
        Type::JSONB => Some(Target { kind: Kind::Json, limit: Limit::Normal }),
        Type::Custom(name, modifiers) if modifiers.is_empty() => {
            match name.to_string().to_lowercase().as_str() {
                "timestamptz" => Some(Target::plain(Kind::Instant)),
                "bpchar" => Some(Target::plain(Kind::Char)),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Compiler<'_> {
    pub(super) fn cast(&mut self, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        match ast {
            Ast::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
                ..
            } => {
                let to = self.target(data_type, &span)?;
                let typed = self.expr(expr)?;
                self.cast_to(typed, to, span)
            }
            Ast::TypedString(typed) => {
                let to = self.target(&typed.data_type, &span)?;
                let literal = self.literal(&typed.value)?;
                self.converted(literal, to)
            }
            Ast::Interval(interval) => {
                let mut literal = self.expr(&interval.value)?;
                let Some(text) = literal.text().map(str::to_owned) else {
                    return Err(Fault::new(literal.span, "interval takes a text literal")
                        .hint("write interval '1 day', or x * interval '1 day'"));
                };
                let mut cut = None;
                if let Some(field) = &interval.leading_field {
                    let unit = unit(field).filter(|_| interval.last_field.is_none());
                    let plain = text.trim().parse::<f64>().is_ok();
                    let (Some(unit), true) = (unit, plain) else {
                        return Err(Fault::new(span, "this form of interval is not supported")
                            .hint("write the units in the text: interval '1 day 2 hours'"));
                    };
                    let with_unit = Cell::text(format!("{} {unit}", text.trim()));
                    literal = self.constant(with_unit, Kind::Unknown, span);
                    cut = Some(unit);
                }
                let mut typed = self.converted(literal, Target::plain(Kind::Interval))?;
                if let (Some(unit), Node::Const(Cell::Interval(i))) = (cut, &mut typed.node) {
                    *i = datetime::cut_off(*i, unit);
                }
                Ok(typed)
            }
            _ => Err(Fault::new(span, "this form of cast is not supported")
                .hint("write x::type or CAST(x AS type)")),
        }
    }

    pub(super) fn cast_to(
        &mut self,
        typed: Typed,
        to: Target,
        span: std::ops::Range<usize>,
    ) -> Result<Typed> {
        if typed.kind == to.kind && to.limit == Limit::None {
            return Ok(typed);
        }
        if !typed.kind.casts(to.kind) {
            let hint = match (typed.kind, to.kind) {
                (Kind::Bool, k) if k.is_number() => "cast to integer first: (…)::integer",
                (k, Kind::Bool) if k.is_number() => "compare it: x <> 0",
                _ => "",
            };
            return Err(Fault::new(
                span,
                format!("{} cannot be cast to {}", typed.shown(), to.kind),
            )
            .hint(hint));
        }
        // A literal that does not fit is underlined alone, a value with its cast.
        let place = if typed.kind == Kind::Unknown { typed.span.clone() } else { span };
        let mut converted = self.converted(Typed { span: place, ..typed }, to)?;
        if to.limit == Limit::None && to.kind == Kind::Text {
            // Unlimited is what was asked for, whatever came in.
            converted.data_type = match converted.data_type {
                limited @ tidelock_core::DataType::Text { .. } => limited,
                _ => to.data_type(),
            };
        }
        Ok(converted)
    }

    fn target(&self, data_type: &Type, span: &std::ops::Range<usize>) -> Result<Target> {
        target(data_type).ok_or_else(|| {
            let name = data_type.to_string().to_lowercase();
            let near = super::source::nearest(&name, TYPES.iter().copied());
            Fault::new(span.clone(), format!("there is no type {name} in expressions"))
                .hint(near.map_or_else(|| NAMES.to_owned(), |near| format!("did you mean {near}?")))
        })
    }

    /// The names of all functions.
    pub(super) fn function_names() -> impl Iterator<Item = &'static str> {
        functions::FUNCTIONS.iter().map(|f| f.name).chain(functions::SPECIAL.iter().copied())
    }
}

const TYPES: &[&str] = &[
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "real",
    "double precision",
    "text",
    "varchar",
    "char",
    "bytea",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "jsonb",
];

fn unit(field: &DateTimeField) -> Option<&'static str> {
    Some(match field {
        DateTimeField::Year | DateTimeField::Years => "years",
        DateTimeField::Month | DateTimeField::Months => "months",
        DateTimeField::Week(None) | DateTimeField::Weeks => "weeks",
        DateTimeField::Day | DateTimeField::Days => "days",
        DateTimeField::Hour | DateTimeField::Hours => "hours",
        DateTimeField::Minute | DateTimeField::Minutes => "minutes",
        DateTimeField::Second | DateTimeField::Seconds => "seconds",
        _ => return None,
    })
}
