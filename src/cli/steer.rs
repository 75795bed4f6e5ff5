//! `tidelock pause` and `tidelock resume`.

use std::process::ExitCode;

use tidelock_core::{Code, Error};

use super::{Cli, FAILED, Outcome, say};
use crate::control::{Reply, Request, ask};
use crate::engine::{Engine, open_checkpoint};

/// Asks the daemon, or does it at the targets where no daemon runs.
pub async fn steer(cli: &Cli, verb: &str, flow: Option<&str>) -> Outcome {
    let config = super::config(cli)?;
    let flow_name = flow.map(str::to_owned);
    let request = if verb == "pause" {
        Request::Pause { flow: flow_name }
    } else {
        Request::Resume { flow: flow_name }
    };
    match ask(&config.state_dir, &request).await? {
        Some(Reply::Done(text)) => {
            say(text);
            Ok(ExitCode::SUCCESS)
        }
        Some(Reply::Failed(error)) => {
            say(format!("error[{}]: {}", error.code, error.message));
            if !error.hint.is_empty() {
                say(format!("hint: {}", error.hint));
            }
            Ok(ExitCode::from(FAILED))
        }
        Some(Reply::Status(_)) => {
            Err(Error::setup(Code::Control, "the daemon gave another answer than asked for").into())
        }
        None => {
            let engine = Engine::new(&config, open_checkpoint(&config.state_dir)?)?;
            let text = if verb == "pause" {
                engine.pause(flow).await?
            } else {
                engine.resume(flow).await?
            };
            say(format!("{text} (no daemon is running)"));
            Ok(ExitCode::SUCCESS)
        }
    }
}
