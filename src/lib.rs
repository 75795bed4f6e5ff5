//! The engine and the command line of tidelock: keeps tables of PostgreSQL, MySQL and MariaDB in
//! step, in both directions, exactly once in effect.
//!
//! ```text
//! main ─> cli ─> engine ─> flow ─> reader ─> mapping ─> apply ─> checkpoint
//!                                    ^          a straight line      │
//!                                    └────── durable position ◄──────┘
//! ```
//!
//! Start with [`flow`], whose module doc says what happens to a row and what happens at a crash
//! between any two lines; then [`apply`], which builds the target transactions.

pub mod apply;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod control;
pub mod copy;
pub mod demo;
pub mod engine;
pub mod expr;
pub mod flow;
pub mod http;
pub mod init;
pub mod mapping;
pub mod reader;
pub mod registry;
pub mod reread;
pub mod status;
pub mod telemetry;
