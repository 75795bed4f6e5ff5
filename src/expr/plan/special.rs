//! Operations whose parameters are settled at the start: a compiled pattern, a part of a time, a zone, a template.

use std::sync::Arc;

use jiff::tz::TimeZone;
use regex::Regex;
use tidelock_core::ByteString;

use super::super::{Input, pattern, text};
use crate::expr::cell::{Cell, Text};
use crate::expr::datetime::{self, Part};
use crate::expr::error::{EvalErrorKind, Fail};
use crate::expr::format::{Format, Template};
use crate::expr::kind::Kind;
use crate::expr::number;

/// How a value is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    Hash,
    Last4,
}

/// An operation with parameters that are settled at the start.
#[derive(Debug, Clone)]
pub enum Special {
    Negate(Kind),
    /// `+` and `-` of times.
    Temporal {
        plus: bool,
    },
    /// A span times or through a number.
    Scale {
        divide: bool,
    },
    Like {
        escape: Option<char>,
        any_case: bool,
        negated: bool,
    },
    Matches {
        regex: Arc<Regex>,
        negated: bool,
    },
    RegexReplace {
        regex: Arc<Regex>,
        template: ByteString,
        all: bool,
    },
    /// `substring(x FROM 'pattern')`
    RegexPart {
        regex: Arc<Regex>,
    },
    Extract {
        part: Part,
        double: bool,
    },
    /// `date_trunc`; of a moment in a zone.
    Trunc {
        part: Part,
        zone: TimeZone,
    },
    /// `AT TIME ZONE`; a zone that is not constant is the second argument.
    Zone(Option<TimeZone>),
    ToChar(Arc<Format>),
    FromChar {
        template: Arc<Template>,
        date: bool,
    },
    ToTimestamp,
    Mask(Mask),
}

/// From 1970, where PostgreSQL begins to count.
const SECONDS_TO_2000: f64 = 946_684_800.0;

fn text_of<'c, 'a>(cells: &'c [Cell<'a>], at: usize) -> Result<&'c Text<'a>, Fail> {
    match cells.get(at) {
        Some(Cell::Text(text)) => Ok(text),
        _ => Err(Fail::unexpected()),
    }
}

/// The result for arguments of which none is NULL.
pub(super) fn special<'a>(
    what: &'a Special,
    cells: &mut [Cell<'a>],
    input: &Input<'_>,
) -> Result<Cell<'a>, Fail> {
    match what {
        Special::Negate(Kind::Interval) => match cells {
            [Cell::Interval(i)] => datetime::opposite(*i).map(Cell::Interval),
            _ => Err(Fail::unexpected()),
        },
        Special::Negate(kind) => match cells {
            [cell] => number::negate(*kind, cell.clone()),
            _ => Err(Fail::unexpected()),
        },
        Special::Temporal { plus } => match cells {
            [a, b] => datetime::arithmetic(*plus, a, b).unwrap_or_else(|| Err(Fail::unexpected())),
            _ => Err(Fail::unexpected()),
        },
        Special::Scale { divide } => match cells {
            [Cell::Interval(i), by] | [by, Cell::Interval(i)] => {
                let factor = by.double().ok_or_else(Fail::unexpected)?;
                if *divide && factor == 0.0 {
                    return Err(number::zero());
                }
                datetime::scaled(*i, factor, *divide).map(Cell::Interval)
            }
            _ => Err(Fail::unexpected()),
        },
        Special::Like { escape, any_case, negated } => {
            let is = pattern::like(text_of(cells, 0)?, text_of(cells, 1)?, *escape, *any_case)?;
            Ok(Cell::Bool(is != *negated))
        }
        Special::Matches { regex, negated } => {
            Ok(Cell::Bool(regex.is_match(text_of(cells, 0)?) != *negated))
        }
        Special::RegexReplace { regex, template, all } => {
            let whole = text_of(cells, 0)?;
            if !regex.is_match(whole) {
                return Ok(Cell::Text(whole.clone()));
            }
            Ok(Cell::text(pattern::replaced(regex, whole, template, *all)))
        }
        Special::RegexPart { regex } => {
            let whole = text_of(cells, 0)?;
            let Some(found) = regex.captures(whole) else { return Ok(Cell::Null) };
            let group = if found.len() > 1 { found.get(1) } else { found.get(0) };
            Ok(group.map_or(Cell::Null, |m| Cell::Text(whole.part(m.as_str()))))
        }
        Special::Extract { part, double } => match cells {
            [cell] => match datetime::extract(*part, cell)? {
                Cell::Dec(d) if *double => Ok(Cell::Double(d.to_f64())),
                other => Ok(other),
            },
            _ => Err(Fail::unexpected()),
        },
        Special::Trunc { part, zone } => match cells {
            [Cell::Stamp(t)] => datetime::trunc_stamp(*part, *t).map(Cell::Stamp),
            [Cell::Instant(t)] => {
                let civil = datetime::civil(*t, zone)?;
                let cut = datetime::trunc_stamp(*part, civil)?;
                // Within a day the clock's offset stays, also in an hour that comes twice.
                if part.is_within_a_day() && !datetime::infinite(*t) {
                    return datetime::in_range(*t - (civil - cut)).map(Cell::Instant);
                }
                datetime::moment(cut, zone).map(Cell::Instant)
            }
            [Cell::Interval(i)] => Ok(Cell::Interval(datetime::trunc_interval(*part, *i))),
            _ => Err(Fail::unexpected()),
        },
        Special::Zone(constant) => {
            let named;
            let zone = match constant {
                Some(zone) => zone,
                None => {
                    named = datetime::zone(text_of(cells, 1)?).ok_or_else(|| {
                        Fail::argument(
                            "the time zone is not known by its full name (Europe/Berlin, UTC)",
                        )
                    })?;
                    &named
                }
            };
            match cells.first() {
                Some(Cell::Stamp(t)) => datetime::moment(*t, zone).map(Cell::Instant),
                Some(Cell::Instant(t)) => datetime::civil(*t, zone).map(Cell::Stamp),
                _ => Err(Fail::unexpected()),
            }
        }
        Special::ToChar(format) => match cells {
            [cell] => Ok(format.write(cell)?.map_or(Cell::Null, Cell::text)),
            _ => Err(Fail::unexpected()),
        },
        Special::FromChar { template, date } => {
            let micros = template.read(text_of(cells, 0)?)?;
            Ok(if *date { Cell::Date(datetime::day(micros)) } else { Cell::Instant(micros) })
        }
        Special::ToTimestamp => match cells {
            [Cell::Double(seconds)] if seconds.is_infinite() => {
                Ok(Cell::Instant(if *seconds > 0.0 { i64::MAX } else { i64::MIN }))
            }
            [Cell::Double(seconds)] => {
                // Counted from 2000, as there: a float has other digits left then.
                let micros = ((*seconds - SECONDS_TO_2000) * 1e6).round_ties_even();
                if micros.is_nan() || micros.abs() > 9.2e18 {
                    return Err(Fail::range("the time is out of range"));
                }
                let to_2000 = (SECONDS_TO_2000 * 1e6) as i64;
                match (micros as i64).checked_add(to_2000) {
                    Some(micros) => datetime::in_range(micros).map(Cell::Instant),
                    None => Err(Fail::range("the time is out of range")),
                }
            }
            _ => Err(Fail::unexpected()),
        },
        Special::Mask(mask) => {
            let [cell] = cells else { return Err(Fail::unexpected()) };
            let shown = cell.form().ok_or_else(Fail::unexpected)?;
            match mask {
                Mask::Last4 => Ok(Cell::text(text::last4(&shown))),
                Mask::Hash => {
                    let key = input.env.mask_key.ok_or_else(|| {
                        Fail::new(EvalErrorKind::Unexpected, "no key for masks was given")
                    })?;
                    Ok(Cell::text(key.hash(shown.as_bytes())))
                }
            }
        }
    }
}
