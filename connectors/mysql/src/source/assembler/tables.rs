//! What became of the mapped tables.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{
    Code, Error, Idle, LogEvent, ShapeChange, TableChanged, TableFault, TableName,
};

use super::{Assembler, Known, Touch};
use crate::catalog::CatalogTable;
use crate::charset::Charset;
use crate::shape;

impl Assembler {
    /// Takes a fresh catalog, the character sets by collation, and what the tables are now.
    pub fn refreshed(
        &mut self,
        found: Vec<CatalogTable>,
        charsets: Arc<HashMap<u64, Charset>>,
        mut shapes: HashMap<TableName, String>,
    ) {
        self.charsets = charsets;
        self.catalog = found.into_iter().map(|t| (t.table.name.clone(), t)).collect();
        self.catalog_version += 1;
        self.judged += 1;
        self.stale = false;
        let gone: Vec<TableName> =
            self.wanted.iter().filter(|t| !self.catalog.contains_key(*t)).cloned().collect();
        for table in gone {
            self.gone(table);
        }
        let refused: Vec<(TableName, String)> = self
            .wanted
            .iter()
            .filter_map(|t| Some((t.clone(), self.catalog.get(t)?.table.refusals.first()?.clone())))
            .collect();
        for (table, why) in refused {
            self.fault(table, &why);
        }
        for (table, touch) in std::mem::take(&mut self.touched) {
            if self.faulted.contains(&table) {
                continue;
            }
            let (Some(known), Some(now)) = (self.known.get_mut(&table), shapes.remove(&table))
            else {
                continue;
            };
            let compared = shape::change(&known.shape, &now, &known.columns);
            let replan = compared != ShapeChange::Same;
            let change = compared.or(what_became(known, &now, touch));
            known.shape = now.clone();
            // Another statement may have been about it too.
            shapes.insert(table.clone(), now);
            if change != ShapeChange::Same {
                self.changed.push(TableChanged { table, change, replan });
            }
        }
        self.tell_changes();
    }

    /// Tells between two groups what became of tables; first the place after the statements.
    pub(super) fn tell_changes(&mut self) {
        if self.changed.is_empty() || self.group.is_some() {
            return;
        }
        if let Some(grew) = self.idle.take() {
            let position = self.position();
            self.chunk.push(LogEvent::Idle(Idle { position, grew }));
        }
        for changed in self.changed.drain(..) {
            self.chunk.push(LogEvent::TableChanged(changed));
        }
    }

    /// The mapped tables, for a look at them.
    pub fn mapped(&self) -> Vec<TableName> {
        self.known.keys().cloned().collect()
    }

    pub(super) fn touch(&mut self, table: TableName, touch: Touch) {
        if matches!(touch, Touch::Gone | Touch::Replaced(_)) {
            self.muted.insert(table.clone());
            self.judged += 1;
        }
        self.touched.push((table, touch));
        self.stale = true;
    }

    pub(super) fn fault(&mut self, table: TableName, why: &str) {
        let error = Error::data(Code::SchemaDrift, format!("table {table}: {why}"))
            .with_hint("mend the mapping or the table, then `tidelock resync` the mapping");
        self.give_up(table, error);
    }

    fn gone(&mut self, table: TableName) {
        let error =
            Error::data(Code::TableGone, format!("table {table}: it was dropped or renamed away"))
                .with_hint("the mapping comes back by itself when the table does");
        self.give_up(table, error);
    }

    pub(super) fn give_up(&mut self, table: TableName, error: Error) {
        if self.faulted.insert(table.clone()) {
            self.judged += 1;
            self.chunk.push(LogEvent::TableFault(TableFault { table, error }));
        }
    }
}

/// What became of a table that a statement was about, by its words, now that the catalog was asked.
fn what_became(known: &Known, now: &str, touch: Touch) -> ShapeChange {
    match touch {
        // It is there: another one, by now.
        Touch::Gone => {
            ShapeChange::Replaced("it was dropped or renamed, and made again".to_owned())
        }
        Touch::Replaced(why) => ShapeChange::Replaced(why.to_owned()),
        Touch::Rows(why) => ShapeChange::Rows(why.to_owned()),
        Touch::Partition => {
            ShapeChange::Vanished("a partition was dropped or truncated".to_owned())
        }
        // They copy by INSERT IGNORE.
        Touch::Shadowed if shape::has_more_unique(&known.shape, now) => ShapeChange::Rows(
            "the copy that took its name has a unique index more, and rows that break it were left out".to_owned(),
        ),
        Touch::Shadowed => ShapeChange::Same,
        // A mapped column that was taken away and is there.
        Touch::Altered(taken) => {
            match taken.into_iter().find(|t| {
                known.columns.iter().any(|c| c.eq_ignore_ascii_case(t)) && shape::has(now, t)
            }) {
                Some(column) => {
                    ShapeChange::Rows(format!("column {column} was dropped and added again"))
                }
                None => ShapeChange::Same,
            }
        }
    }
}
