//! Dates, times and spans read from text in ISO form, with what PostgreSQL writes besides (`BC`, `infinity`).

use jiff::tz::{Offset, TimeZone};
use tidelock_core::value::{DAY_MICROS, Date, Interval};

use super::{MICROS, day_in_range, in_range, moment, zone};

/// What a text says of a date and a time.
struct Read {
    days: i32,
    micros: i64,
    zone: Option<TimeZone>,
}

fn number(text: &str, most: usize) -> Option<i64> {
    let plain = !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn ymd(text: &str, before_christ: bool) -> Option<i32> {
    let (year, month, day) = if text.len() == 8 && !text.contains('-') {
        (text.get(..4)?, text.get(4..6)?, text.get(6..)?)
    } else {
        let mut parts = text.splitn(3, '-');
        (parts.next()?, parts.next()?, parts.next()?)
    };
    if year.len() < 3 {
        return None;
    }
    let year = i32::try_from(number(year, 7)?).ok()?;
    if year == 0 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    let (month, day) =
        (u32::try_from(number(month, 2)?).ok()?, u32::try_from(number(day, 2)?).ok()?);
    day_in_range(i64::from(Date::from_ymd(year, month, day)?.0)).ok()
}

/// `12:34`, `12:34:56.789`, up to `24:00:00`.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let hours = number(parts.next()?, 2)?;
    let minutes = number(parts.next()?, 2)?;
    let micros = match parts.next() {
        None => 0,
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            let whole = number(whole, 2)?;
            if whole > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            whole * MICROS + fraction_micros(fraction)?
        }
    };
    let all = (hours * 60 + minutes) * 60 * MICROS + micros;
    (minutes < 60 && all <= DAY_MICROS).then_some(all)
}

/// The digits behind a point, rounded to six.
fn fraction_micros(digits: &str) -> Option<i64> {
    let kept: String = digits.chars().take(6).collect();
    let up = i64::from(digits.as_bytes().get(6).is_some_and(|b| *b >= b'5'));
    Some(format!("{kept:0<6}").parse::<i64>().ok()? + up)
}

/// `Z`, `+02`, `+02:00`, `+0200`, or a name.
fn offset(text: &str) -> Option<TimeZone> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return zone(text),
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some((h, m)) => (number(h, 2)?, number(m, 2)?),
        None if rest.len() > 2 => {
            (number(rest.get(..rest.len() - 2)?, 2)?, number(rest.get(rest.len() - 2..)?, 2)?)
        }
        None => (number(rest, 2)?, 0),
    };
    if hours > 15 || minutes > 59 {
        return None;
    }
    let seconds = sign * (hours * 3600 + minutes * 60);
    Offset::from_seconds(i32::try_from(seconds).ok()?).ok().map(|o| o.to_time_zone())
}

fn read(text: &str) -> Option<Read> {
    let text = text.trim();
    let (text, before_christ) = match text.strip_suffix("BC").or_else(|| text.strip_suffix("bc")) {
        Some(rest) => (rest.trim_end(), true),
        None => (text, false),
    };
    let end = text.find([' ', 'T', 't']).unwrap_or(text.len());
    let days = ymd(text.get(..end)?, before_christ)?;
    let rest = text.get(end..)?.trim_start_matches([' ', 'T', 't']);
    if rest.is_empty() {
        return (end == text.len()).then_some(Read { days, micros: 0, zone: None });
    }
    let split =
        rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let micros = clock(rest.get(..split)?)?;
    let zone = rest.get(split..)?.trim();
    Some(Read { days, micros, zone: if zone.is_empty() { None } else { Some(offset(zone)?) } })
}

pub fn date(text: &str) -> Option<i32> {
    match text.trim().to_ascii_lowercase().as_str() {
        "infinity" => Some(Date::INFINITY.0),
        "-infinity" => Some(Date::NEG_INFINITY.0),
        "epoch" => Some(0),
        _ => read(text).map(|read| read.days),
    }
}

/// A civil time; `zoned`: a moment, in UTC where the text names no zone.
pub fn stamp(text: &str, zoned: bool) -> Option<i64> {
    match text.trim().to_ascii_lowercase().as_str() {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        "epoch" => return Some(0),
        _ => {}
    }
    let read = read(text)?;
    let civil = i64::from(read.days).checked_mul(DAY_MICROS)?.checked_add(read.micros)?;
    match read.zone {
        Some(zone) if zoned => moment(civil, &zone).ok(),
        _ => in_range(civil).ok(),
    }
}

pub fn time(text: &str) -> Option<i64> {
    clock(text.trim())
}

/// `1 year 2 mons -3 days 04:05:06.7`, `2 hours 30 minutes ago`, `P1DT2H`, `90` (seconds).
pub fn interval(text: &str) -> Option<Interval> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(iso) = text.strip_prefix('p') {
        return iso_interval(iso);
    }
    let mut total = Total::default();
    // Numbers and units, which may stand without a blank between them.
    let mut words: Vec<&str> = Vec::new();
    for mut word in text.split_ascii_whitespace() {
        while !word.is_empty() {
            let letters = word.starts_with(|c: char| c.is_ascii_alphabetic());
            let end = word.find(|c: char| c.is_ascii_alphabetic() != letters).unwrap_or(word.len());
            let (first, rest) = word.split_at_checked(end)?;
            words.push(first);
            word = rest;
        }
    }
    let mut words = words.into_iter().peekable();
    words.peek()?;
    let mut negate = false;
    while let Some(word) = words.next() {
        if word == "ago" {
            negate = words.next().is_none();
            if !negate {
                return None;
            }
        } else if word.contains(':') {
            let (sign, clock) = signed(word);
            let mut parts = clock.splitn(3, ':');
            let (hours, minutes) = (number(parts.next()?, 10)?, number(parts.next()?, 2)?);
            let seconds = parts.next().unwrap_or("0");
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            let whole = number(whole, 2)?;
            if minutes > 59 || whole > 59 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let all = (hours * 60 + minutes) * 60 + whole;
            total
                .micros(sign * all.checked_mul(MICROS)?.checked_add(fraction_micros(fraction)?)?)?;
        } else {
            let (sign, plain) = signed(word);
            let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
            let whole = if whole.is_empty() { 0 } else { number(whole, 18)? };
            if !fraction.bytes().all(|b| b.is_ascii_digit()) || plain.is_empty() || plain == "." {
                return None;
            }
            // Days and a clock at the end need no words: 1 12:59:10.
            let unit = match words.peek() {
                None => "second",
                Some(next) if next.contains(':') => "day",
                Some(&"ago") => return None,
                Some(_) => words.next()?,
            };
            total.add(sign, whole, fraction, unit)?;
        }
    }
    let span = total.span()?;
    if negate { super::opposite(span).ok() } else { Some(span) }
}

fn signed(word: &str) -> (i64, &str) {
    match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    }
}

fn iso_interval(text: &str) -> Option<Interval> {
    let mut total = Total::default();
    let (mut clock, mut rest, mut any) = (false, text, false);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('t') {
            (clock, rest) = (true, after);
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (sign, plain) = signed(rest.get(..end)?);
        let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let unit = match (rest.get(end..end + 1)?, clock) {
            ("y", false) => "year",
            ("m", false) => "month",
            ("w", false) => "week",
            ("d", false) => "day",
            ("h", true) => "hour",
            ("m", true) => "minute",
            ("s", true) => "second",
            _ => return None,
        };
        total.add(sign, number(whole, 18)?, fraction, unit)?;
        any = true;
        rest = rest.get(end + 1..)?;
    }
    if any { total.span() } else { None }
}

/// A span as it is read.
#[derive(Default)]
struct Total {
    months: i64,
    days: i64,
    micros: i64,
}

impl Total {
    fn micros(&mut self, micros: i64) -> Option<()> {
        self.micros = self.micros.checked_add(micros)?;
        Some(())
    }

    fn add(&mut self, sign: i64, whole: i64, fraction: &str, unit: &str) -> Option<()> {
        let part: f64 =
            if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
        let part = part * sign as f64;
        let time = |unit: i64| {
            let rest = (part * unit as f64).round_ties_even() as i64;
            whole.checked_mul(sign)?.checked_mul(unit)?.checked_add(rest)
        };
        match unit {
            "microsecond" | "microseconds" | "us" | "usec" | "usecs" => self.micros(time(1)?)?,
            "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" => {
                self.micros(time(1_000)?)?
            }
            "second" | "seconds" | "sec" | "secs" | "s" => self.micros(time(MICROS)?)?,
            "minute" | "minutes" | "min" | "mins" | "m" => self.micros(time(60 * MICROS)?)?,
            "hour" | "hours" | "hr" | "hrs" | "h" => self.micros(time(3_600 * MICROS)?)?,
            "day" | "days" | "d" => self.days_of(sign, whole, part, 1)?,
            "week" | "weeks" | "w" => self.days_of(sign, whole, part, 7)?,
            "month" | "months" | "mon" | "mons" => {
                self.months = self.months.checked_add(whole.checked_mul(sign)?)?;
                self.days_of(1, 0, part, 30)?;
            }
            "year" | "years" | "yr" | "yrs" | "y" => self.years(sign, whole, part, 1)?,
            "decade" | "decades" => self.years(sign, whole, part, 10)?,
            "century" | "centuries" => self.years(sign, whole, part, 100)?,
            "millennium" | "millenniums" | "millennia" => self.years(sign, whole, part, 1_000)?,
            _ => return None,
        }
        Some(())
    }

    fn years(&mut self, sign: i64, whole: i64, part: f64, unit: i64) -> Option<()> {
        let rest = (part * (unit * 12) as f64).round_ties_even() as i64;
        self.months =
            self.months.checked_add(whole.checked_mul(sign * unit * 12)?)?.checked_add(rest)?;
        Some(())
    }

    fn days_of(&mut self, sign: i64, whole: i64, part: f64, unit: i64) -> Option<()> {
        let rest = part * unit as f64;
        self.days = self
            .days
            .checked_add(whole.checked_mul(sign * unit)?)?
            .checked_add(rest.trunc() as i64)?;
        self.micros((rest.fract() * DAY_MICROS as f64).round_ties_even() as i64)
    }

    fn span(self) -> Option<Interval> {
        Some(Interval {
            months: i32::try_from(self.months).ok()?,
            days: i32::try_from(self.days).ok()?,
            micros: self.micros,
        })
    }
}
