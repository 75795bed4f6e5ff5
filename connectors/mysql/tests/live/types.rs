//! Values, from the log and from a read.

use super::*;

#[tokio::test]
async fn every_type_is_read_exactly() {
    let server = server().await;
    let c = connector(&server);
    let has_uuid = server.has_uuid().await.unwrap();
    let (uuid, uuid_value) = match has_uuid {
        true => ("uuid", "'00112233-4455-1777-8899-aabbccddee00'"),
        false => ("binary(16)", "0x00112233445517778899aabbccddee00"),
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
    let expected = match has_uuid {
        true => Value::Uuid(raw),
        false => Value::Bytes(raw.to_vec().into()),
    };
    assert_eq!(at("u"), expected);
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
