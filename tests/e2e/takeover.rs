//! Two processes on one pipeline: one writes, the other waits, and takes over.

use std::time::{Duration, Instant};

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::Daemon;

const COUNT: &str = "SELECT count(*) FROM item";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_and_takes_over_from_a_frozen_one() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let (one, two) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let flows = [("a", "b"), ("b", "a")];
    let first = Daemon::start(one.path(), &super::config(one.path(), &systems, &flows));
    first.streaming().await;
    let second = Daemon::start(two.path(), &super::config(two.path(), &systems, &flows));
    second
        .wait("waiting", SOON, |flows| {
            flows.iter().all(|f| f["state"] == "retrying" && f["error"]["code"] == "TL0301")
        })
        .await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    wait_for("b", SOON, "1".to_owned(), async || b.one("db", COUNT).await.expect("b"))
        .await
        .expect("b");
    let told = second.log().matches("TL0301").count();
    assert_eq!(told, 2, "once a flow: {}", second.log());
    first.freeze();
    let frozen = Instant::now();
    a.sql("db", "INSERT INTO item VALUES (2, 2, 'after the freeze')").await.expect("insert");
    b.sql("db", "INSERT INTO item VALUES (3, 3, 'after the freeze')").await.expect("insert");
    for _ in 0..2 {
        wait_for("b", SOON, "3".to_owned(), async || b.one("db", COUNT).await.expect("b"))
            .await
            .expect("b");
        wait_for("a", SOON, "3".to_owned(), async || a.one("db", COUNT).await.expect("a"))
            .await
            .expect("a");
    }
    assert!(frozen.elapsed() < Duration::from_secs(60), "takeover took {:?}", frozen.elapsed());
    first.thaw();
    second.streaming().await;
    first
        .wait("the old one waits", SOON, |flows| flows.iter().all(|f| f["state"] == "retrying"))
        .await;
    a.sql("db", "UPDATE item SET qty = 7").await.expect("update");
    wait_for("b", SOON, "21".to_owned(), async || {
        b.one("db", "SELECT sum(qty) FROM item").await.expect("b")
    })
    .await
    .expect("b");
    second.stop();
}
