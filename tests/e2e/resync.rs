//! Resyncs beside what else goes on: the other direction, a copy that is under way, foreign keys, a reload.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::SOON;
use super::daemon::Daemon;
use super::snapshot::{Side, agreed};

const ITEMS: &str =
    "SELECT concat(count(*), ' ', coalesce(sum(id), 0), ' ', coalesce(sum(qty), 0)) FROM item";

async fn level(daemon: &Daemon, a: &Side, b: &Side, sql: &str) {
    agreed(daemon, async || a.one(sql).await, async || b.one(sql).await).await;
}

fn mapping<'a>(flows: &'a [Value], flow: &str) -> &'a Value {
    &flows.iter().find(|f| f["flow"] == flow).expect("flow")["mappings"][0]
}

fn is_compared(flows: &[Value], flow: &str) -> bool {
    let copy = &mapping(flows, flow)["snapshot"];
    copy["reason"] == "resync" && copy["phase"] == "done"
}

fn two_ways(folder: &std::path::Path, a: &Side, b: &Side) -> String {
    super::config(folder, &[("a", a.url()), ("b", b.url())], &[("a", "b"), ("b", "a")])
}

/// Rows that came at the target while the other direction's mapping stood still are not taken for rows that the
/// source has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_spares_what_the_other_direction_has_still_to_bring() {
    for (ours, theirs) in [(true, false), (false, true)] {
        let (a, b) = (Side::new(ours).await, Side::new(theirs).await);
        let folder = tempfile::tempdir().expect("folder");
        let daemon = Daemon::start(folder.path(), &two_ways(folder.path(), &a, &b));
        daemon.streaming().await;
        a.sql("INSERT INTO item VALUES (1, 1, 'both'), (2, 2, 'both')").await;
        level(&daemon, &a, &b, ITEMS).await;
        for flow in ["a:b/item", "b:a/item"] {
            assert_eq!(daemon.command(&["pause", flow]).0, 0);
        }
        b.sql("INSERT INTO item VALUES (3, 3, 'only here')").await;
        a.sql("DELETE FROM item WHERE id = 1").await;
        a.sql("INSERT INTO item VALUES (4, 4, 'only there')").await;
        assert_eq!(daemon.command(&["resume", "a:b/item"]).0, 0);
        // Its rows are there, and nothing is removed as long as the other one stands still.
        daemon
            .wait("looking for rows to remove", SOON, |flows| {
                mapping(flows, "a:b")["snapshot"]["phase"] == "sweep"
            })
            .await;
        // What it waits for is told.
        let note = |flows: &[Value]| mapping(flows, "a:b")["notes"][0].to_string();
        daemon
            .wait("told", SOON, |flows| note(flows).contains("mapping item is stopped or paused"))
            .await;
        a.sql("UPDATE item SET qty = 44 WHERE id = 4").await;
        let began = Instant::now();
        while b.one("SELECT count(*) FROM item WHERE qty = 44").await != "1" {
            assert!(began.elapsed() < SOON, "the stream goes on: {}", daemon.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(b.one("SELECT count(*) FROM item WHERE id = 3").await, "1");
        assert_eq!(daemon.command(&["resume", "b:a/item"]).0, 0);
        daemon
            .wait("compared", SOON, |flows| is_compared(flows, "a:b") && is_compared(flows, "b:a"))
            .await;
        level(&daemon, &a, &b, ITEMS).await;
        assert_eq!(a.one("SELECT qty FROM item WHERE id = 3").await, "3", "{}", daemon.log());
        assert_eq!(note(&daemon.flows()), "null");
        daemon.stop();
    }
}

/// A routine may be what brings the target's rows back.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_spares_what_a_routine_has_still_to_bring() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE FUNCTION put_item(id bigint, p_qty int, p_note text) RETURNS void LANGUAGE sql AS $$ INSERT INTO item VALUES (id, p_qty, p_note) ON CONFLICT DO NOTHING $$").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[("a", "b")])
        + "[[mappings]]\nname = \"back\"\nfrom = \"b.item\"\nto = { call = \"a.put_item\" }\non_delete = \"ignore\"\nkey = [\"id\"]\nsnapshot = \"never\"\n\
           columns = { id = \"id\", p_qty = \"qty\", p_note = \"note\" }\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("INSERT INTO item VALUES (1, 1, 'a')").await;
    level(&daemon, &a, &b, ITEMS).await;
    assert_eq!(daemon.command(&["pause", "back"]).0, 0);
    b.sql("INSERT INTO item VALUES (3, 3, 'only here')").await;
    assert_eq!(daemon.command(&["resync", "a:b/item"]).0, 0);
    daemon
        .wait("looking for rows to remove", SOON, |flows| {
            mapping(flows, "a:b")["snapshot"]["phase"] == "sweep"
        })
        .await;
    a.sql("INSERT INTO item VALUES (4, 4, 'a')").await;
    let began = Instant::now();
    while b.one("SELECT count(*) FROM item WHERE id = 4").await != "1" {
        assert!(began.elapsed() < SOON, "the stream goes on: {}", daemon.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(b.one("SELECT count(*) FROM item WHERE id = 3").await, "1", "{}", daemon.log());
    assert_eq!(daemon.command(&["resume", "back"]).0, 0);
    daemon.wait("compared", SOON, |flows| is_compared(flows, "a:b")).await;
    level(&daemon, &a, &b, ITEMS).await;
    assert_eq!(a.one("SELECT qty FROM item WHERE id = 3").await, "3", "{}", daemon.log());
    daemon.stop();
}

/// A reload that changes one direction leaves the other running; each still knows how far the other has come.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_after_a_reload_of_one_direction_ends() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    let folder = tempfile::tempdir().expect("folder");
    let text = two_ways(folder.path(), &a, &b);
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("INSERT INTO item VALUES (1, 1, 'both')").await;
    level(&daemon, &a, &b, ITEMS).await;
    let changed = text.replacen("snapshot =", "on_delete = \"ignore\"\nsnapshot =", 1);
    std::fs::write(folder.path().join("tidelock.toml"), changed).expect("config");
    let (code, said) = daemon.command(&["reload"]);
    assert!(code == 0 && said.contains("a:b") && !said.contains("b:a"), "{said}");
    daemon.streaming().await;
    b.sql("INSERT INTO item VALUES (2, 2, 'b')").await;
    a.sql("INSERT INTO item VALUES (3, 3, 'a')").await;
    level(&daemon, &a, &b, ITEMS).await;
    for flow in ["b:a", "a:b"] {
        assert_eq!(daemon.command(&["resync", &format!("{flow}/item")]).0, 0);
        daemon.wait("compared", SOON, |flows| is_compared(flows, flow)).await;
    }
    level(&daemon, &a, &b, ITEMS).await;
    daemon.stop();
}

fn slow(folder: &std::path::Path, source: &Side, target: &Side) -> String {
    super::config(folder, &[("a", source.url()), ("b", target.url())], &[("a", "b")])
        .replace("\"never\"", "\"initial\"")
        + "[defaults]\nsnapshot_rows_per_second = 1000\n"
}

async fn half(daemon: &Daemon) {
    daemon
        .wait("half", SOON, |flows| {
            let copy = &mapping(flows, "a:b")["snapshot"];
            copy["phase"] == "rows" && copy["done"].as_u64() > Some(0)
        })
        .await;
}

/// What is asked for is not written over by the piece that is being written.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_asked_for_while_rows_are_copied_begins_anew() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    source.sql("INSERT INTO item SELECT n, 1, 'x' FROM generate_series(1, 4000) n").await;
    target.sql("INSERT INTO item VALUES (5000, 1, 'ghost')").await;
    let folder = tempfile::tempdir().expect("folder");
    let daemon = Daemon::start(folder.path(), &slow(folder.path(), &source, &target));
    half(&daemon).await;
    let (code, said) = daemon.command(&["resync", "item"]);
    assert_eq!(code, 0, "{said}");
    source.sql("DELETE FROM item WHERE id <= 10").await;
    let reason = target.one("SELECT reason FROM tidelock.snapshot").await;
    assert_eq!(reason, "resync");
    daemon.wait("compared", SOON, |flows| is_compared(flows, "a:b")).await;
    level(&daemon, &source, &target, ITEMS).await;
    // A whole flow: the position goes, too, and what is deleted meanwhile is found.
    let (code, said) = daemon.command(&["resync", "a:b"]);
    assert_eq!(code, 0, "{said}");
    half(&daemon).await;
    let (code, said) = daemon.command(&["resync", "a:b"]);
    assert_eq!(code, 0, "{said}");
    source.sql("DELETE FROM item WHERE id BETWEEN 11 AND 20").await;
    daemon.wait("compared", SOON, |flows| is_compared(flows, "a:b")).await;
    level(&daemon, &source, &target, ITEMS).await;
    daemon.stop();
}

/// A column that comes while rows are being copied reaches those that were copied before, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_comes_in_the_middle_of_a_copy_reaches_all_rows() {
    for from in [true, false] {
        let (source, target) = (Side::new(from).await, Side::new(!from).await);
        let rows: Vec<String> = (1..=4000).map(|n| format!("({n}, 1, 'x')")).collect();
        source.sql(&format!("INSERT INTO item VALUES {}", rows.join(", "))).await;
        let folder = tempfile::tempdir().expect("folder");
        let daemon = Daemon::start(folder.path(), &slow(folder.path(), &source, &target));
        half(&daemon).await;
        target.sql("ALTER TABLE item ADD COLUMN grade int").await;
        source.sql("ALTER TABLE item ADD COLUMN grade int NOT NULL DEFAULT 7").await;
        let grades = "SELECT concat(count(*), ' ', coalesce(sum(grade), 0)) FROM item";
        level(&daemon, &source, &target, grades).await;
        daemon.stop();
    }
}

/// A row that waits for its new parent still stands below its old one; when that goes with all that is below it, the rows
/// further down must not go too.
#[tokio::test(flavor = "multi_thread")]
async fn rows_below_one_that_waits_are_not_swept_away_with_its_old_parent() {
    for to in [true, false] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        let table = "CREATE TABLE node (id bigint NOT NULL PRIMARY KEY, parent bigint";
        source.sql(&format!("{table})")).await;
        target
            .sql(&format!("{table}, FOREIGN KEY (parent) REFERENCES node (id) ON DELETE CASCADE)"))
            .await;
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + "[[mappings]]\nfrom = \"a.node\"\nto = \"b.node\"\n";
        let daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let all = "SELECT concat(count(*), ' ', coalesce(sum(id), 0), ' ', coalesce(sum(parent), 0)) FROM node";
        source.sql("INSERT INTO node VALUES (1, NULL), (2, 1), (3, 2), (4, 3)").await;
        level(&daemon, &source, &target, all).await;
        assert_eq!(daemon.command(&["pause", "node"]).0, 0);
        source.sql("INSERT INTO node SELECT n, NULL FROM generate_series(10, 5000) n").await;
        source.sql("INSERT INTO node VALUES (9000, NULL)").await;
        source.sql("UPDATE node SET parent = 9000 WHERE id = 2").await;
        source.sql("DELETE FROM node WHERE id = 1").await;
        assert_eq!(daemon.command(&["resume", "node"]).0, 0);
        daemon.wait("compared", SOON, |flows| is_compared(flows, "a:b")).await;
        level(&daemon, &source, &target, all).await;
        daemon.stop();
    }
}

/// Parents and children that went at the source while nothing was followed: children are removed first.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_of_a_flow_removes_children_before_their_parents() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    for (side, points) in [(&source, ""), (&target, ", FOREIGN KEY (head) REFERENCES head (id)")] {
        side.sql("CREATE TABLE head (id int PRIMARY KEY, n int)").await;
        side.sql(&format!("CREATE TABLE line (id int PRIMARY KEY, head int NOT NULL{points})"))
            .await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
        + "[[mappings]]\nfrom = \"a.head\"\nto = \"b.head\"\n[[mappings]]\nfrom = \"a.line\"\nto = \"b.line\"\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    source.sql("INSERT INTO head SELECT n, n FROM generate_series(1, 100) n").await;
    source.sql("INSERT INTO line SELECT n, n % 100 + 1 FROM generate_series(1, 1000) n").await;
    let all = "SELECT concat((SELECT concat(count(*), ' ', sum(id)) FROM head), ' ', (SELECT concat(count(*), ' ', sum(head)) FROM line))";
    level(&daemon, &source, &target, all).await;
    assert_eq!(daemon.command(&["pause", "head"]).0, 0);
    assert_eq!(daemon.command(&["pause", "line"]).0, 0);
    source.sql("DELETE FROM line WHERE head > 50; DELETE FROM head WHERE id > 50").await;
    source.sql("INSERT INTO head VALUES (200, 1); INSERT INTO line VALUES (2000, 200)").await;
    let (code, said) = daemon.command(&["resync", "a:b"]);
    assert_eq!(code, 0, "{said}");
    daemon.kill_and_start();
    level(&daemon, &source, &target, all).await;
    let flows = daemon.flows();
    let streams = |m: &Value| m["state"] == "streaming";
    assert!(flows[0]["mappings"].as_array().expect("mappings").iter().all(streams), "{flows:#?}");
    daemon.stop();
}

/// Where several tables make up one row, a row that one of them does not have may be another one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_leaves_rows_that_other_tables_share_in() {
    let (source, target) = (Side::new(true).await, Side::new(false).await);
    source.sql("CREATE TABLE party (id int PRIMARY KEY, name text)").await;
    source.sql("CREATE TABLE finance (id int PRIMARY KEY, terms text)").await;
    target
        .sql("CREATE TABLE account (id int PRIMARY KEY, name varchar(20), terms varchar(20))")
        .await;
    source.sql("INSERT INTO party VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    source.sql("INSERT INTO finance VALUES (2, '30 days')").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
        + "[[mappings]]\nfrom = \"a.party\"\nto = \"b.account\"\n[mappings.columns]\nid = \"id\"\nname = \"name\"\n\
           [[mappings]]\nfrom = \"a.finance\"\nto = \"b.account\"\n[mappings.columns]\nid = \"id\"\nterms = \"terms\"\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let all = "SELECT group_concat(concat_ws(' ', id, name, terms) ORDER BY id SEPARATOR ', ') FROM account";
    assert_eq!(target.one(all).await, "1 a, 2 b 30 days, 3 c");
    assert_eq!(daemon.command(&["resync", "finance"]).0, 0);
    daemon
        .wait("compared", SOON, |flows| {
            flows[0]["mappings"]
                .as_array()
                .expect("mappings")
                .iter()
                .any(|m| m["snapshot"]["reason"] == "resync" && m["snapshot"]["phase"] == "done")
        })
        .await;
    assert_eq!(target.one(all).await, "1 a, 2 b 30 days, 3 c", "{}", daemon.log());
    assert!(daemon.log().contains("rows that only the target has stay"), "{}", daemon.log());
    daemon.stop();
}

/// A mapping that was taken out of the file and is there again: what the source has deleted meanwhile goes, too. Of one that is new, or of
/// another table by now, rows that only the target has stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_there_again_removes_what_is_gone_meanwhile() {
    for to in [true, false] {
        let (source, target) = (Side::new(true).await, Side::new(to).await);
        for side in [&source, &target] {
            side.sql("CREATE TABLE goods (id int NOT NULL PRIMARY KEY, qty int)").await;
            side.sql("CREATE TABLE other (id int NOT NULL PRIMARY KEY, qty int)").await;
        }
        target.sql("INSERT INTO goods VALUES (1000, 1)").await;
        source.sql("INSERT INTO goods VALUES (1, 1), (2, 2), (3, 3)").await;
        source.sql("INSERT INTO other VALUES (1, 10), (7, 70)").await;
        let folder = tempfile::tempdir().expect("folder");
        let base = super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[])
            + "[[mappings]]\nfrom = \"a.item\"\nto = \"b.item\"\nsnapshot = \"never\"\n";
        let with = |from: &str| {
            format!("{base}[[mappings]]\nname = \"goods\"\nfrom = \"a.{from}\"\nto = \"b.goods\"\n")
        };
        let mut daemon = Daemon::start(folder.path(), &with("goods"));
        daemon.streaming().await;
        let all = "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty)) FROM goods";
        let is = async |daemon: &Daemon, expected: &str| {
            let began = Instant::now();
            while target.one(all).await != expected {
                assert!(began.elapsed() < SOON, "not {expected}: {}", daemon.log());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // Somebody else's row stays: the mapping is new.
        is(&daemon, "4 1006 7").await;
        let change = async |daemon: &Daemon, text: &str| {
            std::fs::write(folder.path().join("tidelock.toml"), text).expect("config");
            let (code, said) = daemon.command(&["reload"]);
            assert_eq!(code, 0, "{said}");
            daemon.streaming().await;
        };
        change(&daemon, &base).await;
        source.sql("DELETE FROM goods WHERE id = 1").await;
        source.sql("UPDATE goods SET qty = 20 WHERE id = 2").await;
        source.sql("INSERT INTO goods VALUES (4, 4)").await;
        daemon.kill_and_start();
        daemon.streaming().await;
        let (_, shown) = daemon.command(&["status", "--json"]);
        assert!(!shown.contains("goods"), "{shown}");
        change(&daemon, &with("goods")).await;
        is(&daemon, "3 9 27").await;
        source.sql("DELETE FROM goods WHERE id = 4").await;
        is(&daemon, "2 5 23").await;
        // The same name, and another table.
        change(&daemon, &base).await;
        change(&daemon, &with("other")).await;
        is(&daemon, "4 13 103").await;
        daemon.stop();
    }
}
