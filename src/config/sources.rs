//! Views as sources, procedures as targets, and when a change is worth sending: the file's words for them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;
use tidelock_core::TrackQuery;

use super::form::{Form, Forms};
use super::resolve::{Result, Source};
use super::{Placed, TableRef};

/// A base table of a view, and how its changes tell the keys of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedTable {
    /// The table, in the source system.
    pub table: TableRef,
    /// Where it is named.
    pub place: super::Place,
    /// Each way to the keys.
    pub tracks: Vec<Track>,
}

/// A way from a changed row to keys of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// The way.
    pub by: TrackBy,
    /// The columns whose change counts; any if absent.
    pub on_change: Option<Vec<Placed>>,
    /// Which rows count.
    pub filter: Option<Placed>,
}

/// How a changed row tells keys of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackBy {
    /// By columns that hold the key.
    Columns(Vec<Placed>),
    /// By a query of the source's own SQL.
    Query {
        /// The query.
        query: TrackQuery,
        /// Its text.
        text: Placed,
    },
}

/// A procedure that takes what the source gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallConfig {
    /// What is called for rows that are gone.
    pub delete: Option<(TableRef, super::Place)>,
    /// The parameter that takes all rows of a group; a call for each row if absent.
    pub rows: Option<Placed>,
}

/// When a change of a row is worth sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeConfig {
    /// Sent when this turns true.
    pub rise: Placed,
    /// And when this does; without it, nothing is sent when `rise` ends.
    pub fall: Option<Placed>,
    /// What must hold before the edge is armed again; without it, that `rise` does not.
    pub hysteresis: Option<Placed>,
}

impl EdgeConfig {
    /// What it says, the same as long as the file says the same.
    pub fn text(&self) -> String {
        let end = |text: &Option<Placed>| text.as_ref().map(|text| text.text.clone());
        format!("{:?}", (&self.rise.text, end(&self.fall), end(&self.hysteresis)))
    }
}

/// A table whose rows make rows of a mapping worth sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushWhen {
    /// The table.
    pub table: TableRef,
    /// The column that holds the mapping's key.
    pub column: Placed,
}

/// `to` as written: a table, or routines.
pub type To = Form<CallValue>;

/// `{ call = "crm.upsert", delete = "crm.remove", rows = "lines" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallValue {
    /// What is called for each row, or each group.
    pub call: Spanned<String>,
    /// What is called for rows that are gone.
    pub delete: Option<Spanned<String>>,
    /// The parameter that takes all rows of a group.
    pub rows: Option<Spanned<String>>,
}

/// The ways of a tracked table, as written: a column, a way, or several.
pub type TracksValue = Form<TrackValue>;

/// A way, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackValue {
    /// The column that holds the key.
    pub column: Option<Spanned<String>>,
    /// The columns that hold it.
    pub columns: Option<Vec<Spanned<String>>>,
    /// A query that gives keys.
    pub keys: Option<Spanned<String>>,
    /// The columns whose change counts.
    pub on_change: Option<Vec<Spanned<String>>>,
    /// Which rows count.
    #[serde(rename = "where")]
    pub filter: Option<Spanned<String>>,
}

/// `edge` as written: the condition that turns true, or both ends.
pub type EdgeValue = Form<EdgeTable>;

/// `{ rise = "qty < 10", fall = "qty > 12" }`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeTable {
    /// Sent when this turns true.
    pub rise: Spanned<String>,
    /// And when this does.
    pub fall: Option<Spanned<String>>,
    /// What must hold before the edge is armed again.
    pub hysteresis: Option<Spanned<String>>,
}

impl Forms for CallValue {
    const EXPECTED: &'static str = "system.table, or { call = \"system.routine\", ... }";
}

impl Forms for TrackValue {
    const EXPECTED: &'static str =
        "the column that holds the view's key, { keys = \"SELECT ...\" }, or a list of these";
    const LISTS: bool = true;
}

impl Forms for EdgeTable {
    const EXPECTED: &'static str = "a condition, or { rise = \"...\", fall = \"...\" }";
}

pub(super) fn tracks(
    tables: &BTreeMap<Spanned<String>, Spanned<TracksValue>>,
    table_ref: impl Fn(&Spanned<String>) -> Result<TableRef>,
    source: &Source,
) -> Result<Vec<TrackedTable>> {
    tables
        .iter()
        .map(|(name, ways)| {
            let span = ways.span();
            let column = |text: &str, span: std::ops::Range<usize>| Track {
                by: TrackBy::Columns(vec![Placed {
                    text: text.to_owned(),
                    place: source.place(span),
                }]),
                on_change: None,
                filter: None,
            };
            let tracks = match ways.get_ref() {
                Form::Text(text) => vec![column(text, span)],
                Form::Table(one) => vec![track(one, span, source)?],
                Form::List(several) => several
                    .iter()
                    .map(|one| match one.get_ref() {
                        Form::Text(text) => Ok(column(text, one.span())),
                        Form::Table(long) => track(long, one.span(), source),
                        Form::List(_) => Err(source.error(one.span(), TrackValue::EXPECTED)),
                    })
                    .collect::<Result<_>>()?,
            };
            Ok(TrackedTable { table: table_ref(name)?, place: source.place(name.span()), tracks })
        })
        .collect()
}

fn track(value: &TrackValue, span: std::ops::Range<usize>, source: &Source) -> Result<Track> {
    let placed = |texts: &[Spanned<String>]| texts.iter().map(|t| source.placed(t)).collect();
    let by = match (&value.column, &value.columns, &value.keys) {
        (Some(column), None, None) => TrackBy::Columns(vec![source.placed(column)]),
        (None, Some(columns), None) if !columns.is_empty() => TrackBy::Columns(placed(columns)),
        (None, None, Some(keys)) => {
            let text = source.placed(keys);
            match TrackQuery::parse(keys.get_ref()) {
                Ok(query) => TrackBy::Query { query, text },
                Err((part, words)) => {
                    return Err(source.error(text.part(&part).span(), words));
                }
            }
        }
        _ => {
            return Err(source.error(
                span,
                "expected one of column = \"...\", columns = [...], or keys = \"SELECT ...\"",
            ));
        }
    };
    Ok(Track {
        by,
        on_change: value.on_change.as_ref().map(|columns| placed(columns)),
        filter: value.filter.as_ref().map(|filter| source.placed(filter)),
    })
}

/// A span of time such as `60s`, `15m` or `1h`; `0s` is none, against a default.
pub(super) fn duration(text: &Spanned<String>, source: &Source) -> Result<Option<Duration>> {
    let parsed = text.get_ref().parse::<jiff::SignedDuration>().ok();
    let span = parsed
        .and_then(|span| Duration::try_from(span).ok())
        .filter(|span| span.is_zero() || *span >= Duration::from_millis(1))
        .ok_or_else(|| {
            source.error(text.span(), "expected a span of time such as \"60s\", \"15m\" or \"1h\"")
        })?;
    Ok((!span.is_zero()).then_some(span))
}
