//! Functions on times, with the parts, zones and templates that are settled at the start.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::ast::Expr as Ast;
use tidelock_core::DataType;

use super::operators::decimal;
use super::{Compiler, Result, Typed};
use crate::expr::datetime::{self, Part};
use crate::expr::error::Fault;
use crate::expr::format::{Format, Template};
use crate::expr::kind::Kind;
use crate::expr::plan::{Clock, Node, Special};

impl Compiler<'_> {
    pub(super) fn clock(
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

    pub(super) fn part_of(&self, name: &str, place: Range<usize>) -> Result<Part> {
        Part::parse(name).ok_or_else(|| {
            Fault::new(place, format!("there is no part {name} of a time"))
                .hint("parts are year, quarter, month, week, day, hour, minute, second, epoch, dow, doy, isodow, isoyear and others")
        })
    }

    pub(super) fn extract(
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
        // Of an infinite time there is no month, but a year.
        let infinite = !self.scope.finite
            && !part.grows()
            && matches!(value.kind, Kind::Date | Kind::Stamp | Kind::Instant);
        let kind = if double { Kind::Double } else { Kind::Numeric };
        let call = if double { "date_part" } else { "extract" };
        let nullable = value.nullable;
        let typed =
            self.special(call, vec![value], kind, Special::Extract { part, double }, span)?;
        // Rows with an infinite time are rare, so the type says what is usual.
        let data_type = match (kind, part) {
            (Kind::Numeric, Part::Second | Part::Epoch) => decimal((20, 6)),
            (Kind::Numeric, Part::Milliseconds) => decimal((8, 3)),
            (Kind::Numeric, _) => decimal((20, 0)),
            _ => kind.data_type(),
        };
        Ok(Typed { nullable: nullable || infinite, data_type, ..typed })
    }

    pub(super) fn date_trunc(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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

    pub(super) fn zone(&mut self, ast: &Ast) -> Result<jiff::tz::TimeZone> {
        let (name, place) = self.text_literal(ast, "the time zone")?;
        datetime::zone(&name).ok_or_else(|| {
            Fault::new(place, format!("time zone {name} is not known"))
                .hint("write its full name, such as Europe/Berlin or UTC")
        })
    }

    pub(super) fn at_zone(&mut self, value: &Ast, zone: &Ast, span: Range<usize>) -> Result<Typed> {
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

    pub(super) fn write_by_template(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [value, template] = self.exactly("to_char", args, &span)?;
        let value = self.expr(value)?;
        let (text, place) = self.text_literal(template, "the template")?;
        let format = Format::parse(&text, value.kind).map_err(|why| Fault::new(place, why))?;
        let value =
            if value.kind == Kind::Date { self.coerce(value, Kind::Instant)? } else { value };
        let infinite = !self.scope.finite && matches!(value.kind, Kind::Stamp | Kind::Instant);
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

    pub(super) fn read_by_template(
        &mut self,
        args: &[&Ast],
        date: bool,
        span: Range<usize>,
    ) -> Result<Typed> {
        let (name, kind) =
            if date { ("to_date", Kind::Date) } else { ("to_timestamp", Kind::Instant) };
        let [value, template] = self.exactly(name, args, &span)?;
        let value = self.expr(value)?;
        let value = self.coerce(value, Kind::Text)?;
        let (text, place) = self.text_literal(template, "the template")?;
        let template = Template::parse(&text).and_then(|t| t.readable().map(|()| t));
        let template = template.map_err(|why| Fault::new(place, why))?;
        self.special(
            name,
            vec![value],
            kind,
            Special::FromChar { template: Arc::new(template), date },
            span,
        )
    }
}
