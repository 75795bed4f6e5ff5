//! `tidelock drop`: takes away what was made on the servers.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tidelock_core::{Code, Error, ErrorKind};

use super::{Cli, Outcome, Refusal, answer, say};
use crate::control::{Request, ask};
use crate::engine::open_checkpoint;
use crate::flow::start::source_spec;
use crate::registry;

/// What was done so far: told at once, or kept for one document.
#[derive(Default)]
struct Told {
    json: bool,
    removed: Vec<Value>,
    left: Vec<Value>,
}

impl Told {
    fn removed(&mut self, system: &str, what: &str) {
        if !self.json {
            say(format!("{system}: removed {what}"));
        }
        self.removed.push(json!({"system": system, "what": what}));
    }

    fn left(&mut self, system: &str, what: &str) {
        if !self.json {
            say(format!("{system}: {what}"));
        }
        self.left.push(json!({"system": system, "what": what}));
    }

    fn document(self) -> Value {
        json!({ "removed": self.removed, "left": self.left })
    }
}

/// Drops the flow, or all. Refused while a daemon runs.
pub async fn drop(cli: &Cli, flow: Option<&str>) -> Outcome {
    let mut told = Told { json: cli.json, ..Told::default() };
    match dropped(cli, flow, &mut told).await {
        Ok(()) if cli.json => answer(true, told.document()),
        Ok(()) => {}
        Err(refusal) if cli.json && !told.removed.is_empty() => {
            return Err(refusal.with(told.document()));
        }
        Err(refusal) => return Err(refusal),
    }
    Ok(ExitCode::SUCCESS)
}

async fn dropped(cli: &Cli, flow: Option<&str>, told: &mut Told) -> Result<(), Refusal> {
    let config = super::config(cli)?;
    if ask(&config.state_dir, &Request::Status).await?.is_some() {
        return Err(Error::new(ErrorKind::Config, Code::Control, "the daemon is running")
            .with_hint("stop it first, then drop")
            .into());
    }
    let chosen: Vec<_> =
        config.flows.iter().filter(|f| flow.is_none_or(|name| name == f.name)).collect();
    if chosen.is_empty() {
        let known = config.flows.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::new(ErrorKind::Config, Code::Control, "there is no such flow")
            .with_hint(format!("known flows: {known}"))
            .into());
    }
    let checkpoint = open_checkpoint(&config.state_dir, Duration::ZERO)?;
    for flow in chosen {
        let system = |name: &str| {
            config.systems.get(name).ok_or_else(|| Error::bug("a flow without its system"))
        };
        let source = registry::connector(system(&flow.source)?)?;
        let target = registry::connector(system(&flow.target)?)?;
        // The source first: a slot that nobody reads would hold its log for ever.
        let spec = source_spec(&config.name, flow, &[], "");
        let dropped = source.drop_stream(&spec).await.map_err(|e| e.at(&flow.source))?;
        for removed in &dropped.removed {
            told.removed(&flow.source, removed);
        }
        let rows = target.forget(&config.name, &flow.name).await.map_err(|e| e.at(&flow.target))?;
        told.removed(&flow.target, &format!("{rows} rows of flow {}", flow.name));
        checkpoint.forget(&flow.name)?;
        for left in &dropped.left {
            told.left(&flow.source, left);
        }
    }
    Ok(())
}
