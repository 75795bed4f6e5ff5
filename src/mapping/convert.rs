//! Exact conversion of one value from a source column's type to a target column's type.
//!
//! Two questions, answered apart. *May* this pair of types ever work ([`compatible`], asked once a
//! plan, reported by `check`)? And can *this* value be held exactly ([`Conversion::apply`], asked a
//! row)? Nothing is rounded, cut, clamped or padded: a value that does not fit is an error that stops
//! its mapping, because a silently changed amount in an order book is worse than a stopped table. Only
//! where the file asks for it by `on_unrepresentable` does another value take its place
//! ([`nearest`](mod@nearest), NULL, or its text).
//!
//! A point in time and a civil time are different things. They convert into each other only by a zone
//! that the file names ([`zone`]).

mod fit;
mod nearest;
mod zone;

use std::borrow::Cow;
use std::fmt;

use jiff::tz::TimeZone;
use tidelock_core::{ByteString, DataType, Instant, JsonForm, Timestamp, Value, form, json_loss};

use crate::config::OnUnrepresentable;

/// Why a value cannot be held by its target column; names no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit(pub &'static str);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What the file asks for beyond exactness, settled for one pair of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of a value that does not fit.
    pub policy: OnUnrepresentable,
    /// The zone of the side that has none.
    pub zone: Option<TimeZone>,
}

impl Default for Rule {
    fn default() -> Self {
        Rule { policy: OnUnrepresentable::Error, zone: None }
    }
}

/// One side of a conversion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target<'a> {
    /// What the column can hold.
    pub data_type: &'a DataType,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// Whether source and target are the same kind of server, so that a value that only such servers know
    /// may pass.
    pub same_family: bool,
    /// How the server keeps JSON: parsed, it does not keep every document as it is written.
    pub json_form: JsonForm,
}

/// How a column's values are converted, compiled once.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    from: DataType,
    to: DataType,
    nullable: bool,
    same_family: bool,
    json_form: JsonForm,
    rule: Rule,
}

/// Whether values of `from` can be written to a column of `to` at all; else the reason.
pub fn compatible(from: &DataType, to: &DataType, rule: &Rule) -> Result<(), String> {
    use DataType as T;
    if let T::Unsupported { name } = from {
        return Err(format!("source type {name} is not supported"));
    }
    if let T::Unsupported { name } = to {
        return Err(format!("target type {name} is not supported"));
    }
    if let T::RoundedFloat { name, .. } = to {
        return Err(format!("target type {name} rounds what is written to it"));
    }
    let fits = match (from, to) {
        (_, T::Text { .. }) if rule.policy == OnUnrepresentable::Text => true,
        (T::Bytes { .. } | T::Opaque { .. }, T::Text { .. }) => false,
        (_, T::Text { .. }) => true,
        (T::Bool, T::Bool | T::Int { .. } | T::Bits { .. })
        | (
            T::Int { .. },
            T::Int { .. } | T::Decimal { .. } | T::Bool | T::Year | T::Bits { varying: false, .. },
        )
        | (T::Decimal { .. }, T::Decimal { .. } | T::Int { .. })
        | (T::Float32 | T::RoundedFloat { double: false, .. }, T::Float32 | T::Float64)
        | (T::Float64 | T::RoundedFloat { double: true, .. }, T::Float64 | T::Float32)
        | (
            T::Text { .. },
            T::Uuid
            | T::Json
            | T::Enum { .. }
            | T::Set { .. }
            | T::Bits { .. }
            | T::Address { .. }
            | T::Interval { .. },
        )
        | (T::Bytes { .. }, T::Bytes { .. } | T::Opaque { .. })
        | (T::Opaque { .. }, T::Bytes { .. })
        | (T::Date, T::Date)
        | (T::Time { .. } | T::Interval { .. }, T::Time { .. } | T::Interval { .. })
        | (T::Timestamp { .. }, T::Timestamp { .. })
        | (T::Instant { .. }, T::Instant { .. })
        | (T::Year, T::Year | T::Int { .. })
        | (T::Uuid, T::Uuid)
        | (T::Json, T::Json)
        | (T::Enum { .. }, T::Enum { .. })
        | (T::Set { .. }, T::Set { .. })
        | (T::Bits { .. }, T::Int { .. })
        | (T::Address { .. }, T::Address { .. }) => true,
        (T::Bits { length, .. }, T::Bool) => *length == Some(1),
        (T::Bits { length: from, varying: false }, T::Bits { length: to, varying: false }) => {
            from == to
        }
        (T::Bits { .. }, T::Bits { .. }) => true,
        (T::Opaque { name: from }, T::Opaque { name: to }) => from == to || to == "geometry",
        (T::Native { name: from, modifier }, T::Native { name: to, modifier: other }) => {
            from == to && (*other < 0 || modifier == other)
        }
        // An explicit length would cut a longer value off without a word, and so would one byte in an array.
        (T::Text { .. }, T::Native { name, modifier }) => *modifier < 0 && name != "\"char\"[]",
        (T::Bytes { .. }, T::Uuid) | (T::Uuid, T::Bytes { .. }) => {
            return Err("bytes and uuid do not convert by themselves: the byte order of a binary \
                        uuid is the application's own"
                .to_owned());
        }
        (T::Instant { .. }, T::Timestamp { .. }) | (T::Timestamp { .. }, T::Instant { .. }) => {
            if rule.zone.is_none() {
                return Err(
                    "a point in time and a civil time without zone do not convert without \
                            naming a zone (time_zone = \"...\")"
                        .to_owned(),
                );
            }
            true
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{} cannot be written to {}", word(from), word(to))) }
}

fn word(data_type: &DataType) -> &str {
    match data_type {
        DataType::Bool => "a boolean",
        DataType::Int { .. } => "an integer",
        DataType::Decimal { .. } => "a decimal",
        DataType::Float32 | DataType::Float64 | DataType::RoundedFloat { .. } => "a float",
        DataType::Text { .. } => "text",
        DataType::Bytes { .. } => "bytes",
        DataType::Date => "a date",
        DataType::Time { .. } => "a time",
        DataType::Timestamp { .. } => "a timestamp without zone",
        DataType::Instant { .. } => "a timestamp with zone",
        DataType::Interval { .. } => "an interval",
        DataType::Year => "a year",
        DataType::Uuid => "a uuid",
        DataType::Json => "json",
        DataType::Enum { .. } => "an enum",
        DataType::Set { .. } => "a set",
        DataType::Bits { .. } => "a bit string",
        DataType::Address { .. } => "an address",
        DataType::Opaque { name }
        | DataType::Native { name, .. }
        | DataType::Unsupported { name } => name,
    }
}

/// Reached only if a connector delivers a value that is not of its column's type.
const UNEXPECTED: Misfit = Misfit("the value is not of the type that its column announced");
const NOT_NULL: Misfit = Misfit("NULL does not fit a NOT NULL column");

impl Conversion {
    /// The conversion between two compatible types.
    pub fn new(from: &DataType, to: Target<'_>, rule: &Rule) -> Self {
        Conversion {
            from: from.clone(),
            to: to.data_type.clone(),
            nullable: to.nullable,
            same_family: to.same_family,
            json_form: to.json_form,
            rule: rule.clone(),
        }
    }

    /// The value as the target column holds it. `Unchanged` stays what it is.
    pub fn apply(&self, value: &Value) -> Result<Value, Misfit> {
        match value {
            Value::Unchanged => return Ok(Value::Unchanged),
            Value::Null if self.nullable => return Ok(Value::Null),
            Value::Null => return Err(NOT_NULL),
            _ => {}
        }
        self.exact(value).or_else(|misfit| match self.rule.policy {
            OnUnrepresentable::Error => Err(misfit),
            OnUnrepresentable::Null if self.nullable => Ok(Value::Null),
            OnUnrepresentable::Null => Err(NOT_NULL),
            OnUnrepresentable::Clamp => nearest::nearest(&self.zoned(value), &self.from, &self.to)
                .and_then(|near| self.exact(&near).ok())
                .ok_or(misfit),
            OnUnrepresentable::Text => self.as_text(value).ok_or(misfit),
        })
    }

    /// A time as the target counts it, so that the ends of the target's range are met there. One that its zone gives
    /// no meaning stays what it is.
    fn zoned<'a>(&self, value: &'a Value) -> Cow<'a, Value> {
        let zone = self.rule.zone.as_ref();
        let zoned = match (&self.to, value) {
            (DataType::Instant { .. }, Value::Timestamp(at)) => {
                zone::instant(value, zone).map(Value::Instant).or_else(|misfit| match misfit {
                    // No zone moves it back into any range.
                    zone::FAR => Ok(Value::Instant(Instant(at.0))),
                    other => Err(other),
                })
            }
            (DataType::Timestamp { .. }, Value::Instant(at)) => {
                zone::civil(value, zone).map(Value::Timestamp).or_else(|misfit| match misfit {
                    zone::FAR => Ok(Value::Timestamp(Timestamp(at.0))),
                    other => Err(other),
                })
            }
            _ => return Cow::Borrowed(value),
        };
        zoned.map_or(Cow::Borrowed(value), Cow::Owned)
    }

    /// As [`Conversion::apply`], for a value that nobody else needs: what passes as it is, is moved.
    pub fn take(&self, value: Value) -> Result<Value, Misfit> {
        let passes = match (&value, &self.to) {
            (Value::Unchanged, _) => true,
            (Value::Text(text), DataType::Text { chars_max, bytes_max, repertoire, padded }) => {
                !matches!(self.from, DataType::Text { padded: true, .. })
                    && self.nul(text).is_ok()
                    && fit::text(text, *chars_max, *bytes_max, repertoire, *padded).is_ok()
            }
            (Value::Decimal(text), DataType::Decimal { precision, scale }) => {
                fit::decimal(text, *precision, *scale, self.same_family).is_ok()
            }
            (Value::Bytes(bytes), DataType::Bytes { bytes_max, fixed }) => {
                fit::bytes(bytes, *bytes_max, *fixed).is_ok()
            }
            (Value::Json(_), DataType::Json) => self.rule.policy == OnUnrepresentable::Error,
            _ => false,
        };
        if passes { Ok(value) } else { self.apply(&value) }
    }

    fn exact(&self, value: &Value) -> Result<Value, Misfit> {
        if let Value::Foreign(text) = value {
            return self.foreign(text);
        }
        match &self.to {
            DataType::Bool => fit::to_bool(value, &self.from),
            DataType::Int { bits, unsigned } => fit::to_int(value, &self.from, *bits, *unsigned),
            DataType::Decimal { precision, scale } => {
                fit::to_decimal(value, *precision, *scale, self.same_family)
            }
            DataType::Float32 => match value {
                Value::Float32(f) => self.finite(f64::from(*f)).map(|()| value.clone()),
                Value::Float64(f) => {
                    self.finite(*f)?;
                    fit::narrow(*f).map(Value::Float32)
                }
                _ => Err(UNEXPECTED),
            },
            DataType::Float64 => match value {
                Value::Float32(f) => {
                    // The nearest double of the shortest decimal form: what a person reads stays.
                    self.finite(f64::from(*f)).map(|()| Value::Float64(fit::widen(*f)))
                }
                Value::Float64(f) => self.finite(*f).map(|()| value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::Text { chars_max, bytes_max, repertoire, padded } => {
                let text = self.text_of(value)?;
                self.nul(&text)?;
                fit::text(&text, *chars_max, *bytes_max, repertoire, *padded)?;
                Ok(Value::Text(text))
            }
            DataType::Bytes { bytes_max, fixed } => fit::to_bytes(value, *bytes_max, *fixed),
            DataType::Opaque { .. } => match value {
                Value::Bytes(_) => Ok(value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::Date => match value {
                Value::Date(date) => {
                    fit::in_calendar(*date, self.same_family).map(|()| value.clone())
                }
                _ => Err(UNEXPECTED),
            },
            DataType::Time { fsp, span } => fit::to_time(value, *fsp, *span, self.same_family),
            DataType::Interval { fsp } => fit::to_interval(value, *fsp),
            DataType::Timestamp { fsp } => {
                let zoned = zone::civil(value, self.rule.zone.as_ref())?;
                fit::timestamp(zoned, *fsp, self.same_family).map(Value::Timestamp)
            }
            DataType::Instant { fsp, narrow } => {
                let zoned = zone::instant(value, self.rule.zone.as_ref())?;
                fit::instant(zoned, *fsp, *narrow, self.same_family).map(Value::Instant)
            }
            DataType::Year => fit::to_year(value),
            DataType::Uuid => fit::to_uuid(value),
            DataType::Json => match value {
                Value::Json(text) | Value::Text(text) => self.json(text),
                _ => Err(UNEXPECTED),
            },
            DataType::Enum { labels } => match value {
                Value::Enum(label) | Value::Text(label) => {
                    if labels.iter().any(|l| l.as_str() == &**label) {
                        Ok(Value::Enum(label.clone()))
                    } else {
                        Err(Misfit("the label is not one of the target's enum"))
                    }
                }
                _ => Err(UNEXPECTED),
            },
            DataType::Set { labels } => match value {
                Value::Text(text) => fit::to_set(text, labels),
                _ => Err(UNEXPECTED),
            },
            DataType::Bits { length, varying } => {
                fit::to_bits(value, *length, *varying).map(Value::Text)
            }
            DataType::Address { v4, v6, network } => match value {
                Value::Text(text) => fit::address(text, *v4, *v6, *network).map(|()| value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::Native { name, .. } => match value {
                // PostgreSQL cuts what is longer than its one byte without a word.
                Value::Text(text) if name == "\"char\"" && text.len() > 1 => {
                    Err(Misfit("the text is longer than the target column"))
                }
                Value::Text(text) => fit::no_nul(text).map(|()| value.clone()),
                _ => Err(UNEXPECTED),
            },
            DataType::RoundedFloat { .. } | DataType::Unsupported { .. } => Err(UNEXPECTED),
        }
    }

    /// A value without canonical form: another server of the same kind takes it in a column of the same
    /// type. Not an enum's empty value and not a text of undefined bytes, which no statement can write.
    fn foreign(&self, text: &ByteString) -> Result<Value, Misfit> {
        let same_type = match (&self.from, &self.to) {
            (DataType::Enum { .. }, _) => {
                return Err(Misfit(
                    "the empty value of an enum, which stands for a label that is none",
                ));
            }
            (DataType::Text { .. }, _) => {
                return Err(Misfit("the text holds bytes that its character set gives no meaning"));
            }
            (DataType::Json, _) => {
                return Err(Misfit("the document holds bytes without meaning"));
            }
            // Beyond what a number of microseconds counts (PostgreSQL's timestamps from 294247 on).
            (DataType::Timestamp { .. } | DataType::Instant { .. }, _) if far(text) => {
                return Err(Misfit("the time is later than what can be counted"));
            }
            (DataType::Date, DataType::Date)
            | (DataType::Timestamp { .. }, DataType::Timestamp { .. })
            | (DataType::Instant { .. }, DataType::Instant { .. }) => true,
            _ => false,
        };
        if same_type && self.same_family {
            return Ok(Value::Foreign(text.clone()));
        }
        Err(Misfit("the source's value has no form outside its own kind of server"))
    }

    /// NUL characters have a place in texts of MariaDB and MySQL, and in none of PostgreSQL.
    fn nul(&self, text: &str) -> Result<(), Misfit> {
        if self.same_family { Ok(()) } else { fit::no_nul(text) }
    }

    fn finite(&self, f: f64) -> Result<(), Misfit> {
        if f.is_finite() || self.same_family {
            Ok(())
        } else {
            Err(Misfit("NaN and infinity do not fit a float column of the target"))
        }
    }

    /// Documents that the server would change as it parses them are refused as they are written. Here they
    /// are looked for only if the file says what else to do.
    fn json(&self, text: &ByteString) -> Result<Value, Misfit> {
        if self.rule.policy != OnUnrepresentable::Error {
            if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
                return Err(Misfit("the text is no JSON"));
            }
            if let Some(why) = json_loss(text, self.json_form) {
                return Err(Misfit(why));
            }
        }
        Ok(Value::Json(text.clone()))
    }

    fn text_of(&self, value: &Value) -> Result<ByteString, Misfit> {
        if let (Value::Text(text), DataType::Text { padded: true, .. }) = (value, &self.from) {
            let kept = text.trim_end_matches(' ');
            return Ok(if kept.len() == text.len() { text.clone() } else { kept.into() });
        }
        match value {
            Value::Text(text) | Value::Decimal(text) | Value::Json(text) | Value::Enum(text) => {
                Ok(text.clone())
            }
            Value::Date(date) => fit::in_years(*date).map(|()| spelt(value)),
            Value::Timestamp(at) => fit::in_years(fit::day(at.0)).map(|()| spelt(value)),
            Value::Instant(at) => fit::in_years(fit::day(at.0)).map(|()| spelt(value)),
            Value::Bytes(_) | Value::Null | Value::Unchanged | Value::Foreign(_) => Err(UNEXPECTED),
            Value::Bool(_)
            | Value::Int(_)
            | Value::UInt(_)
            | Value::Float32(_)
            | Value::Float64(_)
            | Value::Time(_)
            | Value::Interval(_)
            | Value::Uuid(_) => Ok(spelt(value)),
        }
    }

    /// The text of a value whatever it is, if the target column can hold that.
    fn as_text(&self, value: &Value) -> Option<Value> {
        let DataType::Text { chars_max, bytes_max, repertoire, padded } = &self.to else {
            return None;
        };
        if let (Value::Foreign(_), DataType::Text { .. } | DataType::Json) = (value, &self.from) {
            return None;
        }
        let text = spelt(value);
        self.nul(&text).ok()?;
        fit::text(&text, *chars_max, *bytes_max, repertoire, *padded).ok()?;
        Some(Value::Text(text))
    }
}

/// Whether the text of a time begins with a year of more than four digits.
fn far(text: &str) -> bool {
    text.bytes().take_while(u8::is_ascii_digit).count() > 4
}

fn spelt(value: &Value) -> ByteString {
    ByteString::from(form::text(value).unwrap_or_default().into_owned())
}

#[cfg(test)]
mod tests;
