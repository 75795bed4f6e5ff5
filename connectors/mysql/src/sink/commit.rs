//! The mark, the position and the COMMIT of a guarded transaction.

use tidelock_core::{Code, Error, Mark, Position, Result};

use super::lease::WAITED_AT_LEAST;
use super::{MySqlSink, flow_row, plain};
use crate::{error, upsert, xa};

/// Fails unless the statement before it met one row (found, not changed). `DO` would not: it always succeeds.
fn one_row() -> String {
    format!("SET @tidelock_one_row = {}(ROW_COUNT() <> 1)", upsert::GUARD)
}

/// What sets the position in a flow's row.
pub(super) fn moved(position: &Position, micros: i64) -> String {
    let position = plain(position.as_str());
    format!(
        "position = {position}, source_commit_micros = GREATEST({micros}, source_commit_micros), "
    )
}

impl MySqlSink {
    /// Keeps the flow ours until the transaction ends: a takeover raises the epoch of the row locked here.
    async fn guard(&mut self, epoch: u64) -> Result<()> {
        let sql = format!(
            "SELECT epoch FROM {}.`progress` WHERE {} AND lane = 0 LOCK IN SHARE MODE",
            self.meta,
            flow_row(&self.spec)
        );
        let found: Vec<u64> = self.session.query(&sql).await?;
        if found == [epoch] { Ok(()) } else { Err(self.taken_over()) }
    }

    /// The row's new sequence number and hop list; meets no row where another holder has been.
    pub(super) fn marking(&self, row: &str, mark: &Mark, position: &str) -> Result<String> {
        let Some(before) = mark.seq.checked_sub(1) else {
            return Err(Error::bug("a mark has sequence number 0"));
        };
        Ok(format!(
            "UPDATE {}.`progress` SET seq = {}, hop_list = {}, {position}updated_at = NOW(6) \
             WHERE {row} AND epoch = {} AND seq = {before}",
            self.meta,
            mark.seq,
            plain(&mark.hops.encode(mark.seq)),
            mark.epoch
        ))
    }

    pub(super) fn taken_over(&self) -> Error {
        Error::fenced(format!(
            "{}: another process has taken flow {} over",
            self.session.place, self.spec.flow
        ))
    }

    pub(super) async fn do_begin(&mut self, mark: &Mark, guarded: bool) -> Result<()> {
        let mut sql = self.marking(&self.ours, mark, "")?;
        if guarded {
            self.session.run("START TRANSACTION").await?;
            self.guard(mark.epoch).await?;
        } else {
            sql = format!("START TRANSACTION; {sql}");
        }
        self.session.run(&sql).await?;
        // Of the last statement, and there is no COMMIT among them.
        if self.session.conn.affected_rows() != 1 {
            return Err(self.taken_over());
        }
        (self.epoch, self.seq) = (mark.epoch, mark.seq);
        Ok(())
    }

    /// Every answer to a write has been looked at, and the mark holds the progress row's lock. Should the row not be
    /// ours all the same, [`one_row`] keeps the trip from reaching its COMMIT.
    pub(super) async fn do_commit(&mut self, position: &Position, micros: i64) -> Result<()> {
        let sql = format!(
            "UPDATE {}.`progress` SET {}updated_at = NOW(6) WHERE {} AND epoch = {} AND seq = {}",
            self.meta,
            moved(position, micros),
            self.ours,
            self.epoch,
            self.seq,
        );
        self.commit_with(sql).await
    }

    /// The flow's row is not locked before: whoever had his turn before has committed.
    pub(super) async fn do_commit_in_turn(
        &mut self,
        turn: &Mark,
        position: &Position,
        micros: i64,
    ) -> Result<()> {
        let row = format!("{} AND lane = 0", flow_row(&self.spec));
        let sql = self.marking(&row, turn, &moved(position, micros))?;
        self.commit_with(sql).await
    }

    async fn commit_with(&mut self, update: String) -> Result<()> {
        let sql = format!("{update}; {}; COMMIT", one_row());
        self.session.run(&sql).await.map_err(|e| match e.code() {
            // The sum overflowed.
            Code::KeyConflict => Error::fenced(format!(
                "{}: the progress row of flow {} changed inside our transaction",
                self.session.place, self.spec.flow
            )),
            _ => e,
        })
    }

    /// A deadlock that the server has ended has undone the transaction, our mark with it. Where the mark is still there, the number was
    /// raised by somebody (`SIGNAL`). So it was where a lock was waited for too long in no time, unless the server itself says so: what a
    /// trigger or routine has set for the session may let it wait for less.
    pub(super) async fn looked_into(&mut self, error: Error) -> Error {
        if error::is_told_lock_wait(&error) && self.asked.elapsed() < WAITED_AT_LEAST {
            return error::raised(&self.session.place, "the end of a wait for a lock", 1205);
        }
        if error::is_lock_wait(&error) {
            return self.held_by_prepared(error).await;
        }
        if !error::is_deadlock(&error) {
            return error;
        }
        let sql = format!("SELECT seq FROM {}.`progress` WHERE {}", self.meta, self.ours);
        match self.session.query::<u64>(&sql).await {
            Ok(found) if found == [self.seq] => {
                error::raised(&self.session.place, "a deadlock", 1213)
            }
            Ok(_) | Err(_) => error,
        }
    }

    /// A prepared transaction keeps its locks whoever goes, the server's restart included, and no list of sessions has it.
    async fn held_by_prepared(&mut self, error: Error) -> Error {
        match xa::prepared(&mut self.session).await {
            Ok(found) if !found.is_empty() => {
                let told = xa::told(&found);
                error.with_hint(format!("it may be held by {told}: XA COMMIT or XA ROLLBACK"))
            }
            Ok(_) | Err(_) => error,
        }
    }

    /// Mark and position in one statement, which is a transaction by itself.
    pub(super) async fn do_save(&mut self, mark: &Mark, position: &Position) -> Result<()> {
        let position = format!("position = {}, ", plain(position.as_str()));
        let sql = self.marking(&self.ours, mark, &position)?;
        self.session.run(&sql).await?;
        if self.session.conn.affected_rows() != 1 {
            return Err(self.taken_over());
        }
        (self.epoch, self.seq) = (mark.epoch, mark.seq);
        Ok(())
    }
}
