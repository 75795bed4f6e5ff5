//! The command line: one verb a file. Exit code 0: done; 1: findings; 2: could not do it.

pub mod bars;
pub mod check;
pub mod demo;
pub mod drop;
pub mod init;
pub mod map;
pub mod plan;
pub mod run;
pub mod status;
pub mod steer;
mod survey;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tidelock_core::{Code, Error};

use crate::config::{Config, ConfigError};
use crate::control::Request;
use crate::status::ErrorStatus;
use crate::telemetry;

/// Keeps tables of PostgreSQL, MySQL and MariaDB in step, in both directions, exactly once in effect.
#[derive(Debug, Parser)]
#[command(name = "tidelock", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file [default: $TIDELOCK_CONFIG, ./tidelock.toml, /etc/tidelock/tidelock.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Form of the log on standard error
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Look at both ends, read-only, and print every problem with the SQL that mends it
    Check {
        /// Show instead what was compiled of one mapping: what feeds each column, which rows go, and what a
        /// change of which table does
        #[arg(long, value_name = "MAPPING")]
        explain: Option<String>,
        /// Show instead which fields leave which system for which, masked or not, and which do not: the
        /// paper that a data officer signs
        #[arg(long, conflicts_with = "explain")]
        exposure: bool,
        /// Send so many rows of each table that goes both ways there and back, in memory, and tell the columns that
        /// come back as something else
        #[arg(long, value_name = "N", conflicts_with_all = ["explain", "exposure"])]
        sample: Option<usize>,
    },
    /// Print, or with --create run, the CREATE TABLE of each target table that is missing
    ///
    /// The output is SQL of the target, with comments: what a column loses or gains on the way, and what
    /// cannot be planned. Tables that are there are left alone. Triggers, foreign keys, defaults that are
    /// expressions, and indexes beside the primary key are not carried over.
    Plan {
        /// Only these: a mapping, a table of a wildcard, FLOW/MAPPING, or a flow as `crm:erp`
        #[arg(value_name = "MAPPING")]
        mappings: Vec<String>,
        /// Run the statements at the targets
        #[arg(long)]
        create: bool,
    },
    /// Run the flows, in the foreground; SIGTERM drains and stops
    Run,
    /// Show flows and mappings, state, lag and rows
    Status {
        /// Show again every second
        #[arg(long)]
        watch: bool,
    },
    /// Pause a flow or a mapping, durably, until resumed
    Pause {
        /// The flow, as `crm:erp`, or the mapping; all flows if left out
        #[arg(value_name = "FLOW|MAPPING")]
        flow: Option<String>,
    },
    /// Resume a paused or halted flow, or a paused or stopped mapping
    Resume {
        /// The flow, as `crm:erp`, or the mapping; all flows if left out
        #[arg(value_name = "FLOW|MAPPING")]
        flow: Option<String>,
    },
    /// Read a table's rows again while everything streams
    Backfill {
        /// The mapping, or `FLOW/MAPPING`
        mapping: String,
        /// Only rows that meet this condition, in the source's SQL
        #[arg(long = "where", value_name = "SQL")]
        filter: Option<String>,
    },
    /// Bring a mapping, or a flow whose log was lost, back in step: compare and patch, deletes included
    Resync {
        /// The flow, as `crm:erp`, or the mapping
        #[arg(value_name = "FLOW|MAPPING")]
        name: String,
    },
    /// Let the daemon take up the changed configuration file, as SIGHUP does
    Reload,
    /// Remove what tidelock made on the servers for a flow: slot, publication, progress rows
    Drop {
        /// The flow, as `crm:erp`; all if left out
        flow: Option<String>,
    },
    /// Look at two live databases and write a commented first configuration
    ///
    /// Tables and columns are paired by names, types and keys. Doubts are marked, what cannot run is
    /// written as a comment with the reason, what has no counterpart is listed. One direction is proposed;
    /// nothing is written to the databases, and no password to the file.
    Init(init::InitArgs),
    /// Work on one mapping
    Map {
        /// What to do with it
        #[command(subcommand)]
        verb: MapVerb,
    },
    /// Start a scratch PostgreSQL "ERP" and MariaDB "CRM", live orders both ways, and compare at the end
    Demo {
        /// End after this many seconds; until Ctrl-C if 0
        #[arg(long, env = "DEMO_SECONDS", default_value_t = 0)]
        seconds: u64,
    },
}

/// What is done with one mapping.
#[derive(Debug, Subcommand)]
pub enum MapVerb {
    /// Run real rows of the source through a mapping and show them before and after; writes nothing
    ///
    /// The rows are those that a first copy would read first. Rows that `where` leaves out and rows that
    /// cannot be sent are shown as such; exit code 1 if there is one of the latter. This shows values of rows.
    Test {
        /// The mapping, a table of a wildcard, or FLOW/MAPPING
        mapping: String,
        /// How many rows
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rows: u32,
    },
}

/// Why a command could not do its work.
pub enum Refusal {
    /// The configuration is wrong.
    Config(ConfigError),
    /// Something else failed.
    Error(Error),
    /// The daemon refused it.
    Told(ErrorStatus),
    /// Something failed after a part was done, which the one document tells too.
    Partly(Box<(ErrorStatus, Value)>),
}

impl Refusal {
    fn shown(&self) -> ErrorStatus {
        match self {
            Refusal::Config(error) => error.into(),
            Refusal::Error(error) => error.into(),
            Refusal::Told(error) => error.clone(),
            Refusal::Partly(partly) => partly.0.clone(),
        }
    }

    /// What was done before, for one document.
    fn done(self) -> Value {
        match self {
            Refusal::Partly(partly) => partly.1,
            Refusal::Config(_) | Refusal::Error(_) | Refusal::Told(_) => json!({}),
        }
    }

    /// The same, with what was done before.
    fn with(self, done: Value) -> Refusal {
        Refusal::Partly(Box::new((self.shown(), done)))
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Refusal::Config(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Error(error)
    }
}

/// What a command answers with.
pub type Outcome = Result<ExitCode, Refusal>;

/// Findings: problems, differences.
pub const FINDINGS: u8 = 1;
/// Could not do it.
pub const FAILED: u8 = 2;

/// Writes a line to standard output; a reader that has gone away is no error.
pub fn say(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{}", line.as_ref());
}

fn complain(line: impl AsRef<str>) {
    let mut out = std::io::stderr().lock();
    let _closed = writeln!(out, "{}", line.as_ref());
}

/// An error on standard error.
fn complain_of(error: &ErrorStatus) {
    complain(error.told());
    if !error.hint.is_empty() {
        complain(format!("hint: {}", error.hint));
    }
}

/// The one JSON document of a command that does something: whether it was done, and what else is to be told.
fn answer(ok: bool, rest: Value) {
    let mut document = json!({ "ok": ok });
    if let (Some(all), Value::Object(rest)) = (document.as_object_mut(), rest) {
        all.extend(rest);
    }
    say(document.to_string());
}

/// The configuration that the command line points to.
pub fn config(cli: &Cli) -> Result<Config, ConfigError> {
    Config::load(&Config::find(cli.config.as_deref())?)
}

/// Answers a command line that says nothing that could be done, or only asks how to say it.
pub fn misused(error: &clap::Error) -> ExitCode {
    let asks = !error.use_stderr();
    let json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if asks || !json {
        let _closed = error.print();
        return ExitCode::from(if asks { 0 } else { FAILED });
    }
    let text = error.render().to_string();
    let mut parts = text.trim().split("\n\n").map(|part| {
        let words: Vec<&str> = part.split_whitespace().collect();
        words.join(" ")
    });
    let first = parts.next().unwrap_or_default();
    let (message, hint) = match first.strip_prefix("error: ") {
        Some(message) => (message.to_owned(), parts.collect::<Vec<_>>().join("; ")),
        // Without any argument all of the help is shown.
        None => ("no command was given".to_owned(), "`tidelock --help` lists them".to_owned()),
    };
    let code = Code::Usage.as_str();
    answer(false, json!({"error": {"code": code, "message": message, "hint": hint, "place": ""}}));
    ExitCode::from(FAILED)
}

/// Runs a command.
pub async fn execute(cli: Cli) -> ExitCode {
    let quiet = !matches!(cli.verb, Verb::Run);
    telemetry::install_logging(
        cli.log_format == LogFormat::Json,
        if quiet { "warn" } else { "info" },
    );
    let outcome = match &cli.verb {
        Verb::Check { exposure: true, .. } => check::exposure(&cli).await,
        Verb::Check { explain: None, sample, .. } => check::check(&cli, *sample).await,
        Verb::Check { explain: Some(mapping), .. } => check::explain(&cli, mapping).await,
        Verb::Plan { mappings, create } => plan::plan(&cli, mappings, *create).await,
        Verb::Run => run::run(&cli).await,
        Verb::Status { watch } => status::status(&cli, *watch).await,
        Verb::Pause { flow } => steer::steer(&cli, Request::Pause { flow: flow.clone() }).await,
        Verb::Resume { flow } => steer::steer(&cli, Request::Resume { flow: flow.clone() }).await,
        Verb::Backfill { mapping, filter } => {
            let (name, filter) = (mapping.clone(), filter.clone());
            steer::steer(&cli, Request::Backfill { name, filter }).await
        }
        Verb::Resync { name } => steer::steer(&cli, Request::Resync { name: name.clone() }).await,
        Verb::Reload => steer::steer(&cli, Request::Reload).await,
        Verb::Drop { flow } => drop::drop(&cli, flow.as_deref()).await,
        Verb::Init(args) => init::init(&cli, args).await,
        Verb::Map { verb: MapVerb::Test { mapping, rows } } => {
            map::test(&cli, mapping, usize::try_from(*rows).unwrap_or(usize::MAX)).await
        }
        Verb::Demo { seconds } => demo::demo(&cli, *seconds).await,
    };
    outcome.unwrap_or_else(|refusal| {
        let error = refusal.shown();
        if cli.json {
            let ErrorStatus { code, message, hint, place } = error;
            let error = json!({"code": code, "message": message, "hint": hint, "place": place});
            let mut document = refusal.done();
            if let Some(all) = document.as_object_mut() {
                all.insert("error".to_owned(), error);
            }
            answer(false, document);
        } else {
            complain_of(&error);
        }
        ExitCode::from(FAILED)
    })
}
