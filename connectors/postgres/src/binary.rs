//! The binary form of values: in the arrays of a statement, and in `COPY … WITH (FORMAT binary)`.
//!
//! A value that does not fit its column is an error here and never something near it: no width is cut, no
//! number is rounded. What a type has no simple binary form for travels as text ([`crate::upsert`]), or, in a
//! `COPY`, makes the whole `COPY` one of text ([`crate::load`]).

use bytes::{BufMut, BytesMut};
use tidelock_core::{Code, DataType, Error, Interval, Result, TargetColumn, Value, form};
use tokio_postgres::types::Type;

use crate::wire::EPOCH_2000_MICROS;

/// Days from 1970 to 2000.
const EPOCH_2000_DAYS: i32 = 10_957;
/// Digits before and behind the point of a number that is written in binary; longer ones are rare.
const NUMBER_DIGITS_MAX: usize = 4_096;

/// How the bytes of a value are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    Instant,
    Uuid,
    /// Only in a `COPY`, where no cast can follow.
    Oid,
    /// Only in a `COPY`.
    Numeric,
    /// Only in a `COPY`.
    Jsonb,
    /// Only in a `COPY`.
    Interval,
}

impl Form {
    /// The form that the column's own type is received in, if that is a simple one. Domains are received as the
    /// types they are made of.
    pub(crate) fn of_column(column: &TargetColumn) -> Option<Form> {
        Some(match &column.data_type {
            DataType::Bool => Form::Bool,
            DataType::Int { bits: 16, unsigned: false } => Form::Int2,
            DataType::Int { bits: 32, unsigned: false } => Form::Int4,
            DataType::Int { bits: 64, unsigned: false } => Form::Int8,
            DataType::Int { bits: 32, unsigned: true } => Form::Oid,
            DataType::Float32 => Form::Float4,
            DataType::Float64 => Form::Float8,
            DataType::Text { .. } | DataType::Enum { .. } => Form::Text,
            DataType::Bytes { .. } => Form::Bytes,
            DataType::Date => Form::Date,
            DataType::Time { span: false, .. } => Form::Time,
            DataType::Timestamp { .. } => Form::Timestamp,
            DataType::Instant { .. } => Form::Instant,
            DataType::Uuid => Form::Uuid,
            DataType::Interval { .. } => Form::Interval,
            // Not money, nor a domain that may be over it.
            DataType::Decimal { .. } if column.native.starts_with("numeric") => Form::Numeric,
            DataType::Json if column.native == "json" => Form::Text,
            DataType::Json if column.native == "jsonb" => Form::Jsonb,
            DataType::Int { .. }
            | DataType::Time { .. }
            | DataType::Decimal { .. }
            | DataType::Json
            | DataType::Bits { .. }
            | DataType::Address { .. }
            | DataType::Native { .. }
            | DataType::RoundedFloat { .. }
            | DataType::Year
            | DataType::Set { .. }
            | DataType::Opaque { .. }
            | DataType::Unsupported { .. } => return None,
        })
    }

    /// The type of an element, and of the array of such, in a statement.
    pub(crate) fn types(self) -> (Type, Type) {
        match self {
            Form::Bool => (Type::BOOL, Type::BOOL_ARRAY),
            Form::Int2 => (Type::INT2, Type::INT2_ARRAY),
            Form::Int4 => (Type::INT4, Type::INT4_ARRAY),
            Form::Int8 => (Type::INT8, Type::INT8_ARRAY),
            Form::Float4 => (Type::FLOAT4, Type::FLOAT4_ARRAY),
            Form::Float8 => (Type::FLOAT8, Type::FLOAT8_ARRAY),
            Form::Text => (Type::TEXT, Type::TEXT_ARRAY),
            Form::Bytes => (Type::BYTEA, Type::BYTEA_ARRAY),
            Form::Date => (Type::DATE, Type::DATE_ARRAY),
            Form::Time => (Type::TIME, Type::TIME_ARRAY),
            Form::Timestamp => (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
            Form::Instant => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
            Form::Uuid => (Type::UUID, Type::UUID_ARRAY),
            Form::Oid => (Type::OID, Type::OID_ARRAY),
            Form::Numeric => (Type::NUMERIC, Type::NUMERIC_ARRAY),
            Form::Jsonb => (Type::JSONB, Type::JSONB_ARRAY),
            Form::Interval => (Type::INTERVAL, Type::INTERVAL_ARRAY),
        }
    }
}

/// Appends the length and the bytes of a value; NULL is a length of -1.
pub(crate) fn put(
    form: Form,
    value: &Value,
    column: &TargetColumn,
    out: &mut BytesMut,
) -> Result<()> {
    // What nearly every cell is.
    match (form, value) {
        (_, Value::Null) => {
            out.put_i32(-1);
            return Ok(());
        }
        (Form::Int8, Value::Int(i)) => {
            out.put_i32(8);
            out.put_i64(*i);
            return Ok(());
        }
        _ => {}
    }
    let start = out.len();
    out.put_i32(0);
    put_bytes(form, value, column, out)?;
    let length = i32::try_from(out.len() - start - 4)
        .map_err(|_| Error::bug(format!("a value for column {} is too big", column.name)))?;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

fn put_bytes(form: Form, value: &Value, column: &TargetColumn, out: &mut BytesMut) -> Result<()> {
    let misfit = || {
        Error::bug(format!(
            "a value of kind {} was sent to column {} of type {}",
            kind(value),
            column.name,
            column.native
        ))
    };
    let outside = || {
        Error::data(
            Code::NotRepresentable,
            format!("a value is outside what column {} can hold", column.name),
        )
    };
    // A value without canonical form can only travel as text.
    if matches!(value, Value::Foreign(_)) && form != Form::Text {
        return Err(outside());
    }
    let whole = || match value {
        Value::Int(i) => Ok(*i),
        Value::UInt(u) => i64::try_from(*u).map_err(|_| outside()),
        _ => Err(misfit()),
    };
    match form {
        Form::Bool => match value {
            Value::Bool(b) => out.put_u8(u8::from(*b)),
            _ => return Err(misfit()),
        },
        Form::Int2 => out.put_i16(i16::try_from(whole()?).map_err(|_| outside())?),
        Form::Int4 => out.put_i32(i32::try_from(whole()?).map_err(|_| outside())?),
        Form::Int8 => out.put_i64(whole()?),
        Form::Oid => out.put_u32(u32::try_from(whole()?).map_err(|_| outside())?),
        Form::Float4 => match value {
            Value::Float32(f) => out.put_f32(*f),
            _ => return Err(misfit()),
        },
        Form::Float8 => match value {
            Value::Float64(f) => out.put_f64(*f),
            Value::Float32(f) => out.put_f64(f64::from(*f)),
            _ => return Err(misfit()),
        },
        Form::Text => put_text(value, &column.data_type, out).ok_or_else(misfit)?,
        Form::Jsonb => {
            // The version of the form.
            out.put_u8(1);
            put_text(value, &column.data_type, out).ok_or_else(misfit)?;
        }
        Form::Numeric => match value {
            Value::Decimal(text) => put_number(text, out).ok_or_else(outside)?,
            Value::Int(i) => put_number(&i.to_string(), out).ok_or_else(outside)?,
            Value::UInt(u) => put_number(&u.to_string(), out).ok_or_else(outside)?,
            _ => return Err(misfit()),
        },
        Form::Bytes => match value {
            Value::Bytes(b) => out.put_slice(b),
            _ => return Err(misfit()),
        },
        Form::Date => match value {
            Value::Date(d) if d.is_infinite() => out.put_i32(d.0),
            Value::Date(d) => {
                out.put_i32(d.0.checked_sub(EPOCH_2000_DAYS).ok_or_else(outside)?);
            }
            _ => return Err(misfit()),
        },
        Form::Time => match value {
            Value::Time(t) => out.put_i64(t.0),
            _ => return Err(misfit()),
        },
        Form::Timestamp => match value {
            Value::Timestamp(t) => out.put_i64(since_2000(t.0).ok_or_else(outside)?),
            _ => return Err(misfit()),
        },
        Form::Instant => match value {
            Value::Instant(t) => out.put_i64(since_2000(t.0).ok_or_else(outside)?),
            _ => return Err(misfit()),
        },
        Form::Interval => match value {
            // Servers before 17 would take the infinities for very long spans.
            Value::Interval(i) if i.is_infinite() => return Err(outside()),
            Value::Interval(Interval { months, days, micros }) => {
                out.put_i64(*micros);
                out.put_i32(*days);
                out.put_i32(*months);
            }
            _ => return Err(misfit()),
        },
        Form::Uuid => match value {
            Value::Uuid(u) => out.put_slice(u),
            _ => return Err(misfit()),
        },
    }
    Ok(())
}

fn since_2000(micros: i64) -> Option<i64> {
    match micros {
        i64::MAX | i64::MIN => Some(micros),
        _ => micros.checked_sub(EPOCH_2000_MICROS),
    }
}

/// A number as the server keeps it: groups of four digits to either side of the point, and how many digits
/// behind the point are shown.
fn put_number(text: &str, out: &mut BytesMut) -> Option<()> {
    const NEGATIVE: u16 = 0x4000;
    let special = match text {
        "NaN" => Some(0xC000),
        "Infinity" => Some(0xD000),
        "-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        out.put_slice(&[0; 4]);
        out.put_u16(sign);
        out.put_u16(0);
        return Some(());
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (NEGATIVE, rest),
        None => (0, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.as_bytes(), fraction.as_bytes());
    if whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > NUMBER_DIGITS_MAX {
        return None;
    }
    let header = out.len();
    out.put_slice(&[0; 8]);
    let mut groups = 0_i16;
    let mut weight = whole.len().div_ceil(4) as i16 - 1;
    // Groups of zeros in front are left out; those at the end may stay, and the server drops them.
    let mut put = |group: i16| {
        if group == 0 && groups == 0 {
            weight -= 1;
        } else {
            out.put_i16(group);
            groups += 1;
        }
    };
    let (head, rest) = whole.split_at(whole.len() % 4);
    if !head.is_empty() {
        put(four(head)?);
    }
    for group in rest.chunks_exact(4) {
        put(four(group)?);
    }
    for group in fraction.chunks(4) {
        let padding = [1, 1000, 100, 10, 1][group.len()];
        put(four(group)? * padding);
    }
    if groups == 0 {
        weight = 0;
    }
    let mut place = out.get_mut(header..header + 8)?;
    place.put_i16(groups);
    place.put_i16(weight);
    place.put_u16(if groups == 0 { 0 } else { sign });
    place.put_u16(fraction.len() as u16);
    Some(())
}

/// Up to four digits.
fn four(digits: &[u8]) -> Option<i16> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + i16::from(digit - b'0'))
    })
}

/// Texts, and everything that the server casts from text; a text must not pass for a number or the
/// other way round.
fn put_text(value: &Value, data_type: &DataType, out: &mut BytesMut) -> Option<()> {
    let fits = match value {
        Value::Foreign(_) => true,
        Value::Text(_) => matches!(
            data_type,
            DataType::Text { .. }
                | DataType::Json
                | DataType::Enum { .. }
                | DataType::Bits { .. }
                | DataType::Address { .. }
                | DataType::Native { .. }
        ),
        Value::Json(_) => matches!(data_type, DataType::Text { .. } | DataType::Json),
        Value::Interval(_) => matches!(data_type, DataType::Interval { .. }),
        Value::Enum(_) => matches!(data_type, DataType::Text { .. } | DataType::Enum { .. }),
        Value::Decimal(_) | Value::Int(_) | Value::UInt(_) => {
            matches!(data_type, DataType::Decimal { .. })
        }
        _ => false,
    };
    if !fits {
        return None;
    }
    match value {
        Value::Text(t)
        | Value::Enum(t)
        | Value::Json(t)
        | Value::Decimal(t)
        | Value::Foreign(t) => out.put_slice(t.as_bytes()),
        Value::Int(i) => out.put_slice(i.to_string().as_bytes()),
        Value::UInt(u) => out.put_slice(u.to_string().as_bytes()),
        Value::Interval(_) => out.put_slice(form::text(value)?.as_bytes()),
        _ => return None,
    }
    Some(())
}

/// The kind of a value, for a message that must not show the value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Unchanged => "unchanged",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::UInt(_) => "unsigned int",
        Value::Decimal(_) => "decimal",
        Value::Float32(_) | Value::Float64(_) => "float",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::Timestamp(_) => "timestamp",
        Value::Instant(_) => "instant",
        Value::Interval(_) => "interval",
        Value::Uuid(_) => "uuid",
        Value::Json(_) => "json",
        Value::Enum(_) => "enum",
        Value::Foreign(_) => "foreign",
    }
}
