//! The statements that write rows, and the parameters bound to them. Pure.
//!
//! `ON DUPLICATE KEY UPDATE` fires for any unique key. The guard makes a hit by another key than the
//! mapping's an error: `k = IF(2⁶⁴ - 1 + (k is not exactly the new k), k, k)` leaves the key as it is, or
//! overflows, which the server refuses with 1690 in every mode and whatever the column's type. (NULL would
//! not do: it makes the next number of an AUTO_INCREMENT column and the present time of a TIMESTAMP.) Text
//! keys are compared byte for byte, because a collation may hold two different keys equal.

use mysql_async::Value as Param;
use tidelock_core::value::{Date, Instant, Time, Timestamp};
use tidelock_core::{
    Code, DataType, Error, JsonForm, Result, TargetColumn, TargetTable, Value, WriteBatch,
    json_loss,
};

use crate::load;
use crate::session::{Flavour, quote};

/// The beginning of the guard's sum. A server repeats the sum where it overflows, and so tells whose error it is.
pub(crate) const GUARD: &str = "18446744073709551615 + ";

pub(crate) fn name(table: &TargetTable) -> String {
    format!("{}.{}", quote(&table.name.schema), quote(&table.name.name))
}

pub(crate) fn column(table: &TargetTable, i: usize) -> Result<&TargetColumn> {
    table.columns.get(i).ok_or_else(|| {
        Error::bug(format!("table {}: a batch names column {i}, which there is not", table.name))
    })
}

pub(crate) fn is_text(column: &TargetColumn) -> bool {
    matches!(column.data_type, DataType::Text { .. })
}

/// An insert-or-update of so many rows.
pub(crate) fn upsert(batch: &WriteBatch, rows: usize, flavour: Flavour) -> Result<String> {
    let marks = format!("({})", vec!["?"; batch.columns.len()].join(","));
    upsert_of(batch, &vec![marks.as_str(); rows].join(","), flavour)
}

/// An insert-or-update of these rows, each a list in parentheses.
pub(crate) fn upsert_of(batch: &WriteBatch, rows: &str, flavour: Flavour) -> Result<String> {
    let table = &batch.table;
    let mut names = Vec::new();
    let mut sets = Vec::new();
    for &i in batch.columns.iter() {
        let c = column(table, i)?;
        let q = quote(&c.name);
        let new = match flavour {
            Flavour::MariaDb => format!("VALUES({q})"),
            Flavour::MySql => format!("tidelock_new.{q}"),
        };
        let own = match flavour {
            Flavour::MariaDb => q.clone(),
            Flavour::MySql => format!("{}.{q}", name(table)),
        };
        if table.key.contains(&i) {
            let same = if is_text(c) {
                let bytes = |x: &str| format!("CAST(CONVERT({x} USING utf8mb4) AS BINARY)");
                format!("{} <=> {}", bytes(&own), bytes(&new))
            } else {
                format!("{own} <=> {new}")
            };
            // First, so that it is judged on the row as it is found.
            sets.insert(0, format!("{q} = IF({GUARD}(NOT ({same})), {own}, {own})"));
        } else {
            sets.push(format!("{q} = {new}"));
        }
        names.push(q);
    }
    let alias = match flavour {
        Flavour::MariaDb => "",
        Flavour::MySql => " AS tidelock_new",
    };
    Ok(format!(
        "INSERT INTO {} ({}) VALUES {rows}{alias} ON DUPLICATE KEY UPDATE {}",
        name(table),
        names.join(","),
        sets.join(", ")
    ))
}

/// `WHERE` over the key; a text key takes its parameter twice: once for the index, once exactly.
fn by_key(table: &TargetTable) -> Result<String> {
    let mut tests = Vec::new();
    for &i in &table.key {
        let c = column(table, i)?;
        let q = quote(&c.name);
        tests.push(format!("{q} = ?"));
        if is_text(c) {
            tests.push(format!("CAST(CONVERT({q} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)"));
        }
    }
    Ok(tests.join(" AND "))
}

/// What keeps mapped times that an update does not write as they are: of one that is declared `ON UPDATE CURRENT_TIMESTAMP` the server
/// would make another.
pub(crate) fn kept(batch: &WriteBatch) -> impl Iterator<Item = String> {
    let columns = batch.table.columns.iter().enumerate();
    let times = columns.filter(|(i, c)| {
        matches!(c.data_type, DataType::Timestamp { .. } | DataType::Instant { .. })
            && !batch.columns.contains(i)
    });
    times.map(|(_, c)| format!("{0} = {0}", quote(&c.name)))
}

/// An update of one row by its old key.
pub(crate) fn update(batch: &WriteBatch) -> Result<String> {
    let table = &batch.table;
    let mut sets = batch
        .columns
        .iter()
        .map(|&i| Ok(format!("{} = ?", quote(&column(table, i)?.name))))
        .collect::<Result<Vec<_>>>()?;
    sets.extend(kept(batch));
    Ok(format!("UPDATE {} SET {} WHERE {}", name(table), sets.join(", "), by_key(table)?))
}

/// A query of one row that tells for each of so many keys whether there is a row of it.
pub(crate) fn present(table: &TargetTable, keys: usize) -> Result<String> {
    let one = format!("EXISTS(SELECT 1 FROM {} WHERE {})", name(table), by_key(table)?);
    Ok(format!("SELECT {}", vec![one; keys].join(", ")))
}

/// A query that locks the rows of so many keys.
pub(crate) fn lock(table: &TargetTable, keys: usize) -> Result<String> {
    let tests = vec![format!("({})", by_key(table)?); keys].join(" OR ");
    Ok(format!("SELECT 1 FROM {} WHERE {tests} FOR UPDATE", name(table)))
}

/// How many parameters [`by_key`] takes.
pub(crate) fn key_width(table: &TargetTable) -> Result<usize> {
    table.key.iter().try_fold(0, |n, &i| Ok(n + 1 + usize::from(is_text(column(table, i)?))))
}

/// A delete of so many rows by their keys. Each row has a test of its own over the whole key, so that a row is only
/// deleted by a key that is entirely its own.
pub(crate) fn delete(batch: &WriteBatch, rows: usize) -> Result<String> {
    let test = by_key(&batch.table)?;
    let tests = match rows {
        1 => test,
        _ => vec![format!("({test})"); rows].join(" OR "),
    };
    Ok(format!("DELETE FROM {} WHERE {tests}", name(&batch.table)))
}

/// Whether a delete can name the keys in one list: the server finds each row by the index, and there is one
/// statement to plan. The key must be a single column of a type whose comparison in a list is that of `=`.
pub(crate) fn lists_keys(table: &TargetTable) -> Result<bool> {
    let [key] = table.key[..] else { return Ok(false) };
    Ok(matches!(column(table, key)?.data_type, DataType::Int { .. } | DataType::Text { .. }))
}

/// A delete of so many rows whose keys [`lists_keys`]. A text key is in the list twice, once for the index: a row that is
/// byte for byte a key of the second list is that key's, whichever key of the first one found it.
pub(crate) fn delete_listed(batch: &WriteBatch, rows: usize) -> Result<String> {
    let table = &batch.table;
    let [key] = table.key[..] else {
        return Err(Error::bug(format!("table {}: its keys make no list", table.name)));
    };
    let c = column(table, key)?;
    let q = quote(&c.name);
    let list = |mark: &str| vec![mark; rows].join(",");
    let mut sql = format!("DELETE FROM {} WHERE {q} IN ({})", name(table), list("?"));
    if is_text(c) {
        let exact = list("CAST(? AS BINARY)");
        sql.push_str(&format!(" AND CAST(CONVERT({q} USING utf8mb4) AS BINARY) IN ({exact})"));
    }
    Ok(sql)
}

/// A delete of all rows.
pub(crate) fn delete_all(batch: &WriteBatch) -> String {
    format!("DELETE FROM {}", name(&batch.table))
}

/// The cells of `batch.columns`.
pub(crate) fn cells(batch: &WriteBatch, row: &[Value], out: &mut Vec<Param>) -> Result<()> {
    if row.len() < batch.columns.len() {
        return Err(Error::bug(format!("table {}: a row is too short", batch.table.name)));
    }
    for (&i, value) in batch.columns.iter().zip(row) {
        out.push(param(column(&batch.table, i)?, value)?);
    }
    Ok(())
}

/// The key's cells as [`by_key`] wants them. `cells` are in key order.
pub(crate) fn key_cells(table: &TargetTable, cells: &[Value], out: &mut Vec<Param>) -> Result<()> {
    if cells.len() != table.key.len() {
        return Err(Error::bug(format!("table {}: a key has another length", table.name)));
    }
    for (&i, value) in table.key.iter().zip(cells) {
        let c = column(table, i)?;
        let bound = param(c, value)?;
        if is_text(c) {
            out.push(bound.clone());
        }
        out.push(bound);
    }
    Ok(())
}

/// The key's cells of a row that is laid out by `batch.columns`, in key order.
pub(crate) fn key_of(batch: &WriteBatch, row: &[Value]) -> Result<Vec<Value>> {
    batch
        .table
        .key
        .iter()
        .map(|k| {
            let at = batch.columns.iter().position(|c| c == k);
            at.and_then(|at| row.get(at)).cloned().ok_or_else(|| {
                Error::bug(format!("table {}: a batch lacks a key column", batch.table.name))
            })
        })
        .collect()
}

/// Binds a value in its column's type. One column is always bound in one type, whatever its rows
/// hold: the server learns the types once a batch.
pub(crate) fn param(column: &TargetColumn, value: &Value) -> Result<Param> {
    let wrong = |what: &str| {
        Err(Error::bug(format!("column {}: a value of kind {what} does not fit it", column.name)))
    };
    let unsigned = matches!(column.data_type, DataType::Int { unsigned: true, .. });
    Ok(match value {
        Value::Null => Param::NULL,
        Value::Unchanged => return wrong("unchanged"),
        Value::Bool(b) if unsigned => Param::UInt(u64::from(*b)),
        Value::Bool(b) => Param::Int(i64::from(*b)),
        Value::Int(n) if unsigned => match u64::try_from(*n) {
            Ok(n) => Param::UInt(n),
            Err(_) => return wrong("negative integer"),
        },
        Value::Int(n) => Param::Int(*n),
        Value::UInt(n) if unsigned => Param::UInt(*n),
        Value::UInt(n) => match i64::try_from(*n) {
            Ok(n) => Param::Int(n),
            Err(_) => return wrong("unsigned integer"),
        },
        Value::Float32(x) => Param::Float(*x),
        Value::Float64(x) => Param::Double(*x),
        Value::Text(t) if matches!(column.data_type, DataType::Bits { .. }) => {
            match u64::from_str_radix(t, 2) {
                Ok(number) => Param::UInt(number),
                Err(_) => return wrong("text"),
            }
        }
        Value::Text(t) if matches!(column.data_type, DataType::Text { padded: true, .. }) => {
            Param::Bytes(t.trim_end_matches(' ').as_bytes().to_vec())
        }
        // MySQL's own type is kept parsed; MariaDB's is text with a check.
        Value::Json(t) if column.native.eq_ignore_ascii_case("json") => {
            match json_loss(t, JsonForm::Doubles) {
                Some(why) => return Err(lossy(column, why)),
                None => Param::Bytes(t.as_bytes().to_vec()),
            }
        }
        Value::Decimal(t)
        | Value::Text(t)
        | Value::Json(t)
        | Value::Enum(t)
        | Value::Foreign(t) => Param::Bytes(t.as_bytes().to_vec()),
        Value::Bytes(b) => Param::Bytes(b.to_vec()),
        Value::Date(d) if !d.is_infinite() => date_param(*d),
        Value::Time(t) => time_param(*t),
        Value::Timestamp(t) if !t.is_infinite() => timestamp_param(*t),
        // Our sessions run in UTC.
        Value::Instant(Instant(i)) if !Instant(*i).is_infinite() => timestamp_param(Timestamp(*i)),
        Value::Date(_) | Value::Timestamp(_) | Value::Instant(_) => return wrong("infinity"),
        Value::Interval(_) => return wrong("interval"),
        Value::Uuid(u) if matches!(column.data_type, DataType::Bytes { .. }) => {
            Param::Bytes(u.to_vec())
        }
        Value::Uuid(u) => Param::Bytes(crate::binlog::uuid_text(u).into_bytes()),
    })
}

fn lossy(column: &TargetColumn, why: &str) -> Error {
    Error::data(Code::NotRepresentable, format!("column {}: {why}", column.name))
}

/// A parameter of text that is written, at most so many bytes long.
fn written<T>(value: T, bytes_max: usize, put: fn(T, &mut Vec<u8>)) -> Param {
    let mut text = Vec::with_capacity(bytes_max);
    put(value, &mut text);
    Param::Bytes(text)
}

pub(crate) fn date_param(date: Date) -> Param {
    written(date, 12, load::put_date)
}

pub(crate) fn time_param(time: Time) -> Param {
    written(time, 20, load::put_time)
}

pub(crate) fn timestamp_param(timestamp: Timestamp) -> Param {
    written(timestamp, 28, load::put_stamp)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use tidelock_core::{Repertoire, TableName, WriteOp};

    fn deletes() -> WriteBatch {
        let column = |name: &str, data_type| TargetColumn {
            name: name.into(),
            data_type,
            native: String::new(),
            identity_always: false,
        };
        let text = DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        WriteBatch {
            mapping: "m".into(),
            table: Arc::new(TargetTable {
                id: 1,
                name: TableName::new("crm", "t`x"),
                columns: vec![
                    column("id", DataType::Int { bits: 32, unsigned: false }),
                    column("v", text.clone()),
                    column("k", text),
                ],
                key: vec![2, 0],
                suppress_unchanged: false,
                partial: false,
            }),
            op: WriteOp::Delete,
            columns: [2, 0].into(),
            rows: Vec::new(),
        }
    }

    #[test]
    fn a_delete_of_many_tests_each_whole_key_by_itself() {
        let batch = deletes();
        let exact = "CAST(CONVERT(`k` USING utf8mb4) AS BINARY) = CAST(? AS BINARY)";
        let one = format!("`k` = ? AND {exact} AND `id` = ?");
        assert_eq!(delete(&batch, 1).unwrap(), format!("DELETE FROM `crm`.`t``x` WHERE {one}"));
        let three = delete(&batch, 3).unwrap();
        assert_eq!(three, format!("DELETE FROM `crm`.`t``x` WHERE ({one}) OR ({one}) OR ({one})"));
        let width = key_width(&batch.table).unwrap();
        assert_eq!(three.matches('?').count(), 3 * width);
        let mut params = Vec::new();
        key_cells(&batch.table, &[Value::Text("a".into()), Value::Int(1)], &mut params).unwrap();
        assert_eq!(params.len(), width);
    }
}
