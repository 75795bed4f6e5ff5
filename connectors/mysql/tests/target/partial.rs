//! Rows that several mappings write, each its own columns.

use std::sync::Arc;

use tidelock_core::{Code, Load, TargetTable, Value, WriteBatch, WriteOp};

use crate::field::{Field, INT, batch, text};

async fn partial(field: &Field, name: &str) -> Arc<TargetTable> {
    let mut table = field.target(name).await;
    table.partial = true;
    Arc::new(table)
}

#[tokio::test]
async fn a_row_that_is_there_is_updated_whatever_a_new_one_would_need() {
    let field = Field::new(
        "CREATE TABLE t (id int, part varchar(9) COLLATE utf8mb4_general_ci, name varchar(20) NOT NULL, \
         phone varchar(20), city varchar(20) NOT NULL DEFAULT 'x', PRIMARY KEY (id, part)); \
         CREATE TABLE log (op varchar(9)); \
         CREATE TRIGGER a BEFORE INSERT ON t FOR EACH ROW INSERT INTO log VALUES ('INSERT'); \
         CREATE TRIGGER b BEFORE UPDATE ON t FOR EACH ROW INSERT INTO log VALUES ('UPDATE')",
    )
    .await;
    let table = partial(&field, "t").await;
    let mut held = field.hold().await;
    let three = |id, value: &str| vec![INT(id), text("a"), text(value)];
    let names = |op, rows: Vec<Vec<Value>>| batch(&table, op, &[0, 1, 2], rows);
    let phones = |op, rows: Vec<Vec<Value>>| batch(&table, op, &[0, 1, 3], rows);
    held.write(&[names(WriteOp::Insert, vec![three(1, "one"), three(2, "two")])]).await;
    // The second mapping does not write `name`, which may not be NULL.
    for (turn, op) in [WriteOp::Upsert, WriteOp::Insert, WriteOp::Overwrite].into_iter().enumerate()
    {
        held.write(&[phones(op, vec![three(1, &format!("p{turn}")), three(2, "q")])]).await;
    }
    // Some there, some not.
    let mixed = vec![three(2, "zwei"), three(3, "drei"), three(4, "vier")];
    held.write(&[names(WriteOp::Upsert, mixed)]).await;
    // The key alone.
    held.write(&[batch(&table, WriteOp::Upsert, &[0, 1], vec![vec![INT(1), text("a")]])]).await;
    let all = "SELECT GROUP_CONCAT(CONCAT_WS(' ', id, name, phone, city) ORDER BY id SEPARATOR ', ') FROM t";
    assert_eq!(field.one(all).await, "1 one p2 x, 2 zwei q x, 3 drei x, 4 vier x");
    let ops = "SELECT CONCAT(SUM(op = 'INSERT'), ' ', SUM(op = 'UPDATE')) FROM log";
    assert_eq!(field.one(ops).await, "4 7");
    for (bad, code) in [
        // Not there, and without what a new row needs.
        (phones(WriteOp::Upsert, vec![three(8, "p")]), Code::NotRepresentable),
        // A key that only the collation holds equal is another row's.
        (names(WriteOp::Upsert, vec![vec![INT(1), text("A"), text("?")]]), Code::KeyConflict),
    ] {
        held.begin().await;
        let good = names(WriteOp::Upsert, vec![three(9, "neun")]);
        let error = held.open.sink.write(&[good, bad]).await.expect_err("refused");
        assert_eq!((error.code(), error.batch()), (code, Some(1)), "{error}");
        drop(held);
        held = field.hold().await;
    }
    assert_eq!(field.one(all).await, "1 one p2 x, 2 zwei q x, 3 drei x, 4 vier x");
}

#[tokio::test]
async fn many_rows_and_loads_end_as_updates_where_the_rows_are_there() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(20) NOT NULL, phone varchar(20)); \
         INSERT INTO t WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 59) \
         SELECT a.n * 50 + b.n + 1, CONCAT('n', a.n * 50 + b.n + 1), NULL FROM s a, s b WHERE b.n < 50",
    )
    .await;
    let table = partial(&field, "t").await;
    let mut held = field.hold().await;
    let phones: Vec<Box<[Value]>> =
        (1..=3000).map(|i| vec![INT(i), text(&format!("p{i}"))].into()).collect();
    let columns: Arc<[usize]> = [0, 2].into();
    held.begin().await;
    let load =
        Load { mapping: "m".into(), table: table.clone(), columns: columns.clone(), rows: &phones };
    held.open.sink.load(&load).await.expect("load");
    held.commit().await;
    let equal = "SELECT count(*) FROM t WHERE name = CONCAT('n', id) AND phone = CONCAT('p', id)";
    assert_eq!(field.one(equal).await, "3000");
    field.sql("UPDATE t SET phone = NULL").await;
    let insert = WriteBatch {
        mapping: "m".into(),
        table: table.clone(),
        op: WriteOp::Insert,
        columns: columns.clone(),
        rows: phones,
    };
    held.write(&[insert]).await;
    assert_eq!(field.one(equal).await, "3000");
    // Half of the rows are there.
    let names: Vec<Vec<Value>> =
        (1500..4500).map(|i| vec![INT(i), text(&format!("n{i}"))]).collect();
    held.write(&[batch(&table, WriteOp::Upsert, &[0, 1], names)]).await;
    assert_eq!(
        field.one("SELECT CONCAT(count(*), ' ', SUM(name = CONCAT('n', id))) FROM t").await,
        "4499 4499"
    );
    // A move whose old row is gone, onto a row that is there.
    let to = batch(&table, WriteOp::Move, &columns, vec![vec![INT(5), text("moved"), INT(5005)]]);
    held.write(&[to]).await;
    assert_eq!(field.one("SELECT CONCAT(name, phone) FROM t WHERE id = 5").await, "n5moved");
}
