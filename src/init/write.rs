//! The text of a proposed configuration.

use std::fmt::Write;

use tidelock_core::Table;

use super::{Pairing, Proposal, Proposed};

/// What stands above the mappings.
#[derive(Debug, Clone)]
pub struct Head {
    /// The pipeline's name.
    pub name: String,
    /// The source.
    pub source: SystemHead,
    /// The target.
    pub target: SystemHead,
}

/// A system as the file has it.
#[derive(Debug, Clone)]
pub struct SystemHead {
    /// Its name.
    pub name: String,
    /// Its lines: no password is ever among them.
    pub lines: Vec<String>,
    /// The schema that a table without one means.
    pub default_schema: String,
}

/// The whole file.
pub fn written(head: &Head, proposed: &Proposed) -> String {
    let mut text = String::new();
    let mut put = |line: String| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{}", line.trim_end());
    };
    put(format!(
        "# Proposed by `tidelock init`, from {} to {}.",
        head.source.name, head.target.name
    ));
    put("# Read it, mend what is marked with `doubt`, then: tidelock check; tidelock map test MAPPING; tidelock run.".to_owned());
    put("version = 1".to_owned());
    put(format!("name    = {}", quoted(&head.name)));
    put("# state_dir = \"/var/lib/tidelock\"      # where the local checkpoint lives".to_owned());
    put("# listen    = \"127.0.0.1:7373\"         # status page and metrics".to_owned());
    for system in [&head.source, &head.target] {
        put(String::new());
        put(format!("[systems.{}]", key(&system.name)));
        system.lines.iter().for_each(|line| put(line.clone()));
    }
    for proposal in &proposed.mappings {
        put(String::new());
        let comment = |line: &str| match proposal.faults.is_empty() || line.starts_with('#') {
            true => "",
            false => "# ",
        };
        let lines = mapping(head, proposal, &proposed.mappings);
        lines.iter().for_each(|line| put(format!("{}{line}", comment(line))));
    }
    let sources: Vec<String> = proposed
        .sources_left
        .iter()
        .map(|(table, why)| format!("#   {}: {why}", one_line(&name_of(&head.source, table))))
        .collect();
    let targets: Vec<String> = proposed
        .targets_left
        .iter()
        .map(|table| format!("#   {}", one_line(&name_of(&head.target, table))))
        .collect();
    for (what, left) in [(&head.source.name, sources), (&head.target.name, targets)] {
        if !left.is_empty() {
            put(String::new());
            put(format!("# Tables of {what} that are in no mapping:"));
            left.into_iter().for_each(&mut put);
        }
    }
    text
}

fn mapping(head: &Head, proposal: &Proposal, all: &[Proposal]) -> Vec<String> {
    let Proposal { source, target, .. } = proposal;
    let mut lines: Vec<String> = Vec::new();
    for fault in &proposal.faults {
        lines.push(format!("# cannot run yet: {}", one_line(fault)));
    }
    for doubt in &proposal.doubts {
        lines.push(format!("# doubt: {}", one_line(doubt)));
    }
    lines.push("[[mappings]]".to_owned());
    let twice = all.iter().filter(|p| p.source.name.name == source.name.name).count() > 1;
    if twice {
        let name = format!("{}_{}", source.name.schema, source.name.name);
        lines.push(format!("name = {}", quoted(&name)));
    }
    lines.push(format!("from = {}", quoted(&name_of(&head.source, source))));
    lines.push(format!("to   = {}", quoted(&name_of(&head.target, target))));
    let names: Vec<String> = proposal.key.iter().map(|name| quoted(name)).collect();
    if !names.is_empty() {
        lines.push(format!("key  = [{}]", names.join(", ")));
    }
    let left: Vec<&str> = source
        .columns
        .iter()
        .filter(|c| proposal.columns.iter().all(|p| p.source != c.name))
        .map(|c| c.name.as_str())
        .collect();
    let free: Vec<&str> = target
        .columns
        .iter()
        .filter(|c| proposal.columns.iter().all(|p| p.target != c.name))
        .map(|c| c.name.as_str())
        .collect();
    lines
        .push("[mappings.columns]          # target column = SQL over the source's row".to_owned());
    let width = proposal.columns.iter().map(|p| key(&p.target).chars().count()).max().unwrap_or(0);
    lines.extend(proposal.columns.iter().map(|pairing| column(pairing, width)));
    if !left.is_empty() {
        lines.push(format!(
            "# not taken from {}: {}",
            source.name.name,
            one_line(&left.join(", "))
        ));
    }
    if !free.is_empty() {
        lines.push(format!("# left to {}: {}", target.name.name, one_line(&free.join(", "))));
    }
    lines
}

fn column(pairing: &Pairing, width: usize) -> String {
    let value = quoted(&expression(&pairing.source));
    let value = match pairing.utc {
        true => format!("{{ value = {value}, time_zone = \"UTC\" }}"),
        false => value,
    };
    let doubts = match pairing.doubts.is_empty() {
        true => String::new(),
        false => format!("    # doubt: {}", one_line(&pairing.doubts.join("; "))),
    };
    format!("{:width$} = {value}{doubts}", key(&pairing.target))
}

/// A table as `from` and `to` name it.
fn name_of(system: &SystemHead, table: &Table) -> String {
    let mut parts = vec![system.name.as_str()];
    if table.name.schema != system.default_schema {
        parts.push(&table.name.schema);
    }
    parts.push(&table.name.name);
    let part = |name: &&str| match name.contains(['.', '"', '*']) || name.is_empty() {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => (*name).to_owned(),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A column as an expression names it.
fn expression(name: &str) -> String {
    match crate::config::is_plain_column(name) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// A key of the file.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

/// A text of the file.
pub fn quoted(text: &str) -> String {
    let plain = toml::Value::String(text.to_owned()).to_string();
    // A text of several lines can be no key, and nobody looks for one here.
    match plain.starts_with("\'\'\'") || plain.starts_with("\"\"\"") {
        true => escaped(text),
        false => plain,
    }
}

/// A text on one line, whatever signs it has.
fn escaped(text: &str) -> String {
    let sign = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(sign).collect::<String>())
}

/// A name in a comment must not end it.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
