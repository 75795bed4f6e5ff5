//! Where a flow stands in a source's log.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A resume token in the source's own notation (an LSN; a GTID set with file and offset). Opaque to
/// the engine: only the connector that made it can order two of them
/// ([`crate::Connector::compare`]).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(Arc<str>);

impl Position {
    /// A position from its text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Position(Arc::from(text.as_ref()))
    }

    /// The text, as stored and shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Position({})", self.0)
    }
}

/// How two positions of one log lie to each other. Not `std::cmp::Ordering`: two GTID sets may
/// belong to histories that went apart, and then neither is before the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionOrder {
    /// The first is strictly before the second.
    Before,
    /// They are the same place.
    Equal,
    /// The first is strictly after the second.
    After,
    /// Each holds something the other does not.
    Diverged,
}

impl PositionOrder {
    /// Whether the first position has reached the second.
    pub fn reached(self) -> bool {
        matches!(self, PositionOrder::Equal | PositionOrder::After)
    }
}
