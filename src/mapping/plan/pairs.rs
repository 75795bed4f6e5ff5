//! The pairs of columns of a mapping: which feeds which, and whether values can go that way.

use tidelock_core::{Column, DataType, Finding, Generated, JsonForm, Severity, Table, TableKind};

use super::rows::placed;
use super::{Computed, Feed};
use crate::config::{ColumnRule, MappedColumn, MappingConfig, OnUnrepresentable, Placed};
use crate::expr::Expr;
use crate::mapping::computed::{self, Origin, Wanted};
use crate::mapping::convert::{Rule, compatible};

/// A target column and what feeds it.
pub(super) struct Pair<'a> {
    pub(super) feed: Feed,
    /// The source column, unless the value is computed.
    pub(super) source: Option<&'a Column>,
    /// The type of what feeds it.
    pub(super) from: DataType,
    pub(super) target: &'a Column,
    /// What the file asks for, for this column or for all.
    pub(super) rule: Rule,
}

impl<'a> Pair<'a> {
    fn plainly(source: &'a Column, target: &'a Column, rule: Rule) -> Pair<'a> {
        Pair {
            feed: Feed::Column(source.name.clone()),
            source: Some(source),
            from: source.data_type.clone(),
            target,
            rule,
        }
    }

    /// The source column that it takes as it is.
    pub(super) fn plain(&self) -> Option<&str> {
        self.source.map(|column| column.name.as_str())
    }

    /// Whether both columns are of one type, by the server's own name too, and its text means the
    /// same to every server and session of a family.
    pub(super) fn is_plain(&self) -> bool {
        let Some(source) = self.source else { return false };
        let plain = matches!(
            source.data_type,
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
        plain && source.data_type == self.target.data_type && source.native == self.target.native
    }
}

/// Which target column takes what.
pub(super) fn pair_columns<'a>(
    mapping: &MappingConfig,
    origin: &Origin<'a>,
    target: &'a Table,
    problems: &mut Vec<Finding>,
) -> Vec<Pair<'a>> {
    let source = origin.table;
    let mut pairs: Vec<Pair<'a>> = Vec::new();
    let key = mapping.key.as_deref().or(target.primary_key()).unwrap_or_default();
    let in_key = |column: &Column| key.contains(&column.name);
    let listed = mapping.columns.as_ref();
    for column in listed.iter().flat_map(|c| &c.columns) {
        let Some(to) = target.column(&column.target) else {
            let finding = no_column(target, &column.target, target_side(mapping));
            problems.push(placed(finding, &column.place));
            continue;
        };
        let whole = &mapping.rule;
        let Some((feed, from, plain)) = feed_of(column, to, origin, problems) else { continue };
        let mut amiss = Vec::new();
        let rule = rule_of(&column.rule, whole, (&from, to), in_key(to), &mut amiss);
        problems.extend(amiss.into_iter().map(|f| placed(f, &column.value.place)));
        pairs.push(Pair { feed, source: plain, from, target: to, rule });
        if let Some(pair) = pairs.last() {
            let mut found = faults(pair, source, target);
            found.extend(nulls(pair, mapping, origin, target));
            if let Feed::Computed(Computed { seeks: true, .. }) = &pair.feed
                && in_key(to)
            {
                found.push(
                    Finding::problem(format!(
                        "column {} is in the key, and a lookup is answered only when the row is written",
                        to.name
                    ))
                    .hint("identify the target's rows by columns that the source knows, in a unique index of their own"),
                );
            }
            if let Feed::Computed(_) = &pair.feed
                && in_key(to)
            {
                found.extend(unsteady(&column.value, origin).map(|why| {
                    Finding::problem(format!(
                        "column {} is in the key, and {why}: a row would not be found again under its key",
                        to.name
                    ))
                    .hint("make the key of columns of the row alone, which the log tells before and after a change")
                }));
            }
            problems.extend(found.into_iter().map(|f| placed(f, &column.value.place)));
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
            if let Some(from) = source.column(&column.name)
                && !taken
                && from.logged
                && column.generated != Generated::Always
            {
                let own = ColumnRule::default();
                let rule =
                    rule_of(&own, &whole, (&from.data_type, column), in_key(column), problems);
                let pair = Pair::plainly(from, column, rule);
                problems.extend(faults(&pair, source, target));
                pairs.push(pair);
            }
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

/// Why the same row may give another value at another time.
fn unsteady(text: &Placed, origin: &Origin<'_>) -> Option<String> {
    let expr = origin.compile(text, Wanted::Column, "").ok()?;
    if expr.uses_clock() {
        Some("its value changes as time passes".to_owned())
    } else if !expr.old_fields().is_empty() {
        Some("its value depends on what the row was before".to_owned())
    } else {
        kept(&expr, origin).map(|name| format!("dictionary {name} is a table, which may change"))
    }
}

/// A dictionary of an expression that is a table.
fn kept<'e>(expr: &'e Expr, origin: &Origin<'_>) -> Option<&'e String> {
    let is_table =
        |name: &&String| origin.values.tables().any(|(_, table, _)| table == name.as_str());
    expr.dictionaries().iter().find(is_table)
}

/// What feeds a listed column: a name is the source's column of that name where it has one, and an expression else.
fn feed_of<'a>(
    column: &MappedColumn,
    to: &Column,
    origin: &Origin<'a>,
    problems: &mut Vec<Finding>,
) -> Option<(Feed, DataType, Option<&'a Column>)> {
    let plain = column.plain();
    if let Some(name) = &plain
        && let Some(from) = origin.table.column(name)
    {
        return Some((Feed::Column(from.name.clone()), from.data_type.clone(), Some(from)));
    }
    let what = format!("column {}", column.target);
    let before = problems.len();
    let computed =
        computed(&column.value, &to.data_type, origin, (Wanted::Column, &what), problems);
    if let Some(name) = &plain
        && computed.is_none()
    {
        // What was meant is a column.
        problems.truncate(before);
        let finding = no_column(origin.table, name, "source");
        problems.push(placed(finding, &column.value.place));
    }
    let (computed, from) = computed?;
    // A name in another case than the column's.
    if let (Some(_), [name]) = (&plain, computed.reads.as_slice())
        && let Some(from) = origin.table.column(name)
    {
        return Some((Feed::Column(name.clone()), from.data_type.clone(), Some(from)));
    }
    Some((Feed::Computed(computed), from, None))
}

/// Compiles an expression for a column of this type.
pub(super) fn computed(
    text: &Placed,
    to: &DataType,
    origin: &Origin<'_>,
    (wanted, what): (Wanted, &str),
    problems: &mut Vec<Finding>,
) -> Option<(Computed, DataType)> {
    let mut expr = match origin.compile(text, wanted, what) {
        Ok(expr) => expr,
        Err(fault) => {
            problems.push(fault);
            return None;
        }
    };
    let mut text = text.clone();
    // NULL is of any type, as a literal text is.
    let untyped = expr.literal().is_some() || text.text.trim().eq_ignore_ascii_case("null");
    if untyped && let Some(name) = computed::sql_type(to) {
        // A literal is of the type that it is used as.
        text.text = format!("cast({} as {name})", text.text);
        expr = match origin.compile(&text, wanted, what) {
            Ok(expr) => expr,
            Err(fault) => {
                problems.push(Finding { place: text.place.show(), ..fault });
                return None;
            }
        };
    }
    for warning in expr.warnings() {
        let mut finding = computed::finding(&text, warning, what);
        finding.severity = Severity::Warning;
        problems.push(finding);
    }
    judge_lookups(&expr, &text, origin, what, problems);
    let mut reads = origin.names(expr.fields());
    reads.extend(origin.names(expr.old_fields()));
    let computed = Computed {
        seeks: !expr.lookups().is_empty(),
        constant: reads.is_empty()
            && !expr.uses_clock()
            && expr.lookups().is_empty()
            && kept(&expr, origin).is_none(),
        nullable: expr.nullable() && origin.table.kind != TableKind::View,
        length: expr.length(),
        steady: !expr.uses_clock() && expr.old_fields().is_empty(),
        tells: origin.names(&expr.tells()),
        reads,
        text,
    };
    Some((computed, expr.data_type().clone()))
}

/// What is wrong or worth saying of the lookups of an expression.
fn judge_lookups(
    expr: &Expr,
    text: &Placed,
    origin: &Origin<'_>,
    what: &str,
    problems: &mut Vec<Finding>,
) {
    let Some(planned) = origin.target.map(|target| target.planned()) else { return };
    for lookup in expr.lookups() {
        let Some(plan) = planned.of(lookup) else { continue };
        if !plan.unique {
            let finding = Finding::warning(format!(
                "{what}: {} has no unique index over ({}): a key that several rows have is an error",
                plan.target.table,
                lookup.columns.join(", ")
            ))
            .hint("make these columns unique there, or at least index them: each lookup reads by them");
            problems.push(computed::at(text, &lookup.span, finding));
        }
        for (column, why) in plan.faults(lookup) {
            let finding = Finding::problem(format!(
                "{what}: insert: its value to {}.{column}: {why}",
                plan.target.table
            ));
            problems.push(computed::at(text, &lookup.span, finding));
        }
    }
}

/// An expression that may be NULL for a column that may not. Where the filter looks at the same columns, it may see to that.
fn nulls(
    pair: &Pair<'_>,
    mapping: &MappingConfig,
    origin: &Origin<'_>,
    target: &Table,
) -> Option<Finding> {
    let Feed::Computed(computed) = &pair.feed else { return None };
    if !computed.nullable || pair.target.nullable {
        return None;
    }
    let of_infinite = !origin.nullable_of_finite(&computed.text);
    if of_infinite && origin.finite {
        return None;
    }
    let when = if of_infinite { "is NULL where a time is infinite" } else { "may be NULL" };
    let mut finding = Finding::problem(format!(
        "its expression {when}, and {}.{} is NOT NULL",
        target.name, pair.target.name
    ))
    .hint("say what it is then: coalesce(..., value)");
    if of_infinite {
        finding.severity = Severity::Warning;
    }
    let filter = mapping.filter.as_ref();
    let looks = filter.and_then(|f| origin.compile(f, Wanted::Condition, "where").ok());
    let looked = looks.map(|expr| origin.names(expr.fields())).unwrap_or_default();
    if computed.reads.iter().any(|name| looked.contains(name)) {
        finding.severity = Severity::Warning;
    }
    Some(finding)
}

/// Why a pair of columns cannot be.
fn faults(pair: &Pair<'_>, source: &Table, target: &Table) -> Vec<Finding> {
    let mut problems = Vec::new();
    let to = pair.target;
    let from = match pair.source {
        Some(column) => format!("{}.{} ({})", source.name, column.name, column.native),
        None => "its expression".to_owned(),
    };
    if let Err(why) = compatible(&pair.from, &to.data_type, &pair.rule) {
        problems.push(
            Finding::problem(format!(
                "{from} to {}.{} ({}): {why}",
                target.name, to.name, to.native
            ))
            .hint("leave the column out with [mappings.columns], or change one of the types"),
        );
    }
    let exact_into_whole = matches!(
        (&pair.from, &to.data_type),
        (DataType::Decimal { scale, .. }, DataType::Int { .. }) if *scale != Some(0)
    );
    if pair.source.is_none() && exact_into_whole && pair.rule.policy == OnUnrepresentable::Error {
        problems.push(
            Finding::problem(format!(
                "{from} to {}.{} ({}): a decimal would have to be whole",
                target.name, to.name, to.native
            ))
            .hint("say how it becomes a whole number: round(...), trunc(...), or on_unrepresentable = \"clamp\""),
        );
    }
    if let (
        Feed::Computed(Computed { length: Some(length), .. }),
        DataType::Text { chars_max: Some(most), .. },
    ) = (&pair.feed, &to.data_type)
        && length > most
        && pair.rule.policy == OnUnrepresentable::Error
    {
        problems.push(
            Finding::problem(format!(
                "{from} to {}.{} ({}): it has {length} characters in every row",
                target.name, to.name, to.native
            ))
            .hint("widen the column, or take a part: left(..., n)"),
        );
    }
    if let Some(column) = pair.source
        && !column.logged
    {
        problems.push(
            Finding::problem(format!(
                "{}.{} is computed by the server, and its log does not carry it",
                source.name, column.name
            ))
            .hint("leave the column out, and let the target compute it too"),
        );
    }
    if to.generated == Generated::Always {
        problems.push(Finding::problem(format!(
            "{}.{} is computed by the server and cannot be written",
            target.name, to.name
        )));
    }
    problems
}

/// The rule of one pair of columns. What the file says of this column must make sense for it; what it says of
/// all columns applies to those for which it does.
fn rule_of(
    own: &ColumnRule,
    whole: &ColumnRule,
    (source, target): (&DataType, &Column),
    in_key: bool,
    problems: &mut Vec<Finding>,
) -> Rule {
    let is_text = matches!(target.data_type, DataType::Text { .. });
    let mixes_times = matches!(
        (source, &target.data_type),
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
                "column {}: a time zone means nothing for a column of type {}",
                target.name, target.native
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

/// What the target of a mapping is called.
pub(super) fn target_side(mapping: &MappingConfig) -> &'static str {
    if mapping.call.is_some() { ROUTINE } else { "target" }
}

const ROUTINE: &str = "routine";
/// More columns than these are not counted up.
const COLUMNS_TOLD: usize = 12;

pub(in crate::mapping) fn no_column(table: &Table, name: &str, side: &str) -> Finding {
    let near = table
        .columns
        .iter()
        .map(|c| (strsim::jaro_winkler(&c.name, name), &c.name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let finding = Finding::problem(match side {
        ROUTINE => format!("the routine {} has no parameter {name}", table.name),
        _ => format!("the {side} table {} has no column {name}", table.name),
    });
    let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    match near {
        Some((_, near)) => finding.hint(format!("did you mean {near}?")),
        None if names.len() <= COLUMNS_TOLD => finding.hint(format!("it has {}", names.join(", "))),
        None => finding,
    }
}

/// How a column keeps JSON. MariaDB's own type is a text with a check.
pub(in crate::mapping) fn json_form(family: &str, native: &str) -> JsonForm {
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
            && pairs.iter().all(|p| !p.feed.reads().contains(&c.name))
            && c.logged
    };
    source.columns.iter().filter(left).cloned().collect()
}
