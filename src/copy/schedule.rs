//! Which worker reads what next. Pure.
//!
//! A mapping begins when the rows of those before it that foreign keys tie to it are in, so parents are there before their
//! children, as with one worker. Within a mapping the parts are read in the order of their keys by whoever is free;
//! what has begun comes before what has not.
//!
//! Sweeps come after all that can be read, each by one worker, and children's before their parents': what still points to a row
//! that the source does not have is gone, or points elsewhere, before that row goes. One may have to wait
//! for the other direction, and nothing else waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tidelock_core::{KeyRange, TableName};

use super::Job;
use crate::mapping::MappingPlan;

/// What a worker is to do; the number is the job's.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Find the parts: each is told by [`Schedule::found`], the end by [`Schedule::did`].
    Begin(usize),
    /// Read a part.
    Part(usize, Span),
    /// Look for rows that only the target has.
    Sweep(usize),
}

/// What is left of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its number.
    pub part: usize,
    /// Its keys.
    pub range: KeyRange,
    /// About how many rows the whole table has.
    pub total: u64,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Waiting,
    /// Parts are being found, or read.
    Rows,
    /// The sweep is next.
    Swept,
    Sweeping,
    Ended,
}

#[derive(Debug)]
struct Course {
    /// The jobs that must have ended before.
    after: Vec<usize>,
    stage: Stage,
    sweep: bool,
    spans: VecDeque<Span>,
    /// Work that is under way.
    busy: usize,
}

/// The state of all jobs.
#[derive(Debug)]
pub struct Schedule {
    courses: Vec<Course>,
    /// All jobs before this one have ended.
    first: usize,
}

impl Schedule {
    /// Of jobs in their order.
    pub fn new(jobs: &[Arc<Job>], plans: &[Arc<MappingPlan>]) -> Schedule {
        let plans: HashMap<&str, &Arc<MappingPlan>> =
            plans.iter().map(|plan| (&*plan.name, plan)).collect();
        let tables: Vec<(Option<&TableName>, &[TableName])> = jobs
            .iter()
            .map(|job| match plans.get(&*job.mapping) {
                Some(plan) => (Some(&plan.target.name), &plan.before[..]),
                None => (None, &[][..]),
            })
            .collect();
        let courses = jobs
            .iter()
            .zip(ties(&tables))
            .map(|(job, after)| Course {
                after,
                stage: Stage::Waiting,
                sweep: job.row.sweep,
                spans: VecDeque::new(),
                busy: 0,
            })
            .collect();
        Schedule { courses, first: 0 }
    }

    /// The next thing to do; `None` if there is nothing now. Only those may be swept of which it is said.
    pub fn take(&mut self, may_sweep: impl Fn(usize) -> bool) -> Option<Work> {
        while self.first < self.courses.len() && self.has_ended(self.first) {
            self.first += 1;
        }
        for job in self.first..self.courses.len() {
            let course = self.courses.get(job)?;
            let begins = course.stage == Stage::Waiting
                && course.after.iter().all(|&before| self.has_rows(before));
            let course = self.courses.get_mut(job)?;
            if begins {
                (course.stage, course.busy) = (Stage::Rows, 1);
                return Some(Work::Begin(job));
            }
            if let Some(span) = course.spans.pop_front() {
                course.busy += 1;
                return Some(Work::Part(job, span));
            }
        }
        let sweeps = (self.first..self.courses.len()).rev().find(|&job| {
            self.is_to_be_swept(job)
                && may_sweep(job)
                && (job + 1..self.courses.len()).all(|later| {
                    self.has_ended(later)
                        || !self.courses.get(later).is_some_and(|c| c.after.contains(&job))
                })
        })?;
        let course = self.courses.get_mut(sweeps)?;
        (course.stage, course.busy) = (Stage::Sweeping, 1);
        Some(Work::Sweep(sweeps))
    }

    /// Those that wait to be swept.
    pub fn to_be_swept(&self) -> impl Iterator<Item = usize> {
        (self.first..self.courses.len()).filter(|&job| self.is_to_be_swept(job))
    }

    fn is_to_be_swept(&self, job: usize) -> bool {
        self.courses.get(job).is_some_and(|course| course.stage == Stage::Swept)
    }

    /// Whether all rows of a job are at the target.
    fn has_rows(&self, job: usize) -> bool {
        self.courses.get(job).is_none_or(|course| {
            matches!(course.stage, Stage::Swept | Stage::Sweeping | Stage::Ended)
        })
    }

    /// A part of a job was found.
    pub fn found(&mut self, job: usize, span: Span) {
        if let Some(course) = self.courses.get_mut(job) {
            course.spans.push_back(span);
        }
    }

    /// Work on a job is done. Whether that was the last of it.
    pub fn did(&mut self, job: usize) -> bool {
        let Some(course) = self.courses.get_mut(job) else { return false };
        course.busy = course.busy.saturating_sub(1);
        if course.busy > 0 || !course.spans.is_empty() {
            return false;
        }
        course.stage = match course.stage {
            Stage::Rows if course.sweep => Stage::Swept,
            Stage::Waiting | Stage::Rows | Stage::Swept | Stage::Sweeping | Stage::Ended => {
                Stage::Ended
            }
        };
        course.stage == Stage::Ended
    }

    /// Whether everything is done.
    pub fn is_done(&self) -> bool {
        (self.first..self.courses.len()).all(|job| self.has_ended(job))
    }

    fn has_ended(&self, job: usize) -> bool {
        self.courses.get(job).is_none_or(|course| course.stage == Stage::Ended)
    }
}

/// For each table, which of those before it are tied to it: by a foreign key in either direction (in a circle the order
/// decides), or because they are the same.
fn ties(tables: &[(Option<&TableName>, &[TableName])]) -> Vec<Vec<usize>> {
    let mut places: HashMap<&TableName, Vec<usize>> = HashMap::new();
    for (i, (name, _)) in tables.iter().enumerate() {
        if let Some(name) = name {
            places.entry(name).or_default().push(i);
        }
    }
    let mut after = vec![Vec::new(); tables.len()];
    for (i, (name, references)) in tables.iter().enumerate() {
        let tied = references.iter().chain(*name).filter_map(|name| places.get(name)).flatten();
        for &other in tied {
            let (first, second) = (i.min(other), i.max(other));
            if first != second
                && let Some(after) = after.get_mut(second)
            {
                after.push(first);
            }
        }
    }
    for after in &mut after {
        after.sort_unstable();
        after.dedup();
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(afters: &[&[usize]]) -> Schedule {
        let courses = afters
            .iter()
            .map(|after| Course {
                after: after.to_vec(),
                stage: Stage::Waiting,
                sweep: false,
                spans: VecDeque::new(),
                busy: 0,
            })
            .collect();
        Schedule { courses, first: 0 }
    }

    fn span(part: usize) -> Span {
        Span { part, range: KeyRange { after: None, upto: None }, total: 0 }
    }

    #[test]
    fn tables_are_tied_by_foreign_keys_in_the_order_given() {
        let name = |n: &str| TableName::new("s", n);
        let (a, b, c, d) = (name("a"), name("b"), name("c"), name("d"));
        // b points to a; c to itself; a points to d, which comes later: a circle or an order of the file's.
        let to_a = [a.clone()];
        let to_c = [c.clone()];
        let to_d = [d.clone(), name("unmapped")];
        let tables: Vec<(Option<&TableName>, &[TableName])> = vec![
            (Some(&a), &to_d),
            (Some(&b), &to_a),
            (Some(&c), &to_c),
            (Some(&d), &[]),
            (Some(&b), &[]),
            (None, &[]),
        ];
        let expected: Vec<Vec<usize>> = vec![vec![], vec![0], vec![], vec![0], vec![1], vec![]];
        assert_eq!(ties(&tables), expected);
    }

    #[test]
    fn a_child_waits_for_all_parts_of_its_parent_and_others_do_not() {
        let mut schedule = schedule(&[&[], &[0], &[]]);
        assert_eq!(schedule.take(|_| true), Some(Work::Begin(0)));
        schedule.found(0, span(0));
        schedule.found(0, span(1));
        // While the first is still being cut, its parts are read, then what does not depend on it.
        assert_eq!(schedule.take(|_| true), Some(Work::Part(0, span(0))));
        assert_eq!(schedule.take(|_| true), Some(Work::Part(0, span(1))));
        assert_eq!(schedule.take(|_| true), Some(Work::Begin(2)));
        assert_eq!(schedule.take(|_| true), None);
        assert!(!schedule.did(0) && !schedule.did(0), "one part is still being read");
        assert_eq!(schedule.take(|_| true), None);
        assert!(schedule.did(0));
        assert_eq!(schedule.take(|_| true), Some(Work::Begin(1)));
        assert!(schedule.did(1) && !schedule.is_done());
        assert!(schedule.did(2) && schedule.is_done());
        assert_eq!(schedule.take(|_| true), None);
    }

    #[test]
    fn a_sweep_comes_once_and_when_nothing_can_be_read() {
        let mut schedule = schedule(&[&[], &[0]]);
        schedule.courses[0].sweep = true;
        assert_eq!(schedule.take(|_| true), Some(Work::Begin(0)));
        schedule.found(0, span(0));
        assert!(!schedule.did(0));
        assert_eq!(schedule.take(|_| true), Some(Work::Part(0, span(0))));
        assert_eq!(schedule.take(|_| true), None);
        assert!(!schedule.did(0));
        // The parent's rows are in.
        assert_eq!(schedule.take(|_| true), Some(Work::Begin(1)));
        assert_eq!(schedule.take(|_| true), None, "the child may still point to what goes");
        assert!(schedule.did(1));
        assert_eq!(schedule.take(|_| false), None);
        assert_eq!(schedule.take(|_| true), Some(Work::Sweep(0)));
        assert_eq!(schedule.take(|_| true), None);
        assert!(schedule.did(0) && schedule.is_done());
    }

    #[test]
    fn children_are_swept_before_their_parents() {
        let mut schedule = schedule(&[&[], &[0], &[]]);
        for course in &mut schedule.courses {
            course.sweep = true;
        }
        for job in [0, 1, 2] {
            assert_eq!(schedule.take(|_| true), Some(Work::Begin(job)));
            assert!(!schedule.did(job));
        }
        assert_eq!(schedule.to_be_swept().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(schedule.take(|job| job != 2), Some(Work::Sweep(1)));
        assert_eq!(schedule.take(|job| job != 2), None);
        assert!(schedule.did(1));
        assert_eq!(schedule.take(|job| job != 2), Some(Work::Sweep(0)));
        assert_eq!(schedule.take(|_| true), Some(Work::Sweep(2)));
    }
}
