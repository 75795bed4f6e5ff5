//! From binlog events to whole transactions. No I/O: events in, a chunk out.
//!
//! A position is told only at the end of a GTID group: at XID, COMMIT, or the one statement of a
//! standalone group. `Begin` is held back until the first row that somebody asked for, so that a
//! transaction without any becomes a mere `Idle`. Each event type is known by number or it is an
//! error: passing over an unknown one could pass over rows.

mod query;
mod rows;
mod tables;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{
    Begin, Chunk, Code, Commit, Error, Idle, LogEvent, Position, Result, SourceTable, TableChanged,
    TableName,
};

use super::ddl;
use crate::binlog::arena::Arena;
use crate::binlog::rows::Layout;
use crate::binlog::table_map::TableMap;
use crate::binlog::{self, Damage, MySqlGtid, kind};
use crate::catalog::CatalogTable;
use crate::charset::Charset;
use crate::gtid::{BinlogPosition, GtidSet, put_position};

/// Stands for an offset beyond what the log can tell.
pub(crate) const OFFSET_UNKNOWN: u64 = u32::MAX as u64;

/// An event with what its header tells.
pub(crate) struct Frame<'a> {
    pub kind: u8,
    pub server: u32,
    pub seconds: u32,
    pub end: u64,
    pub ignorable: bool,
    /// A statement that temporary tables of its session may have had to do with, or one of the same procedure.
    pub temporary: bool,
    /// From inside a compressed payload.
    pub inner: bool,
    /// A tagged GTID, already read.
    pub gtid: Option<MySqlGtid>,
    pub data: &'a [u8],
}

enum Gtid {
    MariaDb { domain: u32, server: u32, seq: u64 },
    MySql { uuid: String, tag: String, gno: u64 },
}

/// The group being read.
struct Group {
    gtid: Gtid,
    micros: i64,
    /// Ends with its one statement.
    standalone: bool,
    /// Rows that may still be rolled back.
    xa: bool,
    /// `Begin` was told.
    told: bool,
    payload: bool,
}

enum Mapped {
    Ours(Box<Layout>),
    Other,
}

/// What a TABLE_MAP led to. Most transactions repeat the one before, byte for byte.
struct Map {
    bytes: Box<[u8]>,
    /// What else it was judged by ([`Assembler::judged`]).
    judged: u64,
    mapped: Mapped,
}

/// What a statement did to a table, before the catalog was asked what came of it.
enum Touch {
    /// It lost its name.
    Gone,
    /// Another one took its name; why.
    Replaced(&'static str),
    /// Rows came, or went and came; why.
    Rows(&'static str),
    /// Rows of a partition went away.
    Partition,
    /// The copy that an online schema changer has filled took its name.
    Shadowed,
    /// Its columns may be others; those that the statement took away.
    Altered(Vec<String>),
}

/// What is mapped of a table, and what it was when that was last looked at.
struct Known {
    columns: Vec<String>,
    shape: String,
}

/// The state of reading.
pub(crate) struct Assembler {
    place: String,
    wanted: HashSet<TableName>,
    catalog: HashMap<TableName, CatalogTable>,
    charsets: Arc<HashMap<u64, Charset>>,
    full_metadata: bool,
    names_folded: bool,
    maps: HashMap<u64, Map>,
    /// Counts the changes of what a TABLE_MAP is judged by beside its own bytes: the catalog, and which tables are given
    /// up or passed over.
    judged: u64,
    arena: Arena,
    layouts: HashMap<TableName, (TableMap, u64, u64)>,
    /// Temporary tables that have wanted tables' names, by server and connection, as far as the log has told of them.
    temporary: HashSet<(u32, u32, TableName)>,
    catalog_version: u64,
    version: u64,
    faulted: HashSet<TableName>,
    /// The mapped tables; ours are not among them.
    known: HashMap<TableName, Known>,
    touched: Vec<(TableName, Touch)>,
    /// What came of it, until the group has ended.
    changed: Vec<TableChanged>,
    /// Replaced in this group: rows that it logs are of the new table, and are compared later.
    muted: HashSet<TableName>,
    gtids: GtidSet,
    file: String,
    offset: u64,
    group: Option<Group>,
    idle: Option<bool>,
    stale: bool,
    chunk: Chunk,
    /// The last position, as it was written.
    text: String,
}

impl Assembler {
    pub fn new(
        place: String,
        (tables, own): (&[SourceTable], &[TableName]),
        found: Vec<CatalogTable>,
        charsets: Arc<HashMap<u64, Charset>>,
        (full_metadata, names_folded): (bool, bool),
        start: BinlogPosition,
    ) -> Assembler {
        let (file, offset) = start.at.map_or((String::new(), 0), |at| (at.file, at.offset));
        Assembler {
            place,
            wanted: tables.iter().map(|t| t.name.clone()).chain(own.iter().cloned()).collect(),
            catalog: found.into_iter().map(|t| (t.table.name.clone(), t)).collect(),
            charsets,
            full_metadata,
            names_folded,
            maps: HashMap::new(),
            judged: 0,
            arena: Arena::default(),
            layouts: HashMap::new(),
            temporary: HashSet::new(),
            catalog_version: 0,
            version: 0,
            faulted: HashSet::new(),
            known: tables
                .iter()
                .map(|t| {
                    let known = Known { columns: t.columns.clone(), shape: t.shape.clone() };
                    (t.name.clone(), known)
                })
                .collect(),
            touched: Vec::new(),
            changed: Vec::new(),
            muted: HashSet::new(),
            gtids: start.gtids,
            file,
            offset,
            group: None,
            idle: None,
            stale: false,
            chunk: Chunk::default(),
            text: String::new(),
        }
    }

    /// Whether the catalog must be read again before the next event.
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// Whether events now come from inside a compressed payload.
    pub fn in_payload(&self) -> bool {
        self.group.as_ref().is_some_and(|g| g.payload)
    }

    pub fn bytes(&self) -> usize {
        self.chunk.bytes
    }

    pub fn has_output(&self) -> bool {
        self.idle.is_some() || !self.chunk.events.is_empty()
    }

    /// Hands over what has come together.
    pub fn flush(&mut self) -> Chunk {
        if let Some(grew) = self.idle.take() {
            let position = self.position();
            self.chunk.push(LogEvent::Idle(Idle { position, grew }));
        }
        std::mem::take(&mut self.chunk)
    }

    fn position(&mut self) -> Position {
        self.text.clear();
        let at = (!self.file.is_empty()).then_some((self.file.as_str(), self.offset));
        let written = put_position(&mut self.text, &self.gtids, at);
        debug_assert!(written.is_ok(), "a string takes everything");
        Position::new(&self.text)
    }

    fn here(&self, frame: &Frame<'_>) -> String {
        format!("{}: binlog {} before {}", self.place, self.file, frame.end)
    }

    fn damaged(&self, frame: &Frame<'_>, damage: Damage) -> Error {
        Error::continuity(
            Code::DamagedEvent,
            format!("{}: event of type {} cannot be read", self.here(frame), frame.kind),
        )
        .with_detail(damage.0)
    }

    fn unsupported(&self, frame: &Frame<'_>, what: &str) -> Error {
        Error::continuity(Code::UnsupportedEvent, format!("{}: {what}", self.here(frame)))
            .with_hint("run `tidelock resync` for this flow once the cause is mended")
    }

    /// Takes one event.
    pub fn event(&mut self, frame: &Frame<'_>) -> Result<()> {
        use kind as k;
        match frame.kind {
            k::ROTATE => {
                let (file, offset) =
                    binlog::rotate(frame.data).map_err(|d| self.damaged(frame, d))?;
                if file != self.file {
                    (self.file, self.offset) = (file, offset);
                }
                self.maps.clear();
            }
            k::FORMAT_DESCRIPTION => {
                self.maps.clear();
                if binlog::starts_server(frame.data) {
                    self.temporary.clear();
                }
                if self.group.take().is_some_and(|g| g.told) {
                    return Err(Error::transient(
                        Code::ServerBusy,
                        format!("{}: the server restarted inside a transaction", self.here(frame)),
                    ));
                }
            }
            k::HEARTBEAT | k::HEARTBEAT_V2 => {
                if self.group.is_none() {
                    self.idle.get_or_insert(false);
                }
            }
            k::MARIA_GTID | k::GTID | k::GTID_TAGGED => self.group_start(frame)?,
            k::ANONYMOUS_GTID => {
                return Err(
                    self.unsupported(frame, "a transaction has no GTID (gtid_mode was off)")
                );
            }
            k::QUERY => self.query(frame, binlog::query(frame.data, false))?,
            k::MARIA_QUERY_COMPRESSED => self.query(frame, binlog::query(frame.data, true))?,
            k::EXECUTE_LOAD_QUERY => self.query(frame, binlog::load_query(frame.data))?,
            k::XID => self.end(frame, frame.seconds)?,
            k::XA_PREPARE => {
                if self.group.as_ref().is_some_and(|g| g.told) {
                    return Err(self.xa(frame));
                }
                self.end(frame, frame.seconds)?;
            }
            k::TABLE_MAP => self.table_map(frame)?,
            k::WRITE_V1..=k::DELETE_V1
            | k::WRITE_V2..=k::DELETE_V2
            | k::MARIA_WRITE_COMPRESSED_V1..=k::MARIA_DELETE_COMPRESSED => self.rows(frame)?,
            k::PARTIAL_UPDATE => self.in_parts(frame)?,
            k::TRANSACTION_PAYLOAD => {
                binlog::payload(frame.data).map_err(|d| self.damaged(frame, d))?;
                self.went_to(frame.end);
                match &mut self.group {
                    Some(group) => group.payload = true,
                    None => return Err(self.damaged(frame, Damage("a payload outside a group"))),
                }
            }
            k::INCIDENT => {
                return Err(self.unsupported(frame, "the server reports lost events (INCIDENT)"));
            }
            // The file of a LOAD DATA; the statement comes behind it.
            k::BEGIN_LOAD_QUERY | k::APPEND_BLOCK | k::DELETE_FILE => {}
            k::STOP
            | k::INTVAR
            | k::RAND
            | k::USER_VAR
            | k::IGNORABLE
            | k::ROWS_QUERY
            | k::PREVIOUS_GTIDS
            | k::TRANSACTION_CONTEXT
            | k::VIEW_CHANGE
            | k::MARIA_ANNOTATE
            | k::MARIA_CHECKPOINT
            | k::MARIA_GTID_LIST
            | k::MARIA_START_ENCRYPTION => {}
            _ if frame.ignorable => {}
            other => {
                return Err(self.unsupported(frame, &format!("an unknown event of type {other}")));
            }
        }
        Ok(())
    }

    fn xa(&self, frame: &Frame<'_>) -> Error {
        self.unsupported(
            frame,
            "an XA transaction wrote a mapped table: its outcome is not known here",
        )
    }

    fn group_start(&mut self, frame: &Frame<'_>) -> Result<()> {
        if self.group.as_ref().is_some_and(|g| !g.standalone) {
            return Err(self.damaged(frame, Damage("a group starts inside another one")));
        }
        let seconds = i64::from(frame.seconds) * 1_000_000;
        let group = if frame.kind == kind::MARIA_GTID {
            let g = binlog::maria_gtid(frame.data).map_err(|d| self.damaged(frame, d))?;
            let last = match &self.gtids {
                GtidSet::MariaDb(set) => set.last(g.domain),
                GtidSet::MySql(_) => None,
            };
            if last.is_some_and(|(_, seq)| seq >= g.seq) {
                return Err(Error::continuity(
                    Code::GtidDiverged,
                    format!(
                        "{}: GTID {}-{}-{} comes after a higher one of its domain",
                        self.here(frame),
                        g.domain,
                        frame.server,
                        g.seq
                    ),
                )
                .with_hint("set gtid_strict_mode = ON on the source and run `tidelock resync`"));
            }
            Group {
                gtid: Gtid::MariaDb { domain: g.domain, server: frame.server, seq: g.seq },
                micros: seconds,
                standalone: g.standalone(),
                xa: g.xa_prepare(),
                told: false,
                payload: false,
            }
        } else {
            let g = match &frame.gtid {
                Some(g) => g.clone(),
                None if frame.kind == kind::GTID_TAGGED => {
                    return Err(self.damaged(frame, Damage("a tagged GTID is none")));
                }
                None => binlog::mysql_gtid(frame.data).map_err(|d| self.damaged(frame, d))?,
            };
            Group {
                micros: g.commit_micros.unwrap_or(seconds),
                gtid: Gtid::MySql { uuid: g.uuid, tag: g.tag, gno: g.gno },
                // Until BEGIN tells otherwise.
                standalone: true,
                xa: false,
                told: false,
                payload: false,
            }
        };
        self.group = Some(group);
        Ok(())
    }

    /// Notes the offset of the next event. It has 32 bits in the log: where it went backwards it has
    /// wrapped, and for the rest of that file it is not known.
    fn went_to(&mut self, end: u64) {
        if end > 0 {
            self.offset = if end < self.offset { OFFSET_UNKNOWN } else { end };
        }
    }

    /// The group is complete: its GTID becomes part of the position.
    fn end(&mut self, frame: &Frame<'_>, seconds: u32) -> Result<()> {
        let Some(group) = self.group.take() else {
            return Err(self.damaged(frame, Damage("a transaction ends that never began")));
        };
        match (&mut self.gtids, group.gtid) {
            (GtidSet::MariaDb(set), Gtid::MariaDb { domain, server, seq }) => {
                set.advance(domain, server, seq);
            }
            (GtidSet::MySql(set), Gtid::MySql { uuid, tag, gno }) => set.add(&uuid, &tag, gno, gno),
            (GtidSet::MariaDb(_) | GtidSet::MySql(_), _) => {
                return Err(self.damaged(frame, Damage("a GTID of the other flavour")));
            }
        }
        if !frame.inner {
            self.went_to(frame.end);
        }
        if group.told {
            let position = self.position();
            let commit_micros = group.micros.max(i64::from(seconds) * 1_000_000);
            self.chunk.push(LogEvent::Commit(Commit { position, commit_micros }));
        } else {
            self.idle = Some(true);
        }
        if !self.muted.is_empty() {
            self.muted.clear();
            self.judged += 1;
        }
        self.tell_changes();
        Ok(())
    }

    /// Tells `Begin` before the first thing somebody asked for.
    fn tell(&mut self, frame: &Frame<'_>) -> Result<()> {
        let Some(group) = &mut self.group else {
            return Err(self.damaged(frame, Damage("rows outside a transaction")));
        };
        if group.xa {
            return Err(self.xa(frame));
        }
        if !group.told {
            group.told = true;
            // Its COMMIT tells the place, and until then there is no idle place to tell: kept, it would pass for
            // output that is never handed over, and whoever waits for more of the transaction would spin.
            self.idle = None;
            self.chunk.push(LogEvent::Begin(Begin { commit_micros: group.micros, id: None }));
        }
        Ok(())
    }
}
