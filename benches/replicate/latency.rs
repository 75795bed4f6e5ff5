//! Commit to visible: how long a row that the source has acknowledged is not yet at the target.
//!
//! A writer on one connection inserts one row a transaction by a prepared statement, at a fixed pace (a late one is not
//! waited for: the pace is that of the clock). A poller on a connection of its own asks the target for the highest
//! `id`, as fast as it answers with a pause of 0.2 ms between; every lane makes transactions visible in order, so all
//! ids up to it are there. A row's latency is from the writer's answer to the poller's answer that shows it, 0 if the
//! target was faster. Each transaction is a probe. Writer and poller are threads of their own.

use std::time::{Duration, Instant};

use serde::Serialize;
use tidelock_scratch::mysql_async::prelude::Queryable;

use crate::lane::{Lane, TABLES, Way};
use crate::server::{Family, Server, Session};
use crate::workload::insert_of_one;
use crate::{Options, Outcome};

const RATES: [u64; 2] = [200, 1_000];
/// Rows before the first probe: the lane's batches have found their size by then.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_micros(200);
/// A lane that cannot keep the pace is told as such, not waited for without end.
const WITHIN: Duration = Duration::from_secs(120);

/// Milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub pair: String,
    pub lane: String,
    pub rate: u64,
    pub probes: usize,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    /// The middle time between two answers of the poller.
    pub resolution: f64,
}

/// All lanes of all pairs, each alone, one after the other at each pace.
pub async fn measure(options: &Options) -> Outcome<Vec<Latency>> {
    let mut found = Vec::new();
    for from in [Family::Postgres, Family::MariaDb] {
        let mut wanted = options.lanes(from);
        wanted.retain(|(_, _, way)| !matches!(way, Way::ReadLimit | Way::WriteLimit { .. }));
        if wanted.is_empty() {
            continue;
        }
        let source = Server::start(from, false).await?;
        source.create_tables().await?;
        source.publish().await?;
        let mut lanes = Vec::new();
        for (number, (pair, to, way)) in wanted.into_iter().enumerate() {
            lanes.push(
                Lane::prepare(&pair, way, number, Server::target(to).await?, &TABLES, &source)
                    .await?,
            );
        }
        let (mut next_id, mut marker) = (1, 1);
        for _ in 0..options.repeat {
            for rate in RATES {
                for lane in &mut lanes {
                    lane.start(&source).await?;
                    source.sql(&format!("INSERT INTO marker VALUES ({marker})")).await?;
                    let mut session = lane.target.session().await?;
                    lane.until(
                        &mut session,
                        &format!("SELECT count(*) FROM marker WHERE id = {marker}"),
                    )
                    .await?;
                    marker += 1;
                    let warm = (WARM_UP.as_secs_f64() * rate as f64) as usize;
                    let rows = warm + (MEASURED.as_secs_f64() * rate as f64) as usize;
                    let latency = probe(&source, lane, rate, next_id, rows, warm).await?;
                    next_id += rows as u64;
                    println!(
                        "{} {:<18} {rate:5}/s: p50 {:7.2} ms  p99 {:7.2} ms  max {:7.2} ms ({} probes, {:.2} ms between two looks)",
                        latency.pair,
                        latency.lane,
                        latency.p50,
                        latency.p99,
                        latency.max,
                        latency.probes,
                        latency.resolution
                    );
                    found.push(latency);
                    lane.stop().await?;
                }
            }
        }
    }
    Ok(found)
}

async fn probe(
    source: &Server,
    lane: &Lane,
    rate: u64,
    first: u64,
    rows: usize,
    warm: usize,
) -> Outcome<Latency> {
    let last = first + rows as u64 - 1;
    let (from, to) = (source.address(), lane.target.address());
    let poller = std::thread::spawn(move || poll(to, last));
    let writer = std::thread::spawn(move || write(from, rate, first, rows));
    let ended = tokio::task::spawn_blocking(move || (writer.join(), poller.join())).await?;
    let acknowledged = ended.0.map_err(|_| "the writer panicked")?.map_err(|e| e.to_string())?;
    let seen = ended.1.map_err(|_| "the poller panicked")?.map_err(|e| e.to_string())?;
    if seen.last().is_none_or(|(_, id)| *id < last) {
        return Err(format!(
            "{} {}: rows still lack {WITHIN:?} after the start",
            lane.pair,
            lane.way.name()
        )
        .into());
    }
    let mut looks = seen.iter().peekable();
    let mut millis = Vec::with_capacity(rows);
    for (i, acknowledged) in acknowledged.iter().enumerate() {
        let id = first + i as u64;
        while looks.peek().is_some_and(|(_, max)| *max < id) {
            looks.next();
        }
        let Some((visible, _)) = looks.peek() else { break };
        if i >= warm {
            millis.push(visible.saturating_duration_since(*acknowledged).as_secs_f64() * 1e3);
        }
    }
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis[((millis.len() - 1) as f64 * share).round() as usize];
    let mut gaps: Vec<f64> =
        seen.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64() * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    Ok(Latency {
        pair: lane.pair.clone(),
        lane: lane.way.name(),
        rate,
        probes: millis.len(),
        p50: at(0.5),
        p99: at(0.99),
        max: at(1.0),
        resolution: gaps.get(gaps.len() / 2).copied().unwrap_or(f64::NAN),
    })
}

type Threaded<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn own_runtime<T>(work: impl Future<Output = Threaded<T>>) -> Threaded<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// When each row was acknowledged.
fn write(to: Address, rate: u64, first: u64, rows: usize) -> Threaded<Vec<Instant>> {
    own_runtime(async {
        let mut session = to.session().await?;
        let mut acknowledged = Vec::with_capacity(rows);
        let began = Instant::now();
        let pace = async |i: usize| {
            let due = began + Duration::from_secs_f64(i as f64 / rate as f64);
            // The runtime's own timer is no finer than a millisecond.
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        };
        match &mut session {
            Session::Postgres(client) => {
                let insert = client.prepare(&insert_of_one("$1")).await?;
                for i in 0..rows {
                    pace(i).await;
                    client.execute(&insert, &[&((first + i as u64) as i64)]).await?;
                    acknowledged.push(Instant::now());
                }
            }
            Session::MariaDb(conn) => {
                let insert = conn.prep(insert_of_one("?")).await?;
                for i in 0..rows {
                    pace(i).await;
                    conn.exec_drop(&insert, (first + i as u64,)).await?;
                    acknowledged.push(Instant::now());
                }
            }
        }
        Ok(acknowledged)
    })
}

/// The highest id at each look.
fn poll(at: Address, last: u64) -> Threaded<Vec<(Instant, u64)>> {
    const HIGHEST: &str = "SELECT coalesce(max(id), 0) FROM orders";
    own_runtime(async {
        let mut session = at.session().await?;
        let mut seen: Vec<(Instant, u64)> = Vec::new();
        let began = Instant::now();
        let mut go_on = |id: u64| {
            seen.push((Instant::now(), id));
            std::thread::sleep(PAUSE);
            id < last && began.elapsed() < WITHIN
        };
        match &mut session {
            Session::Postgres(client) => {
                let highest = client.prepare(HIGHEST).await?;
                while go_on(client.query_one(&highest, &[]).await?.get::<_, i64>(0) as u64) {}
            }
            Session::MariaDb(conn) => {
                let highest = conn.prep(HIGHEST).await?;
                while go_on(conn.exec_first::<u64, _, _>(&highest, ()).await?.unwrap_or(0)) {}
            }
        }
        Ok(seen)
    })
}

/// Where a server is, for another thread's runtime.
#[derive(Debug, Clone)]
pub struct Address {
    pub family: Family,
    pub port: u16,
}

impl Address {
    async fn session(&self) -> Threaded<Session> {
        use tidelock_scratch::{mysql_async, tokio_postgres};
        Ok(match self.family {
            Family::Postgres => {
                let url = format!("postgres://tidelock@127.0.0.1:{}/db", self.port);
                let (client, driver) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
                // Its error, a lost connection, reaches whoever uses the client.
                tokio::spawn(driver);
                Session::Postgres(client)
            }
            Family::MariaDb => {
                let options = mysql_async::OptsBuilder::default()
                    .ip_or_hostname("127.0.0.1")
                    .tcp_port(self.port)
                    .user(Some("tidelock"))
                    .db_name(Some("db"))
                    .prefer_socket(false);
                Session::MariaDb(mysql_async::Conn::new(options).await?)
            }
        })
    }
}
