//! Logging, metrics and lag.

pub mod lag;

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;

use indicatif::MultiProgress;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidelock_core::{Code, Error, Result};

/// Seconds: from a local commit to a link that was away for a night.
const LATENCY_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3600.0];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// Every metric, with its help text.
pub const METRICS: &[(MetricKind, &str, &str)] = {
    use MetricKind::{Counter, Gauge, Histogram};
    &[
        (
            Gauge,
            "tidelock_lag_seconds",
            "how far the target is behind the source's log, in seconds; 0 when level; absent until a flow has had a position",
        ),
        (
            Gauge,
            "tidelock_lag_probe_age_seconds",
            "age of the newest look at the end of the source's log; large when the source cannot be reached",
        ),
        (
            Gauge,
            "tidelock_lag_bytes",
            "log not yet read, applied, or still kept by the source, in bytes",
        ),
        (
            Histogram,
            "tidelock_apply_latency_seconds",
            "target commit minus source commit, on both servers' clocks",
        ),
        (Counter, "tidelock_rows_captured_total", "changes of mapped tables met in the log"),
        (
            Counter,
            "tidelock_rows_total",
            "what became of captured changes, counted after the target's commit",
        ),
        (
            Counter,
            "tidelock_lane_transactions_total",
            "target transactions that lanes wrote beside the flow's own session",
        ),
        (Gauge, "tidelock_snapshot_rows", "rows of a copy: done, and about how many there are"),
        (
            Gauge,
            "tidelock_exceptions_open",
            "1 for a mapping that has stopped and waits for a person",
        ),
        (Gauge, "tidelock_flow_state", "1 for the state a flow is in"),
        (
            Counter,
            "tidelock_reconnects_total",
            "attempts that failed and were made again, by the system at which they failed",
        ),
        (
            Gauge,
            "tidelock_checkpoint_age_seconds",
            "time since the checkpoint was last made durable",
        ),
        (
            Gauge,
            "tidelock_log_headroom_bytes",
            "log that may still be written before the server drops what we need; absent where it sets no limit",
        ),
        (
            Gauge,
            "tidelock_log_headroom_seconds",
            "time until the server drops log that we need, by its own limit or as fast as the log has lately grown; absent where it sets no limit",
        ),
        (
            Gauge,
            "tidelock_open_transaction_age_seconds",
            "age of the oldest open transaction of the source, of which nothing can arrive before it ends",
        ),
        (Gauge, "tidelock_build_info", "version of this program"),
    ]
};

/// What a gauge is set to that has no value any more: it is not shown.
pub const GONE: f64 = f64::NAN;

/// The metrics of this process, as Prometheus reads them.
pub fn render(metrics: &PrometheusHandle) -> String {
    metrics.run_upkeep();
    without_gone(&metrics.render())
}

fn without_gone(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(" NaN")).collect()
}

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
    for &(kind, name, help) in METRICS {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, help),
        }
    }
    metrics::gauge!("tidelock_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Where progress bars are drawn: standard error, if it is a terminal.
pub static TERMINAL: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Standard error, with the progress bars out of the way while a line is written.
struct Beside;

impl Write for Beside {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        TERMINAL.suspend(|| std::io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Sends logs to standard error. `TIDELOCK_LOG` chooses what (`info`, `tidelock=debug`).
pub fn install_logging(json: bool, default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TIDELOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(|| Beside);
    // A second call, in tests, finds a subscriber already there and leaves it.
    let _already_set = if json { builder.json().try_init() } else { builder.try_init() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_has_no_value_any_more_is_not_shown() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::gauge!("tidelock_lag_seconds", "flow" => "a:b").set(1.5);
            metrics::gauge!("tidelock_lag_seconds", "flow" => "b:a").set(2.5);
            metrics::gauge!("tidelock_lag_seconds", "flow" => "b:a").set(GONE);
        });
        let text = render(&handle);
        assert!(text.contains("tidelock_lag_seconds{flow=\"a:b\"} 1.5"), "{text}");
        assert!(!text.contains("b:a"), "{text}");
        metrics::with_local_recorder(&recorder, || {
            metrics::gauge!("tidelock_lag_seconds", "flow" => "b:a").set(0.0);
        });
        assert!(render(&handle).contains("{flow=\"b:a\"} 0"), "it may come back");
    }
}
