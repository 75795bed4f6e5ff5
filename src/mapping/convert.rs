//! Exact conversion of one value from a source column's type to a target column's type.
//!
//! Two questions, answered apart. *May* this pair of types ever work ([`compatible`], asked once a
//! plan, reported by `check`)? And can *this* value be held exactly ([`Conversion::apply`], asked a
//! row)? Nothing is rounded, cut, clamped or padded: a value that does not fit is an error that stops
//! its mapping, because a silently changed amount in an order book is worse than a stopped table.

use std::fmt;

use tidelock_core::value::DAY_MICROS;
use tidelock_core::{ByteString, Bytes, DataType, Date, Instant, Time, Timestamp, Value};

/// Why a value cannot be held by its target column; names no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub &'static str);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How a column's values are converted, compiled once.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    to: DataType,
    nullable: bool,
    /// The source pads its text with blanks that carry no meaning (`CHAR(n)`).
    trim: bool,
    same_family: bool,
}

/// Whether values of `from` can be written to a column of `to` at all; else the reason.
pub fn compatible(from: &DataType, to: &DataType) -> Result<(), String> {
    use DataType as T;
    if let T::Unsupported { name } = from {
        return Err(format!("source type {name} is not supported"));
    }
    if let T::Unsupported { name } = to {
        return Err(format!("target type {name} is not supported"));
    }
    if let T::RoundedFloat { name, .. } = to {
        return Err(format!("target type {name} rounds what is written to it"));
    }
    let fits = match (from, to) {
        (T::Bool, T::Bool | T::Int { .. })
        | (T::Int { .. }, T::Int { .. } | T::Decimal { .. } | T::Bool | T::Text { .. })
        | (T::Decimal { .. }, T::Decimal { .. } | T::Int { .. } | T::Text { .. })
        | (T::Float32 | T::RoundedFloat { double: false, .. }, T::Float32 | T::Float64)
        | (T::Float64 | T::RoundedFloat { double: true, .. }, T::Float64)
        | (T::Text { .. }, T::Text { .. } | T::Uuid | T::Json | T::Enum { .. })
        | (T::Bytes { .. }, T::Bytes { .. })
        | (T::Date, T::Date | T::Text { .. })
        | (T::Time { .. }, T::Time { .. })
        | (T::Timestamp { .. }, T::Timestamp { .. })
        | (T::Instant { .. }, T::Instant { .. })
        | (T::Uuid, T::Uuid | T::Text { .. })
        | (T::Json, T::Json | T::Text { .. })
        | (T::Enum { .. }, T::Enum { .. } | T::Text { .. }) => true,
        (T::Bytes { .. }, T::Uuid) | (T::Uuid, T::Bytes { .. }) => {
            return Err("bytes and uuid do not convert by themselves: the byte order of a binary \
                        uuid is the application's own"
                .to_owned());
        }
        (T::Instant { .. }, T::Timestamp { .. }) | (T::Timestamp { .. }, T::Instant { .. }) => {
            return Err("a point in time and a civil time without zone do not convert without \
                        naming a zone"
                .to_owned());
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{} cannot be written to {}", word(from), word(to))) }
}

fn word(data_type: &DataType) -> &str {
    match data_type {
        DataType::Bool => "a boolean",
        DataType::Int { .. } => "an integer",
        DataType::Decimal { .. } => "a decimal",
        DataType::Float32 | DataType::Float64 | DataType::RoundedFloat { .. } => "a float",
        DataType::Text { .. } => "text",
        DataType::Bytes { .. } => "bytes",
        DataType::Date => "a date",
        DataType::Time { .. } => "a time",
        DataType::Timestamp { .. } => "a timestamp without zone",
        DataType::Instant { .. } => "a timestamp with zone",
        DataType::Uuid => "a uuid",
        DataType::Json => "json",
        DataType::Enum { .. } => "an enum",
        DataType::Unsupported { name } => name,
    }
}

impl Conversion {
    /// The conversion between two compatible types. `same_family`: source and target are the same
    /// kind of server, so a value that only such servers know may pass.
    pub fn new(from: &DataType, to: &DataType, nullable: bool, same_family: bool) -> Self {
        let trim = matches!(from, DataType::Text { padded: true, .. });
        Conversion { to: to.clone(), nullable, trim, same_family }
    }

    /// The value as the target column holds it. `Unchanged` stays what it is.
    pub fn apply(&self, value: &Value) -> Result<Value, Misfit> {
        match value {
            Value::Unchanged => Ok(Value::Unchanged),
            Value::Null if self.nullable => Ok(Value::Null),
            Value::Null => Err(Misfit("NULL does not fit a NOT NULL column")),
            Value::Foreign(text) if self.same_family => Ok(Value::Foreign(text.clone())),
            Value::Foreign(_) => {
                Err(Misfit("the source's value has no form outside its own kind of server"))
            }
            Value::Bool(_)
            | Value::Int(_)
            | Value::UInt(_)
            | Value::Decimal(_)
            | Value::Float32(_)
            | Value::Float64(_)
            | Value::Text(_)
            | Value::Bytes(_)
            | Value::Date(_)
            | Value::Time(_)
            | Value::Timestamp(_)
            | Value::Instant(_)
            | Value::Uuid(_)
            | Value::Json(_)
            | Value::Enum(_) => self.present(value),
        }
    }

    fn present(&self, value: &Value) -> Result<Value, Misfit> {
        match &self.to {
            DataType::Bool => to_bool(value),
            DataType::Int { bits, unsigned } => to_int(value, *bits, *unsigned),
            DataType::Decimal { precision, scale } => self.to_decimal(value, *precision, *scale),
            DataType::Float32 => match value {
                Value::Float32(f) => self.finite(f64::from(*f)).map(|()| value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::Float64 => match value {
                Value::Float32(f) => {
                    // The nearest double of the shortest decimal form: what a person reads stays.
                    self.finite(f64::from(*f)).map(|()| Value::Float64(widen(*f)))
                }
                Value::Float64(f) => self.finite(*f).map(|()| value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::Text { chars_max, bytes_max, unicode, padded } => {
                let text = self.to_text(value)?;
                fits_text(&text, *chars_max, *bytes_max, *unicode, *padded)?;
                Ok(Value::Text(text))
            }
            DataType::Bytes { bytes_max, fixed } => to_bytes(value, *bytes_max, *fixed),
            DataType::Date => self.to_date(value),
            DataType::Time { fsp, span } => to_time(value, *fsp, *span),
            DataType::Timestamp { fsp } => self.to_timestamp(value, *fsp),
            DataType::Instant { fsp, narrow } => self.to_instant(value, *fsp, *narrow),
            DataType::Uuid => to_uuid(value),
            DataType::Json => match value {
                Value::Json(text) | Value::Text(text) => Ok(Value::Json(text.clone())),
                _ => Err(UNEXPECTED),
            },
            DataType::Enum { labels } => match value {
                Value::Enum(label) | Value::Text(label) => {
                    if labels.iter().any(|l| l.as_str() == &**label) {
                        Ok(Value::Enum(label.clone()))
                    } else {
                        Err(Misfit("the label is not one of the target's enum"))
                    }
                }
                _ => Err(UNEXPECTED),
            },
            DataType::RoundedFloat { .. } | DataType::Unsupported { .. } => Err(UNEXPECTED),
        }
    }

    fn finite(&self, f: f64) -> Result<(), Misfit> {
        if f.is_finite() || self.same_family {
            Ok(())
        } else {
            Err(Misfit("NaN and infinity do not fit a float column of the target"))
        }
    }

    fn to_decimal(
        &self,
        value: &Value,
        precision: Option<u16>,
        scale: Option<u16>,
    ) -> Result<Value, Misfit> {
        let text = match value {
            Value::Int(i) => ByteString::from(i.to_string()),
            Value::UInt(u) => ByteString::from(u.to_string()),
            Value::Decimal(d) => d.clone(),
            _ => return Err(UNEXPECTED),
        };
        let digits = match Digits::of(&text) {
            Some(digits) => digits,
            None if self.same_family && precision.is_none() => return Ok(Value::Decimal(text)),
            None if self.same_family && &*text == "NaN" => return Ok(Value::Decimal(text)),
            None => {
                return Err(Misfit("NaN and infinity do not fit a decimal column of the target"));
            }
        };
        if let Some(scale) = scale
            && digits.significant_scale > usize::from(scale)
        {
            return Err(Misfit("the number has more decimal places than the target column"));
        }
        if let Some(precision) = precision {
            let whole_max = usize::from(precision).saturating_sub(usize::from(scale.unwrap_or(0)));
            if digits.whole > whole_max {
                return Err(Misfit("the number has more digits than the target column"));
            }
        }
        Ok(Value::Decimal(text))
    }

    fn to_text(&self, value: &Value) -> Result<ByteString, Misfit> {
        match value {
            Value::Text(text) if self.trim => {
                let kept = text.trim_end_matches(' ');
                if kept.len() == text.len() { Ok(text.clone()) } else { Ok(ByteString::from(kept)) }
            }
            Value::Text(text) | Value::Decimal(text) | Value::Json(text) | Value::Enum(text) => {
                Ok(text.clone())
            }
            Value::Int(i) => Ok(ByteString::from(i.to_string())),
            Value::UInt(u) => Ok(ByteString::from(u.to_string())),
            Value::Uuid(id) => Ok(ByteString::from(uuid_text(id))),
            Value::Date(date) if !date.is_infinite() => {
                let (y, m, d) = date.to_ymd();
                if (0..=9999).contains(&y) {
                    Ok(ByteString::from(format!("{y:04}-{m:02}-{d:02}")))
                } else {
                    Err(Misfit("the date is outside the years 0 to 9999"))
                }
            }
            _ => Err(UNEXPECTED),
        }
    }

    fn to_date(&self, value: &Value) -> Result<Value, Misfit> {
        let Value::Date(date) = value else { return Err(UNEXPECTED) };
        self.in_calendar(date.is_infinite(), *date)?;
        Ok(value.clone())
    }

    /// Dates that only one kind of server knows: infinities, years before 1 or after 9999.
    fn in_calendar(&self, infinite: bool, date: Date) -> Result<(), Misfit> {
        if self.same_family {
            return Ok(());
        }
        if infinite {
            return Err(Misfit("an infinite date does not fit the target column"));
        }
        let (year, _, _) = date.to_ymd();
        if (1..=9999).contains(&year) {
            Ok(())
        } else {
            Err(Misfit("the date is outside the years 1 to 9999"))
        }
    }

    fn to_timestamp(&self, value: &Value, fsp: u8) -> Result<Value, Misfit> {
        let Value::Timestamp(at) = value else { return Err(UNEXPECTED) };
        self.in_calendar(at.is_infinite(), if at.is_infinite() { Date(0) } else { at.split().0 })?;
        fraction(at.is_infinite(), at.0, fsp)?;
        Ok(Value::Timestamp(Timestamp(at.0)))
    }

    fn to_instant(&self, value: &Value, fsp: u8, narrow: bool) -> Result<Value, Misfit> {
        let Value::Instant(at) = value else { return Err(UNEXPECTED) };
        let civil = Timestamp(at.0);
        self.in_calendar(
            at.is_infinite(),
            if at.is_infinite() { Date(0) } else { civil.split().0 },
        )?;
        fraction(at.is_infinite(), at.0, fsp)?;
        // MySQL's TIMESTAMP ends at 2038-01-19 03:14:07 UTC and begins after the epoch.
        if narrow && !(1_000_000..=2_147_483_647_999_999).contains(&at.0) {
            return Err(Misfit(
                "the instant is outside 1970 to 2038, the range of the target column",
            ));
        }
        Ok(Value::Instant(Instant(at.0)))
    }
}

/// Reached only if a connector delivers a value that is not of its column's type.
const UNEXPECTED: Misfit = Misfit("the value is not of the type that its column announced");

/// A float in double precision with the same shortest decimal form.
fn widen(f: f32) -> f64 {
    f.to_string().parse().unwrap_or(f64::from(f))
}

fn to_bool(value: &Value) -> Result<Value, Misfit> {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::Int(0) | Value::UInt(0) => Ok(Value::Bool(false)),
        Value::Int(1) | Value::UInt(1) => Ok(Value::Bool(true)),
        Value::Int(_) | Value::UInt(_) => Err(Misfit("only 0 and 1 fit a boolean column")),
        _ => Err(UNEXPECTED),
    }
}

fn to_int(value: &Value, bits: u8, unsigned: bool) -> Result<Value, Misfit> {
    let wide: i128 = match value {
        Value::Int(i) => i128::from(*i),
        Value::UInt(u) => i128::from(*u),
        Value::Bool(b) => i128::from(*b),
        Value::Decimal(d) => whole_number(d)?,
        _ => return Err(UNEXPECTED),
    };
    let (min, max) = if unsigned {
        (0, (1i128 << bits) - 1)
    } else {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    };
    if wide < min || wide > max {
        return Err(Misfit("the number is outside the range of the target column"));
    }
    match (i64::try_from(wide), u64::try_from(wide)) {
        (Ok(i), _) if !unsigned => Ok(Value::Int(i)),
        (_, Ok(u)) => Ok(Value::UInt(u)),
        _ => Err(UNEXPECTED),
    }
}

fn whole_number(text: &str) -> Result<i128, Misfit> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().any(|b| b != b'0') {
        return Err(Misfit("the number has decimal places and the target column has none"));
    }
    whole.parse().map_err(|_| Misfit("the number is outside the range of the target column"))
}

/// The digits of a decimal that count against precision and scale.
struct Digits {
    whole: usize,
    significant_scale: usize,
}

impl Digits {
    fn of(text: &str) -> Option<Digits> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
            return None;
        }
        Some(Digits {
            whole: whole.trim_start_matches('0').len(),
            significant_scale: fraction.trim_end_matches('0').len(),
        })
    }
}

fn fits_text(
    text: &str,
    chars_max: Option<u64>,
    bytes_max: Option<u64>,
    unicode: bool,
    padded: bool,
) -> Result<(), Misfit> {
    if !unicode && !text.is_ascii() {
        return Err(Misfit(
            "the target column's character set cannot hold any text beyond ASCII safely",
        ));
    }
    if text.contains('\0') {
        return Err(Misfit("text with a NUL character does not fit the target column"));
    }
    // Blanks that mean nothing at the source are gone by now, so these mean something.
    if padded && text.ends_with(' ') {
        return Err(Misfit("blanks at the end of a text do not last in the target's CHAR column"));
    }
    if let Some(max) = chars_max
        && text.len() as u64 > max
        && text.chars().count() as u64 > max
    {
        return Err(Misfit("the text is longer than the target column"));
    }
    if let Some(max) = bytes_max
        && text.len() as u64 > max
    {
        return Err(Misfit("the text is longer in bytes than the target column"));
    }
    Ok(())
}

fn to_bytes(value: &Value, bytes_max: Option<u64>, fixed: Option<u64>) -> Result<Value, Misfit> {
    let Value::Bytes(bytes) = value else { return Err(UNEXPECTED) };
    let len = bytes.len() as u64;
    if fixed.is_some_and(|n| n != len) {
        return Err(Misfit("the bytes are not as long as the target's fixed-length column"));
    }
    if bytes_max.is_some_and(|max| len > max) {
        return Err(Misfit("the bytes are longer than the target column"));
    }
    Ok(Value::Bytes(Bytes::clone(bytes)))
}

fn to_time(value: &Value, fsp: u8, span: bool) -> Result<Value, Misfit> {
    let Value::Time(Time(micros)) = value else { return Err(UNEXPECTED) };
    if !span && !(0..=DAY_MICROS).contains(micros) {
        return Err(Misfit("a span beyond one day does not fit a time of day"));
    }
    fraction(false, *micros, fsp)?;
    Ok(value.clone())
}

/// Refuses digits after the second that the column would round away.
fn fraction(infinite: bool, micros: i64, fsp: u8) -> Result<(), Misfit> {
    const UNIT: [i64; 7] = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let unit = UNIT.get(usize::from(fsp)).copied().unwrap_or(1);
    if infinite || micros % unit == 0 {
        Ok(())
    } else {
        Err(Misfit("the time has more digits after the second than the target column"))
    }
}

fn uuid_text(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn to_uuid(value: &Value) -> Result<Value, Misfit> {
    let text = match value {
        Value::Uuid(_) => return Ok(value.clone()),
        Value::Text(text) => text,
        _ => return Err(UNEXPECTED),
    };
    parse_uuid(text).map(Value::Uuid).ok_or(Misfit("the text is not a uuid"))
}

/// The canonical form only, in either case: another spelling would not come back the same.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut id = [0u8; 16];
    let mut at = 0;
    for byte in &mut id {
        if matches!(at, 8 | 13 | 18 | 23) {
            if bytes.get(at) != Some(&b'-') {
                return None;
            }
            at += 1;
        }
        let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        *byte = u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()?;
        at += 2;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMERIC_12_2: DataType = DataType::Decimal { precision: Some(12), scale: Some(2) };

    fn convert(from: &DataType, to: &DataType, value: Value) -> Result<Value, Misfit> {
        compatible(from, to).expect("compatible");
        Conversion::new(from, to, true, false).apply(&value)
    }

    #[test]
    fn decimals_are_never_rounded() {
        let any = DataType::Decimal { precision: None, scale: None };
        let dec = |t: &'static str| Value::Decimal(ByteString::from_static(t));
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.50")), Ok(dec("1.50")));
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.5000")), Ok(dec("1.5000")));
        assert!(convert(&any, &NUMERIC_12_2, dec("1.505")).is_err());
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("9999999999.99")), Ok(dec("9999999999.99")));
        assert!(convert(&any, &NUMERIC_12_2, dec("10000000000")).is_err());
        assert!(convert(&any, &NUMERIC_12_2, dec("NaN")).is_err());
    }

    #[test]
    fn integers_keep_to_the_width_and_sign_of_the_target() {
        let int = |bits, unsigned| DataType::Int { bits, unsigned };
        assert_eq!(
            convert(&int(64, true), &int(64, true), Value::UInt(u64::MAX)),
            Ok(Value::UInt(u64::MAX))
        );
        assert!(convert(&int(64, true), &int(64, false), Value::UInt(u64::MAX)).is_err());
        assert_eq!(
            convert(&int(32, false), &int(24, false), Value::Int(-8_388_608)),
            Ok(Value::Int(-8_388_608))
        );
        assert!(convert(&int(32, false), &int(24, false), Value::Int(8_388_608)).is_err());
        assert!(convert(&int(32, false), &int(8, true), Value::Int(-1)).is_err());
        assert_eq!(convert(&int(8, false), &DataType::Bool, Value::Int(1)), Ok(Value::Bool(true)));
        assert!(convert(&int(8, false), &DataType::Bool, Value::Int(2)).is_err());
    }

    #[test]
    fn text_is_never_cut_and_char_padding_is_dropped() {
        let text = |n, padded| DataType::Text {
            chars_max: Some(n),
            bytes_max: None,
            unicode: true,
            padded,
        };
        let t = |s: &'static str| Value::Text(ByteString::from_static(s));
        assert_eq!(convert(&text(9, true), &text(3, false), t("ab   ")), Ok(t("ab")));
        assert_eq!(convert(&text(9, false), &text(3, false), t("äöü")), Ok(t("äöü")));
        assert!(convert(&text(9, false), &text(3, false), t("abcd")).is_err());
        assert!(convert(&text(9, false), &text(3, false), t("ab  ")).is_err());
        assert!(convert(&text(9, false), &text(9, true), t("ab  ")).is_err());
        assert_eq!(convert(&text(9, false), &text(9, true), t("  ab")), Ok(t("  ab")));
        assert_eq!(convert(&text(9, true), &text(3, true), t("ab   ")), Ok(t("ab")));
    }

    #[test]
    fn a_float_that_rounds_is_read_and_never_written() {
        let name = "double(8,2)".to_owned();
        let rounded = DataType::RoundedFloat { double: true, name };
        let refused = compatible(&DataType::Float64, &rounded);
        assert!(refused.is_err_and(|why| why.contains("double(8,2)")));
        assert!(compatible(&rounded, &rounded).is_err());
        let number = Value::Float64(1.25);
        assert_eq!(convert(&rounded, &DataType::Float64, number.clone()), Ok(number));
        assert!(compatible(&rounded, &DataType::Float32).is_err());
    }

    #[test]
    fn times_keep_their_digits_or_are_refused() {
        let (fine, coarse) = (DataType::Timestamp { fsp: 6 }, DataType::Timestamp { fsp: 3 });
        let at = |micros| Value::Timestamp(Timestamp(micros));
        assert_eq!(convert(&fine, &coarse, at(1_234_000)), Ok(at(1_234_000)));
        assert!(convert(&fine, &coarse, at(1_234_001)).is_err());
        assert!(convert(&fine, &coarse, Value::Timestamp(Timestamp::INFINITY)).is_err());
        assert!(compatible(&fine, &DataType::Instant { fsp: 6, narrow: false }).is_err());
        let narrow = DataType::Instant { fsp: 6, narrow: true };
        let wide = DataType::Instant { fsp: 6, narrow: false };
        assert!(convert(&wide, &narrow, Value::Instant(Instant(2_147_483_648_000_000))).is_err());
    }

    #[test]
    fn uuids_round_trip_through_text() {
        let text =
            DataType::Text { chars_max: Some(36), bytes_max: None, unicode: true, padded: false };
        let id = Value::Uuid(*b"0123456789abcdef");
        let there = convert(&DataType::Uuid, &text, id.clone()).unwrap();
        assert_eq!(convert(&text, &DataType::Uuid, there), Ok(id));
    }

    #[test]
    fn unchanged_is_not_null() {
        let int = DataType::Int { bits: 32, unsigned: false };
        let strict = Conversion::new(&int, &int, false, false);
        assert_eq!(strict.apply(&Value::Unchanged), Ok(Value::Unchanged));
        assert!(strict.apply(&Value::Null).is_err());
    }
}
