//! Rows on their way into `COPY … FROM STDIN`: encoded piece by piece, while the server takes those before.
//!
//! Binary where every column has a simple binary form ([`Form::of_column`]): it costs the server and us less
//! than text does, and no float or date is written as digits only to be read again. Otherwise text.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tidelock_core::{
    Code, DataType, Error, JsonForm, LoadRows, Result, TargetColumn, TargetTable, Value, WriteOp,
    json_loss,
};
use tokio_postgres::{Client, Statement};

use crate::binary::{self, Form};
use crate::{text, upsert};

/// Bytes of one message of a `COPY`.
const COPY_BYTES: usize = 64 << 10;

/// The rows of a `COPY`.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Those of a batch.
    Batch(&'a [Box<[Value]>]),
    /// Those that are converted as they are asked for.
    Load(&'a dyn LoadRows),
}

impl Rows<'_> {
    /// How many there are.
    pub(crate) fn count(self) -> usize {
        match self {
            Rows::Batch(rows) => rows.len(),
            Rows::Load(rows) => rows.count(),
        }
    }
}

/// How the rows of such columns are written.
pub(crate) struct Format {
    cells: Vec<(TargetColumn, Form)>,
    width: i16,
}

/// The binary forms of these columns; `None` if one of them has none.
pub(crate) fn format(table: &TargetTable, columns: &[usize]) -> Result<Option<Arc<Format>>> {
    let cells = upsert::cells(table, WriteOp::Upsert, columns)?;
    let width =
        i16::try_from(cells.len()).map_err(|_| Error::bug("a table of too many columns"))?;
    let forms: Option<Vec<_>> =
        cells.into_iter().map(|c| Some((c.clone(), Form::of_column(c)?))).collect();
    Ok(forms.map(|cells| Arc::new(Format { cells, width })))
}

/// Sends rows through a `COPY`; tells how many the server took. The inner error is our own, about a value.
pub(crate) async fn copy_in(
    client: &Client,
    statement: &Statement,
    encoder: &mut Encoder<'_>,
) -> std::result::Result<Result<u64>, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(statement).await?;
    tokio::pin!(sink);
    loop {
        match encoder.next() {
            Ok(Some(text)) => sink.send(text).await?,
            Ok(None) => return sink.finish().await.map(Ok),
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// The encoder of one `COPY`.
pub(crate) struct Encoder<'a> {
    rows: Rows<'a>,
    format: Option<Arc<Format>>,
    checked: Vec<(usize, String)>,
    scratch: Vec<Value>,
    row: usize,
    ended: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder in a binary format or, without one, in text.
    pub(crate) fn new(
        rows: Rows<'a>,
        format: Option<Arc<Format>>,
        table: &TargetTable,
        columns: &[usize],
    ) -> Encoder<'a> {
        let checked = match rows {
            // Looked at before any batch was sent.
            Rows::Batch(_) => Vec::new(),
            Rows::Load(_) => checked_documents(table, columns),
        };
        Encoder { rows, format, checked, scratch: Vec::new(), row: 0, ended: false }
    }

    /// The next message's worth of rows.
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let count = self.rows.count();
        let mut out = BytesMut::with_capacity(COPY_BYTES + 4096);
        if self.format.is_some() && self.row == 0 {
            out.put_slice(b"PGCOPY\n\xff\r\n\0");
            // No flags, no extension.
            out.put_slice(&[0; 8]);
        }
        while self.row < count && out.len() < COPY_BYTES {
            let cells = match self.rows {
                Rows::Batch(rows) => rows.get(self.row).map(|row| &**row).unwrap_or_default(),
                Rows::Load(rows) => {
                    self.scratch.clear();
                    rows.put(self.row, &mut self.scratch)?;
                    for (cell, name) in &self.checked {
                        keeps_document(self.scratch.get(*cell), name)?;
                    }
                    &self.scratch
                }
            };
            match &self.format {
                None => text::put_row(&mut out, cells.iter()),
                Some(format) => {
                    if cells.len() != format.cells.len() {
                        return Err(Error::bug("a row has another number of cells than its batch"));
                    }
                    out.put_i16(format.width);
                    for (value, (column, form)) in cells.iter().zip(&format.cells) {
                        binary::put(*form, value, column, &mut out)?;
                    }
                }
            }
            self.row += 1;
        }
        if self.row == count {
            self.ended = true;
            if self.format.is_some() {
                out.put_i16(-1);
            }
        }
        Ok(if out.is_empty() { None } else { Some(out.freeze()) })
    }
}

/// The cells that must be looked at before they go into `jsonb`, or a domain over it: it would drop
/// all but one of equal keys without a word.
pub(crate) fn checked_documents(table: &TargetTable, columns: &[usize]) -> Vec<(usize, String)> {
    let column = |(cell, &column): (usize, &usize)| {
        let column = table.columns.get(column)?;
        let checked = column.data_type == DataType::Json && column.native != "json";
        checked.then(|| (cell, column.name.clone()))
    };
    columns.iter().enumerate().filter_map(column).collect()
}

/// Whether `jsonb` keeps all of a document.
pub(crate) fn keeps_document(cell: Option<&Value>, column: &str) -> Result<()> {
    match cell {
        Some(Value::Json(text)) => match json_loss(text, JsonForm::Exact) {
            Some(why) => {
                Err(Error::data(Code::NotRepresentable, format!("column {column}: {why}")))
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
