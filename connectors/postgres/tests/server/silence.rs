//! Peers that say nothing any more. These laws are about half a minute and more, so they run only
//! when asked for (`cargo test -p tidelock-postgres -- --ignored`).

use std::time::{Duration, Instant};

use tidelock_core::{ErrorKind, Lease};
use tidelock_scratch::PostgresOptions;

use crate::field::Field;

#[tokio::test]
#[ignore = "takes over a minute"]
async fn a_server_that_falls_silent_is_given_up_within_a_minute() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (_, _, mut source) = field.stream(&["t"]).await;
    // Freezes every process of the server: connections stay open, nothing answers.
    let pids = field.server.rows("erp", "SELECT pid FROM pg_stat_activity").await.expect("pids");
    let pids: Vec<String> = pids.into_iter().filter_map(|row| row.into_iter().next()?).collect();
    let signal = |name: &str| {
        for pid in &pids {
            let _ = std::process::Command::new("kill").args([name, pid]).output();
        }
    };
    signal("-STOP");
    let begun = Instant::now();
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(5), source.next()).await {
            Ok(Err(error)) => break error,
            Ok(Ok(_)) => {}
            Err(_) => source.keepalive().await.expect("keepalive"),
        }
        assert!(begun.elapsed() < Duration::from_secs(90));
    };
    signal("-CONT");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
#[ignore = "takes over half a minute"]
async fn a_holder_that_does_nothing_is_ended() {
    let field = Field::new("SELECT 1").await;
    let open = field.sink().await;
    // As if the server had no limit for idle sessions (version 13).
    let key = field
        .one("SELECT classid::int8 << 32 | objid::int8 FROM pg_locks WHERE locktype = 'advisory'")
        .await;
    drop(open);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let holder = field.server.client("erp").await.expect("client");
    holder.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("lock");
    tokio::time::sleep(Duration::from_secs(31)).await;
    let answer = field.connector.open_sink(&field.sink_spec()).await.expect("answer");
    assert!(matches!(answer, Lease::Busy { .. }));
    tokio::time::sleep(Duration::from_millis(500)).await;
    field.sink().await;
    assert!(holder.is_closed());
}

#[tokio::test]
#[ignore = "takes over half a minute"]
async fn a_slot_that_waits_for_a_transaction_says_for_whom_and_leaves_nothing() {
    let options = PostgresOptions::new().setting("max_prepared_transactions", "2");
    let field = Field::with(options, "CREATE TABLE t (id int PRIMARY KEY)").await;
    let writer = field.server.client("erp").await.expect("client");
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("open");
    let spec = field.spec(&["t"]).await;
    let error = field.connector.create_stream(&spec, false).await.expect_err("blocked");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.message().contains("waits for open transactions"), "{error}");
    writer.batch_execute("PREPARE TRANSACTION 'left'").await.expect("prepared");
    let error = field.connector.create_stream(&spec, false).await.expect_err("blocked");
    let named = "a prepared transaction 'left' (pg_prepared_xacts)";
    assert!(error.message().ends_with(named), "{error}");
    writer.batch_execute("COMMIT PREPARED 'left'").await.expect("commit");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(field.one("SELECT count(*) FROM pg_replication_slots").await, "0");
    field.connector.create_stream(&spec, false).await.expect("stream");
}
