//! Catch-up, end to end: rows that wait in a source's log, until the last of them is at the target.
//!
//! For each pairing the server's own replication and tidelock apply the same log to servers of the
//! same settings (durable commits), one after the other, in one run: what counts is the ratio.
//! `ROWS` chooses how many rows (default 1,000,000, in transactions of 100).

#[path = "process.rs"]
mod process;

use std::time::{Duration, Instant};

use process::Tidelock;
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};

const TABLE: &str = "CREATE TABLE wide (id bigint NOT NULL PRIMARY KEY, a int NOT NULL, b bigint, c varchar(40) NOT NULL, \
    d varchar(80), e decimal(12,2), f decimal(18,6), g date, h timestamp(6) NULL, i smallint, j double precision, k varchar(20))";

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn report(pair: &str, who: &str, rows: u64, took: Duration, cost: Option<(f64, u64)>) {
    let rate = rows as f64 / took.as_secs_f64();
    let cost = cost.map_or(String::new(), |(cpu, peak)| {
        format!(", {:.2} CPU s a million rows, peak {peak} MB", cpu * 1e6 / rows as f64)
    });
    println!("{pair}: {who:<8} {:.1} s, {rate:.0} rows/s{cost}", took.as_secs_f64());
}

async fn until<F: AsyncFn() -> Result<String, tidelock_scratch::ScratchError>>(
    want: &str,
    look: F,
) -> Outcome {
    while look().await? != want {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

const LAST: &str =
    "SELECT count(*) FROM (SELECT id FROM wide ORDER BY id DESC LIMIT 1) x WHERE id = ";

async fn postgres(rows: u64) -> Outcome {
    let server = async |durable: bool| {
        let options = PostgresOptions::new().setting("max_wal_size", "4GB");
        let options = if durable { options.durable() } else { options };
        let server = options.start().await?;
        server.create_database("db").await?;
        server.sql("db", TABLE).await?;
        Ok::<Postgres, tidelock_scratch::ScratchError>(server)
    };
    let (source, native, ours) = (server(false).await?, server(true).await?, server(true).await?);
    source.sql("db", "CREATE PUBLICATION native FOR TABLE wide").await?;
    let conninfo = format!("host=127.0.0.1 port={} user=tidelock dbname=db", source.port());
    native
        .sql("db", &format!("CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION native WITH (synchronous_commit = on, copy_data = false)"))
        .await?;
    native.sql("db", "ALTER SUBSCRIPTION s DISABLE").await?;
    let folder = tempfile::tempdir()?;
    let first = Tidelock::start(folder.path(), &source.url("db"), &ours.url("db"), "never")?;
    until("1", async || {
        ours.one("db", "SELECT count(*) FROM pg_tables WHERE tablename = 'progress'").await
    })
    .await?;
    until("1", async || ours.one("db", "SELECT count(*) FROM tidelock.progress").await).await?;
    drop(first);
    source
        .sql("db", "CREATE PROCEDURE fill(n bigint) LANGUAGE plpgsql AS $$ BEGIN FOR t IN 0..n / 100 - 1 LOOP \
            INSERT INTO wide SELECT i, i % 1000, i * 7, 'customer ' || i, 'a somewhat longer text ' || i, i * 0.01, i * 0.000001, \
            DATE '2026-01-01' + (i % 365)::int, TIMESTAMP '2026-01-01' + i * INTERVAL '1 second', i % 100, i / 3.0, 'k' || i \
            FROM generate_series(t * 100 + 1, t * 100 + 100) i; COMMIT; END LOOP; END $$")
        .await?;
    source.sql("db", &format!("CALL fill({rows})")).await?;
    let last = format!("{LAST}{rows}");

    let began = Instant::now();
    native.sql("db", "ALTER SUBSCRIPTION s ENABLE").await?;
    until("1", async || native.one("db", &last).await).await?;
    let own = began.elapsed();
    report("PostgreSQL -> PostgreSQL", "own", rows, own, None);
    native.sql("db", "ALTER SUBSCRIPTION s DISABLE").await?;

    let began = Instant::now();
    let tidelock = Tidelock::start(folder.path(), &source.url("db"), &ours.url("db"), "never")?;
    until("1", async || ours.one("db", &last).await).await?;
    let took = began.elapsed();
    report("PostgreSQL -> PostgreSQL", "tidelock", rows, took, Some(tidelock.cost()));
    println!(
        "PostgreSQL -> PostgreSQL: {:.2} times its own",
        own.as_secs_f64() / took.as_secs_f64()
    );
    Ok(())
}

async fn mariadb(rows: u64) -> Outcome {
    let server = async |durable: bool| {
        let options = MysqlOptions::new();
        let options = if durable { options.durable() } else { options };
        let server = options.start().await?;
        server.create_database("db").await?;
        Ok::<Mysql, tidelock_scratch::ScratchError>(server)
    };
    let (source, native, ours) = (server(false).await?, server(true).await?, server(true).await?);
    source.sql("db", TABLE).await?;
    native.sql("db", TABLE).await?;
    ours.sql("db", TABLE).await?;
    let folder = tempfile::tempdir()?;
    let first = Tidelock::start(folder.path(), &source.url("db"), &ours.url("db"), "never")?;
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'tidelock' AND table_name = 'progress'";
    until("1", async || ours.one("db", tables).await).await?;
    until("1", async || ours.one("db", "SELECT count(*) FROM tidelock.progress").await).await?;
    drop(first);
    let start = source.one("db", "SELECT @@gtid_binlog_pos").await?;
    for t in 0..rows / 100 {
        let values: Vec<String> = (t * 100 + 1..=t * 100 + 100)
            .map(|i| {
                format!(
                    "({i},{},{},'customer {i}','a somewhat longer text {i}',{}.25,{}.000001,'2026-01-{:02}','2026-01-01 10:00:{:02}.5',{},{}.5,'k{i}')",
                    i % 1000, i * 7, i % 100_000, i % 1_000, i % 28 + 1, i % 60, i % 100, i / 3
                )
            })
            .collect();
        source.sql("db", &format!("INSERT INTO wide VALUES {}", values.join(","))).await?;
    }
    let last = format!("{LAST}{rows}");

    let began = Instant::now();
    // A replica's own history must not stand in the way of the source's.
    native.sql("db", "SET GLOBAL gtid_strict_mode = 0").await?;
    native.sql("db", &format!("SET GLOBAL gtid_slave_pos = '{start}'")).await?;
    native
        .sql("db", &format!("CHANGE MASTER TO master_host = '127.0.0.1', master_port = {}, master_user = 'tidelock', master_use_gtid = slave_pos", source.port()))
        .await?;
    native.sql("db", "START SLAVE").await?;
    until("1", async || native.one("db", &last).await).await?;
    let own = began.elapsed();
    report("MariaDB -> MariaDB", "own", rows, own, None);
    native.sql("db", "STOP SLAVE").await?;

    let began = Instant::now();
    let tidelock = Tidelock::start(folder.path(), &source.url("db"), &ours.url("db"), "never")?;
    until("1", async || ours.one("db", &last).await).await?;
    let took = began.elapsed();
    report("MariaDB -> MariaDB", "tidelock", rows, took, Some(tidelock.cost()));
    println!("MariaDB -> MariaDB: {:.2} times its own", own.as_secs_f64() / took.as_secs_f64());
    Ok(())
}

fn main() -> Outcome {
    // `cargo test --all-targets` asks for a listing; there is nothing to list.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    let rows = std::env::var("ROWS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        postgres(rows).await?;
        mariadb(rows).await
    })
}
