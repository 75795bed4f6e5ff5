//! Writes that may be refused for what they point to, or for what has their unique values still, taken back without the rest of the transaction.

use tidelock_core::{Call, Code, Error, Load, Result, Sink, WriteBatch};

use super::PgSink;

const DOING: &str = "writing rows that may have to wait";

impl PgSink {
    pub(super) async fn attempted(
        &mut self,
        batches: &[WriteBatch],
        calls: &[Call],
    ) -> Result<Option<Error>> {
        if batches.is_empty() && calls.is_empty() {
            return Ok(None);
        }
        self.set_out("").await?;
        let mut written = self.write(batches).await;
        if written.is_ok() {
            written = self.calls(calls).await;
        }
        self.come_of(written).await
    }

    pub(super) async fn load_attempted(&mut self, load: &Load<'_>) -> Result<Option<Error>> {
        // A constraint that waits for the COMMIT would refuse the piece there, and not its rows here.
        self.set_out("SET CONSTRAINTS ALL IMMEDIATE; ").await?;
        let written = self.load(load).await;
        self.come_of(written).await
    }

    async fn set_out(&mut self, before: &str) -> Result<()> {
        self.start().await?;
        // The one of a load must not be outside of ours: it is released when the next load begins.
        let release = match std::mem::take(&mut self.opened()?.savepoint) {
            true => "RELEASE SAVEPOINT tidelock_load; ",
            false => "",
        };
        let set = format!("{release}{before}SAVEPOINT tidelock_attempt");
        self.session.batch(DOING, &set).await
    }

    async fn come_of(&mut self, written: Result<()>) -> Result<Option<Error>> {
        let (end, refused) = match written {
            Ok(()) => ("RELEASE SAVEPOINT tidelock_attempt", None),
            Err(error) if matches!(error.code(), Code::ForeignKey | Code::KeyConflict) => {
                let undo =
                    "ROLLBACK TO SAVEPOINT tidelock_attempt; RELEASE SAVEPOINT tidelock_attempt";
                (undo, Some(error))
            }
            Err(error) => return Err(error),
        };
        self.session.batch(DOING, end).await?;
        self.opened()?.savepoint = false;
        Ok(refused)
    }
}
