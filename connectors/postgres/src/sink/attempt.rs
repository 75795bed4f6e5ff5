//! Writes that may be refused for what they point to, or for what has their unique values still, taken back without the rest of the transaction.
//!
//! A constraint that waits for the COMMIT would refuse the whole transaction there, and not these rows here, so it is
//! asked at once: below a savepoint that is taken back, so that it goes on waiting. What was pending already when the rows came
//! is not their fault.

use tidelock_core::{Call, Code, Error, ErrorKind, Load, Result, Sink, WriteBatch};

use super::{CALL_TIMEOUT, PgSink, Stage};

const DOING: &str = "writing rows that may have to wait";

/// What a refusal of rows is that may have to wait.
fn may_wait(error: &Error) -> bool {
    matches!(error.code(), Code::ForeignKey | Code::KeyConflict)
}

impl PgSink {
    pub(super) async fn attempted(
        &mut self,
        batches: &[WriteBatch],
        calls: &[Call],
    ) -> Result<Option<Error>> {
        self.tried(batches, calls, may_wait).await
    }

    pub(super) async fn ventured(&mut self, batches: &[WriteBatch]) -> Result<Option<Error>> {
        self.tried(batches, &[], |error| error.kind() == ErrorKind::Data).await
    }

    async fn tried(
        &mut self,
        batches: &[WriteBatch],
        calls: &[Call],
        taken_back: fn(&Error) -> bool,
    ) -> Result<Option<Error>> {
        if batches.is_empty() && calls.is_empty() {
            return Ok(None);
        }
        self.set_out().await?;
        let written = self.write_and_call(batches, calls).await;
        if let Some(refused) = self.come_of(written, taken_back).await? {
            return self.arrive(Some(refused)).await;
        }
        let Some(late) = self.agreed(taken_back).await? else { return Ok(None) };
        self.undo().await?;
        if self.agreed(taken_back).await?.is_none() {
            return Ok(Some(late));
        }
        // It was broken before: the end of the transaction finds it mended, or tells whose fault it is.
        self.undo().await?;
        let written = self.write_and_call(batches, calls).await;
        let refused = self.come_of(written, taken_back).await?;
        self.arrive(refused).await
    }

    async fn write_and_call(&mut self, batches: &[WriteBatch], calls: &[Call]) -> Result<()> {
        self.write(batches).await?;
        self.calls(calls).await
    }

    pub(super) async fn load_attempted(&mut self, load: &Load<'_>) -> Result<Option<Error>> {
        self.check_at_once(DOING).await?;
        self.set_out().await?;
        let written = self.load(load).await;
        let refused = self.come_of(written, may_wait).await?;
        self.arrive(refused).await
    }

    async fn set_out(&mut self) -> Result<()> {
        self.set("tidelock_attempt").await
    }

    async fn set(&mut self, savepoint: &str) -> Result<()> {
        self.start().await?;
        // The one of a load must not be outside of ours: it is released when the next load begins.
        let release = match std::mem::take(&mut self.opened()?.savepoint) {
            true => "RELEASE SAVEPOINT tidelock_load; ",
            false => "",
        };
        let set = format!("{release}SAVEPOINT {savepoint}");
        self.session.batch(DOING, &set).await
    }

    pub(super) async fn marked(&mut self) -> Result<()> {
        self.set("tidelock_place").await
    }

    pub(super) async fn went_back(&mut self) -> Result<()> {
        let back = "ROLLBACK TO SAVEPOINT tidelock_place; RELEASE SAVEPOINT tidelock_place";
        self.session.batch(DOING, back).await?;
        self.opened()?.savepoint = false;
        Ok(())
    }

    /// What refuses the rows; they are taken back then.
    async fn come_of(
        &mut self,
        written: Result<()>,
        taken_back: fn(&Error) -> bool,
    ) -> Result<Option<Error>> {
        match written {
            Ok(()) => Ok(None),
            Err(error) if taken_back(&error) => {
                self.undo().await?;
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn undo(&mut self) -> Result<()> {
        self.session.batch(DOING, "ROLLBACK TO SAVEPOINT tidelock_attempt").await?;
        self.opened()?.savepoint = false;
        Ok(())
    }

    /// Ends the attempt, unless constraints that wait for the COMMIT would refuse it now; they go on waiting. After a
    /// refusal nothing is done before it is undone.
    async fn agreed(&mut self, taken_back: fn(&Error) -> bool) -> Result<Option<Error>> {
        let sql = "SAVEPOINT tidelock_pending; SET CONSTRAINTS ALL IMMEDIATE; \
                   ROLLBACK TO SAVEPOINT tidelock_pending; RELEASE SAVEPOINT tidelock_attempt";
        let asked = self.session.client.batch_execute(sql);
        match self.session.call(DOING, Stage::Write, CALL_TIMEOUT, asked).await {
            Ok(()) => {
                self.opened()?.savepoint = false;
                Ok(None)
            }
            Err(error) if taken_back(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    async fn arrive(&mut self, refused: Option<Error>) -> Result<Option<Error>> {
        self.session.batch(DOING, "RELEASE SAVEPOINT tidelock_attempt").await?;
        self.opened()?.savepoint = false;
        Ok(refused)
    }
}
