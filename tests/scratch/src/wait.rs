//! Waiting for something to become true: a deadline and a name instead of a sleep.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use crate::{Result, ScratchError};

/// Short beside anything worth waiting for, long beside a query.
const POLL: Duration = Duration::from_millis(20);

/// Polls `probe` every 20 ms until it is true; after `within`, an error that names `what`.
///
/// A probe that hangs is abandoned at the deadline too.
pub async fn wait_until<P, F>(what: &str, within: Duration, probe: P) -> Result<()>
where
    P: FnMut() -> F,
    F: Future<Output = bool>,
{
    wait_for(what, within, true, probe).await
}

/// Polls `probe` every 20 ms until it gives `expected`; after `within`, an error with `what` and the last value seen.
pub async fn wait_for<T, P, F>(
    what: &str,
    within: Duration,
    expected: T,
    mut probe: P,
) -> Result<()>
where
    T: PartialEq + Debug,
    P: FnMut() -> F,
    F: Future<Output = T>,
{
    let start = Instant::now();
    let mut state = String::from("nothing, the first look never ended");
    loop {
        let left = within.saturating_sub(start.elapsed());
        if let Ok(seen) = tokio::time::timeout(left, probe()).await {
            if seen == expected {
                return Ok(());
            }
            state = format!("{seen:?}, expected {expected:?}");
        }
        if start.elapsed() >= within {
            return Err(ScratchError::Late { what: what.to_owned(), waited: within, state });
        }
        tokio::time::sleep(POLL).await;
    }
}
