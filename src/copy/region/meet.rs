//! What a change means for a mapping that is being copied.

use std::sync::Arc;

use tidelock_core::{Change, Connector, Copier, CopyPhase, CopyReason, Insert, Key, Op, Result};

use super::{Place, Region, Regions};
use crate::copy::merge::Kept;
use crate::copy::order::Order;

/// What is to be done with a change.
pub enum Meeting {
    /// Apply it.
    Apply,
    /// Apply this instead: the row came from keys that are not copied yet.
    Insert(Insert),
    /// Read the row again: it came from keys that are not copied yet, and the log does not carry all of it.
    Again,
    /// Remove the old row: it went to keys that are not copied yet.
    Erase,
    /// Nothing: a piece will bring its outcome.
    Later,
}

impl Regions {
    /// What a change means for a mapping.
    pub async fn meet(&mut self, mapping: &str, change: &Change, echo: bool) -> Result<Meeting> {
        let Some(region) = self.regions.get_mut(mapping) else { return Ok(Meeting::Apply) };
        if region.row.phase == CopyPhase::Held {
            return Ok(Meeting::Later);
        }
        let applies = region.applies();
        if applies && !region.is_watched() {
            return Ok(Meeting::Apply);
        }
        // Nothing was read yet: the rows may be of a shape that is none any more.
        if !applies && region.is_untouched() && !echo {
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
            Some(_) => old_place,
            None => None,
        };
        let bytes_max = self.kept_bytes_max;
        region.keep(change, (old.as_ref(), old_place), (new.as_ref(), new_place), bytes_max)?;
        if applies || echo {
            return Ok(Meeting::Apply);
        }
        let copied = |place: &Option<Place>| matches!(place, Some(Place::Copied));
        Ok(match (&change.op, copied(&old_place), copied(&new_place)) {
            (Op::Insert(_), _, true) | (Op::Delete(_), true, _) | (Op::Update(_), true, true) => {
                Meeting::Apply
            }
            (Op::Update(_), true, false) => Meeting::Erase,
            (Op::Update(update), false, true) => match update.new.is_full() {
                true => Meeting::Insert(Insert { new: update.new.clone() }),
                false => Meeting::Again,
            },
            (Op::Insert(_) | Op::Delete(_) | Op::Update(_), ..) => Meeting::Later,
        })
    }

    /// Whether the row of a key of the source is followed: no piece has yet to bring it.
    pub async fn has_come(&mut self, mapping: &str, key: &Key) -> Result<bool> {
        let Some(region) = self.regions.get(mapping) else { return Ok(true) };
        if region.row.phase == CopyPhase::Held {
            return Ok(false);
        }
        if region.applies() {
            return Ok(true);
        }
        let place = place(region, &mut self.judge, &self.source, key).await?;
        Ok(place == Place::Copied)
    }

    /// Whether pieces have yet to bring rows of a mapping that are not followed until then.
    pub fn is_partial(&self, mapping: &str) -> bool {
        self.regions.get(mapping).is_some_and(|region| !region.applies())
    }

    /// Every row of a mapping went away. Answers whether the target must be emptied too.
    pub fn meet_truncate(&mut self, mapping: &str) -> bool {
        let Some(region) = self.regions.get_mut(mapping) else { return true };
        for watched in region.courses.iter_mut().flat_map(|course| &mut course.watched) {
            watched.kept.clear();
            watched.bytes = 0;
            watched.kept.push(Kept { old: None, new: None, clear: true });
        }
        region.row.phase != CopyPhase::Held
    }

    /// Every row of a table went away that a mapping is made of, and nobody knows which of its rows with it. Answers whether
    /// its copy shows what is left: one of which no piece is written yet, and that removes or marks what it does not find.
    /// What was read is read again.
    pub fn begins_anew(&mut self, mapping: &str) -> bool {
        let Some(region) = self.regions.get_mut(mapping) else { return false };
        if !region.is_at_first() || region.row.reason == CopyReason::Backfill {
            return false;
        }
        for watched in region.courses.iter_mut().flat_map(|course| &mut course.watched) {
            watched.spoiled = true;
        }
        true
    }
}

/// Where a key lies.
async fn place(
    region: &Region,
    judge: &mut Option<Box<dyn Copier>>,
    source: &Arc<dyn Connector>,
    key: &Key,
) -> Result<Place> {
    let mut order = Order { table: &region.table, alike: region.alike, judge, system: source };
    let part = order.part_of(&region.courses, |course| &course.part, key).await?;
    let Some(course) = region.courses.get(part) else { return Ok(Place::Beyond) };
    if order.is_reached(&course.part, key).await? {
        return Ok(Place::Copied);
    }
    for (i, watched) in course.watched.iter().enumerate() {
        let within = match &watched.upto {
            None => true,
            Some(upto) => order.is_up_to(key, upto).await?,
        };
        if within {
            return Ok(Place::Watched(part, i));
        }
    }
    Ok(Place::Beyond)
}
