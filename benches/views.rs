//! A view that is read again for what its tables' changes touch: how many keys a second, and at what cost.
//!
//! A join of two tables with `ROWS` rows each (default 100,000) is followed. While tidelock is down every row of one of the tables is
//! changed, in transactions of `BATCH` rows (default 1,000); then the time is taken until the target has it all. `PAIRS` chooses the
//! pairings (`pp mm pm mp`). Servers have durable commits.

#[path = "replicate/process.rs"]
mod process;

use std::path::Path;
use std::time::{Duration, Instant};

use process::{TICKS_A_SECOND, Tidelock, ticks};
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

enum Server {
    Postgres(Postgres),
    MariaDb(Mysql),
}

impl Server {
    async fn start(postgres: bool) -> Outcome<Server> {
        if postgres {
            let server = PostgresOptions::new().durable().start().await?;
            server.create_database("db").await?;
            return Ok(Server::Postgres(server));
        }
        let server = MysqlOptions::new().durable().start().await?;
        server.create_database("db").await?;
        Ok(Server::MariaDb(server))
    }

    fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url("db"),
            Server::MariaDb(server) => server.url("db"),
        }
    }

    async fn sql(&self, sql: &str) -> Outcome {
        match self {
            Server::Postgres(server) => server.sql("db", sql).await?,
            Server::MariaDb(server) => server.sql("db", sql).await?,
        }
        Ok(())
    }

    async fn one(&self, sql: &str) -> Outcome<String> {
        Ok(match self {
            Server::Postgres(server) => server.one("db", sql).await?,
            Server::MariaDb(server) => server.one("db", sql).await?,
        })
    }

    fn cpu(&self) -> f64 {
        let pid = match self {
            Server::Postgres(server) => server.pid(),
            Server::MariaDb(server) => server.pid(),
        };
        let (user, system, theirs, theirs_system) = pid.map_or((0.0, 0.0, 0.0, 0.0), ticks);
        (user + system + theirs + theirs_system) / TICKS_A_SECOND
    }

    async fn tables(&self, rows: u64) -> Outcome {
        self.sql("CREATE TABLE party (id int NOT NULL PRIMARY KEY, name varchar(60) NOT NULL, seen int NOT NULL)").await?;
        self.sql(
            "CREATE TABLE address (party int NOT NULL PRIMARY KEY, city varchar(60) NOT NULL)",
        )
        .await?;
        let (series, n) = match self {
            Server::Postgres(_) => (format!("generate_series(1, {rows}) n"), "n"),
            Server::MariaDb(_) => (format!("seq_1_to_{rows}"), "seq"),
        };
        self.sql(&format!("INSERT INTO party SELECT {n}, concat('party ', {n}), 0 FROM {series}"))
            .await?;
        self.sql(&format!(
            "INSERT INTO address SELECT {n}, concat('city ', {n} % 1000) FROM {series}"
        ))
        .await?;
        if let Server::Postgres(_) = self {
            self.sql("VACUUM ANALYZE").await?;
        }
        self.sql("CREATE VIEW account AS SELECT p.id AS party_id, p.name AS name, p.seen AS seen, a.city AS city FROM party p LEFT JOIN address a ON a.party = p.id").await
    }
}

async fn level(target: &Server, rows: u64, seen: u64) -> Outcome {
    let sql = format!("SELECT count(*) FROM account WHERE seen = {seen}");
    while target.one(&sql).await.unwrap_or_default() != rows.to_string() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn pair(from: bool, to: bool, rows: u64, batch: u64) -> Outcome {
    let name = |postgres| if postgres { "PostgreSQL" } else { "MariaDB" };
    let title = format!("{} -> {}", name(from), name(to));
    let (source, target) = (Server::start(from).await?, Server::start(to).await?);
    source.tables(rows).await?;
    target.sql("CREATE TABLE account (party_id int NOT NULL PRIMARY KEY, name varchar(60) NOT NULL, seen int NOT NULL, city varchar(60))").await?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("tidelock.toml");
    let text = format!(
        "version = 1\nname = \"views\"\nstate_dir = {:?}\n[systems.a]\nurl = {:?}\n[systems.b]\nurl = {:?}\n\
         [[mappings]]\nfrom = \"a.account\"\nto = \"b.account\"\nkey = [\"party_id\"]\n\
         [mappings.tracks]\n'a.party' = \"id\"\n'a.address' = \"party\"\n",
        folder.path().display().to_string(),
        source.url(),
        target.url()
    );
    std::fs::write(&config, text)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_tidelock"));
    let began = Instant::now();
    let tidelock = Tidelock::run(binary, &config)?;
    level(&target, rows, 0).await?;
    let copied = began.elapsed().as_secs_f64();
    drop(tidelock);
    for first in (0..rows).step_by(usize::try_from(batch)?) {
        source
            .sql(&format!(
                "UPDATE party SET seen = 1 WHERE id > {first} AND id <= {}",
                first + batch
            ))
            .await?;
    }
    let servers = source.cpu() + target.cpu();
    let began = Instant::now();
    let tidelock = Tidelock::run(binary, &config)?;
    level(&target, rows, 1).await?;
    let took = began.elapsed().as_secs_f64();
    let (cpu, peak) = (tidelock.cpu().sum(), tidelock.peak_mb());
    drop(tidelock);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let servers = source.cpu() + target.cpu() - servers;
    let million = 1e6 / rows as f64;
    println!(
        "{title}: copied in {copied:.1} s; {rows} keys read again in {took:.1} s, {:.0} keys/s, {:.1} CPU s a million keys, servers {:.1}, peak {peak:.0} MB",
        rows as f64 / took,
        cpu * million,
        servers * million,
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    // `cargo test --all-targets` asks for a listing; there is nothing to list.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    let number = |name: &str, default: u64| -> Outcome<u64> {
        Ok(std::env::var(name).ok().map_or(Ok(default), |text| text.parse())?)
    };
    let (rows, batch) = (number("ROWS", 100_000)?, number("BATCH", 1_000)?);
    let pairs = std::env::var("PAIRS").unwrap_or_else(|_| "pp mm pm mp".to_owned());
    for name in pairs.split_whitespace() {
        let (from, to) = match name {
            "pp" => (true, true),
            "mm" => (false, false),
            "pm" => (true, false),
            "mp" => (false, true),
            other => return Err(format!("no pairing {other}: pp, mm, pm or mp").into()),
        };
        pair(from, to, rows, batch).await?;
    }
    Ok(())
}
