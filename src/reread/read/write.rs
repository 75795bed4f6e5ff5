//! Writing what was read: rows and calls, and what has vanished.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{
    Code, DataType, Error, MemoryKind, MemoryScope, OpKind, Result, Sink, Value, WriteOp,
};

use super::found::likeness;
use super::ready::ready;
use super::{Gone, Group, Removal, Work};
use crate::apply::batch::{ROWS_A_BATCH_MAX, batches_of};
use crate::apply::gate::Gates;
use crate::apply::seek;
use crate::apply::tally::Fate;
use crate::mapping::call::{self, calls};
use crate::mapping::plan::{CallPlan, EndPlan, ViewPlan};
use crate::mapping::{MappingPlan, Write};
use crate::reread::memory::{Known, hash};

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
    let left = in_any_order(sink, plan, steps, &mut written).await?.steps;
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

/// Writes those rows of a mapping that the target takes now, and answers the rest.
pub async fn as_many_as_can_be(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: Steps,
) -> Result<Left> {
    let writes = steps.iter().map(|(_, write)| write.clone()).collect();
    match put(sink, plan, writes).await? {
        None => Ok(Left::default()),
        Some(refused) => all_but_refused(sink, plan, steps, refused).await,
    }
}

/// The same for rows that were refused together.
pub async fn all_but_refused(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    steps: Steps,
    refused: Error,
) -> Result<Left> {
    if refused.code() != Code::ForeignKey || plan.pointers.is_empty() {
        return in_any_order(sink, plan, steps, &mut |_| ()).await;
    }
    let (steps, mut lacking) = ready(sink, plan, steps).await?;
    let mut left = in_any_order(sink, plan, steps, &mut |_| ()).await?;
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
    written: &mut (dyn FnMut(usize) + Send),
) -> Result<Left> {
    let mut left = Left { steps, error: None };
    if left.steps.is_empty() {
        return Ok(left);
    }
    loop {
        let before = left.steps.len();
        // Which of them are refused for a value that another row has.
        let mut taken = Vec::new();
        let mut parts = vec![std::mem::take(&mut left.steps)];
        while let Some(mut part) = parts.pop() {
            let writes = part.iter().map(|(_, write)| write.clone()).collect();
            let refused = put(sink, plan, writes).await?;
            if refused.is_none() {
                part.iter().filter_map(|(number, _)| *number).for_each(&mut *written);
            } else if part.len() == 1 {
                taken.push(refused.as_ref().is_some_and(|e| e.code() == Code::KeyConflict));
                left.steps.append(&mut part);
                left.error = refused;
            } else {
                let second = part.split_off(part.len() / 2);
                parts.extend([second, part]);
            }
        }
        if left.steps.is_empty() {
            return Ok(Left::default());
        }
        if left.steps.len() == before {
            return swapped(sink, plan, left, &taken, written).await;
        }
    }
}

/// Rows that stand in each other's way because they have swapped unique values: these are set aside and the rows are written behind that,
/// all or none of it. Answers what is left.
async fn swapped(
    sink: &mut dyn Sink,
    plan: &Arc<MappingPlan>,
    mut left: Left,
    taken: &[bool],
    written: &mut (dyn FnMut(usize) + Send),
) -> Result<Left> {
    let mut taken = taken.iter();
    let is_upsert =
        |write: &Write| matches!(write.op, WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert);
    let (circle, others): (Steps, Steps) = std::mem::take(&mut left.steps)
        .into_iter()
        .partition(|(_, write)| taken.next().is_some_and(|taken| *taken) && is_upsert(write));
    let mut writes: Vec<Write> = circle.iter().map(|(_, write)| write.clone()).collect();
    let done = match set_aside(plan, &writes) {
        Some(aside) if circle.len() > 1 => {
            match seek::answer_writes(sink, plan, &mut writes).await {
                Err(error) => missing(error).map(|_| false)?,
                Ok(()) => {
                    let mut batches = batches_of(plan, aside);
                    batches.extend(batches_of(plan, writes));
                    sink.attempt(&batches, &[]).await?.is_none()
                }
            }
        }
        Some(_) | None => false,
    };
    left.steps = others;
    if done {
        circle.iter().filter_map(|(number, _)| *number).for_each(written);
        if left.steps.is_empty() {
            left.error = None;
        }
    } else {
        left.steps.extend(circle);
    }
    Ok(left)
}

/// What takes their unique values away from rows that are there: NULL where it may be, else a value that nobody has.
fn set_aside(plan: &MappingPlan, writes: &[Write]) -> Option<Vec<Write>> {
    let mut columns: Vec<usize> = Vec::new();
    for index in &plan.uniques {
        let free = |column: &&usize| !plan.target.key.contains(column);
        let nullable = |column: &&usize| plan.columns.get(**column).is_some_and(|c| c.nullable);
        let column = index.iter().filter(free).find(nullable);
        let column = column.or_else(|| index.iter().find(free))?;
        if !columns.contains(column) {
            columns.push(*column);
        }
    }
    if columns.is_empty() || plan.call.is_some() {
        return None;
    }
    let shared: Arc<[usize]> = columns.into();
    let aside = writes.iter().map(|write| {
        let cell = |column: &usize| {
            let at = write.columns.iter().position(|c| c == column)?;
            write.row.get(at).cloned()
        };
        let key = plan.target.key.iter().map(cell).collect::<Option<Vec<Value>>>()?;
        let free = |column: &usize| match plan.columns.get(*column)?.nullable {
            true => Some(Value::Null),
            false => nobodys(&plan.target.columns.get(*column)?.data_type, &key),
        };
        let mut row = shared.iter().map(free).collect::<Option<Vec<Value>>>()?;
        row.extend(key);
        let (op, columns, row) = (WriteOp::Patch, shared.clone(), row.into());
        Some(Write { op, columns, row, keys: write.keys, uniques: None, waits: Vec::new() })
    });
    aside.collect()
}

/// A value of a type that hardly any row has, another for each key.
fn nobodys(data_type: &DataType, key: &[Value]) -> Option<Value> {
    let hash = hash(b"set aside", key);
    let number = hash.iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    match data_type {
        DataType::Text { chars_max, .. } => {
            let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let length = chars_max.map_or(32, |max| usize::try_from(max).unwrap_or(32)).min(32);
            (length >= 12).then(|| Value::Text(digits.get(..length).unwrap_or_default().into()))
        }
        DataType::Int { bits: 32, unsigned: false } => {
            Some(Value::Int(-i64::from(number as u32 >> 1)))
        }
        DataType::Int { bits: 64, unsigned: false } => {
            Some(Value::Int(-i64::try_from(number >> 2).ok()?))
        }
        DataType::Uuid => Some(Value::Uuid(hash)),
        _ => None,
    }
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
