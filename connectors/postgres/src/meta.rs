//! tidelock's own tables in a database: the system's id, progress, lasting states, copies and memory.

use tidelock_core::memory::{FORMAT, FORMAT_KEY, format_is_due};
use tidelock_core::{
    Code, CopyPhase, CopyReason, CopyRow, Error, MEMORY_TABLE, MemoryPrefix, MemoryRange, Position,
    Progress, Result, StateRow, StoredState, SystemId, TableName,
};
use tokio_postgres::Row;

use crate::quote::{ident, literal};
use crate::session::{Session, get};

/// The tables, in the order they are made.
pub(crate) const TABLES: [&str; 5] = ["system", "progress", "state", "snapshot", MEMORY_TABLE];

/// The statements that make the meta schema, ready to be run by a DBA.
pub(crate) fn ddl(schema: &str) -> Vec<String> {
    let s = ident(schema);
    vec![
        format!("CREATE SCHEMA IF NOT EXISTS {s};"),
        format!(
            "CREATE TABLE IF NOT EXISTS {s}.system (\
             one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL, \
             created_at timestamptz NOT NULL DEFAULT now());"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {s}.progress (\
             pipeline text NOT NULL, flow text NOT NULL, lane int NOT NULL DEFAULT 0, \
             epoch bigint NOT NULL, seq bigint NOT NULL, hop_list text NOT NULL, \
             source_identity text NOT NULL, position text NOT NULL, config_hash text NOT NULL, \
             holder text NOT NULL, backend text NOT NULL, source_commit_micros bigint NOT NULL, \
             updated_at timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY (pipeline, flow, lane));"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {s}.state (\
             pipeline text NOT NULL, flow text NOT NULL, mapping text NOT NULL, \
             state text NOT NULL, code text, message text NOT NULL, hint text NOT NULL, \
             position text NOT NULL, at timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY (pipeline, flow, mapping));"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {s}.snapshot (\
             pipeline text NOT NULL, flow text NOT NULL, mapping text NOT NULL, \
             reason text NOT NULL, phase text NOT NULL, sweep boolean NOT NULL, \
             cursor text NOT NULL, filter text NOT NULL, columns text NOT NULL, rows_done bigint NOT NULL, \
             rows_total bigint NOT NULL, started_micros bigint NOT NULL, \
             finished_micros bigint NOT NULL, PRIMARY KEY (pipeline, flow, mapping));"
        ),
        // Room in each page, so that a value is replaced where it stands.
        format!(
            "CREATE TABLE IF NOT EXISTS {s}.{MEMORY_TABLE} (\
             key bytea PRIMARY KEY, value bytea NOT NULL) WITH (fillfactor = 85);"
        ),
    ]
}

/// What a role needs besides, where somebody else makes the schema.
pub(crate) fn grants(schema: &str, role: &str) -> Vec<String> {
    let (s, r) = (ident(schema), ident(role));
    vec![
        format!("GRANT USAGE ON SCHEMA {s} TO {r};"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO {r};"),
    ]
}

/// The progress table's full name.
pub(crate) fn progress_table(schema: &str) -> TableName {
    TableName::new(schema, tidelock_core::PROGRESS_TABLE)
}

/// The copy table's full name.
pub(crate) fn snapshot_table(schema: &str) -> TableName {
    TableName::new(schema, tidelock_core::SNAPSHOT_TABLE)
}

/// Which of our tables are missing.
pub(crate) async fn missing(session: &Session, schema: &str) -> Result<Vec<&'static str>> {
    let sql = "SELECT c.relname::text FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1";
    let rows = session.query("looking for tidelock's tables", sql, &[&schema]).await?;
    let mut there = Vec::new();
    for row in &rows {
        there.push(get::<String>(row, 0)?);
    }
    Ok(TABLES.into_iter().filter(|t| !there.iter().any(|name| name == t)).collect())
}

/// Makes what is missing and gives the system's id. `session` is this call's own.
pub(crate) async fn ensure(session: &Session, schema: &str) -> Result<SystemId> {
    if !missing(session, schema).await?.is_empty() {
        make(session, schema).await?;
    }
    if let Some(id) = system_id(session, schema).await? {
        return Ok(id);
    }
    let fresh = SystemId::from_bytes(random_bytes(session).await?);
    let sql = format!(
        "INSERT INTO {}.system (one, id) VALUES (true, $1) ON CONFLICT (one) DO NOTHING",
        ident(schema)
    );
    session.execute("writing the system's id", &sql, &[&fresh.as_str()]).await?;
    // Whoever came first has decided.
    system_id(session, schema).await?.ok_or_else(|| {
        Error::setup(Code::Catalog, format!("{schema}.system holds no id after one was written"))
    })
}

/// Refuses what a newer binary has written; says what this one writes.
pub(crate) async fn keep_format(session: &Session, schema: &str) -> Result<()> {
    let memory = format!("{}.{MEMORY_TABLE}", ident(schema));
    let sql = format!("SELECT value FROM {memory} WHERE key = $1");
    let row = session.query_opt("reading the format", &sql, &[&FORMAT_KEY]).await?;
    let stored: Option<Vec<u8>> = row.as_ref().map(|row| get(row, 0)).transpose()?;
    if format_is_due(schema, stored.as_deref())? {
        let sql = format!(
            "INSERT INTO {memory} (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value"
        );
        let format = FORMAT.to_string();
        session.execute("writing the format", &sql, &[&FORMAT_KEY, &format.as_bytes()]).await?;
    }
    Ok(())
}

async fn make(session: &Session, schema: &str) -> Result<()> {
    // CREATE … IF NOT EXISTS of two sessions at once can still collide: one at a time.
    let mut script = format!(
        "BEGIN; SELECT pg_advisory_xact_lock(hashtext('tidelock meta'), hashtext({}));",
        literal(schema)
    );
    let exists = session
        .query_opt(
            "looking for the meta schema",
            "SELECT 1 FROM pg_namespace WHERE nspname = $1",
            &[&schema],
        )
        .await?
        .is_some();
    for statement in ddl(schema).into_iter().skip(usize::from(exists)) {
        script.push_str(&statement);
    }
    script.push_str("COMMIT;");
    let doing = format!("making the schema {schema} and its tables");
    session.batch(&doing, &script).await.map_err(|error| {
        if error.code() == Code::Privilege {
            error.with_hint("`tidelock check` prints the statements that a DBA must run")
        } else {
            error
        }
    })
}

async fn random_bytes(session: &Session) -> Result<[u8; 16]> {
    let row = session.query_one("making an id", "SELECT uuid_send(gen_random_uuid())", &[]).await?;
    <[u8; 16]>::try_from(get::<&[u8]>(&row, 0)?).map_err(|_| Error::bug("a uuid of odd length"))
}

/// The system's id, if it has one.
pub(crate) async fn system_id(session: &Session, schema: &str) -> Result<Option<SystemId>> {
    if missing(session, schema).await?.contains(&"system") {
        return Ok(None);
    }
    let sql = format!("SELECT id FROM {}.system", ident(schema));
    match session.query_opt("reading the system's id", &sql, &[]).await? {
        None => Ok(None),
        Some(row) => get::<&str>(&row, 0)?.parse().map(Some).map_err(|()| {
            Error::setup(Code::Catalog, format!("{schema}.system holds something that is no id"))
        }),
    }
}

/// The columns that [`progress`] reads, in order.
pub(crate) const PROGRESS_COLUMNS: &str = "pipeline, flow, epoch, seq, source_identity, position, \
                                           config_hash, source_commit_micros";

/// A progress row.
pub(crate) fn progress(row: &Row) -> Result<Progress> {
    let count = |index| -> Result<u64> {
        u64::try_from(get::<i64>(row, index)?)
            .map_err(|_| Error::setup(Code::Catalog, "a progress row holds a negative number"))
    };
    Ok(Progress {
        pipeline: get(row, 0)?,
        flow: get(row, 1)?,
        epoch: count(2)?,
        seq: count(3)?,
        source_identity: get(row, 4)?,
        position: Position::new(get::<&str>(row, 5)?),
        config_hash: get(row, 6)?,
        source_commit_micros: get(row, 7)?,
    })
}

/// The progress rows of a pipeline.
pub(crate) async fn read_progress(
    session: &Session,
    schema: &str,
    pipeline: &str,
) -> Result<Vec<Progress>> {
    if missing(session, schema).await?.contains(&"progress") {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {PROGRESS_COLUMNS} FROM {}.progress WHERE pipeline = $1 AND lane = 0 ORDER BY flow",
        ident(schema)
    );
    session.query("reading progress", &sql, &[&pipeline]).await?.iter().map(progress).collect()
}

/// The lasting states of a pipeline.
pub(crate) async fn read_states(
    session: &Session,
    schema: &str,
    pipeline: &str,
) -> Result<Vec<StateRow>> {
    if missing(session, schema).await?.contains(&"state") {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT pipeline, flow, mapping, state, code, message, hint, position \
         FROM {}.state WHERE pipeline = $1 ORDER BY flow, mapping",
        ident(schema)
    );
    let rows = session.query("reading states", &sql, &[&pipeline]).await?;
    rows.iter().map(state_row).collect()
}

fn state_row(row: &Row) -> Result<StateRow> {
    let state = match get::<&str>(row, 3)? {
        "paused" => StoredState::Paused,
        "stopped" => StoredState::Stopped,
        _ => return Err(Error::setup(Code::Catalog, "a state row holds an unknown state")),
    };
    Ok(StateRow {
        pipeline: get(row, 0)?,
        flow: get(row, 1)?,
        mapping: get(row, 2)?,
        state,
        code: get::<Option<&str>>(row, 4)?.and_then(|c| c.parse().ok()),
        message: get(row, 5)?,
        hint: get(row, 6)?,
        position: get(row, 7)?,
    })
}

/// The statement that writes a lasting state.
pub(crate) fn state_upsert(schema: &str) -> String {
    format!(
        "INSERT INTO {}.state (pipeline, flow, mapping, state, code, message, hint, position, at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp()) \
         ON CONFLICT (pipeline, flow, mapping) DO UPDATE SET state = EXCLUDED.state, \
         code = EXCLUDED.code, message = EXCLUDED.message, hint = EXCLUDED.hint, \
         position = EXCLUDED.position, at = EXCLUDED.at",
        ident(schema)
    )
}

/// Writes a lasting state.
pub(crate) async fn write_state(session: &Session, schema: &str, row: &StateRow) -> Result<()> {
    let code = row.code.map(|c| c.as_str());
    session
        .execute(
            "writing a state",
            &state_upsert(schema),
            &[
                &row.pipeline,
                &row.flow,
                &row.mapping,
                &row.state.as_str(),
                &code,
                &row.message,
                &row.hint,
                &row.position,
            ],
        )
        .await
        .map(|_| ())
}

/// Removes a lasting state.
pub(crate) async fn clear_state(
    session: &Session,
    schema: &str,
    pipeline: &str,
    flow: &str,
    mapping: &str,
) -> Result<()> {
    if missing(session, schema).await?.contains(&"state") {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM {}.state WHERE pipeline = $1 AND flow = $2 AND mapping = $3",
        ident(schema)
    );
    session.execute("removing a state", &sql, &[&pipeline, &flow, &mapping]).await.map(|_| ())
}

/// How far the copies of a pipeline have come.
pub(crate) async fn read_copies(
    session: &Session,
    schema: &str,
    pipeline: &str,
) -> Result<Vec<CopyRow>> {
    if missing(session, schema).await?.contains(&"snapshot") {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT pipeline, flow, mapping, reason, phase, sweep, cursor, filter, rows_done, \
         rows_total, started_micros, finished_micros, columns FROM {}.snapshot WHERE pipeline = $1 \
         ORDER BY flow, mapping",
        ident(schema)
    );
    let rows = session.query("reading copies", &sql, &[&pipeline]).await?;
    rows.iter().map(copy_row).collect()
}

fn copy_row(row: &Row) -> Result<CopyRow> {
    let unknown = || Error::setup(Code::Catalog, "a row of table snapshot holds an unknown word");
    let count = |index| -> Result<u64> { Ok(u64::try_from(get::<i64>(row, index)?).unwrap_or(0)) };
    Ok(CopyRow {
        pipeline: get(row, 0)?,
        flow: get(row, 1)?,
        mapping: get(row, 2)?,
        reason: CopyReason::parse(get(row, 3)?).ok_or_else(unknown)?,
        phase: CopyPhase::parse(get(row, 4)?).ok_or_else(unknown)?,
        sweep: get(row, 5)?,
        cursor: get(row, 6)?,
        filter: get(row, 7)?,
        rows_done: count(8)?,
        rows_total: count(9)?,
        started_micros: get(row, 10)?,
        finished_micros: get(row, 11)?,
        columns: get(row, 12)?,
    })
}

/// Writes how far a copy has come.
pub(crate) async fn write_copy(session: &Session, schema: &str, row: &CopyRow) -> Result<()> {
    let sql = format!(
        "INSERT INTO {}.snapshot (pipeline, flow, mapping, reason, phase, sweep, cursor, filter, \
         rows_done, rows_total, started_micros, finished_micros, columns) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (pipeline, flow, mapping) DO UPDATE SET reason = EXCLUDED.reason, \
         phase = EXCLUDED.phase, sweep = EXCLUDED.sweep, cursor = EXCLUDED.cursor, \
         filter = EXCLUDED.filter, rows_done = EXCLUDED.rows_done, \
         rows_total = EXCLUDED.rows_total, started_micros = EXCLUDED.started_micros, \
         finished_micros = EXCLUDED.finished_micros, columns = EXCLUDED.columns",
        ident(schema)
    );
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    session
        .execute(
            "writing how far a copy has come",
            &sql,
            &[
                &row.pipeline,
                &row.flow,
                &row.mapping,
                &row.reason.as_str(),
                &row.phase.as_str(),
                &row.sweep,
                &row.cursor,
                &row.filter,
                &number(row.rows_done),
                &number(row.rows_total),
                &row.started_micros,
                &row.finished_micros,
                &row.columns,
            ],
        )
        .await
        .map(|_| ())
}

/// Forgets the copy of a mapping.
pub(crate) async fn clear_copy(
    session: &Session,
    schema: &str,
    pipeline: &str,
    flow: &str,
    mapping: &str,
) -> Result<()> {
    if missing(session, schema).await?.contains(&"snapshot") {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM {}.snapshot WHERE pipeline = $1 AND flow = $2 AND mapping = $3",
        ident(schema)
    );
    session.execute("forgetting a copy", &sql, &[&pipeline, &flow, &mapping]).await.map(|_| ())
}

/// Forgets what is remembered below a prefix; tells how much it was.
pub(crate) async fn forget_memory(
    session: &Session,
    schema: &str,
    whose: &MemoryPrefix,
) -> Result<u64> {
    if missing(session, schema).await?.contains(&MEMORY_TABLE) {
        return Ok(0);
    }
    let MemoryRange { low, high } = whose.range(&[])?;
    let sql = format!("DELETE FROM {}.{MEMORY_TABLE} WHERE key >= $1 AND key < $2", ident(schema));
    session.execute("forgetting", &sql, &[&low, &high]).await
}

/// Removes a flow's progress row.
pub(crate) async fn forget_progress(
    session: &Session,
    schema: &str,
    pipeline: &str,
    flow: &str,
) -> Result<()> {
    if missing(session, schema).await?.contains(&"progress") {
        return Ok(());
    }
    let sql = format!("DELETE FROM {}.progress WHERE pipeline = $1 AND flow = $2", ident(schema));
    session.execute("removing the progress row", &sql, &[&pipeline, &flow]).await.map(|_| ())
}

/// Removes all rows of a flow.
pub(crate) async fn forget(
    session: &Session,
    schema: &str,
    pipeline: &str,
    flow: &str,
) -> Result<u64> {
    let missing = missing(session, schema).await?;
    let mut removed = 0;
    removed += forget_memory(session, schema, &MemoryPrefix::flow(pipeline, flow)).await?;
    for name in ["state", "snapshot", "progress"] {
        if !missing.contains(&name) {
            let sql =
                format!("DELETE FROM {}.{name} WHERE pipeline = $1 AND flow = $2", ident(schema));
            removed += session.execute("removing rows", &sql, &[&pipeline, &flow]).await?;
        }
    }
    if !missing.contains(&MEMORY_TABLE) && !missing.contains(&"progress") {
        // With the last flow goes what an older binary must not begin anew on.
        let schema = ident(schema);
        let sql = format!(
            "DELETE FROM {schema}.{MEMORY_TABLE} WHERE key = $1 AND NOT EXISTS (SELECT 1 FROM {schema}.progress)"
        );
        session.execute("removing the format", &sql, &[&FORMAT_KEY]).await?;
    }
    Ok(removed)
}
