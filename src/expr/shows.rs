//! How much of each column is in the result of an expression: what `check --exposure` answers with.
//!
//! A column counts as shown where anything of the result depends on it outside of `mask(...)`, if only as a condition
//! of a `CASE`: a careful reader of many results could tell it. What was folded away at the start is in no result.

use super::plan::{Mask, Missing, Node, Special};
use super::{Expr, Lookup};

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

impl Lookup {
    /// How much of each column its table is asked for with, or gets where a missing row is inserted.
    pub fn shows(&self) -> Vec<Shown> {
        let mut shown = Vec::new();
        self.args.iter().for_each(|arg| look(arg, Veil::Open, &mut shown));
        shown
    }
}

/// The dictionaries of which something is in the result, or in what is looked up.
pub fn shows_dictionaries(expr: &Expr) -> Vec<(String, Veil)> {
    let mut shown: Vec<(String, Veil)> = Vec::new();
    let mut note = |node: &Node, through: Veil| {
        let Node::Dictionary { name, .. } = node else { return };
        match shown.iter_mut().find(|(known, _)| known == name) {
            Some((_, veil)) => *veil = (*veil).max(through),
            None => shown.push((name.clone(), through)),
        }
    };
    walk(&expr.root, Veil::Open, &mut note);
    let args = expr.lookups.iter().flat_map(|lookup| &lookup.args);
    args.for_each(|arg| walk(arg, Veil::Open, &mut note));
    shown
}

fn look(node: &Node, through: Veil, shown: &mut Vec<Shown>) {
    walk(node, through, &mut |node, through| {
        let Node::Column { index, .. } = node else { return };
        match shown.iter_mut().find(|s| s.field == *index) {
            Some(known) => known.veil = known.veil.max(through),
            None => shown.push(Shown { field: *index, veil: through }),
        }
    });
}

/// All that a step is made from, itself first. `through` is the thinnest part that a value has passed on its way to the result.
fn walk(node: &Node, through: Veil, note: &mut impl FnMut(&Node, Veil)) {
    note(node, through);
    let through = match node {
        Node::Special { what: Special::Mask(Mask::Hash), .. } => through.min(Veil::Hash),
        Node::Special { what: Special::Mask(Mask::Last4), .. } => through.min(Veil::Last4),
        _ => through,
    };
    parts(node).for_each(|part| walk(part, through, note));
}

/// What a step is made from.
fn parts(node: &Node) -> Box<dyn Iterator<Item = &Node> + '_> {
    match node {
        Node::Column { .. } | Node::Const(_) | Node::Clock(_) => Box::new(std::iter::empty()),
        Node::Compare { args, .. }
        | Node::Distinct { args, .. }
        | Node::Arith { args, .. }
        | Node::NullIf { args, .. } => Box::new(args.iter()),
        Node::Not(arg)
        | Node::IsNull { arg, .. }
        | Node::Is { arg, .. }
        | Node::Cast { arg, .. } => Box::new(std::iter::once(&**arg)),
        Node::And(args)
        | Node::Or(args)
        | Node::Coalesce(args)
        | Node::Extreme { args, .. }
        | Node::Call { args, .. }
        | Node::Special { args, .. } => Box::new(args.iter()),
        Node::Lookup { args, missing, .. } => {
            let default = match missing {
                Missing::Default(default) => Some(&**default),
                Missing::Error | Missing::Null | Missing::Code(_) => None,
            };
            Box::new(args.iter().chain(default))
        }
        Node::In { arg, list, .. } => Box::new(std::iter::once(&**arg).chain(list)),
        Node::Case { operand, branches, otherwise, .. } => {
            let branches = branches.iter().flat_map(|(when, then)| [when, then]);
            let ends = operand.as_deref().into_iter().chain(otherwise.as_deref());
            Box::new(branches.chain(ends))
        }
        Node::Dictionary { code, default, .. } => Box::new(code.iter().chain(default.as_deref())),
    }
}
