//! Whether a change is worth sending now: edges, and keys that rest between two of their changes.
//!
//! An *edge* sends a row when a condition turns true (and, if asked for, when another does), so it needs to know on which
//! side each key was. A *throttle* sends at most one state of a key in a period, and never loses the last: what comes too
//! early is *held*, and when its time has come the row is read again at the source and sent as it is then.
//!
//! What is known of the keys lives in `<meta_schema>.memory` and is written in the same guarded transaction as the rows, so it is
//! always what the target's rows say; here it is kept at hand. A key of which nothing is known is on the lower side of its
//! edge and was never sent. Whatever the gate keeps back counts as filtered, or, where a later state is sent for it, as superseded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelock_core::{Key, MemoryKind, MemoryScope, Remembered, Result, Sink, Value};

use crate::mapping::MappingPlan;
use crate::mapping::rules::Signs;
use crate::reread::memory::{Hash, decode_key, encode_key, hash};

/// Entries asked for at a time.
const RECALLED: usize = 5_000;

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It is sent.
    Send,
    /// It is not: no edge was crossed.
    Keep,
    /// A later state will be sent for it.
    Hold,
}

/// The gates of a flow's mappings, by their numbers.
#[derive(Default)]
pub struct Gates {
    gates: HashMap<usize, Gate>,
}

/// What is known of the keys of one mapping.
struct Gate {
    plan: Arc<MappingPlan>,
    throttle: Option<Duration>,
    /// Keys on the upper side of their edge.
    up: HashSet<Hash>,
    /// When a key was last sent, microseconds since 1970.
    sent: HashMap<Hash, i64>,
    held: HashMap<Hash, Held>,
    /// What is to be written with the next commit: of edges, and of the throttle.
    edges: HashMap<Hash, bool>,
    rests: HashMap<Hash, Option<Bytes>>,
}

/// A key whose latest state is owed.
struct Held {
    /// The key at the source.
    key: Key,
    /// When it is due.
    due: i64,
}

/// What is to be remembered with a commit.
pub struct Memories {
    /// Whose.
    pub scope: MemoryScope,
    /// What is put.
    pub put: Vec<Remembered>,
    /// What is forgotten.
    pub gone: Vec<Bytes>,
}

impl Gates {
    /// Takes up what the target remembers of these mappings.
    pub async fn recall(
        sink: &mut dyn Sink,
        plans: &[Arc<MappingPlan>],
        ours: impl Fn(&MappingPlan) -> bool,
    ) -> Result<Gates> {
        let mut gates = Gates::default();
        let gated = |plan: &MappingPlan| plan.rows.is_gated() && ours(plan);
        for (number, plan) in plans.iter().enumerate().filter(|(_, plan)| gated(plan)) {
            let mut gate = Gate {
                plan: plan.clone(),
                throttle: plan.rows.throttle,
                up: HashSet::new(),
                sent: HashMap::new(),
                held: HashMap::new(),
                edges: HashMap::new(),
                rests: HashMap::new(),
            };
            for kind in [MemoryKind::Edge, MemoryKind::Held] {
                let scope = MemoryScope { mapping: plan.name.clone(), kind };
                let mut after = None;
                loop {
                    let stored = sink.recall_all(&scope, after.as_ref(), RECALLED).await?;
                    after = stored.last().map(|(at, _)| at.clone());
                    let all = stored.len() < RECALLED;
                    for (at, value) in stored {
                        if let Ok(key) = Hash::try_from(&*at) {
                            gate.take_up(kind, key, &value);
                        }
                    }
                    if all {
                        break;
                    }
                }
            }
            gates.gates.insert(number, gate);
        }
        Ok(gates)
    }

    /// Whether a mapping has one.
    pub fn has(&self, number: usize) -> bool {
        self.gates.contains_key(&number)
    }

    /// Whether a change is kept back without anything to be remembered.
    pub fn is_quiet(&self, number: usize, key: &[Value], signs: Option<Signs>) -> bool {
        let (Some(gate), Some(signs)) = (self.gates.get(&number), signs) else { return false };
        match gate.up.contains(&hash(&[], key)) {
            true => !signs.fall,
            false => !signs.rise,
        }
    }

    /// What becomes of a row that is inserted or changed. `source` is its key there.
    pub fn pass(
        &mut self,
        number: usize,
        key: &[Value],
        signs: Option<Signs>,
        source: Option<Key>,
        now: i64,
    ) -> Pass {
        match self.gates.get_mut(&number) {
            Some(gate) => gate.pass(hash(&[], key), signs, source, now),
            None => Pass::Send,
        }
    }

    /// A row as a copy brought it: nothing of it is owed.
    pub fn settle(&mut self, number: usize, key: &[Value], signs: Option<Signs>) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        let key = hash(&[], key);
        gate.set(key, signs.is_some_and(|signs| signs.rise));
        if gate.held.remove(&key).is_some() {
            gate.rests.insert(key, None);
        }
    }

    /// A row is gone, or has another key.
    pub fn forget(&mut self, number: usize, key: &[Value]) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        let key = hash(&[], key);
        gate.set(key, false);
        let known = gate.held.remove(&key).is_some() | gate.sent.remove(&key).is_some();
        if known {
            gate.rests.insert(key, None);
        }
    }

    /// The keys whose time has come; they count as sent.
    pub fn due(&mut self, now: i64) -> Vec<(usize, Arc<MappingPlan>, Vec<Key>)> {
        let mut all = Vec::new();
        for (number, gate) in &mut self.gates {
            let due: Vec<Hash> =
                gate.held.iter().filter(|(_, held)| held.due <= now).map(|(key, _)| *key).collect();
            let mut keys = Vec::new();
            for key in due {
                if let Some(held) = gate.held.remove(&key) {
                    keys.push(held.key);
                    gate.mark_sent(key, now);
                }
            }
            if !keys.is_empty() {
                all.push((*number, gate.plan.clone(), keys));
            }
            gate.rest(now);
        }
        all
    }

    /// What is to be remembered with the commit that is about to be made.
    pub fn take(&mut self) -> Vec<Memories> {
        let mut all = Vec::new();
        for gate in self.gates.values_mut() {
            let bytes = |key: &Hash| Bytes::copy_from_slice(key);
            if !gate.edges.is_empty() {
                let edges = std::mem::take(&mut gate.edges);
                let (up, down): (Vec<_>, Vec<_>) = edges.into_iter().partition(|(_, up)| *up);
                all.push(Memories {
                    scope: MemoryScope { mapping: gate.plan.name.clone(), kind: MemoryKind::Edge },
                    put: up.iter().map(|(key, _)| (bytes(key), Bytes::new())).collect(),
                    gone: down.iter().map(|(key, _)| bytes(key)).collect(),
                });
            }
            if !gate.rests.is_empty() {
                let (mut put, mut gone) = (Vec::new(), Vec::new());
                for (key, value) in std::mem::take(&mut gate.rests) {
                    match value {
                        Some(value) => put.push((bytes(&key), value)),
                        None => gone.push(bytes(&key)),
                    }
                }
                let scope = MemoryScope { mapping: gate.plan.name.clone(), kind: MemoryKind::Held };
                all.push(Memories { scope, put, gone });
            }
        }
        all
    }
}

impl Gate {
    fn take_up(&mut self, kind: MemoryKind, key: Hash, value: &[u8]) {
        if kind == MemoryKind::Edge {
            self.up.insert(key);
            return;
        }
        let Some((micros, rest)) = value.split_at_checked(8) else { return };
        let Ok(micros) = <[u8; 8]>::try_from(micros).map(i64::from_le_bytes) else { return };
        match decode_key(rest) {
            Some(source) => {
                self.held.insert(key, Held { key: source, due: micros });
            }
            None => {
                self.sent.insert(key, micros);
            }
        }
    }

    fn pass(&mut self, key: Hash, signs: Option<Signs>, source: Option<Key>, now: i64) -> Pass {
        if let Some(signs) = signs
            && !self.crosses(key, signs)
        {
            return Pass::Keep;
        }
        let Some(period) = self.throttle else { return Pass::Send };
        if self.held.contains_key(&key) {
            return Pass::Hold;
        }
        let period = i64::try_from(period.as_micros()).unwrap_or(i64::MAX);
        let due = self.sent.get(&key).map_or(now, |sent| sent.saturating_add(period));
        let (true, Some(source)) = (due > now, source) else {
            self.mark_sent(key, now);
            return Pass::Send;
        };
        let Ok(rest) = encode_key(&source) else { return Pass::Send };
        let value = [&due.to_le_bytes()[..], &rest].concat();
        self.rests.insert(key, Some(value.into()));
        self.held.insert(key, Held { key: source, due });
        Pass::Hold
    }

    /// Whether the row crosses an edge that is to be told; takes note of its side.
    fn crosses(&mut self, key: Hash, signs: Signs) -> bool {
        let was = self.up.contains(&key);
        match (was, signs.rise, signs.fall) {
            (false, true, _) => {
                self.set(key, true);
                true
            }
            (true, _, true) => {
                self.set(key, false);
                signs.tells_fall
            }
            _ => false,
        }
    }

    fn set(&mut self, key: Hash, up: bool) {
        let changed = if up { self.up.insert(key) } else { self.up.remove(&key) };
        if changed {
            self.edges.insert(key, up);
        }
    }

    fn mark_sent(&mut self, key: Hash, now: i64) {
        if self.throttle.is_some() {
            self.sent.insert(key, now);
            self.rests.insert(key, Some(Bytes::copy_from_slice(&now.to_le_bytes())));
        }
    }

    /// Forgets when keys were sent that may be sent again. It is written whenever there is something else to write.
    fn rest(&mut self, now: i64) {
        let Some(period) = self.throttle else { return };
        let period = i64::try_from(period.as_micros()).unwrap_or(i64::MAX);
        let over: Vec<Hash> = self
            .sent
            .iter()
            .filter(|(_, sent)| sent.saturating_add(period) <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.sent.remove(&key);
            if !self.held.contains_key(&key) {
                self.rests.insert(key, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(throttle: Option<u64>) -> Gate {
        Gate {
            plan: Arc::new(crate::apply::batch::tests::lone("stock")),
            throttle: throttle.map(Duration::from_secs),
            up: HashSet::new(),
            sent: HashMap::new(),
            held: HashMap::new(),
            edges: HashMap::new(),
            rests: HashMap::new(),
        }
    }

    fn signs(rise: bool, fall: bool, tells_fall: bool) -> Option<Signs> {
        Some(Signs { rise, fall, tells_fall })
    }

    #[test]
    fn an_edge_is_told_once_and_again_only_after_it_was_left() {
        let (mut gate, key) = (gate(None), hash(&[], &[Value::Int(1)]));
        let mut sent = Vec::new();
        for low in [false, true, true, false, false, true] {
            sent.push(gate.pass(key, signs(low, !low, false), None, 0) == Pass::Send);
        }
        assert_eq!(sent, [false, true, false, false, false, true]);
        let told = gate.pass(key, signs(false, true, true), None, 0);
        assert_eq!(told, Pass::Send, "the way back is told where that is asked for");
        // Between the two ends nothing happens.
        assert_eq!(gate.pass(key, signs(false, false, true), None, 0), Pass::Keep);
    }

    #[test]
    fn a_key_rests_after_it_was_sent_and_its_last_state_is_owed() {
        let (mut gate, key) = (gate(Some(60)), hash(&[], &[Value::Int(1)]));
        let source: Key = Box::from([Value::Int(1)]);
        let second = 1_000_000;
        assert_eq!(gate.pass(key, None, Some(source.clone()), 0), Pass::Send);
        assert_eq!(gate.pass(key, None, Some(source.clone()), second), Pass::Hold);
        assert_eq!(gate.pass(key, None, Some(source.clone()), 2 * second), Pass::Hold);
        let stored = gate.rests.get(&key).cloned().flatten().expect("held");
        let mut gates = Gates { gates: HashMap::from([(0, gate)]) };
        assert!(gates.due(59 * second).is_empty());
        let due = gates.due(60 * second);
        assert_eq!(due[0].2, std::slice::from_ref(&source));
        assert!(gates.due(61 * second).is_empty(), "owed once");
        // What was written is what is taken up.
        let mut again = self::gate(Some(60));
        again.take_up(MemoryKind::Held, key, &stored);
        assert_eq!(again.held.get(&key).map(|held| held.due), Some(60 * second));
        assert_eq!(again.pass(key, None, Some(source), 70 * second), Pass::Hold);
    }
}
