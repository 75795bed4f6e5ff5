//! The keys that the queries of tracks give: asked for in parts, however many values they are asked with and however many keys they give.
//!
//! What one transaction touches may be more than is to be kept here. Values beyond that are in the target's memory, and so are the keys that
//! they lead to; both are used up before the commit, so a crash leaves none of them. Where a query has several parameters, each part of
//! the one is asked with each part of the other: the values are not paired.

use bytes::Bytes;
use tidelock_core::{
    DataType, Error, Key, MemoryKind, MemoryScope, Result, Side, Sink, TrackQuery, Value,
};

use super::wait::{put_off, put_off_values};
use super::{Rereads, pinging};
use crate::apply::KEYS_MAX;
use crate::mapping::plan::ViewPlan;
use crate::reread::memory::{Pending, decode_key, hash};
use crate::reread::touched::{TouchedBy, asked_with};

/// Values of a parameter that are asked with at once: far below what a statement may be long.
const VALUES_A_QUESTION: usize = 5_000;

/// The parameters of a query with their types and values.
type Lists = Vec<(String, DataType, Vec<Value>)>;

impl Rereads {
    /// Asks the queries of a view's tracks; the keys are those of `by` then, or in the target's memory.
    pub(super) async fn ask(
        &mut self,
        sink: &mut dyn Sink,
        view: &ViewPlan,
        by: &mut TouchedBy,
    ) -> Result<()> {
        let remembered = by.asked;
        if remembered {
            // A part of one list may be there, and another here.
            let rest = by.take_values()?;
            put_off_values(sink, &by.plan, &rest).await?;
        }
        for (number, lists) in std::mem::take(&mut by.queries) {
            let Some(query) = view.queries.get(number) else {
                return Err(Error::bug("a track's query is not in the plan"));
            };
            let lists: Lists = lists
                .into_iter()
                .map(|v| (v.column, v.data_type, v.values.into_values().collect()))
                .collect();
            let mut afters: Vec<Option<Bytes>> = vec![None; lists.len()];
            let mut part: Vec<usize> = vec![0; lists.len()];
            let mut asked = Lists::new();
            // The parts of the lists as digits of a number, the last of which moves first.
            let mut from = 0;
            loop {
                asked.truncate(from);
                for nth in from..lists.len() {
                    let (column, data_type, values) = &lists[nth];
                    let values = match remembered {
                        true => recalled(sink, by, (number, nth), &mut afters[nth]).await?,
                        false => {
                            let mut parts = values.chunks(VALUES_A_QUESTION);
                            parts.nth(part[nth]).unwrap_or_default().to_vec()
                        }
                    };
                    asked.push((column.clone(), data_type.clone(), values));
                }
                self.question(sink, view, query, (&asked, by)).await?;
                let more = (0..lists.len()).rev().find(|&nth| match remembered {
                    true => afters[nth].is_some(),
                    false => (part[nth] + 1) * VALUES_A_QUESTION < lists[nth].2.len(),
                });
                let Some(nth) = more else { break };
                part[nth] += 1;
                part[nth + 1..].fill(0);
                from = nth;
            }
        }
        if remembered {
            forget(sink, by).await?;
        }
        Ok(())
    }

    /// Asks a query with some values.
    async fn question(
        &mut self,
        sink: &mut dyn Sink,
        view: &ViewPlan,
        query: &TrackQuery,
        (values, by): (&Lists, &mut TouchedBy),
    ) -> Result<()> {
        let asking = self.copier().await?.track_keys(query, values);
        let found = match pinging(sink, asking).await? {
            Ok(found) => found,
            Err(error) => {
                self.copier = None;
                return Err(error.of(Side::Source));
            }
        };
        for key in found {
            if let Some(key) = view.key(&key)? {
                by.keys.entry(hash(&[], key.iter())).or_insert(key);
            }
            if by.keys.len() >= KEYS_MAX {
                spill(sink, by).await?;
            }
        }
        Ok(())
    }
}

/// The next values of a query's parameter that are in the target's memory; `after` is nothing when they are the last, so that it begins anew.
async fn recalled(
    sink: &mut dyn Sink,
    by: &TouchedBy,
    (query, parameter): (usize, usize),
    after: &mut Option<Bytes>,
) -> Result<Vec<Value>> {
    let scope = MemoryScope { mapping: by.plan.name.clone(), kind: MemoryKind::Asked };
    let all = asked_with(query, parameter);
    let from = after.take().unwrap_or_else(|| Bytes::copy_from_slice(&all));
    let mut stored = sink.recall_all(&scope, Some(&from), VALUES_A_QUESTION).await?;
    let full = stored.len() == VALUES_A_QUESTION;
    stored.retain(|(at, _)| at.starts_with(&all));
    if full && stored.len() == VALUES_A_QUESTION {
        *after = stored.last().map(|(at, _)| at.clone());
    }
    Ok(stored.iter().filter_map(|(_, bytes)| decode_key(bytes)?.first().cloned()).collect())
}

/// Forgets what the queries were asked with.
async fn forget(sink: &mut dyn Sink, by: &TouchedBy) -> Result<()> {
    let scope = MemoryScope { mapping: by.plan.name.clone(), kind: MemoryKind::Asked };
    loop {
        let stored = sink.recall_all(&scope, None, VALUES_A_QUESTION).await?;
        if stored.is_empty() {
            return Ok(());
        }
        let gone: Vec<Bytes> = stored.into_iter().map(|(at, _)| at).collect();
        sink.remember(&scope, &[], &gone).await?;
    }
}

/// Leaves the keys to the target's memory.
async fn spill(sink: &mut dyn Sink, by: &mut TouchedBy) -> Result<()> {
    let (owed, force) = (std::mem::take(&mut by.owed), by.force);
    let keys = std::mem::take(&mut by.keys).into_iter().map(|(hash, key): (_, Key)| {
        let owed = owed.contains(&hash);
        Pending { key, owed, force }
    });
    by.spilled = true;
    let keys = keys.collect();
    put_off(sink, &by.plan, keys).await
}
