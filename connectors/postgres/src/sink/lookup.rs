//! Lookups of values of other rows by what identifies them.
//!
//! A row that is missing is inserted with `ON CONFLICT (…) DO NOTHING` over exactly the columns it is looked up by, and
//! looked up again: another session that was quicker is waited for and its row found, and a conflict with any other
//! index remains an error.

use std::sync::Arc;

use bytes::Bytes;
use tidelock_core::{Code, DataType, Error, Instant, Key, LookupTarget, Result, Value};
use tokio_postgres::types::ToSql;

use super::{PgSink, WRITE_TIMEOUT, attribute};
use crate::error::Stage;
use crate::session::get;
use crate::{types, upsert};

/// Keys of one query.
const KEYS_A_QUERY: usize = 5_000;

fn doing(target: &LookupTarget) -> String {
    format!("looking up {} in {}", target.result.name, target.table)
}

/// A value of the text that [`upsert::found`] asks for.
fn decoded(target: &LookupTarget, text: Option<&str>) -> Result<Value> {
    let Some(text) = text else { return Ok(Value::Null) };
    let value = match &target.result.data_type {
        DataType::Instant { fsp, .. } => {
            let civil = DataType::Timestamp { fsp: *fsp };
            types::value(&civil, &Bytes::copy_from_slice(text.as_bytes())).map(
                |value| match value {
                    Value::Timestamp(t) => Value::Instant(Instant(t.0)),
                    other => other,
                },
            )
        }
        bytes @ DataType::Bytes { .. } => types::value(bytes, &format!("\\x{text}").into()),
        other => types::value(other, &Bytes::copy_from_slice(text.as_bytes())),
    };
    value.ok_or_else(|| {
        Error::data(
            Code::DamagedEvent,
            format!("{}: not written as its type demands", doing(target)),
        )
    })
}

impl PgSink {
    pub(super) async fn looked_up(
        &mut self,
        target: &Arc<LookupTarget>,
        keys: &[Key],
    ) -> Result<Vec<Option<Value>>> {
        let doing = doing(target);
        let mut found = vec![None; keys.len()];
        let statement = upsert::lookup(target)?;
        let by: Vec<_> = target.by.iter().collect();
        for (query, some) in keys.chunks(KEYS_A_QUERY).enumerate() {
            let params = upsert::arrays(some.iter().map(|key| &**key), &by)?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let prepared = self.kept(&doing, statement.sql.clone(), &statement.types).await?;
            let rows = self.session.client.query(&prepared, &params);
            for row in self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, rows).await? {
                let number = usize::try_from(get::<i64>(&row, 0)?).unwrap_or(0);
                let place = (query * KEYS_A_QUERY + number).checked_sub(1);
                let place = place.and_then(|place| found.get_mut(place));
                let place = place.ok_or_else(|| Error::bug("a lookup answered out of order"))?;
                if place.is_some() {
                    return Err(ambiguous(target));
                }
                *place = Some(decoded(target, get(&row, 1)?)?);
            }
        }
        Ok(found)
    }

    pub(super) async fn looked_up_or_inserted(
        &mut self,
        target: &Arc<LookupTarget>,
        rows: &[Box<[Value]>],
    ) -> Result<Vec<Value>> {
        self.start().await?;
        let doing = format!("adding to {}", target.table);
        let keys = rows.iter().enumerate().map(|(i, row)| key(target, i, row));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let mut found = self.looked_up(target, &keys).await?;
        let insert = upsert::insert_missing(target)?;
        let cells: Vec<_> = target.by.iter().chain(&target.with).collect();
        let mut missing = Vec::new();
        for (i, (row, _)) in rows.iter().zip(&found).enumerate().filter(|(_, (_, f))| f.is_none()) {
            let at = |error: Error| attribute(error, i);
            let params = upsert::arrays(std::iter::once(&**row), &cells).map_err(at)?;
            let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
            let prepared = self.kept(&doing, insert.sql.clone(), &insert.types).await?;
            let inserted = self.session.client.execute(&prepared, &params);
            self.session.call(&doing, Stage::Write, WRITE_TIMEOUT, inserted).await.map_err(at)?;
            missing.push(i);
        }
        let again: Vec<Key> = missing.iter().filter_map(|&i| keys.get(i).cloned()).collect();
        for (i, value) in missing.into_iter().zip(self.looked_up(target, &again).await?) {
            if let Some(place) = found.get_mut(i) {
                *place = value;
            }
        }
        // Only another session can have taken it away.
        let gone = || Error::transient(Code::ServerBusy, format!("{doing}: the row is gone again"));
        found.into_iter().map(|value| value.ok_or_else(gone)).collect()
    }
}

fn ambiguous(target: &LookupTarget) -> Error {
    let by: Vec<&str> = target.by.iter().map(|c| &*c.name).collect();
    Error::data(
        Code::LookupAmbiguous,
        format!("{}: more than one row has the same {}", doing(target), by.join(", ")),
    )
}

/// The cells that the row is looked up by.
fn key(target: &LookupTarget, index: usize, row: &[Value]) -> Result<Key> {
    let key =
        row.get(..target.by.len()).filter(|_| row.len() == target.by.len() + target.with.len());
    let key = key.ok_or_else(|| Error::bug("a row to be looked up has another width"))?;
    match target.by.iter().zip(key).find(|(_, value)| value.is_null()) {
        Some((column, _)) => Err(Error::data(
            Code::Constraint,
            format!("{}: {} has no value to add a row by", doing(target), column.name),
        )
        .with_batch(index)),
        None => Ok(key.into()),
    }
}
