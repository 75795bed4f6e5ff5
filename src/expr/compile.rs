//! From the text of an expression to its plan: names are resolved, types settled, constants computed, and everything
//! that can be wrong is said here, with its place, before a row moves.

mod calls;
mod casts;
mod choices;
mod operators;
mod outside;
mod patterns;
mod source;
mod times;

use std::ops::Range;

use sqlparser::ast::{self, Expr as Ast};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};
use tidelock_core::{ByteString, DataType, Instant, Value};

use super::cast::{self, Target};
use super::cell::{Cell, Text};
use super::decimal::Dec;
use super::error::{EvalErrorKind, Fault};
use super::kind::{self, Kind};
use super::place::{Lines, Places};
use super::plan::Node;
use super::{Contents, Env, Expr, Input, Lookup, Scope};

/// Bounds that no honest expression meets; without them a text could exhaust the stack.
const TOKENS_MAX: usize = 4_000;
const DEPTH_MAX: usize = 100;
const BRACKETS_MAX: usize = 50;

type Result<T> = std::result::Result<T, Fault>;

/// A part of the plan with what is known of its values.
#[derive(Debug, Clone)]
struct Typed {
    node: Node,
    kind: Kind,
    data_type: DataType,
    nullable: bool,
    span: Range<usize>,
}

impl Typed {
    fn constant(&self) -> Option<&Cell<'static>> {
        match &self.node {
            Node::Const(cell) => Some(cell),
            _ => None,
        }
    }

    /// The text of a constant one.
    fn text(&self) -> Option<&str> {
        match self.constant() {
            Some(Cell::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// `numeric`, `a text of unknown type`.
    fn shown(&self) -> String {
        match (self.kind, self.constant()) {
            (Kind::Unknown, Some(Cell::Null)) => "NULL".to_owned(),
            (Kind::Unknown, _) => "a text literal".to_owned(),
            (kind, _) => kind.to_string(),
        }
    }
}

struct Compiler<'s> {
    scope: &'s Scope<'s>,
    places: Places,
    depth: usize,
    fields: Vec<usize>,
    old_fields: Vec<usize>,
    clock: bool,
    in_lookup: bool,
    /// Whether what a lookup does not find is NULL here.
    lenient: bool,
    lookups: Vec<Lookup>,
    dictionaries: Vec<String>,
    warnings: Vec<Fault>,
}

/// Compiles an expression of any type.
pub fn compile(text: &str, scope: &Scope<'_>) -> Result<Expr> {
    let (mut compiler, ast) = Compiler::new(text, scope)?;
    let typed = compiler.expr(&ast)?;
    Ok(compiler.finish(typed))
}

/// Compiles a condition.
pub fn compile_condition(text: &str, scope: &Scope<'_>) -> Result<Expr> {
    let (mut compiler, ast) = Compiler::new(text, scope)?;
    let typed = compiler.condition(&ast)?;
    Ok(compiler.finish(typed))
}

/// The tables that the lookups of a text name, so that they can be looked at before it is compiled. A text that is none gives none.
pub fn lookup_tables(text: &str) -> Vec<String> {
    first_arguments(text, "lookup")
}

/// The dictionaries that a text names.
pub fn dictionary_names(text: &str) -> Vec<String> {
    first_arguments(text, "dictionary")
}

/// The texts that calls of a function begin with.
fn first_arguments(text: &str, function: &str) -> Vec<String> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize() else {
        return Vec::new();
    };
    let words: Vec<Token> =
        tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let named = words.windows(3).filter_map(|window| match window {
        [Token::Word(word), Token::LParen, Token::SingleQuotedString(named)]
            if word.value.eq_ignore_ascii_case(function) =>
        {
            Some(named.clone())
        }
        _ => None,
    });
    named.collect()
}

struct Nothing;

impl Contents for Nothing {
    fn get(&self, _dictionary: usize, _code: &[&str]) -> Option<Value> {
        None
    }
}

impl<'s> Compiler<'s> {
    fn new(text: &'s str, scope: &'s Scope<'s>) -> Result<(Self, Ast)> {
        let whole = 0..text.len();
        if text.trim().is_empty() {
            return Err(Fault::new(whole, "the expression is empty"));
        }
        let dialect = PostgreSqlDialect {};
        let lines = Lines::new(text);
        let tokens = Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|error| {
            let at = lines.byte(error.location);
            Fault::new(at..text.len(), error.message)
        })?;
        let words = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).count();
        if words > TOKENS_MAX {
            return Err(Fault::new(
                whole,
                format!("the expression has more than {TOKENS_MAX} words"),
            )
            .hint("put long lists of values into a dictionary"));
        }
        let places = Places::new(text, &tokens);
        let tokens = source::plain_trims(tokens);
        let mut parser = Parser::new(&dialect)
            .with_recursion_limit(BRACKETS_MAX)
            .with_tokens_with_locations(tokens);
        let ast =
            parser.parse_expr().map_err(|error| source::syntax(text, &lines, &error, &parser))?;
        let next = parser.peek_token();
        if next.token != Token::EOF {
            let span = lines.byte(next.span.start)..lines.byte(next.span.end);
            return Err(Fault::new(span, format!("unexpected {}", next.token))
                .hint("an expression ends here; write one expression only"));
        }
        let compiler = Compiler {
            scope,
            places,
            depth: 0,
            fields: Vec::new(),
            old_fields: Vec::new(),
            clock: false,
            in_lookup: false,
            lenient: false,
            lookups: Vec::new(),
            dictionaries: Vec::new(),
            warnings: Vec::new(),
        };
        Ok((compiler, ast))
    }

    fn finish(self, typed: Typed) -> Expr {
        let column = match &typed.node {
            Node::Column { index, old: false, .. } => Some(*index),
            _ => None,
        };
        let literal = match (typed.kind, &typed.node) {
            (Kind::Unknown, Node::Const(Cell::Text(text))) => Some(ByteString::from(&**text)),
            _ => None,
        };
        let warnings = self.warnings;
        Expr {
            root: typed.node,
            kind: typed.kind,
            data_type: typed.data_type,
            nullable: typed.nullable,
            column,
            literal,
            span: typed.span,
            fields: self.fields,
            old_fields: self.old_fields,
            clock: self.clock,
            lookups: self.lookups,
            dictionaries: self.dictionaries,
            warnings,
        }
    }

    fn span(&self, ast: &Ast) -> Range<usize> {
        self.places.of(ast)
    }

    /// Goes down so many levels.
    fn deeper(&mut self, levels: usize, ast: &Ast) -> Result<()> {
        self.depth += levels;
        if self.depth > DEPTH_MAX {
            return Err(Fault::new(self.span(ast), "the expression is nested too deeply"));
        }
        Ok(())
    }

    fn expr(&mut self, ast: &Ast) -> Result<Typed> {
        self.deeper(1, ast)?;
        let typed = self.part(ast);
        self.depth -= 1;
        let mut typed = typed?;
        typed.span = self.span(ast);
        Ok(typed)
    }

    /// A part in which what a lookup does not find is NULL.
    fn leniently(&mut self, ast: &Ast) -> Result<Typed> {
        let before = std::mem::replace(&mut self.lenient, true);
        let typed = self.expr(ast);
        self.lenient = before;
        typed
    }

    fn part(&mut self, ast: &Ast) -> Result<Typed> {
        match ast {
            Ast::Nested(inner) => self.expr(inner),
            Ast::Identifier(ident) => self.column(ident, false),
            Ast::CompoundIdentifier(parts) => self.qualified(parts),
            Ast::Value(value) => self.literal(value),
            Ast::TypedString(_) | Ast::Cast { .. } | Ast::Interval(_) => self.cast(ast),
            Ast::Function(function) => self.call(function, ast),
            Ast::Extract { .. }
            | Ast::Trim { .. }
            | Ast::Substring { .. }
            | Ast::Position { .. }
            | Ast::Ceil { .. }
            | Ast::Floor { .. }
            | Ast::Overlay { .. }
            | Ast::AtTimeZone { .. } => self.syntax_call(ast),
            Ast::Case { .. } => self.case(ast),
            _ => self.operator(ast),
        }
    }

    /// A truth value.
    fn condition(&mut self, ast: &Ast) -> Result<Typed> {
        let typed = self.expr(ast)?;
        self.truth(typed)
    }

    fn truth(&mut self, typed: Typed) -> Result<Typed> {
        if typed.kind == Kind::Bool || typed.kind == Kind::Unknown {
            return self.coerce(typed, Kind::Bool);
        }
        let hint = match typed.kind {
            kind if kind.is_number() => "compare it: x <> 0",
            Kind::Bits => "cast it: x::boolean",
            _ => "compare it with something",
        };
        Err(Fault::new(
            typed.span.clone(),
            format!("this is {}, a condition must be boolean", typed.shown()),
        )
        .hint(hint))
    }

    fn made(&self, node: Node, kind: Kind, nullable: bool, span: Range<usize>) -> Typed {
        Typed { node, kind, data_type: kind.data_type(), nullable, span }
    }

    fn constant(&self, cell: Cell<'static>, kind: Kind, span: Range<usize>) -> Typed {
        let nullable = cell.is_null();
        let data_type = match &cell {
            Cell::Text(text) => kind::text(Some(text.chars().count() as u64)),
            Cell::Dec(d) if d.is_finite() => {
                let scale = u16::try_from(d.scale()).unwrap_or(u16::MAX);
                let digits = d.clone().abs().text().chars().filter(char::is_ascii_digit).count();
                DataType::Decimal { precision: u16::try_from(digits).ok(), scale: Some(scale) }
            }
            _ => kind.data_type(),
        };
        Typed { node: Node::Const(cell), kind, data_type, nullable, span }
    }

    /// The same, computed if nothing in it can change.
    fn folded(&self, typed: Typed, constant: bool) -> Result<Typed> {
        if !constant {
            return Ok(typed);
        }
        let env = Env { now: Instant(0), dictionaries: &Nothing, mask_key: None };
        let input = Input { new: &[], old: None, lookups: &[], env: &env };
        match typed.node.eval(&input) {
            Ok(cell) => match cell.detach() {
                Some(cell) => {
                    let nullable = cell.is_null();
                    Ok(Typed { node: Node::Const(cell), nullable, ..typed })
                }
                None => Ok(typed),
            },
            Err(error) if error.kind == EvalErrorKind::Unexpected => Ok(typed),
            Err(error) => {
                let span = if error.span.is_empty() { typed.span } else { error.span.clone() };
                Err(Fault::new(span, error.message.to_string())
                    .hint("this part is the same for every row"))
            }
        }
    }

    /// A strict operation on these arguments: NULL at once if one of them is, whatever the others are.
    fn strict(&self, typed: Typed, args: &[Typed]) -> Result<Typed> {
        if args.iter().any(|a| matches!(a.constant(), Some(Cell::Null))) {
            return Ok(Typed { node: Node::Const(Cell::Null), nullable: true, ..typed });
        }
        let constant = args.iter().all(|a| a.constant().is_some());
        self.folded(typed, constant)
    }

    /// The value as one of another type; only where that happens by itself.
    fn coerce(&mut self, typed: Typed, to: Kind) -> Result<Typed> {
        self.coerce_to(typed, Target::plain(to))
    }

    fn coerce_to(&mut self, typed: Typed, to: Target) -> Result<Typed> {
        if typed.kind == to.kind && to.limit == cast::Limit::None {
            return Ok(typed);
        }
        if !typed.kind.becomes(to.kind) {
            return Err(Fault::new(
                typed.span.clone(),
                format!("this is {}, {} is expected", typed.shown(), to.kind),
            )
            .hint(if typed.kind.casts(to.kind) {
                format!("cast it: (…)::{}", to.kind)
            } else {
                String::new()
            }));
        }
        self.converted(typed, to)
    }

    /// The value as one of another type; the cast is allowed.
    fn converted(&mut self, typed: Typed, to: Target) -> Result<Typed> {
        let constant = typed.constant().is_some();
        if let (Some(cell), Kind::Unknown) = (typed.constant(), typed.kind) {
            let span = typed.span.clone();
            let cell = cast::convert(cell.clone(), Kind::Text, to)
                .map_err(|fail| Fault::new(span.clone(), fail.message.to_string()))?;
            let cell = cell.detach().unwrap_or(Cell::Null);
            let mut literal = self.constant(cell, to.kind, span);
            if to.limit != cast::Limit::None {
                literal.data_type = to.data_type();
            }
            return Ok(literal);
        }
        let same_text = typed.kind.is_text() && to.kind.is_text() && to.limit == cast::Limit::None;
        let data_type = if same_text && matches!(typed.data_type, DataType::Text { .. }) {
            match &typed.data_type {
                DataType::Text { chars_max, .. } => kind::text(*chars_max),
                other => other.clone(),
            }
        } else if to == Target::plain(Kind::Numeric) {
            operators::digits(&typed).map_or_else(|| to.data_type(), operators::decimal)
        } else {
            to.data_type()
        };
        let nullable = typed.nullable || (typed.kind == Kind::Json);
        let (span, from) = (typed.span.clone(), typed.kind);
        let node = Node::Cast { arg: Box::new(typed.node), from, to, span: span.clone() };
        self.folded(Typed { node, kind: to.kind, data_type, nullable, span }, constant)
    }

    fn number(&self, digits: &str, span: Range<usize>) -> Result<Typed> {
        if let Ok(small) = digits.parse::<i64>() {
            let kind = if i32::try_from(small).is_ok() { Kind::Int4 } else { Kind::Int8 };
            return Ok(self.constant(Cell::Int(small), kind, span));
        }
        let number =
            Dec::parse(digits).ok_or_else(|| Fault::new(span.clone(), "this is no number"))?;
        Ok(self.constant(Cell::Dec(number), Kind::Numeric, span))
    }

    fn literal(&mut self, value: &ast::ValueWithSpan) -> Result<Typed> {
        let ast = Ast::Value(value.clone());
        let span = self.span(&ast);
        let text = |text: &str| Cell::Text(Text::Own(ByteString::from(text)));
        match &value.value {
            ast::Value::Number(digits, false) => self.number(digits, span),
            ast::Value::SingleQuotedString(s)
            | ast::Value::EscapedStringLiteral(s)
            | ast::Value::UnicodeStringLiteral(s)
            | ast::Value::NationalStringLiteral(s) => {
                if s.contains('\0') {
                    return Err(Fault::new(span, "a text must not hold a NUL character"));
                }
                Ok(self.constant(text(s), Kind::Unknown, span))
            }
            ast::Value::DollarQuotedString(s) => {
                Ok(self.constant(text(&s.value), Kind::Unknown, span))
            }
            ast::Value::Boolean(b) => Ok(self.constant(Cell::Bool(*b), Kind::Bool, span)),
            ast::Value::Null => Ok(self.constant(Cell::Null, Kind::Unknown, span)),
            ast::Value::HexStringLiteral(_) | ast::Value::SingleQuotedByteStringLiteral(_) => {
                Err(Fault::new(span, "bit strings are not supported")
                    .hint("write bytes as '\\x0a'::bytea, compare bits as text: '0101'"))
            }
            ast::Value::Placeholder(_) => Err(Fault::new(span, "parameters are not supported")),
            _ => Err(Fault::new(span, "this kind of literal is not supported")
                .hint("write text as 'text'")),
        }
    }
}
