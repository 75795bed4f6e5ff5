//! Copies by several workers: several tables and several parts of one at once.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::Daemon;
use super::snapshot::{Side, agreed};
use super::{SOON, soaking};

/// Rows of the table that is cut into parts.
const ROWS: u32 = 60_000;

/// A chain of foreign keys, and a table that points to itself.
const TIED: [&str; 4] = [
    "CREATE TABLE branch (id bigint NOT NULL PRIMARY KEY, n int NOT NULL)",
    "CREATE TABLE account (id bigint NOT NULL PRIMARY KEY, n int NOT NULL, branch bigint NOT NULL REFERENCES branch (id))",
    "CREATE TABLE entry (id bigint NOT NULL PRIMARY KEY, n int NOT NULL, account bigint NOT NULL REFERENCES account (id))",
    "CREATE TABLE staff (id bigint NOT NULL PRIMARY KEY, n int NOT NULL, chief bigint REFERENCES staff (id))",
];
const TABLES: [&str; 5] = ["entry", "item", "staff", "account", "branch"];

async fn tie(side: &Side) {
    for table in TIED {
        // MariaDB of before 10.5 and MySQL would take the words behind a column for a comment.
        let (head, column) = table.split_once(" REFERENCES ").map_or((table, ""), |(head, _)| {
            (head, head.rsplit_once(", ").map_or("", |(_, c)| c.split(' ').next().unwrap_or("")))
        });
        let key = table
            .split_once(" REFERENCES ")
            .map(|(_, to)| format!(", FOREIGN KEY ({column}) REFERENCES {to}"));
        side.sql(&format!("{head}{}", key.unwrap_or_default())).await;
    }
}

/// So many rows of every table, children of all parents.
async fn fill(side: &Side, rows: u32) {
    let series = match side {
        Side::Pg(_) => |rows: u32| format!("generate_series(1, {rows}) AS s(seq)"),
        Side::My(_) => |rows: u32| {
            format!(
                "(WITH RECURSIVE s AS (SELECT 1 AS seq UNION ALL SELECT seq + 1 FROM s WHERE seq < {rows}) SELECT seq FROM s) s"
            )
        },
    };
    if let Side::My(server) = side {
        let depth = match server.flavour() {
            tidelock_scratch::Flavour::MariaDb => "max_recursive_iterations",
            tidelock_scratch::Flavour::MySql => "cte_max_recursion_depth",
        };
        side.sql(&format!("SET GLOBAL {depth} = 1000000")).await;
    }
    for sql in [
        format!("INSERT INTO item SELECT seq * 10, seq % 100, 'first' FROM {}", series(rows)),
        format!("INSERT INTO branch SELECT seq, seq % 7 FROM {}", series(rows / 20)),
        format!(
            "INSERT INTO account SELECT seq, seq % 7, 1 + seq % {} FROM {}",
            rows / 20,
            series(rows / 4)
        ),
        format!(
            "INSERT INTO entry SELECT seq, seq % 7, 1 + seq % {} FROM {}",
            rows / 4,
            series(rows / 2)
        ),
        format!(
            "INSERT INTO staff SELECT seq, seq % 7, NULLIF(seq / 2, 0) FROM {}",
            match side {
                Side::Pg(_) => series(rows / 2),
                // There a division gives no whole number.
                Side::My(_) => series(0) + " WHERE FALSE",
            }
        ),
    ] {
        side.sql(&sql).await;
    }
    if let Side::My(_) = side {
        let all = series(rows / 2);
        side.sql(&format!(
            "INSERT INTO staff SELECT seq, seq % 7, NULLIF(seq DIV 2, 0) FROM {all}"
        ))
        .await;
        side.sql("ANALYZE TABLE item, entry, account, staff").await;
    } else {
        side.sql("ANALYZE").await;
    }
}

/// One change of one of the tables; keys of `item` move across the ends of its parts.
async fn work(side: &Side, random: &mut StdRng, fresh: &mut u32) {
    let id = random.random_range(1..=ROWS) * 10;
    let to = random.random_range(1..=ROWS) * 10 + random.random_range(1..10);
    let (account, entry) = (id / 40 + 1, id / 20 + 1);
    *fresh += 1;
    let new = ROWS * 10 + *fresh;
    let sql = match random.random_range(0..12) {
        0..2 => format!("UPDATE item SET qty = qty + 1, note = 'changed' WHERE id = {id}"),
        2..4 => format!("DELETE FROM item WHERE id = {id}"),
        4..8 => format!(
            "UPDATE item SET id = {to}, note = 'moved' WHERE id = {id} AND {to} NOT IN (SELECT id FROM (SELECT id FROM item WHERE id = {to}) x)"
        ),
        8 => {
            side.sql(&format!("INSERT INTO item VALUES ({new}, 7, 'new')")).await;
            side.sql(&format!("INSERT INTO branch VALUES ({new}, 1)")).await;
            side.sql(&format!("INSERT INTO account VALUES ({new}, 2, {new})")).await;
            format!("INSERT INTO entry VALUES ({new}, 3, {new})")
        }
        9 => format!("UPDATE entry SET n = n + 1, account = {account} WHERE id = {entry}"),
        10 => format!("DELETE FROM entry WHERE id = {entry}"),
        _ => format!("UPDATE staff SET n = n + 1 WHERE id = {entry}"),
    };
    side.sql(&sql).await;
}

/// What stands in every table, the same text on each server.
async fn digest(side: &Side) -> String {
    let mut all = String::new();
    for (table, other) in [
        ("branch", "1"),
        ("account", "branch"),
        ("entry", "account"),
        ("staff", "coalesce(chief, 7)"),
    ] {
        let sql = format!(
            "SELECT concat(count(*), ' ', sum(id), ' ', sum(n), ' ', sum(id % 1009 * (n + {other} % 1013))) FROM {table}"
        );
        all += &format!("{table} {}, ", side.one(&sql).await);
    }
    let item = "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * (qty + char_length(note)))) FROM item";
    all + &side.one(item).await
}

async fn settle(source: &Side, target: &Side, daemon: &Daemon) {
    agreed(daemon, async || digest(source).await, async || digest(target).await).await;
}

fn config(folder: &std::path::Path, systems: &[(&str, String)], rest: &str) -> String {
    let mut text = super::config(folder, systems, &[]);
    for table in TABLES {
        text += &format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n");
    }
    text + rest
}

async fn pair(from_postgres: bool, to_postgres: bool) -> (Side, Side) {
    let (source, target) = (Side::new(from_postgres).await, Side::new(to_postgres).await);
    tie(&source).await;
    tie(&target).await;
    fill(&source, ROWS).await;
    (source, target)
}

async fn killed_under_load(seed: u64, from_postgres: bool, to_postgres: bool) {
    println!("seed {seed}, {from_postgres} {to_postgres}");
    let mut random = StdRng::seed_from_u64(seed);
    let (source, target) = pair(from_postgres, to_postgres).await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = |workers: u32| {
        let rest =
            format!("[defaults]\ncopy_workers = {workers}\nsnapshot_rows_per_second = 25000\n");
        config(folder.path(), &systems, &rest)
    };
    let mut fresh = 0;
    let mut daemon = Daemon::start(folder.path(), &text(4));
    has_begun(&daemon).await;
    // Killed when several parts are under way and a loader has committed.
    let beside = "SELECT count(*) FROM tidelock.progress WHERE lane > 0 AND seq > 0";
    let began = Instant::now();
    while !is_in_parts(&target).await || target.one(beside).await == "0" {
        assert!(began.elapsed() < SOON, "{}", daemon.log());
        work(&source, &mut random, &mut fresh).await;
    }
    // Other numbers of workers go on with what was begun.
    for workers in [4, 1, 3, 4] {
        daemon.kill();
        std::fs::write(folder.path().join("tidelock.toml"), text(workers)).expect("config");
        daemon.start_again();
        let until = Instant::now() + Duration::from_millis(random.random_range(300..1_300));
        while Instant::now() < until {
            work(&source, &mut random, &mut fresh).await;
        }
    }
    let until = Instant::now() + Duration::from_millis(1_500);
    while Instant::now() < until {
        work(&source, &mut random, &mut fresh).await;
    }
    settle(&source, &target, &daemon).await;
    let flows = daemon.flows();
    for mapping in flows[0]["mappings"].as_array().expect("mappings") {
        let copy = &mapping["snapshot"];
        assert_eq!(copy["phase"], "done", "{flows:#?}");
        assert_eq!(copy["done"], copy["total"], "{flows:#?}");
    }
    assert!(!daemon.log().contains("was refused while others"), "{}", daemon.log());
    daemon.stop();
}

/// Until then the target may lack our tables.
async fn has_begun(daemon: &Daemon) {
    let begun = |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
    daemon.wait("copying", SOON, begun).await;
}

/// Whether a copy has several parts, as it stands at the target.
async fn is_in_parts(target: &Side) -> bool {
    let cursor = match target {
        Side::Pg(_) => "cursor",
        // A word of its own there.
        Side::My(_) => "`cursor`",
    };
    let sql = format!("SELECT count(*) FROM tidelock.snapshot WHERE {cursor} LIKE '%parts%'");
    target.one(&sql).await != "0"
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_parts_copied_at_once_and_killed_under_load_end_equal() {
    for round in 0..if soaking() { 24 } else { 4 } {
        let seed = rand::rng().random();
        let (from, to) = [(true, false), (false, true), (false, false), (true, true)][round % 4];
        killed_under_load(seed, from, to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begun_with_one_cursor_goes_on_in_parts() {
    let (source, target) = pair(true, false).await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = |workers: u32| {
        let rest =
            format!("[defaults]\ncopy_workers = {workers}\nsnapshot_rows_per_second = 20000\n");
        config(folder.path(), &systems, &rest)
    };
    let mut daemon = Daemon::start(folder.path(), &text(1));
    let begun = "SELECT rows_done FROM tidelock.snapshot WHERE mapping = 'item' UNION SELECT 0 ORDER BY 1 DESC LIMIT 1";
    let until = async |daemon: &Daemon, holds: &dyn Fn(&str) -> bool, what: &str| {
        let began = Instant::now();
        while !holds(&target.one(begun).await) {
            assert!(began.elapsed() < SOON, "{what}\n{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    has_begun(&daemon).await;
    until(&daemon, &|rows| rows.parse::<u32>().is_ok_and(|rows| rows >= 5_000), "one cursor").await;
    daemon.kill();
    assert!(!is_in_parts(&target).await);
    let one = target.one("SELECT `cursor` FROM tidelock.snapshot WHERE mapping = 'item'").await;
    assert!(one.starts_with("{\"columns\":[\"id\"],\"values\":["), "{one}");
    let before = target.one(begun).await;
    source.sql("DELETE FROM item WHERE id <= 1000 OR id > 599000").await;
    std::fs::write(folder.path().join("tidelock.toml"), text(4)).expect("config");
    daemon.start_again();
    let began = Instant::now();
    while !is_in_parts(&target).await {
        assert!(began.elapsed() < SOON, "{}", daemon.log());
    }
    assert!(target.one(begun).await.parse::<u32>().expect("rows") >= before.parse().expect("rows"));
    settle(&source, &target, &daemon).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_beside_others_is_tried_by_itself() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    fill_items(&source).await;
    source.sql("UPDATE item SET qty = id; ANALYZE").await;
    // Rows of the first part hold values there that rows of the second are to get: in the order of the keys they are
    // given up in time.
    target.sql("ALTER TABLE item ADD UNIQUE (qty)").await;
    target.sql("INSERT INTO item SELECT n * 10, n * 10 + 55000, 'stale' FROM generate_series(5000, 9999) n").await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = super::config(folder.path(), &systems, &[("a", "b")])
        .replace("\"never\"", "\"initial\"")
        + "[defaults]\ncopy_workers = 4\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let sum = "SELECT concat(count(*), ' ', sum(qty), ' ', sum(id % 1009 * qty), ' ', max(note)) FROM item";
    let began = Instant::now();
    while source.one(sum).await != target.one(sum).await {
        assert!(began.elapsed() < SOON, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = daemon.log().matches("was refused while others").count();
    assert_eq!(refused, 1, "{}", daemon.log());
    daemon.stop();
}

async fn fill_items(side: &Side) {
    let sql = format!(
        "INSERT INTO item SELECT n * 10, n % 100, 'first' FROM generate_series(1, {ROWS}) n; ANALYZE"
    );
    side.sql(&sql).await;
}

/// Loaders that hang while their process is frozen do not keep a successor from taking over.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_over_while_pieces_are_being_loaded() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    fill_items(&source).await;
    let (one, two) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let systems = [("a", source.url()), ("b", target.url())];
    let text = |folder: &tempfile::TempDir| {
        super::config(folder.path(), &systems, &[("a", "b")]).replace("\"never\"", "\"initial\"")
            + "[defaults]\ncopy_workers = 4\n"
    };
    let Side::Pg(server) = &target else { panic!("not PostgreSQL") };
    let lock = "BEGIN; LOCK TABLE item IN SHARE MODE; SELECT pg_sleep(50); COMMIT";
    let locking = server.sql("db", lock);
    let story = async {
        let first = Daemon::start(one.path(), &text(&one));
        let hanging = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY%'";
        let began = Instant::now();
        while target.one(hanging).await == "0" {
            assert!(began.elapsed() < SOON, "{}", first.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        first.freeze();
        let frozen = Instant::now();
        source
            .sql("UPDATE item SET qty = 1000 WHERE id <= 1000; DELETE FROM item WHERE id > 590000")
            .await;
        let second = Daemon::start(two.path(), &text(&two));
        let epoch = "SELECT epoch FROM tidelock.progress WHERE lane = 0";
        while target.one(epoch).await != "2" {
            assert!(frozen.elapsed() < Duration::from_secs(45), "{}", second.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let held = "SELECT count(*) FROM pg_locks WHERE relation = 'item'::regclass AND mode = 'ShareLock' AND granted";
        assert_eq!(target.one(held).await, "1", "the table is locked still");
        (first, second)
    };
    let (locked, (first, second)) = tokio::join!(locking, story);
    locked.expect("lock");
    first.thaw();
    let sum = "SELECT concat(count(*), ' ', sum(qty), ' ', sum(id % 1009 * qty)) FROM item";
    let began = Instant::now();
    while source.one(sum).await != target.one(sum).await {
        assert!(began.elapsed() < SOON, "{}\n{}", first.log(), second.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.streaming().await;
    first
        .wait("the old one waits", SOON, |flows| flows.iter().all(|f| f["state"] == "retrying"))
        .await;
    assert_eq!(source.one(sum).await, target.one(sum).await);
    second.stop();
}

/// One side is copied by several workers while the other is written to: what is copied already comes back, what is
/// not is overwritten, and nothing that was copied is taken for the other side's own.
#[tokio::test(flavor = "multi_thread")]
async fn two_ways_with_parts_end_equal_and_echo_nothing() {
    for (from, to) in [(true, false), (false, true)] {
        let (a, b) = pair(from, to).await;
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", a.url()), ("b", b.url())];
        let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]).replacen(
            "\"never\"",
            "\"initial\"",
            1,
        ) + "[defaults]\ncopy_workers = 4\nsnapshot_rows_per_second = 25000\n";
        let daemon = Daemon::start(folder.path(), &text);
        let began = Instant::now();
        has_begun(&daemon).await;
        while !is_in_parts(&b).await {
            assert!(began.elapsed() < SOON, "{}", daemon.log());
        }
        let mut random = StdRng::seed_from_u64(rand::rng().random());
        let mut own = 0u64;
        while is_in_parts(&b).await {
            let id = random.random_range(1..=ROWS) * 10;
            b.sql(&format!("UPDATE item SET qty = qty + 1000 WHERE id = {id}")).await;
            let id = random.random_range(1..=ROWS) * 10;
            a.sql(&format!("UPDATE item SET note = 'of a' WHERE id = {id}")).await;
            own += 1;
        }
        assert!(own > 0, "the copy ended before anything was written beside it");
        daemon.streaming().await;
        b.sql("UPDATE item SET qty = 5, note = 'of b' WHERE id = 20").await;
        a.sql("UPDATE item SET qty = 6 WHERE id = 30").await;
        let sum = "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * (qty + char_length(note)))) FROM item";
        let began = Instant::now();
        while a.one(sum).await != b.one(sum).await
            || a.one("SELECT qty FROM item WHERE id = 20").await != "5"
            || b.one("SELECT qty FROM item WHERE id = 30").await != "6"
        {
            assert!(began.elapsed() < SOON, "{:#?}\n{}", daemon.flows(), daemon.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let flows = daemon.flows();
        let back = flows.iter().find(|f| f["flow"] == "b:a").expect("b:a");
        let mapping = &back["mappings"][0];
        assert_eq!(mapping["rows_inserted"], 0, "{back:#?}");
        let updated = mapping["rows_updated"].as_u64().expect("number");
        assert!(updated >= 1 && updated <= own + 1, "{own} {back:#?}");
        daemon.stop();
    }
}
