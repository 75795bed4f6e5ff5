//! One flow: from one system's log to one other system.
//!
//! ```text
//!   source log ─> reader ──chunks (bounded by bytes)──> apply ──one guarded transaction──> target
//!                   ^                                     │ committed (position, epoch, seq)
//!                   └──── durable position ── checkpoint ◄┘      sled: flush, fdatasync
//! ```
//!
//! **An attempt** ([`attempt`]) does everything from nothing: take the lease at the target, raise
//! the epoch, read the position from the progress row, prove that the source's log continues there,
//! stream. On any error the whole attempt is thrown away and the next one derives all of it anew, so
//! there is one way to recover and it is the way to start.
//!
//! **kill -9 between any two steps.**
//! - before the target's COMMIT: the server rolls back changes and position together;
//! - after COMMIT, before the checkpoint: sled is older than the target; the target wins;
//! - after the checkpoint, before the source is told: the source sends again from an older point, and
//!   its connector starts at *our* position;
//! - between creating the slot and the progress row: the intent in sled lets the next start take the
//!   slot over; it never streamed, so it is made again.
//!
//! **COMMIT with unknown outcome**: the next attempt's epoch statement waits for, or follows, the old
//! session's end, and the row it reads tells which it was.

pub mod attempt;
pub mod copies;
pub mod disposition;
pub mod names;
pub mod shapes;
pub mod shared;
pub mod start;
pub mod supervise;

pub use shared::{FlowContext, FlowShared, FlowState};
