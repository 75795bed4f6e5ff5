//! What views are made of.

use tidelock_core::{Result, TableName};

use crate::session::{Session, get};

/// A view depends on its relations by its rule. Where one is renamed, the view goes on reading it.
const MADE_OF_SQL: &str = "\
WITH RECURSIVE made (oid) AS ( \
  SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
  WHERE n.nspname = $1 AND c.relname = $2 \
  UNION \
  SELECT d.refobjid FROM made m JOIN pg_class v ON v.oid = m.oid AND v.relkind = 'v' \
  JOIN pg_rewrite r ON r.ev_class = v.oid \
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid) \
SELECT DISTINCT n.nspname::text, t.relname::text \
FROM made m JOIN pg_class c ON c.oid = m.oid AND c.relkind IN ('r', 'p', 'm', 'f') \
JOIN pg_class t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid) \
JOIN pg_namespace n ON n.oid = t.relnamespace \
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2";

/// The tables of a view, through the views that it reads.
pub(crate) async fn made_of(session: &Session, view: &TableName) -> Result<Vec<TableName>> {
    let names: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&view.schema, &view.name];
    let rows = session.query("reading what a view is made of", MADE_OF_SQL, &names).await?;
    rows.iter()
        .map(|row| Ok(TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?)))
        .collect()
}
