//! Character sets of text columns, and reading them as UTF-8.
//!
//! The log holds text in its column's own character set. UTF-8, UTF-16, UTF-32, ASCII and latin1 are read
//! here; the older sets (gbk, big5, sjis, latin2, …) by a table that the server itself is asked for once, so
//! that a character means what it means to that server. Both ways of reading a row, a copy and the log, go
//! through [`Charset::decode`]. Bytes that a set gives no meaning are an error, never replaced: the server
//! itself would show a question mark.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tidelock_core::{ByteString, Error, Repertoire, Result};

use crate::session::Session;

/// A character set that is read by a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    name: Arc<str>,
    single: Box<[Option<char>; 256]>,
    /// By the bytes of the character, the first one highest. No code begins another.
    longer: HashMap<u32, char>,
    chars: Arc<[char]>,
    /// gb18030: what lies beyond the Basic Multilingual Plane follows by counting.
    gb18030: bool,
}

/// A character set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Charset {
    /// `utf8mb4`.
    Utf8,
    /// `utf8mb3`: UTF-8 without the characters of four bytes.
    Utf8mb3,
    Ascii,
    /// `latin1`, which is cp1252 with the holes filled.
    Latin1,
    /// No characters: bytes.
    Binary,
    Utf16,
    /// UTF-16 without its pairs.
    Ucs2,
    Utf16le,
    Utf32,
    /// One of the older sets, with its table.
    Table(Arc<Table>),
    /// One whose table has not been asked for, or that has none.
    Other(Arc<str>),
}

/// By the server's version and the set's name.
type Tables = HashMap<(String, String), Arc<Table>>;

/// The tables read so far: they are the same on all servers of a version.
static TABLES: LazyLock<Mutex<Tables>> = LazyLock::new(Mutex::default);

/// Latin1 as MySQL means it: cp1252, with the five holes as C1 controls.
fn latin1(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž',
        '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}',
        'ž', 'Ÿ',
    ];
    HIGH.get(usize::from(byte).wrapping_sub(0x80)).copied().unwrap_or(char::from(byte))
}

impl Charset {
    /// The set of this name, as far as it needs no table.
    pub fn by_name(name: &str) -> Charset {
        match name {
            "utf8mb4" => Charset::Utf8,
            "utf8mb3" | "utf8" => Charset::Utf8mb3,
            "ascii" => Charset::Ascii,
            "latin1" => Charset::Latin1,
            "binary" => Charset::Binary,
            "utf16" => Charset::Utf16,
            "ucs2" => Charset::Ucs2,
            "utf16le" => Charset::Utf16le,
            "utf32" => Charset::Utf32,
            other => Charset::Other(other.into()),
        }
    }

    /// The set of this name with its table, if that has been read from a server of this version.
    pub fn known(name: &str, version: &str) -> Charset {
        match Charset::by_name(name) {
            Charset::Other(name) => {
                let tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
                match tables.get(&(version.to_owned(), name.to_string())) {
                    Some(table) => Charset::Table(table.clone()),
                    None => Charset::Other(name),
                }
            }
            charset => charset,
        }
    }

    /// The set of this name; its table is read from the server where it has not been yet.
    pub async fn load(session: &mut Session, name: &str) -> Result<Charset> {
        let version = session.version.clone();
        if let Charset::Other(name) = Charset::known(name, &version)
            && let Some(table) = Table::read(session, &name).await?
        {
            let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
            tables.insert((version.clone(), name.to_string()), Arc::new(table));
        }
        Ok(Charset::known(name, &version))
    }

    /// Reads the tables of all sets that need one: a client may name things in any of them.
    pub async fn load_all(session: &mut Session) -> Result<()> {
        let sql = "SELECT character_set_name FROM information_schema.character_sets";
        for name in session.query::<String>(sql).await? {
            Charset::load(session, &name).await?;
        }
        Ok(())
    }

    /// Whether the bytes of a text are its UTF-8.
    pub fn is_utf8(&self) -> bool {
        matches!(self, Charset::Utf8 | Charset::Utf8mb3 | Charset::Ascii)
    }

    /// What a column of this set can store.
    pub fn repertoire(&self) -> Repertoire {
        match self {
            Charset::Utf8 | Charset::Utf16 | Charset::Utf16le | Charset::Utf32 => {
                Repertoire::Unicode
            }
            Charset::Utf8mb3 | Charset::Ucs2 => Repertoire::Bmp,
            Charset::Ascii => Repertoire::Ascii,
            Charset::Latin1 => {
                let chars: BTreeSet<char> = (0..=255).map(latin1).collect();
                Repertoire::Listed { name: "latin1".into(), chars: chars.into_iter().collect() }
            }
            Charset::Table(table) if table.gb18030 => Repertoire::Unicode,
            Charset::Table(table) => {
                Repertoire::Listed { name: table.name.clone(), chars: table.chars.clone() }
            }
            Charset::Binary | Charset::Other(_) => Repertoire::Unknown,
        }
    }

    /// The text that these bytes stand for; `None` if they stand for none.
    pub fn decode(&self, bytes: &[u8]) -> Option<ByteString> {
        let text: Cow<'_, str> = match self {
            Charset::Utf8 | Charset::Utf8mb3 | Charset::Ascii => {
                std::str::from_utf8(bytes).ok()?.into()
            }
            Charset::Latin1 if bytes.is_ascii() => std::str::from_utf8(bytes).ok()?.into(),
            Charset::Latin1 => bytes.iter().map(|b| latin1(*b)).collect::<String>().into(),
            Charset::Utf16 | Charset::Ucs2 | Charset::Utf16le => {
                if !bytes.len().is_multiple_of(2) {
                    return None;
                }
                let little = *self == Charset::Utf16le;
                let units = bytes.chunks_exact(2).map(|pair| {
                    let pair = [pair[0], pair[1]];
                    if little { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
                });
                char::decode_utf16(units).collect::<std::result::Result<String, _>>().ok()?.into()
            }
            Charset::Utf32 => {
                let (codes, rest) = bytes.as_chunks::<4>();
                let chars = codes.iter().map(|c| char::from_u32(u32::from_be_bytes(*c)));
                if rest.is_empty() {
                    chars.collect::<Option<String>>()?.into()
                } else {
                    return None;
                }
            }
            Charset::Table(table) => table.decode(bytes)?.into(),
            Charset::Binary | Charset::Other(_) => return None,
        };
        Some(ByteString::from(text.into_owned()))
    }
}

impl Table {
    fn decode(&self, bytes: &[u8]) -> Option<String> {
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((&first, after)) = rest.split_first() {
            if let Some(Some(c)) = self.single.get(usize::from(first)) {
                text.push(*c);
                rest = after;
                continue;
            }
            let (c, length) = self.longer(rest)?;
            text.push(c);
            rest = rest.get(length..)?;
        }
        Some(text)
    }

    fn longer(&self, bytes: &[u8]) -> Option<(char, usize)> {
        let mut code = u32::from(*bytes.first()?);
        for (i, byte) in bytes.iter().enumerate().take(4).skip(1) {
            code = code << 8 | u32::from(*byte);
            if let Some(c) = self.longer.get(&code) {
                return Some((*c, i + 1));
            }
        }
        match bytes {
            [a, b, c, d, ..] if self.gb18030 => {
                let digit = |byte: &u8, low: u8, high: u8| {
                    (low..=high).contains(byte).then(|| u32::from(byte - low))
                };
                let places = (digit(a, 0x90, 0xe3)? * 10 + digit(b, 0x30, 0x39)?) * 1260;
                let index = places + digit(c, 0x81, 0xfe)? * 10 + digit(d, 0x30, 0x39)?;
                char::from_u32(0x1_0000 + index).map(|c| (c, 4))
            }
            _ => None,
        }
    }

    /// Asks the server what each code of a set means; `None` if the set is no text to it.
    async fn read(session: &mut Session, name: &str) -> Result<Option<Table>> {
        // It stands in statements below.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let mut single = Box::new([None; 256]);
        for (code, c) in ask(session, name, "code", 2, "code < 256").await? {
            if let Some(place) = single.get_mut(code as usize) {
                *place = Some(c);
            }
        }
        let mut longer = HashMap::new();
        let width: Vec<u64> = session
            .query(&format!(
                "SELECT maxlen FROM information_schema.character_sets WHERE character_set_name = '{name}'"
            ))
            .await?;
        let width = width.into_iter().next().unwrap_or(1);
        if width > 1 {
            longer.extend(ask(session, name, "code", 4, "code >= 32768").await?);
        }
        if width == 3 {
            // JIS X 0212 stands behind one lead byte.
            let code = "9371648 + code";
            longer.extend(ask(session, name, code, 6, "code >= 32768").await?);
        }
        let gb18030 = name == "gb18030";
        if gb18030 {
            // The four-byte codes of the Basic Multilingual Plane, by counting them.
            let code = "((129 + code DIV 12600) << 24) + ((48 + code DIV 1260 MOD 10) << 16) \
                        + ((129 + code DIV 10 MOD 126) << 8) + 48 + code MOD 10";
            longer.extend(ask(session, name, code, 8, "code < 50400").await?);
        }
        let chars: BTreeSet<char> =
            single.iter().flatten().chain(longer.values()).copied().collect();
        if chars.is_empty() {
            return Ok(None);
        }
        let chars = chars.into_iter().collect();
        Ok(Some(Table { name: name.into(), single, longer, chars, gb18030 }))
    }
}

/// The characters of the codes that an expression over `code` (0 to 65,535) gives, as so many hexadecimal digits.
async fn ask(
    session: &mut Session,
    charset: &str,
    expression: &str,
    digits: usize,
    which: &str,
) -> Result<Vec<(u32, char)>> {
    let sixteen =
        (0..16).map(|n| format!("SELECT {n} AS n")).collect::<Vec<_>>().join(" UNION ALL ");
    // A question mark stands for what has no meaning, except at its own place. It is told by its bytes: a collation may
    // hold the full-width one equal to it.
    let sql = format!(
        "SELECT full_code, u FROM (SELECT full_code, \
         CONVERT(CONVERT(UNHEX(LPAD(HEX(full_code), {digits}, '0')) USING {charset}) USING utf8mb4) AS u \
         FROM (SELECT {expression} AS full_code FROM \
         (SELECT a.n * 4096 + b.n * 256 + c.n * 16 + d.n AS code FROM ({sixteen}) a JOIN ({sixteen}) b \
         JOIN ({sixteen}) c JOIN ({sixteen}) d) codes WHERE {which}) wanted) found \
         WHERE CHAR_LENGTH(u) = 1 AND (HEX(u) <> '3F' OR full_code = 63)"
    );
    let rows: Vec<(u32, String)> = session.query(&sql).await?;
    rows.into_iter()
        .map(|(code, text)| match text.chars().next() {
            Some(c) => Ok((code, c)),
            None => Err(Error::bug("a character set gave an empty character")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin1_is_cp1252_with_filled_holes() {
        let text = Charset::Latin1.decode(&[0x80, 0xe9, b'a', 0x81]);
        assert_eq!(text.as_deref(), Some("€éa\u{81}"));
        assert!(Charset::Latin1.repertoire().holds("Grüße, 5 €"));
        assert!(!Charset::Latin1.repertoire().holds("中"));
    }

    #[test]
    fn wide_characters_are_read_by_pairs_and_refused_in_halves() {
        let text = |charset: Charset, bytes: &[u8]| charset.decode(bytes).map(|t| t.to_string());
        assert_eq!(
            text(Charset::Utf16, &[0x4e, 0x2d, 0xd8, 0x3d, 0xde, 0x00]),
            Some("中😀".into())
        );
        assert_eq!(text(Charset::Utf16le, &[0x2d, 0x4e]), Some("中".into()));
        assert_eq!(text(Charset::Utf32, &[0, 1, 0xf6, 0]), Some("😀".into()));
        assert_eq!(text(Charset::Utf16, &[0xd8, 0x3d]), None);
        assert_eq!(text(Charset::Utf16, &[0x4e]), None);
        assert_eq!(text(Charset::Utf32, &[0, 0, 0x4e]), None);
        assert_eq!(text(Charset::Utf8, &[0xff]), None);
    }

    #[test]
    fn a_table_takes_the_shortest_code_that_has_a_meaning() {
        let mut single = Box::new([None; 256]);
        single[usize::from(b'a')] = Some('a');
        let longer = HashMap::from([(0xd6d0, '中'), (0x8fb0a1, '丂')]);
        let table = Table {
            name: "x".into(),
            single,
            longer,
            chars: ['a', '丂', '中'].into(),
            gb18030: true,
        };
        assert_eq!(table.decode(&[b'a', 0xd6, 0xd0, 0x8f, 0xb0, 0xa1]), Some("a中丂".into()));
        assert_eq!(table.decode(&[0x90, 0x30, 0x81, 0x30]), Some("\u{10000}".into()));
        assert_eq!(table.decode(&[0x94, 0x39, 0xfc, 0x36]), Some("😀".into()));
        assert_eq!(table.decode(&[0xd6]), None);
        assert_eq!(table.decode(&[0x80, 0x80, 0x80]), None);
    }
}
