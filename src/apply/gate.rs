//! Whether a change is worth sending now: edges, and keys that rest between two of their changes.
//!
//! An *edge* sends a row when a condition turns true (and, if asked for, when another does), so it needs to know on which
//! side each key was. A *throttle* sends at most one state of a key in a period, and never loses the last: what comes too
//! early is *held*, and when its time has come the row is read again at the source and sent as it is then.
//!
//! What is known of the keys lives in `<meta_schema>.memory` and is written in the same guarded transaction as the rows, so it is
//! always what the target's rows say; here it is kept at hand. A key of which nothing is known is on the lower side of its
//! edge and was never sent. Of a view with groups (`row_key`) it is each row that has a side and rests, not the group: when one of them is due, its
//! group is read, and the others are judged as ever. A key that was sent in a state which the log did not tell is on neither side: whichever it is met on next is told. Whatever the gate keeps back counts as filtered, or, where a later state is sent for it, as superseded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidelock_core::{Key, MemoryKind, MemoryScope, Remembered, Result, Sink, TransactionId, Value};

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
    /// Keys that are not on the lower side of their edge.
    sides: HashMap<Hash, Side>,
    /// When a key was last sent, microseconds since 1970.
    sent: HashMap<Hash, i64>,
    held: HashMap<Hash, Held>,
    /// Rows of groups that are sent whatever the gate says when their groups are read next.
    owed: HashSet<Hash>,
    /// What is to be written with the next commit: of edges, and of the throttle.
    edges: HashMap<Hash, Option<Side>>,
    rests: HashMap<Hash, Option<Bytes>>,
    /// Which edge the sides are about, as it is remembered, and whether that is to be written.
    about: (Option<Hash>, bool),
}

/// Where a key is that is not on the lower side of its edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Up,
    /// The log did not tell.
    Unknown,
}

/// Under what the edge is remembered that the sides are about: no key has this hash.
const ABOUT: Hash = [0; 16];
/// What stands for a key on no known side. Nothing stands for the upper one.
const UNKNOWN: &[u8] = b"?";

/// A key whose latest state is owed.
#[derive(Debug, Clone)]
struct Held {
    /// The key at the source.
    key: Key,
    /// When it is due.
    due: i64,
    /// The transaction that is owed; a snapshot must show it.
    within: Option<TransactionId>,
}

/// What is known of a key, to be known again.
pub struct KeyState {
    key: Hash,
    side: Option<Side>,
    sent: Option<i64>,
    held: Option<Held>,
    edge: Option<Option<Side>>,
    rest: Option<Option<Bytes>>,
}

/// Keys of a mapping whose time has come.
pub struct Due {
    /// The number of the mapping.
    pub number: usize,
    /// The mapping.
    pub plan: Arc<MappingPlan>,
    /// The keys at the source.
    pub keys: Vec<Key>,
    /// The transactions that must be seen when they are read.
    pub within: Vec<TransactionId>,
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
    /// Takes up what the target remembers of these mappings: those that have a gate, and those that had one and may owe rows still.
    pub async fn recall(
        sink: &mut dyn Sink,
        plans: &[Arc<MappingPlan>],
        ours: impl Fn(&MappingPlan) -> bool,
        had_one: impl Fn(&MappingPlan) -> bool,
    ) -> Result<Gates> {
        let mut gates = Gates::default();
        let gated = |plan: &MappingPlan| (plan.rows.is_gated() || had_one(plan)) && ours(plan);
        for (number, plan) in plans.iter().enumerate().filter(|(_, plan)| gated(plan)) {
            let mut gate = Gate {
                plan: plan.clone(),
                throttle: plan.rows.throttle,
                sides: HashMap::new(),
                sent: HashMap::new(),
                held: HashMap::new(),
                owed: HashSet::new(),
                edges: HashMap::new(),
                rests: HashMap::new(),
                about: (None, false),
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
            gate.forget_what_is_asked_no_more();
            gates.gates.insert(number, gate);
        }
        Ok(gates)
    }

    /// Whether no mapping has one.
    pub fn is_empty(&self) -> bool {
        self.gates.is_empty()
    }

    /// Whether a mapping has one.
    pub fn has(&self, number: usize) -> bool {
        self.gates.contains_key(&number)
    }

    /// Whether a change is kept back without anything to be remembered.
    pub fn is_quiet(&self, number: usize, key: &[Value], signs: Option<Signs>) -> bool {
        let (Some(gate), Some(signs)) = (self.gates.get(&number), signs) else { return false };
        match gate.sides.get(&hash(&[], key)) {
            Some(Side::Up) => !signs.fall,
            Some(Side::Unknown) => !signs.rise && !signs.fall,
            None => !signs.rise,
        }
    }

    /// What becomes of a row that is inserted or changed. `source` is its key there, and where the log told of it.
    pub fn pass(
        &mut self,
        number: usize,
        key: &[Value],
        signs: Option<Signs>,
        source: (Option<Key>, Option<TransactionId>),
        now: i64,
    ) -> Pass {
        match self.gates.get_mut(&number) {
            Some(gate) => gate.pass(hash(&[], key), signs, source, now),
            None => Pass::Send,
        }
    }

    /// Whether anything is known of a key.
    pub fn knows(&self, number: usize, key: &[Value]) -> bool {
        let Some(gate) = self.gates.get(&number) else { return false };
        let key = hash(&[], key);
        gate.sides.contains_key(&key)
            || gate.sent.contains_key(&key)
            || gate.held.contains_key(&key)
    }

    /// What is known of a key.
    pub fn state(&self, number: usize, key: &[Value]) -> Option<KeyState> {
        let gate = self.gates.get(&number)?;
        let key = hash(&[], key);
        Some(KeyState {
            key,
            side: gate.sides.get(&key).copied(),
            sent: gate.sent.get(&key).copied(),
            held: gate.held.get(&key).cloned(),
            edge: gate.edges.get(&key).copied(),
            rest: gate.rests.get(&key).cloned(),
        })
    }

    /// Rows that were to be sent were not: what was known of their keys is known again.
    pub fn restore(&mut self, number: usize, states: Vec<KeyState>) {
        fn put<T>(map: &mut HashMap<Hash, T>, key: Hash, value: Option<T>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        let Some(gate) = self.gates.get_mut(&number) else { return };
        for KeyState { key, side, sent, held, edge, rest } in states {
            put(&mut gate.sides, key, side);
            put(&mut gate.sent, key, sent);
            put(&mut gate.held, key, held);
            put(&mut gate.edges, key, edge);
            put(&mut gate.rests, key, rest);
        }
    }

    /// A row is sent as it is: nothing of it is owed.
    pub fn settle(&mut self, number: usize, key: &[Value], signs: Option<Signs>) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        let key = hash(&[], key);
        let side = match signs {
            Some(signs) => signs.rise.then_some(Side::Up),
            None => gate.unknown(),
        };
        gate.set(key, side);
        if gate.held.remove(&key).is_some() {
            gate.rests.insert(key, None);
        }
    }

    /// A row of a group is to be sent whatever the gate says when its group is read next.
    pub fn owe(&mut self, number: usize, key: &[Value]) {
        if let Some(gate) = self.gates.get_mut(&number) {
            gate.owed.insert(hash(&[], key));
        }
    }

    /// Whether it is; it is owed once.
    pub fn take_owed(&mut self, number: usize, key: &[Value]) -> bool {
        let gate = self.gates.get_mut(&number);
        gate.is_some_and(|gate| gate.owed.remove(&hash(&[], key)))
    }

    /// What was owed has been read: of rows that were not there, nothing is owed any more.
    pub fn owe_nothing(&mut self) {
        self.gates.values_mut().for_each(|gate| gate.owed.clear());
    }

    /// A row was met as it was last sent: there is no later state of it, but it may have come to the other side of its edge.
    pub fn meet(&mut self, number: usize, key: &[Value], signs: Option<Signs>) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        let key = hash(&[], key);
        if let Some(signs) = signs {
            gate.crosses(key, signs);
        }
        gate.let_go(key);
    }

    /// A row is sent as one that has come now: it rests from here on.
    pub fn begin(&mut self, number: usize, key: &[Value], signs: Option<Signs>, now: i64) {
        self.settle(number, key, signs);
        let Some(gate) = self.gates.get_mut(&number) else { return };
        if gate.throttle.is_some() {
            gate.mark_sent(hash(&[], key), now);
        }
    }

    /// A row is gone, or has another key.
    pub fn forget(&mut self, number: usize, key: &[Value]) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        let key = hash(&[], key);
        gate.set(key, None);
        let known = gate.held.remove(&key).is_some() | gate.sent.remove(&key).is_some();
        if known {
            gate.rests.insert(key, None);
        }
    }

    /// All rows of a mapping are gone, or are about to be sent again.
    pub fn forget_all(&mut self, number: usize) {
        let Some(gate) = self.gates.get_mut(&number) else { return };
        gate.edges.extend(std::mem::take(&mut gate.sides).into_keys().map(|key| (key, None)));
        let held = std::mem::take(&mut gate.held).into_keys();
        let known = held.chain(std::mem::take(&mut gate.sent).into_keys());
        gate.rests.extend(known.map(|key| (key, None)));
    }

    /// The keys whose time has come; they count as sent. Of groups it is their rows that are owed.
    pub fn due(&mut self, now: i64) -> Vec<Due> {
        let mut all = Vec::new();
        for (number, gate) in &mut self.gates {
            let due: Vec<Hash> = gate
                .held
                .iter()
                .filter(|(_, held)| held.is_due(now, gate.period()))
                .map(|(key, _)| *key)
                .collect();
            let (mut keys, mut within) = (Vec::new(), Vec::new());
            for key in due {
                if let Some(held) = gate.held.remove(&key) {
                    if gate.plan.has_groups() {
                        gate.owed.insert(key);
                    }
                    keys.push(held.key);
                    within.extend(held.within.filter(|id| !within.contains(id)));
                    gate.mark_sent(key, now);
                }
            }
            if !keys.is_empty() {
                all.push(Due { number: *number, plan: gate.plan.clone(), keys, within });
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
            if !gate.edges.is_empty() || gate.about.1 {
                let (mut put, mut gone) = (Vec::new(), Vec::new());
                if std::mem::take(&mut gate.about.1) {
                    match &gate.about.0 {
                        Some(edge) => put.push((bytes(&ABOUT), bytes(edge))),
                        None => gone.push(bytes(&ABOUT)),
                    }
                }
                for (key, side) in std::mem::take(&mut gate.edges) {
                    match side {
                        Some(Side::Up) => put.push((bytes(&key), Bytes::new())),
                        Some(Side::Unknown) => put.push((bytes(&key), Bytes::from_static(UNKNOWN))),
                        None => gone.push(bytes(&key)),
                    }
                }
                let scope = MemoryScope { mapping: gate.plan.name.clone(), kind: MemoryKind::Edge };
                all.push(Memories { scope, put, gone });
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

impl Held {
    /// Whether its time has come. What is due later than a period from now was held by a longer one, or by a clock that has been set back since.
    fn is_due(&self, now: i64, period: i64) -> bool {
        self.due <= now || self.due > now.saturating_add(period)
    }
}

impl Gate {
    /// How long a key rests, in microseconds; what is held without a throttle is due.
    fn period(&self) -> i64 {
        self.throttle.map_or(0, |period| i64::try_from(period.as_micros()).unwrap_or(i64::MAX))
    }

    /// What the file does not ask for any more says nothing, also if it asks for it again; nor do the sides of one edge of another.
    fn forget_what_is_asked_no_more(&mut self) {
        let edge = self.plan.rows.edge.as_ref().map(|edge| edge.text());
        let edge = edge.map(|text| hash(text.as_bytes(), &[]));
        let known = self.about.0;
        self.about = (edge, known != edge);
        if edge.is_none() || known.is_some_and(|known| Some(known) != edge) {
            self.edges.extend(std::mem::take(&mut self.sides).into_keys().map(|key| (key, None)));
        }
        if self.throttle.is_none() {
            let held = &self.held;
            let sent = std::mem::take(&mut self.sent).into_keys();
            self.rests.extend(sent.filter(|key| !held.contains_key(key)).map(|key| (key, None)));
        }
    }

    fn take_up(&mut self, kind: MemoryKind, key: Hash, value: &[u8]) {
        if kind == MemoryKind::Edge && key == ABOUT {
            self.about.0 = Hash::try_from(value).ok();
            return;
        }
        if kind == MemoryKind::Edge {
            let side = if value == UNKNOWN { Side::Unknown } else { Side::Up };
            self.sides.insert(key, side);
            return;
        }
        let Some((micros, rest)) = value.split_at_checked(8) else { return };
        let Ok(micros) = <[u8; 8]>::try_from(micros).map(i64::from_le_bytes) else { return };
        match decode_key(rest) {
            Some(source) => {
                self.held.insert(key, Held { key: source, due: micros, within: None });
            }
            None => {
                self.sent.insert(key, micros);
            }
        }
    }

    fn pass(
        &mut self,
        key: Hash,
        signs: Option<Signs>,
        (source, within): (Option<Key>, Option<TransactionId>),
        now: i64,
    ) -> Pass {
        match signs {
            Some(signs) if !self.crosses(key, signs) => return Pass::Keep,
            Some(_) => {}
            None => self.set(key, self.unknown()),
        }
        if let Some(held) = self.held.get_mut(&key) {
            held.within = within.or(held.within);
            return Pass::Hold;
        }
        if self.throttle.is_none() {
            return Pass::Send;
        }
        // A clock that was set back does not make it rest longer.
        let due = |sent: &i64| now.min(*sent).saturating_add(self.period());
        let due = self.sent.get(&key).map_or(now, due);
        let (true, Some(source)) = (due > now, source) else {
            self.mark_sent(key, now);
            return Pass::Send;
        };
        let Ok(rest) = encode_key(&source) else { return Pass::Send };
        let value = [&due.to_le_bytes()[..], &rest].concat();
        self.rests.insert(key, Some(value.into()));
        self.held.insert(key, Held { key: source, due, within });
        Pass::Hold
    }

    /// Whether the row crosses an edge that is to be told; takes note of its side.
    fn crosses(&mut self, key: Hash, signs: Signs) -> bool {
        match (self.sides.get(&key).copied(), signs.rise, signs.fall) {
            (None | Some(Side::Unknown), true, _) => {
                self.set(key, Some(Side::Up));
                true
            }
            (Some(Side::Up), _, true) | (Some(Side::Unknown), false, true) => {
                self.set(key, None);
                signs.tells_fall
            }
            (None | Some(Side::Up | Side::Unknown), _, _) => false,
        }
    }

    fn set(&mut self, key: Hash, side: Option<Side>) {
        let before = match side {
            Some(side) => self.sides.insert(key, side),
            None => self.sides.remove(&key),
        };
        if before != side {
            self.edges.insert(key, side);
        }
    }

    /// The side of a key that is sent in a state which nobody told.
    fn unknown(&self) -> Option<Side> {
        self.plan.rows.edge.as_ref().map(|_| Side::Unknown)
    }

    /// Nothing is owed of a key. When it was last sent is known still.
    fn let_go(&mut self, key: Hash) {
        let Some(held) = self.held.remove(&key) else { return };
        // After a restart it is what is held that tells.
        let sent = held.due.saturating_sub(self.period());
        let sent = *self.sent.entry(key).or_insert(sent);
        self.rests.insert(key, Some(Bytes::copy_from_slice(&sent.to_le_bytes())));
    }

    fn mark_sent(&mut self, key: Hash, now: i64) {
        if self.throttle.is_none() {
            self.rests.insert(key, None);
            return;
        }
        self.sent.insert(key, now);
        self.rests.insert(key, Some(Bytes::copy_from_slice(&now.to_le_bytes())));
    }

    /// Forgets when keys were sent that may be sent again. It is written whenever there is something else to write.
    fn rest(&mut self, now: i64) {
        let period = self.period();
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
            sides: HashMap::new(),
            sent: HashMap::new(),
            held: HashMap::new(),
            owed: HashSet::new(),
            edges: HashMap::new(),
            rests: HashMap::new(),
            about: (None, false),
        }
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_key_longer_than_a_period() {
        let (mut gate, key) = (gate(Some(60)), hash(&[], &[Value::Int(1)]));
        let source: Key = Box::from([Value::Int(1)]);
        let (second, hour) = (1_000_000, 3_600_000_000);
        let mut pass = |now: i64| gate.pass(key, None, (Some(source.clone()), None), now);
        assert_eq!(pass(hour), Pass::Send);
        // It is an hour earlier.
        assert_eq!(pass(second), Pass::Hold);
        let stored = gate.rests.get(&key).cloned().flatten().expect("held");
        let mut gates = Gates { gates: HashMap::from([(0, gate)]) };
        assert!(gates.due(60 * second).is_empty());
        assert_eq!(gates.due(61 * second)[0].keys, std::slice::from_ref(&source));
        // It was held, and then it is two hours earlier.
        let mut again = self::gate(Some(60));
        again.take_up(MemoryKind::Held, key, &stored);
        let mut gates = Gates { gates: HashMap::from([(0, again)]) };
        assert_eq!(gates.due(-2 * hour)[0].keys, std::slice::from_ref(&source));
    }

    fn signs(rise: bool, fall: bool, tells_fall: bool) -> Option<Signs> {
        Some(Signs { rise, fall, tells_fall })
    }

    #[test]
    fn an_edge_is_told_once_and_again_only_after_it_was_left() {
        let (mut gate, key) = (gate(None), hash(&[], &[Value::Int(1)]));
        let mut sent = Vec::new();
        for low in [false, true, true, false, false, true] {
            sent.push(gate.pass(key, signs(low, !low, false), (None, None), 0) == Pass::Send);
        }
        assert_eq!(sent, [false, true, false, false, false, true]);
        let told = gate.pass(key, signs(false, true, true), (None, None), 0);
        assert_eq!(told, Pass::Send, "the way back is told where that is asked for");
        // Between the two ends nothing happens.
        assert_eq!(gate.pass(key, signs(false, false, true), (None, None), 0), Pass::Keep);
    }

    #[test]
    fn a_state_that_nobody_told_hides_no_edge() {
        let (mut gate, key) = (gate(None), hash(&[], &[Value::Int(1)]));
        let mut meet = |rise: bool, unknown: bool| {
            if unknown {
                gate.set(key, Some(Side::Unknown));
            }
            gate.pass(key, signs(rise, !rise, true), (None, None), 0) == Pass::Send
        };
        assert!(meet(true, false));
        assert!(!meet(true, false), "it is up");
        assert!(meet(true, true), "it may have been down");
        assert!(meet(false, true), "it may have been up");
        assert!(!meet(false, false), "it is down");
    }

    #[test]
    fn rows_that_were_refused_cross_their_edge_again() {
        let (gate, key) = (gate(None), [Value::Int(1)]);
        let mut gates = Gates { gates: HashMap::from([(0, gate)]) };
        let before: Vec<KeyState> = gates.state(0, &key).into_iter().collect();
        let pass =
            |gates: &mut Gates| gates.pass(0, &key, signs(true, false, false), (None, None), 0);
        assert_eq!(pass(&mut gates), Pass::Send);
        gates.restore(0, before);
        assert_eq!(pass(&mut gates), Pass::Send);
        assert_eq!(pass(&mut gates), Pass::Keep);
        gates.forget_all(0);
        assert_eq!(pass(&mut gates), Pass::Send, "it came back");
    }

    #[test]
    fn a_key_rests_after_it_was_sent_and_its_last_state_is_owed() {
        let (mut gate, key) = (gate(Some(60)), hash(&[], &[Value::Int(1)]));
        let source: Key = Box::from([Value::Int(1)]);
        let second = 1_000_000;
        assert_eq!(gate.pass(key, None, (Some(source.clone()), None), 0), Pass::Send);
        assert_eq!(gate.pass(key, None, (Some(source.clone()), None), second), Pass::Hold);
        assert_eq!(gate.pass(key, None, (Some(source.clone()), None), 2 * second), Pass::Hold);
        let stored = gate.rests.get(&key).cloned().flatten().expect("held");
        let mut gates = Gates { gates: HashMap::from([(0, gate)]) };
        assert!(gates.due(59 * second).is_empty());
        let due = gates.due(60 * second);
        assert_eq!(due[0].keys, std::slice::from_ref(&source));
        assert!(gates.due(61 * second).is_empty(), "owed once");
        // What was written is what is taken up.
        let mut again = self::gate(Some(60));
        again.take_up(MemoryKind::Held, key, &stored);
        assert_eq!(again.held.get(&key).map(|held| held.due), Some(60 * second));
        assert_eq!(again.pass(key, None, (Some(source), None), 70 * second), Pass::Hold);
    }
}
