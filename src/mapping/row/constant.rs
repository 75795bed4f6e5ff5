//! Values that need no row: constants, and one value of the source as a column of the target holds it.

use tidelock_core::{Code, Error, JsonForm, Result, TargetColumn, Value};

use super::bind;
use crate::expr::Input;
use crate::mapping::computed;
use crate::mapping::convert::{Conversion, Rule, Target};
use crate::mapping::plan::{ColumnPlan, Computed, Feed, MappingPlan};
use crate::mapping::rules;

/// A value of the source as a column of the target holds it.
pub fn converted(
    plan: &MappingPlan,
    column: &ColumnPlan,
    target: &TargetColumn,
    value: &Value,
) -> Result<Value> {
    let to = Target {
        data_type: &target.data_type,
        nullable: column.nullable,
        same_family: plan.same_family,
        json_form: column.json_form,
    };
    Conversion::new(&column.from, to, &column.rule).apply(value).map_err(|misfit| {
        Error::data(
            Code::NotRepresentable,
            format!("{} to {}.{}: {misfit}", plan.source, plan.target.name, target.name),
        )
    })
}
/// What a column that is fed by a constant holds in every row of the mapping.
pub fn constant(plan: &MappingPlan, column: usize) -> Result<Value> {
    match plan.columns.get(column).map(|column| &column.feed) {
        Some(Feed::Computed(computed)) => constant_of(plan, column, computed),
        Some(Feed::Column(_)) => Err(Error::bug("a column of the source was taken for a constant")),
        None => Err(Error::bug("a plan lacks a column")),
    }
}

/// What a constant is in a column.
pub fn constant_of(plan: &MappingPlan, column: usize, computed: &Computed) -> Result<Value> {
    let Some(to) = plan.target.columns.get(column) else {
        return Err(Error::bug("a plan lacks a column"));
    };
    let known = plan.columns.get(column);
    let expr = bind(&computed.text.text, &[], plan, &to.name)?;
    let env = computed::env(plan, computed::now());
    let value = expr
        .eval(&Input { new: &[], old: None, lookups: &[], env: &env })
        .map_err(|error| rules::failed(plan, &to.name, &error))?;
    let target = Target {
        data_type: &to.data_type,
        nullable: known.is_none_or(|c| c.nullable),
        same_family: plan.same_family,
        json_form: known.map_or(JsonForm::Text, |c| c.json_form),
    };
    let rule = known.map_or_else(Rule::default, |c| c.rule.clone());
    Conversion::new(expr.data_type(), target, &rule).take(value).map_err(|misfit| {
        Error::data(Code::NotRepresentable, format!("{}.{}: {misfit}", plan.target.name, to.name))
    })
}
