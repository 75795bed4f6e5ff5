//! Reading rows of tables and views by keys, and the keys that a track's query gives.
//!
//! **The statement.** Each column of the key is compared with the array of its values, written out as a
//! constant: so the planner knows how many there are (of a parameter it would assume ten), and such a condition
//! goes down into a view, below its joins and its `GROUP BY`, to an index. A key of several columns is
//! then told from another combination of the same values by a semi-join with the list of keys, which
//! takes no row twice. A join with the list alone is not pushed below a `GROUP BY`.
//!
//! **Types.** A value is brought into its column's own type before it is compared ([`mod@tidelock_core::alike`]),
//! and cast without a length or precision: a cast with one would cut or round it to another key.
//! The operator is that of the type's own index, since `=` alone would not find the one of a type from an extension
//! (`citext`) and would take that of `text` instead.
//!
//! **What may change meanwhile.** What the columns are is asked of the server's parser, not of the catalog's tables,
//! which a snapshot shows as they were. It is asked again behind the rows: the locks of the reading keep it as
//! it is from then on, so if it is what it was, the rows were decoded as what they are.
//!
//! **Names.** The statements here find functions and operators in `pg_catalog` alone, so nobody can put others in
//! their place. Names in a track's query without a schema are in `public`, as they are in a mapping.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::alike::sample;
use tidelock_core::{
    Code, CopyTable, DataType, Error, Finding, Key, Piece, QueryColumn, Result, Row, StreamColumn,
    TableSchema, TrackQuery, Value, alike,
};
use tokio_postgres::SimpleQueryMessage;

use super::facts::{picked, row};
use super::{PgCopier, names};
use crate::error::{Stage, refusal};
use crate::quote::{ident, literal, table};
use crate::session::{CALL_TIMEOUT, Session, get};
use crate::text;
use crate::types::TypeMap;

/// Where names without a schema are looked for in a track's query, and where before and after.
const OPEN_PATH: &str = "SET LOCAL search_path = public";
const SHUT_PATH: &str = "SET LOCAL search_path = pg_catalog";
/// Rows from which on reading a whole table is told: for one key (below, it takes about a millisecond), and for a
/// thousand keys (below, it may well be the best of the plans).
const WHOLE: [(u32, &str, f64); 2] =
    [(1, "one key", 10_000.0), (1000, "a thousand keys", 200_000.0)];

/// A column that keys are compared with.
struct By {
    name: String,
    data_type: DataType,
    /// The type for a cast, without length or precision.
    native: String,
    /// The operator of equality, with its schema.
    equals: String,
}

/// A relation as it is read by keys.
pub(super) struct Keyed {
    schema: Arc<TableSchema>,
    by: Vec<By>,
    described: Vec<(u32, i32)>,
}

impl PgCopier {
    /// What the columns are, as the server's parser sees them now.
    async fn keyed(&mut self, wanted: &CopyTable, by: &[String]) -> Result<Arc<Keyed>> {
        let at = (table(&wanted.name), wanted.columns.clone(), by.to_vec());
        if let Some(keyed) = self.keyed.get(&at) {
            return Ok(keyed.clone());
        }
        let described = self.looked_at(wanted, by).await?;
        let oids: Vec<u32> = described.iter().map(|(oid, _)| *oid).collect();
        self.types.load(&self.session, &oids).await?;
        let (columns, keys) = described.split_at(wanted.columns.len().min(described.len()));
        let columns = wanted
            .columns
            .iter()
            .zip(columns)
            .map(|(name, (oid, modifier))| StreamColumn {
                name: name.clone(),
                data_type: self.types.data_type(*oid, *modifier),
                identity: wanted.key.contains(name),
            })
            .collect();
        let mut found = Vec::with_capacity(by.len());
        for (name, (oid, modifier)) in by.iter().zip(keys) {
            let data_type = self.types.data_type(*oid, *modifier);
            let (native, equals) = compared(&self.session, *oid).await?;
            if native.ends_with("[]") || native == "json" {
                let says = format!("{}.{name}: rows cannot be looked up by {native}", wanted.name);
                return Err(Error::data(Code::Catalog, says)
                    .with_hint("give the view a key of a number, a text or a uuid"));
            }
            found.push(By { name: name.clone(), data_type, native, equals });
        }
        self.versions += 1;
        let schema =
            Arc::new(TableSchema { name: wanted.name.clone(), version: self.versions, columns });
        let keyed = Arc::new(Keyed { schema, by: found, described });
        self.keyed.insert(at, keyed.clone());
        Ok(keyed)
    }

    async fn looked_at(&self, wanted: &CopyTable, by: &[String]) -> Result<Vec<(u32, i32)>> {
        let doing = format!("looking at the columns of {}", wanted.name);
        let both = [wanted.columns.as_slice(), by].concat();
        let sql = format!("SELECT {} FROM {}", names(&both), table(&wanted.name));
        let prepared = self.session.client.prepare(&sql);
        let statement = self.session.call(&doing, Stage::Read, CALL_TIMEOUT, prepared).await?;
        Ok(statement.columns().iter().map(|c| (c.type_().oid(), c.type_modifier())).collect())
    }

    pub(super) async fn by_keys(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
        keys: &[Key],
        bytes_max: usize,
    ) -> Result<Piece> {
        if !self.open {
            return Err(Error::bug("rows are read by keys without a snapshot"));
        }
        let keyed = self.keyed(wanted, by).await?;
        let (mut rows, mut bytes, mut cut) = (Vec::new(), 0, false);
        if let Some(test) = condition(&keyed, keys)? {
            let sql = format!("COPY ({}) TO STDOUT", selected(wanted, &test));
            let all: Vec<usize> = (0..keyed.schema.columns.len()).collect();
            let doing = format!("reading {} by key", wanted.name);
            let mut fault = None;
            cut = self
                .lines(&doing, Stage::Read, &sql, |line| {
                    match row(&keyed.schema, &all, &line) {
                        Ok(cells) => {
                            let one = Row(cells);
                            bytes += one.bytes();
                            rows.push(one);
                        }
                        // Told only if the columns are still what they were.
                        Err(error) => {
                            fault.get_or_insert(error);
                        }
                    }
                    Ok(bytes < bytes_max)
                })
                .await?;
            if cut {
                self.renew().await?;
            } else if self.looked_at(wanted, by).await? != keyed.described {
                self.keyed.clear();
                return Err(Error::transient(
                    Code::SchemaDrift,
                    format!("the columns of {} have changed", wanted.name),
                ));
            }
            if let Some(fault) = fault {
                return Err(fault);
            }
        }
        Ok(Piece { table: keyed.schema.clone(), rows, lines: None, bytes, cut })
    }

    pub(super) async fn tracked(
        &mut self,
        query: &TrackQuery,
        values: &[(String, DataType, Vec<Value>)],
    ) -> Result<Vec<Key>> {
        if !self.open {
            return Err(Error::bug("a track's query is asked without a snapshot"));
        }
        let doing = "reading the keys of a track's query";
        let sql = query.expand(|name| {
            values
                .iter()
                .find(|(column, ..)| column == name)
                .ok_or_else(|| Error::bug(format!("no values for the parameter :{name}")))
                .and_then(|(_, data_type, values)| list(data_type, values))
        })?;
        self.session.batch(doing, OPEN_PATH).await?;
        let mut lines: HashSet<Bytes> = HashSet::new();
        let copy = format!("COPY ({}) TO STDOUT", enclosed(&sql));
        self.lines(doing, Stage::Read, &copy, |line| {
            // A copy, so that it does not keep what was read from the network with it.
            if !lines.contains(&line) {
                lines.insert(Bytes::copy_from_slice(&line));
            }
            Ok(true)
        })
        .await?;
        // Behind the rows, whose locks keep the columns as they are now.
        let types: Vec<_> = values.iter().map(|(n, t, _)| (n.as_str(), t)).collect();
        let sql = empty(query, &types)?;
        let prepared = self.session.client.prepare(&sql);
        let statement = self.session.call(doing, Stage::Read, CALL_TIMEOUT, prepared).await?;
        self.session.batch(doing, SHUT_PATH).await?;
        let columns = columns(&self.session, &mut self.types, &statement).await?;
        let columns = columns
            .into_iter()
            .map(|c| StreamColumn { name: c.name, data_type: c.data_type, identity: true })
            .collect::<Vec<_>>();
        let all: Vec<usize> = (0..columns.len()).collect();
        let name = tidelock_core::TableName::new("the query of", "a track");
        let schema = TableSchema { name, version: 0, columns };
        let mut keys = Vec::with_capacity(lines.len());
        for line in &lines {
            let key = picked(&schema, &all, line)?;
            if !key.iter().any(Value::is_null) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// What the server would read as a whole.
    pub(crate) async fn explained(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
    ) -> Result<Vec<Finding>> {
        let doing = format!("explaining the reading of {} by key", wanted.name);
        let keyed = self.keyed(wanted, by).await?;
        let mut whole: Vec<(String, f64, Vec<&str>)> = Vec::new();
        for (count, words, least) in WHOLE {
            let keys: Option<Vec<Key>> = (0..count)
                .map(|i| keyed.by.iter().map(|by| sample(&by.data_type, i)).collect())
                .collect();
            let Some(test) = keys.map(|keys| condition(&keyed, &keys)).transpose()?.flatten()
            else {
                continue;
            };
            let sql = format!("EXPLAIN (FORMAT JSON, VERBOSE) {}", selected(wanted, &test));
            for (schema, name) in scanned(&plan(&self.session, &doing, &sql).await?) {
                let rows = size(&self.session, &schema, &name).await?;
                let full = format!("{schema}.{name}");
                if rows < least {
                    continue;
                }
                match whole.iter_mut().find(|(name, ..)| *name == full) {
                    Some((.., seen)) if !seen.contains(&words) => seen.push(words),
                    Some(_) => {}
                    None => whole.push((full, rows, vec![words])),
                }
            }
        }
        let by = by.join(", ");
        Ok(whole
            .into_iter()
            .map(|(name, rows, words)| {
                Finding::warning(format!(
                    "{}: to read {} again by ({by}), the server reads all of {name}, about {rows:.0} rows",
                    wanted.name,
                    words.join(" or ")
                ))
                .hint(
                    "index the column of that table that leads to the key; where there is an index, the condition \
                     on the key does not reach the table: LIMIT, DISTINCT ON, a window function or an \
                     expression as the key stand in its way",
                )
            })
            .collect())
    }

    /// About how many rows a view gives; none if it is no view.
    pub(super) async fn view_rows(&self, wanted: &CopyTable) -> Result<u64> {
        let doing = format!("estimating the rows of {}", wanted.name);
        let sql = "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'v'";
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] =
            [&wanted.name.schema, &wanted.name.name];
        if self.session.query_opt(&doing, sql, &params).await?.is_none() {
            return Ok(0);
        }
        let sql = format!("EXPLAIN (FORMAT JSON) SELECT 1 FROM {}", table(&wanted.name));
        let plan = plan(&self.session, &doing, &sql).await?;
        let rows = plan.get("Plan Rows").and_then(serde_json::Value::as_f64);
        Ok(rows.unwrap_or(0.0) as u64)
    }
}

/// The type of a column for a cast, and its operator of equality.
async fn compared(session: &Session, type_oid: u32) -> Result<(String, String)> {
    let sql = "SELECT format_type(t.oid, -1), n.nspname::text, o.oprname::text FROM pg_type t \
               LEFT JOIN (pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree' \
                 JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3 \
                 JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace) \
               ON c.opcdefault AND c.opcintype = t.oid AND a.amoplefttype = t.oid AND a.amoprighttype = t.oid \
               WHERE t.oid = $1 LIMIT 1";
    let Some(row) = session.query_opt("reading a type", sql, &[&type_oid]).await? else {
        return Err(Error::transient(Code::SchemaDrift, "the type of a key column is gone"));
    };
    let own = (get::<Option<String>>(&row, 1)?, get::<Option<String>>(&row, 2)?);
    let equals = match own {
        (Some(schema), Some(name)) if schema != "pg_catalog" => {
            format!("OPERATOR({}.{name})", ident(&schema))
        }
        // A type that is compared as another one (`varchar`, enums), or by the server's own operator.
        _ => "OPERATOR(pg_catalog.=)".to_owned(),
    };
    Ok((get(&row, 0)?, equals))
}

/// An array of texts, as a constant.
fn array<'a>(cells: impl Iterator<Item = &'a str>, native: &str) -> String {
    let mut out = String::from("{");
    for (i, cell) in cells.enumerate() {
        out.push_str(if i == 0 { "\"" } else { ",\"" });
        cell.chars().for_each(|c| {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        });
        out.push('"');
    }
    out.push('}');
    format!("{}::{native}[]", literal(&out))
}

/// The condition that chooses the rows of these keys; `None` if no row can have one of them.
fn condition(keyed: &Keyed, keys: &[Key]) -> Result<Option<String>> {
    let mut columns: Vec<Vec<String>> = vec![Vec::with_capacity(keys.len()); keyed.by.len()];
    for key in keys {
        let mut cells = Vec::with_capacity(keyed.by.len());
        for (by, value) in keyed.by.iter().zip(key.iter()) {
            let found = alike(value, &by.data_type).map_err(|_| unlike(keyed, by))?;
            let Some(cell) = found.as_ref().and_then(text::of).map(|t| t.into_owned()) else {
                break;
            };
            cells.push(cell);
        }
        if cells.len() == keyed.by.len() {
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        }
    }
    if columns.first().is_none_or(Vec::is_empty) {
        return Ok(None);
    }
    let mut tests = Vec::new();
    for (by, cells) in keyed.by.iter().zip(&columns) {
        let mut seen = HashSet::with_capacity(cells.len());
        let distinct = cells.iter().map(String::as_str).filter(|cell| seen.insert(*cell));
        let array = array(distinct, &by.native);
        tests.push(format!("v.{} {} ANY ({array})", ident(&by.name), by.equals));
    }
    if keyed.by.len() > 1 {
        let arrays: Vec<String> = keyed
            .by
            .iter()
            .zip(&columns)
            .map(|(by, cells)| array(cells.iter().map(String::as_str), &by.native))
            .collect();
        let places: Vec<String> = (0..keyed.by.len()).map(|i| format!("c{i}")).collect();
        let same: Vec<String> = keyed
            .by
            .iter()
            .zip(&places)
            .map(|(by, c)| format!("v.{} {} k.{c}", ident(&by.name), by.equals))
            .collect();
        tests.push(format!(
            "EXISTS (SELECT 1 FROM unnest({}) AS k({}) WHERE {})",
            arrays.join(", "),
            places.join(", "),
            same.join(" AND ")
        ));
    }
    Ok(Some(tests.join(" AND ")))
}

fn unlike(keyed: &Keyed, by: &By) -> Error {
    Error::data(
        Code::Catalog,
        format!("{}.{}: a track gives keys of another type", keyed.schema.name, by.name),
    )
    .with_hint("let the track give the view's own key, by a query with a cast if need be")
}

fn selected(wanted: &CopyTable, test: &str) -> String {
    let filter = wanted.filter.as_ref().map_or(String::new(), |f| format!(" AND ({f})"));
    let (columns, from) = (names(&wanted.columns), table(&wanted.name));
    format!("SELECT {columns} FROM {from} AS v WHERE {test}{filter}")
}

/// A query as a part of another one: so it can be nothing but a query, whatever it says.
fn enclosed(sql: &str) -> String {
    // Its last line may be a comment.
    format!("SELECT * FROM (\n{sql}\n) AS q")
}

/// The query with empty lists.
fn empty(query: &TrackQuery, values: &[(&str, &DataType)]) -> Result<String> {
    let sql = query.expand(|name| {
        let found = values.iter().find(|(column, _)| *column == name);
        found
            .ok_or_else(|| Error::bug(format!("no type for the parameter :{name}")))
            .and_then(|(_, data_type)| list(data_type, &[]))
    })?;
    Ok(enclosed(&sql))
}

/// The values of a parameter, each once, with commas between; a NULL, which is equal to nothing, if there are none.
fn list(data_type: &DataType, values: &[Value]) -> Result<String> {
    let cast = cast(data_type).map_or(String::new(), |native| format!("::{native}"));
    let mut seen = HashSet::with_capacity(values.len());
    let mut out = String::new();
    for value in values {
        let Some(text) = text::of(value) else { continue };
        if !seen.contains(text.as_ref()) {
            if !out.is_empty() {
                out.push_str(", ");
            }
            out.push_str(&literal(&text));
            out.push_str(&cast);
            seen.insert(text.into_owned());
        }
    }
    if out.is_empty() {
        return Ok(format!("NULL{cast}"));
    }
    Ok(out)
}

/// The type of a parameter's values; `None` leaves it to what they are compared with, as only that tells whether a
/// text is one of `citext` or a label of which enum.
fn cast(data_type: &DataType) -> Option<&str> {
    Some(match data_type {
        DataType::Bool => "boolean",
        DataType::Int { bits: 16, unsigned: false } => "int2",
        DataType::Int { bits: 32, unsigned: false } => "int4",
        DataType::Int { .. } | DataType::Year => "int8",
        DataType::Decimal { .. } => "numeric",
        DataType::Float32 => "float4",
        DataType::Float64 | DataType::RoundedFloat { .. } => "float8",
        DataType::Bytes { .. } | DataType::Opaque { .. } => "bytea",
        DataType::Date => "date",
        DataType::Time { .. } => "time",
        DataType::Timestamp { .. } => "timestamp",
        DataType::Instant { .. } => "timestamptz",
        DataType::Interval { .. } => "interval",
        DataType::Uuid => "uuid",
        DataType::Json => "jsonb",
        DataType::Bits { .. } => "varbit",
        DataType::Address { .. } => "inet",
        DataType::Native { name, .. } => name,
        DataType::Text { .. }
        | DataType::Enum { .. }
        | DataType::Set { .. }
        | DataType::Unsupported { .. } => return None,
    })
}

/// The columns of a prepared query.
async fn columns(
    session: &Session,
    types: &mut TypeMap,
    statement: &tokio_postgres::Statement,
) -> Result<Vec<QueryColumn>> {
    let oids: Vec<u32> = statement.columns().iter().map(|c| c.type_().oid()).collect();
    types.load(session, &oids).await?;
    let column = |c: &tokio_postgres::Column| QueryColumn {
        name: c.name().to_owned(),
        data_type: types.data_type(c.type_().oid(), c.type_modifier()),
    };
    Ok(statement.columns().iter().map(column).collect())
}

/// The columns that a track's query gives.
pub(crate) async fn describe(
    session: &Session,
    query: &TrackQuery,
    values: &[(String, DataType)],
) -> Result<Vec<QueryColumn>> {
    let doing = "looking at a track's query";
    let types: Vec<_> = values.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let sql = empty(query, &types)?;
    session.batch(doing, &format!("BEGIN READ ONLY; {OPEN_PATH}")).await?;
    let prepared = tokio::time::timeout(CALL_TIMEOUT, session.client.prepare(&sql)).await;
    let late = Error::transient(Code::ServerBusy, format!("{doing}: no answer in time"));
    let statement = prepared.map_err(|_| late)?.map_err(|e| refusal(&e, doing))?;
    session.batch(doing, "ROLLBACK").await?;
    columns(session, &mut TypeMap::default(), &statement).await
}

/// The plan of an `EXPLAIN (FORMAT JSON)`.
async fn plan(session: &Session, doing: &str, sql: &str) -> Result<serde_json::Value> {
    let answer = session.client.simple_query(sql);
    let answer = session.call(doing, Stage::Read, CALL_TIMEOUT, answer).await?;
    let text: String = answer
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    let plans: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Error::bug(format!("a plan that cannot be read: {e}")))?;
    Ok(plans.get(0).and_then(|p| p.get("Plan")).cloned().unwrap_or_default())
}

/// The tables that a plan reads as a whole: schema and name.
fn scanned(plan: &serde_json::Value) -> Vec<(String, String)> {
    let text = |name: &str| plan.get(name).and_then(serde_json::Value::as_str).unwrap_or("");
    let whole = match text("Node Type") {
        "Seq Scan" => true,
        // In the order of the index, from one end to the other.
        "Index Scan" | "Index Only Scan" => plan.get("Index Cond").is_none(),
        _ => false,
    };
    let mut found = Vec::new();
    if whole {
        found.push((text("Schema").to_owned(), text("Relation Name").to_owned()));
    }
    let below = plan.get("Plans").and_then(serde_json::Value::as_array);
    below.into_iter().flatten().for_each(|plan| found.extend(scanned(plan)));
    found
}

/// About how many rows a table has.
async fn size(session: &Session, schema: &str, name: &str) -> Result<f64> {
    let sql = "SELECT (CASE WHEN c.reltuples < 0 OR c.relpages = 0 THEN pg_relation_size(c.oid) / 100 \
               ELSE c.reltuples / c.relpages * pg_relation_size(c.oid) / 8192 END)::float8 \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relname = $2";
    let row = session.query_opt("estimating rows", sql, &[&schema, &name]).await?;
    row.map_or(Ok(0.0), |row| get(&row, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_lists_keep_every_text_apart() {
        let cells = ["a", "b\"c", "d\\e", "it's", "{,}", "NULL", ""];
        assert_eq!(
            array(cells.into_iter(), "text"),
            r#"E'{"a","b\\"c","d\\\\e","it''s","{,}","NULL",""}'::text[]"#
        );
        let int = DataType::Int { bits: 32, unsigned: false };
        let values = [Value::Int(-1), Value::Null, Value::Int(2), Value::Int(-1), Value::Unchanged];
        assert_eq!(list(&int, &values).ok().as_deref(), Some("'-1'::int4, '2'::int4"));
        assert_eq!(list(&int, &[Value::Null]).ok().as_deref(), Some("NULL::int4"));
    }

    #[test]
    fn whole_reads_are_found_wherever_they_stand_in_a_plan() {
        let plan = serde_json::json!({"Node Type": "Hash Join", "Plans": [
            {"Node Type": "Index Scan", "Schema": "s", "Relation Name": "a", "Index Cond": "(id = 1)"},
            {"Node Type": "Hash", "Plans": [
                {"Node Type": "Seq Scan", "Schema": "s", "Relation Name": "b"},
                {"Node Type": "Index Only Scan", "Schema": "s", "Relation Name": "c"}]}]});
        let found: Vec<String> = scanned(&plan).into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, ["b", "c"]);
    }
}
