//! Calls of routines, made of the writes that a table would get.

use std::sync::Arc;

use tidelock_core::{Call, DataType, Error, Result, Value, WriteOp, form};

use super::plan::CallPlan;
use super::{MappingPlan, Write};

/// The calls that a write of one row becomes.
pub fn calls(plan: &MappingPlan, call: &CallPlan, write: &Write) -> Result<Vec<Call>> {
    let width = plan.columns.len();
    match write.op {
        WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => {
            Ok(vec![one(plan, call, &write.row)?])
        }
        WriteOp::Move => {
            let (row, old) = write.row.split_at(width.min(write.row.len()));
            let mut calls = removal(plan, call, old)?;
            calls.push(one(plan, call, row)?);
            Ok(calls)
        }
        WriteOp::Delete => removal(plan, call, &write.row),
        WriteOp::Update | WriteOp::Patch | WriteOp::DeleteAll => {
            Err(Error::bug("a routine was to be called with a part of a row"))
        }
    }
}

fn one(plan: &MappingPlan, call: &CallPlan, row: &[Value]) -> Result<Call> {
    let arguments = call
        .arguments
        .iter()
        .map(|at| at.and_then(|at| row.get(at)).cloned())
        .collect::<Option<Box<[Value]>>>()
        .ok_or_else(|| Error::bug("a routine lacks an argument"))?;
    Ok(Call { mapping: plan.name.clone(), routine: call.call.clone(), arguments })
}

/// The call for a key that is gone; none where the mapping ignores that.
fn removal(plan: &MappingPlan, call: &CallPlan, key: &[Value]) -> Result<Vec<Call>> {
    let Some((routine, arguments)) = &call.delete else { return Ok(Vec::new()) };
    let arguments = arguments
        .iter()
        .map(|&at| key.get(at).cloned())
        .collect::<Option<Box<[Value]>>>()
        .ok_or_else(|| Error::bug("a routine lacks an argument"))?;
    Ok(vec![Call { mapping: plan.name.clone(), routine: routine.clone(), arguments }])
}

/// The call for all rows of a group; `key` are the cells of the group's columns, by their places in a row.
pub fn group(
    plan: &MappingPlan,
    call: &CallPlan,
    key: &[(usize, Value)],
    rows: &[Box<[Value]>],
) -> Result<Call> {
    let members = call.rows.as_deref().unwrap_or_default();
    let mut text = String::from("[");
    for (n, row) in rows.iter().enumerate() {
        text.push_str(if n == 0 { "{" } else { ",{" });
        for (m, (name, at)) in members.iter().enumerate() {
            if m > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            text.push(':');
            let value = row.get(*at).ok_or_else(|| Error::bug("a row lacks a member"))?;
            put(value, &mut text);
        }
        text.push('}');
    }
    text.push(']');
    let arguments = call
        .arguments
        .iter()
        .zip(&call.call.parameters)
        .map(|(at, parameter)| match at {
            None if matches!(parameter.data_type, DataType::Text { .. }) => {
                Some(Value::Text(text.clone().into()))
            }
            None => Some(Value::Json(text.clone().into())),
            Some(at) => key
                .iter()
                .find(|(place, _)| place == at)
                .map(|(_, value)| value.clone())
                .or_else(|| rows.first().and_then(|row| row.get(*at)).cloned())
                .or(Some(Value::Null)),
        })
        .collect::<Option<Box<[Value]>>>()
        .ok_or_else(|| Error::bug("a routine lacks an argument"))?;
    Ok(Call { mapping: plan.name.clone(), routine: Arc::clone(&call.call), arguments })
}

/// A value as JSON: numbers with all their digits, times as their text.
fn put(value: &Value, text: &mut String) {
    let quoted = |t: &str| serde_json::Value::from(t).to_string();
    match value {
        Value::Null | Value::Unchanged => text.push_str("null"),
        Value::Bool(b) => text.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => text.push_str(&i.to_string()),
        Value::UInt(u) => text.push_str(&u.to_string()),
        Value::Decimal(t) if t.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.')) => {
            text.push_str(t);
        }
        Value::Float64(f) if f.is_finite() => {
            text.push_str(&serde_json::Value::from(*f).to_string())
        }
        Value::Json(t) => text.push_str(t),
        Value::Bytes(b) => text.push_str(&quoted(&hex::encode(b))),
        other => match form::text(other) {
            Some(t) => text.push_str(&quoted(&t)),
            None => text.push_str("null"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_digits_in_json() {
        let mut text = String::new();
        for value in [
            Value::Decimal("12345678901234567890.10".into()),
            Value::Decimal("NaN".into()),
            Value::Text("a\"b".into()),
            Value::Int(-1),
            Value::Null,
            Value::Bytes(vec![1, 255].into()),
            Value::Date(tidelock_core::Date(0)),
        ] {
            put(&value, &mut text);
            text.push(' ');
        }
        assert_eq!(text, r#"12345678901234567890.10 "NaN" "a\"b" -1 null "01ff" "1970-01-01" "#);
    }
}
