//! From binlog events to whole transactions. No I/O: events in, a chunk out.
//!
//! A position is told only at the end of a GTID group: at XID, COMMIT, or the one statement of a
//! standalone group. `Begin` is held back until the first row that somebody asked for, so that a
//! transaction without any becomes a mere `Idle`. Each event type is known by number or it is an
//! error: passing over an unknown one could pass over rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{
    Begin, Chunk, Code, Commit, Error, Idle, LogEvent, Result, ShapeChange, SourceTable,
    TableChanged, TableFault, TableName, Truncate,
};

use super::ddl::{self, Loss, Named, Statement, Word};
use crate::binlog::arena::Arena;
use crate::binlog::rows::{Layout, RowsEvent};
use crate::binlog::table_map::{self, TableMap};
use crate::binlog::{self, Damage, MySqlGtid, Query, kind};
use crate::catalog::CatalogTable;
use crate::charset::Charset;
use crate::gtid::{BinlogPosition, FileOffset, GtidSet};
use crate::shape;

/// Stands for an offset beyond what the log can tell.
pub(crate) const OFFSET_UNKNOWN: u64 = u32::MAX as u64;

/// An event with what its header tells.
pub(crate) struct Frame<'a> {
    pub kind: u8,
    pub server: u32,
    pub seconds: u32,
    pub end: u64,
    pub ignorable: bool,
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
        }
    }

    /// Whether the catalog must be read again before the next event.
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// Takes a fresh catalog, the character sets by collation, and what the tables are now.
    pub fn refreshed(
        &mut self,
        found: Vec<CatalogTable>,
        charsets: Arc<HashMap<u64, Charset>>,
        mut shapes: HashMap<TableName, String>,
    ) {
        self.charsets = charsets;
        self.catalog = found.into_iter().map(|t| (t.table.name.clone(), t)).collect();
        self.catalog_version += 1;
        self.judged += 1;
        self.stale = false;
        let gone: Vec<TableName> =
            self.wanted.iter().filter(|t| !self.catalog.contains_key(*t)).cloned().collect();
        for table in gone {
            self.gone(table);
        }
        let refused: Vec<(TableName, String)> = self
            .wanted
            .iter()
            .filter_map(|t| Some((t.clone(), self.catalog.get(t)?.table.refusals.first()?.clone())))
            .collect();
        for (table, why) in refused {
            self.fault(table, &why);
        }
        for (table, touch) in std::mem::take(&mut self.touched) {
            if self.faulted.contains(&table) {
                continue;
            }
            let (Some(known), Some(now)) = (self.known.get_mut(&table), shapes.remove(&table))
            else {
                continue;
            };
            let compared = shape::change(&known.shape, &now, &known.columns);
            let replan = compared != ShapeChange::Same;
            let change = compared.or(what_became(known, &now, touch));
            known.shape = now.clone();
            // Another statement may have been about it too.
            shapes.insert(table.clone(), now);
            if change != ShapeChange::Same {
                self.changed.push(TableChanged { table, change, replan });
            }
        }
        self.tell_changes();
    }

    /// Tells between two groups what became of tables; first the place after the statements.
    fn tell_changes(&mut self) {
        if self.changed.is_empty() || self.group.is_some() {
            return;
        }
        if let Some(grew) = self.idle.take() {
            let position = self.position().to_position();
            self.chunk.push(LogEvent::Idle(Idle { position, grew }));
        }
        for changed in self.changed.drain(..) {
            self.chunk.push(LogEvent::TableChanged(changed));
        }
    }

    /// The mapped tables, for a look at them.
    pub fn mapped(&self) -> Vec<TableName> {
        self.known.keys().cloned().collect()
    }

    fn touch(&mut self, table: TableName, touch: Touch) {
        if matches!(touch, Touch::Gone | Touch::Replaced(_)) {
            self.muted.insert(table.clone());
            self.judged += 1;
        }
        self.touched.push((table, touch));
        self.stale = true;
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
            let position = self.position().to_position();
            self.chunk.push(LogEvent::Idle(Idle { position, grew }));
        }
        std::mem::take(&mut self.chunk)
    }

    fn position(&self) -> BinlogPosition {
        let at = (!self.file.is_empty())
            .then(|| FileOffset { file: self.file.clone(), offset: self.offset });
        BinlogPosition { gtids: self.gtids.clone(), at }
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
            k::QUERY => self.query(frame, false)?,
            k::MARIA_QUERY_COMPRESSED => self.query(frame, true)?,
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
            let position = self.position().to_position();
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

    fn fault(&mut self, table: TableName, why: &str) {
        let error = Error::data(Code::SchemaDrift, format!("table {table}: {why}"))
            .with_hint("mend the mapping or the table, then `tidelock resync` the mapping");
        self.give_up(table, error);
    }

    fn gone(&mut self, table: TableName) {
        let error =
            Error::data(Code::TableGone, format!("table {table}: it was dropped or renamed away"))
                .with_hint("the mapping comes back by itself when the table does");
        self.give_up(table, error);
    }

    fn give_up(&mut self, table: TableName, error: Error) {
        if self.faulted.insert(table.clone()) {
            self.judged += 1;
            self.chunk.push(LogEvent::TableFault(TableFault { table, error }));
        }
    }

    fn table_map(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        let again = |map: &Map| map.judged == self.judged && *map.bytes == *frame.data;
        if self.maps.get(&id).is_some_and(again) {
            return Ok(());
        }
        let mapped = self.judge(frame)?;
        // A table that was given up just now is judged by that from here on.
        let judged = self.judged;
        self.maps.insert(id, Map { bytes: frame.data.into(), judged, mapped });
        Ok(())
    }

    /// What a TABLE_MAP says of the rows that follow under its id.
    fn judge(&mut self, frame: &Frame<'_>) -> Result<Mapped> {
        // Nothing but the name is read of tables that nobody asked for: their columns may be of types not known here.
        let head = TableMap::head(frame.data).map_err(|d| self.damaged(frame, d))?;
        let name = TableName::new(head.schema, head.table);
        if !self.wanted.contains(&name)
            || self.faulted.contains(&name)
            || self.muted.contains(&name)
        {
            return Ok(Mapped::Other);
        }
        let map = match TableMap::decode(frame.data) {
            Ok(map) => map,
            Err(table_map::UNKNOWN_TYPE) => {
                self.fault(name, "a column is of a type that is not known (compressed?)");
                return Ok(Mapped::Other);
            }
            Err(damage) => return Err(self.damaged(frame, damage)),
        };
        let younger = |t: &CatalogTable| t.changed.is_some_and(|at| i64::from(frame.seconds) < at);
        let named = map.columns.iter().all(|c| c.name.is_some());
        if !named && self.catalog.get(&name).is_some_and(younger) {
            self.fault(
                name,
                "it was altered after these rows, and the log names no columns (binlog_row_metadata)",
            );
            return Ok(Mapped::Other);
        }
        // The same shape again under whatever id keeps its schema version.
        let same_id = TableMap { id: 0, ..map };
        let version = match self.layouts.get(&name) {
            Some((known, version, catalog))
                if *known == same_id && *catalog == self.catalog_version =>
            {
                *version
            }
            _ => {
                self.version += 1;
                self.version
            }
        };
        match Layout::new(&same_id, self.catalog.get(&name), &self.charsets, version) {
            Ok(layout) => {
                self.layouts.insert(name, (same_id, version, self.catalog_version));
                Ok(Mapped::Ours(Box::new(layout)))
            }
            Err(why) => {
                self.fault(name, &why);
                Ok(Mapped::Other)
            }
        }
    }

    fn meaning(&self, id: u64) -> Option<&Mapped> {
        self.maps.get(&id).map(|map| &map.mapped)
    }

    fn rows(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        let last = frame.data.get(6).is_some_and(|flags| flags & 1 != 0);
        match self.meaning(id) {
            None => return Err(self.damaged(frame, Damage("rows without a table map"))),
            Some(Mapped::Other) => {}
            Some(Mapped::Ours(_)) => {
                self.tell(frame)?;
                let Some(Map { mapped: Mapped::Ours(layout), .. }) = self.maps.get(&id) else {
                    return Ok(());
                };
                let (chunk, arena) = (&mut self.chunk, &mut self.arena);
                let decoded = RowsEvent::decode(frame.kind, frame.data)
                    .and_then(|e| e.changes(layout, arena, |c| chunk.push(LogEvent::Change(c))));
                if let Err(damage) = decoded {
                    let table = &layout.schema.name;
                    return Err(self.damaged(frame, damage).at(format_args!("table {table}")));
                }
            }
        }
        let standalone = self.group.as_ref().is_some_and(|g| g.standalone);
        if standalone && last && matches!(self.gtids, GtidSet::MariaDb(_)) {
            self.end(frame, frame.seconds)?;
        }
        Ok(())
    }

    /// An update that holds documents as changes of the ones before.
    fn in_parts(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        match self.meaning(id) {
            None => return Err(self.damaged(frame, Damage("rows without a table map"))),
            Some(Mapped::Other) => {}
            Some(Mapped::Ours(layout)) => {
                let table = layout.schema.name.clone();
                let error = Error::data(
                    Code::UnsupportedEvent,
                    format!(
                        "table {table}: its documents are logged in parts (binlog_row_value_options = PARTIAL_JSON)"
                    ),
                )
                .with_hint("clear binlog_row_value_options, then `tidelock resync` the mapping");
                self.give_up(table, error);
            }
        }
        Ok(())
    }

    /// Whether two names are the same one on this server (`lower_case_table_names`).
    fn same(&self, a: &str, b: &str) -> bool {
        a == b || (self.names_folded && a.to_lowercase() == b.to_lowercase())
    }

    /// Wanted tables that a statement may be about. A name behind a dot is of the schema before the dot, or a column.
    fn mentioned(&self, query: &Query, words: &[Word]) -> Vec<TableName> {
        let mentions = |table: &TableName| {
            words.iter().enumerate().any(|(i, word)| {
                let schema = match i.checked_sub(1).and_then(|i| words.get(i)) {
                    Some(before) if word.dotted => &before.text,
                    _ => &query.database,
                };
                self.same(&word.text, &table.name) && self.same(schema, &table.schema)
            })
        };
        self.wanted.iter().filter(|t| mentions(t)).cloned().collect()
    }

    /// The wanted table of exactly this name.
    fn named(&self, query: &Query, name: Named<'_>) -> Option<TableName> {
        let schema = name.schema.unwrap_or(&query.database);
        let is = |t: &&TableName| self.same(name.table, &t.name) && self.same(schema, &t.schema);
        self.wanted.iter().find(is).cloned()
    }

    fn query(&mut self, frame: &Frame<'_>, compressed: bool) -> Result<()> {
        let query = binlog::query(frame.data, compressed).map_err(|d| self.damaged(frame, d))?;
        if self.group.is_none() {
            // Dummies that stand for events this replica is not sent.
            return Ok(());
        }
        let words = ddl::words(&query.sql);
        let statement = ddl::classify(&words);
        let tables = self.mentioned(&query, &words);
        match statement {
            Statement::Begin => self.open_group(false),
            Statement::XaStart => self.open_group(true),
            Statement::Savepoint | Statement::XaEnd => {}
            Statement::Commit | Statement::XaDecide => self.end(frame, frame.seconds)?,
            Statement::Rollback => {
                if self.group.as_ref().is_some_and(|g| g.told) {
                    return Err(self.unsupported(
                        frame,
                        "a rolled back transaction with rows (a non-transactional table in it)",
                    ));
                }
                self.end(frame, frame.seconds)?;
            }
            Statement::Write => {
                if let Some(table) = tables.first() {
                    return Err(self.unsupported(
                        frame,
                        &format!("a write to table {table} logged as a statement, not as rows"),
                    ));
                }
                self.end_standalone(frame)?;
            }
            Statement::Truncate => {
                let Some(subject) = ddl::subject(&words) else {
                    return Err(self.unsupported(frame, "a TRUNCATE that names no table"));
                };
                if let Some(table) = self.named(&query, subject) {
                    self.tell(frame)?;
                    self.chunk.push(LogEvent::Truncate(Truncate { tables: vec![table] }));
                }
                self.end_standalone(frame)?;
            }
            Statement::Lossy => {
                for table in self.lost(&query, &words, tables) {
                    let touch = match ddl::loss(&words) {
                        Loss::Dropped => Touch::Gone,
                        Loss::Replaced => Touch::Replaced("it was replaced by CREATE OR REPLACE"),
                        Loss::Partition => Touch::Partition,
                        Loss::Rows(why) => Touch::Rows(why),
                    };
                    self.touch(table, touch);
                }
                self.end_standalone(frame)?;
            }
            Statement::Alter | Statement::Rename => {
                for (table, touch) in self.renamed(&query, &words) {
                    self.touch(table, touch);
                }
                self.stale |= !tables.is_empty();
                for table in tables {
                    if self.full_metadata {
                        let taken =
                            ddl::columns_taken(&words).into_iter().map(str::to_owned).collect();
                        self.touch(table, Touch::Altered(taken));
                    } else {
                        self.fault(
                            table,
                            "it was altered, and the log names no columns (binlog_row_metadata)",
                        );
                    }
                }
                self.end_standalone(frame)?;
            }
            Statement::Index => {
                for table in tables {
                    self.touch(table, Touch::Altered(Vec::new()));
                }
                self.end_standalone(frame)?;
            }
            Statement::Other => {
                self.stale |= !tables.is_empty();
                self.end_standalone(frame)?;
            }
        }
        Ok(())
    }

    /// Wanted tables that a lossy statement is about: all of a database, the one replaced, or any mentioned.
    fn lost(&self, query: &Query, words: &[Word], mentioned: Vec<TableName>) -> Vec<TableName> {
        let second = |w: &str| words.get(1).is_some_and(|x| x.text.eq_ignore_ascii_case(w));
        if second("DATABASE") || second("SCHEMA") {
            let named = |t: &&TableName| words.iter().any(|w| self.same(&w.text, &t.schema));
            return self.wanted.iter().filter(named).cloned().collect();
        }
        match ddl::subject(words) {
            Some(subject) if second("OR") => self.named(query, subject).into_iter().collect(),
            Some(_) | None => mentioned,
        }
    }

    /// Wanted tables that a renaming takes away, or gives another table's rows. An online schema changer's copy
    /// holds the same rows in other columns.
    fn renamed(&self, query: &Query, words: &[Word]) -> Vec<(TableName, Touch)> {
        let Some((from, to)) = ddl::renames(words) else { return Vec::new() };
        let mut found = Vec::new();
        for (old, new) in from.iter().zip(&to) {
            if let Some(table) = self.named(query, *new) {
                let touch = if ddl::is_shadow(old.table, &table.name) {
                    Touch::Altered(Vec::new())
                } else {
                    Touch::Replaced("another table was given its name")
                };
                found.push((table, touch));
            }
            if let Some(table) = self.named(query, *old)
                && !to.iter().any(|new| self.named(query, *new).as_ref() == Some(&table))
            {
                found.push((table, Touch::Gone));
            }
        }
        found
    }

    fn open_group(&mut self, xa: bool) {
        if let Some(group) = &mut self.group {
            group.standalone = false;
            group.xa |= xa;
        }
    }

    fn end_standalone(&mut self, frame: &Frame<'_>) -> Result<()> {
        if self.group.as_ref().is_some_and(|g| g.standalone) {
            self.end(frame, frame.seconds)?;
        }
        Ok(())
    }
}

/// What became of a table that a statement was about, by its words, now that the catalog was asked.
fn what_became(known: &Known, now: &str, touch: Touch) -> ShapeChange {
    match touch {
        // It is there: another one, by now.
        Touch::Gone => {
            ShapeChange::Replaced("it was dropped or renamed, and made again".to_owned())
        }
        Touch::Replaced(why) => ShapeChange::Replaced(why.to_owned()),
        Touch::Rows(why) => ShapeChange::Rows(why.to_owned()),
        Touch::Partition => {
            ShapeChange::Vanished("a partition was dropped or truncated".to_owned())
        }
        // A mapped column that was taken away and is there.
        Touch::Altered(taken) => {
            match taken.into_iter().find(|t| {
                known.columns.iter().any(|c| c.eq_ignore_ascii_case(t)) && shape::has(now, t)
            }) {
                Some(column) => {
                    ShapeChange::Rows(format!("column {column} was dropped and added again"))
                }
                None => ShapeChange::Same,
            }
        }
    }
}
