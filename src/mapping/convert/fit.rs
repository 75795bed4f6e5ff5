//! Whether one value can be held by one column, type by type.

use std::net::IpAddr;

use tidelock_core::value::DAY_MICROS;
use tidelock_core::{
    ByteString, DataType, Date, Instant, Interval, Repertoire, Time, Timestamp, Value, form,
};

use super::{Misfit, UNEXPECTED};

/// The longest span of a MySQL `TIME` that every server takes: 838:59:59.
pub(super) const SPAN_MAX_MICROS: i64 = 3_020_399_000_000;
/// MySQL's `TIMESTAMP` begins after the epoch and ends at 2038-01-19 03:14:07.999999 UTC.
pub(super) const NARROW_MICROS: std::ops::RangeInclusive<i64> = 1_000_000..=2_147_483_647_999_999;

const OUTSIDE: Misfit = Misfit("the number is outside the range of the target column");

/// A float in double precision with the same shortest decimal form.
pub(super) fn widen(f: f32) -> f64 {
    f.to_string().parse().unwrap_or(f64::from(f))
}

/// A float in single precision, if it is one or reads like one: `0.1` is the same number to a person in
/// either precision.
pub(super) fn narrow(f: f64) -> Result<f32, Misfit> {
    let single = f as f32;
    if f64::from(single) == f || widen(single) == f || f.is_nan() {
        Ok(single)
    } else {
        Err(Misfit("the number has more digits than a float of single precision"))
    }
}

pub(super) fn to_bool(value: &Value, from: &DataType) -> Result<Value, Misfit> {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::Int(0) | Value::UInt(0) => Ok(Value::Bool(false)),
        Value::Int(1) | Value::UInt(1) => Ok(Value::Bool(true)),
        Value::Int(_) | Value::UInt(_) => Err(Misfit("only 0 and 1 fit a boolean column")),
        Value::Text(bits) if matches!(from, DataType::Bits { .. }) => match &**bits {
            "0" => Ok(Value::Bool(false)),
            "1" => Ok(Value::Bool(true)),
            _ => Err(UNEXPECTED),
        },
        _ => Err(UNEXPECTED),
    }
}

/// A whole number, or the number that a bit string is.
pub(super) fn whole(value: &Value, from: &DataType) -> Result<i128, Misfit> {
    match value {
        Value::Int(i) => Ok(i128::from(*i)),
        Value::UInt(u) => Ok(i128::from(*u)),
        Value::Bool(b) => Ok(i128::from(*b)),
        Value::Decimal(d) => whole_number(d),
        Value::Text(bits) if matches!(from, DataType::Bits { .. }) => {
            i128::from_str_radix(bits, 2).map_err(|_| OUTSIDE)
        }
        _ => Err(UNEXPECTED),
    }
}

/// The least and the greatest number of such a column.
pub(super) fn int_range(bits: u8, unsigned: bool) -> (i128, i128) {
    if unsigned {
        (0, (1i128 << bits) - 1)
    } else {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    }
}

pub(super) fn to_int(
    value: &Value,
    from: &DataType,
    bits: u8,
    unsigned: bool,
) -> Result<Value, Misfit> {
    let number = whole(value, from)?;
    let (min, max) = int_range(bits, unsigned);
    if number < min || number > max {
        return Err(OUTSIDE);
    }
    match (i64::try_from(number), u64::try_from(number)) {
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
    whole.parse().map_err(|_| OUTSIDE)
}

/// 0 is a year of its own (`0000`).
pub(super) fn to_year(value: &Value) -> Result<Value, Misfit> {
    let year = match value {
        Value::Int(i) => *i,
        Value::UInt(u) => i64::try_from(*u).map_err(|_| OUTSIDE)?,
        _ => return Err(UNEXPECTED),
    };
    if year == 0 || (1901..=2155).contains(&year) {
        Ok(Value::Int(year))
    } else {
        Err(Misfit("the year is outside 1901 to 2155, the range of the target column"))
    }
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

pub(super) fn to_decimal(
    value: &Value,
    precision: Option<u16>,
    scale: Option<u16>,
    same_family: bool,
) -> Result<Value, Misfit> {
    let text = match value {
        Value::Int(i) => ByteString::from(i.to_string()),
        Value::UInt(u) => ByteString::from(u.to_string()),
        Value::Decimal(d) => d.clone(),
        _ => return Err(UNEXPECTED),
    };
    decimal(&text, precision, scale, same_family).map(|()| Value::Decimal(text))
}

/// Whether a decimal can be held as it is written.
pub(super) fn decimal(
    text: &str,
    precision: Option<u16>,
    scale: Option<u16>,
    same_family: bool,
) -> Result<(), Misfit> {
    let digits = match Digits::of(text) {
        Some(digits) => digits,
        None if same_family && (precision.is_none() || text == "NaN") => return Ok(()),
        None => return Err(Misfit("NaN and infinity do not fit a decimal column of the target")),
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
    Ok(())
}

pub(super) fn no_nul(text: &str) -> Result<(), Misfit> {
    if text.contains('\0') {
        return Err(Misfit("text with a NUL character does not fit the target column"));
    }
    Ok(())
}

pub(super) fn text(
    text: &str,
    chars_max: Option<u64>,
    bytes_max: Option<u64>,
    repertoire: &Repertoire,
    padded: bool,
) -> Result<(), Misfit> {
    if !repertoire.holds(text) {
        return Err(Misfit("the target column's character set lacks a character of the text"));
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

pub(super) fn to_bytes(
    value: &Value,
    bytes_max: Option<u64>,
    fixed: Option<u64>,
) -> Result<Value, Misfit> {
    let Value::Bytes(held) = value else { return Err(UNEXPECTED) };
    bytes(held, bytes_max, fixed).map(|()| value.clone())
}

/// Whether bytes can be held as they are.
pub(super) fn bytes(
    bytes: &[u8],
    bytes_max: Option<u64>,
    fixed: Option<u64>,
) -> Result<(), Misfit> {
    let len = bytes.len() as u64;
    if fixed.is_some_and(|n| n != len) {
        return Err(Misfit("the bytes are not as long as the target's fixed-length column"));
    }
    if bytes_max.is_some_and(|max| len > max) {
        return Err(Misfit("the bytes are longer than the target column"));
    }
    Ok(())
}

/// The day of a time in microseconds since 1970; the infinities have one of their own.
pub(super) fn day(micros: i64) -> Date {
    match Timestamp(micros) {
        Timestamp::INFINITY => Date::INFINITY,
        Timestamp::NEG_INFINITY => Date::NEG_INFINITY,
        at => at.split().0,
    }
}

/// Whether a date has a year of four digits, so that its text means the same everywhere.
pub(super) fn in_years(date: Date) -> Result<(), Misfit> {
    if date.is_infinite() {
        return Err(Misfit("an infinite date has no text that means the same everywhere"));
    }
    if (1..=9999).contains(&date.to_ymd().0) {
        Ok(())
    } else {
        Err(Misfit("the date is outside the years 1 to 9999"))
    }
}

/// Dates that only one kind of server knows: infinities, years before 1 or after 9999.
pub(super) fn in_calendar(date: Date, same_family: bool) -> Result<(), Misfit> {
    if same_family {
        return Ok(());
    }
    if date.is_infinite() {
        return Err(Misfit("an infinite date does not fit the target column"));
    }
    in_years(date)
}

pub(super) fn timestamp(at: Timestamp, fsp: u8, same_family: bool) -> Result<Timestamp, Misfit> {
    in_calendar(day(at.0), same_family)?;
    fraction(at.is_infinite(), at.0, fsp)?;
    Ok(at)
}

pub(super) fn instant(
    at: Instant,
    fsp: u8,
    narrow: bool,
    same_family: bool,
) -> Result<Instant, Misfit> {
    in_calendar(day(at.0), same_family)?;
    fraction(at.is_infinite(), at.0, fsp)?;
    if narrow && !NARROW_MICROS.contains(&at.0) {
        return Err(Misfit("the instant is outside 1970 to 2038, the range of the target column"));
    }
    Ok(at)
}

pub(super) fn to_time(
    value: &Value,
    fsp: u8,
    span: bool,
    same_family: bool,
) -> Result<Value, Misfit> {
    let micros = match value {
        Value::Time(Time(micros)) => *micros,
        Value::Interval(span) if !span.is_infinite() && span.months == 0 && span.days == 0 => {
            span.micros
        }
        Value::Interval(_) => {
            return Err(Misfit("an interval with days or months does not fit a time"));
        }
        _ => return Err(UNEXPECTED),
    };
    if !span && !(0..=DAY_MICROS).contains(&micros) {
        return Err(Misfit("a span beyond one day does not fit a time of day"));
    }
    if span && !same_family && micros.unsigned_abs() > SPAN_MAX_MICROS.unsigned_abs() {
        return Err(Misfit("the span is beyond 838:59:59, the range of the target column"));
    }
    fraction(false, micros, fsp)?;
    Ok(Value::Time(Time(micros)))
}

pub(super) fn to_interval(value: &Value, fsp: u8) -> Result<Value, Misfit> {
    let span = match value {
        Value::Interval(span) => *span,
        Value::Time(Time(micros)) => Interval { months: 0, days: 0, micros: *micros },
        Value::Text(text) => form::parse_interval(text)
            .ok_or(Misfit("the text is no interval as PostgreSQL writes one"))?,
        _ => return Err(UNEXPECTED),
    };
    fraction(span.is_infinite(), span.micros, fsp)?;
    Ok(Value::Interval(span))
}

/// Microseconds of the last digit that a column of so many digits keeps.
pub(super) fn unit(fsp: u8) -> i64 {
    const UNIT: [i64; 7] = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    UNIT.get(usize::from(fsp)).copied().unwrap_or(1)
}

/// Refuses digits after the second that the column would round away.
fn fraction(infinite: bool, micros: i64, fsp: u8) -> Result<(), Misfit> {
    if infinite || micros % unit(fsp) == 0 {
        Ok(())
    } else {
        Err(Misfit("the time has more digits after the second than the target column"))
    }
}

pub(super) fn to_uuid(value: &Value) -> Result<Value, Misfit> {
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

/// The labels of a set, brought into the target's own order.
pub(super) fn to_set(text: &ByteString, labels: &[String]) -> Result<Value, Misfit> {
    const UNKNOWN: Misfit = Misfit("a label is not one of the target's set");
    let mut on = vec![false; labels.len()];
    for label in text.split(',').filter(|_| !text.is_empty()) {
        let at = labels.iter().position(|l| l == label).ok_or(UNKNOWN)?;
        match on.get_mut(at) {
            Some(place) if !*place => *place = true,
            _ => return Err(Misfit("a label stands twice in the set")),
        }
    }
    let kept: Vec<&str> =
        labels.iter().zip(&on).filter(|(_, on)| **on).map(|(label, _)| label.as_str()).collect();
    Ok(Value::Text(kept.join(",").into()))
}

pub(super) fn to_bits(
    value: &Value,
    length: Option<u64>,
    varying: bool,
) -> Result<ByteString, Misfit> {
    let number = match value {
        Value::Text(bits) if bits.bytes().all(|b| matches!(b, b'0' | b'1')) => {
            let digits = bits.len() as u64;
            let fits = match length {
                None => true,
                Some(max) if varying => digits <= max,
                Some(exact) => digits == exact,
            };
            return if fits {
                Ok(bits.clone())
            } else {
                Err(Misfit("the bit string has not the length of the target column"))
            };
        }
        Value::Text(_) => return Err(Misfit("the text is no string of bits")),
        Value::Bool(b) => u64::from(*b),
        Value::Int(i) => u64::try_from(*i).map_err(|_| OUTSIDE)?,
        Value::UInt(u) => *u,
        _ => return Err(UNEXPECTED),
    };
    let digits = usize::try_from(length.unwrap_or(64)).map_err(|_| UNEXPECTED)?;
    let text = format!("{number:0digits$b}");
    if text.len() > digits { Err(OUTSIDE) } else { Ok(text.into()) }
}

pub(super) fn address(text: &str, v4: bool, v6: bool, network: bool) -> Result<(), Misfit> {
    let (host, bits) = text.split_once('/').map_or((text, None), |(h, b)| (h, Some(b)));
    let host: IpAddr = host.parse().map_err(|_| Misfit("the text is no Internet address"))?;
    let most = if host.is_ipv4() { 32 } else { 128 };
    if let Some(bits) = bits {
        let bits: u8 = bits.parse().map_err(|_| Misfit("the text is no Internet address"))?;
        if bits > most {
            return Err(Misfit("the text is no Internet address"));
        }
        if !network {
            return Err(Misfit("a network does not fit a column of single addresses"));
        }
    }
    if (host.is_ipv4() && v4) || (host.is_ipv6() && v6) {
        Ok(())
    } else {
        Err(Misfit("the address is of another version than the target column takes"))
    }
}
