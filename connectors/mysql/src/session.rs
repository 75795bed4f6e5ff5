//! One connection with deadlines, and what kind of server is at its other end.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use mysql_async::prelude::{FromRow, Queryable, StatementLike};
use mysql_async::{Conn, Opts, OptsBuilder, Params};
use tidelock_core::{Code, Error, Result};

use crate::config::Endpoint;
use crate::{error, tls};

/// Deadline of a connection attempt.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// Deadline of an administrative statement, of begin and of commit.
pub(crate) const STATEMENT: Duration = Duration::from_secs(60);

/// What a session must not take over from the server's settings or from `init_connect`: how values are told and judged,
/// answers that are cut off without a word (`sql_select_limit`), statements that are refused, commits that do not happen
/// or end the session. `DEFAULT` would be the server's own.
const PINNED: &str = "SET SESSION time_zone = '+00:00', SESSION sql_mode = 'STRICT_ALL_TABLES', \
     SESSION autocommit = 1, SESSION completion_type = 'NO_CHAIN', \
     SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1, \
     SESSION sql_safe_updates = 0, SESSION sql_auto_is_null = 0";

/// Which of the two families a server belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// MariaDB.
    MariaDb,
    /// MySQL.
    MySql,
}

/// A connection, its place for messages, and the server's flavour.
pub(crate) struct Session {
    pub conn: Conn,
    pub flavour: Flavour,
    pub version: String,
    pub place: String,
}

/// Connects. The driver's switch for not checking the certificate's name has no effect, so `verify-ca`
/// asks once more by the name that the certificate itself gives: its signature is checked both times.
async fn connect(endpoint: &Endpoint) -> Result<Conn> {
    let place = &endpoint.shown;
    let first = dial(place, endpoint.opts.clone()).await;
    let Err(error) = first else { return first };
    if matches!(error.code(), Code::Privilege | Code::Catalog) {
        // Nothing of ours depends on a current database, and `check` can tell what is missing, and `plan`
        // make a database, only from a session.
        let opts = OptsBuilder::from_opts(endpoint.opts.clone()).db_name(None::<String>);
        return dial(place, opts.into()).await;
    }
    let name = error.detail().and_then(tls::presented_name);
    let (true, Some(name), Some(ssl)) = (endpoint.any_name, name, endpoint.opts.ssl_opts()) else {
        return Err(error);
    };
    let ssl = ssl.clone().with_danger_tls_hostname_override(Some(name));
    let opts = OptsBuilder::from_opts(endpoint.opts.clone()).ssl_opts(ssl);
    dial(place, opts.into()).await
}

/// One attempt. The driver panics where a server asks for an authentication plugin that it knows and was not built
/// with (`parsec`).
async fn dial(place: &str, opts: Opts) -> Result<Conn> {
    let attempt = AssertUnwindSafe(within(CONNECT, place, Conn::new(opts))).catch_unwind();
    attempt.await.unwrap_or_else(|_| Err(error::unknown_plugin(place)))
}

/// Awaits a driver call with a deadline.
pub(crate) async fn within<T>(
    limit: Duration,
    place: &str,
    call: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|e| error::map(place, e)),
        Err(_) => Err(Error::transient(
            Code::ServerBusy,
            format!("{place}: no answer within {} s", limit.as_secs()),
        )),
    }
}

impl Session {
    /// Connects, and learns the flavour from the server's own version text.
    pub async fn open(endpoint: &Endpoint) -> Result<Session> {
        let place = endpoint.shown.clone();
        let conn = connect(endpoint).await?;
        let mut session = Session { conn, flavour: Flavour::MySql, version: String::new(), place };
        session.run(PINNED).await?;
        session.run("SET SESSION TRANSACTION READ WRITE").await?;
        session.version = session.one("SELECT VERSION()").await?;
        if session.version.to_ascii_lowercase().contains("mariadb") {
            session.flavour = Flavour::MariaDb;
        }
        let unlimited = match session.flavour {
            Flavour::MariaDb => "SET SESSION max_statement_time = 0",
            Flavour::MySql => "SET SESSION max_execution_time = 0",
        };
        session.run(unlimited).await?;
        Ok(session)
    }

    /// Whether it is MariaDB.
    pub fn maria(&self) -> bool {
        self.flavour == Flavour::MariaDb
    }

    /// Executes a statement without result.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        within(STATEMENT, &self.place, self.conn.query_drop(sql)).await
    }

    /// Executes several statements without result in one trip, which ends at the first that fails: how many rows each met, and how many
    /// warnings there were.
    pub async fn trip(&mut self, sql: String) -> mysql_async::Result<(Vec<u64>, u64)> {
        let (mut met, mut warnings) = (Vec::new(), 0);
        let mut answers = self.conn.query_iter(sql).await?;
        loop {
            met.push(answers.affected_rows());
            warnings += u64::from(answers.warnings());
            if answers.is_empty() {
                // The driver keeps the error of a later statement until somebody asks.
                answers.drop_result().await?;
                return Ok((met, warnings));
            }
            answers.next().await?;
        }
    }

    /// Executes a prepared statement without result; tells the matched rows.
    pub async fn exec<S, P>(&mut self, sql: S, params: P) -> Result<u64>
    where
        S: StatementLike,
        P: Into<Params> + Send,
    {
        within(STATEMENT, &self.place, self.conn.exec_drop(sql, params)).await?;
        Ok(self.conn.affected_rows())
    }

    /// All rows of a prepared statement.
    pub async fn rows<T, P>(&mut self, sql: &str, params: P) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
        P: Into<Params> + Send,
    {
        within(STATEMENT, &self.place, self.conn.exec(sql, params)).await
    }

    /// All rows of a plain statement.
    pub async fn query<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<T>> {
        within(STATEMENT, &self.place, self.conn.query(sql)).await
    }

    /// The one row of a plain statement.
    pub async fn one<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<T> {
        within(STATEMENT, &self.place, self.conn.query_first(sql)).await?.ok_or_else(|| {
            Error::bug(format!("{}: the server gave no row where it must give one", self.place))
        })
    }

    /// A global setting as text; `None` where the server does not know it.
    pub async fn setting(&mut self, name: &str) -> Result<Option<String>> {
        let rows: Vec<(String, String)> =
            self.rows("SHOW GLOBAL VARIABLES WHERE Variable_name = ?", (name,)).await?;
        Ok(rows.into_iter().next().map(|(_, value)| value))
    }

    /// Whether a global setting is on.
    pub async fn is_on(&mut self, name: &str) -> Result<bool> {
        Ok(self
            .setting(name)
            .await?
            .is_some_and(|v| matches!(v.to_ascii_uppercase().as_str(), "ON" | "1" | "YES")))
    }

    /// The current file and offset of the binlog.
    pub async fn log_end(&mut self) -> Result<(String, u64)> {
        let mut last = None;
        for sql in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS", "SHOW BINLOG STATUS"] {
            let answer =
                within(STATEMENT, &self.place, self.conn.query_first::<mysql_async::Row, _>(sql));
            match answer.await {
                Ok(Some(row)) => {
                    let file = row.get_opt::<String, _>(0).and_then(std::result::Result::ok);
                    let offset = row.get_opt::<u64, _>(1).and_then(std::result::Result::ok);
                    if let (Some(file), Some(offset)) = (file, offset) {
                        return Ok((file, offset));
                    }
                }
                Ok(None) => {
                    return Err(Error::setup(
                        Code::ServerSetting,
                        format!("{}: the binary log is switched off", self.place),
                    )
                    .with_hint("set log_bin in the server's configuration and restart it"));
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::bug(format!("{}: no binlog status", self.place))))
    }
}

/// Quotes an identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A literal of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("X'");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(DIGITS.get(usize::from(nibble)).map_or('0', |d| char::from(*d)));
        }
    }
    text.push('\'');
    text
}

/// Quotes a text literal so that neither `sql_mode` nor content can end it: as hex.
pub(crate) fn literal(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    let hex: String = text.bytes().map(|b| format!("{b:02X}")).collect();
    format!("CONVERT(0x{hex} USING utf8mb4)")
}
