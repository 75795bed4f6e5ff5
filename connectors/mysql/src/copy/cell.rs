//! Cells of the binary protocol in canonical form.

use bytes::{Bytes, BytesMut};
use mysql_async::Value as Param;
use tidelock_core::{ByteString, DataType, Date, Instant, Time, Timestamp, Value};

use crate::binlog::cell::{UNDEFINED_TEXT, bits};
use crate::charset::Charset;

/// Puts small texts of many rows side by side: an allocation each would cost more than all the rest.
#[derive(Default)]
pub(super) struct Packer(BytesMut);

impl Packer {
    fn bytes(&mut self, cell: Vec<u8>) -> Bytes {
        const CHUNK: usize = 64 << 10;
        if cell.len() > CHUNK / 16 {
            return cell.into();
        }
        if self.0.capacity() < cell.len() {
            self.0 = BytesMut::with_capacity(CHUNK);
        }
        self.0.extend_from_slice(&cell);
        self.0.split().freeze()
    }
}

/// A cell of the binary protocol in canonical form; `None` if it is none of its type.
pub(super) fn value(
    data_type: &DataType,
    raw: Option<&Charset>,
    cell: Param,
    packer: &mut Packer,
) -> Option<Value> {
    let mut text = |bytes: Vec<u8>| ByteString::try_from(packer.bytes(bytes)).ok();
    Some(match (data_type, cell) {
        (DataType::Text { .. } | DataType::Json, Param::Bytes(b)) if raw.is_some() => {
            match (raw?.decode(&b), data_type) {
                (Some(text), DataType::Json) => Value::Json(text),
                (Some(text), _) => Value::Text(text),
                (None, _) => Value::Foreign(UNDEFINED_TEXT.into()),
            }
        }
        (DataType::Year, Param::Int(year)) => Value::Int(year),
        (DataType::Year, Param::UInt(year)) => Value::Int(i64::try_from(year).ok()?),
        (DataType::Bits { length, .. }, Param::Bytes(b)) => {
            let number = b.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            Value::Text(bits(number, (*length)?))
        }
        (DataType::Set { .. }, Param::Bytes(b)) => Value::Text(text(b)?),
        (DataType::Address { .. }, Param::Bytes(b)) => {
            let parsed: std::net::IpAddr = text(b)?.parse().ok()?;
            Value::Text(parsed.to_string().into())
        }
        (DataType::Opaque { .. }, Param::Bytes(b)) => Value::Bytes(b.into()),
        (_, Param::NULL) => Value::Null,
        (DataType::Int { unsigned: true, .. }, Param::Int(i)) => {
            Value::UInt(u64::try_from(i).ok()?)
        }
        (DataType::Int { unsigned: true, .. }, Param::UInt(u)) => Value::UInt(u),
        (DataType::Int { unsigned: false, .. }, Param::Int(i)) => Value::Int(i),
        (DataType::Int { unsigned: false, .. }, Param::UInt(u)) => {
            Value::Int(i64::try_from(u).ok()?)
        }
        (DataType::Float32 | DataType::RoundedFloat { .. }, Param::Float(f)) => Value::Float32(f),
        (DataType::Float64 | DataType::RoundedFloat { .. }, Param::Double(f)) => Value::Float64(f),
        (DataType::Decimal { .. }, Param::Bytes(b)) => Value::Decimal(unfilled(text(b)?)),
        (DataType::Text { .. }, Param::Bytes(b)) => Value::Text(text(b)?),
        (DataType::Bytes { .. }, Param::Bytes(b)) => Value::Bytes(packer.bytes(b)),
        (DataType::Json, Param::Bytes(b)) => Value::Json(text(b)?),
        (DataType::Uuid, Param::Bytes(b)) => Value::Uuid(uuid(&b)?),
        (DataType::Enum { .. }, Param::Bytes(b)) => {
            let label = text(b)?;
            // The empty text that stands for an invalid value; where it is a label, the number was asked for.
            if label.is_empty() { Value::Foreign(label) } else { Value::Enum(label) }
        }
        (DataType::Enum { labels }, Param::UInt(number)) => label(labels, number)?,
        (DataType::Enum { labels }, Param::Int(number)) => label(labels, number.try_into().ok()?)?,
        (DataType::Date, Param::Date(y, m, d, ..)) => {
            match Date::from_ymd(i32::from(y), u32::from(m), u32::from(d)).filter(|_| y > 0) {
                Some(date) => Value::Date(date),
                None => Value::Foreign(format!("{y:04}-{m:02}-{d:02}").into()),
            }
        }
        (DataType::Time { .. }, Param::Time(negative, days, h, m, s, us)) => {
            let seconds =
                (i64::from(days) * 24 + i64::from(h)) * 3600 + i64::from(m) * 60 + i64::from(s);
            let micros = seconds * 1_000_000 + i64::from(us);
            Value::Time(Time(if negative { -micros } else { micros }))
        }
        (DataType::Timestamp { fsp }, Param::Date(y, mo, d, h, mi, s, us)) => {
            at(y, mo, d, (h, mi, s, us), *fsp, |t| Value::Timestamp(Timestamp(t)))
        }
        (DataType::Instant { fsp, .. }, Param::Date(y, mo, d, h, mi, s, us)) => {
            at(y, mo, d, (h, mi, s, us), *fsp, |t| Value::Instant(Instant(t)))
        }
        _ => return None,
    })
}

/// A decimal without the zeros that ZEROFILL puts before it: the log has none.
fn unfilled(text: ByteString) -> ByteString {
    let zeros = text.bytes().take_while(|b| *b == b'0').count();
    // One stays before the point.
    let more = text.as_bytes().get(zeros).is_some_and(u8::is_ascii_digit);
    match zeros - usize::from(!more && zeros > 0) {
        0 => text,
        needless => text.get(needless..).unwrap_or_default().into(),
    }
}

/// A date with time of day; one that is no day of the calendar keeps the server's own text.
fn at(
    y: u16,
    mo: u8,
    d: u8,
    (h, mi, s, us): (u8, u8, u8, u32),
    fsp: u8,
    make: impl Fn(i64) -> Value,
) -> Value {
    let time =
        (i64::from(h) * 3600 + i64::from(mi) * 60 + i64::from(s)) * 1_000_000 + i64::from(us);
    let day = Date::from_ymd(i32::from(y), u32::from(mo), u32::from(d)).filter(|_| y > 0);
    match day.and_then(|day| Timestamp::new(day, Time(time))) {
        Some(t) => make(t.0),
        None => {
            let mut text = format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}");
            if fsp > 0 {
                let digits = format!("{us:06}");
                text.push('.');
                text.push_str(digits.get(..usize::from(fsp.min(6))).unwrap_or("0"));
            }
            Value::Foreign(text.into())
        }
    }
}

/// The value of an enum by its number; 0 is the invalid value.
fn label(labels: &[String], number: u64) -> Option<Value> {
    match usize::try_from(number).ok()?.checked_sub(1) {
        None => Some(Value::Foreign("".into())),
        Some(i) => labels.get(i).map(|label| Value::Enum(label.as_str().into())),
    }
}

fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .iter()
        .filter(|b| **b != b'-')
        .map(|b| char::from(*b).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_that_a_decimal_is_filled_with_are_left_out() {
        for (filled, wanted) in [
            ("00000005.00", "5.00"),
            ("000.50", "0.50"),
            ("000", "0"),
            ("0", "0"),
            ("-5", "-5"),
            ("10", "10"),
        ] {
            assert_eq!(&*unfilled(filled.into()), wanted);
        }
    }

    #[test]
    fn days_outside_the_calendar_keep_the_servers_text() {
        let value =
            |data_type: &DataType, cell| value(data_type, None, cell, &mut Packer::default());
        let stamp = DataType::Timestamp { fsp: 3 };
        assert_eq!(
            value(&stamp, Param::Date(0, 0, 0, 0, 0, 0, 0)),
            Some(Value::Foreign("0000-00-00 00:00:00.000".into()))
        );
        assert_eq!(
            value(&DataType::Date, Param::Date(2024, 2, 30, 0, 0, 0, 0)),
            Some(Value::Foreign("2024-02-30".into()))
        );
        assert_eq!(
            value(&DataType::Time { fsp: 0, span: true }, Param::Time(true, 34, 22, 59, 59, 0)),
            Some(Value::Time(Time(-3_020_399_000_000)))
        );
    }
}
