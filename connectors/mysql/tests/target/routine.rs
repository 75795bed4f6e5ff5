//! Calls of procedures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::{
    Call, CallTarget, Code, DataType, ErrorKind, ParameterMode, Routine, RoutineKind, Severity,
    TableName, TargetColumn, Value, WriteOp,
};

use tidelock_scratch::Flavour;

use crate::field::{Field, INT, batch, connector, sink_spec, text};

async fn routine(field: &Field, name: &str) -> Routine {
    let all = field.connector.routines(&["crm".into()]).await.expect("routines");
    all.into_iter().find(|r| r.name.name == name).expect(name)
}

async fn callable(field: &Field, name: &str) -> Arc<CallTarget> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let routine = routine(field, name).await;
    let parameters = routine.parameters.iter().map(|parameter| TargetColumn {
        name: parameter.name.clone(),
        data_type: parameter.data_type.clone(),
        native: parameter.native.clone(),
        identity_always: false,
    });
    Arc::new(CallTarget {
        id: IDS.fetch_add(1, Ordering::Relaxed),
        name: routine.name.clone(),
        kind: routine.kind,
        parameters: parameters.collect(),
        body: routine.body.as_deref().map(Into::into),
    })
}

fn call(routine: &Arc<CallTarget>, arguments: &[Value]) -> Call {
    Call { mapping: "m".into(), routine: routine.clone(), arguments: arguments.to_vec().into() }
}

#[tokio::test]
async fn calls_are_made_in_order_inside_the_transaction() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(20)); \
         CREATE TABLE seen (n int AUTO_INCREMENT PRIMARY KEY, what varchar(500)); \
         CREATE PROCEDURE put(p_id int, `P x` varchar(10), amount decimal(9,2), day date) BEGIN \
         SELECT 'a result' AS x; \
         SAVEPOINT own; INSERT INTO seen (what) VALUES ('undone'); ROLLBACK TO own; \
         INSERT INTO seen (what) VALUES (CONCAT_WS('|', p_id, `P x`, amount, day, (SELECT a FROM t WHERE id = p_id))); \
         SELECT a INTO @nothing FROM t WHERE id = -1; SELECT 1 UNION SELECT 2; END; \
         CREATE PROCEDURE many(b bool, u bigint unsigned, c char(4), l varchar(9) CHARACTER SET latin1, \
         e enum('sad', 'ok'), j json, y varbinary(9), z timestamp(6), f float, g double, bi bit(9), s set('p','q'), ti time(3)) \
         INSERT INTO seen (what) VALUES (CONCAT_WS('|', b, u, c, l, e, j, HEX(y), z, f, g, bi + 0, s, ti, @@sql_mode LIKE '%STRICT_ALL%'))",
    )
    .await;
    let put = callable(&field, "put").await;
    let many = callable(&field, "many").await;
    let table = Arc::new(field.target("t").await);
    let mut held = field.hold().await;
    held.begin().await;
    let put_call = |id, a: Value, n: Value, d: Value| call(&put, &[INT(id), a, n, d]);
    let first = put_call(1, text("first"), Value::Null, Value::Null);
    held.open.sink.call(&[first]).await.expect("call");
    let row = batch(&table, WriteOp::Upsert, &[0, 1], vec![vec![INT(1), text("written")]]);
    held.open.sink.write(&[row]).await.expect("write");
    let values = [
        Value::Bool(true),
        Value::UInt(u64::MAX),
        text("ab  "),
        text("äö"),
        Value::Enum("ok".into()),
        Value::Json("{\"a\":1}".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Instant(tidelock_core::Instant(1_000_001)),
        Value::Float32(0.1),
        Value::Float64(0.1),
        text("101"),
        text("q"),
        Value::Time(tidelock_core::Time(-1_500_000)),
    ];
    let day = Value::Date(tidelock_core::Date(1));
    let calls = [
        put_call(1, text("a'b\\é"), Value::Decimal("-2.50".into()), Value::Null),
        call(&many, &values),
        put_call(3, Value::Null, Value::Null, day),
    ];
    held.open.sink.call(&calls).await.expect("calls");
    assert_eq!(field.one("SELECT count(*) FROM seen").await, "0", "not committed");
    held.commit().await;
    let seen = field.server.rows("crm", "SELECT what FROM seen ORDER BY n").await.expect("seen");
    let seen: Vec<&str> = seen.iter().map(|r| r[0].as_deref().expect("text")).collect();
    // MySQL keeps JSON as values, and writes it with blanks.
    let json = if field.server.flavour() == Flavour::MySql { "{\"a\": 1}" } else { "{\"a\":1}" };
    let strict = format!(
        "1|18446744073709551615|ab|äö|ok|{json}|00FF|1970-01-01 00:00:01.000001|0.1|0.1|5|q|-00:00:01.500|"
    );
    assert_eq!(seen.len(), 4);
    assert_eq!((seen[0], seen[1], seen[3]), ("1|first", "1|a'b\\é|-2.50|written", "3|1970-01-02"));
    // The mode is the one that it was made under.
    assert_eq!(&seen[2][..strict.len()], strict);
}

#[tokio::test]
async fn what_a_procedure_raises_is_an_error_of_its_call_and_undoes_all() {
    let field = Field::new(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES'; CREATE TABLE t (id int PRIMARY KEY); \
         CREATE TABLE kid (id int PRIMARY KEY, v varchar(3) NOT NULL, CONSTRAINT fk FOREIGN KEY (id) REFERENCES t (id)); \
         CREATE PROCEDURE p(id int, how varchar(10)) BEGIN DECLARE m varchar(100) DEFAULT CONCAT('no customer ', REVERSE(how), ' geheim', id); \
         INSERT INTO t VALUES (id); \
         CASE how WHEN 'raise' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = m; \
         WHEN 'parent' THEN INSERT INTO kid VALUES (-1, 'x'); \
         WHEN 'signal' THEN SIGNAL SQLSTATE '23000' SET MYSQL_ERRNO = 1452, MESSAGE_TEXT = m; \
         WHEN 'long' THEN INSERT INTO kid VALUES (id, 'geheim'); \
         WHEN 'own' THEN SIGNAL SQLSTATE '45007' SET MYSQL_ERRNO = 30007, MESSAGE_TEXT = 'not allowed here'; \
         WHEN 'gone' THEN CALL no_such_procedure(); \
         WHEN 'warn' THEN SIGNAL SQLSTATE '01000' SET MESSAGE_TEXT = 'mind'; \
         WHEN 'release' THEN RELEASE SAVEPOINT no_such_savepoint; \
         ELSE BEGIN END; END CASE; END; \
         SET SESSION sql_mode = ''; \
         CREATE PROCEDURE lenient(v varchar(3), w varchar(9)) BEGIN INSERT INTO kid SELECT id, w FROM t LIMIT 1; END",
    )
    .await;
    let p = callable(&field, "p").await;
    let lenient = callable(&field, "lenient").await;
    field.hold().await;
    let cases = [
        ("raise", Code::Rejected, "error 1644, SQLSTATE 45000: no customer … …"),
        ("parent", Code::ForeignKey, "error 1452"),
        ("signal", Code::ForeignKey, "SQLSTATE 23000: no customer … …"),
        ("long", Code::NotRepresentable, "error 1406"),
        ("own", Code::Rejected, "error 30007, SQLSTATE 45007: not allowed here"),
        ("gone", Code::SchemaDrift, "error 1305"),
        ("much too long", Code::NotRepresentable, "error 1406"),
        ("release", Code::SchemaDrift, "error 1305"),
    ];
    for (how, code, detail) in cases {
        let mut held = field.hold().await;
        held.begin().await;
        let calls = [(47110001, ""), (47110002, how), (47110003, "")]
            .map(|(id, how)| call(&p, &[INT(id), text(how)]));
        let error = held.open.sink.call(&calls).await.expect_err(how);
        let about = (error.kind(), error.code(), error.batch());
        assert_eq!(about, (ErrorKind::Data, code, Some(1)), "{how}: {error}");
        assert!(error.detail().is_some_and(|d| d.contains(detail)), "{how}: {error}");
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("geheim") && !shown.contains("4711000"), "{how}: {shown}");
        assert!(shown.contains("mapping m") && shown.contains("crm.p"), "{how}: {shown}");
    }
    // A warning that is the procedure's own affair is none of ours; a value that was cut is.
    let mut held = field.hold().await;
    held.begin().await;
    let calls = [call(&p, &[INT(1), text("warn")]), call(&lenient, &[text("abc"), text("ab")])];
    held.open.sink.call(&calls).await.expect("a warning");
    drop(held);
    for (v, w) in [("abcd", "ab"), ("abc", "abcd")] {
        let mut held = field.hold().await;
        held.begin().await;
        let calls = [call(&p, &[INT(1), text("")]), call(&lenient, &[text(v), text(w)])];
        let error = held.open.sink.call(&calls).await.expect_err("too long");
        assert_eq!((error.code(), error.batch()), (Code::NotRepresentable, Some(1)), "{error}");
    }
    field.sql("DROP PROCEDURE p").await;
    let mut held = field.hold().await;
    held.begin().await;
    let error = held.open.sink.call(&[call(&p, &[INT(1), text("")])]).await.expect_err("gone");
    assert_eq!((error.code(), error.batch()), (Code::SchemaDrift, Some(0)), "{error}");
    drop(held);
    let kept = "SELECT (SELECT count(*) FROM t) + (SELECT seq FROM tidelock.progress)";
    assert_eq!(field.one(kept).await, "0");
}

#[tokio::test]
async fn a_procedure_that_ends_our_transaction_is_met_at_once_and_named() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY); \
         CREATE PROCEDURE p(id int, how varchar(10)) BEGIN INSERT INTO t VALUES (id); \
         CASE how WHEN 'commit' THEN COMMIT; WHEN 'rollback' THEN ROLLBACK; \
         WHEN 'ddl' THEN TRUNCATE TABLE x; WHEN 'start' THEN START TRANSACTION; \
         WHEN 'fails' THEN COMMIT; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; \
         WHEN 'busy' THEN COMMIT; SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205; \
         WHEN 'conflict' THEN COMMIT; SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213; \
         ELSE BEGIN END; END CASE; END; CREATE TABLE x (id int)",
    )
    .await;
    let p = callable(&field, "p").await;
    let hazards = routine(&field, "p").await.hazards;
    let told: Vec<&str> = hazards.iter().map(|h| h.message.as_str()).collect();
    for what in ["COMMIT", "ROLLBACK", "TRUNCATE", "START TRANSACTION"] {
        let told = told.iter().filter(|m| m.ends_with(&format!("runs {what}"))).count();
        assert_eq!(told, 1, "{what}: {hazards:?}");
    }
    field.hold().await;
    // Where in a row of calls it is makes no difference.
    for (place, count) in [(0, 1), (0, 3), (1, 3), (2, 3)] {
        for how in ["commit", "rollback", "ddl", "start", "fails", "busy", "conflict"] {
            field.sql("DELETE FROM t").await;
            let before =
                field.one("SELECT CONCAT(seq, ' ', position) FROM tidelock.progress").await;
            let mut held = field.hold().await;
            held.begin().await;
            let calls: Vec<Call> = (0..count)
                .map(|i| call(&p, &[INT(i), text(if i == place { how } else { "" })]))
                .collect();
            let error = held.open.sink.call(&calls).await.expect_err(how);
            let about = (error.kind(), error.code(), error.batch());
            let wanted = (ErrorKind::Data, Code::RoutineCommits, Some(place as usize));
            assert_eq!(about, wanted, "{how} {place} of {count}: {error}");
            assert!(held.open.sink.ping().await.is_err(), "the session is spent");
            drop(held);
            // What was committed is the mark and the calls up to this one, never the position, nor a later call.
            let after = field.one("SELECT CONCAT(seq, ' ', position) FROM tidelock.progress").await;
            let (seq, position) = after.split_once(' ').expect("two");
            let (old_seq, old_position) = before.split_once(' ').expect("two");
            let (seq, old_seq): (u64, u64) =
                (seq.parse().expect("seq"), old_seq.parse().expect("seq"));
            let rows = field.one("SELECT count(*) FROM t").await;
            let committed = if how == "rollback" { 0 } else { place + 1 };
            assert_eq!(rows, committed.to_string(), "{how} {place} of {count}");
            assert_eq!(seq, old_seq + u64::from(how != "rollback"), "{how}");
            assert_eq!(position, old_position, "{how}");
            // The next holder goes on from there.
            let mut held = field.hold().await;
            held.begin().await;
            held.commit().await;
        }
    }
}

/// What says that a lock was not to be had is the server's own words, in whatever language it speaks to others, or the time that it took.
#[tokio::test]
async fn a_lock_that_a_procedure_gives_up_soon_is_a_lock_and_one_that_it_makes_up_is_none() {
    use tidelock_scratch::mysql_async::prelude::Queryable;
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0); \
         CREATE PROCEDURE at_once(i int) BEGIN SET SESSION innodb_lock_wait_timeout = 0; SELECT v FROM t WHERE id = i FOR UPDATE; END; \
         CREATE PROCEDURE soon(i int) BEGIN SET SESSION innodb_lock_wait_timeout = 1; UPDATE t SET v = v + 1 WHERE id = i; END; \
         CREATE PROCEDURE other_tongue(i int) SET SESSION lc_messages = 'de_DE'; \
         CREATE PROCEDURE told(i int) BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION RESIGNAL; SET SESSION innodb_lock_wait_timeout = 1; UPDATE t SET v = v + 1 WHERE id = i; END; \
         CREATE PROCEDURE made_up(i int) SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205; \
         CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW IF NEW.v = 7 THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205, MESSAGE_TEXT = 'busy'; END IF; \
         SET GLOBAL lc_messages = 'de_DE'",
    )
    .await;
    field.hold().await;
    let mut other = field.server.conn("crm").await.expect("connection");
    other.query_drop("BEGIN; UPDATE t SET v = 1 WHERE id = 1").await.expect("row 1 is theirs");
    for (name, code) in [
        ("at_once", Code::ServerBusy),
        ("soon", Code::ServerBusy),
        ("told", Code::ServerBusy),
        ("made_up", Code::Rejected),
    ] {
        let routine = callable(&field, name).await;
        let mut held = field.hold().await;
        held.begin().await;
        // After one that has set the language, too.
        let tongue = callable(&field, "other_tongue").await;
        held.open.sink.call(&[call(&tongue, &[INT(2)])]).await.expect("a language");
        let error = held.open.sink.call(&[call(&routine, &[INT(1)])]).await.expect_err(name);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, code), "{name}: {error}");
    }
    drop(other);
    // Nobody is there who holds it.
    field
        .sql("XA START 'left'; UPDATE t SET v = 2 WHERE id = 1; XA END 'left'; XA PREPARE 'left'")
        .await;
    let soon = callable(&field, "soon").await;
    let mut held = field.hold().await;
    held.begin().await;
    let error = held.open.sink.call(&[call(&soon, &[INT(1)])]).await.expect_err("locked");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Code::ServerBusy), "{error}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("1 prepared transaction (XA RECOVER): 'left'"), "{hint}");
    drop(held);
    field.sql("XA ROLLBACK 'left'").await;
    let table = Arc::new(field.target("t").await);
    let mut held = field.hold().await;
    held.begin().await;
    let row = batch(&table, WriteOp::Upsert, &[0, 1], vec![vec![INT(2), INT(7)]]);
    let error = held.open.sink.write(&[row]).await.expect_err("made up");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Code::Rejected), "{error}");
}

#[tokio::test]
async fn a_deadlock_is_tried_again_unless_the_procedure_hides_it() {
    use tidelock_scratch::mysql_async::prelude::Queryable;
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE heavy (id int PRIMARY KEY); \
         CREATE PROCEDURE plain(i int) UPDATE t SET v = v + 1 WHERE id = i; \
         CREATE PROCEDURE hides(i int) BEGIN DECLARE CONTINUE HANDLER FOR 1213 BEGIN END; \
         UPDATE t SET v = v + 1 WHERE id = i; INSERT INTO t VALUES (99, 0); END",
    )
    .await;
    field.hold().await;
    for (name, kind, code) in [
        ("plain", ErrorKind::Transient, Code::ServerBusy),
        ("hides", ErrorKind::Data, Code::RoutineCommits),
    ] {
        field.sql("REPLACE INTO t VALUES (1, 0), (2, 0)").await;
        let (plain, second) = (callable(&field, "plain").await, callable(&field, name).await);
        let mut held = field.hold().await;
        held.begin().await;
        held.open.sink.call(&[call(&plain, &[INT(1)])]).await.expect("row 1 is ours");
        // Theirs has written more, so ours is the one that is rolled back.
        let mut other = field.server.conn("crm").await.expect("connection");
        let theirs = "BEGIN; INSERT INTO heavy WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 900) SELECT n FROM s; UPDATE t SET v = 9 WHERE id = 2";
        other.query_drop(theirs).await.expect("row 2 is theirs");
        let waiting = tokio::spawn(async move {
            other.query_drop("UPDATE t SET v = 9 WHERE id = 1; ROLLBACK").await
        });
        let waits =
            "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
        while field.one(waits).await == "0" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let error = held.open.sink.call(&[call(&second, &[INT(2)])]).await.expect_err(name);
        assert_eq!((error.kind(), error.code()), (kind, code), "{name}: {error}");
        waiting.await.expect("task").expect("theirs");
        drop(held);
        let held = field.hold().await;
        drop(held);
        assert_eq!(field.one("SELECT SUM(v) FROM t").await, "0", "{name}");
    }
    // What it wrote after the deadlock was committed by itself: that is why it must stop.
    assert_eq!(field.one("SELECT count(*) FROM t WHERE id = 99").await, "1");
}

#[tokio::test]
async fn the_catalog_tells_what_can_be_called_and_what_not() {
    let field = Field::new(
        "CREATE PROCEDURE p(a int unsigned, IN b varchar(10), c decimal(8,2)) BEGIN END; \
         CREATE PROCEDURE o(OUT a int, INOUT b int) BEGIN END; \
         CREATE FUNCTION f(a int) RETURNS int DETERMINISTIC RETURN 1; \
         SET sql_mode = ''; CREATE PROCEDURE Lax() BEGIN SET autocommit = 1; END; \
         CREATE USER low@'%'; GRANT SELECT ON tidelock.* TO low@'%'; \
         GRANT EXECUTE ON PROCEDURE crm.o TO low@'%'",
    )
    .await;
    let all = field.connector.routines(&["crm".into()]).await.expect("routines");
    assert_eq!(all.len(), 3, "procedures only: {all:?}");
    let p = routine(&field, "p").await;
    assert_eq!(
        (p.kind, p.refusals.len(), p.hazards.len()),
        (RoutineKind::Procedure, 0, 0),
        "{p:?}"
    );
    assert_eq!(p.body.as_deref(), Some("BEGIN END"));
    assert_eq!(p.parameters[0].data_type, DataType::Int { bits: 32, unsigned: true });
    let b = p.parameter("b").expect("b");
    assert!(matches!(b.data_type, DataType::Text { chars_max: Some(10), .. }), "{b:?}");
    assert_eq!((b.mode, b.has_default), (ParameterMode::In, false));
    let c = &p.parameters[2];
    assert_eq!(c.data_type, DataType::Decimal { precision: Some(8), scale: Some(2) });
    assert_eq!(routine(&field, "o").await.refusals.len(), 2);
    let hazards = routine(&field, "Lax").await.hazards;
    let levels: Vec<Severity> = hazards.iter().map(|h| h.severity).collect();
    assert_eq!(levels, [Severity::Problem, Severity::Warning], "{hazards:?}");

    let low = connector(&field.server.url("crm").replace("tidelock@", "low@"));
    let mut spec = sink_spec();
    spec.routines = ["p", "O", "lax"].map(|name| TableName::new("crm", name)).into();
    let grants = async || {
        let findings = low.preflight_target(&spec).await.expect("preflight");
        let sql = findings.into_iter().flat_map(|f| f.sql);
        sql.filter(|sql| sql.starts_with("GRANT EXECUTE")).collect::<Vec<_>>()
    };
    let missing = grants().await;
    assert_eq!(
        missing,
        [
            "GRANT EXECUTE ON PROCEDURE `crm`.`p` TO 'low'@'%';",
            "GRANT EXECUTE ON PROCEDURE `crm`.`lax` TO 'low'@'%';"
        ]
    );
    for sql in missing {
        field.sql(&sql).await;
    }
    assert_eq!(grants().await, Vec::<String>::new());
    let findings = format!("{:?}", low.preflight_target(&spec).await.expect("preflight"));
    assert!(findings.contains("its parameter a is not IN"), "{findings}");
    // It may call it and not read it.
    assert!(findings.contains("the text of procedure crm.p may not be read"), "{findings}");
}
