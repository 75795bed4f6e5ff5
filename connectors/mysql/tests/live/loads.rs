//! Rows by `LOAD DATA`.

use super::*;

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
