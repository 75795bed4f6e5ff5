//! Lag that a DBA can trust: over restarts, and while the source is away.

use std::time::{Duration, Instant};

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn lag_counts_from_the_sources_commit_over_restarts_and_while_the_source_is_away() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'first')").await.expect("insert");
    let quantity = async || b.one("db", "SELECT coalesce(max(qty), 0) FROM item").await.expect("b");
    wait_for("first", SOON, "1".to_owned(), quantity).await.expect("first");
    daemon.kill();

    // Changed while nobody looked; then the target is held, so that it cannot be applied.
    a.sql("db", "UPDATE item SET qty = 2").await.expect("update");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut holder = b.conn("db").await.expect("conn");
    let lock = "BEGIN; SELECT * FROM item WHERE id = 1 FOR UPDATE";
    mysql_async::prelude::Queryable::query_drop(&mut holder, lock).await.expect("lock");
    let more_than_our_own_time = |began: Instant| {
        move |flows: &[serde_json::Value]| {
            let lag = flows[0]["lag_seconds"].as_f64().unwrap_or(0.0);
            lag > began.elapsed().as_secs_f64() + 3.0
        }
    };
    daemon.start_again();
    daemon.wait("lag since the commit", SOON, more_than_our_own_time(Instant::now())).await;

    // Known before, so known after, though the source cannot be asked.
    daemon.kill();
    a.stop().await.expect("stop");
    daemon.start_again();
    daemon.wait("lag without a source", SOON, more_than_our_own_time(Instant::now())).await;

    a.start_again().await.expect("start");
    drop(holder);
    wait_for("second", SOON, "2".to_owned(), quantity).await.expect("second");
    daemon.wait("level", SOON, |flows| flows[0]["lag_seconds"] == 0.0).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_never_started_or_stands_still_on_purpose_gives_no_alarm() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let good = super::config(folder.path(), &systems, &[("a", "b")]);
    // The flow from b cannot start: no such table.
    let bad = text.replace("b.item", "b.missing").replacen("b.missing", "b.item", 1);
    let mut daemon = Daemon::start(folder.path(), &bad);
    daemon.wait("streaming", SOON, |flows| flows[0]["state"] == "streaming").await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    let level = |flows: &[serde_json::Value]| flows[0]["lag_seconds"] == 0.0;
    daemon.wait("level", SOON, level).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let flows = daemon.flows();
    assert!(flows[1]["state"] == "halted" && flows[1]["lag_seconds"].is_null(), "{flows:?}");
    assert!(level(&flows), "{flows:?}");

    // Halted by a reload, and paused over a restart: level stays level.
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, good.replace("b.item", "b.missing")).expect("config");
    daemon.command(&["reload"]);
    daemon.wait("halted", SOON, |flows| flows[0]["state"] == "halted").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(level(&daemon.flows()), "{:?}", daemon.flows());
    std::fs::write(&config, &good).expect("config");
    daemon.command(&["reload"]);
    daemon.streaming().await;
    assert_eq!(daemon.command(&["pause", "a:b"]).0, 0);
    daemon.wait("paused", SOON, |flows| flows[0]["state"] == "paused").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    daemon.kill_and_start();
    daemon.wait("paused", SOON, |flows| flows[0]["state"] == "paused").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lag = daemon.flows()[0]["lag_seconds"].as_f64().expect("lag");
    assert!(lag < 3.5, "only what came since counts: {lag}");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_there_from_the_start_and_each_has_a_help_text() {
    use std::io::{Read, Write};
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let text = text.replace("version = 1\n", &format!("version = 1\nlisten = {address:?}\n"));
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    daemon.wait("lag", SOON, |flows| flows.iter().all(|f| f["lag_seconds"].is_number())).await;
    let mut stream = std::net::TcpStream::connect(&address).expect("connect");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    for line in [
        "tidelock_reconnects_total{system=\"a\"} 0",
        "tidelock_reconnects_total{system=\"b\"} 0",
        "tidelock_rows_total{flow=\"a:b\",mapping=\"item\",op=\"insert\",result=\"applied\"} 0",
        "tidelock_rows_captured_total{flow=\"b:a\",mapping=\"item\",op=\"delete\"} 0",
        "tidelock_exceptions_open{flow=\"a:b\",mapping=\"item\"} 0",
    ] {
        assert!(answer.contains(line), "{line} not in {answer}\n{}", daemon.log());
    }
    for name in answer.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let name = name.split(' ').next().unwrap_or_default();
        assert!(answer.contains(&format!("# HELP {name} ")), "{name} has no help text");
    }
    daemon.stop();
}
