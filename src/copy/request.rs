//! What the workers ask of the applier, and its answers: the words between the two sides of a copy.

use std::sync::Arc;

use tidelock_core::{Cursor, Key, Piece, Position, TransactionId};
use tokio::sync::oneshot;

/// Where the applier stood when it began to watch, and what it had applied lately.
#[derive(Debug, Clone)]
pub struct Watching {
    /// The position that the snapshot must show.
    pub reached: Position,
    /// Transactions of the copied tables delivered, but for those that some snapshot was known to show.
    pub delivered: Vec<TransactionId>,
    /// The number of the last of them: to be told when a snapshot has shown them all.
    pub last: u64,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed at the target.
    Written,
    /// Too much changed meanwhile: read it again.
    Spoiled,
}

/// What the copier asks of the applier; answered between two source transactions.
pub enum Request {
    /// Cut the last part of a mapping, of which nothing beyond this key is copied or watched.
    Split {
        /// The mapping.
        mapping: Arc<str>,
        /// The last key of the first half.
        at: Key,
        /// The answer.
        reply: oneshot::Sender<()>,
    },
    /// Keep the changes of a range from now on.
    Watch {
        /// The mapping.
        mapping: Arc<str>,
        /// The part that the range is of.
        part: usize,
        /// Its last key; it begins where the one watched before it ends.
        upto: Option<Key>,
        /// Whether the part ends with it.
        last: bool,
        /// The number of the last transaction that a snapshot has shown.
        shown: u64,
        /// The answer.
        reply: oneshot::Sender<Watching>,
    },
    /// The rows of the range watched.
    Rows {
        /// The mapping.
        mapping: Arc<str>,
        /// The part.
        part: usize,
        /// The rows.
        piece: Piece,
        /// What covers everything they show.
        upto: Position,
        /// About how many rows there are, where that was looked at.
        total: u64,
        /// The answer.
        reply: oneshot::Sender<Outcome>,
    },
    /// Forget the range watched last in a part, or all of them.
    Unwatch {
        /// The mapping.
        mapping: Arc<str>,
        /// The part.
        part: usize,
        /// All, not only the last.
        all: bool,
        /// The answer.
        reply: oneshot::Sender<()>,
    },
    /// Keep the keys that are written from now on.
    WatchKeys {
        /// The mapping.
        mapping: Arc<str>,
        /// The number of the last transaction that a snapshot has shown.
        shown: u64,
        /// The answer.
        reply: oneshot::Sender<Watching>,
    },
    /// Which of these keys of the target, by their hashes, have been written since [`Request::WatchKeys`].
    Written {
        /// The mapping.
        mapping: Arc<str>,
        /// The hashes.
        keys: Vec<u64>,
        /// The answer.
        reply: oneshot::Sender<Vec<bool>>,
    },
    /// Keys of the target that the source does not have.
    Sweep {
        /// The mapping.
        mapping: Arc<str>,
        /// The keys, as the target has them.
        absent: Vec<Key>,
        /// What covers everything that the question saw.
        upto: Position,
        /// Up to which key of the target has been asked; `None` if that was the last.
        cursor: Option<Cursor>,
        /// The answer.
        reply: oneshot::Sender<Outcome>,
    },
}
