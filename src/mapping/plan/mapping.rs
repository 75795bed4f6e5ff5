//! What a compiled mapping reads, follows and waits for.

use tidelock_core::{Result, SourceTable, TableName, Value, comparable};

use super::{ColumnPlan, EndPlan, Feed, MappingPlan, ViewPlan};
use crate::mapping::row::{self, BoundPlan, Write};

impl MappingPlan {
    /// What the source must deliver for this mapping.
    pub fn source_tables(&self) -> Vec<SourceTable> {
        let table =
            |name: &TableName, key_columns: Vec<String>, columns: Vec<String>| SourceTable {
                name: name.clone(),
                key_columns,
                columns,
                shape: String::new(),
                joins: false,
                optional: false,
            };
        let pushes = self.rows.pushes.iter();
        let pushes = pushes.map(|(name, column)| table(name, Vec::new(), vec![column.clone()]));
        let pushes = pushes.chain(self.kept.iter().map(|kept| kept.source_table()));
        if let Some(view) = &self.view {
            let tracks = view.tracks.iter();
            return tracks
                .map(|track| table(&track.table, track.key_reads.clone(), track.columns.clone()))
                .chain(pushes)
                .collect();
        }
        let mut key_columns: Vec<String> = Vec::new();
        for name in self.key_reads() {
            if !key_columns.contains(&name) {
                key_columns.push(name);
            }
        }
        let own = table(&self.source, key_columns, self.reads.clone());
        std::iter::once(own).chain(pushes).collect()
    }

    /// The tables of the source's log that the mapping follows.
    pub fn follows(&self) -> impl Iterator<Item = &TableName> {
        let tracks = self.view.iter().flat_map(|view| &view.tracks).map(|track| &track.table);
        let own = self.view.is_none().then_some(&self.source);
        let pushes = self.rows.pushes.iter().map(|(table, _)| table);
        own.into_iter().chain(tracks).chain(pushes)
    }

    /// Whether it brings several rows for a key of a view.
    pub fn has_groups(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.groups)
    }

    /// The source's columns by which rows are read again.
    pub fn read_by(&self) -> &[String] {
        match (&self.view, &self.copy) {
            (Some(view), _) => &view.by,
            (None, Some(copy)) => &copy.key,
            (None, None) => &[],
        }
    }

    /// The texts of its expressions.
    pub fn expressions(&self) -> Vec<&str> {
        let mut texts: Vec<&str> = Vec::new();
        for column in &self.columns {
            if let Feed::Computed(computed) = &column.feed {
                texts.push(&computed.text.text);
            }
        }
        if let EndPlan::Set(columns) = &self.rows.end {
            texts.extend(columns.iter().map(|(_, computed)| computed.text.text.as_str()));
        }
        texts.extend(self.rows.conditions());
        let tracks = self.view.iter().flat_map(|view| &view.tracks);
        let ways = tracks.flat_map(|track| &track.ways);
        texts.extend(ways.filter_map(|way| way.filter.as_ref()).map(|text| text.text.as_str()));
        texts
    }

    /// Whether rows of it may have to be read again.
    pub fn rereads(&self) -> bool {
        self.view.is_some()
            || self.rows.filter.is_some()
            || self.rows.is_gated()
            || !self.rows.pushes.is_empty()
            || self.call.is_some()
    }

    /// Whether its rows may wait for others: each can be read again by its key and written then.
    pub fn may_wait(&self) -> bool {
        self.copy.is_some() && self.view.is_none() && self.call.is_none()
    }

    /// Whether a row may be read again because the log leaves out a part of what a column is made of, or of what a rule looks at.
    pub fn completes(&self) -> bool {
        let joins = |column: &ColumnPlan| column.feed.reads().len() > 1;
        self.view.is_none() && (self.columns.iter().any(joins) || !self.rows.checks.is_empty())
    }

    /// The cells that a view's key has in the columns of the target, by their places there.
    pub fn group_cells(&self, by: &[String], key: &[Value]) -> Result<Vec<(usize, Value)>> {
        let mut cells = Vec::new();
        for (at, (column, target)) in self.columns.iter().zip(&self.target.columns).enumerate() {
            let Feed::Column(name) = &column.feed else { continue };
            let Some(value) = by.iter().position(|b| b == name).and_then(|i| key.get(i)) else {
                continue;
            };
            cells.push((at, row::converted(self, column, target, value)?));
        }
        Ok(cells)
    }

    /// The places of the cells that [`MappingPlan::group_cells`] gives.
    pub fn group_places(&self, by: &[String]) -> Vec<usize> {
        let fed =
            |column: &ColumnPlan| matches!(&column.feed, Feed::Column(feed) if by.contains(feed));
        (0..self.columns.len()).filter(|&at| self.columns.get(at).is_some_and(fed)).collect()
    }

    /// The key of a view that a remembered key of the target comes from; `None` where it cannot be told.
    pub fn view_key(
        &self,
        view: &ViewPlan,
        remembered: &[Value],
    ) -> Result<Option<tidelock_core::Key>> {
        let fed = |at: usize, name: &String| matches!(self.columns.get(at).map(|c| &c.feed), Some(Feed::Column(feed)) if feed == name);
        // Of a group that goes as a whole, the cells that hold the view's key are remembered.
        let places: Vec<usize> = match self.call.as_ref().is_some_and(|call| call.rows.is_some()) {
            true => self.group_places(&view.by),
            false => self.target.key.clone(),
        };
        let cell = |name: &String| {
            let nth = places.iter().position(|&at| fed(at, name))?;
            remembered.get(nth).cloned()
        };
        match view.by.iter().map(cell).collect::<Option<Vec<Value>>>() {
            Some(cells) => view.key(&cells),
            None => Ok(None),
        }
    }

    /// Whether each remembered key of the target tells the key of the view.
    pub fn tells_view_key(&self, view: &ViewPlan) -> bool {
        let whole = self.call.as_ref().is_some_and(|call| call.rows.is_some());
        view.by.iter().zip(&view.by_types).all(|(name, to)| {
            self.columns.iter().zip(&self.target.columns).enumerate().any(
                |(at, (column, target))| {
                    matches!(&column.feed, Feed::Column(feed) if feed == name)
                        && (whole || self.target.key.contains(&at))
                        && column.rule.zone.is_none()
                        && comparable(&target.data_type, to)
                },
            )
        })
    }

    /// What becomes of a row of which only the target's key is known.
    pub fn removal(&self, key: &[Value]) -> Result<Option<Write>> {
        match &self.rows.end {
            EndPlan::Delete => Ok(Some(BoundPlan::remove(self, key))),
            EndPlan::Ignore => Ok(None),
            EndPlan::Set(_) => row::mark(self, key).map(Some),
        }
    }

    /// The source columns that feed the key.
    pub fn key_reads(&self) -> impl Iterator<Item = String> {
        let feeds = self.target.key.iter().filter_map(|&i| self.columns.get(i));
        feeds.flat_map(|column| column.feed.reads().to_vec())
    }

    /// The source columns of the target columns, in their order; `None` if one is computed.
    pub fn sources(&self) -> Option<Vec<String>> {
        let plain = |column: &ColumnPlan| match &column.feed {
            Feed::Column(name) => Some(name.clone()),
            Feed::Computed(_) => None,
        };
        self.columns.iter().map(plain).collect()
    }

    /// Which source column plays a part in which target column.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let columns = self.columns.iter().zip(&self.target.columns);
        columns
            .flat_map(|(column, target)| {
                column.feed.reads().iter().map(|source| (source.clone(), target.name.clone()))
            })
            .collect()
    }
}
