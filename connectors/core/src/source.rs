//! The contract of an open log.

use async_trait::async_trait;

use crate::error::Result;
use crate::event::Chunk;
use crate::position::Position;
use crate::schema::TableName;

/// A table that a flow reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// The table.
    pub name: TableName,
    /// The source columns that feed the target's key: the log must carry their old values.
    pub key_columns: Vec<String>,
    /// The source columns that are mapped.
    pub columns: Vec<String>,
    /// What the table was when the mapping was planned ([`crate::shape`]); empty if that is not known.
    pub shape: String,
    /// Whether the server may leave it out: its mapping has stopped, and what it misses is compared when
    /// it comes back.
    pub optional: bool,
    /// Whether it joins the stream only now: its rows are copied after the log was opened, so a server
    /// that must be told of each table may be told now. For any other table that the server leaves
    /// out, changes are missing.
    pub joins: bool,
}

/// What a flow reads, and by what names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's name.
    pub flow: String,
    /// The replication slot to use, where the server has slots.
    pub slot: String,
    /// The publication to use, where the server has publications.
    pub publication: String,
    /// The tables; the progress table of this system is always read besides.
    pub tables: Vec<SourceTable>,
    /// Start here instead of at the log's end; only for a flow that never ran.
    pub start_at: Option<Position>,
    /// Server and history the stored position belongs to ([`crate::Identity::history`]).
    pub identity: String,
}

/// An open log. One task owns it: the reader.
///
/// The reader calls [`Source::next`] whenever it has room for more, [`Source::confirm`] after the
/// checkpoint became durable, and [`Source::keepalive`] at least every five seconds, **also while it
/// has no room and does not call `next`**. After any error the source is dropped and a new one
/// opened at the target's position.
#[async_trait]
pub trait Source: Send {
    /// The next events in log order, by the grammar of [`crate::event`]; waits if there are none.
    /// Chunks end where the connector likes (some hundred kilobytes), also inside a transaction.
    /// Cancel-safe: dropping the future loses nothing.
    async fn next(&mut self) -> Result<Chunk>;

    /// Everything up to `position` is committed at the target and durable in the checkpoint: the
    /// server may forget it. Never goes backwards. Returns when it is written to the socket, not
    /// when the server has acted on it.
    async fn confirm(&mut self, position: &Position) -> Result<()>;

    /// Keeps the session alive and asks the server for its current end of log.
    async fn keepalive(&mut self) -> Result<()>;
}
