//! The open log: a replication stream turned into events.
//!
//! **Positions.** A transaction's position is the end of its commit record. Between transactions the
//! server's keepalives tell how far it has read its log without finding anything for us; as it sends
//! transactions in commit order and whole, everything committed before that place has been
//! delivered, so it is a position too. Inside a transaction a keepalive says nothing.
//!
//! **Shapes.** Every change is read by the relation message that preceded it on this connection,
//! never by the catalog, which may be ahead of the log. Only types that are not built in are looked
//! up there, once: a type's kind cannot change under its oid.
//!
//! **Cancel safety.** Bytes, the chunk being filled and the relation waiting for a type all live in
//! the source; a dropped `next` goes on where it was.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustls::ClientConfig;
use tidelock_core::{
    Begin, Change, Chunk, Code, Commit, Delete, Error, Idle, Insert, LogEvent, OldRow, Op,
    Position, Result, Row, Source, StreamColumn, TableName, TableSchema, TransactionId, Truncate,
    Update, Value,
};
use tokio::time::{Instant, timeout_at};

use crate::config::Address;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Cell, Fault, Message, Old, Relation, Tuple};
use crate::session::{PINNED, Session};
use crate::types::{TypeMap, value_within};
use crate::wire::{Frame, Wire};

/// Memory of a chunk that is handed over even though more is at hand.
const CHUNK_BYTES: usize = 256 * 1024;
/// A server that does not answer a keepalive for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// So many urgent questions in a second about one and the same place mean that the server wants to
/// shut down; otherwise it asks at most twice in `wal_sender_timeout`.
const PRESSED_MAX: u32 = 10;
/// Log written by others that makes a position worth keeping.
const GREW_BYTES: u64 = 1 << 20;

/// A relation on this connection.
enum Shape {
    /// A table that was asked for, or the progress table.
    Wanted { schema: Arc<TableSchema>, truncates: bool },
    /// Another table of the publication.
    Other,
}

/// What a source is opened with.
pub(crate) struct Opening {
    pub(crate) address: Address,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) tables: HashSet<TableName>,
    /// Our own tables, which are always read.
    pub(crate) own: [TableName; 2],
    pub(crate) from: Lsn,
}

/// An open replication stream.
pub(crate) struct PgSource {
    wire: Wire,
    opening: Opening,
    types: TypeMap,
    shapes: HashMap<u32, Shape>,
    versions: u64,
    unresolved: Option<Relation>,
    /// Looks the types of that up, with those that are known.
    looking: Option<tokio::task::JoinHandle<Result<TypeMap>>>,
    chunk: Chunk,
    in_transaction: bool,
    /// The transaction's beginning, until its first event is delivered: a transaction without any
    /// (of other tables; older servers send them all) is not one for us.
    unannounced: Option<Begin>,
    /// The last position delivered.
    reached: Lsn,
    /// Log that went by between transactions since that was last told.
    gap_bytes: u64,
    confirmed: Lsn,
    /// Urgent questions of the server about `reached`, and since when.
    pressed: (u32, Instant),
    /// When the oldest unanswered question was asked.
    asked: Option<Instant>,
}

impl PgSource {
    /// Takes over a connection on which the stream was started.
    pub(crate) fn new(wire: Wire, opening: Opening) -> PgSource {
        PgSource {
            wire,
            types: TypeMap::default(),
            shapes: HashMap::new(),
            versions: 0,
            unresolved: None,
            looking: None,
            chunk: Chunk::default(),
            in_transaction: false,
            unannounced: None,
            reached: opening.from,
            gap_bytes: 0,
            confirmed: opening.from,
            pressed: (0, Instant::now()),
            asked: None,
            opening,
        }
    }

    /// Works off the frames that are here, until the chunk is full or none is left.
    async fn drain(&mut self) -> Result<()> {
        loop {
            if let Some(relation) = &self.unresolved {
                let oids: Vec<u32> = relation.columns.iter().map(|c| c.type_oid).collect();
                // Whoever asks for the next chunk may turn to something else meanwhile, again and again: what is begun goes on.
                let looking = match &mut self.looking {
                    Some(looking) => looking,
                    none => {
                        let (address, tls) =
                            (self.opening.address.clone(), self.opening.tls.clone());
                        let mut types = std::mem::take(&mut self.types);
                        none.insert(tokio::spawn(async move {
                            let session = Session::open(&address, tls.as_ref(), PINNED).await?;
                            types.load(&session, &oids).await?;
                            Ok(types)
                        }))
                    }
                };
                let looked = looking.await;
                self.looking = None;
                self.types = looked
                    .map_err(|e| Error::bug(format!("looking types up ended in a panic: {e}")))??;
                if let Some(relation) = self.unresolved.take() {
                    self.shape(relation);
                }
            }
            if self.chunk.bytes >= CHUNK_BYTES {
                return Ok(());
            }
            match self.wire.frame()? {
                None => return Ok(()),
                Some(Frame::Keepalive { end, reply }) => self.kept_alive(end, reply)?,
                Some(Frame::Data(bytes)) => self.message(bytes)?,
            }
        }
    }

    fn kept_alive(&mut self, end: Lsn, reply: bool) -> Result<()> {
        if reply {
            self.wire.queue_status(self.reached.max(self.confirmed), self.confirmed, false);
            self.press()?;
        }
        if !self.in_transaction && end > self.reached {
            self.idle(end);
        }
        Ok(())
    }

    /// A server that shuts down waits until all it sent is confirmed, and asks without pause. What
    /// is not stored at the target must not be confirmed, so the way to let it go is to hang up.
    fn press(&mut self) -> Result<()> {
        let (count, since) = &mut self.pressed;
        if since.elapsed() > Duration::from_secs(1) {
            (*count, *since) = (0, Instant::now());
        }
        *count += 1;
        if *count > PRESSED_MAX {
            return Err(Error::transient(
                Code::ServerBusy,
                format!("{} is shutting down", self.wire.endpoint()),
            ));
        }
        Ok(())
    }

    /// Nothing for us up to `end`, between two transactions.
    fn idle(&mut self, end: Lsn) {
        self.gap_bytes += end.0.saturating_sub(self.reached.0);
        self.reached = self.reached.max(end);
        let position = self.reached.to_position();
        let grew = self.gap_bytes > GREW_BYTES;
        if grew {
            self.gap_bytes = 0;
        }
        if let Some(LogEvent::Idle(last)) = self.chunk.events.last_mut() {
            last.position = position;
            last.grew |= grew;
        } else {
            self.chunk.push(LogEvent::Idle(Idle { position, grew }));
        }
    }

    /// Delivers an event of the open transaction.
    fn deliver(&mut self, event: LogEvent) {
        if let Some(begin) = self.unannounced.take() {
            self.chunk.push(LogEvent::Begin(begin));
        }
        self.chunk.push(event);
    }

    fn message(&mut self, bytes: Bytes) -> Result<()> {
        match pgoutput::decode(bytes).map_err(|fault| self.undecodable(fault))? {
            Message::Begin { commit_micros, xid } => {
                self.in_transaction = true;
                let id = Some(TransactionId(u64::from(xid)));
                self.unannounced = Some(Begin { commit_micros, id });
            }
            Message::Commit { end, commit_micros } => {
                self.in_transaction = false;
                if self.unannounced.take().is_some() {
                    self.idle(end);
                } else {
                    self.reached = self.reached.max(end);
                    let position = end.to_position();
                    self.chunk.push(LogEvent::Commit(Commit { position, commit_micros }));
                }
            }
            Message::Relation(relation) => {
                let name = TableName::new(&*relation.schema, &*relation.name);
                let wanted =
                    self.opening.own.contains(&name) || self.opening.tables.contains(&name);
                if !wanted {
                    self.shapes.insert(relation.id, Shape::Other);
                } else if relation.columns.iter().any(|c| self.types.lacks(c.type_oid)) {
                    self.unresolved = Some(relation);
                } else {
                    self.shape(relation);
                }
            }
            Message::Insert { relation, new } => {
                if let Some(table) = self.wanted(relation)? {
                    let new = Row(cells(&table, &new)?.into());
                    self.change(table, Op::Insert(Insert { new }));
                }
            }
            Message::Update { relation, old, new } => {
                if let Some(table) = self.wanted(relation)? {
                    let update = update(&table, old, new)?;
                    self.change(table, Op::Update(update));
                }
            }
            Message::Delete { relation, old } => {
                if let Some(table) = self.wanted(relation)? {
                    let old = old_row(&table, Some(old))?;
                    self.change(table, Op::Delete(Delete { old }));
                }
            }
            Message::Truncate { relations } => self.truncate(&relations),
            Message::Irrelevant => {}
        }
        Ok(())
    }

    fn undecodable(&self, fault: Fault) -> Error {
        let place = self.wire.endpoint();
        match fault {
            Fault::Damaged => Error::continuity(
                Code::DamagedEvent,
                format!("the log of {place} holds a message that cannot be read"),
            )
            .with_detail(format!("after position {}", self.reached)),
            Fault::Unknown(tag) => Error::continuity(
                Code::UnsupportedEvent,
                format!(
                    "the log of {place} holds a message of unknown kind {}",
                    tag.escape_ascii()
                ),
            )
            .with_detail(format!("after position {}", self.reached)),
        }
    }

    fn shape(&mut self, relation: Relation) {
        let name = TableName::new(relation.schema, relation.name);
        let columns = relation
            .columns
            .into_iter()
            .map(|c| StreamColumn {
                data_type: self.types.data_type(c.type_oid, c.type_modifier),
                identity: c.key,
                name: c.name,
            })
            .collect();
        // The server repeats a relation whenever its cache was reset; the shape is often the same.
        if let Some(Shape::Wanted { schema, .. }) = self.shapes.get(&relation.id)
            && schema.name == name
            && schema.columns == columns
        {
            return;
        }
        self.versions += 1;
        let truncates = self.opening.tables.contains(&name);
        let schema = Arc::new(TableSchema { name, version: self.versions, columns });
        self.shapes.insert(relation.id, Shape::Wanted { schema, truncates });
    }

    fn wanted(&self, relation: u32) -> Result<Option<Arc<TableSchema>>> {
        match self.shapes.get(&relation) {
            Some(Shape::Wanted { schema, .. }) => Ok(Some(schema.clone())),
            Some(Shape::Other) => Ok(None),
            None => Err(self.undecodable(Fault::Damaged)),
        }
    }

    fn change(&mut self, table: Arc<TableSchema>, op: Op) {
        self.deliver(LogEvent::Change(Change { table, op }));
    }

    fn truncate(&mut self, relations: &[u32]) {
        let tables: Vec<TableName> = relations
            .iter()
            .filter_map(|id| match self.shapes.get(id) {
                Some(Shape::Wanted { schema, truncates: true }) => Some(schema.name.clone()),
                Some(Shape::Wanted { truncates: false, .. } | Shape::Other) | None => None,
            })
            .collect();
        if !tables.is_empty() {
            self.deliver(LogEvent::Truncate(Truncate { tables }));
        }
    }
}

/// The values of a tuple.
fn cells(table: &TableSchema, tuple: &Tuple) -> Result<Vec<Value>> {
    if tuple.len() != table.columns.len() {
        return Err(Error::continuity(
            Code::DamagedEvent,
            format!("a row of table {} has another number of cells than announced", table.name),
        ));
    }
    let mut values = Vec::with_capacity(tuple.len());
    for (cell, column) in tuple.cells().zip(&table.columns) {
        values.push(match cell {
            Cell::Null => Value::Null,
            Cell::Unchanged => Value::Unchanged,
            Cell::Text(text) => {
                value_within(&column.data_type, text, tuple.bytes()).ok_or_else(|| {
                    Error::continuity(
                        Code::DamagedEvent,
                        format!(
                            "a value of column {} of table {} is not written as its type demands",
                            column.name, table.name
                        ),
                    )
                })?
            }
        });
    }
    Ok(values)
}

fn old_row(table: &TableSchema, old: Option<Old>) -> Result<OldRow> {
    Ok(match old {
        None => OldRow::Absent,
        Some(Old::Full(tuple)) => OldRow::Full(Row(cells(table, &tuple)?.into())),
        Some(Old::Key(tuple)) => {
            let mut cells = cells(table, &tuple)?;
            // Outside the identity the server sends NULL for "not told".
            for (cell, column) in cells.iter_mut().zip(&table.columns) {
                if !column.identity {
                    *cell = Value::Unchanged;
                }
            }
            OldRow::Key(Row(cells.into()))
        }
    })
}

fn update(table: &TableSchema, old: Option<Old>, new: Tuple) -> Result<Update> {
    let old = old_row(table, old)?;
    let mut new = cells(table, &new)?;
    if let OldRow::Full(old) = &old {
        // An unchanged TOASTed value stands in the old row only.
        for (cell, before) in new.iter_mut().zip(&old.0) {
            if cell.is_unchanged() {
                *cell = before.clone();
            }
        }
    }
    Ok(Update { old, new: Row(new.into()) })
}

#[async_trait]
impl Source for PgSource {
    async fn next(&mut self) -> Result<Chunk> {
        loop {
            self.drain().await?;
            // The server flushes each message by itself: take what came meanwhile before returning.
            while self.chunk.bytes < CHUNK_BYTES && self.wire.fill_now()? {
                self.asked = None;
                self.drain().await?;
            }
            self.wire.flush().await?;
            if !self.chunk.events.is_empty() {
                return Ok(mem::take(&mut self.chunk));
            }
            match self.asked {
                None => self.wire.fill().await?,
                Some(asked) => {
                    timeout_at(asked + SILENCE_MAX, self.wire.fill()).await.map_err(|_| {
                        Error::transient(
                            Code::Unreachable,
                            format!("{} has been silent for 60 s", self.wire.endpoint()),
                        )
                    })??;
                }
            }
            self.asked = None;
        }
    }

    async fn confirm(&mut self, position: &Position) -> Result<()> {
        self.confirmed = self.confirmed.max(Lsn::of(position)?);
        self.wire.queue_status(self.reached.max(self.confirmed), self.confirmed, false);
        self.wire.flush().await
    }

    async fn keepalive(&mut self) -> Result<()> {
        self.wire.queue_status(self.reached.max(self.confirmed), self.confirmed, true);
        self.asked.get_or_insert_with(Instant::now);
        self.wire.flush().await
    }
}
