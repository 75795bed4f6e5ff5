//! What a person is shown of a mapping: its plan, and real rows before and after.

use std::path::PathBuf;

use serde_json::Value;

use super::daemon::command;
use super::snapshot::Side;

/// Orders with lines and customers, and a view of them.
const SOURCE: &[&str] = &[
    "CREATE TABLE customer (id int NOT NULL PRIMARY KEY, name varchar(60) NOT NULL, email varchar(60), secret varchar(60))",
    "CREATE TABLE orders (id int NOT NULL PRIMARY KEY, customer int NOT NULL, code varchar(40), status varchar(20) NOT NULL, \
     amount decimal(12,2) NOT NULL, tax decimal(5,4), other int)",
    "CREATE VIEW account AS SELECT c.id AS customer_id, c.name AS name, \
     (SELECT count(*) FROM orders o WHERE o.customer = c.id) AS orders FROM customer c",
];
const TARGET: &[&str] = &[
    "CREATE TABLE contract (id int NOT NULL PRIMARY KEY, code varchar(60), state varchar(20) NOT NULL, \
     total decimal(14,2) NOT NULL, active smallint NOT NULL)",
    "CREATE TABLE account (party int NOT NULL PRIMARY KEY, label varchar(60) NOT NULL, orders int)",
];
const MAPPED: &str = r#"
[[mappings]]
name = "orders"
from = "a.orders"
to = "b.contract"
where = "status <> 'draft'"
on_change = ["status", "amount"]
on_delete = { set = { active = "0" } }
validate = [{ rule = "amount < 1000000", says = "amount" }]
[mappings.columns]
id = "id"
code = { value = "code", on_unrepresentable = "clamp" }
state = "dictionary('status', status, 'unknown')"
total = "round(amount * (1 + coalesce(tax, 0.13)), 2)"
active = "1"
[[mappings]]
name = "accounts"
from = "a.account"
to = "b.account"
key = ["party"]
after = ["orders"]
columns = { party = "customer_id", label = "upper(name)", orders = "orders" }
[mappings.tracks]
'a.customer' = { column = "id", on_change = ["name"] }
'a.orders' = { keys = "SELECT customer FROM orders WHERE id IN (:id)" }
[dictionaries.status]
won = "confirmed"
lost = "cancelled"
"#;

struct Field {
    a: Side,
    b: Side,
    config: PathBuf,
    _folder: tempfile::TempDir,
}

async fn field(postgres_source: bool) -> Field {
    let (a, b) = (Side::new(postgres_source).await, Side::new(!postgres_source).await);
    for sql in SOURCE {
        a.sql(sql).await;
    }
    for sql in TARGET {
        b.sql(sql).await;
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url()), ("b", b.url())];
    let text = super::config(folder.path(), &systems, &[]) + MAPPED;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, text).expect("config");
    Field { a, b, config, _folder: folder }
}

const ORDERS: &str = "\
mapping orders (flow a:b)
  source    table public.orders at a, read by (id)
  target    table db.contract at b, key (id)
  first copy in pieces by (id)
  columns
    active  smallint(6) NOT NULL    <- 1
        integer, never NULL
          1
    code    varchar(60)             <- code character varying(40), what does not fit: clamp
    id      int(11) NOT NULL (key)  <- id integer NOT NULL
    state   varchar(20) NOT NULL    <- dictionary('status', status, 'unknown')
        text, never NULL
          dictionary 'status'
            status (text)
            default
              'unknown'
    total   decimal(14,2) NOT NULL  <- round(amount * (1 + coalesce(tax, 0.13)), 2)
        numeric, never NULL
          round
            * (numeric)
              amount (numeric)
              + (numeric)
                1
                coalesce
                  tax (numeric)
                  0.13
            2
  where     status <> 'draft'
        boolean, never NULL
          <>
            status (text)
            'draft'
  validate  amount < 1000000  amount
        boolean, never NULL
          <
            amount (numeric)
            1000000
  dictionary status
  changes
    insert of public.orders: a row that meets `where` is upserted into db.contract
    update of public.orders: a row that meets `where` before and after is upserted into db.contract if status or amount changes; one that enters is upserted into db.contract; one that leaves is marked in db.contract (active = 0)
    delete of public.orders: a row that met `where` is marked in db.contract (active = 0)
    truncate of public.orders: the mapping stops
  warning: mapping orders: on_change: the log of public.orders does not carry old values, so every update passes for a change
    set REPLICA IDENTITY FULL (PostgreSQL)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_of_a_table_is_explained_to_the_last_step_of_its_expressions() {
    // Its words are MariaDB's.
    if super::is_mysql() {
        return;
    }
    let field = field(true).await;
    let (code, said) = command(&field.config, &["check", "--explain", "orders"]);
    assert_eq!((code, &*said), (0, ORDERS), "{said}");
    let (code, said) = command(&field.config, &["check", "--explain", "a:b/orders", "--json"]);
    let value: Value = serde_json::from_str(&said).expect("json");
    let mapping = &value["mappings"][0];
    assert_eq!((code, mapping["flow"].as_str()), (0, Some("a:b")), "{said}");
    assert_eq!(mapping["target"]["key"][0], "id");
    let total =
        mapping["columns"].as_array().and_then(|c| c.iter().find(|c| c["column"] == "total"));
    let total = total.expect("total");
    assert_eq!((&total["type"], &total["from_type"]), (&"decimal(14,2)".into(), &"numeric".into()));
    assert_eq!(mapping["dictionaries"][0]["name"], "status");
}

/// A view, and what reading it again costs.
async fn viewed(postgres_source: bool) {
    let field = field(postgres_source).await;
    let (code, said) = command(&field.config, &["check", "--explain", "accounts"]);
    assert_eq!(code, 0, "{said}");
    let (ours, theirs) = if postgres_source { ("public", "db") } else { ("db", "public") };
    for words in [
        format!("source    view {ours}.account at a, read by (customer_id)"),
        format!("track   {ours}.customer: customer_id = id; if name changes"),
        format!("track   {ours}.orders: SELECT customer FROM orders WHERE id IN (:id)"),
        format!("target    table {theirs}.account at b, key (party)"),
        "after     orders".to_owned(),
        "<- upper(name)\n        text".to_owned(),
        format!(
            "insert, update, delete of {ours}.orders: {ours}.account is read again for the customer_id of the old and of the new row; what is found is upserted into {theirs}.account"
        ),
    ] {
        assert!(said.contains(&words), "{words} not in {said}");
    }
    assert!(!said.contains("the server reads all of"), "{said}");
    // Nothing leads from a customer to its orders.
    let numbers = match postgres_source {
        true => "generate_series(1, 20000) AS s (seq)",
        false => "seq_1_to_20000",
    };
    field.a.sql(&format!("INSERT INTO customer SELECT seq, 'n', NULL, NULL FROM {numbers}")).await;
    field
        .a
        .sql(&format!("INSERT INTO orders SELECT seq, seq, 'c', 'won', 1, NULL, 1 FROM {numbers}"))
        .await;
    let analyze = if postgres_source { "ANALYZE" } else { "ANALYZE TABLE orders, customer" };
    match &field.a {
        Side::Pg(server) => server.sql("db", analyze).await.expect("analyze"),
        Side::My(server) => {
            server.rows("db", analyze).await.expect("analyze");
        }
    }
    for args in [&["check"][..], &["check", "--explain", "accounts"]] {
        let (code, said) = command(&field.config, args);
        // MariaDB calls it as the view does.
        let name = if postgres_source { "public.orders" } else { "o" };
        let warned = format!("the server reads all of {name}, about ");
        assert!(code == 0 && said.contains("warning: mapping accounts: "), "{said}");
        assert!(said.contains(&warned) && said.contains("from = \"a.account\"\n"), "{said}");
    }
    field.a.sql("CREATE INDEX by_customer ON orders (customer)").await;
    let (_, said) = command(&field.config, &["check"]);
    assert!(!said.contains("the server reads all of"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_postgres_is_explained_and_what_reading_it_again_costs_is_told() {
    viewed(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_mariadb_is_explained_and_what_reading_it_again_costs_is_told() {
    // Its words are MariaDB's.
    if super::is_mysql() {
        return;
    }
    viewed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_not_there_or_cannot_run_is_told_instead() {
    // Its words are MariaDB's.
    if super::is_mysql() {
        return;
    }
    let field = field(true).await;
    let (code, said) = command(&field.config, &["check", "--explain", "acounts"]);
    assert_eq!(
        (code, &*said),
        (2, "error[TL0010]: no mapping is named acounts\nhint: did you mean `accounts`?\n")
    );
    let text = std::fs::read_to_string(&field.config).expect("config");
    std::fs::write(&field.config, text.replace("upper(name)", "upper(nmae)")).expect("config");
    let (code, said) = command(&field.config, &["check", "--explain", "accounts"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.starts_with("mapping accounts (flow a:b) cannot run\n  problem: "), "{said}");
    assert!(said.contains("label = \"upper(nmae)\"") && said.contains("^^^^"), "{said}");
    // The other one can.
    let (code, said) = command(&field.config, &["check", "--explain", "orders"]);
    assert_eq!((code, &*said), (0, ORDERS));
}

/// Everything that is in a server's database, and what its log holds.
async fn traces(side: &Side) -> String {
    match side {
        Side::Pg(server) => {
            let schemas = "SELECT string_agg(schemaname || '.' || relname, ' ' ORDER BY 1) FROM pg_stat_user_tables";
            let slots = "SELECT count(*) FROM pg_replication_slots";
            let written = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables";
            let one = async |sql| server.one("db", sql).await.expect("one");
            format!("{} {} {}", one(schemas).await, one(slots).await, one(written).await)
        }
        Side::My(server) => super::logged(server).await,
    }
}

async fn tested(postgres_source: bool) {
    let field = field(postgres_source).await;
    for row in [
        "(1, 7, 'a', 'won', 100, NULL, 0)",
        "(2, 7, NULL, 'draft', 5, 0.5, 0)",
        "(3, 8, 'c', 'odd', 2000000, 0, 0)",
        "(4, 8, 'd', 'lost', 10, 0.0825, 0)",
    ] {
        field.a.sql(&format!("INSERT INTO orders VALUES {row}")).await;
    }
    field.a.sql("INSERT INTO customer VALUES (7, 'seven', NULL, 'S3CRET')").await;
    let before = (traces(&field.a).await, traces(&field.b).await);
    let (code, said) = command(&field.config, &["map", "test", "orders"]);
    let (ours, theirs) = if postgres_source { ("public", "db") } else { ("db", "public") };
    let expected = format!(
        "\
mapping orders (flow a:b): {ours}.orders at a to {theirs}.contract at b

row 1: sent
                   ->  active = 1    1
  code = 'a'       ->  code = 'a'
  id = 1           ->  id = 1
  status = 'won'   ->  state = 'confirmed'    dictionary('status', status, 'unknown')
  amount = 100.00  ->  total = 113.00    round(amount * (1 + coalesce(tax, 0.13)), 2)
  tax = NULL

row 2: left out by `where`
  code = NULL
  id = 2
  status = 'draft'
  amount = 5.00
  tax = 0.5000

row 3: cannot be sent
  code = 'c'
  id = 3
  status = 'odd'
  amount = 2000000.00
  tax = 0.0000
  error[TL0213]: {ours}.orders: a row is not valid: amount
  hint: mend the row at the source, or the rule in the configuration

row 4: sent
                   ->  active = 1    1
  code = 'd'       ->  code = 'd'
  id = 4           ->  id = 4
  status = 'lost'  ->  state = 'cancelled'    dictionary('status', status, 'unknown')
  amount = 10.00   ->  total = 10.83    round(amount * (1 + coalesce(tax, 0.13)), 2)
  tax = 0.0825

4 rows read: 2 sent, 1 left out, 1 failed; nothing was written
"
    );
    assert_eq!((code, &*said), (1, &*expected), "{said}");
    let (code, said) = command(&field.config, &["map", "test", "orders", "--rows", "1", "--json"]);
    let value: Value = serde_json::from_str(&said).expect("json");
    assert_eq!(code, 0, "{said}");
    let rows = value["mappings"][0]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{said}");
    assert_eq!(
        (&rows[0]["outcome"], &rows[0]["after"]["total"]),
        (&"sent".into(), &"113.00".into())
    );
    assert_eq!(rows[0]["before"]["tax"], Value::Null);
    // A view, and nothing of what it does not read.
    let (code, said) = command(&field.config, &["map", "test", "accounts"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("name = 'seven'   ->  label = 'SEVEN'    upper(name)"), "{said}");
    assert!(!said.contains("S3CRET"), "{said}");
    assert_eq!((traces(&field.a).await, traces(&field.b).await), before);
    let (code, said) = command(&field.config, &["map", "test", "order"]);
    assert!(code == 2 && said.contains("did you mean `orders`?"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_postgres_are_shown_before_and_after_and_nothing_is_written() {
    tested(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_mariadb_are_shown_before_and_after_and_nothing_is_written() {
    tested(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_up_is_named_and_left_open() {
    let field = field(true).await;
    field
        .b
        .sql("CREATE TABLE state (id int NOT NULL PRIMARY KEY, code varchar(20) NOT NULL UNIQUE)")
        .await;
    field.a.sql("INSERT INTO orders VALUES (1, 7, 'a', 'won', 100, NULL, 0)").await;
    let text = std::fs::read_to_string(&field.config).expect("config").replace(
        "active = \"1\"",
        "active = \"coalesce(lookup('b.state', 'code', status, 'id'), 0)\"",
    );
    std::fs::write(&field.config, text).expect("config");
    let (code, said) = command(&field.config, &["check", "--explain", "orders"]);
    assert!(code == 0 && said.contains("  lookup    id of b.state by (code)\n"), "{said}");
    assert!(said.contains("lookup in b.state\n"), "{said}");
    let (code, said) = command(&field.config, &["map", "test", "orders"]);
    assert!(code == 0 && said.contains("active = (looked up when it is written)"), "{said}");
    let (code, said) = command(&field.config, &["map", "test", "orders", "--json"]);
    let value: Value = serde_json::from_str(&said).expect("json");
    let row = &value["mappings"][0]["rows"][0];
    assert_eq!((code, &row["looked_up_when_written"][0]), (0, &"active".into()), "{said}");
    assert_eq!(row["after"].get("active"), None, "{said}");
    // The key of a lookup leaves the source.
    let (code, said) = command(&field.config, &["check", "--exposure"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("-> b.state (asked for)"), "{said}");
}
