//! `tidelock pause`, `resume`, `resync`, `backfill`, `reload`.

use std::process::ExitCode;

use tidelock_core::{Code, Error};

use super::{Cli, FAILED, FINDINGS, Outcome, say};
use crate::control::{Reply, Request, ask};
use crate::engine::{Engine, open_checkpoint};
use crate::status::ErrorStatus;

/// Asks the daemon, or does it at the targets where no daemon runs.
pub async fn steer(cli: &Cli, request: Request) -> Outcome {
    let config = super::config(cli)?;
    match ask(&config.state_dir, &request).await? {
        Some(Reply::Done(text)) => {
            say(text);
            Ok(ExitCode::SUCCESS)
        }
        Some(Reply::Found { done, failed }) => {
            say(done);
            for failure in &failed {
                say(format!("{} does not run:", failure.flow));
                tell(&failure.error);
            }
            Ok(ExitCode::from(FINDINGS))
        }
        Some(Reply::Failed(error)) => {
            tell(&error);
            Ok(ExitCode::from(FAILED))
        }
        Some(Reply::Status(_)) => {
            Err(Error::setup(Code::Control, "the daemon gave another answer than asked for").into())
        }
        None => {
            let engine = Engine::new(&config, open_checkpoint(&config.state_dir)?)?;
            let text = match &request {
                Request::Pause { flow } => engine.pause(flow.as_deref()).await?,
                Request::Resume { flow } => engine.resume(flow.as_deref()).await?,
                Request::Resync { name } => engine.resync(name).await?,
                Request::Backfill { name, filter } => {
                    engine.backfill(name, filter.as_deref()).await?
                }
                Request::Reload | Request::Status => {
                    return Err(Error::setup(Code::Control, "no daemon is running").into());
                }
            };
            say(format!("{text} (no daemon is running)"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell(error: &ErrorStatus) {
    say(format!("error[{}]: {}", error.code, error.message));
    if !error.hint.is_empty() {
        say(format!("hint: {}", error.hint));
    }
}
