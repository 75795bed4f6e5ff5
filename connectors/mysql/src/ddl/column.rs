//! How a column is declared that takes what another column holds.

use tidelock_core::{Column, ColumnDefault, DataType, Generated, Literal, Repertoire};

use super::MySqlDialect;
use crate::session::{Flavour, quote};

/// Most bytes of a character in `utf8mb4`.
pub(super) const CHAR_BYTES: u64 = 4;
/// Most characters of a `varchar`.
const VARCHAR_MAX: u64 = 16_383;
/// Most characters of a `char`.
const CHAR_MAX: u64 = 255;
/// What a key column of unlimited length gets: characters of a text, or bytes.
pub(super) const KEY_LENGTH: u64 = 255;
/// A `text` or `blob` in the row's sum, or anything else that is small; rather too much than too little.
pub(super) const SMALL: u64 = 16;
/// Bytes of a `longtext` or `longblob`.
pub(super) const LONG: u64 = 4_294_967_295;
/// Digits of a `decimal`.
const DIGITS_MAX: u16 = 65;

/// How a column is declared.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// Type, and what follows NULL or NOT NULL.
    pub(super) sql: String,
    pub(super) default: Option<ColumnDefault>,
    /// The collation of a character column in `utf8mb4`.
    pub(super) collation: Option<String>,
    pub(super) data_type: DataType,
    /// Bytes in the row's sum.
    pub(super) row_bytes: u64,
    pub(super) notes: Vec<String>,
}

impl Declared {
    pub(super) fn plain(sql: impl Into<String>, data_type: DataType) -> Declared {
        Declared {
            sql: sql.into(),
            default: None,
            collation: None,
            data_type,
            row_bytes: SMALL,
            notes: Vec::new(),
        }
    }

    pub(super) fn bytes(mut self, row_bytes: u64) -> Declared {
        self.row_bytes = row_bytes;
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Declared {
        self.notes.push(note.into());
        self
    }
}

impl Declared {
    /// Adds a note about its length.
    pub(super) fn note_if(self, cut: bool, note: impl FnOnce(u64) -> String) -> Declared {
        let length = match &self.data_type {
            DataType::Text { chars_max: Some(n), .. }
            | DataType::Bytes { bytes_max: Some(n), .. } => *n,
            _ => return self,
        };
        if cut { self.note(note(length)) } else { self }
    }

    /// The whole definition of a column; `table_collation` is the one that needs no words.
    pub(super) fn definition(&self, name: &str, nullable: bool, table_collation: &str) -> String {
        let mut sql = format!("{} {}", quote(name), self.sql);
        if let Some(collation) = self.collation.as_deref().filter(|c| *c != table_collation) {
            sql.push_str(&format!(" CHARACTER SET utf8mb4 COLLATE {collation}"));
        }
        sql.push_str(if nullable { " NULL" } else { " NOT NULL" });
        if let Some(default) = &self.default {
            sql.push_str(&format!(" DEFAULT {}", default.native));
        }
        sql
    }

    pub(super) fn column(&self, name: &str, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            data_type: self.data_type.clone(),
            native: self.sql.clone(),
            nullable,
            has_default: nullable || self.default.is_some(),
            generated: Generated::No,
            default: self.default.clone(),
            collation: self.collation.clone(),
            logged: true,
        }
    }
}

impl MySqlDialect {
    /// The collation that keeps any two texts apart, blanks at the end included.
    pub(super) fn exact_collation(&self) -> &'static str {
        match self.flavour {
            Flavour::MariaDb => "utf8mb4_nopad_bin",
            Flavour::MySql => "utf8mb4_0900_bin",
        }
    }

    /// The source's own collation where the server knows it, else the exact one.
    fn collation(&self, from: &Column, same_family: bool) -> String {
        let own = from.collation.as_deref().filter(|_| same_family).map(|name| {
            match name.strip_prefix("utf8mb3_").or_else(|| name.strip_prefix("utf8_")) {
                Some(rest) => format!("utf8mb4_{rest}"),
                None => name.to_owned(),
            }
        });
        own.filter(|name| self.collations.contains(name))
            .unwrap_or_else(|| self.exact_collation().to_owned())
    }

    fn has_uuid(&self) -> bool {
        self.flavour == Flavour::MariaDb && self.version >= (10, 7)
    }

    fn has_address(&self, v4: bool) -> bool {
        self.flavour == Flavour::MariaDb && self.version >= if v4 { (10, 10) } else { (10, 5) }
    }

    /// Geometries are everywhere, vectors in the newer versions.
    fn has_opaque(&self, name: &str) -> bool {
        !name.starts_with("vector")
            || self.version >= if self.flavour == Flavour::MariaDb { (11, 7) } else { (9, 0) }
    }

    /// A text of at most so many characters for what has no type of its own here.
    fn spelt(&self, from: &Column, chars_max: Option<u64>, key_bytes: Option<u64>) -> Declared {
        let mut declared = self.text(from, false, chars_max, None, false, key_bytes);
        declared.collation = Some(self.exact_collation().to_owned());
        declared.note(format!("{}: as its text", from.native))
    }

    fn scale_max(&self) -> u16 {
        match self.flavour {
            Flavour::MariaDb => 38,
            Flavour::MySql => 30,
        }
    }

    /// How a column is declared that takes what `from` holds. `key_bytes`: what it may take of a key.
    pub(super) fn declare(
        &self,
        from: &Column,
        same_family: bool,
        key_bytes: Option<u64>,
    ) -> std::result::Result<Declared, String> {
        use DataType as T;
        let same = from.data_type.clone();
        // A type that no server has spelt comes of an expression.
        let same_family = same_family && !from.native.is_empty();
        let native = |same: T| Declared::plain(from.native.clone(), same);
        Ok(match &from.data_type {
            T::Bool => Declared::plain("tinyint(1)", T::Int { bits: 8, unsigned: false }),
            // The server's own spelling tells tinyint(1) from other integers, and zerofill.
            T::Int { .. } if same_family => native(same),
            T::Int { bits, unsigned } => {
                let word = match bits {
                    0..=8 => "tinyint",
                    9..=16 => "smallint",
                    17..=24 => "mediumint",
                    25..=32 => "int",
                    _ => "bigint",
                };
                Declared::plain(format!("{word}{}", if *unsigned { " unsigned" } else { "" }), same)
            }
            T::Decimal { precision, scale } => self.decimal(*precision, *scale),
            T::Float32 | T::RoundedFloat { double: false, .. } => {
                Declared::plain("float", T::Float32)
            }
            T::Float64 | T::RoundedFloat { double: true, .. } => {
                Declared::plain("double", T::Float64)
            }
            T::Text { chars_max, bytes_max, padded, .. } => {
                let mut text =
                    self.text(from, same_family, *chars_max, *bytes_max, *padded, key_bytes);
                text.collation = Some(self.collation(from, same_family));
                text
            }
            T::Bytes { bytes_max, fixed } => {
                bytes(from, same_family, *bytes_max, *fixed, key_bytes)
            }
            T::Date => Declared::plain("date", T::Date),
            T::Time { fsp, .. } => {
                Declared::plain(format!("time{}", digits(*fsp)), T::Time { fsp: *fsp, span: true })
            }
            T::Timestamp { fsp } => Declared::plain(format!("datetime{}", digits(*fsp)), same),
            T::Instant { fsp, narrow } => {
                let mut declared = Declared::plain(
                    format!("timestamp{}", digits(*fsp)),
                    T::Instant { fsp: *fsp, narrow: true },
                );
                if !from.nullable {
                    // Without a default the server may give the column one, and an ON UPDATE, of its own.
                    let native = format!("current_timestamp{}", digits(*fsp));
                    declared.default = Some(ColumnDefault { native, literal: None });
                }
                if !narrow {
                    declared = declared
                        .note("timestamp ends in 2038 here: an instant outside 1970 to 2038 stops the mapping");
                }
                declared
            }
            T::Uuid if self.has_uuid() => Declared::plain("uuid", T::Uuid),
            T::Uuid => {
                let text = T::Text {
                    chars_max: Some(36),
                    bytes_max: Some(36),
                    repertoire: Repertoire::Ascii,
                    padded: true,
                };
                Declared::plain("char(36) CHARACTER SET ascii COLLATE ascii_bin", text).bytes(36)
            }
            T::Json if key_bytes.is_some() => return Err("json cannot be part of a key".to_owned()),
            T::Json => Declared::plain("json", T::Json),
            T::Enum { labels } => {
                let mut declared = self.labels(labels);
                declared.collation = Some(self.collation(from, same_family));
                declared
            }
            T::Year => Declared::plain("year", T::Year),
            T::Set { .. } => {
                let mut declared = native(same);
                declared.collation = Some(self.collation(from, same_family));
                declared
            }
            T::Bits { length: Some(n @ 1..=64), varying: false } => {
                Declared::plain(format!("bit({n})"), same)
            }
            T::Bits { length, .. } => self.spelt(from, *length, key_bytes),
            T::Address { v4, network: false, .. } if self.has_address(*v4) => {
                Declared::plain(if *v4 { "inet4" } else { "inet6" }, same)
            }
            // The longest addresses and spans are shorter than that.
            T::Address { .. } => self.spelt(from, Some(50), key_bytes),
            T::Interval { .. } => self.spelt(from, Some(100), key_bytes),
            T::Native { .. } => self.spelt(from, None, key_bytes),
            T::Opaque { .. } if key_bytes.is_some() => {
                return Err(format!("{} cannot be part of a key", from.native));
            }
            T::Opaque { name } if self.has_opaque(name) => native(same),
            T::Opaque { name } => {
                Declared::plain("longblob", T::Bytes { bytes_max: Some(LONG), fixed: None })
                    .note(format!("{name}: its bytes as the source keeps them"))
            }
            T::Unsupported { name } => return Err(format!("type {name} is not carried")),
        })
    }

    fn decimal(&self, precision: Option<u16>, scale: Option<u16>) -> Declared {
        let declared = |p: u16, s: u16| {
            let data_type = DataType::Decimal { precision: Some(p), scale: Some(s) };
            Declared::plain(format!("decimal({p},{s})"), data_type).bytes(32)
        };
        let scale_max = self.scale_max();
        let (p, s) = match (precision, scale.unwrap_or(0)) {
            (Some(p), s) if p <= DIGITS_MAX && s <= scale_max => return declared(p, s),
            (Some(p), s) => {
                let kept = s.min(scale_max);
                (p.saturating_sub(s).saturating_add(kept).clamp(1, DIGITS_MAX), kept)
            }
            (None, _) => (DIGITS_MAX, 30),
        };
        declared(p, s).note(format!(
            "a number with more than {} digits before the point or {s} after it stops the mapping",
            p - s
        ))
    }

    fn text(
        &self,
        from: &Column,
        same_family: bool,
        chars_max: Option<u64>,
        bytes_max: Option<u64>,
        padded: bool,
        key_bytes: Option<u64>,
    ) -> Declared {
        let data_type = |chars: Option<u64>, bytes: u64, padded: bool| DataType::Text {
            chars_max: chars,
            bytes_max: Some(bytes),
            repertoire: Repertoire::Unicode,
            padded,
        };
        let wanted = chars_max.or(bytes_max.filter(|_| !same_family));
        let varchar = |n: u64| {
            let word = if padded && n <= CHAR_MAX { "char" } else { "varchar" };
            Declared::plain(
                format!("{word}({n})"),
                data_type(Some(n), n * CHAR_BYTES, word == "char"),
            )
            .bytes(n * CHAR_BYTES + 2)
        };
        if let Some(bytes) = key_bytes {
            let most = bytes / CHAR_BYTES;
            return match wanted {
                Some(n) if n <= most => varchar(n),
                Some(_) => varchar(most),
                None => varchar(most.min(KEY_LENGTH)),
            }
            .note_if(wanted.is_none_or(|n| n > most), |length| {
                format!("a key has a limited length here: a text of more than {length} characters stops the mapping")
            });
        }
        match wanted {
            Some(n) if n <= VARCHAR_MAX => varchar(n),
            Some(_) => Declared::plain("longtext", data_type(None, LONG, false)),
            None => {
                // The same bytes hold fewer characters where the source has a smaller character set.
                let wide = matches!(
                    from.data_type,
                    DataType::Text { repertoire: Repertoire::Unicode, .. }
                );
                let word = match (from.native.to_ascii_lowercase().as_str(), wide && same_family) {
                    ("tinytext", true) => "tinytext",
                    ("text", true) => "text",
                    ("mediumtext", true) => "mediumtext",
                    _ => "longtext",
                };
                let bytes = match word {
                    "tinytext" => 255,
                    "text" => 65_535,
                    "mediumtext" => 16_777_215,
                    _ => LONG,
                };
                Declared::plain(word, data_type(None, bytes, false))
            }
        }
    }

    /// An enum with these labels, or a text where the server could not keep them apart.
    fn labels(&self, labels: &[String]) -> Declared {
        // The server cuts blanks off the end of a label, and knows the empty text as its error value.
        let kept = |l: &String| !l.is_empty() && !l.ends_with(' ') && l.chars().count() <= 255;
        if labels.iter().all(kept) && !labels.is_empty() {
            let list: Vec<String> = labels.iter().map(|l| label(l)).collect();
            let data_type = DataType::Enum { labels: labels.to_vec().into() };
            return Declared::plain(format!("enum({})", list.join(",")), data_type);
        }
        let n = labels.iter().map(|l| l.chars().count() as u64).max().unwrap_or(0).max(63);
        let data_type = DataType::Text {
            chars_max: Some(n),
            bytes_max: Some(n * CHAR_BYTES),
            repertoire: Repertoire::Unicode,
            padded: false,
        };
        Declared::plain(format!("varchar({n})"), data_type)
            .bytes(n * CHAR_BYTES + 2)
            .note("a text here: an enum would not keep all labels as they are")
    }
}

fn bytes(
    from: &Column,
    same_family: bool,
    bytes_max: Option<u64>,
    fixed: Option<u64>,
    key_bytes: Option<u64>,
) -> Declared {
    let varbinary = |n: u64| {
        let data_type = DataType::Bytes { bytes_max: Some(n), fixed: None };
        Declared::plain(format!("varbinary({n})"), data_type).bytes(n + 2)
    };
    match (key_bytes, bytes_max) {
        (Some(_), _) if fixed.is_some() && same_family => {
            Declared::plain(from.native.clone(), from.data_type.clone())
        }
        (Some(most), Some(n)) if n <= most => varbinary(n),
        (Some(most), _) => varbinary(most.min(KEY_LENGTH)).note_if(true, |length| {
            format!("a key has a limited length here: more than {length} bytes stop the mapping")
        }),
        (None, Some(n)) if same_family => {
            let counted = from.native.to_ascii_lowercase().contains("binary");
            Declared::plain(from.native.clone(), from.data_type.clone()).bytes(if counted {
                n + 2
            } else {
                SMALL
            })
        }
        (None, _) => {
            Declared::plain("longblob", DataType::Bytes { bytes_max: Some(LONG), fixed: None })
        }
    }
}

/// A default that means here what it means at the source. MySQL allows none to long texts.
pub(super) fn default(from: &Column, to: &DataType) -> Option<ColumnDefault> {
    if matches!(to, DataType::Text { chars_max: None, .. }) {
        return None;
    }
    let native = match Literal::of(from, to)? {
        Literal::Number(number) => number,
        Literal::Text(text) => label(&text),
        Literal::Truth(truth) => u8::from(truth).to_string(),
    };
    let literal = from.default.as_ref().and_then(|d| d.literal.clone());
    Some(ColumnDefault { native, literal })
}

/// Digits after the second, where there are any.
fn digits(fsp: u8) -> String {
    if fsp == 0 { String::new() } else { format!("({fsp})") }
}

/// A label as a literal; as hex where a backslash would mean one thing or another by `sql_mode`.
fn label(text: &str) -> String {
    if text.chars().any(|c| c == '\\' || c.is_control()) {
        let hex: String = text.bytes().map(|b| format!("{b:02X}")).collect();
        return format!("x'{hex}'");
    }
    format!("'{}'", text.replace('\'', "''"))
}
