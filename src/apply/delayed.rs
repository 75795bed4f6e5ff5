//! Keys that are read again later: when, and what is to be done with changes meanwhile.
//!
//! **In memory** ([`Waiting`]): rows of a batch that pointed to what the flow had not come to. They are read again when it has.
//!
//! **In the target's memory** ([`Delayed`]), taken up in parts:
//!
//! - What one source transaction touched of tables beyond what is kept here, and what waited when the last attempt ended. It is taken
//!   up at once.
//! - Rows of a table that point to rows which a copy has not brought yet: children before their parents in a table that points
//!   to itself or in a circle of tables, or while a parent table alone is copied anew. They are taken up when these copies have ended,
//!   in *rounds*: all that are left, as long as a round gets any of them written. When one does not, rows may
//!   point to each other: they are written with NULL where they point, as far as the columns take it, and rounds go on. When one does not
//!   get on again, what is left is read once more in earnest: what is refused then waits for the log, or is the row's own fault.
//! - Rows of a table that is compared anew whose unique values another row of the target has still: the source has handed them over
//!   unseen. They are taken up in the same rounds. A row that the source does not have any more gives its values up only when it is removed, so
//!   before the last round the sweeps come, unless they might remove what still points to such a row and waits itself.
//!
//! While a mapping has such rows, or one that they may point to has, its changes are not written but touch their rows ([`Applier::is_loose`]): what
//! the log tells of a row that is not there, or points to one that is not, says nothing; the row as it is then does.
//!
//! **kill -9** anywhere: the keys are remembered in the transaction that left their rows out, and forgotten in the one that writes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidelock_core::{Code, CopyPhase, CopyReason, Error, Result};

use super::{Applier, KEYS_A_TRANSACTION, now_micros};
use crate::mapping::MappingPlan;
use crate::reread::{self, PutOff, Refused};

/// How far the keys of a mapping have been taken up.
#[derive(Debug, Default)]
struct Turn {
    /// Whether rows wait for rows: it goes in rounds.
    rounds: bool,
    after: Option<Bytes>,
    /// The round is over.
    ended: bool,
    /// Some are left.
    left: bool,
    /// Some were written.
    progressed: bool,
    /// All were tried since the mapping was last free to be taken up.
    tried: bool,
    /// Some that could not be written may point to what a sweep would remove.
    holds: bool,
    stage: Stage,
}

/// How a round goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// What is refused is left for the next.
    #[default]
    First,
    /// The same, and meanwhile it is written without what it points to.
    Loosened,
    /// The same as the first.
    Second,
    /// They wait for the sweeps.
    Sweeps,
    /// What is refused now is refused.
    Earnest,
}

/// The mappings with keys in the target's memory, by their numbers. Pure.
#[derive(Debug)]
pub(super) struct Delayed {
    turns: BTreeMap<usize, Turn>,
    /// For each mapping, those that write what its rows may point to; itself may be among them.
    parents: Vec<Vec<usize>>,
    /// Whether rows of a mapping may wait for rows.
    rounds: Vec<bool>,
    /// For each mapping of a table whose rows can be read again, those that write what its rows may point to or look up; and whether some of those,
    /// or of theirs, are views.
    above: Vec<Vec<usize>>,
    behind_view: Vec<bool>,
}

impl Delayed {
    /// Of these plans; those of these numbers have keys there, as far as is known.
    pub(super) fn new(
        plans: &[Arc<MappingPlan>],
        numbers: impl IntoIterator<Item = usize>,
    ) -> Delayed {
        let parents = |plan: &Arc<MappingPlan>| {
            let writes = |parent: &Arc<MappingPlan>| plan.references.contains(&parent.target.name);
            let all = plans.iter().enumerate().filter(|(_, parent)| plan.points && writes(parent));
            all.map(|(number, _)| number).collect()
        };
        let above = |plan: &Arc<MappingPlan>| -> Vec<usize> {
            let readable = plan.copy.is_some() && plan.view.is_none() && plan.call.is_none();
            let is_above = |parent: &Arc<MappingPlan>| plan.before.contains(&parent.target.name);
            let all = plans.iter().enumerate().filter(|(_, parent)| readable && is_above(parent));
            all.map(|(number, _)| number).collect()
        };
        let above: Vec<Vec<usize>> = plans.iter().map(above).collect();
        let mut behind_view = vec![false; plans.len()];
        // They come first; what a circle leads on to is not needed.
        for (number, above) in above.iter().enumerate() {
            let is_view = |&parent: &usize| plans[parent].view.is_some() || behind_view[parent];
            behind_view[number] = above.iter().any(is_view);
        }
        let mut delayed = Delayed {
            turns: BTreeMap::new(),
            parents: plans.iter().map(parents).collect(),
            above,
            rounds: plans.iter().map(|plan| plan.may_wait()).collect(),
            behind_view,
        };
        numbers.into_iter().for_each(|number| delayed.add(number));
        delayed
    }

    /// Keys were left there.
    pub(super) fn add(&mut self, number: usize) {
        let rounds = self.rounds.get(number).is_some_and(|rounds| *rounds);
        let turn = self.turns.entry(number).or_default();
        (turn.rounds, turn.left) = (rounds, true);
    }

    /// What came of keys that were read, or of changes.
    fn met(&mut self, put_off: &PutOff) {
        if !put_off.keys.is_empty() {
            self.add(put_off.number);
        }
        if let Some(turn) = self.turns.get_mut(&put_off.number) {
            turn.progressed |= put_off.progressed;
            turn.holds |= put_off.holds;
        }
    }

    fn has(&self, number: usize) -> bool {
        self.turns.contains_key(&number)
    }

    fn waits_for_sweeps(&self, number: usize) -> bool {
        self.turns.get(&number).is_some_and(|turn| turn.stage == Stage::Sweeps)
    }

    /// Whether none has.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether rows wait for rows.
    pub(super) fn goes_in_rounds(&self) -> bool {
        self.turns.values().any(|turn| turn.rounds)
    }

    /// Whether rows wait that a sweep might remove.
    pub(super) fn holds_sweeps(&self) -> bool {
        self.turns.values().any(|turn| turn.rounds && turn.stage != Stage::Sweeps)
    }

    /// Those that write what a mapping's rows may point to.
    fn parents(&self, number: usize) -> &[usize] {
        self.parents.get(number).map_or(&[], Vec::as_slice)
    }

    /// The next whose keys are to be read. Begins a new round when all that are `free` have come to the end of theirs. `sweeps`: there
    /// is something to be swept.
    fn next(&mut self, free: impl Fn(usize) -> bool, sweeps: bool) -> Option<usize> {
        let next = |turns: &BTreeMap<usize, Turn>| {
            turns.iter().find(|(number, turn)| !turn.ended && free(**number)).map(|(n, _)| *n)
        };
        if let Some(number) = next(&self.turns) {
            return Some(number);
        }
        let progressed = self.turns.iter().any(|(n, turn)| free(*n) && turn.progressed);
        self.turns.retain(|number, turn| !free(*number) || turn.left);
        let mut round: Vec<&mut Turn> =
            self.turns.iter_mut().filter(|(n, _)| free(**n)).map(|(_, turn)| turn).collect();
        let stage = round.iter().map(|turn| turn.stage).max().unwrap_or_default();
        let stage = match (stage, progressed) {
            (Stage::First, true) => Stage::First,
            (Stage::First, false) => Stage::Loosened,
            (Stage::Loosened, true) | (Stage::Second, true) => Stage::Second,
            (Stage::Loosened | Stage::Second, false) => {
                match sweeps && !round.iter().any(|turn| turn.holds) {
                    true => Stage::Sweeps,
                    false => Stage::Earnest,
                }
            }
            // Those have ended, or what is left came meanwhile.
            (Stage::Sweeps | Stage::Earnest, _) => Stage::First,
        };
        for turn in &mut round {
            let holds = turn.holds && stage == Stage::Second;
            let waits = stage == Stage::Sweeps;
            let (ended, left) = (waits, waits);
            **turn = Turn { rounds: turn.rounds, ended, left, holds, stage, ..Turn::default() };
        }
        next(&self.turns)
    }

    /// A part of a mapping's keys was taken; `more`: there may be others.
    fn took(&mut self, number: usize, after: Option<Bytes>, more: bool) {
        let Some(turn) = self.turns.get_mut(&number) else { return };
        if turn.after.is_none() {
            // Only what is found from here on counts for this round.
            (turn.left, turn.progressed) = (false, false);
        }
        turn.after = after;
        if more {
            return;
        }
        match (turn.rounds, turn.left) {
            (true, _) => (turn.ended, turn.tried) = (true, true),
            (false, false) => drop(self.turns.remove(&number)),
            // They came while it was on its way, and may stand before the place that it had come to.
            (false, true) => *turn = Turn::default(),
        }
    }
}

impl Applier {
    /// Takes note of rows that were read and could not be written.
    pub(super) fn put_off_again(&mut self, put_off: &[PutOff]) {
        put_off.iter().for_each(|put_off| self.delayed.met(put_off));
    }

    /// Whether changes of a mapping touch their rows instead of being written, because these may have to wait.
    pub(super) fn is_loose(&self, number: usize) -> bool {
        if self.regions.is_empty() && self.delayed.is_empty() && self.waiting.is_empty() {
            return false;
        }
        let points = self.plans.get(number).is_some_and(|mapped| mapped.plan.points);
        // A backfill finds all rows there, and changes to them are followed.
        let lacks = |n: usize| {
            self.delayed.has(n)
                || self.waits(n)
                || self.is_read(n, |reason| reason != CopyReason::Backfill)
        };
        if points
            && (self.waits(number)
                || self.delayed.parents(number).iter().any(|&parent| lacks(parent)))
        {
            return true;
        }
        let Some(plan) = self.plans.get(number).map(|mapped| &mapped.plan) else { return false };
        let compared = |reason| reason == CopyReason::Resync && self.shared.is_loose(&plan.name);
        plan.may_wait() && (self.delayed.has(number) || self.is_compared(number, compared))
    }

    /// Whether a mapping is being copied, and the sweep that ends it has not ended.
    fn is_compared(&self, number: usize, copying: impl Fn(CopyReason) -> bool) -> bool {
        let row = self.plans.get(number).and_then(|m| self.regions.row(&m.plan.name));
        row.is_some_and(|row| copying(row.reason))
    }

    /// Whether a change of a mapping was refused because a row of before has a unique value that it takes: a row that its copy has not come to, or is
    /// to remove. Its changes wait like rows of the copy from the next attempt on, then.
    pub fn turns_loose(&self, mapping: &str, error: &Error) -> bool {
        let number = self.plans.iter().position(|mapped| *mapped.plan.name == *mapping);
        number.is_some_and(|number| {
            error.code() == Code::KeyConflict
                && self.plans.get(number).is_some_and(|mapped| mapped.plan.may_wait())
                && self.is_compared(number, |reason| reason == CopyReason::Resync)
                && !self.is_loose(number)
        })
    }

    /// Whether rows of a mapping may point to, or look up, rows that are read again with the open transaction: then they are read again with it, too, and
    /// written after these. In a replay in log order that holds for all that a view is above of, since a row may come before the one it points to.
    pub(super) fn leans(&self, number: usize) -> bool {
        let touched = |parent: &usize| self.touched.mappings.contains_key(parent);
        self.delayed.above.get(number).is_some_and(|above| above.iter().any(touched))
            || (self.careful > 0
                && self.delayed.behind_view.get(number).is_some_and(|behind| *behind))
    }

    /// Whether keys of a mapping are not to be taken up yet: a copy may still bring what their rows point to, or themselves.
    fn is_blocked(&self, number: usize, seen: &mut HashSet<usize>) -> bool {
        if !seen.insert(number) {
            return false;
        }
        if !self.plans.get(number).is_some_and(|m| m.plan.points) {
            // What has its unique values may still be compared. Without need nothing waits for that.
            let tried = self.delayed.turns.get(&number).is_some_and(|turn| turn.tried);
            return tried && self.is_read(number, |_| true);
        }
        self.is_read(number, |_| true)
            || self.delayed.parents(number).iter().any(|&parent| {
                self.is_read(parent, |_| true)
                    || self.waits(parent)
                    || (self.delayed.has(parent) && self.is_blocked(parent, seen))
            })
    }

    /// Whether the rows of a mapping are being copied. One that only looks for rows to remove has them all.
    fn is_read(&self, number: usize, copying: impl Fn(CopyReason) -> bool) -> bool {
        let row = self.plans.get(number).and_then(|m| self.regions.row(&m.plan.name));
        row.is_some_and(|row| row.phase != CopyPhase::Sweep && copying(row.reason))
    }

    /// Whether keys of a mapping wait for the log.
    fn waits(&self, number: usize) -> bool {
        self.waiting.iter().any(|w| w.number == number)
    }

    /// Reads again a part of the keys that were put off.
    async fn take_up(&mut self) -> Result<()> {
        let in_rounds = self.delayed.goes_in_rounds();
        loop {
            let sweeps = self.regions.are_swept();
            let waits = |n| sweeps && self.delayed.waits_for_sweeps(n);
            let blocked: HashSet<usize> = (0..self.plans.len())
                .filter(|&n| {
                    self.delayed.has(n) && (waits(n) || self.is_blocked(n, &mut HashSet::new()))
                })
                .collect();
            let next = self.delayed.next(|number| !blocked.contains(&number), sweeps);
            if self.delayed.turns.values().any(|turn| turn.stage == Stage::Sweeps) {
                // They may go on now, and wait to be asked for.
                self.shared.nudge.notify_one();
            }
            let Some(number) = next else {
                if in_rounds && !self.delayed.goes_in_rounds() {
                    self.show_copies();
                }
                return Ok(());
            };
            let Some(mapped) = self.plans.get(number).cloned() else { return Ok(()) };
            if self.is_stopped(&mapped.plan.name) {
                self.delayed.turns.remove(&number);
                continue;
            }
            let turn = self.delayed.turns.get(&number);
            let refused = match turn.filter(|turn| turn.rounds).map(|turn| turn.stage) {
                Some(Stage::First | Stage::Second | Stage::Sweeps) => Refused::PutOff,
                Some(Stage::Loosened) => Refused::Loosened,
                Some(Stage::Earnest) | None => Refused::Told,
            };
            let mut after = turn.and_then(|turn| turn.after.clone());
            if turn.is_some_and(|turn| turn.rounds) && refused == Refused::Told {
                // By themselves: what changes meanwhile must not put them off again and again.
                self.finish().await?;
                self.settled().await?;
            }
            let sink = self.session.sink()?;
            let (keys, more) =
                reread::waiting(sink, &mapped.plan, &mut after, KEYS_A_TRANSACTION).await?;
            self.delayed.took(number, after, more);
            if keys.is_empty() {
                continue;
            }
            self.open_transaction().await?;
            if let Some(open) = &mut self.open {
                open.upto.get_or_insert_with(|| (self.reached.clone(), now_micros()));
            }
            let by = self.touched.of(number, &mapped.plan);
            by.take_up(keys, Instant::now());
            by.refused = by.refused.max(refused);
            return self.finish().await;
        }
    }

    /// Reads again what waited for a place in the log that has come.
    pub(super) async fn retry(&mut self) -> Result<()> {
        if self.source.inside || self.is_awaited() {
            return Ok(());
        }
        self.take_up().await?;
        if self.waiting.is_empty() || self.is_awaited() {
            return Ok(());
        }
        let mut due = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let come = match &waiting.upto {
                Some(upto) => self.regions.is_past(&self.reached, upto)?,
                None => true,
            };
            if self.is_stopped(&waiting.plan.name) {
                continue;
            }
            if come { due.push(waiting) } else { self.waiting.push(waiting) }
        }
        if !self.waiting.is_empty() {
            // A log at rest is asked for its end.
            self.shared.nudge.notify_one();
        }
        if due.is_empty() {
            return Ok(());
        }
        self.open_transaction().await?;
        if let Some(open) = &mut self.open {
            open.upto.get_or_insert_with(|| (self.reached.clone(), now_micros()));
        }
        for waiting in due {
            let by = self.touched.of(waiting.number, &waiting.plan);
            by.again(waiting.keys, waiting.since, waiting.refusals);
            by.owed.extend(waiting.owed);
            by.force |= waiting.force;
        }
        self.finish().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delayed(rounds: &[bool], numbers: &[usize]) -> Delayed {
        let (turns, parents) = (BTreeMap::new(), vec![Vec::new(); rounds.len()]);
        let (above, behind_view) = (parents.clone(), vec![false; rounds.len()]);
        let rounds = rounds.to_vec();
        let mut delayed = Delayed { turns, parents, rounds, above, behind_view };
        numbers.iter().for_each(|&n| delayed.add(n));
        delayed
    }

    /// Reads all keys of a mapping at once; so many are left of how many.
    fn read(delayed: &mut Delayed, number: usize, left: bool, progressed: bool) {
        delayed.took(number, Some(Bytes::from_static(b"k")), false);
        if let Some(turn) = delayed.turns.get_mut(&number) {
            turn.left |= left;
            turn.progressed |= progressed;
        }
    }

    #[test]
    fn what_waits_for_the_log_is_taken_up_once() {
        let mut delayed = delayed(&[false, false], &[1, 0]);
        assert_eq!(delayed.next(|_| true, false), Some(0));
        delayed.took(0, None, false);
        assert_eq!(delayed.next(|_| true, false), Some(1));
        delayed.took(1, Some(Bytes::from_static(b"k")), true);
        assert_eq!(delayed.next(|_| true, false), Some(1), "there were more");
        delayed.took(1, None, false);
        assert_eq!(delayed.next(|_| true, false), None);
        assert!(delayed.is_empty());
    }

    #[test]
    fn what_is_put_off_while_others_are_taken_up_is_taken_up_too() {
        let mut delayed = delayed(&[false], &[0]);
        let place = || Some(Bytes::from_static(b"k"));
        delayed.took(0, place(), true);
        // Before that place, perhaps.
        delayed.add(0);
        delayed.took(0, place(), false);
        assert_eq!(delayed.next(|_| true, false), Some(0));
        assert_eq!(delayed.turns[&0].after, None, "from the beginning");
        delayed.took(0, None, false);
        assert_eq!(delayed.next(|_| true, false), None);
    }

    #[test]
    fn rounds_go_on_while_any_of_them_gets_on_and_the_last_is_in_earnest() {
        let mut delayed = delayed(&[true, true, true], &[0, 1, 2]);
        let free = |n: usize| n != 2;
        // Of a circle, the second gets on and so the first may.
        assert_eq!(delayed.next(free, false), Some(0));
        read(&mut delayed, 0, true, false);
        assert_eq!(delayed.next(free, false), Some(1));
        read(&mut delayed, 1, true, true);
        assert_eq!(delayed.next(free, false), Some(0));
        assert_eq!(delayed.turns[&0].stage, Stage::First);
        read(&mut delayed, 0, true, false);
        assert_eq!(delayed.next(free, false), Some(1));
        read(&mut delayed, 1, false, true);
        // The second has nothing left.
        let mut stages = Vec::new();
        for progressed in [false, true, true, false, false] {
            assert_eq!(delayed.next(free, false), Some(0));
            assert!(!delayed.has(1));
            stages.push(delayed.turns[&0].stage);
            // In earnest none is left, unless it comes meanwhile.
            read(&mut delayed, 0, stages.len() < 5, progressed);
        }
        let all = [Stage::First, Stage::Loosened, Stage::Second, Stage::Second, Stage::Earnest];
        assert_eq!(stages, all);
        assert_eq!(delayed.next(free, false), None);
        assert!(!delayed.has(0) && delayed.has(2), "only what was not free is left");
        assert_eq!(delayed.next(|_| true, false), Some(2));
    }

    #[test]
    fn what_waits_for_a_row_that_is_to_be_removed_lets_the_sweeps_go_unless_they_might_remove_it() {
        for holds in [false, true] {
            let mut delayed = delayed(&[true], &[0]);
            for stage in [Stage::First, Stage::Loosened] {
                assert!(delayed.holds_sweeps());
                assert_eq!(delayed.next(|_| true, true), Some(0));
                assert_eq!(delayed.turns[&0].stage, stage);
                read(&mut delayed, 0, true, false);
                delayed.turns.get_mut(&0).expect("turn").holds = holds;
            }
            assert_eq!(delayed.next(|_| true, true), holds.then_some(0));
            assert_eq!(delayed.holds_sweeps(), holds);
            if holds {
                assert_eq!(delayed.turns[&0].stage, Stage::Earnest);
                continue;
            }
            assert_eq!(delayed.next(|_| false, true), None, "the sweeps are under way");
            assert_eq!(delayed.next(|_| true, false), Some(0), "they have ended");
            assert_eq!(delayed.turns[&0].stage, Stage::First);
        }
    }

    #[test]
    fn what_is_left_while_a_round_is_on_its_way_is_for_the_next() {
        let mut delayed = delayed(&[true], &[0]);
        assert_eq!(delayed.next(|_| true, false), Some(0));
        read(&mut delayed, 0, false, true);
        delayed.add(0);
        assert_eq!(delayed.next(|_| true, false), Some(0));
        read(&mut delayed, 0, false, true);
        assert_eq!(delayed.next(|_| true, false), None);
        assert!(delayed.is_empty());
    }

    #[test]
    fn what_comes_while_a_round_is_in_earnest_begins_anew() {
        let mut delayed = delayed(&[true], &[0]);
        let mut stages = Vec::new();
        for _ in 0..5 {
            assert_eq!(delayed.next(|_| true, false), Some(0));
            stages.push(delayed.turns[&0].stage);
            read(&mut delayed, 0, true, false);
        }
        let all = [Stage::First, Stage::Loosened, Stage::Earnest, Stage::First, Stage::Loosened];
        assert_eq!(stages, all);
    }
}
