//! `tidelock check --explain MAPPING`: what was compiled of one mapping, for people: what feeds each column, which rows
//! go, and what a change of which table does.

use std::process::ExitCode;

use serde::Serialize;
use tidelock_core::{DataType, Error, Finding, Result};

use super::super::survey::{Chosen, Surveyed, chosen, may_have, survey};
use super::super::{Cli, FINDINGS, Outcome, say};
use crate::config::{OnTruncate, OnUnrepresentable, Placed, SnapshotMode};
use crate::expr::Dictionaries;
use crate::mapping::MappingPlan;
use crate::mapping::computed::{Origin, Wanted};
use crate::mapping::plan::{ColumnPlan, EndPlan, Feed, TrackedPlan, ViewPlan, WayBy, WayPlan};

/// A mapping explained.
#[derive(Debug, Serialize)]
struct Explained {
    mapping: String,
    flow: String,
    source: End,
    target: End,
    /// The columns by which rows of the source are read in pieces, or again.
    read_by: Vec<String>,
    tracks: Vec<Tracked>,
    after: Vec<String>,
    columns: Vec<Fed>,
    #[serde(rename = "where")]
    filter: Option<Expression>,
    validate: Vec<Rule>,
    on_change: Option<Vec<String>>,
    edge: Vec<Rule>,
    throttle_seconds: Option<f64>,
    refresh_seconds: Option<f64>,
    push_when: Vec<String>,
    snapshot: &'static str,
    dictionaries: Vec<Translated>,
    lookups: Vec<String>,
    changes: Vec<Change>,
    #[serde(skip)]
    findings: Vec<Finding>,
}

/// An end of a mapping.
#[derive(Debug, Serialize)]
struct End {
    system: String,
    kind: &'static str,
    name: String,
    /// What identifies a row there.
    key: Vec<String>,
    /// Of a routine: its parameters with their types, as it is called.
    parameters: Vec<String>,
    /// Of a routine: what is called for rows that are gone.
    delete: Option<String>,
}

/// A table whose changes touch a view, and each way to the view's keys.
#[derive(Debug, Serialize)]
struct Tracked {
    table: String,
    ways: Vec<String>,
}

/// A target column and what feeds it.
#[derive(Debug, Serialize)]
struct Fed {
    column: String,
    #[serde(rename = "type")]
    native: String,
    nullable: bool,
    key: bool,
    /// The source column, if it is no more than that.
    from: Option<String>,
    /// The type of what feeds it.
    from_type: String,
    from_nullable: bool,
    expression: Option<Expression>,
    on_unrepresentable: &'static str,
    time_zone: Option<String>,
}

/// An expression and its typed plan.
#[derive(Debug, Serialize)]
struct Expression {
    text: String,
    plan: String,
}

/// What must hold of rows.
#[derive(Debug, Serialize)]
struct Rule {
    says: String,
    #[serde(flatten)]
    rule: Expression,
}

/// A dictionary that is used.
#[derive(Debug, Serialize)]
struct Translated {
    name: String,
    values_in_a_code: usize,
}

/// What a change of a table does.
#[derive(Debug, Serialize)]
struct Change {
    table: String,
    change: &'static str,
    does: String,
}

/// Explains the mappings of a name. Exit code 1 if one of them cannot run.
pub async fn explain(cli: &Cli, given: &str) -> Outcome {
    let config = super::super::config(cli)?;
    let surveyed = survey(&config, |flow| may_have(flow, given)).await?;
    let found = chosen(&config, &surveyed, given)?;
    let mut faults = false;
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    for one in &found {
        match &one.plan {
            Ok(plan) => {
                let explained = explained(one, plan).await?;
                texts.push(render(&explained));
                values.push(as_json(&explained)?);
            }
            Err(findings) => {
                faults = true;
                texts.push(refused(one, findings));
                values.push(serde_json::json!({
                    "mapping": one.name, "flow": one.of.flow.name,
                    "findings": findings.iter().map(|f| super::finding_json(f)).collect::<Vec<_>>(),
                }));
            }
        }
    }
    match cli.json {
        true => say(serde_json::json!({ "mappings": values }).to_string()),
        false => say(texts.join("\n").trim_end()),
    }
    Ok(if faults { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS })
}

fn refused(one: &Chosen<'_>, findings: &[&Finding]) -> String {
    let mut text = format!("mapping {} (flow {}) cannot run\n", one.name, one.of.flow.name);
    findings.iter().for_each(|finding| super::put_finding(&mut text, finding));
    text
}

fn as_json(explained: &Explained) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(explained)
        .map_err(|e| Error::bug(format!("an explanation cannot be written: {e}")))?;
    let findings = explained.findings.iter().map(super::finding_json).collect::<Vec<_>>();
    if let Some(object) = value.as_object_mut() {
        object.insert("findings".to_owned(), findings.into());
    }
    Ok(value)
}

async fn explained(one: &Chosen<'_>, plan: &MappingPlan) -> Result<Explained> {
    let of = one.of;
    let origin = of.origin(plan)?;
    let over = (plan, &origin);
    let mut used = Used::default();
    let columns = plan
        .columns
        .iter()
        .enumerate()
        .map(|(at, column)| fed(plan, at, column, &origin, &mut used))
        .collect::<Result<Vec<_>>>()?;
    let filter = match &plan.rows.filter {
        None => None,
        Some(filter) => Some(used.expression(filter, Wanted::Condition, over)?),
    };
    let validate = plan
        .rows
        .checks
        .iter()
        .map(|check| {
            let rule = used.expression(&check.rule, Wanted::Rule, over)?;
            Ok(Rule { says: check.says.clone(), rule })
        })
        .collect::<Result<Vec<_>>>()?;
    if let EndPlan::Set(set) = &plan.rows.end {
        for (_, computed) in set {
            used.expression(&computed.text, Wanted::Value, over)?;
        }
    }
    let mut edges = Vec::new();
    if let Some(edge) = &plan.rows.edge {
        let ends = [
            ("rise", Some(&edge.rise)),
            ("fall", edge.fall.as_ref()),
            ("hysteresis", edge.hysteresis.as_ref()),
        ];
        for (says, text) in ends {
            let Some(text) = text else { continue };
            let rule = used.expression(text, Wanted::Condition, over)?;
            edges.push(Rule { says: says.to_owned(), rule });
        }
    }
    let mut findings: Vec<Finding> = of.findings_of(&plan.name).into_iter().cloned().collect();
    match of.of_view(plan).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(super::finding(&error)),
    }
    let own = |names: &[usize]| -> Vec<String> {
        names.iter().filter_map(|&i| Some(plan.target.columns.get(i)?.name.clone())).collect()
    };
    let call = plan.call.as_ref();
    Ok(Explained {
        mapping: plan.name.to_string(),
        flow: of.flow.name.clone(),
        source: End {
            system: of.flow.source.clone(),
            kind: of.source_kind(plan)?,
            name: plan.source.to_string(),
            key: plan.view.as_ref().map_or_else(
                || plan.copy.iter().flat_map(|c| c.key.clone()).collect(),
                |view| view.by.clone(),
            ),
            parameters: Vec::new(),
            delete: None,
        },
        target: End {
            system: of.flow.target.clone(),
            kind: Surveyed::target_kind(plan),
            name: plan.target.name.to_string(),
            key: own(&plan.target.key),
            parameters: call
                .iter()
                .flat_map(|call| &call.call.parameters)
                .map(|p| format!("{} {}", p.name, p.native))
                .collect(),
            delete: call.and_then(|c| c.delete.as_ref()).map(|(delete, _)| delete.name.to_string()),
        },
        read_by: plan.copy.iter().flat_map(|copy| copy.key.clone()).collect(),
        tracks: tracks(plan),
        after: plan.after.iter().map(ToString::to_string).collect(),
        columns,
        filter,
        validate,
        on_change: plan.rows.on_change.clone(),
        edge: edges,
        throttle_seconds: plan.rows.throttle.map(|span| span.as_secs_f64()),
        refresh_seconds: plan.rows.refresh.map(|span| span.as_secs_f64()),
        push_when: plan.rows.pushes.iter().map(|(table, by)| format!("{table}.{by}")).collect(),
        snapshot: match plan.snapshot {
            SnapshotMode::Initial => "initial",
            SnapshotMode::Never => "never",
        },
        dictionaries: used
            .dictionaries
            .iter()
            .map(|name| Translated {
                name: name.clone(),
                values_in_a_code: Dictionaries::get(&*plan.values, name)
                    .map_or(1, |shape| shape.arity),
            })
            .collect(),
        lookups: used.lookups,
        changes: changes(plan),
        findings,
    })
}

/// What expressions use besides the row.
#[derive(Default)]
struct Used {
    dictionaries: Vec<String>,
    lookups: Vec<String>,
}

impl Used {
    fn expression(
        &mut self,
        text: &Placed,
        wanted: Wanted,
        (plan, origin): (&MappingPlan, &Origin<'_>),
    ) -> Result<Expression> {
        let expr = Surveyed::compiled(plan, origin, text, wanted)?;
        for name in expr.dictionaries() {
            if !self.dictionaries.contains(name) {
                self.dictionaries.push(name.clone());
            }
        }
        for lookup in expr.lookups() {
            let inserted = match &lookup.insert {
                None => String::new(),
                Some(with) if with.is_empty() => ", inserted if missing".to_owned(),
                Some(with) => format!(", inserted with {} if missing", with.join(", ")),
            };
            let by = lookup.columns.join(", ");
            let words = format!("{} of {} by ({by}){inserted}", lookup.result, lookup.table);
            if !self.lookups.contains(&words) {
                self.lookups.push(words);
            }
        }
        let plan = expr.explain(&origin.fields).trim_end().to_owned();
        Ok(Expression { text: text.text.clone(), plan })
    }
}

fn fed(
    plan: &MappingPlan,
    at: usize,
    column: &ColumnPlan,
    origin: &Origin<'_>,
    used: &mut Used,
) -> Result<Fed> {
    let target = plan.target.columns.get(at).ok_or_else(|| Error::bug("a plan lacks a column"))?;
    let (from, from_type, from_nullable, expression) = match &column.feed {
        Feed::Column(name) => {
            let source = origin.table.column(name);
            let native = source.map_or_else(String::new, |c| c.native.clone());
            (Some(name.clone()), native, source.is_none_or(|c| c.nullable), None)
        }
        Feed::Computed(computed) => {
            let expression = used.expression(&computed.text, Wanted::Column, (plan, origin))?;
            let kind = expression.plan.lines().next().unwrap_or_default();
            let kind = kind.trim_end_matches(", never NULL").to_owned();
            (None, kind, computed.nullable, Some(expression))
        }
    };
    Ok(Fed {
        column: target.name.clone(),
        // Members of a group's rows have no type of their own.
        native: match target.native.is_empty() {
            true if matches!(target.data_type, DataType::Json) => "json".to_owned(),
            true => "as the source".to_owned(),
            false => target.native.clone(),
        },
        nullable: column.nullable,
        key: plan.target.key.contains(&at),
        from,
        from_type,
        from_nullable,
        expression,
        on_unrepresentable: match column.rule.policy {
            OnUnrepresentable::Error => "error",
            OnUnrepresentable::Null => "null",
            OnUnrepresentable::Clamp => "clamp",
            OnUnrepresentable::Text => "text",
        },
        time_zone: column.rule.zone.as_ref().and_then(|z| z.iana_name()).map(str::to_owned),
    })
}

fn tracks(plan: &MappingPlan) -> Vec<Tracked> {
    let Some(view) = &plan.view else { return Vec::new() };
    let tracked = |track: &TrackedPlan| Tracked {
        table: track.table.to_string(),
        ways: track.ways.iter().map(|way| way_of(view, way)).collect(),
    };
    view.tracks.iter().map(tracked).collect()
}

fn way_of(view: &ViewPlan, way: &WayPlan) -> String {
    let mut words = match &way.by {
        WayBy::Columns(columns) => {
            let pairs = view.by.iter().zip(columns).map(|(by, from)| format!("{by} = {from}"));
            pairs.collect::<Vec<_>>().join(", ")
        }
        WayBy::Query { number, .. } => {
            view.parameters.get(*number).map_or(String::new(), |(text, _)| one_line(&text.text))
        }
    };
    if let Some(columns) = &way.on_change {
        words.push_str(&format!("; if {} changes", columns.join(" or ")));
    }
    if let Some(filter) = &way.filter {
        words.push_str(&format!("; of rows where {}", one_line(&filter.text)));
    }
    words
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What each kind of change does.
fn changes(plan: &MappingPlan) -> Vec<Change> {
    let (sent, gone) = (sent(plan), gone(plan));
    let worth = match &plan.rows.on_change {
        Some(columns) => format!(" if {} changes", columns.join(" or ")),
        None => String::new(),
    };
    if let Some(view) = &plan.view {
        let (by, name) = (view.by.join(", "), &plan.source);
        return view
            .tracks
            .iter()
            .map(|track| Change {
                table: track.table.to_string(),
                change: "insert, update, delete",
                does: format!(
                    "{name} is read again for the {by} of the old and of the new row; what is found {sent}{}, what is not {gone}",
                    if worth.is_empty() { " if it differs from what was sent last" } else { &worth },
                ),
            })
            .collect();
    }
    let table = plan.source.to_string();
    let change = |change, does| Change { table: table.clone(), change, does };
    let filtered = plan.rows.filter.is_some();
    let mut all = vec![change(
        "insert",
        if filtered {
            format!("a row that meets `where` {sent}")
        } else {
            format!("the row {sent}")
        },
    )];
    all.push(change(
        "update",
        match filtered {
            false => format!("the row {sent}{}", if worth.is_empty() { " if something of it changes that is mapped" } else { &worth }),
            true => format!(
                "a row that meets `where` before and after {sent}{worth}; one that enters {sent}; one that leaves {gone}"
            ),
        },
    ));
    all.push(change(
        "delete",
        if filtered { format!("a row that met `where` {gone}") } else { format!("the row {gone}") },
    ));
    all.push(change(
        "truncate",
        match plan.on_truncate {
            OnTruncate::Halt => "the mapping stops".to_owned(),
            OnTruncate::Delete => "every row of the target is deleted".to_owned(),
            OnTruncate::Ignore => "nothing".to_owned(),
        },
    ));
    all
}

/// What becomes of a row that is to be at the target.
fn sent(plan: &MappingPlan) -> String {
    match &plan.call {
        Some(call) if call.rows.is_some() => {
            format!("goes into one call of {} with all rows of its group", call.call.name)
        }
        Some(call) => format!("goes into a call of {}", call.call.name),
        None => format!("is upserted into {}", plan.target.name),
    }
}

/// What becomes of one that is not.
fn gone(plan: &MappingPlan) -> String {
    if let Some(call) = &plan.call {
        return match &call.delete {
            Some((delete, _)) => format!("goes into a call of {} by its key", delete.name),
            None if call.rows.is_some() => {
                format!("is left out of the call of {}", call.call.name)
            }
            None => "is left as it is at the target".to_owned(),
        };
    }
    match &plan.rows.end {
        EndPlan::Delete => format!("is deleted from {}", plan.target.name),
        EndPlan::Ignore => "is left as it is at the target".to_owned(),
        EndPlan::Set(set) => {
            let set: Vec<String> = set
                .iter()
                .map(|(name, c)| format!("{name} = {}", one_line(&c.text.text)))
                .collect();
            format!("is marked in {} ({})", plan.target.name, set.join(", "))
        }
    }
}

fn render(explained: &Explained) -> String {
    let mut text = String::new();
    let mut put = |line: String| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(format!("mapping {} (flow {})", explained.mapping, explained.flow));
    let end = |word: &str, end: &End, by: &str| {
        let key = match end.key.is_empty() {
            true => String::new(),
            false => format!(", {by} ({})", end.key.join(", ")),
        };
        format!("  {word:<9} {} {} at {}{key}", end.kind, end.name, end.system)
    };
    put(end("source", &explained.source, "read by"));
    for track in &explained.tracks {
        for way in &track.ways {
            put(format!("    track   {}: {way}", track.table));
        }
    }
    put(end("target", &explained.target, "key"));
    if !explained.target.parameters.is_empty() {
        put(format!("    call    {}", explained.target.parameters.join(", ")));
    }
    if let Some(delete) = &explained.target.delete {
        put(format!("    delete  {delete}"));
    }
    let pieces = explained.snapshot == "initial";
    put(format!(
        "  first copy {}",
        if pieces {
            format!("in pieces by ({})", explained.read_by.join(", "))
        } else {
            "none".to_owned()
        }
    ));
    if !explained.after.is_empty() {
        put(format!("  after     {}", explained.after.join(", ")));
    }
    put("  columns".to_owned());
    let widest = |width: fn(&Fed) -> usize| explained.columns.iter().map(width).max().unwrap_or(0);
    let (names, types) =
        (widest(|f| f.column.chars().count()), widest(|f| native(f).chars().count()));
    for fed in &explained.columns {
        let what = match (&fed.from, &fed.expression) {
            (Some(from), _) => format!("{from} {}{}", fed.from_type, null(fed.from_nullable)),
            (None, Some(expression)) => one_line(&expression.text),
            (None, None) => String::new(),
        };
        put(format!("    {:names$}  {:types$}  <- {what}{}", fed.column, native(fed), asked(fed)));
        if let Some(expression) = &fed.expression {
            steps(&expression.plan, &mut put);
        }
    }
    if let Some(filter) = &explained.filter {
        put(format!("  where     {}", one_line(&filter.text)));
        steps(&filter.plan, &mut put);
    }
    for rule in &explained.validate {
        let says = if rule.says == rule.rule.text { "" } else { &*rule.says };
        put(format!("  validate  {}  {says}", one_line(&rule.rule.text)));
        steps(&rule.rule.plan, &mut put);
    }
    for edge in &explained.edge {
        put(format!("  edge      {}: {}", edge.says, one_line(&edge.rule.text)));
        steps(&edge.rule.plan, &mut put);
    }
    let spans = [("throttle", explained.throttle_seconds), ("refresh", explained.refresh_seconds)];
    for (word, span) in spans {
        span.iter().for_each(|seconds| put(format!("  {word:<9} every {seconds} s")));
    }
    for push in &explained.push_when {
        put(format!("  push_when {push}"));
    }
    for dictionary in &explained.dictionaries {
        let values = match dictionary.values_in_a_code {
            1 => String::new(),
            several => format!(" ({several} values in a code)"),
        };
        put(format!("  dictionary {}{values}", dictionary.name));
    }
    for lookup in &explained.lookups {
        put(format!("  lookup    {lookup}"));
    }
    put("  changes".to_owned());
    for change in &explained.changes {
        put(format!("    {} of {}: {}", change.change, change.table, change.does));
    }
    for finding in &explained.findings {
        super::put_finding(&mut text, finding);
    }
    text
}

fn steps(plan: &str, put: &mut impl FnMut(String)) {
    plan.lines().for_each(|line| put(format!("        {line}")));
}

fn null(nullable: bool) -> &'static str {
    if nullable { "" } else { " NOT NULL" }
}

fn native(fed: &Fed) -> String {
    format!("{}{}{}", fed.native, null(fed.nullable), if fed.key { " (key)" } else { "" })
}

/// What the file asks for beyond exactness.
fn asked(fed: &Fed) -> String {
    let mut words = String::new();
    if fed.on_unrepresentable != "error" {
        words.push_str(&format!(", what does not fit: {}", fed.on_unrepresentable));
    }
    if let Some(zone) = &fed.time_zone {
        words.push_str(&format!(", in {zone}"));
    }
    words
}
