//! Everything at once: filters, expressions, unique values handed over, trees of foreign keys, views, lanes, first copies, kills, comparisons, new columns and
//! changed configurations, drawn by a printed seed. Whatever happens meanwhile, in the end the target holds what queries of the source say.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::Daemon;
use super::rows::equal;
use super::snapshot::Side;
use super::{SOON, soaking};

const SOURCE: [&str; 5] = [
    "CREATE TABLE customer (id int NOT NULL PRIMARY KEY, code varchar(20) NOT NULL, name varchar(60), region int NOT NULL, \
     CONSTRAINT customer_code UNIQUE (code))",
    "CREATE TABLE orders (id int NOT NULL PRIMARY KEY, customer int NOT NULL, status varchar(10) NOT NULL, total decimal(12,2) NOT NULL, note text, \
     CONSTRAINT orders_customer FOREIGN KEY (customer) REFERENCES customer (id))",
    "CREATE TABLE line (orders int NOT NULL, no int NOT NULL, qty int NOT NULL, PRIMARY KEY (orders, no), \
     CONSTRAINT line_orders FOREIGN KEY (orders) REFERENCES orders (id))",
    "CREATE VIEW balance AS SELECT customer, count(*) AS orders, sum(total) AS total FROM orders GROUP BY customer",
    "CREATE VIEW bundle AS SELECT l.orders, l.no, l.qty, o.status FROM line l JOIN orders o ON o.id = l.orders",
];
const TARGET: [&str; 8] = [
    "CREATE TABLE client (id int NOT NULL PRIMARY KEY, code varchar(20) NOT NULL, label varchar(90), CONSTRAINT client_code UNIQUE (code))",
    "CREATE TABLE contract (id int NOT NULL PRIMARY KEY, client int NOT NULL, state varchar(12) NOT NULL, gross decimal(14,2) NOT NULL, note text, \
     CONSTRAINT contract_client FOREIGN KEY (client) REFERENCES client (id))",
    "CREATE TABLE part (contract int NOT NULL, no int NOT NULL, qty int NOT NULL, PRIMARY KEY (contract, no), \
     CONSTRAINT part_contract FOREIGN KEY (contract) REFERENCES contract (id))",
    "CREATE TABLE northern (id int NOT NULL PRIMARY KEY, name varchar(60))",
    "CREATE TABLE balance (client int NOT NULL PRIMARY KEY, orders bigint NOT NULL, total decimal(14,2) NOT NULL)",
    "CREATE TABLE bundle (orders int NOT NULL, no int NOT NULL, qty int NOT NULL, status varchar(10), PRIMARY KEY (orders, no))",
    "CREATE TABLE archive (id int NOT NULL PRIMARY KEY, name varchar(60), gone int NOT NULL)",
    "CREATE TABLE calm (id int NOT NULL PRIMARY KEY, total decimal(12,2))",
];
const MAPPED: &str = r#"
[[mappings]]
name = "clients"
from = "a.customer"
to = "b.client"
columns = { id = "id", code = "upper(code)", label = "coalesce(name, '-') || ' (' || code || ')'" }
[[mappings]]
name = "contracts"
from = "a.orders"
to = "b.contract"
columns = { id = "id", client = "customer", state = "CASE status WHEN 'won' THEN 'confirmed' ELSE status END", gross = "round(total * 1.13, 2)", note = "note" }
[[mappings]]
name = "parts"
from = "a.line"
to = "b.part"
columns = { contract = "orders", no = "no", qty = "qty" }
[[mappings]]
name = "northern"
from = "a.customer"
to = "b.northern"
where = "region < 5"
columns = { id = "id", name = "name" }
[[mappings]]
name = "balance"
from = "a.balance"
to = "b.balance"
from_key = ["customer"]
columns = { client = "customer", orders = "orders", total = "total" }
tracks = { "a.orders" = "customer" }
[[mappings]]
name = "bundle"
from = "a.bundle"
to = "b.bundle"
key = ["orders"]
row_key = ["no"]
throttle = "1s"
columns = { orders = "orders", no = "no", qty = "qty", status = "status" }
tracks = { "a.line" = "orders", "a.orders" = { column = "id", on_change = ["status"] } }
[[mappings]]
name = "archive"
from = "a.customer"
to = "b.archive"
on_delete = { set = { gone = "1" } }
columns = { id = "id", name = "name", gone = "0" }
[[mappings]]
name = "calm"
from = "a.orders"
to = "b.calm"
throttle = "1s"
columns = { id = "id", total = "total" }
"#;
/// What the source says that the target holds, and what it holds.
const PAIRS: [(&str, &str); 8] = [
    (
        "SELECT id, upper(code), concat(coalesce(name, '-'), ' (', code, ')') FROM customer ORDER BY id",
        "SELECT id, code, label FROM client ORDER BY id",
    ),
    (
        "SELECT id, customer, CASE status WHEN 'won' THEN 'confirmed' ELSE status END, round(total * 1.13, 2), note FROM orders ORDER BY id",
        "SELECT id, client, state, gross, note FROM contract ORDER BY id",
    ),
    (
        "SELECT orders, no, qty FROM line ORDER BY orders, no",
        "SELECT contract, no, qty FROM part ORDER BY contract, no",
    ),
    (
        "SELECT id, name FROM customer WHERE region < 5 ORDER BY id",
        "SELECT id, name FROM northern ORDER BY id",
    ),
    (
        "SELECT customer, orders, total FROM balance ORDER BY customer",
        "SELECT client, orders, total FROM balance ORDER BY client",
    ),
    (
        "SELECT orders, no, qty, status FROM bundle ORDER BY orders, no",
        "SELECT orders, no, qty, status FROM bundle ORDER BY orders, no",
    ),
    (
        "SELECT id, name FROM customer ORDER BY id",
        "SELECT id, name FROM archive WHERE gone = 0 ORDER BY id",
    ),
    ("SELECT id, total FROM orders ORDER BY id", "SELECT id, total FROM calm ORDER BY id"),
];
const NAMES: [&str; 9] =
    ["clients", "contracts", "parts", "northern", "balance", "bundle", "archive", "calm", "a:b"];
const CUSTOMERS: u32 = 60;
const ORDERS: u32 = 400;

/// The same in every short run, so that it does not turn red by chance; another one in each long run.
fn seed(postgres: (bool, bool)) -> u64 {
    match std::env::var("TIDELOCK_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) if soaking() => rand::rng().random(),
        Err(_) => 20_261_127 + 2 * u64::from(postgres.0) + u64::from(postgres.1),
    }
}

/// A source transaction.
fn transaction(random: &mut StdRng) -> String {
    let mut sql = String::from("BEGIN;");
    for _ in 0..random.random_range(1..6) {
        sql.push_str(&change(random));
        sql.push(';');
    }
    // What is taken back leaves nothing.
    sql.push_str(if random.random_ratio(1, 12) { "ROLLBACK" } else { "COMMIT" });
    sql
}

fn change(random: &mut StdRng) -> String {
    let customer = random.random_range(1..CUSTOMERS);
    let order = random.random_range(1..ORDERS);
    let status = ["draft", "won", "lost"][random.random_range(0..3)];
    let total = f64::from(random.random_range(0..1_000_000)) / 100.0;
    let region = random.random_range(0..10);
    match random.random_range(0..16) {
        0 | 1 => {
            let note: String =
                (0..2500).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
            format!(
                "INSERT INTO orders (id, customer, status, total, note) SELECT {order}, id, '{status}', {total}, '{note}' FROM customer WHERE id = {customer} \
                 AND NOT EXISTS (SELECT 1 FROM (SELECT id FROM orders) o WHERE o.id = {order})"
            )
        }
        2 => format!(
            "INSERT INTO line (orders, no, qty) SELECT id, {region}, 1 FROM orders WHERE id = {order} \
             AND NOT EXISTS (SELECT 1 FROM (SELECT orders, no FROM line) l WHERE l.orders = {order} AND l.no = {region})"
        ),
        3 => format!("UPDATE orders SET status = '{status}', total = {total} WHERE id = {order}"),
        4 => format!("UPDATE orders SET total = total + 1 WHERE customer = {customer}"),
        5 => format!(
            "UPDATE orders SET customer = {customer} WHERE id = {order} AND EXISTS (SELECT 1 FROM customer c WHERE c.id = {customer})"
        ),
        6 => format!(
            "DELETE FROM line WHERE orders = {order}; DELETE FROM orders WHERE id = {order}"
        ),
        7 => format!(
            "INSERT INTO customer (id, code, name, region) SELECT {customer}, 'c{customer}-{total}', 'n', {region} FROM (SELECT 1 AS x) one \
             WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM customer) c WHERE c.id = {customer})"
        ),
        8 => format!(
            "DELETE FROM customer WHERE id = {customer} AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = {customer})"
        ),
        9 => format!("UPDATE customer SET region = {region} WHERE id = {customer}"),
        10 => format!(
            "UPDATE customer SET name = {} WHERE id = {customer}",
            ["NULL", "'Ä ß 中'", "''", "' x '"][random.random_range(0..4)]
        ),
        // What only one may have goes from one row to another.
        11 => {
            let code = random.random_range(0..8);
            format!(
                "UPDATE customer SET code = concat('q', id) WHERE code = 'p{code}' AND id <> {customer}; \
                 UPDATE customer SET code = 'p{code}' WHERE id = {customer}"
            )
        }
        // A key that changes.
        12 => format!(
            "UPDATE line SET no = no + 100 WHERE orders = {order} AND no = {region} \
             AND NOT EXISTS (SELECT 1 FROM (SELECT orders, no FROM line) l WHERE l.orders = {order} AND l.no = {region} + 100)"
        ),
        13 => format!("UPDATE line SET qty = qty + 1 WHERE orders > {order}"),
        14 => "UPDATE orders SET note = NULL WHERE status = 'lost'".to_owned(),
        _ => format!("UPDATE customer SET region = region WHERE id > {customer}"),
    }
}

/// As an application writes that meets a deadlock: it begins anew.
async fn insist(side: &Side, sql: &str) {
    loop {
        let done = match side {
            Side::Pg(server) => server.sql("db", sql).await,
            Side::My(server) => server.sql("db", sql).await,
        };
        match done {
            Ok(()) => return,
            Err(error) if format!("{error:?}").to_lowercase().contains("deadlock") => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}

async fn all_equal(daemon: &Daemon, a: &Side, b: &Side) {
    for (want, have) in PAIRS {
        equal(daemon, (a, want), (b, have)).await;
    }
}

async fn chaos(postgres: (bool, bool)) {
    let seed = seed(postgres);
    println!("seed {seed}, {postgres:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let (a, b) = (Side::new(postgres.0).await, Side::new(postgres.1).await);
    for sql in SOURCE {
        a.sql(sql).await;
    }
    if postgres.0 {
        for table in ["orders", "line"] {
            a.sql(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL")).await;
        }
    }
    for sql in TARGET {
        b.sql(sql).await;
    }
    for id in 1..CUSTOMERS {
        a.sql(&format!("INSERT INTO customer VALUES ({id}, 'c{id}', 'first', {})", id % 10)).await;
    }
    for _ in 0..200 {
        a.sql(&transaction(&mut random)).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let more = format!(
        "[defaults]\nlanes = {}\ncompact = {}\ncopy_workers = {}\n",
        random.random_range(1..4),
        random.random_bool(0.7),
        random.random_range(1..4)
    );
    let text = |where_: &str| {
        super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
            + &more
            + &MAPPED.replace("where = \"region < 5\"", where_)
    };
    let usual = text("where = \"region < 5\"");
    let mut daemon = Daemon::start(folder.path(), &usual);
    let path = folder.path().join("tidelock.toml");
    let mut columns = 0;
    for round in 0..if soaking() { 40 } else { 6 } {
        for _ in 0..random.random_range(1..60) {
            a.sql(&transaction(&mut random)).await;
        }
        let what = random.random_range(0..10);
        println!("round {round}: {what}");
        match what {
            0 | 1 => daemon.kill_and_start(),
            2 => {
                // A backlog.
                daemon.kill();
                for _ in 0..random.random_range(1..200) {
                    a.sql(&transaction(&mut random)).await;
                }
                daemon.start_again();
            }
            3 | 4 => {
                let name = NAMES[random.random_range(0..NAMES.len())];
                let verb = if random.random() || name == "a:b" { "resync" } else { "backfill" };
                println!("{verb} {name}");
                let (code, said) = daemon.command(&[verb, name]);
                // A flow that is just starting takes no command.
                assert!(code == 0 || said.contains("TL"), "{said}");
            }
            5 => {
                let table = ["customer", "orders", "line"][random.random_range(0..3)];
                columns += 1;
                a.sql(&format!("ALTER TABLE {table} ADD COLUMN extra{columns} int DEFAULT 7"))
                    .await;
            }
            6 => {
                std::fs::write(&path, text("where = \"region < 3\"")).expect("config");
                println!("{:?}", daemon.command(&["reload"]));
                for _ in 0..random.random_range(1..30) {
                    a.sql(&transaction(&mut random)).await;
                }
                std::fs::write(&path, &usual).expect("config");
                println!("{:?}", daemon.command(&["reload"]));
                // Rows from before are as they were, it says.
                let began = Instant::now();
                while daemon.command(&["resync", "northern"]).0 != 0 {
                    assert!(began.elapsed() < SOON, "{}", daemon.log());
                }
            }
            7 => {
                println!("{:?}", daemon.command(&["pause", "northern"]));
                for _ in 0..random.random_range(1..30) {
                    a.sql(&transaction(&mut random)).await;
                }
                println!("{:?}", daemon.command(&["resume", "northern"]));
            }
            8 => (if random.random() { &a } else { &b }).crash().await,
            _ => all_equal(&daemon, &a, &b).await,
        }
    }
    all_equal(&daemon, &a, &b).await;
    daemon.streaming().await;
    daemon.stop();
}

const BOTH: &str = "CREATE TABLE thing (id int NOT NULL PRIMARY KEY, code varchar(30), qty int NOT NULL, price decimal(10,2) NOT NULL, CONSTRAINT thing_code UNIQUE (code))";

/// A change of one side's own rows: nobody writes a row at both sides at once.
fn own_change(random: &mut StdRng, side: u32) -> String {
    let id = random.random_range(0..150) * 2 + side;
    let n = random.random_range(0..1_000);
    match random.random_range(0..6) {
        0 | 1 => format!(
            "INSERT INTO thing (id, code, qty, price) SELECT {id}, concat('c', {id}), {n}, 1.50 FROM (SELECT 1 AS x) one \
             WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM thing) t WHERE t.id = {id})"
        ),
        2 => format!("UPDATE thing SET qty = qty + 1 WHERE id = {id}"),
        3 => format!("UPDATE thing SET price = price + 0.25 WHERE id % 2 = {side} AND id > {id}"),
        // A code goes from one row of the side to another.
        4 => format!(
            "UPDATE thing SET code = NULL WHERE code = 'free{side}'; \
             UPDATE thing SET code = 'free{side}' WHERE id = {id}"
        ),
        _ => format!("DELETE FROM thing WHERE id = {id}"),
    }
}

/// Both ways at once, with what befalls the one-way flows above; what each side wrote is at the other, and nothing goes in circles.
async fn both_ways(postgres: (bool, bool)) {
    let seed = seed(postgres);
    println!("seed {seed}, both ways, {postgres:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let sides = [Side::new(postgres.0).await, Side::new(postgres.1).await];
    for side in &sides {
        side.sql(BOTH).await;
    }
    for id in 0..100 {
        sides[0].sql(&format!("INSERT INTO thing VALUES ({id}, 'c{id}', {id}, 2)")).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let mut text =
        super::config(folder.path(), &[("a", sides[0].url()), ("b", sides[1].url())], &[]);
    text.push_str(&format!("[defaults]\nlanes = {}\n", random.random_range(1..3)));
    for (from, to, snapshot) in [("a", "b", "initial"), ("b", "a", "never")] {
        text.push_str(&format!(
            "[[mappings]]\nfrom = \"{from}.thing\"\nto = \"{to}.thing\"\nsnapshot = \"{snapshot}\"\n"
        ));
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for round in 0..if soaking() { 40 } else { 6 } {
        let what = random.random_range(0..6);
        println!("round {round}: {what}");
        if what == 1 {
            daemon.kill();
        }
        for _ in 0..random.random_range(1..80) {
            let side = random.random_range(0..2);
            let sql = (0..random.random_range(1..4))
                .map(|_| own_change(&mut random, side) + ";")
                .collect::<String>();
            insist(&sides[side as usize], &format!("BEGIN; {sql} COMMIT")).await;
        }
        match what {
            0 => daemon.kill_and_start(),
            1 => daemon.start_again(),
            2 => sides[random.random_range(0..2)].crash().await,
            3 => {
                let flow = ["a:b", "b:a"][random.random_range(0..2)];
                println!("resync {flow}: {:?}", daemon.command(&["resync", flow]));
            }
            4 => println!("{:?}", daemon.command(&["backfill", "a:b/thing"])),
            _ => {}
        }
    }
    let all = "SELECT id, code, qty, price FROM thing ORDER BY id";
    equal(&daemon, (&sides[0], all), (&sides[1], all)).await;
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once_between_postgres_and_mariadb() {
    both_ways((true, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_at_once_between_mariadb_and_postgres() {
    both_ways((false, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_from_postgres_to_mariadb() {
    chaos((true, false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_from_mariadb_to_postgres() {
    chaos((false, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_from_postgres_to_postgres() {
    chaos((true, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_from_mariadb_to_mariadb() {
    chaos((false, false)).await;
}
