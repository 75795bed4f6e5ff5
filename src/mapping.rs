//! Stage 2: what a source row becomes at the target. Pure: no I/O, no clock, no state beyond a cache.
//!
//! ```text
//! config + both catalogs ──plan_flow──> MappingPlan ──bind(row shape)──> BoundPlan ──write(op)──> Write
//!        once a start                     once a flow          once a shape           once a row
//! ```
//!
//! The plan is compiled from the catalogs, so that everything `check` can know is known before a row
//! moves. It is bound to the shape that the *log* announces, because the log and not today's catalog
//! says how its rows are laid out; a shape that lost a mapped column is schema drift.
//!
//! A target table that is missing can be planned from the source's catalog ([`tables`]).
//!
//! **Which write a change becomes.** An insert, or an update with a full image, is an upsert by the
//! mapping key: applied twice it changes nothing. A partial image (unchanged TOAST, `MINIMAL`) can
//! only be an update of the columns it has; where a column is made of what it has and of what it lacks,
//! the row is read again. A changed key is a move of the row, which keeps columns
//! that the target has and we do not map. A delete goes by key.

pub mod call;
pub mod computed;
pub mod convert;
pub mod dictionaries;
pub mod lookups;
pub mod plan;
pub mod roundtrip;
pub mod row;
pub mod rules;
pub mod tables;

pub use plan::{MappingPlan, PlanOutcome, plan_flow};
pub use row::{Becomes, BoundPlan, Write};
pub use tables::{TablePlan, plan_tables};
