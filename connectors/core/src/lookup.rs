//! Values of other rows of the target, found by what identifies those rows there.
//!
//! Equality is the column's own at its server. Where that holds several rows equal to a key (a collation that
//! makes no difference of upper and lower case, on a server that has such), the one that is the same to the byte is
//! meant; any other second row is an error, for none of them would be the right one.

use crate::schema::TableName;
use crate::sink::TargetColumn;

/// A lookup as mapped. Made once a compiled plan, as [`crate::TargetTable`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupTarget {
    /// Differs for any two plans of one process.
    pub id: u64,
    /// The table.
    pub table: TableName,
    /// The columns that a row is found by. To insert what is missing there must be a unique index over exactly these.
    pub by: Vec<TargetColumn>,
    /// The column whose value is wanted.
    pub result: TargetColumn,
    /// What a missing row is inserted with besides `by`.
    pub with: Vec<TargetColumn>,
}
