//! The text of statements that read by key: what a session's settings could read otherwise is not in it.

use std::collections::HashSet;
use std::fmt::Write;

use mysql_async::Value as Param;
use tidelock_core::{Code, CopyTable, DataType, Error, Key, Result, Value, alike};

use super::{Shape, param, table};
use crate::session::quote;

/// What keys are compared with.
pub(super) struct Compared {
    /// The types of the columns.
    pub(super) types: Vec<DataType>,
    /// Whether each key is a comparison of its own.
    pub(super) apart: bool,
    /// Whether each column is compared with its values besides: MySQL looks for a list of rows only in an index that
    /// has all of their columns.
    pub(super) each: bool,
}

/// The condition that chooses the rows of these keys; `None` if no row can have one of them.
pub(super) fn condition(
    wanted: &CopyTable,
    by: &[String],
    compared: &Compared,
    keys: &[Key],
) -> Result<Option<String>> {
    let columns: Vec<String> = by.iter().map(|c| quote(c)).collect();
    let mut rows = Distinct::default();
    let mut values: Vec<Distinct> = columns.iter().map(|_| Distinct::default()).collect();
    for key in keys {
        let mut cells = Vec::with_capacity(columns.len());
        for (name, (data_type, value)) in by.iter().zip(compared.types.iter().zip(key.iter())) {
            let found = alike(value, data_type).map_err(|_| unlike(wanted, name))?;
            let mut cell = String::new();
            if found.map_or(Ok(false), |v| literal(data_type, &v, &mut cell))? {
                cells.push(cell);
            }
        }
        if cells.len() < columns.len() {
            continue;
        }
        rows.add(match compared.apart {
            false => cells.join(","),
            true => {
                let tests =
                    columns.iter().zip(&cells).map(|(column, cell)| format!("{column} = {cell}"));
                tests.collect::<Vec<_>>().join(" AND ")
            }
        });
        if compared.each {
            values.iter_mut().zip(cells).for_each(|(values, cell)| values.add(cell));
        }
    }
    if rows.list.is_empty() {
        return Ok(None);
    }
    let all = columns.join(",");
    let mut tests = vec![match (by.len(), compared.apart) {
        (1, _) => format!("{all} IN ({})", rows.list.join(",")),
        (_, false) => format!("({all}) IN (({}))", rows.list.join("),(")),
        (_, true) => format!("(({}))", rows.list.join(") OR (")),
    }];
    if compared.each {
        // Those that tell many rows apart: of the others the server would only make more ranges to think of.
        let most = values.iter().map(|v| v.list.len()).max().unwrap_or(0);
        let each = columns.iter().zip(&values).filter(|(_, v)| v.list.len() * 10 >= most);
        tests.extend(each.map(|(c, values)| format!("{c} IN ({})", values.list.join(","))));
    }
    Ok(Some(tests.join(" AND ")))
}

/// Texts in the order in which they came, each once.
#[derive(Default)]
struct Distinct {
    list: Vec<String>,
    seen: HashSet<String>,
}

impl Distinct {
    fn add(&mut self, text: String) {
        if !self.seen.contains(&text) {
            self.seen.insert(text.clone());
            self.list.push(text);
        }
    }
}

fn unlike(wanted: &CopyTable, column: &str) -> Error {
    let says = format!("{}.{column}: a track gives keys of another type", wanted.name);
    Error::data(Code::Catalog, says)
        .with_hint("let the track give the view's own key, by a query with a cast if need be")
}

pub(super) fn selected(wanted: &CopyTable, shape: &Shape, test: &str) -> String {
    let filter = wanted.filter.as_ref().map_or(String::new(), |f| format!(" AND ({f})"));
    let columns = shape.selected(&wanted.columns);
    format!("SELECT {columns} FROM {} WHERE {test}{filter}", table(&wanted.name))
}

/// A query as a part of another one: so it can be nothing but a query, whatever it says.
pub(super) fn enclosed(sql: &str) -> String {
    // Its last line may be a comment.
    format!("SELECT * FROM (\n{sql}\n) AS q")
}

/// The values of a parameter, each once, with commas between; a NULL, which is equal to nothing, if there are none.
pub(super) fn list(data_type: &DataType, values: &[Value]) -> Result<String> {
    let mut distinct = Distinct::default();
    for value in values.iter().filter(|v| !matches!(v, Value::Null | Value::Unchanged)) {
        let mut item = String::new();
        if literal(data_type, value, &mut item)? {
            distinct.add(item);
        }
    }
    let some = !distinct.list.is_empty();
    Ok(if some { distinct.list.join(", ") } else { "NULL".to_owned() })
}

/// A value of this type as a literal; false if there is none. Texts and bytes are written as hex, so that no setting
/// of the server can read them otherwise.
fn literal(data_type: &DataType, value: &Value, out: &mut String) -> Result<bool> {
    // Writing to a String cannot fail.
    let _written = match (data_type, value) {
        // As a text it would be compared as a float.
        (_, Value::Decimal(t)) => {
            let plain = t.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'));
            return Ok(plain.then(|| out.push_str(t)).is_some());
        }
        (DataType::Bits { .. }, Value::Text(t)) => {
            let plain = t.bytes().all(|b| matches!(b, b'0' | b'1'));
            return Ok(plain.then(|| write!(out, "b'{t}'")).is_some());
        }
        _ => match param(value)? {
            Param::Int(n) => write!(out, "{n}"),
            Param::UInt(n) => write!(out, "{n}"),
            // The shortest text in double precision, which a single is exactly one of.
            Param::Float(x) if x.is_finite() => write!(out, "{:e}", f64::from(x)),
            Param::Double(x) if x.is_finite() => write!(out, "{x:e}"),
            Param::Bytes(bytes) => {
                let text = !matches!(value, Value::Bytes(_));
                out.push_str(if text { "_utf8mb4 X'" } else { "X'" });
                bytes.iter().for_each(|byte| {
                    for nibble in [byte >> 4, byte & 15] {
                        out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                    }
                });
                out.push('\'');
                Ok(())
            }
            Param::NULL
            | Param::Float(_)
            | Param::Double(_)
            | Param::Date(..)
            | Param::Time(..) => return Ok(false),
        },
    };
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::{Repertoire, TableName};

    #[test]
    fn keys_are_spelled_out_once_and_those_that_no_row_has_are_left_out() {
        let wanted = CopyTable {
            name: TableName::new("crm", "v"),
            columns: vec!["a".into()],
            key: vec!["a".into()],
            filter: None,
        };
        let int = DataType::Int { bits: 8, unsigned: true };
        let text = DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        let by = ["a".to_owned(), "b`".to_owned()];
        let key = |a: i64, b: &str| -> Key { [Value::Int(a), Value::Text(b.into())].into() };
        let keys = [key(1, "x"), key(1, "x"), key(300, "x"), key(-1, "y"), key(2, "")];
        let mut both = Compared { types: vec![int.clone(), text], apart: false, each: false };
        let test = condition(&wanted, &by, &both, &keys).ok().flatten();
        assert_eq!(test.as_deref(), Some("(`a`,`b```) IN ((1,_utf8mb4 X'78'),(2,_utf8mb4 X''))"));
        both.each = true;
        let test = condition(&wanted, &by, &both, &keys).ok().flatten().unwrap_or_default();
        assert!(
            test.ends_with(" AND `a` IN (1,2) AND `b``` IN (_utf8mb4 X'78',_utf8mb4 X'')"),
            "{test}"
        );
        (both.apart, both.each) = (true, false);
        let test = condition(&wanted, &by, &both, &keys[1..4]).ok().flatten();
        assert_eq!(test.as_deref(), Some("((`a` = 1 AND `b``` = _utf8mb4 X'78'))"));
        let one = Compared { types: vec![int], apart: false, each: false };
        let none = condition(&wanted, &by[..1], &one, &[[Value::Null].into()]);
        assert_eq!(none.ok().flatten(), None);
        let day: Key = [Value::Date(tidelock_core::Date(1))].into();
        let unlike = condition(&wanted, &by[..1], &one, &[day]);
        assert_eq!(unlike.err().map(|e| e.kind()), Some(tidelock_core::ErrorKind::Data));
    }

    #[test]
    fn lists_hold_each_value_once_and_are_never_empty() {
        let decimal = DataType::Decimal { precision: None, scale: None };
        let values = [
            Value::Decimal("1.50".into()),
            Value::Null,
            Value::Decimal("1.50".into()),
            Value::Unchanged,
        ];
        assert_eq!(list(&decimal, &values).ok().as_deref(), Some("1.50"));
        assert_eq!(list(&decimal, &[Value::Null]).ok().as_deref(), Some("NULL"));
        let bits = DataType::Bits { length: Some(4), varying: false };
        assert_eq!(list(&bits, &[Value::Text("0101".into())]).ok().as_deref(), Some("b'0101'"));
        let bytes = DataType::Bytes { bytes_max: None, fixed: None };
        assert_eq!(
            list(&bytes, &[Value::Bytes(vec![0, 255].into())]).ok().as_deref(),
            Some("X'00ff'")
        );
    }
}
