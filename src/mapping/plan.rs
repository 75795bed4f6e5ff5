//! Compiling a flow's mappings against both catalogs: every fault that can be known before a row
//! moves is a [`Finding`] here, each with the place in the configuration it comes from.

mod pairs;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::{
    Column, Connector, CopyTable, DataType, Finding, Generated, Index, JsonForm, RowIdentity,
    SourceTable, Table, TableKind, TableName, TargetColumn, TargetTable,
};

use self::pairs::{Pair, json_form, no_column, pair_columns, unmapped};
use super::convert::Rule;
use crate::config::{
    FlowConfig, MappingConfig, OnDelete, OnTruncate, OnUnrepresentable, SchemaChanges,
    SnapshotMode, TablePattern, TableRef,
};

/// One source table to one target table, compiled.
#[derive(Debug)]
pub struct MappingPlan {
    /// The mapping's name; for a wildcard, the source table's.
    pub name: Arc<str>,
    /// The source table.
    pub source: TableName,
    /// The source column of each target column.
    pub sources: Vec<String>,
    /// How values come into each target column.
    pub columns: Vec<ColumnPlan>,
    /// The target table.
    pub target: Arc<TargetTable>,
    /// What a delete becomes.
    pub on_delete: OnDelete,
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
    /// The source type of each target column.
    pub source_types: Vec<DataType>,
    /// How the source table is read in pieces; `None` if it has no key for it.
    pub copy: Option<CopyTable>,
    /// Whether every pair of columns is of one type that source and target write and read alike, so
    /// that a copy may hand the rows on as text.
    pub as_lines: bool,
    /// The types of the key that pieces are cut by.
    pub copy_key_types: Vec<DataType>,
    /// The tables that the target's foreign keys point to.
    pub references: Vec<TableName>,
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
    /// Source columns of a mapping of all same-named columns that the target does not have.
    pub unmapped: Vec<Column>,
}

/// How values come into a target column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnPlan {
    /// Whether it takes NULL.
    pub nullable: bool,
    /// How the server keeps JSON here.
    pub json_form: JsonForm,
    /// What the file asks for beyond exactness.
    pub rule: Rule,
}

impl MappingPlan {
    /// What the source must deliver for this mapping.
    pub fn source_table(&self) -> SourceTable {
        SourceTable {
            name: self.source.clone(),
            key_columns: self.target.key.iter().map(|&i| self.sources[i].clone()).collect(),
            columns: self.sources.clone(),
            shape: String::new(),
            joins: false,
            optional: false,
        }
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
            referenced: tables.iter().flat_map(|t| &t.references).collect(),
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
    /// The schema that a source name without one means.
    pub source_schema: &'a str,
    /// The schema that a target name without one means.
    pub target_schema: &'a str,
    /// The target itself, for the words that mend its tables.
    pub target_system: &'a dyn Connector,
    /// Whether source and target are the same kind of server.
    pub same_family: bool,
    /// Whether the target is read by a flow of this pipeline too.
    pub two_way: bool,
}

/// What makes a target table that is not there.
pub const NEW_TABLE: &str =
    "let `tidelock plan` print its CREATE TABLE (`tidelock plan --create` runs it)";

static NEXT_PLAN: AtomicU64 = AtomicU64::new(1);

/// Compiles the mappings of a flow. A mapping with a problem is left out of
/// [`PlanOutcome::mappings`] and stands in [`PlanOutcome::findings`].
pub fn plan_flow(flow: &FlowConfig, catalogs: &Catalogs<'_>) -> PlanOutcome {
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
                plan_table(mapping, &name, &source, &target, catalogs, &mut outcome);
            }
            (None, None) => plan_wildcard(mapping, &named, catalogs, &mut outcome),
            _ => outcome.findings.push(Finding::problem(format!(
                "mapping {}: `from` and `to` must both name a table or both end in `*`",
                mapping.name
            ))),
        }
    }
    refuse_shared_targets(&mut outcome);
    outcome
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

fn plan_wildcard(
    mapping: &MappingConfig,
    named: &[TableName],
    catalogs: &Catalogs<'_>,
    outcome: &mut PlanOutcome,
) {
    let source_schema = schema_of(&mapping.from, catalogs.source_schema);
    let target_schema = schema_of(&mapping.to, catalogs.target_schema);
    let mut taken = 0;
    for table in matching(mapping, named, catalogs) {
        let target = TableName::new(target_schema, &table.name.name);
        if !has_key(table) {
            outcome.findings.push(
                Finding::warning(format!(
                    "mapping {}: {} has no usable key and is left out",
                    mapping.name, table.name
                ))
                .hint("give it a primary key, or exclude it by name to silence this"),
            );
            continue;
        }
        taken += 1;
        plan_table(mapping, &table.name.name, &table.name, &target, catalogs, outcome);
    }
    if taken == 0 {
        let message = format!("mapping {}: no table matches", mapping.name);
        if catalogs.source.tables().iter().all(|t| t.name.schema != source_schema) {
            outcome.unseen.push(Unseen {
                mapping: mapping.name.clone(),
                target: false,
                schema: source_schema.to_owned(),
                table: None,
                message: message.clone(),
            });
        }
        outcome.findings.push(Finding::warning(message));
    }
}

/// The tables that a wildcard takes, if they have a key.
pub(super) fn matching<'a>(
    mapping: &MappingConfig,
    named: &[TableName],
    catalogs: &Catalogs<'a>,
) -> Vec<&'a Table> {
    let source_schema = schema_of(&mapping.from, catalogs.source_schema);
    let takes = |table: &&Table| {
        table.name.schema == source_schema
            && matches!(table.kind, TableKind::Table | TableKind::Partitioned)
            && !mapping.exclude.iter().any(|pattern| like(pattern, &table.name.name))
            && !named.contains(&table.name)
    };
    catalogs.source.tables().iter().filter(takes).collect()
}

/// Whether a table has an index that could be a mapping's key.
pub(super) fn has_key(table: &Table) -> bool {
    table.unique_indexes.iter().any(|i| i.immediate && i.not_null)
}

/// SQL `LIKE` with `%` and `_`, matched over characters.
pub fn like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '_' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, at)) => {
                    retry = Some((after, at + 1));
                    p = after;
                    t = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '%')
}

fn plan_table(
    mapping: &MappingConfig,
    name: &str,
    source: &TableName,
    target: &TableName,
    catalogs: &Catalogs<'_>,
    outcome: &mut PlanOutcome,
) {
    let mut problems = Vec::new();
    let source_table = find(catalogs.source, source, "source", &mut problems);
    let target_table = find(catalogs.target, target, "target", &mut problems);
    for (missing, table, is_target) in
        [(source_table.is_none(), source, false), (target_table.is_none(), target, true)]
    {
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
        problems.extend(usable(source_table, "source"));
        problems.extend(usable(target_table, "target"));
        let columns = pair_columns(mapping, source_table, target_table, &mut problems);
        let key = key_of(mapping, source_table, target_table, &columns, catalogs, &mut problems);
        unfilled(target_table, &columns, &mut problems);
        let copy = copy_table(source_table, &columns, &key);
        if copy.is_none() && mapping.snapshot == SnapshotMode::Initial {
            problems.push(
                Finding::problem(format!(
                    "{} has no key by which its rows could be copied in pieces",
                    source_table.name
                ))
                .hint("give it a primary key that its replica identity holds, or copy the rows yourself and set snapshot = \"never\""),
            );
        }
        if mapping.snapshot == SnapshotMode::Initial
            && target_table.references.contains(&target_table.name)
        {
            outcome.findings.push(
                Finding::warning(format!(
                    "mapping {name}: {} has a foreign key to itself",
                    target_table.name
                ))
                .hint("a first copy of more than one piece may meet a row before its parent; drop that constraint until the copy has ended"),
            );
        }
        if problems.is_empty() {
            outcome.mappings.push(Arc::new(build(
                mapping,
                name,
                source_table,
                target_table,
                &columns,
                &key,
                copy,
                catalogs,
            )));
        }
    }
    let prefixed = |mut finding: Finding| {
        finding.message = format!("mapping {name}: {}", finding.message);
        finding
    };
    let problems: Vec<Finding> = problems.into_iter().map(prefixed).collect();
    if let Some(first) = problems.first() {
        outcome.failed.push((name.to_owned(), first.clone()));
    }
    outcome.findings.extend(problems);
}

fn find<'a>(
    catalog: &Catalog<'a>,
    name: &TableName,
    side: &str,
    problems: &mut Vec<Finding>,
) -> Option<&'a Table> {
    let found = catalog.get(name);
    if found.is_none() {
        let near = catalog
            .tables()
            .iter()
            .map(|t| (strsim::jaro_winkler(&t.name.to_string(), &name.to_string()), t))
            .filter(|(score, _)| *score > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let make = if side == "target" { NEW_TABLE } else { "create it" };
        let hint = match near {
            None => format!("{make}, mend the name, or grant our role the right to see it"),
            Some((_, t)) if side == "target" => format!("did you mean {}? Or {make}", t.name),
            Some((_, t)) => format!("did you mean {}?", t.name),
        };
        problems.push(Finding::problem(not_seen(side, name)).hint(hint));
    }
    found
}

fn not_seen(side: &str, name: &TableName) -> String {
    format!("the {side} table {name} does not exist or may not be seen")
}

/// Why a table cannot be followed or written.
pub(super) fn usable(table: &Table, side: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = table
        .refusals
        .iter()
        .map(|why| {
            Finding::problem(format!("the {side} table {} cannot be used: {why}", table.name))
        })
        .collect();
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

fn key_of(
    mapping: &MappingConfig,
    source: &Table,
    target: &Table,
    pairs: &[Pair<'_>],
    catalogs: &Catalogs<'_>,
    problems: &mut Vec<Finding>,
) -> Vec<usize> {
    let key = match (&mapping.key, target.primary_key()) {
        (Some(key), _) => key.clone(),
        (None, Some(key)) => key.to_vec(),
        (None, None) => {
            problems.push(
                Finding::problem(format!("the target table {} has no primary key", target.name))
                    .hint(format!(
                        "name a unique, immediate, NOT NULL index by `key`{}",
                        usable_keys(target).map_or(String::new(), |keys| format!(": {keys}"))
                    )),
            );
            return Vec::new();
        }
    };
    let known = |column: &&String| target.column(column).is_some();
    for column in key.iter().filter(|c| !known(c)) {
        let mut finding = no_column(target, column, "target");
        finding.message.push_str(", which `key` names");
        problems.push(finding);
    }
    if key.iter().all(|c| known(&c)) && target.key_index(&key).is_none() {
        let finding = Finding::problem(format!(
            "key ({}) is no unique, immediate, NOT NULL index of {}",
            key.join(", "),
            target.name
        ));
        let finding = catalogs.target_system.mend_key(target, &key, finding);
        problems.push(match usable_keys(target) {
            Some(keys) => finding.also(format!("or choose a key that is unique already: {keys}")),
            None => finding,
        });
    }
    let mut indexes = Vec::new();
    for column in key.iter().filter(known) {
        match pairs.iter().position(|p| &p.target.name == column) {
            Some(index) => indexes.push(index),
            None => problems.push(Finding::problem(format!(
                "the key column {}.{column} is not mapped",
                target.name
            ))),
        }
    }
    if let RowIdentity::Columns(identity) = &source.identity {
        for &index in &indexes {
            let feeds = &pairs[index].source.name;
            if !identity.contains(feeds) {
                problems.push(
                    Finding::problem(format!(
                        "{}.{feeds} feeds the key, but the source's log does not carry its old value",
                        source.name
                    ))
                    .hint("set REPLICA IDENTITY FULL (PostgreSQL) or binlog_row_image = FULL (MySQL, MariaDB)"),
                );
            }
        }
    }
    indexes
}

/// The keys that a table has, as a person would write them.
fn usable_keys(table: &Table) -> Option<String> {
    let keys: Vec<String> = table
        .unique_indexes
        .iter()
        .filter(|i| i.immediate && i.not_null)
        .map(|i| format!("({})", i.columns.join(", ")))
        .collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

/// Target columns that must have a value, get none from us and have no default.
fn unfilled(target: &Table, pairs: &[Pair<'_>], problems: &mut Vec<Finding>) {
    for column in &target.columns {
        let filled = pairs.iter().any(|p| p.target.name == column.name)
            || column.nullable
            || column.has_default
            || column.generated != Generated::No;
        if !filled {
            problems.push(
                Finding::problem(format!(
                    "{}.{} is NOT NULL without a default and nothing is mapped to it",
                    target.name, column.name
                ))
                .hint("map a column to it or give it a default"),
            );
        }
    }
}

/// How a table is read in pieces: by a unique index whose columns the log tells the old values of; by
/// the mapping's own key where that is one.
fn copy_table(source: &Table, pairs: &[Pair<'_>], key: &[usize]) -> Option<CopyTable> {
    let told = |index: &Index| match &source.identity {
        RowIdentity::Full => true,
        RowIdentity::Columns(columns) => index.columns.iter().all(|c| columns.contains(c)),
        RowIdentity::Nothing => false,
    };
    let usable = |index: &&Index| index.immediate && index.not_null && told(index);
    let feeds: Vec<&String> =
        key.iter().filter_map(|&i| Some(&pairs.get(i)?.source.name)).collect();
    let own = |index: &&Index| {
        index.columns.len() == feeds.len() && index.columns.iter().all(|c| feeds.contains(&c))
    };
    let indexes = || source.unique_indexes.iter().filter(usable);
    let index = indexes().find(own).or_else(|| indexes().next())?;
    let mut columns: Vec<String> = pairs.iter().map(|p| p.source.name.clone()).collect();
    columns.extend(index.columns.iter().cloned());
    let mut seen = HashSet::new();
    columns.retain(|c| seen.insert(c.clone()));
    Some(CopyTable { name: source.name.clone(), columns, key: index.columns.clone(), filter: None })
}

/// Mappings of two flows in opposite directions that write one and the same column both ways: indexes
/// into `ours` and `theirs`.
pub fn mirrored(ours: &[Arc<MappingPlan>], theirs: &[Arc<MappingPlan>]) -> Vec<(usize, usize)> {
    let pairs = |p: &MappingPlan| -> Vec<(String, String)> {
        p.sources.iter().cloned().zip(p.target.columns.iter().map(|c| c.name.clone())).collect()
    };
    let mut by_target: HashMap<&TableName, Vec<usize>> = HashMap::new();
    for (j, their) in theirs.iter().enumerate() {
        by_target.entry(&their.target.name).or_default().push(j);
    }
    let mut found = Vec::new();
    for (i, our) in ours.iter().enumerate() {
        for &j in by_target.get(&our.source).into_iter().flatten() {
            let their = &theirs[j];
            if our.target.name != their.source {
                continue;
            }
            let theirs = pairs(their);
            if pairs(our).into_iter().any(|(a, b)| theirs.contains(&(b, a))) {
                found.push((i, j));
            }
        }
    }
    found
}

/// The order in which tables are copied: those that foreign keys point to come first; else as in the
/// file. In a cycle the file's order decides.
pub fn parents_first(plans: &[Arc<MappingPlan>]) -> Vec<Arc<MappingPlan>> {
    fn visit(
        plan: &Arc<MappingPlan>,
        plans: &[Arc<MappingPlan>],
        seen: &mut HashSet<Arc<str>>,
        order: &mut Vec<Arc<MappingPlan>>,
    ) {
        if !seen.insert(plan.name.clone()) {
            return;
        }
        if !plan.references.is_empty() {
            for parent in plans.iter().filter(|p| plan.references.contains(&p.target.name)) {
                visit(parent, plans, seen, order);
            }
        }
        order.push(plan.clone());
    }
    if plans.iter().all(|plan| plan.references.is_empty()) {
        return plans.to_vec();
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    for plan in plans {
        visit(plan, plans, &mut seen, &mut order);
    }
    order
}

/// The unique indexes that may refuse a row at once although its key is free.
fn other_uniques<'a>(
    target: &'a Table,
    pairs: &'a [Pair<'_>],
    key: &'a [usize],
) -> impl Iterator<Item = &'a Index> {
    // An index that holds the whole key refuses nothing that the key does not.
    let holds_key = move |index: &Index| {
        key.iter().all(|&i| pairs.get(i).is_some_and(|p| index.columns.contains(&p.target.name)))
    };
    target.unique_indexes.iter().filter(move |index| index.immediate && !holds_key(index))
}

#[expect(clippy::too_many_arguments, reason = "the parts of a plan, each found by its own step")]
fn build(
    mapping: &MappingConfig,
    name: &str,
    source: &Table,
    target: &Table,
    pairs: &[Pair<'_>],
    key: &[usize],
    copy: Option<CopyTable>,
    catalogs: &Catalogs<'_>,
) -> MappingPlan {
    let copy_key_types = copy
        .iter()
        .flat_map(|copy| &copy.key)
        .filter_map(|name| source.column(name).map(|c| c.data_type.clone()))
        .collect();
    let columns = pairs
        .iter()
        .map(|p| TargetColumn {
            name: p.target.name.clone(),
            data_type: p.target.data_type.clone(),
            native: p.target.native.clone(),
            identity_always: p.target.generated == Generated::IdentityAlways,
        })
        .collect();
    MappingPlan {
        name: Arc::from(name),
        source: source.name.clone(),
        source_types: pairs.iter().map(|p| p.source.data_type.clone()).collect(),
        copy,
        as_lines: catalogs.same_family && pairs.iter().all(Pair::is_plain),
        copy_key_types,
        references: target.references.clone(),
        referenced: catalogs.target.is_referenced(&target.name),
        has_uniques: other_uniques(target, pairs, key).next().is_some(),
        uniques: other_uniques(target, pairs, key)
            .filter_map(|index| {
                let place = |name: &String| pairs.iter().position(|p| p.target.name == *name);
                index.columns.iter().map(place).collect()
            })
            .collect(),
        rule: format!("{:?}", mapping.columns),
        keyed: source.unique_indexes.iter().any(|index| {
            let feeds = |name: &String| key.iter().any(|&i| pairs[i].source.name == *name);
            index.immediate && index.not_null && index.columns.iter().all(feeds)
        }),
        unmapped: unmapped(mapping, source, target, pairs),
        sources: pairs.iter().map(|p| p.source.name.clone()).collect(),
        columns: pairs
            .iter()
            .enumerate()
            .map(|(i, p)| ColumnPlan {
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
        target: Arc::new(TargetTable {
            id: NEXT_PLAN.fetch_add(1, Ordering::Relaxed),
            name: target.name.clone(),
            columns,
            key: key.to_vec(),
            suppress_unchanged: catalogs.two_way,
            partial: false,
        }),
        on_delete: mapping.on_delete,
        on_truncate: mapping.on_truncate,
        compact: mapping.compact.unwrap_or(!target.triggers),
        snapshot: mapping.snapshot,
        schema_changes: mapping.schema_changes,
        same_family: catalogs.same_family,
    }
}

/// Two sources into one target table would overwrite each other's rows by chance of order.
fn refuse_shared_targets(outcome: &mut PlanOutcome) {
    let mut by_target: HashMap<TableName, Vec<Arc<str>>> = HashMap::new();
    for plan in &outcome.mappings {
        by_target.entry(plan.target.name.clone()).or_default().push(plan.name.clone());
    }
    for (target, names) in by_target {
        if names.len() > 1 {
            outcome.findings.push(Finding::problem(format!(
                "mappings {} all write to {target}",
                names.join(", ")
            )));
            outcome.mappings.retain(|m| m.target.name != target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn like_matches_as_sql_does() {
        for (pattern, text, matches) in [
            ("tmp_%", "tmp_x", true),
            ("tmp_%", "tmp", false),
            ("audit_log", "audit_log", true),
            ("%", "", true),
            ("%a%b", "xxaybyb", true),
            ("%a%b", "xxaybyc", false),
            ("_", "ä", true),
        ] {
            assert_eq!(like(pattern, text), matches, "{pattern} over {text}");
        }
    }
}
