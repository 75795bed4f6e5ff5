//! Dictionaries that are tables.
//!
//! **A table of the source** is read when an attempt begins, and kept current from the flow's own log: its changes are met in log
//! order with those of the mapped tables, so a row behind a change is translated by what the change made of it, in the same
//! transaction too. What was read is as late as the place where the attempt begins or later, and changes from that place on are
//! laid over it, each row by its key; so once the log has been followed as far as what was read, both are the same. A row of a
//! backlog that comes before such a change may get the later meaning. Nothing is stored: a crash, and any other end of an attempt, is
//! answered by reading again.
//!
//! **A table of the target** is not read but looked up ([`super::lookups`]), so it is always current.
//!
//! Rows that were sent before a dictionary changed keep the meaning they had. What is read again, and what an expression does with a
//! dictionary after it has waited for a lookup, has the meaning of that later time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidelock_core::{
    Change, Code, Connector, Copier, CopyTable, DataType, Error, Finding, Key, KeyRange, OldRow,
    Op, Position, Result, Row, RowIdentity, SourceTable, Table, TableKind, TableName, TableSchema,
    Value, form,
};

use super::computed::{self, Origin, Wanted};
use super::plan::{Catalogs, MappingPlan, exact};
use crate::config::{Codes, DictionaryTable, FlowConfig, Known, Values};
use crate::expr::{Expr, Input, Truth};
use crate::reread::memory::{Hash, hash};

/// Memory that one reading may take.
const BYTES_A_READ: usize = 16 << 20;
/// Between two looks whether a snapshot shows what was applied already.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two words on changes of one dictionary.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A dictionary that is a table of the source.
#[derive(Debug)]
pub struct KeptPlan {
    /// Its name.
    pub name: String,
    /// How it is read, and by which key its rows are told apart.
    pub copy: CopyTable,
    key: Vec<String>,
    value: String,
    filter: Option<String>,
    values: Arc<Values>,
    codes: Arc<Codes>,
}

impl KeptPlan {
    /// The table.
    pub fn table(&self) -> &TableName {
        &self.copy.name
    }

    /// The column of what its codes stand for.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What the source must deliver for it. It is read when the log has been opened, so a server may be told of it then.
    pub fn source_table(&self) -> SourceTable {
        SourceTable {
            name: self.copy.name.clone(),
            key_columns: self.copy.key.clone(),
            columns: self.copy.columns.clone(),
            shape: String::new(),
            joins: true,
            optional: false,
        }
    }
}

/// The flow's values with all that the catalogs tell of dictionaries that are tables, and those that are to be kept.
pub(super) fn known(
    flow: &FlowConfig,
    catalogs: &Catalogs<'_>,
) -> Option<(Arc<Values>, Vec<Arc<KeptPlan>>)> {
    let mut known = HashMap::new();
    let mut kept = Vec::new();
    for (at, name, table) in flow.values.tables() {
        let found = if table.table.system == flow.target {
            sought(table, catalogs)
        } else if table.table.system == flow.source {
            keep(name, table, flow, catalogs).map(|(plan, known)| {
                kept.push(plan);
                known
            })
        } else {
            Err((format!("it is a table of {}", table.table.system), String::new()))
        };
        known.insert(at, found.unwrap_or_else(|(message, hint)| Known::Fault { message, hint }));
    }
    (!known.is_empty()).then(|| {
        let values = Arc::new(flow.values.with(known));
        (values, kept.into_iter().map(Arc::new).collect())
    })
}

type Fault = (String, String);

fn column<'a>(
    table: &'a Table,
    name: &str,
) -> std::result::Result<&'a tidelock_core::Column, Fault> {
    table.column(name).ok_or_else(|| {
        let finding = super::plan::no_column(table, name, "dictionary's");
        (finding.message, finding.hint)
    })
}

fn sought(table: &DictionaryTable, catalogs: &Catalogs<'_>) -> std::result::Result<Known, Fault> {
    let found = exact(&table.table, catalogs.target_schema)
        .and_then(|name| catalogs.target.get(&name))
        .ok_or_else(|| unseen(table))?;
    let value = column(found, &table.value)?;
    for name in &table.key {
        column(found, name)?;
    }
    if table.filter.is_some() {
        return Err((
            "it is a table of the target, which is looked up by its key alone: there is no `where` for it".to_owned(),
            "use lookup('system.table', ('kind', 'code'), ('x', code), 'meaning') instead".to_owned(),
        ));
    }
    Ok(Known::Sought { result: value.data_type.clone(), nullable: value.nullable })
}

fn unseen(table: &DictionaryTable) -> Fault {
    (
        format!("its table {} does not exist or may not be seen", table.written),
        "create it, mend the name, or grant our role the right to see it".to_owned(),
    )
}

fn keep(
    name: &str,
    table: &DictionaryTable,
    flow: &FlowConfig,
    catalogs: &Catalogs<'_>,
) -> std::result::Result<(KeptPlan, Known), Fault> {
    let found = exact(&table.table, catalogs.source_schema)
        .and_then(|name| catalogs.source.get(&name))
        .ok_or_else(|| unseen(table))?;
    if !matches!(found.kind, TableKind::Table | TableKind::Partitioned) {
        let hint = "name the table itself: a view has no log to keep it current from";
        return Err((format!("{} is not an ordinary table", found.name), hint.to_owned()));
    }
    if let Some(why) = found.refusals.first() {
        return Err((format!("{} cannot be followed: {why}", found.name), String::new()));
    }
    let value = column(found, &table.value)?;
    let mut types = Vec::with_capacity(table.key.len());
    for key in &table.key {
        let key = column(found, key)?;
        if !is_code(&key.data_type) {
            return Err((
                format!(
                    "{}.{} is of type {}, and codes are texts and whole numbers",
                    found.name, key.name, key.native
                ),
                String::new(),
            ));
        }
        types.push(key.data_type.clone());
    }
    let told = |columns: &[String]| match &found.identity {
        RowIdentity::Full => true,
        RowIdentity::Columns(identity) => columns.iter().all(|c| identity.contains(c)),
        RowIdentity::Nothing => false,
    };
    let index = found.unique_indexes.iter().find(|i| i.immediate && i.not_null && told(&i.columns));
    let Some(index) = index else {
        return Err((
            format!("{} has no key whose old values its log tells", found.name),
            "give it a primary key".to_owned(),
        ));
    };
    let mut columns: Vec<String> = index.columns.clone();
    let mut also: Vec<String> = table.key.clone();
    also.push(table.value.clone());
    if let Some(filter) = &table.filter {
        let origin = Origin::new(found, &flow.values);
        let fields = &origin.fields;
        let expr = computed::compile(filter, fields, &flow.values, Wanted::Condition)
            .map_err(|fault| (format!("where: {}", fault.message), fault.hint))?;
        if expr.uses_clock() || !expr.dictionaries().is_empty() {
            let words = "where: it may look at the row alone, not at the clock or at dictionaries";
            return Err((words.to_owned(), String::new()));
        }
        also.extend(origin.names(expr.fields()));
    }
    for name in also {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let codes = Arc::new(Codes::default());
    let plan = KeptPlan {
        name: name.to_owned(),
        copy: CopyTable {
            name: found.name.clone(),
            columns,
            key: index.columns.clone(),
            filter: None,
        },
        key: table.key.clone(),
        value: table.value.clone(),
        filter: table.filter.clone(),
        values: flow.values.clone(),
        codes: codes.clone(),
    };
    let (result, nullable) = (value.data_type.clone(), value.nullable);
    Ok((plan, Known::Kept { types, result, nullable, codes }))
}

/// Whether values of a type are the same exactly where their texts are.
fn is_code(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Text { .. }
            | DataType::Int { .. }
            | DataType::Bool
            | DataType::Enum { .. }
            | DataType::Uuid
            | DataType::Date
            | DataType::Year
    )
}

/// Warns where several rows may have one code.
pub(super) fn judge(kept: &[Arc<KeptPlan>], catalogs: &Catalogs<'_>) -> Vec<Finding> {
    let doubtful = kept.iter().filter(|plan| {
        let table = catalogs.source.get(plan.table());
        plan.filter.is_none() && !table.is_some_and(|table| table.is_unique(&plan.key))
    });
    let warning = |plan: &Arc<KeptPlan>| {
        Finding::warning(format!(
            "dictionary {}: {} has no unique index over ({}): a code that stands for several values counts as missing",
            plan.name,
            plan.table(),
            plan.key.join(", ")
        ))
    };
    doubtful.map(warning).collect()
}

/// A dictionary that is a table of the source, while an attempt runs.
pub struct Keeper {
    plan: Arc<KeptPlan>,
    bound: Option<(u64, Bound)>,
    /// What stands in its rows, by their keys.
    rows: HashMap<Hash, (Vec<String>, Value)>,
    /// The rows of a code.
    by_code: HashMap<Vec<String>, Vec<Hash>>,
    told: Option<Instant>,
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
    /// Reads the dictionaries of these mappings, when the log is open at `reached`.
    pub async fn read_all(
        plans: &[Arc<MappingPlan>],
        source: &dyn Connector,
        reached: &Position,
    ) -> Result<HashMap<String, Keeper>> {
        let mut keepers = HashMap::new();
        for plan in plans.iter().flat_map(|plan| &plan.kept) {
            if !keepers.contains_key(&plan.name) {
                keepers.insert(plan.name.clone(), Keeper::read(plan, source, reached).await?);
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

    fn new(plan: &Arc<KeptPlan>) -> Keeper {
        Keeper {
            plan: plan.clone(),
            bound: None,
            rows: HashMap::new(),
            by_code: HashMap::new(),
            told: None,
        }
    }

    async fn read(
        plan: &Arc<KeptPlan>,
        source: &dyn Connector,
        reached: &Position,
    ) -> Result<Keeper> {
        let mut keeper = Keeper::new(plan);
        let mut copier = source.copier().await?;
        let name = plan.name.clone();
        let notice = move |why: String| {
            tracing::warn!(dictionary = %name, "reading a dictionary waits: {why}");
        };
        copier.settle(&notice).await?;
        while copier.snapshot(reached, &[]).await?.is_none() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        keeper.fill(&mut *copier).await?;
        copier.close_snapshot().await?;
        tracing::info!(dictionary = %plan.name, codes = keeper.by_code.len(), "dictionary read");
        Ok(keeper)
    }

    /// Takes up all rows that a copier sees.
    async fn fill(&mut self, copier: &mut dyn Copier) -> Result<()> {
        let plan = self.plan.clone();
        self.clear();
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
        Ok(())
    }

    fn bind(&mut self, shape: &TableSchema) -> Result<&Bound> {
        if self.bound.as_ref().is_none_or(|(version, _)| *version != shape.version) {
            self.bound = Some((shape.version, Bound::new(&self.plan, shape)?));
        }
        let bound = self.bound.as_ref().map(|(_, bound)| bound);
        bound.ok_or_else(|| Error::bug("a dictionary that was just bound is not"))
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
        let (code, value) = self.rows.remove(&at)?;
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
        self.rows.insert(at, (code.clone(), value));
        self.settle(&code);
        Ok(())
    }

    /// Makes known what a code stands for now.
    fn settle(&self, code: &[String]) {
        let rows = self.by_code.get(code).map(Vec::as_slice).unwrap_or_default();
        let mut values = rows.iter().filter_map(|row| self.rows.get(row)).map(|(_, value)| value);
        let first = values.next().cloned();
        // One that stands for several values stands for none.
        let one = first.filter(|first| values.all(|value| value.is_same(first)));
        self.plan.codes.set(code, one);
    }
}

#[cfg(test)]
mod tests;
