//! Reading tables in pieces, by `COPY … TO STDOUT` inside short snapshots.
//!
//! **What a snapshot shows.** PostgreSQL logs a commit, and with a synchronous standby may wait for
//! long, before the transaction becomes visible. So it is not enough to read after a position of the
//! log. `pg_current_snapshot()` names the transactions that the snapshot does not show, and the log
//! names the transaction of each change: both are compared. What an earlier process of ours has
//! applied is not known by number any more; [`Copier::settle`] waits until whatever was running then
//! has ended, as the making of a slot does.
//!
//! **What covers it.** Every transaction that a snapshot shows has its commit record before the place
//! where the log ended when the snapshot was taken. That place may not be written out yet, and nobody
//! would write it while the server is idle: then a commit of our own does.
//!
//! **One decoder.** Values come as text under the same pinned settings as in the log, and are read by
//! the same code.
//!
//! **Lines as they are.** For a target of the same family with the same types the lines are not read at
//! all ([`Copier::read_lines`]): they are what `COPY … FROM STDIN` takes, and an output function's text
//! under these settings is the same value to the input function of the same type. What the types are is
//! asked again behind the `COPY`, whose lock then keeps them as they are.

mod before;
mod facts;
mod keys;
mod visible;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, TryStreamExt};
use rustls::ClientConfig;
use tidelock_core::{
    Code, Copier, CopyTable, DataType, Error, Key, KeyRange, Lines, Piece, Position, Result, Row,
    TrackQuery, TransactionId, Value,
};
use tokio::time::{Instant, sleep};

use crate::config::Address;
use crate::error::{Stage, from_client};
use crate::lsn::Lsn;
use crate::quote::{ident, literal, table};
use crate::session::{PINNED, Session, get};
use crate::text;
use crate::types::TypeMap;
use crate::upsert;

use before::Before;
use facts::{Facts, Reader, places, row};
pub(crate) use keys::describe;
use visible::Visible;

/// How long no row may come before the server is taken for gone.
const SILENCE: Duration = Duration::from_secs(300);
/// Bytes of text that lie together in a piece of lines, and so go to the target in one message.
const LINES_BYTES: usize = 64 << 10;
/// How long running transactions are waited for before it is told.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

/// A connection that reads tables.
pub(crate) struct PgCopier {
    session: Session,
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    types: TypeMap,
    facts: HashMap<(String, Vec<String>), Arc<Facts>>,
    keyed: HashMap<(String, Vec<String>, Vec<String>), Arc<keys::Keyed>>,
    versions: u64,
    open: bool,
    before: Before,
}

impl PgCopier {
    pub(crate) async fn open(
        address: &Address,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<PgCopier> {
        Ok(PgCopier {
            session: reading_session(address, tls).await?,
            address: address.clone(),
            tls: tls.cloned(),
            types: TypeMap::default(),
            facts: HashMap::new(),
            keyed: HashMap::new(),
            versions: 0,
            open: false,
            before: Before::default(),
        })
    }

    /// The query for a range, in key order.
    fn selected(wanted: &CopyTable, facts: &Facts, range: &KeyRange) -> Result<String> {
        Ok(format!(
            "COPY (SELECT {} FROM {}{} ORDER BY {}) TO STDOUT",
            names(&wanted.columns),
            table(&wanted.name),
            conditions(wanted, facts, range)?,
            names(&wanted.key),
        ))
    }

    /// After a piece was cut: the rest of the answer is still on its way on this connection.
    async fn renew(&mut self) -> Result<()> {
        self.session = reading_session(&self.address, self.tls.as_ref()).await?;
        self.open = false;
        Ok(())
    }

    async fn end_snapshot(&mut self) -> Result<()> {
        if std::mem::take(&mut self.open) {
            self.session.batch("ending a snapshot", "ROLLBACK").await?;
        }
        Ok(())
    }

    /// Lines of a `COPY … TO STDOUT`, each handed to `take` until that says stop.
    async fn lines(
        &mut self,
        doing: &str,
        stage: Stage,
        sql: &str,
        mut take: impl FnMut(Bytes) -> Result<bool>,
    ) -> Result<bool> {
        let fault = |e: &tokio_postgres::Error| from_client(e, doing, stage);
        let stream = self.session.client.copy_out(sql).await.map_err(|e| fault(&e))?;
        tokio::pin!(stream);
        loop {
            // Most rows are here already; the clock is only asked for those that are not.
            let next = match stream.try_next().now_or_never() {
                Some(next) => next,
                None => tokio::time::timeout(SILENCE, stream.try_next()).await.map_err(|_| {
                    Error::transient(
                        Code::ServerBusy,
                        format!("{doing}: no row for {} s", SILENCE.as_secs()),
                    )
                })?,
            };
            match next.map_err(|e| fault(&e))? {
                None => return Ok(false),
                Some(line) => {
                    if !take(line)? {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// A session that reads a range of keys by the key's index, whatever the statistics say.
async fn reading_session(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Session> {
    let session = Session::open(address, tls, PINNED).await?;
    let sql = "SET enable_seqscan = off; SET enable_sort = off; SET jit = off";
    session.batch("settling a reading session", sql).await?;
    Ok(session)
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ")
}

/// A key as a row of literals in its columns' types.
fn key_literals(key: &[Value], types: &[String]) -> Result<String> {
    let cells = key
        .iter()
        .zip(types)
        .map(|(value, native)| {
            text::of(value)
                .map(|t| format!("{}::{native}", literal(&t)))
                .ok_or_else(|| Error::bug("a key to copy by holds NULL"))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(format!("({})", cells.join(", ")))
}

/// `WHERE` for a range and the table's own condition; empty if there is neither.
fn conditions(wanted: &CopyTable, facts: &Facts, range: &KeyRange) -> Result<String> {
    let key = format!("({})", names(&wanted.key));
    let mut tests = Vec::new();
    if let Some(after) = &range.after {
        tests.push(format!("{key} > {}", key_literals(after, &facts.key_types)?));
    }
    if let Some(upto) = &range.upto {
        tests.push(format!("{key} <= {}", key_literals(upto, &facts.key_types)?));
    }
    if let Some(filter) = &wanted.filter {
        tests.push(format!("({filter})"));
    }
    Ok(if tests.is_empty() { String::new() } else { format!(" WHERE {}", tests.join(" AND ")) })
}

#[async_trait]
impl Copier for PgCopier {
    async fn settle(&mut self, notice: &(dyn Fn(String) + Send + Sync)) -> Result<()> {
        // A transaction holds the lock on its number from before its first log record until it is visible. Its
        // number says less: one that is logged and not ended lies beyond what `pg_current_snapshot()` counts.
        let sql = "SELECT coalesce(array_agg(l.transactionid::text), '{}'), min(l.pid), min(p.gid) FROM pg_locks l \
                   LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
                   LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid \
                   WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted \
                   AND coalesce(a.datname, p.database, current_database()) = current_database() \
                   AND ($1::text[] IS NULL OR l.transactionid::text = ANY($1))";
        let began = Instant::now();
        let mut told = false;
        let mut open: Option<Vec<String>> = None;
        loop {
            let row =
                self.session.query_one("looking for open transactions", sql, &[&open]).await?;
            let still: Vec<String> = get(&row, 0)?;
            if still.is_empty() {
                return Ok(());
            }
            open = Some(still);
            if !told && began.elapsed() > NOTICE_AFTER {
                let gid = get::<Option<String>>(&row, 2)?;
                let by = match (gid, get::<Option<i32>>(&row, 1)?) {
                    (Some(gid), _) => {
                        format!("a prepared transaction '{gid}' (pg_prepared_xacts)")
                    }
                    (None, Some(pid)) => format!("process {pid}"),
                    (None, None) => "a prepared transaction".to_owned(),
                };
                notice(format!("copying waits for transactions that are open, one of {by}"));
                told = true;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn estimate(&mut self, wanted: &CopyTable) -> Result<u64> {
        // Partitioned tables have no size of their own.
        let sql = "WITH RECURSIVE part(oid) AS (\
                     SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE n.nspname = $1 AND c.relname = $2 \
                     UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN part p ON p.oid = i.inhparent) \
                   SELECT coalesce(sum(CASE WHEN c.reltuples < 0 OR c.relpages = 0 \
                     THEN pg_relation_size(c.oid) / 100 \
                     ELSE c.reltuples / c.relpages * pg_relation_size(c.oid) / 8192 END), 0)::float8 \
                   FROM part p JOIN pg_class c ON c.oid = p.oid WHERE c.relkind IN ('r', 'm')";
        let row = self
            .session
            .query_one("estimating rows", sql, &[&wanted.name.schema, &wanted.name.name])
            .await?;
        match get::<f64>(&row, 0)? as u64 {
            0 => self.view_rows(wanted).await,
            rows => Ok(rows),
        }
    }

    async fn bound(
        &mut self,
        wanted: &CopyTable,
        after: Option<&Key>,
        rows: usize,
    ) -> Result<Option<Key>> {
        self.end_snapshot().await?;
        let facts = self.facts(wanted).await?;
        let range = KeyRange { after: after.cloned(), upto: None };
        let order = names(&wanted.key);
        let sql = format!(
            "COPY (SELECT {order} FROM {}{} ORDER BY {order} OFFSET {} LIMIT 1) TO STDOUT",
            table(&wanted.name),
            conditions(wanted, &facts, &range)?,
            rows.saturating_sub(1),
        );
        let key = places(&facts, &wanted.key)?;
        let mut found = None;
        self.lines(&format!("cutting a piece of {}", wanted.name), Stage::Copy, &sql, |line| {
            found = Some(row(&facts.schema, &key, &line)?);
            Ok(true)
        })
        .await?;
        Ok(found)
    }

    async fn snapshot(
        &mut self,
        _reached: &Position,
        delivered: &[TransactionId],
    ) -> Result<Option<Position>> {
        self.end_snapshot().await?;
        self.session
            .batch("opening a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        self.open = true;
        let sql = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, \
                   pg_current_wal_flush_lsn()::text";
        let row = self.session.query_one("opening a snapshot", sql, &[]).await?;
        let visible = Visible::parse(get(&row, 0)?)
            .ok_or_else(|| Error::bug("a snapshot's text cannot be read"))?;
        let shown = delivered.iter().all(|id| visible.shows(*id));
        if !shown || !self.before.is_seen(&self.session, &visible).await? {
            self.end_snapshot().await?;
            return Ok(None);
        }
        let (end, written): (Lsn, Lsn) =
            (get::<&str>(&row, 1)?.parse()?, get::<&str>(&row, 2)?.parse()?);
        if written < end {
            // Nobody might write the rest out for long: a commit does.
            let other = Session::open(&self.address, self.tls.as_ref(), PINNED).await?;
            other.query("moving the log on", "SELECT pg_current_xact_id()", &[]).await?;
        }
        Ok(Some(end.to_position()))
    }

    async fn close_snapshot(&mut self) -> Result<()> {
        self.end_snapshot().await
    }

    async fn read(
        &mut self,
        wanted: &CopyTable,
        range: &KeyRange,
        bytes_max: usize,
    ) -> Result<Piece> {
        let facts = self.facts(wanted).await?;
        let sql = Self::selected(wanted, &facts, range)?;
        let all = places(&facts, &wanted.columns)?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let cut = self
            .lines(&format!("reading {}", wanted.name), Stage::Copy, &sql, |line| {
                let one = Row(row(&facts.schema, &all, &line)?);
                bytes += one.bytes();
                rows.push(one);
                Ok(bytes < bytes_max)
            })
            .await?;
        if cut {
            self.renew().await?;
        }
        Ok(Piece { table: facts.schema.clone(), rows, lines: None, bytes, cut })
    }

    async fn read_lines(
        &mut self,
        wanted: &CopyTable,
        range: &KeyRange,
        bytes_max: usize,
    ) -> Result<Piece> {
        let facts = self.facts(wanted).await?;
        let sql = Self::selected(wanted, &facts, range)?;
        let (mut text, mut count, mut bytes) = (Vec::new(), 0, 0);
        // The client hands over slices of what it has read from the network: copied, they do not keep that.
        let mut chunk = BytesMut::with_capacity(LINES_BYTES);
        let cut = self
            .lines(&format!("reading {}", wanted.name), Stage::Copy, &sql, |line| {
                if chunk.len() + line.len() > chunk.capacity() {
                    text.push(chunk.split().freeze());
                    chunk = BytesMut::with_capacity(LINES_BYTES.max(line.len()));
                }
                chunk.extend_from_slice(&line);
                bytes += line.len();
                count += 1;
                Ok(bytes < bytes_max)
            })
            .await?;
        text.push(chunk.freeze());
        if cut {
            self.renew().await?;
        } else if self.described(wanted).await? != facts.described {
            return Err(Error::transient(
                Code::SchemaDrift,
                format!("the columns of {} have changed while it was being read", wanted.name),
            ));
        }
        let reader = Arc::new(Reader {
            all: places(&facts, &wanted.columns)?,
            key: places(&facts, &wanted.key)?,
            schema: facts.schema.clone(),
        });
        let lines = Some(Lines { text, count, reader });
        Ok(Piece { table: facts.schema.clone(), rows: Vec::new(), lines, bytes, cut })
    }

    async fn read_keys(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
        keys: &[Key],
        bytes_max: usize,
    ) -> Result<Piece> {
        self.by_keys(wanted, by, keys, bytes_max).await
    }

    async fn track_keys(
        &mut self,
        query: &TrackQuery,
        values: &[(String, DataType, Vec<Value>)],
    ) -> Result<Vec<Key>> {
        self.tracked(query, values).await
    }

    async fn present(&mut self, wanted: &CopyTable, keys: &[Key]) -> Result<Vec<bool>> {
        let facts = self.facts(wanted).await?;
        let mut values = Vec::with_capacity(keys.len());
        for (i, key) in keys.iter().enumerate() {
            let cells = key_literals(key, &facts.key_types)?;
            values.push(format!("({i}, {}", cells.trim_start_matches('(')));
        }
        let mut present = vec![false; keys.len()];
        if values.is_empty() {
            return Ok(present);
        }
        let columns: Vec<String> = (0..wanted.key.len()).map(|i| format!("c{i}")).collect();
        let on: Vec<String> = wanted
            .key
            .iter()
            .zip(&columns)
            .zip(&facts.key_loose)
            .map(|((name, c), loose)| {
                let (own, asked) = (format!("t.{}", ident(name)), format!("k.{c}"));
                match loose {
                    // Another spelling is another key to the other side.
                    true => {
                        format!("{own} = {asked} AND {}", upsert::spelt_alike(&own, &asked))
                    }
                    false => format!("{own} = {asked}"),
                }
            })
            .collect();
        let sql = format!(
            "SELECT k.i FROM (VALUES {}) AS k(i, {}) WHERE EXISTS (SELECT 1 FROM {} AS t WHERE {})",
            values.join(", "),
            columns.join(", "),
            table(&wanted.name),
            on.join(" AND ")
        );
        let doing = format!("looking for keys of {}", wanted.name);
        for found in self.session.query(&doing, &sql, &[]).await? {
            let i = usize::try_from(get::<i32>(&found, 0)?).unwrap_or(usize::MAX);
            if let Some(cell) = present.get_mut(i) {
                *cell = true;
            }
        }
        Ok(present)
    }

    async fn up_to(&mut self, wanted: &CopyTable, key: &Key, bound: &Key) -> Result<bool> {
        let facts = self.facts(wanted).await?;
        // The comparison must be by the columns' own collations, so it is made on a row of the table's
        // type: a table without rows gives one.
        let cells: Vec<String> = wanted
            .key
            .iter()
            .zip(key.iter().zip(&facts.key_types))
            .map(|(name, (value, native))| {
                text::of(value)
                    .map(|t| format!("coalesce(t.{}, {}::{native})", ident(name), literal(&t)))
                    .ok_or_else(|| Error::bug("a key to copy by holds NULL"))
            })
            .collect::<Result<_>>()?;
        let sql = format!(
            "SELECT ({}) <= {} FROM (SELECT 1) one LEFT JOIN {} AS t ON false",
            cells.join(", "),
            key_literals(bound, &facts.key_types)?,
            table(&wanted.name),
        );
        get(&self.session.query_one("comparing keys", &sql, &[]).await?, 0)
    }
}

/// Whether the database orders such values as `key_order` does.
pub(crate) fn orders_alike(data_type: &DataType) -> bool {
    match data_type {
        DataType::Bool
        | DataType::Int { .. }
        | DataType::Bytes { .. }
        | DataType::Date
        | DataType::Time { .. }
        | DataType::Timestamp { .. }
        | DataType::Instant { .. }
        | DataType::Uuid => true,
        DataType::Decimal { .. }
        | DataType::Float32
        | DataType::Float64
        | DataType::RoundedFloat { .. }
        | DataType::Text { .. }
        | DataType::Json
        | DataType::Enum { .. }
        | DataType::Interval { .. }
        | DataType::Year
        | DataType::Set { .. }
        | DataType::Bits { .. }
        | DataType::Address { .. }
        | DataType::Opaque { .. }
        | DataType::Native { .. }
        | DataType::Unsupported { .. } => false,
    }
}
