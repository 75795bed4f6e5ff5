//! First copies: under load, killed at random moments, into every pairing.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_scratch::mysql_async::prelude::Queryable;
use tidelock_scratch::{Flavour, Mysql, Postgres, mysql_async, tokio_postgres};

use super::daemon::Daemon;
use super::{SOON, soaking};

/// One side of a copy.
pub(super) enum Side {
    Pg(Postgres),
    My(Mysql),
}

/// A session that keeps something locked until it is dropped.
pub(super) enum Held {
    Pg { _client: tokio_postgres::Client },
    My { _conn: mysql_async::Conn },
}

impl Side {
    pub(super) async fn new(postgres: bool) -> Side {
        if postgres { Side::Pg(super::postgres().await) } else { Side::My(super::mysql().await) }
    }

    pub(super) fn url(&self) -> String {
        match self {
            Side::Pg(server) => server.url("db"),
            Side::My(server) => server.url("db"),
        }
    }

    pub(super) async fn sql(&self, sql: &str) {
        match self {
            Side::Pg(server) => server.sql("db", sql).await.expect("sql"),
            Side::My(server) => server.sql("db", sql).await.expect("sql"),
        };
    }

    pub(super) async fn one(&self, sql: &str) -> String {
        match self {
            Side::Pg(server) => server.one("db", sql).await.expect("one"),
            Side::My(server) => server.one("db", sql).await.expect("one"),
        }
    }

    pub(super) async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self {
            Side::Pg(server) => server.rows("db", sql).await.expect("rows"),
            Side::My(server) => server.rows("db", sql).await.expect("rows"),
        }
    }

    /// kill -9 of the server, and it comes back.
    pub(super) async fn crash(&self) {
        match self {
            Side::Pg(server) => {
                server.kill9().await.expect("kill");
                server.start_again().await.expect("start");
            }
            Side::My(server) => {
                server.kill9().await.expect("kill");
                server.start_again().await.expect("start");
            }
        }
    }

    /// A session that has done this, and keeps what it locks until it is dropped.
    pub(super) async fn hold(&self, statements: &[&str]) -> Held {
        match self {
            Side::Pg(server) => {
                let client = server.client("db").await.expect("client");
                for sql in statements {
                    client.batch_execute(sql).await.expect("lock");
                }
                Held::Pg { _client: client }
            }
            Side::My(server) => {
                let mut conn = server.conn("db").await.expect("conn");
                for sql in statements {
                    conn.query_drop(*sql).await.expect("lock");
                }
                Held::My { _conn: conn }
            }
        }
    }

    /// Rows of `item`, `rows` of them, in one go.
    async fn fill(&self, rows: u32) {
        match self {
            Side::Pg(_) => {
                let sql = format!(
                    "INSERT INTO item SELECT n * 10, n % 100, 'first ' || n FROM generate_series(1, {rows}) n"
                );
                self.sql(&sql).await;
            }
            Side::My(_) => {
                let mut n = 1;
                while n <= rows {
                    let last = (n + 999).min(rows);
                    let values: Vec<String> = (n..=last)
                        .map(|n| format!("({}, {}, 'first {n}')", n * 10, n % 100))
                        .collect();
                    self.sql(&format!("INSERT INTO item VALUES {}", values.join(","))).await;
                    n = last + 1;
                }
            }
        }
    }

    /// Count and a sum over everything, the same on each server.
    async fn digest(&self) -> String {
        let sql = match self {
            Side::Pg(_) => {
                "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * qty), ' ', sum(length(note)), ' ', \
                 sum(('x' || substr(encode(sha256(convert_to(concat(id, ':', qty, ':', note), 'UTF8')), 'hex'), 1, 6))::bit(24)::int)) FROM item"
            }
            Side::My(_) => {
                "SELECT concat(count(*), ' ', sum(id), ' ', sum(qty), ' ', sum(id % 1009 * qty), ' ', sum(char_length(note)), ' ', \
                 sum(conv(substr(sha2(concat(id, ':', qty, ':', note), 256), 1, 6), 16, 10))) FROM item"
            }
        };
        self.one(sql).await
    }
}

/// Inserts, updates, deletes and moves of keys between copied and uncopied ranges.
async fn work(side: &Side, random: &mut StdRng, rows: u32) {
    let id = random.random_range(1..=rows) * 10;
    let sql = match random.random_range(0..10) {
        0..3 => format!("UPDATE item SET qty = qty + 1, note = 'changed' WHERE id = {id}"),
        3..5 => format!("DELETE FROM item WHERE id = {id}"),
        5..8 => {
            let new = random.random_range(1..=rows) * 10 + random.random_range(1..9);
            match side {
                Side::Pg(_) => {
                    format!("INSERT INTO item VALUES ({new}, 7, 'new') ON CONFLICT DO NOTHING")
                }
                Side::My(_) => format!("INSERT IGNORE INTO item VALUES ({new}, 7, 'new')"),
            }
        }
        _ => {
            let to = random.random_range(1..=rows) * 10 + 9;
            format!(
                "UPDATE item SET id = {to}, note = 'moved' WHERE id = {id} AND {to} NOT IN (SELECT id FROM (SELECT id FROM item WHERE id = {to}) x)"
            )
        }
    };
    side.sql(&sql).await;
}

async fn settle(source: &Side, target: &Side, daemon: &Daemon) {
    agreed(daemon, async || source.digest().await, async || target.digest().await).await;
}

/// Waits until both sides tell the same and the flows are level.
pub(super) async fn agreed(
    daemon: &Daemon,
    source: impl AsyncFn() -> String,
    target: impl AsyncFn() -> String,
) {
    let began = Instant::now();
    loop {
        let level =
            daemon.flows().iter().all(|f| f["state"] == "streaming" && f["lag_seconds"] == 0.0);
        let (ours, theirs) = (source().await, target().await);
        if ours == theirs && level {
            return;
        }
        assert!(
            began.elapsed() < SOON,
            "{ours}\n{theirs}\n{:#?}\n{}",
            daemon.flows(),
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn snapshot_under_load(seed: u64, from_postgres: bool, to_postgres: bool, workers: usize) {
    println!("seed {seed}, {from_postgres} {to_postgres}, {workers} workers");
    let mut random = StdRng::seed_from_u64(seed);
    let (source, target) = (Side::new(from_postgres).await, Side::new(to_postgres).await);
    let rows = 20_000;
    source.fill(rows).await;
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[("a", "b")])
            .replace("\"never\"", "\"initial\"")
            + &format!("[defaults]\ncopy_workers = {workers}\nsnapshot_rows_per_second = 15000\n");
    let mut daemon = Daemon::start(folder.path(), &text);
    for _ in 0..2 {
        let until = Instant::now() + Duration::from_millis(random.random_range(100..1200));
        while Instant::now() < until {
            work(&source, &mut random, rows).await;
        }
        daemon.kill_and_start();
    }
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        work(&source, &mut random, rows).await;
    }
    settle(&source, &target, &daemon).await;
    let flows = daemon.flows();
    let snapshot = &flows[0]["mappings"][0]["snapshot"];
    assert_eq!(snapshot["phase"], "done", "{flows:#?}");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_under_load_goes_on_and_ends_equal() {
    for round in 0..if soaking() { 30 } else { 3 } {
        let seed = rand::rng().random();
        let (from, to) = [(true, false), (false, true), (true, true), (false, false)][round % 4];
        snapshot_under_load(seed, from, to, [4, 1, 1, 4][round / 2 % 4]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ways_with_one_first_copy_end_equal_and_then_flow_both_ways() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.fill(3_000).await;
    b.sql("INSERT INTO item VALUES (29990, 77, 'there before'), (7, 1, 'only here')").await;
    let folder = tempfile::tempdir().expect("folder");
    let both =
        super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[("a", "b"), ("b", "a")]);
    let text = both.replacen("\"never\"", "\"initial\"", 1)
        + "[defaults]\nsnapshot_rows_per_second = 1000\n";
    let daemon = Daemon::start(folder.path(), &text);
    // While the copy runs, what the other side writes to rows not copied yet is about to be overwritten;
    // what it writes to rows that are copied is brought back.
    daemon
        .wait("copying", SOON, |flows| {
            flows.iter().any(|f| {
                let done = &f["mappings"][0]["snapshot"]["done"];
                f["flow"] == "a:b" && f["state"] == "snapshotting" && done.as_u64() > Some(0)
            })
        })
        .await;
    b.sql("UPDATE item SET qty = 76 WHERE id = 29990").await;
    b.sql("UPDATE item SET qty = 55 WHERE id = 10").await;
    daemon.streaming().await;
    b.sql("DELETE FROM item WHERE id = 7").await;
    b.sql("UPDATE item SET qty = 5, note = 'from b' WHERE id = 20").await;
    a.sql("UPDATE item SET qty = 6, note = 'from a' WHERE id = 30").await;
    settle(&a, &b, &daemon).await;
    assert_eq!(a.one("SELECT qty FROM item WHERE id = 10").await, "55", "b's later value won");
    assert_eq!(a.one("SELECT qty FROM item WHERE id = 20").await, "5");
    assert_eq!(b.one("SELECT qty FROM item WHERE id = 30").await, "6");
    assert_eq!(b.one("SELECT qty FROM item WHERE id = 29990").await, "99", "a's value won");
    daemon.stop();
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, both.replace("\"never\"", "\"initial\"")).expect("config");
    let (code, text) = super::daemon::command(&config, &["check"]);
    assert!(code == 1 && text.contains("copy the same columns into each other"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_mapping_and_a_lost_log_come_back_by_resync_deletes_included() {
    for (from, to) in [(true, false), (false, true)] {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        source.fill(2_000).await;
        target.sql("ALTER TABLE item ADD CONSTRAINT small CHECK (qty < 1000)").await;
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(
            folder.path(),
            &[("a", source.url()), ("b", target.url())],
            &[("a", "b")],
        )
        .replace("\"never\"", "\"initial\"");
        let mut daemon = Daemon::start(folder.path(), &text);
        settle(&source, &target, &daemon).await;
        // A row that the target refuses stops the mapping; what comes after is parked.
        source.sql("UPDATE item SET qty = 5000 WHERE id = 10").await;
        let stopped = |flows: &[serde_json::Value]| flows[0]["mappings"][0]["state"] == "stopped";
        daemon.wait("stopped", SOON, stopped).await;
        source.sql("DELETE FROM item WHERE id IN (20, 30)").await;
        source.sql("UPDATE item SET id = 21 WHERE id = 40").await;
        source.sql("INSERT INTO item VALUES (5, 5, 'new')").await;
        target.sql("INSERT INTO item VALUES (999999, 1, 'a stranger')").await;
        daemon.kill_and_start();
        daemon.wait("still stopped", SOON, stopped).await;
        match &target {
            Side::Pg(_) => target.sql("ALTER TABLE item DROP CONSTRAINT small").await,
            Side::My(_) => target.sql("ALTER TABLE item DROP CONSTRAINT small").await,
        }
        let (code, said) = daemon.command(&["resync", "item"]);
        assert_eq!(code, 0, "{said}");
        settle(&source, &target, &daemon).await;
        // The log that is needed goes away while we are down.
        daemon.kill();
        source.sql("DELETE FROM item WHERE id < 3000").await;
        match &source {
            Side::Pg(server) => {
                server
                    .sql(
                        "db",
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
                    )
                    .await
                    .expect("drop slot");
            }
            Side::My(server) => {
                let reset = match server.flavour() {
                    Flavour::MariaDb => "RESET MASTER",
                    Flavour::MySql => "RESET BINARY LOGS AND GTIDS",
                };
                source.sql(reset).await;
            }
        }
        source.sql("UPDATE item SET note = 'after the loss' WHERE id = 5000").await;
        daemon.start_again();
        daemon.halted("a:b").await;
        let (code, said) = daemon.command(&["resync", "a:b"]);
        assert_eq!(code, 0, "{said}");
        settle(&source, &target, &daemon).await;
        source.sql("INSERT INTO item VALUES (1, 1, 'and on')").await;
        settle(&source, &target, &daemon).await;
        daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_mends_rows_while_the_stream_goes_on() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source.fill(3_000).await;
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[("a", "b")])
            .replace("\"never\"", "\"initial\"");
    let daemon = Daemon::start(folder.path(), &text);
    settle(&source, &target, &daemon).await;
    target.sql("DELETE FROM item WHERE id <= 1000").await;
    target.sql("UPDATE item SET note = 'spoilt' WHERE id = 2000").await;
    let (code, said) = daemon.command(&["backfill", "item", "--where", "id <= 1000"]);
    assert_eq!(code, 0, "{said}");
    source.sql("UPDATE item SET qty = 77 WHERE id = 500; DELETE FROM item WHERE id = 510").await;
    let rest = "SELECT count(*) FROM item WHERE id <= 1000";
    let began = Instant::now();
    while target.one(rest).await != "99" {
        assert!(began.elapsed() < SOON, "{:#?}\n{}", daemon.flows(), daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(target.one("SELECT note FROM item WHERE id = 2000").await, "spoilt");
    assert_eq!(daemon.command(&["backfill", "item"]).0, 0);
    settle(&source, &target, &daemon).await;
    let (code, said) = daemon.command(&["backfill", "item", "--where", "no_such = 1"]);
    assert!(code == 2 && said.contains("no_such"), "{said}");
    daemon.stop();
}

/// Works on the source until a copy is where `there` says, then kills the daemon at that very moment.
async fn kill_when(
    daemon: &mut Daemon,
    source: &Side,
    target: &Side,
    random: &mut StdRng,
    there: &str,
) {
    let sql = format!("SELECT count(*) FROM tidelock.snapshot WHERE {there}");
    let began = Instant::now();
    while target.one(&sql).await == "0" {
        assert!(began.elapsed() < SOON, "{there}: {:#?}\n{}", daemon.flows(), daemon.log());
        work(source, random, 20_000).await;
    }
    daemon.kill_and_start();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_at_each_of_its_phases_goes_on_and_ends_equal() {
    for (from, to, workers) in [(true, false, 4), (false, true, 1)] {
        let seed = rand::rng().random();
        println!("seed {seed}, {from} {to}");
        let mut random = StdRng::seed_from_u64(seed);
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        source.fill(20_000).await;
        let folder = tempfile::tempdir().expect("folder");
        let text = super::config(
            folder.path(),
            &[("a", source.url()), ("b", target.url())],
            &[("a", "b")],
        )
        .replace("\"never\"", "\"initial\"")
            + &format!("[defaults]\ncopy_workers = {workers}\nsnapshot_rows_per_second = 15000\n");
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon
            .wait("copying", SOON, |flows| flows.iter().any(|f| f["state"] == "snapshotting"))
            .await;
        for there in [
            "phase = 'rows'",
            "rows_done >= 2000",
            "rows_done >= 10000",
            "rows_done >= 18000",
            "phase = 'done'",
        ] {
            kill_when(&mut daemon, &source, &target, &mut random, there).await;
        }
        settle(&source, &target, &daemon).await;
        // The way back after a loss: rows that only the target has go in a phase of their own.
        let extra: Vec<String> = (1..3_000).map(|n| format!("(-{n}, 1, 'extra')")).collect();
        target.sql(&format!("INSERT INTO item VALUES {}", extra.join(","))).await;
        target.sql("DELETE FROM item WHERE id > 150000").await;
        assert_eq!(daemon.command(&["resync", "item"]).0, 0);
        for there in ["phase = 'rows'", "phase = 'sweep'", "phase = 'done'"] {
            kill_when(&mut daemon, &source, &target, &mut random, there).await;
        }
        settle(&source, &target, &daemon).await;
        daemon.stop();
    }
}

/// `script` gives a terminal to what it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_a_bar_while_a_table_is_copied() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source.fill(6_000).await;
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", source.url()), ("b", target.url())], &[("a", "b")])
            .replace("\"never\"", "\"initial\"")
            + "[defaults]\nsnapshot_rows_per_second = 2000\n";
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, text).expect("config");
    let shown = folder.path().join("shown");
    let command = format!(
        "stty cols 120; exec {} run -c {}",
        env!("CARGO_BIN_EXE_tidelock"),
        config.display()
    );
    let mut child = std::process::Command::new("script")
        .args(["-qefc", &command])
        .arg(&shown)
        .env("NO_COLOR", "1")
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("script");
    let began = Instant::now();
    let text = loop {
        let text = String::from_utf8_lossy(&std::fs::read(&shown).unwrap_or_default()).into_owned();
        if text.contains("copied") {
            break text;
        }
        assert!(began.elapsed() < SOON, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (code, said) = super::daemon::command(&config, &["status"]);
    assert!(code == 0, "{said}");
    let mut keys = child.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut keys, b"\x03").expect("Ctrl-C");
    let ended = child.wait().expect("end");
    let all = String::from_utf8_lossy(&std::fs::read(&shown).expect("shown")).into_owned();
    assert!(ended.success(), "{ended} {all}");
    assert!(text.contains("a:b item ") && text.contains("/"), "{text}");
    assert!(text.contains(" s left"), "{text}");
    // Log lines stand by themselves.
    let lines: Vec<&str> = text.lines().filter(|l| l.contains("copied flow=")).collect();
    assert!(lines.len() == 1 && lines[0].trim_end().ends_with("mapping=item"), "{lines:?}");
}

/// Waits until `mapping` has been compared.
async fn compared(daemon: &Daemon) {
    assert_eq!(daemon.command(&["resync", "code"]).0, 0);
    daemon
        .wait("compared", SOON, |flows| {
            let copy = &flows[0]["mappings"][0]["snapshot"];
            copy["reason"] == "resync" && copy["phase"] == "done"
        })
        .await;
}

/// Keys of the target that tell nothing of the source's: a text made of a number, and an expression.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_removes_rows_whose_keys_cannot_be_led_back() {
    for (from, to, key) in
        [(true, true, "id"), (true, false, "'C-' || id"), (false, true, "'C-' || id")]
    {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        source.sql("CREATE TABLE code (id int PRIMARY KEY, n int)").await;
        target.sql("CREATE TABLE code (id varchar(20) PRIMARY KEY, n int)").await;
        let rows: Vec<String> = (1..=500).map(|i| format!("({i}, {i})")).collect();
        source.sql(&format!("INSERT INTO code VALUES {}", rows.join(", "))).await;
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let text = super::config(folder.path(), &systems, &[])
            + &format!(
                "[[mappings]]\nfrom = \"a.code\"\nto = \"b.code\"\nkey = [\"id\"]\n[mappings.columns]\nid = \"{key}\"\nn = \"n\"\n"
            );
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let all = "SELECT concat(count(*), ' ', sum(n)) FROM code";
        let began = Instant::now();
        while target.one(all).await != source.one(all).await {
            assert!(began.elapsed() < SOON, "{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        daemon.kill();
        target.sql("INSERT INTO code VALUES ('X-1', 7), ('1000', 8), ('C-501', 9)").await;
        target.sql("DELETE FROM code WHERE n = 3").await;
        source.sql("DELETE FROM code WHERE id > 400").await;
        daemon.start_again();
        daemon.streaming().await;
        compared(&daemon).await;
        source.sql("INSERT INTO code VALUES (501, 1)").await;
        let began = Instant::now();
        while target.one(all).await != source.one(all).await {
            assert!(began.elapsed() < SOON, "{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!daemon.log().contains("stay"), "{}", daemon.log());
        daemon.stop();
    }
}

/// A trigger of the target writes another key than ours, so nobody can tell whose rows are nobody's: none is removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_keeps_all_rows_where_the_target_has_keys_of_its_own_making() {
    let (source, target) = (Side::new(true).await, Side::new(true).await);
    source
        .sql(
            "CREATE TABLE code (id int PRIMARY KEY, n int); INSERT INTO code VALUES (1, 1), (2, 2)",
        )
        .await;
    target.sql("CREATE TABLE code (id varchar(20) PRIMARY KEY, n int); INSERT INTO code VALUES ('other', 6)").await;
    target.sql("CREATE FUNCTION lower_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id = lower(NEW.id); RETURN NEW; END $$").await;
    target
        .sql("CREATE TRIGGER t BEFORE INSERT ON code FOR EACH ROW EXECUTE FUNCTION lower_it()")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = super::config(folder.path(), &systems, &[])
        + "[[mappings]]\nfrom = \"a.code\"\nto = \"b.code\"\nkey = [\"id\"]\n[mappings.columns]\nid = \"'C-' || id\"\nn = \"n\"\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    compared(&daemon).await;
    let rows = "SELECT string_agg(id, ',' ORDER BY id) FROM code";
    assert_eq!(target.one(rows).await, "c-1,c-2,other", "{}", daemon.log());
    assert!(daemon.log().contains("rows that only the target has stay"), "{}", daemon.log());
    daemon.stop();
}

/// Types of keys that servers write in ways of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_by_computed_keys_does_not_mind_blanks_and_zeros() {
    for to in [true, false] {
        for (kind, key) in
            [("decimal(10,3)", "id * 1.5"), ("char(8)", "'C' || id"), ("decimal(6,0)", "id + 0.0")]
        {
            let (source, target) = (Side::new(true).await, Side::new(to).await);
            source.sql("CREATE TABLE code (id int PRIMARY KEY, n int); INSERT INTO code SELECT i, i FROM generate_series(1, 50) i").await;
            target.sql(&format!("CREATE TABLE code (id {kind} PRIMARY KEY, n int)")).await;
            let folder = tempfile::tempdir().expect("folder");
            let systems = [("a", source.url()), ("b", target.url())];
            let text = super::config(folder.path(), &systems, &[])
                + &format!(
                    "[[mappings]]\nfrom = \"a.code\"\nto = \"b.code\"\nkey = [\"id\"]\nwhere = \"id <> 50\"\n[mappings.columns]\nid = \"{key}\"\nn = \"n\"\n"
                );
            let daemon = Daemon::start(folder.path(), &text);
            daemon.streaming().await;
            target.sql("INSERT INTO code VALUES (999, 7)").await;
            compared(&daemon).await;
            assert!(!daemon.log().contains("stay"), "{}", daemon.log());
            let all = target.one("SELECT concat(count(*), ' ', sum(n)) FROM code").await;
            assert_eq!(all, "49 1225", "{kind} {}", daemon.log());
            daemon.stop();
        }
    }
}
