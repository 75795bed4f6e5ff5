//! Lookups of values of other rows by what identifies them.
//!
//! One query asks for many keys, each in a part of its own, so that each finds its row by the index and is compared in
//! its column's own type and collation. A row that is missing is inserted by a guarded upsert that changes nothing
//! where the row is there: another session that was quicker is waited for and its row found, and a hit by another
//! unique key than the one looked up by remains an error (`INSERT IGNORE` would hide it, and more).

use std::sync::Arc;

use mysql_async::Value as Param;
use mysql_async::prelude::Queryable;
use tidelock_core::{
    Code, DataType, Error, ErrorKind, Key, LookupTarget, Result, TargetColumn, TargetTable, Value,
};

use super::{MySqlSink, WRITE};
use crate::copy::{Reader, reader};
use crate::session::{Flavour, quote, within};
use crate::{catalog, upsert};

/// Keys of one query: few sizes, so that the prepared statements are used again.
const KEYS: [usize; 3] = [64, 8, 1];

/// A lookup that has been made before.
pub(super) struct Known {
    reader: Reader,
    unique: bool,
}

fn doing(target: &LookupTarget) -> String {
    format!("looking up {} in {}", target.result.name, target.table)
}

fn table(target: &LookupTarget) -> String {
    format!("{}.{}", quote(&target.table.schema), quote(&target.table.name))
}

fn is_text(column: &TargetColumn) -> bool {
    matches!(column.data_type, DataType::Text { .. })
}

/// The query for so many keys. A part has the parameters of its exact test first: the texts of the key.
fn query(target: &LookupTarget, selected: &str, keys: usize) -> String {
    let exact: Vec<String> = target
        .by
        .iter()
        .filter(|c| is_text(c))
        .map(|c| {
            let name = quote(&c.name);
            format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)")
        })
        .collect();
    let exact = if exact.is_empty() { "1".to_owned() } else { exact.join(" AND ") };
    let tests: Vec<String> = target
        .by
        .iter()
        .map(|c| match c.data_type {
            // Else the server would compare a number with a text as floats.
            DataType::Decimal { .. } => format!("{} = CAST(? AS DECIMAL(65,30))", quote(&c.name)),
            _ => format!("{} = ?", quote(&c.name)),
        })
        .collect();
    let part = |i: usize| {
        format!(
            "(SELECT {i} AS i, {exact} AS e, {selected} AS v FROM {} WHERE {} ORDER BY e DESC LIMIT 2)",
            table(target),
            tests.join(" AND ")
        )
    };
    (0..keys).map(part).collect::<Vec<_>>().join(" UNION ALL ")
}

impl MySqlSink {
    async fn known(&mut self, target: &LookupTarget) -> Result<()> {
        if self.lookups.contains_key(&target.id) {
            return Ok(());
        }
        let schemas = [target.table.schema.clone()];
        let found = catalog::read(&mut self.session, &schemas, None).await?;
        let found = found.iter().find(|t| t.table.name == target.table).ok_or_else(|| {
            Error::data(Code::SchemaDrift, format!("{}: the table is gone", target.table))
        })?;
        let by: Vec<String> = target.by.iter().map(|c| c.name.clone()).collect();
        let unique = found.table.is_unique(&by);
        let reader = reader(found, &target.result.name)?;
        self.lookups.insert(target.id, Known { reader, unique });
        Ok(())
    }

    pub(super) async fn looked_up(
        &mut self,
        target: &Arc<LookupTarget>,
        keys: &[Key],
    ) -> Result<Vec<Option<Value>>> {
        self.known(target).await?;
        let known = self.lookups.get(&target.id);
        let reader = &known.ok_or_else(|| Error::bug("a lookup vanished"))?.reader;
        let mut found = Vec::with_capacity(keys.len());
        let mut rest = keys;
        while !rest.is_empty() {
            let size = KEYS.into_iter().find(|n| *n <= rest.len()).unwrap_or(1);
            let (now, later) = rest.split_at(size);
            rest = later;
            let mut params: Vec<Param> = Vec::new();
            for key in now {
                if key.len() != target.by.len() {
                    return Err(Error::bug("a key to be looked up has another width"));
                }
                let bound = target.by.iter().zip(key.iter()).map(|(c, v)| upsert::param(c, v));
                let bound = bound.collect::<Result<Vec<_>>>()?;
                let texts = target.by.iter().zip(&bound).filter(|(c, _)| is_text(c));
                params.extend(texts.map(|(_, p)| p.clone()));
                params.extend(bound);
            }
            let sql = query(target, &reader.selected, size);
            let answer = self.session.conn.exec::<(usize, Option<bool>, Param), _, _>(sql, params);
            let rows = within(WRITE, &self.session.place, answer).await?;
            let mut some: Vec<Option<(bool, Value)>> = vec![None; size];
            for (i, exact, cell) in rows {
                let exact = exact == Some(true);
                let place = some.get_mut(i).ok_or_else(|| Error::bug("a lookup out of order"))?;
                // The exact ones come first.
                match place {
                    Some((first, _)) if *first && !exact => continue,
                    Some(_) => return Err(ambiguous(target)),
                    None => {}
                }
                let value = reader.value(cell).ok_or_else(|| {
                    let message = format!("{}: a value is not of its type", doing(target));
                    Error::data(Code::DamagedEvent, message)
                })?;
                *place = Some((exact, value));
            }
            found.extend(some.into_iter().map(|one| one.map(|(_, value)| value)));
        }
        Ok(found)
    }

    pub(super) async fn locked(&mut self, table: &TargetTable, keys: &[Key]) -> Result<()> {
        let mut rest = keys;
        while !rest.is_empty() {
            let size = KEYS.into_iter().find(|n| *n <= rest.len()).unwrap_or(1);
            let (now, later) = rest.split_at(size);
            rest = later;
            let mut params = Vec::new();
            for key in now {
                upsert::key_cells(table, key, &mut params)?;
            }
            let locked = self.session.conn.exec_drop(upsert::lock(table, size)?, params);
            within(WRITE, &self.session.place, locked).await?;
        }
        Ok(())
    }

    pub(super) async fn looked_up_or_inserted(
        &mut self,
        target: &Arc<LookupTarget>,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Value>> {
        self.known(target).await?;
        if !self.lookups.get(&target.id).is_some_and(|known| known.unique) {
            let by: Vec<&str> = target.by.iter().map(|c| &*c.name).collect();
            let message = format!(
                "{}: no unique index over {}, so two sessions could add the same row",
                doing(target),
                by.join(", ")
            );
            return Err(Error::setup(Code::Catalog, message));
        }
        let keys = rows.iter().enumerate().map(|(i, row)| key(target, i, row));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let mut found = self.looked_up(target, &keys).await?;
        let insert = insert_missing(target, self.session.flavour);
        let mut missing = Vec::new();
        for (i, (row, _)) in rows.iter().zip(&found).enumerate().filter(|(_, (_, f))| f.is_none()) {
            let at = |error: Error| match error.kind() {
                ErrorKind::Data => error.with_batch(i).at(format!("adding to {}", target.table)),
                _ => error,
            };
            let columns = target.by.iter().chain(&target.with);
            let params = columns.zip(row.iter()).map(|(c, v)| upsert::param(c, v));
            let params = params.collect::<Result<Vec<_>>>().map_err(at)?;
            self.fits(&params).map_err(at)?;
            let inserted = self.session.conn.exec_drop(insert.as_str(), params);
            within(WRITE, &self.session.place, inserted).await.map_err(at)?;
            self.no_warnings().await.map_err(at)?;
            missing.push(i);
        }
        let again: Vec<Key> = missing.iter().filter_map(|&i| keys.get(i).cloned()).collect();
        for (i, value) in missing.into_iter().zip(self.looked_up(target, &again).await?) {
            if let Some(place) = found.get_mut(i) {
                *place = value;
            }
        }
        // Only another session can have taken it away.
        let gone = || {
            let message = format!("{}: a row is gone again", doing(target));
            Error::transient(Code::ServerBusy, message)
        };
        found.into_iter().map(|value| value.ok_or_else(gone)).collect()
    }
}

fn ambiguous(target: &LookupTarget) -> Error {
    let by: Vec<&str> = target.by.iter().map(|c| &*c.name).collect();
    Error::data(
        Code::LookupAmbiguous,
        format!("{}: more than one row has the same {}", doing(target), by.join(", ")),
    )
}

/// The cells that the row is looked up by.
fn key(target: &LookupTarget, index: usize, row: &[Value]) -> Result<Key> {
    let width = target.by.len() + target.with.len();
    let key = row.get(..target.by.len()).filter(|_| row.len() == width);
    let key = key.ok_or_else(|| Error::bug("a row to be looked up has another width"))?;
    match target.by.iter().zip(key).find(|(_, value)| value.is_null()) {
        Some((column, _)) => Err(Error::data(
            Code::Constraint,
            format!("{}: {} has no value to add a row by", doing(target), column.name),
        )
        .with_batch(index)),
        None => Ok(key.into()),
    }
}

/// An insert that leaves the row of the same key as it is, and fails where it meets another one.
fn insert_missing(target: &LookupTarget, flavour: Flavour) -> String {
    let names: Vec<String> = target.by.iter().chain(&target.with).map(|c| quote(&c.name)).collect();
    let (alias, own, new) = match flavour {
        Flavour::MariaDb => ("", String::new(), "VALUES("),
        Flavour::MySql => (" AS tidelock_new", format!("{}.", table(target)), "(tidelock_new."),
    };
    let same: Vec<String> = target
        .by
        .iter()
        .map(|c| quote(&c.name))
        .map(|name| format!("{own}{name} <=> {new}{name})"))
        .collect();
    let first = target.by.first().map(|c| quote(&c.name)).unwrap_or_default();
    format!(
        "INSERT INTO {} ({}) VALUES ({}){alias} ON DUPLICATE KEY UPDATE \
         {first} = IF({}(NOT ({})), {own}{first}, {own}{first})",
        table(target),
        names.join(","),
        vec!["?"; names.len()].join(","),
        upsert::GUARD,
        same.join(" AND ")
    )
}
