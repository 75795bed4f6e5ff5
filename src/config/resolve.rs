//! From the file as written to the configuration as used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_spanned::Spanned;
use sha2::{Digest, Sha256};
use tidelock_core::{
    Code, FLOW_CHARS_MAX, Family, MAPPING_CHARS_MAX, PIPELINE_CHARS_MAX, Secret, SystemConfig, Tls,
    TlsMode,
};

use super::columns;
use super::file::{self, File, Mapping};
use super::form::{Form, Forms};
use super::sources::{self, To};
use super::{
    ColumnRule, Config, ConfigError, FlowConfig, MappingConfig, MappingPlaces, OnDelete,
    OnTruncate, Place, Placed, SchemaChanges, SnapshotMode, SourceText, TablePattern, TableRef,
    Values, rows,
};
use crate::registry;

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// The text that places point into.
pub struct Source(pub Arc<SourceText>);

impl Source {
    /// An error at a place of the text.
    pub(super) fn error(&self, span: Range<usize>, words: impl AsRef<str>) -> ConfigError {
        file::at(&self.0.file, &self.0.text, &span, words.as_ref())
    }

    /// A place of the text, to be kept.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.0.clone(), span)
    }

    /// A text and its place, to be kept.
    pub(super) fn placed(&self, text: &Spanned<String>) -> Placed {
        Placed { text: text.get_ref().clone(), place: self.place(text.span()) }
    }
}

/// Each is a session at both ends.
const COPY_WORKERS_MAX: u64 = 32;
/// Sessions that write the log at once, at most.
const LANES_MAX: u64 = 16;

/// Checks and completes a parsed file.
pub fn resolve(parsed: File, source: &Source) -> Result<Config> {
    if *parsed.version.get_ref() != 1 {
        let words = "version must be 1\nhint: write version = 1: this program knows no other";
        return Err(source.error(parsed.version.span(), words));
    }
    let name = parsed.name.get_ref();
    fits("the pipeline's name", name, PIPELINE_CHARS_MAX, parsed.name.span(), source)?;
    let systems = self::systems(&parsed, source)?;
    let inline_passwords = parsed
        .systems
        .iter()
        .filter(|(_, s)| has_password(s))
        .map(|(name, _)| name.clone())
        .collect();
    let dictionaries = parsed
        .dictionaries
        .iter()
        .map(|(name, value)| rows::dictionary(name, value, &systems, source))
        .collect::<Result<Vec<_>>>()?;
    let mask_key = parsed.mask_key.as_ref().map(|key| read_password(key, source)).transpose()?;
    let shared = Arc::new(Values::new(dictionaries, mask_key));
    let flows = resolve_flows(&parsed, &systems, &shared, source)?;
    let hash = hex::encode(&Sha256::digest(source.0.text.as_bytes())[..8]);
    Ok(Config {
        name: name.clone(),
        state_dir: parsed.state_dir(),
        listen: parsed.listen.as_ref().map(|l| listen(l, source)).transpose()?,
        systems,
        flows,
        inline_passwords,
        hash,
    })
}

/// How the file's systems are reached.
pub(super) fn systems(parsed: &File, source: &Source) -> Result<BTreeMap<String, SystemConfig>> {
    let system = |(name, system): (&String, &file::System)| {
        Ok((name.clone(), resolve_system(name, system, source)?))
    };
    parsed.systems.iter().map(system).collect()
}

/// Where to listen, if it is an address and a port.
fn listen(text: &Spanned<String>, source: &Source) -> Result<String> {
    let good = text.get_ref().rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    });
    if good {
        return Ok(text.get_ref().clone());
    }
    Err(source
        .error(text.span(), "expected host:port, such as \"127.0.0.1:7373\" or \"[::1]:7373\""))
}

/// Refuses a name that tidelock's own tables could not hold: no server may cut one.
fn fits(
    what: &str,
    name: &str,
    chars_max: usize,
    span: Range<usize>,
    source: &Source,
) -> Result<()> {
    let length = name.chars().count();
    if (1..=chars_max).contains(&length) {
        return Ok(());
    }
    Err(source.error(
        span,
        format!(
            "{what} has {length} characters; tidelock's own tables hold 1 to {chars_max}\n\
             hint: choose another name"
        ),
    ))
}

/// Whether the file itself holds the system's password.
fn has_password(system: &file::System) -> bool {
    let Form::Text(url) = system.url.get_ref() else { return false };
    url::Url::parse(url).is_ok_and(|url| {
        url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password")
    })
}

fn resolve_system(name: &str, system: &file::System, source: &Source) -> Result<SystemConfig> {
    let url = match system.url.get_ref() {
        Form::Text(url) => url.clone(),
        Form::Table(from) => environment(&from.env, system.url.span(), source)?,
        Form::List(_) => return Err(source.error(system.url.span(), file::FromEnv::EXPECTED)),
    };
    let Some(family) = registry::family(&url) else {
        let known = registry::schemes().collect::<Vec<_>>().join(", ");
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(source.error(
            system.url.span(),
            format!(
                "the url of system {name} must begin with one of: {known} (and ://){}",
                file::nearest(scheme, registry::schemes()).replace("`?", "://`?")
            ),
        ));
    };
    if let Err(why) = url::Url::parse(&url) {
        return Err(source.error(
            system.url.span(),
            format!(
                "the url of system {name} is not one: {why}\n\
                 hint: signs such as @ : / ? # % in user or password are percent-encoded (%40 %3A %2F %3F \
                 %23 %25), or the password stands apart: password = {{ file = \"PATH\" }}"
            ),
        ));
    }
    let password = match &system.password {
        None => None,
        Some(password) => Some(read_password(password, source)?),
    };
    let config = SystemConfig {
        name: name.to_owned(),
        tls: resolve_tls(&url, family, system, source)?,
        url: Secret::new(url),
        password,
        meta_schema: resolve_meta_schema(name, family, system, source)?,
        user: user(),
    };
    (family.check)(&config).map_err(|error| {
        let tls = system.tls.as_ref().filter(|_| error.code() == Code::Tls);
        let span = tls.map_or(system.url.span(), Spanned::span);
        let hint = error.hint().map_or(String::new(), |hint| format!("\nhint: {hint}"));
        source.error(span, format!("{error}{hint}"))
    })?;
    Ok(config)
}

/// The schema of our own tables; no server may cut its name.
fn resolve_meta_schema(
    name: &str,
    family: &Family,
    system: &file::System,
    source: &Source,
) -> Result<String> {
    let Some(schema) = &system.meta_schema else { return Ok("tidelock".to_owned()) };
    let words = match family.identifier_max.excess(schema.get_ref()) {
        None if !schema.get_ref().is_empty() => return Ok(schema.get_ref().clone()),
        None => format!("meta_schema of system {name} is empty\nhint: leave it out, or name one"),
        Some(excess) => format!(
            "meta_schema of system {name} is {excess}\n\
             hint: choose a shorter one: the server would cut it and never find it again"
        ),
    };
    Err(source.error(schema.span(), words))
}

/// The user that this process runs as: as `$USER` says, else as the machine's list of users does.
fn user() -> String {
    let told = std::env::var("USER").unwrap_or_default();
    if !told.is_empty() {
        return told;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_of(&users, rustix::process::geteuid().as_raw()).unwrap_or_default()
}

/// The name of a user in a list as `/etc/passwd` is one.
fn user_of(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let own = fields.nth(1)?.parse::<u32>() == Ok(id);
        own.then(|| name.to_owned())
    })
}

/// What an environment variable holds.
fn environment(variable: &str, span: Range<usize>, source: &Source) -> Result<String> {
    std::env::var(variable).map_err(|_| {
        source.error(
            span,
            format!(
                "environment variable {variable} is not set\n\
                 hint: set it where tidelock is started: export {variable}=..., or EnvironmentFile= of the service"
            ),
        )
    })
}

fn read_password(password: &Spanned<file::Password>, source: &Source) -> Result<Secret> {
    let expected = || {
        let words = format!("expected {}", file::Kept::EXPECTED);
        source.error(password.span(), words)
    };
    let Form::Table(kept) = password.get_ref() else { return Err(expected()) };
    match (&kept.env, &kept.file) {
        (Some(variable), None) => environment(variable, password.span(), source).map(Secret::new),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])))
            .map_err(|e| {
                source.error(
                    password.span(),
                    format!(
                        "password file {} cannot be read: {e}\n\
                         hint: see that the file is there and that tidelock's user may read it",
                        path.display()
                    ),
                )
            }),
        _ => Err(expected()),
    }
}

/// `verify-full` off the host; nothing to protect on it.
fn resolve_tls(url: &str, family: &Family, system: &file::System, source: &Source) -> Result<Tls> {
    let Some(tls) = &system.tls else {
        let mode = if (family.is_local)(url) { TlsMode::Disable } else { TlsMode::VerifyFull };
        return Ok(Tls { mode, ca_file: None, cert_file: None, key_file: None });
    };
    let Form::Table(settings) = tls.get_ref() else {
        let words = format!("expected {}", file::TlsSettings::EXPECTED);
        return Err(source.error(tls.span(), words));
    };
    let known = [
        ("disable", TlsMode::Disable),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
    let mode = match &settings.mode {
        None => TlsMode::VerifyFull,
        Some(word) => {
            let found = known.iter().find(|(name, _)| name == word.get_ref());
            let (_, mode) = found.ok_or_else(|| {
                let near = file::nearest(word.get_ref(), known.iter().map(|(name, _)| *name));
                let words = format!("expected disable, require, verify-ca or verify-full{near}");
                source.error(word.span(), words)
            })?;
            *mode
        }
    };
    Ok(Tls {
        mode,
        ca_file: settings.ca_file.clone(),
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
    })
}

fn resolve_flows(
    parsed: &File,
    systems: &BTreeMap<String, SystemConfig>,
    values: &Arc<Values>,
    source: &Source,
) -> Result<Vec<FlowConfig>> {
    let mut flows: Vec<FlowConfig> = Vec::new();
    fit_for_all(parsed, source)?;
    let settings: BTreeMap<&str, (&file::Settings, Range<usize>)> =
        parsed.flows.iter().map(|(k, v)| (k.get_ref().as_str(), (v, k.span()))).collect();
    for mapping in &parsed.mappings {
        let from = table_ref(mapping.from.get_ref(), mapping.from.span(), systems, source)?;
        let to = match mapping.to.get_ref() {
            To::Text(name) => table_ref(name, mapping.to.span(), systems, source)?,
            To::Table(call) => routine(&call.call, systems, source)?,
            To::List(_) => return Err(source.error(mapping.to.span(), "expected one target")),
        };
        if from.system == to.system {
            return Err(source.error(mapping.to.span(), "a mapping must lead to another system"));
        }
        let flow_name = format!("{}:{}", from.system, to.system);
        let what = format!("the name of flow {flow_name}, made of its two systems',");
        fits(&what, &flow_name, FLOW_CHARS_MAX, mapping.from.span(), source)?;
        let own = settings.get(flow_name.as_str()).map(|(flow, _)| *flow);
        let at = match flows.iter().position(|f| f.name == flow_name) {
            Some(at) => at,
            None => {
                flows.push(new_flow(
                    parsed.name.get_ref(),
                    [&flow_name, &from.system, &to.system],
                    own,
                    &parsed.defaults,
                    values,
                    systems,
                    source,
                )?);
                flows.len() - 1
            }
        };
        let resolved = resolve_mapping(mapping, from, to, own, parsed, systems, source)?;
        if let Some(flow) = flows.get_mut(at) {
            if flow.mappings.iter().any(|m| m.name == resolved.name) {
                return Err(source.error(
                    mapping.from.span(),
                    format!(
                        "flow {flow_name} already has a mapping named {}; give this one a name",
                        resolved.name
                    ),
                ));
            }
            flow.mappings.push(resolved);
        }
    }
    for (name, (_, span)) in settings {
        if !flows.iter().any(|f| f.name == name) {
            let mut near = file::nearest(name, flows.iter().map(|f| f.name.as_str()));
            if near.is_empty() {
                let names: Vec<&str> = flows.iter().map(|f| f.name.as_str()).collect();
                near = format!("\nhint: the flows of this file are {}", names.join(", "));
            }
            return Err(source.error(span, format!("no mapping belongs to a flow {name}{near}")));
        }
    }
    lead_pushes(&mut flows)?;
    if flows.is_empty() {
        let words = "there are no mappings\nhint: add at least one [[mappings]] table";
        return Err(ConfigError { place: source.0.file.clone(), ..ConfigError::new(words) });
    }
    Ok(flows)
}

/// Refuses what `[defaults]` and `[flows]` cannot say for several mappings, or flows, at once.
fn fit_for_all(parsed: &File, source: &Source) -> Result<()> {
    if let Some((word, span)) = parsed.defaults.of_a_flow() {
        let words = format!(
            "`{word}` belongs to one flow, and is no default of all\n\
             hint: write it below [flows.\"SOURCE:TARGET\"]"
        );
        return Err(source.error(span, words));
    }
    for settings in std::iter::once(&parsed.defaults).chain(parsed.flows.values()) {
        if let Some((word, span)) = settings.of_a_mapping() {
            let words = format!(
                "`{word}` belongs to one mapping, and is no default of several\n\
                 hint: write it in each of its [[mappings]]"
            );
            return Err(source.error(span, words));
        }
    }
    Ok(())
}

/// A table of the target that makes rows worth sending is met in the source's log as what the other direction writes there.
fn lead_pushes(flows: &mut [FlowConfig]) -> Result<()> {
    let reverse: Vec<FlowConfig> = flows.to_vec();
    for flow in flows.iter_mut() {
        let other = reverse.iter().find(|f| f.source == flow.target && f.target == flow.source);
        for push in flow.mappings.iter_mut().flat_map(|m| &mut m.push_when) {
            if push.table.system == flow.source {
                continue;
            }
            let place = push.column.place.show();
            let told = |words: &str| ConfigError { place, ..ConfigError::new(words) };
            let mapping = other
                .into_iter()
                .flat_map(|other| &other.mappings)
                .find(|m| m.from.schema == push.table.schema && m.from.table == push.table.table);
            let Some(mapping) = mapping else {
                return Err(told(&format!(
                    "push_when names a table that no mapping from {} to {} reads",
                    flow.target, flow.source
                )));
            };
            let listed = mapping.columns.iter().flat_map(|c| &c.columns);
            let fed = listed
                .filter(|c| c.plain().as_deref() == Some(&*push.column.text))
                .map(|c| c.target.clone())
                .next();
            let same = mapping.columns.as_ref().is_none_or(|c| c.star.is_some());
            let Some(column) = fed.or_else(|| same.then(|| push.column.text.clone())) else {
                return Err(told(&format!(
                    "push_when: mapping {} does not bring this column to {}",
                    mapping.name, flow.source
                )));
            };
            push.table = mapping.to.clone();
            push.column.text = column;
        }
    }
    Ok(())
}

fn family_of(systems: &BTreeMap<String, SystemConfig>, name: &str) -> Option<&'static Family> {
    systems.get(name).and_then(|system| registry::family(system.url.expose()))
}

fn new_flow(
    pipeline: &str,
    [name, from, to]: [&str; 3],
    own: Option<&file::Settings>,
    defaults: &file::Settings,
    values: &Arc<Values>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<FlowConfig> {
    let family = family_of(systems, from);
    if let Some(own) = own
        && family.is_some_and(|family| !family.has_slots)
        && let Some((word, name)) = [("slot", &own.slot), ("publication", &own.publication)]
            .into_iter()
            .find_map(|(word, name)| Some((word, name.as_ref()?)))
    {
        let words = format!("{from} is read without a {word}\nhint: leave `{word}` out");
        return Err(source.error(name.span(), words));
    }
    let start_at = own.and_then(|f| f.start_at.as_ref());
    if let (Some(text), Some(family)) = (start_at, family) {
        (family.parse_position)(text.get_ref()).map_err(|error| {
            let hint = error.hint().map_or(String::new(), |hint| format!("\nhint: {hint}"));
            source.error(text.span(), format!("{error}{hint}"))
        })?;
    }
    let rows_per_second = own
        .and_then(|f| f.snapshot_rows_per_second.as_ref())
        .or(defaults.snapshot_rows_per_second.as_ref());
    if let Some(none) = rows_per_second.filter(|rows| *rows.get_ref() == 0) {
        let words = "snapshot_rows_per_second is at least 1\n\
             hint: leave it out for copies without a limit, or say snapshot = \"never\" for none";
        return Err(source.error(none.span(), words));
    }
    let made = legal_name(pipeline, to);
    let given = |text: Option<&Spanned<String>>| -> Result<String> {
        match text {
            None => Ok(made.clone()),
            Some(text) if legal(text.get_ref()) => Ok(text.get_ref().clone()),
            Some(text) => Err(source
                .error(text.span(), "a slot or publication name has 1 to 63 of a-z, 0-9 and _")),
        }
    };
    let number = |key: &str, given: Option<&Spanned<u64>>, max: u64, default: usize| match given {
        None => Ok(default),
        Some(given) if (1..=max).contains(given.get_ref()) => Ok(*given.get_ref() as usize),
        Some(given) => Err(source.error(given.span(), format!("{key} is 1 to {max}"))),
    };
    let workers = own.and_then(|f| f.copy_workers.as_ref()).or(defaults.copy_workers.as_ref());
    let default_lanes =
        [from, to].iter().filter_map(|name| Some(family_of(systems, name)?.lanes)).max();
    let lanes = own.and_then(|f| f.lanes.as_ref()).or(defaults.lanes.as_ref());
    Ok(FlowConfig {
        name: name.to_owned(),
        source: from.to_owned(),
        target: to.to_owned(),
        slot: given(own.and_then(|f| f.slot.as_ref()))?,
        publication: given(own.and_then(|f| f.publication.as_ref()))?,
        start_at: start_at.map(|text| text.get_ref().clone()),
        copy_workers: number("copy_workers", workers, COPY_WORKERS_MAX, default_copy_workers())?,
        lanes: number("lanes", lanes, LANES_MAX, default_lanes.unwrap_or(1))?,
        snapshot_rows_per_second: rows_per_second.map(|rows| *rows.get_ref()),
        mappings: Vec::new(),
        values: values.clone(),
    })
}

/// Half as many as there are cores, up to four: where they are few, the servers beside us or our own decoding keep them busy
/// with one already, and several only contend (measured on two).
fn default_copy_workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, 4))
}

fn legal(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// `tidelock_<pipeline>_<target>` in the letters that slots allow; a name that had to be changed or
/// cut gets a hash, so that two pipelines never meet in one name. `-` becomes `_` without a hash in
/// the pipeline's part only, and a target that looks like a hash gets one: what follows the last `_` is
/// then the target or the hash, and nothing else fits.
pub fn legal_name(pipeline: &str, target: &str) -> String {
    let plain = format!("tidelock_{pipeline}_{target}");
    let made = letters(&plain);
    let like_hash = target.len() == 8 && target.bytes().all(|b| b.is_ascii_hexdigit());
    let lossless = plain.replace('-', "_") == made
        && !pipeline.contains('_')
        && !target.contains(['_', '-'])
        && !like_hash;
    if lossless && legal(&made) {
        return made;
    }
    let hash = hex::encode(&Sha256::digest(format!("{pipeline}\0{target}"))[..4]);
    format!("{}_{hash}", made.chars().take(54).collect::<String>())
}

fn letters(plain: &str) -> String {
    plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect()
}

/// Whether [`legal_name`] made this name for this pipeline and one of these systems, or one that the
/// name itself spells. As no two pipelines share a name, a match is proof; a name whose target can no
/// longer be told (gone from the file, with letters that were changed or cut) matches nothing.
pub fn is_name_of<'a>(
    pipeline: &str,
    name: &str,
    mut systems: impl Iterator<Item = &'a String>,
) -> bool {
    if systems.any(|system| legal_name(pipeline, system) == name) {
        return true;
    }
    let prefix = letters(&format!("tidelock_{pipeline}_"));
    let Some(spelt) = name.strip_prefix(&prefix) else { return false };
    let unhashed = spelt.rsplit_once('_').map(|(target, _)| target);
    [Some(spelt), unhashed]
        .into_iter()
        .flatten()
        .flat_map(readings)
        .any(|target| legal_name(pipeline, &target) == name)
}

/// What a system may be called whose name is spelt so: each `_` may have been a `-`.
fn readings(spelt: &str) -> Vec<String> {
    let mut read = vec![String::new()];
    for (n, part) in spelt.split('_').enumerate() {
        // A name of 63 letters could have thousands of readings; people use few such signs.
        let signs: &[&str] = match n {
            0 => &[""],
            1..=6 => &["_", "-"],
            _ => &["_"],
        };
        read = read
            .iter()
            .flat_map(|before| signs.iter().map(move |sign| format!("{before}{sign}{part}")))
            .collect();
    }
    read
}

fn resolve_mapping(
    mapping: &Mapping,
    from: TableRef,
    to: TableRef,
    flow: Option<&file::Settings>,
    parsed: &File,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<MappingConfig> {
    let defaults = &parsed.defaults;
    // The mapping's own word, else the flow's, else that of all.
    macro_rules! said {
        ($word:ident) => {
            (mapping.$word.as_ref())
                .or(flow.and_then(|flow| flow.$word.as_ref()))
                .or(defaults.$word.as_ref())
        };
    }
    // The tables of a wildcard have keys of their own.
    let key = said!(key).filter(|_| from.table != TablePattern::All);
    let own_name = match &from.table {
        TablePattern::Exact(table) => table.clone(),
        TablePattern::All => format!("{}.*", from.schema.as_deref().unwrap_or(&from.system)),
    };
    if (from.table == TablePattern::All) != (to.table == TablePattern::All) {
        return Err(
            source.error(mapping.to.span(), "`from` and `to` must both end in `*` or neither")
        );
    }
    if from.table == TablePattern::All && (mapping.columns.is_some() || mapping.key.is_some()) {
        return Err(
            source.error(mapping.from.span(), "a wildcard mapping takes no `columns` and no `key`")
        );
    }
    if let Some(exclude) = &mapping.exclude
        && from.table != TablePattern::All
    {
        return Err(source.error(
            exclude.span(),
            "`exclude` belongs to a mapping of all tables, such as from = \"erp.public.*\"",
        ));
    }
    if let Some(key) = key.filter(|key| key.get_ref().is_empty()) {
        return Err(source.error(key.span(), "key must name at least one target column"));
    }
    let columns = match &mapping.columns {
        None => None,
        Some(columns) => Some(columns::resolve(columns, source)?),
    };
    // The tables of a wildcard name their own mappings, and no server has a table name that long.
    let name = mapping.name.as_ref().map_or(own_name, |n| n.get_ref().clone());
    let span = mapping.name.as_ref().map_or(mapping.from.span(), Spanned::span);
    fits("the mapping's name", &name, MAPPING_CHARS_MAX, span, source)?;
    let Sourced { tracks, call, edge, push_when } =
        sourced(mapping, said!(edge), (&from, &to), systems, source)?;
    let placed = |columns: &Option<Vec<Spanned<String>>>| -> Option<Vec<Placed>> {
        columns.as_ref().map(|columns| columns.iter().map(|c| source.placed(c)).collect())
    };
    let span = |text: Option<&Spanned<String>>| match text {
        Some(text) => sources::duration(text, source),
        None => Ok(None),
    };
    let schema_changes = said!(schema_changes);
    Ok(MappingConfig {
        name,
        from,
        to,
        key: key.map(|key| key.get_ref().iter().map(|column| column.get_ref().clone()).collect()),
        on_delete: said!(on_delete).map_or(OnDelete::Delete, |value| value.resolve(source)),
        filter: said!(filter).map(|filter| source.placed(filter)),
        on_change: said!(on_change)
            .map(|columns| columns.iter().map(|column| source.placed(column)).collect()),
        validate: said!(validate).into_iter().flatten().map(|c| c.resolve(source)).collect(),
        tracks,
        from_key: placed(&mapping.from_key),
        row_key: placed(&mapping.row_key),
        after: mapping.after.iter().map(|name| source.placed(name)).collect(),
        call,
        edge,
        throttle: span(said!(throttle))?,
        push_when,
        refresh: span(said!(refresh))?,
        places: MappingPlaces {
            from: source.place(mapping.from.span()),
            to: source.place(match mapping.to.get_ref() {
                To::Table(call) => call.call.span(),
                To::Text(_) | To::List(_) => mapping.to.span(),
            }),
            key: key
                .into_iter()
                .flat_map(|key| key.get_ref())
                .map(|column| source.place(column.span()))
                .collect(),
            schema_changes: mapping
                .schema_changes
                .as_ref()
                .or(flow.and_then(|flow| flow.schema_changes.as_ref()))
                .map(|word| source.place(word.span())),
        },
        on_truncate: said!(on_truncate).copied().unwrap_or(OnTruncate::Halt),
        compact: said!(compact).copied(),
        schema_changes: schema_changes.map_or(SchemaChanges::Note, |word| *word.get_ref()),
        snapshot: said!(snapshot).copied().unwrap_or(SnapshotMode::Initial),
        columns,
        rule: ColumnRule {
            on_unrepresentable: said!(on_unrepresentable).copied(),
            time_zone: said!(time_zone).map(|zone| columns::zone(zone, source)).transpose()?,
        },
        exclude: mapping
            .exclude
            .as_ref()
            .map(|e| e.get_ref().clone())
            .or_else(|| flow.and_then(|f| f.exclude.clone()))
            .or_else(|| defaults.exclude.clone())
            .unwrap_or_default(),
    })
}

/// The name in `name` or `"odd name"`; `None` for anything that is more than a name.
pub(super) fn plain_column(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        let name = inner.replace("\"\"", "\u{0}");
        return (!name.contains('"') && !name.is_empty()).then(|| name.replace('\u{0}', "\""));
    }
    let mut chars = text.chars();
    let first = chars.next()?;
    let good = (first.is_alphabetic() || first == '_')
        && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    good.then(|| text.to_owned())
}

/// `system.table`, `system.schema.table`, with `"quoted"` parts and `*` for the table.
pub(super) fn table_ref(
    text: &str,
    span: Range<usize>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<TableRef> {
    let named = TableRef::parse(text).ok_or_else(|| {
        source.error(span.clone(), "expected system.table or system.schema.table")
    })?;
    let system = &named.system;
    if !systems.contains_key(system) {
        let near = systems.keys().max_by(|a, b| {
            strsim::jaro_winkler(a, system).total_cmp(&strsim::jaro_winkler(b, system))
        });
        let hint = near.map_or(String::new(), |n| format!("\nhint: did you mean `{n}`?"));
        return Err(source.error(span, format!("there is no system {system}{hint}")));
    }
    Ok(named)
}

/// A routine of a system.
fn routine(
    text: &Spanned<String>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<TableRef> {
    let named = table_ref(text.get_ref(), text.span(), systems, source)?;
    if named.table == TablePattern::All {
        return Err(source.error(text.span(), "expected system.routine or system.schema.routine"));
    }
    Ok(named)
}

/// What a mapping says of the rows of a view, and of the routines that take them.
struct Sourced {
    tracks: Vec<sources::TrackedTable>,
    call: Option<sources::CallConfig>,
    edge: Option<sources::EdgeConfig>,
    push_when: Vec<sources::PushWhen>,
}

fn sourced(
    mapping: &Mapping,
    edge: Option<&Spanned<sources::EdgeValue>>,
    (from, to): (&TableRef, &TableRef),
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<Sourced> {
    let named = |name: &Spanned<String>| -> Result<TableRef> {
        table_ref(name.get_ref(), name.span(), systems, source)
    };
    let tracks = match &mapping.tracks {
        None => Vec::new(),
        Some(tables) => sources::tracks(tables, named, source)?,
    };
    if let Some(tracked) = tracks.iter().find(|t| t.table.system != from.system) {
        return Err(source.error(
            tracked.place.span(),
            format!("a track is a table of the source, which is {}", from.system),
        ));
    }
    let call = match mapping.to.get_ref() {
        To::Text(_) | To::List(_) => None,
        To::Table(call) => {
            let delete = match &call.delete {
                None => None,
                Some(name) => {
                    let delete = routine(name, systems, source)?;
                    if delete.system != to.system {
                        return Err(source.error(
                            name.span(),
                            format!("both routines must be of one system, {}", to.system),
                        ));
                    }
                    Some((delete, source.place(name.span())))
                }
            };
            Some(sources::CallConfig {
                delete,
                rows: call.rows.as_ref().map(|rows| source.placed(rows)),
            })
        }
    };
    let edge = edge.and_then(|edge| match edge.get_ref() {
        sources::EdgeValue::Text(text) => Some(sources::EdgeConfig {
            rise: Placed { text: text.clone(), place: source.place(edge.span()) },
            fall: None,
            hysteresis: None,
        }),
        sources::EdgeValue::Table(both) => Some(sources::EdgeConfig {
            rise: source.placed(&both.rise),
            fall: both.fall.as_ref().map(|fall| source.placed(fall)),
            hysteresis: both.hysteresis.as_ref().map(|text| source.placed(text)),
        }),
        sources::EdgeValue::List(_) => None,
    });
    let push_when = mapping
        .push_when
        .iter()
        .map(|(table, column)| {
            Ok(sources::PushWhen { table: named(table)?, column: source.placed(column) })
        })
        .collect::<Result<_>>()?;
    Ok(Sourced { tracks, call, edge, push_when })
}

/// The parts of a dotted name and whether each was quoted; `None` if it is malformed.
pub(super) fn split_name(text: &str) -> Option<Vec<(String, bool)>> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut part = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        if quoted {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    '"' => break,
                    c => part.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != '.' && *c != '"') {
                part.push(c);
            }
        }
        if part.is_empty() {
            return None;
        }
        parts.push((part, quoted));
        match chars.next() {
            None => return Some(parts),
            Some('.') => {}
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
version = 1
name = "erp-crm"
listen = "127.0.0.1:7373"
[systems.erp]
url = "postgres://tidelock@127.0.0.1/erp"
[systems.crm]
url = "mariadb://tidelock:s3cret@crm.example/crm"
[[mappings]]
from = "crm.orders"
to = "erp.sale.contract"
key = ["contract_no"]
[mappings.columns]
contract_no = "order_no"
"*" = "*"
[[mappings]]
from = "erp.public.*"
to = "crm.*"
exclude = ["tmp_%"]
"#;

    #[test]
    fn mappings_sort_into_flows_with_legal_names() {
        let config = Config::parse(GOOD, "t.toml").unwrap();
        let names: Vec<&str> = config.flows.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["crm:erp", "erp:crm"]);
        assert_eq!(config.flows[1].slot, "tidelock_erp_crm_crm");
        assert_eq!(
            config.flows[0].mappings[0].columns.as_ref().map(|c| c.star.is_some()),
            Some(true)
        );
        assert_eq!(config.systems["erp"].tls.mode, TlsMode::Disable);
        assert_eq!(config.systems["crm"].tls.mode, TlsMode::VerifyFull);
    }

    #[test]
    fn tls_is_off_only_where_the_connector_itself_would_go_nowhere_else() {
        let mode = |url: &str| {
            let text = GOOD.replace("postgres://tidelock@127.0.0.1/erp", url);
            Config::parse(&text, "t.toml").map(|c| c.systems["erp"].tls.mode)
        };
        for (url, expected) in [
            ("postgres:///erp?host=erp-db.example&user=u", TlsMode::VerifyFull),
            ("postgres://u@localhost/erp?host=erp-db.example", TlsMode::VerifyFull),
            ("postgres://u@erp-db.example/erp", TlsMode::VerifyFull),
            ("postgresql://u@%2Frun%2Fpostgresql/erp", TlsMode::Disable),
            ("postgres:///erp?host=/run/postgresql&user=u", TlsMode::Disable),
            ("postgres://u@erp-db.example/erp?host=127.0.0.1", TlsMode::Disable),
        ] {
            assert_eq!(mode(url), Ok(expected), "{url}");
        }
        let text = GOOD.replace("[systems.crm]", "tls = { cert_file = \"/x\" }\n[systems.crm]");
        let error = Config::parse(&text, "t.toml").unwrap_err();
        assert!(error.place.starts_with("t.toml:7:7\n") && !error.hint.is_empty(), "{error}");
        let text = GOOD.replace("[systems.crm]", "tls = {}\n[systems.crm]");
        let config = Config::parse(&text, "t.toml").expect("the default mode");
        assert_eq!(config.systems["erp"].tls.mode, TlsMode::VerifyFull, "asked for, so not off");
    }

    #[test]
    fn who_this_process_is_stands_in_the_list_of_users() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\ntide:x:42:42::/:/bin/false\n";
        assert_eq!(user_of(users, 42).as_deref(), Some("tide"));
        assert_eq!(user_of(users, 43), None);
    }

    #[test]
    fn a_mappings_word_wins_over_its_flows_and_that_over_the_defaults() {
        let text = format!(
            "{TWO}throttle = \"0s\"\nvalidate = []\n[[mappings]]\nfrom = \"crm.u\"\nto = \"erp.u\"\n\
             where = \"mine\"\nkey = [\"mine\"]\n[defaults]\nwhere = \"everyone\"\nkey = [\"id\"]\nedge = \"a > 1\"\n\
             throttle = \"60s\"\nrefresh = \"1h\"\non_change = [\"a\"]\nvalidate = [{{ rule = \"a > 0\" }}]\n\
             [flows.\"crm:erp\"]\nwhere = \"flows\"\non_change = [\"b\", \"c\"]\n"
        );
        let config = Config::parse(&text, "t.toml").expect("good");
        let mapping = |flow: usize, at: usize| &config.flows[flow].mappings[at];
        let filter = |m: &MappingConfig| m.filter.as_ref().map(|f| f.text.clone());
        assert_eq!(filter(mapping(0, 0)).as_deref(), Some("flows"));
        assert_eq!(filter(mapping(0, 1)).as_deref(), Some("mine"));
        assert_eq!(filter(mapping(1, 0)).as_deref(), Some("everyone"));
        assert_eq!(mapping(0, 0).on_change.as_ref().map(Vec::len), Some(2));
        assert_eq!(mapping(0, 1).key.as_deref(), Some(&["mine".to_owned()][..]));
        let last = mapping(1, 0);
        assert_eq!(last.key.as_deref(), Some(&["id".to_owned()][..]));
        assert!(last.throttle.is_none() && last.validate.is_empty(), "said no: {last:?}");
        assert!(last.edge.is_some() && last.refresh.is_some(), "{last:?}");
        assert!(mapping(0, 0).throttle.is_some() && mapping(0, 0).validate.len() == 1);
        let place = last.filter.as_ref().map(|f| f.place.show()).unwrap_or_default();
        assert!(place.contains("| where = \"everyone\""), "{place}");
        let all = format!(
            "{TWO}[[mappings]]\nfrom = \"crm.*\"\nto = \"erp.*\"\n[defaults]\nkey = [\"id\"]\n"
        );
        let config = Config::parse(&all, "t.toml").expect("good");
        assert_eq!(config.flows[0].mappings[1].key, None, "tables of a wildcard have their own");
    }

    #[test]
    fn errors_name_the_place_and_the_nearest_name_and_no_secret() {
        let text = GOOD.replace("exclude", "exclud");
        let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
        assert!(error.starts_with("t.toml:19:1: unknown field"), "{error}");
        assert!(error.contains("did you mean `exclude`?"), "{error}");
        let text = GOOD.replace("from = \"crm.orders\"", "from = \"cmr.orders\"");
        let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
        assert!(error.starts_with("t.toml:10:8: there is no system cmr"), "{error}");
        let text = GOOD.replace("mariadb://", "oracle://");
        let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
        assert!(error.contains("must begin with one of") && !error.contains("s3cret"), "{error}");
    }

    const TWO: &str = "version = 1\nname = \"p\"\nstate_dir = \"/tmp/x\"\n[systems.erp]\nurl = \"postgres://u@h/d\"\n\
        [systems.crm]\nurl = \"mariadb://u@h/d\"\n[[mappings]]\nfrom = \"crm.t\"\nto = \"erp.t\"\n\
        [[mappings]]\nname = \"b\"\nfrom = \"erp.t\"\nto = \"crm.t\"\nsnapshot = \"never\"\n";

    #[test]
    fn a_flows_number_of_copy_workers_wins_over_the_defaults_and_has_limits() {
        let workers = |rest: &str| {
            let config = Config::parse(&format!("{TWO}{rest}"), "t.toml");
            config.map(|c| c.flows.iter().map(|f| f.copy_workers).collect::<Vec<_>>())
        };
        let rest = "[defaults]\ncopy_workers = 3\n[flows.\"crm:erp\"]\ncopy_workers = 32\n";
        assert_eq!(workers(rest).expect("good"), [32, 3]);
        assert!(workers("").expect("good").iter().all(|n| (1..=4).contains(n)));
        for wrong in ["0", "33"] {
            let error =
                workers(&format!("[defaults]\ncopy_workers = {wrong}\n")).unwrap_err().to_string();
            assert!(error.contains("copy_workers is 1 to 32"), "{error}");
        }
    }

    #[test]
    fn so_does_its_number_of_lanes() {
        let lanes = |rest: &str| {
            let config = Config::parse(&format!("{TWO}{rest}"), "t.toml");
            config.map(|c| c.flows.iter().map(|f| f.lanes).collect::<Vec<_>>())
        };
        let rest = "[defaults]\nlanes = 3\n[flows.\"crm:erp\"]\nlanes = 16\n";
        assert_eq!(lanes(rest).expect("good"), [16, 3]);
        assert_eq!(lanes("").expect("good"), [2, 2]);
        let same = TWO.replace("mariadb://", "postgres://");
        let same = Config::parse(&same, "t.toml").expect("good");
        assert!(same.flows.iter().all(|flow| flow.lanes == 1));
        let error = lanes("[defaults]\nlanes = 17\n").unwrap_err().to_string();
        assert!(error.contains("lanes is 1 to 16"), "{error}");
    }

    #[test]
    fn what_cannot_work_or_is_not_there_yet_is_told_at_its_place() {
        let refused = |from: &str, to: &str| {
            assert!(GOOD.contains(from), "{from}");
            Config::parse(&GOOD.replacen(from, to, 1), "t.toml").unwrap_err().to_string()
        };
        let key = "key = [\"contract_no\"]";
        for (from, to, place, words) in [
            ("127.0.0.1:7373", "127.0.0.1", "t.toml:4:10", "expected host:port"),
            ("127.0.0.1:7373", "::1:7373", "t.toml:4:10", "expected host:port"),
            ("127.0.0.1:7373", "localhost:99999", "t.toml:4:10", "expected host:port"),
            ("tidelock:s3cret@", "tidelock:s3#cret@", "t.toml:8:7", "percent-encoded"),
            (key, "exclude = [\"x\"]", "t.toml:12:11", "`exclude` belongs to"),
            (key, "on_delete = { sett = { a = \"1\" } }", "t.toml:12:", "did you mean `set`?"),
            (key, "on_delete = \"delte\"", "t.toml:12:", "did you mean `delete`?"),
            (key, "validate = [{ says = \"x\" }]", "t.toml:12:", "missing field `rule`"),
            (
                "version = 1",
                "version = 1\nflows.\"crm:erb\".slot = \"x\"",
                "t.toml:3:7",
                "did you mean `crm:erp`?",
            ),
            (
                "[systems.crm]",
                "[systems.crm]\ntls = { mode = \"verify_full\" }",
                "t.toml:8:",
                "did you mean `verify-full`?",
            ),
        ] {
            let text = refused(from, to);
            assert!(text.starts_with(place) && text.contains(words), "{to}: {text}");
            assert!(!text.contains("cret"), "{text}");
        }
        assert!(Config::parse(&GOOD.replace("127.0.0.1:7373", "[::1]:7373"), "t").is_ok());
    }

    #[test]
    fn a_column_may_say_what_becomes_of_its_values() {
        let with =
            |line: &str| Config::parse(&GOOD.replace("contract_no = \"order_no\"", line), "t.toml");
        let long = "contract_no = { value = \"order_no\", on_unrepresentable = \"null\", time_zone = \"Asia/Shanghai\" }";
        let config = with(long).expect("the long form");
        let columns = config.flows[0].mappings[0].columns.as_ref().expect("columns");
        let column = columns.columns.iter().find(|c| c.target == "contract_no").expect("it");
        assert_eq!(column.value.text, "order_no");
        assert_eq!(column.rule.on_unrepresentable, Some(crate::config::OnUnrepresentable::Null));
        assert!(column.rule.time_zone.is_some());
        for (slip, place, words) in [
            (long.replace("null", "nul"), "t.toml:14:", "did you mean `null`?"),
            (
                long.replace("Asia/Shanghai", "Asia/Shangai"),
                "t.toml:14:",
                "no time zone of this name",
            ),
            (long.replace("value", "valu"), "t.toml:14:", "did you mean `value`?"),
            ("contract_no = 5".to_owned(), "t.toml:14:", "a source column, an expression"),
            (
                "contract_no = \"  \"".to_owned(),
                "t.toml:14:",
                "expected a source column or an expression",
            ),
        ] {
            let error = with(&slip).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(words), "{slip}: {error}");
        }
    }

    /// The example, with secrets where people put them.
    fn example() -> String {
        include_str!("../../examples/erp-crm/tidelock.toml")
            .replace("{ env = \"ERP_URL\" }", "\"postgres://tidelock:s3cret@erp-db:5432/erp\"")
            .replace("{ env = \"CRM_URL\" }", "\"mysql:///crm?password=s3cret&socket=/run/x\"")
    }

    #[test]
    fn fuzz_damaged_configurations_give_an_answer() {
        let example = example();
        let parts = example.split_inclusive("\n\n").map(|part| part.as_bytes().to_vec());
        let corpus: Vec<Vec<u8>> = [example.as_bytes().to_vec(), GOOD.as_bytes().to_vec()]
            .into_iter()
            .chain(parts)
            .collect();
        let bytes_max = |length: usize| 512 * length as u64 + (256 << 10);
        tidelock_fuzz::fuzz("config", &corpus, bytes_max, |bytes| {
            let _ = Config::parse(&String::from_utf8_lossy(bytes), "t.toml");
        });
    }

    #[test]
    fn no_single_slip_in_a_url_shows_its_password() {
        let example = example();
        for line in example.lines().filter(|line| line.contains("s3cret")) {
            for at in 0..line.len() {
                for slip in ["", "\"", "#", " ", "=", "x", ":", "@"] {
                    for end in [at, at + 1] {
                        let slipped = format!("{}{slip}{}", &line[..at], &line[end..]);
                        let text = example.replace(line, &slipped);
                        if let Err(error) = Config::parse(&text, "t.toml") {
                            assert!(!error.to_string().contains("s3cret"), "{slipped}: {error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_password_written_where_none_belongs_is_not_shown() {
        for line in [
            "password = \"s3cret\"",
            "passwort = \"s3cret\"",
            "password = \"s3cret",
            "password = \"s3cret of the file\"",
            "mask_key = \"s3cret\"",
        ] {
            let text = GOOD.replacen("[systems.crm]", &format!("{line}\n[systems.crm]"), 1);
            let error = Config::parse(&text, "t.toml").unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("t.toml:7:"), "{error}");
        }
    }

    #[test]
    fn names_that_our_tables_cannot_hold_are_refused_at_their_place() {
        let with = |from: &str, to: &str| Config::parse(&GOOD.replace(from, to), "t.toml");
        let refused = |from: &str, to: &str| with(from, to).unwrap_err().to_string();
        let pipeline = |name: &str| format!("name = \"{name}\"");
        assert!(with("name = \"erp-crm\"", &pipeline(&"ü".repeat(64))).is_ok());
        let text = refused("name = \"erp-crm\"", &pipeline(&"ü".repeat(65)));
        assert!(text.starts_with("t.toml:3:8: the pipeline's name has 65 characters"), "{text}");
        let key = "key = [\"contract_no\"]";
        let mapping = |name: &str| format!("name = \"{name}\"\n{key}");
        assert!(with(key, &mapping(&"ü".repeat(190))).is_ok());
        let text = refused(key, &mapping(&"ü".repeat(191)));
        assert!(text.starts_with("t.toml:12:8: the mapping's name has 191 characters"), "{text}");
        assert!(text.contains("hint: choose another name"), "{text}");
        // An empty name is the flow's own in our tables.
        assert!(refused(key, &mapping("")).contains("has 0 characters"));
        let table = format!("from = \"crm.{}\"", "t".repeat(200));
        let text = refused("from = \"crm.orders\"", &table);
        assert!(text.starts_with("t.toml:10:8: the mapping's name has 200 characters"), "{text}");
        let long = "c".repeat(125);
        let text = GOOD.replace("erp-crm", "p").replace("crm", &long);
        let text = Config::parse(&text, "t.toml").unwrap_err().to_string();
        assert!(text.contains("made of its two systems', has 129 characters"), "{text}");
    }

    #[test]
    fn names_that_had_to_change_stay_apart() {
        assert_ne!(legal_name("a_b", "c"), legal_name("a", "b_c"));
        assert_ne!(legal_name("a-b", "c"), legal_name("a_b", "c"));
        assert_ne!(legal_name("a-b", "c"), legal_name("a", "b-c"));
        assert!(legal(&legal_name(&"x".repeat(64), "Ä")));
    }

    #[test]
    fn a_name_is_known_as_the_pipelines_own_and_no_other() {
        let systems = ["CRM".to_owned()];
        let pipelines = ["a", "a-b", "a_b", "a-b-c", "A"];
        for (owner, target) in
            pipelines.iter().flat_map(|p| ["c", "b-c", "b_c", "CRM"].map(|t| (p, t)))
        {
            let name = legal_name(owner, target);
            for pipeline in pipelines {
                let own = is_name_of(pipeline, &name, systems.iter());
                assert_eq!(own, pipeline == *owner, "{name} of {owner}, asked by {pipeline}");
            }
        }
        let long = "p".repeat(64);
        assert!(is_name_of(&long, &legal_name(&long, "CRM"), systems.iter()));
        assert!(!is_name_of("a", "tidelock_a_b_c", systems.iter()));
        assert_eq!(readings(&"_".repeat(60)).len(), 64);
    }

    #[test]
    fn odd_table_names_are_quoted() {
        let parts = split_name("crm.\"Order \"\"Lines\"\".x\"").unwrap();
        assert_eq!(parts[1].0, "Order \"Lines\".x");
        assert!(split_name("crm..x").is_none());
        assert!(split_name("crm.\"x").is_none());
    }
}
