//! Reading tables in pieces, by prepared statements inside short consistent snapshots.
//!
//! **What a snapshot shows.** MariaDB tells the binlog place of a consistent snapshot itself
//! (`binlog_snapshot_position`), and that place leaves out what semi-synchronous replication has
//! logged and not yet shown. Only the GTIDs of that place are dear: the server finds them by reading the
//! binlog file up to there. So they are asked for only if the snapshot does not reach the place where the
//! log ended right before it. If it does, everything logged by then is shown, and the GTIDs logged right
//! after it cover what is. MySQL does not: there `gtid_executed`, read before, names only what is
//! shown (a GTID is added after the engine has committed), and read after, it lacks at most the one
//! commit group that is being completed. Transactions of one group never touch the same row, so laying
//! such a change over a row that shows it already changes nothing.
//!
//! **Two decoders.** Rows come in the binary protocol here and in the binlog's own form in the log. A
//! test reads every type by both ways and compares. Texts that are not stored as UTF-8 come as they are
//! stored and go through the log's own decoder.

mod cell;
mod compare;
mod keys;
mod sql;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, Stream, StreamExt};
use mysql_async::Value as Param;
use mysql_async::prelude::Queryable;
use tidelock_core::{
    Code, Copier, CopyTable, DataType, Error, ErrorKind, Instant, Key, KeyRange, Piece, Position,
    Result, Row, StreamColumn, TableName, TableSchema, Timestamp, TrackQuery, TransactionId, Value,
};

use crate::catalog::{self, CatalogTable};
use crate::charset::Charset;
use crate::config::Endpoint;
use crate::error;
use crate::gtid::{BinlogPosition, FileOffset, GtidSet};
use crate::session::{Session, quote, within};
use crate::xa::{self, Xid};
use crate::{source, stream, upsert};

use cell::{Packer, value};
use compare::{conditions, present, up_to};

/// How long a row may be waited for.
const SILENCE: Duration = Duration::from_secs(300);
/// Opens a snapshot.
const SNAPSHOT: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
/// Bytes of a key that a sort compares, and how many such keys its buffer holds at least.
const SORT_BYTES: usize = 16_384;
const SORTED_AT_ONCE: usize = 256;
/// Between two looks at what is prepared, and how long it is waited for before that is told.
const SETTLE_EVERY: Duration = Duration::from_millis(100);
const NOTICE_AFTER: Duration = Duration::from_secs(2);
/// Keys asked for in one statement.
const KEYS_A_QUERY: usize = 500;

/// A connection that reads tables.
pub(crate) struct MySqlCopier {
    session: Session,
    shapes: HashMap<(TableName, Vec<String>), Shape>,
    versions: u64,
    /// What the columns are of the tables and views that were read by keys.
    looks: HashMap<TableName, String>,
    /// Where names without a database are looked for.
    database: String,
    /// Whether a snapshot is open.
    open: bool,
    /// The last place of a snapshot whose GTIDs were asked for.
    scanned: Option<(FileOffset, GtidSet)>,
}

/// The columns that are read of a table.
#[derive(Clone)]
struct Shape {
    table: Arc<TableSchema>,
    /// The character sets of texts that come as they are stored, because the server would put a question mark
    /// in place of what it cannot read: the same decoder reads them here and in the log.
    raw: Arc<HashMap<String, Charset>>,
    /// The columns whose character set is none of UTF-8.
    other: Arc<HashSet<String>>,
}

impl Shape {
    /// The columns as a query names them.
    fn selected(&self, columns: &[String]) -> String {
        let by_number = |name: &String| {
            let found = self.table.columns.iter().find(|c| &c.name == name);
            found.is_some_and(|c| has_empty_label(&c.data_type))
        };
        let one = |name: &String| match self.raw.contains_key(name) {
            true => format!("CAST({} AS BINARY)", quote(name)),
            false if by_number(name) => format!("CAST({} AS UNSIGNED)", quote(name)),
            false => quote(name),
        };
        columns.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Whether the empty text is a label of an enum, and not only its invalid value: the number tells which.
fn has_empty_label(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Enum { labels } if labels.iter().any(String::is_empty))
}

fn table(name: &TableName) -> String {
    format!("{}.{}", quote(&name.schema), quote(&name.name))
}

fn names(columns: &[String]) -> String {
    columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ")
}

/// A key's cell as a parameter.
fn param(value: &Value) -> Result<Param> {
    Ok(match value {
        Value::Bool(b) => Param::Int(i64::from(*b)),
        Value::Int(i) => Param::Int(*i),
        Value::UInt(u) => Param::UInt(*u),
        Value::Float32(f) => Param::Float(*f),
        Value::Float64(f) => Param::Double(*f),
        Value::Decimal(t)
        | Value::Text(t)
        | Value::Json(t)
        | Value::Enum(t)
        | Value::Foreign(t) => Param::Bytes(t.as_bytes().to_vec()),
        Value::Bytes(b) => Param::Bytes(b.to_vec()),
        Value::Date(d) => upsert::date_param(*d),
        Value::Time(t) => upsert::time_param(*t),
        Value::Timestamp(t) => upsert::timestamp_param(*t),
        Value::Instant(Instant(i)) => upsert::timestamp_param(Timestamp(*i)),
        Value::Uuid(u) => Param::Bytes(crate::binlog::uuid_text(u).into_bytes()),
        Value::Interval(_) => return Err(Error::bug("a key of this server is no interval")),
        Value::Null | Value::Unchanged => {
            return Err(Error::bug("a key to copy by holds NULL"));
        }
    })
}

/// Reads the values of one column.
pub(crate) struct Reader {
    /// The column as a query names it.
    pub(crate) selected: String,
    data_type: DataType,
    raw: Option<Charset>,
}

impl Reader {
    /// A cell of the binary protocol in canonical form; `None` if it is none of its type.
    pub(crate) fn value(&self, cell: Param) -> Option<Value> {
        value(&self.data_type, self.raw.as_ref(), cell, &mut Packer::default())
    }
}

/// What reads a column as a copy would.
pub(crate) fn reader(of: &CatalogTable, name: &str) -> Result<Reader> {
    let columns = [name.to_owned()];
    let shape = shape(of, &columns, &[], 0)?;
    let column = shape.table.columns.first().ok_or_else(|| Error::bug("a shape of no column"))?;
    Ok(Reader {
        selected: shape.selected(&columns),
        data_type: column.data_type.clone(),
        raw: shape.raw.get(name).cloned(),
    })
}

/// How these columns of a table are read.
fn shape(of: &CatalogTable, wanted: &[String], key: &[String], version: u64) -> Result<Shape> {
    let name_of = &of.table.name;
    let mut columns = Vec::with_capacity(wanted.len());
    let (mut raw, mut other) = (HashMap::new(), HashSet::new());
    for name in wanted {
        let at = of.table.columns.iter().position(|c| &c.name == name);
        if let Some(Some(charset)) = at.and_then(|at| of.charsets.get(at)) {
            let column = at.and_then(|at| of.table.columns.get(at)).map(|c| &c.data_type);
            let text = matches!(column, Some(DataType::Text { .. } | DataType::Json));
            if text && !charset.is_utf8() {
                raw.insert(name.clone(), charset.clone());
            }
            if !matches!(charset, Charset::Utf8 | Charset::Utf8mb3) {
                other.insert(name.clone());
            }
        }
        let column = of.table.column(name).ok_or_else(|| {
            Error::data(Code::SchemaDrift, format!("{name_of}.{name}: the column is gone"))
        })?;
        columns.push(StreamColumn {
            name: name.clone(),
            data_type: column.data_type.clone(),
            identity: key.contains(name),
        });
    }
    let table = Arc::new(TableSchema { name: name_of.clone(), version, columns });
    Ok(Shape { table, raw: Arc::new(raw), other: Arc::new(other) })
}

impl MySqlCopier {
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<MySqlCopier> {
        let mut session = Session::open(endpoint).await?;
        session.run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        session
            .run("SET SESSION net_write_timeout = 600, SESSION wait_timeout = 31536, SESSION sql_mode = ''")
            .await?;
        if session.maria() {
            session
                .run(
                    "SET SESSION idle_transaction_timeout = 0, \
                     SESSION idle_readonly_transaction_timeout = 0",
                )
                .await?;
        }
        // Keys that are no index's are sorted, and all of each counts: by default its first 1,024 bytes do. Some such keys must fit
        // into the buffer. (To MySQL the greater of an unsigned and a signed number is a decimal.)
        session
            .run(&format!(
                "SET SESSION max_sort_length = {SORT_BYTES}, \
                 SESSION sort_buffer_size = CAST(GREATEST(@@sort_buffer_size, {}) AS UNSIGNED)",
                SORT_BYTES * SORTED_AT_ONCE
            ))
            .await?;
        keys::settle(&mut session).await?;
        Ok(MySqlCopier {
            session,
            shapes: HashMap::new(),
            versions: 0,
            looks: HashMap::new(),
            database: endpoint.database.clone(),
            open: false,
            scanned: None,
        })
    }

    async fn shape(&mut self, wanted: &CopyTable) -> Result<Shape> {
        let at = (wanted.name.clone(), wanted.columns.clone());
        if let Some(shape) = self.shapes.get(&at) {
            return Ok(shape.clone());
        }
        let schemas = [wanted.name.schema.clone()];
        let found = catalog::read(&mut self.session, &schemas, None).await?;
        let found = found.iter().find(|t| t.table.name == wanted.name).ok_or_else(|| {
            Error::data(
                Code::TableGone,
                format!("{}: it is gone, or our user may not see it", wanted.name),
            )
            .with_hint("bring it back under its name, or GRANT SELECT on it to our user")
        })?;
        if found.table.columns.is_empty() {
            let sql = format!("SELECT * FROM {} LIMIT 0", table(&wanted.name));
            self.answer(&format!("looking at {}", wanted.name), &sql, |_| Ok(())).await?;
            let says = format!("{}: our user may not see its columns", wanted.name);
            return Err(
                Error::data(Code::Privilege, says).with_hint("GRANT SELECT on it to our user")
            );
        }
        self.versions += 1;
        let shape = shape(found, &wanted.columns, &wanted.key, self.versions)?;
        self.shapes.insert(at, shape.clone());
        Ok(shape)
    }

    /// Executes a query and hands its rows over as they come, until `take` says stop.
    async fn each(
        &mut self,
        shape: &Shape,
        columns: &[String],
        sql: &str,
        params: Vec<Param>,
        mut take: impl FnMut(Box<[Value]>) -> bool,
    ) -> Result<bool> {
        let table = &shape.table;
        let types = self.types(shape, columns)?;
        let place = self.session.place.clone();
        let rows = self.session.conn.exec_stream::<mysql_async::Row, _, _>(sql, params);
        let mut rows = within(SILENCE, &place, rows).await?;
        let mut cut = false;
        let mut packer = Packer::default();
        while let Some(row) = next(&mut rows, &place).await? {
            let row = row.map_err(|e| error::map(&place, e))?;
            // Once cut, the rest of the answer is read and dropped: the session stays usable.
            if cut {
                continue;
            }
            let mut cells = Vec::with_capacity(types.len());
            for ((cell, (data_type, raw)), name) in
                row.unwrap().into_iter().zip(&types).zip(columns)
            {
                let value = value(data_type, raw.as_ref(), cell, &mut packer).ok_or_else(|| {
                    Error::data(
                        Code::DamagedEvent,
                        format!(
                            "a value of column {name} of table {} is not of its type",
                            table.name
                        ),
                    )
                })?;
                cells.push(value);
            }
            let cells = cells.into_boxed_slice();
            cut = !take(cells);
        }
        Ok(cut)
    }

    /// The types of some of the columns, with the character sets of those that come as they are stored.
    fn types(&self, shape: &Shape, columns: &[String]) -> Result<Vec<(DataType, Option<Charset>)>> {
        columns
            .iter()
            .map(|name| {
                let found = shape.table.columns.iter().find(|c| &c.name == name);
                found
                    .map(|column| (column.data_type.clone(), shape.raw.get(name).cloned()))
                    .ok_or_else(|| Error::bug("a key column is not among those read"))
            })
            .collect()
    }

    /// Opens a snapshot; `None` if it does not show all up to `reached`.
    async fn covering(&mut self, reached: &Position) -> Result<Option<Position>> {
        let ours: BinlogPosition = reached.as_str().parse()?;
        if self.session.maria() {
            // In this order: the end is not before the place of these GTIDs.
            let logged = source::logged(&mut self.session).await?;
            let (file, offset) = self.session.log_end().await?;
            self.session.run(SNAPSHOT).await?;
            let shown = stream::snapshot_offset(&mut self.session).await?;
            if shown.reaches(&FileOffset { file, offset }) {
                if !logged.contains(&ours.gtids) {
                    return Ok(None);
                }
                let gtids = source::logged(&mut self.session).await?;
                return Ok(Some(BinlogPosition { gtids, at: None }.to_position()));
            }
            let gtids = match &self.scanned {
                Some((at, gtids)) if *at == shown => gtids.clone(),
                _ => stream::gtids_at(&mut self.session, &shown).await?,
            };
            self.scanned = Some((shown, gtids.clone()));
            let shows = gtids.contains(&ours.gtids);
            return Ok(shows.then(|| BinlogPosition { gtids, at: None }.to_position()));
        }
        let before = source::logged(&mut self.session).await?;
        if !before.contains(&ours.gtids) {
            return Ok(None);
        }
        self.session.run(SNAPSHOT).await?;
        let gtids = source::logged(&mut self.session).await?;
        Ok(Some(BinlogPosition { gtids, at: None }.to_position()))
    }

    async fn end_snapshot(&mut self) -> Result<()> {
        self.open = false;
        self.session.run("ROLLBACK").await
    }
}

/// The next row of an answer; the clock is only asked for those that are not here already.
async fn next<T>(rows: &mut (impl Stream<Item = T> + Unpin), place: &str) -> Result<Option<T>> {
    match rows.next().now_or_never() {
        Some(next) => Ok(next),
        None => tokio::time::timeout(SILENCE, rows.next()).await.map_err(|_| {
            let says = format!("{place}: no row for {} s", SILENCE.as_secs());
            Error::transient(Code::ServerBusy, says)
        }),
    }
}

#[async_trait]
impl Copier for MySqlCopier {
    /// GTIDs are remembered by the server itself, so running transactions need not be waited for. One that is prepared
    /// (XA) is: its rows are logged and no snapshot shows them, and when they come to be seen, no row is logged.
    async fn settle(&mut self, notice: &(dyn Fn(String) + Send + Sync)) -> Result<()> {
        let began = std::time::Instant::now();
        let mut open: Option<HashSet<Xid>> = None;
        let mut told = false;
        loop {
            let now: HashSet<Xid> = match xa::prepared(&mut self.session).await {
                Ok(now) => now.into_iter().collect(),
                // MySQL tells it only with XA_RECOVER_ADMIN.
                Err(error) if error.kind() != ErrorKind::Transient => {
                    tracing::debug!(%error, "prepared transactions are not told");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let still: HashSet<Xid> = match open {
                Some(before) => before.intersection(&now).cloned().collect(),
                None => now,
            };
            if still.is_empty() {
                return Ok(());
            }
            if !told && began.elapsed() > NOTICE_AFTER {
                notice(format!("copying waits for {}", xa::told(&still)));
                told = true;
            }
            open = Some(still);
            tokio::time::sleep(SETTLE_EVERY).await;
        }
    }

    async fn estimate(&mut self, wanted: &CopyTable) -> Result<u64> {
        let rows: Vec<Option<u64>> = self
            .session
            .rows(
                "SELECT table_rows FROM information_schema.tables \
                 WHERE table_schema = ? AND table_name = ?",
                (wanted.name.schema.as_str(), wanted.name.name.as_str()),
            )
            .await?;
        Ok(rows.into_iter().next().flatten().unwrap_or(0))
    }

    async fn bound(
        &mut self,
        wanted: &CopyTable,
        after: Option<&Key>,
        rows: usize,
    ) -> Result<Option<Key>> {
        self.end_snapshot().await?;
        let shape = self.shape(wanted).await?;
        let mut params = Vec::new();
        let range = KeyRange { after: after.cloned(), upto: None };
        let order = names(&wanted.key);
        let sql = format!(
            "SELECT {} FROM {}{} ORDER BY {order} LIMIT 1 OFFSET {}",
            shape.selected(&wanted.key),
            table(&wanted.name),
            conditions(wanted, &shape, &range, &mut params)?,
            rows.saturating_sub(1),
        );
        let mut found = None;
        self.each(&shape, &wanted.key, &sql, params, |key| {
            found = Some(key);
            true
        })
        .await?;
        Ok(found)
    }

    async fn snapshot(
        &mut self,
        reached: &Position,
        _delivered: &[TransactionId],
    ) -> Result<Option<Position>> {
        self.end_snapshot().await?;
        let shown = self.covering(reached).await?;
        self.open = shown.is_some();
        Ok(shown)
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
        let shape = self.shape(wanted).await?;
        let mut params = Vec::new();
        let sql = format!(
            "SELECT {} FROM {}{} ORDER BY {}",
            shape.selected(&wanted.columns),
            table(&wanted.name),
            conditions(wanted, &shape, range, &mut params)?,
            names(&wanted.key),
        );
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let cut = self
            .each(&shape, &wanted.columns, &sql, params, |cells| {
                let row = Row(cells);
                bytes += row.bytes();
                rows.push(row);
                bytes < bytes_max
            })
            .await?;
        Ok(Piece { table: shape.table, rows, lines: None, bytes, cut })
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
        let shape = self.shape(wanted).await?;
        let mut found = Vec::with_capacity(keys.len());
        for some in keys.chunks(KEYS_A_QUERY) {
            let mut params = Vec::new();
            let tests = some
                .iter()
                .map(|key| present(wanted, &shape, key, &mut params))
                .collect::<Result<Vec<_>>>()?;
            let sql = format!("SELECT {}", tests.join(", "));
            let rows: Vec<mysql_async::Row> = self.session.rows(&sql, params).await?;
            let row = rows.into_iter().next().ok_or_else(|| Error::bug("no row for EXISTS"))?;
            found.extend(
                row.unwrap().into_iter().map(|cell| matches!(cell, Param::Int(1) | Param::UInt(1))),
            );
        }
        Ok(found)
    }

    async fn up_to(&mut self, wanted: &CopyTable, key: &Key, bound: &Key) -> Result<bool> {
        let shape = self.shape(wanted).await?;
        let (sql, params) = up_to(wanted, &shape, key, bound)?;
        let found: Vec<Option<bool>> = self.session.rows(&sql, params).await?;
        found
            .into_iter()
            .next()
            .flatten()
            .ok_or_else(|| Error::bug(format!("keys of {} cannot be compared", wanted.name)))
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
        | DataType::Instant { .. } => true,
        DataType::Decimal { .. }
        | DataType::Float32
        | DataType::Float64
        | DataType::RoundedFloat { .. }
        | DataType::Text { .. }
        | DataType::Json
        | DataType::Enum { .. }
        | DataType::Uuid
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
