//! What an expression can come to grief on: at the start (a [`Fault`] of its text), and with a row ([`EvalError`]).
//! Neither ever holds a value of a row.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::decimal::DecFault;

/// Something wrong in the text of an expression, or worth saying about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The bytes of the text that it is about.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead; empty if there is nothing to say.
    pub hint: String,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Fault {
        Fault { span, message: message.into(), hint: String::new() }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// What kind of error a row gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvalErrorKind {
    /// Division by zero.
    DivisionByZero,
    /// A number, date or text beyond what its type holds.
    OutOfRange,
    /// A text that is none of the type that it is cast to.
    InvalidText,
    /// An argument that the function has no answer for.
    InvalidArgument,
    /// A code that a dictionary lacks, and no default was given.
    DictionaryMissing {
        /// The dictionary's name.
        dictionary: String,
        /// The beginning of the code's SHA-256, to tell codes apart without showing them.
        code_hash: String,
    },
    /// A key that the looked-up table lacks.
    LookupMissing {
        /// The table, as the expression names it.
        table: String,
    },
    /// A lookup that was not answered yet.
    LookupOpen {
        /// Its number.
        lookup: usize,
    },
    /// A value of the source that has no canonical form (`0000-00-00`).
    NoCanonicalForm,
    /// A value that is not of its column's type, or an input that was not given: a fault of the caller.
    Unexpected,
}

/// Why a row has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalError {
    /// What kind of error.
    pub kind: EvalErrorKind,
    /// The function or operator.
    pub operation: String,
    /// Its place in the expression's text.
    pub span: Range<usize>,
    /// The cause, in words.
    pub message: Cow<'static, str>,
}

impl fmt::Display for EvalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)
    }
}

impl std::error::Error for EvalError {}

/// An error that does not know its place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fail {
    pub kind: EvalErrorKind,
    pub message: Cow<'static, str>,
}

impl Fail {
    pub fn new(kind: EvalErrorKind, message: impl Into<Cow<'static, str>>) -> Fail {
        Fail { kind, message: message.into() }
    }

    pub fn range(message: impl Into<Cow<'static, str>>) -> Fail {
        Fail::new(EvalErrorKind::OutOfRange, message)
    }

    pub fn argument(message: impl Into<Cow<'static, str>>) -> Fail {
        Fail::new(EvalErrorKind::InvalidArgument, message)
    }

    pub fn text(message: impl Into<Cow<'static, str>>) -> Fail {
        Fail::new(EvalErrorKind::InvalidText, message)
    }

    pub fn unexpected() -> Fail {
        Fail::new(EvalErrorKind::Unexpected, "a value is not of the type that its column announced")
    }

    pub fn at(self, operation: &str, span: &Range<usize>) -> Box<EvalError> {
        Box::new(EvalError {
            kind: self.kind,
            operation: operation.to_owned(),
            span: span.clone(),
            message: self.message,
        })
    }
}

impl From<DecFault> for Fail {
    fn from(fault: DecFault) -> Fail {
        match fault {
            DecFault::DivisionByZero => {
                Fail::new(EvalErrorKind::DivisionByZero, "division by zero")
            }
            DecFault::OutOfRange => Fail::range("the number is too large"),
        }
    }
}
