//! Pure decoder of binlog event bodies: bytes in, structures out, no I/O and no panic.
//!
//! The driver is trusted for packets and event headers only: its row decoder loses the sign of
//! MEDIUMINT and never checks the CRC. Every length is checked against what is there before anything
//! is allocated for it.

pub(crate) mod arena;
pub(crate) mod cell;
pub(crate) mod jsonb;
pub(crate) mod rows;
pub(crate) mod table_map;

use std::collections::HashMap;
use std::io::Read;

use crate::charset::Charset;

/// What a compressed event may grow to.
const EXPANDED_BYTES_MAX: usize = 1 << 30;

/// Bytes that are not what they should be; says where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage(pub &'static str);

/// The result of decoding.
pub type Decoded<T> = Result<T, Damage>;

/// Event types that are acted on; by their numbers in the protocol.
pub(crate) mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const APPEND_BLOCK: u8 = 9;
    pub const DELETE_FILE: u8 = 11;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_V1: u8 = 23;
    pub const UPDATE_V1: u8 = 24;
    pub const DELETE_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_V2: u8 = 30;
    pub const UPDATE_V2: u8 = 31;
    pub const DELETE_V2: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIA_ANNOTATE: u8 = 160;
    pub const MARIA_CHECKPOINT: u8 = 161;
    pub const MARIA_GTID: u8 = 162;
    pub const MARIA_GTID_LIST: u8 = 163;
    pub const MARIA_START_ENCRYPTION: u8 = 164;
    pub const MARIA_QUERY_COMPRESSED: u8 = 165;
    pub const MARIA_WRITE_COMPRESSED_V1: u8 = 166;
    pub const MARIA_UPDATE_COMPRESSED_V1: u8 = 167;
    pub const MARIA_DELETE_COMPRESSED_V1: u8 = 168;
    pub const MARIA_WRITE_COMPRESSED: u8 = 169;
    pub const MARIA_UPDATE_COMPRESSED: u8 = 170;
    pub const MARIA_DELETE_COMPRESSED: u8 = 171;
}

/// A cursor that never reads past its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buf<'a>(pub &'a [u8]);

impl<'a> Buf<'a> {
    pub fn take(&mut self, n: usize) -> Decoded<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Damage("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        self.take(1)?.first().copied().ok_or(Damage("it ends too early"))
    }

    /// Little-endian unsigned of up to eight bytes.
    pub fn le(&mut self, n: usize) -> Decoded<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    /// Big-endian unsigned of up to eight bytes.
    pub fn be(&mut self, n: usize) -> Decoded<u64> {
        Ok(self.take(n)?.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    /// A length-encoded integer.
    pub fn lenenc(&mut self) -> Decoded<u64> {
        match self.u8()? {
            n @ 0..=250 => Ok(u64::from(n)),
            252 => self.le(2),
            253 => self.le(3),
            254 => self.le(8),
            _ => Err(Damage("a length is none")),
        }
    }

    /// A length-encoded integer as a size.
    pub fn len(&mut self) -> Decoded<usize> {
        usize::try_from(self.lenenc()?).map_err(|_| Damage("a length is too large"))
    }

    /// Bytes preceded by their length.
    pub fn lenenc_bytes(&mut self) -> Decoded<&'a [u8]> {
        let n = self.len()?;
        self.take(n)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// UTF-8 text of an identifier or statement; what is not UTF-8 is replaced, as these are compared
/// with names only.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The next file, by a ROTATE event.
pub(crate) fn rotate(data: &[u8]) -> Decoded<(String, u64)> {
    let mut buf = Buf(data);
    let offset = buf.le(8)?;
    Ok((text(buf.0), offset))
}

/// A MariaDB GTID event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MariaGtid {
    pub seq: u64,
    pub domain: u32,
    pub flags: u8,
}

impl MariaGtid {
    /// A group of a single event, without XID at its end.
    pub fn standalone(self) -> bool {
        self.flags & 1 != 0
    }

    /// Rows of an XA transaction that is not decided yet.
    pub fn xa_prepare(self) -> bool {
        self.flags & 64 != 0
    }
}

pub(crate) fn maria_gtid(data: &[u8]) -> Decoded<MariaGtid> {
    let mut buf = Buf(data);
    let seq = buf.le(8)?;
    let domain = buf.le(4)? as u32;
    Ok(MariaGtid { seq, domain, flags: buf.u8()? })
}

/// A MySQL GTID event: whose, which, and when it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MySqlGtid {
    pub uuid: String,
    pub tag: String,
    pub gno: u64,
    pub commit_micros: Option<i64>,
}

/// 16 bytes as a UUID's text.
pub(crate) fn uuid_text(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(36);
    for (i, b) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{b:02x}"));
    }
    out
}

pub(crate) fn mysql_gtid(data: &[u8]) -> Decoded<MySqlGtid> {
    let mut buf = Buf(data);
    buf.u8()?;
    let uuid = uuid_text(buf.take(16)?);
    let gno = buf.le(8)?;
    // Logical clock (type 2, two numbers), then the time of commit on this server.
    let commit_micros = match buf.u8() {
        Ok(2) => {
            buf.take(16)?;
            buf.le(7).ok().map(|v| (v & ((1 << 55) - 1)) as i64)
        }
        _ => None,
    };
    Ok(MySqlGtid { uuid, tag: String::new(), gno, commit_micros })
}

/// Whether a FORMAT_DESCRIPTION begins the first file of a server that has just started: the others tell no time.
pub(crate) fn starts_server(data: &[u8]) -> bool {
    let mut buf = Buf(data);
    buf.take(2 + 50).is_ok() && buf.le(4).is_ok_and(|created| created != 0)
}

/// A QUERY event: default database and statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// The connection that it came from, whose temporary tables are its own.
    pub thread: u32,
    pub database: String,
    /// The statement as the client sent it.
    bytes: Vec<u8>,
    /// A collation of the client's character set.
    client: Option<u64>,
    /// The session's `sql_mode`, which says what a quotation mark is.
    pub mode: Option<u64>,
}

impl Query {
    /// The statement. What the server words itself is in the client's set too, or UTF-8.
    pub fn text(&self, charsets: &HashMap<u64, Charset>) -> String {
        let own = self.bytes.ends_with(b"/* generated by server */")
            && std::str::from_utf8(&self.bytes).is_ok();
        let charset = self.client.and_then(|id| charsets.get(&id)).filter(|_| !own);
        let decoded = charset.and_then(|charset| charset.decode(&self.bytes));
        decoded.map_or_else(|| text(&self.bytes), |decoded| decoded.to_string())
    }
}

/// The client's collation and the `sql_mode`, from what stands before a statement. They stand near its beginning.
fn status(data: &[u8]) -> (Option<u64>, Option<u64>) {
    let (mut buf, mut mode) = (Buf(data), None);
    while let Ok(code) = buf.u8() {
        let length = match code {
            1 => {
                mode = buf.le(8).ok();
                continue;
            }
            4 => return (buf.le(2).ok(), mode),
            0 | 3 | 10 => Ok(4),
            2 => buf.u8().map(|length| usize::from(length) + 1),
            5 | 6 => buf.u8().map(usize::from),
            7 | 8 => Ok(2),
            9 => Ok(8),
            _ => break,
        };
        if length.and_then(|length| buf.take(length)).is_err() {
            break;
        }
    }
    (None, mode)
}

pub(crate) fn query(data: &[u8], compressed: bool) -> Decoded<Query> {
    Ok(query_behind(data, 0, compressed)?.0)
}

/// The statement of a `LOAD DATA` whose file is in the log: between head and status stand the file's number, where in the statement its name
/// is, and what becomes of duplicates. That part (` LOCAL INFILE 'name' REPLACE INTO`) is left out: the server escapes the name's quotation marks
/// by backslashes whatever the `sql_mode` says, and what a replica makes of it does not depend on it either.
pub(crate) fn load_query(data: &[u8]) -> Decoded<Query> {
    let (mut query, mut between) = query_behind(data, 4 + 4 + 4 + 1, false)?;
    between.take(4)?;
    let (from, to) = (between.le(4)? as usize, between.le(4)? as usize);
    if from > to || to > query.bytes.len() {
        return Err(Damage("the name of its file is not in it"));
    }
    query.bytes.drain(from..to);
    Ok(query)
}

/// A statement, and as many bytes as stand between head and status.
fn query_behind(data: &[u8], between: usize, compressed: bool) -> Decoded<(Query, Buf<'_>)> {
    let mut buf = Buf(data);
    let thread = buf.le(4)? as u32;
    buf.take(4)?;
    let database_len = usize::from(buf.u8()?);
    buf.take(2)?;
    let length = buf.le(2)? as usize;
    let between = Buf(buf.take(between)?);
    let (client, mode) = status(buf.take(length)?);
    let database = text(buf.take(database_len)?);
    buf.u8()?;
    let bytes = if compressed { inflate(buf.0)? } else { buf.0.to_vec() };
    Ok((Query { thread, database, bytes, client, mode }, between))
}

/// Expands what MariaDB compresses: algorithm and length size, raw length, zlib stream.
pub(crate) fn inflate(data: &[u8]) -> Decoded<Vec<u8>> {
    let mut buf = Buf(data);
    let head = buf.u8()?;
    if head & 0x70 != 0 {
        return Err(Damage("it is compressed in an unknown way"));
    }
    let size_len = usize::from(head & 7);
    if !(1..=4).contains(&size_len) {
        return Err(Damage("its compressed length is none"));
    }
    let size = buf.be(size_len)? as usize;
    if size > EXPANDED_BYTES_MAX {
        return Err(Damage("it would expand beyond 1 GiB"));
    }
    let mut out = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(buf.0).take(size as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|_| Damage("its compressed data is broken"))?;
    if out.len() != size {
        return Err(Damage("its compressed data has another length than it says"));
    }
    Ok(out)
}

/// Checks the frame of a MySQL TRANSACTION_PAYLOAD event, which the driver expands; a frame that the
/// driver would silently skip is an error here.
pub(crate) fn payload(data: &[u8]) -> Decoded<u64> {
    let mut buf = Buf(data);
    let (mut size, mut algorithm, mut expanded) = (None, None, None);
    loop {
        let field = buf.lenenc()?;
        if field == 0 {
            break;
        }
        let mut value = Buf(buf.lenenc_bytes()?);
        match field {
            1 => size = Some(value.len()?),
            2 => algorithm = Some(value.lenenc()?),
            3 => expanded = Some(value.lenenc()?),
            _ => {}
        }
    }
    match algorithm {
        Some(0 | 255) => {}
        _ => return Err(Damage("its payload is compressed in an unknown way")),
    }
    if size != Some(buf.0.len()) {
        return Err(Damage("its payload has another length than it says"));
    }
    let expanded = expanded.unwrap_or(buf.0.len() as u64);
    if expanded > EXPANDED_BYTES_MAX as u64 {
        return Err(Damage("its payload would expand beyond 1 GiB"));
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = rotate(&data);
            let _ = maria_gtid(&data);
            let _ = mysql_gtid(&data);
            let _ = query(&data, false);
            let _ = query(&data, true);
            let _ = load_query(&data);
            let _ = starts_server(&data);
            let _ = inflate(&data);
            let _ = payload(&data);
            let _ = jsonb::text(&data);
            let _ = table_map::TableMap::decode(&data);
            for kind in [kind::WRITE_V1, kind::UPDATE_V2, kind::MARIA_DELETE_COMPRESSED_V1] {
                let _ = rows::RowsEvent::decode(kind, &data);
            }
        }
    }
}
