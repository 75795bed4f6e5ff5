//! Copying: the first copy of a table, its backfill, and its way back after log was lost.
//!
//! ```text
//!  copier (a task)                         applier (between two source transactions)
//!  ───────────────                         ─────────────────────────────────────────
//!  bound of the next piece
//!  "watch the range" ───────────────────>  from here (A) on keeps the range's changes
//!  snapshot that shows all up to A, named B
//!  rows of the range ───────────────────>  when the log is followed up to B: rows + kept changes
//!                                          ─> one guarded transaction: rows, cursor, position
//! ```
//!
//! **The law.** At every commit the target holds, for each mapping, exactly the source's rows at the
//! flow's position, as far as the keys up to the mapping's cursors go. Changes beyond them are not
//! applied: the piece that reaches them brings their outcome. So nothing is lost, doubled or
//! resurrected, no state of the past is ever written over a later one, and unique and foreign keys
//! that hold at the source hold at the target ([`tidelock_core::copy`] argues why a piece is exact).
//!
//! **Side by side.** While a piece is being written the flow stands still, so a range can be watched from
//! there just as well: the next piece is read meanwhile. Its rows are converted as the target asks for
//! them, and where source and target are of one family and type they stay the text that the source wrote.
//!
//! **Several at once.** Workers read pieces of different tables, or of different parts of one, each in a snapshot of its
//! own. A large table is cut into parts when its copy begins; each part has a cursor, and its pieces come in the order of their
//! keys. Which worker reads what is [`schedule`]'s to say: a table begins when those that foreign keys tie to it have ended.
//! The pieces are written at once, too, in a *volley* by sessions of their own (`crate::apply`): the flow stands still at a
//! place F that is its position at the target, every piece of the volley is followed up to F, and each is committed by
//! itself. So the law holds after each of these commits, as it speaks of each key by itself: a key of a piece that is
//! committed is as the source has it at F, a key of one that is not is beyond its cursor still.
//!
//! **What snapshots have shown.** Each snapshot must show every transaction that was applied before. One that some
//! snapshot has shown, every later one shows, whoever opens it: so workers tell what theirs have shown, and
//! none is asked about it again.
//!
//! **One mechanism.** A first copy begins with no key copied and the stream already open. A restart goes
//! on at the cursor, which was committed with the rows. A mapping added later, one that had stopped and
//! comes back, and a whole flow that lost its log go the same way; the last two end with a sweep, which
//! looks for rows that only the target has. A backfill differs in one thing: the stream goes on being
//! applied everywhere, and the pieces are laid over it. What is not a first copy, and is written both ways, goes by keys ([`reverse`]).
//!
//! **kill -9 anywhere**: pieces that were not committed are read again, from the cursors of their parts. Nothing is kept in memory or on
//! disk that the target does not hold. The source keeps no long snapshot, and its log is freed meanwhile.

pub mod copier;
mod merge;
mod order;
pub mod region;
pub mod request;
pub mod reverse;
pub mod schedule;
mod sweep;

pub use copier::{CopyFailed, Copying, Job, copy};
pub use region::Regions;
pub use request::{Outcome, Request};
pub use reverse::Reverse;
pub(crate) use sweep::leads_back;
