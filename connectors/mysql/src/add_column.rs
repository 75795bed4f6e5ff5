//! The statement that adds a column like one of another system.

use tidelock_core::{Column, DataType, TableName};

use crate::session::{literal, quote};

/// The statement; why there is none that is clearly right.
pub(crate) fn sql(name: &TableName, column: &Column, same_family: bool) -> Result<String, String> {
    let spelt = spelt(column, same_family)?;
    let (schema, table) = (quote(&name.schema), quote(&name.name));
    // NULL is said because a TIMESTAMP may mean NOT NULL without it.
    Ok(format!("ALTER TABLE {schema}.{table} ADD COLUMN {} {spelt} NULL;", quote(&column.name)))
}

fn spelt(column: &Column, same_family: bool) -> Result<String, String> {
    let unclear = || Err(format!("{} has more than one likeness here", column.native));
    Ok(match &column.data_type {
        DataType::Unsupported { .. } => return unclear(),
        // Of the other server of the family it may be another word for longtext.
        DataType::Json => "json".to_owned(),
        DataType::Text { .. } if same_family => {
            format!("{} CHARACTER SET utf8mb4", column.native)
        }
        _ if same_family => column.native.clone(),
        DataType::Bool => "tinyint(1)".to_owned(),
        DataType::Int { bits, unsigned } => {
            let word = match bits {
                0..=8 => "tinyint",
                9..=16 => "smallint",
                17..=24 => "mediumint",
                25..=32 => "int",
                _ => "bigint",
            };
            format!("{word}{}", if *unsigned { " unsigned" } else { "" })
        }
        DataType::Decimal { precision: Some(p @ 1..=65), scale: Some(s @ 0..=30) } if s <= p => {
            format!("decimal({p},{s})")
        }
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Text { chars_max: Some(n @ 0..=16_000), .. } => {
            format!("varchar({n}) CHARACTER SET utf8mb4")
        }
        DataType::Text { .. } => "longtext CHARACTER SET utf8mb4".to_owned(),
        DataType::Bytes { .. } => "longblob".to_owned(),
        DataType::Date => "date".to_owned(),
        DataType::Time { fsp, .. } => format!("time({fsp})"),
        DataType::Timestamp { fsp } => format!("datetime({fsp})"),
        DataType::Enum { labels } => {
            let labels: Vec<String> = labels.iter().map(|l| literal(l)).collect();
            format!("enum({}) CHARACTER SET utf8mb4", labels.join(","))
        }
        _ => return unclear(),
    })
}
