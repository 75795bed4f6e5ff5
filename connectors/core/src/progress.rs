//! The progress row: what makes every change take effect exactly once.
//!
//! Each flow owns one row of `<meta_schema>.progress` at its **target**. A target transaction starts
//! by marking that row (compare-and-set on epoch and sequence, with the hop list) and ends by setting
//! the position, together with the `COMMIT`. So a crash anywhere leaves either both the changes and
//! the position, or neither. The mark is also what a reader of the target's log meets first, and by
//! which it knows the transaction as an echo.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::position::Position;

/// The table that holds one row a flow, in each target's meta schema.
pub const PROGRESS_TABLE: &str = "progress";
/// The table that holds one row a copied mapping, in each target's meta schema.
pub const SNAPSHOT_TABLE: &str = "snapshot";
/// The column of the progress table that carries sequence and hop list.
pub const HOP_LIST_COLUMN: &str = "hop_list";

/// The column that every mark gives a new value.
pub const SEQ_COLUMN: &str = "seq";

/// Most characters of a pipeline's name: what the columns of our tables hold on every server.
pub const PIPELINE_CHARS_MAX: usize = 64;
/// Most characters of a flow's name.
pub const FLOW_CHARS_MAX: usize = 128;
/// Most characters of a mapping's name. With the other two it fits into InnoDB's index of 3072 bytes.
pub const MAPPING_CHARS_MAX: usize = 190;

/// The durable id of a system: made once, kept in its meta schema. 32 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SystemId(String);

impl SystemId {
    /// The id of 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        SystemId(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let good = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if good { Ok(SystemId(text.to_owned())) } else { Err(()) }
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The systems that a transaction's changes have come through, origin first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HopList(pub Vec<SystemId>);

impl HopList {
    /// Whether the changes have already been at this system.
    pub fn contains(&self, system: &SystemId) -> bool {
        self.0.contains(system)
    }

    /// The list with one more system at its end, if it is not there already.
    #[must_use]
    pub fn with(&self, system: &SystemId) -> HopList {
        let mut hops = self.0.clone();
        if !self.contains(system) {
            hops.push(system.clone());
        }
        HopList(hops)
    }

    /// The text kept in the progress row: the sequence number first, so that the column changes with
    /// every mark and therefore stands in the log even where the server logs changed columns only.
    pub fn encode(&self, seq: u64) -> String {
        let mut text = seq.to_string();
        for hop in &self.0 {
            text.push(' ');
            text.push_str(hop.as_str());
        }
        text
    }

    /// The list of such a text; `None` if it is not one.
    pub fn decode(text: &str) -> Option<(u64, HopList)> {
        let mut parts = text.split(' ');
        let seq = parts.next()?.parse().ok()?;
        let hops = parts.map(SystemId::from_str).collect::<Result<Vec<_>, ()>>().ok()?;
        Some((seq, HopList(hops)))
    }
}

/// A flow's progress row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's name (`crm:erp`).
    pub flow: String,
    /// Raised by every process that takes the flow over; fences off the one before.
    pub epoch: u64,
    /// Raised by every target transaction.
    pub seq: u64,
    /// Which server and history the position belongs to ([`crate::Identity::history`]).
    pub source_identity: String,
    /// Where the flow stands.
    pub position: Position,
    /// A hash of the configuration the position was written under.
    pub config_hash: String,
    /// When the source committed the last change applied, in microseconds since 1970 UTC; 0 if none.
    pub source_commit_micros: i64,
}

/// The first statement of a target transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The epoch we hold; the row must still have it.
    pub epoch: u64,
    /// The new sequence number; the row must still have the one before.
    pub seq: u64,
    /// The systems that the changes have come through, the source included.
    pub hops: HopList,
}

/// A lasting state of a flow or a mapping, other than running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredState {
    /// A person asked for it.
    Paused,
    /// It could not go on; the row says why.
    Stopped,
}

impl StoredState {
    /// The word kept in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            StoredState::Paused => "paused",
            StoredState::Stopped => "stopped",
        }
    }
}

/// A row of `<meta_schema>.state` at the target: survives every restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's name.
    pub flow: String,
    /// The mapping's name; empty for the flow itself.
    pub mapping: String,
    /// The state.
    pub state: StoredState,
    /// The code of the error that led to it.
    pub code: Option<Code>,
    /// What happened, without row values.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// The position of the transaction it happened in.
    pub position: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_lists_round_trip_and_grow_once() {
        let a = SystemId::from_bytes([1; 16]);
        let b = SystemId::from_bytes([2; 16]);
        let hops = HopList::default().with(&a).with(&b).with(&a);
        assert_eq!(hops.0, vec![a, b]);
        assert_eq!(HopList::decode(&hops.encode(7)), Some((7, hops)));
        assert_eq!(HopList::decode("9"), Some((9, HopList::default())));
        assert_eq!(HopList::decode("x"), None);
        assert_eq!(HopList::decode("1 zz"), None);
    }
}
