//! What a view gave for some keys, and what of it is not at the target yet.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tidelock_core::{
    Code, Error, Key, MemoryScope, OpKind, Piece, Result, Sink, Value, copy::key_order,
};

use crate::apply::tally::Fate;
use crate::mapping::plan::ViewPlan;
use crate::mapping::rules::Signs;
use crate::mapping::{Becomes, BoundPlan, MappingPlan, Write};
use crate::reread::memory::{Hash, Known, hash};

/// What a view gave for some keys.
#[derive(Default)]
pub(super) struct Found {
    /// Rows by where they are remembered.
    pub(super) rows: HashMap<Bytes, FoundRow>,
    /// The keys that have rows, exactly and about.
    pub(super) groups: HashSet<Hash>,
    pub(super) likely: HashSet<u64>,
    /// The keys of which nothing is sent now, and how many rows are not.
    pub(super) kept: HashSet<Hash>,
    pub(super) kept_rows: u64,
}

pub(super) struct FoundRow {
    pub(super) key: Key,
    pub(super) group: Hash,
    /// The view's key, as the view has it.
    pub(super) told: Key,
    pub(super) signs: Option<Signs>,
    pub(super) write: Write,
}

impl FoundRow {
    /// What is remembered of it once it is sent.
    pub(super) fn sent(&self, plan: &MappingPlan) -> Hash {
        hash(plan.rule.as_bytes(), self.write.made_of())
    }
}

/// A group of rows, for a routine that takes it whole.
pub(super) struct Group {
    pub(super) hash: Hash,
    /// The group's cells at the target, by their places in a row.
    pub(super) key: Vec<(usize, Value)>,
    pub(super) rows: Vec<Write>,
}

pub(super) struct Changed {
    pub(super) writes: Vec<Write>,
    pub(super) put: Vec<(Bytes, Bytes)>,
    pub(super) owners: Vec<(Bytes, Bytes)>,
    pub(super) counts: [(OpKind, Fate, u64); 3],
}

impl Found {
    pub(super) fn take(
        &mut self,
        bound: &mut BoundPlan,
        view: &ViewPlan,
        piece: &Piece,
    ) -> Result<()> {
        let places = view.places(&piece.table)?;
        for row in &piece.rows {
            if !bound.takes(row)? {
                continue;
            }
            let key: Vec<Value> = places.iter().filter_map(|&at| row.0.get(at).cloned()).collect();
            let group = hash(&[], key.iter());
            self.groups.insert(group);
            self.likely.insert(likeness(&key));
            let Becomes::Write(write) = bound.now(row)? else { continue };
            let target: Key = bound.key_of(row)?.into();
            let at = view.remembered_at(group, &target);
            let (told, signs) = (key.into(), bound.signs_of(row)?);
            let found = FoundRow { key: target, group, told, signs, write };
            if self.rows.insert(at, found).is_some() {
                return Err(Error::data(
                    Code::KeyConflict,
                    format!("{} gives more than one row for a key", bound.plan().source),
                )
                .with_hint(
                    "let the view give one row a key, or name what tells its rows apart by row_key",
                ));
            }
        }
        Ok(())
    }

    /// The rows as whole groups, and an empty one for each key that has none.
    pub(super) fn groups_of(
        self,
        absent: &[&Key],
        plan: &MappingPlan,
        view: &ViewPlan,
    ) -> Result<Vec<Group>> {
        let mut groups: HashMap<Hash, Group> = HashMap::new();
        let empty = |hash: Hash, told: &Key| -> Result<Group> {
            Ok(Group { hash, key: plan.group_cells(&view.by, told)?, rows: Vec::new() })
        };
        for key in absent {
            let hash = hash(&[], key.iter());
            groups.insert(hash, empty(hash, key)?);
        }
        let mut rows: Vec<FoundRow> = self.rows.into_values().collect();
        rows.sort_by(|a, b| order(&a.key, &b.key));
        for row in rows {
            let group = match groups.entry(row.group) {
                Entry::Occupied(group) => group.into_mut(),
                Entry::Vacant(place) => place.insert(empty(row.group, &row.told)?),
            };
            group.rows.push(row.write);
        }
        Ok(groups.into_values().collect())
    }

    /// What of it is not at the target yet; takes what is found out of what is known.
    pub(super) fn changed(
        self,
        plan: &MappingPlan,
        known: &mut HashMap<Bytes, Known>,
        force: bool,
        kept: u64,
    ) -> Result<Changed> {
        let mut changed = Changed::default();
        let (mut same, mut new, mut updated) = (kept, 0, 0);
        for (at, row) in self.rows {
            let sent = row.sent(plan);
            match known.remove(&at) {
                Some(before) if before.sent == sent && !force => {
                    same += 1;
                    continue;
                }
                Some(_) => updated += 1,
                None => new += 1,
            }
            changed.owners.push((
                Bytes::copy_from_slice(&hash(&[], row.key.iter())),
                Bytes::copy_from_slice(&row.group),
            ));
            changed.put.push((at, Known { sent, key: row.key }.encode()?));
            changed.writes.push(row.write);
        }
        changed.counts = [
            (OpKind::Update, Fate::Filtered, same),
            (OpKind::Update, Fate::Applied, updated),
            (OpKind::Insert, Fate::Applied, new),
        ];
        Ok(changed)
    }
}

impl Default for Changed {
    fn default() -> Changed {
        Changed {
            writes: Vec::new(),
            put: Vec::new(),
            owners: Vec::new(),
            counts: [(OpKind::Update, Fate::Filtered, 0); 3],
        }
    }
}

/// An order of keys that is the same at each reading.
pub(super) fn order(a: &Key, b: &Key) -> Ordering {
    key_order(a, b).unwrap_or_else(|| hash(&[], a.iter()).cmp(&hash(&[], b.iter())))
}

/// What is remembered of the rows found, and of those that may have vanished.
pub(super) async fn recall(
    sink: &mut dyn Sink,
    scope: &MemoryScope,
    view: &ViewPlan,
    found: &Found,
    missed: impl Iterator<Item = &Key>,
) -> Result<HashMap<Bytes, Known>> {
    let mut groups: HashSet<Hash> = found.groups.clone();
    groups.extend(missed.map(|key| hash(&[], key.iter())));
    let keys: Vec<Bytes> = groups.iter().map(|group| Bytes::copy_from_slice(group)).collect();
    let stored = match view.groups {
        true => sink.recall_prefix(scope, &keys).await?,
        false => sink.recall(scope, &keys).await?,
    };
    Ok(stored.into_iter().filter_map(|(at, bytes)| Some((at, Known::decode(&bytes)?))).collect())
}

/// Equal for keys that a collation may call equal.
pub(super) fn likeness(key: &[Value]) -> u64 {
    crate::mapping::row::likeness(key.iter())
}
