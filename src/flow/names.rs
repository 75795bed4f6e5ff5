//! Names that a server could not keep apart, and mappings that our own tables could not.
//!
//! Some servers cut a name that is too long and look up what is left of it. A name of the
//! configuration is therefore measured before any server sees it: what passes here is looked up
//! exactly as it is written.

use std::collections::BTreeSet;

use tidelock_core::{Finding, IdentifierMax};

use crate::config::{FlowConfig, MappingConfig, Place, TablePattern, TableRef};
use crate::mapping::PlanOutcome;

/// The names of a flow's mappings that are too long for their server.
pub fn too_long(flow: &FlowConfig, source: IdentifierMax, target: IdentifierMax) -> Vec<Finding> {
    let mut findings = Vec::new();
    for mapping in &flow.mappings {
        let places = &mapping.places;
        let names = table(&mapping.from, "source", source, &places.from)
            .chain(table(&mapping.to, "target", target, &places.to))
            .chain(columns(mapping, source, target));
        findings.extend(names.filter_map(|(what, name, max, place)| {
            let excess = max.excess(name)?;
            Some(
                Finding::problem(format!("mapping {}: {what} {name} is {excess}", mapping.name))
                    .hint("write the name as the server's catalog shows it")
                    .place(place.show()),
            )
        }));
    }
    findings
}

type Named<'a> = (String, &'a str, IdentifierMax, &'a Place);

fn table<'a>(
    table: &'a TableRef,
    side: &'a str,
    max: IdentifierMax,
    place: &'a Place,
) -> impl Iterator<Item = Named<'a>> {
    let name = match &table.table {
        TablePattern::Exact(name) => Some(name.as_str()),
        TablePattern::All => None,
    };
    [("schema", table.schema.as_deref()), ("table", name)]
        .into_iter()
        .filter_map(move |(what, name)| Some((format!("the {side} {what}"), name?, max, place)))
}

fn columns<'a>(
    mapping: &'a MappingConfig,
    source: IdentifierMax,
    target: IdentifierMax,
) -> impl Iterator<Item = Named<'a>> {
    let key = mapping.key.iter().flatten().zip(&mapping.places.key);
    let listed = mapping.columns.iter().flat_map(|c| &c.columns);
    let of_key = move |(name, place): (&'a String, &'a Place)| {
        ("the key column".to_owned(), name.as_str(), target, place)
    };
    key.map(of_key).chain(listed.flat_map(move |listed| {
        let name = listed.value.text.trim_matches('"');
        let from = ("the source column".to_owned(), name, source, &listed.value.place);
        let from = listed.plain().is_some().then_some(from);
        let to = listed.target.as_str();
        let to = ("the target column".to_owned(), to, target, &listed.place);
        [Some(to), from].into_iter().flatten()
    }))
}

/// Mappings of one name: their states and counters could not be told apart. The configuration refuses
/// it for names it knows; a wildcard's come from the catalog.
pub fn shared(flow: &FlowConfig, outcome: &PlanOutcome) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut again = BTreeSet::new();
    for plan in &outcome.mappings {
        if !seen.insert(&plan.name) {
            again.insert(&plan.name);
        }
    }
    again
        .into_iter()
        .map(|name| {
            let places = flow.places_of(name);
            Finding::problem(format!("several mappings of the flow are named {name}"))
                .hint("write one of the tables as a mapping of its own with another `name`")
                .place(places.map_or_else(String::new, |places| places.from.show()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn names_are_measured_as_each_server_measures_them() {
        let long = "ü".repeat(40);
        let text = format!(
            r#"
version = 1
name = "p"
[systems.a]
url = "postgres://t@127.0.0.1/a"
[systems.b]
url = "mysql://t@127.0.0.1/b"
[[mappings]]
name = "m"
from = 'a."{long}"."t"'
to = 'b."{long}"'
key = ["{long}"]
[mappings.columns]
"{long}" = '"{long}"'
"{long}{long}" = "short"
[[mappings]]
from = 'a.s.*'
to = 'b.*'
"#
        );
        let config = Config::parse(&text, "t.toml").unwrap();
        let found = too_long(&config.flows[0], IdentifierMax::Bytes(63), IdentifierMax::Chars(64));
        let found: Vec<&str> = found.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            found,
            [
                format!(
                    "mapping m: the source schema {long} is 80 bytes long, a name there has at most 63"
                ),
                format!(
                    "mapping m: the source column {long} is 80 bytes long, a name there has at most 63"
                ),
                format!(
                    "mapping m: the target column {long}{long} is 80 characters long, a name there has at most 64"
                ),
            ]
        );
    }
}
