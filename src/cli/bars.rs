//! Progress bars of copies, while `run` has a terminal. Elsewhere the log, `status` and the metrics tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidelock_core::CopyPhase;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::status::{FlowStatus, SnapshotStatus};
use crate::telemetry::TERMINAL;

const EVERY: Duration = Duration::from_millis(250);

/// Draws a bar for each flow that copies, until `stop`.
pub async fn draw(engine: Arc<Engine>, stop: CancellationToken) {
    let mut bars: HashMap<String, ProgressBar> = HashMap::new();
    while !stop.is_cancelled() {
        let status = engine.status().await;
        bars.retain(|flow, bar| {
            let copies = status.flows.iter().any(|f| f.flow == *flow && current(f).is_some());
            if !copies {
                bar.finish_and_clear();
            }
            copies
        });
        for flow in &status.flows {
            let Some(current) = current(flow) else { continue };
            let bar = bars.entry(flow.flow.clone()).or_insert_with(|| TERMINAL.add(new_bar()));
            bar.set_prefix(format!("{} {}", flow.flow, current.mapping));
            bar.set_message(current.words());
            bar.set_length(current.copy.total.max(current.copy.done));
            bar.set_position(current.copy.done);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    bars.values().for_each(ProgressBar::finish_and_clear);
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// The copy that a flow is at.
struct Current<'a> {
    mapping: &'a str,
    copy: &'a SnapshotStatus,
    /// Which one it is, and of how many.
    place: (usize, usize),
}

impl Current<'_> {
    fn words(&self) -> String {
        let left = self.copy.eta_seconds.map(|s| format!("about {s:.0} s left"));
        let left = match CopyPhase::parse(&self.copy.phase) {
            Some(CopyPhase::Sweep) => Some("looking for rows that only the target has".to_owned()),
            _ => left,
        };
        let (nth, all) = self.place;
        let table = (all > 1).then(|| format!("table {nth} of {all}"));
        [left, table].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// A flow copies one table after the other: the one that has begun, else the first that waits.
fn current(flow: &FlowStatus) -> Option<Current<'_>> {
    let copies: Vec<(&str, &SnapshotStatus)> = flow
        .mappings
        .iter()
        .filter_map(|m| Some((m.name.as_str(), m.snapshot.as_ref()?)))
        .collect();
    let runs = |copy: &SnapshotStatus| {
        matches!(CopyPhase::parse(&copy.phase), Some(CopyPhase::Rows | CopyPhase::Sweep))
    };
    let open = || copies.iter().filter(|(_, copy)| runs(copy));
    let (mapping, copy) =
        open().find(|(_, copy)| copy.done > 0).or_else(|| open().next()).copied()?;
    let ended = copies.len() - open().count();
    Some(Current { mapping, copy, place: (ended + 1, copies.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::MappingStatus;

    #[test]
    fn a_bar_is_of_the_table_that_has_begun() {
        let copy = |done, phase: &str| {
            Some(SnapshotStatus {
                done,
                total: 10,
                reason: "initial".into(),
                phase: phase.into(),
                eta_seconds: None,
                words: None,
            })
        };
        let mapping = |name: &str, snapshot| MappingStatus {
            snapshot,
            ..MappingStatus::idle(name, "snapshotting", None)
        };
        let mut flow = FlowStatus {
            flow: "a:b".into(),
            state: "snapshotting".into(),
            source_position: None,
            applied_position: None,
            lag_seconds: None,
            lag_bytes: None,
            exceptions_open: 0,
            error: None,
            mappings: vec![
                mapping("a", copy(10, "done")),
                mapping("b", copy(0, "rows")),
                mapping("c", copy(4, "rows")),
            ],
        };
        let at = current(&flow).map(|c| (c.mapping.to_owned(), c.place, c.words()));
        assert_eq!(at, Some(("c".into(), (2, 3), "table 2 of 3".into())));
        flow.mappings.truncate(1);
        assert!(current(&flow).is_none());
    }
}
