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

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use tidelock_core::{Call, OpKind, TableName, TargetTable, Value, WriteBatch, WriteOp};

use super::place::{Place, Places};
use crate::mapping::lookups::Wait;
use crate::mapping::row::likeness;
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

/// What is to be done at the target, in its order.
#[derive(Debug)]
pub enum Step {
    /// Rows to be written.
    Write(Vec<WriteBatch>),
    /// Rows to be written when what they wait for has been looked up.
    Sought(Sought),
    /// Routines to be called.
    Call(Vec<Call>),
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
    fn push(&mut self, row: Box<[Value]>, waits: Vec<Wait>) {
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
            Step::SoughtCall(..) => 1,
        }
    }

    /// The rows of these steps, without the calls.
    pub fn writes(steps: Vec<Step>) -> Vec<WriteBatch> {
        let rows = |step| match step {
            Step::Write(batches) => batches,
            Step::Sought(sought) => vec![sought.batch],
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
pub(super) fn keys_of(batch: &WriteBatch) -> Option<Vec<u64>> {
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

/// What becomes statements together.
#[derive(Default)]
struct Group {
    tables: Vec<TableGroup>,
    by_id: ByHash<usize>,
}

struct TableGroup {
    plan: Arc<MappingPlan>,
    place: Place,
    entries: Vec<Entry>,
    by_key: ByHash<usize>,
    /// Values of other unique indexes, and whose they are or were.
    uniques: ByHash<u64>,
    /// A row was deleted whose unique values the log does not tell.
    given_up: bool,
}

struct Entry {
    op: WriteOp,
    columns: Arc<[usize]>,
    row: Box<[Value]>,
    waits: Vec<Wait>,
    bytes: usize,
    /// The kind of the last change in it.
    kind: OpKind,
}

/// Writes that follow each other in log order: neighbours of one table, operation and column set share
/// a statement, as long as no two of them can be about one row.
#[derive(Default)]
struct Line {
    open: Option<Sought>,
    bytes: usize,
    keys: ByHash<()>,
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

impl Group {
    fn table(&mut self, plan: &Arc<MappingPlan>, place: Place) -> usize {
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

    fn emit(mut self, done: &mut Vec<Sought>) {
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

fn sought(plan: &Arc<MappingPlan>, op: WriteOp, columns: Arc<[usize]>) -> Sought {
    let (mapping, table) = (plan.name.clone(), plan.target.clone());
    let batch = WriteBatch { mapping, table, op, columns, rows: Vec::new() };
    Sought { batch, waits: Vec::new() }
}

impl TableGroup {
    /// Whether a write may join; else the group ends before it.
    fn takes(&self, write: &Write) -> bool {
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
    fn add(&mut self, write: Write, bytes: usize, kind: OpKind) -> Added {
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
struct Added {
    /// The kind of the change that it replaces.
    replaced: Option<OpKind>,
    /// What its key weighed before and weighs now.
    before: usize,
    after: usize,
}

/// Whether a write changes its row's key.
fn moves(write: &Write, table: &TargetTable) -> bool {
    match write.op {
        WriteOp::Move => true,
        WriteOp::Update => write.columns.iter().any(|column| table.key.contains(column)),
        _ => false,
    }
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
pub(super) fn key_cell<'a>(
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

impl Line {
    fn push(
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

    fn close(&mut self, done: &mut Vec<Sought>) {
        done.extend(self.open.take());
        self.keys.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
pub(super) mod tests;
