//! A small transaction that is known as a whole before it begins, in two trips: all of it, and COMMIT.
//!
//! Trips are most of what a change waits for while a flow is quiet: the ordinary way has one for the mark, one a statement, and one for
//! the position. Here mark and position are one update, and the rows are spelled out behind it. Whatever the server answers but "done" (an
//! error, a warning, a row that an update did not meet) takes all of it back, and the ordinary way says what is wrong. COMMIT is sent once every
//! answer is in and right: a trip ends at the first statement that fails, so none commits by itself after error 1213.

use tidelock_core::{Error, Mark, Position, Result, WriteBatch, WriteOp};

use super::commit::moved;
use super::{MySqlSink, PACKET_HEAD, WRITE};
use crate::session::within;
use crate::spelled;

/// More rows are cheaper as parameters of prepared statements.
const ROWS_MAX: usize = 16;
/// Bytes of their values.
const BYTES_MAX: usize = 16 << 10;
/// What comes before the rows: the beginning of the transaction and the mark.
const STATEMENTS_BEFORE: usize = 2;

/// Transactions that go the ordinary way after one was refused so: what the server said of it, it may say of others.
const APART_AFTER: u8 = 50;

/// How many rows a statement must meet, where that matters.
type Meets = Option<u64>;

impl MySqlSink {
    /// Does all of it but COMMIT. `false`: it was not tried, or nothing of it is there.
    pub(super) async fn done_whole(
        &mut self,
        mark: &Mark,
        batches: &[WriteBatch],
        position: &Position,
        micros: i64,
    ) -> Result<bool> {
        if self.loads || !is_small(batches) {
            return Ok(false);
        }
        if self.apart > 0 {
            self.apart -= 1;
            return Ok(false);
        }
        let mark_sql = self.marking(&self.ours, mark, &moved(position, micros))?;
        let mut sql = format!("START TRANSACTION; {mark_sql}");
        let mut meets = vec![None; STATEMENTS_BEFORE];
        for batch in batches {
            if !self.spell(batch, &mut sql, &mut meets)? {
                return Ok(false);
            }
        }
        if sql.len() + PACKET_HEAD >= self.packet_bytes_max {
            return Ok(false);
        }
        let Some(met) = self.told(sql).await? else {
            return self.taken_back().await;
        };
        if met.get(STATEMENTS_BEFORE - 1) != Some(&1) {
            return Err(self.taken_over());
        }
        if met.len() != meets.len() {
            return Err(Error::bug(
                "a server gave another number of answers than it was asked for",
            ));
        }
        if meets.iter().zip(&met).any(|(must, met)| must.is_some_and(|must| must != *met)) {
            return self.taken_back().await;
        }
        (self.epoch, self.seq) = (mark.epoch, mark.seq);
        Ok(true)
    }

    async fn taken_back(&mut self) -> Result<bool> {
        self.apart = APART_AFTER;
        self.session.run("ROLLBACK").await?;
        Ok(false)
    }

    /// Appends the statements of a batch; `false` if it is not of a kind that goes so.
    fn spell(&self, batch: &WriteBatch, sql: &mut String, meets: &mut Vec<Meets>) -> Result<bool> {
        match batch.op {
            WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert if !batch.table.partial => {
                sql.push_str("; ");
                spelled::put_upsert(batch, &batch.rows, self.session.flavour, sql)?;
                meets.push(None);
            }
            WriteOp::Update | WriteOp::Patch => {
                for row in &batch.rows {
                    sql.push_str("; ");
                    spelled::put_update(batch, row, sql)?;
                    meets.push((batch.op == WriteOp::Update).then_some(1));
                }
            }
            WriteOp::Delete if batch.columns[..] == batch.table.key[..] => {
                for row in &batch.rows {
                    sql.push_str("; ");
                    spelled::put_delete(batch, row, sql)?;
                    meets.push(None);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// How many rows each statement met; `None` if the server refused one or warned of one.
    async fn told(&mut self, sql: String) -> Result<Option<Vec<u64>>> {
        let place = self.session.place.clone();
        let sent = self.session.trip(sql);
        let answered = async {
            match sent.await {
                Ok((met, warnings)) => Ok((warnings == 0).then_some(met)),
                Err(mysql_async::Error::Server(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        within(WRITE, &place, answered).await
    }
}

fn is_small(batches: &[WriteBatch]) -> bool {
    let rows = || batches.iter().flat_map(|batch| &batch.rows);
    let bytes = || rows().flat_map(|row| row.iter()).map(|value| value.heap_bytes()).sum::<usize>();
    rows().count() <= ROWS_MAX && batches.len() <= ROWS_MAX && bytes() <= BYTES_MAX
}
