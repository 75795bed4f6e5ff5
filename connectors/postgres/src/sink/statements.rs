//! The statements that write rows: prepared once, and several sent before the first is answered.

use std::sync::Arc;

use futures_util::future::maybe_done;
use tidelock_core::{Code, DataType, Error, Key, Result, TargetTable, WriteBatch, WriteOp};
use tokio_postgres::types::{ToSql, Type};

use super::{PgSink, STATEMENTS_MAX, WRITE_TIMEOUT, attribute, doing, send_in_order};
use crate::error::Stage;
use crate::session::{CALL_TIMEOUT, get};
use crate::upsert::{self, Encoded};

/// Rows put into an empty table until the plans of its statements are made anew.
const REPLAN_ROWS: u64 = 1_000;
/// Keys of one statement that locks rows.
const KEYS_A_LOCK: usize = 5_000;

pub(super) struct Prepared {
    statement: tokio_postgres::Statement,
    counts: bool,
    /// So many rows put into the table by this session, and its plan is to be made anew.
    grown_rows: u64,
}

impl PgSink {
    async fn prepared(
        &mut self,
        batch: &WriteBatch,
        op: WriteOp,
        columns: &Arc<[usize]>,
    ) -> Result<Arc<Prepared>> {
        let doing = format!("mapping {}: preparing a write to {}", batch.mapping, batch.table.name);
        self.prepared_text(&doing, &batch.table, Some(op), columns).await
    }

    /// The statement of an operation; that which counts the rows that are there, for none.
    pub(super) async fn prepared_text(
        &mut self,
        doing: &str,
        table: &TargetTable,
        op: Option<WriteOp>,
        columns: &Arc<[usize]>,
    ) -> Result<Arc<Prepared>> {
        let key = (table.id, op, columns.clone());
        let put = self.rows_put.get(&table.id).copied().unwrap_or(0);
        if let Some(found) = self.statements.get(&key)
            && put < found.grown_rows
        {
            return Ok(found.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let text = match op {
            Some(op) => {
                let loose = self.loose_key(table).await?;
                upsert::statement(table, op, columns, &loose)?
            }
            None => upsert::present(table)?,
        };
        let prepare = self.session.client.prepare_typed(&text.sql, &text.types);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        let grown_rows = match op {
            // Its plan does not depend on the size of the table.
            Some(WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert) if !table.partial => {
                u64::MAX
            }
            Some(WriteOp::DeleteAll) => u64::MAX,
            Some(
                WriteOp::Insert
                | WriteOp::Overwrite
                | WriteOp::Upsert
                | WriteOp::Update
                | WriteOp::Patch
                | WriteOp::Move
                | WriteOp::Delete,
            )
            | None => 2 * put + REPLAN_ROWS,
        };
        let prepared = Arc::new(Prepared { statement, counts: text.counts, grown_rows });
        self.statements.insert(key, prepared.clone());
        Ok(prepared)
    }

    /// The columns of a table's key that hold different texts equal; asked for only if it has texts.
    async fn loose_key(&mut self, table: &TargetTable) -> Result<Arc<[String]>> {
        if let Some(known) = self.loose.get(&table.id) {
            return Ok(known.clone());
        }
        let texts = table.key.iter().filter_map(|&i| table.columns.get(i));
        let texts: Vec<&str> = texts
            .filter(|c| matches!(c.data_type, DataType::Text { .. }))
            .map(|c| c.name.as_str())
            .collect();
        let mut loose = Vec::new();
        if !texts.is_empty() {
            let sql = format!(
                "SELECT a.attname::text FROM pg_catalog.pg_attribute a \
                 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2 AND a.attname::text = ANY($3) AND {}",
                upsert::LOOSE
            );
            let (schema, name) = (&table.name.schema, &table.name.name);
            let found = self.session.query("reading a key", &sql, &[schema, name, &texts]).await?;
            for row in &found {
                loose.push(get::<String>(row, 0)?);
            }
        }
        let loose: Arc<[String]> = loose.into();
        self.loose.insert(table.id, loose.clone());
        Ok(loose)
    }

    pub(super) async fn locked(&mut self, table: &Arc<TargetTable>, keys: &[Key]) -> Result<()> {
        self.start().await?;
        let doing = format!("locking rows of {}", table.name);
        let statement = upsert::lock(table)?;
        let cells = upsert::cells(table, WriteOp::Delete, &table.key)?;
        for some in keys.chunks(KEYS_A_LOCK) {
            let params = upsert::arrays(some.iter().map(|key| &**key), &cells)?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let prepared = self.kept(&doing, statement.sql.clone(), &statement.types).await?;
            let locked = self.session.client.execute(&prepared, &params);
            self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, locked).await?;
        }
        Ok(())
    }

    /// The statement of this text, prepared once.
    pub(super) async fn kept(
        &mut self,
        doing: &str,
        sql: String,
        types: &[Type],
    ) -> Result<tokio_postgres::Statement> {
        if let Some(found) = self.texts.get(&sql) {
            return Ok(found.clone());
        }
        if self.texts.len() >= STATEMENTS_MAX {
            self.texts.clear();
        }
        let prepare = self.session.client.prepare_typed(&sql, types);
        let statement = self.session.call(doing, Stage::Write, CALL_TIMEOUT, prepare).await?;
        self.texts.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Executes batches that need no answer of each other, pipelined. `first` is the index of the
    /// first within the call.
    pub(super) async fn run(&mut self, first: usize, batches: &[WriteBatch]) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        let mut work = Vec::with_capacity(batches.len());
        for (offset, batch) in batches.iter().enumerate() {
            let at = |error: Error| attribute(error, first + offset);
            let prepared = self.prepared(batch, batch.op, &batch.columns).await.map_err(at)?;
            let cells = upsert::cells(&batch.table, batch.op, &batch.columns).map_err(at)?;
            let params = upsert::arrays(batch.rows.iter().map(|r| &**r), &cells).map_err(at)?;
            work.push((prepared, params));
            let adds = !matches!(
                batch.op,
                WriteOp::Update | WriteOp::Patch | WriteOp::Delete | WriteOp::DeleteAll
            );
            if adds {
                self.put(batch.table.id, batch.rows.len());
            }
        }
        let opening = self.opening()?;
        let client = &self.session.client;
        let mut opened = Box::pin(maybe_done(self.send_opening(opening)));
        let mut answers: Vec<_> = work
            .iter()
            .map(|(prepared, params)| Box::pin(maybe_done(execute(client, prepared, params))))
            .collect();
        send_in_order(std::slice::from_mut(&mut opened)).await;
        send_in_order(&mut answers).await;
        opened.as_mut().await;
        opened.as_mut().take_output().unwrap_or(Ok(()))?;
        for (offset, (answer, batch)) in answers.iter_mut().zip(batches).enumerate() {
            let doing = doing(batch);
            let result = async {
                answer.as_mut().await;
                // Completed right above, and taken nowhere else.
                answer.as_mut().take_output().unwrap_or(Ok(0))
            };
            let at = |error: Error| attribute(error, first + offset);
            let rows =
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, result).await.map_err(at)?;
            if batch.op == WriteOp::Update && rows != batch.rows.len() as u64 {
                return Err(at(update_missing(batch, rows)));
            }
        }
        drop((answers, opened));
        self.opened()?.sent = true;
        Ok(())
    }

    /// Moves rows one by one: where the old row is missing, the new one is upserted.
    pub(super) async fn run_move(&mut self, index: usize, batch: &WriteBatch) -> Result<()> {
        let at = |error: Error| attribute(error, index);
        self.start().await?;
        let doing = doing(batch);
        let update = self.prepared(batch, WriteOp::Update, &batch.columns).await.map_err(at)?;
        let upsert = self.prepared(batch, WriteOp::Upsert, &batch.columns).await.map_err(at)?;
        let moving = upsert::cells(&batch.table, WriteOp::Update, &batch.columns).map_err(at)?;
        let whole = upsert::cells(&batch.table, WriteOp::Upsert, &batch.columns).map_err(at)?;
        for row in &batch.rows {
            let params = upsert::arrays(std::iter::once(&**row), &moving).map_err(at)?;
            let answer = execute(&self.session.client, &update, &params);
            let moved =
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            if moved == 0 {
                let new = row.get(..whole.len()).unwrap_or(row);
                let params = upsert::arrays(std::iter::once(new), &whole).map_err(at)?;
                let answer = execute(&self.session.client, &upsert, &params);
                self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, answer).await.map_err(at)?;
            }
        }
        self.put(batch.table.id, batch.rows.len());
        Ok(())
    }
}

fn update_missing(batch: &WriteBatch, rows: u64) -> Error {
    let missing = (batch.rows.len() as u64).saturating_sub(rows);
    Error::data(
        Code::UpdateMissing,
        format!(
            "mapping {}: {missing} of {} rows to be changed in part are not in {}",
            batch.mapping,
            batch.rows.len(),
            batch.table.name
        ),
    )
    .with_hint("backfill the mapping")
}

/// Rows touched, or for a statement that counts, rows found.
pub(super) async fn execute(
    client: &tokio_postgres::Client,
    prepared: &Prepared,
    params: &[Encoded],
) -> std::result::Result<u64, tokio_postgres::Error> {
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
    if prepared.counts {
        let row = client.query_one(&prepared.statement, &params).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
    } else {
        client.execute(&prepared.statement, &params).await
    }
}
