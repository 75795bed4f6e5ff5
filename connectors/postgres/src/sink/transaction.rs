//! BEGIN, the mark, the position and the COMMIT.

use std::sync::Arc;

use futures_util::future::{join, join3};
use tidelock_core::{Code, Error, ErrorKind, Mark, Position, Result, TableName};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::deferred::Broken;
use super::{PgSink, number};
use crate::error::{Stage, from_client};
use crate::session::CALL_TIMEOUT;

/// The open transaction.
pub(super) struct Open {
    pub(super) mark: Mark,
    /// Whether the flow's row is locked first, and must have our epoch: so a loader begins.
    pub(super) guarded: bool,
    /// Whether BEGIN and the mark are at the server, and the mark was answered.
    pub(super) sent: bool,
    /// Whether the savepoint is set.
    pub(super) savepoint: bool,
    /// How often it was.
    pub(super) savepoints: u32,
    /// Which mappings have written what, each once: a constraint may be checked only at the COMMIT.
    pub(super) wrote: Vec<(Arc<str>, TableName)>,
}

/// What BEGIN and the mark are sent with.
pub(super) struct Opening {
    guarded: bool,
    epoch: i64,
    seq: i64,
    hops: String,
}

impl PgSink {
    pub(super) fn fenced(&self) -> Error {
        Error::fenced(format!(
            "the progress row of flow {} no longer has our epoch and sequence number",
            self.spec.flow
        ))
    }

    pub(super) fn begun(&mut self, mark: &Mark, guarded: bool) -> Result<()> {
        if self.open.is_some() {
            return Err(Error::bug("a transaction was begun inside another"));
        }
        self.open = Some(Open {
            mark: mark.clone(),
            guarded,
            sent: false,
            savepoint: false,
            savepoints: 0,
            wrote: Vec::new(),
        });
        Ok(())
    }

    /// Sets the position by a statement that divides by the number of rows it sets, and commits.
    pub(super) async fn commit_by(
        &mut self,
        statement: &tokio_postgres::Statement,
        mark: &Mark,
        position: &Position,
        source_commit_micros: i64,
    ) -> Result<()> {
        self.start().await?;
        let Open { wrote, .. } =
            self.open.take().ok_or_else(|| Error::bug("a commit outside a transaction"))?;
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let (text, hops) = (position.as_str(), mark.hops.encode(mark.seq));
        let params: [&(dyn ToSql + Sync); 8] = [
            &self.spec.pipeline,
            &self.spec.flow,
            &epoch,
            &seq,
            &text,
            &source_commit_micros,
            &self.spec.config_hash,
            &hops,
        ];
        let client = &self.session.client;
        let update = async {
            match client.execute(statement, &params[..statement.params().len()]).await {
                Err(error) if error.code() == Some(&SqlState::DIVISION_BY_ZERO) => Ok(0),
                answer => answer,
            }
        };
        let update = self.session.call("setting the position", Stage::Write, CALL_TIMEOUT, update);
        let commit = client.batch_execute("COMMIT");
        let mut broken = None;
        let told = |error: &tokio_postgres::Error, doing: &str| {
            broken = error.as_db_error().map(Broken::from);
            from_client(error, doing, Stage::Write)
        };
        let commit = self.session.call_told("committing", CALL_TIMEOUT, commit, told);
        let (updated, committed) = join(update, commit).await;
        if updated? != 1 {
            return Err(self.fenced());
        }
        match (committed, broken) {
            (Err(error), Some(broken))
                if error.kind() == ErrorKind::Data || error.code() == Code::Rejected =>
            {
                Err(self.refused_late(error, &broken, &wrote).await)
            }
            (committed, _) => committed,
        }
    }

    /// The transaction that is open.
    pub(super) fn opened(&mut self) -> Result<&mut Open> {
        self.open.as_mut().ok_or_else(|| Error::bug("a call outside a transaction"))
    }

    /// What is to be sent before anything else of the transaction, if it has not been.
    pub(super) fn opening(&mut self) -> Result<Option<Opening>> {
        let Open { mark, guarded, sent, .. } = self.opened()?;
        if *sent {
            return Ok(None);
        }
        let (epoch, seq) = (number(mark.epoch)?, number(mark.seq)?);
        let hops = mark.hops.encode(mark.seq);
        Ok(Some(Opening { guarded: *guarded, epoch, seq, hops }))
    }

    /// Sends BEGIN and the mark when first polled, if they have not been sent.
    pub(super) async fn send_opening(&self, opening: Option<Opening>) -> Result<()> {
        let Some(Opening { guarded, epoch, seq, hops }) = opening else { return Ok(()) };
        let params: [&(dyn ToSql + Sync); 5] =
            [&self.spec.pipeline, &self.spec.flow, &epoch, &seq, &hops];
        let client = &self.session.client;
        let both = async {
            let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
            let guard = async {
                match &self.guard_statement {
                    Some(guard) if guarded => client.execute(guard, &params[..3]).await,
                    Some(_) | None => Ok(1),
                }
            };
            let update = client.execute(&self.mark_statement, &params);
            let (begun, held, updated) = join3(begin, guard, update).await;
            begun.and(held).and_then(|held| Ok((held, updated?)))
        };
        let rows =
            self.session.call("opening a transaction", Stage::Write, CALL_TIMEOUT, both).await?;
        if rows == (1, 1) { Ok(()) } else { Err(self.fenced()) }
    }

    /// Opens the transaction at the server for what cannot travel with the opening.
    pub(super) async fn start(&mut self) -> Result<()> {
        let opening = self.opening()?;
        self.send_opening(opening).await?;
        self.opened()?.sent = true;
        Ok(())
    }
}
