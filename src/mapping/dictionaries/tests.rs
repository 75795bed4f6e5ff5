//! Random changes of a table of codes, as logs tell them, against what its rows say.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_core::{
    Change, Code, Delete, Insert, OldRow, Op, Repertoire, Row, StreamColumn, TableSchema, Update,
    Value,
};

use super::*;

const TEXT: DataType = DataType::Text {
    chars_max: None,
    bytes_max: None,
    repertoire: Repertoire::Unicode,
    padded: false,
};
const INT: DataType = DataType::Int { bits: 32, unsigned: false };

fn plan(filter: Option<&str>) -> Arc<KeptPlan> {
    Arc::new(KeptPlan {
        name: "state".to_owned(),
        copy: CopyTable {
            name: TableName::new("s", "code_map"),
            columns: ["id", "kind", "code", "meaning"].map(str::to_owned).to_vec(),
            key: vec!["id".to_owned()],
            filter: None,
        },
        key: vec!["code".to_owned()],
        value: "meaning".to_owned(),
        filter: filter.map(str::to_owned),
        values: Arc::default(),
        codes: Arc::default(),
    })
}

/// The shape, with the columns in another order where `turned`.
fn shape(turned: bool, version: u64) -> Arc<TableSchema> {
    let mut columns: Vec<StreamColumn> =
        [("id", INT), ("kind", TEXT), ("code", TEXT), ("meaning", TEXT)]
            .map(|(name, data_type)| StreamColumn {
                name: name.to_owned(),
                data_type,
                identity: name == "id",
            })
            .to_vec();
    if turned {
        columns.reverse();
    }
    Arc::new(TableSchema { name: TableName::new("s", "code_map"), version, columns })
}

type Stored = (i64, &'static str, Option<String>, Option<String>);

fn row((id, kind, code, meaning): &Stored, turned: bool) -> Row {
    let text = |text: &Option<String>| {
        text.as_ref().map_or(Value::Null, |t| Value::Text(t.as_str().into()))
    };
    let mut cells = vec![Value::Int(*id), Value::Text((*kind).into()), text(code), text(meaning)];
    if turned {
        cells.reverse();
    }
    Row(cells.into())
}

/// What the rows say of a code.
fn says(rows: &BTreeMap<i64, Stored>, code: &str, filtered: bool) -> Option<Option<String>> {
    let mut found = rows
        .values()
        .filter(|(_, kind, own, _)| own.as_deref() == Some(code) && (!filtered || *kind == "state"))
        .map(|(_, _, _, meaning)| meaning.clone());
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let filtered = random.random_bool(0.5);
    let plan = plan(filtered.then_some("kind = 'state'"));
    let mut keeper = Keeper::new(&plan);
    let mut rows: BTreeMap<i64, Stored> = BTreeMap::new();
    for step in 0..200u64 {
        // Another shape comes in between.
        let turned = step / 50 % 2 == 1;
        let table = shape(turned, step / 50);
        let id = random.random_range(0..8);
        let code = random.random_bool(0.9).then(|| format!("c{}", random.random_range(0..5)));
        let meaning = random.random_bool(0.8).then(|| format!("m{}", random.random_range(0..3)));
        let kind = ["state", "other"][random.random_range(0..2)];
        let new: Stored = (id, kind, code, meaning);
        let full = random.random_bool(0.5);
        let told = |stored: &Stored| {
            let whole = row(stored, turned);
            match full {
                true => OldRow::Full(whole),
                false => {
                    let cells = whole.0.iter().map(|v| match v {
                        Value::Int(_) => v.clone(),
                        _ => Value::Unchanged,
                    });
                    OldRow::Key(Row(cells.collect()))
                }
            }
        };
        let op = match rows.get(&id).cloned() {
            None => {
                rows.insert(id, new.clone());
                Op::Insert(Insert { new: row(&new, turned) })
            }
            Some(old) if random.random_bool(0.3) => {
                rows.remove(&id);
                Op::Delete(Delete { old: told(&old) })
            }
            Some(old) => {
                // Sometimes under another key, and the meaning out of line.
                let to = random.random_range(0..8);
                let mut new = new;
                if !rows.contains_key(&to) {
                    new.0 = to;
                }
                let mut after = row(&new, turned);
                if random.random_bool(0.5) && (full || says_itself(&old, filtered)) {
                    new.3.clone_from(&old.3);
                    let at = if turned { 0 } else { 3 };
                    after.0[at] = Value::Unchanged;
                }
                rows.remove(&id);
                rows.insert(new.0, new.clone());
                let old = match new.0 == id && !full {
                    true => OldRow::Absent,
                    false => told(&old),
                };
                Op::Update(Update { old, new: after })
            }
        };
        keeper.meet(&Change { table, op }).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for n in 0..5 {
            let code = format!("c{n}");
            let want = says(&rows, &code, filtered)
                .map(|m| m.map_or(Value::Null, |m| Value::Text(m.as_str().into())));
            assert_eq!(plan.codes.get(&[code]), want, "seed {seed}, step {step}");
        }
    }
    keeper.clear();
    assert_eq!(plan.codes.get(&["c1".to_owned()]), None);
}

/// Whether its meaning was known before.
fn says_itself(stored: &Stored, filtered: bool) -> bool {
    stored.2.is_some() && (!filtered || stored.1 == "state")
}

#[test]
fn a_dictionary_is_what_the_rows_of_its_table_say() {
    let seed: u64 = rand::rng().random::<u64>() >> 1;
    println!("seed {seed}");
    for round in 0..300 {
        run(seed + round);
    }
}

#[test]
fn what_the_log_does_not_tell_is_an_error_and_no_guess() {
    let plan = plan(Some("kind = 'state'"));
    let mut keeper = Keeper::new(&plan);
    let stored: Stored = (1, "state", Some("a".to_owned()), Some("b".to_owned()));
    let mut new = row(&stored, false);
    new.0[1] = Value::Unchanged;
    let change = |op| Change { table: shape(false, 1), op };
    let update = change(Op::Update(Update { old: OldRow::Absent, new }));
    let error = keeper.meet(&update).expect_err("the kind is not told");
    assert_eq!(error.code(), Code::IdentityMissing);
    let error =
        keeper.meet(&change(Op::Delete(Delete { old: OldRow::Absent }))).expect_err("no key");
    assert_eq!(error.code(), Code::IdentityMissing);
}
