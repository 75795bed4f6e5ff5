//! `to_char`, `to_date` and `to_timestamp`: values by a template, which is read once.

mod digits;
mod time;

use super::cell::Cell;
use super::error::Fail;
use super::kind::Kind;

pub(super) use time::Template;

/// How a value is written.
#[derive(Debug)]
pub enum Format {
    /// A number.
    Digits(digits::Digits),
    /// A moment or a day.
    Time(Template),
}

impl Format {
    /// The template for values of a type; `Err` says what is wrong with it.
    pub fn parse(template: &str, kind: Kind) -> Result<Format, String> {
        match kind {
            kind if kind.is_number() => digits::Digits::parse(template).map(Format::Digits),
            Kind::Date | Kind::Stamp | Kind::Instant => Template::parse(template).map(Format::Time),
            other => Err(format!("to_char takes a number, a date or a timestamp, not {other}")),
        }
    }

    /// The value as text; `None` for an infinite time.
    pub fn write(&self, cell: &Cell<'_>) -> Result<Option<String>, Fail> {
        match (self, cell) {
            (Format::Time(_), Cell::Stamp(t) | Cell::Instant(t))
                if super::datetime::infinite(*t) =>
            {
                Ok(None)
            }
            (Format::Time(template), Cell::Stamp(t)) => template.write(*t, false).map(Some),
            (Format::Time(template), Cell::Instant(t)) => template.write(*t, true).map(Some),
            (Format::Digits(digits), cell) => digits.write(cell).map(Some),
            _ => Err(Fail::unexpected()),
        }
    }
}
