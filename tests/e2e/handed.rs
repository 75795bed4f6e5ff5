//! Unique values that went from one row to another while nothing was followed.

use std::time::Instant;

use super::SOON;
use super::daemon::Daemon;
use super::snapshot::{Side, agreed};

async fn level(daemon: &Daemon, a: &Side, b: &Side, sql: &str) {
    agreed(daemon, async || a.one(sql).await, async || b.one(sql).await).await;
}

const ALL: &str = "SELECT concat(count(*), ' ', coalesce(sum(id), 0), ' ', coalesce(sum(id * place), 0), ' ', \
    coalesce(sum(id * length(coalesce(code, ''))), 0), ' ', coalesce(min(code), ''), ' ', coalesce(max(code), '')) FROM spot";
const CODES: &str =
    "SELECT concat(id, ' ', list, ' ', place, ' ', coalesce(code, '-')) FROM spot ORDER BY id";

async fn same(daemon: &Daemon, a: &Side, b: &Side) {
    level(daemon, a, b, ALL).await;
    assert_eq!(a.rows(CODES).await, b.rows(CODES).await, "{}", daemon.log());
}

async fn compared(daemon: &Daemon, mapping: &str) {
    daemon
        .wait("compared", SOON, |flows| {
            let all = flows[0]["mappings"].as_array().expect("mappings");
            let one = all.iter().find(|m| m["name"] == mapping);
            let done =
                |copy: &serde_json::Value| copy["reason"] == "resync" && copy["phase"] == "done";
            flows[0]["state"] == "streaming" && one.is_some_and(|m| done(&m["snapshot"]))
        })
        .await;
}

/// Swapped, shifted, handed to a new row by one that is gone, taken by a row that comes before in the order of the keys.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_were_handed_over_while_a_mapping_stood_still_are_compared() {
    for (from, to, workers) in
        [(true, false, 1), (false, true, 1), (true, true, 3), (false, false, 3)]
    {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql(
                "CREATE TABLE spot (id int NOT NULL PRIMARY KEY, list int NOT NULL, place int NOT NULL, code varchar(20), \
                 UNIQUE (code), UNIQUE (list, place))",
            )
            .await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + &format!(
                "[defaults]\ncopy_workers = {workers}\n[[mappings]]\nfrom = \"a.spot\"\nto = \"b.spot\"\n"
            );
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let rows: Vec<String> =
            (1..=4000).map(|n| format!("({n}, {}, {n}, 'c{n}')", n % 7)).collect();
        source.sql(&format!("INSERT INTO spot VALUES {}", rows.join(", "))).await;
        same(&daemon, &source, &target).await;
        assert_eq!(daemon.command(&["pause", "spot"]).0, 0);
        // A swap within a piece and one from end to end.
        for (a, b) in [(10, 17), (2, 3999)] {
            source.sql(&format!("UPDATE spot SET code = 'x' WHERE id = {a}")).await;
            source.sql(&format!("UPDATE spot SET code = 'c{a}' WHERE id = {b}")).await;
            source.sql(&format!("UPDATE spot SET code = 'c{b}' WHERE id = {a}")).await;
        }
        // All places of a list move on by one row.
        source.sql("UPDATE spot SET place = place + 100000 WHERE list = 3").await;
        source.sql("UPDATE spot SET place = place - 100000 + 7 WHERE list = 3").await;
        // A row that is gone has left its value to a new one, and a later one to an earlier one.
        source.sql("DELETE FROM spot WHERE id = 3000").await;
        source.sql("INSERT INTO spot VALUES (0, 1, 0, 'c3000')").await;
        source.sql("UPDATE spot SET code = NULL WHERE id = 3500").await;
        source.sql("UPDATE spot SET code = 'c3500' WHERE id = 20").await;
        assert_eq!(daemon.command(&["resume", "spot"]).0, 0);
        if workers == 1 {
            daemon.kill_and_start();
        }
        compared(&daemon, "spot").await;
        same(&daemon, &source, &target).await;
        source.sql("UPDATE spot SET code = 'later' WHERE id = 20").await;
        same(&daemon, &source, &target).await;
        daemon.stop();
    }
}

/// What a new parent took from one that is gone, with children that moved to it and rows below these.
#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_row_that_took_the_number_of_one_that_is_gone_stay() {
    for to in [true, false] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        for (side, points) in [(&source, false), (&target, true)] {
            let to = |parent: &str| match points {
                true => format!(", FOREIGN KEY (up) REFERENCES {parent} (id) ON DELETE CASCADE"),
                false => String::new(),
            };
            side.sql("CREATE TABLE head (id int NOT NULL PRIMARY KEY, number varchar(20) NOT NULL, UNIQUE (number))").await;
            side.sql(&format!(
                "CREATE TABLE line (id int NOT NULL PRIMARY KEY, up int{})",
                to("head")
            ))
            .await;
            side.sql(&format!(
                "CREATE TABLE part (id int NOT NULL PRIMARY KEY, up int NOT NULL{})",
                to("line")
            ))
            .await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let mut text =
            super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[]);
        for table in ["head", "line", "part"] {
            text += &format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n");
        }
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let all = "SELECT concat((SELECT concat(count(*), ' ', sum(id)) FROM head), ' ', (SELECT concat(count(*), ' ', sum(up)) FROM line), ' ', \
            (SELECT concat(count(*), ' ', sum(up)) FROM part))";
        source.sql("INSERT INTO head SELECT n, 'n' || n FROM generate_series(1, 50) n").await;
        source.sql("INSERT INTO line SELECT n, n FROM generate_series(1, 50) n").await;
        source.sql("INSERT INTO part SELECT n, n FROM generate_series(1, 50) n").await;
        level(&daemon, &source, &target, all).await;
        assert_eq!(daemon.command(&["pause", "a:b"]).0, 0);
        source
            .sql("INSERT INTO head SELECT n + 100, 'new' || n FROM generate_series(1, 10) n")
            .await;
        source.sql("UPDATE line SET up = up + 100 WHERE id <= 10").await;
        source.sql("DELETE FROM head WHERE id <= 10").await;
        source.sql("UPDATE head SET number = 'n' || (id - 100) WHERE id > 100").await;
        source
            .sql("INSERT INTO line VALUES (1000, 101); INSERT INTO part VALUES (1000, 1000)")
            .await;
        let (code, said) = daemon.command(&["resync", "a:b"]);
        assert_eq!(code, 0, "{said}");
        let _resumed = daemon.command(&["resume", "a:b"]);
        compared(&daemon, "head").await;
        level(&daemon, &source, &target, all).await;
        let flows = daemon.flows();
        let streams = |m: &serde_json::Value| m["state"] == "streaming";
        let mappings = flows[0]["mappings"].as_array().expect("mappings");
        assert!(mappings.iter().all(streams), "{flows:#?}");
        daemon.stop();
    }
}

/// A change that takes a value while the row that has it at the target is still to be compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_takes_what_a_row_ahead_still_has_waits_for_it() {
    for to in [true, false] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql("CREATE TABLE spot (id int NOT NULL PRIMARY KEY, list int NOT NULL, place int NOT NULL, code varchar(20), UNIQUE (code))").await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + "[defaults]\nsnapshot_rows_per_second = 1000\n[[mappings]]\nfrom = \"a.spot\"\nto = \"b.spot\"\n";
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        source
            .sql("INSERT INTO spot SELECT n, 1, n, 'c' || n FROM generate_series(1, 5000) n")
            .await;
        same(&daemon, &source, &target).await;
        assert_eq!(daemon.command(&["pause", "spot"]).0, 0);
        source.sql("UPDATE spot SET code = 'free' WHERE id = 5000").await;
        source.sql("DELETE FROM spot WHERE id = 4999").await;
        assert_eq!(daemon.command(&["resume", "spot"]).0, 0);
        let began = Instant::now();
        loop {
            let copy = &daemon.flows()[0]["mappings"][0]["snapshot"];
            if copy["phase"] == "rows" && copy["done"].as_u64() > Some(0) {
                break;
            }
            assert!(began.elapsed() < SOON, "{}", daemon.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        source.sql("UPDATE spot SET code = 'c5000' WHERE id = 1").await;
        source.sql("UPDATE spot SET code = 'c4999' WHERE id = 2").await;
        source.sql("INSERT INTO spot VALUES (-1, 1, 1, 'c2')").await;
        compared(&daemon, "spot").await;
        same(&daemon, &source, &target).await;
        source.sql("UPDATE spot SET code = 'later' WHERE id = 1").await;
        same(&daemon, &source, &target).await;
        daemon.stop();
    }
}

/// A row that is not ours and has the value is not touched: the mapping stops, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_somebody_elses_row_has_stops_the_mapping() {
    for to in [true, false] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql("CREATE TABLE spot (id int NOT NULL PRIMARY KEY, list int NOT NULL, place int NOT NULL, code varchar(20), UNIQUE (code))").await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + "[[mappings]]\nfrom = \"a.spot\"\nto = \"b.spot\"\non_delete = \"ignore\"\n";
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        source.sql("INSERT INTO spot VALUES (1, 1, 1, 'a'), (2, 1, 2, 'b'), (3, 1, 3, 'c')").await;
        same(&daemon, &source, &target).await;
        assert_eq!(daemon.command(&["pause", "spot"]).0, 0);
        target.sql("INSERT INTO spot VALUES (9, 1, 9, 'theirs')").await;
        source.sql("UPDATE spot SET code = 'x' WHERE id = 1").await;
        source.sql("UPDATE spot SET code = 'a' WHERE id = 2").await;
        source.sql("UPDATE spot SET code = 'b' WHERE id = 1").await;
        source.sql("UPDATE spot SET code = 'theirs' WHERE id = 3").await;
        assert_eq!(daemon.command(&["resume", "spot"]).0, 0);
        daemon
            .wait("stopped", SOON, |flows| {
                let mapping = &flows[0]["mappings"][0];
                mapping["state"] == "stopped" && mapping["error"]["code"] == "TL0208"
            })
            .await;
        assert_eq!(target.one("SELECT code FROM spot WHERE id = 9").await, "theirs");
        assert_eq!(target.one("SELECT code FROM spot WHERE id = 3").await, "c");
        target.sql("UPDATE spot SET code = 'other' WHERE id = 9").await;
        assert_eq!(daemon.command(&["resync", "spot"]).0, 0);
        compared(&daemon, "spot").await;
        assert_eq!(target.one("SELECT code FROM spot WHERE id = 3").await, "theirs");
        assert_eq!(target.one("SELECT code FROM spot WHERE id = 2").await, "a");
        daemon.stop();
    }
}

/// A date that may not be NULL is given up for another one.
#[tokio::test(flavor = "multi_thread")]
async fn dates_that_rows_have_swapped_unseen_are_compared() {
    for to in [true, false] {
        let (source, target) = (Side::new(!to).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql(
                "CREATE TABLE turn (id int NOT NULL PRIMARY KEY, day date NOT NULL, UNIQUE (day))",
            )
            .await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + "[[mappings]]\nfrom = \"a.turn\"\nto = \"b.turn\"\n";
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        source.sql("INSERT INTO turn VALUES (1, '2026-01-01'), (2, '2026-01-02')").await;
        let days = "SELECT concat(count(*), ' ', min(day), ' ', max(day), ' ', coalesce(max(CASE WHEN id = 1 THEN day END), '2000-01-01')) FROM turn";
        level(&daemon, &source, &target, days).await;
        assert_eq!(daemon.command(&["pause", "turn"]).0, 0);
        for (id, day) in [(1, "2026-02-01"), (2, "2026-01-01"), (1, "2026-01-02")] {
            source.sql(&format!("UPDATE turn SET day = '{day}' WHERE id = {id}")).await;
        }
        assert_eq!(daemon.command(&["resume", "turn"]).0, 0);
        compared(&daemon, "turn").await;
        level(&daemon, &source, &target, days).await;
        assert_eq!(target.one(days).await, "2 2026-01-01 2026-01-02 2026-01-02");
        daemon.stop();
    }
}
