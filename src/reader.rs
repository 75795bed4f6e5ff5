//! Stage 1: one task that owns the open log.
//!
//! It takes room first and reads then, so a slow target stops the reading and with that the server's
//! sending; while it waits for room it still keeps the session alive and confirms what became
//! durable. One `select!`, in this order of urgency: stop, confirm (a freed log matters more than one
//! more row), keepalive (by the clock, or because a copy waits for a place of the log), room, read.

use std::sync::Arc;
use std::time::Duration;

use tidelock_core::{Chunk, Error, LogEvent, Position, Result, Source};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::flow::FlowShared;

/// Memory for changes that have been read and not yet applied, in bytes.
pub const QUEUE_BYTES: usize = 16 << 20;
/// Chunks in the queue: bounds what many small ones cost.
const QUEUE_CHUNKS: usize = 256;
/// What is older than this when it is read is a backlog: more of it is there.
const BACKLOG: Duration = Duration::from_secs(2);
/// A backlog that comes in smaller pieces than this is left to gather for a moment: where the source sends it no faster than
/// we write, each row would come, and be written, almost by itself, which is twice as dear for all three of us.
const GATHERED_BYTES: usize = 128 << 10;
const GATHERING: Duration = Duration::from_millis(3);
/// How often the server hears from us, at least; every server's own patience is far longer.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// A chunk and the room it takes; the room is given back when it is dropped.
pub struct Queued {
    /// The events.
    pub chunk: Chunk,
    _room: OwnedSemaphorePermit,
}

/// The receiving end of the reader.
pub type Queue = mpsc::Receiver<Queued>;

/// Runs until `stop`, an error, or the end of the queue's other side.
pub async fn read(
    mut source: Box<dyn Source>,
    queue: mpsc::Sender<Queued>,
    mut durable: watch::Receiver<Option<Position>>,
    shared: Arc<FlowShared>,
    stop: CancellationToken,
) -> Result<()> {
    let room = Arc::new(Semaphore::new(QUEUE_BYTES));
    let mut tick = interval(KEEPALIVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gathered_at = None;
    loop {
        // Anything over one byte free is room: a chunk may overdraw the rest of the queue once.
        let has_room = room.available_permits() > QUEUE_BYTES / 4 && queue.capacity() > 0;
        let may_read = has_room && gathered_at.is_none();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = durable.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let position = durable.borrow_and_update().clone();
                if let Some(position) = position {
                    source.confirm(&position).await?;
                }
            }
            _ = tick.tick() => source.keepalive().await?,
            () = shared.nudge.notified() => source.keepalive().await?,
            () = gathered(gathered_at), if gathered_at.is_some() => gathered_at = None,
            () = tokio::time::sleep(Duration::from_millis(5)), if !has_room => {}
            chunk = source.next(), if may_read => {
                let chunk = chunk?;
                publish_received(&chunk, &shared);
                if chunk.bytes < GATHERED_BYTES && is_backlog(&chunk) {
                    gathered_at = Some(Instant::now() + GATHERING);
                }
                let weight = u32::try_from(chunk.bytes.clamp(1, QUEUE_BYTES / 4)).unwrap_or(1);
                let permit = room.clone().acquire_many_owned(weight).await
                    .map_err(|_| Error::bug("the reader's room was closed"))?;
                if queue.send(Queued { chunk, _room: permit }).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn gathered(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

/// Whether the source committed the last of this long ago.
fn is_backlog(chunk: &Chunk) -> bool {
    let last = chunk.events.iter().rev().find_map(|event| match event {
        LogEvent::Begin(begin) => Some(begin.commit_micros),
        LogEvent::Commit(commit) => Some(commit.commit_micros),
        LogEvent::Idle(_)
        | LogEvent::Change(_)
        | LogEvent::Truncate(_)
        | LogEvent::TableFault(_)
        | LogEvent::TableChanged(_) => None,
    });
    let old = |micros: i64| crate::apply::now_micros().saturating_sub(micros);
    last.is_some_and(|micros| i128::from(old(micros)) > BACKLOG.as_micros() as i128)
}

fn publish_received(chunk: &Chunk, shared: &FlowShared) {
    let last = chunk.events.iter().rev().find_map(|event| match event {
        LogEvent::Commit(commit) => Some(&commit.position),
        LogEvent::Idle(idle) => Some(&idle.position),
        LogEvent::Begin(_)
        | LogEvent::Change(_)
        | LogEvent::Truncate(_)
        | LogEvent::TableFault(_)
        | LogEvent::TableChanged(_) => None,
    });
    if let Some(position) = last {
        shared.received.send_replace(Some(position.clone()));
    }
}

/// A queue for [`read`].
pub fn queue() -> (mpsc::Sender<Queued>, Queue) {
    mpsc::channel(QUEUE_CHUNKS)
}
