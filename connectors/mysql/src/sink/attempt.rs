//! Writes that may be refused for what they point to, or for what has their unique values still, taken back without the rest of the transaction.

use tidelock_core::{Call, Code, Error, Result, Sink, WriteBatch};

use super::MySqlSink;

impl MySqlSink {
    pub(super) async fn attempted(
        &mut self,
        batches: &[WriteBatch],
        calls: &[Call],
    ) -> Result<Option<Error>> {
        if batches.is_empty() && calls.is_empty() {
            return Ok(None);
        }
        self.ready(true)?;
        self.session.run("SAVEPOINT tidelock_attempt").await?;
        let mut written = self.write(batches).await;
        if written.is_ok() && !calls.is_empty() {
            written = self.call(calls).await;
        }
        match written {
            Ok(()) => {
                self.session.run("RELEASE SAVEPOINT tidelock_attempt").await?;
                Ok(None)
            }
            Err(error) if matches!(error.code(), Code::ForeignKey | Code::KeyConflict) => {
                self.session.run("ROLLBACK TO SAVEPOINT tidelock_attempt").await?;
                self.broken = false;
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }
}
