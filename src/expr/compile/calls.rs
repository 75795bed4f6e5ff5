//! Functions: which overload is meant, and those that are more than a call.

use std::ops::Range;

use sqlparser::ast::{
    CeilFloorKind, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArgOperator,
    FunctionArguments, TrimWhereField,
};
use tidelock_core::{ByteString, DataType};

use super::operators::{chars, decimal, digits};
use super::{Compiler, Result, Typed};
use crate::expr::cell::Cell;
use crate::expr::error::Fault;
use crate::expr::functions::{self, Overload, Param};
use crate::expr::kind::{self, Kind};
use crate::expr::plan::{Clock, Node, Special};
use crate::expr::text::UUID_NAMESPACES;

/// Functions whose result is never longer than their first argument.
const SHORTENING: &[&str] = &[
    "upper",
    "lower",
    "initcap",
    "btrim",
    "ltrim",
    "rtrim",
    "substring",
    "substr",
    "left",
    "right",
    "split_part",
    "reverse",
];

impl Compiler<'_> {
    pub(super) fn call(&mut self, function: &Function, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        let name = function.name.to_string().to_lowercase();
        let plain = function.filter.is_none()
            && function.over.is_none()
            && function.null_treatment.is_none()
            && function.within_group.is_empty()
            && matches!(function.parameters, FunctionArguments::None);
        if !plain {
            return Err(Fault::new(
                span,
                "aggregates and windows are not supported in expressions",
            ));
        }
        let mut insert = None;
        let args = match &function.args {
            FunctionArguments::None => Vec::new(),
            FunctionArguments::List(list)
                if list.clauses.is_empty() && list.duplicate_treatment.is_none() =>
            {
                let mut args = Vec::with_capacity(list.args.len());
                for arg in &list.args {
                    match arg {
                        FunctionArg::ExprNamed {
                            name: Ast::Identifier(word),
                            arg: FunctionArgExpr::Expr(arg),
                            operator: FunctionArgOperator::RightArrow,
                        }
                        | FunctionArg::Named {
                            name: word,
                            arg: FunctionArgExpr::Expr(arg),
                            operator: FunctionArgOperator::RightArrow,
                        } if name == "lookup" && word.value.eq_ignore_ascii_case("insert") => {
                            if insert.replace(arg).is_some() {
                                return Err(Fault::new(span, "insert stands twice"));
                            }
                        }
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => args.push(arg),
                        _ => return Err(Fault::new(span, format!("{name} takes values only"))),
                    }
                }
                args
            }
            _ => return Err(Fault::new(span, format!("this form of {name} is not supported"))),
        };
        if name == "lookup" {
            return self.lookup(&args, insert, span);
        }
        self.named(&name, &args, span)
    }

    pub(super) fn named(&mut self, name: &str, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        match name {
            "coalesce" => self.coalesce(args, span),
            "nullif" => self.nullif(args, span),
            "greatest" | "least" => self.extreme(name == "greatest", args, span),
            "now" | "current_timestamp" | "transaction_timestamp" => {
                self.clock(Clock::Now, Kind::Instant, args, span)
            }
            "today" | "current_date" => self.clock(Clock::Today, Kind::Date, args, span),
            "localtimestamp" => self.clock(Clock::Local, Kind::Stamp, args, span),
            "date_part" => {
                let [field, value] = self.exactly(name, args, &span)?;
                let field = self.text_literal(field, "the part")?;
                self.extract(&field.0, field.1, value, true, span)
            }
            "date_trunc" => self.date_trunc(args, span),
            "timezone" => {
                let [zone, value] = self.exactly(name, args, &span)?;
                self.at_zone(value, zone, span)
            }
            "trim" => self.overloaded("btrim", args, span),
            "position" => self.overloaded("strpos", args, span),
            "regexp_replace" => self.regexp_replace(args, span),
            "regexp_like" => self.regexp_like(args, span),
            "to_char" => self.write_by_template(args, span),
            "to_date" => self.read_by_template(args, true, span),
            "to_timestamp" if args.len() == 2 => self.read_by_template(args, false, span),
            "to_timestamp" => {
                let [seconds] = self.exactly(name, args, &span)?;
                let seconds = self.expr(seconds)?;
                let seconds = self.coerce(seconds, Kind::Double)?;
                self.special(
                    "to_timestamp",
                    vec![seconds],
                    Kind::Instant,
                    Special::ToTimestamp,
                    span,
                )
            }
            "dictionary" => self.dictionary(args, span),
            "lookup" => self.lookup(args, None, span),
            "mask" => self.mask(args, span),
            _ => {
                if let Some((_, id)) = UUID_NAMESPACES.iter().find(|(n, _)| *n == name) {
                    if !args.is_empty() {
                        return Err(self.arity(name, "no arguments", args.len(), &span));
                    }
                    return Ok(self.constant(Cell::Uuid(*id.as_bytes()), Kind::Uuid, span));
                }
                self.overloaded(name, args, span)
            }
        }
    }

    pub(super) fn arity(
        &self,
        name: &str,
        wanted: &str,
        found: usize,
        span: &Range<usize>,
    ) -> Fault {
        Fault::new(span.clone(), format!("{name} takes {wanted}, not {found}"))
    }

    pub(super) fn exactly<'e, const N: usize>(
        &self,
        name: &str,
        args: &[&'e Ast],
        span: &Range<usize>,
    ) -> Result<[&'e Ast; N]> {
        let wanted = if N == 1 { "1 argument".to_owned() } else { format!("{N} arguments") };
        args.try_into().map_err(|_| self.arity(name, &wanted, args.len(), span))
    }

    pub(super) fn exprs(&mut self, args: &[&Ast]) -> Result<Vec<Typed>> {
        args.iter().map(|arg| self.expr(arg)).collect()
    }

    /// A literal that settles what a function does.
    pub(super) fn text_literal(&mut self, ast: &Ast, what: &str) -> Result<(String, Range<usize>)> {
        let typed = self.expr(ast)?;
        match typed.text() {
            Some(text) => Ok((text.to_owned(), typed.span)),
            None => Err(Fault::new(typed.span, format!("{what} must be a text literal"))),
        }
    }

    pub(super) fn overloaded(
        &mut self,
        name: &str,
        args: &[&Ast],
        span: Range<usize>,
    ) -> Result<Typed> {
        let Some(function) = functions::find(name) else {
            if let Some((_, why)) = functions::REFUSED.iter().find(|(n, _)| *n == name) {
                return Err(Fault::new(span, format!("{name} is not supported")).hint(*why));
            }
            let near = super::source::nearest(name, Self::function_names());
            let hint = near.map_or(String::new(), |near| format!("did you mean {near}?"));
            return Err(Fault::new(span, format!("there is no function {name}")).hint(hint));
        };
        let typed = self.exprs(args)?;
        self.resolve(function, typed, span)
    }

    pub(super) fn resolve(
        &mut self,
        function: &'static functions::Function,
        typed: Vec<Typed>,
        span: Range<usize>,
    ) -> Result<Typed> {
        let name = function.name;
        let kinds: Vec<Kind> = typed.iter().map(|t| t.kind).collect();
        let mut best: Option<(usize, &Overload)> = None;
        for overload in function.overloads {
            if let Some(fit) = overload.fit(&kinds)
                && best.is_none_or(|(most, _)| fit > most)
            {
                best = Some((fit, overload));
            }
        }
        let Some((_, overload)) = best else { return Err(self.unfit(function, &typed, span)) };
        if name.ends_with("_object") && typed.len() % 2 == 1 {
            return Err(Fault::new(span, format!("{name} takes keys and values in pairs")));
        }
        let mut args = Vec::with_capacity(typed.len());
        for (at, arg) in typed.into_iter().enumerate() {
            args.push(match overload.param(at) {
                Some(Param::Is(kind)) => self.coerce(arg, kind)?,
                _ if arg.kind == Kind::Unknown => self.coerce(arg, Kind::Text)?,
                _ => arg,
            });
        }
        if let Some(fault) = self.never(name, &args) {
            return Err(fault);
        }
        let nullable = overload.may_be_null || (!overload.lax && args.iter().any(|a| a.nullable));
        let data_type = self.result_type(name, overload.result, &args);
        let nodes = args.iter().map(|a| a.node.clone()).collect();
        let (run, lax) = (overload.run, overload.lax);
        let node = Node::Call { name, args: nodes, run, lax, span: span.clone() };
        let made = Typed { data_type, ..self.made(node, overload.result, nullable, span) };
        if lax {
            return self.folded(made, args.iter().all(|a| a.constant().is_some()));
        }
        self.strict(made, &args)
    }

    /// Why a call would fail for every row.
    fn never(&self, name: &str, args: &[Typed]) -> Option<Fault> {
        let raw = args.iter().find(|arg| arg.kind == Kind::Raw);
        if let (Some(arg), false) = (raw, matches!(name, "concat" | "concat_ws")) {
            return Some(self.foreign(arg));
        }
        let second = args.get(1)?;
        let word = second.text()?.to_ascii_lowercase();
        let why = match name {
            "encode" | "decode" if !matches!(&*word, "hex" | "base64") => {
                "encodings are 'hex' and 'base64'"
            }
            "convert_from" | "convert_to" if !matches!(&*word, "utf8" | "utf-8") => {
                "the only encoding is 'UTF8'"
            }
            _ => return None,
        };
        Some(Fault::new(second.span.clone(), why))
    }

    /// A value that is only handed on stands where it would have to be understood.
    pub(super) fn foreign(&self, arg: &Typed) -> Fault {
        Fault::new(
            arg.span.clone(),
            "this is of a type that only its own kind of server understands",
        )
        .hint("take its text: (…)::text")
    }

    /// What is known of the results beyond their type.
    pub(super) fn result_type(&self, name: &str, kind: Kind, args: &[Typed]) -> DataType {
        let first = args.first();
        match (kind, name) {
            (Kind::Text, name) if SHORTENING.contains(&name) => kind::text(first.and_then(chars)),
            (Kind::Text, "md5") => kind::text(Some(32)),
            (Kind::Text, "sha256_hex") => kind::text(Some(64)),
            (Kind::Numeric, "round" | "trunc") => match (first.and_then(digits), args.get(1)) {
                (Some((whole, _)), None) => decimal((whole + 1, 0)),
                (Some((whole, _)), Some(Typed { node: Node::Const(Cell::Int(n)), .. })) => {
                    match u32::try_from(*n) {
                        Ok(n) if n <= 1_000 => decimal((whole + 1, n)),
                        _ => decimal((whole + 1, 0)),
                    }
                }
                _ => kind.data_type(),
            },
            (Kind::Numeric, "ceil" | "ceiling" | "floor") => first
                .and_then(digits)
                .map_or_else(|| kind.data_type(), |(whole, _)| decimal((whole + 1, 0))),
            (Kind::Numeric, "abs") => {
                first.map_or_else(|| kind.data_type(), |f| f.data_type.clone())
            }
            _ => kind.data_type(),
        }
    }

    pub(super) fn unfit(
        &self,
        function: &functions::Function,
        typed: &[Typed],
        span: Range<usize>,
    ) -> Fault {
        let name = function.name;
        let forms: Vec<String> =
            function.overloads.iter().map(|o| format!("{name}{}", o.written())).collect();
        let hint = format!("it is {}", forms.join(", "));
        if !function.overloads.iter().any(|o| o.takes(typed.len())) {
            let count = match typed.len() {
                0 => "no arguments".to_owned(),
                1 => "1 argument".to_owned(),
                n => format!("{n} arguments"),
            };
            return Fault::new(span, format!("{name} cannot be called with {count}")).hint(hint);
        }
        // With one way to call it, the argument that does not fit can be named.
        if let [overload] = function.overloads {
            for (at, arg) in typed.iter().enumerate() {
                if let Some(Param::Is(want)) = overload.param(at)
                    && !arg.kind.becomes(want)
                {
                    let cast = if arg.kind.casts(want) {
                        format!("; cast it: (…)::{want}")
                    } else {
                        String::new()
                    };
                    return Fault::new(
                        arg.span.clone(),
                        format!("this is {}, {name} takes {want} here", arg.shown()),
                    )
                    .hint(format!("{hint}{cast}"));
                }
            }
        }
        let kinds: Vec<String> = typed.iter().map(Typed::shown).collect();
        Fault::new(span, format!("there is no {name} for {}", kinds.join(", "))).hint(hint)
    }

    /// Functions whose arguments stand between words.
    pub(super) fn syntax_call(&mut self, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        match ast {
            Ast::Extract { field, expr, .. } => {
                let name = field.to_string().to_lowercase();
                let name = name.trim_matches('\'').to_owned();
                self.extract(&name, span.clone(), expr, false, span)
            }
            Ast::Trim { expr, trim_where, trim_what, trim_characters } => {
                let name = match trim_where {
                    None | Some(TrimWhereField::Both) => "btrim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                let mut args: Vec<&Ast> = vec![expr];
                args.extend(trim_what.as_deref());
                args.extend(trim_characters.iter().flatten());
                self.overloaded(name, &args, span)
            }
            Ast::Substring { expr, substring_from, substring_for, .. } => {
                let value = self.expr(expr)?;
                let from = match substring_from {
                    Some(from) => self.expr(from)?,
                    None => self.constant(Cell::Int(1), Kind::Int4, span.clone()),
                };
                if from.kind == Kind::Unknown && substring_for.is_none() {
                    let regex = self.regex(from, "", true)?;
                    let value = self.coerce(value, Kind::Text)?;
                    let part = self.special(
                        "substring",
                        vec![value],
                        Kind::Text,
                        Special::RegexPart { regex },
                        span,
                    )?;
                    return Ok(Typed { nullable: true, ..part });
                }
                let mut args = vec![value, from];
                if let Some(count) = substring_for {
                    args.push(self.expr(count)?);
                }
                self.typed_call("substring", args, span)
            }
            Ast::Position { expr, r#in } => self.overloaded("strpos", &[r#in, expr], span),
            Ast::Ceil { expr, field } | Ast::Floor { expr, field } => {
                if !matches!(
                    field,
                    CeilFloorKind::DateTimeField(sqlparser::ast::DateTimeField::NoDateTime)
                ) {
                    return Err(Fault::new(span, "ceil and floor take 1 argument")
                        .hint("round(x, n) rounds to n places"));
                }
                let name = if matches!(ast, Ast::Ceil { .. }) { "ceil" } else { "floor" };
                self.overloaded(name, &[expr], span)
            }
            Ast::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut args: Vec<&Ast> = vec![expr, overlay_what, overlay_from];
                args.extend(overlay_for.as_deref());
                self.overloaded("overlay", &args, span)
            }
            Ast::AtTimeZone { timestamp, time_zone } => self.at_zone(timestamp, time_zone, span),
            _ => Err(Fault::new(span, "this syntax is not supported")),
        }
    }

    pub(super) fn typed_call(
        &mut self,
        name: &str,
        args: Vec<Typed>,
        span: Range<usize>,
    ) -> Result<Typed> {
        match functions::find(name) {
            Some(function) => self.resolve(function, args, span),
            None => Err(Fault::new(span, format!("there is no function {name}"))),
        }
    }

    pub(super) fn regexp_replace(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let (value, pattern, template, flags) = match args {
            [value, pattern, template] => (value, pattern, template, None),
            [value, pattern, template, flags] => (value, pattern, template, Some(flags)),
            _ => return Err(self.arity("regexp_replace", "3 or 4 arguments", args.len(), &span)),
        };
        let value = self.expr(value)?;
        let value = self.coerce(value, Kind::Text)?;
        let flags = match flags {
            Some(flags) => self.text_literal(flags, "the flags")?.0,
            None => String::new(),
        };
        let pattern = self.expr(pattern)?;
        let regex = self.regex(pattern, &flags, true)?;
        let template = ByteString::from(self.text_literal(template, "the replacement")?.0);
        let what = Special::RegexReplace { regex, template, all: flags.contains('g') };
        self.special("regexp_replace", vec![value], Kind::Text, what, span)
    }

    pub(super) fn regexp_like(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let (value, pattern, flags) = match args {
            [value, pattern] => (value, pattern, None),
            [value, pattern, flags] => (value, pattern, Some(flags)),
            _ => return Err(self.arity("regexp_like", "2 or 3 arguments", args.len(), &span)),
        };
        let value = self.expr(value)?;
        let value = self.coerce(value, Kind::Text)?;
        let flags = match flags {
            Some(flags) => self.text_literal(flags, "the flags")?.0,
            None => String::new(),
        };
        let pattern = self.expr(pattern)?;
        let regex = self.regex(pattern, &flags, false)?;
        self.special(
            "regexp_like",
            vec![value],
            Kind::Bool,
            Special::Matches { regex, negated: false },
            span,
        )
    }
}
