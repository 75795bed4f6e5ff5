//! What a mapping says of rows, tied to a shape of the log: the filter, what must hold, and what is worth sending.

use tidelock_core::{Code, Error, Result, Row, TableSchema, Value};

use super::computed::{self, Wanted};
use super::plan::MappingPlan;
use crate::config::Placed;
use crate::expr::{Env, EvalError, EvalErrorKind, Expr, Input, Truth};
use crate::reread::memory::hash;

/// Whether a row meets the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The log does not carry what that depends on.
    Untold,
}

/// On which side of an edge a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// The condition holds.
    pub rise: bool,
    /// What arms it again holds.
    pub fall: bool,
    /// Whether that is told, too.
    pub tells_fall: bool,
}

struct Edge {
    rise: Expr,
    fall: Option<Expr>,
    hysteresis: Option<Expr>,
}

/// The rules of a mapping over the rows of one shape.
pub struct Rules {
    edge: Option<Edge>,
    filter: Option<Expr>,
    checks: Vec<(Expr, String)>,
    on_change: Option<Vec<usize>>,
}

impl Rules {
    /// Ties a plan's rules to a shape; [`Code::SchemaDrift`] if they do not fit it any more.
    pub fn new(plan: &MappingPlan, shape: &TableSchema) -> Result<Rules> {
        let fields = computed::fields_of(shape);
        let compiled = |text: &str, what: &str, wanted: Wanted| {
            computed::compile(text, &fields, &plan.values, wanted).map_err(|fault| {
                Error::data(Code::SchemaDrift, format!("{}: {what}: {}", shape.name, fault.message))
                    .with_hint("mend the condition or the table, then take the mapping up again")
            })
        };
        let condition = |text: &str, what: &str| compiled(text, what, Wanted::Condition);
        let rows = &plan.rows;
        let filter = rows.filter.as_ref().map(|f| condition(&f.text, "where")).transpose()?;
        let checks = rows
            .checks
            .iter()
            .map(|check| {
                Ok((compiled(&check.rule.text, "validate", Wanted::Rule)?, check.says.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let place = |name: &String| {
            shape.columns.iter().position(|c| c.name == *name).ok_or_else(|| {
                Error::data(
                    Code::SchemaDrift,
                    format!("{}.{name}: the column is gone from the source table", shape.name),
                )
                .with_hint(
                    "put the column back or change the mapping, then take the mapping up again",
                )
            })
        };
        let on_change = rows
            .on_change
            .as_ref()
            .map(|names| names.iter().map(place).collect::<Result<Vec<_>>>())
            .transpose()?;
        let edge = match &rows.edge {
            None => None,
            Some(edge) => {
                let end = |text: &Option<Placed>| {
                    text.as_ref().map(|text| condition(&text.text, "edge")).transpose()
                };
                Some(Edge {
                    rise: condition(&edge.rise.text, "edge")?,
                    fall: end(&edge.fall)?,
                    hysteresis: end(&edge.hysteresis)?,
                })
            }
        };
        Ok(Rules { edge, filter, checks, on_change })
    }

    /// Whether rows are filtered at all.
    pub fn filters(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether rows come and go by the filter as time passes.
    pub fn passes_with_time(&self) -> bool {
        self.filter.as_ref().is_some_and(Expr::uses_clock)
    }

    /// Whether a row meets the filter.
    pub fn holds(&self, plan: &MappingPlan, row: &[Value], env: &Env<'_>) -> Result<Holds> {
        let Some(filter) = &self.filter else { return Ok(Holds::Yes) };
        let told = filter
            .test(&Input { new: row, old: None, lookups: &[], env })
            .map_err(|error| failed(plan, "where", &error))?;
        Ok(match told {
            Truth::True => Holds::Yes,
            Truth::False | Truth::Null => Holds::No,
            Truth::NotInLog => Holds::Untold,
        })
    }

    /// On which side of the mapping's edge a row is; nothing where it has none, or where the log does not carry
    /// what that depends on: then the row is sent.
    pub fn signs(&self, plan: &MappingPlan, row: &[Value], env: &Env<'_>) -> Result<Option<Signs>> {
        let Some(edge) = &self.edge else { return Ok(None) };
        let input = Input { new: row, old: None, lookups: &[], env };
        let test = |expr: &Expr| expr.test(&input).map_err(|error| failed(plan, "edge", &error));
        let rise = test(&edge.rise)?;
        let mut fall = match &edge.fall {
            Some(fall) => test(fall)?,
            None if edge.hysteresis.is_some() => Truth::True,
            None => match rise {
                Truth::True => Truth::False,
                Truth::False | Truth::Null => Truth::True,
                Truth::NotInLog => Truth::NotInLog,
            },
        };
        if let (Some(armed), Truth::True) = (&edge.hysteresis, fall) {
            fall = test(armed)?;
        }
        if rise == Truth::NotInLog || fall == Truth::NotInLog {
            return Ok(None);
        }
        let tells_fall = edge.fall.is_some();
        Ok(Some(Signs { rise: rise == Truth::True, fall: fall == Truth::True, tells_fall }))
    }

    /// Judges a row that is about to be sent. Whether all rules could be judged: the log may not carry what they look at.
    pub fn check(
        &self,
        plan: &MappingPlan,
        new: &[Value],
        old: Option<&[Value]>,
        env: &Env<'_>,
    ) -> Result<bool> {
        let mut judged = true;
        for (rule, says) in &self.checks {
            let test = |old: Option<&[Value]>| {
                rule.test(&Input { new, old, lookups: &[], env })
                    .map_err(|error| failed(plan, "validate", &error))
            };
            let mut told = test(old)?;
            let whole = rule.fields().iter().all(|&at| new.get(at).is_some_and(is_told));
            if told == Truth::NotInLog && whole {
                // What is not known of the row before the change is NULL; no reading would bring it.
                told = test(None)?;
            }
            match told {
                Truth::True => {}
                Truth::NotInLog => judged = false,
                Truth::False | Truth::Null => {
                    let hint = match told {
                        Truth::Null => {
                            "the rule is NULL for it, which is not true: say that NULL is right, x IS NULL OR ..., or mend the row at the source"
                        }
                        _ => "mend the row at the source, or the rule in the configuration",
                    };
                    return Err(Error::data(
                        Code::Invalid,
                        format!("{}: a row is not valid: {says}", plan.source),
                    )
                    .with_hint(hint));
                }
            }
        }
        Ok(judged)
    }

    /// Whether a rule looks at one of the columns that are so.
    pub fn concerns(&self, is: impl Fn(usize) -> bool) -> bool {
        self.checks.iter().any(|(rule, _)| rule.fields().iter().any(|&at| is(at)))
    }

    /// Whether a rule looks at several columns together.
    pub fn join(&self) -> bool {
        self.checks.iter().any(|(rule, _)| rule.fields().len() > 1)
    }

    /// Whether an update changes what makes it worth sending. What the log does not tell passes for a change.
    pub fn is_worth(&self, new: &[Value], old: Option<&Row>) -> bool {
        let (Some(columns), Some(old)) = (&self.on_change, old) else { return true };
        columns.iter().any(|&at| match (new.get(at), old.0.get(at)) {
            (Some(Value::Unchanged), _) => false,
            (Some(new), Some(old)) => !new.is_same(old),
            _ => true,
        })
    }
}

fn is_told(value: &Value) -> bool {
    !value.is_unchanged()
}

/// An expression that failed over a row.
pub fn failed(plan: &MappingPlan, what: &str, error: &EvalError) -> Error {
    let (code, hint) = match &error.kind {
        EvalErrorKind::DictionaryMissing { .. } => (
            Code::DictionaryMissing,
            "add the code to the dictionary, or give a default: dictionary('name', code, default); then `tidelock resync` the mapping",
        ),
        EvalErrorKind::LookupMissing { .. } => (
            Code::LookupMissing,
            "add the row at the target, or say what else: coalesce(lookup(...), value), or insert => true; then `tidelock resync` the mapping",
        ),
        _ => {
            (Code::Expression, "mend the row at the source, or the expression in the configuration")
        }
    };
    Error::data(code, format!("{}: {what}: {error}", plan.source)).with_hint(hint)
}

/// Tells rows of one table apart without telling their keys.
pub fn key_hash(key: &[Value]) -> String {
    hex::encode(&hash(&[], key)[..6])
}
