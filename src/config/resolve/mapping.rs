//! One mapping of the file, with what its flow and the defaults say for it.

use std::collections::BTreeMap;

use serde_spanned::Spanned;
use tidelock_core::{MAPPING_CHARS_MAX, SystemConfig};

use super::names::{routine, table_ref};
use super::{Result, Source, fits};
use crate::config::columns;
use crate::config::file::{self, File, Mapping};
use crate::config::sources::{self, To};
use crate::config::{
    ColumnRule, MappingConfig, MappingPlaces, OnDelete, OnTruncate, Placed, SchemaChanges,
    SnapshotMode, TablePattern, TableRef,
};

pub(super) fn resolve_mapping(
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
