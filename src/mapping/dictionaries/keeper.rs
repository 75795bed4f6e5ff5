//! A table of codes while an attempt runs: read when it begins, and kept current from the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{
    Change, Code, Connector, Copier, DataType, Error, Key, KeyRange, OldRow, Op, Position, Result,
    Row, TableSchema, Value, form,
};

use super::KeptPlan;
use crate::expr::{Expr, Input, Truth};
use crate::mapping::MappingPlan;
use crate::mapping::computed::{self, Wanted};
use crate::reread::memory::{Hash, hash};

/// Memory that one reading may take.
const BYTES_A_READ: usize = 16 << 20;
/// Between two looks whether a snapshot shows what was applied already.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two words on changes of one dictionary.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A dictionary that is a table of the source, while an attempt runs.
pub struct Keeper {
    plan: Arc<KeptPlan>,
    bound: Option<(u64, Bound)>,
    /// What stands in its rows, by their keys.
    rows: HashMap<Hash, Entry>,
    /// The rows of a code.
    by_code: HashMap<Vec<String>, Vec<Hash>>,
    told: Option<Instant>,
    /// Whether rows are being read.
    reads: bool,
    /// How far the log has to be followed until it is as late as what was read.
    ahead: Option<Position>,
    /// The codes that stood for several values when it was read.
    doubtful: HashSet<Vec<String>>,
}

/// A row: its code, what that stands for, and whether the log has told it.
struct Entry {
    code: Vec<String>,
    value: Value,
    logged: bool,
}

/// The plan, tied to a shape of the log.
struct Bound {
    id: Vec<usize>,
    key: Vec<usize>,
    value: usize,
    filter: Option<Expr>,
}

impl Bound {
    fn new(plan: &KeptPlan, shape: &TableSchema) -> Result<Bound> {
        let drift = |what: String| {
            Error::data(Code::SchemaDrift, format!("dictionary {}: {what}", plan.name)).with_hint(
                "put the column back or change the dictionary, then take the mapping up again",
            )
        };
        let place = |name: &String| {
            let found = shape.columns.iter().position(|c| c.name == *name);
            found.ok_or_else(|| drift(format!("{}.{name}: the column is gone", shape.name)))
        };
        let places = |names: &[String]| names.iter().map(place).collect::<Result<Vec<_>>>();
        let fields = computed::fields_of(shape);
        let condition = |text: &String| {
            computed::compile(text, &fields, &plan.values, Wanted::Condition)
                .map_err(|fault| drift(format!("where: {}", fault.message)))
        };
        Ok(Bound {
            id: places(&plan.copy.key)?,
            key: places(&plan.key)?,
            value: place(&plan.value)?,
            filter: plan.filter.as_ref().map(condition).transpose()?,
        })
    }
}

impl Keeper {
    /// Reads the dictionaries of these mappings, when the log is open at `reached`. `notice` is called with a dictionary's name and what its
    /// reading waits for, if it takes long.
    pub async fn read_all(
        plans: &[Arc<MappingPlan>],
        source: &dyn Connector,
        reached: &Position,
        notice: &(dyn Fn(&str, String) + Send + Sync),
    ) -> Result<HashMap<String, Keeper>> {
        let mut keepers = HashMap::new();
        for plan in plans.iter().flat_map(|plan| &plan.kept) {
            if !keepers.contains_key(&plan.name) {
                let keeper = Keeper::read(plan, source, reached, notice).await?;
                keepers.insert(plan.name.clone(), keeper);
            }
        }
        Ok(keepers)
    }

    /// Reads the dictionaries of these mappings as they are now, for rows that are only tried.
    pub async fn look_up_all(plans: &[Arc<MappingPlan>], source: &dyn Connector) -> Result<()> {
        let kept = plans.iter().flat_map(|plan| &plan.kept);
        for plan in kept {
            let mut copier = source.copier().await?;
            Keeper::new(plan).fill(&mut *copier).await?;
        }
        Ok(())
    }

    pub(super) fn new(plan: &Arc<KeptPlan>) -> Keeper {
        Keeper {
            plan: plan.clone(),
            bound: None,
            rows: HashMap::new(),
            by_code: HashMap::new(),
            told: None,
            reads: false,
            ahead: None,
            doubtful: HashSet::new(),
        }
    }

    async fn read(
        plan: &Arc<KeptPlan>,
        source: &dyn Connector,
        reached: &Position,
        notice: &(dyn Fn(&str, String) + Send + Sync),
    ) -> Result<Keeper> {
        let mut keeper = Keeper::new(plan);
        let mut copier = source.copier().await?;
        copier.settle(&|why| notice(&plan.name, why)).await?;
        let covered = loop {
            match copier.snapshot(reached, &[]).await? {
                Some(covered) => break covered,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        keeper.fill(&mut *copier).await?;
        keeper.ahead = Some(covered);
        copier.close_snapshot().await?;
        tracing::info!(dictionary = %plan.name, codes = keeper.by_code.len(), "dictionary read");
        Ok(keeper)
    }

    /// Takes up all rows that a copier sees.
    async fn fill(&mut self, copier: &mut dyn Copier) -> Result<()> {
        let plan = self.plan.clone();
        self.clear();
        self.reads = true;
        let mut range = KeyRange { after: None, upto: None };
        loop {
            let piece = copier.read(&plan.copy, &range, BYTES_A_READ).await?;
            for row in &piece.rows {
                self.put(&piece.table, row, None)?;
            }
            let last = piece.rows.last().filter(|_| piece.cut);
            let Some(last) = last else { break };
            let bound = self.bind(&piece.table)?;
            let key: Option<Key> = bound.id.iter().map(|&at| last.0.get(at).cloned()).collect();
            range.after = key;
        }
        // Shapes of another connection may have the same numbers.
        self.bound = None;
        self.reads = false;
        let several = self.by_code.iter().filter(|(_, rows)| self.one(rows).is_none());
        self.doubtful = several.map(|(code, _)| code.clone()).collect();
        Ok(())
    }

    fn bind(&mut self, shape: &TableSchema) -> Result<&Bound> {
        if self.bound.as_ref().is_none_or(|(version, _)| *version != shape.version) {
            self.bound = Some((shape.version, Bound::new(&self.plan, shape)?));
        }
        let bound = self.bound.as_ref().map(|(_, bound)| bound);
        bound.ok_or_else(|| Error::bug("a dictionary that was just bound is not"))
    }

    /// How far the log has to be followed until it is as late as what was read; nothing when it is.
    pub fn ahead(&self) -> Option<&Position> {
        self.ahead.as_ref()
    }

    /// The log is as late as what was read: what it tells of one row says nothing of others any more.
    pub fn caught_up(&mut self) {
        self.ahead = None;
        self.doubtful.clear();
        let several = self.by_code.iter().filter(|(_, rows)| rows.len() > 1);
        let codes: Vec<Vec<String>> = several.map(|(code, _)| code.clone()).collect();
        codes.iter().for_each(|code| self.settle(code));
    }

    /// A change of its table, in log order.
    pub fn meet(&mut self, change: &Change) -> Result<()> {
        let shape = &change.table;
        match &change.op {
            Op::Insert(insert) => self.put(shape, &insert.new, None)?,
            Op::Update(update) => {
                let old = update.old.row().unwrap_or(&update.new);
                let at = self.id(shape, old)?;
                let before = self.take(at);
                let full = match &update.old {
                    OldRow::Full(row) => Some(row),
                    OldRow::Key(_) | OldRow::Absent => None,
                };
                let cells = update.new.0.iter().enumerate().map(|(at, cell)| {
                    // What did not change may stand in the old row alone.
                    let told = full.and_then(|row| row.0.get(at)).filter(|_| cell.is_unchanged());
                    told.unwrap_or(cell).clone()
                });
                self.put(shape, &Row(cells.collect()), before)?;
            }
            Op::Delete(delete) => {
                let old = delete.old.row().ok_or_else(|| self.untold())?;
                let at = self.id(shape, old)?;
                self.take(at);
            }
        }
        if self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::info!(dictionary = %self.plan.name, table = %self.plan.table(),
                "the dictionary changed: rows that come after it get its new meanings, rows that were sent keep theirs until they change or `tidelock backfill` brings them");
        }
        Ok(())
    }

    /// Its table was emptied.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.by_code.clear();
        self.plan.codes.clear();
    }

    /// The hash of a row's key.
    fn id(&mut self, shape: &TableSchema, row: &Row) -> Result<Hash> {
        let bound = self.bind(shape)?;
        let key: Option<Vec<Value>> = bound
            .id
            .iter()
            .map(|&at| row.0.get(at).filter(|v| !v.is_unchanged()).cloned())
            .collect();
        key.map(|key| hash(&[], &key)).ok_or_else(|| self.untold())
    }

    fn untold(&self) -> Error {
        Error::data(
            Code::IdentityMissing,
            format!(
                "dictionary {}: the log does not carry what a row of {} was or is",
                self.plan.name,
                self.plan.table()
            ),
        )
        .with_hint(
            "set REPLICA IDENTITY FULL (PostgreSQL) or binlog_row_image = FULL (MySQL, MariaDB)",
        )
    }

    fn take(&mut self, at: Hash) -> Option<(Vec<String>, Value)> {
        let Entry { code, value, .. } = self.rows.remove(&at)?;
        if let Some(rows) = self.by_code.get_mut(&code) {
            rows.retain(|row| *row != at);
            if rows.is_empty() {
                self.by_code.remove(&code);
            }
        }
        self.settle(&code);
        Some((code, value))
    }

    /// Takes up a row; `before` is what it was if it is known.
    fn put(
        &mut self,
        shape: &TableSchema,
        row: &Row,
        before: Option<(Vec<String>, Value)>,
    ) -> Result<()> {
        let at = self.id(shape, row)?;
        self.take(at);
        let plan = self.plan.clone();
        let bound = self.bind(shape)?;
        if let Some(filter) = &bound.filter {
            let env = computed::env_of(&plan.values, computed::now());
            let input = Input { new: &row.0, old: None, lookups: &[], env: &env };
            let told = filter.test(&input).map_err(|error| {
                Error::data(Code::Expression, format!("dictionary {}: where: {error}", plan.name))
            })?;
            match told {
                Truth::True => {}
                Truth::False | Truth::Null => return Ok(()),
                Truth::NotInLog => return Err(self.untold()),
            }
        }
        let mut code = Vec::with_capacity(bound.key.len());
        for (n, &at) in bound.key.iter().enumerate() {
            match row.0.get(at) {
                // A part that is NULL is no code.
                Some(Value::Null) => return Ok(()),
                Some(Value::Unchanged) | None => {
                    let known = before.as_ref().and_then(|(code, _)| code.get(n));
                    match known {
                        Some(part) => code.push(part.clone()),
                        None => return Err(self.untold()),
                    }
                }
                Some(value) => match form::text(value) {
                    Some(text) => {
                        let padded = shape.columns.get(at).is_some_and(|c| {
                            matches!(c.data_type, DataType::Text { padded: true, .. })
                        });
                        let text = if padded { text.trim_end_matches(' ') } else { &*text };
                        code.push(text.to_owned());
                    }
                    None => return Ok(()),
                },
            }
        }
        let value = match row.0.get(bound.value) {
            Some(Value::Unchanged) | None => match before {
                Some((_, value)) => value,
                None => return Err(self.untold()),
            },
            Some(value) => value.clone(),
        };
        self.by_code.entry(code.clone()).or_default().push(at);
        self.rows.insert(at, Entry { code: code.clone(), value, logged: !self.reads });
        self.settle(&code);
        Ok(())
    }

    /// Makes known what a code stands for now.
    fn settle(&self, code: &[String]) {
        let rows = self.by_code.get(code).map(Vec::as_slice).unwrap_or_default();
        // A row that was read and of which the log has not come to tell may have taken the code later than the row that
        // the log tells of: both had it at no time.
        let earlier = self.ahead.is_some() && !self.doubtful.contains(code);
        let logged = |row: &&Hash| self.rows.get(*row).is_some_and(|row| row.logged);
        let one = match earlier && rows.iter().any(|row| logged(&row)) {
            true => self.one(&rows.iter().filter(logged).copied().collect::<Vec<_>>()),
            false => self.one(rows),
        };
        self.plan.codes.set(code, one);
    }

    /// What these rows stand for. A code that stands for several values stands for none.
    fn one(&self, rows: &[Hash]) -> Option<Value> {
        let mut values = rows.iter().filter_map(|row| self.rows.get(row)).map(|row| &row.value);
        let first = values.next().cloned();
        first.filter(|first| values.all(|value| value.is_same(first)))
    }
}
