//! How a session becomes the flow's writer, or a loader beside it: the lock, the epoch, and the end of who was before.

use std::sync::Arc;

use rustls::ClientConfig;
use sha2::{Digest, Sha256};
use tidelock_core::{Code, Error, Lease, OpenSink, Progress, Result, Sink, SinkSpec};

use super::{PgSink, number};
use crate::config::Address;
use crate::meta;
use crate::quote::ident;
use crate::session::{Session, get};

/// Time after which a holder that does nothing is taken for dead; a live one pings more often.
const STUCK_SECONDS: f64 = 30.0;

/// Startup settings of an apply session. Search path and time zone stay the role's own: triggers
/// and defaults of the target may rely on them. What decides how a text is read as a value is pinned
/// (`array_nulls = off` would store a NULL in an array as the text NULL).
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c lc_monetary=C \
     -c extra_float_digits=3 -c standard_conforming_strings=on -c array_nulls=on -c xmloption=content \
     -c statement_timeout=0 -c lock_timeout=60s -c idle_in_transaction_session_timeout=30s \
     -c default_transaction_read_only=off -c jit=off -c enable_seqscan=off \
     -c plan_cache_mode=force_generic_plan";

/// Tries to become the flow's writer.
pub(crate) async fn open(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    spec: &SinkSpec,
) -> Result<Lease> {
    let session = Session::open(address, tls, SETTINGS).await?;
    let again = set_limits(&session).await?;
    let schema = &address.meta_schema;
    if !meta::missing(&session, schema).await?.is_empty() {
        return Err(Error::setup(
            Code::Catalog,
            format!("schema {schema} lacks tidelock's tables"),
        )
        .with_hint(format!("have a DBA run:\n{}", meta::ddl(schema).join("\n"))));
    }
    let key = lock_key(spec);
    let row = session
        .query_one("taking the flow's lock", "SELECT pg_try_advisory_lock($1)", &[&key])
        .await?;
    if !get::<bool>(&row, 0)? {
        return busy(&session, schema, spec, key).await;
    }
    meta::keep_format(&session, schema).await?;
    end_loaders(&session, spec).await;
    let progress = take_over(&session, schema, spec).await?;
    let sink = PgSink::new((session, again), spec.clone(), schema.clone(), 0).await?;
    Ok(Lease::Held(OpenSink { sink: Box::new(sink), progress }))
}

/// Opens a session that loads beside the one that holds the flow.
pub(crate) async fn open_loader(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    spec: &SinkSpec,
    epoch: u64,
    lane: u32,
) -> Result<Box<dyn Sink>> {
    let session = Session::open(address, tls, SETTINGS).await?;
    let again = set_limits(&session).await?;
    // Shared with the flow's other loaders: by it a successor finds them.
    let key = key_of("loaders", spec);
    session
        .query("taking the loaders' lock", "SELECT pg_advisory_lock_shared($1)", &[&key])
        .await?;
    let schema = address.meta_schema.clone();
    let sql = format!(
        "INSERT INTO {0}.progress (pipeline, flow, lane, epoch, seq, hop_list, source_identity, \
         position, config_hash, holder, backend, source_commit_micros, updated_at) \
         SELECT pipeline, flow, $4, epoch, 0, '0', source_identity, position, config_hash, holder, \
         pg_backend_pid()::text, 0, clock_timestamp() FROM {0}.progress \
         WHERE pipeline = $1 AND flow = $2 AND lane = 0 AND epoch = $3 FOR SHARE \
         ON CONFLICT (pipeline, flow, lane) DO UPDATE SET epoch = EXCLUDED.epoch, seq = 0, \
         hop_list = '0', source_identity = EXCLUDED.source_identity, position = EXCLUDED.position, \
         config_hash = EXCLUDED.config_hash, holder = EXCLUDED.holder, backend = EXCLUDED.backend, \
         updated_at = EXCLUDED.updated_at",
        ident(&schema)
    );
    let lane = i32::try_from(lane).map_err(|_| Error::bug("a lane's number ran over"))?;
    let rows = session
        .execute(
            "making a loader's row",
            &sql,
            &[&spec.pipeline, &spec.flow, &number(epoch)?, &lane],
        )
        .await?;
    let sink = PgSink::new((session, again), spec.clone(), schema, lane).await?;
    if rows == 1 { Ok(Box::new(sink)) } else { Err(sink.fenced()) }
}

/// Sets the session's limits. Answers the statements that make it again what it is now, whatever a routine has set in it.
async fn set_limits(session: &Session) -> Result<String> {
    let version = session.version().await?;
    let mut sql = String::from("SET tcp_user_timeout = '30s'; SET tcp_keepalives_idle = 10;");
    if version >= 140_000 {
        sql.push_str("SET idle_session_timeout = '30s';");
    }
    if version >= 170_000 {
        sql.push_str("SET transaction_timeout = 0;");
    }
    session.batch("setting the session's limits", &sql).await?;
    let row = session
        .query_one(
            "reading synchronous_commit",
            "SELECT current_setting('synchronous_commit') IN ('off', 'local')",
            &[],
        )
        .await?;
    if get(&row, 0)? {
        // A commit that the server may still lose must not be confirmed to the source.
        let durable = "SET synchronous_commit = on;";
        session.batch("setting synchronous_commit", durable).await?;
        sql.push_str(durable);
    }
    // What was given at the start is what a reset comes back to.
    Ok(format!("RESET ROLE; RESET ALL; {sql}"))
}

/// Ends the loaders of whoever held the flow before: one that hangs would keep the epoch from being raised. What they had
/// not committed is read again.
async fn end_loaders(session: &Session, spec: &SinkSpec) {
    let sql = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (l.classid::int8 << 32 | l.objid::int8) = $1";
    let key = key_of("loaders", spec);
    // Without the right to do so they are waited for.
    if let Err(error) = session.query("ending loaders of before", sql, &[&key]).await {
        tracing::debug!(flow = %spec.flow, %error, "loaders of before were not ended");
    }
}

/// The number of the flow's advisory lock.
fn lock_key(spec: &SinkSpec) -> i64 {
    key_of("tidelock", spec)
}

fn key_of(kind: &str, spec: &SinkSpec) -> i64 {
    let digest = Sha256::digest(format!("{kind}:{}:{}", spec.pipeline, spec.flow));
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    i64::from_be_bytes(first)
}

/// Names the holder, and ends it if it has been doing nothing for too long.
async fn busy(session: &Session, schema: &str, spec: &SinkSpec, key: i64) -> Result<Lease> {
    let sql = "SELECT a.pid, a.state LIKE 'idle%' \
                      AND extract(epoch FROM clock_timestamp() - a.state_change)::float8 > $2 \
               FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                 AND (l.classid::int8 << 32 | l.objid::int8) = $1";
    let held = session.query_opt("looking for the holder", sql, &[&key, &STUCK_SECONDS]).await?;
    let mut backend = String::new();
    if let Some(row) = held {
        let pid: i32 = get(&row, 0)?;
        backend = format!("backend {pid}");
        if get::<Option<bool>>(&row, 1)? == Some(true) {
            session
                .query("ending a dead holder", "SELECT pg_terminate_backend($1)", &[&pid])
                .await?;
        }
    }
    let sql = format!(
        "SELECT holder FROM {}.progress WHERE pipeline = $1 AND flow = $2 AND lane = 0",
        ident(schema)
    );
    let holder =
        match session.query_opt("reading the holder", &sql, &[&spec.pipeline, &spec.flow]).await? {
            Some(row) => get(&row, 0)?,
            None => "a process that has just started".to_owned(),
        };
    let holder = if backend.is_empty() { holder } else { format!("{holder} ({backend})") };
    Ok(Lease::Busy { holder })
}

/// Raises the epoch, which fences off everybody before us.
async fn take_over(session: &Session, schema: &str, spec: &SinkSpec) -> Result<Option<Progress>> {
    let sql = format!(
        "UPDATE {}.progress SET epoch = epoch + 1, seq = seq, hop_list = hop_list, holder = $3, \
         backend = pg_backend_pid()::text, updated_at = clock_timestamp() \
         WHERE pipeline = $1 AND flow = $2 AND lane = 0 RETURNING {}",
        ident(schema),
        meta::PROGRESS_COLUMNS
    );
    session
        .query_opt("taking the flow over", &sql, &[&spec.pipeline, &spec.flow, &spec.holder])
        .await?
        .as_ref()
        .map(meta::progress)
        .transpose()
}
