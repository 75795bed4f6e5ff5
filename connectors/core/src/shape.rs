//! What a table is at one moment, so that a later look can tell whether its rows are still those the log
//! has told of.
//!
//! Some schema changes write rows without logging them: a column's default fills rows that are there, a
//! type change converts them, a partition comes with its rows or goes with them, another table takes the
//! name. A connector describes a table in a notation of its own ([`Look::shapes`]); the engine keeps that
//! text beside the mapping's copy and asks the connector what became of the table since.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::position::Position;
use crate::schema::TableName;

/// Which tables to look at.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All of these schemas.
    Schemas(&'a [String]),
    /// These tables.
    Tables(&'a [TableName]),
}

/// What tables are now.
#[derive(Debug, Clone)]
pub struct Look {
    /// A place of the log that comes after everything the look has seen.
    pub at: Position,
    /// Each table in the connector's notation; one that is not there is left out.
    pub shapes: HashMap<TableName, String>,
}

/// What became of a table between two looks, as far as the mapped columns go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShapeChange {
    /// Nothing that matters: every row is as the log has told.
    Same,
    /// Columns, types or keys are others; every row is as the log has told.
    Columns,
    /// Rows were changed or came, and the log does not tell; why.
    Rows(String),
    /// Rows went away in bulk, and the log does not tell; why.
    Vanished(String),
    /// Both: rows went away in bulk, and others came or were changed.
    Mixed(String),
    /// Another table stands under the name; why.
    Replaced(String),
}

impl ShapeChange {
    /// Why rows may differ from what the log has told; `None` if they do not.
    pub fn why(&self) -> Option<&str> {
        match self {
            ShapeChange::Same | ShapeChange::Columns => None,
            ShapeChange::Rows(why)
            | ShapeChange::Vanished(why)
            | ShapeChange::Mixed(why)
            | ShapeChange::Replaced(why) => Some(why),
        }
    }

    /// The same of a table beside the mapping's own: named.
    #[must_use]
    pub fn at(&self, table: &TableName) -> ShapeChange {
        let named = |why: &str| format!("{table}: {why}");
        match self {
            ShapeChange::Same => ShapeChange::Same,
            ShapeChange::Columns => ShapeChange::Columns,
            ShapeChange::Rows(why) => ShapeChange::Rows(named(why)),
            ShapeChange::Vanished(why) => ShapeChange::Vanished(named(why)),
            ShapeChange::Mixed(why) => ShapeChange::Mixed(named(why)),
            ShapeChange::Replaced(why) => ShapeChange::Replaced(named(why)),
        }
    }

    fn weight(&self) -> u8 {
        match self {
            ShapeChange::Same => 0,
            ShapeChange::Columns => 1,
            ShapeChange::Rows(_) => 2,
            ShapeChange::Vanished(_) => 3,
            ShapeChange::Mixed(_) => 4,
            ShapeChange::Replaced(_) => 5,
        }
    }

    /// The graver of two. That rows went does not hide that others came: what is done about the one may be nothing.
    #[must_use]
    pub fn or(self, other: ShapeChange) -> ShapeChange {
        match (self, other) {
            (ShapeChange::Rows(came), ShapeChange::Vanished(went))
            | (ShapeChange::Vanished(went), ShapeChange::Rows(came)) => {
                ShapeChange::Mixed(format!("{went}, and {came}"))
            }
            (first, second) if second.weight() > first.weight() => second,
            (first, _) => first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_went_do_not_hide_rows_that_came() {
        let (came, went) =
            (ShapeChange::Rows("came".to_owned()), ShapeChange::Vanished("went".to_owned()));
        let both = ShapeChange::Mixed("went, and came".to_owned());
        assert_eq!(came.clone().or(went.clone()), both);
        assert_eq!(went.clone().or(came.clone()), both);
        assert_eq!(both.clone().or(went), both);
        assert_eq!(came.or(both.clone()), both);
        let other = ShapeChange::Replaced("another".to_owned());
        assert_eq!(both.or(other.clone()), other);
    }
}
