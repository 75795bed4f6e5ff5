//! The file as written: the serde side of the configuration, and the rendering of its errors.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_spanned::Spanned;

use super::columns::{ColumnValue, OnUnrepresentable};
use super::form::{Form, Forms};
use super::rows::{CheckValue, DictionaryValue, OnDeleteValue};
use super::sources::{EdgeValue, To, TracksValue};
use super::{ConfigError, OnTruncate, SchemaChanges, SnapshotMode};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Always 1.
    pub version: Spanned<u32>,
    /// The pipeline's name.
    pub name: Spanned<String>,
    /// State folder.
    pub state_dir: Option<PathBuf>,
    /// Metrics and health.
    pub listen: Option<Spanned<String>>,
    /// Systems.
    pub systems: BTreeMap<String, System>,
    /// Defaults of all mappings.
    #[serde(default)]
    pub defaults: Settings,
    /// Settings of single flows.
    #[serde(default)]
    pub flows: BTreeMap<Spanned<String>, Settings>,
    /// The mappings.
    #[serde(default)]
    pub mappings: Vec<Mapping>,
    /// Codes of one side and what they are on the other.
    #[serde(default)]
    pub dictionaries: BTreeMap<String, Spanned<DictionaryValue>>,
    /// The key that `mask(x, 'hash')` hashes with.
    pub mask_key: Option<Spanned<Password>>,
}

impl File {
    /// Where sled and the control socket live.
    pub fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| "/var/lib/tidelock".into())
    }
}

/// A text given here or by the environment.
pub type Text = Form<FromEnv>;

/// `{ env = "NAME" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromEnv {
    /// The variable.
    pub env: String,
}

impl Forms for FromEnv {
    const EXPECTED: &'static str = "a text, or { env = \"NAME\" }";
}

/// A secret, which never stands here itself.
pub type Password = Form<Kept>;

/// `{ env = "NAME" }` or `{ file = "PATH" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The variable.
    pub env: Option<String>,
    /// The file.
    pub file: Option<PathBuf>,
}

impl Forms for Kept {
    const EXPECTED: &'static str = "{ env = \"NAME\" } or { file = \"PATH\" }";
}

/// A system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Where it is.
    pub url: Spanned<Text>,
    /// Its password.
    pub password: Option<Spanned<Password>>,
    /// TLS.
    pub tls: Option<Spanned<Form<TlsSettings>>>,
    /// Schema of our own tables.
    pub meta_schema: Option<Spanned<String>>,
}

/// TLS settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// disable, require, verify-ca, verify-full; the last if absent.
    pub mode: Option<Spanned<String>>,
    /// Trusted authorities.
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

impl Forms for TlsSettings {
    const EXPECTED: &'static str = "{ mode = \"verify-full\", ca_file = \"PATH\" } or a part of it";
}

/// A `[defaults]` or `[flows."a:b"]` table: keys of mappings, and what belongs to a flow alone. What is said in neither, or
/// not in `[defaults]`, is taken here so that it is refused with the reason.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The key.
    pub key: Option<Spanned<Vec<Spanned<String>>>>,
    /// Which rows go.
    #[serde(rename = "where")]
    pub filter: Option<Spanned<String>>,
    /// Source columns whose change alone is worth sending.
    pub on_change: Option<Vec<Spanned<String>>>,
    /// What must hold of every row that is sent.
    pub validate: Option<Vec<CheckValue>>,
    /// When a change is worth sending.
    pub edge: Option<Spanned<EdgeValue>>,
    /// How long a key rests between two of its changes.
    pub throttle: Option<Spanned<String>>,
    /// How often what passes with time is looked at again.
    pub refresh: Option<Spanned<String>>,
    /// What a delete becomes.
    pub on_delete: Option<OnDeleteValue>,
    /// What a truncate becomes.
    pub on_truncate: Option<OnTruncate>,
    /// Whether several changes of a row in one batch may become one.
    pub compact: Option<bool>,
    /// What a column that comes at the source becomes.
    pub schema_changes: Option<Spanned<SchemaChanges>>,
    /// Whether a first copy is made.
    pub snapshot: Option<SnapshotMode>,
    /// Tables that wildcards leave out.
    pub exclude: Option<Vec<String>>,
    /// What becomes of a value that its target column cannot hold.
    pub on_unrepresentable: Option<OnUnrepresentable>,
    /// The zone of times without one.
    pub time_zone: Option<Spanned<String>>,
    /// How many pieces of copies are read and written at once, a flow.
    pub copy_workers: Option<Spanned<u64>>,
    /// How many sessions write the log at once when the flow is behind, a flow.
    pub lanes: Option<Spanned<u64>>,
    /// Rows a second that copies may read, a flow.
    pub snapshot_rows_per_second: Option<Spanned<u64>>,
    /// The slot's name. Of a flow alone.
    pub slot: Option<Spanned<String>>,
    /// The publication's name. Of a flow alone.
    pub publication: Option<Spanned<String>>,
    /// Where to start. Of a flow alone.
    pub start_at: Option<Spanned<String>>,
    /// Of one mapping alone, as those below.
    pub name: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub from: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub to: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub columns: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub tracks: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub from_key: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub row_key: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub after: Option<Spanned<IgnoredAny>>,
    /// See `name`.
    pub push_when: Option<Spanned<IgnoredAny>>,
}

impl Settings {
    /// What is said here and belongs to one mapping: its name and place.
    pub fn of_a_mapping(&self) -> Option<(&'static str, Range<usize>)> {
        let all = [
            ("name", &self.name),
            ("from", &self.from),
            ("to", &self.to),
            ("columns", &self.columns),
            ("tracks", &self.tracks),
            ("from_key", &self.from_key),
            ("row_key", &self.row_key),
            ("after", &self.after),
            ("push_when", &self.push_when),
        ];
        all.into_iter().find_map(|(name, given)| Some((name, given.as_ref()?.span())))
    }

    /// What is said here and belongs to a flow, and not to all: its name and place.
    pub fn of_a_flow(&self) -> Option<(&'static str, Range<usize>)> {
        let all = [
            ("slot", &self.slot),
            ("publication", &self.publication),
            ("start_at", &self.start_at),
        ];
        all.into_iter().find_map(|(name, given)| Some((name, given.as_ref()?.span())))
    }
}

/// A mapping.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Its name.
    pub name: Option<Spanned<String>>,
    /// The source.
    pub from: Spanned<String>,
    /// The target.
    pub to: Spanned<To>,
    /// The tables that a view is made of.
    pub tracks: Option<BTreeMap<Spanned<String>, Spanned<TracksValue>>>,
    /// The view's key, where it has other names than the target's.
    pub from_key: Option<Vec<Spanned<String>>>,
    /// The target columns that tell the rows of one key of a view apart.
    pub row_key: Option<Vec<Spanned<String>>>,
    /// Mappings whose rows come before this one's.
    #[serde(default)]
    pub after: Vec<Spanned<String>>,
    /// When a change is worth sending.
    pub edge: Option<Spanned<EdgeValue>>,
    /// How long a key rests between two of its changes.
    pub throttle: Option<Spanned<String>>,
    /// The tables whose rows make a key worth sending, and the column that holds it.
    #[serde(default)]
    pub push_when: BTreeMap<Spanned<String>, Spanned<String>>,
    /// How often what passes with time is looked at again.
    pub refresh: Option<Spanned<String>>,
    /// The key.
    pub key: Option<Spanned<Vec<Spanned<String>>>>,
    /// What a delete becomes.
    pub on_delete: Option<OnDeleteValue>,
    /// What a truncate becomes.
    pub on_truncate: Option<OnTruncate>,
    /// Whether several changes of a row in one batch may become one.
    pub compact: Option<bool>,
    /// What a column that comes at the source becomes.
    pub schema_changes: Option<Spanned<SchemaChanges>>,
    /// Whether a first copy is made.
    pub snapshot: Option<SnapshotMode>,
    /// What becomes of a value that its target column cannot hold.
    pub on_unrepresentable: Option<OnUnrepresentable>,
    /// The zone of times without one.
    pub time_zone: Option<Spanned<String>>,
    /// Tables that a wildcard leaves out.
    pub exclude: Option<Spanned<Vec<String>>>,
    /// Which rows go.
    #[serde(rename = "where")]
    pub filter: Option<Spanned<String>>,
    /// Source columns whose change alone is worth sending.
    pub on_change: Option<Vec<Spanned<String>>>,
    /// What must hold of every row that is sent.
    pub validate: Option<Vec<CheckValue>>,
    /// Target column to expression over the source row.
    pub columns: Option<BTreeMap<Spanned<String>, Spanned<ColumnValue>>>,
}

/// The hint of a parser's error that names all that may stand there: `a`, `b`.
fn variants(message: &str) -> Option<String> {
    let (_, known) = message.strip_prefix("unknown variant ")?.split_once(", expected ")?;
    Some(format!("\nhint: write {}", known.trim_start_matches("one of ").replace('`', "\"")))
}

/// A parser's error with file, line and column in front and, for a misspelt key, the nearest one.
pub fn explain(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message();
    let mut words = without_texts(message.trim()).replace('\n', " ");
    words = words.replace("expected a sequence", "expected a list such as [\"a\", \"b\"]");
    if let Some(near) = nearest_field(message) {
        // With the name that was meant nobody reads a list of all.
        if let Some((unknown, _)) = words.split_once(", expected ") {
            words = unknown.to_owned();
        }
        words.push_str(&format!("\nhint: did you mean `{near}`?"));
    } else if let Some(all) = variants(message) {
        words.push_str(&all);
    } else if let Some(field) = message.strip_prefix("missing field `") {
        let field = field.split('`').next().unwrap_or_default();
        words.push_str(&format!("\nhint: add `{field} = ...`"));
    } else if message.contains("between array elements") {
        words.push_str("\nhint: is the list before it closed by `]`?");
    } else if message.starts_with("duplicate key") {
        words.push_str("\nhint: it stands further up already");
    }
    match error.span() {
        Some(span) => at(file, text, &span, &words),
        None => ConfigError { place: file.to_owned(), ..ConfigError::new(&words) },
    }
}

/// An error with the place in front and the line below.
pub fn at(file: &str, text: &str, span: &Range<usize>, words: &str) -> ConfigError {
    let Excerpt { location, lines } = excerpt(file, text, span);
    ConfigError { place: format!("{location}\n{lines}"), ..ConfigError::new(words) }
}

/// A part of the file for people.
pub struct Excerpt {
    /// File, line and column.
    pub location: String,
    /// The line, with the part underlined.
    pub lines: String,
}

/// A part of the file, which may be a password's line: then its value is not shown.
pub fn excerpt(file: &str, text: &str, span: &Range<usize>) -> Excerpt {
    let before = text.get(..span.start).unwrap_or(text);
    let line_number = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let column = before.get(line_start..).map_or(0, |s| s.chars().count()) + 1;
    let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    let shown = redacted(line);
    let length = text
        .get(span.clone())
        .map_or(1, |s| s.lines().next().unwrap_or_default().chars().count())
        .max(1);
    let gutter = line_number.to_string();
    let blank = " ".repeat(gutter.len());
    let caret = if shown == line {
        format!("\n{blank} | {}{}", " ".repeat(column - 1), "^".repeat(length))
    } else {
        String::new()
    };
    Excerpt {
        location: format!("{file}:{line_number}:{column}"),
        lines: format!("{blank} |\n{gutter} | {shown}{caret}"),
    }
}

/// A line is shown to help, but not the value of one that may hold a password. A slip may be just what
/// made the line wrong, so what shows that it is such a line is looked for in several places.
fn redacted(line: &str) -> String {
    let (key, value) = line.split_once('=').unwrap_or(("", line));
    let address = value.contains(':') && ["url", "//", "@"].iter().any(|mark| line.contains(mark));
    let kept_elsewhere =
        value.trim_start().starts_with('{') && (value.contains("env") || value.contains("file"));
    let keeps = line.contains("pass") || (line.contains("mask") && !line.contains("mask("));
    let secret = keeps && !kept_elsewhere;
    if address || secret {
        return if key.is_empty() { "***".to_owned() } else { format!("{key}= ***") };
    }
    line.to_owned()
}

/// A parser's message without the text that it met.
fn without_texts(message: &str) -> String {
    match message.split_once("string \"").map(|(before, after)| (before, after.rsplit_once('"'))) {
        Some((before, Some((_, after)))) => format!("{before}a text{after}"),
        Some((before, None)) => format!("{before}a text"),
        None => message.to_owned(),
    }
}

/// The name nearest to one that is not known, as a hint; nothing where none is near.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (strsim::jaro_winkler(name, unknown), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(String::new(), |(_, near)| format!("\nhint: did you mean `{near}`?"))
}

/// The known key nearest to an unknown one, from serde's own words.
fn nearest_field(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(known, unknown), known))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned())
}
