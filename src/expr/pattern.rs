//! `LIKE`, and regular expressions.
//!
//! Regular expressions are those of the `regex` crate, which runs in time linear to the text, so no pattern can stall a
//! flow. PostgreSQL's defaults are kept (a dot matches a line break, `^` and `$` the ends of the text), and its word
//! boundaries `\m`, `\M`, `\y`, `\Y`, `\Z` are understood. Looking around and back references are not there.

use regex::{Captures, Regex, RegexBuilder};

use super::error::Fail;
use super::text::lower_simple;

/// Whether a text is like a pattern.
pub fn like(text: &str, pattern: &str, escape: Option<char>, any_case: bool) -> Result<bool, Fail> {
    if any_case {
        return like(&lower_simple(text), &lower_simple(pattern), escape, false);
    }
    let (mut t, mut p) = (text, pattern);
    // Where the last `%` stood, and what of the text it has not taken yet.
    let mut back: Option<(&str, &str)> = None;
    loop {
        let mut rest = p.chars();
        let sign = rest.next();
        let matched = match sign {
            None if t.is_empty() => return Ok(true),
            None => false,
            Some(c) if Some(c) == escape => {
                // A text that is at its end does not get this far into the pattern.
                let Some(literal) = rest.next().or(t.is_empty().then_some(c)) else {
                    return Err(Fail::argument(
                        "a LIKE pattern must not end with the escape character",
                    ));
                };
                step(&mut t, |c| c == literal)
            }
            Some('%') => {
                p = rest.as_str();
                back = Some((p, t));
                continue;
            }
            Some('_') => step(&mut t, |_| true),
            Some(literal) => step(&mut t, |c| c == literal),
        };
        if matched {
            p = rest.as_str();
            continue;
        }
        let Some((after, from)) = back else { return Ok(false) };
        let mut from = from;
        if !step(&mut from, |_| true) {
            return Ok(false);
        }
        back = Some((after, from));
        (p, t) = (after, from);
    }
}

fn step(text: &mut &str, fits: impl Fn(char) -> bool) -> bool {
    let mut chars = text.chars();
    match chars.next() {
        Some(c) if fits(c) => {
            *text = chars.as_str();
            true
        }
        _ => false,
    }
}

/// Classes of characters, which mean those of all scripts.
const CLASSES: [(&str, &str); 5] = [
    ("[:upper:]", r"\p{Uppercase}"),
    ("[:lower:]", r"\p{Lowercase}"),
    ("[:alpha:]", r"\p{Alphabetic}"),
    ("[:alnum:]", r"\p{Alphabetic}\p{Nd}"),
    ("[:space:]", r"\s"),
];

/// A regular expression with PostgreSQL's flags; `Err` says what is wrong with it.
pub fn regex(pattern: &str, flags: &str) -> Result<Regex, String> {
    let mut pattern = pattern.to_owned();
    for (class, of_unicode) in CLASSES {
        pattern = pattern.replace(class, of_unicode);
    }
    let mut translated = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            translated.push(c);
            continue;
        }
        match chars.next() {
            Some('m') => translated.push_str(r"\b{start}"),
            Some('M') => translated.push_str(r"\b{end}"),
            Some('y') => translated.push_str(r"\b"),
            Some('Y') => translated.push_str(r"\B"),
            Some('Z') => translated.push_str(r"\z"),
            Some(other) => translated.extend(['\\', other]),
            None => return Err("it must not end with a backslash".to_owned()),
        }
    }
    let mut builder = RegexBuilder::new(&translated);
    builder.dot_matches_new_line(true);
    for flag in flags.chars() {
        match flag {
            'i' => builder.case_insensitive(true),
            'c' => builder.case_insensitive(false),
            'n' | 'm' => builder.multi_line(true).dot_matches_new_line(false),
            's' => builder.multi_line(false).dot_matches_new_line(true),
            'p' => builder.multi_line(false).dot_matches_new_line(false),
            'w' => builder.multi_line(true).dot_matches_new_line(true),
            'x' => builder.ignore_whitespace(true),
            'g' => &mut builder,
            other => {
                return Err(format!("flag {other:?} is not known (i, c, n, s, p, w, x, g are)"));
            }
        };
    }
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
        other => {
            let text = other.to_string();
            text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned()
        }
    })
}

/// A replacement with `\1` to `\9`, `\&` and `\\` in it.
pub fn replacement(template: &str, found: &Captures<'_>, out: &mut String) {
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('&') => out.push_str(found.get(0).map_or("", |m| m.as_str())),
            Some(digit @ '1'..='9') => {
                let group = digit.to_digit(10).unwrap_or(0) as usize;
                out.push_str(found.get(group).map_or("", |m| m.as_str()));
            }
            Some('\\') => out.push('\\'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_knows_its_signs() {
        for (text, pattern, is) in [
            ("abc", "abc", true),
            ("abc", "a%", true),
            ("abc", "%b%", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("äöü", "_ö_", true),
            ("äöü", "%ü", true),
            ("", "%", true),
            ("", "_", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("mississippi", "%iss%ip%", true),
            ("mississippi", "%iss%iss%iss%", false),
            ("aaa", "%a_", true),
            ("a\nb", "a%b", true),
        ] {
            assert_eq!(like(text, pattern, Some('\\'), false), Ok(is), "{text} {pattern}");
        }
        assert!(like("a", "%\\", Some('\\'), false).is_err());
    }
}
