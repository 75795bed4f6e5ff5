//! A value on its way through an expression: as [`Value`], but numbers are ready to compute with, and text of the row
//! or of the expression is borrowed.

use std::cmp::Ordering;
use std::ops::Deref;

use tidelock_core::value::DAY_MICROS;
use tidelock_core::value::{Date, Instant, Interval, Time, Timestamp};
use tidelock_core::{ByteString, Bytes, Value, form};

use super::decimal::Dec;
use super::kind::Kind;

/// Text that is somebody else's, or made here.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Ref(&'a ByteString),
    Own(ByteString),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Ref(text) => text,
            Text::Own(text) => text,
        }
    }
}

impl<'a> Text<'a> {
    /// The text by itself; shares its memory.
    pub fn own(self) -> ByteString {
        match self {
            Text::Ref(text) => text.clone(),
            Text::Own(text) => text,
        }
    }

    /// A part of this very text, without a copy of it.
    pub fn part(&self, part: &str) -> Text<'a> {
        if part.len() == self.len() {
            return self.clone();
        }
        if part.is_empty() {
            return Text::Own(ByteString::new());
        }
        match self {
            Text::Ref(text) => Text::Own(text.slice_ref(part)),
            Text::Own(text) => Text::Own(text.slice_ref(part)),
        }
    }
}

/// One value.
#[derive(Debug, Clone)]
pub enum Cell<'a> {
    Null,
    /// Not in the log.
    Unchanged,
    Bool(bool),
    Int(i64),
    Dec(Dec),
    Real(f32),
    Double(f64),
    Text(Text<'a>),
    Bytes(Bytes),
    Date(i32),
    Time(i64),
    Stamp(i64),
    Instant(i64),
    Interval(Interval),
    Uuid([u8; 16]),
    Json(Text<'a>),
    /// A value that is only handed on: of a type that only its server knows, or without canonical form.
    Raw(&'a Value),
}

impl<'a> Cell<'a> {
    /// The cell of a column of this type.
    pub fn load(value: &'a Value, kind: Kind) -> Cell<'a> {
        let exact = kind == Kind::Numeric;
        match value {
            Value::Null => Cell::Null,
            Value::Unchanged => Cell::Unchanged,
            _ if kind == Kind::Raw => Cell::Raw(value),
            Value::Bool(b) => Cell::Bool(*b),
            Value::Int(i) if exact => Cell::Dec(Dec::from(*i)),
            Value::Int(i) => Cell::Int(*i),
            Value::UInt(u) => match i64::try_from(*u) {
                Ok(i) if !exact => Cell::Int(i),
                _ => Cell::Dec(Dec::from(*u)),
            },
            Value::Decimal(text) => Dec::parse(text).map_or(Cell::Raw(value), Cell::Dec),
            Value::Float32(f) => Cell::Real(*f),
            Value::Float64(f) => Cell::Double(*f),
            Value::Text(text) if kind == Kind::Char && text.ends_with(' ') => {
                Cell::Text(Text::Ref(text).part(text.trim_end_matches(' ')))
            }
            Value::Text(text) | Value::Enum(text) => Cell::Text(Text::Ref(text)),
            Value::Bytes(bytes) => Cell::Bytes(bytes.clone()),
            Value::Date(Date(d)) => Cell::Date(*d),
            Value::Time(Time(t)) if kind == Kind::Interval => {
                Cell::Interval(Interval { months: 0, days: 0, micros: *t })
            }
            Value::Time(Time(t)) => Cell::Time(*t),
            Value::Timestamp(Timestamp(t)) => Cell::Stamp(*t),
            Value::Instant(Instant(t)) => Cell::Instant(*t),
            Value::Interval(i) => Cell::Interval(*i),
            Value::Uuid(u) => Cell::Uuid(*u),
            Value::Json(text) => Cell::Json(Text::Ref(text)),
            Value::Foreign(_) => Cell::Raw(value),
        }
    }

    /// The canonical value.
    pub fn into_value(self) -> Value {
        match self {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Bool(b) => Value::Bool(b),
            Cell::Int(i) => Value::Int(i),
            Cell::Dec(d) => Value::Decimal(d.text()),
            Cell::Real(f) => Value::Float32(f),
            Cell::Double(f) => Value::Float64(f),
            Cell::Text(t) => Value::Text(t.own()),
            Cell::Bytes(b) => Value::Bytes(b),
            Cell::Date(d) => Value::Date(Date(d)),
            Cell::Time(t) => Value::Time(Time(t)),
            Cell::Stamp(t) => Value::Timestamp(Timestamp(t)),
            Cell::Instant(t) => Value::Instant(Instant(t)),
            Cell::Interval(i) => Value::Interval(i),
            Cell::Uuid(u) => Value::Uuid(u),
            Cell::Json(t) => Value::Json(t.own()),
            Cell::Raw(value) => value.clone(),
        }
    }

    /// The same, borrowed from here.
    pub fn lend(&'a self) -> Cell<'a> {
        match self {
            Cell::Text(Text::Own(text)) => Cell::Text(Text::Ref(text)),
            Cell::Json(Text::Own(text)) => Cell::Json(Text::Ref(text)),
            other => other.clone(),
        }
    }

    /// The same without a borrow; `None` for what only a row can lend.
    pub fn detach(self) -> Option<Cell<'static>> {
        Some(match self {
            Cell::Raw(_) => return None,
            Cell::Text(text) => Cell::Text(Text::Own(text.own())),
            Cell::Json(text) => Cell::Json(Text::Own(text.own())),
            Cell::Null => Cell::Null,
            Cell::Unchanged => Cell::Unchanged,
            Cell::Bool(b) => Cell::Bool(b),
            Cell::Int(i) => Cell::Int(i),
            Cell::Dec(d) => Cell::Dec(d),
            Cell::Real(f) => Cell::Real(f),
            Cell::Double(f) => Cell::Double(f),
            Cell::Bytes(b) => Cell::Bytes(b),
            Cell::Date(d) => Cell::Date(d),
            Cell::Time(t) => Cell::Time(t),
            Cell::Stamp(t) => Cell::Stamp(t),
            Cell::Instant(t) => Cell::Instant(t),
            Cell::Interval(i) => Cell::Interval(i),
            Cell::Uuid(u) => Cell::Uuid(u),
        })
    }

    pub fn text(text: impl Into<ByteString>) -> Cell<'static> {
        Cell::Text(Text::Own(text.into()))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Cell::Null)
    }

    pub fn is_unchanged(&self) -> bool {
        matches!(self, Cell::Unchanged)
    }

    /// Any number as an exact one; a float is none.
    pub fn dec(&self) -> Option<Dec> {
        match self {
            Cell::Int(i) => Some(Dec::from(*i)),
            Cell::Dec(d) => Some(d.clone()),
            _ => None,
        }
    }

    /// Any number in double precision.
    pub fn double(&self) -> Option<f64> {
        match self {
            Cell::Int(i) => Some(*i as f64),
            Cell::Dec(d) => Some(d.to_f64()),
            Cell::Real(f) => Some(f64::from(*f)),
            Cell::Double(f) => Some(*f),
            _ => None,
        }
    }

    /// The text form, as a cast to text gives it; `None` for NULL and what is not in the log.
    pub fn form(&self) -> Option<Text<'a>> {
        match self {
            Cell::Text(text) | Cell::Json(text) => Some(text.clone()),
            Cell::Raw(value) => form::text(value).map(|t| Text::Own(t.into_owned().into())),
            Cell::Dec(d) => Some(Text::Own(d.text())),
            other => {
                let value = other.clone().into_value();
                form::text(&value).map(|t| Text::Own(t.into_owned().into()))
            }
        }
    }

    /// How two values of types that compare stand to each other; `None` if they do not compare.
    pub fn compare(&self, other: &Cell<'_>) -> Option<Ordering> {
        Some(match (self, other) {
            (Cell::Int(a), Cell::Int(b)) => a.cmp(b),
            (Cell::Text(a), Cell::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Cell::Dec(a), Cell::Dec(b)) => a.compare(b),
            (Cell::Dec(a), Cell::Int(b)) => a.compare(&Dec::from(*b)),
            (Cell::Int(a), Cell::Dec(b)) => Dec::from(*a).compare(b),
            (Cell::Bool(a), Cell::Bool(b)) => a.cmp(b),
            (Cell::Bytes(a), Cell::Bytes(b)) => a.cmp(b),
            (Cell::Uuid(a), Cell::Uuid(b)) => a.cmp(b),
            (Cell::Interval(a), Cell::Interval(b)) => span(*a).cmp(&span(*b)),
            (Cell::Date(a), Cell::Date(b)) => a.cmp(b),
            (Cell::Time(a), Cell::Time(b))
            | (Cell::Stamp(a), Cell::Stamp(b))
            | (Cell::Instant(a), Cell::Instant(b)) => a.cmp(b),
            (Cell::Date(a), Cell::Stamp(b) | Cell::Instant(b)) => day(*a).cmp(&i128::from(*b)),
            (Cell::Stamp(a) | Cell::Instant(a), Cell::Date(b)) => i128::from(*a).cmp(&day(*b)),
            (Cell::Stamp(a), Cell::Instant(b)) | (Cell::Instant(a), Cell::Stamp(b)) => a.cmp(b),
            (a, b) => float_order(a.double()?, b.double()?),
        })
    }
}

/// NaN is equal to itself and greater than all.
pub fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Midnight of a day in microseconds, infinities kept apart.
fn day(days: i32) -> i128 {
    match Date(days) {
        Date::INFINITY => i128::from(i64::MAX),
        Date::NEG_INFINITY => i128::from(i64::MIN),
        Date(days) => i128::from(days) * i128::from(DAY_MICROS),
    }
}

/// The length that spans are compared by: months of 30 days, days of 24 hours.
pub fn span(i: Interval) -> i128 {
    (i128::from(i.months) * 30 + i128::from(i.days)) * i128::from(DAY_MICROS) + i128::from(i.micros)
}
