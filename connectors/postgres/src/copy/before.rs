//! Transactions that were logged before we came, and are not to be seen yet.
//!
//! What is delivered to us is waited for by its number. What was delivered to whoever went before us may still hang on a synchronous
//! standby, too: then it stands among the transactions that run when we come. Which of these have been logged, the
//! server does not say; so all of them are waited for, but for those that are seen to be at something else. Without a synchronous
//! standby a transaction can be seen as soon as it is logged, and nothing is waited for.

use std::time::Duration;

use tidelock_core::{Result, TransactionId};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::visible::Visible;
use crate::session::{Session, get};

/// More than it takes from logging the end of a transaction to saying what is waited for.
const SOON: Duration = Duration::from_secs(1);

/// What is known of them.
#[derive(Debug, Default)]
pub(super) enum Before {
    /// Nothing yet.
    #[default]
    Unknown,
    /// These were running: the lower halves of their numbers.
    Running { since: Instant, ids: Vec<u32> },
    /// They have ended.
    Seen,
}

/// A snapshot's own list ends with the last that has ended; this one does not.
const RUNNING: &str = "SELECT backend_xid::text FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
     UNION ALL SELECT transaction::text FROM pg_prepared_xacts";
/// A session of others says what it does only to those who may ask; that it is in a transaction, to all.
const ELSEWHERE: &str = "SELECT backend_xid::text FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
     AND (state LIKE 'idle in transaction%' \
          OR ($1 AND state IS NOT NULL AND wait_event IS DISTINCT FROM 'SyncRep')) \
     UNION ALL SELECT transaction::text FROM pg_prepared_xacts WHERE $1 AND NOT EXISTS \
         (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_xid IS NULL)";

impl Before {
    /// Whether a snapshot that was just taken shows all of them.
    pub(super) async fn is_seen(&mut self, session: &Session, visible: &Visible) -> Result<bool> {
        let (since, mut ids) = match std::mem::take(self) {
            Before::Unknown => (Instant::now(), running(session).await?),
            Before::Running { since, ids } => (since, ids),
            Before::Seen => {
                *self = Before::Seen;
                return Ok(true);
            }
        };
        let hidden = |ids: &mut Vec<u32>| {
            ids.retain(|id| !visible.shows(TransactionId(u64::from(*id))));
            !ids.is_empty()
        };
        if hidden(&mut ids) {
            let late = since.elapsed() > SOON;
            let others = session.query("looking at what runs", ELSEWHERE, &[&late]).await?;
            for other in numbers(&others)? {
                ids.retain(|id| *id != other);
            }
        }
        *self = match ids.is_empty() {
            true => Before::Seen,
            false => Before::Running { since, ids },
        };
        Ok(matches!(self, Before::Seen))
    }
}

async fn running(session: &Session) -> Result<Vec<u32>> {
    let sql = "SELECT current_setting('synchronous_standby_names') <> ''";
    let waits: bool = get(&session.query_one("looking for standbys", sql, &[]).await?, 0)?;
    match waits {
        true => numbers(&session.query("looking for what runs", RUNNING, &[]).await?),
        false => Ok(Vec::new()),
    }
}

fn numbers(rows: &[Row]) -> Result<Vec<u32>> {
    let parse = |row: &Row| -> Result<Option<u32>> { Ok(get::<&str>(row, 0)?.parse().ok()) };
    rows.iter().filter_map(|row| parse(row).transpose()).collect()
}
