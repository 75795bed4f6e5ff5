//! Values that a target would change without a word: their mapping stops, others go on, nothing is changed.

use tidelock_scratch::{MysqlOptions, wait_for};

use super::SOON;
use super::daemon::{Daemon, command};

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_its_target_would_change_stops_its_mapping_and_no_other() {
    let a = super::postgres().await;
    let b = MysqlOptions::of_matrix().setting("max_allowed_packet", "1M").start().await.expect("b");
    b.create_database("db").await.expect("database");
    b.sql("db", super::ITEM).await.expect("item");
    for (a_sql, b_sql) in [
        (
            "CREATE TABLE code (k varchar(20) PRIMARY KEY, n int)",
            "CREATE TABLE code (k char(20) NOT NULL PRIMARY KEY, n int)",
        ),
        (
            "CREATE TABLE big (id int PRIMARY KEY, b bytea)",
            "CREATE TABLE big (id int NOT NULL PRIMARY KEY, b longblob)",
        ),
        (
            "CREATE TABLE same (k char(20) PRIMARY KEY, n int)",
            "CREATE TABLE same (k char(20) NOT NULL PRIMARY KEY, n int)",
        ),
        (
            "CREATE TABLE doc (id int PRIMARY KEY, j jsonb)",
            "CREATE TABLE doc (id int NOT NULL PRIMARY KEY, j longtext)",
        ),
        (
            "CREATE TABLE pad (id int PRIMARY KEY, c char(20))",
            "CREATE TABLE pad (id int NOT NULL PRIMARY KEY, c varchar(20))",
        ),
    ] {
        a.sql("db", a_sql).await.expect(a_sql);
        b.sql("db", b_sql).await.expect(b_sql);
    }
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let mut text = super::config(folder.path(), &systems, &[]);
    let flows = [("a", "b", &["item", "code", "big", "same"][..]), ("b", "a", &["doc", "pad"])];
    for (from, to, tables) in flows {
        for table in tables {
            text.push_str(&format!(
                "[[mappings]]\nfrom = \"{from}.{table}\"\nto = \"{to}.{table}\"\nsnapshot = \"never\"\n"
            ));
        }
    }
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for sql in [
        "INSERT INTO code VALUES ('abc', 1)",
        "INSERT INTO big VALUES (1, decode(repeat('61', 900000), 'hex'))",
        "INSERT INTO same VALUES ('abc  ', 1)",
        "INSERT INTO code VALUES ('abc  ', 2)",
        "INSERT INTO big VALUES (2, decode(repeat('61', 1100000), 'hex'))",
        "INSERT INTO item VALUES (1, 1, 'good')",
    ] {
        a.sql("db", sql).await.expect(sql);
    }
    for sql in [
        r#"INSERT INTO doc VALUES (1, '{"a":1,"b":{"a":2}}')"#,
        "INSERT INTO pad VALUES (1, 'ab')",
        r#"INSERT INTO doc VALUES (2, '{"a":1,"a":2}')"#,
        "INSERT INTO pad VALUES (2, 'ab  ')",
    ] {
        b.sql("db", sql).await.expect(sql);
    }
    let shown = |flows: &[serde_json::Value], name: &str| {
        let all = flows.iter().filter_map(|f| f["mappings"].as_array()).flatten();
        all.into_iter().find(|m| m["name"] == name).cloned().unwrap_or_default()
    };
    daemon
        .wait("stopped", SOON, |flows| {
            [
                ("code", "CHAR"),
                ("big", "max_allowed_packet"),
                ("doc", "same key twice"),
                ("pad", "CHAR"),
            ]
            .iter()
            .all(|(name, words)| {
                let m = shown(flows, name);
                let said = m["error"]["message"].as_str().unwrap_or_default().contains(words);
                m["state"] == "stopped" && m["error"]["code"] == "TL0202" && said
            })
        })
        .await;
    let state = |name: &str| shown(&daemon.flows(), name)["state"].clone();
    assert!(state("item") != "stopped" && state("same") != "stopped");
    for (sql, rows) in [
        ("SELECT CONCAT(k, n) FROM code", "abc1"),
        ("SELECT CONCAT(id, ',', LENGTH(b)) FROM big", "1,900000"),
    ] {
        assert_eq!(b.one("db", sql).await.expect("b"), rows);
    }
    for (sql, rows) in [
        ("SELECT string_agg(id::text, ',') FROM doc", "1"),
        ("SELECT string_agg(id::text || c, ',') FROM pad", "1ab"),
    ] {
        assert_eq!(a.one("db", sql).await.expect("a").trim_end(), rows);
    }
    let good = "SELECT (SELECT COUNT(*) FROM item) + (SELECT COUNT(*) FROM same WHERE k = 'abc')";
    wait_for("good", SOON, "2".to_owned(), async || b.one("db", good).await.expect("b"))
        .await
        .expect("good");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_a_float_that_rounds_as_a_target_and_not_as_a_source() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "CREATE TABLE price (id int PRIMARY KEY, d float8)").await.expect("a");
    b.sql("db", "CREATE TABLE price (id int NOT NULL PRIMARY KEY, d double(8,2))")
        .await
        .expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let config = folder.path().join("tidelock.toml");
    for (from, to, code, words) in
        [("a", "b", 1, "target type double(8,2) rounds"), ("b", "a", 0, "")]
    {
        let text = super::config(folder.path(), &systems, &[(from, to)]).replace(".item", ".price");
        std::fs::write(&config, text).expect("config");
        let (got, said) = command(&config, &["check"]);
        assert!(got == code && said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_and_a_zone_apply_to_the_copy_and_to_the_log() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "CREATE TABLE p (id int PRIMARY KEY, d date, n numeric, t text, at timestamp)")
        .await
        .expect("a");
    b.sql(
        "db",
        "CREATE TABLE p (id int NOT NULL PRIMARY KEY, d date NULL, spelt varchar(20) NULL, n decimal(6,2) NULL, \
         t varchar(5) NULL, at timestamp(6) NULL)",
    )
    .await
    .expect("b");
    let row = |id: u32| {
        format!(
            "INSERT INTO p VALUES ({id}, 'infinity', -12345.678, 'größer als', '2026-01-01 08:00:00.5'), \
             ({}, '2026-01-01', 1.005, 'ab', NULL)",
            id + 1
        )
    };
    a.sql("db", &row(1)).await.expect("rows");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let mapping = "[[mappings]]\nfrom = \"a.p\"\nto = \"b.p\"\ntime_zone = \"Asia/Shanghai\"\n\
        [mappings.columns]\nid = \"id\"\nd = { value = \"d\", on_unrepresentable = \"null\" }\n\
        spelt = { value = \"d\", on_unrepresentable = \"text\" }\n\
        n = { value = \"n\", on_unrepresentable = \"clamp\" }\n\
        t = { value = \"t\", on_unrepresentable = \"clamp\" }\nat = \"at\"\n";
    let config = super::config(folder.path(), &systems, &[]) + mapping;
    let daemon = Daemon::start(folder.path(), &config);
    daemon.streaming().await;
    a.sql("db", &row(3)).await.expect("rows");
    let sql = "SELECT id, d, spelt, n, t, CONVERT_TZ(at, @@time_zone, '+00:00') FROM p ORDER BY id";
    let rows = |first: &str, second: &str| {
        let cells = |id: &str, rest: &[Option<&str>]| -> Vec<Option<String>> {
            std::iter::once(Some(id))
                .chain(rest.iter().copied())
                .map(|c| c.map(str::to_owned))
                .collect()
        };
        let far = [
            None,
            Some("infinity"),
            Some("-9999.99"),
            Some("größe"),
            Some("2026-01-01 00:00:00.500000"),
        ];
        let near = [Some("2026-01-01"), Some("2026-01-01"), Some("1.01"), Some("ab"), None];
        [cells(first, &far), cells(second, &near)]
    };
    let wanted = [rows("1", "2"), rows("3", "4")].concat();
    let got = wait_for("rows", SOON, wanted, async || b.rows("db", sql).await.expect("rows")).await;
    assert!(got.is_ok(), "{got:?}\n{}", daemon.log());
    // What makes no sense is told by its place.
    let path = folder.path().join("tidelock.toml");
    for (from, to, words) in [
        ("id = \"id\"", "id = { value = \"id\", on_unrepresentable = \"null\" }", "it is NOT NULL"),
        (
            "at = \"at\"",
            "at = { value = \"at\", on_unrepresentable = \"text\" }",
            "needs a text column",
        ),
        ("d = { value", "d = { time_zone = \"UTC\", value", "a time zone means nothing"),
        ("time_zone = \"Asia/Shanghai\"\n", "", "naming a zone"),
    ] {
        std::fs::write(&path, config.replacen(from, to, 1)).expect("config");
        let (code, text) = command(&path, &["check"]);
        assert!(code == 1 && text.contains(words), "{to}: {code} {text}");
    }
    daemon.stop();
}
