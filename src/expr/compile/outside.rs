//! What an expression asks from outside of its row: dictionaries and lookups; and masks.

use std::ops::Range;

use sqlparser::ast::Expr as Ast;
use tidelock_core::DataType;

use super::operators::{chars, wider};
use super::{Compiler, Result, Typed};
use crate::expr::cast::{Limit, Target};
use crate::expr::cell::Cell;
use crate::expr::error::Fault;
use crate::expr::kind::{self, Kind};
use crate::expr::plan::{Mask, Missing, Node, Special};
use crate::expr::{Lookup, LookupNames, LookupPart, SoughtDictionary};

impl Compiler<'_> {
    /// One value or a tuple of them.
    pub(super) fn parts(&mut self, ast: &Ast) -> Result<Vec<Typed>> {
        match ast {
            Ast::Tuple(items) => items.iter().map(|item| self.expr(item)).collect(),
            one => Ok(vec![self.expr(one)?]),
        }
    }

    pub(super) fn dictionary(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
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
        if let Some((why, hint)) = self.scope.dictionaries.fault(&name) {
            return Err(Fault::new(place, format!("dictionary {name}: {why}")).hint(hint));
        }
        let code_span = self.span(code);
        let within = self.in_lookup;
        // What is looked up is asked for by values that are known.
        self.in_lookup |= shape.sought.is_some();
        let parts = self.parts(code);
        self.in_lookup = within;
        let mut parts = parts?;
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
        if !shape.types.is_empty() {
            parts = self.matched(parts, &shape.types, &[])?;
        }
        if let Some(raw) = parts.iter().find(|p| p.kind == Kind::Raw && shape.sought.is_none()) {
            return Err(self.foreign(raw));
        }
        for part in &mut parts {
            if part.kind == Kind::Unknown && shape.sought.is_none() {
                *part = self.coerce(part.clone(), Kind::Text)?;
            }
        }
        if let Some(sought) = &shape.sought {
            return self.sought_dictionary(name, place, sought, parts, default.copied(), span);
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

    /// What a missing row is inserted with: `true` for nothing more, a pair of column and value, or a tuple of such pairs.
    fn inserted(&mut self, ast: &Ast) -> Result<Vec<(String, Range<usize>, Typed)>> {
        let refuse = |span| {
            Err(Fault::new(span, "a missing row is inserted with columns and their values")
                .hint("insert => true, or insert => ('column', value), or insert => (('column', value), ...)"))
        };
        let inner = match ast {
            Ast::Nested(inner) => inner,
            other => other,
        };
        let pairs: Vec<&Ast> = match inner {
            Ast::Value(value) if matches!(value.value, sqlparser::ast::Value::Boolean(true)) => {
                return Ok(Vec::new());
            }
            Ast::Tuple(items) if matches!(items.first(), Some(Ast::Tuple(_))) => {
                items.iter().collect()
            }
            Ast::Tuple(_) => vec![inner],
            _ => return refuse(self.span(ast)),
        };
        let mut inserted = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let Ast::Tuple(items) = pair else { return refuse(self.span(pair)) };
            let [column, value] = items.as_slice() else { return refuse(self.span(pair)) };
            let (column, place) = self.text_literal(column, "the column")?;
            let value = self.expr(value)?;
            let value = match value.kind {
                Kind::Unknown => self.coerce(value, Kind::Text)?,
                _ => value,
            };
            inserted.push((column, place, value));
        }
        Ok(inserted)
    }

    pub(super) fn lookup(
        &mut self,
        args: &[&Ast],
        insert: Option<&Ast>,
        span: Range<usize>,
    ) -> Result<Typed> {
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
        let inserted = insert.map(|insert| self.inserted(insert)).transpose();
        self.in_lookup = false;
        let (parts, inserted) = (parts?, inserted?);
        let names: Option<Vec<String>> =
            inserted.as_ref().map(|all| all.iter().map(|(name, _, _)| name.clone()).collect());
        if parts.len() != columns.len() {
            return Err(Fault::new(
                values_span,
                format!("{} columns are matched with {} values", columns.len(), parts.len()),
            ));
        }
        let wanted = LookupNames {
            table: &table,
            columns: &columns,
            result: &result,
            insert: names.as_deref(),
        };
        let shape = self.scope.lookups.shape(wanted).map_err(|error| {
            let place = match error.part {
                LookupPart::Table => table_span,
                LookupPart::Column(at) => column_spans.get(at).cloned().unwrap_or(table_span),
                LookupPart::Result => result_span,
                LookupPart::Insert(at) => inserted
                    .as_ref()
                    .and_then(|all| all.get(at))
                    .map_or(table_span, |(_, place, _)| place.clone()),
            };
            Fault::new(place, error.message).hint(error.hint)
        })?;
        let matched = self.matched(parts, &shape.columns, &columns)?;
        let missing = if self.lenient && insert.is_none() { Missing::Null } else { Missing::Error };
        let added: Vec<Typed> = inserted.into_iter().flatten().map(|(_, _, typed)| typed).collect();
        let lookup = Lookup {
            table,
            columns,
            result,
            data_type: shape.result.clone(),
            nullable: shape.result_nullable,
            insert: names,
            given: Vec::new(),
            span,
            args: Vec::new(),
        };
        Ok(self.asked(lookup, matched, added, missing))
    }

    /// A lookup with these values, which are matched and inserted.
    fn asked(
        &mut self,
        mut lookup: Lookup,
        matched: Vec<Typed>,
        added: Vec<Typed>,
        missing: Missing,
    ) -> Typed {
        let kind = Kind::of(&lookup.data_type);
        let nullable = lookup.nullable
            || matches!(missing, Missing::Null)
            || matched.iter().any(|p| p.nullable);
        lookup.given = matched.iter().chain(&added).map(|typed| typed.data_type.clone()).collect();
        let nodes: Vec<Node> = matched.into_iter().map(|p| p.node).collect();
        lookup.args = nodes.iter().cloned().chain(added.into_iter().map(|p| p.node)).collect();
        let (index, span) = (self.lookups.len(), lookup.span.clone());
        let (data_type, table) = (lookup.data_type.clone(), lookup.table.clone());
        self.lookups.push(lookup);
        let node = Node::Lookup { index, table, args: nodes, missing, kind, span: span.clone() };
        let kind = match kind {
            Kind::Label | Kind::Bits | Kind::Char => Kind::Text,
            kind => kind,
        };
        Typed { data_type, ..self.made(node, kind, nullable, span) }
    }

    /// A dictionary that is a table of the target.
    fn sought_dictionary(
        &mut self,
        name: String,
        place: Range<usize>,
        sought: &SoughtDictionary,
        parts: Vec<Typed>,
        default: Option<&Ast>,
        span: Range<usize>,
    ) -> Result<Typed> {
        if self.in_lookup {
            let words = format!(
                "dictionary {name} is looked up in the target, and cannot stand inside a lookup"
            );
            return Err(Fault::new(span, words));
        }
        let SoughtDictionary { table, columns, result } = sought;
        let wanted = LookupNames { table, columns, result, insert: None };
        let shape = self.scope.lookups.shape(wanted).map_err(|fault| {
            Fault::new(
                place,
                format!("dictionary {name} is a table of the target: {}", fault.message),
            )
            .hint(fault.hint)
        })?;
        let matched = self.matched(parts, &shape.columns, columns)?;
        if !self.dictionaries.contains(&name) {
            self.dictionaries.push(name.clone());
        }
        let kind = match Kind::of(&shape.result) {
            Kind::Label | Kind::Bits | Kind::Char => Kind::Text,
            kind => kind,
        };
        let default = match default {
            None => None,
            Some(default) => {
                let within = std::mem::replace(&mut self.in_lookup, true);
                let typed = self.expr(default);
                self.in_lookup = within;
                let typed = typed?;
                Some(self.coerce(typed, kind)?)
            }
        };
        let nullable = shape.result_nullable || default.as_ref().is_some_and(|d| d.nullable);
        let missing = match &default {
            Some(default) => Missing::Default(Box::new(default.node.clone())),
            None => Missing::Code(name),
        };
        let lookup = Lookup {
            table: table.clone(),
            columns: columns.clone(),
            result: result.clone(),
            data_type: shape.result,
            nullable,
            insert: None,
            given: Vec::new(),
            span,
            args: Vec::new(),
        };
        let asked = self.asked(lookup, matched, Vec::new(), missing);
        let data_type = match &default {
            Some(default) => wider(kind, &asked, default),
            None => asked.data_type.clone(),
        };
        Ok(Typed { data_type, ..asked })
    }

    /// Values brought to the types of the columns that they are matched with.
    fn matched(
        &mut self,
        parts: Vec<Typed>,
        types: &[DataType],
        columns: &[String],
    ) -> Result<Vec<Typed>> {
        let mut matched = Vec::with_capacity(parts.len());
        for (at, part) in parts.into_iter().enumerate() {
            let Some(want) = types.get(at) else { continue };
            let want_kind = match Kind::of(want) {
                Kind::Label | Kind::Char | Kind::Bits => Kind::Text,
                kind => kind,
            };
            // A number of another width meets the same key; anything else must be cast in the open.
            let fits =
                part.kind.becomes(want_kind) || (part.kind.is_number() && want_kind.is_number());
            if !fits {
                let what = columns.get(at).map_or_else(
                    || format!("value {} of a code", at + 1),
                    |c| format!("column {c}"),
                );
                return Err(Fault::new(
                    part.span.clone(),
                    format!("this is {}, {what} is {want_kind}", part.shown()),
                ));
            }
            let numbers = part.kind.is_number() && want_kind.is_number();
            matched.push(if part.kind == want_kind {
                part
            } else if numbers {
                // Rounded it would be another key.
                self.converted(part, Target { kind: want_kind, limit: Limit::Exact })?
            } else {
                self.coerce(part, want_kind)?
            });
        }
        Ok(matched)
    }

    pub(super) fn mask(&mut self, args: &[&Ast], span: Range<usize>) -> Result<Typed> {
        let [value, how] = self.exactly("mask", args, &span)?;
        let value = self.expr(value)?;
        let (how, place) = self.text_literal(how, "the way to mask")?;
        let value =
            if value.kind == Kind::Unknown { self.coerce(value, Kind::Text)? } else { value };
        if value.kind == Kind::Raw && how != "null" {
            return Err(self.foreign(&value));
        }
        let (what, most) = match how.as_str() {
            "hash" if !self.scope.mask_key => {
                return Err(Fault::new(place, "there is no key to hash with")
                    .hint("set mask_key = { env = \"NAME\" } or { file = \"PATH\" } at the top of the file: without a key a short value is found by trying"));
            }
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
