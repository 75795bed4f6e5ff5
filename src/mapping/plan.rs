//! Compiling a flow's mappings against both catalogs: every fault that can be known before a row
//! moves is a [`Finding`] here, each with the place in the configuration it comes from.

mod aside;
mod call;
mod foreign;
mod key;
mod order;
mod pairs;
mod rows;
mod shared;
mod view;
mod wildcard;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::{
    Column, Connector, CopyTable, DataType, Finding, Generated, JsonForm, Result, Routine,
    RowIdentity, Severity, SourceTable, Table, TableKind, TableName, TargetColumn, TargetTable,
    Value, comparable,
};

pub use self::aside::Aside;
use self::aside::asides;
pub use self::call::CallPlan;
pub use self::foreign::Pointer;
use self::foreign::{loosable, pointers, pointing};
use self::key::{copy_table, key_of, other_uniques, unfilled};
pub use self::order::{mirrored, parents_first};
pub(super) use self::pairs::json_form;
pub(super) use self::pairs::no_column;
use self::pairs::{Pair, pair_columns, unmapped};
pub use self::rows::{EndPlan, PushedBy, RowPlan};
pub use self::view::{TrackedPlan, ViewPlan, WayBy, WayPlan};
pub use self::wildcard::like;
pub(super) use self::wildcard::{has_key, matching};
use super::computed::Origin;
use super::convert::Rule;
use super::dictionaries::{self, KeptPlan};
use super::lookups::{LookupPlans, TargetTables};
use super::row::{self, BoundPlan, Write};
use crate::config::{
    CallConfig, FlowConfig, MappingConfig, OnDelete, OnTruncate, OnUnrepresentable, Place, Placed,
    SchemaChanges, SnapshotMode, TablePattern, TableRef, Values,
};

/// One source table to one target table, compiled.
#[derive(Debug)]
pub struct MappingPlan {
    /// The mapping's name; for a wildcard, the source table's.
    pub name: Arc<str>,
    /// The source table.
    pub source: TableName,
    /// How values come into each target column; columns that only the end of a row sets follow in `target`.
    pub columns: Vec<ColumnPlan>,
    /// Every source column that is read.
    pub reads: Vec<String>,
    /// Their types.
    pub read_types: Vec<DataType>,
    /// The target table.
    pub target: Arc<TargetTable>,
    /// If the source is a view: how its rows are found again.
    pub view: Option<Arc<ViewPlan>>,
    /// If the target is a routine: how it is called. Its parameters are the target's columns then.
    pub call: Option<Arc<CallPlan>>,
    /// Which rows go, what must hold of them, and what their end becomes.
    pub rows: RowPlan,
    /// What expressions may use.
    pub values: Arc<Values>,
    /// What a truncate becomes.
    pub on_truncate: OnTruncate,
    /// Whether several changes of a row in one batch may become one.
    pub compact: bool,
    /// Whether rows that are there at first start must be copied.
    pub snapshot: SnapshotMode,
    /// What a column that comes at the source becomes.
    pub schema_changes: SchemaChanges,
    /// Whether source and target are the same kind of server.
    pub same_family: bool,
    /// How the source table is read in pieces; `None` if it has no key for it.
    pub copy: Option<CopyTable>,
    /// Whether every pair of columns is of one type that source and target write and read alike, so
    /// that a copy may hand the rows on as text.
    pub as_lines: bool,
    /// The types of the key that pieces are cut by.
    pub copy_key_types: Vec<DataType>,
    /// The tables that the target's foreign keys point to.
    pub references: Vec<TableName>,
    /// The tables of the source that its expressions use as dictionaries.
    pub kept: Vec<Arc<KeptPlan>>,
    /// Whether its rows may wait for rows that they point to: foreign keys of the target lead to tables that the flow writes, and
    /// a row can be read again by its key.
    pub points: bool,
    /// The columns that may be NULL until that row is there: indexes into the target's.
    pub loosable: Vec<usize>,
    /// The foreign keys over one column, so that it can be asked whether that row is there.
    pub pointers: Vec<Pointer>,
    /// How a row gives its unique values up for a moment: a column for each such index beside the key.
    pub asides: Vec<Aside>,
    /// The columns of foreign keys, but for those of the mapping's key: indexes into the target's.
    pub pointing: Vec<usize>,
    /// What its columns look up in the target.
    pub lookups: Arc<LookupPlans>,
    /// The tables that are written before this one: foreign keys of the target point to them, or values are looked up in them.
    pub before: Vec<TableName>,
    /// The mappings that come before this one.
    pub after: Vec<Arc<str>>,
    /// Whether foreign keys of the target point to the target table.
    pub referenced: bool,
    /// Whether the target table refuses two rows for more than the mapping's key.
    pub has_uniques: bool,
    /// The unique indexes beside the key that can be judged here: indexes into the target's columns.
    pub uniques: Vec<Vec<usize>>,
    /// The configuration's own list of columns, as a text: to tell a column that the file took out from
    /// one that the source lost.
    pub rule: String,
    /// Whether the source keeps the columns that feed the key unique.
    pub keyed: bool,
    /// Whether a row outside the filter may have the key of one inside: nothing keeps what feeds the key unique.
    pub shares_keys: bool,
    /// Source columns of a mapping of all same-named columns that the target does not have.
    pub unmapped: Vec<Column>,
}

/// What feeds a target column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// A column of the source.
    Column(String),
    /// An expression over the source row.
    Computed(Computed),
}

/// An expression over the source row, and what it reads there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// The expression.
    pub text: Placed,
    /// The source columns that it reads.
    pub reads: Vec<String>,
    /// Whether its value depends on nothing but the source row.
    pub steady: bool,
    /// Whether it may look something up.
    pub seeks: bool,
    /// Whether it is one value for all rows.
    pub constant: bool,
    /// Whether it may be NULL, as far as the catalog tells.
    pub nullable: bool,
    /// How many characters it has in every row, where that is known.
    pub length: Option<u64>,
}

impl Feed {
    /// The source columns that are read.
    pub fn reads(&self) -> &[String] {
        match self {
            Feed::Column(name) => std::slice::from_ref(name),
            Feed::Computed(computed) => &computed.reads,
        }
    }
}

/// How values come into a target column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnPlan {
    /// What feeds it.
    pub feed: Feed,
    /// The type of that.
    pub from: DataType,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// How the server keeps JSON here.
    pub json_form: JsonForm,
    /// What the file asks for beyond exactness.
    pub rule: Rule,
}

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

/// What came of planning a flow.
#[derive(Debug, Default)]
pub struct PlanOutcome {
    /// The mappings that can run.
    pub mappings: Vec<Arc<MappingPlan>>,
    /// What is wrong or worth knowing.
    pub findings: Vec<Finding>,
    /// The mappings that cannot run, and the first reason of each.
    pub failed: Vec<(String, Finding)>,
    /// Which of the findings are about tables that the catalogs do not show: `check` asks the system why.
    pub unseen: Vec<Unseen>,
    /// Tables that a wildcard would take if they had a usable key, by the names that their mappings would have.
    pub keyless: Vec<(String, TableName)>,
    /// Tables that a wildcard does not take because a mapping of another table has the name, with that.
    pub namesakes: Vec<(String, TableName)>,
}

/// A table, or a whole schema, that a catalog does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// The mapping.
    pub mapping: String,
    /// Whether it is the target's.
    pub target: bool,
    /// The schema.
    pub schema: String,
    /// The table; all of the schema if absent.
    pub table: Option<String>,
    /// What the finding says.
    pub message: String,
}

/// The tables of a server, found by their names: there may be many thousands.
pub struct Catalog<'a> {
    tables: &'a [Table],
    by_name: HashMap<&'a TableName, &'a Table>,
    referenced: HashSet<&'a TableName>,
}

impl<'a> Catalog<'a> {
    /// Of these tables.
    pub fn new(tables: &'a [Table]) -> Catalog<'a> {
        Catalog {
            tables,
            by_name: tables.iter().map(|t| (&t.name, t)).collect(),
            referenced: tables.iter().flat_map(|t| &t.references).map(|r| &r.table).collect(),
        }
    }

    /// The tables in the server's order.
    pub fn tables(&self) -> &'a [Table] {
        self.tables
    }

    /// The table of this name.
    pub fn get(&self, name: &TableName) -> Option<&'a Table> {
        self.by_name.get(name).copied()
    }

    /// Whether foreign keys point to a table.
    pub fn is_referenced(&self, name: &TableName) -> bool {
        self.referenced.contains(name)
    }
}

/// The two catalogs and what the servers mean by an unqualified name.
#[derive(Clone, Copy)]
pub struct Catalogs<'a> {
    /// The source's tables.
    pub source: &'a Catalog<'a>,
    /// The target's tables.
    pub target: &'a Catalog<'a>,
    /// The target's routines that mappings name.
    pub routines: &'a [Routine],
    /// The schema that a source name without one means.
    pub source_schema: &'a str,
    /// The schema that a target name without one means.
    pub target_schema: &'a str,
    /// The source itself, for the words that mend its tables.
    pub source_system: &'a dyn Connector,
    /// The target itself, for the words that mend its tables.
    pub target_system: &'a dyn Connector,
    /// Whether source and target are the same kind of server.
    pub same_family: bool,
    /// Whether the target is read by a flow of this pipeline too.
    pub two_way: bool,
    /// Whose rows the mappings of the flow have brought so far, by name, as far as that is on record.
    pub owners: &'a HashMap<String, TableName>,
}

/// What makes a target table that is not there.
pub const NEW_TABLE: &str =
    "let `tidelock plan` print its CREATE TABLE (`tidelock plan --create` runs it)";

pub(super) static NEXT_PLAN: AtomicU64 = AtomicU64::new(1);

/// Compiles the mappings of a flow. A mapping with a problem is left out of
/// [`PlanOutcome::mappings`] and stands in [`PlanOutcome::findings`].
pub fn plan_flow(flow: &FlowConfig, catalogs: &Catalogs<'_>) -> PlanOutcome {
    let (flow, kept) = with_dictionaries(flow, catalogs);
    let flow = &*flow;
    let mut outcome = PlanOutcome::default();
    let named: Vec<TableName> =
        flow.mappings.iter().filter_map(|m| exact(&m.from, catalogs.source_schema)).collect();
    for mapping in &flow.mappings {
        match (
            exact(&mapping.from, catalogs.source_schema),
            exact(&mapping.to, catalogs.target_schema),
        ) {
            (Some(source), Some(target)) => {
                let name = mapping.name.clone();
                plan_table(mapping, &name, &source, &target, catalogs, flow, &mut outcome);
            }
            (None, None) => wildcard::plan_wildcard(mapping, &named, catalogs, flow, &mut outcome),
            _ => outcome.findings.push(Finding::problem(format!(
                "mapping {}: `from` and `to` must both name a table or both end in `*`",
                mapping.name
            ))),
        }
    }
    leave_namesakes(&mut outcome, catalogs.owners);
    keep_dictionaries(&mut outcome, &kept, catalogs);
    shared::judge(flow, &mut outcome);
    order::judge(flow, &mut outcome);
    foreign::point(&mut outcome.mappings);
    outcome
}

/// Leaves out tables that have just come to the name of a mapping that is followed already: its states and counters are that one's.
fn leave_namesakes(outcome: &mut PlanOutcome, owners: &HashMap<String, TableName>) {
    let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
    for plan in &outcome.mappings {
        *seen.entry(plan.name.clone()).or_default() += 1;
    }
    for (name, _) in seen.into_iter().filter(|(_, count)| *count > 1) {
        let Some(owner) = owners.get(&*name) else { continue };
        if !outcome.mappings.iter().any(|p| p.name == name && p.source == *owner) {
            continue;
        }
        for plan in outcome.mappings.extract_if(.., |p| p.name == name && p.source != *owner) {
            let words =
                format!("mapping {name}: {} comes to the same name and is left out", plan.source);
            outcome.findings.push(
                Finding::warning(words)
                    .hint("write it as a mapping of its own with another `name`, or exclude it"),
            );
            outcome.namesakes.push((name.to_string(), plan.source.clone()));
        }
    }
}

/// The flow with what the catalogs tell of dictionaries that are tables, and those of them that are kept.
pub(super) fn with_dictionaries<'a>(
    flow: &'a FlowConfig,
    catalogs: &Catalogs<'_>,
) -> (Cow<'a, FlowConfig>, Vec<Arc<KeptPlan>>) {
    match dictionaries::known(flow, catalogs) {
        None => (Cow::Borrowed(flow), Vec::new()),
        Some((values, kept)) => (Cow::Owned(FlowConfig { values, ..flow.clone() }), kept),
    }
}

/// Gives each mapping the dictionaries that its expressions name.
fn keep_dictionaries(outcome: &mut PlanOutcome, kept: &[Arc<KeptPlan>], catalogs: &Catalogs<'_>) {
    if kept.is_empty() {
        return;
    }
    let mut used: Vec<Arc<KeptPlan>> = Vec::new();
    for plan in outcome.mappings.iter_mut().filter_map(Arc::get_mut) {
        let names: Vec<String> =
            plan.expressions().into_iter().flat_map(crate::expr::dictionary_names).collect();
        let own = kept.iter().filter(|kept| names.contains(&kept.name)).cloned();
        plan.kept = own.collect();
        used.extend(plan.kept.iter().cloned());
    }
    used.sort_by(|a, b| a.name.cmp(&b.name));
    used.dedup_by(|a, b| a.name == b.name);
    outcome.findings.extend(dictionaries::judge(&used, catalogs));
}

/// The table that a mapping names, unless it takes all.
pub(super) fn exact(table: &TableRef, default_schema: &str) -> Option<TableName> {
    match &table.table {
        TablePattern::Exact(name) => Some(TableName::new(schema_of(table, default_schema), name)),
        TablePattern::All => None,
    }
}

/// The schema that a mapping names or means.
pub(super) fn schema_of<'a>(table: &'a TableRef, default_schema: &'a str) -> &'a str {
    table.schema.as_deref().unwrap_or(default_schema)
}

fn plan_table(
    mapping: &MappingConfig,
    name: &str,
    source: &TableName,
    target: &TableName,
    catalogs: &Catalogs<'_>,
    flow: &FlowConfig,
    outcome: &mut PlanOutcome,
) {
    let mut problems = Vec::new();
    let source_table = find(catalogs.source, source, "source", &mapping.places.from, &mut problems);
    // The parameters of a routine are taken for the columns of a table.
    let mut called = None;
    let mut mapping = Cow::Borrowed(mapping);
    if let Some(call) = mapping.call.clone() {
        mapping = Cow::Owned(call::with_bare_names(&mapping));
        if let Some(source_table) = source_table {
            called = routines(&mapping, &call, source_table, flow, catalogs, &mut problems);
        }
        if mapping.key.is_none() {
            problems.push(
                Finding::problem(
                    "a mapping to a routine names the parameters that hold its key by `key`",
                )
                .place(mapping.places.to.show()),
            );
        }
    }
    let mapping = &*mapping;
    let target_table = match &mapping.call {
        Some(_) => called.as_ref().map(|called| &called.table),
        None => find(catalogs.target, target, "target", &mapping.places.to, &mut problems),
    };
    for (missing, table, is_target) in [
        (source_table.is_none(), source, false),
        (target_table.is_none() && mapping.call.is_none(), target, true),
    ] {
        let side = if is_target { "target" } else { "source" };
        if missing {
            outcome.unseen.push(Unseen {
                mapping: name.to_owned(),
                target: is_target,
                schema: table.schema.clone(),
                table: Some(table.name.clone()),
                message: format!("mapping {name}: {}", not_seen(side, table)),
            });
        }
    }
    if let (Some(source_table), Some(target_table)) = (source_table, target_table) {
        if source_table.kind != TableKind::View || mapping.tracks.is_empty() {
            let found = usable(source_table, "source");
            problems.extend(found.into_iter().map(|f| f.place(mapping.places.from.show())));
        } else {
            problems.extend(refused(source_table, "source"));
        }
        let found = usable(target_table, "target");
        problems.extend(found.into_iter().map(|f| f.place(mapping.places.to.show())));
        view::misplaced(mapping, &mut problems);
        let target_tables = target_tables(flow, catalogs);
        let mut origin = Origin::new(source_table, &flow.values).with(&target_tables);
        origin.finite = catalogs.source_system.family() != "postgres";
        let names = view::target_key(mapping, target_table);
        let mut keyed = Cow::Borrowed(mapping);
        if mapping.row_key.is_some() {
            let place = |name: &String| {
                let at = mapping.key.iter().flatten().position(|known| known == name);
                let of_rows = mapping.row_key.iter().flatten().find(|known| known.text == *name);
                let of_key = at.and_then(|at| mapping.places.key.get(at));
                of_key.or(of_rows.map(|known| &known.place)).unwrap_or(&mapping.places.to).clone()
            };
            let keyed = keyed.to_mut();
            keyed.places.key = names.target_key.iter().map(place).collect();
            keyed.key = Some(names.target_key.clone());
        }
        let columns = pair_columns(&keyed, &origin, target_table, &mut problems);
        let key = key_of(&keyed, source_table, target_table, &columns, catalogs, &mut problems);
        let mut rows = rows::plan_rows(mapping, &origin, target_table, &columns, &mut problems);
        let others: Vec<&MappingConfig> = flow
            .mappings
            .iter()
            .filter(|m| m.name != name && m.call.is_none() && mapping.call.is_none())
            .filter(|m| exact(&m.to, catalogs.target_schema).as_ref() == Some(target))
            .collect();
        let partial = unfilled(&keyed, target_table, &columns, &others, &mut problems);
        (rows.pushes, rows.pushed) =
            pushes(mapping, source_table, &key, &columns, catalogs, &mut problems);
        let (view, copy) = if mapping.tracks.is_empty() {
            (None, copy_table(source_table, &columns, &rows.reads, &key))
        } else {
            let also = &rows.reads;
            view::plan_view(mapping, &names, &origin, &columns, also, catalogs, &mut problems)
                .map_or((None, None), |(view, copy)| (Some(Arc::new(view)), Some(copy)))
        };
        let followed = source_table.kind != TableKind::View;
        if copy.is_none()
            && followed
            && mapping.tracks.is_empty()
            && mapping.snapshot == SnapshotMode::Initial
        {
            problems.push(
                Finding::problem(format!(
                    "{} has no key by which its rows could be copied in pieces",
                    source_table.name
                ))
                .hint("give it a primary key that its replica identity holds, or copy the rows yourself and set snapshot = \"never\"")
                .place(mapping.places.from.show()),
            );
        }
        if mapping.snapshot == SnapshotMode::Initial
            && target_tables.planned().tables().any(|table| *table == target_table.name)
        {
            outcome.findings.push(
                Finding::warning(format!(
                    "mapping {name}: its rows look each other up in {}",
                    target_table.name
                ))
                .hint("a first copy may meet a row before the one it looks for: let what is missing be NULL by coalesce(lookup(...), NULL), and `tidelock backfill` it once"),
            );
        }
        if problems.iter().all(|f| f.severity == Severity::Warning) {
            let parts = Parts {
                mapping,
                name,
                source: source_table,
                target: target_table,
                pairs: &columns,
                key: &key,
                rows,
                copy,
                view,
                partial,
                values: &flow.values,
                lookups: target_tables.planned(),
            };
            let mut plan = build(parts, catalogs);
            constants(&plan, &mut problems);
            if let (Some(config), Some(called)) = (&mapping.call, &called) {
                let TargetTable { columns, key, .. } = &*plan.target;
                let delete = called.delete;
                let made = call::plan_call(
                    config,
                    called.routine,
                    delete,
                    columns,
                    key,
                    &mapping.places.to,
                    &mut problems,
                );
                plan.call = Some(Arc::new(made));
                if plan.on_truncate == OnTruncate::Delete && plan.view.is_none() {
                    plan.on_truncate = OnTruncate::Halt;
                    problems.push(
                        Finding::warning("on_truncate = \"delete\": no routine takes all rows away, so a truncate stops the mapping")
                            .place(mapping.places.to.show()),
                    );
                }
            }
            if problems.iter().all(|f| f.severity == Severity::Warning) {
                outcome.mappings.push(Arc::new(plan));
            }
        }
    }
    let prefixed = |mut finding: Finding| {
        finding.message = format!("mapping {name}: {}", finding.message);
        finding
    };
    let problems: Vec<Finding> = problems.into_iter().map(prefixed).collect();
    if let Some(first) = problems.iter().find(|f| f.severity == Severity::Problem) {
        outcome.failed.push((name.to_owned(), first.clone()));
    }
    outcome.findings.extend(problems);
}

/// Values that are the same for every row, tried against their columns.
fn constants(plan: &MappingPlan, problems: &mut Vec<Finding>) {
    let feeds = plan.columns.iter().enumerate().filter_map(|(at, column)| match &column.feed {
        Feed::Computed(computed) => Some((at, computed, "column")),
        Feed::Column(_) => None,
    });
    let set = match &plan.rows.end {
        EndPlan::Set(set) => set.as_slice(),
        EndPlan::Delete | EndPlan::Ignore => &[],
    };
    let place = |name: &String| plan.target.columns.iter().position(|c| c.name == *name);
    let set =
        set.iter().filter_map(|(name, computed)| Some((place(name)?, computed, "on_delete,")));
    for (at, computed, what) in feeds.chain(set).filter(|(_, computed, _)| computed.constant) {
        let (Some(target), Err(why)) =
            (plan.target.columns.get(at), row::constant_of(plan, at, computed))
        else {
            continue;
        };
        let finding = Finding::problem(format!("{what} {}: {why}", target.name));
        let finding =
            finding.hint(format!("write a value that a column of type {} takes", target.native));
        problems.push(rows::placed(finding, &computed.text.place));
    }
}

/// The tables whose rows make a key of a mapping worth sending, and their columns that hold the key; and the source's column
/// that feeds it.
fn pushes(
    mapping: &MappingConfig,
    source: &Table,
    key: &[usize],
    pairs: &[Pair<'_>],
    catalogs: &Catalogs<'_>,
    problems: &mut Vec<Finding>,
) -> (Vec<(TableName, String)>, Option<PushedBy>) {
    let (mut found, mut by) = (Vec::new(), None);
    for push in &mapping.push_when {
        let place = push.column.place.show();
        let feeds: Vec<&str> = key.iter().filter_map(|&i| pairs.get(i)?.plain()).collect();
        let [feed] = feeds.as_slice() else {
            problems.push(
                Finding::problem("push_when: the mapping's key must be one column of the source")
                    .place(place),
            );
            continue;
        };
        let Some(name) = exact(&push.table, catalogs.source_schema) else { continue };
        let Some(table) = catalogs.source.get(&name) else {
            problems.push(
                Finding::problem(format!(
                    "push_when: the table {name} does not exist or may not be seen"
                ))
                .place(place),
            );
            continue;
        };
        let Some(column) = table.column(&push.column.text) else {
            problems.push(pairs::no_column(table, &push.column.text, "source").place(place));
            continue;
        };
        let to = source.column(feed).map(|c| &c.data_type);
        let pushed = |data_type: &DataType| {
            let data_type = data_type.clone();
            PushedBy { column: (*feed).to_owned(), data_type }
        };
        by = to.map(pushed);
        if !to.is_some_and(|to| comparable(&column.data_type, to)) {
            problems.push(
                Finding::problem(format!(
                    "push_when: {name}.{} has no values in common with {}.{feed}",
                    column.name, source.name
                ))
                .place(place),
            );
            continue;
        }
        found.push((name, column.name.clone()));
    }
    (found, by)
}

/// The routines of a mapping, the one that takes rows as a table.
struct Called<'a> {
    routine: &'a Routine,
    delete: Option<&'a Routine>,
    table: Table,
}

fn routines<'a>(
    mapping: &MappingConfig,
    call: &CallConfig,
    source: &Table,
    flow: &FlowConfig,
    catalogs: &Catalogs<'a>,
    problems: &mut Vec<Finding>,
) -> Option<Called<'a>> {
    let (known, schema) = (catalogs.routines, catalogs.target_schema);
    let routine = call::find(known, &mapping.to, schema, &mapping.places.to, problems);
    let delete = call
        .delete
        .as_ref()
        .and_then(|(named, place)| call::find(known, named, schema, place, problems));
    match (&call.delete, &mapping.on_delete) {
        (None, OnDelete::Delete) => problems.push(
            Finding::problem("nothing says what becomes of rows that are gone")
                .hint("name a routine for them, to = { call = \"...\", delete = \"...\" }, or set on_delete = \"ignore\"")
                .place(mapping.places.to.show()),
        ),
        (_, OnDelete::Set(_)) => problems.push(
            Finding::problem("on_delete = { set = ... } is for tables: a routine is called with the key")
                .hint("name a routine for rows that are gone, to = { call = \"...\", delete = \"...\" }, or set on_delete = \"ignore\"")
                .place(mapping.places.to.show()),
        ),
        _ => {}
    }
    if call.rows.is_some() && mapping.row_key.is_none() {
        problems.push(
            Finding::problem(
                "`rows` gives the rows of a group, and nothing says what tells them apart",
            )
            .hint("name the members of a row that do by row_key = [...]")
            .place(mapping.places.to.show()),
        );
    }
    let target_tables = target_tables(flow, catalogs);
    let origin = Origin::new(source, &flow.values).with(&target_tables);
    let table = call::as_table(routine?, mapping, call, &origin);
    Some(Called { routine: routine?, delete, table })
}

fn find<'a>(
    catalog: &Catalog<'a>,
    name: &TableName,
    side: &str,
    place: &Place,
    problems: &mut Vec<Finding>,
) -> Option<&'a Table> {
    let found = catalog.get(name);
    if found.is_none() {
        let near = near_table(catalog, name);
        let make = if side == "target" { NEW_TABLE } else { "create it" };
        let hint = match near {
            None => format!("{make}, mend the name, or grant our role the right to see it"),
            Some(near) if side == "target" => format!("did you mean {near}? Or {make}"),
            Some(near) => format!("did you mean {near}?"),
        };
        let finding = Finding::problem(not_seen(side, name)).hint(hint);
        problems.push(finding.place(place.show()));
    }
    found
}

/// The table whose name is nearest to one that is not known.
fn near_table<'a>(catalog: &Catalog<'a>, name: &TableName) -> Option<&'a TableName> {
    let scored =
        |t: &'a Table| (strsim::jaro_winkler(&t.name.to_string(), &name.to_string()), &t.name);
    let near = catalog.tables().iter().map(scored).filter(|(score, _)| *score > 0.85);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, near)| near)
}

fn not_seen(side: &str, name: &TableName) -> String {
    format!("the {side} table {name} does not exist or may not be seen")
}

/// Why the server says that a table cannot be used.
fn refused(table: &Table, side: &str) -> Vec<Finding> {
    let finding =
        |why| Finding::problem(format!("the {side} table {} cannot be used: {why}", table.name));
    table.refusals.iter().map(finding).collect()
}

/// Why a table cannot be followed or written.
pub(super) fn usable(table: &Table, side: &str) -> Vec<Finding> {
    let mut findings = refused(table, side);
    if table.kind == TableKind::View && side == "source" {
        findings.push(
            Finding::problem(format!("the source {} is a view, which has no log", table.name))
                .hint("name the tables that it is made of by [mappings.tracks]"),
        );
        return findings;
    }
    if !matches!(table.kind, TableKind::Table | TableKind::Partitioned) {
        findings
            .push(Finding::problem(format!("the {side} {} is not an ordinary table", table.name)));
    }
    if side == "source" && table.identity == RowIdentity::Nothing {
        findings.push(
            Finding::problem(format!(
                "the log of {} does not tell which row was changed",
                table.name
            ))
            .hint("give the table a primary key or a replica identity"),
        );
    }
    findings
}

/// The parts of a plan, each found by its own step.
struct Parts<'a> {
    mapping: &'a MappingConfig,
    name: &'a str,
    source: &'a Table,
    target: &'a Table,
    pairs: &'a [Pair<'a>],
    key: &'a [usize],
    rows: RowPlan,
    copy: Option<CopyTable>,
    view: Option<Arc<ViewPlan>>,
    partial: bool,
    values: &'a Arc<Values>,
    lookups: LookupPlans,
}

/// The tables of a flow's target, to be looked up.
pub(super) fn target_tables<'a>(flow: &'a FlowConfig, catalogs: &Catalogs<'a>) -> TargetTables<'a> {
    let family = catalogs.target_system.family();
    TargetTables::new(&flow.target, catalogs.target_schema, family, catalogs.target)
}

pub(super) fn target_column(column: &Column) -> TargetColumn {
    TargetColumn {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        native: column.native.clone(),
        identity_always: column.generated == Generated::IdentityAlways,
    }
}

fn build(parts: Parts<'_>, catalogs: &Catalogs<'_>) -> MappingPlan {
    let Parts {
        mapping,
        name,
        source,
        target,
        pairs,
        key,
        rows,
        copy,
        view,
        partial,
        values,
        lookups,
    } = parts;
    let mut references: Vec<TableName> = Vec::new();
    for reference in &target.references {
        if !references.contains(&reference.table) {
            references.push(reference.table.clone());
        }
    }
    let mut before = references.clone();
    for table in lookups.tables() {
        if !before.contains(table) {
            before.push(table.clone());
        }
    }
    let copy_key_types = copy
        .iter()
        .flat_map(|copy| &copy.key)
        .filter_map(|name| source.column(name).map(|c| c.data_type.clone()))
        .collect();
    let mut columns: Vec<TargetColumn> = pairs.iter().map(|p| target_column(p.target)).collect();
    columns.extend(rows.end.columns().filter_map(|c| target.column(c)).map(target_column));
    let mut seen = HashSet::new();
    columns.retain(|c| seen.insert(c.name.clone()));
    let mut reads: Vec<String> = pairs.iter().flat_map(|p| p.feed.reads()).cloned().collect();
    reads.extend(rows.reads.iter().cloned());
    let mut seen = HashSet::new();
    reads.retain(|c| seen.insert(c.clone()));
    let kept_unique = |not_null: bool| {
        source.unique_indexes.iter().any(|index| {
            let feeds = |name: &String| key.iter().any(|&i| pairs[i].plain() == Some(name));
            index.immediate && (index.not_null || !not_null) && index.columns.iter().all(feeds)
        })
    };
    let loosable = loosable(target, &columns);
    let pointers = pointers(target, &columns, catalogs.target);
    let asides = asides(target, pairs, key, &columns);
    let pointing = pointing(target, &columns, key);
    MappingPlan {
        name: Arc::from(name),
        source: source.name.clone(),
        copy,
        as_lines: catalogs.same_family
            && pairs.iter().all(Pair::is_plain)
            && rows.takes_all()
            && !rows.is_gated()
            && view.is_none(),
        copy_key_types,
        references,
        before,
        lookups: Arc::new(lookups),
        kept: Vec::new(),
        points: false,
        loosable,
        pointers,
        asides,
        pointing,
        after: mapping.after.iter().map(|name| Arc::from(name.text.as_str())).collect(),
        referenced: catalogs.target.is_referenced(&target.name),
        has_uniques: other_uniques(target, pairs, key).next().is_some(),
        uniques: other_uniques(target, pairs, key)
            .filter_map(|index| {
                let place = |name: &String| pairs.iter().position(|p| p.target.name == *name);
                index.columns.iter().map(place).collect()
            })
            .collect(),
        rule: rule_of(mapping),
        keyed: kept_unique(true),
        shares_keys: key.iter().all(|&i| pairs[i].is_plain()) && !kept_unique(false),
        unmapped: unmapped(mapping, source, target, pairs),
        columns: pairs
            .iter()
            .enumerate()
            .map(|(i, p)| ColumnPlan {
                feed: p.feed.clone(),
                from: p.from.clone(),
                nullable: p.target.nullable,
                json_form: json_form(catalogs.target_system.family(), &p.target.native),
                // Another value in place of a key would be another row's.
                rule: if key.contains(&i) {
                    Rule { policy: OnUnrepresentable::Error, ..p.rule.clone() }
                } else {
                    p.rule.clone()
                },
            })
            .collect(),
        read_types: reads
            .iter()
            .filter_map(|name| source.column(name).map(|c| c.data_type.clone()))
            .collect(),
        reads,
        view,
        call: None,
        target: Arc::new(TargetTable {
            id: NEXT_PLAN.fetch_add(1, Ordering::Relaxed),
            name: target.name.clone(),
            columns,
            key: key.to_vec(),
            suppress_unchanged: catalogs.two_way,
            partial,
        }),
        rows,
        values: values.clone(),
        on_truncate: mapping.on_truncate,
        compact: mapping.compact.unwrap_or(!target.triggers),
        snapshot: mapping.snapshot,
        schema_changes: mapping.schema_changes,
        same_family: catalogs.same_family,
    }
}

/// What the file says of columns and rows, as a text: to tell what the file changed from what a server did.
fn rule_of(mapping: &MappingConfig) -> String {
    let columns = format!("{:?}", mapping.columns);
    let (filter, tracks) = (&mapping.filter, &mapping.tracks);
    match (filter, &tracks[..]) {
        (None, []) => columns,
        _ => {
            format!("{columns} {filter:?} {tracks:?} {:?} {:?}", mapping.from_key, mapping.row_key)
        }
    }
}
