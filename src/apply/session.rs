//! The target session at work: while it writes one group, the next is made ready.
//!
//! Work is done in order, one piece at a time, by a task that has the session and gives it back. What goes wrong in it is told when
//! the session is next asked for, so an error may come up while later changes are already being
//! collected; they are not lost, because the position of the target is the only one that counts.

use std::sync::Arc;

use tidelock_core::{Error, Mark, Position, Result, Sink, StateRow, WriteBatch};
use tokio_util::task::AbortOnDropHandle;

/// Something to be done at the target.
pub struct Work {
    /// The transaction to be opened, unless it is open.
    pub mark: Option<Mark>,
    /// A mapping that stops with this transaction.
    pub stop: Option<StateRow>,
    /// What is written.
    pub batches: Vec<WriteBatch>,
    /// The position to commit with, and when the source committed it; the transaction stays open without.
    pub commit: Option<(Position, i64)>,
}

/// What went wrong, and whose batch it was.
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// The mapping of the batch that it is about.
    pub mapping: Option<Arc<str>>,
}

type Answer = (Box<dyn Sink>, std::result::Result<(), Failure>);

/// The session of an attempt.
pub enum Session {
    /// It waits for us.
    Idle(Box<dyn Sink>),
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
    pub async fn settled(&mut self) -> std::result::Result<(), Failure> {
        let Session::Busy(task) = self else { return Ok(()) };
        let (session, outcome) = match task.await {
            Ok((sink, Ok(()))) => (Session::Idle(sink), Ok(())),
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
            Session::Idle(sink) => Ok(&mut **sink),
            Session::Busy(_) | Session::Gone => {
                Err(Error::bug("the target session was asked for while it is at work"))
            }
        }
    }

    /// Begins work; the session must be idle.
    pub fn start(&mut self, work: Work) -> Result<()> {
        match std::mem::replace(self, Session::Gone) {
            Session::Idle(sink) => {
                *self = Session::Busy(AbortOnDropHandle::new(tokio::spawn(perform(sink, work))));
                Ok(())
            }
            other => {
                *self = other;
                Err(Error::bug("work was given to a target session that is at work"))
            }
        }
    }
}

async fn perform(mut sink: Box<dyn Sink>, work: Work) -> Answer {
    let outcome = async {
        if let Some(mark) = &work.mark {
            sink.begin(mark).await?;
        }
        if let Some(row) = &work.stop {
            sink.record(row).await?;
        }
        if !work.batches.is_empty() {
            sink.write(&work.batches).await?;
        }
        if let Some((position, commit_micros)) = &work.commit {
            sink.commit(position, *commit_micros).await?;
        }
        Ok(())
    };
    let outcome = outcome.await.map_err(|error: Error| {
        let batch = error.batch().and_then(|i| work.batches.get(i));
        Failure { mapping: batch.map(|b| b.mapping.clone()), error }
    });
    (sink, outcome)
}
