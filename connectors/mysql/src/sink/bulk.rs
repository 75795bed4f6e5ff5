//! Rows by `LOAD DATA LOCAL INFILE` from memory, below a savepoint.

use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mysql_async::prelude::Queryable;
use tidelock_core::{Code, ErrorKind, Load, Result, Value};
use tokio::sync::mpsc;

use super::{MySqlSink, WRITE};
use crate::session::within;
use crate::{error, load};

/// Pieces that are upserted at once after one of a table was refused.
const REFUSED_PIECES: u8 = 8;
/// Bytes of one message of a load, and messages that wait for the server.
const LOAD_BYTES: usize = 64 << 10;
const LOAD_CHUNKS: usize = 4;

impl MySqlSink {
    /// Loads rows by `LOAD DATA LOCAL INFILE`, below a savepoint. `false`: it could not be tried, or the
    /// server did not take all rows exactly, and none is there.
    pub(super) async fn try_load(&mut self, load: &Load<'_>) -> Result<bool> {
        let id = load.table.id;
        if let Some(pieces) = self.refused.get_mut(&id)
            && *pieces > 0
        {
            *pieces -= 1;
            return Ok(false);
        }
        if !self.local_infile || !load::takes(&load.table, &load.columns) {
            return Ok(false);
        }
        let sql = load::statement(&load.table, &load.columns)?;
        let counted = self.counted(load).await?;
        self.session.run("SAVEPOINT tidelock_load").await?;
        self.asked = Instant::now();
        let sent = self.send_load(&sql, load, counted).await;
        match sent {
            Ok(true) => {
                self.session.run("RELEASE SAVEPOINT tidelock_load").await?;
                return Ok(true);
            }
            Ok(false) => {}
            Err(error) => {
                let error = error::of_rows(self.looked_into(error).await, &load.table.name);
                if error.kind() != ErrorKind::Data && error.code() != Code::Rejected {
                    return Err(error);
                }
            }
        }
        self.session.run("ROLLBACK TO SAVEPOINT tidelock_load").await?;
        self.refused.insert(id, REFUSED_PIECES);
        Ok(false)
    }

    /// Which cell of a row goes into an AUTO_INCREMENT column: a load makes the next number of a 0 there
    /// without a word, whatever the mode says.
    async fn counted(&mut self, load: &Load<'_>) -> Result<Option<usize>> {
        if let Some(cell) = self.counted.get(&load.table.id) {
            return Ok(*cell);
        }
        let name = &load.table.name;
        let found: Vec<String> = self
            .session
            .rows(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = ? \
                 AND table_name = ? AND extra LIKE '%auto_increment%'",
                (name.schema.as_str(), name.name.as_str()),
            )
            .await?;
        let cell = load.columns.iter().position(|&i| {
            load.table.columns.get(i).is_some_and(|column| found.contains(&column.name))
        });
        self.counted.insert(load.table.id, cell);
        Ok(cell)
    }

    /// Encodes rows while the server takes those before. Whether it took them all as they are.
    async fn send_load(
        &mut self,
        sql: &str,
        load: &Load<'_>,
        counted: Option<usize>,
    ) -> Result<bool> {
        let (sender, receiver) = mpsc::channel::<Bytes>(LOAD_CHUNKS);
        // Asked for once, by our own statement, and whatever file the server names. If it is never asked
        // for, a later request of any kind finds it empty.
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (Ok(chunk), receiver))
        });
        self.session.conn.set_infile_handler(async { Ok(chunks.boxed()) });
        let row_bytes_max = self.packet_bytes_max / 4;
        let encoding = async move {
            let mut cells = Vec::new();
            let mut text = Vec::with_capacity(LOAD_BYTES + 1024);
            for row in 0..load.rows.count() {
                let start = text.len();
                cells.clear();
                load.rows.put(row, &mut cells)?;
                load::put_row(&load.table, &load.columns, &cells, &mut text)?;
                let counted = counted.and_then(|cell| cells.get(cell));
                let renumbered = matches!(counted, Some(Value::Int(0) | Value::UInt(0)));
                if renumbered || text.len() - start > row_bytes_max {
                    // The server counts fewer rows than there are.
                    return Ok(());
                }
                if text.len() >= LOAD_BYTES {
                    let full = std::mem::replace(&mut text, Vec::with_capacity(LOAD_BYTES + 1024));
                    if sender.send(full.into()).await.is_err() {
                        return Ok(());
                    }
                }
            }
            // The server may have ended the statement already.
            let _ended = sender.send(text.into()).await;
            Ok(())
        };
        let place = self.session.place.clone();
        {
            let loading = within(WRITE, &place, self.session.conn.query_drop(sql));
            tokio::pin!(loading, encoding);
            tokio::select! {
                answer = &mut loading => answer?,
                encoded = &mut encoding => {
                    let answer = loading.await;
                    encoded?;
                    answer?;
                }
            }
        }
        let taken = self.session.conn.affected_rows();
        Ok(taken == load.rows.count() as u64 && self.session.conn.get_warnings() == 0)
    }
}
