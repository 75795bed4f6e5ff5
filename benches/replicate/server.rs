//! A scratch server of either family, the tables of the workloads on it, and what its processes cost.

use std::path::Path;

use tidelock_scratch::mysql_async::{Conn, prelude::Queryable};
use tidelock_scratch::tokio_postgres::{Client, SimpleQueryMessage};
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};

use crate::Outcome;
use crate::latency::Address;
use crate::process::{TICKS_A_SECOND, ticks};
use crate::workload::{Table, inventory, tables};

/// A database family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Postgres,
    MariaDb,
}

/// Same on every server of a family, so that no lane is favoured; the rest is what `tests/scratch` sets.
///
/// Vacuum is off because it would fall into the one lane or the other by chance.
const POSTGRES: &[(&str, &str)] = &[
    ("shared_buffers", "512MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "30min"),
    ("autovacuum", "off"),
    ("jit", "off"),
    // Ten thousand tables in one publication.
    ("max_locks_per_transaction", "512"),
    ("wal_retrieve_retry_interval", "50ms"),
];

/// Everything fits into memory, and a redo log of production size: with the scratch server's 32 MB it would flush pages
/// all the time.
const MARIADB: &[(&str, &str)] = &[
    ("innodb-buffer-pool-size", "1G"),
    ("innodb-log-file-size", "512M"),
    ("local-infile", "ON"),
    ("max-allowed-packet", "64M"),
];

pub enum Server {
    Postgres(Postgres),
    MariaDb(Mysql),
}

impl Server {
    /// A server with an empty database `db`. A target is durable; a source, which all lanes share, is not.
    pub async fn start(family: Family, durable: bool) -> Outcome<Server> {
        let durable = durable && std::env::var("DURABLE").as_deref() != Ok("0");
        match family {
            Family::Postgres => {
                let options =
                    POSTGRES.iter().fold(PostgresOptions::new(), |options, (name, value)| {
                        options.setting(*name, *value)
                    });
                let server = if durable { options.durable() } else { options }.start().await?;
                server.create_database("db").await?;
                Ok(Server::Postgres(server))
            }
            Family::MariaDb => {
                let options = MARIADB.iter().fold(MysqlOptions::new(), |options, (name, value)| {
                    options.setting(*name, *value)
                });
                let server = if durable { options.durable() } else { options }.start().await?;
                server.create_database("db").await?;
                Ok(Server::MariaDb(server))
            }
        }
    }

    /// A durable server with the tables of the workloads.
    pub async fn target(family: Family) -> Outcome<Server> {
        let server = Server::start(family, true).await?;
        server.create_tables().await?;
        Ok(server)
    }

    pub fn family(&self) -> Family {
        match self {
            Server::Postgres(_) => Family::Postgres,
            Server::MariaDb(_) => Family::MariaDb,
        }
    }

    pub fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url("db"),
            Server::MariaDb(server) => server.url("db"),
        }
    }

    pub fn port(&self) -> u16 {
        match self {
            Server::Postgres(server) => server.port(),
            Server::MariaDb(server) => server.port(),
        }
    }

    pub async fn session(&self) -> Outcome<Session> {
        Ok(match self {
            Server::Postgres(server) => Session::Postgres(server.client("db").await?),
            Server::MariaDb(server) => Session::MariaDb(server.conn("db").await?),
        })
    }

    /// Runs statements on a session of their own.
    pub async fn sql(&self, statements: &str) -> Outcome {
        self.session().await?.run(statements).await
    }

    /// The first value of an answer.
    pub async fn one(&self, query: &str) -> Outcome<String> {
        Ok(match self {
            Server::Postgres(server) => server.one("db", query).await?,
            Server::MariaDb(server) => server.one("db", query).await?,
        })
    }

    /// Makes the tables of the workloads, with the rows that workload `d` updates.
    pub async fn create_tables(&self) -> Outcome {
        self.sql(&tables(self.family() == Family::Postgres)).await?;
        self.sql(&inventory()).await
    }

    /// Lets native replication and the read limit have the tables, on PostgreSQL.
    pub async fn publish(&self) -> Outcome {
        match self.family() {
            Family::Postgres => {
                self.sql(
                    "CREATE PUBLICATION native FOR TABLE orders, order_lines, inventory, marker",
                )
                .await
            }
            Family::MariaDb => Ok(()),
        }
    }

    /// Where it is, for another thread.
    pub fn address(&self) -> Address {
        Address { family: self.family(), port: self.port() }
    }

    /// What a table holds, computed by the server itself from the text of every value: rows, and the sum of a hash of
    /// each. The same for both families.
    pub async fn contents(&self, table: Table) -> Outcome<String> {
        let postgres = self.family() == Family::Postgres;
        let moment = |column: &str| {
            if postgres {
                format!("to_char({column}, 'YYYY-MM-DD HH24:MI:SS.US')")
            } else {
                format!("date_format({column}, '%Y-%m-%d %H:%i:%s.%f')")
            }
        };
        let text = |column: &str| {
            let text = if column.ends_with("_at") {
                moment(column)
            } else if postgres {
                format!("{column}::text")
            } else {
                format!("cast({column} AS char)")
            };
            format!("coalesce({text}, '~')")
        };
        let row = table.columns().iter().map(|c| text(c)).collect::<Vec<_>>().join(", ");
        let hash = if postgres {
            format!("('x' || substr(md5(concat_ws('|', {row})), 1, 12))::bit(48)::bigint")
        } else {
            format!("cast(conv(substr(md5(concat_ws('|', {row})), 1, 12), 16, 10) AS unsigned)")
        };
        let sum = format!("concat_ws(' ', count(*), coalesce(sum({hash}), 0))");
        self.one(&format!("SELECT {sum} FROM {}", table.name())).await
    }

    /// Where a server's log ends, as its own tools write it.
    pub async fn log_end(&self) -> Outcome<String> {
        match self {
            Server::Postgres(_) => self.one("SELECT pg_current_wal_lsn()").await,
            Server::MariaDb(server) => {
                let rows = server.rows("db", "SHOW MASTER STATUS").await?;
                let field = |i: usize| rows.first().and_then(|r| r.get(i)?.clone());
                Ok(format!("{}:{}", field(0).ok_or("no binlog")?, field(1).ok_or("no binlog")?))
            }
        }
    }

    /// CPU seconds of all its processes, those that have ended among them.
    pub fn cpu(&self) -> f64 {
        let pid = match self {
            Server::Postgres(server) => server.pid(),
            Server::MariaDb(server) => server.pid(),
        };
        let Some(pid) = pid else { return 0.0 };
        // A child that is reaped between two looks would be missed or counted twice.
        let ended = || ticks(pid).2 + ticks(pid).3;
        let mut sum = 0.0;
        for _ in 0..100 {
            let before = ended();
            let (user, system, ..) = ticks(pid);
            let alive = children(pid).into_iter().map(ticks).map(|t| t.0 + t.1).sum::<f64>();
            sum = user + system + before + alive;
            if ended() == before {
                break;
            }
        }
        sum / TICKS_A_SECOND
    }
}

fn children(parent: u32) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let of = |pid: u32| -> Option<u32> {
        let stat =
            std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| of(*pid) == Some(parent))
        .collect()
}

/// A connection.
pub enum Session {
    Postgres(Client),
    MariaDb(Conn),
}

impl Session {
    /// Runs statements, separated by `;`, and waits for all their answers.
    pub async fn run(&mut self, statements: &str) -> Outcome {
        match self {
            Session::Postgres(client) => client.batch_execute(statements).await?,
            Session::MariaDb(conn) => conn.query_drop(statements).await?,
        }
        Ok(())
    }

    /// The number that a query answers with; 0 for none.
    pub async fn number(&mut self, query: &str) -> Outcome<u64> {
        let text = match self {
            Session::Postgres(client) => {
                client.simple_query(query).await?.into_iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
            }
            Session::MariaDb(conn) => conn.query_first::<Option<String>, _>(query).await?.flatten(),
        };
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
    }
}
