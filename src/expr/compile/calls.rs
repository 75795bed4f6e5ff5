//! Functions: which overload is meant, and those that are more than a call.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::{
    CeilFloorKind, Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    TrimWhereField,
};
use tidelock_core::{ByteString, DataType};

use super::operators::{chars, decimal, digits, wider};
use super::{Compiler, Result, Typed};
use crate::expr::Lookup;
use crate::expr::cast::Target;
use crate::expr::cell::Cell;
use crate::expr::datetime::{self, Part};
use crate::expr::error::Fault;
use crate::expr::format::{Format, Template};
use crate::expr::functions::{self, Overload, Param};
use crate::expr::kind::{self, Kind};
use crate::expr::plan::{Clock, Comparison, Mask, Node, Special};
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
        let args = match &function.args {
            FunctionArguments::None => Vec::new(),
            FunctionArguments::List(list)
                if list.clauses.is_empty() && list.duplicate_treatment.is_none() =>
            {
                let mut args = Vec::with_capacity(list.args.len());
                for arg in &list.args {
                    match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => args.push(arg),
                        _ => return Err(Fault::new(span, format!("{name} takes values only"))),
                    }
                }
                args
            }
            _ => return Err(Fault::new(span, format!("this form of {name} is not supported"))),
        };
        self.named(&name, &args, span)
    }

    fn named(&mut self, name: &str, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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
            "to_char" => self.to_char(args, span),
            "to_date" => self.from_char(args, true, span),
            "to_timestamp" if args.len() == 2 => self.from_char(args, false, span),
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
            "lookup" => self.lookup(args, span),
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

    fn arity(&self, name: &str, wanted: &str, found: usize, span: &Range<usize>) -> Fault {
        Fault::new(span.clone(), format!("{name} takes {wanted}, not {found}"))
    }

    fn exactly<'e, const N: usize>(
        &self,
        name: &str,
        args: &[&'e Ast],
        span: &Range<usize>,
    ) -> Result<[&'e Ast; N]> {
        let wanted = if N == 1 { "1 argument".to_owned() } else { format!("{N} arguments") };
        args.try_into().map_err(|_| self.arity(name, &wanted, args.len(), span))
    }

    fn exprs(&mut self, args: &[&Ast]) -> Result<Vec<Typed>> {
        args.iter().map(|arg| self.expr(arg)).collect()
    }

    /// A literal that settles what a function does.
    fn text_literal(&mut self, ast: &Ast, what: &str) -> Result<(String, Range<usize>)> {
        let typed = self.expr(ast)?;
        match typed.text() {
            Some(text) => Ok((text.to_owned(), typed.span)),
            None => Err(Fault::new(typed.span, format!("{what} must be a text literal"))),
        }
    }

    fn overloaded(&mut self, name: &str, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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

    fn resolve(
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

    /// What is known of the results beyond their type.
    fn result_type(&self, name: &str, kind: Kind, args: &[Typed]) -> DataType {
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

    fn unfit(&self, function: &functions::Function, typed: &[Typed], span: Range<usize>) -> Fault {
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

    /// The branches of a choice brought to one type.
    fn unified(&mut self, parts: Vec<Typed>, what: &str) -> Result<(Vec<Typed>, Kind, DataType)> {
        let mut kind = Kind::Unknown;
        for part in &parts {
            kind = match (kind.common(part.kind), kind) {
                (Some(Kind::Label | Kind::Bits), _) => Kind::Text,
                (Some(common), _) => common,
                (None, before) => {
                    return Err(Fault::new(
                        part.span.clone(),
                        format!(
                            "this is {}, but what stands before it in {what} is {before}",
                            part.shown()
                        ),
                    )
                    .hint("cast one of them, so that all have the same type"));
                }
            };
        }
        if kind == Kind::Unknown {
            kind = Kind::Text;
        }
        let mut unified = Vec::with_capacity(parts.len());
        for part in parts {
            let nothing = matches!(part.constant(), Some(Cell::Null));
            let mut part = if kind == Kind::Raw && nothing {
                Typed { kind: Kind::Raw, ..part }
            } else {
                self.coerce(part, kind)?
            };
            if nothing {
                part.nullable = true;
            }
            unified.push(part);
        }
        let mut known = unified.iter().filter(|p| !matches!(p.constant(), Some(Cell::Null)));
        let data_type = match known.next() {
            None => kind.data_type(),
            Some(first) => {
                let first = first.clone();
                known
                    .fold(first, |a, b| {
                        let data_type = wider(kind, &a, b);
                        Typed { node: Node::Const(Cell::Null), data_type, ..a }
                    })
                    .data_type
            }
        };
        Ok((unified, kind, data_type))
    }

    fn coalesce(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        if args.is_empty() {
            return Err(self.arity("coalesce", "at least 1 argument", 0, &span));
        }
        let parts = self.exprs(args)?;
        let (parts, kind, data_type) = self.unified(parts, "coalesce")?;
        let constant = parts.iter().all(|p| p.constant().is_some());
        let nullable = parts.iter().all(|p| p.nullable);
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts {
            let last = part.constant().is_some_and(|c| !c.is_null());
            kept.push(part.node);
            if last {
                break;
            }
        }
        let node = Node::Coalesce(kept);
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }

    fn nullif(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [a, b] = self.exactly("nullif", args, &span)?;
        let (a, b) = (self.expr(a)?, self.expr(b)?);
        let (a, b) = self.comparable(a, b, false, &span)?;
        let a = if a.kind == Kind::Label { self.coerce(a, Kind::Text)? } else { a };
        if let Some(Cell::Null) = a.constant() {
            return Ok(a);
        }
        if let Some(Cell::Null) = b.constant() {
            return Ok(a);
        }
        let constant = a.constant().is_some() && b.constant().is_some();
        let (kind, data_type) = (a.kind, a.data_type.clone());
        let node = Node::NullIf { args: Box::new([a.node, b.node]), span: span.clone() };
        let made = Typed { data_type, ..self.made(node, kind, true, span) };
        self.folded(made, constant)
    }

    fn extreme(&mut self, greatest: bool, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let name = if greatest { "greatest" } else { "least" };
        if args.is_empty() {
            return Err(self.arity(name, "at least 1 argument", 0, &span));
        }
        let parts = self.exprs(args)?;
        let (parts, kind, data_type) = self.unified(parts, name)?;
        if matches!(kind, Kind::Json | Kind::Raw) {
            return Err(Fault::new(span, format!("values of type {kind} have no order")));
        }
        for part in &parts {
            self.warn_case(part);
        }
        let constant = parts.iter().all(|p| p.constant().is_some());
        let nullable = parts.iter().all(|p| p.nullable);
        let args = parts.into_iter().map(|p| p.node).collect();
        let node = Node::Extreme { greatest, args, span: span.clone() };
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }

    pub(super) fn case(&mut self, ast: &Ast) -> Result<Typed> {
        let span = self.span(ast);
        let Ast::Case { operand, conditions, else_result, .. } = ast else {
            return Err(Fault::new(span, "this syntax is not supported"));
        };
        let mut operand = match operand {
            Some(operand) => Some(self.expr(operand)?),
            None => None,
        };
        let settled = operand.as_ref().is_none_or(|o| o.constant().is_some());
        let mut tests = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for branch in conditions {
            tests.push(match &operand {
                None => self.condition(&branch.condition)?,
                Some(value) => {
                    let value = value.clone();
                    let test = self.expr(&branch.condition)?;
                    let place = test.span.clone();
                    if settled {
                        self.compare(Comparison::Eq, value, test, place)?
                    } else {
                        let (value, test) = self.comparable(value, test, false, &place)?;
                        operand = Some(value);
                        test
                    }
                }
            });
            results.push(self.expr(&branch.result)?);
        }
        if settled {
            operand = None;
        }
        let has_else = else_result.is_some();
        if let Some(result) = else_result {
            results.push(self.expr(result)?);
        }
        let (mut results, kind, data_type) = self.unified(results, "CASE")?;
        let mut otherwise = if has_else { results.pop() } else { None };
        // Branches that no row comes to are left out, and what follows one that all come to.
        let mut branches = Vec::with_capacity(tests.len());
        for (test, result) in tests.into_iter().zip(results) {
            match test.constant() {
                Some(Cell::Bool(true)) if settled => {
                    otherwise = Some(result);
                    break;
                }
                Some(Cell::Bool(false)) if settled => {}
                Some(Cell::Null) => {}
                _ => branches.push((test, result)),
            }
        }
        let nullable = otherwise.as_ref().is_none_or(|o| o.nullable)
            || branches.iter().any(|(_, r)| r.nullable);
        let constant =
            branches.is_empty() && otherwise.as_ref().is_none_or(|o| o.constant().is_some());
        let node = Node::Case {
            operand: operand.filter(|_| !branches.is_empty()).map(|o| Box::new(o.node)),
            branches: branches.into_iter().map(|(test, result)| (test.node, result.node)).collect(),
            otherwise: otherwise.map(|o| Box::new(o.node)),
            span: span.clone(),
        };
        let made = Typed { data_type, ..self.made(node, kind, nullable, span) };
        self.folded(made, constant)
    }

    fn clock(
        &mut self,
        clock: Clock,
        kind: Kind,
        args: &[&Ast],
        span: Range<usize>,
    ) -> Result<Typed> {
        if !args.is_empty() {
            return Err(Fault::new(span, "this takes no arguments")
                .hint("cast it to round: now()::timestamptz(0)"));
        }
        self.clock = true;
        Ok(self.made(Node::Clock(clock), kind, false, span))
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
                    let regex = self.regex(from, "")?;
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

    fn typed_call(&mut self, name: &str, args: Vec<Typed>, span: Range<usize>) -> Result<Typed> {
        match functions::find(name) {
            Some(function) => self.resolve(function, args, span),
            None => Err(Fault::new(span, format!("there is no function {name}"))),
        }
    }

    fn part_of(&self, name: &str, place: Range<usize>) -> Result<Part> {
        Part::parse(name).ok_or_else(|| {
            Fault::new(place, format!("there is no part {name} of a time"))
                .hint("parts are year, quarter, month, week, day, hour, minute, second, epoch, dow, doy, isodow, isoyear and others")
        })
    }

    fn extract(
        &mut self,
        name: &str,
        place: Range<usize>,
        value: &Ast,
        double: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let part = self.part_of(name, place)?;
        let value = self.expr(value)?;
        // Only the old form takes a date for its midnight.
        let value = if value.kind == Kind::Date && double {
            self.coerce(value, Kind::Stamp)?
        } else {
            value
        };
        if !part.is_of(value.kind) {
            return Err(Fault::new(
                value.span.clone(),
                format!("this is {}, which has no {name}", value.shown()),
            )
            .hint(if value.kind.is_text() || value.kind == Kind::Unknown {
                "cast it: (…)::timestamp"
            } else {
                ""
            }));
        }
        let infinite = matches!(value.kind, Kind::Date | Kind::Stamp | Kind::Instant);
        let kind = if double { Kind::Double } else { Kind::Numeric };
        let call = if double { "date_part" } else { "extract" };
        let nullable = value.nullable;
        let typed =
            self.special(call, vec![value], kind, Special::Extract { part, double }, span)?;
        // Of an infinite time there is no month; rows with one are rare, so the type says what is usual.
        let data_type = match (kind, part) {
            (Kind::Numeric, Part::Second | Part::Epoch) => decimal((20, 6)),
            (Kind::Numeric, Part::Milliseconds) => decimal((8, 3)),
            (Kind::Numeric, _) => decimal((20, 0)),
            _ => kind.data_type(),
        };
        Ok(Typed { nullable: nullable || infinite, data_type, ..typed })
    }

    fn date_trunc(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let (field, value, zone) = match args {
            [field, value] => (field, value, None),
            [field, value, zone] => (field, value, Some(zone)),
            _ => return Err(self.arity("date_trunc", "2 or 3 arguments", args.len(), &span)),
        };
        let (name, place) = self.text_literal(field, "the part")?;
        let part = self.part_of(&name, place.clone())?;
        if !part.truncates() {
            return Err(Fault::new(place, format!("date_trunc has no part {name}")));
        }
        let value = self.expr(value)?;
        let kind = match (value.kind, zone) {
            (Kind::Date | Kind::Unknown, _) => Kind::Instant,
            (Kind::Time, None) => Kind::Interval,
            (Kind::Stamp, Some(_)) => Kind::Instant,
            (kind, _) => kind,
        };
        if !matches!(kind, Kind::Stamp | Kind::Instant | Kind::Interval)
            || (zone.is_some() && kind == Kind::Interval)
        {
            return Err(Fault::new(
                value.span.clone(),
                format!("this is {}, date_trunc takes a timestamp", value.shown()),
            ));
        }
        if kind == Kind::Interval && part == Part::Week {
            return Err(Fault::new(place, "an interval has no weeks"));
        }
        let value = self.coerce(value, kind)?;
        let zone = match zone {
            Some(zone) => self.zone(zone)?,
            None => jiff::tz::TimeZone::UTC,
        };
        let typed =
            self.special("date_trunc", vec![value], kind, Special::Trunc { part, zone }, span)?;
        let fsp = match part {
            Part::Microseconds => 6,
            Part::Milliseconds => 3,
            _ => 0,
        };
        let data_type = match kind {
            Kind::Stamp => DataType::Timestamp { fsp },
            Kind::Instant => DataType::Instant { fsp, narrow: false },
            _ => DataType::Interval { fsp },
        };
        Ok(Typed { data_type, ..typed })
    }

    fn zone(&mut self, ast: &Ast) -> Result<jiff::tz::TimeZone> {
        let (name, place) = self.text_literal(ast, "the time zone")?;
        datetime::zone(&name).ok_or_else(|| {
            Fault::new(place, format!("time zone {name} is not known"))
                .hint("write its full name, such as Europe/Berlin or UTC")
        })
    }

    fn at_zone(&mut self, value: &Ast, zone: &Ast, span: Range<usize>) -> Result<Typed> {
        let value = self.expr(value)?;
        let value = match value.kind {
            Kind::Date | Kind::Unknown => self.coerce(value, Kind::Instant)?,
            _ => value,
        };
        let kind = match value.kind {
            Kind::Stamp => Kind::Instant,
            Kind::Instant => Kind::Stamp,
            _ => {
                return Err(Fault::new(
                    value.span.clone(),
                    format!("this is {}, AT TIME ZONE takes a timestamp", value.shown()),
                ));
            }
        };
        let data_type = match (&value.data_type, kind) {
            (DataType::Timestamp { fsp }, _) => DataType::Instant { fsp: *fsp, narrow: false },
            (DataType::Instant { fsp, .. }, _) => DataType::Timestamp { fsp: *fsp },
            _ => kind.data_type(),
        };
        let named = self.expr(zone)?;
        let typed = if named.constant().is_some() {
            let zone = self.zone(zone)?;
            self.special("AT TIME ZONE", vec![value], kind, Special::Zone(Some(zone)), span)?
        } else {
            let named = self.coerce(named, Kind::Text)?;
            self.special("AT TIME ZONE", vec![value, named], kind, Special::Zone(None), span)?
        };
        Ok(Typed { data_type, ..typed })
    }

    fn regexp_replace(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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
        let regex = self.regex(pattern, &flags)?;
        let template = ByteString::from(self.text_literal(template, "the replacement")?.0);
        let what = Special::RegexReplace { regex, template, all: flags.contains('g') };
        self.special("regexp_replace", vec![value], Kind::Text, what, span)
    }

    fn regexp_like(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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
        let regex = self.regex(pattern, &flags)?;
        self.special(
            "regexp_like",
            vec![value],
            Kind::Bool,
            Special::Matches { regex, negated: false },
            span,
        )
    }

    fn to_char(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [value, template] = self.exactly("to_char", args, &span)?;
        let value = self.expr(value)?;
        let (text, place) = self.text_literal(template, "the template")?;
        let format = Format::parse(&text, value.kind).map_err(|why| Fault::new(place, why))?;
        let value =
            if value.kind == Kind::Date { self.coerce(value, Kind::Instant)? } else { value };
        let infinite = matches!(value.kind, Kind::Stamp | Kind::Instant);
        let nullable = value.nullable || infinite;
        let typed = self.special(
            "to_char",
            vec![value],
            Kind::Text,
            Special::ToChar(Arc::new(format)),
            span,
        )?;
        Ok(if typed.constant().is_some() { typed } else { Typed { nullable, ..typed } })
    }

    fn from_char(&mut self, args: &[&Ast], date: bool, span: Range<usize>) -> Result<Typed> {
        let (name, kind) =
            if date { ("to_date", Kind::Date) } else { ("to_timestamp", Kind::Instant) };
        let [value, template] = self.exactly(name, args, &span)?;
        let value = self.expr(value)?;
        let value = self.coerce(value, Kind::Text)?;
        let (text, place) = self.text_literal(template, "the template")?;
        let template = Template::parse(&text).map_err(|why| Fault::new(place, why))?;
        self.special(
            name,
            vec![value],
            kind,
            Special::FromChar { template: Arc::new(template), date },
            span,
        )
    }

    /// One value or a tuple of them.
    fn parts(&mut self, ast: &Ast) -> Result<Vec<Typed>> {
        match ast {
            Ast::Tuple(items) => items.iter().map(|item| self.expr(item)).collect(),
            one => Ok(vec![self.expr(one)?]),
        }
    }

    fn dictionary(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let (name, code, default) = match args {
            [name, code] => (name, code, None),
            [name, code, default] => (name, code, Some(default)),
            _ => return Err(self.arity("dictionary", "2 or 3 arguments", args.len(), &span)),
        };
        let (name, place) = self.text_literal(name, "the dictionary's name")?;
        let Some(shape) = self.scope.dictionaries.get(&name) else {
            let names = self.scope.dictionaries.names();
            let near = super::source::nearest(&name, names.iter().map(String::as_str));
            let hint = near.map_or_else(
                || "name it under [dictionaries]".to_owned(),
                |near| format!("did you mean '{near}'?"),
            );
            return Err(Fault::new(place, format!("there is no dictionary {name}")).hint(hint));
        };
        let code_span = self.span(code);
        let mut parts = self.parts(code)?;
        if parts.len() != shape.arity {
            let wanted = if shape.arity == 1 {
                "1 value".to_owned()
            } else {
                format!("a tuple of {} values", shape.arity)
            };
            return Err(Fault::new(
                code_span,
                format!("a code of dictionary {name} is {wanted}, not {}", parts.len()),
            ));
        }
        for part in &mut parts {
            if part.kind == Kind::Unknown {
                *part = self.coerce(part.clone(), Kind::Text)?;
            }
        }
        let kind = match Kind::of(&shape.result) {
            Kind::Label | Kind::Bits | Kind::Char => Kind::Text,
            kind => kind,
        };
        let mut nullable = shape.result_nullable || parts.iter().any(|p| p.nullable);
        let mut data_type = shape.result.clone();
        let default = match default {
            None => None,
            Some(default) => {
                let default = self.expr(default)?;
                let default = self.coerce(default, kind)?;
                nullable |= default.nullable;
                let found = self.made(Node::Const(Cell::Null), kind, nullable, span.clone());
                data_type = wider(kind, &Typed { data_type, ..found }, &default);
                Some(Box::new(default.node))
            }
        };
        if !self.dictionaries.contains(&name) {
            self.dictionaries.push(name.clone());
        }
        let code = parts.into_iter().map(|p| p.node).collect();
        let node =
            Node::Dictionary { index: shape.index, name, code, default, kind, span: span.clone() };
        Ok(Typed { data_type, ..self.made(node, kind, nullable, span) })
    }

    fn lookup(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [table, columns, values, result] = self.exactly("lookup", args, &span)?;
        if self.in_lookup {
            return Err(Fault::new(span, "a lookup cannot stand inside a lookup"));
        }
        let (table, table_span) = self.text_literal(table, "the table")?;
        let names: Vec<&Ast> = match columns {
            Ast::Tuple(items) => items.iter().collect(),
            one => vec![one],
        };
        let mut columns = Vec::with_capacity(names.len());
        let mut column_spans = Vec::with_capacity(names.len());
        for name in names {
            let (name, place) = self.text_literal(name, "the column to match")?;
            columns.push(name);
            column_spans.push(place);
        }
        let (result, result_span) = self.text_literal(result, "the result's column")?;
        let values_span = self.span(values);
        self.in_lookup = true;
        let parts = self.parts(values);
        self.in_lookup = false;
        let parts = parts?;
        if parts.len() != columns.len() {
            return Err(Fault::new(
                values_span,
                format!("{} columns are matched with {} values", columns.len(), parts.len()),
            ));
        }
        let shape = self.scope.lookups.shape(&table, &columns, &result).map_err(|error| {
            let place = match error.part {
                super::super::LookupPart::Table => table_span,
                super::super::LookupPart::Column(at) => {
                    column_spans.get(at).cloned().unwrap_or(table_span)
                }
                super::super::LookupPart::Result => result_span,
            };
            Fault::new(place, error.message).hint(error.hint)
        })?;
        let mut matched = Vec::with_capacity(parts.len());
        for (at, part) in parts.into_iter().enumerate() {
            let Some(want) = shape.columns.get(at) else { continue };
            let want_kind = match Kind::of(want) {
                Kind::Label | Kind::Char | Kind::Bits => Kind::Text,
                kind => kind,
            };
            // A number of another width meets the same key; anything else must be cast in the open.
            let fits =
                part.kind.becomes(want_kind) || (part.kind.is_number() && want_kind.is_number());
            if !fits {
                let column = columns.get(at).map(String::as_str).unwrap_or_default();
                return Err(Fault::new(
                    part.span.clone(),
                    format!("this is {}, column {column} is {want_kind}", part.shown()),
                ));
            }
            matched.push(
                if part.kind == want_kind
                    || (part.kind.is_number()
                        && want_kind.is_number()
                        && part.kind != Kind::Unknown)
                {
                    if part.kind == want_kind {
                        part
                    } else {
                        self.converted(part, Target::plain(want_kind))?
                    }
                } else {
                    self.coerce(part, want_kind)?
                },
            );
        }
        let kind = Kind::of(&shape.result);
        let nullable = shape.result_nullable || matched.iter().any(|p| p.nullable);
        let nodes: Vec<Node> = matched.into_iter().map(|p| p.node).collect();
        let index = self.lookups.len();
        self.lookups.push(Lookup {
            table: table.clone(),
            columns,
            result,
            data_type: shape.result.clone(),
            nullable: shape.result_nullable,
            span: span.clone(),
            args: nodes.clone(),
        });
        let node = Node::Lookup { index, table, args: nodes, kind, span: span.clone() };
        let kind = match kind {
            Kind::Label | Kind::Bits | Kind::Char => Kind::Text,
            kind => kind,
        };
        Ok(Typed { data_type: shape.result, ..self.made(node, kind, nullable, span) })
    }

    fn mask(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [value, how] = self.exactly("mask", args, &span)?;
        let value = self.expr(value)?;
        let (how, place) = self.text_literal(how, "the way to mask")?;
        let value =
            if value.kind == Kind::Unknown { self.coerce(value, Kind::Text)? } else { value };
        let (what, most) = match how.as_str() {
            "hash" => (Mask::Hash, Some(64)),
            "last4" => (Mask::Last4, chars(&value)),
            "null" => {
                let kind = if value.kind == Kind::Raw { Kind::Text } else { value.kind };
                let data_type =
                    if value.kind == Kind::Raw { kind.data_type() } else { value.data_type };
                return Ok(Typed {
                    node: Node::Const(Cell::Null),
                    kind,
                    data_type,
                    nullable: true,
                    span,
                });
            }
            _ => {
                return Err(Fault::new(place, format!("there is no way {how} to mask"))
                    .hint("write 'hash', 'last4' or 'null'"));
            }
        };
        let typed = self.special("mask", vec![value], Kind::Text, Special::Mask(what), span)?;
        Ok(Typed { data_type: kind::text(most), ..typed })
    }
}
