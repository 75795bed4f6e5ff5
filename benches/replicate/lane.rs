//! What is measured: ways for a source's log to a target, and the two limits.
//!
//! A lane is made ready before the source works (slot, subscription, position), stands still meanwhile, and is then
//! started; the clock runs from the command that starts it until the last row is visible at the target.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tidelock_scratch::mysql_async::{InfileData, prelude::Queryable};
use tidelock_scratch::tokio_postgres::Client;

use crate::Outcome;
use crate::machine::Machine;
use crate::process::{Cpu, Tidelock, configure};
use crate::server::{Family, Server, Session};
use crate::workload::{Change, Kind, Table, Workload, line};

/// Longer than any lane may take; a lane that hangs must not hang the run.
const WITHIN: Duration = Duration::from_secs(1_800);
const POLL: Duration = Duration::from_millis(10);
/// Changes a transaction of the write limit: what an engine that is far behind could take together.
const NET_CHANGES: usize = 10_000;
/// Rows a statement of the write limit.
const NET_ROWS: usize = 1_000;

/// What the four workloads write.
pub const TABLES: [&str; 4] = ["orders", "order_lines", "inventory", "marker"];

/// Which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A binary of tidelock, with the word that tells it from another.
    Tidelock { word: String, program: PathBuf },
    /// PostgreSQL's logical replication, `synchronous_commit = on`.
    Subscription,
    /// MariaDB's replication with so many workers (0: none, the SQL thread applies).
    Replica { workers: u32 },
    /// The log to a client of the server's own that throws it away.
    ReadLimit,
    /// The net rows, written by the target's bulk loader over so many connections, whose transactions take turns.
    WriteLimit { connections: usize },
}

impl Way {
    pub fn name(&self) -> String {
        match self {
            Way::Tidelock { word, .. } => word.clone(),
            Way::Subscription => "native".to_owned(),
            Way::Replica { workers } => format!("native, {workers} workers"),
            Way::ReadLimit => "read limit".to_owned(),
            Way::WriteLimit { connections: 1 } => "write limit".to_owned(),
            Way::WriteLimit { connections } => format!("write limit, {connections} connections"),
        }
    }
}

/// What a lane did and cost.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub pair: String,
    pub workload: char,
    pub lane: String,
    pub repeat: usize,
    pub rows: usize,
    pub seconds: f64,
    pub source_cpu: f64,
    pub engine_user: f64,
    pub engine_system: f64,
    pub target_cpu: f64,
    pub peak_mb: f64,
    /// The share of the machine that others had.
    pub foreign: f64,
}

impl Run {
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// CPU seconds a million rows: source, engine, the engine's own code, target, all.
    pub fn cpu(&self) -> [f64; 5] {
        let engine = self.engine_user + self.engine_system;
        let all = self.source_cpu + engine + self.target_cpu;
        [self.source_cpu, engine, self.engine_user, self.target_cpu, all]
            .map(|s| s * 1e6 / self.rows as f64)
    }
}

pub struct Lane {
    pub pair: String,
    pub way: Way,
    pub target: Server,
    folder: tempfile::TempDir,
    /// Where the log stood when the lane was made ready.
    start: String,
    number: usize,
    /// What tidelock maps.
    tables: &'static [&'static str],
    running: Option<Tidelock>,
}

impl Lane {
    /// Ties a target that has the tables to the source's log as it ends now.
    pub async fn prepare(
        pair: &str,
        way: Way,
        number: usize,
        target: Server,
        tables: &'static [&'static str],
        source: &Server,
    ) -> Outcome<Lane> {
        // Tidelock's state is for its owner alone.
        let own = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let folder = tempfile::Builder::new().permissions(own).tempdir()?;
        let mut lane = Lane {
            pair: pair.to_owned(),
            way,
            target,
            folder,
            start: String::new(),
            number,
            tables,
            running: None,
        };
        match &lane.way {
            Way::Tidelock { .. } => {
                lane.start(source).await?;
                let mut session = lane.target.session().await?;
                let progress = match lane.target.family() {
                    Family::Postgres => {
                        "SELECT count(*) FROM pg_tables WHERE schemaname = 'tidelock' AND tablename = 'progress'"
                    }
                    Family::MariaDb => {
                        "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'tidelock' AND table_name = 'progress'"
                    }
                };
                lane.until(&mut session, progress).await?;
                lane.until(&mut session, "SELECT count(*) FROM tidelock.progress").await?;
                lane.stop().await?;
            }
            Way::Subscription => {
                let conninfo =
                    format!("host=127.0.0.1 port={} user=tidelock dbname=db", source.port());
                lane.target
                    .sql(&format!(
                        "CREATE SUBSCRIPTION native CONNECTION '{conninfo}' PUBLICATION native \
                         WITH (synchronous_commit = on, copy_data = false, slot_name = 'native_{number}')"
                    ))
                    .await?;
                lane.target.sql("ALTER SUBSCRIPTION native DISABLE").await?;
            }
            Way::Replica { workers } => {
                let start = source.one("SELECT @@gtid_binlog_pos").await?;
                // What was logged here already, the tables, must not stand in the way of the source's log.
                lane.target
                    .sql(&format!(
                        "SET GLOBAL gtid_strict_mode = 0; SET GLOBAL gtid_slave_pos = '{start}'; \
                         SET GLOBAL slave_parallel_threads = {workers}; SET GLOBAL slave_parallel_mode = 'optimistic'; \
                         CHANGE MASTER TO master_host = '127.0.0.1', master_port = {}, master_user = 'tidelock', \
                         master_use_gtid = slave_pos",
                        source.port()
                    ))
                    .await?;
            }
            Way::ReadLimit => {
                match source.family() {
                    Family::Postgres => {
                        source.sql(&format!("SELECT pg_create_logical_replication_slot('read_{number}', 'pgoutput')")).await?;
                    }
                    Family::MariaDb => lane.start = source.log_end().await?,
                }
            }
            Way::WriteLimit { .. } => {}
        }
        Ok(lane)
    }

    /// Lets the lane run.
    pub async fn start(&mut self, source: &Server) -> Outcome {
        match &self.way {
            Way::Tidelock { program, .. } => {
                let name = format!("bench{}", self.number);
                let urls = [source.url(), self.target.url()];
                let config = configure(
                    self.folder.path(),
                    &name,
                    [&urls[0], &urls[1]],
                    self.tables,
                    "never",
                )?;
                let program = program.to_string_lossy();
                let (program, lanes) = program.split_once("?lanes=").unwrap_or((&program, ""));
                if !lanes.is_empty() {
                    let mut text = std::fs::read_to_string(&config)?;
                    text.push_str(&format!("[defaults]\nlanes = {lanes}\n"));
                    std::fs::write(&config, text)?;
                }
                self.running = Some(Tidelock::run(Path::new(program), &config)?);
            }
            Way::Subscription => self.target.sql("ALTER SUBSCRIPTION native ENABLE").await?,
            Way::Replica { .. } => self.target.sql("START SLAVE").await?,
            Way::ReadLimit | Way::WriteLimit { .. } => {}
        }
        Ok(())
    }

    /// Brings the lane to a stop.
    pub async fn stop(&mut self) -> Outcome {
        match &self.way {
            Way::Tidelock { .. } => {
                if let Some(running) = self.running.take() {
                    running.stop()?;
                }
            }
            Way::Subscription => self.target.sql("ALTER SUBSCRIPTION native DISABLE").await?,
            Way::Replica { .. } => self.target.sql("STOP SLAVE").await?,
            Way::ReadLimit | Way::WriteLimit { .. } => {}
        }
        Ok(())
    }

    /// CPU of the engine, and its peak memory in megabytes.
    pub fn engine(&self) -> (Cpu, f64) {
        self.running.as_ref().map_or((Cpu::default(), 0.0), |t| (t.cpu(), t.peak_mb()))
    }

    /// The engine's memory, in megabytes.
    pub fn rss_mb(&self) -> f64 {
        self.running.as_ref().map_or(0.0, Tidelock::rss_mb)
    }

    /// Waits until a query answers 1.
    pub async fn until(&mut self, session: &mut Session, query: &str) -> Outcome {
        let began = Instant::now();
        while session.number(query).await? != 1 {
            if let Some(running) = &mut self.running {
                running.still_runs()?;
            }
            if began.elapsed() > WITHIN {
                return Err(
                    format!("{} {}: never true: {query}", self.pair, self.way.name()).into()
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Catches up with what the source wrote, the marker last.
    pub async fn catch_up(
        &mut self,
        source: &Server,
        work: &Workload,
        marker: u64,
        repeat: usize,
    ) -> Outcome<Run> {
        let mut nets = Vec::new();
        if let Way::WriteLimit { connections } = self.way {
            for net in Net::of(work).split(connections) {
                nets.push((net, self.target.session().await?));
            }
        }
        let end = source.log_end().await?;
        if source.family() == Family::Postgres {
            // A client that stops at `end` needs a message beyond it.
            source.sql("DELETE FROM marker WHERE id = 0").await?;
        }
        let mut session = self.target.session().await?;
        let machine = Machine::now();
        let before = (source.cpu(), self.target.cpu());
        let began = Instant::now();
        let mut reader = Cpu::default();
        match self.way {
            Way::ReadLimit => reader = self.read(source, &end)?,
            Way::WriteLimit { .. } => {
                let writing = nets.iter_mut().map(|(net, session)| net.write(session));
                futures_util::future::try_join_all(writing).await?;
            }
            _ => {
                self.start(source).await?;
                self.until(
                    &mut session,
                    &format!("SELECT count(*) FROM marker WHERE id = {marker}"),
                )
                .await?;
            }
        }
        let took = began.elapsed();
        let (mut engine, peak_mb) = self.engine();
        if self.way == Way::ReadLimit {
            engine = reader;
        }
        let (source_cpu, target_cpu) = (source.cpu() - before.0, self.target.cpu() - before.1);
        let foreign = machine.foreign(source_cpu + target_cpu + engine.sum());
        self.stop().await?;
        Ok(Run {
            pair: self.pair.clone(),
            workload: work.letter,
            lane: self.way.name(),
            repeat,
            rows: work.changes.len(),
            seconds: took.as_secs_f64(),
            source_cpu,
            engine_user: engine.user,
            engine_system: engine.system,
            target_cpu,
            peak_mb,
            foreign,
        })
    }

    /// Whether the target must hold the source's rows after a run.
    pub fn replicates(&self) -> bool {
        !matches!(self.way, Way::ReadLimit | Way::WriteLimit { .. })
    }

    /// An error unless both servers count and hash their rows alike.
    pub async fn compare(&self, source: &[(Table, String)]) -> Outcome {
        for (table, expected) in source {
            let found = self.target.contents(*table).await?;
            if &found != expected {
                return Err(format!(
                    "{} {}: {} differs: rows and hash are {found} at the target, {expected} at the source",
                    self.pair, self.way.name(), table.name()
                )
                .into());
            }
        }
        Ok(())
    }

    /// The log through the server's own client, to nowhere.
    fn read(&self, source: &Server, end: &str) -> Outcome<Cpu> {
        let port = source.port().to_string();
        let mut command = match source.family() {
            Family::Postgres => {
                let mut command = Command::new("pg_recvlogical");
                let slot = format!("read_{}", self.number);
                command
                    .args([
                        "-h",
                        "127.0.0.1",
                        "-p",
                        &port,
                        "-U",
                        "tidelock",
                        "-d",
                        "db",
                        "-S",
                        &slot,
                        "--start",
                    ])
                    .args([
                        "-o",
                        "proto_version=1",
                        "-o",
                        "publication_names=native",
                        "-f",
                        "/dev/null",
                    ])
                    .args(["--no-loop", "--endpos", end]);
                command
            }
            Family::MariaDb => {
                let (file, place) = self.start.rsplit_once(':').ok_or("no binlog place")?;
                let mut command = Command::new("mariadb-binlog");
                command
                    .args(["--no-defaults", "--read-from-remote-server", "--raw", "--to-last-log"])
                    .args([
                        "--host=127.0.0.1",
                        "--port",
                        &port,
                        "--user=tidelock",
                        "--start-position",
                        place,
                    ])
                    .arg(format!("--result-file={}/", self.folder.path().display()))
                    .arg(file);
                command
            }
        };
        let mut child = command.stdout(Stdio::null()).stdin(Stdio::null()).spawn()?;
        let mut cpu = Cpu::default();
        loop {
            // Once it has ended there is nothing to read any more, so this is at most a few milliseconds old.
            let seen = Cpu::of(child.id());
            if seen.sum() > 0.0 {
                cpu = seen;
            }
            if let Some(status) = child.try_wait()? {
                return if status.success() {
                    Ok(cpu)
                } else {
                    Err(format!("{command:?}: {status}").into())
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The write limit's work, made before the clock runs.
///
/// Every 10,000 changes are a transaction; what they come to for each key is written in statements of 1,000 rows. Where
/// all rows are new (a, c), PostgreSQL takes `COPY` straight into the table and MariaDB `LOAD DATA`. Else PostgreSQL
/// takes `COPY` into a temporary table and `INSERT ... SELECT ... ON CONFLICT DO UPDATE`, MariaDB `LOAD DATA REPLACE`,
/// the cheapest there is though no replication may use it; deletes are `DELETE ... WHERE id IN`.
#[derive(Default)]
struct Net {
    transactions: Vec<Vec<Step>>,
}

enum Step {
    Load { table: Table, lines: String, fresh: bool },
    Sql(String),
}

impl Net {
    fn of(work: &Workload) -> Net {
        let fresh = work.changes.iter().all(|change| change.kind == Kind::Insert);
        let steps = |run: &Vec<Change>| {
            let mut steps = Vec::new();
            for table in Table::ALL {
                let of = |deleted: bool| -> Vec<&Change> {
                    run.iter()
                        .filter(|c| c.table == table && (c.kind == Kind::Delete) == deleted)
                        .collect()
                };
                for rows in of(false).chunks(NET_ROWS) {
                    let mut lines = String::new();
                    rows.iter().for_each(|change| line(&mut lines, change));
                    steps.push(Step::Load { table, lines, fresh });
                }
                for rows in of(true).chunks(NET_ROWS) {
                    let ids = rows.iter().map(|c| c.id.to_string()).collect::<Vec<_>>().join(",");
                    steps.push(Step::Sql(format!(
                        "DELETE FROM {} WHERE id IN ({ids})",
                        table.name()
                    )));
                }
            }
            steps
        };
        Net { transactions: work.net(NET_CHANGES).iter().map(steps).collect() }
    }

    /// The same, in turns, for so many connections.
    fn split(self, connections: usize) -> Vec<Net> {
        let mut nets: Vec<Net> = (0..connections).map(|_| Net::default()).collect();
        for (i, transaction) in self.transactions.into_iter().enumerate() {
            nets[i % connections].transactions.push(transaction);
        }
        nets
    }

    async fn write(&mut self, session: &mut Session) -> Outcome {
        if let Session::Postgres(client) = session {
            for table in Table::ALL {
                let name = table.name();
                client
                    .batch_execute(&format!(
                        "SET synchronous_commit = on; CREATE TEMPORARY TABLE new_{name} AS SELECT * FROM {name} LIMIT 0"
                    ))
                    .await?;
            }
        }
        for steps in std::mem::take(&mut self.transactions) {
            session.run("BEGIN").await?;
            for step in steps {
                match (step, &mut *session) {
                    (Step::Sql(sql), session) => session.run(&sql).await?,
                    (Step::Load { table, lines, fresh: true }, Session::Postgres(client)) => {
                        copy(client, table.name(), lines).await?;
                    }
                    (Step::Load { table, lines, fresh: false }, Session::Postgres(client)) => {
                        let name = table.name();
                        copy(client, &format!("new_{name}"), lines).await?;
                        let set: Vec<String> = table.columns()[1..]
                            .iter()
                            .map(|c| format!("{c} = EXCLUDED.{c}"))
                            .collect();
                        client
                            .batch_execute(&format!(
                                "INSERT INTO {name} SELECT * FROM new_{name} ON CONFLICT (id) DO UPDATE SET {}; TRUNCATE new_{name}",
                                set.join(", ")
                            ))
                            .await?;
                    }
                    (Step::Load { table, lines, fresh }, Session::MariaDb(conn)) => {
                        let data = async move { Ok(lines.into_bytes().into()) };
                        conn.set_infile_handler(async move {
                            Ok(futures_util::stream::once(data).boxed() as InfileData)
                        });
                        let replace = if fresh { "" } else { "REPLACE " };
                        conn.query_drop(format!(
                            "LOAD DATA LOCAL INFILE 'rows' {replace}INTO TABLE {} CHARACTER SET utf8mb4",
                            table.name()
                        ))
                        .await?;
                    }
                }
            }
            session.run("COMMIT").await?;
        }
        Ok(())
    }
}

async fn copy(client: &Client, table: &str, lines: String) -> Outcome {
    let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {table} FROM STDIN")).await?;
    futures_util::pin_mut!(sink);
    sink.send(lines.into()).await?;
    sink.finish().await?;
    Ok(())
}
