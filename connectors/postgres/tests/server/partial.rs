//! Rows that several mappings write, each its own columns.

use std::sync::Arc;

use tidelock_core::{Code, Load, Position, TargetTable, Value, WriteBatch, WriteOp};

use crate::field::Field;
use crate::writer::{INT, batch, mark, started, target, text};

async fn partial(field: &Field, name: &str, suppress: bool) -> Arc<TargetTable> {
    let mut table = (*target(field, name, suppress).await).clone();
    table.partial = true;
    Arc::new(table)
}

async fn write(open: &mut tidelock_core::OpenSink, seq: u64, batches: &[WriteBatch]) {
    open.sink.begin(&mark(1, seq)).await.expect("begin");
    open.sink.write(batches).await.expect("write");
    open.sink.commit(&Position::new(format!("0/{seq}")), 0).await.expect("commit");
}

#[tokio::test]
async fn a_row_that_is_there_is_updated_whatever_a_new_one_would_need() {
    for suppress in [false, true] {
        let field = Field::new(
            "CREATE TABLE t (id int, part text, name text NOT NULL, phone text, city text NOT NULL DEFAULT 'x', \
             PRIMARY KEY (id, part)); \
             CREATE TABLE log (op text); \
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN INSERT INTO log VALUES (TG_OP); RETURN NEW; END$$; \
             CREATE TRIGGER note BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
        let table = partial(&field, "t", suppress).await;
        let mut open = started(&field).await;
        let whole = |id, name: &str| vec![INT(id), text("a"), text(name)];
        let phone = |id, phone: &str| vec![INT(id), text("a"), text(phone)];
        let rows = |columns: &[usize], op, rows: &[Vec<Value>]| {
            batch(&table, op, columns, &rows.iter().map(|r| &r[..]).collect::<Vec<_>>())
        };
        write(
            &mut open,
            1,
            &[rows(&[0, 1, 2], WriteOp::Insert, &[whole(1, "one"), whole(2, "two")])],
        )
        .await;
        // The second mapping does not write `name`, which may not be NULL.
        for (seq, op) in [(2, WriteOp::Upsert), (3, WriteOp::Insert), (4, WriteOp::Overwrite)] {
            let some = rows(&[0, 1, 3], op, &[phone(1, &format!("p{seq}")), phone(2, "q")]);
            write(&mut open, seq, &[some]).await;
        }
        // Some there, some not.
        let mixed = rows(
            &[0, 1, 2],
            WriteOp::Upsert,
            &[whole(2, "zwei"), whole(3, "drei"), whole(4, "vier")],
        );
        write(&mut open, 5, &[mixed]).await;
        // The key alone.
        write(&mut open, 6, &[rows(&[0, 1], WriteOp::Upsert, &[vec![INT(1), text("a")]])]).await;
        assert_eq!(
            field.one("SELECT string_agg(concat_ws(' ', id, name, phone, city), ', ' ORDER BY id) FROM t").await,
            "1 one p4 x, 2 zwei q x, 3 drei x, 4 vier x"
        );
        let ops = "SELECT string_agg(op || ' ' || n, ', ' ORDER BY op) FROM \
                   (SELECT op, count(*) AS n FROM log GROUP BY op) g";
        // With suppression, the second row's phone is written once.
        let updates = if suppress { 5 } else { 7 };
        assert_eq!(field.one(ops).await, format!("INSERT 4, UPDATE {updates}"));
        // A row that is not there and lacks what it needs is an error of its batch.
        open.sink.begin(&mark(1, 7)).await.expect("begin");
        let good = rows(&[0, 1, 2], WriteOp::Upsert, &[whole(9, "neun")]);
        let bad = rows(&[0, 1, 3], WriteOp::Upsert, &[phone(8, "p")]);
        let error = open.sink.write(&[good, bad]).await.expect_err("refused");
        assert_eq!((error.code(), error.batch()), (Code::Constraint, Some(1)), "{error}");
    }
}

#[tokio::test]
async fn many_rows_and_loads_end_as_updates_where_the_rows_are_there() {
    let field =
        Field::new("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, phone text)").await;
    field.sql("INSERT INTO t SELECT i, 'n' || i FROM generate_series(1, 3000) i").await;
    let table = partial(&field, "t", false).await;
    let mut open = started(&field).await;
    let phones: Vec<Box<[Value]>> =
        (1..=3000).map(|i| vec![INT(i), text(&format!("p{i}"))].into()).collect();
    let columns: Arc<[usize]> = [0, 2].into();
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let load =
        Load { mapping: "m".into(), table: table.clone(), columns: columns.clone(), rows: &phones };
    open.sink.load(&load).await.expect("load");
    open.sink.commit(&Position::new("0/1"), 0).await.expect("commit");
    let equal = "SELECT count(*) FROM t WHERE name = 'n' || id AND phone = 'p' || id";
    assert_eq!(field.one(equal).await, "3000");
    let insert = WriteBatch {
        mapping: "m".into(),
        table: table.clone(),
        op: WriteOp::Insert,
        columns: columns.clone(),
        rows: phones,
    };
    field.sql("UPDATE t SET phone = NULL").await;
    write(&mut open, 2, &[insert]).await;
    assert_eq!(field.one(equal).await, "3000");
    // A move whose old row is gone, onto a row that is there.
    let to = WriteBatch {
        op: WriteOp::Move,
        mapping: "m".into(),
        table: table.clone(),
        columns,
        rows: vec![vec![INT(5), text("moved"), INT(5005)].into()],
    };
    write(&mut open, 3, &[to]).await;
    assert_eq!(
        field.one("SELECT concat_ws(' ', name, phone) FROM t WHERE id = 5").await,
        "n5 moved"
    );
}
