//! What a table of the log is to a flow, found once a shape and not once a row.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{Error, Result, TableName, TableSchema};

use super::Applier;
use crate::mapping::{BoundPlan, MappingPlan};

/// A mapping and its number.
#[derive(Clone)]
pub(super) struct Mapped {
    pub(super) plan: Arc<MappingPlan>,
    pub(super) number: usize,
}

/// What a table of the log is to us.
pub(super) enum Role {
    Progress,
    Copies,
    Unmapped,
    Mapped(Mapped),
}

pub(super) struct Route {
    pub(super) role: Role,
    pub(super) bound: Option<BoundPlan>,
}

/// The shapes met in the log, and what they are to us: found by their address as long as a source keeps
/// one alive, else by name and version.
#[derive(Default)]
pub(super) struct Routes {
    pub(super) routes: Vec<Route>,
    known: HashMap<(TableName, u64), usize>,
    /// Each is kept alive, so that its address is its own.
    by_address: HashMap<usize, (Arc<TableSchema>, usize)>,
}

/// Shapes found by their address before all are found anew: a source may announce one again and again.
const ADDRESSES_MAX: usize = 20_000;

impl Routes {
    fn at_address(&self, shape: &Arc<TableSchema>) -> Option<usize> {
        self.by_address.get(&Arc::as_ptr(shape).addr()).map(|(_, at)| *at)
    }

    fn remember(&mut self, shape: &Arc<TableSchema>, at: usize) {
        if self.by_address.len() >= ADDRESSES_MAX {
            self.by_address.clear();
        }
        self.by_address.insert(Arc::as_ptr(shape).addr(), (shape.clone(), at));
    }
}

impl Applier {
    /// What a table of the log is to us.
    pub(super) fn route(&mut self, shape: &Arc<TableSchema>) -> usize {
        if let Some(at) = self.routes.at_address(shape) {
            return at;
        }
        let known = (shape.name.clone(), shape.version);
        let at = match self.routes.known.get(&known) {
            Some(at) => *at,
            None => {
                let role = if shape.name == self.progress_table {
                    Role::Progress
                } else if shape.name == self.snapshot_table {
                    Role::Copies
                } else {
                    self.plans.get(&shape.name).cloned().map_or(Role::Unmapped, Role::Mapped)
                };
                self.routes.routes.push(Route { role, bound: None });
                self.routes.known.insert(known, self.routes.routes.len() - 1);
                self.routes.routes.len() - 1
            }
        };
        self.routes.remember(shape, at);
        at
    }

    pub(super) fn bound(
        &mut self,
        route: usize,
        shape: &Arc<TableSchema>,
    ) -> Result<&mut BoundPlan> {
        let route = &mut self.routes.routes[route];
        if let (Role::Mapped(mapped), None) = (&route.role, &route.bound) {
            route.bound = Some(BoundPlan::new(&mapped.plan, shape)?);
        }
        route.bound.as_mut().ok_or_else(|| Error::bug("a plan that was just bound is gone"))
    }

    pub(super) fn plan_of(&self, mapping: &str) -> Result<Mapped> {
        let mapped = self.plans.values().find(|m| &*m.plan.name == mapping).cloned();
        mapped.ok_or_else(|| Error::bug("a copy without its mapping"))
    }
}
