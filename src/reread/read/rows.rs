//! Rows of a table, of which the log told a part, or that wait for others.

use tidelock_core::{Error, Key, Result, Sink, Value};

use super::write::{Left, Steps, as_many_as_can_be, point_anew, put};
use super::{KEYS_A_READ, PutOff, Rereads, Work};
use crate::apply::batch::weight;
use crate::mapping::{Becomes, MappingPlan};
use crate::reread::touched::{Refused, TouchedBy};

/// Memory that rows may take which were refused and are looked at together.
const BYTES_LEFT_MAX: usize = 64 << 20;

impl Rereads {
    /// Rows of a table, of which the log told a part.
    pub(super) async fn rows(
        &mut self,
        sink: &mut dyn Sink,
        by: TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let plan = by.plan;
        let Some(table) = plan.copy.clone() else {
            return Err(Error::bug("a row is to be read again that has no key to be read by"));
        };
        let keys: Vec<Key> = by.rows.into_values().collect();
        let last = by.refused == Refused::Told;
        let together = !last && plan.call.is_none() && keys.len() > KEYS_A_READ;
        let (mut put_off, mut gathered) = (Vec::new(), Vec::new());
        let (mut rest, mut bytes) = (Steps::new(), 0);
        let mut progressed = false;
        for some in keys.chunks(KEYS_A_READ) {
            let (mut steps, mut read) = (Vec::new(), Vec::new());
            for piece in self.read(sink, &table, &table.key, some, work).await? {
                let bound = self.bind(&plan, &piece.table)?;
                for row in &piece.rows {
                    // One that is gone by now has its delete still ahead, or had it in this batch.
                    match bound.now(row)? {
                        Becomes::Write(write) => {
                            steps.push((Some(read.len()), write));
                            read.push(bound.source_key(row)?);
                        }
                        Becomes::Nothing | Becomes::Unknown { .. } => {}
                    }
                }
            }
            let wrote = steps.iter().map(|(_, write)| write.keys).collect();
            work.done.wrote.push((plan.name.clone(), wrote));
            let count = steps.len();
            let Left { steps, error } = match plan.call.is_some() {
                // Calls are made in the order of the log.
                true => {
                    let writes = steps.into_iter().map(|(_, write)| write).collect();
                    let refused = put(sink, &plan, writes).await?;
                    work.refused(&plan, refused, some.to_vec(), by.waited_since)?;
                    continue;
                }
                // Rows that take values from each other may be read apart.
                false if together => Left { steps, error: None },
                false => as_many_as_can_be(sink, &plan, steps, last).await?,
            };
            progressed |= steps.len() < count;
            if by.refused == Refused::Told {
                let left = steps.iter().filter_map(|(at, _)| read.get((*at)?).cloned());
                work.refused(&plan, error, left.collect(), by.waited_since)?;
                continue;
            }
            for (at, write) in steps {
                let Some(key) = at.and_then(|at| read.get(at)).cloned() else { continue };
                bytes += weight(&write.row);
                rest.push((Some(gathered.len()), write));
                gathered.push(key);
            }
            if bytes > BYTES_LEFT_MAX {
                let count = rest.len();
                rest = as_many_as_can_be(sink, &plan, rest, last).await?.steps;
                progressed |= rest.len() < count;
                put_off.extend(rest.drain(..).filter_map(|(at, _)| gathered.get(at?).cloned()));
                gathered.clear();
                bytes = 0;
            }
        }
        if by.refused == Refused::Told {
            return Ok(());
        }
        let mut holds = !put_off.is_empty();
        if together && !rest.is_empty() {
            let count = rest.len();
            rest = as_many_as_can_be(sink, &plan, rest, last).await?.steps;
            progressed |= rest.len() < count;
        }
        put_off.extend(rest.iter().filter_map(|(at, _)| gathered.get((*at)?).cloned()));
        if by.refused == Refused::Loosened {
            let count = rest.len();
            let alone = loosened(&plan, rest);
            let left = as_many_as_can_be(sink, &plan, alone, last).await?.steps;
            progressed |= left.len() < count;
            holds |= point_anew(sink, &plan, &left, |steps| loosened(&plan, steps)).await?;
        }
        let number = work.number;
        work.done.put_off.push(PutOff { number, plan, keys: put_off, progressed, holds });
        Ok(())
    }

    /// Finds the keys of rows that were asked for by a column that feeds the mapping's key.
    pub(super) async fn find_pushed(
        &mut self,
        sink: &mut dyn Sink,
        by: &mut TouchedBy,
        work: &mut Work<'_>,
    ) -> Result<()> {
        let plan = by.plan.clone();
        let (Some(table), Some(pushed)) = (&plan.copy, &plan.rows.pushed) else {
            return Err(Error::bug("rows are asked for by a key that they cannot be read by"));
        };
        let values: Vec<Key> = std::mem::take(&mut by.pushed).into_values().collect();
        for some in values.chunks(KEYS_A_READ) {
            let column = std::slice::from_ref(&pushed.column);
            for piece in self.read(sink, table, column, some, work).await? {
                let mut of_groups: Vec<Key> = Vec::new();
                let bound = self.bind(&plan, &piece.table)?;
                let places =
                    plan.view.as_ref().map(|view| view.places(&piece.table)).transpose()?;
                for row in &piece.rows {
                    // Others may have the same value.
                    if !bound.takes(row)? {
                        continue;
                    }
                    match &places {
                        None => by.owe(bound.source_key(row)?),
                        Some(places) => {
                            if plan.has_groups() && plan.rows.is_gated() {
                                of_groups.push(bound.key_of(row)?.into());
                            }
                            by.owe(
                                places.iter().filter_map(|&at| row.0.get(at).cloned()).collect(),
                            );
                        }
                    }
                }
                of_groups.iter().for_each(|key| self.gates.owe(work.number, key));
            }
        }
        Ok(())
    }
}

/// The same rows, pointing to nothing where they may.
fn loosened(plan: &MappingPlan, mut steps: Steps) -> Steps {
    for (_, write) in &mut steps {
        let cells = write.columns.iter().zip(write.row.iter_mut());
        for (_, cell) in cells.filter(|(column, _)| plan.loosable.contains(column)) {
            *cell = Value::Null;
        }
    }
    steps
}
