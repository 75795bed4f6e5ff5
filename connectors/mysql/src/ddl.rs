//! How MariaDB and MySQL declare a table that takes what another table holds.
//!
//! Nothing may be lost on the way. Texts get a collation that keeps apart what any source keeps apart,
//! unless the source is of this family and its own collation is known here. Three limits of the server
//! decide lengths: 65,535 bytes a row outside of `text` and `blob` columns, 3,072 bytes an InnoDB key,
//! and 16,383 characters a `varchar`.

mod column;

use std::collections::HashSet;

use tidelock_core::{
    Creation, DataType, Dialect, Error, Index, NewColumn, NewTable, Note, Repertoire, Result,
    RowIdentity, Table, TableKind, TableName, Uncarried,
};

use crate::config::Endpoint;
use crate::preflight::account;
use crate::session::{Flavour, Session, quote};
use column::{CHAR_BYTES, Declared, KEY_LENGTH, LONG, SMALL, default};

/// Most bytes of a row, `text` and `blob` columns counted as pointers; less the bits that mark NULLs.
const ROW_BYTES_MAX: u64 = 65_535 - 1_024;
/// Most bytes of an InnoDB key.
const KEY_BYTES_MAX: u64 = 3_072;

/// How one server declares tables.
#[derive(Debug, Clone)]
pub struct MySqlDialect {
    flavour: Flavour,
    /// Major and minor version.
    version: (u32, u32),
    /// The databases that are there.
    databases: HashSet<String>,
    /// The collations of `utf8mb4`.
    collations: HashSet<String>,
}

/// Asks a server what it knows.
pub(crate) async fn dialect(session: &mut Session, schemas: &[String]) -> Result<MySqlDialect> {
    let mut databases = Vec::new();
    for schema in schemas {
        let sql = "SELECT schema_name FROM information_schema.schemata WHERE schema_name = ?";
        databases.extend(session.rows::<String, _>(sql, (schema,)).await?);
    }
    let sql = "SELECT collation_name FROM information_schema.collations \
               WHERE character_set_name = 'utf8mb4'";
    let mut collations: Vec<String> = session.query(sql).await?;
    // From 10.10 on MariaDB has collations for all character sets, listed elsewhere by their full names.
    let more = "SELECT full_collation_name FROM \
                information_schema.collation_character_set_applicability \
                WHERE character_set_name = 'utf8mb4'";
    if session.maria()
        && let Ok(more) = session.query::<String>(more).await
    {
        collations.extend(more);
    }
    Ok(MySqlDialect::new(session.flavour, &session.version, databases, collations))
}

/// Makes a table; a statement commits by itself here, so a failing one leaves those before it done.
pub(crate) async fn create(
    session: &mut Session,
    endpoint: &Endpoint,
    creation: &Creation,
) -> Result<()> {
    let name = &creation.table.name;
    for sql in &creation.statements {
        let Err(error) = session.declare(sql).await else { continue };
        let error = error.at(format!("creating table {name}"));
        if error.code() != tidelock_core::Code::Privilege {
            return Err(error);
        }
        let user = account(session).await.unwrap_or_else(|_| quote(&endpoint.user));
        return Err(error.with_hint(format!(
            "have a DBA run: GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user};",
            quote(&name.schema)
        )));
    }
    Ok(())
}

impl MySqlDialect {
    /// The dialect of a server of this family and version (`10.11.6-MariaDB`), with these databases and
    /// these collations of `utf8mb4`.
    pub fn new(
        flavour: Flavour,
        version: &str,
        databases: impl IntoIterator<Item = String>,
        collations: impl IntoIterator<Item = String>,
    ) -> MySqlDialect {
        let mut numbers = version.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
        MySqlDialect {
            flavour,
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            databases: databases.into_iter().collect(),
            collations: collations.into_iter().collect(),
        }
    }

    /// What each key column may take of the key: what it wants where that fits, else a fair share.
    fn key_shares(&self, table: &NewTable) -> Vec<(String, u64)> {
        let mut flexible: Vec<(String, u64)> = Vec::new();
        let mut left = KEY_BYTES_MAX;
        for column in table.columns.iter().filter(|c| table.key.contains(&c.name)) {
            let wanted = match &column.from.data_type {
                DataType::Text { chars_max, bytes_max, .. } => {
                    let chars = chars_max.or(bytes_max.filter(|_| !table.same_family));
                    chars.unwrap_or(KEY_LENGTH).saturating_mul(CHAR_BYTES)
                }
                DataType::Bytes { bytes_max, .. } => bytes_max.unwrap_or(KEY_LENGTH),
                DataType::Bits { .. }
                | DataType::Address { .. }
                | DataType::Interval { .. }
                | DataType::Native { .. } => KEY_LENGTH * CHAR_BYTES,
                _ => {
                    left = left.saturating_sub(SMALL * 2);
                    continue;
                }
            };
            flexible.push((column.name.clone(), wanted));
        }
        flexible.sort_by_key(|(_, wanted)| *wanted);
        let mut count = flexible.len() as u64;
        for (_, wanted) in &mut flexible {
            *wanted = (*wanted).min(left / count.max(1));
            left -= *wanted;
            count -= 1;
        }
        flexible
    }

    /// Names that the server cannot keep, or not apart.
    fn names(table: &NewTable) -> Vec<Uncarried> {
        let mut refused = Vec::new();
        if let Some(why) = bad_name(&table.name.name) {
            refused.push(Uncarried { column: None, why });
        }
        let mut seen: HashSet<String> = HashSet::new();
        for column in &table.columns {
            let why = match bad_name(&column.name) {
                Some(why) => why,
                None if seen.insert(column.name.to_lowercase()) => continue,
                None => "another column's name differs only in case".to_owned(),
            };
            refused.push(Uncarried { column: Some(column.name.clone()), why });
        }
        refused
    }
}

impl Dialect for MySqlDialect {
    fn boxed(&self) -> Box<dyn Dialect> {
        Box::new(self.clone())
    }

    fn create_table(&mut self, table: &NewTable) -> std::result::Result<Creation, Vec<Uncarried>> {
        let mut refused = Self::names(table);
        let shares = self.key_shares(table);
        let mut declared: Vec<(&NewColumn, Declared)> = Vec::new();
        for column in &table.columns {
            let share = shares.iter().find(|(name, _)| *name == column.name).map(|(_, n)| *n);
            let share = share.or_else(|| table.key.contains(&column.name).then_some(KEY_BYTES_MAX));
            match self.declare(&column.from, table.same_family, share) {
                Ok(one) => declared.push((column, one)),
                Err(why) => refused.push(Uncarried { column: Some(column.name.clone()), why }),
            }
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        fit_row(&mut declared, &table.key);
        for (column, one) in &mut declared {
            if let Some(default) = default(&column.from, &one.data_type) {
                one.default = Some(default);
            }
        }
        let default = self.exact_collation();
        let nullable = |c: &NewColumn| c.from.nullable && !table.key.contains(&c.name);
        let mut lines: Vec<String> =
            declared.iter().map(|(c, d)| d.definition(&c.name, nullable(c), default)).collect();
        let key: Vec<String> = table.key.iter().map(|c| quote(c)).collect();
        lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
        let makes_schema = self.databases.insert(table.name.schema.clone());
        let mut statements = Vec::new();
        if makes_schema {
            statements.push(format!("CREATE DATABASE {};", quote(&table.name.schema)));
        }
        statements.push(format!(
            "CREATE TABLE {}.{} (\n    {}\n) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE {default};",
            quote(&table.name.schema),
            quote(&table.name.name),
            lines.join(",\n    ")
        ));
        Ok(Creation {
            statements,
            makes_schema,
            notes: declared
                .iter()
                .flat_map(|(c, d)| {
                    d.notes.iter().map(|text| Note { column: c.name.clone(), text: text.clone() })
                })
                .collect(),
            table: Table {
                name: table.name.clone(),
                kind: TableKind::Table,
                columns: declared.iter().map(|(c, d)| d.column(&c.name, nullable(c))).collect(),
                unique_indexes: vec![Index {
                    name: "PRIMARY".to_owned(),
                    columns: table.key.clone(),
                    primary: true,
                    immediate: true,
                    not_null: true,
                }],
                identity: RowIdentity::Full,
                references: Vec::new(),
                triggers: false,
                refusals: Vec::new(),
            },
        })
    }

    fn add_column(
        &mut self,
        table: &TableName,
        column: &NewColumn,
        same_family: bool,
    ) -> std::result::Result<(Vec<String>, Vec<Note>), Uncarried> {
        let refused = |why| Uncarried { column: Some(column.name.clone()), why };
        if let Some(why) = bad_name(&column.name) {
            return Err(refused(why));
        }
        let declared = self.declare(&column.from, same_family, None).map_err(refused)?;
        let sql = format!(
            "ALTER TABLE {}.{} ADD COLUMN {};",
            quote(&table.schema),
            quote(&table.name),
            declared.definition(&column.name, true, "")
        );
        let note = |text| Note { column: column.name.clone(), text };
        Ok((vec![sql], declared.notes.into_iter().map(note).collect()))
    }
}

/// Makes the longest `varchar` columns `longtext` until the row fits.
fn fit_row(declared: &mut [(&NewColumn, Declared)], key: &[String]) {
    loop {
        let sum: u64 = declared.iter().map(|(_, d)| d.row_bytes).sum();
        let longest = declared
            .iter_mut()
            .filter(|(c, d)| d.sql.starts_with("varchar(") && !key.contains(&c.name))
            .max_by_key(|(_, d)| d.row_bytes);
        let Some((_, one)) = longest.filter(|_| sum > ROW_BYTES_MAX) else { return };
        let note =
            format!("{} would make the row longer than 65,535 bytes: a longtext here", one.sql);
        one.sql = "longtext".to_owned();
        one.row_bytes = SMALL;
        one.data_type = DataType::Text {
            chars_max: None,
            bytes_max: Some(LONG),
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        one.notes.push(note);
    }
}

/// Why the server would not take a name.
fn bad_name(name: &str) -> Option<String> {
    if name.ends_with(' ') {
        return Some("a name cannot end with a blank here".to_owned());
    }
    let signs = |c: char| c == '\0' || u32::from(c) > 0xffff;
    if name.chars().any(signs) {
        return Some("a name cannot hold such signs here".to_owned());
    }
    tidelock_core::IdentifierMax::Chars(64)
        .excess(name)
        .map(|excess| format!("its name is {excess}"))
}

impl Session {
    /// Executes DDL. What the server says of it holds names only, so it is passed on.
    async fn declare(&mut self, sql: &str) -> Result<()> {
        use mysql_async::prelude::Queryable;
        use tidelock_core::{Code, ErrorKind};
        let answer =
            tokio::time::timeout(crate::session::STATEMENT, self.conn.query_drop(sql)).await;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(mysql_async::Error::Server(e))) if matches!(e.code, 1050 | 1007) => {
                Err(Error::setup(
                    Code::Catalog,
                    format!("{}: it appeared since the plan was made", self.place),
                )
                .with_detail(format!("error {}: {}", e.code, e.message))
                .with_hint("look at it; then `tidelock plan` tells what is still missing"))
            }
            Ok(Err(mysql_async::Error::Server(e))) if !matches!(e.code, 1044 | 1142) => {
                let known = crate::error::map(&self.place, mysql_async::Error::Server(e.clone()));
                if known.kind() == ErrorKind::Transient {
                    return Err(known);
                }
                Err(Error::setup(
                    Code::Rejected,
                    format!("{}: the server refused the statement", self.place),
                )
                .with_detail(format!("error {}: {}", e.code, e.message)))
            }
            Ok(Err(e)) => Err(crate::error::map(&self.place, e)),
            Err(_) => Err(Error::transient(
                Code::ServerBusy,
                format!("{}: no answer in time", self.place),
            )),
        }
    }
}
