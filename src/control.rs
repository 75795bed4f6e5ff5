//! The control socket: `state_dir/control.sock`, for the user who runs the daemon and nobody else.
//!
//! One request and one answer a connection, each a line of JSON. A socket that nobody answers on is
//! left over from a process that was killed, and is replaced: sled's lock already makes sure that one
//! daemon only uses the folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidelock_core::{Code, Error, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::is_away;
use crate::config::Config;
use crate::engine::{Engine, Reloaded};
use crate::http::Http;
use crate::status::{ErrorStatus, Failure, PipelineStatus};

/// A wish.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "verb")]
pub enum Request {
    /// Show the status.
    Status,
    /// Pause flows.
    Pause {
        /// One flow, or all.
        flow: Option<String>,
    },
    /// Compare and patch a mapping or a flow.
    Resync {
        /// The flow or mapping.
        name: String,
    },
    /// Read rows of a mapping again.
    Backfill {
        /// The mapping.
        name: String,
        /// The condition that rows must meet.
        filter: Option<String>,
    },
    /// Take up the changed configuration file.
    Reload,
    /// Resume flows.
    Resume {
        /// One flow, or all.
        flow: Option<String>,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// Done; what was done.
    Done(String),
    /// The status.
    Status(PipelineStatus),
    /// Done, and these flows do not run with it.
    Found {
        /// What was done.
        done: String,
        /// The flows.
        failed: Vec<Failure>,
    },
    /// Not done.
    Failed(ErrorStatus),
}

/// How long to wait for a disk on which the socket can stand.
const BIND_AGAIN: Duration = Duration::from_secs(10);

fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

fn trouble(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::setup(Code::Control, format!("control socket {}: {error}", path.display()))
}

/// What requests act on.
pub struct Controlled {
    /// The flows.
    pub engine: Arc<Engine>,
    /// What is served on `listen`.
    pub http: Http,
    /// The configuration file, where there is one.
    pub file: Option<PathBuf>,
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until `stop`. On a full or read-only disk there is none until there can be one.
pub fn serve(
    state_dir: &Path,
    controlled: Arc<Controlled>,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>> {
    let path = socket(state_dir);
    let mut bound = match bind(&path) {
        Ok(listener) => Some(listener),
        Err(error) if is_away(&error) => {
            tracing::error!("{}; looks for it again every ten seconds", trouble(&path, error));
            None
        }
        Err(error) => return Err(trouble(&path, error)),
    };
    Ok(tokio::spawn(async move {
        loop {
            let Some(listener) = &bound else {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(BIND_AGAIN) => bound = bind(&path).ok(),
                }
                continue;
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let controlled = controlled.clone();
                    tokio::spawn(async move {
                        let answered = tokio::time::timeout(
                            Duration::from_secs(60),
                            answer(stream, &controlled),
                        )
                        .await;
                        if let Ok(Err(error)) = answered {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // Gone with us; a file that is no longer there is what we want.
        let _gone = std::fs::remove_file(&path);
    }))
}

async fn answer(stream: UnixStream, controlled: &Controlled) -> std::io::Result<()> {
    let engine = &controlled.engine;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Request>(&line) {
        Ok(Request::Status) => Reply::Status(engine.status().await),
        Ok(Request::Reload) => match reload(controlled).await {
            Ok(Reloaded { done, failed, .. }) if failed.is_empty() => Reply::Done(done.join("; ")),
            Ok(Reloaded { done, failed, .. }) => Reply::Found { done: done.join("; "), failed },
            Err(error) => Reply::Failed(error),
        },
        Ok(Request::Pause { flow }) => done(engine.pause(flow.as_deref()).await),
        Ok(Request::Resume { flow }) => done(engine.resume(flow.as_deref()).await),
        Ok(Request::Resync { name }) => done(engine.resync(&name).await),
        Ok(Request::Backfill { name, filter }) => {
            done(engine.backfill(&name, filter.as_deref()).await)
        }
        Err(error) => done(Err(Error::setup(Code::Control, format!("not a request: {error}")))),
    };
    let mut text = serde_json::to_string(&reply)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await
}

/// Reads the file again and takes up what changed; a file with a fault, or an address that cannot be
/// had, changes nothing.
pub async fn reload(controlled: &Controlled) -> std::result::Result<Reloaded, ErrorStatus> {
    let file = controlled.file.as_deref().ok_or_else(|| {
        ErrorStatus::from(&Error::setup(Code::Config, "this process was not started from a file"))
    })?;
    let config = Config::load(file).map_err(|error| ErrorStatus::from(&error))?;
    take_up(controlled, &config).await.map_err(|error| ErrorStatus::from(&error))
}

async fn take_up(controlled: &Controlled, config: &Config) -> Result<Reloaded> {
    let bound = controlled.http.bind(config.listen.as_deref()).await?;
    let mut reloaded = controlled.engine.reload(config).await?;
    reloaded.done.extend(controlled.http.swap(bound));
    if reloaded.done.is_empty() {
        reloaded.done.push("nothing changed".to_owned());
    }
    reloaded.settle().await;
    Ok(reloaded)
}

fn done(result: Result<String>) -> Reply {
    match result {
        Ok(text) => Reply::Done(text),
        Err(error) => Reply::Failed((&error).into()),
    }
}

/// Asks the daemon of this folder; `None` if there is none.
pub async fn ask(state_dir: &Path, request: &Request) -> Result<Option<Reply>> {
    let path = socket(state_dir);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(trouble(&path, error)),
    };
    let exchange = async {
        let (read, mut write) = stream.into_split();
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await?;
        Ok::<Reply, std::io::Error>(serde_json::from_str(&line)?)
    };
    match tokio::time::timeout(Duration::from_secs(60), exchange).await {
        Ok(Ok(reply)) => Ok(Some(reply)),
        Ok(Err(error)) => Err(trouble(&path, error)),
        Err(_) => Err(trouble(&path, "no answer within 60 seconds")),
    }
}
