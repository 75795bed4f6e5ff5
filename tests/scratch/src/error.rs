//! What can go wrong with a throw-away server, told so that the reader knows what to install or where to look.

use std::time::Duration;

/// The result of everything here.
pub type Result<T, E = ScratchError> = std::result::Result<T, E>;

/// Why a throw-away server, its proxy or a wait failed.
#[derive(thiserror::Error)]
pub enum ScratchError {
    /// A server's program is not on this machine.
    #[error("{program} was not found; {cure}")]
    NotInstalled {
        /// The program looked for.
        program: String,
        /// What to install, or which variable points to it.
        cure: &'static str,
    },
    /// The machine refused something: a file, a port, a signal.
    #[error("cannot {doing}")]
    Machine {
        /// What was tried.
        doing: String,
        /// What the machine said.
        source: std::io::Error,
    },
    /// A helper program or a server ended when it should not have.
    #[error("{program} ended with {status}; its last words:\n{log}")]
    Died {
        /// The program that ended.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// Something did not come to pass in time.
    #[error("{what}: not so after {waited:?}; last seen: {state}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last state met.
        state: String,
    },
    /// The server is not running, or already is.
    #[error("{0}")]
    State(String),
    /// PostgreSQL refused.
    #[error("postgres refused")]
    Postgres(#[from] tokio_postgres::Error),
    /// MySQL or MariaDB refused.
    #[error("mysql refused")]
    Mysql(#[from] mysql_async::Error),
}

/// What a failing test prints: the message with its causes and with line breaks, not the fields.
impl std::fmt::Debug for ScratchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::answer::chain(self))
    }
}

impl ScratchError {
    /// Turns an I/O error into one that says what was tried.
    pub(crate) fn machine(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Machine { doing, source }
    }
}
