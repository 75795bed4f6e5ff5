//! Logging, metrics and lag.

pub mod lag;

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidelock_core::{Code, Error, Result};

/// Seconds: from a local commit to a link that was away for a night.
const LATENCY_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0];

/// Makes the metrics of this process ready to be rendered.
pub fn install_metrics() -> Result<PrometheusHandle> {
    let failed = |e: metrics_exporter_prometheus::BuildError| {
        Error::setup(Code::Bug, format!("metrics cannot be set up: {e}"))
    };
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("tidelock_apply_latency_seconds".to_owned()),
            LATENCY_BUCKETS,
        )
        .map_err(failed)?
        .install_recorder()
        .map_err(failed)?;
    metrics::describe_gauge!(
        "tidelock_lag_seconds",
        "how far the target is behind the source's log, in seconds; 0 when level"
    );
    metrics::describe_gauge!(
        "tidelock_lag_bytes",
        "log not yet read, applied, or still kept by the source, in bytes"
    );
    metrics::describe_histogram!(
        "tidelock_apply_latency_seconds",
        "target commit minus source commit"
    );
    metrics::describe_counter!(
        "tidelock_rows_captured_total",
        "changes of mapped tables met in the log"
    );
    metrics::describe_counter!(
        "tidelock_rows_total",
        "what became of captured changes, counted after the target's commit"
    );
    metrics::describe_gauge!("tidelock_flow_state", "1 for the state a flow is in");
    metrics::describe_counter!(
        "tidelock_reconnects_total",
        "attempts that failed and were made again"
    );
    metrics::describe_gauge!("tidelock_checkpoint_age_seconds", "age of the checkpoint");
    metrics::describe_gauge!("tidelock_build_info", "version of this program");
    metrics::gauge!("tidelock_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Sends logs to standard error. `TIDELOCK_LOG` chooses what (`info`, `tidelock=debug`).
pub fn install_logging(json: bool, default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TIDELOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    // A second call, in tests, finds a subscriber already there and leaves it.
    let _already_set = if json { builder.json().try_init() } else { builder.try_init() };
}
