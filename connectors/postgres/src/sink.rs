//! A target session: the one writer of a flow.
//!
//! **One writer.** An advisory lock of the session makes others wait; the epoch in the progress row
//! makes them safe: each transaction begins with an update that matches only our epoch and the
//! sequence number before, and anything but one row ends the session. A loader (`lane` above 0) has no lock of
//! its own: it locks the flow's row in share mode first, which a takeover's update waits for, and must find the epoch there.
//!
//! **Two trips a transaction.** BEGIN and the mark travel with the first writes: what follows a mark that
//! matched nothing is undone with the session, as is everything until COMMIT. The position and COMMIT are
//! sent together once the answers of all writes are in and right.
//!
//! **COMMIT means committed.** PostgreSQL answers the COMMIT of a failed transaction with success
//! and the tag `ROLLBACK`, and the client library hides the tag. So the statement that sets the position
//! fails if it does not meet exactly the row that the mark left (it divides by the number of rows it set): either
//! its answer is a row, then the transaction was sound right before COMMIT and nothing is sent in between,
//! or it is an error, then the COMMIT behind it rolls back, and the error is what the caller gets. What
//! fails at COMMIT itself, a deferred constraint, is an error of the COMMIT, and names the mapping
//! whose rows it refuses ([`deferred`]).
//!
//! **Rows that should be new** go through `COPY` below a savepoint where there are enough of them to be
//! worth its two trips: it costs the server half of an upsert. Whatever it refuses, a row that is there, a
//! row that a trigger left out, is upserted after all. A savepoint takes a subtransaction's number, of which
//! other sessions can look up only 64 a transaction cheaply. A long transaction that has had its share asks
//! for the keys first and loads without a savepoint where none is there. If that is refused, because another
//! session has just put such a row in or another constraint is broken, it is an error like any of a write, and the
//! transaction is done again row by row.
//!
//! **Plans.** Statements that find rows by their keys must do so by the index, whatever the server believes of
//! the size of a table that is being filled: without statistics it takes a table that was empty when the
//! plan was made for small, and would read it whole for every batch. So reading tables whole is priced out for
//! the session, plans are made once and not for every few rows, and are made anew as the table grows. Where a
//! trigger has no other way than to read a table whole, that price would make the server compile its plan for half a second, so nothing is compiled.

mod attempt;
mod bulk;
mod call;
mod deferred;
mod lease;
mod lookup;
mod memory;
mod statements;
mod transaction;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::MaybeDone;
use tidelock_core::{
    Call, Code, CopyRow, Error, ErrorKind, Key, Lines, Load, LookupTarget, Mark, MemoryScope,
    Position, Progress, Remembered, Result, Sink, SinkSpec, StateRow, TargetTable, Value,
    WriteBatch, WriteOp,
};

use crate::error::Stage;
use crate::load::{self, Rows};
use crate::meta;
use crate::quote::ident;
use crate::session::{CALL_TIMEOUT, Session};
use bulk::SAVEPOINTS_MAX;
use statements::Prepared;
use transaction::Open;

pub(crate) use lease::{open, open_loader};

/// Rows of a batch from which on `COPY` is cheaper than an upsert, its savepoint and trips included.
const COPY_ROWS_MIN: usize = 200;
/// How long the batches of one call may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// Prepared statements kept at the server; more, and all are prepared anew.
const STATEMENTS_MAX: usize = 500;
/// Pieces that are upserted at once after one of a table was refused.
const REFUSED_PIECES: u8 = 8;
/// Rows of a load that go into one upsert where `COPY` could not take them.
const LOAD_ROWS: usize = 2_000;

/// What a statement depends on: table, operation and columns.
type PlanKey = (u64, Option<WriteOp>, Arc<[usize]>);

/// An open target session.
pub(crate) struct PgSink {
    session: Session,
    spec: SinkSpec,
    schema: String,
    statements: HashMap<PlanKey, Arc<Prepared>>,
    /// Those of calls, lookups and memory, by their texts.
    texts: HashMap<String, tokio_postgres::Statement>,
    /// What makes the session again what it is, whatever a routine has set in it.
    again: String,
    /// The statements that load rows: of a table and columns, in binary or as text.
    copies: HashMap<(u64, Arc<[usize]>, bool), tokio_postgres::Statement>,
    /// Whether a table can be loaded, as the catalog had it when that was first asked.
    copyable: HashMap<u64, bool>,
    /// The columns of each table's key that hold different texts equal.
    loose: HashMap<u64, Arc<[String]>>,
    /// Rows put into each table.
    rows_put: HashMap<u64, u64>,
    /// Locks the flow's row and finds our epoch there: for a loader only.
    guard_statement: Option<tokio_postgres::Statement>,
    /// Moves the flow's row when the turn of a lane has come: for a loader only.
    turn_statement: Option<tokio_postgres::Statement>,
    mark_statement: tokio_postgres::Statement,
    position_statement: tokio_postgres::Statement,
    open: Option<Open>,
    /// Tables that refused a `COPY`: for how many pieces it is not tried again.
    refused: HashMap<u64, u8>,
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::bug("an epoch or sequence number ran over"))
}

/// Polls all futures in order until the first has an answer: the client sends a request when its
/// future is first polled, so the order of polling is the order of sending.
async fn send_in_order<F: Future>(futures: &mut [Pin<Box<MaybeDone<F>>>]) {
    std::future::poll_fn(|context| {
        for future in futures.iter_mut() {
            let _ = future.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
}

impl PgSink {
    async fn new(
        (session, again): (Session, String),
        spec: SinkSpec,
        schema: String,
        lane: i32,
    ) -> Result<PgSink> {
        let table = format!("{}.progress", ident(&schema));
        let mine = format!("pipeline = $1 AND flow = $2 AND lane = {lane}");
        let guard = format!(
            "SELECT 1 FROM {table} WHERE pipeline = $1 AND flow = $2 AND lane = 0 AND epoch = $3 FOR SHARE"
        );
        let mark = format!(
            "UPDATE {table} SET seq = $4::int8, hop_list = $5, updated_at = clock_timestamp() \
             WHERE {mine} AND epoch = $3 AND seq = $4::int8 - 1"
        );
        let position = format!(
            "WITH moved AS (UPDATE {table} SET position = $5, source_commit_micros = \
             CASE WHEN $6::int8 = 0 THEN source_commit_micros ELSE $6::int8 END, config_hash = $7, \
             updated_at = clock_timestamp() WHERE {mine} AND epoch = $3 AND seq = $4 RETURNING 1) \
             SELECT 1 / count(*) FROM moved"
        );
        let turn = format!(
            "WITH moved AS (UPDATE {table} SET seq = $4::int8, hop_list = $8, position = $5, source_commit_micros = \
             CASE WHEN $6::int8 = 0 THEN source_commit_micros ELSE $6::int8 END, config_hash = $7, \
             updated_at = clock_timestamp() WHERE pipeline = $1 AND flow = $2 AND lane = 0 \
             AND epoch = $3 AND seq = $4::int8 - 1 RETURNING 1) SELECT 1 / count(*) FROM moved"
        );
        let doing = "preparing statements";
        let prepare = |sql: String| async {
            let sql = sql;
            session.call(doing, Stage::Admin, CALL_TIMEOUT, session.client.prepare(&sql)).await
        };
        let (guard_statement, turn_statement) = match lane {
            0 => (None, None),
            _ => (Some(prepare(guard).await?), Some(prepare(turn).await?)),
        };
        let mark_statement = prepare(mark).await?;
        let position_statement = prepare(position).await?;
        Ok(PgSink {
            session,
            spec,
            schema,
            statements: HashMap::new(),
            texts: HashMap::new(),
            again,
            copies: HashMap::new(),
            copyable: HashMap::new(),
            loose: HashMap::new(),
            rows_put: HashMap::new(),
            guard_statement,
            turn_statement,
            mark_statement,
            position_statement,
            open: None,
            refused: HashMap::new(),
        })
    }

    /// Counts what goes into a table.
    fn put(&mut self, table: u64, rows: usize) {
        *self.rows_put.entry(table).or_default() += rows as u64;
    }
}

fn load_doing(load: &Load<'_>) -> String {
    format!("mapping {}: writing to {}", load.mapping, load.table.name)
}

fn doing(batch: &WriteBatch) -> String {
    format!("mapping {}: writing to {}", batch.mapping, batch.table.name)
}

fn keeps_documents(batch: &WriteBatch) -> Result<()> {
    for (cell, name) in load::checked_documents(&batch.table, &batch.columns) {
        for row in &batch.rows {
            load::keeps_document(row.get(cell), &name).map_err(|error| error.at(doing(batch)))?;
        }
    }
    Ok(())
}

/// Only what is about the data, or raised by what rows lead to, is about a batch.
fn attribute(error: Error, batch: usize) -> Error {
    match error.kind() == ErrorKind::Data || error.code() == Code::Rejected {
        true => error.with_batch(batch),
        false => error,
    }
}

#[async_trait]
impl Sink for PgSink {
    async fn create_progress(&mut self, progress: &Progress) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.progress (pipeline, flow, lane, epoch, seq, hop_list, source_identity, \
             position, config_hash, holder, backend, source_commit_micros, updated_at) \
             VALUES ($1, $2, 0, 1, 0, '0', $3, $4, $5, $6, pg_backend_pid()::text, $7, \
             clock_timestamp()) ON CONFLICT DO NOTHING",
            ident(&self.schema)
        );
        let rows = self
            .session
            .execute(
                "making the progress row",
                &sql,
                &[
                    &progress.pipeline,
                    &progress.flow,
                    &progress.source_identity,
                    &progress.position.as_str(),
                    &progress.config_hash,
                    &self.spec.holder,
                    &progress.source_commit_micros,
                ],
            )
            .await?;
        if rows == 1 {
            Ok(())
        } else {
            Err(Error::fenced(format!("flow {} already has a progress row", self.spec.flow)))
        }
    }

    async fn begin(&mut self, mark: &Mark) -> Result<()> {
        self.begun(mark, true)
    }

    async fn begin_lane(&mut self, mark: &Mark) -> Result<()> {
        self.begun(mark, false)
    }

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<()> {
        self.opened()?;
        let mut start = 0;
        for (index, batch) in batches.iter().enumerate() {
            self.note(&batch.mapping, &batch.table.name)?;
            keeps_documents(batch).map_err(|error| attribute(error, index))?;
            let loads = batch.op == WriteOp::Insert && batch.rows.len() >= COPY_ROWS_MIN;
            if batch.op == WriteOp::Move || loads {
                self.run(start, batches.get(start..index).unwrap_or(&[])).await?;
                start = index;
            }
            if batch.op == WriteOp::Move {
                self.run_move(index, batch).await?;
                start = index + 1;
            } else if loads {
                let rows = Rows::Batch(&batch.rows);
                let copied = self.copy(&doing(batch), &batch.table, &batch.columns, rows).await;
                if copied.map_err(|error| attribute(error, index))? {
                    start = index + 1;
                }
            }
        }
        self.run(start, batches.get(start..).unwrap_or(&[])).await
    }

    async fn load(&mut self, load: &Load<'_>) -> Result<()> {
        self.note(&load.mapping, &load.table.name)?;
        let rows = Rows::Load(load.rows);
        if self.copy(&load_doing(load), &load.table, &load.columns, rows).await? {
            return Ok(());
        }
        // Whatever it was, the ordinary way finds the same fault and names it.
        for from in (0..load.rows.count()).step_by(LOAD_ROWS) {
            self.write(&[load.upsert(from, LOAD_ROWS)?]).await?;
        }
        Ok(())
    }

    async fn load_lines(
        &mut self,
        table: &Arc<TargetTable>,
        columns: &[usize],
        lines: &Lines,
    ) -> Result<bool> {
        if self.opened()?.savepoints >= SAVEPOINTS_MAX || !self.may_copy(table).await? {
            return Ok(false);
        }
        let doing = format!("writing to {}", table.name);
        let statement = self.copy_statement(&doing, table, columns, false).await?;
        // A row may come before the one that it points to, and is to be refused here, where it can wait.
        self.check_at_once(&doing).await?;
        let copying = async |client: &tokio_postgres::Client| {
            let sink = client.copy_in::<_, Bytes>(&statement).await?;
            tokio::pin!(sink);
            for text in &lines.text {
                sink.send(text.clone()).await?;
            }
            sink.finish().await.map(Ok)
        };
        let taken = self.copied(&doing, lines.count, copying).await?;
        if taken {
            self.put(table.id, lines.count);
        } else {
            self.refused.insert(table.id, REFUSED_PIECES);
        }
        Ok(taken)
    }

    async fn call(&mut self, calls: &[Call]) -> Result<()> {
        self.calls(calls).await
    }

    async fn attempt(&mut self, batches: &[WriteBatch], calls: &[Call]) -> Result<Option<Error>> {
        self.attempted(batches, calls).await
    }

    async fn venture(&mut self, batches: &[WriteBatch]) -> Result<Option<Error>> {
        self.ventured(batches).await
    }

    async fn mark_place(&mut self) -> Result<()> {
        self.marked().await
    }

    async fn back_to_place(&mut self) -> Result<()> {
        self.went_back().await
    }

    async fn attempt_load(&mut self, load: &Load<'_>) -> Result<Option<Error>> {
        self.load_attempted(load).await
    }

    async fn lookup(
        &mut self,
        target: &Arc<LookupTarget>,
        keys: &[Key],
    ) -> Result<Vec<Option<Value>>> {
        self.looked_up(target, keys).await
    }

    async fn lookup_or_insert(
        &mut self,
        target: &Arc<LookupTarget>,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Value>> {
        self.looked_up_or_inserted(target, rows).await
    }

    async fn recall(&mut self, scope: &MemoryScope, keys: &[Bytes]) -> Result<Vec<Remembered>> {
        self.recalled(scope, keys).await
    }

    async fn recall_prefix(
        &mut self,
        scope: &MemoryScope,
        prefixes: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        self.recalled_below(scope, prefixes).await
    }

    async fn recall_all(
        &mut self,
        scope: &MemoryScope,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Remembered>> {
        self.recalled_after(scope, after, limit).await
    }

    async fn lock_rows(&mut self, table: &Arc<TargetTable>, keys: &[Key]) -> Result<()> {
        self.locked(table, keys).await
    }

    async fn remember(
        &mut self,
        scope: &MemoryScope,
        put: &[Remembered],
        gone: &[Bytes],
    ) -> Result<()> {
        self.keep(scope, put, gone).await
    }

    async fn forget_memory(&mut self, mapping: &str) -> Result<()> {
        self.forgotten(mapping).await
    }

    async fn record(&mut self, row: &StateRow) -> Result<()> {
        self.start().await?;
        meta::write_state(&self.session, &self.schema, row).await
    }

    async fn record_copy(&mut self, row: &CopyRow) -> Result<()> {
        self.start().await?;
        meta::write_copy(&self.session, &self.schema, row).await
    }

    async fn commit(&mut self, position: &Position, source_commit_micros: i64) -> Result<()> {
        let mark = self.opened()?.mark.clone();
        let statement = self.position_statement.clone();
        self.commit_by(&statement, &mark, position, source_commit_micros).await
    }

    async fn commit_in_turn(
        &mut self,
        turn: &Mark,
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        let statement = match &self.turn_statement {
            Some(statement) => statement.clone(),
            None => return Err(Error::bug("the flow's own session was given a turn")),
        };
        self.commit_by(&statement, turn, position, source_commit_micros).await
    }

    async fn save_position(&mut self, mark: &Mark, position: &Position) -> Result<()> {
        self.begin(mark).await?;
        self.commit(position, 0).await
    }

    async fn ping(&mut self) -> Result<()> {
        self.session.batch("pinging", "SELECT 1").await
    }
}
