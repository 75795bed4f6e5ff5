//! Which rows can be written now, and in what order: those whose parents are at the target, or are among them.
//!
//! It saves the target from being asked row by row. What it does not see (foreign keys over several columns, values
//! that a collation holds equal) is found out by writing.

use std::collections::{HashMap, HashSet};

use tidelock_core::{Key, Result, Sink};

use super::write::Steps;
use crate::mapping::MappingPlan;
use crate::reread::memory::hash;

/// Parts rows into those that can be written, parents first, and those that cannot.
pub(super) async fn ready(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    steps: Steps,
) -> Result<(Steps, Steps)> {
    let cell = |at: usize, column: usize| {
        let (_, write) = steps.get(at)?;
        let place = write.columns.iter().position(|&c| c == column)?;
        write.row.get(place).filter(|value| !value.is_null())
    };
    // For each row, the rows that come before it.
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    let mut lacks = vec![false; steps.len()];
    for pointer in &plan.pointers {
        let mut asked: HashMap<_, Vec<usize>> = HashMap::new();
        let mut keys: Vec<Key> = Vec::new();
        for at in 0..steps.len() {
            let Some(value) = cell(at, pointer.column) else { continue };
            let rows = asked.entry(hash(&[], [value])).or_default();
            if rows.is_empty() {
                keys.push(Key::from([value.clone()]));
            }
            rows.push(at);
        }
        let mut here = HashMap::new();
        if let Some(own) = pointer.own {
            let own = (0..steps.len()).filter_map(|at| Some((hash(&[], [cell(at, own)?]), at)));
            here.extend(own);
        }
        let found = sink.lookup(&pointer.to, &keys).await?;
        for (key, found) in keys.iter().zip(found) {
            let value = hash(&[], key.iter());
            let rows = asked.get(&value).into_iter().flatten();
            match (found, here.get(&value)) {
                (Some(_), _) => {}
                (None, Some(&parent)) => {
                    rows.filter(|row| **row != parent).for_each(|&row| parents[row].push(parent));
                }
                (None, None) => rows.for_each(|&row| lacks[row] = true),
            }
        }
    }
    let order = order(&parents, &lacks);
    let now: HashSet<usize> = order.iter().copied().collect();
    let mut all: Vec<Option<_>> = steps.into_iter().map(Some).collect();
    let ready = order.into_iter().filter_map(|at| all.get_mut(at)?.take()).collect();
    let left = all.into_iter().enumerate().filter(|(at, _)| !now.contains(at));
    Ok((ready, left.filter_map(|(_, step)| step).collect()))
}

/// The rows that neither lack anything nor come after one that does, each after those that come before it.
fn order(parents: &[Vec<usize>], lacks: &[bool]) -> Vec<usize> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); parents.len()];
    let mut open: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (row, parents) in parents.iter().enumerate() {
        parents.iter().for_each(|&parent| children[parent].push(row));
    }
    let mut order: Vec<usize> =
        (0..parents.len()).filter(|&row| open[row] == 0 && !lacks[row]).collect();
    let mut next = 0;
    while let Some(&row) = order.get(next) {
        next += 1;
        for &child in &children[row] {
            open[child] -= 1;
            if open[child] == 0 && !lacks[child] {
                order.push(child);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn parents_come_first_and_what_hangs_on_nothing_not_at_all() {
        // 0 below 3 below 1; 2 lacks its parent and 4 is below it; 5 and 6 are below each other; 7 has two parents.
        let parents = [vec![3], vec![], vec![], vec![1], vec![2], vec![6], vec![5], vec![0, 1]];
        let mut lacks = [false; 8];
        lacks[2] = true;
        assert_eq!(order(&parents, &lacks), [1, 3, 0, 7]);
    }
}
