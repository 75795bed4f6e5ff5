//! What stands in the way, with the statements that mend it. Read-only.

use tidelock_core::{Finding, Result, SinkSpec, SourceSpec, Table, TableName};

use crate::config::Endpoint;
use crate::session::{Flavour, Session, quote};
use crate::{catalog, meta, routine};

/// Below this the log may be gone after a weekend.
const RETENTION_SECONDS_MIN: u64 = 2 * 86_400;

/// Findings about reading this system's log.
pub(crate) async fn source(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SourceSpec,
) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    if !session.is_on("log_bin").await? {
        found.push(
            Finding::problem("the binary log is switched off")
                .hint("set log_bin in the server's configuration and restart it"),
        );
        return Ok(ready(found));
    }
    log_settings(session, &mut found).await?;
    flavour_settings(session, &mut found).await?;
    filters(session, spec, &mut found).await?;
    let tables: Vec<TableName> = spec.tables.iter().map(|t| t.name.clone()).collect();
    let kind = if session.maria() { "BINLOG MONITOR" } else { "REPLICATION CLIENT" };
    grants(session, endpoint, &["REPLICATION SLAVE", kind], &tables, &["SELECT"], &mut found)
        .await?;
    meta_tables(session, endpoint, &mut found).await?;
    key_images(session, spec, &mut found).await?;
    Ok(ready(found))
}

/// Ends every statement, so that what is printed can be pasted.
fn ready(mut found: Vec<Finding>) -> Vec<Finding> {
    for sql in found.iter_mut().flat_map(|f| &mut f.sql) {
        if !sql.ends_with(';') {
            sql.push(';');
        }
    }
    found
}

async fn expect(
    session: &mut Session,
    found: &mut Vec<Finding>,
    (name, wanted): (&str, &str),
    finding: fn(String) -> Finding,
    why: &str,
) -> Result<()> {
    if let Some(value) = session.setting(name).await?
        && !value.eq_ignore_ascii_case(wanted)
    {
        found.push(
            finding(format!("{name} is {}", if value.is_empty() { "empty" } else { &value }))
                .hint(why)
                .sql(format!("SET GLOBAL {name} = '{wanted}'")),
        );
    }
    Ok(())
}

async fn log_settings(session: &mut Session, found: &mut Vec<Finding>) -> Result<()> {
    let problem: fn(String) -> Finding = |m| Finding::problem(m);
    let warning: fn(String) -> Finding = |m| Finding::warning(m);
    expect(session, found, ("binlog_format", "ROW"), problem, "changes must be logged as rows")
        .await?;
    expect(
        session,
        found,
        ("binlog_row_image", "FULL"),
        warning,
        "partial images are followed as partial updates, which need the row at the target",
    )
    .await?;
    expect(
        session,
        found,
        ("binlog_row_metadata", "FULL"),
        warning,
        "without names in the log any ALTER of a mapped table stops its mapping",
    )
    .await?;
    if session.setting("binlog_row_value_options").await?.is_some_and(|v| !v.is_empty()) {
        found.push(
            Finding::problem("binlog_row_value_options is PARTIAL_JSON")
                .hint("partial JSON updates cannot be followed")
                .sql("SET GLOBAL binlog_row_value_options = ''"),
        );
    }
    if session.setting("server_id").await?.as_deref() == Some("0") {
        found.push(Finding::problem("server_id is 0").sql("SET GLOBAL server_id = 1"));
    }
    let durable = session.setting("sync_binlog").await?.is_some_and(|v| v == "1")
        && session.setting("innodb_flush_log_at_trx_commit").await?.is_some_and(|v| v == "1");
    if !durable {
        found.push(
            Finding::warning(
                "after a crash this server may forget transactions that were already read",
            )
            .hint("sync_binlog and innodb_flush_log_at_trx_commit are not both 1")
            .sql("SET GLOBAL sync_binlog = 1")
            .sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1"),
        );
    }
    let (seconds, mend) = match session.setting("binlog_expire_logs_seconds").await? {
        Some(text) => (text.parse::<u64>().ok(), "SET GLOBAL binlog_expire_logs_seconds = 604800"),
        // MariaDB before 10.6.1.
        None => {
            let days = session.setting("expire_logs_days").await?;
            let days = days.and_then(|t| t.parse::<f64>().ok());
            (days.map(|days| (days * 86_400.0) as u64), "SET GLOBAL expire_logs_days = 7")
        }
    };
    if seconds.is_some_and(|s| s > 0 && s < RETENTION_SECONDS_MIN) {
        found.push(
            Finding::warning("the binary log is removed after less than two days")
                .hint("a flow that stands still for longer must be copied anew")
                .sql(mend),
        );
    }
    Ok(())
}

async fn flavour_settings(session: &mut Session, found: &mut Vec<Finding>) -> Result<()> {
    if session.flavour == Flavour::MySql {
        let mode = session.setting("gtid_mode").await?.unwrap_or_default();
        if !mode.eq_ignore_ascii_case("ON") {
            found.push(
                Finding::problem(format!("gtid_mode is {mode}"))
                    .hint("positions are GTID sets; the steps below work on a running server")
                    .sql("SET PERSIST enforce_gtid_consistency = ON")
                    .sql("SET PERSIST gtid_mode = OFF_PERMISSIVE")
                    .sql("SET PERSIST gtid_mode = ON_PERMISSIVE")
                    .sql("SET PERSIST gtid_mode = ON"),
            );
        }
    } else if !session.is_on("gtid_strict_mode").await? {
        found.push(
            Finding::warning("gtid_strict_mode is OFF")
                .hint("transactions out of order in a domain would halt the flow")
                .sql("SET GLOBAL gtid_strict_mode = ON"),
        );
    }
    let updates = ["log_slave_updates", "log_replica_updates"];
    let mut logs = false;
    for name in updates {
        logs |= session.is_on(name).await?;
    }
    if !logs {
        let mut replica = false;
        for sql in ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"] {
            if let Ok(rows) = session.query::<mysql_async::Row>(sql).await {
                replica |= !rows.is_empty();
                break;
            }
        }
        if replica {
            found.push(
                Finding::problem("this server is a replica that does not log what it replicates")
                    .hint("set log_slave_updates (log_replica_updates) in its configuration and restart it"),
            );
        }
    }
    Ok(())
}

/// `binlog_do_db` and `binlog_ignore_db` hide changes from the log.
async fn filters(session: &mut Session, spec: &SourceSpec, found: &mut Vec<Finding>) -> Result<()> {
    let mut rows = Vec::new();
    for sql in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS", "SHOW BINLOG STATUS"] {
        if let Ok(found) = session.query::<mysql_async::Row>(sql).await {
            rows = found;
            break;
        }
    }
    let Some(row) = rows.first() else { return Ok(()) };
    let list = |i: usize| -> Vec<String> {
        let text =
            row.get_opt::<String, _>(i).and_then(std::result::Result::ok).unwrap_or_default();
        text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect()
    };
    let (only, ignored) = (list(2), list(3));
    for table in &spec.tables {
        let schema = &table.name.schema;
        if ignored.contains(schema) || (!only.is_empty() && !only.contains(schema)) {
            found.push(
                Finding::problem(format!("changes of {} are not logged", table.name)).hint(
                    "binlog_do_db or binlog_ignore_db leaves its database out; change the server's configuration",
                ),
            );
        }
    }
    Ok(())
}

/// With partial images only the primary key's old values stand in the log.
async fn key_images(
    session: &mut Session,
    spec: &SourceSpec,
    found: &mut Vec<Finding>,
) -> Result<()> {
    let image = session.setting("binlog_row_image").await?.unwrap_or_default();
    if image.eq_ignore_ascii_case("FULL") {
        return Ok(());
    }
    let mut schemas: Vec<String> = spec.tables.iter().map(|t| t.name.schema.clone()).collect();
    schemas.dedup();
    let tables = catalog::read(session, &schemas, None).await?;
    for wanted in &spec.tables {
        let Some(table) = tables.iter().find(|t| t.table.name == wanted.name) else { continue };
        let primary = table.table.primary_key().unwrap_or(&[]);
        if let Some(column) = wanted.key_columns.iter().find(|c| !primary.contains(c)) {
            found.push(
                Finding::problem(format!(
                    "column {column} of {} feeds a key, but its old value is not logged",
                    wanted.name
                ))
                .hint(format!("binlog_row_image is {image} and it is not in the primary key"))
                .sql("SET GLOBAL binlog_row_image = 'FULL'"),
            );
        }
    }
    Ok(())
}

/// Findings about writing to this system.
pub(crate) async fn target(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SinkSpec,
) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    if session.is_on("read_only").await? || session.is_on("super_read_only").await? {
        found.push(
            Finding::problem("the server is read-only")
                .hint("a replica? write to its primary")
                .sql("SET GLOBAL read_only = OFF"),
        );
    }
    for (name, durable) in [("innodb_flush_log_at_trx_commit", "1"), ("sync_binlog", "1")] {
        if session.setting(name).await?.is_some_and(|v| v != durable)
            && (name != "sync_binlog" || session.is_on("log_bin").await?)
        {
            found.push(
                Finding::warning(format!("{name} is not {durable}"))
                    .hint("a crash of this server may lose transactions that the source has already been told are safe")
                    .sql(format!("SET GLOBAL {name} = {durable}")),
            );
        }
    }
    let rights = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    grants(session, endpoint, &[], &spec.tables, &rights, &mut found).await?;
    for (table, inserts) in spec.lookups.iter().filter(|(table, _)| !spec.tables.contains(table)) {
        // What is there already is met by an update that changes nothing.
        let rights: &[&str] = if *inserts { &["SELECT", "INSERT", "UPDATE"] } else { &["SELECT"] };
        grants(session, endpoint, &[], std::slice::from_ref(table), rights, &mut found).await?;
    }
    meta_tables(session, endpoint, &mut found).await?;
    let mut schemas: Vec<String> = spec.tables.iter().map(|t| t.schema.clone()).collect();
    schemas.sort();
    schemas.dedup();
    for table in catalog::read(session, &schemas, None).await? {
        if spec.tables.contains(&table.table.name) {
            for refusal in &table.table.refusals {
                found.push(Finding::problem(format!("table {}: {refusal}", table.table.name)));
            }
        }
    }
    triggers(session, spec, &mut found).await?;
    routines(session, endpoint, spec, &mut found).await?;
    Ok(ready(found))
}

/// Why we do not see a table, or a whole database. The server hides what we have no right to, so unless
/// we may read the whole database, a missing right cannot be told from a missing table.
pub(crate) async fn unseen(
    session: &mut Session,
    schema: &str,
    table: Option<&str>,
    writes: bool,
) -> Result<Finding> {
    let what = match table {
        Some(table) => format!("table {}", TableName::new(schema, table)),
        None => format!("database {schema}"),
    };
    if Rights::read(session).await?.has("SELECT", schema, None) {
        let sql = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?";
        if session.rows::<u64, _>(sql, (schema,)).await? == [0] {
            return Ok(Finding::problem(format!("database {schema} does not exist")));
        }
        return Ok(Finding::problem(match table {
            Some(_) => format!("{what} does not exist"),
            None => format!("{what} has no table that matches"),
        }));
    }
    let rights = if writes { "SELECT, INSERT, UPDATE, DELETE" } else { "SELECT" };
    let object = table.map_or("*".to_owned(), quote);
    let user = account(session).await?;
    Ok(Finding::problem(format!("{what} does not exist or may not be seen"))
        .hint("if it exists:")
        .sql(format!("GRANT {rights} ON {}.{object} TO {user};", quote(schema))))
}

/// What makes columns a key.
pub(crate) fn mend_key(of: &Table, columns: &[String], mut finding: Finding) -> Finding {
    let full = format!("{}.{}", quote(&of.name.schema), quote(&of.name.name));
    for name in columns {
        if of.column(name).is_some_and(|c| c.nullable) {
            finding = finding.also(format!(
                "make {name} NOT NULL: ALTER TABLE {full} MODIFY {} with its whole definition and NOT NULL",
                quote(name)
            ));
        }
    }
    if of.is_unique(columns) {
        return finding;
    }
    let name: String = format!("{}_key", columns.join("_"))
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '_')
        .take(64)
        .collect();
    let list: Vec<String> = columns.iter().map(|c| quote(c)).collect();
    finding.sql(format!("CREATE UNIQUE INDEX {} ON {full} ({});", quote(&name), list.join(", ")))
}

async fn routines(
    session: &mut Session,
    endpoint: &Endpoint,
    spec: &SinkSpec,
    found: &mut Vec<Finding>,
) -> Result<()> {
    if spec.routines.is_empty() {
        return Ok(());
    }
    let schemas: Vec<String> = spec.routines.iter().map(|name| name.schema.clone()).collect();
    let known = routine::read(session, &schemas).await?;
    let rights = Rights::read(session).await?;
    let account = account(session).await?;
    for name in &spec.routines {
        let callable = rights.may_call(name);
        routine::target(&known, name, callable, &endpoint.user, &account, found);
    }
    Ok(())
}

async fn triggers(session: &mut Session, spec: &SinkSpec, found: &mut Vec<Finding>) -> Result<()> {
    let rows: Vec<(String, String, String)> = session
        .query(
            "SELECT event_object_schema, event_object_table, trigger_name \
             FROM information_schema.triggers",
        )
        .await?;
    for (schema, table, trigger) in rows {
        let name = TableName::new(schema, table);
        if spec.tables.contains(&name) {
            found.push(Finding::warning(format!("table {name} has trigger {trigger}")).hint(
                "it fires for our writes too, in UTC, and what it writes is taken for an echo",
            ));
        }
    }
    Ok(())
}

/// The meta database: there and ours to write, or the statements that make it so.
async fn meta_tables(
    session: &mut Session,
    endpoint: &Endpoint,
    found: &mut Vec<Finding>,
) -> Result<()> {
    const WRITE: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let rights = Rights::read(session).await?;
    let meta = &endpoint.meta;
    let writes = |table: Option<&str>| WRITE.iter().all(|right| rights.has(right, meta, table));
    let complete = meta::complete(session, meta).await?;
    let fine = match complete {
        true => meta::TABLES.iter().all(|table| writes(Some(table))),
        false => writes(None) && rights.has("CREATE", meta, None),
    };
    if fine {
        return Ok(());
    }
    let mut finding = match complete {
        true => Finding::problem(format!(
            "user {} may not write tidelock's own tables in database {meta}",
            endpoint.user
        )),
        false => Finding::problem(format!(
            "database {meta} for tidelock's own tables is missing or may not be seen, and cannot be made"
        ))
        .hint("let a person with the right to do so run these statements"),
    };
    for sql in meta::ddl(meta).into_iter().filter(|_| !complete) {
        finding = finding.sql(sql);
    }
    let user = account(session).await?;
    found.push(finding.sql(format!("GRANT {} ON {}.* TO {user}", WRITE.join(", "), quote(meta))));
    Ok(())
}

/// Our account as a GRANT names it.
pub(crate) async fn account(session: &mut Session) -> Result<String> {
    let user: String = session.one("SELECT CURRENT_USER()").await?;
    let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
    Ok(format!("'{}'@'{}'", name.replace('\'', "''"), host.replace('\'', "''")))
}

/// What `SHOW GRANTS` says, read conservatively.
struct Rights(Vec<(Vec<String>, String)>);

impl Rights {
    async fn read(session: &mut Session) -> Result<Rights> {
        let lines: Vec<String> = session.query("SHOW GRANTS").await?;
        Ok(Rights(lines.iter().filter_map(|line| Self::line(line)).collect()))
    }

    fn line(line: &str) -> Option<(Vec<String>, String)> {
        let rest = line.strip_prefix("GRANT ")?;
        let (rights, rest) = rest.split_once(" ON ")?;
        let (object, _) = rest.split_once(" TO ")?;
        let rights = rights.split(',').map(|r| r.trim().to_ascii_uppercase()).collect();
        Some((rights, object.replace(['`', '\\'], "")))
    }

    fn may_call(&self, name: &TableName) -> bool {
        // The server spells names of procedures as it likes.
        let object = format!("PROCEDURE {}.{}", name.schema, name.name).to_lowercase();
        self.has("EXECUTE", &name.schema, None)
            || self.0.iter().any(|(rights, granted)| {
                granted.to_lowercase() == object && rights.iter().any(|r| r == "EXECUTE")
            })
    }

    fn has(&self, right: &str, schema: &str, table: Option<&str>) -> bool {
        self.0.iter().any(|(rights, object)| {
            let covers = object == "*.*"
                || *object == format!("{schema}.*")
                || table.is_some_and(|t| *object == format!("{schema}.{t}"));
            let alias = match right {
                "BINLOG MONITOR" => "REPLICATION CLIENT",
                "REPLICATION SLAVE" => "REPLICATION REPLICA",
                other => other,
            };
            covers
                && rights
                    .iter()
                    .any(|r| r == right || r == alias || r.starts_with("ALL PRIVILEGES"))
        })
    }
}

async fn grants(
    session: &mut Session,
    endpoint: &Endpoint,
    global: &[&str],
    tables: &[TableName],
    local: &[&str],
    found: &mut Vec<Finding>,
) -> Result<()> {
    let rights = Rights::read(session).await?;
    let user = account(session).await?;
    let missing: Vec<&str> = global.iter().copied().filter(|r| !rights.has(r, "", None)).collect();
    if !missing.is_empty() {
        let list = missing.join(", ");
        found.push(
            Finding::problem(format!("user {} lacks {list}", endpoint.user))
                .sql(format!("GRANT {list} ON *.* TO {user}")),
        );
    }
    for table in tables {
        let missing: Vec<&str> = local
            .iter()
            .copied()
            .filter(|r| !rights.has(r, &table.schema, Some(&table.name)))
            .collect();
        if !missing.is_empty() {
            let list = missing.join(", ");
            found.push(
                Finding::problem(format!("user {} lacks {list} on {table}", endpoint.user)).sql(
                    format!(
                        "GRANT {list} ON {}.{} TO {user}",
                        quote(&table.schema),
                        quote(&table.name)
                    ),
                ),
            );
        }
    }
    Ok(())
}
