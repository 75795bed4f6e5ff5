//! What a write leaves behind, whichever statement was chosen for it, on a real server.

use std::sync::Arc;
use std::time::Duration;

use tidelock_core::value::{Date, Instant, Time, Timestamp};
use tidelock_core::{
    Code, Connector, DataType, ErrorKind, HopList, Lease, LogEvent, Mark, Op, OpenSink, Position,
    Progress, Repertoire, Secret, SinkSpec, SourceSpec, SystemConfig, TableName, TargetColumn,
    TargetTable, Tls, TlsMode, Value, WriteBatch, WriteOp,
};
use tidelock_scratch::{Mysql, MysqlOptions};

async fn server() -> (Mysql, Box<dyn Connector>) {
    let server = MysqlOptions::of_matrix().start().await.unwrap();
    server.create_database("crm").await.unwrap();
    let connector = tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(server.url("crm")),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap();
    connector.ensure_meta().await.unwrap();
    (server, connector)
}

/// A flow whose names could end a text.
fn spec() -> SinkSpec {
    SinkSpec {
        pipeline: "p'\\".into(),
        flow: "erp:crm".into(),
        holder: "test".into(),
        config_hash: "h".into(),
        tables: vec![],
        routines: vec![],
        lookups: Vec::new(),
    }
}

/// Holds the flow.
async fn hold(c: &dyn Connector) -> OpenSink {
    let spec = spec();
    for _ in 0..100 {
        if let Lease::Held(open) = c.open_sink(&spec).await.unwrap() {
            return open;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the lease is never free")
}

/// Takes the flow over; the next mark.
async fn take(c: &dyn Connector) -> (OpenSink, Mark) {
    let mut open = hold(c).await;
    let (epoch, seq) = match &open.progress {
        Some(p) => (p.epoch, p.seq + 1),
        None => {
            let progress = Progress {
                pipeline: "p'\\".into(),
                flow: "erp:crm".into(),
                epoch: 1,
                seq: 0,
                source_identity: "x".into(),
                position: Position::new("0-1-0"),
                config_hash: "h".into(),
                source_commit_micros: 0,
            };
            open.sink.create_progress(&progress).await.unwrap();
            (1, 1)
        }
    };
    (open, Mark { epoch, seq, hops: HopList::default() })
}

async fn write(c: &dyn Connector, batches: &[WriteBatch]) -> tidelock_core::Result<()> {
    let (mut open, mark) = take(c).await;
    open.sink.begin(&mark).await?;
    open.sink.write(batches).await?;
    open.sink.commit(&Position::new(format!("0-1-{}", mark.seq)), 7).await
}

/// The same as one call.
async fn write_whole(c: &dyn Connector, batches: &[WriteBatch]) -> tidelock_core::Result<()> {
    let (mut open, mark) = take(c).await;
    let position = Position::new(format!("0-1-{}", mark.seq));
    open.sink.write_whole(&mark, batches, &position, 7).await
}

fn target(columns: &[(&str, DataType)]) -> Arc<TargetTable> {
    let columns = columns.iter().map(|(name, data_type)| TargetColumn {
        name: (*name).into(),
        data_type: data_type.clone(),
        native: String::new(),
        identity_always: false,
    });
    Arc::new(TargetTable {
        id: 1,
        name: TableName::new("crm", "t"),
        columns: columns.collect(),
        key: vec![0],
        suppress_unchanged: false,
        partial: false,
    })
}

fn batch(
    table: &Arc<TargetTable>,
    op: WriteOp,
    columns: &[usize],
    rows: Vec<Vec<Value>>,
) -> WriteBatch {
    WriteBatch {
        mapping: "m".into(),
        table: Arc::clone(table),
        op,
        columns: columns.into(),
        rows: rows.into_iter().map(Vec::into_boxed_slice).collect(),
    }
}

fn int(bits: u8) -> DataType {
    DataType::Int { bits, unsigned: false }
}

fn varchar() -> DataType {
    DataType::Text {
        chars_max: Some(20),
        bytes_max: Some(80),
        repertoire: Repertoire::Unicode,
        padded: false,
    }
}

fn text(t: impl Into<String>) -> Value {
    Value::Text(t.into().into())
}

#[tokio::test]
async fn whatever_is_believed_of_a_row_it_is_there_as_given_afterwards() {
    let (server, c) = server().await;
    let t = target(&[("id", int(32)), ("u", int(32)), ("v", varchar())]);
    let all = "SELECT CONCAT_WS(' ', COUNT(*), SUM(id), SUM(u), COUNT(v), SUM(CRC32(v))) FROM t";
    let row = |id: i64, v: Value| vec![Value::Int(id), Value::Int(id + 10_000), v];
    let value = |id: i64| if id % 7 == 0 { Value::Null } else { text(format!("row {id}")) };
    let mut expected: Option<String> = None;
    for op in [WriteOp::Insert, WriteOp::Overwrite, WriteOp::Upsert] {
        server
            .sql(
                "crm",
                "DROP TABLE IF EXISTS t; CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, \
                 u int UNIQUE, v varchar(20), own varchar(9) DEFAULT 'kept')",
            )
            .await
            .unwrap();
        // Every third row is there, and holds something of its own.
        let there = (0..5_000).filter(|id| id % 3 == 0).map(|id| row(id, text("old"))).collect();
        write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1, 2], there)]).await.unwrap();
        server.sql("crm", "UPDATE t SET own = 'ours'").await.unwrap();
        // 0 among them, which an AUTO_INCREMENT column must take as it is.
        let rows = (0..5_000).map(|id| row(id, value(id))).collect();
        write(&*c, &[batch(&t, op, &[0, 1, 2], rows)]).await.unwrap();
        let after = server.one("crm", all).await.unwrap();
        assert!(after.starts_with("5000 12497500 62497500 "), "{op:?}: {after}");
        assert_eq!(*expected.get_or_insert(after.clone()), after, "{op:?}");
        let own = "SELECT CONCAT(COUNT(*), ' ', MIN(id)) FROM t WHERE own = 'ours'";
        assert_eq!(server.one("crm", own).await.unwrap(), "1667 0", "{op:?}");

        // Another row's unique key, and a value that does not fit: nothing of the batch stays.
        let stranger = vec![Value::Int(9_000), Value::Int(10_001), text("mine")];
        let long = vec![Value::Int(9_001), Value::Int(9_001), text("x".repeat(21))];
        for (bad, code) in [(stranger, Code::KeyConflict), (long, Code::NotRepresentable)] {
            let mut rows: Vec<_> = (6_000..8_500).map(|id| row(id, value(id))).collect();
            rows.push(bad);
            let error = write(&*c, &[batch(&t, op, &[0, 1, 2], rows)]).await.unwrap_err();
            assert_eq!((error.code(), error.batch()), (code, Some(0)), "{op:?}: {error}");
            assert_eq!(server.one("crm", all).await.unwrap(), after, "{op:?}");
        }
    }
}

#[tokio::test]
async fn a_list_of_keys_deletes_these_rows_and_no_neighbour() {
    let (server, c) = server().await;
    // Numbers that are one and the same as floating-point numbers, and both ends.
    let near = 9_007_199_254_740_992_i64;
    let numbers: Vec<i64> = (0..1_500).map(|i| near + i).chain([i64::MIN, i64::MAX]).collect();
    server.sql("crm", "CREATE TABLE t (id bigint PRIMARY KEY, v int)").await.unwrap();
    let t = target(&[("id", int(64)), ("v", int(32))]);
    let rows = |ids: &[i64]| ids.iter().map(|id| vec![Value::Int(*id), Value::Int(1)]).collect();
    write(&*c, &[batch(&t, WriteOp::Insert, &[0, 1], rows(&numbers))]).await.unwrap();
    let keys = |ids: &mut dyn Iterator<Item = i64>| ids.map(|id| vec![Value::Int(id)]).collect();
    // 450 that are there, 200 that are not, and one end.
    let mut gone =
        (0..900).filter(|i| i % 2 == 1).map(|i| near + i).chain(-200..0).chain([i64::MAX]);
    write(&*c, &[batch(&t, WriteOp::Delete, &[0], keys(&mut gone))]).await.unwrap();
    let left = "SELECT CONCAT_WS(' ', COUNT(*), SUM(v), MIN(id), MAX(id)) FROM t";
    let expected = format!("1051 1051 {} {}", i64::MIN, near + 1_499);
    assert_eq!(server.one("crm", left).await.unwrap(), expected);
    let odd = format!("SELECT COUNT(*) FROM t WHERE id < {} AND id % 2 = 1", near + 900);
    assert_eq!(server.one("crm", &odd).await.unwrap(), "0");
    // A few, as one statement each or one command.
    write(&*c, &[batch(&t, WriteOp::Delete, &[0], keys(&mut [near, 5].into_iter()))])
        .await
        .unwrap();
    assert_eq!(server.one("crm", "SELECT COUNT(*) FROM t").await.unwrap(), "1050");

    // Texts that the collation holds equal are not the same key.
    server
        .sql("crm", "DROP TABLE t; CREATE TABLE t (k varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, v int)")
        .await
        .unwrap();
    let t = target(&[("k", varchar()), ("v", int(32))]);
    let named = |name: String, v: i64| vec![text(name), Value::Int(v)];
    let there = (0..600).map(|i| named(format!("ä{i}\\'"), i)).collect();
    write(&*c, &[batch(&t, WriteOp::Insert, &[0, 1], there)]).await.unwrap();
    let other = |i: i64| match i % 3 {
        0 => format!("ä{i}\\'"),
        1 => format!("Ä{i}\\'"),
        _ => format!("a{i}\\'"),
    };
    let gone = (0..600).map(|i| vec![text(other(i))]).collect();
    write(&*c, &[batch(&t, WriteOp::Delete, &[0], gone)]).await.unwrap();
    let left = "SELECT CONCAT_WS(' ', COUNT(*), SUM(v % 3 = 0)) FROM t";
    assert_eq!(server.one("crm", left).await.unwrap(), "400 0");
}

#[tokio::test]
async fn a_commit_whose_progress_row_is_not_ours_any_more_commits_nothing() {
    let (server, c) = server().await;
    // Nobody else can change the row that our mark has locked; a trigger does it inside our own transaction.
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW \
             UPDATE tidelock.progress SET epoch = epoch + NEW.v")
        .await
        .unwrap();
    let t = target(&[("id", int(32)), ("v", int(32))]);
    let one =
        |id, v| batch(&t, WriteOp::Insert, &[0, 1], vec![vec![Value::Int(id), Value::Int(v)]]);
    write(&*c, &[one(1, 0)]).await.unwrap();
    let error = write(&*c, &[one(2, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    write(&*c, &[one(3, 0)]).await.unwrap();
    assert_eq!(
        server.one("crm", "SELECT GROUP_CONCAT(id ORDER BY id) FROM t").await.unwrap(),
        "1,3"
    );
    let progress = c.read_progress("p'\\").await.unwrap();
    assert_eq!((progress.len(), progress[0].seq), (1, 2));
    assert_eq!(progress[0].source_commit_micros, 7);
}

#[tokio::test]
async fn a_position_alone_is_one_change_of_the_progress_row_and_fenced() {
    let (server, c) = server().await;
    let spec = SourceSpec {
        pipeline: "p".into(),
        flow: "f".into(),
        slot: String::new(),
        publication: String::new(),
        tables: vec![],
        start_at: None,
        identity: String::new(),
    };
    let (mut open, mark) = take(&*c).await;
    let start = c.create_stream(&spec, false).await.unwrap();
    let mut source = c.open_source(&spec, &start).await.unwrap();
    open.sink.save_position(&mark, &Position::new("0-1-5")).await.unwrap();
    let mut events = Vec::new();
    while !events.iter().any(|e| matches!(e, LogEvent::Commit(_))) {
        let chunk = tokio::time::timeout(Duration::from_secs(20), source.next()).await.unwrap();
        events.extend(chunk.unwrap().events);
    }
    let changes: Vec<_> = events
        .iter()
        .filter_map(|e| if let LogEvent::Change(change) = e { Some(change) } else { None })
        .collect();
    let [change] = changes[..] else { panic!("{changes:?}") };
    let Op::Update(update) = &change.op else { panic!("{change:?}") };
    let cell = |name: &str| {
        let at = change.table.columns.iter().position(|c| c.name == name).unwrap();
        update.new.0[at].clone()
    };
    assert_eq!((cell("hop_list"), cell("position")), (text("1"), text("0-1-5")));

    server.sql("tidelock", "UPDATE progress SET epoch = epoch + 1").await.unwrap();
    let next = Mark { seq: mark.seq + 1, ..mark };
    let error = open.sink.save_position(&next, &Position::new("0-1-6")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert!(open.sink.ping().await.is_err());
    drop(open);
    let progress = c.read_progress("p'\\").await.unwrap();
    assert_eq!((progress[0].seq, progress[0].position.as_str()), (1, "0-1-5"));
}

#[tokio::test]
async fn partial_updates_store_every_value_exactly_and_fire_each_trigger_once() {
    let (server, c) = server().await;
    server
        .sql(
            "crm",
            "CREATE TABLE t (k varchar(20) COLLATE utf8mb4_general_ci PRIMARY KEY, v varchar(20), \
             b varbinary(20), n bigint, u bigint unsigned, d decimal(9,2), f float, g double, \
             at datetime(6), own int NOT NULL); \
             CREATE TABLE seen (k varchar(20), n int); \
             CREATE TRIGGER x AFTER UPDATE ON t FOR EACH ROW INSERT INTO seen VALUES (NEW.k, NEW.own)",
        )
        .await
        .unwrap();
    server
        .sql(
            "crm",
            "INSERT INTO t SELECT CONCAT('k', i), '', '', 0, 0, 0, 0, 0, NULL, i FROM (WITH RECURSIVE \
             n AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 999) SELECT i FROM n) x",
        )
        .await
        .unwrap();
    let t = target(&[
        ("k", varchar()),
        ("v", varchar()),
        ("b", DataType::Bytes { bytes_max: Some(20), fixed: None }),
        ("n", int(64)),
        ("u", DataType::Int { bits: 64, unsigned: true }),
        ("d", DataType::Decimal { precision: Some(9), scale: Some(2) }),
        ("f", DataType::Float32),
        ("g", DataType::Float64),
        ("at", DataType::Timestamp { fsp: 6 }),
    ]);
    let all = [1, 2, 3, 4, 5, 6, 7, 8];
    let row = |i: i64, decimal: &str| {
        if i % 5 == 0 {
            return [vec![Value::Null; 8], vec![text(format!("k{i}"))]].concat();
        }
        vec![
            text(["a'b\"", "\\'; \0\n", "'", "😀ä", ""][(i % 5) as usize]),
            Value::Bytes(vec![0, 255, b'\'', b'\\', i as u8].into()),
            Value::Int(i64::MIN + i),
            Value::UInt(u64::MAX - i as u64),
            Value::Decimal(decimal.to_owned().into()),
            Value::Float32(0.1 + i as f32),
            Value::Float64(0.1 + i as f64 * 1e-17),
            Value::Timestamp(Timestamp(1_704_164_645_678_901 + i)),
            text(format!("k{i}")),
        ]
    };
    // One alone, which is bound; then all, in whatever way; both must have stored the same.
    let state = "SELECT CONCAT_WS(' ', SUM(CRC32(CONCAT_WS('|', k, HEX(v), HEX(b), n, u, d, CAST(f AS DOUBLE), g, at))), \
                 COUNT(v), SUM(own)) FROM t";
    for i in 0..12 {
        write(&*c, &[batch(&t, WriteOp::Update, &all, vec![row(i, "-12.50")])]).await.unwrap();
    }
    let first = format!("{state} WHERE own < 12");
    let bound = server.one("crm", &first).await.unwrap();
    server
        .sql("crm", "UPDATE t SET v = 'x', b = 'x', n = 1, u = 1, d = 1, f = 1, g = 1, at = NULL; DELETE FROM seen")
        .await
        .unwrap();
    let many = |decimal| (0..1_000).map(|i| row(i, decimal)).collect::<Vec<_>>();
    write(&*c, &[batch(&t, WriteOp::Update, &all, many("-12.50"))]).await.unwrap();
    assert_eq!(server.one("crm", &first).await.unwrap(), bound);
    let whole = server.one("crm", state).await.unwrap();
    let seen = "SELECT CONCAT_WS(' ', COUNT(*), COUNT(DISTINCT k)) FROM seen";
    assert_eq!(server.one("crm", seen).await.unwrap(), "1000 1000");

    // A note (a digit too many of a decimal) is none of ours to refuse, and costs no second trigger.
    server.sql("crm", "DELETE FROM seen").await.unwrap();
    write(&*c, &[batch(&t, WriteOp::Update, &all, many("-12.501"))]).await.unwrap();
    assert_eq!(server.one("crm", state).await.unwrap(), whole);
    assert_eq!(server.one("crm", seen).await.unwrap(), "1000 1000");

    // One row is not there, is there by its collation only, or cannot hold the value.
    let mut missing = row(1, "0.5");
    missing[8] = text("nowhere");
    let mut equal = row(2, "0.5");
    equal[8] = text("K3");
    let mut long = row(3, "0.5");
    long[0] = text("x".repeat(21));
    let wrong = [
        (missing, Code::UpdateMissing),
        (equal, Code::UpdateMissing),
        (long, Code::NotRepresentable),
    ];
    for (row, code) in wrong {
        let mut rows = many("-12.50");
        rows[500] = row;
        let error = write(&*c, &[batch(&t, WriteOp::Update, &all, rows)]).await.unwrap_err();
        assert_eq!((error.code(), error.batch()), (code, Some(0)), "{error}");
        assert_eq!(server.one("crm", state).await.unwrap(), whole);
    }
}

/// What the server was asked to execute as a prepared statement with parameters.
async fn executed(server: &Mysql) -> u64 {
    let found = server.rows("crm", "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'").await.unwrap();
    found[0][1].clone().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_small_transaction_leaves_what_its_statements_would_one_by_one() {
    let (server, c) = server().await;
    let made = "(k varchar(20) COLLATE utf8mb4_general_ci, n bigint, l varchar(20) CHARACTER SET latin1, b varbinary(20), \
                u bigint unsigned, d decimal(30,10), f float, g double, da date, at datetime(6), ts timestamp(3) NULL, \
                ti time(6), bi bit(9), j json, e enum('a','b''c'), ch char(5), PRIMARY KEY (k, n))";
    server.sql("crm", &format!("CREATE TABLE t {made}")).await.unwrap();
    let bytes = || DataType::Bytes { bytes_max: Some(20), fixed: None };
    let mut t = Arc::unwrap_or_clone(target(&[
        ("k", varchar()),
        ("n", int(64)),
        ("l", varchar()),
        ("b", bytes()),
        ("u", DataType::Int { bits: 64, unsigned: true }),
        ("d", DataType::Decimal { precision: Some(30), scale: Some(10) }),
        ("f", DataType::Float32),
        ("g", DataType::Float64),
        ("da", DataType::Date),
        ("at", DataType::Timestamp { fsp: 6 }),
        ("ts", DataType::Instant { fsp: 3, narrow: true }),
        ("ti", DataType::Time { fsp: 6, span: true }),
        ("bi", DataType::Bits { length: Some(9), varying: false }),
        ("j", DataType::Json),
        ("e", varchar()),
        ("ch", varchar()),
    ]));
    t.key = vec![0, 1];
    let t = Arc::new(t);
    let all: Vec<usize> = (0..16).collect();
    let row = |i: i64| {
        let texts = ["a'b\"", "\\'; \0\n", "'", "ä é", ""];
        let mut row = vec![
            text(format!("k{i}")),
            Value::Int(if i == 3 { i64::MIN } else { i64::MAX - i }),
            text(texts[(i % 5) as usize]),
            Value::Bytes(vec![0, 255, b'\'', b'\\', i as u8].into()),
            Value::UInt(u64::MAX - i as u64),
            Value::Decimal("-12345678901234567890.0123456789".into()),
            Value::Float32(if i == 4 { -0.0 } else { 0.1 + i as f32 * 1e30 }),
            Value::Float64(if i == 4 { -0.0 } else { (0.1 + i as f64) * 1e-300 }),
            Value::Date(Date::from_ymd(1000 + 999 * i as i32, 2, 28).unwrap()),
            Value::Timestamp(Timestamp(1_704_164_645_678_901 + i)),
            Value::Instant(Instant(1_704_164_645_678_000)),
            Value::Time(Time(if i % 2 == 0 { -3_020_398_000_001 } else { 1 })),
            Value::Text("100000001".into()),
            Value::Json(format!("{{\"a\": [1, 2.5, null, \"ä'\\\\\", {i}]}}").into()),
            Value::Enum("b'c".into()),
            text("ab"),
        ];
        if i % 5 == 2 {
            row[2..].fill(Value::Null);
        }
        row
    };
    let key = |i: i64| row(i)[..2].to_vec();
    let with_key = |cells: Vec<Value>, i: i64| [cells, key(i)].concat();
    let transactions = || {
        [
            vec![batch(&t, WriteOp::Insert, &all, (0..9).map(row).collect())],
            vec![
                batch(&t, WriteOp::Upsert, &all, vec![row(2), row(9)]),
                batch(
                    &t,
                    WriteOp::Update,
                    &[2, 6, 1],
                    vec![with_key(
                        row(8)[2..3]
                            .iter()
                            .chain(&row(8)[6..7])
                            .chain(&row(7)[1..2])
                            .cloned()
                            .collect(),
                        1,
                    )],
                ),
                batch(
                    &t,
                    WriteOp::Patch,
                    &[9],
                    vec![with_key(row(5)[9..10].to_vec(), 0), with_key(vec![Value::Null], 77)],
                ),
                batch(&t, WriteOp::Delete, &[0, 1], vec![key(3), key(78)]),
            ],
            // By its collation it would be the first row.
            vec![batch(&t, WriteOp::Delete, &[0, 1], vec![vec![text("K0"), key(0)[1].clone()]])],
        ]
    };
    let state = "SELECT GROUP_CONCAT(CONCAT_WS('|', k, n, HEX(l), HEX(b), u, d, CAST(f AS DOUBLE), g, da, at, ts, ti, \
                 BIN(bi), j, e, HEX(ch)) ORDER BY k SEPARATOR '~') FROM t";
    for transaction in transactions() {
        write(&*c, &transaction).await.unwrap();
    }
    let apart = server.one("crm", state).await.unwrap();
    server.sql("crm", "DELETE FROM t").await.unwrap();
    for transaction in transactions() {
        let (mut open, mark) = take(&*c).await;
        let before = executed(&server).await;
        let position = Position::new(format!("0-1-{}", mark.seq));
        open.sink.write_whole(&mark, &transaction, &position, 7).await.unwrap();
        assert_eq!(executed(&server).await, before);
    }
    assert_eq!(server.one("crm", state).await.unwrap(), apart);
    let progress = c.read_progress("p'\\").await.unwrap();
    assert_eq!((progress[0].seq, progress[0].position.as_str()), (6, "0-1-6"));
    assert_eq!(progress[0].source_commit_micros, 7);
}

#[tokio::test]
async fn a_small_transaction_that_is_refused_leaves_nothing_and_names_whose_row_it_is() {
    let (server, c) = server().await;
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v varchar(5), CHECK (id <> 13)); INSERT INTO t VALUES (100, 100, '')")
        .await
        .unwrap();
    let t = target(&[("id", int(32)), ("u", int(32)), ("v", varchar())]);
    let row = |id: i64, u: i64, v: &str| vec![Value::Int(id), Value::Int(u), text(v)];
    let put = |rows| batch(&t, WriteOp::Upsert, &[0, 1, 2], rows);
    let moved = |id: i64| batch(&t, WriteOp::Update, &[2], vec![vec![text("x"), Value::Int(id)]]);
    let state = "SELECT GROUP_CONCAT(id, v ORDER BY id) FROM t";
    for (second, code) in [
        // Another row has the unique value: it must not be updated.
        (put(vec![row(2, 100, "")]), Code::KeyConflict),
        (put(vec![row(3, 3, "longer")]), Code::NotRepresentable),
        (put(vec![row(13, 3, "")]), Code::Constraint),
        (moved(4), Code::UpdateMissing),
    ] {
        let error =
            write_whole(&*c, &[put(vec![row(1, 1, "")]), second.clone()]).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let apart = write(&*c, &[put(vec![row(1, 1, "")]), second]).await.unwrap_err();
        assert_eq!(
            (error.code(), error.kind(), error.batch()),
            (apart.code(), apart.kind(), apart.batch())
        );
        assert_eq!(server.one("crm", state).await.unwrap(), "100");
    }
    // A server that cuts with a warning instead.
    server
        .sql(
            "crm",
            "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW SET @cut = CAST(NEW.v AS SIGNED)",
        )
        .await
        .unwrap();
    let warned = write_whole(&*c, &[put(vec![row(1, 1, "1x")])]).await;
    assert_eq!(
        warned.map_err(|e| e.code()),
        write(&*c, &[put(vec![row(1, 1, "1x")])]).await.map_err(|e| e.code())
    );
    server.sql("crm", "DROP TRIGGER x; DELETE FROM t").await.unwrap();

    let (mut open, mark) = take(&*c).await;
    server.sql("tidelock", "UPDATE progress SET epoch = epoch + 1").await.unwrap();
    let position = Position::new("0-1-9");
    let error =
        open.sink.write_whole(&mark, &[put(vec![row(1, 1, "")])], &position, 7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    drop(open);
    drop(hold(&*c).await);
    assert_eq!(server.one("crm", "SELECT COUNT(*) FROM t").await.unwrap(), "0");
}

#[tokio::test]
async fn more_kinds_of_statements_than_are_kept_are_prepared_again() {
    let (server, c) = server().await;
    let names: Vec<String> = (0..10).map(|i| format!("c{i}")).collect();
    let declared = names.join(" int NOT NULL DEFAULT 0, ");
    server
        .sql("crm", &format!("CREATE TABLE t (id int PRIMARY KEY, {declared} int NOT NULL DEFAULT 0); INSERT INTO t (id) VALUES (1), (2)"))
        .await
        .unwrap();
    let columns = ["id"].into_iter().chain(names.iter().map(String::as_str));
    let t = target(&columns.map(|name| (name, int(32))).collect::<Vec<_>>());
    // Each set of columns is a statement of its own; each is used twice, the second time when many others have been.
    let (mut open, mark) = take(&*c).await;
    open.sink.begin(&mark).await.unwrap();
    for turn in 1..=2 {
        for set in 1..1_000_i64 {
            let columns: Vec<usize> =
                (0..10).filter(|i| set & (1 << i) != 0).map(|i| i + 1).collect();
            let mut row = vec![Value::Int(set * turn); columns.len()];
            row.push(Value::Int(turn));
            open.sink.write(&[batch(&t, WriteOp::Update, &columns, vec![row])]).await.unwrap();
        }
    }
    open.sink.commit(&Position::new("0-1-1"), 7).await.unwrap();
    // The last set that has the column.
    let last = |bit: i64| (1..1_000).rev().find(|set| set & (1 << bit) != 0).unwrap();
    for turn in 1..=2 {
        let expected: Vec<String> = (0..10).map(|bit| (last(bit) * turn).to_string()).collect();
        let sql = format!("SELECT CONCAT_WS(',', {}) FROM t WHERE id = {turn}", names.join(", "));
        assert_eq!(server.one("crm", &sql).await.unwrap(), expected.join(","));
    }
}

#[tokio::test]
async fn loaders_commit_side_by_side_and_a_takeover_ends_what_they_have_not_committed() {
    let (server, c) = server().await;
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let table = target(&[("id", int(32))]);
    let row = |id| batch(&table, WriteOp::Upsert, &[0], vec![vec![Value::Int(id)]]);
    let mark = |epoch, seq| Mark { epoch, seq, hops: HopList::default() };
    let ids = "SELECT group_concat(id ORDER BY id) FROM crm.t";
    let (mut open, _) = take(&*c).await;
    open.sink.save_position(&mark(1, 1), &Position::new("0-1-7")).await.unwrap();
    let mut loaders = Vec::new();
    for lane in 1..=2 {
        loaders.push(c.open_loader(&spec(), 1, lane).await.unwrap());
    }
    // Both transactions are open at once.
    for (seq, round) in [(1, 0), (2, 10)] {
        for (i, loader) in (1i64..).zip(&mut loaders) {
            loader.begin(&mark(1, seq)).await.unwrap();
            loader.write(&[row(round + i)]).await.unwrap();
        }
        for loader in &mut loaders {
            loader.commit(&Position::new("0-1-7"), 0).await.unwrap();
        }
    }
    assert_eq!(server.one("crm", ids).await.unwrap(), "1,2,11,12");
    // The flow's own row is as it was, and goes on.
    let progress = c.read_progress("p'\\").await.unwrap();
    assert_eq!(progress.len(), 1);
    assert_eq!((progress[0].epoch, progress[0].seq), (1, 1));
    open.sink.save_position(&mark(1, 2), &Position::new("0-1-8")).await.unwrap();
    // One hangs in an open transaction while another process takes the flow over.
    let mut hanging = loaders.remove(0);
    hanging.begin(&mark(1, 3)).await.unwrap();
    hanging.write(&[row(99)]).await.unwrap();
    drop(open);
    let taken = tokio::time::timeout(Duration::from_secs(20), hold(&*c)).await.expect("in time");
    assert_eq!(taken.progress.as_ref().map(|p| p.epoch), Some(2));
    hanging.commit(&Position::new("0-1-8"), 0).await.expect_err("it was ended");
    // Nor does one get in that comes later with the old epoch, whether it was open before or not.
    let error = c.open_loader(&spec(), 1, 1).await.err().expect("old");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let mut late = c.open_loader(&spec(), 2, 1).await.unwrap();
    // A takeover that may not end a loader waits for it.
    late.begin(&mark(2, 1)).await.unwrap();
    late.write(&[row(50)]).await.unwrap();
    let raising = server.sql("tidelock", "UPDATE progress SET epoch = 3 WHERE lane = 0");
    let committing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let epoch = "SELECT epoch FROM progress WHERE lane = 0";
        assert_eq!(server.one("tidelock", epoch).await.unwrap(), "2");
        late.commit(&Position::new("0-1-8"), 0).await
    };
    let (raised, committed) = tokio::join!(raising, committing);
    raised.unwrap();
    committed.unwrap();
    let error = late.begin(&mark(2, 2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(late);
    assert_eq!(server.one("crm", ids).await.unwrap(), "1,2,11,12,50");
}
