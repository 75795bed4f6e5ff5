//! What the file says of rows: which of them go, what their end becomes, what must hold of them, and the
//! dictionaries that their values are translated by.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, Visitor};
use serde_spanned::Spanned;
use tidelock_core::{DataType, Repertoire, SystemConfig, Value};

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
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
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
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Code {
    /// One.
    One(Scalar),
    /// Several.
    Tuple(Vec<Scalar>),
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
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum DictionaryValue {
    /// `table = "crm.code_map"`, `key = "code"`, `value = "meaning"`.
    Table(TableValue),
    /// `won = "confirmed"`.
    Pairs(BTreeMap<String, Scalar>),
    /// `[[dictionaries.state]]` with `from` and `to`.
    Entries(Vec<Entry>),
}

/// A dictionary that is a table, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableValue {
    table: String,
    key: Names,
    value: String,
    #[serde(rename = "where")]
    filter: Option<String>,
}

/// One name or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

pub(super) fn dictionary(
    name: &str,
    value: &Spanned<DictionaryValue>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<Dictionary> {
    let entries: Vec<(Vec<String>, &Scalar)> = match value.get_ref() {
        DictionaryValue::Table(table) => {
            let named = table_ref(&table.table, value.span(), systems, source)?;
            let key = match &table.key {
                Names::One(name) => vec![name.clone()],
                Names::Several(names) => names.clone(),
            };
            if key.is_empty() || named.table == TablePattern::All {
                let words =
                    format!("dictionary {name}: one table, and at least one column as `key`");
                return Err(source.error(value.span(), words));
            }
            let table = DictionaryTable {
                table: named,
                written: table.table.clone(),
                value: table.value.clone(),
                filter: table.filter.clone(),
                key,
            };
            let arity = table.key.len();
            return Ok(Dictionary { name: name.to_owned(), arity, held: Held::Table(table) });
        }
        DictionaryValue::Pairs(pairs) => {
            pairs.iter().map(|(code, to)| (vec![code.clone()], to)).collect()
        }
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
