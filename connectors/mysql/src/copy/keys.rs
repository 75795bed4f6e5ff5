//! Reading rows of tables and views by keys, and the keys that a track's query gives.
//!
//! **The statement.** Keys stand in one `IN` list of literals (of rows of literals, if the key has several columns):
//! the servers find its values in an index, and put the condition into the query of a view, below a `GROUP BY` too.
//! MariaDB makes a table of a list of a thousand or more by default and then joins it, whose plan depends on
//! more, so that is switched off here; MySQL gives up the index where its range would take more than a few MB
//! of memory, so that limit is off. It is one statement, because two could both find a row whose key the collation
//! holds equal to two of the keys.
//!
//! Where one of several columns is a text that is not stored in UTF-8, MariaDB finds wrong rows for a list of rows
//! (it orders the list in one character set and searches it in the other). There each key is a comparison
//! of its own; that takes the servers time that grows faster than the keys, so they are fewer at once.
//!
//! **Types.** A value is brought into its column's own type before it is compared ([`mod@tidelock_core::alike`]): a
//! number compared with a text would find every text that begins with it. Texts are literals, so the column's
//! collation decides.
//!
//! **What may change meanwhile.** What the columns are is looked at before they are first read, and behind each
//! answer: the snapshot's locks keep it as it is from then on. If it is what it was, the rows were decoded as what
//! they are; if not, the answer is an error that passes.

use std::collections::HashSet;
use std::fmt::Write;

use mysql_async::Column;
use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::prelude::Queryable;
use tidelock_core::alike::sample;
use tidelock_core::{
    Code, CopyTable, DataType, Error, Finding, Key, Piece, QueryColumn, Repertoire, Result, Row,
    TableName, TrackQuery, Value, form,
};

use super::cell::{Packer, value};
use super::sql::{Compared, condition, enclosed, list, selected};
use super::{MySqlCopier, Shape, table};
use crate::charset::Charset;
use crate::error;
use crate::session::{Session, quote, within};

/// How long a statement may be: servers take one of 4 MB or more as they come.
const STATEMENT_BYTES: usize = 3 << 20;
/// Keys at once where each is a comparison of its own.
const KEYS_APART: usize = 1000;
/// The character set of what is no text.
const BINARY: u16 = 63;
/// Rows from which on reading a whole table is told: for one key (below, it takes about a millisecond), and for a
/// thousand keys (below, it may well be the best of the plans).
const WHOLE: [u64; 2] = [10_000, 200_000];
/// How long a key to ask with may be looked for, in seconds.
const SAMPLE_SECONDS: u64 = 2;

/// What the server says of a column of an answer.
struct Told {
    kind: ColumnType,
    flags: ColumnFlags,
    charset: u16,
    length: u32,
    decimals: u8,
}

impl Told {
    fn of(column: &Column) -> Told {
        Told {
            kind: column.column_type(),
            flags: column.flags(),
            charset: column.character_set(),
            length: column.column_length(),
            decimals: column.decimals(),
        }
    }

    /// The type, as far as an answer tells it: an enum, a UUID or (on MariaDB) a document is a text here.
    fn data_type(&self) -> DataType {
        use ColumnType as T;
        let int = |bits| DataType::Int {
            bits,
            unsigned: self.flags.contains(ColumnFlags::UNSIGNED_FLAG),
        };
        let fsp = if self.decimals > 6 { 0 } else { self.decimals };
        match self.kind {
            T::MYSQL_TYPE_TINY => int(8),
            T::MYSQL_TYPE_SHORT => int(16),
            T::MYSQL_TYPE_INT24 => int(24),
            T::MYSQL_TYPE_LONG => int(32),
            T::MYSQL_TYPE_LONGLONG => int(64),
            T::MYSQL_TYPE_YEAR => DataType::Year,
            T::MYSQL_TYPE_DECIMAL | T::MYSQL_TYPE_NEWDECIMAL => {
                DataType::Decimal { precision: None, scale: None }
            }
            T::MYSQL_TYPE_FLOAT => DataType::Float32,
            T::MYSQL_TYPE_DOUBLE => DataType::Float64,
            T::MYSQL_TYPE_DATE | T::MYSQL_TYPE_NEWDATE => DataType::Date,
            T::MYSQL_TYPE_TIME | T::MYSQL_TYPE_TIME2 => DataType::Time { fsp, span: true },
            T::MYSQL_TYPE_DATETIME | T::MYSQL_TYPE_DATETIME2 => DataType::Timestamp { fsp },
            T::MYSQL_TYPE_TIMESTAMP | T::MYSQL_TYPE_TIMESTAMP2 => {
                DataType::Instant { fsp, narrow: true }
            }
            T::MYSQL_TYPE_BIT => {
                DataType::Bits { length: Some(u64::from(self.length)), varying: false }
            }
            T::MYSQL_TYPE_JSON => DataType::Json,
            T::MYSQL_TYPE_GEOMETRY => DataType::Opaque { name: "geometry".to_owned() },
            _ if self.charset == BINARY
                && !self.flags.intersects(ColumnFlags::ENUM_FLAG | ColumnFlags::SET_FLAG) =>
            {
                DataType::Bytes { bytes_max: Some(u64::from(self.length)), fixed: None }
            }
            _ => DataType::Text {
                chars_max: None,
                bytes_max: None,
                repertoire: Repertoire::Unicode,
                padded: false,
            },
        }
    }
}

impl MySqlCopier {
    pub(super) async fn by_keys(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
        keys: &[Key],
        bytes_max: usize,
    ) -> Result<Piece> {
        if !self.open {
            return Err(Error::bug("rows are read by keys without a snapshot"));
        }
        let (shape, compared) = self.keyed(wanted, by).await?;
        let (mut rows, mut bytes, mut cut) = (Vec::new(), 0, false);
        if let Some(test) = condition(wanted, by, &compared, keys)? {
            let sql = selected(wanted, &shape, &test);
            cut = keys.len() > 1
                && (sql.len() > STATEMENT_BYTES || compared.apart && keys.len() > KEYS_APART);
            if !cut {
                let types = self.types(&shape, &wanted.columns)?;
                let what = wanted.name.to_string();
                let mut packer = Packer::default();
                let mut fault = None;
                self.answer(&format!("reading {what} by key"), &sql, |row| {
                    // Once cut, the rest of the answer is read and dropped: the session stays usable.
                    if cut || fault.is_some() {
                        return Ok(());
                    }
                    match cells(&what, &types, row, &mut packer) {
                        Ok(cells) => {
                            let row = Row(cells);
                            bytes += row.bytes();
                            rows.push(row);
                            cut = bytes >= bytes_max;
                        }
                        // Told only if the columns are still what they were.
                        Err(error) => fault = Some(error),
                    }
                    Ok(())
                })
                .await?;
                let now = self.look(&wanted.name).await?;
                if self.looks.get(&wanted.name) != Some(&now) {
                    let says = format!("the columns of {what} have changed");
                    return Err(Error::transient(Code::SchemaDrift, says));
                }
                if let Some(fault) = fault {
                    return Err(fault);
                }
            }
            if cut {
                self.end_snapshot().await?;
            }
        }
        Ok(Piece { table: shape.table, rows, lines: None, bytes, cut })
    }

    /// What the columns of a table or view are now.
    async fn look(&mut self, name: &TableName) -> Result<String> {
        let place = format!("{}: looking at the columns of {name}", self.session.place);
        let sql = format!("SHOW FULL COLUMNS FROM {}", table(name));
        let columns = self.session.conn.query::<mysql_async::Row, _>(sql);
        let columns = within_reading(crate::session::STATEMENT, &place, columns).await?;
        let mut look = String::new();
        for column in &columns {
            // Name, type and collation.
            for i in 0..3 {
                let told: Option<String> = column.get_opt(i).and_then(std::result::Result::ok);
                let told = told.unwrap_or_default();
                // Writing to a String cannot fail.
                let _written = write!(look, "{}:{told}", told.len());
            }
        }
        Ok(look)
    }

    /// The columns that are read, and what is known of those that keys are compared with.
    async fn keyed(&mut self, wanted: &CopyTable, by: &[String]) -> Result<(Shape, Compared)> {
        if !self.looks.contains_key(&wanted.name) {
            self.shapes.retain(|(name, _), _| *name != wanted.name);
            let look = self.look(&wanted.name).await?;
            self.looks.insert(wanted.name.clone(), look);
        }
        let shape = self.shape(wanted).await?;
        let keys = CopyTable { columns: by.to_vec(), ..wanted.clone() };
        let keys = self.shape(&keys).await?;
        let types: Vec<DataType> = keys.table.columns.iter().map(|c| c.data_type.clone()).collect();
        let without = |t: &DataType| matches!(t, DataType::Json | DataType::Opaque { .. });
        if let Some((name, _)) = by.iter().zip(&types).find(|(_, t)| without(t)) {
            let says = format!("{}.{name}: rows cannot be looked up by such a value", wanted.name);
            return Err(Error::data(Code::Catalog, says)
                .with_hint("give the view a key of a number, a text or a uuid"));
        }
        let apart = by.len() > 1 && by.iter().any(|name| keys.other.contains(name));
        let each = by.len() > 1 && !apart && !self.session.maria();
        Ok((shape, Compared { types, apart, each }))
    }

    /// The rows of a query with its values spelled out, each handed to `take`.
    pub(super) async fn answer(
        &mut self,
        doing: &str,
        sql: &str,
        mut take: impl FnMut(mysql_async::Row) -> Result<()>,
    ) -> Result<()> {
        let place = format!("{}: {doing}", self.session.place);
        let limit = super::SILENCE;
        let prepared = within_reading(limit, &place, self.session.conn.prep(sql)).await?;
        if prepared.num_params() > 0 {
            let says = format!("{doing}: it holds a ?, and there is no value for it");
            return Err(Error::data(Code::Rejected, says)
                .with_hint("a parameter is written as :column, in a track's query only"));
        }
        let rows = self.session.conn.exec_stream::<mysql_async::Row, _, _>(&prepared, ());
        let mut rows = within_reading(limit, &place, rows).await?;
        while let Some(row) = super::next(&mut rows, &place).await? {
            take(row.map_err(|e| error::map_reading(&place, e))?)?;
        }
        drop(rows);
        // It is asked once, and the session would keep it.
        within(limit, &place, self.session.conn.close(prepared)).await
    }

    pub(super) async fn tracked(
        &mut self,
        query: &TrackQuery,
        values: &[(String, DataType, Vec<Value>)],
    ) -> Result<Vec<Key>> {
        if !self.open {
            return Err(Error::bug("a track's query is asked without a snapshot"));
        }
        let sql = query.expand(|name| {
            values
                .iter()
                .find(|(column, ..)| column == name)
                .ok_or_else(|| Error::bug(format!("no values for the parameter :{name}")))
                .and_then(|(_, data_type, values)| list(data_type, values))
        })?;
        self.choose_database().await?;
        let mut types: Vec<(DataType, Option<Charset>)> = Vec::new();
        let (mut keys, mut seen) = (Vec::new(), HashSet::new());
        let mut packer = Packer::default();
        self.answer("reading the keys of a track's query", &enclosed(&sql), |row| {
            if types.is_empty() {
                let told = row.columns_ref().iter().map(|c| (Told::of(c).data_type(), None));
                types = told.collect();
            }
            let key = cells("a track's query", &types, row, &mut packer)?;
            if !key.iter().any(Value::is_null) && seen.insert(written(&key)) {
                keys.push(key);
            }
            Ok(())
        })
        .await?;
        Ok(keys)
    }

    /// Names without a database are those of the system's own, as in a mapping.
    async fn choose_database(&mut self) -> Result<()> {
        let sql = format!("USE {}", quote(&self.database));
        self.session.run(&sql).await
    }

    /// The columns that a track's query gives.
    pub(crate) async fn described(
        &mut self,
        query: &TrackQuery,
        values: &[(String, DataType)],
    ) -> Result<Vec<QueryColumn>> {
        let sql = query.expand(|name| {
            let found = values.iter().find(|(column, _)| column == name);
            found
                .ok_or_else(|| Error::bug(format!("no type for the parameter :{name}")))
                .and_then(|(_, data_type)| list(data_type, &[]))
        })?;
        self.choose_database().await?;
        let place = format!("{}: looking at a track's query", self.session.place);
        let prepared = self.session.conn.prep(enclosed(&sql));
        let late = || Error::transient(Code::ServerBusy, format!("{place}: no answer in time"));
        let prepared = tokio::time::timeout(crate::session::STATEMENT, prepared).await;
        let prepared = prepared.map_err(|_| late())?.map_err(|e| error::map_refusal(&place, e))?;
        if prepared.num_params() > 0 {
            let says = format!("{place}: it holds a ?; a parameter is written as :column");
            return Err(Error::data(Code::Catalog, says));
        }
        let column = |c: &Column| QueryColumn {
            name: c.name_str().into_owned(),
            data_type: Told::of(c).data_type(),
        };
        Ok(prepared.columns().iter().map(column).collect())
    }

    /// What the server would read as a whole.
    pub(crate) async fn explained(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
    ) -> Result<Vec<Finding>> {
        let (shape, compared) = self.keyed(wanted, by).await?;
        let made = |count: u32| -> Option<Vec<Key>> {
            (0..count).map(|i| compared.types.iter().map(|t| sample(t, i)).collect()).collect()
        };
        // Of a key that is not there the server finds that out while it plans, and tells no plan.
        let one = match self.present_key(wanted, by, &compared.types).await {
            Some(key) => Some(vec![key]),
            None => made(2),
        };
        let mut whole: Vec<(String, u64, Vec<&str>)> = Vec::new();
        let [least, most] = WHOLE;
        for (keys, words, least) in [(one, "one key", least), (made(1000), "a thousand keys", most)]
        {
            let Some(keys) = keys else { continue };
            let Some(test) = condition(wanted, by, &compared, &keys)? else { continue };
            let sql = format!("EXPLAIN FORMAT=TRADITIONAL {}", selected(wanted, &shape, &test));
            let place = format!("{}: explaining {}", self.session.place, wanted.name);
            let plan = self.session.conn.query::<mysql_async::Row, _>(sql);
            for (name, rows) in within_reading(crate::session::STATEMENT, &place, plan)
                .await?
                .iter()
                .filter_map(scanned)
                .filter(|(_, rows)| *rows >= least)
            {
                match whole.iter_mut().find(|(known, ..)| *known == name) {
                    Some((_, most, seen)) => {
                        *most = rows.max(*most);
                        if !seen.contains(&words) {
                            seen.push(words);
                        }
                    }
                    None => whole.push((name, rows, vec![words])),
                }
            }
        }
        let by = by.join(", ");
        let finding = |(name, rows, words): (String, u64, Vec<&str>)| {
            Finding::warning(format!(
                "{}: to read {} again by ({by}), the server reads all of {name}, about {rows} rows",
                wanted.name,
                words.join(" or ")
            ))
            .hint(
                "it is called so in the view's own query: index its column that leads to the key; where there is an \
                 index, the condition on the key does not reach the table: LIMIT, DISTINCT, UNION, a window \
                 function or an expression as the key stand in its way (ALGORITHM = MERGE helps where it can)",
            )
        };
        Ok(whole.into_iter().map(finding).collect())
    }

    /// A key that is there, if one is found soon.
    async fn present_key(
        &mut self,
        wanted: &CopyTable,
        by: &[String],
        types: &[DataType],
    ) -> Option<Key> {
        let columns = by.iter().map(|c| quote(c)).collect::<Vec<_>>();
        let (columns, from) = (columns.join(", "), table(&wanted.name));
        let sql = match self.session.maria() {
            true => format!(
                "SET STATEMENT max_statement_time = {SAMPLE_SECONDS} FOR SELECT {columns} FROM {from} LIMIT 1"
            ),
            false => format!(
                "SELECT /*+ MAX_EXECUTION_TIME({}) */ {columns} FROM {from} LIMIT 1",
                SAMPLE_SECONDS * 1000
            ),
        };
        let row: mysql_async::Row = self.session.rows(&sql, ()).await.ok()?.into_iter().next()?;
        let types: Vec<_> = types.iter().map(|t| (t.clone(), None)).collect();
        let key = cells("a view", &types, row, &mut Packer::default()).ok()?;
        (!key.iter().any(Value::is_null)).then_some(key)
    }
}

/// Makes a session plan lists of keys by their indexes.
pub(super) async fn settle(session: &mut Session) -> Result<()> {
    match session.maria() {
        true => session.run("SET SESSION in_predicate_conversion_threshold = 0").await,
        false => session.run("SET SESSION range_optimizer_max_mem_size = 0").await,
    }
}

/// Awaits a call that runs a view's or a track's own SQL.
async fn within_reading<T>(
    limit: std::time::Duration,
    place: &str,
    call: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|e| error::map_reading(place, e)),
        Err(_) => {
            let says = format!("{place}: no answer within {} s", limit.as_secs());
            Err(Error::transient(Code::ServerBusy, says))
        }
    }
}

/// The cells of a row in canonical form.
fn cells(
    what: &str,
    types: &[(DataType, Option<Charset>)],
    row: mysql_async::Row,
    packer: &mut Packer,
) -> Result<Box<[Value]>> {
    row.unwrap()
        .into_iter()
        .zip(types)
        .enumerate()
        .map(|(i, (cell, (data_type, raw)))| {
            value(data_type, raw.as_ref(), cell, packer).ok_or_else(|| {
                let says = format!("a value of column {} of {what} is not of its type", i + 1);
                Error::data(Code::DamagedEvent, says)
            })
        })
        .collect()
}

/// A key as a text that only an equal key has, among keys of the same types.
fn written(key: &[Value]) -> String {
    let mut out = String::new();
    for value in key {
        let text = form::text(value).unwrap_or_default();
        // Writing to a String cannot fail.
        let _written = write!(out, "{}:{text}", text.len());
    }
    out
}

/// The table that a line of a plan reads as a whole, by the name that the query gives it, and its rows.
fn scanned(line: &mysql_async::Row) -> Option<(String, u64)> {
    let at = |name: &str| line.columns_ref().iter().position(|c| c.name_str() == name);
    let text = |name: &str| -> Option<String> { line.get_opt(at(name)?)?.ok()? };
    let how = text("type")?;
    let name = text("table")?;
    // What the server has made itself has the size of what went into it.
    if !matches!(how.as_str(), "ALL" | "index") || name.starts_with('<') {
        return None;
    }
    let rows: Option<u64> = line.get_opt(at("rows")?)?.ok()?;
    Some((name, rows?))
}
