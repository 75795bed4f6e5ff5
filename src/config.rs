//! The configuration file: `tidelock.toml`.
//!
//! Read once, checked as a whole, and turned into the shape the engine works with: systems resolved
//! (environment, secret files, TLS defaults), mappings sorted into flows, names made legal. Every
//! error names file, line and column and shows the line.

pub mod columns;
pub mod file;
pub mod form;
pub mod place;
pub mod resolve;
pub mod rows;
pub mod sources;
pub mod systems;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use columns::{ColumnMap, ColumnRule, MappedColumn, OnUnrepresentable};
pub use place::{Place, Placed, SourceText};
pub use rows::{Check, Codes, Dictionary, DictionaryTable, Held, Known, OnDelete};
pub use sources::{CallConfig, EdgeConfig, PushWhen, Track, TrackBy, TrackedTable};
pub use systems::Systems;
use tidelock_core::{DataType, Secret, SystemConfig, Value};

use crate::expr::{Contents, Dictionaries, DictionaryShape, MaskKey, SoughtDictionary};

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The pipeline's name.
    pub name: String,
    /// Where sled and the control socket live.
    pub state_dir: PathBuf,
    /// Where metrics and health are served; `None` serves nothing.
    pub listen: Option<String>,
    /// The systems by name.
    pub systems: BTreeMap<String, SystemConfig>,
    /// The flows in the order of their first mapping.
    pub flows: Vec<FlowConfig>,
    /// Systems whose password stands in the file itself.
    pub inline_passwords: Vec<String>,
    /// A hash of the file's text.
    pub hash: String,
}

/// All mappings from one system to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowConfig {
    /// `crm:erp`.
    pub name: String,
    /// The source system.
    pub source: String,
    /// The target system.
    pub target: String,
    /// Replication slot, where the source has such.
    pub slot: String,
    /// Publication, where the source has such.
    pub publication: String,
    /// Where to start instead of at the log's end.
    pub start_at: Option<String>,
    /// How many pieces of copies are read and written at once.
    pub copy_workers: usize,
    /// How many sessions write the log at once when the flow is behind.
    pub lanes: usize,
    /// Rows a second that copies may read; unlimited if absent.
    pub snapshot_rows_per_second: Option<u64>,
    /// The mappings.
    pub mappings: Vec<MappingConfig>,
    /// What their expressions may use.
    pub values: Arc<Values>,
}

impl FlowConfig {
    /// The tables and views of the source that the file names, those behind views among them.
    pub fn read(&self) -> impl Iterator<Item = &TableRef> {
        let named = self.mappings.iter().flat_map(|m| {
            let pushes = m.push_when.iter().map(|push| &push.table);
            std::iter::once(&m.from).chain(m.tracks.iter().map(|t| &t.table)).chain(pushes)
        });
        named.chain(self.values.tables_of(&self.source))
    }

    /// Where a mapping stands in the file: by its name, else the last one of all tables, which has tables of other names.
    pub fn places_of(&self, mapping: &str) -> Option<&MappingPlaces> {
        let all = |m: &&MappingConfig| m.from.table == TablePattern::All;
        let named = self.mappings.iter().find(|m| m.name == mapping && !all(m));
        named.or_else(|| self.mappings.iter().rfind(all)).map(|m| &m.places)
    }

    /// The tables of the target that expressions of its columns name by lookups, and those that are dictionaries.
    pub fn looked_up(&self) -> Vec<TableRef> {
        let columns = self.mappings.iter().flat_map(|m| m.columns.iter().flat_map(|c| &c.columns));
        columns
            .flat_map(|column| crate::expr::lookup_tables(&column.value.text))
            .filter_map(|written| TableRef::parse(&written))
            .filter(|table| table.system == self.target)
            .chain(self.values.tables_of(&self.target).cloned())
            .collect()
    }
}

/// What every expression of the file may use.
#[derive(Debug, Default)]
pub struct Values {
    dictionaries: Vec<Dictionary>,
    /// What a flow's catalogs tell of those that are tables, by their numbers.
    known: HashMap<usize, Known>,
    /// The key that `mask(x, 'hash')` hashes with, as it was given and as it is used.
    mask_key: Option<(Secret, MaskKey)>,
}

impl PartialEq for Values {
    fn eq(&self, other: &Values) -> bool {
        let key = |values: &Values| values.mask_key.as_ref().map(|(secret, _)| secret.clone());
        self.dictionaries == other.dictionaries && key(self) == key(other)
    }
}

impl Eq for Values {}

impl Values {
    /// These dictionaries, and this key.
    pub fn new(dictionaries: Vec<Dictionary>, mask_key: Option<Secret>) -> Values {
        let key = |secret: Secret| {
            let key = MaskKey::new(secret.expose().as_bytes());
            (secret, key)
        };
        Values { dictionaries, known: HashMap::new(), mask_key: mask_key.map(key) }
    }

    /// The same, with what catalogs tell of dictionaries that are tables.
    #[must_use]
    pub fn with(&self, known: HashMap<usize, Known>) -> Values {
        let mask_key = self.mask_key.as_ref().map(|(secret, _)| secret.clone());
        Values { known, ..Values::new(self.dictionaries.clone(), mask_key) }
    }

    /// The dictionaries that are tables: number, name and table.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &str, &DictionaryTable)> {
        self.dictionaries.iter().enumerate().filter_map(|(at, d)| match &d.held {
            Held::Table(table) => Some((at, d.name.as_str(), table)),
            Held::Inline { .. } => None,
        })
    }

    fn tables_of(&self, system: &str) -> impl Iterator<Item = &TableRef> {
        self.tables().map(|(_, _, table)| &table.table).filter(move |table| table.system == system)
    }

    /// Every code of every dictionary, of those that are one value: each once and in order, so that what is said of them is the same at every run.
    pub fn codes(&self) -> BTreeSet<String> {
        let inline = self.dictionaries.iter().filter_map(|d| match &d.held {
            Held::Inline { entries, .. } => Some(entries),
            Held::Table(_) => None,
        });
        inline
            .flat_map(HashMap::keys)
            .filter_map(|code| match &code[..] {
                [one] => Some(one.clone()),
                _ => None,
            })
            .collect()
    }

    /// What these expressions get from the file beside their own texts: the dictionaries there that they name, and what tells one mask key
    /// from another.
    pub fn behind(&self, texts: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for dictionary in &self.dictionaries {
            let name = format!("'{}'", dictionary.name.replace('\'', "''"));
            let Held::Inline { entries, .. } = &dictionary.held else { continue };
            if texts.iter().any(|text| text.contains(&name)) {
                let mut lines: Vec<String> =
                    entries.iter().map(|entry| format!("{entry:?}")).collect();
                lines.sort();
                found.push(format!("{name} {lines:?}"));
            }
        }
        let masks = |text: &&str| text.to_ascii_lowercase().contains("mask");
        if let Some(key) = self.mask().filter(|_| texts.iter().any(masks)) {
            found.push(key.mark());
        }
        found
    }

    /// The key of masks.
    pub fn mask(&self) -> Option<&MaskKey> {
        self.mask_key.as_ref().map(|(_, key)| key)
    }
}

impl Dictionaries for Values {
    fn get(&self, name: &str) -> Option<DictionaryShape> {
        let index = self.dictionaries.iter().position(|d| d.name == name)?;
        let found = self.dictionaries.get(index)?;
        let mut shape = DictionaryShape {
            index,
            arity: found.arity,
            result: DataType::Bool,
            result_nullable: false,
            types: Vec::new(),
            sought: None,
        };
        match (&found.held, self.known.get(&index)) {
            (Held::Inline { result, .. }, _) => shape.result = result.clone(),
            (Held::Table(_), Some(Known::Kept { types, result, nullable, .. })) => {
                (shape.result, shape.result_nullable) = (result.clone(), *nullable);
                shape.types.clone_from(types);
            }
            (Held::Table(table), Some(Known::Sought { result, nullable })) => {
                (shape.result, shape.result_nullable) = (result.clone(), *nullable);
                shape.sought = Some(SoughtDictionary {
                    table: table.written.clone(),
                    columns: table.key.clone(),
                    result: table.value.clone(),
                });
            }
            (Held::Table(_), Some(Known::Fault { .. }) | None) => {}
        }
        Some(shape)
    }

    fn names(&self) -> Vec<String> {
        self.dictionaries.iter().map(|d| d.name.clone()).collect()
    }

    fn fault(&self, name: &str) -> Option<(String, String)> {
        let index = self.dictionaries.iter().position(|d| d.name == name)?;
        match (&self.dictionaries.get(index)?.held, self.known.get(&index)) {
            (Held::Table(_), Some(Known::Fault { message, hint })) => {
                Some((message.clone(), hint.clone()))
            }
            (Held::Table(_), None) => {
                Some(("it is a table, and cannot be used here".to_owned(), String::new()))
            }
            _ => None,
        }
    }
}

impl Contents for Values {
    fn get(&self, dictionary: usize, code: &[&str]) -> Option<Value> {
        let code: Vec<String> = code.iter().map(|&part| part.to_owned()).collect();
        match (&self.dictionaries.get(dictionary)?.held, self.known.get(&dictionary)) {
            (Held::Inline { entries, .. }, _) => entries.get(&code).cloned(),
            (Held::Table(_), Some(Known::Kept { codes, .. })) => codes.get(&code),
            (Held::Table(_), _) => None,
        }
    }
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingConfig {
    /// Its name, unique in the flow.
    pub name: String,
    /// The source table, or all of a schema.
    pub from: TableRef,
    /// The target table, or all of a schema.
    pub to: TableRef,
    /// The target columns that identify a row; the primary key if absent.
    pub key: Option<Vec<String>>,
    /// What a delete becomes.
    pub on_delete: OnDelete,
    /// What a truncate becomes.
    pub on_truncate: OnTruncate,
    /// Whether several changes of a row in one batch may become one; as the target's triggers ask for if absent.
    pub compact: Option<bool>,
    /// What a column that comes at the source becomes.
    pub schema_changes: SchemaChanges,
    /// Whether rows that are there at first start must be copied.
    pub snapshot: SnapshotMode,
    /// The column list, if there is one.
    pub columns: Option<ColumnMap>,
    /// What the file says of the values of all its columns.
    pub rule: ColumnRule,
    /// `LIKE` patterns of tables that a wildcard leaves out.
    pub exclude: Vec<String>,
    /// Which rows go; all if absent.
    pub filter: Option<Placed>,
    /// The source columns whose change alone makes an update worth sending; any mapped column's if absent.
    pub on_change: Option<Vec<Placed>>,
    /// What must hold of every row that is sent.
    pub validate: Vec<Check>,
    /// The tables that a view is made of.
    pub tracks: Vec<TrackedTable>,
    /// The view's key, where it has other names than the target's.
    pub from_key: Option<Vec<Placed>>,
    /// The target columns that tell the rows of one key of a view apart.
    pub row_key: Option<Vec<Placed>>,
    /// Mappings whose rows come before this one's.
    pub after: Vec<Placed>,
    /// If `to` names a routine: what else is to be known of it.
    pub call: Option<CallConfig>,
    /// When a change is worth sending.
    pub edge: Option<EdgeConfig>,
    /// How long a key rests between two of its changes.
    pub throttle: Option<Duration>,
    /// The tables whose rows make a key worth sending.
    pub push_when: Vec<PushWhen>,
    /// How often what passes with time is looked at again.
    pub refresh: Option<Duration>,
    /// Where its parts stand in the file.
    pub places: MappingPlaces,
}

/// Where the parts of a mapping stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingPlaces {
    /// `from`.
    pub from: Place,
    /// `to`.
    pub to: Place,
    /// Each column of `key`.
    pub key: Vec<Place>,
    /// `schema_changes`, if the mapping or its flow says it.
    pub schema_changes: Option<Place>,
}

/// A table of a system, or all tables of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRef {
    /// The system.
    pub system: String,
    /// The schema; the system's default if absent.
    pub schema: Option<String>,
    /// The table.
    pub table: TablePattern,
}

impl TableRef {
    /// The table of `system.table` or `system.schema.table`; `None` if it is neither.
    pub fn parse(text: &str) -> Option<TableRef> {
        let parts = resolve::split_name(text)?;
        let (system, schema, table) = match parts.as_slice() {
            [system, table] => (system, None, table),
            [system, schema, table] => (system, Some(schema.0.clone()), table),
            _ => return None,
        };
        let table = match table {
            (name, false) if name == "*" => TablePattern::All,
            (name, _) => TablePattern::Exact(name.clone()),
        };
        Some(TableRef { system: system.0.clone(), schema, table })
    }
}

/// A table's name, or every table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablePattern {
    /// This table.
    Exact(String),
    /// Every table of the schema (`*`).
    All,
}

/// What a source truncate becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTruncate {
    /// The mapping stops.
    Halt,
    /// Every row of the target table is deleted.
    Delete,
    /// Nothing.
    Ignore,
}

/// What a column that comes at the source of a mapping of all same-named columns becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaChanges {
    /// It is added at the target.
    Add,
    /// A person is told.
    Note,
}

/// Whether rows that are there at first start are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotMode {
    /// They must be.
    Initial,
    /// They are not looked at.
    Never,
}

/// A fault of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// File, line and column, and the line with the part underlined, as far as there are such.
    pub place: String,
}

impl ConfigError {
    /// A fault without a place; a hint may follow in a line of its own.
    pub fn new(words: &str) -> ConfigError {
        let (message, hint) = words.split_once("\nhint: ").unwrap_or((words, ""));
        ConfigError { message: message.to_owned(), hint: hint.to_owned(), place: String::new() }
    }

    /// What is wrong and where, for people, without the hint.
    pub fn told(&self) -> String {
        let message = &self.message;
        match self.place.split_once('\n') {
            Some((location, lines)) => format!("{location}: {message}\n{lines}"),
            None if self.place.is_empty() => message.clone(),
            None => format!("{}: {message}", self.place),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told())?;
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Whether a text alone names a column of that very name, without quotes.
pub fn is_plain_column(name: &str) -> bool {
    resolve::plain_column(name).is_some_and(|plain| plain == name)
}

/// The text of a configuration file.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|e| ConfigError {
        message: format!("cannot be read: {e}"),
        hint: "see that the file is there, or give another with --config FILE".to_owned(),
        place: path.display().to_string(),
    })
}

impl Config {
    /// The file to use: the one given, `$TIDELOCK_CONFIG`, `./tidelock.toml`,
    /// `/etc/tidelock/tidelock.toml`.
    pub fn find(given: Option<&Path>) -> Result<PathBuf, ConfigError> {
        if let Some(path) = given {
            return Ok(path.to_owned());
        }
        if let Some(path) = std::env::var_os("TIDELOCK_CONFIG") {
            return Ok(path.into());
        }
        ["tidelock.toml", "/etc/tidelock/tidelock.toml"].iter().map(PathBuf::from).find(|p| p.exists()).ok_or_else(|| {
            ConfigError::new(
                "no configuration file: looked for ./tidelock.toml and /etc/tidelock/tidelock.toml\n\
                 hint: give one with --config FILE or $TIDELOCK_CONFIG",
            )
        })
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::parse(&read(path)?, &path.display().to_string())
    }

    /// The state folder that a file names: all that is needed to talk to a daemon, which has the secrets.
    pub fn state_dir(path: &Path) -> Result<PathBuf, ConfigError> {
        let (text, file) = (read(path)?, path.display().to_string());
        let parsed: file::File =
            toml::from_str(&text).map_err(|e| file::explain(&file, &text, &e))?;
        Ok(parsed.state_dir())
    }

    /// Checks a configuration's text; `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        let parsed: file::File = toml::from_str(text).map_err(|e| file::explain(file, text, &e))?;
        let source = SourceText { file: file.to_owned(), text: text.to_owned() };
        resolve::resolve(parsed, &resolve::Source(Arc::new(source)))
    }
}
