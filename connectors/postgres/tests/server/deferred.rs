//! Constraints that are checked at the commit: what waits, what is legal until then, and whose fault it is.

use std::sync::Arc;

use tidelock_core::{Code, ErrorKind, Position, TargetTable, Value, WriteBatch, WriteOp};

use crate::field::Field;
use crate::writer::{INT, batch, mark, started, target, wait_free};

const TABLES: &str = "CREATE TABLE p (id int PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED); \
     CREATE TABLE c (id int, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED, PRIMARY KEY (id)) \
       PARTITION BY RANGE (id); \
     CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (1000); \
     CREATE TABLE o (id int PRIMARY KEY, n int)";

fn put(mapping: &str, table: &Arc<TargetTable>, rows: &[[i64; 2]]) -> WriteBatch {
    let rows: Vec<[Value; 2]> = rows.iter().map(|row| row.map(INT)).collect();
    let rows: Vec<&[Value]> = rows.iter().map(|row| &row[..]).collect();
    WriteBatch { mapping: mapping.into(), ..batch(table, WriteOp::Upsert, &[0, 1], &rows) }
}

fn remove(mapping: &str, table: &Arc<TargetTable>, id: i64) -> WriteBatch {
    WriteBatch { mapping: mapping.into(), ..batch(table, WriteOp::Delete, &[0], &[&[INT(id)]]) }
}

#[tokio::test]
async fn an_attempt_meets_what_would_be_refused_at_the_commit_and_nothing_else() {
    let field = Field::new(TABLES).await;
    let [p, c, o] = [
        target(&field, "p", false).await,
        target(&field, "c", false).await,
        target(&field, "o", false).await,
    ];
    let mut open = started(&field).await;
    let sink = &mut open.sink;
    sink.begin(&mark(1, 1)).await.expect("begin");
    sink.write(&[put("p", &p, &[[1, 1]])]).await.expect("write");
    let refused = sink.attempt(&[put("c", &c, &[[1, 9]])], &[]).await.expect("attempt");
    assert_eq!(refused.map(|e| e.code()), Some(Code::ForeignKey), "an orphan");
    let refused = sink.attempt(&[put("p", &p, &[[2, 1]])], &[]).await.expect("attempt");
    assert_eq!(refused.map(|e| e.code()), Some(Code::KeyConflict), "a value twice");
    let refused = sink.attempt(&[put("c", &c, &[[2, 1]])], &[]).await.expect("attempt");
    assert!(refused.is_none(), "{refused:?}");
    // A child before its parent, as the source's own transaction may have it; what comes between is not to blame.
    sink.write(&[put("c", &c, &[[3, 3]])]).await.expect("write");
    let refused = sink.attempt(&[put("o", &o, &[[1, 1]])], &[]).await.expect("attempt");
    assert!(refused.is_none(), "{refused:?}");
    sink.write(&[put("p", &p, &[[3, 3]])]).await.expect("write");
    sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    let all = "SELECT (SELECT string_agg(c::text, ' ' ORDER BY id) FROM c) || (SELECT count(*) FROM p) || (SELECT count(*) FROM o)";
    assert_eq!(field.one(all).await, "(2,1) (3,3)21");
}

#[tokio::test]
async fn what_is_refused_at_the_commit_names_its_mapping() {
    let field = Field::new(TABLES).await;
    field.sql("INSERT INTO p VALUES (1, 1), (2, 2), (3, 3); INSERT INTO c VALUES (1, 1)").await;
    let [p, c, o] = [
        target(&field, "p", false).await,
        target(&field, "c", false).await,
        target(&field, "o", false).await,
    ];
    let other = put("o", &o, &[[1, 1]]);
    let cases = [
        ("c", Code::ForeignKey, vec![put("c", &c, &[[5, 9]]), put("p", &p, &[[4, 4]])]),
        ("p", Code::ForeignKey, vec![put("c", &c, &[[5, 2]]), remove("p", &p, 1)]),
        ("p", Code::ForeignKey, vec![remove("p", &p, 1)]),
        ("p", Code::KeyConflict, vec![put("c", &c, &[[5, 2]]), put("p", &p, &[[6, 2]])]),
        ("o", Code::ForeignKey, vec![put("o", &c, &[[5, 9]])]),
    ];
    let mut open = Some(started(&field).await);
    for (n, (mapping, code, batches)) in cases.into_iter().enumerate() {
        let mut held = match open.take() {
            Some(open) => open,
            None => field.sink().await,
        };
        let epoch = n as u64 + 1;
        held.sink.begin(&mark(epoch, 1)).await.expect("begin");
        held.sink.write(std::slice::from_ref(&other)).await.expect("write");
        held.sink.write(&batches).await.expect("write");
        let error = held.sink.commit(&Position::new("0/2"), 0).await.expect_err("refused");
        let told = (error.kind(), error.code(), error.mapping());
        assert_eq!(told, (ErrorKind::Data, code, Some(mapping)), "{n}: {error}");
        drop(held);
        wait_free(&field).await;
    }
    assert_eq!(field.one("SELECT count(*) FROM o").await, "0");
}
