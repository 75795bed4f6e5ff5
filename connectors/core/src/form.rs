//! The text form of values: what a text column gets of a value, and what a server of the PostgreSQL kind
//! reads and writes (ISO dates, spans in its own `postgres` style).
//!
//! It is a function of the value alone, so a value has the same text whichever server it comes from and
//! whether a copy or the log brought it.

use std::borrow::Cow;
use std::fmt::Write;

use crate::value::{Date, Instant, Interval, Time, Timestamp, Value};

/// The text of a value; `None` for NULL and for what the log did not carry.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    Some(match value {
        Value::Null | Value::Unchanged => return None,
        Value::Bool(true) => "true".into(),
        Value::Bool(false) => "false".into(),
        Value::Int(i) => i.to_string().into(),
        Value::UInt(u) => u.to_string().into(),
        Value::Float32(f) => float(f64::from(*f), &format!("{f:e}"), 6),
        Value::Float64(f) => float(*f, &format!("{f:e}"), 15),
        Value::Decimal(t)
        | Value::Text(t)
        | Value::Json(t)
        | Value::Enum(t)
        | Value::Foreign(t) => Cow::Borrowed(t),
        Value::Bytes(b) => {
            let mut text = String::with_capacity(2 + 2 * b.len());
            text.push_str("\\x");
            b.iter().for_each(|byte| push_hex(&mut text, *byte));
            text.into()
        }
        Value::Date(d) => date(*d),
        Value::Time(t) => time(*t).into(),
        Value::Timestamp(t) => stamp(*t, "").into(),
        Value::Instant(Instant(i)) => stamp(Timestamp(*i), "+00").into(),
        Value::Interval(i) => interval(*i).into(),
        Value::Uuid(u) => {
            let mut text = String::with_capacity(36);
            for (i, byte) in u.iter().enumerate() {
                if matches!(i, 4 | 6 | 8 | 10) {
                    text.push('-');
                }
                push_hex(&mut text, *byte);
            }
            text.into()
        }
    })
}

fn push_hex(text: &mut String, byte: u8) {
    for nibble in [byte >> 4, byte & 15] {
        text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
    }
}

/// The shortest decimal that reads back as the same number, with an exponent where PostgreSQL writes one:
/// below 1e-4 and from 10 to the power of `digits` on.
fn float(number: f64, scientific: &str, digits: i32) -> Cow<'static, str> {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..digits).contains(&power) {
        return plain(mantissa, power).into();
    }
    let sign = if power < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", power.unsigned_abs()).into()
}

/// `1.25` and 3 make `1250`.
fn plain(mantissa: &str, power: i32) -> String {
    let (sign, number) = mantissa.strip_prefix('-').map_or(("", mantissa), |n| ("-", n));
    let digits: String = number.chars().filter(|c| *c != '.').collect();
    let places = usize::try_from(power.max(0)).unwrap_or(0);
    if power < 0 {
        let zeros = "0".repeat(power.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    match digits.split_at_checked(places + 1) {
        Some((whole, "")) => format!("{sign}{whole}"),
        Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
        None => format!("{sign}{digits:0<width$}", width = places + 1),
    }
}

/// Year, month and day, and whether it is before Christ: there is no year 0.
fn civil(date: Date) -> (String, &'static str) {
    let (year, month, day) = date.to_ymd();
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

fn date(date: Date) -> Cow<'static, str> {
    if date.is_infinite() {
        return if date == Date::INFINITY { "infinity".into() } else { "-infinity".into() };
    }
    let (text, era) = civil(date);
    format!("{text}{era}").into()
}

/// `-34:22:59.5`: hours, minutes, seconds, and digits behind them as far as there are any.
fn time(Time(micros): Time) -> String {
    let mut text = String::with_capacity(16);
    if micros < 0 {
        text.push('-');
    }
    push_clock(&mut text, micros.unsigned_abs());
    text
}

fn push_clock(text: &mut String, micros: u64) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    // Writing to a String cannot fail.
    let _written =
        write!(text, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        let digits = format!(".{fraction:06}");
        text.push_str(digits.trim_end_matches('0'));
    }
}

fn stamp(at: Timestamp, zone: &str) -> String {
    if at.is_infinite() {
        return if at == Timestamp::INFINITY { "infinity" } else { "-infinity" }.to_owned();
    }
    let (date, clock) = at.split();
    let (day, era) = civil(date);
    format!("{day} {}{zone}{era}", time(clock))
}

/// `1 year -2 mons +3 days -04:05:06.7`, as PostgreSQL writes it (`IntervalStyle` postgres).
fn interval(span: Interval) -> String {
    if span.is_infinite() {
        return if span == Interval::INFINITY { "infinity" } else { "-infinity" }.to_owned();
    }
    let mut text = String::new();
    let mut negative = false;
    for (number, unit) in
        [(span.months / 12, "year"), (span.months % 12, "mon"), (span.days, "day")]
    {
        if number == 0 {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        if negative && number > 0 {
            text.push('+');
        }
        negative = number < 0;
        let plural = if number == 1 { "" } else { "s" };
        // Writing to a String cannot fail.
        let _written = write!(text, "{number} {unit}{plural}");
    }
    if span.micros == 0 && !text.is_empty() {
        return text;
    }
    if !text.is_empty() {
        text.push(' ');
    }
    if span.micros < 0 {
        text.push('-');
    } else if negative {
        text.push('+');
    }
    push_clock(&mut text, span.micros.unsigned_abs());
    text
}

/// Unsigned decimal digits only: `str::parse` alone would take a sign as well.
fn digits(text: &str) -> Option<i64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Microseconds of `12:34:56.789`, of any number of hours; without a sign.
pub fn parse_clock(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(w, f)| (w, Some(f)));
    let mut parts = whole.splitn(3, ':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if minutes > 59 || seconds > 60 {
        return None;
    }
    let micros = match fraction {
        None => 0,
        Some(f) if f.len() <= 6 => digits(&format!("{f:0<6}"))?,
        Some(_) => return None,
    };
    let seconds = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// The span that such a text (see [`text`]) stands for; `None` if it is none.
pub fn parse_interval(text: &str) -> Option<Interval> {
    match text {
        "infinity" => return Some(Interval::INFINITY),
        "-infinity" => return Some(Interval::NEG_INFINITY),
        _ => {}
    }
    let mut span = Interval { months: 0, days: 0, micros: 0 };
    let mut words = text.split(' ');
    let mut any = false;
    while let Some(word) = words.next() {
        any = true;
        if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            // The longest negative span is one microsecond longer than any positive one.
            span.micros = match parse_clock(clock) {
                Some(micros) if negative => -micros,
                Some(micros) => micros,
                None if negative && clock == "2562047788:00:54.775808" => i64::MIN,
                None => return None,
            };
            return words.next().is_none().then_some(span);
        }
        let number: i32 = word.parse().ok()?;
        match words.next()? {
            "year" | "years" => {
                span.months = span.months.checked_add(number.checked_mul(12)?)?;
            }
            "mon" | "mons" => span.months = span.months.checked_add(number)?,
            "day" | "days" => span.days = span.days.checked_add(number)?,
            _ => return None,
        }
    }
    any.then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> String {
        text(&value).unwrap_or_default().into_owned()
    }

    #[test]
    fn floats_are_written_as_postgresql_writes_them() {
        for (number, written) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.1, "1.1"),
            (100.0, "100"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456.789, "123456.789"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(of(Value::Float64(number)), written);
        }
        for (number, written) in
            [(1.1, "1.1"), (1e6, "1e+06"), (123_456.0, "123456"), (16_777_216.0, "1.6777216e+07")]
        {
            assert_eq!(of(Value::Float32(number)), written);
        }
    }

    #[test]
    fn spans_are_written_as_postgresql_writes_them_and_read_back() {
        let span = |months, days, micros| Interval { months, days, micros };
        for (value, written) in [
            (span(0, 0, 0), "00:00:00"),
            (span(14, 3, 14_706_789_000), "1 year 2 mons 3 days 04:05:06.789"),
            (span(-14, 3, -14_706_000_000), "-1 years -2 mons +3 days -04:05:06"),
            (span(0, -1, 1), "-1 days +00:00:00.000001"),
            (span(12, 0, 0), "1 year"),
            (span(0, 0, -1), "-00:00:00.000001"),
            (span(0, 0, i64::MIN), "-2562047788:00:54.775808"),
            (
                span(i32::MAX, i32::MAX, i64::MAX - 1),
                "178956970 years 7 mons 2147483647 days 2562047788:00:54.775806",
            ),
            (Interval::INFINITY, "infinity"),
        ] {
            assert_eq!(of(Value::Interval(value)), written);
            assert_eq!(parse_interval(written), Some(value), "{written}");
        }
        for none in ["", "1", "1 week", "1 day 1", "12:00", "1 day -", "1 day 01:00:00 1 day"] {
            assert_eq!(parse_interval(none), None, "{none}");
        }
    }

    #[test]
    fn times_keep_their_sign_and_the_digits_that_count() {
        assert_eq!(of(Value::Time(Time(-123_779_500_000))), "-34:22:59.5");
        assert_eq!(of(Value::Timestamp(Timestamp(0))), "1970-01-01 00:00:00");
        assert_eq!(of(Value::Instant(Instant(-1))), "1969-12-31 23:59:59.999999+00");
        assert_eq!(of(Value::Date(Date::from_ymd(0, 12, 31).unwrap_or(Date(0)))), "0001-12-31 BC");
    }

    proptest::proptest! {
        #[test]
        fn every_span_reads_back(months: i32, days: i32, micros: i64) {
            let span = Interval { months, days, micros };
            proptest::prop_assert_eq!(parse_interval(&of(Value::Interval(span))), Some(span));
        }

        #[test]
        fn every_float_reads_back(bits: u64) {
            let number = f64::from_bits(bits);
            let single = f32::from_bits(bits as u32);
            if !number.is_nan() {
                proptest::prop_assert_eq!(of(Value::Float64(number)).parse::<f64>().ok(), Some(number));
            }
            if !single.is_nan() {
                proptest::prop_assert_eq!(of(Value::Float32(single)).parse::<f32>().ok(), Some(single));
            }
        }
    }
}
