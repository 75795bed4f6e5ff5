//! Rows that should be new: loaded where that is what an insert does, upserted where it is not.

use tidelock_core::{Code, ErrorKind, OpenSink, Position, TargetTable, Value, WriteOp};

use crate::field::Field;
use crate::writer::{INT, batch, mark, started, target, text, wait_free};

/// Enough rows for a `COPY`.
const MANY: i64 = 300;

fn rows(from: i64, word: &str) -> Vec<Vec<Value>> {
    (from..from + MANY).map(|i| vec![INT(i), text(word)]).collect()
}

/// Writes rows that are believed to be new, in a transaction of their own.
async fn insert(
    open: &mut OpenSink,
    table: &std::sync::Arc<TargetTable>,
    seq: u64,
    rows: &[Vec<Value>],
) -> tidelock_core::Result<()> {
    let rows: Vec<&[Value]> = rows.iter().map(Vec::as_slice).collect();
    open.sink.begin(&mark(1, seq)).await?;
    open.sink.write(&[batch(table, WriteOp::Insert, &[0, 1], &rows)]).await?;
    open.sink.commit(&Position::new("0/2"), 0).await
}

/// A trigger that writes down each kind of statement on `t` once.
const WITNESS: &str = "CREATE TABLE seen (what text); \
     CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN INSERT INTO seen VALUES (tg_op || '' '' || tg_level); RETURN NULL; END'; \
     CREATE TRIGGER s AFTER INSERT OR UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION see();";

/// An upsert fires the triggers of both kinds of statement, a load those of inserts alone.
const SEEN: &str = "SELECT coalesce(string_agg(DISTINCT what, ',' ORDER BY what), '') FROM seen";

#[tokio::test]
async fn new_rows_are_loaded_and_rows_that_are_there_overwritten() {
    let field =
        Field::new(&format!("CREATE TABLE t (id int PRIMARY KEY, a text); {WITNESS}")).await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    insert(&mut open, &table, 1, &rows(1, "a")).await.expect("new rows");
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT");
    // One row of many is there: all are written, and so is what follows in the same transaction.
    let next = rows(MANY, "b");
    let next: Vec<&[Value]> = next.iter().map(Vec::as_slice).collect();
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    let batches = [
        batch(&table, WriteOp::Update, &[1], &[&[text("u"), INT(1)]]),
        batch(&table, WriteOp::Insert, &[0, 1], &next),
        batch(&table, WriteOp::Delete, &[0], &[&[INT(2)]]),
    ];
    open.sink.write(&batches).await.expect("write");
    open.sink.commit(&Position::new("0/3"), 0).await.expect("commit");
    assert_eq!(
        field.one("SELECT string_agg(n || a, ' ' ORDER BY a) FROM (SELECT a, count(*) n FROM t GROUP BY a) x").await,
        "297a 300b 1u"
    );
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT,UPDATE STATEMENT");
    // For a while it is not tried again, then it is.
    for turn in 1..=9 {
        field.sql("DELETE FROM t; TRUNCATE seen").await;
        insert(&mut open, &table, 2 + turn, &rows(1, "c")).await.expect("new rows");
        let seen = field.one(SEEN).await;
        assert_eq!(seen == "INSERT STATEMENT", turn == 9, "turn {turn}: {seen}");
    }
}

#[tokio::test]
async fn a_long_transaction_takes_few_subtransactions() {
    let field =
        Field::new(&format!("CREATE TABLE t (id int PRIMARY KEY, a text); {WITNESS}")).await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    open.sink.begin(&mark(1, 1)).await.expect("begin");
    for turn in 0..70 {
        let new = rows(1 + turn * MANY, "a");
        let new: Vec<&[Value]> = new.iter().map(Vec::as_slice).collect();
        open.sink.write(&[batch(&table, WriteOp::Insert, &[0, 1], &new)]).await.expect("write");
    }
    open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM t").await, (70 * MANY).to_string());
    let transactions: i64 =
        field.one("SELECT count(DISTINCT xmin::text) FROM t").await.parse().expect("a number");
    assert!((2..64).contains(&transactions), "{transactions}");
}

#[tokio::test]
async fn another_unique_key_is_an_error_and_nothing_else_changes() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE); INSERT INTO t VALUES (-1, 'x')",
    )
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    let mut new: Vec<Vec<Value>> = (1..=MANY).map(|i| vec![INT(i), text(&i.to_string())]).collect();
    new[17][1] = text("x");
    let error = insert(&mut open, &table, 1, &new).await.expect_err("taken");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::KeyConflict), "{error}");
    assert_eq!(error.batch(), Some(0));
    drop(open);
    wait_free(&field).await;
    assert_eq!(field.one("SELECT string_agg(t::text, ' ') FROM t").await, "(-1,x)");
}

#[tokio::test]
async fn what_a_copy_would_pass_by_is_upserted() {
    // A rule turns inserts into something else, and COPY does not know it.
    let field = Field::new(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, a text); {WITNESS} CREATE TABLE other (id int); \
         CREATE RULE also AS ON DELETE TO t DO ALSO INSERT INTO other VALUES (old.id)"
    ))
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    insert(&mut open, &table, 1, &rows(1, "a")).await.expect("upserts");
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT,UPDATE STATEMENT");
    assert_eq!(field.one("SELECT count(*) FROM t").await, MANY.to_string());
}

#[tokio::test]
async fn row_security_is_kept() {
    let field = Field::new(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, a text); {WITNESS} ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY p ON t USING (true) WITH CHECK (a <> 'no'); \
         CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO writer; \
         GRANT INSERT ON seen TO writer;"
    ))
    .await;
    field
        .sql(
            "GRANT USAGE ON SCHEMA tidelock TO writer; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidelock TO writer",
        )
        .await;
    let table = target(&field, "t", false).await;
    let url = field.server.url("erp").replace("tidelock@", "writer@");
    let connector = tidelock_postgres::connector(crate::field::config(&url)).expect("connector");
    let bound = Field { server: field.server, connector };
    let mut open = started(&bound).await;
    insert(&mut open, &table, 1, &rows(1, "a")).await.expect("upserts");
    assert_eq!(bound.one(SEEN).await, "INSERT STATEMENT,UPDATE STATEMENT");
    assert_eq!(bound.one("SELECT count(*) FROM t").await, MANY.to_string());
    let error = insert(&mut open, &table, 2, &rows(1000, "no")).await.expect_err("the policy");
    assert_eq!(error.code(), Code::Privilege, "{error}");
}

#[tokio::test]
async fn a_row_that_a_trigger_leaves_out_is_left_out() {
    let field = Field::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text); \
         CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN IF new.id = 7 THEN RETURN NULL; END IF; new.a := new.a || ''!''; RETURN new; END'; \
         CREATE TRIGGER s BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION skip()",
    )
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    insert(&mut open, &table, 1, &rows(1, "a")).await.expect("write");
    assert_eq!(
        field.one("SELECT count(*) || min(a) || max(a) FROM t WHERE id <> 7").await,
        format!("{}a!a!", MANY - 1)
    );
    assert_eq!(field.one("SELECT count(*) FROM t").await, (MANY - 1).to_string());
}

#[tokio::test]
async fn identities_computed_columns_and_partitions_are_loaded_as_inserted() {
    let field = Field::new(&format!(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, a text, \
         b text GENERATED ALWAYS AS (a || 'b') STORED, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (100); \
         CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (1000); {WITNESS}"
    ))
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    insert(&mut open, &table, 1, &rows(1, "a")).await.expect("write");
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT");
    assert_eq!(field.one("SELECT count(*) || ' ' || min(b) FROM t1").await, "99 ab",);
    assert_eq!(field.one("SELECT count(*) FROM t2").await, (MANY - 99).to_string());
}

#[tokio::test]
async fn a_load_waits_for_the_commit_with_what_waits_for_it() {
    let field = Field::new(
        "CREATE TABLE p (id text PRIMARY KEY); \
         CREATE TABLE t (id int PRIMARY KEY, a text REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    let error = insert(&mut open, &table, 1, &rows(1, "a")).await.expect_err("orphans");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::Constraint), "{error}");
    assert_eq!(error.batch(), None);
    drop(open);
    wait_free(&field).await;
    assert_eq!(field.one("SELECT count(*) FROM t").await, "0");
    assert_eq!(field.one("SELECT seq FROM tidelock.progress").await, "0");
}

#[tokio::test]
async fn a_table_that_grows_is_never_read_whole_for_a_few_rows() {
    let field = Field::new(
        "CREATE TABLE t (id int, k text, a text, PRIMARY KEY (id, k)) WITH (autovacuum_enabled = off); \
         INSERT INTO t SELECT -i, 'k', 'x' FROM generate_series(1, 5) i",
    )
    .await;
    field.sql("ANALYZE t").await;
    let table = target(&field, "t", false).await;
    let mut open = started(&field).await;
    let mut seq = 0;
    let mut write = async |batches: &[tidelock_core::WriteBatch]| {
        seq += 1;
        open.sink.begin(&mark(1, seq)).await.expect("begin");
        open.sink.write(batches).await.expect("write");
        open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
    };
    let few = [
        batch(&table, WriteOp::Update, &[2], &[&[text("y"), INT(-1), text("k")]]),
        batch(&table, WriteOp::Delete, &[0, 1], &[&[INT(-2), text("k")]]),
        batch(
            &table,
            WriteOp::Move,
            &[0, 1, 2],
            &[&[INT(-1), text("k"), text("z"), INT(-1), text("k")]],
        ),
    ];
    write(&few).await;
    for from in 0..20 {
        let new: Vec<Vec<Value>> =
            (from * 1000..from * 1000 + 1000).map(|i| vec![INT(i), text("k"), text("a")]).collect();
        let new: Vec<&[Value]> = new.iter().map(Vec::as_slice).collect();
        write(&[batch(&table, WriteOp::Insert, &[0, 1, 2], &new)]).await;
    }
    for _ in 0..20 {
        write(&few).await;
    }
    drop(open);
    wait_free(&field).await;
    let read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 't'";
    let read: i64 = field.one(read).await.parse().expect("a number");
    assert!(read < 2_000, "{read} rows were read");
}
