//! The target session: one guarded transaction after another.
//!
//! Trips: `begin` is one, each statement of a write one, position and COMMIT together one, and a position alone one. A small
//! transaction that is known before it begins takes two ([`whole`]).
//! Several statements of one trip end at the first that fails. What must have met one row before COMMIT is therefore
//! followed by a statement that fails unless it did ([`commit`]), and COMMIT is sent only after every write was
//! answered: after error 1213 what follows would otherwise commit by itself.
//!
//! Fencing: the first statement of a transaction sets `seq` where epoch and the sequence before are
//! ours, and must match one row (found rows, not changed rows). It locks the row until COMMIT, so two
//! holders cannot both go on. A lane does the same last, in the trip of its COMMIT. A loader (`lane` above 0) marks a row of its own and locks the flow's row in share mode before,
//! which the update of a takeover waits for, and must find the epoch there. After 1205 half a transaction would stay open and after 1213 the next
//! statement would commit by itself: the engine drops the session after any error, and the session
//! refuses to go on by itself (`broken`).

mod attempt;
mod bulk;
mod call;
mod commit;
mod lease;
mod lookup;
mod memory;
mod partial;
mod rows;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use mysql_async::Statement;
use tidelock_core::{
    Call, Code, CopyRow, Error, ErrorKind, Key, Load, LookupTarget, Mark, MemoryScope, Position,
    Progress, Remembered, Result, Sink, SinkSpec, StateRow, TargetTable, Value, WriteBatch,
};

use crate::session::{Session, literal};
use crate::{error, meta};

pub(crate) use lease::{open, open_loader};

const WRITE: Duration = Duration::from_secs(300);
/// Rows of a load that go into one upsert where they could not be loaded.
const UPSERT_ROWS: usize = 2_000;
/// Payload a statement or bulk packet, or a quarter of the server's max_allowed_packet where that is less: the
/// driver never splits it, and the one OK packet tells of all its warnings. A larger row goes alone.
const BYTES_MAX: usize = 1 << 20;
/// What a packet holds beside its parameters.
const PACKET_HEAD: usize = 64;

/// What a statement depends on: table, kind, columns and rows.
type StatementKey = (u64, Kind, Arc<[usize]>, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Upsert,
    Update,
    Delete,
    DeleteListed,
}

/// A session that holds a flow.
pub(crate) struct MySqlSink {
    session: Session,
    meta: String,
    /// Which progress row is ours, as a condition.
    ours: String,
    /// Whether we load beside the session that holds the flow.
    loads: bool,
    spec: SinkSpec,
    /// The prepared statements.
    statements: HashMap<StatementKey, Statement>,
    /// Payload a packet, and with it a row, may have.
    packet_bytes_max: usize,
    epoch: u64,
    seq: u64,
    open: bool,
    broken: bool,
    /// Whether the server takes `LOAD DATA LOCAL`.
    local_infile: bool,
    /// Tables of which a load was refused: for how many pieces it is not tried again.
    refused: HashMap<u64, u8>,
    /// The cell of each table loaded that goes into an AUTO_INCREMENT column.
    counted: HashMap<u64, Option<usize>>,
    /// When the server was last asked to write something that may have to wait for locks.
    asked: Instant,
    /// How many small transactions are yet to be written statement by statement.
    apart: u8,
    /// What is known of the tables that are looked up in.
    lookups: HashMap<u64, lookup::Known>,
}

/// The condition of a flow's progress rows.
fn flow_row(spec: &SinkSpec) -> String {
    format!("pipeline = {} AND flow = {}", plain(&spec.pipeline), plain(&spec.flow))
}

/// A literal of a text of ours; as it stands where nothing in it could end it.
fn plain(text: &str) -> String {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b" .,:;-_/+=".contains(&b);
    if text.bytes().all(harmless) { format!("'{text}'") } else { literal(text) }
}

impl MySqlSink {
    /// Refuses to go on after an error, and remembers that there was one.
    async fn guarded<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.broken = true;
        }
        result
    }

    fn ready(&self, open: bool) -> Result<()> {
        if self.broken {
            return Err(Error::bug("the target session was used after an error"));
        }
        if self.open != open {
            return Err(Error::bug("the target session was called out of order"));
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for MySqlSink {
    async fn create_progress(&mut self, progress: &Progress) -> Result<()> {
        self.ready(false)?;
        let sql = format!(
            "INSERT INTO {}.`progress` (pipeline, flow, lane, epoch, seq, hop_list, \
             source_identity, position, config_hash, holder, backend, source_commit_micros, \
             updated_at) VALUES (?, ?, 0, 1, 0, '0', ?, ?, ?, ?, CONNECTION_ID(), ?, NOW(6))",
            self.meta
        );
        let params = (
            &progress.pipeline,
            &progress.flow,
            &progress.source_identity,
            progress.position.as_str(),
            &progress.config_hash,
            &self.spec.holder,
            progress.source_commit_micros,
        );
        let result = match self.session.exec(sql, params).await {
            Err(e) if e.code() == Code::KeyConflict => Err(Error::fenced(format!(
                "{}: flow {} already has a progress row",
                self.session.place, self.spec.flow
            ))),
            other => other.map(drop),
        };
        (self.epoch, self.seq) = (1, 0);
        self.guarded(result).await
    }

    async fn begin(&mut self, mark: &Mark) -> Result<()> {
        self.ready(false)?;
        self.open = true;
        let result = self.do_begin(mark, self.loads).await;
        self.guarded(result).await
    }

    async fn begin_lane(&mut self, mark: &Mark) -> Result<()> {
        self.ready(false)?;
        self.open = true;
        let result = self.do_begin(mark, false).await;
        self.guarded(result).await
    }

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<()> {
        self.ready(true)?;
        for (i, batch) in batches.iter().enumerate() {
            let result = match self.batch(batch).await {
                Ok(()) => Ok(()),
                Err(e) => {
                    let e = error::of_rows(self.looked_into(e).await, &batch.table.name);
                    let rows = e.kind() == ErrorKind::Data || e.code() == Code::Rejected;
                    let e = if rows { e.with_batch(i) } else { e };
                    Err(e.at(format_args!("mapping {}, table {}", batch.mapping, batch.table.name)))
                }
            };
            self.guarded(result).await?;
        }
        Ok(())
    }

    async fn write_whole(
        &mut self,
        mark: &Mark,
        batches: &[WriteBatch],
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        self.ready(false)?;
        let done = self.done_whole(mark, batches, position, source_commit_micros).await;
        if self.guarded(done).await? {
            let committed = self.session.run("COMMIT").await;
            return self.guarded(committed).await;
        }
        self.begin(mark).await?;
        self.write(batches).await?;
        self.commit(position, source_commit_micros).await
    }

    async fn load(&mut self, load: &Load<'_>) -> Result<()> {
        self.ready(true)?;
        let loaded = self.try_load(load).await;
        if self.guarded(loaded).await? {
            return Ok(());
        }
        // Whatever it was, the ordinary way finds the same fault and names it.
        for from in (0..load.rows.count()).step_by(UPSERT_ROWS) {
            self.write(&[load.upsert(from, UPSERT_ROWS)?]).await?;
        }
        Ok(())
    }

    async fn call(&mut self, calls: &[Call]) -> Result<()> {
        self.ready(true)?;
        let result = self.calls(calls).await;
        self.guarded(result).await
    }

    async fn attempt(&mut self, batches: &[WriteBatch], calls: &[Call]) -> Result<Option<Error>> {
        let result = self.attempted(batches, calls).await;
        self.guarded(result).await
    }

    async fn venture(&mut self, batches: &[WriteBatch]) -> Result<Option<Error>> {
        let result = self.ventured(batches).await;
        self.guarded(result).await
    }

    async fn mark_place(&mut self) -> Result<()> {
        self.ready(true)?;
        let result = self.session.run("SAVEPOINT tidelock_place").await;
        self.guarded(result).await
    }

    async fn back_to_place(&mut self) -> Result<()> {
        self.ready(true)?;
        let result = self.session.run("ROLLBACK TO SAVEPOINT tidelock_place").await;
        self.guarded(result).await
    }

    async fn attempt_load(&mut self, load: &Load<'_>) -> Result<Option<Error>> {
        let result = self.load_attempted(load).await;
        self.guarded(result).await
    }

    async fn lookup(
        &mut self,
        target: &Arc<LookupTarget>,
        keys: &[Key],
    ) -> Result<Vec<Option<Value>>> {
        self.ready(self.open)?;
        let result = self.looked_up(target, keys).await;
        self.guarded(result).await
    }

    async fn lookup_or_insert(
        &mut self,
        target: &Arc<LookupTarget>,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Value>> {
        self.ready(true)?;
        let result = self.looked_up_or_inserted(target, rows).await;
        self.guarded(result).await
    }

    async fn recall(&mut self, scope: &MemoryScope, keys: &[Bytes]) -> Result<Vec<Remembered>> {
        self.ready(self.open)?;
        let result = self.recalled(scope, keys).await;
        self.guarded(result).await
    }

    async fn recall_prefix(
        &mut self,
        scope: &MemoryScope,
        prefixes: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        self.ready(self.open)?;
        let result = self.recalled_below(scope, prefixes).await;
        self.guarded(result).await
    }

    async fn recall_all(
        &mut self,
        scope: &MemoryScope,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Remembered>> {
        self.ready(self.open)?;
        let result = self.recalled_after(scope, after, limit).await;
        self.guarded(result).await
    }

    async fn lock_rows(&mut self, table: &Arc<TargetTable>, keys: &[Key]) -> Result<()> {
        self.ready(true)?;
        let result = self.locked(table, keys).await;
        self.guarded(result).await
    }

    async fn remember(
        &mut self,
        scope: &MemoryScope,
        put: &[Remembered],
        gone: &[Bytes],
    ) -> Result<()> {
        self.ready(true)?;
        let result = self.keep(scope, put, gone).await;
        self.guarded(result).await
    }

    async fn forget_memory(&mut self, mapping: &str) -> Result<()> {
        self.ready(true)?;
        let result = self.forgotten(mapping).await;
        self.guarded(result).await
    }

    async fn record(&mut self, row: &StateRow) -> Result<()> {
        self.ready(true)?;
        let meta = self.meta.trim_matches('`').replace("``", "`");
        let result = meta::write_state(&mut self.session, &meta, row).await;
        self.guarded(result).await
    }

    async fn record_copy(&mut self, row: &CopyRow) -> Result<()> {
        self.ready(true)?;
        let meta = self.meta.trim_matches('`').replace("``", "`");
        let result = meta::write_copy(&mut self.session, &meta, row).await;
        self.guarded(result).await
    }

    async fn commit(&mut self, position: &Position, source_commit_micros: i64) -> Result<()> {
        self.ready(true)?;
        let result = self.do_commit(position, source_commit_micros).await;
        self.open = false;
        self.guarded(result).await
    }

    async fn commit_in_turn(
        &mut self,
        turn: &Mark,
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        self.ready(true)?;
        let result = self.do_commit_in_turn(turn, position, source_commit_micros).await;
        self.open = false;
        self.guarded(result).await
    }

    async fn save_position(&mut self, mark: &Mark, position: &Position) -> Result<()> {
        self.ready(false)?;
        let result = self.do_save(mark, position).await;
        self.guarded(result).await
    }

    async fn ping(&mut self) -> Result<()> {
        if self.broken {
            return Err(Error::bug("the target session was used after an error"));
        }
        let result = self.session.run("DO 1").await;
        self.guarded(result).await
    }
}
