//! Dictionaries that are tables.
//!
//! **A table of the source** is read when an attempt begins, and kept current from the flow's own log: its changes are met in log
//! order with those of the mapped tables, so a row behind a change is translated by what the change made of it, in the same
//! transaction too. What was read is as late as the place where the attempt begins or later, and changes from that place on are
//! laid over it, each row by its key; so once the log has been followed as far as what was read, both are the same. Until then, a
//! code that a row of the log has is that row's, though a later row has it where it was read. A row of a backlog that comes
//! before such a change may get the later meaning. Nothing is stored: a crash, and any other end of an attempt, is
//! answered by reading again.
//!
//! **A table of the target** is not read but looked up ([`super::lookups`]), so it is always current.
//!
//! Rows that were sent before a dictionary changed keep the meaning they had. What is read again, and what an expression does with a
//! dictionary after it has waited for a lookup, has the meaning of that later time.

mod keeper;

use std::collections::HashMap;
use std::sync::Arc;

use tidelock_core::{
    CopyTable, DataType, Finding, RowIdentity, SourceTable, Table, TableKind, TableName,
};

pub use self::keeper::Keeper;
use super::computed::{self, Origin, Wanted};
use super::plan::{Catalogs, exact};
use crate::config::{Codes, DictionaryTable, FlowConfig, Known, Values};

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

#[cfg(test)]
mod tests;
