//! PostgreSQL, versions 13 to 18, as a source and a target of tidelock.
//!
//! ```text
//!  slot, publication ─> wire (replication frames) ─> pgoutput (decoder) ─> source ─> events
//!  catalog, preflight, meta ─> session (ordinary connection) <─ sink <─ upsert <─ batches
//! ```
//!
//! Reading uses logical decoding with the built-in `pgoutput` plugin, protocol version 1: whole
//! transactions, after their commit, in commit order. Writing uses one `unnest` statement a batch.
//! No extension and no trigger is needed on either side. README.md lists what a server must allow;
//! TYPES.md says how each type travels.

mod binary;
mod catalog;
mod config;
mod connector;
mod copy;
pub mod ddl;
mod error;
mod load;
mod lsn;
mod meta;
mod net;
mod pgoutput;
mod preflight;
mod publication;
mod quote;
mod routine;
mod session;
mod shape;
mod sink;
mod slot;
mod source;
mod text;
mod tls;
mod types;
mod upsert;
mod view;
mod wire;

use tidelock_core::{Connector, Family, Result, SystemConfig};

/// What is known of PostgreSQL before a server is asked.
pub const FAMILY: Family = Family {
    schemes: &["postgres", "postgresql"],
    has_slots: true,
    // What bounds a flow from one PostgreSQL to another is the process that sends the log (measured on two cores).
    lanes: 1,
    identifier_max: quote::IDENTIFIER_MAX,
    is_local: config::is_local,
    check: |config| tls::check(&config::Address::new(config)?.tls),
    parse_position: |text| text.parse().map(lsn::Lsn::to_position),
    connector,
};

/// The connector of a system whose URL says `postgres`. Checks the address and reads the
/// certificates; does not connect.
pub fn connector(config: SystemConfig) -> Result<Box<dyn Connector>> {
    Ok(Box::new(connector::PgConnector::new(&config)?))
}
