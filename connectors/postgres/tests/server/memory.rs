//! What mappings remember.

use std::collections::BTreeMap;

use tidelock_core::{
    Bytes, LogEvent, MemoryKind, MemoryScope, Op, OpenSink, Position, Remembered, WriteOp,
};

use crate::field::{Field, commits};
use crate::writer::{INT, batch, mark, started, target, wait_free};

fn scope(mapping: &str, kind: MemoryKind) -> MemoryScope {
    MemoryScope { mapping: mapping.into(), kind }
}

fn row(key: &[u8], value: &[u8]) -> Remembered {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

fn sorted(rows: Vec<Remembered>) -> BTreeMap<Bytes, Bytes> {
    let count = rows.len();
    let map: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(map.len(), count, "a key came twice");
    map
}

async fn remember(
    open: &mut OpenSink,
    seq: u64,
    scope: &MemoryScope,
    put: &[Remembered],
    gone: &[Bytes],
) {
    open.sink.begin(&mark(1, seq)).await.expect("begin");
    open.sink.remember(scope, put, gone).await.expect("remember");
    open.sink.commit(&Position::new(format!("0/{seq}")), 0).await.expect("commit");
}

#[tokio::test]
async fn what_is_remembered_is_found_by_keys_groups_and_in_order() {
    let field = Field::new("").await;
    let mut open = started(&field).await;
    let view = scope("m", MemoryKind::View);
    let put = [
        row(b"aa1", b"1"),
        row(b"aa\xff", b"2"),
        row(b"ab1", b""),
        row(b"\xff\xff", b"4"),
        row(b"", b"5"),
    ];
    remember(&mut open, 1, &view, &put, &[]).await;
    for other in [scope("n", MemoryKind::View), scope("m", MemoryKind::Held)] {
        assert!(open.sink.recall_all(&other, None, 9).await.expect("all").is_empty());
        let same_key = [row(b"aa1", b"of another")];
        let seq = if other.kind == MemoryKind::Held { 3 } else { 2 };
        remember(&mut open, seq, &other, &same_key, &[]).await;
    }
    let keys = [Bytes::from_static(b"aa1"), Bytes::from_static(b"no"), Bytes::new()];
    let found = sorted(open.sink.recall(&view, &keys).await.expect("recall"));
    assert_eq!(found, sorted(vec![row(b"aa1", b"1"), row(b"", b"5")]));
    let groups =
        [Bytes::from_static(b"aa"), Bytes::from_static(b"\xff\xff"), Bytes::from_static(b"zz")];
    let found = sorted(open.sink.recall_prefix(&view, &groups).await.expect("groups"));
    assert_eq!(
        found,
        sorted(vec![row(b"aa1", b"1"), row(b"aa\xff", b"2"), row(b"\xff\xff", b"4")])
    );
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|(key, _): &Remembered| key.clone());
        let some = open.sink.recall_all(&view, after.as_ref(), 2).await.expect("all");
        if some.is_empty() {
            break;
        }
        assert!(some.len() <= 2);
        all.extend(some);
    }
    assert_eq!(
        all,
        [
            row(b"", b"5"),
            row(b"aa1", b"1"),
            row(b"aa\xff", b"2"),
            row(b"ab1", b""),
            row(b"\xff\xff", b"4")
        ]
    );

    remember(
        &mut open,
        4,
        &view,
        &[row(b"aa1", b"one"), row(b"new", b"n")],
        &[keys[2].clone(), keys[1].clone()],
    )
    .await;
    let all = open.sink.recall_all(&view, None, 99).await.expect("all");
    assert_eq!(all.len(), 5);
    assert_eq!(all[0], row(b"aa1", b"one"));

    // One mapping's, inside a transaction; another's, and that of a flow of another name, stay.
    open.sink.begin(&mark(1, 5)).await.expect("begin");
    open.sink.forget_memory("m").await.expect("forget");
    assert!(open.sink.recall_all(&view, None, 9).await.expect("all").is_empty());
    open.sink.commit(&Position::new("0/5"), 0).await.expect("commit");
    let other = scope("n", MemoryKind::View);
    assert_eq!(open.sink.recall_all(&other, None, 9).await.expect("all").len(), 1);
    field.connector.forget_memory("p", "another:flow", "n").await.expect("forget");
    assert_eq!(open.sink.recall_all(&other, None, 9).await.expect("all").len(), 1);
    field.connector.forget_memory("p", "crm:erp", "n").await.expect("forget");
    assert!(open.sink.recall_all(&other, None, 9).await.expect("all").is_empty());
    remember(&mut open, 6, &view, &put, &[]).await;
    drop(open);
    wait_free(&field).await;
    // Five remembered rows and the progress row.
    assert_eq!(field.connector.forget("p", "crm:erp").await.expect("forget"), 6);
    assert_eq!(field.one("SELECT count(*) FROM tidelock.memory").await, "0");
}

#[tokio::test]
async fn memory_is_rolled_back_with_its_transaction() {
    let field = Field::new("").await;
    let mut open = started(&field).await;
    let held = scope("m", MemoryKind::Held);
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    open.sink.remember(&held, &[row(b"k", b"v")], &[]).await.expect("remember");
    let inside = open.sink.recall(&held, &[Bytes::from_static(b"k")]).await.expect("recall");
    assert_eq!(inside, [row(b"k", b"v")], "a transaction sees its own");
    drop(open);
    wait_free(&field).await;
    let mut open = field.sink().await;
    assert!(open.sink.recall_all(&held, None, 9).await.expect("all").is_empty());
    // A mark that is not ours: nothing of what travelled with it may stay.
    open.sink.begin(&mark(7, 1)).await.expect("begin");
    let error = open.sink.remember(&held, &[row(b"k", b"v")], &[]).await.expect_err("fenced");
    assert_eq!(error.kind(), tidelock_core::ErrorKind::Fenced);
    drop(open);
    wait_free(&field).await;
    assert_eq!(field.one("SELECT count(*) FROM tidelock.memory WHERE key <> 'format'").await, "0");
}

#[tokio::test]
async fn the_other_direction_never_sees_what_is_remembered() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    // Where a DBA publishes everything, it must be left out all the same.
    field.sql("ALTER PUBLICATION tidelock_p_crm ADD TABLE tidelock.memory").await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    let view = scope("m", MemoryKind::View);
    remember(&mut open, 1, &view, &[row(b"a", b"1"), row(b"b", b"1")], &[]).await;
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    open.sink.remember(&view, &[row(b"a", b"2")], &[Bytes::from_static(b"b")]).await.expect("put");
    let rows = batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]]);
    open.sink.write(&[rows]).await.expect("write");
    open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    // The making of the progress row, then both transactions.
    let (events, _) = commits(&mut source, 3).await;
    let mut tables = Vec::new();
    for event in events {
        if let LogEvent::Change(change) = event {
            assert!(!matches!(change.op, Op::Delete(_)), "{change:?}");
            tables.push(change.table.name.name.clone());
        }
    }
    assert_eq!(tables, ["progress", "progress", "progress", "progress", "t", "progress"]);
}

/// Not a measurement, but a look at the plan: a full scan for each key would take minutes.
#[tokio::test]
async fn many_keys_are_remembered_and_found_by_the_index() {
    let field = Field::new("").await;
    let mut open = started(&field).await;
    let view = scope("m", MemoryKind::View);
    let rows: Vec<Remembered> = (0..60_000_u64)
        .map(|i| row(&i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(), b"12345678"))
        .collect();
    let began = std::time::Instant::now();
    for (turn, some) in rows.chunks(20_000).enumerate() {
        remember(&mut open, turn as u64 + 1, &view, some, &[]).await;
    }
    let put = began.elapsed();
    let keys: Vec<Bytes> = rows.iter().map(|(key, _)| key.clone()).collect();
    let found = open.sink.recall(&view, &keys).await.expect("recall");
    let took = began.elapsed() - put;
    assert_eq!(sorted(found), sorted(rows.clone()));
    let groups: Vec<Bytes> = keys.iter().take(5_000).map(|key| key.slice(..6)).collect();
    let found = open.sink.recall_prefix(&view, &groups).await.expect("groups");
    assert!(found.len() >= 5_000);
    println!(
        "60,000 keys: remembered in {put:?}, found in {took:?}, groups in {:?}",
        began.elapsed() - put - took
    );
    open.sink.begin(&mark(1, 4)).await.expect("begin");
    open.sink.remember(&view, &[], &keys[1..]).await.expect("gone");
    open.sink.commit(&Position::new("0/9"), 0).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM tidelock.memory WHERE key <> 'format'").await, "1");
}
