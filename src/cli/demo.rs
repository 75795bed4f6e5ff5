//! `tidelock demo`: two scratch databases, work in both, and a comparison at the end.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tidelock_core::{Code, Error, Result};
use tokio_util::sync::CancellationToken;

use super::{Cli, FINDINGS, Outcome, answer, complain, run, say};
use crate::config::Config;
use crate::control::{Reply, Request, ask};
use crate::demo::compare::{Compared, agree, compare};
use crate::demo::work::{Sales, Warehouse, master_data};
use crate::demo::{World, trouble};
use crate::status::PipelineStatus;

/// How long the last changes may take to arrive once work has stopped.
const SETTLE: Duration = Duration::from_secs(60);

/// Where lines go as things happen.
type Tell = fn(String);

/// Runs for `seconds`, or until Ctrl-C if 0. Exit code 1 if the databases disagree at the end.
/// With `--json` standard output has the comparison alone, and the rest goes to standard error.
pub async fn demo(cli: &Cli, seconds: u64) -> Outcome {
    let tell: Tell = if cli.json { |line| complain(line) } else { |line| say(line) };
    tell("starting a scratch PostgreSQL \"ERP\" and a scratch MariaDB \"CRM\" …".to_owned());
    let world = World::start().await?;
    let state = tempfile::tempdir().map_err(trouble)?;
    let listen = free_address()?;
    let config = Config::parse(
        &world.config(state.path(), Some(&listen)),
        "examples/erp-crm/tidelock.toml",
    )?;
    tell(format!("ERP      {}", world.erp.url("erp")));
    tell(format!("CRM      {}", world.crm.url("crm")));
    tell(format!("console  http://{listen}/   metrics http://{listen}/metrics"));

    let (stop_flows, stop_work) = (CancellationToken::new(), CancellationToken::new());
    let serving = tokio::spawn({
        let (config, stop) = (config.clone(), stop_flows.clone());
        async move { run::serve(&config, None, stop).await }
    });
    wait_until_streaming(&config).await?;
    master_data(&world).await?;
    let done = work(&world, &config, seconds, &stop_work, tell).await?;
    tell(format!(
        "work has stopped: {done} transactions; waiting for the last of them to arrive …"
    ));

    let began = Instant::now();
    let (compared, lag) = loop {
        let compared = compare(&world).await?;
        let lag =
            status(&config).await?.flows.iter().filter_map(|f| f.lag_seconds).fold(0.0, f64::max);
        if (agree(&compared) && lag == 0.0) || began.elapsed() > SETTLE {
            break (compared, lag);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    tell(report(&compared));
    stop_flows.cancel();
    match serving.await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Err(refusal),
        Err(panic) => return Err(Error::bug(format!("the flows ended in a panic: {panic}")).into()),
    }
    let agrees = agree(&compared) && lag == 0.0;
    if cli.json {
        let table = |c: &Compared| json!({"table": c.name, "erp_rows": c.erp_rows, "crm_rows": c.crm_rows, "different": c.different});
        let tables: Vec<_> = compared.iter().map(table).collect();
        answer(agrees, json!({"transactions": done, "lag_seconds": lag, "tables": tables}));
    }
    if agrees {
        tell(format!(
            "both databases agree; lag 0 s, {:.1} s after work stopped",
            began.elapsed().as_secs_f64()
        ));
        Ok(ExitCode::SUCCESS)
    } else {
        tell(format!("the databases DISAGREE or lag is not 0 (lag {lag:.1} s)"));
        Ok(ExitCode::from(FINDINGS))
    }
}

fn free_address() -> Result<String> {
    // The usual port if it is free, else any.
    for address in ["127.0.0.1:7373", "127.0.0.1:0"] {
        if let Ok(listener) = std::net::TcpListener::bind(address) {
            return listener.local_addr().map(|a| a.to_string()).map_err(trouble);
        }
    }
    Err(Error::setup(Code::Config, "no free port on 127.0.0.1"))
}

async fn status(config: &Config) -> Result<PipelineStatus> {
    match ask(&config.state_dir, &Request::Status).await? {
        Some(Reply::Status(status)) => Ok(status),
        Some(Reply::Done(_) | Reply::Found { .. } | Reply::Failed(_)) | None => {
            Err(Error::setup(Code::Control, "the flows do not answer"))
        }
    }
}

async fn wait_until_streaming(config: &Config) -> Result<()> {
    let began = Instant::now();
    loop {
        match status(config).await {
            Ok(status) if status.flows.iter().all(|f| f.state == "streaming") => return Ok(()),
            Ok(status) => {
                if let Some(error) = status
                    .flows
                    .iter()
                    .filter(|f| f.state == "halted")
                    .find_map(|f| f.error.as_ref())
                {
                    return Err(Error::setup(Code::Catalog, error.message.clone())
                        .with_hint(error.hint.clone()));
                }
            }
            Err(error) if began.elapsed() > Duration::from_secs(60) => return Err(error),
            Err(_) => {}
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err(Error::setup(
                Code::Unreachable,
                "the flows did not begin to stream within 60 seconds",
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Works in both databases until the time is over; answers how many transactions that were.
async fn work(
    world: &World,
    config: &Config,
    seconds: u64,
    stop: &CancellationToken,
    tell: Tell,
) -> Result<u64> {
    let until = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds));
    let (mut sales, mut warehouse) =
        (Sales::begin(world, 1).await?, Warehouse::begin(world, 2).await?);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut done, mut shown) = (0, Instant::now());
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while !stop.is_cancelled() && until.is_none_or(|until| Instant::now() < until) {
        tokio::select! {
            biased;
            _ = &mut interrupted => break,
            _ = tick.tick() => {}
        }
        tokio::try_join!(sales.transaction(), warehouse.transaction())?;
        done += 2;
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            show(&status(config).await?, done, tell);
        }
    }
    Ok(done)
}

fn show(status: &PipelineStatus, done: u64, tell: Tell) {
    if std::io::stdout().is_terminal() {
        tell(format!("\x1b[2J\x1b[H{done} transactions\n\n{}", super::status::render(status)));
        return;
    }
    let flows: Vec<String> = status
        .flows
        .iter()
        .map(|f| {
            let rows: u64 =
                f.mappings.iter().map(|m| m.rows_inserted + m.rows_updated + m.rows_deleted).sum();
            format!("{} {} lag {:.1} s, {rows} rows", f.flow, f.state, f.lag_seconds.unwrap_or(0.0))
        })
        .collect();
    tell(format!("{done:>6} transactions | {}", flows.join(" | ")));
}

fn report(compared: &[Compared]) -> String {
    let mut text =
        format!("\n{:<20} {:>10} {:>10} {:>10}\n", "table", "ERP rows", "CRM rows", "different");
    for c in compared {
        text.push_str(&format!(
            "{:<20} {:>10} {:>10} {:>10}\n",
            c.name, c.erp_rows, c.crm_rows, c.different
        ));
    }
    text
}
