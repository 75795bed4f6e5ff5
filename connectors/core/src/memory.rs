//! What a mapping remembers at its target between transactions.
//!
//! `<meta_schema>.memory` is a store of small values under small keys: the hash of a row that a view gave, a row
//! that is held back, which side of an edge a key is on. It is written inside the guarded transaction, so it is
//! always what the target's rows and the flow's position say, on whatever machine the flow goes on.
//!
//! A row has one key of bytes: who remembers ([`MemoryScope::prefix`], 16 bytes) and the engine's own key of at most
//! [`MEMORY_KEY_MAX`]. What belongs together, a flow, a mapping, a kind, a group of rows, is therefore one range of
//! the one index, and a row costs no names. The names are hashed: 64 bits of the flow, 56 of the mapping.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Code, Error, Result};

/// The table that holds it, in each target's meta schema.
pub const MEMORY_TABLE: &str = "memory";
/// Most bytes of a key, as the engine gives it.
pub const MEMORY_KEY_MAX: usize = 64;
/// Bytes in front of it that say whose it is.
pub const MEMORY_PREFIX: usize = 16;

/// What a remembered value is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// Rows of a view, as they were sent.
    View,
    /// Which group a row of a view belongs to.
    Owner,
    /// Keys that wait for being read again.
    Pending,
    /// Which side of an edge a key is on.
    Edge,
    /// Rows that are held back.
    Held,
    /// Rows that are inside a window of time.
    Window,
    /// Values that the queries of tracks are asked with; forgotten before the commit.
    Asked,
}

/// What the tables of a meta schema mean, as this binary writes them: more where an older one would misread them (a cursor of a copy in
/// parts, keys that wait). It stands in the memory table under [`FORMAT_KEY`], which is shorter than any key of a mapping.
pub const FORMAT: u32 = 1;
/// The key of the format.
pub const FORMAT_KEY: &[u8] = b"format";

/// Whether the format is to be written; fails where a newer binary has written its own. `meta`: the meta schema, for messages.
pub fn format_is_due(meta: &str, stored: Option<&[u8]>) -> Result<bool> {
    let Some(stored) = stored else { return Ok(true) };
    let known = std::str::from_utf8(stored).ok().and_then(|text| text.parse::<u32>().ok());
    match known {
        Some(format) if format <= FORMAT => Ok(format < FORMAT),
        Some(_) | None => Err(Error::setup(
            Code::Catalog,
            format!("{meta}: a newer tidelock has written here, in a form that this one does not know"),
        )
        .with_hint("start the newer binary again; to go back for good, `tidelock drop` with it all flows to this system and begin anew")),
    }
}

impl MemoryKind {
    /// Every kind.
    pub const ALL: [MemoryKind; 7] = [
        MemoryKind::View,
        MemoryKind::Owner,
        MemoryKind::Pending,
        MemoryKind::Edge,
        MemoryKind::Held,
        MemoryKind::Window,
        MemoryKind::Asked,
    ];

    /// The byte that stands for it in a key. Never given to another kind.
    pub fn byte(self) -> u8 {
        match self {
            MemoryKind::View => b'v',
            MemoryKind::Owner => b'o',
            MemoryKind::Pending => b'p',
            MemoryKind::Edge => b'e',
            MemoryKind::Held => b'h',
            MemoryKind::Window => b'w',
            MemoryKind::Asked => b'q',
        }
    }
}

/// Whose memory, and of what; the flow is that of the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryScope {
    /// The mapping's name.
    pub mapping: Arc<str>,
    /// What is remembered.
    pub kind: MemoryKind,
}

/// A key and its value.
pub type Remembered = (Bytes, Bytes);

/// Whose memory a whole flow's, a whole mapping's, or one kind's is: the first bytes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPrefix(Vec<u8>);

/// The keys from `low` on and below `high`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRange {
    /// The first.
    pub low: Vec<u8>,
    /// Above the last.
    pub high: Vec<u8>,
}

impl MemoryPrefix {
    /// Everything that a flow remembers.
    pub fn flow(pipeline: &str, flow: &str) -> MemoryPrefix {
        let hash = Sha256::digest(format!("{pipeline}\0{flow}"));
        MemoryPrefix(hash.into_iter().take(8).collect())
    }

    /// Everything of one of its mappings.
    #[must_use]
    pub fn mapping(&self, mapping: &str) -> MemoryPrefix {
        let mut bytes = self.0.clone();
        bytes.extend(Sha256::digest(mapping).into_iter().take(7));
        MemoryPrefix(bytes)
    }

    /// Everything of one kind.
    #[must_use]
    pub fn kind(&self, kind: MemoryKind) -> MemoryPrefix {
        let mut bytes = self.0.clone();
        bytes.push(kind.byte());
        MemoryPrefix(bytes)
    }

    /// A key below it.
    pub fn key(&self, key: &[u8]) -> Result<Vec<u8>> {
        if key.len() > MEMORY_KEY_MAX {
            return Err(Error::bug("a key to be remembered is too long"));
        }
        Ok([&*self.0, key].concat())
    }

    /// What the engine gave as the key of a row below it.
    pub fn own(&self, key: &[u8]) -> Result<Bytes> {
        key.strip_prefix(&*self.0)
            .map(Bytes::copy_from_slice)
            .ok_or_else(|| Error::bug("a remembered key of somebody else was read"))
    }

    /// All keys below it that begin so.
    pub fn range(&self, beginning: &[u8]) -> Result<MemoryRange> {
        let low = self.key(beginning)?;
        let mut high = low.clone();
        while high.last() == Some(&u8::MAX) {
            high.pop();
        }
        match high.last_mut() {
            Some(last) => *last += 1,
            // Above every key there can be.
            None => high = vec![u8::MAX; MEMORY_PREFIX + MEMORY_KEY_MAX + 1],
        }
        Ok(MemoryRange { low, high })
    }

    /// All keys below it that come after one.
    pub fn after(&self, key: Option<&[u8]>) -> Result<MemoryRange> {
        let mut range = self.range(&[])?;
        if let Some(key) = key {
            range.low = self.key(key)?;
            // Nothing lies between a key and the same with a zero behind it.
            range.low.push(0);
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_one_range() {
        let flow = MemoryPrefix::flow("p", "a:b");
        let mapping = flow.mapping("m");
        let scope = mapping.kind(MemoryKind::View);
        let key = scope.key(b"\xff\xffx").unwrap();
        assert_eq!(key.len(), MEMORY_PREFIX + 3);
        for (prefix, beginning) in [
            (&flow, &b""[..]),
            (&mapping, b""),
            (&scope, b""),
            (&scope, b"\xff"),
            (&scope, b"\xff\xff"),
        ] {
            let range = prefix.range(beginning).unwrap();
            assert!(range.low <= key && key < range.high, "{range:?}");
        }
        for other in [
            MemoryPrefix::flow("p", "a:c").mapping("m").kind(MemoryKind::View),
            flow.mapping("n").kind(MemoryKind::View),
            mapping.kind(MemoryKind::Held),
        ] {
            let range = other.range(b"").unwrap();
            assert!(key < range.low || range.high <= key, "{range:?}");
            assert!(other.own(&key).is_err());
        }
        assert_eq!(scope.own(&key).unwrap(), b"\xff\xffx"[..]);
        let range = scope.range(b"\xff\xff\xfe").unwrap();
        assert!(key < range.low || range.high <= key);
    }

    #[test]
    fn what_comes_after_a_key_begins_right_behind_it() {
        let scope = MemoryPrefix::flow("p", "a:b").mapping("m").kind(MemoryKind::View);
        let after = scope.after(Some(b"k")).unwrap();
        assert!(scope.key(b"k").unwrap() < after.low);
        assert!(scope.key(b"k\0").unwrap() >= after.low);
        assert!(scope.key(b"").unwrap() >= scope.after(None).unwrap().low);
        assert!(scope.key(&[0; MEMORY_KEY_MAX + 1]).is_err());
    }

    #[test]
    fn no_two_kinds_share_a_byte() {
        let bytes: std::collections::HashSet<u8> = MemoryKind::ALL.map(MemoryKind::byte).into();
        assert_eq!(bytes.len(), MemoryKind::ALL.len());
    }
}
