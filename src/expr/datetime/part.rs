//! Parts of dates, times and spans: `extract`, `date_part`, `date_trunc`.

use tidelock_core::value::{DAY_MICROS, Date, Interval, Time, Timestamp};

use super::{MICROS, in_range, infinite, midnight};
use crate::expr::cell::Cell;
use crate::expr::decimal::Dec;
use crate::expr::error::Fail;
use crate::expr::kind::Kind;

/// A named part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Microseconds,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    Decade,
    Century,
    Millennium,
    Dow,
    Isodow,
    Doy,
    Isoyear,
    Epoch,
    Timezone,
}

impl Part {
    pub fn parse(name: &str) -> Option<Part> {
        Some(match name.to_ascii_lowercase().as_str() {
            "microsecond" | "microseconds" | "us" | "usec" => Part::Microseconds,
            "millisecond" | "milliseconds" | "ms" | "msec" => Part::Milliseconds,
            "second" | "seconds" | "sec" | "s" => Part::Second,
            "minute" | "minutes" | "min" | "m" => Part::Minute,
            "hour" | "hours" | "hr" | "h" => Part::Hour,
            "day" | "days" | "d" => Part::Day,
            "week" | "weeks" | "w" => Part::Week,
            "month" | "months" | "mon" => Part::Month,
            "quarter" | "qtr" => Part::Quarter,
            "year" | "years" | "y" => Part::Year,
            "decade" | "decades" => Part::Decade,
            "century" | "centuries" | "c" => Part::Century,
            "millennium" | "millenniums" | "millennia" | "mil" => Part::Millennium,
            "dow" => Part::Dow,
            "isodow" => Part::Isodow,
            "doy" => Part::Doy,
            "isoyear" => Part::Isoyear,
            "epoch" => Part::Epoch,
            "timezone" => Part::Timezone,
            _ => return None,
        })
    }

    /// Whether values of this type have the part.
    pub fn is_of(self, kind: Kind) -> bool {
        use Part as P;
        let clock = matches!(
            self,
            P::Microseconds | P::Milliseconds | P::Second | P::Minute | P::Hour | P::Epoch
        );
        match kind {
            Kind::Time => clock,
            Kind::Interval => {
                clock
                    || matches!(
                        self,
                        P::Day
                            | P::Month
                            | P::Quarter
                            | P::Year
                            | P::Decade
                            | P::Century
                            | P::Millennium
                    )
            }
            Kind::Date => self == P::Epoch || (!clock && self != P::Timezone),
            Kind::Stamp => self != P::Timezone,
            Kind::Instant => true,
            _ => false,
        }
    }

    /// Whether a moment can be cut off at the part.
    pub fn truncates(self) -> bool {
        !matches!(
            self,
            Part::Dow | Part::Isodow | Part::Doy | Part::Isoyear | Part::Epoch | Part::Timezone
        )
    }

    /// Whether it is an hour or less.
    pub fn is_within_a_day(self) -> bool {
        matches!(
            self,
            Part::Microseconds | Part::Milliseconds | Part::Second | Part::Minute | Part::Hour
        )
    }

    /// Whether it only ever grows, so that it is infinite of an infinite time.
    pub fn grows(self) -> bool {
        matches!(
            self,
            Part::Year
                | Part::Decade
                | Part::Century
                | Part::Millennium
                | Part::Isoyear
                | Part::Epoch
        )
    }
}

/// Monday is 1, Sunday 7.
fn isodow(days: i32) -> i64 {
    (i64::from(days) + 3).rem_euclid(7) + 1
}

fn first_of_year(year: i32) -> i64 {
    Date::from_ymd(year, 1, 1).map_or(0, |d| i64::from(d.0))
}

/// The year and the number of a day's week: the week with the year's first Thursday is its first.
pub fn iso_week(days: i32) -> (i32, i64) {
    let thursday = i64::from(days) + 4 - isodow(days);
    let (year, _, _) = Date(i32::try_from(thursday).unwrap_or(days)).to_ymd();
    (year, (thursday - first_of_year(year)) / 7 + 1)
}

/// There is no year 0 in what users see.
fn shown(year: i32) -> i64 {
    if year > 0 { i64::from(year) } else { i64::from(year) - 1 }
}

fn century(year: i64, unit: i64) -> i64 {
    if year > 0 { (year + unit - 1) / unit } else { -((unit - year) / unit) }
}

/// Seconds with their fraction.
fn seconds(micros: i64, per_second: i64) -> Dec {
    match per_second {
        1 => Dec::Small { m: i128::from(micros), s: 6 },
        1_000 => Dec::Small { m: i128::from(micros), s: 3 },
        _ => Dec::from(micros),
    }
}

/// The part of a value; `Null` where an infinite one has none.
pub fn extract<'a>(part: Part, cell: &Cell<'_>) -> Result<Cell<'a>, Fail> {
    let (micros, days) = match cell {
        Cell::Interval(i) => return Ok(Cell::Dec(of_interval(part, *i))),
        Cell::Time(t) => (*t, 0),
        Cell::Date(d) => (midnight(*d).unwrap_or(0), *d),
        Cell::Stamp(t) | Cell::Instant(t) => (*t, Timestamp(*t).split().0.0),
        _ => return Err(Fail::unexpected()),
    };
    if !matches!(cell, Cell::Time(_)) && infinite(micros) {
        return Ok(match part.grows() {
            true if micros > 0 => Cell::Dec(Dec::Inf),
            true => Cell::Dec(Dec::NegInf),
            false => Cell::Null,
        });
    }
    let clock = if matches!(cell, Cell::Time(_)) { micros } else { micros.rem_euclid(DAY_MICROS) };
    let (year, month, day) = Date(days).to_ymd();
    let whole = |n: i64| Dec::from(n);
    Ok(Cell::Dec(match part {
        Part::Microseconds => whole(clock % (60 * MICROS)),
        Part::Milliseconds => seconds(clock % (60 * MICROS), 1_000),
        Part::Second => seconds(clock % (60 * MICROS), 1),
        Part::Minute => whole(clock / (60 * MICROS) % 60),
        Part::Hour => whole(clock / (3_600 * MICROS)),
        Part::Day => whole(i64::from(day)),
        Part::Week => whole(iso_week(days).1),
        Part::Month => whole(i64::from(month)),
        Part::Quarter => whole(i64::from(month.saturating_sub(1) / 3 + 1)),
        Part::Year => whole(shown(year)),
        Part::Decade => whole(i64::from(year).div_euclid(10)),
        Part::Century => whole(century(i64::from(year), 100)),
        Part::Millennium => whole(century(i64::from(year), 1_000)),
        Part::Dow => whole(isodow(days) % 7),
        Part::Isodow => whole(isodow(days)),
        Part::Doy => whole(i64::from(days) - first_of_year(year) + 1),
        Part::Isoyear => whole(shown(iso_week(days).0)),
        // A day has no fraction of seconds, so neither has its epoch.
        Part::Epoch if matches!(cell, Cell::Date(_)) => {
            whole(i64::from(days) * (DAY_MICROS / MICROS))
        }
        Part::Epoch => seconds(micros, 1),
        Part::Timezone => Dec::ZERO,
    }))
}

fn of_interval(part: Part, i: Interval) -> Dec {
    let (years, months) = (i64::from(i.months / 12), i64::from(i.months % 12));
    let minute = i.micros % (60 * MICROS);
    match part {
        Part::Microseconds => Dec::from(minute),
        Part::Milliseconds => seconds(minute, 1_000),
        Part::Second => seconds(minute, 1),
        Part::Minute => Dec::from(i.micros / (60 * MICROS) % 60),
        Part::Hour => Dec::from(i.micros / (3_600 * MICROS)),
        Part::Day => Dec::from(i64::from(i.days)),
        Part::Month => Dec::from(months),
        Part::Quarter => Dec::from(months / 3 + 1),
        Part::Year => Dec::from(years),
        Part::Decade => Dec::from(years / 10),
        Part::Century => Dec::from(years / 100),
        Part::Millennium => Dec::from(years / 1_000),
        // A year of 365.25 days, a month of 30.
        _ => {
            let days =
                i128::from(years) * 1_461 + (i128::from(months) * 30 + i128::from(i.days)) * 4;
            Dec::Small { m: days * i128::from(DAY_MICROS / 4) + i128::from(i.micros), s: 6 }
        }
    }
}

/// A civil time cut off at a part.
pub fn trunc_stamp(part: Part, micros: i64) -> Result<i64, Fail> {
    if infinite(micros) {
        return Ok(micros);
    }
    let (Date(days), Time(clock)) = Timestamp(micros).split();
    let (year, month, _) = Date(days).to_ymd();
    let first = |year: i32, month: u32| {
        Date::from_ymd(year, month, 1).map_or_else(|| Err(super::far()), |d| midnight(d.0))
    };
    let cut = |unit: i64| in_range(micros - clock.rem_euclid(unit));
    // Years count from 1, so the first of a century is one that ends in 01.
    let block = |unit: i32| {
        let start = if year > 0 {
            (year - 1) / unit * unit + 1
        } else {
            -((unit - year) / unit * unit) + 1
        };
        first(start, 1)
    };
    match part {
        Part::Microseconds => Ok(micros),
        Part::Milliseconds => cut(1_000),
        Part::Second => cut(MICROS),
        Part::Minute => cut(60 * MICROS),
        Part::Hour => cut(3_600 * MICROS),
        Part::Day => cut(DAY_MICROS),
        Part::Week => in_range(micros - clock - (isodow(days) - 1) * DAY_MICROS),
        Part::Month => first(year, month),
        Part::Quarter => first(year, month.saturating_sub(1) / 3 * 3 + 1),
        Part::Year => first(year, 1),
        Part::Decade => first(year.div_euclid(10) * 10, 1),
        Part::Century => block(100),
        Part::Millennium => block(1_000),
        _ => Err(Fail::unexpected()),
    }
}

/// A span cut off at a part.
pub fn trunc_interval(part: Part, i: Interval) -> Interval {
    let months = |unit: i32| Interval { months: i.months / unit * unit, days: 0, micros: 0 };
    let time = |unit: i64| Interval { micros: i.micros / unit * unit, ..i };
    match part {
        Part::Milliseconds => time(1_000),
        Part::Second => time(MICROS),
        Part::Minute => time(60 * MICROS),
        Part::Hour => time(3_600 * MICROS),
        Part::Day | Part::Week => Interval { micros: 0, ..i },
        Part::Month => months(1),
        Part::Quarter => months(3),
        Part::Year => months(12),
        Part::Decade => months(120),
        Part::Century => months(1_200),
        Part::Millennium => months(12_000),
        _ => i,
    }
}
