//! Both ends of flows looked at and their mappings compiled, for commands that show what a mapping does and
//! change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelock_core::{
    Code, Connector, Error, ErrorKind, Finding, Result, RoutineKind, Table, TableKind,
};

use crate::config::file::nearest;
use crate::config::{Config, FlowConfig, Placed, TablePattern};
use crate::expr::Expr;
use crate::flow::copies;
use crate::flow::start::{self, Seen};
use crate::mapping::computed::{Origin, Wanted, compile_column};
use crate::mapping::{MappingPlan, PlanOutcome};
use crate::registry;

/// A flow with its ends and what came of compiling its mappings.
pub struct Surveyed<'c> {
    /// The flow.
    pub flow: &'c FlowConfig,
    /// Its source.
    pub source: Arc<dyn Connector>,
    /// Its target.
    pub target: Arc<dyn Connector>,
    /// What the catalogs showed.
    pub seen: Seen,
    /// What came of it.
    pub outcome: PlanOutcome,
}

/// A mapping that was asked for by name.
pub struct Chosen<'s> {
    /// Its flow.
    pub of: &'s Surveyed<'s>,
    /// The mapping; if it cannot run, what stands in the way.
    pub plan: std::result::Result<&'s Arc<MappingPlan>, Vec<&'s Finding>>,
    /// Its name.
    pub name: String,
}

/// Surveys the flows that `takes`.
pub async fn survey<'c>(
    config: &'c Config,
    takes: impl Fn(&FlowConfig) -> bool,
) -> Result<Vec<Surveyed<'c>>> {
    let mut systems: BTreeMap<&str, Arc<dyn Connector>> = BTreeMap::new();
    let mut surveyed = Vec::new();
    for flow in config.flows.iter().filter(|flow| takes(flow)) {
        for name in [&flow.source, &flow.target] {
            let system = config.systems.get(name);
            let system = system.ok_or_else(|| Error::bug("a flow without its system"))?;
            if !systems.contains_key(name.as_str()) {
                let connector = registry::connector(system)?;
                connector.identify().await.map_err(|e| e.at(name))?;
                systems.insert(name, connector);
            }
        }
        let end = |name: &String| systems.get(name.as_str()).cloned();
        let (Some(source), Some(target)) = (end(&flow.source), end(&flow.target)) else {
            return Err(Error::bug("a flow without its system"));
        };
        let two_way = config.flows.iter().any(|other| other.source == flow.target);
        let (outcome, seen) = start::plan_seen(flow, &*source, &*target, two_way).await?;
        surveyed.push(Surveyed { flow, source, target, seen, outcome });
    }
    Ok(surveyed)
}

/// Whether a flow may have a mapping of this name, as far as the file tells.
pub fn may_have(flow: &FlowConfig, given: &str) -> bool {
    let own = own_name(flow, given);
    flow.mappings.iter().any(|m| m.name == own || m.from.table == TablePattern::All)
}

fn own_name<'g>(flow: &FlowConfig, given: &'g str) -> &'g str {
    given.strip_prefix(&flow.name).and_then(|rest| rest.strip_prefix('/')).unwrap_or(given)
}

/// The mappings that a name on the command line means: one of each flow that has it.
pub fn chosen<'s>(
    config: &Config,
    surveyed: &'s [Surveyed<'s>],
    given: &str,
) -> Result<Vec<Chosen<'s>>> {
    let mut found = Vec::new();
    for of in surveyed {
        let name = own_name(of.flow, given);
        let plan = of.outcome.mappings.iter().find(|plan| *plan.name == *name);
        let failed = of.outcome.failed.iter().any(|(failed, _)| failed == name);
        let named = of
            .flow
            .mappings
            .iter()
            .any(|m| m.name == name && m.from.table != TablePattern::All && plan.is_none());
        let plan = match plan {
            Some(plan) => Ok(plan),
            None if failed || named => {
                let own = of.findings_of(name);
                // Without one of its own it fell with the whole flow.
                Err(if own.is_empty() { of.outcome.findings.iter().collect() } else { own })
            }
            None => continue,
        };
        found.push(Chosen { of, plan, name: name.to_owned() });
    }
    if found.is_empty() {
        return Err(unknown(config, surveyed, given));
    }
    Ok(found)
}

fn unknown(config: &Config, surveyed: &[Surveyed<'_>], given: &str) -> Error {
    let wildcards = config.flows.iter().flat_map(|f| &f.mappings);
    let wildcard = wildcards.clone().any(|m| m.from.table == TablePattern::All && m.name == given);
    let configured = wildcards.filter(|m| m.from.table != TablePattern::All).map(|m| &*m.name);
    let planned = surveyed.iter().flat_map(|s| s.outcome.mappings.iter().map(|p| &*p.name));
    let near = nearest(given, configured.chain(planned));
    let hint = match near.trim().strip_prefix("hint: ") {
        _ if wildcard => "name one of its tables",
        Some(near) => near,
        None => "name a mapping, a table of a wildcard, or FLOW/MAPPING such as erp:crm/orders",
    };
    Error::new(ErrorKind::Config, Code::Config, format!("no mapping is named {given}"))
        .with_hint(hint)
}

impl Surveyed<'_> {
    /// The findings about a mapping.
    pub fn findings_of(&self, name: &str) -> Vec<&Finding> {
        let own = format!("mapping {name}: ");
        let of_mapping = self.outcome.findings.iter().filter(|f| f.message.starts_with(&own));
        let mut found: Vec<&Finding> = of_mapping.collect();
        let failed = self.outcome.failed.iter().filter(|(failed, _)| failed == name);
        for (_, finding) in failed {
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
        found
    }

    /// The source table of a mapping, as the catalog shows it.
    pub fn source_of(&self, plan: &MappingPlan) -> Result<&Table> {
        self.table(&plan.source)
    }

    /// A table of the source.
    pub fn table(&self, name: &tidelock_core::TableName) -> Result<&Table> {
        let found = self.seen.source.iter().find(|t| t.name == *name);
        found.ok_or_else(|| Error::bug("a plan without its source table"))
    }

    /// What expressions over a mapping's rows may name.
    pub fn origin<'a>(&'a self, plan: &'a MappingPlan) -> Result<Origin<'a>> {
        Ok(Origin::new(self.source_of(plan)?, &plan.values))
    }

    /// An expression of a mapping, compiled once more.
    pub fn compiled(
        plan: &MappingPlan,
        origin: &Origin<'_>,
        text: &Placed,
        wanted: Wanted,
    ) -> Result<Expr> {
        let compiled = match wanted {
            Wanted::Column => {
                compile_column(&text.text, &origin.fields, &plan.values, &*plan.lookups).ok()
            }
            Wanted::Value | Wanted::Condition | Wanted::Rule => {
                origin.compile(text, wanted, "").ok()
            }
        };
        compiled.ok_or_else(|| Error::bug("a planned expression does not compile"))
    }

    /// Whether the target of a mapping is a table, a function or a procedure.
    pub fn target_kind(plan: &MappingPlan) -> &'static str {
        match plan.call.as_ref().map(|call| call.call.kind) {
            None => "table",
            Some(RoutineKind::Function) => "function",
            Some(RoutineKind::Procedure) => "procedure",
        }
    }

    /// Whether the source of a mapping is a table or a view.
    pub fn source_kind(&self, plan: &MappingPlan) -> Result<&'static str> {
        Ok(match self.source_of(plan)?.kind {
            TableKind::View => "view",
            TableKind::Table | TableKind::Partitioned | TableKind::Other => "table",
        })
    }

    /// What is known of the mapping's view only by its source, where that is worth a warning.
    pub async fn of_view(&self, plan: &MappingPlan) -> Result<Vec<Finding>> {
        of_view(&*self.source, self.flow, plan).await
    }
}

/// Where a mapping's view is named in the file.
fn placed(flow: &FlowConfig, plan: &MappingPlan, mut finding: Finding) -> Finding {
    finding.message = format!("mapping {}: {}", plan.name, finding.message);
    match flow.mappings.iter().find(|m| *m.name == *plan.name) {
        Some(mapping) => finding.place(mapping.places.from.show()),
        None => finding,
    }
}

/// What is known of a mapping's view only by its source.
pub async fn of_view(
    source: &dyn Connector,
    flow: &FlowConfig,
    plan: &MappingPlan,
) -> Result<Vec<Finding>> {
    let mut findings = costs(source, flow, plan).await?;
    for untracked in copies::untracked(&flow.source, source, plan).await? {
        let finding = Finding::warning(untracked.says).hint(untracked.cure);
        findings.push(placed(flow, plan, finding));
    }
    Ok(findings)
}

/// How the source would read rows of a view again, by one key and by a thousand.
async fn costs(
    source: &dyn Connector,
    flow: &FlowConfig,
    plan: &MappingPlan,
) -> Result<Vec<Finding>> {
    let (Some(view), Some(copy)) = (&plan.view, &plan.copy) else { return Ok(Vec::new()) };
    let found = source.explain_keys(copy, &view.by).await?;
    Ok(found.into_iter().map(|finding| placed(flow, plan, finding)).collect())
}
