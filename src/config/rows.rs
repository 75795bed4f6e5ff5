//! What the file says of rows: which of them go, what their end becomes, what must hold of them, and the
//! dictionaries that their values are translated by.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_spanned::Spanned;
use tidelock_core::{DataType, Repertoire, SystemConfig, Value};

use super::file;
use super::resolve::{Result, Source, table_ref};
use super::{Placed, TablePattern, TableRef};

/// A text without limits.
const TEXT: DataType = DataType::Text {
    chars_max: None,
    bytes_max: None,
    repertoire: Repertoire::Unicode,
    padded: false,
};

/// What the end of a source row becomes: its delete, or its leaving the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnDelete {
    /// A delete.
    Delete,
    /// Nothing.
    Ignore,
    /// An update of these target columns: each with its expression over the row that was.
    Set(Vec<SetColumn>),
}

/// A column that is set where a row ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetColumn {
    /// The target column.
    pub target: Placed,
    /// Its value.
    pub value: Placed,
}

/// What must hold of every row that is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The condition.
    pub rule: Placed,
    /// What it is about, for the person who is to mend a row.
    pub says: String,
}

/// Codes of one side and what they are on the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Dictionary {
    /// Its name.
    pub name: String,
    /// How many values make up a code.
    pub arity: usize,
    /// Where they stand.
    pub held: Held,
}

/// Where the codes of a dictionary stand.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// In the file.
    Inline {
        /// What the meanings are.
        result: DataType,
        /// Code and meaning.
        entries: HashMap<Vec<String>, Value>,
    },
    /// In a table of a system.
    Table(DictionaryTable),
}

/// A table that is a dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DictionaryTable {
    /// The table.
    pub table: TableRef,
    /// As it is written.
    pub written: String,
    /// The columns that make up a code.
    pub key: Vec<String>,
    /// The column of the meaning.
    pub value: String,
    /// Which rows count.
    pub filter: Option<String>,
}

/// The codes of a table as they are now, shared by all that reads them.
#[derive(Debug, Default)]
pub struct Codes(RwLock<HashMap<Vec<String>, Value>>);

impl Codes {
    /// What a code stands for.
    pub fn get(&self, code: &[String]) -> Option<Value> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(code).cloned()
    }

    /// What a code stands for from now on, if it does for anything.
    pub fn set(&self, code: &[String], value: Option<Value>) {
        let mut codes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => codes.insert(code.to_vec(), value),
            None => codes.remove(code),
        };
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a flow's catalogs tell of a dictionary that is a table.
#[derive(Debug, Clone)]
pub enum Known {
    /// A table of the source, kept current from its log.
    Kept {
        /// The types of the columns that make up a code.
        types: Vec<DataType>,
        /// What the meanings are.
        result: DataType,
        /// Whether a meaning may be NULL.
        nullable: bool,
        /// What it holds.
        codes: Arc<Codes>,
    },
    /// A table of the target, looked up when a row is written.
    Sought {
        /// What the meanings are.
        result: DataType,
        /// Whether a meaning may be NULL.
        nullable: bool,
    },
    /// It cannot be used in this flow.
    Fault {
        /// Why.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// `on_delete` as written.
#[derive(Debug, Clone)]
pub enum OnDeleteValue {
    /// `"delete"`.
    Delete,
    /// `"ignore"`.
    Ignore,
    /// `{ set = { active = "false" } }`.
    Set(BTreeMap<Spanned<String>, Spanned<String>>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Delete,
    Ignore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetTable {
    set: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl<'de> Deserialize<'de> for OnDeleteValue {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = OnDeleteValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"delete\", \"ignore\", or { set = { column = \"expression\" } }")
            }

            fn visit_str<E: serde::de::Error>(
                self,
                word: &str,
            ) -> std::result::Result<OnDeleteValue, E> {
                Ok(match Word::deserialize(StrDeserializer::new(word))? {
                    Word::Delete => OnDeleteValue::Delete,
                    Word::Ignore => OnDeleteValue::Ignore,
                })
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<OnDeleteValue, A::Error> {
                SetTable::deserialize(MapAccessDeserializer::new(map))
                    .map(|table| OnDeleteValue::Set(table.set))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl OnDeleteValue {
    pub(super) fn resolve(&self, source: &Source) -> OnDelete {
        match self {
            OnDeleteValue::Delete => OnDelete::Delete,
            OnDeleteValue::Ignore => OnDelete::Ignore,
            OnDeleteValue::Set(columns) => OnDelete::Set(
                columns
                    .iter()
                    .map(|(target, value)| SetColumn {
                        target: source.placed(target),
                        value: source.placed(value),
                    })
                    .collect(),
            ),
        }
    }
}

/// A rule of `validate` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckValue {
    /// The condition.
    pub rule: Spanned<String>,
    /// What it is about.
    pub says: Option<String>,
}

impl CheckValue {
    pub(super) fn resolve(&self, source: &Source) -> Check {
        let says = self.says.clone().unwrap_or_else(|| self.rule.get_ref().clone());
        Check { rule: source.placed(&self.rule), says }
    }
}

/// A code or a meaning as written: a text, a number or a truth value.
#[derive(Debug, Clone)]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A truth value, as the expression language writes it in text.
    Bool(bool),
}

impl Scalar {
    fn value(&self, as_text: bool) -> Value {
        match self {
            Scalar::Int(int) if !as_text => Value::Int(*int),
            Scalar::Bool(bool) if !as_text => Value::Bool(*bool),
            Scalar::Text(_) | Scalar::Int(_) | Scalar::Bool(_) => Value::Text(self.text().into()),
        }
    }

    fn text(&self) -> String {
        match self {
            Scalar::Text(text) => text.clone(),
            Scalar::Int(int) => int.to_string(),
            Scalar::Bool(bool) => bool.to_string(),
        }
    }
}

/// One code or several that count together.
#[derive(Debug, Clone)]
pub enum Code {
    /// One.
    One(Scalar),
    /// Several.
    Tuple(Vec<Scalar>),
}

impl Code {
    fn one(&self) -> Option<&Scalar> {
        match self {
            Code::One(one) => Some(one),
            Code::Tuple(_) => None,
        }
    }

    /// The text that it is, if it is one.
    fn word(&self) -> Option<&str> {
        match self {
            Code::One(Scalar::Text(text)) => Some(text),
            Code::One(Scalar::Int(_) | Scalar::Bool(_)) | Code::Tuple(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Code;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, true or false, or a list of such")
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Code, E> {
                Ok(Code::One(Scalar::Text(text.to_owned())))
            }

            fn visit_i64<E>(self, int: i64) -> std::result::Result<Code, E> {
                Ok(Code::One(Scalar::Int(int)))
            }

            fn visit_bool<E>(self, bool: bool) -> std::result::Result<Code, E> {
                Ok(Code::One(Scalar::Bool(bool)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> std::result::Result<Code, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Code::Tuple)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        match Code::deserialize(deserializer)? {
            Code::One(one) => Ok(one),
            Code::Tuple(_) => {
                Err(serde::de::Error::custom("expected a text, a whole number, true or false"))
            }
        }
    }
}

/// `{ from = ["processing", "paid"], to = "accepted" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The code.
    pub from: Code,
    /// Its meaning.
    pub to: Scalar,
}

/// A dictionary as written.
#[derive(Debug, Clone)]
pub enum DictionaryValue {
    /// `won = "confirmed"`; or `table = "crm.code_map"`, `key = "code"`, `value = "meaning"`.
    Lines(Lines),
    /// `[[dictionaries.state]]` with `from` and `to`.
    Entries(Vec<Entry>),
}

/// The lines of a dictionary: codes and meanings, or the words of one that is a table.
pub type Lines = BTreeMap<Spanned<String>, Spanned<Code>>;

impl<'de> Deserialize<'de> for DictionaryValue {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = DictionaryValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "codes as code = \"meaning\", a list of { from = ..., to = ... }, or table, key and value",
                )
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<DictionaryValue, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(DictionaryValue::Lines)
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                seq: A,
            ) -> std::result::Result<DictionaryValue, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(DictionaryValue::Entries)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The words of a dictionary that is a table.
const TABLE_WORDS: [&str; 4] = ["table", "key", "value", "where"];

/// Whether lines are those of a table: `table` reads as the name of one, and `key` or `value` stands beside it. So a
/// misspelt word is one, and does not make codes of the others.
fn is_table(lines: &Lines, systems: &BTreeMap<String, SystemConfig>) -> bool {
    let has = |word: &str| lines.keys().any(|key| key.get_ref() == word);
    let named = |value: &Spanned<Code>| value.get_ref().word().and_then(TableRef::parse);
    let table = lines.iter().find(|(key, _)| key.get_ref() == "table");
    match table {
        Some((_, value)) => named(value).is_some() && (has("key") || has("value")),
        // `tabel = "erp.unit_map"`.
        None => lines.iter().any(|(key, value)| {
            let known = named(value).is_some_and(|table| systems.contains_key(&table.system));
            let near = !file::nearest(key.get_ref(), std::iter::once("table")).is_empty();
            known && near && has("key") && has("value")
        }),
    }
}

fn table(
    name: &str,
    lines: &Lines,
    span: Range<usize>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<DictionaryTable> {
    if let Some(unknown) = lines.keys().find(|key| !TABLE_WORDS.contains(&key.get_ref().as_str())) {
        let near = file::nearest(unknown.get_ref(), TABLE_WORDS.into_iter());
        let words = format!(
            "dictionary {name} is a table, which has no word `{}`{}",
            unknown.get_ref(),
            if near.is_empty() { "\nhint: it has table, key, value and where" } else { &near }
        );
        return Err(source.error(unknown.span(), words));
    }
    let line = |word: &str| lines.iter().find(|(key, _)| key.get_ref() == word).map(|(_, v)| v);
    let needed = |word: &str| {
        line(word).ok_or_else(|| {
            let words = format!(
                "dictionary {name} is a table, and `{word}` is missing\nhint: add `{word} = ...`"
            );
            source.error(span.clone(), words)
        })
    };
    let text = |value: &Spanned<Code>| {
        let word = value.get_ref().word().map(str::to_owned);
        word.ok_or_else(|| source.error(value.span(), "expected a text"))
    };
    let written = needed("table")?;
    let named = table_ref(&text(written)?, written.span(), systems, source)?;
    if named.table == TablePattern::All {
        return Err(source.error(written.span(), "expected one table"));
    }
    let columns = needed("key")?;
    let key = match columns.get_ref() {
        Code::One(_) => vec![text(columns)?],
        Code::Tuple(names) => names
            .iter()
            .map(|name| match name {
                Scalar::Text(name) => Ok(name.clone()),
                Scalar::Int(_) | Scalar::Bool(_) => {
                    Err(source.error(columns.span(), "expected names of columns"))
                }
            })
            .collect::<Result<_>>()?,
    };
    if key.is_empty() {
        return Err(source.error(columns.span(), "expected at least one column"));
    }
    Ok(DictionaryTable {
        table: named,
        written: text(written)?,
        key,
        value: text(needed("value")?)?,
        filter: line("where").map(text).transpose()?,
    })
}

pub(super) fn dictionary(
    name: &str,
    value: &Spanned<DictionaryValue>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<Dictionary> {
    let entries: Vec<(Vec<String>, &Scalar)> = match value.get_ref() {
        DictionaryValue::Lines(lines) if is_table(lines, systems) => {
            let table = table(name, lines, value.span(), systems, source)?;
            let arity = table.key.len();
            return Ok(Dictionary { name: name.to_owned(), arity, held: Held::Table(table) });
        }
        DictionaryValue::Lines(lines) => lines
            .iter()
            .map(|(code, to)| {
                let meaning = to.get_ref().one().ok_or_else(|| {
                    let words = "expected one meaning: a text, a whole number, true or false";
                    source.error(to.span(), words)
                })?;
                Ok((vec![code.get_ref().clone()], meaning))
            })
            .collect::<Result<_>>()?,
        DictionaryValue::Entries(entries) => entries
            .iter()
            .map(|entry| {
                let code = match &entry.from {
                    Code::One(one) => vec![one.text()],
                    Code::Tuple(tuple) => tuple.iter().map(Scalar::text).collect(),
                };
                (code, &entry.to)
            })
            .collect(),
    };
    let refuse = |words: String| Err(source.error(value.span(), words));
    let Some(arity) = entries.first().map(|(code, _)| code.len()).filter(|arity| *arity > 0) else {
        return refuse(format!("dictionary {name} has no codes"));
    };
    let all = |kind: fn(&Scalar) -> bool| entries.iter().all(|(_, to)| kind(to));
    let result = if all(|to| matches!(to, Scalar::Int(_))) {
        DataType::Int { bits: 64, unsigned: false }
    } else if all(|to| matches!(to, Scalar::Bool(_))) {
        DataType::Bool
    } else {
        TEXT
    };
    let mut known = HashMap::new();
    for (code, to) in entries {
        if code.len() != arity {
            return refuse(format!(
                "dictionary {name}: one code has {arity} values and another {}",
                code.len()
            ));
        }
        let words = format!("dictionary {name}: the code ({}) stands twice", code.join(", "));
        if known.insert(code, to.value(result == TEXT)).is_some() {
            return refuse(words);
        }
    }
    let held = Held::Inline { result, entries: known };
    Ok(Dictionary { name: name.to_owned(), arity, held })
}
