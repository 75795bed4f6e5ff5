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
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::flow::FlowShared;

/// Memory for changes that have been read and not yet applied, in bytes.
pub const QUEUE_BYTES: usize = 16 << 20;
/// Chunks in the queue: bounds what many small ones cost.
const QUEUE_CHUNKS: usize = 256;
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
    loop {
        // Anything over one byte free is room: a chunk may overdraw the rest of the queue once.
        let may_read = room.available_permits() > QUEUE_BYTES / 4 && queue.capacity() > 0;
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
            () = tokio::time::sleep(Duration::from_millis(5)), if !may_read => {}
            chunk = source.next(), if may_read => {
                let chunk = chunk?;
                publish_received(&chunk, &shared);
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
