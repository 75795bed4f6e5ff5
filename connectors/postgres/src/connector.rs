//! The connector: one PostgreSQL database and everything the engine may ask of it.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use rustls::ClientConfig;
use tidelock_core::{
    Connector, Copier, CopyRow, CopyTable, Creation, DataType, Dialect, Dropped, Finding,
    IdentifierMax, Identity, Lease, Look, MemoryPrefix, Position, PositionOrder, Probe, Progress,
    QueryColumn, Result, Routine, Scope, ShapeChange, Sink, SinkSpec, Source, SourceSpec, StateRow,
    SystemConfig, SystemId, Table, TableFault, TableName, TrackQuery,
};
use tokio::sync::Mutex;

use crate::config::Address;
use crate::copy::{self, PgCopier};
use crate::lsn::Lsn;
use crate::session::{PINNED, Session, get};
use crate::source::{Opening, PgSource};
use crate::{
    catalog, ddl, meta, preflight, publication, routine, shape, sink, slot, tls, view as views,
};

/// One PostgreSQL database.
pub(crate) struct PgConnector {
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    /// The connection for administration, kept between calls.
    admin: Mutex<Option<Arc<Session>>>,
}

impl PgConnector {
    pub(crate) fn new(config: &SystemConfig) -> Result<PgConnector> {
        let address = Address::new(config)?;
        let tls = tls::client_config(&address.tls)?;
        Ok(PgConnector { address, tls, admin: Mutex::new(None) })
    }

    /// A connection of one call's own.
    async fn own(&self) -> Result<Session> {
        Session::open(&self.address, self.tls.as_ref(), PINNED).await
    }

    /// The shared connection; only for single statements.
    async fn admin(&self) -> Result<Arc<Session>> {
        let mut kept = self.admin.lock().await;
        if let Some(session) = kept.as_ref()
            && session.is_usable()
        {
            return Ok(session.clone());
        }
        let session = Arc::new(self.own().await?);
        *kept = Some(session.clone());
        Ok(session)
    }

    fn meta(&self) -> &str {
        &self.address.meta_schema
    }
}

#[async_trait]
impl Connector for PgConnector {
    fn family(&self) -> &'static str {
        "postgres"
    }

    fn endpoint(&self) -> String {
        self.address.endpoint()
    }

    fn default_schema(&self) -> &str {
        "public"
    }

    fn identifier_max(&self) -> IdentifierMax {
        crate::quote::IDENTIFIER_MAX
    }

    async fn identify(&self) -> Result<Identity> {
        let session = self.admin().await?;
        let sql = "SELECT current_setting('server_version'), current_database()::text";
        let row = session.query_one("identifying the server", sql, &[]).await?;
        Ok(Identity {
            version: format!("PostgreSQL {}", get::<&str>(&row, 0)?),
            database: get(&row, 1)?,
            history: slot::history(&session).await?,
        })
    }

    async fn catalog(&self, schemas: &[String]) -> Result<Vec<Table>> {
        catalog::read(&*self.admin().await?, schemas, self.meta()).await
    }

    async fn routines(&self, schemas: &[String]) -> Result<Vec<Routine>> {
        let found = routine::read(&*self.admin().await?, schemas).await?;
        Ok(found.into_iter().map(|known| known.routine).collect())
    }

    async fn look(&self, scope: Scope<'_>, publication: &str) -> Result<Look> {
        shape::look(&*self.admin().await?, scope, publication).await
    }

    fn shape_change(&self, before: &str, now: &str, columns: &[String]) -> ShapeChange {
        shape::change(before, now, columns)
    }

    fn logs_schema_changes(&self) -> bool {
        false
    }

    async fn run_ddl(&self, sql: &str) -> Result<()> {
        self.admin().await?.batch("changing a table", sql).await
    }

    async fn admit(&self, spec: &SourceSpec, table: &TableName) -> Result<()> {
        publication::admit(&self.own().await?, spec, table).await
    }

    async fn left_out(&self, spec: &SourceSpec) -> Result<Vec<TableFault>> {
        publication::left_out(&*self.admin().await?, spec).await
    }

    async fn system_id(&self) -> Result<Option<SystemId>> {
        meta::system_id(&*self.admin().await?, self.meta()).await
    }

    async fn ensure_meta(&self) -> Result<SystemId> {
        meta::ensure(&self.own().await?, self.meta()).await
    }

    async fn preflight_source(&self, spec: &SourceSpec) -> Result<Vec<Finding>> {
        preflight::source(&*self.admin().await?, &self.address, spec).await
    }

    async fn preflight_target(&self, spec: &SinkSpec) -> Result<Vec<Finding>> {
        preflight::target(&*self.admin().await?, &self.address, spec).await
    }

    async fn preflight_unseen(
        &self,
        schema: &str,
        table: Option<&str>,
        writes: bool,
    ) -> Result<Finding> {
        preflight::unseen(&*self.admin().await?, schema, table, writes).await
    }

    fn mend_identity(&self, table: &Table, columns: &[String], finding: Finding) -> Finding {
        preflight::mend_identity(table, columns, finding)
    }

    fn mend_key(&self, table: &Table, columns: &[String], finding: Finding) -> Finding {
        preflight::mend_key(table, columns, finding)
    }

    async fn dialect(&self, schemas: &[String]) -> Result<Box<dyn Dialect>> {
        Ok(Box::new(ddl::dialect(&*self.admin().await?, schemas).await?))
    }

    async fn create(&self, creation: &Creation) -> Result<()> {
        ddl::create(&self.own().await?, creation).await
    }

    async fn create_stream(&self, spec: &SourceSpec, adopt: bool) -> Result<Position> {
        let session = self.own().await?;
        slot::create(&self.address, self.tls.as_ref(), &session, spec, adopt).await
    }

    async fn open_source(&self, spec: &SourceSpec, from: &Position) -> Result<Box<dyn Source>> {
        let from = Lsn::of(from)?;
        let session = self.own().await?;
        let wire = slot::start(&self.address, self.tls.as_ref(), &session, spec, from).await?;
        let opening = Opening {
            address: self.address.clone(),
            tls: self.tls.clone(),
            tables: spec.tables.iter().map(|t| t.name.clone()).collect::<HashSet<_>>(),
            own: [meta::progress_table(self.meta()), meta::snapshot_table(self.meta())],
            from,
        };
        Ok(Box::new(PgSource::new(wire, opening)))
    }

    async fn open_sink(&self, spec: &SinkSpec) -> Result<Lease> {
        sink::open(&self.address, self.tls.as_ref(), spec).await
    }

    async fn open_loader(&self, spec: &SinkSpec, epoch: u64, lane: u32) -> Result<Box<dyn Sink>> {
        sink::open_loader(&self.address, self.tls.as_ref(), spec, epoch, lane).await
    }

    async fn read_progress(&self, pipeline: &str) -> Result<Vec<Progress>> {
        meta::read_progress(&*self.admin().await?, self.meta(), pipeline).await
    }

    async fn read_states(&self, pipeline: &str) -> Result<Vec<StateRow>> {
        meta::read_states(&*self.admin().await?, self.meta(), pipeline).await
    }

    async fn write_state(&self, row: &StateRow) -> Result<()> {
        meta::write_state(&*self.admin().await?, self.meta(), row).await
    }

    async fn clear_state(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        meta::clear_state(&*self.admin().await?, self.meta(), pipeline, flow, mapping).await
    }

    async fn copier(&self) -> Result<Box<dyn Copier>> {
        Ok(Box::new(PgCopier::open(&self.address, self.tls.as_ref()).await?))
    }

    async fn describe_query(
        &self,
        query: &TrackQuery,
        values: &[(String, DataType)],
    ) -> Result<Vec<QueryColumn>> {
        copy::describe(&self.own().await?, query, values).await
    }

    async fn explain_keys(&self, table: &CopyTable, by: &[String]) -> Result<Vec<Finding>> {
        PgCopier::open(&self.address, self.tls.as_ref()).await?.explained(table, by).await
    }

    async fn made_of(&self, view: &TableName) -> Result<Option<Vec<TableName>>> {
        views::made_of(&*self.admin().await?, view).await.map(Some)
    }

    fn orders_alike(&self, data_type: &DataType) -> bool {
        copy::orders_alike(data_type)
    }

    async fn read_copies(&self, pipeline: &str) -> Result<Vec<CopyRow>> {
        meta::read_copies(&*self.admin().await?, self.meta(), pipeline).await
    }

    async fn write_copy(&self, row: &CopyRow) -> Result<()> {
        meta::write_copy(&*self.admin().await?, self.meta(), row).await
    }

    async fn clear_copy(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        meta::clear_copy(&*self.admin().await?, self.meta(), pipeline, flow, mapping).await
    }

    async fn probe(&self, spec: &SourceSpec, _from: Option<&Position>) -> Result<Probe> {
        let sql = "SELECT pg_current_wal_flush_lsn()::text, \
                   pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8, s.safe_wal_size, \
                   (SELECT max(extract(epoch FROM clock_timestamp() - a.xact_start))::float8 \
                    FROM pg_stat_activity a WHERE a.backend_type = 'client backend') \
                   FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1";
        let session = self.admin().await?;
        let row = session.query_one("probing the log", sql, &[&spec.slot]).await?;
        let end: Lsn = get::<&str>(&row, 0)?.parse()?;
        let bytes = |index| -> Result<Option<u64>> {
            // Negative headroom is none left.
            Ok(get::<Option<i64>>(&row, index)?.map(|b| u64::try_from(b).unwrap_or(0)))
        };
        Ok(Probe {
            end: end.to_position(),
            retained_bytes: bytes(1)?,
            freed_by_confirming: true,
            headroom_bytes: bytes(2)?,
            headroom_seconds: None,
            open_transaction_seconds: get(&row, 3)?,
        })
    }

    async fn heartbeat(&self) -> Result<()> {
        // The message alone might stay in memory until somebody commits; the transaction id makes
        // this a commit, which is flushed.
        let sql = "SELECT pg_logical_emit_message(false, 'tidelock', ''), pg_current_xact_id()";
        self.admin().await?.query("moving the log on", sql, &[]).await.map(|_| ())
    }

    async fn leftovers(&self, pipeline: &str) -> Result<Vec<String>> {
        slot::leftovers(&*self.admin().await?, pipeline).await
    }

    async fn drop_stream(&self, spec: &SourceSpec) -> Result<Dropped> {
        slot::remove(&self.own().await?, spec).await
    }

    async fn forget_progress(&self, pipeline: &str, flow: &str) -> Result<()> {
        meta::forget_progress(&*self.admin().await?, self.meta(), pipeline, flow).await
    }

    async fn forget_memory(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        let whose = MemoryPrefix::flow(pipeline, flow).mapping(mapping);
        meta::forget_memory(&*self.admin().await?, self.meta(), &whose).await.map(drop)
    }

    async fn forget(&self, pipeline: &str, flow: &str) -> Result<u64> {
        meta::forget(&*self.admin().await?, self.meta(), pipeline, flow).await
    }

    fn compare(&self, a: &Position, b: &Position) -> Result<PositionOrder> {
        Ok(match Lsn::of(a)?.cmp(&Lsn::of(b)?) {
            std::cmp::Ordering::Less => PositionOrder::Before,
            std::cmp::Ordering::Equal => PositionOrder::Equal,
            std::cmp::Ordering::Greater => PositionOrder::After,
        })
    }

    fn parse_position(&self, text: &str) -> Result<Position> {
        (crate::FAMILY.parse_position)(text)
    }

    fn bytes_between(&self, from: &Position, to: &Position) -> Option<u64> {
        let (from, to) = (Lsn::of(from).ok()?, Lsn::of(to).ok()?);
        Some(to.0.saturating_sub(from.0))
    }
}
