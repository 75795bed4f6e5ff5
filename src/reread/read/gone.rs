//! Rows of a view that have vanished unseen: what is remembered of it is asked for at the source.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{Error, Key, KeyRange, MemoryKind, MemoryScope, Position, Result, Sink};

use super::found::Group;
use super::write::{call_groups, remove};
use super::{Blamed, Gone, KEYS_A_READ, Removal, Reread, Rereads, Waiting, Work, pinging};
use crate::apply::gate::Memories;
use crate::mapping::MappingPlan;
use crate::mapping::plan::ViewPlan;
use crate::reread::memory::{Hash, Known, hash};
use crate::reread::touched::Touched;

/// Remembered rows that are looked for in all of a view at a time.
const REMEMBERED_AT_ONCE: usize = 300_000;

impl Rereads {
    /// Reads again all rows of a view that are remembered, so that those which have vanished unseen are removed; answers what waits.
    pub async fn gone(
        &mut self,
        sink: &mut dyn Sink,
        number: usize,
        plan: &Arc<MappingPlan>,
        reached: &Position,
    ) -> std::result::Result<Vec<Waiting>, Blamed> {
        let Some(view) = &plan.view else {
            return Err(Error::bug("a table was taken for a view").into());
        };
        if !plan.tells_view_key(view) {
            return self.gone_of_all(sink, (number, plan, view), reached).await;
        }
        let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
        let (mut after, mut waiting) = (None, Vec::new());
        loop {
            let stored = sink.recall_all(&scope, after.as_ref(), KEYS_A_READ).await?;
            let mut touched = Touched::default();
            let by = touched.of(number, plan);
            for known in stored.iter().filter_map(|(_, bytes)| Known::decode(bytes)) {
                if let Some(key) = plan.view_key(view, &known.key)? {
                    by.key(key);
                }
            }
            if !by.keys.is_empty() {
                waiting.append(&mut self.run(sink, touched, reached).await?.waiting);
            }
            if stored.len() < KEYS_A_READ {
                return Ok(waiting);
            }
            after = stored.last().map(|(at, _)| at.clone());
        }
    }

    /// The same where what is remembered does not tell the keys of the view: all of the view is read, for so many remembered rows at a time.
    async fn gone_of_all(
        &mut self,
        sink: &mut dyn Sink,
        (number, plan, view): (usize, &Arc<MappingPlan>, &ViewPlan),
        reached: &Position,
    ) -> std::result::Result<Vec<Waiting>, Blamed> {
        let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
        let mut work = Work {
            number,
            upto: reached.clone(),
            ahead: false,
            reached,
            delivered: &[],
            owed: HashSet::new(),
            force: true,
            done: Reread::default(),
        };
        let mut after = None;
        loop {
            let mut known: HashMap<Bytes, Known> = HashMap::new();
            let mut more = true;
            while more && known.len() < REMEMBERED_AT_ONCE {
                let stored = sink.recall_all(&scope, after.as_ref(), KEYS_A_READ).await?;
                more = stored.len() == KEYS_A_READ;
                after = stored.last().map(|(at, _)| at.clone()).or(after);
                let decoded = stored.into_iter();
                known.extend(decoded.filter_map(|(at, bytes)| Some((at, Known::decode(&bytes)?))));
            }
            if !known.is_empty() {
                self.look(sink, &mut work).await?;
                self.strike_out(sink, plan, view, &mut known).await?;
                self.remove_known(sink, plan, view, known, &mut work).await?;
            }
            if !more {
                break;
            }
        }
        if let Some(copier) = &mut self.copier {
            copier.close_snapshot().await?;
        }
        for Memories { scope, put, gone } in self.gates.take() {
            sink.remember(&scope, &put, &gone).await?;
        }
        Ok(work.done.waiting)
    }

    /// Takes out what the view has, in the open snapshot.
    async fn strike_out(
        &mut self,
        sink: &mut dyn Sink,
        plan: &Arc<MappingPlan>,
        view: &ViewPlan,
        known: &mut HashMap<Bytes, Known>,
    ) -> Result<()> {
        let Some(table) = plan.copy.clone() else {
            return Err(Error::bug("a view without its key"));
        };
        let whole = plan.call.as_ref().is_some_and(|call| call.rows.is_some());
        let mut after: Option<Key> = None;
        loop {
            let bound = self.copier().await?.bound(&table, after.as_ref(), KEYS_A_READ);
            let upto = pinging(sink, bound).await??;
            let range = KeyRange { after: after.take(), upto: upto.clone() };
            let reading = self.copier().await?.read(&table, &range, usize::MAX);
            let piece = pinging(sink, reading).await??;
            let places = view.places(&piece.table)?;
            let bound = self.bind(plan, &piece.table)?;
            for row in &piece.rows {
                if !bound.takes(row)? {
                    continue;
                }
                let group = hash(&[], places.iter().filter_map(|&at| row.0.get(at)));
                let at = match whole {
                    true => Bytes::copy_from_slice(&group),
                    false => view.remembered_at(group, &bound.key_of(row)?.into()),
                };
                known.remove(&at);
            }
            after = upto;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes remembered rows, or groups, that the view does not have any more.
    async fn remove_known(
        &mut self,
        sink: &mut dyn Sink,
        plan: &Arc<MappingPlan>,
        view: &ViewPlan,
        known: HashMap<Bytes, Known>,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let group_of = |at: &Bytes| {
            let mut group = Hash::default();
            group.copy_from_slice(at.get(..16).unwrap_or(&[0; 16]));
            group
        };
        if let Some(call) = plan.call.clone().filter(|call| call.rows.is_some()) {
            let places = plan.group_places(&view.by);
            let empty = |(at, known): (Bytes, Known)| Group {
                hash: group_of(&at),
                key: places.iter().copied().zip(known.key).collect(),
                rows: Vec::new(),
            };
            let groups = known.into_iter().map(empty).collect();
            let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
            let refused = call_groups(sink, &scope, (plan, &call), groups, true, work).await?;
            return work.refused(plan, refused, Vec::new(), None);
        }
        let vanished = |(at, known): (Bytes, Known)| Gone {
            key: known.key,
            group: group_of(&at),
            forget: Some(at),
            told_by: Key::default(),
            removed: false,
        };
        let gone = known.into_iter().map(vanished).collect();
        let removal = Removal { number: work.number, plan: plan.clone(), gone, waited: None };
        remove(sink, &mut self.gates, removal, work).await
    }
}
