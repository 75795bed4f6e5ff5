//! Columns that came at the source: added at the target, or told.

use std::sync::Arc;

use tidelock_core::{Column, Error, ErrorKind, NewColumn, Note, Result};

use super::columns::Columns;
use super::views::untracked;
use crate::config::SchemaChanges;
use crate::flow::FlowContext;
use crate::mapping::MappingPlan;

/// Adds at the target what came at the source, where the configuration says so; tells whether anything
/// was added. Never where the target is read by the other direction: schema changes stay on their side there.
pub(in crate::flow) async fn add_columns(
    context: &FlowContext,
    plans: &[Arc<MappingPlan>],
) -> Result<bool> {
    let wants = |p: &&Arc<MappingPlan>| {
        p.schema_changes == SchemaChanges::Add
            && !p.unmapped.is_empty()
            && context.reverse.is_none()
    };
    let wanting: Vec<&Arc<MappingPlan>> = plans.iter().filter(wants).collect();
    if wanting.is_empty() {
        return Ok(false);
    }
    let rows = context.target.read_copies(&context.pipeline).await?;
    let mut added = false;
    for plan in wanting {
        let row = rows.iter().find(|r| r.flow == context.config.name && *r.mapping == *plan.name);
        let before = row.and_then(|r| serde_json::from_str::<Columns>(&r.columns).ok());
        let Some(left) = before.and_then(|b| b.left) else { continue };
        for column in plan.unmapped.iter().filter(|c| !left.contains(&c.name)) {
            let Ok((statements, limits)) = added_column(context, plan, column).await? else {
                // Noted with the reason.
                continue;
            };
            let limits: Vec<String> =
                limits.into_iter().map(|l| format!(" ({})", l.text)).collect();
            let (flow, mapping) = (&context.config.name, &plan.name);
            let mut all = true;
            for sql in statements {
                match context.target.run_ddl(&sql).await {
                    Ok(()) => {
                        tracing::warn!(%flow, %mapping, "a column came at the source: {sql}{}", limits.concat());
                    }
                    // Noted with the statement, for somebody who may.
                    Err(error) if error.kind() != ErrorKind::Transient => {
                        tracing::warn!(%flow, %mapping, code = %error.code(), %error, "a column that came at the source was not added");
                        all = false;
                        break;
                    }
                    Err(error) => return Err(error.at(&context.config.target)),
                }
            }
            added |= all;
        }
    }
    Ok(added)
}

/// What a person should know of a mapping.
pub(super) async fn notes(
    context: &FlowContext,
    plan: &MappingPlan,
    columns: &Columns,
) -> Result<Vec<String>> {
    let mut notes = columns.notes.clone();
    for column in plan.unmapped.iter().filter(|c| columns.came.contains(&c.name)) {
        notes.push(unmapped_note(context, plan, column).await?);
    }
    let at = |e: Error| e.at(&context.config.source);
    let untracked = untracked(&context.config.source, &*context.source, plan).await.map_err(at)?;
    notes.extend(untracked.into_iter().map(|table| format!("{}; {}", table.says, table.cure)));
    Ok(notes)
}

/// What to say of a column that came at the source and that the target lacks.
async fn unmapped_note(
    context: &FlowContext,
    plan: &MappingPlan,
    column: &Column,
) -> Result<String> {
    let cure = match added_column(context, plan, column).await? {
        Ok((sql, _)) => format!("to take it up, run at the target: {}", sql.join(" ")),
        Err(why) => format!("to take it up, add it at the target ({why})"),
    };
    Ok(format!("{}.{} ({}) is not at the target; {cure}", plan.source, column.name, column.native))
}

/// The statements that add a column of the source at the target, and what is to be known of it there; why there
/// are none.
async fn added_column(
    context: &FlowContext,
    plan: &MappingPlan,
    column: &Column,
) -> Result<std::result::Result<(Vec<String>, Vec<Note>), String>> {
    let schema = plan.target.name.schema.clone();
    let at = |e: Error| e.at(&context.config.target);
    let mut dialect = context.target.dialect(&[schema]).await.map_err(at)?;
    let new = NewColumn { name: column.name.clone(), from: column.clone() };
    Ok(dialect.add_column(&plan.target.name, &new, plan.same_family).map_err(|refused| refused.why))
}
