//! A target session: the one writer of a flow.
//!
//! **One writer.** An advisory lock of the session makes others wait; the epoch in the progress row
//! makes them safe: each transaction begins with an update that matches only our epoch and the
//! sequence number before, and anything but one row ends the session.
//!
//! **COMMIT means committed.** PostgreSQL answers the COMMIT of a failed transaction with success
//! and the tag `ROLLBACK`, and the client library hides the tag. Two facts make it impossible here:
//! the position is set by an update whose answer, exactly one row, is awaited right before COMMIT,
//! which a failed transaction cannot give (it answers every statement with SQLSTATE 25P02); and
//! nothing is sent between that answer and COMMIT. What fails at COMMIT itself, a deferred
//! constraint, is an error of the COMMIT.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use futures_util::future::{MaybeDone, maybe_done};
use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use tidelock_core::{
    Code, CopyRow, DataType, Error, ErrorKind, JsonForm, Lease, Lines, Load, Mark, OpenSink,
    Position, Progress, Result, Sink, SinkSpec, StateRow, TargetTable, Value, WriteBatch, WriteOp,
    json_loss,
};
use tokio_postgres::types::ToSql;

use crate::config::Address;
use crate::error::Stage;
use crate::meta;
use crate::quote::ident;
use crate::session::{CALL_TIMEOUT, Session, get};
use crate::text;
use crate::upsert::{self, Encoded};

/// How long the batches of one call may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// Prepared statements kept at the server; more, and all are prepared anew.
const STATEMENTS_MAX: usize = 500;
/// Pieces that are upserted at once after one of a table was refused.
const REFUSED_PIECES: u8 = 8;
/// Rows of a load that go into one upsert where `COPY` could not take them.
const LOAD_ROWS: usize = 2_000;
/// Bytes of one message of a `COPY`.
const COPY_BYTES: usize = 64 << 10;
/// Time after which a holder that does nothing is taken for dead; a live one pings more often.
const STUCK_SECONDS: f64 = 30.0;

/// Startup settings of an apply session. Search path and time zone stay the role's own: triggers
/// and defaults of the target may rely on them. What decides how a text is read as a value is pinned
/// (`array_nulls = off` would store a NULL in an array as the text NULL).
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c lc_monetary=C \
     -c extra_float_digits=3 -c standard_conforming_strings=on -c array_nulls=on -c xmloption=content \
     -c statement_timeout=0 -c lock_timeout=60s -c idle_in_transaction_session_timeout=30s \
     -c default_transaction_read_only=off";

struct Prepared {
    statement: tokio_postgres::Statement,
    counts: bool,
}

type Key = (u64, WriteOp, Arc<[usize]>);

/// An open target session.
pub(crate) struct PgSink {
    session: Session,
    spec: SinkSpec,
    schema: String,
    statements: HashMap<Key, Arc<Prepared>>,
    mark_statement: tokio_postgres::Statement,
    position_statement: tokio_postgres::Statement,
    /// The mark of the open transaction.
    open: Option<Mark>,
    /// Tables that refused a `COPY`: for how many pieces it is not tried again.
    refused: HashMap<u64, u8>,
}

/// Tries to become the flow's writer.
pub(crate) async fn open(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    spec: &SinkSpec,
) -> Result<Lease> {
    let session = Session::open(address, tls, SETTINGS).await?;
    set_limits(&session).await?;
    let schema = &address.meta_schema;
    if !meta::missing(&session, schema).await?.is_empty() {
        return Err(Error::setup(
            Code::Catalog,
            format!("schema {schema} lacks tidelock's tables"),
        )
        .with_hint(format!("have a DBA run:\n{}", meta::ddl(schema).join("\n"))));
    }
    let key = lock_key(spec);
    let row = session
        .query_one("taking the flow's lock", "SELECT pg_try_advisory_lock($1)", &[&key])
        .await?;
    if !get::<bool>(&row, 0)? {
        return busy(&session, schema, spec, key).await;
    }
    let progress = take_over(&session, schema, spec).await?;
    let sink = PgSink::new(session, spec.clone(), schema.clone()).await?;
    Ok(Lease::Held(OpenSink { sink: Box::new(sink), progress }))
}

async fn set_limits(session: &Session) -> Result<()> {
    let mut sql = String::from("SET tcp_user_timeout = '30s'; SET tcp_keepalives_idle = 10;");
    if session.version().await? >= 140_000 {
        sql.push_str("SET idle_session_timeout = '30s';");
    }
    session.batch("setting the session's limits", &sql).await?;
    let row = session
        .query_one(
            "reading synchronous_commit",
            "SELECT current_setting('synchronous_commit') IN ('off', 'local')",
            &[],
        )
        .await?;
    if get(&row, 0)? {
        // A commit that the server may still lose must not be confirmed to the source.
        session.batch("setting synchronous_commit", "SET synchronous_commit = on").await?;
    }
    Ok(())
}

/// The number of the flow's advisory lock.
fn lock_key(spec: &SinkSpec) -> i64 {
    let digest = Sha256::digest(format!("tidelock:{}:{}", spec.pipeline, spec.flow));
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    i64::from_be_bytes(first)
}

/// Names the holder, and ends it if it has been doing nothing for too long.
async fn busy(session: &Session, schema: &str, spec: &SinkSpec, key: i64) -> Result<Lease> {
    let sql = "SELECT a.pid, a.state LIKE 'idle%' \
                      AND extract(epoch FROM clock_timestamp() - a.state_change)::float8 > $2 \
               FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (l.classid::int8 << 32 | l.objid::int8) = $1";
    let held = session.query_opt("looking for the holder", sql, &[&key, &STUCK_SECONDS]).await?;
    let mut backend = String::new();
    if let Some(row) = held {
        let pid: i32 = get(&row, 0)?;
        backend = format!("backend {pid}");
        if get::<Option<bool>>(&row, 1)? == Some(true) {
            session
                .query("ending a dead holder", "SELECT pg_terminate_backend($1)", &[&pid])
                .await?;
        }
    }
    let sql = format!(
        "SELECT holder FROM {}.progress WHERE pipeline = $1 AND flow = $2 AND lane = 0",
        ident(schema)
    );
    let holder =
        match session.query_opt("reading the holder", &sql, &[&spec.pipeline, &spec.flow]).await? {
            Some(row) => get(&row, 0)?,
            None => "a process that has just started".to_owned(),
        };
    let holder = if backend.is_empty() { holder } else { format!("{holder} ({backend})") };
    Ok(Lease::Busy { holder })
}

/// Raises the epoch, which fences off everybody before us.
async fn take_over(session: &Session, schema: &str, spec: &SinkSpec) -> Result<Option<Progress>> {
    let sql = format!(
        "UPDATE {}.progress SET epoch = epoch + 1, seq = seq, hop_list = hop_list, holder = $3, \
         backend = pg_backend_pid()::text, updated_at = clock_timestamp() \
         WHERE pipeline = $1 AND flow = $2 AND lane = 0 RETURNING {}",
        ident(schema),
        meta::PROGRESS_COLUMNS
    );
    session
        .query_opt("taking the flow over", &sql, &[&spec.pipeline, &spec.flow, &spec.holder])
        .await?
        .as_ref()
        .map(meta::progress)
        .transpose()
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
    async fn new(session: Session, spec: SinkSpec, schema: String) -> Result<PgSink> {
        let table = format!("{}.progress", ident(&schema));
        let mine = "pipeline = $1 AND flow = $2 AND lane = 0";
        let mark = format!(
            "UPDATE {table} SET seq = $4::int8, hop_list = $5, updated_at = clock_timestamp() \
             WHERE {mine} AND epoch = $3 AND seq = $4::int8 - 1"
        );
        let position = format!(
            "UPDATE {table} SET position = $5, source_commit_micros = \
             CASE WHEN $6::int8 = 0 THEN source_commit_micros ELSE $6::int8 END, config_hash = $7, \
             updated_at = clock_timestamp() WHERE {mine} AND epoch = $3 AND seq = $4"
        );
        let doing = "preparing statements";
        let prepare = |sql: String| async {
            let sql = sql;
            session.call(doing, Stage::Admin, CALL_TIMEOUT, session.client.prepare(&sql)).await
        };
        let mark_statement = prepare(mark).await?;
        let position_statement = prepare(position).await?;
        Ok(PgSink {
            session,
            spec,
            schema,
            statements: HashMap::new(),
            mark_statement,
            position_statement,
            open: None,
            refused: HashMap::new(),
        })
    }

    fn fenced(&self) -> Error {
        Error::fenced(format!(
            "the progress row of flow {} no longer has our epoch and sequence number",
            self.spec.flow
        ))
    }

    async fn mark(&mut self, mark: &Mark) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::bug("a transaction was begun inside another"));
        }
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let hops = mark.hops.encode(mark.seq);
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.spec.pipeline, &self.spec.flow, &epoch, &seq, &hops];
        let client = &self.session.client;
        // Sent together: the first is on its way before the second waits for its answer.
        let both = async {
            let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
            let update = client.execute(&self.mark_statement, &params);
            let (begun, updated) = futures_util::future::join(begin, update).await;
            begun.and(updated)
        };
        let rows =
            self.session.call("opening a transaction", Stage::Write, CALL_TIMEOUT, both).await?;
        if rows != 1 {
            return Err(self.fenced());
        }
        self.open = Some(mark.clone());
        Ok(())
    }

    async fn prepared(
        &mut self,
        batch: &WriteBatch,
        op: WriteOp,
        columns: &Arc<[usize]>,
    ) -> Result<Arc<Prepared>> {
        let key = (batch.table.id, op, columns.clone());
        if let Some(found) = self.statements.get(&key) {
            return Ok(found.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let text = upsert::statement(&batch.table, op, columns)?;
        let doing = format!("mapping {}: preparing a write to {}", batch.mapping, batch.table.name);
        let prepare = self.session.client.prepare_typed(&text.sql, &text.types);
        let statement = self.session.call(&doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        let prepared = Arc::new(Prepared { statement, counts: text.counts });
        self.statements.insert(key, prepared.clone());
        Ok(prepared)
    }

    /// Executes batches that need no answer of each other, pipelined. `first` is the index of the
    /// first within the call.
    async fn run(&mut self, first: usize, batches: &[WriteBatch]) -> Result<()> {
        let mut work = Vec::with_capacity(batches.len());
        for (offset, batch) in batches.iter().enumerate() {
            let at = |error: Error| attribute(error, first + offset);
            let prepared = self.prepared(batch, batch.op, &batch.columns).await.map_err(at)?;
            let rows: Vec<&[Value]> = batch.rows.iter().map(|r| &**r).collect();
            work.push((prepared, arrays(batch, batch.op, &batch.columns, &rows).map_err(at)?));
        }
        let client = &self.session.client;
        let mut answers: Vec<_> = work
            .iter()
            .map(|(prepared, params)| Box::pin(maybe_done(execute(client, prepared, params))))
            .collect();
        send_in_order(&mut answers).await;
        for (offset, (answer, batch)) in answers.iter_mut().zip(batches).enumerate() {
            let doing = doing(batch);
            let result = async {
                answer.as_mut().await;
                // Completed right above, and taken nowhere else.
                answer.as_mut().take_output().unwrap_or(Ok(0))
            };
            let at = |error: Error| attribute(error, first + offset);
            let rows =
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, result).await.map_err(at)?;
            if batch.op == WriteOp::Update && rows != batch.rows.len() as u64 {
                return Err(at(update_missing(batch, rows)));
            }
        }
        Ok(())
    }

    /// Moves rows one by one: where the old row is missing, the new one is upserted.
    async fn run_move(&mut self, index: usize, batch: &WriteBatch) -> Result<()> {
        let at = |error: Error| attribute(error, index);
        let doing = doing(batch);
        let update = self.prepared(batch, WriteOp::Update, &batch.columns).await.map_err(at)?;
        let upsert = self.prepared(batch, WriteOp::Upsert, &batch.columns).await.map_err(at)?;
        for row in &batch.rows {
            let whole: &[Value] = row;
            let params = arrays(batch, WriteOp::Update, &batch.columns, &[whole]).map_err(at)?;
            let answer = execute(&self.session.client, &update, &params);
            let moved =
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            if moved == 0 {
                let params =
                    arrays(batch, WriteOp::Upsert, &batch.columns, &[whole]).map_err(at)?;
                let answer = execute(&self.session.client, &upsert, &params);
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            }
        }
        Ok(())
    }
}

impl PgSink {
    /// Runs a `COPY` below a savepoint. `false`: the server did not take all rows, and none is there.
    async fn copied<F: Future<Output = Result<u64>>>(
        &self,
        doing: &str,
        rows: usize,
        copying: F,
    ) -> Result<bool> {
        self.session.batch(doing, "SAVEPOINT tidelock_load").await?;
        match copying.await {
            Ok(taken) if taken == rows as u64 => {
                self.session.batch(doing, "RELEASE SAVEPOINT tidelock_load").await?;
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Data => {}
            Err(error) => return Err(error),
        }
        self.session.batch(doing, "ROLLBACK TO SAVEPOINT tidelock_load").await?;
        Ok(false)
    }

    /// Whether a load may try its fast way: not for a while after rows turned out to be there.
    fn may_copy(&mut self, table: u64) -> bool {
        match self.refused.get_mut(&table) {
            Some(pieces) if *pieces > 0 => {
                *pieces -= 1;
                false
            }
            Some(_) | None => true,
        }
    }
}

/// Sends rows through `COPY … FROM STDIN`, encoding them while the server takes those before; tells
/// how many the server took.
async fn copy_in(session: &Session, doing: &str, sql: &str, load: &Load<'_>) -> Result<u64> {
    let checked = checked_documents(&load.table, &load.columns);
    let mut encoder = Encoder { load, checked, cells: Vec::new(), row: 0 };
    let sending = async {
        let sink = session.client.copy_in::<_, Bytes>(sql).await?;
        tokio::pin!(sink);
        loop {
            match encoder.next() {
                Ok(Some(text)) => sink.send(text).await?,
                Ok(None) => return sink.finish().await.map(Ok),
                Err(error) => return Ok(Err(error)),
            }
        }
    };
    session.call(doing, Stage::Write, WRITE_TIMEOUT, sending).await?
}

struct Encoder<'a, 'b> {
    load: &'a Load<'b>,
    checked: Vec<(usize, String)>,
    cells: Vec<Value>,
    row: usize,
}

impl Encoder<'_, '_> {
    /// The next message's worth of rows.
    fn next(&mut self) -> Result<Option<Bytes>> {
        let count = self.load.rows.count();
        if self.row == count {
            return Ok(None);
        }
        let mut buffer = BytesMut::with_capacity(COPY_BYTES + 1024);
        while self.row < count && buffer.len() < COPY_BYTES {
            self.cells.clear();
            self.load.rows.put(self.row, &mut self.cells)?;
            for (cell, name) in &self.checked {
                keeps_document(self.cells.get(*cell), name)
                    .map_err(|error| error.at(load_doing(self.load)))?;
            }
            text::put_row(&mut buffer, self.cells.iter());
            self.row += 1;
        }
        Ok(Some(buffer.freeze()))
    }
}

fn load_doing(load: &Load<'_>) -> String {
    format!("mapping {}: writing to {}", load.mapping, load.table.name)
}

fn doing(batch: &WriteBatch) -> String {
    format!("mapping {}: writing to {}", batch.mapping, batch.table.name)
}

/// The cells that must be looked at before they go into `jsonb`, or a domain over it: it would drop
/// all but one of equal keys without a word.
fn checked_documents(table: &TargetTable, columns: &[usize]) -> Vec<(usize, String)> {
    let column = |(cell, &column): (usize, &usize)| {
        let column = table.columns.get(column)?;
        let checked = column.data_type == DataType::Json && column.native != "json";
        checked.then(|| (cell, column.name.clone()))
    };
    columns.iter().enumerate().filter_map(column).collect()
}

fn keeps_document(cell: Option<&Value>, column: &str) -> Result<()> {
    match cell {
        Some(Value::Json(text)) => match json_loss(text, JsonForm::Exact) {
            Some(why) => {
                Err(Error::data(Code::NotRepresentable, format!("column {column}: {why}")))
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn keeps_documents(batch: &WriteBatch) -> Result<()> {
    for (cell, name) in checked_documents(&batch.table, &batch.columns) {
        for row in &batch.rows {
            keeps_document(row.get(cell), &name).map_err(|error| error.at(doing(batch)))?;
        }
    }
    Ok(())
}

/// Only what is about the data is about a batch.
fn attribute(error: Error, batch: usize) -> Error {
    if error.kind() == tidelock_core::ErrorKind::Data { error.with_batch(batch) } else { error }
}

fn update_missing(batch: &WriteBatch, rows: u64) -> Error {
    let missing = (batch.rows.len() as u64).saturating_sub(rows);
    Error::data(
        Code::UpdateMissing,
        format!(
            "mapping {}: {missing} of {} rows to be changed in part are not in {}",
            batch.mapping,
            batch.rows.len(),
            batch.table.name
        ),
    )
    .with_hint("backfill the mapping")
}

/// The parameters of a statement over these rows.
fn arrays(
    batch: &WriteBatch,
    op: WriteOp,
    columns: &[usize],
    rows: &[&[Value]],
) -> Result<Vec<Encoded>> {
    upsert::cells(&batch.table, op, columns)?
        .into_iter()
        .enumerate()
        .map(|(cell, column)| upsert::array(rows, cell, column))
        .collect()
}

/// Rows touched, or for a statement that counts, rows found.
async fn execute(
    client: &tokio_postgres::Client,
    prepared: &Prepared,
    params: &[Encoded],
) -> std::result::Result<u64, tokio_postgres::Error> {
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
    if prepared.counts {
        let row = client.query_one(&prepared.statement, &params).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
    } else {
        client.execute(&prepared.statement, &params).await
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
        self.mark(mark).await
    }

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<()> {
        if self.open.is_none() {
            return Err(Error::bug("a write outside a transaction"));
        }
        let mut start = 0;
        for (index, batch) in batches.iter().enumerate() {
            keeps_documents(batch).map_err(|error| attribute(error, index))?;
            if batch.op == WriteOp::Move {
                self.run(start, batches.get(start..index).unwrap_or(&[])).await?;
                self.run_move(index, batch).await?;
                start = index + 1;
            }
        }
        self.run(start, batches.get(start..).unwrap_or(&[])).await
    }

    async fn load(&mut self, load: &Load<'_>) -> Result<()> {
        if self.open.is_none() {
            return Err(Error::bug("a load outside a transaction"));
        }
        if self.may_copy(load.table.id) {
            let doing = load_doing(load);
            let sql = upsert::copy(&load.table, &load.columns)?;
            let copying = copy_in(&self.session, &doing, &sql, load);
            if self.copied(&doing, load.rows.count(), copying).await? {
                return Ok(());
            }
            self.refused.insert(load.table.id, REFUSED_PIECES);
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
        if self.open.is_none() {
            return Err(Error::bug("a load outside a transaction"));
        }
        if !self.may_copy(table.id) {
            return Ok(false);
        }
        let doing = format!("writing to {}", table.name);
        let sql = upsert::copy(table, columns)?;
        let sending = async {
            let sink = self.session.client.copy_in::<_, Bytes>(&sql).await?;
            tokio::pin!(sink);
            for text in &lines.text {
                sink.send(text.clone()).await?;
            }
            sink.finish().await
        };
        let copying = self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, sending);
        let taken = self.copied(&doing, lines.count, copying).await?;
        if !taken {
            self.refused.insert(table.id, REFUSED_PIECES);
        }
        Ok(taken)
    }

    async fn record(&mut self, row: &StateRow) -> Result<()> {
        if self.open.is_none() {
            return Err(Error::bug("a state was recorded outside a transaction"));
        }
        meta::write_state(&self.session, &self.schema, row).await
    }

    async fn record_copy(&mut self, row: &CopyRow) -> Result<()> {
        if self.open.is_none() {
            return Err(Error::bug("a copy was recorded outside a transaction"));
        }
        meta::write_copy(&self.session, &self.schema, row).await
    }

    async fn commit(&mut self, position: &Position, source_commit_micros: i64) -> Result<()> {
        let mark = self.open.take().ok_or_else(|| Error::bug("a commit outside a transaction"))?;
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let text = position.as_str();
        let params: [&(dyn ToSql + Sync); 7] = [
            &self.spec.pipeline,
            &self.spec.flow,
            &epoch,
            &seq,
            &text,
            &source_commit_micros,
            &self.spec.config_hash,
        ];
        let update = self.session.client.execute(&self.position_statement, &params);
        let rows =
            self.session.call("setting the position", Stage::Write, CALL_TIMEOUT, update).await?;
        if rows != 1 {
            return Err(self.fenced());
        }
        let commit = self.session.client.batch_execute("COMMIT");
        self.session.call("committing", Stage::Write, CALL_TIMEOUT, commit).await
    }

    async fn save_position(&mut self, mark: &Mark, position: &Position) -> Result<()> {
        self.mark(mark).await?;
        self.commit(position, 0).await
    }

    async fn ping(&mut self) -> Result<()> {
        self.session.batch("pinging", "SELECT 1").await
    }
}
