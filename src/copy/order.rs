//! Where a key lies among the parts of a table.

use std::sync::Arc;

use tidelock_core::{
    Connector, Copier, CopyTable, Error, Key, Part, Reach, Result, copy::key_order,
};

/// The order of a table's keys: compared here where that is the same, else by the database.
pub(super) struct Order<'a> {
    pub(super) table: &'a CopyTable,
    pub(super) alike: bool,
    pub(super) judge: &'a mut Option<Box<dyn Copier>>,
    pub(super) system: &'a Arc<dyn Connector>,
}

impl Order<'_> {
    pub(super) async fn is_up_to(&mut self, key: &Key, bound: &Key) -> Result<bool> {
        if self.alike
            && let Some(order) = key_order(key, bound)
        {
            return Ok(order.is_le());
        }
        if self.judge.is_none() {
            *self.judge = Some(self.system.copier().await?);
        }
        match self.judge {
            Some(judge) => judge.up_to(self.table, key, bound).await,
            None => Err(Error::bug("no connection to compare keys by")),
        }
    }

    /// Which part a key is of: the first that ends at it or beyond.
    pub(super) async fn part_of<T>(
        &mut self,
        parts: &[T],
        part: impl Fn(&T) -> &Part,
        key: &Key,
    ) -> Result<usize> {
        let (mut low, mut high) = (0, parts.len().saturating_sub(1));
        while low < high {
            let middle = low.midpoint(high);
            let within = match parts.get(middle).and_then(|p| part(p).upto.as_ref()) {
                None => true,
                Some(upto) => self.is_up_to(key, upto).await?,
            };
            if within { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    /// Whether a key of a part is copied.
    pub(super) async fn is_reached(&mut self, part: &Part, key: &Key) -> Result<bool> {
        match &part.reach {
            Reach::All => Ok(true),
            Reach::Nothing => Ok(false),
            Reach::UpTo(bound) => self.is_up_to(key, bound).await,
        }
    }
}
