//! PostgreSQL's types and the text form of their values.
//!
//! Values arrive as the text of the type's output function in a session whose settings are pinned
//! (`DateStyle` ISO, `IntervalStyle` postgres, `TimeZone` UTC, `extra_float_digits` 3, `bytea_output` hex,
//! `lc_monetary` C), so each type has one grammar. The parsers here accept exactly that grammar and never
//! round: what does not fit the canonical form becomes [`Value::Foreign`], what does not fit the grammar is
//! `None`. A type without canonical form (an array, a range, a type of an extension, any type that is not
//! known here) is carried by its text: [`DataType::Native`].

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidelock_core::form::{parse_clock, parse_interval};
use tidelock_core::{DataType, Date, Instant, Repertoire, Result, Time, Timestamp, Value};

use crate::session::{Session, get};

/// The type oids of the types we carry; they are fixed for ever.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const MONEY: u32 = 790;
    pub(super) const INET: u32 = 869;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const INTERVAL: u32 = 1186;
    pub(super) const BIT: u32 = 1560;
    pub(super) const VARBIT: u32 = 1562;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
}

/// A type that is not built in, as the catalog describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Domain {
        base: u32,
        modifier: i32,
        not_null: bool,
    },
    Enum(Arc<[String]>),
    /// `citext`: text to anybody but an index.
    Text,
    Other {
        name: String,
        /// Stands for the lengths and precisions inside a composite, or in an array of such; -1 for none.
        limits: i32,
    },
}

/// The lengths and precisions of what types consist of: two types of one name may differ in them, and the server
/// rounds to them without a word.
const LIMITS_SQL: &str = "\
WITH RECURSIVE parts(root, type, modifier, path) AS ( \
    SELECT t.oid, t.oid, -1, '' COLLATE \"C\" FROM pg_type t WHERE t.oid = ANY($1) \
  UNION ALL \
    SELECT p.root, x.type, x.modifier, p.path || x.step \
    FROM parts p JOIN pg_type t ON t.oid = p.type CROSS JOIN LATERAL ( \
        SELECT a.atttypid, a.atttypmod, '.' || a.attnum || a.attname::text FROM pg_attribute a \
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
      UNION ALL SELECT t.typelem, -1, '[]' WHERE t.typcategory = 'A' AND t.typelem <> 0 \
      UNION ALL SELECT t.typbasetype, t.typtypmod, '=' WHERE t.typtype = 'd' \
    ) x(type, modifier, step)) \
SELECT root, string_agg(path || ' ' || format_type(type, modifier), ',' ORDER BY path) \
FROM parts WHERE modifier >= 0 GROUP BY root";

/// A number for a text, the same on every machine (FNV-1a), not negative.
fn fingerprint(text: &str) -> i32 {
    let hash = text
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 1) as i32
}

/// The types of a server that are not built in, as far as they were looked up.
#[derive(Debug, Default)]
pub(crate) struct TypeMap(HashMap<u32, Named>);

impl TypeMap {
    /// Whether the type must be looked up before [`TypeMap::data_type`] can tell.
    pub(crate) fn lacks(&self, type_oid: u32) -> bool {
        match self.0.get(&type_oid) {
            Some(Named::Domain { base, .. }) => self.lacks(*base),
            Some(Named::Enum(_) | Named::Text | Named::Other { .. }) => false,
            None => built_in(type_oid, -1).is_none(),
        }
    }

    /// Looks up these types, and those that domains among them are made of.
    pub(crate) async fn load(&mut self, session: &Session, oids: &[u32]) -> Result<()> {
        let mut wanted: Vec<u32> = oids.iter().copied().filter(|&o| self.lacks(o)).collect();
        while !wanted.is_empty() {
            // Without a modifier (-1, not NULL) `char(n)[]` is `bpchar[]`: `character[]` would be a cast to one
            // character each.
            let sql = "SELECT t.oid, t.typtype::text, t.typbasetype, t.typtypmod, t.typnotnull, \
                       format_type(t.oid, -1), \
                       array(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid \
                             ORDER BY e.enumsortorder), t.typname::text \
                       FROM pg_type t WHERE t.oid = ANY($1)";
            let rows = session.query("reading types", sql, &[&wanted]).await?;
            let mut limits = HashMap::new();
            for row in &session.query("reading types", LIMITS_SQL, &[&wanted]).await? {
                limits.insert(get::<u32>(row, 0)?, fingerprint(get(row, 1)?));
            }
            // A type dropped meanwhile still needs an entry, or we would ask for ever.
            for missing in wanted.drain(..) {
                self.0.entry(missing).or_insert_with(|| Named::Other {
                    name: format!("type {missing}"),
                    limits: -1,
                });
            }
            for row in &rows {
                let type_oid: u32 = get(row, 0)?;
                let named = match get::<&str>(row, 1)? {
                    "d" => Named::Domain {
                        base: get(row, 2)?,
                        modifier: get(row, 3)?,
                        not_null: get(row, 4)?,
                    },
                    "e" => Named::Enum(get::<Vec<String>>(row, 6)?.into()),
                    _ if get::<&str>(row, 7)? == "citext" => Named::Text,
                    _ => Named::Other {
                        name: get(row, 5)?,
                        limits: limits.get(&type_oid).copied().unwrap_or(-1),
                    },
                };
                if let Named::Domain { base, .. } = named
                    && !self.0.contains_key(&base)
                    && built_in(base, -1).is_none()
                {
                    wanted.push(base);
                }
                self.0.insert(type_oid, named);
            }
        }
        Ok(())
    }

    /// What a column of this type can hold.
    pub(crate) fn data_type(&self, type_oid: u32, modifier: i32) -> DataType {
        if let Some(data_type) = built_in(type_oid, modifier) {
            return data_type;
        }
        match self.0.get(&type_oid) {
            Some(Named::Domain { base, modifier, .. }) => self.data_type(*base, *modifier),
            Some(Named::Enum(labels)) => DataType::Enum { labels: labels.clone() },
            Some(Named::Text) => unlimited_text(),
            Some(Named::Other { name, limits }) => {
                let modifier = if modifier < 0 { *limits } else { modifier };
                DataType::Native { name: name.clone(), modifier }
            }
            None => DataType::Unsupported { name: format!("type {type_oid}") },
        }
    }

    /// Whether the type itself forbids NULL.
    pub(crate) fn forbids_null(&self, type_oid: u32) -> bool {
        match self.0.get(&type_oid) {
            Some(Named::Domain { base, not_null, .. }) => *not_null || self.forbids_null(*base),
            _ => false,
        }
    }
}

fn unlimited_text() -> DataType {
    DataType::Text {
        chars_max: None,
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: false,
    }
}

/// What a column of a built-in type can hold; `None` for a type that the catalog must be asked for.
fn built_in(type_oid: u32, modifier: i32) -> Option<DataType> {
    let length = u64::try_from(modifier.saturating_sub(4)).ok();
    let fsp = u8::try_from(modifier).unwrap_or(6).min(6);
    let text = |chars_max, padded| {
        let repertoire = Repertoire::Unicode;
        DataType::Text { chars_max, bytes_max: None, repertoire, padded }
    };
    let bits = |varying| DataType::Bits { length: u64::try_from(modifier).ok(), varying };
    Some(match type_oid {
        oid::BOOL => DataType::Bool,
        oid::INT2 => DataType::Int { bits: 16, unsigned: false },
        oid::INT4 => DataType::Int { bits: 32, unsigned: false },
        oid::INT8 => DataType::Int { bits: 64, unsigned: false },
        oid::OID => DataType::Int { bits: 32, unsigned: true },
        oid::NUMERIC => decimal(modifier),
        // 64 bits of hundredths.
        oid::MONEY => DataType::Decimal { precision: Some(19), scale: Some(2) },
        oid::FLOAT4 => DataType::Float32,
        oid::FLOAT8 => DataType::Float64,
        oid::TEXT => unlimited_text(),
        oid::VARCHAR => text(length, false),
        oid::BPCHAR => text(length, length.is_some()),
        oid::NAME => DataType::Text {
            chars_max: None,
            bytes_max: Some(63),
            repertoire: Repertoire::Unicode,
            padded: false,
        },
        oid::BYTEA => DataType::Bytes { bytes_max: None, fixed: None },
        oid::DATE => DataType::Date,
        oid::TIME => DataType::Time { fsp, span: false },
        oid::TIMESTAMP => DataType::Timestamp { fsp },
        oid::TIMESTAMPTZ => DataType::Instant { fsp, narrow: false },
        oid::INTERVAL => interval(modifier),
        oid::BIT => bits(false),
        oid::VARBIT => bits(true),
        oid::INET => DataType::Address { v4: true, v6: true, network: true },
        oid::UUID => DataType::Uuid,
        oid::JSON | oid::JSONB => DataType::Json,
        _ => return None,
    })
}

/// A span; one that is restricted to some of its fields (`interval year to month`) has no canonical form.
fn interval(modifier: i32) -> DataType {
    const ALL_FIELDS: i32 = 0x7fff;
    if modifier >= 0 && modifier >> 16 & 0x7fff != ALL_FIELDS {
        return DataType::Native { name: "interval".to_owned(), modifier };
    }
    let fsp = if modifier < 0 { 6 } else { (modifier & 0xffff).min(6) as u8 };
    DataType::Interval { fsp }
}

/// A numeric type; one of a negative scale (PostgreSQL 15 on) rounds before the point and has no canonical form.
fn decimal(modifier: i32) -> DataType {
    let Ok(packed) = u32::try_from(modifier.saturating_sub(4)) else {
        return DataType::Decimal { precision: None, scale: None };
    };
    let precision = (packed >> 16 & 0xffff) as u16;
    let scale = ((packed & 0x7ff) as i32 ^ 1024) - 1024;
    match u16::try_from(scale) {
        Ok(scale) if scale <= precision => {
            DataType::Decimal { precision: Some(precision), scale: Some(scale) }
        }
        // Fewer digits than places: zeros behind the point.
        Ok(scale) => DataType::Decimal { precision: Some(scale), scale: Some(scale) },
        Err(_) => DataType::Native { name: "numeric".to_owned(), modifier },
    }
}

/// The value that a text of this type stands for; `None` if it is not a text of that type.
pub(crate) fn value(data_type: &DataType, text: &Bytes) -> Option<Value> {
    value_within(data_type, text, text)
}

/// The same for a text that is a part of `whole`, which a value may share.
pub(crate) fn value_within(data_type: &DataType, text: &[u8], whole: &Bytes) -> Option<Value> {
    // The common shapes of the common types, without a look at what characters they are made of.
    match data_type {
        DataType::Int { .. } => {
            if let Some(number) = plain_int(text) {
                return Some(Value::Int(number));
            }
        }
        DataType::Date => {
            if let Some(date) = plain_date(text) {
                return Some(Value::Date(date));
            }
        }
        DataType::Timestamp { .. } => {
            if let Some(at) = plain_stamp(text) {
                return Some(Value::Timestamp(at));
            }
        }
        DataType::Instant { .. } => {
            if let Some(Timestamp(at)) = text.strip_suffix(b"+00").and_then(plain_stamp) {
                return Some(Value::Instant(Instant(at)));
            }
        }
        _ => {}
    }
    let string = ByteString::try_from(whole.slice_ref(text)).ok()?;
    let str: &str = &string;
    Some(match data_type {
        DataType::Bool => match str {
            "t" => Value::Bool(true),
            "f" => Value::Bool(false),
            _ => return None,
        },
        DataType::Int { .. } => Value::Int(str.parse().ok()?),
        DataType::Decimal { .. } if matches!(text, [b'$', ..] | [b'-', b'$', ..]) => {
            Value::Decimal(
                str.chars().filter(|c| !matches!(c, '$' | ',')).collect::<String>().into(),
            )
        }
        DataType::Decimal { .. } => Value::Decimal(string),
        DataType::Float32 => Value::Float32(str.parse().ok()?),
        DataType::Float64 => Value::Float64(str.parse().ok()?),
        DataType::Text { .. }
        | DataType::Bits { .. }
        | DataType::Address { .. }
        | DataType::Native { .. } => Value::Text(string),
        DataType::Bytes { .. } => Value::Bytes(hex(str.strip_prefix("\\x")?)?),
        DataType::Date => date(str)?,
        DataType::Time { .. } => Value::Time(Time(parse_clock(str)?)),
        DataType::Timestamp { .. } => timestamp(str, &string)?,
        DataType::Instant { .. } => instant(str, &string)?,
        DataType::Interval { .. } => Value::Interval(parse_interval(str)?),
        DataType::Uuid => Value::Uuid(uuid(str)?),
        DataType::Json => Value::Json(string),
        DataType::Enum { .. } => Value::Enum(string),
        DataType::RoundedFloat { .. }
        | DataType::Year
        | DataType::Set { .. }
        | DataType::Opaque { .. } => return None,
        DataType::Unsupported { .. } => Value::Foreign(string),
    })
}

/// Digits and nothing else.
fn plain_digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number: i64, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// A number of at most 18 digits, which cannot run over.
fn plain_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    plain_digits(digits).map(|number| if negative { -number } else { number })
}

/// `2024-02-03`.
fn plain_date(text: &[u8]) -> Option<Date> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = plain_digits(&[y1, y2, y3, y4])?;
    let (month, day) = (plain_digits(&[m1, m2])?, plain_digits(&[d1, d2])?);
    Date::from_ymd(year as i32, month as u32, day as u32)
}

/// `2024-02-03 12:34:56`, and up to six digits behind a point.
fn plain_stamp(text: &[u8]) -> Option<Timestamp> {
    let (date, rest) = text.split_at_checked(10)?;
    let (clock, fraction) = rest.split_at_checked(9)?;
    let &[b' ', h1, h2, b':', m1, m2, b':', s1, s2] = clock else { return None };
    let hours = plain_digits(&[h1, h2])?;
    let (minutes, seconds) = (plain_digits(&[m1, m2])?, plain_digits(&[s1, s2])?);
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            plain_digits(digits)? * 10_i64.pow(6 - digits.len() as u32)
        }
        _ => return None,
    };
    // The rest of the grammar, and of what is outside it, is left to the careful reader.
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let clock = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros;
    Timestamp::new(plain_date(date)?, Time(clock))
}

fn hex(text: &str) -> Option<Bytes> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    hex(&digits)?.as_ref().try_into().ok()
}

/// Unsigned decimal digits only: `str::parse` alone would take a sign as well.
fn digits(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// `2024-02-03`, with ` BC` already told apart.
fn civil_date(text: &str, before_christ: bool) -> Option<Date> {
    let mut parts = text.splitn(3, '-').map(digits);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // There is no year 0: 1 BC comes right before 1 AD.
    let year = if before_christ { 1 - year } else { year };
    Date::from_ymd(year, u32::try_from(month).ok()?, u32::try_from(day).ok()?)
}

fn split_era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

fn date(text: &str) -> Option<Value> {
    Some(Value::Date(match text {
        "infinity" => Date::INFINITY,
        "-infinity" => Date::NEG_INFINITY,
        _ => {
            let (text, before_christ) = split_era(text);
            civil_date(text, before_christ)?
        }
    }))
}

fn date_time(text: &str, before_christ: bool) -> Option<Option<Timestamp>> {
    let (date, time) = text.split_once(' ')?;
    Some(Timestamp::new(civil_date(date, before_christ)?, Time(parse_clock(time)?)))
}

fn timestamp(text: &str, whole: &ByteString) -> Option<Value> {
    Some(match text {
        "infinity" => Value::Timestamp(Timestamp::INFINITY),
        "-infinity" => Value::Timestamp(Timestamp::NEG_INFINITY),
        _ => {
            let (text, before_christ) = split_era(text);
            // PostgreSQL's last centuries do not fit: it counts from 2000, we from 1970.
            match date_time(text, before_christ)? {
                Some(t) if !t.is_infinite() => Value::Timestamp(t),
                _ => Value::Foreign(whole.clone()),
            }
        }
    })
}

fn instant(text: &str, whole: &ByteString) -> Option<Value> {
    Some(match text {
        "infinity" => Value::Instant(Instant::INFINITY),
        "-infinity" => Value::Instant(Instant::NEG_INFINITY),
        _ => {
            let (text, before_christ) = split_era(text);
            // The session's zone is UTC, so no other offset can come.
            let text = text.strip_suffix("+00")?;
            match date_time(text, before_christ)? {
                Some(t) if !t.is_infinite() => Value::Instant(Instant(t.0)),
                _ => Value::Foreign(whole.clone()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data_type: DataType, text: &str) -> Option<Value> {
        value(&data_type, &Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn times_are_exact_and_eras_counted_without_a_year_zero() {
        let stamp = |t: &str| read(DataType::Timestamp { fsp: 6 }, t);
        assert_eq!(stamp("1970-01-01 00:00:00"), Some(Value::Timestamp(Timestamp(0))));
        assert_eq!(stamp("1969-12-31 23:59:59.999999"), Some(Value::Timestamp(Timestamp(-1))));
        assert_eq!(stamp("1970-01-01 00:00:00.5"), Some(Value::Timestamp(Timestamp(500_000))));
        assert_eq!(stamp("infinity"), Some(Value::Timestamp(Timestamp::INFINITY)));
        let late = "294276-12-31 23:59:59.999999";
        assert_eq!(stamp(late), Some(Value::Foreign(late.into())));
        assert_eq!(
            read(DataType::Date, "0001-12-31 BC"),
            Date::from_ymd(0, 12, 31).map(Value::Date)
        );
        assert_eq!(
            read(DataType::Date, "5874897-12-31"),
            Date::from_ymd(5_874_897, 12, 31).map(Value::Date)
        );
        assert_eq!(
            read(DataType::Instant { fsp: 6, narrow: false }, "2000-01-01 00:00:00+00"),
            Some(Value::Instant(Instant(946_684_800_000_000)))
        );
        assert_eq!(
            read(DataType::Instant { fsp: 6, narrow: false }, "2000-01-01 00:00:00+08"),
            None
        );
        assert_eq!(
            read(DataType::Time { fsp: 6, span: false }, "24:00:00"),
            Some(Value::Time(Time(86_400_000_000)))
        );
    }

    #[test]
    fn texts_outside_the_grammar_are_refused() {
        for (data_type, text) in [
            (DataType::Bool, "true"),
            (DataType::Date, "2024-02-30"),
            (DataType::Date, "2024-+2-03"),
            (DataType::Bytes { bytes_max: None, fixed: None }, "\\000"),
            (DataType::Bytes { bytes_max: None, fixed: None }, "\\xabc"),
            (DataType::Uuid, "0"),
            (DataType::Time { fsp: 6, span: false }, "12:00"),
            (DataType::Interval { fsp: 6 }, "P1Y"),
            (DataType::Int { bits: 64, unsigned: false }, "9223372036854775808"),
        ] {
            assert_eq!(read(data_type, text), None, "{text}");
        }
        assert_eq!(value(&unlimited_text(), &Bytes::from_static(b"\xff")), None);
    }

    #[test]
    fn money_is_a_number_of_hundredths() {
        let money = |text| read(DataType::Decimal { precision: Some(19), scale: Some(2) }, text);
        assert_eq!(money("$1,234.50"), Some(Value::Decimal("1234.50".into())));
        assert_eq!(
            money("-$92,233,720,368,547,758.08"),
            Some(Value::Decimal("-92233720368547758.08".into()))
        );
    }

    #[test]
    fn spans_of_some_fields_only_are_told_apart() {
        assert_eq!(interval(-1), DataType::Interval { fsp: 6 });
        assert_eq!(interval(0x7fff << 16 | 3), DataType::Interval { fsp: 3 });
        assert_eq!(interval(0x7fff << 16 | 0xffff), DataType::Interval { fsp: 6 });
        let year_to_month = 6 << 16 | 0xffff;
        assert!(matches!(interval(year_to_month), DataType::Native { .. }));
    }

    #[test]
    fn numeric_modifiers_are_unpacked() {
        let modifier = |precision: i32, scale: i32| (precision << 16 | scale & 0x7ff) + 4;
        assert_eq!(
            decimal(modifier(12, 2)),
            DataType::Decimal { precision: Some(12), scale: Some(2) }
        );
        assert_eq!(decimal(-1), DataType::Decimal { precision: None, scale: None });
        assert_eq!(
            decimal(modifier(2, -3)),
            DataType::Native { name: "numeric".into(), modifier: modifier(2, -3) }
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_of_any_type_gives_an_answer(
            type_oid in proptest::sample::select(vec![16u32, 17, 19, 20, 21, 23, 25, 114, 700, 701, 1042,
                1043, 1082, 1083, 1114, 1184, 1700, 2950, 3802, 1186]),
            modifier in proptest::prelude::any::<i32>(),
            text in "[-0-9:. +BCinfyT\\\\xa-f]{0,40}|.{0,20}",
        ) {
            let data_type = TypeMap::default().data_type(type_oid, modifier);
            let _ = value(&data_type, &Bytes::from(text.into_bytes()));
        }
    }

    proptest::proptest! {
        #[test]
        fn the_quick_reader_says_what_the_careful_one_says(
            text in "-?[0-9]{0,20}|[0-9]{4}-[01][0-9]-[0-3][0-9]( [0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,7})?)?|[-+:. 0-9]{0,26}",
        ) {
            let bytes = text.as_bytes();
            if let Some(number) = plain_int(bytes) {
                proptest::prop_assert_eq!(text.parse(), Ok(number));
            }
            if let Some(day) = plain_date(bytes) {
                proptest::prop_assert_eq!(date(&text), Some(Value::Date(day)));
            }
            if let Some(at) = plain_stamp(bytes) {
                let careful = timestamp(&text, &text.as_str().into());
                proptest::prop_assert_eq!(careful, Some(Value::Timestamp(at)));
            }
        }
    }

    #[test]
    fn fuzz_damaged_texts_give_an_answer() {
        let corpus: Vec<Vec<u8>> = [
            "t",
            "-9223372036854775808",
            "-12345678901234567890.00100",
            "1.7976931348623157e+308",
            "NaN",
            "-infinity",
            "Ärger und Ähnliches",
            "\\xdeadbeef00",
            "2024-02-29",
            "4713-01-01 BC",
            "5874897-12-31",
            "23:59:59.999999",
            "2024-02-29 12:34:56.789",
            "294276-12-31 23:59:59.999999",
            "0044-03-15 00:00:00 BC",
            "2024-02-29 12:34:56.789+00",
            "0f0e0d0c-0b0a-0908-0706-050403020100",
            "{\"a\": [1, null, \"\\u00e4\"]}",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
        let types: Vec<DataType> = [
            16u32, 17, 19, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 1700,
            2950, 3802, 1186,
        ]
        .map(|type_oid| TypeMap::default().data_type(type_oid, -1))
        .to_vec();
        let bytes_max = |length: usize| 16 * length as u64 + 1024;
        tidelock_fuzz::fuzz("types", &corpus, bytes_max, |bytes| {
            let text = Bytes::copy_from_slice(bytes);
            for data_type in &types {
                let _ = value(data_type, &text);
            }
        });
    }

    #[test]
    fn floats_keep_every_bit() {
        assert_eq!(read(DataType::Float64, "0.30000000000000004"), Some(Value::Float64(0.1 + 0.2)));
        assert!(matches!(read(DataType::Float64, "NaN"), Some(Value::Float64(f)) if f.is_nan()));
        assert_eq!(read(DataType::Float32, "-Infinity"), Some(Value::Float32(f32::NEG_INFINITY)));
    }
}
