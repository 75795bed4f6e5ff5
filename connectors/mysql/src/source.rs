//! The open log: the driver's stream as transport, [`assembler::Assembler`] for everything else.
//!
//! Cancel-safe: the stream keeps its half-read packet, events decoded so far stand in the assembler,
//! a look at the catalog goes on in a task, and nothing else is carried over an await.

pub(crate) mod assembler;
pub(crate) mod ddl;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::events::{Event, GtidEvent};
use mysql_async::{BinlogStream, BinlogStreamRequest};
use sha2::{Digest, Sha256};
use tidelock_core::{
    Chunk, Code, Error, PROGRESS_TABLE, Position, Result, SNAPSHOT_TABLE, Scope, Source,
    SourceSpec, TableName,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::binlog::{self, kind};
use crate::catalog::{self, CatalogTable};
use crate::charset::Charset;
use crate::config::Endpoint;
use crate::gtid::{BinlogPosition, GtidSet, MariaGtidSet, MySqlGtidSet};
use crate::session::{CONNECT, Session, within};
use crate::{error, meta, shape};
use assembler::{Assembler, Frame};

/// Memory of one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Heartbeats come every five seconds; a minute without any event is a dead connection.
const SILENCE: Duration = Duration::from_secs(60);

/// An open binlog.
pub(crate) struct MySqlSource {
    stream: BinlogStream,
    log: Assembler,
    endpoint: Endpoint,
    schemas: Vec<String>,
    /// Reads the catalog again.
    looking: Option<JoinHandle<Result<Looked>>>,
    /// Since when an event is waited for, while one is.
    waits: Option<Instant>,
    failed: Option<Error>,
}

/// What DDL may have changed.
struct Looked {
    found: Vec<CatalogTable>,
    charsets: Arc<HashMap<u64, Charset>>,
    shapes: HashMap<TableName, String>,
}

/// What history the server's log belongs to.
pub(crate) async fn history(session: &mut Session, meta_schema: &str) -> Result<String> {
    if !session.maria() {
        let uuid: String = session.one("SELECT @@server_uuid").await?;
        return Ok(format!("mysql:{uuid}"));
    }
    // MariaDB has no id of its own; ours is made once and travels with the data.
    Ok(match meta::system_id(session, meta_schema).await? {
        Some(id) => format!("mariadb:{id}"),
        None => {
            let id: u64 = session.one("SELECT @@server_id").await?;
            format!("mariadb:server-{id}")
        }
    })
}

/// Everything the server has logged, as a GTID set.
pub(crate) async fn logged(session: &mut Session) -> Result<GtidSet> {
    let bad = |place: &str| Error::bug(format!("{place}: the server's GTID set cannot be read"));
    if session.maria() {
        let text: String = session.one("SELECT @@global.gtid_binlog_pos").await?;
        return text
            .parse::<MariaGtidSet>()
            .map(GtidSet::MariaDb)
            .map_err(|()| bad(&session.place));
    }
    mysql_gtid_mode(session).await?;
    let text: String = session.one("SELECT @@global.gtid_executed").await?;
    text.parse::<MySqlGtidSet>().map(GtidSet::MySql).map_err(|()| bad(&session.place))
}

async fn mysql_gtid_mode(session: &mut Session) -> Result<()> {
    let mode = session.setting("gtid_mode").await?.unwrap_or_default();
    if mode.eq_ignore_ascii_case("ON") {
        return Ok(());
    }
    Err(Error::setup(
        Code::ServerSetting,
        format!("{}: gtid_mode is {mode}, it must be ON", session.place),
    )
    .with_hint(
        "SET PERSIST enforce_gtid_consistency = ON; then gtid_mode OFF_PERMISSIVE, ON_PERMISSIVE, ON",
    ))
}

/// Proves that the log goes on at `from`.
pub(crate) async fn prove(
    session: &mut Session,
    spec: &SourceSpec,
    meta_schema: &str,
    from: &BinlogPosition,
) -> Result<()> {
    let resync = "run `tidelock resync` for this flow: new position, compare and patch";
    let now = history(session, meta_schema).await?;
    let same = spec.identity.is_empty() || spec.identity == now;
    if !same && session.maria() {
        return Err(Error::continuity(
            Code::SourceForeign,
            format!("{}: this is another server than the position belongs to", session.place),
        )
        .with_detail(format!("position of {}, server is {now}", spec.identity))
        .with_hint(resync));
    }
    if !logged(session).await?.contains(&from.gtids) {
        let code = if same { Code::GtidDiverged } else { Code::SourceForeign };
        return Err(Error::continuity(
            code,
            format!("{}: the server does not have transactions already read", session.place),
        )
        .with_detail(format!("our position {}", from.gtids))
        .with_hint(resync));
    }
    if !same {
        tracing::warn!(
            "{}: the source is another server ({now}) with the same GTIDs: a failover",
            session.place
        );
    }
    prove_length(session, from, same, resync).await?;
    if session.maria() {
        return prove_file(session, from, resync).await;
    }
    let purged: String = session.one("SELECT @@global.gtid_purged").await?;
    let covered =
        purged.parse::<MySqlGtidSet>().is_ok_and(|p| from.gtids.contains(&GtidSet::MySql(p)));
    if covered {
        return Ok(());
    }
    Err(Error::continuity(
        Code::LogPurged,
        format!("{}: the binary log that is still needed was removed", session.place),
    )
    .with_hint(resync))
}

/// A log that begins anew (`RESET MASTER`, a server filled from a dump) counts its GTIDs from the start, and so comes to ours again with other
/// transactions. Files only grow in number: the server that wrote our last transaction has our file or newer ones. Another
/// server, after a failover, has files of its own.
async fn prove_length(
    session: &mut Session,
    from: &BinlogPosition,
    same: bool,
    hint: &str,
) -> Result<()> {
    let Some(at) = &from.at else { return Ok(()) };
    let wrote_ours = match &from.gtids {
        GtidSet::MariaDb(set) => {
            let own: u32 = session.one("SELECT @@server_id").await?;
            set.is_by(own)
        }
        GtidSet::MySql(_) => same,
    };
    let (newest, _) = session.log_end().await?;
    if !wrote_ours || !is_behind(&newest, &at.file) {
        return Ok(());
    }
    Err(Error::continuity(
        Code::GtidDiverged,
        format!("{}: the log ends before our place in it: it was begun anew", session.place),
    )
    .with_detail(format!("position {from}, newest file {newest}"))
    .with_hint(hint))
}

/// Whether a file of a log comes before another one of the same name.
fn is_behind(file: &str, other: &str) -> bool {
    let parts = |file: &str| {
        let (base, number) = file.rsplit_once('.')?;
        Some((base.to_owned(), number.parse::<u64>().ok()?))
    };
    match (parts(file), parts(other)) {
        (Some((base, number)), Some((other, than))) => base == other && number < than,
        _ => false,
    }
}

/// On MariaDB a rewritten history can hold the same GTIDs: where our file still exists, the server's
/// GTIDs at our offset must be ours. The group that ends there must be; another domain may have been read further, if
/// we started at a set that held more of it than the place in the file where reading began.
async fn prove_file(session: &mut Session, from: &BinlogPosition, hint: &str) -> Result<()> {
    let Some(at) =
        from.at.as_ref().filter(|at| at.offset > 4 && at.offset < assembler::OFFSET_UNKNOWN)
    else {
        return Ok(());
    };
    let logs: Vec<mysql_async::Row> = session.query("SHOW BINARY LOGS").await?;
    let there = logs.iter().any(|r| r.get::<String, _>(0).as_deref() == Some(at.file.as_str()));
    if !there {
        // The server itself says whether the GTIDs can still be had (error 1236).
        return Ok(());
    }
    let found: Vec<Option<String>> =
        session.rows("SELECT BINLOG_GTID_POS(?, ?)", (at.file.as_str(), at.offset)).await?;
    let found = found.into_iter().next().flatten().and_then(|t| t.parse::<MariaGtidSet>().ok());
    if let (Some(found), GtidSet::MariaDb(ours)) = (&found, &from.gtids)
        && (found == ours || (ours.contains(found) && found.meets(ours)))
    {
        return Ok(());
    }
    Err(Error::continuity(
        Code::GtidDiverged,
        format!("{}: the log at our place holds other transactions than ours", session.place),
    )
    .with_detail(format!("position {from}"))
    .with_hint(hint))
}

/// A stable replica id: a newcomer of the same flow ends its predecessor's dump.
fn replica_id(spec: &SourceSpec, endpoint: &Endpoint) -> u32 {
    let text = format!("{}\0{}\0{}", spec.pipeline, spec.flow, endpoint.shown);
    let digest = Sha256::digest(text.as_bytes());
    let hash = digest.iter().take(4).fold(0u32, |v, b| v << 8 | u32::from(*b));
    0x4000_0000 | (hash >> 1) | (hash << 31)
}

/// Opens the log after proving that it continues at `from`.
pub(crate) async fn open(
    endpoint: &Endpoint,
    spec: &SourceSpec,
    from: &Position,
) -> Result<MySqlSource> {
    let position: BinlogPosition = from.as_str().parse()?;
    let mut session = Session::open(endpoint).await?;
    prove(&mut session, spec, &endpoint.meta, &position).await?;
    let own = [PROGRESS_TABLE, SNAPSHOT_TABLE].map(|own| TableName::new(&endpoint.meta, own));
    let tables = spec.tables.iter().map(|t| &t.name).chain(&own);
    let mut schemas: Vec<String> = tables.map(|t| t.schema.clone()).collect();
    schemas.sort();
    schemas.dedup();
    let found = catalog::read(&mut session, &schemas, None).await?;
    let foreign = |t: &TableName| !t.name.is_ascii() || !t.schema.is_ascii();
    if spec.tables.iter().any(|t| foreign(&t.name)) {
        // A statement names them in the set of whoever sent it.
        Charset::load_all(&mut session).await?;
    }
    let charsets = catalog::collations(&mut session).await?;
    let full = session
        .setting("binlog_row_metadata")
        .await?
        .is_some_and(|v| v.eq_ignore_ascii_case("FULL"));
    let folded = session.setting("lower_case_table_names").await?.is_some_and(|v| v != "0");
    // An empty set has no flavour of its own.
    let gtids = match (session.maria(), position.gtids) {
        (true, GtidSet::MySql(_)) | (false, GtidSet::MariaDb(_)) if !session.maria() => {
            GtidSet::MySql(MySqlGtidSet::default())
        }
        (_, gtids) => gtids,
    };
    let start = BinlogPosition { gtids, at: position.at };
    let place = session.place.clone();
    let log =
        Assembler::new(place, (&spec.tables, &own), found, charsets, (full, folded), start.clone());
    let stream = dump(session, spec, endpoint, &start).await?;
    Ok(MySqlSource {
        stream,
        log,
        endpoint: endpoint.clone(),
        schemas,
        looking: None,
        waits: None,
        failed: None,
    })
}

async fn dump(
    mut session: Session,
    spec: &SourceSpec,
    endpoint: &Endpoint,
    start: &BinlogPosition,
) -> Result<BinlogStream> {
    session
        .run("SET SESSION net_write_timeout = 600, SESSION net_read_timeout = 600, SESSION wait_timeout = 31536")
        .await?;
    let mut request =
        BinlogStreamRequest::new(replica_id(spec, endpoint)).with_hostname(b"tidelock");
    session
        .run(
            "SET @master_heartbeat_period = 5000000000, @source_heartbeat_period = 5000000000, \
              @master_binlog_checksum = @@global.binlog_checksum, \
              @source_binlog_checksum = @@global.binlog_checksum",
        )
        .await?;
    match &start.gtids {
        GtidSet::MariaDb(set) => {
            session
                .run(&format!(
                    "SET @mariadb_slave_capability = 4, @slave_connect_state = '{set}', \
                     @slave_gtid_strict_mode = 1, @slave_gtid_ignore_duplicates = 0"
                ))
                .await?;
        }
        GtidSet::MySql(set) => {
            let mut blocks = Vec::new();
            for block in set.blocks() {
                blocks.push(block.parse().map_err(|_| {
                    Error::bug(format!("{}: a GTID set cannot be sent", session.place))
                })?);
            }
            request = request.with_gtid().with_gtid_set(blocks);
        }
    }
    let place = session.place.clone();
    within(CONNECT, &place, session.conn.get_binlog_stream(request)).await
}

/// CRC-32 of anything followed by its own CRC-32.
const CRC_RESIDUE: u32 = 0x2144_df1c;

/// An event's data without checksum. The driver learns of checksums from the format description, and the
/// artificial ROTATE that opens a stream comes before it: its checksum would become part of the file's name.
fn data_of(event: &Event) -> &[u8] {
    use mysql_async::binlog::BinlogChecksumAlg as Alg;
    let data = event.data();
    let known =
        matches!(event.footer().get_checksum_alg(), Ok(Some(Alg::BINLOG_CHECKSUM_ALG_CRC32)));
    if event.header().event_type_raw() == kind::ROTATE
        && !known
        && event.calc_checksum(Alg::BINLOG_CHECKSUM_ALG_CRC32) == CRC_RESIDUE
    {
        return data.split_last_chunk::<4>().map_or(data, |(name, _)| name);
    }
    data
}

async fn look(endpoint: Endpoint, schemas: Vec<String>, mapped: Vec<TableName>) -> Result<Looked> {
    let mut session = Session::open(&endpoint).await?;
    let found = catalog::read(&mut session, &schemas, None).await?;
    let charsets = catalog::collations(&mut session).await?;
    let shapes = shape::shapes(&mut session, Scope::Tables(&mapped)).await?;
    Ok(Looked { found, charsets, shapes })
}

impl MySqlSource {
    fn take(&mut self, item: Option<mysql_async::Result<Event>>) -> Result<()> {
        let event = match item {
            Some(Ok(event)) => event,
            Some(Err(e)) => return Err(error::map(&self.endpoint.shown, e)),
            None => {
                return Err(Error::transient(
                    Code::Unreachable,
                    format!("{}: the server ended the binlog stream", self.endpoint.shown),
                ));
            }
        };
        let header = event.header();
        let inner = self.log.in_payload();
        if !inner {
            self.check_crc(&event)?;
        }
        let mut frame = Frame {
            kind: header.event_type_raw(),
            server: header.server_id(),
            seconds: header.timestamp(),
            end: u64::from(header.log_pos()),
            ignorable: header.flags_raw() & 0x80 != 0,
            temporary: header.flags_raw() & 0x04 != 0,
            inner,
            gtid: None,
            data: data_of(&event),
        };
        if frame.kind == kind::GTID_TAGGED {
            // A serialization of its own, read by the driver; it may fail but not take us along.
            let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
                event.read_event::<GtidEvent>().ok().map(|g| binlog::MySqlGtid {
                    uuid: binlog::uuid_text(&g.sid()),
                    tag: g.tag().map(ToString::to_string).unwrap_or_default(),
                    gno: g.gno(),
                    commit_micros: i64::try_from(g.immediate_commit_timestamp()).ok(),
                })
            }));
            frame.gtid = read.ok().flatten();
        }
        self.log.event(&frame)
    }

    fn check_crc(&self, event: &Event) -> Result<()> {
        use mysql_async::binlog::BinlogChecksumAlg as Alg;
        if !matches!(event.footer().get_checksum_alg(), Ok(Some(Alg::BINLOG_CHECKSUM_ALG_CRC32))) {
            return Ok(());
        }
        let calculated = event.calc_checksum(Alg::BINLOG_CHECKSUM_ALG_CRC32);
        if event.checksum().map(u32::from_le_bytes) == Some(calculated) {
            return Ok(());
        }
        Err(Error::continuity(
            Code::DamagedEvent,
            format!("{}: an event of the binary log has a wrong checksum", self.endpoint.shown),
        )
        .with_detail(format!(
            "type {}, ending at {}",
            event.header().event_type_raw(),
            event.header().log_pos()
        )))
    }

    /// Reads the catalog again after DDL that may have changed a mapped table. Whoever asks for the next chunk may turn to
    /// something else meanwhile, again and again: what is begun goes on.
    async fn refresh(&mut self) -> Result<()> {
        let looking = match &mut self.looking {
            Some(looking) => looking,
            none => {
                let (endpoint, schemas) = (self.endpoint.clone(), self.schemas.clone());
                none.insert(tokio::spawn(look(endpoint, schemas, self.log.mapped())))
            }
        };
        let looked = looking.await;
        self.looking = None;
        let Looked { found, charsets, shapes } = looked
            .map_err(|e| Error::bug(format!("reading the catalog ended in a panic: {e}")))??;
        self.log.refreshed(found, charsets, shapes);
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        loop {
            if self.log.stale() {
                self.refresh().await?;
            }
            if self.log.bytes() >= CHUNK_BYTES {
                return Ok(());
            }
            // The driver panics on a packet that is shorter than its event says.
            let broken = |place: &str| {
                Error::transient(Code::Unreachable, format!("{place}: a binlog packet is broken"))
            };
            let next = AssertUnwindSafe(self.stream.next()).catch_unwind().now_or_never();
            let item = match next {
                Some(item) => item,
                None if self.log.has_output() => return Ok(()),
                None => {
                    let since = *self.waits.get_or_insert_with(Instant::now);
                    let wait = AssertUnwindSafe(self.stream.next()).catch_unwind();
                    tokio::time::timeout_at(since + SILENCE, wait).await.map_err(|_| {
                        Error::transient(
                            Code::Unreachable,
                            format!("{}: no heartbeat for a minute", self.endpoint.shown),
                        )
                    })?
                }
            };
            self.waits = None;
            self.take(item.map_err(|_| broken(&self.endpoint.shown))?)?;
        }
    }
}

#[async_trait]
impl Source for MySqlSource {
    async fn next(&mut self) -> Result<Chunk> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if let Err(error) = self.fill().await {
            if !self.log.has_output() {
                return Err(error);
            }
            // What came before the fault is good and must get through, or nothing ever would.
            self.failed = Some(error);
        }
        Ok(self.log.flush())
    }

    /// The server keeps its log by time or size, not by what replicas have read.
    async fn confirm(&mut self, _position: &Position) -> Result<()> {
        Ok(())
    }

    /// The server sends heartbeats by itself and waits for a slow reader (`net_write_timeout`).
    async fn keepalive(&mut self) -> Result<()> {
        Ok(())
    }
}
