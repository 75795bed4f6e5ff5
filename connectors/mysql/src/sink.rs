//! The target session: one guarded transaction after another.
//!
//! Trips: `begin` is one, each statement of a write one, position and COMMIT together one, and a position alone one.
//! Several statements of one trip end at the first that fails. What must have met one row before COMMIT is therefore
//! followed by a statement that fails unless it did ([`one_row`]), and COMMIT is sent only after every write was
//! answered: after error 1213 what follows would otherwise commit by itself.
//!
//! Statements are chosen by what they cost (MariaDB 10.11, CPU seconds of the server a million rows of 12 columns,
//! 1,000 to 4,000 a statement, one run on a busy machine, without and with two secondary indexes):
//!
//! | rows | statement | |
//! |---|---|---|
//! | new | bulk `INSERT … ON DUPLICATE KEY UPDATE` | 3.8, 7 |
//! | | bulk `INSERT` | 3.5, 7 |
//! | | `LOAD DATA LOCAL` | 4.5, 7 |
//! | there | bulk `INSERT … ON DUPLICATE KEY UPDATE` | 6.5, 16 |
//! | | bulk `UPDATE` by the key | 13.8, 26 |
//! | | `LOAD DATA LOCAL` and a join | 12, 26 |
//! | gone | bulk `DELETE` by the key | 11.8, 17 |
//! | | `DELETE … WHERE key IN (…)` | 4, 8.5 |
//!
//! So what is believed of a row makes no difference here: the guarded upsert is the cheapest for rows that are there, and
//! for new ones nothing is to be gained by an `INSERT` that might fail. Measured end to end, a load of new rows costs the server
//! more (7.8 s a million rows against 6.7) and tidelock less (1.9 s against 2.6), and is slower as a whole, because the server's
//! session is what bounds it.
//!
//! Fencing: the first statement of a transaction sets `seq` where epoch and the sequence before are
//! ours, and must match one row (found rows, not changed rows). It locks the row until COMMIT, so two
//! holders cannot both go on. A lane does the same last, in the trip of its COMMIT. A loader (`lane` above 0) marks a row of its own and locks the flow's row in share mode before,
//! which the update of a takeover waits for, and must find the epoch there. After 1205 half a transaction would stay open and after 1213 the next
//! statement would commit by itself: the engine drops the session after any error, and the session
//! refuses to go on by itself (`broken`).

mod attempt;
mod call;
mod lookup;
mod memory;
mod partial;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mysql_async::prelude::Queryable;
use mysql_async::{Params, Row, Statement, Value as Param};
use sha2::{Digest, Sha256};
use tidelock_core::{
    Call, Code, CopyRow, Error, ErrorKind, Key, Lease, Load, LookupTarget, Mark, MemoryScope,
    OpenSink, Position, Progress, Remembered, Result, Sink, SinkSpec, StateRow, Value, WriteBatch,
    WriteOp,
};
use tokio::sync::mpsc;

use crate::config::Endpoint;
use crate::session::{Flavour, STATEMENT, Session, literal, quote, within};
use crate::{error, load, meta, upsert};

const WRITE: Duration = Duration::from_secs(300);
/// A live holder pings every ten seconds.
const HOLDER_SILENT_SECONDS: u64 = 30;
/// Rows of a statement that spells them out.
const ROWS_MAX: usize = 500;
/// Rows of a bulk packet.
const BULK_ROWS_MAX: usize = 2_000;
/// Updates of one trip on MySQL.
const TRIP_ROWS_MAX: usize = 200;
/// Rows of a list of keys. From 1,000 on MariaDB may plan a list as a subquery, and few keys of a small table would be
/// looked for in the whole of it, behind the locks of others.
const LISTED_ROWS: [usize; 2] = [256, 64];
/// Prepared statements that are kept; the driver keeps 512, a few of them of other kinds.
const STATEMENTS_MAX: usize = 400;
/// Rows of a load that go into one upsert where they could not be loaded.
const UPSERT_ROWS: usize = 2_000;
/// Pieces that are upserted at once after one of a table was refused.
const REFUSED_PIECES: u8 = 8;
/// Bytes of one message of a load, and messages that wait for the server.
const LOAD_BYTES: usize = 64 << 10;
const LOAD_CHUNKS: usize = 4;
/// Parameters a statement; the protocol ends at 65,535.
const PARAMS_MAX: usize = 60_000;
/// Payload a statement or bulk packet, or a quarter of the server's max_allowed_packet where that is less: the
/// driver never splits it, and the one OK packet tells of all its warnings. A larger row goes alone.
const BYTES_MAX: usize = 1 << 20;
/// What a packet holds beside its parameters, and each parameter beside its bytes.
const PACKET_HEAD: usize = 64;
const PARAM_HEAD: usize = 12;

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
    /// What is known of the tables that are looked up in.
    lookups: HashMap<u64, lookup::Known>,
}

/// Takes the flow's lock and raises its epoch.
pub(crate) async fn open(endpoint: &Endpoint, spec: &SinkSpec) -> Result<Lease> {
    let mut session = Session::open(endpoint).await?;
    let lock = lock_name(endpoint, spec);
    let got: Option<u64> =
        session.rows("SELECT GET_LOCK(?, 0)", (lock.as_str(),)).await?.into_iter().next().flatten();
    if got != Some(1) {
        return busy(&mut session, endpoint, spec, &lock).await;
    }
    let mut sink = MySqlSink::new(session, endpoint, spec, 0).await?;
    sink.end_loaders(endpoint).await?;
    let progress = sink.raise_epoch().await?;
    Ok(Lease::Held(OpenSink { sink: Box::new(sink), progress }))
}

/// Opens a session that loads beside the one that holds the flow.
pub(crate) async fn open_loader(
    endpoint: &Endpoint,
    spec: &SinkSpec,
    epoch: u64,
    lane: u32,
) -> Result<Box<dyn Sink>> {
    let mut session = Session::open(endpoint).await?;
    // By it a successor finds us. Whoever has it still is on the way out: its row stops us if need be.
    let lock = lane_lock(endpoint, spec, lane);
    session.rows::<Option<u64>, _>("SELECT GET_LOCK(?, 0)", (lock,)).await?;
    let mut sink = MySqlSink::new(session, endpoint, spec, lane).await?;
    sink.make_lane(epoch, lane).await?;
    Ok(Box::new(sink))
}

/// The condition of a flow's progress rows.
fn flow_row(spec: &SinkSpec) -> String {
    format!("pipeline = {} AND flow = {}", plain(&spec.pipeline), plain(&spec.flow))
}

/// Fails unless the statement before it met one row (found, not changed). `DO` would not: it always succeeds.
fn one_row() -> String {
    format!("SET @tidelock_one_row = {}(ROW_COUNT() <> 1)", upsert::GUARD)
}

/// What sets the position in a flow's row.
fn moved(position: &Position, micros: i64) -> String {
    let position = plain(position.as_str());
    format!(
        "position = {position}, source_commit_micros = GREATEST({micros}, source_commit_micros), "
    )
}

/// A literal of a text of ours; as it stands where nothing in it could end it.
fn plain(text: &str) -> String {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b" .,:;-_/+=".contains(&b);
    if text.bytes().all(harmless) { format!("'{text}'") } else { literal(text) }
}

/// Lock names are server-wide and at most 64 characters.
fn lock_name(endpoint: &Endpoint, spec: &SinkSpec) -> String {
    let text = format!("{}\0{}\0{}", endpoint.meta, spec.pipeline, spec.flow);
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(20).map(|b| format!("{b:02x}")).collect();
    format!("tidelock:{hex}")
}

/// The lock of a loader.
fn lane_lock(endpoint: &Endpoint, spec: &SinkSpec, lane: u32) -> String {
    format!("{}:{lane}", lock_name(endpoint, spec))
}

/// Someone holds the lock: who, and if that session has been silent for too long, its end.
async fn busy(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SinkSpec,
    lock: &str,
) -> Result<Lease> {
    let holder: Option<u64> =
        session.rows("SELECT IS_USED_LOCK(?)", (lock,)).await?.into_iter().next().flatten();
    if let Some(id) = holder {
        let silent: Vec<u64> = session
            .rows(
                "SELECT id FROM information_schema.processlist WHERE id = ? \
                 AND command = 'Sleep' AND time > ?",
                (id, HOLDER_SILENT_SECONDS),
            )
            .await?;
        if !silent.is_empty() {
            tracing::warn!(
                connection = id,
                "the holder of flow {} is silent: ending it",
                spec.flow
            );
            // It may have gone by itself in the meantime.
            if let Err(e) = session.run(&format!("KILL {id}")).await {
                tracing::debug!("kill: {e}");
            }
        }
    }
    let sql = format!(
        "SELECT holder FROM {}.`progress` WHERE pipeline = ? AND flow = ? AND lane = 0",
        quote(&endpoint.meta)
    );
    let named: Vec<String> =
        session.rows(&sql, (spec.pipeline.as_str(), spec.flow.as_str())).await.unwrap_or_default();
    let who = named.into_iter().next().unwrap_or_else(|| "another process".to_owned());
    let connection = holder.map_or(String::new(), |id| format!(" (connection {id})"));
    Ok(Lease::Busy { holder: format!("{who}{connection}") })
}

/// Strict mode, UTC, and the server-side limits that end a session whose process hangs.
async fn settle(session: &mut Session) -> Result<()> {
    session
        .run(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,\
             ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', \
             SESSION sql_notes = 1, \
             SESSION time_zone = '+00:00', SESSION foreign_key_checks = 1, \
             SESSION unique_checks = 1, SESSION innodb_lock_wait_timeout = 50, \
             SESSION net_read_timeout = 30, SESSION net_write_timeout = 30, \
             SESSION wait_timeout = 30",
        )
        .await?;
    session.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    if session.flavour == Flavour::MariaDb {
        // The one for writes would go before it.
        session
            .run(
                "SET SESSION idle_transaction_timeout = 30, SESSION idle_write_transaction_timeout = 0",
            )
            .await?;
    }
    Ok(())
}

impl MySqlSink {
    async fn new(
        mut session: Session,
        endpoint: &Endpoint,
        spec: &SinkSpec,
        lane: u32,
    ) -> Result<MySqlSink> {
        settle(&mut session).await?;
        let packet: u64 = session.one("SELECT @@max_allowed_packet").await?;
        // In a smaller packet even a message of a load might not fit. Galera may be told to commit a load in
        // parts, which would end our transaction.
        let local_infile = packet as usize >= BYTES_MAX
            && session.is_on("local_infile").await?
            && !session.is_on("wsrep_load_data_splitting").await?;
        let flow = flow_row(spec);
        Ok(MySqlSink {
            session,
            local_infile,
            refused: HashMap::new(),
            counted: HashMap::new(),
            lookups: HashMap::new(),
            packet_bytes_max: usize::try_from(packet).unwrap_or(usize::MAX),
            meta: quote(&endpoint.meta),
            ours: format!("{flow} AND lane = {lane}"),
            loads: lane > 0,
            statements: HashMap::new(),
            spec: spec.clone(),
            epoch: 0,
            seq: 0,
            open: false,
            broken: false,
        })
    }

    /// Ends the loaders of whoever held the flow before: one that hangs would keep the epoch from being raised. What
    /// they had not committed is read again.
    async fn end_loaders(&mut self, endpoint: &Endpoint) -> Result<()> {
        let sql = format!(
            "SELECT lane FROM {}.`progress` WHERE {} AND lane > 0",
            self.meta,
            flow_row(&self.spec)
        );
        let lanes: Vec<u32> = self.session.query(&sql).await?;
        for lane in lanes {
            let lock = lane_lock(endpoint, &self.spec, lane);
            let held: Vec<Option<u64>> =
                self.session.rows("SELECT IS_USED_LOCK(?)", (lock,)).await?;
            let Some(id) = held.into_iter().next().flatten() else { continue };
            // It may have gone by itself in the meantime, and one that we may not end is waited for.
            if let Err(error) = self.session.run(&format!("KILL {id}")).await {
                tracing::debug!(flow = %self.spec.flow, %error, "a loader of before was not ended");
            }
        }
        Ok(())
    }

    /// Makes a loader's row, or takes over the one that is there.
    async fn make_lane(&mut self, epoch: u64, lane: u32) -> Result<()> {
        let sql = format!(
            "INSERT INTO {0}.`progress` (pipeline, flow, lane, epoch, seq, hop_list, \
             source_identity, position, config_hash, holder, backend, source_commit_micros, updated_at) \
             SELECT p.pipeline, p.flow, {lane}, p.epoch, 0, '0', p.source_identity, p.position, \
             p.config_hash, p.holder, CONNECTION_ID(), 0, NOW(6) FROM {0}.`progress` p \
             WHERE {1} AND lane = 0 AND epoch = {epoch} LOCK IN SHARE MODE \
             ON DUPLICATE KEY UPDATE epoch = {epoch}, seq = 0, hop_list = '0', \
             backend = CONNECTION_ID(), updated_at = NOW(6)",
            self.meta,
            flow_row(&self.spec)
        );
        self.session.run(&sql).await?;
        // One for a new row, two for one that was changed, and as many as were found for one that was not.
        if self.session.conn.affected_rows() == 0 {
            return Err(self.taken_over());
        }
        Ok(())
    }

    /// Keeps the flow ours until the transaction ends: a takeover raises the epoch of the row locked here.
    async fn guard(&mut self, epoch: u64) -> Result<()> {
        let sql = format!(
            "SELECT epoch FROM {}.`progress` WHERE {} AND lane = 0 LOCK IN SHARE MODE",
            self.meta,
            flow_row(&self.spec)
        );
        let found: Vec<u64> = self.session.query(&sql).await?;
        if found == [epoch] { Ok(()) } else { Err(self.taken_over()) }
    }

    async fn raise_epoch(&mut self) -> Result<Option<Progress>> {
        let (pipeline, flow) = (self.spec.pipeline.clone(), self.spec.flow.clone());
        let sql = format!(
            "UPDATE {}.`progress` SET epoch = epoch + 1, holder = ?, backend = CONNECTION_ID(), \
             config_hash = ?, updated_at = NOW(6) WHERE pipeline = ? AND flow = ? AND lane = 0",
            self.meta
        );
        let params = (&self.spec.holder, &self.spec.config_hash, &pipeline, &flow);
        // The stored hash tells the engine what the position was written under: read it first.
        let read = format!(
            "SELECT * FROM {}.`progress` WHERE pipeline = ? AND flow = ? AND lane = 0",
            self.meta
        );
        let before: Vec<Row> = self.session.rows(&read, (&pipeline, &flow)).await?;
        let Some(before) = before.first().map(meta::progress).transpose()? else {
            return Ok(None);
        };
        self.session.exec(sql, params).await?;
        let after: Vec<Row> = self.session.rows(&read, (&pipeline, &flow)).await?;
        let Some(mut progress) = after.first().map(meta::progress).transpose()? else {
            return Ok(None);
        };
        progress.config_hash = before.config_hash;
        (self.epoch, self.seq) = (progress.epoch, progress.seq);
        Ok(Some(progress))
    }

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

    /// The row's new sequence number and hop list; meets no row where another holder has been.
    fn marking(&self, row: &str, mark: &Mark, position: &str) -> Result<String> {
        let Some(before) = mark.seq.checked_sub(1) else {
            return Err(Error::bug("a mark has sequence number 0"));
        };
        Ok(format!(
            "UPDATE {}.`progress` SET seq = {}, hop_list = {}, {position}updated_at = NOW(6) \
             WHERE {row} AND epoch = {} AND seq = {before}",
            self.meta,
            mark.seq,
            plain(&mark.hops.encode(mark.seq)),
            mark.epoch
        ))
    }

    fn taken_over(&self) -> Error {
        Error::fenced(format!(
            "{}: another process has taken flow {} over",
            self.session.place, self.spec.flow
        ))
    }

    async fn do_begin(&mut self, mark: &Mark, guarded: bool) -> Result<()> {
        let mut sql = self.marking(&self.ours, mark, "")?;
        if guarded {
            self.session.run("START TRANSACTION").await?;
            self.guard(mark.epoch).await?;
        } else {
            sql = format!("START TRANSACTION; {sql}");
        }
        self.session.run(&sql).await?;
        // Of the last statement, and there is no COMMIT among them.
        if self.session.conn.affected_rows() != 1 {
            return Err(self.taken_over());
        }
        (self.epoch, self.seq) = (mark.epoch, mark.seq);
        Ok(())
    }

    /// Every answer to a write has been looked at, and the mark holds the progress row's lock. Should the row not be
    /// ours all the same, [`one_row`] keeps the trip from reaching its COMMIT.
    async fn do_commit(&mut self, position: &Position, micros: i64) -> Result<()> {
        let sql = format!(
            "UPDATE {}.`progress` SET {}updated_at = NOW(6) WHERE {} AND epoch = {} AND seq = {}",
            self.meta,
            moved(position, micros),
            self.ours,
            self.epoch,
            self.seq,
        );
        self.commit_with(sql).await
    }

    /// The flow's row is not locked before: whoever had his turn before has committed.
    async fn do_commit_in_turn(
        &mut self,
        turn: &Mark,
        position: &Position,
        micros: i64,
    ) -> Result<()> {
        let row = format!("{} AND lane = 0", flow_row(&self.spec));
        let sql = self.marking(&row, turn, &moved(position, micros))?;
        self.commit_with(sql).await
    }

    async fn commit_with(&mut self, update: String) -> Result<()> {
        let sql = format!("{update}; {}; COMMIT", one_row());
        self.session.run(&sql).await.map_err(|e| match e.code() {
            // The sum overflowed.
            Code::KeyConflict => Error::fenced(format!(
                "{}: the progress row of flow {} changed inside our transaction",
                self.session.place, self.spec.flow
            )),
            _ => e,
        })
    }

    /// Mark and position in one statement, which is a transaction by itself.
    async fn do_save(&mut self, mark: &Mark, position: &Position) -> Result<()> {
        let position = format!("position = {}, ", plain(position.as_str()));
        let sql = self.marking(&self.ours, mark, &position)?;
        self.session.run(&sql).await?;
        if self.session.conn.affected_rows() != 1 {
            return Err(self.taken_over());
        }
        (self.epoch, self.seq) = (mark.epoch, mark.seq);
        Ok(())
    }

    /// The statement for so many rows, prepared once. (By its text the driver would parse it each time, for parameters
    /// with names.) There are fewer than the driver keeps, so it closes none of them.
    async fn prepared(&mut self, kind: Kind, batch: &WriteBatch, rows: usize) -> Result<Statement> {
        let key = (batch.table.id, kind, batch.columns.clone(), rows);
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let text = match kind {
            Kind::Upsert => upsert::upsert(batch, rows, self.session.flavour)?,
            Kind::Update => upsert::update(batch)?,
            Kind::Delete => upsert::delete(batch, rows)?,
            Kind::DeleteListed => upsert::delete_listed(batch, rows)?,
        };
        let conn = &mut self.session.conn;
        if self.statements.len() >= STATEMENTS_MAX {
            for (_, statement) in self.statements.drain() {
                within(STATEMENT, &self.session.place, conn.close(statement)).await?;
            }
        }
        let statement = within(STATEMENT, &self.session.place, conn.prep(text)).await?;
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }

    async fn batch(&mut self, batch: &WriteBatch) -> Result<()> {
        match batch.op {
            WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => {
                self.put(batch, &batch.rows).await
            }
            WriteOp::Update | WriteOp::Patch => self.updates(batch).await,
            WriteOp::Move => self.moves(batch).await,
            WriteOp::Delete => self.deletes(batch).await,
            WriteOp::DeleteAll => self.delete_all(batch).await,
        }
    }

    async fn put(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        match batch.table.partial {
            true => self.merges(batch, rows).await,
            false => self.upserts(batch, rows).await,
        }
    }

    async fn upserts(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        if self.session.maria() {
            return self.bulk_upserts(batch, rows).await;
        }
        let width = batch.columns.len().max(1);
        let mut rest = rows;
        while !rest.is_empty() {
            let n = self.statement_rows(rest, width);
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let sql = self.prepared(Kind::Upsert, batch, n).await?;
            let mut params = Vec::with_capacity(width * n);
            for row in now {
                upsert::cells(batch, row, &mut params)?;
            }
            self.statement(&sql, params).await?;
        }
        Ok(())
    }

    /// The parameters of a packet are made while the server takes those of the one before.
    async fn bulk_upserts(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        let sql = self.prepared(Kind::Upsert, batch, 1).await?;
        let packet_bytes_max = self.packet_bytes_max;
        let mut rest = rows;
        let mut next = || -> Result<Option<Vec<Vec<Param>>>> {
            if rest.is_empty() {
                return Ok(None);
            }
            let n = fitting(packet_bytes_max, rest, BULK_ROWS_MAX);
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let encoded = now.iter().map(|row| {
                let mut one = Vec::with_capacity(batch.columns.len());
                upsert::cells(batch, row, &mut one)?;
                Ok(one)
            });
            encoded.collect::<Result<_>>().map(Some)
        };
        let mut ready = next()?;
        while let Some(params) = ready {
            let encoding = async {
                // The packet goes out first.
                tokio::task::yield_now().await;
                next()
            };
            let (written, encoded) = tokio::join!(self.bulk(&sql, params), encoding);
            written?;
            ready = encoded?;
        }
        Ok(())
    }

    /// Loads rows by `LOAD DATA LOCAL INFILE`, below a savepoint. `false`: it could not be tried, or the
    /// server did not take all rows exactly, and none is there.
    async fn try_load(&mut self, load: &Load<'_>) -> Result<bool> {
        let id = load.table.id;
        if let Some(pieces) = self.refused.get_mut(&id)
            && *pieces > 0
        {
            *pieces -= 1;
            return Ok(false);
        }
        if !self.local_infile || !load::takes(&load.table, &load.columns) {
            return Ok(false);
        }
        let sql = load::statement(&load.table, &load.columns)?;
        let counted = self.counted(load).await?;
        self.session.run("SAVEPOINT tidelock_load").await?;
        let sent = self.send_load(&sql, load, counted).await;
        match sent.map_err(|e| error::of_rows(e, &load.table.name)) {
            Ok(true) => {
                self.session.run("RELEASE SAVEPOINT tidelock_load").await?;
                return Ok(true);
            }
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::Data => {}
            Err(error) => return Err(error),
        }
        self.session.run("ROLLBACK TO SAVEPOINT tidelock_load").await?;
        self.refused.insert(id, REFUSED_PIECES);
        Ok(false)
    }

    /// Which cell of a row goes into an AUTO_INCREMENT column: a load makes the next number of a 0 there
    /// without a word, whatever the mode says.
    async fn counted(&mut self, load: &Load<'_>) -> Result<Option<usize>> {
        if let Some(cell) = self.counted.get(&load.table.id) {
            return Ok(*cell);
        }
        let name = &load.table.name;
        let found: Vec<String> = self
            .session
            .rows(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = ? \
                 AND table_name = ? AND extra LIKE '%auto_increment%'",
                (name.schema.as_str(), name.name.as_str()),
            )
            .await?;
        let cell = load.columns.iter().position(|&i| {
            load.table.columns.get(i).is_some_and(|column| found.contains(&column.name))
        });
        self.counted.insert(load.table.id, cell);
        Ok(cell)
    }

    /// Encodes rows while the server takes those before. Whether it took them all as they are.
    async fn send_load(
        &mut self,
        sql: &str,
        load: &Load<'_>,
        counted: Option<usize>,
    ) -> Result<bool> {
        let (sender, receiver) = mpsc::channel::<Bytes>(LOAD_CHUNKS);
        // Asked for once, by our own statement, and whatever file the server names. If it is never asked
        // for, a later request of any kind finds it empty.
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (Ok(chunk), receiver))
        });
        self.session.conn.set_infile_handler(async { Ok(chunks.boxed()) });
        let row_bytes_max = self.packet_bytes_max / 4;
        let encoding = async move {
            let mut cells = Vec::new();
            let mut text = Vec::with_capacity(LOAD_BYTES + 1024);
            for row in 0..load.rows.count() {
                let start = text.len();
                cells.clear();
                load.rows.put(row, &mut cells)?;
                load::put_row(&load.table, &load.columns, &cells, &mut text)?;
                let counted = counted.and_then(|cell| cells.get(cell));
                let renumbered = matches!(counted, Some(Value::Int(0) | Value::UInt(0)));
                if renumbered || text.len() - start > row_bytes_max {
                    // The server counts fewer rows than there are.
                    return Ok(());
                }
                if text.len() >= LOAD_BYTES {
                    let full = std::mem::replace(&mut text, Vec::with_capacity(LOAD_BYTES + 1024));
                    if sender.send(full.into()).await.is_err() {
                        return Ok(());
                    }
                }
            }
            // The server may have ended the statement already.
            let _ended = sender.send(text.into()).await;
            Ok(())
        };
        let place = self.session.place.clone();
        {
            let loading = within(WRITE, &place, self.session.conn.query_drop(sql));
            tokio::pin!(loading, encoding);
            tokio::select! {
                answer = &mut loading => answer?,
                encoded = &mut encoding => {
                    let answer = loading.await;
                    encoded?;
                    answer?;
                }
            }
        }
        let taken = self.session.conn.affected_rows();
        Ok(taken == load.rows.count() as u64 && self.session.conn.get_warnings() == 0)
    }

    async fn deletes(&mut self, batch: &WriteBatch) -> Result<()> {
        let maria = self.session.maria();
        let width = upsert::key_width(&batch.table)?;
        let lists = upsert::lists_keys(&batch.table)?;
        let mut rest = &batch.rows[..];
        while !rest.is_empty() {
            let listed = if lists { self.listed_rows(rest, width) } else { 0 };
            let n = match listed {
                0 if maria => self.fitting(rest, BULK_ROWS_MAX),
                0 => self.statement_rows(rest, width),
                n => n,
            };
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let mut params = Vec::with_capacity(now.len());
            for row in now {
                let mut one = Vec::with_capacity(width);
                if batch.columns[..] == batch.table.key[..] {
                    upsert::key_cells(&batch.table, row, &mut one)?;
                } else {
                    upsert::key_cells(&batch.table, &upsert::key_of(batch, row)?, &mut one)?;
                }
                params.push(one);
            }
            if listed > 0 {
                let sql = self.prepared(Kind::DeleteListed, batch, listed).await?;
                // First all keys for the index, then all of them for the exact test.
                let cells = (0..width).flat_map(|i| {
                    params.iter().filter_map(move |one| one.get(i).cloned()).collect::<Vec<_>>()
                });
                self.statement(&sql, cells.collect()).await?;
            } else if maria {
                let sql = self.prepared(Kind::Delete, batch, 1).await?;
                self.bulk(&sql, params).await?;
            } else {
                let sql = self.prepared(Kind::Delete, batch, n).await?;
                self.statement(&sql, params.into_iter().flatten().collect()).await?;
            }
        }
        Ok(())
    }

    /// How many rows from the front go into one list of keys; 0: they are too few.
    fn listed_rows(&self, rows: &[Box<[Value]>], width: usize) -> usize {
        let fit = match self.packet_bytes_max {
            packet if packet < BYTES_MAX => 0,
            _ => self.fitting(rows, ROWS_MAX).min(PARAMS_MAX / width.max(1)),
        };
        LISTED_ROWS.into_iter().find(|n| *n <= fit).unwrap_or(0)
    }

    /// Updates rows by their keys; how many were there.
    ///
    /// MySQL has no bulk command, and an UPDATE of several rows would have to find each row's values by a CASE or a join,
    /// whose types are not the columns': there, many updates go in one trip.
    async fn matched(&mut self, batch: &WriteBatch) -> Result<u64> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        let maria = self.session.maria();
        let mut matched = 0;
        let mut rest = &batch.rows[..];
        while !rest.is_empty() {
            let rows_max = if maria { BULK_ROWS_MAX } else { TRIP_ROWS_MAX };
            let (now, later) = rest.split_at(self.fitting(rest, rows_max));
            rest = later;
            if now.len() > 1 && !maria {
                matched += self.update_trip(batch, now).await?;
                continue;
            }
            let mut params =
                now.iter().map(|row| update_params(batch, row)).collect::<Result<Vec<_>>>()?;
            matched += match params.pop() {
                Some(one) if params.is_empty() => self.statement(&sql, one).await?,
                last => {
                    params.extend(last);
                    self.bulk(&sql, params).await?
                }
            };
        }
        Ok(matched)
    }

    async fn updates(&mut self, batch: &WriteBatch) -> Result<()> {
        let matched = self.matched(batch).await?;
        if batch.op == WriteOp::Update && matched != batch.rows.len() as u64 {
            return Err(Error::data(
                Code::UpdateMissing,
                format!(
                    "table {}: {} of {} partial updates met no row",
                    batch.table.name,
                    (batch.rows.len() as u64).saturating_sub(matched),
                    batch.rows.len()
                ),
            )
            .with_hint("bring the rows back with `tidelock resync`, or log full row images"));
        }
        Ok(())
    }

    /// Several updates in one trip; how many rows they met. What a warning of one is about cannot be asked for once the
    /// next has run: where there is any, all is taken back and goes one by one, and so does what is too large.
    async fn update_trip(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<u64> {
        let mut sql = String::from("SAVEPOINT tidelock_updates");
        for row in rows {
            sql.push_str("; ");
            upsert::put_update(batch, row, &mut sql)?;
        }
        if sql.len() + PACKET_HEAD >= self.packet_bytes_max {
            return self.update_each(batch, rows).await;
        }
        let conn = &mut self.session.conn;
        let sent = async {
            let (mut matched, mut warnings) = (0, 0);
            let mut answers = conn.query_iter(sql).await?;
            loop {
                matched += answers.affected_rows();
                warnings += u64::from(answers.warnings());
                if answers.is_empty() {
                    return Ok((matched, warnings));
                }
                answers.next().await?;
            }
        };
        let (matched, warnings) = within(WRITE, &self.session.place, sent).await?;
        if warnings == 0 {
            return Ok(matched);
        }
        self.session.run("ROLLBACK TO SAVEPOINT tidelock_updates").await?;
        self.update_each(batch, rows).await
    }

    async fn update_each(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<u64> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        let mut matched = 0;
        for row in rows {
            matched += self.statement(&sql, update_params(batch, row)?).await?;
        }
        Ok(matched)
    }

    async fn moves(&mut self, batch: &WriteBatch) -> Result<()> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        for row in &batch.rows {
            let params = update_params(batch, row)?;
            if self.statement(&sql, params).await? == 0 {
                let head = row.get(..batch.columns.len()).unwrap_or(row);
                self.put(batch, &[head.into()]).await?;
            }
        }
        Ok(())
    }

    /// How many rows from the front go into one statement of MySQL, which has no bulk command: few sizes, so that the
    /// prepared statements are used again.
    fn statement_rows(&self, rows: &[Box<[Value]>], width: usize) -> usize {
        // Of so small a packet the statement's own text may take too much.
        let fit = if self.packet_bytes_max < BYTES_MAX { 1 } else { self.fitting(rows, ROWS_MAX) };
        let sizes = [ROWS_MAX, 64, 8, 1].map(|n| n.min(PARAMS_MAX / width.max(1)).max(1));
        sizes.into_iter().find(|n| *n <= fit).unwrap_or(1)
    }

    fn fitting(&self, rows: &[Box<[Value]>], rows_max: usize) -> usize {
        fitting(self.packet_bytes_max, rows, rows_max)
    }

    /// Refuses what would not fit into a packet: the server would cut the connection, and again each time.
    fn fits<'a>(&self, params: impl IntoIterator<Item = &'a Param>) -> Result<()> {
        let size = |param: &Param| match param {
            Param::Bytes(bytes) => bytes.len() + PARAM_HEAD,
            _ => PARAM_HEAD,
        };
        let bytes = params.into_iter().map(size).sum::<usize>() + PACKET_HEAD;
        if bytes < self.packet_bytes_max {
            return Ok(());
        }
        Err(Error::data(
            Code::NotRepresentable,
            format!(
                "{}: a row of {bytes} bytes is larger than max_allowed_packet ({}) allows",
                self.session.place, self.packet_bytes_max
            ),
        )
        .with_hint("raise max_allowed_packet of this server (up to 1073741824)"))
    }

    async fn bulk(&mut self, sql: &Statement, params: Vec<Vec<Param>>) -> Result<u64> {
        // Several were taken together only as far as they fit.
        if let [one] = &params[..] {
            self.fits(one)?;
        }
        let params = params.into_iter().map(Params::Positional);
        within(WRITE, &self.session.place, self.session.conn.exec_batch(sql, params)).await?;
        self.no_warnings().await
    }

    async fn statement(&mut self, sql: &Statement, params: Vec<Param>) -> Result<u64> {
        self.fits(&params)?;
        let params = Params::Positional(params);
        within(WRITE, &self.session.place, self.session.conn.exec_drop(sql, params)).await?;
        self.no_warnings().await
    }

    async fn delete_all(&mut self, batch: &WriteBatch) -> Result<()> {
        let sql = upsert::delete_all(batch);
        within(WRITE, &self.session.place, self.session.conn.query_drop(sql)).await?;
        self.no_warnings().await.map(drop)
    }

    /// A warning of a write is an error: the server stored something else than was sent.
    async fn no_warnings(&mut self) -> Result<u64> {
        let matched = self.session.conn.affected_rows();
        if self.session.conn.get_warnings() > 0 {
            let rows: Vec<(String, u32, String)> = self.session.query("SHOW WARNINGS").await?;
            let codes: Vec<u32> = rows
                .iter()
                .filter(|(level, ..)| level != "Note")
                .map(|(_, code, _)| *code)
                .collect();
            if let Some(code) = codes.first() {
                return Err(Error::data(
                    Code::NotRepresentable,
                    format!("{}: the server changed a value while storing it", self.session.place),
                )
                .with_detail(format!("warning {code}")));
            }
        }
        Ok(matched)
    }
}

/// How many rows from the front go into one packet.
fn fitting(packet_bytes_max: usize, rows: &[Box<[Value]>], rows_max: usize) -> usize {
    let bytes_max = BYTES_MAX.min(packet_bytes_max / 4);
    let mut bytes = 0;
    let n = rows
        .iter()
        .take(rows_max)
        .take_while(|row| {
            // Times take up to 32 bytes as text, and a text key goes twice.
            bytes += row.iter().map(|v| v.heap_bytes() + 32 + PARAM_HEAD).sum::<usize>();
            bytes <= bytes_max
        })
        .count();
    n.max(1)
}

fn update_params(batch: &WriteBatch, row: &[Value]) -> Result<Vec<Param>> {
    let mut params = Vec::with_capacity(row.len() + 2);
    upsert::cells(batch, row, &mut params)?;
    let key = row.get(batch.columns.len()..).unwrap_or(&[]);
    upsert::key_cells(&batch.table, key, &mut params)?;
    Ok(params)
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
            let result = self.batch(batch).await.map_err(|e| {
                let e = error::of_rows(e, &batch.table.name);
                let e = if e.kind() == ErrorKind::Data { e.with_batch(i) } else { e };
                e.at(format_args!("mapping {}, table {}", batch.mapping, batch.table.name))
            });
            self.guarded(result).await?;
        }
        Ok(())
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
