//! How a row gives a unique value up for a moment, so that another can take it.

use tidelock_core::value::{Date, Instant, Timestamp};
use tidelock_core::{ByteString, Bytes, DataType, Table, TargetColumn, Value};

use super::key::all_uniques;
use super::pairs::Pair;

/// The last day, and the last second, that every server has (9999-12-31), since 1970; and of a `timestamp` of MariaDB and MySQL.
const DAY_LAST: i32 = 2_932_896;
const SECOND_LAST: i64 = 253_402_300_799;
const SECOND_LAST_NARROW: i64 = 2_147_483_647;

/// A column of a unique index beside the mapping's key, and that it may hold NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    /// The column: an index into the target's.
    pub column: usize,
    /// Whether it takes NULL.
    pub nullable: bool,
}

impl Aside {
    /// A value that no other row should have; another one for each number.
    pub fn stand_in(self, target: &[TargetColumn], number: u64) -> Value {
        let of_type = || stand_in(&target.get(self.column)?.data_type, number);
        if self.nullable { Value::Null } else { of_type().unwrap_or(Value::Null) }
    }
}

/// One column of each unique index beside the key that can be given another value for a moment.
pub(super) fn asides(
    target: &Table,
    pairs: &[Pair<'_>],
    key: &[usize],
    columns: &[TargetColumn],
) -> Vec<Aside> {
    let points = |name: &String| target.references.iter().any(|r| r.columns.contains(name));
    let mut asides: Vec<Aside> = Vec::new();
    for index in all_uniques(target, pairs, key) {
        let places = index.columns.iter().filter_map(|name| {
            let at = pairs.iter().position(|p| p.target.name == *name)?;
            let column = columns.get(at).filter(|c| !key.contains(&at) && !c.identity_always)?;
            let nullable = pairs.get(at)?.target.nullable;
            let rank = match (nullable, points(name)) {
                (true, false) => 0,
                (false, false) if stand_in(&column.data_type, 0).is_some() => 1,
                (true, true) => 2,
                (false, _) => return None,
            };
            Some((rank, Aside { column: at, nullable }))
        });
        if let Some((_, aside)) = places.min_by_key(|(rank, _)| *rank)
            && !asides.contains(&aside)
        {
            asides.push(aside);
        }
    }
    asides
}

/// Counted down from the top of the type's range: a column whose values are checked takes a large number rather than
/// a negative one.
fn stand_in(data_type: &DataType, number: u64) -> Option<Value> {
    match data_type {
        DataType::Int { bits, unsigned } => {
            let bits = u32::from(*bits) - u32::from(!unsigned);
            let top = u64::MAX.checked_shr(64_u32.saturating_sub(bits)).unwrap_or(0);
            let value = top.checked_sub(number)?;
            match unsigned {
                true => Some(Value::UInt(value)),
                false => i64::try_from(value).ok().map(Value::Int),
            }
        }
        DataType::Decimal { precision, scale } => {
            let digits = match precision {
                Some(precision) => u32::from(precision.saturating_sub(scale.unwrap_or(0))).min(18),
                None => 18,
            };
            let value = 10_u64.pow(digits).checked_sub(1)?.checked_sub(number)?;
            Some(Value::Decimal(ByteString::from(value.to_string())))
        }
        DataType::Text { chars_max, bytes_max, .. } => {
            let limit = chars_max.unwrap_or(u64::MAX).min(bytes_max.unwrap_or(u64::MAX));
            Some(Value::Text(ByteString::from(word(number, limit)?)))
        }
        DataType::Bytes { bytes_max, fixed } => {
            let limit = fixed.or(*bytes_max).unwrap_or(u64::MAX);
            let mut bytes = word(number, limit)?.into_bytes();
            bytes.resize(fixed.map_or(bytes.len(), |fixed| fixed as usize), b'~');
            Some(Value::Bytes(Bytes::from(bytes)))
        }
        DataType::Date => {
            let days = DAY_LAST.checked_sub(i32::try_from(number).ok()?)?;
            Some(Value::Date(Date(days)))
        }
        DataType::Timestamp { .. } => {
            Some(Value::Timestamp(Timestamp(before(SECOND_LAST, number)?)))
        }
        DataType::Instant { narrow, .. } => {
            let last = if *narrow { SECOND_LAST_NARROW } else { SECOND_LAST };
            Some(Value::Instant(Instant(before(last, number)?)))
        }
        DataType::Uuid => Some(Value::Uuid((u128::MAX - u128::from(number)).to_be_bytes())),
        _ => None,
    }
}

/// So many seconds before a second since 1970, in microseconds.
fn before(last: i64, number: u64) -> Option<i64> {
    last.checked_sub(i64::try_from(number).ok()?)?.checked_mul(1_000_000)
}

/// A word that begins as hardly any value of a table does, as far as the column is wide enough for that.
fn word(number: u64, limit: u64) -> Option<String> {
    let word = format!("~tidelock~{number:06}");
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    word.get(word.len().saturating_sub(limit)..).filter(|word| !word.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_another_one_for_each_number_and_fits_the_column() {
        let int = |bits, unsigned| stand_in(&DataType::Int { bits, unsigned }, 2);
        assert_eq!(int(8, false), Some(Value::Int(125)));
        assert_eq!(int(24, true), Some(Value::UInt((1 << 24) - 3)));
        assert_eq!(int(64, false), Some(Value::Int(i64::MAX - 2)));
        assert_eq!(int(64, true), Some(Value::UInt(u64::MAX - 2)));
        assert_eq!(stand_in(&DataType::Int { bits: 8, unsigned: false }, 200), None);
        let decimal = DataType::Decimal { precision: Some(6), scale: Some(2) };
        assert_eq!(stand_in(&decimal, 1), Some(Value::Decimal("9998".into())));
        assert_eq!(stand_in(&DataType::Date, 1), Some(Value::Date(Date(2_932_895))));
        let narrow = DataType::Instant { fsp: 0, narrow: true };
        assert_eq!(
            stand_in(&narrow, 7),
            Some(Value::Instant(Instant(2_147_483_640_000_000))),
            "whole seconds"
        );
        assert_eq!(word(7, 300).as_deref(), Some("~tidelock~000007"));
        assert_eq!(word(1234567, 5).as_deref(), Some("34567"));
        assert_eq!(word(7, 0), None);
    }
}
