//! Rows by `COPY`, below a savepoint.

use std::sync::Arc;

use futures_util::future::join;
use tidelock_core::{Error, ErrorKind, Result, TargetTable, Value, WriteOp};

use super::statements::execute;
use super::{PgSink, REFUSED_PIECES, STATEMENTS_MAX, WRITE_TIMEOUT};
use crate::error::Stage;
use crate::load::{self, Encoder, Rows};
use crate::session::{CALL_TIMEOUT, get};
use crate::upsert;

/// Savepoints of a transaction: below the 64 subtransactions that a server keeps at hand for each.
pub(super) const SAVEPOINTS_MAX: u32 = 48;

impl PgSink {
    /// Runs a `COPY` below a savepoint. `false`: the server did not take all rows, and none is there.
    ///
    /// The opening, the savepoint and the `COPY` are sent together. The savepoint is released by the next one or by
    /// the COMMIT.
    pub(super) async fn copied<F>(&mut self, doing: &str, rows: usize, copying: F) -> Result<bool>
    where
        F: AsyncFnOnce(
            &tokio_postgres::Client,
        ) -> std::result::Result<Result<u64>, tokio_postgres::Error>,
    {
        let opening = self.opening()?;
        let set = if self.opened()?.savepoint {
            "RELEASE SAVEPOINT tidelock_load; SAVEPOINT tidelock_load"
        } else {
            "SAVEPOINT tidelock_load"
        };
        let head = join(self.send_opening(opening), self.session.batch(doing, set));
        let copying = copying(&self.session.client);
        let copying = self.session.call(doing, Stage::Write, WRITE_TIMEOUT, copying);
        let ((opened, set), copied) = join(head, copying).await;
        opened.and(set)?;
        let open = self.opened()?;
        (open.sent, open.savepoint) = (true, true);
        open.savepoints += 1;
        match copied.and_then(|own| own) {
            Ok(taken) if taken == rows as u64 => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Data => {}
            Err(error) => return Err(error),
        }
        let undo = "ROLLBACK TO SAVEPOINT tidelock_load; RELEASE SAVEPOINT tidelock_load";
        self.session.batch(doing, undo).await?;
        self.opened()?.savepoint = false;
        Ok(false)
    }

    /// Whether a load may try its fast way: not for a while after rows turned out to be there, and
    /// never where `COPY` would not do what an insert does.
    pub(super) async fn may_copy(&mut self, table: &TargetTable) -> Result<bool> {
        if let Some(pieces) = self.refused.get_mut(&table.id)
            && *pieces > 0
        {
            *pieces -= 1;
            return Ok(false);
        }
        if let Some(copyable) = self.copyable.get(&table.id) {
            return Ok(*copyable);
        }
        // Rules are for INSERT only, and COPY is not to be had under row security.
        let sql = "SELECT c.relkind IN ('r', 'p') AND NOT c.relhasrules \
                   AND NOT pg_catalog.row_security_active(c.oid) \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = $1 AND c.relname = $2";
        let row = self
            .session
            .query_opt("reading a table", sql, &[&table.name.schema, &table.name.name])
            .await?;
        let copyable = row.as_ref().map(|row| get(row, 0)).transpose()?.unwrap_or(false);
        self.copyable.insert(table.id, copyable);
        Ok(copyable)
    }

    /// Loads rows into a table that has none of their keys, without a savepoint. `false`: it has.
    async fn copy_absent(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        rows: &[Box<[Value]>],
    ) -> Result<bool> {
        let places: Option<Vec<usize>> =
            table.key.iter().map(|k| columns.iter().position(|c| c == k)).collect();
        let places = places.ok_or_else(|| Error::bug("an insert without its key"))?;
        let keys = upsert::cells(table, WriteOp::Delete, &table.key)?;
        let keys = upsert::arrays_of(rows.iter().map(|r| &**r), &keys, &places)?;
        let asking = self.prepared_text(doing, table, None, &[].into()).await?;
        let answer = execute(&self.session.client, &asking, &keys);
        if self.session.call(doing, Stage::Write, WRITE_TIMEOUT, answer).await? > 0 {
            return Ok(false);
        }
        let format = load::format(table, columns)?;
        let statement = self.copy_statement(doing, table, columns, format.is_some()).await?;
        let mut encoder = Encoder::new(Rows::Batch(rows), format, table, columns);
        let copying = load::copy_in(&self.session.client, &statement, &mut encoder);
        // A row that a trigger leaves out, it would leave out of an upsert too.
        self.session.call(doing, Stage::Write, WRITE_TIMEOUT, copying).await??;
        Ok(true)
    }

    pub(super) async fn copy_statement(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        binary: bool,
    ) -> Result<tokio_postgres::Statement> {
        let key = (table.id, Arc::from(columns), binary);
        if let Some(found) = self.copies.get(&key) {
            return Ok(found.clone());
        }
        if self.copies.len() >= STATEMENTS_MAX {
            self.copies.clear();
        }
        let sql = upsert::copy(table, columns, binary)?;
        let prepare = self.session.client.prepare(&sql);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        self.copies.insert(key, statement.clone());
        Ok(statement)
    }

    /// Loads rows. `false`: they are to be upserted.
    pub(super) async fn copy(
        &mut self,
        doing: &str,
        table: &TargetTable,
        columns: &[usize],
        rows: Rows<'_>,
    ) -> Result<bool> {
        if !self.may_copy(table).await? {
            return Ok(false);
        }
        if self.opened()?.savepoints >= SAVEPOINTS_MAX {
            let Rows::Batch(batch) = rows else { return Ok(false) };
            let copied = self.copy_absent(doing, table, columns, batch).await?;
            if copied {
                self.put(table.id, batch.len());
            } else {
                self.refused.insert(table.id, REFUSED_PIECES);
            }
            return Ok(copied);
        }
        let format = load::format(table, columns)?;
        let statement = self.copy_statement(doing, table, columns, format.is_some()).await?;
        let mut encoder = Encoder::new(rows, format, table, columns);
        let copying = async |client: &tokio_postgres::Client| {
            load::copy_in(client, &statement, &mut encoder).await
        };
        let copied = self.copied(doing, rows.count(), copying).await?;
        if copied {
            self.put(table.id, rows.count());
        } else {
            self.refused.insert(table.id, REFUSED_PIECES);
        }
        Ok(copied)
    }
}
