//! What is written, and by whom.

use super::*;

#[tokio::test]
async fn rows_are_written_guarded_and_exactly() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    assert_eq!(c.ensure_meta().await.unwrap(), c.system_id().await.unwrap().unwrap());
    server
        .sql("crm", "CREATE TABLE t (k varchar(20) COLLATE utf8mb4_general_ci NOT NULL PRIMARY KEY, u int UNIQUE, n varchar(3), dt datetime(6))")
        .await
        .unwrap();
    let t = target(
        &[("k", varchar()), ("u", int()), ("n", varchar()), ("dt", DataType::Timestamp { fsp: 6 })],
        &[0],
    );
    let row = |k: &str, u: i64, n: Value| {
        vec![text(k), Value::Int(u), n, Value::Timestamp(Timestamp(1_704_164_645_678_901))]
    };
    let all = [0, 1, 2, 3];
    let upsert = |rows| batch(&t, WriteOp::Upsert, &all, rows);
    let many: Vec<Vec<Value>> = (0..1300).map(|i| row(&format!("k{i}"), i, Value::Null)).collect();
    write(&*c, &[upsert(many.clone())]).await.unwrap();
    write(&*c, &[upsert(many)]).await.unwrap();
    let one = async |sql: &str| server.one("crm", sql).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t").await, "1300");
    assert_eq!(one("SELECT dt FROM t WHERE k = 'k1'").await, "2024-01-02 03:04:05.678901");
    write(&*c, &[upsert(vec![row("k1", 5000, text("new")), row("k9999", 9999, text("z"))])])
        .await
        .unwrap();
    assert_eq!(one("SELECT u FROM t WHERE k = 'k1'").await, "5000");

    // Another unique key, and a key that only the collation holds equal.
    for bad in [row("other", 7, Value::Null), row("K7", 70_000, Value::Null)] {
        let error =
            write(&*c, &[upsert(vec![row("fine", 80_000, Value::Null), bad])]).await.unwrap_err();
        assert_eq!((error.code(), error.batch()), (Code::KeyConflict, Some(0)), "{error}");
    }
    assert_eq!(one("SELECT COUNT(*) FROM t WHERE k = 'fine'").await, "0");
    // What does not fit is an error, not cut.
    let error = write(&*c, &[upsert(vec![row("k1", 5000, text("abcdef"))])]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotRepresentable, "{error}");
    assert!(!error.to_string().contains("abcdef"));

    let update = |rows| batch(&t, WriteOp::Update, &[2], rows);
    write(&*c, &[update(vec![vec![text("p"), text("k1")], vec![text("q"), text("k2")]])])
        .await
        .unwrap();
    // Found, though nothing changes.
    write(&*c, &[update(vec![vec![text("p"), text("k1")]])]).await.unwrap();
    let error = write(&*c, &[update(vec![vec![text("p"), text("K1")]])]).await.unwrap_err();
    assert_eq!(error.code(), Code::UpdateMissing, "{error}");
    let mut moved = row("moved", 5000, text("m"));
    moved.push(text("k1"));
    let mut missing = row("appears", 60_000, text("m"));
    missing.push(text("nowhere"));
    write(&*c, &[batch(&t, WriteOp::Move, &all, vec![moved, missing])]).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t WHERE k IN ('moved', 'appears', 'k1')").await, "2");
    let delete = |keys: &[&str]| {
        batch(&t, WriteOp::Delete, &[0], keys.iter().map(|k| vec![text(k)]).collect())
    };
    write(&*c, &[delete(&["k2", "K3", "0", "nope"])]).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t WHERE k IN ('k2', 'k3')").await, "1");
    // Statements of several sizes, with keys in them that are not there.
    let before: u64 = one("SELECT COUNT(*) FROM t").await.parse().unwrap();
    let keys: Vec<String> = (100..1000).map(|i| format!("{}{i}", ["k", "K"][i % 2])).collect();
    write(&*c, &[delete(&keys.iter().map(String::as_str).collect::<Vec<_>>())]).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t").await, (before - 450).to_string());
    assert_eq!(one("SELECT COUNT(*) FROM t WHERE k IN ('k100', 'k101', 'k998')").await, "1");
    write(&*c, &[batch(&t, WriteOp::DeleteAll, &[0], vec![])]).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t").await, "0");
    let p = c.read_progress("p").await.unwrap();
    assert_eq!((p.len(), p[0].position.as_str()), (1, format!("0-1-{}", p[0].seq).as_str()));
    assert_eq!(c.forget("p", "erp:crm").await.unwrap(), 1);
}

#[tokio::test]
async fn an_update_leaves_a_time_that_the_server_would_set() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    let auto = "DEFAULT current_timestamp(3) ON UPDATE current_timestamp(3)";
    let sql = format!(
        "CREATE TABLE t (id int PRIMARY KEY, n int, at timestamp(3) NOT NULL {auto}, civil datetime(3) NOT NULL {auto}, \
         theirs timestamp(3) NOT NULL {auto})"
    );
    server.sql("crm", &sql).await.unwrap();
    let (civil, instant) =
        (DataType::Timestamp { fsp: 3 }, DataType::Instant { fsp: 3, narrow: true });
    let t = target(&[("id", int()), ("n", int()), ("at", instant), ("civil", civil)], &[0]);
    let row = |id: i64| {
        let (at, civil) = (Instant(1_700_000_000_000_000), Timestamp(1_600_000_000_000_000));
        vec![Value::Int(id), Value::Int(0), Value::Instant(at), Value::Timestamp(civil)]
    };
    write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1, 2, 3], vec![row(1), row(2), row(3)])])
        .await
        .unwrap();
    server.sql("crm", "UPDATE t SET at = at, civil = civil, theirs = '2020-01-01'").await.unwrap();
    // One by itself, and several at once.
    let patch = |id: i64| vec![Value::Int(7), Value::Int(id)];
    write(&*c, &[batch(&t, WriteOp::Update, &[1], vec![patch(1)])]).await.unwrap();
    write(&*c, &[batch(&t, WriteOp::Update, &[1], vec![patch(2), patch(3)])]).await.unwrap();
    let found = "SELECT COUNT(*) FROM t WHERE n = 7 AND at = FROM_UNIXTIME(1700000000) AND civil = '2020-09-13 12:26:40' \
                 AND theirs > '2020-01-02'";
    assert_eq!(server.one("crm", found).await.unwrap(), "3");
}

#[tokio::test]
async fn rows_are_found_by_a_time_in_their_key_with_or_without_a_day() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    let sql = "CREATE TABLE t (a datetime(6), b timestamp(3), n int, PRIMARY KEY (a, b))";
    server.sql("crm", sql).await.unwrap();
    let (civil, instant) =
        (DataType::Timestamp { fsp: 6 }, DataType::Instant { fsp: 3, narrow: true });
    let t = target(&[("a", civil), ("b", instant), ("n", int())], &[0, 1]);
    let zero = |text: &str| Value::Foreign(text.into());
    let civil = |seconds: i64, micros| Value::Timestamp(Timestamp(seconds * 1_000_000 + micros));
    let at = |seconds: i64, micros| Value::Instant(Instant(seconds * 1_000_000 + micros));
    let keys = [
        // '0000-01-01 00:00:00' and '9999-12-31 23:59:59.999999'
        (civil(-62_167_219_200, 0), at(1, 0), "0000-01-01 00:00:00.000000 1970-01-01 00:00:01.000"),
        (
            civil(253_402_300_799, 999_999),
            at(2_147_483_647, 999_000),
            "9999-12-31 23:59:59.999999 2038-01-19 03:14:07.999",
        ),
        (
            zero("0000-00-00 00:00:00.000000"),
            zero("0000-00-00 00:00:00.000"),
            "0000-00-00 00:00:00.000000 0000-00-00 00:00:00.000",
        ),
        (
            zero("2024-00-10 01:02:03.500000"),
            at(1_700_000_000, 0),
            "2024-00-10 01:02:03.500000 2023-11-14 22:13:20.000",
        ),
        (
            civil(1_704_164_645, 500_000),
            at(1_700_000_000, 1_000),
            "2024-01-02 03:04:05.500000 2023-11-14 22:13:20.001",
        ),
    ];
    let rows = |n: i64| -> Vec<Vec<Value>> {
        keys.iter().map(|(a, b, _)| vec![a.clone(), b.clone(), Value::Int(n)]).collect()
    };
    write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1, 2], rows(1))]).await.unwrap();
    write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1, 2], rows(2))]).await.unwrap();
    let found = server.rows("crm", "SELECT CONCAT(a, ' ', b), n FROM t ORDER BY a").await.unwrap();
    let mut wanted: Vec<_> = keys.iter().map(|(_, _, text)| *text).collect();
    wanted.sort_unstable();
    let texts: Vec<_> = found.iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(texts, wanted);
    assert!(found.iter().all(|row| row[1].as_deref() == Some("2")), "{found:?}");
    let patches = keys.iter().map(|(a, b, _)| vec![Value::Int(3), a.clone(), b.clone()]).collect();
    write(&*c, &[batch(&t, WriteOp::Update, &[2], patches)]).await.unwrap();
    let one = async |sql: &str| server.one("crm", sql).await.unwrap();
    assert_eq!(one("SELECT COUNT(*) FROM t WHERE n = 3").await, "5");
    let gone = keys.iter().take(4).map(|(a, b, _)| vec![a.clone(), b.clone()]).collect();
    write(&*c, &[batch(&t, WriteOp::Delete, &[0, 1], gone)]).await.unwrap();
    assert_eq!(one("SELECT GROUP_CONCAT(a) FROM t").await, "2024-01-02 03:04:05.500000");
    // A year that the server would take for another.
    let far = vec![vec![civil(253_402_300_800, 0), at(1, 0), Value::Int(1)]];
    let error = write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1, 2], far)]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotRepresentable, "{error}");
}

#[tokio::test]
async fn partial_updates_larger_than_a_packet_meet_all_their_rows() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY, b longblob); INSERT INTO t WITH RECURSIVE \
             n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 400) SELECT i, NULL FROM n")
        .await
        .unwrap();
    let bytes = DataType::Bytes { bytes_max: None, fixed: None };
    let t = target(&[("id", int()), ("b", bytes)], &[0]);
    let big = Value::Bytes(vec![7u8; 64 << 10].into());
    let rows = (1..=400).map(|i| vec![big.clone(), Value::Int(i)]).collect();
    write(&*c, &[batch(&t, WriteOp::Update, &[1], rows)]).await.unwrap();
    let full = "SELECT COUNT(*) FROM t WHERE LENGTH(b) = 65536";
    assert_eq!(server.one("crm", full).await.unwrap(), "400");
}

#[tokio::test]
async fn one_holder_and_a_fence() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    let mut open = hold(&*c).await;
    assert!(open.progress.is_none());
    open.sink.create_progress(&progress()).await.unwrap();
    match c.open_sink(&sink_spec()).await.unwrap() {
        Lease::Busy { holder } => assert!(holder.starts_with("test"), "{holder}"),
        Lease::Held(_) => panic!("two holders"),
    }
    let mark = |seq| Mark { epoch: 1, seq, hops: HopList::default() };
    open.sink.save_position(&mark(1), &Position::new("0-1-1")).await.unwrap();
    open.sink.ping().await.unwrap();
    server.sql("tidelock", "UPDATE progress SET epoch = epoch + 1").await.unwrap();
    let error = open.sink.begin(&mark(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(open);
    let again = hold(&*c).await;
    let p = again.progress.unwrap();
    assert_eq!((p.epoch, p.seq, p.position.as_str()), (3, 1, "0-1-1"));
}

#[tokio::test]
async fn a_silent_holder_is_ended() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    let held = hold(&*c).await;
    tokio::time::sleep(Duration::from_secs(32)).await;
    // By the server's own limit or by the successor: within moments the lease is free.
    let again = hold(&*c).await;
    drop((held, again));
}

#[tokio::test]
async fn a_row_met_by_another_unique_key_is_never_changed_whatever_the_type_of_the_mapping_key() {
    let options = MysqlOptions::of_matrix().setting("explicit_defaults_for_timestamp", "OFF");
    let server = options.start().await.unwrap();
    server.create_database("crm").await.unwrap();
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    let stamp = || DataType::Instant { fsp: 0, narrow: true };
    let at = |seconds: i64| Value::Instant(Instant(seconds * 1_000_000));
    let number = Value::Int;
    let bytes = |b: u8| Value::Bytes(vec![b; 4].into());
    let decimal = DataType::Decimal { precision: Some(9), scale: Some(2) };
    let unsigned = DataType::Int { bits: 64, unsigned: true };
    let binary = DataType::Bytes { bytes_max: Some(4), fixed: Some(4) };
    // Declaration, type, the key of the row that is there, and ours.
    let mut keys = vec![
        ("int AUTO_INCREMENT", int(), number(100), number(5)),
        ("int AUTO_INCREMENT", int(), number(100), number(0)),
        ("bigint unsigned", unsigned, Value::UInt(u64::MAX), Value::UInt(5)),
        ("timestamp NOT NULL", stamp(), at(1_600_000_000), at(1_700_000_000)),
        ("varchar(20) COLLATE utf8mb4_general_ci", varchar(), text("x"), text("a")),
        ("binary(4)", binary, bytes(1), bytes(2)),
        ("date", DataType::Date, Value::Date(Date(9)), Value::Date(Date(10))),
        ("decimal(9,2)", decimal, Value::Decimal("1.50".into()), Value::Decimal("1.51".into())),
    ];
    if server.has_uuid().await.unwrap() {
        keys.push(("uuid", DataType::Uuid, Value::Uuid([1; 16]), Value::Uuid([2; 16])));
    }
    for (declared, data_type, theirs, ours) in keys {
        // Alone, and with a second column on either side.
        for composite in [false, true] {
            let key = if composite { "k, k2" } else { "k" };
            server
                .sql(
                    "crm",
                    &format!(
                        "DROP TABLE IF EXISTS t; CREATE TABLE t (k {declared}, k2 int NOT NULL, \
                     u int UNIQUE, v varchar(20), PRIMARY KEY ({key}))"
                    ),
                )
                .await
                .unwrap();
            let columns = [("k", data_type.clone()), ("k2", int()), ("u", int()), ("v", varchar())];
            let t = target(&columns, if composite { &[0, 1] } else { &[0] });
            let row = |k: &Value, u: i64, v: &str| vec![k.clone(), number(1), number(u), text(v)];
            let upsert = |rows| batch(&t, WriteOp::Upsert, &[0, 1, 2, 3], rows);
            write(&*c, &[upsert(vec![row(&theirs, 1, "stranger")])]).await.unwrap();
            let all = "SELECT GROUP_CONCAT(CONCAT_WS(',', k, k2, u, v) ORDER BY u) FROM t";
            let before = server.one("crm", all).await.unwrap();
            let mine = upsert(vec![row(&theirs, 1, "fine"), row(&ours, 1, "mine")]);
            let error = write(&*c, &[mine]).await.unwrap_err();
            assert_eq!(
                (error.code(), error.batch()),
                (Code::KeyConflict, Some(0)),
                "{declared}: {error}"
            );
            let mut moved = row(&ours, 1, "mine");
            // The key it had: a row that is not there.
            moved.extend([ours.clone()].into_iter().chain(composite.then(|| number(7))));
            let moved = batch(&t, WriteOp::Move, &[0, 1, 2, 3], vec![moved]);
            let error = write(&*c, &[moved]).await.unwrap_err();
            assert_eq!(error.code(), Code::KeyConflict, "{declared}: {error}");
            assert_eq!(server.one("crm", all).await.unwrap(), before, "{declared}");
            write(&*c, &[upsert(vec![row(&theirs, 2, "own")])]).await.unwrap();
            write(&*c, &[upsert(vec![row(&ours, 3, "new")])]).await.unwrap();
            let own = "SELECT GROUP_CONCAT(v ORDER BY u) FROM t";
            assert_eq!(server.one("crm", own).await.unwrap(), "own,new", "{declared}");
        }
    }
}

#[tokio::test]
async fn a_row_larger_than_a_packet_is_about_the_data_and_smaller_ones_go_through() {
    let options = MysqlOptions::of_matrix().setting("max_allowed_packet", "1M");
    let server = options.start().await.unwrap();
    server.create_database("crm").await.unwrap();
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, b longblob)").await.unwrap();
    let t = target(&[("id", int()), ("b", DataType::Bytes { bytes_max: None, fixed: None })], &[0]);
    let row = |id: i64, bytes: usize| vec![Value::Int(id), Value::Bytes(vec![7; bytes].into())];
    let upsert = |rows| batch(&t, WriteOp::Upsert, &[0, 1], rows);
    let most = (1 << 20) - 128;
    let rows = [300 << 10, 700 << 10, 1, 700 << 10, most, 300 << 10, 300 << 10];
    let rows = rows.iter().enumerate().map(|(i, bytes)| row(i as i64, *bytes)).collect();
    write(&*c, &[upsert(rows)]).await.unwrap();
    let many = (10..5000).map(|i| row(i, 400)).collect();
    write(&*c, &[upsert(many)]).await.unwrap();
    let count = "SELECT COUNT(*) FROM t";
    assert_eq!(server.one("crm", count).await.unwrap(), "4997");
    for bytes in [1 << 20, 40 << 20] {
        let error = write(&*c, &[upsert(vec![row(1, 5), row(9999, bytes)])]).await.unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            (Code::NotRepresentable, ErrorKind::Data),
            "{error}"
        );
        let words = ["max_allowed_packet (1048576)", "crm.t"];
        assert!(words.iter().all(|w| error.message().contains(w)), "{error}");
    }
    assert_eq!(server.one("crm", count).await.unwrap(), "4997");
}
