//! The end of a resync: rows that only the target has are looked for, key by key of the target.

use tidelock_core::{
    CopyPhase, CopyTable, Cursor, DataType, Error, JsonForm, Key, KeyRange, Result,
};
use tokio::sync::oneshot;

use super::Job;
use super::copier::{Worker, gone};
use super::request::{Outcome, Request};
use crate::mapping::MappingPlan;
use crate::mapping::convert::{Conversion, Target, compatible};

/// Keys of the target asked for at the source at a time.
const SWEEP_KEYS: usize = 5_000;

impl Worker {
    /// Looks for rows that only the target has, key by key of the target.
    pub(super) async fn sweep(&mut self, job: &Job) -> Result<()> {
        let plan = self
            .copying()
            .plans
            .iter()
            .find(|p| p.name == job.mapping)
            .cloned()
            .ok_or_else(|| Error::bug("a copy without its mapping"))?;
        let (theirs, ours, back) = sweep_tables(&plan)?;
        let leads_back = leads_back(&plan);
        if !leads_back {
            tracing::warn!(flow = %self.copying().flow, mapping = %job.mapping,
                "rows that only the target has stay: its keys cannot be led back to the types of the source's");
        }
        let mut target = self.copying().target.copier().await?;
        let resumed = job.row.phase == CopyPhase::Sweep;
        let mut after = resumed.then(|| Cursor::decode(&job.row.cursor, &theirs.key)).flatten();
        loop {
            let upto = target.bound(&theirs, after.as_ref(), SWEEP_KEYS).await?;
            let range = KeyRange { after: after.clone(), upto: upto.clone() };
            let keys: Vec<Key> = target
                .read(&theirs, &range, usize::MAX)
                .await?
                .rows
                .into_iter()
                .map(|row| row.0)
                .collect();
            self.copying().reverse_has_passed().await?;
            let (reply, answer) = oneshot::channel();
            let watching = self
                .copying()
                .ask(
                    Request::WatchKeys { mapping: job.mapping.clone(), shown: self.shown, reply },
                    answer,
                )
                .await?;
            let covered = self.snapshot(watching).await?;
            let asked: Vec<Option<Key>> = keys.iter().map(|key| source_key(key, &back)).collect();
            let askable: Vec<Key> = asked.iter().flatten().cloned().collect();
            let mut found = self.reader().await?.present(&ours, &askable).await?.into_iter();
            let mut absent = Vec::new();
            for (key, asked) in keys.into_iter().zip(asked) {
                // A key that the source's columns could not hold is not there.
                if leads_back && (asked.is_none() || !found.next().unwrap_or(false)) {
                    absent.push(key);
                }
            }
            let cursor = upto.as_ref().and_then(|key| Cursor::new(&theirs.key, key));
            let (reply, answer) = oneshot::channel();
            let sweep = Request::Sweep {
                mapping: job.mapping.clone(),
                absent,
                upto: covered,
                cursor,
                reply,
            };
            self.copying().requests.send(sweep).await.map_err(|_| gone())?;
            match self.copying().outcome(answer).await? {
                Outcome::Written if upto.is_none() => return Ok(()),
                Outcome::Written => after = upto,
                Outcome::Spoiled => {}
            }
        }
    }
}

/// The target's keys, the same keys at the source, and the way back from the one to the other.
fn sweep_tables(plan: &MappingPlan) -> Result<(CopyTable, CopyTable, Vec<Conversion>)> {
    let columns: Vec<_> = plan
        .target
        .key
        .iter()
        .filter_map(|&i| Some((plan.target.columns.get(i)?, &plan.columns.get(i)?.rule)))
        .collect();
    let names: Vec<String> = columns.iter().map(|(c, _)| c.name.clone()).collect();
    let theirs = CopyTable {
        name: plan.target.name.clone(),
        columns: names.clone(),
        key: names,
        filter: None,
    };
    let source: Vec<(String, DataType)> = plan
        .target
        .key
        .iter()
        .filter_map(|&i| Some((plan.sources.get(i)?.clone(), plan.source_types.get(i)?.clone())))
        .collect();
    let names: Vec<String> = source.iter().map(|(name, _)| name.clone()).collect();
    let ours =
        CopyTable { name: plan.source.clone(), columns: names.clone(), key: names, filter: None };
    let back = columns
        .iter()
        .zip(&source)
        .map(|((target, rule), (_, data_type))| {
            let back = Target {
                data_type,
                nullable: false,
                same_family: plan.same_family,
                json_form: JsonForm::Text,
            };
            Conversion::new(&target.data_type, back, rule)
        })
        .collect();
    Ok((theirs, ours, back))
}

/// Whether every key of the target can be led back to the source's types. One that cannot says nothing about what
/// the source has: a text does not tell which number it was made of, nor a civil time which hour that came twice.
fn leads_back(plan: &MappingPlan) -> bool {
    plan.target.key.iter().all(|&i| {
        let (Some(target), Some(from), Some(column)) =
            (plan.target.columns.get(i), plan.source_types.get(i), plan.columns.get(i))
        else {
            return false;
        };
        column.rule.zone.is_none() && compatible(&target.data_type, from, &column.rule).is_ok()
    })
}

fn source_key(key: &Key, back: &[Conversion]) -> Option<Key> {
    key.iter().zip(back).map(|(value, back)| back.apply(value).ok()).collect()
}
