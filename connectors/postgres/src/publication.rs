//! The publication: which tables the slot's stream carries.

use std::collections::HashSet;

use tidelock_core::{Code, Error, Result, SourceSpec, SourceTable, TableFault, TableName};

use crate::config::Address;
use crate::meta;
use crate::quote::{ident, table};
use crate::session::{Session, get};

/// The statement that makes the publication, for us or for a DBA.
pub(crate) fn create_sql(name: &str, tables: &[TableName]) -> String {
    format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert, update, delete, truncate', \
         publish_via_partition_root = true);",
        ident(name),
        list(tables)
    )
}

/// The statement that adds tables to it.
pub(crate) fn add_sql(name: &str, tables: &[TableName]) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", ident(name), list(tables))
}

fn list(tables: &[TableName]) -> String {
    tables.iter().map(table).collect::<Vec<_>>().join(", ")
}

/// What must be in it: the flow's tables, and those of our own that tell of other flows' writing.
pub(crate) fn wanted(spec: &SourceSpec, meta_schema: &str) -> Vec<TableName> {
    let own = [meta::progress_table(meta_schema), meta::snapshot_table(meta_schema)];
    let tables = spec.tables.iter().map(|t| &t.name);
    let own = own.iter().filter(|o| spec.tables.iter().all(|t| t.name != **o));
    tables.chain(own).cloned().collect()
}

/// What a publication publishes.
#[derive(Debug)]
pub(crate) struct Contents {
    tables: HashSet<TableName>,
    all_changes: bool,
    via_root: bool,
    filtered: Vec<TableName>,
}

impl Contents {
    /// Tables that it lacks.
    pub(crate) fn missing(&self, wanted: &[TableName]) -> Vec<TableName> {
        wanted.iter().filter(|t| !self.tables.contains(t)).cloned().collect()
    }
}

/// Reads a publication; `None` if there is none.
pub(crate) async fn read(session: &Session, name: &str) -> Result<Option<Contents>> {
    let sql = "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot \
               FROM pg_publication WHERE pubname = $1";
    let Some(head) = session.query_opt("reading the publication", sql, &[&name]).await? else {
        return Ok(None);
    };
    let filter =
        if session.version().await? >= 150_000 { "rowfilter IS NOT NULL" } else { "false" };
    let sql = format!(
        "SELECT schemaname::text, tablename::text, {filter} FROM pg_publication_tables \
         WHERE pubname = $1"
    );
    let rows = session.query("reading the publication's tables", &sql, &[&name]).await?;
    let mut contents = Contents {
        tables: HashSet::new(),
        all_changes: get(&head, 0)?,
        via_root: get(&head, 1)?,
        filtered: Vec::new(),
    };
    for row in &rows {
        let table = TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
        if get(row, 2)? {
            contents.filtered.push(table.clone());
        }
        contents.tables.insert(table);
    }
    Ok(Some(contents))
}

/// Makes the publication, or adds what it lacks. Only before the stream starts.
pub(crate) async fn ensure(session: &Session, address: &Address, spec: &SourceSpec) -> Result<()> {
    let tables = wanted(spec, &address.meta_schema);
    let sql = match read(session, &spec.publication).await? {
        None => create_sql(&spec.publication, &tables),
        Some(contents) => {
            let missing = contents.missing(&tables);
            if missing.is_empty() {
                return check(session, spec, &address.meta_schema).await;
            }
            add_sql(&spec.publication, &missing)
        }
    };
    add(session, &sql).await?;
    check(session, spec, &address.meta_schema).await
}

/// Adds the tables that join the stream now, and checks that all is there. Any other table that is
/// missing must not be added in silence: changes to it from before are not in the stream.
pub(crate) async fn join(session: &Session, address: &Address, spec: &SourceSpec) -> Result<()> {
    if let Some(contents) = read(session, &spec.publication).await? {
        let mut joining: Vec<TableName> =
            spec.tables.iter().filter(|t| t.joins).map(|t| t.name.clone()).collect();
        // Older pipelines lack it; what it told before is not asked for.
        joining.push(meta::snapshot_table(&address.meta_schema));
        let missing = contents.missing(&joining);
        if !missing.is_empty() {
            add(session, &add_sql(&spec.publication, &missing)).await?;
        }
    }
    check(session, spec, &address.meta_schema).await
}

/// Adds a table that joins the stream, if the publication is there and lacks it.
pub(crate) async fn admit(session: &Session, spec: &SourceSpec, table: &TableName) -> Result<()> {
    let Some(contents) = read(session, &spec.publication).await? else { return Ok(()) };
    let missing = contents.missing(std::slice::from_ref(table));
    if missing.is_empty() {
        return Ok(());
    }
    let sql = add_sql(&spec.publication, &missing);
    session.batch("preparing the publication", &sql).await.map_err(|error| {
        if error.code() == Code::Privilege {
            error.with_hint(format!("have the table's owner or a superuser run: {sql}"))
        } else {
            error
        }
    })
}

/// Tables that the publication does not hand over whole: each is the business of its own mappings.
pub(crate) async fn left_out(session: &Session, spec: &SourceSpec) -> Result<Vec<TableFault>> {
    let name = &spec.publication;
    let mut faults = Vec::new();
    let mut fault = |table: &TableName, code, message: String, hint: String| {
        let error = Error::data(code, message).with_hint(hint);
        faults.push(TableFault { table: table.clone(), error });
    };
    let contents = read(session, name).await?;
    let followed: Vec<&SourceTable> = spec.tables.iter().filter(|t| !t.optional).collect();
    for table in &followed {
        let Some(contents) = &contents else { break };
        let alone = std::slice::from_ref(&table.name);
        if !table.joins && !contents.missing(alone).is_empty() {
            let message = format!("the publication {name} does not hold table {}", table.name);
            fault(&table.name, Code::Publication, message, add_sql(name, alone));
        } else if contents.filtered.contains(&table.name) {
            let message = format!("the publication {name} filters the rows of {}", table.name);
            let (publication, whole) = (ident(name), list(alone));
            let hint = format!(
                "ALTER PUBLICATION {publication} DROP TABLE {whole}; {} Filter in the mapping instead: where = \"…\".",
                add_sql(name, alone)
            );
            fault(&table.name, Code::Publication, message, hint);
        }
    }
    let names: Vec<&TableName> = followed.iter().map(|t| &t.name).collect();
    for (table, part) in unlogged_parts(session, &names).await? {
        let message = format!(
            "{table}: its partition {} is unlogged: its rows are not in the log",
            part.name
        );
        let hint = format!("ALTER TABLE {} SET LOGGED;", crate::quote::table(&part));
        fault(&table, Code::SchemaDrift, message, hint);
    }
    Ok(faults)
}

/// The partitions of these tables that no log tells of.
pub(crate) async fn unlogged_parts(
    session: &Session,
    tables: &[&TableName],
) -> Result<Vec<(TableName, TableName)>> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let sql = "SELECT w.s, w.t, kn.nspname::text, k.relname::text FROM unnest($1::text[], $2::text[]) AS w(s, t) \
               JOIN pg_namespace n ON n.nspname = w.s \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t AND c.relkind = 'p' \
               CROSS JOIN LATERAL pg_partition_tree(c.oid) p JOIN pg_class k ON k.oid = p.relid \
               JOIN pg_namespace kn ON kn.oid = k.relnamespace \
               WHERE p.isleaf AND k.relkind = 'r' AND k.relpersistence <> 'p'";
    let rows = session.query("looking for unlogged partitions", sql, &[&schemas, &names]).await?;
    let pair = |row: &tokio_postgres::Row| {
        let name = |at| {
            Ok::<_, Error>(TableName::new(get::<String>(row, at)?, get::<String>(row, at + 1)?))
        };
        Ok((name(0)?, name(2)?))
    };
    rows.iter().map(pair).collect()
}

async fn add(session: &Session, sql: &str) -> Result<()> {
    session.batch("preparing the publication", sql).await.map_err(|error| {
        if error.code() == Code::Privilege {
            error.with_hint(
                "`tidelock check` prints the statement that the tables' owner or a superuser must run",
            )
        } else {
            error
        }
    })
}

/// Checks that the publication holds what it must.
pub(crate) async fn check(session: &Session, spec: &SourceSpec, meta_schema: &str) -> Result<()> {
    let name = &spec.publication;
    let refuse = |message: String, hint: String| {
        Err(Error::continuity(Code::Publication, message).with_hint(hint))
    };
    let tables = wanted(spec, meta_schema);
    let Some(contents) = read(session, name).await? else {
        return refuse(
            format!("the publication {name} is gone"),
            format!("{} Then `tidelock resync` the flow.", create_sql(name, &tables)),
        );
    };
    let optional = |table: &TableName| spec.tables.iter().any(|t| t.optional && t.name == *table);
    let mut missing = contents.missing(&tables);
    missing.retain(|table| !optional(table));
    if let Some(first) = missing.first() {
        return refuse(
            format!("the publication {name} does not hold table {first}"),
            format!(
                "{} Changes made while it was missing are not in the stream: backfill the table.",
                add_sql(name, &missing)
            ),
        );
    }
    if !contents.all_changes {
        return refuse(
            format!("the publication {name} leaves some kinds of changes out"),
            format!(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                ident(name)
            ),
        );
    }
    if let Some(table) = contents.filtered.iter().find(|t| tables.contains(t) && !optional(t)) {
        return refuse(
            format!("the publication {name} filters the rows of {table}"),
            "filter in the mapping instead: where = \"…\"".to_owned(),
        );
    }
    if !contents.via_root && has_partitioned(session, &tables).await? {
        return refuse(
            format!("the publication {name} publishes partitions instead of partitioned tables"),
            format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", ident(name)),
        );
    }
    Ok(())
}

async fn has_partitioned(session: &Session, tables: &[TableName]) -> Result<bool> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let sql = "SELECT EXISTS (SELECT 1 FROM unnest($1::text[], $2::text[]) AS w(s, t) \
               JOIN pg_namespace n ON n.nspname = w.s \
               JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.t \
               WHERE c.relkind = 'p')";
    get(&session.query_one("looking for partitioned tables", sql, &[&schemas, &names]).await?, 0)
}

/// What became of the wish to drop a publication.
pub(crate) enum Removed {
    /// There was none.
    WasNotThere,
    /// It is gone.
    Gone,
    /// It belongs to another role, which may run this.
    NotOurs(String),
}

/// Drops the publication if it is ours: where rights are few, a DBA has made it.
pub(crate) async fn remove(session: &Session, name: &str) -> Result<Removed> {
    let there = "SELECT 1 FROM pg_publication WHERE pubname = $1";
    if session.query_opt("looking at the publication", there, &[&name]).await?.is_none() {
        return Ok(Removed::WasNotThere);
    }
    let sql = format!("DROP PUBLICATION {};", ident(name));
    match session.batch("dropping the publication", &sql).await {
        Ok(()) => Ok(Removed::Gone),
        Err(error) if error.code() == Code::Privilege => Ok(Removed::NotOurs(sql)),
        Err(error) => Err(error),
    }
}
