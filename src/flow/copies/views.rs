//! Tables that a view is made of and that nobody follows for it.
//!
//! A view has no log: what changes in a table that no track names touches no row. So it is when a table is forgotten, and when one is
//! renamed and another made under its name: PostgreSQL's views go on reading the one that they were made with.

use tidelock_core::{Connector, Result, TableName};

use crate::mapping::MappingPlan;

/// A table that is read and not followed.
pub struct Untracked {
    /// What is so.
    pub says: String,
    /// What to do about it.
    pub cure: String,
}

/// The tables of a mapping's view that its tracks leave out, as far as the source tells what the view is made of.
pub async fn untracked(
    system: &str,
    source: &dyn Connector,
    plan: &MappingPlan,
) -> Result<Vec<Untracked>> {
    let Some(view) = &plan.view else { return Ok(Vec::new()) };
    let Some(tables) = source.made_of(&plan.source).await? else { return Ok(Vec::new()) };
    let left_out = tables.iter().filter(|table| !view.names(table));
    Ok(left_out.map(|table| told(&plan.source, system, table)).collect())
}

fn told(view: &TableName, system: &str, table: &TableName) -> Untracked {
    Untracked {
        says: format!(
            "the view {view} reads {table}, which no track names: what changes there is not brought"
        ),
        cure: format!(
            "name it in [mappings.tracks] (\"{system}.{table}\" = [] says that its changes touch no row), or, if it was renamed, make the view anew over the table that is meant"
        ),
    }
}
