//! What stands in the way, and the statement that mends it.

use tidelock_core::{Finding, Result, SinkSpec, SourceSpec, Table, TableName};

use crate::config::Address;
use crate::quote::{ident, table};
use crate::session::{Session, get};
use crate::{meta, publication, routine};

/// A server's setting.
async fn setting(session: &Session, name: &str) -> Result<String> {
    let sql = "SELECT coalesce(current_setting($1, true), '')";
    get(&session.query_one("reading settings", sql, &[&name]).await?, 0)
}

/// Our role, and whether it is a superuser, may replicate, bypasses row security, may create in
/// the database; whether the server is a standby.
struct Role {
    name: String,
    superuser: bool,
    replication: bool,
    bypass_rls: bool,
    creates: bool,
    standby: bool,
    database: String,
}

async fn role(session: &Session) -> Result<Role> {
    // Managed services give replication by membership in a role of theirs.
    let sql = "SELECT r.rolname::text, r.rolsuper, r.rolreplication OR EXISTS (\
                 SELECT 1 FROM pg_roles m WHERE m.rolname IN ('rds_replication', 'rds_superuser') \
                 AND pg_has_role(r.rolname, m.oid, 'MEMBER')), \
               r.rolbypassrls, has_database_privilege(current_database(), 'CREATE'), \
               pg_is_in_recovery(), current_database()::text \
               FROM pg_roles r WHERE r.rolname = current_user";
    let row = session.query_one("reading our role", sql, &[]).await?;
    Ok(Role {
        name: get(&row, 0)?,
        superuser: get(&row, 1)?,
        replication: get(&row, 2)?,
        bypass_rls: get(&row, 3)?,
        creates: get(&row, 4)?,
        standby: get(&row, 5)?,
        database: get(&row, 6)?,
    })
}

/// What stands in the way of reading the log.
pub(crate) async fn source(
    session: &Session,
    address: &Address,
    spec: &SourceSpec,
) -> Result<Vec<Finding>> {
    let role = role(session).await?;
    let mut findings = Vec::new();
    if role.standby {
        findings.push(
            Finding::problem(format!("{} is a standby", address.endpoint()))
                .hint("tidelock reads the primary: the progress table must be writable there"),
        );
        return Ok(findings);
    }
    server(session, &role, spec, &mut findings).await?;
    meta_schema(session, address, &role, &mut findings).await?;
    publication_rights(session, address, &role, spec, &mut findings).await?;
    for source in &spec.tables {
        source_table(session, &role, source, &mut findings).await?;
    }
    Ok(findings)
}

async fn server(
    session: &Session,
    role: &Role,
    spec: &SourceSpec,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let wal_level = setting(session, "wal_level").await?;
    if wal_level != "logical" {
        findings.push(
            Finding::problem(format!("wal_level is {wal_level}, logical is needed"))
                .hint("takes effect after a restart of the server")
                .sql("ALTER SYSTEM SET wal_level = 'logical';"),
        );
    }
    if !role.replication && !role.superuser {
        findings.push(
            Finding::problem(format!("role {} may not replicate", role.name))
                .sql(format!("ALTER ROLE {} REPLICATION;", ident(&role.name))),
        );
    }
    let sql = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name <> $1) \
                 >= current_setting('max_replication_slots')::int8, \
               (SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'tidelock') \
                 >= current_setting('max_wal_senders')::int8";
    let row = session.query_one("counting slots", sql, &[&spec.slot]).await?;
    for (index, name) in [(0, "max_replication_slots"), (1, "max_wal_senders")] {
        if get(&row, index)? {
            findings.push(
                Finding::problem(format!("{name} is used up"))
                    .hint("raise it; takes effect after a restart of the server")
                    .sql(format!("ALTER SYSTEM SET {name} = 20;")),
            );
        }
    }
    if setting(session, "server_encoding").await? == "SQL_ASCII" {
        findings.push(
            Finding::problem(format!("database {} has the encoding SQL_ASCII", role.database))
                .hint("its texts have no known encoding; dump it and load it into a UTF8 database"),
        );
    }
    if setting(session, "max_slot_wal_keep_size").await? == "-1" {
        findings.push(Finding::warning("max_slot_wal_keep_size is unlimited").hint(
            "while tidelock is down the server keeps its log without bound and may fill its \
                 disk; with a limit the flow halts instead",
        ));
    }
    Ok(())
}

async fn meta_schema(
    session: &Session,
    address: &Address,
    role: &Role,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let schema = &address.meta_schema;
    let missing = meta::missing(session, schema).await?;
    if !missing.is_empty() {
        let sql = "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1";
        let may = match session.query_opt("looking at the meta schema", sql, &[schema]).await? {
            Some(row) => get(&row, 0)?,
            None => role.creates,
        };
        if !may {
            let mut finding = Finding::problem(format!(
                "schema {schema} lacks tidelock's tables and role {} may not make them",
                role.name
            ));
            for sql in meta::ddl(schema).into_iter().chain(meta::grants(schema, &role.name)) {
                finding = finding.sql(sql);
            }
            findings.push(finding);
        }
        return Ok(());
    }
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = ANY($2) \
               AND NOT (has_schema_privilege(n.oid, 'USAGE') \
                 AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') \
                 AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))";
    let ours = &meta::TABLES[..];
    if !session.query("looking at rights", sql, &[schema, &ours]).await?.is_empty() {
        let mut finding =
            Finding::problem(format!("role {} lacks rights in schema {schema}", role.name));
        for sql in meta::grants(schema, &role.name) {
            finding = finding.sql(sql);
        }
        findings.push(finding);
    }
    Ok(())
}

async fn publication_rights(
    session: &Session,
    address: &Address,
    role: &Role,
    spec: &SourceSpec,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let tables = publication::wanted(spec, &address.meta_schema);
    let contents = publication::read(session, &spec.publication).await?;
    let (missing, sql) = match &contents {
        None => (tables.clone(), publication::create_sql(&spec.publication, &tables)),
        Some(contents) => {
            let missing = contents.missing(&tables);
            let sql = publication::add_sql(&spec.publication, &missing);
            (missing, sql)
        }
    };
    if missing.is_empty() || role.superuser {
        return Ok(());
    }
    let mut reasons = Vec::new();
    if contents.is_none() && !role.creates {
        reasons.push(format!("may not create publications in database {}", role.database));
    }
    for name in &missing {
        let owner = "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c \
                     JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE n.nspname = $1 AND c.relname = $2";
        let row =
            session.query_opt("looking at owners", owner, &[&name.schema, &name.name]).await?;
        if let Some(row) = row
            && !get::<bool>(&row, 0)?
        {
            reasons.push(format!("does not own {name}"));
        }
    }
    if !reasons.is_empty() {
        findings.push(
            Finding::problem(format!(
                "role {} cannot prepare publication {}: it {}",
                role.name,
                spec.publication,
                reasons.join(", it ")
            ))
            .hint("have the tables' owner or a superuser run this before the first start")
            .sql(sql),
        );
    }
    Ok(())
}

struct Relation {
    unlogged: bool,
    row_security: bool,
    readable: bool,
    identity: String,
    identity_columns: Vec<String>,
}

async fn relation(session: &Session, name: &TableName) -> Result<Option<Relation>> {
    let sql = "SELECT c.relpersistence <> 'p', c.relrowsecurity, \
                 has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), \
                 c.relreplident::text, \
                 array(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a \
                       ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) \
                       WHERE i.indrelid = c.oid AND i.indimmediate AND CASE c.relreplident \
                         WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident \
                         ELSE false END) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2";
    let row = session.query_opt("looking at a table", sql, &[&name.schema, &name.name]).await?;
    row.map(|row| {
        Ok(Relation {
            unlogged: get(&row, 0)?,
            row_security: get(&row, 1)?,
            readable: get(&row, 2)?,
            identity: get(&row, 3)?,
            identity_columns: get(&row, 4)?,
        })
    })
    .transpose()
}

async fn source_table(
    session: &Session,
    role: &Role,
    source: &tidelock_core::SourceTable,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let name = &source.name;
    let Some(relation) = relation(session, name).await? else {
        findings.push(Finding::problem(format!("table {name} does not exist")));
        return Ok(());
    };
    if !relation.readable {
        findings.push(
            Finding::problem(format!("role {} may not read {name}", role.name))
                .sql(format!(
                    "GRANT USAGE ON SCHEMA {} TO {};",
                    ident(&name.schema),
                    ident(&role.name)
                ))
                .sql(format!("GRANT SELECT ON {} TO {};", table(name), ident(&role.name))),
        );
    }
    if relation.unlogged {
        findings.push(
            Finding::problem(format!("table {name} is unlogged: its changes are not in the log"))
                .sql(format!("ALTER TABLE {} SET LOGGED;", table(name))),
        );
    }
    for (_, part) in publication::unlogged_parts(session, &[name]).await? {
        let said = format!("{name}: its partition {part} is unlogged: its rows are not in the log");
        findings
            .push(Finding::problem(said).sql(format!("ALTER TABLE {} SET LOGGED;", table(&part))));
    }
    if relation.row_security && !role.bypass_rls && !role.superuser {
        findings.push(
            Finding::problem(format!("row security of {name} hides rows from role {}", role.name))
                .sql(format!("ALTER ROLE {} BYPASSRLS;", ident(&role.name))),
        );
    }
    if relation.identity == "f" {
        return Ok(());
    }
    let full = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table(name));
    if relation.identity_columns.is_empty() {
        findings.push(
            Finding::problem(format!("the log does not tell which row of {name} was changed"))
                .hint("once published, the server refuses updates and deletes of such a table")
                .sql(full),
        );
    } else if let Some(column) =
        source.key_columns.iter().find(|c| !relation.identity_columns.contains(c))
    {
        findings.push(
            Finding::problem(format!(
                "the log does not carry old values of {name}.{column}, which feeds the key"
            ))
            .hint("a unique index over the key's columns will do too: REPLICA IDENTITY USING INDEX")
            .sql(full),
        );
    }
    Ok(())
}

/// Why we do not see a table, or a whole schema. The catalog itself is open to everybody, so a missing
/// right is told from a missing table.
pub(crate) async fn unseen(
    session: &Session,
    schema: &str,
    name: Option<&str>,
    writes: bool,
) -> Result<Finding> {
    let sql = "SELECT has_schema_privilege(n.oid, 'USAGE'), \
               EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = $2 \
                 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')), current_user::text, \
               EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = $2 \
                 AND c.relkind IN ('r', 'p', 'v') AND NOT has_table_privilege(c.oid, 'SELECT')) \
               FROM pg_namespace n WHERE n.nspname = $1";
    let row = session.query_opt("looking for a schema", sql, &[&schema, &name]).await?;
    let Some(row) = row else {
        return Ok(Finding::problem(format!("schema {schema} does not exist")));
    };
    let (usage, there, role): (bool, bool, String) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    let (schema_ident, role_ident) = (ident(schema), ident(&role));
    let closed: bool = get(&row, 3)?;
    let what = match name {
        Some(name) if usage && closed => {
            let name = TableName::new(schema, name);
            return Ok(Finding::problem(format!("role {role} may not read {name}"))
                .sql(format!("GRANT SELECT ON {} TO {role_ident};", table(&name))));
        }
        Some(name) if usage || !there => {
            let name = TableName::new(schema, name);
            return Ok(Finding::problem(format!("table {name} does not exist")));
        }
        Some(name) => table(&TableName::new(schema, name)),
        None if usage => {
            return Ok(Finding::problem(format!("schema {schema} has no table that matches")));
        }
        None => format!("ALL TABLES IN SCHEMA {schema_ident}"),
    };
    let rights = if writes { "SELECT, INSERT, UPDATE, DELETE" } else { "SELECT" };
    Ok(Finding::problem(format!("role {role} may not look into schema {schema}"))
        .sql(format!("GRANT USAGE ON SCHEMA {schema_ident} TO {role_ident};"))
        .sql(format!("GRANT {rights} ON {what} TO {role_ident};")))
}

/// What makes columns a key.
/// The statements that make the log carry the old values of these columns: whole rows, or, where all of them are NOT
/// NULL, an index over the key and them, which costs less on wide and busy tables.
pub(crate) fn mend_identity(of: &Table, columns: &[String], finding: Finding) -> Finding {
    let name = table(&of.name);
    let full = format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
    let mut indexed: Vec<String> = of.primary_key().unwrap_or_default().to_vec();
    indexed.extend(columns.iter().filter(|c| !indexed.contains(c)).cloned().collect::<Vec<_>>());
    let filled = |c: &String| of.column(c).is_some_and(|c| !c.nullable);
    if of.primary_key().is_none() || !indexed.iter().all(filled) {
        return finding.sql(full);
    }
    let index = format!("{}_tidelock", of.name.name.chars().take(50).collect::<String>());
    let list = indexed.iter().map(|c| ident(c)).collect::<Vec<_>>().join(", ");
    finding
        .hint("on a wide or busy table an index costs less log than whole rows")
        .sql(full)
        .sql(format!(
            "-- or: CREATE UNIQUE INDEX {} ON {name} ({list}); ALTER TABLE {name} REPLICA IDENTITY USING INDEX {};",
            ident(&index),
            ident(&index)
        ))
}

pub(crate) fn mend_key(of: &Table, columns: &[String], mut finding: Finding) -> Finding {
    for name in columns {
        if of.column(name).is_some_and(|c| c.nullable) {
            finding = finding.sql(format!(
                "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL;",
                table(&of.name),
                ident(name)
            ));
        }
    }
    if of.is_unique(columns) {
        return finding;
    }
    let list: Vec<String> = columns.iter().map(|c| ident(c)).collect();
    finding.sql(format!("CREATE UNIQUE INDEX ON {} ({});", table(&of.name), list.join(", ")))
}

/// What stands in the way of writing.
pub(crate) async fn target(
    session: &Session,
    address: &Address,
    spec: &SinkSpec,
) -> Result<Vec<Finding>> {
    let role = role(session).await?;
    let mut findings = Vec::new();
    if role.standby {
        findings.push(Finding::problem(format!("{} is a standby", address.endpoint())));
        return Ok(findings);
    }
    durability(session, &mut findings).await?;
    if setting(session, "default_transaction_read_only").await? == "on" {
        findings.push(
            Finding::problem("default_transaction_read_only is on: nothing can be written").sql(
                format!(
                    "ALTER ROLE {} SET default_transaction_read_only = off;",
                    ident(&role.name)
                ),
            ),
        );
    }
    meta_schema(session, address, &role, &mut findings).await?;
    for name in &spec.tables {
        let rights = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        target_table(session, &role, name, &rights, &mut findings).await?;
    }
    for (name, inserts) in spec.lookups.iter().filter(|(name, _)| !spec.tables.contains(name)) {
        let rights: &[&str] = if *inserts { &["SELECT", "INSERT"] } else { &["SELECT"] };
        target_table(session, &role, name, rights, &mut findings).await?;
    }
    if !spec.routines.is_empty() {
        let schemas: Vec<String> = spec.routines.iter().map(|name| name.schema.clone()).collect();
        let found = routine::read(session, &schemas).await?;
        for name in &spec.routines {
            routine::target(&found, name, &role.name, &mut findings);
        }
    }
    Ok(findings)
}

/// A target that may lose commits breaks the promise without anybody noticing at once.
async fn durability(session: &Session, findings: &mut Vec<Finding>) -> Result<()> {
    for (name, why) in [
        ("fsync", "after a crash of the machine the database may be damaged and commits be lost"),
        ("full_page_writes", "after a crash of the machine pages may be torn"),
    ] {
        if setting(session, name).await? == "off" {
            findings.push(
                Finding::warning(format!("{name} is off: the target may lose what it committed"))
                    .hint(format!("{why}; tidelock has then already confirmed it to the source"))
                    .sql(format!("ALTER SYSTEM SET {name} = on;"))
                    .sql("SELECT pg_reload_conf();"),
            );
        }
    }
    if setting(session, "synchronous_commit").await? == "off" {
        findings.push(Finding::warning("synchronous_commit is off").hint(
            "tidelock turns it on for its own sessions; other writers still may lose commits",
        ));
    }
    Ok(())
}

async fn target_table(
    session: &Session,
    role: &Role,
    name: &TableName,
    rights: &[&str],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let sql = "SELECT has_schema_privilege(n.oid, 'USAGE'), \
                 (SELECT bool_and(has_table_privilege(c.oid, r)) FROM unnest($3::text[]) r), \
                 c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2";
    let row =
        session.query_opt("looking at rights", sql, &[&name.schema, &name.name, &rights]).await?;
    let Some(row) = row else {
        findings.push(Finding::problem(format!("table {name} does not exist")));
        return Ok(());
    };
    let (usage, granted, hidden): (bool, bool, bool) =
        (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    if !usage || !granted {
        let verb = if rights.len() > 1 { "write" } else { "read" };
        let mut finding = Finding::problem(format!("role {} may not {verb} {name}", role.name));
        if !usage {
            finding = finding.sql(format!(
                "GRANT USAGE ON SCHEMA {} TO {};",
                ident(&name.schema),
                ident(&role.name)
            ));
        }
        findings.push(finding.sql(format!(
            "GRANT {} ON {} TO {};",
            rights.join(", "),
            table(name),
            ident(&role.name)
        )));
    }
    if hidden && !role.bypass_rls && !role.superuser {
        findings.push(
            Finding::problem(format!("row security of {name} binds role {}", role.name))
                .hint("writes could be refused or miss rows that are hidden from us")
                .sql(format!("ALTER ROLE {} BYPASSRLS;", ident(&role.name))),
        );
    }
    Ok(())
}
