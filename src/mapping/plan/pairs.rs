//! The pairs of columns of a mapping: which feeds which, and whether values can go that way.

use tidelock_core::{Column, DataType, Finding, Generated, JsonForm, Table};

use crate::config::{ColumnRule, MappingConfig, OnUnrepresentable};
use crate::mapping::convert::{Rule, compatible};

/// A mapped pair of columns.
pub(super) struct Pair<'a> {
    pub(super) source: &'a Column,
    pub(super) target: &'a Column,
    /// What the file asks for, for this column or for all.
    pub(super) rule: Rule,
}

impl Pair<'_> {
    /// Whether both columns are of one type, by the server's own name too, and its text means the
    /// same to every server and session of a family.
    pub(super) fn is_plain(&self) -> bool {
        let plain = matches!(
            self.source.data_type,
            DataType::Bool
                | DataType::Int { .. }
                | DataType::Decimal { .. }
                | DataType::Float32
                | DataType::Float64
                | DataType::Text { .. }
                | DataType::Bytes { .. }
                | DataType::Date
                | DataType::Time { .. }
                | DataType::Timestamp { .. }
                | DataType::Instant { .. }
                | DataType::Uuid
                | DataType::Json
                | DataType::Enum { .. }
        );
        plain
            && self.source.data_type == self.target.data_type
            && self.source.native == self.target.native
    }
}

pub(super) fn pair_columns<'a>(
    mapping: &MappingConfig,
    source: &'a Table,
    target: &'a Table,
    problems: &mut Vec<Finding>,
) -> Vec<Pair<'a>> {
    let mut pairs: Vec<Pair<'a>> = Vec::new();
    let key = mapping.key.as_deref().or(target.primary_key()).unwrap_or_default();
    let in_key = |column: &Column| key.contains(&column.name);
    let listed = mapping.columns.as_ref();
    for column in listed.iter().flat_map(|c| &c.columns) {
        let (source_name, target_name) = (&column.source, &column.target);
        let from = source.column(source_name);
        let to = target.column(target_name);
        if from.is_none() {
            problems.push(no_column(source, source_name, "source"));
        }
        if to.is_none() {
            problems.push(no_column(target, target_name, "target"));
        }
        if let (Some(source), Some(target)) = (from, to) {
            let rule =
                rule_of(&column.rule, &mapping.rule, (source, target), in_key(target), problems);
            pairs.push(Pair { source, target, rule });
        }
    }
    let star = match listed {
        None => Some(&mapping.rule),
        Some(listed) => listed.star.as_ref(),
    };
    if let Some(star) = star {
        let whole = star.or(&mapping.rule);
        for column in &target.columns {
            let taken = pairs.iter().any(|p| p.target.name == column.name);
            if let Some(source) = source.column(&column.name)
                && !taken
                && source.logged
                && column.generated != Generated::Always
            {
                let rule = rule_of(
                    &ColumnRule::default(),
                    &whole,
                    (source, column),
                    in_key(column),
                    problems,
                );
                pairs.push(Pair { source, target: column, rule });
            }
        }
    }
    for pair in &pairs {
        if let Err(why) = compatible(&pair.source.data_type, &pair.target.data_type, &pair.rule) {
            problems.push(
                Finding::problem(format!(
                    "{}.{} ({}) to {}.{} ({}): {why}",
                    source.name,
                    pair.source.name,
                    pair.source.native,
                    target.name,
                    pair.target.name,
                    pair.target.native
                ))
                .hint("leave the column out with [mappings.columns], or change one of the types"),
            );
        }
        if !pair.source.logged {
            problems.push(
                Finding::problem(format!(
                    "{}.{} is computed by the server, and its log does not carry it",
                    source.name, pair.source.name
                ))
                .hint("leave the column out, and let the target compute it too"),
            );
        }
        if pair.target.generated == Generated::Always {
            problems.push(Finding::problem(format!(
                "{}.{} is computed by the server and cannot be written",
                target.name, pair.target.name
            )));
        }
    }
    if pairs.is_empty() && problems.is_empty() {
        problems.push(Finding::problem(format!(
            "{} and {} have no column in common",
            source.name, target.name
        )));
    }
    pairs
}

/// The rule of one pair of columns. What the file says of this column must make sense for it; what it says of
/// all columns applies to those for which it does.
fn rule_of(
    own: &ColumnRule,
    whole: &ColumnRule,
    (source, target): (&Column, &Column),
    in_key: bool,
    problems: &mut Vec<Finding>,
) -> Rule {
    let is_text = matches!(target.data_type, DataType::Text { .. });
    let mixes_times = matches!(
        (&source.data_type, &target.data_type),
        (DataType::Instant { .. }, DataType::Timestamp { .. })
            | (DataType::Timestamp { .. }, DataType::Instant { .. })
    );
    match own.on_unrepresentable {
        // Two rows of the source would become one.
        Some(OnUnrepresentable::Clamp) if in_key => problems.push(
            Finding::problem(format!(
                "column {}: on_unrepresentable = \"clamp\", but it is in the key, where two values may not become one",
                target.name
            ))
            .hint("choose another policy, or give the key a type that holds all values"),
        ),
        Some(OnUnrepresentable::Null) if !target.nullable => problems.push(
            Finding::problem(format!(
                "column {}: on_unrepresentable = \"null\", but it is NOT NULL",
                target.name
            ))
            .hint("choose another policy, or let the column take NULL"),
        ),
        Some(OnUnrepresentable::Text) if !is_text => problems.push(
            Finding::problem(format!(
                "column {}: on_unrepresentable = \"text\", but it is of type {}",
                target.name, target.native
            ))
            .hint("a value's text needs a text column"),
        ),
        _ => {}
    }
    if own.time_zone.is_some() && !mixes_times {
        problems.push(
            Finding::problem(format!(
                "column {}: a time zone means nothing between {} and {}",
                target.name, source.native, target.native
            ))
            .hint("it converts between points in time and times without a zone"),
        );
    }
    let policy =
        own.on_unrepresentable.or(whole.on_unrepresentable.filter(|policy| match policy {
            OnUnrepresentable::Error => true,
            OnUnrepresentable::Clamp => !in_key,
            OnUnrepresentable::Null => target.nullable,
            OnUnrepresentable::Text => is_text,
        }));
    let zone = own.time_zone.as_ref().or(whole.time_zone.as_ref()).filter(|_| mixes_times).cloned();
    Rule { policy: policy.unwrap_or(OnUnrepresentable::Error), zone }
}

pub(super) fn no_column(table: &Table, name: &str, side: &str) -> Finding {
    let near = table
        .columns
        .iter()
        .map(|c| (strsim::jaro_winkler(&c.name, name), &c.name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let finding = Finding::problem(format!("the {side} table {} has no column {name}", table.name));
    match near {
        Some((_, near)) => finding.hint(format!("did you mean {near}?")),
        None => finding,
    }
}

/// How a column keeps JSON. MariaDB's own type is a text with a check.
pub(super) fn json_form(family: &str, native: &str) -> JsonForm {
    match family {
        "postgres" if native == "jsonb" => JsonForm::Exact,
        "mysql" if native.eq_ignore_ascii_case("json") => JsonForm::Doubles,
        _ => JsonForm::Text,
    }
}

/// Source columns of a mapping of all same-named columns that nothing is mapped from and the target lacks.
pub(super) fn unmapped(
    mapping: &MappingConfig,
    source: &Table,
    target: &Table,
    pairs: &[Pair<'_>],
) -> Vec<Column> {
    if mapping.columns.as_ref().is_some_and(|c| c.star.is_none()) {
        return Vec::new();
    }
    let left = |c: &&Column| {
        target.column(&c.name).is_none()
            && pairs.iter().all(|p| p.source.name != c.name)
            && c.logged
    };
    source.columns.iter().filter(left).cloned().collect()
}
