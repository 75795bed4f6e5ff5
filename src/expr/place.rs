//! Where a part of an expression stands in its text.
//!
//! The parser tells the places of names and literals. The whole of a call, a cast or a bracket is found from those, in
//! the list of tokens.

use std::ops::Range;

use sqlparser::ast::{Expr, Spanned};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

enum Mark {
    Word(String),
    Open,
    Close,
    Other,
}

/// The tokens of an expression with their bytes.
pub struct Places {
    tokens: Vec<(Range<usize>, Mark)>,
    lines: Lines,
    length: usize,
}

/// Turns lines and columns into bytes.
pub struct Lines {
    /// The bytes of every character and of the end, and the first character of every line.
    chars: Vec<usize>,
    lines: Vec<usize>,
}

impl Lines {
    pub fn new(text: &str) -> Lines {
        let chars = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let breaks = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1);
        Lines { chars, lines: [0].into_iter().chain(breaks).collect() }
    }

    pub fn byte(&self, at: Location) -> usize {
        let place = |n: u64| usize::try_from(n.saturating_sub(1)).unwrap_or(0);
        let first = self.lines.get(place(at.line)).copied().unwrap_or(0);
        let end = self.chars.last().copied().unwrap_or(0);
        self.chars.get(first + place(at.column)).copied().unwrap_or(end)
    }
}

impl Places {
    pub fn new(text: &str, tokens: &[TokenWithSpan]) -> Places {
        let lines = Lines::new(text);
        let mark = |token: &Token| match token {
            Token::Word(word) => Mark::Word(word.value.to_ascii_lowercase()),
            Token::LParen => Mark::Open,
            Token::RParen => Mark::Close,
            _ => Mark::Other,
        };
        let tokens = tokens
            .iter()
            .filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF))
            .map(|t| (lines.byte(t.span.start)..lines.byte(t.span.end), mark(&t.token)))
            .collect();
        Places { tokens, lines, length: text.len() }
    }

    /// The bytes of a part.
    pub fn of(&self, expr: &Expr) -> Range<usize> {
        let whole = 0..self.length;
        let Some((first, last)) = self.range(expr) else { return whole };
        match (self.tokens.get(first), self.tokens.get(last)) {
            (Some((start, _)), Some((end, _))) if start.start <= end.end => start.start..end.end,
            _ => whole,
        }
    }

    fn at(&self, byte: usize) -> usize {
        self.tokens.partition_point(|(bytes, _)| bytes.end <= byte)
    }

    fn word(&self, at: usize) -> Option<&str> {
        match self.tokens.get(at) {
            Some((_, Mark::Word(word))) => Some(word),
            _ => None,
        }
    }

    /// The bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for (at, (_, mark)) in self.tokens.iter().enumerate().skip(open) {
            match mark {
                Mark::Open => depth += 1,
                Mark::Close => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Some(at);
                    }
                }
                Mark::Word(_) | Mark::Other => {}
            }
        }
        None
    }

    /// The call that a token is inside of: its name and its closing bracket.
    fn enclosing(&self, inside: usize) -> Option<(usize, usize)> {
        let mut depth = 0usize;
        for at in (0..inside).rev() {
            match self.tokens.get(at)?.1 {
                Mark::Close => depth += 1,
                Mark::Open if depth == 0 => return Some((at.checked_sub(1)?, self.closing(at)?)),
                Mark::Open => depth -= 1,
                Mark::Word(_) | Mark::Other => {}
            }
        }
        None
    }

    /// The last token of a type that begins at `at`.
    fn type_end(&self, at: usize) -> usize {
        let mut end = at;
        loop {
            match self.tokens.get(end + 1) {
                Some((_, Mark::Open)) => match self.closing(end + 1) {
                    Some(close) => end = close,
                    None => return end,
                },
                Some((_, Mark::Word(word)))
                    if matches!(
                        word.as_str(),
                        "precision" | "varying" | "with" | "without" | "time" | "zone"
                    ) =>
                {
                    end += 1;
                }
                _ => return end,
            }
        }
    }

    fn range(&self, expr: &Expr) -> Option<(usize, usize)> {
        let lines = &self.lines;
        let range = |e: &Expr| self.range(e);
        let call = |e: &Expr| self.enclosing(range(e)?.0);
        Some(match expr {
            Expr::Nested(inner) => {
                let (first, last) = range(inner)?;
                (first.checked_sub(1)?, last + 1)
            }
            // The parser gives a query without its brackets.
            Expr::Subquery(query) => {
                let span = query.span();
                let (start, end) = (lines.byte(span.start), lines.byte(span.end));
                (self.at(start).checked_sub(1)?, self.at(end.saturating_sub(1)) + 1)
            }
            Expr::Tuple(items) => {
                let first = range(items.first()?)?.0;
                (first.checked_sub(1)?, range(items.last()?)?.1 + 1)
            }
            Expr::UnaryOp { expr, .. } => {
                let (first, last) = range(expr)?;
                (first.checked_sub(1)?, last)
            }
            Expr::IsNull(e) | Expr::IsTrue(e) | Expr::IsFalse(e) | Expr::IsUnknown(e) => {
                let (first, last) = range(e)?;
                (first, last + 2)
            }
            Expr::IsNotNull(e)
            | Expr::IsNotTrue(e)
            | Expr::IsNotFalse(e)
            | Expr::IsNotUnknown(e) => {
                let (first, last) = range(e)?;
                (first, last + 3)
            }
            Expr::BinaryOp { left, right, .. } => {
                // Chains of operators are as deep as they are long.
                let mut first = &**left;
                while let Expr::BinaryOp { left, .. } = first {
                    first = left;
                }
                (range(first)?.0, range(right)?.1)
            }
            Expr::IsDistinctFrom(left, right)
            | Expr::IsNotDistinctFrom(left, right)
            | Expr::AtTimeZone { timestamp: left, time_zone: right } => {
                (range(left)?.0, range(right)?.1)
            }
            Expr::Between { expr, high, .. } => (range(expr)?.0, range(high)?.1),
            Expr::Like { expr, pattern, escape_char, .. }
            | Expr::ILike { expr, pattern, escape_char, .. } => {
                let end = escape_char.as_ref().unwrap_or(pattern);
                (range(expr)?.0, range(end)?.1)
            }
            Expr::InList { expr, list, .. } => {
                let end = match list.last() {
                    Some(item) => range(item)?.1 + 1,
                    None => range(expr)?.1,
                };
                (range(expr)?.0, end)
            }
            Expr::Cast { kind: sqlparser::ast::CastKind::DoubleColon, expr, .. } => {
                let (first, last) = range(expr)?;
                (first, self.type_end(last + 2))
            }
            Expr::Cast { expr, .. }
            | Expr::Extract { expr, .. }
            | Expr::Trim { expr, .. }
            | Expr::Substring { expr, .. }
            | Expr::Position { expr, .. }
            | Expr::Ceil { expr, .. }
            | Expr::Floor { expr, .. }
            | Expr::Overlay { expr, .. } => call(expr)?,
            Expr::Function(function) => {
                let start = self.at(lines.byte(function.name.span().start));
                let name = start + 2 * (function.name.0.len().saturating_sub(1));
                match self.tokens.get(name + 1) {
                    Some((_, Mark::Open)) => (start, self.closing(name + 1)?),
                    _ => (start, name),
                }
            }
            Expr::Interval(interval) => {
                let (first, last) = range(&interval.value)?;
                (first.checked_sub(1)?, last + usize::from(interval.leading_field.is_some()))
            }
            Expr::TypedString(typed) => {
                let last = self.at(lines.byte(typed.value.span.start));
                let mut first = last;
                while first > 0 && self.word(first - 1).is_some_and(|w| !is_connective(w)) {
                    first -= 1;
                }
                (first, last)
            }
            other => {
                let span = other.span();
                if span.start.line == 0 {
                    return None;
                }
                let (start, end) = (lines.byte(span.start), lines.byte(span.end));
                (self.at(start), self.at(end.saturating_sub(1)))
            }
        })
    }
}

/// Words that stand before a typed literal without being part of its type.
fn is_connective(word: &str) -> bool {
    matches!(
        word,
        "and"
            | "or"
            | "not"
            | "then"
            | "else"
            | "when"
            | "case"
            | "between"
            | "in"
            | "like"
            | "from"
            | "is"
    )
}
