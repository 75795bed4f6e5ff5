//! Where a log may be opened, and where not.

use tidelock_core::{Code, ErrorKind, Position, TableName};
use tidelock_scratch::PostgresOptions;

use crate::field::{Field, commits};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

async fn refusal(field: &Field, spec: &tidelock_core::SourceSpec, from: &Position) -> Code {
    match field.connector.open_source(spec, from).await {
        Ok(_) => panic!("the log was opened"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Continuity, "{error}");
            error.code()
        }
    }
}

#[tokio::test]
async fn a_stream_starts_where_its_tables_were_looked_at_and_goes_on_after_a_break() {
    let field = Field::new(&format!(
        "{TABLE}; CREATE TABLE full_one (id int PRIMARY KEY); INSERT INTO full_one VALUES (1)"
    ))
    .await;
    let (spec, start, mut source) = field.stream(&["t", "full_one"]).await;
    field.sql("INSERT INTO t VALUES (1)").await;
    field.sql("INSERT INTO t VALUES (2)").await;
    let (_, _) = commits(&mut source, 2).await;
    // A second reader of ours takes the slot from the first, and reads again what nobody confirmed.
    let mut second = field.connector.open_source(&spec, &start).await.expect("second");
    let (events, position) = commits(&mut second, 2).await;
    assert_eq!(events.len(), 6);
    second.confirm(&position).await.expect("confirm");
    drop(second);
    field.sql("INSERT INTO t VALUES (3)").await;
    let mut third = field.connector.open_source(&spec, &position).await.expect("third");
    assert_eq!(commits(&mut third, 1).await.0.len(), 3);
    drop(third);
    let removed = field.connector.drop_stream(&spec).await.expect("drop");
    assert_eq!((removed.removed.len(), removed.left.len()), (2, 0));
    assert!(field.connector.leftovers("p").await.expect("leftovers").is_empty());
}

#[tokio::test]
async fn a_publication_of_somebody_else_stays_and_its_owner_is_told_how() {
    let field = Field::new(&format!("{TABLE}; CREATE ROLE poor LOGIN REPLICATION")).await;
    let spec = field.spec(&["t"]).await;
    field.connector.create_stream(&spec, false).await.expect("stream");
    let url = field.server.url("erp").replace("tidelock@", "poor@");
    let poor = tidelock_postgres::connector(crate::field::config(&url)).expect("connector");
    let dropped = poor.drop_stream(&spec).await.expect("drop");
    assert_eq!(dropped.removed, ["replication slot tidelock_p_crm"]);
    assert_eq!(dropped.left.len(), 1);
    let sql = "have its owner run: DROP PUBLICATION \"tidelock_p_crm\";";
    assert!(dropped.left[0].ends_with(sql), "{dropped:?}");
    assert_eq!(field.one("SELECT count(*) FROM pg_replication_slots").await, "0");
}

#[tokio::test]
async fn a_slot_that_is_gone_advanced_or_made_anew_halts() {
    let field = Field::new(TABLE).await;
    let (spec, start, source) = field.stream(&["t"]).await;
    drop(source);
    assert_eq!(field.connector.leftovers("p").await.expect("leftovers").len(), 2);
    let error = field.connector.create_stream(&spec, false).await.expect_err("taken");
    assert_eq!(error.code(), Code::SlotDiverged);
    field.sql("INSERT INTO t VALUES (1)").await;

    let wait = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    field.sql(wait).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    field.sql("SELECT pg_replication_slot_advance('tidelock_p_crm', pg_current_wal_lsn())").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::SlotDiverged);

    field.sql("SELECT pg_drop_replication_slot('tidelock_p_crm')").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::SlotMissing);

    field.sql("SELECT pg_create_logical_replication_slot('tidelock_p_crm', 'pgoutput')").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::SlotDiverged);

    let again = field.connector.create_stream(&spec, true).await.expect("adopted");
    let ahead = Position::new("FFFF/0");
    assert_eq!(refusal(&field, &spec, &ahead).await, Code::SourceForeign);
    let mut foreign = spec.clone();
    foreign.identity = "pg:1:1:1".into();
    assert_eq!(refusal(&field, &foreign, &again).await, Code::SourceForeign);

    let mut at = spec.clone();
    at.start_at = Some(again.clone());
    let start = field.connector.create_stream(&at, false).await.expect("start_at");
    assert_eq!(start, again);
    at.start_at = Some(Position::new("0/1"));
    let error = field.connector.create_stream(&at, false).await.expect_err("too early");
    assert_eq!(error.code(), Code::SlotDiverged);
}

#[tokio::test]
async fn a_publication_that_lacks_something_halts() {
    let field = Field::new(TABLE).await;
    let (spec, start, source) = field.stream(&["t"]).await;
    drop(source);
    field.sql("ALTER PUBLICATION tidelock_p_crm DROP TABLE t").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::Publication);
    field.sql("ALTER PUBLICATION tidelock_p_crm ADD TABLE t").await;
    field.sql("ALTER PUBLICATION tidelock_p_crm SET (publish = 'insert')").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::Publication);
    field.sql("DROP PUBLICATION tidelock_p_crm").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::Publication);
}

#[tokio::test]
async fn a_slot_that_the_server_invalidated_halts() {
    let options = PostgresOptions::new()
        .setting("max_slot_wal_keep_size", "1MB")
        .setting("min_wal_size", "32MB")
        .setting("max_wal_size", "32MB");
    let field = Field::with(options, TABLE).await;
    let (spec, start, source) = field.stream(&["t"]).await;
    drop(source);
    for _ in 0..4 {
        field.sql("INSERT INTO t VALUES (1); DELETE FROM t; SELECT pg_switch_wal()").await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    field
        .sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        .await;
    field.sql("CHECKPOINT").await;
    assert_eq!(refusal(&field, &spec, &start).await, Code::LogPurged);
}

#[tokio::test]
async fn a_read_only_role_is_told_what_it_lacks() {
    let field = Field::new(&format!(
        "{TABLE}; CREATE TABLE n (a int); CREATE ROLE weak LOGIN; GRANT CONNECT ON DATABASE erp TO weak"
    ))
    .await;
    let url = field.server.url("erp").replace("tidelock@", "weak@");
    let weak = tidelock_postgres::connector(crate::field::config(&url)).expect("connector");
    let spec = field.spec(&["t", "n"]).await;
    let findings = weak.preflight_source(&spec).await.expect("findings");
    let sql: Vec<&str> = findings.iter().flat_map(|f| f.sql.iter().map(String::as_str)).collect();
    for wanted in [
        "ALTER ROLE \"weak\" REPLICATION;",
        "GRANT SELECT ON \"public\".\"t\" TO \"weak\";",
        "ALTER TABLE \"public\".\"n\" REPLICA IDENTITY FULL;",
        "GRANT USAGE ON SCHEMA \"tidelock\" TO \"weak\";",
    ] {
        assert!(sql.contains(&wanted), "{wanted} not in {sql:#?}");
    }
    assert!(sql.iter().any(|s| s.starts_with("CREATE PUBLICATION")));
    // What is printed can be run, and then nothing is left but warnings.
    for statement in sql {
        field.sql(statement).await;
    }
    let mut spec = spec;
    spec.tables.retain(|t| t.name.name == "t");
    let findings = weak.preflight_source(&spec).await.expect("findings");
    assert!(
        findings.iter().all(|f| f.severity == tidelock_core::Severity::Warning),
        "{findings:#?}"
    );
    let mut sink = field.sink_spec();
    sink.tables = vec![TableName::new("public", "t")];
    let findings = weak.preflight_target(&sink).await.expect("findings");
    let sql: Vec<&String> = findings.iter().flat_map(|f| &f.sql).collect();
    assert!(
        sql.iter().any(|s| s.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".\"t\""))
    );
}

#[tokio::test]
async fn a_copy_names_the_prepared_transaction_that_it_waits_for() {
    let options = PostgresOptions::new().setting("max_prepared_transactions", "2");
    let field = Field::with(options, TABLE).await;
    field.sql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left'").await;
    let mut copier = field.connector.copier().await.expect("copier");
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let decided = async {
        let words = heard.recv().await.expect("told");
        field.sql("ROLLBACK PREPARED 'left'").await;
        words
    };
    let notice = |words: String| told.send(words).expect("heard");
    let (settled, words) = tokio::join!(copier.settle(&notice), decided);
    settled.expect("settled");
    let named = "one of a prepared transaction 'left' (pg_prepared_xacts)";
    assert!(words.ends_with(named), "{words}");
}
