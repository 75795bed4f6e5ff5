//! Attempt after attempt, for ever: backoff, halt, pause.

use std::time::Duration;

use rand::Rng;
use tidelock_core::{Code, Side};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attempt::{Ended, Failed, MappingStop, attempt};
use super::disposition::{Care, Disposition, dispose, is_raised};
use super::shared::ShownError;
use super::{FlowContext, FlowState};

/// Delays between attempts: from a quarter of a second, doubled each time, to half a minute; each
/// drawn between half of it and all of it, so that many flows do not come back in step.
const DELAY_FIRST: Duration = Duration::from_millis(250);
const DELAY_MAX: Duration = Duration::from_secs(30);
/// How often a halted flow looks whether a setting or a right was mended.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Close looks in a row without a commit after which there is a delay between them.
const LOOKS_MAX: u32 = 3;
/// How often a waiting process asks whether the holder is gone.
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Runs a flow until `stop`. A change of `wake` ends a pause, a halt or a delay, and the attempt that
/// is running, so that it reads its states anew.
pub async fn supervise(
    context: FlowContext,
    mut wake: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    let mut delay = DELAY_FIRST;
    let mut care = Care::Normal;
    let mut mapping_stop: Option<MappingStop> = None;
    let mut looked_closer = 0;
    let mut raised = 0;
    while !stop.is_cancelled() {
        let at_work = context.shared.attempt.lock().await;
        if wake.has_changed().unwrap_or(false) {
            // What was to be written of the last attempt is older than what a person has asked for since.
            (care, mapping_stop) = (Care::Normal, None);
        }
        wake.mark_unchanged();
        let one = stop.child_token();
        // For one attempt only: a stop that was written must not be written again after the mapping came
        // back, and one that was not comes up again by itself.
        let stop_now = mapping_stop.take();
        let ended = {
            let running = attempt(&context, care.clone(), stop_now, &one);
            tokio::pin!(running);
            tokio::select! {
                biased;
                ended = &mut running => ended,
                _ = wake.changed() => {
                    one.cancel();
                    running.await
                }
            }
        };
        drop(at_work);
        if one.is_cancelled() && !stop.is_cancelled() {
            // Woken: whatever it was, look at everything anew.
            delay = DELAY_FIRST;
            continue;
        }
        match ended {
            Ok(Ended::Stopped) if stop.is_cancelled() => break,
            Ok(Ended::Stopped) => {
                tracing::error!(flow = %context.config.name, "the attempt ended by itself; trying again");
                wait(&mut wake, &stop, Some(jitter(delay))).await;
            }
            // Never in haste: were the difference not settled by the new plan, this would spin.
            Ok(Ended::Replan) => {
                care = Care::Normal;
                delay = DELAY_FIRST;
                wait(&mut wake, &stop, Some(jitter(DELAY_FIRST))).await;
            }
            Ok(Ended::Paused) => {
                context.shared.set_state(FlowState::Paused, None);
                wait(&mut wake, &stop, None).await;
            }
            Ok(Ended::Busy(holder)) => {
                let shown = ShownError {
                    code: Code::Fenced.as_str().to_owned(),
                    message: format!("another process holds the flow: {holder}"),
                    hint: "it takes over by itself when the other is gone".to_owned(),
                };
                context.shared.wait_for(shown);
                wait(&mut wake, &stop, Some(jitter(BUSY_WAIT))).await;
            }
            Err(failed) => {
                if failed.made_progress {
                    delay = DELAY_FIRST;
                    (looked_closer, raised) = (0, 0);
                }
                let Failed { error, scene, .. } = failed;
                care = Care::Normal;
                raised = if is_raised(&error) { raised + 1 } else { 0 };
                match dispose(&error, &scene, raised) {
                    Disposition::Retry => {
                        retrying(&context, &error, delay);
                        wait(&mut wake, &stop, Some(jitter(delay))).await;
                        delay = (delay * 2).min(DELAY_MAX);
                    }
                    Disposition::Again(next) => {
                        tracing::warn!(flow = %context.config.name, code = %error.code(), %error, "looking closer");
                        care = next;
                        looked_closer += 1;
                        if looked_closer > LOOKS_MAX {
                            // Each close look should end in a commit or in a stop; never spin.
                            wait(&mut wake, &stop, Some(jitter(delay))).await;
                            delay = (delay * 2).min(DELAY_MAX);
                        }
                    }
                    Disposition::StopMapping(mapping) => {
                        tracing::error!(flow = %context.config.name, %mapping, code = %error.code(), %error,
                            hint = error.hint().unwrap_or_default(), "mapping stopped; others go on");
                        mapping_stop = Some(MappingStop { mapping, error });
                        care = Care::Careful { transactions: 1, suspect: None };
                    }
                    Disposition::Halt => {
                        halted(&context, &error);
                        wait(&mut wake, &stop, None).await;
                    }
                    Disposition::HaltAndLook => {
                        halted(&context, &error);
                        wait(&mut wake, &stop, Some(jitter(LOOK_AGAIN))).await;
                    }
                }
            }
        }
    }
    context.shared.set_state(FlowState::Stopped, None);
}

fn retrying(context: &FlowContext, error: &tidelock_core::Error, delay: Duration) {
    tracing::warn!(flow = %context.config.name, code = %error.code(), %error, delay_ms = delay.as_millis() as u64, "retrying");
    // What is not the source's came up where we write.
    let system = match error.side() {
        Some(Side::Source) => &context.config.source,
        Some(Side::Target) | None => &context.config.target,
    };
    metrics::counter!("tidelock_reconnects_total", "system" => system.clone()).increment(1);
    context.shared.set_state(FlowState::Retrying, Some(ShownError::from(error)));
}

fn halted(context: &FlowContext, error: &tidelock_core::Error) {
    let (state, before) = context.shared.state();
    let shown = ShownError::from(error);
    if state != FlowState::Halted || before.as_ref() != Some(&shown) {
        tracing::error!(flow = %context.config.name, code = %error.code(), %error,
            hint = error.hint().unwrap_or_default(), "halted");
    }
    context.shared.set_state(FlowState::Halted, Some(shown));
}

fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

async fn wait(
    wake: &mut watch::Receiver<u64>,
    stop: &CancellationToken,
    at_most: Option<Duration>,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = wake.changed() => {}
        () = tokio::time::sleep(at_most.unwrap_or(Duration::from_secs(86_400 * 365))) => {}
    }
}
