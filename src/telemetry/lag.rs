//! Lag: how far the target is behind the source's log, on our clock.
//!
//! Once a second the end of the source's log is looked at and kept with the time. The flow is level
//! when it has applied up to the newest such look; else its lag is the age of the oldest look that it
//! has not reached. So lag is true on an idle source, grows while a source with unread log cannot be
//! reached, and needs no clock but ours.
//!
//! **After a start** there are no looks of the time before, but two witnesses: the oldest look not reached
//! when we ended, kept in the checkpoint with the position applied by then, and, until the flow has once been level, the time at which the
//! source committed what is now being applied (its clock, so only until then). A flow that never had a
//! position has no lag.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidelock_core::{Position, SourceSpec};
use tokio_util::sync::CancellationToken;

use crate::apply::now_micros;
use crate::checkpoint::LagRecord;
use crate::flow::{FlowContext, FlowState};
use crate::telemetry::GONE;

/// Looks kept; beyond that every second one of the older half goes.
const SAMPLES_MAX: usize = 600;
/// Log kept for us beyond which a source that stands still is nudged, in bytes.
const NUDGE_RETAINED: u64 = 16 << 20;
/// Between nudges; after [`NUDGES`] that freed nothing (somebody's open transaction keeps the log), longer.
const NUDGE_EVERY: Duration = Duration::from_secs(5);
const NUDGE_RARELY: Duration = Duration::from_secs(300);
const NUDGES: u32 = 12;

/// Moves on a log that others fill, where a confirmed position frees it ([`tidelock_core::Probe`]): the server frees it only after a position beyond its own next snapshot of running
/// transactions is confirmed, and without changes of ours no such position comes up by itself.
#[derive(Debug, Default)]
struct Nudging {
    given: u32,
    last: Option<Instant>,
    least: u64,
}

impl Nudging {
    /// Whether to nudge now, with so much kept for us.
    fn due(&mut self, retained: u64, now: Instant) -> bool {
        if retained <= NUDGE_RETAINED {
            *self = Nudging::default();
            return false;
        }
        if self.given == 0 || retained < self.least {
            self.given = 0;
            self.least = retained;
        }
        let spacing = if self.given < NUDGES { NUDGE_EVERY } else { NUDGE_RARELY };
        if self.last.is_some_and(|last| now.duration_since(last) < spacing) {
            return false;
        }
        self.given += 1;
        self.last = Some(now);
        true
    }
}

/// The looks not yet reached, oldest first, and the lag they make.
#[derive(Debug)]
pub struct LagTracker<T> {
    samples: VecDeque<(T, Position)>,
}

impl<T> Default for LagTracker<T> {
    fn default() -> Self {
        LagTracker { samples: VecDeque::new() }
    }
}

impl<T: Copy> LagTracker<T> {
    /// Adds a look.
    pub fn sample(&mut self, at: T, end: Position) {
        if self.samples.back().is_some_and(|(_, last)| *last == end) {
            return;
        }
        self.samples.push_back((at, end));
        if self.samples.len() > SAMPLES_MAX {
            // The first stays exact; the rest of the older half loses every second look.
            let half = SAMPLES_MAX / 2;
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index == 1 || index > half || index % 2 == 0
            });
        }
    }

    /// Forgets looks of a history that is gone: those beyond the end of the log that is followed now.
    pub fn forget_beyond(&mut self, mut within: impl FnMut(&Position) -> bool) {
        if self.samples.front().is_some_and(|(_, end)| !within(end)) {
            self.samples.retain(|(_, end)| within(end));
        }
    }

    /// The oldest look left by [`LagTracker::oldest_beyond`].
    pub fn oldest(&self) -> Option<&Position> {
        self.samples.front().map(|(_, end)| end)
    }

    /// Forgets what has been reached; answers the time of the oldest look beyond.
    pub fn oldest_beyond(&mut self, mut reached: impl FnMut(&Position) -> bool) -> Option<T> {
        while self.samples.front().is_some_and(|(_, end)| reached(end)) {
            self.samples.pop_front();
        }
        self.samples.front().map(|(at, _)| *at)
    }
}

/// How long the pace of a log is taken over, and how much of that there must be.
const PACE_OVER: Duration = Duration::from_secs(600);
const PACE_AFTER: Duration = Duration::from_secs(30);

/// How fast a log has grown lately.
#[derive(Debug, Default)]
struct Pace {
    written: u64,
    looks: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes a look: so much was written since the one before.
    fn look(&mut self, now: Instant, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
        self.looks.push_back((now, self.written));
        while self.looks.front().is_some_and(|(at, _)| now.duration_since(*at) > PACE_OVER) {
            self.looks.pop_front();
        }
    }

    /// Seconds in which so many bytes more will have been written; `None` for a log at rest or known for too short.
    fn seconds_for(&self, bytes: u64) -> Option<f64> {
        let ((first, before), (last, now)) = (self.looks.front()?, self.looks.back()?);
        let (over, written) = (last.duration_since(*first), now.saturating_sub(*before));
        (over >= PACE_AFTER && written > 0)
            .then(|| bytes as f64 * over.as_secs_f64() / written as f64)
    }
}

/// The gauges that a sampler has set. They go with it, and each with the value that it shows.
struct Gauges {
    flow: String,
    system: String,
    shown: [bool; 3],
}

impl Gauges {
    /// Gauges of the source: they may be those of other flows too, so only what was ours is taken away.
    fn of_system(&mut self, values: [Option<f64>; 3]) {
        for (n, value) in values.into_iter().enumerate() {
            let Some(shown) = self.shown.get_mut(n) else { continue };
            if value.is_some() || *shown {
                let system = || self.system.clone();
                match n {
                    0 => metrics::gauge!("tidelock_log_headroom_bytes", "system" => system()),
                    1 => metrics::gauge!("tidelock_log_headroom_seconds", "system" => system()),
                    _ => metrics::gauge!("tidelock_open_transaction_age_seconds", "system" => system()),
                }
                .set(value.unwrap_or(GONE));
            }
            *shown = value.is_some();
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.of_system([None; 3]);
        let flow = || self.flow.clone();
        metrics::gauge!("tidelock_lag_seconds", "flow" => flow()).set(GONE);
        metrics::gauge!("tidelock_lag_probe_age_seconds", "flow" => flow()).set(GONE);
        metrics::gauge!("tidelock_checkpoint_age_seconds", "flow" => flow()).set(GONE);
        for stage in ["unapplied", "unread", "retained"] {
            metrics::gauge!("tidelock_lag_bytes", "flow" => flow(), "stage" => stage).set(GONE);
        }
    }
}

/// Looks once a second until `stop`.
pub async fn sample(context: FlowContext, stop: CancellationToken) {
    let mut tracker: LagTracker<Instant> = LagTracker::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let spec = SourceSpec {
        pipeline: context.pipeline.clone(),
        flow: context.config.name.clone(),
        slot: context.config.slot.clone(),
        publication: context.config.publication.clone(),
        tables: Vec::new(),
        start_at: None,
        identity: String::new(),
    };
    let flow = context.config.name.clone();
    let mut looked = Instant::now();
    let mut kept = context.checkpoint.lag(&flow).ok().flatten();
    if let Some(record) = &kept {
        tracker.sample(ago(now_micros() - record.at_ms * 1000), record.end.clone());
    }
    // What is known of the applied position: from before until this process's first attempt knows better.
    let mut known = context.checkpoint.applied(&flow).ok().flatten();
    let mut been_level = false;
    let mut nudging = Nudging::default();
    let (mut pace, mut end) = (Pace::default(), None);
    let mut gauges =
        Gauges { flow: flow.clone(), system: context.config.source.clone(), shown: [false; 3] };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let applied = match context.shared.applied.borrow().clone() {
            Some(now) => {
                if known.as_ref() != Some(&now) {
                    if let Err(error) = context.checkpoint.save_applied(&flow, &now) {
                        tracing::debug!(%flow, %error, "applied position not kept");
                    }
                    known = Some(now.clone());
                }
                Some(now)
            }
            None => known.clone(),
        };
        if context.shared.state().0 == FlowState::Starting && applied.is_none() {
            continue;
        }
        let probing = context.source.probe(&spec, applied.as_ref());
        let probe = tokio::time::timeout(Duration::from_secs(10), probing).await;
        let mut bytes = None;
        if let Ok(Ok(probe)) = probe {
            looked = Instant::now();
            bytes = applied.as_ref().and_then(|a| context.source.bytes_between(a, &probe.end));
            publish_bytes(&context, &flow, &probe, bytes);
            let before = end.replace(probe.end.clone());
            let grown = before.and_then(|before| context.source.bytes_between(&before, &probe.end));
            pace.look(looked, grown.unwrap_or(0));
            let paced = probe.headroom_bytes.and_then(|bytes| pace.seconds_for(bytes));
            gauges.of_system([
                probe.headroom_bytes.map(|bytes| bytes as f64),
                probe.headroom_seconds.or(paced),
                probe.open_transaction_seconds,
            ]);
            let kept = probe.retained_bytes.filter(|_| probe.freed_by_confirming);
            if kept.is_some_and(|kept| nudging.due(kept, looked)) {
                context.shared.save_wanted.store(true, Ordering::Relaxed);
                if let Err(error) = context.source.heartbeat().await {
                    tracing::debug!(%flow, %error, "no heartbeat");
                }
            }
            let follows =
                matches!(context.shared.state().0, FlowState::Streaming | FlowState::Snapshotting);
            if follows {
                tracker.forget_beyond(|end| {
                    context.source.compare(&probe.end, end).is_ok_and(|order| order.reached())
                });
            }
            if applied.is_some() {
                tracker.sample(looked, probe.end);
            }
        }
        if applied.is_none() {
            // Never started: nothing is late yet.
            continue;
        }
        let beyond = tracker.oldest_beyond(|end| {
            applied
                .as_ref()
                .is_some_and(|a| context.source.compare(a, end).is_ok_and(|order| order.reached()))
        });
        been_level |= beyond.is_none() && applied.is_some();
        let mut seconds = beyond.map_or(0.0, |at| at.elapsed().as_secs_f64());
        let begun = context.shared.begun_micros.load(Ordering::Relaxed);
        if !been_level && begun > 0 {
            seconds = seconds.max((now_micros() - begun) as f64 / 1e6);
        }
        keep_oldest(&context, &tracker, seconds, &mut kept).await;
        metrics::gauge!("tidelock_lag_seconds", "flow" => flow.clone()).set(seconds);
        metrics::gauge!("tidelock_lag_probe_age_seconds", "flow" => flow.clone())
            .set(looked.elapsed().as_secs_f64());
        let saved = context.shared.checkpoint_micros.load(Ordering::Relaxed);
        if saved > 0 {
            let age = (now_micros() - saved).max(0) as f64 / 1e6;
            metrics::gauge!("tidelock_checkpoint_age_seconds", "flow" => flow.clone()).set(age);
        }
        *context.shared.lag.lock().unwrap_or_else(PoisonError::into_inner) = (Some(seconds), bytes);
    }
}

/// A moment so many microseconds ago, as far as this machine's clock reaches back.
fn ago(micros: i64) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_micros(u64::try_from(micros).unwrap_or(0))).unwrap_or(now)
}

/// Keeps the oldest look not reached in the checkpoint, as old as the lag is.
async fn keep_oldest(
    context: &FlowContext,
    tracker: &LagTracker<Instant>,
    seconds: f64,
    kept: &mut Option<LagRecord>,
) {
    let Some(end) = tracker.oldest() else {
        // What was kept is reached: the position that reaches it, saved above, must last as it does.
        if kept.take().is_some() {
            let checkpoint = context.checkpoint.clone();
            let saving = tokio::task::spawn_blocking(move || checkpoint.make_durable());
            if let Ok(Err(error)) = saving.await {
                tracing::debug!(flow = %context.config.name, %error, "applied position not kept");
            }
        }
        return;
    };
    let record =
        LagRecord { end: end.clone(), at_ms: now_micros() / 1000 - (seconds * 1e3) as i64 };
    // The same look stays as old as it was at most; a second more or less is not worth a write.
    if kept.as_ref().is_some_and(|k| k.end == record.end && k.at_ms - record.at_ms < 1000) {
        return;
    }
    let (checkpoint, flow, saved) =
        (context.checkpoint.clone(), context.config.name.clone(), record.clone());
    let saving = tokio::task::spawn_blocking(move || {
        checkpoint.save_lag(&flow, &saved)?;
        checkpoint.make_durable()
    });
    match saving.await {
        Ok(Ok(())) => *kept = Some(record),
        Ok(Err(error)) => tracing::debug!(flow = %context.config.name, %error, "lag not kept"),
        Err(panic) => tracing::error!(flow = %context.config.name, %panic, "lag not kept"),
    }
}

fn publish_bytes(
    context: &FlowContext,
    flow: &str,
    probe: &tidelock_core::Probe,
    unapplied: Option<u64>,
) {
    let set = |stage: &'static str, bytes: u64| {
        metrics::gauge!("tidelock_lag_bytes", "flow" => flow.to_owned(), "stage" => stage)
            .set(bytes as f64);
    };
    if let Some(bytes) = unapplied {
        set("unapplied", bytes);
    }
    let received = context.shared.received.borrow().clone();
    if let Some(bytes) = received.and_then(|r| context.source.bytes_between(&r, &probe.end)) {
        set("unread", bytes);
    }
    if let Some(bytes) = probe.retained_bytes {
        set("retained", bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> Position {
        Position::new(format!("{n:06}"))
    }

    #[test]
    fn what_is_left_of_a_log_is_told_in_time_by_how_fast_it_grew() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for second in 0..=20 {
            pace.look(start + Duration::from_secs(second), 100);
        }
        assert_eq!(pace.seconds_for(1000), None, "known for too short");
        for second in 21..=700 {
            pace.look(start + Duration::from_secs(second), 100);
        }
        let seconds = pace.seconds_for(1000).expect("a pace");
        assert!((seconds - 10.0).abs() < 1e-6, "{seconds}");
        for second in 701..=1400 {
            pace.look(start + Duration::from_secs(second), 0);
        }
        assert_eq!(pace.seconds_for(1000), None, "at rest");
        assert!(pace.looks.len() <= 602, "{}", pace.looks.len());
    }

    #[test]
    fn nudges_become_rare_while_they_free_nothing() {
        let start = Instant::now();
        let mut nudging = Nudging::default();
        let mut given = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            given += u32::from(nudging.due((100 << 20) + second, now));
        }
        assert_eq!(given, NUDGES + 1);
        assert!(nudging.due(50 << 20, start + Duration::from_secs(610)), "something was freed");
        assert!(!nudging.due(1 << 20, start + Duration::from_secs(700)));
    }

    #[test]
    fn lag_is_the_age_of_the_first_look_not_reached() {
        let mut tracker = LagTracker::default();
        for t in 0..10u64 {
            tracker.sample(t, at(t));
        }
        assert_eq!(tracker.oldest_beyond(|end| end.as_str() <= at(3).as_str()), Some(4));
        assert_eq!(tracker.oldest_beyond(|end| end.as_str() <= at(9).as_str()), None);
        tracker.sample(20, at(9));
        tracker.sample(21, at(10));
        assert_eq!(
            tracker.oldest_beyond(|end| end.as_str() <= at(9).as_str()),
            Some(21),
            "a reached end seen again is reached"
        );
    }

    #[test]
    fn looks_of_a_history_that_is_gone_are_forgotten() {
        let mut tracker = LagTracker::default();
        for t in 10..20u64 {
            tracker.sample(t, at(t));
        }
        tracker.forget_beyond(|end| end.as_str() <= at(30).as_str());
        assert_eq!(tracker.oldest(), Some(&at(10)));
        tracker.forget_beyond(|end| end.as_str() <= at(1).as_str());
        assert_eq!(tracker.oldest(), None);
    }

    #[test]
    fn a_long_outage_keeps_the_first_look_and_stays_small() {
        let mut tracker = LagTracker::default();
        for t in 0..100_000u64 {
            tracker.sample(t, at(t));
        }
        assert_eq!(tracker.oldest_beyond(|_| false), Some(0));
        assert!(tracker.samples.len() <= SAMPLES_MAX);
    }
}
