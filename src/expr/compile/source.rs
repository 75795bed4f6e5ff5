//! Columns: how a name finds its field; and what is said where the text is no expression.

use sqlparser::ast::Ident;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan};
use tidelock_core::DataType;

use super::{Compiler, Result, Typed};
use crate::expr::Field;
use crate::expr::error::Fault;
use crate::expr::kind::Kind;
use crate::expr::place::Lines;
use crate::expr::plan::Node;

/// The name that is most like this one, if any is.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    names
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What the parser says, at the token where it stopped.
pub(super) fn syntax(text: &str, lines: &Lines, error: &ParserError, parser: &Parser<'_>) -> Fault {
    let token = parser.get_current_token();
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.clone(),
        ParserError::RecursionLimitExceeded => "the expression is nested too deeply".to_owned(),
    };
    let message = message.split(" at Line:").next().unwrap_or("").trim().to_owned();
    let message = message.replace("found: EOF", "found the end");
    let (start, end) = (lines.byte(token.span.start), lines.byte(token.span.end));
    let span =
        if token.token == Token::EOF || start >= end { text.len()..text.len() } else { start..end };
    Fault::new(span, message)
}

/// `trim(LEADING FROM x)` without the FROM, which the parser only knows behind characters.
pub(super) fn plain_trims(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut kept: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // How much of `trim ( leading` was just seen.
    let mut seen = 0;
    for token in tokens {
        let word = match &token.token {
            Token::Whitespace(_) => {
                kept.push(token);
                continue;
            }
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_lowercase(),
            Token::LParen => "(".to_owned(),
            _ => String::new(),
        };
        let skipped = seen == 3 && word == "from";
        seen = match (seen, word.as_str()) {
            (_, "trim") => 1,
            (1, "(") => 2,
            (2, "leading" | "trailing" | "both") => 3,
            _ => 0,
        };
        if !skipped {
            kept.push(token);
        }
    }
    kept
}

impl Compiler<'_> {
    /// `old.column`
    pub(super) fn qualified(&mut self, parts: &[Ident]) -> Result<Typed> {
        let whole = self.span(&sqlparser::ast::Expr::CompoundIdentifier(parts.to_vec()));
        match parts {
            [row, name] if row.quote_style.is_none() && row.value.eq_ignore_ascii_case("old") => {
                if !self.scope.old {
                    return Err(Fault::new(whole, "the row before the change is not known here")
                        .hint("old.column may stand in [mappings.columns] outside the key, in validate and in on_delete; an edge compares with what was before by itself"));
                }
                self.column(name, true)
            }
            [_, name] => {
                Err(Fault::new(whole, "columns are written without their table").hint(format!(
                    "write {}, or old.{} for the row before the change",
                    name.value, name.value
                )))
            }
            _ => Err(Fault::new(whole, "columns are written without their table")),
        }
    }

    pub(super) fn column(&mut self, ident: &Ident, old: bool) -> Result<Typed> {
        let span = self.span(&sqlparser::ast::Expr::Identifier(ident.clone()));
        let index = self
            .find(ident)
            .map_err(|(message, hint)| Fault::new(span.clone(), message).hint(hint))?;
        let Some(field) = self.scope.fields.get(index) else {
            return Err(Fault::new(span, "the column is not there"));
        };
        let list = if old { &mut self.old_fields } else { &mut self.fields };
        if !list.contains(&index) {
            list.push(index);
        }
        let kind = Kind::of(&field.data_type);
        let node = Node::Column { index, old, kind };
        let nullable = field.nullable || old;
        Ok(Typed { node, kind, data_type: field.data_type.clone(), nullable, span })
    }

    fn find(&self, ident: &Ident) -> std::result::Result<usize, (String, String)> {
        let name = &ident.value;
        let fields = self.scope.fields;
        let at = |f: &dyn Fn(&Field) -> bool| fields.iter().position(f);
        if let Some(index) = at(&|f| f.name == *name) {
            return Ok(index);
        }
        if ident.quote_style.is_none() {
            let lower = name.to_lowercase();
            let same: Vec<usize> = (0..fields.len())
                .filter(|i| fields.get(*i).is_some_and(|f| f.name.to_lowercase() == lower))
                .collect();
            match same.as_slice() {
                [one] => return Ok(*one),
                [] => {}
                several => {
                    let names: Vec<String> = several
                        .iter()
                        .filter_map(|i| fields.get(*i))
                        .map(|f| format!("\"{}\"", f.name))
                        .collect();
                    return Err((
                        format!("column {name} could be any of {}", names.join(", ")),
                        "write it in double quotes, as the table spells it".to_owned(),
                    ));
                }
            }
        }
        let near = nearest(name, fields.iter().map(|f| f.name.as_str()));
        let hint = match near {
            Some(near) if ident.quote_style == Some('"') && near.eq_ignore_ascii_case(name) => {
                format!("the table spells it \"{near}\"")
            }
            Some(near) if ident.quote_style == Some('"') => {
                format!("did you mean {near}? Or write text in single quotes")
            }
            Some(near) => format!("did you mean {near}?"),
            None if ident.quote_style == Some('"') => "write text in single quotes".to_owned(),
            None => String::new(),
        };
        Err((format!("there is no column {name}"), hint))
    }

    /// Says so where text of a column that ignores case on its server is compared here, where case counts.
    pub(super) fn warn_case(&mut self, side: &Typed) {
        let Node::Column { index, .. } = &side.node else { return };
        let Some(field) = self.scope.fields.get(*index) else { return };
        let text = matches!(
            field.data_type,
            DataType::Text { .. } | DataType::Enum { .. } | DataType::Set { .. }
        );
        if field.case_insensitive && text {
            let warning = Fault::new(
                side.span.clone(),
                format!(
                    "{} ignores case on its server; here it is compared letter by letter",
                    field.name
                ),
            )
            .hint(format!("write lower({}) on this side and lower case on the other", field.name));
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}
