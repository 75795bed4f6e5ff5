//! Procedures and functions of a target, and calls of them.
//!
//! A routine is called inside the guarded transaction, so that what it does is committed together with the flow's
//! position, or not at all. That holds only as long as the routine leaves the transaction open. PostgreSQL refuses a
//! `COMMIT` there. MariaDB and MySQL obey it, and every statement that commits by itself besides; so a savepoint is
//! set before each call, and a call that destroyed it is [`crate::Code::RoutineCommits`].
//!
//! **What such a call leaves.** The procedure has then committed the mark, everything of this transaction that came
//! before, and its own writes, without the position: the next holder begins at the position before and would do all of
//! it once more, for ever. Rows come out the same, but calls are made twice. So the engine must not try again: it
//! stops the mapping by a lasting state, in a transaction of its own at the old position, and only then goes on without
//! the mapping. The sequence number that the mark raised does no harm, since every holder reads it anew.

use std::sync::Arc;

use crate::connector::Finding;
use crate::form;
use crate::schema::{DataType, TableName};
use crate::sink::TargetColumn;
use crate::value::Value;

/// What kind of routine it is, which decides how it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RoutineKind {
    /// Called by a query; what it gives is thrown away.
    Function,
    /// Called by `CALL`.
    Procedure,
}

/// Which way a parameter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParameterMode {
    /// Into the routine.
    In,
    /// Out of it.
    Out,
    /// Both.
    InOut,
}

/// A parameter of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; empty if it has none.
    pub name: String,
    /// What it can hold. PostgreSQL keeps no length, precision or scale of parameters.
    pub data_type: DataType,
    /// The server's own spelling of the type, fit for a cast.
    pub native: String,
    /// Which way it goes.
    pub mode: ParameterMode,
    /// Whether it may be left out of a call.
    pub has_default: bool,
}

/// A routine of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routine {
    /// Its schema and name.
    pub name: TableName,
    /// What it is.
    pub kind: RoutineKind,
    /// What it is called with, in order. Of a function, what only comes out is left out.
    pub parameters: Vec<Parameter>,
    /// Its text, where that may be read.
    pub body: Option<String>,
    /// Why it cannot be called, in the server's terms; empty if it can.
    pub refusals: Vec<String>,
    /// What its text and its settings do that a target transaction does not bear, as far as that can be seen.
    pub hazards: Vec<Finding>,
}

impl Routine {
    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

/// A routine as mapped. Made once a compiled plan, as [`crate::TargetTable`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTarget {
    /// Differs for any two plans of one process.
    pub id: u64,
    /// The routine.
    pub name: TableName,
    /// What it is.
    pub kind: RoutineKind,
    /// The parameters that are given, in the routine's order. Only parameters that have a default may be missing.
    pub parameters: Vec<TargetColumn>,
    /// The routine's text, where it may be read: what it raises is shown as far as its words stand there.
    pub body: Option<Arc<str>>,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which mapping it belongs to: for messages.
    pub mapping: Arc<str>,
    /// The routine.
    pub routine: Arc<CallTarget>,
    /// The arguments, in the order of its parameters; never [`Value::Unchanged`].
    pub arguments: Box<[Value]>,
}

/// Most characters of a raised message that are shown.
const RAISED_CHARS_MAX: usize = 200;

/// A message that a call raised, without what may be a row's value: what stands in quotes, words with a digit or
/// an `@` in them, words of the arguments, and where the routine's text is known, every word that does not stand there.
pub fn redact(message: &str, call: &Call) -> String {
    let body = call.routine.body.as_deref().map(str::to_lowercase);
    let arguments: Vec<String> =
        call.arguments.iter().filter_map(|v| form::text(v).map(|t| t.to_lowercase())).collect();
    let known = |word: &str| {
        let word = word.to_lowercase();
        body.as_ref().is_none_or(|body| stands_in(body, &word))
            && !arguments.iter().any(|argument| stands_in(argument, &word))
    };
    let mut shown = String::new();
    let hide = |shown: &mut String| {
        if !shown.ends_with('…') {
            shown.push('…');
        }
    };
    let mut chars = message.chars().peekable();
    while let Some(c) = chars.next() {
        if shown.chars().count() >= RAISED_CHARS_MAX {
            shown.push('…');
            break;
        }
        // An apostrophe inside a word opens nothing: those are taken with their word below.
        let closing = match c {
            '\'' | '"' | '`' => Some(c),
            '“' | '„' => Some('”'),
            '«' => Some('»'),
            _ => None,
        };
        if let Some(closing) = closing {
            for x in chars.by_ref() {
                if x == closing {
                    break;
                }
            }
            hide(&mut shown);
        } else if is_of_word(c) {
            let mut word = String::from(c);
            while let Some(x) = chars.next_if(|x| is_of_word(*x) || matches!(x, '\'' | '.' | '@')) {
                word.push(x);
            }
            let bare = word.trim_end_matches(['.', '\'']);
            let harmless = !bare.contains(|x: char| x.is_numeric() || x == '@' || x == '.');
            if harmless && known(bare) {
                shown.push_str(&word);
            } else {
                hide(&mut shown);
            }
        } else {
            shown.push(if c.is_control() { ' ' } else { c });
        }
    }
    shown.trim().to_owned()
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether a word stands in a text as a word of its own.
fn stands_in(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(is_of_word) && !after.is_some_and(is_of_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: Option<&str>, argument: &str) -> Call {
        let routine = CallTarget {
            id: 1,
            name: TableName::new("s", "p"),
            kind: RoutineKind::Procedure,
            parameters: Vec::new(),
            body: body.map(Into::into),
        };
        Call {
            mapping: "m".into(),
            routine: Arc::new(routine),
            arguments: [Value::Text(argument.into()), Value::Null].into(),
        }
    }

    #[test]
    fn a_raised_message_keeps_its_words_and_loses_its_values() {
        let body = "BEGIN RAISE EXCEPTION 'no customer % in %, can''t go on', who, place; END";
        let (plain_call, body_call) = (call(None, "Anna Moser"), call(Some(body), "Anna Moser"));
        for (message, plain, by_body) in [
            ("no customer 4711 in Wien", "no customer … in Wien", "no customer … in …"),
            ("no customer 'x y' in \"Z\"", "no customer … in …", "no customer … in …"),
            ("no customer MOSER in", "no customer … in", "no customer … in"),
            ("no customer Mosers in", "no customer Mosers in", "no customer … in"),
            ("can't go on", "can't go on", "… go on"),
            ("no a@b.example, go", "no …, go", "no …, go"),
            ("no -12.50 €", "no -… €", "no -… €"),
            ("no customers", "no customers", "no …"),
            ("no 'open end", "no …", "no …"),
            ("", "", ""),
        ] {
            assert_eq!(redact(message, &plain_call), plain);
            assert_eq!(redact(message, &body_call), by_body);
        }
        // A value that the routine's text mentions too.
        assert_eq!(redact("no customer in", &call(Some(body), "Customer")), "no … in");
        let long = redact(&"no ".repeat(1000), &plain_call);
        assert!(long.chars().count() <= RAISED_CHARS_MAX + 4);
    }
}
