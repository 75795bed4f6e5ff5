//! End to end: the four workloads of `workload.rs`, by tidelock and by the servers' own replication, in one run.
//!
//! `docs/BENCHMARKS.md` says how to read what comes out. Options are environment variables:
//!
//! | | | default |
//! |---|---|---|
//! | `ROWS` | rows (changes) a workload | 200,000 |
//! | `WORKLOADS` | letters | `abcd` |
//! | `PAIRS` | `pp` PostgreSQL to PostgreSQL, `mm` MariaDB to MariaDB, `pm`, `mp` | `pp,mm,pm,mp` |
//! | `REPEAT` | how often each is done; medians are shown | 3 |
//! | `LANES` | `tidelock`, `native` (limits among them) or `all` | `all` |
//! | `LATENCY` | 1: commit to visible as well | 1 |
//! | `WRITERS` | write limits beside, by their number of connections (`1 2`): what several sessions at the target could gain | none |
//! | `DURABLE` | 0: targets that do not wait for the disk, for a quick look at CPU | 1 |
//! | `TIDELOCK_BIN` | other binaries, `word=path,word=path` or one path; a path may end in `?lanes=N` | this build |
//! | `GROWTH` | 1: tidelock alone instead, by rows, tables, bytes a row and rows a transaction, and at rest; or some of `rows,tables,bytes,transaction,idle`. `FULL=1` goes on to 10,000,000 rows | 0 |
//! | `OUT` | a folder for `results.json`, `results.md` and plots | none |

#[path = "replicate/growth.rs"]
mod growth;
#[path = "replicate/lane.rs"]
mod lane;
#[path = "replicate/latency.rs"]
mod latency;
#[path = "replicate/machine.rs"]
mod machine;
#[path = "replicate/plot.rs"]
mod plot;
#[path = "replicate/process.rs"]
mod process;
#[path = "replicate/report.rs"]
mod report;
#[path = "replicate/server.rs"]
mod server;
#[path = "replicate/workload.rs"]
mod workload;

use std::path::PathBuf;

use lane::{Lane, Run, TABLES, Way};
use server::{Family, Server};
use workload::{Table, Workload};

/// Any error ends the run.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What the environment asks for.
struct Options {
    rows: usize,
    workloads: Vec<char>,
    pairs: Vec<String>,
    repeat: usize,
    native: bool,
    programs: Vec<(String, PathBuf)>,
    latency: bool,
    /// More write limits, by their number of connections.
    writers: Vec<usize>,
    out: Option<PathBuf>,
}

impl Options {
    fn read() -> Outcome<Options> {
        let var =
            |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let lanes = var("LANES", "all");
        let own = env!("CARGO_BIN_EXE_tidelock");
        let programs = var("TIDELOCK_BIN", own);
        let programs = programs.split(',').map(|entry| match entry.split_once('=') {
            Some((word, path)) => (word.to_owned(), PathBuf::from(path)),
            None => ("tidelock".to_owned(), PathBuf::from(entry)),
        });
        Ok(Options {
            rows: var("ROWS", "200000").replace('_', "").parse()?,
            workloads: var("WORKLOADS", "abcd").chars().filter(char::is_ascii_alphabetic).collect(),
            pairs: var("PAIRS", "pp,mm,pm,mp").split([',', ' ']).map(str::to_owned).collect(),
            repeat: var("REPEAT", "3").parse()?,
            native: lanes != "tidelock",
            programs: if lanes == "native" { Vec::new() } else { programs.collect() },
            latency: var("LATENCY", "1") == "1",
            writers: var("WRITERS", "")
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?,
            out: std::env::var("OUT").ok().map(PathBuf::from),
        })
    }

    /// The lanes of every asked pair that starts at a family.
    fn lanes(&self, from: Family) -> Vec<(String, Family, Way)> {
        let pairs = match from {
            Family::Postgres => [("pp", Family::Postgres), ("pm", Family::MariaDb)],
            Family::MariaDb => [("mm", Family::MariaDb), ("mp", Family::Postgres)],
        };
        let mut lanes = Vec::new();
        for (word, to) in pairs {
            if !self.pairs.iter().any(|pair| pair == word) {
                continue;
            }
            let native = match word {
                "pp" => vec![Way::Subscription],
                "mm" => vec![Way::Replica { workers: 0 }, Way::Replica { workers: 4 }],
                _ => vec![Way::ReadLimit],
            };
            let limits = match word {
                "pp" | "mm" => &[][..],
                _ => &[1][..],
            };
            let limits = limits.iter().chain(&self.writers);
            let limits = limits.map(|&connections| Way::WriteLimit { connections });
            let native = native.into_iter().chain(limits);
            let own = self.programs.iter().map(|(word, program)| Way::Tidelock {
                word: word.clone(),
                program: program.clone(),
            });
            let native = native.filter(|_| self.native);
            lanes.extend(native.chain(own).map(|way| (word.to_owned(), to, way)));
        }
        lanes
    }
}

/// One source that works once, and every lane that takes its log to a target of its own.
async fn round(options: &Options, from: Family, letter: char, repeat: usize) -> Outcome<Vec<Run>> {
    let wanted = options.lanes(from);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let source = Server::start(from, false).await?;
    source.create_tables().await?;
    source.publish().await?;
    let mut lanes = Vec::new();
    for (number, (pair, to, way)) in wanted.into_iter().enumerate() {
        lanes.push(
            Lane::prepare(&pair, way, number, Server::target(to).await?, &TABLES, &source).await?,
        );
    }
    let work = Workload::new(letter, options.rows);
    let mut session = source.session().await?;
    for sql in work.sql() {
        session.run(&sql).await?;
    }
    session.run("INSERT INTO marker VALUES (1)").await?;
    let mut contents = Vec::new();
    for table in Table::ALL {
        contents.push((table, source.contents(table).await?));
    }
    // No lane always has the machine as the one before left it.
    let first = repeat % lanes.len();
    lanes.rotate_left(first);
    let mut runs = Vec::new();
    for mut lane in lanes {
        let run = lane.catch_up(&source, &work, 1, repeat).await?;
        if lane.replicates() {
            lane.compare(&contents).await?;
        }
        println!("{}", report::line(&run));
        runs.push(run);
    }
    Ok(runs)
}

async fn catch_up(options: &Options) -> Outcome<Vec<Run>> {
    let mut runs = Vec::new();
    for repeat in 0..options.repeat {
        for &letter in &options.workloads {
            for from in [Family::Postgres, Family::MariaDb] {
                runs.extend(round(options, from, letter, repeat).await?);
            }
        }
    }
    Ok(runs)
}

fn main() -> Outcome {
    // `cargo test --all-targets` asks for a listing; there is nothing to list.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    let options = Options::read()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        if let Some(only) = std::env::var("GROWTH").ok().filter(|only| only != "0") {
            return growth::measure(&options, &only).await;
        }
        let runs = catch_up(&options).await?;
        let latencies =
            if options.latency { latency::measure(&options).await? } else { Vec::new() };
        report::write(&runs, &latencies, options.out.as_deref())
    })
}
