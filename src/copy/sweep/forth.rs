//! A sweep by what the source's rows come to at the target.
//!
//! All rows of the source are read once for every [`KEYS_AT_ONCE`] keys of the target, and the key that each comes to is kept if its hash is of this turn. Then
//! all keys of the target are read, and those of this turn that no row came to are removed. The pieces are read in short snapshots, one
//! after the other: a row that moves between them is written by the applier, and what it wrote is spared.
//!
//! Keys are compared here, not by a server. So before anything is removed, it is seen to that the target writes keys as
//! we do. Its keys are read when the flow has passed all that the source showed: each key that a row came to is there then, or was written
//! since. If one is neither, the target has it under another spelling, and so may be the keys that seem to be nobody's: none is
//! removed then, and the log says so.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{CopyTable, Cursor, Key, KeyRange, Position, Result, Value};
use tokio::sync::oneshot;

use super::{SWEEP_KEYS, SWEEPING, is_ours};
use crate::copy::Job;
use crate::copy::copier::Worker;
use crate::copy::request::{Request, Watching};
use crate::mapping::BoundPlan;
use crate::mapping::plan::MappingPlan;
use crate::reread::memory::{Hash, hash};

/// Keys that are kept at a time.
const KEYS_AT_ONCE: u64 = 300_000;
/// Rows of the source read at a time.
const ROWS_A_READ: usize = 5_000;

/// A key that a row of the source comes to, and whether the target was seen to have it, or need not.
type Come = HashMap<Hash, (Key, bool)>;

impl Worker {
    /// Removes the keys of the target that no row of the source comes to.
    pub(super) async fn sweep_forth(
        &mut self,
        job: &Job,
        plan: &Arc<MappingPlan>,
        theirs: &CopyTable,
        constants: &[Option<Value>],
    ) -> Result<()> {
        let mut target = self.copying().target.copier().await?;
        let others = self
            .copying()
            .plans
            .iter()
            .any(|other| other.name != plan.name && other.target.name == plan.target.name);
        let why = match &plan.view {
            // What is remembered of a view's rows tells which of them are gone.
            Some(_) => {
                Some("it is a view, whose rows are looked for by what is remembered of them")
            }
            None if others && constants.iter().all(Option::is_none) => {
                Some("other mappings write rows of that table, too")
            }
            None => None,
        };
        if let Some(why) = why {
            let why =
                format!("its keys cannot be led back to the types of the source's, and {why}");
            return self.leave(job, &why).await;
        }
        let turns = target.estimate(theirs).await? / KEYS_AT_ONCE + 1;
        let mut turn = 0;
        loop {
            self.copying().reverse_has_passed(&job.mapping, SWEEPING).await?;
            let watching = self.watch_keys(job).await?;
            let is_of_turn = |hash: &Hash| u64::from_le_bytes(first(hash)) % turns == turn;
            let (mut come, upto) = self.come(job, plan, watching, is_of_turn).await?;
            // The target's keys are to be read when the flow has been there.
            let place = come.values().next().and_then(|(key, _)| Cursor::new(&theirs.key, key));
            if let Some(place) = place {
                self.remove(job, Vec::new(), upto.clone(), Some(place)).await?;
            }
            let (mut absent, mut after) = (Vec::new(), None);
            loop {
                let upto = target.bound(theirs, after.as_ref(), SWEEP_KEYS).await?;
                let range = KeyRange { after: after.take(), upto: upto.clone() };
                for row in target.read(theirs, &range, usize::MAX).await?.rows {
                    let key = row.0;
                    let at = about(&key);
                    if !is_of_turn(&at) || !is_ours(&key, constants) {
                        continue;
                    }
                    match come.get_mut(&at) {
                        Some((_, seen)) => *seen = true,
                        None => absent.push(key),
                    }
                }
                after = upto;
                if after.is_none() {
                    break;
                }
            }
            if !absent.is_empty() && self.is_spelt_otherwise(job, plan, come).await? {
                tracing::warn!(flow = %self.copying().flow, mapping = %job.mapping,
                    "rows that only the target has stay: its keys cannot be led back to the types of the source's, and it writes them in another way");
                return self.remove(job, Vec::new(), upto, None).await.map(|_| ());
            }
            turn += 1;
            let cursor = absent.last().and_then(|key| Cursor::new(&theirs.key, key));
            let parts = absent.chunks(SWEEP_KEYS).map(<[Key]>::to_vec).collect::<Vec<_>>();
            for part in parts {
                self.remove(job, part, upto.clone(), cursor.clone()).await?;
            }
            if turn == turns {
                return self.remove(job, Vec::new(), upto, None).await.map(|_| ());
            }
        }
    }

    /// Whether a row came to a key that was not seen at the target, though nothing wrote it since.
    async fn is_spelt_otherwise(
        &mut self,
        job: &Job,
        plan: &MappingPlan,
        come: Come,
    ) -> Result<bool> {
        let unseen = come.into_values().filter(|(_, seen)| !seen);
        let keys = unseen.map(|(key, _)| BoundPlan::remove(plan, &key).keys[0]).collect();
        let (reply, answer) = oneshot::channel();
        let written = Request::Written { mapping: job.mapping.clone(), keys, reply };
        Ok(self.copying().ask(written, answer).await?.contains(&false))
    }

    /// The keys of this turn that the source's rows come to, and what covers all that was seen.
    async fn come(
        &mut self,
        job: &Job,
        plan: &Arc<MappingPlan>,
        watching: Watching,
        is_of_turn: impl Fn(&Hash) -> bool,
    ) -> Result<(Come, Position)> {
        let (mut come, mut after) = (Come::new(), None);
        loop {
            let upto = self.reader().await?.bound(&job.table, after.as_ref(), ROWS_A_READ).await?;
            let covered = self.snapshot(watching.clone()).await?;
            let range = KeyRange { after: after.take(), upto: upto.clone() };
            let piece = self.reader().await?.read(&job.table, &range, usize::MAX).await?;
            let bound = BoundPlan::new(plan, &piece.table)?;
            for row in &piece.rows {
                // One that does not meet the filter is not there, or is on its way out, and its key may be none.
                let need_not = !bound.takes(row)?;
                if need_not && plan.shares_keys {
                    // What becomes of its key, the rows that meet the filter say.
                    continue;
                }
                let key = match bound.key_of(row) {
                    Ok(key) => key,
                    Err(_) if need_not => continue,
                    Err(error) => return Err(error),
                };
                let at = about(&key);
                if is_of_turn(&at) {
                    come.insert(at, (key.into(), need_not));
                }
            }
            after = upto;
            if after.is_none() {
                return Ok((come, covered));
            }
        }
    }
}

/// A hash that is the same for keys which servers may write in two ways: trailing blanks and zeros count for nothing. A key that is
/// taken for another by that is spared.
fn about(key: &[Value]) -> Hash {
    let plain: Vec<Value> = key.iter().map(plain).collect();
    hash(&[], plain.iter())
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Int(n) => Value::Decimal(n.to_string().into()),
        Value::UInt(n) => Value::Decimal(n.to_string().into()),
        Value::Decimal(text) if text.contains('.') => {
            Value::Decimal(text.trim_end_matches('0').trim_end_matches('.').into())
        }
        Value::Text(text) | Value::Enum(text) => Value::Text(text.trim_end_matches(' ').into()),
        other => other.clone(),
    }
}

fn first(hash: &Hash) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_written_in_two_ways_are_alike_and_others_are_not() {
        let text = |t: &str| Value::Text(t.to_owned().into());
        let decimal = |t: &str| Value::Decimal(t.to_owned().into());
        for (a, b) in [
            (text("C1"), text("C1   ")),
            (decimal("1.50"), decimal("1.5")),
            (decimal("100.000"), Value::Int(100)),
            (Value::UInt(7), Value::Int(7)),
        ] {
            assert_eq!(about(&[a]), about(&[b]));
        }
        for (a, b) in
            [(text("C1"), text(" C1")), (decimal("100"), decimal("1")), (text("1"), decimal("1"))]
        {
            assert_ne!(about(&[a]), about(&[b]));
        }
    }
}
