//! `tidelock drop`: takes away what was made on the servers.

use std::process::ExitCode;

use tidelock_core::{Code, Error, ErrorKind};

use super::{Cli, Outcome, say};
use crate::control::{Request, ask};
use crate::engine::open_checkpoint;
use crate::flow::start::source_spec;
use crate::registry;

/// Drops the flow, or all. Refused while a daemon runs.
pub async fn drop(cli: &Cli, flow: Option<&str>) -> Outcome {
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
    let checkpoint = open_checkpoint(&config.state_dir)?;
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
            say(format!("{}: removed {removed}", flow.source));
        }
        let rows = target.forget(&config.name, &flow.name).await.map_err(|e| e.at(&flow.target))?;
        say(format!("{}: removed {rows} rows of flow {}", flow.target, flow.name));
        checkpoint.forget(&flow.name)?;
        for left in &dropped.left {
            say(format!("{}: {left}", flow.source));
        }
    }
    Ok(ExitCode::SUCCESS)
}
