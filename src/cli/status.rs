//! `tidelock status`.

use std::process::ExitCode;
use std::time::Duration;

use tidelock_core::{Code, Error};

use super::{Cli, Outcome, Refusal, say};
use crate::config::Config;
use crate::control::{Reply, Request, ask};
use crate::registry;
use crate::status::{FlowStatus, Leftover, PipelineStatus};

/// Shows the status once, or every second.
pub async fn status(cli: &Cli, watch: bool) -> Outcome {
    let config = super::config(cli)?;
    loop {
        let mut status = look(&config).await?;
        if !watch {
            status.leftovers = leftovers(&config).await;
        }
        if watch {
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
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The daemon's own status, or what the targets hold where no daemon runs.
async fn look(config: &Config) -> Result<PipelineStatus, Refusal> {
    match ask(&config.state_dir, &Request::Status).await? {
        Some(Reply::Status(status)) => Ok(status),
        Some(Reply::Done(_) | Reply::Failed(_)) => {
            Err(Error::setup(Code::Control, "the daemon gave another answer than asked for").into())
        }
        None => stopped(config).await,
    }
}

async fn stopped(config: &Config) -> Result<PipelineStatus, Refusal> {
    let mut flows = Vec::new();
    for flow in &config.flows {
        let system = config
            .systems
            .get(&flow.target)
            .ok_or_else(|| Error::bug("a flow without its target"))?;
        let rows = registry::connector(system)?
            .read_progress(&config.name)
            .await
            .map_err(|e| e.at(&flow.target))?;
        let position =
            rows.into_iter().find(|p| p.flow == flow.name).map(|p| p.position.to_string());
        flows.push(FlowStatus {
            flow: flow.name.clone(),
            state: "stopped".to_owned(),
            source_position: None,
            applied_position: position,
            lag_seconds: None,
            lag_bytes: None,
            exceptions_open: 0,
            error: None,
            mappings: Vec::new(),
        });
    }
    Ok(PipelineStatus { name: config.name.clone(), flows, leftovers: Vec::new() })
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
        found.extend(
            names
                .into_iter()
                .filter(|left| !used(left))
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
            if let Some(error) = &m.error {
                text.push_str(&format!("    {} {}\n", error.code, error.message));
            }
        }
    }
    for left in &status.leftovers {
        text.push_str(&format!("\nleft over at {}: {}; no flow uses it\n", left.system, left.name));
    }
    text
}
