//! Rows of tables and views read again by key, and the keys that a track's query gives, against a real server.

use std::time::Instant as Clock;

use tidelock_core::{
    Code, Connector, Copier, CopyTable, DataType, ErrorKind, Key, KeyRange, Position, Repertoire,
    Result, Row, Secret, SourceSpec, SystemConfig, TableKind, TableName, Tls, TlsMode, TrackQuery,
    Value,
};
use tidelock_scratch::{Mysql, MysqlOptions};

const INT: fn(i64) -> Value = Value::Int;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned().into())
}

fn config(url: &str) -> SystemConfig {
    SystemConfig {
        name: "crm".into(),
        url: Secret::new(url),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    }
}

/// A server, its database `crm` and the connector to it.
struct Field {
    server: Mysql,
    connector: Box<dyn Connector>,
}

impl Field {
    async fn new(schema: &str) -> Field {
        let server = MysqlOptions::of_matrix().start().await.expect("server");
        server.create_database("crm").await.expect("database");
        server.sql("crm", schema).await.expect("schema");
        let connector = tidelock_mysql::connector(config(&server.url("crm"))).expect("connector");
        Field { server, connector }
    }

    async fn sql(&self, sql: &str) {
        self.server.sql("crm", sql).await.expect(sql);
    }

    async fn end(&self) -> Position {
        end(&*self.connector).await
    }

    async fn opened(&self) -> Box<dyn Copier> {
        opened(&*self.connector).await
    }
}

async fn end(connector: &dyn Connector) -> Position {
    let spec = SourceSpec {
        pipeline: "p".into(),
        flow: "crm:erp".into(),
        slot: String::new(),
        publication: String::new(),
        tables: Vec::new(),
        start_at: None,
        identity: String::new(),
    };
    connector.probe(&spec, None).await.expect("probe").end
}

async fn opened(connector: &dyn Connector) -> Box<dyn Copier> {
    let mut copier = connector.copier().await.expect("copier");
    let end = end(connector).await;
    assert!(copier.snapshot(&end, &[]).await.expect("snapshot").is_some());
    copier
}

fn words(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn view(name: &str, columns: &str, key: &str) -> CopyTable {
    let name = TableName::new("crm", name);
    CopyTable { name, columns: words(columns), key: words(key), filter: None }
}

fn keys<const N: usize>(list: impl IntoIterator<Item = [Value; N]>) -> Vec<Key> {
    list.into_iter().map(|key| Key::from(key.to_vec())).collect()
}

fn shown(row: &Row) -> String {
    let cell = |v: &Value| tidelock_core::form::text(v).map_or("-".to_owned(), |t| t.into_owned());
    row.0.iter().map(cell).collect::<Vec<_>>().join(" ")
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

const SHOP: &str = "\
    CREATE TABLE party (id int PRIMARY KEY, name varchar(40), country smallint unsigned); \
    CREATE TABLE address (id bigint unsigned PRIMARY KEY, party int, city varchar(20)); \
    CREATE TABLE line (ord int, no smallint, qty decimal(10,2), PRIMARY KEY (ord, no)); \
    CREATE VIEW account AS SELECT p.id AS party_id, p.name, a.city FROM party p \
      LEFT JOIN address a ON a.party = p.id; \
    CREATE VIEW places AS SELECT id, city FROM address; \
    CREATE VIEW wide AS SELECT CAST(id AS CHAR(12)) AS id, name FROM party; \
    CREATE VIEW total AS SELECT ord, sum(qty) AS qty, count(*) AS n FROM line GROUP BY ord; \
    CREATE VIEW `lines` AS SELECT l.ord AS o, l.no AS n, l.qty FROM line l JOIN party p ON p.id = l.ord; \
    INSERT INTO party VALUES (1, 'one', 1), (2, 'two', 2), (3, NULL, 1), (2147483647, 'max', NULL); \
    INSERT INTO address VALUES (10, 1, 'Köln'), (11, 1, 'Ulm'), (12, 2, NULL), (18446744073709551615, 3, 'far'); \
    INSERT INTO line VALUES (1, 1, 1), (1, 2, 2.5), (2, 1, 4), (3, 3, 9);";

#[tokio::test]
async fn a_key_gives_no_row_one_or_a_group_and_each_row_once() {
    let field = Field::new(SHOP).await;
    let mut copier = field.opened().await;
    let account = view("account", "name party_id city", "party_id");
    for (asked, expected) in [
        (keys([[INT(1)]]), vec!["one 1 Köln", "one 1 Ulm"]),
        (keys([[INT(2)], [INT(2)], [INT(9)]]), vec!["two 2 -"]),
        (keys([[INT(9)]]), vec![]),
        (keys([[Value::Null]]), vec![]),
        (Vec::new(), vec![]),
        (
            keys([[Value::UInt(3)], [Value::Decimal("2.00".into())], [text("1")]]),
            vec!["- 3 far", "one 1 Köln", "one 1 Ulm", "two 2 -"],
        ),
        (
            keys([[INT(2_147_483_647)], [INT(2_147_483_648)], [INT(i64::MIN)], [text("2x")]]),
            vec!["max 2147483647 -"],
        ),
    ] {
        assert_eq!(read(&mut copier, &account, &asked).await.expect("rows"), expected, "{asked:?}");
    }
    let places = view("places", "id city", "id");
    let asked = keys([[INT(10)], [Value::UInt(u64::MAX)], [INT(-1)]]);
    assert_eq!(
        read(&mut copier, &places, &asked).await.expect("rows"),
        ["10 Köln", "18446744073709551615 far"]
    );
    // A number against a text finds that text and no other that begins so.
    field.sql("INSERT INTO party VALUES (10, 'ten', 1)").await;
    let mut copier = field.opened().await;
    let wide = view("wide", "id name", "id");
    assert_eq!(read(&mut copier, &wide, &keys([[INT(1)]])).await.expect("rows"), ["1 one"]);
    let by_name = view("wide", "id name", "name");
    let asked = keys([[INT(0)], [text("two")], [text("x'y\\\"`")]]);
    assert_eq!(read(&mut copier, &by_name, &asked).await.expect("rows"), ["2 two"]);
    let total = view("total", "ord qty n", "ord");
    let asked = keys([[INT(1)], [INT(3)], [INT(4)]]);
    assert_eq!(read(&mut copier, &total, &asked).await.expect("rows"), ["1 3.50 2", "3 9.00 1"]);
    let lines = view("lines", "o n qty", "o n");
    let asked = keys([[INT(1), INT(2)], [INT(2), INT(2)], [INT(3), INT(3)], [INT(1), Value::Null]]);
    assert_eq!(read(&mut copier, &lines, &asked).await.expect("rows"), ["1 2 2.50", "3 3 9.00"]);
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
async fn thousands_of_keys_of_every_kind_of_view_are_found_exactly() {
    let field = Field::new(SHOP).await;
    let digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL SELECT 5 \
                  UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    field
        .sql(&format!(
            "INSERT INTO party SELECT 100 + a.d + 10 * b.d + 100 * c.d + 1000 * e.d, 'n', 1 \
             FROM {digits} a, {digits} b, {digits} c, {digits} e; \
             INSERT INTO line SELECT id, n.d, n.d FROM party, {digits} n WHERE id BETWEEN 100 AND 10099 AND n.d < 3"
        ))
        .await;
    let mut copier = field.opened().await;
    let ids = || (0..5000).map(|i| 100 + 2 * i);
    let single = keys(ids().map(|id| [INT(id)]));
    for (wanted, rows) in [
        (view("account", "party_id", "party_id"), 5000),
        (view("total", "ord n", "ord"), 5000),
        (view("line", "ord no", "ord"), 15_000),
    ] {
        let found = read(&mut copier, &wanted, &single).await.expect("rows");
        assert_eq!(found.len(), rows, "{}", wanted.name);
    }
    let double = keys(ids().map(|id| [INT(id), INT(id % 3)]));
    let wanted = view("lines", "o n", "o n");
    let found = read(&mut copier, &wanted, &double).await.expect("rows");
    let mut expected: Vec<String> = ids().map(|id| format!("{id} {}", id % 3)).collect();
    expected.sort();
    assert_eq!(found, expected);
    // And of more than a statement holds, none.
    let long = keys((0..100).map(|i| [text(&format!("{i}{}", "x".repeat(40_000)))]));
    let by_name = view("account", "party_id", "name");
    let piece = copier.read_keys(&by_name, &by_name.key, &long, usize::MAX).await.expect("cut");
    assert!(piece.cut && piece.rows.is_empty());
}

#[tokio::test]
async fn texts_are_compared_as_the_column_compares_them() {
    let field = Field::new(
        "CREATE TABLE t (a varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, b varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
           c char(5) CHARACTER SET latin1, d enum('sad','it''s'), e binary(4), f decimal(6,2), g datetime(3), h date, \
           i bit(4), j timestamp(2) NULL, k time, l year, PRIMARY KEY (a)); \
         CREATE VIEW v AS SELECT * FROM t; \
         INSERT INTO t VALUES ('Alpha', 'Beta', 'é', 'sad', 0x61000000, 1.50, '2024-02-29 12:00:00.5', '2024-02-29', b'0101', \
           '2024-02-29 12:00:00.25', '-34:00:00', 2024)",
    )
    .await;
    field.sql("SET time_zone = '+00:00'; UPDATE t SET j = '2024-02-29 12:00:00.25'").await;
    let mut copier = field.opened().await;
    let bytes = |b: &[u8]| Value::Bytes(b.to_vec().into());
    let noon = 1_709_208_000_000_000;
    let day = tidelock_core::Date::from_ymd(2024, 2, 29).expect("a day");
    for (column, value, found) in [
        ("a", text("ALPHA"), true),
        ("a", text("beta"), false),
        ("b", text("Beta"), true),
        ("b", text("beta"), false),
        ("c", text("é"), true),
        ("c", text("😀"), false),
        ("d", Value::Enum("sad".into()), true),
        ("d", text("it's"), false),
        ("d", text("unknown"), false),
        ("e", bytes(b"a\0\0\0"), true),
        ("e", bytes(b"a"), false),
        ("f", Value::Decimal("1.5".into()), true),
        ("f", Value::Decimal("1.504".into()), false),
        ("g", Value::Timestamp(tidelock_core::Timestamp(noon + 500_000)), true),
        ("g", Value::Date(day), false),
        ("h", Value::Date(day), true),
        ("h", Value::Timestamp(tidelock_core::Timestamp(noon)), false),
        ("i", text("0101"), true),
        ("i", text("0111"), false),
        ("j", Value::Instant(tidelock_core::Instant(noon + 250_000)), true),
        ("k", Value::Time(tidelock_core::Time(-34 * 3_600_000_000)), true),
        ("l", INT(2024), true),
    ] {
        let wanted = view("v", "a b c d e f g h i j k l", column);
        let asked = keys([[value.clone()], [value.clone()]]);
        let rows = read(&mut copier, &wanted, &asked).await.expect("rows");
        assert_eq!(rows.len(), usize::from(found), "{column} = {value:?}");
    }
    // Both are equal to the one row.
    let wanted = view("v", "a", "a c");
    let asked =
        keys([[text("alpha"), text("é")], [text("ALPHA"), text("é")], [text("alpha"), text("y")]]);
    assert_eq!(read(&mut copier, &wanted, &asked).await.expect("rows"), ["Alpha"]);
    if field.server.has_uuid().await.expect("version") {
        field
            .sql(
                "CREATE TABLE u (a uuid PRIMARY KEY, b inet6); CREATE VIEW vu AS SELECT * FROM u; \
                  INSERT INTO u VALUES ('00112233-4455-6677-8899-aabbccddeeff', '::1')",
            )
            .await;
        let mut copier = field.opened().await;
        let id = [
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
            0xff,
        ];
        for (column, value) in [("a", Value::Uuid(id)), ("a", bytes(&id)), ("b", text("::1"))] {
            let wanted = view("vu", "a b", column);
            let rows = read(&mut copier, &wanted, &keys([[value.clone()]])).await.expect("rows");
            assert_eq!(rows.len(), 1, "{value:?}");
        }
    }
}

#[tokio::test]
async fn a_view_gives_the_values_that_its_table_gives() {
    let field = Field::new(
        "SET sql_mode = ''; CREATE TABLE zoo (id int PRIMARY KEY, tiny tinyint unsigned, med mediumint, big bigint unsigned, \
           d decimal(20,5), f float, g double, v varchar(30), l varchar(20) CHARACTER SET latin1, s varchar(9) CHARACTER SET sjis, \
           c char(4), tx text, bi binary(4), bl blob, da date, dt datetime(6), ts timestamp(3) NULL, ti time(6), y year, \
           e enum('a','','b'), st set('x','y'), bt bit(9)); \
         CREATE VIEW v AS SELECT * FROM zoo; \
         INSERT INTO zoo VALUES (1, 255, -5, 18446744073709551615, -1.5, 1.1, 0.1, 'Köln😀', 'é€', 'ｱ', 'ab', 'text', \
           0x61000000, 0x00ff, '2024-02-29', '2024-01-02 03:04:05.678901', '2024-01-01 09:00:00.5', '-838:59:58.5', 2024, \
           '', 'x,y', 257), (2, 0, 0, 0, 0, 0, 0, '', '', '', '', '', '', '', '0000-00-00', '2024-00-10', 0, 0, 0, 'zz', '', 0)",
    )
    .await;
    field.sql("SET sql_mode = ''; INSERT INTO zoo (id) VALUES (3)").await;
    let columns = "id tiny med big d f g v l s c tx bi bl da dt ts ti y e st bt";
    let mut copier = field.opened().await;
    let everything = KeyRange { after: None, upto: None };
    let plain =
        copier.read(&view("zoo", columns, "id"), &everything, usize::MAX).await.expect("the table");
    let wanted = view("v", columns, "id");
    let asked = keys([[INT(1)], [INT(2)], [INT(3)]]);
    let mut keyed =
        copier.read_keys(&wanted, &wanted.key, &asked, usize::MAX).await.expect("the view").rows;
    keyed.sort_by_key(shown);
    let copied = copier.read(&wanted, &everything, usize::MAX).await.expect("the view");
    assert_eq!(plain.rows.len(), 3);
    assert_eq!(keyed, plain.rows);
    assert_eq!(copied.rows, plain.rows);
    let catalog = field.connector.catalog(&["crm".into()]).await.expect("catalog");
    let found = |name: &str| catalog.iter().find(|t| t.name.name == name).expect("listed");
    assert_eq!(found("v").kind, TableKind::View);
    assert!(found("v").refusals.is_empty() && found("v").unique_indexes.is_empty());
    assert_eq!(found("v").columns.len(), found("zoo").columns.len());
    for (of_view, of_table) in found("v").columns.iter().zip(&found("zoo").columns) {
        assert_eq!(of_view.data_type, of_table.data_type, "{}", of_table.name);
        assert_eq!(of_view.collation, of_table.collation, "{}", of_table.name);
    }
}

#[tokio::test]
async fn rows_are_read_in_the_snapshot_that_was_opened_and_nothing_is_written() {
    let field = Field::new(SHOP).await;
    let account = view("account", "name", "party_id");
    let asked = keys([[INT(1)], [INT(7)]]);
    let mut copier = field.connector.copier().await.expect("copier");
    let error = read(&mut copier, &account, &asked).await.expect_err("no snapshot");
    assert_eq!(error.kind(), ErrorKind::Bug);
    let mut copier = field.opened().await;
    field.sql("INSERT INTO party VALUES (7, 'new', 1)").await;
    let before = read(&mut copier, &account, &asked).await.expect("rows");
    assert_eq!(before, ["one", "one"], "the snapshot is older");
    let end = field.end().await;
    let upto = copier.snapshot(&end, &[]).await.expect("snapshot").expect("all is visible");
    assert!(field.connector.compare(&upto, &end).expect("positions").reached());
    assert_eq!(read(&mut copier, &account, &asked).await.expect("rows"), ["new", "one", "one"]);
    field
        .sql("SET GLOBAL log_bin_trust_function_creators = 1; CREATE FUNCTION bad() RETURNS int MODIFIES SQL DATA BEGIN INSERT INTO party VALUES (8, 'x', 1); RETURN 1; END")
        .await;
    let mut copier = field.opened().await;
    let query = TrackQuery::parse("SELECT bad()").expect("a query");
    let error = copier.track_keys(&query, &[]).await.expect_err("it would write");
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    let count = field.server.one("crm", "SELECT count(*) FROM party WHERE id = 8").await;
    assert_eq!(count.expect("count"), "0");
}

#[tokio::test]
async fn a_tracks_query_gives_each_key_once() {
    let field = Field::new(&format!(
        "{SHOP} CREATE TABLE odd (k int, a varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, d decimal(5,2), `Order No` varchar(9)); \
         INSERT INTO odd VALUES (1, 'Xa', 1.50, 'A''1'), (2, 'Xb', 2.25, NULL), (NULL, 'Xa', NULL, 'B')"
    ))
    .await;
    let mut copier = field.opened().await;
    let int = |bits| DataType::Int { bits, unsigned: false };
    let words = DataType::Text {
        chars_max: None,
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: false,
    };
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
    let either = "SELECT ord, no FROM line WHERE ord IN (:id) OR no IN (:no) ;";
    assert_eq!(ask(either, &[none.clone(), ("no", int(16), vec![INT(3)])]).await, ["3 3"]);
    assert!(ask(either, &[none, ("no", int(16), vec![])]).await.is_empty());
    let names = ("a", words.clone(), vec![text("xA"), text("XB"), text("c'\\")]);
    assert_eq!(ask("SELECT k, a FROM odd WHERE a IN (:a)", &[names]).await, ["1 Xa", "2 Xb"]);
    let exact = DataType::Decimal { precision: Some(5), scale: Some(2) };
    let exact = ("d", exact, vec![Value::Decimal("2.25".into()), Value::Decimal("1.49".into())]);
    assert_eq!(ask("SELECT k FROM odd WHERE d IN (:d)", &[exact]).await, ["2"]);
    let odd = ("Order No", words, vec![text("A'1"), text("B")]);
    assert_eq!(
        ask("SELECT k FROM crm.odd WHERE `Order No` IN (:\"Order No\")", &[odd]).await,
        ["1"],
        "a NULL is no key"
    );
    let with = "WITH x AS (SELECT p.id FROM party p WHERE p.country IN (:id)) SELECT id FROM x";
    assert_eq!(ask(with, &[ids]).await, ["1", "3"]);
}

#[tokio::test]
async fn a_tracks_query_is_described_and_refused_in_the_servers_words() {
    let field = Field::new(SHOP).await;
    let describe = async |sql: &str| {
        let query = TrackQuery::parse(sql).expect(sql);
        let types = [("id".to_owned(), DataType::Int { bits: 32, unsigned: false })];
        field.connector.describe_query(&query, &types).await
    };
    let columns =
        describe("SELECT party, city AS `the City`, id FROM address WHERE party IN (:id)")
            .await
            .expect("columns");
    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["party", "the City", "id"]);
    assert_eq!(columns[0].data_type, DataType::Int { bits: 32, unsigned: false });
    assert!(matches!(columns[1].data_type, DataType::Text { .. }));
    assert_eq!(columns[2].data_type, DataType::Int { bits: 64, unsigned: true });
    for (sql, said) in [
        ("SELECT party FROM adress WHERE party IN (:id)", "adress"),
        ("SELECT partie FROM address", "partie"),
        ("SELECT FROM WHERE", "syntax"),
        ("SELECT party FROM address INTO OUTFILE '/tmp/x'", "syntax"),
        ("SELECT party FROM address WHERE party = ?", "?"),
    ] {
        let error = describe(sql).await.expect_err(sql);
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Data, Code::Catalog),
            "{sql}: {error}"
        );
        assert!(error.message().contains(said), "{sql}: {error}");
    }
    let query = TrackQuery::parse("SELECT 1 FROM party WHERE 1 IN (:other)").expect("a query");
    assert!(field.connector.describe_query(&query, &[]).await.is_err());
}

#[tokio::test]
async fn what_a_view_runs_into_is_about_its_mapping_alone() {
    let field = Field::new(&format!(
        "{SHOP} CREATE TABLE base (id int PRIMARY KEY, x int); CREATE VIEW broken AS SELECT id, x FROM base; \
         CREATE VIEW several AS SELECT id, (SELECT city FROM address a WHERE a.party = p.id) AS x FROM party p; \
         CREATE USER poor@'%'; CREATE USER poor@localhost; GRANT REPLICATION CLIENT ON *.* TO poor@'%', poor@localhost; \
         GRANT SELECT ON crm.wide TO poor@'%', poor@localhost; GRANT SHOW VIEW ON crm.account TO poor@'%', poor@localhost; \
         INSERT INTO base VALUES (1, 1)"
    ))
    .await;
    field.sql("ALTER TABLE base DROP COLUMN x").await;
    let url = field.server.url("crm");
    let user =
        url.split("://").nth(1).and_then(|rest| rest.split(['@', ':']).next()).expect("a user");
    let poor =
        tidelock_mysql::connector(config(&url.replacen(user, "poor", 1))).expect("connector");
    let one = keys([[INT(1)]]);
    let end = field.end().await;
    for (wanted, code, says) in [
        (view("account", "name", "party_id"), Code::Privilege, "account"),
        (view("gone", "name", "id"), Code::TableGone, "gone"),
        (view("wide", "id nothing", "id"), Code::SchemaDrift, "nothing"),
        (view("broken", "id x", "id"), Code::SchemaDrift, ""),
        (view("several", "id x", "id"), Code::Rejected, "more than one row"),
    ] {
        let of = if code == Code::Privilege { &poor } else { &field.connector };
        let mut copier = of.copier().await.expect("copier");
        copier.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
        let error = read(&mut copier, &wanted, &one).await.expect_err(says);
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        let unseen = code == Code::Privilege && error.code() == Code::TableGone;
        assert!(error.code() == code || unseen, "{error}");
        assert!(
            error.message().contains(says) && !format!("{error:?}").contains("Köln"),
            "{error:?}"
        );
        assert!(
            matches!(code, Code::Rejected | Code::SchemaDrift) || error.hint().is_some(),
            "{error:?}"
        );
    }
    let mut low = poor.copier().await.expect("copier");
    low.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
    assert_eq!(read(&mut low, &view("wide", "id", "id"), &one).await.expect("rows"), ["1"]);
    let query = TrackQuery::parse("SELECT party FROM address").expect("a query");
    let error = low.track_keys(&query, &[]).await.expect_err("no right");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Data, Code::Privilege), "{error}");
    assert!(error.message().contains("address") && error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_view_made_anew_goes_on_and_one_of_other_types_is_met_anew() {
    let field = Field::new(SHOP).await;
    let mut copier = field.opened().await;
    let places = view("places", "id city", "id");
    let asked = keys([[INT(10)]]);
    assert_eq!(read(&mut copier, &places, &asked).await.expect("rows"), ["10 Köln"]);
    // The snapshot's own lock on the view ends with it.
    copier.close_snapshot().await.expect("closed");
    field
        .sql(
            "DROP VIEW places; CREATE VIEW places AS SELECT id, reverse(city) AS city FROM address",
        )
        .await;
    let end = field.end().await;
    copier.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
    assert_eq!(read(&mut copier, &places, &asked).await.expect("rows"), ["10 nlöK"]);
    copier.close_snapshot().await.expect("closed");
    field
        .sql("DROP VIEW places; CREATE VIEW places AS SELECT id, party AS city FROM address")
        .await;
    let end = field.end().await;
    copier.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
    let error = read(&mut copier, &places, &asked).await.expect_err("other types");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Code::SchemaDrift), "{error}");
    let mut copier = field.opened().await;
    let piece = copier.read_keys(&places, &places.key, &asked, usize::MAX).await.expect("rows");
    assert_eq!(*piece.rows[0].0, [Value::UInt(10), INT(1)]);
}

#[tokio::test]
async fn more_than_may_be_held_is_cut() {
    let field = Field::new(SHOP).await;
    let rows: Vec<String> = (1..3000).map(|i| format!("(100, {i}, {i})")).collect();
    field.sql(&format!("INSERT INTO line VALUES {}", rows.join(","))).await;
    let mut copier = field.opened().await;
    let line = view("line", "ord no qty", "ord");
    let asked = keys([[INT(100)], [INT(1)]]);
    let piece = copier.read_keys(&line, &line.key, &asked, 10_000).await.expect("some rows");
    assert!(piece.cut && piece.bytes < 20_000 && !piece.rows.is_empty());
    let error = read(&mut copier, &line, &asked).await.expect_err("the snapshot is closed");
    assert_eq!(error.kind(), ErrorKind::Bug);
    let end = field.end().await;
    copier.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
    assert_eq!(read(&mut copier, &line, &asked).await.expect("rows").len(), 3001);
}

#[tokio::test]
async fn views_are_copied_in_pieces_whether_the_key_is_unique_or_not() {
    let field = Field::new(SHOP).await;
    let rows: Vec<String> = (10..510).map(|i| format!("({i}, 'p{i}', 1)")).collect();
    field.sql(&format!("INSERT INTO party VALUES {}", rows.join(","))).await;
    let account = view("account", "party_id name city", "party_id");
    let mut copier = field.connector.copier().await.expect("copier");
    copier.estimate(&account).await.expect("estimate");
    let (mut after, mut pieces, mut rows) = (None, 0, Vec::new());
    let end = field.end().await;
    loop {
        let upto = copier.bound(&account, after.as_ref(), 100).await.expect("bound");
        copier.snapshot(&end, &[]).await.expect("snapshot").expect("shown");
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

/// Types of keys whose values have another order as texts, or as floats, than they have as what they are.
const SORTED: [(&str, &[&str]); 13] = [
    ("decimal(10,0)", &["5000", "600", "-7", "0", "10"]),
    (
        "decimal(20)",
        &["12345678901234567890", "12345678901234567891", "12345678901234567889", "600", "-5"],
    ),
    ("decimal(30,10)", &["1.5", "12.25", "2.0000000001", "2", "-0.5"]),
    ("bit(16)", &["5", "257", "65535", "0", "256"]),
    ("enum('z','b','a','m')", &["'a'", "'z'", "'m'", "'b'"]),
    ("enum('z','','a')", &["'a'", "'z'", "''"]),
    ("set('z','b','a')", &["''", "'z'", "'b'", "'z,b'", "'a'"]),
    (
        "bigint unsigned",
        &["9007199254740993", "9007199254740992", "18446744073709551615", "5", "600"],
    ),
    ("double", &["5000", "600.5", "-0.25", "1e300"]),
    ("float", &["5000", "600.5", "-0.25"]),
    ("time", &["'-12:00:00'", "'100:00:00'", "'20:00:00'", "'00:00:00'"]),
    ("datetime(3)", &["'2024-01-02 03:04:05.5'", "'0900-01-01'", "'2024-01-02 03:04:05'"]),
    ("varchar(10)", &["'b'", "'A'", "'äz'", "'abc'"]),
];

#[tokio::test]
async fn keys_are_cut_and_judged_in_the_order_in_which_they_are_sorted() {
    let mut schema = String::new();
    for (i, (own, values)) in SORTED.iter().enumerate() {
        let rows: Vec<String> = values.iter().map(|v| format!("('x', {v})")).collect();
        schema.push_str(&format!(
            "CREATE TABLE s{i} (t varchar(5) NOT NULL, k {own} NOT NULL, PRIMARY KEY (k), UNIQUE (t, k)); \
             INSERT INTO s{i} VALUES {};",
            rows.join(", ")
        ));
    }
    let field = Field::new(&schema).await;
    let mut copier = field.opened().await;
    for (i, (own, values)) in SORTED.iter().enumerate() {
        for key in ["k", "t k"] {
            let wanted = view(&format!("s{i}"), key, key);
            let all = KeyRange { after: None, upto: None };
            let piece = copier.read(&wanted, &all, usize::MAX).await.expect(own);
            let sorted: Vec<Key> = piece.rows.into_iter().map(|row| row.0).collect();
            assert_eq!(sorted.len(), values.len(), "{own}");
            for (a, first) in sorted.iter().enumerate() {
                for (b, second) in sorted.iter().enumerate() {
                    let judged = copier.up_to(&wanted, first, second).await.expect(own);
                    assert_eq!(judged, a <= b, "{own} {key}: {a} and {b}");
                    let range = KeyRange { after: Some(first.clone()), upto: Some(second.clone()) };
                    let piece = copier.read(&wanted, &range, usize::MAX).await.expect(own);
                    let got: Vec<Key> = piece.rows.into_iter().map(|row| row.0).collect();
                    let between = sorted.get(a + 1..=b).unwrap_or_default();
                    assert_eq!(got, between, "{own} {key}: above {a} up to {b}");
                }
            }
            let there = copier.present(&wanted, &sorted).await.expect(own);
            assert_eq!(there, vec![true; sorted.len()], "{own} {key}");
            // Outside a snapshot.
            for (a, key) in sorted.iter().enumerate() {
                let next = copier.bound(&wanted, Some(key), 1).await.expect(own);
                assert_eq!(next.as_ref(), sorted.get(a + 1), "{own}: behind {a}");
            }
            copier = field.opened().await;
        }
    }
}

#[tokio::test]
async fn a_key_is_present_only_as_it_is_written() {
    let field = Field::new(
        "CREATE TABLE a (k varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY); \
         INSERT INTO a VALUES ('ABC'), ('ß'), ('x '); \
         CREATE TABLE b (k varchar(20) CHARACTER SET gbk PRIMARY KEY); INSERT INTO b VALUES ('中a'); \
         CREATE TABLE c (k decimal(20) PRIMARY KEY); INSERT INTO c VALUES (12345678901234567890)",
    )
    .await;
    let mut copier = field.opened().await;
    let number = |digits: &str| Value::Decimal(digits.into());
    for (table, asked, there) in [
        ("a", ["abc", "ABC", "ss", "ß", "x", "x "].map(text).to_vec(), "ftftft"),
        ("b", ["中A", "中a"].map(text).to_vec(), "ft"),
        ("c", ["12345678901234567891", "12345678901234567890"].map(number).to_vec(), "ft"),
    ] {
        let asked = keys(asked.into_iter().map(|value| [value]));
        let found = copier.present(&view(table, "k", "k"), &asked).await.expect(table);
        let found: String = found.iter().map(|found| if *found { 't' } else { 'f' }).collect();
        assert_eq!(found, there, "{table}");
    }
}

#[tokio::test]
async fn a_whole_read_is_told_and_an_index_that_serves_is_not() {
    let field = Field::new(
        "CREATE TABLE party (id int PRIMARY KEY, name varchar(20)); CREATE TABLE address (id int PRIMARY KEY, party int, city varchar(20)); \
         CREATE TABLE tiny (id int PRIMARY KEY, t varchar(20)); \
         CREATE VIEW joined AS SELECT p.id, p.name, a.city, t.t FROM party p LEFT JOIN address a ON a.party = p.id \
           LEFT JOIN tiny t ON t.t = p.name; \
         CREATE VIEW summed AS SELECT party, count(*) AS n FROM address GROUP BY party; \
         CREATE VIEW several AS SELECT party, city, count(*) AS n FROM address GROUP BY party, city; \
         CREATE VIEW ranked AS SELECT party, city, row_number() OVER (ORDER BY id) AS n FROM address; \
         INSERT INTO tiny VALUES (1, 'p1'), (2, 'p2')",
    )
    .await;
    for from in (0..30_000).step_by(10_000) {
        let some: Vec<String> = (from..from + 10_000).map(|i| format!("({i}, {i}, 'c')")).collect();
        field.sql(&format!("INSERT INTO address VALUES {}", some.join(","))).await;
        let some: Vec<String> = (from..from + 10_000).map(|i| format!("({i}, 'p{i}')")).collect();
        field.sql(&format!("INSERT INTO party VALUES {}", some.join(","))).await;
    }
    field.sql("ANALYZE TABLE party, address, tiny").await;
    let explain = async |name: &str, by: &str| {
        let wanted = view(name, by, by);
        let found = field.connector.explain_keys(&wanted, &wanted.key).await.expect("a plan");
        found.into_iter().map(|f| f.message).collect::<Vec<_>>()
    };
    for (name, by, table) in [
        ("joined", "id", "a"),
        ("summed", "party", "address"),
        ("several", "party city", "address"),
    ] {
        let found = explain(name, by).await;
        let [one] = &found[..] else { panic!("{name}: {found:?}") };
        assert!(one.contains(&format!("the server reads all of {table}, about")), "{one}");
        assert!(one.contains("read one key"), "{one}");
    }
    field.sql("CREATE INDEX p ON address (party); ANALYZE TABLE address").await;
    for (name, by) in [("joined", "id"), ("summed", "party"), ("several", "party city")] {
        assert_eq!(explain(name, by).await, Vec::<String>::new(), "{name}");
    }
    assert!(explain("ranked", "party").await.iter().any(|m| m.contains("all of address")));
    assert!(explain("joined", "name").await.iter().any(|m| m.contains("all of p")));
}

/// What a re-read costs: run by hand, on a machine that does nothing else.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let field = Field::new(
        "CREATE TABLE party (id int PRIMARY KEY, name varchar(40), country int); CREATE TABLE country (id int PRIMARY KEY, iso varchar(9)); \
         CREATE TABLE line (ord int, no int, qty decimal(10,2), PRIMARY KEY (ord, no))",
    )
    .await;
    for from in (0..100_000).step_by(10_000) {
        let some: Vec<String> =
            (from..from + 10_000).map(|i| format!("({i}, 'party {i}', {})", i % 200)).collect();
        field.sql(&format!("INSERT INTO party VALUES {}", some.join(","))).await;
        let some: Vec<String> = (from..from + 10_000)
            .flat_map(|i| (0..5).map(move |n| format!("({i}, {n}, {n})")))
            .collect();
        field.sql(&format!("INSERT INTO line VALUES {}", some.join(","))).await;
    }
    let some: Vec<String> = (0..200).map(|i| format!("({i}, 'C{i}')")).collect();
    field.sql(&format!("INSERT INTO country VALUES {}", some.join(","))).await;
    field
        .sql(
            "CREATE VIEW account AS SELECT p.id, p.name, c.iso FROM party p JOIN country c ON c.id = p.country; \
             CREATE VIEW total AS SELECT ord, sum(qty) AS qty FROM line GROUP BY ord; \
             CREATE VIEW `lines` AS SELECT l.ord, l.no, l.qty, p.name FROM line l JOIN party p ON p.id = l.ord; \
             ANALYZE TABLE party, country, line",
        )
        .await;
    let mut copier = field.opened().await;
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
                    let id = (i * 97 + round * 7919) % 100_000;
                    let all = [INT(id), INT(id % 5)];
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

/// A piece that is cut goes on behind its last key: sorted by the beginnings of its keys alone, it would pass over some.
#[tokio::test]
async fn keys_that_begin_alike_are_read_in_their_order() {
    let field = Field::new(
        "CREATE TABLE long_named (id int PRIMARY KEY, name text CHARACTER SET utf8mb4 COLLATE utf8mb4_bin); \
         CREATE VIEW names AS SELECT name, max(id) AS id FROM long_named GROUP BY name",
    )
    .await;
    for id in 1..=40 {
        let end = (id * 17) % 41;
        field
            .sql(&format!(
                "INSERT INTO long_named VALUES ({id}, concat(repeat('x', 1500), {}))",
                end + 100
            ))
            .await;
    }
    let mut copier = field.opened().await;
    let wanted = view("names", "name id", "name");
    let range = KeyRange { after: None, upto: None };
    let piece = copier.read(&wanted, &range, usize::MAX).await.expect("read");
    let ends: Vec<String> =
        piece.rows.iter().map(|row| shown(row)[1500..1503].to_owned()).collect();
    let mut sorted = ends.clone();
    sorted.sort();
    assert_eq!(ends.len(), 40);
    assert_eq!(ends, sorted);
}
