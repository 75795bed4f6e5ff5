//! What mappings remember.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelock_core::{
    Bytes, LogEvent, MemoryKind, MemoryScope, Remembered, SourceSpec, SourceTable, TableName,
    WriteOp,
};

use crate::field::{Field, Held, INT, batch};

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

async fn remember(held: &mut Held, scope: &MemoryScope, put: &[Remembered], gone: &[Bytes]) {
    held.begin().await;
    held.open.sink.remember(scope, put, gone).await.expect("remember");
    held.commit().await;
}

#[tokio::test]
async fn what_is_remembered_is_found_by_keys_groups_and_in_order() {
    let field = Field::new("").await;
    let mut held = field.hold().await;
    let view = scope("m", MemoryKind::View);
    let put = [
        row(b"aa1", b"1"),
        row(b"aa\xff", b"2"),
        row(b"ab1", b""),
        row(b"\xff\xff", b"4"),
        row(b"", b"5"),
    ];
    remember(&mut held, &view, &put, &[]).await;
    for other in [scope("n", MemoryKind::View), scope("m", MemoryKind::Held)] {
        assert!(held.open.sink.recall_all(&other, None, 9).await.expect("all").is_empty());
        remember(&mut held, &other, &[row(b"aa1", b"of another")], &[]).await;
    }
    let keys = [Bytes::from_static(b"aa1"), Bytes::from_static(b"no"), Bytes::new()];
    let found = sorted(held.open.sink.recall(&view, &keys).await.expect("recall"));
    assert_eq!(found, sorted(vec![row(b"aa1", b"1"), row(b"", b"5")]));
    let groups =
        [Bytes::from_static(b"aa"), Bytes::from_static(b"\xff\xff"), Bytes::from_static(b"zz")];
    let found = sorted(held.open.sink.recall_prefix(&view, &groups).await.expect("groups"));
    let wanted = vec![row(b"aa1", b"1"), row(b"aa\xff", b"2"), row(b"\xff\xff", b"4")];
    assert_eq!(found, sorted(wanted));
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|(key, _): &Remembered| key.clone());
        let some = held.open.sink.recall_all(&view, after.as_ref(), 2).await.expect("all");
        if some.is_empty() {
            break;
        }
        assert!(some.len() <= 2);
        all.extend(some);
    }
    let [aa1, aaff, ab1, ffff, empty] = put.clone();
    assert_eq!(all, [empty, aa1, aaff, ab1, ffff]);

    let gone = [keys[2].clone(), keys[1].clone()];
    remember(&mut held, &view, &[row(b"aa1", b"one"), row(b"new", b"n")], &gone).await;
    let all = held.open.sink.recall_all(&view, None, 99).await.expect("all");
    assert_eq!((all.len(), &all[0]), (5, &row(b"aa1", b"one")));

    held.begin().await;
    held.open.sink.forget_memory("m").await.expect("forget");
    assert!(held.open.sink.recall_all(&view, None, 9).await.expect("all").is_empty());
    held.commit().await;
    let other = scope("n", MemoryKind::View);
    assert_eq!(held.open.sink.recall_all(&other, None, 9).await.expect("all").len(), 1);
    field.connector.forget_memory("p", "another:flow", "n").await.expect("forget");
    assert_eq!(held.open.sink.recall_all(&other, None, 9).await.expect("all").len(), 1);
    field.connector.forget_memory("p", "erp:crm", "n").await.expect("forget");
    assert!(held.open.sink.recall_all(&other, None, 9).await.expect("all").is_empty());
    remember(&mut held, &view, &put, &[]).await;
    drop(held);
    // Five remembered rows and the progress row.
    assert_eq!(field.connector.forget("p", "erp:crm").await.expect("forget"), 6);
    assert_eq!(
        field.one("SELECT count(*) FROM tidelock.memory WHERE `key` <> 'format'").await,
        "0"
    );
}

#[tokio::test]
async fn memory_is_rolled_back_with_its_transaction_and_not_logged_for_others() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let table = Arc::new(field.target("t").await);
    let held_rows = scope("m", MemoryKind::Held);
    let spec = SourceSpec {
        pipeline: "p".into(),
        flow: "crm:erp".into(),
        slot: String::new(),
        publication: String::new(),
        tables: vec![SourceTable {
            joins: false,
            name: TableName::new("crm", "t"),
            key_columns: vec!["id".into()],
            columns: Vec::new(),
            shape: String::new(),
            optional: false,
        }],
        start_at: None,
        identity: String::new(),
    };
    let mut held = field.hold().await;
    held.begin().await;
    held.open.sink.remember(&held_rows, &[row(b"k", b"v")], &[]).await.expect("remember");
    let inside = held.open.sink.recall(&held_rows, &[Bytes::from_static(b"k")]).await;
    assert_eq!(inside.expect("recall"), [row(b"k", b"v")], "a transaction sees its own");
    drop(held);
    let mut held = field.hold().await;
    assert!(held.open.sink.recall_all(&held_rows, None, 9).await.expect("all").is_empty());

    let start = field.connector.create_stream(&spec, false).await.expect("stream");
    let mut source = field.connector.open_source(&spec, &start).await.expect("source");
    remember(&mut held, &held_rows, &[row(b"a", b"1"), row(b"b", b"1")], &[]).await;
    held.begin().await;
    let gone = [Bytes::from_static(b"b")];
    held.open.sink.remember(&held_rows, &[row(b"a", b"2")], &gone).await.expect("remember");
    let rows = batch(&table, WriteOp::Upsert, &[0], vec![vec![INT(1)]]);
    held.open.sink.write(&[rows]).await.expect("write");
    held.commit().await;
    let (mut tables, mut commits) = (Vec::new(), 0);
    while commits < 2 {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), source.next());
        for event in next.await.expect("in time").expect("events").events {
            match event {
                LogEvent::Change(change) => tables.push(change.table.name.name.clone()),
                LogEvent::Commit(_) => commits += 1,
                _ => {}
            }
        }
    }
    assert_eq!(tables, ["progress", "progress", "progress", "t", "progress"]);
}

#[tokio::test]
async fn many_keys_are_remembered_and_found_by_the_index() {
    let field = Field::new("").await;
    let mut held = field.hold().await;
    let view = scope("m", MemoryKind::View);
    let key = |i: u64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    let rows: Vec<Remembered> = (0..60_000).map(|i| row(&key(i), b"12345678")).collect();
    let keys: Vec<Bytes> = rows.iter().map(|(key, _)| key.clone()).collect();
    let began = std::time::Instant::now();
    for some in rows.chunks(20_000) {
        remember(&mut held, &view, some, &[]).await;
    }
    let put = began.elapsed();
    let found = held.open.sink.recall(&view, &keys).await.expect("recall");
    let took = began.elapsed() - put;
    assert_eq!(sorted(found), sorted(rows));
    let groups: Vec<Bytes> = keys.iter().take(5_000).map(|key| key.slice(..6)).collect();
    let began = std::time::Instant::now();
    let found = held.open.sink.recall_prefix(&view, &groups).await.expect("groups");
    assert!(found.len() >= 5_000);
    println!(
        "60,000 keys remembered in {put:?}, found in {took:?}; 5,000 groups in {:?}",
        began.elapsed()
    );
    held.begin().await;
    held.open.sink.remember(&view, &[], &keys[1..]).await.expect("gone");
    held.commit().await;
    assert_eq!(
        field.one("SELECT count(*) FROM tidelock.memory WHERE `key` <> 'format'").await,
        "1"
    );
    for some in keys.chunks(20_000) {
        let put: Vec<Remembered> = some.iter().map(|key| row(key, b"")).collect();
        remember(&mut held, &view, &put, &[]).await;
    }
    drop(held);
    // More than one statement forgets.
    field.connector.forget_memory("p", "erp:crm", "m").await.expect("forget");
    assert_eq!(
        field.one("SELECT count(*) FROM tidelock.memory WHERE `key` <> 'format'").await,
        "0"
    );
}
