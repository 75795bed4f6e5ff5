//! Dictionaries that are tables: current from the source's log, and as the target has them.

use super::SOON;
use super::daemon::{Daemon, command};
use super::lookups::{head, started, together};
use super::rows::equal;
use super::snapshot::Side;

const ORDERS: &str =
    "CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(20), vat int NOT NULL)";
const TRANSLATED: &str = r#"
[[mappings]]
from = "a.orders"
to = "b.orders"
where = "dictionary('state', status, 'none') <> 'hidden'"
columns = { id = "id", state = "dictionary('state', status)", rate = "dictionary('rate', vat, -1)", place = "dictionary('place', (status, vat), 'nowhere')" }
[dictionaries.state]
table = "a.code_map"
key = "code"
value = "meaning"
where = "kind = 'state'"
[dictionaries.rate]
table = "b.rate_map"
key = "code"
value = "rate"
[dictionaries.place]
table = "b.place_map"
key = ["status", "vat"]
value = "place"
"#;

async fn translated(postgres_source: bool, postgres_target: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(postgres_target).await);
    a.sql(ORDERS).await;
    a.sql("CREATE TABLE code_map (id int NOT NULL PRIMARY KEY, kind varchar(10) NOT NULL, code varchar(20) NOT NULL, meaning varchar(20) NOT NULL, UNIQUE (kind, code))").await;
    b.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, state varchar(20), rate int, place varchar(20) NOT NULL)").await;
    b.sql("CREATE TABLE rate_map (code int NOT NULL PRIMARY KEY, rate int NOT NULL)").await;
    b.sql("CREATE TABLE place_map (status varchar(20) NOT NULL, vat int NOT NULL, place varchar(20) NOT NULL, PRIMARY KEY (status, vat))").await;
    a.sql("INSERT INTO code_map VALUES (1, 'state', 'won', 'confirmed'), (2, 'state', 'lost', 'cancelled'), (3, 'other', 'open', 'no'), (4, 'state', 'secret', 'hidden')").await;
    b.sql("INSERT INTO rate_map VALUES (1, 7), (2, 19)").await;
    b.sql("INSERT INTO place_map VALUES ('won', 1, 'Berlin')").await;
    a.sql(
        "INSERT INTO orders VALUES (1, 'won', 1), (2, 'lost', 2), (3, NULL, 3), (4, 'secret', 1)",
    )
    .await;
    let folder = tempfile::tempdir().expect("folder");
    let mut daemon = started(folder.path(), &(head(folder.path(), &a, &b) + TRANSLATED)).await;
    // What `check` tells of it, and rows that are only tried: what the target knows is not asked then.
    let (code, said) = daemon.command(&["map", "test", "orders"]);
    assert!(code == 0 && said.contains("state = 'confirmed'"), "{said}");
    assert!(said.contains("rate = (looked up when it is written)"), "{said}");
    let (code, said) = daemon.command(&["check", "--explain", "orders"]);
    assert!(code == 0 && said.contains("rate of b.rate_map by (code)"), "{said}");
    let (code, said) = daemon.command(&["check", "--exposure"]);
    assert!(code == 0 && said.contains("orders.status"), "{said}");
    let found = "SELECT id, state, rate, place FROM orders ORDER BY id";
    let holds = async |daemon: &Daemon, rows: &[&str]| {
        let want = format!("{} ORDER BY 1", rows.join(" UNION ALL SELECT "));
        equal(daemon, (&a, &format!("SELECT {want}")), (&b, found)).await;
    };
    let mut rows =
        vec!["1, 'confirmed', 7, 'Berlin'", "2, 'cancelled', 19, 'nowhere'", "3, NULL, -1, NULL"];
    // A code that is NULL is NULL, whatever the default.
    b.sql("ALTER TABLE orders ADD COLUMN unused int").await;
    rows.truncate(2);
    a.sql("DELETE FROM orders WHERE id = 3").await;
    holds(&daemon, &rows).await;
    // Each row has the meaning of its place in the transaction, and new codes are known at once.
    together(
        &a,
        &[
            "INSERT INTO orders VALUES (10, 'won', 1)",
            "UPDATE code_map SET meaning = 'done' WHERE code = 'won'",
            "INSERT INTO orders VALUES (11, 'won', 1)",
            "INSERT INTO code_map VALUES (5, 'state', 'new', 'fresh')",
            "INSERT INTO orders VALUES (12, 'new', 2)",
            "UPDATE code_map SET code = 'newer' WHERE id = 5",
            "INSERT INTO orders VALUES (13, 'newer', 5)",
            "UPDATE code_map SET kind = 'state', code = 'was open' WHERE id = 3",
            "INSERT INTO orders VALUES (14, 'was open', 5)",
        ],
    )
    .await;
    rows.extend([
        "10, 'confirmed', 7, 'Berlin'",
        "11, 'done', 7, 'Berlin'",
        "12, 'fresh', 19, 'nowhere'",
        "13, 'fresh', -1, 'nowhere'",
        "14, 'no', -1, 'nowhere'",
    ]);
    holds(&daemon, &rows).await;
    assert!(daemon.log().contains("the dictionary changed"), "{}", daemon.log());
    // The target's table is asked as it is when the row is written.
    b.sql("UPDATE rate_map SET rate = 20 WHERE code = 2").await;
    a.sql("INSERT INTO orders VALUES (20, 'lost', 2)").await;
    rows.push("20, 'cancelled', 20, 'nowhere'");
    holds(&daemon, &rows).await;
    // What changes while nobody looks is read at the start.
    daemon.kill();
    a.sql("UPDATE code_map SET meaning = 'gone' WHERE code = 'lost'").await;
    a.sql("INSERT INTO orders VALUES (21, 'lost', 1)").await;
    daemon.start_again();
    rows.push("21, 'gone', 7, 'nowhere'");
    holds(&daemon, &rows).await;
    // A code that went away is missing from there on, and told by its dictionary and a hash.
    together(
        &a,
        &[
            "INSERT INTO orders VALUES (30, 'was open', 1)",
            "DELETE FROM code_map WHERE code = 'was open'",
            "INSERT INTO orders VALUES (31, 'was open', 1)",
        ],
    )
    .await;
    daemon
        .wait("stopped", SOON, |flows| flows[0]["mappings"][0]["error"]["code"] == "TL0215")
        .await;
    let said = daemon.flows()[0]["mappings"][0]["error"].to_string();
    assert!(
        said.contains("state") && said.contains("hash") && !said.contains("was open"),
        "{said}"
    );
    a.sql("INSERT INTO code_map VALUES (9, 'state', 'was open', 'back')").await;
    // A backfill brings the meanings of now to all rows.
    assert_eq!(daemon.command(&["resync", "orders"]).0, 0);
    let rows = [
        "1, 'done', 7, 'Berlin'",
        "2, 'gone', 20, 'nowhere'",
        "10, 'done', 7, 'Berlin'",
        "11, 'done', 7, 'Berlin'",
        "13, 'fresh', -1, 'nowhere'",
        "14, 'back', -1, 'nowhere'",
        "20, 'gone', 20, 'nowhere'",
        "21, 'gone', 7, 'nowhere'",
        "30, 'back', 7, 'nowhere'",
        "31, 'back', 7, 'nowhere'",
    ];
    a.sql("DELETE FROM orders WHERE id = 12").await;
    holds(&daemon, &rows).await;
    daemon.streaming().await;
    // Emptied, it has no codes.
    a.sql("TRUNCATE TABLE code_map").await;
    a.sql("INSERT INTO orders VALUES (40, 'won', 1)").await;
    daemon
        .wait("stopped again", SOON, |flows| flows[0]["mappings"][0]["error"]["code"] == "TL0215")
        .await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_that_are_tables_are_current_from_postgres_to_mariadb() {
    translated(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dictionaries_that_are_tables_are_current_from_mariadb_to_postgres() {
    translated(false, true).await;
}

/// A code that went from one row to another while nobody looked stood for something all the time.
async fn handed_on(postgres_source: bool) {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    a.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(8))").await;
    a.sql("CREATE TABLE words (id int NOT NULL PRIMARY KEY, code varchar(8), meaning varchar(20))")
        .await;
    b.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, state varchar(20))").await;
    a.sql("INSERT INTO words VALUES (1, 'won', 'first'), (2, 'twice', 'a'), (3, 'twice', 'b')")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let text = head(folder.path(), &a, &b)
        + "[[mappings]]\nfrom = \"a.orders\"\nto = \"b.orders\"\n\
           columns = { id = \"id\", state = \"dictionary('words', status, 'none')\" }\n\
           [dictionaries.words]\ntable = \"a.words\"\nkey = \"code\"\nvalue = \"meaning\"\n";
    let mut daemon = started(folder.path(), &text).await;
    daemon.kill();
    for sql in [
        "UPDATE words SET meaning = 'second' WHERE id = 1",
        "INSERT INTO orders VALUES (1, 'won')",
        "UPDATE words SET meaning = 'aa' WHERE id = 2",
        "INSERT INTO orders VALUES (2, 'twice')",
        "DELETE FROM words WHERE id = 1",
        "INSERT INTO words VALUES (9, 'won', 'third')",
        "INSERT INTO orders VALUES (3, 'won')",
    ] {
        a.sql(sql).await;
    }
    daemon.start_again();
    let found = "SELECT id, state FROM orders ORDER BY id";
    let caught_up = "SELECT 1, 'second' UNION ALL SELECT 2, 'none' UNION ALL SELECT 3, 'third'";
    equal(&daemon, (&a, caught_up), (&b, found)).await;
    // From here on, two rows with one code are two again.
    a.sql("INSERT INTO words VALUES (10, 'won', 'fourth')").await;
    a.sql("INSERT INTO orders VALUES (4, 'won')").await;
    let after = format!("{caught_up} UNION ALL SELECT 4, 'none'");
    equal(&daemon, (&a, &after), (&b, found)).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_another_row_took_meanwhile_is_not_missing_from_postgres() {
    handed_on(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_another_row_took_meanwhile_is_not_missing_from_mariadb() {
    handed_on(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_table_of_codes_is_told_before_a_row_moves() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql(ORDERS).await;
    a.sql("CREATE TABLE code_map (code varchar(20) NOT NULL PRIMARY KEY, meaning varchar(20), at double precision)").await;
    a.sql("CREATE TABLE keyless (code varchar(20), meaning varchar(20))").await;
    a.sql("CREATE TABLE loose (id int PRIMARY KEY, code varchar(20), meaning varchar(20))").await;
    a.sql("CREATE VIEW codes AS SELECT * FROM code_map").await;
    b.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, state varchar(20))").await;
    b.sql("CREATE TABLE code_map (code varchar(20) NOT NULL PRIMARY KEY, meaning varchar(20))")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("tidelock.toml");
    let used = "dictionary('state', status)";
    for (table, key, value, more, expression, words) in [
        ("a.code_map", "\"code\"", "meaning", "", used, ""),
        (
            "a.code_mop",
            "\"code\"",
            "meaning",
            "",
            used,
            "dictionary state: its table a.code_mop does not exist",
        ),
        ("a.code_map", "\"coda\"", "meaning", "", used, "did you mean code?"),
        ("a.code_map", "\"code\"", "mening", "", used, "did you mean meaning?"),
        ("a.code_map", "\"at\"", "meaning", "", used, "codes are texts and whole numbers"),
        (
            "a.code_map",
            "[\"code\", \"at\"]",
            "meaning",
            "",
            used,
            "codes are texts and whole numbers",
        ),
        ("a.code_map", "[\"code\", \"meaning\"]", "meaning", "", used, "a tuple of 2 values"),
        (
            "a.code_map",
            "\"code\"",
            "meaning",
            "",
            "dictionary('state', vat)",
            "value 1 of a code is text",
        ),
        (
            "a.code_map",
            "\"code\"",
            "meaning",
            "where = \"kind = 'x'\"",
            used,
            "dictionary state: where:",
        ),
        ("a.keyless", "\"code\"", "meaning", "", used, "has no key whose old values its log tells"),
        ("a.loose", "\"code\"", "meaning", "", used, "has no unique index over (code)"),
        ("a.codes", "\"code\"", "meaning", "", used, "is not an ordinary table"),
        (
            "b.code_map",
            "\"code\"",
            "meaning",
            "where = \"code > ''\"",
            used,
            "there is no `where` for it",
        ),
        (
            "b.code_map",
            "\"code\"",
            "meaning",
            "",
            "dictionary('state', status) || lookup('b.code_map', 'code', dictionary('state', status), 'meaning')",
            "cannot stand inside a lookup",
        ),
    ] {
        let text = head(folder.path(), &a, &b)
            + &format!(
                "[[mappings]]\nfrom = \"a.orders\"\nto = \"b.orders\"\n[mappings.columns]\nid = \"id\"\nstate = \"{expression}\"\n[dictionaries.state]\ntable = \"{table}\"\nkey = {key}\nvalue = \"{value}\"\n{more}\n"
            );
        std::fs::write(&config, text).expect("config");
        let (code, said) = command(&config, &["check"]);
        assert!(said.contains(words), "{table} {key} {value} {more} {expression}: {said}");
        assert_eq!(code == 0, words.is_empty() || table == "a.loose", "{table} {key}: {said}");
    }
    let text = head(folder.path(), &a, &b)
        + "[[mappings]]\nfrom = \"a.orders\"\nto = \"b.orders\"\nwhere = \"dictionary('state', status) = 'x'\"\ncolumns = { id = \"id\" }\n[dictionaries.state]\ntable = \"b.code_map\"\nkey = \"code\"\nvalue = \"meaning\"\n";
    std::fs::write(&config, text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert!(code == 1 && said.contains("dictionary state is a table of the target"), "{said}");
}

/// What stands behind the columns in the file: the rows of a view are compared, those of a table are as they were, and a note says so.
#[tokio::test(flavor = "multi_thread")]
async fn another_dictionary_zone_or_mask_key_of_the_file_is_told() {
    let (a, b) = (Side::new(true).await, Side::new(false).await);
    a.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(20), at timestamp, person varchar(20))").await;
    a.sql("ALTER TABLE orders REPLICA IDENTITY FULL").await;
    a.sql("CREATE VIEW shown AS SELECT id, status FROM orders").await;
    a.sql("INSERT INTO orders VALUES (1, 'won', '2026-06-01 12:00', 'x')").await;
    b.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(20), at timestamp(6) NULL, person varchar(100))").await;
    b.sql("CREATE TABLE shown (id int NOT NULL PRIMARY KEY, status varchar(20))").await;
    let folder = tempfile::tempdir().expect("folder");
    let key = folder.path().join("key");
    let text = |zone: &str, won: &str, other: &str| {
        let head = head(folder.path(), &a, &b).replace(
            "name = \"test\"\n",
            &format!("name = \"test\"\nmask_key = {{ file = {:?} }}\n", key.display().to_string()),
        );
        format!(
            "{head}[defaults]\ntime_zone = \"{zone}\"\n[[mappings]]\nfrom = \"a.orders\"\nto = \"b.orders\"\n\
             columns = {{ id = \"id\", status = \"dictionary('state', status)\", at = \"at\", person = \"mask(person, 'hash')\" }}\n\
             [[mappings]]\nfrom = \"a.shown\"\nto = \"b.shown\"\ntracks = {{ 'a.orders' = \"id\" }}\n\
             columns = {{ id = \"id\", status = \"dictionary('state', status)\" }}\n\
             [dictionaries.state]\nwon = \"{won}\"\n[dictionaries.other]\nx = \"{other}\"\n"
        )
    };
    let keyed = |word: &str| std::fs::write(&key, word.repeat(8)).expect("key");
    keyed("first");
    let mut daemon = started(folder.path(), &text("Asia/Shanghai", "yes", "1")).await;
    equal(&daemon, (&a, "SELECT 1, 'yes'"), (&b, "SELECT id, status FROM shown")).await;
    let notes = |flows: &[serde_json::Value]| flows[0]["mappings"][0]["notes"].to_string();
    let reload = |daemon: &Daemon, zone: &str, won: &str, other: &str| {
        std::fs::write(folder.path().join("tidelock.toml"), text(zone, won, other)).expect("file");
        let (code, said) = daemon.command(&["reload"]);
        assert_eq!(code, 0, "{said}");
    };
    // Neither a start nor a dictionary that it does not use makes other rows of it.
    daemon.kill_and_start();
    daemon.streaming().await;
    reload(&daemon, "Asia/Shanghai", "yes", "2");
    daemon.streaming().await;
    assert_eq!(notes(&daemon.flows()), "[]");
    for (zone, won, word) in [
        ("Asia/Shanghai", "true", "first"),
        ("Europe/Berlin", "true", "first"),
        ("Europe/Berlin", "true", "other"),
    ] {
        keyed(word);
        reload(&daemon, zone, won, "2");
        daemon
            .wait(&format!("a note, {zone} {won} {word}"), SOON, |flows| {
                notes(flows).contains("mask key behind them")
            })
            .await;
        equal(&daemon, (&a, "SELECT 1, 'true'"), (&b, "SELECT id, status FROM shown")).await;
        let (code, said) = daemon.command(&["resync", "orders"]);
        assert_eq!(code, 0, "{said}");
        daemon.wait("no note", SOON, |flows| notes(flows) == "[]").await;
        let at = if zone == "Asia/Shanghai" { "04" } else { "10" };
        let want = format!("SELECT 1, 'true', '2026-06-01 {at}:00:00.000000'");
        equal(&daemon, (&a, &want), (&b, "SELECT id, status, at FROM orders")).await;
        // A resync that has not ended brings what the file says by then, and nothing is noted.
        daemon.streaming().await;
    }
    daemon.stop();
}

/// Whoever prepared a transaction and left it keeps a dictionary from being read: it is named where a person looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_a_dictionary_waits_for_is_named() {
    let (a, b) = (Side::new(false).await, Side::new(true).await);
    for sql in [
        "CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(20))",
        "CREATE TABLE code_map (code varchar(20) NOT NULL PRIMARY KEY, meaning varchar(20) NOT NULL)",
        "CREATE TABLE apart (id int NOT NULL PRIMARY KEY)",
        "INSERT INTO code_map VALUES ('won', 'confirmed')",
    ] {
        a.sql(sql).await;
    }
    b.sql("CREATE TABLE orders (id int NOT NULL PRIMARY KEY, status varchar(20))").await;
    let folder = tempfile::tempdir().expect("folder");
    let text = r#"
[[mappings]]
from = "a.orders"
to = "b.orders"
columns = { id = "id", status = "dictionary('state', status)" }
[dictionaries.state]
table = "a.code_map"
key = "code"
value = "meaning"
"#;
    let mut daemon = started(folder.path(), &(head(folder.path(), &a, &b) + text)).await;
    a.sql("XA START 'left','it'; INSERT INTO apart VALUES (1); XA END 'left','it'; XA PREPARE 'left','it'").await;
    daemon.kill_and_start();
    a.sql("INSERT INTO orders VALUES (1, 'won')").await;
    let notes = |flows: &[serde_json::Value]| flows[0]["mappings"][0]["notes"].to_string();
    let named = |flows: &[serde_json::Value]| {
        flows[0]["state"] == "starting"
            && notes(flows).contains("dictionary state waits")
            && notes(flows).contains("'left','it'")
    };
    daemon.wait("named", SOON, named).await;
    let (_, said) = daemon.command(&["status"]);
    assert!(said.contains("'left','it'"), "{said}");
    a.sql("XA ROLLBACK 'left','it'").await;
    daemon.streaming().await;
    daemon.wait("no more", SOON, |flows| notes(flows) == "[]").await;
    equal(&daemon, (&a, "SELECT 1, 'confirmed'"), (&b, "SELECT id, status FROM orders")).await;
    daemon.stop();
}
