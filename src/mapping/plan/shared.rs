//! Several mappings that write one table: allowed where they cannot meet in one cell.
//!
//! Two sources into one target table would overwrite each other's rows by chance of order, unless each writes its own
//! columns of a row that they share by its key, or a column of the key holds another constant in each, so that no
//! row is of both (a phone column and an email column that become two rows of a table of contacts).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{Finding, TableName};

use crate::config::FlowConfig;

use super::{EndPlan, Feed, MappingPlan, PlanOutcome};
use crate::config::OnTruncate;

/// Refuses mappings of one target table that could write the same cell, and marks those that share one.
pub(super) fn judge(flow: &FlowConfig, outcome: &mut PlanOutcome) {
    let mut by_target: HashMap<TableName, Vec<Arc<MappingPlan>>> = HashMap::new();
    for plan in &outcome.mappings {
        by_target.entry(plan.target.name.clone()).or_default().push(plan.clone());
    }
    let mut shared: Vec<(TableName, Vec<Arc<MappingPlan>>)> =
        by_target.into_iter().filter(|(_, plans)| plans.len() > 1).collect();
    shared.sort_by(|a, b| a.0.cmp(&b.0));
    // Whose changes must keep the order of the log among each other.
    let mut ordered: HashSet<Arc<str>> = HashSet::new();
    for (target, plans) in shared {
        let names: Vec<&str> = plans.iter().map(|p| &*p.name).collect();
        let place =
            |name: &str| flow.places_of(name).map_or_else(String::new, |places| places.to.show());
        let pairs = || {
            plans
                .iter()
                .enumerate()
                .flat_map(|(i, a)| plans.iter().skip(i + 1).map(move |b| (a, b)))
        };
        if pairs().any(|(a, b)| !never_one_row(a, b) && !other_columns(a, b)) {
            let finding =
                Finding::problem(format!("mappings {} all write to {target}", names.join(", ")))
                    .hint("several mappings may write one table if each lists other columns beside the same key, or if a column of the key is another constant in each");
            let last = flow.mappings.iter().rfind(|m| names.contains(&&*m.name));
            let finding = finding.place(last.map_or_else(String::new, |m| m.places.to.show()));
            outcome.failed.extend(names.iter().map(|name| ((*name).to_owned(), finding.clone())));
            outcome.findings.push(finding);
            outcome.mappings.retain(|m| m.target.name != target);
            continue;
        }
        for plan in plans.iter().filter(|p| p.on_truncate == OnTruncate::Delete) {
            outcome.findings.push(
                Finding::problem(format!(
                    "mapping {}: on_truncate = \"delete\" would delete the rows of other mappings from {target}",
                    plan.name
                ))
                .hint("on_truncate = \"halt\" or \"ignore\"")
                .place(place(&plan.name)),
            );
        }
        if pairs().any(|(a, b)| !never_one_row(a, b)) {
            ordered.extend(plans.iter().map(|p| p.name.clone()));
        }
        let deleting = plans.iter().filter(|p| matches!(p.rows.end, EndPlan::Delete));
        if pairs().any(|(a, b)| !never_one_row(a, b)) && deleting.count() > 1 {
            outcome.findings.push(
                Finding::warning(format!(
                    "mappings {} write to the same rows of {target}, and more than one deletes them",
                    names.join(", ")
                ))
                .hint("whichever source row goes first takes the whole target row with it: on_delete = \"ignore\" or { set = ... } for all but one")
                .place(names.last().map_or_else(String::new, |last| place(last))),
            );
        }
    }
    order(outcome, &ordered);
}

/// Marks what must be written in the order of the log.
fn order(outcome: &mut PlanOutcome, ordered: &HashSet<Arc<str>>) {
    for plan in &mut outcome.mappings {
        if ordered.contains(&plan.name)
            && let Some(plan) = Arc::get_mut(plan)
        {
            plan.compact = false;
        }
    }
}

/// Whether a column of both keys holds two different constants.
fn never_one_row(a: &MappingPlan, b: &MappingPlan) -> bool {
    a.target.key.iter().any(|&i| {
        let (Some(column), Some(target)) = (a.columns.get(i), a.target.columns.get(i)) else {
            return false;
        };
        let theirs = b
            .target
            .key
            .iter()
            .find(|&&j| b.target.columns.get(j).is_some_and(|other| other.name == target.name));
        match (&column.feed, theirs.and_then(|&j| b.columns.get(j)).map(|c| &c.feed)) {
            (Feed::Computed(ours), Some(Feed::Computed(theirs))) => {
                ours.constant && theirs.constant && ours.text.text != theirs.text.text
            }
            _ => false,
        }
    })
}

/// Whether two mappings have one key and no other column in common.
fn other_columns(a: &MappingPlan, b: &MappingPlan) -> bool {
    let names = |p: &MappingPlan, in_key: bool| -> Vec<String> {
        let mut names: Vec<String> = (0..p.columns.len())
            .filter(|i| p.target.key.contains(i) == in_key)
            .filter_map(|i| Some(p.target.columns.get(i)?.name.clone()))
            .collect();
        names.sort();
        names
    };
    let theirs = names(b, false);
    names(a, true) == names(b, true) && names(a, false).iter().all(|name| !theirs.contains(name))
}
