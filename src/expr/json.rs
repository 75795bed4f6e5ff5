//! JSON as text: parts are found without parsing the rest, and what comes out of a document is the very text that stood
//! in it.

use super::cell::{Cell, Text};
use super::error::Fail;

type Out<'a> = Result<Cell<'a>, Fail>;

/// Documents nested deeper are refused.
const DEPTH_MAX: usize = 500;

fn broken() -> Fail {
    Fail::text("the text is not valid json")
}

/// Refuses what is no JSON document.
pub fn check(text: &str) -> Result<(), Fail> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(|_| ()).map_err(|_| broken())
}

fn blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// The value that a text begins with, and what follows it.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = blanks(text);
    let bytes = text.as_bytes();
    let end = match bytes.first()? {
        b'"' => string_end(bytes, 0)?,
        b'{' | b'[' => {
            let (mut depth, mut at) = (0usize, 0);
            loop {
                match bytes.get(at)? {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    b'"' => {
                        at = string_end(bytes, at)?;
                        continue;
                    }
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break at;
                }
            }
        }
        b',' | b'}' | b']' | b':' => return None,
        _ => text.find([',', '}', ']', ' ', '\t', '\n', '\r', ':']).unwrap_or(text.len()),
    };
    text.split_at_checked(end)
}

/// The place behind the string whose opening quote is at `at`.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// The members of an object or array: `None` behind the last, an error if the text ends early.
struct Members<'t> {
    rest: &'t str,
    keyed: bool,
}

impl<'t> Members<'t> {
    /// `None` for a scalar.
    fn of(document: &'t str) -> Option<Members<'t>> {
        let text = blanks(document);
        let keyed = text.starts_with('{');
        if !keyed && !text.starts_with('[') {
            return None;
        }
        Some(Members { rest: blanks(text.get(1..).unwrap_or("")), keyed })
    }

    fn next(&mut self) -> Result<Option<(&'t str, &'t str)>, Fail> {
        if self.rest.starts_with(['}', ']']) {
            return Ok(None);
        }
        let mut key = "";
        if self.keyed {
            let (name, after) = value(self.rest).ok_or_else(broken)?;
            key = name;
            self.rest = blanks(after).strip_prefix(':').ok_or_else(broken)?;
        }
        let (member, after) = value(self.rest).ok_or_else(broken)?;
        let after = blanks(after);
        self.rest = match after.strip_prefix(',') {
            Some(more) => blanks(more),
            None if after.starts_with(['}', ']']) => after,
            None => return Err(broken()),
        };
        Ok(Some((key, member)))
    }
}

/// The string that a literal with quotes stands for.
fn unquoted(literal: &str) -> Result<String, Fail> {
    serde_json::from_str(literal).map_err(|_| broken())
}

fn is_key(literal: &str, key: &str) -> bool {
    let inner = literal.get(1..literal.len().saturating_sub(1)).unwrap_or("");
    if inner.contains('\\') { unquoted(literal).is_ok_and(|k| k == key) } else { inner == key }
}

/// The member of this name; of two, the last.
fn field<'t>(document: &'t str, key: &str) -> Result<Option<&'t str>, Fail> {
    let Some(mut members) = Members::of(document).filter(|m| m.keyed) else { return Ok(None) };
    let mut found = None;
    while let Some((name, member)) = members.next()? {
        if is_key(name, key) {
            found = Some(member);
        }
    }
    Ok(found)
}

/// The element at this place, from the end if negative.
fn element(document: &str, index: i64) -> Result<Option<&str>, Fail> {
    let all = || Members::of(document).filter(|m| !m.keyed);
    let place = if index < 0 {
        let Some(mut members) = all() else { return Ok(None) };
        let mut count = 0i64;
        while members.next()?.is_some() {
            count += 1;
        }
        count + index
    } else {
        index
    };
    let Some(mut members) = all().filter(|_| place >= 0) else { return Ok(None) };
    let mut at = 0;
    while let Some((_, member)) = members.next()? {
        if at == place {
            return Ok(Some(member));
        }
        at += 1;
    }
    Ok(None)
}

fn part<'a>(args: &[Cell<'a>]) -> Result<Option<Text<'a>>, Fail> {
    let found = match args {
        [Cell::Json(document), Cell::Text(key)] => {
            field(document, key)?.map(|part| document.part(part))
        }
        [Cell::Json(document), Cell::Int(index)] => {
            element(document, *index)?.map(|part| document.part(part))
        }
        _ => return Err(Fail::unexpected()),
    };
    Ok(found)
}

/// `->`
pub fn arrow<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(part(args)?.map_or(Cell::Null, Cell::Json))
}

/// `->>`
pub fn arrow_text<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    match part(args)? {
        Some(part) => shown(part),
        None => Ok(Cell::Null),
    }
}

/// A part as text: a string without its quotes, JSON's null as NULL.
fn shown(part: Text<'_>) -> Out<'_> {
    if &*part == "null" {
        return Ok(Cell::Null);
    }
    if !part.starts_with('"') {
        return Ok(Cell::Text(part));
    }
    let inner = part.get(1..part.len().saturating_sub(1)).unwrap_or("");
    if inner.contains('\\') {
        unquoted(&part).map(Cell::text)
    } else {
        Ok(Cell::Text(part.part(inner)))
    }
}

/// `#>` by the parts of a path; a number counts elements where it meets an array.
fn walk<'a>(args: &[Cell<'a>]) -> Result<Option<Text<'a>>, Fail> {
    let Some((Cell::Json(document), path)) = args.split_first() else {
        return Err(Fail::unexpected());
    };
    let mut at = document.clone();
    for step in path {
        let Cell::Text(step) = step else { return Err(Fail::unexpected()) };
        let found = if blanks(&at).starts_with('[') {
            match step.parse() {
                Ok(index) => element(&at, index)?,
                Err(_) => None,
            }
        } else {
            field(&at, step)?
        };
        let Some(found) = found else { return Ok(None) };
        at = at.part(found);
    }
    Ok(Some(at))
}

/// `#>` and `json_extract_path`
pub fn path<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    Ok(walk(args)?.map_or(Cell::Null, Cell::Json))
}

/// `#>>` and `json_extract_path_text`
pub fn path_text<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    match walk(args)? {
        Some(part) => shown(part),
        None => Ok(Cell::Null),
    }
}

/// `json_typeof`
pub fn type_of<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let [Cell::Json(document)] = args else { return Err(Fail::unexpected()) };
    let name = match blanks(document).as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "number",
        _ => return Err(broken()),
    };
    Ok(Cell::text(name))
}

/// `json_array_length`
pub fn array_length<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let [Cell::Json(document)] = args else { return Err(Fail::unexpected()) };
    let Some(mut members) = Members::of(document).filter(|m| !m.keyed) else {
        return Err(Fail::argument("the json document is no array"));
    };
    let mut count = 0;
    while members.next()?.is_some() {
        count += 1;
    }
    Ok(Cell::Int(count))
}

/// A scalar in a JSON document as text, for casts to numbers and truth values; `None` for JSON's null.
pub fn scalar(document: &str) -> Result<Option<&str>, Fail> {
    let text = document.trim_matches([' ', '\t', '\n', '\r']);
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b't' | b'f' | b'-' | b'0'..=b'9') => Ok(Some(text)),
        _ => Err(Fail::argument("the json document is no scalar of that type")),
    }
}

/// A string with quotes.
pub fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A value as JSON: numbers and truth values bare, times in ISO form, all else as a string.
fn write(cell: &Cell<'_>, out: &mut String) {
    match cell {
        Cell::Null | Cell::Unchanged => out.push_str("null"),
        Cell::Json(text) => out.push_str(text),
        Cell::Bool(_) | Cell::Int(_) => {
            out.push_str(&cell.form().map_or(String::new(), |t| t.to_string()))
        }
        Cell::Dec(_) | Cell::Real(_) | Cell::Double(_) => {
            let text = cell.form().map_or(String::new(), |t| t.to_string());
            let finite = !text.ends_with(['N', 'y']);
            if finite { out.push_str(&text) } else { quote(&text, out) }
        }
        Cell::Stamp(t) | Cell::Instant(t) => {
            let text = cell.form().map_or(String::new(), |t| t.to_string());
            if super::datetime::infinite(*t) {
                return quote(&text, out);
            }
            let iso = text.replacen(' ', "T", 1);
            match iso.split_once("+00") {
                Some((before, after)) => quote(&format!("{before}+00:00{after}"), out),
                None => quote(&iso, out),
            }
        }
        other => quote(&other.form().map_or(String::new(), |t| t.to_string()), out),
    }
}

/// `to_json`, `to_jsonb`
pub fn to_json<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let [cell] = args else { return Err(Fail::unexpected()) };
    if let Cell::Json(text) = cell {
        return Ok(Cell::Json(text.clone()));
    }
    let mut out = String::new();
    write(cell, &mut out);
    Ok(Cell::Json(Text::Own(out.into())))
}

fn build_object(args: &[Cell<'_>], colon: &str) -> Result<String, Fail> {
    let mut out = "{".to_owned();
    for pair in args.chunks(2) {
        let [key, member] = pair else { return Err(Fail::unexpected()) };
        let Some(key) = key.form() else {
            return Err(Fail::argument("a key of a json object must not be NULL"));
        };
        if out.len() > 1 {
            out.push_str(", ");
        }
        quote(&key, &mut out);
        out.push_str(colon);
        write(member, &mut out);
    }
    out.push('}');
    Ok(out)
}

pub fn json_build_object<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    build_object(args, " : ").map(|text| Cell::Json(Text::Own(text.into())))
}

pub fn jsonb_build_object<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let text = build_object(args, ": ")?;
    normal(&text).map(|text| Cell::Json(Text::Own(text.into())))
}

pub fn build_array<'a>(args: &mut [Cell<'a>]) -> Out<'a> {
    let mut out = "[".to_owned();
    for (i, cell) in args.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(cell, &mut out);
    }
    out.push(']');
    Ok(Cell::Json(Text::Own(out.into())))
}

/// The form that `jsonb` gives a document: keys in its order, the last of two, no blanks but its own.
pub fn normal(document: &str) -> Result<String, Fail> {
    check(document)?;
    let mut out = String::with_capacity(document.len());
    normalize(document, DEPTH_MAX, &mut out)?;
    Ok(out)
}

fn normalize(document: &str, depth: usize, out: &mut String) -> Result<(), Fail> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Fail::range("the json document is nested too deeply"));
    };
    let (text, _) = value(document).ok_or_else(broken)?;
    let Some(mut members) = Members::of(text) else {
        match text.as_bytes().first() {
            Some(b'"') => quote(&unquoted(text)?, out),
            Some(b'-' | b'0'..=b'9') => {
                let number = super::decimal::Dec::parse(text)
                    .ok_or_else(|| Fail::range("the number is too large"))?;
                out.push_str(&number.text());
            }
            _ => out.push_str(text),
        }
        return Ok(());
    };
    if !members.keyed {
        out.push('[');
        let mut first = true;
        while let Some((_, member)) = members.next()? {
            if !first {
                out.push_str(", ");
            }
            first = false;
            normalize(member, depth, out)?;
        }
        out.push(']');
        return Ok(());
    }
    let mut entries: Vec<(String, &str)> = Vec::new();
    while let Some((key, member)) = members.next()? {
        let key = unquoted(key)?;
        match entries.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = member,
            None => entries.push((key, member)),
        }
    }
    entries.sort_by(|(a, _), (b, _)| {
        a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
    });
    out.push('{');
    for (i, (key, member)) in entries.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        quote(key, out);
        out.push_str(": ");
        normalize(member, depth, out)?;
    }
    out.push('}');
    Ok(())
}
