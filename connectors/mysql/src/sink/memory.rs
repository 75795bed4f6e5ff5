//! What mappings remember: one index, read by keys and by ranges of keys. Keys and values are spelled out as hex.

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use tidelock_core::{
    Code, Error, MEMORY_TABLE, MemoryPrefix, MemoryRange, MemoryScope, Remembered, Result,
};

use super::{BYTES_MAX, MySqlSink, PACKET_HEAD, WRITE};
use crate::meta;
use crate::session::{hex, within};

/// Keys of one query: far below the thousand from which on MariaDB may plan a list as a subquery.
const KEYS_A_QUERY: usize = 500;
/// Ranges of one query.
const RANGES_A_QUERY: usize = 200;
/// Rows of one statement.
const ROWS_A_STATEMENT: usize = 2_000;

/// Without the hint a small table would be looked through as a whole, behind the locks of others.
const BY_KEY: &str = "FORCE INDEX (PRIMARY)";

fn list(keys: &[Vec<u8>]) -> String {
    keys.iter().map(|key| hex(key)).collect::<Vec<_>>().join(",")
}

fn within_range(MemoryRange { low, high }: &MemoryRange) -> String {
    format!("(`key` >= {} AND `key` < {})", hex(low), hex(high))
}

impl MySqlSink {
    fn memory(&self) -> MemoryPrefix {
        MemoryPrefix::flow(&self.spec.pipeline, &self.spec.flow)
    }

    fn scope(&self, scope: &MemoryScope) -> MemoryPrefix {
        self.memory().mapping(&scope.mapping).kind(scope.kind)
    }

    async fn remembered(&mut self, of: &MemoryPrefix, condition: &str) -> Result<Vec<Remembered>> {
        let sql = format!(
            "SELECT `key`, value FROM {}.`{MEMORY_TABLE}` {BY_KEY} WHERE {condition}",
            self.meta
        );
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.session.query(&sql).await?;
        rows.into_iter().map(|(key, value)| Ok((of.own(&key)?, value.into()))).collect()
    }

    pub(super) async fn recalled(
        &mut self,
        scope: &MemoryScope,
        keys: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        let of = self.scope(scope);
        let mut found = Vec::new();
        for some in keys.chunks(KEYS_A_QUERY) {
            let keys = some.iter().map(|key| of.key(key)).collect::<Result<Vec<_>>>()?;
            found.extend(self.remembered(&of, &format!("`key` IN ({})", list(&keys))).await?);
        }
        Ok(found)
    }

    pub(super) async fn recalled_below(
        &mut self,
        scope: &MemoryScope,
        prefixes: &[Bytes],
    ) -> Result<Vec<Remembered>> {
        let of = self.scope(scope);
        let mut found = Vec::new();
        for some in prefixes.chunks(RANGES_A_QUERY) {
            let ranges = some.iter().map(|prefix| Ok(within_range(&of.range(prefix)?)));
            let ranges = ranges.collect::<Result<Vec<_>>>()?.join(" OR ");
            found.extend(self.remembered(&of, &ranges).await?);
        }
        Ok(found)
    }

    pub(super) async fn recalled_after(
        &mut self,
        scope: &MemoryScope,
        after: Option<&Bytes>,
        limit: usize,
    ) -> Result<Vec<Remembered>> {
        let of = self.scope(scope);
        let range = within_range(&of.after(after.map(|key| &**key))?);
        self.remembered(&of, &format!("{range} ORDER BY `key` LIMIT {limit}")).await
    }

    pub(super) async fn keep(
        &mut self,
        scope: &MemoryScope,
        put: &[Remembered],
        gone: &[Bytes],
    ) -> Result<()> {
        let of = self.scope(scope);
        let table = format!("{}.`{MEMORY_TABLE}`", self.meta);
        for some in gone.chunks(KEYS_A_QUERY) {
            let keys = some.iter().map(|key| of.key(key)).collect::<Result<Vec<_>>>()?;
            let sql =
                format!("DELETE {table} FROM {table} {BY_KEY} WHERE `key` IN ({})", list(&keys));
            self.memory_write(sql).await?;
        }
        let (head, tail) = match self.session.maria() {
            true => ("", "VALUES(value)"),
            false => (" AS tidelock_new", "tidelock_new.value"),
        };
        let bytes_max = BYTES_MAX.min(self.packet_bytes_max / 4);
        let (mut rows, mut count) = (String::new(), 0);
        for (i, (key, value)) in put.iter().enumerate() {
            if count > 0 {
                rows.push(',');
            }
            rows.push_str(&format!("({},{})", hex(&of.key(key)?), hex(value)));
            count += 1;
            if count == ROWS_A_STATEMENT || rows.len() >= bytes_max || i + 1 == put.len() {
                let sql = format!(
                    "INSERT INTO {table} (`key`, value) VALUES {rows}{head} \
                     ON DUPLICATE KEY UPDATE value = {tail}"
                );
                self.memory_write(sql).await?;
                (rows, count) = (String::new(), 0);
            }
        }
        Ok(())
    }

    async fn memory_write(&mut self, sql: String) -> Result<()> {
        if sql.len() + PACKET_HEAD >= self.packet_bytes_max {
            return Err(Error::data(
                Code::NotRepresentable,
                format!(
                    "{}: a row to be remembered is larger than max_allowed_packet ({}) allows",
                    self.session.place, self.packet_bytes_max
                ),
            )
            .with_hint("raise max_allowed_packet of this server (up to 1073741824)"));
        }
        within(WRITE, &self.session.place, self.session.conn.query_drop(sql)).await?;
        self.no_warnings().await.map(drop)
    }

    pub(super) async fn forgotten(&mut self, mapping: &str) -> Result<()> {
        let whose = self.memory().mapping(mapping);
        let meta = self.meta.clone();
        meta::forget_range(&mut self.session, &meta, &whose).await.map(drop)
    }
}
