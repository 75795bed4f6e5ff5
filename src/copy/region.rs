//! What of each mapping is copied, and the pieces on their way. Pure but for one question: where keys
//! are ordered by a collation, the source is asked.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tidelock_core::{
    Change, Code, Connector, Copier, CopyPhase, CopyRow, CopyTable, Cursor, Error, Insert, Key,
    KeyRange, Op, Piece, Position, Result, Row, TableSchema, TargetColumn, TransactionId, Value,
    copy::key_order,
};
use tokio::sync::oneshot;

use super::Job;
use crate::mapping::MappingPlan;

/// Memory for the changes kept for one piece; beyond it the piece is given up and read again.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Where the applier stood when it began to watch, and what it had applied lately.
#[derive(Debug)]
pub struct Watching {
    /// The position that the snapshot must show.
    pub reached: Position,
    /// Transactions of the copied tables delivered since the last such answer.
    pub delivered: Vec<TransactionId>,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed at the target.
    Written,
    /// Too much changed meanwhile: read it again.
    Spoiled,
}

/// What the copier asks of the applier; answered between two source transactions.
pub enum Request {
    /// Keep the changes of a range from now on.
    Watch {
        /// The mapping.
        mapping: Arc<str>,
        /// The range.
        range: KeyRange,
        /// The answer.
        reply: oneshot::Sender<Watching>,
    },
    /// The rows of the range watched.
    Rows {
        /// The mapping.
        mapping: Arc<str>,
        /// The rows.
        piece: Piece,
        /// What covers everything they show.
        upto: Position,
        /// About how many rows there are, where that was looked at.
        total: u64,
        /// The answer.
        reply: oneshot::Sender<Outcome>,
    },
    /// Forget the range watched last, or all of them.
    Unwatch {
        /// The mapping.
        mapping: Arc<str>,
        /// All, not only the last.
        all: bool,
        /// The answer.
        reply: oneshot::Sender<()>,
    },
    /// Keep the keys that are written from now on.
    WatchKeys {
        /// The mapping.
        mapping: Arc<str>,
        /// The answer.
        reply: oneshot::Sender<Watching>,
    },
    /// Keys of the target that the source does not have.
    Sweep {
        /// The mapping.
        mapping: Arc<str>,
        /// The keys, as the target has them.
        absent: Vec<Key>,
        /// What covers everything that the question saw.
        upto: Position,
        /// Up to which key of the target has been asked; `None` if that was the last.
        cursor: Option<Cursor>,
        /// The answer.
        reply: oneshot::Sender<Outcome>,
    },
}

/// Which keys of a mapping are copied.
#[derive(Debug, Clone, PartialEq)]
enum Reach {
    Nothing,
    UpTo(Key),
    All,
}

/// A change of a range that is being read.
#[derive(Debug)]
struct Kept {
    old: Option<(String, bool)>,
    new: Option<(String, bool, Row)>,
    clear: bool,
}

/// A range that is being read.
struct Watched {
    range: KeyRange,
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

/// Where a column of a piece stands in a row of the log.
struct Places {
    key: Vec<usize>,
    columns: Vec<usize>,
}

struct Region {
    table: CopyTable,
    row: CopyRow,
    reach: Reach,
    watched: VecDeque<Watched>,
    waiting: VecDeque<Waiting>,
    touched: Option<HashSet<u64>>,
    sweeping: Option<Sweeping>,
    places: HashMap<u64, Places>,
    /// Whether keys can be compared here.
    alike: bool,
}

/// How far the copy of the other direction has come, for a mapping that waits for its end: what our
/// source changes up to there is followed; beyond, the copy is about to overwrite it.
struct Follow {
    /// The table that is copied: our target.
    table: CopyTable,
    /// The key up to which it is copied, in our target's values.
    bound: Key,
    alike: bool,
}

/// What is to be done with a change.
pub enum Meeting {
    /// Apply it.
    Apply,
    /// Apply this instead: the row came from keys that are not copied yet.
    Insert(Insert),
    /// Remove the old row: it went to keys that are not copied yet.
    Erase,
    /// Nothing: a piece will bring its outcome.
    Later,
}

/// What is ready to be written.
pub enum Ready {
    /// Rows of a piece.
    Rows {
        /// The mapping.
        mapping: Arc<str>,
        /// The rows, with what changed meanwhile laid over them.
        piece: Piece,
        /// How far the copy has come with them.
        row: CopyRow,
        /// Whom to tell.
        reply: oneshot::Sender<Outcome>,
    },
    /// Keys to be removed.
    Sweep {
        /// The mapping.
        mapping: Arc<str>,
        /// The keys, with what was written meanwhile left to [`Regions::touched`].
        keys: Vec<Key>,
        /// How far the copy has come with them.
        row: CopyRow,
        /// Whom to tell.
        reply: oneshot::Sender<Outcome>,
    },
}

enum Place {
    Copied,
    Watched(usize),
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
    delivered: Vec<TransactionId>,
}

impl Regions {
    /// Regions of the mappings whose copy has not ended.
    pub fn new(
        source: Arc<dyn Connector>,
        target: Arc<dyn Connector>,
        copies: impl IntoIterator<Item = Job>,
    ) -> Regions {
        let regions = copies
            .into_iter()
            .map(|Job { mapping, table, alike, row, .. }| {
                let overlaid = row.reason == tidelock_core::CopyReason::Backfill;
                let reach = match row.phase {
                    CopyPhase::Sweep | CopyPhase::Done => Reach::All,
                    _ if overlaid => Reach::All,
                    CopyPhase::Held => Reach::Nothing,
                    CopyPhase::Rows => match Cursor::decode(&row.cursor, &table.key) {
                        Some(key) => Reach::UpTo(key),
                        None => Reach::Nothing,
                    },
                };
                let region = Region {
                    table,
                    row,
                    reach,
                    watched: VecDeque::new(),
                    waiting: VecDeque::new(),
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
            delivered: Vec::new(),
        }
    }

    /// Whether every copy has ended.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether everything of a mapping is still to be read.
    pub fn begins(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(|region| {
            region.row.phase == CopyPhase::Rows
                && region.reach == Reach::Nothing
                && region.watched.is_empty()
        })
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
        if !self.regions.is_empty() && self.delivered.last() != Some(&id) {
            self.delivered.push(id);
        }
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
            Request::Watch { mapping, range, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.watched.push_back(Watched {
                        range,
                        kept: Vec::new(),
                        bytes: 0,
                        spoiled: false,
                    });
                    let delivered = std::mem::take(&mut self.delivered);
                    let _gone = reply.send(Watching { reached: reached.clone(), delivered });
                }
            }
            Request::Rows { mapping, piece, upto, total, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.waiting.push_back(Waiting { piece, upto, total, reply });
                }
            }
            Request::Unwatch { mapping, all, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    let kept = if all { 0 } else { region.watched.len().saturating_sub(1) };
                    region.watched.truncate(kept);
                }
                let _gone = reply.send(());
            }
            Request::WatchKeys { mapping, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.touched = Some(HashSet::new());
                    let delivered = std::mem::take(&mut self.delivered);
                    let _gone = reply.send(Watching { reached: reached.clone(), delivered });
                }
            }
            Request::Sweep { mapping, absent, upto, cursor, reply } => {
                if let Some(region) = self.regions.get_mut(&mapping) {
                    region.sweeping = Some(Sweeping { absent, upto, cursor, reply });
                }
            }
        }
    }

    /// What a change means for a mapping.
    pub async fn meet(&mut self, mapping: &str, change: &Change, echo: bool) -> Result<Meeting> {
        let Some(region) = self.regions.get_mut(mapping) else { return Ok(Meeting::Apply) };
        if region.row.phase == CopyPhase::Held {
            return Ok(Meeting::Later);
        }
        if region.reach == Reach::All && region.watched.is_empty() {
            return Ok(Meeting::Apply);
        }
        // Nothing was read yet: the rows may be of a shape that is none any more.
        if region.reach == Reach::Nothing && region.watched.is_empty() && !echo {
            return Ok(Meeting::Later);
        }
        let (old, new) = region.keys(change)?;
        let same = old == new;
        let old_place = match &old {
            Some(key) => Some(place(region, &mut self.judge, &self.source, key).await?),
            None => None,
        };
        let new_place = match &new {
            Some(key) if !same => Some(place(region, &mut self.judge, &self.source, key).await?),
            Some(_) => old_place.as_ref().map(Place::again),
            None => None,
        };
        region.keep(change, (old.as_ref(), &old_place), (new.as_ref(), &new_place))?;
        if region.reach == Reach::All || echo {
            return Ok(Meeting::Apply);
        }
        let copied = |place: &Option<Place>| matches!(place, Some(Place::Copied));
        Ok(match (&change.op, copied(&old_place), copied(&new_place)) {
            (Op::Insert(_), _, true) | (Op::Delete(_), true, _) | (Op::Update(_), true, true) => {
                Meeting::Apply
            }
            (Op::Update(_), true, false) => Meeting::Erase,
            (Op::Update(update), false, true) => {
                if !update.new.is_full() {
                    return Err(Error::data(
                        Code::UpdateMissing,
                        format!("{}: a row came to keys already copied, and the log does not carry all of it", change.table.name),
                    )
                    .with_hint(format!("`tidelock resync {mapping}`")));
                }
                Meeting::Insert(Insert { new: update.new.clone() })
            }
            (Op::Insert(_) | Op::Delete(_) | Op::Update(_), ..) => Meeting::Later,
        })
    }

    /// Every row of a mapping went away. Answers whether the target must be emptied too.
    pub fn meet_truncate(&mut self, mapping: &str) -> bool {
        let Some(region) = self.regions.get_mut(mapping) else { return true };
        for watched in &mut region.watched {
            watched.kept.clear();
            watched.bytes = 0;
            watched.kept.push(Kept { old: None, new: None, clear: true });
        }
        region.row.phase != CopyPhase::Held
    }

    /// The next thing whose place in the log has come.
    pub fn ready(&mut self, reached: &Position) -> Result<Option<Ready>> {
        let source = self.source.clone();
        let come = |upto: &Position| source.compare(reached, upto).map(|order| order.reached());
        for (mapping, region) in &mut self.regions {
            let due = match region.waiting.front() {
                Some(waiting) => come(&waiting.upto)?,
                None => false,
            };
            if due
                && let (Some(waiting), Some(watched)) =
                    (region.waiting.pop_front(), region.watched.pop_front())
            {
                let piece = match watched.spoiled {
                    true => None,
                    false => merged(waiting.piece, watched.kept, &region.table)?,
                };
                let Some(piece) = piece else {
                    // What follows it was cut at its end: all begin anew there.
                    let _gone = waiting.reply.send(Outcome::Spoiled);
                    region.watched.clear();
                    for later in region.waiting.drain(..) {
                        let _gone = later.reply.send(Outcome::Spoiled);
                    }
                    continue;
                };
                let row = region.after(&watched.range, piece.count() as u64, waiting.total)?;
                let mapping = mapping.clone();
                return Ok(Some(Ready::Rows { mapping, piece, row, reply: waiting.reply }));
            }
            let due = match &region.sweeping {
                Some(sweeping) => come(&sweeping.upto)?,
                None => false,
            };
            if due && let Some(sweeping) = region.sweeping.take() {
                let mut row = region.row.clone();
                match sweeping.cursor {
                    Some(cursor) => row.cursor = cursor.encode(),
                    None => ended(&mut row),
                }
                return Ok(Some(Ready::Sweep {
                    mapping: mapping.clone(),
                    keys: sweeping.absent,
                    row,
                    reply: sweeping.reply,
                }));
            }
        }
        Ok(None)
    }

    /// A mapping's copy has come so far, durably.
    pub fn committed(&mut self, mapping: &str, row: CopyRow) {
        if row.phase == CopyPhase::Done {
            self.regions.remove(mapping);
            return;
        }
        if let Some(region) = self.regions.get_mut(mapping) {
            if region.reach != Reach::All {
                region.reach = match (row.phase, Cursor::decode(&row.cursor, &region.table.key)) {
                    (CopyPhase::Sweep, _) => Reach::All,
                    (_, Some(key)) => Reach::UpTo(key),
                    (_, None) => Reach::Nothing,
                };
            }
            region.row = row;
        }
    }

    /// Whether a mapping waits for the copy of the other direction.
    pub fn is_held(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(|r| r.row.phase == CopyPhase::Held)
    }

    /// What a held mapping's row says of the other direction's copy.
    pub fn held_cursor(&self, mapping: &str) -> Option<String> {
        let region = self.regions.get(mapping)?;
        (region.row.phase == CopyPhase::Held && !region.row.cursor.is_empty())
            .then(|| region.row.cursor.clone())
    }

    /// Takes note how far the copy of the other direction has come, over the columns of our target.
    /// Answers the row to be written; `None` if the mapping is not held.
    pub fn follow(
        &mut self,
        mapping: &Arc<str>,
        cursor: &str,
        plan: &MappingPlan,
    ) -> Option<CopyRow> {
        let region = self.regions.get_mut(mapping)?;
        let (columns, bound) = Cursor::parse(cursor)?;
        let keys: Vec<&TargetColumn> =
            plan.target.key.iter().filter_map(|&i| plan.target.columns.get(i)).collect();
        let same = keys.len() == columns.len() && keys.iter().all(|k| columns.contains(&k.name));
        if region.row.phase != CopyPhase::Held || !same {
            return None;
        }
        let alike = keys.iter().all(|k| self.target.orders_alike(&k.data_type));
        let table = CopyTable {
            name: plan.target.name.clone(),
            columns: columns.clone(),
            key: columns,
            filter: None,
        };
        self.follows.insert(mapping.clone(), Follow { table, bound, alike });
        region.row.cursor = cursor.to_owned();
        Some(region.row.clone())
    }

    /// Whether a change of a held mapping, by the key that its row has at our target, is of keys that
    /// the other direction has copied.
    pub async fn follows(
        &mut self,
        mapping: &str,
        key: &[Value],
        plan: &MappingPlan,
    ) -> Result<bool> {
        let Some(follow) = self.follows.get(mapping) else { return Ok(false) };
        // The key comes in the order of our mapping's key, the bound in that of the copy's.
        let ordered: Option<Key> = follow
            .table
            .key
            .iter()
            .map(|name| {
                let at =
                    plan.target.key.iter().position(|&i| {
                        plan.target.columns.get(i).is_some_and(|c| c.name == *name)
                    })?;
                key.get(at).cloned()
            })
            .collect();
        let Some(ordered) = ordered else { return Ok(false) };
        let judge = &mut self.target_judge;
        is_up_to(&follow.table, follow.alike, judge, &self.target, &ordered, &follow.bound).await
    }

    /// The held mappings, and what their rows become when the hold ends.
    pub fn release(&mut self, mapping: &str) -> Option<CopyRow> {
        let region = self.regions.get(mapping)?;
        if region.row.phase != CopyPhase::Held {
            return None;
        }
        let mut row = region.row.clone();
        ended(&mut row);
        Some(row)
    }
}

/// A copy that has ended.
fn ended(row: &mut CopyRow) {
    row.phase = CopyPhase::Done;
    row.cursor.clear();
    row.rows_total = row.rows_done;
    row.finished_micros = crate::apply::now_micros();
}

/// Where a key lies.
async fn place(
    region: &Region,
    judge: &mut Option<Box<dyn Copier>>,
    source: &Arc<dyn Connector>,
    key: &Key,
) -> Result<Place> {
    if let Reach::UpTo(bound) = &region.reach
        && is_up_to(&region.table, region.alike, judge, source, key, bound).await?
    {
        return Ok(Place::Copied);
    }
    let overlaid = region.reach == Reach::All;
    for (i, watched) in region.watched.iter().enumerate() {
        if overlaid
            && i == 0
            && let Some(after) = &watched.range.after
            && is_up_to(&region.table, region.alike, judge, source, key, after).await?
        {
            return Ok(Place::Copied);
        }
        let within = match &watched.range.upto {
            None => true,
            Some(upto) => is_up_to(&region.table, region.alike, judge, source, key, upto).await?,
        };
        if within {
            return Ok(Place::Watched(i));
        }
    }
    Ok(Place::Beyond)
}

async fn is_up_to(
    table: &CopyTable,
    alike: bool,
    judge: &mut Option<Box<dyn Copier>>,
    source: &Arc<dyn Connector>,
    key: &Key,
    bound: &Key,
) -> Result<bool> {
    if alike && let Some(order) = key_order(key, bound) {
        return Ok(order.is_le());
    }
    if judge.is_none() {
        *judge = Some(source.copier().await?);
    }
    match judge {
        Some(judge) => judge.up_to(table, key, bound).await,
        None => Err(Error::bug("no connection to compare keys by")),
    }
}

impl Place {
    fn again(&self) -> Place {
        match self {
            Place::Copied => Place::Copied,
            Place::Watched(i) => Place::Watched(*i),
            Place::Beyond => Place::Beyond,
        }
    }

    fn is_watched(place: &Option<Place>, index: usize) -> bool {
        matches!(place, Some(Place::Watched(i)) if *i == index)
    }
}

impl Region {
    /// The key before and after a change.
    fn keys(&mut self, change: &Change) -> Result<(Option<Key>, Option<Key>)> {
        let table = &self.table;
        let places = self
            .places
            .entry(change.table.version)
            .or_insert_with(|| Places::new(table, &change.table));
        let missing = || {
            Error::data(
                Code::IdentityMissing,
                format!("{}: the log does not carry the columns that pieces are cut by", change.table.name),
            )
            .with_hint("on PostgreSQL set REPLICA IDENTITY FULL or USING INDEX over them; on MySQL and MariaDB set binlog_row_image = FULL")
        };
        if places.key.len() != table.key.len() || places.columns.len() != table.columns.len() {
            return Err(Error::data(
                Code::SchemaDrift,
                format!("{}: a column that is being copied is gone", change.table.name),
            ));
        }
        let of = |row: &Row| -> Result<Key> {
            places
                .key
                .iter()
                .map(|&i| match row.0.get(i) {
                    None | Some(Value::Unchanged) => Err(missing()),
                    Some(value) => Ok(value.clone()),
                })
                .collect()
        };
        Ok(match &change.op {
            Op::Insert(insert) => (None, Some(of(&insert.new)?)),
            Op::Delete(delete) => (Some(of(delete.old.row().ok_or_else(missing)?)?), None),
            Op::Update(update) => {
                let old = match update.old.row() {
                    Some(old) => of(old)?,
                    None => of(&update.new)?,
                };
                // A cell that the new row leaves out did not change.
                let new = places
                    .key
                    .iter()
                    .zip(old.iter())
                    .map(|(&i, old)| match update.new.0.get(i) {
                        None | Some(Value::Unchanged) => old.clone(),
                        Some(value) => value.clone(),
                    })
                    .collect();
                (Some(old), Some(new))
            }
        })
    }

    /// Keeps a change for the ranges it is about.
    fn keep(
        &mut self,
        change: &Change,
        (old, old_place): (Option<&Key>, &Option<Place>),
        (new, new_place): (Option<&Key>, &Option<Place>),
    ) -> Result<()> {
        let Some(places) = self.places.get(&change.table.version) else { return Ok(()) };
        for (i, watched) in self.watched.iter_mut().enumerate() {
            let (old_in, new_in) =
                (Place::is_watched(old_place, i), Place::is_watched(new_place, i));
            if watched.spoiled || !(old_in || new_in) {
                continue;
            }
            let text = |key: &Key| -> Result<String> {
                Cursor::new(&self.table.key, key)
                    .map(|c| c.encode())
                    .ok_or_else(|| Error::bug("a key to copy by holds NULL"))
            };
            let row = match &change.op {
                Op::Insert(insert) => Some(&insert.new),
                Op::Update(update) => Some(&update.new),
                Op::Delete(_) => None,
            };
            let new = match (new, row) {
                (Some(key), Some(row)) => {
                    let mut cells: Vec<Value> = places
                        .columns
                        .iter()
                        .map(|&c| row.0.get(c).cloned().unwrap_or(Value::Unchanged))
                        .collect();
                    for (name, value) in self.table.key.iter().zip(key.iter()) {
                        if let Some(at) = self.table.columns.iter().position(|c| c == name)
                            && let Some(cell) = cells.get_mut(at)
                        {
                            *cell = value.clone();
                        }
                    }
                    let row = Row(cells.into());
                    watched.bytes += row.bytes() + 100;
                    Some((text(key)?, new_in, row))
                }
                _ => None,
            };
            watched.bytes += 100;
            let old = match old {
                Some(key) => Some((text(key)?, old_in)),
                None => None,
            };
            watched.kept.push(Kept { old, new, clear: false });
            if watched.bytes > KEPT_BYTES_MAX {
                watched.spoiled = true;
                watched.kept = Vec::new();
            }
        }
        Ok(())
    }

    /// The row that tells how far the copy has come after a range.
    fn after(&self, range: &KeyRange, rows: u64, total: u64) -> Result<CopyRow> {
        let mut row = self.row.clone();
        row.rows_done += rows;
        row.rows_total = total.max(row.rows_done);
        match &range.upto {
            Some(key) => {
                row.cursor = Cursor::new(&self.table.key, key)
                    .map(|c| c.encode())
                    .ok_or_else(|| Error::bug("a key to copy by holds NULL"))?;
            }
            None if row.sweep => {
                row.phase = CopyPhase::Sweep;
                row.cursor.clear();
                row.rows_total = row.rows_done;
            }
            None => ended(&mut row),
        }
        Ok(row)
    }
}

impl Places {
    fn new(table: &CopyTable, shape: &TableSchema) -> Places {
        let find = |names: &[String]| -> Vec<usize> {
            names
                .iter()
                .filter_map(|name| shape.columns.iter().position(|c| &c.name == name))
                .collect()
        };
        Places { key: find(&table.key), columns: find(&table.columns) }
    }
}

/// A piece with the changes laid over it; `None` if they do not fit together, which a new reading
/// mends. Only the rows that a change is about are taken out and read; lines stay lines else.
fn merged(mut piece: Piece, kept: Vec<Kept>, table: &CopyTable) -> Result<Option<Piece>> {
    if kept.is_empty() {
        return Ok(Some(piece));
    }
    let mut changed = take_out(&mut piece, &kept, table)?;
    for change in kept {
        if change.clear {
            piece.rows.clear();
            piece.lines = None;
            changed.clear();
            continue;
        }
        let before = match &change.old {
            Some((text, true)) => changed.remove(text),
            Some((_, false)) | None => None,
        };
        let Some((text, true, new)) = change.new else { continue };
        let base = before.or_else(|| changed.get(&text).cloned());
        changed.insert(text, overlaid(base, new));
    }
    if !changed.values().all(Row::is_full) {
        return Ok(None);
    }
    piece.rows.extend(changed.into_values());
    Ok(Some(piece))
}

/// Takes the rows out of a piece that changes name by their keys.
fn take_out(piece: &mut Piece, kept: &[Kept], table: &CopyTable) -> Result<BTreeMap<String, Row>> {
    let named = |change: &'_ Kept| {
        let old = change.old.as_ref().filter(|old| old.1).map(|old| old.0.clone());
        let new = change.new.as_ref().filter(|new| new.1).map(|new| new.0.clone());
        old.into_iter().chain(new)
    };
    let named: HashSet<String> = kept.iter().flat_map(named).collect();
    let text = |key: &[Value]| {
        let cursor = Cursor::new(&table.key, key).map(|cursor| cursor.encode());
        cursor.ok_or_else(|| Error::bug("a key to copy by holds NULL"))
    };
    let places: Vec<usize> =
        table.key.iter().filter_map(|name| table.columns.iter().position(|c| c == name)).collect();
    let mut taken = BTreeMap::new();
    let rows = std::mem::take(&mut piece.rows);
    piece.rows.reserve(rows.len());
    for row in rows {
        let key: Key = places.iter().filter_map(|&at| row.0.get(at).cloned()).collect();
        let text = text(&key)?;
        if named.contains(&text) {
            taken.insert(text, row);
        } else {
            piece.rows.push(row);
        }
    }
    if let Some(lines) = &mut piece.lines {
        let before = std::mem::take(&mut lines.text);
        for chunk in before {
            // What stays between two rows that are taken out is one slice.
            let mut start = 0;
            let mut at = 0;
            for line in chunk.split_inclusive(|byte| *byte == b'\n') {
                let line = chunk.slice_ref(line);
                let text = text(&lines.reader.key(&line)?)?;
                let end = at + line.len();
                if named.contains(&text) {
                    taken.insert(text, lines.reader.row(&line)?);
                    lines.count -= 1;
                    lines.text.push(chunk.slice(start..at));
                    start = end;
                }
                at = end;
            }
            lines.text.push(chunk.slice(start..));
        }
        lines.text.retain(|chunk| !chunk.is_empty());
    }
    Ok(taken)
}

/// A row with what a change tells of it; cells it does not tell stay.
fn overlaid(base: Option<Row>, mut new: Row) -> Row {
    if let Some(base) = base {
        for (cell, before) in new.0.iter_mut().zip(base.0) {
            if cell.is_unchanged() {
                *cell = before;
            }
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::{Bytes, LineReader, Lines, TableName};

    fn table() -> CopyTable {
        CopyTable {
            name: TableName::new("s", "t"),
            columns: vec!["id".to_owned(), "a".to_owned(), "b".to_owned()],
            key: vec!["id".to_owned()],
            filter: None,
        }
    }

    fn row(id: i64, a: Value, b: Value) -> Row {
        Row(vec![Value::Int(id), a, b].into())
    }

    fn text(id: i64) -> String {
        Cursor::new(&table().key, &[Value::Int(id)]).map(|c| c.encode()).unwrap_or_default()
    }

    fn update(old: i64, new: Row, new_in: bool) -> Kept {
        let Some(Value::Int(id)) = new.0.first().cloned() else { panic!("no id") };
        Kept { old: Some((text(old), true)), new: Some((text(id), new_in, new)), clear: false }
    }

    fn int(n: i64) -> Value {
        Value::Int(n)
    }

    fn piece(rows: Vec<Row>) -> Piece {
        let shape = TableSchema { name: table().name, version: 1, columns: Vec::new() };
        Piece { table: Arc::new(shape), rows, lines: None, bytes: 0, cut: false }
    }

    /// Lines of the form `id a b`.
    struct Spaced;

    impl LineReader for Spaced {
        fn key(&self, line: &Bytes) -> Result<Key> {
            Ok(self.row(line)?.0.first().cloned().into_iter().collect())
        }

        fn row(&self, line: &Bytes) -> Result<Row> {
            let text = std::str::from_utf8(line).map_err(|_| Error::bug("no text"))?;
            let cells: Vec<Value> =
                text.split_whitespace().map(|cell| int(cell.parse().unwrap_or(-1))).collect();
            Ok(Row(cells.into()))
        }
    }

    /// The same rows left as text, in chunks of two lines.
    fn lined(rows: &[Row]) -> Piece {
        let number = |v: &Value| match v {
            Value::Int(n) => n.to_string(),
            _ => "-1".to_owned(),
        };
        let line = |row: &Row| row.0.iter().map(number).collect::<Vec<_>>().join(" ") + "\n";
        let text =
            rows.chunks(2).map(|two| two.iter().map(line).collect::<String>().into()).collect();
        let lines = Lines { text, count: rows.len(), reader: Arc::new(Spaced) };
        Piece { lines: Some(lines), ..piece(Vec::new()) }
    }

    /// The rows that come of a piece, in key order, whether they were read as values or left as lines.
    fn outcome(rows: Vec<Row>, kept: impl Fn() -> Vec<Kept>) -> Option<Vec<Row>> {
        let both = [lined(&rows), piece(rows)].map(|piece| {
            let mut piece = merged(piece, kept(), &table()).unwrap_or(None)?;
            let count = piece.count();
            if let Some(lines) = piece.lines.take() {
                piece.rows.extend(lines.rows().unwrap_or_default());
            }
            assert_eq!(piece.rows.len(), count, "counted wrongly");
            piece.rows.sort_by_key(|r| match r.0.first() {
                Some(Value::Int(i)) => *i,
                _ => 0,
            });
            Some(piece.rows)
        });
        let [as_lines, as_rows] = both;
        assert_eq!(as_lines, as_rows);
        as_rows
    }

    #[test]
    fn what_the_snapshot_already_shows_changes_nothing_when_laid_over_it() {
        // Insert 3, set a of 1, move 2 to 5, delete 4: laid over the state before and after each.
        let changes = || {
            vec![
                Kept {
                    old: None,
                    new: Some((text(3), true, row(3, int(3), int(3)))),
                    clear: false,
                },
                update(1, row(1, int(9), Value::Unchanged), true),
                update(2, row(5, Value::Unchanged, int(7)), true),
                Kept { old: Some((text(4), true)), new: None, clear: false },
            ]
        };
        let states = [
            vec![row(1, int(1), int(1)), row(2, int(2), int(2)), row(4, int(4), int(4))],
            vec![
                row(1, int(1), int(1)),
                row(2, int(2), int(2)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
            ],
            vec![
                row(1, int(9), int(1)),
                row(2, int(2), int(2)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
            ],
            vec![
                row(1, int(9), int(1)),
                row(3, int(3), int(3)),
                row(4, int(4), int(4)),
                row(5, int(2), int(7)),
            ],
            vec![row(1, int(9), int(1)), row(3, int(3), int(3)), row(5, int(2), int(7))],
        ];
        for state in states {
            assert_eq!(
                outcome(state, changes),
                Some(vec![row(1, int(9), int(1)), row(3, int(3), int(3)), row(5, int(2), int(7))])
            );
        }
    }

    #[test]
    fn a_row_that_leaves_the_range_is_not_in_it() {
        let rows = outcome(vec![row(1, int(1), int(1))], || {
            vec![update(1, row(99, int(1), int(1)), false)]
        });
        assert_eq!(rows, Some(Vec::new()));
    }

    #[test]
    fn a_partial_change_without_its_row_asks_for_a_new_reading_unless_it_went_away() {
        let partial = || update(7, row(7, int(1), Value::Unchanged), true);
        assert_eq!(outcome(vec![], || vec![partial()]), None);
        let gone = || Kept { old: Some((text(7), true)), new: None, clear: false };
        assert_eq!(outcome(vec![], || vec![partial(), gone()]), Some(vec![]));
    }

    #[test]
    fn a_truncate_empties_what_was_read() {
        let clear = || Kept { old: None, new: None, clear: true };
        let insert =
            || Kept { old: None, new: Some((text(2), true, row(2, int(2), int(2)))), clear: false };
        let rows = outcome(vec![row(1, int(1), int(1))], || vec![clear(), insert()]);
        assert_eq!(rows, Some(vec![row(2, int(2), int(2))]));
    }
}
