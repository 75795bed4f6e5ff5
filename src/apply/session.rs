//! The target session at work: while it writes one group, the next is made ready.
//!
//! Work is done in order, one piece at a time, by a task that has the session and gives it back. What goes wrong in it is told when
//! the session is next asked for, so an error may come up while later changes are already being
//! collected; they are not lost, because the position of the target is the only one that counts.

use std::sync::Arc;

use tidelock_core::{Error, Key, Mark, Position, Result, Sink, StateRow, WriteBatch, WriteOp};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::batch::{Sought, Step, batches_of};
use super::gate::Memories;
use super::place::Places;
use super::seek;
use crate::mapping::call::calls;
use crate::mapping::row::LeftBehind;
use crate::mapping::{MappingPlan, Write};
use crate::reread::{Blamed, Late, Reread, Rereads, Touched};

/// Something to be done at the target.
pub struct Work {
    /// The transaction to be opened, unless it is open.
    pub mark: Option<Mark>,
    /// A mapping that stops with this transaction.
    pub stop: Option<StateRow>,
    /// What is written.
    pub steps: Vec<Step>,
    /// What is read again after that, before the commit.
    pub touched: Touched,
    /// Deletes that come after that.
    pub late: Vec<WriteBatch>,
    /// Where the tables stand.
    pub places: Arc<Places>,
    /// What is remembered with it.
    pub memories: Vec<Memories>,
    /// The position to commit with, and when the source committed it; the transaction stays open without.
    pub commit: Option<(Position, i64)>,
    /// Who waits for the commit.
    pub done: Option<oneshot::Sender<()>>,
}

/// What went wrong, and whose batch it was.
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// The mapping of the batch that it is about.
    pub mapping: Option<Arc<str>>,
}

type Answer = (Box<Hands>, std::result::Result<Reread, Failure>);

/// What the work is done with.
pub struct Hands {
    /// The target session.
    pub sink: Box<dyn Sink>,
    /// What reads rows again at the source.
    pub rereads: Rereads,
}

/// The session of an attempt.
pub enum Session {
    /// It waits for us.
    Idle(Box<Hands>),
    /// It works.
    Busy(AbortOnDropHandle<Answer>),
    /// Its work failed, and nothing more can be done with it.
    Gone,
}

impl Session {
    /// Whether there is work under way that has not ended.
    pub fn is_busy(&self) -> bool {
        match self {
            Session::Busy(task) => !task.is_finished(),
            Session::Idle(_) | Session::Gone => false,
        }
    }

    /// Whether there is work whose end has not been told.
    pub fn is_awaited(&self) -> bool {
        matches!(self, Session::Busy(_))
    }

    /// Waits until the work under way has ended.
    pub async fn settled(&mut self) -> std::result::Result<Reread, Failure> {
        let Session::Busy(task) = self else { return Ok(Reread::default()) };
        let (session, outcome) = match task.await {
            Ok((hands, Ok(reread))) => (Session::Idle(hands), Ok(reread)),
            Ok((_, Err(failure))) => (Session::Gone, Err(failure)),
            Err(panic) => {
                let error = Error::bug(format!("writing ended in a panic: {panic}"));
                (Session::Gone, Err(Failure { error, mapping: None }))
            }
        };
        *self = session;
        outcome
    }

    /// The session itself, which must be idle.
    pub fn sink(&mut self) -> Result<&mut dyn Sink> {
        match self {
            Session::Idle(hands) => Ok(&mut *hands.sink),
            Session::Busy(_) | Session::Gone => {
                Err(Error::bug("the target session was asked for while it is at work"))
            }
        }
    }

    /// The session and what reads rows again; it must be idle.
    pub fn hands(&mut self) -> Result<&mut Hands> {
        match self {
            Session::Idle(hands) => Ok(hands),
            Session::Busy(_) | Session::Gone => {
                Err(Error::bug("the target session was asked for while it is at work"))
            }
        }
    }

    /// Begins work; the session must be idle.
    pub fn start(&mut self, work: Work) -> Result<()> {
        match std::mem::replace(self, Session::Gone) {
            Session::Idle(hands) => {
                *self = Session::Busy(AbortOnDropHandle::new(tokio::spawn(perform(hands, work))));
                Ok(())
            }
            other => {
                *self = other;
                Err(Error::bug("work was given to a target session that is at work"))
            }
        }
    }
}

async fn perform(mut hands: Box<Hands>, work: Work) -> Answer {
    let Hands { sink, rereads } = &mut *hands;
    let Work { mark, stop, mut steps, touched, mut late, places, memories, commit, done } = work;
    let blamed = |error: Error| Failure { error, mapping: None };
    let outcome = async {
        let simple = stop.is_none() && touched.is_empty() && memories.is_empty() && late.is_empty();
        if let (Some(mark), Some((position, micros)), [Step::Write(batches)], true) =
            (&mark, &commit, &steps[..], simple)
        {
            let written = sink.write_whole(mark, batches, position, *micros).await;
            written.map_err(|error| blamed_on(error, batches))?;
            tell(done);
            return Ok(Reread::default());
        }
        if let Some(mark) = &mark {
            sink.begin(mark).await.map_err(blamed)?;
        }
        if let Some(row) = &stop {
            sink.record(row).await.map_err(blamed)?;
        }
        if touched.is_empty() {
            steps.push(Step::Write(std::mem::take(&mut late)));
        } else if commit.is_some() {
            late.extend(Step::split_deletes(&mut steps, &touched.targets(), &places, true));
        }
        for step in steps {
            perform_step(&mut **sink, step).await?;
        }
        let mut reread = Reread::default();
        if let Some((position, commit_micros)) = &commit {
            if !touched.is_empty() {
                let late = Late::new(late, &places);
                let run = rereads.run_before(&mut **sink, touched, position, late).await;
                reread = run.map_err(|Blamed { error, mapping }| Failure { error, mapping })?;
            }
            for Memories { scope, put, gone } in &memories {
                sink.remember(scope, put, gone).await.map_err(blamed)?;
            }
            // A constraint may have waited for this.
            let committed = sink.commit(position, *commit_micros).await;
            committed.map_err(|error| blamed_on(error, &[]))?;
            tell(done);
        }
        Ok(reread)
    };
    let outcome = outcome.await;
    (hands, outcome)
}

fn tell(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        // Perhaps nothing comes after it.
        let _nobody = done.send(());
    }
}

/// Whose rows it is about: those of the batch that it names, or of the mapping.
fn blamed_on(error: Error, batches: &[WriteBatch]) -> Failure {
    let batch = error.batch().and_then(|i| batches.get(i));
    let mapping = batch.map(|batch| batch.mapping.clone());
    let mapping = mapping.or_else(|| error.mapping().map(Arc::from));
    Failure { error, mapping }
}

/// Does a step inside the open transaction of a session.
pub async fn perform_step(sink: &mut dyn Sink, step: Step) -> std::result::Result<(), Failure> {
    let (outcome, mappings): (_, Vec<Arc<str>>) = match step {
        Step::Sought(Sought { mut batch, waits }) => {
            let mapping = batch.mapping.clone();
            let answered = async {
                seek::answer_batch(sink, &mut batch, waits).await?;
                sink.write(&[batch]).await
            };
            return answered.await.map_err(|error| Failure { error, mapping: Some(mapping) });
        }
        Step::SoughtCall(plan, mut write) => {
            let mapping = plan.name.clone();
            let answered = async {
                seek::answer_writes(sink, &plan, std::slice::from_mut(&mut write)).await?;
                match &plan.call {
                    Some(call) => sink.call(&calls(&plan, call, &write)?).await,
                    None => Err(Error::bug("a call without its routine")),
                }
            };
            return answered.await.map_err(|error| Failure { error, mapping: Some(mapping) });
        }
        Step::Moved(plan, write, left) => {
            let mapping = plan.name.clone();
            let moved = async {
                let mut writes = arrived(sink, &plan, write, left).await?;
                seek::answer_writes(sink, &plan, &mut writes).await?;
                sink.write(&batches_of(&plan, writes)).await
            };
            return moved.await.map_err(|error| Failure { error, mapping: Some(mapping) });
        }
        Step::Write(batches) => {
            let outcome = sink.write(&batches).await;
            (outcome, batches.into_iter().map(|b| b.mapping).collect())
        }
        Step::Call(calls) => {
            let outcome = sink.call(&calls).await;
            (outcome, calls.into_iter().map(|c| c.mapping).collect())
        }
    };
    outcome.map_err(|error| {
        let mapping = error.batch().and_then(|i| mappings.get(i)).cloned();
        Failure { mapping, error }
    })
}

/// What a row that moves to another key becomes. Where the target has a row there, that is one which has ended, for the source keeps the key unique: it is
/// this row now, as if it had been inserted, and the row at the old key ends. Else the row goes there.
async fn arrived(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    mut write: Write,
    left: LeftBehind,
) -> Result<Vec<Write>> {
    let width = write.columns.len();
    let cell = |at: &usize| {
        let place = write.columns.iter().position(|column| column == at);
        match place {
            Some(place) => write.row.get(place),
            // A part of the key may be what it was.
            None => {
                let nth = plan.target.key.iter().position(|key| key == at)?;
                write.row.get(width + nth)
            }
        }
    };
    let key = plan.target.key.iter().map(|at| cell(at).cloned()).collect::<Option<Key>>();
    let key = key.ok_or_else(|| Error::bug("a row that moves lacks its key"))?;
    if let [Some(_)] = &sink.lookup(&left.at, std::slice::from_ref(&key)).await?[..] {
        let mut row = std::mem::take(&mut write.row).into_vec();
        row.truncate(width);
        match write.op {
            WriteOp::Move => write.op = WriteOp::Upsert,
            _ => row.extend(key),
        }
        write.row = row.into();
        write.keys[1] = write.keys[0];
        return Ok(left.end?.into_iter().chain([write]).collect());
    }
    Ok(vec![write])
}
