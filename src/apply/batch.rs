//! Grouping writes into statements. Pure.
//!
//! Writes that follow each other and are of one mapping, one operation and one column set become one
//! [`WriteBatch`], as long as no two of them can be about the same row: then the order inside the
//! statement does not matter, and the order between batches is kept. So the grouping changes nothing
//! but the number of statements.

use std::collections::HashSet;
use std::sync::Arc;

use tidelock_core::{Value, WriteBatch, WriteOp};

use crate::mapping::{MappingPlan, Write};

/// Most rows in one statement: beyond some thousand nothing is gained on either server.
pub const ROWS_A_BATCH_MAX: usize = 2_000;
/// Most bytes in one statement: far below the smallest usual `max_allowed_packet` (16 MiB).
pub const BYTES_A_BATCH_MAX: usize = 4 << 20;

/// Collects writes in order.
#[derive(Default)]
pub struct Batcher {
    done: Vec<WriteBatch>,
    open: Option<WriteBatch>,
    open_bytes: usize,
    open_keys: HashSet<u64>,
    rows: usize,
    bytes: usize,
    /// One row a batch: to find the row that the target refuses.
    careful: bool,
}

impl Batcher {
    /// An empty one. `careful`: every row is a batch of its own.
    pub fn new(careful: bool) -> Self {
        Batcher { careful, ..Batcher::default() }
    }

    /// Rows waiting.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a write.
    pub fn push(&mut self, plan: &Arc<MappingPlan>, write: Write) {
        let bytes = write.row.iter().map(|v| size_of::<Value>() + v.heap_bytes()).sum::<usize>();
        self.rows += 1;
        self.bytes += bytes;
        let joins = !self.careful
            && self.open_bytes + bytes <= BYTES_A_BATCH_MAX
            && !write.keys.iter().any(|k| self.open_keys.contains(k))
            && self.open.as_ref().is_some_and(|open| {
                open.table.id == plan.target.id
                    && open.op == write.op
                    && open.columns == write.columns
                    && open.rows.len() < ROWS_A_BATCH_MAX
            });
        if !joins {
            self.close();
            self.open = Some(WriteBatch {
                mapping: plan.name.clone(),
                table: plan.target.clone(),
                op: write.op,
                columns: write.columns,
                rows: Vec::new(),
            });
        }
        if let Some(open) = &mut self.open {
            open.rows.push(write.row);
            self.open_bytes += bytes;
            self.open_keys.extend(write.keys);
        }
    }

    /// Adds the deletion of every row of a table.
    pub fn delete_all(&mut self, plan: &Arc<MappingPlan>) {
        self.close();
        self.done.push(WriteBatch {
            mapping: plan.name.clone(),
            table: plan.target.clone(),
            op: WriteOp::DeleteAll,
            columns: Arc::from([]),
            rows: Vec::new(),
        });
        self.rows += 1;
    }

    fn close(&mut self) {
        self.done.extend(self.open.take());
        self.open_keys.clear();
        self.open_bytes = 0;
    }

    /// Everything collected, in order; empty afterwards.
    pub fn take(&mut self) -> Vec<WriteBatch> {
        self.close();
        self.rows = 0;
        self.bytes = 0;
        std::mem::take(&mut self.done)
    }
}
