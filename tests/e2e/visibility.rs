//! A change that the log has and no snapshot shows yet: its commit waits for a replica that never answers. A
//! backfill must not read the row as it was before and write that over what the log has brought.

use tidelock_scratch::{Flavour, wait_for};

use super::SOON;
use super::daemon::Daemon;

const ROW: &str = "SELECT qty FROM item WHERE id = 1";

async fn backfills(daemon: &Daemon, target: impl AsyncFn() -> String, release: impl AsyncFnOnce()) {
    let arrived = wait_for("the change", SOON, "2".to_owned(), async || target().await).await;
    assert!(arrived.is_ok(), "{arrived:?}\n{}", daemon.log());
    assert_eq!(daemon.command(&["backfill", "item"]).0, 0);
    // It may take a moment until it is taken up.
    daemon
        .wait("taken up", SOON, |flows| flows[0]["mappings"][0]["snapshot"]["reason"] == "backfill")
        .await;
    // It says that it waits, or it goes on only once the change can be seen: the row never goes back.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(target().await, "2", "{}", daemon.log());
        let flows = daemon.flows();
        assert_ne!(flows[0]["mappings"][0]["snapshot"]["phase"], "done", "{flows:#?}");
    }
    release().await;
    daemon
        .wait("backfilled", SOON, |flows| flows[0]["mappings"][0]["snapshot"]["phase"] == "done")
        .await;
    assert_eq!(target().await, "2", "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_waits_for_a_commit_that_hangs_on_a_synchronous_standby() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'old'), (2, 1, 'old')").await.expect("row");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")]).replace("never", "initial");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "ALTER SYSTEM SET synchronous_standby_names = 'ghost'").await.expect("ghost");
    a.sql("db", "SELECT pg_reload_conf()").await.expect("reload");
    let waiting = wait_for("setting", SOON, "ghost".to_owned(), async || {
        a.one("db", "SHOW synchronous_standby_names").await.expect("show")
    });
    waiting.await.expect("ghost");
    let writer = a.client("db").await.expect("client");
    let hangs = tokio::spawn(async move {
        writer
            .batch_execute("SET synchronous_commit = on; UPDATE item SET qty = 2 WHERE id = 1")
            .await
    });
    backfills(
        &daemon,
        async || b.one("db", ROW).await.unwrap_or_default(),
        async || {
            assert_eq!(
                a.one("db", ROW).await.expect("row"),
                "1",
                "the source does not show it yet"
            );
            a.sql("db", "ALTER SYSTEM RESET synchronous_standby_names").await.expect("reset");
            a.sql("db", "SELECT pg_reload_conf()").await.expect("reload");
        },
    )
    .await;
    hangs.await.expect("task").expect("committed");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_waits_for_a_commit_that_hangs_on_a_semi_synchronous_replica() {
    let (a, b) = (super::mysql().await, super::postgres().await);
    if a.flavour() != Flavour::MariaDb {
        // MySQL keeps it in a plugin that its package does not load.
        return;
    }
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'old'), (2, 1, 'old')").await.expect("row");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")]).replace("never", "initial");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let semi = "SET GLOBAL rpl_semi_sync_master_timeout = 3600000; \
                SET GLOBAL rpl_semi_sync_master_wait_point = AFTER_SYNC; \
                SET GLOBAL rpl_semi_sync_master_enabled = ON";
    a.sql("db", semi).await.expect("semi-sync");
    let mut writer = a.conn("db").await.expect("conn");
    let hangs = tokio::spawn(async move {
        use mysql_async::prelude::Queryable;
        writer.query_drop("UPDATE item SET qty = 2 WHERE id = 1").await
    });
    backfills(
        &daemon,
        async || b.one("db", ROW).await.unwrap_or_default(),
        async || {
            assert_eq!(
                a.one("db", ROW).await.expect("row"),
                "1",
                "the source does not show it yet"
            );
            a.sql("db", "SET GLOBAL rpl_semi_sync_master_enabled = OFF").await.expect("off");
        },
    )
    .await;
    hangs.await.expect("task").expect("committed");
    daemon.stop();
}

/// What is held of a key was logged before we came, and is not to be seen yet when its time comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_owed_waits_over_a_restart_for_a_commit_that_hangs_on_a_synchronous_standby()
 {
    let (a, b) = (super::postgres().await, super::mysql().await);
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'old')").await.expect("row");
    let folder = tempfile::tempdir().expect("folder");
    let systems = [("a", a.url("db")), ("b", b.url("db"))];
    let text = super::config(folder.path(), &systems, &[("a", "b")])
        .replace("\"never\"", "\"initial\"\nthrottle = \"15s\"");
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "ALTER SYSTEM SET synchronous_standby_names = 'ghost'").await.expect("ghost");
    a.sql("db", "SELECT pg_reload_conf()").await.expect("reload");
    let waiting = wait_for("setting", SOON, "ghost".to_owned(), async || {
        a.one("db", "SHOW synchronous_standby_names").await.expect("show")
    });
    waiting.await.expect("ghost");
    // A transaction at something else, for ever, and one that nobody ends: neither is waited for.
    let other = a.client("db").await.expect("client");
    other.batch_execute("BEGIN; INSERT INTO item VALUES (9, 9, 'open')").await.expect("open");
    let sql = "SET synchronous_commit = local; UPDATE item SET note = 'sent' WHERE id = 1";
    a.client("db").await.expect("client").batch_execute(sql).await.expect("local");
    let note = async || b.one("db", "SELECT note FROM item WHERE id = 1").await.unwrap_or_default();
    let sent = wait_for("the first", SOON, "sent".to_owned(), note).await;
    assert!(sent.is_ok(), "{sent:?}\n{}", daemon.log());
    let writer = a.client("db").await.expect("client");
    let hangs = tokio::spawn(async move {
        writer
            .batch_execute("SET synchronous_commit = on; UPDATE item SET qty = 2 WHERE id = 1")
            .await
    });
    let held = async || {
        let sql = "SELECT count(*) FROM tidelock.memory WHERE substr(`key`, 16, 1) = 'h' AND length(value) > 8";
        b.one("db", sql).await.unwrap_or_default()
    };
    let told = wait_for("held", SOON, "1".to_owned(), held).await;
    assert!(told.is_ok(), "{told:?}\n{}", daemon.log());
    daemon.kill_and_start();
    let log = async || daemon.log().contains("reading rows again waits");
    let told = wait_for("it waits", SOON, true, log).await;
    assert!(told.is_ok(), "{told:?}\n{:#?}\n{}", daemon.flows(), daemon.log());
    assert_eq!(a.one("db", ROW).await.expect("row"), "1", "the source does not show it yet");
    a.sql("db", "ALTER SYSTEM RESET synchronous_standby_names").await.expect("reset");
    a.sql("db", "SELECT pg_reload_conf()").await.expect("reload");
    let qty = async || b.one("db", ROW).await.unwrap_or_default();
    let arrived = wait_for("the last state", SOON, "2".to_owned(), qty).await;
    assert!(arrived.is_ok(), "{arrived:?}\n{}", daemon.log());
    hangs.await.expect("task").expect("committed");
    other.batch_execute("ROLLBACK").await.expect("rollback");
    daemon.stop();
}
