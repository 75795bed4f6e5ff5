//! Mappings that wait for the copy of the other direction: what of it they follow.

use std::sync::Arc;

use tidelock_core::{CopyPhase, CopyRow, CopyTable, Key, Part, Result, TargetColumn, Value};

use super::{Regions, ended};
use crate::copy::order::Order;
use crate::mapping::MappingPlan;

/// How far the copy of the other direction has come, for a mapping that waits for its end: what our
/// source changes up to there is followed; beyond, the copy is about to overwrite it.
pub(super) struct Follow {
    /// The table that is copied: our target.
    table: CopyTable,
    /// What of it is copied, in our target's values.
    parts: Vec<Part>,
    alike: bool,
}

impl Regions {
    /// Whether a mapping waits for the copy of the other direction.
    pub fn is_held(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(|r| r.row.phase == CopyPhase::Held)
    }

    /// What a held mapping's row says of the other direction's copy.
    pub fn held_cursor(&self, mapping: &str) -> Option<String> {
        let region = self.regions.get(mapping)?;
        (region.row.phase == CopyPhase::Held && !region.row.cursor.is_empty())
            .then(|| region.row.cursor.clone())
    }

    /// The copy of the other direction has every row by now, and only looks for those that it must remove.
    pub fn follow_all(&mut self, mapping: &Arc<str>, plan: &MappingPlan) -> Option<CopyRow> {
        let key = plan.target.key.iter().filter_map(|&i| plan.target.columns.get(i));
        let columns: Vec<String> = key.map(|column| column.name.clone()).collect();
        self.follow(mapping, &Part::all(&columns), plan)
    }

    /// Takes note how far the copy of the other direction has come, over the columns of our target; an empty cursor says that
    /// it begins anew. Answers the row to be written; `None` if the mapping is not held.
    pub fn follow(
        &mut self,
        mapping: &Arc<str>,
        cursor: &str,
        plan: &MappingPlan,
    ) -> Option<CopyRow> {
        let region = self.regions.get_mut(mapping)?;
        if cursor.is_empty() && region.row.phase == CopyPhase::Held {
            // What it overwrites now may be what was followed until here.
            self.follows.remove(mapping);
            region.row.cursor.clear();
            return Some(region.row.clone());
        }
        let (columns, parts) = Part::parse(cursor)?;
        let keys: Vec<&TargetColumn> =
            plan.target.key.iter().filter_map(|&i| plan.target.columns.get(i)).collect();
        let same = keys.len() == columns.len() && keys.iter().all(|k| columns.contains(&k.name));
        if region.row.phase != CopyPhase::Held || !same {
            return None;
        }
        let alike = keys.iter().all(|k| self.target.orders_alike(&k.data_type));
        let table = CopyTable {
            name: plan.target.name.clone(),
            columns: columns.clone(),
            key: columns,
            filter: None,
        };
        self.follows.insert(mapping.clone(), Follow { table, parts, alike });
        region.row.cursor = cursor.to_owned();
        Some(region.row.clone())
    }

    /// Whether a change of a held mapping, by the key that its row has at our target, is of keys that
    /// the other direction has copied.
    pub async fn follows(
        &mut self,
        mapping: &str,
        key: &[Value],
        plan: &MappingPlan,
    ) -> Result<bool> {
        let Some(follow) = self.follows.get(mapping) else { return Ok(false) };
        // The key comes in the order of our mapping's key, the bound in that of the copy's.
        let ordered: Option<Key> = follow
            .table
            .key
            .iter()
            .map(|name| {
                let at =
                    plan.target.key.iter().position(|&i| {
                        plan.target.columns.get(i).is_some_and(|c| c.name == *name)
                    })?;
                key.get(at).cloned()
            })
            .collect();
        let Some(ordered) = ordered else { return Ok(false) };
        let mut order = Order {
            table: &follow.table,
            alike: follow.alike,
            judge: &mut self.target_judge,
            system: &self.target,
        };
        let part = order.part_of(&follow.parts, |part| part, &ordered).await?;
        match follow.parts.get(part) {
            Some(part) => order.is_reached(part, &ordered).await,
            None => Ok(false),
        }
    }

    /// The held mappings, and what their rows become when the hold ends.
    pub fn release(&mut self, mapping: &str) -> Option<CopyRow> {
        let region = self.regions.get(mapping)?;
        if region.row.phase != CopyPhase::Held {
            return None;
        }
        let mut row = region.row.clone();
        ended(&mut row);
        Some(row)
    }
}
