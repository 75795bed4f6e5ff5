//! What is remembered of a view's rows: the bytes of keys and values in `<meta_schema>.memory`.
//!
//! A row's key there is the hash of the view's key, 16 bytes, followed for groups by that of the row's own key at the
//! target. The value is the hash of what was sent and the target's key, so that a row can be deleted of which
//! nothing else is known any more.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidelock_core::{Cursor, Error, Key, Result, Value};

/// More than any row's memory takes: keys are short.
const KNOWN_BYTES_MAX: usize = 1 << 20;

/// A hash of 128 bits.
pub type Hash = [u8; 16];

/// What is remembered of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The hash of what was sent.
    pub sent: Hash,
    /// The key at the target.
    pub key: Key,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    sent: Hash,
    key: Vec<u8>,
}

impl Known {
    /// The bytes.
    pub fn encode(&self) -> Result<Bytes> {
        let stored = Stored { sent: self.sent, key: encode_key(&self.key)?.to_vec() };
        bincode::serde::encode_to_vec(&stored, bincode::config::standard())
            .map(Bytes::from)
            .map_err(|e| Error::bug(format!("a remembered row cannot be written: {e}")))
    }

    /// What such bytes say; `None` if they are of no version known here: then the row is as good as unknown.
    pub fn decode(bytes: &[u8]) -> Option<Known> {
        let limited = bincode::config::standard().with_limit::<KNOWN_BYTES_MAX>();
        let (stored, _): (Stored, usize) =
            bincode::serde::decode_from_slice(bytes, limited).ok()?;
        Some(Known { sent: stored.sent, key: decode_key(&stored.key)? })
    }
}

/// A key that waits, as bytes.
pub fn encode_key(key: &[Value]) -> Result<Bytes> {
    let names: Vec<String> = (0..key.len()).map(|i| i.to_string()).collect();
    Cursor::new(&names, key)
        .map(|cursor| Bytes::from(cursor.encode()))
        .ok_or_else(|| Error::bug("a key that waits lacks a cell"))
}

/// A key that waits, and how its row is to be sent when its time comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// The key.
    pub key: Key,
    /// Whatever gate its mapping has.
    pub owed: bool,
    /// Though it is as it was last sent.
    pub force: bool,
}

/// They stand before the key, which begins with neither.
const OWED: u8 = b'!';
const FORCE: u8 = b'*';

impl Pending {
    /// The bytes.
    pub fn encode(&self) -> Result<Bytes> {
        let mut bytes = Vec::new();
        bytes.extend(self.owed.then_some(OWED));
        bytes.extend(self.force.then_some(FORCE));
        bytes.extend_from_slice(&encode_key(&self.key)?);
        Ok(bytes.into())
    }

    /// What such bytes say.
    pub fn decode(bytes: &[u8]) -> Option<Pending> {
        let (owed, bytes) = match bytes.strip_prefix(&[OWED]) {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        let (force, bytes) = match bytes.strip_prefix(&[FORCE]) {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        Some(Pending { key: decode_key(bytes)?, owed, force })
    }
}

/// What such bytes say.
pub fn decode_key(bytes: &[u8]) -> Option<Key> {
    Cursor::parse(std::str::from_utf8(bytes).ok()?).map(|(_, key)| key)
}

/// A hash of values in which the same values, and only they, are the same.
pub fn hash<'a>(seed: &[u8], values: impl IntoIterator<Item = &'a Value>) -> Hash {
    let mut state = Sha256::new();
    state.update(seed);
    for value in values {
        put(value, &mut state);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(&state.finalize()[..16]);
    hash
}

fn put(value: &Value, state: &mut Sha256) {
    let mut told = |kind: u8, bytes: &[u8]| {
        state.update([kind]);
        state.update((bytes.len() as u64).to_le_bytes());
        state.update(bytes);
    };
    match value {
        Value::Null => told(0, &[]),
        Value::Unchanged => told(1, &[]),
        Value::Bool(b) => told(2, &[u8::from(*b)]),
        // An integer is the same number in whatever column it stands.
        Value::Int(i) => told(3, &i128::from(*i).to_le_bytes()),
        Value::UInt(u) => told(3, &i128::from(*u).to_le_bytes()),
        Value::Decimal(t) => told(4, t.as_bytes()),
        Value::Float32(f) => told(5, &f.to_bits().to_le_bytes()),
        Value::Float64(f) => told(6, &f.to_bits().to_le_bytes()),
        Value::Text(t) => told(7, t.as_bytes()),
        Value::Bytes(b) => told(8, b),
        Value::Date(d) => told(9, &d.0.to_le_bytes()),
        Value::Time(t) => told(10, &t.0.to_le_bytes()),
        Value::Timestamp(t) => told(11, &t.0.to_le_bytes()),
        Value::Instant(t) => told(12, &t.0.to_le_bytes()),
        Value::Interval(i) => {
            told(13, &i.months.to_le_bytes());
            told(13, &i.days.to_le_bytes());
            told(13, &i.micros.to_le_bytes());
        }
        Value::Uuid(u) => told(14, u),
        Value::Json(t) => told(15, t.as_bytes()),
        Value::Enum(t) => told(16, t.as_bytes()),
        Value::Foreign(t) => told(17, t.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_comes_back() {
        let key: Key = Box::from([Value::Int(-3), Value::Text("a\0b".into())]);
        let known = Known { sent: hash(b"x", &[Value::Null]), key };
        assert_eq!(Known::decode(&known.encode().expect("bytes")), Some(known));
        assert_eq!(Known::decode(b""), None);
    }

    #[test]
    fn a_key_that_waits_comes_back_with_what_is_owed() {
        for (owed, force) in [(false, false), (true, false), (false, true), (true, true)] {
            let key: Key = Box::from([Value::Text("!*".into()), Value::Int(7)]);
            let pending = Pending { key: key.clone(), owed, force };
            let bytes = pending.encode().expect("bytes");
            assert_eq!(Pending::decode(&bytes), Some(pending));
            assert_eq!(encode_key(&key).expect("key") == bytes, !owed && !force);
        }
    }

    #[test]
    fn no_two_rows_that_differ_share_a_hash() {
        let t = |t: &str| Value::Text(t.to_owned().into());
        let rows = [
            vec![t("a"), t("b")],
            vec![t("ab"), t("")],
            vec![t(""), t("ab")],
            vec![t("a"), Value::Null],
            vec![t("a")],
            vec![Value::Int(1)],
            vec![Value::Decimal("1".into())],
        ];
        let hashes: std::collections::HashSet<Hash> = rows.iter().map(|r| hash(b"", r)).collect();
        assert_eq!(hashes.len(), rows.len());
        assert_ne!(hash(b"x", &rows[0]), hash(b"y", &rows[0]));
        assert_eq!(hash(b"", &[Value::Int(7)]), hash(b"", &[Value::UInt(7)]));
    }
}
