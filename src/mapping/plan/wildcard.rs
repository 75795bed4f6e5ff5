//! Mappings of whole schemas: which tables they take.

use tidelock_core::{Finding, Table, TableKind, TableName};

use super::{Catalogs, PlanOutcome, Unseen, plan_table, schema_of};
use crate::config::{FlowConfig, MappingConfig};

pub(super) fn plan_wildcard(
    mapping: &MappingConfig,
    named: &[TableName],
    catalogs: &Catalogs<'_>,
    flow: &FlowConfig,
    outcome: &mut PlanOutcome,
) {
    let source_schema = schema_of(&mapping.from, catalogs.source_schema);
    let target_schema = schema_of(&mapping.to, catalogs.target_schema);
    let mut taken = 0;
    for table in matching(mapping, named, catalogs) {
        let target = TableName::new(target_schema, &table.name.name);
        if !has_key(table) {
            outcome.findings.push(
                Finding::warning(format!(
                    "mapping {}: {} has no usable key and is left out",
                    mapping.name, table.name
                ))
                .hint("give it a primary key, or exclude it by name to silence this"),
            );
            outcome.keyless.push((table.name.name.clone(), table.name.clone()));
            continue;
        }
        taken += 1;
        plan_table(mapping, &table.name.name, &table.name, &target, catalogs, flow, outcome);
    }
    if taken == 0 {
        let message = format!("mapping {}: no table matches", mapping.name);
        if catalogs.source.tables().iter().all(|t| t.name.schema != source_schema) {
            outcome.unseen.push(Unseen {
                mapping: mapping.name.clone(),
                target: false,
                schema: source_schema.to_owned(),
                table: None,
                message: message.clone(),
            });
        }
        outcome.findings.push(Finding::warning(message));
    }
}

/// The tables that a wildcard takes, if they have a key.
pub(in crate::mapping) fn matching<'a>(
    mapping: &MappingConfig,
    named: &[TableName],
    catalogs: &Catalogs<'a>,
) -> Vec<&'a Table> {
    let source_schema = schema_of(&mapping.from, catalogs.source_schema);
    let takes = |table: &&Table| {
        table.name.schema == source_schema
            && matches!(table.kind, TableKind::Table | TableKind::Partitioned)
            && !mapping.exclude.iter().any(|pattern| like(pattern, &table.name.name))
            && !named.contains(&table.name)
    };
    catalogs.source.tables().iter().filter(takes).collect()
}

/// Whether a table has an index that could be a mapping's key.
pub(in crate::mapping) fn has_key(table: &Table) -> bool {
    table.unique_indexes.iter().any(|i| i.immediate && i.not_null)
}

/// SQL `LIKE` with `%` and `_`, matched over characters.
pub fn like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == '_' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, at)) => {
                    retry = Some((after, at + 1));
                    p = after;
                    t = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '%')
}

#[cfg(test)]
mod tests {
    use super::like;

    #[test]
    fn like_matches_as_sql_does() {
        for (pattern, text, matches) in [
            ("tmp_%", "tmp_x", true),
            ("tmp_%", "tmp", false),
            ("audit_log", "audit_log", true),
            ("%", "", true),
            ("%a%b", "xxaybyb", true),
            ("%a%b", "xxaybyc", false),
            ("_", "ä", true),
        ] {
            assert_eq!(like(pattern, text), matches, "{pattern} over {text}");
        }
    }
}
