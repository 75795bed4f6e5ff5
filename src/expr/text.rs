//! Functions on text and bytes. Lengths and places count characters, as PostgreSQL does in a UTF-8 database.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use md5::{Digest as _, Md5};
use sha2::{Digest as _, Sha256};
use tidelock_core::Bytes;
use uuid::Uuid;

use super::cell::{Cell, Text};
use super::error::Fail;

/// No function makes a longer text than this.
const BYTES_MAX: usize = 64 * 1024 * 1024;

type Out<'a> = Result<Cell<'a>, Fail>;

fn text<'c, 'a>(args: &'c [Cell<'a>], at: usize) -> Result<&'c Text<'a>, Fail> {
    match args.get(at) {
        Some(Cell::Text(text)) => Ok(text),
        _ => Err(Fail::unexpected()),
    }
}

fn int(args: &[Cell<'_>], at: usize) -> Result<i64, Fail> {
    match args.get(at) {
        Some(Cell::Int(i)) => Ok(*i),
        _ => Err(Fail::unexpected()),
    }
}

fn bounded(bytes: usize) -> Result<(), Fail> {
    if bytes > BYTES_MAX { Err(Fail::range("the text would be too long")) } else { Ok(()) }
}

/// The place of the character number `n` in bytes; the end if there are fewer.
fn offset(text: &str, n: usize) -> usize {
    if text.is_ascii() {
        return n.min(text.len());
    }
    text.char_indices().nth(n).map_or(text.len(), |(at, _)| at)
}

fn chars(text: &str) -> i64 {
    let count = if text.is_ascii() { text.len() } else { text.chars().count() };
    count as i64
}

fn simple(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn lower_of(c: char) -> char {
    match c {
        // Its small letter is one of two characters where nothing is lost.
        'İ' => 'i',
        c => simple(c, c.to_lowercase()),
    }
}

fn upper_of(c: char) -> char {
    match c {
        // Greek letters with an iota below, which stands beside them in full upper case.
        'ᾀ'..='ᾇ' | 'ᾐ'..='ᾗ' | 'ᾠ'..='ᾧ' => {
            char::from_u32(u32::from(c) + 8).unwrap_or(c)
        }
        'ᾳ' => 'ᾼ',
        'ῃ' => 'ῌ',
        'ῳ' => 'ῼ',
        c => simple(c, c.to_uppercase()),
    }
}

/// Lower case, a character for a character.
pub fn lower_simple(text: &str) -> String {
    text.chars().map(lower_of).collect()
}

pub fn upper<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let text = text(args, 0)?;
    if !text.chars().any(|c| !c.is_ascii() || c.is_ascii_lowercase()) {
        return Ok(Cell::Text(text.clone()));
    }
    if text.is_ascii() {
        return Ok(Cell::text(text.to_ascii_uppercase()));
    }
    Ok(Cell::text(text.chars().map(upper_of).collect::<String>()))
}

pub fn lower<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let text = text(args, 0)?;
    if !text.chars().any(|c| !c.is_ascii() || c.is_ascii_uppercase()) {
        return Ok(Cell::Text(text.clone()));
    }
    if text.is_ascii() {
        return Ok(Cell::text(text.to_ascii_lowercase()));
    }
    Ok(Cell::text(lower_simple(text)))
}

pub fn initcap<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let mut inside = false;
    let capped: String = text(args, 0)?
        .chars()
        .map(|c| {
            let mapped = if inside { lower_of(c) } else { upper_of(c) };
            inside = c.is_alphanumeric();
            mapped
        })
        .collect();
    Ok(Cell::text(capped))
}

fn trimmed<'a>(args: &[Cell<'a>], start: bool, end: bool) -> Out<'a> {
    let whole = text(args, 0)?;
    let set = if args.len() > 1 { &**text(args, 1)? } else { " " };
    let inside = |c: char| set.contains(c);
    let mut part: &str = whole;
    if start {
        part = part.trim_start_matches(inside);
    }
    if end {
        part = part.trim_end_matches(inside);
    }
    Ok(Cell::Text(whole.part(part)))
}

pub fn btrim<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    trimmed(args, true, true)
}

pub fn ltrim<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    trimmed(args, true, false)
}

pub fn rtrim<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    trimmed(args, false, true)
}

pub fn substring<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let whole = text(args, 0)?;
    let start = int(args, 1)?;
    let end = match args.len() {
        2 => i64::MAX,
        _ => {
            let count = int(args, 2)?;
            if count < 0 {
                return Err(Fail::argument("negative substring length"));
            }
            start.saturating_add(count)
        }
    };
    let place =
        |n: i64| offset(whole, usize::try_from(n.saturating_sub(1).max(0)).unwrap_or(usize::MAX));
    let (from, to) = (place(start), place(end));
    Ok(Cell::Text(whole.part(whole.get(from..to.max(from)).unwrap_or(""))))
}

pub fn left<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, n) = (text(args, 0)?, int(args, 1)?);
    let n = if n < 0 { (chars(whole) + n).max(0) } else { n };
    let end = offset(whole, usize::try_from(n).unwrap_or(usize::MAX));
    Ok(Cell::Text(whole.part(whole.get(..end).unwrap_or(""))))
}

pub fn right<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, n) = (text(args, 0)?, int(args, 1)?);
    let skipped = if n < 0 { n.saturating_neg() } else { (chars(whole) - n).max(0) };
    let start = offset(whole, usize::try_from(skipped).unwrap_or(usize::MAX));
    Ok(Cell::Text(whole.part(whole.get(start..).unwrap_or(""))))
}

pub fn length<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    match args {
        [Cell::Bytes(bytes)] => Ok(Cell::Int(bytes.len() as i64)),
        _ => Ok(Cell::Int(chars(text(args, 0)?))),
    }
}

pub fn octet_length<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    match args {
        [Cell::Bytes(bytes)] => Ok(Cell::Int(bytes.len() as i64)),
        _ => Ok(Cell::Int(text(args, 0)?.len() as i64)),
    }
}

pub fn replace<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    if from.is_empty() || !whole.contains(&**from) {
        return Ok(Cell::Text(whole.clone()));
    }
    bounded(whole.len().saturating_add((whole.len() / from.len()).saturating_mul(to.len())))?;
    Ok(Cell::text(whole.replace(&**from, to)))
}

pub fn split_part<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, by, n) = (text(args, 0)?, text(args, 1)?, int(args, 2)?);
    let place = |n: i64| usize::try_from(n.saturating_sub(1)).unwrap_or(usize::MAX);
    let found = match n {
        0 => return Err(Fail::argument("the number of a part must not be zero")),
        1 | -1 if by.is_empty() => Some(&**whole),
        _ if by.is_empty() || whole.is_empty() => None,
        n if n > 0 => whole.split(&**by).nth(place(n)),
        n => {
            // Parts are counted from the end, but found from the start.
            let count = whole.split(&**by).count();
            count
                .checked_sub(usize::try_from(n.saturating_neg()).unwrap_or(usize::MAX))
                .and_then(|at| whole.split(&**by).nth(at))
        }
    };
    Ok(Cell::Text(whole.part(found.unwrap_or(""))))
}

fn padded<'a>(args: &[Cell<'a>], before: bool) -> Out<'a> {
    let (whole, want) = (text(args, 0)?, int(args, 1)?.max(0));
    let fill = if args.len() > 2 { &**text(args, 2)? } else { " " };
    let missing = want - chars(whole);
    if missing <= 0 || fill.is_empty() {
        let end = offset(whole, usize::try_from(want).unwrap_or(usize::MAX));
        return Ok(Cell::Text(whole.part(whole.get(..end).unwrap_or(""))));
    }
    let missing = usize::try_from(missing).unwrap_or(usize::MAX);
    bounded(missing.saturating_mul(4))?;
    let filling: String = fill.chars().cycle().take(missing).collect();
    Ok(Cell::text(if before { filling + whole } else { format!("{}{filling}", &**whole) }))
}

pub fn lpad<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    padded(args, true)
}

pub fn rpad<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    padded(args, false)
}

pub fn strpos<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, part) = (text(args, 0)?, text(args, 1)?);
    Ok(Cell::Int(whole.find(&**part).map_or(0, |at| chars(whole.get(..at).unwrap_or("")) + 1)))
}

pub fn starts_with<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Bool(text(args, 0)?.starts_with(&**text(args, 1)?)))
}

pub fn reverse<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::text(text(args, 0)?.chars().rev().collect::<String>()))
}

pub fn repeat<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, n) = (text(args, 0)?, int(args, 1)?.max(0));
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    bounded(whole.len().saturating_mul(n))?;
    Ok(Cell::text(if whole.is_empty() { String::new() } else { whole.repeat(n) }))
}

pub fn translate<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, from, to) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let mapped = whole.chars().filter_map(|c| match from.chars().position(|f| f == c) {
        Some(at) => to.chars().nth(at),
        None => Some(c),
    });
    Ok(Cell::text(mapped.collect::<String>()))
}

pub fn overlay<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, new, start) = (text(args, 0)?, text(args, 1)?, int(args, 2)?);
    let count = if args.len() > 3 { int(args, 3)? } else { chars(new) };
    if start <= 0 {
        return Err(Fail::argument("negative substring length"));
    }
    let place = |n: i64| offset(whole, usize::try_from(n.max(0)).unwrap_or(usize::MAX));
    let before = whole.get(..place(start - 1)).unwrap_or("");
    let after = whole.get(place((start - 1).saturating_add(count))..).unwrap_or("");
    Ok(Cell::text(format!("{before}{}{after}", &**new)))
}

pub fn ascii<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Int(text(args, 0)?.chars().next().map_or(0, |c| i64::from(u32::from(c)))))
}

pub fn chr<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let code = int(args, 0)?;
    if code < 0 {
        return Err(Fail::argument("the number of a character must be positive"));
    }
    let c = u32::try_from(code).ok().filter(|c| *c != 0).and_then(char::from_u32);
    c.map(|c| Cell::text(c.to_string())).ok_or_else(|| Fail::range("no character has this number"))
}

pub fn to_hex<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::text(format!("{:x}", int(args, 0)?)))
}

pub fn to_hex_int4<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::text(format!("{:x}", int(args, 0)? as i32)))
}

/// `||`, of a whole chain at once.
pub fn join<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    if let Some(Cell::Bytes(_)) = args.first() {
        let mut out = Vec::new();
        for cell in args.iter() {
            let Cell::Bytes(bytes) = cell else { return Err(Fail::unexpected()) };
            out.extend_from_slice(bytes);
            bounded(out.len())?;
        }
        return Ok(Cell::Bytes(out.into()));
    }
    // Numbers are rarely longer than this.
    const OTHER: usize = 20;
    let length = |cell: &Cell<'_>| if let Cell::Text(text) = cell { text.len() } else { OTHER };
    let mut out = String::with_capacity(args.iter().map(length).sum());
    for cell in args.iter() {
        match cell {
            Cell::Text(text) => out.push_str(text),
            Cell::Int(i) => {
                // Writing to a String cannot fail.
                let _written = write!(out, "{i}");
            }
            other => out.push_str(&other.form().ok_or_else(Fail::unexpected)?),
        }
        bounded(out.len())?;
    }
    Ok(Cell::text(out))
}

/// The text of a value as an output function writes it: truth values are one letter.
fn output<'a>(cell: &Cell<'a>) -> Option<Text<'a>> {
    match cell {
        Cell::Bool(true) => Some(Text::Own("t".into())),
        Cell::Bool(false) => Some(Text::Own("f".into())),
        other => other.form(),
    }
}

fn joined(cells: &[Cell<'_>], by: &str) -> Out<'static> {
    let mut out = String::new();
    let mut first = true;
    for part in cells.iter().filter_map(output) {
        if !first {
            out.push_str(by);
        }
        first = false;
        out.push_str(&part);
        bounded(out.len())?;
    }
    Ok(Cell::text(out))
}

/// NULLs are left out.
pub fn concat<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    joined(args, "")
}

pub fn concat_ws<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    match args.split_first() {
        Some((Cell::Null, _)) => Ok(Cell::Null),
        Some((Cell::Text(by), rest)) => joined(rest, by),
        _ => Err(Fail::unexpected()),
    }
}

/// The bytes of text or bytes.
fn octets<'c>(args: &'c [Cell<'_>]) -> Result<&'c [u8], Fail> {
    match args.first() {
        Some(Cell::Bytes(bytes)) => Ok(bytes),
        Some(Cell::Text(text)) => Ok(text.as_bytes()),
        _ => Err(Fail::unexpected()),
    }
}

pub fn md5_hex<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::text(hex::encode(Md5::digest(octets(args)?))))
}

pub fn sha256<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::Bytes(Bytes::copy_from_slice(&Sha256::digest(octets(args)?))))
}

pub fn sha256_hex<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(Cell::text(hex::encode(Sha256::digest(octets(args)?))))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Characters of base64 on a line.
const LINE: usize = 76;

pub fn encode<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (bytes, how) = (octets(args)?, text(args, 1)?);
    Ok(Cell::text(match how.to_ascii_lowercase().as_str() {
        "hex" => hex::encode(bytes),
        "base64" => {
            let plain = BASE64.encode(bytes);
            let mut lines = String::with_capacity(plain.len() + plain.len() / LINE);
            for at in (0..plain.len()).step_by(LINE) {
                let line = plain.get(at..plain.len().min(at + LINE)).unwrap_or("");
                lines.push_str(line);
                // A line that is full ends, the last one too.
                if line.len() == LINE {
                    lines.push('\n');
                }
            }
            lines
        }
        _ => return Err(Fail::argument("encodings are 'hex' and 'base64'")),
    }))
}

pub fn decode<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let (whole, how) = (text(args, 0)?, text(args, 1)?);
    let plain: String = whole.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r')).collect();
    let bytes = match how.to_ascii_lowercase().as_str() {
        "hex" => hex::decode(plain).ok(),
        "base64" => BASE64.decode(plain).ok(),
        _ => return Err(Fail::argument("encodings are 'hex' and 'base64'")),
    };
    bytes
        .map(|b| Cell::Bytes(b.into()))
        .ok_or_else(|| Fail::text("the text is not of that encoding"))
}

fn utf8(name: &str) -> Result<(), Fail> {
    let name = name.to_ascii_lowercase();
    if matches!(name.as_str(), "utf8" | "utf-8") {
        Ok(())
    } else {
        Err(Fail::argument("the only encoding is 'UTF8'"))
    }
}

pub fn convert_to<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    utf8(text(args, 1)?)?;
    Ok(Cell::Bytes(Bytes::copy_from_slice(text(args, 0)?.as_bytes())))
}

pub fn convert_from<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    utf8(text(args, 1)?)?;
    let whole =
        std::str::from_utf8(octets(args)?).map_err(|_| Fail::text("the bytes are not UTF-8"))?;
    if whole.contains('\0') {
        return Err(Fail::text("the text holds a NUL character"));
    }
    Ok(Cell::text(whole.to_owned()))
}

/// A name-based UUID (version 5): the same name gives the same one, however often a row is replayed.
pub fn uuid_v5<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let Some(Cell::Uuid(namespace)) = args.first() else { return Err(Fail::unexpected()) };
    let id = Uuid::new_v5(&Uuid::from_bytes(*namespace), text(args, 1)?.as_bytes());
    Ok(Cell::Uuid(*id.as_bytes()))
}

pub const UUID_NAMESPACES: [(&str, Uuid); 4] = [
    ("uuid_ns_dns", Uuid::NAMESPACE_DNS),
    ("uuid_ns_url", Uuid::NAMESPACE_URL),
    ("uuid_ns_oid", Uuid::NAMESPACE_OID),
    ("uuid_ns_x500", Uuid::NAMESPACE_X500),
];

/// All but the last four characters as stars; four or fewer all of them, because they would be the whole.
pub fn last4(text: &str) -> String {
    let count = text.chars().count();
    let kept = if count > 4 { 4 } else { 0 };
    let hidden = count - kept;
    text.chars().enumerate().map(|(i, c)| if i < hidden { '*' } else { c }).collect()
}
