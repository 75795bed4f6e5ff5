//! A place in PostgreSQL's write-ahead log, in the server's own notation.

use std::fmt;
use std::str::FromStr;

use tidelock_core::{Code, Error, Position};

/// A log sequence number. Text form `16/B374D848`, as the server prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// The position the engine stores.
    pub(crate) fn to_position(self) -> Position {
        Position::new(self.to_string())
    }

    /// The place a stored position names.
    pub(crate) fn of(position: &Position) -> tidelock_core::Result<Lsn> {
        position.as_str().parse()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| {
            Error::new(
                tidelock_core::ErrorKind::Config,
                Code::Config,
                "a position of a PostgreSQL log is two hexadecimal numbers of up to eight digits \
                 with a slash between them",
            )
            .with_hint("for example 16/B374D848, as pg_current_wal_lsn() prints it")
        })
    }
}

fn parse(text: &str) -> Option<Lsn> {
    let (high, low) = text.trim().split_once('/')?;
    let half = |digits: &str| {
        let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if good { u64::from_str_radix(digits, 16).ok() } else { None }
    };
    Some(Lsn(half(high)? << 32 | half(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_are_two_forms_of_one_place() {
        for number in [0, 1, 0x16_b374_d848, u64::MAX, 1 << 32] {
            assert_eq!(Lsn(number).to_string().parse::<Lsn>().ok(), Some(Lsn(number)));
        }
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
        assert_eq!(" 0/16b3748 ".parse::<Lsn>().ok(), Some(Lsn(0x16b_3748)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/", "0/", "/0", "0/+1", "0/123456789", "0-1-2", "g/1", "0/1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
