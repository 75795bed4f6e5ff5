//! The plan in readable text, for `check --explain`.

use std::fmt::Write;

use super::cell::Cell;
use super::plan::{Clock, Mask, Missing, Node, Special};
use super::{Expr, Field};

/// Longer literals are cut.
const LITERAL_CHARS: usize = 60;

/// The text as far as it is written, and what the columns are called.
struct Out<'f> {
    text: String,
    fields: &'f [Field],
}

pub fn explain(expr: &Expr, fields: &[Field]) -> String {
    let null = if expr.nullable { "" } else { ", never NULL" };
    let mut out = Out { text: format!("{}{null}\n", expr.kind), fields };
    node(&expr.root, 1, &mut out);
    out.text
}

fn line(depth: usize, text: &str, out: &mut Out<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(out.text, "{:width$}{text}", "", width = depth * 2);
}

fn literal(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Bool(_) | Cell::Int(_) | Cell::Dec(_) => {
            cell.form().map_or(String::new(), |t| t.to_string())
        }
        other => {
            let text = other.form().map_or(String::new(), |t| t.to_string());
            let cut: String = text.chars().take(LITERAL_CHARS).collect();
            let dots = if cut.len() < text.len() { "…" } else { "" };
            format!("'{cut}{dots}'")
        }
    }
}

fn all<'n>(name: &str, depth: usize, nodes: impl IntoIterator<Item = &'n Node>, out: &mut Out<'_>) {
    line(depth, name, out);
    for child in nodes {
        node(child, depth + 1, out);
    }
}

fn not(negated: bool, name: &str) -> String {
    if negated { format!("NOT {name}") } else { name.to_owned() }
}

fn node(at: &Node, depth: usize, out: &mut Out<'_>) {
    match at {
        Node::Const(cell) => line(depth, &literal(cell), out),
        Node::Column { index, old, kind } => {
            let row = if *old { "old." } else { "" };
            let name = out.fields.get(*index).map_or("?", |field| &field.name);
            line(depth, &format!("{row}{name} ({kind})"), out);
        }
        Node::Clock(clock) => line(
            depth,
            match clock {
                Clock::Now => "now()",
                Clock::Today => "today()",
                Clock::Local => "localtimestamp",
            },
            out,
        ),
        Node::Compare { op, args, .. } => all(op.sign(), depth, &**args, out),
        Node::Distinct { args, negated, .. } => {
            let name = if *negated { "IS NOT DISTINCT FROM" } else { "IS DISTINCT FROM" };
            all(name, depth, &**args, out);
        }
        Node::Arith { op, kind, args, .. } => {
            all(&format!("{} ({kind})", op.sign()), depth, &**args, out)
        }
        Node::Not(arg) => all("NOT", depth, [&**arg], out),
        Node::And(args) => all("AND", depth, args, out),
        Node::Or(args) => all("OR", depth, args, out),
        Node::IsNull { arg, negated } => {
            all(if *negated { "IS NOT NULL" } else { "IS NULL" }, depth, [&**arg], out);
        }
        Node::Is { arg, truth, negated } => {
            let truth = match truth {
                Some(true) => "TRUE",
                Some(false) => "FALSE",
                None => "UNKNOWN",
            };
            all(&format!("IS {}", not(*negated, truth)), depth, [&**arg], out);
        }
        Node::In { arg, list, negated, .. } => {
            all(&not(*negated, "IN"), depth, std::iter::once(&**arg).chain(list), out);
        }
        Node::Case { operand, branches, otherwise, .. } => {
            all("CASE", depth, operand.as_deref(), out);
            for (when, then) in branches {
                all("WHEN", depth + 1, [when], out);
                all("THEN", depth + 1, [then], out);
            }
            if let Some(otherwise) = otherwise {
                all("ELSE", depth + 1, [&**otherwise], out);
            }
        }
        Node::Coalesce(args) => all("coalesce", depth, args, out),
        Node::NullIf { args, .. } => all("nullif", depth, &**args, out),
        Node::Extreme { greatest, args, .. } => {
            all(if *greatest { "greatest" } else { "least" }, depth, args, out)
        }
        Node::Cast { arg, from, to, .. } => {
            all(&format!("cast {from} to {}", to.written()), depth, [&**arg], out);
        }
        Node::Call { name, args, .. } => all(name, depth, args, out),
        Node::Special { name, args, what, .. } => all(&special(name, what), depth, args, out),
        Node::Dictionary { name, code, default, .. } => {
            all(&format!("dictionary '{name}'"), depth, code, out);
            if let Some(default) = default {
                all("default", depth + 1, [&**default], out);
            }
        }
        Node::Lookup { table, args, missing, .. } => {
            all(&format!("lookup in {table}"), depth, args, out);
            if let Missing::Default(default) = missing {
                all("default", depth + 1, [&**default], out);
            }
        }
    }
}

fn special(name: &str, what: &Special) -> String {
    match what {
        Special::Like { negated, .. } => not(*negated, name),
        Special::Matches { regex, negated } => {
            format!("{} '{}'", not(*negated, "matches"), regex.as_str())
        }
        Special::RegexReplace { regex, template, all } => {
            format!(
                "{name} {} '{}' by '{template}'",
                if *all { "every" } else { "the first" },
                regex.as_str()
            )
        }
        Special::RegexPart { regex } => format!("{name} from '{}'", regex.as_str()),
        Special::Extract { part, .. } | Special::Trunc { part, .. } => {
            format!("{name} {part:?}").to_lowercase()
        }
        Special::Zone(Some(zone)) => format!("{name} {}", zone.iana_name().unwrap_or("UTC")),
        Special::Mask(mask) => match mask {
            Mask::Hash => "mask by keyed hash".to_owned(),
            Mask::Last4 => "mask all but the last four".to_owned(),
        },
        Special::Negate(_)
        | Special::Temporal { .. }
        | Special::Scale { .. }
        | Special::Zone(None)
        | Special::ToChar(_)
        | Special::FromChar { .. }
        | Special::ToTimestamp => name.to_owned(),
    }
}
