//! Writes that stay in log order.

use std::sync::Arc;

use super::{BYTES_A_BATCH_MAX, ByHash, ROWS_A_BATCH_MAX, Sought, sought};
use crate::mapping::{MappingPlan, Write};

/// Writes that follow each other in log order: neighbours of one table, operation and column set share
/// a statement, as long as no two of them can be about one row.
#[derive(Default)]
pub(super) struct Line {
    open: Option<Sought>,
    bytes: usize,
    keys: ByHash<()>,
}

impl Line {
    pub(super) fn push(
        &mut self,
        plan: &Arc<MappingPlan>,
        write: Write,
        bytes: usize,
        alone: bool,
        done: &mut Vec<Sought>,
    ) {
        let joins = !alone
            && self.bytes + bytes <= BYTES_A_BATCH_MAX
            && !write.keys.iter().any(|k| self.keys.contains_key(k))
            && self.open.as_ref().is_some_and(|Sought { batch: open, .. }| {
                open.table.id == plan.target.id
                    && open.op == write.op
                    && open.columns == write.columns
                    && open.rows.len() < ROWS_A_BATCH_MAX
            });
        if !joins {
            self.close(done);
            self.open = Some(sought(plan, write.op, write.columns));
        }
        if let Some(open) = &mut self.open {
            open.push(write.row, write.waits);
            self.bytes += bytes;
            self.keys.extend(write.keys.map(|k| (k, ())));
        }
    }

    pub(super) fn close(&mut self, done: &mut Vec<Sought>) {
        done.extend(self.open.take());
        self.keys.clear();
        self.bytes = 0;
    }
}
