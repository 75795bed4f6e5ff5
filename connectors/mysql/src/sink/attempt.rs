//! Writes that may be refused for what they point to, or for what has their unique values still, taken back without the rest of the transaction.

use tidelock_core::{Call, Code, Error, ErrorKind, Load, Result, Sink, WriteBatch};

use super::MySqlSink;

/// What a refusal of rows is that may have to wait.
fn may_wait(error: &Error) -> bool {
    matches!(error.code(), Code::ForeignKey | Code::KeyConflict)
}

impl MySqlSink {
    pub(super) async fn attempted(
        &mut self,
        batches: &[WriteBatch],
        calls: &[Call],
    ) -> Result<Option<Error>> {
        if batches.is_empty() && calls.is_empty() {
            return Ok(None);
        }
        self.set_out().await?;
        let mut written = self.write(batches).await;
        if written.is_ok() && !calls.is_empty() {
            written = self.call(calls).await;
        }
        self.come_of(written, may_wait).await
    }

    pub(super) async fn ventured(&mut self, batches: &[WriteBatch]) -> Result<Option<Error>> {
        self.set_out().await?;
        let written = self.write(batches).await;
        self.come_of(written, |error| error.kind() == ErrorKind::Data).await
    }

    pub(super) async fn load_attempted(&mut self, load: &Load<'_>) -> Result<Option<Error>> {
        self.set_out().await?;
        let written = self.load(load).await;
        self.come_of(written, may_wait).await
    }

    async fn set_out(&mut self) -> Result<()> {
        self.ready(true)?;
        self.session.run("SAVEPOINT tidelock_attempt").await
    }

    async fn come_of(
        &mut self,
        written: Result<()>,
        taken_back: impl Fn(&Error) -> bool,
    ) -> Result<Option<Error>> {
        match written {
            Ok(()) => {
                self.session.run("RELEASE SAVEPOINT tidelock_attempt").await?;
                Ok(None)
            }
            Err(error) if taken_back(&error) => {
                self.session.run("ROLLBACK TO SAVEPOINT tidelock_attempt").await?;
                self.broken = false;
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }
}
