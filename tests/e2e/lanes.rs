//! Several sessions at the target write one log, and nobody can tell.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::Daemon;
use super::snapshot::Side;
use super::{SOON, soaking};

/// Tables of each kind: alone, parent and child, pointing to itself, with a second unique value; and one that tells the order of the transactions.
const TABLES: [&str; 5] = [
    "CREATE TABLE ledger (n bigint NOT NULL PRIMARY KEY)",
    "CREATE TABLE parent (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL)",
    "CREATE TABLE child (id bigint NOT NULL PRIMARY KEY, parent bigint NOT NULL, qty int NOT NULL, \
     CONSTRAINT child_parent FOREIGN KEY (parent) REFERENCES parent (id))",
    "CREATE TABLE tree (id bigint NOT NULL PRIMARY KEY, above bigint, \
     CONSTRAINT tree_above FOREIGN KEY (above) REFERENCES tree (id))",
    "CREATE TABLE seat (id bigint NOT NULL PRIMARY KEY, place varchar(20), CONSTRAINT seat_place UNIQUE (place))",
];
const NAMES: [&str; 6] = ["item", "ledger", "parent", "child", "tree", "seat"];

/// The same on every server.
const DIGESTS: [&str; 6] = [
    "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * qty), ' ', count(note)) FROM item",
    "SELECT concat(count(*), ' ', sum(n)) FROM ledger",
    "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * qty)) FROM parent",
    "SELECT concat(count(*), ' ', sum(id), ' ', sum(parent), ' ', sum(id % 1009 * qty)) FROM child",
    "SELECT concat(count(*), ' ', sum(id), ' ', sum(above), ' ', sum(id % 1009 * above)) FROM tree",
    "SELECT concat(count(*), ' ', sum(id), ' ', count(place), ' ', sum(id % 1009 * char_length(place))) FROM seat",
];

struct Rig {
    source: Side,
    target: Side,
    daemon: Daemon,
    folder: tempfile::TempDir,
    text: String,
    address: String,
}

impl Rig {
    /// Tables on both sides, and a daemon that has seen the beginning of the log and is down.
    async fn down(postgres: (bool, bool), tables: &[&str], names: &[&str], more: &str) -> Rig {
        let (source, target) = (Side::new(postgres.0).await, Side::new(postgres.1).await);
        for side in [&source, &target] {
            for table in tables {
                side.sql(table).await;
            }
        }
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
            listener.local_addr().expect("address").to_string()
        };
        let listen = format!("version = 1\nlisten = {address:?}\n");
        let mut text =
            super::config(folder.path(), &systems, &[]).replace("version = 1\n", &listen);
        text.push_str(more);
        for name in names {
            text.push_str(&format!(
                "[[mappings]]\nfrom = \"a.{name}\"\nto = \"b.{name}\"\nsnapshot = \"never\"\n"
            ));
        }
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        daemon.kill();
        Rig { source, target, daemon, folder, text, address }
    }

    fn metric(&self, name: &str) -> u64 {
        let shown = super::compact::metrics(&self.address);
        let lines = shown.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    async fn equal(&self, digests: &[&str]) {
        for sql in digests {
            let want = self.source.one(sql).await;
            let began = Instant::now();
            while self.target.one(sql).await != want {
                assert!(
                    began.elapsed() < SOON,
                    "{sql}: {want}, at the target {}\n{:#?}\n{}",
                    self.target.one(sql).await,
                    self.daemon.flows(),
                    self.daemon.log()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// So many rows of new ids, in statements.
fn inserts(table: &str, ids: std::ops::Range<u64>, cells: impl Fn(u64) -> String) -> String {
    let ids: Vec<u64> = ids.collect();
    let statement = |ids: &[u64]| {
        let rows: Vec<String> = ids.iter().map(|id| format!("({id}, {})", cells(*id))).collect();
        format!("INSERT INTO {table} VALUES {};", rows.join(","))
    };
    ids.chunks(1_000).map(statement).collect()
}

/// Source transactions of every kind, each with its number in the ledger.
fn work(random: &mut StdRng, transactions: u64) -> Vec<String> {
    let (mut item, mut parent, mut child, mut tree) = (1u64, 1u64, 1u64, 1u64);
    // Of each seat, from the first on.
    let mut places: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for n in 1..=transactions {
        let mut sql = format!("BEGIN; INSERT INTO ledger VALUES ({n});");
        // Stretches of what may go side by side, and of what may not.
        let kind =
            if n / 60 % 2 == 0 { random.random_range(10..20) } else { random.random_range(0..20) };
        match kind {
            0 => {
                let many = random.random_range(1..500);
                sql += &inserts("parent", parent..parent + many, |id| (id % 7).to_string());
                parent += many;
            }
            1 if parent > 1 => {
                let many = random.random_range(1..500);
                let below = random.random_range(1..parent);
                sql += &inserts("child", child..child + many, |id| {
                    format!("{}, {}", 1 + id % below, id % 5)
                });
                child += many;
            }
            2 if child > 1 => {
                let id = random.random_range(1..child);
                sql += &format!("DELETE FROM child WHERE id BETWEEN {id} AND {id} + 50;");
            }
            3 => {
                let many = random.random_range(1..200);
                sql += &inserts("tree", tree..tree + many, |id| {
                    if id % 3 == 0 { "NULL".to_owned() } else { (id / 2).max(1).to_string() }
                });
                tree += many;
            }
            4 => {
                let from = places.len() as u64 + 1;
                let upto = from + random.random_range(1..200);
                sql += &inserts("seat", from..upto, |id| format!("'s{id}'"));
                places.extend((from..upto).map(|id| format!("s{id}")));
            }
            5 if places.len() > 2 => {
                // One goes, and another takes its place.
                let x = random.random_range(0..places.len());
                let y = random.random_range(0..places.len());
                if x != y {
                    let free = std::mem::replace(&mut places[x], format!("x{n}"));
                    sql += &format!(
                        "DELETE FROM seat WHERE id = {}; UPDATE seat SET place = '{free}' WHERE id = {}; \
                         INSERT INTO seat VALUES ({}, 'x{n}');",
                        x + 1,
                        y + 1,
                        x + 1
                    );
                    places[y] = free;
                }
            }
            6 | 7 if item > 1 => {
                let id = random.random_range(1..item);
                sql += &format!(
                    "UPDATE item SET qty = qty + {n} WHERE id BETWEEN {id} AND {id} + 300;"
                );
            }
            8 if item > 1 => {
                let id = random.random_range(1..item);
                sql += &format!("DELETE FROM item WHERE id BETWEEN {id} AND {id} + 100;");
            }
            9 if item > 1 => {
                let id = random.random_range(1..item);
                sql += &format!("UPDATE item SET id = id + 1000000000 WHERE id = {id};");
            }
            _ => {
                let many = random.random_range(50..1500);
                sql += &inserts("item", item..item + many, |id| format!("{}, 'n'", id % 100));
                item += many;
            }
        }
        all.push(sql + "COMMIT;");
    }
    all
}

/// Whatever is visible is a beginning of the log, at every moment and after every kill.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_leave_what_one_session_leaves_and_show_it_in_order() {
    for postgres in [(true, false), (false, true)] {
        let seed = rand::rng().random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let more = "[defaults]\nlanes = 3\n";
        let mut rig = Rig::down(postgres, &TABLES, &NAMES, more).await;
        let transactions = if soaking() { 4_000 } else { 400 };
        for some in work(&mut random, transactions).chunks(20) {
            rig.source.sql(&some.concat()).await;
        }
        let shown = "SELECT concat(count(*), ' ', coalesce(max(n), 0)) FROM ledger";
        let last = transactions.to_string();
        let (mut lanes, mut kills) = (0, 0);
        rig.daemon.start_again();
        let mut began = Instant::now();
        loop {
            let seen = rig.target.one(shown).await;
            let (count, max) = seen.split_once(' ').expect("two numbers");
            assert_eq!(count, max, "a transaction is visible before one that came earlier");
            if max == last {
                break;
            }
            let due = Duration::from_millis(random.random_range(500..1500));
            if kills < 3 && began.elapsed() > due {
                lanes += rig.metric("tidelock_lane_transactions_total");
                rig.daemon.kill_and_start();
                (kills, began) = (kills + 1, Instant::now());
            }
            assert!(began.elapsed() < SOON, "{seen}\n{}", rig.daemon.log());
        }
        rig.equal(&DIGESTS).await;
        lanes += rig.metric("tidelock_lane_transactions_total");
        println!("{lanes} transactions by lanes, {kills} kills");
        let position = "SELECT count(*) FROM progress WHERE lane = 0";
        let position = position.replace("progress", "tidelock.progress");
        assert_eq!(rig.target.one(&position).await, "1");
        rig.daemon.stop();
    }
}

/// New rows of one table, far more than one session takes at once.
async fn backlog(rig: &Rig, transactions: u64) {
    let ids = |n: u64| n * 1_000..(n + 1) * 1_000;
    for n in 1..=transactions {
        rig.source.sql(&inserts("item", ids(n), |id| format!("{}, 'n'", id % 100))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_are_used_when_a_flow_is_behind_and_their_number_may_change() {
    for postgres in [true, false] {
        let more = "[defaults]\nlanes = 4\n";
        let mut rig = Rig::down((postgres, postgres), &[], &["item"], more).await;
        backlog(&rig, 150).await;
        rig.daemon.start_again();
        rig.equal(&DIGESTS[..1]).await;
        assert!(rig.metric("tidelock_lane_transactions_total") > 0, "{}", rig.daemon.log());
        for lanes in ["lanes = 2", "lanes = 1"] {
            rig.daemon.kill();
            backlog_again(&rig).await;
            let text = rig.text.replace("lanes = 4", lanes);
            rig.daemon = Daemon::start(rig.folder.path(), &text);
            rig.equal(&DIGESTS[..1]).await;
        }
        assert_eq!(rig.metric("tidelock_lane_transactions_total"), 0);
        rig.daemon.stop();
    }
}

async fn backlog_again(rig: &Rig) {
    rig.source.sql("DELETE FROM item WHERE id < 60000").await;
    for from in (60..150).step_by(2) {
        let (from, upto) = (from * 1_000, (from + 2) * 1_000);
        let sql = format!("UPDATE item SET qty = qty + 1 WHERE id >= {from} AND id < {upto}");
        rig.source.sql(&sql).await;
    }
}

/// Writes what the trigger holds up until something that comes after it has written the row of all, and more than goes into one target transaction. In the end
/// all is at the target.
async fn hold_up(rig: &Rig, round: u64) {
    let lock = match rig.target {
        Side::Pg(_) => "SELECT pg_advisory_lock(1, 1)",
        Side::My(_) => "SELECT GET_LOCK('wait', 0)",
    };
    let held = rig.target.hold(&[lock]).await;
    let first = 1 + round * 10_000_000;
    let slow = inserts("item", first..first + 5_000, |id| match id - first {
        4_999 => "-1, 'slow'".to_owned(),
        _ => "1, 'n'".to_owned(),
    });
    rig.source.sql(&format!("BEGIN; {slow} COMMIT")).await;
    for n in 1..100u64 {
        let first = first + n * 10_000;
        let some = inserts("item", first..first + 1_000, |id| match id - first {
            0 => "-2, 'n'".to_owned(),
            _ => "1, 'n'".to_owned(),
        });
        rig.source.sql(&some).await;
    }
    let free = match rig.target {
        Side::Pg(_) => "SELECT n FROM counted FOR UPDATE SKIP LOCKED",
        Side::My(_) => "CALL free()",
    };
    let began = Instant::now();
    while !rig.target.rows(free).await.is_empty() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(held);
    rig.equal(&DIGESTS[..1]).await;
}

/// A trigger that writes one row for all makes a batch wait for a lock of a later one, which waits for its turn: no server sees that.
#[tokio::test(flavor = "multi_thread")]
async fn what_triggers_share_is_met_by_going_alone() {
    // Where triggers are seen, nothing goes side by side unless the file says that they do not mind.
    let more = "[defaults]\nlanes = 3\ncompact = true\n";
    for postgres in [true, false] {
        let mut rig = Rig::down((postgres, postgres), &[], &["item"], more).await;
        let schema = if postgres { "public." } else { "" };
        let counted = "counted (id int NOT NULL PRIMARY KEY, n int NOT NULL)";
        rig.target.sql(&format!("CREATE TABLE {schema}{counted}")).await;
        rig.target.sql("INSERT INTO counted VALUES (1, 0)").await;
        let triggers = match postgres {
            true => {
                "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                     IF NEW.qty = -1 THEN WHILE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' \
                         AND objsubid = 2 AND classid = 1 AND objid = 1) LOOP PERFORM pg_sleep(0.05); END LOOP; END IF; \
                     IF NEW.qty < 0 THEN UPDATE public.counted SET n = n + 1; END IF; RETURN NULL; END $$; \
                     CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note()"
            }
            false => {
                "CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW BEGIN \
                      IF NEW.qty = -1 THEN WHILE IS_USED_LOCK('wait') IS NOT NULL DO DO SLEEP(0.05); END WHILE; END IF; \
                      IF NEW.qty < 0 THEN UPDATE counted SET n = n + 1; END IF; END"
            }
        };
        rig.target.sql(triggers).await;
        if !postgres {
            // MariaDB 10.5 knows no SKIP LOCKED.
            let free = "CREATE PROCEDURE free() BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN END; \
                        SET SESSION innodb_lock_wait_timeout = 1; SELECT n FROM counted FOR UPDATE; END";
            rig.target.sql(free).await;
        }
        rig.daemon.start_again();
        rig.daemon.streaming().await;
        // A lane that has no session yet waits for the one that the trigger holds up: it has one in the next round.
        let alone = "batches are written one after the other for an hour";
        let mut rounds = 0;
        while !rig.daemon.log().contains(alone) {
            assert!(rounds < 5, "{}", rig.daemon.log());
            hold_up(&rig, rounds).await;
            rounds += 1;
        }
        let all = (100 * rounds).to_string();
        assert_eq!(rig.target.one("SELECT n FROM counted").await, all);
        rig.daemon.stop();
    }
}

/// What a lane is refused is tried by itself, and stops its mapping only if it is refused then, too. A role that may have no further connection writes as before.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lane_is_refused_stops_the_mapping_alone_and_no_connection_none() {
    let more = "[defaults]\nlanes = 3\ncompact = true\n";
    for postgres in [true, false] {
        let tables = ["CREATE TABLE other (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL)"];
        let names = ["item", "other"];
        let mut rig = Rig::down((postgres, postgres), &tables, &names, more).await;
        rig.target
            .sql(match postgres {
                true => {
                    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                     RAISE EXCEPTION 'not this one'; END $$; \
                     CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW WHEN (NEW.qty = -1) \
                     EXECUTE FUNCTION no()"
                }
                false => {
                    "CREATE TRIGGER t BEFORE INSERT ON item FOR EACH ROW BEGIN IF NEW.qty = -1 THEN \
                     SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF; END"
                }
            })
            .await;
        let all = inserts("item", 1..5_001, |_| "1, 'n'".to_owned());
        rig.source.sql(&format!("BEGIN; {all} COMMIT")).await;
        for n in 1..40u64 {
            let ids = n * 10_000..n * 10_000 + 1_000;
            let rows = inserts("item", ids.clone(), |id| match id {
                120_500 => "-1, 'n'".to_owned(),
                _ => "1, 'n'".to_owned(),
            });
            let others = inserts("other", ids, |_| "1".to_owned());
            rig.source.sql(&format!("BEGIN; {rows} {others} COMMIT")).await;
        }
        rig.daemon.start_again();
        let stops = |flows: &[serde_json::Value]| {
            let mappings = flows[0]["mappings"].as_array().cloned().unwrap_or_default();
            mappings.iter().any(|m| m["name"] == "item" && m["state"] == "stopped")
        };
        rig.daemon.wait("item stops", SOON, stops).await;
        rig.equal(&["SELECT concat(count(*), ' ', sum(id)) FROM other"]).await;
        // All before the transaction with the row, and nothing of it.
        let there = "SELECT concat(count(*), ' ', max(id)) FROM item";
        assert_eq!(rig.target.one(there).await, "16000 110999");
        rig.daemon.stop();
    }
    let limit = "CREATE ROLE one LOGIN REPLICATION CONNECTION LIMIT 2";
    let mut rig = Rig::down((true, true), &[], &["item"], "[defaults]\nlanes = 3\n").await;
    for sql in [
        limit,
        "GRANT USAGE ON SCHEMA public, tidelock TO one",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, tidelock TO one",
    ] {
        rig.target.sql(sql).await;
    }
    backlog(&rig, 60).await;
    let url = rig.target.url();
    let text = rig.text.replace(&url, &url.replace("postgres://tidelock@", "postgres://one@"));
    assert_ne!(text, rig.text);
    rig.daemon = Daemon::start(rig.folder.path(), &text);
    rig.equal(&DIGESTS[..1]).await;
    rig.daemon.stop();
}
