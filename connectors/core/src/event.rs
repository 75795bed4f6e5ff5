//! What a source delivers: the log as a sequence of whole transactions.
//!
//! The grammar that every [`crate::Source`] keeps, and the engine relies on:
//!
//! ```text
//! log         = { transaction | Idle | TableFault | TableChanged }
//! transaction = Begin { Change | Truncate | TableFault } Commit
//! ```
//!
//! Transactions come in commit order, only committed ones, never interleaved. The first change of a
//! transaction that some tidelock wrote is one of the progress table, which every source delivers
//! whether or not a mapping asks for it.

use crate::change::Change;
use crate::copy::TransactionId;
use crate::error::Error;
use crate::position::Position;
use crate::schema::TableName;
use crate::shape::ShapeChange;

/// A transaction starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// When the source committed it, in microseconds since 1970 UTC on the source's clock.
    pub commit_micros: i64,
    /// The source's own number for it, where a snapshot of the source can be asked about such.
    pub id: Option<TransactionId>,
}

/// A transaction is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Where the log goes on after it: what may be stored and confirmed once it has been applied.
    pub position: Position,
    /// When the source committed it, in microseconds since 1970 UTC on the source's clock.
    pub commit_micros: i64,
}

/// The log went on without anything for us, and nothing is in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Everything relevant before this position has been delivered.
    pub position: Position,
    /// Whether the log grew by more than progress rows and the server's own bookkeeping since the
    /// last event: whether the position is worth a row at the target.
    pub grew: bool,
}

/// Tables were emptied by `TRUNCATE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// Which, among those asked for.
    pub tables: Vec<TableName>,
}

/// One table can no longer be followed from here on; others can.
#[derive(Debug)]
pub struct TableFault {
    /// The table.
    pub table: TableName,
    /// Why, and what to do.
    pub error: Error,
}

/// A statement of the log made a table another one than it was ([`crate::shape`]). Told between two
/// transactions, after the position of the statement itself.
#[derive(Debug)]
pub struct TableChanged {
    /// The table.
    pub table: TableName,
    /// What became of it; never [`ShapeChange::Same`].
    pub change: ShapeChange,
    /// Whether it is not what the mapping was planned for ([`crate::SourceTable::shape`]) any more.
    pub replan: bool,
}

/// One thing met in the log.
#[derive(Debug)]
pub enum LogEvent {
    /// A transaction starts.
    Begin(Begin),
    /// A row changed.
    Change(Change),
    /// Tables were emptied.
    Truncate(Truncate),
    /// A transaction is complete.
    Commit(Commit),
    /// Nothing for us up to here.
    Idle(Idle),
    /// A table can no longer be followed.
    TableFault(TableFault),
    /// A table is another one from here on.
    TableChanged(TableChanged),
}

/// Some events in log order, and the memory they take.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The events.
    pub events: Vec<LogEvent>,
    /// Memory taken, in bytes: the unit of back-pressure.
    pub bytes: usize,
}

impl Chunk {
    /// Adds an event and its weight.
    pub fn push(&mut self, event: LogEvent) {
        self.bytes += size_of::<LogEvent>()
            + match &event {
                LogEvent::Change(change) => change.bytes(),
                LogEvent::Begin(_)
                | LogEvent::Truncate(_)
                | LogEvent::Commit(_)
                | LogEvent::Idle(_)
                | LogEvent::TableFault(_)
                | LogEvent::TableChanged(_) => 0,
            };
        self.events.push(event);
    }
}
