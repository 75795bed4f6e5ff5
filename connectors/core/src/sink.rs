//! The contract of a target session.
//!
//! The order of calls, which a sink may rely on and must refuse to leave:
//!
//! ```text
//! open_sink ─> [create_progress] ─> { begin ─> { write | load | call | attempt | venture | mark_place | back_to_place | attempt_load | lookup | lookup_or_insert
//!                                                | lock_rows | remember | forget_memory | record | record_copy } ─> commit | save_position | ping }
//! ```
//!
//! `recall`, `recall_prefix`, `recall_all` and `lookup` may be called at any time; inside a transaction they see what it
//! has done.
//!
//! After **any** error the session is dropped: the server rolls back, and the flow starts over from
//! the position that the progress row holds.
//!
//! **Loaders.** Pieces of copies may be loaded by several sessions at once ([`crate::Connector::open_loader`]) while the
//! flow's own stands still between two transactions. Each has a progress row of its own (its `lane`), which it marks and
//! commits as the flow's session does the flow's (lane 0): so a reader of the target's log knows its transactions as echoes, too.
//! Before the mark it locks the flow's row in share mode and must find its epoch there, else it is
//! [`crate::ErrorKind::Fenced`]. A takeover raises that epoch, so it waits for the loads that are under way, and those
//! that begin after it fail: when a successor reads how far copies have come, nobody else can change that.
//! A loader moves no position: it may load only what belongs to the position that the flow's row holds.
//!
//! **Lanes.** The same sessions may write transactions of the log beside each other: each begins by marking its own row and
//! leaves the flow's alone ([`Sink::begin_lane`]). When all transactions before it have been committed, its turn has come: it moves the flow's row from the
//! sequence number before to its own, with the position, and commits ([`Sink::commit_in_turn`]). So there is still one
//! position, whatever the number of lanes; what cannot move it, because another has taken the flow over, commits nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::copy::{CopyRow, Key, Lines};
use crate::error::{Error, Result};
use crate::lookup::LookupTarget;
use crate::memory::{MemoryScope, Remembered};
use crate::position::Position;
use crate::progress::{Mark, Progress, StateRow};
use crate::routine::Call;
use crate::schema::{DataType, TableName};
use crate::value::Value;

/// Whose session it is, and of which flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkSpec {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's name.
    pub flow: String,
    /// Host and process of ours, for a person who reads the row.
    pub holder: String,
    /// A hash of the configuration.
    pub config_hash: String,
    /// The tables that will be written (for preflight: rights, constraints, triggers).
    pub tables: Vec<TableName>,
    /// The routines that will be called (for preflight: rights, and what they must not do).
    pub routines: Vec<TableName>,
    /// The tables that values are looked up in, and whether rows that are missing are inserted (for preflight: rights).
    pub lookups: Vec<(TableName, bool)>,
}

/// A column of a target table as mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetColumn {
    /// Its name.
    pub name: String,
    /// What it can hold; values are already converted to it.
    pub data_type: DataType,
    /// The server's own spelling of the type, fit for a cast.
    pub native: String,
    /// `GENERATED ALWAYS AS IDENTITY`: writing it needs an override.
    pub identity_always: bool,
}

/// A target table as mapped. Made once a compiled plan and shared by `Arc`; `id` differs for any two
/// plans, so a sink may key its prepared statements by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTable {
    /// Differs for any two plans of one process.
    pub id: u64,
    /// The table.
    pub name: TableName,
    /// The mapped columns.
    pub columns: Vec<TargetColumn>,
    /// Indexes into `columns` of the mapping key, in key order.
    pub key: Vec<usize>,
    /// Whether a write that changes nothing must leave no trace in the target's log (two-way).
    pub suppress_unchanged: bool,
    /// Whether the mapping writes only some columns of a row that others write too: a row that is there is updated
    /// whatever its other columns ask of a new one (NOT NULL), and only what is missing is inserted. It holds for
    /// every operation that may insert.
    pub partial: bool,
}

/// What to do with the rows of a batch.
///
/// [`WriteOp::Insert`], [`WriteOp::Upsert`] and [`WriteOp::Overwrite`] mean the same: afterwards the row is there as given.
/// They differ in what is believed of the target, so that a sink may try the cheaper statement first; a replay, or
/// a copy that was here before, makes the belief wrong, and then the row is upserted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteOp {
    /// An upsert of rows that should not be there yet.
    Insert,
    /// An upsert of rows that should be there.
    Overwrite,
    /// Insert, or update the row of the same mapping key. `columns` holds all key columns. A row that
    /// meets another row by any other unique key is an error, never an update of that other row.
    Upsert,
    /// Update `columns` of the row whose key follows them in the row; every row must be there
    /// ([`crate::Code::UpdateMissing`]). Used for partial images; may set key columns (a move).
    Update,
    /// Like `Update`, but a row that is not there is no error: what a row that ended is marked with.
    Patch,
    /// Like `Update` with a full image that moves the key: where the old row is missing, upsert.
    Move,
    /// Delete by key; a row that is not there is no error. `columns` is the key.
    Delete,
    /// Delete every row; `rows` is empty.
    DeleteAll,
}

/// Rows for one table, one operation and one set of columns. No two rows of a batch have the same
/// key (old or new), so the rows may be executed in any order or as one statement. Batches of one
/// call must take effect in order.
#[derive(Debug, Clone)]
pub struct WriteBatch {
    /// Which mapping it belongs to: for messages.
    pub mapping: Arc<str>,
    /// The table.
    pub table: Arc<TargetTable>,
    /// What to do.
    pub op: WriteOp,
    /// Indexes into `table.columns`: what the first cells of each row are.
    pub columns: Arc<[usize]>,
    /// The rows: the cells of `columns`; for `Update`, `Patch` and `Move` followed by the old key's cells in
    /// key order. Never [`Value::Unchanged`].
    pub rows: Vec<Box<[Value]>>,
}

/// Rows to be loaded, given out one after the other and as often as they are asked for: they are
/// converted while the server is taking those before.
pub trait LoadRows: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// Appends the cells of a row: those of `columns`, none of them [`Value::Unchanged`].
    fn put(&self, row: usize, cells: &mut Vec<Value>) -> Result<()>;
}

impl LoadRows for Vec<Box<[Value]>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn put(&self, row: usize, cells: &mut Vec<Value>) -> Result<()> {
        let row = self.get(row).ok_or_else(|| Error::bug("a load has fewer rows than it says"))?;
        cells.extend_from_slice(row);
        Ok(())
    }
}

/// Rows of a copy for one table: believed to be new, each key once.
#[derive(Clone)]
pub struct Load<'a> {
    /// Which mapping it belongs to: for messages.
    pub mapping: Arc<str>,
    /// The table.
    pub table: Arc<TargetTable>,
    /// Indexes into `table.columns`: what the cells of each row are.
    pub columns: Arc<[usize]>,
    /// The rows.
    pub rows: &'a dyn LoadRows,
}

impl Load<'_> {
    /// So many rows from `from` on, as a batch to be upserted.
    pub fn upsert(&self, from: usize, rows: usize) -> Result<WriteBatch> {
        let upto = from.saturating_add(rows).min(self.rows.count());
        let rows = (from..upto)
            .map(|row| {
                let mut cells = Vec::with_capacity(self.columns.len());
                self.rows.put(row, &mut cells)?;
                Ok(cells.into())
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(WriteBatch {
            mapping: self.mapping.clone(),
            table: self.table.clone(),
            op: WriteOp::Upsert,
            columns: self.columns.clone(),
            rows,
        })
    }
}

/// A target session that holds the flow.
pub struct OpenSink {
    /// The session.
    pub sink: Box<dyn Sink>,
    /// The flow's progress after our epoch was set; `None` if the flow never ran here.
    pub progress: Option<Progress>,
}

/// The answer to a wish to write.
pub enum Lease {
    /// We hold the flow.
    Held(OpenSink),
    /// Another live process holds it.
    Busy {
        /// Who, for people.
        holder: String,
    },
}

/// A target session. See the module doc for the order of calls.
#[async_trait]
pub trait Sink: Send {
    /// Makes the flow's progress row (epoch 1, sequence 0) in a transaction of its own. Fails as
    /// [`crate::ErrorKind::Fenced`] if there is one already.
    async fn create_progress(&mut self, progress: &Progress) -> Result<()>;

    /// Opens a transaction and marks the progress row. Anything but exactly one row is
    /// [`crate::ErrorKind::Fenced`], here or in whatever call awaits the answer: the mark may travel with
    /// the first writes, but no COMMIT is sent before it is known to have been right.
    async fn begin(&mut self, mark: &Mark) -> Result<()>;

    /// Executes the batches in order inside the open transaction, pipelined. An error that is about
    /// the data names its batch ([`crate::Error::batch`]).
    async fn write(&mut self, batches: &[WriteBatch]) -> Result<()>;

    /// A whole transaction: [`Sink::begin`], [`Sink::write`] and [`Sink::commit`], for connectors that save trips where all of it is known
    /// before it begins.
    async fn write_whole(
        &mut self,
        mark: &Mark,
        batches: &[WriteBatch],
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        self.begin(mark).await?;
        self.write(batches).await?;
        self.commit(position, source_commit_micros).await
    }

    /// Loads rows inside the open transaction, in the server's fastest way that cannot change a value
    /// unnoticed; a row that is there after all is upserted.
    async fn load(&mut self, load: &Load<'_>) -> Result<()>;

    /// Loads lines of a source of the same family, whose columns have the types of `columns`. `false`:
    /// the server did not take them all, and none of them is there; [`Sink::load`] may tell why.
    async fn load_lines(
        &mut self,
        table: &Arc<TargetTable>,
        columns: &[usize],
        lines: &Lines,
    ) -> Result<bool> {
        let _not_in_this_family = (table, columns, lines);
        Ok(false)
    }

    /// Calls routines inside the open transaction, one after the other in this order. What a routine raises is an
    /// error that names its call ([`crate::Error::batch`]); one that is about a row which is not there (yet) is
    /// [`crate::Code::ForeignKey`], whoever found that out. [`crate::Code::RoutineCommits`] means that a part of the
    /// transaction is committed already: see [`crate::routine`].
    async fn call(&mut self, calls: &[Call]) -> Result<()>;

    /// Writes batches, then calls routines, below a savepoint. A row that points to one that is not there (yet), or is still
    /// pointed to ([`crate::Code::ForeignKey`]), or whose unique value another row has ([`crate::Code::KeyConflict`]), takes all of them
    /// back and is the answer; any other error is one.
    async fn attempt(&mut self, batches: &[WriteBatch], calls: &[Call]) -> Result<Option<Error>>;

    /// [`Sink::attempt`] without calls, where whatever the target says of the rows takes all of them back and is the answer.
    async fn venture(&mut self, batches: &[WriteBatch]) -> Result<Option<Error>>;

    /// Marks a place inside the open transaction; there is one at most.
    async fn mark_place(&mut self) -> Result<()>;

    /// Takes all back that was done since [`Sink::mark_place`].
    async fn back_to_place(&mut self) -> Result<()>;

    /// [`Sink::load`] as [`Sink::attempt`] writes: what is refused so takes all rows back and is the answer.
    async fn attempt_load(&mut self, load: &Load<'_>) -> Result<Option<Error>>;

    /// Finds a value for each key, whose cells are those of `target.by`. A key with NULL in it finds nothing. More
    /// than one row is [`crate::Code::LookupAmbiguous`].
    async fn lookup(
        &mut self,
        target: &Arc<LookupTarget>,
        keys: &[Key],
    ) -> Result<Vec<Option<Value>>>;

    /// The same, where a row that is missing is inserted first. The cells of a row are those of `target.by` and then
    /// those of `target.with`. A row that another session inserts at the same moment is found; any other thing that
    /// stands in the way of an insert is an error that names its row ([`crate::Error::batch`]).
    async fn lookup_or_insert(
        &mut self,
        target: &Arc<LookupTarget>,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Value>>;

    /// What is remembered under these keys: those that are there, in any order.
    async fn recall(&mut self, scope: &MemoryScope, keys: &[Bytes]) -> Result<Vec<Remembered>>;

    /// What is remembered under keys that begin so, in any order. No beginning may contain another.
    async fn recall_prefix(
        &mut self,
        scope: &MemoryScope,
        prefixes: &[Bytes],
    ) -> Result<Vec<Remembered>>;

    /// What is remembered under the first `limit` keys above `after`, in the order of their bytes.
    async fn recall_all(
        &mut self,
        scope: &MemoryScope,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Remembered>>;

    /// Locks the rows of these keys inside the open transaction: until it ends nobody else changes or removes them, and whoever has
    /// done so before has committed. Keys that are not there are passed over; rows that others hold equal to a key may be locked with it.
    async fn lock_rows(&mut self, table: &Arc<TargetTable>, keys: &[Key]) -> Result<()>;

    /// Remembers values and forgets keys inside the open transaction. No key may stand there twice.
    async fn remember(
        &mut self,
        scope: &MemoryScope,
        put: &[Remembered],
        gone: &[Bytes],
    ) -> Result<()>;

    /// Forgets all that a mapping remembers inside the open transaction.
    async fn forget_memory(&mut self, mapping: &str) -> Result<()>;

    /// Writes a lasting state inside the open transaction.
    async fn record(&mut self, row: &StateRow) -> Result<()>;

    /// Writes how far a copy has come inside the open transaction.
    async fn record_copy(&mut self, row: &CopyRow) -> Result<()>;

    /// Sets position and commits, and makes sure that the server said COMMIT. After an error the
    /// outcome is unknown: the next holder reads it from the progress row. What is checked only here (a deferred
    /// constraint) names the mapping whose rows are refused, where that can be told ([`crate::Error::mapping`]).
    async fn commit(&mut self, position: &Position, source_commit_micros: i64) -> Result<()>;

    /// Opens a transaction of a lane: marks the lane's own row, whose sequence number is that of the mark. The flow's row is looked
    /// at when its turn has come. For sessions of [`crate::Connector::open_loader`].
    async fn begin_lane(&mut self, mark: &Mark) -> Result<()>;

    /// Sets the flow's row, which must have the epoch and the sequence number before that of `turn`, else it is
    /// [`crate::ErrorKind::Fenced`] and nothing is committed; then the same as [`Sink::commit`].
    async fn commit_in_turn(
        &mut self,
        turn: &Mark,
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()>;

    /// Mark and position in a transaction without changes.
    async fn save_position(&mut self, mark: &Mark, position: &Position) -> Result<()>;

    /// Keeps the idle session alive (it has server-side limits of 30 seconds).
    async fn ping(&mut self) -> Result<()>;
}
