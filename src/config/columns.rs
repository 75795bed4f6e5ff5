//! `[mappings.columns]`: which source column feeds which target column, and what happens to values that the
//! target column cannot hold.

use std::collections::BTreeMap;
use std::fmt;

use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor, value::MapAccessDeserializer};
use serde_spanned::Spanned;

use super::resolve::{Result, Source, plain_column};
use super::{Place, Placed};

/// What becomes of a value that its target column cannot hold exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnrepresentable {
    /// The mapping stops, naming the column.
    Error,
    /// NULL.
    Null,
    /// The nearest value that the column can hold: the end of a range, a rounded number, a text cut short.
    Clamp,
    /// The value's text, where the target is a text column.
    Text,
}

/// What the file says of a column's values beyond where they go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnRule {
    /// What becomes of a value that does not fit.
    pub on_unrepresentable: Option<OnUnrepresentable>,
    /// The zone that times without one are in, where the other side holds points in time.
    pub time_zone: Option<TimeZone>,
}

impl ColumnRule {
    /// This rule, and where it says nothing the other one.
    pub fn or(&self, other: &ColumnRule) -> ColumnRule {
        ColumnRule {
            on_unrepresentable: self.on_unrepresentable.or(other.on_unrepresentable),
            time_zone: self.time_zone.clone().or_else(|| other.time_zone.clone()),
        }
    }
}

/// A line of the column list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedColumn {
    /// The target column.
    pub target: String,
    /// What it takes: a source column's name, or an expression over the source row.
    pub value: Placed,
    /// Its own rule.
    pub rule: ColumnRule,
    /// Where the target column is named.
    pub place: Place,
}

impl MappedColumn {
    /// The source column that it takes, if all that it says is a name.
    pub fn plain(&self) -> Option<String> {
        plain_column(&self.value.text)
    }
}

/// Which target column takes which source column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnMap {
    /// The rule of same-named columns, if these are added (`"*" = "*"`).
    pub star: Option<ColumnRule>,
    /// The columns that the file names.
    pub columns: Vec<MappedColumn>,
}

/// The value of a line: a column's name, or the long form.
#[derive(Debug)]
pub enum ColumnValue {
    /// `"amount"`.
    Short(String),
    /// `{ value = "amount", on_unrepresentable = "null" }`.
    Long(LongColumn),
}

/// The long form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongColumn {
    /// The source column, or an expression.
    pub value: Spanned<String>,
    /// What becomes of a value that does not fit.
    pub on_unrepresentable: Option<OnUnrepresentable>,
    /// The zone of times without one.
    pub time_zone: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for ColumnValue {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ColumnValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source column, an expression, or { value = \"...\", ... }")
            }

            fn visit_str<E>(self, name: &str) -> std::result::Result<ColumnValue, E> {
                Ok(ColumnValue::Short(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<ColumnValue, A::Error> {
                LongColumn::deserialize(MapAccessDeserializer::new(map)).map(ColumnValue::Long)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The zone of this name in the IANA database.
pub(super) fn zone(name: &Spanned<String>, source: &Source) -> Result<TimeZone> {
    TimeZone::get(name.get_ref()).map_err(|_| {
        source.error(
            name.span(),
            "there is no time zone of this name\n\
             hint: the IANA database names them by place, such as \"Asia/Shanghai\"; \"UTC\" is one too",
        )
    })
}

pub(super) fn resolve(
    columns: &BTreeMap<Spanned<String>, Spanned<ColumnValue>>,
    source: &Source,
) -> Result<ColumnMap> {
    let mut map = ColumnMap { star: None, columns: Vec::new() };
    for (target, line) in columns {
        let (value, rule) = match line.get_ref() {
            ColumnValue::Short(text) => {
                let value = Placed { text: text.clone(), place: source.place(line.span()) };
                (value, ColumnRule::default())
            }
            ColumnValue::Long(long) => {
                let time_zone = long.time_zone.as_ref().map(|z| zone(z, source)).transpose()?;
                let rule = ColumnRule { on_unrepresentable: long.on_unrepresentable, time_zone };
                (source.placed(&long.value), rule)
            }
        };
        if target.get_ref() == "*" {
            if value.text != "*" {
                return Err(source.error(line.span(), "\"*\" can only take \"*\""));
            }
            map.star = Some(rule);
            continue;
        }
        if value.text.trim().is_empty() {
            return Err(source.error(line.span(), "expected a source column or an expression"));
        }
        let place = source.place(target.span());
        map.columns.push(MappedColumn { target: target.get_ref().clone(), value, rule, place });
    }
    Ok(map)
}
