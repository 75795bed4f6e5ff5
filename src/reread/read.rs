//! Reading the rows of touched keys and writing what they are now, in the target session's own task.

mod found;
mod ready;
mod wait;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidelock_core::{
    Connector, Copier, CopyTable, Error, Key, KeyRange, MemoryKind, MemoryScope, OpKind, Piece,
    Position, Result, Side, Sink, TableSchema, TransactionId, Value,
};

use self::found::{likeness, recall};
use self::wait::keep;
pub use self::wait::{put_off, waiting};
pub use self::write::{Left, all_but_refused};
use self::write::{Steps, as_many_as_can_be, call_groups, instead, point_anew, put, remove};
use super::late::Late;
use super::memory::{Hash, Known, hash};
use super::touched::{Refused, Touched, TouchedBy};
use crate::apply::PING;
use crate::apply::batch::weight;
use crate::apply::gate::{Gates, KeyState, Memories, Pass};
use crate::apply::tally::{Fate, Tally};
use crate::mapping::plan::ViewPlan;
use crate::mapping::rules::Signs;
use crate::mapping::{Becomes, BoundPlan, MappingPlan, Write};

/// Keys asked for at a time.
const KEYS_A_READ: usize = 2_000;
/// Keys that were left to the target's memory and are taken up at a time.
const SPILLED_AT_ONCE: usize = 20_000;
/// Remembered rows that are looked for in all of a view at a time.
const REMEMBERED_AT_ONCE: usize = 300_000;
/// Memory that rows may take which were refused and are looked at together.
const BYTES_LEFT_MAX: usize = 64 << 20;
/// Memory that the rows of such a question may take.
const BYTES_A_READ: usize = 16 << 20;
/// Keys that were refused so often and for so long are refused for their own fault, whatever else is ahead.
const REFUSALS_MAX: u32 = 20;
const REFUSED_MAX: Duration = Duration::from_secs(300);
/// Between two looks whether a snapshot shows what is to be seen.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long that may take before it is told.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

/// Reads rows again. It belongs to the target session's task.
pub struct Rereads {
    flow: String,
    source: Arc<dyn Connector>,
    copier: Option<Box<dyn Copier>>,
    bound: HashMap<Arc<str>, (u64, BoundPlan)>,
    /// What of the views' rows is worth sending.
    pub gates: Gates,
}

/// What came of it.
#[derive(Default)]
pub struct Reread {
    /// What became of the rows.
    pub tally: Tally,
    /// Keys that wait for what their rows point to.
    pub waiting: Vec<Waiting>,
    /// Keys that were left to the target's memory, for the same.
    pub put_off: Vec<PutOff>,
    /// The target keys that were written, by mapping: a sweep must know them.
    pub wrote: Vec<(Arc<str>, Vec<[u64; 2]>)>,
}

/// Keys of a mapping that the target refused for now.
pub struct Waiting {
    /// The number of the mapping.
    pub number: usize,
    /// The mapping.
    pub plan: Arc<MappingPlan>,
    /// The keys.
    pub keys: Vec<Key>,
    /// Those of them that are sent whatever gate the mapping has.
    pub owed: HashSet<Hash>,
    /// Whether they are sent though they are as they were last sent.
    pub force: bool,
    /// The place in the log that they wait for; at once if absent.
    pub upto: Option<Position>,
    /// Since when, and how often they have been refused.
    pub since: Instant,
    /// How often they have been refused.
    pub refusals: u32,
}

/// Keys of a table whose rows were to be written now if they could.
pub struct PutOff {
    /// The number of the mapping.
    pub number: usize,
    /// The mapping.
    pub plan: Arc<MappingPlan>,
    /// The keys that could not.
    pub keys: Vec<Key>,
    /// Whether any could.
    pub progressed: bool,
    /// Whether some of those that could not may still point to what was there before.
    pub holds: bool,
}

/// What went wrong, and at which mapping.
pub struct Blamed {
    /// What.
    pub error: Error,
    /// Where.
    pub mapping: Option<Arc<str>>,
}

impl From<Error> for Blamed {
    fn from(error: Error) -> Blamed {
        Blamed { error, mapping: None }
    }
}

/// A row that is to be removed, and what of it is to be forgotten.
struct Gone {
    key: Key,
    forget: Option<Bytes>,
    /// Whose row it was, where the same row may be another group's by now.
    group: Hash,
    /// The key of the view that told.
    told_by: Key,
    /// Whether it has been removed already.
    removed: bool,
}

/// A mapping's rows that are to be removed, when all that comes is there.
struct Removal {
    number: usize,
    plan: Arc<MappingPlan>,
    gone: Vec<Gone>,
    waited: Option<(Instant, u32)>,
}

impl Removal {
    fn none(number: usize, plan: &Arc<MappingPlan>) -> Removal {
        Removal { number, plan: plan.clone(), gone: Vec::new(), waited: None }
    }
}

impl Rereads {
    /// For a flow from this source.
    pub fn new(flow: &str, source: Arc<dyn Connector>, gates: Gates) -> Rereads {
        Rereads { flow: flow.to_owned(), source, copier: None, bound: HashMap::new(), gates }
    }

    /// Writes what the touched rows are now, inside the open transaction: upserts in the mappings' order, then
    /// deletes the other way round.
    pub async fn run(
        &mut self,
        sink: &mut dyn Sink,
        touched: Touched,
        reached: &Position,
    ) -> std::result::Result<Reread, Blamed> {
        self.run_before(sink, touched, reached, Late::default()).await
    }

    /// The same, with these deletes among its own.
    pub async fn run_before(
        &mut self,
        sink: &mut dyn Sink,
        touched: Touched,
        reached: &Position,
        mut late: Late,
    ) -> std::result::Result<Reread, Blamed> {
        let Touched { mappings, delivered, .. } = touched;
        let mut work = Work {
            number: 0,
            upto: reached.clone(),
            ahead: false,
            reached,
            delivered: &delivered,
            owed: HashSet::new(),
            force: false,
            done: Reread::default(),
        };
        self.look(sink, &mut work).await?;
        let (mut removals, mut waited) = (Vec::new(), Vec::new());
        let mut spills = HashMap::new();
        for (number, mut by) in mappings {
            let mapping = by.plan.name.clone();
            waited.push((mapping.clone(), std::mem::take(&mut by.waited)));
            work.number = number;
            work.force = by.force;
            if !by.pushed.is_empty() {
                self.find_pushed(sink, &mut by, &mut work)
                    .await
                    .map_err(|error| Blamed { mapping: Some(mapping.clone()), error })?;
            }
            work.owed = std::mem::take(&mut by.owed);
            let outcome = match by.plan.view.clone() {
                Some(view) => {
                    let spilled = by.spilled.then(|| by.plan.clone());
                    let mut read = Box::pin(self.view(sink, &view, by, &mut work)).await;
                    if let (Ok(removal), Some(plan)) = (&mut read, spilled) {
                        // Its turn among the removals comes, whether or not something is known to go.
                        removal.get_or_insert_with(|| Removal::none(number, &plan));
                        spills.insert(number, view.clone());
                        let spilled = self.spilled(sink, &plan, &view, &mut work, false);
                        spilled
                            .await
                            .map_err(|error| Blamed { mapping: Some(mapping.clone()), error })?;
                    }
                    read.map(|removal| removals.extend(removal))
                }
                None => self.rows(sink, by, &mut work).await,
            };
            outcome.map_err(|error| Blamed { mapping: Some(mapping), error })?;
        }
        (work.owed, work.force) = (HashSet::new(), false);
        for removal in removals.into_iter().rev() {
            let mapping = removal.plan.name.clone();
            work.number = removal.number;
            late.before(sink, Some(removal.number)).await?;
            let plan = removal.plan.clone();
            let spill = spills.remove(&removal.number);
            let ended = async {
                remove(sink, &mut self.gates, removal, &mut work).await?;
                match spill {
                    Some(view) => self.spilled(sink, &plan, &view, &mut work, true).await,
                    None => Ok(()),
                }
            };
            Box::pin(ended).await.map_err(|error| Blamed { mapping: Some(mapping), error })?;
            (work.owed, work.force) = (HashSet::new(), false);
        }
        late.before(sink, None).await?;
        // It would keep statements on the source's tables waiting, and old rows from being cleaned up.
        if let Some(copier) = &mut self.copier {
            copier.close_snapshot().await.map_err(|e| e.of(Side::Source))?;
        }
        for Memories { scope, put, gone } in self.gates.take() {
            sink.remember(&scope, &put, &gone).await?;
        }
        for (mapping, keys) in waited {
            keep(sink, mapping, keys, &work.done).await?;
        }
        Ok(work.done)
    }

    /// The same for keys of a view that were too many to be kept here: they are read twice, first to write what is there, and at the end to
    /// remove what is not. So they take effect with what touched them, and in the same order as few.
    async fn spilled(
        &mut self,
        sink: &mut dyn Sink,
        plan: &Arc<MappingPlan>,
        view: &ViewPlan,
        work: &mut Work<'_>,
        ends: bool,
    ) -> Result<()> {
        let (mut after, mut more, number) = (None, true, work.number);
        while more {
            let keys;
            (keys, more) = waiting(sink, plan, &mut after, SPILLED_AT_ONCE).await?;
            let mut touched = Touched::default();
            let by = touched.of(number, plan);
            by.take_up(keys, Instant::now());
            let Some(mut by) = touched.mappings.remove(&number) else { continue };
            let waited = std::mem::take(&mut by.waited);
            (work.owed, work.force) = (std::mem::take(&mut by.owed), by.force && !ends);
            // What was written the first time is not to be counted again.
            let tally = ends.then(|| std::mem::take(&mut work.done.tally));
            let removal = Box::pin(self.view(sink, view, by, work)).await?;
            let Some(tally) = tally else { continue };
            work.done.tally = tally;
            if let Some(removal) = removal {
                remove(sink, &mut self.gates, removal, work).await?;
            }
            keep(sink, plan.name.clone(), waited, &work.done).await?;
        }
        Ok(())
    }

    /// Opens a snapshot that shows the whole batch, and takes note of what it may show beyond.
    async fn look(&mut self, sink: &mut dyn Sink, work: &mut Work<'_>) -> Result<()> {
        work.upto = pinging(sink, self.snapshot(work.reached, work.delivered)).await??;
        // Where nothing lies ahead of us, what a row points to does not lie there either.
        work.ahead |= !self.source.compare(work.reached, &work.upto)?.reached();
        Ok(())
    }

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

    /// Opens a snapshot that shows the whole batch.
    async fn snapshot(
        &mut self,
        reached: &Position,
        delivered: &[TransactionId],
    ) -> Result<Position> {
        let began = Instant::now();
        let mut told = false;
        loop {
            let copier = self.copier().await?;
            let opened = match copier.snapshot(reached, delivered).await {
                Ok(opened) => opened,
                Err(error) => {
                    self.copier = None;
                    return Err(error.of(Side::Source));
                }
            };
            if let Some(upto) = opened {
                return Ok(upto);
            }
            if !told && began.elapsed() > NOTICE_AFTER {
                told = true;
                tracing::warn!(flow = %self.flow, "reading rows again waits: the source has logged transactions that its own queries do not see yet (a synchronous standby that does not answer?)");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn copier(&mut self) -> Result<&mut Box<dyn Copier>> {
        if self.copier.is_none() {
            self.copier = Some(self.source.copier().await.map_err(|e| e.of(Side::Source))?);
        }
        self.copier.as_mut().ok_or_else(|| Error::bug("a connection that was just opened is gone"))
    }

    /// The rows of some keys, asked for in as many questions as their size needs.
    async fn read(
        &mut self,
        sink: &mut dyn Sink,
        table: &CopyTable,
        by: &[String],
        keys: &[Key],
        work: &mut Work<'_>,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut parts: Vec<&[Key]> = vec![keys];
        while let Some(part) = parts.pop() {
            let limit = if part.len() == 1 { usize::MAX } else { BYTES_A_READ };
            let reading = self.copier().await?.read_keys(table, by, part, limit);
            let piece = match pinging(sink, reading).await? {
                Ok(piece) => piece,
                Err(error) => {
                    self.copier = None;
                    return Err(error.of(Side::Source));
                }
            };
            if !piece.cut {
                pieces.push(piece);
                continue;
            }
            let (first, second) = part.split_at(part.len() / 2);
            parts.extend([second, first]);
            // A later one shows the batch as well.
            self.look(sink, work).await?;
        }
        Ok(pieces)
    }

    fn bind(&mut self, plan: &Arc<MappingPlan>, shape: &TableSchema) -> Result<&mut BoundPlan> {
        let known = self.bound.get(&plan.name).is_some_and(|(version, bound)| {
            *version == shape.version && bound.plan().target.id == plan.target.id
        });
        if !known {
            let bound = BoundPlan::new(plan, shape)?;
            self.bound.insert(plan.name.clone(), (shape.version, bound));
        }
        let bound = self.bound.get_mut(&plan.name).map(|(_, bound)| bound);
        let bound = bound.ok_or_else(|| Error::bug("a plan that was just bound is gone"))?;
        bound.tick();
        Ok(bound)
    }

    /// Rows of a table, of which the log told a part.
    async fn rows(
        &mut self,
        sink: &mut dyn Sink,
        by: TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let plan = by.plan;
        let Some(table) = plan.copy.clone() else {
            return Err(Error::bug("a row is to be read again that has no key to be read by"));
        };
        let keys: Vec<Key> = by.rows.into_values().collect();
        let last = by.refused == Refused::Told;
        let together = !last && plan.call.is_none() && keys.len() > KEYS_A_READ;
        let (mut put_off, mut gathered) = (Vec::new(), Vec::new());
        let (mut rest, mut bytes) = (Steps::new(), 0);
        let mut progressed = false;
        for some in keys.chunks(KEYS_A_READ) {
            let (mut steps, mut read) = (Vec::new(), Vec::new());
            for piece in self.read(sink, &table, &table.key, some, work).await? {
                let bound = self.bind(&plan, &piece.table)?;
                for row in &piece.rows {
                    // One that is gone by now has its delete still ahead, or had it in this batch.
                    match bound.now(row)? {
                        Becomes::Write(write) => {
                            steps.push((Some(read.len()), write));
                            read.push(bound.source_key(row)?);
                        }
                        Becomes::Nothing | Becomes::Unknown { .. } => {}
                    }
                }
            }
            let wrote = steps.iter().map(|(_, write)| write.keys).collect();
            work.done.wrote.push((plan.name.clone(), wrote));
            let count = steps.len();
            let Left { steps, error } = match plan.call.is_some() {
                // Calls are made in the order of the log.
                true => {
                    let writes = steps.into_iter().map(|(_, write)| write).collect();
                    let refused = put(sink, &plan, writes).await?;
                    work.refused(&plan, refused, some.to_vec(), by.waited_since)?;
                    continue;
                }
                // Rows that take values from each other may be read apart.
                false if together => Left { steps, error: None },
                false => as_many_as_can_be(sink, &plan, steps, last).await?,
            };
            progressed |= steps.len() < count;
            if by.refused == Refused::Told {
                let left = steps.iter().filter_map(|(at, _)| read.get((*at)?).cloned());
                work.refused(&plan, error, left.collect(), by.waited_since)?;
                continue;
            }
            for (at, write) in steps {
                let Some(key) = at.and_then(|at| read.get(at)).cloned() else { continue };
                bytes += weight(&write.row);
                rest.push((Some(gathered.len()), write));
                gathered.push(key);
            }
            if bytes > BYTES_LEFT_MAX {
                let count = rest.len();
                rest = as_many_as_can_be(sink, &plan, rest, last).await?.steps;
                progressed |= rest.len() < count;
                put_off.extend(rest.drain(..).filter_map(|(at, _)| gathered.get(at?).cloned()));
                gathered.clear();
                bytes = 0;
            }
        }
        if by.refused == Refused::Told {
            return Ok(());
        }
        let mut holds = !put_off.is_empty();
        if together && !rest.is_empty() {
            let count = rest.len();
            rest = as_many_as_can_be(sink, &plan, rest, last).await?.steps;
            progressed |= rest.len() < count;
        }
        put_off.extend(rest.iter().filter_map(|(at, _)| gathered.get((*at)?).cloned()));
        if by.refused == Refused::Loosened {
            let count = rest.len();
            let alone = loosened(&plan, rest);
            let left = as_many_as_can_be(sink, &plan, alone, last).await?.steps;
            progressed |= left.len() < count;
            holds |= point_anew(sink, &plan, &left, |steps| loosened(&plan, steps)).await?;
        }
        let number = work.number;
        work.done.put_off.push(PutOff { number, plan, keys: put_off, progressed, holds });
        Ok(())
    }

    /// Leaves out what is not worth sending now. Answers what was known of the keys of the rest, in case the target refuses them.
    fn keep_back(
        &mut self,
        view: &ViewPlan,
        found: &mut Found,
        known: &mut HashMap<Bytes, Known>,
        work: &Work<'_>,
    ) -> Vec<KeyState> {
        let number = work.number;
        let mut before = Vec::new();
        if !self.gates.has(number) || view.groups {
            return before;
        }
        let now = crate::apply::now_micros();
        let mut kept = HashSet::new();
        found.rows.retain(|at, row| {
            let state = self.gates.state(number, &row.key);
            if work.force || work.owed.contains(&row.group) {
                self.gates.settle(number, &row.key, row.signs);
            } else {
                let told = (Some(row.told.clone()), None);
                if self.gates.pass(number, &row.key, row.signs, told, now) != Pass::Send {
                    // It is neither sent nor gone.
                    known.remove(at);
                    kept.insert(row.group);
                    return false;
                }
            }
            before.extend(state);
            true
        });
        found.kept = kept;
        before
    }

    /// Finds the keys of rows that were asked for by a column that feeds the mapping's key.
    async fn find_pushed(
        &mut self,
        sink: &mut dyn Sink,
        by: &mut TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let plan = by.plan.clone();
        let (Some(table), Some(pushed)) = (&plan.copy, &plan.rows.pushed) else {
            return Err(Error::bug("rows are asked for by a key that they cannot be read by"));
        };
        let values: Vec<Key> = std::mem::take(&mut by.pushed).into_values().collect();
        for some in values.chunks(KEYS_A_READ) {
            let column = std::slice::from_ref(&pushed.column);
            for piece in self.read(sink, table, column, some, work).await? {
                let bound = self.bind(&plan, &piece.table)?;
                let places =
                    plan.view.as_ref().map(|view| view.places(&piece.table)).transpose()?;
                for row in &piece.rows {
                    // Others may have the same value.
                    if !bound.takes(row)? {
                        continue;
                    }
                    match &places {
                        None => by.owe(bound.source_key(row)?),
                        Some(places) => {
                            by.owe(
                                places.iter().filter_map(|&at| row.0.get(at).cloned()).collect(),
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows of a view. Answers those that are to be removed.
    async fn view(
        &mut self,
        sink: &mut dyn Sink,
        view: &ViewPlan,
        by: TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<Option<Removal>> {
        let TouchedBy { plan, mut keys, queries, waited_since: waited, force, .. } = by;
        for (number, values) in queries {
            let Some(query) = view.queries.get(number) else {
                return Err(Error::bug("a track's query is not in the plan"));
            };
            let values: Vec<_> = values
                .into_iter()
                .map(|v| (v.column, v.data_type, v.values.into_values().collect()))
                .collect();
            let asking = self.copier().await?.track_keys(query, &values);
            let found = match pinging(sink, asking).await? {
                Ok(found) => found,
                Err(error) => {
                    self.copier = None;
                    return Err(error.of(Side::Source));
                }
            };
            for key in found {
                let Some(key) = view.key(&key)? else { continue };
                keys.entry(hash(&[], key.iter())).or_insert(key);
            }
        }
        let Some(table) = plan.copy.clone() else {
            return Err(Error::bug("a view without its key"));
        };
        let keys: Vec<Key> = keys.into_values().collect();
        let mut gone = Vec::new();
        for some in keys.chunks(KEYS_A_READ) {
            let pieces = self.read(sink, &table, &view.by, some, work).await?;
            let mut found = Found::default();
            for piece in &pieces {
                found.take(self.bind(&plan, &piece.table)?, view, piece)?;
            }
            // A key that a collation of the source calls equal to one that was found: only what is remembered of it is gone.
            let (mut absent, mut respelt): (Vec<&Key>, Vec<&Key>) = (Vec::new(), Vec::new());
            for key in some {
                let exact = hash(&[], key.iter());
                if found.groups.contains(&exact) {
                    continue;
                }
                if found.likely.contains(&likeness(key)) {
                    let one = std::slice::from_ref(key);
                    let alone = self.read(sink, &table, &view.by, one, work).await?;
                    if alone.iter().any(|piece| !piece.rows.is_empty()) {
                        respelt.push(key);
                        continue;
                    }
                }
                absent.push(key);
            }
            let scope = MemoryScope { mapping: plan.name.clone(), kind: MemoryKind::View };
            if let Some(call) = plan.call.clone().filter(|call| call.rows.is_some()) {
                let groups = found.groups_of(&absent, &plan, view)?;
                let refused =
                    call_groups(sink, &scope, (&plan, &call), groups, force, work).await?;
                work.refused(&plan, refused, some.to_vec(), waited)?;
                continue;
            }
            let missed = absent.iter().chain(&respelt).copied();
            let mut known = recall(sink, &scope, view, &found, missed).await?;
            let before = self.keep_back(view, &mut found, &mut known, work);
            let kept = std::mem::take(&mut found.kept);
            let likely = std::mem::take(&mut found.likely);
            let changed = found.changed(&plan, &mut known, force, kept.len() as u64)?;
            // What is still known and was not found has vanished.
            let mut vanished = Vec::new();
            let tellers: HashMap<Hash, &Key> = match known.is_empty() {
                true => HashMap::new(),
                false => some.iter().map(|key| (hash(&[], key.iter()), key)).collect(),
            };
            for (at, known) in known {
                let mut group = Hash::default();
                group.copy_from_slice(at.get(..16).unwrap_or(&[0; 16]));
                let told_by = tellers.get(&group).copied().cloned().unwrap_or_default();
                vanished.push(Gone {
                    key: known.key,
                    forget: Some(at),
                    group,
                    told_by,
                    removed: false,
                });
            }
            let remembered: HashSet<Hash> = vanished.iter().map(|gone| gone.group).collect();
            for key in absent {
                let group = hash(&[], key.iter());
                if view.groups || remembered.contains(&group) {
                    continue;
                }
                let shape = match pieces.first() {
                    Some(piece) => piece.table.clone(),
                    None => return Err(Error::bug("a question for keys had no answer")),
                };
                if let Some(target) = self.bind(&plan, &shape)?.key_alone(&shape, &view.by, key)? {
                    let told_by = key.clone();
                    vanished.push(Gone {
                        key: target,
                        forget: None,
                        group,
                        told_by,
                        removed: false,
                    });
                }
            }
            let count = changed.writes.len();
            let wrote = keys_of(&changed.writes);
            let refused =
                instead(sink, &plan, view, changed.writes, &mut vanished, &likely).await?;
            if let Some(error) = refused {
                self.gates.restore(work.number, before);
                // What is kept back has nothing to wait for.
                let is_sent = |key: &&Key| !kept.contains(&hash(&[], key.iter()));
                let keys = some.iter().filter(is_sent).cloned().collect();
                work.refused(&plan, Some(error), keys, waited)?;
                continue;
            }
            for (kind, fate, rows) in changed.counts {
                work.done.tally.add_many(work.number, kind, fate, rows);
            }
            if count > 0 {
                work.done.wrote.push((plan.name.clone(), wrote));
                sink.remember(&scope, &changed.put, &[]).await?;
                if view.moves {
                    let owner = MemoryScope { kind: MemoryKind::Owner, ..scope.clone() };
                    sink.remember(&owner, &changed.owners, &[]).await?;
                }
            }
            gone.append(&mut vanished);
        }
        Ok((!gone.is_empty()).then_some(Removal { number: work.number, plan, gone, waited }))
    }
}

/// Waits for the source, and meanwhile tells the target's session that it is in use: its server would end it.
async fn pinging<T: Send>(
    sink: &mut dyn Sink,
    asking: impl Future<Output = T> + Send,
) -> Result<T> {
    tokio::pin!(asking);
    loop {
        tokio::select! {
            biased;
            answer = &mut asking => return Ok(answer),
            () = tokio::time::sleep(PING) => sink.ping().await?,
        }
    }
}

/// The same rows, pointing to nothing where they may.
fn loosened(plan: &MappingPlan, mut steps: Steps) -> Steps {
    for (_, write) in &mut steps {
        let cells = write.columns.iter().zip(write.row.iter_mut());
        for (_, cell) in cells.filter(|(column, _)| plan.loosable.contains(column)) {
            *cell = Value::Null;
        }
    }
    steps
}

fn keys_of(writes: &[Write]) -> Vec<[u64; 2]> {
    writes.iter().map(|write| write.keys).collect()
}

/// What belongs to one run.
struct Work<'a> {
    number: usize,
    /// What the snapshot that was taken last shows.
    upto: Position,
    /// Whether the rows that were read may be later than the flow.
    ahead: bool,
    reached: &'a Position,
    delivered: &'a [TransactionId],
    /// What is owed of the mapping that is at work, and whether all of it is sent.
    owed: HashSet<Hash>,
    force: bool,
    done: Reread,
}

impl Work<'_> {
    /// Keys whose rows the target refused wait, if what they point to may be ahead of the flow.
    fn refused(
        &mut self,
        plan: &Arc<MappingPlan>,
        refused: Option<Error>,
        keys: Vec<Key>,
        waited: Option<(Instant, u32)>,
    ) -> Result<()> {
        let Some(error) = refused else { return Ok(()) };
        let (since, refusals) = waited.unwrap_or((Instant::now(), 0));
        let for_long = refusals >= REFUSALS_MAX && since.elapsed() > REFUSED_MAX;
        if !self.ahead || for_long || keys.is_empty() {
            return Err(error);
        }
        let (number, upto) = (self.number, Some(self.upto.clone()));
        let (plan, refusals) = (plan.clone(), refusals + 1);
        let is_owed = |key: &Key| Some(hash(&[], key.iter())).filter(|key| self.owed.contains(key));
        let (owed, force) = (keys.iter().filter_map(is_owed).collect(), self.force);
        let waiting = Waiting { number, plan, keys, owed, force, upto, since, refusals };
        self.done.waiting.push(waiting);
        Ok(())
    }
}

/// What a view gave for some keys.
#[derive(Default)]
struct Found {
    /// Rows by where they are remembered.
    rows: HashMap<Bytes, FoundRow>,
    /// The keys that have rows, exactly and about.
    groups: HashSet<Hash>,
    likely: HashSet<u64>,
    /// The keys of those that are not sent now.
    kept: HashSet<Hash>,
}

struct FoundRow {
    key: Key,
    group: Hash,
    /// The view's key, as the view has it.
    told: Key,
    signs: Option<Signs>,
    write: Write,
}

/// A group of rows, for a routine that takes it whole.
struct Group {
    hash: Hash,
    /// The group's cells at the target, by their places in a row.
    key: Vec<(usize, Value)>,
    rows: Vec<Write>,
}

struct Changed {
    writes: Vec<Write>,
    put: Vec<(Bytes, Bytes)>,
    owners: Vec<(Bytes, Bytes)>,
    counts: [(OpKind, Fate, u64); 3],
}
