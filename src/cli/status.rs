//! `tidelock status`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use tidelock_core::{Code, CopyPhase, CopyRow, Error, StateRow, StoredState};

use super::{Cli, FINDINGS, Outcome, Refusal, complain, say};
use crate::config::resolve::is_name_of;
use crate::config::{Config, FlowConfig, TablePattern};
use crate::control::{Reply, Request, ask};
use crate::registry;
use crate::status::{FlowStatus, Leftover, MappingStatus, PipelineStatus, SnapshotStatus};

/// Shows the status once, or every second.
pub async fn status(cli: &Cli, watch: bool) -> Outcome {
    let file = Config::find(cli.config.as_deref())?;
    let state_dir = Config::state_dir(&file)?;
    // Only a page for people is begun anew.
    let clears = watch && !cli.json && std::io::stdout().is_terminal();
    loop {
        let mut status = look(&state_dir, &file).await?;
        if !watch {
            match Config::load(&file) {
                Ok(config) => status.leftovers = leftovers(&config).await,
                // A daemon has answered, which has the secrets that may not be here.
                Err(error) => complain(format!("not looked for leftovers: {}", error.message)),
            }
        }
        if clears {
            say("\x1b[2J\x1b[H");
        }
        if cli.json {
            let text = serde_json::to_string(&status)
                .map_err(|e| Error::bug(format!("status as json: {e}")))?;
            say(text);
        } else {
            say(render(&status));
        }
        if !watch {
            let code = if status.has_findings() { FINDINGS } else { 0 };
            return Ok(ExitCode::from(code));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The daemon's own status, or what the targets hold where no daemon runs.
async fn look(state_dir: &Path, file: &Path) -> Result<PipelineStatus, Refusal> {
    match ask(state_dir, &Request::Status).await? {
        Some(Reply::Status(status)) => Ok(status),
        Some(Reply::Done(_) | Reply::Found { .. } | Reply::Failed(_)) => {
            Err(Error::setup(Code::Control, "the daemon gave another answer than asked for").into())
        }
        None => Ok(stopped(&Config::load(file)?).await),
    }
}

/// What the targets hold of each flow. A target that cannot be asked is its flow's error and keeps
/// nothing back of the others.
async fn stopped(config: &Config) -> PipelineStatus {
    let flows = join_all(config.flows.iter().map(async |flow| match stored(config, flow).await {
        Ok(stored) => stopped_flow(flow, stored),
        Err(error) => {
            let unknown = stopped_flow(flow, Stored::default());
            FlowStatus { error: Some((&error.at(&flow.target)).into()), ..unknown }
        }
    }));
    PipelineStatus { name: config.name.clone(), flows: flows.await, leftovers: Vec::new() }
}

/// What a target holds of a flow.
#[derive(Default)]
struct Stored {
    position: Option<String>,
    states: Vec<StateRow>,
    copies: Vec<CopyRow>,
}

async fn stored(config: &Config, flow: &FlowConfig) -> Result<Stored, Error> {
    let system =
        config.systems.get(&flow.target).ok_or_else(|| Error::bug("a flow without its target"))?;
    let target = registry::connector(system)?;
    let progress = target.read_progress(&config.name).await?;
    let mut states = target.read_states(&config.name).await?;
    states.retain(|row| row.flow == flow.name);
    let own = progress.into_iter().find(|p| p.flow == flow.name);
    let mut copies = target.read_copies(&config.name).await?;
    copies.retain(|row| row.flow == flow.name && row.phase != CopyPhase::Left);
    Ok(Stored { position: own.map(|p| p.position.to_string()), states, copies })
}

/// A flow that nobody runs: its mappings are those the file names and those that were stopped (of a
/// wildcard, whose tables only the servers know).
fn stopped_flow(flow: &FlowConfig, stored: Stored) -> FlowStatus {
    let Stored { position: applied_position, states, copies } = stored;
    let (own, of_mappings): (Vec<_>, Vec<_>) = states.iter().partition(|s| s.mapping.is_empty());
    let paused = own.iter().any(|s| s.state == StoredState::Paused);
    let state = if paused { "paused" } else { "stopped" };
    let named = flow.mappings.iter().filter(|m| matches!(m.from.table, TablePattern::Exact(_)));
    let mut mappings: BTreeMap<&str, MappingStatus> =
        named.map(|m| (m.name.as_str(), MappingStatus::idle(&m.name, state, None))).collect();
    for row in of_mappings {
        let status = match row.state {
            StoredState::Paused => MappingStatus::idle(&row.mapping, "paused", None),
            StoredState::Stopped => MappingStatus::idle(&row.mapping, "stopped", Some(row.into())),
        };
        mappings.insert(&row.mapping, status);
    }
    for row in &copies {
        let mapping = mappings
            .entry(&row.mapping)
            .or_insert_with(|| MappingStatus::idle(&row.mapping, state, None));
        mapping.snapshot = Some(row.into());
    }
    let mappings: Vec<MappingStatus> = mappings.into_values().collect();
    FlowStatus {
        flow: flow.name.clone(),
        state: state.to_owned(),
        source_position: None,
        applied_position,
        lag_seconds: None,
        lag_bytes: None,
        exceptions_open: mappings.iter().map(|m| m.exceptions_open).sum(),
        error: own.iter().find(|s| s.state == StoredState::Stopped).map(|row| (*row).into()),
        mappings,
    }
}

/// Slots and publications of ours that no flow uses: they hold log for nobody. A system that cannot be asked
/// within two seconds is left out; its flows tell that it is away.
async fn leftovers(config: &Config) -> Vec<Leftover> {
    let mut found = Vec::new();
    for (name, system) in &config.systems {
        let Ok(connector) = registry::connector(system) else { continue };
        let asked = tokio::time::timeout(Duration::from_secs(2), connector.leftovers(&config.name));
        let Ok(Ok(names)) = asked.await else { continue };
        let used = |left: &str| {
            config.flows.iter().filter(|f| f.source == *name).any(|f| {
                left == format!("replication slot {}", f.slot)
                    || left == format!("publication {}", f.publication)
            })
        };
        // A connector finds by prefix, and one pipeline's may begin with another's.
        let ours = |left: &str| {
            let made = left.rsplit_once(' ').map_or(left, |(_, name)| name);
            is_name_of(&config.name, made, config.systems.keys())
        };
        found.extend(
            names
                .into_iter()
                .filter(|left| !used(left) && ours(left))
                .map(|left| Leftover { system: name.clone(), name: left }),
        );
    }
    found
}

/// For people.
pub fn render(status: &PipelineStatus) -> String {
    let mut text = format!("pipeline {}\n", status.name);
    for flow in &status.flows {
        let lag = flow.lag_seconds.map_or("-".to_owned(), |s| format!("{s:.1} s"));
        let position = flow.applied_position.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "\nflow {:<20} {:<12} lag {lag:<10} at {position}\n",
            flow.flow, flow.state
        ));
        if let Some(error) = &flow.error {
            text.push_str(&format!("  {} {}\n", error.code, error.message));
            if !error.hint.is_empty() {
                text.push_str(&format!("  hint: {}\n", error.hint));
            }
        }
        if !flow.mappings.is_empty() {
            text.push_str(&format!(
                "  {:<24} {:<10} {:>10} {:>10} {:>10} {:>9} {:>9}\n",
                "mapping", "state", "inserted", "updated", "deleted", "filtered", "parked"
            ));
        }
        for m in &flow.mappings {
            text.push_str(&format!(
                "  {:<24} {:<10} {:>10} {:>10} {:>10} {:>9} {:>9}\n",
                m.name,
                m.state,
                m.rows_inserted,
                m.rows_updated,
                m.rows_deleted,
                m.rows_filtered,
                m.rows_parked
            ));
            if let Some(copy) = m.snapshot.as_ref().and_then(SnapshotStatus::progress) {
                text.push_str(&format!("    {copy}\n"));
            }
            for note in &m.notes {
                text.push_str(&format!("    note: {note}\n"));
            }
            if let Some(error) = &m.error {
                text.push_str(&format!("    {} {}\n", error.code, error.message));
                if !error.hint.is_empty() {
                    text.push_str(&format!("    hint: {}\n", error.hint));
                }
            }
        }
    }
    for left in &status.leftovers {
        text.push_str(&format!("\nleft over at {}: {}; no flow uses it\n", left.system, left.name));
    }
    text
}
