//! Where the writes of each table stand in a group whose order is not the source's. Pure.
//!
//! A group ([`super::batch`]) holds the net effect of many changes, each key once. Whatever the order in which these are written,
//! the rows are the same in the end, because each statement names its rows by their keys. So a wrong order
//! can only be refused by the target (a foreign key, a unique index), never change a row. The order is chosen so that it is
//! not refused:
//!
//! - tables that foreign keys point to, or that are looked up, are written before those that point to them, and their deletes come after everything;
//! - deletes of a table with more unique indexes than its key come before everything where nothing points to that
//!   table: a deleted line and its successor often share a natural key;
//! - a table that points to itself is written in the order of the source, each key once in a group, and deleted from row by row;
//! - tables in a circle of foreign keys and lookups, tables that look something up in themselves, and mappings with `compact = false`, are written strictly as the source did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::TableName;

use crate::mapping::MappingPlan;
use crate::mapping::plan::parents_first;

/// How the writes of a table may be moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Tables of a lower rank are written first, and deleted from last.
    pub rank: usize,
    /// One write after the other, and all of them between what the source did before and after.
    pub strict: bool,
    /// In the order of the source among themselves.
    pub in_order: bool,
    /// Its deletes come before all other writes of the group.
    pub deletes_first: bool,
    /// Whether foreign keys point to it, or it is looked up: a delete may do more than delete its row.
    pub referenced: bool,
    /// Whether its rows are looked up: what they are found by may not go before those that look.
    pub sought: bool,
    /// Whether a row may be refused for a value that another row gives up by a delete.
    pub has_uniques: bool,
    /// Whether foreign keys and lookups lead back to it: no rank is right for it.
    pub circle: bool,
    /// Whether another mapping writes the same table.
    pub shared: bool,
}

/// The places of all tables of a flow, by the identity of their plan.
#[derive(Debug, Clone, Default)]
pub struct Places {
    places: HashMap<u64, Place>,
    /// What each table points to or looks up.
    before: HashMap<TableName, Vec<TableName>>,
}

impl Places {
    /// Of these mappings; those in `ordered` are strict whatever their tables are.
    pub fn new(plans: &[Arc<MappingPlan>], ordered: &HashSet<String>) -> Places {
        let sought: HashSet<&TableName> = plans.iter().flat_map(|p| p.lookups.tables()).collect();
        let circles = in_circles(plans, &sought);
        let mut writers: HashMap<&TableName, usize> = HashMap::new();
        for plan in plans {
            *writers.entry(&plan.target.name).or_default() += 1;
        }
        let places = parents_first(plans).into_iter().enumerate().map(|(rank, plan)| {
            let is_sought = sought.contains(&plan.target.name);
            let referenced = plan.referenced || is_sought;
            let place = Place {
                rank,
                strict: !plan.compact
                    || plan.lookups.tables().any(|table| *table == plan.target.name)
                    || ordered.contains(&*plan.name)
                    || circles.contains(&plan.target.id),
                in_order: plan.references.contains(&plan.target.name),
                deletes_first: plan.has_uniques && !referenced,
                referenced,
                sought: is_sought,
                has_uniques: plan.has_uniques,
                circle: circles.contains(&plan.target.id),
                shared: writers.get(&plan.target.name).is_some_and(|writers| *writers > 1),
            };
            (plan.target.id, place)
        });
        let mut before: HashMap<TableName, Vec<TableName>> = HashMap::new();
        for plan in plans.iter().filter(|plan| !plan.before.is_empty()) {
            before.entry(plan.target.name.clone()).or_default().extend(plan.before.iter().cloned());
        }
        Places { places: places.collect(), before }
    }

    /// The place of a table; strict if it is not known.
    pub fn of(&self, table: u64) -> Place {
        self.places.get(&table).copied().unwrap_or(Place { strict: true, ..Place::default() })
    }

    /// Whether some of these are tables that a table's rows point to or look up, or that these do.
    pub fn are_above(&self, table: &TableName, those: &HashSet<TableName>) -> bool {
        !self.above(&HashSet::from([table.clone()])).is_disjoint(those)
    }

    /// The tables that rows of these point to or look up, and those that these do.
    pub fn above(&self, tables: &HashSet<TableName>) -> HashSet<TableName> {
        let mut above = HashSet::new();
        let mut ahead: Vec<&TableName> = tables.iter().collect();
        while let Some(table) = ahead.pop() {
            for before in self.before.get(table).into_iter().flatten() {
                if above.insert(before.clone()) {
                    ahead.push(before);
                }
            }
        }
        above
    }
}

/// The tables that foreign keys and lookups lead back to over another table.
fn in_circles(plans: &[Arc<MappingPlan>], sought: &HashSet<&TableName>) -> HashSet<u64> {
    let parents = |plan: &MappingPlan| -> Vec<&Arc<MappingPlan>> {
        let is_parent = |p: &&Arc<MappingPlan>| {
            p.target.name != plan.target.name && plan.before.contains(&p.target.name)
        };
        plans.iter().filter(is_parent).collect()
    };
    let mut circles = HashSet::new();
    // Without foreign keys, as most wildcards are, there is nothing to walk.
    let is_before = |p: &MappingPlan| p.referenced || sought.contains(&p.target.name);
    for plan in plans.iter().filter(|p| is_before(p) && !p.before.is_empty()) {
        let mut seen = HashSet::new();
        let mut ahead = parents(plan);
        while let Some(next) = ahead.pop() {
            if next.target.id == plan.target.id {
                circles.insert(plan.target.id);
                break;
            }
            if seen.insert(next.target.id) {
                ahead.extend(parents(next));
            }
        }
    }
    circles
}
