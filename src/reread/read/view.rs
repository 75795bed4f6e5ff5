//! Rows of a view: what is there now is written, what was there and is not is to be removed.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tidelock_core::{Error, Key, MemoryKind, MemoryScope, Result, Sink};

use super::found::{Found, likeness, recall};
use super::write::{call_groups, instead};
use super::{Gone, KEYS_A_READ, Removal, Rereads, Work};
use crate::apply::gate::{KeyState, Pass};
use crate::mapping::Write;
use crate::mapping::plan::ViewPlan;
use crate::reread::memory::{Hash, Known, hash};
use crate::reread::touched::TouchedBy;

impl Rereads {
    /// Leaves out what is not worth sending now. Answers what was known of the keys of the rest, in case the target refuses them.
    fn keep_back(
        &mut self,
        view: &ViewPlan,
        found: &mut Found,
        known: &mut HashMap<Bytes, Known>,
        work: &Work<'_>,
    ) -> Vec<KeyState> {
        let number = work.number;
        let mut before = Vec::new();
        if !self.gates.has(number) || view.groups {
            return before;
        }
        let now = crate::apply::now_micros();
        let mut kept = HashSet::new();
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
                    return false;
                }
            }
            before.extend(state);
            true
        });
        found.kept = kept;
        before
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
            let before = self.keep_back(view, &mut found, &mut known, work);
            let kept = std::mem::take(&mut found.kept);
            let likely = std::mem::take(&mut found.likely);
            let changed = found.changed(&plan, &mut known, force, kept.len() as u64)?;
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
