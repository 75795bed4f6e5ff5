//! The statement that adds a column like one of another system.

use tidelock_core::{Column, DataType, TableName};

use crate::quote::{ident, table};

/// The statement; why there is none that is clearly right.
pub(crate) fn sql(name: &TableName, column: &Column, same_family: bool) -> Result<String, String> {
    let spelt = spelt(column, same_family)?;
    Ok(format!("ALTER TABLE {} ADD COLUMN {} {spelt};", table(name), ident(&column.name)))
}

fn spelt(column: &Column, same_family: bool) -> Result<String, String> {
    if same_family && !matches!(column.data_type, DataType::Unsupported { .. }) {
        return Ok(column.native.clone());
    }
    Ok(match &column.data_type {
        DataType::Bool => "boolean".to_owned(),
        DataType::Int { bits: 0..=8, .. } | DataType::Int { bits: 16, unsigned: false } => {
            "smallint".to_owned()
        }
        DataType::Int { bits: 16 | 24, .. } | DataType::Int { bits: 32, unsigned: false } => {
            "integer".to_owned()
        }
        DataType::Int { bits: 64, unsigned: true } => "numeric(20)".to_owned(),
        DataType::Int { .. } => "bigint".to_owned(),
        DataType::Decimal { precision: Some(p), scale: Some(s) } => format!("numeric({p},{s})"),
        DataType::Decimal { .. } => "numeric".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double precision".to_owned(),
        DataType::Text { chars_max: Some(n), .. } => format!("varchar({n})"),
        DataType::Text { .. } => "text".to_owned(),
        DataType::Bytes { .. } => "bytea".to_owned(),
        DataType::Date => "date".to_owned(),
        DataType::Time { fsp, span: false } => format!("time({fsp})"),
        DataType::Timestamp { fsp } => format!("timestamp({fsp})"),
        DataType::Instant { fsp, .. } => format!("timestamptz({fsp})"),
        DataType::Uuid => "uuid".to_owned(),
        DataType::Json => "jsonb".to_owned(),
        _ => return Err(format!("{} has more than one likeness here", column.native)),
    })
}
