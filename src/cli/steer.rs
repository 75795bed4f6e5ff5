//! `tidelock pause`, `resume`, `resync`, `backfill`, `reload`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{Code, Error};

use crate::checkpoint::Checkpoint;
use crate::config::Config;

use super::{Cli, FAILED, FINDINGS, Outcome, say};
use crate::control::{Reply, Request, ask};
use crate::engine::{Engine, open_checkpoint};
use crate::status::ErrorStatus;

/// How long a daemon may take until it answers.
const STARTING: Duration = Duration::from_secs(5);

/// Asks the daemon, or does it at the targets where no daemon runs.
pub async fn steer(cli: &Cli, request: Request) -> Outcome {
    let config = super::config(cli)?;
    let (reply, checkpoint) = reach(&config, &request).await?;
    match reply {
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
            let checkpoint = checkpoint.ok_or_else(|| Error::bug("no daemon and no checkpoint"))?;
            let engine = Engine::new(&config, checkpoint)?;
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

/// The daemon's answer, or the checkpoint that no daemon holds. A daemon that is just starting holds it
/// and does not answer yet: that is waited for.
async fn reach(
    config: &Config,
    request: &Request,
) -> Result<(Option<Reply>, Option<Arc<Checkpoint>>), Error> {
    let began = Instant::now();
    loop {
        if let Some(reply) = ask(&config.state_dir, request).await? {
            return Ok((Some(reply), None));
        }
        match open_checkpoint(&config.state_dir) {
            Ok(checkpoint) => return Ok((None, Some(checkpoint))),
            Err(error) if began.elapsed() > STARTING => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn tell(error: &ErrorStatus) {
    say(format!("error[{}]: {}", error.code, error.message));
    if !error.hint.is_empty() {
        say(format!("hint: {}", error.hint));
    }
}
