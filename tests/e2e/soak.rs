//! Kills under load, of everything, in both directions; and the proof that nothing came twice.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidelock::demo::World;
use tidelock::demo::compare::{agree, compare};
use tidelock::demo::work::{Sales, Warehouse, master_data};
use tidelock_scratch::{MysqlOptions, PostgresOptions, wait_until};

use super::daemon::Daemon;
use super::{SOON, soaking};

/// Counts every update of one table on each side: source and target must count the same.
const COUNT_ERP: &str = "
    CREATE TABLE effects (name text PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO effects VALUES ('contract', 0), ('stock', 0);
    CREATE FUNCTION count_effect() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN UPDATE public.effects SET n = n + 1 WHERE name = TG_TABLE_NAME; RETURN NULL; END $$;
    CREATE TRIGGER c AFTER UPDATE ON sale.contract FOR EACH ROW EXECUTE FUNCTION count_effect();
    CREATE TRIGGER c AFTER UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION count_effect();";
const COUNT_CRM: &str = "
    CREATE TABLE effects (name varchar(20) PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO effects VALUES ('contract', 0), ('stock', 0);
    CREATE TRIGGER c1 AFTER UPDATE ON orders FOR EACH ROW UPDATE effects SET n = n + 1 WHERE name = 'contract';
    CREATE TRIGGER c2 AFTER UPDATE ON stock FOR EACH ROW UPDATE effects SET n = n + 1 WHERE name = 'stock';";

async fn settle(world: &World, daemon: &Daemon) {
    let began = Instant::now();
    loop {
        let compared = compare(world).await.expect("compare");
        let level =
            daemon.flows().iter().all(|f| f["state"] == "streaming" && f["lag_seconds"] == 0.0);
        if agree(&compared) && level {
            return;
        }
        assert!(
            began.elapsed() < SOON,
            "not level: {compared:#?}\n{:#?}\n{}",
            daemon.flows(),
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_of_tidelock_loses_or_doubles_a_change() {
    let rounds = if soaking() { 100 } else { 10 };
    let seed = rand::rng().random();
    println!("seed {seed}, {rounds} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let world =
        World::over(PostgresOptions::new(), MysqlOptions::of_matrix()).await.expect("world");
    world.erp.sql("erp", COUNT_ERP).await.expect("erp triggers");
    world.crm.sql("crm", COUNT_CRM).await.expect("crm triggers");
    let folder = tempfile::tempdir().expect("folder");
    let mut daemon = Daemon::start(folder.path(), &world.config(folder.path(), None));
    daemon.streaming().await;
    master_data(&world).await.expect("master data");
    let mut sales = Sales::begin(&world, seed).await.expect("sales");
    let mut warehouse = Warehouse::begin(&world, seed).await.expect("warehouse");
    let (mut transactions, began) = (0u64, Instant::now());
    for _ in 0..rounds {
        let until = Instant::now() + Duration::from_millis(random.random_range(300..1500));
        while Instant::now() < until {
            tokio::try_join!(sales.transaction(), warehouse.transaction()).expect("work");
            transactions += 2;
        }
        daemon.kill_and_start();
    }
    let rate = transactions as f64 / began.elapsed().as_secs_f64();
    println!("{transactions} transactions, {rate:.0} a second");
    settle(&world, &daemon).await;
    for name in ["contract", "stock"] {
        let sql = format!("SELECT n FROM effects WHERE name = '{name}'");
        let erp = world.erp.one("erp", &sql).await.expect("erp");
        let crm = world.crm.one("crm", &sql).await.expect("crm");
        assert_eq!(erp, crm, "updates of {name} took effect another number of times");
        println!("{name}: {erp} updates, each took effect once");
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_crash_of_a_database_loses_a_change() {
    let world = World::over(PostgresOptions::new().durable(), MysqlOptions::of_matrix().durable())
        .await
        .expect("world");
    let folder = tempfile::tempdir().expect("folder");
    let daemon = Daemon::start(folder.path(), &world.config(folder.path(), None));
    daemon.streaming().await;
    master_data(&world).await.expect("master data");
    for round in 0..if soaking() { 20 } else { 2 } {
        let mut sales = Sales::begin(&world, round).await.expect("sales");
        let mut warehouse = Warehouse::begin(&world, round).await.expect("warehouse");
        sales.go_on_from(1_000 * round as i64);
        warehouse.go_on_from(1_000 * round as i64);
        for _ in 0..60 {
            tokio::try_join!(sales.transaction(), warehouse.transaction()).expect("work");
        }
        if round % 2 == 0 {
            world.erp.kill9().await.expect("kill");
            world.erp.start_again().await.expect("start");
        } else {
            world.crm.kill9().await.expect("kill");
            world.crm.start_again().await.expect("start");
        }
    }
    settle(&world, &daemon).await;
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_transaction_is_applied_whole_in_bounded_memory() {
    let rows = if soaking() { 2_000_000 } else { 60_000 };
    let (source, target) = (super::postgres().await, super::mysql().await);
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", source.url("db")), ("b", target.url("db"))],
        &[("a", "b")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let began = Instant::now();
    let sql = format!(
        "INSERT INTO item SELECT n, n % 1000, 'note ' || n FROM generate_series(1, {rows}) n"
    );
    source.sql("db", &sql).await.expect("insert");
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let count = target.one("db", "SELECT count(*) FROM item").await.expect("count");
        seen.insert(count.clone());
        if count == rows.to_string() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(900), "{count}\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(
        seen.iter().all(|n| n == "0" || *n == rows.to_string()),
        "a part of a transaction was seen: {seen:?}"
    );
    println!(
        "{rows} rows in {:.1} s, peak {} kB",
        began.elapsed().as_secs_f64(),
        daemon.peak_rss_kb()
    );
    assert!(daemon.peak_rss_kb() < 256 << 10, "peak {} kB", daemon.peak_rss_kb());
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_of_others_pins_no_log_and_makes_no_lag() {
    let wal = if soaking() { 2048u64 } else { 160 } << 20;
    let (source, target) = (super::postgres().await, super::mysql().await);
    source.sql("db", "CREATE TABLE noise (id bigint PRIMARY KEY, note text)").await.expect("noise");
    let folder = tempfile::tempdir().expect("folder");
    let text = super::config(
        folder.path(),
        &[("a", source.url("db")), ("b", target.url("db"))],
        &[("a", "b")],
    );
    let daemon = Daemon::start(folder.path(), &text);
    daemon.streaming().await;
    let number = async |sql: &str| -> u64 {
        source.one("db", sql).await.expect("number").parse().expect("number")
    };
    let written = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint";
    let begin = number(written).await;
    let (mut id, mut most) = (0u64, 0.0f64);
    let began = Instant::now();
    while number(written).await - begin < wal {
        let sql = format!(
            "INSERT INTO noise SELECT n, repeat(md5(n::text), 4) FROM generate_series({id}, {}) n",
            id + 4_999
        );
        source.sql("db", &sql).await.expect("noise");
        id += 5_000;
        for flow in daemon.flows() {
            most = most.max(flow["lag_seconds"].as_f64().unwrap_or(0.0));
        }
    }
    let wrote = began.elapsed();
    let ended = Instant::now();
    let retained = "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots";
    wait_until("retained WAL below 64 MB", Duration::from_secs(60), async || {
        number(retained).await < 64 << 20
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}", daemon.log()));
    println!(
        "{} MB of foreign WAL in {:.1} s, lag at most {most:.1} s, retained WAL below 64 MB {:.1} s later",
        wal >> 20,
        wrote.as_secs_f64(),
        ended.elapsed().as_secs_f64()
    );
    daemon.wait("level", SOON, |flows| flows.iter().all(|f| f["lag_seconds"] == 0.0)).await;
    if soaking() {
        assert!(most <= 2.0, "foreign traffic made a lag of {most} s");
    }
    source.sql("db", "INSERT INTO item VALUES (1, 1, 'after the noise')").await.expect("item");
    wait_until("the mapped row", SOON, async || {
        target.one("db", "SELECT count(*) FROM item").await.expect("count") == "1"
    })
    .await
    .expect("item");
    daemon.stop();
}
