//! Deletes of the log that come after what is read again.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use tidelock_core::{Sink, WriteBatch};

use super::read::Blamed;
use crate::apply::place::Places;

/// Deletes that are made among the removals of rows that were read again, so that what points to a row goes before it.
#[derive(Default)]
pub struct Late(VecDeque<(usize, WriteBatch)>);

impl Late {
    /// These, in the order in which they may be made by themselves.
    pub fn new(batches: Vec<WriteBatch>, places: &Places) -> Late {
        let place = |batch: &WriteBatch| places.of(batch.table.id);
        // In a circle only the order that they come in may be right.
        let circle = batches.iter().any(|batch| place(batch).circle);
        let mut late: Vec<_> =
            batches.into_iter().map(|batch| (place(&batch).rank, batch)).collect();
        if !circle {
            late.sort_by_key(|(rank, _)| Reverse(*rank));
        }
        Late(late.into())
    }

    /// Makes those that come before the removals of a mapping; all that are left without one.
    pub(super) async fn before(
        &mut self,
        sink: &mut dyn Sink,
        number: Option<usize>,
    ) -> std::result::Result<(), Blamed> {
        let is_before = |rank: usize| number.is_none_or(|number| rank > number);
        let mut batches = Vec::new();
        while self.0.front().is_some_and(|(rank, _)| is_before(*rank)) {
            batches.extend(self.0.pop_front().map(|(_, batch)| batch));
        }
        if batches.is_empty() {
            return Ok(());
        }
        sink.write(&batches).await.map_err(|error| {
            let mapping =
                error.batch().and_then(|i| batches.get(i)).map(|b| Arc::clone(&b.mapping));
            Blamed { error, mapping }
        })
    }
}
