//! Dates, times and spans with PostgreSQL's rules: a month has no fixed length, a day of the calendar may have another
//! length than 24 hours only where a zone is named, and infinities stay infinite.
//!
//! The zone of expressions is UTC, as it is of the sessions to both kinds of server.

mod parse;
mod part;

use jiff::tz::{AmbiguousOffset, TimeZone};
use tidelock_core::value::{DAY_MICROS, Date, Instant, Interval, Timestamp};

pub(super) use parse::{date, interval, stamp, time};
pub(super) use part::{Part, extract, iso_week, trunc_interval, trunc_stamp};

use super::cell::Cell;
use super::error::Fail;

pub(super) const MICROS: i64 = 1_000_000;

/// The first moment that PostgreSQL has, 4714-11-24 BC, and the first and last day.
const STAMP_MIN: i64 = -210_866_803_200_000_000;
const DATE_MIN: i32 = -2_440_588;
const DATE_MAX: i32 = 2_145_042_905;

type Out<'a> = Result<Cell<'a>, Fail>;

fn far() -> Fail {
    Fail::range("the time is out of range")
}

/// A moment within the range that there is.
pub(super) fn in_range(micros: i64) -> Result<i64, Fail> {
    if (STAMP_MIN..i64::MAX).contains(&micros) { Ok(micros) } else { Err(far()) }
}

pub(super) fn day_in_range(days: i64) -> Result<i32, Fail> {
    i32::try_from(days)
        .ok()
        .filter(|d| (DATE_MIN..=DATE_MAX).contains(d))
        .ok_or_else(|| Fail::range("the date is out of range"))
}

pub(super) fn infinite(micros: i64) -> bool {
    Timestamp(micros).is_infinite()
}

/// Midnight of a day.
pub(super) fn midnight(days: i32) -> Result<i64, Fail> {
    match Date(days) {
        Date::INFINITY => Ok(i64::MAX),
        Date::NEG_INFINITY => Ok(i64::MIN),
        Date(days) => in_range(i64::from(days).checked_mul(DAY_MICROS).ok_or_else(far)?),
    }
}

/// The day of a moment.
pub(super) fn day(micros: i64) -> i32 {
    match Timestamp(micros) {
        Timestamp::INFINITY => Date::INFINITY.0,
        Timestamp::NEG_INFINITY => Date::NEG_INFINITY.0,
        other => other.split().0.0,
    }
}

/// Year, month and day with so many months added; the day is the last one of a shorter month.
fn months_later(days: i32, months: i32) -> Result<i32, Fail> {
    let (year, month, day) = Date(days).to_ymd();
    let count = i64::from(year) * 12 + i64::from(month) - 1 + i64::from(months);
    let year = i32::try_from(count.div_euclid(12)).map_err(|_| far())?;
    let month = u32::try_from(count.rem_euclid(12) + 1).map_err(|_| far())?;
    (28..=day)
        .rev()
        .chain([day])
        .find_map(|day| Date::from_ymd(year, month, day))
        .map(|date| date.0)
        .ok_or_else(far)
}

/// A civil time (or a moment, in UTC) and a span: months first, then days, then the rest.
pub(super) fn shift(micros: i64, by: Interval) -> Result<i64, Fail> {
    if infinite(micros) {
        return Ok(micros);
    }
    let (Date(mut days), clock) = Timestamp(micros).split();
    if by.months != 0 {
        days = months_later(days, by.months)?;
    }
    let days = i64::from(days) + i64::from(by.days);
    let moment = days
        .checked_mul(DAY_MICROS)
        .and_then(|d| d.checked_add(clock.0))
        .and_then(|d| d.checked_add(by.micros));
    in_range(moment.ok_or_else(far)?)
}

pub(super) fn opposite(i: Interval) -> Result<Interval, Fail> {
    let negated = || {
        Some(Interval {
            months: i.months.checked_neg()?,
            days: i.days.checked_neg()?,
            micros: i.micros.checked_neg()?,
        })
    };
    negated().ok_or_else(too_long)
}

fn too_long() -> Fail {
    Fail::range("the interval is out of range")
}

pub(super) fn sum(a: Interval, b: Interval) -> Result<Interval, Fail> {
    let added = || {
        Some(Interval {
            months: a.months.checked_add(b.months)?,
            days: a.days.checked_add(b.days)?,
            micros: a.micros.checked_add(b.micros)?,
        })
    };
    added().ok_or_else(too_long)
}

/// What lies between two moments, in days of 24 hours and the rest.
pub(super) fn between(a: i64, b: i64) -> Result<Interval, Fail> {
    if infinite(a) || infinite(b) {
        return Err(Fail::range("infinite times cannot be subtracted"));
    }
    let micros = a.checked_sub(b).ok_or_else(too_long)?;
    let days = i32::try_from(micros / DAY_MICROS).map_err(|_| too_long())?;
    Ok(Interval { months: 0, days, micros: micros % DAY_MICROS })
}

/// A span times a number: what is left of a month becomes days (30 a month), what is left of a day becomes time.
pub(super) fn scaled(i: Interval, factor: f64, divide: bool) -> Result<Interval, Fail> {
    const DAY: f64 = 86_400.0;
    let times = |n: f64| if divide { n / factor } else { n * factor };
    let rounded = |n: f64| (n * 1e6).round_ties_even() / 1e6;
    let whole = |n: f64| {
        if n.is_nan() || n < f64::from(i32::MIN) || n > f64::from(i32::MAX) {
            Err(too_long())
        } else {
            Ok(n as i32)
        }
    };
    let (months_exact, days_exact) = (times(f64::from(i.months)), times(f64::from(i.days)));
    let (months, mut days) = (whole(months_exact)?, whole(days_exact)?);
    let month_rest = rounded((months_exact - f64::from(months)) * 30.0);
    let mut seconds =
        rounded((days_exact - f64::from(days) + month_rest - month_rest.trunc()) * DAY);
    if seconds.abs() >= DAY {
        let more = (seconds / DAY).trunc();
        days = days.checked_add(whole(more)?).ok_or_else(too_long)?;
        seconds -= more * DAY;
    }
    days = days.checked_add(whole(month_rest.trunc())?).ok_or_else(too_long)?;
    let micros = (times(i.micros as f64) + seconds * 1e6).round_ties_even();
    if micros.is_nan() || micros.abs() >= 9.223_372_036_854_775e18 {
        return Err(too_long());
    }
    Ok(Interval { months, days, micros: micros as i64 })
}

/// The operators between times; `None` where there is none for these two.
pub(super) fn arithmetic<'a>(plus: bool, a: &Cell<'_>, b: &Cell<'_>) -> Option<Out<'a>> {
    let signed = |i: Interval| if plus { Ok(i) } else { opposite(i) };
    let wrap = |t: i64| t.rem_euclid(DAY_MICROS);
    let days = |d: i32, n: i64| -> Out<'a> {
        if Date(d).is_infinite() {
            return Ok(Cell::Date(d));
        }
        let n = if plus { n } else { n.checked_neg().ok_or_else(far)? };
        day_in_range(i64::from(d).checked_add(n).ok_or_else(far)?).map(Cell::Date)
    };
    Some(match (a, b) {
        (Cell::Date(d), Cell::Int(n)) => days(*d, *n),
        (Cell::Int(n), Cell::Date(d)) if plus => days(*d, *n),
        (Cell::Date(a), Cell::Date(b)) if !plus => {
            if Date(*a).is_infinite() || Date(*b).is_infinite() {
                return Some(Err(Fail::range("infinite dates cannot be subtracted")));
            }
            a.checked_sub(*b).map(|d| Cell::Int(i64::from(d))).ok_or_else(far)
        }
        (Cell::Date(d), Cell::Time(t)) | (Cell::Time(t), Cell::Date(d)) if plus => midnight(*d)
            .and_then(|m| if infinite(m) { Ok(m) } else { in_range(m.saturating_add(*t)) })
            .map(Cell::Stamp),
        (Cell::Date(d), Cell::Interval(i)) => {
            midnight(*d).and_then(|m| shift(m, signed(*i)?)).map(Cell::Stamp)
        }
        (Cell::Stamp(t), Cell::Interval(i)) => {
            signed(*i).and_then(|i| shift(*t, i)).map(Cell::Stamp)
        }
        (Cell::Instant(t), Cell::Interval(i)) => {
            signed(*i).and_then(|i| shift(*t, i)).map(Cell::Instant)
        }
        (Cell::Time(t), Cell::Interval(i)) => {
            signed(*i).map(|i| Cell::Time(wrap(wrap(*t).saturating_add(i.micros % DAY_MICROS))))
        }
        (Cell::Interval(_), Cell::Date(_) | Cell::Stamp(_) | Cell::Instant(_) | Cell::Time(_))
            if plus =>
        {
            return arithmetic(true, b, a);
        }
        (Cell::Interval(a), Cell::Interval(b)) => {
            signed(*b).and_then(|b| sum(*a, b)).map(Cell::Interval)
        }
        (Cell::Stamp(a), Cell::Stamp(b)) | (Cell::Instant(a), Cell::Instant(b)) if !plus => {
            between(*a, *b).map(Cell::Interval)
        }
        (Cell::Time(a), Cell::Time(b)) if !plus => {
            Ok(Cell::Interval(Interval { months: 0, days: 0, micros: a - b }))
        }
        _ => return None,
    })
}

/// A zone by its full name; abbreviations mean different zones in different places and are none.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    match name {
        "UTC" | "utc" | "GMT" | "Z" | "z" => Some(TimeZone::UTC),
        name if name.contains('/') => TimeZone::get(name).ok(),
        _ => None,
    }
}

/// The calendar repeats itself after so long, and with it the rules of zones.
const CYCLE: i64 = 146_097 * DAY_MICROS;

/// A moment at the same place in that cycle, near enough for its zones to be known.
fn known(micros: i64) -> i64 {
    const FAR: i64 = 7_000 * 365 * DAY_MICROS;
    if micros >= FAR {
        FAR - CYCLE + (micros - FAR).rem_euclid(CYCLE)
    } else if micros < -FAR {
        -FAR + (micros + FAR).rem_euclid(CYCLE)
    } else {
        micros
    }
}

/// The civil time of a moment in a zone.
pub(super) fn civil(micros: i64, zone: &TimeZone) -> Result<i64, Fail> {
    if infinite(micros) || *zone == TimeZone::UTC {
        return Ok(micros);
    }
    let point = jiff::Timestamp::from_microsecond(known(micros)).map_err(|_| far())?;
    let offset = i64::from(zone.to_offset(point).seconds());
    in_range(micros.checked_add(offset * MICROS).ok_or_else(far)?)
}

/// The moment of a civil time in a zone: in an hour that the clock leaves out as if it had not been put forward, in one
/// that comes twice the second.
pub(super) fn moment(micros: i64, zone: &TimeZone) -> Result<i64, Fail> {
    if infinite(micros) || *zone == TimeZone::UTC {
        return Ok(micros);
    }
    let civil = jiff::Timestamp::from_microsecond(known(micros))
        .map(|point| TimeZone::UTC.to_datetime(point))
        .map_err(|_| far())?;
    let offset = match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Gap { before, .. } => before,
        AmbiguousOffset::Fold { after, .. } => after,
    };
    in_range(micros.checked_sub(i64::from(offset.seconds()) * MICROS).ok_or_else(far)?)
}

/// Rounds a fraction of seconds to so many digits, half away from zero.
pub(super) fn rounded(micros: i64, digits: u8) -> i64 {
    let unit = 10i64.pow(6 - u32::from(digits.min(6)));
    if unit == 1 || micros == i64::MAX || micros == i64::MIN {
        return micros;
    }
    let half = if micros < 0 { -unit / 2 } else { unit / 2 };
    micros.checked_add(half).map_or(micros, |m| m / unit * unit)
}

/// The same of a point in time: halves go away from 2000, where PostgreSQL's clock begins.
pub(super) fn rounded_point(micros: i64, digits: u8) -> i64 {
    const BEGIN: i64 = 10_957 * DAY_MICROS;
    match micros.checked_sub(BEGIN) {
        Some(since) if !infinite(micros) => rounded(since, digits).saturating_add(BEGIN),
        _ => micros,
    }
}

/// Time put into days as far as it makes whole ones.
pub(super) fn justify_hours(i: Interval) -> Interval {
    let days = i.micros / DAY_MICROS;
    let (mut days, mut micros) = (i.days.saturating_add(days as i32), i.micros % DAY_MICROS);
    // Both of one sign.
    if days > 0 && micros < 0 {
        (days, micros) = (days - 1, micros + DAY_MICROS);
    } else if days < 0 && micros > 0 {
        (days, micros) = (days + 1, micros - DAY_MICROS);
    }
    Interval { months: i.months, days, micros }
}

/// A span without what is smaller than the unit that it is given in: `interval '1.5' hour` is an hour.
pub(super) fn cut_off(i: Interval, unit: &str) -> Interval {
    let time = |unit: i64| i.micros / unit * unit;
    match unit {
        "years" => Interval { months: i.months / 12 * 12, days: 0, micros: 0 },
        "months" => Interval { days: 0, micros: 0, ..i },
        "days" => Interval { micros: 0, ..i },
        "hours" => Interval { micros: time(3_600 * MICROS), ..i },
        "minutes" => Interval { micros: time(60 * MICROS), ..i },
        _ => i,
    }
}

/// Now, from the clock of this evaluation.
pub(super) fn instant(Instant(micros): Instant) -> Cell<'static> {
    Cell::Instant(micros)
}
