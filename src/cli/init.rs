//! `tidelock init`: looks at two live databases and writes a commented first configuration.
//!
//! What is written was compiled against both catalogs before: a mapping that `check` would refuse stands there as a comment,
//! with the reason. Passwords are never written.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use tidelock_core::{Code, Connector, Error, ErrorKind, Finding, SystemConfig, Table};

use super::{Cli, Outcome, Refusal, say};
use crate::config::{self, Config, Systems, TableRef};
use crate::flow::start;
use crate::init::{Head, Proposed, SystemHead, propose, written};
use crate::registry;

/// Which databases, and where the file goes.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The system that rows come from; with a schema, as `erp.sale`, its tables instead of those of the default schema (may be
    /// given several times)
    #[arg(long, value_name = "SYSTEM[.SCHEMA]")]
    from: Vec<String>,
    /// The system that they go to, in the same way
    #[arg(long, value_name = "SYSTEM[.SCHEMA]")]
    to: Vec<String>,
    /// The URL of the system that rows come from, where no configuration file names it
    #[arg(long, value_name = "URL", requires = "target")]
    source: Option<String>,
    /// The URL of the system that they go to
    #[arg(long, value_name = "URL", requires = "source")]
    target: Option<String>,
    /// The file to write; must not exist. Standard output if left out
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// One side.
struct Side {
    /// As it is written.
    head: SystemHead,
    /// As it is reached; may hold a password.
    reached: SystemHead,
    connector: Arc<dyn Connector>,
    tables: Vec<Table>,
}

/// Proposes a configuration.
pub async fn init(cli: &Cli, args: &InitArgs) -> Outcome {
    let (from, to) = (named(&args.from, "source")?, named(&args.to, "target")?);
    if from.0 == to.0 {
        return Err(refused("a pipeline leads from one system to another", "name two").into());
    }
    let systems = systems(cli, args, &from.0, &to.0)?;
    let source = side(&systems, &from).await?;
    let target = side(&systems, &to).await?;
    let mut proposed = propose(&source.tables, &target.tables);
    prove(&source, &target, &mut proposed).await?;
    let text = written(&head(&source.head, &target.head), &proposed);
    let runs = proposed.mappings.iter().filter(|p| p.faults.is_empty());
    let doubts = |p: &crate::init::Proposal| {
        p.doubts.len() + p.columns.iter().map(|c| c.doubts.len()).sum::<usize>()
    };
    let (mappings, doubts) = (runs.clone().count(), runs.map(doubts).sum::<usize>());
    if let Some(path) = &args.output {
        create(path, &text)?;
    }
    match (&args.output, cli.json) {
        (path, true) => say(
            json!({"file": path, "mappings": mappings, "doubts": doubts, "configuration": text})
                .to_string(),
        ),
        (Some(path), false) => say(format!(
            "{}: {mappings} mappings, {doubts} doubts; read it, then: tidelock check -c {0}",
            path.display()
        )),
        (None, false) => say(text.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Config, Code::Config, what.to_owned()).with_hint(hint)
}

/// A system and its schemas, as given.
fn named(given: &[String], default: &str) -> Result<(String, Vec<String>), Error> {
    let Some(first) = given.first() else { return Ok((default.to_owned(), Vec::new())) };
    let split = |text: &str| match text.split_once('.') {
        Some((system, schema)) => (system.to_owned(), Some(schema.to_owned())),
        None => (text.to_owned(), None),
    };
    let system = split(first).0;
    let mut schemas = Vec::new();
    for text in given {
        let (other, schema) = split(text);
        if other != system {
            return Err(refused(
                "all tables of one side are of one system",
                "--from erp.sale --from erp.public names two schemas of one",
            ));
        }
        schemas.extend(schema);
    }
    Ok((system, schemas))
}

/// The systems, by URLs or from a file that need not have mappings.
fn systems(cli: &Cli, args: &InitArgs, from: &str, to: &str) -> Result<Systems, Refusal> {
    if let (Some(source), Some(target)) = (&args.source, &args.target) {
        let system = |name: &str, url: &str| {
            let name = toml::Value::String(name.to_owned());
            format!("[systems.{name}]\nurl = {}\n", toml::Value::String(url.to_owned()))
        };
        let text =
            format!("version = 1\nname = \"init\"\n{}{}", system(from, source), system(to, target));
        return Ok(Systems::parse(&text, "the command line")?);
    }
    let path = Config::find(cli.config.as_deref()).map_err(|_| {
        refused(
            "no databases are named",
            "give --source URL --target URL, or -c FILE with [systems] and --from SYSTEM --to SYSTEM",
        )
    })?;
    if args.from.is_empty() || args.to.is_empty() {
        return Err(refused("no direction is named", "add --from SYSTEM --to SYSTEM").into());
    }
    let text = config::read(&path)?;
    Ok(Systems::parse(&text, &path.display().to_string())?)
}

async fn side(systems: &Systems, (name, schemas): &(String, Vec<String>)) -> Result<Side, Refusal> {
    let Some((config, lines, reached)) = systems.get(name) else {
        let known: Vec<&str> = systems.names().collect();
        let hint = format!("the file names {}", known.join(", "));
        return Err(refused(&format!("there is no system {name}"), &hint).into());
    };
    let config: &SystemConfig = config;
    let connector = registry::connector(config)?;
    let default_schema = connector.default_schema().to_owned();
    let schemas = match schemas.is_empty() {
        true => vec![default_schema.clone()],
        false => schemas.clone(),
    };
    connector.identify().await.map_err(|e| e.at(name))?;
    let tables = connector.catalog(&schemas).await.map_err(|e| e.at(name))?;
    if tables.is_empty() {
        let what = format!("{name} shows no tables in {}", schemas.join(", "));
        let hint = "name schemas, as --from erp.sale, or grant our role the right to see them";
        return Err(refused(&what, hint).into());
    }
    let head = |lines: &[String]| SystemHead {
        name: name.clone(),
        lines: lines.to_vec(),
        default_schema: default_schema.clone(),
    };
    Ok(Side { head: head(lines), reached: head(reached), connector, tables })
}

fn head(source: &SystemHead, target: &SystemHead) -> Head {
    Head {
        name: format!("{}-{}", source.name, target.name),
        source: source.clone(),
        target: target.clone(),
    }
}

/// Compiles what is proposed; what cannot run becomes a comment, until the rest can.
async fn prove(source: &Side, target: &Side, proposed: &mut Proposed) -> Result<(), Refusal> {
    while proposed.mappings.iter().any(|p| p.faults.is_empty()) {
        // In memory only: it may hold passwords.
        let text = written(&head(&source.reached, &target.reached), proposed);
        let config = Config::parse(&text, "the proposed configuration")?;
        let Some(flow) = config.flows.first() else { break };
        let outcome = start::plan(flow, &*source.connector, &*target.connector, false).await?;
        if outcome.failed.is_empty() {
            break;
        }
        let mut mended = false;
        for (name, finding) in &outcome.failed {
            let Some(mapping) = flow.mappings.iter().find(|m| m.name == *name) else { continue };
            for proposal in proposed.mappings.iter_mut().filter(|p| p.faults.is_empty()) {
                if is(&mapping.from, &proposal.source, &source.head.default_schema) {
                    proposal.faults.push(fault(name, finding));
                    mended = true;
                }
            }
        }
        if !mended {
            return Err(Error::bug("a proposed mapping cannot run and cannot be found").into());
        }
    }
    Ok(())
}

fn is(named: &TableRef, table: &Table, default_schema: &str) -> bool {
    let schema = named.schema.as_deref().unwrap_or(default_schema);
    let name = crate::config::TablePattern::Exact(table.name.name.clone());
    schema == table.name.schema && named.table == name
}

fn fault(name: &str, finding: &Finding) -> String {
    let own = format!("mapping {name}: ");
    finding.message.strip_prefix(&own).unwrap_or(&finding.message).to_owned()
}

/// Writes a new file.
fn create(path: &Path, text: &str) -> Result<(), Error> {
    let trouble = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::AlreadyExists => "choose another name, or move that file away",
            _ => "choose another place",
        };
        refused(&format!("{} cannot be written: {e}", path.display()), hint)
    };
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(trouble)?;
    file.write_all(text.as_bytes()).map_err(trouble)
}
