//! Groups: each key of a table once, and what becomes of it in the end.

use std::sync::Arc;

use tidelock_core::{OpKind, TargetTable, Value, WriteOp};

use super::{BYTES_A_BATCH_MAX, ByHash, MARK_BYTES, ROWS_A_BATCH_MAX, Sought, sought, weight_of};
use crate::apply::place::Place;
use crate::mapping::lookups::Wait;
use crate::mapping::{MappingPlan, Write};

/// What becomes statements together.
#[derive(Default)]
pub(super) struct Group {
    pub(super) tables: Vec<TableGroup>,
    pub(super) by_id: ByHash<usize>,
}

pub(super) struct TableGroup {
    pub(super) plan: Arc<MappingPlan>,
    pub(super) place: Place,
    entries: Vec<Entry>,
    pub(super) by_key: ByHash<usize>,
    /// Values of other unique indexes, and whose they are or were.
    pub(super) uniques: ByHash<u64>,
    /// A row was deleted whose unique values the log does not tell.
    pub(super) given_up: bool,
}

struct Entry {
    pub(super) op: WriteOp,
    pub(super) columns: Arc<[usize]>,
    pub(super) row: Box<[Value]>,
    pub(super) waits: Vec<Wait>,
    pub(super) bytes: usize,
    /// The kind of the last change in it.
    pub(super) kind: OpKind,
}

impl Group {
    pub(super) fn table(&mut self, plan: &Arc<MappingPlan>, place: Place) -> usize {
        *self.by_id.entry(plan.target.id).or_insert_with(|| {
            self.tables.push(TableGroup {
                plan: plan.clone(),
                place,
                entries: Vec::new(),
                by_key: ByHash::default(),
                uniques: ByHash::default(),
                given_up: false,
            });
            self.tables.len() - 1
        })
    }

    pub(super) fn emit(mut self, done: &mut Vec<Sought>) {
        self.tables.sort_by_key(|t| t.place.rank);
        let mut last: Vec<Vec<Sought>> = Vec::new();
        let mut rest = Vec::new();
        for mut table in self.tables {
            let entries = std::mem::take(&mut table.entries);
            let (deletes, writes) = entries.into_iter().partition(|e| e.op == WriteOp::Delete);
            // A server may delete the rows of a statement in its own order, a parent before its child.
            let rows_max = if table.place.in_order { 1 } else { ROWS_A_BATCH_MAX };
            let deletes = statements(&table.plan, true, rows_max, deletes);
            if table.place.deletes_first {
                done.extend(deletes);
            } else {
                last.push(deletes);
            }
            let in_order = table.place.in_order;
            rest.extend(statements(&table.plan, in_order, ROWS_A_BATCH_MAX, writes));
        }
        done.append(&mut rest);
        done.extend(last.into_iter().rev().flatten());
    }
}

/// The entries of a table as batches: by kind of work, or in their order.
fn statements(
    plan: &Arc<MappingPlan>,
    in_order: bool,
    rows_max: usize,
    entries: Vec<Entry>,
) -> Vec<Sought> {
    let mut done: Vec<Sought> = Vec::new();
    // The batches that may take more, and their bytes.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for entry in entries {
        let fits = |(at, bytes): &(usize, usize)| {
            done.get(*at).is_some_and(|Sought { batch, .. }| {
                batch.op == entry.op
                    && batch.columns == entry.columns
                    && batch.rows.len() < rows_max
                    && bytes + entry.bytes <= BYTES_A_BATCH_MAX
            })
        };
        let mut found = open.iter().position(fits);
        if found.is_none() {
            if in_order {
                open.clear();
            } else {
                let is_like = |(at, _): &(usize, usize)| {
                    done.get(*at).is_some_and(|Sought { batch, .. }| {
                        batch.op == entry.op && batch.columns == entry.columns
                    })
                };
                open.retain(|place| !is_like(place));
            }
            open.push((done.len(), 0));
            done.push(sought(plan, entry.op, entry.columns.clone()));
            found = Some(open.len() - 1);
        }
        if let Some((at, bytes)) = found.and_then(|found| open.get_mut(found))
            && let Some(batch) = done.get_mut(*at)
        {
            *bytes += entry.bytes;
            batch.push(entry.row, entry.waits);
        }
    }
    if !in_order {
        // What may give a unique value up comes before what is new.
        done.sort_by_key(|sought| match sought.batch.op {
            WriteOp::Overwrite => 0,
            WriteOp::Update | WriteOp::Patch => 1,
            WriteOp::Upsert => 2,
            WriteOp::Insert | WriteOp::Move | WriteOp::Delete | WriteOp::DeleteAll => 3,
        });
    }
    done
}

impl TableGroup {
    /// Whether a write may join; else the group ends before it.
    pub(super) fn takes(&self, write: &Write) -> bool {
        let [key, _] = write.keys;
        if let Some(uniques) = &write.uniques
            && uniques.new.iter().any(|value| self.uniques.get(value).is_some_and(|k| *k != key))
        {
            return false;
        }
        if self.place.sought
            && write.op != WriteOp::Delete
            && write.uniques.as_ref().is_some_and(|u| u.old.iter().any(|v| !u.new.contains(v)))
        {
            return false;
        }
        let Some(&at) = self.by_key.get(&key) else {
            return !(self.given_up && write.op == WriteOp::Insert);
        };
        let entry = &self.entries[at];
        // What a row that ended is marked with may be more than a whole row brings.
        let beyond = |columns: &[usize]| columns.iter().any(|&c| c >= self.plan.columns.len());
        if (write.op == WriteOp::Patch && beyond(&write.columns))
            || (entry.op == WriteOp::Patch && beyond(&entry.columns))
        {
            return false;
        }
        if self.place.in_order || !entry.is_about(&self.plan.target, write) {
            return false;
        }
        match (entry.op, write.op) {
            // That the row is not there is for the target to say.
            (WriteOp::Delete, WriteOp::Update | WriteOp::Patch) => false,
            (WriteOp::Delete, WriteOp::Delete) => true,
            (_, WriteOp::Delete) if self.place.sought => false,
            (WriteOp::Delete, _) => !self.place.referenced && !self.place.has_uniques,
            _ => true,
        }
    }

    /// Adds a write that may join.
    pub(super) fn add(&mut self, write: Write, bytes: usize, kind: OpKind) -> Added {
        let Write { op, columns, row, keys: [key, _], uniques, waits } = write;
        let mut marked = 0;
        self.given_up |= op == WriteOp::Delete
            && self.place.has_uniques
            && !self.place.deletes_first
            && uniques.as_ref().is_none_or(|u| u.old.len() < self.plan.uniques.len());
        if let Some(uniques) = uniques
            && !(op == WriteOp::Delete && self.place.deletes_first)
        {
            // They stay as long as the group does, however often a row changes.
            marked = MARK_BYTES * (uniques.new.len() + uniques.old.len());
            self.uniques.extend(uniques.new.into_iter().chain(uniques.old).map(|v| (v, key)));
        }
        let Some(&at) = self.by_key.get(&key) else {
            self.by_key.insert(key, self.entries.len());
            self.entries.push(Entry { op, columns, row, waits, bytes, kind });
            return Added { replaced: None, before: 0, after: bytes + marked };
        };
        let entry = &mut self.entries[at];
        let before = entry.bytes;
        let replaced = std::mem::replace(&mut entry.kind, kind);
        // What a later change brings waits for nothing that an earlier one did.
        match op {
            WriteOp::Update | WriteOp::Patch => {
                entry.waits.retain(|wait| !columns.contains(&wait.column()));
                entry.waits.extend(waits);
            }
            _ => entry.waits = waits,
        }
        match (entry.op, op) {
            (
                WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert,
                WriteOp::Update | WriteOp::Patch,
            ) => {
                // A full row holds the cells of all columns, in their order.
                for (value, &column) in row.into_iter().zip(columns.iter()) {
                    entry.row[column] = value;
                }
            }
            (WriteOp::Update | WriteOp::Patch, WriteOp::Update | WriteOp::Patch) => {
                if entry.op == WriteOp::Patch {
                    entry.op = op;
                }
                match entry.columns == columns {
                    true => entry.row = row,
                    false => entry.unite(&columns, row),
                }
            }
            (before, _) => {
                entry.op = match (before, op) {
                    // Not there before the group, whatever it was in between.
                    (WriteOp::Insert, WriteOp::Overwrite) => WriteOp::Insert,
                    (WriteOp::Update | WriteOp::Overwrite, WriteOp::Overwrite) => {
                        WriteOp::Overwrite
                    }
                    (_, WriteOp::Delete) => WriteOp::Delete,
                    _ => WriteOp::Upsert,
                };
                (entry.columns, entry.row) = (columns, row);
            }
        }
        entry.bytes = weight_of(&entry.row, &entry.waits);
        Added { replaced: Some(replaced), before, after: entry.bytes + marked }
    }
}

/// What became of a write that was added.
pub(super) struct Added {
    /// The kind of the change that it replaces.
    pub(super) replaced: Option<OpKind>,
    /// What its key weighed before and weighs now.
    pub(super) before: usize,
    pub(super) after: usize,
}

impl Entry {
    /// Whether a write of an equal hash is about the very same key.
    fn is_about(&self, table: &TargetTable, write: &Write) -> bool {
        let ours = |n| key_cell(table, self.op, &self.columns, &self.row, n);
        let theirs = |n| key_cell(table, write.op, &write.columns, &write.row, n);
        (0..table.key.len()).all(|n| match (ours(n), theirs(n)) {
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            _ => false,
        })
    }

    /// Lays the cells of another update of the row over those of this one.
    fn unite(&mut self, columns: &[usize], row: Box<[Value]>) {
        let key = row.len() - columns.len();
        let held = std::mem::take(&mut self.row).into_vec();
        let mut cells: Vec<(usize, Value)> = columns.iter().copied().zip(row.into_vec()).collect();
        let mut held = held.into_iter();
        for (&column, value) in self.columns.iter().zip(held.by_ref()) {
            if !columns.contains(&column) {
                cells.push((column, value));
            }
        }
        cells.sort_by_key(|(column, _)| *column);
        self.columns = cells.iter().map(|(column, _)| *column).collect();
        let tail: Vec<Value> = held.collect();
        debug_assert_eq!(tail.len(), key);
        self.row = cells.into_iter().map(|(_, value)| value).chain(tail).collect();
    }
}

/// The n-th cell of the key of the row that a write is about.
pub(in crate::apply) fn key_cell<'a>(
    table: &TargetTable,
    op: WriteOp,
    columns: &[usize],
    row: &'a [Value],
    n: usize,
) -> Option<&'a Value> {
    match op {
        WriteOp::Delete => row.get(n),
        WriteOp::Update | WriteOp::Patch | WriteOp::Move => row.get(columns.len() + n),
        WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => row.get(*table.key.get(n)?),
        WriteOp::DeleteAll => None,
    }
}
