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
mod call;
mod deferred;
mod lookup;
mod memory;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::{MaybeDone, join, join3, maybe_done};
use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use tidelock_core::{
    Call, Code, CopyRow, DataType, Error, ErrorKind, Key, Lease, Lines, Load, LookupTarget, Mark,
    MemoryScope, OpenSink, Position, Progress, Remembered, Result, Sink, SinkSpec, StateRow,
    TableName, TargetTable, Value, WriteBatch, WriteOp,
};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use self::deferred::Broken;
use crate::config::Address;
use crate::error::{Stage, from_client};
use crate::load::{self, Encoder, Rows};
use crate::meta;
use crate::quote::ident;
use crate::session::{CALL_TIMEOUT, Session, get};
use crate::upsert::{self, Encoded};

/// How long the batches of one call may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(300);
/// Prepared statements kept at the server; more, and all are prepared anew.
const STATEMENTS_MAX: usize = 500;
/// Pieces that are upserted at once after one of a table was refused.
const REFUSED_PIECES: u8 = 8;
/// Rows of a load that go into one upsert where `COPY` could not take them.
const LOAD_ROWS: usize = 2_000;
/// Rows of a batch from which on `COPY` is cheaper than an upsert, its savepoint and trips included.
const COPY_ROWS_MIN: usize = 200;
/// Rows put into an empty table until the plans of its statements are made anew.
const REPLAN_ROWS: u64 = 1_000;
/// Savepoints of a transaction: below the 64 subtransactions that a server keeps at hand for each.
const SAVEPOINTS_MAX: u32 = 48;
/// Time after which a holder that does nothing is taken for dead; a live one pings more often.
const STUCK_SECONDS: f64 = 30.0;

/// Startup settings of an apply session. Search path and time zone stay the role's own: triggers
/// and defaults of the target may rely on them. What decides how a text is read as a value is pinned
/// (`array_nulls = off` would store a NULL in an array as the text NULL).
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c lc_monetary=C \
     -c extra_float_digits=3 -c standard_conforming_strings=on -c array_nulls=on -c xmloption=content \
     -c statement_timeout=0 -c lock_timeout=60s -c idle_in_transaction_session_timeout=30s \
     -c default_transaction_read_only=off -c jit=off -c enable_seqscan=off \
     -c plan_cache_mode=force_generic_plan";

struct Prepared {
    statement: tokio_postgres::Statement,
    counts: bool,
    /// So many rows put into the table by this session, and its plan is to be made anew.
    grown_rows: u64,
}

/// The open transaction.
struct Open {
    mark: Mark,
    /// Whether the flow's row is locked first, and must have our epoch: so a loader begins.
    guarded: bool,
    /// Whether BEGIN and the mark are at the server, and the mark was answered.
    sent: bool,
    /// Whether the savepoint is set.
    savepoint: bool,
    /// How often it was.
    savepoints: u32,
    /// Which mappings have written what, each once: a constraint may be checked only at the COMMIT.
    wrote: Vec<(Arc<str>, TableName)>,
}

/// What BEGIN and the mark are sent with.
struct Opening {
    guarded: bool,
    epoch: i64,
    seq: i64,
    hops: String,
}

type PlanKey = (u64, Option<WriteOp>, Arc<[usize]>);

/// An open target session.
pub(crate) struct PgSink {
    session: Session,
    spec: SinkSpec,
    schema: String,
    statements: HashMap<PlanKey, Arc<Prepared>>,
    /// Those of calls, lookups and memory, by their texts.
    texts: HashMap<String, tokio_postgres::Statement>,
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
    end_loaders(&session, spec).await;
    let progress = take_over(&session, schema, spec).await?;
    let sink = PgSink::new(session, spec.clone(), schema.clone(), 0).await?;
    Ok(Lease::Held(OpenSink { sink: Box::new(sink), progress }))
}

/// Opens a session that loads beside the one that holds the flow.
pub(crate) async fn open_loader(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    spec: &SinkSpec,
    epoch: u64,
    lane: u32,
) -> Result<Box<dyn Sink>> {
    let session = Session::open(address, tls, SETTINGS).await?;
    set_limits(&session).await?;
    // Shared with the flow's other loaders: by it a successor finds them.
    let key = key_of("loaders", spec);
    session
        .query("taking the loaders' lock", "SELECT pg_advisory_lock_shared($1)", &[&key])
        .await?;
    let schema = address.meta_schema.clone();
    let sql = format!(
        "INSERT INTO {0}.progress (pipeline, flow, lane, epoch, seq, hop_list, source_identity, \
         position, config_hash, holder, backend, source_commit_micros, updated_at) \
         SELECT pipeline, flow, $4, epoch, 0, '0', source_identity, position, config_hash, holder, \
         pg_backend_pid()::text, 0, clock_timestamp() FROM {0}.progress \
         WHERE pipeline = $1 AND flow = $2 AND lane = 0 AND epoch = $3 FOR SHARE \
         ON CONFLICT (pipeline, flow, lane) DO UPDATE SET epoch = EXCLUDED.epoch, seq = 0, \
         hop_list = '0', source_identity = EXCLUDED.source_identity, position = EXCLUDED.position, \
         config_hash = EXCLUDED.config_hash, holder = EXCLUDED.holder, backend = EXCLUDED.backend, \
         updated_at = EXCLUDED.updated_at",
        ident(&schema)
    );
    let lane = i32::try_from(lane).map_err(|_| Error::bug("a lane's number ran over"))?;
    let rows = session
        .execute(
            "making a loader's row",
            &sql,
            &[&spec.pipeline, &spec.flow, &number(epoch)?, &lane],
        )
        .await?;
    let sink = PgSink::new(session, spec.clone(), schema, lane).await?;
    if rows == 1 { Ok(Box::new(sink)) } else { Err(sink.fenced()) }
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

/// Ends the loaders of whoever held the flow before: one that hangs would keep the epoch from being raised. What they had
/// not committed is read again.
async fn end_loaders(session: &Session, spec: &SinkSpec) {
    let sql = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (l.classid::int8 << 32 | l.objid::int8) = $1";
    let key = key_of("loaders", spec);
    // Without the right to do so they are waited for.
    if let Err(error) = session.query("ending loaders of before", sql, &[&key]).await {
        tracing::debug!(flow = %spec.flow, %error, "loaders of before were not ended");
    }
}

/// The number of the flow's advisory lock.
fn lock_key(spec: &SinkSpec) -> i64 {
    key_of("tidelock", spec)
}

fn key_of(kind: &str, spec: &SinkSpec) -> i64 {
    let digest = Sha256::digest(format!("{kind}:{}:{}", spec.pipeline, spec.flow));
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
    async fn new(session: Session, spec: SinkSpec, schema: String, lane: i32) -> Result<PgSink> {
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

    fn fenced(&self) -> Error {
        Error::fenced(format!(
            "the progress row of flow {} no longer has our epoch and sequence number",
            self.spec.flow
        ))
    }

    fn begun(&mut self, mark: &Mark, guarded: bool) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::bug("a transaction was begun inside another"));
        }
        self.open = Some(Open {
            mark: mark.clone(),
            guarded,
            sent: false,
            savepoint: false,
            savepoints: 0,
            wrote: Vec::new(),
        });
        Ok(())
    }

    /// Sets the position by a statement that divides by the number of rows it sets, and commits.
    async fn commit_by(
        &mut self,
        statement: &tokio_postgres::Statement,
        mark: &Mark,
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        self.start().await?;
        let Open { wrote, .. } =
            self.open.take().ok_or_else(|| Error::bug("a commit outside a transaction"))?;
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let (text, hops) = (position.as_str(), mark.hops.encode(mark.seq));
        let params: [&(dyn ToSql + Sync); 8] = [
            &self.spec.pipeline,
            &self.spec.flow,
            &epoch,
            &seq,
            &text,
            &source_commit_micros,
            &self.spec.config_hash,
            &hops,
        ];
        let client = &self.session.client;
        let update = async {
            match client.execute(statement, &params[..statement.params().len()]).await {
                Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => Ok(0),
                answer => answer,
            }
        };
        let update = self.session.call("setting the position", Stage::Write, CALL_TIMEOUT, update);
        let commit = client.batch_execute("COMMIT");
        let mut broken = None;
        let told = |error: &tokio_postgres::Error, doing: &str| {
            broken = error.as_db_error().map(Broken::from);
            from_client(error, doing, Stage::Write)
        };
        let commit = self.session.call_told("committing", CALL_TIMEOUT, commit, told);
        let (updated, committed) = join(update, commit).await;
        if updated? != 1 {
            return Err(self.fenced());
        }
        match (committed, broken) {
            (Err(error), Some(broken)) if error.kind() == ErrorKind::Data => {
                Err(self.refused_late(error, &broken, &wrote).await)
            }
            (committed, _) => committed,
        }
    }

    /// The transaction that is open.
    fn opened(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or_else(|| Error::bug("a call outside a transaction"))
    }

    /// What is to be sent before anything else of the transaction, if it has not been.
    fn opening(&mut self) -> Result<Option<Opening>> {
        let Open { mark, guarded, sent, .. } = self.opened()?;
        if *sent {
            return Ok(None);
        }
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let hops = mark.hops.encode(mark.seq);
        Ok(Some(Opening { guarded: *guarded, epoch, seq, hops }))
    }

    /// Sends BEGIN and the mark when first polled, if they have not been sent.
    async fn send_opening(&self, opening: Option<Opening>) -> Result<()> {
        let Some(Opening { guarded, epoch, seq, hops }) = opening else { return Ok(()) };
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.spec.pipeline, &self.spec.flow, &epoch, &seq, &hops];
        let client = &self.session.client;
        let both = async {
            let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
            let guard = async {
                match &self.guard_statement {
                    Some(guard) if guarded => client.execute(guard, &params[..3]).await,
                    Some(_) | None => Ok(1),
                }
            };
            let update = client.execute(&self.mark_statement, &params);
            let (begun, held, updated) = join3(begin, guard, update).await;
            begun.and(held).and_then(|held| Ok((held, updated?)))
        };
        let rows =
            self.session.call("opening a transaction", Stage::Write, CALL_TIMEOUT, both).await?;
        if rows == (1, 1) { Ok(()) } else { Err(self.fenced()) }
    }

    /// Opens the transaction at the server for what cannot travel with the opening.
    async fn start(&mut self) -> Result<()> {
        let opening = self.opening()?;
        self.send_opening(opening).await?;
        self.opened()?.sent = true;
        Ok(())
    }

    async fn prepared(
        &mut self,
        batch: &WriteBatch,
        op: WriteOp,
        columns: &Arc<[usize]>,
    ) -> Result<Arc<Prepared>> {
        let doing = format!("mapping {}: preparing a write to {}", batch.mapping, batch.table.name);
        self.prepared_text(&doing, &batch.table, Some(op), columns).await
    }

    /// The statement of an operation; that which counts the rows that are there, for none.
    async fn prepared_text(
        &mut self,
        doing: &str,
        table: &TargetTable,
        op: Option<WriteOp>,
        columns: &Arc<[usize]>,
    ) -> Result<Arc<Prepared>> {
        let key = (table.id, op, columns.clone());
        let put = self.rows_put.get(&table.id).copied().unwrap_or(0);
        if let Some(found) = self.statements.get(&key)
            && put < found.grown_rows
        {
            return Ok(found.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let text = match op {
            Some(op) => {
                let loose = self.loose_key(table).await?;
                upsert::statement(table, op, columns, &loose)?
            }
            None => upsert::present(table)?,
        };
        let prepare = self.session.client.prepare_typed(&text.sql, &text.types);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        let grown_rows = match op {
            // Its plan does not depend on the size of the table.
            Some(WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert) if !table.partial => {
                u64::MAX
            }
            Some(WriteOp::DeleteAll) => u64::MAX,
            Some(
                WriteOp::Insert
                | WriteOp::Overwrite
                | WriteOp::Upsert
                | WriteOp::Update
                | WriteOp::Patch
                | WriteOp::Move
                | WriteOp::Delete,
            )
            | None => 2 * put + REPLAN_ROWS,
        };
        let prepared = Arc::new(Prepared { statement, counts: text.counts, grown_rows });
        self.statements.insert(key, prepared.clone());
        Ok(prepared)
    }

    /// The columns of a table's key that hold different texts equal; asked for only if it has texts.
    async fn loose_key(&mut self, table: &TargetTable) -> Result<Arc<[String]>> {
        if let Some(known) = self.loose.get(&table.id) {
            return Ok(known.clone());
        }
        let texts = table.key.iter().filter_map(|&i| table.columns.get(i));
        let texts: Vec<&str> = texts
            .filter(|c| matches!(c.data_type, DataType::Text { .. }))
            .map(|c| c.name.as_str())
            .collect();
        let mut loose = Vec::new();
        if !texts.is_empty() {
            let sql = format!(
                "SELECT a.attname::text FROM pg_catalog.pg_attribute a \
                 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2 AND a.attname::text = ANY($3) AND {}",
                upsert::LOOSE
            );
            let (schema, name) = (&table.name.schema, &table.name.name);
            let found = self.session.query("reading a key", &sql, &[schema, name, &texts]).await?;
            for row in &found {
                loose.push(get::<String>(row, 0)?);
            }
        }
        let loose: Arc<[String]> = loose.into();
        self.loose.insert(table.id, loose.clone());
        Ok(loose)
    }

    /// The statement of this text, prepared once.
    async fn kept(
        &mut self,
        doing: &str,
        sql: String,
        types: &[Type],
    ) -> Result<tokio_postgres::Statement> {
        if let Some(found) = self.texts.get(&sql) {
            return Ok(found.clone());
        }
        if self.texts.len() >= STATEMENTS_MAX {
            self.texts.clear();
        }
        let prepare = self.session.client.prepare_typed(&sql, types);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        self.texts.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Counts what goes into a table.
    fn put(&mut self, table: u64, rows: usize) {
        *self.rows_put.entry(table).or_default() += rows as u64;
    }

    /// Executes batches that need no answer of each other, pipelined. `first` is the index of the
    /// first within the call.
    async fn run(&mut self, first: usize, batches: &[WriteBatch]) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        let mut work = Vec::with_capacity(batches.len());
        for (offset, batch) in batches.iter().enumerate() {
            let at = |error: Error| attribute(error, first + offset);
            let prepared = self.prepared(batch, batch.op, &batch.columns).await.map_err(at)?;
            let cells = upsert::cells(&batch.table, batch.op, &batch.columns).map_err(at)?;
            let params = upsert::arrays(batch.rows.iter().map(|r| &**r), &cells).map_err(at)?;
            work.push((prepared, params));
            let adds = !matches!(
                batch.op,
                WriteOp::Update | WriteOp::Patch | WriteOp::Delete | WriteOp::DeleteAll
            );
            if adds {
                self.put(batch.table.id, batch.rows.len());
            }
        }
        let opening = self.opening()?;
        let client = &self.session.client;
        let mut opened = Box::pin(maybe_done(self.send_opening(opening)));
        let mut answers: Vec<_> = work
            .iter()
            .map(|(prepared, params)| Box::pin(maybe_done(execute(client, prepared, params))))
            .collect();
        send_in_order(std::slice::from_mut(&mut opened)).await;
        send_in_order(&mut answers).await;
        opened.as_mut().await;
        opened.as_mut().take_output().unwrap_or(Ok(()))?;
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
        drop((answers, opened));
        self.opened()?.sent = true;
        Ok(())
    }

    /// Moves rows one by one: where the old row is missing, the new one is upserted.
    async fn run_move(&mut self, index: usize, batch: &WriteBatch) -> Result<()> {
        let at = |error: Error| attribute(error, index);
        self.start().await?;
        let doing = doing(batch);
        let update = self.prepared(batch, WriteOp::Update, &batch.columns).await.map_err(at)?;
        let upsert = self.prepared(batch, WriteOp::Upsert, &batch.columns).await.map_err(at)?;
        let moving = upsert::cells(&batch.table, WriteOp::Update, &batch.columns).map_err(at)?;
        let whole = upsert::cells(&batch.table, WriteOp::Upsert, &batch.columns).map_err(at)?;
        for row in &batch.rows {
            let params = upsert::arrays(std::iter::once(&**row), &moving).map_err(at)?;
            let answer = execute(&self.session.client, &update, &params);
            let moved =
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            if moved == 0 {
                let new = row.get(..whole.len()).unwrap_or(row);
                let params = upsert::arrays(std::iter::once(new), &whole).map_err(at)?;
                let answer = execute(&self.session.client, &upsert, &params);
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            }
        }
        self.put(batch.table.id, batch.rows.len());
        Ok(())
    }
}

impl PgSink {
    /// Runs a `COPY` below a savepoint. `false`: the server did not take all rows, and none is there.
    ///
    /// The opening, the savepoint and the `COPY` are sent together. The savepoint is released by the next one or by
    /// the COMMIT.
    async fn copied<F>(&mut self, doing: &str, rows: usize, copying: F) -> Result<bool>
    where
        F: AsyncFnOnce(
            &tokio_postgres::Client,
        ) -> std::result::Result<Result<u64>, tokio_postgres::Error>,
    {
        let opening = self.opening()?;
        let set = if self.opened()?.savepoint {
            "RELEASE SAVEPOINT tidelock_load; SAVEPOINT tidelock_load"
        } else {
            "SAVEPOINT tidelock_load"
        };
        let head = join(self.send_opening(opening), self.session.batch(doing, set));
        let copying = copying(&self.session.client);
        let copying = self.session.call(doing, Stage::Write, WRITE_TIMEOUT, copying);
        let ((opened, set), copied) = join(head, copying).await;
        opened.and(set)?;
        let open = self.opened()?;
        (open.sent, open.savepoint) = (true, true);
        open.savepoints += 1;
        match copied.and_then(|own| own) {
            Ok(taken) if taken == rows as u64 => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Data => {}
            Err(error) => return Err(error),
        }
        let undo = "ROLLBACK TO SAVEPOINT tidelock_load; RELEASE SAVEPOINT tidelock_load";
        self.session.batch(doing, undo).await?;
        self.opened()?.savepoint = false;
        Ok(false)
    }

    /// Whether a load may try its fast way: not for a while after rows turned out to be there, and
    /// never where `COPY` would not do what an insert does.
    async fn may_copy(&mut self, table: &TargetTable) -> Result<bool> {
        if let Some(pieces) = self.refused.get_mut(&table.id)
            && *pieces > 0
        {
            *pieces -= 1;
            return Ok(false);
        }
        if let Some(copyable) = self.copyable.get(&table.id) {
            return Ok(*copyable);
        }
        // Rules are for INSERT only, and COPY is not to be had under row security.
        let sql = "SELECT c.relkind IN ('r', 'p') AND NOT c.relhasrules \
                   AND NOT pg_catalog.row_security_active(c.oid) \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2";
        let row = self
            .session
            .query_opt("reading a table", sql, &[&table.name.schema, &table.name.name])
            .await?;
        let copyable = row.as_ref().map(|row| get(row, 0)).transpose()?.unwrap_or(false);
        self.copyable.insert(table.id, copyable);
        Ok(copyable)
    }

    /// Loads rows into a table that has none of their keys, without a savepoint. `false`: it has.
    async fn copy_absent(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        rows: &[Box<[Value]>],
    ) -> Result<bool> {
        let places: Option<Vec<usize>> =
            table.key.iter().map(|k| columns.iter().position(|c| c == k)).collect();
        let places = places.ok_or_else(|| Error::bug("an insert without its key"))?;
        let keys = upsert::cells(table, WriteOp::Delete, &table.key)?;
        let keys = upsert::arrays_of(rows.iter().map(|r| &**r), &keys, &places)?;
        let asking = self.prepared_text(doing, table, None, &[].into()).await?;
        let answer = execute(&self.session.client, &asking, &keys);
        if self.session.call(doing, Stage::Write, WRITE_TIMEOUT, answer).await? > 0 {
            return Ok(false);
        }
        let format = load::format(table, columns)?;
        let statement = self.copy_statement(doing, table, columns, format.is_some()).await?;
        let mut encoder = Encoder::new(Rows::Batch(rows), format, table, columns);
        let copying = load::copy_in(&self.session.client, &statement, &mut encoder);
        // A row that a trigger leaves out, it would leave out of an upsert too.
        self.session.call(doing, Stage::Write, WRITE_TIMEOUT, copying).await??;
        Ok(true)
    }

    async fn copy_statement(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        binary: bool,
    ) -> Result<tokio_postgres::Statement> {
        let key = (table.id, Arc::from(columns), binary);
        if let Some(found) = self.copies.get(&key) {
            return Ok(found.clone());
        }
        if self.copies.len() >= STATEMENTS_MAX {
            self.copies.clear();
        }
        let sql = upsert::copy(table, columns, binary)?;
        let prepare = self.session.client.prepare(&sql);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        self.copies.insert(key, statement.clone());
        Ok(statement)
    }

    /// Loads rows. `false`: they are to be upserted.
    async fn copy(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        rows: Rows<'_>,
    ) -> Result<bool> {
        if !self.may_copy(table).await? {
            return Ok(false);
        }
        if self.opened()?.savepoints >= SAVEPOINTS_MAX {
            let Rows::Batch(batch) = rows else { return Ok(false) };
            let copied = self.copy_absent(doing, table, columns, batch).await?;
            if copied {
                self.put(table.id, batch.len());
            } else {
                self.refused.insert(table.id, REFUSED_PIECES);
            }
            return Ok(copied);
        }
        let format = load::format(table, columns)?;
        let statement = self.copy_statement(doing, table, columns, format.is_some()).await?;
        let mut encoder = Encoder::new(rows, format, table, columns);
        let copying = async |client: &tokio_postgres::Client| {
            load::copy_in(client, &statement, &mut encoder).await
        };
        let copied = self.copied(doing, rows.count(), copying).await?;
        if copied {
            self.put(table.id, rows.count());
        } else {
            self.refused.insert(table.id, REFUSED_PIECES);
        }
        Ok(copied)
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
