//! `tidelock check`: what would go wrong, before it does.

mod explain;
mod exposure;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use tidelock_core::{Connector, CopyTable, Error, Finding, KeyRange, Severity, SinkSpec};

use super::{Cli, FINDINGS, Outcome, say, survey};
use crate::config::{Config, FlowConfig, SchemaChanges, SnapshotMode};
use crate::flow::copies::Mirror;
use crate::flow::{copies, start};
use crate::mapping::MappingPlan;
use crate::mapping::dictionaries::Keeper;
use crate::mapping::plan::{NEW_TABLE, Unseen};
use crate::mapping::roundtrip::{self, Verdict};
use crate::registry;
pub use explain::explain;
pub use exposure::exposure;

/// Memory that the rows of a sample may take.
const SAMPLE_BYTES: usize = 64 << 20;

/// Findings about one place.
struct Report {
    place: String,
    /// The system it is about; none for a flow.
    system: Option<String>,
    findings: Vec<Finding>,
    /// What each end of a flow says about its own server: system and finding.
    ends: Vec<(String, Finding)>,
}

impl Report {
    fn new(place: String) -> Report {
        Report { place, system: None, findings: Vec::new(), ends: Vec::new() }
    }
}

/// Looks at every system and every flow, read-only.
pub async fn check(cli: &Cli, sample: Option<usize>) -> Outcome {
    let config = super::config(cli)?;
    let reports = look(&config, sample).await;
    let problems = reports
        .iter()
        .flat_map(|r| &r.findings)
        .filter(|f| f.severity == Severity::Problem)
        .count();
    if cli.json {
        say(as_json(&reports));
    } else {
        say(render(&reports, problems));
    }
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

async fn look(config: &Config, sample: Option<usize>) -> Vec<Report> {
    let mut reports = Vec::new();
    let mut connectors: BTreeMap<&str, Arc<dyn Connector>> = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for (name, system) in &config.systems {
        let connector = match registry::connector(system) {
            Ok(connector) => connector,
            Err(error) => {
                let mut report = Report::new(format!("system {name}"));
                report.findings.push(finding(&error));
                reports.push(report);
                continue;
            }
        };
        let mut report = Report::new(format!("system {name} ({})", connector.endpoint()));
        report.system = Some(name.clone());
        if config.inline_passwords.contains(name) {
            report.findings.push(
                Finding::warning("its password stands in the configuration file")
                    .hint("use password = { file = \"...\" } or { env = \"...\" }"),
            );
        }
        match connector.identify().await {
            Ok(_) => {
                if let Ok(Some(id)) = connector.system_id().await
                    && let Some(other) = ids.insert(id, name)
                {
                    report.findings.push(Finding::problem(format!(
                        "systems {other} and {name} are one and the same database"
                    )));
                }
                connectors.insert(name, connector);
            }
            Err(error) => report.findings.push(finding(&error)),
        }
        reports.push(report);
    }
    for flow in &config.flows {
        let end = |name: &String| connectors.get(name.as_str()).map(|c| &**c);
        let (Some(source), Some(target)) = (end(&flow.source), end(&flow.target)) else {
            let away = if end(&flow.source).is_none() { &flow.source } else { &flow.target };
            let mut report = Report::new(format!("flow {}", flow.name));
            report.findings.push(Finding::warning(format!(
                "not looked at: {away} cannot be used, see system {away}"
            )));
            reports.push(report);
            continue;
        };
        let two_way = config.flows.iter().any(|other| other.source == flow.target);
        let mut report = check_flow(config, flow, source, target, two_way).await;
        report.findings.extend(without_effect(config, flow));
        report.findings.extend(check_mirror(config, flow, source, target, sample).await);
        reports.push(report);
    }
    gather(&mut reports);
    reports
}

/// Words of a flow's mappings that change nothing where the other direction exists.
fn without_effect(config: &Config, flow: &FlowConfig) -> Vec<Finding> {
    let reverse = config.flows.iter().find(|f| f.source == flow.target && f.target == flow.source);
    let Some(reverse) = reverse else { return Vec::new() };
    let mut findings = Vec::new();
    for mapping in flow.mappings.iter().filter(|m| m.schema_changes == SchemaChanges::Add) {
        let Some(place) = &mapping.places.schema_changes else { continue };
        let finding = Finding::warning(format!(
            "schema_changes = \"add\" has no effect here: flow {} goes the other way, and schema changes stay on their side then",
            reverse.name
        ))
        .hint("new columns are noted in `status`, with the statement that takes them up")
        .place(place.show());
        // A flow's word is that of all its mappings.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// What more than one flow says of a server is told once, under the system; what only one says, in its
/// flow with the system's name in front.
fn gather(reports: &mut [Report]) {
    let all: Vec<(String, Finding)> = reports.iter().flat_map(|r| r.ends.iter().cloned()).collect();
    let mut told: Vec<&(String, Finding)> = Vec::new();
    for said in &all {
        let times = all.iter().filter(|other| *other == said).count();
        if told.contains(&said) {
            continue;
        }
        told.push(said);
        let (system, finding) = said;
        for report in reports.iter_mut() {
            if times > 1 && report.system.as_ref() == Some(system) {
                report.findings.push(finding.clone());
            } else if times == 1 && report.ends.contains(said) {
                let message = format!("at {system}: {}", finding.message);
                report.findings.push(Finding { message, ..finding.clone() });
            }
        }
    }
}

async fn check_flow(
    config: &Config,
    flow: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    two_way: bool,
) -> Report {
    let mut report = Report::new(format!("flow {}", flow.name));
    let outcome = match start::plan(flow, source, target, two_way).await {
        Ok(outcome) => outcome,
        Err(error) => {
            report.findings.push(finding(&error));
            return report;
        }
    };
    let ends = [(&*flow.source, source), (&*flow.target, target)];
    report.findings.extend(told_why(outcome.findings, &outcome.unseen, ends).await);
    for plan in &outcome.mappings {
        let found = survey::of_view(source, flow, plan).await;
        report.findings.extend(found.unwrap_or_else(|error| vec![finding(&error)]));
    }
    let spec = start::source_spec(&config.name, flow, &outcome.mappings, "");
    let mut ends = |system: &String, answer: Result<Vec<Finding>, Error>| {
        let found = answer.unwrap_or_else(|error| vec![finding(&error)]);
        report.ends.extend(found.into_iter().map(|f| (system.clone(), f)));
    };
    ends(&flow.source, source.preflight_source(&spec).await);
    let sink = SinkSpec {
        pipeline: config.name.clone(),
        flow: flow.name.clone(),
        holder: String::new(),
        config_hash: config.hash.clone(),
        tables: start::written(&outcome.mappings),
        routines: start::called(&outcome.mappings),
        lookups: start::looked_up(&outcome.mappings),
    };
    ends(&flow.target, target.preflight_target(&sink).await);
    report
}

/// Says of tables that we do not see why that is, and what lets us see them, as far as their system knows.
async fn told_why(
    mut findings: Vec<Finding>,
    unseen: &[Unseen],
    [source, target]: [(&str, &dyn Connector); 2],
) -> Vec<Finding> {
    for hidden in unseen {
        let (name, system) = if hidden.target { target } else { source };
        let asked = system.preflight_unseen(&hidden.schema, hidden.table.as_deref(), hidden.target);
        // A system that cannot say more leaves what the plan said.
        let Ok(why) = asked.await else { continue };
        for finding in findings.iter_mut().filter(|f| f.message == hidden.message) {
            finding.message = format!("at {name}: mapping {}: {}", hidden.mapping, why.message);
            if !why.sql.is_empty() {
                let near = std::mem::take(&mut finding.hint);
                if near.starts_with("did you mean") {
                    finding.hint = near;
                }
                if hidden.target && hidden.table.is_some() && finding.hint.is_empty() {
                    *finding = finding.clone().also(format!("if it is missing: {NEW_TABLE}"));
                }
                if !why.hint.is_empty() {
                    *finding = finding.clone().also(&why.hint);
                }
                finding.sql.clone_from(&why.sql);
                finding.severity = Severity::Problem;
            }
        }
    }
    findings
}

/// Mappings of both directions whose first copies would swap values, and columns that do not come back as they went; told
/// once, at the flow that comes first. What keeps this from being looked at is a finding as any other.
async fn check_mirror(
    config: &Config,
    flow: &FlowConfig,
    source: &dyn Connector,
    target: &dyn Connector,
    sample: Option<usize>,
) -> Vec<Finding> {
    let mut later = config.flows.iter().skip_while(|f| f.name != flow.name).skip(1);
    let Some(reverse) =
        later.find(|other| other.source == flow.target && other.target == flow.source)
    else {
        return Vec::new();
    };
    let planned = (
        start::plan(flow, source, target, true).await,
        start::plan(reverse, target, source, true).await,
    );
    // Why one cannot be planned is told at its own flow.
    let (Ok(ours), Ok(theirs)) = planned else { return Vec::new() };
    let (ours, theirs) = (ours.mappings, theirs.mappings);
    let found = copies::mirrors_of(&ours, &theirs, &reverse.name);
    let told =
        |answer: Result<Vec<Finding>, Error>| answer.unwrap_or_else(|error| vec![finding(&error)]);
    let mut findings = told(round_trips(&ours, &theirs, &found));
    findings.extend(shown_back(&ours, &theirs));
    findings.extend(shown_back(&theirs, &ours));
    if let Some(rows) = sample {
        findings.extend(told(sampled((&ours, source), (&theirs, target), &found, rows).await));
    }
    let both = found.iter().filter(|mirror| {
        mirror.snapshot == SnapshotMode::Initial
            && ours.iter().any(|p| p.name == mirror.ours && p.snapshot == SnapshotMode::Initial)
    });
    findings.extend(both.map(|mirror| {
        let own = flow.mappings.iter().find(|m| *m.name == *mirror.ours);
        finding(&copies::both_initial(&mirror.ours, mirror))
            .place(own.map_or_else(String::new, |m| m.places.from.show()))
    }));
    findings
}

/// Columns of real rows that go both ways and do not come back as they went. No value is told.
async fn sampled(
    (ours, source): (&[Arc<MappingPlan>], &dyn Connector),
    (theirs, target): (&[Arc<MappingPlan>], &dyn Connector),
    mirrors: &[Mirror],
    rows: usize,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    Keeper::look_up_all(ours, source).await?;
    Keeper::look_up_all(theirs, target).await?;
    for mirror in mirrors {
        let one = ours.iter().find(|p| p.name == mirror.ours);
        let other = theirs.iter().find(|p| p.name == mirror.theirs);
        let (Some(one), Some(other)) = (one, other) else { continue };
        for (there, back, system) in [(one, other, source), (other, one, target)] {
            let Some(copy) = &there.copy else { continue };
            let table = CopyTable { columns: there.reads.clone(), ..copy.clone() };
            let mut copier = system.copier().await?;
            let upto = copier.bound(&table, None, rows).await?;
            let range = KeyRange { after: None, upto };
            let piece = copier.read(&table, &range, SAMPLE_BYTES).await?;
            let mut lost: BTreeMap<String, usize> = BTreeMap::new();
            for row in &piece.rows {
                for column in roundtrip::lost(there, back, row)? {
                    *lost.entry(column).or_default() += 1;
                }
            }
            findings.extend(lost.into_iter().map(|(column, count)| {
                Finding::warning(format!(
                    "mapping {} and mapping {} of the other direction: in {count} of {} rows {}.{column} does not come back as it went",
                    there.name,
                    back.name,
                    piece.rows.len(),
                    there.source
                ))
            }));
        }
    }
    Ok(findings)
}

/// Columns that go both ways and do not come back as they went.
fn round_trips(
    ours: &[Arc<MappingPlan>],
    theirs: &[Arc<MappingPlan>],
    mirrors: &[Mirror],
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for mirror in mirrors {
        let one = ours.iter().find(|p| p.name == mirror.ours);
        let other = theirs.iter().find(|p| p.name == mirror.theirs);
        let (Some(one), Some(other)) = (one, other) else { continue };
        for (there, back) in [(one, other), (other, one)] {
            for judged in roundtrip::judge(there, back)? {
                let Verdict::Lost { sent, back: came } = judged.verdict else { continue };
                findings.push(
                    Finding::warning(format!(
                        "mapping {} and mapping {} of the other direction: {}.{} does not come back as it went: {sent} comes back as {came}",
                        there.name, back.name, there.source, judged.column
                    ))
                    .hint("a change on the other side would write that here; let one side alone write the column, or make the two expressions each other's inverse"),
                );
            }
        }
    }
    Ok(findings)
}

/// Columns that a view's row writes as a whole while the other direction brings them to tables that the view is made of: where both
/// sides change a row at about the same time, each may end with what the other had.
fn shown_back(ours: &[Arc<MappingPlan>], theirs: &[Arc<MappingPlan>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plan in ours {
        let Some(view) = &plan.view else { continue };
        let is_made_of = |other: &&Arc<MappingPlan>| {
            other.source == plan.target.name
                && view.tracks.iter().any(|track| track.table == other.target.name)
        };
        for other in theirs.iter().filter(is_made_of) {
            let brought: Vec<String> = other
                .columns
                .iter()
                .enumerate()
                .filter(|(at, _)| !other.target.key.contains(at))
                .flat_map(|(_, column)| column.feed.reads().to_vec())
                .collect();
            let columns = plan.target.columns.iter().zip(&plan.columns).enumerate();
            let shared: Vec<&str> = columns
                .filter(|(at, (target, column))| {
                    !plan.target.key.contains(at)
                        && !column.feed.reads().is_empty()
                        && brought.contains(&target.name)
                })
                .map(|(_, (target, _))| target.name.as_str())
                .collect();
            if shared.is_empty() {
                continue;
            }
            findings.push(
                Finding::warning(format!(
                    "mapping {}: its rows write {} of {} as a whole, and mapping {} of the other direction brings that to {}, of which the view is made",
                    plan.name,
                    shared.join(", "),
                    plan.target.name,
                    other.name,
                    other.target.name
                ))
                .hint("where both sides change a row at about the same time they may swap the value: let one side alone write it, or map it from its table by a mapping of its own"),
            );
        }
    }
    findings
}

fn finding(error: &Error) -> Finding {
    Finding::problem(format!("{} {error}", error.code())).hint(error.hint().unwrap_or_default())
}

fn render(reports: &[Report], problems: usize) -> String {
    let mut text = String::new();
    for report in reports {
        text.push_str(&format!("{}\n", report.place));
        if report.findings.is_empty() {
            text.push_str("  good\n");
        }
        let mut findings: Vec<&Finding> = report.findings.iter().collect();
        findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
        for finding in findings {
            put_finding(&mut text, finding);
        }
    }
    text.push_str(&match problems {
        0 => "\nno problems".to_owned(),
        1 => "\n1 problem".to_owned(),
        n => format!("\n{n} problems"),
    });
    text
}

fn as_json(reports: &[Report]) -> String {
    let places: Vec<_> = reports
        .iter()
        .map(|r| {
            let findings: Vec<_> = r.findings.iter().map(finding_json).collect();
            json!({"place": r.place, "findings": findings})
        })
        .collect();
    json!({ "places": places }).to_string()
}

/// A finding for people.
fn put_finding(text: &mut String, finding: &Finding) {
    let word = match finding.severity {
        Severity::Problem => "problem",
        Severity::Warning => "warning",
    };
    text.push_str(&format!("  {word}: {}\n", finding.message));
    for line in finding.place.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    if !finding.hint.is_empty() {
        text.push_str(&format!("    {}\n", finding.hint));
    }
    for line in finding.sql.iter().flat_map(|sql| sql.lines()) {
        text.push_str(&format!("      {line}\n"));
    }
}

fn finding_json(f: &Finding) -> serde_json::Value {
    let severity = if f.severity == Severity::Problem { "problem" } else { "warning" };
    json!({"severity": severity, "message": f.message, "hint": f.hint, "sql": f.sql, "place": f.place})
}
