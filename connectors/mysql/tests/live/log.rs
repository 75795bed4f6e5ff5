//! What the log tells: rows, statements, places.

use super::*;

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
async fn statements_and_xa_give_up_the_table_that_they_write() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE o (id int PRIMARY KEY)")
        .await
        .unwrap();
    // The log has it in several blocks.
    let lines: String = (100_000..200_000).map(|id| format!("{id}\n")).collect();
    let file = server.write_file("lines.txt", lines.as_bytes()).unwrap();
    let load = format!(
        "SET SESSION binlog_format = STATEMENT; LOAD DATA INFILE '{}' INTO TABLE t (id)",
        file.display()
    );
    for sql in [
        "SET SESSION binlog_format = STATEMENT; INSERT INTO t VALUES (1)",
        "XA START 'a'; INSERT INTO t VALUES (2); XA END 'a'; XA PREPARE 'a'; XA COMMIT 'a'",
        &load,
    ] {
        let mut log = Log::open(&*c, &["t"]).await;
        server.sql("crm", sql).await.unwrap();
        assert!(log.changes(&*c).await.unwrap().is_empty());
        assert_eq!(log.faults, [Code::UnsupportedEvent], "{sql}");
        let mut log = Log::open(&*c, &["o"]).await;
        let once_more = match sql == load {
            true => format!("DELETE FROM t WHERE id >= 100000; {sql}"),
            false => sql.replace("INTO t VALUES (", "INTO t VALUES (1"),
        };
        server.sql("crm", &once_more).await.unwrap();
        assert!(log.changes(&*c).await.unwrap().is_empty() && log.faults.is_empty());
    }
}

/// The server escapes a file's name by backslashes whatever the session's `sql_mode` makes of them.
#[tokio::test]
async fn a_load_is_about_the_table_it_names_whatever_its_file_is_called() {
    let server = server().await;
    let c = connector(&server);
    server
        .sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE o LIKE t; CREATE DATABASE d2; CREATE TABLE d2.t LIKE t")
        .await
        .unwrap();
    for (n, (mode, name, escaped)) in [
        ("", "it's", "it''s"),
        ("NO_BACKSLASH_ESCAPES", "it's", "it''s"),
        ("ANSI_QUOTES", "a INTO TABLE o b", "a INTO TABLE o b"),
        ("NO_BACKSLASH_ESCAPES,ANSI_QUOTES", "a' \"", "a'' \""),
    ]
    .into_iter()
    .enumerate()
    {
        let load = |into: &str, number: usize| {
            let file = server.write_file(name, format!("{number}\n").as_bytes()).unwrap();
            let file = file.display().to_string().replace(name, escaped);
            format!(
                "SET SESSION binlog_format = STATEMENT, SESSION sql_mode = '{mode}'; LOAD DATA INFILE '{file}' REPLACE INTO TABLE {into}"
            )
        };
        let mut log = Log::open(&*c, &["t", "o"]).await;
        // The same name in another database, by name or by default, and what is not mapped at all.
        server.sql("crm", &load("d2.`t`", n)).await.unwrap();
        server.sql("d2", &load("t", n)).await.unwrap();
        server.sql("crm", "INSERT INTO o VALUES (1)").await.unwrap();
        assert_eq!(log.changes(&*c).await.unwrap().len(), 1, "{name}");
        assert!(log.faults.is_empty(), "{name}");
        server.sql("d2", &load("crm . `t`", n)).await.unwrap();
        server.sql("crm", "DELETE FROM o").await.unwrap();
        assert_eq!(log.changes(&*c).await.unwrap().len(), 1, "{name}");
        assert_eq!(log.faults, [Code::UnsupportedEvent], "{name} under {mode}");
    }
}

/// A procedure that has used a temporary table marks all that it does after that as if it were about one.
#[tokio::test]
async fn what_is_done_to_a_temporary_table_is_told_from_what_is_done_to_the_table_of_its_name() {
    let server = server().await;
    let c = connector(&server);
    if c.identify().await.unwrap().version.starts_with("MySQL") {
        return;
    }
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE o LIKE t").await.unwrap();
    server.sql("crm", "CREATE PROCEDURE renew() BEGIN CREATE OR REPLACE TEMPORARY TABLE tmp (id int); INSERT INTO tmp VALUES (1); TRUNCATE TABLE t; END").await.unwrap();
    let own = "CREATE TEMPORARY TABLE IF NOT EXISTS t (id int)";
    for (format, sql, truncated) in [
        ("ROW", "CALL renew()".to_owned(), 1),
        ("MIXED", "CALL renew()".to_owned(), 1),
        ("STATEMENT", "CALL renew()".to_owned(), 1),
        ("ROW", "SET STATEMENT max_statement_time = CONNECTION_ID() FOR TRUNCATE t".to_owned(), 1),
        ("ROW", format!("{own}; TRUNCATE t"), 0),
        (
            "MIXED",
            format!(
                "{own}; TRUNCATE t; INSERT INTO t VALUES (1); DELETE FROM t; FLUSH BINARY LOGS; TRUNCATE crm.t"
            ),
            0,
        ),
        (
            "STATEMENT",
            format!(
                "{own}; ALTER TABLE t ADD n int; CREATE INDEX i ON t (n); TRUNCATE t; INSERT INTO t VALUES (1, 1)"
            ),
            0,
        ),
        // It is gone again, in each of the ways in which it may go.
        ("MIXED", format!("{own}; DROP TABLE t; CALL renew()"), 1),
        (
            "MIXED",
            format!(
                "{own}; SET SESSION binlog_format = ROW; TRUNCATE t; DROP TEMPORARY TABLE t; CALL renew()"
            ),
            1,
        ),
        ("MIXED", format!("{own}; ALTER TABLE t RENAME t2; CALL renew()"), 1),
        ("MIXED", format!("{own}; RENAME TABLE t TO t3; CALL renew()"), 1),
    ] {
        let mut log = Log::open(&*c, &["t", "o"]).await;
        let set = format!("SET SESSION binlog_format = {format}; {sql}");
        server.sql("crm", &set).await.unwrap();
        server.sql("crm", "REPLACE INTO o VALUES (1)").await.unwrap();
        server.sql("crm", "DELETE FROM o").await.unwrap();
        assert_eq!(log.changes(&*c).await.unwrap().len(), 2, "{set}");
        assert_eq!((log.truncated, &log.faults[..]), (truncated, &[][..]), "{set}");
    }
    // Connections are numbered anew when the server starts.
    let mut log = Log::open(&*c, &["t", "o"]).await;
    let mut held = server.conn("crm").await.unwrap();
    use mysql_async::prelude::Queryable;
    held.query_drop("SET SESSION binlog_format = MIXED").await.unwrap();
    held.query_drop(own).await.unwrap();
    let thread: u32 = held.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap();
    server.sql("crm", "INSERT INTO o VALUES (2)").await.unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1);
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    server
        .sql("crm", &format!("SET SESSION pseudo_thread_id = {thread}; CALL renew()"))
        .await
        .unwrap();
    let mut again = Log::at(&*c, &["t", "o"], &log.position.clone()).await;
    server.sql("crm", "DELETE FROM o").await.unwrap();
    assert_eq!(again.changes(&*c).await.unwrap().len(), 1);
    assert_eq!((again.truncated, &again.faults[..]), (1, &[][..]));
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

#[tokio::test]
async fn what_the_log_keeps_and_for_how_long_is_told() {
    let server = server().await;
    let c = connector(&server);
    let seconds = "SHOW GLOBAL VARIABLES LIKE 'binlog_expire_logs_seconds'";
    let (keep, kept) = match server.rows("crm", seconds).await.unwrap().is_empty() {
        false => ("binlog_expire_logs_seconds = 3600", 3600.0),
        true => ("expire_logs_days = 1", 86_400.0),
    };
    let begin = format!("SET GLOBAL {keep}; CREATE TABLE t (id int PRIMARY KEY, v longtext)");
    server.sql("crm", &begin).await.unwrap();
    c.ensure_meta().await.unwrap();
    let spec = source_spec(&["t"]);
    let start = c.create_stream(&spec, false).await.unwrap();
    server.sql("crm", "INSERT INTO t VALUES (1, REPEAT('x', 100000))").await.unwrap();
    let near = c.probe(&spec, Some(&start)).await.unwrap();
    assert!(near.retained_bytes.is_some_and(|b| (100_000..102_000).contains(&b)), "{near:?}");
    assert_eq!(near.headroom_seconds, Some(kept), "the newest file is never removed");
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
    assert!(
        far.headroom_seconds.is_some_and(|s| (kept - 100.0..=kept - 2.0).contains(&s)),
        "{far:?}"
    );
    assert_eq!(c.bytes_between(&start, &far.end), far.retained_bytes);
    // The flow's own dump is not disturbed by looking.
    let mut log = Log::at(&*c, &["t"], &start).await;
    assert_eq!(log.changes(&*c).await.unwrap().len(), 2);

    let never = keep.split(' ').next().unwrap();
    server.sql("crm", &format!("SET GLOBAL {never} = 0")).await.unwrap();
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
        "SET SESSION binlog_format = STATEMENT; CREATE TEMPORARY TABLE t (id int); TRUNCATE t; TRUNCATE TABLE crm.t; DROP TEMPORARY TABLE t",
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
    assert!(log.faults.is_empty() && log.truncated == 0);
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
        assert!(log.changes(&*c).await.unwrap().is_empty());
        assert_eq!(log.faults, [Code::UnsupportedEvent]);
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

/// After `RESET MASTER` the numbers begin anew, and come to those that were read already with other transactions.
#[tokio::test]
async fn a_log_that_was_begun_anew_is_not_read_on_from_its_old_numbers() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut log = Log::open(&*c, &["t"]).await;
    server
        .sql("crm", "FLUSH BINARY LOGS; FLUSH BINARY LOGS; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    assert_eq!(log.changes(&*c).await.unwrap().len(), 1);
    let position = log.position.clone();
    drop(log);
    let reset = match server.one("crm", "SELECT VERSION()").await.unwrap() {
        version if version.contains("MariaDB") => "RESET MASTER",
        _ => "RESET BINARY LOGS AND GTIDS",
    };
    server.sql("crm", reset).await.unwrap();
    for id in 100..160 {
        server.sql("crm", &format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    }
    let refused = c.open_source(&source_spec(&["t"]), &position).await.err().map(|e| e.code());
    assert_eq!(refused, Some(Code::GtidDiverged));
}

/// A statement stands in the log as the client sent it, in the client's character set.
#[tokio::test]
async fn statements_are_read_in_the_character_set_of_their_client() {
    use mysql_async::prelude::Queryable;
    let server = server().await;
    let c = connector(&server);
    for table in ["订单", "Größe"] {
        server.sql("crm", &format!("CREATE TABLE `{table}` (id int PRIMARY KEY)")).await.unwrap();
        server.sql("crm", &format!("INSERT INTO `{table}` VALUES (1)")).await.unwrap();
    }
    let mut log = Log::open(&*c, &["订单", "Größe"]).await;
    let mut client = server.conn("crm").await.unwrap();
    for (names, table) in [("gbk", &b"\xb6\xa9\xb5\xa5"[..]), ("latin1", b"Gr\xf6\xdfe")] {
        client.query_drop(format!("SET NAMES {names}")).await.unwrap();
        let sql = [b"TRUNCATE TABLE `", table, b"`"].concat();
        client.query_drop(sql).await.unwrap();
    }
    assert!(log.changes(&*c).await.unwrap().is_empty());
    assert_eq!(log.truncated, 2);
    client.query_drop("SET NAMES gbk").await.unwrap();
    client.query_drop(&b"DROP TABLE `\xb6\xa9\xb5\xa5`"[..]).await.unwrap();
    log.changes(&*c).await.unwrap();
    assert_eq!(log.faults, [Code::TableGone]);
}
