//! Views as sources: the key of their rows, and the tables whose changes touch them.

use std::sync::Arc;

use tidelock_core::{
    CopyTable, DataType, Error, Finding, Key, Result, RowIdentity, Table, TableKind, TableName,
    TableSchema, TrackQuery, alike, comparable,
};

use super::pairs::{Pair, no_column};
use super::rows::placed;
use super::{Catalogs, exact};
use crate::config::{MappingConfig, Placed, TrackBy, TrackedTable, Values};
use crate::mapping::computed::{Origin, Wanted};
use crate::reread::memory::{Hash, hash};

/// A view, and what touches its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewPlan {
    /// Its columns that hold the key by which it is read again.
    pub by: Vec<String>,
    /// Their types.
    pub by_types: Vec<DataType>,
    /// Whether a key has several rows.
    pub groups: bool,
    /// Whether a row may move from one group to another, being the same row at the target.
    pub moves: bool,
    /// The tables whose changes touch it.
    pub tracks: Vec<TrackedPlan>,
    /// Tables that it is made of and whose changes touch no row, as the file says.
    pub apart: Vec<TableName>,
    /// The queries of tracks.
    pub queries: Vec<TrackQuery>,
    /// The type of each parameter of each query, and where the query stands.
    pub parameters: Vec<(Placed, Vec<(String, DataType)>)>,
}

/// A table whose changes touch a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedPlan {
    /// The table.
    pub table: TableName,
    /// Each way to the view's keys.
    pub ways: Vec<WayPlan>,
    /// The columns that are read.
    pub reads: Vec<String>,
    /// Those of them whose old values the log must carry.
    pub key_reads: Vec<String>,
    /// All of its columns: which of them the view reads is the database's affair.
    pub columns: Vec<String>,
}

/// A way from a changed row to keys of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayPlan {
    /// The way.
    pub by: WayBy,
    /// The columns whose change counts.
    pub on_change: Option<Vec<String>>,
    /// Which rows count.
    pub filter: Option<Placed>,
}

/// How a changed row tells keys of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayBy {
    /// These columns hold the key.
    Columns(Vec<String>),
    /// A query gives the keys.
    Query {
        /// Its number in [`ViewPlan::queries`].
        number: usize,
        /// The columns that it takes.
        parameters: Vec<String>,
    },
}

impl ViewPlan {
    /// Whether the file names a table that the view is made of.
    pub fn names(&self, table: &TableName) -> bool {
        self.tracks.iter().any(|t| t.table == *table) || self.apart.contains(table)
    }

    /// A key in the view's own types; `None` if the view can have no such key.
    pub fn key(&self, key: &[tidelock_core::Value]) -> Result<Option<Key>> {
        let mut cells = Vec::with_capacity(key.len());
        for (value, data_type) in key.iter().zip(&self.by_types) {
            match alike(value, data_type) {
                Ok(Some(value)) => cells.push(value),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Error::bug("a track's query gives keys of another type")),
            }
        }
        Ok((cells.len() == self.by.len()).then(|| cells.into()))
    }

    /// Where a shape of the view has the key.
    pub fn places(&self, shape: &TableSchema) -> Result<Vec<usize>> {
        let place = |name: &String| {
            shape
                .columns
                .iter()
                .position(|c| c.name == *name)
                .ok_or_else(|| Error::bug("a view was read without its key"))
        };
        self.by.iter().map(place).collect()
    }

    /// Under which bytes a row is remembered.
    pub fn remembered_at(&self, group: Hash, target: &Key) -> bytes::Bytes {
        let mut at = group.to_vec();
        if self.groups {
            at.extend(hash(&[], target.iter()));
        }
        at.into()
    }
}

/// The target's key of a mapping of a view.
pub(super) fn target_key(mapping: &MappingConfig, target: &Table) -> ViewKeyNames {
    let group = mapping
        .key
        .clone()
        .or_else(|| target.primary_key().map(<[String]>::to_vec))
        .unwrap_or_default();
    let rows: Vec<String> = mapping.row_key.iter().flatten().map(|c| c.text.clone()).collect();
    if rows.is_empty() {
        return ViewKeyNames { target_key: group.clone(), group, rows, moves: false };
    }
    if target.key_index(&rows).is_some() {
        let moves = group.iter().any(|name| !rows.contains(name));
        return ViewKeyNames { target_key: rows.clone(), group, rows, moves };
    }
    let mut whole = group.clone();
    whole.extend(rows.iter().filter(|name| !group.contains(name)).cloned());
    ViewKeyNames { target_key: whole, group, rows, moves: false }
}

/// The names of the keys, at the target.
pub(super) struct ViewKeyNames {
    /// What identifies a row.
    pub(super) target_key: Vec<String>,
    /// What holds the view's key.
    group: Vec<String>,
    rows: Vec<String>,
    moves: bool,
}

/// What a mapping says of views though its source is none, and of rows though it is one.
pub(super) fn misplaced(mapping: &MappingConfig, problems: &mut Vec<Finding>) {
    if !mapping.tracks.is_empty() {
        if let Some(first) = mapping.on_change.iter().flatten().next() {
            let finding =
                Finding::problem("on_change is for tables: a view has no updates of its own")
                    .hint("say it in the tracks, { column = \"...\", on_change = [...] }");
            problems.push(placed(finding, &first.place));
        }
        return;
    }
    for (word, columns) in [("from_key", &mapping.from_key), ("row_key", &mapping.row_key)] {
        if let Some(first) = columns.iter().flatten().next() {
            let finding = Finding::problem(format!("{word} is for views, whose rows are read again by a key"))
                .hint("name the tables that the view is made of by [mappings.tracks]; the key of a table's row is `key`");
            problems.push(placed(finding, &first.place));
        }
    }
}

/// Compiles what a mapping says of a view. `also` is read for what the mapping says of rows.
pub(super) fn plan_view(
    mapping: &MappingConfig,
    names: &ViewKeyNames,
    origin: &Origin<'_>,
    pairs: &[Pair<'_>],
    also: &[String],
    catalogs: &Catalogs<'_>,
    problems: &mut Vec<Finding>,
) -> Option<(ViewPlan, CopyTable)> {
    let view = origin.table;
    let before = problems.len();
    // The view's columns that feed these of the target.
    let fed = |targets: &[String], problems: &mut Vec<Finding>| -> Vec<String> {
        let mut found = Vec::new();
        for name in targets {
            let pair = pairs.iter().find(|p| p.target.name == *name);
            match (pair, pair.and_then(Pair::plain)) {
                (_, Some(column)) => found.push(column.to_owned()),
                // That is told already.
                (None, None) => {}
                (Some(_), None) => problems.push(
                    Finding::problem(format!(
                        "the key column {name} is not fed by a column of the view {}",
                        view.name
                    ))
                    .hint("map it to a column of the view as it is, or name the view's key by from_key")
                    .place(mapping.places.to.show()),
                ),
            }
        }
        found
    };
    let by: Vec<String> = match &mapping.from_key {
        Some(columns) => {
            for column in columns.iter().filter(|c| view.column(&c.text).is_none()) {
                problems.push(placed(no_column(view, &column.text, "source"), &column.place));
            }
            columns.iter().map(|c| c.text.clone()).collect()
        }
        None => fed(&names.group, problems),
    };
    let rows = fed(&names.rows, problems);
    let known = mapping.from_key.is_some() || by.len() == names.group.len();
    if by.is_empty() || !known || rows.len() < names.rows.len() {
        return None;
    }
    let types = |columns: &[String]| -> Vec<DataType> {
        columns.iter().filter_map(|c| Some(view.column(c)?.data_type.clone())).collect()
    };
    let by_types = types(&by);
    let mut plan = ViewPlan {
        groups: !rows.is_empty(),
        moves: names.moves,
        tracks: Vec::new(),
        apart: Vec::new(),
        queries: Vec::new(),
        parameters: Vec::new(),
        by,
        by_types,
    };
    for tracked in &mapping.tracks {
        plan.track(tracked, origin.values, catalogs, problems);
    }
    if problems.len() > before {
        return None;
    }
    let mut key = plan.by.clone();
    key.extend(rows.iter().filter(|name| !plan.by.contains(name)).cloned());
    let mut columns: Vec<String> = pairs.iter().flat_map(|p| p.feed.reads()).cloned().collect();
    columns.extend(also.iter().cloned());
    columns.extend(key.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    columns.retain(|c| seen.insert(c.clone()));
    Some((plan, CopyTable { name: view.name.clone(), columns, key, filter: None }))
}

impl ViewPlan {
    fn track(
        &mut self,
        tracked: &TrackedTable,
        values: &Arc<Values>,
        catalogs: &Catalogs<'_>,
        problems: &mut Vec<Finding>,
    ) {
        let Some(name) = exact(&tracked.table, catalogs.source_schema) else {
            problems.push(placed(
                Finding::problem("tracks: one table after the other, not all of a schema"),
                &tracked.place,
            ));
            return;
        };
        let Some(table) = catalogs.source.get(&name) else {
            problems.push(placed(
                Finding::problem(format!(
                    "the tracked table {name} does not exist or may not be seen"
                ))
                .hint(
                    super::seen::near_table(catalogs.source, &name).map_or_else(
                        || "mend the name, or grant our role the right to see it".to_owned(),
                        |near| format!("did you mean {near}?"),
                    ),
                ),
                &tracked.place,
            ));
            return;
        };
        if tracked.tracks.is_empty() {
            self.apart.push(name);
            return;
        }
        for finding in super::usable(table, "tracked") {
            problems.push(placed(finding, &tracked.place));
        }
        let origin = Origin::new(table, values);
        let mut plan = TrackedPlan {
            table: name,
            ways: Vec::new(),
            reads: Vec::new(),
            key_reads: Vec::new(),
            columns: table.columns.iter().map(|column| column.name.clone()).collect(),
        };
        for track in &tracked.tracks {
            let check = |column: &Placed, problems: &mut Vec<Finding>| {
                let found = table.column(&column.text);
                if found.is_none() {
                    problems.push(placed(no_column(table, &column.text, "tracked"), &column.place));
                }
                found.map(|c| c.data_type.clone())
            };
            let by = match &track.by {
                TrackBy::Columns(columns) => {
                    let before = problems.len();
                    if columns.len() != self.by.len() {
                        let place = columns.first().map_or(&tracked.place, |c| &c.place);
                        problems.push(placed(
                            Finding::problem(format!(
                                "the view's key has {} columns ({}), the track {}",
                                self.by.len(),
                                self.by.join(", "),
                                columns.len()
                            ))
                            .hint("columns = [...] names as many as the key has, in its order"),
                            place,
                        ));
                    }
                    for (column, to) in columns.iter().zip(&self.by_types) {
                        if let Some(from) = check(column, problems)
                            && !comparable(&from, to)
                        {
                            problems.push(placed(
                                Finding::problem(format!(
                                    "{}.{} has no values in common with the view's key",
                                    table.name, column.text
                                ))
                                .hint("track by a column that holds the key, or by a query: { keys = \"SELECT ...\" }"),
                                &column.place,
                            ));
                        }
                    }
                    let names: Vec<String> = columns.iter().map(|c| c.text.clone()).collect();
                    if problems.len() == before {
                        told(table, &names, catalogs, tracked, problems);
                    }
                    plan.key_reads.extend(names.iter().cloned());
                    plan.reads.extend(names.iter().cloned());
                    WayBy::Columns(names)
                }
                TrackBy::Query { query, text } => {
                    let mut parameters = Vec::new();
                    let mut typed = Vec::new();
                    for parameter in query.parameters() {
                        let name = &parameter.name;
                        let place = text.part(&parameter.at);
                        match table.column(name) {
                            None => {
                                problems.push(placed(no_column(table, name, "tracked"), &place))
                            }
                            Some(column) if !parameters.contains(name) => {
                                parameters.push(name.clone());
                                typed.push((name.clone(), column.data_type.clone()));
                            }
                            Some(_) => {}
                        }
                    }
                    if parameters.is_empty() && problems.is_empty() {
                        problems.push(placed(
                            Finding::problem("keys: the query names no column of the changed rows")
                                .hint(
                                    "such as :id, which becomes the list of the changed rows' ids",
                                ),
                            &text.place,
                        ));
                    }
                    told(table, &parameters, catalogs, tracked, problems);
                    plan.key_reads.extend(parameters.iter().cloned());
                    plan.reads.extend(parameters.iter().cloned());
                    let number = self.queries.len();
                    self.queries.push(query.clone());
                    self.parameters.push((text.clone(), typed));
                    WayBy::Query { number, parameters }
                }
            };
            let on_change = track.on_change.as_ref().map(|columns| {
                columns.iter().for_each(|column| {
                    check(column, problems);
                });
                let names: Vec<String> = columns.iter().map(|c| c.text.clone()).collect();
                plan.reads.extend(names.iter().cloned());
                names
            });
            if let Some(filter) = &track.filter {
                match origin.compile(filter, Wanted::Condition, "where of a track") {
                    Ok(expr) => plan.reads.extend(origin.names(expr.fields())),
                    Err(fault) => problems.push(fault),
                }
            }
            plan.ways.push(WayPlan { by, on_change, filter: track.filter.clone() });
        }
        for columns in [&mut plan.reads, &mut plan.key_reads] {
            let mut seen = std::collections::HashSet::new();
            columns.retain(|c| seen.insert(c.clone()));
        }
        self.tracks.push(plan);
    }
}

/// The log must carry what a row was before: it tells the key that it leaves.
fn told(
    table: &Table,
    columns: &[String],
    catalogs: &Catalogs<'_>,
    tracked: &TrackedTable,
    problems: &mut Vec<Finding>,
) {
    let RowIdentity::Columns(identity) = &table.identity else { return };
    let missing: Vec<&str> =
        columns.iter().filter(|c| !identity.contains(c)).map(String::as_str).collect();
    if missing.is_empty() || table.kind == TableKind::View {
        return;
    }
    let finding = Finding::problem(format!(
        "{}: the log of this table does not carry the old value of {}, by which the view is tracked",
        table.name,
        missing.join(", ")
    ));
    let finding = catalogs.source_system.mend_identity(table, columns, finding);
    problems.push(placed(finding, &tracked.place));
}
