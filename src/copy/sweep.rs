//! The end of a resync: rows that only the target has are looked for.
//!
//! **Back.** Where the target's keys tell the source's, they are asked for at the source, some at a time.
//!
//! **Forth** ([`forth`]). Where they do not (a text made of a number, an expression), or where several rows may have one key and a filter takes some of
//! them, the keys that the rows of the source come to are compared with all keys of the target.
//!
//! Either way the applier takes note of what is written from before the first look on, and what it meets since is spared.

mod forth;

use tidelock_core::{
    CopyPhase, CopyTable, Cursor, Error, JsonForm, Key, KeyRange, Position, Result, Value,
};
use tokio::sync::oneshot;

use super::Job;
use super::copier::{Worker, gone};
use super::request::{Outcome, Request, Watching};
use crate::mapping::convert::{Conversion, Target, compatible};
use crate::mapping::plan::Feed;
use crate::mapping::{MappingPlan, row};

/// Keys of the target asked for at the source at a time.
const SWEEP_KEYS: usize = 5_000;
/// What waits for the other direction.
const SWEEPING: &str = "looking for rows that only the target has";

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
        let others = self.copying().plans.iter().any(|other| {
            other.name != plan.name
                && other.target.name == plan.target.name
                && other.source != plan.source
        });
        if others && constants.iter().all(Option::is_none) {
            let why = "what another table has may be a part of them";
            return self.leave(job, why).await;
        }
        // Where a row outside the filter may have the key of one inside, a key that is at the source need not be one of
        // those that go.
        let alone = constants.iter().any(Option::is_some)
            || !self
                .copying()
                .plans
                .iter()
                .any(|other| other.name != plan.name && other.target.name == plan.target.name);
        let by_rows =
            plan.shares_keys && plan.rows.filter.is_some() && plan.view.is_none() && alone;
        if !leads_back || by_rows {
            return self.sweep_forth(job, &plan, &theirs, &constants).await;
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
            self.copying().reverse_has_passed(&job.mapping, SWEEPING).await?;
            let watching = self.watch_keys(job).await?;
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
            let askable: Vec<Key> = asked.iter().flatten().cloned().collect();
            let mut found = self.reader().await?.present(&ours, &askable).await?.into_iter();
            let mut absent = Vec::new();
            for (key, asked) in keys.into_iter().zip(asked) {
                // A key that the source's columns could not hold is not there.
                if asked.is_none() || !found.next().unwrap_or(false) {
                    absent.push(key);
                }
            }
            let cursor = upto.as_ref().and_then(|key| Cursor::new(&theirs.key, key));
            match self.remove(job, absent, covered, cursor).await? {
                Outcome::Written if upto.is_none() => return Ok(()),
                Outcome::Written => after = upto,
                Outcome::Spoiled => {}
            }
        }
    }

    /// Ends the sweep without removing anything.
    async fn leave(&mut self, job: &Job, why: &str) -> Result<()> {
        tracing::warn!(flow = %self.copying().flow, mapping = %job.mapping,
            "rows that only the target has stay: {why}");
        let at = self.watch_keys(job).await?.reached;
        self.remove(job, Vec::new(), at, None).await.map(|_| ())
    }

    /// Has the applier take note of what is written from now on.
    async fn watch_keys(&mut self, job: &Job) -> Result<Watching> {
        let (reply, answer) = oneshot::channel();
        let watch = Request::WatchKeys { mapping: job.mapping.clone(), shown: self.shown, reply };
        self.copying().ask(watch, answer).await
    }

    /// Has the applier remove keys of the target when it has come to `upto`; the sweep ends with it if there is no cursor.
    async fn remove(
        &mut self,
        job: &Job,
        absent: Vec<Key>,
        upto: Position,
        cursor: Option<Cursor>,
    ) -> Result<Outcome> {
        let (reply, answer) = oneshot::channel();
        let mapping = job.mapping.clone();
        let sweep = Request::Sweep { mapping, absent, upto, cursor, reply };
        self.copying().requests.send(sweep).await.map_err(|_| gone())?;
        self.copying().outcome(answer).await
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
pub(crate) fn leads_back(plan: &MappingPlan) -> bool {
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
