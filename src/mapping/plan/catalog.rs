//! The two catalogs that mappings are compiled against.

use std::collections::{HashMap, HashSet};

use tidelock_core::{Connector, Routine, Table, TableName};

/// The tables of a server, found by their names: there may be many thousands.
pub struct Catalog<'a> {
    tables: &'a [Table],
    by_name: HashMap<&'a TableName, &'a Table>,
    referenced: HashSet<&'a TableName>,
}

impl<'a> Catalog<'a> {
    /// Of these tables.
    pub fn new(tables: &'a [Table]) -> Catalog<'a> {
        Catalog {
            tables,
            by_name: tables.iter().map(|t| (&t.name, t)).collect(),
            referenced: tables.iter().flat_map(|t| &t.references).map(|r| &r.table).collect(),
        }
    }

    /// The tables in the server's order.
    pub fn tables(&self) -> &'a [Table] {
        self.tables
    }

    /// The table of this name.
    pub fn get(&self, name: &TableName) -> Option<&'a Table> {
        self.by_name.get(name).copied()
    }

    /// Whether foreign keys point to a table.
    pub fn is_referenced(&self, name: &TableName) -> bool {
        self.referenced.contains(name)
    }
}

/// The two catalogs and what the servers mean by an unqualified name.
#[derive(Clone, Copy)]
pub struct Catalogs<'a> {
    /// The source's tables.
    pub source: &'a Catalog<'a>,
    /// The target's tables.
    pub target: &'a Catalog<'a>,
    /// The target's routines that mappings name.
    pub routines: &'a [Routine],
    /// The schema that a source name without one means.
    pub source_schema: &'a str,
    /// The schema that a target name without one means.
    pub target_schema: &'a str,
    /// The source itself, for the words that mend its tables.
    pub source_system: &'a dyn Connector,
    /// The target itself, for the words that mend its tables.
    pub target_system: &'a dyn Connector,
    /// Whether source and target are the same kind of server.
    pub same_family: bool,
    /// Whether the target is read by a flow of this pipeline too.
    pub two_way: bool,
    /// Whose rows the mappings of the flow have brought so far, by name, as far as that is on record.
    pub owners: &'a HashMap<String, TableName>,
}
