//! Memory for what a row holds beside its cells: many small values share one block.
//!
//! An allocation a value is what reading costs most. Values are therefore cut from blocks, one after the other and
//! over the ends of events, and a block goes when the last of its values does. A value that is kept for long keeps its
//! whole block: that is why blocks are small, why nothing but values is in them (not the event, with the columns that
//! nobody mapped), and why a large value gets memory of its own.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

/// Bytes of a block.
const BLOCK: usize = 4 << 10;
/// A value from so many bytes on gets memory of its own.
const LARGE: usize = 512;

/// Gives memory to values.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    block: BytesMut,
}

impl Arena {
    /// A value of these bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() >= LARGE {
            return Bytes::copy_from_slice(bytes);
        }
        self.room(bytes.len());
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }

    /// A text of these bytes; `None` if they are not UTF-8.
    pub fn text(&mut self, bytes: &[u8]) -> Option<ByteString> {
        if bytes.is_empty() {
            return Some(ByteString::new());
        }
        ByteString::try_from(self.bytes(bytes)).ok()
    }

    fn room(&mut self, bytes: usize) {
        if self.block.capacity() < bytes {
            self.block = BytesMut::with_capacity(BLOCK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_bytes_when_others_come_after_them() {
        let mut arena = Arena::default();
        let large = "x".repeat(LARGE);
        let mut kept = Vec::new();
        for i in 0..2_000 {
            let text = format!("text {i} {}", "ä".repeat(i % 60));
            kept.push((arena.text(text.as_bytes()).unwrap(), text));
            kept.push((arena.text(large.as_bytes()).unwrap(), large.clone()));
        }
        assert!(kept.iter().all(|(ours, theirs)| ours == theirs));
        assert_eq!(arena.text(b""), Some(ByteString::new()));
        assert_eq!(arena.text(&[0xff]), None);
        assert_eq!(arena.bytes(&[0, 255]), Bytes::from_static(&[0, 255]));
    }
}
