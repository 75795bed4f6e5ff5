//! A first configuration for two databases: which tables and columns may be the same, by names, types and keys.
//!
//! It proposes, and a person decides: what is likely is written, what is doubtful is marked or written as a comment, and
//! what has no counterpart is listed. Each target table is proposed for one source table and each source table for one target
//! table, in one direction only, so no two of the mappings can write the same cell or copy into each other.

pub mod names;
mod write;

use tidelock_core::{Column, Generated, RowIdentity, Table, TableKind};

use crate::config::OnUnrepresentable;
use crate::mapping::convert::{Rule, compatible};
use names::{likeness, words};
pub use write::{Head, SystemHead, written};

/// Less likely pairs of tables are not proposed.
const TABLES_LIKELY: f64 = 0.55;
/// Less likely pairs of columns are not.
const COLUMNS_LIKELY: f64 = 0.72;
/// More likely ones are not doubted.
const SURE: f64 = 0.9;

/// A target column and the source column that may feed it.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// The target column.
    pub target: String,
    /// The source column.
    pub source: String,
    /// Whether a time without zone is to be read as UTC.
    pub utc: bool,
    /// What a person should look at.
    pub doubts: Vec<String>,
}

/// A mapping that may be meant.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The source table.
    pub source: Table,
    /// The target table.
    pub target: Table,
    /// The columns.
    pub columns: Vec<Pairing>,
    /// The target columns that identify a row.
    pub key: Vec<String>,
    /// What a person should look at.
    pub doubts: Vec<String>,
    /// What stands in the way: it is written as a comment.
    pub faults: Vec<String>,
    likely: f64,
}

/// Everything that is proposed, and what is left over.
#[derive(Debug, Default)]
pub struct Proposed {
    /// The mappings, in the order of the source's tables.
    pub mappings: Vec<Proposal>,
    /// Source tables without a counterpart, and why.
    pub sources_left: Vec<(Table, String)>,
    /// Target tables without one.
    pub targets_left: Vec<Table>,
}

/// Proposes mappings from these tables to those.
pub fn propose(sources: &[Table], targets: &[Table]) -> Proposed {
    let ordinary = |t: &&Table| matches!(t.kind, TableKind::Table | TableKind::Partitioned);
    let mut left: Vec<(Table, String)> = Vec::new();
    let mut usable: Vec<&Table> = Vec::new();
    for table in sources.iter().filter(ordinary) {
        match unusable(table) {
            Some(why) => left.push((table.clone(), why)),
            None => usable.push(table),
        }
    }
    let targets: Vec<&Table> =
        targets.iter().filter(ordinary).filter(|t| t.refusals.is_empty()).collect();
    let (ours, theirs) = (prefix(&usable), prefix(&targets));
    let mut candidates: Vec<Proposal> = Vec::new();
    for source in &usable {
        for target in &targets {
            let names = likeness(&told(source, &ours), &told(target, &theirs), &[]);
            if names < 0.5 {
                continue;
            }
            let proposal = pair(source, target, names);
            if proposal.likely >= TABLES_LIKELY && !proposal.columns.is_empty() {
                candidates.push(proposal);
            }
        }
    }
    // What can run goes before what cannot, then names that are the same to the letter, then the likelier.
    candidates.sort_by(|a, b| {
        let runs = |p: &Proposal| p.faults.is_empty();
        let same = |p: &Proposal| p.source.name.name == p.target.name.name;
        let order = runs(b).cmp(&runs(a)).then(same(b).cmp(&same(a)));
        order.then(b.likely.total_cmp(&a.likely))
    });
    let mut chosen: Vec<Proposal> = Vec::new();
    for candidate in candidates {
        let taken = |p: &Proposal| {
            p.source.name == candidate.source.name || p.target.name == candidate.target.name
        };
        if !chosen.iter().any(taken) {
            chosen.push(candidate);
        }
    }
    let place = |p: &Proposal| sources.iter().position(|t| t.name == p.source.name);
    chosen.sort_by_key(place);
    let mapped = |table: &Table| chosen.iter().any(|p| p.source.name == table.name);
    let alone = usable.iter().filter(|t| !mapped(t));
    left.extend(alone.map(|t| ((*t).clone(), "nothing like it there".to_owned())));
    let free = |t: &&&Table| chosen.iter().all(|p| p.target.name != t.name);
    let targets_left = targets.iter().filter(free).map(|t| (*t).clone()).collect();
    Proposed { mappings: chosen, sources_left: left, targets_left }
}

/// Why a table cannot be followed.
fn unusable(table: &Table) -> Option<String> {
    if let Some(why) = table.refusals.first() {
        return Some(why.clone());
    }
    let keyed = table.unique_indexes.iter().any(|i| i.immediate && i.not_null);
    (!keyed || table.identity == RowIdentity::Nothing).then(|| "it has no usable key".to_owned())
}

/// A word that most names of a schema begin with, which tells nothing.
fn prefix(tables: &[&Table]) -> Option<String> {
    let first = |t: &Table| t.name.name.split(['_', '.']).next().unwrap_or_default().to_owned();
    let mut counted: Vec<(String, usize)> = Vec::new();
    for word in tables.iter().map(|t| first(t)) {
        match counted.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counted.push((word, 1)),
        }
    }
    let (word, count) = counted.into_iter().max_by_key(|(_, count)| *count)?;
    (count > 2 && count * 2 > tables.len()).then_some(word)
}

fn told(table: &Table, prefix: &Option<String>) -> Vec<String> {
    let name = &table.name.name;
    let bare = prefix.as_ref().and_then(|p| name.strip_prefix(p.as_str()));
    words(bare.filter(|rest| !rest.trim_matches('_').is_empty()).unwrap_or(name))
}

/// The columns of two tables that may be the same.
fn pair(source: &Table, target: &Table, names: f64) -> Proposal {
    let mut about = words(&source.name.name);
    about.extend(words(&target.name.name));
    let mut scored: Vec<(f64, &Column, &Column, bool)> = Vec::new();
    for to in target.columns.iter().filter(|c| c.generated != Generated::Always) {
        for from in source.columns.iter().filter(|c| c.logged) {
            let like = likeness(&words(&from.name), &words(&to.name), &about);
            if like < COLUMNS_LIKELY {
                continue;
            }
            if let Some(utc) = carries(from, to) {
                scored.push((like, from, to, utc));
            }
        }
    }
    // A sort that keeps the order of equals: names that are the same to the letter go first, then the catalogs' order decides.
    let same = |one: &(f64, &Column, &Column, bool)| one.1.name == one.2.name;
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(same(b).cmp(&same(a))));
    let mut pairs: Vec<(f64, &Column, &Column, bool)> = Vec::new();
    for one in scored {
        if pairs.iter().all(|p| p.1.name != one.1.name && p.2.name != one.2.name) {
            pairs.push(one);
        }
    }
    let place =
        |p: &(f64, &Column, &Column, bool)| target.columns.iter().position(|c| c.name == p.2.name);
    pairs.sort_by_key(place);
    let mut doubts = Vec::new();
    if names < SURE {
        doubts.push("are these two the same? Their names differ".to_owned());
    }
    let mut faults = Vec::new();
    let key = key(source, target, &pairs, &mut faults);
    for column in &target.columns {
        let filled = pairs.iter().any(|p| p.2.name == column.name)
            || column.nullable
            || column.has_default
            || column.generated != Generated::No;
        if !filled {
            faults.push(format!("nothing here is like {}, which is NOT NULL there", column.name));
        }
    }
    let needed = target.columns.len().max(1) as f64;
    let likely = 0.6 * names + 0.4 * pairs.iter().map(|p| p.0).sum::<f64>() / needed;
    let columns = pairs
        .iter()
        .map(|&(like, from, to, utc)| Pairing {
            target: to.name.clone(),
            source: from.name.clone(),
            utc,
            doubts: doubts_of(like, from, to, utc),
        })
        .collect();
    Proposal {
        source: source.clone(),
        target: target.clone(),
        columns,
        key,
        doubts,
        faults,
        likely,
    }
}

/// Whether values can go from one column to the other, and if so, whether only as UTC.
fn carries(from: &Column, to: &Column) -> Option<bool> {
    let utc = Rule { policy: OnUnrepresentable::Error, zone: Some(jiff::tz::TimeZone::UTC) };
    if compatible(&from.data_type, &to.data_type, &Rule::default()).is_ok() {
        return Some(false);
    }
    compatible(&from.data_type, &to.data_type, &utc).is_ok().then_some(true)
}

fn doubts_of(like: f64, from: &Column, to: &Column, utc: bool) -> Vec<String> {
    let mut doubts = Vec::new();
    if like < SURE {
        doubts.push("the same?".to_owned());
    }
    if utc {
        doubts.push("one side has no zone: is it UTC?".to_owned());
    }
    if from.nullable && !to.nullable {
        doubts.push("may be NULL here, NOT NULL there: coalesce(...)?".to_owned());
    }
    if narrows(from, to) {
        doubts.push(format!("{} into {}: do all values fit?", from.native, to.native));
    }
    doubts
}

/// Whether the target column holds less, as far as lengths tell.
fn narrows(from: &Column, to: &Column) -> bool {
    use tidelock_core::DataType::{Decimal, Int, Text};
    match (&from.data_type, &to.data_type) {
        (Text { chars_max: from, .. }, Text { chars_max: Some(to), .. }) => {
            from.is_none_or(|from| from > *to)
        }
        (Int { bits: from, unsigned }, Int { bits: to, unsigned: natural }) => {
            from > to || (from == to && *unsigned && !natural) || (!unsigned && *natural)
        }
        (
            Decimal { precision: from, scale: from_scale },
            Decimal { precision: Some(to), scale: to_scale },
        ) => {
            let scale = |s: &Option<u16>| s.unwrap_or(0);
            from.is_none_or(|from| from > *to) || scale(from_scale) > scale(to_scale)
        }
        (Decimal { .. }, Int { .. }) | (Text { .. }, Decimal { .. } | Int { .. }) => true,
        _ => false,
    }
}

/// The target's key, of which each column must be fed by one whose old value the log tells.
fn key(
    source: &Table,
    target: &Table,
    pairs: &[(f64, &Column, &Column, bool)],
    faults: &mut Vec<String>,
) -> Vec<String> {
    let told = |name: &str| match &source.identity {
        RowIdentity::Full => true,
        RowIdentity::Columns(columns) => columns.iter().any(|c| c == name),
        RowIdentity::Nothing => false,
    };
    let fed = |column: &String| {
        pairs.iter().any(|(_, from, to, utc)| to.name == *column && !utc && told(&from.name))
    };
    let usable = || target.unique_indexes.iter().filter(|i| i.immediate && i.not_null);
    if let Some(index) = usable().find(|index| index.columns.iter().all(fed)) {
        return index.columns.clone();
    }
    match usable().next() {
        None => faults.push("the target table has no usable key".to_owned()),
        Some(index) => faults.push(format!(
            "nothing here that the log tells whole is like the key ({})",
            index.columns.join(", ")
        )),
    }
    Vec::new()
}
