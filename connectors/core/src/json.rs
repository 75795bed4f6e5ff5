//! What a database that keeps JSON parsed would lose of a document without a word. Pure.

use std::collections::HashSet;

/// Why a parsed form (`jsonb`, MySQL's `JSON`) does not hold all of this document: of two equal keys of an
/// object only one would stay, and a NUL character has no place in its strings. `None` where all of it
/// stays, or where the text is no JSON at all: that the server refuses by itself.
pub fn json_loss(text: &str) -> Option<&'static str> {
    // The keys seen in each open object; `None` stands for an open array.
    let mut open: Vec<Option<HashSet<String>>> = Vec::new();
    let mut key_next = false;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}', '[', ']', ',', '"']) {
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
    None
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
            assert!(json_loss(lossy).is_some(), "{lossy}");
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
            assert_eq!(json_loss(whole), None, "{whole}");
        }
    }
}
