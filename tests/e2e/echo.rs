//! Loops: both directions, a ring of three, and the silence afterwards.

use std::time::Duration;

use tidelock_scratch::wait_for;

use super::daemon::Daemon;
use super::{ITEMS, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn two_way_writes_meet_and_then_there_is_silence() {
    let (a, b) = (super::postgres().await, super::mariadb().await);
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", a.url("db")), ("b", b.url("db"))],
        &[("a", "b"), ("b", "a")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let rows = 2_000;
    let left = async {
        for n in 0..rows / 10 {
            let sql = format!(
                "INSERT INTO item SELECT i, i, 'left' FROM generate_series({}, {}) i",
                n * 10,
                n * 10 + 9
            );
            a.sql("db", &sql).await.expect("left");
        }
    };
    let right = async {
        for n in 0..rows {
            b.sql("db", &format!("INSERT INTO item VALUES ({}, {n}, 'right')", 1_000_000 + n))
                .await
                .expect("right");
        }
    };
    tokio::join!(left, right);
    let both = (2 * rows).to_string();
    for _ in 0..2 {
        wait_for("a", SOON, both.clone(), async || {
            a.one("db", "SELECT count(*) FROM item").await.expect("a")
        })
        .await
        .expect("a");
        wait_for("b", SOON, both.clone(), async || {
            b.one("db", "SELECT count(*) FROM item").await.expect("b")
        })
        .await
        .expect("b");
    }
    assert_eq!(a.rows("db", ITEMS).await.expect("a"), b.rows("db", ITEMS).await.expect("b"));
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    // Positions are written at most every ten seconds, and then no more, for they do not wake each other.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let seqs = async || {
        let sql = "SELECT seq FROM tidelock.progress";
        (a.one("db", sql).await.expect("a"), b.one("db", sql).await.expect("b"))
    };
    let before = seqs().await;
    let gtid = b.one("db", "SELECT @@gtid_binlog_pos").await.expect("gtid");
    tokio::time::sleep(Duration::from_secs(if super::soaking() { 60 } else { 15 })).await;
    assert_eq!(
        seqs().await,
        before,
        "an idle pair of flows goes on writing positions\n{}",
        daemon.log()
    );
    assert_eq!(
        b.one("db", "SELECT @@gtid_binlog_pos").await.expect("gtid"),
        gtid,
        "something was written to an idle log"
    );
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_of_three_systems_carries_every_change_round_once_and_rests() {
    let (a, b, c) = (super::postgres().await, super::mariadb().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db")), ("c", c.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "c"), ("c", "a")]);
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'from a')").await.expect("a");
    b.sql("db", "INSERT INTO item VALUES (2, 2, 'from b')").await.expect("b");
    c.sql("db", "INSERT INTO item VALUES (3, 3, 'from c')").await.expect("c");
    let row = |id: &str, name: &str| {
        vec![Some(id.to_owned()), Some(id.to_owned()), Some(format!("from {name}"))]
    };
    let all = vec![row("1", "a"), row("2", "b"), row("3", "c")];
    wait_for("a", SOON, all.clone(), async || a.rows("db", ITEMS).await.expect("a"))
        .await
        .expect("a");
    wait_for("b", SOON, all.clone(), async || b.rows("db", ITEMS).await.expect("b"))
        .await
        .expect("b");
    wait_for("c", SOON, all.clone(), async || c.rows("db", ITEMS).await.expect("c"))
        .await
        .expect("c");
    a.sql("db", "UPDATE item SET qty = 9 WHERE id = 2; DELETE FROM item WHERE id = 3")
        .await
        .expect("a");
    let sum = "SELECT sum(qty) FROM item";
    wait_for("c", SOON, "10".to_owned(), async || c.one("db", sum).await.expect("c"))
        .await
        .expect("c");
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    assert_eq!(a.one("db", sum).await.expect("a"), "10");
    assert_eq!(b.one("db", sum).await.expect("b"), "10");
    daemon.stop();
}
