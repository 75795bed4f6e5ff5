//! Rows that several mappings write, each its own columns.
//!
//! `INSERT … ON DUPLICATE KEY UPDATE` would not do: the server refuses it for a column that is NOT NULL and not given, even
//! where the row is there. So all rows are updated, and only if that met fewer than there are it is asked which are
//! missing, and those are inserted. A row that another session adds or takes away between these steps makes the counts
//! differ: the transaction is made anew.

use mysql_async::Value as Param;
use mysql_async::prelude::Queryable;
use tidelock_core::{Code, Error, Result, Value, WriteBatch, WriteOp};

use super::{MySqlSink, WRITE};
use crate::session::within;
use crate::upsert;

/// Keys asked for in one query.
const KEYS_A_QUERY: usize = 100;

impl MySqlSink {
    pub(super) async fn merges(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        let updates = updates(batch, rows)?;
        let matched = match updates.columns.is_empty() {
            true => 0,
            false => self.matched(&updates).await?,
        };
        if matched == rows.len() as u64 {
            return Ok(());
        }
        let missing = self.missing(batch, rows).await?;
        let expected = rows.len() as u64 - missing.len() as u64;
        if !updates.columns.is_empty() && matched != expected {
            return Err(Error::transient(
                Code::ServerBusy,
                format!("{}: rows came or went while they were written", self.session.place),
            ));
        }
        self.upserts(batch, &missing).await
    }

    /// The rows that are not there.
    async fn missing(
        &mut self,
        batch: &WriteBatch,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Box<[Value]>>> {
        let mut missing = Vec::new();
        for some in rows.chunks(KEYS_A_QUERY) {
            let mut params = Vec::new();
            for row in some {
                let key = upsert::key_of(batch, row)?;
                upsert::key_cells(&batch.table, &key, &mut params)?;
            }
            let sql = upsert::present(&batch.table, some.len())?;
            let answer = self.session.conn.exec_first::<mysql_async::Row, _, _>(sql, params);
            let answer = within(WRITE, &self.session.place, answer).await?;
            let answer = answer.ok_or_else(|| Error::bug("no row for EXISTS"))?.unwrap();
            let absent = some.iter().zip(answer);
            let absent = absent.filter(|(_, cell)| matches!(cell, Param::Int(0) | Param::UInt(0)));
            missing.extend(absent.map(|(row, _)| row.clone()));
        }
        Ok(missing)
    }
}

/// The batch as updates by the key.
fn updates(batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<WriteBatch> {
    let places: Vec<usize> = (0..batch.columns.len())
        .filter(|&at| batch.columns.get(at).is_some_and(|c| !batch.table.key.contains(c)))
        .collect();
    let columns = places.iter().filter_map(|&at| batch.columns.get(at).copied()).collect();
    let row = |row: &[Value]| -> Result<Box<[Value]>> {
        let mut cells: Vec<Value> = places.iter().filter_map(|&at| row.get(at).cloned()).collect();
        cells.extend(upsert::key_of(batch, row)?);
        Ok(cells.into())
    };
    Ok(WriteBatch {
        mapping: batch.mapping.clone(),
        table: batch.table.clone(),
        op: WriteOp::Update,
        columns,
        rows: rows.iter().map(|r| row(r)).collect::<Result<_>>()?,
    })
}
