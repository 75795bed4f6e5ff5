//! Stage 4's memory: the local checkpoint in sled.
//!
//! The authority on a flow's position is the progress row at the target; this is the second copy,
//! kept for three things: to confirm to the source only what survives us too, to notice a target that
//! was rewound, and to know a half-made slot as our own. It may vanish, be old, or be damaged at any
//! time, and nothing is lost by it: a damaged store is moved aside and begun anew.
//!
//! **Durability.** `sled::Db::flush` on Linux is `sync_file_range`, which a power cut survives only by
//! luck; [`Checkpoint::make_durable`] therefore also calls `fdatasync` on sled's one data file.

mod codec;
mod store;

pub use codec::{FlowRecord, LagRecord};
pub use store::Checkpoint;
pub(crate) use store::is_away;
