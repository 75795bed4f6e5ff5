//! How tidelock alone grows: with rows, tables, the width of a row and the size of a transaction; what it costs at rest
//! with 1,000 tables, and how long it takes to start with 10,000.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::lane::{Lane, Way};
use crate::machine::Machine;
use crate::plot::{Line, Lines, draw_lines};
use crate::report::{grouped, pair_title};
use crate::server::{Family, Server};
use crate::{Options, Outcome};

/// One dimension at a time leaves this.
const USUAL: Shape = Shape { rows: 200_000, tables: 1, width: 100, transaction_rows: 100 };
/// No case moves more than this.
const BYTES_MAX: usize = 400 << 20;
/// Time to come to rest before the idle cost is measured.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Shape {
    rows: usize,
    tables: usize,
    /// Bytes of text in a row.
    width: usize,
    transaction_rows: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Case {
    pair: String,
    dimension: &'static str,
    at: usize,
    shape: Shape,
    rate: f64,
    /// Source, engine, target: CPU seconds a million rows.
    cpu: [f64; 3],
    engine_user: f64,
    peak_mb: f64,
    /// From the start of the process to the first row visible, with everything made already.
    start_seconds: f64,
    foreign: f64,
}

#[derive(Debug, Clone, Serialize)]
struct Idle {
    pair: String,
    tables: usize,
    seconds: f64,
    /// Shares of one core.
    engine: f64,
    source: f64,
    target: f64,
    /// The servers' own, without tidelock.
    source_alone: f64,
    target_alone: f64,
    rss_mb: f64,
    peak_mb: f64,
}

impl Shape {
    fn create(&self) -> Vec<String> {
        let mut statements =
            vec!["CREATE TABLE marker (id bigint NOT NULL PRIMARY KEY)".to_owned()];
        let width = self.width.max(1);
        for first in (0..self.tables).step_by(200) {
            let some = (first..self.tables.min(first + 200)).map(|t| {
                format!("CREATE TABLE t{t} (id bigint NOT NULL PRIMARY KEY, a int NOT NULL, b varchar({width}) NOT NULL)")
            });
            statements.push(some.collect::<Vec<_>>().join(";"));
        }
        statements
    }

    /// Transactions of one table each, the tables in turn, in pieces of about a megabyte.
    fn sql(self) -> impl Iterator<Item = String> {
        let text: String = ('a'..='z').cycle().take(self.width.saturating_sub(8)).collect();
        let (mut id, mut transaction) = (0, 0);
        std::iter::from_fn(move || {
            let mut out = String::new();
            while out.len() < 1_000_000 && id < self.rows {
                out.push_str("BEGIN;");
                let end = self.rows.min(id + self.transaction_rows);
                while id < end {
                    let until = end.min(id + 500.min((1 << 20) / self.width.max(1)).max(1));
                    let _ = write!(out, "INSERT INTO t{} VALUES ", transaction % self.tables);
                    for row in id..until {
                        let sign = if row == id { "" } else { "," };
                        let _ = write!(
                            out,
                            "{sign}({row},{},'{text}{:08}')",
                            row % 1_000,
                            row % 100_000_000
                        );
                    }
                    out.push(';');
                    id = until;
                }
                out.push_str("COMMIT;");
                transaction += 1;
            }
            (!out.is_empty()).then_some(out)
        })
    }
}

async fn server(family: Family, durable: bool, shape: &Shape) -> Outcome<Server> {
    let server = Server::start(family, durable).await?;
    let mut session = server.session().await?;
    for statement in shape.create() {
        session.run(&statement).await?;
    }
    Ok(server)
}

/// A source and a lane that is tied to it, at rest.
async fn lane(options: &Options, pair: &str, shape: &Shape) -> Outcome<(Server, Lane)> {
    let family = |letter| if letter == Some('p') { Family::Postgres } else { Family::MariaDb };
    let mut letters = pair.chars();
    let (from, to) = (family(letters.next()), family(letters.next()));
    let (word, program) = options.programs.first().cloned().ok_or("no tidelock to measure")?;
    let source = server(from, false, shape).await?;
    let target = server(to, true, shape).await?;
    let way = Way::Tidelock { word, program };
    let lane = Lane::prepare(pair, way, 0, target, &["*"], &source).await?;
    Ok((source, lane))
}

async fn wait_for(lane: &mut Lane, source: &Server, marker: u64) -> Outcome {
    source.sql(&format!("INSERT INTO marker VALUES ({marker})")).await?;
    let mut session = lane.target.session().await?;
    lane.until(&mut session, &format!("SELECT count(*) FROM marker WHERE id = {marker}")).await
}

async fn case(
    options: &Options,
    pair: &str,
    dimension: &'static str,
    at: usize,
    shape: Shape,
) -> Outcome<Case> {
    let (source, mut lane) = lane(options, pair, &shape).await?;
    let began = Instant::now();
    lane.start(&source).await?;
    wait_for(&mut lane, &source, 1).await?;
    let start_seconds = began.elapsed().as_secs_f64();
    lane.stop().await?;
    let mut session = source.session().await?;
    for sql in shape.sql() {
        session.run(&sql).await?;
    }
    let machine = Machine::now();
    let before = (source.cpu(), lane.target.cpu());
    let began = Instant::now();
    lane.start(&source).await?;
    wait_for(&mut lane, &source, 2).await?;
    let seconds = began.elapsed().as_secs_f64();
    let (engine, peak_mb) = lane.engine();
    let (source_cpu, target_cpu) = (source.cpu() - before.0, lane.target.cpu() - before.1);
    lane.stop().await?;
    let million = shape.rows as f64 / 1e6;
    let case = Case {
        pair: pair.to_owned(),
        dimension,
        at,
        shape,
        rate: shape.rows as f64 / seconds,
        cpu: [source_cpu / million, engine.sum() / million, target_cpu / million],
        engine_user: engine.user / million,
        peak_mb,
        start_seconds,
        foreign: machine.foreign(source_cpu + target_cpu + engine.sum()),
    };
    println!("{}", row(&case));
    Ok(case)
}

fn row(case: &Case) -> String {
    let [source, engine, target] = case.cpu;
    format!(
        "| {} | {} {} | {} | {} | {source:.2} | {engine:.2} ({:.2}) | {target:.2} | {:.0} MB | {:.1} s | {:.0} % |",
        pair_title(&case.pair),
        grouped(case.at as f64),
        case.dimension,
        grouped(case.shape.rows as f64),
        grouped(case.rate),
        case.engine_user,
        case.peak_mb,
        case.start_seconds,
        case.foreign * 100.0
    )
}

async fn idle(options: &Options, pair: &str, tables: usize, seconds: u64) -> Outcome<Idle> {
    let (source, mut lane) = lane(options, pair, &Shape { tables, ..USUAL }).await?;
    let wait = Duration::from_secs(seconds);
    tokio::time::sleep(SETTLE).await;
    let before = (source.cpu(), lane.target.cpu());
    tokio::time::sleep(wait).await;
    let share = |cpu: f64| cpu / wait.as_secs_f64();
    let alone = (share(source.cpu() - before.0), share(lane.target.cpu() - before.1));
    lane.start(&source).await?;
    wait_for(&mut lane, &source, 1).await?;
    tokio::time::sleep(SETTLE).await;
    let before = (lane.engine().0.sum(), source.cpu(), lane.target.cpu());
    tokio::time::sleep(wait).await;
    let idle = Idle {
        pair: pair.to_owned(),
        tables,
        seconds: wait.as_secs_f64(),
        engine: share(lane.engine().0.sum() - before.0),
        source: share(source.cpu() - before.1),
        target: share(lane.target.cpu() - before.2),
        source_alone: alone.0,
        target_alone: alone.1,
        rss_mb: lane.rss_mb(),
        peak_mb: lane.engine().1,
    };
    println!("{}", idle_row(&idle));
    Ok(idle)
}

fn idle_row(idle: &Idle) -> String {
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    format!(
        "| {} | {} | {} | {} ({}) | {} ({}) | {:.0} MB | {:.0} MB |",
        pair_title(&idle.pair),
        grouped(idle.tables as f64),
        percent(idle.engine),
        percent(idle.source),
        percent(idle.source_alone),
        percent(idle.target),
        percent(idle.target_alone),
        idle.rss_mb,
        idle.peak_mb
    )
}

/// The cases of each dimension.
fn cases(full: bool) -> Vec<(&'static str, usize, Shape)> {
    let mut cases = Vec::new();
    let mut rows = vec![100_000, 300_000, 1_000_000];
    if full {
        rows.extend([3_000_000, 10_000_000]);
    }
    cases.extend(rows.into_iter().map(|rows| ("rows", rows, Shape { rows, ..USUAL })));
    for tables in [1, 10, 100, 1_000, 10_000] {
        cases.push(("tables", tables, Shape { tables, transaction_rows: 10, ..USUAL }));
    }
    for width in [20, 100, 500, 2_000, 8_000] {
        let rows = USUAL.rows.min(BYTES_MAX / 2 / width);
        cases.push(("bytes a row", width, Shape { width, rows, ..USUAL }));
    }
    for transaction_rows in [1, 10, 100, 1_000, 10_000, 100_000] {
        let rows = if transaction_rows == 1 { USUAL.rows / 4 } else { USUAL.rows };
        cases.push((
            "rows a transaction",
            transaction_rows,
            Shape { transaction_rows, rows, ..USUAL },
        ));
    }
    cases
}

/// Everything, or only the dimensions that `GROWTH` names by their first letters (`rows,tables,bytes,transaction,idle`).
pub async fn measure(options: &Options, only: &str) -> Outcome {
    let asked = |word: &str| only == "1" || only.split(',').any(|asked| word.contains(asked));
    let full = std::env::var("FULL").is_ok_and(|v| v == "1");
    println!("{CASES}");
    let mut found = Vec::new();
    for (dimension, at, shape) in cases(full) {
        let name = if dimension.starts_with("rows a") { "transaction" } else { dimension };
        if !asked(name) {
            continue;
        }
        for pair in &options.pairs {
            found.push(case(options, pair, dimension, at, shape).await?);
        }
    }
    let mut idles = Vec::new();
    if asked("idle") {
        println!("\n{IDLE}");
        let seconds = std::env::var("IDLE_SECONDS").map_or(Ok(60), |text| text.parse())?;
        for pair in &options.pairs {
            idles.push(idle(options, pair, 1_000, seconds).await?);
        }
    }
    match &options.out {
        Some(folder) => keep(folder, &found, &idles),
        None => Ok(()),
    }
}

const CASES: &str = "| pairing | at | rows | rows/s | CPU s/M rows: source | engine (own code) | target | peak RSS | start | others' share |\n\
                     |---|---|---|---|---|---|---|---|---|---|";
const IDLE: &str = "| pairing | tables | engine, of a core | source (without us) | target (without us) | RSS | peak RSS |\n\
                    |---|---|---|---|---|---|---|";

fn keep(folder: &Path, cases: &[Case], idles: &[Idle]) -> Outcome {
    std::fs::create_dir_all(folder)?;
    let all = serde_json::json!({ "cases": cases, "idle": idles });
    std::fs::write(folder.join("growth.json"), serde_json::to_vec_pretty(&all)?)?;
    let mut text = format!("{CASES}\n");
    cases.iter().for_each(|case| text.push_str(&format!("{}\n", row(case))));
    let _ = writeln!(text, "\n{IDLE}");
    idles.iter().for_each(|idle| text.push_str(&format!("{}\n", idle_row(idle))));
    std::fs::write(folder.join("growth.md"), text)?;
    let mut dimensions: Vec<&str> = cases.iter().map(|case| case.dimension).collect();
    dimensions.dedup();
    let panels = |y: &str, what: fn(&Case) -> f64| -> Vec<Lines> {
        let panel = |dimension: &&str| {
            let of = || cases.iter().filter(|case| case.dimension == *dimension);
            let mut pairs: Vec<&str> = Vec::new();
            of().for_each(|case| {
                if !pairs.contains(&case.pair.as_str()) {
                    pairs.push(&case.pair)
                }
            });
            Lines {
                title: format!("{y} by {dimension}"),
                x: (*dimension).to_owned(),
                y: y.to_owned(),
                lines: pairs
                    .iter()
                    .map(|pair| Line {
                        name: pair_title(pair).to_owned(),
                        points: of()
                            .filter(|c| c.pair == *pair)
                            .map(|c| (c.at as f64, what(c)))
                            .collect(),
                    })
                    .collect(),
            }
        };
        dimensions.iter().map(panel).collect()
    };
    if cases.is_empty() {
        return Ok(());
    }
    draw_lines(&folder.join("benchmarks-growth-rates.svg"), &panels("rows/s", |c| c.rate))?;
    draw_lines(
        &folder.join("benchmarks-growth-cpu.svg"),
        &panels("engine, CPU s a million rows", |c| c.cpu[1]),
    )?;
    draw_lines(&folder.join("benchmarks-growth-memory.svg"), &panels("peak RSS, MB", |c| c.peak_mb))
}
