//! What a mapping must know of the target's foreign keys, so that its rows can wait for those that they point to.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidelock_core::{Column, LookupTarget, Reference, Table, TableName, TargetColumn};

use super::{Catalog, MappingPlan, NEXT_PLAN, target_column};

/// A foreign key over one column.
#[derive(Debug)]
pub struct Pointer {
    /// The column: an index into the target's.
    pub column: usize,
    /// Where it points.
    pub to: Arc<LookupTarget>,
    /// If that is in the same table: the column it points to, an index into the target's.
    pub own: Option<usize>,
}

/// Notes which mappings have rows that may wait for others.
pub(super) fn point(plans: &mut [Arc<MappingPlan>]) {
    let written: HashSet<TableName> = plans.iter().map(|plan| plan.target.name.clone()).collect();
    for plan in plans.iter_mut().filter_map(Arc::get_mut) {
        plan.points =
            plan.may_wait() && plan.references.iter().any(|parent| written.contains(parent));
    }
}

/// The foreign keys of a table that are over one of these columns.
pub(super) fn pointers(
    target: &Table,
    columns: &[TargetColumn],
    catalog: &Catalog<'_>,
) -> Vec<Pointer> {
    let place = |name: &String| columns.iter().position(|column| column.name == *name);
    let pointer = |reference: &Reference| {
        let ([name], [to]) = (&reference.columns[..], &reference.to[..]) else { return None };
        let found = target_column(catalog.get(&reference.table)?.column(to)?);
        let own = (reference.table == target.name).then(|| place(to)).flatten();
        let lookup = LookupTarget {
            id: NEXT_PLAN.fetch_add(1, Ordering::Relaxed),
            table: reference.table.clone(),
            by: vec![found.clone()],
            result: found,
            with: Vec::new(),
        };
        Some(Pointer { column: place(name)?, to: Arc::new(lookup), own })
    };
    target.references.iter().filter_map(pointer).collect()
}

/// The columns of foreign keys, but for those of the mapping's key.
pub(super) fn pointing(target: &Table, columns: &[TargetColumn], key: &[usize]) -> Vec<usize> {
    let points = |at: &usize| {
        let name = columns.get(*at).map(|column| &column.name);
        name.is_some_and(|name| target.references.iter().any(|r| r.columns.contains(name)))
    };
    (0..columns.len()).filter(|at| !key.contains(at) && points(at)).collect()
}

/// The columns of foreign keys that take NULL, of these.
pub(super) fn loosable(target: &Table, columns: &[TargetColumn]) -> Vec<usize> {
    let points = |name: &String| target.references.iter().any(|r| r.columns.contains(name));
    let may = |column: &&Column| column.nullable && points(&column.name);
    let names: HashSet<&String> = target.columns.iter().filter(may).map(|c| &c.name).collect();
    (0..columns.len()).filter(|&at| names.contains(&columns[at].name)).collect()
}
