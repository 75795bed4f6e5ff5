//! Loops: both directions, a ring of three, and the silence afterwards.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_scratch::{MysqlOptions, wait_for};

use super::daemon::Daemon;
use super::{ITEMS, SOON};

/// Inserts, updates, deletes and key moves of rows with keys from `base` on.
fn random_writes(random: &mut StdRng, base: i64, count: usize) -> Vec<String> {
    let mut rows: Vec<i64> = Vec::new();
    let mut next = base;
    (0..count)
        .map(|n| {
            let at = random.random_range(0..rows.len().max(1));
            let choice = if rows.len() < 5 { 0 } else { random.random_range(0..10) };
            match choice {
                0..5 => {
                    next += 1;
                    rows.push(next);
                    format!("INSERT INTO item VALUES ({next}, {n}, 'written {n}')")
                }
                5..8 => format!("UPDATE item SET qty = qty + 1 WHERE id = {}", rows[at]),
                8 => {
                    next += 1;
                    let old = std::mem::replace(&mut rows[at], next);
                    format!("UPDATE item SET id = {next} WHERE id = {old}")
                }
                _ => format!("DELETE FROM item WHERE id = {}", rows.swap_remove(at)),
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_way_writes_meet_and_then_there_is_silence() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", a.url("db")), ("b", b.url("db"))],
        &[("a", "b"), ("b", "a")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let writes = if super::soaking() { 10_000 } else { 2_000 };
    let seed = rand::rng().random();
    println!("seed {seed}, {writes} writes on each side");
    let mut random = StdRng::seed_from_u64(seed);
    let (left, right) =
        (random_writes(&mut random, 0, writes), random_writes(&mut random, 1_000_000, writes));
    let work_left = async {
        for sql in &left {
            a.sql("db", sql).await.expect("left");
        }
    };
    let work_right = async {
        for sql in &right {
            b.sql("db", sql).await.expect("right");
        }
    };
    tokio::join!(work_left, work_right);
    a.sql("db", "INSERT INTO item VALUES (-1, 0, 'last of a')").await.expect("left");
    b.sql("db", "INSERT INTO item VALUES (-2, 0, 'last of b')").await.expect("right");
    let last = "SELECT count(*) FROM item WHERE id < 0";
    wait_for("a", SOON, "2".to_owned(), async || a.one("db", last).await.expect("a"))
        .await
        .expect("a");
    wait_for("b", SOON, "2".to_owned(), async || b.one("db", last).await.expect("b"))
        .await
        .expect("b");
    assert_eq!(a.rows("db", ITEMS).await.expect("a"), b.rows("db", ITEMS).await.expect("b"));
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    let logs = b.rows("db", "SHOW BINARY LOGS").await.expect("logs");
    daemon
        .wait("a position in one of the server's files", SOON, |flows| {
            let position =
                flows.iter().find(|f| f["flow"] == "b:a").map(|f| &f["applied_position"]);
            let file = position.and_then(|p| p.as_str()?.split_once('|')?.1.split_once(':'));
            file.is_some_and(|(file, _)| logs.iter().any(|log| log[0].as_deref() == Some(file)))
        })
        .await;
    // Positions are written at most every ten seconds, and then no more, for they do not wake each other.
    tokio::time::sleep(Duration::from_secs(25)).await;
    let seqs = async || {
        let sql = "SELECT seq FROM tidelock.progress";
        (a.one("db", sql).await.expect("a"), b.one("db", sql).await.expect("b"))
    };
    let before = seqs().await;
    let gtid = super::logged(&b).await;
    tokio::time::sleep(Duration::from_secs(if super::soaking() { 60 } else { 15 })).await;
    assert_eq!(
        seqs().await,
        before,
        "an idle pair of flows goes on writing positions\n{}",
        daemon.log()
    );
    assert_eq!(super::logged(&b).await, gtid, "something was written to an idle log");
    daemon.stop();
}

/// A flow that starts again writes into the progress row before any mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_halts_no_flow_where_the_log_holds_only_what_an_update_sets() {
    let a = super::postgres().await;
    let options = MysqlOptions::of_matrix().setting("binlog_row_image", "MINIMAL");
    let b = options.start().await.expect("b");
    b.create_database("db").await.expect("database");
    b.sql("db", super::ITEM).await.expect("table");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for n in 1..=3 {
        for (id, note) in [(n, "from a"), (100 + n, "from b")] {
            let sql = format!("INSERT INTO item VALUES ({id}, {n}, '{note}')");
            match id < 100 {
                true => a.sql("db", &sql).await.expect(&sql),
                false => b.sql("db", &sql).await.expect(&sql),
            }
        }
        let count = "SELECT count(*) FROM item";
        let all = (2 * n).to_string();
        wait_for("both", SOON, (all.clone(), all), async || {
            (a.one("db", count).await.expect("a"), b.one("db", count).await.expect("b"))
        })
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
        daemon.kill_and_start();
        daemon.streaming().await;
    }
    assert_eq!(a.rows("db", ITEMS).await.expect("a"), b.rows("db", ITEMS).await.expect("b"));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_of_three_systems_carries_every_change_round_once_and_rests() {
    let (a, b, c) = (super::postgres().await, super::mysql().await, super::postgres().await);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_forwards_what_came_from_before_and_sends_nothing_back() {
    let (a, b, c) = (super::mysql().await, super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db")), ("c", c.url("db"))];
    let flows = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")];
    let text = super::config(folder.path(), &systems, &flows);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for n in 1..=300 {
        a.sql("db", &format!("INSERT INTO item VALUES ({n}, 0, 'a')")).await.expect("a");
        c.sql("db", &format!("INSERT INTO item VALUES ({}, 0, 'c')", 1000 + n)).await.expect("c");
        if n == 150 {
            daemon.kill_and_start();
        }
    }
    let count = "SELECT count(*) FROM item";
    for server in [&a, &c] {
        wait_for("end", SOON, "600".to_owned(), async || {
            server.one("db", count).await.expect("end")
        })
        .await
        .unwrap_or_else(|e| panic!("{e}\n{:#?}\n{}", daemon.flows(), daemon.log()));
    }
    let all = b.rows("db", ITEMS).await.expect("b");
    assert_eq!(a.rows("db", ITEMS).await.expect("a"), all);
    assert_eq!(c.rows("db", ITEMS).await.expect("c"), all);
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    // What began at `a` comes back there as echoes only: nothing but the rows of `c` is applied.
    daemon
        .wait("rows", SOON, |flows| {
            let back = flows.iter().find(|f| f["flow"] == "b:a").map(|f| &f["mappings"][0]);
            back.is_some_and(|m| m["rows_inserted"].as_u64().is_some_and(|n| n <= 300))
        })
        .await;
    daemon.stop();
}
