//! Rows that should be new: loaded where that is what an insert does, upserted where it is not.

use tidelock_core::{
    Code, CopyTable, ErrorKind, KeyRange, OpenSink, Position, TableName, TargetTable, Value,
    WriteOp,
};

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
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT");
    let transactions = "SELECT count(DISTINCT xmin::text) FROM t";
    let transactions: i64 = field.one(transactions).await.parse().expect("a number");
    assert!((2..64).contains(&transactions), "{transactions}");
    // Where a row is there, the batch is upserted there too.
    open.sink.begin(&mark(1, 2)).await.expect("begin");
    for turn in 70..140 {
        let new = rows(1 + turn * MANY - i64::from(turn == 135), "b");
        let new: Vec<&[Value]> = new.iter().map(Vec::as_slice).collect();
        open.sink.write(&[batch(&table, WriteOp::Insert, &[0, 1], &new)]).await.expect("write");
    }
    open.sink.commit(&Position::new("0/3"), 0).await.expect("commit");
    assert_eq!(field.one("SELECT count(*) FROM t").await, (140 * MANY - 1).to_string());
    assert_eq!(field.one(SEEN).await, "INSERT STATEMENT,UPDATE STATEMENT");
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
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::ForeignKey), "{error}");
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
    let missing: Vec<[Value; 2]> = (2..22).map(|i| [INT(-i), text("k")]).collect();
    let missing: Vec<&[Value]> = missing.iter().map(|key| &key[..]).collect();
    let few = [
        batch(&table, WriteOp::Update, &[2], &[&[text("y"), INT(-1), text("k")]]),
        batch(&table, WriteOp::Delete, &[0, 1], &missing),
        batch(
            &table,
            WriteOp::Move,
            &[0, 1, 2],
            &[&[INT(-1), text("k"), text("z"), INT(-1), text("k")]],
        ),
    ];
    // Often enough for the server to keep a plan for good.
    for _ in 0..12 {
        write(&few).await;
    }
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

#[tokio::test]
async fn values_of_each_type_are_loaded_to_the_digit() {
    let columns = "b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, t text, v varchar(5), c char(5), \
         n name, y bytea, d date, ti time, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb, mo mood, iv interval, \
         w word, dec numeric, m numeric(12,2)";
    let field = Field::new(&format!(
        "CREATE TYPE mood AS ENUM ('so \\ so', 'ok'); CREATE DOMAIN word AS varchar(4); \
         CREATE TABLE source (id int PRIMARY KEY, {columns}); \
         CREATE TABLE t (LIKE source INCLUDING ALL); \
         INSERT INTO source VALUES \
         (1, true, -32768, -2147483648, -9223372036854775808, 4294967295, 'NaN', -0.0, E'a\\tb\\n\\\\', E'\\\\.', 'a', 'n', \
          '\\x00ff5c0a', '-infinity', '24:00:00', '-infinity', 'infinity', gen_random_uuid(), '{{\"a\": 1, \"a\": 2}}', \
          '{{\"b\": 1.50}}', 'so \\ so', '1 year -2 days 03:04:05.000006', 'word', 'NaN', -0.10), \
         (2, false, 32767, 2147483647, 9223372036854775807, 0, 1.1754944e-38, 5e-324, '', '', '', '', '', \
          '0044-03-15 BC', '00:00:00.000001', '0044-03-15 01:02:03.5 BC', '0044-03-15 01:02:03+00 BC', \
          'ffffffff-ffff-ffff-ffff-ffffffffffff', '[1.0]', '[\"\\\\n\"]', 'ok', '-1 mon', '', \
         (CASE WHEN current_setting('server_version_num')::int >= 140000 THEN 'Infinity' ELSE '9' END)::numeric, 9999999999.99), \
         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
          NULL, NULL, NULL, NULL, NULL); \
         INSERT INTO source (id, dec) SELECT 10 + i, n FROM unnest(ARRAY['0', '-0.00', '0.0001', '-0.00010', '1', '10000', \
          '-10000.0000', '12345678.000100', '1e100', '-1e-30', '99999999999999999999.99999999999999999999', \
          '0.00001234', '100000000000000000001', CASE WHEN current_setting('server_version_num')::int >= 140000 THEN '-Infinity' ELSE '9' END, '9999', '0.9999', '0.12345']::numeric[]) WITH ORDINALITY x(n, i); \
         INSERT INTO source (id, dec, m) SELECT 1000 + i, (i - 150) * 1.0073 * 10.0 ^ (i % 40 - 20), (i - 150) * 1000000.37 \
          FROM generate_series(1, 300) i"
    ))
    .await;
    let table = target(&field, "t", false).await;
    let names: Vec<String> = table.columns.iter().map(|c| c.name.clone()).collect();
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
    drop(copier);
    let rows: Vec<&[Value]> = rows.iter().map(|row| &*row.0).collect();
    let mut open = started(&field).await;
    let differences = "SELECT count(*) FROM source s FULL JOIN t x USING (id) WHERE s::text IS DISTINCT FROM x::text";
    for (seq, op) in [(1, WriteOp::Insert), (2, WriteOp::Overwrite)] {
        open.sink.begin(&mark(1, seq)).await.expect("begin");
        open.sink.write(&[batch(&table, op, &all, &rows)]).await.expect("write");
        open.sink.commit(&Position::new("0/2"), 0).await.expect("commit");
        assert_eq!(field.one(differences).await, "0", "{op:?}");
    }
    // In text, where a type has no form of its own in binary.
    field.sql("TRUNCATE t; ALTER TABLE t ADD a int[]").await;
    let table = target(&field, "t", false).await;
    open.sink.begin(&mark(1, 3)).await.expect("begin");
    let with: Vec<Vec<Value>> =
        rows.iter().map(|row| [*row, &[text("{1,NULL}")]].concat()).collect();
    let with: Vec<&[Value]> = with.iter().map(Vec::as_slice).collect();
    let all: Vec<usize> = (0..table.columns.len()).collect();
    open.sink.write(&[batch(&table, WriteOp::Insert, &all, &with)]).await.expect("write");
    open.sink.commit(&Position::new("0/3"), 0).await.expect("commit");
    field.sql("ALTER TABLE t DROP a").await;
    assert_eq!(field.one(differences).await, "0");
}
