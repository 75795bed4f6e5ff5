//! How a session becomes the flow's writer, or a loader beside it: the lock, the epoch, and the end of who was before.

use mysql_async::Row;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tidelock_core::{Lease, OpenSink, Progress, Result, Sink, SinkSpec};

use super::{BYTES_MAX, MySqlSink, flow_row};
use crate::config::Endpoint;
use crate::meta;
use crate::session::{Flavour, Session, quote};

/// A live holder pings every ten seconds.
const HOLDER_SILENT_SECONDS: u64 = 30;

/// Takes the flow's lock and raises its epoch.
pub(crate) async fn open(endpoint: &Endpoint, spec: &SinkSpec) -> Result<Lease> {
    let mut session = Session::open(endpoint).await?;
    let lock = lock_name(endpoint, spec);
    let got: Option<u64> =
        session.rows("SELECT GET_LOCK(?, 0)", (lock.as_str(),)).await?.into_iter().next().flatten();
    if got != Some(1) {
        return busy(&mut session, endpoint, spec, &lock).await;
    }
    meta::keep_format(&mut session, &endpoint.meta).await?;
    let mut sink = MySqlSink::new(session, endpoint, spec, 0).await?;
    sink.end_loaders(endpoint).await?;
    let progress = sink.raise_epoch().await?;
    Ok(Lease::Held(OpenSink { sink: Box::new(sink), progress }))
}

/// Opens a session that loads beside the one that holds the flow.
pub(crate) async fn open_loader(
    endpoint: &Endpoint,
    spec: &SinkSpec,
    epoch: u64,
    lane: u32,
) -> Result<Box<dyn Sink>> {
    let mut session = Session::open(endpoint).await?;
    // By it a successor finds us. Whoever has it still is on the way out: its row stops us if need be.
    let lock = lane_lock(endpoint, spec, lane);
    session.rows::<Option<u64>, _>("SELECT GET_LOCK(?, 0)", (lock,)).await?;
    let mut sink = MySqlSink::new(session, endpoint, spec, lane).await?;
    sink.make_lane(epoch, lane).await?;
    Ok(Box::new(sink))
}

/// Lock names are server-wide and at most 64 characters.
fn lock_name(endpoint: &Endpoint, spec: &SinkSpec) -> String {
    let text = format!("{}\0{}\0{}", endpoint.meta, spec.pipeline, spec.flow);
    let digest = Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(20).map(|b| format!("{b:02x}")).collect();
    format!("tidelock:{hex}")
}

/// The lock of a loader.
fn lane_lock(endpoint: &Endpoint, spec: &SinkSpec, lane: u32) -> String {
    format!("{}:{lane}", lock_name(endpoint, spec))
}

/// Someone holds the lock: who, and if that session has been silent for too long, its end.
async fn busy(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SinkSpec,
    lock: &str,
) -> Result<Lease> {
    let holder: Option<u64> =
        session.rows("SELECT IS_USED_LOCK(?)", (lock,)).await?.into_iter().next().flatten();
    if let Some(id) = holder {
        let silent: Vec<u64> = session
            .rows(
                "SELECT id FROM information_schema.processlist WHERE id = ? \
                 AND command = 'Sleep' AND time > ?",
                (id, HOLDER_SILENT_SECONDS),
            )
            .await?;
        if !silent.is_empty() {
            tracing::warn!(
                connection = id,
                "the holder of flow {} is silent: ending it",
                spec.flow
            );
            // It may have gone by itself in the meantime.
            if let Err(e) = session.run(&format!("KILL {id}")).await {
                tracing::debug!("kill: {e}");
            }
        }
    }
    let sql = format!(
        "SELECT holder FROM {}.`progress` WHERE pipeline = ? AND flow = ? AND lane = 0",
        quote(&endpoint.meta)
    );
    let named: Vec<String> =
        session.rows(&sql, (spec.pipeline.as_str(), spec.flow.as_str())).await.unwrap_or_default();
    let who = named.into_iter().next().unwrap_or_else(|| "another process".to_owned());
    let connection = holder.map_or(String::new(), |id| format!(" (connection {id})"));
    Ok(Lease::Busy { holder: format!("{who}{connection}") })
}

/// What decides how values are taken and judged, which a routine may set for the session and which is set anew behind each call.
pub(super) const JUDGES: &str = "SET NAMES utf8mb4, SESSION sql_mode = 'STRICT_ALL_TABLES,\
     ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO', \
     SESSION sql_notes = 1, SESSION time_zone = '+00:00', SESSION foreign_key_checks = 1, \
     SESSION unique_checks = 1, SESSION completion_type = 'NO_CHAIN', \
     SESSION sql_select_limit = 18446744073709551615, SESSION sql_big_selects = 1, \
     SESSION sql_safe_updates = 0, SESSION sql_auto_is_null = 0, \
     SESSION innodb_lock_wait_timeout = 50, SESSION lock_wait_timeout = 50, \
     SESSION lc_messages = IF(@@lc_messages LIKE 'en%', @@lc_messages, 'en_US')";

/// An end of waiting that comes sooner than this, and not in the server's own words, cannot be the server's.
pub(super) const WAITED_AT_LEAST: Duration = Duration::from_secs(25);

/// Strict mode, UTC, and the server-side limits that end a session whose process hangs.
async fn settle(session: &mut Session) -> Result<()> {
    session.run(JUDGES).await?;
    session
        .run(
            "SET SESSION net_read_timeout = 30, SESSION net_write_timeout = 30, \
             SESSION wait_timeout = 30",
        )
        .await?;
    session.run("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    if session.flavour == Flavour::MariaDb {
        // The one for writes would go before it.
        session
            .run(
                "SET SESSION idle_transaction_timeout = 30, SESSION idle_write_transaction_timeout = 0",
            )
            .await?;
    }
    Ok(())
}

impl MySqlSink {
    async fn new(
        mut session: Session,
        endpoint: &Endpoint,
        spec: &SinkSpec,
        lane: u32,
    ) -> Result<MySqlSink> {
        settle(&mut session).await?;
        let packet: u64 = session.one("SELECT @@max_allowed_packet").await?;
        // In a smaller packet even a message of a load might not fit. Galera may be told to commit a load in
        // parts, which would end our transaction.
        let local_infile = packet as usize >= BYTES_MAX
            && session.is_on("local_infile").await?
            && !session.is_on("wsrep_load_data_splitting").await?;
        let flow = flow_row(spec);
        Ok(MySqlSink {
            session,
            local_infile,
            refused: HashMap::new(),
            counted: HashMap::new(),
            apart: 0,
            asked: Instant::now(),
            lookups: HashMap::new(),
            packet_bytes_max: usize::try_from(packet).unwrap_or(usize::MAX),
            meta: quote(&endpoint.meta),
            ours: format!("{flow} AND lane = {lane}"),
            loads: lane > 0,
            statements: HashMap::new(),
            spec: spec.clone(),
            epoch: 0,
            seq: 0,
            open: false,
            broken: false,
        })
    }

    /// Ends the loaders of whoever held the flow before: one that hangs would keep the epoch from being raised. What
    /// they had not committed is read again.
    async fn end_loaders(&mut self, endpoint: &Endpoint) -> Result<()> {
        let sql = format!(
            "SELECT lane FROM {}.`progress` WHERE {} AND lane > 0",
            self.meta,
            flow_row(&self.spec)
        );
        let lanes: Vec<u32> = self.session.query(&sql).await?;
        for lane in lanes {
            let lock = lane_lock(endpoint, &self.spec, lane);
            let held: Vec<Option<u64>> =
                self.session.rows("SELECT IS_USED_LOCK(?)", (lock,)).await?;
            let Some(id) = held.into_iter().next().flatten() else { continue };
            // It may have gone by itself in the meantime, and one that we may not end is waited for.
            if let Err(error) = self.session.run(&format!("KILL {id}")).await {
                tracing::debug!(flow = %self.spec.flow, %error, "a loader of before was not ended");
            }
        }
        Ok(())
    }

    /// Makes a loader's row, or takes over the one that is there.
    async fn make_lane(&mut self, epoch: u64, lane: u32) -> Result<()> {
        let sql = format!(
            "INSERT INTO {0}.`progress` (pipeline, flow, lane, epoch, seq, hop_list, \
             source_identity, position, config_hash, holder, backend, source_commit_micros, updated_at) \
             SELECT p.pipeline, p.flow, {lane}, p.epoch, 0, '0', p.source_identity, p.position, \
             p.config_hash, p.holder, CONNECTION_ID(), 0, NOW(6) FROM {0}.`progress` p \
             WHERE {1} AND lane = 0 AND epoch = {epoch} LOCK IN SHARE MODE \
             ON DUPLICATE KEY UPDATE epoch = {epoch}, seq = 0, hop_list = '0', \
             backend = CONNECTION_ID(), updated_at = NOW(6)",
            self.meta,
            flow_row(&self.spec)
        );
        self.session.run(&sql).await?;
        // One for a new row, two for one that was changed, and as many as were found for one that was not.
        if self.session.conn.affected_rows() == 0 {
            return Err(self.taken_over());
        }
        Ok(())
    }

    async fn raise_epoch(&mut self) -> Result<Option<Progress>> {
        let (pipeline, flow) = (self.spec.pipeline.clone(), self.spec.flow.clone());
        let sql = format!(
            "UPDATE {}.`progress` SET epoch = epoch + 1, holder = ?, backend = CONNECTION_ID(), \
             config_hash = ?, updated_at = NOW(6) WHERE pipeline = ? AND flow = ? AND lane = 0",
            self.meta
        );
        let params = (&self.spec.holder, &self.spec.config_hash, &pipeline, &flow);
        // The stored hash tells the engine what the position was written under: read it first.
        let read = format!(
            "SELECT * FROM {}.`progress` WHERE pipeline = ? AND flow = ? AND lane = 0",
            self.meta
        );
        let before: Vec<Row> = self.session.rows(&read, (&pipeline, &flow)).await?;
        let Some(before) = before.first().map(meta::progress).transpose()? else {
            return Ok(None);
        };
        self.session.exec(sql, params).await?;
        let after: Vec<Row> = self.session.rows(&read, (&pipeline, &flow)).await?;
        let Some(mut progress) = after.first().map(meta::progress).transpose()? else {
            return Ok(None);
        };
        progress.config_hash = before.config_hash;
        (self.epoch, self.seq) = (progress.epoch, progress.seq);
        Ok(Some(progress))
    }
}
