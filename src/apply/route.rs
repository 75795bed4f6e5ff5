//! What a table of the log is to a flow, found once a shape and not once a row.

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{Change, Error, Result, TableName, TableSchema};

use super::Applier;
use crate::mapping::plan::ViewPlan;
use crate::mapping::{BoundPlan, MappingPlan};
use crate::reread::{Touched, Trace};

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
    Mapped(Arc<Followed>),
}

/// What follows a table.
#[derive(Default)]
pub(super) struct Followed {
    /// The mappings that it is the source of.
    pub(super) mapped: Vec<Mapped>,
    /// The mappings whose views are made of it, and which of the view's tracks it is.
    pub(super) tracked: Vec<(Mapped, Arc<ViewPlan>, usize)>,
    /// The dictionaries that it is, and the mappings that use them.
    pub(super) dictionaries: Vec<(String, Vec<Mapped>)>,
    /// The mappings whose keys its rows make worth sending, and the column that holds the key.
    pub(super) pushing: Vec<(Mapped, String)>,
}

pub(super) struct Route {
    pub(super) role: Role,
    /// The plans of its mappings, tied to the shape.
    bound: Vec<Option<BoundPlan>>,
    /// The tracks that it is, tied to the shape.
    traces: Vec<Option<Trace>>,
}

/// The mappings with their numbers, by the tables that they follow.
pub(super) fn by_table(plans: &[Arc<MappingPlan>]) -> HashMap<TableName, Arc<Followed>> {
    let mut tables: HashMap<TableName, Followed> = HashMap::new();
    for (number, plan) in plans.iter().enumerate() {
        let mapped = Mapped { plan: plan.clone(), number };
        for kept in &plan.kept {
            let dictionaries = &mut tables.entry(kept.table().clone()).or_default().dictionaries;
            match dictionaries.iter_mut().find(|(name, _)| *name == kept.name) {
                Some((_, users)) => users.push(mapped.clone()),
                None => dictionaries.push((kept.name.clone(), vec![mapped.clone()])),
            }
        }
        for (table, column) in &plan.rows.pushes {
            let followed = tables.entry(table.clone()).or_default();
            followed.pushing.push((mapped.clone(), column.clone()));
        }
        let Some(view) = &plan.view else {
            tables.entry(plan.source.clone()).or_default().mapped.push(mapped);
            continue;
        };
        for (nth, track) in view.tracks.iter().enumerate() {
            let followed = tables.entry(track.table.clone()).or_default();
            followed.tracked.push((mapped.clone(), view.clone(), nth));
        }
    }
    tables.into_iter().map(|(table, followed)| (table, Arc::new(followed))).collect()
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
                    self.tables.get(&shape.name).cloned().map_or(Role::Unmapped, Role::Mapped)
                };
                self.routes.routes.push(Route { role, bound: Vec::new(), traces: Vec::new() });
                self.routes.known.insert(known, self.routes.routes.len() - 1);
                self.routes.routes.len() - 1
            }
        };
        self.routes.remember(shape, at);
        at
    }

    pub(super) fn bound(
        &mut self,
        (route, nth): (usize, usize),
        shape: &Arc<TableSchema>,
    ) -> Result<&mut BoundPlan> {
        let route = &mut self.routes.routes[route];
        let Role::Mapped(followed) = &route.role else { return Err(not_followed()) };
        let Some(mapped) = followed.mapped.get(nth) else { return Err(not_followed()) };
        let bound = made(&mut route.bound, nth, || BoundPlan::new(&mapped.plan, shape))?;
        bound.tick();
        Ok(bound)
    }

    /// What of a view a change of a table touches.
    pub(super) fn trace(
        &mut self,
        (route, nth): (usize, usize),
        change: &Change,
        touched: &mut Touched,
    ) -> Result<()> {
        let route = &mut self.routes.routes[route];
        let Role::Mapped(followed) = &route.role else { return Err(not_followed()) };
        let Some((Mapped { plan, number }, view, track)) = followed.tracked.get(nth) else {
            return Err(not_followed());
        };
        let Some(tracked) = view.tracks.get(*track) else { return Err(not_followed()) };
        let trace = made(&mut route.traces, nth, || Trace::new(plan, tracked, &change.table))?;
        trace.follow(plan, view, &change.op, touched.of(*number, plan))
    }

    /// Every mapping of the flow.
    pub(super) fn mapped(&self) -> impl Iterator<Item = &Mapped> {
        self.plans.iter()
    }

    /// The first mapping that follows a table and is not stopped.
    pub(super) fn running(&self, table: &TableName) -> Option<Mapped> {
        let followed = self.tables.get(table)?;
        let tracked = followed.tracked.iter().map(|(mapped, _, _)| mapped);
        let users = followed.dictionaries.iter().flat_map(|(_, users)| users);
        let pushing = followed.pushing.iter().map(|(mapped, _)| mapped);
        let tracked = tracked.chain(users).chain(pushing);
        let mut all = followed.mapped.iter().chain(tracked);
        all.find(|mapped| !self.is_stopped(&mapped.plan.name)).cloned()
    }

    pub(super) fn plan_of(&self, mapping: &str) -> Result<Mapped> {
        let mapped = self.mapped().find(|m| &*m.plan.name == mapping).cloned();
        mapped.ok_or_else(|| Error::bug("a copy without its mapping"))
    }
}

fn not_followed() -> Error {
    Error::bug("a change was led to a mapping that does not follow its table")
}

/// The nth of some that are made when they are first asked for.
fn made<T>(
    all: &mut Vec<Option<T>>,
    nth: usize,
    make: impl FnOnce() -> Result<T>,
) -> Result<&mut T> {
    if all.len() <= nth {
        all.resize_with(nth + 1, || None);
    }
    let Some(slot) = all.get_mut(nth) else { return Err(not_followed()) };
    match slot {
        Some(there) => Ok(there),
        None => Ok(slot.insert(make()?)),
    }
}
