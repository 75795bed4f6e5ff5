//! tidelock's own tables: the system's id, progress rows, lasting states, copies and memory.

use mysql_async::Row;
use tidelock_core::memory::{FORMAT, FORMAT_KEY, MEMORY_KEY_MAX, MEMORY_PREFIX, format_is_due};
use tidelock_core::{
    Code, CopyPhase, CopyReason, CopyRow, Error, FLOW_CHARS_MAX, MAPPING_CHARS_MAX, MEMORY_TABLE,
    MemoryPrefix, MemoryRange, PIPELINE_CHARS_MAX, PROGRESS_TABLE, Position, Progress, Result,
    SNAPSHOT_TABLE, StateRow, StoredState, SystemId,
};

use crate::session::{Session, hex, quote};

/// Our tables.
pub(crate) const TABLES: [&str; 5] =
    ["system", PROGRESS_TABLE, "state", SNAPSHOT_TABLE, MEMORY_TABLE];

/// The statements that make the meta database, in order.
pub(crate) fn ddl(meta: &str) -> Vec<String> {
    let db = quote(meta);
    let tail = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin";
    vec![
        format!("CREATE DATABASE IF NOT EXISTS {db}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {db}.`system` (one tinyint NOT NULL PRIMARY KEY, \
             id varchar(32) NOT NULL, created_at timestamp(6) NOT NULL DEFAULT \
             CURRENT_TIMESTAMP(6)) {tail}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {db}.`progress` (pipeline varchar({PIPELINE_CHARS_MAX}) NOT NULL, \
             flow varchar({FLOW_CHARS_MAX}) NOT NULL, lane int NOT NULL DEFAULT 0, \
             epoch bigint unsigned NOT NULL, seq bigint unsigned NOT NULL, \
             hop_list varchar(2000) NOT NULL, source_identity varchar(500) NOT NULL, \
             position mediumtext NOT NULL, config_hash varchar(64) NOT NULL, \
             holder varchar(255) NOT NULL, backend bigint unsigned NOT NULL, \
             source_commit_micros bigint NOT NULL, updated_at timestamp(6) NOT NULL \
             DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (pipeline, flow, lane)) {tail}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {db}.`state` (pipeline varchar({PIPELINE_CHARS_MAX}) NOT NULL, \
             flow varchar({FLOW_CHARS_MAX}) NOT NULL, mapping varchar({MAPPING_CHARS_MAX}) NOT NULL, \
             state varchar(16) NOT NULL, code varchar(16) NOT NULL, message text NOT NULL, \
             hint text NOT NULL, position mediumtext NOT NULL, at timestamp(6) NOT NULL \
             DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (pipeline, flow, mapping)) {tail}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {db}.`snapshot` (pipeline varchar({PIPELINE_CHARS_MAX}) NOT NULL, \
             flow varchar({FLOW_CHARS_MAX}) NOT NULL, mapping varchar({MAPPING_CHARS_MAX}) NOT NULL, \
             reason varchar(16) NOT NULL, phase varchar(16) NOT NULL, sweep int NOT NULL, \
             `cursor` mediumtext NOT NULL, filter text NOT NULL, `columns` mediumtext NOT NULL, \
             rows_done bigint unsigned NOT NULL, rows_total bigint unsigned NOT NULL, \
             started_micros bigint NOT NULL, finished_micros bigint NOT NULL, \
             PRIMARY KEY (pipeline, flow, mapping)) {tail}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {db}.`{MEMORY_TABLE}` (`key` varbinary({}) NOT NULL PRIMARY KEY, \
             value mediumblob NOT NULL) {tail}",
            MEMORY_PREFIX + MEMORY_KEY_MAX
        ),
    ]
}

/// Which of our tables there are.
async fn tables(session: &mut Session, meta: &str) -> Result<Vec<String>> {
    session
        .rows("SELECT table_name FROM information_schema.tables WHERE table_schema = ?", (meta,))
        .await
}

/// Whether all of our tables are there.
pub(crate) async fn complete(session: &mut Session, meta: &str) -> Result<bool> {
    let there = tables(session, meta).await?;
    Ok(TABLES.iter().all(|t| there.iter().any(|x| x == t)))
}

async fn has(session: &mut Session, meta: &str, table: &str) -> Result<bool> {
    Ok(tables(session, meta).await?.iter().any(|t| t == table))
}

/// The system's id, if there is one.
pub(crate) async fn system_id(session: &mut Session, meta: &str) -> Result<Option<SystemId>> {
    if !has(session, meta, "system").await? {
        return Ok(None);
    }
    let sql = format!("SELECT id FROM {}.`system` WHERE one = 1", quote(meta));
    let ids: Vec<String> = session.query(&sql).await?;
    match ids.first() {
        None => Ok(None),
        Some(id) => id.parse().map(Some).map_err(|()| {
            Error::setup(
                Code::ServerSetting,
                format!("{}: table {meta}.system is not ours", session.place),
            )
        }),
    }
}

/// Makes what is missing. Running it twice at once is harmless: every statement yields to what is
/// there, and the id is read back.
pub(crate) async fn ensure(session: &mut Session, meta: &str) -> Result<SystemId> {
    if !complete(session, meta).await? {
        for sql in ddl(meta) {
            session.run(&sql).await?;
        }
    }
    if let Some(id) = system_id(session, meta).await? {
        return Ok(id);
    }
    // MariaDB has random bytes of its own from 10.10 on.
    let id = uuid::Uuid::new_v4().simple().to_string();
    let sql = format!("INSERT IGNORE INTO {}.`system` (one, id) VALUES (1, ?)", quote(meta));
    session.exec(sql, (id,)).await?;
    system_id(session, meta)
        .await?
        .ok_or_else(|| Error::bug(format!("{}: the system's id vanished", session.place)))
}

/// Refuses what a newer binary has written; says what this one writes.
pub(crate) async fn keep_format(session: &mut Session, meta: &str) -> Result<()> {
    let (memory, key) = (format!("{}.`{MEMORY_TABLE}`", quote(meta)), hex(FORMAT_KEY));
    let stored: Vec<Vec<u8>> =
        session.query(&format!("SELECT value FROM {memory} WHERE `key` = {key}")).await?;
    if format_is_due(meta, stored.first().map(Vec::as_slice))? {
        let format = hex(FORMAT.to_string().as_bytes());
        let sql = format!(
            "INSERT INTO {memory} (`key`, value) VALUES ({key}, {format}) ON DUPLICATE KEY UPDATE value = {format}"
        );
        session.run(&sql).await?;
    }
    Ok(())
}

fn column<T: mysql_async::prelude::FromValue>(row: &Row, name: &str) -> Result<T> {
    row.get_opt::<T, _>(name).and_then(std::result::Result::ok).ok_or_else(|| {
        Error::setup(
            Code::ServerSetting,
            format!("column {name} of tidelock's own table is not as expected"),
        )
        .with_hint("drop the table and let `tidelock run` make it anew, or restore its definition")
    })
}

/// A progress row.
pub(crate) fn progress(row: &Row) -> Result<Progress> {
    Ok(Progress {
        pipeline: column(row, "pipeline")?,
        flow: column(row, "flow")?,
        epoch: column(row, "epoch")?,
        seq: column(row, "seq")?,
        source_identity: column(row, "source_identity")?,
        position: Position::new(column::<String>(row, "position")?),
        config_hash: column(row, "config_hash")?,
        source_commit_micros: column(row, "source_commit_micros")?,
    })
}

/// The progress rows of a pipeline.
pub(crate) async fn read_progress(
    session: &mut Session,
    meta: &str,
    pipeline: &str,
) -> Result<Vec<Progress>> {
    if !has(session, meta, PROGRESS_TABLE).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT * FROM {}.`progress` WHERE pipeline = ? AND lane = 0 ORDER BY flow",
        quote(meta)
    );
    let rows: Vec<Row> = session.rows(&sql, (pipeline,)).await?;
    rows.iter().map(progress).collect()
}

/// The lasting states of a pipeline.
pub(crate) async fn read_states(
    session: &mut Session,
    meta: &str,
    pipeline: &str,
) -> Result<Vec<StateRow>> {
    if !has(session, meta, "state").await? {
        return Ok(Vec::new());
    }
    let sql =
        format!("SELECT * FROM {}.`state` WHERE pipeline = ? ORDER BY flow, mapping", quote(meta));
    let rows: Vec<Row> = session.rows(&sql, (pipeline,)).await?;
    rows.iter()
        .map(|row| {
            Ok(StateRow {
                pipeline: column(row, "pipeline")?,
                flow: column(row, "flow")?,
                mapping: column(row, "mapping")?,
                state: match column::<String>(row, "state")?.as_str() {
                    "paused" => StoredState::Paused,
                    _ => StoredState::Stopped,
                },
                code: column::<String>(row, "code")?.parse().ok(),
                message: column(row, "message")?,
                hint: column(row, "hint")?,
                position: column(row, "position")?,
            })
        })
        .collect()
}

/// Writes a lasting state over one of the same flow and mapping.
pub(crate) async fn write_state(session: &mut Session, meta: &str, row: &StateRow) -> Result<()> {
    // `hint` and the others are assigned from the bound values again instead of VALUES(), which
    // MySQL warns of; the one unique key is the primary key.
    let sql = format!(
        "INSERT INTO {}.`state` (pipeline, flow, mapping, state, code, message, hint, position, at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, NOW(6)) ON DUPLICATE KEY UPDATE state = ?, code = ?, \
         message = ?, hint = ?, position = ?, at = NOW(6)",
        quote(meta)
    );
    let code = row.code.map_or("", Code::as_str);
    let tail = [row.state.as_str(), code, &row.message, &row.hint, &row.position];
    let params: Vec<mysql_async::Value> = [row.pipeline.as_str(), &row.flow, &row.mapping]
        .into_iter()
        .chain(tail)
        .chain(tail)
        .map(Into::into)
        .collect();
    session.exec(sql, params).await.map(drop)
}

/// Removes a lasting state.
pub(crate) async fn clear_state(
    session: &mut Session,
    meta: &str,
    (pipeline, flow, mapping): (&str, &str, &str),
) -> Result<()> {
    if !has(session, meta, "state").await? {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM {}.`state` WHERE pipeline = ? AND flow = ? AND mapping = ?",
        quote(meta)
    );
    session.exec(sql, (pipeline, flow, mapping)).await.map(drop)
}

/// How far the copies of a pipeline have come.
pub(crate) async fn read_copies(
    session: &mut Session,
    meta: &str,
    pipeline: &str,
) -> Result<Vec<CopyRow>> {
    if !has(session, meta, SNAPSHOT_TABLE).await? {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT * FROM {}.`snapshot` WHERE pipeline = ? ORDER BY flow, mapping",
        quote(meta)
    );
    let unknown =
        || Error::setup(Code::ServerSetting, "a row of table snapshot holds an unknown word");
    let rows: Vec<Row> = session.rows(&sql, (pipeline,)).await?;
    rows.iter()
        .map(|row| {
            Ok(CopyRow {
                pipeline: column(row, "pipeline")?,
                flow: column(row, "flow")?,
                mapping: column(row, "mapping")?,
                reason: CopyReason::parse(&column::<String>(row, "reason")?).ok_or_else(unknown)?,
                phase: CopyPhase::parse(&column::<String>(row, "phase")?).ok_or_else(unknown)?,
                sweep: column::<i64>(row, "sweep")? != 0,
                cursor: column(row, "cursor")?,
                filter: column(row, "filter")?,
                columns: column(row, "columns")?,
                rows_done: column(row, "rows_done")?,
                rows_total: column(row, "rows_total")?,
                started_micros: column(row, "started_micros")?,
                finished_micros: column(row, "finished_micros")?,
            })
        })
        .collect()
}

/// Writes how far a copy has come.
pub(crate) async fn write_copy(session: &mut Session, meta: &str, row: &CopyRow) -> Result<()> {
    // Values are bound twice instead of VALUES(), which MySQL warns of; the one unique key is the
    // primary key.
    let sql = format!(
        "INSERT INTO {}.`snapshot` (pipeline, flow, mapping, reason, phase, sweep, `cursor`, filter, \
         rows_done, rows_total, started_micros, finished_micros, `columns`) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE reason = ?, phase = ?, \
         sweep = ?, `cursor` = ?, filter = ?, rows_done = ?, rows_total = ?, started_micros = ?, \
         finished_micros = ?, `columns` = ?",
        quote(meta)
    );
    let tail: [mysql_async::Value; 10] = [
        row.reason.as_str().into(),
        row.phase.as_str().into(),
        i64::from(row.sweep).into(),
        row.cursor.as_str().into(),
        row.filter.as_str().into(),
        row.rows_done.into(),
        row.rows_total.into(),
        row.started_micros.into(),
        row.finished_micros.into(),
        row.columns.as_str().into(),
    ];
    let params: Vec<mysql_async::Value> = [row.pipeline.as_str(), &row.flow, &row.mapping]
        .into_iter()
        .map(Into::into)
        .chain(tail.clone())
        .chain(tail)
        .collect();
    session.exec(sql, params).await.map(drop)
}

/// Forgets the copy of a mapping.
pub(crate) async fn clear_copy(
    session: &mut Session,
    meta: &str,
    (pipeline, flow, mapping): (&str, &str, &str),
) -> Result<()> {
    if !has(session, meta, SNAPSHOT_TABLE).await? {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM {}.`snapshot` WHERE pipeline = ? AND flow = ? AND mapping = ?",
        quote(meta)
    );
    session.exec(sql, (pipeline, flow, mapping)).await.map(drop)
}

/// Rows that one statement forgets.
const FORGOTTEN_ROWS: u64 = 20_000;

/// Forgets what is remembered below a prefix, in the database of this quoted name; tells how much it was.
pub(crate) async fn forget_range(
    session: &mut Session,
    db: &str,
    whose: &MemoryPrefix,
) -> Result<u64> {
    let MemoryRange { low, high } = whose.range(&[])?;
    let sql = format!(
        "DELETE FROM {db}.`{MEMORY_TABLE}` WHERE `key` >= {} AND `key` < {} \
         ORDER BY `key` LIMIT {FORGOTTEN_ROWS}",
        hex(&low),
        hex(&high)
    );
    let mut forgotten = 0;
    loop {
        session.run(&sql).await?;
        let now = session.conn.affected_rows();
        forgotten += now;
        if now < FORGOTTEN_ROWS {
            return Ok(forgotten);
        }
    }
}

/// Forgets what is remembered below a prefix; tells how much it was.
pub(crate) async fn forget_memory(
    session: &mut Session,
    meta: &str,
    whose: &MemoryPrefix,
) -> Result<u64> {
    if !has(session, meta, MEMORY_TABLE).await? {
        return Ok(0);
    }
    forget_range(session, &quote(meta), whose).await
}

/// Removes a flow's progress row.
pub(crate) async fn forget_progress(
    session: &mut Session,
    meta: &str,
    pipeline: &str,
    flow: &str,
) -> Result<()> {
    if !has(session, meta, PROGRESS_TABLE).await? {
        return Ok(());
    }
    let sql = format!("DELETE FROM {}.`progress` WHERE pipeline = ? AND flow = ?", quote(meta));
    session.exec(sql, (pipeline, flow)).await.map(drop)
}

/// Removes a flow's progress, state, copy and memory rows.
pub(crate) async fn forget(
    session: &mut Session,
    meta: &str,
    pipeline: &str,
    flow: &str,
) -> Result<u64> {
    let mut removed = forget_memory(session, meta, &MemoryPrefix::flow(pipeline, flow)).await?;
    for table in [PROGRESS_TABLE, "state", SNAPSHOT_TABLE] {
        if has(session, meta, table).await? {
            let sql = format!(
                "DELETE FROM {}.{} WHERE pipeline = ? AND flow = ?",
                quote(meta),
                quote(table)
            );
            removed += session.exec(sql, (pipeline, flow)).await?;
        }
    }
    if has(session, meta, MEMORY_TABLE).await? && has(session, meta, PROGRESS_TABLE).await? {
        // With the last flow goes what an older binary must not begin anew on.
        let meta = quote(meta);
        let sql = format!(
            "DELETE FROM {meta}.`{MEMORY_TABLE}` WHERE `key` = {} AND NOT EXISTS (SELECT 1 FROM {meta}.`{PROGRESS_TABLE}`)",
            hex(FORMAT_KEY)
        );
        session.run(&sql).await?;
    }
    Ok(removed)
}
