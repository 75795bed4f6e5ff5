//! What a database that keeps JSON parsed would lose of a document without a word. Pure.

use std::collections::HashSet;

/// How a column keeps JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonForm {
    /// As the text that was written.
    Text,
    /// Parsed, with numbers of any length (`jsonb`).
    Exact,
    /// Parsed, with numbers that are no 64-bit integers kept in double precision (MySQL's `JSON`).
    Doubles,
}

/// Why a parsed form (`jsonb`, MySQL's `JSON`) does not hold all of this document: of two equal keys of an
/// object only one would stay, and a NUL character has no place in its strings, and a number may have more digits than it keeps. `None` where
/// all of it stays, or where the text is no JSON at all: that the server refuses by itself.
pub fn json_loss(text: &str, form: JsonForm) -> Option<&'static str> {
    if form == JsonForm::Text {
        return None;
    }
    let rounds = |gap: &str| form == JsonForm::Doubles && rounds(gap);
    // The keys seen in each open object; `None` stands for an open array.
    let mut open: Vec<Option<HashSet<String>>> = Vec::new();
    let mut key_next = false;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}', '[', ']', ',', '"']) {
        if rounds(rest.get(..at).unwrap_or_default()) {
            return Some(ROUNDED);
        }
        let (token, after) = (rest.as_bytes().get(at), rest.get(at + 1..).unwrap_or(""));
        rest = after;
        match token {
            Some(b'{') => {
                open.push(Some(HashSet::new()));
                key_next = true;
            }
            Some(b'[') => {
                open.push(None);
                key_next = false;
            }
            Some(b'}' | b']') => {
                open.pop();
                key_next = false;
            }
            Some(b',') => key_next = matches!(open.last(), Some(Some(_))),
            _ => {
                let (string, after) = string(rest)?;
                rest = after;
                if string.contains('\0') {
                    return Some(
                        "the json document holds a NUL character, which the target column cannot",
                    );
                }
                if key_next
                    && let Some(Some(keys)) = open.last_mut()
                    && !keys.insert(string)
                {
                    return Some(
                        "the json document has the same key twice, and the target column keeps one of them",
                    );
                }
                key_next = false;
            }
        }
    }
    rounds(rest).then_some(ROUNDED)
}

const ROUNDED: &str =
    "the json document holds a number with more digits than the target column keeps";

/// Whether the number in this text between two signs, if it is one, changes in double precision.
fn rounds(gap: &str) -> bool {
    let number = gap.trim_matches([' ', '\t', '\n', '\r', ':']);
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '-')
        || number.parse::<i64>().is_ok()
        || number.parse::<u64>().is_ok()
    {
        return false;
    }
    match number.parse::<f64>() {
        Ok(double) => digits(number) != digits(&format!("{double:e}")),
        Err(_) => false,
    }
}

/// The digits of a number from the first to the last that is not zero, and the power of ten of the first one.
fn digits(number: &str) -> (String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let zeros = all.bytes().take_while(|b| *b == b'0').count();
    let kept = all.trim_matches('0').to_owned();
    if kept.is_empty() {
        return (kept, 0);
    }
    let power = exponent.parse::<i64>().unwrap_or(0) + whole.len() as i64 - zeros as i64;
    (kept, power)
}

/// The string whose opening quote was just read, its escapes resolved, and what follows its closing quote.
fn string(text: &str) -> Option<(String, &str)> {
    let mut units: Vec<u16> = Vec::new();
    let mut rest = text;
    loop {
        let at = rest.find(['"', '\\'])?;
        units.extend(rest.get(..at)?.encode_utf16());
        let closes = rest.as_bytes().get(at) == Some(&b'"');
        rest = rest.get(at + 1..)?;
        if closes {
            return Some((String::from_utf16_lossy(&units), rest));
        }
        let escape = rest.chars().next()?;
        rest = rest.get(escape.len_utf8()..)?;
        match escape {
            'b' => units.push(8),
            'f' => units.push(12),
            'n' => units.push(10),
            'r' => units.push(13),
            't' => units.push(9),
            'u' => {
                units.push(u16::from_str_radix(rest.get(..4)?, 16).ok()?);
                rest = rest.get(4..)?;
            }
            other => units.extend(other.encode_utf16(&mut [0; 2]).iter()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_twice_in_one_object_is_found_and_no_other() {
        for lossy in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"x":{"k":[1,{"y":"}"}],"k":null}}]"#,
            r#"{"":1,"":2}"#,
            r#"{"a\"b":1, "b":"a", "a\u0022b":2}"#,
            r#"["\u0000"]"#,
            r#"{"a\u0000":1}"#,
        ] {
            assert!(json_loss(lossy, JsonForm::Exact).is_some(), "{lossy}");
            assert_eq!(json_loss(lossy, JsonForm::Text), None, "{lossy}");
        }
        for whole in [
            r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}]}"#,
            r#"{"a":"a","b":"a","A":1}"#,
            r#"["a","a","\\u0000"]"#,
            r#"{"a":"{\"a\":1,\"a\":2}"}"#,
            r#""text""#,
            "12.5",
            "",
            "not json \"",
            r#"{"a":1,"a"#,
            "\"\\u12",
            "\"\\ü\"",
            "]]}}",
        ] {
            assert_eq!(json_loss(whole, JsonForm::Doubles), None, "{whole}");
        }
    }

    #[test]
    fn a_number_beyond_double_precision_is_found() {
        for whole in [
            "18446744073709551615",
            "-9223372036854775808",
            "2.50",
            "[0.1, 1e300, -0.0, 0]",
            r#"{"a": 1.7976931348623157e308, "b": 100.00E-2}"#,
            "120000000000000000000000",
            r#"{"a": "12345678901234567890.123"}"#,
        ] {
            assert_eq!(json_loss(whole, JsonForm::Doubles), None, "{whole}");
        }
        for rounded in [
            "18446744073709551617",
            r#"{"a": [12345678901234567890.5]}"#,
            r#"{"a":0.12345678901234567890,"b":1}"#,
            "1e400",
        ] {
            assert_eq!(json_loss(rounded, JsonForm::Doubles), Some(ROUNDED), "{rounded}");
            assert_eq!(json_loss(rounded, JsonForm::Exact), None, "{rounded}");
        }
    }
}
