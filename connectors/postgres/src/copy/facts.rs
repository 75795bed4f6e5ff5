//! What a table is while it is read, and the rows of its lines.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{
    Code, CopyTable, Error, Key, LineReader, Result, Row, StreamColumn, TableSchema, Value,
};

use super::{PgCopier, names};
use crate::error::Stage;
use crate::quote::table;
use crate::session::{CALL_TIMEOUT, get};
use crate::text;
use crate::types::value;
use crate::upsert;

/// A table as it is now: the shape of what is read, and the types that a key is compared in.
pub(super) struct Facts {
    pub(super) schema: Arc<TableSchema>,
    pub(super) key_types: Vec<String>,
    /// Which columns of the key hold different texts equal.
    pub(super) key_loose: Vec<bool>,
    /// The columns as the server describes a query of them.
    pub(super) described: Vec<(u32, i32)>,
}

/// Reads the lines of a piece.
pub(super) struct Reader {
    pub(super) schema: Arc<TableSchema>,
    pub(super) all: Vec<usize>,
    pub(super) key: Vec<usize>,
}

impl LineReader for Reader {
    fn key(&self, line: &Bytes) -> Result<Key> {
        picked(&self.schema, &self.key, line)
    }

    fn row(&self, line: &Bytes) -> Result<Row> {
        row(&self.schema, &self.all, line).map(Row)
    }
}

impl PgCopier {
    pub(super) async fn facts(&mut self, wanted: &CopyTable) -> Result<Arc<Facts>> {
        let at = (table(&wanted.name), wanted.columns.clone());
        if let Some(facts) = self.facts.get(&at) {
            return Ok(facts.clone());
        }
        let sql = format!(
            "SELECT a.attname::text, a.atttypid, a.atttypmod, format_type(a.atttypid, a.atttypmod), {} \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
            upsert::LOOSE
        );
        let rows = self
            .session
            .query("reading columns", &sql, &[&wanted.name.schema, &wanted.name.name])
            .await?;
        let mut found = HashMap::new();
        for row in &rows {
            let facts: (u32, i32, String, bool) =
                (get(row, 1)?, get(row, 2)?, get(row, 3)?, get(row, 4)?);
            found.insert(get::<String>(row, 0)?, facts);
        }
        let oids: Vec<u32> = found.values().map(|(oid, ..)| *oid).collect();
        self.types.load(&self.session, &oids).await?;
        let gone = |name: &String| {
            Error::data(Code::SchemaDrift, format!("{}.{name}: the column is gone", wanted.name))
        };
        let mut columns = Vec::with_capacity(wanted.columns.len());
        for name in &wanted.columns {
            let (oid, modifier, ..) = found.get(name).ok_or_else(|| gone(name))?;
            columns.push(StreamColumn {
                name: name.clone(),
                data_type: self.types.data_type(*oid, *modifier),
                identity: wanted.key.contains(name),
            });
        }
        let key_types = wanted
            .key
            .iter()
            .map(|name| {
                found.get(name).map(|(_, _, native, _)| native.clone()).ok_or_else(|| gone(name))
            })
            .collect::<Result<Vec<_>>>()?;
        let key_loose = wanted
            .key
            .iter()
            .map(|name| found.get(name).map(|(.., loose)| *loose).ok_or_else(|| gone(name)))
            .collect::<Result<Vec<_>>>()?;
        self.versions += 1;
        let schema =
            Arc::new(TableSchema { name: wanted.name.clone(), version: self.versions, columns });
        let described = self.described(wanted).await?;
        let facts = Arc::new(Facts { schema, key_types, key_loose, described });
        self.facts.insert(at, facts.clone());
        Ok(facts)
    }

    /// The types of the columns as a query would have them now.
    pub(super) async fn described(&self, wanted: &CopyTable) -> Result<Vec<(u32, i32)>> {
        let doing = format!("looking at the columns of {}", wanted.name);
        let sql = format!("SELECT {} FROM {}", names(&wanted.columns), table(&wanted.name));
        let prepared = self.session.client.prepare(&sql);
        let statement = self.session.call(&doing, Stage::Admin, CALL_TIMEOUT, prepared).await?;
        Ok(statement.columns().iter().map(|c| (c.type_().oid(), c.type_modifier())).collect())
    }
}

fn damaged(schema: &TableSchema) -> Error {
    Error::transient(Code::Unreachable, format!("a row of table {} cannot be read", schema.name))
}

/// A row of a `COPY` line.
pub(super) fn row(schema: &TableSchema, columns: &[usize], line: &Bytes) -> Result<Box<[Value]>> {
    let cells = text::cells(line).ok_or_else(|| damaged(schema))?;
    if cells.len() != columns.len() {
        return Err(damaged(schema));
    }
    let mut row = Vec::with_capacity(columns.len());
    for (cell, &i) in cells.into_iter().zip(columns) {
        row.push(one(schema, i, cell)?);
    }
    Ok(row.into())
}

/// Some cells of a `COPY` line that holds all columns of the shape.
pub(super) fn picked(schema: &TableSchema, columns: &[usize], line: &Bytes) -> Result<Key> {
    let cells = text::cells(line).ok_or_else(|| damaged(schema))?;
    columns
        .iter()
        .map(|&i| one(schema, i, cells.get(i).cloned().ok_or_else(|| damaged(schema))?))
        .collect()
}

fn one(schema: &TableSchema, column: usize, cell: Option<Bytes>) -> Result<Value> {
    let column = schema.columns.get(column).ok_or_else(|| damaged(schema))?;
    let Some(text) = cell else { return Ok(Value::Null) };
    value(&column.data_type, &text).ok_or_else(|| {
        Error::data(
            Code::DamagedEvent,
            format!(
                "a value of column {} of table {} is not written as its type demands",
                column.name, schema.name
            ),
        )
    })
}

pub(super) fn places(facts: &Facts, columns: &[String]) -> Result<Vec<usize>> {
    columns
        .iter()
        .map(|name| {
            facts
                .schema
                .columns
                .iter()
                .position(|c| &c.name == name)
                .ok_or_else(|| Error::bug("a key column is not among those read"))
        })
        .collect()
}
