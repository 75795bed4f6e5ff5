//! Counting rows by what became of them, published after the commit that made it so.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics::Counter;
use tidelock_core::OpKind;

use crate::flow::FlowShared;
use crate::flow::shared::MappingShared;

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is at the target.
    Applied,
    /// It came from there.
    Echo,
    /// A rule of the mapping leaves it out, or it changes nothing that is mapped.
    Filtered,
    /// Its mapping is stopped.
    Parked,
    /// A later change, or a copy, has what it brought.
    Superseded,
}

const FATES: [(Fate, &str); 5] = [
    (Fate::Applied, "applied"),
    (Fate::Echo, "echo"),
    (Fate::Filtered, "filtered"),
    (Fate::Parked, "parked"),
    (Fate::Superseded, "superseded"),
];
const KINDS: [OpKind; 3] = [OpKind::Insert, OpKind::Update, OpKind::Delete];

type Counts = [[u64; KINDS.len()]; FATES.len()];

/// Changes counted and not yet published, by the number of their mapping.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Vec<Counts>,
    touched: Vec<usize>,
}

impl Tally {
    /// Counts one change.
    pub fn add(&mut self, mapping: usize, kind: OpKind, fate: Fate) {
        self.add_many(mapping, kind, fate, 1);
    }

    /// Counts changes.
    pub fn add_many(&mut self, mapping: usize, kind: OpKind, fate: Fate, many: u64) {
        if many > 0
            && let Some(count) = self.count(mapping, kind, fate)
        {
            *count += many;
        }
    }

    /// A change that was counted as applied is replaced by a later one.
    pub fn supersede(&mut self, mapping: usize, kind: OpKind) {
        if let Some(count) = self.count(mapping, kind, Fate::Applied) {
            *count = count.saturating_sub(1);
        }
        self.add(mapping, kind, Fate::Superseded);
    }

    fn count(&mut self, mapping: usize, kind: OpKind, fate: Fate) -> Option<&mut u64> {
        if self.counts.len() <= mapping {
            self.counts.resize(mapping + 1, Counts::default());
        }
        let counts = self.counts.get_mut(mapping)?;
        if counts.iter().flatten().all(|count| *count == 0) {
            self.touched.push(mapping);
        }
        counts.get_mut(fate as usize)?.get_mut(kind as usize)
    }

    /// Takes over what another has counted.
    pub fn absorb(&mut self, other: &mut Tally) {
        for (mapping, counts) in other.drain() {
            for (fate, _) in FATES {
                for kind in KINDS {
                    let more = counts[fate as usize][kind as usize];
                    if more > 0
                        && let Some(count) = self.count(mapping, kind, fate)
                    {
                        *count += more;
                    }
                }
            }
        }
    }

    fn drain(&mut self) -> Vec<(usize, Counts)> {
        let touched = std::mem::take(&mut self.touched);
        let take = |mapping: usize| {
            self.counts.get_mut(mapping).map(|counts| (mapping, std::mem::take(counts)))
        };
        touched.into_iter().filter_map(take).collect()
    }
}

/// The counters of a mapping, found once.
struct Handles {
    mapping: Arc<str>,
    shared: Option<Arc<MappingShared>>,
    rows: [[Option<Counter>; KINDS.len()]; FATES.len()],
    captured: [Option<Counter>; KINDS.len()],
}

/// Where counts are published: the metrics, and what `status` shows.
pub struct Counters {
    flow: String,
    handles: Vec<Handles>,
}

impl Counters {
    /// Of the mappings by their numbers.
    pub fn new(flow: &str, mappings: impl Iterator<Item = Arc<str>>, shared: &FlowShared) -> Self {
        let known = shared.mappings();
        let handles = mappings.map(|mapping| Handles {
            shared: known.get(&*mapping).cloned(),
            mapping,
            rows: Default::default(),
            captured: Default::default(),
        });
        Counters { flow: flow.to_owned(), handles: handles.collect() }
    }

    /// Publishes counts and forgets them.
    pub fn publish(&mut self, tally: &mut Tally) {
        for (mapping, counts) in tally.drain() {
            let Some(handles) = self.handles.get_mut(mapping) else { continue };
            for (fate, word) in FATES {
                for kind in KINDS {
                    let count = counts[fate as usize][kind as usize];
                    if count > 0 {
                        handles.publish(&self.flow, kind, (fate, word), count);
                    }
                }
            }
        }
    }
}

impl Handles {
    fn publish(
        &mut self,
        flow: &str,
        kind: OpKind,
        (fate, word): (Fate, &'static str),
        count: u64,
    ) {
        let Handles { mapping, shared, rows, captured } = self;
        rows[fate as usize][kind as usize]
            .get_or_insert_with(|| {
                metrics::counter!("tidelock_rows_total", "flow" => flow.to_owned(),
                    "mapping" => mapping.to_string(), "op" => kind.as_str(), "result" => word)
            })
            .increment(count);
        captured[kind as usize]
            .get_or_insert_with(|| {
                metrics::counter!("tidelock_rows_captured_total", "flow" => flow.to_owned(),
                    "mapping" => mapping.to_string(), "op" => kind.as_str())
            })
            .increment(count);
        let Some(shared) = shared else { return };
        let counter = match fate {
            Fate::Applied | Fate::Superseded => &shared.counters.applied[kind as usize],
            Fate::Parked => &shared.counters.parked,
            Fate::Echo | Fate::Filtered => &shared.counters.filtered,
        };
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_is_superseded_and_the_balance_holds() {
        let (mut tally, mut all) = (Tally::default(), Tally::default());
        tally.add(2, OpKind::Insert, Fate::Applied);
        tally.add(2, OpKind::Update, Fate::Applied);
        tally.supersede(2, OpKind::Insert);
        tally.add(0, OpKind::Delete, Fate::Echo);
        all.absorb(&mut tally);
        assert!(tally.drain().is_empty());
        let counts: Vec<(usize, Counts)> = all.drain();
        let of = |mapping, fate, kind| {
            counts.iter().find(|(m, _)| *m == mapping).map(|(_, c)| c[fate as usize][kind as usize])
        };
        assert_eq!(of(2, Fate::Applied, OpKind::Insert), Some(0));
        assert_eq!(of(2, Fate::Superseded, OpKind::Insert), Some(1));
        assert_eq!(of(2, Fate::Applied, OpKind::Update), Some(1));
        assert_eq!(of(0, Fate::Echo, OpKind::Delete), Some(1));
        assert!(all.drain().is_empty());
    }
}
