//! Histories that broke: named and halted, never skipped over.

use tidelock_scratch::{Direction, Proxy, When, wait_for};

use super::daemon::Daemon;
use super::{ITEMS, SOON};

const COUNT: &str = "SELECT count(*) FROM item";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_moved_slot_halts_the_flow_by_name() {
    let (a, b) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    wait_for("b", SOON, "1".to_owned(), async || b.one("db", COUNT).await.expect("b"))
        .await
        .expect("b");
    daemon.kill();
    let slot = a.one("db", "SELECT slot_name FROM pg_replication_slots").await.expect("slot");
    wait_for("free", SOON, "0".to_owned(), async || {
        a.one("db", "SELECT count(*) FROM pg_replication_slots WHERE active").await.expect("slot")
    })
    .await
    .expect("free");
    a.sql("db", &format!("SELECT pg_drop_replication_slot('{slot}')")).await.expect("drop");
    daemon.start_again();
    let (code, message) = daemon.halted("a:b").await;
    assert_eq!(code, "TL0101", "{message}");
    daemon.kill();
    a.sql("db", "INSERT INTO item VALUES (2, 2, 'lost between')").await.expect("insert");
    a.sql("db", &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .await
        .expect("create");
    daemon.start_again();
    let (code, message) = daemon.halted("a:b").await;
    assert_eq!(code, "TL0102", "{message}");
    assert_eq!(b.one("db", COUNT).await.expect("b"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_binlog_halts_the_flow_by_name() {
    let (a, b) = (super::mysql().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    a.sql("db", "INSERT INTO item VALUES (1, 1, 'x')").await.expect("insert");
    wait_for("b", SOON, "1".to_owned(), async || b.one("db", COUNT).await.expect("b"))
        .await
        .expect("b");
    daemon.kill();
    a.sql("db", "INSERT INTO item VALUES (2, 2, 'y')").await.expect("insert");
    a.sql("db", "FLUSH BINARY LOGS").await.expect("flush");
    a.sql("db", "INSERT INTO item VALUES (3, 3, 'z')").await.expect("insert");
    let last = a
        .rows("db", "SHOW BINARY LOGS")
        .await
        .expect("logs")
        .pop()
        .and_then(|row| row[0].clone())
        .expect("log");
    // The dump thread of the killed process may hold the file for a moment.
    wait_for("purged", SOON, "1".to_owned(), async || {
        a.sql("db", &format!("PURGE BINARY LOGS TO '{last}'")).await.expect("purge");
        a.rows("db", "SHOW BINARY LOGS").await.expect("logs").len().to_string()
    })
    .await
    .expect("purged");
    daemon.start_again();
    let (code, message) = daemon.halted("a:b").await;
    assert_eq!(code, "TL0104", "{message}");
    assert_eq!(b.one("db", COUNT).await.expect("b"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_around_commit_changes_nothing() {
    let (a, b) = (super::postgres().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let proxy = Proxy::start("127.0.0.1", b.port()).await.expect("proxy");
    let through = b.url("db").replace(&format!(":{}/", b.port()), &format!(":{}/", proxy.port()));
    let text = super::config(folder.path(), &[("a", a.url("db")), ("b", through)], &[("a", "b")]);
    b.sql("db", "CREATE TABLE seen (n serial, id bigint); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN INSERT INTO public.seen (id) VALUES (NEW.id); RETURN NULL; END $$; \
        CREATE TRIGGER t AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION note()").await.expect("audit");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let mut id = 0;
    for when in [
        When::BeforeForwarding,
        When::AfterForwarding,
        When::BeforeForwarding,
        When::AfterForwarding,
    ] {
        proxy.cut_when(Direction::ToServer, b"COMMIT", when, 0);
        id += 1;
        a.sql("db", &format!("INSERT INTO item VALUES ({id}, {id}, 'cut')")).await.expect("insert");
        wait_for("b", SOON, id.to_string(), async || b.one("db", COUNT).await.expect("b"))
            .await
            .expect("b");
        daemon.streaming().await;
    }
    assert!(proxy.cuts() >= 4, "only {} cuts", proxy.cuts());
    assert_eq!(a.rows("db", ITEMS).await.expect("a"), b.rows("db", ITEMS).await.expect("b"));
    assert_eq!(
        b.one("db", "SELECT count(*) = count(DISTINCT id) FROM seen").await.expect("seen"),
        "t"
    );
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_gone_old_or_damaged_is_survived() {
    let (a, b) = (super::mysql().await, super::postgres().await);
    let folder = tempfile::tempdir().expect("folder");
    let text =
        super::config(folder.path(), &[("a", a.url("db")), ("b", b.url("db"))], &[("a", "b")]);
    let mut daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let store = folder.path().join("checkpoint");
    let mut old = None;
    for (id, harm) in ["none", "deleted", "damaged", "truncated", "old"].iter().enumerate() {
        a.sql("db", &format!("INSERT INTO item VALUES ({id}, 1, '{harm}')")).await.expect("insert");
        let rows = (id + 1).to_string();
        wait_for("b", SOON, rows, async || b.one("db", COUNT).await.expect("b")).await.expect("b");
        daemon.kill();
        let file = store.join("db");
        let bytes = std::fs::read(&file).expect("store");
        let kept = old.get_or_insert_with(|| bytes.clone());
        match *harm {
            "deleted" => std::fs::remove_dir_all(&store).expect("delete"),
            "damaged" => std::fs::write(&file, bytes.iter().map(|b| b ^ 0x5a).collect::<Vec<_>>())
                .expect("damage"),
            "truncated" => std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("truncate"),
            "old" => std::fs::write(&file, kept).expect("old"),
            _ => {}
        }
        daemon.start_again();
        daemon.streaming().await;
    }
    a.sql("db", "UPDATE item SET qty = 2").await.expect("update");
    wait_for("b", SOON, "10".to_owned(), async || {
        b.one("db", "SELECT sum(qty) FROM item").await.expect("b")
    })
    .await
    .expect("b");
    daemon.stop();
}
