//! Where a new stream starts, and how the log is doing.

use tidelock_core::{Code, Error, Position, Probe, Result, SourceSpec};
use tokio::sync::Mutex;

use crate::config::Endpoint;
use crate::gtid::{BinlogPosition, FileOffset, GtidSet, MariaGtidSet};
use crate::retention::{Kept, Retention};
use crate::session::Session;
use crate::source;

/// Finds the start of a new stream.
pub(crate) async fn create(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SourceSpec,
) -> Result<Position> {
    let position = match &spec.start_at {
        // File, offset and GTIDs must be of one place, or the next start would find another history there.
        None if session.maria() => {
            session.run("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
            let place = snapshot_place(session).await?;
            session.run("ROLLBACK").await?;
            place
        }
        None => end(session).await?,
        Some(start) => {
            let position = start.as_str().parse()?;
            source::prove(session, spec, &endpoint.meta, &position).await?;
            position
        }
    };
    Ok(position.to_position())
}

/// The binlog place of the open snapshot.
async fn snapshot_place(session: &mut Session) -> Result<BinlogPosition> {
    let at = snapshot_offset(session).await?;
    let gtids = gtids_at(session, &at).await?;
    Ok(BinlogPosition { gtids, at: Some(at) })
}

/// File and offset of the open snapshot.
pub(crate) async fn snapshot_offset(session: &mut Session) -> Result<FileOffset> {
    let rows: Vec<(String, String)> = session.query("SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
    let get = |name: &str| {
        rows.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
    };
    let (file, offset) = (get("binlog_snapshot_file"), get("binlog_snapshot_position"));
    let place = file.zip(offset.and_then(|o| o.parse::<u64>().ok()));
    let Some((file, offset)) = place.filter(|(file, _)| !file.is_empty()) else {
        return Err(Error::setup(
            Code::ServerSetting,
            format!("{}: the binary log is switched off", session.place),
        )
        .with_hint("set log_bin in the server's configuration and restart it"));
    };
    Ok(FileOffset { file, offset })
}

/// The GTIDs at a place. The server reads the whole file up to there.
pub(crate) async fn gtids_at(session: &mut Session, at: &FileOffset) -> Result<GtidSet> {
    let gtids: Option<String> = session
        .rows("SELECT BINLOG_GTID_POS(?, ?)", (at.file.as_str(), at.offset))
        .await?
        .into_iter()
        .next()
        .flatten();
    let gtids = gtids.and_then(|t| t.parse::<MariaGtidSet>().ok()).ok_or_else(|| {
        Error::transient(
            Code::ServerBusy,
            format!("{}: the server cannot tell the GTIDs of its snapshot", session.place),
        )
    })?;
    Ok(GtidSet::MariaDb(gtids))
}

/// The log's end: GTIDs first, so that the file's offset is never before them.
async fn end(session: &mut Session) -> Result<BinlogPosition> {
    let (file, offset) = session.log_end().await?;
    let gtids = source::logged(session).await?;
    Ok(BinlogPosition { gtids, at: Some(FileOffset { file, offset }) })
}

/// One look at the log's end, and at what is kept from the applied position on. That we cannot tell the latter is no
/// reason not to tell the former.
pub(crate) async fn probe(
    session: &mut Session,
    endpoint: &Endpoint,
    retention: &Mutex<Retention>,
    from: Option<&Position>,
) -> Result<Probe> {
    let end = end(session).await?;
    let from = from.and_then(|p| p.as_str().parse::<BinlogPosition>().ok()?.at);
    let kept = match from.zip(end.at.as_ref()) {
        Some((from, end)) => {
            let mut retention = retention.lock().await;
            retention.look(session, endpoint, &from, end).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "what the log keeps is not known");
                Kept::default()
            })
        }
        None => Kept::default(),
    };
    // PROCESS is not among the rights we ask for: without it the age is simply unknown.
    let age: Option<f64> = session
        .query::<Option<f64>>(
            "SELECT CAST(MAX(TIMESTAMPDIFF(SECOND, trx_started, UTC_TIMESTAMP())) AS DOUBLE) \
             FROM information_schema.innodb_trx",
        )
        .await
        .ok()
        .and_then(|rows| rows.into_iter().next().flatten());
    Ok(Probe {
        end: end.to_position(),
        retained_bytes: kept.bytes,
        // The server asks nobody before it removes a file.
        freed_by_confirming: false,
        headroom_bytes: kept.headroom_bytes,
        headroom_seconds: kept.headroom_seconds,
        open_transaction_seconds: age.map(|a| a.max(0.0)),
    })
}
