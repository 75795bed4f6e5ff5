//! Which columns an expression tells: two rows that differ in these never come out the same.
//!
//! It is what can be seen without a proof: a column as it is, cast to what holds it whole, hashed, moved by a constant, or joined with constants that keep
//! it apart from others. Of anything else (`lower(code)`, a dictionary, a CASE) two rows may come to one value.

use super::Expr;
use super::cast::{Limit, Target};
use super::cell::Cell;
use super::kind::Kind;
use super::number::Op;
use super::plan::{Mask, Node, Special};

pub fn tells(expr: &Expr) -> Vec<usize> {
    told(&expr.root)
}

fn told(node: &Node) -> Vec<usize> {
    match node {
        Node::Column { index, old: false, .. } => vec![*index],
        Node::Cast { arg, from, to, .. } if holds(*from, *to) => told(arg),
        Node::Arith { op, args, .. } => match (op, &args[0], &args[1]) {
            (Op::Add | Op::Sub, Node::Const(_), other)
            | (Op::Add | Op::Sub, other, Node::Const(_)) => told(other),
            (Op::Mul, Node::Const(Cell::Int(n)), other)
            | (Op::Mul, other, Node::Const(Cell::Int(n)))
                if *n != 0 =>
            {
                told(other)
            }
            _ => Vec::new(),
        },
        Node::Call { name: "md5" | "sha256_hex", args, .. } => {
            args.first().map(told).unwrap_or_default()
        }
        Node::Special { what: Special::Mask(Mask::Hash) | Special::Negate(_), args, .. } => {
            args.first().map(told).unwrap_or_default()
        }
        Node::Call { name: "||", args, .. } => joined(args),
        _ => Vec::new(),
    }
}

/// Whether a cast makes another value of another one.
fn holds(from: Kind, to: Target) -> bool {
    let number = |kind| matches!(kind, Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Numeric);
    let whole = matches!(to.limit, Limit::None);
    match to.kind {
        Kind::Text => {
            whole && !matches!(from, Kind::Real | Kind::Double | Kind::Time | Kind::Instant)
        }
        Kind::Int2 | Kind::Int4 | Kind::Int8 => number(from) && from != Kind::Numeric,
        Kind::Numeric => whole && number(from),
        kind => whole && kind == from,
    }
}

/// Of texts that are joined: where there are several, all but one must be of digits, and between any two of them something must stand that is not.
fn joined(args: &[Node]) -> Vec<usize> {
    let (mut all, mut texts, mut apart) = (Vec::new(), 0, true);
    for arg in args {
        if let Node::Const(cell) = arg {
            let parts = |text: &[u8]| !text.is_empty() && !text.iter().any(u8::is_ascii_digit);
            apart |= matches!(cell, Cell::Text(text) if parts(text.as_bytes()));
            continue;
        }
        let of_digits = match arg {
            Node::Column { kind, .. } | Node::Cast { from: kind, .. } => {
                matches!(kind, Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Uuid)
            }
            _ => false,
        };
        texts += usize::from(!of_digits);
        let more = told(arg);
        if !apart || texts > 1 || more.is_empty() {
            return Vec::new();
        }
        all.extend(more);
        apart = false;
    }
    all
}
