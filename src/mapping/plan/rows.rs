//! What a mapping says of rows, checked against both catalogs.

use std::time::Duration;

use tidelock_core::{
    Connector, DataType, Finding, Generated, RowIdentity, Table, TableKind, TableName,
};

use super::Computed;
use super::pairs::{Pair, no_column};
use crate::config::{Check, EdgeConfig, MappingConfig, OnDelete, Place, Placed};
use crate::mapping::computed::{Origin, Wanted, finding};
use crate::mapping::convert::compatible;

/// Which rows go, what must hold of them, and what their end becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowPlan {
    /// The condition that rows must meet.
    pub filter: Option<Placed>,
    /// The source columns whose change alone makes an update worth sending.
    pub on_change: Option<Vec<String>>,
    /// What must hold of rows that are sent.
    pub checks: Vec<Check>,
    /// When a change is worth sending.
    pub edge: Option<EdgeConfig>,
    /// How long a key rests between two of its changes.
    pub throttle: Option<Duration>,
    /// The tables whose rows make a key worth sending, and their columns that hold it.
    pub pushes: Vec<(TableName, String)>,
    /// The source's column that feeds the mapping's key, by which these are found.
    pub pushed: Option<PushedBy>,
    /// How often what passes with time is looked at again.
    pub refresh: Option<Duration>,
    /// What the end of a row becomes.
    pub end: EndPlan,
    /// The source columns that are read for all this.
    pub reads: Vec<String>,
}

/// A column of the source that feeds the mapping's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedBy {
    /// The column.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
}

/// What the end of a row becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EndPlan {
    /// A delete.
    #[default]
    Delete,
    /// Nothing.
    Ignore,
    /// An update of these target columns.
    Set(Vec<(String, Computed)>),
}

impl EndPlan {
    /// The target columns that are set.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let set = match self {
            EndPlan::Set(columns) => columns.as_slice(),
            EndPlan::Delete | EndPlan::Ignore => &[],
        };
        set.iter().map(|(name, _)| name.as_str())
    }
}

impl RowPlan {
    /// Whether some changes are kept back.
    pub fn is_gated(&self) -> bool {
        self.edge.is_some() || self.throttle.is_some()
    }

    /// The texts of its conditions.
    pub fn conditions(&self) -> impl Iterator<Item = &str> {
        let edges = self
            .edge
            .iter()
            .flat_map(|edge| std::iter::once(&edge.rise).chain(&edge.fall).chain(&edge.hysteresis));
        let checks = self.checks.iter().map(|check| &check.rule);
        self.filter.iter().chain(checks).chain(edges).map(|text| text.text.as_str())
    }

    /// Whether every row goes as it is.
    pub fn takes_all(&self) -> bool {
        self.filter.is_none() && self.checks.is_empty()
    }
}

pub(super) fn plan_rows(
    mapping: &MappingConfig,
    origin: &Origin<'_>,
    target: &Table,
    pairs: &[Pair<'_>],
    source_system: &dyn Connector,
    problems: &mut Vec<Finding>,
) -> RowPlan {
    let mut rows = RowPlan { refresh: mapping.refresh, ..RowPlan::default() };
    if let Some(filter) = &mapping.filter {
        rows.condition(filter, "where", origin, problems);
        rows.filter = Some(filter.clone());
    }
    for check in &mapping.validate {
        rows.condition(&check.rule, "validate", origin, problems);
        rows.checks.push(check.clone());
    }
    rows.throttle = mapping.throttle;
    if let Some(edge) = &mapping.edge {
        let ends = [Some(&edge.rise), edge.fall.as_ref(), edge.hysteresis.as_ref()];
        for text in ends.into_iter().flatten() {
            rows.condition(text, "edge", origin, problems);
        }
        rows.edge = Some(edge.clone());
    }
    if let Some(columns) = &mapping.on_change {
        for column in columns.iter().filter(|c| origin.table.column(&c.text).is_none()) {
            let finding = no_column(origin.table, &column.text, "source");
            problems.push(placed(finding, &column.place));
        }
        let names: Vec<String> = columns.iter().map(|c| c.text.clone()).collect();
        if let RowIdentity::Columns(identity) = &origin.table.identity
            && names.iter().any(|name| !identity.contains(name))
        {
            problems.push(
                Finding::warning(format!(
                    "on_change: the log of {} does not carry old values, so every update passes for a change",
                    origin.table.name
                ))
                .hint("set REPLICA IDENTITY FULL (PostgreSQL)"),
            );
        }
        rows.reads.extend(names.iter().cloned());
        rows.on_change = Some(names);
    }
    rows.end = match &mapping.on_delete {
        OnDelete::Delete => EndPlan::Delete,
        OnDelete::Ignore => EndPlan::Ignore,
        OnDelete::Set(columns) => {
            let mut set = Vec::new();
            for column in columns {
                let Some(to) = target.column(&column.target.text) else {
                    let finding = no_column(target, &column.target.text, "target");
                    problems.push(placed(finding, &column.target.place));
                    continue;
                };
                if to.generated == Generated::Always {
                    problems.push(placed(
                        Finding::problem(format!(
                            "on_delete: {}.{} is computed by the server and cannot be written",
                            target.name, to.name
                        )),
                        &column.target.place,
                    ));
                    continue;
                }
                let what = format!("on_delete, {}", to.name);
                let Some((computed, from)) = super::pairs::computed(
                    &column.value,
                    &to.data_type,
                    origin,
                    (Wanted::Value, &what),
                    problems,
                ) else {
                    continue;
                };
                if let Err(why) = compatible(&from, &to.data_type, &Default::default()) {
                    problems.push(placed(
                        Finding::problem(format!("{what}: {why}"))
                            .hint(format!("cast it to what {} is: {}", to.name, to.native)),
                        &column.value.place,
                    ));
                }
                if pairs.iter().all(|p| p.target.name != to.name) {
                    problems.push(placed(
                        Finding::warning(format!(
                            "on_delete sets {}.{}, and nothing sets it back when the row comes again",
                            target.name, to.name
                        ))
                        .hint(format!("map {} too in [mappings.columns]", to.name)),
                        &column.target.place,
                    ));
                }
                if let Some(finding) = untold(origin.table, &computed.reads, &what, source_system) {
                    problems.push(placed(finding, &column.value.place));
                }
                rows.reads.extend(computed.reads.iter().cloned());
                set.push((to.name.clone(), computed));
            }
            EndPlan::Set(set)
        }
    };
    rows
}

/// A row that is deleted is told by what its log carries of it alone: what else is looked at would stop the mapping at the first delete.
fn untold(
    source: &Table,
    reads: &[String],
    what: &str,
    source_system: &dyn Connector,
) -> Option<Finding> {
    let RowIdentity::Columns(identity) = &source.identity else { return None };
    if source.kind == TableKind::View {
        return None;
    }
    let lacking: Vec<String> = reads.iter().filter(|c| !identity.contains(c)).cloned().collect();
    if lacking.is_empty() {
        return None;
    }
    let finding = Finding::problem(format!(
        "{what}: the log of {} does not carry {} of a row that is deleted",
        source.name,
        lacking.join(", ")
    ));
    Some(source_system.mend_identity(source, &lacking, finding))
}

/// A finding with the place in the file that it is about.
pub(super) fn placed(finding: Finding, place: &Place) -> Finding {
    finding.place(place.show())
}

impl RowPlan {
    fn condition(
        &mut self,
        text: &Placed,
        what: &str,
        origin: &Origin<'_>,
        problems: &mut Vec<Finding>,
    ) {
        let wanted = if what == "validate" { Wanted::Rule } else { Wanted::Condition };
        match origin.compile(text, wanted, what) {
            Err(fault) => problems.push(fault),
            Ok(expr) => {
                for warning in expr.warnings() {
                    let mut finding = finding(text, warning, what);
                    finding.severity = tidelock_core::Severity::Warning;
                    problems.push(finding);
                }
                if expr.uses_clock() && what == "where" && self.refresh.is_none() {
                    problems.push(placed(
                        Finding::problem(format!(
                            "{what}: what it says changes as time passes, and nothing would tell the target"
                        ))
                        .hint("say how often rows are looked at again: refresh = \"1h\""),
                        &text.place,
                    ));
                }
                self.reads.extend(origin.names(expr.fields()));
                self.reads.extend(origin.names(expr.old_fields()));
            }
        }
    }
}
