//! Mappings among each other: which write the same both ways, and which come first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{Finding, TableName};

use super::{MappingPlan, PlanOutcome};
use crate::config::FlowConfig;

/// Mappings of two flows in opposite directions that write one and the same column both ways: indexes
/// into `ours` and `theirs`.
pub fn mirrored(ours: &[Arc<MappingPlan>], theirs: &[Arc<MappingPlan>]) -> Vec<(usize, usize)> {
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
            let theirs = their.pairs();
            if our.pairs().into_iter().any(|(a, b)| theirs.contains(&(b, a))) {
                found.push((i, j));
            }
        }
    }
    found
}

/// The order in which mappings are copied, and in which what is read again is written: those that `after` names come first, then
/// those that foreign keys point to or that are looked up; else as in the file. In a cycle the file's order decides.
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
        for before in plans.iter().filter(|p| plan.after.contains(&p.name)) {
            visit(before, plans, seen, order);
        }
        if !plan.before.is_empty() {
            for parent in plans.iter().filter(|p| plan.before.contains(&p.target.name)) {
                visit(parent, plans, seen, order);
            }
        }
        order.push(plan.clone());
    }
    if plans.iter().all(|plan| plan.before.is_empty() && plan.after.is_empty()) {
        return plans.to_vec();
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    for plan in plans {
        visit(plan, plans, &mut seen, &mut order);
    }
    order
}

/// What is wrong with `after`: names of no mapping, and an order that foreign keys of the target contradict.
pub(super) fn judge(flow: &FlowConfig, outcome: &mut PlanOutcome) {
    for mapping in &flow.mappings {
        for name in &mapping.after {
            let known = outcome.mappings.iter().any(|p| *p.name == *name.text)
                || outcome.failed.iter().any(|(failed, _)| *failed == name.text);
            if !known {
                let others = flow.mappings.iter().filter(|m| m.name != mapping.name);
                let names: Vec<&str> = others.map(|m| m.name.as_str()).collect();
                let near = match names.is_empty() {
                    true => "this flow has no other mapping".to_owned(),
                    false => crate::config::file::nearest(&name.text, names.into_iter()),
                };
                let finding = Finding::problem(format!(
                    "mapping {}: `after` names {}, which is no mapping of this flow",
                    mapping.name, name.text
                ))
                .hint(near.trim_start_matches("\nhint: "))
                .place(name.place.show());
                outcome.failed.push((mapping.name.clone(), finding.clone()));
                outcome.findings.push(finding);
                outcome.mappings.retain(|p| *p.name != *mapping.name);
            }
        }
    }
    for plan in &outcome.mappings {
        let own = flow.mappings.iter().find(|m| *m.name == *plan.name);
        for before in outcome.mappings.iter().filter(|p| plan.after.contains(&p.name)) {
            let place = own.and_then(|m| m.after.iter().find(|a| *a.text == *before.name));
            if before.before.contains(&plan.target.name) {
                outcome.findings.push(
                    Finding::warning(format!(
                        "mapping {}: it comes after {}, but {} points to {} by foreign keys or lookups",
                        plan.name, before.name, before.target.name, plan.target.name
                    ))
                    .hint("rows that point to one that is not there yet wait for it, which costs a second reading")
                    .place(place.map_or_else(String::new, |a| a.place.show())),
                );
            }
        }
    }
}
