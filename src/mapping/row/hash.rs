//! Hashes in which equal keys are equal, whatever server calls them so.

use std::hash::{DefaultHasher, Hash, Hasher};

use tidelock_core::Value;

/// Equal for keys that a collation of the source may call equal.
pub fn likeness<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    hash(values)
}

/// A hash in which equal keys are equal; unequal keys may be too, which only cuts a batch early.
pub(super) fn hash<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    let mut state = DefaultHasher::new();
    for value in values {
        match value {
            Value::Null | Value::Unchanged => 0u8.hash(&mut state),
            Value::Bool(b) => u64::from(*b).hash(&mut state),
            Value::Int(i) => (*i as u64).hash(&mut state),
            Value::UInt(u) => u.hash(&mut state),
            // Numbers written differently may be equal (1.0 and 1.00).
            Value::Decimal(t) => plain(t).hash(&mut state),
            Value::Float32(f) => number_bits(f64::from(*f)).hash(&mut state),
            Value::Float64(f) => number_bits(*f).hash(&mut state),
            // A collation of the target may call texts equal that differ in case or blanks.
            Value::Text(t) | Value::Json(t) | Value::Enum(t) | Value::Foreign(t) => {
                let text = t.trim_end();
                if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
                    text.hash(&mut state);
                } else {
                    text.to_lowercase().hash(&mut state);
                }
            }
            Value::Bytes(b) => b.hash(&mut state),
            Value::Date(d) => d.hash(&mut state),
            Value::Time(t) => t.hash(&mut state),
            Value::Timestamp(t) => t.hash(&mut state),
            Value::Instant(t) => t.hash(&mut state),
            // Spans written differently may be equal (a month and 30 days).
            Value::Interval(_) => 2u8.hash(&mut state),
            Value::Uuid(u) => u.hash(&mut state),
        }
    }
    state.finish()
}

/// The digits of a number without zeros that mean nothing: equal numbers are written alike.
fn plain(text: &str) -> (bool, &str) {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let digits = digits.trim_start_matches('0');
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    (negative && !digits.is_empty(), digits)
}

/// One pattern for the two zeros, and one for all that is no number.
fn number_bits(f: f64) -> u64 {
    if f.is_nan() {
        f64::NAN.to_bits()
    } else if f == 0.0 {
        0
    } else {
        f.to_bits()
    }
}
