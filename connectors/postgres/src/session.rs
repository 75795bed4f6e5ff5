//! An ordinary connection to a server, with a deadline on every call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use tidelock_core::{Code, Error, Result};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};

use crate::config::Address;
use crate::error::{Stage, from_client};
use crate::net;

/// Settings that a session for administration and reading pins, against whatever the role or the
/// database has set: they decide the text form of values and names, and how long a call may take (compiling a question
/// to the catalog costs more than answering it).
pub(crate) const PINNED: &str = "-c datestyle=ISO -c intervalstyle=postgres \
     -c extra_float_digits=3 -c TimeZone=UTC -c bytea_output=hex -c lc_monetary=C \
     -c quote_all_identifiers=off -c jit=off -c row_security=off -c search_path=pg_catalog -c statement_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c standard_conforming_strings=on \
     -c default_transaction_read_only=off";

/// Limits that only newer servers know (from 14 and 17), so that no startup setting can name them. Ended by one, a copy or
/// a long transaction would begin again for ever.
const UNLIMITED: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// How long a call of administration may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection and the task that drives it; both end together.
pub(crate) struct Session {
    pub(crate) client: Client,
    endpoint: String,
    driver: JoinHandle<()>,
    suspect: AtomicBool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects; `options` are startup settings, which win over those of role and database.
    pub(crate) async fn open(
        address: &Address,
        tls: Option<&Arc<ClientConfig>>,
        options: &str,
    ) -> Result<Session> {
        let stream = net::open(address, tls).await?;
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.database)
            .application_name("tidelock")
            .options(options)
            // TLS, where asked for, is already below us: `Direct` sends no request for it.
            .ssl_negotiation(SslNegotiation::Direct)
            .ssl_mode(if stream.is_encrypted() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = &address.password {
            config.password(password.expose());
        }
        let endpoint = address.endpoint();
        let (client, connection) =
            timeout(net::CONNECT_TIMEOUT, config.connect_raw(stream, net::Encrypted))
                .await
                .map_err(|_| late(&format!("logging in at {endpoint}")))?
                .map_err(|e| from_client(&e, &format!("logging in at {endpoint}"), Stage::Admin))?;
        let place = endpoint.clone();
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                // The caller meets the loss at its next call; this is only for the log.
                let error = from_client(&error, &place, Stage::Admin);
                tracing::debug!(%error, "connection ended");
            }
        });
        let session = Session { client, endpoint, driver, suspect: AtomicBool::new(false) };
        session.query("lifting the session's limits", UNLIMITED, &[]).await?;
        Ok(session)
    }

    /// Whether another call on it can succeed.
    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.suspect.load(Ordering::Relaxed)
    }

    /// Runs a call with a deadline.
    pub(crate) async fn call<T>(
        &self,
        doing: &str,
        stage: Stage,
        limit: Duration,
        future: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        self.call_told(doing, limit, future, |e, doing| from_client(e, doing, stage)).await
    }

    /// The same with another way to tell an error, given where it was met.
    pub(crate) async fn call_told<T>(
        &self,
        doing: &str,
        limit: Duration,
        future: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
        told: impl FnOnce(&tokio_postgres::Error, &str) -> Error,
    ) -> Result<T> {
        match timeout(limit, future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(told(&error, &format!("{doing} at {}", self.endpoint))),
            Err(_) => {
                self.suspect.store(true, Ordering::Relaxed);
                Err(late(&format!("{doing} at {}", self.endpoint)))
            }
        }
    }

    /// Rows of a query.
    pub(crate) async fn query(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        self.call(doing, Stage::Admin, CALL_TIMEOUT, self.client.query(sql, params)).await
    }

    /// The one row of a query.
    pub(crate) async fn query_one(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Row> {
        self.call(doing, Stage::Admin, CALL_TIMEOUT, self.client.query_one(sql, params)).await
    }

    /// The row of a query, if there is one.
    pub(crate) async fn query_opt(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Option<Row>> {
        self.call(doing, Stage::Admin, CALL_TIMEOUT, self.client.query_opt(sql, params)).await
    }

    /// Number of rows a statement touched.
    pub(crate) async fn execute(&self, doing: &str, sql: &str, params: Params<'_>) -> Result<u64> {
        self.call(doing, Stage::Admin, CALL_TIMEOUT, self.client.execute(sql, params)).await
    }

    /// Statements without parameters or results.
    pub(crate) async fn batch(&self, doing: &str, sql: &str) -> Result<()> {
        self.call(doing, Stage::Admin, CALL_TIMEOUT, self.client.batch_execute(sql)).await
    }

    /// The server's version number (`150018`).
    pub(crate) async fn version(&self) -> Result<i32> {
        let sql = "SELECT current_setting('server_version_num')::int4";
        get(&self.query_one("reading the version", sql, &[]).await?, 0)
    }
}

fn late(doing: &str) -> Error {
    Error::transient(Code::ServerBusy, format!("{doing}: no answer in time"))
}

/// A cell of a row of our own queries.
pub(crate) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T> {
    row.try_get(index).map_err(|e| Error::bug(format!("column {index} of a catalog query: {e}")))
}
