//! Rows of tables and views read again by key, and the keys that a track's query gives.

use std::time::Instant as Clock;

use tidelock_core::{
    Code, Copier, CopyTable, DataType, ErrorKind, Key, KeyRange, Position, Result, Row, TableKind,
    TableName, TrackQuery, TransactionId, Value,
};

use crate::field::Field;
use crate::writer::{INT, text};

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn view(name: &str, columns: &str, key: &str) -> CopyTable {
    let name = TableName::new("public", name);
    CopyTable { name, columns: words(columns), key: words(key), filter: None }
}

fn keys<const N: usize>(list: impl IntoIterator<Item = [Value; N]>) -> Vec<Key> {
    list.into_iter().map(|key| Key::from(key.to_vec())).collect()
}

async fn opened(field: &Field) -> Box<dyn Copier> {
    let mut copier = field.connector.copier().await.expect("copier");
    assert!(copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").is_some());
    copier
}

/// The rows of some keys, sorted by their text.
async fn read(
    copier: &mut Box<dyn Copier>,
    wanted: &CopyTable,
    keys: &[Key],
) -> Result<Vec<String>> {
    let piece = copier.read_keys(wanted, &wanted.key, keys, usize::MAX).await?;
    assert!(!piece.cut && piece.bytes >= piece.rows.len());
    let names: Vec<&String> = piece.table.columns.iter().map(|c| &c.name).collect();
    assert_eq!(names, wanted.columns.iter().collect::<Vec<_>>());
    let mut rows: Vec<String> = piece.rows.iter().map(shown).collect();
    rows.sort();
    Ok(rows)
}

fn shown(row: &Row) -> String {
    let cell = |v: &Value| tidelock_core::form::text(v).map_or("-".to_owned(), |t| t.into_owned());
    row.0.iter().map(cell).collect::<Vec<_>>().join(" ")
}

const SHOP: &str = "\
    CREATE TABLE party (id int PRIMARY KEY, name text, country smallint); \
    CREATE TABLE address (id bigint PRIMARY KEY, party int, city varchar(20)); \
    CREATE TABLE line (ord int, no smallint, qty numeric(10,2), PRIMARY KEY (ord, no)); \
    CREATE VIEW account AS SELECT p.id AS party_id, p.name, a.city FROM party p \
      LEFT JOIN address a ON a.party = p.id; \
    CREATE VIEW wide AS SELECT id::bigint AS id, name::varchar(30) AS name FROM party; \
    CREATE VIEW total AS SELECT ord, sum(qty) AS qty, count(*) AS n FROM line GROUP BY ord; \
    CREATE VIEW lines AS SELECT l.ord AS o, l.no AS n, l.qty FROM line l JOIN party p ON p.id = l.ord; \
    INSERT INTO party VALUES (1, 'one', 1), (2, 'two', 2), (3, NULL, 1), (2147483647, 'max', NULL); \
    INSERT INTO address VALUES (10, 1, 'Köln'), (11, 1, 'Ulm'), (12, 2, NULL); \
    INSERT INTO line VALUES (1, 1, 1), (1, 2, 2.5), (2, 1, 4), (3, 3, 9);";

#[tokio::test]
async fn a_key_gives_no_row_one_or_a_group_and_each_row_once() {
    let field = Field::new(SHOP).await;
    let mut copier = opened(&field).await;
    let account = view("account", "name party_id city", "party_id");
    for (asked, expected) in [
        (keys([[INT(1)]]), vec!["one 1 Köln", "one 1 Ulm"]),
        (keys([[INT(2)], [INT(2)], [INT(9)]]), vec!["two 2 -"]),
        (keys([[INT(9)]]), vec![]),
        (keys([[Value::Null]]), vec![]),
        (Vec::new(), vec![]),
        // Of another type, and where no row can be.
        (
            keys([[Value::UInt(3)], [Value::Decimal("2.00".into())], [text("1")]]),
            vec!["- 3 -", "one 1 Köln", "one 1 Ulm", "two 2 -"],
        ),
        (
            keys([[INT(2_147_483_647)], [INT(2_147_483_648)], [INT(i64::MIN)], [text("x")]]),
            vec!["max 2147483647 -"],
        ),
    ] {
        assert_eq!(read(&mut copier, &account, &asked).await.expect("rows"), expected, "{asked:?}");
    }
    let wide = view("wide", "id name", "id");
    assert_eq!(read(&mut copier, &wide, &keys([[INT(1)]])).await.expect("rows"), ["1 one"]);
    // A cast to the column's own type would cut it to a name that is there.
    let wide = view("wide", "id name", "name");
    let long = format!("one{}", " ".repeat(40));
    let asked = keys([[text(&long)], [text("two")], [text("TWO")], [text("x'y\\\"{},")]]);
    assert_eq!(read(&mut copier, &wide, &asked).await.expect("rows"), ["2 two"]);
    let total = view("total", "ord qty n", "ord");
    let asked = keys([[INT(1)], [INT(3)], [INT(4)]]);
    assert_eq!(read(&mut copier, &total, &asked).await.expect("rows"), ["1 3.50 2", "3 9.00 1"]);
    let lines = view("lines", "o n qty", "o n");
    let asked = keys([[INT(1), INT(2)], [INT(2), INT(2)], [INT(3), INT(3)], [INT(1), Value::Null]]);
    assert_eq!(read(&mut copier, &lines, &asked).await.expect("rows"), ["1 2 2.50", "3 3 9.00"]);
    // A table is read so as well, and a filter holds.
    let party = CopyTable {
        filter: Some("country = 1 OR name = 'two'".into()),
        ..view("party", "id", "id")
    };
    let asked = keys([[INT(1)], [INT(2)], [INT(3)], [INT(2_147_483_647)]]);
    assert_eq!(read(&mut copier, &party, &asked).await.expect("rows"), ["1", "2", "3"]);
    let day = keys([[Value::Date(tidelock_core::Date(0))]]);
    let error = read(&mut copier, &account, &day).await.expect_err("another kind");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::Catalog), "{error}");
}

#[tokio::test]
async fn a_key_is_present_only_as_it_is_written() {
    let field = Field::new(
        "CREATE EXTENSION citext; \
         CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE a (k citext PRIMARY KEY); CREATE TABLE b (k text COLLATE ci PRIMARY KEY); \
         INSERT INTO a VALUES ('ABC'), ('x'); INSERT INTO b VALUES ('ABC'), ('x')",
    )
    .await;
    let mut copier = opened(&field).await;
    for table in ["a", "b"] {
        let asked = keys(["abc", "ABC", "x", "X"].map(|key| [text(key)]));
        let found = copier.present(&view(table, "k", "k"), &asked).await.expect(table);
        assert_eq!(found, [false, true, true, false], "{table}");
    }
}

#[tokio::test]
async fn texts_are_compared_as_the_column_compares_them() {
    let field = Field::new(
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'it''s'); CREATE DOMAIN code AS text CHECK (value <> 'no'); \
         CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         CREATE TABLE t (a citext PRIMARY KEY, b text COLLATE ci, c char(5), d mood, e uuid, f code, g bytea, \
           h timestamptz, i numeric(6,2)); \
         CREATE VIEW v AS SELECT * FROM t; \
         INSERT INTO t VALUES ('Alpha', 'Straße', 'x', 'sad', '00112233-4455-6677-8899-aabbccddeeff', 'yes', \
           '\\x00ff', '2024-02-29 12:00+00', 1.50)",
    )
    .await;
    let mut copier = opened(&field).await;
    let bytes = Value::Bytes(vec![0, 255].into());
    let at = Value::Instant(tidelock_core::Instant(1_709_208_000_000_000));
    for (column, value, found) in [
        ("a", text("ALPHA"), true),
        ("a", text("beta"), false),
        ("b", text("STRASSE"), false),
        ("b", text("straße"), true),
        ("c", text("x"), true),
        ("c", text("x    "), true),
        ("d", Value::Enum("sad".into()), true),
        ("d", text("it's"), false),
        ("d", text("unknown"), false),
        ("e", text("00112233445566778899AABBCCDDEEFF"), true),
        ("f", text("yes"), true),
        ("f", text("no"), false),
        ("g", bytes, true),
        ("h", at, true),
        ("i", Value::Decimal("1.5".into()), true),
        ("i", Value::Decimal("1.504".into()), false),
    ] {
        let wanted = view("v", "a b c d e f g h i", column);
        let asked = keys([[value.clone()], [value.clone()]]);
        let rows = read(&mut copier, &wanted, &asked).await.expect("rows");
        assert_eq!(rows.len(), usize::from(found), "{column} = {value:?}");
    }
    // Both are equal to the one row, by each column's own operator.
    let wanted = view("v", "a", "a c");
    let asked =
        keys([[text("alpha"), text("x")], [text("ALPHA"), text("x ")], [text("alpha"), text("y")]]);
    assert_eq!(read(&mut copier, &wanted, &asked).await.expect("rows"), ["Alpha"]);
}

#[tokio::test]
async fn a_view_gives_the_values_that_its_table_gives() {
    let columns = "id b s i8 n1 n2 f4 f8 t v c y d ti ts tz iv u j jb e ar r ip bi m";
    let field = Field::new(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); \
         CREATE TABLE zoo (id int PRIMARY KEY, b bool, s smallint, i8 bigint, n1 numeric, n2 numeric(8,3), f4 real, \
           f8 double precision, t text, v varchar(9), c char(4), y bytea, d date, ti time(3), ts timestamp, tz timestamptz, \
           iv interval, u uuid, j json, jb jsonb, e mood, ar int[], r int4range, ip inet, bi bit(3), m money); \
         CREATE VIEW v AS SELECT * FROM zoo; \
         INSERT INTO zoo VALUES (1, true, -3, 9007199254740993, 1.10, 2.5, 1.1, 0.1, E'a\\tb\\\\', 'é', 'ab', '\\x00ff', \
           '0044-03-15 BC', '12:34:56.789', 'infinity', '2024-02-29 12:00+02', '1 mon -2 days', \
           '00112233-4455-6677-8899-aabbccddeeff', '{\"a\":1.0}', '{\"a\":1.0}', 'ok', '{1,NULL}', '[1,3)', '10.0.0.0/8', \
           '101', -12.34); INSERT INTO zoo VALUES (2)",
    )
    .await;
    let mut copier = opened(&field).await;
    let everything = KeyRange { after: None, upto: None };
    let table = view("zoo", columns, "id");
    let plain = copier.read(&table, &everything, usize::MAX).await.expect("the table");
    let wanted = view("v", columns, "id");
    let asked = keys([[INT(1)], [INT(2)]]);
    let mut keyed =
        copier.read_keys(&wanted, &wanted.key, &asked, usize::MAX).await.expect("the view").rows;
    keyed.sort_by_key(shown);
    let copied = copier.read(&wanted, &everything, usize::MAX).await.expect("the view");
    assert_eq!(plain.rows.len(), 2);
    assert_eq!(keyed, plain.rows);
    assert_eq!(copied.rows, plain.rows);
    let types = |piece: &tidelock_core::Piece| -> Vec<DataType> {
        piece.table.columns.iter().map(|c| c.data_type.clone()).collect()
    };
    assert_eq!(types(&copied), types(&plain));
    for column in ["ar", "j"] {
        let wanted = view("v", "id", column);
        let error =
            read(&mut copier, &wanted, &keys([[text("{1,NULL}")]])).await.expect_err(column);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::Catalog), "{error}");
    }
    copier.close_snapshot().await.expect("closed");
    let error = read(&mut copier, &wanted, &asked).await.expect_err("no snapshot");
    assert_eq!(error.kind(), ErrorKind::Bug);
    // What was read may be altered and dropped now.
    field
        .sql("SET lock_timeout = '5s'; DROP VIEW v; CREATE VIEW public.v AS SELECT * FROM zoo")
        .await;
    let catalog = field.connector.catalog(&["public".into()]).await.expect("catalog");
    let found = |name: &str| catalog.iter().find(|t| t.name.name == name).expect("listed");
    assert_eq!(found("v").kind, TableKind::View);
    assert!(found("v").refusals.is_empty() && found("v").unique_indexes.is_empty());
    for (of_view, of_table) in found("v").columns.iter().zip(&found("zoo").columns) {
        assert_eq!(of_view.data_type, of_table.data_type);
        assert!(of_view.nullable);
    }
}

#[tokio::test]
async fn materialized_views_are_told_apart_and_refused() {
    let field =
        Field::new("CREATE VIEW v AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a")
            .await;
    let catalog = field.connector.catalog(&["public".into()]).await.expect("catalog");
    let m = catalog.iter().find(|t| t.name.name == "m").expect("listed");
    assert_eq!(m.kind, TableKind::Other);
    assert!(m.refusals.iter().any(|r| r.contains("materialized")), "{:?}", m.refusals);
}

#[tokio::test]
async fn rows_are_read_in_a_snapshot_that_shows_what_was_delivered() {
    let field = Field::new(SHOP).await;
    let account = view("account", "name", "party_id");
    let asked = keys([[INT(1)], [INT(7)]]);
    let client = field.server.client("erp").await.expect("client");
    client.batch_execute("BEGIN; INSERT INTO party VALUES (7, 'new', 1)").await.expect("insert");
    let row = client.query_one("SELECT pg_current_xact_id()::text", &[]).await.expect("number");
    let id = TransactionId(row.get::<_, String>(0).parse().expect("a number"));
    let mut copier = field.connector.copier().await.expect("copier");
    let start = Position::new("0/1");
    assert!(
        copier.snapshot(&start, &[id]).await.expect("snapshot").is_none(),
        "it is not shown yet"
    );
    let error = read(&mut copier, &account, &asked).await.expect_err("no snapshot");
    assert_eq!(error.kind(), ErrorKind::Bug);
    let mut copier = opened(&field).await;
    client.batch_execute("COMMIT").await.expect("commit");
    let before = read(&mut copier, &account, &asked).await.expect("rows");
    assert_eq!(before, ["one", "one"], "the snapshot is older");
    assert!(copier.snapshot(&start, &[id]).await.expect("snapshot").is_some());
    assert_eq!(read(&mut copier, &account, &asked).await.expect("rows"), ["new", "one", "one"]);
    // And nothing is written in it.
    field.sql("CREATE FUNCTION public.bad() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO public.party VALUES (8) RETURNING 1'").await;
    let query = TrackQuery::parse("SELECT bad()").expect("a query");
    let error = copier.track_keys(&query, &[]).await.expect_err("it would write");
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(field.one("SELECT count(*) FROM party WHERE id = 8").await, "0");
}

#[tokio::test]
async fn a_tracks_query_gives_each_key_once() {
    let field = Field::new(&format!(
        "{SHOP} CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'it''s'); \
         CREATE TABLE odd (k int, a citext, m mood, \"Order No\" varchar(9)); \
         INSERT INTO odd VALUES (1, 'Xa', 'sad', 'A''1'), (2, 'Xb', 'it''s', NULL), (NULL, 'Xa', NULL, 'B')"
    ))
    .await;
    let mut copier = opened(&field).await;
    let int = |bits| DataType::Int { bits, unsigned: false };
    let words = DataType::Text {
        chars_max: None,
        bytes_max: None,
        repertoire: tidelock_core::Repertoire::Unicode,
        padded: false,
    };
    let mood = DataType::Enum { labels: vec!["sad".to_owned(), "it's".to_owned()].into() };
    let mut ask = async |sql: &str, values: &[(&str, DataType, Vec<Value>)]| {
        let query = TrackQuery::parse(sql).expect(sql);
        let values: Vec<_> =
            values.iter().map(|(n, t, v)| ((*n).to_owned(), t.clone(), v.clone())).collect();
        let keys = copier.track_keys(&query, &values).await.expect(sql);
        let mut keys: Vec<String> = keys.into_iter().map(|k| shown(&Row(k))).collect();
        keys.sort();
        keys
    };
    let ids = ("id", int(32), vec![INT(1), INT(1), Value::Null, Value::Unchanged, INT(-5)]);
    let by_party = "SELECT party FROM address WHERE party IN (:id) -- :nothing";
    assert_eq!(ask(by_party, std::slice::from_ref(&ids)).await, ["1"]);
    let none = ("id", int(32), vec![Value::Null]);
    assert!(ask(by_party, std::slice::from_ref(&none)).await.is_empty());
    let either = "SELECT ord, no FROM line WHERE ord IN (:id) OR no = ANY (ARRAY[:no]) ;";
    assert_eq!(ask(either, &[none.clone(), ("no", int(16), vec![INT(3)])]).await, ["3 3"]);
    assert!(ask(either, &[none, ("no", int(16), vec![])]).await.is_empty());
    let citext = ("a", words.clone(), vec![text("xA"), text("XB"), text("c'\\")]);
    assert_eq!(ask("SELECT k FROM odd WHERE a IN (:a)", &[citext]).await, ["1", "2"]);
    let moods = ("m", mood, vec![Value::Enum("it's".into())]);
    assert_eq!(ask("SELECT k, a FROM odd WHERE m IN (:m)", &[moods]).await, ["2 Xb"]);
    let odd = ("Order No", words, vec![text("A'1"), text("B")]);
    assert_eq!(
        ask("SELECT k FROM public.odd WHERE \"Order No\" IN (:\"Order No\")", &[odd]).await,
        ["1"],
        "a NULL is no key"
    );
    let with = "WITH x AS (SELECT p.id FROM party p WHERE p.country IN (:id)) SELECT id FROM x";
    assert_eq!(ask(with, &[ids]).await, ["1", "3"]);
}

#[tokio::test]
async fn a_tracks_query_is_described_and_refused_in_the_servers_words() {
    let field =
        Field::new(&format!("{SHOP} CREATE DOMAIN code AS varchar(4); CREATE TABLE c (a code)"))
            .await;
    let describe = async |sql: &str| {
        let query = TrackQuery::parse(sql).expect(sql);
        let types = [("id".to_owned(), DataType::Int { bits: 32, unsigned: false })];
        field.connector.describe_query(&query, &types).await
    };
    let columns = describe(
        "SELECT party, city AS \"the City\", id FROM address WHERE party IN (:id) UNION SELECT NULL, a, NULL FROM c",
    )
    .await
    .expect("columns");
    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["party", "the City", "id"]);
    assert_eq!(columns[0].data_type, DataType::Int { bits: 32, unsigned: false });
    assert!(matches!(columns[1].data_type, DataType::Text { .. }));
    assert_eq!(columns[2].data_type, DataType::Int { bits: 64, unsigned: false });
    for (sql, said) in [
        ("SELECT party FROM adress WHERE party IN (:id)", "adress"),
        ("SELECT partie FROM address", "partie"),
        ("SELECT party FROM address WHERE city IN (:id)", "operator"),
        ("WITH x AS (DELETE FROM party RETURNING id) SELECT id FROM x", "top level"),
        ("SELECT FROM WHERE", "syntax error"),
        ("SELECT 1 INTO other", "INTO"),
    ] {
        let error = describe(sql).await.expect_err(sql);
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Data, Code::Catalog),
            "{sql}: {error}"
        );
        assert!(error.message().contains(said), "{sql}: {error}");
    }
    let query = TrackQuery::parse("SELECT 1 WHERE 1 IN (:other)").expect("a query");
    assert!(field.connector.describe_query(&query, &[]).await.is_err());
    assert_eq!(field.one("SELECT count(*) FROM party").await, "4");
}

#[tokio::test]
async fn what_a_view_runs_into_is_about_its_mapping_alone() {
    let field = Field::new(&format!(
        "{SHOP} CREATE VIEW broken AS SELECT id, 10 / (id - 2) AS x, name::int AS y FROM party; \
         CREATE ROLE poor LOGIN; GRANT SELECT ON wide TO poor"
    ))
    .await;
    let url = field.server.url("erp").replace("tidelock@", "poor@");
    let poor = tidelock_postgres::connector(crate::field::config(&url)).expect("connector");
    let mut low = poor.copier().await.expect("copier");
    low.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
    let one = keys([[INT(2)]]);
    assert_eq!(read(&mut low, &view("wide", "id", "id"), &one).await.expect("rows"), ["2"]);
    for (wanted, code, says) in [
        (view("account", "name", "party_id"), Code::Privilege, "account"),
        (view("gone", "name", "id"), Code::TableGone, "gone"),
        (view("wide", "id nothing", "id"), Code::SchemaDrift, "nothing"),
        (view("wide", "id", "other"), Code::SchemaDrift, "other"),
        (view("broken", "id x", "id"), Code::Rejected, "divides by zero"),
        (view("broken", "id y", "id"), Code::Rejected, "value"),
    ] {
        let of = if code == Code::Privilege { &poor } else { &field.connector };
        let mut copier = of.copier().await.expect("copier");
        copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
        let error = read(&mut copier, &wanted, &one).await.expect_err(says);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Data, code), "{error}");
        assert!(
            error.message().contains(says) && !format!("{error:?}").contains("two"),
            "{error:?}"
        );
        assert!(code == Code::Rejected || error.hint().is_some(), "{error:?}");
    }
    // The same where a view is copied.
    let mut copier = field.connector.copier().await.expect("copier");
    let everything = KeyRange { after: None, upto: None };
    let error = copier
        .read(&view("broken", "id x", "id"), &everything, usize::MAX)
        .await
        .expect_err("a division by zero");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::Rejected), "{error}");
}

#[tokio::test]
async fn a_view_made_anew_goes_on_and_one_of_other_types_is_met_anew() {
    let field = Field::new(SHOP).await;
    let mut copier = opened(&field).await;
    let wide = view("wide", "id name", "id");
    let asked = keys([[INT(1)]]);
    assert_eq!(read(&mut copier, &wide, &asked).await.expect("rows"), ["1 one"]);
    let again = "DROP VIEW wide; CREATE VIEW public.wide AS SELECT id::bigint AS id, ('new ' || name)::varchar(30) AS name FROM party";
    // The snapshot's own locks end with it.
    copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
    field.sql(again).await;
    assert_eq!(read(&mut copier, &wide, &asked).await.expect("rows"), ["1 new one"]);
    copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
    field
        .sql("DROP VIEW wide; CREATE VIEW public.wide AS SELECT id, country AS name FROM party")
        .await;
    let error = read(&mut copier, &wide, &asked).await.expect_err("other types");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Code::SchemaDrift), "{error}");
    let mut copier = opened(&field).await;
    let piece = copier.read_keys(&wide, &wide.key, &asked, usize::MAX).await.expect("rows");
    assert_eq!(*piece.rows[0].0, [INT(1), INT(1)]);
}

#[tokio::test]
async fn more_than_may_be_held_is_cut() {
    let field = Field::new(SHOP).await;
    field.sql("INSERT INTO line SELECT 100, g, g FROM generate_series(1, 5000) g").await;
    let mut copier = opened(&field).await;
    let line = view("line", "ord no qty", "ord");
    let asked = keys([[INT(100)], [INT(1)]]);
    let piece = copier.read_keys(&line, &line.key, &asked, 10_000).await.expect("some rows");
    assert!(piece.cut && piece.bytes < 20_000 && !piece.rows.is_empty());
    let error = read(&mut copier, &line, &asked).await.expect_err("the snapshot is closed");
    assert_eq!(error.kind(), ErrorKind::Bug);
    copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
    assert_eq!(read(&mut copier, &line, &asked).await.expect("rows").len(), 5002);
}

#[tokio::test]
async fn views_are_copied_in_pieces_whether_the_key_is_unique_or_not() {
    let field = Field::new(SHOP).await;
    field
        .sql("INSERT INTO party SELECT g, 'p' || g, 1 FROM generate_series(10, 509) g; ANALYZE")
        .await;
    let account = view("account", "party_id name city", "party_id");
    let mut copier = field.connector.copier().await.expect("copier");
    assert!((400..700).contains(&copier.estimate(&account).await.expect("estimate")));
    let (mut after, mut pieces, mut rows) = (None, 0, Vec::new());
    loop {
        let upto = copier.bound(&account, after.as_ref(), 100).await.expect("bound");
        copier.snapshot(&Position::new("0/1"), &[]).await.expect("snapshot").expect("shown");
        let range = KeyRange { after: after.clone(), upto: upto.clone() };
        let piece = copier.read(&account, &range, usize::MAX).await.expect("piece");
        rows.extend(piece.rows);
        pieces += 1;
        match upto {
            Some(key) => {
                if let Some(after) = &after {
                    assert!(copier.up_to(&account, after, &key).await.expect("compared"));
                }
                after = Some(key);
            }
            None => break,
        }
    }
    // Party 1 has two rows.
    assert_eq!((rows.len(), pieces), (505, 6));
    let asked = keys([[INT(1)], [INT(5)], [INT(509)]]);
    assert_eq!(copier.present(&account, &asked).await.expect("present"), [true, false, true]);
}

#[tokio::test]
async fn a_whole_read_is_told_and_an_index_that_serves_is_not() {
    let field = Field::new(
        "CREATE TABLE party (id int PRIMARY KEY, name text); CREATE TABLE address (id int PRIMARY KEY, party int, city text); \
         CREATE TABLE tiny (id int PRIMARY KEY, t text); \
         CREATE VIEW joined AS SELECT p.id, p.name, a.city, t.t FROM party p LEFT JOIN address a ON a.party = p.id \
           LEFT JOIN tiny t ON t.t = p.name; \
         CREATE VIEW summed AS SELECT party, count(*) AS n FROM address GROUP BY party; \
         CREATE VIEW several AS SELECT party, city, count(*) AS n FROM address GROUP BY party, city; \
         CREATE VIEW ranked AS SELECT party, city, row_number() OVER (ORDER BY id) AS n FROM address; \
         INSERT INTO party SELECT g, 'p' || g FROM generate_series(1, 20000) g; \
         INSERT INTO address SELECT g, g, 'c' FROM generate_series(1, 30000) g; \
         INSERT INTO tiny SELECT g, 'p' || g FROM generate_series(1, 10) g; ANALYZE",
    )
    .await;
    let explain = async |name: &str, by: &str| {
        let wanted = view(name, by, by);
        let found = field.connector.explain_keys(&wanted, &wanted.key).await.expect("a plan");
        found.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    for (name, by) in [("joined", "id"), ("summed", "party"), ("several", "party city")] {
        let found = explain(name, by).await;
        let [one] = &found[..] else { panic!("{name}: {found:?}") };
        assert!(
            one.contains("read one key again") && one.contains("public.address, about 30000"),
            "{one}"
        );
    }
    field.sql("CREATE INDEX ON address (party); ANALYZE").await;
    for (name, by) in [("joined", "id"), ("summed", "party"), ("several", "party city")] {
        assert_eq!(explain(name, by).await, Vec::<String>::new(), "{name}");
    }
    assert!(explain("ranked", "party").await.iter().any(|m| m.contains("public.address")));
    assert!(explain("joined", "name").await.iter().any(|m| m.contains("public.party")));
}

/// What a re-read costs: run by hand, on a machine that does nothing else.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let field = Field::new(
        "CREATE TABLE party (id int PRIMARY KEY, name text, country int); CREATE TABLE country (id int PRIMARY KEY, iso text); \
         CREATE TABLE line (ord int, no int, qty numeric(10,2), PRIMARY KEY (ord, no)); \
         INSERT INTO country SELECT g, 'C' || g FROM generate_series(1, 200) g; \
         INSERT INTO party SELECT g, 'party ' || g, 1 + g % 200 FROM generate_series(1, 200000) g; \
         INSERT INTO line SELECT o, n, n FROM generate_series(1, 100000) o, generate_series(1, 5) n; \
         CREATE VIEW account AS SELECT p.id, p.name, c.iso FROM party p JOIN country c ON c.id = p.country; \
         CREATE VIEW total AS SELECT ord, sum(qty) AS qty FROM line GROUP BY ord; \
         CREATE VIEW lines AS SELECT l.ord, l.no, l.qty, p.name FROM line l JOIN party p ON p.id = l.ord; ANALYZE",
    )
    .await;
    let mut copier = opened(&field).await;
    for size in [1, 1000, 5000] {
        for wanted in [
            view("account", "id name iso", "id"),
            view("total", "ord qty", "ord"),
            view("lines", "ord no qty name", "ord no"),
        ] {
            let rounds = if size == 1 { 500 } else { 20_000 / size };
            let began = Clock::now();
            for round in 0..rounds {
                let key = |i: i64| {
                    let id = (i * 97 + round * 7919) % 100_000 + 1;
                    let all = [INT(id), INT(1 + id % 5)];
                    Key::from(all[..wanted.key.len()].to_vec())
                };
                let asked: Vec<Key> = (0..size).map(key).collect();
                let piece = copier.read_keys(&wanted, &wanted.key, &asked, usize::MAX).await;
                assert_eq!(piece.expect("rows").rows.len() as i64, size);
            }
            let rate = (size * rounds) as f64 / began.elapsed().as_secs_f64();
            println!("{} of {size}: {rate:.0} keys/s", wanted.name);
        }
    }
}
