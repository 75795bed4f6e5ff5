//! What of each mapping is copied, and the pieces on their way. Pure but for one question: where keys
//! are ordered by a collation, the source is asked.
//!
//! **Parts.** The keys of a mapping may be split into parts, each with a cursor of its own, so that several can be copied at
//! once. They cover every key there is and never overlap, so each key lies in one part, and there it is copied,
//! being read, or to be read later. What a change means follows from these two answers, for the key before
//! and the key after it; whether both are of one part makes no difference.

mod held;
mod keep;
mod meet;
mod ready;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tidelock_core::{
    Connector, Copier, CopyPhase, CopyReason, CopyRow, CopyTable, Cursor, Key, Part, Piece,
    Position, Reach, Result, TransactionId,
};
use tokio::sync::oneshot;

use super::Job;
use super::merge::Kept;
use super::request::{Outcome, Request, Watching};
use crate::flow::copies::is_followed;
use held::Follow;
use keep::Places;
pub use meet::Meeting;
pub use ready::{RowsReady, Step, SweepReady};

/// Transactions that are kept until a snapshot has shown them. Beyond, one is opened for that alone: a copy may wait for
/// something else for days.
const DELIVERED_MAX: usize = 50_000;
/// Memory for the changes kept for one piece of each worker together; beyond its share a piece is given up and read again.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// A range that is being read; the one before it ends where it begins.
struct Watched {
    upto: Option<Key>,
    last: bool,
    kept: Vec<Kept>,
    bytes: usize,
    spoiled: bool,
}

/// A piece that waits for its place in the log.
struct Waiting {
    piece: Piece,
    upto: Position,
    total: u64,
    reply: oneshot::Sender<Outcome>,
}

/// Keys of the target to be removed when their place in the log has come.
struct Sweeping {
    absent: Vec<Key>,
    upto: Position,
    cursor: Option<Cursor>,
    reply: oneshot::Sender<Outcome>,
}

/// A part, and the pieces of it that are on their way.
struct Course {
    part: Part,
    watched: VecDeque<Watched>,
    waiting: VecDeque<Waiting>,
}

impl Course {
    fn new(part: Part) -> Course {
        Course { part, watched: VecDeque::new(), waiting: VecDeque::new() }
    }
}

struct Region {
    table: CopyTable,
    row: CopyRow,
    /// In the order of their keys; only the last has no end.
    courses: Vec<Course>,
    /// The stream is applied everywhere, and the pieces are laid over it.
    overlaid: bool,
    /// The stream is applied everywhere until the first piece is to be read: no row lacks.
    followed: bool,
    touched: Option<HashSet<u64>>,
    sweeping: Option<Sweeping>,
    places: HashMap<u64, Places>,
    /// Whether keys can be compared here.
    alike: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Copied,
    /// Of this part and this range of it.
    Watched(usize, usize),
    Beyond,
}

/// The mappings that are being copied.
pub struct Regions {
    source: Arc<dyn Connector>,
    judge: Option<Box<dyn Copier>>,
    target: Arc<dyn Connector>,
    target_judge: Option<Box<dyn Copier>>,
    follows: HashMap<Arc<str>, Follow>,
    regions: BTreeMap<Arc<str>, Region>,
    /// Transactions delivered that no snapshot is known to have shown, and the number of the last.
    delivered: VecDeque<TransactionId>,
    last: u64,
    /// So many may be kept by now.
    delivered_max: usize,
    kept_bytes_max: usize,
}

impl Regions {
    /// Regions of the mappings whose copy has not ended, copied by so many workers.
    pub fn new(
        source: Arc<dyn Connector>,
        target: Arc<dyn Connector>,
        copies: impl IntoIterator<Item = Job>,
        workers: usize,
    ) -> Regions {
        let regions = copies
            .into_iter()
            .map(|Job { mapping, table, alike, by_key, row, .. }| {
                let parts = match row.phase {
                    CopyPhase::Sweep | CopyPhase::Done | CopyPhase::Left => {
                        vec![Part { upto: None, reach: Reach::All }]
                    }
                    CopyPhase::Held => vec![Part::whole()],
                    CopyPhase::Rows => parts_of(&row, &table),
                };
                let region = Region {
                    table,
                    overlaid: by_key || row.reason == CopyReason::Backfill,
                    followed: is_followed(&row),
                    row,
                    courses: parts.into_iter().map(Course::new).collect(),
                    touched: None,
                    sweeping: None,
                    places: HashMap::new(),
                    alike,
                };
                (mapping, region)
            })
            .collect();
        Regions {
            source,
            judge: None,
            target,
            target_judge: None,
            follows: HashMap::new(),
            regions,
            delivered: VecDeque::new(),
            last: 0,
            delivered_max: DELIVERED_MAX,
            kept_bytes_max: KEPT_BYTES_MAX / workers.max(1),
        }
    }

    /// Whether the log has been followed up to a place.
    pub fn is_past(&self, reached: &Position, upto: &Position) -> Result<bool> {
        self.source.compare(reached, upto).map(|order| order.reached())
    }

    /// Whether every copy has ended.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether some copy is about to look for rows that only the target has.
    pub fn are_swept(&self) -> bool {
        self.regions.values().any(|region| region.row.phase == CopyPhase::Sweep)
    }

    /// Whether everything of a mapping is still to be read.
    pub fn begins(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(|region| {
            region.row.phase == CopyPhase::Rows && region.is_untouched() && !region.applies()
        })
    }

    /// Whether no piece of a mapping's copy has been written yet.
    pub fn is_at_first(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(Region::is_at_first)
    }

    /// How far the copy of a mapping has come; `None` if it has ended.
    pub fn row(&self, mapping: &str) -> Option<&CopyRow> {
        self.regions.get(mapping).map(|region| &region.row)
    }

    /// Gives a mapping up: it has stopped.
    pub fn drop_mapping(&mut self, mapping: &str) {
        self.regions.remove(mapping);
    }

    /// Notes that a transaction of copied tables was delivered.
    pub fn note(&mut self, id: TransactionId) {
        if !self.regions.is_empty() && self.delivered.back() != Some(&id) {
            self.delivered.push_back(id);
            self.last += 1;
        }
    }

    /// Forgets the transactions that every snapshot shows by now, if there are many.
    pub async fn forget_shown(&mut self, reached: &Position) -> Result<()> {
        if self.delivered.len() < self.delivered_max {
            return Ok(());
        }
        // A session of its own, so that nothing holds its snapshot afterwards.
        let mut copier = self.source.copier().await?;
        let delivered: Vec<TransactionId> = self.delivered.iter().copied().collect();
        match copier.snapshot(reached, &delivered).await? {
            Some(_) => {
                self.delivered.clear();
                self.delivered_max = DELIVERED_MAX;
            }
            // Logged and not yet visible: asked again when there are many more.
            None => self.delivered_max *= 2,
        }
        Ok(())
    }

    /// What a snapshot opened from here on must show. What one has shown, all that are opened after it show.
    fn watching(&mut self, reached: &Position, shown: u64) -> Watching {
        let first = self.last - self.delivered.len() as u64;
        let known = shown.min(self.last).saturating_sub(first) as usize;
        self.delivered.drain(..known.min(self.delivered.len()));
        let delivered = self.delivered.iter().copied().collect();
        Watching { reached: reached.clone(), delivered, last: self.last }
    }

    /// Notes the keys of a write, for a sweep that is under way.
    pub fn wrote(&mut self, mapping: &str, keys: [u64; 2]) {
        if let Some(touched) = self.regions.get_mut(mapping).and_then(|r| r.touched.as_mut()) {
            touched.extend(keys);
        }
    }

    /// Whether the key of this hash was written since [`Request::WatchKeys`].
    pub fn touched(&self, mapping: &str, key: u64) -> bool {
        self.regions
            .get(mapping)
            .and_then(|r| r.touched.as_ref())
            .is_none_or(|touched| touched.contains(&key))
    }

    /// Takes a request, at a place of the log between two transactions.
    pub fn take(&mut self, request: Request, reached: &Position) {
        // A copier that has gone away is not told; the attempt is over then.
        match request {
            Request::Split { mapping, at, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping)
                    && let Some(last) = region.courses.last_mut()
                {
                    last.part.upto = Some(at);
                    region.courses.push(Course::new(Part::whole()));
                }
                let _gone = reply.send(());
            }
            Request::Watch { mapping, part, upto, last, shown, reply } => {
                let watching = self.watching(reached, shown);
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.followed = false;
                }
                if let Some(course) = self.course(&mapping, part) {
                    let kept = Vec::new();
                    let watched = Watched { upto, last, kept, bytes: 0, spoiled: false };
                    course.watched.push_back(watched);
                    let _gone = reply.send(watching);
                }
            }
            Request::Rows { mapping, part, piece, upto, total, reply } => {
                if let Some(course) = self.course(&mapping, part) {
                    course.waiting.push_back(Waiting { piece, upto, total, reply });
                }
            }
            Request::Unwatch { mapping, part, all, reply } => {
                if let Some(course) = self.course(&mapping, part) {
                    let kept = if all { 0 } else { course.watched.len().saturating_sub(1) };
                    course.watched.truncate(kept);
                }
                let _gone = reply.send(());
            }
            Request::WatchKeys { mapping, shown, reply } => {
                let watching = self.watching(reached, shown);
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.touched = Some(HashSet::new());
                    let _gone = reply.send(watching);
                }
            }
            Request::Written { mapping, keys, reply } => {
                let written = keys.into_iter().map(|key| self.touched(&mapping, key)).collect();
                let _gone = reply.send(written);
            }
            Request::Sweep { mapping, absent, upto, cursor, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.sweeping = Some(Sweeping { absent, upto, cursor, reply });
                }
            }
        }
    }

    fn course(&mut self, mapping: &str, part: usize) -> Option<&mut Course> {
        self.regions.get_mut(mapping)?.courses.get_mut(part)
    }
}

/// A copy that has ended.
pub(crate) fn ended(row: &mut CopyRow) {
    row.phase = CopyPhase::Done;
    row.cursor.clear();
    row.rows_total = row.rows_done;
    row.finished_micros = crate::apply::now_micros();
}

/// The parts that a row of the phase of rows tells of.
pub(super) fn parts_of(row: &CopyRow, table: &CopyTable) -> Vec<Part> {
    Part::decode(&row.cursor, &table.key).unwrap_or_else(|| vec![Part::whole()])
}

impl Region {
    fn is_watched(&self) -> bool {
        self.courses.iter().any(|course| !course.watched.is_empty())
    }

    /// Whether every change is applied, whatever is still to be read.
    fn applies(&self) -> bool {
        self.overlaid || self.followed || self.is_whole()
    }

    /// Whether every key is copied.
    fn is_whole(&self) -> bool {
        self.courses.iter().all(|course| course.part.reach == Reach::All)
    }

    /// Whether no piece has been written; some may be on their way.
    fn is_at_first(&self) -> bool {
        let nothing = |course: &Course| course.part.reach == Reach::Nothing;
        self.row.phase == CopyPhase::Rows && self.courses.iter().all(nothing)
    }

    /// Whether no key is copied or being read.
    fn is_untouched(&self) -> bool {
        let nothing = |course: &Course| course.part.reach == Reach::Nothing;
        !self.is_watched() && self.courses.iter().all(nothing)
    }
}
