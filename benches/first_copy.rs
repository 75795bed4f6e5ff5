//! The first copy, end to end, beside the pipe that a person would build by hand for the same tables.
//!
//! For each pairing, in one run: the pipe, then tidelock, into servers of the same settings (durable
//! commits). `ROWS` chooses how many rows (default 1,000,000), `PAIRS` which pairings (`pp mm pm mp`), `WORKERS` how many
//! workers copy, one run each (`1 2 4`; else as many as tidelock chooses).

#[path = "replicate/process.rs"]
mod process;

use std::process::Command;
use std::time::{Duration, Instant};

use process::{TICKS_A_SECOND, Tidelock, configure, ticks};
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};

const TABLE: &str = "CREATE TABLE wide (id bigint NOT NULL PRIMARY KEY, a int NOT NULL, b bigint, c varchar(40) NOT NULL, \
    d varchar(80), e decimal(12,2), f decimal(18,6), g date, h timestamp(6) NULL, i smallint, j double precision, k varchar(20))";
/// `timestamp` means a point in time on MariaDB and a civil time on PostgreSQL.
const TABLE_MARIADB: &str = "CREATE TABLE wide (id bigint NOT NULL PRIMARY KEY, a int NOT NULL, b bigint, c varchar(40) NOT NULL, \
    d varchar(80), e decimal(12,2), f decimal(18,6), g date, h datetime(6) NULL, i smallint, j double, k varchar(20))";

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

enum Server {
    Postgres(Postgres),
    MariaDb(Mysql),
}

impl Server {
    async fn start(postgres: bool, durable: bool) -> Outcome<Server> {
        if postgres {
            let options = PostgresOptions::new().setting("max_wal_size", "4GB");
            let server = if durable { options.durable() } else { options }.start().await?;
            server.create_database("db").await?;
            server.sql("db", TABLE).await?;
            return Ok(Server::Postgres(server));
        }
        let options = MysqlOptions::new();
        let server = if durable { options.durable() } else { options }.start().await?;
        server.create_database("db").await?;
        server.sql("db", TABLE_MARIADB).await?;
        Ok(Server::MariaDb(server))
    }

    fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url("db"),
            Server::MariaDb(server) => server.url("db"),
        }
    }

    /// CPU seconds of the server so far, of its sessions as far as they have ended.
    fn cpu(&self) -> f64 {
        let pid = match self {
            Server::Postgres(server) => server.pid(),
            Server::MariaDb(server) => server.pid(),
        };
        let (user, system, theirs, theirs_system) = pid.map_or((0.0, 0.0, 0.0, 0.0), ticks);
        (user + system + theirs + theirs_system) / TICKS_A_SECOND
    }

    async fn one(&self, sql: &str) -> Outcome<String> {
        Ok(match self {
            Server::Postgres(server) => server.one("db", sql).await?,
            Server::MariaDb(server) => server.one("db", sql).await?,
        })
    }

    async fn fill(&self, rows: u64) -> Outcome {
        let (server, series) = match self {
            Server::Postgres(server) => {
                server
                    .sql("db", &format!("INSERT INTO wide SELECT i, i % 1000, i * 7, 'customer ' || i, 'a somewhat longer text ' || i, \
                        i * 0.01, i * 0.000001, DATE '2026-01-01' + (i % 365)::int, TIMESTAMP '2026-01-01' + i * INTERVAL '1 second', \
                        i % 100, i / 4.0, 'k' || i FROM generate_series(1, {rows}) i"))
                    .await?;
                server.sql("db", "VACUUM ANALYZE wide").await?;
                return Ok(());
            }
            Server::MariaDb(server) => (server, format!("seq_1_to_{rows}")),
        };
        let sql = format!(
            "INSERT INTO wide SELECT seq, seq % 1000, seq * 7, concat('customer ', seq), concat('a somewhat longer text ', seq), \
            seq * 0.01, seq * 0.000001, DATE '2026-01-01' + INTERVAL (seq % 365) DAY, TIMESTAMP '2026-01-01 00:00:00' + INTERVAL seq SECOND, \
            seq % 100, seq / 4.0, concat('k', seq) FROM {series}"
        );
        server.sql("db", &sql).await?;
        Ok(())
    }

    /// The program that reads everything from, or writes everything to, this server.
    fn pipe_end(&self, reads: bool, other_is_same: bool) -> String {
        let mariadb = |server: &Mysql| format!("-h 127.0.0.1 -P {} -u tidelock", server.port());
        match (self, reads, other_is_same) {
            (Server::Postgres(server), true, _) => {
                format!(
                    "psql -qAt 'host=127.0.0.1 port={} user=tidelock dbname=db' -c 'COPY wide TO STDOUT'",
                    server.port()
                )
            }
            (Server::Postgres(server), false, same) => {
                let null = if same { "" } else { " WITH (NULL '\\''NULL'\\'')" };
                format!(
                    "psql -q 'host=127.0.0.1 port={} user=tidelock dbname=db' -c 'COPY wide FROM STDIN{null}'",
                    server.port()
                )
            }
            (Server::MariaDb(server), true, true) => {
                format!(
                    "mariadb-dump {} --no-create-info --single-transaction --quick db wide",
                    mariadb(server)
                )
            }
            (Server::MariaDb(server), true, false) => {
                format!("mariadb {} --quick -B -N -e 'SELECT * FROM wide' db", mariadb(server))
            }
            (Server::MariaDb(server), false, true) => format!("mariadb {} db", mariadb(server)),
            (Server::MariaDb(server), false, false) => {
                format!(
                    "mariadb {} --local-infile=1 -e \"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE wide\" db",
                    mariadb(server)
                )
            }
        }
    }
}

async fn pair(from: bool, to: bool, rows: u64) -> Outcome {
    let name = |postgres| if postgres { "PostgreSQL" } else { "MariaDB" };
    let title = format!("{} -> {}", name(from), name(to));
    let source = Server::start(from, false).await?;
    source.fill(rows).await?;
    let by_hand = Server::start(to, true).await?;
    let command = format!(
        "set -o pipefail; {} | {}",
        source.pipe_end(true, from == to),
        by_hand.pipe_end(false, from == to)
    );
    let began = Instant::now();
    let status = Command::new("bash").args(["-c", &command]).status()?;
    let pipe = began.elapsed();
    let count = "SELECT count(*) FROM wide";
    if !status.success() || by_hand.one(count).await? != rows.to_string() {
        return Err(format!("{title}: the pipe failed").into());
    }
    println!(
        "{title}: pipe     {:.1} s, {:.0} rows/s",
        pipe.as_secs_f64(),
        rows as f64 / pipe.as_secs_f64()
    );
    let workers = std::env::var("WORKERS").unwrap_or_default();
    let workers: Vec<&str> = workers.split_whitespace().collect();
    for number in if workers.is_empty() { vec!["default"] } else { workers } {
        let took = copied(&title, number, &source, to, rows).await?;
        println!("{title}: {:.2} times the pipe", pipe.as_secs_f64() / took.as_secs_f64());
    }
    Ok(())
}

/// One first copy into a server of its own.
async fn copied(
    title: &str,
    workers: &str,
    source: &Server,
    to: bool,
    rows: u64,
) -> Outcome<Duration> {
    let target = Server::start(to, true).await?;
    let folder = tempfile::tempdir()?;
    let servers = source.cpu() + target.cpu();
    // A name of its own, so that it finds no slot of the run before.
    let (name, urls) = (format!("bench-{workers}"), [&source.url()[..], &target.url()]);
    let config = configure(folder.path(), &name, urls, &["wide"], "initial")?;
    if workers != "default" {
        let mut text = std::fs::read_to_string(&config)?;
        text.push_str(&format!("[defaults]\ncopy_workers = {workers}\n"));
        std::fs::write(&config, text)?;
    }
    let began = Instant::now();
    let tidelock = Tidelock::run(std::path::Path::new(env!("CARGO_BIN_EXE_tidelock")), &config)?;
    let done = "SELECT count(*) FROM tidelock.snapshot WHERE phase = 'done'";
    while target.one(done).await.unwrap_or_default() != "1" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = began.elapsed();
    if target.one("SELECT count(*) FROM wide").await? != rows.to_string() {
        return Err(format!("{title}: rows are missing").into());
    }
    let (cpu, peak) = (tidelock.cpu().sum(), tidelock.peak_mb());
    drop(tidelock);
    // Its sessions end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let servers = source.cpu() + target.cpu() - servers;
    println!(
        "{title}: tidelock, workers {workers}: {:.1} s, {:.0} rows/s, {:.2} CPU s a million rows, servers {:.2}, peak {peak:.0} MB",
        took.as_secs_f64(),
        rows as f64 / took.as_secs_f64(),
        cpu * 1e6 / rows as f64,
        servers * 1e6 / rows as f64,
    );
    Ok(took)
}

fn main() -> Outcome {
    // `cargo test --all-targets` asks for a listing; there is nothing to list.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    let rows = std::env::var("ROWS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    let pairs = std::env::var("PAIRS").unwrap_or_else(|_| "pp mm pm mp".to_owned());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        for (word, from, to) in
            [("pp", true, true), ("mm", false, false), ("pm", true, false), ("mp", false, true)]
        {
            if pairs.contains(word) {
                pair(from, to, rows).await?;
            }
        }
        Ok(())
    })
}
