//! One value in the type of another column: what `=` of the database would hold equal.
//!
//! A key comes from the log of one table and is looked for in a column of another table or view, which may have
//! another type (`int` and `bigint`, `varchar` and `text`). Left to the server, some comparisons find too
//! much (a number against a text), some do without the index, and a cast may cut or round. So the
//! value is brought into the column's own type here, exactly, and then compared by the server in that
//! type, with its own collation.

use std::borrow::Cow;

use crate::form;
use crate::schema::DataType;
use crate::value::{DAY_MICROS, Date, Instant, Interval, Time, Timestamp, Value};

/// The two types have no values in common by any rule here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlike;

/// The value that a column of this type holds where it is equal to `value`; `None` if no value of the type is,
/// as for NULL.
pub fn alike(value: &Value, data_type: &DataType) -> Result<Option<Value>, Unlike> {
    let found = match data_type {
        _ if matches!(value, Value::Null | Value::Unchanged) => None,
        DataType::Int { bits, unsigned } => integer(value, *bits, *unsigned)?,
        DataType::Bool => match integer(value, 64, false)? {
            Some(Value::Int(i @ (0 | 1))) => Some(Value::Bool(i == 1)),
            _ => None,
        },
        DataType::Year => integer(value, 16, false)?,
        DataType::Decimal { scale, .. } => decimal(value)?.filter(|d| has_at_most(d, *scale)),
        DataType::Float32 | DataType::RoundedFloat { double: false, .. } => match value {
            Value::Float32(f) => Some(Value::Float32(*f)),
            other => float(other)?
                .filter(|f| f.is_nan() || f64::from(*f as f32) == *f)
                .map(|f| Value::Float32(f as f32)),
        },
        DataType::Float64 | DataType::RoundedFloat { double: true, .. } => {
            float(value)?.map(Value::Float64)
        }
        DataType::Text { repertoire, .. } => {
            let text = text(value)?;
            repertoire.holds(&text).then(|| Value::Text(text.into_owned().into()))
        }
        DataType::Bytes { .. } | DataType::Opaque { .. } => match value {
            Value::Bytes(b) => Some(Value::Bytes(b.clone())),
            Value::Uuid(u) => Some(Value::Bytes(u.to_vec().into())),
            Value::Text(t) => Some(Value::Bytes(t.as_bytes().clone())),
            _ => return Err(Unlike),
        },
        DataType::Date => match value {
            Value::Date(_) => Some(value.clone()),
            Value::Timestamp(t) if t.is_infinite() => {
                let late = *t == Timestamp::INFINITY;
                Some(Value::Date(if late { Date::INFINITY } else { Date::NEG_INFINITY }))
            }
            Value::Timestamp(t) => {
                (t.0.rem_euclid(DAY_MICROS) == 0).then(|| Value::Date(t.split().0))
            }
            other => foreign(other)?,
        },
        DataType::Timestamp { .. } => match value {
            Value::Timestamp(_) => Some(value.clone()),
            Value::Date(Date::INFINITY) => Some(Value::Timestamp(Timestamp::INFINITY)),
            Value::Date(Date::NEG_INFINITY) => Some(Value::Timestamp(Timestamp::NEG_INFINITY)),
            Value::Date(d) => i64::from(d.0)
                .checked_mul(DAY_MICROS)
                .map(|micros| Value::Timestamp(Timestamp(micros))),
            other => foreign(other)?,
        },
        DataType::Instant { .. } => match value {
            Value::Instant(_) => Some(value.clone()),
            other => foreign(other)?,
        },
        DataType::Time { .. } => match value {
            Value::Time(_) => Some(value.clone()),
            other => foreign(other)?,
        },
        DataType::Interval { .. } => match value {
            Value::Interval(_) => Some(value.clone()),
            other => foreign(other)?,
        },
        DataType::Uuid => match value {
            Value::Uuid(u) => Some(Value::Uuid(*u)),
            Value::Bytes(b) => b.as_ref().try_into().ok().map(Value::Uuid),
            Value::Text(t) => uuid(t).map(Value::Uuid),
            _ => return Err(Unlike),
        },
        DataType::Json => match value {
            Value::Json(_) => Some(value.clone()),
            _ => return Err(Unlike),
        },
        DataType::Enum { labels } => match value {
            Value::Enum(t) | Value::Text(t) => {
                labels.iter().any(|l| **l == **t).then(|| Value::Enum(t.clone()))
            }
            other => foreign(other)?,
        },
        DataType::Set { .. }
        | DataType::Bits { .. }
        | DataType::Address { .. }
        | DataType::Native { .. } => match value {
            Value::Text(_) => Some(value.clone()),
            other => foreign(other)?,
        },
        DataType::Unsupported { .. } => return Err(Unlike),
    };
    Ok(found)
}

/// Whether values of one type can be looked for in a column of the other ([`alike`]).
pub fn comparable(from: &DataType, to: &DataType) -> bool {
    let known = sample(from, 1);
    let text = || Value::Text("1".into());
    !matches!(from, DataType::Unsupported { .. }) && alike(&known.unwrap_or_else(text), to).is_ok()
}

/// The `i`-th of many values of a type, to ask with how a server would look for them; `None` where none are known.
pub fn sample(data_type: &DataType, i: u32) -> Option<Value> {
    let text = || Value::Text(i.to_string().into());
    Some(match data_type {
        DataType::Bool => Value::Bool(i.is_multiple_of(2)),
        DataType::Int { bits: 8, .. } => Value::Int(i64::from(i % 128)),
        DataType::Int { bits: 16, .. } => Value::Int(i64::from(i % 32_768)),
        DataType::Int { .. } => Value::Int(i64::from(i)),
        DataType::Year => Value::Int(i64::from(1970 + i % 100)),
        DataType::Decimal { .. } => Value::Decimal(i.to_string().into()),
        DataType::Float32 | DataType::RoundedFloat { double: false, .. } => {
            Value::Float32(i as f32)
        }
        DataType::Float64 | DataType::RoundedFloat { double: true, .. } => {
            Value::Float64(f64::from(i))
        }
        DataType::Text { .. } => text(),
        DataType::Bytes { .. } | DataType::Opaque { .. } => {
            Value::Bytes(i.to_be_bytes().to_vec().into())
        }
        DataType::Date => Value::Date(Date((i % 20_000) as i32)),
        DataType::Time { .. } => Value::Time(Time(i64::from(i % 86_400) * 1_000_000)),
        DataType::Timestamp { .. } => Value::Timestamp(Timestamp(i64::from(i) * 1_000_000)),
        DataType::Instant { .. } => Value::Instant(Instant(i64::from(i) * 1_000_000)),
        DataType::Interval { .. } => {
            Value::Interval(Interval { months: 0, days: 0, micros: i64::from(i) })
        }
        DataType::Uuid => {
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(i.to_le_bytes()).for_each(|(byte, b)| *byte = b);
            Value::Uuid(bytes)
        }
        DataType::Json => Value::Json(i.to_string().into()),
        DataType::Enum { labels } => {
            Value::Enum(labels.get(i as usize % labels.len().max(1))?.as_str().into())
        }
        DataType::Set { labels } => Value::Text(labels.first()?.as_str().into()),
        DataType::Bits { .. }
        | DataType::Address { .. }
        | DataType::Native { .. }
        | DataType::Unsupported { .. } => return None,
    })
}

/// A value without canonical form can only be equal to one like it.
fn foreign(value: &Value) -> Result<Option<Value>, Unlike> {
    matches!(value, Value::Foreign(_)).then(|| Some(value.clone())).ok_or(Unlike)
}

fn integer(value: &Value, bits: u8, unsigned: bool) -> Result<Option<Value>, Unlike> {
    let number: Option<i128> = match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::UInt(u) => Some(i128::from(*u)),
        Value::Bool(b) => Some(i128::from(*b)),
        Value::Decimal(t) => match t.split_once('.') {
            Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole.parse().ok(),
            Some(_) => None,
            None => t.parse().ok(),
        },
        Value::Text(t) => t.trim().parse().ok(),
        _ => return Err(Unlike),
    };
    let (low, high) = match unsigned {
        true => (0, (1i128 << bits.min(64)) - 1),
        false => (-(1i128 << (bits.clamp(1, 64) - 1)), (1i128 << (bits.clamp(1, 64) - 1)) - 1),
    };
    Ok(number.filter(|n| (low..=high).contains(n)).and_then(|n| match unsigned {
        true => u64::try_from(n).ok().map(Value::UInt),
        false => i64::try_from(n).ok().map(Value::Int),
    }))
}

fn decimal(value: &Value) -> Result<Option<Value>, Unlike> {
    Ok(match value {
        Value::Decimal(_) => Some(value.clone()),
        Value::Int(i) => Some(Value::Decimal(i.to_string().into())),
        Value::UInt(u) => Some(Value::Decimal(u.to_string().into())),
        Value::Bool(b) => Some(Value::Decimal(u8::from(*b).to_string().into())),
        Value::Text(t) => {
            let t = t.trim();
            let number = t.strip_prefix(['-', '+']).unwrap_or(t);
            let digits = number.bytes().filter(u8::is_ascii_digit).count();
            let points = number.bytes().filter(|b| *b == b'.').count();
            let plain = digits > 0 && points < 2 && digits + points == number.len();
            plain.then(|| Value::Decimal(t.to_owned().into()))
        }
        _ => return Err(Unlike),
    })
}

/// Whether a number needs no more digits behind the point than these.
fn has_at_most(value: &Value, scale: Option<u16>) -> bool {
    let (Value::Decimal(text), Some(scale)) = (value, scale) else { return true };
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    fraction.trim_end_matches('0').len() <= usize::from(scale)
}

/// The same number in double precision.
fn float(value: &Value) -> Result<Option<f64>, Unlike> {
    Ok(match value {
        Value::Float32(f) => Some(f64::from(*f)),
        Value::Float64(f) => Some(*f),
        Value::Int(i) => Some(*i as f64).filter(|f| *f as i128 == i128::from(*i)),
        Value::UInt(u) => Some(*u as f64).filter(|f| *f as i128 == i128::from(*u)),
        Value::Decimal(t) => t.parse().ok(),
        _ => return Err(Unlike),
    })
}

fn text(value: &Value) -> Result<Cow<'_, str>, Unlike> {
    match value {
        Value::Bytes(_) | Value::Interval(_) | Value::Float32(_) | Value::Float64(_) => Err(Unlike),
        other => form::text(other).ok_or(Unlike),
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|c| !matches!(c, '-' | '{' | '}'))
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 32 { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Repertoire;

    const fn int(bits: u8, unsigned: bool) -> DataType {
        DataType::Int { bits, unsigned }
    }

    fn chars(repertoire: Repertoire) -> DataType {
        DataType::Text { chars_max: Some(2), bytes_max: None, repertoire, padded: false }
    }

    #[test]
    fn a_key_is_the_same_in_every_type_that_can_hold_it() {
        let words = chars(Repertoire::Unicode);
        let t = |t: &str| Value::Text(t.to_owned().into());
        let d = |t: &str| Value::Decimal(t.to_owned().into());
        for (value, data_type, expected) in [
            (Value::Int(7), int(64, false), Some(Value::Int(7))),
            (Value::Int(7), int(64, true), Some(Value::UInt(7))),
            (Value::UInt(u64::MAX), int(64, true), Some(Value::UInt(u64::MAX))),
            (Value::UInt(u64::MAX), int(64, false), None),
            (Value::Int(-1), int(32, true), None),
            (Value::Int(40_000), int(16, false), None),
            (Value::Int(-32_768), int(16, false), Some(Value::Int(-32_768))),
            (d("12.00"), int(32, false), Some(Value::Int(12))),
            (d("12.50"), int(32, false), None),
            (d("NaN"), int(32, false), None),
            (
                Value::Int(12),
                DataType::Decimal { precision: Some(4), scale: Some(2) },
                Some(d("12")),
            ),
            (
                d("12.500"),
                DataType::Decimal { precision: Some(4), scale: Some(1) },
                Some(d("12.500")),
            ),
            (d("12.55"), DataType::Decimal { precision: Some(4), scale: Some(1) }, None),
            (t("007"), int(32, false), Some(Value::Int(7))),
            (t("seven"), int(32, false), None),
            (t("1e3"), DataType::Decimal { precision: None, scale: None }, None),
            (Value::Int(7), words.clone(), Some(t("7"))),
            (t("longer than it"), words.clone(), Some(t("longer than it"))),
            (t("😀"), chars(Repertoire::Bmp), None),
            (Value::Enum("a".into()), words.clone(), Some(t("a"))),
            (
                t("a"),
                DataType::Enum { labels: vec!["a".to_owned()].into() },
                Some(Value::Enum("a".into())),
            ),
            (t("b"), DataType::Enum { labels: vec!["a".to_owned()].into() }, None),
            (
                t("00112233-4455-6677-8899-AABBCCDDEEFF"),
                DataType::Uuid,
                Some(Value::Uuid([
                    0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                    0xdd, 0xee, 0xff,
                ])),
            ),
            (t("00112233"), DataType::Uuid, None),
            (
                Value::Date(Date(1)),
                DataType::Timestamp { fsp: 0 },
                Some(Value::Timestamp(Timestamp(DAY_MICROS))),
            ),
            (Value::Timestamp(Timestamp(-DAY_MICROS)), DataType::Date, Some(Value::Date(Date(-1)))),
            (Value::Timestamp(Timestamp(1)), DataType::Date, None),
            (Value::Float32(1.5), DataType::Float64, Some(Value::Float64(1.5))),
            (Value::Float64(0.1), DataType::Float32, None),
            (Value::Null, int(64, false), None),
            (Value::Unchanged, words, None),
        ] {
            assert_eq!(alike(&value, &data_type), Ok(expected), "{value:?} as {data_type:?}");
        }
    }

    #[test]
    fn what_has_nothing_in_common_is_told_and_not_taken_for_absent() {
        let day = Value::Date(Date(1));
        assert_eq!(alike(&day, &int(32, false)), Err(Unlike));
        assert_eq!(alike(&Value::Int(1), &DataType::Date), Err(Unlike));
        assert!(!comparable(&DataType::Json, &DataType::Uuid));
        assert!(comparable(&int(32, false), &int(64, true)));
        assert!(comparable(&chars(Repertoire::Ascii), &DataType::Uuid));
    }
}
