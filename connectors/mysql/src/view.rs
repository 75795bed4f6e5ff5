//! What views are made of.
//!
//! MariaDB has no list of it (MySQL 8.0.13's `VIEW_TABLE_USAGE` is none of MariaDB's), but both keep a view's text with every table under its
//! database's name. The text is shown to whoever may `SHOW VIEW`, and is empty for others.

use std::collections::BTreeSet;

use tidelock_core::{Result, TableName};

use crate::session::{Session, literal};
use crate::source::ddl;

/// The tables of a view, through the views that it reads; `None` if the text of one is not shown to us.
pub(crate) async fn made_of(
    session: &mut Session,
    view: &TableName,
) -> Result<Option<Vec<TableName>>> {
    let mut tables = BTreeSet::new();
    let (mut met, mut views) = (BTreeSet::from([view.clone()]), vec![view.clone()]);
    while let Some(view) = views.pop() {
        let text: Vec<(Option<String>,)> = session
            .rows(
                "SELECT view_definition FROM information_schema.views \
                 WHERE table_schema = ? AND table_name = ?",
                (view.schema.as_str(), view.name.as_str()),
            )
            .await?;
        let Some(text) = text.into_iter().find_map(|(text,)| text).filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        for (name, is_view) in found(session, &text).await? {
            if !is_view {
                tables.insert(name);
            } else if met.insert(name.clone()) {
                views.push(name);
            }
        }
    }
    Ok(Some(tables.into_iter().collect()))
}

/// Which of the names in a view's text are tables or views.
async fn found(session: &mut Session, text: &str) -> Result<Vec<(TableName, bool)>> {
    let words = ddl::words(text, Some(0));
    let names: BTreeSet<_> = ddl::qualified(&words).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<String> = names
        .iter()
        .map(|(schema, table)| format!("({}, {})", literal(schema), literal(table)))
        .collect();
    let sql = format!(
        "SELECT table_schema, table_name, table_type FROM information_schema.tables \
         WHERE (table_schema, table_name) IN ({}) AND table_type NOT LIKE 'SYSTEM VIEW'",
        list.join(", ")
    );
    let rows: Vec<(String, String, String)> = session.query(&sql).await?;
    let kind = |(schema, name, kind): (String, String, String)| {
        (TableName::new(schema, name), kind == "VIEW")
    };
    Ok(rows.into_iter().map(kind).collect())
}
