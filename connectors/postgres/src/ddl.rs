//! How PostgreSQL declares a table that takes what another table holds.
//!
//! A built-in type of another PostgreSQL is repeated as that server spells it; the types of users are
//! not, because they need not be here: a domain becomes its base type, an enumeration a type of the same
//! name, which is used if it is there with the same labels and made if not.

use std::collections::{BTreeMap, HashSet};

use tidelock_core::{
    Code, Column, ColumnDefault, Creation, DataType, Dialect, Error, Generated, Index, Literal,
    NewColumn, NewTable, Note, Repertoire, Result, RowIdentity, Table, TableKind, TableName,
    Uncarried,
};

use crate::error::Stage;
use crate::quote::{IDENTIFIER_MAX, ident, literal, table as full};
use crate::session::{CALL_TIMEOUT, Session, get};

/// Most characters of a `varchar`.
const VARCHAR_MAX: u64 = 10_485_760;

/// How one server declares tables.
#[derive(Debug, Clone, Default)]
pub struct PgDialect {
    /// The schemas that are there.
    schemas: HashSet<String>,
    /// The types that are there, with the labels of those that are enumerations. A table is a type too.
    types: BTreeMap<TableName, Option<Vec<String>>>,
}

/// How a column is declared.
struct Declared {
    sql: String,
    data_type: DataType,
    /// The enumeration that must be made first.
    makes: Option<(TableName, Vec<String>)>,
    notes: Vec<String>,
}

impl Declared {
    fn plain(sql: impl Into<String>, data_type: DataType) -> Declared {
        Declared { sql: sql.into(), data_type, makes: None, notes: Vec::new() }
    }

    fn note(mut self, note: impl Into<String>) -> Declared {
        self.notes.push(note.into());
        self
    }
}

/// Asks a server what it knows.
pub(crate) async fn dialect(session: &Session, schemas: &[String]) -> Result<PgDialect> {
    let there = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY($1)";
    let rows = session.query("reading schemas", there, &[&schemas]).await?;
    let schemas_there = rows.iter().map(|r| get(r, 0)).collect::<Result<Vec<String>>>()?;
    let sql = "SELECT n.nspname::text, t.typname::text, t.typtype = 'e', \
               array(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid \
                     ORDER BY e.enumsortorder) \
               FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
               WHERE n.nspname = ANY($1) OR t.typtype = 'e'";
    let mut types = Vec::new();
    for row in &session.query("reading types", sql, &[&schemas]).await? {
        let name = TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?);
        let labels: Vec<String> = get(row, 3)?;
        types.push((name, get::<bool>(row, 2)?.then_some(labels)));
    }
    Ok(PgDialect::new(schemas_there, types))
}

/// Makes a table, and what it needs, in one transaction.
pub(crate) async fn create(session: &Session, creation: &Creation) -> Result<()> {
    let name = &creation.table.name;
    let doing = format!("creating table {name}");
    // Statements of one simple query are one transaction.
    let script = creation.statements.join("\n");
    let call = session.client.batch_execute(&script);
    let Err(error) = session.call(&doing, Stage::Admin, CALL_TIMEOUT, call).await else {
        return Ok(());
    };
    let state = error.detail().unwrap_or_default();
    if ["42P07", "42P06", "42710"].iter().any(|code| state.contains(code)) {
        return Err(Error::setup(
            Code::Catalog,
            format!("{}: it appeared since the plan was made", error.message()),
        )
        .with_hint("look at it; then `tidelock plan` tells what is still missing"));
    }
    if error.code() != Code::Privilege {
        return Err(error);
    }
    let who = "SELECT current_user::text, current_database()::text";
    let Ok(row) = session.query_one("asking for our name", who, &[]).await else {
        return Err(error);
    };
    let (role, database): (String, String) = (get(&row, 0)?, get(&row, 1)?);
    let grant = if creation.makes_schema {
        format!("GRANT CREATE ON DATABASE {} TO {};", ident(&database), ident(&role))
    } else {
        format!("GRANT USAGE, CREATE ON SCHEMA {} TO {};", ident(&name.schema), ident(&role))
    };
    Err(error.with_hint(format!("have a DBA run: {grant}")))
}

impl PgDialect {
    /// The dialect of a server with these schemas and these types, enumerations with their labels.
    pub fn new(
        schemas: impl IntoIterator<Item = String>,
        types: impl IntoIterator<Item = (TableName, Option<Vec<String>>)>,
    ) -> PgDialect {
        PgDialect { schemas: schemas.into_iter().collect(), types: types.into_iter().collect() }
    }

    /// How a column of a table is declared that takes what `column.from` holds.
    fn declare(
        &self,
        table: &TableName,
        column: &NewColumn,
        same_family: bool,
        key: bool,
    ) -> std::result::Result<Declared, String> {
        use DataType as T;
        let from = &column.from;
        let same = from.data_type.clone();
        // A type that no server has spelt comes of an expression.
        let same_family = same_family && !from.native.is_empty();
        if same_family && !is_of_a_user(&from.native) && !matches!(same, T::Unsupported { .. }) {
            if key && from.native == "json" {
                return Err("json cannot be part of a key; jsonb can".to_owned());
            }
            return Ok(Declared::plain(from.native.clone(), same));
        }
        let declared = match &from.data_type {
            T::Bool => Declared::plain("boolean", same),
            T::Int { bits, unsigned } => int(*bits, *unsigned),
            T::Decimal { precision: Some(p), scale } => {
                let s = scale.unwrap_or(0);
                let data_type = T::Decimal { precision: Some(*p), scale: Some(s) };
                Declared::plain(format!("numeric({p},{s})"), data_type)
            }
            T::Decimal { precision: None, .. } => Declared::plain("numeric", same),
            T::Float32 | T::RoundedFloat { double: false, .. } => {
                Declared::plain("real", T::Float32)
            }
            T::Float64 | T::RoundedFloat { double: true, .. } => {
                Declared::plain("double precision", T::Float64)
            }
            T::Text { chars_max, padded, .. } => text(*chars_max, *padded),
            T::Bytes { .. } => Declared::plain("bytea", T::Bytes { bytes_max: None, fixed: None }),
            T::Date => Declared::plain("date", same),
            T::Time { fsp, span: true } => {
                Declared::plain(format!("interval{}", digits(*fsp)), T::Interval { fsp: *fsp })
                    .note("time would do if it only holds times of day")
            }
            T::Time { fsp, span: false } => Declared::plain(format!("time{}", digits(*fsp)), same),
            T::Interval { fsp } => Declared::plain(format!("interval{}", digits(*fsp)), same),
            T::Year => Declared::plain("smallint", T::Int { bits: 16, unsigned: false }),
            T::Set { .. } => text(None, false).note("the labels that are set, with commas between"),
            T::Bits { length: Some(n), varying: false } => {
                Declared::plain(format!("bit({n})"), same)
            }
            T::Bits { length: Some(n), varying: true } => {
                Declared::plain(format!("varbit({n})"), same)
            }
            T::Bits { length: None, .. } => Declared::plain("varbit", same),
            T::Address { .. } => {
                Declared::plain("inet", T::Address { v4: true, v6: true, network: true })
            }
            T::Opaque { name } => {
                Declared::plain("bytea", T::Bytes { bytes_max: None, fixed: None })
                    .note(format!("{name}: its bytes as the source keeps them"))
            }
            T::Native { name, .. } => {
                let element = from.native.trim_end_matches("[]");
                let there = parse_name(element).is_some_and(|n| self.types.contains_key(&n));
                if !same_family || !there {
                    return Err(format!("type {name} is not there; make it first"));
                }
                return Ok(Declared::plain(from.native.clone(), same));
            }
            T::Timestamp { fsp } => Declared::plain(format!("timestamp{}", digits(*fsp)), same),
            T::Instant { fsp, .. } => Declared::plain(
                format!("timestamptz{}", digits(*fsp)),
                T::Instant { fsp: *fsp, narrow: false },
            ),
            T::Uuid => Declared::plain("uuid", same),
            T::Json if key => return Err("json cannot be part of a key; jsonb can".to_owned()),
            // The text stays as it is; jsonb would write it anew.
            T::Json => Declared::plain("json", same),
            T::Enum { labels } => self.labels(table, column, labels, same_family)?,
            T::Unsupported { name } => return Err(format!("type {name} is not carried")),
        };
        Ok(match (&from.data_type, same_family) {
            (T::Enum { .. }, _) | (_, false) => match from.native.to_ascii_lowercase().as_str() {
                "tinyint(1)" => declared.note("boolean would do if it only holds 0 and 1"),
                _ => declared,
            },
            (_, true) => declared
                .note(format!("domain {}: its base type here, without its checks", from.native)),
        })
    }

    /// An enumeration with these labels: one that is there, or one to be made.
    fn labels(
        &self,
        table: &TableName,
        column: &NewColumn,
        labels: &[String],
        same_family: bool,
    ) -> std::result::Result<Declared, String> {
        let data_type = |labels: &[String]| DataType::Enum { labels: labels.to_vec().into() };
        let holds = |there: &Vec<String>| labels.iter().all(|l| there.contains(l));
        if labels.iter().any(|l| IDENTIFIER_MAX.excess(l).is_some()) {
            return Ok(
                text(None, false).note("a text here: a label of an enum has at most 63 bytes")
            );
        }
        let used =
            |name: &TableName, there: &[String]| Declared::plain(full(name), data_type(there));
        let makes = |name: TableName| Declared {
            makes: Some((name.clone(), labels.to_vec())),
            ..Declared::plain(full(&name), data_type(labels))
        };
        if let Some(name) = parse_name(&column.from.native).filter(|_| same_family) {
            let own = TableName::new(&table.schema, &name.name);
            for name in [&name, &own] {
                match self.types.get(name) {
                    Some(Some(there)) if holds(there) => return Ok(used(name, there)),
                    Some(Some(there)) => {
                        let lacks = labels.iter().find(|l| !there.contains(l));
                        return Err(format!(
                            "type {name} is there but lacks the label {}; ALTER TYPE {} ADD VALUE adds it",
                            literal(lacks.map_or("", String::as_str)),
                            full(name)
                        ));
                    }
                    Some(None) | None => {}
                }
            }
            if !self.types.contains_key(&own) {
                return Ok(makes(own));
            }
        }
        let plain = format!("{}_{}", table.name, column.name);
        for n in 0..1000 {
            let tail = if n == 0 { String::new() } else { format!("_{n}") };
            let mut stem = plain.clone();
            while stem.len() + tail.len() > 63 {
                stem.pop();
            }
            let name = TableName::new(&table.schema, format!("{stem}{tail}"));
            match self.types.get(&name) {
                None => return Ok(makes(name)),
                Some(Some(there)) if there == labels => return Ok(used(&name, there)),
                Some(_) => {}
            }
        }
        Err(format!("no name for its enumeration is free in schema {}", table.schema))
    }
}

impl Dialect for PgDialect {
    fn boxed(&self) -> Box<dyn Dialect> {
        Box::new(self.clone())
    }

    fn create_table(&mut self, table: &NewTable) -> std::result::Result<Creation, Vec<Uncarried>> {
        let mut refused = Vec::new();
        if let Some(excess) = IDENTIFIER_MAX.excess(&table.name.name) {
            refused.push(Uncarried { column: None, why: format!("its name is {excess}") });
        }
        if self.types.contains_key(&table.name) {
            let why = "a type or a hidden table of this name is there".to_owned();
            refused.push(Uncarried { column: None, why });
        }
        let mut after = self.clone();
        let makes_schema = after.schemas.insert(table.name.schema.clone());
        // The table will be a type as well.
        after.types.insert(table.name.clone(), None);
        let (mut statements, mut notes, mut lines, mut columns) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        if makes_schema {
            statements.push(format!("CREATE SCHEMA {};", ident(&table.name.schema)));
        }
        for column in &table.columns {
            let key = table.key.contains(&column.name);
            let long = IDENTIFIER_MAX.excess(&column.name).map(|e| format!("its name is {e}"));
            let declared = match long {
                Some(why) => Err(why),
                None => after.declare(&table.name, column, table.same_family, key),
            };
            let declared = match declared {
                Ok(declared) => declared,
                Err(why) => {
                    refused.push(Uncarried { column: Some(column.name.clone()), why });
                    continue;
                }
            };
            statements.extend(after.make(&declared));
            let nullable = column.from.nullable && !key;
            let null = if nullable { "" } else { " NOT NULL" };
            let default = default(&column.from, &declared.data_type);
            let words = default.as_ref().map(|d| format!(" DEFAULT {}", d.native));
            lines.push(format!(
                "{} {}{null}{}",
                ident(&column.name),
                declared.sql,
                words.unwrap_or_default()
            ));
            let note = |text| Note { column: column.name.clone(), text };
            notes.extend(declared.notes.into_iter().map(note));
            columns.push(Column {
                name: column.name.clone(),
                data_type: declared.data_type,
                native: declared.sql,
                nullable,
                has_default: default.is_some(),
                generated: Generated::No,
                default,
                collation: None,
                logged: true,
            });
        }
        if !refused.is_empty() {
            return Err(refused);
        }
        *self = after;
        let key: Vec<String> = table.key.iter().map(|c| ident(c)).collect();
        lines.push(format!("PRIMARY KEY ({})", key.join(", ")));
        statements.push(format!(
            "CREATE TABLE {} (\n    {}\n);",
            full(&table.name),
            lines.join(",\n    ")
        ));
        Ok(Creation {
            statements,
            makes_schema,
            notes,
            table: Table {
                name: table.name.clone(),
                kind: TableKind::Table,
                columns,
                unique_indexes: vec![Index {
                    name: "primary key".to_owned(),
                    columns: table.key.clone(),
                    primary: true,
                    immediate: true,
                    not_null: true,
                }],
                identity: RowIdentity::Columns(table.key.clone()),
                references: Vec::new(),
                triggers: false,
                refusals: Vec::new(),
            },
        })
    }

    fn add_column(
        &mut self,
        table: &TableName,
        column: &NewColumn,
        same_family: bool,
    ) -> std::result::Result<(Vec<String>, Vec<Note>), Uncarried> {
        let refused = |why| Uncarried { column: Some(column.name.clone()), why };
        if let Some(excess) = IDENTIFIER_MAX.excess(&column.name) {
            return Err(refused(format!("its name is {excess}")));
        }
        let declared = self.declare(table, column, same_family, false).map_err(refused)?;
        let mut statements: Vec<String> = self.make(&declared).into_iter().collect();
        statements.push(format!(
            "ALTER TABLE {} ADD COLUMN {} {};",
            full(table),
            ident(&column.name),
            declared.sql
        ));
        let note = |text| Note { column: column.name.clone(), text };
        Ok((statements, declared.notes.into_iter().map(note).collect()))
    }
}

impl PgDialect {
    /// The statement that makes a column's enumeration, which is there from now on.
    fn make(&mut self, declared: &Declared) -> Option<String> {
        let (name, labels) = declared.makes.as_ref()?;
        self.types.insert(name.clone(), Some(labels.clone()));
        let list: Vec<String> = labels.iter().map(|l| literal(l)).collect();
        Some(format!("CREATE TYPE {} AS ENUM ({});", full(name), list.join(", ")))
    }
}

/// A default that means here what it means at the source.
fn default(from: &Column, to: &DataType) -> Option<ColumnDefault> {
    let native = match Literal::of(from, to)? {
        Literal::Number(number) => number,
        Literal::Text(text) => literal(&text),
        Literal::Truth(truth) => truth.to_string(),
    };
    let literal = from.default.as_ref().and_then(|d| d.literal.clone());
    Some(ColumnDefault { native, literal })
}

/// The smallest integer that holds all of another's range.
fn int(bits: u8, unsigned: bool) -> Declared {
    let signed = |bits| DataType::Int { bits, unsigned: false };
    match (bits, unsigned) {
        (0..=16, false) | (0..=8, true) => Declared::plain("smallint", signed(16)),
        (17..=32, false) | (9..=24, true) => Declared::plain("integer", signed(32)),
        (_, false) | (25..=32, true) => Declared::plain("bigint", signed(64)),
        (_, true) => Declared::plain(
            "numeric(20,0)",
            DataType::Decimal { precision: Some(20), scale: Some(0) },
        ),
    }
}

fn text(chars_max: Option<u64>, padded: bool) -> Declared {
    let data_type = |chars_max: Option<u64>| DataType::Text {
        chars_max,
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: padded && chars_max.is_some(),
    };
    match chars_max {
        Some(n) if (1..=VARCHAR_MAX).contains(&n) => {
            let word = if padded { "char" } else { "varchar" };
            Declared::plain(format!("{word}({n})"), data_type(Some(n)))
        }
        _ => Declared::plain("text", data_type(None)),
    }
}

/// Digits after the second; six need no words.
fn digits(fsp: u8) -> String {
    if fsp >= 6 { String::new() } else { format!("({fsp})") }
}

/// Whether a type is none of the server's own: those alone are written without a schema.
fn is_of_a_user(native: &str) -> bool {
    parse_name(native).is_some()
}

/// The parts of `schema.name`, either in double quotes where it is odd.
fn parse_name(native: &str) -> Option<TableName> {
    let (schema, rest) = part(native)?;
    let (name, rest) = part(rest.strip_prefix('.')?)?;
    rest.is_empty().then(|| TableName::new(schema, name))
}

/// A name at the beginning of a text, and what follows it.
fn part(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find(['.', '"', '(']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = inner;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_users_are_told_by_their_schema() {
        assert_eq!(parse_name("sale.state"), Some(TableName::new("sale", "state")));
        assert_eq!(parse_name("\"A.b\"\"c\".\"d e\""), Some(TableName::new("A.b\"c", "d e")));
        for native in ["numeric(12,2)", "\"char\"", "timestamp(3) without time zone", "integer[]"] {
            assert_eq!(parse_name(native), None, "{native}");
        }
    }
}
