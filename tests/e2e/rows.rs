//! Which rows go, and what they become: expressions, filters, ends of rows, several mappings of one table.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::{Daemon, command};
use super::snapshot::Side;
use super::{SOON, soaking};

type Rows = Vec<Vec<Option<String>>>;

/// Waits until the target has what a query of the source says it should.
pub async fn equal(daemon: &Daemon, source: (&Side, &str), target: (&Side, &str)) {
    let began = Instant::now();
    loop {
        let want: Rows = source.0.rows(source.1).await;
        let have: Rows = target.0.rows(target.1).await;
        if want == have {
            return;
        }
        if began.elapsed() > SOON {
            let differ: Vec<_> = want
                .iter()
                .filter(|r| !have.contains(r))
                .map(|r| ("missing", r))
                .chain(have.iter().filter(|r| !want.contains(r)).map(|r| ("extra", r)))
                .take(20)
                .collect();
            panic!("{differ:#?}\n{:#?}\n{}", daemon.flows(), daemon.log());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn head(folder: &std::path::Path, a: &Side, b: &Side) -> String {
    super::config(folder, &[("a", a.url()), ("b", b.url())], &[])
}

const ORDERS: &str = "CREATE TABLE orders (id int NOT NULL PRIMARY KEY, code varchar(40), status varchar(20) NOT NULL, \
    amount decimal(12,2) NOT NULL, tax decimal(5,4), note text, other int)";
const CONTRACTS: &str = "CREATE TABLE contract (id int NOT NULL PRIMARY KEY, code varchar(60), state varchar(20) NOT NULL, \
    total decimal(14,2) NOT NULL, label varchar(100), note text, origin varchar(10) NOT NULL)";
const MAPPED: &str = r#"
[[mappings]]
from = "a.orders"
to = "b.contract"
where = "status <> 'draft' AND amount > 0"
validate = [{ rule = "length(code) < 30", says = "code" }]
[mappings.columns]
id = "id"
code = "upper(trim(code))"
state = "dictionary('status', status, 'unknown')"
total = "round(amount * (1 + coalesce(tax, 0.13)), 2)"
label = "CASE WHEN amount >= 1000 THEN 'big ' || status WHEN amount >= 100 THEN 'mid' ELSE NULL END"
note = "note"
origin = "'CRM'"
[dictionaries.status]
won = "confirmed"
lost = "cancelled"
"#;
const EXPECTED: &str = "SELECT id, upper(trim(code)), CASE status WHEN 'won' THEN 'confirmed' WHEN 'lost' THEN 'cancelled' ELSE 'unknown' END, \
    round(amount * (1 + coalesce(tax, 0.13)), 2), \
    CASE WHEN amount >= 1000 THEN concat('big ', status) WHEN amount >= 100 THEN 'mid' ELSE NULL END, note, 'CRM' \
    FROM orders WHERE status <> 'draft' AND amount > 0 ORDER BY id";
const FOUND: &str = "SELECT id, code, state, total, label, note, origin FROM contract ORDER BY id";

fn change(random: &mut StdRng) -> String {
    let id = random.random_range(1..60);
    let status = ["draft", "won", "lost", "open"][random.random_range(0..4)];
    let amount = f64::from(random.random_range(-500..200_000)) / 100.0;
    match random.random_range(0..12) {
        0..3 => {
            // Long and hard to compress: kept out of line, so that the log leaves it out of updates.
            let note: String =
                (0..3000).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
            format!(
                "INSERT INTO orders SELECT {id}, ' c{id} ', '{status}', {amount}, NULL, '{note}', 0 FROM (SELECT 1 AS x) one \
                 WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM orders) o WHERE o.id = {id})"
            )
        }
        3..6 => format!("UPDATE orders SET status = '{status}' WHERE id = {id}"),
        6..8 => format!("UPDATE orders SET amount = {amount}, tax = 0.07 WHERE id = {id}"),
        8 => format!("UPDATE orders SET other = other + 1 WHERE id > {id}"),
        9 => format!("UPDATE orders SET note = 'short' WHERE id = {id}"),
        10 => {
            let to = random.random_range(1..60);
            format!(
                "UPDATE orders SET id = {to}, status = '{status}' WHERE id = {id} AND {to} NOT IN (SELECT id FROM (SELECT id FROM orders) o)"
            )
        }
        _ => format!("DELETE FROM orders WHERE id = {id}"),
    }
}

async fn filtered(postgres_source: bool, postgres_target: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    a.sql(ORDERS).await;
    b.sql(CONTRACTS).await;
    let seed = 20_261_126 + u64::from(postgres_source) * 2 + u64::from(postgres_target);
    let mut random = StdRng::seed_from_u64(seed);
    println!("seed {seed}");
    for _ in 0..60 {
        a.sql(&change(&mut random)).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = head(folder.path(), &a, &b) + MAPPED;
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    equal(&daemon, (&a, EXPECTED), (&b, FOUND)).await;
    for round in 0..if soaking() { 40 } else { 4 } {
        if round % 2 == 1 {
            daemon.kill();
        }
        for _ in 0..60 {
            a.sql(&change(&mut random)).await;
        }
        if round % 2 == 1 {
            daemon.start_again();
        }
        equal(&daemon, (&a, EXPECTED), (&b, FOUND)).await;
    }
    // What only the target has, and what it should not have, goes by a resync.
    b.sql("INSERT INTO contract VALUES (900, 'X', 'x', 1, NULL, NULL, 'CRM')").await;
    a.sql("INSERT INTO orders VALUES (901, 'c', 'draft', 5, NULL, NULL, 0)").await;
    b.sql("INSERT INTO contract VALUES (901, 'X', 'x', 1, NULL, NULL, 'CRM')").await;
    assert_eq!(daemon.command(&["resync", "orders"]).0, 0);
    equal(&daemon, (&a, EXPECTED), (&b, FOUND)).await;
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_enter_and_leave_the_filter_from_postgres_to_mariadb() {
    filtered(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_enter_and_leave_the_filter_from_mariadb_to_postgres() {
    filtered(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_not_valid_stops_its_mapping_without_telling_its_values() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql(ORDERS).await;
    b.sql(CONTRACTS).await;
    let folder = tempfile::tempdir().expect("folder");
    let daemon = Daemon::start(folder.path(), &(head(folder.path(), &a, &b) + MAPPED));
    daemon.streaming().await;
    a.sql("INSERT INTO orders VALUES (1, 'good', 'won', 10, NULL, NULL, 0)").await;
    let secret = "S3CRET-AND-FAR-TOO-LONG-TO-BE-A-CODE";
    a.sql(&format!("INSERT INTO orders VALUES (2, '{secret}', 'won', 10, NULL, NULL, 0)")).await;
    daemon
        .wait("stopped", SOON, |flows| {
            let mapping = &flows[0]["mappings"][0];
            mapping["state"] == "stopped" && mapping["error"]["code"] == "TL0213"
        })
        .await;
    let said = daemon.flows()[0]["mappings"][0]["error"]["message"].to_string();
    assert!(said.contains("code") && said.contains("key hash"), "{said}");
    assert!(!daemon.log().contains(secret) && !said.contains(secret), "{said}");
    assert_eq!(b.one("SELECT count(*) FROM contract").await, "1");
    a.sql("UPDATE orders SET code = 'short' WHERE id = 2").await;
    assert_eq!(daemon.command(&["resync", "orders"]).0, 0);
    equal(&daemon, (&a, EXPECTED), (&b, FOUND)).await;
    daemon.stop();
}

/// One source table to two tables by sign, and to a table of contacts by column; marks instead of deletes; what is not worth
/// sending is not sent.
async fn routed(postgres_source: bool, postgres_target: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    a.sql("CREATE TABLE sale (id int NOT NULL PRIMARY KEY, total decimal(12,2) NOT NULL, phone varchar(30), email varchar(60), seen int NOT NULL)").await;
    if let Side::Pg(_) = &a {
        a.sql("ALTER TABLE sale REPLICA IDENTITY FULL").await;
    }
    b.sql("CREATE TABLE invoice (id int NOT NULL PRIMARY KEY, total decimal(12,2) NOT NULL, active smallint NOT NULL)").await;
    b.sql("CREATE TABLE credit (id int NOT NULL PRIMARY KEY, total decimal(12,2) NOT NULL)").await;
    b.sql("CREATE TABLE contact (party int NOT NULL, kind varchar(10) NOT NULL, value varchar(60) NOT NULL, PRIMARY KEY (party, kind))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = head(folder.path(), &a, &b)
        + r#"
[[mappings]]
name = "invoices"
from = "a.sale"
to = "b.invoice"
where = "total >= 0"
on_delete = { set = { active = "0" } }
on_change = ["total"]
columns = { id = "id", total = "total", active = "1" }
[[mappings]]
name = "credits"
from = "a.sale"
to = "b.credit"
where = "total < 0"
columns = { id = "id", total = "-total" }
[[mappings]]
name = "phones"
from = "a.sale"
to = "b.contact"
where = "phone IS NOT NULL"
columns = { party = "id", kind = "'phone'", value = "phone" }
[[mappings]]
name = "emails"
from = "a.sale"
to = "b.contact"
where = "coalesce(trim(email), '') <> ''"
columns = { party = "id", kind = "'email'", value = "lower(trim(email))" }
"#;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let seed = 77 + u64::from(postgres_source);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..3 {
        for _ in 0..50 {
            let id = random.random_range(1..30);
            let total = random.random_range(-50..50);
            let sql = match random.random_range(0..8) {
                0..3 => {
                    format!(
                        "INSERT INTO sale SELECT {id}, {total}, NULL, 'A{id}@B.C ', 0 FROM (SELECT 1 AS x) one WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM sale) s WHERE s.id = {id})"
                    )
                }
                3 => format!("UPDATE sale SET total = {total} WHERE id = {id}"),
                4 => format!("UPDATE sale SET phone = '{total}' WHERE id = {id}"),
                5 => format!("UPDATE sale SET phone = NULL, email = '' WHERE id = {id}"),
                6 => format!("UPDATE sale SET seen = seen + 1 WHERE id <= {id}"),
                _ => format!("DELETE FROM sale WHERE id = {id}"),
            };
            a.sql(&sql).await;
        }
        if round == 1 {
            daemon.kill_and_start();
        }
        let live = "SELECT id, total FROM sale WHERE total >= 0 ORDER BY id";
        equal(
            &daemon,
            (&a, live),
            (&b, "SELECT id, total FROM invoice WHERE active = 1 ORDER BY id"),
        )
        .await;
        let credits = "SELECT id, -total FROM sale WHERE total < 0 ORDER BY id";
        equal(&daemon, (&a, credits), (&b, "SELECT id, total FROM credit ORDER BY id")).await;
        let contacts = "SELECT id, 'email', lower(trim(email)) FROM sale WHERE coalesce(trim(email), '') <> '' \
            UNION ALL SELECT id, 'phone', phone FROM sale WHERE phone IS NOT NULL ORDER BY 1, 2";
        equal(
            &daemon,
            (&a, contacts),
            (&b, "SELECT party, kind, value FROM contact ORDER BY 1, 2"),
        )
        .await;
    }
    // A resync of one of two mappings of a table leaves the other's rows.
    b.sql("INSERT INTO contact VALUES (99, 'phone', 'x')").await;
    assert_eq!(daemon.command(&["resync", "phones"]).0, 0);
    let contacts = "SELECT id, 'email', lower(trim(email)) FROM sale WHERE coalesce(trim(email), '') <> '' \
        UNION ALL SELECT id, 'phone', phone FROM sale WHERE phone IS NOT NULL ORDER BY 1, 2";
    equal(&daemon, (&a, contacts), (&b, "SELECT party, kind, value FROM contact ORDER BY 1, 2"))
        .await;
    // Updates of what is not mapped, or not worth sending, are counted as filtered.
    let counted = |daemon: &Daemon| {
        let flows = daemon.flows();
        let mapping = flows[0]["mappings"]
            .as_array()
            .and_then(|m| m.iter().find(|m| m["name"] == "invoices").cloned());
        let mapping = mapping.expect("invoices");
        (mapping["rows_updated"].as_u64(), mapping["rows_filtered"].as_u64())
    };
    a.sql("DELETE FROM sale").await;
    a.sql("INSERT INTO sale VALUES (50, 1, NULL, NULL, 0)").await;
    let live = "SELECT id, total FROM sale WHERE total >= 0 ORDER BY id";
    equal(&daemon, (&a, live), (&b, "SELECT id, total FROM invoice WHERE active = 1 ORDER BY id"))
        .await;
    let (updated, filtered) = counted(&daemon);
    a.sql("UPDATE sale SET seen = 7, email = 'x'").await;
    daemon.wait("filtered", SOON, |_| counted(&daemon).1 > filtered).await;
    assert_eq!(counted(&daemon).0, updated, "{}", daemon.log());
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_goes_several_ways_from_postgres_to_mariadb() {
    routed(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_goes_several_ways_from_mariadb_to_postgres() {
    routed(false, true).await;
}

/// Two tables make up one row of the target, each its own columns, those that must have a value among them.
async fn shared(postgres_source: bool, postgres_target: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    a.sql("CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(30) NOT NULL)").await;
    a.sql("CREATE TABLE detail (party int NOT NULL PRIMARY KEY, phone varchar(30), credit int NOT NULL)").await;
    b.sql("CREATE TABLE account (id int NOT NULL PRIMARY KEY, name varchar(30) NOT NULL, phone varchar(30), credit int NOT NULL DEFAULT 0)").await;
    for n in 1..10 {
        a.sql(&format!("INSERT INTO party VALUES ({n}, 'old {n}')")).await;
        a.sql(&format!("INSERT INTO detail VALUES ({n}, NULL, {n})")).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = head(folder.path(), &a, &b)
        + r#"
[[mappings]]
from = "a.party"
to = "b.account"
columns = { id = "id", name = "name" }
[[mappings]]
from = "a.detail"
to = "b.account"
after = ["party"]
on_delete = { set = { phone = "NULL", credit = "0" } }
columns = { id = "party", phone = "phone", credit = "credit" }
"#;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let want = "SELECT p.id, p.name, d.phone, coalesce(d.credit, 0) FROM party p LEFT JOIN detail d ON d.party = p.id ORDER BY p.id";
    let have = "SELECT id, name, phone, credit FROM account ORDER BY id";
    equal(&daemon, (&a, want), (&b, have)).await;
    let seed = 31 + u64::from(postgres_source);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..3 {
        for n in 0..60 {
            let id = random.random_range(1..20);
            let known = a.one(&format!("SELECT count(*) FROM party WHERE id = {id}")).await == "1";
            let detailed =
                a.one(&format!("SELECT count(*) FROM detail WHERE party = {id}")).await == "1";
            let sql = match (random.random_range(0..5), known, detailed) {
                (_, false, _) => format!("INSERT INTO party VALUES ({id}, 'n{n}')"),
                (0, true, false) => format!("INSERT INTO detail VALUES ({id}, 'p{n}', {n})"),
                (1, true, true) => {
                    format!("UPDATE detail SET phone = 'q{n}', credit = {n} WHERE party = {id}")
                }
                (2, true, true) => format!("DELETE FROM detail WHERE party = {id}"),
                (3, true, false) => format!("DELETE FROM party WHERE id = {id}"),
                _ => format!("UPDATE party SET name = 'm{n}' WHERE id = {id}"),
            };
            a.sql(&sql).await;
        }
        if round == 1 {
            daemon.kill_and_start();
        }
        equal(&daemon, (&a, want), (&b, have)).await;
    }
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_make_one_row_from_postgres_to_mariadb() {
    shared(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_make_one_row_from_mariadb_to_postgres() {
    shared(false, true).await;
}

/// The key of a row outside the filter may be none.
async fn without_key(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    a.sql("CREATE TABLE person (id int NOT NULL PRIMARY KEY, email varchar(60), name varchar(40))")
        .await;
    if postgres_source {
        a.sql("ALTER TABLE person REPLICA IDENTITY FULL").await;
    }
    b.sql("CREATE TABLE contact (email varchar(60) NOT NULL PRIMARY KEY, name varchar(40))").await;
    a.sql("INSERT INTO person VALUES (1, 'a@x', 'a'), (2, NULL, 'b'), (3, 'c@x', 'c')").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = head(folder.path(), &a, &b)
        + "[[mappings]]\nname = \"contacts\"\nfrom = \"a.person\"\nto = \"b.contact\"\nkey = [\"email\"]\n\
           where = \"email IS NOT NULL\"\ncolumns = { email = \"email\", name = \"name\" }\n";
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let want = "SELECT email, name FROM person WHERE email IS NOT NULL ORDER BY email";
    let have = "SELECT email, name FROM contact ORDER BY email";
    equal(&daemon, (&a, want), (&b, have)).await;
    for sql in [
        "UPDATE person SET email = NULL WHERE id = 1",
        "UPDATE person SET email = 'b@x' WHERE id = 2",
        "INSERT INTO person VALUES (4, NULL, 'd'), (5, 'e@x', 'e')",
        "UPDATE person SET name = 'still none' WHERE id = 4",
        "DELETE FROM person WHERE id = 4",
        "UPDATE person SET email = NULL WHERE id = 3",
    ] {
        a.sql(sql).await;
        equal(&daemon, (&a, want), (&b, have)).await;
    }
    for command in ["backfill", "resync"] {
        b.sql("INSERT INTO contact VALUES ('nobody@x', 'n')").await;
        b.sql("UPDATE contact SET name = 'spoilt' WHERE email <> 'nobody@x'").await;
        assert_eq!(daemon.command(&[command, "contacts"]).0, 0);
        let have = "SELECT email, name FROM contact WHERE email <> 'nobody@x' ORDER BY email";
        equal(&daemon, (&a, want), (&b, have)).await;
        b.sql("DELETE FROM contact WHERE email = 'nobody@x'").await;
    }
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_outside_the_filter_may_have_no_key_at_postgres() {
    without_key(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_outside_the_filter_may_have_no_key_at_mariadb() {
    without_key(false).await;
}
