//! `check` for a role that may do nothing: what it prints, run by a DBA, mends everything.

use std::path::Path;

use serde_json::Value;
use tidelock_scratch::{Mysql, Postgres};

use super::SOON;
use super::daemon::{Daemon, command};

/// Runs what `check` prints at the system it is for, until it is content.
async fn mend(config: &Path, a: &Postgres, b: &Mysql) {
    let mut rounds = 0;
    loop {
        let (code, text) = command(config, &["check", "--json"]);
        let places: Value = serde_json::from_str(&text).expect("json");
        let places = places["places"].as_array().expect("places").clone();
        if code == 0 {
            break;
        }
        rounds += 1;
        assert!(rounds <= 3, "{places:#?}");
        let mut seen = Vec::new();
        for place in &places {
            let name = place["place"].as_str().expect("place");
            for finding in place["findings"].as_array().expect("findings") {
                assert!(!seen.contains(&finding), "twice: {finding}");
                seen.push(finding);
                if finding["severity"] != "problem" {
                    continue;
                }
                let message = finding["message"].as_str().expect("message");
                let at_a = name.starts_with("system a") || message.starts_with("at a: ");
                let at_b = name.starts_with("system b") || message.starts_with("at b: ");
                assert!(at_a != at_b, "whose is it? {finding}");
                let statements = finding["sql"].as_array().expect("sql");
                assert!(!statements.is_empty(), "{finding}");
                for sql in statements {
                    let sql = sql.as_str().expect("sql");
                    assert!(sql.ends_with(';'), "{sql}");
                    if at_a {
                        a.sql("db", sql).await.expect(sql);
                    } else {
                        b.sql("db", sql).await.expect(sql);
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_check_mend_everything_for_a_role_with_no_rights() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "CREATE SCHEMA sale; ALTER TABLE item SET SCHEMA sale; CREATE ROLE poor LOGIN")
        .await
        .expect("a");
    b.sql("db", "CREATE USER poor").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let poor = |url: String| url.replace("tidelock@", "poor@");
    let systems = [("a", poor(a.url("db"))), ("b", poor(b.url("db")))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")])
        .replace("a.item", "a.sale.item");
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    mend(&config, &a, &b).await;
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO sale.item VALUES (1, 1, 'x')").await.expect("insert");
    let count = "SELECT count(*) FROM item";
    tidelock_scratch::wait_for("b", SOON, "1".to_owned(), async || {
        b.one("db", count).await.expect("b")
    })
    .await
    .expect("b");
    daemon.stop();
    let (code, text) = command(&config, &["drop"]);
    assert!(code == 0 && text.contains("have its owner run: DROP PUBLICATION"), "{code}: {text}");
    let left = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(a.one("db", left).await.expect("a"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_told_why_and_what_would_be_one() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "ALTER TABLE item ADD COLUMN code int").await.expect("a");
    b.sql("db", "ALTER TABLE item ADD COLUMN code int").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let config = folder.path().join("tidelock.toml");
    let look = |key: &str| {
        let keyed = text.replace("snapshot =", &format!("key = [{key:?}]\nsnapshot ="));
        std::fs::write(&config, keyed).expect("config");
        let (code, text) = command(&config, &["check"]);
        assert_eq!(code, 1, "{text}");
        text
    };
    let text = look("coed");
    assert!(text.contains("has no column coed, which `key` names"), "{text}");
    assert!(text.contains("did you mean code?"), "{text}");
    assert!(!text.contains("UNIQUE INDEX") && !text.contains("not mapped"), "{text}");
    let text = look("code");
    for words in [
        "or choose a key that is unique already: (id)",
        "ALTER TABLE \"public\".\"item\" ALTER COLUMN \"code\" SET NOT NULL;",
        "CREATE UNIQUE INDEX ON \"public\".\"item\" (\"code\");",
        "make code NOT NULL: ALTER TABLE `db`.`item` MODIFY `code`",
        "CREATE UNIQUE INDEX `code_key` ON `db`.`item` (`code`);",
    ] {
        assert!(text.contains(words), "{words} not in {text}");
    }
    b.stop().await.expect("stop");
    let (_, text) = command(&config, &["check"]);
    assert!(
        text.contains("flow a:b\n  warning: not looked at: b cannot be used, see system b"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_schemas_that_may_not_be_seen_are_opened_by_the_statements_of_check() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "CREATE SCHEMA sale; ALTER TABLE item SET SCHEMA sale; CREATE ROLE poor LOGIN")
        .await
        .expect("a");
    b.sql("db", "CREATE USER poor").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let poor = |url: String| url.replace("tidelock@", "poor@");
    let systems = [("a", poor(a.url("db"))), ("b", poor(b.url("db")))];
    let config = folder.path().join("tidelock.toml");
    for (from, to) in [("a.item", "b.item"), ("b.item", "a.item")] {
        let (source, target) = (&from[..1], &to[..1]);
        let text = super::config(folder.path(), &systems, &[(source, target)])
            .replace("b.item", "b.*")
            .replace("a.item", "a.sale.*");
        std::fs::write(&config, &text).expect("config");
        let (code, said) = command(&config, &["check"]);
        assert_eq!(code, 1, "{said}");
        mend(&config, &a, &b).await;
        let (_, said) = command(&config, &["check"]);
        assert!(!said.contains("no table matches"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_the_log_does_not_carry_is_refused_where_it_is_named_and_else_left_alone() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "ALTER TABLE item ADD COLUMN g int GENERATED ALWAYS AS (qty * 2) STORED")
        .await
        .expect("a");
    b.sql("db", "ALTER TABLE item ADD COLUMN g int").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")]);
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, &text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
    let named = format!("{text}[mappings.columns]\ng = \"g\"\n\"*\" = \"*\"\n");
    std::fs::write(&config, named).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert!(code == 1 && said.contains("public.item.g is computed by the server"), "{said}");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    let rows = "SELECT concat(id, qty, coalesce(g, '-')) FROM item UNION SELECT '' LIMIT 1";
    tidelock_scratch::wait_for("b", SOON, "11-".to_owned(), async || {
        b.one("db", rows).await.expect("b")
    })
    .await
    .expect("b");
    daemon.stop();
}

/// Rows of an unlogged partition do not come through the log, though its table's do.
#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_partition_is_named_with_its_cure() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql(
        "db",
        "CREATE TABLE sold (id int NOT NULL, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
         CREATE TABLE sold_1 PARTITION OF sold FOR VALUES FROM (0) TO (10); \
         CREATE UNLOGGED TABLE \"Sold 2\" PARTITION OF sold FOR VALUES FROM (10) TO (20)",
    )
    .await
    .expect("a");
    b.sql("db", "CREATE TABLE sold (id int NOT NULL PRIMARY KEY, n int)").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[])
        + "[[mappings]]\nfrom = \"a.sold\"\nto = \"b.sold\"\n";
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, text).expect("config");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("its partition public.Sold 2 is unlogged"), "{said}");
    let cure = "ALTER TABLE public.\"Sold 2\" SET LOGGED;";
    let quoted = "ALTER TABLE \"public\".\"Sold 2\" SET LOGGED;";
    assert!(said.contains(cure) || said.contains(quoted), "{said}");
    a.sql("db", quoted).await.expect("cure");
    let (code, said) = command(&config, &["check"]);
    assert_eq!(code, 0, "{said}");
}
