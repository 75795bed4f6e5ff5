//! Keys that a server sorts in another order than their texts have, and keys that a collation holds equal.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::Daemon;
use super::snapshot::agreed;

/// A table of MariaDB's or MySQL's, its twin at PostgreSQL, the key of the nth row, and what of a key is a number.
type Twins = (&'static str, &'static str, &'static str, fn(u32) -> String, [&'static str; 2]);

const TABLES: [Twins; 4] = [
    ("small", "k decimal(10,0)", "k numeric(10)", |n| (n * 7).to_string(), ["k", "k"]),
    (
        "large",
        "k decimal(20)",
        "k numeric(20)",
        |n| format!("{}", 12_345_678_901_234_000_000 + u64::from(n)),
        ["k", "k"],
    ),
    ("bits", "k bit(16)", "k bit(16)", |n| n.to_string(), ["(k + 0)", "k::int"]),
    (
        "kind",
        "k enum('zz','b','a','m'), n int",
        "k text, n int",
        |n| format!("{}, {n}", n % 4 + 1),
        ["n", "n"],
    ),
];

/// Rows of each table.
const ROWS: u32 = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_sorted_as_texts_are_copied_under_writes() {
    let (a, b) = (super::mysql().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let mut text = super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[]);
    for (name, own, other, key, _) in TABLES {
        let of = |columns: &str| {
            let columns = columns.replace(", n", " NOT NULL, n");
            let key = if columns.contains(" n ") { "k, n" } else { "k" };
            format!("CREATE TABLE {name} ({columns} NOT NULL, v int, PRIMARY KEY ({key}))")
        };
        a.sql("db", &of(own)).await.expect("a");
        b.sql("db", &of(other)).await.expect("b");
        for from in (1..=ROWS).step_by(1_000) {
            let rows: Vec<String> =
                (from..from + 1_000).map(|n| format!("({}, {n})", key(n))).collect();
            let sql = format!("INSERT INTO {name} VALUES {}", rows.join(","));
            a.sql("db", &sql).await.expect("rows");
        }
        text.push_str(&format!(
            "[[mappings]]\nfrom = \"a.{name}\"\nto = \"b.{name}\"\nsnapshot = \"initial\"\n"
        ));
    }
    text.push_str("[defaults]\nsnapshot_rows_per_second = 5000\n");
    let daemon = Daemon::start(folder.path(), &text);
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let copied = |flows: &[serde_json::Value]| {
        let mappings = flows.first().and_then(|f| f["mappings"].as_array());
        mappings.is_some_and(|m| {
            m.len() == TABLES.len() && m.iter().all(|m| m["snapshot"]["phase"] == "done")
        })
    };
    let began = Instant::now();
    while !copied(&daemon.flows()) {
        assert!(began.elapsed() < SOON, "{:#?}\n{}", daemon.flows(), daemon.log());
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            for (name, _, _, key, _) in TABLES {
                let n = random.random_range(1..=ROWS);
                let sql = match random.random_range(0..4) {
                    0 => format!("DELETE FROM {name} WHERE v = {n} LIMIT 1"),
                    1 => format!("REPLACE INTO {name} VALUES ({}, 1)", key(n + ROWS)),
                    _ => format!("REPLACE INTO {name} VALUES ({}, {})", key(n), n + 1),
                };
                a.sql("db", &sql).await.expect("work");
            }
        }
    }
    let digest = |side: usize| {
        let of = TABLES.map(|(name, _, _, _, number)| {
            let k = number[side];
            format!("(SELECT concat(count(*), ' ', sum({k}), ' ', sum(v), ' ', sum({k} % 1009 * v)) FROM {name})")
        });
        format!("SELECT concat({})", of.join(", ', ', "))
    };
    agreed(
        &daemon,
        async || a.one("db", &digest(0)).await.expect("a"),
        async || b.one("db", &digest(1)).await.expect("b"),
    )
    .await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_removes_a_key_that_only_the_sources_collation_holds_equal_to_another() {
    let (a, b) = (super::mysql().await, super::postgres().await);
    a.sql(
        "db",
        "CREATE TABLE word (k varchar(20) COLLATE utf8mb4_general_ci NOT NULL PRIMARY KEY, v int) \
         CHARACTER SET utf8mb4; INSERT INTO word VALUES ('abc', 1), ('xyz', 2)",
    )
    .await
    .expect("a");
    b.sql("db", "CREATE TABLE word (k text PRIMARY KEY, v int)").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")])
        .replace(".item", ".word")
        .replace("\"never\"", "\"initial\"");
    let daemon = Daemon::start(folder.path(), &text);
    let rows = async || {
        let sql = "SELECT coalesce(string_agg(k || v, ' ' ORDER BY k COLLATE \"C\"), '') FROM word";
        b.one("db", sql).await.expect("rows")
    };
    let got = wait_for("copied", SOON, "abc1 xyz2".to_owned(), rows).await;
    assert!(got.is_ok(), "{got:?}\n{}", daemon.log());
    daemon.streaming().await;
    let (code, said) = daemon.command(&["pause", "word"]);
    assert_eq!(code, 0, "{said}");
    a.sql("db", "UPDATE word SET k = 'ABC', v = 3 WHERE k = 'abc'").await.expect("update");
    let (code, said) = daemon.command(&["resume", "word"]);
    assert_eq!(code, 0, "{said}");
    let got = wait_for("resynced", SOON, "ABC3 xyz2".to_owned(), rows).await;
    assert!(got.is_ok(), "{got:?}\n{}", daemon.log());
    daemon.stop();
}
