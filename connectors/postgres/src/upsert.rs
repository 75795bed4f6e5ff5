//! The statements that write rows, and the arrays they take.
//!
//! Each statement takes one array a column, so a batch of any size is one statement with one plan:
//! `INSERT … SELECT … FROM unnest($1::int8[], $2::text[]) …`. Types whose binary form is simple and
//! fixed travel in it; the others (numbers of any size, JSON, enumerations) travel as text and are
//! cast by the server.
//!
//! **Lengths and scales are never part of a cast.** An explicit cast to `varchar(3)` cuts a longer
//! text off in silence, while the assignment to such a column refuses it. So texts are not cast at
//! all, and `numeric` is cast without precision.
//!
//! **Keys are compared in the column's own type**, so that the index serves and equality is the
//! column's own.

use bytes::{BufMut, Bytes, BytesMut};
use tidelock_core::{DataType, Error, Result, TargetColumn, TargetTable, Value, WriteOp, form};
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::quote::{ident, table};
use crate::wire::EPOCH_2000_MICROS;

/// Days from 1970 to 2000.
const EPOCH_2000_DAYS: i32 = 10_957;

/// A statement and the types of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) types: Vec<Type>,
    /// Whether it answers with one row that holds the number of rows that were there.
    pub(crate) counts: bool,
}

/// The element type of a column's array, and the cast behind it.
fn carrier(column: &TargetColumn) -> (Type, Option<String>) {
    match &column.data_type {
        DataType::Bool => (Type::BOOL_ARRAY, None),
        DataType::Int { bits: 8 | 16, .. } => (Type::INT2_ARRAY, None),
        DataType::Int { bits: 24 | 32, unsigned: false } => (Type::INT4_ARRAY, None),
        DataType::Int { .. } => (Type::INT8_ARRAY, None),
        DataType::Float32 => (Type::FLOAT4_ARRAY, None),
        DataType::Float64 => (Type::FLOAT8_ARRAY, None),
        DataType::Text { padded, .. } if *padded || column.native == "bpchar" => {
            (Type::TEXT_ARRAY, Some("pg_catalog.bpchar".to_owned()))
        }
        DataType::Text { bytes_max: Some(63), .. } => {
            (Type::TEXT_ARRAY, Some("pg_catalog.name".to_owned()))
        }
        DataType::Text { .. } if column.native.ends_with("citext") => {
            (Type::TEXT_ARRAY, Some(column.native.clone()))
        }
        DataType::Text { .. } => (Type::TEXT_ARRAY, None),
        DataType::Bytes { .. } => (Type::BYTEA_ARRAY, None),
        DataType::Date => (Type::DATE_ARRAY, None),
        DataType::Time { .. } => (Type::TIME_ARRAY, None),
        DataType::Timestamp { .. } => (Type::TIMESTAMP_ARRAY, None),
        DataType::Instant { .. } => (Type::TIMESTAMPTZ_ARRAY, None),
        DataType::Uuid => (Type::UUID_ARRAY, None),
        DataType::Decimal { .. } if column.native == "money" => {
            (Type::TEXT_ARRAY, Some("pg_catalog.numeric::pg_catalog.money".to_owned()))
        }
        DataType::Decimal { .. } => (Type::TEXT_ARRAY, Some("pg_catalog.numeric".to_owned())),
        DataType::Interval { .. } => (Type::TEXT_ARRAY, Some("pg_catalog.interval".to_owned())),
        DataType::Bits { .. } => (Type::TEXT_ARRAY, Some("pg_catalog.varbit".to_owned())),
        DataType::Address { .. } => (Type::TEXT_ARRAY, Some("pg_catalog.inet".to_owned())),
        DataType::Native { name, .. } => (Type::TEXT_ARRAY, Some(name.clone())),
        DataType::Json
        | DataType::Enum { .. }
        | DataType::RoundedFloat { .. }
        | DataType::Year
        | DataType::Set { .. }
        | DataType::Opaque { .. }
        | DataType::Unsupported { .. } => (Type::TEXT_ARRAY, Some(column.native.clone())),
    }
}

fn column(table: &TargetTable, index: usize) -> Result<&TargetColumn> {
    table.columns.get(index).ok_or_else(|| Error::bug("a batch names a column the table lacks"))
}

/// The columns that each cell of a row of such a batch belongs to.
pub(crate) fn cells<'a>(
    table: &'a TargetTable,
    op: WriteOp,
    columns: &[usize],
) -> Result<Vec<&'a TargetColumn>> {
    let old_key: &[usize] = match op {
        WriteOp::Update | WriteOp::Move => &table.key,
        WriteOp::Insert
        | WriteOp::Overwrite
        | WriteOp::Upsert
        | WriteOp::Delete
        | WriteOp::DeleteAll => &[],
    };
    columns.iter().chain(old_key).map(|&i| column(table, i)).collect()
}

/// `unnest($1, $2) AS s(c0, c1)`, the casts of each cell, and the types of the parameters.
struct Rows {
    from: String,
    exprs: Vec<String>,
    types: Vec<Type>,
}

fn rows(cells: &[&TargetColumn]) -> Rows {
    let mut types = Vec::with_capacity(cells.len());
    let mut exprs = Vec::with_capacity(cells.len());
    let mut params = Vec::with_capacity(cells.len());
    let mut names = Vec::with_capacity(cells.len());
    for (i, cell) in cells.iter().enumerate() {
        let (array, cast) = carrier(cell);
        params.push(format!("${}", i + 1));
        names.push(format!("c{i}"));
        exprs.push(match cast {
            Some(cast) => format!("s.c{i}::{cast}"),
            None => format!("s.c{i}"),
        });
        types.push(array);
    }
    // More than one array at a time needs the FROM form of unnest, which takes one as well.
    let from = format!("unnest({}) AS s({})", params.join(", "), names.join(", "));
    Rows { from, exprs, types }
}

/// `t.c IS DISTINCT FROM x`, by every bit of the text where equality is looser than identity.
fn differs(column: &TargetColumn, other: &str) -> String {
    let name = ident(&column.name);
    match &column.data_type {
        // As a text it loses the blanks at its end.
        DataType::Text { .. } if column.native == "bpchar" => {
            let bytes = |x: &str| format!("pg_catalog.bpcharsend({x})");
            format!("{} IS DISTINCT FROM {}", bytes(&format!("t.{name}")), bytes(other))
        }
        DataType::Text { .. } => {
            format!(
                "t.{name}::text COLLATE pg_catalog.\"C\" IS DISTINCT FROM {other}::text COLLATE pg_catalog.\"C\""
            )
        }
        // Money has the server's own notation as text, and no two notations of one amount.
        DataType::Decimal { .. } if column.native == "money" => {
            format!("t.{name} IS DISTINCT FROM {other}")
        }
        // '1 mon' and '30 days' are equal to the server, and so are 1.0 and 1.00, and -0 and 0.
        // A domain over an enumeration has no equality of its own.
        DataType::Json
        | DataType::Decimal { .. }
        | DataType::Float32
        | DataType::Float64
        | DataType::Enum { .. }
        | DataType::Interval { .. }
        | DataType::Bits { .. }
        | DataType::Native { .. }
        | DataType::Year
        | DataType::Set { .. }
        | DataType::Opaque { .. }
        | DataType::Unsupported { .. } => {
            format!("t.{name}::text IS DISTINCT FROM {other}::text")
        }
        DataType::Bool
        | DataType::Int { .. }
        | DataType::RoundedFloat { .. }
        | DataType::Bytes { .. }
        | DataType::Date
        | DataType::Time { .. }
        | DataType::Timestamp { .. }
        | DataType::Instant { .. }
        | DataType::Uuid
        | DataType::Address { .. } => format!("t.{name} IS DISTINCT FROM {other}"),
    }
}

/// The statement for such a batch; [`WriteOp::Move`] is an update and, where that met nothing, an
/// upsert, so it has no statement of its own.
pub(crate) fn statement(target: &TargetTable, op: WriteOp, columns: &[usize]) -> Result<Statement> {
    let all = cells(target, op, columns)?;
    match op {
        WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => upsert(target, columns, &all),
        WriteOp::Update | WriteOp::Move => update(target, columns, &all),
        WriteOp::Delete => delete(target, columns, &all),
        WriteOp::DeleteAll => Ok(Statement {
            sql: format!("DELETE FROM {}", table(&target.name)),
            types: Vec::new(),
            counts: false,
        }),
    }
}

/// The statement that loads such rows from the client.
pub(crate) fn copy(target: &TargetTable, columns: &[usize]) -> Result<String> {
    let names = cells(target, WriteOp::Upsert, columns)?;
    let names: Vec<String> = names.iter().map(|c| ident(&c.name)).collect();
    Ok(format!("COPY {} ({}) FROM STDIN", table(&target.name), names.join(", ")))
}

fn upsert(target: &TargetTable, columns: &[usize], all: &[&TargetColumn]) -> Result<Statement> {
    let rows = rows(all);
    let names: Vec<String> = all.iter().map(|c| ident(&c.name)).collect();
    let overriding =
        if all.iter().any(|c| c.identity_always) { " OVERRIDING SYSTEM VALUE" } else { "" };
    let key = target
        .key
        .iter()
        .map(|&i| column(target, i).map(|c| ident(&c.name)))
        .collect::<Result<Vec<_>>>()?;
    let others: Vec<&TargetColumn> = columns
        .iter()
        .zip(all)
        .filter(|(index, _)| !target.key.contains(index))
        .map(|(_, column)| *column)
        .collect();
    let action = if others.is_empty() {
        "NOTHING".to_owned()
    } else {
        let sets: Vec<String> =
            others.iter().map(|c| format!("{0} = EXCLUDED.{0}", ident(&c.name))).collect();
        let mut action = format!("UPDATE SET {}", sets.join(", "));
        if target.suppress_unchanged {
            let changed: Vec<String> = others
                .iter()
                .map(|c| differs(c, &format!("EXCLUDED.{}", ident(&c.name))))
                .collect();
            action.push_str(&format!(" WHERE {}", changed.join(" OR ")));
        }
        action
    };
    let sql = format!(
        "INSERT INTO {} AS t ({}){overriding} SELECT {} FROM {} ON CONFLICT ({}) DO {action}",
        table(&target.name),
        names.join(", "),
        rows.exprs.join(", "),
        rows.from,
        key.join(", "),
    );
    Ok(Statement { sql, types: rows.types, counts: false })
}

fn update(target: &TargetTable, columns: &[usize], all: &[&TargetColumn]) -> Result<Statement> {
    let rows = rows(all);
    let name = table(&target.name);
    let on = |exprs: &[String]| -> Vec<String> {
        all.iter()
            .zip(exprs)
            .skip(columns.len())
            .map(|(c, expr)| format!("t.{} = {expr}", ident(&c.name)))
            .collect()
    };
    let sets: Vec<String> = all
        .iter()
        .zip(&rows.exprs)
        .take(columns.len())
        .map(|(c, expr)| format!("{} = {expr}", ident(&c.name)))
        .collect();
    if sets.is_empty() || target.key.is_empty() {
        return Err(Error::bug(format!("an update of {} sets nothing or has no key", target.name)));
    }
    let on = on(&rows.exprs).join(" AND ");
    if !target.suppress_unchanged {
        let sql =
            format!("UPDATE {name} AS t SET {} FROM {} WHERE {on}", sets.join(", "), rows.from);
        return Ok(Statement { sql, types: rows.types, counts: false });
    }
    // The rows that are there must be counted apart from those that are changed.
    let changed: Vec<String> =
        all.iter().zip(&rows.exprs).take(columns.len()).map(|(c, expr)| differs(c, expr)).collect();
    let sql = format!(
        "WITH s AS MATERIALIZED (SELECT * FROM {}), \
         u AS (UPDATE {name} AS t SET {} FROM s WHERE {on} AND ({})) \
         SELECT count(*) FROM s JOIN {name} AS t ON {on}",
        rows.from,
        sets.join(", "),
        changed.join(" OR "),
    );
    Ok(Statement { sql, types: rows.types, counts: true })
}

fn delete(target: &TargetTable, columns: &[usize], all: &[&TargetColumn]) -> Result<Statement> {
    if columns.is_empty() {
        return Err(Error::bug(format!("a delete from {} has no key", target.name)));
    }
    let rows = rows(all);
    let on: Vec<String> =
        all.iter().zip(&rows.exprs).map(|(c, e)| format!("t.{} = {e}", ident(&c.name))).collect();
    let sql = format!(
        "DELETE FROM {} AS t USING {} WHERE {}",
        table(&target.name),
        rows.from,
        on.join(" AND ")
    );
    Ok(Statement { sql, types: rows.types, counts: false })
}

/// A parameter in its binary form.
pub(crate) struct Encoded(pub(crate) Bytes);

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It holds row values.
        f.write_str("Encoded")
    }
}

impl ToSql for Encoded {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// The array of one cell of all rows.
pub(crate) fn array(rows: &[&[Value]], cell: usize, column: &TargetColumn) -> Result<Encoded> {
    let (array_type, _) = carrier(column);
    let element = match array_type.kind() {
        tokio_postgres::types::Kind::Array(element) => element.clone(),
        _ => return Err(Error::bug("a carrier is no array")),
    };
    let too_big = || Error::bug(format!("a batch for column {} is too big", column.name));
    let mut out = BytesMut::with_capacity(20 + rows.len() * 12);
    out.put_i32(i32::from(!rows.is_empty()));
    let any_null = rows.iter().any(|r| r.get(cell).is_some_and(Value::is_null));
    out.put_i32(i32::from(any_null));
    out.put_u32(element.oid());
    if !rows.is_empty() {
        out.put_i32(i32::try_from(rows.len()).map_err(|_| too_big())?);
        out.put_i32(1);
    }
    for row in rows {
        let value = row.get(cell).ok_or_else(|| Error::bug("a row is shorter than its batch"))?;
        if value.is_null() {
            out.put_i32(-1);
            continue;
        }
        let start = out.len();
        out.put_i32(0);
        element_bytes(&element, value, column, &mut out)?;
        let length = i32::try_from(out.len() - start - 4).map_err(|_| too_big())?;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(Encoded(out.freeze()))
}

fn element_bytes(
    element: &Type,
    value: &Value,
    column: &TargetColumn,
    out: &mut BytesMut,
) -> Result<()> {
    let misfit = || {
        Error::bug(format!(
            "a value of kind {} was sent to column {} of type {}",
            kind(value),
            column.name,
            column.native
        ))
    };
    let outside = || {
        Error::data(
            tidelock_core::Code::NotRepresentable,
            format!("a value is outside what column {} can hold", column.name),
        )
    };
    let integer = |value: &Value| match value {
        Value::Int(i) => Some(*i),
        Value::UInt(u) => i64::try_from(*u).ok(),
        _ => None,
    };
    // A value without canonical form can only travel as text.
    if matches!(value, Value::Foreign(_)) && *element != Type::TEXT {
        return Err(outside());
    }
    match *element {
        Type::BOOL => match value {
            Value::Bool(b) => out.put_u8(u8::from(*b)),
            _ => return Err(misfit()),
        },
        Type::INT2 | Type::INT4 | Type::INT8 => {
            if !matches!(value, Value::Int(_) | Value::UInt(_)) {
                return Err(misfit());
            }
            let number = integer(value).ok_or_else(outside)?;
            match *element {
                Type::INT2 => out.put_i16(i16::try_from(number).map_err(|_| outside())?),
                Type::INT4 => out.put_i32(i32::try_from(number).map_err(|_| outside())?),
                _ => out.put_i64(number),
            }
        }
        Type::FLOAT4 => match value {
            Value::Float32(f) => out.put_f32(*f),
            _ => return Err(misfit()),
        },
        Type::FLOAT8 => match value {
            Value::Float64(f) => out.put_f64(*f),
            Value::Float32(f) => out.put_f64(f64::from(*f)),
            _ => return Err(misfit()),
        },
        Type::TEXT => put_text(value, &column.data_type, out).ok_or_else(misfit)?,
        Type::BYTEA => match value {
            Value::Bytes(b) => out.put_slice(b),
            _ => return Err(misfit()),
        },
        Type::DATE => match value {
            Value::Date(d) if d.is_infinite() => out.put_i32(d.0),
            Value::Date(d) => {
                out.put_i32(d.0.checked_sub(EPOCH_2000_DAYS).ok_or_else(outside)?);
            }
            _ => return Err(misfit()),
        },
        Type::TIME => match value {
            Value::Time(t) => out.put_i64(t.0),
            _ => return Err(misfit()),
        },
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let micros = match (value, element) {
                (Value::Timestamp(t), &Type::TIMESTAMP) => t.0,
                (Value::Instant(t), &Type::TIMESTAMPTZ) => t.0,
                _ => return Err(misfit()),
            };
            out.put_i64(match micros {
                i64::MAX | i64::MIN => micros,
                _ => micros.checked_sub(EPOCH_2000_MICROS).ok_or_else(outside)?,
            });
        }
        Type::UUID => match value {
            Value::Uuid(u) => out.put_slice(u),
            _ => return Err(misfit()),
        },
        _ => return Err(misfit()),
    }
    Ok(())
}

/// Texts, and everything that the server casts from text; a text must not pass for a number or the
/// other way round.
fn put_text(value: &Value, data_type: &DataType, out: &mut BytesMut) -> Option<()> {
    let fits = match value {
        Value::Foreign(_) => true,
        Value::Text(_) => matches!(
            data_type,
            DataType::Text { .. }
                | DataType::Json
                | DataType::Enum { .. }
                | DataType::Bits { .. }
                | DataType::Address { .. }
                | DataType::Native { .. }
        ),
        Value::Json(_) => matches!(data_type, DataType::Text { .. } | DataType::Json),
        Value::Interval(_) => matches!(data_type, DataType::Interval { .. }),
        Value::Enum(_) => matches!(data_type, DataType::Text { .. } | DataType::Enum { .. }),
        Value::Decimal(_) | Value::Int(_) | Value::UInt(_) => {
            matches!(data_type, DataType::Decimal { .. })
        }
        _ => false,
    };
    if !fits {
        return None;
    }
    match value {
        Value::Text(t)
        | Value::Enum(t)
        | Value::Json(t)
        | Value::Decimal(t)
        | Value::Foreign(t) => out.put_slice(t.as_bytes()),
        Value::Int(i) => out.put_slice(i.to_string().as_bytes()),
        Value::UInt(u) => out.put_slice(u.to_string().as_bytes()),
        Value::Interval(_) => out.put_slice(form::text(value)?.as_bytes()),
        _ => return None,
    }
    Some(())
}

/// The kind of a value, for a message that must not show the value.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Unchanged => "unchanged",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::UInt(_) => "unsigned int",
        Value::Decimal(_) => "decimal",
        Value::Float32(_) | Value::Float64(_) => "float",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::Timestamp(_) => "timestamp",
        Value::Instant(_) => "instant",
        Value::Interval(_) => "interval",
        Value::Uuid(_) => "uuid",
        Value::Json(_) => "json",
        Value::Enum(_) => "enum",
        Value::Foreign(_) => "foreign",
    }
}
