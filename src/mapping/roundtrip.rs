//! Whether what goes one way comes back as it was: for mappings of both directions over the same columns.
//!
//! A pair of plain columns of types that hold each other's values is proved by the conversion itself, which is exact or an
//! error. Everything else is tried: values that expressions, types and zones tend to change (case, blanks, digits, codes of
//! dictionaries) are sent there and back, one column after the other. A value that comes back as another one disproves
//! the pair; where none does, that is all that is said.

use std::sync::Arc;

use tidelock_core::{
    DataType, Date, Instant, Result, Row, StreamColumn, TableSchema, Time, Timestamp, Value, form,
};

use super::plan::{Feed, MappingPlan};
use super::{Becomes, BoundPlan};
use crate::config::OnUnrepresentable;

/// What is known of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every value that goes comes back.
    Proved,
    /// This value, made for the trial, comes back as that one.
    Lost {
        /// What went, as text.
        sent: String,
        /// What came back.
        back: String,
    },
    /// Nothing speaks against it.
    Unproved,
}

/// A column that goes both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The column of our source.
    pub column: String,
    /// What is known of it.
    pub verdict: Verdict,
}

/// Judges the columns of our source that their mapping writes.
pub fn judge(ours: &Arc<MappingPlan>, theirs: &Arc<MappingPlan>) -> Result<Vec<Judged>> {
    let trip = Trip::new(ours, theirs)?;
    let mut judged = Vec::new();
    let base = trip.base();
    for at in trip.both_ways() {
        let Some(column) = ours.reads.get(at).cloned() else { continue };
        let verdict = match trip.is_plain(at) {
            true => Verdict::Proved,
            false => trip.try_column(at, &base),
        };
        judged.push(Judged { column, verdict });
    }
    Ok(judged)
}

/// What of a real row does not come back: the columns. Nothing where the row does not go at all.
pub fn lost(ours: &Arc<MappingPlan>, theirs: &Arc<MappingPlan>, row: &Row) -> Result<Vec<String>> {
    let trip = Trip::new(ours, theirs)?;
    let Some(back) = trip.back(row) else { return Ok(Vec::new()) };
    let differs = |at: &usize| match (row.0.get(*at), back.get(*at)) {
        (Some(sent), Some(Some(back))) => !is_equal(sent, back),
        _ => false,
    };
    let names = trip.both_ways().into_iter().filter(differs);
    Ok(names.filter_map(|at| ours.reads.get(at).cloned()).collect())
}

/// The columns that a mapping reads, as the log would announce them.
pub fn shape_of(plan: &MappingPlan) -> TableSchema {
    let columns = plan.reads.iter().zip(&plan.read_types);
    TableSchema {
        name: plan.source.clone(),
        version: 0,
        columns: columns
            .map(|(name, data_type)| StreamColumn {
                name: name.clone(),
                data_type: data_type.clone(),
                identity: false,
            })
            .collect(),
    }
}

/// Made rows that are tried for one that goes.
const ROWS_TRIED: usize = 500;

struct Trip<'a> {
    ours: &'a Arc<MappingPlan>,
    theirs: &'a Arc<MappingPlan>,
    there: BoundPlan,
    back: BoundPlan,
}

impl<'a> Trip<'a> {
    fn new(ours: &'a Arc<MappingPlan>, theirs: &'a Arc<MappingPlan>) -> Result<Trip<'a>> {
        let there = BoundPlan::new(ours, &shape_of(ours))?;
        let back = BoundPlan::new(theirs, &shape_of(theirs))?;
        Ok(Trip { ours, theirs, there, back })
    }

    /// The columns that we read and they write, by their numbers among those that we read.
    fn both_ways(&self) -> Vec<usize> {
        let pairs = self.theirs.pairs();
        let sent: Vec<(String, String)> = self.ours.pairs();
        let goes = |name: &String| {
            pairs.iter().any(|(theirs, back)| {
                back == name && sent.iter().any(|(from, to)| from == name && to == theirs)
            })
        };
        (0..self.ours.reads.len()).filter(|&at| self.ours.reads.get(at).is_some_and(goes)).collect()
    }

    /// Whether a column goes and comes as it is, between types of which each holds the other's values or refuses them.
    fn is_plain(&self, at: usize) -> bool {
        let Some(name) = self.ours.reads.get(at) else { return false };
        let exact = |plan: &MappingPlan, source: &str, target: &str| {
            plan.columns.iter().zip(&plan.target.columns).any(|(column, to)| {
                column.feed == Feed::Column(source.to_owned())
                    && to.name == target
                    && column.rule.policy == OnUnrepresentable::Error
                    && column.rule.zone.is_none()
                    && keeps(&column.from, &to.data_type)
            })
        };
        let sent = self.ours.pairs();
        sent.iter()
            .filter(|(from, _)| from == name)
            .any(|(_, to)| exact(self.ours, name, to) && exact(self.theirs, to, name))
    }

    /// The source row that their mapping makes of what ours makes of a row: by the numbers of what we read. Nothing where it does not
    /// go or does not fit.
    fn back(&self, row: &Row) -> Option<Vec<Option<Value>>> {
        let sent = self.written(&self.there, row)?;
        let cells = self.theirs.reads.iter().map(|name| {
            let at = self.ours.target.columns.iter().position(|c| c.name == *name);
            at.and_then(|at| sent.get(at)).cloned().unwrap_or(Value::Null)
        });
        let back = self.written(&self.back, &Row(cells.collect()))?;
        let told = |name: &String| {
            let at = self.theirs.target.columns.iter().position(|c| c.name == *name)?;
            back.get(at).cloned()
        };
        Some(self.ours.reads.iter().map(told).collect())
    }

    fn written(&self, plan: &BoundPlan, row: &Row) -> Option<Box<[Value]>> {
        match plan.now(row) {
            // What is looked up is not known here.
            Ok(Becomes::Write(write))
                if write.row.len() >= plan.plan().columns.len() && write.waits.is_empty() =>
            {
                Some(write.row)
            }
            _ => None,
        }
    }

    /// A made row that goes there, if one is found: values that each are harmless may not meet the filter together.
    fn base(&self) -> Vec<Value> {
        let samples: Vec<Vec<Value>> = self.ours.read_types.iter().map(samples).collect();
        let row = |turn: usize| -> Vec<Value> {
            let value = |(at, samples): (usize, &Vec<Value>)| {
                // Each column goes through its values at a pace of its own.
                let nth = (turn * (2 * at + 1) + turn / 7) % samples.len().max(1);
                samples.get(nth).cloned().unwrap_or(Value::Null)
            };
            samples.iter().enumerate().map(value).collect()
        };
        let goes = |row: &Vec<Value>| self.written(&self.there, &Row(row.clone().into())).is_some();
        (0..ROWS_TRIED).map(row).find(goes).unwrap_or_else(|| row(0))
    }

    /// Whether a column of ours takes NULL, as far as their mapping tells.
    fn takes_null(&self, at: usize) -> bool {
        let name = self.ours.reads.get(at);
        let mut columns = self.theirs.columns.iter().zip(&self.theirs.target.columns);
        columns.any(|(column, to)| Some(&to.name) == name && column.nullable)
    }

    fn try_column(&self, at: usize, base: &[Value]) -> Verdict {
        let mut tried = self.ours.read_types.get(at).map(samples).unwrap_or_default();
        // Codes are what a dictionary changes.
        tried.extend(self.ours.values.codes().into_iter().map(|code| Value::Text(code.into())));
        if self.takes_null(at) {
            tried.push(Value::Null);
        }
        for value in tried {
            let mut cells = base.to_vec();
            let Some(cell) = cells.get_mut(at) else { break };
            *cell = value.clone();
            let Some(back) = self.back(&Row(cells.into())) else { continue };
            if let Some(Some(back)) = back.get(at)
                && !is_equal(&value, back)
            {
                let text =
                    |value: &Value| form::text(value).map_or("NULL".into(), |t| format!("'{t}'"));
                return Verdict::Lost { sent: text(&value), back: text(back) };
            }
        }
        Verdict::Unproved
    }
}

/// Whether a type of the one kind keeps what a type of the other holds, digit by digit, or refuses it.
fn keeps(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        // Blanks at the end of CHAR mean nothing, and do not come back.
        (T::Text { padded: a, .. }, T::Text { padded: b, .. }) => a == b,
        (T::Json, T::Json) => false,
        _ => std::mem::discriminant(from) == std::mem::discriminant(to),
    }
}

/// Numbers written otherwise are the same.
fn is_equal(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Decimal(t) if t.contains('.') => {
            Some(t.trim_end_matches('0').trim_end_matches('.').to_owned())
        }
        Value::Decimal(t) => Some(t.to_string()),
        Value::Int(i) => Some(i.to_string()),
        Value::UInt(u) => Some(u.to_string()),
        _ => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.is_same(b),
    }
}

/// Values that tend to be changed on the way; the first is a harmless one.
fn samples(data_type: &DataType) -> Vec<Value> {
    use DataType as T;
    let texts = |texts: &[&str], make: fn(&str) -> Value| texts.iter().map(|t| make(t)).collect();
    let text = |t: &str| Value::Text(t.to_owned().into());
    match data_type {
        T::Bool => vec![Value::Bool(true), Value::Bool(false)],
        T::Int { bits, unsigned: true } => {
            let most = u64::MAX >> (64 - u32::from((*bits).clamp(1, 64)));
            [1, 0, 2, 99, 100, most - 1].map(Value::UInt).to_vec()
        }
        T::Int { bits, .. } => {
            let most = i64::MAX >> (64 - u32::from((*bits).clamp(1, 64)));
            [1, 0, 2, -1, 7, 99, 100, most - 1, -most].map(Value::Int).to_vec()
        }
        T::Decimal { precision, scale } => {
            let digits = usize::from(scale.unwrap_or(4).min(12));
            let whole = usize::from(precision.unwrap_or(24)).saturating_sub(digits).min(20);
            let last = format!("0.{}1", "0".repeat(digits.saturating_sub(1)));
            // All its digits, of which a float keeps some.
            let full = match digits {
                0 => "8".repeat(whole.max(1)),
                _ => format!("{}.{}7", "8".repeat(whole.max(1)), "6".repeat(digits - 1)),
            };
            let all = ["1", "0", "-2", "12.5", "0.07", "33.33", &last, &full];
            let fits = |t: &&&str| {
                let (before, after) = t.split_once('.').unwrap_or((t, ""));
                after.len() <= digits && before.trim_start_matches('-').len() <= whole.max(1)
            };
            all.iter().filter(fits).map(|t| Value::Decimal((*t).to_owned().into())).collect()
        }
        T::Float32 => [1.0, 0.1, 1.0 / 3.0, 16_777_215.0].map(Value::Float32).to_vec(),
        T::Float64 => [1.0, 0.1, 1.0 / 3.0, 1e15 + 0.5].map(Value::Float64).to_vec(),
        T::Text { chars_max, .. } => {
            let long = "abcdefghij".repeat(chars_max.map_or(10, |most| most / 10).min(10) as usize);
            let all = ["a", "Ab", " x ", "", "007", "é", "a-b", "A B", "中文", "1,5", &long];
            let most = chars_max.unwrap_or(u64::MAX);
            let fits = |t: &&&str| t.chars().count() as u64 <= most;
            all.iter().filter(fits).map(|t| text(t)).collect()
        }
        T::Bytes { fixed: None, .. } => {
            vec![Value::Bytes(vec![1].into()), Value::Bytes(vec![0, 255].into())]
        }
        // The second is a 29th of February, the third before 1970.
        T::Date => [20_000, 19_782, -1_400].map(|d| Value::Date(Date(d))).to_vec(),
        T::Time { fsp, .. } => {
            let part = if *fsp > 0 { 100_000 } else { 0 };
            [0, 3_600_000_000, 86_399_000_000 + part].map(|t| Value::Time(Time(t))).to_vec()
        }
        T::Timestamp { fsp } => {
            let part = if *fsp > 0 { 100_000 } else { 0 };
            [1_700_000_000_000_000, 1_711_846_800_000_000 + part]
                .map(|t| Value::Timestamp(Timestamp(t)))
                .to_vec()
        }
        T::Instant { fsp, .. } => {
            let part = if *fsp > 0 { 100_000 } else { 0 };
            // The hour that comes twice in much of Europe among them.
            [1_700_000_000_000_000, 1_729_991_400_000_000 + part, 1_729_987_800_000_000]
                .map(|t| Value::Instant(Instant(t)))
                .to_vec()
        }
        T::Uuid => vec![Value::Uuid([7; 16])],
        T::Enum { labels } => labels.iter().map(|l| Value::Enum(l.as_str().into())).collect(),
        T::Json => texts(&["{}", "[1,2]"], |t| Value::Json(t.to_owned().into())),
        _ => Vec::new(),
    }
}
