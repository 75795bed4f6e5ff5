//! `tidelock run`: the daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidelock_core::{Code, Error};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Cli, FAILED, Outcome, Refusal};
use crate::config::Config;
use crate::control::Controlled;
use crate::engine::{Engine, open_checkpoint};
use crate::{control, http, telemetry};

/// How long the checkpoint is waited for: a command that was given while no daemon ran may have it.
const LENT: Duration = Duration::from_secs(10);

/// Runs the flows until a signal.
pub async fn run(cli: &Cli) -> Outcome {
    let config = super::config(cli)?;
    let stop = CancellationToken::new();
    watch_signals(stop.clone())?;
    serve(&config, Some(Config::find(cli.config.as_deref())?), stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the flows of a configuration until `stop`.
pub async fn serve(
    config: &Config,
    file: Option<PathBuf>,
    stop: CancellationToken,
) -> Result<(), Refusal> {
    let metrics = telemetry::install_metrics()?;
    let state_dir = config.state_dir.clone();
    let opening = tokio::task::spawn_blocking(move || open_checkpoint(&state_dir, LENT));
    let checkpoint = opening.await.map_err(|e| Error::bug(format!("opening ended: {e}")))??;
    let engine = Arc::new(Engine::new(config, checkpoint)?);
    let http = http::Http::new(engine.clone(), metrics, stop.clone());
    http.swap(http.bind(config.listen.as_deref()).await?);
    let controlled = Arc::new(Controlled { engine: engine.clone(), http, file });
    let controlling = control::serve(&config.state_dir, controlled.clone(), stop.clone())?;
    tokio::spawn(announce(engine.clone(), stop.clone()));
    if std::io::stderr().is_terminal() {
        tokio::spawn(super::bars::draw(engine.clone(), stop.clone()));
    }
    watch_hangup(controlled, stop.clone())?;
    tracing::info!(pipeline = %config.name, flows = config.flows.len(), version = env!("CARGO_PKG_VERSION"), "running");
    engine.run(stop).await;
    notify("STOPPING=1");
    if controlling.await.is_err() {
        tracing::warn!("the control socket ended in a panic");
    }
    tracing::info!("stopped");
    Ok(())
}

/// The first signal drains, the second ends at once.
fn watch_signals(stop: CancellationToken) -> Result<(), Error> {
    let failed =
        |e: std::io::Error| Error::setup(Code::Bug, format!("signals cannot be watched: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if again {
                tracing::warn!(
                    "second signal: ending at once; what was not committed is read again"
                );
                std::process::exit(i32::from(FAILED));
            }
            tracing::info!("draining; a second signal ends at once");
            stop.cancel();
        }
    });
    Ok(())
}

/// SIGHUP takes up the changed file.
fn watch_hangup(controlled: Arc<Controlled>, stop: CancellationToken) -> Result<(), Error> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|e| Error::setup(Code::Bug, format!("signals cannot be watched: {e}")))?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = hangup.recv() => {}
            }
            match control::reload(&controlled).await {
                // A flow that does not run with it has logged why.
                Ok(reloaded) => tracing::info!(done = %reloaded.done.join("; "), "reload"),
                Err(error) => tracing::error!(code = %error.code, hint = %error.hint,
                    "the changed configuration is not taken up: {}", error.told()),
            }
        }
    });
    Ok(())
}

/// Tells systemd when every flow streams.
async fn announce(engine: Arc<Engine>, stop: CancellationToken) {
    let mut told = false;
    while !stop.is_cancelled() {
        if !told && engine.ready().await {
            notify("READY=1");
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// `sd_notify(3)`: a datagram to the socket that systemd names; nothing where there is none.
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.to_str().and_then(|n| n.strip_prefix('@')) {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
