//! Calls of functions and procedures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::{
    Call, CallTarget, Code, DataType, ErrorKind, OpenSink, ParameterMode, Position, Routine,
    RoutineKind, Severity, TableName, TargetColumn, Value, WriteOp,
};

use crate::field::Field;
use crate::writer::{INT, batch, mark, started, target, text, wait_free};

async fn routine(field: &Field, name: &str) -> Routine {
    let all = field.connector.routines(&["public".into()]).await.expect("routines");
    all.into_iter().find(|r| r.name.name == name).expect(name)
}

async fn callable(field: &Field, name: &str, parameters: &[&str]) -> Arc<CallTarget> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let routine = routine(field, name).await;
    let parameters = parameters.iter().map(|name| {
        let parameter = routine.parameter(name).expect(name);
        TargetColumn {
            name: parameter.name.clone(),
            data_type: parameter.data_type.clone(),
            native: parameter.native.clone(),
            identity_always: false,
        }
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

async fn again(field: &Field) -> OpenSink {
    wait_free(field).await;
    let mut open = field.sink().await;
    let (epoch, seq) = open.progress.as_ref().map(|p| (p.epoch, p.seq)).expect("progress");
    open.sink.begin(&mark(epoch, seq + 1)).await.expect("begin");
    open
}

#[tokio::test]
async fn calls_are_made_in_order_inside_the_transaction() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text); \
         CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, what text); \
         CREATE DOMAIN short AS varchar(3); CREATE TYPE mood AS ENUM ('sad', 'ok'); \
         CREATE PROCEDURE put(p_id int, \"P x\" text, amount numeric DEFAULT 1.5, day date DEFAULT NULL) \
         LANGUAGE plpgsql AS $$BEGIN INSERT INTO seen (what) VALUES (concat_ws('|', p_id, \"P x\", amount, day, \
         (SELECT a FROM t WHERE id = p_id))); END$$; \
         CREATE FUNCTION many(b bool, s smallint, c char(4), d short, m mood, j jsonb, y bytea, z timestamptz, \
         u uuid, f real, a int[], iv interval, INOUT io bigint, OUT x int) RETURNS SETOF record LANGUAGE plpgsql AS \
         $$BEGIN INSERT INTO seen (what) VALUES (concat_ws('|', b, s, c, d, m, j, y, z AT TIME ZONE 'UTC', u, f, a, iv, io)); \
         RETURN QUERY SELECT io, 1 UNION SELECT io, 2; END$$",
    )
    .await;
    let put = callable(&field, "put", &["p_id", "P x", "amount"]).await;
    let short = callable(&field, "put", &["p_id", "P x"]).await;
    let day = callable(&field, "put", &["p_id", "P x", "day"]).await;
    let names = ["b", "s", "c", "d", "m", "j", "y", "z", "u", "f", "a", "iv", "io"];
    let many = callable(&field, "many", &names).await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    // The opening travels with the first calls.
    open.sink.call(&[call(&short, &[INT(1), text("first")])]).await.expect("call");
    let row = batch(&table, WriteOp::Upsert, &[0, 1], &[&[INT(1), text("written")]]);
    open.sink.write(&[row]).await.expect("write");
    let values = [
        Value::Bool(true),
        INT(-3),
        text("ab"),
        text("xyz"),
        Value::Enum("ok".into()),
        Value::Json("{\"a\":1}".into()),
        Value::Bytes(vec![0, 255].into()),
        Value::Instant(tidelock_core::Instant(1)),
        Value::Uuid([7; 16]),
        Value::Float32(0.5),
        text("{1,2}"),
        Value::Null,
        INT(1 << 40),
    ];
    let calls = [
        call(&put, &[INT(1), text("a'b"), Value::Decimal("-2.50".into())]),
        call(&many, &values),
        call(&put, &[INT(2), Value::Null, Value::Null]),
        call(&day, &[INT(3), text("d"), Value::Date(tidelock_core::Date(1))]),
    ];
    open.sink.call(&calls).await.expect("calls");
    assert_eq!(field.one("SELECT count(*) FROM seen").await, "0", "not committed");
    open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    let seen = field.server.rows("erp", "SELECT what FROM seen ORDER BY n").await.expect("seen");
    let seen: Vec<&str> = seen.iter().map(|r| r[0].as_deref().expect("text")).collect();
    assert_eq!(
        seen,
        [
            "1|first|1.5",
            "1|a'b|-2.50|written",
            "t|-3|ab|xyz|ok|{\"a\": 1}|\\x00ff|1970-01-01 00:00:00.000001|07070707-0707-0707-0707-070707070707|0.5|{1,2}|1099511627776",
            "2",
            "3|d|1.5|1970-01-02"
        ]
    );
    let lots: Vec<Call> = (0..1_300).map(|i| call(&short, &[INT(i), text("l")])).collect();
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    open.sink.call(&lots).await.expect("lots");
    open.sink.commit(&Position::new("0/3"), 0).await.expect("commit");
    let in_order = "SELECT count(*) FROM (SELECT n, lead(split_part(what, '|', 1)::int) OVER (ORDER BY n) \
                    - split_part(what, '|', 1)::int AS step FROM seen WHERE what LIKE '%|l|%') s WHERE step = 1";
    assert_eq!(field.one(in_order).await, "1299");
}

#[tokio::test]
async fn what_a_routine_raises_is_an_error_of_its_call_and_undoes_all() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE kid (id int PRIMARY KEY REFERENCES t, v varchar(3) NOT NULL); \
         CREATE PROCEDURE p(id int, how text) LANGUAGE plpgsql AS $$BEGIN \
         INSERT INTO t VALUES (p.id); \
         CASE how WHEN 'raise' THEN RAISE EXCEPTION 'no customer % for %', reverse(how), 'geheim' || p.id; \
         WHEN 'parent' THEN INSERT INTO kid VALUES (-1, 'x'); \
         WHEN 'signal' THEN RAISE EXCEPTION 'parent % missing', p.id USING ERRCODE = '23503'; \
         WHEN 'long' THEN INSERT INTO kid VALUES (p.id, 'geheim'); \
         WHEN 'cast' THEN PERFORM 'geheim47110001'::int; \
         WHEN 'own' THEN RAISE EXCEPTION 'not allowed here' USING ERRCODE = 'ZZ007'; \
         WHEN 'commit' THEN COMMIT; \
         WHEN 'rollback' THEN ROLLBACK; \
         WHEN 'conflict' THEN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; \
         WHEN 'lock' THEN RAISE EXCEPTION 'x' USING ERRCODE = '55P03'; \
         ELSE END CASE; END$$",
    )
    .await;
    let p = callable(&field, "p", &["id", "how"]).await;
    drop(started(&field).await);
    let cases = [
        ("raise", Code::Rejected, "SQLSTATE P0001: no customer … for …"),
        ("parent", Code::ForeignKey, "constraint kid_id_fkey"),
        ("signal", Code::ForeignKey, "SQLSTATE 23503: parent … missing"),
        ("long", Code::NotRepresentable, "SQLSTATE 22001: "),
        ("cast", Code::NotRepresentable, "SQLSTATE 22P02: "),
        ("own", Code::Rejected, "SQLSTATE ZZ007: not allowed here"),
        ("commit", Code::RoutineCommits, "SQLSTATE 2D000"),
        ("rollback", Code::RoutineCommits, "SQLSTATE 2D000"),
    ];
    for (how, code, detail) in cases {
        let mut open = again(&field).await;
        let calls = [
            call(&p, &[INT(47110001), text("")]),
            call(&p, &[INT(47110002), text(how)]),
            call(&p, &[INT(47110003), text("")]),
        ];
        let error = open.sink.call(&calls).await.expect_err(how);
        assert_eq!(
            (error.kind(), error.code(), error.batch()),
            (ErrorKind::Data, code, Some(1)),
            "{how}: {error}"
        );
        let shown = format!("{error:?} {error}");
        assert!(error.detail().is_some_and(|d| d.contains(detail)), "{how}: {error}");
        assert!(!shown.contains("geheim") && !shown.contains("4711000"), "{how}: {shown}");
        assert!(shown.contains("mapping m") && shown.contains("public.p"), "{how}: {shown}");
        drop(open);
    }
    for how in ["conflict", "lock"] {
        let mut open = again(&field).await;
        let error = open.sink.call(&[call(&p, &[INT(1), text(how)])]).await.expect_err(how);
        assert_eq!(
            (error.kind(), error.code(), error.batch()),
            (ErrorKind::Transient, Code::Rejected, Some(0)),
            "{error}"
        );
    }
    let mut open = again(&field).await;
    field.sql("DROP PROCEDURE p").await;
    let error = open.sink.call(&[call(&p, &[INT(1), text("")])]).await.expect_err("gone");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::SchemaDrift), "{error}");
    drop(open);
    wait_free(&field).await;
    assert_eq!(
        field.one("SELECT (SELECT count(*) FROM t) + (SELECT seq FROM tidelock.progress)").await,
        "0"
    );
}

#[tokio::test]
async fn the_catalog_tells_what_can_be_called_and_what_not() {
    let field = Field::new(
        "CREATE FUNCTION f(a int, b varchar(10) DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE PROCEDURE p(IN a numeric(8,2), INOUT b text) LANGUAGE plpgsql AS 'BEGIN COMMIT; END'; \
         CREATE FUNCTION twice(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION twice(a text) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION lots(VARIADIC a int[]) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION unnamed(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION anyof(a anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT a'; \
         CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
         CREATE FUNCTION strict_one(a int) RETURNS int STRICT STABLE LANGUAGE sql AS 'SELECT 1'; \
         CREATE ROLE low LOGIN; REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA public FROM PUBLIC",
    )
    .await;
    let f = routine(&field, "f").await;
    assert_eq!((f.kind, f.refusals.len(), f.hazards.len()), (RoutineKind::Function, 0, 0));
    assert_eq!(f.body.as_deref(), Some("SELECT 1"));
    let (a, b) = (f.parameter("a").expect("a"), f.parameter("b").expect("b"));
    assert_eq!((a.has_default, a.mode, &*a.native), (false, ParameterMode::In, "integer"));
    // The server keeps no length of it.
    assert!(
        b.has_default && matches!(b.data_type, DataType::Text { chars_max: None, .. }),
        "{b:?}"
    );
    let p = routine(&field, "p").await;
    assert_eq!((p.kind, p.parameters[1].mode), (RoutineKind::Procedure, ParameterMode::InOut));
    assert!(p.refusals.is_empty());
    assert_eq!(p.hazards.len(), 1);
    assert!(p.hazards[0].message.contains("COMMIT") && p.hazards[0].severity == Severity::Problem);
    for (name, word) in [
        ("twice", "2 routines"),
        ("lots", "variable number"),
        ("unnamed", "no name"),
        ("anyof", "any type"),
        ("fires", "triggers"),
    ] {
        let refusals = routine(&field, name).await.refusals;
        assert!(refusals.iter().any(|r| r.contains(word)), "{name}: {refusals:?}");
    }
    let hazards = routine(&field, "strict_one").await.hazards;
    let sql: Vec<&str> = hazards.iter().flat_map(|h| &h.sql).map(String::as_str).collect();
    assert_eq!(
        sql,
        [
            "ALTER FUNCTION \"public\".\"strict_one\"(a integer) CALLED ON NULL INPUT;",
            "ALTER FUNCTION \"public\".\"strict_one\"(a integer) VOLATILE;"
        ]
    );
    for sql in sql {
        field.sql(sql).await;
    }
    assert!(routine(&field, "strict_one").await.hazards.is_empty());

    let url = field.server.url("erp").replacen("//", "//low@", 1);
    let url = match url.split_once("low@").map(|(_, rest)| rest.split_once('@')) {
        Some(Some((_, rest))) => format!("postgres://low@{rest}"),
        _ => url,
    };
    let low = tidelock_postgres::connector(crate::field::config(&url)).expect("connector");
    let mut spec = field.sink_spec();
    spec.routines = ["f", "p", "missing"].map(|name| TableName::new("public", name)).into();
    let findings = low.preflight_target(&spec).await.expect("preflight");
    let text = format!("{findings:?}");
    for wanted in [
        "GRANT EXECUTE ON FUNCTION \\\"public\\\".\\\"f\\\"(a integer, b character varying) TO \\\"low\\\";",
        "p runs COMMIT",
        "public.missing does not exist",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let grants =
        findings.iter().flat_map(|f| &f.sql).filter(|sql| sql.starts_with("GRANT EXECUTE"));
    let grants: Vec<&String> = grants.collect();
    assert_eq!(grants.len(), 2);
    for sql in grants {
        field.sql(sql).await;
    }
    let findings = low.preflight_target(&spec).await.expect("preflight");
    assert!(!format!("{findings:?}").contains("may not call"), "{findings:?}");
}
