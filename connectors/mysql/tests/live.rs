//! The connector against a real server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tidelock_core::value::{Date, Instant, Timestamp};
use tidelock_core::{
    Change, Code, Connector, CopyTable, DataType, ErrorKind, HopList, KeyRange, Lease, Load,
    LogEvent, Mark, OldRow, Op, OpenSink, Position, Progress, Repertoire, Secret, ShapeChange,
    SinkSpec, Source, SourceSpec, SourceTable, SystemConfig, TableName, TargetColumn, TargetTable,
    Tls, TlsMode, Value, WriteBatch, WriteOp,
};
use tidelock_scratch::{Mysql, MysqlOptions};

async fn server() -> Mysql {
    let options = MysqlOptions::of_matrix().setting("binlog_row_metadata", "FULL");
    let server = options.start().await.unwrap();
    server.create_database("crm").await.unwrap();
    println!("server {}", server.one("crm", "SELECT VERSION()").await.unwrap());
    server
}

fn connector(server: &Mysql) -> Box<dyn Connector> {
    tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(server.url("crm")),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap()
}

fn source_spec(tables: &[&str]) -> SourceSpec {
    SourceSpec {
        pipeline: "p".into(),
        flow: "crm:erp".into(),
        slot: String::new(),
        publication: String::new(),
        tables: tables
            .iter()
            .map(|t| SourceTable {
                joins: false,
                name: TableName::new("crm", *t),
                key_columns: vec!["id".into()],
                columns: Vec::new(),
                shape: String::new(),
                optional: false,
            })
            .collect(),
        start_at: None,
        identity: String::new(),
    }
}

fn sink_spec() -> SinkSpec {
    SinkSpec {
        pipeline: "p".into(),
        flow: "erp:crm".into(),
        holder: "test".into(),
        config_hash: "h".into(),
        tables: vec![],
        routines: vec![],
        lookups: Vec::new(),
    }
}

struct Log {
    source: Box<dyn Source>,
    position: Position,
    faults: Vec<Code>,
    changed: Vec<ShapeChange>,
    truncated: usize,
}

impl Log {
    async fn open(c: &dyn Connector, tables: &[&str]) -> Log {
        c.ensure_meta().await.unwrap();
        let spec = source_spec(tables);
        let start = c.create_stream(&spec, false).await.unwrap();
        Log::at(c, tables, &start).await
    }

    async fn at(c: &dyn Connector, tables: &[&str], position: &Position) -> Log {
        let source = c.open_source(&source_spec(tables), position).await.unwrap();
        Log { source, position: position.clone(), faults: vec![], changed: vec![], truncated: 0 }
    }

    /// The changes up to the server's present end.
    async fn changes(&mut self, c: &dyn Connector) -> tidelock_core::Result<Vec<Change>> {
        let end = c.probe(&source_spec(&[]), None).await.unwrap().end;
        let mut changes = Vec::new();
        while !c.compare(&self.position, &end).unwrap().reached() {
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.source.next())
                .await
                .expect("the log stands still")?;
            for event in chunk.events {
                match event {
                    LogEvent::Change(change) => changes.push(change),
                    LogEvent::Commit(x) => self.position = x.position,
                    LogEvent::Idle(x) => self.position = x.position,
                    LogEvent::TableFault(f) => self.faults.push(f.error.code()),
                    LogEvent::TableChanged(x) => self.changed.push(x.change),
                    LogEvent::Truncate(_) => self.truncated += 1,
                    LogEvent::Begin(b) => assert!(b.commit_micros > 1_600_000_000_000_000),
                }
            }
        }
        Ok(changes)
    }
}

fn inserted(change: &Change) -> &[Value] {
    match &change.op {
        Op::Insert(i) => &i.new.0,
        other => panic!("{other:?}"),
    }
}

fn text(t: &str) -> Value {
    Value::Text(t.to_owned().into())
}

#[tokio::test]
async fn every_type_is_read_exactly() {
    let server = server().await;
    let c = connector(&server);
    let mysql = c.identify().await.unwrap().version.starts_with("MySQL");
    let uuid = if mysql { "binary(16)" } else { "uuid" };
    let uuid_value = if mysql {
        "0x00112233445517778899aabbccddee00"
    } else {
        "'00112233-4455-1777-8899-aabbccddee00'"
    };
    server
        .sql(
            "crm",
            &format!(
                "SET sql_mode=''; CREATE TABLE t (id mediumint PRIMARY KEY, tiny tinyint unsigned, \
                 big bigint unsigned, small smallint, d decimal(65,30), dd decimal(10,2), \
                 fixed binary(4), v varchar(300), l varchar(20) CHARACTER SET latin1, \
                 f float, g double, da date, dt datetime(6), ts timestamp(3) NULL, ti time(6), \
                 e enum('a','b''c'), b blob, u {uuid}, j json, y year, bi bit(9), ch char(5), \
                 ge geometry, se set('x','y'), tail int)"
            ),
        )
        .await
        .unwrap();
    let tables = c.catalog(&["crm".into()]).await.unwrap();
    assert_eq!(tables.len(), 1);
    assert_eq!(tables[0].column("j").unwrap().data_type, DataType::Json);
    assert_eq!(tables[0].primary_key().unwrap(), ["id"]);
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql(
            "crm",
            &format!(
                "SET sql_mode='', time_zone='+09:00'; INSERT INTO t VALUES (-5, 255, 18446744073709551615, -3, \
                 -0.000000000000000000000000000001, -12.50, 0x61000000, 'Köln😀', 'é€', 1.1, 0.1, \
                 '2024-02-29', '2024-01-02 03:04:05.678901', '2024-01-01 09:00:00.5', '-838:59:58.5', \
                 'b''c', 0x00ff00, {uuid_value}, '{{\"a\": [1, 2.5, null, \"x\"]}}', 2000, 257, 'ab', \
                 ST_GeomFromText('POINT(1 2)'), 'y', 42)"
            ),
        )
        .await
        .unwrap();
    server
        .sql("crm", "SET sql_mode=''; INSERT INTO t (id, da, dt, ts, e) VALUES (-8388608, '0000-00-00', '2024-00-10', 0, 'zz')")
        .await
        .unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!(changes.len(), 2, "{:?}", log.faults);
    let row = inserted(&changes[0]);
    let at = |n: &str| {
        let i = changes[0].table.columns.iter().position(|c| c.name == n).unwrap();
        row[i].clone()
    };
    assert_eq!(at("id"), Value::Int(-5));
    assert_eq!(at("tiny"), Value::UInt(255));
    assert_eq!(at("big"), Value::UInt(u64::MAX));
    assert_eq!(at("small"), Value::Int(-3));
    assert_eq!(at("d"), Value::Decimal("-0.000000000000000000000000000001".into()));
    assert_eq!(at("dd"), Value::Decimal("-12.50".into()));
    assert_eq!(at("fixed"), Value::Bytes((&b"a\0\0\0"[..]).into()));
    assert_eq!(at("v"), text("Köln😀"));
    assert_eq!(at("l"), text("é€"));
    assert_eq!(at("f"), Value::Float32(1.1));
    assert_eq!(at("g"), Value::Float64(0.1));
    assert_eq!(at("da"), Value::Date(Date::from_ymd(2024, 2, 29).unwrap()));
    assert_eq!(at("dt"), Value::Timestamp(Timestamp(1_704_164_645_678_901)));
    assert_eq!(at("ts"), Value::Instant(Instant(1_704_067_200_500_000)));
    assert_eq!(
        at("ti"),
        Value::Time(tidelock_core::Time(-(838 * 3600 + 59 * 60 + 58) * 1_000_000 - 500_000))
    );
    assert_eq!(at("e"), Value::Enum("b'c".into()));
    assert_eq!(at("b"), Value::Bytes((&[0u8, 255, 0][..]).into()));
    let raw = [
        0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x17, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
        0x00,
    ];
    if mysql {
        assert_eq!(at("u"), Value::Bytes(raw.to_vec().into()));
    } else {
        assert_eq!(at("u"), Value::Uuid(raw));
    }
    assert_eq!(at("j"), Value::Json("{\"a\": [1, 2.5, null, \"x\"]}".into()));
    assert_eq!(at("ch"), text("ab"));
    assert_eq!(at("tail"), Value::Int(42));
    let odd = inserted(&changes[1]);
    assert_eq!(odd[0], Value::Int(-8_388_608));
    let foreign: Vec<String> = odd
        .iter()
        .filter_map(|v| match v {
            Value::Foreign(t) => Some(t.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        foreign,
        ["0000-00-00", "2024-00-10 00:00:00.000000", "0000-00-00 00:00:00.000", ""]
    );
    // A piece of a copy gives the same values as the log, type by type.
    let wanted = CopyTable {
        name: TableName::new("crm", "t"),
        columns: "id tiny big small d dd fixed v l f g da dt ts ti e b u j ch tail"
            .split(' ')
            .map(str::to_owned)
            .collect(),
        key: vec!["id".to_owned()],
        filter: None,
    };
    let mut copier = c.copier().await.unwrap();
    let upto = copier.snapshot(&log.position, &[]).await.unwrap().expect("all is visible");
    assert!(c.compare(&upto, &log.position).unwrap().reached());
    let everything = KeyRange { after: None, upto: None };
    let piece = copier.read(&wanted, &everything, usize::MAX).await.unwrap();
    let mut compared = 0;
    for change in &changes {
        let row = inserted(change);
        let of = |name: &str| {
            let at = change.table.columns.iter().position(|x| x.name == name).unwrap();
            &row[at]
        };
        let copied = piece.rows.iter().find(|r| r.0[0] == *of("id")).expect("the row");
        for (name, value) in wanted.columns.iter().zip(&copied.0) {
            assert_eq!(value, of(name), "column {name}");
            compared += 1;
        }
    }
    assert!(compared >= 2 * wanted.columns.len());
}

#[tokio::test]
async fn images_ddl_and_faults_are_told_apart() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(20)); CREATE TABLE other (id int)")
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql("crm", "INSERT INTO t VALUES (1, 1, 'x'), (2, 2, 'y'); INSERT INTO other VALUES (1)")
        .await
        .unwrap();
    server
        .sql("crm", "SET SESSION binlog_row_image = MINIMAL; UPDATE t SET a = 9 WHERE id = 1")
        .await
        .unwrap();
    server.sql("crm", "ALTER TABLE t ADD COLUMN z int FIRST; UPDATE t SET id = 3 WHERE id = 2; TRUNCATE TABLE t").await.unwrap();
    server.sql("crm", "BEGIN; INSERT INTO t VALUES (1, 5, 1, 'x'); SAVEPOINT s; INSERT INTO t VALUES (1, 6, 1, 'x'); ROLLBACK TO s; COMMIT").await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!(changes.len(), 5, "{changes:#?}");
    let Op::Update(u) = &changes[2].op else { panic!() };
    assert_eq!(*u.new.0, [Value::Int(1), Value::Int(9), Value::Unchanged]);
    assert!(matches!(&u.old, OldRow::Key(r) if r.0[0] == Value::Int(1)));
    let Op::Update(u) = &changes[3].op else { panic!() };
    assert_eq!(changes[3].table.columns[0].name, "z");
    assert!(changes[3].table.version != changes[0].table.version);
    assert_eq!((&u.new.0[0], &u.new.0[1]), (&Value::Null, &Value::Int(3)));
    assert!(matches!(&u.old, OldRow::Full(r) if r.0[1] == Value::Int(2)));
    assert_eq!(log.truncated, 1);
    assert!(log.faults.is_empty());
    // From the position on nothing comes again.
    let mut again = Log::at(&*c, &["t"], &log.position.clone()).await;
    server.sql("crm", "INSERT INTO t VALUES (1, 7, 1, 'x')").await.unwrap();
    assert_eq!(again.changes(&*c).await.unwrap().len(), 1);
    server.sql("crm", "DROP TABLE t").await.unwrap();
    again.changes(&*c).await.unwrap();
    assert_eq!(again.faults, [Code::TableGone]);
}

#[tokio::test]
async fn compressed_events_are_read() {
    let server = server().await;
    let c = connector(&server);
    let mysql = c.identify().await.unwrap().version.starts_with("MySQL");
    let on = if mysql {
        "SET GLOBAL binlog_transaction_compression = ON"
    } else {
        "SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10"
    };
    server
        .sql("crm", &format!("CREATE TABLE t (id int PRIMARY KEY, v varchar(2000)); {on}"))
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql("crm", "INSERT INTO t VALUES (1, REPEAT('x', 2000)), (2, REPEAT('y', 2000)); \
             UPDATE t SET v = REPEAT('z', 1000); DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3, 'q')")
        .await
        .unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 6);
}

#[tokio::test]
async fn statements_and_xa_on_a_mapped_table_halt() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE o (id int PRIMARY KEY)")
        .await
        .unwrap();
    for sql in [
        "SET SESSION binlog_format = STATEMENT; INSERT INTO t VALUES (1)",
        "XA START 'a'; INSERT INTO t VALUES (2); XA END 'a'; XA PREPARE 'a'; XA COMMIT 'a'",
    ] {
        let mut log = Log::open(&*c, &["t"]).await;
        server.sql("crm", sql).await.unwrap();
        let error = log.changes(&*c).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Continuity, Code::UnsupportedEvent),
            "{error}"
        );
        let mut log = Log::open(&*c, &["o"]).await;
        server.sql("crm", &sql.replace("INTO t VALUES (", "INTO t VALUES (1")).await.unwrap();
        assert!(log.changes(&*c).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn lost_and_foreign_history_is_named() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    c.ensure_meta().await.unwrap();
    let mut spec = source_spec(&["t"]);
    let start = c.create_stream(&spec, false).await.unwrap();
    let identity = c.identify().await.unwrap().history;
    spec.identity = identity.clone();
    assert!(c.open_source(&spec, &start).await.is_ok());
    let code = async |spec: &SourceSpec, p: &str| match c.open_source(spec, &Position::new(p)).await
    {
        Err(e) => e.code(),
        Ok(mut s) => s.next().await.unwrap_err().code(),
    };
    let ahead = if identity.starts_with("mysql") {
        format!("{}:1-99999", identity.trim_start_matches("mysql:"))
    } else {
        "0-1-99999".to_owned()
    };
    assert_eq!(code(&spec, &ahead).await, Code::GtidDiverged);
    if identity.starts_with("mariadb") {
        spec.identity = "mariadb:other".into();
        assert_eq!(code(&spec, start.as_str()).await, Code::SourceForeign);
        spec.identity = identity;
    }
    server
        .sql("crm", "FLUSH BINARY LOGS; INSERT INTO t VALUES (2); FLUSH BINARY LOGS")
        .await
        .unwrap();
    let last =
        server.rows("crm", "SHOW BINARY LOGS").await.unwrap().last().unwrap()[0].clone().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.sql("crm", &format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
    assert_eq!(code(&spec, start.as_str()).await, Code::LogPurged);
}

fn target(columns: &[(&str, DataType)], key: &[usize]) -> Arc<TargetTable> {
    Arc::new(TargetTable {
        id: 1,
        name: TableName::new("crm", "t"),
        columns: columns
            .iter()
            .map(|(name, data_type)| TargetColumn {
                name: (*name).into(),
                data_type: data_type.clone(),
                native: String::new(),
                identity_always: false,
            })
            .collect(),
        key: key.to_vec(),
        suppress_unchanged: true,
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

async fn hold(c: &dyn Connector) -> OpenSink {
    for _ in 0..50 {
        if let Lease::Held(open) = c.open_sink(&sink_spec()).await.unwrap() {
            return open;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the lease is never free")
}

/// Writes in a transaction of its own, taking the flow over first.
async fn write(c: &dyn Connector, batches: &[WriteBatch]) -> tidelock_core::Result<()> {
    let mut open = hold(c).await;
    let (epoch, seq) = match &open.progress {
        Some(p) => (p.epoch, p.seq + 1),
        None => {
            open.sink.create_progress(&progress()).await?;
            (1, 1)
        }
    };
    open.sink.begin(&Mark { epoch, seq, hops: HopList::default() }).await?;
    open.sink.write(batches).await?;
    open.sink.commit(&Position::new(format!("0-1-{seq}")), 7).await
}

fn progress() -> Progress {
    Progress {
        pipeline: "p".into(),
        flow: "erp:crm".into(),
        epoch: 1,
        seq: 0,
        source_identity: "x".into(),
        position: Position::new("0-1-0"),
        config_hash: "h".into(),
        source_commit_micros: 0,
    }
}

fn int() -> DataType {
    DataType::Int { bits: 32, unsigned: false }
}

fn varchar() -> DataType {
    DataType::Text {
        chars_max: Some(20),
        bytes_max: Some(80),
        repertoire: Repertoire::Unicode,
        padded: false,
    }
}

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
async fn what_the_log_keeps_and_for_how_long_is_told() {
    let server = server().await;
    let c = connector(&server);
    let begin = "SET GLOBAL binlog_expire_logs_seconds = 3600; CREATE TABLE t (id int PRIMARY KEY, v longtext)";
    server.sql("crm", begin).await.unwrap();
    c.ensure_meta().await.unwrap();
    let spec = source_spec(&["t"]);
    let start = c.create_stream(&spec, false).await.unwrap();
    server.sql("crm", "INSERT INTO t VALUES (1, REPEAT('x', 100000))").await.unwrap();
    let near = c.probe(&spec, Some(&start)).await.unwrap();
    assert!(near.retained_bytes.is_some_and(|b| (100_000..102_000).contains(&b)), "{near:?}");
    assert_eq!(near.headroom_seconds, Some(3600.0), "the newest file is never removed");
    assert!(!near.freed_by_confirming);
    assert_eq!(c.bytes_between(&start, &near.end), near.retained_bytes);

    server.sql("crm", "FLUSH BINARY LOGS").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    server
        .sql("crm", "FLUSH BINARY LOGS; INSERT INTO t VALUES (2, REPEAT('y', 50000))")
        .await
        .unwrap();
    let far = c.probe(&spec, Some(&start)).await.unwrap();
    assert!(far.retained_bytes.is_some_and(|b| (150_000..155_000).contains(&b)), "{far:?}");
    assert!(far.headroom_seconds.is_some_and(|s| (3500.0..=3598.0).contains(&s)), "{far:?}");
    assert_eq!(c.bytes_between(&start, &far.end), far.retained_bytes);
    // The flow's own dump is not disturbed by looking.
    let mut log = Log::at(&*c, &["t"], &start).await;
    assert_eq!(log.changes(&*c).await.unwrap().len(), 2);

    server.sql("crm", "SET GLOBAL binlog_expire_logs_seconds = 0").await.unwrap();
    let limited = server.sql("crm", "SET GLOBAL max_binlog_total_size = 10485760").await.is_ok();
    let forever = connector(&server).probe(&spec, Some(&start)).await.unwrap();
    assert_eq!((forever.headroom_seconds, forever.retained_bytes), (None, far.retained_bytes));
    assert_eq!(forever.headroom_bytes.is_some(), limited);
    assert!(
        forever.headroom_bytes.is_none_or(|b| (10_300_000..10_336_000).contains(&b)),
        "{forever:?}"
    );
    let gone = Position::new(start.as_str().replace("binlog.", "other."));
    let unknown = c.probe(&spec, Some(&gone)).await.unwrap();
    assert_eq!((unknown.retained_bytes, unknown.headroom_seconds), (None, None));
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
async fn our_own_transactions_start_with_the_progress_row() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    let t = target(&[("id", int()), ("v", int())], &[0]);
    let rows = vec![vec![Value::Int(1), Value::Int(2)]];
    let b = batch(&t, WriteOp::Upsert, &[0, 1], rows);
    write(&*c, std::slice::from_ref(&b)).await.unwrap();
    write(&*c, &[b]).await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    let names: Vec<&str> = changes.iter().map(|c| c.table.name.name.as_str()).collect();
    // create; mark, row, position; epoch; mark, position: the unchanged row leaves no trace.
    assert_eq!(
        names,
        ["progress", "progress", "t", "progress", "progress", "progress", "progress"]
    );
    let Op::Update(mark) = &changes[1].op else { panic!() };
    let hop = changes[1].table.columns.iter().position(|c| c.name == "hop_list").unwrap();
    assert_eq!(mark.new.0[hop], text("1"));
}

#[tokio::test]
async fn preflight_names_what_is_wrong_with_the_statement_that_mends_it() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, v int); SET GLOBAL binlog_row_image = MINIMAL; SET GLOBAL binlog_format = MIXED").await.unwrap();
    let found = c.preflight_source(&source_spec(&["t"])).await.unwrap();
    let all: Vec<&str> = found.iter().flat_map(|f| f.sql.iter().map(String::as_str)).collect();
    assert!(all.contains(&"SET GLOBAL binlog_format = 'ROW';"), "{found:#?}");
    assert!(all.contains(&"SET GLOBAL binlog_row_image = 'FULL';"), "{found:#?}");
    let found = c.preflight_target(&sink_spec()).await.unwrap();
    assert!(found.iter().all(|f| f.severity == tidelock_core::Severity::Warning), "{found:#?}");
}

#[tokio::test]
async fn traffic_of_others_only_moves_the_position() {
    let server = server().await;
    let c = connector(&server);
    let mysql = c.identify().await.unwrap().version.starts_with("MySQL");
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    for sql in [
        "CREATE TABLE m (id int) ENGINE=MyISAM; INSERT INTO m VALUES (1); BEGIN; INSERT INTO m VALUES (2); ROLLBACK",
        "CREATE TABLE x AS SELECT 1 AS a; CREATE TABLE y LIKE t; DROP TABLE y; RENAME TABLE x TO x2",
        "BEGIN; INSERT INTO x2 VALUES (2); CREATE TABLE z (id int); ROLLBACK; ANALYZE TABLE t",
        "CREATE TEMPORARY TABLE tmp (id int); INSERT INTO tmp VALUES (1); DROP TEMPORARY TABLE tmp",
        "CREATE VIEW v AS SELECT * FROM t; CREATE INDEX i ON t (id); DROP INDEX i ON t; FLUSH LOGS",
        "CREATE TRIGGER g BEFORE INSERT ON x2 FOR EACH ROW SET NEW.a = 1; CREATE DATABASE d2; DROP DATABASE d2",
        "CREATE USER u1 IDENTIFIED BY 'Zz1!zzzz'; GRANT SELECT ON crm.t TO u1; DROP USER u1",
        "XA START 'q'; INSERT INTO x2 VALUES (5); XA END 'q'; XA PREPARE 'q'; XA ROLLBACK 'q'",
    ] {
        server.sql("crm", sql).await.unwrap();
    }
    if !mysql {
        server
            .sql(
                "crm",
                "CREATE SEQUENCE s; SELECT NEXTVAL(s); SET gtid_domain_id = 5; INSERT INTO x2 VALUES (6); \
                 CREATE OR REPLACE TABLE x2 AS SELECT 2 AS b; SET SESSION server_id = 99; INSERT INTO z VALUES (1)",
            )
            .await
            .unwrap();
    }
    server.sql("crm", "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1);
    assert!(log.faults.is_empty());
    // A crash of the server: the position still holds.
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    let mut again = Log::at(&*c, &["t"], &log.position.clone()).await;
    server.sql("crm", "INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(again.changes(&*c).await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_names_in_the_log_an_alter_stops_its_table_only() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "SET GLOBAL binlog_row_metadata = MINIMAL; CREATE TABLE t (id int unsigned PRIMARY KEY, \
             v varchar(9), l text CHARACTER SET latin1, e enum('x','y')); CREATE TABLE o LIKE t")
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t", "o"]).await;
    server.sql("crm", "INSERT INTO t VALUES (4294967295, 'ä', 'ö', 'y')").await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!(
        inserted(&changes[0]),
        [Value::UInt(4_294_967_295), text("ä"), text("ö"), Value::Enum("y".into())]
    );
    assert_eq!(changes[0].table.columns[1].name, "v");
    server.sql("crm", "ALTER TABLE t ADD COLUMN n int; INSERT INTO t VALUES (1, '', '', 'x', 1); INSERT INTO o VALUES (1, '', '', 'x')").await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!((changes.len(), log.faults.as_slice()), (1, &[Code::SchemaDrift][..]));
}

/// While a copy waits for the log, the reader turns away from the source every few milliseconds.
#[tokio::test]
async fn a_look_at_the_catalog_ends_though_nobody_waits_for_all_of_it() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server.sql("crm", "ALTER TABLE t ADD COLUMN n int; INSERT INTO t VALUES (1, 2)").await.unwrap();
    let began = std::time::Instant::now();
    let mut cells = None;
    while cells.is_none() {
        assert!(began.elapsed() < Duration::from_secs(30), "it never ends");
        // Polled once, and given up.
        let Some(chunk) = log.source.next().now_or_never() else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        cells = chunk.unwrap().events.into_iter().find_map(|event| match event {
            LogEvent::Change(change) => Some(inserted(&change).to_vec()),
            _ => None,
        });
    }
    assert_eq!(cells.unwrap(), [Value::Int(1), Value::Int(2)]);
}

#[tokio::test]
async fn ten_thousand_rows_in_one_transaction_pass_quickly() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    let t = target(&[("id", int()), ("v", int())], &[0]);
    let rows = (0..10_000).map(|i| vec![Value::Int(i), Value::Int(i)]).collect();
    let begun = std::time::Instant::now();
    write(&*c, &[batch(&t, WriteOp::Upsert, &[0, 1], rows)]).await.unwrap();
    let written = begun.elapsed();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 10_003);
    println!("written in {written:?}, written and read in {:?}", begun.elapsed());
}

fn openssl(folder: &std::path::Path, args: &str) {
    let done = std::process::Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is needed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Keys and certificates in the server's folder, and in its option file for the next start: its own (`s`) and one for
/// clients (`c`), both by the authority `ca`; and an authority that signed neither (`stranger`).
fn certify(server: &Mysql) -> std::path::PathBuf {
    let folder = server.data_dir();
    std::fs::write(folder.join("san.cnf"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let subject = "-nodes -days 9 -newkey rsa:2048";
    for ca in ["ca", "stranger"] {
        openssl(
            &folder,
            &format!("req -x509 {subject} -keyout {ca}.k -out {ca}.crt -subj /CN={ca}"),
        );
    }
    for (name, common) in [("s", "db"), ("c", "client")] {
        openssl(
            &folder,
            &format!(
                "req -nodes -newkey rsa:2048 -keyout {name}.k -out {name}.csr -subj /CN={common}"
            ),
        );
        openssl(
            &folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.k -CAcreateserial -days 9 \
                 -out {name}.crt -extfile san.cnf"
            )
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        );
    }
    for name in ["s.crt", "s.k", "ca.crt"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let path = server.write_file(&format!("tls-{name}"), &bytes).unwrap();
        let option = match name {
            "s.crt" => "ssl-cert",
            "s.k" => "ssl-key",
            _ => "ssl-ca",
        };
        server.set_option(option, path.to_str().unwrap()).unwrap();
    }
    folder
}

fn connector_of(url: String, password: Option<&str>, tls: Tls) -> Box<dyn Connector> {
    tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(url),
        password: password.map(Secret::new),
        tls,
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap()
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let server = server().await;
    let folder = certify(&server);
    server.restart().await.unwrap();
    server.sql("", "CREATE USER sealed REQUIRE X509; GRANT ALL ON *.* TO sealed").await.unwrap();
    let url = server.url("crm").replace("tidelock@", "sealed@");
    let tls = |cert: Option<&str>, mode| Tls {
        mode,
        ca_file: (mode != TlsMode::Disable).then(|| folder.join("ca.crt")),
        cert_file: cert.map(|c| folder.join(format!("{c}.crt"))),
        key_file: cert.map(|c| folder.join(format!("{c}.k"))),
    };
    let shown = connector_of(url.clone(), None, tls(Some("c"), TlsMode::VerifyFull));
    shown.identify().await.unwrap();
    for without in [tls(None, TlsMode::VerifyFull), tls(None, TlsMode::Disable)] {
        let error = connector_of(url.clone(), None, without).identify().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Setup, Code::Authentication),
            "{error}"
        );
    }
    // By an authority that the server does not know.
    let stranger = connector_of(url, None, tls(Some("stranger"), TlsMode::VerifyFull));
    stranger.identify().await.unwrap_err();
}

#[tokio::test]
async fn ed25519_and_unknown_plugins_of_mariadb_are_answered() {
    let server = server().await;
    if connector(&server).identify().await.unwrap().version.starts_with("MySQL") {
        return;
    }
    server
        .sql(
            "",
            "INSTALL SONAME 'auth_ed25519'; \
             CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('Geheim-7'); GRANT ALL ON *.* TO ed",
        )
        .await
        .unwrap();
    let plain = || Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None };
    let url = |user: &str| server.url("crm").replace("tidelock@", &format!("{user}@"));
    connector_of(url("ed"), Some("Geheim-7"), plain()).identify().await.unwrap();
    let error = connector_of(url("ed"), Some("geheim-7"), plain()).identify().await.unwrap_err();
    assert_eq!(error.code(), Code::Authentication, "{error}");
    // From MariaDB 11.6 on.
    let parsec = "INSTALL SONAME 'auth_parsec'; CREATE USER pa IDENTIFIED VIA parsec USING PASSWORD('Geheim-7')";
    if server.sql("", parsec).await.is_ok() {
        let error =
            connector_of(url("pa"), Some("Geheim-7"), plain()).identify().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Setup, Code::Authentication));
    }
}

#[tokio::test]
async fn tls_is_verified_and_never_given_up() {
    let server = server().await;
    let folder = certify(&server);
    let dial = |host: &str, mode, ca: &str| {
        tidelock_mysql::connector(SystemConfig {
            name: "crm".into(),
            url: Secret::new(server.url("crm").replace("127.0.0.1", host)),
            password: None,
            tls: Tls { mode, ca_file: Some(folder.join(ca)), cert_file: None, key_file: None },
            meta_schema: "tidelock".into(),
            user: String::new(),
        })
        .unwrap()
    };
    dial("127.0.0.1", TlsMode::Disable, "ca.crt").identify().await.unwrap();
    // MySQL, and MariaDB from 11.4, make a certificate by themselves.
    if server.one("crm", "SELECT @@have_ssl").await.is_ok_and(|has| has != "YES") {
        let error = dial("127.0.0.1", TlsMode::Require, "ca.crt").identify().await.unwrap_err();
        assert_eq!(error.code(), Code::Tls, "{error}");
    }
    server.restart().await.unwrap();
    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        dial("127.0.0.1", mode, "ca.crt").identify().await.unwrap();
    }
    for mode in [TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let error = dial("127.0.0.1", mode, "stranger.crt").identify().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Setup, Code::Tls), "{error}");
    }
    // The certificate is not made out to this name.
    dial("localhost", TlsMode::VerifyCa, "ca.crt").identify().await.unwrap();
    let error = dial("localhost", TlsMode::VerifyFull, "ca.crt").identify().await.unwrap_err();
    assert_eq!(error.code(), Code::Tls, "{error}");
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
async fn tagged_gtids_and_binary_json_of_mysql_are_read() {
    let server = server().await;
    let c = connector(&server);
    if c.identify().await.unwrap().version.starts_with("MariaDB") {
        return;
    }
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, j json)").await.unwrap();
    server
        .sql(
            "crm",
            "CREATE TABLE o (id int PRIMARY KEY, a blob, b varbinary(9), c binary(3), d bit(9), e tinyblob); \
             INSERT INTO o VALUES (1, 'a', '', 'c', b'101', 'ef')",
        )
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql(
            "crm",
            "INSERT INTO t (j) VALUES ('[]'), ('{}'), ('{\"bb\": 1, \"a\": [1.5, -3, 70000, 18446744073709551615, \
             -9223372036854775808, true, null, {\"x\": \"é\\\\n\"}]}'), (JSON_ARRAY(CAST(1.50 AS DECIMAL(10,2)), \
             CAST('2024-01-02' AS DATE), CAST('2024-01-02 03:04:05.5' AS DATETIME(6)), CAST('-12:30:00' AS TIME))), \
             (JSON_ARRAY(REPEAT('x', 70000), 5, 70000)), (JSON_OBJECT('k', REPEAT('y', 70000), 'n', 1e300)), (NULL), ('\"s\"'), \
             ('[0.000001, 1e-15, 1.5e-16, 1.0, 1e14, 1e15, 1234567890123456.0, 100000000000000.5, -0.0]'), \
             (JSON_OBJECT('bit', b'1', 'bytes', CAST('abc' AS BINARY), 'long', REPEAT(x'ff', 150))), \
             ((SELECT JSON_ARRAY(a, b, c, d, e) FROM o))",
        )
        .await
        .unwrap();
    server
        .sql("crm", "SET gtid_next = 'AUTOMATIC:mytag'; INSERT INTO t (j) VALUES ('1')")
        .await
        .unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!(changes.len(), 12);
    assert!(log.position.as_str().contains(":mytag:1"), "{}", log.position);
    let shown = server.rows("crm", "SELECT CAST(j AS CHAR) FROM t ORDER BY id").await.unwrap();
    for (change, shown) in changes.iter().zip(shown) {
        match (&inserted(change)[1], &shown[0]) {
            (Value::Null, None) => {}
            (Value::Json(ours), Some(theirs)) => {
                let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
                let rest = |t: &str| t.chars().skip(at).take(40).collect::<String>();
                assert_eq!(rest(ours), rest(theirs), "from byte {at} on");
            }
            other => panic!("{other:?}"),
        }
    }
    // The dump starts from a set with tags, too.
    let mut again = Log::at(&*c, &["t"], &log.position.clone()).await;
    server.sql("crm", "INSERT INTO t (j) VALUES ('2')").await.unwrap();
    assert_eq!(again.changes(&*c).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_statement_is_about_the_tables_it_names() {
    let server = server().await;
    let c = connector(&server);
    let mysql = c.identify().await.unwrap().version.starts_with("MySQL");
    server
        .sql(
            "crm",
            "CREATE TABLE t (id int PRIMARY KEY); CREATE DATABASE d2; CREATE TABLE d2.t (t int)",
        )
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    // The same name elsewhere, and a column of that name.
    server
        .sql("crm", "TRUNCATE TABLE d2.t; ALTER TABLE d2.t DROP COLUMN t, ADD x int; DROP TABLE d2 . `t`; \
             CREATE TABLE d2.o LIKE t; RENAME TABLE d2.o TO d2.t; DROP DATABASE d2; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1);
    assert_eq!((log.truncated, log.faults.len()), (0, 0));
    server.sql("", "TRUNCATE crm . `t`; TRUNCATE TABLE crm.t").await.unwrap();
    log.changes(&*c).await.unwrap();
    assert_eq!((log.truncated, log.faults.len()), (2, 0));
    if !mysql {
        let set = "SET STATEMENT max_statement_time = 5 FOR";
        server
            .sql("crm", &format!("{set} TRUNCATE TABLE t; CREATE OR REPLACE TABLE o LIKE t"))
            .await
            .unwrap();
        log.changes(&*c).await.unwrap();
        assert_eq!((log.truncated, log.faults.len()), (3, 0));
        server
            .sql(
                "crm",
                &format!("SET SESSION binlog_format = STATEMENT; {set} INSERT INTO t VALUES (9)"),
            )
            .await
            .unwrap();
        assert_eq!(log.changes(&*c).await.unwrap_err().code(), Code::UnsupportedEvent);
    }
    // As online schema changers do it: the name gets its next table at once.
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql(
            "crm",
            "CREATE TABLE gho LIKE t; RENAME TABLE t TO del, gho TO t; INSERT INTO t VALUES (5)",
        )
        .await
        .unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1);
    assert!(log.faults.is_empty());
    assert!(
        matches!(&log.changed[..], [ShapeChange::Replaced(_)]),
        "no changer's name: {:?}",
        log.changed
    );
    for away in ["RENAME TABLE t TO gone", "ALTER TABLE t RENAME gone"] {
        let mut log = Log::open(&*c, &["t"]).await;
        server
            .sql("crm", &format!("{away}; CREATE TABLE t LIKE gone; DROP TABLE gone"))
            .await
            .unwrap();
        log.changes(&*c).await.unwrap();
        assert!(log.faults.is_empty(), "{away}");
        assert!(log.changed.iter().any(|c| matches!(c, ShapeChange::Replaced(_))), "{away}");
    }
    if !mysql {
        let mut log = Log::open(&*c, &["t"]).await;
        server.sql("crm", "ALTER IGNORE TABLE t ADD v int, ADD UNIQUE (v)").await.unwrap();
        log.changes(&*c).await.unwrap();
        assert!(matches!(&log.changed[..], [ShapeChange::Rows(_)]), "{:?}", log.changed);
    }
}

#[tokio::test]
async fn columns_of_an_unknown_type_stop_their_own_table_only() {
    let server = server().await;
    let c = connector(&server);
    if c.identify().await.unwrap().version.starts_with("MySQL") {
        return;
    }
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE z (id int PRIMARY KEY, b text COMPRESSED)")
        .await
        .unwrap();
    let rows = "INSERT INTO t VALUES (1); INSERT INTO z VALUES (1, REPEAT('x', 900)); INSERT INTO t VALUES (2)";
    for (tables, faults) in [(&["t"][..], &[][..]), (&["t", "z"], &[Code::SchemaDrift])] {
        let mut log = Log::open(&*c, tables).await;
        server.sql("crm", rows).await.unwrap();
        assert_eq!(log.changes(&*c).await.unwrap().len(), 2);
        assert_eq!(log.faults, faults);
        server.sql("crm", "DELETE FROM t; DELETE FROM z").await.unwrap();
    }
}

#[tokio::test]
async fn documents_that_are_logged_in_parts_stop_their_own_table_only() {
    let server = server().await;
    let c = connector(&server);
    if c.identify().await.unwrap().version.starts_with("MariaDB") {
        return;
    }
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE z (id int PRIMARY KEY, j json); \
         INSERT INTO z VALUES (1, JSON_OBJECT('a', 'some words', 'b', REPEAT('x', 500)))";
    server.sql("crm", tables).await.unwrap();
    let rows = "SET SESSION binlog_row_value_options = PARTIAL_JSON; BEGIN; INSERT INTO t VALUES (1); \
         UPDATE z SET j = JSON_SET(j, '$.a', LEFT(UUID(), 8)); INSERT INTO t VALUES (2); COMMIT; INSERT INTO t VALUES (3)";
    for (tables, faults) in [(&["t"][..], &[][..]), (&["t", "z"], &[Code::UnsupportedEvent])] {
        let mut log = Log::open(&*c, tables).await;
        server.sql("crm", rows).await.unwrap();
        assert_eq!(log.changes(&*c).await.unwrap().len(), 3);
        assert_eq!(log.faults, faults);
        server.sql("crm", "DELETE FROM t").await.unwrap();
    }
}

#[tokio::test]
async fn columns_that_only_the_catalog_tells_apart_are_refused_and_passed_over() {
    let options = MysqlOptions::of_matrix().setting("binlog_row_metadata", "MINIMAL");
    let server = options.start().await.unwrap();
    server.create_database("crm").await.unwrap();
    let c = connector(&server);
    let maria = c.identify().await.unwrap().version.starts_with("MariaDB");
    let (columns, values) = if maria {
        (
            "y year(2), a datetime(3), b time(6), c timestamp(1) NULL, d datetime NULL,",
            "24, NOW(3), '1:00', NOW(1), NOW(),",
        )
    } else {
        ("", "")
    };
    let old = if maria { "SET GLOBAL mysql56_temporal_format = OFF;" } else { "" };
    server
        .sql(
            "crm",
            &format!(
                "{old} CREATE TABLE t (id int PRIMARY KEY, {columns} e enum('😀','?') CHARACTER SET utf8mb4, \
                 s set('a','?') CHARACTER SET latin1, tail int)"
            ),
        )
        .await
        .unwrap();
    let tables = c.catalog(&["crm".into()]).await.unwrap();
    let refused =
        tables[0].columns.iter().filter(|c| matches!(c.data_type, DataType::Unsupported { .. }));
    let refused: Vec<&str> = refused.map(|c| c.name.as_str()).collect();
    assert_eq!(refused, if maria { vec!["y", "a", "b", "c"] } else { vec![] });
    let mut log = Log::open(&*c, &["t"]).await;
    let sql = format!("INSERT INTO t VALUES (1, {values} '😀', '?', 7), (2, {values} '?', 'a', 8)");
    server.sql("crm", &sql).await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!((changes.len(), log.faults.len()), (2, 0));
    for (change, (label, tail)) in changes.iter().zip([("?", 7), ("a", 8)]) {
        let row = inserted(change);
        let at = |name: &str| change.table.columns.iter().position(|x| x.name == name).unwrap();
        assert_eq!(row[at("tail")], Value::Int(tail));
        assert_eq!(row[at("s")], text(label));
        for name in refused.iter().chain(&["e"]) {
            let column = &change.table.columns[at(name)];
            assert!(matches!(column.data_type, DataType::Unsupported { .. }), "{name}");
        }
    }
}

#[tokio::test]
async fn rows_older_than_their_tables_definition_are_not_guessed_at() {
    let server = server().await;
    let c = connector(&server);
    let mysql = c.identify().await.unwrap().version.starts_with("MySQL");
    let none = if mysql { "MINIMAL" } else { "NO_LOG" };
    server
        .sql(
            "crm",
            &format!(
                "SET GLOBAL binlog_row_metadata = {none}; CREATE TABLE t (id int PRIMARY KEY, \
             a int, b int, e enum('x','y'))"
            ),
        )
        .await
        .unwrap();
    let log = Log::open(&*c, &["t"]).await;
    server.sql("crm", "INSERT INTO t VALUES (1, 10, 20, 'x')").await.unwrap();
    let mut same = Log::at(&*c, &["t"], &log.position).await;
    assert_eq!(same.changes(&*c).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.sql("crm", "ALTER TABLE t MODIFY a int AFTER b, MODIFY e enum('y','x')").await.unwrap();
    let mut old = Log::at(&*c, &["t"], &log.position).await;
    assert!(old.changes(&*c).await.unwrap().is_empty());
    assert_eq!(old.faults, [Code::SchemaDrift]);
}

#[tokio::test]
async fn rows_without_a_single_column_are_never_passed_over() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (a int DEFAULT 3)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql("crm", "SET SESSION binlog_row_image = MINIMAL; INSERT INTO t VALUES ()")
        .await
        .unwrap();
    // MariaDB logs their columns all the same.
    match log.changes(&*c).await {
        Ok(changes) => assert_eq!(changes.len(), 1),
        Err(error) => assert_eq!(error.code(), Code::DamagedEvent, "{error}"),
    }
}

#[tokio::test]
async fn a_domain_read_further_than_its_place_in_the_file_is_no_other_history() {
    let server = server().await;
    let c = connector(&server);
    if c.identify().await.unwrap().version.starts_with("MySQL") {
        return;
    }
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    c.ensure_meta().await.unwrap();
    server
        .sql(
            "crm",
            "SET gtid_domain_id = 7; INSERT INTO t VALUES (1); SET gtid_domain_id = 0; \
             INSERT INTO t VALUES (2)",
        )
        .await
        .unwrap();
    let set = server.one("crm", "SELECT @@gtid_binlog_pos").await.unwrap();
    let only: Vec<&str> = set.split(',').filter(|g| g.starts_with("0-")).collect();
    let mut log = Log::at(&*c, &["t"], &Position::new(only.join(","))).await;
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1, "the other domain from its start");
    let mut again = Log::at(&*c, &["t"], &log.position.clone()).await;
    server.sql("crm", "INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(again.changes(&*c).await.unwrap().len(), 1);
}

/// Writes the corpus of `src/fuzz.rs` anew, from the server that the version matrix asks for.
#[tokio::test]
#[ignore = "writes into the source tree"]
async fn record_the_corpus() {
    let server = server().await;
    let mysql = connector(&server).identify().await.unwrap().version.starts_with("MySQL");
    let (uuid, compress, none) = if mysql {
        ("binary(16)", "SET binlog_transaction_compression = ON", "MINIMAL")
    } else {
        (
            "uuid",
            "SET GLOBAL log_bin_compress = ON; SET GLOBAL log_bin_compress_min_len = 10",
            "NO_LOG",
        )
    };
    let table = format!(
        "CREATE TABLE t (id mediumint PRIMARY KEY, tiny tinyint unsigned, big bigint unsigned, \
         small smallint, d decimal(65,30), dd decimal(10,2), fixed binary(4), v varchar(300), \
         l varchar(20) CHARACTER SET latin1, f float, g double, da date, dt datetime(6), \
         ts timestamp(3) NULL, ti time(6), e enum('a','b''c'), b blob, u {uuid}, j json, y year, \
         bi bit(9), ch char(5), ge geometry, se set('x','y'), tail int)"
    );
    let row = |id: i32| {
        format!(
            "INSERT INTO t VALUES ({id}, 255, 18446744073709551615, -3, -0.5, -12.50, 0x61000000, 'Köln😀', 'é€', \
             1.1, 0.1, '2024-02-29', '2024-01-02 03:04:05.678901', '2024-01-01 09:00:00.5', '-838:59:58.5', \
             'b''c', 0x00ff00, NULL, '{{\"a\": [1, 2.5, null, \"x\", -70000, {{\"k\": true}}]}}', 2000, 257, 'ab', \
             ST_GeomFromText('POINT(1 2)'), 'y', 42)"
        )
    };
    let (one, two, three) = (row(-5), row(6), row(7));
    server.sql("crm", "FLUSH BINARY LOGS").await.unwrap();
    server
        .sql("crm", &format!("{table}; {one}; {two}; UPDATE t SET v = 'new', e = NULL; DELETE FROM t WHERE id = 6"))
        .await
        .unwrap();
    server
        .sql("crm", "SET SESSION binlog_row_image = MINIMAL; UPDATE t SET tail = 1; DELETE FROM t")
        .await
        .unwrap();
    server
        .sql("crm", &format!("SET GLOBAL binlog_row_metadata = {none}; CREATE TABLE o (id int, e enum('x')); \
             INSERT INTO o VALUES (1, 'x'), (2, NULL); SET GLOBAL binlog_row_metadata = FULL; \
             CREATE TABLE n (id int PRIMARY KEY, v text); BEGIN; INSERT INTO n VALUES (1, 'a'), (2, NULL); \
             SAVEPOINT s; INSERT INTO n VALUES (3, 'c'); ROLLBACK TO s; INSERT INTO n VALUES (4, 'd'); COMMIT; \
             TRUNCATE TABLE o; RENAME TABLE o TO p; DROP TABLE p; ALTER TABLE n ADD x int"))
        .await
        .unwrap();
    server.sql("crm", &format!("{compress}; {three}; UPDATE t SET v = REPEAT('z', 200); DELETE FROM t; ANALYZE TABLE t")).await.unwrap();
    let file = server.rows("crm", "SHOW BINARY LOGS").await.unwrap().pop().unwrap();
    let bytes = std::fs::read(server.data_dir().join(file[0].as_ref().unwrap())).unwrap();
    let version = server.one("crm", "SELECT VERSION()").await.unwrap();
    let mut text =
        format!("# {version}: type, server, seconds, end, bytes without header and checksum\n");
    let mut rest = &bytes[4..];
    while rest.len() > 19 {
        let le = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let size = le(9) as usize;
        let hex: String = rest[19..size - 4].iter().map(|b| format!("{b:02x}")).collect();
        text += &format!("{} {} {} {} {hex}\n", rest[4], le(5), le(0), le(13));
        rest = &rest[size..];
    }
    let name = if mysql { "mysql" } else { "mariadb" };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(format!("{folder}/{name}.txt"), text).unwrap();
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
    if c.identify().await.unwrap().version.starts_with("MariaDB") {
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

#[tokio::test]
async fn a_table_that_comes_to_be_refused_stops_with_that_reason() {
    let server = server().await;
    let c = connector(&server);
    let maria = !c.identify().await.unwrap().version.starts_with("MySQL");
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE o (id int PRIMARY KEY)")
        .await
        .unwrap();
    let mut log = Log::open(&*c, &["t", "o"]).await;
    server.sql("crm", "INSERT INTO t VALUES (1); INSERT INTO o VALUES (1)").await.unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 2);
    let change = if maria { "ADD SYSTEM VERSIONING" } else { "ENGINE = MyISAM" };
    server.sql("crm", &format!("ALTER TABLE t {change}")).await.unwrap();
    server.sql("crm", "INSERT INTO t VALUES (2); INSERT INTO o VALUES (2)").await.unwrap();
    let changes = log.changes(&*c).await.unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((&*changes[0].table.name.name, log.faults), ("o", vec![Code::SchemaDrift]));
}

#[tokio::test]
async fn floats_that_are_rounded_are_read_and_told_apart() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY, d double(8,2), f float(6,1), dd double, ff float(9))")
        .await
        .unwrap();
    let tables = c.catalog(&["crm".into()]).await.unwrap();
    let types: Vec<DataType> = tables[0].columns.iter().map(|c| c.data_type.clone()).collect();
    let rounded = |double, name: &str| DataType::RoundedFloat { double, name: name.to_owned() };
    let all = [rounded(true, "double(8,2)"), rounded(false, "float(6,1)")];
    assert_eq!(types[1..3], all);
    assert_eq!(types[3..], [DataType::Float64, DataType::Float32]);
    for metadata in ["FULL", "MINIMAL"] {
        server.sql("crm", &format!("SET GLOBAL binlog_row_metadata = {metadata}")).await.unwrap();
        let mut log = Log::open(&*c, &["t"]).await;
        server.sql("crm", "REPLACE INTO t VALUES (1, 1.239, 1.26, 1.239, 1.26)").await.unwrap();
        let changes = log.changes(&*c).await.unwrap();
        let change = changes.last().unwrap();
        let row = match &change.op {
            Op::Insert(i) => &i.new.0,
            Op::Update(u) => &u.new.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(row[1..3], [Value::Float64(1.24), Value::Float32(1.3)], "{:?}", log.faults);
        server.sql("crm", "TRUNCATE TABLE t").await.unwrap();
    }
}

#[tokio::test]
async fn a_document_that_a_parsed_form_would_shorten_is_refused_there_only() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, j json)").await.unwrap();
    let tables = c.catalog(&["crm".into()]).await.unwrap();
    let native = tables[0].columns[1].native.clone();
    let mut t = (*target(&[("id", int()), ("j", DataType::Json)], &[0])).clone();
    t.columns[1].native = native;
    let row = |j: &str| vec![Value::Int(1), Value::Json(j.to_owned().into())];
    let upsert = |j: &str| batch(&Arc::new(t.clone()), WriteOp::Upsert, &[0, 1], vec![row(j)]);
    write(&*c, &[upsert(r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}"#)]).await.unwrap();
    let twice = write(&*c, &[upsert(r#"{"a": 1, "a": 2}"#)]).await;
    if c.identify().await.unwrap().version.starts_with("MySQL") {
        let error = twice.unwrap_err();
        assert_eq!((error.code(), error.batch()), (Code::NotRepresentable, Some(0)), "{error}");
    } else {
        twice.unwrap();
        assert_eq!(server.one("crm", "SELECT j FROM t").await.unwrap(), r#"{"a": 1, "a": 2}"#);
    }
}

/// The target as the catalog has it, keyed by its first column.
async fn cataloged(c: &dyn Connector, name: &str, id: u64) -> Arc<TargetTable> {
    let tables = c.catalog(&["crm".into()]).await.unwrap();
    let table = tables.into_iter().find(|t| t.name.name == name).unwrap();
    let columns = table.columns.iter().map(|c| TargetColumn {
        name: c.name.clone(),
        data_type: c.data_type.clone(),
        native: c.native.clone(),
        identity_always: false,
    });
    Arc::new(TargetTable {
        id,
        name: table.name.clone(),
        columns: columns.collect(),
        key: vec![0],
        suppress_unchanged: false,
        partial: false,
    })
}

async fn load(
    c: &dyn Connector,
    table: &Arc<TargetTable>,
    rows: &Vec<Box<[Value]>>,
) -> tidelock_core::Result<()> {
    let mut open = hold(c).await;
    let (epoch, seq) = match &open.progress {
        Some(p) => (p.epoch, p.seq + 1),
        None => {
            open.sink.create_progress(&progress()).await?;
            (1, 1)
        }
    };
    open.sink.begin(&Mark { epoch, seq, hops: HopList::default() }).await?;
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    let (mapping, table, columns) = ("m".into(), table.clone(), columns.into());
    open.sink.load(&Load { mapping, table, columns, rows }).await?;
    open.sink.commit(&Position::new(format!("0-1-{seq}")), 7).await
}

/// How many loads the server has run.
async fn loads(server: &Mysql) -> u32 {
    let rows = server.rows("crm", "SHOW GLOBAL STATUS LIKE 'Com_load'").await.unwrap();
    rows[0][1].clone().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_load_stores_what_single_rows_store() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    server.sql("crm", "SET GLOBAL local_infile = ON").await.unwrap();
    let sql = "CREATE TABLE src (id bigint PRIMARY KEY, ti tinyint, su smallint unsigned, mi mediumint, bu bigint unsigned, \
         d decimal(65,30), f float, g double, ch char(5), v varchar(40), la varchar(40) CHARACTER SET latin1, tx longtext, \
         bi binary(4), vb varbinary(40), bl longblob, da date, tm time(6), dt datetime(6), d3 datetime(3), ts timestamp(6) NULL, \
         e enum('1','2','a\\\\b',''), j json)";
    server.sql("crm", sql).await.unwrap();
    for copy in ["loaded", "single"] {
        server.sql("crm", &format!("CREATE TABLE {copy} LIKE src")).await.unwrap();
    }
    let values = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', SESSION time_zone = '+00:00'; INSERT INTO src VALUES \
         (0, -128, 65535, -8388608, 18446744073709551615, '-99999999999999999999999999999999999.999999999999999999999999999999', \
          -3.4028235e38, 5e-324, 'ab', 'a\\tb\\nc\\\\N\\0\\r\\Z', 'é\\\\', '\\\\', 0x00FF5C0A, '', 0x00095C4E0D0A1A, '0000-00-00', \
          '-838:59:59.000001', '0000-00-00', '2024-00-10 00:00:00.000', '1970-01-01 00:00:01', '2', '{\"a\": [1, 2.5, \"\\\\n\"]}'), \
         (-5, 127, 0, 8388607, 0, '0.000000000000000000000000000001', 1e-45, 1.7976931348623157e308, '', '', '', '', 0x20202020, 0x20, '', \
          '9999-12-31', '838:59:59', '9999-12-31 23:59:59.999999', '1000-01-01 00:00:00.001', '2038-01-19 03:14:07.999999', '', 'null'), \
         (7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (8, 0, 1, 0, 1, 1, 16777216, 0.1, '漢', '\u{1F600} 漢字', 'ÿ', 'N', 0x31000000, 0xFF, 0xF09F9880, '0001-01-01', '00:00:00.5', \
          '2024-02-29 12:00:00.1', '2024-02-29 12:00:00.12', '2001-09-09 01:46:40', 'a\\\\b', '[]'), \
         (9, 0, 1, 0, 1, 1, 0.1, -0.0, '', 'NULL', '', '\\t', 0x5C4E0000, 0x5C4E, 0x5C4E, NULL, NULL, NULL, NULL, NULL, '1', '{}')";
    server.sql("crm", values).await.unwrap();
    let (loaded, single) = (cataloged(&*c, "loaded", 1).await, cataloged(&*c, "single", 2).await);
    let wanted = CopyTable {
        name: TableName::new("crm", "src"),
        columns: loaded.columns.iter().map(|c| c.name.clone()).collect(),
        key: vec!["id".to_owned()],
        filter: None,
    };
    let mut copier = c.copier().await.unwrap();
    copier.bound(&wanted, None, 1).await.unwrap();
    let everything = KeyRange { after: None, upto: None };
    let rows = copier.read(&wanted, &everything, usize::MAX).await.unwrap().rows;
    let rows: Vec<Box<[Value]>> = rows.into_iter().map(|row| row.0).collect();
    assert_eq!(rows.len(), 5);
    load(&*c, &loaded, &rows).await.unwrap();
    assert_eq!(loads(&server).await, 1);
    server.sql("crm", "SET GLOBAL local_infile = OFF").await.unwrap();
    load(&*c, &single, &rows).await.unwrap();
    assert_eq!(loads(&server).await, 1);
    let sums = server.rows("crm", "CHECKSUM TABLE src, loaded, single").await.unwrap();
    assert!(sums.iter().all(|sum| sum[1].is_some() && sum[1] == sums[0][1]), "{sums:?}");
    // Ten thousand rows go in many messages.
    let many: Vec<Box<[Value]>> = (1000..11_000)
        .map(|id| {
            let mut row = rows[0].clone();
            row[0] = Value::Int(id);
            row
        })
        .collect();
    server.sql("crm", "SET GLOBAL local_infile = ON").await.unwrap();
    load(&*c, &loaded, &many).await.unwrap();
    assert_eq!(loads(&server).await, 2);
    assert_eq!(server.one("crm", "SELECT count(*) FROM loaded").await.unwrap(), "10005");
}

#[tokio::test]
async fn a_load_never_cuts_skips_or_replaces_a_row_unnoticed() {
    let server = server().await;
    let c = connector(&server);
    c.ensure_meta().await.unwrap();
    server.sql("crm", "SET GLOBAL local_infile = ON").await.unwrap();
    server
        .sql("crm", "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1); \
             CREATE TABLE t (id int PRIMARY KEY, n varchar(3) NOT NULL, u int UNIQUE, p int, FOREIGN KEY (p) REFERENCES parent (id)); \
             INSERT INTO t VALUES (5, 'old', 50, 1)")
        .await
        .unwrap();
    let t = cataloged(&*c, "t", 1).await;
    let row = |id: i64, n: Value, u: i64, p: i64| -> Box<[Value]> {
        [Value::Int(id), n, Value::Int(u), Value::Int(p)].into()
    };
    let cases = [
        (row(1, text("abcdef"), 1, 1), "cut"),
        (row(1, Value::Null, 1, 1), "replaced"),
        (row(1, text("abc"), 50, 1), "skipped for another's key"),
        (row(1, text("abc"), 1, 2), "skipped for want of a parent"),
        (row(1, text("abc"), 5_000_000_000, 1), "clamped"),
    ];
    for (bad, what) in cases {
        let before = loads(&server).await;
        let rows = vec![row(2, text("ok"), 2, 1), bad];
        let error = load(&*c, &t, &rows).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Data, "{what}: {error}");
        assert_eq!(loads(&server).await, before + 1, "{what}");
        assert_eq!(server.one("crm", "SELECT count(*) FROM t").await.unwrap(), "1", "{what}");
    }
    // A row that is there already is upserted, and the others with it.
    load(&*c, &t, &vec![row(5, text("new"), 51, 1), row(6, text("six"), 6, 1)]).await.unwrap();
    let all = "SELECT group_concat(n ORDER BY id) FROM t";
    assert_eq!(server.one("crm", all).await.unwrap(), "new,six");
    // A number that the server would make up by itself.
    let sql = "CREATE TABLE a (id int AUTO_INCREMENT PRIMARY KEY, n int)";
    server.sql("crm", sql).await.unwrap();
    let a = cataloged(&*c, "a", 3).await;
    let zero = vec![[Value::Int(0), Value::Int(1)].into(), [Value::Int(7), Value::Int(0)].into()];
    load(&*c, &a, &zero).await.unwrap();
    let all = "SELECT group_concat(id, ':', n ORDER BY id) FROM a";
    assert_eq!(server.one("crm", all).await.unwrap(), "0:1,7:0");
    // A type whose text the server takes otherwise keeps the table from being loaded.
    server.sql("crm", "CREATE TABLE y (id int PRIMARY KEY, n year)").await.unwrap();
    let mut y = (*cataloged(&*c, "t", 2).await).clone();
    y.name = TableName::new("crm", "y");
    y.columns.truncate(2);
    y.columns[1].native = "year(4)".into();
    y.columns[1].data_type = int();
    let before = loads(&server).await;
    load(&*c, &Arc::new(y), &vec![[Value::Int(1), Value::Int(0)].into()]).await.unwrap();
    assert_eq!(loads(&server).await, before);
    assert_eq!(server.one("crm", "SELECT n + 0 FROM y").await.unwrap(), "0");
}

#[tokio::test]
async fn a_snapshot_that_does_not_show_what_is_logged_is_told_from_one_that_does() {
    let server = server().await;
    if !server.one("crm", "SELECT VERSION()").await.unwrap().contains("MariaDB") {
        return;
    }
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut copier = c.copier().await.unwrap();
    let end = async || c.probe(&source_spec(&[]), None).await.unwrap().end;
    let before = end().await;
    assert!(copier.snapshot(&before, &[]).await.unwrap().is_some());
    // A commit that no replica answers for is logged, and shown only when the server gives up waiting.
    server
        .sql("crm", "SET GLOBAL rpl_semi_sync_master_enabled = ON, GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC, \
             GLOBAL rpl_semi_sync_master_wait_no_slave = ON, GLOBAL rpl_semi_sync_master_timeout = 4000")
        .await
        .unwrap();
    let hanging = server.sql("crm", "INSERT INTO t VALUES (1)");
    let looking = async {
        let mut logged = end().await;
        while c.compare(&before, &logged).unwrap().reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            logged = end().await;
        }
        assert!(copier.snapshot(&logged, &[]).await.unwrap().is_none(), "it is not shown yet");
        let upto = copier.snapshot(&before, &[]).await.unwrap().expect("that is shown");
        assert!(c.compare(&upto, &before).unwrap().reached());
        logged
    };
    let (inserted, logged) = tokio::join!(hanging, looking);
    inserted.unwrap();
    for _ in 0..2 {
        let upto = copier.snapshot(&logged, &[]).await.unwrap().expect("now it is shown");
        assert!(c.compare(&upto, &logged).unwrap().reached());
        // A new file without a transaction in it changes nothing.
        server.sql("crm", "FLUSH BINARY LOGS").await.unwrap();
    }
}
