//! The contract of a connector: everything the engine may ask of one system.
//!
//! A [`Connector`] is made once a system and shared by all flows. Its methods open a connection of
//! their own or use a cached one for administration; each has a deadline and each may be called
//! again after any error. Only [`Connector::ensure_meta`], [`Connector::create_stream`], [`Connector::open_loader`],
//! [`Connector::drop_stream`], [`Connector::forget`], [`Connector::forget_progress`], [`Connector::write_state`],
//! [`Connector::clear_state`], [`Connector::write_copy`], [`Connector::clear_copy`], [`Connector::forget_memory`], [`Connector::create`],
//! [`Connector::admit`], [`Connector::run_ddl`] and
//! [`Connector::heartbeat`] write; everything `check` uses is read-only.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::copy::{Copier, CopyRow, CopyTable};
use crate::ddl::{Creation, Dialect};
use crate::error::Result;
use crate::event::TableFault;
use crate::position::{Position, PositionOrder};
use crate::progress::{Progress, StateRow, SystemId};
use crate::routine::Routine;
use crate::schema::{DataType, Table, TableName};
use crate::shape::{Look, Scope, ShapeChange};
use crate::sink::{Lease, Sink, SinkSpec};
use crate::source::{Source, SourceSpec};
use crate::track::{QueryColumn, TrackQuery};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text.
    Disable,
    /// Encrypted, certificate not checked.
    Require,
    /// Certificate signed by a trusted authority.
    VerifyCa,
    /// And made out to the host's name.
    VerifyFull,
}

/// TLS settings of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// How far the certificate is checked. Never falls back to plain text.
    pub mode: TlsMode,
    /// Trusted authorities (PEM); the system's own store if absent.
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM).
    pub cert_file: Option<PathBuf>,
    /// The key of our certificate (PEM).
    pub key_file: Option<PathBuf>,
}

/// Whether a host is this machine itself: what is sent there nobody else hears.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How to reach one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemConfig {
    /// Its name in the configuration.
    pub name: String,
    /// Its URL, which may hold a password.
    pub url: Secret,
    /// Its password, if it stands apart from the URL (and then wins over one in the URL).
    pub password: Option<Secret>,
    /// TLS, already resolved from the defaults.
    pub tls: Tls,
    /// Schema (PostgreSQL) or database (MySQL, MariaDB) for tidelock's own tables.
    pub meta_schema: String,
    /// Whom we are where the URL names no user: the user of this process. Empty if that cannot be told.
    pub user: String,
}

/// A family of databases: what is known of it before any server is asked.
#[derive(Clone, Copy)]
pub struct Family {
    /// The schemes of its URLs.
    pub schemes: &'static [&'static str],
    /// Whether a log is read through a slot and a publication, which have names.
    pub has_slots: bool,
    /// How many sessions a flow that reads from, or writes to, such a server may write with at once, unless the file says it ([`crate::sink`],
    /// lanes); of two families the larger number counts. More than one pays where a log is read faster than one session writes.
    pub lanes: usize,
    /// Longest identifier that its servers keep apart.
    pub identifier_max: IdentifierMax,
    /// Whether a URL leads to a Unix socket or a loopback address. One that leads nowhere does not.
    pub is_local: fn(&str) -> bool,
    /// What is wrong with the settings of a system: [`crate::Code::Tls`] if it is about `tls`, else it is about the
    /// URL. Looks at the files that `tls` names.
    pub check: fn(&SystemConfig) -> Result<()>,
    /// Checks a position given by a person (`start_at`) and brings it into our notation.
    pub parse_position: fn(&str) -> Result<Position>,
    /// The connector of a system. Does not connect.
    pub connector: fn(SystemConfig) -> Result<Box<dyn Connector>>,
}

/// Who a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Product and version for people (`PostgreSQL 15.18`).
    pub version: String,
    /// The database we are connected to.
    pub database: String,
    /// Server and history: what a stored position belongs to. Two servers with different logs never
    /// share it.
    pub history: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, but a DBA should know.
    Warning,
    /// Does not work until it is mended.
    Problem,
}

/// One thing `check` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was found, naming the object.
    pub message: String,
    /// Why it matters or what to do, in words; may be empty.
    pub hint: String,
    /// The statements that mend it, ready to run on that system.
    pub sql: Vec<String>,
    /// The part of the configuration that it is about, as shown to people; may be empty.
    pub place: String,
}

impl Finding {
    /// A problem.
    pub fn problem(message: impl Into<String>) -> Self {
        Finding {
            severity: Severity::Problem,
            message: message.into(),
            hint: String::new(),
            sql: Vec::new(),
            place: String::new(),
        }
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, ..Finding::problem(message) }
    }

    /// Adds words.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds words behind those that are there.
    #[must_use]
    pub fn also(mut self, hint: impl AsRef<str>) -> Self {
        if !self.hint.is_empty() {
            self.hint.push_str("; ");
        }
        self.hint.push_str(hint.as_ref());
        self
    }

    /// Adds the part of the configuration that it is about.
    #[must_use]
    pub fn place(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// Adds a statement that mends it.
    #[must_use]
    pub fn sql(mut self, sql: impl Into<String>) -> Self {
        self.sql.push(sql.into());
        self
    }
}

/// How long a name may be that a server keeps apart from others; longer ones it refuses or cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentifierMax {
    /// So many bytes of UTF-8.
    Bytes(usize),
    /// So many characters.
    Chars(usize),
}

impl IdentifierMax {
    /// How long a name is for this server and how long it may be, in words; `None` if it fits.
    pub fn excess(self, name: &str) -> Option<String> {
        let (length, max, unit) = match self {
            IdentifierMax::Bytes(max) => (name.len(), max, "bytes"),
            IdentifierMax::Chars(max) => (name.chars().count(), max, "characters"),
        };
        (length > max).then(|| format!("{length} {unit} long, a name there has at most {max}"))
    }
}

/// One look at a source's log, for lag and headroom.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The durable end of the log.
    pub end: Position,
    /// Log kept by the server from the flow's place on, in bytes, where the server tells.
    pub retained_bytes: Option<u64>,
    /// Whether it is kept on our account: a later position that is confirmed lets the server free it.
    pub freed_by_confirming: bool,
    /// Log that may still be written before the server drops what we need, in bytes.
    pub headroom_bytes: Option<u64>,
    /// Time until the server drops what we need, in seconds.
    pub headroom_seconds: Option<f64>,
    /// Age of the oldest open transaction of the server, in seconds, where it may be seen.
    pub open_transaction_seconds: Option<f64>,
}

/// What [`Connector::drop_stream`] did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// What was there and is gone.
    pub removed: Vec<String>,
    /// What belongs to somebody else and stays, with the statement for its owner.
    pub left: Vec<String>,
}

/// Everything the engine may ask of one system. See the module doc.
#[async_trait]
pub trait Connector: Send + Sync {
    /// The family, as the registry names it (`postgres`, `mysql`).
    fn family(&self) -> &'static str;

    /// Host, port and database for logs and messages; never a password.
    fn endpoint(&self) -> String;

    /// The schema that a table name without one means.
    fn default_schema(&self) -> &str;

    /// Longest identifier the server keeps apart.
    fn identifier_max(&self) -> IdentifierMax;

    /// Who the server is.
    async fn identify(&self) -> Result<Identity>;

    /// The tables and views of these schemas that our role can see, tidelock's own left out.
    async fn catalog(&self, schemas: &[String]) -> Result<Vec<Table>>;

    /// The routines of these schemas that our role can see: functions and procedures where a query may call
    /// functions that write, else procedures.
    async fn routines(&self, schemas: &[String]) -> Result<Vec<Routine>>;

    /// What tables are now, for a stream of this publication where the server has such. Read-only, and cheap enough
    /// to be asked every few seconds.
    async fn look(&self, scope: Scope<'_>, publication: &str) -> Result<Look>;

    /// What became of a table between two looks, as far as these columns go. Pure.
    fn shape_change(&self, before: &str, now: &str, columns: &[String]) -> ShapeChange;

    /// Whether the log tells of schema changes ([`crate::TableChanged`]); else they must be looked for.
    fn logs_schema_changes(&self) -> bool;

    /// Runs a statement that a [`Dialect`] gave.
    async fn run_ddl(&self, sql: &str) -> Result<()>;

    /// Lets a table that joins the stream into what the server hands over ([`SourceSpec`]), where it must be
    /// told of each. Idempotent.
    async fn admit(&self, spec: &SourceSpec, table: &TableName) -> Result<()>;

    /// Tables that the stream would not hand over whole, and why. Optional ones are not asked for. Read-only.
    async fn left_out(&self, spec: &SourceSpec) -> Result<Vec<TableFault>> {
        let _all_are_in_the_log = spec;
        Ok(Vec::new())
    }

    /// The system's durable id, if its meta schema already has one. Read-only.
    async fn system_id(&self) -> Result<Option<SystemId>>;

    /// Makes the meta schema, its tables and the system's id where they are missing. Idempotent, safe
    /// against a second process doing the same.
    async fn ensure_meta(&self) -> Result<SystemId>;

    /// What stands in the way of reading this system's log. Read-only.
    async fn preflight_source(&self, spec: &SourceSpec) -> Result<Vec<Finding>>;

    /// What stands in the way of writing to this system. Read-only.
    async fn preflight_target(&self, spec: &SinkSpec) -> Result<Vec<Finding>>;

    /// Why a table, or a whole schema, is not in the catalog that we see, with the statements that let us
    /// see, read and (`writes`) write it. Without statements: it is not there, for all that can be told.
    /// Read-only.
    async fn preflight_unseen(
        &self,
        schema: &str,
        table: Option<&str>,
        writes: bool,
    ) -> Result<Finding>;

    /// Adds to a finding what makes these columns, all of the table, a key (unique, immediate, NOT NULL):
    /// statements, and words where a statement would have to guess. Pure.
    fn mend_key(&self, table: &Table, columns: &[String], finding: Finding) -> Finding;

    /// Adds to a finding what makes the log carry the old values of these columns. Pure.
    fn mend_identity(&self, table: &Table, columns: &[String], finding: Finding) -> Finding {
        let _always_whole = (table, columns);
        finding.hint("binlog_row_image = FULL makes the log carry whole rows")
    }

    /// How this server declares tables, knowing which of these schemas are there. Read-only.
    async fn dialect(&self, schemas: &[String]) -> Result<Box<dyn Dialect>>;

    /// Makes a table as its [`Dialect`] said: all of the statements or, where the server's DDL is
    /// transactional, none. A table that is there is an error ([`crate::Code::Catalog`]); a missing right
    /// names the GRANT.
    async fn create(&self, creation: &Creation) -> Result<()>;

    /// Makes what the server must hold for this stream (slot, publication) and tells the position
    /// after which everything committed will be delivered. With `spec.start_at` it starts there
    /// instead, if the log reaches back so far. An existing slot of that name is taken over only if
    /// `adopt` is set (the engine has a durable record of its own intent), else it is
    /// [`crate::Code::SlotDiverged`].
    async fn create_stream(&self, spec: &SourceSpec, adopt: bool) -> Result<Position>;

    /// Opens the log at `from`, after proving that it continues there: same server, same history,
    /// nothing lost in between, tables and progress table included. Any doubt is
    /// [`crate::ErrorKind::Continuity`].
    async fn open_source(&self, spec: &SourceSpec, from: &Position) -> Result<Box<dyn Source>>;

    /// Tries to become the one writer of the flow; takes over from a holder that is dead or stuck.
    async fn open_sink(&self, spec: &SinkSpec) -> Result<Lease>;

    /// Opens a session that loads pieces of copies beside the one that holds the flow under `epoch`: see
    /// [`crate::sink`]. `lane` is its number, from 1 on; no two sessions of a flow may have the same.
    async fn open_loader(&self, spec: &SinkSpec, epoch: u64, lane: u32) -> Result<Box<dyn Sink>>;

    /// The progress rows of a pipeline at this system. Read-only; none where there is no meta schema.
    async fn read_progress(&self, pipeline: &str) -> Result<Vec<Progress>>;

    /// The lasting states of a pipeline at this system. Read-only.
    async fn read_states(&self, pipeline: &str) -> Result<Vec<StateRow>>;

    /// Writes a lasting state (`row.state`), replacing one for the same flow and mapping.
    async fn write_state(&self, row: &StateRow) -> Result<()>;

    /// Removes the lasting state of a flow (`mapping` empty) or mapping.
    async fn clear_state(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()>;

    /// Opens a connection that reads tables in pieces.
    async fn copier(&self) -> Result<Box<dyn Copier>>;

    /// The columns that a track's query gives. `values` has the type of each parameter's column. What the
    /// server says against the query is [`crate::ErrorKind::Data`], in its own words. Read-only, and nothing
    /// of the query is executed.
    async fn describe_query(
        &self,
        query: &TrackQuery,
        values: &[(String, DataType)],
    ) -> Result<Vec<QueryColumn>>;

    /// How the server would run [`Copier::read_keys`] with one key and with a thousand: a warning for each table
    /// of some size that it would read as a whole. Read-only.
    async fn explain_keys(&self, table: &CopyTable, by: &[String]) -> Result<Vec<Finding>>;

    /// The tables whose rows a view shows, through the views that it reads, partitions as their whole table; `None` where the server does not
    /// tell us. What functions read is not among them, nor are system tables. Read-only.
    async fn made_of(&self, view: &TableName) -> Result<Option<Vec<TableName>>>;

    /// Whether [`crate::copy::key_order`] is the database's own order of such values. Pure.
    fn orders_alike(&self, data_type: &DataType) -> bool;

    /// How far the copies of a pipeline at this system have come. Read-only.
    async fn read_copies(&self, pipeline: &str) -> Result<Vec<CopyRow>>;

    /// Writes how far a copy has come, replacing what was there for the same flow and mapping.
    async fn write_copy(&self, row: &CopyRow) -> Result<()>;

    /// Forgets the copy of a mapping.
    async fn clear_copy(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()>;

    /// One look at the log's end, and what the server keeps of the log behind `from`, the position that the flow has
    /// applied (`None` while there is none).
    async fn probe(&self, spec: &SourceSpec, from: Option<&Position>) -> Result<Probe>;

    /// Writes something harmless into the log that moves positions on (without a transaction that
    /// other readers would see, where the server can).
    async fn heartbeat(&self) -> Result<()>;

    /// Slots, publications and the like on this server whose names begin as those made for this
    /// pipeline do: kind and name, the name last.
    async fn leftovers(&self, pipeline: &str) -> Result<Vec<String>>;

    /// Removes what [`Connector::create_stream`] made, as far as our role may.
    async fn drop_stream(&self, spec: &SourceSpec) -> Result<Dropped>;

    /// Removes the flow's progress row alone: the flow will begin at a new position.
    async fn forget_progress(&self, pipeline: &str, flow: &str) -> Result<()>;

    /// Forgets all that a mapping remembers at this target.
    async fn forget_memory(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()>;

    /// Removes the flow's progress, state, copy and memory rows from this target; tells how many.
    async fn forget(&self, pipeline: &str, flow: &str) -> Result<u64>;

    /// How two positions of this system's log lie to each other. Pure.
    fn compare(&self, a: &Position, b: &Position) -> Result<PositionOrder>;

    /// As [`Family::parse_position`]. Pure.
    fn parse_position(&self, text: &str) -> Result<Position>;

    /// Bytes of log from `from` to `to`, where the notation tells, or what the last [`Connector::probe`] has seen. No I/O.
    fn bytes_between(&self, from: &Position, to: &Position) -> Option<u64>;
}
