//! Settings of roles, old definitions in the log, and odd spellings: what an exact copy must survive without a word
//! lost.

use tidelock_scratch::{Flavour, MysqlOptions, Postgres, wait_for};

use super::SOON;
use super::daemon::{Daemon, command};

/// Types and values whose text a session's settings, or a cast to another length, would change.
const ODD: &[(&str, &str)] = &[
    ("text[]", "ARRAY['NULL', NULL, 'a']"),
    ("bytea[]", "ARRAY['\\x00'::bytea, NULL]"),
    ("int[]", "ARRAY[1, NULL]"),
    ("char(5)[]", "ARRAY['abc', NULL]"),
    ("bit(3)[]", "ARRAY[B'101']"),
    ("xml", "xmlconcat('a', '<b/>')"),
    ("json", "'{\"a\":1, \"a\":2}'"),
    ("money", "1234.5::numeric::money"),
    ("citext", "'Ab'"),
    ("bpchar", "'a  '"),
];

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_role_change_no_value() {
    let pg = Postgres::start().await.expect("postgres");
    for db in ["db", "other"] {
        pg.create_database(db).await.expect(db);
        pg.sql(db, "CREATE EXTENSION citext").await.expect("citext");
        for (i, (own, value)) in ODD.iter().enumerate() {
            let table = format!("CREATE TABLE t{i} (id int PRIMARY KEY, v {own})");
            pg.sql(db, &table).await.expect(&table);
            if db == "db" {
                let row = format!("INSERT INTO t{i} VALUES (1, {value})");
                pg.sql(db, &row).await.expect(&row);
            }
        }
    }
    for setting in [
        "array_nulls = off",
        "quote_all_identifiers = on",
        "xmloption = document",
        "datestyle = 'German, DMY'",
        "intervalstyle = sql_standard",
        "bytea_output = escape",
        "extra_float_digits = -15",
    ] {
        let sql = format!("ALTER ROLE tidelock SET {setting}");
        pg.sql("db", &sql).await.expect(&sql);
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", pg.url("db")), ("b", pg.url("other"))];
    let mut text = super::config(folder.path(), &systems, &[]);
    text.push_str("[[mappings]]\nfrom = \"a.public.*\"\nto = \"b.public.*\"\n");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for (i, (_, value)) in ODD.iter().enumerate() {
        let row = format!("SET xmloption = content; INSERT INTO t{i} VALUES (2, {value})");
        pg.sql("db", &row).await.expect(&row);
    }
    for (i, (own, _)) in ODD.iter().enumerate() {
        let spelt = match *own {
            "bpchar" => "encode(bpcharsend(v), 'hex')",
            _ => "v::text",
        };
        let sql = format!("SELECT string_agg(id || '=' || {spelt}, ' ' ORDER BY id) FROM t{i}");
        let wanted = pg.one("db", &sql).await.expect(own);
        wait_for(own, SOON, wanted, async || pg.one("other", &sql).await.expect(own))
            .await
            .unwrap_or_else(|e| panic!("{own}: {e}\n{}", daemon.log()));
    }
    daemon.stop();
}

/// A server may cut every answer short, refuse statements without a key, or end a session with its transaction: such
/// settings are for people's sessions, and no row may be missing for them.
#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_server_lose_no_row() {
    let (a, b) = (super::mysql().await, super::mysql().await);
    let rows = "INSERT INTO item WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 900) \
         SELECT n, n, 'copied' FROM s";
    a.sql("db", rows).await.expect(rows);
    for sql in [
        "CREATE TABLE part (id int PRIMARY KEY AUTO_INCREMENT, item bigint NOT NULL, KEY (item))",
        "INSERT INTO part (item) SELECT id FROM item",
        "CREATE VIEW parts AS SELECT item.id, count(part.id) AS n FROM item JOIN part ON part.item = item.id \
         GROUP BY item.id",
    ] {
        a.sql("db", sql).await.expect(sql);
    }
    b.sql("db", "CREATE TABLE parts (id bigint PRIMARY KEY, n bigint)").await.expect("parts");
    let limit = match a.flavour() {
        Flavour::MariaDb => "max_statement_time = 0.002",
        Flavour::MySql => "max_execution_time = 2",
    };
    // Whoever may do everything is spared `init_connect`.
    for server in [&a, &b] {
        for sql in [
            "CREATE USER poor",
            "GRANT ALL ON db.* TO poor",
            "GRANT ALL ON tidelock.* TO poor",
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO poor",
            &format!(
                "SET GLOBAL init_connect = 'SET SESSION sql_select_limit = 3, max_join_size = 3, \
                 sql_safe_updates = 1, sql_auto_is_null = 1, completion_type = 2, autocommit = 0, {limit}; \
                 SET SESSION TRANSACTION READ ONLY'"
            ),
        ] {
            server.sql("db", sql).await.expect(sql);
        }
    }
    let folder = tempfile::tempdir().expect("folder");
    let poor = |url: String| url.replace("tidelock@", "poor@");
    let systems = [("a", poor(a.url("db"))), ("b", poor(b.url("db")))];
    let mut text =
        super::config(folder.path(), &systems, &[("a", "b")]).replace("snapshot = \"never\"\n", "");
    text.push_str("[[mappings]]\nfrom = \"a.parts\"\nto = \"b.parts\"\nkey = [\"id\"]\n");
    text.push_str("tracks = { 'a.part' = \"item\", 'a.item' = \"id\" }\n");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let sums = "SELECT concat_ws(' ', (SELECT count(*) FROM item), (SELECT sum(qty) FROM item), \
         (SELECT count(*) FROM item WHERE note IS NULL), (SELECT count(*) FROM parts), (SELECT sum(n) FROM parts))";
    for sql in [
        "DO 0",
        "UPDATE item SET qty = qty + 1",
        "UPDATE item SET note = NULL WHERE id % 2 = 0",
        "INSERT INTO part (item) SELECT id FROM item WHERE id <= 500",
        "DELETE FROM part WHERE item > 700",
        "DELETE FROM item WHERE id BETWEEN 300 AND 400",
    ] {
        a.sql("db", sql).await.expect(sql);
        let wanted = a.one("db", sums).await.expect(sql);
        wait_for(sql, SOON, wanted, async || b.one("db", sums).await.expect(sql))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}\n{}", daemon.log()));
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_database_end_no_copy_and_no_transaction() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let rows = "INSERT INTO item SELECT n, n, 'copied' FROM generate_series(1, 3) n; \
         CREATE VIEW slow AS SELECT id, qty, note || pg_sleep(1)::text AS note FROM item";
    a.sql("db", rows).await.expect(rows);
    let trigger = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END $$; \
         CREATE TABLE slow (LIKE item INCLUDING ALL); \
         CREATE TRIGGER wait BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION wait()";
    b.sql("db", trigger).await.expect(trigger);
    for server in [&a, &b] {
        let known = "SELECT string_agg(format('ALTER DATABASE db SET %I = 1500', name), '; ') FROM pg_settings \
             WHERE name IN ('statement_timeout', 'transaction_timeout')";
        let sql = server.one("db", known).await.expect(known);
        server.sql("db", &sql).await.expect(&sql);
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let mut text =
        super::config(folder.path(), &systems, &[("a", "b")]).replace("snapshot = \"never\"\n", "");
    text.push_str("[[mappings]]\nfrom = \"a.slow\"\nto = \"b.slow\"\nkey = [\"id\"]\n");
    text.push_str("tracks = { 'a.item' = \"id\" }\n");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let sums = "SELECT concat_ws(' ', (SELECT sum(qty) FROM item), (SELECT sum(qty) FROM slow))";
    a.sql("db", "UPDATE item SET qty = qty + 1").await.expect("update");
    wait_for("b", SOON, "9 9".to_owned(), async || b.one("db", sums).await.expect("sums"))
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_two_way_flow_sees_every_change_of_spelling() {
    const TABLES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN feeling AS mood; \
         CREATE TABLE k (v bpchar PRIMARY KEY, n int, big text); \
         ALTER TABLE k ALTER big SET STORAGE EXTERNAL; \
         CREATE TABLE z (v float8 PRIMARY KEY, f float8, m feeling, c bpchar)";
    let pg = Postgres::start().await.expect("postgres");
    for db in ["db", "other"] {
        pg.create_database(db).await.expect(db);
        pg.sql(db, TABLES).await.expect("tables");
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", pg.url("db")), ("b", pg.url("other"))];
    let mut text = super::config(folder.path(), &systems, &[]);
    for (from, to) in [("a", "b"), ("b", "a")] {
        text.push_str(&format!(
            "[[mappings]]\nfrom = \"{from}.public.*\"\nto = \"{to}.public.*\"\nsnapshot = \"never\"\n"
        ));
    }
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for sql in [
        "INSERT INTO k VALUES ('ab  ', 1, repeat('x', 9000)); INSERT INTO z VALUES ('-0', '-0', 'sad', 'a')",
        // The big value is not in the log: a change in part, by a key that ends in blanks.
        "UPDATE k SET n = 2",
        "UPDATE z SET f = 0, c = 'a  '",
        "UPDATE z SET v = 0, m = 'ok'",
    ] {
        pg.sql("db", sql).await.expect(sql);
        let spelt = "SELECT (SELECT string_agg(encode(bpcharsend(v), 'hex') || n || length(big), ' ') FROM k) || \
             (SELECT concat(v, ' ', f, ' ', m::text, ' ', encode(bpcharsend(c), 'hex')) FROM z)";
        let wanted = pg.one("db", spelt).await.expect(sql);
        wait_for(sql, SOON, wanted, async || {
            pg.rows("other", spelt).await.expect(sql)[0][0].clone().unwrap_or_default()
        })
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}\n{}", daemon.log()));
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_those_of_the_moment_and_an_invalid_one_is_not_an_empty_one() {
    let a = MysqlOptions::of_matrix().start().await.expect("a");
    let b = MysqlOptions::of_matrix().start().await.expect("b");
    for server in [&a, &b] {
        server.create_database("db").await.expect("database");
        for sql in [
            "CREATE TABLE s (id int NOT NULL PRIMARY KEY, v set('a','b','c'))",
            "CREATE TABLE e (id int NOT NULL PRIMARY KEY, v enum('a',''))",
        ] {
            server.sql("db", sql).await.expect(sql);
        }
    }
    a.sql("db", "INSERT INTO e VALUES (1, 'a'), (2, '')").await.expect("e");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let mut text = super::config(folder.path(), &systems, &[]);
    for table in ["s", "e"] {
        text.push_str(&format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n"));
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let copied = "SELECT COALESCE(GROUP_CONCAT(id, '=', v + 0 ORDER BY id), '') FROM e";
    let one = async |sql: &str| b.one("db", sql).await.expect("b");
    wait_for("e", SOON, "1=1,2=2".to_owned(), async || one(copied).await).await.expect("e");
    daemon.kill();
    // Written under the old labels, read when the catalog has the new ones.
    a.sql("db", "INSERT INTO s VALUES (1, 'b,c')").await.expect("s");
    for server in [&a, &b] {
        server.sql("db", "ALTER TABLE s MODIFY v set('z','a','b','c')").await.expect("alter");
    }
    a.sql("db", "INSERT INTO s VALUES (2, 'z,c')").await.expect("s");
    daemon.start_again();
    let sets = "SELECT COALESCE(GROUP_CONCAT(id, '=', v ORDER BY id SEPARATOR ' '), '') FROM s";
    wait_for("s", SOON, "1=b,c 2=z,c".to_owned(), async || one(sets).await)
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
    daemon.kill();
    // The copy of a row whose label is none stops, as it does in the log.
    let mut conn = a.conn("db").await.expect("conn");
    for sql in ["SET SESSION sql_mode = ''", "INSERT INTO e VALUES (3, 'zzz')"] {
        use tidelock_scratch::mysql_async::prelude::Queryable;
        conn.query_drop(sql).await.expect(sql);
    }
    b.sql("db", "DROP TABLE e; CREATE TABLE e (id int NOT NULL PRIMARY KEY, v enum('a',''))")
        .await
        .expect("e");
    let again = tempfile::tempdir().expect("folder");
    let text = text
        .replace("name = \"test\"", "name = \"again\"")
        .replace(&folder.path().display().to_string(), &again.path().display().to_string());
    let daemon = Daemon::start(again.path(), &text);
    daemon
        .wait("stopped", SOON, |flows| {
            flows.iter().filter_map(|f| f["mappings"].as_array()).flatten().any(|m| {
                let why = m["error"]["message"].as_str().unwrap_or_default();
                m["name"] == "e" && m["state"] == "stopped" && why.contains("enum")
            })
        })
        .await;
    assert_eq!(one("SELECT COUNT(*) FROM e WHERE id = 3").await, "0");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_composites_of_one_name_that_round_differently() {
    let pg = Postgres::start().await.expect("postgres");
    for (db, scale) in [("db", 3), ("other", 1)] {
        pg.create_database(db).await.expect(db);
        let sql = format!(
            "CREATE TYPE same AS (t varchar(5), n numeric(8,2)); CREATE TYPE item AS (t varchar(5), n numeric(8,{scale})); \
             CREATE TABLE good (id int PRIMARY KEY, v same, w same[]); CREATE TABLE bad (id int PRIMARY KEY, v item); \
             CREATE TABLE worse (id int PRIMARY KEY, v item[])"
        );
        pg.sql(db, &sql).await.expect(db);
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", pg.url("db")), ("b", pg.url("other"))];
    let config = folder.path().join("tidelock.toml");
    for (table, code) in [("good", 0), ("bad", 1), ("worse", 1)] {
        let text = super::config(folder.path(), &systems, &[("a", "b")])
            .replace(".item", &format!(".{table}"));
        std::fs::write(&config, text).expect("config");
        let (got, said) = command(&config, &["check"]);
        assert!(got == code && (code == 0 || said.contains("cannot be written to")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_to_clamp_a_key() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let config = folder.path().join("tidelock.toml");
    let plain = super::config(folder.path(), &systems, &[("a", "b")]);
    for (lines, code, words) in [
        (
            "[mappings.columns]\nid = { value = \"id\", on_unrepresentable = \"clamp\" }\n\"*\" = \"*\"\n",
            1,
            "it is in the key",
        ),
        ("on_unrepresentable = \"clamp\"\n", 0, ""),
    ] {
        std::fs::write(&config, format!("{plain}{lines}")).expect("config");
        let (got, said) = command(&config, &["check"]);
        assert!(got == code && said.contains(words), "{said}");
    }
}
