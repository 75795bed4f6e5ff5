//! `tidelock plan`: the target tables that the mappings lack, as SQL; with `--create` it makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use tidelock_core::{
    Code, Connector, Dialect, Error, ErrorKind, Finding, Note, Severity, Table, TableName,
};

use super::{Cli, FINDINGS, Outcome, say};
use crate::config::file::nearest;
use crate::config::{Config, FlowConfig, TableRef};
use crate::flow::{names, start};
use crate::mapping::plan::{Catalog, Catalogs};
use crate::mapping::plan_tables;
use crate::mapping::tables::{LackingColumn, PlannedTable};
use crate::registry;

/// What a flow's target lacks.
struct Section {
    flow: String,
    target: String,
    endpoint: String,
    tables: Vec<PlannedTable>,
    /// Tables that our role may only not see, and what would let it.
    unseen: BTreeMap<TableName, Finding>,
    lacking: Vec<LackingColumn>,
    findings: Vec<(String, Finding)>,
    missing_sources: Vec<(String, TableName)>,
}

/// Plans the tables of the chosen mappings, all if none is named, and prints or makes them.
pub async fn plan(cli: &Cli, chosen: &[String], create: bool) -> Outcome {
    let config = super::config(cli)?;
    let mut planner = Planner::new(&config, chosen)?;
    let sections = planner.sections().await?;
    if let Some(name) = chosen.iter().find(|name| !planner.met.contains(*name)) {
        return Err(unknown(&config, name).into());
    }
    if !create && !cli.json {
        say(render(&sections));
    }
    if create {
        for section in &sections {
            for table in &section.tables {
                let made = planner.system(&section.target)?.create(&table.creation).await;
                made.map_err(|e| e.at(&section.target))?;
                if !cli.json {
                    let name = &table.creation.table.name;
                    let mut text = String::new();
                    put(
                        &mut text,
                        "",
                        format!("{}: created {name}, mapping {}", section.target, table.mapping),
                    );
                    put_notes(&mut text, &table.creation.notes);
                    say(text.trim_end());
                }
            }
        }
        if !cli.json {
            let mut text = String::new();
            if sections.iter().all(|s| s.tables.is_empty()) {
                put(&mut text, "", "nothing to create");
            }
            text.push_str(&render_rest(&sections));
            if !text.is_empty() {
                say(text.trim_end());
            }
        }
    }
    if cli.json {
        say(as_json(&sections, create));
    }
    let problem = |(_, finding): &(String, Finding)| finding.severity == Severity::Problem;
    Ok(match sections.iter().flat_map(|s| &s.findings).any(problem) {
        true => ExitCode::from(FINDINGS),
        false => ExitCode::SUCCESS,
    })
}

fn unknown(config: &Config, name: &str) -> Error {
    let known = config.flows.iter().flat_map(|f| {
        std::iter::once(f.name.as_str()).chain(f.mappings.iter().map(|m| m.name.as_str()))
    });
    let near = nearest(name, known);
    let forms = "name a mapping, a table of a wildcard, FLOW/MAPPING, or a flow such as erp:crm";
    let hint = near.trim().strip_prefix("hint: ").unwrap_or(forms);
    Error::new(ErrorKind::Config, Code::Config, format!("no mapping is named {name}"))
        .with_hint(hint)
}

/// The systems, and what is planned at each.
struct Planner<'a> {
    config: &'a Config,
    chosen: &'a [String],
    systems: BTreeMap<&'a str, Arc<dyn Connector>>,
    dialects: BTreeMap<&'a str, Box<dyn Dialect>>,
    planned: BTreeMap<&'a str, Vec<Table>>,
    /// The chosen names that stand for something.
    met: BTreeSet<String>,
}

impl<'a> Planner<'a> {
    fn new(config: &'a Config, chosen: &'a [String]) -> Result<Planner<'a>, Error> {
        let mut systems = BTreeMap::new();
        for (name, system) in &config.systems {
            systems.insert(name.as_str(), registry::connector(system)?);
        }
        Ok(Planner {
            config,
            chosen,
            systems,
            dialects: BTreeMap::new(),
            planned: BTreeMap::new(),
            met: BTreeSet::new(),
        })
    }

    fn system(&self, name: &str) -> Result<&Arc<dyn Connector>, Error> {
        self.systems.get(name).ok_or_else(|| Error::bug("a flow without its system"))
    }

    /// A section for each flow. What one flow plans may be another's source, so it goes round until nothing
    /// new comes up.
    async fn sections(&mut self) -> Result<Vec<Section>, Error> {
        let flows = &self.config.flows;
        let mut sections = Vec::new();
        for flow in flows {
            sections.push(Section {
                flow: flow.name.clone(),
                target: flow.target.clone(),
                endpoint: self.system(&flow.target)?.endpoint(),
                tables: Vec::new(),
                unseen: BTreeMap::new(),
                lacking: Vec::new(),
                findings: Vec::new(),
                missing_sources: Vec::new(),
            });
        }
        let mut news = true;
        while std::mem::take(&mut news) {
            for (flow, section) in flows.iter().zip(&mut sections) {
                news |= self.look(flow, section).await?;
            }
        }
        for section in &mut sections {
            for (mapping, table) in std::mem::take(&mut section.missing_sources) {
                let message = format!("the source table {table} does not exist or may not be seen");
                let hint = "mend the name, or let `tidelock check` tell the right that is missing";
                section.findings.push((mapping, Finding::problem(message).hint(hint)));
            }
        }
        Ok(sections)
    }

    /// Plans a flow with what is planned so far; whether there was something new.
    async fn look(&mut self, flow: &'a FlowConfig, section: &mut Section) -> Result<bool, Error> {
        let (source, target) =
            (self.system(&flow.source)?.clone(), self.system(&flow.target)?.clone());
        let long = names::too_long(flow, source.identifier_max(), target.identifier_max());
        if !long.is_empty() {
            self.met.extend(self.chosen.iter().cloned());
            section.findings = long.into_iter().map(|f| (String::new(), f)).collect();
            return Ok(false);
        }
        let source_tables = self.tables(&flow.source, flow.read()).await?;
        let looked_up = flow.looked_up();
        let written = flow.mappings.iter().map(|m| &m.to).chain(&looked_up);
        let target_tables = self.tables(&flow.target, written).await?;
        self.learn(&flow.target, &target).await?;
        let Some(dialect) = self.dialects.get_mut(flow.target.as_str()) else { return Ok(false) };
        let catalogs = Catalogs {
            source: &Catalog::new(&source_tables),
            target: &Catalog::new(&target_tables),
            source_schema: source.default_schema(),
            target_schema: target.default_schema(),
            routines: &[],
            source_system: &*source,
            target_system: &*target,
            same_family: source.family() == target.family(),
            owners: &std::collections::HashMap::new(),
            two_way: self.config.flows.iter().any(|other| other.source == flow.target),
        };
        let chosen = self.chosen;
        let takes = |configured: &str, name: &str| {
            chosen.is_empty() || chosen.iter().any(|c| stands_for(c, &flow.name, configured, name))
        };
        let found = plan_tables(flow, &catalogs, dialect, &takes);
        for (configured, name) in &found.taken {
            let met = chosen.iter().filter(|c| stands_for(c, &flow.name, configured, name));
            self.met.extend(met.cloned());
        }
        let news = !found.tables.is_empty();
        for table in found.tables {
            let made = &table.creation.table;
            let why = target.preflight_unseen(&made.name.schema, Some(&made.name.name), true).await;
            if let Some(why) = why.ok().filter(|why| !why.sql.is_empty()) {
                section.unseen.insert(made.name.clone(), why);
            }
            self.planned.entry(&flow.target).or_default().push(made.clone());
            section.tables.push(table);
        }
        // What was left out of a table that is planned by now is not found again.
        section
            .findings
            .retain(|(mapping, _)| section.tables.iter().any(|t| t.mapping == *mapping));
        section.findings.extend(found.findings);
        section.lacking = found.lacking;
        section
            .lacking
            .retain(|l| !section.tables.iter().any(|t| t.creation.table.name == l.table));
        section.missing_sources = found.missing_sources;
        Ok(news)
    }

    /// Asks a target how it declares tables, once.
    async fn learn(&mut self, name: &'a str, target: &Arc<dyn Connector>) -> Result<(), Error> {
        if self.dialects.contains_key(name) {
            return Ok(());
        }
        let into = self.config.flows.iter().filter(|flow| flow.target == name);
        let tables = into.flat_map(|flow| flow.mappings.iter().map(|m| &m.to));
        let schemas = start::schemas(tables, target.default_schema());
        let dialect = target.dialect(&schemas).await.map_err(|e| e.at(name))?;
        self.dialects.insert(name, dialect);
        Ok(())
    }

    /// A system's catalog with what is planned there.
    async fn tables(
        &self,
        system: &str,
        named: impl Iterator<Item = &TableRef>,
    ) -> Result<Vec<Table>, Error> {
        let connector = self.system(system)?;
        let schemas = start::schemas(named, connector.default_schema());
        let mut tables = connector.catalog(&schemas).await.map_err(|e| e.at(system))?;
        let planned = self.planned.get(system).into_iter().flatten();
        tables.extend(planned.filter(|t| schemas.contains(&t.name.schema)).cloned());
        Ok(tables)
    }
}

/// Whether a name on the command line means a mapping, by its own or its wildcard's name.
fn stands_for(given: &str, flow: &str, configured: &str, name: &str) -> bool {
    let own = given.strip_prefix(flow).and_then(|rest| rest.strip_prefix('/')).unwrap_or(given);
    given == flow || own == configured || own == name
}

/// Appends comment lines. A control character of a name must not end its comment.
fn put(text: &mut String, indent: &str, line: impl AsRef<str>) {
    for line in line.as_ref().split(['\n', '\r']) {
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push_str(format!("-- {indent}{line}").trim_end());
        text.push('\n');
    }
}

fn put_notes(text: &mut String, notes: &[Note]) {
    for note in notes {
        put(text, "  ", format!("{}: {}", note.column, note.text));
    }
}

fn render(sections: &[Section]) -> String {
    let mut text = String::new();
    let targets: BTreeSet<&str> =
        sections.iter().filter(|s| !s.tables.is_empty()).map(|s| s.target.as_str()).collect();
    if targets.len() > 1 {
        let words = "statements for more than one system: `tidelock plan FLOW` prints those of one";
        put(&mut text, "", words);
    }
    for section in sections.iter().filter(|s| !s.tables.is_empty()) {
        let Section { flow, target, endpoint, .. } = section;
        put(&mut text, "", format!("flow {flow}: to be run at {target} ({endpoint})\n"));
        for table in &section.tables {
            let name = &table.creation.table.name;
            put(&mut text, "", format!("mapping {}: {} to {name}", table.mapping, table.source));
            put_notes(&mut text, &table.creation.notes);
            if let Some(why) = section.unseen.get(name) {
                put(
                    &mut text,
                    "  ",
                    format!("unless it is there and hidden from us: {}", why.message),
                );
                for sql in &why.sql {
                    put(&mut text, "  ", sql);
                }
            }
            for statement in &table.creation.statements {
                text.push_str(statement);
                text.push('\n');
            }
            text.push('\n');
        }
    }
    if targets.is_empty() {
        put(&mut text, "", "nothing to create");
    }
    text.push_str(&render_rest(sections));
    text.trim_end().to_owned()
}

/// What is told beside the statements: columns that tables lack, and what cannot be planned.
fn render_rest(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        for lacking in &section.lacking {
            let LackingColumn { mapping, table, column, statements, notes } = lacking;
            put(
                &mut text,
                "",
                format!("mapping {mapping}: {table} lacks {column}; this would add it:"),
            );
            for statement in statements {
                put(&mut text, "  ", statement);
            }
            put_notes(&mut text, notes);
        }
        for (mapping, finding) in &section.findings {
            let word = match finding.severity {
                Severity::Problem => "problem",
                Severity::Warning => "warning",
            };
            let of =
                if mapping.is_empty() { String::new() } else { format!("mapping {mapping}: ") };
            put(&mut text, "", format!("{word}: flow {}: {of}{}", section.flow, finding.message));
            if !finding.hint.is_empty() {
                put(&mut text, "  ", &finding.hint);
            }
        }
    }
    text.trim_end().to_owned()
}

fn as_json(sections: &[Section], created: bool) -> String {
    let notes = |notes: &[Note]| -> Vec<Value> {
        notes.iter().map(|n| json!({"column": n.column, "text": n.text})).collect()
    };
    let table = |t: &PlannedTable| {
        json!({
            "mapping": t.mapping, "source": t.source.to_string(),
            "table": t.creation.table.name.to_string(), "statements": t.creation.statements,
            "notes": notes(&t.creation.notes), "created": created,
        })
    };
    let lacking = |l: &LackingColumn| {
        json!({
            "mapping": l.mapping, "table": l.table.to_string(), "column": l.column,
            "statements": l.statements, "notes": notes(&l.notes),
        })
    };
    let finding = |(mapping, f): &(String, Finding)| {
        let severity = if f.severity == Severity::Problem { "problem" } else { "warning" };
        json!({"mapping": mapping, "severity": severity, "message": f.message, "hint": f.hint})
    };
    let flows: Vec<Value> = sections
        .iter()
        .map(|s| {
            json!({
                "flow": s.flow, "target": s.target,
                "tables": s.tables.iter().map(table).collect::<Vec<_>>(),
                "lacking": s.lacking.iter().map(lacking).collect::<Vec<_>>(),
                "findings": s.findings.iter().map(finding).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "flows": flows }).to_string()
}
