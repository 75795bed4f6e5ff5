//! One cell of a row, free of any database's own notation.
//!
//! The set is chosen so that each value of a supported type of any server has exactly one form here,
//! without rounding: decimals stay text, instants are UTC microseconds, civil times carry no zone. A
//! source value that has no such form (`0000-00-00`, say) is [`Value::Foreign`]: it may travel to a
//! target of the same family and is refused anywhere else, never mended in silence.

use bytes::Bytes;
use bytestring::ByteString;

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Date(pub i32);

/// A time of day or a signed span below 839 hours, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time(pub i64);

/// A civil date and time without zone, in microseconds since 1970-01-01 00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

/// A point in time: microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub i64);

/// A span of time in three parts that do not make up for one another: a month has no fixed number of
/// days, a day (with a change of the clock) none of hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Months, years included.
    pub months: i32,
    /// Days, weeks included.
    pub days: i32,
    /// Microseconds: hours, minutes and seconds.
    pub micros: i64,
}

impl Interval {
    /// Longer than every interval (PostgreSQL 17 on).
    pub const INFINITY: Interval = Interval { months: i32::MAX, days: i32::MAX, micros: i64::MAX };
    /// Shorter than every interval.
    pub const NEG_INFINITY: Interval =
        Interval { months: i32::MIN, days: i32::MIN, micros: i64::MIN };

    /// Whether this is one of the two infinities.
    pub fn is_infinite(self) -> bool {
        self == Self::INFINITY || self == Self::NEG_INFINITY
    }
}

impl Date {
    /// Later than every date (`infinity`).
    pub const INFINITY: Date = Date(i32::MAX);
    /// Earlier than every date (`-infinity`).
    pub const NEG_INFINITY: Date = Date(i32::MIN);

    /// Whether this is one of the two infinities.
    pub fn is_infinite(self) -> bool {
        self == Self::INFINITY || self == Self::NEG_INFINITY
    }

    /// The date of a proleptic Gregorian year, month and day, or `None` if there is no such day.
    pub fn from_ymd(year: i32, month: u32, day: u32) -> Option<Date> {
        if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return None;
        }
        // Days from civil: the year starts in March so that the leap day comes last.
        let y = i64::from(year) - i64::from(month <= 2);
        let era = y.div_euclid(400);
        let year_of_era = y.rem_euclid(400);
        let month_index = (i64::from(month) + 9) % 12;
        let day_of_year = (153 * month_index + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        i32::try_from(era * 146_097 + day_of_era - 719_468).ok().map(Date)
    }

    /// Year, month and day of this date.
    pub fn to_ymd(self) -> (i32, u32, u32) {
        let z = i64::from(self.0) + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year as i32, month as u32, day as u32)
    }
}

fn days_in_month(year: i32, month: u32) -> u32 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Microseconds in a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

impl Timestamp {
    /// Later than every timestamp.
    pub const INFINITY: Timestamp = Timestamp(i64::MAX);
    /// Earlier than every timestamp.
    pub const NEG_INFINITY: Timestamp = Timestamp(i64::MIN);

    /// Whether this is one of the two infinities.
    pub fn is_infinite(self) -> bool {
        self == Self::INFINITY || self == Self::NEG_INFINITY
    }

    /// A date and a time of day put together; `None` where the sum does not fit.
    pub fn new(date: Date, time: Time) -> Option<Timestamp> {
        i64::from(date.0).checked_mul(DAY_MICROS)?.checked_add(time.0).map(Timestamp)
    }

    /// The date and the time of day of this timestamp.
    pub fn split(self) -> (Date, Time) {
        (Date(self.0.div_euclid(DAY_MICROS) as i32), Time(self.0.rem_euclid(DAY_MICROS)))
    }
}

impl Instant {
    /// Later than every instant.
    pub const INFINITY: Instant = Instant(i64::MAX);
    /// Earlier than every instant.
    pub const NEG_INFINITY: Instant = Instant(i64::MIN);

    /// Whether this is one of the two infinities.
    pub fn is_infinite(self) -> bool {
        self == Self::INFINITY || self == Self::NEG_INFINITY
    }
}

/// One cell. `Null` and `Unchanged` are different things: the second says that the log does not
/// carry the value because the change did not touch it, so that the target must keep what it has.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// Not in the log: the change left it as it was (unchanged TOAST, a partial row image).
    Unchanged,
    /// A truth value.
    Bool(bool),
    /// A signed integer of any width up to 64 bits.
    Int(i64),
    /// An unsigned integer of any width up to 64 bits.
    UInt(u64),
    /// An exact number in plain notation (`-12.50`), or `NaN`, `Infinity`, `-Infinity`.
    Decimal(ByteString),
    /// A single-precision float.
    Float32(f32),
    /// A double-precision float.
    Float64(f64),
    /// Text, always UTF-8 here; also what is told by its text alone: the digits of a bit string, the
    /// labels of a set, an address, a value of a type that only its own kind of server knows.
    Text(ByteString),
    /// Bytes.
    Bytes(Bytes),
    /// A calendar day.
    Date(Date),
    /// A time of day, or a signed span of hours.
    Time(Time),
    /// A civil date and time without zone.
    Timestamp(Timestamp),
    /// A point in time.
    Instant(Instant),
    /// A span of time.
    Interval(Interval),
    /// A UUID in network byte order.
    Uuid([u8; 16]),
    /// A JSON document as text.
    Json(ByteString),
    /// The label of an enumerated type.
    Enum(ByteString),
    /// A value of the source that has no canonical form, in the source's own text.
    Foreign(ByteString),
}

impl Value {
    /// Whether the value is SQL NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether two values are the same to the bit: -0 is not 0, and NaN is itself.
    pub fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float32(a), Value::Float32(b)) => a.to_bits() == b.to_bits(),
            (Value::Float64(a), Value::Float64(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }

    /// Whether the log does not carry the value.
    pub fn is_unchanged(&self) -> bool {
        matches!(self, Value::Unchanged)
    }

    /// Memory taken beyond the enum itself, in bytes: what batches are bounded by.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Value::Decimal(t)
            | Value::Text(t)
            | Value::Json(t)
            | Value::Enum(t)
            | Value::Foreign(t) => t.len(),
            Value::Bytes(b) => b.len(),
            Value::Null
            | Value::Unchanged
            | Value::Bool(_)
            | Value::Int(_)
            | Value::UInt(_)
            | Value::Float32(_)
            | Value::Float64(_)
            | Value::Date(_)
            | Value::Time(_)
            | Value::Timestamp(_)
            | Value::Instant(_)
            | Value::Interval(_)
            | Value::Uuid(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip_over_the_whole_range_of_both_engines() {
        for days in (-2_500_000..3_000_000).step_by(997) {
            let (y, m, d) = Date(days).to_ymd();
            assert_eq!(Date::from_ymd(y, m, d), Some(Date(days)));
        }
        assert_eq!(Date::from_ymd(1970, 1, 1), Some(Date(0)));
        assert_eq!(Date::from_ymd(2000, 2, 29), Some(Date(11_016)));
        assert_eq!(Date::from_ymd(1900, 2, 29), None);
    }

    #[test]
    fn timestamps_before_the_epoch_split_into_the_day_before() {
        assert_eq!(Timestamp(-1).split(), (Date(-1), Time(DAY_MICROS - 1)));
    }
}
