//! Tables as the engine sees them: the catalog of a server ([`Table`]) and the shape that the log
//! gives to the rows of one table at one point ([`TableSchema`]).

use std::fmt;
use std::sync::Arc;

/// A table's full name inside one database: schema (PostgreSQL) or database (MySQL), and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema on PostgreSQL, the database on MySQL and MariaDB.
    pub schema: String,
    /// The table's name as the catalog spells it.
    pub name: String,
}

impl TableName {
    /// A name from its two parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// The characters that a text column can store.
#[derive(Clone, PartialEq, Eq)]
pub enum Repertoire {
    /// All of Unicode (`utf8mb4`, `UTF8`).
    Unicode,
    /// The Basic Multilingual Plane: no emoji, none of the rarer Chinese characters (`utf8mb3`, `ucs2`).
    Bmp,
    /// ASCII.
    Ascii,
    /// The characters of an older character set.
    Listed {
        /// The server's name of the set.
        name: Arc<str>,
        /// Its characters, sorted.
        chars: Arc<[char]>,
    },
    /// Characters of a set that is not known here: nothing beyond ASCII may be written to it.
    Unknown,
}

impl Repertoire {
    /// Whether all of this text can be stored.
    pub fn holds(&self, text: &str) -> bool {
        match self {
            Repertoire::Unicode => true,
            Repertoire::Bmp => text.chars().all(|c| u32::from(c) < 0x1_0000),
            Repertoire::Ascii | Repertoire::Unknown => text.is_ascii(),
            Repertoire::Listed { chars, .. } => {
                text.chars().all(|c| chars.binary_search(&c).is_ok())
            }
        }
    }
}

impl fmt::Debug for Repertoire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Repertoire::Unicode => "Unicode",
            Repertoire::Bmp => "Bmp",
            Repertoire::Ascii => "Ascii",
            Repertoire::Listed { name, .. } => name,
            Repertoire::Unknown => "Unknown",
        })
    }
}

/// What a column can hold, in canonical terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataType {
    /// A truth value.
    Bool,
    /// An integer.
    Int {
        /// Width: 8, 16, 24, 32 or 64.
        bits: u8,
        /// Whether it has no negative half.
        unsigned: bool,
    },
    /// An exact number; both `None` when the column has no limit of its own.
    Decimal {
        /// Digits in all.
        precision: Option<u16>,
        /// Digits after the point.
        scale: Option<u16>,
    },
    /// A single-precision float.
    Float32,
    /// A double-precision float.
    Float64,
    /// Text.
    Text {
        /// Most characters, if limited.
        chars_max: Option<u64>,
        /// Most bytes in the column's own character set, if limited.
        bytes_max: Option<u64>,
        /// Which characters the server can store here.
        repertoire: Repertoire,
        /// `CHAR(n)`: blanks at the end carry no meaning.
        padded: bool,
    },
    /// Bytes.
    Bytes {
        /// Most bytes, if limited.
        bytes_max: Option<u64>,
        /// `BINARY(n)`: values are exactly this long.
        fixed: Option<u64>,
    },
    /// A calendar day.
    Date,
    /// A time of day (or, on MySQL, a signed span).
    Time {
        /// Digits after the seconds.
        fsp: u8,
        /// Whether values may leave 00:00–24:00.
        span: bool,
    },
    /// A civil date and time.
    Timestamp {
        /// Digits after the seconds.
        fsp: u8,
    },
    /// A point in time.
    Instant {
        /// Digits after the seconds.
        fsp: u8,
        /// Whether the range ends in 2038 or so (MySQL `TIMESTAMP`).
        narrow: bool,
    },
    /// A span of months, days and microseconds.
    Interval {
        /// Digits after the seconds.
        fsp: u8,
    },
    /// A year of four digits, 1901 to 2155, or 0 (MySQL `YEAR`).
    Year,
    /// A UUID.
    Uuid,
    /// A JSON document.
    Json,
    /// One of a list of labels.
    Enum {
        /// The labels in the server's order.
        labels: Arc<[String]>,
    },
    /// Any of a list of labels (MySQL `SET`); its text is those that are set, in the list's order, with
    /// commas between.
    Set {
        /// The labels in the server's order.
        labels: Arc<[String]>,
    },
    /// A string of bits; its text is their digits, the highest first.
    Bits {
        /// How many, or at most how many; `None` without a limit.
        length: Option<u64>,
        /// Whether there may be fewer (`BIT VARYING`).
        varying: bool,
    },
    /// An Internet address.
    Address {
        /// Whether it may be one of version 4.
        v4: bool,
        /// Whether it may be one of version 6.
        v6: bool,
        /// Whether it may be a network with the number of its bits (`10.0.0.0/8`).
        network: bool,
    },
    /// Bytes whose meaning only servers of this kind know (geometries, vectors).
    Opaque {
        /// The server's own name of the type.
        name: String,
    },
    /// A type that only servers of this kind know, whose values travel by their text (arrays, ranges,
    /// composites, types of extensions).
    Native {
        /// The server's own name of the type, fit for a cast, without a length or precision.
        name: String,
        /// The length or precision that the server keeps beside the name; negative if there is none.
        modifier: i32,
    },
    /// A float that its server rounds to a number of decimals as it is written (`double(8,2)`): it can be
    /// read like any float, and is refused as a target by this name.
    RoundedFloat {
        /// Whether it is of double precision.
        double: bool,
        /// The server's own name of the type.
        name: String,
    },
    /// A type that tidelock does not carry; `check` refuses it by this name.
    Unsupported {
        /// The server's own name of the type.
        name: String,
    },
}

/// How a column gets its value when nobody writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generated {
    /// An ordinary column.
    No,
    /// Computed by the server; cannot be written.
    Always,
    /// `GENERATED ALWAYS AS IDENTITY`: written only by overriding.
    IdentityAlways,
    /// `BY DEFAULT` identity, `serial`, `AUTO_INCREMENT`: may be written.
    IdentityByDefault,
}

/// What a column holds when nobody writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDefault {
    /// In the server's words.
    pub native: String,
    /// The text, number or truth value that it is, where it is no more than that.
    pub literal: Option<String>,
}

/// A column of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name as the catalog spells it.
    pub name: String,
    /// What it can hold.
    pub data_type: DataType,
    /// The server's own spelling of the type, fit for a cast (`numeric(12,2)`, `sale.state`).
    pub native: String,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Whether the server fills it when it is not written.
    pub has_default: bool,
    /// Whether the server computes it.
    pub generated: Generated,
    /// Its default, if that is more than NULL.
    pub default: Option<ColumnDefault>,
    /// The collation of a character column, where the family names them.
    pub collation: Option<String>,
    /// Whether the log carries its values.
    pub logged: bool,
}

/// An index that could identify a row: complete (not partial), over plain columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The index's name.
    pub name: String,
    /// The columns in index order.
    pub columns: Vec<String>,
    /// Whether it is the primary key.
    pub primary: bool,
    /// Whether it refuses duplicates at once, not at commit.
    pub immediate: bool,
    /// Whether every column is NOT NULL.
    pub not_null: bool,
}

/// What the log carries of the old row of an update or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowIdentity {
    /// These columns.
    Columns(Vec<String>),
    /// The whole old row.
    Full,
    /// Nothing: updates and deletes cannot be followed.
    Nothing,
}

/// What kind of relation a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    Table,
    /// The root of a partitioned table.
    Partitioned,
    /// A view.
    View,
    /// Anything else (foreign table, sequence, temporary or unlogged table).
    Other,
}

/// A foreign key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The table that it points to.
    pub table: TableName,
    /// The columns that point.
    pub columns: Vec<String>,
    /// The columns that they point to, in the same order.
    pub to: Vec<String>,
}

/// A table of a server's catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Its columns in the server's order.
    pub columns: Vec<Column>,
    /// Its unique indexes, primary key first.
    pub unique_indexes: Vec<Index>,
    /// What the log tells of old rows.
    pub identity: RowIdentity,
    /// Its foreign keys.
    pub references: Vec<Reference>,
    /// Whether triggers fire for the rows that are written, as far as our role may see them: they may count or record each change.
    pub triggers: bool,
    /// Why this table cannot be followed or written safely, in the server's terms; empty if it can
    /// (a system-versioned table, an engine without transactions, …).
    pub refusals: Vec<String>,
}

impl Table {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The primary key's columns.
    pub fn primary_key(&self) -> Option<&[String]> {
        self.unique_indexes.iter().find(|i| i.primary).map(|i| i.columns.as_slice())
    }

    /// Whether a unique, immediate index over exactly these columns is there, NULLs allowed or not.
    pub fn is_unique(&self, columns: &[String]) -> bool {
        self.unique_indexes.iter().any(|i| {
            i.immediate
                && i.columns.len() == columns.len()
                && columns.iter().all(|c| i.columns.contains(c))
        })
    }

    /// The unique, immediate, NOT NULL index over exactly these columns, in any order.
    pub fn key_index(&self, columns: &[String]) -> Option<&Index> {
        self.unique_indexes.iter().find(|i| {
            i.immediate
                && i.not_null
                && i.columns.len() == columns.len()
                && columns.iter().all(|c| i.columns.contains(c))
        })
    }
}

/// A column as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamColumn {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub data_type: DataType,
    /// Whether it belongs to the row identity (replica identity, primary key).
    pub identity: bool,
}

/// The shape of a table's rows from one point of the log on. A connector makes a new one, with a new
/// `version`, whenever the log announces another shape; rows point to it by `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The table.
    pub name: TableName,
    /// Differs for any two shapes met on one connection.
    pub version: u64,
    /// The columns in row order.
    pub columns: Vec<StreamColumn>,
}
