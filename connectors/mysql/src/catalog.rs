//! The catalog from `information_schema`, and the type table.

use std::collections::HashMap;
use std::sync::Arc;

use mysql_async::Row;
use mysql_async::prelude::FromValue;
use tidelock_core::{
    Column, ColumnDefault, DataType, Error, Generated, Index, Reference, Result, RowIdentity,
    Table, TableKind, TableName,
};

use crate::charset::Charset;
use crate::session::{Flavour, Session, literal};

/// A table with what the decoder needs besides.
#[derive(Debug, Clone)]
pub(crate) struct CatalogTable {
    pub table: Table,
    /// Character set of each column, if it has one.
    pub charsets: Vec<Option<Charset>>,
    /// When its definition was last changed, in seconds since 1970 by the server's clock, where the server tells.
    pub changed: Option<i64>,
}

pub(crate) fn cell<T: FromValue>(row: &Row, i: usize) -> Result<T> {
    row.get_opt::<T, _>(i).and_then(std::result::Result::ok).ok_or_else(|| {
        Error::bug(format!("information_schema gave an unexpected type in column {i}"))
    })
}

/// Reads the tables of these schemas, tidelock's own left out unless `meta` is `None`.
pub(crate) async fn read(
    session: &mut Session,
    schemas: &[String],
    meta: Option<&str>,
) -> Result<Vec<CatalogTable>> {
    if schemas.is_empty() {
        return Ok(Vec::new());
    }
    let list = schemas.iter().map(|s| literal(s)).collect::<Vec<_>>().join(",");
    let full_image =
        session.setting("binlog_row_image").await?.is_none_or(|v| v.eq_ignore_ascii_case("FULL"));
    let tables: Vec<Row> = session
        .query(&format!(
            "SELECT table_schema, table_name, table_type, COALESCE(engine, ''), \
             CAST(UNIX_TIMESTAMP(create_time) AS SIGNED) \
             FROM information_schema.tables WHERE table_schema IN ({list}) ORDER BY 1, 2"
        ))
        .await?;
    let mut found: Vec<CatalogTable> = Vec::new();
    let mut at: HashMap<(String, String), usize> = HashMap::new();
    for row in &tables {
        let (schema, name): (String, String) = (cell(row, 0)?, cell(row, 1)?);
        if meta == Some(schema.as_str()) {
            continue;
        }
        let (kind, engine): (String, String) = (cell(row, 2)?, cell(row, 3)?);
        at.insert((schema.clone(), name.clone()), found.len());
        found.push(CatalogTable {
            table: Table {
                name: TableName::new(schema, name),
                kind: match kind.as_str() {
                    "BASE TABLE" | "SYSTEM VERSIONED" => TableKind::Table,
                    "VIEW" | "SYSTEM VIEW" => TableKind::View,
                    _ => TableKind::Other,
                },
                columns: Vec::new(),
                unique_indexes: Vec::new(),
                identity: RowIdentity::Full,
                references: Vec::new(),
                triggers: false,
                refusals: refusals(&kind, &engine),
            },
            charsets: Vec::new(),
            changed: cell(row, 4)?,
        });
    }
    read_columns(session, &list, &mut found, &at).await?;
    read_indexes(session, &list, &mut found, &at).await?;
    read_references(session, &list, &mut found, &at).await?;
    read_triggers(session, &list, &mut found, &at).await?;
    if !full_image {
        for t in &mut found {
            t.table.identity = match t.table.primary_key() {
                Some(key) => RowIdentity::Columns(key.to_vec()),
                None => RowIdentity::Full,
            };
        }
    }
    Ok(found)
}

fn refusals(kind: &str, engine: &str) -> Vec<String> {
    let mut list = Vec::new();
    if kind == "SYSTEM VERSIONED" {
        list.push("it is system-versioned: its log does not tell deletes from history".to_owned());
    }
    if kind == "BASE TABLE" && !engine.eq_ignore_ascii_case("InnoDB") {
        list.push(format!("engine {engine} has no transactions; ALTER TABLE … ENGINE=InnoDB"));
    }
    list
}

async fn read_columns(
    session: &mut Session,
    list: &str,
    found: &mut [CatalogTable],
    at: &HashMap<(String, String), usize>,
) -> Result<()> {
    let rows: Vec<Row> = session
        .query(&format!(
            "SELECT table_schema, table_name, column_name, data_type, column_type, \
             is_nullable = 'YES', column_default IS NOT NULL, extra, \
             character_maximum_length, character_octet_length, numeric_precision, numeric_scale, \
             datetime_precision, character_set_name, column_default, collation_name \
             FROM information_schema.columns \
             WHERE table_schema IN ({list}) ORDER BY 1, 2, ordinal_position"
        ))
        .await?;
    let json = json_checks(session, list).await?;
    let mut charsets: HashMap<String, Charset> = HashMap::new();
    for row in &rows {
        if let Some(name) = cell::<Option<String>>(row, 13)?
            && !charsets.contains_key(&name)
        {
            let charset = Charset::load(session, &name).await?;
            charsets.insert(name, charset);
        }
    }
    for row in &rows {
        let key: (String, String) = (cell(row, 0)?, cell(row, 1)?);
        let Some(table) = at.get(&key).and_then(|i| found.get_mut(*i)) else { continue };
        let name: String = cell(row, 2)?;
        let facts = Facts {
            data_type: cell::<String>(row, 3)?.to_ascii_lowercase(),
            column_type: cell(row, 4)?,
            chars: cell(row, 8)?,
            octets: cell(row, 9)?,
            precision: cell(row, 10)?,
            scale: cell(row, 11)?,
            fsp: cell(row, 12)?,
            charset: cell::<Option<String>>(row, 13)?.and_then(|name| charsets.get(&name).cloned()),
            json: json.contains(&(key.0, key.1, name.to_ascii_lowercase())),
        };
        let extra = cell::<String>(row, 7)?.to_ascii_lowercase();
        let generated = if extra.contains("virtual generated") || extra.contains("stored generated")
        {
            Generated::Always
        } else if extra.contains("auto_increment") {
            Generated::IdentityByDefault
        } else {
            Generated::No
        };
        let nullable: bool = cell(row, 5)?;
        table.table.columns.push(Column {
            name,
            data_type: facts.data_type(session.flavour),
            native: facts.column_type.clone(),
            nullable,
            has_default: cell(row, 6)? || nullable || generated != Generated::No,
            generated,
            // MariaDB writes the default of a column without one as the text NULL.
            default: cell::<Option<String>>(row, 14)?
                .filter(|d| !d.eq_ignore_ascii_case("NULL"))
                .map(|native| ColumnDefault {
                    literal: match session.flavour {
                        Flavour::MariaDb => literal_of(&native),
                        // MySQL writes values bare, and says so of expressions.
                        Flavour::MySql => {
                            (!extra.contains("default_generated")).then(|| native.clone())
                        }
                    },
                    native,
                }),
            collation: cell(row, 15)?,
            // MariaDB leaves what it computes out of the row images of updates (11.8 does, 10.11 does not).
            logged: generated != Generated::Always || session.flavour == Flavour::MySql,
        });
        table.charsets.push(facts.charset);
    }
    Ok(())
}

/// MariaDB keeps JSON as LONGTEXT with a check `json_valid(column)` of the column's own name.
async fn json_checks(
    session: &mut Session,
    list: &str,
) -> Result<std::collections::HashSet<(String, String, String)>> {
    if !session.maria() {
        return Ok(Default::default());
    }
    let rows: Vec<(String, String, String, String)> = session
        .query(&format!(
            "SELECT constraint_schema, table_name, constraint_name, check_clause \
             FROM information_schema.check_constraints WHERE constraint_schema IN ({list})"
        ))
        .await?;
    Ok(rows
        .into_iter()
        .filter(|(_, _, name, clause)| {
            clause.eq_ignore_ascii_case(&format!("json_valid(`{name}`)"))
        })
        .map(|(s, t, c, _)| (s, t, c.to_ascii_lowercase()))
        .collect())
}

async fn read_indexes(
    session: &mut Session,
    list: &str,
    found: &mut [CatalogTable],
    at: &HashMap<(String, String), usize>,
) -> Result<()> {
    let rows: Vec<Row> = session
        .query(&format!(
            "SELECT table_schema, table_name, index_name, column_name, sub_part IS NOT NULL \
             FROM information_schema.statistics WHERE table_schema IN ({list}) AND non_unique = 0 \
             ORDER BY table_schema, table_name, index_name <> 'PRIMARY', index_name, seq_in_index"
        ))
        .await?;
    // Indexes over a prefix or an expression do not keep whole values apart.
    let mut partial: Vec<(usize, String)> = Vec::new();
    for row in &rows {
        let key: (String, String) = (cell(row, 0)?, cell(row, 1)?);
        let Some(&i) = at.get(&key) else { continue };
        let Some(table) = found.get_mut(i).map(|t| &mut t.table) else { continue };
        let (index, column): (String, Option<String>) = (cell(row, 2)?, cell(row, 3)?);
        let whole = !cell::<bool>(row, 4)?;
        let (Some(column), true) = (column, whole) else {
            partial.push((i, index));
            continue;
        };
        let not_null = table.column(&column).is_some_and(|c| !c.nullable);
        match table.unique_indexes.last_mut().filter(|x| x.name == index) {
            Some(last) => {
                last.columns.push(column);
                last.not_null &= not_null;
            }
            None => table.unique_indexes.push(Index {
                primary: index == "PRIMARY",
                name: index,
                columns: vec![column],
                immediate: true,
                not_null,
            }),
        }
    }
    for (i, index) in partial {
        if let Some(table) = found.get_mut(i) {
            table.table.unique_indexes.retain(|x| x.name != index);
        }
    }
    Ok(())
}

async fn read_references(
    session: &mut Session,
    list: &str,
    found: &mut [CatalogTable],
    at: &HashMap<(String, String), usize>,
) -> Result<()> {
    let rows: Vec<(String, String, String, String, String, String, String)> = session
        .query(&format!(
            "SELECT table_schema, table_name, constraint_name, column_name, \
             referenced_table_schema, referenced_table_name, referenced_column_name \
             FROM information_schema.key_column_usage \
             WHERE table_schema IN ({list}) AND referenced_table_name IS NOT NULL \
             ORDER BY table_schema, table_name, constraint_name, ordinal_position"
        ))
        .await?;
    let mut before = None;
    for (schema, name, constraint, column, to_schema, to_name, to) in rows {
        let Some(table) = at.get(&(schema, name)).and_then(|i| found.get_mut(*i)) else { continue };
        let this = (table.table.name.clone(), constraint);
        let references = &mut table.table.references;
        match references.last_mut().filter(|_| before.as_ref() == Some(&this)) {
            Some(reference) => {
                reference.columns.push(column);
                reference.to.push(to);
            }
            None => references.push(Reference {
                table: TableName::new(to_schema, to_name),
                columns: vec![column],
                to: vec![to],
            }),
        }
        before = Some(this);
    }
    Ok(())
}

/// The server shows triggers to a role with the privilege `TRIGGER` on their table only.
async fn read_triggers(
    session: &mut Session,
    list: &str,
    found: &mut [CatalogTable],
    at: &HashMap<(String, String), usize>,
) -> Result<()> {
    let rows: Vec<(String, String)> = session
        .query(&format!(
            "SELECT DISTINCT event_object_schema, event_object_table \
             FROM information_schema.triggers WHERE event_object_schema IN ({list})"
        ))
        .await?;
    for name in rows {
        if let Some(table) = at.get(&name).and_then(|i| found.get_mut(*i)) {
            table.table.triggers = true;
        }
    }
    Ok(())
}

/// How MariaDB marks the temporal types of its own versions before 10.1.
pub(crate) const OLD_FRACTIONS: &str = "/* mariadb-5.3 */";

/// What the server says of a column's or a parameter's type.
pub(crate) struct Facts {
    pub data_type: String,
    pub column_type: String,
    pub chars: Option<u64>,
    pub octets: Option<u64>,
    pub precision: Option<u64>,
    pub scale: Option<u64>,
    pub fsp: Option<u64>,
    pub charset: Option<Charset>,
    pub json: bool,
}

impl Facts {
    /// What it can hold.
    pub(crate) fn data_type(&self, flavour: Flavour) -> DataType {
        let unsigned = self.column_type.to_ascii_lowercase().contains("unsigned");
        let int = |bits| DataType::Int { bits, unsigned };
        let fsp = self.fsp.unwrap_or(0).min(6) as u8;
        let unsupported = || DataType::Unsupported { name: self.column_type.clone() };
        // The log keeps the fractions of this format in another way, and does not tell it from the older one.
        if self.fsp.unwrap_or(0) > 0 && self.column_type.ends_with(OLD_FRACTIONS) {
            return unsupported();
        }
        match self.data_type.as_str() {
            "tinyint" => int(8),
            "smallint" => int(16),
            "mediumint" => int(24),
            "int" | "integer" => int(32),
            "bigint" => int(64),
            "decimal" | "numeric" => DataType::Decimal {
                precision: self.precision.and_then(|p| u16::try_from(p).ok()),
                scale: self.scale.and_then(|s| u16::try_from(s).ok()),
            },
            float @ ("float" | "double") if self.scale.is_some() => {
                DataType::RoundedFloat { double: float == "double", name: self.column_type.clone() }
            }
            "float" => DataType::Float32,
            "double" => DataType::Float64,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                if self.json {
                    return DataType::Json;
                }
                match &self.charset {
                    None | Some(Charset::Other(_)) => DataType::Unsupported {
                        name: match &self.charset {
                            Some(Charset::Other(charset)) => {
                                format!("{} CHARACTER SET {charset}", self.column_type)
                            }
                            _ => self.column_type.clone(),
                        },
                    },
                    Some(charset) => DataType::Text {
                        chars_max: self.data_type.ends_with("char").then_some(self.chars).flatten(),
                        bytes_max: self.octets.filter(|_| charset.is_utf8()),
                        repertoire: charset.repertoire(),
                        padded: self.data_type == "char",
                    },
                }
            }
            "binary" => DataType::Bytes { bytes_max: self.octets, fixed: self.octets },
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => {
                DataType::Bytes { bytes_max: self.octets, fixed: None }
            }
            "date" => DataType::Date,
            "time" => DataType::Time { fsp, span: true },
            "datetime" => DataType::Timestamp { fsp },
            "timestamp" => DataType::Instant { fsp, narrow: true },
            // Two digits do not tell 2000 from 0000.
            "year" if self.column_type.eq_ignore_ascii_case("year(2)") => unsupported(),
            "year" => DataType::Year,
            "bit" => DataType::Bits { length: self.precision, varying: false },
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" | "vector" => {
                DataType::Opaque { name: self.column_type.clone() }
            }
            "inet4" | "inet6" if flavour == Flavour::MariaDb => DataType::Address {
                v4: self.data_type == "inet4",
                v6: self.data_type == "inet6",
                network: false,
            },
            "json" => DataType::Json,
            "uuid" if flavour == Flavour::MariaDb => DataType::Uuid,
            "enum" => match labels(&self.column_type) {
                Some(labels) => DataType::Enum { labels: labels.into() },
                None => unsupported(),
            },
            "set" => match labels(&self.column_type) {
                Some(labels) => DataType::Set { labels: labels.into() },
                None => unsupported(),
            },
            _ => unsupported(),
        }
    }
}

/// What a default of MariaDB is if it is no more than a number or a text in quotes.
fn literal_of(native: &str) -> Option<String> {
    let number = native.strip_prefix('-').unwrap_or(native);
    if number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Some(native.to_owned());
    }
    if !native.starts_with('\'') {
        return None;
    }
    let [text] = <[String; 1]>::try_from(labels(&format!("enum({native})"))?).ok()?;
    Some(text)
}

/// The labels of `enum('a','b''c')` or `set('a','b')`. The server doubles quotes, and writes backslashes, line ends and zeros with a
/// backslash, whatever `sql_mode` says.
pub(crate) fn labels(column_type: &str) -> Option<Vec<String>> {
    let inner = column_type.split_once('(')?.1.strip_suffix(')')?;
    let (mut list, mut label, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quoted) {
            ('\'', false) => quoted = true,
            ('\'', true) if chars.peek() == Some(&'\'') => {
                chars.next();
                label.push('\'');
            }
            ('\\', true) => label.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                '0' => '\0',
                other => other,
            }),
            ('\'', true) => {
                quoted = false;
                list.push(std::mem::take(&mut label));
            }
            (',', false) => {}
            (_, false) => return None,
            (c, true) => label.push(c),
        }
    }
    (!quoted).then_some(list)
}

/// The server's collation numbers and what character set each belongs to: with its table if a catalog that was
/// read before has a column of it.
pub(crate) async fn collations(session: &mut Session) -> Result<Arc<HashMap<u64, Charset>>> {
    let sql = "SELECT id, character_set_name FROM information_schema.collations \
               WHERE id IS NOT NULL AND character_set_name IS NOT NULL";
    let mut rows: Vec<(u64, String)> = session.query(sql).await?;
    let known: Vec<String> = session
        .query(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = \
             'information_schema' AND table_name = 'COLLATION_CHARACTER_SET_APPLICABILITY'",
        )
        .await?;
    if known.iter().any(|c| c.eq_ignore_ascii_case("id")) {
        let more: Vec<(u64, String)> = session
            .query(
                "SELECT id, character_set_name FROM \
                 information_schema.collation_character_set_applicability \
                 WHERE id IS NOT NULL AND character_set_name IS NOT NULL",
            )
            .await?;
        rows.extend(more);
    }
    let version = session.version.clone();
    let known = |name: &str| Charset::known(name, &version);
    Ok(Arc::new(rows.into_iter().map(|(id, name)| (id, known(&name))).collect()))
}

#[cfg(test)]
mod tests {
    use super::{labels, literal_of};

    #[test]
    fn labels_are_read_as_the_server_writes_them() {
        let read = labels(r"enum('a','b''c','x\\y','a\nb',',')");
        assert_eq!(read, Some(["a", "b'c", r"x\y", "a\nb", ","].map(str::to_owned).to_vec()));
        assert_eq!(labels("enum('a'"), None);
    }

    #[test]
    fn only_defaults_that_are_values_are_taken_for_such() {
        for (native, value) in [
            ("0.50", Some("0.50")),
            ("-1", Some("-1")),
            ("'it''s'", Some("it's")),
            ("''", Some("")),
            ("current_timestamp()", None),
            ("concat('a','b')", None),
            ("'a' + 'b'", None),
            ("b'1'", None),
        ] {
            assert_eq!(literal_of(native).as_deref(), value, "{native}");
        }
    }
}
