//! One attempt: from taking the lease to the first error or the wish to stop.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidelock_core::{Code, Error, ErrorKind, Position, Result, Side, Sink, StoredState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::copies::{self, Mirror};
use super::disposition::{Care, Scene};
use super::shapes::{self, Noted};
use super::start::{self, Ready, Started, Systems};
use super::{FlowContext, FlowShared, FlowState};
use crate::apply::gate::Gates;
use crate::apply::loaders::Loaders;
use crate::apply::{Applier, Begin, Committed, Scope, shown, stop_row};
use crate::copy::{CopyFailed, Copying, Job, Regions, Reverse, copy};
use crate::flow::shared::ShownError;
use crate::mapping::MappingPlan;
use crate::mapping::dictionaries::Keeper;
use crate::reader;
use crate::reread::{self, Rereads};

/// How long a reader that has closed its queue may take to end.
const READER_END: Duration = Duration::from_secs(10);
/// Between two checkpoints: each is a flush of the disk, which the databases beside us may want for their own commits.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(50);

/// How an attempt ended.
pub enum Ended {
    /// As asked; everything complete is committed and checkpointed.
    Stopped,
    /// Another live process holds the flow.
    Busy(String),
    /// The flow is paused by a lasting row.
    Paused,
    /// The source's tables are others than the mappings were planned for.
    Replan,
}

/// An attempt that failed.
pub struct Failed {
    /// Why.
    pub error: Error,
    /// Where it came up.
    pub scene: Scene,
    /// Whether anything was committed before: the delay before the next attempt starts small again.
    pub made_progress: bool,
}

impl Failed {
    fn early(error: Error) -> Failed {
        Failed {
            error,
            scene: Scene { mapping: None, careful: true, transactions: 0 },
            made_progress: false,
        }
    }
}

/// A mapping to stop and why.
pub struct MappingStop {
    /// The mapping.
    pub mapping: String,
    /// Why.
    pub error: Error,
}

/// Runs one attempt.
pub async fn attempt(
    context: &FlowContext,
    care: Care,
    mut mapping_stop: Option<MappingStop>,
    asked: &CancellationToken,
) -> std::result::Result<Ended, Failed> {
    // Cancelled from within, too: when the mappings must be planned anew.
    let stop = &asked.child_token();
    let paused = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Ended::Stopped),
        paused = is_paused(context) => paused,
    };
    if paused {
        context.shared.set_state(FlowState::Paused, None);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = name_mappings(context) => {}
        }
        return Ok(Ended::Paused);
    }
    let begin = async {
        let mut systems = start::systems(context).await?;
        let started = start::start(context, &mut systems, mapping_stop.as_ref()).await?;
        Ok::<_, Error>((systems, started))
    };
    let (systems, started) = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Ended::Stopped),
        begun = begin => begun.map_err(Failed::early)?,
    };
    let Ready { mut open, progress, spec, states, rewound, copies } = match started {
        Started::Ready(ready) => *ready,
        Started::Busy(holder) => return Ok(Ended::Busy(holder)),
    };
    if states.iter().any(|s| s.mapping.is_empty() && s.state == StoredState::Paused) {
        return Ok(Ended::Paused);
    }
    for name in context.shared.mappings().into_keys() {
        if !states.iter().any(|s| s.mapping == name) {
            context.shared.set_stopped(&name, None, false);
        }
    }
    let mut stopped = HashSet::new();
    for row in states.iter().filter(|s| !s.mapping.is_empty()) {
        stopped.insert(row.mapping.clone());
        let shown = ShownError {
            code: row.code.map(|c| c.as_str().to_owned()).unwrap_or_default(),
            message: row.message.clone(),
            hint: row.hint.clone(),
        };
        let paused = row.state == StoredState::Paused;
        context.shared.set_stopped(&row.mapping, Some(shown), paused);
    }
    if copies.mended {
        mapping_stop = None;
    }
    for (mapping, error) in copies.faults {
        if stopped.contains(&mapping) {
            continue;
        }
        // At the position where the flow stands: nothing is applied before this is written.
        let flow = &context.config.name;
        let row = stop_row(&context.pipeline, flow, &mapping, &error, &progress.position);
        context.target.write_state(&row).await.map_err(Failed::early)?;
        tracing::error!(%flow, %mapping, code = %error.code(), %error,
            hint = error.hint().unwrap_or_default(), "mapping stopped; others go on");
        context.shared.set_stopped(&mapping, Some(shown(&row)), false);
        stopped.insert(mapping);
    }
    let source = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Ended::Stopped),
        source = context.source.open_source(&spec, &progress.position) =>
            source.map_err(|e| Failed::early(explain_rewind(e, rewound).at(&context.config.source).of(Side::Source)))?,
    };
    let keepers = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Ended::Stopped),
        keepers = read_dictionaries(context, &systems.plans, &progress.position) =>
            keepers.map_err(|e| Failed::early(e.at(&context.config.source).of(Side::Source)))?,
    };
    for row in &copies.settled {
        context.target.write_copy(row).await.map_err(Failed::early)?;
    }
    let stops = |mapping: &str| {
        stopped.contains(mapping) || mapping_stop.as_ref().is_some_and(|s| s.mapping == mapping)
    };
    let jobs: Vec<Job> = copies.jobs.into_iter().filter(|job| !stops(&job.mapping)).collect();
    let state = if jobs.is_empty() { FlowState::Streaming } else { FlowState::Snapshotting };
    context.shared.set_state(state, None);
    context.shared.applied.send_replace(Some(progress.position.clone()));
    tracing::info!(flow = %context.config.name, position = %progress.position, epoch = progress.epoch, "streaming");

    let alone = context.shared.copy_alone.load(Ordering::Relaxed);
    let workers = if alone { 1 } else { context.copy_workers };
    let (committed, commits) = watch::channel(None);
    let (requests, requested) = mpsc::channel(8);
    let reverse = reverse(context, &systems.mirrors);
    let copying = Copying {
        flow: context.config.name.clone(),
        source: context.source.clone(),
        target: context.target.clone(),
        plans: systems.plans.clone(),
        workers,
        rows_per_second: context.copy_rows_per_second,
        shared: context.shared.clone(),
        reverse: reverse.clone(),
        requests,
        context: context.clone(),
        look_at: systems.look.at.clone(),
    };
    let watched = systems
        .plans
        .iter()
        .filter(|p| !stopped.contains(&*p.name))
        .flat_map(|p| shapes::watched(p))
        .collect();
    let noted = systems
        .plans
        .iter()
        .filter(|p| context.shared.has_notes(&p.name))
        .map(|p| Noted {
            table: p.target.name.clone(),
            lacks: p.unmapped.iter().map(|c| c.name.clone()).collect(),
        })
        .collect();
    let shapes = systems.look.shapes.clone();
    let watching =
        shapes::watch(context.clone(), watched, copies.absent, noted, shapes, stop.clone());
    let _watching = AbortOnDropHandle::new(tokio::spawn(watching));
    let refreshing = refresh(copies.refresh_at, stop.clone());
    let _refreshing = AbortOnDropHandle::new(tokio::spawn(refreshing));
    let is_view = |plan: &MappingPlan| plan.view.is_some();
    let had_one = |plan: &MappingPlan| copies.rows.get(&*plan.name).is_some_and(copies::was_gated);
    let gates = Gates::recall(&mut *open.sink, &systems.plans, |plan| !is_view(plan), had_one);
    let gates = gates.await.map_err(Failed::early)?;
    let of_views = Gates::recall(&mut *open.sink, &systems.plans, is_view, had_one);
    let of_views = of_views.await.map_err(Failed::early)?;
    let put_off = put_off(&mut *open.sink, &systems.plans).await.map_err(Failed::early)?;
    let begin = Begin {
        keepers,
        rereads: Rereads::new(&context.config.name, context.source.clone(), of_views),
        put_off,
        gates,
        regions: Regions::new(
            context.source.clone(),
            context.target.clone(),
            jobs.iter().cloned(),
            workers,
        ),
        requests: requested,
        loaders: Loaders::new(
            context.target.clone(),
            start::sink_spec(context, &systems),
            progress.epoch,
            (workers, context.lanes),
        ),
        reverse,
        rows: copies.rows,
        epoch: progress.epoch,
        seq: progress.seq,
        position: progress.position.clone(),
        care,
        stop_mapping: mapping_stop.map(|s| {
            stop_row(
                &context.pipeline,
                &context.config.name,
                &s.mapping,
                &s.error,
                &progress.position,
            )
        }),
        stopped,
    };
    let scope = Scope {
        flow: context.config.name.clone(),
        source_id: systems.source_id.clone(),
        target_id: systems.target_id.clone(),
        progress_table: start::progress_table(&context.source_meta),
        snapshot_table: start::snapshot_table(&context.source_meta),
        held_for: copies.held_for,
        plans: systems.plans.clone(),
    };
    let applier = Applier::new(open.sink, scope, begin, context.shared.clone(), committed);
    let copying = copy(copying, jobs);
    let streaming = stream(context, &systems, applier, source, copying, commits, stop);
    match Box::pin(streaming).await {
        Ok(Ended::Stopped) if !asked.is_cancelled() => Ok(Ended::Replan),
        other => other,
    }
}

/// Whether a person paused the flow: asked before all else, so that it shows whatever has become of the source. A target
/// that cannot be asked is met again below.
async fn is_paused(context: &FlowContext) -> bool {
    let states = context.target.read_states(&context.pipeline).await.unwrap_or_default();
    states.iter().any(|s| {
        s.flow == context.config.name && s.mapping.is_empty() && s.state == StoredState::Paused
    })
}

/// A paused flow needs no more than the names of its mappings, as far as they can be had.
async fn name_mappings(context: &FlowContext) {
    if !context.shared.mappings().is_empty() {
        return;
    }
    let (source, target) = (&*context.source, &*context.target);
    if let Ok(plan) = start::plan(&context.config, source, target, context.target_is_read).await {
        let failed = plan.failed.iter().map(|(name, _)| name.as_str());
        context.shared.set_mappings(plan.mappings.iter().map(|p| &*p.name).chain(failed));
    }
}

/// Reads the dictionaries that are tables of the source; shows what that waits for while it does, for nothing streams before.
async fn read_dictionaries(
    context: &FlowContext,
    plans: &[Arc<MappingPlan>],
    reached: &Position,
) -> Result<HashMap<String, Keeper>> {
    let told = Unread { shared: &context.shared, plans };
    let notice = |dictionary: &str, why: String| {
        let why = format!("reading dictionary {dictionary} waits: {why}");
        tracing::warn!(flow = %context.config.name, "{why}");
        context.shared.set_state(FlowState::Starting, None);
        told.set(|plan| plan.kept.iter().any(|kept| kept.name == dictionary), Some(&why));
    };
    Keeper::read_all(plans, &*context.source, reached, &notice).await
}

/// What the reading of dictionaries waits for, as long as it is read.
struct Unread<'a> {
    shared: &'a FlowShared,
    plans: &'a [Arc<MappingPlan>],
}

impl Unread<'_> {
    fn set(&self, whose: impl Fn(&MappingPlan) -> bool, why: Option<&str>) {
        for plan in self.plans.iter().filter(|plan| whose(plan)) {
            self.shared.set_unread(&plan.name, why.map(str::to_owned));
        }
    }
}

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.set(|_| true, None);
    }
}

/// Ends the attempt when rows are to be looked at again because time has passed: the next one begins with that. A copy
/// that is under way goes on from where it is.
async fn refresh(at: Option<i64>, end: CancellationToken) {
    let Some(at) = at else { return };
    let left = u64::try_from(at.saturating_sub(crate::apply::now_micros())).unwrap_or(0);
    tokio::time::sleep(Duration::from_micros(left)).await;
    end.cancel();
}

/// The flow of the other direction, as the copier asks for it.
fn reverse(context: &FlowContext, mirrors: &[Mirror]) -> Option<Reverse> {
    let shared = context.reverse.as_ref()?;
    let spec = start::source_spec(&context.pipeline, &*shared.config()?, &[], "");
    let system = context.target.clone();
    Some(Reverse { shared: shared.clone(), spec, system, mirrors: mirrors.into() })
}

/// A log that does not reach back to a rewound target's position is the rewind's fault, not the slot's.
fn explain_rewind(error: Error, rewound: bool) -> Error {
    if !rewound || error.kind() != ErrorKind::Continuity {
        return error;
    }
    Error::continuity(
        Code::TargetRewound,
        format!("the target was rewound and the source's log no longer covers what it lost: {}", error.message()),
    )
    .with_hint("restore the target to a later state, or `tidelock resync` the flow: new position, compare and patch")
}

/// The stages and the copier side by side; the first to fail ends all.
async fn stream(
    context: &FlowContext,
    systems: &Systems,
    mut applier: Applier,
    source: Box<dyn tidelock_core::Source>,
    copying: impl Future<Output = CopyFailed> + Send + 'static,
    commits: watch::Receiver<Option<Committed>>,
    stop: &CancellationToken,
) -> std::result::Result<Ended, Failed> {
    let (sender, mut queue) = reader::queue();
    let (durable_sender, durable) = watch::channel(None);
    let seen = commits.clone();
    // The reader and the checkpoint outlive the applier's wish to stop by a moment: the last commit
    // still becomes durable and is still confirmed.
    let finished = CancellationToken::new();
    let _guard = finished.clone().drop_guard();
    let mut reading = tokio::spawn(reader::read(
        source,
        sender,
        durable,
        context.shared.clone(),
        finished.clone(),
    ));
    let mut checkpointing = tokio::spawn(keep_checkpoint(
        context.clone(),
        systems_record(systems),
        commits,
        durable_sender,
    ));

    // Ended with us; it works for the applier and holds nothing that must be saved.
    let mut copier = AbortOnDropHandle::new(tokio::spawn(copying));
    let mut copier_blame = None;
    let outcome = tokio::select! {
        biased;
        applied = applier.run(&mut queue, stop) => applied,
        read = &mut reading => read_only(read),
        kept = &mut checkpointing => joined(kept).and_then(|()| Err(Error::bug("the checkpoint ended by itself"))),
        failed = &mut copier => match failed {
            Ok(CopyFailed { error, mapping }) => {
                copier_blame = mapping;
                Err(error.of(Side::Source))
            }
            Err(panic) => Err(Error::bug(format!("copying ended in a panic: {panic}"))),
        },
    };
    drop(copier);
    // A reader's error reaches the applier as the end of its queue, a moment before the reader's task
    // has ended: without a wish to stop there is always an error to be had there.
    let outcome = match outcome {
        Ok(()) if !stop.is_cancelled() => {
            match tokio::time::timeout(READER_END, &mut reading).await {
                Ok(read) => read_only(read),
                Err(_) => Err(Error::bug("the reader closed its queue and did not end")),
            }
        }
        other => other,
    };
    let scene = Scene {
        careful: applier.is_careful() || copier_blame.is_some(),
        mapping: copier_blame.map(|m| m.to_string()).or_else(|| applier.blame().map(str::to_owned)),
        transactions: applier.open_transactions(),
    };
    let outcome = outcome.map_err(|error| match &scene.mapping {
        Some(mapping) if scene.careful && applier.turns_loose(mapping, &error) => {
            tracing::warn!(flow = %context.config.name, %mapping, code = %error.code(), %error,
                "a row that is still to be compared is in the way of a change; changes wait for it from here on");
            context.shared.keep_loose(mapping);
            let said = format!("a change waits for a row that is still to be compared: {error}");
            Error::transient(Code::ServerBusy, said)
        }
        Some(_) | None => error,
    });
    let made_progress = seen.borrow().is_some();
    drop(applier);
    if !checkpointing.is_finished()
        && tokio::time::timeout(Duration::from_secs(5), &mut checkpointing).await.is_err()
    {
        checkpointing.abort();
    }
    if !reading.is_finished() {
        // One turn of its loop confirms what has just become durable.
        tokio::time::sleep(Duration::from_millis(20)).await;
        finished.cancel();
        if tokio::time::timeout(Duration::from_secs(2), &mut reading).await.is_err() {
            reading.abort();
        }
    }
    match outcome {
        Ok(()) => Ok(Ended::Stopped),
        Err(error) => Err(Failed { error, scene, made_progress }),
    }
}

fn joined(result: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    match result {
        Ok(result) => result,
        Err(panic) => Err(Error::bug(format!("a stage ended in a panic: {panic}"))),
    }
}

/// The reader's error; it reads nothing but the source.
fn read_only(read: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    joined(read)
        .and_then(|()| Err(Error::bug("the reader ended by itself")))
        .map_err(|error| error.of(Side::Source))
}

struct Stamp {
    history: String,
    target_id: tidelock_core::SystemId,
}

fn systems_record(systems: &Systems) -> Stamp {
    Stamp { history: systems.source_history.clone(), target_id: systems.target_id.clone() }
}

/// Stage 4, the order of safety: what the target committed goes to sled, and only what is durable
/// there goes to the source. A full disk stops the confirming and nothing else.
async fn keep_checkpoint(
    context: FlowContext,
    stamp: Stamp,
    mut commits: watch::Receiver<Option<Committed>>,
    durable: watch::Sender<Option<Position>>,
) -> Result<()> {
    let mut failing = false;
    let mut next = Instant::now();
    while commits.changed().await.is_ok() {
        // What was committed a moment ago is made durable at once; what is committed all the time, now and then.
        tokio::time::sleep_until(next).await;
        next = Instant::now() + CHECKPOINT_PAUSE;
        let Some(committed) = commits.borrow_and_update().clone() else { continue };
        let record = start::record(
            committed.epoch,
            committed.seq,
            &committed.position,
            &stamp.history,
            &stamp.target_id,
        );
        let checkpoint = Arc::clone(&context.checkpoint);
        let flow = context.config.name.clone();
        let saved = tokio::task::spawn_blocking(move || {
            checkpoint.save(&flow, &record)?;
            checkpoint.make_durable()
        })
        .await
        .map_err(|e| Error::bug(format!("the checkpoint writer ended in a panic: {e}")))?;
        match saved {
            Ok(()) => {
                if failing {
                    tracing::info!(flow = %context.config.name, "checkpoint works again");
                }
                failing = false;
                context
                    .shared
                    .checkpoint_micros
                    .store(crate::apply::now_micros(), Ordering::Relaxed);
                durable.send_replace(Some(committed.position));
            }
            Err(error) => {
                if !failing {
                    tracing::error!(flow = %context.config.name, %error, "checkpoint cannot be written; the source keeps its log meanwhile");
                }
                failing = true;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    Ok(())
}

/// The mappings of which keys may wait in the target's memory. Also one that could have none today may have some of before: what it
/// pointed to was taken out of the file, or the foreign key was dropped.
async fn put_off(sink: &mut dyn Sink, plans: &[Arc<MappingPlan>]) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for (number, plan) in plans.iter().enumerate() {
        // Most tables have none, and their changes are written another way while they may have.
        let any = plan.rereads()
            || (plan.copy.is_some()
                && !reread::waiting(sink, plan, &mut None, 1).await?.0.is_empty());
        numbers.extend(any.then_some(number));
    }
    Ok(numbers)
}
