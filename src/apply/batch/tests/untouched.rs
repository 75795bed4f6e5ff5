//! Columns that pass through cost a mapping no memory of their own, whatever else it computes.

use std::sync::Arc;

use tidelock_core::{
    DataType, Insert, OldRow, Op, Repertoire, Row, StreamColumn, TableName, TableSchema,
    TargetColumn, TargetTable, Update, Value,
};

use super::lone;
use crate::config::{Place, Placed, SourceText};
use crate::mapping::plan::{ColumnPlan, Computed, Feed};
use crate::mapping::{Becomes, BoundPlan, MappingPlan};

const TEXT: DataType = DataType::Text {
    chars_max: None,
    bytes_max: None,
    repertoire: Repertoire::Unicode,
    padded: false,
};

fn column(
    name: &str,
    feed: Feed,
    like: &ColumnPlan,
    data_type: DataType,
) -> (ColumnPlan, TargetColumn) {
    let plan = ColumnPlan { feed, from: data_type.clone(), ..like.clone() };
    let native = "text".to_owned();
    (plan, TargetColumn { name: name.to_owned(), data_type, native, identity_always: false })
}

fn placed(text: &str) -> Placed {
    let source = SourceText { file: String::new(), text: text.to_owned() };
    Placed { text: text.to_owned(), place: Place::new(Arc::new(source), 0..text.len()) }
}

/// A filter, three computed columns, and so many that pass through.
fn plan(untouched: usize) -> (Arc<MappingPlan>, TableSchema) {
    let mut plan = lone("t");
    let like = plan.columns[0].clone();
    let key = plan.target.columns[0].clone();
    let number = key.data_type.clone();
    let mut all = vec![(like.clone(), key.clone())];
    for (name, text) in
        [("x", "id + 1"), ("y", "id * 2"), ("z", "CASE WHEN id > 5 THEN id ELSE 0 END")]
    {
        let computed = Computed {
            text: placed(text),
            reads: vec![key.name.clone()],
            steady: true,
            tells: Vec::new(),
            seeks: false,
            constant: false,
            nullable: true,
            length: None,
        };
        all.push(column(name, Feed::Computed(computed), &like, number.clone()));
    }
    let names: Vec<String> = (0..untouched).map(|n| format!("c{n}")).collect();
    for name in &names {
        all.push(column(name, Feed::Column(name.clone()), &like, TEXT));
    }
    let (columns, target): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    plan.columns = columns;
    plan.reads = std::iter::once(key.name.clone()).chain(names.iter().cloned()).collect();
    plan.read_types = std::iter::once(number.clone()).chain(names.iter().map(|_| TEXT)).collect();
    plan.rows.filter = Some(placed("id > 0"));
    plan.target = Arc::new(TargetTable { columns: target, ..(*plan.target).clone() });
    let typed = plan.reads.iter().zip(&plan.read_types);
    let columns = typed.map(|(name, data_type)| StreamColumn {
        name: name.as_str().into(),
        data_type: data_type.clone(),
        ..super::schema("t").columns[0].clone()
    });
    let shape =
        TableSchema { name: TableName::new("s", "t"), version: 1, columns: columns.collect() };
    (Arc::new(plan), shape)
}

fn row(untouched: usize, id: i64) -> Row {
    let text = |n: usize| {
        Value::Text(format!("{n} is a text that is too long for any trick, {id}").into())
    };
    Row(std::iter::once(Value::Int(id)).chain((0..untouched).map(text)).collect())
}

#[test]
fn columns_that_pass_through_are_not_copied() {
    let counts = |untouched: usize| {
        let (plan, shape) = plan(untouched);
        let mut bound = BoundPlan::new(&plan, &shape).expect("bound");
        let ops = [
            Op::Insert(Insert { new: row(untouched, 7) }),
            Op::Update(Update { old: OldRow::Absent, new: row(untouched, 7) }),
            Op::Update(Update { old: OldRow::Full(row(untouched, 6)), new: row(untouched, 7) }),
        ];
        ops.map(|op| {
            let mut becomes = None;
            let used = allocation_counter::measure(|| becomes = Some(bound.write(op)));
            let Some(Ok(Becomes::Write(write))) = becomes else { panic!("{becomes:?}") };
            // The last one moves its key, and tells the old one.
            assert!(write.row.len() >= untouched + 4);
            used.count_total
        })
    };
    let (few, many) = (counts(2), counts(60));
    println!("allocations of an insert, an update, and one with the old row: {few:?}, {many:?}");
    assert_eq!(few, many);
}
