//! The tidelock binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use tidelock::cli::{Cli, execute, misused};

/// Values of rows are many small allocations, made by one thread and freed by another in the thousands. The C library's allocator
/// merges and cuts them each time: a fifth to a third of our CPU time where the log or the target is MariaDB's (`docs/BENCHMARKS.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    // One TLS provider for every library; an earlier one can only be the same.
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(execute(cli)),
        Err(_) => ExitCode::from(tidelock::cli::FAILED),
    }
}
