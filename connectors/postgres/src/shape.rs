//! What a table is now, and what became of it since an earlier look.
//!
//! PostgreSQL's log tells nothing of `ALTER TABLE`, and a statement that rewrites rows, attaches a
//! partition or gives a table's name to another one logs no rows. The catalog tells it afterwards:
//!
//! - another oid: another table stands under the name;
//! - a mapped column with another number: it was dropped and added again;
//! - another file (`relfilenode`), and the row of a mapped column in `pg_attribute` written by another
//!   transaction (`xmin`) than before: `ALTER TABLE` rewrote the table and that column with it. `VACUUM
//!   FULL`, `CLUSTER`, `pg_repack` and `TRUNCATE` give another file too and leave the columns' rows
//!   alone, but for those whose `atthasmissing` they clear (`ALTER TYPE` clears it too, but gives the column's
//!   default another row in `pg_attrdef`); a new type without another file (`varchar(10)`
//!   to `varchar(20)`) changes no value;
//! - a partition that was not there: it came with its rows, unless it was born as one (`CREATE TABLE …
//!   PARTITION OF`): then a column's row and that of a system column were written by one command, while
//!   `ATTACH PARTITION` writes every column's row again;
//! - a partition with another file: rewritten in place or truncated, which only its being empty tells
//!   apart (a `TRUNCATE` of a single partition is not in the log of its root);
//! - an enum's label that reads otherwise (`ALTER TYPE … RENAME VALUE`), also of one in an array, a domain, a range or a
//!   composite type;
//! - another place in the publication: the table was not in the log for a while;
//! - other options of the publication: kinds of changes, or those of partitions, were not in the log for a while. The row's
//!   transaction tells whether they were set, and set back, between two looks.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidelock_core::{Look, Result, Scope, ShapeChange, TableName};

use crate::lsn::Lsn;
use crate::quote::literal;
use crate::session::{Session, get};

/// `%` stands for the condition that chooses the tables, `@` for the publication's name.
const LOOK_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, json_build_object(\
  'oid', c.oid::int8, 'kind', c.relkind, 'logged', c.relpersistence = 'p', 'file', c.relfilenode::int8, \
  'identity', c.relreplident::text || coalesce((\
     SELECT string_agg(i.indkey::text || CASE WHEN i.indimmediate THEN '' ELSE ' deferrable' END, '; ' \
                       ORDER BY i.indexrelid) \
     FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)), ''), \
  'keys', coalesce((\
     SELECT string_agg(i.indkey::text, '; ' ORDER BY i.indkey::text) FROM pg_index i \
     WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL), ''), \
  'member', (\
     SELECT r.oid::int8 FROM pg_publication_rel r JOIN pg_publication u ON u.oid = r.prpubid \
     WHERE u.pubname = @ AND r.prrelid = c.oid), \
  'options', (SELECT u.oid::text || ' ' || u.xmin::text FROM pg_publication u WHERE u.pubname = @), \
  'columns', coalesce((\
     SELECT json_agg(json_build_object('name', a.attname, 'number', a.attnum, 'type', a.atttypid::int8, \
              'modifier', a.atttypmod, 'generated', a.attgenerated <> '', 'missing', a.atthasmissing, \
              'written', a.xmin::text, 'default', coalesce((\
                SELECT d.oid::int8 FROM pg_attrdef d \
                WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum), 0), \
              'labels', CASE WHEN a.atttypid >= 16384 THEN (\
                WITH RECURSIVE made_of(oid) AS (\
                  SELECT a.atttypid UNION \
                  SELECT x.oid FROM made_of m JOIN pg_type t ON t.oid = m.oid CROSS JOIN LATERAL (\
                    SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype UNION ALL \
                    SELECT f.atttypid FROM pg_attribute f \
                    WHERE f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped UNION ALL \
                    SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid) x \
                  WHERE x.oid >= 16384) \
                SELECT json_object_agg(e.oid::text, e.enumlabel) \
                FROM pg_enum e JOIN made_of m ON m.oid = e.enumtypid) END) ORDER BY a.attnum) \
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'), \
  'parts', CASE WHEN c.relkind = 'p' THEN (\
     WITH RECURSIVE part(oid, attached) AS (\
       SELECT i.inhrelid, i.xmin FROM pg_inherits i WHERE i.inhparent = c.oid UNION ALL \
       SELECT i.inhrelid, i.xmin FROM pg_inherits i JOIN part p ON i.inhparent = p.oid) \
     SELECT json_agg(json_build_object('oid', p.oid::int8, 'name', k.relname, 'file', k.relfilenode::int8, \
              'attached', p.attached::text, 'logged', k.relpersistence = 'p', \
              'empty', k.relpages = 0 AND k.reltuples <= 0, 'born', EXISTS (\
                SELECT 1 FROM pg_attribute s JOIN pg_attribute a ON a.attrelid = s.attrelid AND a.attnum > 0 \
                WHERE s.attrelid = p.oid AND s.attnum = -6 AND s.xmin = p.attached \
                  AND a.xmin = s.xmin AND a.cmin = s.cmin)) ORDER BY p.oid) \
     FROM part p JOIN pg_class k ON k.oid = p.oid) END)::text, \
  pg_current_wal_insert_lsn()::text \
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE c.relkind IN ('r', 'p', 'v') AND has_schema_privilege(n.oid, 'USAGE') AND %";

#[derive(Debug, Deserialize)]
struct Shape {
    oid: i64,
    kind: String,
    logged: bool,
    file: i64,
    identity: String,
    /// The columns of its unique indexes. This and what else has a default was not written down from the beginning: what is not
    /// known of before says nothing.
    #[serde(default)]
    keys: Option<String>,
    /// Its place in the publication, if it is there by its name.
    #[serde(default)]
    member: Option<i64>,
    /// The publication, and the transaction that set its options.
    #[serde(default)]
    options: Option<String>,
    columns: Vec<Column>,
    parts: Option<Vec<Part>>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    number: i16,
    #[serde(rename = "type")]
    type_oid: i64,
    modifier: i32,
    generated: bool,
    missing: bool,
    written: String,
    /// Its row in `pg_attrdef`, 0 for none.
    #[serde(default)]
    default: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Part {
    oid: i64,
    name: String,
    file: i64,
    /// The transaction that attached it.
    #[serde(default)]
    attached: Option<String>,
    #[serde(default)]
    logged: Option<bool>,
    empty: bool,
    born: bool,
}

/// Looks at tables.
pub(crate) async fn look(session: &Session, scope: Scope<'_>, publication: &str) -> Result<Look> {
    let doing = "looking at the tables' shapes";
    let look = |chosen: &str| {
        // What is chosen has parameters, and the publication's name may have any sign in it.
        LOOK_SQL.replace('%', chosen).replace('@', &literal(publication))
    };
    let rows = match scope {
        Scope::Schemas(schemas) => {
            let sql = look("n.nspname = ANY($1::text[])");
            session.query(doing, &sql, &[&schemas]).await?
        }
        Scope::Tables(tables) => {
            let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
            let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
            let chosen = "(n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
            session.query(doing, &look(chosen), &[&schemas, &names]).await?
        }
    };
    // The place of each row was taken after the statement's own snapshot.
    let mut at = Lsn(0);
    let mut shapes = std::collections::HashMap::with_capacity(rows.len());
    for row in &rows {
        let table = TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
        shapes.insert(table, get(row, 2)?);
        at = at.max(get::<&str>(row, 3)?.parse()?);
    }
    if rows.is_empty() {
        let sql = "SELECT pg_current_wal_insert_lsn()::text";
        at = get::<&str>(&session.query_one(doing, sql, &[]).await?, 0)?.parse()?;
    }
    Ok(Look { at: at.to_position(), shapes })
}

/// What became of a table between two looks.
pub(crate) fn change(before: &str, now: &str, mapped: &[String]) -> ShapeChange {
    if before == now {
        return ShapeChange::Same;
    }
    let parsed = |text: &str| serde_json::from_str::<Shape>(text).ok();
    let (Some(before), Some(now)) = (parsed(before), parsed(now)) else {
        return ShapeChange::Columns;
    };
    if before.oid != now.oid {
        return ShapeChange::Replaced("another table stands under its name".to_owned());
    }
    if before.member.is_some() && before.member != now.member {
        // What was done to it meanwhile is not in the log.
        let why = match now.member {
            Some(_) => "it was taken out of the publication and put back",
            None => "it was taken out of the publication",
        };
        return ShapeChange::Replaced(why.to_owned());
    }
    let mut change = columns(&before, &now, mapped).or(parts(&before, &now));
    if differ(&before.options, &now.options) {
        let why = "the publication was altered, and may have left changes out";
        change = change.or(ShapeChange::Rows(why.to_owned()));
    }
    if before.identity != now.identity
        || before.kind != now.kind
        || before.logged != now.logged
        || differ(&before.keys, &now.keys)
    {
        change = change.or(ShapeChange::Columns);
    }
    change
}

/// Whether two are known and not the same.
fn differ<T: PartialEq>(before: &Option<T>, now: &Option<T>) -> bool {
    before.is_some() && now.is_some() && before != now
}

/// Whether a table, or a partition of it that was there before, stands in another file.
fn rewritten(before: &Shape, now: &Shape) -> bool {
    let parts = before.parts.iter().flatten();
    let moved = |b: &Part| now.parts.iter().flatten().any(|n| n.oid == b.oid && n.file != b.file);
    before.file != now.file || parts.into_iter().any(moved)
}

fn columns(before: &Shape, now: &Shape, mapped: &[String]) -> ShapeChange {
    let rewritten = rewritten(before, now);
    let mut change = ShapeChange::Same;
    let names = |shape: &Shape| shape.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    if names(before) != names(now) {
        change = ShapeChange::Columns;
    }
    for b in &before.columns {
        let Some(n) = now.columns.iter().find(|n| n.name == b.name) else { continue };
        let same_type = b.type_oid == n.type_oid && b.modifier == n.modifier;
        if b.number != n.number || !same_type || b.labels != n.labels || b.generated != n.generated
        {
            change = change.or(ShapeChange::Columns);
        }
        if !mapped.contains(&b.name) {
            continue;
        }
        // `ALTER TYPE` makes the column's default anew; without one the two cannot be told apart.
        let same_default = match (b.default, n.default) {
            (Some(b), Some(n)) => b == n && b != 0,
            _ => true,
        };
        let filled = b.missing && !n.missing && same_type && same_default;
        if b.number != n.number {
            change = change
                .or(ShapeChange::Rows(format!("column {} was dropped and added again", b.name)));
        } else if rewritten && b.written != n.written && !filled {
            change = change.or(ShapeChange::Rows(format!(
                "ALTER TABLE rewrote the rows of column {}",
                b.name
            )));
        } else if relabelled(b, n) {
            change = change.or(ShapeChange::Rows(format!(
                "a label of the type of column {} was renamed",
                b.name
            )));
        }
    }
    change
}

fn relabelled(before: &Column, now: &Column) -> bool {
    let (Some(before), Some(now)) = (&before.labels, &now.labels) else { return false };
    before.iter().any(|(oid, label)| now.get(oid).is_some_and(|now| now != label))
}

fn parts(before: &Shape, now: &Shape) -> ShapeChange {
    let (Some(before), Some(now)) = (&before.parts, &now.parts) else {
        // None is as good as an empty list: a root without partitions.
        let none = Vec::new();
        let (before, now) =
            (before.parts.as_ref().unwrap_or(&none), now.parts.as_ref().unwrap_or(&none));
        return compare_parts(before, now);
    };
    compare_parts(before, now)
}

fn compare_parts(before: &[Part], now: &[Part]) -> ShapeChange {
    let mut change = ShapeChange::Same;
    for n in now {
        let said = match before.iter().find(|b| b.oid == n.oid) {
            None if n.born => continue,
            None => ShapeChange::Rows(format!("partition {} was attached", n.name)),
            Some(b) if differ(&b.attached, &n.attached) => {
                ShapeChange::Rows(format!("partition {} was detached and attached again", n.name))
            }
            Some(b) if differ(&b.logged, &n.logged) && n.logged == Some(false) => {
                ShapeChange::Columns
            }
            Some(b) if b.file == n.file => continue,
            Some(_) if n.empty => {
                ShapeChange::Vanished(format!("partition {} was truncated", n.name))
            }
            Some(_) => ShapeChange::Rows(format!(
                "partition {} was rewritten in place, or truncated and filled again",
                n.name
            )),
        };
        change = change.or(said);
    }
    for b in before.iter().filter(|b| now.iter().all(|n| n.oid != b.oid)) {
        let said = format!("partition {} was detached or dropped", b.name);
        change = change.or(ShapeChange::Vanished(said));
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(oid: i64, file: i64, columns: &str, parts: &str) -> String {
        format!(
            r#"{{"oid":{oid},"kind":"r","logged":true,"file":{file},"identity":"d1","columns":[{columns}],"parts":{parts}}}"#
        )
    }

    fn column(name: &str, number: i16, type_oid: i64, written: i64, missing: bool) -> String {
        format!(
            r#"{{"name":"{name}","number":{number},"type":{type_oid},"modifier":-1,"generated":false,"missing":{missing},"written":"{written}","labels":null}}"#
        )
    }

    fn became(before: &str, now: &str) -> u8 {
        match change(before, now, &["a".to_owned()]) {
            ShapeChange::Same => 0,
            ShapeChange::Columns => 1,
            ShapeChange::Rows(_) => 2,
            ShapeChange::Vanished(_) => 3,
            ShapeChange::Mixed(_) => 5,
            ShapeChange::Replaced(_) => 4,
        }
    }

    #[test]
    fn a_rewrite_in_place_is_told_from_one_that_changed_rows() {
        let at = |file, column: String| shape(1, file, &column, "null");
        let base = at(7, column("a", 1, 23, 100, false));
        assert_eq!(became(&base, &base), 0);
        assert_eq!(became(&base, &at(8, column("a", 1, 23, 100, false))), 0, "VACUUM FULL");
        assert_eq!(became(&base, &at(7, column("a", 1, 23, 101, false))), 0, "SET NOT NULL");
        assert_eq!(became(&base, &at(8, column("a", 1, 23, 101, false))), 2, "USING a * 10");
        assert_eq!(became(&base, &at(8, column("a", 1, 20, 101, false))), 2, "to bigint");
        assert_eq!(became(&base, &at(7, column("a", 1, 20, 101, false))), 1, "varchar grows");
        assert_eq!(became(&base, &at(7, column("a", 2, 23, 101, false))), 2, "dropped and added");
        assert_eq!(became(&base, &at(7, column("b", 1, 23, 101, false))), 1, "renamed");
        assert_eq!(became(&base, &shape(2, 7, &column("a", 1, 23, 100, false), "null")), 4);
        let missing = at(7, column("a", 1, 23, 100, true));
        assert_eq!(
            became(&missing, &at(8, column("a", 1, 23, 101, false))),
            0,
            "defaults filled in"
        );
        let with = |column: String, default: i64| {
            column.replace("\"labels\"", &format!("\"default\":{default},\"labels\""))
        };
        let missing = at(7, with(column("a", 1, 23, 100, true), 50));
        let filled = |default| at(8, with(column("a", 1, 23, 101, false), default));
        assert_eq!(became(&missing, &filled(50)), 0, "VACUUM FULL");
        assert_eq!(became(&missing, &filled(51)), 2, "TYPE int USING a * 2");
        let bare = at(7, with(column("a", 1, 23, 100, true), 0));
        assert_eq!(became(&bare, &filled(0)), 2, "cannot be told");
    }

    #[test]
    fn a_table_that_leaves_the_publication_is_not_what_it_was() {
        let base = shape(1, 7, &column("a", 1, 23, 100, false), "null");
        let more = |key: &str, value: &str| {
            base.replace("\"columns\"", &format!("\"{key}\":{value},\"columns\""))
        };
        let member = |oid: &str| more("member", oid);
        assert_eq!(became(&base, &member("5")), 0, "an older shape does not know");
        assert_eq!(became(&member("null"), &member("5")), 0, "put in by us");
        assert_eq!(became(&member("5"), &member("6")), 4, "out and in again");
        assert_eq!(became(&member("5"), &member("null")), 4, "out");
        let options = |options: &str| more("options", options);
        assert_eq!(became(&base, &options("\"9 700\"")), 0, "an older shape does not know");
        assert_eq!(became(&options("null"), &options("\"9 700\"")), 0, "made by us");
        assert_eq!(became(&options("\"9 700\""), &options("\"9 701\"")), 2, "altered");
        let keys = |keys: &str| more("keys", keys);
        assert_eq!(became(&base, &keys("\"1\"")), 0);
        assert_eq!(became(&keys("\"1; 2\""), &keys("\"1\"")), 1, "a unique index less");
    }

    #[test]
    fn partitions_that_come_or_go_with_rows_are_told_from_new_ones() {
        let part = |oid: i64, file: i64, empty: bool, born: bool| {
            format!(
                r#"{{"oid":{oid},"name":"p{oid}","file":{file},"empty":{empty},"born":{born}}}"#
            )
        };
        let root = |parts: &[String]| {
            shape(1, 0, &column("a", 1, 23, 100, false), &format!("[{}]", parts.join(",")))
        };
        let base = root(&[part(2, 5, false, true)]);
        let with = |more: String| root(&[part(2, 5, false, true), more]);
        assert_eq!(became(&base, &with(part(3, 6, true, true))), 0, "born as a partition");
        assert_eq!(became(&base, &with(part(3, 6, false, false))), 2, "attached");
        assert_eq!(became(&base, &shape(1, 0, &column("a", 1, 23, 100, false), "null")), 3, "gone");
        assert_eq!(became(&base, &root(&[part(2, 6, true, true)])), 3, "truncated");
        assert_eq!(became(&base, &root(&[part(2, 6, false, true)])), 2, "cannot be told");
        let came = root(&[part(3, 6, false, false)]);
        assert_eq!(became(&base, &came), 5, "one went, and another came with its rows");
        let at = |xid: &str, logged: bool| {
            base.replace(
                "\"empty\"",
                &format!("\"attached\":\"{xid}\",\"logged\":{logged},\"empty\""),
            )
        };
        assert_eq!(became(&base, &at("9", true)), 0, "an older shape does not know");
        assert_eq!(became(&at("9", true), &at("10", true)), 2, "detached and attached again");
        assert_eq!(became(&at("9", true), &at("9", false)), 1, "unlogged");
    }
}
