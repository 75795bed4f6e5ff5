//! The replication slot: making it, proving that it continues at our position, removing it.
//!
//! PostgreSQL answers a request for an older position than the slot's by silently starting at the
//! slot's, and one for a newer position by silently skipping. Both would lose changes without a
//! word, so before every start this module proves `confirmed_flush <= ours <= end of the log` on the
//! very server, timeline and database that our position belongs to.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tidelock_core::{Code, Dropped, Error, Position, Result, SourceSpec};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Address;
use crate::lsn::Lsn;
use crate::publication::{self, Removed};
use crate::quote::{ident, literal};
use crate::session::{Session, get};
use crate::wire::Wire;

/// How long the making of a slot may wait for transactions that are open.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long we wait for a slot that we have just freed.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A slot as the server shows it, and the end of the log at that moment.
struct Slot {
    plugin: Option<String>,
    database: Option<String>,
    confirmed: Option<Lsn>,
    restart: Option<Lsn>,
    wal_status: Option<String>,
    here: String,
}

/// Where the durable log ends now.
async fn log_end(session: &Session) -> Result<Lsn> {
    let sql = "SELECT pg_current_wal_flush_lsn()::text";
    get::<&str>(&session.query_one("reading the log's end", sql, &[]).await?, 0)?.parse()
}

async fn find(session: &Session, name: &str) -> Result<Option<Slot>> {
    let sql = "SELECT plugin::text, database::text, confirmed_flush_lsn::text, restart_lsn::text, \
               wal_status, current_database()::text FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = session.query_opt("looking at the slot", sql, &[&name]).await? else {
        return Ok(None);
    };
    let lsn = |index| -> Result<Option<Lsn>> {
        get::<Option<&str>>(&row, index)?.map(str::parse).transpose()
    };
    Ok(Some(Slot {
        plugin: get(&row, 0)?,
        database: get(&row, 1)?,
        confirmed: lsn(2)?,
        restart: lsn(3)?,
        wal_status: get(&row, 4)?,
        here: get(&row, 5)?,
    }))
}

/// Server, timeline and database: what a position belongs to.
pub(crate) async fn history(session: &Session) -> Result<String> {
    // The control file's timeline is that of the last checkpoint, so after a promotion it lags; the
    // name of the file being written does not.
    let sql = "SELECT 'pg:' || (SELECT system_identifier FROM pg_control_system()) || ':' || \
               CASE WHEN pg_is_in_recovery() \
                    THEN (SELECT timeline_id FROM pg_control_checkpoint())::text \
                    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4::text \
               END || ':' || (SELECT oid FROM pg_database WHERE datname = current_database())";
    get(&session.query_one("identifying the server", sql, &[]).await?, 0)
}

/// Ends our own earlier session that still holds the slot, and waits until it is free.
async fn release(session: &Session, name: &str) -> Result<()> {
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let sql = "SELECT s.active_pid, coalesce(a.application_name, '') \
                   FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid \
                   WHERE s.slot_name = $1 AND s.active";
        let Some(row) = session.query_opt("looking at the slot", sql, &[&name]).await? else {
            return Ok(());
        };
        let pid: Option<i32> = get(&row, 0)?;
        let ours = get::<&str>(&row, 1)? == "tidelock";
        if !ours || Instant::now() > deadline {
            let pid = pid.map_or_else(|| "another process".to_owned(), |p| format!("process {p}"));
            return Err(Error::transient(
                Code::ServerBusy,
                format!("slot {name} is in use by {pid} of the server"),
            )
            .with_hint("stop the other reader, or give this flow a slot of its own"));
        }
        // We hold the flow's lease, so a reader of that name is one that we lost.
        let sql = "SELECT pg_terminate_backend($1)";
        session.query("ending our earlier reader", sql, &[&pid]).await?;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Makes publication and slot, and tells where the stream starts.
pub(crate) async fn create(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    session: &Session,
    spec: &SourceSpec,
    adopt: bool,
) -> Result<Position> {
    let found = find(session, &spec.slot).await?;
    if let Some(start) = &spec.start_at {
        let start = Lsn::of(start)?;
        let slot = found.ok_or_else(|| no_way_back(&spec.slot))?;
        publication::ensure(session, address, spec).await?;
        check_slot(session, &spec.slot, &slot, start).await?;
        return Ok(start.to_position());
    }
    if found.is_some() {
        if !adopt {
            return Err(Error::continuity(
                Code::SlotDiverged,
                format!("a replication slot {} is already there and not known as ours", spec.slot),
            )
            .with_hint("remove it with `tidelock drop`, or name another slot for the flow"));
        }
        drop_slot(session, &spec.slot).await?;
    }
    // Before the slot: a slot reads the catalog as of each change, and a publication made after a
    // change does not exist for it.
    publication::ensure(session, address, spec).await?;
    let mut wire = Wire::open(address, tls).await?;
    Ok(make_slot(&mut wire, session, &spec.slot).await?.to_position())
}

fn no_way_back(slot: &str) -> Error {
    Error::continuity(
        Code::SlotMissing,
        format!("start_at needs the replication slot {slot}, which does not exist"),
    )
    .with_hint(
        "PostgreSQL keeps its log only for slots: create the slot before the copy that start_at \
         belongs to is made, or leave start_at out",
    )
}

async fn make_slot(wire: &mut Wire, session: &Session, name: &str) -> Result<Lsn> {
    // Rows are read in snapshots of their own, while the stream goes on.
    let option = if session.version().await? >= 150_000 {
        "(SNAPSHOT 'nothing')"
    } else {
        "NOEXPORT_SNAPSHOT"
    };
    let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {option}", ident(name));
    let doing = format!("creating slot {name}");
    let rows = match timeout(CREATE_TIMEOUT, wire.command(&doing, &command)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(blocked(session, name).await?),
    };
    let row = rows.first().ok_or_else(|| Error::bug("the server made a slot without an answer"))?;
    let cell = |index: usize| row.get(index).cloned().flatten();
    match cell(1) {
        Some(point) => point.parse(),
        None => Err(Error::bug("the server made a slot without a starting point")),
    }
}

/// Making a slot waits until every transaction that was open has ended: ends our wait at the server
/// too, and tells for whom it was.
async fn blocked(session: &Session, name: &str) -> Result<Error> {
    let end_ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE application_name = 'tidelock' AND backend_type = 'walsender' \
                    AND starts_with(query, $1)";
    let command = format!("CREATE_REPLICATION_SLOT {} ", ident(name));
    session.query("giving the slot up", end_ours, &[&command]).await?;
    let oldest = "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
                  ORDER BY xact_start LIMIT 1";
    let pid = match session.query_opt("looking for open transactions", oldest, &[]).await? {
        Some(row) => format!("process {}", get::<i32>(&row, 0)?),
        None => prepared(session).await?,
    };
    Ok(Error::transient(
        Code::ServerBusy,
        format!("creating slot {name} waits for open transactions, the oldest of {pid}"),
    )
    .with_hint("it goes on as soon as that transaction ends"))
}

/// The oldest prepared transaction, by the name that it is decided by.
async fn prepared(session: &Session) -> Result<String> {
    let oldest = "SELECT gid FROM pg_prepared_xacts ORDER BY prepared LIMIT 1";
    let gid = match session.query_opt("looking for prepared transactions", oldest, &[]).await? {
        Some(row) => format!(" '{}' (pg_prepared_xacts)", get::<String>(&row, 0)?),
        None => String::new(),
    };
    Ok(format!("a prepared transaction{gid}"))
}

/// Proves that the log continues at `from` and starts the stream.
pub(crate) async fn start(
    address: &Address,
    tls: Option<&Arc<ClientConfig>>,
    session: &Session,
    spec: &SourceSpec,
    from: Lsn,
) -> Result<Wire> {
    check_history(session, address, spec).await?;
    let slot = find(session, &spec.slot).await?.ok_or_else(|| {
        Error::continuity(
            Code::SlotMissing,
            format!("the replication slot {} is gone from {}", spec.slot, address.endpoint()),
        )
        .with_hint("what was written since is no longer in the log: `tidelock resync` the flow")
    })?;
    check_slot(session, &spec.slot, &slot, from).await?;
    publication::join(session, address, spec).await?;
    release(session, &spec.slot).await?;
    let mut wire = Wire::open(address, tls).await?;
    check_same_server(&mut wire, spec).await?;
    // Once more, with the slot in nobody's hands: the earlier reader might still have moved it.
    let slot = find(session, &spec.slot).await?.ok_or_else(|| {
        Error::continuity(Code::SlotMissing, format!("the slot {} has just gone", spec.slot))
    })?;
    check_slot(session, &spec.slot, &slot, from).await?;
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
        ident(&spec.slot),
        literal(&ident(&spec.publication)),
    );
    timeout(Duration::from_secs(60), wire.start(&command)).await.map_err(|_| {
        Error::transient(Code::ServerBusy, format!("slot {} does not start", spec.slot))
    })??;
    Ok(wire)
}

async fn check_history(session: &Session, address: &Address, spec: &SourceSpec) -> Result<()> {
    let now = history(session).await?;
    if now == spec.identity {
        return Ok(());
    }
    let parts = |text: &str| text.split(':').map(str::to_owned).collect::<Vec<_>>();
    let (was, is) = (parts(&spec.identity), parts(&now));
    let same_server = was.len() == 4 && is.len() == 4 && was[1] == is[1] && was[3] == is[3];
    let message = if same_server {
        format!(
            "{} was promoted or restored since our position was taken: it is on timeline {} now, \
             and the position belongs to timeline {}",
            address.endpoint(),
            is[2],
            was[2]
        )
    } else {
        format!("{} is another server or database than our position belongs to", address.endpoint())
    };
    Err(Error::continuity(Code::SourceForeign, message)
        .with_detail(format!("position of {}, server is {now}", spec.identity))
        .with_hint("check the address; if the change is meant, `tidelock resync` the flow"))
}

/// The replication connection might have reached another server than the ordinary one.
async fn check_same_server(wire: &mut Wire, spec: &SourceSpec) -> Result<()> {
    let rows = wire.command("identifying the server", "IDENTIFY_SYSTEM").await?;
    let cell = |index: usize| {
        rows.first().and_then(|r| r.get(index)).cloned().flatten().unwrap_or_default()
    };
    let prefix = format!("pg:{}:{}:", cell(0), cell(1));
    if spec.identity.starts_with(&prefix) {
        return Ok(());
    }
    Err(Error::continuity(
        Code::SourceForeign,
        format!("{} reaches different servers from one connection to the next", wire.endpoint()),
    )
    .with_hint("give the address of the primary itself, not of a balancer"))
}

async fn check_slot(session: &Session, name: &str, slot: &Slot, from: Lsn) -> Result<()> {
    if slot.plugin.as_deref() != Some("pgoutput") {
        return Err(diverged(format!("slot {name} is not a pgoutput slot")));
    }
    if slot.database.as_deref() != Some(slot.here.as_str()) {
        return Err(diverged(format!("slot {name} belongs to another database")));
    }
    if slot.wal_status.as_deref() == Some("lost") || slot.restart.is_none() {
        return Err(Error::continuity(
            Code::LogPurged,
            format!("the server has invalidated slot {name}: log that we need is removed"),
        )
        .with_hint(
            "`tidelock resync` the flow; raise max_slot_wal_keep_size (and on PostgreSQL 18 \
             idle_replication_slot_timeout) so that it does not happen again",
        ));
    }
    match slot.confirmed {
        Some(confirmed) if confirmed > from => {
            return Err(diverged(format!(
                "slot {name} stands at {confirmed}, beyond our position {from}: it was advanced or \
                 made anew, and the changes between are lost to it"
            )));
        }
        Some(_) => {}
        None => return Err(diverged(format!("slot {name} has no position"))),
    }
    let end = log_end(session).await?;
    if from > end {
        return Err(Error::continuity(
            Code::SourceForeign,
            format!(
                "the log ends at {end}, before our position {from}: the server went back in time"
            ),
        )
        .with_hint("it was restored or rewound; `tidelock resync` the flow"));
    }
    Ok(())
}

fn diverged(message: String) -> Error {
    Error::continuity(Code::SlotDiverged, message).with_hint("`tidelock resync` the flow")
}

async fn drop_slot(session: &Session, name: &str) -> Result<()> {
    release(session, name).await?;
    session
        .execute("dropping the slot", "SELECT pg_drop_replication_slot($1)", &[&name])
        .await
        .map(|_| ())
}

/// Removes the slot, which would hold the log for ever, and then the publication.
pub(crate) async fn remove(session: &Session, spec: &SourceSpec) -> Result<Dropped> {
    let mut dropped = Dropped::default();
    if find(session, &spec.slot).await?.is_some() {
        drop_slot(session, &spec.slot).await?;
        dropped.removed.push(format!("replication slot {}", spec.slot));
    }
    match publication::remove(session, &spec.publication).await? {
        Removed::WasNotThere => {}
        Removed::Gone => dropped.removed.push(format!("publication {}", spec.publication)),
        Removed::NotOurs(sql) => dropped.left.push(format!(
            "publication {} is not ours: have its owner run: {sql}",
            spec.publication
        )),
    }
    Ok(dropped)
}

/// Slots and publications whose names begin as those of this pipeline do; a pipeline whose name goes
/// on where this one ends has such names too.
pub(crate) async fn leftovers(session: &Session, pipeline: &str) -> Result<Vec<String>> {
    let legal: String = pipeline
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect();
    // The engine cuts longer names there and puts a hash behind.
    let prefix: String = format!("tidelock_{legal}_").chars().take(54).collect();
    let sql = "SELECT 'replication slot ' || slot_name FROM pg_replication_slots \
               WHERE starts_with(slot_name::text, $1) AND database = current_database() \
               UNION ALL SELECT 'publication ' || pubname FROM pg_publication \
               WHERE starts_with(pubname::text, $1) ORDER BY 1";
    let rows = session.query("looking for leftovers", sql, &[&prefix]).await?;
    rows.iter().map(|row| get(row, 0)).collect()
}
