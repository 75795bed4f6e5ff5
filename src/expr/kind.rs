//! The types of expressions, and which of them turn into which.
//!
//! These are PostgreSQL's types, fewer than the canonical ones: a `mediumint unsigned` of MySQL is an `integer` here. An
//! unsigned number of 64 bits has no place in `bigint`; it is a `numeric`, which holds it whole.

use std::fmt;

use tidelock_core::{DataType, Repertoire};

/// The type of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bare string literal or NULL: becomes what its place asks for.
    Unknown,
    Bool,
    Int2,
    Int4,
    Int8,
    Numeric,
    Real,
    Double,
    Text,
    /// `char(n)`: blanks at the end carry no meaning.
    Char,
    Bytes,
    Date,
    Time,
    Stamp,
    Instant,
    Interval,
    Uuid,
    Json,
    /// A label (or several, of a set): text, but without an order.
    Label,
    /// A string of bits.
    Bits,
    /// Only handed on.
    Raw,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Unknown => "unknown",
            Kind::Bool => "boolean",
            Kind::Int2 => "smallint",
            Kind::Int4 => "integer",
            Kind::Int8 => "bigint",
            Kind::Numeric => "numeric",
            Kind::Real => "real",
            Kind::Double => "double precision",
            Kind::Text => "text",
            Kind::Char => "character",
            Kind::Bytes => "bytea",
            Kind::Date => "date",
            Kind::Time => "time",
            Kind::Stamp => "timestamp",
            Kind::Instant => "timestamptz",
            Kind::Interval => "interval",
            Kind::Uuid => "uuid",
            Kind::Json => "json",
            Kind::Label => "enum",
            Kind::Bits => "bit string",
            Kind::Raw => "a type that only its server knows",
        })
    }
}

/// Text without limits.
pub fn text(chars_max: Option<u64>) -> DataType {
    DataType::Text { chars_max, bytes_max: None, repertoire: Repertoire::Unicode, padded: false }
}

impl Kind {
    /// The type that a column's values have in expressions.
    pub fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Bool => Kind::Bool,
            DataType::Int { bits, unsigned } => match (bits, unsigned) {
                (0..=8, _) | (9..=16, false) => Kind::Int2,
                (9..=16, true) | (17..=24, _) | (25..=32, false) => Kind::Int4,
                (25..=32, true) | (33.., false) => Kind::Int8,
                (33.., true) => Kind::Numeric,
            },
            DataType::Decimal { .. } => Kind::Numeric,
            DataType::Float32 | DataType::RoundedFloat { double: false, .. } => Kind::Real,
            DataType::Float64 | DataType::RoundedFloat { double: true, .. } => Kind::Double,
            DataType::Text { padded: true, .. } => Kind::Char,
            DataType::Text { padded: false, .. } => Kind::Text,
            DataType::Bytes { .. } => Kind::Bytes,
            DataType::Date => Kind::Date,
            DataType::Time { span: false, .. } => Kind::Time,
            DataType::Time { span: true, .. } | DataType::Interval { .. } => Kind::Interval,
            DataType::Timestamp { .. } => Kind::Stamp,
            DataType::Instant { .. } => Kind::Instant,
            DataType::Year => Kind::Int4,
            DataType::Uuid => Kind::Uuid,
            DataType::Json => Kind::Json,
            DataType::Enum { .. } | DataType::Set { .. } => Kind::Label,
            DataType::Bits { .. } => Kind::Bits,
            DataType::Address { .. }
            | DataType::Opaque { .. }
            | DataType::Native { .. }
            | DataType::Unsupported { .. } => Kind::Raw,
        }
    }

    /// The canonical type of computed values.
    pub fn data_type(self) -> DataType {
        match self {
            Kind::Bool => DataType::Bool,
            Kind::Int2 => DataType::Int { bits: 16, unsigned: false },
            Kind::Int4 => DataType::Int { bits: 32, unsigned: false },
            Kind::Int8 => DataType::Int { bits: 64, unsigned: false },
            Kind::Numeric => DataType::Decimal { precision: None, scale: None },
            Kind::Real => DataType::Float32,
            Kind::Double => DataType::Float64,
            Kind::Unknown | Kind::Text | Kind::Char | Kind::Label | Kind::Bits | Kind::Raw => {
                text(None)
            }
            Kind::Bytes => DataType::Bytes { bytes_max: None, fixed: None },
            Kind::Date => DataType::Date,
            Kind::Time => DataType::Time { fsp: 6, span: false },
            Kind::Stamp => DataType::Timestamp { fsp: 6 },
            Kind::Instant => DataType::Instant { fsp: 6, narrow: false },
            Kind::Interval => DataType::Interval { fsp: 6 },
            Kind::Uuid => DataType::Uuid,
            Kind::Json => DataType::Json,
        }
    }

    /// The place in the row of numbers, each of which turns into those behind it.
    fn width(self) -> Option<u8> {
        Some(match self {
            Kind::Int2 => 0,
            Kind::Int4 => 1,
            Kind::Int8 => 2,
            Kind::Numeric => 3,
            Kind::Real => 4,
            Kind::Double => 5,
            _ => return None,
        })
    }

    pub fn is_number(self) -> bool {
        self.width().is_some()
    }

    pub fn is_integer(self) -> bool {
        matches!(self, Kind::Int2 | Kind::Int4 | Kind::Int8)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Kind::Real | Kind::Double)
    }

    /// Whether its cells are text.
    pub fn is_text(self) -> bool {
        matches!(self, Kind::Text | Kind::Char | Kind::Label | Kind::Bits)
    }

    /// Whether values turn into the other type without being asked to.
    pub fn becomes(self, to: Kind) -> bool {
        if self == to || self == Kind::Unknown {
            return true;
        }
        if let (Some(a), Some(b)) = (self.width(), to.width()) {
            return a <= b;
        }
        match to {
            Kind::Text => self.is_text(),
            Kind::Stamp => self == Kind::Date,
            Kind::Instant => matches!(self, Kind::Date | Kind::Stamp),
            Kind::Interval => self == Kind::Time,
            _ => false,
        }
    }

    /// Whether a cast may be written.
    pub fn casts(self, to: Kind) -> bool {
        if self.becomes(to) || (self.is_number() && to.is_number()) {
            return true;
        }
        match (self, to) {
            (Kind::Raw, to) => to == Kind::Text,
            (_, Kind::Raw) => false,
            (_, Kind::Text | Kind::Char) => true,
            (Kind::Bits, to) => to.is_integer() || to == Kind::Bool,
            (Kind::Text | Kind::Char | Kind::Label, _) => true,
            (Kind::Bool, Kind::Int4) | (Kind::Int4, Kind::Bool) => true,
            (Kind::Stamp, Kind::Date | Kind::Time)
            | (Kind::Instant, Kind::Date | Kind::Time | Kind::Stamp)
            | (Kind::Interval, Kind::Time) => true,
            (Kind::Json, to) => to.is_number() || to == Kind::Bool,
            _ => false,
        }
    }

    /// The type that values of both have in common: of the branches of a CASE, of two sides of a comparison.
    pub fn common(self, other: Kind) -> Option<Kind> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Kind::Unknown, b) => Some(b),
            (a, Kind::Unknown) => Some(a),
            (a, b) if a.is_text() && b.is_text() => Some(Kind::Text),
            (a, b) if a.becomes(b) => Some(b),
            (a, b) if b.becomes(a) => Some(a),
            _ => None,
        }
    }
}
