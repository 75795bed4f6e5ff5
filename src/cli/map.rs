//! `tidelock map test`: real rows of a source run through a mapping, shown before and after to the person at the
//! terminal.
//!
//! Nothing is written anywhere, no lease is taken and no daemon is asked: rows are read by the key that a first copy would
//! read them by, become what a first copy would make of them, and are shown. So this is the one command that shows
//! values of rows.

use std::process::ExitCode;

use serde_json::{Map, Value as Json, json};
use tidelock_core::{
    Code, Error, KeyRange, Result, Row, StreamColumn, TableSchema, TargetColumn, Value, form,
};

use super::survey::{Chosen, chosen, may_have, survey};
use super::{Cli, FINDINGS, Outcome, say};
use crate::mapping::plan::Feed;
use crate::mapping::{BoundPlan, MappingPlan};

/// Memory that the rows may take.
const BYTES_MAX: usize = 64 << 20;
/// Characters of a value that are shown.
const VALUE_CHARS: usize = 60;

/// A row and what became of it.
struct Tried {
    before: Vec<(String, Value)>,
    after: After,
}

/// What became of a row.
enum After {
    /// These cells, by the target's columns or parameters; `None` is looked up at the target when it is written.
    Sent(Vec<(String, Option<Value>)>),
    /// The filter leaves it out.
    Filtered,
    /// It cannot be sent.
    Failed(Error),
}

impl After {
    fn word(&self) -> &'static str {
        match self {
            After::Sent(_) => "sent",
            After::Filtered => "left out by `where`",
            After::Failed(_) => "cannot be sent",
        }
    }
}

/// Tries rows of the mappings of a name. Exit code 1 if a row cannot be sent.
pub async fn test(cli: &Cli, given: &str, rows: usize) -> Outcome {
    let config = super::config(cli)?;
    let surveyed = survey(&config, |flow| may_have(flow, given)).await?;
    let mut failed = false;
    let (mut texts, mut values) = (Vec::new(), Vec::new());
    for one in &chosen(&config, &surveyed, given)? {
        let plan = match &one.plan {
            Ok(plan) => *plan,
            Err(findings) => {
                let first = findings.first().map_or("it cannot run", |f| &f.message);
                return Err(Error::setup(Code::Catalog, first)
                    .with_hint("`tidelock check` shows every problem and what mends it")
                    .into());
            }
        };
        let tried = tried(one, plan, rows).await.map_err(|e| e.at(&one.of.flow.source))?;
        failed |= tried.iter().any(|row| matches!(row.after, After::Failed(_)));
        texts.push(render(one, plan, &tried));
        values.push(as_json(one, &tried));
    }
    match cli.json {
        true => say(json!({ "mappings": values }).to_string()),
        false => say(texts.join("\n").trim_end()),
    }
    Ok(if failed { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS })
}

async fn tried(
    one: &Chosen<'_>,
    plan: &std::sync::Arc<MappingPlan>,
    rows: usize,
) -> Result<Vec<Tried>> {
    let table = plan.copy.as_ref().ok_or_else(|| {
        Error::setup(Code::Catalog, format!("{} has no key by which rows are read", plan.source))
            .with_hint("give it a primary key")
    })?;
    let mut copier = one.of.source.copier().await?;
    let upto = copier.bound(table, None, rows).await?;
    let piece = copier.read(table, &KeyRange { after: None, upto }, BYTES_MAX).await?;
    let bound = BoundPlan::new(plan, &piece.table)?;
    Ok(piece.rows.iter().take(rows).map(|row| one_row(plan, &bound, &piece.table, row)).collect())
}

fn one_row(plan: &MappingPlan, bound: &BoundPlan, shape: &TableSchema, row: &Row) -> Tried {
    let named = |(column, value): (&StreamColumn, &Value)| {
        let shown = plan.reads.contains(&column.name);
        shown.then(|| (column.name.clone(), value.clone()))
    };
    let before = shape.columns.iter().zip(&row.0).filter_map(named).collect();
    let became = || -> Result<After> {
        if !bound.takes(row)? {
            return Ok(After::Filtered);
        }
        let write = bound.loaded(row)?;
        let waits = |at: usize| write.waits.iter().any(|wait| wait.column() == at);
        let cells = plan.target.columns.iter().zip(&write.row).enumerate();
        let cell = |(at, (column, value)): (usize, (&TargetColumn, &Value))| {
            (column.name.clone(), (!waits(at)).then(|| value.clone()))
        };
        Ok(After::Sent(cells.map(cell).collect()))
    };
    Tried { before, after: became().unwrap_or_else(After::Failed) }
}

fn render(one: &Chosen<'_>, plan: &MappingPlan, tried: &[Tried]) -> String {
    let flow = one.of.flow;
    let mut text = format!(
        "mapping {} (flow {}): {} at {} to {} at {}\n",
        plan.name, flow.name, plan.source, flow.source, plan.target.name, flow.target
    );
    for (n, row) in tried.iter().enumerate() {
        text.push_str(&format!("\nrow {}: {}\n", n + 1, row.after.word()));
        let lines = lines(plan, row);
        let width = lines.iter().map(|(before, _)| before.chars().count()).max().unwrap_or(0);
        for (before, after) in &lines {
            let line =
                format!("  {before:width$}  {}  {after}", if after.is_empty() { "" } else { "->" });
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if let After::Failed(error) = &row.after {
            text.push_str(&format!("  error[{}]: {error}\n", error.code()));
            if let Some(hint) = error.hint() {
                text.push_str(&format!("  hint: {hint}\n"));
            }
        }
    }
    let count = |word: &str| tried.iter().filter(|row| row.after.word() == word).count();
    let rows = if tried.len() == 1 { "row" } else { "rows" };
    text.push_str(&format!(
        "\n{} {rows} read: {} sent, {} left out, {} failed; nothing was written\n",
        tried.len(),
        count(After::Sent(Vec::new()).word()),
        count(After::Filtered.word()),
        tried.iter().filter(|row| matches!(row.after, After::Failed(_))).count()
    ));
    text
}

/// What was beside what is: each column of the target after what feeds it; and what is only looked at.
fn lines(plan: &MappingPlan, row: &Tried) -> Vec<(String, String)> {
    let before = |name: &String| {
        let value = row.before.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        format!("{name} = {}", value.map_or_else(String::new, shown))
    };
    let mut lines = Vec::new();
    let mut told: Vec<&String> = Vec::new();
    if let After::Sent(after) = &row.after {
        for (column, (name, value)) in plan.columns.iter().zip(after) {
            let value = value.as_ref().map_or("(looked up when it is written)".to_owned(), shown);
            let mut right = format!("{name} = {value}");
            let reads = column.feed.reads();
            if let Feed::Computed(computed) = &column.feed {
                let text = computed.text.text.split_whitespace().collect::<Vec<_>>().join(" ");
                right.push_str(&format!("    {text}"));
            }
            for n in 0..reads.len().max(1) {
                let left = reads.get(n).map_or_else(String::new, before);
                lines.push((left, std::mem::take(&mut right)));
            }
            told.extend(reads);
        }
    }
    let rest = row.before.iter().filter(|(name, _)| !told.contains(&name));
    lines.extend(rest.map(|(name, value)| (format!("{name} = {}", shown(value)), String::new())));
    lines
}

/// A value for a terminal: it may hold anything, so signs that a terminal obeys are written out.
fn shown(value: &Value) -> String {
    let Some(text) = form::text(value) else { return "NULL".to_owned() };
    let mut cut: String = text.chars().take(VALUE_CHARS).flat_map(visible).collect();
    if text.chars().nth(VALUE_CHARS).is_some() {
        cut.push('…');
    }
    match value {
        Value::Text(_) | Value::Json(_) | Value::Enum(_) | Value::Foreign(_) => format!("'{cut}'"),
        _ => cut,
    }
}

fn visible(sign: char) -> impl Iterator<Item = char> {
    // Beside control characters those that turn the direction of writing.
    let hidden = sign.is_control()
        || matches!(sign, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let escaped = hidden.then(|| sign.escape_unicode());
    let plain = (!hidden).then_some(sign);
    escaped.into_iter().flatten().chain(plain)
}

fn as_json(one: &Chosen<'_>, tried: &[Tried]) -> Json {
    let cells = |cells: &[(String, Value)]| -> Map<String, Json> {
        let cell = |(name, value): &(String, Value)| (name.clone(), json!(form::text(value)));
        cells.iter().map(cell).collect()
    };
    let rows: Vec<Json> = tried
        .iter()
        .map(|row| {
            let before = cells(&row.before);
            match &row.after {
                After::Sent(after) => {
                    let told = |(name, value): &(String, Option<Value>)| {
                        Some((name.clone(), json!(form::text(value.as_ref()?))))
                    };
                    let looked_up = after.iter().filter(|(_, value)| value.is_none());
                    json!({
                        "outcome": "sent", "before": before,
                        "after": after.iter().filter_map(told).collect::<Map<_, _>>(),
                        "looked_up_when_written": looked_up.map(|(name, _)| name).collect::<Vec<_>>(),
                    })
                }
                After::Filtered => json!({"outcome": "filtered", "before": before}),
                After::Failed(error) => json!({
                    "outcome": "failed", "before": before,
                    "error": {"code": error.code().to_string(), "message": error.to_string(), "hint": error.hint()},
                }),
            }
        })
        .collect();
    json!({"mapping": one.name, "flow": one.of.flow.name, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_play_with_the_terminal() {
        let text = |t: &str| shown(&Value::Text(t.to_owned().into()));
        assert_eq!(text("a\u{1b}[2Jb\n"), "'a\\u{1b}[2Jb\\u{a}'");
        assert_eq!(text("\u{202e}ü漢"), "'\\u{202e}ü漢'");
        assert_eq!(text(&"x".repeat(61)), format!("'{}…'", "x".repeat(60)));
        assert_eq!((shown(&Value::Null), text("NULL")), ("NULL".to_owned(), "'NULL'".to_owned()));
        assert_eq!(shown(&Value::Int(-3)), "-3");
    }
}
