//! What the target session does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidelock_core::{
    Code, CopyTable, DataType, ErrorKind, HopList, KeyRange, Lease, Load, Mark, OpenSink, Position,
    Progress, StateRow, StoredState, TableName, TargetColumn, TargetTable, Value, WriteBatch,
    WriteOp,
};

use crate::field::{Field, until};

fn progress(field: &Field) -> Progress {
    let spec = field.sink_spec();
    Progress {
        pipeline: spec.pipeline,
        flow: spec.flow,
        epoch: 1,
        seq: 0,
        source_identity: "x".into(),
        position: Position::new("0/1"),
        config_hash: "c".into(),
        source_commit_micros: 0,
    }
}

pub fn mark(epoch: u64, seq: u64) -> Mark {
    Mark { epoch, seq, hops: HopList::default() }
}

/// The table as the catalog has it, with the primary key as mapping key.
pub async fn target(field: &Field, name: &str, suppress_unchanged: bool) -> Arc<TargetTable> {
    static IDS: AtomicU64 = AtomicU64::new(1);
    let tables = field.connector.catalog(&["public".into()]).await.expect("catalog");
    let table = tables.into_iter().find(|t| t.name.name == name).expect("table");
    let key = table
        .primary_key()
        .expect("key")
        .iter()
        .map(|k| table.columns.iter().position(|c| c.name == *k).expect("key column"))
        .collect();
    let columns = table
        .columns
        .iter()
        .map(|c| TargetColumn {
            name: c.name.clone(),
            data_type: c.data_type.clone(),
            native: c.native.clone(),
            identity_always: c.generated == tidelock_core::Generated::IdentityAlways,
        })
        .collect();
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    Arc::new(TargetTable { id, name: table.name, columns, key, suppress_unchanged, partial: false })
}

pub fn batch(
    table: &Arc<TargetTable>,
    op: WriteOp,
    columns: &[usize],
    rows: &[&[Value]],
) -> WriteBatch {
    WriteBatch {
        mapping: "m".into(),
        table: table.clone(),
        op,
        columns: columns.into(),
        rows: rows.iter().map(|r| r.to_vec().into()).collect(),
    }
}

fn load<'a>(table: &Arc<TargetTable>, columns: &[usize], rows: &'a Vec<Box<[Value]>>) -> Load<'a> {
    Load { mapping: "m".into(), table: table.clone(), columns: columns.into(), rows }
}

pub async fn started(field: &Field) -> OpenSink {
    let mut open = field.sink().await;
    assert!(open.progress.is_none());
    open.sink.create_progress(&progress(field)).await.expect("progress");
    open
}

pub const INT: fn(i64) -> Value = Value::Int;

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}

#[tokio::test]
async fn rows_and_position_are_committed_together() {
    let field = Field::new(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a varchar(3), n numeric(8,2))",
    )
    .await;
    for suppress in [false, true] {
        field.sql("DELETE FROM t; DELETE FROM tidelock.progress").await;
        let table = target(&field, "t", suppress).await;
        let mut open = started(&field).await;
        open.sink.begin(&mark(1, 1)).await.expect("begin");
        let dec = |t: &str| Value::Decimal(t.into());
        let batches = [
            batch(
                &table,
                WriteOp::Upsert,
                &[0, 1, 2],
                &[
                    &[INT(1), text("a"), dec("1.50")],
                    &[INT(2), Value::Null, dec("2")],
                    &[INT(3), text("c"), Value::Null],
                ],
            ),
            batch(&table, WriteOp::Upsert, &[0, 1, 2], &[&[INT(1), text("b"), dec("1.50")]]),
            batch(&table, WriteOp::Update, &[1], &[&[text("z"), INT(2)], &[text("c"), INT(3)]]),
            batch(&table, WriteOp::Delete, &[0], &[&[INT(3)], &[INT(99)]]),
        ];
        open.sink.write(&batches).await.expect("write");
        open.sink.record(&state(StoredState::Stopped)).await.expect("record");
        open.sink.commit(&Position::new("0/2"), 77).await.expect("commit");
        assert_eq!(
            field.one("SELECT string_agg(t::text, ' ' ORDER BY id) FROM t").await,
            "(1,b,1.50) (2,z,2.00)"
        );
        open.sink.save_position(&mark(1, 2), &Position::new("0/3")).await.expect("save");
        open.sink.ping().await.expect("ping");
        let rows = field.connector.read_progress("p").await.expect("progress");
        assert_eq!((rows[0].seq, rows[0].position.as_str()), (2, "0/3"));
        assert_eq!(rows[0].source_commit_micros, 77);
        let states = field.connector.read_states("p").await.expect("states");
        assert_eq!(states, [state(StoredState::Stopped)]);
        field.connector.clear_state("p", "crm:erp", "m").await.expect("clear");
        assert!(field.connector.read_states("p").await.expect("states").is_empty());
        drop(open);
        wait_free(&field).await;
    }
}

pub async fn wait_free(field: &Field) {
    // The scratch server's own sessions hold none.
    until(field, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0").await;
}

fn state(state: StoredState) -> StateRow {
    StateRow {
        pipeline: "p".into(),
        flow: "crm:erp".into(),
        mapping: "m".into(),
        state,
        code: Some(Code::Truncated),
        message: "gone".into(),
        hint: "backfill".into(),
        position: "0/1".into(),
    }
}

#[tokio::test]
async fn each_type_is_written_as_it_was_read() {
    let field = Field::new(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); \
         CREATE TABLE t (id uuid PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, n numeric, f4 float4, \
         f8 float8, tx text, v varchar(9), c char(5), by bytea, d date, ti time, ts timestamp, \
         tz timestamptz, j json, jb jsonb, e mood); \
         CREATE TABLE t2 (LIKE t INCLUDING ALL); ALTER ROLE tidelock SET timezone = 'Asia/Shanghai'",
    )
    .await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    field
        .sql(
            "INSERT INTO t VALUES ('00112233-4455-6677-8899-aabbccddeeff', true, -2, 3, 4, \
             '1234567890.123456789', 1.5, 0.1::float8 + 0.2, 'ü''\\', 'v', 'c', '\\x00ff', \
             '2024-02-03', '24:00:00', '1969-12-31 23:59:59.999999', '2000-01-01 08:00:00.25+08', \
             '{\"a\": 1}', '{\"a\":1}', 'glad'), \
             (gen_random_uuid(), NULL, NULL, NULL, NULL, 'NaN', 'NaN', '-Infinity', '', NULL, NULL, '', \
             'infinity', NULL, '-infinity', 'infinity', NULL, NULL, NULL), \
             (gen_random_uuid(), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
             '0044-03-15 BC', '00:00:00.000001', '0044-03-15 01:02:03 BC', NULL, NULL, NULL, NULL)",
        )
        .await;
    let (events, _) = crate::field::commits(&mut source, 1).await;
    let rows: Vec<Vec<Value>> = events
        .into_iter()
        .filter_map(|event| match event {
            tidelock_core::LogEvent::Change(change) => match change.op {
                tidelock_core::Op::Insert(insert) => Some(insert.new.0.into_vec()),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let rows: Vec<&[Value]> = rows.iter().map(Vec::as_slice).collect();
    let all: Vec<usize> = (0..19).collect();
    for (suppress, epoch) in [(false, 1), (true, 2)] {
        let table = target(&field, "t2", suppress).await;
        let mut open = if epoch == 1 { started(&field).await } else { field.sink().await };
        for seq in [1, 2] {
            let seq = seq + 2 * (epoch - 1);
            open.sink.begin(&mark(epoch, seq)).await.expect("begin");
            let batch = batch(&table, WriteOp::Upsert, &all, &rows);
            open.sink.write(&[batch]).await.expect("write");
            open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
        }
        drop(open);
        wait_free(&field).await;
        assert_eq!(
            field.one("SELECT count(*) FROM t JOIN t2 USING (id) WHERE t::text = t2::text").await,
            "3"
        );
        if suppress {
            // The last writer that changed a row was not a suppressing one.
            assert_eq!(field.one("SELECT count(DISTINCT xmin::text) FROM t2").await, "1");
        }
    }
}

#[tokio::test]
async fn an_error_about_data_names_its_batch_and_shows_no_value() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(6), u int UNIQUE, CHECK (a <> 'nein'))",
    )
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    let good = batch(&table, WriteOp::Upsert, &[0, 1, 2], &[&[INT(1), text("a"), INT(71)]]);
    let cases = [
        (WriteOp::Upsert, vec![0, 1], vec![INT(2), text("geheim!")], Code::NotRepresentable),
        (WriteOp::Upsert, vec![0, 1], vec![INT(2), text("nein")], Code::Constraint),
        (WriteOp::Upsert, vec![0, 2], vec![INT(2), INT(71)], Code::KeyConflict),
        (WriteOp::Update, vec![1], vec![text("b"), INT(7)], Code::UpdateMissing),
        (WriteOp::Upsert, vec![0, 2], vec![INT(2), INT(1 << 40)], Code::NotRepresentable),
    ];
    for (turn, (op, columns, row, code)) in cases.into_iter().enumerate() {
        let epoch = turn as u64 + 1;
        open.sink.begin(&mark(epoch, 1)).await.expect("begin");
        let bad = batch(&table, op, &columns, &[&row]);
        let error = open.sink.write(&[good.clone(), bad, good.clone()]).await.expect_err("refused");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Data, code), "{error}");
        assert_eq!(error.batch(), Some(1), "{error}");
        let shown = format!("{error:?}");
        assert!(
            !shown.contains("geheim") && !shown.contains("nein") && !shown.contains("(71)"),
            "{shown}"
        );
        drop(open);
        wait_free(&field).await;
        open = field.sink().await;
        assert_eq!(open.progress.as_ref().map(|p| (p.epoch, p.seq)), Some((epoch + 1, 0)));
    }
    assert_eq!(field.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn another_spelling_of_a_key_is_a_conflict_and_never_the_same_row() {
    let field = Field::new(
        "CREATE EXTENSION citext; CREATE DOMAIN code AS citext; \
         CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE a (k citext PRIMARY KEY, v int); CREATE TABLE b (k text COLLATE ci PRIMARY KEY, v int); \
         CREATE TABLE c (k code PRIMARY KEY, v int); CREATE TABLE d (k text PRIMARY KEY, v int)",
    )
    .await;
    let mut open = started(&field).await;
    let next =
        |open: &OpenSink| open.progress.as_ref().map_or(mark(1, 1), |p| mark(p.epoch, p.seq + 1));
    for (name, suppress, partial) in [
        ("a", false, false),
        ("a", true, false),
        ("a", true, true),
        ("b", false, false),
        ("c", true, false),
        ("d", false, false),
    ] {
        let mut table = target(&field, name, suppress).await;
        Arc::make_mut(&mut table).partial = partial;
        field.sql(&format!("TRUNCATE {name}; INSERT INTO {name} VALUES ('ABC', 1)")).await;
        let (whole, key) = (&[0, 1][..], &[0][..]);
        let (both, one) = ([text("abc"), INT(2)], [text("abc")]);
        let new = [[text("x"), INT(1)], [text("X"), INT(2)]];
        for (columns, rows) in [
            (whole, vec![&both[..]]),
            (key, vec![&one[..]]),
            (whole, vec![&new[0][..], &new[1][..]]),
        ] {
            open.sink.begin(&next(&open)).await.expect("begin");
            let wrote = open.sink.write(&[batch(&table, WriteOp::Upsert, columns, &rows)]).await;
            let code = wrote.err().map(|error| error.code());
            let refused = (name != "d").then_some(Code::KeyConflict);
            assert_eq!(code, refused, "{name} {suppress} {partial} {columns:?}");
            drop(open);
            wait_free(&field).await;
            open = field.sink().await;
        }
        // What is written as it is there goes through, and other spellings are not touched.
        open.sink.begin(&next(&open)).await.expect("begin");
        let same = [text("ABC"), INT(5)];
        let delete = [text("abc")];
        let patch = [INT(9), text("abc")];
        let batches = [
            batch(&table, WriteOp::Upsert, whole, &[&same]),
            batch(&table, WriteOp::Delete, key, &[&delete]),
            batch(&table, WriteOp::Patch, &[1], &[&patch]),
        ];
        open.sink.write(&batches).await.expect("write");
        open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
        let rows = field.one(&format!("SELECT string_agg({name}::text, ' ') FROM {name}")).await;
        assert_eq!(rows, "(ABC,5)", "{name} {suppress} {partial}");
        drop(open);
        wait_free(&field).await;
        open = field.sink().await;
    }
}

#[tokio::test]
async fn a_moved_key_takes_the_row_along_or_makes_it() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY, a text, kept text); INSERT INTO t VALUES (1, 'a', 'k')").await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let moves = batch(
        &table,
        WriteOp::Move,
        &[0, 1],
        &[&[INT(5), text("b"), INT(1)], &[INT(6), text("c"), INT(2)]],
    );
    let after = batch(&table, WriteOp::Update, &[1], &[&[text("d"), INT(6)]]);
    open.sink.write(&[moves, after]).await.expect("write");
    open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    assert_eq!(
        field.one("SELECT string_agg(t::text, ' ' ORDER BY id) FROM t").await,
        "(5,b,k) (6,d,)"
    );
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    open.sink.write(&[batch(&table, WriteOp::DeleteAll, &[], &[])]).await.expect("write");
    open.sink.commit(&Position::new("0/3"), 0).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn a_second_writer_waits_and_a_fenced_one_is_stopped() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut open = started(&field).await;
    let again = field.connector.open_sink(&field.sink_spec()).await.expect("answer");
    assert!(matches!(again, Lease::Busy { holder } if holder.starts_with("test")));
    let error = open.sink.create_progress(&progress(&field)).await.expect_err("there already");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    // Somebody takes over although the lock says no: the epoch stops us.
    field.sql("UPDATE tidelock.progress SET epoch = 2").await;
    let table = target(&field, "t", false).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]]);
    let error = open.sink.write(&[row]).await.expect_err("fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(open);
    wait_free(&field).await;
    let mut open = field.sink().await;
    assert_eq!(open.progress.as_ref().map(|p| p.epoch), Some(3));
    // Nor does a transaction without rows get through.
    let error = open.sink.save_position(&mark(2, 1), &Position::new("0/9")).await.expect_err("old");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(open);
    wait_free(&field).await;
    // The position must meet the row that the mark left, even if the mark was right.
    let mut open = field.sink().await;
    field
        .sql(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER swallow BEFORE UPDATE OF position ON tidelock.progress FOR EACH ROW \
             EXECUTE FUNCTION nothing()",
        )
        .await;
    open.sink.begin(&mark(4, 1)).await.expect("begin");
    let row = batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]]);
    open.sink.write(&[row]).await.expect("write");
    let error = open.sink.commit(&Position::new("0/9"), 0).await.expect_err("no position");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    drop(open);
    wait_free(&field).await;
    assert_eq!(field.one("SELECT count(*) FROM t").await, "0");
    assert_eq!(field.one("SELECT seq || ' ' || position FROM tidelock.progress").await, "0 0/1");
    assert_eq!(field.connector.forget("p", "crm:erp").await.expect("forget"), 1);
}

#[tokio::test]
async fn meta_tables_are_made_once_by_many() {
    let field = Field::new("SELECT 1").await;
    field.sql("DROP SCHEMA tidelock CASCADE").await;
    assert!(field.connector.system_id().await.expect("id").is_none());
    assert!(field.connector.read_progress("p").await.expect("progress").is_empty());
    let calls = (0..4).map(|_| field.connector.ensure_meta());
    let ids = futures_util::future::join_all(calls).await;
    let first = ids[0].as_ref().expect("id");
    assert!(ids.iter().all(|id| id.as_ref().expect("id") == first));
    assert_eq!(field.connector.system_id().await.expect("id").as_ref(), Some(first));
}

#[tokio::test]
async fn catalog_tells_types_keys_and_what_cannot_be_used() {
    let field = Field::new(
        "CREATE TABLE g (id serial PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED); \
         CREATE UNLOGGED TABLE ul (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS one; \
         CREATE TABLE df (id int PRIMARY KEY DEFERRABLE); \
         CREATE TABLE part (id int, s text UNIQUE); CREATE UNIQUE INDEX ON part (id) WHERE id > 0",
    )
    .await;
    let tables =
        field.connector.catalog(&["public".into(), "tidelock".into()]).await.expect("catalog");
    let find = |name: &str| tables.iter().find(|t| t.name.name == name).expect("table");
    assert_eq!(tables.len(), 5);
    let g = find("g");
    assert_eq!(g.columns[0].generated, tidelock_core::Generated::IdentityByDefault);
    assert_eq!(g.columns[2].generated, tidelock_core::Generated::Always);
    assert_eq!(g.primary_key(), Some(&["id".to_owned()][..]));
    assert_eq!(find("ul").kind, tidelock_core::TableKind::Other);
    assert!(!find("ul").refusals.is_empty());
    assert_eq!(find("v").kind, tidelock_core::TableKind::View);
    assert_eq!(find("df").identity, tidelock_core::RowIdentity::Nothing);
    assert!(!find("df").unique_indexes[0].immediate);
    assert_eq!(find("part").unique_indexes.len(), 1);
    assert!(!find("part").unique_indexes[0].not_null);
    assert_eq!(g.columns[1].data_type, DataType::Int { bits: 32, unsigned: false });
}

#[tokio::test]
async fn a_constraint_that_waits_for_the_commit_is_an_error_of_the_commit() {
    let field = Field::new(
        "CREATE TABLE p (id int PRIMARY KEY); \
         CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let orphan = batch(&table, WriteOp::Upsert, &[0, 1], &[&[INT(1), INT(2)]]);
    open.sink.write(&[orphan]).await.expect("write");
    let error = open.sink.commit(&Position::new("0/2"), 0).await.expect_err("refused");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::ForeignKey));
    assert_eq!(error.batch(), None);
    drop(open);
    let rows = field.connector.read_progress("p").await.expect("progress");
    assert_eq!((rows[0].seq, rows[0].position.as_str()), (0, "0/1"));
}

#[tokio::test]
async fn odd_names_are_quoted_everywhere() {
    let field = Field::new(
        r#"CREATE TABLE "Order ""Lines'" ("ID" int, "select" char(3), "a""b" text, PRIMARY KEY ("ID", "select"))"#,
    )
    .await;
    let name = "Order \"Lines'";
    let (_, _, mut source) = field.stream(&[name]).await;
    for suppress in [false, true] {
        let table = target(&field, name, suppress).await;
        let mut open = if suppress { field.sink().await } else { started(&field).await };
        open.sink
            .begin(&mark(1 + u64::from(suppress), 1 + u64::from(suppress)))
            .await
            .expect("begin");
        let batches = [
            batch(&table, WriteOp::Upsert, &[0, 1, 2], &[&[INT(1), text("x  "), text("y")]]),
            batch(&table, WriteOp::Update, &[2], &[&[text("z"), INT(1), text("x")]]),
            batch(&table, WriteOp::Delete, &[0, 1], &[&[INT(1), text("x  ")]]),
        ];
        open.sink.write(&batches).await.expect("write");
        open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
        drop(open);
        wait_free(&field).await;
    }
    // create_progress is a transaction of its own; the takeover and its mark follow.
    let (events, _) = crate::field::commits(&mut source, 4).await;
    let rows = events
        .iter()
        .filter(|e| matches!(e, tidelock_core::LogEvent::Change(c) if c.table.name.name == name))
        .count();
    assert_eq!(rows, 6);
    let first = events.iter().find_map(|e| match e {
        tidelock_core::LogEvent::Change(change) => Some(change.table.name.name.clone()),
        _ => None,
    });
    assert_eq!(first.as_deref(), Some("progress"));
}

#[tokio::test]
async fn a_document_that_jsonb_would_shorten_is_refused_and_json_keeps_it() {
    let field = Field::new(
        "CREATE DOMAIN doc AS jsonb; CREATE TABLE t (id int PRIMARY KEY, j json, b jsonb, d doc)",
    )
    .await;
    let table = target(&field, "t", false).await;
    let json = |text: &str| Value::Json(text.to_owned().into());
    let twice = r#"{"a": 1, "a": 2}"#;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    let whole = json(r#"{"a": {"a": 1}, "b": "a"}"#);
    let row = [INT(1), json(twice), whole.clone(), whole];
    let rows: Vec<Box<[Value]>> = vec![row.into()];
    open.sink.load(&load(&table, &[0, 1, 2, 3], &rows)).await.expect("load");
    open.sink.commit(&Position::new("0/2"), 1).await.expect("commit");
    assert_eq!(field.one("SELECT j FROM t").await, twice);
    drop(open);
    for (column, document, words) in
        [(2, twice, "same key twice"), (3, twice, "same key twice"), (2, r#"["\u0000"]"#, "NUL")]
    {
        for loaded in [false, true] {
            wait_free(&field).await;
            let mut open = field.sink().await;
            let progress = open.progress.expect("progress");
            open.sink.begin(&mark(progress.epoch, progress.seq + 1)).await.expect("begin");
            let row = [INT(2), json(document)];
            let written = if loaded {
                let rows: Vec<Box<[Value]>> = vec![row.into()];
                open.sink.load(&load(&table, &[0, column], &rows)).await
            } else {
                open.sink.write(&[batch(&table, WriteOp::Upsert, &[0, column], &[&row])]).await
            };
            let error = written.expect_err("a shortened document");
            assert_eq!((error.code(), error.batch()), (Code::NotRepresentable, Some(0)), "{error}");
            assert!(error.message().contains(words), "{error}");
        }
    }
}

#[tokio::test]
async fn a_role_that_reads_only_by_default_still_writes() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    field.sql("ALTER DATABASE erp SET default_transaction_read_only = on").await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    open.sink.write(&[batch(&table, WriteOp::Upsert, &[0], &[&[INT(1)]])]).await.expect("write");
    open.sink.commit(&Position::new("0/2"), 1).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn lines_left_as_they_are_bring_the_same_rows_as_values() {
    let columns = "b bool, i2 int2, i4 int4, i8 int8, n numeric, m numeric(12,2), f4 float4, f8 float8, t text, v varchar(5), \
         c char(5), y bytea, d date, ti time, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb, mo mood, do_ amount";
    let field = Field::new(&format!(
        "CREATE TYPE mood AS ENUM ('so \\ so', 'ok'); CREATE DOMAIN amount AS numeric(6,3) CHECK (value > 0); \
         CREATE TABLE source (id int PRIMARY KEY, {columns}); \
         CREATE TABLE by_line (LIKE source INCLUDING ALL); CREATE TABLE by_value (LIKE source INCLUDING ALL); \
         INSERT INTO source VALUES \
         (1, true, -32768, -2147483648, -9223372036854775808, 'NaN', -0.10, 'NaN', '-0', E'a\\tb\\nc\\\\N\\r\\b\\f\\v', E'\\\\.', \
          'a', '\\x00ff5c0a', '-infinity', '24:00:00', '-infinity', 'infinity', gen_random_uuid(), '{{\"a\": 1, \"a\": 2}}', \
          '{{\"b\": 1.50}}', 'so \\ so', 0.001), \
         (2, false, 32767, 2147483647, 9223372036854775807, 1e100, 9999999999.99, 1.1754944e-38, 5e-324, '', '', '', '', \
          '0044-03-15 BC', '00:00:00.000001', '0044-03-15 01:02:03.5 BC', '0044-03-15 01:02:03+00 BC', \
          'ffffffff-ffff-ffff-ffff-ffffffffffff', '[1.0,\"\\\\n\"]', '[\"\\\\n\"]', 'ok', 999.999), \
         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (4, true, 0, 0, 0, 0.000, 0, 'Infinity', 0.1::float8 + 0.2::float8, '\u{1F600} 漢字 \\N', '漢字漢字漢', '漢', '\\x', '5874897-12-31', \
          '12:00', '9999-12-31 23:59:59.999999', '1883-11-18 12:03:57-07:52:58', '00000000-0000-0000-0000-000000000000', 'null', \
          '{{}}', 'ok', 1)"
    ))
    .await;
    // What a role or a database sets must mean nothing to either end.
    field
        .sql(
            "ALTER DATABASE erp SET datestyle = 'German, DMY'; ALTER DATABASE erp SET timezone = 'Asia/Kolkata'; \
             ALTER DATABASE erp SET bytea_output = escape; ALTER DATABASE erp SET extra_float_digits = 0",
        )
        .await;
    let by_line = target(&field, "by_line", false).await;
    let by_value = target(&field, "by_value", false).await;
    let names: Vec<String> = by_line.columns.iter().map(|c| c.name.clone()).collect();
    let all: Vec<usize> = (0..names.len()).collect();
    let wanted = CopyTable {
        name: TableName::new("public", "source"),
        columns: names,
        key: vec!["id".to_owned()],
        filter: None,
    };
    let everything = KeyRange { after: None, upto: None };
    let mut copier = field.connector.copier().await.expect("copier");
    copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("all is shown");
    let rows = copier.read(&wanted, &everything, usize::MAX).await.expect("rows").rows;
    let piece = copier.read_lines(&wanted, &everything, usize::MAX).await.expect("lines");
    let lines = piece.lines.as_ref().expect("lines");
    assert_eq!((piece.count(), lines.count, piece.rows.len()), (4, 4, 0));
    // As text, because NaN is not equal to itself.
    assert_eq!(format!("{:?}", lines.rows().expect("rows of lines")), format!("{rows:?}"));
    for (line, row) in lines.each().zip(&rows) {
        assert_eq!(lines.reader.key(&line).expect("key").first(), row.0.first());
    }
    let rows: Vec<Box<[Value]>> = rows.into_iter().map(|row| row.0).collect();
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    assert!(open.sink.load_lines(&by_line, &all, lines).await.expect("load of lines"));
    open.sink.load(&load(&by_value, &all, &rows)).await.expect("load of values");
    open.sink.commit(&Position::new("0/2"), 1).await.expect("commit");
    for copy in ["by_line", "by_value"] {
        let sql = format!(
            "SELECT count(*) FROM (SELECT s::text FROM source s EXCEPT ALL SELECT whole::text FROM {copy} whole) x"
        );
        assert_eq!(field.one(&sql).await, "0", "{copy}");
        assert_eq!(field.one(&format!("SELECT count(*) FROM {copy}")).await, "4");
    }

    // A row that is there already: nothing of the lines stays, and the rows are upserted.
    field.sql("DELETE FROM by_line WHERE id <> 3; UPDATE by_line SET t = 'old'").await;
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    assert!(!open.sink.load_lines(&by_line, &all, lines).await.expect("no load of lines"));
    open.sink.load(&load(&by_line, &all, &rows)).await.expect("upserts");
    open.sink.commit(&Position::new("0/3"), 1).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM by_line WHERE t IS NULL").await, "1");
    assert_eq!(field.one("SELECT count(*) FROM by_line").await, "4");
}

#[tokio::test]
async fn lines_of_a_column_that_has_changed_its_type_are_not_handed_on() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp); INSERT INTO t VALUES (1, now())",
    )
    .await;
    let wanted = CopyTable {
        name: TableName::new("public", "t"),
        columns: vec!["id".to_owned(), "at".to_owned()],
        key: vec!["id".to_owned()],
        filter: None,
    };
    let everything = KeyRange { after: None, upto: None };
    let mut copier = field.connector.copier().await.expect("copier");
    let reached = Position::new("0/1");
    copier.snapshot(&reached, &[]).await.expect("snapshot").expect("all is shown");
    copier.read_lines(&wanted, &everything, usize::MAX).await.expect("lines");
    assert_eq!(copier.bound(&wanted, None, 2).await.expect("the snapshot ends here"), None);
    field.sql("ALTER TABLE t ALTER at TYPE timestamptz").await;
    copier.snapshot(&reached, &[]).await.expect("snapshot").expect("all is shown");
    let error = copier.read_lines(&wanted, &everything, usize::MAX).await.expect_err("drift");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Code::SchemaDrift), "{error}");
}
