//! The target tables that a flow's mappings lack, as the target would declare them. Pure but for what the
//! target's dialect remembers.
//!
//! A table is made of what its mapping takes: the listed columns with the types of the source's, the
//! same-named ones where the mapping takes them, and as primary key the mapping's `key`, else the source's.
//! What comes of it is proved before it is shown: the flow is compiled once more with the new tables in
//! the target's catalog, and a table whose mapping could not run is a finding instead.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use tidelock_core::{
    Column, Creation, Dialect, Finding, Generated, NewColumn, NewTable, Note, Table, TableName,
    Uncarried,
};

use super::computed::{Origin, Wanted as Wanting};
use super::plan::{
    Catalog, Catalogs, exact, has_key, matching, plan_flow, schema_of, target_tables, usable,
    with_dictionaries,
};
use crate::config::{FlowConfig, MappedColumn, MappingConfig, TablePattern};

/// A table to be made for a mapping.
#[derive(Debug, Clone)]
pub struct PlannedTable {
    /// The mapping; for a wildcard, the source table's name.
    pub mapping: String,
    /// The source table.
    pub source: TableName,
    /// How the target makes it, with what is to be known about its columns.
    pub creation: Creation,
}

/// A mapped column that a table of the target lacks.
#[derive(Debug, Clone)]
pub struct LackingColumn {
    /// The mapping.
    pub mapping: String,
    /// The target table.
    pub table: TableName,
    /// The column.
    pub column: String,
    /// The statements that would add it.
    pub statements: Vec<String>,
    /// What is to be known about it.
    pub notes: Vec<Note>,
}

/// What a flow's target lacks.
#[derive(Debug, Default)]
pub struct TablePlan {
    /// The tables to be made, those that the source's foreign keys point to first.
    pub tables: Vec<PlannedTable>,
    /// Columns that existing tables lack: only told.
    pub lacking: Vec<LackingColumn>,
    /// What cannot be made, and the mapping it belongs to.
    pub findings: Vec<(String, Finding)>,
    /// Source tables that were not found, and the mapping.
    pub missing_sources: Vec<(String, TableName)>,
    /// The mappings that were looked at: name in the configuration, and their own.
    pub taken: Vec<(String, String)>,
}

/// A mapping's source table and its target's name.
struct Wanted<'a> {
    mapping: &'a MappingConfig,
    name: String,
    source: &'a Table,
    target: TableName,
}

/// Plans the tables that the target lacks, of the mappings that `chosen` takes by the mapping's name in the
/// configuration and its own.
pub fn plan_tables(
    flow: &FlowConfig,
    catalogs: &Catalogs<'_>,
    dialect: &mut Box<dyn Dialect>,
    chosen: &dyn Fn(&str, &str) -> bool,
) -> TablePlan {
    let mut refused: Vec<(String, Finding)> = Vec::new();
    // What one table makes for others (a schema, an enum) must not go with a table that is refused.
    loop {
        let mut trial = dialect.boxed();
        let kept = |configured: &str, name: &str| {
            chosen(configured, name) && !refused.iter().any(|(mapping, _)| mapping == name)
        };
        let mut plan = attempt(flow, catalogs, &mut *trial, &kept);
        let failed = prove(flow, catalogs, &plan);
        if failed.is_empty() {
            plan.findings.append(&mut refused);
            *dialect = trial;
            return plan;
        }
        refused.extend(failed);
    }
}

/// What expressions may use beside the source's table.
#[derive(Clone, Copy)]
struct Outside<'a> {
    flow: &'a FlowConfig,
    catalogs: &'a Catalogs<'a>,
}

fn attempt(
    flow: &FlowConfig,
    catalogs: &Catalogs<'_>,
    dialect: &mut dyn Dialect,
    chosen: &dyn Fn(&str, &str) -> bool,
) -> TablePlan {
    let mut plan = TablePlan::default();
    let (known, _) = with_dictionaries(flow, catalogs);
    let outside = Outside { flow: &known, catalogs };
    let wanted = wanted(flow, catalogs, chosen, &mut plan);
    let mut targets: HashMap<TableName, String> = HashMap::new();
    for one in parents_first(&wanted) {
        if let Some(table) = catalogs.target.get(&one.target) {
            lacking(one, table, catalogs, outside, dialect, &mut plan);
            continue;
        }
        if let Some(other) = targets.insert(one.target.clone(), one.name.clone()) {
            let finding =
                Finding::problem(format!("{} is what mapping {other} writes", one.target))
                    .hint("lead one of the mappings to another table");
            plan.findings.push((one.name.clone(), finding));
            continue;
        }
        let found = match table_of(one, catalogs, outside, dialect) {
            Ok((planned, left_out)) => {
                plan.tables.push(planned);
                left_out
            }
            Err(findings) => findings,
        };
        plan.findings.extend(found.into_iter().map(|f| (one.name.clone(), f)));
    }
    plan
}

/// Each chosen mapping with its source table; a wildcard's tables one by one.
fn wanted<'a>(
    flow: &'a FlowConfig,
    catalogs: &Catalogs<'a>,
    chosen: &dyn Fn(&str, &str) -> bool,
    plan: &mut TablePlan,
) -> Vec<Wanted<'a>> {
    let mut wanted = Vec::new();
    let named: Vec<TableName> =
        flow.mappings.iter().filter_map(|m| exact(&m.from, catalogs.source_schema)).collect();
    for mapping in &flow.mappings {
        if let (Some(source), Some(target)) = (
            exact(&mapping.from, catalogs.source_schema),
            exact(&mapping.to, catalogs.target_schema),
        ) {
            if !chosen(&mapping.name, &mapping.name) {
                continue;
            }
            let name = mapping.name.clone();
            plan.taken.push((name.clone(), name.clone()));
            match catalogs.source.get(&source) {
                Some(source) => wanted.push(Wanted { mapping, name, source, target }),
                None => plan.missing_sources.push((name, source)),
            }
            continue;
        }
        let schema = schema_of(&mapping.to, catalogs.target_schema);
        let sources = matching(mapping, &named, catalogs);
        if sources.is_empty() && chosen(&mapping.name, &mapping.name) {
            plan.taken.push((mapping.name.clone(), mapping.name.clone()));
            plan.findings.push((mapping.name.clone(), Finding::warning("no table matches")));
        }
        for source in sources {
            let name = source.name.name.clone();
            let target = TableName::new(schema, &name);
            let there = catalogs.target.get(&target).is_some();
            if !chosen(&mapping.name, &name) {
                continue;
            }
            plan.taken.push((mapping.name.clone(), name.clone()));
            if !has_key(source) && there {
                continue;
            }
            if has_key(source) {
                wanted.push(Wanted { mapping, name, source, target });
                continue;
            }
            let finding =
                Finding::warning(format!("{} has no usable key and is left out", source.name))
                    .hint("give it a primary key, or exclude it by name to silence this");
            plan.findings.push((name, finding));
        }
    }
    wanted
}

/// Those that foreign keys of the source point to come first; else as in the file. In a cycle the file's
/// order decides.
fn parents_first<'a>(wanted: &'a [Wanted<'a>]) -> Vec<&'a Wanted<'a>> {
    fn visit<'a>(
        at: usize,
        wanted: &'a [Wanted<'a>],
        seen: &mut HashSet<usize>,
        order: &mut Vec<&'a Wanted<'a>>,
    ) {
        if !seen.insert(at) {
            return;
        }
        for (parent, _) in wanted.iter().enumerate().filter(|(_, other)| {
            wanted[at].source.references.iter().any(|r| r.table == other.source.name)
        }) {
            visit(parent, wanted, seen, order);
        }
        order.push(&wanted[at]);
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    for at in 0..wanted.len() {
        visit(at, wanted, &mut seen, &mut order);
    }
    order
}

/// A column that a mapping writes: name at the target, the source's column or one of an expression's type, and
/// whether the mapping names it.
type Mapped<'a> = (String, Cow<'a, Column>, bool);

/// The column that the values of an expression would come from.
fn expressed(
    listed: &MappedColumn,
    wanted: &Wanted<'_>,
    outside: Outside<'_>,
) -> Result<Column, Finding> {
    if let Some(name) = listed.plain() {
        return Err(Finding::problem(format!(
            "the source table {} has no column {name}",
            wanted.source.name
        ))
        .place(listed.value.place.show()));
    }
    let target_tables = target_tables(outside.flow, outside.catalogs);
    let origin = Origin::new(wanted.source, &outside.flow.values).with(&target_tables);
    let what = format!("column {}", listed.target);
    let expr = origin.compile(&listed.value, Wanting::Column, &what)?;
    Ok(Column {
        name: String::new(),
        data_type: expr.data_type().clone(),
        // No server's.
        native: String::new(),
        nullable: expr.nullable(),
        has_default: false,
        generated: Generated::No,
        default: None,
        collation: None,
        logged: true,
    })
}

/// The columns that a mapping writes.
fn columns<'a>(
    wanted: &Wanted<'a>,
    outside: Outside<'_>,
    problems: &mut Vec<Finding>,
) -> Vec<Mapped<'a>> {
    let mut columns: Vec<Mapped<'a>> = Vec::new();
    let listed = wanted.mapping.columns.as_ref();
    for listed in listed.iter().flat_map(|c| &c.columns) {
        match listed.plain().and_then(|name| wanted.source.column(&name)) {
            Some(column) => columns.push((listed.target.clone(), Cow::Borrowed(column), true)),
            None => match expressed(listed, wanted, outside) {
                Ok(column) => columns.push((listed.target.clone(), Cow::Owned(column), true)),
                Err(finding) => problems.push(finding),
            },
        }
    }
    if listed.is_none_or(|c| c.star.is_some()) {
        for column in &wanted.source.columns {
            if !columns.iter().any(|(name, _, _)| *name == column.name) {
                columns.push((column.name.clone(), Cow::Borrowed(column), false));
            }
        }
        // In the source's order, whatever the file lists first.
        let place =
            |column: &Column| wanted.source.columns.iter().position(|c| c.name == column.name);
        columns.sort_by_key(|(_, column, _)| place(column));
    }
    columns
}

/// The primary key: the mapping's own, else the source's, else its first index that could be one.
fn key(wanted: &Wanted<'_>, columns: &[Mapped<'_>]) -> Option<Vec<String>> {
    if let Some(key) = &wanted.mapping.key {
        return Some(key.clone());
    }
    wanted.source.unique_indexes.iter().filter(|i| i.immediate && i.not_null).find_map(|index| {
        index
            .columns
            .iter()
            .map(|c| {
                columns.iter().find(|(_, from, _)| from.name == *c).map(|(name, _, _)| name.clone())
            })
            .collect()
    })
}

/// The table of a mapping, and what had to be left out of it.
fn table_of(
    wanted: &Wanted<'_>,
    catalogs: &Catalogs<'_>,
    outside: Outside<'_>,
    dialect: &mut dyn Dialect,
) -> Result<(PlannedTable, Vec<Finding>), Vec<Finding>> {
    let mut problems = usable(wanted.source, "source");
    let mut columns = columns(wanted, outside, &mut problems);
    let Some(key) = key(wanted, &columns) else {
        problems.push(
            Finding::problem(format!(
                "{} has no usable key among the mapped columns",
                wanted.source.name
            ))
            .hint("give it a primary key, map the columns of one, or name target columns by `key`"),
        );
        return Err(problems);
    };
    for name in key.iter().filter(|k| !columns.iter().any(|(name, _, _)| name == *k)) {
        problems.push(
            Finding::problem(format!("the key column {}.{name} is not mapped", wanted.target))
                .hint("add it to [mappings.columns], or name another key"),
        );
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let (mut notes, mut left_out) = (Vec::new(), Vec::new());
    let needed = |name: &str, listed: bool| listed || key.iter().any(|k| k == name);
    columns.retain(|(name, from, listed)| {
        let kept = from.logged || needed(name, *listed);
        if !kept {
            notes.push(Note {
                column: name.clone(),
                text: "left out: the source computes it and its log does not carry it".to_owned(),
            });
        }
        kept
    });
    loop {
        let table = NewTable {
            name: wanted.target.clone(),
            columns: columns
                .iter()
                .map(|(name, from, _)| NewColumn {
                    name: name.clone(),
                    from: from.clone().into_owned(),
                })
                .collect(),
            key: key.clone(),
            same_family: catalogs.same_family,
        };
        let refused = match dialect.create_table(&table) {
            Ok(mut creation) => {
                notes.append(&mut creation.notes);
                for (name, from, _) in &columns {
                    let made = creation.table.column(name);
                    let told = of_source(from, made, key.contains(name));
                    notes.extend(told.into_iter().map(|text| Note { column: name.clone(), text }));
                }
                let place =
                    |note: &Note| creation.table.columns.iter().position(|c| c.name == note.column);
                notes.sort_by_key(place);
                creation.notes = notes;
                let (mapping, source) = (wanted.name.clone(), wanted.source.name.clone());
                return Ok((PlannedTable { mapping, source, creation }, left_out));
            }
            Err(refused) => refused,
        };
        let fatal = |one: &Uncarried| match &one.column {
            None => true,
            Some(name) => {
                let listed = columns.iter().any(|(n, _, listed)| n == name && *listed);
                needed(name, listed) || columns.len() == 1
            }
        };
        if refused.iter().any(fatal) {
            return Err(refused.iter().map(|one| uncarried(one, wanted, false)).collect());
        }
        for one in &refused {
            columns.retain(|(name, _, _)| Some(name) != one.column.as_ref());
            left_out.push(uncarried(one, wanted, true));
            notes.extend(one.column.iter().map(|column| Note {
                column: column.clone(),
                text: format!("left out: {}", one.why),
            }));
        }
    }
}

/// What the source knows of a column and the new table does not.
fn of_source(from: &Column, made: Option<&Column>, in_key: bool) -> Vec<String> {
    let mut told = Vec::new();
    match from.generated {
        Generated::No => {
            let carried =
                made.and_then(|m| m.default.as_ref()).is_some_and(|d| d.literal.is_some());
            if let Some(default) = from.default.as_ref().filter(|_| !carried) {
                told.push(format!("default {} not carried", default.native));
            }
        }
        Generated::Always => told.push("computed at the source: plain here".to_owned()),
        Generated::IdentityAlways | Generated::IdentityByDefault => {
            told.push("numbered by the source: plain here".to_owned());
        }
    }
    if in_key && from.nullable {
        told.push("allows NULL at the source; in the key, a NULL stops the mapping".to_owned());
    }
    told
}

fn uncarried(one: &Uncarried, wanted: &Wanted<'_>, left_out: bool) -> Finding {
    let Some(column) = &one.column else {
        return Finding::problem(format!("{} cannot be made: {}", wanted.target, one.why))
            .hint("give `to` another table, or exclude this one");
    };
    let finding = Finding::problem(format!("{}.{column}: {}", wanted.target, one.why));
    if left_out {
        finding.hint("the table is planned without it; to silence this, list the columns in [mappings.columns]")
    } else {
        finding.hint("leave the column out with [mappings.columns], choose another key, or make the table by hand")
    }
}

/// Mapped columns that a table which is there lacks: those that the mapping lists, and all of a wildcard's.
fn lacking(
    wanted: &Wanted<'_>,
    table: &Table,
    catalogs: &Catalogs<'_>,
    outside: Outside<'_>,
    dialect: &mut dyn Dialect,
    plan: &mut TablePlan,
) {
    let wildcard = wanted.mapping.from.table == TablePattern::All;
    for (name, from, listed) in columns(wanted, outside, &mut Vec::new()) {
        if !from.logged || !(listed || wildcard) || table.column(&name).is_some() {
            continue;
        }
        let column = NewColumn { name: name.clone(), from: from.into_owned() };
        // What cannot be carried is `check`'s to tell, where it is asked for.
        if let Ok((statements, notes)) =
            dialect.add_column(&wanted.target, &column, catalogs.same_family)
        {
            plan.lacking.push(LackingColumn {
                mapping: wanted.name.clone(),
                table: wanted.target.clone(),
                column: name,
                statements,
                notes,
            });
        }
    }
}

/// Compiles the flow as if the tables were there; tells the mappings that could not run with them.
fn prove(flow: &FlowConfig, catalogs: &Catalogs<'_>, plan: &TablePlan) -> Vec<(String, Finding)> {
    if plan.tables.is_empty() {
        return Vec::new();
    }
    let mut target = catalogs.target.tables().to_vec();
    target.extend(plan.tables.iter().map(|t| t.creation.table.clone()));
    let target = Catalog::new(&target);
    let outcome = plan_flow(flow, &Catalogs { target: &target, ..*catalogs });
    let planned = |name: &String| plan.tables.iter().any(|t| t.mapping == *name);
    outcome
        .failed
        .into_iter()
        .filter(|(name, _)| planned(name))
        .map(|(name, mut finding)| {
            if let Some(rest) = finding.message.strip_prefix(&format!("mapping {name}: ")) {
                finding.message = rest.to_owned();
            }
            (name, finding)
        })
        .collect()
}
