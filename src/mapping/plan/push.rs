//! Tables whose rows make a key of a mapping worth sending.

use tidelock_core::{DataType, Finding, Table, TableName, comparable};

use super::pairs::{self, Pair};
use super::rows::PushedBy;
use super::{Catalogs, exact};
use crate::config::MappingConfig;

/// The tables whose rows make a key of a mapping worth sending, and their columns that hold the key; and the source's column
/// that feeds it.
pub(super) fn pushes(
    mapping: &MappingConfig,
    source: &Table,
    key: &[usize],
    pairs: &[Pair<'_>],
    catalogs: &Catalogs<'_>,
    problems: &mut Vec<Finding>,
) -> (Vec<(TableName, String)>, Option<PushedBy>) {
    let (mut found, mut by) = (Vec::new(), None);
    for push in &mapping.push_when {
        let place = push.column.place.show();
        let feeds: Vec<&str> = key.iter().filter_map(|&i| pairs.get(i)?.plain()).collect();
        let [feed] = feeds.as_slice() else {
            problems.push(
                Finding::problem("push_when: the mapping's key must be one column of the source")
                    .place(place),
            );
            continue;
        };
        let Some(name) = exact(&push.table, catalogs.source_schema) else { continue };
        let Some(table) = catalogs.source.get(&name) else {
            problems.push(
                Finding::problem(format!(
                    "push_when: the table {name} does not exist or may not be seen"
                ))
                .place(place),
            );
            continue;
        };
        let Some(column) = table.column(&push.column.text) else {
            problems.push(pairs::no_column(table, &push.column.text, "source").place(place));
            continue;
        };
        let to = source.column(feed).map(|c| &c.data_type);
        let pushed = |data_type: &DataType| {
            let data_type = data_type.clone();
            PushedBy { column: (*feed).to_owned(), data_type }
        };
        by = to.map(pushed);
        if !to.is_some_and(|to| comparable(&column.data_type, to)) {
            problems.push(
                Finding::problem(format!(
                    "push_when: {name}.{} has no values in common with {}.{feed}",
                    column.name, source.name
                ))
                .place(place),
            );
            continue;
        }
        found.push((name, column.name.clone()));
    }
    (found, by)
}
