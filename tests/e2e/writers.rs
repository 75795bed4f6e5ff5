//! What others do at a server and no log tells as it should: transactions that are decided later, statements in place of rows,
//! conflicts that are none.

use super::SOON;
use super::daemon::Daemon;
use super::schema::{OTHER, Pair, SUM, mapping};
use super::snapshot::Side;

/// Waits until the daemon has said something.
async fn said(daemon: &Daemon, what: &str) {
    daemon.wait(what, SOON, |_| daemon.log().contains(what)).await;
}

/// The rows of a prepared transaction are logged before anybody sees them, and none is logged when they are seen: a copy
/// that does not wait for it would never have them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_xa_transaction_stop_their_mapping_and_a_resync_waits_for_its_end() {
    let mut pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    let xa = |name: &str, sql: &str| {
        format!("XA START '{name}'; {sql}; XA END '{name}'; XA PREPARE '{name}'")
    };
    pair.source.sql(&xa("x", "INSERT INTO item VALUES (4, 40, 'prepared')")).await;
    let hint = pair.stops("item", "TL0106").await;
    assert!(hint.contains("XA RECOVER"), "{hint}");
    pair.source.sql("INSERT INTO item VALUES (5, 50, 'after')").await;
    pair.resync("item");
    said(&pair.daemon, "copying waits for 1 prepared transaction").await;
    let waits = |flows: &[serde_json::Value]| {
        Pair::mapping(flows, "item")["notes"].to_string().contains("prepared")
    };
    pair.daemon.wait("told", SOON, waits).await;
    pair.others_flow().await;
    pair.daemon.kill_and_start();
    pair.others_flow().await;
    pair.source.sql("XA COMMIT 'x'").await;
    pair.equal(SUM, "5 15 96").await;
    // One that writes nothing mapped is nobody's business.
    pair.source.sql("CREATE TABLE unmapped (id int PRIMARY KEY)").await;
    pair.source.sql(&xa("y", "INSERT INTO unmapped VALUES (1)")).await;
    pair.source.sql("INSERT INTO item VALUES (6, 60, 'followed')").await;
    pair.equal(SUM, "6 21 156").await;
    pair.source.sql("XA ROLLBACK 'y'").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_has_the_rows_of_a_transaction_that_was_prepared_before_it() {
    let (source, target) = (Side::new(false).await, Side::new(true).await);
    source
        .sql("XA START 'x'; INSERT INTO item VALUES (1, 1, 'prepared'); XA END 'x'; XA PREPARE 'x'")
        .await;
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", source.url()), ("b", target.url())];
    let text = super::config(folder.path(), &systems, &[]) + &mapping("item", "");
    let daemon = Daemon::start(folder.path(), &text);
    said(&daemon, "copying waits for 1 prepared transaction").await;
    source.sql("XA COMMIT 'x'").await;
    daemon.streaming().await;
    source.sql("INSERT INTO item VALUES (2, 2, 'followed')").await;
    let both = async || target.one(SUM).await;
    tidelock_scratch::wait_for("both", SOON, "2 3 3".to_owned(), both).await.expect("both");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_logged_as_a_statement_stops_the_mapping_of_its_table_only() {
    let pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    let statement = |sql: &str| format!("SET SESSION binlog_format = 'STATEMENT'; {sql}");
    // As checksums are made: the mapped table is only read.
    pair.source.sql("CREATE TABLE sums (tbl varchar(20) PRIMARY KEY, n int)").await;
    pair.source.sql(&statement("REPLACE INTO sums SELECT 'item', count(*) FROM db.item")).await;
    pair.source.sql("INSERT INTO item VALUES (4, 4, 'followed')").await;
    pair.equal(SUM, "4 10 10").await;
    pair.source.sql(&statement("UPDATE item SET qty = qty + 1 WHERE id > 2")).await;
    pair.source.sql(&statement("INSERT INTO db.item SELECT 5, 5, 'unlogged'")).await;
    let hint = pair.stops("item", "TL0106").await;
    assert!(hint.contains("binlog_format = ROW"), "{hint}");
    pair.resync("item");
    pair.equal(SUM, "5 15 17").await;
    pair.source.sql("DELETE FROM item WHERE id = 1").await;
    pair.equal(SUM, "4 14 16").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

/// With its file in the log, as one or several blocks, and the statement behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_logged_as_a_statement_stops_the_mapping_of_its_table_only() {
    let pair = Pair::start(false, &[], "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    let Side::My(server) = &pair.source else { unreachable!("a is no MariaDB") };
    let load = |name: &str, rows: std::ops::Range<u64>, into: &str| {
        let lines: String = rows.map(|n| format!("{n}\t{n}\tloaded as a statement\n")).collect();
        let file = server.write_file(name, lines.as_bytes()).expect("a file");
        let file = file.display().to_string().replace('\'', "''");
        format!(
            "SET SESSION binlog_format = 'STATEMENT'; LOAD DATA INFILE '{file}' INTO TABLE {into}"
        )
    };
    pair.source.sql("CREATE TABLE unmapped LIKE item; CREATE DATABASE elsewhere; CREATE TABLE elsewhere.item LIKE item").await;
    pair.source.sql(&load("apart.txt", 1..50_000, "unmapped")).await;
    pair.source.sql(&load("away.txt", 1..10, "elsewhere.item")).await;
    pair.source.sql("INSERT INTO item VALUES (4, 4, 'followed')").await;
    pair.equal(SUM, "4 10 10").await;
    pair.others_flow().await;
    pair.source.sql(&load("it's.txt", 100..50_100, "`item`")).await;
    let hint = pair.stops("item", "TL0106").await;
    assert!(hint.contains("binlog_format = ROW"), "{hint}");
    assert_eq!(pair.target.one(SUM).await, "4 10 10");
    pair.resync("item");
    let sum = pair.source.one(SUM).await;
    assert!(sum.starts_with("50004 "), "{sum}");
    pair.equal(SUM, &sum).await;
    pair.source.sql("DELETE FROM item WHERE id > 100").await;
    pair.equal(SUM, "5 110 110").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

/// What it does to the target is what `on_truncate` says, though the server marks it like a statement about temporary tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_in_a_procedure_that_uses_a_temporary_table_is_one_of_the_table() {
    let more = "on_truncate = \"delete\"";
    let pair = Pair::start(false, &[], "", &mapping("item", more)).await;
    pair.equal(SUM, "3 6 6").await;
    pair.source.sql("CREATE PROCEDURE renew() BEGIN CREATE TEMPORARY TABLE fresh AS SELECT id + 1 AS id, qty, note FROM item; \
         TRUNCATE TABLE item; INSERT INTO item SELECT * FROM fresh; DROP TEMPORARY TABLE fresh; END").await;
    pair.source.sql("CALL renew()").await;
    pair.equal(SUM, "3 9 6").await;
    let own = "SET SESSION binlog_format = 'MIXED'; CREATE TEMPORARY TABLE item (id int); TRUNCATE TABLE item; INSERT INTO item VALUES (5)";
    pair.source.sql(own).await;
    pair.source.sql("INSERT INTO item VALUES (9, 9, 'followed')").await;
    pair.equal(SUM, "4 18 15").await;
    pair.others_flow().await;
    pair.daemon.stop();
}

/// A trigger may raise what a deadlock raises. Where nothing was undone, there was none, and trying again has an end. So it is with a lock that
/// nobody has waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_that_a_trigger_makes_up_stops_the_mapping_after_some_tries() {
    for (postgres, number, state) in
        [(true, 1213, ""), (true, 1205, ""), (false, 0, "40P01"), (false, 0, "55P03")]
    {
        let pair = Pair::start(postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        if postgres {
            pair.target.sql(&format!("CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW IF NEW.note = 'bad' THEN SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {number}; END IF")).await;
        } else {
            pair.target.sql(&format!("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.note = 'bad' THEN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$")).await;
            pair.target.sql("CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()").await;
        }
        pair.source.sql("INSERT INTO item VALUES (4, 4, 'bad')").await;
        pair.stops("item", "TL0207").await;
        pair.source.sql("UPDATE item SET note = 'good' WHERE id = 4").await;
        pair.resync("item");
        pair.equal(SUM, "4 10 10").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_trigger_makes_up_stops_the_mapping_while_it_is_copied() {
    for postgres in [true, false] {
        let (source, target) = (Side::new(postgres).await, Side::new(!postgres).await);
        for side in [&source, &target] {
            side.sql(OTHER).await;
        }
        if postgres {
            target.sql("CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW IF NEW.note = 'bad' THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1205; END IF").await;
        } else {
            target.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.note = 'bad' THEN RAISE EXCEPTION 'no' USING ERRCODE = '55P03'; END IF; RETURN NEW; END $$").await;
            target.sql("CREATE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()").await;
        }
        let bad = "INSERT INTO item VALUES (4, 4, 'bad')";
        let pair = Pair::between(source, target, bad, &mapping("item", "")).await;
        pair.stops("item", "TL0207").await;
        pair.source.sql("UPDATE item SET note = 'good' WHERE id = 4").await;
        pair.resync("item");
        pair.equal(SUM, "4 10 10").await;
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

/// A routine tells of a lock that it did not get in its own words. It is free again soon, and nothing need stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_trigger_tells_of_is_waited_for() {
    for postgres in [true, false] {
        let pair = Pair::start(!postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        let (table, trigger): (&str, &[&str]) = match postgres {
            true => (
                "CREATE TABLE taken (id int PRIMARY KEY); INSERT INTO taken VALUES (1)",
                &[
                    "CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM taken FOR UPDATE NOWAIT; RETURN NEW; \
                     EXCEPTION WHEN OTHERS THEN RAISE EXCEPTION 'not now: %', SQLERRM USING ERRCODE = SQLSTATE; END $$",
                    "CREATE TRIGGER take BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION take()",
                ],
            ),
            false => (
                "CREATE TABLE taken (id int PRIMARY KEY); INSERT INTO taken VALUES (1)",
                &[
                    "CREATE TRIGGER take BEFORE INSERT ON item FOR EACH ROW BEGIN DECLARE n int; SET SESSION innodb_lock_wait_timeout = 0; SELECT id INTO n FROM taken FOR UPDATE; END",
                ],
            ),
        };
        pair.target.sql(table).await;
        for sql in trigger {
            pair.target.sql(sql).await;
        }
        let held = pair.target.hold(&["BEGIN", "SELECT id FROM taken FOR UPDATE"]).await;
        pair.source.sql("INSERT INTO item VALUES (4, 4, 'waits')").await;
        pair.daemon
            .wait("tried again", SOON, |_| pair.daemon.log().matches("retrying").count() >= 3)
            .await;
        drop(held);
        pair.equal(SUM, "4 10 10").await;
        assert_eq!(Pair::mapping(&pair.daemon.flows(), "item")["state"], "streaming");
        pair.others_flow().await;
        pair.daemon.stop();
    }
}

/// A newer binary may have written what this one would misread.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_binary_has_written_is_not_gone_on_with() {
    for postgres in [true, false] {
        let mut pair = Pair::start(postgres, &[], "", &mapping("item", "")).await;
        pair.equal(SUM, "3 6 6").await;
        pair.daemon.kill();
        let format = |value: &str, key: &str| {
            format!("UPDATE tidelock.memory SET value = '{value}' WHERE {key} = 'format'")
        };
        let (newer, ours) = match postgres {
            true => (format("9", "`key`"), format("1", "`key`")),
            false => (format("9", "key"), format("1", "key")),
        };
        pair.target.sql(&newer).await;
        pair.source.sql("INSERT INTO item VALUES (4, 4, 'later')").await;
        pair.daemon.start_again();
        let (code, message) = pair.daemon.halted("a:b").await;
        assert!(code == "TL0023" && message.contains("newer"), "{code} {message}");
        assert_eq!(pair.target.one(SUM).await, "3 6 6");
        pair.target.sql(&ours).await;
        pair.daemon.kill_and_start();
        pair.equal(SUM, "4 10 10").await;
        pair.daemon.stop();
    }
}

/// What an online schema changer leaves out of its copy, and what becomes of a 0 where numbers begin to be given.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_alter_left_out_or_numbered_anew_are_compared() {
    let (source, target) = (Side::new(false).await, Side::new(true).await);
    for side in [&source, &target] {
        side.sql(OTHER).await;
    }
    let pair = Pair::between(source, target, "", &mapping("item", "")).await;
    pair.equal(SUM, "3 6 6").await;
    pair.source.sql("UPDATE item SET note = 'two' WHERE id = 3").await;
    for sql in [
        "CREATE TABLE _item_gho LIKE item",
        "ALTER TABLE _item_gho ADD UNIQUE (note)",
        "INSERT IGNORE INTO _item_gho SELECT * FROM item",
        "RENAME TABLE item TO _item_del, _item_gho TO item",
    ] {
        pair.source.sql(sql).await;
    }
    pair.equal(SUM, "2 3 3").await;
    pair.source.sql("INSERT INTO item VALUES (0, 7, 'zero')").await;
    pair.source.sql("UPDATE item SET id = id + 10 WHERE id > 0").await;
    pair.equal(SUM, "3 23 10").await;
    pair.source.sql("ALTER TABLE item MODIFY id bigint NOT NULL AUTO_INCREMENT").await;
    let sum = pair.source.one(SUM).await;
    assert_ne!(sum, "3 23 10", "the server has given the 0 a number");
    pair.equal(SUM, &sum).await;
    pair.others_flow().await;
    pair.daemon.stop();
}
