//! Mappings of both directions that write the same columns, and those that read a table.

use std::sync::Arc;

use tidelock_core::{Code, Connector, Error, Result, TableName};

use crate::config::{FlowConfig, MappingConfig, SnapshotMode, TablePattern, TableRef};
use crate::flow::{FlowContext, start};
use crate::mapping::MappingPlan;
use crate::mapping::plan::{like, mirrored};

/// A mapping of ours and one of the other direction that write one column both ways.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Our mapping.
    pub ours: Arc<str>,
    /// The other flow.
    pub flow: String,
    /// Its mapping.
    pub theirs: Arc<str>,
    /// How theirs is copied.
    pub snapshot: SnapshotMode,
}

/// The mappings of the other direction that write the same columns.
pub(in crate::flow) async fn mirrors(
    context: &FlowContext,
    plans: &[Arc<MappingPlan>],
) -> Result<Vec<Mirror>> {
    let Some(reverse) = context.reverse.as_ref().and_then(|r| r.config()) else {
        return Ok(Vec::new());
    };
    // Its faults are its own flow's business.
    let theirs = start::plan(&reverse, &*context.target, &*context.source, true).await?;
    let mut mirrors = mirrors_of(plans, &theirs.mappings, &reverse.name);
    // Of one that cannot be planned nobody knows which columns it writes: it is taken to write ours.
    for (name, _) in &theirs.failed {
        let Some(config) = reverse.mappings.iter().find(|m| is_named(m, name)) else { continue };
        let reads =
            |table: &TableName| is_of(&config.from, table, context.target.default_schema(), name);
        let writes =
            |table: &TableName| is_of(&config.to, table, context.source.default_schema(), name);
        for plan in plans.iter().filter(|p| reads(&p.target.name) && writes(&p.source)) {
            mirrors.push(Mirror {
                ours: plan.name.clone(),
                flow: reverse.name.clone(),
                theirs: name.as_str().into(),
                snapshot: config.snapshot,
            });
        }
    }
    Ok(mirrors)
}

/// The mappings of a flow that read a table of its source: its rows, or those of a view that is made of it.
pub fn readers(flow: &FlowConfig, table: &TableName, source: &dyn Connector) -> Vec<String> {
    let schema = source.default_schema();
    let reads = |mapping: &MappingConfig| {
        let name = match mapping.from.table {
            TablePattern::All => &table.name,
            TablePattern::Exact(_) => &mapping.name,
        };
        let is_excluded = || mapping.exclude.iter().any(|pattern| like(pattern, &table.name));
        let from = is_of(&mapping.from, table, schema, name) && !is_excluded();
        let tracks = mapping.tracks.iter().any(|t| is_of(&t.table, table, schema, name));
        (from || tracks).then(|| name.clone())
    };
    flow.mappings.iter().filter_map(reads).collect()
}

/// Whether a mapping of this name comes of what the file says here: a wildcard's are named after their tables.
fn is_named(mapping: &MappingConfig, name: &str) -> bool {
    mapping.name == name || mapping.from.table == TablePattern::All
}

/// Whether a table is what the file names, of a mapping of this name.
fn is_of(named: &TableRef, table: &TableName, schema: &str, mapping: &str) -> bool {
    let is_table = match &named.table {
        TablePattern::Exact(name) => *name == table.name,
        TablePattern::All => table.name == mapping,
    };
    is_table && named.schema.as_deref().unwrap_or(schema) == table.schema
}

/// Our mappings that write the same columns as mappings of the other flow do the other way round.
pub fn mirrors_of(
    ours: &[Arc<MappingPlan>],
    theirs: &[Arc<MappingPlan>],
    flow: &str,
) -> Vec<Mirror> {
    let found = mirrored(ours, theirs).into_iter().filter_map(|(i, j)| {
        let (ours, theirs) = (ours.get(i)?, theirs.get(j)?);
        Some(Mirror {
            ours: ours.name.clone(),
            flow: flow.to_owned(),
            theirs: theirs.name.clone(),
            snapshot: theirs.snapshot,
        })
    });
    found.collect()
}

/// Two first copies that would swap values.
pub fn both_initial(ours: &str, mirror: &Mirror) -> Error {
    Error::setup(
        Code::Catalog,
        format!(
            "mapping {ours} and mapping {} of flow {} copy the same columns into each other",
            mirror.theirs, mirror.flow
        ),
    )
    .with_hint(
        "set snapshot = \"never\" for the side whose rows are to be overwritten by the other's",
    )
}
