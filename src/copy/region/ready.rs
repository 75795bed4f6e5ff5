//! Pieces and keys whose place in the log has come, and what the row of a copy tells with them.

use std::sync::Arc;

use tidelock_core::{CopyPhase, CopyRow, Error, Key, Part, Piece, Position, Reach, Result};
use tokio::sync::oneshot;

use super::{Region, Regions, Sweeping, ended};
use crate::copy::merge::merged;
use crate::copy::request::Outcome;

/// How far a part comes with a piece.
#[derive(Debug)]
pub struct Step {
    part: usize,
    /// Up to which key; `None` if the part ends with it.
    upto: Option<Key>,
    rows: u64,
    total: u64,
}

/// Rows of a piece that are ready to be written.
pub struct RowsReady {
    /// The mapping.
    pub mapping: Arc<str>,
    /// The rows, with what changed meanwhile laid over them.
    pub piece: Piece,
    /// How far the copy comes with them: see [`Regions::after`].
    pub step: Step,
    /// Whom to tell.
    pub reply: oneshot::Sender<Outcome>,
}

/// Keys that are ready to be removed.
pub struct SweepReady {
    /// The mapping.
    pub mapping: Arc<str>,
    /// The keys, with what was written meanwhile left to [`Regions::touched`].
    pub keys: Vec<Key>,
    /// How far the copy has come with them.
    pub row: CopyRow,
    /// Whom to tell.
    pub reply: oneshot::Sender<Outcome>,
}

impl Regions {
    /// The next piece whose place in the log has come.
    pub fn rows_ready(&mut self, reached: &Position) -> Result<Option<RowsReady>> {
        let source = self.source.clone();
        let come = |upto: &Position| source.compare(reached, upto).map(|order| order.reached());
        for (mapping, region) in &mut self.regions {
            let Region { table, courses, .. } = region;
            for (part, course) in courses.iter_mut().enumerate() {
                let due = match course.waiting.front() {
                    Some(waiting) => come(&waiting.upto)?,
                    None => false,
                };
                if !due {
                    continue;
                }
                let (Some(waiting), Some(watched)) =
                    (course.waiting.pop_front(), course.watched.pop_front())
                else {
                    continue;
                };
                let piece = match watched.spoiled {
                    true => None,
                    false => merged(waiting.piece, watched.kept, table)?,
                };
                let Some(piece) = piece else {
                    // What follows it was cut at its end: all begin anew there.
                    let _gone = waiting.reply.send(Outcome::Spoiled);
                    course.watched.clear();
                    for later in course.waiting.drain(..) {
                        let _gone = later.reply.send(Outcome::Spoiled);
                    }
                    continue;
                };
                let (rows, total) = (piece.count() as u64, waiting.total);
                let upto = watched.upto.filter(|_| !watched.last);
                let step = Step { part, upto, rows, total };
                let mapping = mapping.clone();
                return Ok(Some(RowsReady { mapping, piece, step, reply: waiting.reply }));
            }
        }
        Ok(None)
    }

    /// The next keys to be removed whose place in the log has come.
    pub fn sweep_ready(&mut self, reached: &Position) -> Result<Option<SweepReady>> {
        for (mapping, region) in &mut self.regions {
            let due = match &region.sweeping {
                Some(sweeping) => self.source.compare(reached, &sweeping.upto)?.reached(),
                None => false,
            };
            if due && let Some(sweeping) = region.sweeping.take() {
                let mut row = region.row.clone();
                match sweeping.cursor {
                    Some(cursor) => row.cursor = cursor.encode(),
                    None => ended(&mut row),
                }
                let Sweeping { absent, reply, .. } = sweeping;
                let mapping = mapping.clone();
                return Ok(Some(SweepReady { mapping, keys: absent, row, reply }));
            }
        }
        Ok(None)
    }

    /// The row that tells how far a mapping's copy has come after a step, beside all that is committed.
    pub fn after(&self, mapping: &str, step: &Step) -> Result<CopyRow> {
        match self.regions.get(mapping) {
            Some(region) => region.after(step),
            None => Err(Error::bug("a piece of a mapping that is not copied")),
        }
    }

    /// A step is committed, with this row.
    pub fn stepped(&mut self, mapping: &str, step: &Step, row: CopyRow) {
        if let Some(course) = self.course(mapping, step.part) {
            course.part.reach = step.reach();
        }
        self.committed(mapping, row);
    }

    /// The row of a mapping's copy is this one by now, durably.
    pub fn committed(&mut self, mapping: &str, row: CopyRow) {
        if row.phase == CopyPhase::Done {
            self.regions.remove(mapping);
        } else if let Some(region) = self.regions.get_mut(mapping) {
            region.row = row;
        }
    }
}

impl Step {
    /// How far its part is copied with it.
    fn reach(&self) -> Reach {
        match &self.upto {
            Some(key) => Reach::UpTo(key.clone()),
            None => Reach::All,
        }
    }
}

impl Region {
    fn after(&self, step: &Step) -> Result<CopyRow> {
        let mut row = self.row.clone();
        row.rows_done += step.rows;
        row.rows_total = step.total.max(row.rows_done);
        let mut parts: Vec<Part> = self.courses.iter().map(|course| course.part.clone()).collect();
        let part = parts.get_mut(step.part).ok_or_else(|| Error::bug("a piece of no part"))?;
        part.reach = step.reach();
        if parts.iter().any(|part| part.reach != Reach::All) {
            row.cursor = Part::encode(&self.table.key, &parts)
                .ok_or_else(|| Error::bug("a key to copy by holds NULL"))?;
        } else if row.sweep {
            row.phase = CopyPhase::Sweep;
            row.cursor.clear();
            row.rows_total = row.rows_done;
        } else {
            ended(&mut row);
        }
        Ok(row)
    }
}
