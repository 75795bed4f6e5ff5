//! How much of each column is in the result of an expression: what `check --exposure` answers with.
//!
//! A column counts as shown where anything of the result depends on it outside of `mask(...)`, if only as a condition
//! of a `CASE`: a careful reader of many results could tell it. What was folded away at the start is in no result.

use super::Expr;
use super::plan::{Mask, Node, Special};

/// How much is shown, from nothing to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Veil {
    /// Nothing: the result does not depend on it.
    Nothing,
    /// A keyed hash.
    Hash,
    /// The last four characters.
    Last4,
    /// All of it.
    Open,
}

/// A column and how much of it is in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The column.
    pub field: usize,
    /// How much.
    pub veil: Veil,
}

pub fn shows(expr: &Expr) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for &field in expr.fields.iter().chain(&expr.old_fields) {
        if shown.iter().all(|known| known.field != field) {
            shown.push(Shown { field, veil: Veil::Nothing });
        }
    }
    look(&expr.root, Veil::Open, &mut shown);
    // A lookup's key goes to the target, whatever becomes of the answer.
    for arg in expr.lookups.iter().flat_map(|lookup| &lookup.args) {
        look(arg, Veil::Open, &mut shown);
    }
    shown
}

/// `through` is the thinnest part that a value has passed on its way to the result.
fn look(node: &Node, through: Veil, shown: &mut Vec<Shown>) {
    let mut all = |nodes: &mut dyn Iterator<Item = &Node>, through: Veil| {
        nodes.for_each(|child| look(child, through, shown));
    };
    match node {
        Node::Column { index, .. } => match shown.iter_mut().find(|s| s.field == *index) {
            Some(known) => known.veil = known.veil.max(through),
            None => shown.push(Shown { field: *index, veil: through }),
        },
        Node::Const(_) | Node::Clock(_) => {}
        Node::Special { args, what, .. } => {
            let veil = match what {
                Special::Mask(Mask::Hash) => Veil::Hash,
                Special::Mask(Mask::Last4) => Veil::Last4,
                _ => Veil::Open,
            };
            all(&mut args.iter(), through.min(veil));
        }
        Node::Compare { args, .. }
        | Node::Distinct { args, .. }
        | Node::Arith { args, .. }
        | Node::NullIf { args, .. } => all(&mut args.iter(), through),
        Node::Not(arg)
        | Node::IsNull { arg, .. }
        | Node::Is { arg, .. }
        | Node::Cast { arg, .. } => all(&mut std::iter::once(&**arg), through),
        Node::And(args)
        | Node::Or(args)
        | Node::Coalesce(args)
        | Node::Extreme { args, .. }
        | Node::Call { args, .. }
        | Node::Lookup { args, .. } => all(&mut args.iter(), through),
        Node::In { arg, list, .. } => {
            all(&mut std::iter::once(&**arg).chain(list), through);
        }
        Node::Case { operand, branches, otherwise, .. } => {
            let branches = branches.iter().flat_map(|(when, then)| [when, then]);
            let ends = operand.as_deref().into_iter().chain(otherwise.as_deref());
            all(&mut branches.chain(ends), through);
        }
        Node::Dictionary { code, default, .. } => {
            all(&mut code.iter().chain(default.as_deref()), through);
        }
    }
}
