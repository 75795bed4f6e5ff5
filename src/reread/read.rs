//! Reading the rows of touched keys and writing what they are now, in the target session's own task.

mod asked;
mod found;
mod gone;
mod ready;
mod rows;
mod view;
mod wait;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidelock_core::{
    Connector, Copier, CopyTable, Error, Key, Piece, Position, Result, Side, Sink, TableSchema,
    TransactionId,
};

use self::wait::keep;
pub use self::wait::{put_off, put_off_values, waiting};
use self::write::remove;
pub use self::write::{Left, all_but_refused};
use super::late::Late;
use super::memory::{Hash, hash};
use super::touched::Touched;
use crate::apply::PING;
use crate::apply::gate::{Gates, Memories};
use crate::apply::tally::Tally;
use crate::mapping::plan::ViewPlan;
use crate::mapping::{BoundPlan, MappingPlan};

/// Keys asked for at a time.
const KEYS_A_READ: usize = 2_000;
/// Keys that were left to the target's memory and are taken up at a time.
const SPILLED_AT_ONCE: usize = 20_000;
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
            if let Some(view) = &by.plan.view.clone() {
                // What is owed of keys goes with them where they do not stay here.
                self.ask(sink, view, &mut by)
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
        self.gates.owe_nothing();
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
