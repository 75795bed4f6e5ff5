//! The connector against a real server.

#[path = "server/access.rs"]
mod access;
#[path = "server/deferred.rs"]
mod deferred;
#[path = "server/field.rs"]
mod field;
#[path = "server/keys.rs"]
mod keys;
#[path = "server/loader.rs"]
mod loader;
#[path = "server/loads.rs"]
mod loads;
#[path = "server/log.rs"]
mod log;
#[path = "server/lookup.rs"]
mod lookup;
#[path = "server/memory.rs"]
mod memory;
#[path = "server/partial.rs"]
mod partial;
#[path = "server/record.rs"]
mod record;
#[path = "server/routine.rs"]
mod routine;
#[path = "server/silence.rs"]
mod silence;
#[path = "server/slot.rs"]
mod slot;
#[path = "server/writer.rs"]
mod writer;
