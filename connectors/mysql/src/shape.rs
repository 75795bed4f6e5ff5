//! What a table is now, and what became of it since an earlier look.
//!
//! The log holds every schema change as a statement, at its place; but what the statement did to the
//! columns is told by the catalog alone. So the reader compares a table's columns before and after
//! ([`change`]) and takes from the words what no comparison shows ([`crate::source::ddl`]): a column that
//! was dropped and added again, a partition exchanged, a table replaced.
//!
//! A type that grows (`int` to `bigint`, `varchar(10)` to `varchar(20)`, a label more at the end of an
//! `enum`) leaves every value as it was; any other new type, character set or expression is taken to have
//! changed rows, which the log does not tell. So is `NOT NULL` on a column that took NULL.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tidelock_core::{Error, Look, Result, Scope, ShapeChange, TableName};

use crate::catalog::labels;
use crate::gtid::BinlogPosition;
use crate::session::{Session, literal};
use crate::source;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Shape {
    columns: Vec<Column>,
    key: Vec<String>,
    /// The columns of its other unique indexes; those of before did not write them down.
    #[serde(default)]
    uniques: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Column {
    name: String,
    native: String,
    charset: Option<String>,
    collation: Option<String>,
    expression: Option<String>,
    nullable: bool,
    /// Whether it is `AUTO_INCREMENT`; those of before did not write it down.
    #[serde(default)]
    numbered: Option<bool>,
}

type ColumnRow =
    (String, String, String, String, Option<String>, Option<String>, Option<String>, bool, bool);

/// Looks at tables.
pub(crate) async fn look(session: &mut Session, scope: Scope<'_>) -> Result<Look> {
    let shapes = shapes(session, scope).await?;
    // Afterwards: a definition that is seen stands in the log.
    let gtids = source::logged(session).await?;
    Ok(Look { at: BinlogPosition { gtids, at: None }.to_position(), shapes })
}

/// Describes tables.
pub(crate) async fn shapes(
    session: &mut Session,
    scope: Scope<'_>,
) -> Result<HashMap<TableName, String>> {
    let chosen: Vec<String> = match scope {
        Scope::Schemas(schemas) => {
            schemas.iter().map(|s| format!("table_schema = {}", literal(s))).collect()
        }
        Scope::Tables(tables) => tables
            .iter()
            .map(|t| {
                let (schema, name) = (literal(&t.schema), literal(&t.name));
                format!("table_schema = {schema} AND table_name = {name}")
            })
            .collect(),
    };
    if chosen.is_empty() {
        return Ok(HashMap::new());
    }
    let chosen = chosen.join(" OR ");
    let columns: Vec<ColumnRow> = session
        .query(&format!(
            "SELECT table_schema, table_name, column_name, column_type, character_set_name, \
             collation_name, generation_expression, is_nullable = 'YES', \
             extra LIKE '%auto_increment%' \
             FROM information_schema.columns WHERE {chosen} ORDER BY 1, 2, ordinal_position"
        ))
        .await?;
    // The name of an index says nothing; an expression has no column.
    let keys: Vec<(String, String, String, Option<String>, bool)> = session
        .query(&format!(
            "SELECT table_schema, table_name, index_name, column_name, index_name = 'PRIMARY' \
             FROM information_schema.statistics \
             WHERE ({chosen}) AND non_unique = 0 ORDER BY 1, 2, 3, seq_in_index"
        ))
        .await?;
    let mut found: HashMap<TableName, Shape> = HashMap::new();
    for (schema, table, name, native, charset, collation, expression, nullable, numbered) in columns
    {
        let shape = found.entry(TableName::new(schema, table)).or_insert_with(|| Shape {
            columns: Vec::new(),
            key: Vec::new(),
            uniques: None,
        });
        let expression = expression.filter(|e| !e.is_empty());
        let numbered = Some(numbered);
        shape.columns.push(Column {
            name,
            native,
            charset,
            collation,
            expression,
            nullable,
            numbered,
        });
    }
    let mut uniques: HashMap<TableName, BTreeMap<String, Vec<String>>> = HashMap::new();
    for (schema, table, index, column, primary) in keys {
        let table = TableName::new(schema, table);
        let column = column.unwrap_or_default();
        match found.get_mut(&table) {
            Some(shape) if primary => shape.key.push(column),
            Some(_) => {
                uniques.entry(table).or_default().entry(index).or_default().push(column);
            }
            None => {}
        }
    }
    found
        .into_iter()
        .map(|(table, mut shape)| {
            let mut of =
                uniques.remove(&table).unwrap_or_default().into_values().collect::<Vec<_>>();
            of.sort();
            shape.uniques = Some(of);
            let text = serde_json::to_string(&shape)
                .map_err(|e| Error::bug(format!("the shape of {table} as a text: {e}")))?;
            Ok((table, text))
        })
        .collect()
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
    let mut change = ShapeChange::Columns;
    for b in before.columns.iter().filter(|b| mapped.contains(&b.name)) {
        let Some(n) = now.columns.iter().find(|n| n.name == b.name) else { continue };
        let said = if b.charset != n.charset && b.charset.is_some() && n.charset.is_some() {
            let of = |c: &Option<String>| c.clone().unwrap_or_default();
            format!(
                "column {} went from character set {} to {}",
                b.name,
                of(&b.charset),
                of(&n.charset)
            )
        } else if !keeps_values(&b.native, &n.native) {
            format!("column {} was {}, is {}", b.name, b.native, n.native)
        } else if b.expression != n.expression {
            format!("column {} is computed in another way", b.name)
        } else if b.nullable && !n.nullable {
            // Without a strict sql_mode the server writes zeros and empty texts in the place of NULL.
            format!("column {} took NULL, and does not any more", b.name)
        } else if b.numbered == Some(false) && n.numbered == Some(true) {
            format!("column {} is AUTO_INCREMENT now, and a 0 in it got a number", b.name)
        } else {
            continue;
        };
        change = change.or(ShapeChange::Rows(said));
    }
    change
}

/// Whether a table has a column of this name.
pub(crate) fn has(shape: &str, column: &str) -> bool {
    serde_json::from_str::<Shape>(shape)
        .is_ok_and(|s| s.columns.iter().any(|c| c.name.eq_ignore_ascii_case(column)))
}

/// Whether a table has a unique index, or a key, that it did not have before.
pub(crate) fn has_more_unique(before: &str, now: &str) -> bool {
    let parsed = |text: &str| serde_json::from_str::<Shape>(text).ok();
    let (Some(before), Some(now)) = (parsed(before), parsed(now)) else { return false };
    let (Some(known), Some(uniques)) = (&before.uniques, &now.uniques) else { return false };
    uniques.iter().chain([&now.key]).any(|unique| *unique != before.key && !known.contains(unique))
}

/// Whether every value of the one type stays as it is in the other.
fn keeps_values(before: &str, now: &str) -> bool {
    let (before, now) = (before.to_ascii_lowercase(), now.to_ascii_lowercase());
    if before == now {
        return true;
    }
    let parts = |t: &str| -> (String, Option<u64>, String) {
        let (head, rest) = t.split_once('(').unwrap_or((t, ""));
        let (inner, tail) = rest.split_once(')').unwrap_or(("", rest));
        let (head, attributes) = head.split_once(' ').unwrap_or((head, tail));
        (head.to_owned(), inner.parse().ok(), attributes.trim().to_owned())
    };
    let integers = ["tinyint", "smallint", "mediumint", "int", "bigint"];
    let texts = ["tinytext", "text", "mediumtext", "longtext"];
    let bytes = ["tinyblob", "blob", "mediumblob", "longblob"];
    let ((b, b_size, b_more), (n, n_size, n_more)) = (parts(&before), parts(&now));
    let rank = |list: &[&str], t: &str| list.iter().position(|x| *x == t);
    for list in [&integers[..], &texts[..], &bytes[..]] {
        if let (Some(b), Some(n)) = (rank(list, &b), rank(list, &n)) {
            // The number in an integer's parentheses is a width to show it in, ZEROFILL too.
            let sign = |more: &str| more.contains("unsigned");
            return b <= n && sign(&b_more) == sign(&n_more);
        }
    }
    let long = |n: &str| matches!(n, "text" | "mediumtext" | "longtext");
    match (b.as_str(), n.as_str()) {
        ("varchar", "varchar") | ("varbinary", "varbinary") => b_size <= n_size,
        ("varchar", n) if long(n) => b_size.is_some_and(|size| size <= 16_000) || n != "text",
        ("datetime", "datetime") | ("timestamp", "timestamp") | ("time", "time") => {
            b_size.unwrap_or(0) <= n_size.unwrap_or(0)
        }
        ("enum", "enum") => match (labels(&before), labels(&now)) {
            (Some(b), Some(n)) => n.starts_with(&b),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_grows_keeps_every_value() {
        for (before, now, keeps) in [
            ("int(11)", "bigint(20)", true),
            ("int(11)", "int(10) unsigned", false),
            ("bigint(20)", "int(11)", false),
            ("int", "varchar(20)", false),
            ("varchar(10)", "varchar(20)", true),
            ("varchar(20)", "varchar(10)", false),
            ("varchar(20)", "text", true),
            ("char(5)", "varchar(5)", false),
            ("text", "longtext", true),
            ("enum('a','b')", "enum('a','b','c')", true),
            ("enum('a','b')", "enum('b','a')", false),
            ("decimal(10,2)", "decimal(12,4)", false),
            ("datetime", "datetime(6)", true),
            ("datetime(6)", "datetime", false),
        ] {
            assert_eq!(keeps_values(before, now), keeps, "{before} to {now}");
        }
    }

    #[test]
    fn null_that_is_not_taken_any_more_may_be_another_value() {
        let shape = |nullable: bool, uniques: &str| {
            format!(
                r#"{{"columns":[{{"name":"a","native":"int","charset":null,"collation":null,"expression":null,"nullable":{nullable}}}],"key":["a"]{uniques}}}"#
            )
        };
        let mapped = ["a".to_owned()];
        let said = change(&shape(true, ""), &shape(false, ""), &mapped);
        assert!(matches!(said, ShapeChange::Rows(_)), "{said:?}");
        assert_eq!(change(&shape(false, ""), &shape(true, ""), &mapped), ShapeChange::Columns);
        // An index less is another shape, and no row is another one.
        let with = shape(true, r#","uniques":[["a"]]"#);
        let without = shape(true, r#","uniques":[]"#);
        assert_eq!(change(&with, &without, &mapped), ShapeChange::Columns);
        assert_eq!(change(&shape(true, ""), &with, &mapped), ShapeChange::Columns, "of before");
    }

    #[test]
    fn only_mapped_columns_make_rows_differ() {
        let shape = |a: &str, x: &str| {
            let column = |name: &str, native: &str| Column {
                name: name.to_owned(),
                native: native.to_owned(),
                charset: None,
                collation: None,
                expression: None,
                nullable: true,
                numbered: None,
            };
            let columns = vec![column("a", a), column("x", x)];
            serde_json::to_string(&Shape { columns, key: vec![], uniques: None }).unwrap()
        };
        let mapped = ["a".to_owned()];
        let base = shape("int", "int");
        assert_eq!(change(&base, &base, &mapped), ShapeChange::Same);
        assert_eq!(change(&base, &shape("int", "char(3)"), &mapped), ShapeChange::Columns);
        assert_eq!(change(&base, &shape("bigint", "int"), &mapped), ShapeChange::Columns);
        assert!(matches!(change(&base, &shape("char(3)", "int"), &mapped), ShapeChange::Rows(_)));
    }
}
