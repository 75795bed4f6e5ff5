//! Rows that are read again at the source, because the log does not tell what they are now.
//!
//! ```text
//!  applier                                    target session's task
//!  ───────                                    ─────────────────────
//!  change of a tracked table ─> keys touched
//!  end of a batch: keys ────────────────────> snapshot of the source that shows the whole batch
//!                                             rows of the keys, one query for many
//!                                             upserts in order, deletes in reverse (also those of the log), memory
//!                                             position, COMMIT
//! ```
//!
//! A view has no log. A change of a table that it is made of *touches* keys of the view ([`Touched`]): those that the old and the
//! new row tell, by a column or by a query. They are collected for a batch, and before it is committed, the view is read for all
//! of them at once ([`Rereads`]), in a snapshot in which every transaction of the batch is visible. What is found
//! is upserted, what is not is deleted, in the same guarded transaction as the batch and its position.
//!
//! Rows of an ordinary mapping are read again by the same way where the log carries a part of them and it may be their first word
//! at the target (they entered a filter with an unchanged TOAST value), or where what is sent is the latest state and not each
//! change.
//!
//! **Why that is right.** A row read again is as late as its batch or later, never earlier. What it shows too early is
//! told by a later change of the log, which touches the same key again; so the last word on each key is a state of the source at
//! or after its last change. States in between may be skipped. **kill -9** anywhere: batch, rows and position are one
//! transaction; after it nothing is owed but the keys that wait, which are kept in it.
//!
//! **Keys that wait.** A row may be later than its batch, and point to a row that the flow has not come to. The target
//! refuses it then, and its key waits in `<meta_schema>.memory` until the flow has passed the place that the snapshot was taken at;
//! only then is the refusal the row's own fault.
//!
//! A transaction that touches more keys than are to be kept here leaves them there, too. Those of a view are read again in parts before
//! its commit, those of tables right after it.
//!
//! **Memory.** Of each row of a view the target remembers a hash and the key ([`memory`]): a row that comes out as it was is not sent
//! again, and of a group it is known which rows have vanished.

mod late;
pub mod memory;
mod read;
mod touched;

pub use late::Late;
pub use read::{
    Blamed, Left, PutOff, Reread, Rereads, Waiting, all_but_refused, put_off, put_off_values,
    waiting,
};
pub use touched::{Refused, Touched, TouchedBy, Trace};
