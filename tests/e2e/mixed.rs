//! Tables and views of one flow whose rows point to each other at the target.

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;

/// More rows than are written at once: the transaction is piped.
const MANY: u32 = 9_000;

async fn started(folder: &std::path::Path, a: &Side, b: &Side, mapped: &str) -> Daemon {
    let text = super::config(folder, &[("a", a.url()), ("b", b.url())], &[]) + mapped;
    let daemon = Daemon::start(folder, &text);
    daemon.streaming().await;
    daemon
}

fn values(row: impl Fn(u32) -> String) -> String {
    (1_000..1_000 + MANY).map(row).collect::<Vec<_>>().join(", ")
}

async fn nothing_stopped(daemon: &Daemon) {
    let runs = |flows: &[serde_json::Value]| {
        let mut mappings = flows.iter().filter_map(|f| f["mappings"].as_array()).flatten();
        !flows.is_empty() && mappings.all(|m| m["error"].is_null())
    };
    daemon.wait("all run", SOON, runs).await;
}

/// Addresses are a table that points to what a view brings, and what they are made of points to them.
async fn below_a_view(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    for sql in [
        "CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(40) NOT NULL)",
        "CREATE TABLE address (id int NOT NULL PRIMARY KEY, party int NOT NULL, city varchar(40) NOT NULL)",
        "CREATE TABLE visit (id int NOT NULL PRIMARY KEY, address int NOT NULL)",
        "CREATE VIEW account AS SELECT id, upper(name) AS label FROM party",
    ] {
        a.sql(sql).await;
    }
    for sql in [
        "CREATE TABLE account (id int NOT NULL PRIMARY KEY, label varchar(40) NOT NULL)",
        "CREATE TABLE address (id int NOT NULL PRIMARY KEY, party int NOT NULL, city varchar(40) NOT NULL, FOREIGN KEY (party) REFERENCES account (id))",
        "CREATE TABLE visit (id int NOT NULL PRIMARY KEY, address int NOT NULL, FOREIGN KEY (address) REFERENCES address (id))",
    ] {
        b.sql(sql).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let mapped = "[[mappings]]\nfrom = \"a.address\"\nto = \"b.address\"\n\
        [[mappings]]\nfrom = \"a.visit\"\nto = \"b.visit\"\n\
        [[mappings]]\nfrom = \"a.account\"\nto = \"b.account\"\ntracks = { 'a.party' = \"id\" }\n";
    let mut daemon = started(folder.path(), &a, &b, mapped).await;
    let accounts = "SELECT id, label FROM account ORDER BY id";
    let addresses = "SELECT id, party, city FROM address ORDER BY id";
    let visits = "SELECT id, address FROM visit ORDER BY id";
    let parties = format!("INSERT INTO party VALUES {}", values(|n| format!("({n}, 'many')")));
    let many = format!("INSERT INTO address VALUES {}", values(|n| format!("({n}, {n}, 'x')")));
    let early = "BEGIN; INSERT INTO address VALUES (3, 9, 'early'); INSERT INTO party VALUES (9, 'nine'); COMMIT";
    let batch = [
        "BEGIN; INSERT INTO party VALUES (7, 'seven'); INSERT INTO address VALUES (1, 7, 'a'); INSERT INTO visit VALUES (1, 1); COMMIT",
        "BEGIN; INSERT INTO party VALUES (8, 'eight'); UPDATE address SET party = 8, city = 'b' WHERE id = 1; DELETE FROM party WHERE id = 7; COMMIT",
        "BEGIN; UPDATE party SET name = 'other' WHERE id = 8; INSERT INTO address VALUES (2, 8, 'c'); DELETE FROM visit WHERE id = 1; DELETE FROM address WHERE id = 1; COMMIT",
        "BEGIN; DELETE FROM address WHERE id = 2; DELETE FROM party WHERE id = 8; COMMIT",
        // Nothing keeps the source from a row before the one it points to.
        early,
        "BEGIN; DELETE FROM party WHERE id = 9; DELETE FROM address WHERE id = 3; COMMIT",
        &format!("BEGIN; {parties}; {many}; COMMIT"),
        "BEGIN; DELETE FROM address WHERE id >= 1000; DELETE FROM party WHERE id >= 1000; COMMIT",
    ];
    for sql in batch {
        a.sql(sql).await;
        equal(&daemon, (&a, accounts), (&b, accounts)).await;
        equal(&daemon, (&a, addresses), (&b, addresses)).await;
        equal(&daemon, (&a, visits), (&b, visits)).await;
    }
    nothing_stopped(&daemon).await;
    // All at once, and again after a crash.
    for _ in 0..2 {
        daemon.kill();
        for sql in batch {
            a.sql(sql).await;
        }
        a.sql("BEGIN; INSERT INTO party VALUES (7, 'last'); INSERT INTO address VALUES (1, 7, 'last'); COMMIT").await;
        daemon.start_again();
        equal(&daemon, (&a, addresses), (&b, addresses)).await;
        a.sql("BEGIN; DELETE FROM address; DELETE FROM party; COMMIT").await;
        equal(&daemon, (&a, addresses), (&b, addresses)).await;
        equal(&daemon, (&a, accounts), (&b, accounts)).await;
    }
    nothing_stopped(&daemon).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_point_to_what_a_view_brings_to_mariadb() {
    below_a_view(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_point_to_what_a_view_brings_to_postgres() {
    below_a_view(false).await;
}

/// Lines are a view whose rows point to a table that is written in the order of the log.
async fn above_a_view(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    for sql in [
        "CREATE TABLE sale (id int NOT NULL PRIMARY KEY, number varchar(20) NOT NULL)",
        "CREATE TABLE line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, qty int NOT NULL)",
        "CREATE VIEW sale_line AS SELECT id, sale, qty + 1 AS qty FROM line",
    ] {
        a.sql(sql).await;
    }
    for sql in [
        "CREATE TABLE sale (id int NOT NULL PRIMARY KEY, number varchar(20) NOT NULL)",
        "CREATE TABLE sale_line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, qty int NOT NULL, FOREIGN KEY (sale) REFERENCES sale (id))",
    ] {
        b.sql(sql).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let mapped = "[[mappings]]\nfrom = \"a.sale\"\nto = \"b.sale\"\ncompact = false\n\
        [[mappings]]\nname = \"lines\"\nfrom = \"a.sale_line\"\nto = \"b.sale_line\"\ntracks = { 'a.line' = \"id\" }\n";
    let daemon = started(folder.path(), &a, &b, mapped).await;
    let sales = "SELECT id, number FROM sale ORDER BY id";
    let lines = "SELECT id, sale, qty FROM sale_line ORDER BY id";
    let many = format!("INSERT INTO sale VALUES {}", values(|n| format!("({n}, 'many')")));
    let theirs = format!("INSERT INTO line VALUES {}", values(|n| format!("({n}, {n}, 1)")));
    for sql in [
        "BEGIN; INSERT INTO sale VALUES (1, 'one'), (2, 'two'); INSERT INTO line VALUES (1, 1, 1), (2, 2, 2); COMMIT",
        // What follows the delete must not come before it, or may.
        "BEGIN; DELETE FROM line WHERE id = 1; DELETE FROM sale WHERE id = 1; INSERT INTO sale VALUES (3, 'three'); INSERT INTO line VALUES (3, 3, 3); COMMIT",
        "BEGIN; DELETE FROM line WHERE id = 2; DELETE FROM sale WHERE id = 2; UPDATE sale SET number = 'III' WHERE id = 3; COMMIT",
        &format!("BEGIN; {many}; {theirs}; COMMIT"),
        "BEGIN; DELETE FROM line WHERE id >= 1000; DELETE FROM sale WHERE id >= 1000; UPDATE sale SET number = 'drei'; COMMIT",
    ] {
        a.sql(sql).await;
        equal(&daemon, (&a, lines), (&b, lines)).await;
        equal(&daemon, (&a, sales), (&b, sales)).await;
    }
    nothing_stopped(&daemon).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_may_point_to_what_a_table_brings_to_mariadb() {
    above_a_view(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_may_point_to_what_a_table_brings_to_postgres() {
    above_a_view(false).await;
}

/// Rows of groups that were sent before the first piece of a copy are known when they go.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_came_before_the_first_piece_goes_again() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    for sql in [
        "CREATE TABLE product (id int NOT NULL PRIMARY KEY)",
        "CREATE TABLE line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, product int NOT NULL)",
        "ALTER TABLE line REPLICA IDENTITY FULL",
        "CREATE INDEX ON line (sale)",
        "CREATE VIEW sale_line AS SELECT id, sale, product FROM line",
        "INSERT INTO product SELECT generate_series(1, 9000)",
        "INSERT INTO line SELECT n, n / 3, 1 FROM generate_series(1, 12000) n",
    ] {
        a.sql(sql).await;
    }
    b.sql("CREATE TABLE product (id int NOT NULL PRIMARY KEY)").await;
    b.sql("CREATE TABLE sale_line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, product int NOT NULL, FOREIGN KEY (product) REFERENCES product (id))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.product\"\nto = \"b.product\"\n\
           [[mappings]]\nname = \"lines\"\nfrom = \"a.sale_line\"\nto = \"b.sale_line\"\nkey = [\"sale\"]\nrow_key = [\"id\"]\ntracks = { 'a.line' = \"sale\" }\n\
           [defaults]\nsnapshot_rows_per_second = 3000\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    let begun = |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
    daemon.wait("copying", SOON, begun).await;
    let done = async |mapping: &str| {
        let rows = format!(
            "SELECT coalesce(max(rows_done), 0) FROM tidelock.snapshot WHERE mapping = '{mapping}'"
        );
        b.one(&rows).await.parse::<u32>().expect("rows") > 0
    };
    wait_for("products", SOON, true, async || done("product").await).await.expect("products");
    a.sql("INSERT INTO line VALUES (99999, 4000, 1), (99998, 4000, 1)").await;
    let came = "SELECT count(*) FROM sale_line WHERE id > 90000";
    wait_for("lines", SOON, "2".to_owned(), async || b.one(came).await).await.expect("lines");
    assert!(!done("lines").await, "a piece was written before");
    daemon.kill_and_start();
    wait_for("a piece", SOON, true, async || done("lines").await).await.expect("a piece");
    a.sql("DELETE FROM line WHERE id = 99999").await;
    a.sql("UPDATE line SET sale = 4001 WHERE id = 99998").await;
    daemon.streaming().await;
    let lines = "SELECT id, sale, product FROM sale_line ORDER BY id";
    equal(&daemon, (&a, lines), (&b, lines)).await;
    daemon.stop();
}

/// A source that does not answer for longer than the target's server keeps a session that says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_targets_session_lives_while_the_source_takes_its_time() {
    let (a, b) = (Side::new(true).await, Side::new(true).await);
    for sql in [
        "CREATE TABLE part (id int NOT NULL PRIMARY KEY, qty int NOT NULL)",
        "CREATE TABLE price (part int NOT NULL PRIMARY KEY, price int NOT NULL)",
        "CREATE VIEW offer AS SELECT p.id, p.qty, r.price FROM part p LEFT JOIN price r ON r.part = p.id",
    ] {
        a.sql(sql).await;
    }
    b.sql("CREATE TABLE offer (id int NOT NULL PRIMARY KEY, qty int NOT NULL, price int)").await;
    let folder = tempfile::tempdir().expect("folder");
    let mapped =
        "[[mappings]]\nfrom = \"a.offer\"\nto = \"b.offer\"\ntracks = { 'a.part' = \"id\" }\n";
    let daemon = started(folder.path(), &a, &b, mapped).await;
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = 'price'::regclass";
    tokio::join!(a.sql("BEGIN; LOCK TABLE price; SELECT pg_sleep(35); COMMIT"), async {
        wait_for("the lock", SOON, "1".to_owned(), async || a.one(locked).await).await.expect("it");
        a.sql("INSERT INTO part VALUES (1, 1)").await;
    });
    let all = "SELECT id, qty, price FROM offer ORDER BY id";
    equal(&daemon, (&a, all), (&b, all)).await;
    let log = daemon.log();
    assert!(!log.contains("retrying"), "{log}");
    daemon.stop();
}

/// Rows of a view whose keys come to other values at the target are known by what was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_resync_removes_rows_of_a_view_whose_keys_do_not_lead_back() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TABLE part (id int NOT NULL PRIMARY KEY, qty int NOT NULL)").await;
    a.sql("CREATE VIEW offer AS SELECT id, qty FROM part").await;
    for table in ["texts", "computed", "called"] {
        b.sql(&format!(
            "CREATE TABLE {table} (id varchar(20) NOT NULL PRIMARY KEY, qty int NOT NULL)"
        ))
        .await;
    }
    b.sql("CREATE PROCEDURE put_offer(p_id varchar(20), p_qty int) INSERT INTO called VALUES (p_id, p_qty) ON DUPLICATE KEY UPDATE qty = p_qty").await;
    b.sql("CREATE PROCEDURE remove_offer(p_id varchar(20)) DELETE FROM called WHERE id = p_id")
        .await;
    a.sql("INSERT INTO part SELECT n, n FROM generate_series(1, 5000) n").await;
    let folder = tempfile::tempdir().expect("folder");
    let tracks = "tracks = { 'a.part' = \"id\" }\n";
    let mapped = format!(
        "[[mappings]]\nname = \"texts\"\nfrom = \"a.offer\"\nto = \"b.texts\"\n{tracks}\
         [[mappings]]\nname = \"computed\"\nfrom = \"a.offer\"\nto = \"b.computed\"\nfrom_key = [\"id\"]\n\
         columns = {{ id = \"'P' || id\", qty = \"qty\" }}\n{tracks}\
         [[mappings]]\nname = \"called\"\nfrom = \"a.offer\"\nto = {{ call = \"b.put_offer\", delete = \"b.remove_offer\" }}\nkey = [\"id\"]\nfrom_key = [\"id\"]\n\
         columns = {{ id = \"'C' || id\", qty = \"qty\" }}\n{tracks}"
    );
    let daemon = started(folder.path(), &a, &b, &mapped).await;
    let count = async |target: &str| {
        b.one(&format!("SELECT concat(count(*), ' ', coalesce(sum(qty), 0)) FROM {target}")).await
    };
    let agree = async |daemon: &Daemon| {
        let want = a.one("SELECT concat(count(*), ' ', coalesce(sum(qty), 0)) FROM part").await;
        for target in ["texts", "computed", "called"] {
            wait_for(target, SOON, want.clone(), async || count(target).await)
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        }
    };
    agree(&daemon).await;
    for mapping in ["texts", "computed", "called"] {
        assert_eq!(daemon.command(&["pause", mapping]).0, 0, "{}", daemon.log());
    }
    a.sql("DELETE FROM part WHERE id % 7 = 0").await;
    a.sql("INSERT INTO part VALUES (9000, 1)").await;
    let place = a.one("SELECT pg_current_wal_lsn()").await;
    let passed = format!(
        "SELECT coalesce(bool_and(confirmed_flush_lsn >= '{place}'), false) FROM pg_replication_slots"
    );
    a.sql("INSERT INTO part VALUES (9001, 1)").await;
    wait_for("the log", SOON, "t".to_owned(), async || a.one(&passed).await).await.expect("passed");
    for mapping in ["texts", "computed", "called"] {
        assert_eq!(daemon.command(&["resume", mapping]).0, 0, "{}", daemon.log());
    }
    agree(&daemon).await;
    a.sql("DELETE FROM part WHERE id % 5 = 0").await;
    agree(&daemon).await;
    daemon.stop();
}

/// What cannot be, and what may surprise, is told before anything runs.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_view_cannot_do_is_told_by_check() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(40), phone varchar(40))")
        .await;
    a.sql("CREATE VIEW account AS SELECT id, name, phone, id % 7 AS part FROM party").await;
    b.sql(
        "CREATE TABLE account (id int NOT NULL PRIMARY KEY, name varchar(40), phone varchar(40))",
    )
    .await;
    b.sql("CREATE PROCEDURE put (p_part int, p_rows longtext) SELECT 1").await;
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("tidelock.toml");
    let check = |mapped: &str| {
        let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]) + mapped;
        std::fs::write(&config, text).expect("config");
        command(&config, &["check"])
    };
    let tracks = "tracks = { 'a.party' = \"id\" }\n";
    let (code, said) = check(&format!(
        "[[mappings]]\nname = \"accounts\"\nfrom = \"a.account\"\nto = \"b.account\"\non_truncate = \"delete\"\n{tracks}\
         columns = {{ id = \"id\", name = \"name\", phone = \"phone\" }}\n\
         [[mappings]]\nname = \"phones\"\nfrom = \"b.account\"\nto = \"a.party\"\ncolumns = {{ id = \"id\", phone = \"phone\" }}\nsnapshot = \"never\"\n"
    ));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("its rows write phone of db.account as a whole"), "{said}");
    let (code, said) = check(&format!(
        "[[mappings]]\nfrom = \"a.account\"\nto = {{ call = \"b.put\", rows = \"p_rows\" }}\non_delete = \"ignore\"\nkey = [\"part\"]\nrow_key = [\"id\"]\n\
         throttle = \"9s\"\ncolumns = {{ part = \"part\", id = \"id\" }}\n{}",
        tracks
            .replace("\"id\"", "{ keys = \"SELECT id % 7 FROM public.party WHERE id IN (:id)\" }")
    ));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("edge and throttle are for rows, and `rows` gives all"), "{said}");
}
