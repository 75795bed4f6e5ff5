//! When a change is worth sending: edges, keys that rest, rows that others ask for, and windows of time.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock_scratch::wait_for;

use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;
use super::{SOON, soaking};

const STOCK: &str =
    "CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL, safety int NOT NULL)";

/// What the target has: the last states that were worth sending.
#[derive(Default)]
struct Expected {
    low: BTreeMap<i32, bool>,
    sent: BTreeMap<i32, i32>,
}

impl Expected {
    fn update(&mut self, product: i32, qty: i32, safety: i32) {
        let low = self.low.entry(product).or_default();
        if qty < safety && !*low {
            self.sent.insert(product, qty);
        }
        *low = qty < safety;
    }

    fn rows(&self) -> Vec<Vec<Option<String>>> {
        let row = |(p, q): (&i32, &i32)| vec![Some(p.to_string()), Some(q.to_string())];
        self.sent.iter().map(row).collect()
    }
}

async fn wait_for_rows(daemon: &Daemon, b: &Side, expected: &Expected) {
    let began = std::time::Instant::now();
    loop {
        let have = b.rows("SELECT product, qty FROM stock ORDER BY product").await;
        if have == expected.rows() {
            return;
        }
        assert!(began.elapsed() < SOON, "{have:?}\n{:?}\n{}", expected.rows(), daemon.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The founding story: stock moves all the time and is sent when it falls below the safety line or a product is ordered.
async fn stock(postgres_erp: bool) {
    let (a, b) = (Side::new(postgres_erp).await, Side::new(!postgres_erp).await);
    a.sql(STOCK).await;
    b.sql("CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL)").await;
    for side in [&a, &b] {
        side.sql("CREATE TABLE order_line (id int NOT NULL PRIMARY KEY, product_id int NOT NULL, qty int NOT NULL)").await;
    }
    let products = if soaking() { 5_000 } else { 20 };
    let (updates, rounds) = if soaking() { (1_000_000, 10) } else { (600, 3) };
    let mut expected = Expected::default();
    let mut state: BTreeMap<i32, i32> = BTreeMap::new();
    for product in 0..products {
        a.sql(&format!("INSERT INTO stock VALUES ({product}, 50, 10)")).await;
        state.insert(product, 50);
        expected.sent.insert(product, 50);
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("erp", a.url()), ("crm", b.url())], &[])
        + r#"
[[mappings]]
name = "stock"
from = "erp.stock"
to = "crm.stock"
edge = "qty < safety"
push_when = { "crm.order_line" = "product_id" }
columns = { product = "product", qty = "qty" }
[[mappings]]
name = "orders"
from = "crm.order_line"
to = "erp.order_line"
"#;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    wait_for_rows(&daemon, &b, &expected).await;
    let seed = 4_711 + u64::from(postgres_erp);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut order = 0;
    for round in 0..rounds {
        let mut all = Vec::new();
        for _ in 0..updates / rounds {
            let product = random.random_range(0..products);
            let qty = (state[&product] + random.random_range(-12..=12)).clamp(0, 60);
            all.push(format!("UPDATE stock SET qty = {qty} WHERE product = {product}"));
            state.insert(product, qty);
            expected.update(product, qty, 10);
        }
        for some in all.chunks(500) {
            a.sql(&some.join(";")).await;
        }
        wait_for_rows(&daemon, &b, &expected).await;
        if round == 1 {
            daemon.kill_and_start();
            daemon.streaming().await;
        }
        // An order of a product asks for its stock, whatever it is.
        for _ in 0..3 {
            let product = random.random_range(0..products);
            order += 1;
            b.sql(&format!("INSERT INTO order_line VALUES ({order}, {product}, 1)")).await;
            expected.sent.insert(product, state[&product]);
        }
        wait_for_rows(&daemon, &b, &expected).await;
    }
    a.sql("DELETE FROM stock WHERE product = 3").await;
    expected.sent.remove(&3);
    wait_for_rows(&daemon, &b, &expected).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_pushed_from_postgres_when_it_gets_low_or_is_ordered() {
    stock(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_pushed_from_mariadb_when_it_gets_low_or_is_ordered() {
    stock(false).await;
}

/// However often a key changes, few of its states are sent, and the last is among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_rests_between_its_states_and_its_last_one_comes() {
    let (a, b) = (Side::new(true).await, Side::new(true).await);
    a.sql(STOCK).await;
    b.sql(STOCK).await;
    b.sql(
        "CREATE TABLE seen (n bigserial, product int);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO public.seen (product) VALUES (NEW.product); RETURN NULL; END $$;
         CREATE TRIGGER t AFTER INSERT OR UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION note();",
    )
    .await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nthrottle = \"3s\"\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let began = std::time::Instant::now();
    a.sql("INSERT INTO stock VALUES (1, 0, 0), (2, 0, 0)").await;
    for n in 1..=200 {
        a.sql(&format!("UPDATE stock SET qty = {n} WHERE product = 1")).await;
    }
    // What is owed is owed by whoever comes next, too.
    daemon.kill_and_start();
    daemon.streaming().await;
    let all = "SELECT product, qty, safety FROM stock ORDER BY product";
    equal(&daemon, (&a, all), (&b, all)).await;
    a.sql("UPDATE stock SET qty = 7 WHERE product = 2").await;
    equal(&daemon, (&a, all), (&b, all)).await;
    let periods = began.elapsed().as_secs() / 3 + 2;
    let seen: u64 = b.one("SELECT count(*) FROM seen WHERE product = 1").await.parse().expect("n");
    assert!(seen >= 2 && seen <= periods, "{seen} states in {periods} periods");
    a.sql("UPDATE stock SET qty = 8 WHERE product = 2").await;
    a.sql("DELETE FROM stock WHERE product = 2").await;
    equal(&daemon, (&a, all), (&b, all)).await;
    daemon.stop();
}

/// Rows enter and leave as time passes, though nothing changes.
async fn window(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    let kind = |side: &Side| match side {
        Side::Pg(_) => "timestamptz",
        Side::My(_) => "timestamp(6)",
    };
    for side in [&a, &b] {
        side.sql(&format!(
            "CREATE TABLE shipment (id int NOT NULL PRIMARY KEY, due {} NOT NULL, note varchar(9))",
            kind(side)
        ))
        .await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.shipment\"\nto = \"b.shipment\"\nrefresh = \"1s\"\n\
           where = \"due > now() AND due < now() + interval '10 seconds'\"\n";
    // What was there for a moment only is seen, too, however late we look.
    b.sql("CREATE TABLE seen (what varchar(9) NOT NULL, id int NOT NULL)").await;
    for (event, row) in [("INSERT", "NEW"), ("DELETE", "OLD")] {
        let note = format!("INSERT INTO {{}} VALUES ('{event}', {row}.id)");
        b.sql(&match &b {
            Side::Pg(_) => format!(
                "CREATE FUNCTION seen_{event}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {}; RETURN NULL; END $$;
                 CREATE TRIGGER seen_{event} AFTER {event} ON shipment FOR EACH ROW EXECUTE FUNCTION seen_{event}()",
                note.replace("{}", "public.seen")
            ),
            Side::My(_) => format!(
                "CREATE TRIGGER seen_{event} AFTER {event} ON shipment FOR EACH ROW {}",
                note.replace("{}", "seen")
            ),
        })
        .await;
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let at = |seconds: i32| match &a {
        Side::Pg(_) => format!("now() + interval '{seconds} seconds'"),
        Side::My(_) => format!("now(6) + interval {seconds} second"),
    };
    a.sql(&format!(
        "INSERT INTO shipment VALUES (1, {}, 'past'), (2, {}, 'soon'), (3, {}, 'later'), (4, {}, 'far')",
        at(-5), at(8), at(14), at(100)
    ))
    .await;
    let listed = async |sql: &str| {
        let rows = b.rows(sql).await;
        rows.into_iter().flatten().flatten().collect::<Vec<_>>().join(",")
    };
    let seen = async |what: &str| {
        listed(&format!("SELECT DISTINCT id FROM seen WHERE what = '{what}' ORDER BY id")).await
    };
    let first = async || seen("INSERT").await.starts_with('2');
    wait_for("the first", SOON, true, first).await.expect("2");
    daemon.kill_and_start();
    let ids = async || listed("SELECT id FROM shipment ORDER BY id").await;
    wait_for("another enters", SOON, "2,3".to_owned(), async || seen("INSERT").await)
        .await
        .expect("3");
    wait_for("all have left", SOON, String::new(), &ids).await.expect("none");
    assert_eq!((seen("INSERT").await, seen("DELETE").await), ("2,3".to_owned(), "2,3".to_owned()));
    a.sql(&format!("UPDATE shipment SET due = {}", at(8))).await;
    wait_for("all are moved into it", SOON, "1,2,3,4".to_owned(), &ids).await.expect("all");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_time_moves_over_postgres() {
    window(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_time_moves_over_mariadb() {
    window(false).await;
}

/// What has left the window unseen is still at the target, and goes with its row; where rows are marked, the next look marks it.
async fn left_by_time(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    let kind = |side: &Side| match side {
        Side::Pg(_) => "timestamptz",
        Side::My(_) => "timestamp(6)",
    };
    a.sql(&format!(
        "CREATE TABLE shipment (id int NOT NULL PRIMARY KEY, due {} NOT NULL)",
        kind(&a)
    ))
    .await;
    if postgres_source {
        a.sql("ALTER TABLE shipment REPLICA IDENTITY FULL").await;
    }
    for table in ["shipment", "marked"] {
        b.sql(&format!(
            "CREATE TABLE {table} (id int NOT NULL PRIMARY KEY, due {} NOT NULL, active int)",
            kind(&b)
        ))
        .await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let inside = "where = \"due > now() AND due < now() + interval '1 hour'\"\n";
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nname = \"plain\"\nfrom = \"a.shipment\"\nto = \"b.shipment\"\nrefresh = \"1h\"\n"
        + inside
        + "columns = { id = \"id\", due = \"due\" }\n"
        + "[[mappings]]\nname = \"marking\"\nfrom = \"a.shipment\"\nto = \"b.marked\"\nrefresh = \"1s\"\n"
        + inside
        + "columns = { id = \"id\", due = \"due\", active = \"1\" }\non_delete = { set = { active = \"0\" } }\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let soon = match &a {
        Side::Pg(_) => "now() + interval '8 seconds'",
        Side::My(_) => "now(6) + interval 8 second",
    };
    a.sql(&format!("INSERT INTO shipment VALUES (1, {soon}), (2, {soon}), (3, {soon})")).await;
    let count = async |sql: &str| b.one(sql).await;
    let all = "SELECT count(*) FROM shipment";
    wait_for("all are inside", SOON, "3".to_owned(), async || count(all).await).await.expect("3");
    let passed = async || a.one("SELECT count(*) FROM shipment WHERE due < now()").await;
    wait_for("all have left", SOON, "3".to_owned(), passed).await.expect("passed");
    a.sql("DELETE FROM shipment WHERE id = 1").await;
    a.sql("UPDATE shipment SET id = 22 WHERE id = 2").await;
    a.sql("UPDATE shipment SET due = due WHERE id = 3").await;
    let ids = "SELECT coalesce(sum(id), 0) FROM shipment WHERE id < 3";
    wait_for("they go", SOON, "0".to_owned(), async || count(ids).await).await.expect("gone");
    let marked = "SELECT count(*) FROM marked WHERE active = 0 AND id = 3";
    wait_for("marked", SOON, "1".to_owned(), async || count(marked).await).await.expect("marked");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_a_window_unseen_goes_with_its_row_from_postgres() {
    left_by_time(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_a_window_unseen_goes_with_its_row_from_mariadb() {
    left_by_time(false).await;
}

/// What is known of rows that are gone says nothing of those that come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_back_is_sent_though_its_edge_was_told_before() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql(STOCK).await;
    a.sql("CREATE TABLE other (product int NOT NULL PRIMARY KEY, qty int NOT NULL)").await;
    a.sql("CREATE VIEW seen AS SELECT product, qty FROM other").await;
    for table in ["stock", "kept", "seen"] {
        b.sql(&format!(
            "CREATE TABLE {table} (product int NOT NULL PRIMARY KEY, qty int NOT NULL)"
        ))
        .await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < 10\"\non_truncate = \"delete\"\n\
           [[mappings]]\nname = \"kept\"\nfrom = \"a.stock\"\nto = \"b.kept\"\nedge = \"qty < 10\"\n\
           on_delete = \"ignore\"\non_truncate = \"ignore\"\n\
           [[mappings]]\nfrom = \"a.seen\"\nto = \"b.seen\"\nedge = \"qty < 10\"\ntracks = { 'a.other' = \"product\" }\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let kept = "SELECT product, qty FROM kept ORDER BY product";
    let (stock, seen) = ("SELECT product, qty FROM stock", "SELECT product, qty FROM seen");
    let ends = ["TRUNCATE stock", "DELETE FROM stock", "TRUNCATE stock"];
    for (qty, end) in (1..).zip(ends) {
        a.sql(&format!("INSERT INTO stock VALUES (1, {qty}, 0)")).await;
        a.sql(&format!("INSERT INTO other VALUES (1, {qty})")).await;
        equal(&daemon, (&a, stock), (&b, stock)).await;
        equal(&daemon, (&a, stock), (&b, kept)).await;
        equal(&daemon, (&a, seen), (&b, seen)).await;
        a.sql(end).await;
        a.sql("DELETE FROM other").await;
        equal(&daemon, (&a, stock), (&b, stock)).await;
        equal(&daemon, (&a, seen), (&b, seen)).await;
    }
    // A mapping that is taken out and put back knows nothing of before.
    a.sql("INSERT INTO stock VALUES (1, 9, 0), (2, 9, 0)").await;
    equal(&daemon, (&a, stock), (&b, stock)).await;
    let config = folder.path().join("tidelock.toml");
    let without = text.replace("[[mappings]]\nname = \"kept\"", "[[mappings]]\nname = \"fresh\"");
    std::fs::write(&config, &without).expect("config");
    assert_eq!(daemon.command(&["reload"]).0, 0, "{}", daemon.log());
    a.sql("DELETE FROM stock WHERE product = 2").await;
    equal(&daemon, (&a, stock), (&b, stock)).await;
    std::fs::write(&config, &text).expect("config");
    assert_eq!(daemon.command(&["reload"]).0, 0, "{}", daemon.log());
    daemon.streaming().await;
    a.sql("INSERT INTO stock VALUES (2, 5, 0)").await;
    equal(&daemon, (&a, stock), (&b, kept)).await;
    daemon.kill_and_start();
    daemon.streaming().await;
    daemon.stop();
}

/// A row that crossed its edge and was refused for what it points to has crossed it when that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_waits_for_its_parent_keeps_its_crossing() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    for sql in [
        "CREATE TABLE product (id int NOT NULL PRIMARY KEY)",
        "CREATE TABLE shelf (id int NOT NULL PRIMARY KEY, product int NOT NULL, qty int NOT NULL)",
        "CREATE VIEW low AS SELECT id, product, qty FROM shelf",
        "INSERT INTO product VALUES (0)",
    ] {
        a.sql(sql).await;
    }
    b.sql("CREATE TABLE product (id int NOT NULL PRIMARY KEY)").await;
    b.sql("CREATE TABLE low (id int NOT NULL PRIMARY KEY, product int NOT NULL, qty int NOT NULL, FOREIGN KEY (product) REFERENCES product (id))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.product\"\nto = \"b.product\"\n\
           [[mappings]]\nfrom = \"a.low\"\nto = \"b.low\"\nedge = \"qty < 10\"\ntracks = { 'a.shelf' = \"id\" }\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    daemon.kill();
    // What is read again for the first of these shows the last of them, and points to a product that is ahead.
    for n in 1..60 {
        a.sql(&format!("INSERT INTO shelf VALUES ({n}, 0, 50)")).await;
    }
    for n in 1..60 {
        a.sql(&format!("INSERT INTO product VALUES ({n})")).await;
        a.sql(&format!("UPDATE shelf SET product = {n}, qty = 5 WHERE id = {n}")).await;
    }
    daemon.start_again();
    let all = "SELECT id, product, qty FROM low ORDER BY id";
    equal(&daemon, (&a, all), (&b, all)).await;
    daemon.stop();
}

/// A change of which the log carries a part goes through the gate as others do.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_holds_where_the_log_carries_a_part_of_the_row() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL, note text NOT NULL)").await;
    a.sql("ALTER TABLE stock ALTER note SET STORAGE EXTERNAL").await;
    b.sql("CREATE TABLE stock (product int NOT NULL PRIMARY KEY, qty int NOT NULL, note mediumtext NOT NULL)").await;
    a.sql("INSERT INTO stock VALUES (1, 50, repeat('x', 9000)), (2, 50, 'short')").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < 10\"\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let quantity = async |product: i32| {
        b.one(&format!("SELECT qty FROM stock WHERE product = {product}")).await
    };
    let other = async || quantity(2).await;
    for (nth, (qty, expected)) in
        [(40, 50), (5, 5), (4, 5), (60, 5), (3, 3)].into_iter().enumerate()
    {
        a.sql(&format!("UPDATE stock SET qty = {qty} WHERE product = 1")).await;
        // The other one has crossed its edge when it is there.
        a.sql("UPDATE stock SET qty = 50 WHERE product = 2").await;
        a.sql(&format!("UPDATE stock SET qty = -{nth} WHERE product = 2")).await;
        wait_for("the other", SOON, (-(nth as i32)).to_string(), &other).await.expect("sent");
        assert_eq!(quantity(1).await, expected.to_string(), "at {qty}\n{}", daemon.log());
        if nth == 2 {
            daemon.kill_and_start();
        }
    }
    daemon.stop();
}

/// What is asked for is found by the column that feeds the mapping's key, whatever the source's own key is.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_asked_for_by_what_feeds_the_mappings_key() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    for sql in [
        "CREATE TABLE stock (warehouse int NOT NULL, product int NOT NULL, qty int NOT NULL, PRIMARY KEY (warehouse, product))",
        "CREATE TABLE part (id int NOT NULL PRIMARY KEY, product int NOT NULL UNIQUE, qty int NOT NULL)",
        "ALTER TABLE part REPLICA IDENTITY FULL",
        "CREATE VIEW item_stock AS SELECT id, product, qty FROM part",
        "CREATE TABLE wish (id int NOT NULL PRIMARY KEY, product int NOT NULL)",
        "INSERT INTO stock VALUES (1, 5, 50), (2, 5, 99), (1, 6, 50), (5, 7, 99)",
        "INSERT INTO part VALUES (5, 6, 50), (6, 5, 50), (1, 1, 50)",
    ] {
        a.sql(sql).await;
    }
    b.sql("CREATE TABLE wish (id int NOT NULL PRIMARY KEY, product int NOT NULL)").await;
    for table in ["stock", "part", "viewed"] {
        b.sql(&format!(
            "CREATE TABLE {table} (product int NOT NULL PRIMARY KEY, qty int NOT NULL)"
        ))
        .await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let gate = "edge = \"qty < 10\"\npush_when = { \"a.wish\" = \"product\" }\n\
        key = [\"product\"]\ncolumns = { product = \"product\", qty = \"qty\" }\n";
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + &format!(
            "[[mappings]]\nfrom = \"a.wish\"\nto = \"b.wish\"\n\
             [[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nwhere = \"warehouse = 1\"\n{gate}\
             [[mappings]]\nfrom = \"a.part\"\nto = \"b.part\"\n{gate}\
             [[mappings]]\nname = \"viewed\"\nfrom = \"a.item_stock\"\nto = \"b.viewed\"\nfrom_key = [\"id\"]\n{gate}\
             [mappings.tracks]\n'a.part' = \"id\"\n"
        );
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("UPDATE stock SET qty = qty - 1; UPDATE part SET qty = qty - 2").await;
    a.sql("INSERT INTO wish VALUES (1, 5)").await;
    let one = "SELECT product, 49 FROM stock WHERE product = 5 AND warehouse = 1 UNION ALL SELECT 6, 50 ORDER BY 1";
    equal(&daemon, (&a, one), (&b, "SELECT product, qty FROM stock ORDER BY 1")).await;
    let two = "SELECT product, CASE product WHEN 5 THEN 48 ELSE 50 END FROM part ORDER BY 1";
    equal(&daemon, (&a, two), (&b, "SELECT product, qty FROM part ORDER BY 1")).await;
    equal(&daemon, (&a, two), (&b, "SELECT product, qty FROM viewed ORDER BY 1")).await;
    daemon.stop();
}

/// A row that is asked for while a copy has yet to bring it comes with the copy.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_during_a_copy_leaves_no_ghost() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql(STOCK).await;
    b.sql(STOCK).await;
    a.sql("INSERT INTO stock SELECT n, 50, 10 FROM generate_series(1, 12000) n").await;
    for side in [&a, &b] {
        side.sql("CREATE TABLE wish (id int NOT NULL PRIMARY KEY, product int NOT NULL)").await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.wish\"\nto = \"b.wish\"\n\
           [[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < safety\"\npush_when = { \"a.wish\" = \"product\" }\n\
           [defaults]\nsnapshot_rows_per_second = 3000\n";
    let daemon = Daemon::start(folder.path(), &text);
    let copied = async || {
        let rows = "SELECT coalesce(max(rows_done), 0) FROM tidelock.snapshot WHERE mapping = 'stock' AND phase = 'rows'";
        b.one(rows).await.parse::<u32>().expect("rows") > 0
    };
    let begun = |flows: &[serde_json::Value]| flows.iter().any(|f| f["state"] == "snapshotting");
    daemon.wait("copying", SOON, begun).await;
    wait_for("a piece", SOON, true, copied).await.expect("a piece");
    a.sql("INSERT INTO wish VALUES (1, 12000), (2, 1)").await;
    let wishes = "SELECT id, product FROM wish ORDER BY id";
    equal(&daemon, (&a, wishes), (&b, wishes)).await;
    a.sql("DELETE FROM stock WHERE product = 12000").await;
    daemon.streaming().await;
    let all = "SELECT count(*), max(product) FROM stock";
    equal(&daemon, (&a, all), (&b, all)).await;
    daemon.stop();
}

/// A row is asked for, points to one that the target does not have yet, and the process dies: it is asked for all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_owed_of_a_row_that_waits_is_owed_by_whoever_comes_next() {
    let (a, b) = (Side::new(true).await, Side::new(true).await);
    let parent = "CREATE TABLE parent (id int NOT NULL PRIMARY KEY)";
    let wish = "CREATE TABLE wish (id int NOT NULL PRIMARY KEY, stock int NOT NULL)";
    for side in [&a, &b] {
        side.sql(parent).await;
        side.sql(wish).await;
    }
    a.sql("CREATE TABLE base (id int NOT NULL PRIMARY KEY, parent int NOT NULL, qty int NOT NULL)")
        .await;
    a.sql("CREATE VIEW stock AS SELECT id, parent, qty FROM base").await;
    b.sql("CREATE TABLE stock (id int NOT NULL PRIMARY KEY, parent int NOT NULL REFERENCES parent (id), qty int NOT NULL)").await;
    a.sql("INSERT INTO parent VALUES (1)").await;
    a.sql("INSERT INTO base VALUES (1, 1, 50)").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.parent\"\nto = \"b.parent\"\n\
           [[mappings]]\nfrom = \"a.wish\"\nto = \"b.wish\"\n\
           [[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < 10\"\npush_when = { \"a.wish\" = \"stock\" }\n\
           tracks = { 'a.base' = \"id\" }\n";
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let one = "SELECT id, parent, qty FROM stock WHERE id = 1";
    equal(&daemon, (&a, one), (&b, one)).await;
    daemon.kill();
    // As much as goes into a target transaction of its own.
    a.sql("BEGIN; INSERT INTO base SELECT n, 1, 50 FROM generate_series(100, 20200) n; INSERT INTO wish VALUES (1, 1); COMMIT").await;
    a.sql("BEGIN; INSERT INTO parent VALUES (2); UPDATE base SET parent = 2 WHERE id = 1; COMMIT")
        .await;
    let Side::Pg(server) = &b else { unreachable!("it is PostgreSQL") };
    let lock = server.client("db").await.expect("client");
    // Looked at, it may be; what is ahead cannot come.
    let held = "BEGIN; LOCK TABLE parent IN SHARE ROW EXCLUSIVE MODE";
    lock.batch_execute(held).await.expect("lock");
    daemon.start_again();
    let waits = async || {
        b.one("SELECT count(*) > 0 FROM tidelock.memory WHERE substr(key, 16, 1) = 'p'").await
    };
    let told = wait_for("it waits", SOON, "t".to_owned(), waits).await;
    assert!(told.is_ok(), "{told:?}\n{}", daemon.log());
    daemon.kill();
    lock.batch_execute("ROLLBACK").await.expect("unlock");
    daemon.start_again();
    equal(&daemon, (&a, one), (&b, one)).await;
    assert_eq!(b.one("SELECT count(*) FROM stock").await, "1", "no other has crossed its edge");
    daemon.stop();
}

/// A row is asked for in a transaction whose other changes lead to more keys than are kept here: it is sent all the same, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_not_forgotten_among_more_keys_than_are_kept() {
    let base = [
        "CREATE TABLE base (id int NOT NULL PRIMARY KEY, grp int NOT NULL, qty int NOT NULL)",
        "CREATE TABLE grp (id int NOT NULL PRIMARY KEY, name text NOT NULL)",
        "CREATE VIEW stock AS SELECT b.id, g.name, b.qty FROM base b JOIN grp g ON g.id = b.grp",
        "CREATE TABLE wish (id int NOT NULL PRIMARY KEY, stock int NOT NULL)",
        "INSERT INTO grp VALUES (1, 'a')",
        "INSERT INTO base SELECT n, 1, 50 FROM generate_series(1, 101000) n",
    ];
    let target = [
        "CREATE TABLE stock (id int NOT NULL PRIMARY KEY, name text NOT NULL, qty int NOT NULL)",
        "CREATE TABLE wish (id int NOT NULL PRIMARY KEY, stock int NOT NULL)",
    ];
    let (a, b) = (Side::new(true).await, Side::new(true).await);
    for (side, statements) in [(&a, &base[..]), (&b, &target[..])] {
        for sql in statements {
            side.sql(sql).await;
        }
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.wish\"\nto = \"b.wish\"\n\
           [[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nsnapshot = \"never\"\nedge = \"qty < 10\"\npush_when = { \"a.wish\" = \"stock\" }\n\
           tracks = { 'a.base' = \"id\", 'a.grp' = { keys = \"SELECT id FROM base WHERE grp IN (:id)\" } }\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("BEGIN; UPDATE grp SET name = 'b'; INSERT INTO wish VALUES (1, 7); COMMIT").await;
    let wishes = "SELECT id, stock FROM wish";
    equal(&daemon, (&a, wishes), (&b, wishes)).await;
    let sent = "SELECT string_agg(concat(id, name, qty), ' ') FROM stock";
    assert_eq!(b.one(sent).await, "7b50");
    daemon.stop();
}

/// A table that pushes may have columns of any name, and values that the log leaves out.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_pushes_though_the_log_leaves_its_column_seq_out() {
    let (a, b) = (Side::new(true).await, Side::new(true).await);
    for side in [&a, &b] {
        side.sql("CREATE TABLE stock (id int NOT NULL PRIMARY KEY, qty int NOT NULL)").await;
        side.sql("CREATE TABLE wish (id int NOT NULL PRIMARY KEY, stock int NOT NULL, note int NOT NULL, seq text)")
            .await;
    }
    a.sql("ALTER TABLE wish ALTER COLUMN seq SET STORAGE EXTERNAL").await;
    a.sql("INSERT INTO stock VALUES (1, 50)").await;
    a.sql("INSERT INTO wish VALUES (1, 1, 0, repeat('x', 9000))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.wish\"\nto = \"b.wish\"\n\
           [[mappings]]\nfrom = \"a.stock\"\nto = \"b.stock\"\nedge = \"qty < 10\"\npush_when = { \"a.wish\" = \"stock\" }\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("UPDATE stock SET qty = 40").await;
    a.sql("UPDATE wish SET note = 1").await;
    let all = "SELECT id, qty FROM stock";
    equal(&daemon, (&a, all), (&b, all)).await;
    daemon.stop();
}
