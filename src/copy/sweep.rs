//! The end of a resync: rows that only the target has are looked for, key by key of the target.

use tidelock_core::{CopyPhase, CopyTable, Cursor, Error, JsonForm, Key, KeyRange, Result, Value};
use tokio::sync::oneshot;

use super::Job;
use super::copier::{Worker, gone};
use super::request::{Outcome, Request};
use crate::mapping::convert::{Conversion, Target, compatible};
use crate::mapping::plan::Feed;
use crate::mapping::{MappingPlan, row};

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
        let leads_back = leads_back(&plan) && !ours.key.is_empty();
        let constants = constants(&plan)?;
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
            // Rows whose constant is another's are other mappings' rows.
            let keys: Vec<Key> = keys.into_iter().filter(|key| is_ours(key, &constants)).collect();
            let asked: Vec<Option<Key>> = keys
                .iter()
                .map(|key| {
                    let fed = key.iter().zip(&constants).filter(|(_, constant)| constant.is_none());
                    source_key(&fed.map(|(value, _)| value).collect::<Vec<_>>(), &back)
                })
                .collect();
            let askable: Vec<Key> = match leads_back {
                true => asked.iter().flatten().cloned().collect(),
                false => Vec::new(),
            };
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

/// The target's keys, what of them comes from the source as it is there, and the way back from the one to the other.
fn sweep_tables(plan: &MappingPlan) -> Result<(CopyTable, CopyTable, Vec<Conversion>)> {
    let columns: Vec<_> = plan
        .target
        .key
        .iter()
        .filter_map(|&i| Some((plan.target.columns.get(i)?, plan.columns.get(i)?)))
        .collect();
    let names: Vec<String> = columns.iter().map(|(target, _)| target.name.clone()).collect();
    let theirs = CopyTable {
        name: plan.target.name.clone(),
        columns: names.clone(),
        key: names,
        filter: None,
    };
    let (mut names, mut back) = (Vec::new(), Vec::new());
    for (target, column) in columns {
        let Feed::Column(name) = &column.feed else { continue };
        names.push(name.clone());
        let to = Target {
            data_type: &column.from,
            nullable: false,
            same_family: plan.same_family,
            json_form: JsonForm::Text,
        };
        back.push(Conversion::new(&target.data_type, to, &column.rule));
    }
    let ours =
        CopyTable { name: plan.source.clone(), columns: names.clone(), key: names, filter: None };
    Ok((theirs, ours, back))
}

/// Whether every key of the target can be led back to the source's types. One that cannot says nothing about what
/// the source has: a text does not tell which number it was made of, nor a civil time which hour that came twice.
fn leads_back(plan: &MappingPlan) -> bool {
    plan.target.key.iter().all(|&i| {
        let (Some(target), Some(column)) = (plan.target.columns.get(i), plan.columns.get(i)) else {
            return false;
        };
        match &column.feed {
            Feed::Column(_) => {
                let back = compatible(&target.data_type, &column.from, &column.rule);
                column.rule.zone.is_none() && back.is_ok()
            }
            // A constant is the same for all rows of the mapping, and tells them from others.
            Feed::Computed(computed) => computed.constant,
        }
    })
}

fn source_key(key: &[&Value], back: &[Conversion]) -> Option<Key> {
    key.iter().zip(back).map(|(value, back)| back.apply(value).ok()).collect()
}

fn is_ours(key: &Key, constants: &[Option<Value>]) -> bool {
    key.iter()
        .zip(constants)
        .all(|(value, constant)| constant.as_ref().is_none_or(|constant| constant.is_same(value)))
}

/// What the columns of a target key hold for every row of the mapping; `None` where that comes from the source.
fn constants(plan: &MappingPlan) -> Result<Vec<Option<Value>>> {
    let constant = |&i: &usize| match plan.columns.get(i).map(|c| &c.feed) {
        Some(Feed::Computed(computed)) if computed.constant => row::constant(plan, i).map(Some),
        Some(_) | None => Ok(None),
    };
    plan.target.key.iter().map(constant).collect()
}
