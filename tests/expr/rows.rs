//! The rows that expressions are evaluated over: ordinary ones, extremes, and one that is all NULL.

use tidelock::expr::Field;
use tidelock_core::value::{Interval, Time, Timestamp};
use tidelock_core::{Bytes, DataType, Date, Instant, Repertoire, Value};

fn text(chars_max: Option<u64>, padded: bool) -> DataType {
    DataType::Text { chars_max, bytes_max: None, repertoire: Repertoire::Unicode, padded }
}

/// Name and SQL type.
pub const COLUMNS: &[(&str, &str)] = &[
    ("i2", "smallint"),
    ("i4", "integer"),
    ("i8", "bigint"),
    ("n", "numeric"),
    ("n2", "numeric(12,2)"),
    ("r", "real"),
    ("d", "double precision"),
    ("b", "boolean"),
    ("t", "text"),
    ("u", "varchar(20)"),
    ("c", "char(5)"),
    ("y", "bytea"),
    ("da", "date"),
    ("ti", "time"),
    ("ts", "timestamp"),
    ("tz", "timestamptz"),
    ("iv", "interval"),
    ("id", "uuid"),
    ("j", "jsonb"),
    ("e", "mood"),
    ("k", "integer"),
];

pub fn fields() -> Vec<Field> {
    let int = |bits| DataType::Int { bits, unsigned: false };
    let types = [
        int(16),
        int(32),
        int(64),
        DataType::Decimal { precision: None, scale: None },
        DataType::Decimal { precision: Some(12), scale: Some(2) },
        DataType::Float32,
        DataType::Float64,
        DataType::Bool,
        text(None, false),
        text(Some(20), false),
        text(Some(5), true),
        DataType::Bytes { bytes_max: None, fixed: None },
        DataType::Date,
        DataType::Time { fsp: 6, span: false },
        DataType::Timestamp { fsp: 6 },
        DataType::Instant { fsp: 6, narrow: false },
        DataType::Interval { fsp: 6 },
        DataType::Uuid,
        DataType::Json,
        DataType::Enum {
            labels: vec!["sad".to_owned(), "ok".to_owned(), "happy".to_owned()].into(),
        },
        int(32),
    ];
    COLUMNS.iter().zip(types).map(|((name, _), t)| Field::new(*name, t, *name != "k")).collect()
}

fn date(y: i32, m: u32, d: u32) -> Date {
    Date::from_ymd(y, m, d).expect("a date")
}

fn stamp(day: Date, micros: i64) -> i64 {
    Timestamp::new(day, Time(micros)).expect("a time").0
}

const HOUR: i64 = 3_600_000_000;

pub fn rows() -> &'static [Vec<Value>] {
    static ROWS: std::sync::OnceLock<Vec<Vec<Value>>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let row = |n: [i64; 3],
                   dec: [&str; 2],
                   f: f64,
                   b: bool,
                   texts: [&str; 3],
                   y: &[u8],
                   at: (Date, i64),
                   iv: Interval,
                   id: u8,
                   j: &str,
                   e: &str,
                   k: i64| {
            vec![
                Value::Int(n[0]),
                Value::Int(n[1]),
                Value::Int(n[2]),
                Value::Decimal(dec[0].into()),
                Value::Decimal(dec[1].into()),
                Value::Float32(f as f32),
                Value::Float64(f),
                Value::Bool(b),
                Value::Text(texts[0].into()),
                Value::Text(texts[1].into()),
                Value::Text(format!("{:<5}", texts[2]).into()),
                Value::Bytes(Bytes::copy_from_slice(y)),
                Value::Date(at.0),
                Value::Time(Time(at.1)),
                Value::Timestamp(Timestamp(stamp(at.0, at.1))),
                Value::Instant(Instant(stamp(at.0, at.1) + HOUR)),
                Value::Interval(iv),
                Value::Uuid([id; 16]),
                Value::Json(j.into()),
                Value::Enum(e.into()),
                Value::Int(k),
            ]
        };
        let span = |months, days, micros| Interval { months, days, micros };
        let mut rows = vec![
            row(
                [1, 2, 3],
                ["1.5", "12.50"],
                1.5,
                true,
                ["Hello World", "world", "ab"],
                b"abc",
                (date(2024, 2, 29), 10 * HOUR + 1_500_000),
                span(1, 2, 3 * HOUR),
                1,
                r#"{"a": 1, "b": {"c": [1, "two", null]}}"#,
                "ok",
                1,
            ),
            row(
                [0, 0, 0],
                ["0", "0.00"],
                0.0,
                false,
                ["", "", ""],
                b"",
                (date(1970, 1, 1), 0),
                span(0, 0, 0),
                0,
                "{}",
                "sad",
                0,
            ),
            row(
                [-7, -7, -7],
                ["-7.25", "-0.05"],
                -2.5,
                true,
                ["äöü ÄÖÜ ß", " x ", "a b"],
                &[0, 255],
                (date(1999, 12, 31), 24 * HOUR - 1),
                span(-14, 3, -1),
                0xff,
                r#"[1, 2.50, "x"]"#,
                "happy",
                -7,
            ),
            row(
                [32767, 2147483647, i64::MAX],
                ["99999999999999999999999999.999", "9999999999.99"],
                1e300,
                false,
                ["a%b_c\\d", "10", "zzzzz"],
                b"\\x",
                (date(9999, 12, 31), 12 * HOUR),
                span(1_200, -40, HOUR / 2),
                7,
                r#""str \"q\" ä\n""#,
                "ok",
                100,
            ),
            row(
                [-32768, -2147483648, i64::MIN],
                ["-0.000000000000000000001", "-9999999999.99"],
                -1e-30,
                true,
                ["one,two,,three", "2024-03-31", "é"],
                b"\x7f",
                (date(2023, 12, 31), 23 * HOUR),
                span(0, 0, -5 * HOUR),
                9,
                "null",
                "sad",
                -100,
            ),
            row(
                [12, 365, 86400],
                ["123456.789", "19.99"],
                0.1,
                true,
                ["CamelCase_snake", "abc", "abc"],
                b"md5",
                (date(2000, 1, 3), HOUR / 3),
                span(13, 45, 30 * HOUR),
                3,
                r#"{"a": "text", "n": -12.50, "t": true}"#,
                "happy",
                3,
            ),
            row(
                [5, 17, 1_000_000_007],
                ["2.5", "2.50"],
                2.5,
                false,
                ["tab\tnl\nend", "ÀÉ", "  x"],
                b"x",
                (date(1582, 10, 15), 6 * HOUR),
                span(-1, -1, -1),
                4,
                r#"{"": {"b": "c"}, "a": null}"#,
                "ok",
                5,
            ),
            row(
                [-1, 100, -5],
                ["1e-7", "1.00"],
                f64::from(f32::MAX),
                true,
                ["1", "-1", "1"],
                b"1",
                (date(-43, 3, 15), 9 * HOUR),
                span(5, 0, 0),
                5,
                "5",
                "sad",
                2,
            ),
            // Three and four bytes a character, one that is put together, and an hour that comes twice in Berlin.
            row(
                [7, -13, 4_294_967_296],
                ["0.5", "0.05"],
                16_777_217.0,
                false,
                ["中文 e\u{301}😀, ﬁ", "价：12，5", "中é"],
                "中".as_bytes(),
                (date(2024, 10, 26), 23 * HOUR + HOUR / 2),
                span(0, 1, -HOUR),
                0xab,
                r#"{"a": true, "中": ["😀", 100]}"#,
                "happy",
                9,
            ),
            // An hour that is left out there, and the last day of a leap year.
            row(
                [-128, 1_900, -4_294_967_297],
                ["-0.5", "-2.50"],
                -0.0,
                true,
                ["İSTANBUL straße ς", "ΑΣ ǅ", "  "],
                &[0xe4, 0xb8],
                (date(2024, 3, 31), 2 * HOUR + HOUR / 2),
                span(-25, 366, 24 * HOUR - 1),
                0x10,
                r#"{"a": 2, "b": {"c": []}}"#,
                "sad",
                366,
            ),
        ];
        // A small decimal in plain notation.
        if let Some(cell) = rows.get_mut(7).and_then(|row| row.get_mut(3)) {
            *cell = Value::Decimal("0.0000001".into());
        }
        // NULL wherever it may be.
        let mut nothing = vec![Value::Null; COLUMNS.len()];
        if let Some(cell) = nothing.last_mut() {
            *cell = Value::Int(4);
        }
        rows.push(nothing);
        // Infinities, and NaN.
        let mut ends = rows[0].clone();
        ends[3] = Value::Decimal("NaN".into());
        ends[5] = Value::Float32(f32::INFINITY);
        ends[6] = Value::Float64(f64::NAN);
        ends[12] = Value::Date(Date::INFINITY);
        ends[14] = Value::Timestamp(Timestamp::NEG_INFINITY);
        ends[15] = Value::Instant(Instant::INFINITY);
        rows.push(ends);
        rows
    })
}
