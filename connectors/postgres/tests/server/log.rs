//! What the log delivers.

use std::time::Duration;

use tidelock_core::{
    Change, DataType, Date, Interval, LogEvent, OldRow, Op, PositionOrder, Source, Time, Timestamp,
    Value,
};

use crate::field::{Field, commits, until};

fn changes(events: Vec<LogEvent>) -> Vec<Change> {
    events
        .into_iter()
        .filter_map(|event| match event {
            LogEvent::Change(change) => Some(change),
            _ => None,
        })
        .collect()
}

fn new_cells(change: &Change) -> &[Value] {
    match &change.op {
        Op::Insert(insert) => &insert.new.0,
        Op::Update(update) => &update.new.0,
        Op::Delete(_) => panic!("a delete has no new row"),
    }
}

async fn next(source: &mut Box<dyn Source>, count: usize) -> Vec<Change> {
    changes(commits(source, count).await.0)
}

/// Settings of the role and the database that would change every text of the stream.
const HOSTILE: &str = "ALTER ROLE tidelock SET datestyle = 'German'; \
    ALTER ROLE tidelock SET intervalstyle = 'sql_standard'; \
    ALTER ROLE tidelock SET bytea_output = 'escape'; \
    ALTER ROLE tidelock SET extra_float_digits = -3; \
    ALTER ROLE tidelock SET timezone = 'Asia/Shanghai'; \
    ALTER ROLE tidelock SET statement_timeout = '1s'; \
    ALTER ROLE tidelock SET search_path = 'nowhere'; \
    ALTER DATABASE erp SET datestyle = 'SQL, DMY';";

#[tokio::test]
async fn each_type_arrives_exactly_whatever_the_role_has_set() {
    let field = Field::new(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN code AS varchar(8) NOT NULL; \
         CREATE TABLE t (id int8 PRIMARY KEY, b bool, i2 int2, i4 int4, n numeric(12,2), m numeric, \
         f4 float4, f8 float8, tx text, v varchar(9), c char(5), by bytea, d date, ti time, \
         ts timestamp, tz timestamptz, u uuid, j json, jb jsonb, e mood, dom code, iv interval, \
         a int[])",
    )
    .await;
    field.sql(HOSTILE).await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    field
        .sql(
            "SET datestyle = ISO; SET timezone = 'UTC'; \
             INSERT INTO public.t VALUES (1, true, -2, 3, 12.50, 'NaN', 1.5, 0.1::float8 + 0.2, 'ü', 'v', 'c', \
             '\\x00ff', '2024-02-03', '24:00:00', '1969-12-31 23:59:59.999999', \
             '2000-01-01 08:00:00+08', '00112233-4455-6677-8899-aabbccddeeff', '{\"a\": 1}', \
             '{\"a\":1}', 'glad', 'x', '1 day', '{1,NULL}'), \
             (2, NULL, NULL, NULL, NULL, NULL, 'NaN', '-Infinity', '', NULL, NULL, '', 'infinity', NULL, \
             '-infinity', 'infinity', NULL, NULL, NULL, NULL, 'y', NULL, NULL), \
             (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '0044-03-15 BC', \
             NULL, '294276-12-31 00:00:00', NULL, NULL, NULL, NULL, NULL, 'z', NULL, NULL)",
        )
        .await;
    let rows = next(&mut source, 1).await;
    assert_eq!(rows.len(), 3);
    let first = [
        Value::Int(1),
        Value::Bool(true),
        Value::Int(-2),
        Value::Int(3),
        Value::Decimal("12.50".into()),
        Value::Decimal("NaN".into()),
        Value::Float32(1.5),
        Value::Float64(0.1 + 0.2),
        Value::Text("ü".into()),
        Value::Text("v".into()),
        Value::Text("c    ".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Date(Date::from_ymd(2024, 2, 3).expect("date")),
        Value::Time(Time(86_400_000_000)),
        Value::Timestamp(Timestamp(-1)),
        Value::Instant(tidelock_core::Instant(946_684_800_000_000)),
        Value::Uuid([0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255]),
        Value::Json("{\"a\": 1}".into()),
        Value::Json("{\"a\": 1}".into()),
        Value::Enum("glad".into()),
        Value::Text("x".into()),
        Value::Interval(Interval { months: 0, days: 1, micros: 0 }),
        Value::Text("{1,NULL}".into()),
    ];
    assert_eq!(new_cells(&rows[0]), first);
    let second = new_cells(&rows[1]);
    assert_eq!(second[12], Value::Date(Date::INFINITY));
    assert_eq!(second[14], Value::Timestamp(Timestamp::NEG_INFINITY));
    assert_eq!(second[15], Value::Instant(tidelock_core::Instant::INFINITY));
    assert_eq!(second[8], Value::Text("".into()));
    assert_eq!(second[9], Value::Null);
    let third = new_cells(&rows[2]);
    assert_eq!(third[12], Value::Date(Date::from_ymd(-43, 3, 15).expect("date")));
    assert!(matches!(third[14], Value::Foreign(_)));

    // The catalog and the log agree on every type.
    let tables = field.connector.catalog(&["public".into()]).await.expect("catalog");
    let table = tables.iter().find(|t| t.name.name == "t").expect("table");
    for (column, streamed) in table.columns.iter().zip(&rows[0].table.columns) {
        assert_eq!((&column.name, &column.data_type), (&streamed.name, &streamed.data_type));
    }
    assert_eq!(table.columns[4].native, "numeric(12,2)");
    assert_eq!(table.columns[19].native, "public.mood");
    assert!(!table.columns[20].nullable);
    let name = "integer[]".to_owned();
    assert_eq!(table.columns[22].data_type, DataType::Native { name, modifier: -1 });
}

#[tokio::test]
async fn old_rows_are_told_by_the_replica_identity() {
    let field = Field::new(
        "CREATE TABLE d (id int PRIMARY KEY, k int NOT NULL, a int, big text); \
         CREATE TABLE f (LIKE d INCLUDING ALL); ALTER TABLE f REPLICA IDENTITY FULL; \
         CREATE TABLE x (LIKE d INCLUDING ALL); CREATE UNIQUE INDEX x_k ON x (k); \
         ALTER TABLE x REPLICA IDENTITY USING INDEX x_k; \
         ALTER TABLE d ALTER big SET STORAGE EXTERNAL; ALTER TABLE f ALTER big SET STORAGE EXTERNAL; \
         ALTER TABLE x ALTER big SET STORAGE EXTERNAL",
    )
    .await;
    let (_, _, mut source) = field.stream(&["d", "f", "x"]).await;
    let big = Value::Text("ab".repeat(50_000).into());
    for table in ["d", "f", "x"] {
        field.sql(&format!("INSERT INTO {table} VALUES (1, 10, 0, repeat('ab', 50000))")).await;
        assert_eq!(new_cells(&next(&mut source, 1).await[0])[3], big);

        // A change that does not touch the big value.
        field.sql(&format!("UPDATE {table} SET a = 1")).await;
        let rows = next(&mut source, 1).await;
        let Op::Update(update) = &rows[0].op else { panic!("an update") };
        if table == "f" {
            assert!(matches!(&update.old, OldRow::Full(old) if old.0[3] == big));
            assert_eq!(update.new.0[3], big);
        } else {
            assert_eq!(update.old, OldRow::Absent);
            assert_eq!(update.new.0[3], Value::Unchanged);
        }

        // A change of the primary key: told where it is the identity.
        field.sql(&format!("UPDATE {table} SET id = 2")).await;
        let rows = next(&mut source, 1).await;
        let Op::Update(update) = &rows[0].op else { panic!("an update") };
        match table {
            "d" => {
                let key = [Value::Int(1), Value::Unchanged, Value::Unchanged, Value::Unchanged];
                assert!(matches!(&update.old, OldRow::Key(old) if *old.0 == key));
            }
            "f" => assert!(matches!(&update.old, OldRow::Full(old) if old.0[0] == Value::Int(1))),
            _ => assert_eq!(update.old, OldRow::Absent),
        }
        let identity: Vec<bool> = rows[0].table.columns.iter().map(|c| c.identity).collect();
        match table {
            "d" => assert_eq!(identity, [true, false, false, false]),
            "x" => assert_eq!(identity, [false, true, false, false]),
            _ => assert_eq!(identity, [true; 4]),
        }

        field.sql(&format!("DELETE FROM {table}")).await;
        let rows = next(&mut source, 1).await;
        let Op::Delete(delete) = &rows[0].op else { panic!("a delete") };
        assert!(matches!(
            (&delete.old, table),
            (OldRow::Full(_), "f") | (OldRow::Key(_), "d" | "x")
        ));
    }
}

#[tokio::test]
async fn each_row_is_read_by_the_shape_of_its_time() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY, a int)").await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    field
        .sql(
            "INSERT INTO t VALUES (1, 1); ALTER TABLE t ADD b int; INSERT INTO t VALUES (2, 2, 2); \
             ALTER TABLE t DROP a; INSERT INTO t VALUES (3, 3); TRUNCATE t",
        )
        .await;
    let (events, _) = commits(&mut source, 1).await;
    assert!(matches!(events.first(), Some(LogEvent::Begin(_))));
    assert!(events.iter().any(|e| matches!(e, LogEvent::Truncate(t) if t.tables[0].name == "t")));
    let rows = changes(events);
    let names = |i: usize| -> Vec<String> {
        rows[i].table.columns.iter().map(|c| c.name.clone()).collect()
    };
    assert_eq!(names(0), ["id", "a"]);
    assert_eq!(names(1), ["id", "a", "b"]);
    assert_eq!(names(2), ["id", "b"]);
    assert_ne!(rows[0].table.version, rows[1].table.version);
}

#[tokio::test]
async fn only_asked_tables_are_delivered_and_partitions_under_their_root() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); \
         CREATE TABLE pt (id int PRIMARY KEY) PARTITION BY RANGE (id); \
         CREATE TABLE pt1 PARTITION OF pt FOR VALUES FROM (0) TO (10)",
    )
    .await;
    field
        .sql("CREATE PUBLICATION tidelock_p_crm FOR TABLE other WITH (publish_via_partition_root)")
        .await;
    let (_, _, mut source) = field.stream(&["t", "pt"]).await;
    field.sql("BEGIN; INSERT INTO other VALUES (1); INSERT INTO pt VALUES (1); COMMIT").await;
    let rows = next(&mut source, 1).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].table.name.name, "pt");
}

#[tokio::test]
async fn an_idle_log_moves_on_and_may_be_confirmed() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (x text)").await;
    let (spec, start, mut source) = field.stream(&["t"]).await;
    field.sql("INSERT INTO busy SELECT repeat('x', 100) FROM generate_series(1, 40000)").await;
    let end = field.connector.probe(&spec, None).await.expect("probe").end;
    let mut reached = start;
    let mut grew = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !field.connector.compare(&reached, &end).expect("order").reached() {
        assert!(tokio::time::Instant::now() < deadline, "{reached} of {end}");
        source.keepalive().await.expect("keepalive");
        if let Ok(chunk) = tokio::time::timeout(Duration::from_millis(200), source.next()).await {
            for event in chunk.expect("chunk").events {
                match event {
                    LogEvent::Idle(idle) => {
                        grew |= idle.grew;
                        reached = idle.position;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(grew);
    source.confirm(&reached).await.expect("confirm");
    let confirmed = format!(
        "SELECT confirmed_flush_lsn >= '{reached}'::pg_lsn FROM pg_replication_slots \
         WHERE slot_name = 'tidelock_p_crm'"
    );
    until(&field, &confirmed, "t").await;
    let probe = field.connector.probe(&spec, None).await.expect("probe");
    assert!(probe.retained_bytes.is_some());
    field.connector.heartbeat().await.expect("heartbeat");
    let moved = format!("SELECT pg_current_wal_flush_lsn() > '{end}'::pg_lsn");
    until(&field, &moved, "t").await;
    let later = field.connector.probe(&spec, None).await.expect("probe").end;
    assert_eq!(field.connector.compare(&end, &later).expect("order"), PositionOrder::Before);
}

#[tokio::test]
async fn a_long_transaction_comes_in_chunks_and_a_dropped_next_loses_nothing() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY, x text)").await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    field.sql("INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series(1, 20000) i").await;
    let mut expected = 1;
    let mut chunks = 0;
    'all: loop {
        let chunk = match tokio::time::timeout(Duration::from_micros(300), source.next()).await {
            Err(_) => continue,
            Ok(chunk) => chunk.expect("chunk"),
        };
        assert!(chunk.bytes < 1_000_000);
        chunks += 1;
        for event in chunk.events {
            match event {
                LogEvent::Change(change) => {
                    assert_eq!(new_cells(&change)[0], Value::Int(expected));
                    expected += 1;
                }
                LogEvent::Commit(_) => break 'all,
                _ => {}
            }
        }
    }
    assert_eq!(expected, 20_001);
    assert!(chunks > 3);
}

#[tokio::test]
async fn a_server_that_shuts_down_is_let_go_though_not_all_is_confirmed() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    field.sql("INSERT INTO t VALUES (1)").await;
    commits(&mut source, 1).await;
    let both = async {
        let error = loop {
            match tokio::time::timeout(Duration::from_millis(500), source.next()).await {
                Ok(Err(error)) => break error,
                Ok(Ok(_)) => {}
                Err(_) => source.keepalive().await.expect("keepalive"),
            }
        };
        drop(source);
        error
    };
    let (stopped, error) = tokio::time::timeout(
        Duration::from_secs(20),
        futures_util::future::join(field.server.stop(), both),
    )
    .await
    .expect("in time");
    stopped.expect("stopped");
    assert_eq!(error.kind(), tidelock_core::ErrorKind::Transient, "{error}");
}
