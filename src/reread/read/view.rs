//! Rows of a view: what is there now is written, what was there and is not is to be removed.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tidelock_core::{Error, Key, MemoryKind, MemoryScope, Result, Sink};

use super::found::{Found, FoundRow, likeness, recall};
use super::write::{call_groups, instead};
use super::{Gone, KEYS_A_READ, Removal, Rereads, Work};
use crate::apply::gate::{KeyState, Pass};
use crate::mapping::plan::ViewPlan;
use crate::mapping::{MappingPlan, Write};
use crate::reread::memory::{Hash, Known, hash};
use crate::reread::touched::TouchedBy;

impl Rereads {
    /// Leaves out what is not worth sending now. Answers what was known of the keys of the rest, in case the target refuses them.
    fn keep_back(
        &mut self,
        found: &mut Found,
        known: &mut HashMap<Bytes, Known>,
        work: &Work<'_>,
    ) -> Vec<KeyState> {
        let number = work.number;
        let mut before = Vec::new();
        let now = crate::apply::now_micros();
        let mut kept = HashSet::new();
        found.kept_rows = 0;
        found.rows.retain(|at, row| {
            let state = self.gates.state(number, &row.key);
            if work.force || work.owed.contains(&row.group) {
                self.gates.settle(number, &row.key, row.signs);
            } else {
                let told = (Some(row.told.clone()), None);
                if self.gates.pass(number, &row.key, row.signs, told, now) != Pass::Send {
                    // It is neither sent nor gone.
                    known.remove(at);
                    kept.insert(row.group);
                    found.kept_rows += 1;
                    return false;
                }
            }
            before.extend(state);
            true
        });
        found.kept = kept;
        before
    }

    /// The same of groups, whose rows are judged one by one. All of a group is read when one of its rows is touched, so a row that is as it was sent
    /// is none of the throttle's business; and one that is new in its group is sent as any that comes, whenever its key was sent before: what
    /// it left with the other group is removed now. Also answers the groups of which rows were owed.
    async fn keep_back_rows(
        &mut self,
        sink: &mut dyn Sink,
        (plan, view): (&MappingPlan, &ViewPlan),
        found: &mut Found,
        known: &mut HashMap<Bytes, Known>,
        work: &Work<'_>,
    ) -> Result<(Vec<KeyState>, HashSet<Hash>)> {
        let number = work.number;
        let own = |row: &FoundRow| Bytes::copy_from_slice(&hash(&[], row.key.iter()));
        let mut moved: HashSet<Bytes> = HashSet::new();
        if view.moves && !work.force {
            let new = found.rows.iter().filter(|(at, _)| !known.contains_key(*at));
            let new: Vec<Bytes> = new.map(|(_, row)| own(row)).collect();
            let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::Owner };
            for some in new.chunks(KEYS_A_READ) {
                moved.extend(sink.recall(&scope, some).await?.into_iter().map(|(key, _)| key));
            }
        }
        let now = crate::apply::now_micros();
        let (mut before, mut owed) = (Vec::new(), HashSet::new());
        let (mut kept, mut left) = (HashSet::new(), HashSet::new());
        let mut kept_rows = 0;
        found.rows.retain(|at, row| {
            let state = self.gates.state(number, &row.key);
            let asked = self.gates.take_owed(number, &row.key);
            if asked {
                owed.insert(row.group);
            }
            let (gates, told) = (&mut self.gates, (Some(row.told.clone()), None));
            let pass = match known.get(at) {
                _ if asked || work.force || work.owed.contains(&row.group) => {
                    gates.settle(number, &row.key, row.signs);
                    Pass::Send
                }
                None if moved.contains(&own(row)) => {
                    gates.begin(number, &row.key, row.signs, now);
                    Pass::Send
                }
                None => {
                    gates.forget(number, &row.key);
                    gates.pass(number, &row.key, row.signs, told, now)
                }
                Some(known) if known.sent == row.sent(plan) => {
                    gates.meet(number, &row.key, row.signs);
                    Pass::Send
                }
                Some(_) => gates.pass(number, &row.key, row.signs, told, now),
            };
            if pass != Pass::Send {
                // It is neither sent nor gone.
                known.remove(at);
                kept.insert(row.group);
                kept_rows += 1;
                return false;
            }
            left.insert(row.group);
            before.extend(state);
            true
        });
        found.kept = kept.difference(&left).copied().collect();
        found.kept_rows = kept_rows;
        Ok((before, owed))
    }

    /// Rows of a view. Answers those that are to be removed.
    pub(super) async fn view(
        &mut self,
        sink: &mut dyn Sink,
        view: &ViewPlan,
        by: TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<Option<Removal>> {
        let TouchedBy { plan, keys, waited_since: waited, force, .. } = by;
        let Some(table) = plan.copy.clone() else {
            return Err(Error::bug("a view without its key"));
        };
        let keys: Vec<Key> = keys.into_values().collect();
        let mut gone = Vec::new();
        for some in keys.chunks(KEYS_A_READ) {
            let pieces = self.read(sink, &table, &view.by, some, work).await?;
            let mut found = Found::default();
            for piece in &pieces {
                found.take(self.bind(&plan, &piece.table)?, view, piece)?;
            }
            // A key that a collation of the source calls equal to one that was found: only what is remembered of it is gone.
            let (mut absent, mut respelt): (Vec<&Key>, Vec<&Key>) = (Vec::new(), Vec::new());
            for key in some {
                let exact = hash(&[], key.iter());
                if found.groups.contains(&exact) {
                    continue;
                }
                if found.likely.contains(&likeness(key)) {
                    let one = std::slice::from_ref(key);
                    let alone = self.read(sink, &table, &view.by, one, work).await?;
                    if alone.iter().any(|piece| !piece.rows.is_empty()) {
                        respelt.push(key);
                        continue;
                    }
                }
                absent.push(key);
            }
            let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
            if let Some(call) = plan.call.clone().filter(|call| call.rows.is_some()) {
                let groups = found.groups_of(&absent, &plan, view)?;
                let refused =
                    call_groups(sink, &scope, (&plan, &call), groups, force, work).await?;
                work.refused(&plan, refused, some.to_vec(), waited)?;
                continue;
            }
            let missed = absent.iter().chain(&respelt).copied();
            let mut known = recall(sink, &scope, view, &found, missed).await?;
            let (before, owed) = match (self.gates.has(work.number), view.groups) {
                (false, _) => Default::default(),
                (true, false) => (self.keep_back(&mut found, &mut known, work), HashSet::default()),
                (true, true) => {
                    let of = (&*plan, view);
                    self.keep_back_rows(sink, of, &mut found, &mut known, work).await?
                }
            };
            let kept = std::mem::take(&mut found.kept);
            let kept_rows = found.kept_rows;
            let likely = std::mem::take(&mut found.likely);
            let changed = found.changed(&plan, &mut known, force, kept_rows)?;
            // What is still known and was not found has vanished.
            let mut vanished = Vec::new();
            let tellers: HashMap<Hash, &Key> = match known.is_empty() {
                true => HashMap::new(),
                false => some.iter().map(|key| (hash(&[], key.iter()), key)).collect(),
            };
            for (at, known) in known {
                let mut group = Hash::default();
                group.copy_from_slice(at.get(..16).unwrap_or(&[0; 16]));
                let told_by = tellers.get(&group).copied().cloned().unwrap_or_default();
                vanished.push(Gone {
                    key: known.key,
                    forget: Some(at),
                    group,
                    told_by,
                    removed: false,
                });
            }
            let remembered: HashSet<Hash> = vanished.iter().map(|gone| gone.group).collect();
            for key in absent {
                let group = hash(&[], key.iter());
                if view.groups || remembered.contains(&group) {
                    continue;
                }
                let shape = match pieces.first() {
                    Some(piece) => piece.table.clone(),
                    None => return Err(Error::bug("a question for keys had no answer")),
                };
                if let Some(target) = self.bind(&plan, &shape)?.key_alone(&shape, &view.by, key)? {
                    let told_by = key.clone();
                    vanished.push(Gone {
                        key: target,
                        forget: None,
                        group,
                        told_by,
                        removed: false,
                    });
                }
            }
            let count = changed.writes.len();
            let wrote = keys_of(&changed.writes);
            let refused =
                instead(sink, &plan, view, changed.writes, &mut vanished, &likely).await?;
            if let Some(error) = refused {
                self.gates.restore(work.number, before);
                // Which rows of a group are owed is not kept with what waits: then all that come out changed are.
                work.owed.extend(owed);
                // What is kept back has nothing to wait for.
                let is_sent = |key: &&Key| !kept.contains(&hash(&[], key.iter()));
                let keys = some.iter().filter(is_sent).cloned().collect();
                work.refused(&plan, Some(error), keys, waited)?;
                continue;
            }
            for (kind, fate, rows) in changed.counts {
                work.done.tally.add_many(work.number, kind, fate, rows);
            }
            if count > 0 {
                work.done.wrote.push((plan.name.clone(), wrote));
                sink.remember(&scope, &changed.put, &[]).await?;
                if view.moves {
                    let owner = MemoryScope { kind: MemoryKind::Owner, ..scope.clone() };
                    sink.remember(&owner, &changed.owners, &[]).await?;
                }
            }
            gone.append(&mut vanished);
        }
        Ok((!gone.is_empty()).then_some(Removal { number: work.number, plan, gone, waited }))
    }
}

fn keys_of(writes: &[Write]) -> Vec<[u64; 2]> {
    writes.iter().map(|write| write.keys).collect()
}
