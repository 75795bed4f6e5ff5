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
    _b: Side,
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
    Field { a, _b: b, config, _folder: folder }
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
    viewed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_is_not_there_or_cannot_run_is_told_instead() {
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
