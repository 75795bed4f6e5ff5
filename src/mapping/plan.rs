//! Compiling a flow's mappings against both catalogs: every fault that can be known before a row
//! moves is a [`Finding`] here, each with the place in the configuration it comes from.

mod aside;
mod build;
mod call;
mod catalog;
mod foreign;
mod key;
mod mapping;
mod order;
mod pairs;
mod push;
mod rows;
mod seen;
mod shared;
mod table;
mod view;
mod wildcard;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidelock_core::{
    Column, CopyTable, DataType, Finding, JsonForm, LookupTarget, TableName, TargetTable,
};

pub use self::aside::Aside;
pub(super) use self::build::target_column;
pub use self::call::CallPlan;
pub use self::catalog::{Catalog, Catalogs};
pub use self::foreign::Pointer;
pub use self::order::{mirrored, parents_first};
pub(super) use self::pairs::json_form;
pub(super) use self::pairs::no_column;
pub use self::rows::{EndPlan, PushedBy, RowPlan};
pub(super) use self::seen::usable;
use self::table::plan_table;
pub(super) use self::table::target_tables;
pub use self::view::{TrackedPlan, ViewPlan, WayBy, WayPlan};
pub use self::wildcard::like;
pub(super) use self::wildcard::{has_key, matching};
use super::convert::Rule;
use super::dictionaries::{self, KeptPlan};
use super::lookups::LookupPlans;
use crate::config::{
    FlowConfig, OnTruncate, Placed, SchemaChanges, SnapshotMode, TablePattern, TableRef, Values,
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
    /// By what it is found out whether the target has a row at a key that a row moves to: one that has ended and stays there. Only where
    /// rows stay and the source keeps the key unique, so that no other row of the source can be meant.
    pub kept_at: Option<Arc<LookupTarget>>,
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
    /// Those of them that its value tells: two rows that differ in these never come out the same, as far as can be seen.
    pub tells: Vec<String>,
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
    /// The source columns that its value tells: two rows that differ in these never come out the same.
    pub fn tells(&self) -> &[String] {
        match self {
            Feed::Column(name) => std::slice::from_ref(name),
            Feed::Computed(computed) => &computed.tells,
        }
    }

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
