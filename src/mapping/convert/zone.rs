//! Points in time and civil times, converted by a zone that the file names.
//!
//! A civil time in the hour that a change of the clock leaves out is no point in time, and one in the hour
//! that comes twice is two: both are refused, because a guess would move an order by an hour.

use jiff::tz::{AmbiguousOffset, TimeZone};
use tidelock_core::{Instant, Timestamp, Value};

use super::{Misfit, UNEXPECTED};

const MICROS: i64 = 1_000_000;
pub(super) const FAR: Misfit = Misfit("the time is outside what time zones are known for");

/// The civil time of a value, in `zone` if the value is a point in time.
pub(super) fn civil(value: &Value, zone: Option<&TimeZone>) -> Result<Timestamp, Misfit> {
    match (value, zone) {
        (Value::Timestamp(at), _) => Ok(*at),
        (Value::Instant(at), Some(_)) if at.is_infinite() => Ok(Timestamp(at.0)),
        (Value::Instant(Instant(at)), Some(zone)) => {
            let point = jiff::Timestamp::from_microsecond(*at).map_err(|_| FAR)?;
            let offset = i64::from(zone.to_offset(point).seconds());
            at.checked_add(offset * MICROS).map(Timestamp).ok_or(FAR)
        }
        _ => Err(UNEXPECTED),
    }
}

/// The point in time of a value, in `zone` if the value is a civil time.
pub(super) fn instant(value: &Value, zone: Option<&TimeZone>) -> Result<Instant, Misfit> {
    let (at, zone) = match (value, zone) {
        (Value::Instant(at), _) => return Ok(*at),
        (Value::Timestamp(at), Some(_)) if at.is_infinite() => return Ok(Instant(at.0)),
        (Value::Timestamp(Timestamp(at)), Some(zone)) => (*at, zone),
        _ => return Err(UNEXPECTED),
    };
    let civil = jiff::Timestamp::from_microsecond(at)
        .map(|point| TimeZone::UTC.to_datetime(point))
        .map_err(|_| FAR)?;
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => {
            at.checked_sub(i64::from(offset.seconds()) * MICROS).map(Instant).ok_or(FAR)
        }
        AmbiguousOffset::Gap { .. } => {
            Err(Misfit("the civil time falls into an hour that the clock leaves out in its zone"))
        }
        AmbiguousOffset::Fold { .. } => {
            Err(Misfit("the civil time falls into an hour that comes twice in its zone"))
        }
    }
}
