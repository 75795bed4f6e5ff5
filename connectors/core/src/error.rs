//! What can go wrong, and what it means for the flow.
//!
//! A caller branches on [`ErrorKind`], never on text. Each kind has one disposition, and the engine
//! decides it in one place. The [`Code`] is for people: it has a section in `docs/ERRORS.md`.
//! No message, detail or hint ever holds a row value or a secret.

use std::error::Error as StdError;
use std::fmt;

/// The result of anything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// What an error is about, and with that what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// About the world: a connection, a timeout, a server starting up, a deadlock. The attempt is
    /// torn down and made again, for ever.
    Transient,
    /// About the data: this row or this table cannot be applied as it is, now or ever. The mapping
    /// it belongs to stops; others go on.
    Data,
    /// About the history: going on would lose or double changes. The flow halts.
    Continuity,
    /// About settings or rights of a server: the flow halts until a person mends it.
    Setup,
    /// Someone else has taken the flow over. The attempt is given up and begun again at the lease.
    Fenced,
    /// About our own configuration file or command line.
    Config,
    /// A broken promise inside tidelock.
    Bug,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// The stable code of an error, explained in `docs/ERRORS.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name),+ }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name),+];

            /// The code as shown (`TL0101`).
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code),+ }
            }
        }
    };
}

codes! {
    /// A server cannot be reached, or the connection was lost.
    Unreachable = "TL0001",
    /// A server refused our name, password or certificate.
    Authentication = "TL0002",
    /// A server did not answer in time, or ended our session for a reason that passes.
    ServerBusy = "TL0003",
    /// TLS could not be agreed on or the certificate is not trusted.
    Tls = "TL0004",
    /// The configuration file is wrong.
    Config = "TL0010",
    /// The state folder or its checkpoint store cannot be used.
    CheckpointStore = "TL0011",
    /// The control socket did not answer.
    Control = "TL0012",
    /// The command line is wrong.
    Usage = "TL0013",
    /// A right is missing on a server.
    Privilege = "TL0020",
    /// A server setting does not allow what is needed.
    ServerSetting = "TL0021",
    /// Two systems are one and the same database.
    SameDatabase = "TL0022",
    /// A table or column that a mapping names does not exist or cannot be used.
    Catalog = "TL0023",
    /// The replication slot is gone.
    SlotMissing = "TL0101",
    /// The slot stands elsewhere than our position allows, or is not ours.
    SlotDiverged = "TL0102",
    /// The source is another server or another history than the position belongs to.
    SourceForeign = "TL0103",
    /// The log that we still need has been removed.
    LogPurged = "TL0104",
    /// The GTID set of the source does not contain ours.
    GtidDiverged = "TL0105",
    /// The log holds an event that cannot be followed safely.
    UnsupportedEvent = "TL0106",
    /// An event of the log is damaged.
    DamagedEvent = "TL0107",
    /// The publication does not hold what it must.
    Publication = "TL0108",
    /// The source table's shape changed in a way the mapping cannot follow.
    SchemaDrift = "TL0201",
    /// A value cannot be held by the target column exactly.
    NotRepresentable = "TL0202",
    /// A partial change met a row that the target does not have.
    UpdateMissing = "TL0203",
    /// The target refused a row by a constraint.
    Constraint = "TL0204",
    /// A mapped table was truncated and the mapping says halt.
    Truncated = "TL0205",
    /// The log does not carry the columns that identify the row.
    IdentityMissing = "TL0206",
    /// The target refused a row or statement for another reason.
    Rejected = "TL0207",
    /// A row hit another row of the target by a unique key other than the mapping's.
    KeyConflict = "TL0208",
    /// The source table is not there any more.
    TableGone = "TL0209",
    /// A row points to one that the target does not have (yet), or is still pointed to.
    ForeignKey = "TL0210",
    /// A procedure of the target ended our transaction.
    RoutineCommits = "TL0211",
    /// A lookup in the target met more than one row.
    LookupAmbiguous = "TL0212",
    /// A row does not meet a rule of `validate`.
    Invalid = "TL0213",
    /// An expression of the mapping has no value for a row.
    Expression = "TL0214",
    /// A dictionary does not have a row's code.
    DictionaryMissing = "TL0215",
    /// A lookup in the target found no row.
    LookupMissing = "TL0216",
    /// Another process holds the flow.
    Fenced = "TL0301",
    /// The target is behind what was already confirmed, and the source's log no longer covers it.
    TargetRewound = "TL0302",
    /// The progress row is gone from the target.
    ProgressMissing = "TL0303",
    /// The target transaction could not be finished as promised.
    CommitFailed = "TL0305",
    /// A promise inside tidelock was broken.
    Bug = "TL0900",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        Code::ALL.iter().copied().find(|c| c.as_str() == text).ok_or(())
    }
}

/// Which of the two systems of a flow an error came up at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where changes come from.
    Source,
    /// Where they go.
    Target,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    code: Code,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    batch: Option<usize>,
    side: Option<Side>,
    mapping: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// An error with its kind, code, message, detail, hint and cause. One pointer wide.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// What to do where a foreign key of the target refuses a row.
pub const FOREIGN_KEY_HINT: &str = "a row that it points to is missing at the target, or one that points to it is still there: see whether \
     the mapping of the table at the other end stands still, bring that back, then `tidelock resync` this one";

impl Error {
    /// An error of this kind. `message` is lower case, names the place and has no final period.
    pub fn new(kind: ErrorKind, code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            batch: None,
            side: None,
            mapping: None,
            source: None,
        }))
    }

    /// A [`ErrorKind::Transient`] error.
    pub fn transient(code: Code, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Transient, code, message)
    }

    /// A [`ErrorKind::Data`] error.
    pub fn data(code: Code, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, code, message)
    }

    /// A [`ErrorKind::Continuity`] error.
    pub fn continuity(code: Code, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Continuity, code, message)
    }

    /// A [`ErrorKind::Setup`] error.
    pub fn setup(code: Code, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Setup, code, message)
    }

    /// A [`ErrorKind::Fenced`] error.
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fenced, Code::Fenced, message)
    }

    /// A [`ErrorKind::Bug`] error.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, Code::Bug, message)
    }

    /// Adds what is known beyond the message (never a row value).
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds what to do about it: what to type.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds which batch of a [`crate::Sink::write`], which call of a [`crate::Sink::call`] or which row of a
    /// [`crate::Sink::lookup_or_insert`] it is about.
    #[must_use]
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.0.batch = Some(batch);
        self
    }

    /// Names the mapping that it is about, where no batch of a call tells.
    #[must_use]
    pub fn with_mapping(mut self, mapping: impl Into<String>) -> Self {
        self.0.mapping = Some(mapping.into());
        self
    }

    /// Adds the cause. Its text is shown: it must not hold row values.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts a place in front of the message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// Adds which system of its flow it came up at, unless that is known already.
    #[must_use]
    pub fn of(mut self, side: Side) -> Self {
        self.0.side.get_or_insert(side);
        self
    }

    /// Which system of its flow it came up at, if that is known.
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// What it is about.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Its stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What is known beyond the message.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Which batch of a write it is about, where that is known for certain.
    pub fn batch(&self) -> Option<usize> {
        self.0.batch
    }

    /// The mapping that it is about, where no batch of a call tells ([`crate::Sink::commit`]).
    pub fn mapping(&self) -> Option<&str> {
        self.0.mapping.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(detail) = &self.0.detail {
            write!(f, " ({detail})")?;
        }
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|e| &**e as &(dyn StdError + 'static))
    }
}
