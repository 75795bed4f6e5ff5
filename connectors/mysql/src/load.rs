//! Rows as the text that `LOAD DATA LOCAL INFILE` reads. Pure.
//!
//! `LOAD DATA LOCAL` never fails over a row: it cuts, replaces or skips, and counts a warning. So a load
//! counts only if the server took as many rows as were sent and warned of nothing; anything else goes back
//! to the savepoint before it and row by row. That rests on every column being of a type whose text, where
//! it is not taken exactly, is warned about: the types are named in [`takes`], and any other keeps a
//! table from being loaded so (a `BIT` would take the digit `5` for its byte without a word).
//!
//! Bytes travel as hex and are put back by `UNHEX`, because the text is read in one character set.

use std::io::Write;

use tidelock_core::value::{Date, Time, Timestamp};
use tidelock_core::{
    Code, DataType, Error, JsonForm, Result, TargetColumn, TargetTable, Value, json_loss,
};

use crate::session::quote;

/// Whether every column of a table is of a type that can be loaded as text.
pub(crate) fn takes(table: &TargetTable, columns: &[usize]) -> bool {
    columns.iter().all(|&i| {
        let Some(column) = table.columns.get(i) else { return false };
        let native = column.native.to_ascii_lowercase();
        let word = native.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        matches!(
            word,
            "tinyint"
                | "smallint"
                | "mediumint"
                | "int"
                | "bigint"
                | "decimal"
                | "float"
                | "double"
                | "char"
                | "varchar"
                | "tinytext"
                | "text"
                | "mediumtext"
                | "longtext"
                | "binary"
                | "varbinary"
                | "tinyblob"
                | "blob"
                | "mediumblob"
                | "longblob"
                | "date"
                | "time"
                | "datetime"
                | "timestamp"
                | "enum"
                | "json"
                | "uuid"
        )
    })
}

fn is_bytes(column: &TargetColumn) -> bool {
    matches!(column.data_type, DataType::Bytes { .. })
}

/// The statement. The file's name is never looked at: what is sent is what the caller holds ready.
pub(crate) fn statement(table: &TargetTable, columns: &[usize]) -> Result<String> {
    let (mut places, mut sets) = (Vec::new(), Vec::new());
    for (n, &i) in columns.iter().enumerate() {
        let column = column(table, i)?;
        let name = quote(&column.name);
        if is_bytes(column) {
            places.push(format!("@tidelock_{n}"));
            sets.push(format!("{name} = UNHEX(@tidelock_{n})"));
        } else {
            places.push(name);
        }
    }
    let mut sql = format!(
        "LOAD DATA LOCAL INFILE 'tidelock' INTO TABLE {}.{} CHARACTER SET utf8mb4 \
         FIELDS TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({})",
        quote(&table.name.schema),
        quote(&table.name.name),
        places.join(",")
    );
    if !sets.is_empty() {
        sql.push_str(" SET ");
        sql.push_str(&sets.join(", "));
    }
    Ok(sql)
}

fn column(table: &TargetTable, i: usize) -> Result<&TargetColumn> {
    table.columns.get(i).ok_or_else(|| {
        Error::bug(format!("table {}: a load names column {i}, which there is not", table.name))
    })
}

/// Appends a row.
pub(crate) fn put_row(
    table: &TargetTable,
    columns: &[usize],
    cells: &[Value],
    out: &mut Vec<u8>,
) -> Result<()> {
    if cells.len() != columns.len() {
        return Err(Error::bug(format!("table {}: a row has another width", table.name)));
    }
    for (n, (&i, cell)) in columns.iter().zip(cells).enumerate() {
        if n > 0 {
            out.push(b'\t');
        }
        put(column(table, i)?, cell, out)?;
    }
    out.push(b'\n');
    Ok(())
}

fn put(column: &TargetColumn, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let wrong = |what: &str| {
        Err(Error::bug(format!("column {}: a value of kind {what} does not fit it", column.name)))
    };
    match value {
        Value::Null => out.extend_from_slice(b"\\N"),
        Value::Unchanged => return wrong("unchanged"),
        Value::Bytes(bytes) if is_bytes(column) => put_hex(bytes, out),
        Value::Uuid(bytes) if is_bytes(column) => put_hex(bytes, out),
        _ if is_bytes(column) => return wrong("other than bytes"),
        Value::Bytes(_) => return wrong("bytes"),
        Value::Bool(b) => out.push(if *b { b'1' } else { b'0' }),
        Value::Int(n) => {
            if *n < 0 {
                out.push(b'-');
            }
            put_number(n.unsigned_abs(), 1, out);
        }
        Value::UInt(n) => put_number(*n, 1, out),
        // The shortest text of the number in double precision: a single is exactly one of those, and its own
        // shortest text would be rounded twice.
        Value::Float32(x) if x.is_finite() => written(write!(out, "{:e}", f64::from(*x)))?,
        Value::Float64(x) if x.is_finite() => written(write!(out, "{x:e}"))?,
        Value::Float32(_) | Value::Float64(_) => return wrong("not a number"),
        Value::Text(t) if matches!(column.data_type, DataType::Text { padded: true, .. }) => {
            put_escaped(t.trim_end_matches(' ').as_bytes(), out);
        }
        // MySQL's own type is kept parsed; MariaDB's is text with a check.
        Value::Json(t) if column.native.eq_ignore_ascii_case("json") => {
            if let Some(why) = json_loss(t, JsonForm::Doubles) {
                let message = format!("column {}: {why}", column.name);
                return Err(Error::data(Code::NotRepresentable, message));
            }
            put_escaped(t.as_bytes(), out);
        }
        Value::Decimal(t)
        | Value::Text(t)
        | Value::Json(t)
        | Value::Enum(t)
        | Value::Foreign(t) => put_escaped(t.as_bytes(), out),
        Value::Date(d) if !d.is_infinite() => put_date(*d, out),
        Value::Time(time) => put_time(*time, out),
        Value::Timestamp(t) if !t.is_infinite() => put_stamp(*t, out),
        // Our sessions run in UTC.
        Value::Instant(t) if !t.is_infinite() => put_stamp(Timestamp(t.0), out),
        Value::Date(_) | Value::Timestamp(_) | Value::Instant(_) => return wrong("infinity"),
        Value::Interval(_) => return wrong("interval"),
        Value::Uuid(u) => out.extend_from_slice(crate::binlog::uuid_text(u).as_bytes()),
    }
    Ok(())
}

fn written(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|_| Error::bug("memory cannot be written to"))
}

fn put_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn put_number(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    while number > 0 || digits.len() - start < width {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[start..]);
}

pub(crate) fn put_date(date: Date, out: &mut Vec<u8>) {
    let (year, month, day) = date.to_ymd();
    put_number(u64::from(year.unsigned_abs()), 4, out);
    out.push(b'-');
    put_number(u64::from(month), 2, out);
    out.push(b'-');
    put_number(u64::from(day), 2, out);
}

pub(crate) fn put_time(Time(micros): Time, out: &mut Vec<u8>) {
    if micros < 0 {
        out.push(b'-');
    }
    put_clock(micros.unsigned_abs(), out);
}

/// Digits that are zero are left out: the server would warn of more digits than the column holds.
fn put_clock(micros: u64, out: &mut Vec<u8>) {
    let (seconds, mut fraction) = (micros / 1_000_000, micros % 1_000_000);
    put_number(seconds / 3600, 2, out);
    out.push(b':');
    put_number(seconds / 60 % 60, 2, out);
    out.push(b':');
    put_number(seconds % 60, 2, out);
    if fraction > 0 {
        let mut width = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        out.push(b'.');
        put_number(fraction, width, out);
    }
}

pub(crate) fn put_stamp(at: Timestamp, out: &mut Vec<u8>) {
    let (date, Time(time)) = at.split();
    put_date(date, out);
    out.push(b' ');
    put_clock(time.unsigned_abs(), out);
}

fn put_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        let escape = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0 => b'0',
            _ => continue,
        };
        out.extend_from_slice(text.get(plain..i).unwrap_or_default());
        out.extend_from_slice(&[b'\\', escape]);
        plain = i + 1;
    }
    out.extend_from_slice(text.get(plain..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::{Instant, TableName};

    fn table(data_type: DataType, native: &str) -> TargetTable {
        let column = TargetColumn {
            name: "c".into(),
            data_type,
            native: native.into(),
            identity_always: false,
        };
        TargetTable {
            id: 1,
            name: TableName::new("crm", "t"),
            columns: vec![column],
            key: vec![0],
            suppress_unchanged: false,
            partial: false,
        }
    }

    fn line(table: &TargetTable, value: Value) -> String {
        let mut out = Vec::new();
        put_row(table, &[0], &[value], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_in_a_text_ends_a_cell_or_a_row() {
        let text = DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire: tidelock_core::Repertoire::Unicode,
            padded: false,
        };
        let table = table(text, "text");
        let text = |t: &str| Value::Text(t.to_owned().into());
        assert_eq!(line(&table, text("a\tb\nc\\N\0\r")), "a\\tb\\nc\\\\N\\0\\r\n");
        assert_eq!(line(&table, Value::Null), "\\N\n");
    }

    #[test]
    fn bytes_travel_as_hex_and_a_type_that_takes_text_otherwise_is_not_loaded() {
        let bytes = table(DataType::Bytes { bytes_max: None, fixed: None }, "varbinary(9)");
        assert_eq!(line(&bytes, Value::Bytes(vec![0, 255, 9].into())), "00FF09\n");
        let sql = statement(&bytes, &[0]).unwrap();
        assert!(sql.ends_with("(@tidelock_0) SET `c` = UNHEX(@tidelock_0)"), "{sql}");
        assert!(takes(&bytes, &[0]));
        for native in ["bit(8)", "year(4)", "set('a')", "geometry", ""] {
            let other = table(DataType::Int { bits: 8, unsigned: true }, native);
            assert!(!takes(&other, &[0]), "{native}");
        }
    }

    fn clock_text(micros: u64) -> String {
        let (s, fraction) = (micros / 1_000_000, micros % 1_000_000);
        let text = format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        match fraction {
            0 => text,
            _ => format!("{text}.{fraction:06}").trim_end_matches('0').to_owned(),
        }
    }

    proptest::proptest! {
        #[test]
        fn times_are_written_as_the_server_writes_them(micros in -3_020_399_000_000i64..3_020_399_000_000, stamp in -62_135_596_800_000_000i64..253_402_300_799_999_999) {
            let time = table(DataType::Time { fsp: 6, span: true }, "time(6)");
            let sign = if micros < 0 { "-" } else { "" };
            let expected = format!("{sign}{}", clock_text(micros.unsigned_abs()));
            let written = line(&time, Value::Time(Time(micros)));
            proptest::prop_assert_eq!(written.trim_end(), expected);
            let at = table(DataType::Timestamp { fsp: 6 }, "datetime(6)");
            let (date, Time(clock)) = Timestamp(stamp).split();
            let (y, m, d) = date.to_ymd();
            let expected = format!("{y:04}-{m:02}-{d:02} {}", clock_text(clock.unsigned_abs()));
            for value in [Value::Timestamp(Timestamp(stamp)), Value::Instant(Instant(stamp))] {
                let written = line(&at, value);
                proptest::prop_assert_eq!(written.trim_end(), &expected);
            }
        }
    }
}
