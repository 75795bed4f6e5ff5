//! Compiles one mapping of one table.

use std::borrow::Cow;
use std::sync::Arc;

use tidelock_core::{Finding, Severity, TableKind, TableName, TargetTable};

use super::build::{Parts, build};
use super::key::{copy_table, key_of, shared_key, unfilled};
use super::pairs::pair_columns;
use super::push::pushes;
use super::seen::{find, not_seen, refused, routines, usable};
use super::{Catalogs, EndPlan, Feed, MappingPlan, PlanOutcome, Unseen, call, exact, rows, view};
use crate::config::{FlowConfig, MappingConfig, OnTruncate, SnapshotMode};
use crate::mapping::computed::Origin;
use crate::mapping::lookups::TargetTables;
use crate::mapping::row;

pub(super) fn plan_table(
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
        if mapping.tracks.is_empty() {
            shared_key(&keyed, source_table, &columns, &key, &mut problems);
        }
        let system = catalogs.source_system;
        let mut rows =
            rows::plan_rows(mapping, &origin, target_table, &columns, system, &mut problems);
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

/// The tables of a flow's target, to be looked up.
pub(in crate::mapping) fn target_tables<'a>(
    flow: &'a FlowConfig,
    catalogs: &Catalogs<'a>,
) -> TargetTables<'a> {
    let family = catalogs.target_system.family();
    TargetTables::new(&flow.target, catalogs.target_schema, family, catalogs.target)
}
