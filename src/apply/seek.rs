//! Answers lookups in the open target transaction, for many rows at once.
//!
//! A question goes out when all that comes before its rows has been written, each key once whatever the rows, and its answer
//! serves these rows alone: what is written next may change it. Rows that are inserted because they were missing go in the order of
//! a hash of their keys, so that two sessions that insert the same rows wait for each other and are not deadlocked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidelock_core::{Code, Error, Result, Sink, Value, WriteBatch};

use super::batch::key_cell;
use crate::expr::Answer;
use crate::mapping::lookups::{LookupPlan, Question, Wait};
use crate::mapping::rules::key_hash;
use crate::mapping::{MappingPlan, Write};
use crate::reread::memory::{Hash, hash};

/// What is asked of one lookup.
struct Asked {
    plan: Arc<LookupPlan>,
    insert: bool,
    cells: BTreeMap<Hash, Box<[Value]>>,
}

/// A cell that waits: which row and which cell of it, and for what.
struct Open {
    row: usize,
    cell: usize,
    wait: Wait,
}

/// Answers what the rows of a batch wait for.
pub(crate) async fn answer_batch(
    sink: &mut dyn Sink,
    batch: &mut WriteBatch,
    waits: Vec<(usize, Wait)>,
) -> Result<()> {
    let mut open = Vec::with_capacity(waits.len());
    for (row, wait) in waits {
        let cell = batch.columns.iter().position(|column| *column == wait.column());
        let cell = cell.ok_or_else(|| Error::bug("a row waits for a cell that is not written"))?;
        open.push(Open { row, cell, wait });
    }
    let mut put = |row: usize, cell: usize, value| {
        batch.rows.get_mut(row).and_then(|row| row.get_mut(cell)).map(|place| *place = value)
    };
    answer(sink, open, &mut put).await.map_err(|(row, error)| {
        let width = batch.table.key.len();
        let row = row.and_then(|row| batch.rows.get(row));
        let key: Option<Vec<Value>> = row.and_then(|row| {
            let cell = |n| key_cell(&batch.table, batch.op, &batch.columns, row, n).cloned();
            (0..width).map(cell).collect()
        });
        about(error, key)
    })
}

/// Answers what rows of a mapping wait for.
pub(crate) async fn answer_writes(
    sink: &mut dyn Sink,
    plan: &MappingPlan,
    writes: &mut [Write],
) -> Result<()> {
    let mut open = Vec::new();
    for (row, write) in writes.iter_mut().enumerate() {
        for wait in std::mem::take(&mut write.waits) {
            let cell = write.columns.iter().position(|column| *column == wait.column());
            let cell =
                cell.ok_or_else(|| Error::bug("a row waits for a cell that is not written"))?;
            open.push(Open { row, cell, wait });
        }
    }
    let mut put = |row: usize, cell: usize, value| {
        writes.get_mut(row).and_then(|write| write.row.get_mut(cell)).map(|place| *place = value)
    };
    answer(sink, open, &mut put).await.map_err(|(row, error)| {
        let width = plan.target.key.len();
        let write = row.and_then(|row| writes.get(row));
        let key: Option<Vec<Value>> = write.and_then(|write| {
            let cell = |n| key_cell(&plan.target, write.op, &write.columns, &write.row, n).cloned();
            (0..width).map(cell).collect()
        });
        about(error, key)
    })
}

fn about(error: Error, key: Option<Vec<Value>>) -> Error {
    match key {
        Some(key) => error.with_detail(format!("key hash {}", key_hash(&key))),
        None => error,
    }
}

/// Asks until every cell has its value. An error tells the row that it is about, where it is about one.
async fn answer(
    sink: &mut dyn Sink,
    mut open: Vec<Open>,
    put: &mut (dyn FnMut(usize, usize, Value) -> Option<()> + Send),
) -> std::result::Result<(), (Option<usize>, Error)> {
    while !open.is_empty() {
        let mut asked: BTreeMap<u64, Asked> = BTreeMap::new();
        let mut places: Vec<Option<(u64, Hash)>> = Vec::with_capacity(open.len());
        for one in &open {
            let question = one.wait.question().map_err(|error| (Some(one.row), error))?;
            places.push(match question {
                Question::None => None,
                Question::Ask { plan, insert, cells } => {
                    let (id, width) = (plan.target.id, plan.target.by.len());
                    let at = hash(&[], cells.iter().take(width));
                    let asked = asked.entry(id).or_insert_with(|| Asked {
                        plan: plan.clone(),
                        insert,
                        cells: BTreeMap::new(),
                    });
                    asked.cells.entry(at).or_insert(cells);
                    Some((id, at))
                }
            });
        }
        let mut answers: HashMap<(u64, Hash), Answer> = HashMap::new();
        for (id, Asked { plan, insert, cells }) in asked {
            let (hashes, rows): (Vec<Hash>, Vec<Box<[Value]>>) = cells.into_iter().unzip();
            let told: Vec<Answer> = if insert {
                let found = sink.lookup_or_insert(&plan.target, &rows).await;
                // Of the questions, not of the rows that asked them.
                let found = found.map_err(|error| {
                    let asks = error.batch().and_then(|at| hashes.get(at).copied());
                    let row = places.iter().zip(&open).find_map(|(place, one)| {
                        let (by, hash) = (*place)?;
                        (by == id && Some(hash) == asks).then_some(one.row)
                    });
                    (row, error)
                })?;
                found.into_iter().map(Answer::Found).collect()
            } else {
                let found = sink.lookup(&plan.target, &rows).await.map_err(|e| (None, e))?;
                found
                    .into_iter()
                    .map(|value| value.map_or(Answer::Missing, Answer::Found))
                    .collect()
            };
            if told.len() != hashes.len() {
                return Err((None, Error::bug("a lookup was answered for other keys")));
            }
            answers.extend(hashes.into_iter().map(|hash| (id, hash)).zip(told));
        }
        let mut left = Vec::new();
        for (mut one, place) in open.into_iter().zip(places) {
            let answer = match place {
                None => Answer::Missing,
                Some(place) => answers.get(&place).cloned().unwrap_or(Answer::Missing),
            };
            let value = one.wait.answer(answer).map_err(|error| (Some(one.row), error))?;
            match value {
                None => left.push(one),
                Some(Value::Unchanged) => {
                    let error = Error::data(
                        Code::IdentityMissing,
                        "a value depends on a column that the log does not carry",
                    );
                    return Err((Some(one.row), error));
                }
                Some(value) => put(one.row, one.cell, value)
                    .ok_or_else(|| (None, Error::bug("a row that waited is gone")))?,
            }
        }
        open = left;
    }
    Ok(())
}
