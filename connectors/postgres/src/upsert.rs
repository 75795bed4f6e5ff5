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
//! column's own. Where that holds different texts equal (`citext`, a collation that is not deterministic), they are
//! compared byte for byte besides: another spelling is another key to the source. An insert that meets one is refused
//! by [`GUARD`].

use bytes::{BufMut, BytesMut};
use tidelock_core::{
    DataType, Error, LookupTarget, Result, TargetColumn, TargetTable, Value, WriteOp,
};
use tokio_postgres::types::{IsNull, ToSql, Type};

use crate::binary::{self, Form};
use crate::quote::{ident, table};

/// What the server is given as a truth value where a row's key is there in another spelling: it refuses that, and
/// repeats it, so that it tells whose error it is.
pub(crate) const GUARD: &str = "tidelock: the key is there in another spelling";

/// Whether a column (`pg_attribute a`) holds different texts equal.
pub(crate) const LOOSE: &str = "(EXISTS (SELECT FROM pg_catalog.pg_collation lc WHERE lc.oid = a.attcollation AND NOT lc.collisdeterministic) \
     OR EXISTS (SELECT FROM pg_catalog.pg_type lt LEFT JOIN pg_catalog.pg_type lb ON lb.oid = lt.typbasetype \
     WHERE lt.oid = a.atttypid AND 'citext' IN (lt.typname, lb.typname)))";

/// A statement and the types of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) types: Vec<Type>,
    /// Whether it answers with one row that holds the number of rows that were there.
    pub(crate) counts: bool,
}

/// The form of the elements of a column's array, and the cast behind it.
fn carrier(column: &TargetColumn) -> (Form, Option<String>) {
    match &column.data_type {
        DataType::Bool => (Form::Bool, None),
        DataType::Int { bits: 8 | 16, .. } => (Form::Int2, None),
        DataType::Int { bits: 24 | 32, unsigned: false } => (Form::Int4, None),
        DataType::Int { .. } => (Form::Int8, None),
        DataType::Float32 => (Form::Float4, None),
        DataType::Float64 => (Form::Float8, None),
        DataType::Text { padded, .. } if *padded || column.native == "bpchar" => {
            (Form::Text, Some("pg_catalog.bpchar".to_owned()))
        }
        DataType::Text { bytes_max: Some(63), .. } => {
            (Form::Text, Some("pg_catalog.name".to_owned()))
        }
        DataType::Text { .. } if column.native.ends_with("citext") => {
            (Form::Text, Some(column.native.clone()))
        }
        DataType::Text { .. } => (Form::Text, None),
        DataType::Bytes { .. } => (Form::Bytes, None),
        DataType::Date => (Form::Date, None),
        DataType::Time { .. } => (Form::Time, None),
        DataType::Timestamp { .. } => (Form::Timestamp, None),
        DataType::Instant { .. } => (Form::Instant, None),
        DataType::Uuid => (Form::Uuid, None),
        DataType::Decimal { .. } if column.native == "money" => {
            (Form::Text, Some("pg_catalog.numeric::pg_catalog.money".to_owned()))
        }
        DataType::Decimal { .. } => (Form::Text, Some("pg_catalog.numeric".to_owned())),
        DataType::Interval { .. } => (Form::Text, Some("pg_catalog.interval".to_owned())),
        DataType::Bits { .. } => (Form::Text, Some("pg_catalog.varbit".to_owned())),
        DataType::Address { .. } => (Form::Text, Some("pg_catalog.inet".to_owned())),
        DataType::Native { name, .. } => (Form::Text, Some(name.clone())),
        DataType::Json
        | DataType::Enum { .. }
        | DataType::RoundedFloat { .. }
        | DataType::Year
        | DataType::Set { .. }
        | DataType::Opaque { .. }
        | DataType::Unsupported { .. } => (Form::Text, Some(column.native.clone())),
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
        WriteOp::Update | WriteOp::Patch | WriteOp::Move => &table.key,
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
    /// The same with the number of each row, from 1 on, as `i`.
    numbered: String,
    exprs: Vec<String>,
    types: Vec<Type>,
}

fn rows(cells: &[&TargetColumn]) -> Rows {
    let mut types = Vec::with_capacity(cells.len());
    let mut exprs = Vec::with_capacity(cells.len());
    let mut params = Vec::with_capacity(cells.len());
    let mut names = Vec::with_capacity(cells.len());
    for (i, cell) in cells.iter().enumerate() {
        let (form, cast) = carrier(cell);
        params.push(format!("${}", i + 1));
        names.push(format!("c{i}"));
        exprs.push(match cast {
            Some(cast) => format!("s.c{i}::{cast}"),
            None => format!("s.c{i}"),
        });
        types.push(form.types().1);
    }
    // More than one array at a time needs the FROM form of unnest, which takes one as well.
    let (params, names) = (params.join(", "), names.join(", "));
    let from = format!("unnest({params}) AS s({names})");
    let numbered = format!("unnest({params}) WITH ORDINALITY AS s({names}, i)");
    Rows { from, numbered, exprs, types }
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

/// Whether two texts are the same to the byte.
pub(crate) fn spelt_alike(one: &str, other: &str) -> String {
    format!("{one}::text COLLATE pg_catalog.\"C\" = {other}::text COLLATE pg_catalog.\"C\"")
}

/// `t.c = x` for a column of the key.
fn matches(column: &TargetColumn, other: &str, loose: &[String]) -> String {
    let own = format!("t.{}", ident(&column.name));
    match loose.contains(&column.name) {
        true => format!("{own} = {other} AND {}", spelt_alike(&own, other)),
        false => format!("{own} = {other}"),
    }
}

/// The statement for such a batch; [`WriteOp::Move`] is an update and, where that met nothing, an
/// upsert, so it has no statement of its own. `loose` are the columns of the key that are [`LOOSE`].
pub(crate) fn statement(
    target: &TargetTable,
    op: WriteOp,
    columns: &[usize],
    loose: &[String],
) -> Result<Statement> {
    let all = cells(target, op, columns)?;
    match op {
        WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert if target.partial => {
            merge(target, columns, &all, loose)
        }
        WriteOp::Insert | WriteOp::Overwrite | WriteOp::Upsert => {
            upsert(target, columns, &all, loose)
        }
        WriteOp::Update | WriteOp::Patch | WriteOp::Move => update(target, columns, &all, loose),
        WriteOp::Delete => delete(target, columns, &all, loose),
        WriteOp::DeleteAll => Ok(Statement {
            sql: format!("DELETE FROM {}", table(&target.name)),
            types: Vec::new(),
            counts: false,
        }),
    }
}

/// The rows of these keys, as `t`, from `FROM` on; and the parameters' types.
fn of_keys(target: &TargetTable) -> Result<(String, Vec<Type>)> {
    let all = cells(target, WriteOp::Delete, &target.key)?;
    let rows = rows(&all);
    let on: Vec<String> =
        all.iter().zip(&rows.exprs).map(|(c, e)| format!("t.{} = {e}", ident(&c.name))).collect();
    let from =
        format!("FROM {} JOIN {} AS t ON {}", rows.from, table(&target.name), on.join(" AND "));
    Ok((from, rows.types))
}

/// The statement that counts which rows of these keys are there.
pub(crate) fn present(target: &TargetTable) -> Result<Statement> {
    let (from, types) = of_keys(target)?;
    Ok(Statement { sql: format!("SELECT count(*) {from}"), types, counts: true })
}

/// The statement that locks the rows of these keys.
pub(crate) fn lock(target: &TargetTable) -> Result<Statement> {
    let (from, types) = of_keys(target)?;
    Ok(Statement { sql: format!("SELECT {from} FOR UPDATE OF t"), types, counts: false })
}

/// The statement that loads such rows from the client.
pub(crate) fn copy(target: &TargetTable, columns: &[usize], binary: bool) -> Result<String> {
    let names = cells(target, WriteOp::Upsert, columns)?;
    let names: Vec<String> = names.iter().map(|c| ident(&c.name)).collect();
    let format = if binary { " WITH (FORMAT binary)" } else { "" };
    Ok(format!("COPY {} ({}) FROM STDIN{format}", table(&target.name), names.join(", ")))
}

fn upsert(
    target: &TargetTable,
    columns: &[usize],
    all: &[&TargetColumn],
    loose: &[String],
) -> Result<Statement> {
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
    let changed = || {
        let differs = |c: &&TargetColumn| differs(c, &format!("EXCLUDED.{}", ident(&c.name)));
        others.iter().map(differs).collect::<Vec<_>>().join(" OR ")
    };
    let sets: Vec<String> =
        others.iter().map(|c| format!("{0} = EXCLUDED.{0}", ident(&c.name))).collect();
    let action = match (loose.first(), sets.is_empty()) {
        (None, true) => "NOTHING".to_owned(),
        (None, false) if target.suppress_unchanged => {
            format!("UPDATE SET {} WHERE {}", sets.join(", "), changed())
        }
        (None, false) => format!("UPDATE SET {}", sets.join(", ")),
        (Some(first), nothing) => {
            let of = |row: &str, name: &String| format!("{row}.{}", ident(name));
            let same: Vec<String> =
                loose.iter().map(|c| spelt_alike(&of("t", c), &of("EXCLUDED", c))).collect();
            let (sets, then) = match nothing {
                // It is never set.
                true => (format!("{0} = EXCLUDED.{0}", ident(first)), "false".to_owned()),
                false if target.suppress_unchanged => (sets.join(", "), changed()),
                false => (sets.join(", "), "true".to_owned()),
            };
            // A part of the row is in it, so that it is not computed before there is one.
            format!(
                "UPDATE SET {sets} WHERE CASE WHEN {} THEN {then} \
                 ELSE ('{GUARD}' || pg_catalog.left({}::text, 0))::pg_catalog.bool END",
                same.join(" AND "),
                of("t", first)
            )
        }
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

/// Updates the rows that are there and inserts the others. `ON CONFLICT` alone would not do: the server checks the new
/// row's NOT NULL columns before it looks for a conflict. It stays for a row that another session inserts meanwhile. A
/// row that another session deletes meanwhile stays deleted, as if it had been updated before.
fn merge(
    target: &TargetTable,
    columns: &[usize],
    all: &[&TargetColumn],
    loose: &[String],
) -> Result<Statement> {
    let Statement { sql: insert, types, .. } = upsert(target, columns, all, loose)?;
    let rows = rows(all);
    let name = table(&target.name);
    let (mut on, mut sets, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (index, cell)) in columns.iter().zip(all).enumerate() {
        let (cell_name, new) = (ident(&cell.name), format!("n.n{i}"));
        if target.key.contains(index) {
            on.push(matches(cell, &new, loose));
        } else {
            sets.push(format!("{cell_name} = {new}"));
            changed.push(differs(cell, &new));
        }
    }
    let on = on.join(" AND ");
    let news: Vec<String> =
        rows.exprs.iter().enumerate().map(|(i, expr)| format!("{expr} AS n{i}")).collect();
    let mut sql = format!("WITH n AS MATERIALIZED (SELECT {} FROM {})", news.join(", "), rows.from);
    if !sets.is_empty() {
        sql.push_str(&format!(
            ", u AS (UPDATE {name} AS t SET {} FROM n WHERE {on}",
            sets.join(", ")
        ));
        if target.suppress_unchanged {
            sql.push_str(&format!(" AND ({})", changed.join(" OR ")));
        }
        sql.push(')');
    }
    // The insert is that of an ordinary upsert with other rows.
    let source = format!("SELECT {} FROM {} ON CONFLICT", rows.exprs.join(", "), rows.from);
    let cells: Vec<String> = (0..all.len()).map(|i| format!("n.n{i}")).collect();
    let missing = format!(
        "SELECT {} FROM n WHERE NOT EXISTS (SELECT 1 FROM {name} AS t WHERE {on}) ON CONFLICT",
        cells.join(", ")
    );
    sql.push_str(&format!(" {}", insert.replacen(&source, &missing, 1)));
    Ok(Statement { sql, types, counts: false })
}

/// The query that finds values by keys: the number of the key and the value's text, for each row that there is.
pub(crate) fn lookup(target: &LookupTarget) -> Result<Statement> {
    let by: Vec<&TargetColumn> = target.by.iter().collect();
    if by.is_empty() {
        return Err(Error::bug("a lookup by no column"));
    }
    let rows = rows(&by);
    let on: Vec<String> =
        by.iter().zip(&rows.exprs).map(|(c, e)| format!("t.{} = {e}", ident(&c.name))).collect();
    let sql = format!(
        "SELECT s.i, f.v FROM {} CROSS JOIN LATERAL \
         (SELECT {} AS v FROM {} AS t WHERE {} LIMIT 2) f",
        rows.numbered,
        found(&target.result),
        table(&target.table),
        on.join(" AND ")
    );
    Ok(Statement { sql, types: rows.types, counts: false })
}

/// The text that a value's own output function gives, whatever the session's zone and settings are: a point in time
/// as a civil time of UTC, bytes as hex digits. (A cast to text would be another text for truth values and `char`.)
fn found(column: &TargetColumn) -> String {
    let name = format!("t.{}", ident(&column.name));
    match &column.data_type {
        DataType::Bytes { .. } => format!("pg_catalog.encode({name}, 'hex')"),
        DataType::Instant { .. } => format!("({name} AT TIME ZONE 'UTC')::text"),
        _ => format!(
            "CASE WHEN pg_catalog.num_nulls({name}) = 0 THEN pg_catalog.format('%s', {name}) END"
        ),
    }
}

/// The insert of a row that a lookup did not find.
pub(crate) fn insert_missing(target: &LookupTarget) -> Result<Statement> {
    let all: Vec<&TargetColumn> = target.by.iter().chain(&target.with).collect();
    let rows = rows(&all);
    let names = |columns: &[&TargetColumn]| {
        columns.iter().map(|c| ident(&c.name)).collect::<Vec<_>>().join(", ")
    };
    let by: Vec<&TargetColumn> = target.by.iter().collect();
    let overriding =
        if all.iter().any(|c| c.identity_always) { " OVERRIDING SYSTEM VALUE" } else { "" };
    let sql = format!(
        "INSERT INTO {} ({}){overriding} SELECT {} FROM {} ON CONFLICT ({}) DO NOTHING",
        table(&target.table),
        names(&all),
        rows.exprs.join(", "),
        rows.from,
        names(&by),
    );
    Ok(Statement { sql, types: rows.types, counts: false })
}

/// The type of one parameter that is sent for a value of such a column, and the expression that makes it the column's.
pub(crate) fn single(column: &TargetColumn, parameter: &str) -> (Type, String) {
    let (form, cast) = carrier(column);
    let expression = match cast {
        Some(cast) => format!("{parameter}::{cast}"),
        None => parameter.to_owned(),
    };
    (form.types().0, expression)
}

/// Appends the length and the bytes of such a parameter.
pub(crate) fn put_single(value: &Value, column: &TargetColumn, out: &mut BytesMut) -> Result<()> {
    binary::put(carrier(column).0, value, column, out)
}

fn update(
    target: &TargetTable,
    columns: &[usize],
    all: &[&TargetColumn],
    loose: &[String],
) -> Result<Statement> {
    let rows = rows(all);
    let name = table(&target.name);
    let on = |exprs: &[String]| -> Vec<String> {
        all.iter().zip(exprs).skip(columns.len()).map(|(c, expr)| matches(c, expr, loose)).collect()
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

fn delete(
    target: &TargetTable,
    columns: &[usize],
    all: &[&TargetColumn],
    loose: &[String],
) -> Result<Statement> {
    if columns.is_empty() {
        return Err(Error::bug(format!("a delete from {} has no key", target.name)));
    }
    let rows = rows(all);
    let on: Vec<String> = all.iter().zip(&rows.exprs).map(|(c, e)| matches(c, e, loose)).collect();
    let sql = format!(
        "DELETE FROM {} AS t USING {} WHERE {}",
        table(&target.name),
        rows.from,
        on.join(" AND ")
    );
    Ok(Statement { sql, types: rows.types, counts: false })
}

/// A parameter in its binary form: one array.
pub(crate) struct Encoded {
    bytes: BytesMut,
    form: Form,
    rows: i32,
}

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
        out.reserve(20 + self.bytes.len());
        out.put_i32(i32::from(self.rows > 0));
        // Whether there are NULLs among them, which the server finds out by itself.
        out.put_i32(0);
        out.put_u32(self.form.types().0.oid());
        if self.rows > 0 {
            out.put_i32(self.rows);
            out.put_i32(1);
        }
        out.put_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// One array a cell, in one pass over the rows.
pub(crate) fn arrays<'a>(
    rows: impl ExactSizeIterator<Item = &'a [Value]>,
    cells: &[&TargetColumn],
) -> Result<Vec<Encoded>> {
    let places: Vec<usize> = (0..cells.len()).collect();
    arrays_of(rows, cells, &places)
}

/// The same for cells that stand at these places of each row.
pub(crate) fn arrays_of<'a>(
    rows: impl ExactSizeIterator<Item = &'a [Value]>,
    cells: &[&TargetColumn],
    places: &[usize],
) -> Result<Vec<Encoded>> {
    let count = i32::try_from(rows.len()).map_err(|_| Error::bug("a batch is too big"))?;
    let mut arrays: Vec<Encoded> = cells
        .iter()
        .map(|cell| {
            let (form, _) = carrier(cell);
            Encoded { bytes: BytesMut::with_capacity(rows.len() * 12), form, rows: count }
        })
        .collect();
    for row in rows {
        for ((array, cell), place) in arrays.iter_mut().zip(cells).zip(places) {
            let value =
                row.get(*place).ok_or_else(|| Error::bug("a row is shorter than its batch"))?;
            binary::put(array.form, value, cell, &mut array.bytes)?;
        }
    }
    Ok(arrays)
}
