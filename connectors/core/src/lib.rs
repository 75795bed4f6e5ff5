//! The canonical model of tidelock and the contract between its engine and its connectors.
//!
//! Nothing here does I/O and nothing here names a database. A connector (one crate a database
//! family) turns its server's log into [`LogEvent`]s and executes [`WriteBatch`]es; the engine owns
//! every loop, task, retry and batch between the two.
//!
//! ```text
//!  source server ──> Source ──Chunk──> engine (reader → mapping → apply) ──WriteBatch──> Sink ──> target server
//!                      ^                                                                  |
//!                      └───────────── confirm(Position) ◄── checkpoint ◄── commit ────────┘
//! ```
//!
//! Read in this order: [`value`], [`schema`], [`change`], [`event`], [`position`], [`progress`],
//! then the contract: [`connector`], [`source`], [`sink`], [`routine`], [`lookup`], [`memory`], [`copy`], [`mod@alike`] and [`track`] for what is read by key, [`ddl`], [`shape`], and [`error`] for what may go wrong.

pub mod alike;
pub mod change;
pub mod connector;
pub mod copy;
pub mod ddl;
pub mod error;
pub mod event;
pub mod form;
pub mod json;
pub mod lookup;
pub mod memory;
pub mod position;
pub mod progress;
pub mod routine;
pub mod schema;
pub mod shape;
pub mod sink;
pub mod source;
pub mod track;
pub mod value;

pub use alike::{Unlike, alike, comparable};
pub use bytes::Bytes;
pub use bytestring::ByteString;
pub use change::{Change, Delete, Insert, OldRow, Op, OpKind, Row, Update};
pub use connector::{
    Connector, Dropped, Family, Finding, IdentifierMax, Identity, Probe, Secret, Severity,
    SystemConfig, Tls, TlsMode, is_loopback,
};
pub use copy::{
    Copier, CopyPhase, CopyReason, CopyRow, CopyTable, Cursor, Key, KeyRange, LineReader, Lines,
    Part, Piece, Reach, TransactionId,
};
pub use ddl::{Creation, Dialect, Literal, NewColumn, NewTable, Note, Uncarried};
pub use error::{Code, Error, ErrorKind, FOREIGN_KEY_HINT, Result, Side};
pub use event::{Begin, Chunk, Commit, Idle, LogEvent, TableChanged, TableFault, Truncate};
pub use json::{JsonForm, json_loss};
pub use lookup::LookupTarget;
pub use memory::{MEMORY_TABLE, MemoryKind, MemoryPrefix, MemoryRange, MemoryScope, Remembered};
pub use position::{Position, PositionOrder};
pub use progress::{
    FLOW_CHARS_MAX, HopList, MAPPING_CHARS_MAX, Mark, PIPELINE_CHARS_MAX, PROGRESS_TABLE, Progress,
    SNAPSHOT_TABLE, StateRow, StoredState, SystemId,
};
pub use routine::{Call, CallTarget, Parameter, ParameterMode, Routine, RoutineKind};
pub use schema::{
    Column, ColumnDefault, DataType, Generated, Index, Reference, Repertoire, RowIdentity,
    StreamColumn, Table, TableKind, TableName, TableSchema,
};
pub use shape::{Look, Scope, ShapeChange};
pub use sink::{
    Lease, Load, LoadRows, OpenSink, Sink, SinkSpec, TargetColumn, TargetTable, WriteBatch, WriteOp,
};
pub use source::{Source, SourceSpec, SourceTable};
pub use track::{QueryColumn, TrackQuery};
pub use value::{Date, Instant, Interval, Time, Timestamp, Value};
