//! Row events: images of rows, decoded with the layout made from the TABLE_MAP before them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{
    ByteString, Change, DataType, Delete, Insert, OldRow, Op, Repertoire, Row, StreamColumn,
    TableName, TableSchema, Update, Value,
};

use super::arena::Arena;
use super::cell::Cell;
use super::table_map::{MapColumn, TableMap, wire};
use super::{Buf, Damage, Decoded, inflate, kind};
use crate::catalog::{CatalogTable, OLD_FRACTIONS};
use crate::charset::Charset;

/// What happened to the rows of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsKind {
    Write,
    Update,
    Delete,
}

/// A row event, its images still packed.
#[derive(Debug)]
pub(crate) struct RowsEvent<'a> {
    pub kind: RowsKind,
    count: usize,
    first: &'a [u8],
    second: &'a [u8],
    images: Cow<'a, [u8]>,
}

impl<'a> RowsEvent<'a> {
    /// Only the table's id, for tables that nobody asked for.
    pub fn table_id(data: &[u8]) -> Decoded<u64> {
        Buf(data).le(6)
    }

    pub fn decode(event: u8, data: &'a [u8]) -> Decoded<RowsEvent<'a>> {
        use kind as k;
        let (rows_kind, v2, compressed) = match event {
            k::WRITE_V1 => (RowsKind::Write, false, false),
            k::UPDATE_V1 => (RowsKind::Update, false, false),
            k::DELETE_V1 => (RowsKind::Delete, false, false),
            k::WRITE_V2 => (RowsKind::Write, true, false),
            k::UPDATE_V2 => (RowsKind::Update, true, false),
            k::DELETE_V2 => (RowsKind::Delete, true, false),
            k::MARIA_WRITE_COMPRESSED_V1 => (RowsKind::Write, false, true),
            k::MARIA_UPDATE_COMPRESSED_V1 => (RowsKind::Update, false, true),
            k::MARIA_DELETE_COMPRESSED_V1 => (RowsKind::Delete, false, true),
            k::MARIA_WRITE_COMPRESSED => (RowsKind::Write, true, true),
            k::MARIA_UPDATE_COMPRESSED => (RowsKind::Update, true, true),
            k::MARIA_DELETE_COMPRESSED => (RowsKind::Delete, true, true),
            _ => return Err(Damage("it is no row event")),
        };
        let mut buf = Buf(data);
        buf.take(8)?;
        if v2 {
            let extra = (buf.le(2)? as usize).checked_sub(2).ok_or(Damage("its extra data"))?;
            buf.take(extra)?;
        }
        let count = buf.len()?;
        let first = buf.take(count.div_ceil(8))?;
        let second = match rows_kind {
            RowsKind::Update => buf.take(count.div_ceil(8))?,
            RowsKind::Write | RowsKind::Delete => first,
        };
        let images = if compressed { Cow::Owned(inflate(buf.0)?) } else { Cow::Borrowed(buf.0) };
        Ok(RowsEvent { kind: rows_kind, count, first, second, images })
    }

    /// Hands each change to `sink`.
    pub fn changes(
        &self,
        layout: &Layout,
        arena: &mut Arena,
        mut sink: impl FnMut(Change),
    ) -> Decoded<()> {
        if self.count != layout.cells.len() {
            return Err(Damage("its column count is not that of its table map"));
        }
        // MySQL logs a row of nothing but defaults without a byte, and does not tell how many there are.
        if self.images.is_empty() {
            return Err(Damage("it holds rows without any column (binlog_row_image is not FULL)"));
        }
        let (first, second) =
            (Present::new(self.first, self.count), Present::new(self.second, self.count));
        let mut buf = Buf(&self.images);
        while !buf.is_empty() {
            let op = match self.kind {
                RowsKind::Write => {
                    Op::Insert(Insert { new: image(&mut buf, layout, &first, arena)? })
                }
                RowsKind::Delete => {
                    Op::Delete(Delete { old: layout.old(image(&mut buf, layout, &first, arena)?) })
                }
                RowsKind::Update => {
                    let before = image(&mut buf, layout, &first, arena)?;
                    let mut after = image(&mut buf, layout, &second, arena)?;
                    // A key column that the after image leaves out did not change.
                    for &i in &layout.key {
                        if let (Some(new), Some(old)) = (after.0.get_mut(i), before.0.get(i))
                            && new.is_unchanged()
                        {
                            *new = old.clone();
                        }
                    }
                    Op::Update(Update { old: layout.old(before), new: after })
                }
            };
            sink(Change { table: Arc::clone(&layout.schema), op });
        }
        Ok(())
    }
}

fn bit(bitmap: &[u8], i: usize) -> bool {
    bitmap.get(i / 8).is_some_and(|b| b & (1 << (i % 8)) != 0)
}

/// Which columns the images of an event hold.
struct Present<'a> {
    bitmap: &'a [u8],
    /// How many.
    columns: usize,
    /// All there are.
    all: bool,
}

impl<'a> Present<'a> {
    fn new(bitmap: &'a [u8], count: usize) -> Present<'a> {
        let columns = (0..count).filter(|i| bit(bitmap, *i)).count();
        Present { bitmap, columns, all: columns == count }
    }
}

fn image(
    buf: &mut Buf<'_>,
    layout: &Layout,
    present: &Present<'_>,
    arena: &mut Arena,
) -> Decoded<Row> {
    let nulls = buf.take(present.columns.div_ceil(8))?;
    if present.columns == 0 {
        return Err(Damage("a row image holds no column"));
    }
    let mut values = Vec::with_capacity(layout.cells.len());
    let mut nth = 0;
    for (i, cell) in layout.cells.iter().enumerate() {
        if !present.all && !bit(present.bitmap, i) {
            values.push(Value::Unchanged);
            continue;
        }
        let null = bit(nulls, nth);
        nth += 1;
        values.push(if null { Value::Null } else { cell.decode(buf, arena)? });
    }
    Ok(Row(values.into_boxed_slice()))
}

/// How the rows of one table map are read, and the shape they get.
#[derive(Debug)]
pub(crate) struct Layout {
    pub schema: Arc<TableSchema>,
    cells: Vec<Cell>,
    key: Vec<usize>,
}

impl Layout {
    fn old(&self, row: Row) -> OldRow {
        if row.is_full() { OldRow::Full(row) } else { OldRow::Key(row) }
    }

    /// Joins table map and catalog. The map is right about the moment of the event; the catalog
    /// (which may be younger) is asked by name, for what the log never tells, and by place only if
    /// the log has no names and number and types of all columns agree.
    pub fn new(
        map: &TableMap,
        catalog: Option<&CatalogTable>,
        charsets: &HashMap<u64, Charset>,
        version: u64,
    ) -> Result<Layout, String> {
        let named = map.columns.iter().all(|c| c.name.is_some());
        if !named {
            let table =
                catalog.ok_or("the log names no columns and the catalog has no such table")?;
            if table.table.columns.len() != map.columns.len() {
                return Err(format!(
                    "the log has {} columns without names, the catalog {}",
                    map.columns.len(),
                    table.table.columns.len()
                ));
            }
        }
        let primary = catalog.and_then(|t| t.table.primary_key()).unwrap_or(&[]);
        let (mut cells, mut columns, mut key) = (Vec::new(), Vec::new(), Vec::new());
        for (i, column) in map.columns.iter().enumerate() {
            let twin = catalog.and_then(|t| {
                let at = match &column.name {
                    Some(name) => t.table.columns.iter().position(|c| c.name == *name)?,
                    None => i,
                };
                Some((t.table.columns.get(at)?, t.charsets.get(at)?.as_ref()))
            });
            let known = twin.map(|(c, charset)| Twin { data_type: &c.data_type, charset });
            let name = match (&column.name, twin) {
                (Some(name), _) => name.clone(),
                (None, Some((c, _))) => c.name.clone(),
                (None, None) => return Err("a column has no name".to_owned()),
            };
            let (cell, data_type) = resolve(column, known.as_ref(), charsets);
            if !named && !twin.is_some_and(|(c, _)| same_family(&c.data_type, &data_type)) {
                return Err(format!(
                    "column {name} has another type in the log than in the catalog"
                ));
            }
            let identity = if map.has_primary { column.primary } else { primary.contains(&name) };
            if identity {
                key.push(i);
            }
            cells.push(cell);
            columns.push(StreamColumn { name, data_type, identity });
        }
        let name = TableName::new(map.schema.clone(), map.table.clone());
        Ok(Layout { schema: Arc::new(TableSchema { name, version, columns }), cells, key })
    }
}

struct Twin<'a> {
    data_type: &'a DataType,
    charset: Option<&'a Charset>,
}

fn same_family(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::Int { bits, .. }, DataType::Int { bits: other, .. }) => bits == other,
        // Its labels are not known well enough.
        (DataType::Enum { .. } | DataType::Set { .. }, DataType::Unsupported { .. }) => true,
        (DataType::RoundedFloat { double, .. }, DataType::Float32) => !double,
        (DataType::RoundedFloat { double, .. }, DataType::Float64) => *double,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn resolve(
    column: &MapColumn,
    twin: Option<&Twin<'_>>,
    charsets: &HashMap<u64, Charset>,
) -> (Cell, DataType) {
    let (cell, wire_type) = by_wire(column, twin, charsets);
    // The catalog's type is the more exact one as long as it tells of the same thing.
    let data_type = match (twin.map(|t| t.data_type), wire_type) {
        (Some(known), ours) if same_family(known, &ours) => match (known, &ours) {
            (DataType::Int { bits, .. }, DataType::Int { unsigned, .. }) => {
                DataType::Int { bits: *bits, unsigned: *unsigned }
            }
            (DataType::Enum { .. } | DataType::Set { .. } | DataType::Decimal { .. }, _) => ours,
            _ => known.clone(),
        },
        (_, ours) => ours,
    };
    (cell, data_type)
}

fn by_wire(
    column: &MapColumn,
    twin: Option<&Twin<'_>>,
    charsets: &HashMap<u64, Charset>,
) -> (Cell, DataType) {
    if let Some(name @ DataType::Unsupported { name: text }) = twin.map(|t| t.data_type)
        && let Some(bytes) = refused(column.wire, text)
    {
        return (Cell::Skip { bytes }, name.clone());
    }
    let meta = column.meta;
    let fsp = meta.min(6) as u8;
    let unsigned = column
        .unsigned
        .unwrap_or(matches!(twin.map(|t| t.data_type), Some(DataType::Int { unsigned: true, .. })));
    let int =
        |bits: u8| (Cell::Int { bytes: bits / 8, unsigned }, DataType::Int { bits, unsigned });
    match column.wire {
        wire::TINY => int(8),
        wire::SHORT => int(16),
        wire::INT24 => int(24),
        wire::LONG => int(32),
        wire::LONGLONG => int(64),
        wire::FLOAT => (Cell::Float, DataType::Float32),
        wire::DOUBLE => (Cell::Double, DataType::Float64),
        wire::NEWDECIMAL => {
            let (precision, scale) = ((meta >> 8) as u8, meta as u8);
            let (p, s) = (Some(u16::from(precision)), Some(u16::from(scale)));
            (Cell::Decimal { precision, scale }, DataType::Decimal { precision: p, scale: s })
        }
        wire::DATE => (Cell::OldDate, DataType::Date),
        wire::TIME => (Cell::OldTime, DataType::Time { fsp: 0, span: true }),
        wire::TIME2 => (Cell::Time { fsp }, DataType::Time { fsp, span: true }),
        wire::DATETIME => (Cell::OldDateTime, DataType::Timestamp { fsp: 0 }),
        wire::DATETIME2 => (Cell::DateTime { fsp }, DataType::Timestamp { fsp }),
        wire::TIMESTAMP => (Cell::OldTimestamp, DataType::Instant { fsp: 0, narrow: true }),
        wire::TIMESTAMP2 => (Cell::Timestamp { fsp }, DataType::Instant { fsp, narrow: true }),
        wire::VARCHAR | wire::VAR_STRING => {
            string(column, if meta > 255 { 2 } else { 1 }, 0, twin, charsets)
        }
        wire::STRING => {
            string(column, if meta > 255 { 2 } else { 1 }, usize::from(meta), twin, charsets)
        }
        wire::TINY_BLOB | wire::MEDIUM_BLOB | wire::LONG_BLOB | wire::BLOB => {
            string(column, meta.clamp(1, 4) as u8, 0, twin, charsets)
        }
        wire::ENUM | wire::SET => labelled(column, twin, charsets),
        wire::JSON => (Cell::Jsonb { prefix: meta.clamp(1, 4) as u8 }, DataType::Json),
        wire::YEAR => (Cell::Year, DataType::Year),
        wire::BIT => {
            let (bytes, bits) = ((meta >> 8) as u8, u64::from(meta & 0xff));
            let length = u64::from(bytes) * 8 + bits;
            let bytes = bytes.saturating_add(u8::from(bits != 0));
            (Cell::Bits { bytes, length }, DataType::Bits { length: Some(length), varying: false })
        }
        wire::GEOMETRY => opaque(column, "geometry"),
        _ => opaque(column, "vector"),
    }
}

/// The bytes of a column that the catalog refuses by its type, where only the catalog tells what it is.
fn refused(of_wire: u8, column_type: &str) -> Option<usize> {
    // By the digits after the second.
    const DATETIME: [usize; 7] = [5, 6, 6, 7, 7, 7, 8];
    const TIME: [usize; 7] = [3, 4, 4, 5, 5, 5, 6];
    const TIMESTAMP: [usize; 7] = [4, 5, 5, 6, 6, 7, 7];
    if of_wire == wire::YEAR {
        return Some(1);
    }
    let digits = column_type.strip_suffix(OLD_FRACTIONS)?.split_once('(')?.1;
    let digits: usize = digits.trim_end().strip_suffix(')')?.parse().ok()?;
    match of_wire {
        wire::DATETIME => DATETIME.get(digits).copied(),
        wire::TIME => TIME.get(digits).copied(),
        wire::TIMESTAMP => TIMESTAMP.get(digits).copied(),
        _ => None,
    }
}

/// Bytes behind a length that mean something to the server only.
fn opaque(column: &MapColumn, name: &str) -> (Cell, DataType) {
    let prefix = column.meta.clamp(1, 4) as u8;
    (Cell::Bytes { prefix, pad: 0 }, DataType::Opaque { name: name.to_owned() })
}

fn string(
    column: &MapColumn,
    prefix: u8,
    fixed: usize,
    twin: Option<&Twin<'_>>,
    charsets: &HashMap<u64, Charset>,
) -> (Cell, DataType) {
    if let Some(DataType::Uuid) = twin.map(|t| t.data_type)
        && fixed == 16
    {
        return (Cell::Uuid { prefix }, DataType::Uuid);
    }
    if let Some(known @ DataType::Address { v6, .. }) = twin.map(|t| t.data_type) {
        let bytes = if *v6 { 16 } else { 4 };
        if fixed == bytes {
            return (Cell::Address { prefix, bytes }, known.clone());
        }
    }
    if let Some(known @ DataType::Opaque { .. }) = twin.map(|t| t.data_type) {
        return (Cell::Bytes { prefix, pad: 0 }, known.clone());
    }
    if let Some(DataType::Unsupported { name }) = twin.map(|t| t.data_type)
        && !name.contains("CHARACTER SET")
    {
        return (Cell::SkipPrefixed { prefix }, DataType::Unsupported { name: name.clone() });
    }
    let charset = match (column.collation, twin.and_then(|t| t.charset)) {
        (Some(id), _) => by_id(charsets, id),
        (None, Some(charset)) => charset.clone(),
        (None, None) => Charset::Binary,
    };
    match charset {
        Charset::Binary => {
            let fixed = (fixed > 0).then_some(fixed as u64);
            let pad = fixed.unwrap_or(0) as usize;
            (Cell::Bytes { prefix, pad }, DataType::Bytes { bytes_max: fixed, fixed })
        }
        Charset::Other(name) => (
            Cell::SkipPrefixed { prefix },
            DataType::Unsupported { name: format!("text in the character set {name}") },
        ),
        charset => {
            if let Some(DataType::Json) = twin.map(|t| t.data_type) {
                return (Cell::Json { prefix, charset }, DataType::Json);
            }
            let data_type = DataType::Text {
                chars_max: None,
                bytes_max: None,
                repertoire: charset.repertoire(),
                padded: fixed > 0,
            };
            (Cell::Text { prefix, charset }, data_type)
        }
    }
}

fn by_id(charsets: &HashMap<u64, Charset>, id: u64) -> Charset {
    charsets
        .get(&id)
        .cloned()
        .unwrap_or_else(|| Charset::Other(format!("of collation {id}").into()))
}

/// An ENUM or a SET, by the labels that the log gives, else by those of the catalog.
fn labelled(
    column: &MapColumn,
    twin: Option<&Twin<'_>>,
    charsets: &HashMap<u64, Charset>,
) -> (Cell, DataType) {
    let bytes = (column.meta & 0xff) as u8;
    let from_log = column.labels.as_ref().and_then(|labels| {
        let charset = match column.collation {
            Some(id) => by_id(charsets, id),
            None => twin.and_then(|t| t.charset).cloned().unwrap_or(Charset::Utf8),
        };
        labels.iter().map(|l| charset.decode(l)).collect::<Option<Vec<ByteString>>>()
    });
    let set = column.wire == wire::SET;
    // The catalog has a question mark where a character takes four bytes.
    let doubtful = |labels: &[String]| {
        let charset = twin.and_then(|t| t.charset);
        charset.is_none_or(|c| c.repertoire() == Repertoire::Unicode)
            && labels.iter().any(|label| label.contains('?'))
    };
    let labels = match (from_log, twin.map(|t| t.data_type)) {
        (Some(labels), _) => labels,
        (None, Some(DataType::Enum { labels } | DataType::Set { labels })) if doubtful(labels) => {
            let kind = if set { "set" } else { "enum" };
            let name = format!("{kind} with a ? in a label, without binlog_row_metadata = FULL");
            return (Cell::Skip { bytes: usize::from(bytes) }, DataType::Unsupported { name });
        }
        (None, Some(DataType::Enum { labels })) if !set => {
            labels.iter().map(|l| ByteString::from(l.as_str())).collect()
        }
        (None, Some(DataType::Set { labels })) if set => {
            labels.iter().map(|l| ByteString::from(l.as_str())).collect()
        }
        (None, _) => {
            let name = format!("{} with unknown labels", if set { "set" } else { "enum" });
            return (Cell::Skip { bytes: usize::from(bytes) }, DataType::Unsupported { name });
        }
    };
    let names = labels.iter().map(|l| l.to_string()).collect();
    if set {
        (Cell::Set { bytes, labels }, DataType::Set { labels: names })
    } else {
        (Cell::Enum { bytes, labels }, DataType::Enum { labels: names })
    }
}
