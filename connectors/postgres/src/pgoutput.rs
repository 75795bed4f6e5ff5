//! The messages of the `pgoutput` plugin, protocol version 1.
//!
//! A pure decoder: bytes in, one message out, no state. It is total: any bytes give a message or
//! [`Fault`], never a panic, and no length in the bytes is trusted before as many bytes are there.
//! Version 1 hands over whole transactions after their commit, so only the first message of each
//! carries a transaction id, and none is ever taken back.
//!
//! The cells of a row are looked over once, so that their lengths are known to be right, and not copied,
//! counted up or given a place each: what nobody asked for costs no more than that.

use bytes::{Buf, Bytes};

use crate::lsn::Lsn;
use crate::wire::EPOCH_2000_MICROS;

/// One cell of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the change did not touch.
    Unchanged,
    /// The value's text.
    Text(&'a [u8]),
}

/// The cells of a row, as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tuple {
    count: usize,
    bytes: Bytes,
}

impl Tuple {
    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The bytes that all cells are parts of.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The cells, in order.
    pub(crate) fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        let mut rest = &*self.bytes;
        std::iter::from_fn(move || {
            let (cell, behind) = cell(rest).ok()?;
            rest = behind;
            Some(cell)
        })
    }
}

/// The first cell of these bytes, and what is behind it.
fn cell(bytes: &[u8]) -> Result<(Cell<'_>, &[u8]), Fault> {
    match bytes.split_first() {
        Some((b'n', rest)) => Ok((Cell::Null, rest)),
        Some((b'u', rest)) => Ok((Cell::Unchanged, rest)),
        Some((b't', rest)) => {
            let (length, rest) = rest.split_first_chunk().ok_or(Fault::Damaged)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (text, rest) = rest.split_at_checked(length).ok_or(Fault::Damaged)?;
            Ok((Cell::Text(text), rest))
        }
        Some(_) | None => Err(Fault::Damaged),
    }
}

/// What is told of the row before a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Old {
    /// The replica identity's columns; the others stand as NULL.
    Key(Tuple),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple),
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// The shape of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A transaction starts.
    Begin { commit_micros: i64, xid: u32 },
    /// A transaction is complete; the log goes on at `end`.
    Commit { end: Lsn, commit_micros: i64 },
    /// A table's shape, sent before its first change and after it changed.
    Relation(Relation),
    /// A row came to be.
    Insert { relation: u32, new: Tuple },
    /// A row was changed.
    Update { relation: u32, old: Option<Old>, new: Tuple },
    /// A row went away.
    Delete { relation: u32, old: Old },
    /// Tables were emptied.
    Truncate { relations: Vec<u32> },
    /// Known, and without meaning for us: origin, type, logical message, a stray stream abort (which
    /// PostgreSQL 18 sends for subtransactions of which nothing was sent).
    Irrelevant,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end too early, go on too long or hold something impossible.
    Damaged,
    /// A kind of message this version does not know.
    Unknown(u8),
}

/// Reads one message.
pub(crate) fn decode(bytes: Bytes) -> Result<Message, Fault> {
    let mut input = Input(bytes);
    let message = match input.u8()? {
        b'B' => {
            input.u64()?;
            let commit_micros = input.micros()?;
            Message::Begin { commit_micros, xid: input.u32()? }
        }
        b'C' => {
            input.u8()?;
            input.u64()?;
            Message::Commit { end: Lsn(input.u64()?), commit_micros: input.micros()? }
        }
        b'R' => Message::Relation(input.relation()?),
        b'I' => {
            let relation = input.u32()?;
            match input.u8()? {
                b'N' => Message::Insert { relation, new: input.tuple()? },
                _ => return Err(Fault::Damaged),
            }
        }
        b'U' => input.update()?,
        b'D' => {
            let relation = input.u32()?;
            let tag = input.u8()?;
            Message::Delete { relation, old: input.old(tag)? }
        }
        b'T' => input.truncate()?,
        b'O' | b'Y' | b'M' | b'A' => return Ok(Message::Irrelevant),
        other => return Err(Fault::Unknown(other)),
    };
    if input.0.has_remaining() { Err(Fault::Damaged) } else { Ok(message) }
}

struct Input(Bytes);

impl Input {
    fn u8(&mut self) -> Result<u8, Fault> {
        self.0.try_get_u8().map_err(|_| Fault::Damaged)
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.0.try_get_u16().map_err(|_| Fault::Damaged)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.0.try_get_u32().map_err(|_| Fault::Damaged)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.0.try_get_u64().map_err(|_| Fault::Damaged)
    }

    /// A time of the server, as microseconds since 1970.
    fn micros(&mut self) -> Result<i64, Fault> {
        let since_2000 = self.0.try_get_i64().map_err(|_| Fault::Damaged)?;
        Ok(since_2000.saturating_add(EPOCH_2000_MICROS))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Fault> {
        if self.0.remaining() < length { Err(Fault::Damaged) } else { Ok(self.0.split_to(length)) }
    }

    fn text(&mut self) -> Result<String, Fault> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(Fault::Damaged)?;
        let text = self.take(end)?;
        self.0.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| Fault::Damaged)
    }

    fn relation(&mut self) -> Result<Relation, Fault> {
        let id = self.u32()?;
        let schema = self.text()?;
        let name = self.text()?;
        let identity = self.u8()?;
        let count = self.u16()?;
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(RelationColumn {
                key: self.u8()? & 1 == 1,
                name: self.text()?,
                type_oid: self.u32()?,
                type_modifier: self.0.try_get_i32().map_err(|_| Fault::Damaged)?,
            });
        }
        // An empty schema stands for pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        Ok(Relation { id, schema, name, identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple, Fault> {
        let count = usize::from(self.u16()?);
        let mut rest = &*self.0;
        for _ in 0..count {
            rest = cell(rest)?.1;
        }
        let length = self.0.len() - rest.len();
        Ok(Tuple { count, bytes: self.0.split_to(length) })
    }

    fn old(&mut self, tag: u8) -> Result<Old, Fault> {
        match tag {
            b'K' => Ok(Old::Key(self.tuple()?)),
            b'O' => Ok(Old::Full(self.tuple()?)),
            _ => Err(Fault::Damaged),
        }
    }

    fn update(&mut self) -> Result<Message, Fault> {
        let relation = self.u32()?;
        let mut tag = self.u8()?;
        let mut old = None;
        if tag != b'N' {
            old = Some(self.old(tag)?);
            tag = self.u8()?;
        }
        if tag != b'N' {
            return Err(Fault::Damaged);
        }
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message, Fault> {
        let count = self.u32()? as usize;
        self.u8()?;
        if self.0.remaining() != count.checked_mul(4).ok_or(Fault::Damaged)? {
            return Err(Fault::Damaged);
        }
        let relations = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
        Ok(Message::Truncate { relations })
    }
}

#[cfg(test)]
#[path = "pgoutput/tests.rs"]
mod tests;
