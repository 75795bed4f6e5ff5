//! What mappings remember: one index, read by keys and by ranges of keys.

use bytes::Bytes;
use futures_util::future::join;
use tidelock_core::{MEMORY_TABLE, MemoryPrefix, MemoryRange, MemoryScope, Remembered, Result};
use tokio_postgres::types::{ToSql, Type};

use super::{PgSink, WRITE_TIMEOUT};
use crate::error::Stage;
use crate::quote::ident;
use crate::session::get;

const DOING: &str = "reading what is remembered";

impl PgSink {
    fn memory(&self) -> MemoryPrefix {
        MemoryPrefix::flow(&self.spec.pipeline, &self.spec.flow)
    }

    fn scope(&self, scope: &MemoryScope) -> MemoryPrefix {
        self.memory().mapping(&scope.mapping).kind(scope.kind)
    }

    fn memory_table(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(MEMORY_TABLE))
    }

    async fn remembered(
        &mut self,
        of: &MemoryPrefix,
        sql: String,
        types: &[Type],
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Remembered>> {
        let statement = self.kept(DOING, sql, types).await?;
        let rows = self.session.client.query(&statement, params);
        let rows = self.session.call(DOING, Stage::Admin, WRITE_TIMEOUT, rows).await?;
        rows.iter()
            .map(|row| Ok((of.own(get(row, 0)?)?, Bytes::copy_from_slice(get(row, 1)?))))
            .collect()
    }

    pub(super) async fn recalled(
        &mut self,
        scope: &MemoryScope,
        keys: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let of = self.scope(scope);
        let keys = keys.iter().map(|key| of.key(key)).collect::<Result<Vec<_>>>()?;
        let sql = format!("SELECT key, value FROM {} WHERE key = ANY($1)", self.memory_table());
        self.remembered(&of, sql, &[Type::BYTEA_ARRAY], &[&keys]).await
    }

    pub(super) async fn recalled_below(
        &mut self,
        scope: &MemoryScope,
        prefixes: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        if prefixes.is_empty() {
            return Ok(Vec::new());
        }
        let of = self.scope(scope);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            let range = of.range(prefix)?;
            low.push(range.low);
            high.push(range.high);
        }
        let sql = format!(
            "SELECT m.key, m.value FROM unnest($1, $2) AS g(low, high) CROSS JOIN LATERAL \
             (SELECT key, value FROM {} WHERE key >= g.low AND key < g.high) m",
            self.memory_table()
        );
        let types = [Type::BYTEA_ARRAY, Type::BYTEA_ARRAY];
        self.remembered(&of, sql, &types, &[&low, &high]).await
    }

    pub(super) async fn recalled_after(
        &mut self,
        scope: &MemoryScope,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Remembered>> {
        let of = self.scope(scope);
        let MemoryRange { low, high } = of.after(after.map(|key| &**key))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT key, value FROM {} WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3",
            self.memory_table()
        );
        let types = [Type::BYTEA, Type::BYTEA, Type::INT8];
        self.remembered(&of, sql, &types, &[&low, &high, &limit]).await
    }

    /// Both statements travel with the opening, if that has not been sent.
    pub(super) async fn keep(
        &mut self,
        scope: &MemoryScope,
        put: &[Remembered],
        gone: &[Bytes],
    ) -> Result<()> {
        if put.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let doing = "remembering";
        let (of, table) = (self.scope(scope), self.memory_table());
        let keys = put.iter().map(|(key, _)| of.key(key)).collect::<Result<Vec<_>>>()?;
        let values: Vec<&[u8]> = put.iter().map(|(_, value)| &**value).collect();
        let gone = gone.iter().map(|key| of.key(key)).collect::<Result<Vec<_>>>()?;
        let upsert = format!(
            "INSERT INTO {table} AS m (key, value) SELECT * FROM unnest($1, $2) \
             ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value WHERE m.value <> EXCLUDED.value"
        );
        let upsert = self.kept(doing, upsert, &[Type::BYTEA_ARRAY, Type::BYTEA_ARRAY]).await?;
        let delete = format!("DELETE FROM {table} WHERE key = ANY($1)");
        let delete = self.kept(doing, delete, &[Type::BYTEA_ARRAY]).await?;
        let opening = self.opening()?;
        let client = &self.session.client;
        let put: [&(dyn ToSql + Sync); 2] = [&keys, &values];
        let put =
            async { if keys.is_empty() { Ok(0) } else { client.execute(&upsert, &put).await } };
        let gone =
            async { if gone.is_empty() { Ok(0) } else { client.execute(&delete, &[&gone]).await } };
        let both = Box::pin(async {
            let (put, gone) = join(put, gone).await;
            put.and(gone)
        });
        let both = self.session.call(doing, Stage::Admin, WRITE_TIMEOUT, both);
        let (opened, done) = join(self.send_opening(opening), both).await;
        opened.and(done)?;
        self.opened()?.sent = true;
        Ok(())
    }

    pub(super) async fn forgotten(&mut self, mapping: &str) -> Result<()> {
        self.start().await?;
        let MemoryRange { low, high } = self.memory().mapping(mapping).range(&[])?;
        let sql = format!("DELETE FROM {} WHERE key >= $1 AND key < $2", self.memory_table());
        let params: [&(dyn ToSql + Sync); 2] = [&low, &high];
        let gone = self.session.client.execute(&sql, &params);
        self.session.call("forgetting", Stage::Admin, WRITE_TIMEOUT, gone).await.map(drop)
    }
}
