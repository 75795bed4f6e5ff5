//! Sorts the mappings of the file into flows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_spanned::Spanned;
use tidelock_core::{FLOW_CHARS_MAX, Family, SystemConfig};

use super::mapping::resolve_mapping;
use super::names::{legal, legal_name, routine, table_ref};
use super::{Result, Source, fits};
use crate::config::file::{self, File};
use crate::config::sources::To;
use crate::config::{ConfigError, FlowConfig, Values};
use crate::registry;

/// Each is a session at both ends.
const COPY_WORKERS_MAX: u64 = 32;
/// Sessions that write the log at once, at most.
const LANES_MAX: u64 = 16;

pub(super) fn resolve_flows(
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
