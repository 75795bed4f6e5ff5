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
    /// Where it came up: the functions that were at work.
    context: String,
}

impl From<&DbError> for Broken {
    fn from(error: &DbError) -> Broken {
        let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
        Broken {
            schema: text(error.schema()),
            table: text(error.table()),
            constraint: text(error.constraint()),
            message: error.message().to_owned(),
            context: text(error.where_()),
        }
    }
}

impl Broken {
    /// Whether a function of this name was at work.
    fn was_in(&self, function: &str) -> bool {
        is_word(&self.context, function)
    }

    /// Whether the message speaks of a table beside the one that has the constraint: then a row that is still pointed
    /// to went away. It has the names in every language.
    fn speaks_of(&self, table: &str) -> bool {
        let rest = self.message.replace(&self.constraint, "").replace(&self.table, "");
        is_word(&rest, table)
    }
}

/// Whether a text has this name in it, not as a part of another.
fn is_word(text: &str, name: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text.get(..at), text.get(at + name.len()..));
        !before.is_some_and(|text| text.ends_with(inside))
            && !after.is_some_and(|text| text.starts_with(inside))
    })
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

/// The triggers that wait for the COMMIT: their tables (of partitions, the roots) and their functions.
const TRIGGERS_SQL: &str = "\
SELECT DISTINCT n.nspname::text, c.relname::text, p.proname::text \
FROM pg_catalog.pg_trigger t \
JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.pg_partition_root(t.tgrelid), t.tgrelid) \
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
WHERE NOT t.tgisinternal AND t.tgdeferrable AND t.tgenabled <> 'D'";

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
            None if broken.table.is_empty() => self.triggers(broken, wrote).await,
            None => self.breaks(broken, wrote).await,
        };
        match mapping {
            Some(mapping) => error.at(format_args!("mapping {mapping}")).with_mapping(&**mapping),
            None => error,
        }
    }

    /// The mapping that has written to a table whose trigger raised an error of its own, which names no table. Where several may have, it is the one whose
    /// trigger's function was at work, or else the first of them: if that was not to blame, the next comes up when it has stopped.
    async fn triggers<'a>(
        &self,
        broken: &Broken,
        wrote: &'a [(Arc<str>, TableName)],
    ) -> Option<&'a Arc<str>> {
        let found = self.session.query("reading triggers", TRIGGERS_SQL, &[]).await.ok()?;
        let mut may = Vec::new();
        for row in &found {
            let name = |at| get::<String>(row, at).ok();
            let (table, function) = (TableName::new(name(0)?, name(1)?), name(2)?);
            may.push((broken.was_in(&function), table));
        }
        let wrote_to = |within: bool| {
            let is = |t: &TableName| may.iter().any(|(was, table)| (*was || !within) && table == t);
            wrote.iter().find(|(_, table)| is(table)).map(|(mapping, _)| mapping)
        };
        wrote_to(true).or_else(|| wrote_to(false))
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
            context: "PL/pgSQL function shop.check_sum() line 3 at RAISE".to_owned(),
        };
        assert!(broken("").was_in("check_sum") && !broken("").was_in("sum"));
        let child = "insert or update on table \"order\" violates foreign key constraint \"order_customer_fkey\"";
        let parent = "Aktualisieren oder Löschen in Tabelle »customer« verletzt Fremdschlüssel-Constraint »order_customer_fkey« von Tabelle »order«";
        assert!(!broken(child).speaks_of("customer") && !broken(child).speaks_of("date"));
        assert!(broken(parent).speaks_of("customer"));
    }
}
