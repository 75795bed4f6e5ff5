//! `LIKE`, and regular expressions.
//!
//! Regular expressions are those of the `regex` crate, which runs in time linear to the text, so no pattern can stall a
//! flow. PostgreSQL's defaults are kept (a dot matches a line break, `^` and `$` the ends of the text), and its word
//! boundaries `\m`, `\M`, `\y`, `\Y`, `\Z` are understood. Looking around and back references are not there. A pattern is
//! translated sign by sign, and what PostgreSQL and the crate read in two ways is refused.

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

/// Blanks of all scripts, but none that keep words together.
const SPACE: &str = r"[\s--[\u{85}\u{a0}\u{2007}\u{202f}]]";
/// What words are made of.
const WORD: &str = r"\p{Alphabetic}\p{Nd}_";
/// What leaves a trace of ink, or keeps words together.
const GRAPH: &str = r"[[^\p{Cc}\p{Cn}]--[\s--[\u{85}\u{a0}\u{2007}\u{202f}]]]";
/// What leaves a trace and is neither letter nor digit: signs, and marks that stand above and below letters.
const PUNCT: &str =
    r"[[[^\p{Cc}\p{Cn}]--[\s--[\u{85}\u{a0}\u{2007}\u{202f}]]]--[\p{Alphabetic}\p{Nd}]]";
/// Classes of characters, which mean those of all scripts, but for digits: those of other scripts are letters.
const CLASSES: [(&str, &str); 13] = [
    ("upper", r"\p{Uppercase}\p{Lt}"),
    ("lower", r"\p{Lowercase}ǅǈǋǲ"),
    ("alpha", r"\p{Alphabetic}[\p{Nd}--[0-9]]"),
    ("alnum", r"\p{Alphabetic}\p{Nd}"),
    ("space", SPACE),
    ("word", WORD),
    ("digit", "0-9"),
    ("xdigit", "0-9A-Fa-f"),
    ("punct", PUNCT),
    ("cntrl", r"\p{Cc}"),
    ("graph", GRAPH),
    ("print", r"[^\p{Cc}\p{Cn}]"),
    ("blank", "[:blank:]"),
];

/// A pattern of PostgreSQL in the words of the `regex` crate. What would mean something else there is put in other words, or refused.
struct Translation<'p> {
    rest: std::iter::Peekable<std::str::Chars<'p>>,
    out: String,
    /// Whether a line break is kept apart (flags `n` and `p`).
    lines: bool,
    greedy: bool,
    lazy: bool,
}

impl Translation<'_> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => self.escape()?,
                '[' => self.bracket()?,
                '(' if self.rest.peek() == Some(&'?') => {
                    let mut ahead = self.rest.clone();
                    ahead.next();
                    let first = self.out.is_empty();
                    match ahead.next() {
                        Some(':') => self.out.push('('),
                        Some('i') if first && ahead.next() == Some(')') => self.out.push('('),
                        _ => return Err("of what begins with (? only (?:...), and (?i) at the beginning, are there".to_owned()),
                    }
                    // It quantifies nothing.
                    self.out.extend(self.rest.next());
                }
                '*' | '+' | '?' => self.quantifier(c.to_string(), true),
                '{' => {
                    let mut count = c.to_string();
                    for c in self.rest.by_ref() {
                        count.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                    let varies = count.contains(',');
                    self.quantifier(count, varies);
                }
                c => self.out.push(c),
            }
        }
        Ok(())
    }

    fn quantifier(&mut self, text: String, varies: bool) {
        self.out.push_str(&text);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
            self.lazy = true;
        } else {
            self.greedy |= varies;
        }
    }

    /// What follows a backslash outside of brackets.
    fn escape(&mut self) -> Result<(), String> {
        let c = self.rest.next().ok_or("it must not end with a backslash")?;
        match c {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            's' => self.out.push_str(SPACE),
            'S' => self.out.push_str(&format!("[^{SPACE}]")),
            'w' => self.out.push_str(&format!("[{WORD}]")),
            'W' => self.out.push_str(&format!("[^{WORD}]")),
            'm' => self.out.push_str(r"\b{start}"),
            'M' => self.out.push_str(r"\b{end}"),
            'y' => self.out.push_str(r"\b"),
            'Y' => self.out.push_str(r"\B"),
            'A' => self.out.push_str(r"\A"),
            'Z' => self.out.push_str(r"\z"),
            'b' | 'B' => {
                return Err(format!(
                    "\\{c} is no word boundary in PostgreSQL: \\y is one, \\Y is none"
                ));
            }
            other => {
                let one = self.one(other)?;
                self.out.push_str(&one);
            }
        }
        Ok(())
    }

    /// One character that stands behind a backslash, inside of brackets or not.
    fn one(&mut self, c: char) -> Result<String, String> {
        Ok(match c {
            'n' | 'r' | 't' | 'f' | 'v' | 'a' => format!("\\{c}"),
            'u' | 'U' => {
                let most = if c == 'u' { 4 } else { 8 };
                let digits: String = self.rest.by_ref().take(most).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == most);
                let known = code.and_then(char::from_u32);
                known.map(literal).ok_or("\\u takes four hexadecimal digits, \\U eight")?
            }
            c if c.is_ascii_alphanumeric() => return Err(format!("\\{c} is not there")),
            c => literal(c),
        })
    }

    /// The rest of a bracket expression.
    fn bracket(&mut self) -> Result<(), String> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut inner = String::new();
        // What may begin a range.
        let mut begins = false;
        let mut first = true;
        loop {
            let c = self.rest.next().ok_or("a bracket is not closed")?;
            match c {
                ']' if !first => break,
                '[' if matches!(self.rest.peek(), Some(':' | '.' | '=')) => {
                    let sign = self.rest.next().unwrap_or(':');
                    let mut name = String::new();
                    loop {
                        match self.rest.next() {
                            Some(c) if c == sign && self.rest.next_if_eq(&']').is_some() => break,
                            Some(c) => name.push(c),
                            None => return Err("a bracket is not closed".to_owned()),
                        }
                    }
                    let class = CLASSES.iter().find(|(known, _)| sign == ':' && *known == name);
                    match class {
                        Some((_, class)) => inner.push_str(class),
                        None if matches!(&*name, "<" | ">") => {
                            return Err(format!(
                                "[[:{name}:]] is not there: \\m is the beginning of a word, \\M its end"
                            ));
                        }
                        None if sign == ':' => return Err(format!("there is no class [:{name}:]")),
                        None => {
                            return Err(format!(
                                "[{sign}x{sign}] is not there: write the character"
                            ));
                        }
                    }
                    begins = false;
                }
                '\\' if matches!(self.rest.peek(), Some('d' | 's' | 'w')) => {
                    inner.push_str(match self.rest.next() {
                        Some('d') => "0-9",
                        Some('s') => SPACE,
                        _ => WORD,
                    });
                    begins = false;
                }
                '-' if !first && begins && self.rest.peek().is_some_and(|next| *next != ']') => {
                    let end = self.rest.next().unwrap_or('-');
                    let end = match end {
                        '\\' => {
                            let c = self.rest.next().ok_or("a bracket is not closed")?;
                            self.one(c)?
                        }
                        '[' if matches!(self.rest.peek(), Some(':' | '.' | '=')) => {
                            return Err("a class cannot end a range".to_owned());
                        }
                        c => literal(c),
                    };
                    inner.push('-');
                    inner.push_str(&end);
                    begins = false;
                }
                '-' if !first && !begins && self.rest.peek().is_some_and(|next| *next != ']') => {
                    return Err(
                        "a class or a range cannot begin a range: put - first or last".to_owned()
                    );
                }
                '\\' => {
                    let c = self.rest.next().ok_or("a bracket is not closed")?;
                    let one = self.one(c)?;
                    inner.push_str(&one);
                    begins = true;
                }
                c => {
                    inner.push_str(&literal(c));
                    begins = true;
                }
            }
            first = false;
        }
        let sign = if negated { "^" } else { "" };
        let line = if negated && self.lines { r"\n" } else { "" };
        self.out.push_str(&format!("[{sign}{inner}{line}]"));
        Ok(())
    }
}

/// A character that stands for itself.
fn literal(c: char) -> String {
    match c {
        c if c.is_whitespace() => format!("\\u{{{:x}}}", u32::from(c)),
        c => regex::escape(c.encode_utf8(&mut [0; 4])),
    }
}

/// A regular expression with PostgreSQL's flags; `Err` says what is wrong with it. `found`: whether it matters which part it matches.
pub fn regex(pattern: &str, flags: &str, found: bool) -> Result<Regex, String> {
    let lines = flags.chars().rfind(|c| "nmspw".contains(*c));
    let mut translation = Translation {
        rest: pattern.chars().peekable(),
        out: String::with_capacity(pattern.len()),
        lines: matches!(lines, Some('n' | 'm' | 'p')),
        greedy: false,
        lazy: false,
    };
    translation.run()?;
    if found && translation.greedy && translation.lazy {
        return Err("it has quantifiers that take much and such that take little, and in PostgreSQL the first of them decides for all".to_owned());
    }
    let translated = translation.out;
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

/// A text with the first part that matches replaced, or all. As in PostgreSQL, an empty part right behind another one
/// counts, too: with `g`, `b*` matches twice between the a and the c of `abc`.
pub fn replaced(regex: &Regex, whole: &str, template: &str, all: bool) -> String {
    let mut out = String::with_capacity(whole.len());
    let (mut from, mut copied) = (0, 0);
    while let Some(found) = regex.captures_at(whole, from) {
        let Some(part) = found.get(0) else { break };
        out.push_str(whole.get(copied..part.start()).unwrap_or(""));
        replacement(template, &found, &mut out);
        copied = part.end();
        let next = whole.get(copied..).and_then(|rest| rest.chars().next());
        match next {
            Some(c) if part.is_empty() => from = copied + c.len_utf8(),
            Some(_) => from = copied,
            // The end matches once more, unless it was what has just matched.
            None if part.is_empty() => break,
            None => from = copied,
        }
        if !all {
            break;
        }
    }
    out.push_str(whole.get(copied..).unwrap_or(""));
    out
}

/// A replacement with `\1` to `\9`, `\&` and `\\` in it.
fn replacement(template: &str, found: &Captures<'_>, out: &mut String) {
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
    fn what_postgres_reads_otherwise_is_refused_or_put_in_other_words() {
        for (pattern, why) in [
            ("[[:typo:]]", "there is no class [:typo:]"),
            ("[[:<:]]a", "[[:<:]] is not there"),
            ("[[.a.]]", "[.x.] is not there"),
            ("[[=a=]]", "[=x=] is not there"),
            (r"a\b", "is no word boundary in PostgreSQL"),
            (r"a\B", "is no word boundary in PostgreSQL"),
            (r"(a)\1", r"\1 is not there"),
            (r"\pL", r"\p is not there"),
            ("a(?=b)", "of what begins with (?"),
            ("(?m)a", "of what begins with (?"),
            ("[a-c-e]", "cannot begin a range"),
            ("[a", "a bracket is not closed"),
            ("a*?b*", "the first of them decides"),
        ] {
            let refused = regex(pattern, "", true).map(|_| ()).expect_err(pattern);
            assert!(refused.contains(why), "{pattern}: {refused}");
        }
        for (pattern, flags, text, is) in [
            ("^[a&&b]$", "", "&", true),
            ("^[a~~b]$", "", "~", true),
            ("^[+--]$", "", "-", true),
            ("^[[]$", "", "[", true),
            ("^[]a]$", "", "]", true),
            ("^[[a]]$", "", "a]", true),
            ("^[^]a]$", "", "]", false),
            ("^[a b]$", "x", " ", true),
            ("a[^b]c", "n", "a\nc", false),
            ("a[^b]c", "", "a\nc", true),
            (r"^\d$", "", "٣", false),
            (r"^\D$", "", "٣", true),
            (r"^[\d]$", "", "7", true),
            (r"^\w$", "", "ä", true),
            (r"^\s$", "", "\u{a0}", false),
            (r"^\S$", "", "\u{a0}", true),
            (r"^[\s]$", "", "\t", true),
            (r"^\<$", "", "<", true),
            (r"^\u0041\.$", "", "A.", true),
            ("a*?b*", "", "b", true),
            ("^a{2}b{1,2}$", "", "aabb", true),
        ] {
            let regex = regex(pattern, flags, false).expect(pattern);
            assert_eq!(regex.is_match(text), is, "{pattern} {text:?}");
        }
    }

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
