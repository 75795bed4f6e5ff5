//! Which keys the changes of a batch have touched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidelock_core::{
    Code, DataType, Error, Key, OldRow, Op, Remembered, Result, Row, TableName, TableSchema,
    TransactionId, Value, alike,
};

use super::memory::{Hash, Pending, encode_key, hash};
use crate::expr::{Expr, Input, Truth};
use crate::mapping::MappingPlan;
use crate::mapping::computed::{self, Wanted};
use crate::mapping::plan::{TrackedPlan, ViewPlan, WayBy};
use crate::mapping::rules::failed;

/// What the changes of a batch have touched, by the number of the mapping: in the order in which it is written.
#[derive(Default)]
pub struct Touched {
    /// By mapping.
    pub mappings: BTreeMap<usize, TouchedBy>,
    /// The transactions of the source that did.
    pub delivered: Vec<TransactionId>,
    weight: usize,
}

/// What of one mapping is touched.
pub struct TouchedBy {
    /// The mapping.
    pub plan: Arc<MappingPlan>,
    /// Keys of the view, in its own types.
    pub keys: HashMap<Hash, Key>,
    /// For each query of a track, the values of its parameters.
    pub queries: BTreeMap<usize, Vec<Values>>,
    /// Keys of the table, of an ordinary mapping.
    pub rows: HashMap<Hash, Key>,
    /// If keys that waited are among them: since when, and how often they were refused.
    pub waited_since: Option<(Instant, u32)>,
    /// Whether rows are sent though they are as they were last sent.
    pub force: bool,
    /// Keys whose rows are sent whatever gate the mapping has, of a group all: they are owed, or were asked for.
    pub owed: HashSet<Hash>,
    /// Values of the column that feeds the mapping's key, of rows that were asked for so.
    pub pushed: HashMap<Hash, Key>,
    /// What becomes of rows that the target refuses for what they point to.
    pub refused: Refused,
    /// Under what the keys that waited are remembered.
    pub waited: Vec<Bytes>,
    /// Whether there were too many keys of a view, which are in the target's memory since.
    pub spilled: bool,
    /// Whether values of its queries are there, too.
    pub asked: bool,
}

/// What becomes of rows that the target refuses for what they point to; the later counts where several are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// They wait for the log, or it is an error.
    #[default]
    Told,
    /// They are put off.
    PutOff,
    /// The same, and meanwhile they are written without what they point to, where that may be NULL: rows may point to each other in a circle.
    Loosened,
}

/// Under what the values of a query's parameter are remembered.
pub fn asked_with(query: usize, parameter: usize) -> [u8; 8] {
    // No file has as many.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let mut at = [0; 8];
    at[..4].copy_from_slice(&number(query));
    at[4..].copy_from_slice(&number(parameter));
    at
}

/// The values of one parameter, each once.
pub struct Values {
    /// The column.
    pub column: String,
    /// Its type.
    pub data_type: DataType,
    /// The values.
    pub values: HashMap<Hash, Value>,
}

impl Touched {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// About how many keys, for limits.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// What of a mapping is touched, to be added to.
    pub fn of(&mut self, number: usize, plan: &Arc<MappingPlan>) -> &mut TouchedBy {
        self.weight += 1;
        self.mappings.entry(number).or_insert_with(|| TouchedBy::new(plan))
    }

    /// Notes the transaction that is being read.
    pub fn note(&mut self, id: Option<TransactionId>) {
        if let Some(id) = id
            && self.delivered.last() != Some(&id)
        {
            self.delivered.push(id);
        }
    }

    /// The tables that are written for it.
    pub fn targets(&self) -> HashSet<TableName> {
        self.mappings.values().map(|by| by.plan.target.name.clone()).collect()
    }

    /// Takes out what queries are asked with, to be put off.
    pub fn take_values(&mut self) -> Result<Vec<(Arc<MappingPlan>, Vec<Remembered>)>> {
        let asked = self.mappings.values_mut().filter(|by| !by.queries.is_empty());
        asked.map(|by| Ok((by.plan.clone(), by.take_values()?))).collect()
    }

    /// Takes the keys out, to be put off.
    pub fn take_keys(&mut self) -> Vec<(usize, Arc<MappingPlan>, Vec<Pending>)> {
        self.weight = 0;
        let taken = self.mappings.iter_mut().map(|(number, by)| {
            let keys = std::mem::take(match by.plan.view {
                Some(_) => &mut by.keys,
                None => &mut by.rows,
            });
            // They go on waiting.
            by.waited.clear();
            by.spilled |= by.plan.view.is_some();
            let (owed, force) = (std::mem::take(&mut by.owed), by.force);
            let pending = keys.into_iter().map(|(hash, key)| {
                let owed = owed.contains(&hash);
                Pending { key, owed, force }
            });
            (*number, by.plan.clone(), pending.collect())
        });
        taken.collect()
    }

    /// Gives a mapping up.
    pub fn drop_mapping(&mut self, mapping: &str) {
        self.mappings.retain(|_, by| &*by.plan.name != mapping);
    }
}

impl TouchedBy {
    fn new(plan: &Arc<MappingPlan>) -> TouchedBy {
        TouchedBy {
            plan: plan.clone(),
            keys: HashMap::new(),
            queries: BTreeMap::new(),
            rows: HashMap::new(),
            waited_since: None,
            force: false,
            owed: HashSet::new(),
            pushed: HashMap::new(),
            refused: Refused::Told,
            waited: Vec::new(),
            spilled: false,
            asked: false,
        }
    }

    /// Takes out what its queries are asked with, as it is remembered: under the numbers of query and parameter, and a hash.
    pub fn take_values(&mut self) -> Result<Vec<Remembered>> {
        self.asked = true;
        let mut all = Vec::new();
        for (&query, lists) in &mut self.queries {
            for (parameter, list) in lists.iter_mut().enumerate() {
                for (hash, value) in std::mem::take(&mut list.values) {
                    let at = [&asked_with(query, parameter)[..], &hash].concat();
                    all.push((at.into(), encode_key(&[value])?));
                }
            }
        }
        Ok(all)
    }

    /// A key whose row is sent whatever gate the mapping has. Of a group it is the gate that knows which rows.
    pub fn owe(&mut self, key: Key) {
        if !self.plan.has_groups() {
            self.owed.insert(hash(&[], key.iter()));
        }
        match self.plan.view {
            Some(_) => self.key(key),
            None => self.row(key),
        }
    }

    /// A value of the column that feeds the mapping's key, whose rows are sent whatever gate the mapping has.
    pub fn push(&mut self, value: Key) {
        self.pushed.entry(hash(&[], value.iter())).or_insert(value);
    }

    /// Keys that were remembered, with what is owed of them.
    pub fn take_up(&mut self, pending: Vec<Pending>, since: Instant) {
        let owed = pending.iter().filter(|pending| pending.owed);
        self.owed.extend(owed.map(|pending| hash(&[], pending.key.iter())));
        self.force |= pending.iter().any(|pending| pending.force);
        self.again(pending.into_iter().map(|pending| pending.key), since, 0);
    }

    /// Keys that waited, since when and how often they were refused.
    pub fn again(&mut self, keys: impl IntoIterator<Item = Key>, since: Instant, refusals: u32) {
        for key in keys {
            self.waited.push(Bytes::copy_from_slice(&hash(&[], key.iter())));
            match self.plan.view {
                Some(_) => self.key(key),
                None => self.row(key),
            }
        }
        let before = self.waited_since.unwrap_or((since, refusals));
        self.waited_since = Some((before.0.min(since), before.1.max(refusals)));
    }

    /// A key of the view.
    pub fn key(&mut self, key: Key) {
        self.keys.entry(hash(&[], key.iter())).or_insert(key);
    }

    /// A key of the table.
    pub fn row(&mut self, key: Key) {
        self.rows.entry(hash(&[], key.iter())).or_insert(key);
    }
}

/// The tracks of a table, tied to a shape of the log.
pub struct Trace {
    ways: Vec<Way>,
}

struct Way {
    by: By,
    on_change: Option<Vec<usize>>,
    filter: Option<Expr>,
}

enum By {
    Columns(Vec<usize>),
    Query { number: usize, columns: Vec<(String, usize, DataType)> },
}

impl Trace {
    /// Ties tracks to a shape; [`Code::SchemaDrift`] if they do not fit it any more.
    pub fn new(plan: &MappingPlan, tracked: &TrackedPlan, shape: &TableSchema) -> Result<Trace> {
        let place = |name: &String| {
            shape.columns.iter().position(|c| c.name == *name).ok_or_else(|| {
                Error::data(
                    Code::SchemaDrift,
                    format!(
                        "{}.{name}: the column is gone, and {} is tracked by it",
                        shape.name, plan.source
                    ),
                )
                .with_hint(
                    "put the column back or change the track, then take the mapping up again",
                )
            })
        };
        let places = |names: &[String]| names.iter().map(place).collect::<Result<Vec<_>>>();
        let fields = computed::fields_of(shape);
        let ways = tracked.ways.iter().map(|way| {
            let by = match &way.by {
                WayBy::Columns(names) => By::Columns(places(names)?),
                WayBy::Query { number, parameters } => By::Query {
                    number: *number,
                    columns: parameters
                        .iter()
                        .map(|name| {
                            let at = place(name)?;
                            Ok((name.clone(), at, shape.columns[at].data_type.clone()))
                        })
                        .collect::<Result<_>>()?,
                },
            };
            let on_change = way.on_change.as_deref().map(places).transpose()?;
            let filter =
                way.filter
                    .as_ref()
                    .map(|text| {
                        computed::compile(&text.text, &fields, &plan.values, Wanted::Condition)
                            .map_err(|fault| {
                                Error::data(
                                    Code::SchemaDrift,
                                    format!("{}: where of a track: {}", shape.name, fault.message),
                                )
                            })
                    })
                    .transpose()?;
            Ok(Way { by, on_change, filter })
        });
        Ok(Trace { ways: ways.collect::<Result<_>>()? })
    }

    /// Adds what a change touches.
    pub fn follow(
        &self,
        plan: &MappingPlan,
        view: &ViewPlan,
        op: &Op,
        touched: &mut TouchedBy,
    ) -> Result<()> {
        let (old, new) = match op {
            Op::Insert(insert) => (None, Some(&insert.new)),
            Op::Update(update) => (update.old.row(), Some(&update.new)),
            Op::Delete(delete) => (delete.old.row(), None),
        };
        for way in &self.ways {
            if !way.is_changed(op) {
                continue;
            }
            for (row, other) in [(old, new), (new, old)] {
                let Some(row) = row else { continue };
                if way.counts(plan, row)? {
                    way.add(plan, view, row, other, touched)?;
                }
            }
        }
        Ok(())
    }
}

impl Way {
    /// Whether one of the columns that count is another. What the log does not tell passes for a change.
    fn is_changed(&self, op: &Op) -> bool {
        let (Some(columns), Op::Update(update)) = (&self.on_change, op) else { return true };
        let old = match &update.old {
            OldRow::Full(row) => row,
            OldRow::Key(_) | OldRow::Absent => return true,
        };
        columns.iter().any(|&at| match (update.new.0.get(at), old.0.get(at)) {
            (Some(Value::Unchanged), _) => false,
            (Some(new), Some(old)) => !new.is_same(old),
            _ => true,
        })
    }

    fn counts(&self, plan: &MappingPlan, row: &Row) -> Result<bool> {
        let Some(filter) = &self.filter else { return Ok(true) };
        let env = computed::env(plan, computed::now());
        let told = filter
            .test(&Input { new: &row.0, old: None, lookups: &[], env: &env })
            .map_err(|error| failed(plan, "where of a track", &error))?;
        Ok(matches!(told, Truth::True | Truth::NotInLog))
    }

    fn add(
        &self,
        plan: &MappingPlan,
        view: &ViewPlan,
        row: &Row,
        other: Option<&Row>,
        touched: &mut TouchedBy,
    ) -> Result<()> {
        // What did not change may stand in the other row only.
        let cell = |at: usize| match row.0.get(at) {
            Some(Value::Unchanged) | None => {
                other.and_then(|row| row.0.get(at)).filter(|value| !value.is_unchanged())
            }
            told => told,
        };
        match &self.by {
            By::Columns(columns) => {
                let mut key = Vec::with_capacity(columns.len());
                for (&at, data_type) in columns.iter().zip(&view.by_types) {
                    let Some(value) = cell(at) else {
                        return Err(Error::data(
                            Code::IdentityMissing,
                            format!("the log does not carry the column by which {} is tracked", plan.source),
                        )
                        .with_hint("on PostgreSQL set REPLICA IDENTITY FULL or USING INDEX over it; on MySQL and MariaDB set binlog_row_image = FULL"));
                    };
                    match alike(value, data_type) {
                        Ok(Some(value)) => key.push(value),
                        // No key of the view is that.
                        Ok(None) => return Ok(()),
                        Err(_) => {
                            return Err(Error::data(
                                Code::SchemaDrift,
                                format!(
                                    "{}: a track's column has no values in common with the view's key",
                                    plan.source
                                ),
                            ));
                        }
                    }
                }
                touched.key(key.into());
            }
            By::Query { number, columns } => {
                let lists = touched.queries.entry(*number).or_insert_with(|| {
                    columns
                        .iter()
                        .map(|(column, _, data_type)| Values {
                            column: column.clone(),
                            data_type: data_type.clone(),
                            values: HashMap::new(),
                        })
                        .collect()
                });
                for (list, (_, at, _)) in lists.iter_mut().zip(columns) {
                    if let Some(value) = cell(*at).filter(|value| !value.is_null()) {
                        list.values.entry(hash(&[], [value])).or_insert_with(|| value.clone());
                    }
                }
            }
        }
        Ok(())
    }
}
