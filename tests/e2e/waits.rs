//! Rows that point to rows which a copy has yet to bring: trees, circles, and children of a table that is copied anew.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SOON;
use super::daemon::Daemon;
use super::snapshot::{Side, agreed};

/// How much is remembered, but for the format, which always is.
const MEMORY: &str = "SELECT count(*) - 1 FROM tidelock.memory";

/// A tree in which children come before their parents as often as after them. Only the target's tables have the foreign keys.
struct Tree {
    /// The ids, each after its parent's, and the place of the parent here.
    nodes: Vec<(u32, Option<usize>)>,
    leaves_only: Vec<bool>,
}

impl Tree {
    async fn plant(side: &Side, rows: u32) -> Tree {
        // A prime above every number of rows in use: all ids differ.
        let id = |k: u32| (k * 7919 % 40_009) * 10 + 10;
        let nodes: Vec<(u32, Option<usize>)> =
            (0..rows).map(|k| (id(k), (k > 2).then_some(k as usize / 3))).collect();
        for some in nodes.chunks(1_000) {
            let row = |(id, parent): &(u32, Option<usize>)| match parent {
                Some(parent) => format!("({id}, 'first', {})", nodes[*parent].0),
                None => format!("({id}, 'first', NULL)"),
            };
            let rows: Vec<String> = some.iter().map(row).collect();
            side.sql(&format!("INSERT INTO node VALUES {}", rows.join(", "))).await;
        }
        let leaves_only = vec![false; nodes.len()];
        Tree { nodes, leaves_only }
    }

    /// One change: a new leaf anywhere among the keys, another parent, another name, or a leaf that goes or gets another key.
    async fn work(&mut self, side: &Side, random: &mut StdRng) {
        let at = random.random_range(3..self.nodes.len());
        let above = random.random_range(0..at);
        let free = random.random_range(0..40_009) * 10 + random.random_range(11..19);
        let is_free = self.nodes.iter().all(|(id, _)| *id != free);
        let gone = |tree: &Tree, at: usize| tree.leaves_only[at];
        if gone(self, at) || gone(self, above) {
            return;
        }
        let id = self.nodes[at].0;
        let is_leaf = self.nodes.iter().all(|(_, parent)| *parent != Some(at));
        match random.random_range(0..6) {
            0 | 1 if is_free => {
                let parent = self.nodes[above].0;
                side.sql(&format!("INSERT INTO node VALUES ({free}, 'new', {parent})")).await;
                self.nodes.push((free, Some(above)));
                self.leaves_only.push(false);
            }
            2 => {
                let parent = self.nodes[above].0;
                side.sql(&format!("UPDATE node SET parent = {parent} WHERE id = {id}")).await;
                self.nodes[at].1 = Some(above);
            }
            3 => side.sql(&format!("UPDATE node SET name = 'changed' WHERE id = {id}")).await,
            4 if is_leaf => {
                side.sql(&format!("DELETE FROM node WHERE id = {id}")).await;
                self.leaves_only[at] = true;
                self.nodes[at].1 = None;
            }
            5 if is_leaf && is_free => {
                side.sql(&format!("UPDATE node SET id = {free} WHERE id = {id}")).await;
                self.nodes[at].0 = free;
            }
            _ => {}
        }
    }
}

const NODE: &str =
    "CREATE TABLE node (id bigint NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, parent bigint";

async fn digest(side: &Side, table: &str, pointer: &str) -> String {
    let sql = format!(
        "SELECT concat(count(*), ' ', coalesce(sum(id), 0), ' ', coalesce(sum(coalesce({pointer}, 7) % 1013 * (id % 1009)), 0), ' ', coalesce(sum(char_length(name)), 0)) FROM {table}"
    );
    side.one(&sql).await
}

async fn settle(source: &Side, target: &Side, daemon: &Daemon, tables: &[(&str, &str)]) {
    let all = async |side: &Side| {
        let mut all = String::new();
        for (table, pointer) in tables {
            all += &digest(side, table, pointer).await;
        }
        all
    };
    agreed(daemon, async || all(source).await, async || all(target).await).await;
}

fn config(folder: &std::path::Path, systems: &[(&str, String)], tables: &[&str]) -> String {
    let mut text = super::config(folder, systems, &[]);
    for table in tables {
        text += &format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n");
    }
    text
}

/// Nothing is remembered any more of what waited.
async fn none_waits(target: &Side) {
    assert_eq!(target.one(MEMORY).await, "0");
}

const PAIRINGS: [(bool, bool); 4] = [(true, false), (false, true), (true, true), (false, false)];

/// A tree of many pieces, changed all over and killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_arrives_whatever_the_order_of_its_keys() {
    for (from, to) in PAIRINGS {
        let seed = rand::rng().random();
        println!("seed {seed}, {from} {to}");
        let mut random = StdRng::seed_from_u64(seed);
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        source.sql(&format!("{NODE})")).await;
        target.sql(&format!("{NODE}, FOREIGN KEY (parent) REFERENCES node (id))")).await;
        let mut tree = Tree::plant(&source, 12_000).await;
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let text = config(folder.path(), &systems, &["node"])
            + "[defaults]\nsnapshot_rows_per_second = 4000\n";
        let mut daemon = Daemon::start(folder.path(), &text);
        let waiting = MEMORY;
        let copied = "SELECT coalesce(max(rows_done), 0) FROM tidelock.snapshot";
        let begun =
            |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
        daemon.wait("copying", SOON, begun).await;
        for part in 1..3 {
            let began = Instant::now();
            while target.one(copied).await.parse::<u32>().expect("rows") < part * 4_000 {
                assert!(began.elapsed() < SOON, "{}", daemon.log());
                tree.work(&source, &mut random).await;
            }
            assert_ne!(target.one(waiting).await, "0", "no row was before its parent");
            daemon.kill();
            daemon.start_again();
        }
        for _ in 0..300 {
            tree.work(&source, &mut random).await;
        }
        settle(&source, &target, &daemon, &[("node", "parent")]).await;
        none_waits(&target).await;
        // From here on what cannot be is an error again.
        source.sql("INSERT INTO node VALUES (5, 'orphan', 3)").await;
        daemon.wait("stopped", SOON, |flows| stopped(flows).as_deref() == Some("TL0210")).await;
        daemon.stop();
    }
}

/// The code that the flow's first stopped mapping stopped with.
fn stopped(flows: &[serde_json::Value]) -> Option<String> {
    let mappings = flows.first()?["mappings"].as_array()?;
    let code = mappings.iter().find_map(|m| m["error"]["code"].as_str())?;
    Some(code.to_owned())
}

/// Teams have a lead, and people a team: rows of both point to each other.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_point_to_each_other_arrive() {
    for (from, to) in PAIRINGS {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        let team = "CREATE TABLE team (id bigint NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, lead_id bigint)";
        let person = "CREATE TABLE person (id bigint NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, team bigint NOT NULL";
        for side in [&source, &target] {
            side.sql(team).await;
        }
        source.sql(&format!("{person})")).await;
        target.sql(&format!("{person}, FOREIGN KEY (team) REFERENCES team (id))")).await;
        target.sql("ALTER TABLE team ADD FOREIGN KEY (lead_id) REFERENCES person (id)").await;
        for some in (1..=3_000).collect::<Vec<u32>>().chunks(1_000) {
            let teams: Vec<String> =
                some.iter().map(|n| format!("({n}, 'team', {})", 3_001 - n)).collect();
            // Every third is led by one of its own; the others by one of a team that comes much later or much before.
            let people: Vec<String> = some
                .iter()
                .map(|n| format!("({n}, 'someone', {})", if n % 3 == 0 { 3_001 - n } else { *n }))
                .collect();
            source.sql(&format!("INSERT INTO team VALUES {}", teams.join(", "))).await;
            source.sql(&format!("INSERT INTO person VALUES {}", people.join(", "))).await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let text = config(folder.path(), &systems, &["team", "person"])
            + "[defaults]\nsnapshot_rows_per_second = 3000\n";
        let daemon = Daemon::start(folder.path(), &text);
        let begun =
            |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
        daemon.wait("copying", SOON, begun).await;
        for n in 1..=100 {
            source.sql(&format!("UPDATE team SET lead_id = {} WHERE id = {n}", n * 7)).await;
            source.sql(&format!("INSERT INTO team VALUES ({}, 'late', {n})", 5_000 + n)).await;
            let late = format!("UPDATE person SET team = {} WHERE id = {n}", 5_000 + n);
            source.sql(&late).await;
        }
        settle(&source, &target, &daemon, &[("team", "lead_id"), ("person", "team")]).await;
        none_waits(&target).await;
        daemon.stop();
    }
}

/// Children are followed while the table that they point to is compared anew.
#[tokio::test(flavor = "multi_thread")]
async fn children_wait_for_parents_that_are_compared_anew() {
    let late = " DEFERRABLE INITIALLY DEFERRED";
    for (from, to, when) in [(true, false, ""), (false, true, ""), (false, true, late)] {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        let parent = "CREATE TABLE parent (id bigint NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, n int)";
        let child = "CREATE TABLE child (id bigint NOT NULL PRIMARY KEY, name varchar(20) NOT NULL, parent bigint";
        for side in [&source, &target] {
            side.sql(parent).await;
        }
        source.sql(&format!("{child})")).await;
        target.sql(&format!("{child}, FOREIGN KEY (parent) REFERENCES parent (id){when})")).await;
        for n in 0..8 {
            let rows: Vec<String> =
                (1..=1_000).map(|i| format!("({}, 'first', 1)", n * 1_000 + i)).collect();
            source.sql(&format!("INSERT INTO parent VALUES {}", rows.join(", "))).await;
        }
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let text = config(folder.path(), &systems, &["parent", "child"]);
        let mut daemon = Daemon::start(folder.path(), &text);
        let both = [("parent", "n"), ("child", "parent")];
        settle(&source, &target, &daemon, &both).await;
        daemon.kill();
        let slow = text + "[defaults]\nsnapshot_rows_per_second = 2000\n";
        std::fs::write(folder.path().join("tidelock.toml"), slow).expect("config");
        daemon.start_again();
        daemon.streaming().await;
        let (code, said) = daemon.command(&["resync", "parent"]);
        assert_eq!(code, 0, "{said}");
        let begun =
            |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
        daemon.wait("comparing", SOON, begun).await;
        let began = Instant::now();
        let mut n = 10_000;
        while target.one(MEMORY).await == "0" {
            assert!(began.elapsed() < SOON, "no child came before its parent\n{}", daemon.log());
            n += 1;
            source.sql(&format!("INSERT INTO parent VALUES ({n}, 'new', 1)")).await;
            source.sql(&format!("INSERT INTO child VALUES ({n}, 'new', {n})")).await;
            source.sql(&format!("UPDATE child SET name = 'changed' WHERE id = {}", n - 1)).await;
        }
        source.sql("DELETE FROM child WHERE id = 10001").await;
        settle(&source, &target, &daemon, &both).await;
        none_waits(&target).await;
        daemon.stop();
    }
}

/// While rows wait, the constraint that they wait for is dropped: nothing points any more, and they come all the same.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wait_come_when_their_constraint_is_gone() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source.sql(&format!("{NODE})")).await;
    target.sql(&format!("{NODE}, CONSTRAINT up FOREIGN KEY (parent) REFERENCES node (id))")).await;
    Tree::plant(&source, 12_000).await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = config(folder.path(), &systems, &["node"])
        + "[defaults]\nsnapshot_rows_per_second = 4000\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    let begun = |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
    daemon.wait("copying", SOON, begun).await;
    let began = Instant::now();
    while target.one(MEMORY).await == "0" {
        assert!(began.elapsed() < SOON, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.kill();
    target.sql("ALTER TABLE node DROP CONSTRAINT up").await;
    daemon.start_again();
    settle(&source, &target, &daemon, &[("node", "parent")]).await;
    none_waits(&target).await;
    daemon.stop();
}
