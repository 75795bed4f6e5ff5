//! Row changes in canonical form.

use std::sync::Arc;

use crate::schema::TableSchema;
use crate::value::Value;

/// The cells of a row, in the order of its [`TableSchema`].
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Box<[Value]>);

impl Row {
    /// Memory taken by the row, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|v| size_of::<Value>() + v.heap_bytes()).sum()
    }

    /// Whether the log carries every cell.
    pub fn is_full(&self) -> bool {
        !self.0.iter().any(Value::is_unchanged)
    }
}

/// What the log tells of the row before the change.
#[derive(Debug, Clone, PartialEq)]
pub enum OldRow {
    /// The whole row.
    Full(Row),
    /// The identity columns; every other cell is [`Value::Unchanged`].
    Key(Row),
    /// Nothing: the identity columns did not change and stand in the new row.
    Absent,
}

impl OldRow {
    /// The old row as far as the log carries it.
    pub fn row(&self) -> Option<&Row> {
        match self {
            OldRow::Full(row) | OldRow::Key(row) => Some(row),
            OldRow::Absent => None,
        }
    }
}

/// A row came to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    /// The row.
    pub new: Row,
}

/// A row was changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The row before.
    pub old: OldRow,
    /// The row after; cells the log does not carry are [`Value::Unchanged`].
    pub new: Row,
}

/// A row went away.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    /// The row before; never [`OldRow::Absent`].
    pub old: OldRow,
}

/// A canonical operation on one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A row came to be.
    Insert(Insert),
    /// A row was changed.
    Update(Update),
    /// A row went away.
    Delete(Delete),
}

/// The kind of an operation, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OpKind {
    /// A row came to be.
    Insert,
    /// A row was changed.
    Update,
    /// A row went away.
    Delete,
}

impl OpKind {
    /// The word used in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            OpKind::Insert => "insert",
            OpKind::Update => "update",
            OpKind::Delete => "delete",
        }
    }
}

impl Op {
    /// The kind of this operation.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Insert(_) => OpKind::Insert,
            Op::Update(_) => OpKind::Update,
            Op::Delete(_) => OpKind::Delete,
        }
    }
}

/// One row change of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The shape of its rows.
    pub table: Arc<TableSchema>,
    /// What happened.
    pub op: Op,
}

impl Change {
    /// Memory taken by the change, in bytes.
    pub fn bytes(&self) -> usize {
        let rows = match &self.op {
            Op::Insert(i) => i.new.bytes(),
            Op::Update(u) => u.new.bytes() + u.old.row().map_or(0, Row::bytes),
            Op::Delete(d) => d.old.row().map_or(0, Row::bytes),
        };
        rows + size_of::<Change>()
    }
}
