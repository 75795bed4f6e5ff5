//! Keys that wait in the target's memory.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{MemoryKind, MemoryScope, Remembered, Result, Sink};

use super::{KEYS_A_READ, Reread};
use crate::mapping::MappingPlan;
use crate::reread::memory::{Pending, encode_key, hash};

/// Keeps which keys of a mapping wait, and forgets those that do no longer.
pub(super) async fn keep(
    sink: &mut dyn Sink,
    mapping: Arc<str>,
    waited: Vec<Bytes>,
    done: &Reread,
) -> Result<()> {
    let mut put = HashMap::new();
    for waiting in done.waiting.iter().filter(|w| w.plan.name == mapping) {
        for key in &waiting.keys {
            let hash = hash(&[], key.iter());
            let (owed, force) = (waiting.owed.contains(&hash), waiting.force);
            let pending = Pending { key: key.clone(), owed, force };
            put.insert(Bytes::copy_from_slice(&hash), pending.encode()?);
        }
    }
    // Of a table's row the gate has been asked before.
    for key in done.put_off.iter().filter(|p| p.plan.name == mapping).flat_map(|p| &p.keys) {
        put.insert(Bytes::copy_from_slice(&hash(&[], key.iter())), encode_key(key)?);
    }
    let mut gone: Vec<Bytes> = waited.into_iter().filter(|key| !put.contains_key(key)).collect();
    gone.sort();
    gone.dedup();
    if put.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let scope = MemoryScope { mapping, kind: MemoryKind::Pending };
    sink.remember(&scope, &put.into_iter().collect::<Vec<_>>(), &gone).await
}

/// Keys of a mapping that wait in the target's memory, the next after `after`, and whether there are more.
pub async fn waiting(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    after: &mut Option<Bytes>,
    limit: usize,
) -> Result<(Vec<Pending>, bool)> {
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Pending };
    let stored = sink.recall_all(&scope, after.as_ref(), limit).await?;
    if let Some((at, _)) = stored.last() {
        *after = Some(at.clone());
    }
    let keys = stored.iter().filter_map(|(_, key)| Pending::decode(key)).collect();
    Ok((keys, stored.len() == limit))
}

/// Puts what the queries of a mapping's tracks are asked with into the target's memory, inside the open transaction: there is too much to be
/// kept here.
pub async fn put_off_values(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    values: &[Remembered],
) -> Result<()> {
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Asked };
    for some in values.chunks(KEYS_A_READ) {
        sink.remember(&scope, some, &[]).await?;
    }
    Ok(())
}

/// Lets keys wait in the target's memory, inside the open transaction: there are too many to be kept here. What is owed of those that
/// wait there already stays owed.
pub async fn put_off(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    mut keys: Vec<Pending>,
) -> Result<()> {
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Pending };
    for some in keys.chunks_mut(KEYS_A_READ) {
        let mut put: HashMap<Bytes, &mut Pending> = HashMap::new();
        for pending in some {
            let at = hash(&[], pending.key.iter());
            put.insert(Bytes::copy_from_slice(&at), pending);
        }
        if plan.rows.is_gated() {
            let asked: Vec<Bytes> = put.keys().cloned().collect();
            for (at, before) in sink.recall(&scope, &asked).await? {
                if let (Some(pending), Some(before)) = (put.get_mut(&at), Pending::decode(&before))
                {
                    pending.owed |= before.owed;
                    pending.force |= before.force;
                }
            }
        }
        let put: Vec<Remembered> = put
            .into_iter()
            .map(|(at, pending)| Ok((at, pending.encode()?)))
            .collect::<Result<_>>()?;
        sink.remember(&scope, &put, &[]).await?;
    }
    Ok(())
}
