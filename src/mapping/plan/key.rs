//! What identifies a mapping's rows, at the target and at the source.

use std::collections::HashSet;

use tidelock_core::{CopyTable, Finding, Generated, Index, RowIdentity, Table, TableKind};

use super::Catalogs;
use super::pairs::{Pair, no_column, target_side};
use crate::config::{MappingConfig, Place};

pub(super) fn key_of(
    mapping: &MappingConfig,
    source: &Table,
    target: &Table,
    pairs: &[Pair<'_>],
    catalogs: &Catalogs<'_>,
    problems: &mut Vec<Finding>,
) -> Vec<usize> {
    let key = match (&mapping.key, target.primary_key()) {
        (Some(key), _) => key.clone(),
        (None, Some(key)) => key.to_vec(),
        (None, None) => {
            problems.push(
                Finding::problem(format!("the target table {} has no primary key", target.name))
                    .hint(format!(
                        "name a unique, immediate, NOT NULL index by `key`{}",
                        usable_keys(target).map_or(String::new(), |keys| format!(": {keys}"))
                    ))
                    .place(mapping.places.to.show()),
            );
            return Vec::new();
        }
    };
    let known = |column: &&String| target.column(column).is_some();
    for (at, column) in key.iter().enumerate().filter(|(_, c)| !known(c)) {
        let mut finding = no_column(target, column, target_side(mapping));
        finding.message.push_str(", which `key` names");
        let place = mapping.places.key.get(at).map(Place::show);
        problems.push(finding.place(place.unwrap_or_default()));
    }
    if key.iter().all(|c| known(&c)) && target.key_index(&key).is_none() {
        let finding = Finding::problem(format!(
            "key ({}) is no unique, immediate, NOT NULL index of {}",
            key.join(", "),
            target.name
        ))
        .place(place_of_key(mapping, 0));
        let finding = catalogs.target_system.mend_key(target, &key, finding);
        problems.push(match usable_keys(target) {
            Some(keys) => finding.also(format!("or choose a key that is unique already: {keys}")),
            None => finding,
        });
    }
    let mut indexes = Vec::new();
    for column in key.iter().filter(known) {
        match pairs.iter().position(|p| &p.target.name == column) {
            Some(index) => indexes.push(index),
            // One whose expression is at fault is told there.
            None if lists(mapping, column) => {}
            None => {
                let at = key.iter().position(|name| name == column).unwrap_or_default();
                problems.push(
                    Finding::problem(format!(
                        "the key column {}.{column} is not mapped",
                        target.name
                    ))
                    .hint("add it to [mappings.columns]")
                    .place(place_of_key(mapping, at)),
                );
            }
        }
    }
    if let RowIdentity::Columns(identity) = &source.identity
        && source.kind != TableKind::View
    {
        for feeds in indexes.iter().flat_map(|&index| pairs[index].feed.reads()) {
            if !identity.contains(feeds) {
                problems.push(
                    Finding::problem(format!(
                        "{}.{feeds} feeds the key, but the source's log does not carry its old value",
                        source.name
                    ))
                    .hint("set REPLICA IDENTITY FULL (PostgreSQL) or binlog_row_image = FULL (MySQL, MariaDB)")
                    .place(place_of_key(mapping, 0)),
                );
            }
        }
    }
    indexes
}

/// Whether a unique index of the source keeps apart what feeds the mapping's key as it is, without NULLs.
pub(super) fn is_kept_unique(source: &Table, pairs: &[Pair<'_>], key: &[usize]) -> bool {
    let fed: Vec<&str> = key.iter().filter_map(|&i| pairs.get(i)?.plain()).collect();
    source.unique_indexes.iter().any(|index| {
        index.immediate && index.not_null && index.columns.iter().all(|c| fed.contains(&c.as_str()))
    })
}

/// Whether two rows of the source may come to one key: no unique index is over columns that it tells.
pub(super) fn may_be_shared(source: &Table, pairs: &[Pair<'_>], key: &[usize]) -> bool {
    let told: Vec<&String> =
        key.iter().filter_map(|&i| pairs.get(i)).flat_map(|pair| pair.feed.tells()).collect();
    !is_unique(source, &told)
}

/// Whether a unique index of a table is over some of these columns.
fn is_unique(table: &Table, columns: &[&String]) -> bool {
    let mut indexes = table.unique_indexes.iter();
    indexes.any(|index| index.immediate && index.columns.iter().all(|c| columns.contains(&c)))
}

/// Warns where two rows of the source may come to one row of the target.
pub(super) fn shared_key(
    mapping: &MappingConfig,
    source: &Table,
    pairs: &[Pair<'_>],
    key: &[usize],
    problems: &mut Vec<Finding>,
) {
    if source.kind == TableKind::View || key.is_empty() || !may_be_shared(source, pairs, key) {
        return;
    }
    let mut reads: Vec<&String> = Vec::new();
    for name in key.iter().filter_map(|&i| pairs.get(i)).flat_map(|pair| pair.feed.reads()) {
        if !reads.contains(&name) {
            reads.push(name);
        }
    }
    let names = reads.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let (what, hint) = match is_unique(source, &reads) {
        false => (
            format!(
                "nothing keeps ({names}) unique in {}: of rows that have the same",
                source.name
            ),
            "make these columns unique there, or choose a key that the source keeps unique",
        ),
        true => (
            format!(
                "({names}) is unique in {}, but what the key makes of it may not be: of rows that come to the same",
                source.name
            ),
            "put a unique index of the target over a column that takes the source's key as it is, and name that as `key`",
        ),
    };
    let what = format!(
        "{what}, the one that was changed last is the target's, and when one ends, the target's ends"
    );
    problems.push(Finding::warning(what).hint(hint).place(place_of_key(mapping, 0)));
}

/// Whether the mapping's list names a column, rightly or not.
fn lists(mapping: &MappingConfig, column: &str) -> bool {
    mapping.columns.iter().flat_map(|c| &c.columns).any(|c| c.target == column)
}

/// The place of a column of the key in the file; where it names none, of the target.
fn place_of_key(mapping: &MappingConfig, at: usize) -> String {
    mapping.places.key.get(at).unwrap_or(&mapping.places.to).show()
}

/// The keys that a table has, as a person would write them.
fn usable_keys(table: &Table) -> Option<String> {
    let keys: Vec<String> = table
        .unique_indexes
        .iter()
        .filter(|i| i.immediate && i.not_null)
        .map(|i| format!("({})", i.columns.join(", ")))
        .collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

/// Target columns that must have a value, get none from us and have no default. Those that other mappings of the same rows
/// (`others`) write are theirs to fill; whether there are any.
pub(super) fn unfilled(
    mapping: &MappingConfig,
    target: &Table,
    pairs: &[Pair<'_>],
    others: &[&MappingConfig],
    problems: &mut Vec<Finding>,
) -> bool {
    let key = mapping.key.as_deref().or(target.primary_key()).unwrap_or_default();
    let theirs = |name: &str| {
        others.iter().flat_map(|m| &m.columns).flat_map(|c| &c.columns).any(|c| c.target == name)
    };
    let mut partial = false;
    for column in &target.columns {
        // Those are told elsewhere.
        if key.contains(&column.name) || lists(mapping, &column.name) {
            continue;
        }
        let filled = pairs.iter().any(|p| p.target.name == column.name)
            || column.nullable
            || column.has_default
            || column.generated != Generated::No;
        if !filled && theirs(&column.name) {
            partial = true;
        } else if !filled {
            problems.push(
                Finding::problem(format!(
                    "{}.{} is NOT NULL without a default and nothing is mapped to it",
                    target.name, column.name
                ))
                .hint("map a column to it or give it a default")
                .place(mapping.places.to.show()),
            );
        }
    }
    partial
}

/// How a table is read in pieces: by a unique index whose columns the log tells the old values of; by
/// the mapping's own key where that is one. `also` is read for what the mapping says of rows.
pub(super) fn copy_table(
    source: &Table,
    pairs: &[Pair<'_>],
    also: &[String],
    key: &[usize],
) -> Option<CopyTable> {
    let told = |index: &Index| match &source.identity {
        RowIdentity::Full => true,
        RowIdentity::Columns(columns) => index.columns.iter().all(|c| columns.contains(c)),
        RowIdentity::Nothing => false,
    };
    let usable = |index: &&Index| index.immediate && index.not_null && told(index);
    let feeds: Vec<&str> = key.iter().filter_map(|&i| pairs.get(i)?.plain()).collect();
    let own = |index: &&Index| {
        index.columns.len() == feeds.len()
            && index.columns.iter().all(|c| feeds.contains(&c.as_str()))
    };
    let indexes = || source.unique_indexes.iter().filter(usable);
    let index = indexes().find(own).or_else(|| indexes().next())?;
    let mut columns: Vec<String> = pairs.iter().flat_map(|p| p.feed.reads()).cloned().collect();
    columns.extend(also.iter().cloned());
    columns.extend(index.columns.iter().cloned());
    let mut seen = HashSet::new();
    columns.retain(|c| seen.insert(c.clone()));
    Some(CopyTable { name: source.name.clone(), columns, key: index.columns.clone(), filter: None })
}

/// The unique indexes that may refuse a row at once although its key is free.
pub(super) fn other_uniques<'a>(
    target: &'a Table,
    pairs: &'a [Pair<'_>],
    key: &'a [usize],
) -> impl Iterator<Item = &'a Index> {
    all_uniques(target, pairs, key).filter(|index| index.immediate)
}

/// Those that may refuse a row although its key is free, at once or at the COMMIT.
pub(super) fn all_uniques<'a>(
    target: &'a Table,
    pairs: &'a [Pair<'_>],
    key: &'a [usize],
) -> impl Iterator<Item = &'a Index> {
    // An index that holds the whole key refuses nothing that the key does not.
    let holds_key = move |index: &Index| {
        key.iter().all(|&i| pairs.get(i).is_some_and(|p| index.columns.contains(&p.target.name)))
    };
    target.unique_indexes.iter().filter(move |index| !holds_key(index))
}
