//! Many changes of a row in one batch become one, where that changes nothing but their number.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_scratch::{Postgres, wait_for};

use super::daemon::Daemon;
use super::snapshot::Side;
use super::{SOON, soaking};

fn sum(metrics: &str, result: &str) -> u64 {
    let wanted = format!("result=\"{result}\"");
    metrics
        .lines()
        .filter(|l| l.starts_with("tidelock_rows_total") && l.contains(&wanted))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

pub(super) fn metrics(address: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("connect");
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    answer
}

async fn equal(source: &Postgres, target: &Postgres, sql: &str) {
    let want = source.one("db", sql).await.expect("source");
    wait_for("equal", SOON, want, async || target.one("db", sql).await.expect("target"))
        .await
        .expect("equal");
}

/// A backlog, so that it comes in large batches: written while tidelock is down.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_row_become_one_and_a_counting_trigger_still_counts_each() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    for server in [&a, &b] {
        server.sql("db", &super::ITEM.replace("item", "counted")).await.expect("table");
    }
    b.sql(
        "db",
        "CREATE TABLE audit (n bigserial, qty int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO public.audit (qty) VALUES (NEW.qty); RETURN NULL; END $$;
         CREATE TRIGGER t AFTER INSERT OR UPDATE ON counted FOR EACH ROW EXECUTE FUNCTION note();",
    )
    .await
    .expect("trigger");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        listener.local_addr().expect("address").to_string()
    };
    let text = super::config(folder.path(), &systems, &[("a", "b")])
        .replace("version = 1\n", &format!("version = 1\nlisten = {address:?}\n"))
        + "[[mappings]]\nfrom = \"a.counted\"\nto = \"b.counted\"\nsnapshot = \"never\"\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    daemon.kill();
    for table in ["item", "counted"] {
        a.sql("db", &format!("INSERT INTO {table} VALUES (1, 0, 'x'), (2, 0, 'y')"))
            .await
            .expect("insert");
        a.sql("db", &format!("DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE {table} SET qty = i WHERE id = 1; COMMIT; END LOOP; END $$"))
            .await
            .expect("updates");
        a.sql("db", &format!("DELETE FROM {table} WHERE id = 2")).await.expect("delete");
    }
    daemon.start_again();
    daemon.streaming().await;
    equal(&a, &b, "SELECT count(*) || ' ' || max(qty) FROM item").await;
    equal(&a, &b, "SELECT count(*) || ' ' || max(qty) FROM counted").await;
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    let seen = b.one("db", "SELECT count(*) || ' ' || sum(qty) FROM audit").await.expect("audit");
    assert_eq!(seen, format!("502 {}", 500 * 501 / 2));
    let shown = metrics(&address);
    // All but what is left of each row: one insert and its 499 updates, and one insert.
    let (applied, superseded) = (sum(&shown, "applied"), sum(&shown, "superseded"));
    assert_eq!(applied + superseded, 2 * 503, "{shown}");
    assert!(superseded >= 300, "{superseded} superseded");
    // `status` counts what the source did.
    let flows = daemon.flows();
    let mappings = flows[0]["mappings"].as_array().expect("mappings").clone();
    for mapping in mappings {
        assert_eq!(
            (&mapping["rows_inserted"], &mapping["rows_updated"], &mapping["rows_deleted"]),
            (&2.into(), &500.into(), &1.into()),
            "{mapping}"
        );
    }
    daemon.stop();
}

/// PostgreSQL's log does not tell the old values of a unique column that is not in the replica identity: what is
/// collected is refused, and passes in the order of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_unique_value_that_is_handed_over_unseen_stops_nothing() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    for server in [&a, &b] {
        server
            .sql("db", "CREATE TABLE seat (id int PRIMARY KEY, place int UNIQUE, who text)")
            .await
            .expect("table");
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")])
        + "[[mappings]]\nfrom = \"a.seat\"\nto = \"b.seat\"\nsnapshot = \"never\"\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO seat SELECT i, i, 'w' FROM generate_series(1, 50) i")
        .await
        .expect("rows");
    let rows = "SELECT string_agg(id || ':' || place, ',' ORDER BY id) FROM seat";
    equal(&a, &b, rows).await;
    daemon.kill();
    // Row 50 is met first, and ends at a place that another row gives up behind it.
    a.sql(
        "db",
        "DO $$ BEGIN FOR i IN 1..49 LOOP
           UPDATE seat SET who = 'v' WHERE id = 50; COMMIT;
           UPDATE seat SET place = 100 + i WHERE id = i; COMMIT;
           UPDATE seat SET place = i WHERE id = 50; COMMIT;
           INSERT INTO item VALUES (i, i, 'n'); COMMIT;
         END LOOP; END $$",
    )
    .await
    .expect("walk");
    daemon.start_again();
    daemon.streaming().await;
    equal(&a, &b, rows).await;
    equal(&a, &b, "SELECT count(*) FROM item").await;
    // One more than was refused ends the care.
    a.sql("db", "INSERT INTO item VALUES (100, 1, 'n')").await.expect("one more");
    equal(&a, &b, "SELECT count(*) FROM item").await;
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    assert!(daemon.log().contains("in the order of the log only"), "{}", daemon.log());
    for mapping in daemon.flows()[0]["mappings"].as_array().expect("mappings") {
        assert_eq!(mapping["state"], "streaming", "{mapping}");
    }
    daemon.stop();
}

const TABLES: [(&str, &str); 4] = [
    ("party", "id int NOT NULL PRIMARY KEY, code int NOT NULL UNIQUE, n int"),
    (
        "contract",
        "id int NOT NULL PRIMARY KEY, party int, number int UNIQUE, n int, FOREIGN KEY (party) REFERENCES party (id)",
    ),
    (
        "line",
        "id int NOT NULL PRIMARY KEY, contract int NOT NULL, pos int NOT NULL, n int, UNIQUE (contract, pos), FOREIGN KEY (contract) REFERENCES contract (id)",
    ),
    (
        "category",
        "id int NOT NULL PRIMARY KEY, parent int, n int, FOREIGN KEY (parent) REFERENCES category (id)",
    ),
];

/// A statement that no constraint refuses, whatever is there.
fn statement(random: &mut StdRng) -> String {
    let mut id = || random.random_range(1..30);
    let (a, b, c, n) = (id(), id(), id(), random.random_range(0..1000));
    let absent = |table: &str, test: &str| {
        format!("NOT EXISTS (SELECT 1 FROM (SELECT * FROM {table}) x WHERE {test})")
    };
    let present = |table: &str, id: i32| {
        format!("EXISTS (SELECT 1 FROM (SELECT * FROM {table}) p WHERE p.id = {id})")
    };
    let insert = |table: &str, values: &str, tests: &str| {
        format!("INSERT INTO {table} SELECT {values} FROM (SELECT 1 AS one) o WHERE {tests}")
    };
    match random.random_range(0..16) {
        0 | 1 => insert(
            "party",
            &format!("{a}, {b}, {n}"),
            &absent("party", &format!("x.id = {a} OR x.code = {b}")),
        ),
        2 => format!(
            "UPDATE party SET code = {b}, n = {n} WHERE id = {a} AND {}",
            absent("party", &format!("x.code = {b}"))
        ),
        3 => format!("UPDATE party SET n = {n} WHERE id = {a}"),
        4 => format!(
            "DELETE FROM party WHERE id = {a} AND {}",
            absent("contract", &format!("x.party = {a}"))
        ),
        5 | 6 => insert(
            "contract",
            &format!("{a}, {b}, {c}, {n}"),
            &format!(
                "{} AND {}",
                absent("contract", &format!("x.id = {a} OR x.number = {c}")),
                present("party", b)
            ),
        ),
        7 => format!(
            "UPDATE contract SET party = {b}, n = {n} WHERE id = {a} AND {}",
            present("party", b)
        ),
        8 => format!(
            "UPDATE contract SET number = {c} WHERE id = {a} AND {}",
            absent("contract", &format!("x.number = {c}"))
        ),
        9 => format!(
            "DELETE FROM contract WHERE id = {a} AND {}",
            absent("line", &format!("x.contract = {a}"))
        ),
        10 | 11 => insert(
            "line",
            &format!("{a}, {b}, {}, {n}", c % 4),
            &format!(
                "{} AND {}",
                absent("line", &format!("x.id = {a} OR (x.contract = {b} AND x.pos = {})", c % 4)),
                present("contract", b)
            ),
        ),
        12 => format!("DELETE FROM line WHERE id = {a}"),
        13 => insert(
            "category",
            &format!("{a}, {b}, {n}"),
            &format!(
                "{} AND {}",
                absent("category", &format!("x.id = {a}")),
                present("category", b)
            ),
        ),
        14 => insert(
            "category",
            &format!("{a}, NULL, {n}"),
            &absent("category", &format!("x.id = {a}")),
        ),
        _ => format!(
            "DELETE FROM category WHERE id = {a} AND {}",
            absent("category", &format!("x.parent = {a} AND x.id <> {a}"))
        ),
    }
}

async fn digest(side: &Side) -> String {
    let mut all = Vec::new();
    for (table, columns) in [
        ("party", ["code", "n"]),
        ("contract", ["party", "number"]),
        ("line", ["contract", "pos"]),
        ("category", ["parent", "n"]),
    ] {
        let [one, two] = columns;
        let sql = format!(
            "SELECT concat(count(*), ' ', coalesce(sum(id), 0), ' ', coalesce(sum(id * 1009 + coalesce({one}, -1) * id * 31 + coalesce({two}, -1) * (id + 7)), 0)) FROM {table}"
        );
        all.push(format!("{table} {}", side.one(&sql).await));
    }
    all.join(", ")
}

/// Foreign keys, unique values that go from row to row, a tree: in large batches, over crashes, in all pairings.
#[tokio::test(flavor = "multi_thread")]
async fn random_transactions_over_constraints_end_equal_and_stop_nothing() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (from, to) in [(true, true), (true, false), (false, true), (false, false)] {
        let (source, target) = (Side::new(from).await, Side::new(to).await);
        for (name, columns) in TABLES {
            for side in [&source, &target] {
                side.sql(&format!("CREATE TABLE {name} ({columns})")).await;
            }
        }
        let folder = tempfile::tempdir().expect("folder");
        let systems = [("a", source.url()), ("b", target.url())];
        let mut text = super::config(folder.path(), &systems, &[]);
        // The file's order is not that of the foreign keys.
        for (name, _) in TABLES.iter().rev() {
            text.push_str(&format!(
                "[[mappings]]\nfrom = \"a.{name}\"\nto = \"b.{name}\"\nsnapshot = \"never\"\n"
            ));
        }
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        for _ in 0..if soaking() { 20 } else { 3 } {
            daemon.kill();
            for _ in 0..30 {
                let script: Vec<String> = (0..15)
                    .map(|_| {
                        let some: Vec<String> = (0..random.random_range(1..4))
                            .map(|_| statement(&mut random))
                            .collect();
                        match some.len() {
                            1 => some.join(""),
                            _ => format!("BEGIN; {}; COMMIT", some.join("; ")),
                        }
                    })
                    .collect();
                source.sql(&script.join("; ")).await;
            }
            daemon.start_again();
            daemon.streaming().await;
            let want = digest(&source).await;
            wait_for("equal", SOON, want.clone(), async || digest(&target).await)
                .await
                .unwrap_or_else(|_| panic!("not equal: {want}\n{}", daemon.log()));
        }
        let flows = daemon.flows();
        for mapping in flows[0]["mappings"].as_array().expect("mappings") {
            assert_eq!(mapping["state"], "streaming", "{mapping}\n{}", daemon.log());
        }
        println!("{} looked closer", daemon.log().matches("looking closer").count());
        daemon.stop();
    }
}
