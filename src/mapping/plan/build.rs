//! Puts a plan together from its parts.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidelock_core::{
    Column, CopyTable, Generated, LookupTarget, Table, TableName, TargetColumn, TargetTable,
};

use super::aside::asides;
use super::foreign::{loosable, pointers, pointing};
use super::key::{is_kept_unique, may_be_shared, other_uniques};
use super::pairs::{Pair, json_form, unmapped};
use super::{Catalogs, ColumnPlan, EndPlan, MappingPlan, NEXT_PLAN, RowPlan, ViewPlan};
use crate::config::{MappingConfig, OnUnrepresentable, Values};
use crate::mapping::convert::Rule;
use crate::mapping::lookups::LookupPlans;

/// The parts of a plan, each found by its own step.
pub(super) struct Parts<'a> {
    pub(super) mapping: &'a MappingConfig,
    pub(super) name: &'a str,
    pub(super) source: &'a Table,
    pub(super) target: &'a Table,
    pub(super) pairs: &'a [Pair<'a>],
    pub(super) key: &'a [usize],
    pub(super) rows: RowPlan,
    pub(super) copy: Option<CopyTable>,
    pub(super) view: Option<Arc<ViewPlan>>,
    pub(super) partial: bool,
    pub(super) values: &'a Arc<Values>,
    pub(super) lookups: LookupPlans,
}

pub(in crate::mapping) fn target_column(column: &Column) -> TargetColumn {
    TargetColumn {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        native: column.native.clone(),
        identity_always: column.generated == Generated::IdentityAlways,
    }
}

pub(super) fn build(parts: Parts<'_>, catalogs: &Catalogs<'_>) -> MappingPlan {
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
    let loosable = loosable(target, &columns);
    let pointers = pointers(target, &columns, catalogs.target);
    let asides = asides(target, pairs, key, &columns);
    let pointing = pointing(target, &columns, key);
    let keyed = is_kept_unique(source, pairs, key);
    let stays = !matches!(rows.end, EndPlan::Delete) && keyed && view.is_none();
    let by: Vec<TargetColumn> = key.iter().filter_map(|&at| columns.get(at).cloned()).collect();
    let kept_at = by.first().cloned().filter(|_| stays).map(|result| {
        let id = NEXT_PLAN.fetch_add(1, Ordering::Relaxed);
        let table = target.name.clone();
        Arc::new(LookupTarget { id, table, by, result, with: Vec::new() })
    });
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
        kept_at,
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
        keyed,
        shares_keys: may_be_shared(source, pairs, key),
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
