//! Rows, and the TABLE_MAP that says what they are.

use tidelock_core::{Code, Error, LogEvent, Result, TableName};

use super::{Assembler, Frame, Map, Mapped};
use crate::binlog::Damage;
use crate::binlog::rows::{Layout, RowsEvent};
use crate::binlog::table_map::{self, TableMap};
use crate::catalog::CatalogTable;
use crate::gtid::GtidSet;

impl Assembler {
    pub(super) fn table_map(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        let again = |map: &Map| map.judged == self.judged && *map.bytes == *frame.data;
        if self.maps.get(&id).is_some_and(again) {
            return Ok(());
        }
        let mapped = self.judge(frame)?;
        // A table that was given up just now is judged by that from here on.
        let judged = self.judged;
        self.maps.insert(id, Map { bytes: frame.data.into(), judged, mapped });
        Ok(())
    }

    /// What a TABLE_MAP says of the rows that follow under its id.
    fn judge(&mut self, frame: &Frame<'_>) -> Result<Mapped> {
        // Nothing but the name is read of tables that nobody asked for: their columns may be of types not known here.
        let head = TableMap::head(frame.data).map_err(|d| self.damaged(frame, d))?;
        let name = TableName::new(head.schema, head.table);
        if !self.wanted.contains(&name)
            || self.faulted.contains(&name)
            || self.muted.contains(&name)
        {
            return Ok(Mapped::Other);
        }
        let map = match TableMap::decode(frame.data) {
            Ok(map) => map,
            Err(table_map::UNKNOWN_TYPE) => {
                self.fault(name, "a column is of a type that is not known (compressed?)");
                return Ok(Mapped::Other);
            }
            Err(damage) => return Err(self.damaged(frame, damage)),
        };
        let younger = |t: &CatalogTable| t.changed.is_some_and(|at| i64::from(frame.seconds) < at);
        let named = map.columns.iter().all(|c| c.name.is_some());
        if !named && self.catalog.get(&name).is_some_and(younger) {
            self.fault(
                name,
                "it was altered after these rows, and the log names no columns (binlog_row_metadata)",
            );
            return Ok(Mapped::Other);
        }
        // The same shape again under whatever id keeps its schema version.
        let same_id = TableMap { id: 0, ..map };
        let version = match self.layouts.get(&name) {
            Some((known, version, catalog))
                if *known == same_id && *catalog == self.catalog_version =>
            {
                *version
            }
            _ => {
                self.version += 1;
                self.version
            }
        };
        match Layout::new(&same_id, self.catalog.get(&name), &self.charsets, version) {
            Ok(layout) => {
                self.layouts.insert(name, (same_id, version, self.catalog_version));
                Ok(Mapped::Ours(Box::new(layout)))
            }
            Err(why) => {
                self.fault(name, &why);
                Ok(Mapped::Other)
            }
        }
    }

    fn meaning(&self, id: u64) -> Option<&Mapped> {
        self.maps.get(&id).map(|map| &map.mapped)
    }

    pub(super) fn rows(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        let last = frame.data.get(6).is_some_and(|flags| flags & 1 != 0);
        match self.meaning(id) {
            None => return Err(self.damaged(frame, Damage("rows without a table map"))),
            Some(Mapped::Other) => {}
            Some(Mapped::Ours(layout)) if self.undecided(layout) => {
                let error = undecided(&layout.schema.name);
                self.give_up(layout.schema.name.clone(), error);
            }
            Some(Mapped::Ours(_)) => {
                self.tell(frame)?;
                let Some(Map { mapped: Mapped::Ours(layout), .. }) = self.maps.get(&id) else {
                    return Ok(());
                };
                let (chunk, arena) = (&mut self.chunk, &mut self.arena);
                let decoded = RowsEvent::decode(frame.kind, frame.data)
                    .and_then(|e| e.changes(layout, arena, |c| chunk.push(LogEvent::Change(c))));
                if let Err(damage) = decoded {
                    let table = &layout.schema.name;
                    return Err(self.damaged(frame, damage).at(format_args!("table {table}")));
                }
            }
        }
        let standalone = self.group.as_ref().is_some_and(|g| g.standalone);
        if standalone && last && matches!(self.gtids, GtidSet::MariaDb(_)) {
            self.end(frame, frame.seconds)?;
        }
        Ok(())
    }

    /// Whether rows of a mapped table belong to an XA transaction. They are logged when it is prepared; that it was committed
    /// or rolled back is logged elsewhere, without rows, or never.
    fn undecided(&self, layout: &Layout) -> bool {
        self.group.as_ref().is_some_and(|g| g.xa) && self.known.contains_key(&layout.schema.name)
    }

    /// An update that holds documents as changes of the ones before.
    pub(super) fn in_parts(&mut self, frame: &Frame<'_>) -> Result<()> {
        let id = RowsEvent::table_id(frame.data).map_err(|d| self.damaged(frame, d))?;
        match self.meaning(id) {
            None => return Err(self.damaged(frame, Damage("rows without a table map"))),
            Some(Mapped::Other) => {}
            Some(Mapped::Ours(layout)) => {
                let table = layout.schema.name.clone();
                let error = Error::data(
                    Code::UnsupportedEvent,
                    format!(
                        "table {table}: its documents are logged in parts (binlog_row_value_options = PARTIAL_JSON)"
                    ),
                )
                .with_hint("clear binlog_row_value_options, then `tidelock resync` the mapping");
                self.give_up(table, error);
            }
        }
        Ok(())
    }
}

fn undecided(table: &TableName) -> Error {
    Error::data(
        Code::UnsupportedEvent,
        format!("table {table}: an XA transaction wrote it, whose outcome is not known here"),
    )
    .with_hint(
        "`tidelock resync` the mapping: it waits until the transactions that XA RECOVER lists are committed or rolled back",
    )
}
