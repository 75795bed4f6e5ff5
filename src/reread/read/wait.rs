//! Keys that wait in the target's memory.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{Key, MemoryKind, MemoryScope, Result, Sink};

use super::{KEYS_A_READ, Reread};
use crate::mapping::MappingPlan;
use crate::reread::memory::{decode_key, encode_key, hash};

/// Keeps which keys of a mapping wait, and forgets those that do no longer.
pub(super) async fn keep(
    sink: &mut dyn Sink,
    mapping: Arc<str>,
    waited: Vec<Bytes>,
    done: &Reread,
) -> Result<()> {
    let mut put = HashMap::new();
    let waiting = done.waiting.iter().filter(|w| w.plan.name == mapping).flat_map(|w| &w.keys);
    let put_off = done.put_off.iter().filter(|p| p.plan.name == mapping).flat_map(|p| &p.keys);
    for key in waiting.chain(put_off) {
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
) -> Result<(Vec<Key>, bool)> {
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Pending };
    let stored = sink.recall_all(&scope, after.as_ref(), limit).await?;
    if let Some((at, _)) = stored.last() {
        *after = Some(at.clone());
    }
    let keys = stored.iter().filter_map(|(_, key)| decode_key(key)).collect();
    Ok((keys, stored.len() == limit))
}

/// Lets keys wait in the target's memory, inside the open transaction: there are too many to be kept here.
pub async fn put_off(sink: &mut dyn Sink, plan: &MappingPlan, keys: Vec<Key>) -> Result<()> {
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Pending };
    for some in keys.chunks(KEYS_A_READ) {
        let mut put = HashMap::new();
        for key in some {
            put.insert(Bytes::copy_from_slice(&hash(&[], key.iter())), encode_key(key)?);
        }
        sink.remember(&scope, &put.into_iter().collect::<Vec<_>>(), &[]).await?;
    }
    Ok(())
}
