//! From changes in log order to the statements of one group. Pure.
//!
//! Changes are collected in a *group*, which holds each key of a table once: what became of the row in the end. An insert and
//! its updates are one insert, updates are one update over the union of their columns, and whatever ends in a delete is
//! that delete, never nothing: a replay, or a copy that was here before, may have left the row. The group
//! becomes statements table by table ([`super::place`]), so that their number grows with the tables and not with
//! the changes. What was replaced by a later change counts as superseded.
//!
//! A *barrier* ends the group and begins another behind it, whose statements come later:
//!
//! - a key moves, or a table is emptied;
//! - a key may be another one's equal at the target (a collation, a number written otherwise) without being it;
//! - a unique value is taken that another row of the group has or had, or an insert follows a delete of a row whose values the
//!   log does not tell;
//! - a deleted row comes back, and its delete does more than be replaced: foreign keys point to its table, or it gave a unique
//!   value up;
//! - a key of a table that points to itself is met again;
//! - a row that may have been looked up goes after it came or changed in the group, or is to be found by other values.
//!
//! A row may *wait* for lookups ([`crate::mapping::lookups`]): its batch is a step of its own, and is answered when all that stands before
//! it has been written. Tables that are looked up come before those that look ([`super::place`]), so what the group brings is
//! found. What the log changes there later may be found too: an answer is as of the row's place or later.
//!
//! Where the target refuses the order all the same (a unique value was handed over that the log did not tell of), the
//! transactions are replayed one by one, and from then on the mapping is written in order ([`super::Applier`]).

mod group;
mod line;
mod step;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use tidelock_core::{Call, OpKind, TargetTable, Value, WriteBatch, WriteOp};

pub(super) use self::group::key_cell;
use self::group::{Added, Group};
use self::line::Line;
pub(super) use self::step::keys_of;
pub use self::step::{Sought, Step};
use super::place::Places;
use crate::mapping::lookups::Wait;
use crate::mapping::row::LeftBehind;
use crate::mapping::{MappingPlan, Write};

/// Most rows in one statement.
pub const ROWS_A_BATCH_MAX: usize = 8_000;
/// Most bytes in one statement: far below the smallest usual `max_allowed_packet` (16 MiB).
pub const BYTES_A_BATCH_MAX: usize = 4 << 20;

/// What a remembered unique value takes.
const MARK_BYTES: usize = 32;

/// Hashes that are hashes already.
#[derive(Debug, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;
/// Keys by what is equal for equal ones.
pub(super) type Keys = HashSet<u64, BuildHasherDefault<Hashed>>;

/// Collects writes in log order.
#[derive(Default)]
pub struct Batcher {
    places: Arc<Places>,
    steps: Vec<Step>,
    done: Vec<Sought>,
    group: Group,
    line: Line,
    rows: usize,
    bytes: usize,
    /// One row a batch, in log order: to find the row that the target refuses.
    careful: bool,
}

/// About how much memory a row takes.
pub fn weight(row: &[Value]) -> usize {
    row.iter().map(|v| size_of::<Value>() + v.heap_bytes()).sum()
}

fn weight_of(row: &[Value], waits: &[Wait]) -> usize {
    weight(row) + waits.iter().map(Wait::bytes).sum::<usize>()
}

impl Batcher {
    /// An empty one. `careful`: every row is a batch of its own, in log order.
    pub fn new(places: Arc<Places>, careful: bool) -> Self {
        Batcher { places, careful, ..Batcher::default() }
    }

    /// Rows waiting, each key once.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a write; tells the kind of the change that it replaces, if it does.
    pub fn push(&mut self, plan: &Arc<MappingPlan>, write: Write, kind: OpKind) -> Option<OpKind> {
        let place = self.places.of(plan.target.id);
        let bytes = weight_of(&write.row, &write.waits);
        if self.careful || place.strict || moves(&write, &plan.target) {
            self.barrier();
            self.rows += 1;
            self.bytes += bytes;
            // A row that looks for another one of its own table must find those before it.
            let own = write.waits.iter().any(|wait| wait.may_ask(&plan.target.name));
            let alone = self.careful || (place.in_order && write.op == WriteOp::Delete) || own;
            self.line.push(plan, write, bytes, alone, &mut self.done);
            return None;
        }
        self.line.close(&mut self.done);
        let mut at = self.group.table(plan, place);
        if !self.group.tables[at].takes(&write) {
            self.barrier();
            at = self.group.table(plan, place);
        }
        let table = &mut self.group.tables[at];
        let Added { replaced, before, after } = table.add(write, bytes, kind);
        self.bytes = self.bytes.saturating_sub(before) + after;
        self.rows += usize::from(replaced.is_none());
        replaced
    }

    /// Adds a row that moves to another key, where one that has ended may be, after all that came before.
    pub fn push_moved(&mut self, plan: &Arc<MappingPlan>, write: Write, left: LeftBehind) {
        self.close();
        self.rows += 1;
        self.bytes += weight_of(&write.row, &write.waits);
        self.steps.push(Step::Moved(plan.clone(), write, left));
    }

    /// Adds the deletion of every row of a table.
    pub fn delete_all(&mut self, plan: &Arc<MappingPlan>) {
        self.barrier();
        self.line.close(&mut self.done);
        self.done.push(sought(plan, WriteOp::DeleteAll, Arc::from([])));
        self.rows += 1;
    }

    /// Adds calls of routines, after all that came before.
    pub fn call(&mut self, calls: Vec<Call>) {
        self.close();
        self.rows += calls.len();
        self.bytes += calls.iter().map(|call| weight(&call.arguments)).sum::<usize>();
        match self.steps.last_mut() {
            Some(Step::Call(before)) => before.extend(calls),
            _ => self.steps.push(Step::Call(calls)),
        }
    }

    /// Adds the call of a routine for a row that waits, after all that came before.
    pub fn call_sought(&mut self, plan: &Arc<MappingPlan>, write: Write) {
        self.close();
        self.rows += 1;
        self.bytes += weight_of(&write.row, &write.waits);
        self.steps.push(Step::SoughtCall(plan.clone(), write));
    }

    fn close(&mut self) {
        self.barrier();
        self.line.close(&mut self.done);
        let mut plain = Vec::new();
        for sought in std::mem::take(&mut self.done) {
            if sought.waits.is_empty() {
                plain.push(sought.batch);
                continue;
            }
            if !plain.is_empty() {
                self.steps.push(Step::Write(std::mem::take(&mut plain)));
            }
            self.steps.push(Step::Sought(sought));
        }
        if !plain.is_empty() {
            self.steps.push(Step::Write(plain));
        }
    }

    /// What comes next is written after all that came before.
    fn barrier(&mut self) {
        std::mem::take(&mut self.group).emit(&mut self.done);
    }

    /// Everything collected, in the order in which it must take effect; empty afterwards.
    pub fn take(&mut self) -> Vec<Step> {
        self.close();
        self.rows = 0;
        self.bytes = 0;
        std::mem::take(&mut self.steps)
    }
}

/// Writes of one mapping that wait for nothing, of which no two are about one row, as batches.
pub fn batches_of(plan: &Arc<MappingPlan>, writes: Vec<Write>) -> Vec<WriteBatch> {
    let mut batches: Vec<WriteBatch> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let weight = weight(&write.row);
        let joins = batches.last().is_some_and(|batch| {
            batch.op == write.op
                && batch.columns == write.columns
                && batch.rows.len() < ROWS_A_BATCH_MAX
                && bytes + weight <= BYTES_A_BATCH_MAX
        });
        if !joins {
            bytes = 0;
            batches.push(WriteBatch {
                mapping: plan.name.clone(),
                table: plan.target.clone(),
                op: write.op,
                columns: write.columns.clone(),
                rows: Vec::new(),
            });
        }
        bytes += weight;
        if let Some(batch) = batches.last_mut() {
            batch.rows.push(write.row);
        }
    }
    batches
}

fn sought(plan: &Arc<MappingPlan>, op: WriteOp, columns: Arc<[usize]>) -> Sought {
    let (mapping, table) = (plan.name.clone(), plan.target.clone());
    let batch = WriteBatch { mapping, table, op, columns, rows: Vec::new() };
    Sought { batch, waits: Vec::new() }
}

/// Whether a write changes its row's key.
pub(super) fn moves(write: &Write, table: &TargetTable) -> bool {
    match write.op {
        WriteOp::Move => true,
        WriteOp::Update => write.columns.iter().any(|column| table.key.contains(column)),
        _ => false,
    }
}
