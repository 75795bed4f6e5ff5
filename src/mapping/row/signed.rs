//! What a change tells a mapping's gate.

use tidelock_core::{Key, OldRow, Op, Result, Row, Value};

use super::BoundPlan;
use super::update::filled;
use crate::mapping::rules::{Holds, Signs};

/// What a change tells a mapping's gate.
#[derive(Debug, Clone, Default)]
pub struct Signed {
    /// On which side of the edge the row is after it; nothing where the log does not tell, and for rows that go.
    pub signs: Option<Signs>,
    /// Its key at the source.
    pub source: Option<Key>,
    /// Its key at the target.
    pub key: Option<Key>,
    /// Whether the log tells that it meets the filter.
    pub holds: bool,
    /// The key at the target of a row that has ended and stays there.
    pub ended: Option<Key>,
}

impl BoundPlan {
    /// What a change tells the mapping's gate.
    pub fn signs(&self, op: &Op) -> Result<Signed> {
        let (new, old) = match op {
            Op::Insert(insert) => (&insert.new, None),
            Op::Update(update) => (&update.new, Some(&update.old)),
            Op::Delete(delete) => {
                let ended = delete.old.row().and_then(|old| self.kept(old));
                return Ok(Signed { ended, ..Signed::default() });
            }
        };
        let filled = old.and_then(|old| filled(new, old));
        let row = filled.as_ref().unwrap_or(new);
        let source = self.copy_key.as_ref().and_then(|places| {
            let cell = |at: &usize| row.0.get(*at).filter(|v| !v.is_unchanged()).cloned();
            places.iter().map(cell).collect()
        });
        let before = old.and_then(OldRow::row);
        let holds = self.rules.holds(&self.plan, &row.0, &self.env())?;
        let key = self.convert_keys(row).ok().and_then(|mut key| {
            if key.iter().any(Value::is_unchanged) {
                // It is what it was.
                let old = self.convert_keys(before?).ok()?;
                key.iter_mut()
                    .zip(old)
                    .filter(|(new, _)| new.is_unchanged())
                    .for_each(|(new, old)| *new = old);
            }
            Some(key).filter(|key| !key.iter().any(Value::is_unchanged)).map(Key::from)
        });
        let ended = (holds == Holds::No).then(|| self.kept(before.unwrap_or(row))).flatten();
        let signs = self.rules.signs(&self.plan, &row.0, &self.env())?;
        Ok(Signed { signs, source, key, holds: holds == Holds::Yes, ended })
    }
    /// On which side of the mapping's edge a whole row is.
    pub fn signs_of(&self, row: &Row) -> Result<Option<Signs>> {
        self.rules.signs(&self.plan, &row.0, &self.env())
    }
}
