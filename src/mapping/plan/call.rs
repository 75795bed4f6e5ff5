//! Routines as targets: their parameters taken for columns, so that all that is checked of a table is checked of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidelock_core::{
    CallTarget, Column, DataType, Finding, Generated, Index, Parameter, ParameterMode, Routine,
    RowIdentity, Table, TableKind, TableName, TargetColumn,
};

use super::rows::placed;
use super::{NEXT_PLAN, schema_of};
use crate::config::{CallConfig, MappedColumn, MappingConfig, Place, TablePattern, TableRef};
use crate::mapping::computed::{Origin, Wanted};

/// The routines of a mapping, ready to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPlan {
    /// What takes a row, or a group.
    pub call: Arc<CallTarget>,
    /// Which of the target's columns each argument is; `None` is the rows of the group.
    pub arguments: Vec<Option<usize>>,
    /// What takes the key of a row that is gone, and which columns of the target its arguments are.
    pub delete: Option<(Arc<CallTarget>, Vec<usize>)>,
    /// The names of what the rows of a group are made of, and which columns of the target they are.
    pub rows: Option<Vec<(String, usize)>>,
}

/// A parameter's name as columns have it: without `p_` or `_` in front.
pub fn bare(name: &str) -> &str {
    let stripped = name.strip_prefix("p_").or_else(|| name.strip_prefix('_'));
    stripped.filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// The routine of this name, and what is wrong with it.
pub(super) fn find<'a>(
    routines: &'a [Routine],
    named: &TableRef,
    default_schema: &str,
    place: &crate::config::Place,
    problems: &mut Vec<Finding>,
) -> Option<&'a Routine> {
    let TablePattern::Exact(name) = &named.table else { return None };
    let name = TableName::new(schema_of(named, default_schema), name);
    let Some(routine) = routines.iter().find(|r| r.name == name) else {
        let near = routines
            .iter()
            .map(|r| (strsim::jaro_winkler(&r.name.name, &name.name), r))
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((_, near)) => format!("did you mean {}?", near.name),
            None => "create it, mend the name, or grant our role EXECUTE on it".to_owned(),
        };
        problems.push(placed(
            Finding::problem(format!(
                "there is no routine {name} at the target, or it may not be seen"
            ))
            .hint(hint),
            place,
        ));
        return None;
    };
    for why in &routine.refusals {
        let finding = Finding::problem(format!("the routine {name} cannot be called: {why}"));
        problems.push(placed(finding, place));
    }
    problems.extend(routine.hazards.iter().map(|hazard| placed(hazard.clone(), place)));
    Some(routine)
}

/// A routine as a table whose columns are its parameters. `also` are members of the rows of a group, which are no parameters.
pub(super) fn as_table(
    routine: &Routine,
    mapping: &MappingConfig,
    call: &CallConfig,
    origin: &Origin<'_>,
) -> Table {
    let source = origin.table;
    let rows = call.rows.as_ref().map(|rows| bare(&rows.text).to_owned());
    let given = |p: &&Parameter| p.mode != ParameterMode::Out;
    let mut columns: Vec<Column> = routine
        .parameters
        .iter()
        .filter(given)
        .filter(|p| rows.as_deref() != Some(bare(&p.name)))
        .map(|p| Column {
            name: bare(&p.name).to_owned(),
            data_type: p.data_type.clone(),
            native: p.native.clone(),
            nullable: true,
            has_default: p.has_default,
            generated: Generated::No,
            default: None,
            collation: None,
            logged: true,
        })
        .collect();
    if rows.is_some() {
        // What a group's rows are made of has the types of the source.
        let listed = mapping.columns.iter().flat_map(|c| &c.columns);
        // A fault of an expression is told where its column is.
        let computed = |c: &MappedColumn| origin.compile(&c.value, Wanted::Column, "").ok();
        let members = listed.map(|c| {
            let plain = c.plain().and_then(|name| source.column(&name));
            let data_type = match plain {
                Some(column) => Some(column.data_type.clone()),
                None => computed(c).map(|expr| expr.data_type().clone()),
            };
            (c.target.clone(), data_type)
        });
        let star = mapping.columns.as_ref().is_none_or(|c| c.star.is_some());
        let same = source.columns.iter().filter(|_| star);
        let members = members.chain(same.map(|c| (c.name.clone(), Some(c.data_type.clone()))));
        for (name, data_type) in members {
            if columns.iter().any(|c| c.name == name) {
                continue;
            }
            columns.push(Column {
                name,
                data_type: data_type.unwrap_or(DataType::Json),
                native: String::new(),
                nullable: true,
                has_default: true,
                generated: Generated::No,
                default: None,
                collation: None,
                logged: true,
            });
        }
    }
    let mut key: Vec<String> = mapping.key.clone().unwrap_or_default();
    key.extend(mapping.row_key.iter().flatten().map(|c| c.text.clone()));
    Table {
        name: routine.name.clone(),
        kind: TableKind::Table,
        columns,
        unique_indexes: vec![Index {
            name: String::new(),
            columns: key.iter().map(|name| bare(name).to_owned()).collect(),
            primary: true,
            immediate: true,
            not_null: true,
        }],
        identity: RowIdentity::Full,
        references: Vec::new(),
        // Each change is for the routine to see.
        triggers: true,
        refusals: Vec::new(),
    }
}

/// The mapping with the names of parameters as [`as_table`] has them.
pub(super) fn with_bare_names(mapping: &MappingConfig) -> MappingConfig {
    let mut mapping = mapping.clone();
    for name in mapping.key.iter_mut().flatten() {
        *name = bare(name).to_owned();
    }
    for name in mapping.row_key.iter_mut().flatten() {
        name.text = bare(&name.text).to_owned();
    }
    for column in mapping.columns.iter_mut().flat_map(|c| &mut c.columns) {
        column.target = bare(&column.target).to_owned();
    }
    mapping
}

/// The call of a routine with these columns of a target.
fn target_of(
    routine: &Routine,
    columns: &[TargetColumn],
    rows: Option<&str>,
) -> (CallTarget, Vec<Option<usize>>) {
    let (mut parameters, mut arguments) = (Vec::new(), Vec::new());
    for parameter in &routine.parameters {
        let name = bare(&parameter.name);
        let at = columns.iter().position(|c| c.name == name);
        if at.is_none() && rows != Some(name) {
            continue;
        }
        parameters.push(TargetColumn {
            name: parameter.name.clone(),
            data_type: parameter.data_type.clone(),
            native: parameter.native.clone(),
            identity_always: false,
        });
        arguments.push(at.filter(|_| rows != Some(name)));
    }
    let call = CallTarget {
        id: NEXT_PLAN.fetch_add(1, Ordering::Relaxed),
        name: routine.name.clone(),
        kind: routine.kind,
        parameters,
        body: routine.body.as_deref().map(Arc::from),
    };
    (call, arguments)
}

/// What a mapping calls; its columns are those of `columns`, the key of which stands at `key`.
pub(super) fn plan_call(
    call: &CallConfig,
    routine: &Routine,
    delete: Option<&Routine>,
    columns: &[TargetColumn],
    key: &[usize],
    place: &Place,
    problems: &mut Vec<Finding>,
) -> CallPlan {
    let rows = call.rows.as_ref().map(|rows| bare(&rows.text));
    if let (Some(wanted), Some(placed_rows)) = (rows, &call.rows)
        && !routine.parameters.iter().any(|p| bare(&p.name) == wanted)
    {
        problems.push(placed(
            Finding::problem(format!(
                "the routine {} has no parameter {}",
                routine.name, placed_rows.text
            ))
            .hint(format!(
                "it has {}",
                routine.parameters.iter().map(|p| &*p.name).collect::<Vec<_>>().join(", ")
            )),
            &placed_rows.place,
        ));
    }
    let (target, arguments) = target_of(routine, columns, rows);
    let given = |p: &&Parameter| target.parameters.iter().any(|known| known.name == p.name);
    let lacking: Vec<&str> = routine
        .parameters
        .iter()
        .filter(|p| p.mode != ParameterMode::Out && !p.has_default && !given(p))
        .map(|p| p.name.as_str())
        .collect();
    let rows_known =
        rows.is_none_or(|rows| routine.parameters.iter().any(|p| bare(&p.name) == rows));
    if !lacking.is_empty() && rows_known {
        let finding = Finding::problem(format!(
            "the routine {} wants {}, and nothing is mapped to it",
            routine.name,
            lacking.join(", ")
        ));
        problems.push(placed(finding.hint("add it to [mappings.columns]"), place));
    }
    let members = rows.map(|_| {
        let parameter = |name: &str| routine.parameters.iter().any(|p| bare(&p.name) == name);
        columns
            .iter()
            .enumerate()
            .filter(|(_, column)| !parameter(&column.name))
            .map(|(at, column)| (column.name.clone(), at))
            .collect()
    });
    let delete = delete.and_then(|routine| {
        let keys: Vec<TargetColumn> = key.iter().filter_map(|&i| columns.get(i).cloned()).collect();
        let (target, arguments) = target_of(routine, &keys, None);
        let lacking: Vec<&str> = routine
            .parameters
            .iter()
            .filter(|p| p.mode != ParameterMode::Out && !p.has_default)
            .filter(|p| !keys.iter().any(|k| k.name == bare(&p.name)))
            .map(|p| p.name.as_str())
            .collect();
        if !lacking.is_empty() {
            let names: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
            let finding = Finding::problem(format!(
                "the routine {} wants {}, and of a row that is gone only the key is known ({})",
                routine.name,
                lacking.join(", "),
                names.join(", ")
            ))
            .hint("give those parameters defaults where the server has such, or name a routine that takes the key alone");
            problems.push(match &call.delete {
                Some((_, place)) => placed(finding, place),
                None => finding,
            });
        }
        let arguments: Option<Vec<usize>> = arguments.into_iter().collect();
        Some((Arc::new(target), arguments?))
    });
    CallPlan { call: Arc::new(target), arguments, delete, rows: members }
}
