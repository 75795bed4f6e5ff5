//! Values in PostgreSQL's own text form: for literals, and for `COPY` in text format.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use tidelock_core::{Date, Instant, Time, Timestamp, Value, form};

/// A value as the server itself would write it under ISO date style; `None` for NULL and for what
/// the log did not carry.
pub(crate) fn of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Bool(true) => Some("t".into()),
        Value::Bool(false) => Some("f".into()),
        other => form::text(other),
    }
}

/// Appends a row in `COPY`'s text format. The common kinds of cells are written without a text of their
/// own in between.
pub(crate) fn put_row<'a>(out: &mut BytesMut, cells: impl Iterator<Item = &'a Value>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.put_u8(b'\t');
        }
        match cell {
            Value::Int(i) => {
                if *i < 0 {
                    out.put_u8(b'-');
                }
                put_number(out, i.unsigned_abs(), 1);
            }
            Value::UInt(u) => put_number(out, *u, 1),
            Value::Date(d) if is_plain(*d) => put_date(out, *d),
            Value::Timestamp(t) if !t.is_infinite() && is_plain(t.split().0) => put_stamp(out, *t),
            Value::Instant(Instant(i))
                if !Instant(*i).is_infinite() && is_plain(Timestamp(*i).split().0) =>
            {
                put_stamp(out, Timestamp(*i));
                out.put_slice(b"+00");
            }
            other => match of(other) {
                None => out.put_slice(b"\\N"),
                Some(text) => put_escaped(out, text.as_bytes()),
            },
        }
    }
    out.put_u8(b'\n');
}

/// Whether a date is of the years 1 to 9999.
fn is_plain(date: Date) -> bool {
    const FIRST: i32 = -719_162;
    const LAST: i32 = 2_932_896;
    (FIRST..=LAST).contains(&date.0)
}

fn put_number(out: &mut BytesMut, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 || digits.len() - start < width {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.put_slice(&digits[start..]);
}

fn put_date(out: &mut BytesMut, date: Date) {
    let (year, month, day) = date.to_ymd();
    put_number(out, u64::from(year.unsigned_abs()), 4);
    out.put_u8(b'-');
    put_number(out, u64::from(month), 2);
    out.put_u8(b'-');
    put_number(out, u64::from(day), 2);
}

fn put_stamp(out: &mut BytesMut, at: Timestamp) {
    let (date, Time(time)) = at.split();
    let (seconds, fraction) = (time.unsigned_abs() / 1_000_000, time.unsigned_abs() % 1_000_000);
    put_date(out, date);
    for (mark, part) in [(b' ', seconds / 3600), (b':', seconds / 60 % 60), (b':', seconds % 60)] {
        out.put_u8(mark);
        put_number(out, part, 2);
    }
    if fraction > 0 {
        let (mut digits, mut width) = (fraction, 6);
        while digits.is_multiple_of(10) {
            (digits, width) = (digits / 10, width - 1);
        }
        out.put_u8(b'.');
        put_number(out, digits, width);
    }
}

fn put_escaped(out: &mut BytesMut, text: &[u8]) {
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        let escape = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => continue,
        };
        out.put_slice(text.get(plain..i).unwrap_or_default());
        out.put_slice(&[b'\\', escape]);
        plain = i + 1;
    }
    out.put_slice(text.get(plain..).unwrap_or_default());
}

/// The cells of a line of `COPY`'s text format, without copying those that hold no escape; `None`
/// for NULL. `None` in all if it is no such line.
pub(crate) fn cells(line: &Bytes) -> Option<Vec<Option<Bytes>>> {
    let line = line.strip_suffix(b"\n").map(|rest| line.slice_ref(rest))?;
    let mut cells = Vec::with_capacity(16);
    let mut start = 0;
    loop {
        let rest = line.get(start..)?;
        let length = rest.iter().position(|b| *b == b'\t').unwrap_or(rest.len());
        let cell = line.slice(start..start + length);
        cells.push(if &*cell == b"\\N" {
            None
        } else if cell.contains(&b'\\') {
            Some(unescaped(&cell)?)
        } else {
            Some(cell)
        });
        start += length + 1;
        if start > line.len() {
            return Some(cells);
        }
    }
}

fn unescaped(cell: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(cell.len());
    let mut bytes = cell.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match *bytes.next()? {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                b'\\' => b'\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::value;
    use tidelock_core::DataType;

    fn text(value: &Value) -> String {
        of(value).unwrap_or_default().into_owned()
    }

    #[test]
    fn texts_read_back_as_the_same_value() {
        let day = |y, m, d| Date::from_ymd(y, m, d).unwrap_or(Date(0));
        let at = |d, t| Timestamp::new(d, Time(t)).unwrap_or(Timestamp(0));
        for (data_type, v) in [
            (DataType::Bool, Value::Bool(true)),
            (DataType::Int { bits: 64, unsigned: false }, Value::Int(i64::MIN)),
            (DataType::Float64, Value::Float64(0.1 + 0.2)),
            (DataType::Float64, Value::Float64(f64::NEG_INFINITY)),
            (DataType::Float32, Value::Float32(1.1)),
            (
                DataType::Bytes { bytes_max: None, fixed: None },
                Value::Bytes(vec![0, 1, 255].into()),
            ),
            (DataType::Date, Value::Date(day(2024, 2, 29))),
            (DataType::Date, Value::Date(day(0, 12, 31))),
            (DataType::Date, Value::Date(Date::NEG_INFINITY)),
            (DataType::Time { fsp: 6, span: false }, Value::Time(Time(86_399_000_001))),
            (DataType::Timestamp { fsp: 6 }, Value::Timestamp(at(day(-43, 3, 15), 1))),
            (DataType::Timestamp { fsp: 6 }, Value::Timestamp(Timestamp(-1))),
            (DataType::Instant { fsp: 6, narrow: false }, Value::Instant(Instant(-1_500_000))),
            (DataType::Instant { fsp: 6, narrow: false }, Value::Instant(Instant::INFINITY)),
            (DataType::Uuid, Value::Uuid([0x1f; 16])),
        ] {
            let written = text(&v);
            assert_eq!(
                value(&data_type, &Bytes::from(written.clone().into_bytes())),
                Some(v),
                "{written}"
            );
        }
        assert!(text(&Value::Float64(f64::NAN)) == "NaN");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_directly_is_what_the_text_says(number in proptest::prelude::any::<i64>(), unsigned in proptest::prelude::any::<u64>()) {
            for value in [
                Value::Int(number),
                Value::UInt(unsigned),
                Value::Date(Date(number as i32)),
                Value::Date(Date((number % 3_000_000) as i32)),
                Value::Timestamp(Timestamp(number)),
                Value::Timestamp(Timestamp(number / 100)),
                Value::Instant(Instant(number / 100_000)),
            ] {
                let mut out = BytesMut::new();
                put_row(&mut out, std::iter::once(&value));
                let written = String::from_utf8_lossy(&out).trim_end().to_owned();
                proptest::prop_assert_eq!(written, text(&value));
            }
        }

        #[test]
        fn rows_survive_the_copy_format(texts in proptest::collection::vec(proptest::option::of(".{0,12}"), 1..6)) {
            let row: Vec<Value> = texts
                .iter()
                .map(|t| t.as_ref().map_or(Value::Null, |t| Value::Text(t.as_str().into())))
                .collect();
            let mut out = BytesMut::new();
            put_row(&mut out, row.iter());
            let back = cells(&out.freeze()).map(|cells| {
                cells.into_iter().map(|c| c.map(|c| String::from_utf8_lossy(&c).into_owned())).collect::<Vec<_>>()
            });
            proptest::prop_assert_eq!(back, Some(texts));
        }

        #[test]
        fn any_line_gives_an_answer(bytes in proptest::collection::vec(0u8..255, 0..60)) {
            let _ = cells(&Bytes::from(bytes));
        }
    }
}
