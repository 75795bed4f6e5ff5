//! The changes of ranges that are being read.

use tidelock_core::{
    Change, Code, CopyTable, Cursor, Error, Key, Op, Result, Row, TableSchema, Value,
};

use super::{Place, Region};
use crate::copy::merge::Kept;

/// Where a column of a piece stands in a row of the log.
pub(super) struct Places {
    key: Vec<usize>,
    columns: Vec<usize>,
}

impl Region {
    /// The key before and after a change.
    pub(super) fn keys(&mut self, change: &Change) -> Result<(Option<Key>, Option<Key>)> {
        let table = &self.table;
        let places = self
            .places
            .entry(change.table.version)
            .or_insert_with(|| Places::new(table, &change.table));
        let missing = || {
            Error::data(
                Code::IdentityMissing,
                format!("{}: the log does not carry the columns that pieces are cut by", change.table.name),
            )
            .with_hint("on PostgreSQL set REPLICA IDENTITY FULL or USING INDEX over them; on MySQL and MariaDB set binlog_row_image = FULL")
        };
        if places.key.len() != table.key.len() || places.columns.len() != table.columns.len() {
            return Err(Error::data(
                Code::SchemaDrift,
                format!("{}: a column that is being copied is gone", change.table.name),
            ));
        }
        let of = |row: &Row| -> Result<Key> {
            places
                .key
                .iter()
                .map(|&i| match row.0.get(i) {
                    None | Some(Value::Unchanged) => Err(missing()),
                    Some(value) => Ok(value.clone()),
                })
                .collect()
        };
        Ok(match &change.op {
            Op::Insert(insert) => (None, Some(of(&insert.new)?)),
            Op::Delete(delete) => (Some(of(delete.old.row().ok_or_else(missing)?)?), None),
            Op::Update(update) => {
                let old = match update.old.row() {
                    Some(old) => of(old)?,
                    None => of(&update.new)?,
                };
                // A cell that the new row leaves out did not change.
                let new = places
                    .key
                    .iter()
                    .zip(old.iter())
                    .map(|(&i, old)| match update.new.0.get(i) {
                        None | Some(Value::Unchanged) => old.clone(),
                        Some(value) => value.clone(),
                    })
                    .collect();
                (Some(old), Some(new))
            }
        })
    }

    /// Keeps a change for the ranges it is about.
    pub(super) fn keep(
        &mut self,
        change: &Change,
        (old, old_place): (Option<&Key>, Option<Place>),
        (new, new_place): (Option<&Key>, Option<Place>),
        bytes_max: usize,
    ) -> Result<()> {
        let Some(places) = self.places.get(&change.table.version) else { return Ok(()) };
        let watched = self.courses.iter_mut().enumerate().flat_map(|(part, course)| {
            course.watched.iter_mut().enumerate().map(move |(i, watched)| (part, i, watched))
        });
        for (part, i, watched) in watched {
            let here = Some(Place::Watched(part, i));
            let (old_in, new_in) = (old_place == here, new_place == here);
            if watched.spoiled || !(old_in || new_in) {
                continue;
            }
            let text = |key: &Key| -> Result<String> {
                Cursor::new(&self.table.key, key)
                    .map(|c| c.encode())
                    .ok_or_else(|| Error::bug("a key to copy by holds NULL"))
            };
            let row = match &change.op {
                Op::Insert(insert) => Some(&insert.new),
                Op::Update(update) => Some(&update.new),
                Op::Delete(_) => None,
            };
            let new = match (new, row) {
                (Some(key), Some(row)) => {
                    let mut cells: Vec<Value> = places
                        .columns
                        .iter()
                        .map(|&c| row.0.get(c).cloned().unwrap_or(Value::Unchanged))
                        .collect();
                    for (name, value) in self.table.key.iter().zip(key.iter()) {
                        if let Some(at) = self.table.columns.iter().position(|c| c == name)
                            && let Some(cell) = cells.get_mut(at)
                        {
                            *cell = value.clone();
                        }
                    }
                    let row = Row(cells.into());
                    watched.bytes += row.bytes() + 100;
                    Some((text(key)?, new_in, row))
                }
                _ => None,
            };
            watched.bytes += 100;
            let old = match old {
                Some(key) => Some((text(key)?, old_in)),
                None => None,
            };
            watched.kept.push(Kept { old, new, clear: false });
            if watched.bytes > bytes_max {
                watched.spoiled = true;
                watched.kept = Vec::new();
            }
        }
        Ok(())
    }
}

impl Places {
    fn new(table: &CopyTable, shape: &TableSchema) -> Places {
        let find = |names: &[String]| -> Vec<usize> {
            names
                .iter()
                .filter_map(|name| shape.columns.iter().position(|c| &c.name == name))
                .collect()
        };
        Places { key: find(&table.key), columns: find(&table.columns) }
    }
}
