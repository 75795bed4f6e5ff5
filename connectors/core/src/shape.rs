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
    /// Another table stands under the name; why.
    Replaced(String),
}

impl ShapeChange {
    /// Why rows may differ from what the log has told; `None` if they do not.
    pub fn why(&self) -> Option<&str> {
        match self {
            ShapeChange::Same | ShapeChange::Columns => None,
            ShapeChange::Rows(why) | ShapeChange::Vanished(why) | ShapeChange::Replaced(why) => {
                Some(why)
            }
        }
    }

    fn weight(&self) -> u8 {
        match self {
            ShapeChange::Same => 0,
            ShapeChange::Columns => 1,
            ShapeChange::Rows(_) => 2,
            ShapeChange::Vanished(_) => 3,
            ShapeChange::Replaced(_) => 4,
        }
    }

    /// The graver of two.
    #[must_use]
    pub fn or(self, other: ShapeChange) -> ShapeChange {
        if other.weight() > self.weight() { other } else { self }
    }
}
