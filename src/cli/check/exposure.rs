//! `tidelock check --exposure`: which fields leave which system for which, through what, and which do not: the paper that
//! a data officer signs.
//!
//! It is made from the compiled mappings and both catalogs, so it says what runs with this file, and it names every
//! column of every table that is followed exactly as one of: sent, masked or not; read and not sent; kept as a key in
//! our own tables at the target; not read. The order is that of the file and of the catalogs, so that two papers can
//! be compared line by line.

use std::process::ExitCode;

use serde::Serialize;
use tidelock_core::{Error, Finding, Result, Severity, TableName};

use super::super::survey::{Surveyed, survey};
use super::super::{Cli, FINDINGS, Outcome, say};
use crate::config::{Config, Placed};
use crate::expr::Veil;
use crate::mapping::MappingPlan;
use crate::mapping::computed::{Origin, Wanted};
use crate::mapping::plan::{EndPlan, Feed};

/// The paper.
#[derive(Debug, Serialize)]
struct Paper {
    pipeline: String,
    config_hash: String,
    date: String,
    systems: Vec<System>,
    mappings: Vec<Exposed>,
    /// Mappings that cannot run, and so send nothing, but would once they are mended.
    unknown: Vec<Unknown>,
}

/// A system that takes part.
#[derive(Debug, Serialize)]
struct System {
    name: String,
    endpoint: String,
}

/// A mapping that cannot run.
#[derive(Debug, Serialize)]
struct Unknown {
    mapping: String,
    flow: String,
    why: String,
}

/// What a mapping does with the fields of its source.
#[derive(Debug, Serialize)]
struct Exposed {
    mapping: String,
    flow: String,
    from: String,
    to: String,
    source: String,
    target: String,
    sent: Vec<Sent>,
    read_not_sent: Vec<Field>,
    kept_as_key: Vec<Field>,
    not_read: Vec<String>,
}

/// A field that leaves.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Sent {
    field: String,
    to: String,
    /// The expression, unless the field goes as it is.
    through: Option<String>,
    masked: Option<&'static str>,
}

/// A field that does not, and what it is for.
#[derive(Debug, Serialize)]
struct Field {
    field: String,
    #[serde(rename = "for")]
    what_for: Vec<String>,
}

/// Prints the paper. Exit code 1 if a mapping cannot run, so that the paper is not whole.
pub async fn exposure(cli: &Cli) -> Outcome {
    let config = super::super::config(cli)?;
    let surveyed = survey(&config, |_| true).await?;
    let paper = paper(&config, &surveyed)?;
    match cli.json {
        true => say(serde_json::to_string(&paper)
            .map_err(|e| Error::bug(format!("an exposure cannot be written: {e}")))?),
        false => say(render(&paper).trim_end()),
    }
    Ok(if paper.unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

fn paper(config: &Config, surveyed: &[Surveyed<'_>]) -> Result<Paper> {
    let mut mappings = Vec::new();
    let mut unknown = Vec::new();
    for of in surveyed {
        for plan in &of.outcome.mappings {
            mappings.push(exposed(config, of, plan)?);
        }
        let why = |mapping: &str, finding: &Finding| Unknown {
            mapping: mapping.to_owned(),
            flow: of.flow.name.clone(),
            why: finding.message.clone(),
        };
        for (name, finding) in &of.outcome.failed {
            if unknown.iter().all(|u: &Unknown| u.mapping != *name || u.flow != of.flow.name) {
                unknown.push(why(name, finding));
            }
        }
        // What fell with the whole flow.
        let whole = of.outcome.mappings.is_empty() && of.outcome.failed.is_empty();
        let problem = of.outcome.findings.iter().find(|f| f.severity == Severity::Problem);
        unknown.extend(problem.filter(|_| whole).map(|finding| why("*", finding)));
    }
    let mut systems: Vec<System> = Vec::new();
    for of in surveyed {
        for (name, endpoint) in
            [(&of.flow.source, of.source.endpoint()), (&of.flow.target, of.target.endpoint())]
        {
            if systems.iter().all(|known| known.name != *name) {
                systems.push(System { name: name.clone(), endpoint });
            }
        }
    }
    systems.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Paper {
        pipeline: config.name.clone(),
        config_hash: config.hash.clone(),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        systems,
        mappings,
        unknown,
    })
}

fn exposed(config: &Config, of: &Surveyed<'_>, plan: &MappingPlan) -> Result<Exposed> {
    let origin = of.origin(plan)?;
    let own = |column: &str| field(&plan.source, column);
    let mut sent: Vec<Sent> = Vec::new();
    let mut read = Fields::default();
    for (column, target) in plan.columns.iter().zip(&plan.target.columns) {
        let to = field(&plan.target.name, &target.name);
        match &column.feed {
            Feed::Column(name) => {
                sent.push(Sent { field: own(name), to, through: None, masked: None });
            }
            Feed::Computed(computed) => {
                through(plan, &computed.text, &to, "", &origin, &mut sent, &mut read)?;
            }
        }
    }
    if let EndPlan::Set(set) = &plan.rows.end {
        for (name, computed) in set {
            let to = field(&plan.target.name, name);
            through(plan, &computed.text, &to, "on_delete: ", &origin, &mut sent, &mut read)?;
        }
    }
    let condition = |text: &Placed, wanted: Wanted| -> Result<Vec<String>> {
        let expr = Surveyed::compiled(plan, &origin, text, wanted)?;
        let mut names = origin.names(expr.fields());
        names.extend(origin.names(expr.old_fields()));
        Ok(names)
    };
    if let Some(filter) = &plan.rows.filter {
        condition(filter, Wanted::Condition)?.iter().for_each(|name| read.add(own(name), "where"));
    }
    for check in &plan.rows.checks {
        let names = condition(&check.rule, Wanted::Rule)?;
        names.iter().for_each(|name| read.add(own(name), "validate"));
    }
    if let Some(edge) = &plan.rows.edge {
        let ends = [Some(&edge.rise), edge.fall.as_ref(), edge.hysteresis.as_ref()];
        for text in ends.into_iter().flatten() {
            let names = condition(text, Wanted::Condition)?;
            names.iter().for_each(|name| read.add(own(name), "edge"));
        }
    }
    for name in plan.rows.on_change.iter().flatten() {
        read.add(own(name), "on_change");
    }
    let mut tables = vec![&plan.source];
    for track in plan.view.iter().flat_map(|view| &view.tracks) {
        let used = |name: &String| field(&track.table, name);
        track.reads.iter().for_each(|name| read.add(used(name), "tracks"));
        tables.push(&track.table);
    }
    for (table, column) in &plan.rows.pushes {
        read.add(field(table, column), "push_when");
        tables.push(table);
    }
    for kept in &plan.kept {
        let what_for = format!("dictionary {}", kept.name);
        kept.copy.columns.iter().for_each(|name| read.add(field(kept.table(), name), &what_for));
        tables.push(kept.table());
    }
    let mut kept = Fields::default();
    let meta = config.systems.get(&of.flow.target).map_or("tidelock", |s| &s.meta_schema);
    for name in plan.copy.iter().flat_map(|copy| &copy.key) {
        kept.add(own(name), &format!("how far a copy has come ({meta}.snapshot)"));
        if plan.rereads()
            || plan.points
            || plan.completes()
            || plan.lookups.tables().next().is_some()
        {
            kept.add(own(name), &format!("rows that wait ({meta}.memory)"));
        }
    }
    read.0.retain(|f| sent.iter().all(|s| s.field != f.field));
    kept.0.retain(|f| sent.iter().all(|s| s.field != f.field || s.masked.is_some()));
    let mut not_read = Vec::new();
    for table in tables {
        for column in &of.table(table)?.columns {
            let name = field(table, &column.name);
            let used = sent.iter().any(|s| s.field == name) || read.has(&name) || kept.has(&name);
            if !used && !not_read.contains(&name) {
                not_read.push(name);
            }
        }
    }
    Ok(Exposed {
        mapping: plan.name.to_string(),
        flow: of.flow.name.clone(),
        from: of.flow.source.clone(),
        to: of.flow.target.clone(),
        source: format!("{} {}", of.source_kind(plan)?, plan.source),
        target: format!("{} {}", Surveyed::target_kind(plan), plan.target.name),
        sent,
        read_not_sent: read.0,
        kept_as_key: kept.0,
        not_read,
    })
}

fn field(table: &TableName, column: &str) -> String {
    format!("{table}.{column}")
}

/// The fields that leave through an expression, and those that it only looks at.
fn through(
    plan: &MappingPlan,
    text: &Placed,
    to: &str,
    why: &str,
    origin: &Origin<'_>,
    sent: &mut Vec<Sent>,
    read: &mut Fields,
) -> Result<()> {
    let wanted = if why.is_empty() { Wanted::Column } else { Wanted::Value };
    let expr = Surveyed::compiled(plan, origin, text, wanted)?;
    let words = text.text.split_whitespace().collect::<Vec<_>>().join(" ");
    let of_column = expr.shows().into_iter().map(|shown| (to.to_owned(), shown));
    let of_lookups = expr.lookups().iter().flat_map(|lookup| {
        let table = match lookup.insert {
            None => format!("{} (asked for)", lookup.table),
            Some(_) => format!("{} (asked for, inserted if missing)", lookup.table),
        };
        lookup.shows().into_iter().map(move |shown| (table.clone(), shown))
    });
    let own = of_column.chain(of_lookups).filter_map(|(to, shown)| {
        let name = &origin.fields.get(shown.field)?.name;
        Some((field(&plan.source, name), to, shown.veil))
    });
    // What a code stands for leaves too, where a table of the source says it.
    let meant = expr.shows_dictionaries().into_iter().filter_map(|(dictionary, veil)| {
        let kept = plan.kept.iter().find(|kept| kept.name == dictionary)?;
        Some((field(kept.table(), kept.value()), to.to_owned(), veil))
    });
    for (field, to, veil) in own.chain(meant) {
        let masked = match veil {
            Veil::Open => None,
            Veil::Last4 => Some("all but the last four characters"),
            Veil::Hash => Some("keyed hash"),
            Veil::Nothing => {
                read.add(field, &format!("{to}, which shows nothing of it"));
                continue;
            }
        };
        sent.push(Sent { field, to, through: Some(format!("{why}{words}")), masked });
    }
    Ok(())
}

/// Fields, each once with all that it is for.
#[derive(Debug, Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn add(&mut self, name: String, what_for: &str) {
        let known = match self.0.iter_mut().position(|f| f.field == name) {
            Some(at) => self.0.get_mut(at),
            None => {
                self.0.push(Field { field: name, what_for: Vec::new() });
                self.0.last_mut()
            }
        };
        if let Some(known) = known
            && !known.what_for.iter().any(|known| known == what_for)
        {
            known.what_for.push(what_for.to_owned());
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|f| f.field == name)
    }
}

fn render(paper: &Paper) -> String {
    let mut text = String::new();
    let mut put = |line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(&format!("Exposure of pipeline {}", paper.pipeline));
    put(&format!("configuration  {}", paper.config_hash));
    put(&format!("date           {}", paper.date));
    for system in &paper.systems {
        put(&format!("system         {} ({})", system.name, system.endpoint));
    }
    for one in &paper.mappings {
        put("");
        put(&format!("{} -> {}  mapping {}", one.from, one.to, one.mapping));
        put(&format!("  from {} at {} to {} at {}", one.source, one.from, one.target, one.to));
        let width = one.sent.iter().map(|s| s.field.chars().count()).max().unwrap_or(0);
        let targets = one.sent.iter().map(|s| s.to.chars().count()).max().unwrap_or(0);
        section("sent", one.sent.is_empty(), &mut put);
        for sent in &one.sent {
            let masked = sent.masked.map(|m| format!("  masked: {m}")).unwrap_or_default();
            let through = sent.through.as_deref().unwrap_or("as it is");
            put(&format!("    {:width$}  -> {:targets$}  {through}{masked}", sent.field, sent.to));
        }
        fields("read, not sent", &one.read_not_sent, &mut put);
        let kept = format!("kept as a key in tidelock's own tables at {}", one.to);
        fields(&kept, &one.kept_as_key, &mut put);
        section("not read", one.not_read.is_empty(), &mut put);
        one.not_read.iter().for_each(|name| put(&format!("    {name}")));
    }
    for unknown in &paper.unknown {
        put("");
        put(&format!("NOT TOLD: mapping {} of flow {} cannot run", unknown.mapping, unknown.flow));
        put(&format!("  {}", unknown.why));
    }
    put("");
    put(
        "Fields that are read and not sent, or not read, reach at most the memory of tidelock, with the log of their table.",
    );
    if paper.mappings.iter().any(|one| one.source.starts_with("view ")) {
        put("A column of a view holds what the view's own query takes from other tables.");
    }
    put("No log, error or metric holds a value; an error may name a hash of a row's key.");
    text
}

fn section(name: &str, empty: bool, put: &mut impl FnMut(&str)) {
    put(&if empty { format!("  {name}: nothing") } else { format!("  {name}") });
}

fn fields(name: &str, fields: &[Field], put: &mut impl FnMut(&str)) {
    section(name, fields.is_empty(), put);
    let width = fields.iter().map(|f| f.field.chars().count()).max().unwrap_or(0);
    for field in fields {
        put(&format!("    {:width$}  {}", field.field, field.what_for.join(", ")));
    }
}
