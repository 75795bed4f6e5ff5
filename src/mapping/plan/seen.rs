//! The tables and routines that a mapping names, as the catalogs show them.

use tidelock_core::{Finding, Routine, RowIdentity, Table, TableKind, TableName};

use super::{Catalog, Catalogs, NEW_TABLE, call, target_tables};
use crate::config::{CallConfig, FlowConfig, MappingConfig, OnDelete, Place};
use crate::mapping::computed::Origin;

/// The routines of a mapping, the one that takes rows as a table.
pub(super) struct Called<'a> {
    pub(super) routine: &'a Routine,
    pub(super) delete: Option<&'a Routine>,
    pub(super) table: Table,
}

pub(super) fn routines<'a>(
    mapping: &MappingConfig,
    call: &CallConfig,
    source: &Table,
    flow: &FlowConfig,
    catalogs: &Catalogs<'a>,
    problems: &mut Vec<Finding>,
) -> Option<Called<'a>> {
    let (known, schema) = (catalogs.routines, catalogs.target_schema);
    let routine = call::find(known, &mapping.to, schema, &mapping.places.to, problems);
    let delete = call
        .delete
        .as_ref()
        .and_then(|(named, place)| call::find(known, named, schema, place, problems));
    match (&call.delete, &mapping.on_delete) {
        (None, OnDelete::Delete) => problems.push(
            Finding::problem("nothing says what becomes of rows that are gone")
                .hint("name a routine for them, to = { call = \"...\", delete = \"...\" }, or set on_delete = \"ignore\"")
                .place(mapping.places.to.show()),
        ),
        (_, OnDelete::Set(_)) => problems.push(
            Finding::problem("on_delete = { set = ... } is for tables: a routine is called with the key")
                .hint("name a routine for rows that are gone, to = { call = \"...\", delete = \"...\" }, or set on_delete = \"ignore\"")
                .place(mapping.places.to.show()),
        ),
        _ => {}
    }
    if call.rows.is_some() && mapping.row_key.is_none() {
        problems.push(
            Finding::problem(
                "`rows` gives the rows of a group, and nothing says what tells them apart",
            )
            .hint("name the members of a row that do by row_key = [...]")
            .place(mapping.places.to.show()),
        );
    }
    if call.rows.is_some() && (mapping.edge.is_some() || mapping.throttle.is_some()) {
        problems.push(
            Finding::problem("edge and throttle are for rows, and `rows` gives all of a group in one call")
                .hint("leave `rows` out, so that each row has a call of its own, or let the view, where or on_change of the tracks keep back what is not worth sending; throttle = \"0s\" says no to one of the flow")
                .place(mapping.places.to.show()),
        );
    }
    let target_tables = target_tables(flow, catalogs);
    let origin = Origin::new(source, &flow.values).with(&target_tables);
    let table = call::as_table(routine?, mapping, call, &origin);
    Some(Called { routine: routine?, delete, table })
}

pub(super) fn find<'a>(
    catalog: &Catalog<'a>,
    name: &TableName,
    side: &str,
    place: &Place,
    problems: &mut Vec<Finding>,
) -> Option<&'a Table> {
    let found = catalog.get(name);
    if found.is_none() {
        let near = near_table(catalog, name);
        let make = if side == "target" { NEW_TABLE } else { "create it" };
        let hint = match near {
            None => format!("{make}, mend the name, or grant our role the right to see it"),
            Some(near) if side == "target" => format!("did you mean {near}? Or {make}"),
            Some(near) => format!("did you mean {near}?"),
        };
        let finding = Finding::problem(not_seen(side, name)).hint(hint);
        problems.push(finding.place(place.show()));
    }
    found
}

/// The table whose name is nearest to one that is not known.
pub(super) fn near_table<'a>(catalog: &Catalog<'a>, name: &TableName) -> Option<&'a TableName> {
    let scored =
        |t: &'a Table| (strsim::jaro_winkler(&t.name.to_string(), &name.to_string()), &t.name);
    let near = catalog.tables().iter().map(scored).filter(|(score, _)| *score > 0.85);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, near)| near)
}

pub(super) fn not_seen(side: &str, name: &TableName) -> String {
    format!("the {side} table {name} does not exist or may not be seen")
}

/// Why the server says that a table cannot be used.
pub(super) fn refused(table: &Table, side: &str) -> Vec<Finding> {
    let finding =
        |why| Finding::problem(format!("the {side} table {} cannot be used: {why}", table.name));
    table.refusals.iter().map(finding).collect()
}

/// Why a table cannot be followed or written.
pub(in crate::mapping) fn usable(table: &Table, side: &str) -> Vec<Finding> {
    let mut findings = refused(table, side);
    if table.kind == TableKind::View && side == "source" {
        findings.push(
            Finding::problem(format!("the source {} is a view, which has no log", table.name))
                .hint("name the tables that it is made of by [mappings.tracks]"),
        );
        return findings;
    }
    if !matches!(table.kind, TableKind::Table | TableKind::Partitioned) {
        findings
            .push(Finding::problem(format!("the {side} {} is not an ordinary table", table.name)));
    }
    if side == "source" && table.identity == RowIdentity::Nothing {
        findings.push(
            Finding::problem(format!(
                "the log of {} does not tell which row was changed",
                table.name
            ))
            .hint("give the table a primary key or a replica identity"),
        );
    }
    findings
}
