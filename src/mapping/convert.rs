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
mod tests {
    use super::*;
    use tidelock_core::{Date, Interval, Repertoire, Time};

    #[test]
    fn a_clamped_time_ends_where_the_target_ends_whatever_the_zone() {
        let from = DataType::Timestamp { fsp: 6 };
        let narrow = DataType::Instant { fsp: 6, narrow: true };
        let last = 2_147_483_647_999_999;
        for zone in ["America/New_York", "Asia/Shanghai", "UTC"] {
            let zone = TimeZone::get(zone).expect(zone);
            let rule = Rule { policy: OnUnrepresentable::Clamp, zone: Some(zone) };
            for (at, near) in [
                // 2038-01-19, a day and ages beyond, and before 1970.
                (last, None),
                (last + 86_400_000_000, Some(last)),
                (253_402_300_799_999_999, Some(last)),
                (i64::MAX, Some(last)),
                (-86_400_000_000, Some(1_000_000)),
            ] {
                let got = by_rule(&from, &narrow, &rule, Value::Timestamp(Timestamp(at)));
                match (got, near) {
                    (Ok(Value::Instant(Instant(got))), Some(near)) => assert_eq!(got, near),
                    (Ok(Value::Instant(Instant(got))), None) => assert!(got <= last),
                    other => panic!("{other:?}"),
                }
            }
            let civil = DataType::Timestamp { fsp: 0 };
            let from = DataType::Instant { fsp: 6, narrow: false };
            let end = 253_402_300_799_000_000;
            let got = by_rule(&from, &civil, &rule, Value::Instant(Instant(end + 86_400_000_000)));
            assert_eq!(got, Ok(Value::Timestamp(Timestamp(end))));
        }
    }

    #[test]
    fn a_time_beyond_counting_is_for_the_policy_to_judge() {
        let stamp = DataType::Timestamp { fsp: 6 };
        let to = Target {
            data_type: &stamp,
            nullable: true,
            same_family: true,
            json_form: JsonForm::Text,
        };
        let mut rule = Rule::default();
        let far = Value::Foreign("294270-01-01 00:00:00".into());
        assert!(Conversion::new(&stamp, to, &rule).apply(&far).is_err());
        rule.policy = OnUnrepresentable::Null;
        assert_eq!(Conversion::new(&stamp, to, &rule).apply(&far), Ok(Value::Null));
        let zero = Value::Foreign("0000-00-00 00:00:00".into());
        assert_eq!(Conversion::new(&stamp, to, &rule).apply(&zero), Ok(zero.clone()));
    }

    #[test]
    fn a_nul_character_passes_between_servers_that_have_a_place_for_it() {
        let text = DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        for same_family in [true, false] {
            let to = Target {
                data_type: &text,
                nullable: false,
                same_family,
                json_form: JsonForm::Text,
            };
            let convert = Conversion::new(&text, to, &Rule::default());
            let value = Value::Text("a\0b".into());
            assert_eq!(convert.apply(&value).is_ok(), same_family);
            assert_eq!(convert.take(value).is_ok(), same_family);
        }
    }

    const NUMERIC_12_2: DataType = DataType::Decimal { precision: Some(12), scale: Some(2) };

    fn convert(from: &DataType, to: &DataType, value: Value) -> Result<Value, Misfit> {
        by_rule(from, to, &Rule::default(), value)
    }

    fn target(data_type: &DataType) -> Target<'_> {
        Target { data_type, nullable: true, same_family: false, json_form: JsonForm::Exact }
    }

    fn by_rule(from: &DataType, to: &DataType, rule: &Rule, value: Value) -> Result<Value, Misfit> {
        compatible(from, to, rule).expect("compatible");
        Conversion::new(from, target(to), rule).apply(&value)
    }

    fn text(chars_max: Option<u64>, padded: bool) -> DataType {
        let repertoire = Repertoire::Unicode;
        DataType::Text { chars_max, bytes_max: None, repertoire, padded }
    }

    #[test]
    fn decimals_are_never_rounded() {
        let any = DataType::Decimal { precision: None, scale: None };
        let dec = |t: &'static str| Value::Decimal(ByteString::from_static(t));
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.50")), Ok(dec("1.50")));
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("1.5000")), Ok(dec("1.5000")));
        assert!(convert(&any, &NUMERIC_12_2, dec("1.505")).is_err());
        assert_eq!(convert(&any, &NUMERIC_12_2, dec("9999999999.99")), Ok(dec("9999999999.99")));
        assert!(convert(&any, &NUMERIC_12_2, dec("10000000000")).is_err());
        assert!(convert(&any, &NUMERIC_12_2, dec("NaN")).is_err());
    }

    #[test]
    fn integers_keep_to_the_width_and_sign_of_the_target() {
        let int = |bits, unsigned| DataType::Int { bits, unsigned };
        assert_eq!(
            convert(&int(64, true), &int(64, true), Value::UInt(u64::MAX)),
            Ok(Value::UInt(u64::MAX))
        );
        assert!(convert(&int(64, true), &int(64, false), Value::UInt(u64::MAX)).is_err());
        assert_eq!(
            convert(&int(32, false), &int(24, false), Value::Int(-8_388_608)),
            Ok(Value::Int(-8_388_608))
        );
        assert!(convert(&int(32, false), &int(24, false), Value::Int(8_388_608)).is_err());
        assert!(convert(&int(32, false), &int(8, true), Value::Int(-1)).is_err());
        assert_eq!(convert(&int(8, false), &DataType::Bool, Value::Int(1)), Ok(Value::Bool(true)));
        assert!(convert(&int(8, false), &DataType::Bool, Value::Int(2)).is_err());
    }

    #[test]
    fn text_is_never_cut_and_char_padding_is_dropped() {
        let text = |n, padded| text(Some(n), padded);
        let t = |s: &'static str| Value::Text(ByteString::from_static(s));
        assert_eq!(convert(&text(9, true), &text(3, false), t("ab   ")), Ok(t("ab")));
        assert_eq!(convert(&text(9, false), &text(3, false), t("äöü")), Ok(t("äöü")));
        assert!(convert(&text(9, false), &text(3, false), t("abcd")).is_err());
        assert!(convert(&text(9, false), &text(3, false), t("ab  ")).is_err());
        assert!(convert(&text(9, false), &text(9, true), t("ab  ")).is_err());
        assert_eq!(convert(&text(9, false), &text(9, true), t("  ab")), Ok(t("  ab")));
        assert_eq!(convert(&text(9, true), &text(3, true), t("ab   ")), Ok(t("ab")));
    }

    #[test]
    fn a_float_that_rounds_is_read_and_never_written() {
        let name = "double(8,2)".to_owned();
        let rounded = DataType::RoundedFloat { double: true, name };
        let refused = compatible(&DataType::Float64, &rounded, &Rule::default());
        assert!(refused.is_err_and(|why| why.contains("double(8,2)")));
        assert!(compatible(&rounded, &rounded, &Rule::default()).is_err());
        let number = Value::Float64(1.25);
        assert_eq!(convert(&rounded, &DataType::Float64, number.clone()), Ok(number));
    }

    #[test]
    fn a_double_fits_a_single_float_if_it_reads_like_one() {
        let to_single = |f| convert(&DataType::Float64, &DataType::Float32, Value::Float64(f));
        assert_eq!(to_single(1.1), Ok(Value::Float32(1.1)));
        assert_eq!(to_single(f64::from(1.1f32)), Ok(Value::Float32(1.1)));
        assert!(to_single(1.100_000_001).is_err());
        assert!(to_single(1e300).is_err());
    }

    #[test]
    fn times_keep_their_digits_or_are_refused() {
        let (fine, coarse) = (DataType::Timestamp { fsp: 6 }, DataType::Timestamp { fsp: 3 });
        let at = |micros| Value::Timestamp(Timestamp(micros));
        assert_eq!(convert(&fine, &coarse, at(1_234_000)), Ok(at(1_234_000)));
        assert!(convert(&fine, &coarse, at(1_234_001)).is_err());
        assert!(convert(&fine, &coarse, Value::Timestamp(Timestamp::INFINITY)).is_err());
        let instant = DataType::Instant { fsp: 6, narrow: false };
        assert!(compatible(&fine, &instant, &Rule::default()).is_err());
        let narrow = DataType::Instant { fsp: 6, narrow: true };
        let wide = DataType::Instant { fsp: 6, narrow: false };
        assert!(convert(&wide, &narrow, Value::Instant(Instant(2_147_483_648_000_000))).is_err());
    }

    #[test]
    fn uuids_round_trip_through_text() {
        let text = text(Some(36), false);
        let id = Value::Uuid(*b"0123456789abcdef");
        let there = convert(&DataType::Uuid, &text, id.clone()).unwrap();
        assert_eq!(convert(&text, &DataType::Uuid, there), Ok(id));
    }

    #[test]
    fn unchanged_is_not_null() {
        let int = DataType::Int { bits: 32, unsigned: false };
        let strict =
            Conversion::new(&int, Target { nullable: false, ..target(&int) }, &Rule::default());
        assert_eq!(strict.apply(&Value::Unchanged), Ok(Value::Unchanged));
        assert!(strict.apply(&Value::Null).is_err());
    }

    #[test]
    fn a_policy_says_what_takes_the_place_of_a_value_that_does_not_fit() {
        let with = |policy| Rule { policy, zone: None };
        let any = DataType::Decimal { precision: None, scale: None };
        let dec = |t: &'static str| Value::Decimal(ByteString::from_static(t));
        let null = with(OnUnrepresentable::Null);
        let clamp = with(OnUnrepresentable::Clamp);
        let spell = with(OnUnrepresentable::Text);
        assert_eq!(by_rule(&any, &NUMERIC_12_2, &null, dec("1.505")), Ok(Value::Null));
        assert_eq!(by_rule(&any, &NUMERIC_12_2, &null, dec("1.50")), Ok(dec("1.50")));
        assert_eq!(by_rule(&any, &NUMERIC_12_2, &clamp, dec("1.505")), Ok(dec("1.51")));
        assert!(by_rule(&any, &NUMERIC_12_2, &clamp, dec("NaN")).is_err());
        let (date, zero) = (DataType::Date, Value::Foreign("0000-00-00".into()));
        assert!(by_rule(&date, &date, &clamp, zero.clone()).is_err());
        assert_eq!(by_rule(&date, &date, &null, zero.clone()), Ok(Value::Null));
        assert!(by_rule(&date, &text(None, false), &Rule::default(), zero.clone()).is_err());
        let spelt = by_rule(&date, &text(None, false), &spell, zero);
        assert_eq!(spelt, Ok(Value::Text("0000-00-00".into())));
        assert_eq!(
            by_rule(&date, &text(None, false), &spell, Value::Date(Date::INFINITY)),
            Ok(Value::Text("infinity".into()))
        );
        let undefined = Value::Foreign("bytes without meaning".into());
        assert!(by_rule(&text(None, false), &text(None, false), &spell, undefined).is_err());
        let twice = Value::Json(r#"{"a":1,"a":2}"#.into());
        assert_eq!(by_rule(&DataType::Json, &DataType::Json, &null, twice), Ok(Value::Null));
        let broken = Value::Text("{".into());
        assert_eq!(by_rule(&text(None, false), &DataType::Json, &null, broken), Ok(Value::Null));
        let strict = Target { nullable: false, ..target(&date) };
        assert!(Conversion::new(&date, strict, &null).apply(&Value::Null).is_err());
    }

    #[test]
    fn characters_that_the_target_lacks_are_not_replaced() {
        let limited = |repertoire| DataType::Text {
            chars_max: None,
            bytes_max: None,
            repertoire,
            padded: false,
        };
        let t = |s: &'static str| Value::Text(ByteString::from_static(s));
        let listed = Repertoire::Listed { name: "x".into(), chars: ['a', '中'].into() };
        assert!(convert(&text(None, false), &limited(listed.clone()), t("a中")).is_ok());
        assert!(convert(&text(None, false), &limited(listed), t("b")).is_err());
        assert!(convert(&text(None, false), &limited(Repertoire::Bmp), t("中")).is_ok());
        assert!(convert(&text(None, false), &limited(Repertoire::Bmp), t("😀")).is_err());
        assert!(convert(&text(None, false), &limited(Repertoire::Ascii), t("é")).is_err());
    }

    #[test]
    fn civil_times_and_instants_meet_by_a_named_zone_only() {
        let civil = DataType::Timestamp { fsp: 6 };
        let point = DataType::Instant { fsp: 6, narrow: false };
        let zone = |name: &str| Rule { zone: TimeZone::get(name).ok(), ..Rule::default() };
        let at = |day: (i32, u32, u32), hour: i64| {
            let date = Date::from_ymd(day.0, day.1, day.2).expect("a day");
            Timestamp::new(date, Time(hour * 3_600_000_000)).expect("in range")
        };
        let shanghai = zone("Asia/Shanghai");
        let noon = at((2026, 11, 25), 12);
        let there = by_rule(&civil, &point, &shanghai, Value::Timestamp(noon));
        assert_eq!(there, Ok(Value::Instant(Instant(at((2026, 11, 25), 4).0))));
        let back = by_rule(&point, &civil, &shanghai, there.expect("it fits"));
        assert_eq!(back, Ok(Value::Timestamp(noon)));
        let berlin = zone("Europe/Berlin");
        let left_out = Value::Timestamp(Timestamp(at((2026, 3, 29), 2).0 + 1));
        let twice = Value::Timestamp(Timestamp(at((2026, 10, 25), 2).0 + 1));
        assert!(by_rule(&civil, &point, &berlin, left_out).is_err());
        assert!(by_rule(&civil, &point, &berlin, twice).is_err());
        let summer = by_rule(&civil, &point, &berlin, Value::Timestamp(at((2026, 7, 1), 0)));
        assert_eq!(summer, Ok(Value::Instant(Instant(at((2026, 6, 30), 22).0))));
    }

    #[test]
    fn types_of_one_kind_of_server_keep_their_text_or_their_bytes() {
        let native = |name: &str, modifier| DataType::Native { name: name.into(), modifier };
        let ints = native("integer[]", -1);
        let value = Value::Text("[0:1]={1,NULL}".into());
        assert_eq!(convert(&ints, &ints, value.clone()), Ok(value.clone()));
        assert_eq!(convert(&ints, &text(None, false), value.clone()), Ok(value.clone()));
        assert_eq!(convert(&text(None, false), &ints, value.clone()), Ok(value));
        let rule = Rule::default();
        assert!(compatible(&ints, &native("bigint[]", -1), &rule).is_err());
        let short = native("character varying[]", 7);
        assert!(compatible(&native("character varying[]", -1), &short, &rule).is_err());
        assert!(compatible(&text(None, false), &short, &rule).is_err());
        assert!(compatible(&short, &native("character varying[]", -1), &rule).is_ok());
        let one_byte = native("\"char\"", -1);
        let letter =
            |t: &'static str| convert(&text(None, false), &one_byte, Value::Text(t.into()));
        assert!(letter("x").is_ok() && letter("").is_ok());
        assert!(letter("xy").is_err() && letter("é").is_err());
        assert!(compatible(&text(None, false), &native("\"char\"[]", -1), &rule).is_err());
        let point = DataType::Opaque { name: "point".into() };
        let bytes = DataType::Bytes { bytes_max: None, fixed: None };
        assert!(compatible(&point, &bytes, &rule).is_ok());
        assert!(compatible(&point, &DataType::Opaque { name: "polygon".into() }, &rule).is_err());
        assert!(compatible(&point, &text(None, false), &rule).is_err());
    }

    #[test]
    fn bits_sets_years_spans_and_addresses_are_held_whole() {
        let t = |s: &'static str| Value::Text(ByteString::from_static(s));
        let bits = |n| DataType::Bits { length: Some(n), varying: false };
        let int = DataType::Int { bits: 32, unsigned: false };
        assert_eq!(convert(&bits(9), &int, t("100000001")), Ok(Value::Int(257)));
        assert_eq!(convert(&int, &bits(9), Value::Int(257)), Ok(t("100000001")));
        assert!(convert(&int, &bits(8), Value::Int(257)).is_err());
        assert_eq!(convert(&bits(1), &DataType::Bool, t("1")), Ok(Value::Bool(true)));
        assert!(compatible(&bits(2), &DataType::Bool, &Rule::default()).is_err());
        assert!(compatible(&bits(2), &bits(3), &Rule::default()).is_err());
        let set = |list: &[&str]| DataType::Set {
            labels: list.iter().map(|l| (*l).to_owned()).collect(),
        };
        assert_eq!(convert(&set(&["a", "b"]), &set(&["b", "a"]), t("a,b")), Ok(t("b,a")));
        assert!(convert(&set(&["a", "b"]), &set(&["a"]), t("a,b")).is_err());
        assert_eq!(convert(&set(&["a"]), &set(&["a"]), t("")), Ok(t("")));
        assert!(convert(&int, &DataType::Year, Value::Int(1900)).is_err());
        assert_eq!(convert(&DataType::Year, &int, Value::Int(0)), Ok(Value::Int(0)));
        let (span, clock) =
            (DataType::Time { fsp: 6, span: true }, DataType::Time { fsp: 6, span: false });
        let interval = DataType::Interval { fsp: 6 };
        let long = Value::Time(Time(-3_020_399_000_000));
        assert!(convert(&span, &clock, long.clone()).is_err());
        let there = convert(&span, &interval, long.clone()).expect("it fits");
        assert_eq!(convert(&interval, &span, there), Ok(long));
        let month = Value::Interval(Interval { months: 1, days: 0, micros: 0 });
        assert!(convert(&interval, &span, month).is_err());
        let any = DataType::Address { v4: true, v6: true, network: true };
        let six = DataType::Address { v4: false, v6: true, network: false };
        assert_eq!(convert(&any, &six, t("::1")), Ok(t("::1")));
        assert!(convert(&any, &six, t("10.0.0.1")).is_err());
        assert!(convert(&any, &six, t("fe80::/10")).is_err());
        assert!(convert(&text(None, false), &any, t("10.0.0.0/33")).is_err());
    }
}
