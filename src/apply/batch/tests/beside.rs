//! Batches that go side by side: whatever their statements are interleaved to, nothing is refused and the rows are the same.

use super::*;
use crate::apply::lanes::Footprint;

/// A random log in small batches; of each two that follow each other and have nothing in common the statements are mixed. How
/// often there were such.
fn mixed(seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut source = world();
    for (id, unique) in [(5, false), (6, true)] {
        source.plans.push(Arc::new(plan(
            id,
            ["", "free", "seat"][id as usize - 4],
            None,
            unique,
            false,
        )));
        source.tables.push(Rows::new());
    }
    let mut target = source.clone();
    let places = Arc::new(Places::new(&source.plans, &HashSet::new()));
    let mut bound: Vec<BoundPlan> = source
        .plans
        .iter()
        .map(|plan| BoundPlan::new(plan, &schema(&plan.source.name)).expect("bound"))
        .collect();
    let mut apart = 0;
    for _ in 0..100 {
        let mut batches = Vec::new();
        for _ in 0..2 {
            let mut batcher = Batcher::new(places.clone(), false);
            for _ in 0..random.random_range(1..6) {
                let Some((table, op)) = change(&mut random, &mut source, true) else { continue };
                let kind = op.kind();
                let Becomes::Write(write) = bound[table].write(op).expect("write") else {
                    continue;
                };
                batcher.push(&source.plans[table], write, kind);
            }
            let steps = batcher.take();
            let footprint = Footprint::of(&steps, &places);
            batches.push((footprint, Step::writes(steps).into_iter()));
        }
        let (Some((second, mut later)), Some((first, mut earlier))) =
            (batches.pop(), batches.pop())
        else {
            panic!("two batches");
        };
        let beside = match (first, second) {
            (Some(first), Some(second)) => {
                assert_eq!(first.meets(&second), second.meets(&first), "seed {seed}");
                !first.meets(&second)
            }
            _ => false,
        };
        apart += usize::from(beside && earlier.len() > 0 && later.len() > 0);
        loop {
            let last = beside && random.random_bool(0.7);
            let next = match last {
                true => later.next().or_else(|| earlier.next()),
                false => earlier.next().or_else(|| later.next()),
            };
            let Some(batch) = next else { break };
            if let Err(why) = target.write(&batch) {
                panic!("seed {seed}: {why}");
            }
        }
        assert_eq!(target.tables, source.tables, "seed {seed}");
    }
    apart
}

#[test]
fn batches_that_have_nothing_in_common_may_be_written_in_any_order() {
    let seed: u64 = rand::rng().random::<u64>() >> 1;
    println!("seed {seed}");
    let apart: usize = (0..300).map(|round| mixed(seed + round)).sum();
    println!("{apart} pairs");
    assert!(apart > 1_000, "{apart}");
}

#[test]
fn what_a_foreign_key_or_a_unique_value_ties_together_does_not_go_side_by_side() {
    let world = world();
    let places = Arc::new(Places::new(&world.plans, &HashSet::new()));
    let steps = |table: usize, op: fn(Row) -> Op, id: i64| {
        let plan = &world.plans[table];
        let mut bound = BoundPlan::new(plan, &schema(&plan.name)).expect("bound");
        let mut batcher = Batcher::new(places.clone(), false);
        let op = op(row(&[Some(id), None, Some(id), Some(1)]));
        let kind = op.kind();
        batcher.push(plan, write(&mut bound, op), kind);
        Footprint::of(&batcher.take(), &places).expect("rows only")
    };
    let insert: fn(Row) -> Op = |new| Op::Insert(Insert { new });
    let update: fn(Row) -> Op = |new| Op::Update(Update { old: OldRow::Absent, new });
    let [line, order, party, category] = [0, 1, 2, 3];
    let meet = |a: Footprint, b: Footprint| a.meets(&b) && b.meets(&a);
    assert!(meet(steps(party, insert, 1), steps(party, update, 1)), "one key");
    assert!(!meet(steps(party, insert, 1), steps(party, update, 2)), "two keys");
    assert!(meet(steps(line, insert, 1), steps(order, insert, 2)), "child and parent");
    assert!(meet(steps(line, insert, 1), steps(party, insert, 2)), "and beyond it");
    assert!(!meet(steps(line, insert, 1), steps(category, insert, 1)), "strangers");
    assert!(meet(steps(category, insert, 1), steps(category, insert, 2)), "a tree");
    assert!(!meet(steps(line, insert, 1), steps(line, insert, 2)), "new unique values");
    assert!(meet(steps(line, insert, 1), steps(line, update, 2)), "one may be given up");
    // Nothing is known of what a statement without keys leaves.
    let mut batcher = Batcher::new(places.clone(), false);
    batcher.delete_all(&world.plans[party]);
    assert!(Footprint::of(&batcher.take(), &places).is_none());
    // Two mappings of one table may name its rows by other keys, and one in log order stays in it.
    let mut twice = world.plans.clone();
    twice.push(Arc::new(plan(9, "party", None, false, true)));
    for places in [
        Arc::new(Places::new(&twice, &HashSet::new())),
        Arc::new(Places::new(&world.plans, &HashSet::from(["party".to_owned()]))),
    ] {
        let plan = &world.plans[party];
        let mut bound = BoundPlan::new(plan, &schema(&plan.name)).expect("bound");
        let mut batcher = Batcher::new(places.clone(), false);
        let op = insert(row(&[Some(1), None, None, Some(1)]));
        batcher.push(plan, write(&mut bound, op), OpKind::Insert);
        assert!(Footprint::of(&batcher.take(), &places).is_none());
    }
}
