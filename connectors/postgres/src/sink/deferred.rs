//! Constraints that are checked at the COMMIT (`DEFERRABLE INITIALLY DEFERRED`), and whose rows they refuse there.
//!
//! Inside a transaction they stay as they are: a source transaction may bring a child before its parent. Its whole is
//! what they judge, so the COMMIT does.

use std::sync::Arc;

use tidelock_core::{Error, Result, TableName};
use tokio_postgres::error::DbError;

use super::PgSink;
use crate::session::{Params, get};

/// A constraint that was found broken.
pub(super) struct Broken {
    schema: String,
    table: String,
    constraint: String,
    message: String,
}

impl From<&DbError> for Broken {
    fn from(error: &DbError) -> Broken {
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Broken {
            schema: text(error.schema()),
            table: text(error.table()),
            constraint: text(error.constraint()),
            message: error.message().to_owned(),
        }
    }
}

impl Broken {
    /// Whether the message speaks of a table beside the one that has the constraint: then a row that is still pointed
    /// to went away. It has the names in every language.
    fn speaks_of(&self, table: &str) -> bool {
        let rest = self.message.replace(&self.constraint, "").replace(&self.table, "");
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        rest.match_indices(table).any(|(at, _)| {
            let (before, after) = (rest.get(..at), rest.get(at + table.len()..));
            !before.is_some_and(|text| text.ends_with(inside))
                && !after.is_some_and(|text| text.starts_with(inside))
        })
    }
}

/// The table of a constraint and the one that it points to, as they are written: of partitions, their roots.
const ENDS_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, fn.nspname::text, f.relname::text \
FROM pg_catalog.pg_constraint k \
JOIN pg_catalog.pg_class t ON t.oid = k.conrelid \
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(t.oid), t.oid) \
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
LEFT JOIN pg_catalog.pg_class p ON p.oid = k.confrelid \
LEFT JOIN pg_catalog.pg_class f ON f.oid = coalesce(pg_catalog.pg_partition_root(p.oid), p.oid) \
LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace \
WHERE tn.nspname = $1 AND t.relname = $2 AND k.conname = $3";

impl PgSink {
    /// Takes note of which mapping writes to which table.
    pub(super) fn note(&mut self, mapping: &Arc<str>, table: &TableName) -> Result<()> {
        let wrote = &mut self.opened()?.wrote;
        if !wrote.iter().any(|(m, t)| m == mapping && t == table) {
            wrote.push((mapping.clone(), table.clone()));
        }
        Ok(())
    }

    /// Has the rest of the transaction check every constraint with its statement: for what is written by itself.
    pub(super) async fn check_at_once(&mut self, doing: &str) -> Result<()> {
        self.start().await?;
        self.session.batch(doing, "SET CONSTRAINTS ALL IMMEDIATE").await
    }

    /// The error of a COMMIT, with the mapping that it is about where that can be told.
    pub(super) async fn refused_late(
        &self,
        error: Error,
        broken: &Broken,
        wrote: &[(Arc<str>, TableName)],
    ) -> Error {
        let only = match wrote {
            [(first, _), rest @ ..] if rest.iter().all(|(m, _)| m == first) => Some(first),
            _ => None,
        };
        let mapping = match only {
            Some(mapping) => Some(mapping),
            None => self.breaks(broken, wrote).await,
        };
        match mapping {
            Some(mapping) => error.at(format_args!("mapping {mapping}")).with_mapping(&**mapping),
            None => error,
        }
    }

    /// The mapping that has written what a constraint refuses.
    async fn breaks<'a>(
        &self,
        broken: &Broken,
        wrote: &'a [(Arc<str>, TableName)],
    ) -> Option<&'a Arc<str>> {
        let params: Params<'_> = &[&broken.schema, &broken.table, &broken.constraint];
        let found = self.session.query_opt("reading a constraint", ENDS_SQL, params).await;
        // The session may be gone by now: then the refusal comes up again.
        let row = found.ok()??;
        let name = |at| {
            Some(TableName::new(
                get::<Option<String>>(&row, at).ok()??,
                get::<Option<String>>(&row, at + 1).ok()??,
            ))
        };
        let (own, to) = (name(0)?, name(2));
        let writer = |table: &TableName| wrote.iter().find(|(_, t)| t == table).map(|(m, _)| m);
        let parent = to.as_ref().filter(|to| **to != own).and_then(|to| {
            let went = broken.speaks_of(&to.name);
            writer(to).filter(|_| went)
        });
        parent.or_else(|| writer(&own)).or_else(|| to.as_ref().and_then(writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_that_went_is_told_from_a_child_without_one_in_any_language() {
        let broken = |message: &str| Broken {
            schema: "public".to_owned(),
            table: "order".to_owned(),
            constraint: "order_customer_fkey".to_owned(),
            message: message.to_owned(),
        };
        let child = "insert or update on table \"order\" violates foreign key constraint \"order_customer_fkey\"";
        let parent = "Aktualisieren oder Löschen in Tabelle »customer« verletzt Fremdschlüssel-Constraint »order_customer_fkey« von Tabelle »order«";
        assert!(!broken(child).speaks_of("customer") && !broken(child).speaks_of("date"));
        assert!(broken(parent).speaks_of("customer"));
    }
}
