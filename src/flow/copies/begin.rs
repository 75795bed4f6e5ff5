//! How a copy begins, what it reads, and what becomes of one whose mapping goes away.

use tidelock_core::{Code, CopyPhase, CopyReason, CopyRow, Error, Result, Side, TableName};

use super::columns::Columns;
use super::mirrors::{Mirror, both_initial};
use crate::config::SnapshotMode;
use crate::copy::Job;
use crate::flow::{FlowContext, start};
use crate::mapping::plan::EndPlan;
use crate::mapping::{MappingPlan, row};

/// A copy that has just begun.
pub fn copy_row(context: &FlowContext, mapping: &str, reason: CopyReason) -> CopyRow {
    CopyRow {
        pipeline: context.pipeline.clone(),
        flow: context.config.name.clone(),
        mapping: mapping.to_owned(),
        reason,
        phase: CopyPhase::Rows,
        sweep: reason == CopyReason::Resync,
        cursor: String::new(),
        filter: String::new(),
        columns: String::new(),
        rows_done: 0,
        rows_total: 0,
        started_micros: crate::apply::now_micros(),
        finished_micros: 0,
    }
}

/// Looks whether a mapping could be copied so, before it is written down.
pub async fn try_copy(context: &FlowContext, row: &CopyRow) -> Result<()> {
    let outcome =
        start::plan(&context.config, &*context.source, &*context.target, context.target_is_read)
            .await?;
    let Some(plan) = outcome.mappings.iter().find(|p| *p.name == row.mapping) else {
        start::refuse_problems(&outcome.findings)?;
        return Err(Error::setup(
            Code::Catalog,
            format!("mapping {} cannot be planned", row.mapping),
        ));
    };
    let job = job(context, plan, row.clone())?;
    context.source.copier().await?.bound(&job.table, None, 1).await.map(drop)
}

pub(super) fn job(context: &FlowContext, plan: &MappingPlan, mut row: CopyRow) -> Result<Job> {
    let Some(mut table) = plan.copy.clone() else {
        return Err(Error::setup(
            Code::Catalog,
            format!(
                "mapping {}: {} has no key by which it could be copied",
                plan.name, plan.source
            ),
        )
        .with_hint("give it a primary key that its replica identity holds"));
    };
    // Where the mapping keeps what the source deletes, rows that only the target has are meant to be there.
    row.sweep &= match &plan.rows.end {
        EndPlan::Delete => true,
        // Of a view, what is remembered tells which rows are to be marked.
        EndPlan::Set(_) => plan.view.is_none() && row::marks_alone(plan),
        EndPlan::Ignore => false,
    };
    // Of a view whose keys do not lead back, what is remembered tells which rows were sent and are gone.
    row.sweep &= plan.view.is_none() || crate::copy::leads_back(plan);
    table.filter = Some(row.filter.clone()).filter(|f| !f.is_empty());
    let alike = plan.copy_key_types.iter().all(|t| context.source.orders_alike(t));
    // Lines hold what the target's columns hold, in their order, and nothing else.
    let as_lines = plan.as_lines && plan.sources().as_ref() == Some(&table.columns);
    // A row may point to one of another part that is not there yet.
    let splits =
        table.filter.is_none() && !plan.before.contains(&plan.target.name) && plan.view.is_none();
    // Of a view the keys are read, and then the rows of those keys.
    let by_key = plan.view.is_some();
    if by_key {
        table.columns.clone_from(&table.key);
    }
    row.sweep &= plan.call.is_none();
    Ok(Job { mapping: plan.name.clone(), table, alike, as_lines, splits, by_key, row })
}

/// A mapping met for the first time. `started_micros` 0 says: followed from here on without a copy.
pub(super) async fn unknown(
    context: &FlowContext,
    plan: &MappingPlan,
    mirror: Option<&Mirror>,
) -> Result<CopyRow> {
    let first = copy_row(context, &plan.name, CopyReason::Initial);
    let followed = CopyRow { phase: CopyPhase::Done, started_micros: 0, ..first.clone() };
    match (plan.snapshot, mirror) {
        (SnapshotMode::Initial, Some(mirror)) if mirror.snapshot == SnapshotMode::Initial => {
            if is_empty(context, plan).await? {
                return Ok(followed);
            }
            Err(both_initial(&plan.name, mirror))
        }
        (SnapshotMode::Initial, _) => {
            // Of a mapping of this name that was before. What is followed from here on is remembered for good, also before the first piece.
            let (pipeline, flow) = (&context.pipeline, &context.config.name);
            context.target.forget_memory(pipeline, flow, &plan.name).await?;
            context.target.write_copy(&first).await?;
            Ok(first)
        }
        (SnapshotMode::Never, Some(mirror)) if mirror.snapshot == SnapshotMode::Initial => {
            let rows = context.source.read_copies(&context.pipeline).await;
            let rows = rows.map_err(|e| e.of(Side::Source))?;
            let ended = rows.iter().any(|r| {
                r.flow == mirror.flow && *r.mapping == *mirror.theirs && r.phase == CopyPhase::Done
            });
            if ended {
                return Ok(followed);
            }
            let held = CopyRow { phase: CopyPhase::Held, ..first };
            context.target.write_copy(&held).await?;
            Ok(held)
        }
        (SnapshotMode::Never, _) => Ok(followed),
    }
}

/// Takes note that the configuration does not have a mapping any more: its history goes on without us.
pub(super) async fn leave(context: &FlowContext, row: CopyRow) -> Result<()> {
    match row.phase {
        CopyPhase::Left => Ok(()),
        // It has brought nothing.
        CopyPhase::Held => {
            context.target.clear_copy(&context.pipeline, &row.flow, &row.mapping).await
        }
        CopyPhase::Rows | CopyPhase::Sweep | CopyPhase::Done => {
            let row = CopyRow { phase: CopyPhase::Left, cursor: String::new(), ..row };
            context.target.write_copy(&row).await
        }
    }
}

/// A mapping that was taken out of the configuration and is there again. If it is still one of the same tables, what it brought is compared, so that what
/// the source has deleted meanwhile goes, too. Where the other direction writes the same columns, rows that only the target has may be its own, and stay.
pub(super) async fn again(
    context: &FlowContext,
    plan: &MappingPlan,
    mirror: Option<&Mirror>,
    left: &CopyRow,
) -> Result<CopyRow> {
    let row = unknown(context, plan, mirror).await?;
    let before: Columns = serde_json::from_str(&left.columns).unwrap_or_default();
    let from =
        before.table.is_some_and(|(schema, name)| plan.source == TableName::new(schema, name));
    let same = from && before.to.is_some_and(|to| to == plan.target.name.to_string());
    if row.phase != CopyPhase::Rows || mirror.is_some() || !same {
        return Ok(row);
    }
    tracing::warn!(flow = %context.config.name, mapping = %plan.name,
        "the mapping is in the configuration again: its rows are compared with the source, and those that are gone there are removed");
    let row = copy_row(context, &plan.name, CopyReason::Resync);
    context.target.write_copy(&row).await?;
    Ok(row)
}

pub(super) async fn is_empty(context: &FlowContext, plan: &MappingPlan) -> Result<bool> {
    let Some(table) = &plan.copy else { return Ok(false) };
    let source = |e: Error| e.of(Side::Source);
    let mut copier = context.source.copier().await.map_err(source)?;
    let first = copier.bound(table, None, 1).await.map_err(source)?;
    Ok(first.is_none())
}
