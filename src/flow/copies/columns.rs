//! The columns of a mapping and what its table was, as they stand beside its copy.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidelock_core::{CopyPhase, CopyReason, CopyRow, Result, ShapeChange, TableName};

use super::compare::Found;
use crate::flow::FlowContext;
use crate::mapping::MappingPlan;
use crate::mapping::plan::ColumnPlan;

/// The columns of a mapping, as they stand beside its copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Columns {
    pub(super) rule: String,
    /// What else of the file makes its values, hashed: time zones, policies, dictionaries, the mask key.
    #[serde(default)]
    pub(super) behind: Option<String>,
    pub(super) pairs: Vec<(String, String)>,
    /// Schema and name of the source table.
    #[serde(default)]
    pub(super) table: Option<(String, String)>,
    /// What the source table was, as its connector writes it.
    #[serde(default)]
    pub(super) shape: String,
    /// The same of the tables that it follows beside it: those that a view is made of, those that push.
    #[serde(default)]
    pub(super) beside: BTreeMap<String, String>,
    /// Whether the source kept the columns of the key unique.
    #[serde(default)]
    pub(super) keyed: bool,
    /// Columns of the source that were left out from the beginning, because the target lacks them.
    #[serde(default)]
    pub(super) left: Option<Vec<String>>,
    /// Columns of the source that came later and that the target lacks.
    #[serde(default)]
    pub(super) came: Vec<String>,
    /// What became of the table and was not answered yet.
    #[serde(default)]
    pub(super) pending: Option<ShapeChange>,
    /// Columns came while rows were being copied: those that were copied before are without them.
    #[serde(default)]
    pub(super) again: bool,
    /// The target table.
    #[serde(default)]
    pub(super) to: Option<String>,
    /// Whether it was followed without a gap when it was asked to be compared: until its copy begins, it still is.
    #[serde(default)]
    pub(super) followed: bool,
    /// The edge that it has.
    #[serde(default)]
    pub(super) edge: Option<String>,
    /// Whether it has kept changes back, now or before: some may be owed.
    #[serde(default)]
    pub(super) gated: bool,
    /// What a person should know.
    #[serde(default)]
    pub(super) notes: Vec<String>,
}

impl Columns {
    pub(super) fn of(plan: &MappingPlan, found: &Found<'_>, before: Option<&Columns>) -> Columns {
        let unmapped: Vec<String> = plan.unmapped.iter().map(|c| c.name.clone()).collect();
        let left = match before.and_then(|b| b.left.as_ref()) {
            Some(left) => left.iter().filter(|c| unmapped.contains(c)).cloned().collect(),
            None => unmapped.clone(),
        };
        Columns {
            rule: plan.rule.clone(),
            behind: Some(behind(plan)),
            pairs: plan.pairs(),
            table: Some((plan.source.schema.clone(), plan.source.name.clone())),
            shape: found.shape.clone(),
            beside: found
                .beside
                .iter()
                .map(|(watched, shape)| (watched.table.to_string(), shape.clone()))
                .collect(),
            keyed: plan.keyed,
            came: unmapped.into_iter().filter(|c| !left.contains(c)).collect(),
            left: Some(left),
            pending: None,
            again: before.is_some_and(|b| b.again),
            to: Some(plan.target.name.to_string()),
            followed: false,
            edge: plan.rows.edge.as_ref().map(|edge| edge.text()),
            gated: plan.rows.is_gated() || before.is_some_and(|b| b.gated),
            notes: before.map(|b| b.notes.clone()).unwrap_or_default(),
        }
    }

    /// Whether the file makes other values of the same rows by now.
    pub(super) fn makes_others(&self, now: &Columns) -> bool {
        self.rule != now.rule || self.behind.is_some() && self.behind != now.behind
    }

    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The pairs that only the first has, if the file says the same for both.
    pub(super) fn without<'a>(&'a self, other: &Columns) -> Vec<&'a (String, String)> {
        if self.rule != other.rule {
            return Vec::new();
        }
        self.pairs.iter().filter(|pair| !other.pairs.contains(pair)).collect()
    }
}

fn behind(plan: &MappingPlan) -> String {
    // Not column by column: one that comes under the same rules changes nothing of the others.
    let rule = |column: &ColumnPlan| {
        let zone = column.rule.zone.as_ref();
        let zone =
            zone.map(|zone| zone.iana_name().map_or_else(|| format!("{zone:?}"), str::to_owned));
        format!("{:?} {zone:?}", column.rule.policy)
    };
    let mut texts: BTreeSet<String> = plan.columns.iter().map(rule).collect();
    texts.extend(plan.values.behind(&plan.expressions()));
    let mut digest = Sha256::new();
    for text in texts {
        digest.update(format!("{text}\n"));
    }
    let mut text = hex::encode(digest.finalize());
    text.truncate(16);
    text
}

/// A row with a change of its table that is still to be answered.
pub fn with_pending(row: &CopyRow, change: &ShapeChange) -> CopyRow {
    let mut columns: Columns = serde_json::from_str(&row.columns).unwrap_or_default();
    let pending = columns.pending.take().unwrap_or(ShapeChange::Same).or(change.clone());
    columns.pending = Some(pending);
    CopyRow { columns: columns.encode(), ..row.clone() }
}

/// What stands for the columns of a mapping that is to be compared and has been followed without a gap.
pub const FOLLOWED: &str = "{\"followed\":true}";

/// Whether every change of a mapping reaches the target though its copy is still to begin, as far as the copy's row tells: its rows are all there.
pub fn is_followed(row: &CopyRow) -> bool {
    #[derive(Deserialize)]
    struct Followed {
        #[serde(default)]
        followed: bool,
    }
    let begins = row.phase == CopyPhase::Rows && row.cursor.is_empty() && row.rows_done == 0;
    let told = || serde_json::from_str::<Followed>(&row.columns).is_ok_and(|told| told.followed);
    begins && (row.reason == CopyReason::Backfill || told())
}

/// Whether a copy that has ended is to be followed by another one.
pub fn goes_again(row: &CopyRow) -> bool {
    row.phase == CopyPhase::Done
        && serde_json::from_str::<Columns>(&row.columns).is_ok_and(|columns| columns.again)
}

/// Whether a mapping has kept changes back, as far as the row of its copy tells: some may be owed.
pub fn was_gated(row: &CopyRow) -> bool {
    serde_json::from_str::<Columns>(&row.columns).is_ok_and(|columns| columns.gated)
}

/// A row with what its table is by now; `None` if the row knows nothing of tables.
pub fn with_shape(row: &CopyRow, table: &TableName, shape: String) -> Option<CopyRow> {
    let mut columns: Columns = serde_json::from_str(&row.columns).ok()?;
    let own = columns
        .table
        .as_ref()
        .is_none_or(|(schema, name)| (schema, name) == (&table.schema, &table.name));
    match own {
        true => columns.shape = shape,
        false => drop(columns.beside.insert(table.to_string(), shape)),
    }
    Some(CopyRow { columns: columns.encode(), ..row.clone() })
}

/// Whose rows the flow's mappings have brought, as far as the rows of their copies tell.
pub(in crate::flow) async fn owners(context: &FlowContext) -> Result<HashMap<String, TableName>> {
    let rows = context.target.read_copies(&context.pipeline).await?;
    let owner = |row: CopyRow| {
        let columns: Columns = serde_json::from_str(&row.columns).ok()?;
        let (schema, name) = columns.table?;
        Some((row.mapping, TableName::new(schema, name)))
    };
    let ours = |row: &CopyRow| row.flow == context.config.name && row.phase != CopyPhase::Left;
    Ok(rows.into_iter().filter(ours).filter_map(owner).collect())
}
