//! What mappings do and refuse: poison rows, pause, check, drop.

use tidelock_scratch::wait_for;

use super::SOON;
use super::daemon::{Daemon, command};

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_row_stops_its_mapping_and_no_other() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "CREATE TABLE other (id bigint PRIMARY KEY, qty int NOT NULL)").await.expect("a");
    b.sql(
        "db",
        "CREATE TABLE other (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL, CHECK (qty < 100))",
    )
    .await
    .expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let mut text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    text.push_str("[[mappings]]\nfrom = \"a.other\"\nto = \"b.other\"\nsnapshot = \"never\"\n");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql(
        "db",
        "BEGIN; INSERT INTO item VALUES (1, 1, 'good'); INSERT INTO other VALUES (1, 1); COMMIT",
    )
    .await
    .expect("good");
    a.sql(
        "db",
        "BEGIN; INSERT INTO item VALUES (2, 2, 'good'); INSERT INTO other VALUES (2, 987654321); COMMIT",
    )
    .await
    .expect("bad");
    a.sql(
        "db",
        "BEGIN; INSERT INTO item VALUES (3, 3, 'good'); INSERT INTO other VALUES (3, 3); COMMIT",
    )
    .await
    .expect("good");
    let count = "SELECT count(*) FROM item";
    wait_for("item", SOON, "3".to_owned(), async || b.one("db", count).await.expect("b"))
        .await
        .expect("item");
    let stopped = |flows: &[serde_json::Value]| {
        let other = flows[0]["mappings"]
            .as_array()
            .and_then(|m| m.iter().find(|m| m["name"] == "other").cloned());
        other.is_some_and(|m| m["state"] == "stopped" && m["error"]["code"] == "TL0204")
    };
    daemon.wait("stopped", SOON, stopped).await;
    assert_eq!(
        b.one("db", "SELECT count(*) FROM other").await.expect("b"),
        "1",
        "rows before the poison stay, later ones wait"
    );
    assert!(!daemon.log().contains("987654321"), "a row value in the log:\n{}", daemon.log());
    daemon.kill_and_start();
    daemon.streaming().await;
    daemon.wait("still stopped", SOON, stopped).await;
    a.sql("db", "INSERT INTO item VALUES (4, 4, 'good')").await.expect("good");
    wait_for("item", SOON, "4".to_owned(), async || b.one("db", count).await.expect("b"))
        .await
        .expect("item");
    assert_eq!(daemon.command(&["status"]).0, 1, "an exception is open");
    daemon.stop();
    let config = folder.path().join("tidelock.toml");
    let (code, text) = command(&config, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&text).expect("json");
    let flow = &status["flows"][0];
    assert_eq!((code, &flow["state"], &flow["exceptions_open"]), (1, &"stopped".into(), &1.into()));
    assert!(flow["applied_position"].is_string() && flow["error"].is_null(), "{text}");
    let other = flow["mappings"].as_array().and_then(|m| m.iter().find(|m| m["name"] == "other"));
    let error = &other.expect("other")["error"];
    assert_eq!(error["code"], "TL0204", "{text}");
    assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_daemon_shows_what_targets_hold_though_one_is_away() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b"), ("b", "a")]);
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    assert_eq!(daemon.command(&["pause", "a:b"]).0, 0);
    assert_eq!(daemon.command(&["status"]).0, 0, "a pause is no finding");
    daemon.stop();
    let config = folder.path().join("tidelock.toml");
    let look = || {
        let (code, text) = command(&config, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&text).expect("json");
        (code, status["flows"].as_array().cloned().unwrap_or_default())
    };
    let (code, flows) = look();
    assert_eq!(
        (code, &flows[0]["state"], &flows[1]["state"]),
        (0, &"paused".into(), &"stopped".into())
    );
    assert!(
        flows
            .iter()
            .all(|f| f["applied_position"].is_string() && f["mappings"][0]["name"] == "item")
    );
    a.stop().await.expect("stop");
    let (code, flows) = look();
    assert_eq!((code, &flows[0]["state"]), (1, &"paused".into()), "b still answers");
    assert!(flows[0]["applied_position"].is_string() && flows[0]["error"].is_null());
    assert_eq!(
        (&flows[1]["state"], &flows[1]["error"]["code"]),
        (&"stopped".into(), &"TL0001".into())
    );
    let (code, text) = command(&config, &["status"]);
    assert!(code == 1 && text.contains("TL0001 a: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lasts_over_a_restart_until_resumed_and_drop_leaves_nothing() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    assert_eq!(daemon.command(&["pause", "a:b"]).0, 0);
    daemon.wait("paused", SOON, |flows| flows[0]["state"] == "paused").await;
    daemon.kill_and_start();
    daemon.wait("paused", SOON, |flows| flows[0]["state"] == "paused").await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'while paused')").await.expect("insert");
    let (code, text) = daemon.command(&["pause", "b:a"]);
    assert_eq!(code, 2);
    assert!(text.contains("known flows: a:b"), "{text}");
    assert_eq!(daemon.command(&["resume", "a:b"]).0, 0);
    wait_for("b", SOON, "1".to_owned(), async || {
        b.one("db", "SELECT count(*) FROM item").await.expect("b")
    })
    .await
    .expect("b");
    assert_eq!(daemon.command(&["drop"]).0, 2, "a running flow is not dropped");
    daemon.stop();
    let config = folder.path().join("tidelock.toml");
    let (code, text) = command(&config, &["status"]);
    assert!(code == 0 && text.contains("stopped") && !text.contains("left over"), "{text}");
    a.sql("db", "SELECT pg_create_logical_replication_slot('tidelock_test_gone', 'pgoutput')")
        .await
        .expect("slot");
    let (_, text) = command(&config, &["status"]);
    assert!(
        text.contains("left over at a: replication slot tidelock_test_gone; no flow uses it"),
        "{text}"
    );
    a.sql("db", "SELECT pg_drop_replication_slot('tidelock_test_gone')").await.expect("drop");
    // Of a pipeline `test-two`: its business.
    let other = "SELECT pg_create_logical_replication_slot('tidelock_test_two_b', 'pgoutput')";
    a.sql("db", other).await.expect("slot");
    let (_, text) = command(&config, &["status"]);
    assert!(!text.contains("left over"), "{text}");
    a.sql("db", "SELECT pg_drop_replication_slot('tidelock_test_two_b')").await.expect("drop");
    let (code, text) = command(&config, &["drop"]);
    assert_eq!(code, 0, "{text}");
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)";
    assert_eq!(a.one("db", left).await.expect("a"), "0");
    assert_eq!(b.one("db", "SELECT count(*) FROM tidelock.progress").await.expect("b"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_problem_before_anything_runs() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    b.sql("db", "CREATE TABLE wrong (id bigint NOT NULL PRIMARY KEY, qty point, note varchar(200) NOT NULL, more int NOT NULL)").await.expect("b");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, super::config(folder.path(), &systems, &[("a", "b")])).expect("config");
    let (code, text) = command(&config, &["check"]);
    assert_eq!(code, 0, "{text}");
    let bad =
        super::config(folder.path(), &systems, &[("a", "b")]).replace("\"b.item\"", "\"b.wrong\"");
    std::fs::write(&config, &bad).expect("config");
    let (code, text) = command(&config, &["check"]);
    assert_eq!(code, 1, "{text}");
    for words in ["qty", "point", "more is NOT NULL without a default"] {
        assert!(text.contains(words), "{words} not in\n{text}");
    }
    std::fs::write(&config, bad.replace("b.wrong", "b.itm")).expect("config");
    let (code, text) = command(&config, &["check"]);
    assert!(code == 1 && text.contains("did you mean db.item?"), "{text}");
    let long = "x".repeat(64);
    let mapped = format!("\nkey = [\"{long}\"]\n[mappings.columns]\n{long} = \"{long}\"\n");
    std::fs::write(&config, bad.replace("b.wrong", "b.item") + &mapped).expect("config");
    let (code, text) = command(&config, &["check"]);
    let words = format!(
        "mapping item: the source column {long} is 64 bytes long, a name there has at most 63"
    );
    assert!(code == 1 && text.contains(&words) && text.contains("\n1 problem"), "{text}");
    let same =
        super::config(folder.path(), &[("a", a.url("db")), ("b", a.url("db"))], &[("a", "b")]);
    let daemon = Daemon::start(folder.path(), &same);
    assert_eq!(daemon.halted("a:b").await.0, "TL0022");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_a_changed_mapping_and_leaves_other_flows_alone() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", a.url("db")), ("b", b.url("db"))],
        &[("a", "b"), ("b", "a")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let config = folder.path().join("tidelock.toml");
    std::fs::write(&config, text.replace("version = 1", "version = 2")).expect("config");
    let (code, said) = daemon.command(&["reload"]);
    assert!(code == 2 && said.contains("version must be 1"), "{said}");
    std::fs::write(&config, &text).expect("config");
    assert!(daemon.command(&["reload"]).1.contains("nothing changed"));
    let changed = text.replacen(
        "snapshot = \"never\"\n",
        "snapshot = \"never\"\non_delete = \"ignore\"\n",
        1,
    );
    std::fs::write(&config, changed).expect("config");
    let (code, said) = daemon.command(&["reload"]);
    assert!(code == 0 && said.contains("took up a:b") && !said.contains("b:a"), "{said}");
    // No waiting: the answer came when it streamed.
    assert_eq!(daemon.flows()[0]["state"], "streaming", "{said}");
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x'), (2, 2, 'y')").await.expect("insert");
    a.sql("db", "DELETE FROM item WHERE id = 1; UPDATE item SET qty = 5 WHERE id = 2")
        .await
        .expect("delete");
    wait_for("b", SOON, "6".to_owned(), async || {
        b.one("db", "SELECT sum(qty) FROM item").await.expect("b")
    })
    .await
    .expect("b");
    let (code, said) = daemon.command(&["pause", "a:b/item"]);
    let paused = daemon.flows()[0]["mappings"][0]["state"] == "paused";
    assert!((code, said.trim(), paused) == (0, "paused a:b/item", true), "{said}");
    let (code, said) = daemon.command(&["pause"]);
    assert!(code == 0 && said.contains("paused a:b, b:a"), "{said}");
    assert!(daemon.flows().iter().all(|f| f["state"] == "paused"));
    assert_eq!(daemon.command(&["resume"]).0, 0);
    std::fs::write(&config, text.replacen("b.item", "b.missing", 1)).expect("config");
    let (code, said) = daemon.command(&["reload"]);
    assert!(code == 1 && said.contains("a:b does not run:\nerror[TL0023]"), "{code} {said}");
    assert!(!daemon.log().contains('\u{1b}'), "colours in a file");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_names_stand_whole_in_the_tables_of_every_server() {
    let (pg, my) = (super::postgres().await, super::mysql().await);
    my.sql("db", "CREATE TABLE poor (id bigint NOT NULL PRIMARY KEY, CHECK (id < 5))")
        .await
        .expect("poor");
    pg.sql("db", "CREATE TABLE poor (id bigint PRIMARY KEY, CHECK (id < 9))").await.expect("poor");
    let (a, b) = ("ä".repeat(64), "b".repeat(63));
    let folder = tempfile::tempdir().expect("folder");
    let systems = [(a.as_str(), pg.url("db")), (b.as_str(), my.url("db"))];
    let text = super::config(folder.path(), &[], &[])
        .replace("\"test\"", &format!("\"{}\"", "p̈".repeat(32)));
    let mapping = "m̈".repeat(95);
    let mut text = systems
        .iter()
        .fold(text, |text, (name, url)| format!("{text}[systems.\"{name}\"]\nurl = {url:?}\n"));
    for (from, to) in [(&a, &b), (&b, &a)] {
        text.push_str(&format!(
            "[[mappings]]\nname = \"{mapping}\"\nfrom = '\"{from}\".poor'\nto = '\"{to}\".poor'\nsnapshot = \"never\"\n"
        ));
    }
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    assert_eq!(daemon.command(&["pause"]).0, 0);
    daemon.wait("paused", SOON, |flows| flows.iter().all(|f| f["state"] == "paused")).await;
    daemon.kill_and_start();
    daemon.wait("paused", SOON, |flows| flows.iter().all(|f| f["state"] == "paused")).await;
    assert_eq!(daemon.command(&["resume"]).0, 0);
    daemon.streaming().await;
    pg.sql("db", "INSERT INTO poor VALUES (7)").await.expect("poison");
    let stopped = |flows: &[serde_json::Value]| {
        flows.iter().any(|f| {
            f["mappings"].as_array().is_some_and(|m| m.iter().any(|m| m["state"] == "stopped"))
        })
    };
    daemon.wait("stopped", SOON, stopped).await;
    daemon.kill_and_start();
    daemon.wait("still stopped", SOON, stopped).await;
    let kept = "SELECT CONCAT_WS(',', CHAR_LENGTH(pipeline), CHAR_LENGTH(flow), CHAR_LENGTH(mapping)) FROM tidelock.state";
    assert_eq!(my.one("db", kept).await.expect("state"), "64,128,190");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_moves_what_is_served_and_keeps_it_where_the_new_address_is_taken() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let plain =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        listener.local_addr().expect("address").to_string()
    };
    let at = |address: &str| {
        plain.replace("version = 1\n", &format!("version = 1\nlisten = {address:?}\n"))
    };
    let served = |address: &str| match std::net::TcpStream::connect(address) {
        Err(_) => false,
        Ok(mut stream) => {
            use std::io::{Read, Write};
            let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut answer = String::new();
            // A listener that is being closed resets who was about to be taken.
            stream.write_all(request.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.starts_with("HTTP/1.1 200")
        }
    };
    let (first, second) = (free(), free());
    let daemon = Daemon::start(folder.path(), &at(&first));
    daemon.streaming().await;
    assert!(served(&first) && !served(&second));
    let config = folder.path().join("tidelock.toml");
    let reload = |text: String| {
        std::fs::write(&config, text).expect("config");
        daemon.command(&["reload"])
    };
    let (code, said) = reload(at(&second));
    assert!(code == 0 && said.contains(&format!("listens on {second}")), "{said}");
    assert!(!said.contains("a:b"), "{said}");
    wait_for("moved", SOON, true, async || served(&second) && !served(&first))
        .await
        .expect("moved");

    let taken = std::net::TcpListener::bind(&first).expect("taken");
    let changed = at(&first).replacen("\"never\"\n", "\"never\"\non_delete = \"ignore\"\n", 1);
    let (code, said) = reload(changed.clone());
    assert!(code == 2 && said.contains(&format!("cannot listen on {first}")), "{said}");
    assert!(said.contains(&format!("{second} is still served")), "{said}");
    assert!(served(&second));
    drop(taken);
    let (code, said) = reload(changed);
    assert!(code == 0 && said.contains("took up a:b; listens on"), "{said}");
    wait_for("back", SOON, true, async || served(&first) && !served(&second)).await.expect("back");
    let (code, said) = reload(plain.clone());
    assert!(code == 0 && said.contains("listens no more"), "{said}");
    wait_for("nothing", SOON, false, async || served(&first)).await.expect("nothing");
    assert!(reload(plain.clone()).1.contains("nothing changed"));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_or_column_stops_its_mapping_and_a_new_column_is_brought() {
    for postgres in [true, false] {
        let (pg, my) = (super::postgres().await, super::mysql().await);
        let sql = async |source: bool, sql: &str| {
            if source == postgres {
                pg.sql("db", sql).await.expect("postgres");
            } else {
                my.sql("db", sql).await.expect("mysql");
            }
        };
        for table in ["gone", "thin"] {
            let create =
                format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, a int, b int)");
            sql(true, &create).await;
            sql(false, &create).await;
        }
        let (a, b) =
            if postgres { (pg.url("db"), my.url("db")) } else { (my.url("db"), pg.url("db")) };
        let folder = tempfile::tempdir().expect("folder");
        let mut text = super::config(folder.path(), &[("a", a), ("b", b)], &[("a", "b")]);
        for table in ["gone", "thin"] {
            text.push_str(&format!("[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\n"));
        }
        let mut daemon = Daemon::start(folder.path(), &text);
        daemon.streaming().await;
        let state = |flows: &[serde_json::Value], name: &str| {
            let found = flows[0]["mappings"]
                .as_array()
                .and_then(|m| m.iter().find(|m| m["name"] == name).cloned());
            found.map_or(String::new(), |m| m["state"].as_str().unwrap_or_default().to_owned())
        };
        sql(true, "INSERT INTO thin VALUES (1, 1, 1)").await;
        sql(true, "DROP TABLE gone").await;
        sql(true, "ALTER TABLE thin DROP COLUMN b").await;
        sql(true, "INSERT INTO thin VALUES (2, 2)").await;
        sql(true, "INSERT INTO item VALUES (1, 1, 'others go on')").await;
        daemon
            .wait("both stopped", SOON, |flows| {
                state(flows, "thin") == "stopped" && state(flows, "item") == "streaming"
            })
            .await;
        daemon.kill_and_start();
        daemon
            .wait("both stopped after a restart", SOON, |flows| {
                flows[0]["state"] == "streaming"
                    && ["thin", "gone"].iter().all(|m| state(flows, m) == "stopped")
            })
            .await;
        let count = async |query: &str| {
            if postgres {
                my.one("db", query).await.expect("my")
            } else {
                pg.one("db", query).await.expect("pg")
            }
        };
        wait_for("item", SOON, "1".to_owned(), async || count("SELECT count(*) FROM item").await)
            .await
            .expect("item");
        assert_eq!(count("SELECT count(*) FROM thin").await, "1");
        // Mended: the column is back, with other values than before.
        sql(true, "ALTER TABLE thin ADD COLUMN b int DEFAULT 7").await;
        let (code, said) = daemon.command(&["resync", "thin"]);
        assert_eq!(code, 0, "{said}");
        wait_for("thin", SOON, "14".to_owned(), async || count("SELECT sum(b) FROM thin").await)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
        // A column that both sides get is brought for the rows from before, too.
        sql(false, "ALTER TABLE item ADD COLUMN more int").await;
        sql(true, "ALTER TABLE item ADD COLUMN more int DEFAULT 3").await;
        daemon.kill_and_start();
        wait_for("more", SOON, "3".to_owned(), async || count("SELECT sum(more) FROM item").await)
            .await
            .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
        daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_end_of_a_log_session_ends_its_flow() {
    let (pg, my) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", my.url("db")), ("b", pg.url("db"))],
        &[("a", "b"), ("b", "a")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    for round in 0..15 {
        let dumps = "SELECT group_concat(id) FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
        for id in my.one("db", dumps).await.expect("dumps").split(',').filter(|id| !id.is_empty()) {
            // It may have ended by itself meanwhile.
            let _gone = my.sql("db", &format!("KILL {id}")).await;
        }
        pg.sql("db", "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            .await
            .expect("kill");
        my.sql("db", &format!("INSERT INTO item VALUES ({round}, 1, 'x')")).await.expect("my");
        pg.sql("db", &format!("INSERT INTO item VALUES ({}, 1, 'y')", 1000 + round))
            .await
            .expect("pg");
        let count = "SELECT count(*) FROM item";
        for _ in 0..2 {
            wait_for("rows", SOON, ((round + 1) * 2).to_string(), async || {
                let (a, b) = (my.one("db", count).await, pg.one("db", count).await);
                let (a, b) = (a.expect("my"), b.expect("pg"));
                if a == b { a } else { format!("{a} {b}") }
            })
            .await
            .unwrap_or_else(|e| panic!("{e}\n{:#?}\n{}", daemon.flows(), daemon.log()));
        }
    }
    daemon.stop();
}
