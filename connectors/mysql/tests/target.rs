//! What a target can do besides writing rows, on a real server.

#[path = "target/field.rs"]
mod field;
#[path = "target/lookup.rs"]
mod lookup;
#[path = "target/memory.rs"]
mod memory;
#[path = "target/partial.rs"]
mod partial;
#[path = "target/routine.rs"]
mod routine;
