//! `tidelock pause`, `resume`, `resync`, `backfill`, `reload`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidelock_core::{Code, Error};

use crate::checkpoint::Checkpoint;
use crate::config::Config;

use super::{Cli, FINDINGS, Outcome, Refusal, answer, complain_of, say};
use crate::control::{Reply, Request, ask};
use crate::engine::{Engine, open_checkpoint};

/// How long a daemon may take until it answers.
const STARTING: Duration = Duration::from_secs(5);

/// Asks the daemon, or does it at the targets where no daemon runs. A daemon has the secrets that the file names, so they
/// are asked for only where there is none.
pub async fn steer(cli: &Cli, request: Request) -> Outcome {
    let file = Config::find(cli.config.as_deref())?;
    let (reply, checkpoint) = reach(&Config::state_dir(&file)?, &request).await?;
    match reply {
        Some(Reply::Done(done)) => {
            if cli.json {
                answer(true, json!({ "done": done }));
            } else {
                say(done);
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Reply::Found { done, failed }) => {
            if cli.json {
                answer(false, json!({ "done": done, "failed": failed }));
            } else {
                say(done);
                for failure in &failed {
                    super::complain(format!("{} does not run:", failure.flow));
                    complain_of(&failure.error);
                }
            }
            Ok(ExitCode::from(FINDINGS))
        }
        Some(Reply::Failed(error)) => Err(Refusal::Told(error)),
        Some(Reply::Status(_)) => {
            Err(Error::setup(Code::Control, "the daemon gave another answer than asked for").into())
        }
        None => {
            let checkpoint = checkpoint.ok_or_else(|| Error::bug("no daemon and no checkpoint"))?;
            let done = at_the_targets(&Config::load(&file)?, checkpoint, &request).await?;
            if cli.json {
                answer(true, json!({ "done": done, "daemon": false }));
            } else {
                say(format!("{done} (no daemon is running)"));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn at_the_targets(
    config: &Config,
    checkpoint: Arc<Checkpoint>,
    request: &Request,
) -> Result<String, Error> {
    let engine = Engine::new(config, checkpoint)?;
    match request {
        Request::Pause { flow } => engine.pause(flow.as_deref()).await,
        Request::Resume { flow } => engine.resume(flow.as_deref()).await,
        Request::Resync { name } => engine.resync(name).await,
        Request::Backfill { name, filter } => engine.backfill(name, filter.as_deref()).await,
        Request::Reload | Request::Status => {
            Err(Error::setup(Code::Control, "no daemon is running")
                .with_hint("`tidelock run` starts it, with the file as it is now"))
        }
    }
}

/// The daemon's answer, or the checkpoint that no daemon holds. A daemon that is just starting holds it
/// and does not answer yet: that is waited for.
async fn reach(
    state_dir: &Path,
    request: &Request,
) -> Result<(Option<Reply>, Option<Arc<Checkpoint>>), Error> {
    let began = Instant::now();
    loop {
        if let Some(reply) = ask(state_dir, request).await? {
            return Ok((Some(reply), None));
        }
        match open_checkpoint(state_dir, Duration::ZERO) {
            Ok(checkpoint) => return Ok((None, Some(checkpoint))),
            Err(error) if began.elapsed() > STARTING => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
