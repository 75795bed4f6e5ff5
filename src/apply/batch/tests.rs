//! A source of random transactions against a model of a target that checks its constraints row by row.

mod beside;
mod sought;
mod untouched;

use std::collections::{BTreeMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tidelock_core::{
    DataType, Delete, Insert, OldRow, Op, Row, StreamColumn, TableName, TableSchema, TargetColumn,
    Update,
};

use super::*;
use crate::config::{OnTruncate, SchemaChanges, SnapshotMode};
use crate::mapping::convert::Rule;
use crate::mapping::plan::{ColumnPlan, Feed, RowPlan};
use crate::mapping::{Becomes, BoundPlan};

const INT: DataType = DataType::Int { bits: 64, unsigned: false };

/// A table of numbers: `id` is the key, `parent` may point to a table, `u` may be unique, `v` is free.
const COLUMNS: [&str; 4] = ["id", "parent", "u", "v"];
const PARENT: usize = 1;
const UNIQUE: usize = 2;

/// A plan of a table alone.
pub(in crate::apply) fn lone(name: &str) -> MappingPlan {
    plan(0, name, None, false, false)
}

fn plan(id: u64, name: &str, parent: Option<&str>, unique: bool, referenced: bool) -> MappingPlan {
    let table = |name: &str| TableName::new("s", name);
    let columns = COLUMNS.map(|name| TargetColumn {
        name: name.into(),
        data_type: INT,
        native: "bigint".into(),
        identity_always: false,
    });
    MappingPlan {
        name: name.into(),
        source: table(name),
        view: None,
        call: None,
        reads: COLUMNS.map(str::to_owned).to_vec(),
        read_types: COLUMNS.map(|_| INT).to_vec(),
        rows: RowPlan::default(),
        values: Arc::default(),
        columns: COLUMNS
            .map(|name| ColumnPlan {
                feed: Feed::Column(name.to_owned()),
                from: INT,
                nullable: true,
                json_form: tidelock_core::JsonForm::Exact,
                rule: Rule::default(),
            })
            .to_vec(),
        target: Arc::new(TargetTable {
            id,
            name: table(name),
            columns: columns.to_vec(),
            key: vec![0],
            suppress_unchanged: false,
            partial: false,
        }),
        on_truncate: OnTruncate::Halt,
        compact: true,
        snapshot: SnapshotMode::Never,
        schema_changes: SchemaChanges::Note,
        same_family: true,
        copy: None,
        as_lines: false,
        copy_key_types: Vec::new(),
        references: parent.map(table).into_iter().collect(),
        lookups: Arc::default(),
        kept: Vec::new(),
        points: false,
        loosable: Vec::new(),
        pointers: Vec::new(),
        asides: Vec::new(),
        kept_at: None,
        pointing: Vec::new(),
        before: parent.map(table).into_iter().collect(),
        after: Vec::new(),
        referenced,
        has_uniques: unique,
        uniques: if unique { vec![vec![UNIQUE]] } else { Vec::new() },
        rule: String::new(),
        keyed: true,
        shares_keys: false,
        unmapped: Vec::new(),
    }
}

fn schema(name: &str) -> TableSchema {
    TableSchema {
        name: TableName::new("s", name),
        version: 1,
        columns: COLUMNS
            .iter()
            .map(|column| StreamColumn {
                name: (*column).into(),
                data_type: INT,
                identity: *column == "id",
            })
            .collect(),
    }
}

type Cells = [Option<i64>; 4];
type Rows = BTreeMap<i64, Cells>;

fn row(cells: &Cells) -> Row {
    Row(cells.iter().map(|c| c.map_or(Value::Null, Value::Int)).collect())
}

/// Tables as both sides hold them, with the constraints of the target.
#[derive(Clone)]
struct World {
    plans: Vec<Arc<MappingPlan>>,
    tables: Vec<Rows>,
}

impl World {
    fn at(&self, name: &TableName) -> Option<usize> {
        self.plans.iter().position(|p| p.target.name == *name)
    }

    /// Sets a row, or takes it away; the constraint that refuses it.
    fn set(&mut self, table: usize, id: i64, cells: Option<Cells>) -> Result<(), String> {
        let plan = &self.plans[table];
        let name = &plan.name;
        if let Some(cells) = cells {
            for parent in &plan.references {
                let own = parent == &plan.target.name && cells[PARENT] == Some(id);
                let there =
                    |p: i64| self.at(parent).is_some_and(|t| self.tables[t].contains_key(&p));
                if cells[PARENT].is_some_and(|p| !own && !there(p)) {
                    return Err(format!("{name} {id}: no parent"));
                }
            }
            let taken = |(other, row): (&i64, &Cells)| {
                *other != id && row[UNIQUE].is_some() && row[UNIQUE] == cells[UNIQUE]
            };
            if plan.has_uniques && self.tables[table].iter().any(taken) {
                return Err(format!("{name} {id}: the unique value is taken"));
            }
            self.tables[table].insert(id, cells);
            return Ok(());
        }
        for (child, rows) in self.plans.iter().zip(&self.tables) {
            let points = |(other, row): (&i64, &Cells)| {
                row[PARENT] == Some(id) && !(child.target.id == plan.target.id && *other == id)
            };
            if child.references.contains(&plan.target.name) && rows.iter().any(points) {
                return Err(format!("{name} {id}: {} points to it", child.name));
            }
        }
        self.tables[table].remove(&id);
        Ok(())
    }

    fn write(&mut self, batch: &WriteBatch) -> Result<(), String> {
        let table = self.at(&batch.table.name).expect("a table");
        let mut keys = HashSet::new();
        for row in &batch.rows {
            let number = |at: usize| match &row[at] {
                Value::Int(i) => Some(*i),
                _ => None,
            };
            let width = batch.columns.len();
            let (old, mut cells) = match batch.op {
                WriteOp::Delete => (number(0).expect("key"), None),
                WriteOp::Update | WriteOp::Move => {
                    let old = number(width).expect("key");
                    (old, self.tables[table].get(&old).copied())
                }
                _ => (number(0).expect("key"), Some(Cells::default())),
            };
            if batch.op == WriteOp::Update && cells.is_none() {
                return Err(format!("{} {old}: no row", batch.mapping));
            }
            if batch.op != WriteOp::Delete {
                let cells = cells.get_or_insert_default();
                for (at, &column) in batch.columns.iter().enumerate() {
                    cells[column] = number(at);
                }
            }
            let new = cells.map_or(old, |cells| cells[0].expect("key"));
            assert!(keys.insert(old) && (new == old || keys.insert(new)), "a key twice in a batch");
            if new != old {
                self.tables[table].remove(&old);
            }
            self.set(table, new, cells)?;
        }
        Ok(())
    }
}

/// One random change that the source's constraints allow, as the log tells it.
fn change(random: &mut StdRng, world: &mut World, told: bool) -> Option<(usize, Op)> {
    let table = random.random_range(0..world.plans.len());
    let ids: Vec<i64> = world.tables[table].keys().copied().collect();
    let parents: Vec<i64> = world.plans[table]
        .references
        .first()
        .and_then(|p| world.at(p))
        .map(|p| world.tables[p].keys().copied().collect())
        .unwrap_or_default();
    let cells = |random: &mut StdRng, id: i64| -> Cells {
        let parent = parents.choose(random).copied().filter(|_| random.random_bool(0.8));
        [Some(id), parent, Some(random.random_range(0..12)), Some(random.random_range(0..1000))]
    };
    let old_row = |cells: &Cells| {
        if told {
            OldRow::Full(row(cells))
        } else {
            let mut key = row(cells);
            key.0[1..].fill(Value::Unchanged);
            OldRow::Key(key)
        }
    };
    match (random.random_range(0..10), ids.choose(random).copied()) {
        (0..=3, _) | (_, None) => {
            let id = random.random_range(0..15);
            if world.tables[table].contains_key(&id) {
                return None;
            }
            let new = cells(random, id);
            world.set(table, id, Some(new)).ok()?;
            Some((table, Op::Insert(Insert { new: row(&new) })))
        }
        (4..=6, Some(id)) => {
            let old = world.tables[table][&id];
            let mut new = old;
            for (at, cell) in new.iter_mut().enumerate().skip(1) {
                if random.random_bool(0.4) {
                    *cell = cells(random, id)[at];
                }
            }
            world.set(table, id, Some(new)).ok()?;
            let mut after = row(&new);
            let mut partial = false;
            for at in 1..COLUMNS.len() {
                if new[at] == old[at] && random.random_bool(0.3) {
                    after.0[at] = Value::Unchanged;
                    partial = true;
                }
            }
            let told = if told || partial { old_row(&old) } else { OldRow::Absent };
            Some((table, Op::Update(Update { old: told, new: after })))
        }
        (7, Some(id)) => {
            let to = random.random_range(0..15);
            let old = world.tables[table][&id];
            if world.tables[table].contains_key(&to) {
                return None;
            }
            world.set(table, id, None).ok()?;
            let mut new = old;
            new[0] = Some(to);
            if new[PARENT] == Some(id)
                && world.plans[table].references.contains(&world.plans[table].target.name)
            {
                new[PARENT] = None;
            }
            if world.set(table, to, Some(new)).is_err() {
                world.tables[table].insert(id, old);
                return None;
            }
            Some((table, Op::Update(Update { old: old_row(&old), new: row(&new) })))
        }
        (_, Some(id)) => {
            let old = world.tables[table][&id];
            world.set(table, id, None).ok()?;
            Some((table, Op::Delete(Delete { old: old_row(&old) })))
        }
    }
}

fn world() -> World {
    let plans = vec![
        Arc::new(plan(1, "line", Some("order"), true, false)),
        Arc::new(plan(2, "order", Some("party"), true, true)),
        Arc::new(plan(3, "party", None, false, true)),
        Arc::new(plan(4, "category", Some("category"), true, true)),
    ];
    let tables = vec![Rows::new(); plans.len()];
    World { plans, tables }
}

/// Runs a random log through batches of random sizes. How often the target refused, of how many batches.
fn run(seed: u64, told: bool) -> (usize, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut source = world();
    let mut target = source.clone();
    let places = Arc::new(Places::new(&source.plans, &HashSet::new()));
    let mut bound: Vec<BoundPlan> = source
        .plans
        .iter()
        .map(|plan| BoundPlan::new(plan, &schema(&plan.source.name)).expect("bound"))
        .collect();
    let (mut refused, mut batches) = (0, 0);
    for _ in 0..40 {
        let mut batcher = Batcher::new(places.clone(), false);
        let (mut pushed, mut replaced) = (0, 0);
        for _ in 0..random.random_range(1..60) {
            let Some((table, op)) = change(&mut random, &mut source, told) else { continue };
            let kind = op.kind();
            let Becomes::Write(write) = bound[table].write(op).expect("write") else { continue };
            pushed += 1;
            replaced += usize::from(batcher.push(&source.plans[table], write, kind).is_some());
        }
        assert_eq!(batcher.rows(), pushed - replaced, "seed {seed}");
        let taken = Step::writes(batcher.take());
        assert_eq!(taken.iter().map(|b| b.rows.len()).sum::<usize>(), pushed - replaced);
        assert_eq!((batcher.rows(), batcher.bytes()), (0, 0));
        batches += 1;
        if let Err(why) = taken.iter().try_for_each(|batch| target.write(batch)) {
            assert!(!told, "seed {seed}: {why}");
            refused += 1;
            target.tables.clone_from(&source.tables);
        }
        assert_eq!(target.tables, source.tables, "seed {seed}");
    }
    (refused, batches)
}

#[test]
fn whatever_is_compacted_leaves_what_the_source_has() {
    let seed: u64 = rand::rng().random::<u64>() >> 1;
    println!("seed {seed}");
    for round in 0..300 {
        // Where the log tells the old values, the order is never refused.
        assert_eq!(run(seed + round, true).0, 0);
    }
    // Where it does not, it is refused sometimes, and never wrong.
    let outcomes: Vec<_> = (0..300).map(|round| run(seed + round, false)).collect();
    let refused: usize = outcomes.iter().map(|o| o.0).sum();
    let batches: usize = outcomes.iter().map(|o| o.1).sum();
    println!("refused {refused} of {batches}");
    assert!(refused * 2 < batches, "{refused} of {batches}");
}

fn write(bound: &mut BoundPlan, op: Op) -> Write {
    match bound.write(op).expect("write") {
        Becomes::Write(write) => write,
        Becomes::Nothing | Becomes::Unknown { .. } => panic!("no write"),
    }
}

#[test]
fn a_row_that_comes_and_goes_is_still_deleted() {
    let world = world();
    let party = &world.plans[2];
    let mut bound = BoundPlan::new(party, &schema("party")).expect("bound");
    let places = Arc::new(Places::new(&world.plans, &HashSet::new()));
    let mut batcher = Batcher::new(places, false);
    let new = row(&[Some(1), None, None, Some(7)]);
    let insert = write(&mut bound, Op::Insert(Insert { new: new.clone() }));
    assert_eq!(batcher.push(party, insert, OpKind::Insert), None);
    let delete = write(&mut bound, Op::Delete(Delete { old: OldRow::Full(new.clone()) }));
    assert_eq!(batcher.push(party, delete, OpKind::Delete), Some(OpKind::Insert));
    let taken = Step::writes(batcher.take());
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].op, taken[0].rows.len()), (WriteOp::Delete, 1));
    // Foreign keys point to it, so its delete is not replaced by its return.
    let delete = write(&mut bound, Op::Delete(Delete { old: OldRow::Full(new.clone()) }));
    batcher.push(party, delete, OpKind::Delete);
    let insert = write(&mut bound, Op::Insert(Insert { new }));
    assert_eq!(batcher.push(party, insert, OpKind::Insert), None);
    let ops: Vec<WriteOp> = Step::writes(batcher.take()).iter().map(|b| b.op).collect();
    assert_eq!(ops, [WriteOp::Delete, WriteOp::Insert]);
}

#[test]
fn a_mapping_that_is_not_compacted_is_written_change_by_change_in_the_log_s_order() {
    let mut world = world();
    let mut line = plan(1, "line", Some("order"), true, false);
    line.compact = false;
    world.plans[0] = Arc::new(line);
    let places = Arc::new(Places::new(&world.plans, &HashSet::new()));
    let mut batcher = Batcher::new(places, false);
    let mut bound: Vec<BoundPlan> = world
        .plans
        .iter()
        .map(|plan| BoundPlan::new(plan, &schema(&plan.source.name)).expect("bound"))
        .collect();
    let cells = |id, v| row(&[Some(id), None, None, Some(v)]);
    let set = |id, v| Op::Update(Update { old: OldRow::Absent, new: cells(id, v) });
    for (table, op) in [
        (2, set(1, 1)),
        (0, set(1, 1)),
        (0, set(1, 2)),
        (0, set(2, 3)),
        (2, set(1, 2)),
        (2, set(1, 3)),
    ] {
        let kind = op.kind();
        let write = write(&mut bound[table], op);
        batcher.push(&world.plans[table], write, kind);
    }
    let taken = Step::writes(batcher.take());
    let sizes: Vec<(&str, usize)> = taken.iter().map(|b| (&*b.mapping, b.rows.len())).collect();
    assert_eq!(sizes, [("party", 1), ("line", 1), ("line", 2), ("party", 1)]);
}

/// A server deletes the rows of one statement in an order of its own.
#[test]
fn a_child_of_a_tree_is_deleted_in_a_statement_before_its_parents() {
    let world = world();
    let category = &world.plans[3];
    let mut bound = BoundPlan::new(category, &schema("category")).expect("bound");
    for ordered in [HashSet::new(), HashSet::from(["category".to_owned()])] {
        let places = Arc::new(Places::new(&world.plans, &ordered));
        let mut batcher = Batcher::new(places, false);
        for (id, parent) in [(2, Some(1)), (1, None)] {
            let old = OldRow::Full(row(&[Some(id), parent, None, None]));
            let delete = write(&mut bound, Op::Delete(Delete { old }));
            batcher.push(category, delete, OpKind::Delete);
        }
        let taken = Step::writes(batcher.take());
        let ids: Vec<&Value> = taken.iter().flat_map(|b| &b.rows).map(|r| &r[0]).collect();
        assert_eq!(taken.len(), 2);
        assert_eq!(ids, [&Value::Int(2), &Value::Int(1)]);
    }
}
