//! Views as sources: rows that follow what the view is made of, in groups and alone, into tables and procedures.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::daemon::{Daemon, command};
use super::rows::equal;
use super::snapshot::Side;
use super::{SOON, soaking};

/// A company: parties with addresses in countries, phones, and orders with lines, whose number may come late.
const TABLES: &[&str] = &[
    "CREATE TABLE country (id int NOT NULL PRIMARY KEY, code varchar(2) NOT NULL)",
    "CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(60) NOT NULL, active int NOT NULL)",
    "CREATE TABLE address (id int NOT NULL PRIMARY KEY, party int NOT NULL, country int NOT NULL, city varchar(40) NOT NULL)",
    "CREATE TABLE sale (id int NOT NULL PRIMARY KEY, party int NOT NULL, number varchar(20))",
    "CREATE TABLE line (id int NOT NULL PRIMARY KEY, sale int NOT NULL, product varchar(20) NOT NULL, qty int NOT NULL)",
];

const ACCOUNT: &str = "SELECT p.id AS party_id, p.name AS name, \
    (SELECT min(a.city) FROM address a WHERE a.party = p.id) AS city, \
    (SELECT min(c.code) FROM address a JOIN country c ON c.id = a.country WHERE a.party = p.id) AS code \
    FROM party p WHERE p.active = 1";
const LINES: &str = "SELECT l.id AS line_id, l.sale AS sale_id, s.number AS number, l.product AS product, l.qty AS qty \
    FROM line l JOIN sale s ON s.id = l.sale WHERE s.number IS NOT NULL";

async fn company(side: &Side) {
    for table in TABLES {
        side.sql(table).await;
    }
    if let Side::Pg(_) = side {
        for table in ["address", "line"] {
            side.sql(&format!("ALTER TABLE {table} REPLICA IDENTITY FULL")).await;
        }
    }
    side.sql(&format!("CREATE VIEW account AS {ACCOUNT}")).await;
    side.sql(&format!("CREATE VIEW sale_line AS {LINES}")).await;
    for n in 1..5 {
        side.sql(&format!("INSERT INTO country VALUES ({n}, 'c{n}')")).await;
    }
}

fn change(random: &mut StdRng) -> String {
    let id = random.random_range(1..40);
    let party = random.random_range(1..20);
    let new = |table: &str, values: String| {
        format!(
            "INSERT INTO {table} SELECT {values} FROM (SELECT 1 AS x) one WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM {table}) t WHERE t.id = {id})"
        )
    };
    match random.random_range(0..16) {
        0 | 1 => new("party", format!("{id}, 'party {id}', 1")),
        2 => {
            format!("UPDATE party SET name = 'p{}' WHERE id = {party}", random.random_range(0..99))
        }
        3 => format!("UPDATE party SET active = 1 - active WHERE id = {party}"),
        4 => format!("DELETE FROM party WHERE id = {party}"),
        5 | 6 => {
            new("address", format!("{id}, {party}, {}, 'city {id}'", random.random_range(1..5)))
        }
        7 => format!("UPDATE address SET party = {party} WHERE id = {id}"),
        8 => format!("DELETE FROM address WHERE id = {id}"),
        9 => format!(
            "UPDATE country SET code = 'x{}' WHERE id = {}",
            random.random_range(0..9),
            random.random_range(1..5)
        ),
        10 => new("sale", format!("{id}, {party}, NULL")),
        11 => format!("UPDATE sale SET number = 'S{}' WHERE id = {id}", random.random_range(0..99)),
        12 | 13 => new("line", format!("{id}, {party}, 'p', 1")),
        14 => format!("UPDATE line SET sale = {party}, qty = qty + 1 WHERE id = {id}"),
        _ => format!("DELETE FROM line WHERE id = {id}"),
    }
}

const MAPPED: &str = r#"
[[mappings]]
name = "accounts"
from = "a.account"
to = "b.account"
key = ["party_id"]
columns = { party_id = "party_id", label = "upper(name)", city = "city", code = "coalesce(code, '-')" }
[mappings.tracks]
'a.party' = "id"
'a.address' = [{ column = "party", on_change = ["party", "country", "city"] }]
'a.country' = { keys = "SELECT party FROM address WHERE country IN (:id)" }
[[mappings]]
name = "lines"
from = "a.sale_line"
to = "b.sale_line"
key = ["sale_id"]
row_key = ["line_id"]
after = ["accounts"]
[mappings.tracks]
'a.sale' = { column = "id", on_change = ["number"] }
'a.line' = "sale"
"#;

async fn followed(postgres_source: bool, postgres_target: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    company(&a).await;
    b.sql("CREATE TABLE account (party_id int NOT NULL PRIMARY KEY, label varchar(60) NOT NULL, city varchar(40), code varchar(5) NOT NULL)").await;
    b.sql("CREATE TABLE sale_line (line_id int NOT NULL PRIMARY KEY, sale_id int NOT NULL, number varchar(20) NOT NULL, product varchar(20) NOT NULL, qty int NOT NULL)").await;
    let seed = 99 + u64::from(postgres_source);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..120 {
        a.sql(&change(&mut random)).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[]) + MAPPED;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let accounts = format!(
        "SELECT party_id, upper(name), city, coalesce(code, '-') FROM ({ACCOUNT}) v ORDER BY party_id"
    );
    let lines =
        format!("SELECT line_id, sale_id, number, product, qty FROM ({LINES}) v ORDER BY line_id");
    let found = "SELECT party_id, label, city, code FROM account ORDER BY party_id";
    let found_lines =
        "SELECT line_id, sale_id, number, product, qty FROM sale_line ORDER BY line_id";
    equal(&daemon, (&a, &accounts), (&b, found)).await;
    equal(&daemon, (&a, &lines), (&b, found_lines)).await;
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
        equal(&daemon, (&a, &accounts), (&b, found)).await;
        equal(&daemon, (&a, &lines), (&b, found_lines)).await;
    }
    // What a person did at the target is undone by a resync, in whatever way.
    b.sql("INSERT INTO account VALUES (900, 'X', NULL, '-')").await;
    b.sql("UPDATE account SET label = 'spoilt'").await;
    b.sql("DELETE FROM sale_line").await;
    assert_eq!(daemon.command(&["resync", "a:b"]).0, 0);
    equal(&daemon, (&a, &accounts), (&b, found)).await;
    equal(&daemon, (&a, &lines), (&b, found_lines)).await;
    // The same view, made again.
    a.sql("DROP VIEW account").await;
    // Our role's own schema comes first where it has one.
    let schema = if postgres_source { "public." } else { "" };
    a.sql(&format!("CREATE VIEW {schema}account AS {ACCOUNT}")).await;
    a.sql("UPDATE party SET name = 'renamed'").await;
    equal(&daemon, (&a, &accounts), (&b, found)).await;
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_followed_from_postgres_to_mariadb() {
    followed(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_followed_from_mariadb_to_postgres() {
    followed(false, true).await;
}

/// Rows that come before what they point to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_ahead_of_its_parent_waits_for_it() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    company(&a).await;
    b.sql("CREATE TABLE sale (id int NOT NULL PRIMARY KEY, number varchar(20))").await;
    b.sql("CREATE TABLE sale_line (line_id int NOT NULL PRIMARY KEY, sale_id int NOT NULL, number varchar(20) NOT NULL, product varchar(20) NOT NULL, qty int NOT NULL, FOREIGN KEY (sale_id) REFERENCES sale (id))").await;
    let folder = tempfile::tempdir().expect("folder");
    let mapped = MAPPED.split("[[mappings]]\nname = \"lines\"").nth(1).expect("lines");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nfrom = \"a.sale\"\nto = \"b.sale\"\ncolumns = { id = \"id\", number = \"number\" }\n[[mappings]]\nname = \"lines\""
        + &mapped.replace("after = [\"accounts\"]\n", "");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let lines =
        format!("SELECT line_id, sale_id, number, product, qty FROM ({LINES}) v ORDER BY line_id");
    let found_lines =
        "SELECT line_id, sale_id, number, product, qty FROM sale_line ORDER BY line_id";
    // A backlog of many transactions: what is read again for the first of them shows all.
    daemon.kill();
    for n in 1..60 {
        a.sql(&format!("INSERT INTO sale VALUES ({n}, 1, 'S{n}')")).await;
        a.sql(&format!("INSERT INTO line VALUES ({n}, {n}, 'p', 1)")).await;
        a.sql(&format!("UPDATE line SET sale = {} WHERE id = {n}", n.max(2) - 1)).await;
    }
    daemon.start_again();
    equal(&daemon, (&a, &lines), (&b, found_lines)).await;
    // One by one, with parents and children in changing order.
    for n in 60..90 {
        a.sql(&format!("BEGIN; INSERT INTO sale VALUES ({n}, 1, 'S{n}'); INSERT INTO line VALUES ({n}, {n}, 'p', 1); COMMIT")).await;
        a.sql(&format!(
            "BEGIN; DELETE FROM line WHERE id = {}; DELETE FROM sale WHERE id = {0}; COMMIT",
            n - 30
        ))
        .await;
    }
    equal(&daemon, (&a, &lines), (&b, found_lines)).await;
    daemon.streaming().await;
    daemon.stop();
}

/// One call a row, and one call a group.
async fn called(postgres_target: bool) {
    let (a, b) = (Side::new(!postgres_target).await, Side::new(postgres_target).await);
    company(&a).await;
    b.sql(
        "CREATE TABLE organisation (party int NOT NULL PRIMARY KEY, label varchar(60), entity int)",
    )
    .await;
    b.sql("CREATE TABLE document (sale int NOT NULL PRIMARY KEY, number varchar(20), total int NOT NULL)").await;
    match &b {
        Side::Pg(_) => {
            b.sql("CREATE PROCEDURE put_organisation(p_party_id int, p_name varchar) LANGUAGE plpgsql AS $$ BEGIN \
                   INSERT INTO public.organisation VALUES (p_party_id, p_name, 1) ON CONFLICT (party) DO UPDATE SET label = EXCLUDED.label; END $$").await;
            b.sql("CREATE FUNCTION remove_organisation(p_party_id int) RETURNS void LANGUAGE sql AS $$ DELETE FROM public.organisation WHERE party = p_party_id $$").await;
            b.sql("CREATE PROCEDURE put_document(_sale_id int, _lines jsonb) LANGUAGE plpgsql AS $$ BEGIN \
                   DELETE FROM public.document WHERE sale = _sale_id; \
                   INSERT INTO public.document SELECT _sale_id, min(l->>'number'), sum((l->>'qty')::int) FROM jsonb_array_elements(_lines) l HAVING count(*) > 0; END $$").await;
        }
        Side::My(_) => {
            b.sql("CREATE PROCEDURE put_organisation(p_party_id int, p_name varchar(60)) \
                   INSERT INTO organisation VALUES (p_party_id, p_name, 1) ON DUPLICATE KEY UPDATE label = p_name").await;
            b.sql("CREATE PROCEDURE remove_organisation(p_party_id int) DELETE FROM organisation WHERE party = p_party_id").await;
            b.sql("CREATE PROCEDURE put_document(_sale_id int, _lines longtext) BEGIN \
                   DELETE FROM document WHERE sale = _sale_id; \
                   INSERT INTO document SELECT _sale_id, min(l.number), sum(l.qty) FROM JSON_TABLE(_lines, '$[*]' COLUMNS (number varchar(20) PATH '$.number', qty int PATH '$.qty')) l HAVING count(*) > 0; END").await;
        }
    }
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + r#"
[[mappings]]
name = "organisations"
from = "a.account"
to = { call = "b.put_organisation", delete = "b.remove_organisation" }
key = ["party_id"]
columns = { party_id = "party_id", p_name = "name" }
[mappings.tracks]
'a.party' = "id"
[[mappings]]
name = "documents"
from = "a.sale_line"
to = { call = "b.put_document", rows = "_lines" }
on_delete = "ignore"
key = ["sale_id"]
row_key = ["line_id"]
columns = { sale_id = "sale_id", line_id = "line_id", number = "number", qty = "qty" }
[mappings.tracks]
'a.sale' = "id"
'a.line' = "sale"
"#;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..100 {
        a.sql(&change(&mut random)).await;
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let organisations = "SELECT id, name FROM party WHERE active = 1 ORDER BY id";
    let documents = "SELECT l.sale, min(s.number), sum(l.qty) FROM line l JOIN sale s ON s.id = l.sale WHERE s.number IS NOT NULL GROUP BY l.sale ORDER BY l.sale";
    for round in 0..3 {
        equal(
            &daemon,
            (&a, organisations),
            (&b, "SELECT party, label FROM organisation ORDER BY party"),
        )
        .await;
        equal(
            &daemon,
            (&a, documents),
            (&b, "SELECT sale, number, total FROM document ORDER BY sale"),
        )
        .await;
        for _ in 0..60 {
            a.sql(&change(&mut random)).await;
        }
        if round == 1 {
            daemon.kill_and_start();
        }
    }
    equal(
        &daemon,
        (&a, organisations),
        (&b, "SELECT party, label FROM organisation ORDER BY party"),
    )
    .await;
    equal(&daemon, (&a, documents), (&b, "SELECT sale, number, total FROM document ORDER BY sale"))
        .await;
    daemon.streaming().await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn procedures_of_postgres_take_rows_and_groups() {
    called(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn procedures_of_mariadb_take_rows_and_groups() {
    called(false).await;
}

/// A column that is not in the log's old rows would leave rows behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_track_that_the_log_does_not_tell_of_is_refused_with_the_statement_that_mends_it() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    company(&a).await;
    a.sql("ALTER TABLE line REPLICA IDENTITY DEFAULT").await;
    b.sql("CREATE TABLE sale_line (line_id int NOT NULL PRIMARY KEY, sale_id int NOT NULL, number varchar(20) NOT NULL, product varchar(20) NOT NULL, qty int NOT NULL)").await;
    let folder = tempfile::tempdir().expect("folder");
    let mapped = MAPPED.split("[[mappings]]\nname = \"lines\"").nth(1).expect("lines");
    let text = super::config(folder.path(), &[("a", a.url()), ("b", b.url())], &[])
        + "[[mappings]]\nname = \"lines\""
        + &mapped.replace("after = [\"accounts\"]\n", "");
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("ALTER TABLE \"public\".\"line\" REPLICA IDENTITY FULL;"), "{said}");
    assert!(said.contains("'a.line' = \"sale\"") && said.contains("^^^"), "{said}");
    let _soon = SOON;
}
