//! Comparisons of keys with what a table holds and with one another.
//!
//! **Types.** A parameter is a text or a number to the server, whatever the column is: a decimal sent as a text would be
//! compared as a float, and letter by letter where no column stands beside it. So each is cast to its column's own type.
//! Enums and sets are sorted by their numbers and compared by their labels: they are compared by number here.
//!
//! **Texts** stay parameters: the column's collation decides their order. Whether a key is there is asked byte for byte
//! besides, because another spelling that the collation holds equal is another key to the other side.

use mysql_async::Value as Param;
use tidelock_core::{Code, CopyTable, DataType, Error, KeyRange, Result, Value};

use super::{Shape, param, table};
use crate::session::quote;

/// A column of a key.
struct KeyColumn<'a> {
    name: &'a str,
    data_type: &'a DataType,
}

/// The columns of the key with their types.
fn columns<'a>(wanted: &'a CopyTable, shape: &'a Shape) -> Result<Vec<KeyColumn<'a>>> {
    let of = |name: &'a String| {
        let found = shape.table.columns.iter().find(|c| &c.name == name);
        found
            .map(|column| KeyColumn { name, data_type: &column.data_type })
            .ok_or_else(|| Error::bug("a key column is not among those read"))
    };
    wanted.key.iter().map(of).collect()
}

impl KeyColumn<'_> {
    /// Where a value stands in a comparison.
    fn mark(&self) -> String {
        match self.data_type {
            DataType::Decimal { precision, scale } => {
                let (precision, scale) = (precision.unwrap_or(65), scale.unwrap_or(30));
                format!("CAST(? AS DECIMAL({precision},{scale}))")
            }
            DataType::Int { unsigned: true, .. }
            | DataType::Year
            | DataType::Bits { .. }
            | DataType::Enum { .. }
            | DataType::Set { .. } => "CAST(? AS UNSIGNED)".to_owned(),
            DataType::Bool | DataType::Int { unsigned: false, .. } => {
                "CAST(? AS SIGNED)".to_owned()
            }
            DataType::Float32 | DataType::Float64 | DataType::RoundedFloat { .. } => {
                "CAST(? AS DOUBLE)".to_owned()
            }
            DataType::Date => "CAST(? AS DATE)".to_owned(),
            // MySQL takes the parameter itself for 00:00:00.
            DataType::Time { .. } => "CAST(CAST(? AS CHAR) AS TIME(6))".to_owned(),
            DataType::Timestamp { .. } | DataType::Instant { .. } => {
                "CAST(? AS DATETIME(6))".to_owned()
            }
            DataType::Text { .. }
            | DataType::Bytes { .. }
            | DataType::Json
            | DataType::Uuid
            | DataType::Interval { .. }
            | DataType::Address { .. }
            | DataType::Opaque { .. }
            | DataType::Native { .. }
            | DataType::Unsupported { .. } => "?".to_owned(),
        }
    }

    /// The column under its own name, as a value that other values may stand below.
    fn selected(&self) -> String {
        let name = quote(self.name);
        match self.data_type {
            DataType::Bits { .. } | DataType::Enum { .. } | DataType::Set { .. } => {
                format!("CAST({name} AS UNSIGNED) AS {name}")
            }
            _ => name,
        }
    }

    fn param(&self, value: &Value) -> Result<Param> {
        // A label that the column has no more.
        let unknown = || {
            let says = format!("column {}: a key is none of the column's values", self.name);
            Error::data(Code::SchemaDrift, says)
        };
        Ok(match (self.data_type, value) {
            (DataType::Bits { .. }, Value::Text(digits)) => {
                Param::UInt(u64::from_str_radix(digits, 2).map_err(|_| unknown())?)
            }
            (DataType::Enum { labels }, Value::Enum(label)) => {
                let at = labels.iter().position(|l| **l == **label).ok_or_else(unknown)?;
                Param::UInt(at as u64 + 1)
            }
            // The invalid value.
            (DataType::Enum { .. }, Value::Foreign(_)) => Param::UInt(0),
            (DataType::Set { labels }, Value::Text(on)) => {
                let mut mask = 0;
                for label in on.split(',').filter(|_| !on.is_empty()) {
                    let at = labels.iter().position(|l| l == label).ok_or_else(unknown)?;
                    mask |= 1u64.checked_shl(at as u32).ok_or_else(unknown)?;
                }
                Param::UInt(mask)
            }
            _ => param(value)?,
        })
    }
}

/// `key > bound` or `key <= bound` over several columns, written out so that the index serves: the
/// server does not use one for a comparison of rows.
fn compared(
    key: &[KeyColumn<'_>],
    bound: &[Value],
    above: bool,
    params: &mut Vec<Param>,
) -> Result<String> {
    let operator = if above { ">" } else { "<" };
    let mut test = String::new();
    // From the last column to the first: a OP x OR (a = x AND (the rest)).
    for (i, column) in key.iter().enumerate().rev() {
        let (name, mark) = (quote(column.name), column.mark());
        test = if test.is_empty() {
            format!("{name} {operator}{} {mark}", if above { "" } else { "=" })
        } else {
            format!("({name} {operator} {mark} OR ({name} = {mark} AND {test}))")
        };
        let value = bound.get(i).ok_or_else(|| Error::bug("a key is too short"))?;
        let bind = column.param(value)?;
        if i + 1 < key.len() {
            params.insert(0, bind.clone());
        }
        params.insert(0, bind);
    }
    if let [first, _, ..] = key {
        test = format!("{} {operator}= {} AND {test}", quote(first.name), first.mark());
        let value = bound.first().ok_or_else(|| Error::bug("a key is empty"))?;
        params.insert(0, first.param(value)?);
    }
    Ok(test)
}

/// `WHERE` for a range and the table's own condition; empty if there is neither.
pub(super) fn conditions(
    wanted: &CopyTable,
    shape: &Shape,
    range: &KeyRange,
    params: &mut Vec<Param>,
) -> Result<String> {
    let key = columns(wanted, shape)?;
    let mut tests = Vec::new();
    for (bound, above) in [(&range.after, true), (&range.upto, false)] {
        if let Some(bound) = bound {
            let mut own = Vec::new();
            tests.push(format!("({})", compared(&key, bound, above, &mut own)?));
            params.append(&mut own);
        }
    }
    if let Some(filter) = &wanted.filter {
        tests.push(format!("({filter})"));
    }
    Ok(if tests.is_empty() { String::new() } else { format!(" WHERE {}", tests.join(" AND ")) })
}

/// Whether there is a row of this key, as an expression.
pub(super) fn present(
    wanted: &CopyTable,
    shape: &Shape,
    key: &[Value],
    params: &mut Vec<Param>,
) -> Result<String> {
    let mut tests = Vec::with_capacity(key.len());
    for (column, value) in columns(wanted, shape)?.iter().zip(key) {
        let name = quote(column.name);
        let bind = column.param(value)?;
        tests.push(format!("{name} = {}", column.mark()));
        if matches!(column.data_type, DataType::Text { .. }) {
            tests
                .push(format!("CAST(CONVERT({name} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)"));
            params.push(bind.clone());
        }
        params.push(bind);
    }
    Ok(format!("EXISTS(SELECT 1 FROM {} WHERE {})", table(&wanted.name), tests.join(" AND ")))
}

/// The query that tells whether `key` is not above `bound`.
pub(super) fn up_to(
    wanted: &CopyTable,
    shape: &Shape,
    key: &[Value],
    bound: &[Value],
) -> Result<(String, Vec<Param>)> {
    let columns = columns(wanted, shape)?;
    let mut params = Vec::new();
    let test = compared(&columns, bound, false, &mut params)?;
    // They stand behind those of the test.
    for (column, value) in columns.iter().zip(key) {
        params.push(column.param(value)?);
    }
    // The comparison must be by the columns' own collations: a query without rows gives them. (Of an outer join
    // with a view MariaDB makes an inner one.)
    let list = |one: &dyn Fn(&KeyColumn<'_>) -> String| {
        columns.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let sql = format!(
        "SELECT {test} FROM (SELECT {} FROM {} WHERE FALSE UNION ALL SELECT {}) k",
        list(&|column| column.selected()),
        table(&wanted.name),
        list(&|column| column.mark()),
    );
    Ok((sql, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::Repertoire;

    #[test]
    fn a_bound_over_several_columns_is_written_out_with_its_parameters_in_order() {
        let decimal = DataType::Decimal { precision: Some(10), scale: Some(2) };
        let text = DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        let key = [
            KeyColumn { name: "a", data_type: &decimal },
            KeyColumn { name: "b", data_type: &text },
        ];
        let mut params = Vec::new();
        let bound = [Value::Decimal("1.50".into()), Value::Text("x".into())];
        let test = compared(&key, &bound, true, &mut params).unwrap_or_default();
        let cast = "CAST(? AS DECIMAL(10,2))";
        let wanted = format!("`a` >= {cast} AND (`a` > {cast} OR (`a` = {cast} AND `b` > ?))");
        assert_eq!(test, wanted);
        let (one, x) = (Param::Bytes(b"1.50".to_vec()), Param::Bytes(b"x".to_vec()));
        assert_eq!(params, [one.clone(), one.clone(), one, x]);
        let mut params = Vec::new();
        let test = compared(&key, &bound, false, &mut params).unwrap_or_default();
        let wanted = format!("`a` <= {cast} AND (`a` < {cast} OR (`a` = {cast} AND `b` <= ?))");
        assert_eq!(test, wanted);
    }

    #[test]
    fn values_that_are_sorted_by_number_are_compared_by_it() {
        let labels = || ["b".to_owned(), "a".to_owned(), "c".to_owned()].into();
        let param = |data_type: &DataType, value: &Value| {
            KeyColumn { name: "k", data_type }.param(value).ok()
        };
        let (label, set) =
            (DataType::Enum { labels: labels() }, DataType::Set { labels: labels() });
        assert_eq!(param(&label, &Value::Enum("a".into())), Some(Param::UInt(2)));
        assert_eq!(param(&label, &Value::Foreign("".into())), Some(Param::UInt(0)));
        assert_eq!(param(&label, &Value::Enum("gone".into())), None);
        assert_eq!(param(&set, &Value::Text("b,c".into())), Some(Param::UInt(5)));
        assert_eq!(param(&set, &Value::Text("".into())), Some(Param::UInt(0)));
        let bits = DataType::Bits { length: Some(9), varying: false };
        assert_eq!(param(&bits, &Value::Text("000000101".into())), Some(Param::UInt(5)));
    }
}
