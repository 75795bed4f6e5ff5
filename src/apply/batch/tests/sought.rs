//! Rows that look others up, in whatever order the batches take: what the log's order finds is found.

use std::ops::Range;

use tidelock_core::{Column, Generated, Index, RowIdentity, Table, TableKind};

use super::*;
use crate::config::{Place, Placed, SourceText};
use crate::expr::{Answer, LookupNames, Lookups};
use crate::mapping::lookups::{Question, TargetTables};
use crate::mapping::plan::{Catalog, Computed};

const VALUE: usize = 3;

fn catalog_table(name: &str) -> Table {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        data_type: INT,
        native: "bigint".to_owned(),
        nullable: true,
        has_default: false,
        generated: Generated::No,
        default: None,
        collation: None,
        logged: true,
    };
    let index = |name: &str, primary| Index {
        name: name.to_owned(),
        columns: vec![name.to_owned()],
        primary,
        immediate: true,
        not_null: primary,
    };
    Table {
        name: TableName::new("s", name),
        kind: TableKind::Table,
        columns: COLUMNS.iter().map(column).collect(),
        unique_indexes: vec![index("id", true), index("u", false)],
        identity: RowIdentity::Full,
        references: Vec::new(),
        triggers: false,
        refusals: Vec::new(),
    }
}

/// The plan, with a value that is the id of the row of `table` whose unique value is this one's.
fn seeking(mut plan: MappingPlan, table: &str) -> MappingPlan {
    let tables = [catalog_table(table)];
    let catalog = Catalog::new(&tables);
    let target = TargetTables::new("b", "s", "postgres", &catalog);
    let written = format!("b.{table}");
    let columns = ["u".to_owned()];
    let names = LookupNames { table: &written, columns: &columns, result: "id", insert: None };
    target.shape(names).expect("a lookup");
    let text = format!("lookup('{written}', 'u', u, 'id')");
    let place: Range<usize> = 0..text.len();
    let source = SourceText { file: String::new(), text: text.clone() };
    plan.columns[VALUE].feed = Feed::Computed(Computed {
        text: Placed { text, place: Place::new(Arc::new(source), place) },
        reads: vec!["u".to_owned()],
        steady: true,
        tells: Vec::new(),
        seeks: true,
        constant: false,
        nullable: true,
        length: None,
    });
    plan.lookups = Arc::new(target.planned());
    plan.before.push(TableName::new("s", table));
    plan
}

/// Which row a unique value is of.
fn found(rows: &Rows, unique: i64) -> Option<i64> {
    rows.iter().find(|(_, row)| row[UNIQUE] == Some(unique)).map(|(id, _)| *id)
}

/// Does what the session does with a step.
fn perform(world: &mut World, step: Step, plans: &[Arc<MappingPlan>]) -> Result<(), String> {
    match step {
        Step::Write(batches) => batches.iter().try_for_each(|batch| world.write(batch)),
        Step::Sought(Sought { mut batch, waits }) => {
            for (row, mut wait) in waits {
                let Question::Ask { plan, cells, .. } = wait.question().expect("question") else {
                    panic!("a key that nothing can have")
                };
                let Value::Int(unique) = cells[0] else { panic!("a key of another type") };
                let at = plans.iter().position(|p| p.target.name == plan.target.table);
                let id = found(&world.tables[at.expect("table")], unique)
                    .ok_or_else(|| format!("{}: nothing has {unique}", batch.mapping))?;
                let value = wait.answer(Answer::Found(Value::Int(id))).expect("no error");
                let cell = batch.columns.iter().position(|c| *c == wait.column()).expect("cell");
                batch.rows[row][cell] = value.expect("one lookup");
            }
            world.write(&batch)
        }
        Step::Moved(..) | Step::Call(_) | Step::SoughtCall(..) => panic!("no routines here"),
    }
}

fn random_log(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    // The one that looks stands first in the file.
    let plans = vec![
        Arc::new(seeking(plan(1, "line", None, false, false), "order")),
        Arc::new(plan(2, "order", None, true, false)),
    ];
    let empty = vec![Rows::new(); 2];
    let mut source = World { plans: plans.clone(), tables: empty };
    let mut target = source.clone();
    let places = Arc::new(Places::new(&plans, &HashSet::new()));
    let mut bound: Vec<BoundPlan> = plans
        .iter()
        .map(|plan| BoundPlan::new(plan, &schema(&plan.source.name)).expect("bound"))
        .collect();
    for _ in 0..30 {
        let mut batcher = Batcher::new(places.clone(), false);
        for _ in 0..random.random_range(1..50) {
            let table = random.random_range(0..2);
            let id = random.random_range(0..12);
            let before = source.tables[table].get(&id).copied();
            if random.random_bool(0.2) {
                let Some(before) = before else { continue };
                source.set(table, id, None).expect("no constraint");
                let op = Op::Delete(Delete { old: OldRow::Full(row(&before)) });
                push(&mut batcher, &plans[table], &mut bound[table], op);
                continue;
            }
            let unique = random.random_range(0..12);
            let new: Cells = [Some(id), None, Some(unique), Some(random.random_range(0..9))];
            let mut stored = new;
            if table == 0 {
                let Some(id) = found(&source.tables[1], unique) else { continue };
                if before.is_some_and(|before| before[UNIQUE] == Some(unique)) {
                    // What is there keeps what it found.
                    continue;
                }
                stored[VALUE] = Some(id);
            }
            if source.set(table, id, Some(stored)).is_err() {
                continue;
            }
            let op = match before {
                None => Op::Insert(Insert { new: row(&new) }),
                Some(before) => {
                    let old = OldRow::Full(row(&before));
                    Op::Update(Update { old, new: row(&new) })
                }
            };
            push(&mut batcher, &plans[table], &mut bound[table], op);
        }
        for step in batcher.take() {
            perform(&mut target, step, &plans).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
        assert_eq!(target.tables, source.tables, "seed {seed}");
    }
}

fn push(batcher: &mut Batcher, plan: &Arc<MappingPlan>, bound: &mut BoundPlan, op: Op) {
    let kind = op.kind();
    if let Becomes::Write(write) = bound.write(op).expect("write") {
        batcher.push(plan, write, kind);
    }
}

#[test]
fn what_the_log_s_order_finds_is_found_whatever_is_compacted() {
    let seed: u64 = rand::rng().random::<u64>() >> 1;
    println!("seed {seed}");
    for round in 0..200 {
        random_log(seed + round);
    }
}

#[test]
fn a_table_that_looks_into_itself_is_written_in_the_log_s_order_and_finds_the_row_before() {
    let line = Arc::new(seeking(plan(1, "line", None, false, false), "line"));
    let places = Arc::new(Places::new(std::slice::from_ref(&line), &HashSet::new()));
    assert!(places.of(1).strict);
    let mut batcher = Batcher::new(places, false);
    let mut bound = BoundPlan::new(&line, &schema("line")).expect("bound");
    let insert = |id: i64, unique: Option<i64>| {
        Op::Insert(Insert { new: row(&[Some(id), None, unique, None]) })
    };
    for (id, unique) in [(1, None), (2, Some(7)), (3, None), (4, Some(8)), (5, Some(9))] {
        push(&mut batcher, &line, &mut bound, insert(id, unique));
    }
    // A row that looks is never in one statement with one before it.
    let rows: Vec<usize> = batcher
        .take()
        .into_iter()
        .flat_map(|step| match step {
            Step::Write(batches) => batches.iter().map(|b| b.rows.len()).collect(),
            Step::Sought(Sought { batch, waits }) => {
                assert_eq!((waits.len(), waits[0].0), (1, 0));
                vec![batch.rows.len()]
            }
            Step::Moved(..) | Step::Call(_) | Step::SoughtCall(..) => Vec::new(),
        })
        .collect();
    assert_eq!(rows, [1, 2, 1, 1]);
}

#[test]
fn tables_that_look_into_each_other_are_written_in_the_log_s_order() {
    let plans = [
        Arc::new(seeking(plan(1, "line", None, false, false), "order")),
        Arc::new(seeking(plan(2, "order", None, false, false), "line")),
        Arc::new(seeking(plan(3, "note", None, false, false), "line")),
    ];
    let places = Places::new(&plans, &HashSet::new());
    assert!(places.of(1).strict && places.of(2).strict && !places.of(3).strict);
    assert!(places.of(1).referenced && places.of(2).referenced && !places.of(3).referenced);
}

#[test]
fn a_later_change_takes_over_what_an_earlier_one_waited_for() {
    let plans = [
        Arc::new(seeking(plan(1, "line", None, false, false), "order")),
        Arc::new(plan(2, "order", None, true, false)),
    ];
    let places = Arc::new(Places::new(&plans, &HashSet::new()));
    let mut batcher = Batcher::new(places, false);
    let mut bound = BoundPlan::new(&plans[0], &schema("line")).expect("bound");
    let cells = |unique, parent| row(&[Some(1), parent, unique, None]);
    let update = |old, new| Op::Update(Update { old: OldRow::Full(old), new });
    let waits = |batcher: &mut Batcher| -> Vec<usize> {
        let steps = batcher.take();
        steps
            .iter()
            .map(|step| match step {
                Step::Sought(sought) => sought.waits.len(),
                _ => 0,
            })
            .collect()
    };
    push(&mut batcher, &plans[0], &mut bound, Op::Insert(Insert { new: cells(Some(5), None) }));
    push(&mut batcher, &plans[0], &mut bound, update(cells(Some(5), None), cells(Some(6), None)));
    assert_eq!(waits(&mut batcher), [1]);
    // One that looks nothing up any more.
    push(&mut batcher, &plans[0], &mut bound, Op::Insert(Insert { new: cells(Some(5), None) }));
    push(&mut batcher, &plans[0], &mut bound, update(cells(Some(5), None), cells(None, None)));
    assert_eq!(waits(&mut batcher), [0]);
    // A part of the row that does not touch what is looked up leaves that.
    let mut part = cells(Some(5), Some(3));
    part.0[UNIQUE] = Value::Unchanged;
    let old =
        OldRow::Key(Row(
            [Value::Int(1), Value::Unchanged, Value::Unchanged, Value::Unchanged].into()
        ));
    push(&mut batcher, &plans[0], &mut bound, Op::Insert(Insert { new: cells(Some(5), None) }));
    push(&mut batcher, &plans[0], &mut bound, Op::Update(Update { old, new: part }));
    assert_eq!(waits(&mut batcher), [1]);
    // A change that leaves the key that is looked up as it was is none.
    let same = bound.write(update(cells(Some(5), None), cells(Some(5), None))).expect("same");
    assert!(matches!(same, Becomes::Nothing));
}
