//! Steps: what is to be done at the target, in its order, and which of its deletes may come later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidelock_core::{Call, TableName, Value, WriteBatch, WriteOp};

use super::{Keys, batches_of, key_cell};
use crate::apply::place::Places;
use crate::mapping::lookups::Wait;
use crate::mapping::row::{LeftBehind, likeness};
use crate::mapping::{MappingPlan, Write};

/// What is to be done at the target, in its order.
#[derive(Debug)]
pub enum Step {
    /// Rows to be written.
    Write(Vec<WriteBatch>),
    /// Rows to be written when what they wait for has been looked up.
    Sought(Sought),
    /// Routines to be called.
    Call(Vec<Call>),
    /// A row that moves to another key, where one that has ended may be.
    Moved(Arc<MappingPlan>, Write, LeftBehind),
    /// A row that a routine is called for when what it waits for has been looked up.
    SoughtCall(Arc<MappingPlan>, Write),
}

/// A batch, and what its rows wait for.
#[derive(Debug)]
pub struct Sought {
    /// The rows.
    pub batch: WriteBatch,
    /// Each with the number of its row.
    pub waits: Vec<(usize, Wait)>,
}

impl Sought {
    pub(super) fn push(&mut self, row: Box<[Value]>, waits: Vec<Wait>) {
        let at = self.batch.rows.len();
        self.waits.extend(waits.into_iter().map(|wait| (at, wait)));
        self.batch.rows.push(row);
    }
}

impl Step {
    /// Takes deletes off that are to come after what is read again, whose tables `touched` are: what is read again may point to
    /// what goes. These are the deletes from tables that it may point to, unless something behind them must not come first; and, with
    /// `last`, of those that come last all but those from tables that point to it. Of its own tables what is read again has the last word: theirs stay.
    pub fn split_deletes(
        steps: &mut [Step],
        touched: &HashSet<TableName>,
        places: &Places,
        mut last: bool,
    ) -> Vec<WriteBatch> {
        let above = places.above(touched);
        let (mut taken, mut behind) = (Vec::new(), Behind::default());
        for step in steps.iter_mut().rev() {
            // A routine or a lookup may look at what goes.
            let Step::Write(batches) = step else { break };
            let mut kept = Vec::with_capacity(batches.len());
            for batch in std::mem::take(batches).into_iter().rev() {
                let name = &batch.table.name;
                let is_above = above.contains(name);
                let is_delete = batch.op == WriteOp::Delete;
                last &= is_delete;
                if is_delete
                    && !touched.contains(name)
                    && match is_above {
                        true => last || behind.lets_pass(&batch, places),
                        false => last && !places.are_above(name, touched),
                    }
                {
                    taken.push(batch);
                    continue;
                }
                if is_above {
                    behind.add(&batch);
                }
                kept.push(batch);
            }
            kept.reverse();
            *batches = kept;
        }
        taken.reverse();
        taken
    }

    /// Whether these steps must not come before these deletes.
    pub fn meet(steps: &[Step], deletes: &[WriteBatch], places: &Places) -> bool {
        let mut behind = Behind::default();
        for step in steps {
            let Step::Write(batches) = step else { return true };
            batches.iter().for_each(|batch| behind.add(batch));
        }
        !deletes.iter().all(|delete| behind.lets_pass(delete, places))
    }

    /// How many rows it is about.
    pub fn rows(&self) -> usize {
        match self {
            Step::Write(batches) => batches.iter().map(|batch| batch.rows.len()).sum(),
            Step::Sought(sought) => sought.batch.rows.len(),
            Step::Call(calls) => calls.len(),
            Step::Moved(..) | Step::SoughtCall(..) => 1,
        }
    }

    /// The rows of these steps, without the calls.
    pub fn writes(steps: Vec<Step>) -> Vec<WriteBatch> {
        let rows = |step| match step {
            Step::Write(batches) => batches,
            Step::Sought(sought) => vec![sought.batch],
            Step::Moved(plan, write, _) => batches_of(&plan, vec![write]),
            Step::Call(_) | Step::SoughtCall(..) => Vec::new(),
        };
        steps.into_iter().flat_map(rows).collect()
    }
}

/// What is written behind a delete, by table: the keys, as far as they are known.
#[derive(Default)]
struct Behind(HashMap<TableName, Option<Keys>>);

impl Behind {
    fn add(&mut self, batch: &WriteBatch) {
        let keys = self.0.entry(batch.table.name.clone()).or_insert_with(|| Some(Keys::default()));
        match (keys.as_mut(), keys_of(batch)) {
            (Some(keys), Some(more)) => keys.extend(more),
            (_, None) => *keys = None,
            (None, Some(_)) => {}
        }
    }

    /// Whether a delete may come after all that.
    fn lets_pass(&self, delete: &WriteBatch, places: &Places) -> bool {
        let Some(keys) = self.0.get(&delete.table.name) else { return true };
        match (keys, keys_of(delete)) {
            (Some(keys), Some(own)) => {
                !places.of(delete.table.id).has_uniques && own.iter().all(|key| !keys.contains(key))
            }
            _ => false,
        }
    }
}

/// What is equal for equal keys of rows that a batch writes; nothing if it moves keys, or is about all rows.
pub(in crate::apply) fn keys_of(batch: &WriteBatch) -> Option<Vec<u64>> {
    let WriteBatch { table, op, columns, rows, .. } = batch;
    let moves = match op {
        WriteOp::Move | WriteOp::DeleteAll => true,
        WriteOp::Update => columns.iter().any(|column| table.key.contains(column)),
        WriteOp::Insert
        | WriteOp::Overwrite
        | WriteOp::Upsert
        | WriteOp::Patch
        | WriteOp::Delete => false,
    };
    if moves {
        return None;
    }
    let key = |row: &[Value]| {
        let cells = || (0..table.key.len()).map(|n| key_cell(table, *op, columns, row, n));
        cells().all(|cell| cell.is_some()).then(|| likeness(cells().flatten()))
    };
    rows.iter().map(|row| key(row)).collect()
}
