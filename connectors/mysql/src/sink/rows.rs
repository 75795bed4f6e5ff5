//! Rows by statements.
//!
//! Statements are chosen by what they cost (MariaDB 10.11, CPU seconds of the server a million rows of 12 columns,
//! 1,000 to 4,000 a statement, one run on a busy machine, without and with two secondary indexes):
//!
//! | rows | statement | |
//! |---|---|---|
//! | new | bulk `INSERT … ON DUPLICATE KEY UPDATE` | 3.8, 7 |
//! | | bulk `INSERT` | 3.5, 7 |
//! | | `LOAD DATA LOCAL` | 4.5, 7 |
//! | there | bulk `INSERT … ON DUPLICATE KEY UPDATE` | 6.5, 16 |
//! | | bulk `UPDATE` by the key | 13.8, 26 |
//! | | `LOAD DATA LOCAL` and a join | 12, 26 |
//! | gone | bulk `DELETE` by the key | 11.8, 17 |
//! | | `DELETE … WHERE key IN (…)` | 4, 8.5 |
//!
//! So what is believed of a row makes no difference here: the guarded upsert is the cheapest for rows that are there, and
//! for new ones nothing is to be gained by an `INSERT` that might fail. Measured end to end, a load of new rows costs the server
//! more (7.8 s a million rows against 6.7) and tidelock less (1.9 s against 2.6), and is slower as a whole, because the server's
//! session is what bounds it.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use mysql_async::{Params, Statement, Value as Param};
use tidelock_core::{Code, Error, Result, Value, WriteBatch, WriteOp};

use super::{BYTES_MAX, Kind, MySqlSink, PACKET_HEAD, WRITE};
use crate::session::{STATEMENT, within};
use crate::{spelled, upsert};

/// Rows of a statement that spells them out.
const ROWS_MAX: usize = 500;
/// Rows of a bulk packet.
const BULK_ROWS_MAX: usize = 2_000;
/// Updates of one trip on MySQL.
const TRIP_ROWS_MAX: usize = 200;
/// Rows of a list of keys. From 1,000 on MariaDB may plan a list as a subquery, and few keys of a small table would be
/// looked for in the whole of it, behind the locks of others.
const LISTED_ROWS: [usize; 2] = [256, 64];
/// Prepared statements that are kept; the driver keeps 512, a few of them of other kinds.
const STATEMENTS_MAX: usize = 400;
/// Parameters a statement; the protocol ends at 65,535.
const PARAMS_MAX: usize = 60_000;
/// What a parameter holds beside its bytes.
const PARAM_HEAD: usize = 12;

impl MySqlSink {
    /// The statement for so many rows, prepared once. (By its text the driver would parse it each time, for parameters
    /// with names.) There are fewer than the driver keeps, so it closes none of them.
    async fn prepared(&mut self, kind: Kind, batch: &WriteBatch, rows: usize) -> Result<Statement> {
        let key = (batch.table.id, kind, batch.columns.clone(), rows);
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let text = match kind {
            Kind::Upsert => upsert::upsert(batch, rows, self.session.flavour)?,
            Kind::Update => upsert::update(batch)?,
            Kind::Delete => upsert::delete(batch, rows)?,
            Kind::DeleteListed => upsert::delete_listed(batch, rows)?,
        };
        let conn = &mut self.session.conn;
        if self.statements.len() >= STATEMENTS_MAX {
            for (_, statement) in self.statements.drain() {
                within(STATEMENT, &self.session.place, conn.close(statement)).await?;
            }
        }
        let statement = within(STATEMENT, &self.session.place, conn.prep(text)).await?;
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }

    pub(super) async fn batch(&mut self, batch: &WriteBatch) -> Result<()> {
        self.asked = Instant::now();
        match batch.op {
            WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => {
                self.put(batch, &batch.rows).await
            }
            WriteOp::Update | WriteOp::Patch => self.updates(batch).await,
            WriteOp::Move => self.moves(batch).await,
            WriteOp::Delete => self.deletes(batch).await,
            WriteOp::DeleteAll => self.delete_all(batch).await,
        }
    }

    async fn put(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        match batch.table.partial {
            true => self.merges(batch, rows).await,
            false => self.upserts(batch, rows).await,
        }
    }

    pub(super) async fn upserts(
        &mut self,
        batch: &WriteBatch,
        rows: &[Box<[Value]>],
    ) -> Result<()> {
        if self.session.maria() {
            return self.bulk_upserts(batch, rows).await;
        }
        let width = batch.columns.len().max(1);
        let mut rest = rows;
        while !rest.is_empty() {
            let n = self.statement_rows(rest, width);
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let sql = self.prepared(Kind::Upsert, batch, n).await?;
            let mut params = Vec::with_capacity(width * n);
            for row in now {
                upsert::cells(batch, row, &mut params)?;
            }
            self.statement(&sql, params).await?;
        }
        Ok(())
    }

    /// The parameters of a packet are made while the server takes those of the one before.
    async fn bulk_upserts(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<()> {
        let sql = self.prepared(Kind::Upsert, batch, 1).await?;
        let packet_bytes_max = self.packet_bytes_max;
        let mut rest = rows;
        let mut next = || -> Result<Option<Vec<Vec<Param>>>> {
            if rest.is_empty() {
                return Ok(None);
            }
            let n = fitting(packet_bytes_max, rest, BULK_ROWS_MAX);
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let encoded = now.iter().map(|row| {
                let mut one = Vec::with_capacity(batch.columns.len());
                upsert::cells(batch, row, &mut one)?;
                Ok(one)
            });
            encoded.collect::<Result<_>>().map(Some)
        };
        let mut ready = next()?;
        while let Some(params) = ready {
            let encoding = async {
                // The packet goes out first.
                tokio::task::yield_now().await;
                next()
            };
            let (written, encoded) = tokio::join!(self.bulk(&sql, params), encoding);
            written?;
            ready = encoded?;
        }
        Ok(())
    }

    async fn deletes(&mut self, batch: &WriteBatch) -> Result<()> {
        let maria = self.session.maria();
        let width = upsert::key_width(&batch.table)?;
        let lists = upsert::lists_keys(&batch.table)?;
        let mut rest = &batch.rows[..];
        while !rest.is_empty() {
            let listed = if lists { self.listed_rows(rest, width) } else { 0 };
            let n = match listed {
                0 if maria => self.fitting(rest, BULK_ROWS_MAX),
                0 => self.statement_rows(rest, width),
                n => n,
            };
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            let mut params = Vec::with_capacity(now.len());
            for row in now {
                let mut one = Vec::with_capacity(width);
                if batch.columns[..] == batch.table.key[..] {
                    upsert::key_cells(&batch.table, row, &mut one)?;
                } else {
                    upsert::key_cells(&batch.table, &upsert::key_of(batch, row)?, &mut one)?;
                }
                params.push(one);
            }
            if listed > 0 {
                let sql = self.prepared(Kind::DeleteListed, batch, listed).await?;
                // First all keys for the index, then all of them for the exact test.
                let cells = (0..width).flat_map(|i| {
                    params.iter().filter_map(move |one| one.get(i).cloned()).collect::<Vec<_>>()
                });
                self.statement(&sql, cells.collect()).await?;
            } else if maria {
                let sql = self.prepared(Kind::Delete, batch, 1).await?;
                self.bulk(&sql, params).await?;
            } else {
                let sql = self.prepared(Kind::Delete, batch, n).await?;
                self.statement(&sql, params.into_iter().flatten().collect()).await?;
            }
        }
        Ok(())
    }

    /// How many rows from the front go into one list of keys; 0: they are too few.
    fn listed_rows(&self, rows: &[Box<[Value]>], width: usize) -> usize {
        let fit = match self.packet_bytes_max {
            packet if packet < BYTES_MAX => 0,
            _ => self.fitting(rows, ROWS_MAX).min(PARAMS_MAX / width.max(1)),
        };
        LISTED_ROWS.into_iter().find(|n| *n <= fit).unwrap_or(0)
    }

    /// Updates rows by their keys; how many were there.
    ///
    /// MySQL has no bulk command, and an UPDATE of several rows would have to find each row's values by a CASE or a join,
    /// whose types are not the columns': there, many updates go in one trip.
    pub(super) async fn matched(&mut self, batch: &WriteBatch) -> Result<u64> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        let maria = self.session.maria();
        let mut matched = 0;
        let mut rest = &batch.rows[..];
        while !rest.is_empty() {
            let rows_max = if maria { BULK_ROWS_MAX } else { TRIP_ROWS_MAX };
            let (now, later) = rest.split_at(self.fitting(rest, rows_max));
            rest = later;
            if now.len() > 1 && !maria {
                matched += self.update_trip(batch, now).await?;
                continue;
            }
            let mut params =
                now.iter().map(|row| update_params(batch, row)).collect::<Result<Vec<_>>>()?;
            matched += match params.pop() {
                Some(one) if params.is_empty() => self.statement(&sql, one).await?,
                last => {
                    params.extend(last);
                    self.bulk(&sql, params).await?
                }
            };
        }
        Ok(matched)
    }

    async fn updates(&mut self, batch: &WriteBatch) -> Result<()> {
        let matched = self.matched(batch).await?;
        if batch.op == WriteOp::Update && matched != batch.rows.len() as u64 {
            return Err(Error::data(
                Code::UpdateMissing,
                format!(
                    "table {}: {} of {} partial updates met no row",
                    batch.table.name,
                    (batch.rows.len() as u64).saturating_sub(matched),
                    batch.rows.len()
                ),
            )
            .with_hint("bring the rows back with `tidelock resync`, or log full row images"));
        }
        Ok(())
    }

    /// Several updates in one trip; how many rows they met. What a warning of one is about cannot be asked for once the
    /// next has run: where there is any, all is taken back and goes one by one, and so does what is too large.
    async fn update_trip(&mut self, batch: &WriteBatch, rows: &[Box<[Value]>]) -> Result<u64> {
        let mut sql = String::from("SAVEPOINT tidelock_updates");
        for row in rows {
            sql.push_str("; ");
            spelled::put_update(batch, row, &mut sql)?;
        }
        if sql.len() + PACKET_HEAD >= self.packet_bytes_max {
            return self.update_each(batch, rows).await;
        }
        let place = self.session.place.clone();
        let (met, warnings) = within(WRITE, &place, self.session.trip(sql)).await?;
        let matched = met.iter().skip(1).sum();
        if warnings == 0 {
            return Ok(matched);
        }
        self.session.run("ROLLBACK TO SAVEPOINT tidelock_updates").await?;
        self.update_each(batch, rows).await
    }

    pub(super) async fn update_each(
        &mut self,
        batch: &WriteBatch,
        rows: &[Box<[Value]>],
    ) -> Result<u64> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        let mut matched = 0;
        for row in rows {
            matched += self.statement(&sql, update_params(batch, row)?).await?;
        }
        Ok(matched)
    }

    async fn moves(&mut self, batch: &WriteBatch) -> Result<()> {
        let sql = self.prepared(Kind::Update, batch, 1).await?;
        for row in &batch.rows {
            let params = update_params(batch, row)?;
            if self.statement(&sql, params).await? == 0 {
                let head = row.get(..batch.columns.len()).unwrap_or(row);
                self.put(batch, &[head.into()]).await?;
            }
        }
        Ok(())
    }

    /// How many rows from the front go into one statement of MySQL, which has no bulk command: few sizes, so that the
    /// prepared statements are used again.
    fn statement_rows(&self, rows: &[Box<[Value]>], width: usize) -> usize {
        // Of so small a packet the statement's own text may take too much.
        let fit = if self.packet_bytes_max < BYTES_MAX { 1 } else { self.fitting(rows, ROWS_MAX) };
        let sizes = [ROWS_MAX, 64, 8, 1].map(|n| n.min(PARAMS_MAX / width.max(1)).max(1));
        sizes.into_iter().find(|n| *n <= fit).unwrap_or(1)
    }

    fn fitting(&self, rows: &[Box<[Value]>], rows_max: usize) -> usize {
        fitting(self.packet_bytes_max, rows, rows_max)
    }

    /// Refuses what would not fit into a packet: the server would cut the connection, and again each time.
    pub(super) fn fits<'a>(&self, params: impl IntoIterator<Item = &'a Param>) -> Result<()> {
        let size = |param: &Param| match param {
            Param::Bytes(bytes) => bytes.len() + PARAM_HEAD,
            _ => PARAM_HEAD,
        };
        let bytes = params.into_iter().map(size).sum::<usize>() + PACKET_HEAD;
        if bytes < self.packet_bytes_max {
            return Ok(());
        }
        Err(Error::data(
            Code::NotRepresentable,
            format!(
                "{}: a row of {bytes} bytes is larger than max_allowed_packet ({}) allows",
                self.session.place, self.packet_bytes_max
            ),
        )
        .with_hint("raise max_allowed_packet of this server (up to 1073741824)"))
    }

    async fn bulk(&mut self, sql: &Statement, params: Vec<Vec<Param>>) -> Result<u64> {
        // Several were taken together only as far as they fit.
        if let [one] = &params[..] {
            self.fits(one)?;
        }
        let params = params.into_iter().map(Params::Positional);
        within(WRITE, &self.session.place, self.session.conn.exec_batch(sql, params)).await?;
        self.no_warnings().await
    }

    pub(super) async fn statement(&mut self, sql: &Statement, params: Vec<Param>) -> Result<u64> {
        self.fits(&params)?;
        let params = Params::Positional(params);
        within(WRITE, &self.session.place, self.session.conn.exec_drop(sql, params)).await?;
        self.no_warnings().await
    }

    async fn delete_all(&mut self, batch: &WriteBatch) -> Result<()> {
        let sql = upsert::delete_all(batch);
        within(WRITE, &self.session.place, self.session.conn.query_drop(sql)).await?;
        self.no_warnings().await.map(drop)
    }

    /// A warning of a write is an error: the server stored something else than was sent.
    pub(super) async fn no_warnings(&mut self) -> Result<u64> {
        let matched = self.session.conn.affected_rows();
        if self.session.conn.get_warnings() > 0 {
            let rows: Vec<(String, u32, String)> = self.session.query("SHOW WARNINGS").await?;
            let codes: Vec<u32> = rows
                .iter()
                .filter(|(level, ..)| level != "Note")
                .map(|(_, code, _)| *code)
                .collect();
            if let Some(code) = codes.first() {
                return Err(Error::data(
                    Code::NotRepresentable,
                    format!("{}: the server changed a value while storing it", self.session.place),
                )
                .with_detail(format!("warning {code}")));
            }
        }
        Ok(matched)
    }
}

/// How many rows from the front go into one packet.
fn fitting(packet_bytes_max: usize, rows: &[Box<[Value]>], rows_max: usize) -> usize {
    let bytes_max = BYTES_MAX.min(packet_bytes_max / 4);
    let mut bytes = 0;
    let n = rows
        .iter()
        .take(rows_max)
        .take_while(|row| {
            // Times take up to 32 bytes as text, and a text key goes twice.
            bytes += row.iter().map(|v| v.heap_bytes() + 32 + PARAM_HEAD).sum::<usize>();
            bytes <= bytes_max
        })
        .count();
    n.max(1)
}

fn update_params(batch: &WriteBatch, row: &[Value]) -> Result<Vec<Param>> {
    let mut params = Vec::with_capacity(row.len() + 2);
    upsert::cells(batch, row, &mut params)?;
    let key = row.get(batch.columns.len()..).unwrap_or(&[]);
    upsert::key_cells(&batch.table, key, &mut params)?;
    Ok(params)
}
