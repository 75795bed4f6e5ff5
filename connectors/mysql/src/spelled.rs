//! Statements with their values spelled out, for what goes several statements a trip. Pure.
//!
//! Each value is assigned to its column, and compared with it, as a parameter would be: [`crate::upsert`] says how.

use mysql_async::Value as Param;
use tidelock_core::{DataType, Error, Result, TargetColumn, TargetTable, Value, WriteBatch};

use crate::session::{Flavour, quote};
use crate::upsert::{column, is_text, kept, name, param, upsert_of};

/// An insert-or-update of these rows.
pub(crate) fn put_upsert(
    batch: &WriteBatch,
    rows: &[Box<[Value]>],
    flavour: Flavour,
    out: &mut String,
) -> Result<()> {
    let mut lists = String::new();
    for row in rows {
        wide_enough(batch, row, 0)?;
        lists.push_str(if lists.is_empty() { "(" } else { ",(" });
        for (n, (&i, value)) in batch.columns.iter().zip(row).enumerate() {
            if n > 0 {
                lists.push(',');
            }
            put_literal(column(&batch.table, i)?, value, &mut lists)?;
        }
        lists.push(')');
    }
    out.push_str(&upsert_of(batch, &lists, flavour)?);
    Ok(())
}

/// An update of one row by its old key, as [`crate::upsert::update`] makes it.
pub(crate) fn put_update(batch: &WriteBatch, row: &[Value], out: &mut String) -> Result<()> {
    let table = &batch.table;
    wide_enough(batch, row, table.key.len())?;
    out.push_str("UPDATE ");
    out.push_str(&name(table));
    for (n, (&i, value)) in batch.columns.iter().zip(row).enumerate() {
        let c = column(table, i)?;
        out.push_str(if n == 0 { " SET " } else { ", " });
        out.push_str(&quote(&c.name));
        out.push_str(" = ");
        put_literal(c, value, out)?;
    }
    for kept in kept(batch) {
        out.push_str(", ");
        out.push_str(&kept);
    }
    put_by_key(table, row.get(batch.columns.len()..).unwrap_or(&[]), out)
}

/// A delete of one row by its key.
pub(crate) fn put_delete(batch: &WriteBatch, key: &[Value], out: &mut String) -> Result<()> {
    out.push_str("DELETE FROM ");
    out.push_str(&name(&batch.table));
    put_by_key(&batch.table, key, out)
}

fn wide_enough(batch: &WriteBatch, row: &[Value], key: usize) -> Result<()> {
    match row.len() < batch.columns.len() + key {
        true => Err(Error::bug(format!("table {}: a row is too short", batch.table.name))),
        false => Ok(()),
    }
}

fn put_by_key(table: &TargetTable, key: &[Value], out: &mut String) -> Result<()> {
    if key.len() != table.key.len() {
        return Err(Error::bug(format!("table {}: a key has another length", table.name)));
    }
    for (n, (&i, value)) in table.key.iter().zip(key).enumerate() {
        let c = column(table, i)?;
        let q = quote(&c.name);
        out.push_str(if n == 0 { " WHERE " } else { " AND " });
        out.push_str(&q);
        out.push_str(" = ");
        put_literal(c, value, out)?;
        if is_text(c) {
            out.push_str(&format!(" AND CAST(CONVERT({q} USING utf8mb4) AS BINARY) = CAST("));
            put_literal(c, value, out)?;
            out.push_str(" AS BINARY)");
        }
    }
    Ok(())
}

/// A value as a literal: texts and bytes as hex, so that no setting of the server can read them otherwise.
pub(crate) fn put_literal(column: &TargetColumn, value: &Value, out: &mut String) -> Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = matches!(value, Value::Bytes(_))
        || matches!(column.data_type, DataType::Bytes { .. }) && matches!(value, Value::Uuid(_));
    match param(column, value)? {
        Param::NULL => out.push_str("NULL"),
        Param::Int(n) => out.push_str(&n.to_string()),
        Param::UInt(n) => out.push_str(&n.to_string()),
        // The shortest text in double precision, which a single is exactly one of.
        Param::Float(x) if x.is_finite() => out.push_str(&format!("{:e}", f64::from(x))),
        Param::Double(x) if x.is_finite() => out.push_str(&format!("{x:e}")),
        Param::Bytes(text) => {
            out.push_str(if bytes { "X'" } else { "_utf8mb4 X'" });
            for byte in text {
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
            out.push('\'');
        }
        Param::Float(_) | Param::Double(_) | Param::Date(..) | Param::Time(..) => {
            let message = format!("column {}: a value has no literal", column.name);
            return Err(Error::bug(message));
        }
    }
    Ok(())
}
