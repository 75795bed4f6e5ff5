//! Writing what was read: rows and calls, and what has vanished.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{Code, Error, MemoryKind, MemoryScope, OpKind, Result, Sink, Value, WriteOp};

use super::found::{Group, likeness};
use super::ready::ready;
use super::{Gone, Removal, Work};
use crate::apply::batch::{ROWS_A_BATCH_MAX, batches_of};
use crate::apply::gate::Gates;
use crate::apply::seek;
use crate::apply::tally::Fate;
use crate::mapping::call::{self, calls};
use crate::mapping::plan::{CallPlan, EndPlan, ViewPlan};
use crate::mapping::{MappingPlan, Write};
use crate::reread::memory::{Known, hash};

/// Refusals after which rows are not tried by themselves any more.
const REFUSALS_MAX: usize = 24;
/// Rows that are tried one by one more than once.
const ROWS_AGAIN_MAX: usize = 2_000;
/// Refusals after which rows are left as they are that may be tried again when others are there: of a table whose values cannot be
/// set aside, of one whose can, and where they are not tried again.
const PARTS_MAX: [usize; 3] = [512, 128, 2_000];
/// How often rows are tried with those left out that were refused.
const TURNS_MAX: usize = 8;

/// Calls a routine for each group that is another one than when it was last sent.
pub(super) async fn call_groups(
    sink: &mut dyn Sink,
    scope: &MemoryScope,
    (plan, call): (&Arc<MappingPlan>, &CallPlan),
    groups: Vec<Group>,
    force: bool,
    work: &mut Work<'_>,
) -> Result<Option<Error>> {
    let at = |group: &Group| Bytes::copy_from_slice(&group.hash);
    let places: Vec<Bytes> = groups.iter().map(at).collect();
    let known: HashMap<Bytes, Known> = sink
        .recall(scope, &places)
        .await?
        .into_iter()
        .filter_map(|(at, bytes)| Some((at, Known::decode(&bytes)?)))
        .collect();
    let (mut all, mut put, mut gone, mut same) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut changed = Vec::new();
    for group in groups {
        let sent = hash(plan.rule.as_bytes(), group.rows.iter().flat_map(Write::made_of));
        let at = at(&group);
        if known.get(&at).is_some_and(|known| known.sent == sent) && !force {
            same += 1;
            continue;
        }
        changed.push((group, sent, at));
    }
    for (mut group, sent, at) in changed {
        if let Err(error) = seek::answer_writes(sink, plan, &mut group.rows).await {
            return missing(error).map(Some);
        }
        let rows: Vec<Box<[Value]>> = group.rows.into_iter().map(|write| write.row).collect();
        all.push(call::group(plan, call, &group.key, &rows)?);
        if rows.is_empty() {
            gone.push(at);
        } else {
            let key = group.key.into_iter().map(|(_, value)| value).collect();
            put.push((at, Known { sent, key }.encode()?));
        }
    }
    if let Some(error) = sink.attempt(&[], &all).await? {
        return Ok(Some(error));
    }
    let deleted = gone.len() as u64;
    let tally = &mut work.done.tally;
    tally.add_many(work.number, OpKind::Update, Fate::Filtered, same);
    tally.add_many(work.number, OpKind::Update, Fate::Applied, put.len() as u64);
    tally.add_many(work.number, OpKind::Delete, Fate::Applied, deleted);
    if !put.is_empty() || !gone.is_empty() {
        sink.remember(scope, &put, &gone).await?;
    }
    Ok(None)
}

/// Removes rows that have vanished, but for those that are another group's by now.
pub(super) async fn remove(
    sink: &mut dyn Sink,
    gates: &mut Gates,
    removal: Removal,
    work: &mut Work<'_>,
) -> Result<()> {
    let Removal { number, plan, gone, waited } = removal;
    let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
    let moves = plan.view.as_ref().is_some_and(|view| view.moves);
    for some in gone.chunks(ROWS_A_BATCH_MAX) {
        let mut moved: HashSet<Bytes> = HashSet::new();
        let owner = MemoryScope { kind: MemoryKind::Owner, ..scope.clone() };
        let own = |g: &Gone| Bytes::copy_from_slice(&hash(&[], g.key.iter()));
        if moves {
            let keys: Vec<Bytes> = some.iter().map(own).collect();
            for (key, group) in sink.recall(&owner, &keys).await? {
                let theirs = |g: &&Gone| own(g) == key && *group != g.group[..];
                if some.iter().any(|g| theirs(&g)) {
                    moved.insert(key);
                }
            }
        }
        let left: Vec<&Gone> = some.iter().filter(|g| !moved.contains(&own(g))).collect();
        let ends = !matches!(plan.rows.end, EndPlan::Ignore);
        let removed = left.iter().filter(|g| g.removed && ends).count() as u64;
        let still = left.iter().filter(|g| !g.removed);
        let writes: Vec<Write> =
            still.filter_map(|g| plan.removal(&g.key).transpose()).collect::<Result<_>>()?;
        let count = removed + writes.len() as u64;
        if let Some(error) = put(sink, &plan, writes).await? {
            let keys = some.iter().map(|g| g.told_by.clone()).filter(|k| !k.is_empty()).collect();
            work.refused(&plan, Some(error), keys, waited)?;
            continue;
        }
        work.done.tally.add_many(number, OpKind::Delete, Fate::Applied, count);
        // One that comes back is new to its gate.
        left.iter().for_each(|gone| gates.forget(number, &gone.key));
        let forget: Vec<Bytes> = some.iter().filter_map(|g| g.forget.clone()).collect();
        if !forget.is_empty() {
            sink.remember(&scope, &[], &forget).await?;
        }
        if moves {
            let gone: Vec<Bytes> = left.iter().map(|g| own(g)).collect();
            sink.remember(&owner, &[], &gone).await?;
        }
    }
    Ok(())
}

/// Writes rows of a view. What has vanished is removed when all rows of the batch are there, since some of them may still point to
/// it; but before them goes a row whose key the target may hold equal to that of a new one. Where a unique index refuses the rows, because
/// one of them or one that vanished has the value still, they and the removals go in whatever order is taken.
pub(super) async fn instead(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    view: &ViewPlan,
    writes: Vec<Write>,
    vanished: &mut [Gone],
    likely: &HashSet<u64>,
) -> Result<Option<Error>> {
    if writes.is_empty() {
        return Ok(None);
    }
    // A row that has moved to another group is the same row at the target.
    let like = |gone: &Gone| !view.moves && likely.contains(&likeness(&gone.told_by));
    let mut first = Vec::new();
    for gone in vanished.iter().filter(|gone| like(gone)) {
        first.extend(plan.removal(&gone.key)?);
    }
    first.extend(writes.iter().cloned());
    let refused = put(sink, plan, first).await?;
    let Some(error) = refused else {
        vanished.iter_mut().for_each(|gone| gone.removed = like(gone));
        return Ok(None);
    };
    if error.code() != Code::KeyConflict || plan.call.is_some() {
        return Ok(Some(error));
    }
    let mut steps: Steps = Vec::new();
    for (at, gone) in vanished.iter().enumerate().filter(|_| !view.moves) {
        steps.extend(plan.removal(&gone.key)?.map(|write| (Some(at), write)));
    }
    steps.extend(writes.into_iter().map(|write| (None, write)));
    let mut written = |at: usize| {
        if let Some(gone) = vanished.get_mut(at) {
            gone.removed = true;
        }
    };
    let left = in_any_order(sink, plan, steps, true, &mut written).await?.steps;
    Ok(left.iter().any(|(gone, _)| gone.is_none()).then_some(error))
}

/// Writes, each with a number of its own if it has one.
pub type Steps = Vec<(Option<usize>, Write)>;

/// What the target did not take in any order, and why not the last of it.
#[derive(Default)]
pub struct Left {
    /// The writes.
    pub steps: Steps,
    /// Why.
    pub error: Option<Error>,
}

/// Writes those rows of a mapping that the target takes now, and answers the rest. `last`: it is not tried again, so each that can be
/// written is; else many that take values from each other may be left for when the others are there.
pub async fn as_many_as_can_be(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: Steps,
    last: bool,
) -> Result<Left> {
    let writes = steps.iter().map(|(_, write)| write.clone()).collect();
    match put(sink, plan, writes).await? {
        None => Ok(Left::default()),
        Some(refused) => all_but_refused(sink, plan, steps, refused, last).await,
    }
}

/// The same for rows that were refused together.
pub async fn all_but_refused(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: Steps,
    refused: Error,
    last: bool,
) -> Result<Left> {
    if refused.code() != Code::ForeignKey || plan.pointers.is_empty() {
        return in_any_order(sink, plan, steps, last, &mut |_| ()).await;
    }
    let (steps, mut lacking) = ready(sink, plan, steps).await?;
    let mut left = in_any_order(sink, plan, steps, last, &mut |_| ()).await?;
    if !lacking.is_empty() {
        left.steps.append(&mut lacking);
        left.error.get_or_insert(refused);
    }
    Ok(left)
}

/// Writes what the target takes, again and again while it takes more; tells the numbers of what it took, and answers the rest.
async fn in_any_order(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: Steps,
    last: bool,
    written: &mut (dyn FnMut(usize) + Send),
) -> Result<Left> {
    let mut left = Left { steps, error: None };
    if left.steps.is_empty() {
        return Ok(left);
    }
    // A few refusals show that rows take values from each other; they are looked at one by one only if that is not all.
    let mut refusals_max = match (plan.asides.is_empty(), last) {
        (false, _) => REFUSALS_MAX,
        (true, false) => PARTS_MAX[0],
        (true, true) => usize::MAX,
    };
    loop {
        let before = left.steps.len();
        let (mut conflicts, mut refusals) = (false, 0);
        let mut parts = vec![std::mem::take(&mut left.steps)];
        while let Some(mut part) = parts.pop() {
            let writes = part.iter().map(|(_, write)| write.clone()).collect();
            let refused = put(sink, plan, writes).await?;
            let Some(error) = refused else {
                part.iter().filter_map(|(number, _)| *number).for_each(&mut *written);
                continue;
            };
            refusals += 1;
            let conflict = error.code() == Code::KeyConflict;
            conflicts |= conflict;
            if part.len() == 1 || (conflict && refusals > refusals_max) {
                left.steps.append(&mut part);
                left.error = Some(error);
            } else {
                let second = part.split_off(part.len() / 2);
                parts.extend([second, part]);
            }
        }
        let asks = conflicts && plan.call.is_none() && !plan.asides.is_empty();
        if asks && left.steps.len() > 1 {
            let (rest, tried) = set_aside(sink, plan, left, last, written).await?;
            left = rest;
            if tried && !left.steps.is_empty() {
                return Ok(left);
            }
        }
        if left.steps.is_empty() {
            return Ok(Left::default());
        }
        if conflicts && !last {
            return Ok(left);
        }
        let looked = !conflicts || refusals_max == usize::MAX;
        let enough = conflicts && left.steps.len() > ROWS_AGAIN_MAX;
        if looked && (left.steps.len() == before || enough) {
            return Ok(left);
        }
        if conflicts {
            refusals_max = usize::MAX;
        }
    }
}

/// Writes rows that take unique values from each other, in a circle or in a long row: each gives up what it has, then each gets
/// what it is to have. Those that the target refuses even so, because others have their values, are left out of it from the beginning, so nothing
/// of what stands there in between is ever committed. Answers the rest, and whether each of it was tried.
async fn set_aside(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    mut left: Left,
    last: bool,
    written: &mut (dyn FnMut(usize) + Send),
) -> Result<(Left, bool)> {
    let (mut out, mut tried) = (Steps::new(), false);
    for turn in 1..=TURNS_MAX {
        let mut writes: Vec<Write> = left.steps.iter().map(|(_, write)| write.clone()).collect();
        // Alone, each has been refused already.
        if writes.len() < 2 || seek::answer_writes(sink, plan, &mut writes).await.is_err() {
            break;
        }
        let emptied = batches_of(plan, emptied(plan, &writes));
        if emptied.is_empty() {
            break;
        }
        sink.mark_place().await?;
        if let Some(error) = sink.venture(&emptied).await? {
            tracing::debug!(mapping = %plan.name, code = %error.code(), "unique values cannot be set aside");
            break;
        }
        // What is removed comes before what may take its values.
        let mut places: Vec<usize> = (0..writes.len()).collect();
        places.sort_by_key(|&at| writes.get(at).is_none_or(|w| w.op != WriteOp::Delete));
        let (mut refused, mut refusals) = (HashSet::new(), 0);
        let mut parts = vec![places];
        tried = turn < TURNS_MAX;
        while let Some(mut part) = parts.pop() {
            let rows = part.iter().filter_map(|&at| writes.get(at).cloned()).collect();
            let Some(error) = sink.venture(&batches_of(plan, rows)).await? else { continue };
            refusals += 1;
            if part.len() == 1 || refusals > PARTS_MAX[1 + usize::from(last)] {
                tried &= part.len() == 1;
                refused.extend(part);
                left.error = Some(error);
            } else {
                let second = part.split_off(part.len() / 2);
                parts.extend([second, part]);
            }
        }
        if refused.is_empty() {
            left.steps.drain(..).filter_map(|(number, _)| number).for_each(&mut *written);
            break;
        }
        sink.back_to_place().await?;
        let all = std::mem::take(&mut left.steps).into_iter().enumerate();
        for (at, step) in all {
            if refused.contains(&at) { out.push(step) } else { left.steps.push(step) }
        }
    }
    left.steps.append(&mut out);
    Ok((left, tried))
}

/// Rows that are refused get at least their foreign keys, as far as they can: what they pointed to before may be about to go, and they and
/// all below them must not go with it. Answers whether some rows at the target still point where they did.
pub(super) async fn point_anew(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: &Steps,
    loosened: impl Fn(Steps) -> Steps,
) -> Result<bool> {
    if plan.pointing.is_empty() {
        return Ok(false);
    }
    let columns: Arc<[usize]> = plan.pointing.iter().copied().collect();
    let rows = steps.iter().filter_map(|(_, write)| patch(plan, write, &columns, |_, cell| cell));
    let rows = rows.map(|write| (None, write)).collect();
    let left = in_any_order(sink, plan, rows, true, &mut |_| ()).await?;
    let left = loosened(left.steps);
    Ok(!in_any_order(sink, plan, left, true, &mut |_| ()).await?.steps.is_empty())
}

/// Sets some columns of the row that a write is about, if it is there.
fn patch(
    plan: &MappingPlan,
    write: &Write,
    columns: &Arc<[usize]>,
    mut value: impl FnMut(usize, Value) -> Value,
) -> Option<Write> {
    if !matches!(write.op, WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert) {
        return None;
    }
    let cell = |column: usize| {
        let place = write.columns.iter().position(|c| *c == column)?;
        write.row.get(place).cloned()
    };
    let mut row = Vec::with_capacity(columns.len() + plan.target.key.len());
    for &column in &**columns {
        row.push(value(column, cell(column)?));
    }
    for &column in &plan.target.key {
        row.push(cell(column)?);
    }
    let (op, columns, row) = (WriteOp::Patch, columns.clone(), row.into());
    Some(Write { op, columns, row, keys: write.keys, uniques: None, waits: Vec::new() })
}

/// What makes rows give their unique values up, those that are there.
fn emptied(plan: &MappingPlan, writes: &[Write]) -> Vec<Write> {
    let columns: Arc<[usize]> = plan.asides.iter().map(|aside| aside.column).collect();
    let mut number = 0;
    let mut stand_in = |column: usize, cell: Value| {
        number += 1;
        let aside = plan.asides.iter().find(|aside| aside.column == column);
        aside.map_or(cell, |aside| aside.stand_in(&plan.target.columns, number))
    };
    writes.iter().filter_map(|write| patch(plan, write, &columns, &mut stand_in)).collect()
}

/// Writes rows of one mapping, or calls its routine for them. What points to a row that is not there (yet) takes them all back.
pub(super) async fn put(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    mut writes: Vec<Write>,
) -> Result<Option<Error>> {
    if writes.is_empty() {
        return Ok(None);
    }
    if let Err(error) = seek::answer_writes(sink, plan, &mut writes).await {
        return missing(error).map(Some);
    }
    let Some(call) = &plan.call else { return sink.attempt(&batches_of(plan, writes), &[]).await };
    let mut all = Vec::with_capacity(writes.len());
    for write in &writes {
        all.extend(calls(plan, call, write)?);
    }
    sink.attempt(&[], &all).await
}

/// A row that is looked up may be ahead of the flow, as one that a foreign key points to.
pub(super) fn missing(error: Error) -> Result<Error> {
    if error.code() == Code::LookupMissing { Ok(error) } else { Err(error) }
}
