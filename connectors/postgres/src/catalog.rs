//! The tables of a database, as the engine maps them.

use std::collections::{BTreeMap, HashMap, HashSet};

use tidelock_core::{
    Column, ColumnDefault, Generated, Index, Reference, Result, RowIdentity, Table, TableKind,
    TableName,
};
use tokio_postgres::Row;

use crate::session::{Session, get};
use crate::types::TypeMap;

const TABLES_SQL: &str = "\
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, \
       c.relreplident::text, c.relispartition, c.relhasrules, \
       EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid) \
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE n.nspname = ANY($1) AND n.nspname <> $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
  AND has_schema_privilege(n.oid, 'USAGE') \
ORDER BY n.nspname, c.relname";

const COLUMNS_SQL: &str = "\
SELECT a.attrelid, a.attname::text, a.atttypid, a.atttypmod, \
       format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity::text, \
       a.attgenerated::text, \
       coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false), \
       pg_get_expr(d.adbin, d.adrelid) \
FROM pg_attribute a \
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped \
ORDER BY a.attrelid, a.attnum";

const INDEXES_SQL: &str = "\
SELECT i.indrelid, c.relname::text, i.indisprimary, i.indimmediate, i.indisreplident, \
       array(SELECT a.attname::text FROM generate_series(0, i.indnkeyatts - 1) k \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k), \
       NOT EXISTS (SELECT 1 FROM generate_series(0, i.indnkeyatts - 1) k \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] \
             WHERE NOT a.attnotnull) \
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
WHERE i.indrelid = ANY($1) AND i.indisunique AND i.indisvalid AND i.indisready \
  AND i.indpred IS NULL AND i.indexprs IS NULL \
ORDER BY i.indrelid, i.indisprimary DESC, c.relname";

const REFERENCES_SQL: &str = "\
SELECT k.conrelid, n.nspname::text, c.relname::text, \
  ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u (n, i) \
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.i), \
  ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u (n, i) \
    JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.i) \
FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid \
JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE k.contype = 'f' AND k.conrelid = ANY($1)";

/// Triggers on a partition fire too; those of foreign keys are the server's own.
const TRIGGERS_SQL: &str = "\
SELECT DISTINCT COALESCE(i.inhparent, t.tgrelid) \
FROM pg_trigger t LEFT JOIN pg_inherits i ON i.inhrelid = t.tgrelid AND i.inhparent = ANY($1) \
WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') \
  AND (t.tgrelid = ANY($1) OR i.inhparent IS NOT NULL)";

/// The tables and views of these schemas.
pub(crate) async fn read(
    session: &Session,
    schemas: &[String],
    meta_schema: &str,
) -> Result<Vec<Table>> {
    let schemas: HashSet<&String> =
        schemas.iter().filter(|s| !s.starts_with("pg_") && *s != "information_schema").collect();
    let schemas: Vec<&String> = schemas.into_iter().collect();
    let heads = session.query("reading tables", TABLES_SQL, &[&schemas, &meta_schema]).await?;
    let oids: Vec<u32> = heads.iter().map(|r| get(r, 0)).collect::<Result<_>>()?;
    let column_rows = session.query("reading columns", COLUMNS_SQL, &[&oids]).await?;
    let index_rows = session.query("reading indexes", INDEXES_SQL, &[&oids]).await?;

    let type_oids: Vec<u32> = column_rows.iter().map(|r| get(r, 2)).collect::<Result<_>>()?;
    let mut types = TypeMap::default();
    types.load(session, &type_oids).await?;

    let mut columns: HashMap<u32, Vec<Column>> = HashMap::new();
    for row in &column_rows {
        columns.entry(get(row, 0)?).or_default().push(column(row, &types)?);
    }
    let mut indexes: HashMap<u32, Vec<(Index, bool)>> = HashMap::new();
    for row in &index_rows {
        let index = Index {
            name: get(row, 1)?,
            columns: get(row, 5)?,
            primary: get(row, 2)?,
            immediate: get(row, 3)?,
            not_null: get(row, 6)?,
        };
        indexes.entry(get(row, 0)?).or_default().push((index, get(row, 4)?));
    }
    let mut references: HashMap<u32, Vec<Reference>> = HashMap::new();
    for row in &session.query("reading foreign keys", REFERENCES_SQL, &[&oids]).await? {
        let table = TableName::new(get::<String>(row, 1)?, get::<String>(row, 2)?);
        let reference = Reference { table, columns: get(row, 3)?, to: get(row, 4)? };
        references.entry(get(row, 0)?).or_default().push(reference);
    }
    let fired = session.query("reading triggers", TRIGGERS_SQL, &[&oids]).await?;
    let fired: HashSet<u32> = fired.iter().map(|r| get(r, 0)).collect::<Result<_>>()?;
    let mut tables = BTreeMap::new();
    for row in &heads {
        let oid: u32 = get(row, 0)?;
        let mut table = table(
            row,
            columns.remove(&oid).unwrap_or_default(),
            indexes.remove(&oid).unwrap_or_default(),
        )?;
        table.references = references.remove(&oid).unwrap_or_default();
        table.triggers = fired.contains(&oid);
        tables.insert(table.name.clone(), table);
    }
    Ok(tables.into_values().collect())
}

fn column(row: &Row, types: &TypeMap) -> Result<Column> {
    let type_oid: u32 = get(row, 2)?;
    let identity: &str = get(row, 7)?;
    let computed = !get::<&str>(row, 8)?.is_empty();
    let generated = match identity {
        _ if computed => Generated::Always,
        "a" => Generated::IdentityAlways,
        "d" => Generated::IdentityByDefault,
        _ if get::<bool>(row, 9)? => Generated::IdentityByDefault,
        _ => Generated::No,
    };
    Ok(Column {
        name: get(row, 1)?,
        data_type: types.data_type(type_oid, get(row, 3)?),
        native: get(row, 4)?,
        nullable: !get::<bool>(row, 5)? && !types.forbids_null(type_oid),
        has_default: get::<bool>(row, 6)? || !identity.is_empty(),
        generated,
        default: get::<Option<String>>(row, 10)?
            .filter(|d| !d.starts_with("NULL::"))
            .map(|native| ColumnDefault { literal: literal(&native), native }),
        // The database's own by default; others are not told apart.
        collation: None,
        // pgoutput leaves out what the server computes.
        logged: !computed,
    })
}

fn table(row: &Row, columns: Vec<Column>, indexes: Vec<(Index, bool)>) -> Result<Table> {
    let unlogged = get::<&str>(row, 4)? != "p";
    let is_partition: bool = get(row, 6)?;
    let has_rules: bool = get(row, 7)?;
    let has_children: bool = get(row, 8)?;
    let relation: &str = get(row, 3)?;
    let mut refusals = Vec::new();
    let kind = match relation {
        "r" if unlogged => {
            refusals.push("it is unlogged or temporary: its changes are not in the log".to_owned());
            TableKind::Other
        }
        _ if is_partition => {
            refusals.push("it is a partition; map the partitioned table itself".to_owned());
            TableKind::Other
        }
        "r" => TableKind::Table,
        "p" => TableKind::Partitioned,
        "v" => TableKind::View,
        "m" => {
            let says = "it is a materialized view: REFRESH changes it and nothing is in the log; map a view";
            refusals.push(says.to_owned());
            TableKind::Other
        }
        _ => {
            refusals.push("it is neither a table nor a view".to_owned());
            TableKind::Other
        }
    };
    if relation == "r" && has_children {
        refusals.push("other tables inherit from it".to_owned());
    }
    if matches!(kind, TableKind::Table | TableKind::Partitioned) && has_rules {
        refusals.push("it has rewrite rules, which change what is written".to_owned());
    }
    let identity = identity(get(row, 5)?, kind, &indexes);
    Ok(Table {
        name: TableName::new(get::<String>(row, 1)?, get::<String>(row, 2)?),
        kind,
        columns,
        unique_indexes: indexes.into_iter().map(|(index, _)| index).collect(),
        identity,
        references: Vec::new(),
        triggers: false,
        refusals,
    })
}

/// What the log carries of old rows, by the table's replica identity.
fn identity(setting: &str, kind: TableKind, indexes: &[(Index, bool)]) -> RowIdentity {
    if !matches!(kind, TableKind::Table | TableKind::Partitioned) {
        return RowIdentity::Nothing;
    }
    let usable = match setting {
        "f" => return RowIdentity::Full,
        // A deferrable primary key cannot serve: the server then refuses updates altogether.
        "d" => indexes.iter().find(|(index, _)| index.primary && index.immediate),
        "i" => indexes.iter().find(|(_, chosen)| *chosen),
        _ => None,
    };
    match usable {
        Some((index, _)) => RowIdentity::Columns(index.columns.clone()),
        None => RowIdentity::Nothing,
    }
}

/// What a default is if it is no more than a number, a truth value, or a text with a cast: `'draft'::text`.
fn literal(expression: &str) -> Option<String> {
    let bare = expression.strip_prefix('(').and_then(|e| e.strip_suffix(')')).unwrap_or(expression);
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if matches!(bare, "true" | "false") || number(bare.strip_prefix('-').unwrap_or(bare)) {
        return Some(bare.to_owned());
    }
    let mut rest = expression.strip_prefix('\'')?;
    let mut text = String::new();
    loop {
        let end = rest.find('\'')?;
        text.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(more) => {
                text.push('\'');
                rest = more;
            }
            None => break,
        }
    }
    let cast = rest.strip_prefix("::")?;
    let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ' ' | '(' | ')' | ',');
    cast.chars().all(name).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn only_defaults_that_are_values_are_taken_for_such() {
        for (expression, value) in [
            ("7", Some("7")),
            ("(-1)", Some("-1")),
            ("'-1'::integer", Some("-1")),
            ("0.00", Some("0.00")),
            ("true", Some("true")),
            ("'it''s'::character varying(10)", Some("it's")),
            ("'sad'::sale.mood", Some("sad")),
            ("now()", None),
            ("nextval('s'::regclass)", None),
            ("('a'::text || 'b'::text)", None),
            ("'a'::text || 'b'::text", None),
            ("('5'::integer + 3)", None),
            ("ARRAY[]::integer[]", None),
        ] {
            assert_eq!(literal(expression).as_deref(), value, "{expression}");
        }
    }
}
