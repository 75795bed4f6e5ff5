//! The nearest value that a column can hold, for `on_unrepresentable = "clamp"`.
//!
//! Numbers go to the end of the range, or are rounded half away from zero; times go to the end of the
//! calendar, or lose the digits beyond the column's; texts are cut after the last character that fits,
//! and lose NUL characters. What has no nearest value (NaN, a label that the target lacks, a character
//! that its set lacks) stays an error.

use tidelock_core::value::DAY_MICROS;
use tidelock_core::{ByteString, Bytes, DataType, Date, Instant, Interval, Time, Timestamp, Value};

use super::fit;

/// A value for a column of type `to` as near to `value` as can be; `None` if there is none.
pub(super) fn nearest(value: &Value, from: &DataType, to: &DataType) -> Option<Value> {
    match to {
        DataType::Int { bits, unsigned } => {
            let (min, max) = fit::int_range(*bits, *unsigned);
            let number = match value {
                Value::Decimal(text) if !is_number(text) => infinite(text, min, max)?,
                Value::Decimal(text) => match rounded(text, 0).parse() {
                    Ok(number) => number,
                    Err(_) if text.starts_with('-') => min,
                    Err(_) => max,
                },
                other => fit::whole(other, from).ok()?,
            };
            let number = number.clamp(min, max);
            i64::try_from(number)
                .map(Value::Int)
                .or_else(|_| u64::try_from(number).map(Value::UInt))
                .ok()
        }
        DataType::Decimal { precision, scale } => decimal(value, *precision, *scale),
        DataType::Float64 => match value {
            Value::Float64(f) if f.is_infinite() => Some(Value::Float64(f64::MAX.copysign(*f))),
            Value::Float32(f) if f.is_infinite() => Some(Value::Float32(f32::MAX.copysign(*f))),
            _ => None,
        },
        DataType::Float32 => match value {
            Value::Float32(f) if f.is_infinite() => Some(Value::Float32(f32::MAX.copysign(*f))),
            Value::Float64(f) if !f.is_nan() => {
                Some(Value::Float32((*f as f32).clamp(f32::MIN, f32::MAX)))
            }
            _ => None,
        },
        DataType::Text { chars_max, bytes_max, padded, .. } => match value {
            Value::Text(text) => Some(Value::Text(cut(text, *chars_max, *bytes_max, *padded))),
            _ => None,
        },
        DataType::Bytes { bytes_max, fixed } => match value {
            Value::Bytes(bytes) => Some(Value::Bytes(sized(bytes, *bytes_max, *fixed))),
            _ => None,
        },
        DataType::Date => match value {
            Value::Date(date) => Some(Value::Date(Date(date.0.clamp(FIRST_DAY, LAST_DAY)))),
            _ => None,
        },
        DataType::Timestamp { fsp } => match value {
            Value::Timestamp(at) => Some(Value::Timestamp(Timestamp(in_calendar(at.0, *fsp)))),
            Value::Instant(at) => Some(Value::Instant(Instant(in_calendar(at.0, *fsp)))),
            _ => None,
        },
        DataType::Instant { fsp, narrow } => {
            let within = |micros: i64| {
                let micros = if *narrow {
                    micros.clamp(*fit::NARROW_MICROS.start(), *fit::NARROW_MICROS.end())
                } else {
                    micros
                };
                in_calendar(micros, *fsp)
            };
            match value {
                Value::Instant(at) => Some(Value::Instant(Instant(within(at.0)))),
                Value::Timestamp(at) => Some(Value::Timestamp(Timestamp(within(at.0)))),
                _ => None,
            }
        }
        DataType::Time { fsp, span } => {
            let micros = match value {
                Value::Time(Time(micros)) => *micros,
                Value::Interval(i) if i.months == 0 && i.days == 0 => i.micros,
                _ => return None,
            };
            let (min, max) =
                if *span { (-fit::SPAN_MAX_MICROS, fit::SPAN_MAX_MICROS) } else { (0, DAY_MICROS) };
            Some(Value::Time(Time(toward_zero(micros.clamp(min, max), *fsp))))
        }
        DataType::Interval { fsp } => match value {
            Value::Interval(i) if !i.is_infinite() => {
                Some(Value::Interval(Interval { micros: toward_zero(i.micros, *fsp), ..*i }))
            }
            Value::Time(Time(micros)) => Some(Value::Time(Time(toward_zero(*micros, *fsp)))),
            _ => None,
        },
        DataType::Year => match value {
            Value::Int(year) => Some(Value::Int((*year).clamp(1901, 2155))),
            Value::UInt(year) => i64::try_from((*year).clamp(1901, 2155)).ok().map(Value::Int),
            _ => None,
        },
        DataType::Bool
        | DataType::Uuid
        | DataType::Json
        | DataType::Enum { .. }
        | DataType::Set { .. }
        | DataType::Bits { .. }
        | DataType::Address { .. }
        | DataType::Opaque { .. }
        | DataType::Native { .. }
        | DataType::RoundedFloat { .. }
        | DataType::Unsupported { .. } => None,
    }
}

/// 0001-01-01 and 9999-12-31.
const FIRST_DAY: i32 = -719_162;
const LAST_DAY: i32 = 2_932_896;

/// Digits beyond the column's are dropped downwards, so that no time moves into the next day.
fn in_calendar(micros: i64, fsp: u8) -> i64 {
    let first = i64::from(FIRST_DAY) * DAY_MICROS;
    let last = i64::from(LAST_DAY) * DAY_MICROS + DAY_MICROS - 1;
    let unit = fit::unit(fsp);
    micros.clamp(first, last).div_euclid(unit) * unit
}

fn toward_zero(micros: i64, fsp: u8) -> i64 {
    micros / fit::unit(fsp) * fit::unit(fsp)
}

fn is_number(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

fn infinite<T>(text: &str, min: T, max: T) -> Option<T> {
    match text {
        "Infinity" => Some(max),
        "-Infinity" => Some(min),
        _ => None,
    }
}

fn decimal(value: &Value, precision: Option<u16>, scale: Option<u16>) -> Option<Value> {
    let text = match value {
        Value::Decimal(text) => text.to_string(),
        Value::Int(i) => i.to_string(),
        Value::UInt(u) => u.to_string(),
        _ => return None,
    };
    let precision = usize::from(precision?);
    let scale = usize::from(scale.unwrap_or(0));
    let whole_max = precision.saturating_sub(scale);
    let sign = if text.starts_with('-') { "-" } else { "" };
    let most = || {
        let whole = if whole_max == 0 { "0".to_owned() } else { "9".repeat(whole_max) };
        if scale == 0 {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{}", "9".repeat(scale))
        }
    };
    if !is_number(&text) {
        infinite(&text, (), ())?;
        return Some(Value::Decimal(most().into()));
    }
    let near = rounded(&text, scale);
    let whole = near.trim_start_matches('-').split('.').next().unwrap_or_default();
    let digits = whole.trim_start_matches('0').len();
    Some(Value::Decimal(if digits > whole_max { most() } else { near }.into()))
}

/// A plain decimal with at most so many places, rounded half away from zero.
fn rounded(text: &str, scale: usize) -> String {
    let (sign, number) = text.strip_prefix('-').map_or(("", text), |n| ("-", n));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let Some((kept, cut)) = fraction.split_at_checked(scale) else { return text.to_owned() };
    let mut digits: Vec<u8> = format!("0{whole}{kept}").into_bytes();
    if cut.as_bytes().first().is_some_and(|d| *d >= b'5') {
        for digit in digits.iter_mut().rev() {
            if *digit == b'9' {
                *digit = b'0';
            } else {
                *digit += 1;
                break;
            }
        }
    }
    let digits: String = digits.into_iter().map(char::from).collect();
    let (whole, kept) = digits.split_at(digits.len() - scale);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let zero = whole == "0" && kept.bytes().all(|b| b == b'0');
    let sign = if zero { "" } else { sign };
    if kept.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{kept}") }
}

/// The text as far as it fits, without NUL characters.
fn cut(text: &str, chars_max: Option<u64>, bytes_max: Option<u64>, padded: bool) -> ByteString {
    let (mut kept, mut chars) = (String::new(), 0u64);
    for c in text.chars().filter(|c| *c != '\0') {
        let full = chars_max.is_some_and(|max| chars == max)
            || bytes_max.is_some_and(|max| (kept.len() + c.len_utf8()) as u64 > max);
        if full {
            break;
        }
        kept.push(c);
        chars += 1;
    }
    if padded {
        kept.truncate(kept.trim_end_matches(' ').len());
    }
    kept.into()
}

/// The bytes as far as they fit; a column of fixed length is filled up with zeros.
fn sized(bytes: &Bytes, bytes_max: Option<u64>, fixed: Option<u64>) -> Bytes {
    let max = fixed.or(bytes_max).and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let mut kept = bytes.get(..bytes.len().min(max)).unwrap_or_default().to_vec();
    if fixed.is_some() {
        kept.resize(max, 0);
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_half_away_from_zero_and_keep_their_digits() {
        for (text, scale, near) in [
            ("1.005", 2, "1.01"),
            ("-1.005", 2, "-1.01"),
            ("1.0049", 2, "1.00"),
            ("9.999", 2, "10.00"),
            ("-0.4", 0, "0"),
            ("0.5", 0, "1"),
            ("12", 2, "12"),
            ("99999999999999999999999999.5", 0, "100000000000000000000000000"),
        ] {
            assert_eq!(rounded(text, scale), near, "{text}");
        }
        let (p, s) = (Some(4), Some(2));
        let near = |text: &str| decimal(&Value::Decimal(text.into()), p, s);
        assert_eq!(near("99.999"), Some(Value::Decimal("99.99".into())));
        assert_eq!(near("-1000"), Some(Value::Decimal("-99.99".into())));
        assert_eq!(near("-Infinity"), Some(Value::Decimal("-99.99".into())));
        assert_eq!(near("NaN"), None);
    }

    #[test]
    fn years_go_to_the_nearer_end() {
        let from = DataType::Int { bits: 32, unsigned: true };
        let near = |year| nearest(&Value::UInt(year), &from, &DataType::Year);
        assert_eq!(near(5), Some(Value::Int(1901)));
        assert_eq!(near(u64::MAX), Some(Value::Int(2155)));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(&*cut("größe", Some(3), None, false), "grö");
        assert_eq!(&*cut("größe", None, Some(3), false), "gr");
        assert_eq!(&*cut("a\0b  c", Some(4), None, true), "ab");
    }

    #[test]
    fn times_lose_digits_downwards_and_stay_in_the_calendar() {
        assert_eq!(in_calendar(-1, 0), -1_000_000);
        assert_eq!(in_calendar(i64::MAX, 3), i64::from(LAST_DAY) * DAY_MICROS + DAY_MICROS - 1_000);
        assert_eq!(in_calendar(i64::MIN, 6), i64::from(FIRST_DAY) * DAY_MICROS);
    }
}
