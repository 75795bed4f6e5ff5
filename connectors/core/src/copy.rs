//! The contract of copying: reading a table in pieces while its log is being followed.
//!
//! **How a piece joins the log.** A piece is the rows of one key range as one snapshot of the source
//! shows them. The engine stands at a position A of the log when it decides to read the piece, and from
//! then on keeps every change of that range which the log delivers. The snapshot must show everything
//! up to A ([`Copier::snapshot`] says so or asks to try again), and it names a position B that covers
//! all it shows. When the log has been followed up to B, the kept changes are laid over the rows in
//! memory, in log order. What the snapshot already showed is then laid over itself, which changes
//! nothing in the end: the last word on each row is either the snapshot's or a later change's. So the
//! result is exactly the range as it is at the place of the log where the engine stands, and it is
//! written there, in the flow's own guarded transaction.
//!
//! **Visible later than logged.** With a synchronous standby or semi-synchronous replication a server
//! may log a change, and we may have applied it, long before its own queries see it. That is why the
//! snapshot is asked about what was delivered, and not the log about its end.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::change::Row;
use crate::error::Result;
use crate::position::Position;
use crate::schema::{DataType, TableName, TableSchema};
use crate::track::TrackQuery;
use crate::value::{Date, Instant, Interval, Time, Timestamp, Value};

/// A transaction's number at its source, without meaning beyond that server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub u64);

/// A key's values, in the order of the key's columns.
pub type Key = Box<[Value]>;

/// A table to be read in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTable {
    /// The table.
    pub name: TableName,
    /// The columns to read; the key's are among them.
    pub columns: Vec<String>,
    /// The columns of a unique index without NULL, by which pieces are cut.
    pub key: Vec<String>,
    /// A condition in the server's own SQL that rows must meet.
    pub filter: Option<String>,
}

/// The keys above `after`, up to and with `upto`, in the order in which the database itself keeps
/// them; `None` is an open end.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRange {
    /// Above this key.
    pub after: Option<Key>,
    /// Up to and with this key.
    pub upto: Option<Key>,
}

/// The rows of a range in one snapshot: each is either in `rows` or in `lines`.
#[derive(Debug)]
pub struct Piece {
    /// The shape of the rows: the columns asked for, in that order.
    pub table: Arc<TableSchema>,
    /// The rows in key order.
    pub rows: Vec<Row>,
    /// The rows that are left in the source's own text.
    pub lines: Option<Lines>,
    /// Memory that the rows take, about.
    pub bytes: usize,
    /// Set if the rows would have taken more memory than allowed: the piece ends at the last row.
    pub cut: bool,
}

impl Piece {
    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.rows.len() + self.lines.as_ref().map_or(0, |lines| lines.count)
    }
}

/// Rows as lines of text that the source itself wrote, for a target of the same family to take as
/// they are. Each line ends with a newline and holds no other.
#[derive(Clone)]
pub struct Lines {
    /// The text, cut between lines.
    pub text: Vec<Bytes>,
    /// How many lines there are.
    pub count: usize,
    /// What can read them.
    pub reader: Arc<dyn LineReader>,
}

/// Reads lines that its own connector made.
pub trait LineReader: Send + Sync {
    /// The key of a row.
    fn key(&self, line: &Bytes) -> Result<Key>;

    /// The whole row.
    fn row(&self, line: &Bytes) -> Result<Row>;
}

impl Lines {
    /// Each line, with its newline.
    pub fn each(&self) -> impl Iterator<Item = Bytes> {
        self.text.iter().flat_map(|text| {
            text.split_inclusive(|byte| *byte == b'\n').map(|line| text.slice_ref(line))
        })
    }

    /// The rows as values.
    pub fn rows(&self) -> Result<Vec<Row>> {
        self.each().map(|line| self.reader.row(&line)).collect()
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No row's values.
        f.debug_struct("Lines").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A connection that reads tables of a system.
///
/// One task calls it, one call at a time. After an error it is dropped. `snapshot` opens a snapshot
/// that `read`, `present`, `read_keys` and `track_keys` then look at, until the next `snapshot`; the other
/// calls look at what is there now.
#[async_trait]
pub trait Copier: Send {
    /// Waits until every transaction that was running when it was called has ended, where snapshots
    /// could otherwise miss what an earlier process of ours has applied already. `notice` is called
    /// with the reason if it takes long.
    async fn settle(&mut self, notice: &(dyn Fn(String) + Send + Sync)) -> Result<()>;

    /// About how many rows the table has.
    async fn estimate(&mut self, table: &CopyTable) -> Result<u64>;

    /// The key of the `rows`-th row above `after`; `None` if there are not that many.
    async fn bound(
        &mut self,
        table: &CopyTable,
        after: Option<&Key>,
        rows: usize,
    ) -> Result<Option<Key>>;

    /// Opens a snapshot. Answers the position that covers everything it shows, or `None` if it does
    /// not show all that was committed up to `reached`, the transactions `delivered` among it.
    async fn snapshot(
        &mut self,
        reached: &Position,
        delivered: &[TransactionId],
    ) -> Result<Option<Position>>;

    /// Closes the snapshot. While one is open, its locks keep `ALTER` and `DROP` of what it has read waiting, and
    /// the server keeps every row that has been replaced since: who does not read on soon closes it.
    async fn close_snapshot(&mut self) -> Result<()>;

    /// The rows of a range in the open snapshot, at most about `bytes_max` of memory.
    async fn read(
        &mut self,
        table: &CopyTable,
        range: &KeyRange,
        bytes_max: usize,
    ) -> Result<Piece>;

    /// Like `read`, with the rows left as [`Lines`] where the connector can do that: asked for only
    /// where a target of the same family has the same columns with the same types.
    async fn read_lines(
        &mut self,
        table: &CopyTable,
        range: &KeyRange,
        bytes_max: usize,
    ) -> Result<Piece> {
        self.read(table, range, bytes_max).await
    }

    /// Which of these keys the open snapshot has a row for. Keys are over `table.key`.
    async fn present(&mut self, table: &CopyTable, keys: &[Key]) -> Result<Vec<bool>>;

    /// The rows whose columns `by` are equal to one of these keys, in no order: none, one or (a group) many for
    /// a key, and each row once whatever the keys. Equal is what the columns' own `=` and collations hold
    /// equal, after a value was brought into the column's type ([`mod@crate::alike`]); NULL never is. Looks
    /// at the open snapshot. At most about `bytes_max` of memory: if there was more, the answer is `cut`
    /// and lacks rows of any key, and the snapshot is closed; open another and ask for fewer keys.
    /// A table or column that is gone, or a missing right, is [`crate::ErrorKind::Data`].
    async fn read_keys(
        &mut self,
        table: &CopyTable,
        by: &[String],
        keys: &[Key],
        bytes_max: usize,
    ) -> Result<Piece>;

    /// The keys that a track's query gives in the open snapshot, each once, those with a NULL left out.
    /// `values` has, for each parameter, the values of that column among the changed rows, old and new: NULLs
    /// are left out of them, and an empty list matches nothing.
    async fn track_keys(
        &mut self,
        query: &TrackQuery,
        values: &[(String, DataType, Vec<Value>)],
    ) -> Result<Vec<Key>>;

    /// Whether `key` is not above `bound`, in the database's own order.
    async fn up_to(&mut self, table: &CopyTable, key: &Key, bound: &Key) -> Result<bool>;
}

/// The order of two keys by their values; `None` where only the database can tell.
pub fn key_order(a: &[Value], b: &[Value]) -> Option<Ordering> {
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::UInt(a), Value::UInt(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Date(a), Value::Date(b)) => a.cmp(b),
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
            (Value::Instant(a), Value::Instant(b)) => a.cmp(b),
            (Value::Uuid(a), Value::Uuid(b)) => a.cmp(b),
            _ => return None,
        };
        if order != Ordering::Equal {
            return Some(order);
        }
    }
    (a.len() == b.len()).then_some(Ordering::Equal)
}

/// Why a table is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyReason {
    /// The first copy.
    Initial,
    /// A person asked for rows to be read again.
    Backfill,
    /// Log was lost, or the mapping had stopped: compare and patch, deletes included.
    Resync,
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyPhase {
    /// The stream of this mapping waits until the copy of the other direction has ended.
    Held,
    /// Rows are being read.
    Rows,
    /// Rows that the source no longer has are being looked for at the target.
    Sweep,
    /// It has ended.
    Done,
    /// The configuration does not have the mapping any more; what it brought is still at the target.
    Left,
}

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word kept in the table.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }

            /// The meaning of such a word.
            pub fn parse(word: &str) -> Option<$type> {
                match word { $($word => Some($type::$variant),)+ _ => None }
            }
        }
    };
}

words!(CopyReason { Initial = "initial", Backfill = "backfill", Resync = "resync" });
words!(CopyPhase { Held = "held", Rows = "rows", Sweep = "sweep", Done = "done", Left = "left" });

/// A row of `<meta_schema>.snapshot` at the target: how far the copy of one mapping has come. It is
/// written in the same transaction as the rows it tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyRow {
    /// The pipeline's name.
    pub pipeline: String,
    /// The flow's name.
    pub flow: String,
    /// The mapping's name.
    pub mapping: String,
    /// Why it is copied.
    pub reason: CopyReason,
    /// How far it has come.
    pub phase: CopyPhase,
    /// Whether rows that only the target has are removed at the end.
    pub sweep: bool,
    /// How far it has come, as [`Part`]s (rows) or a [`Cursor`] (sweep); empty at the beginning of a phase.
    pub cursor: String,
    /// The condition that rows must meet; empty for all.
    pub filter: String,
    /// Which columns were mapped, in the engine's own notation; empty if that is not known.
    pub columns: String,
    /// Rows copied.
    pub rows_done: u64,
    /// Rows there are, about.
    pub rows_total: u64,
    /// When it began, microseconds since 1970 on tidelock's clock.
    pub started_micros: i64,
    /// When it ended; 0 if it has not.
    pub finished_micros: i64,
}

/// A key with the names of its columns, in a text that a table can hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    columns: Vec<String>,
    values: Vec<Kept>,
}

/// A value in the notation of [`Cursor`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kept {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Decimal(String),
    Float32(u32),
    Float64(u64),
    Text(String),
    Bytes(String),
    Date(i32),
    Time(i64),
    Timestamp(i64),
    Instant(i64),
    Interval(i32, i32, i64),
    Uuid(String),
    Json(String),
    Enum(String),
    Foreign(String),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

impl Kept {
    fn of(value: &Value) -> Option<Kept> {
        Some(match value {
            Value::Null | Value::Unchanged => return None,
            Value::Bool(b) => Kept::Bool(*b),
            Value::Int(i) => Kept::Int(*i),
            Value::UInt(u) => Kept::UInt(*u),
            Value::Decimal(t) => Kept::Decimal(t.to_string()),
            Value::Float32(f) => Kept::Float32(f.to_bits()),
            Value::Float64(f) => Kept::Float64(f.to_bits()),
            Value::Text(t) => Kept::Text(t.to_string()),
            Value::Bytes(b) => Kept::Bytes(hex(b)),
            Value::Date(d) => Kept::Date(d.0),
            Value::Time(t) => Kept::Time(t.0),
            Value::Timestamp(t) => Kept::Timestamp(t.0),
            Value::Instant(t) => Kept::Instant(t.0),
            Value::Interval(i) => Kept::Interval(i.months, i.days, i.micros),
            Value::Uuid(u) => Kept::Uuid(hex(u)),
            Value::Json(t) => Kept::Json(t.to_string()),
            Value::Enum(t) => Kept::Enum(t.to_string()),
            Value::Foreign(t) => Kept::Foreign(t.to_string()),
        })
    }

    fn value(self) -> Option<Value> {
        Some(match self {
            Kept::Bool(b) => Value::Bool(b),
            Kept::Int(i) => Value::Int(i),
            Kept::UInt(u) => Value::UInt(u),
            Kept::Decimal(t) => Value::Decimal(t.into()),
            Kept::Float32(bits) => Value::Float32(f32::from_bits(bits)),
            Kept::Float64(bits) => Value::Float64(f64::from_bits(bits)),
            Kept::Text(t) => Value::Text(t.into()),
            Kept::Bytes(t) => Value::Bytes(unhex(&t)?.into()),
            Kept::Date(d) => Value::Date(Date(d)),
            Kept::Time(t) => Value::Time(Time(t)),
            Kept::Timestamp(t) => Value::Timestamp(Timestamp(t)),
            Kept::Instant(t) => Value::Instant(Instant(t)),
            Kept::Interval(months, days, micros) => {
                Value::Interval(Interval { months, days, micros })
            }
            Kept::Uuid(t) => Value::Uuid(unhex(&t)?.try_into().ok()?),
            Kept::Json(t) => Value::Json(t.into()),
            Kept::Enum(t) => Value::Enum(t.into()),
            Kept::Foreign(t) => Value::Foreign(t.into()),
        })
    }
}

impl Cursor {
    /// The cursor of a key; `None` if a cell is NULL or missing, which no key has.
    pub fn new(columns: &[String], key: &[Value]) -> Option<Cursor> {
        let values = key.iter().map(Kept::of).collect::<Option<Vec<_>>>()?;
        (values.len() == columns.len()).then(|| Cursor { columns: columns.to_vec(), values })
    }

    /// The text.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The columns and the key of such a text.
    pub fn parse(text: &str) -> Option<(Vec<String>, Key)> {
        let cursor: Cursor = serde_json::from_str(text).ok()?;
        let key: Key = cursor.values.into_iter().map(Kept::value).collect::<Option<_>>()?;
        (key.len() == cursor.columns.len()).then_some((cursor.columns, key))
    }

    /// The key of such a text, if it is over these columns.
    pub fn decode(text: &str, columns: &[String]) -> Option<Key> {
        let (names, key) = Cursor::parse(text)?;
        (names == columns).then_some(key)
    }
}

/// How far a range of keys is copied.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    /// No key of it.
    Nothing,
    /// Up to and with this key.
    UpTo(Key),
    /// Every key of it.
    All,
}

/// A range of a table's keys that is copied by itself: those above the part before, up to and with `upto`.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its last key; `None` is an open end.
    pub upto: Option<Key>,
    /// How far it is copied.
    pub reach: Reach,
}

/// Parts in a text that a table can hold.
#[derive(Debug, Serialize, Deserialize)]
struct KeptParts {
    columns: Vec<String>,
    parts: Vec<KeptPart>,
}

/// A part in that text: `at` is its cursor, `all` says that every key of it is copied.
#[derive(Debug, Serialize, Deserialize)]
struct KeptPart {
    upto: Option<Vec<Kept>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Vec<Kept>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    all: bool,
}

impl Part {
    /// The whole of a table, of which nothing is copied.
    pub fn whole() -> Part {
        Part { upto: None, reach: Reach::Nothing }
    }

    /// The text of a table of which every key is copied.
    pub fn all(columns: &[String]) -> String {
        let all = KeptPart { upto: None, at: None, all: true };
        let kept = KeptParts { columns: columns.to_vec(), parts: vec![all] };
        serde_json::to_string(&kept).unwrap_or_default()
    }

    /// The text of parts in the order of their keys; `None` if a key holds NULL. A single part is written as its
    /// [`Cursor`], and parts side by side that are all copied as one.
    pub fn encode(columns: &[String], parts: &[Part]) -> Option<String> {
        if let [Part { upto: None, reach }] = parts {
            return match reach {
                Reach::Nothing => Some(String::new()),
                Reach::UpTo(key) => Some(Cursor::new(columns, key)?.encode()),
                Reach::All => None,
            };
        }
        let keep = |key: &Key| {
            let values = key.iter().map(Kept::of).collect::<Option<Vec<_>>>()?;
            (values.len() == columns.len()).then_some(values)
        };
        let mut kept = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            let next = parts.get(i + 1).map(|next| &next.reach);
            if part.reach == Reach::All && next == Some(&Reach::All) {
                continue;
            }
            let upto = match &part.upto {
                Some(key) => Some(keep(key)?),
                None => None,
            };
            let at = match &part.reach {
                Reach::UpTo(key) => Some(keep(key)?),
                Reach::Nothing | Reach::All => None,
            };
            kept.push(KeptPart { upto, at, all: part.reach == Reach::All });
        }
        serde_json::to_string(&KeptParts { columns: columns.to_vec(), parts: kept }).ok()
    }

    /// The columns and the parts of such a text.
    pub fn parse(text: &str) -> Option<(Vec<String>, Vec<Part>)> {
        if let Some((columns, key)) = Cursor::parse(text) {
            return Some((columns, vec![Part { upto: None, reach: Reach::UpTo(key) }]));
        }
        let KeptParts { columns, parts } = serde_json::from_str(text).ok()?;
        let width = columns.len();
        let key = |kept: Vec<Kept>| -> Option<Key> {
            let key: Key = kept.into_iter().map(Kept::value).collect::<Option<_>>()?;
            (key.len() == width).then_some(key)
        };
        let parts = parts
            .into_iter()
            .map(|KeptPart { upto, at, all }| {
                let upto = match upto {
                    Some(kept) => Some(key(kept)?),
                    None => None,
                };
                let reach = match at {
                    _ if all => Reach::All,
                    Some(kept) => Reach::UpTo(key(kept)?),
                    None => Reach::Nothing,
                };
                Some(Part { upto, reach })
            })
            .collect::<Option<Vec<_>>>()?;
        // Only the last has no end.
        let (last, before) = parts.split_last()?;
        let sound = last.upto.is_none() && before.iter().all(|part| part.upto.is_some());
        sound.then_some((columns, parts))
    }

    /// The parts of such a text, if it is over these columns.
    pub fn decode(text: &str, columns: &[String]) -> Option<Vec<Part>> {
        let (names, parts) = Part::parse(text)?;
        (names == columns).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were_and_one_part_is_a_plain_cursor() {
        let columns = ["id".to_owned(), "at".to_owned()];
        let key = |n: i64| -> Key { [Value::Int(n), Value::Text("x".into())].into() };
        let one = |reach| vec![Part { upto: None, reach }];
        let text = Part::encode(&columns, &one(Reach::UpTo(key(7)))).expect("text");
        assert_eq!(Some(text.clone()), Cursor::new(&columns, &key(7)).map(|c| c.encode()));
        assert_eq!(Part::decode(&text, &columns), Some(one(Reach::UpTo(key(7)))));
        assert_eq!(Part::encode(&columns, &one(Reach::Nothing)), Some(String::new()));
        assert_eq!(Part::decode("", &columns), None);
        assert_eq!(Part::decode(&Part::all(&columns), &columns), Some(one(Reach::All)));
        let part = |upto: Option<i64>, reach| Part { upto: upto.map(key), reach };
        let several = vec![
            part(Some(10), Reach::All),
            part(Some(20), Reach::All),
            part(Some(30), Reach::UpTo(key(25))),
            part(Some(40), Reach::All),
            part(None, Reach::Nothing),
        ];
        let text = Part::encode(&columns, &several).expect("text");
        // What lies side by side and is copied has become one.
        assert_eq!(Part::decode(&text, &columns).as_deref(), several.get(1..));
        assert_eq!(Part::decode(&text, &["other".to_owned(), "at".to_owned()]), None);
        // An older version takes it for no cursor.
        assert_eq!(Cursor::parse(&text), None);
        // A part without an end can only be the last.
        assert_eq!(
            Part::parse(r#"{"columns":["id"],"parts":[{"upto":null},{"upto":null}]}"#),
            None
        );
        assert_eq!(Part::parse(r#"{"columns":["id"],"parts":[]}"#), None);
    }

    #[test]
    fn cursors_keep_every_kind_of_key_exactly() {
        let key: Vec<Value> = vec![
            Value::Int(i64::MIN),
            Value::UInt(u64::MAX),
            Value::Text("a\"b\u{0}é".into()),
            Value::Bytes(vec![0, 255, 7].into()),
            Value::Uuid([9; 16]),
            Value::Decimal("-0.10".into()),
            Value::Float64(-0.0),
            Value::Date(Date(-1)),
            Value::Timestamp(Timestamp::INFINITY),
            Value::Instant(Instant(5)),
            Value::Interval(Interval { months: -1, days: 2, micros: i64::MIN }),
            Value::Foreign("0000-00-00".into()),
        ];
        let columns: Vec<String> = (0..key.len()).map(|i| format!("c{i}")).collect();
        let text = Cursor::new(&columns, &key).map(|c| c.encode()).unwrap_or_default();
        assert_eq!(Cursor::decode(&text, &columns).as_deref(), Some(key.as_slice()));
        assert_eq!(Cursor::decode(&text, &columns[1..]), None);
        assert_eq!(Cursor::decode("x", &columns), None);
        assert_eq!(Cursor::new(&columns[..1], &[Value::Null]), None);
    }

    #[test]
    fn keys_are_ordered_from_the_left_and_mixed_kinds_not_at_all() {
        let (one, two) = (Value::Int(1), Value::Int(2));
        assert_eq!(
            key_order(&[one.clone(), two.clone()], &[two.clone(), one.clone()]),
            Some(Ordering::Less)
        );
        assert_eq!(
            key_order(std::slice::from_ref(&one), std::slice::from_ref(&one)),
            Some(Ordering::Equal)
        );
        assert_eq!(key_order(&[one], &[Value::UInt(1)]), None);
        assert_eq!(key_order(&[Value::Text("a".into())], &[Value::Text("b".into())]), None);
    }
}
