//! MariaDB and MySQL behind tidelock's contract.
//!
//! ```text
//!  source server ──COM_BINLOG_DUMP──> mysql_async (packets) ─> binlog (pure decoder) ─> source (whole transactions)
//!  target server <──prepared statements── sink (one guarded transaction) <─ upsert (SQL, pure)
//! ```
//!
//! A position is a GTID set with file and offset beside it ([`gtid`]); the differences between the two
//! families stand behind [`Flavour`], which is found from the server, not from the URL's scheme. What
//! the server must be set to is in `README.md`, the type table in `TYPES.md`.

mod binlog;
mod catalog;
mod charset;
mod config;
mod copy;
pub mod ddl;
mod error;
#[cfg(test)]
mod fuzz;
pub mod gtid;
mod load;
mod meta;
mod preflight;
mod retention;
mod routine;
mod session;
mod shape;
mod sink;
mod source;
mod spelled;
mod stream;
mod tls;
mod upsert;
mod view;
mod xa;

use async_trait::async_trait;
use tidelock_core::{
    Connector, Copier, CopyRow, CopyTable, Creation, DataType, Dialect, Dropped, Family, Finding,
    IdentifierMax, Identity, Lease, Look, MemoryPrefix, Position, PositionOrder, Probe, Progress,
    QueryColumn, Result, Routine, Scope, ShapeChange, Sink, SinkSpec, Source, SourceSpec, StateRow,
    SystemConfig, SystemId, Table, TableName, TrackQuery,
};

use config::Endpoint;
use gtid::BinlogPosition;
use retention::Retention;
use session::Session;
use tokio::sync::Mutex;

pub use session::Flavour;

/// What is known of MySQL and MariaDB before a server is asked.
pub const FAMILY: Family = Family {
    schemes: &["mysql", "mariadb"],
    has_slots: false,
    lanes: 2,
    identifier_max: IdentifierMax::Chars(64),
    is_local: config::is_local,
    check: |config| config::endpoint(config).map(drop),
    parse_position: |text| Ok(text.trim().parse::<BinlogPosition>()?.to_position()),
    connector,
};

/// A connector for a `mysql://` or `mariadb://` system.
pub fn connector(config: SystemConfig) -> Result<Box<dyn Connector>> {
    let endpoint = config::endpoint(&config)?;
    Ok(Box::new(MySqlConnector { endpoint, retention: Mutex::default() }))
}

struct MySqlConnector {
    endpoint: Endpoint,
    retention: Mutex<Retention>,
}

impl MySqlConnector {
    async fn session(&self) -> Result<Session> {
        Session::open(&self.endpoint).await
    }

    fn meta(&self) -> &str {
        &self.endpoint.meta
    }
}

#[async_trait]
impl Connector for MySqlConnector {
    fn family(&self) -> &'static str {
        "mysql"
    }

    fn endpoint(&self) -> String {
        self.endpoint.shown.clone()
    }

    fn default_schema(&self) -> &str {
        &self.endpoint.database
    }

    fn identifier_max(&self) -> IdentifierMax {
        FAMILY.identifier_max
    }

    async fn identify(&self) -> Result<Identity> {
        let mut session = self.session().await?;
        let history = source::history(&mut session, self.meta()).await?;
        let product = if session.maria() { "MariaDB" } else { "MySQL" };
        let number = session.version.split('-').next().unwrap_or("?");
        Ok(Identity {
            version: format!("{product} {number}"),
            database: self.endpoint.database.clone(),
            history,
        })
    }

    async fn catalog(&self, schemas: &[String]) -> Result<Vec<Table>> {
        let mut session = self.session().await?;
        let found = catalog::read(&mut session, schemas, Some(self.meta())).await?;
        Ok(found.into_iter().map(|t| t.table).collect())
    }

    async fn routines(&self, schemas: &[String]) -> Result<Vec<Routine>> {
        routine::read(&mut self.session().await?, schemas).await
    }

    async fn look(&self, scope: Scope<'_>, _publication: &str) -> Result<Look> {
        shape::look(&mut self.session().await?, scope).await
    }

    fn shape_change(&self, before: &str, now: &str, columns: &[String]) -> ShapeChange {
        shape::change(before, now, columns)
    }

    fn logs_schema_changes(&self) -> bool {
        true
    }

    async fn run_ddl(&self, sql: &str) -> Result<()> {
        self.session().await?.run(sql).await
    }

    /// The binlog holds every table.
    async fn admit(&self, _spec: &SourceSpec, _table: &TableName) -> Result<()> {
        Ok(())
    }

    async fn system_id(&self) -> Result<Option<SystemId>> {
        meta::system_id(&mut self.session().await?, self.meta()).await
    }

    async fn ensure_meta(&self) -> Result<SystemId> {
        meta::ensure(&mut self.session().await?, self.meta()).await
    }

    async fn preflight_source(&self, spec: &SourceSpec) -> Result<Vec<Finding>> {
        preflight::source(&mut self.session().await?, &self.endpoint, spec).await
    }

    async fn preflight_target(&self, spec: &SinkSpec) -> Result<Vec<Finding>> {
        preflight::target(&mut self.session().await?, &self.endpoint, spec).await
    }

    async fn preflight_unseen(
        &self,
        schema: &str,
        table: Option<&str>,
        writes: bool,
    ) -> Result<Finding> {
        preflight::unseen(&mut self.session().await?, schema, table, writes).await
    }

    fn mend_key(&self, table: &Table, columns: &[String], finding: Finding) -> Finding {
        preflight::mend_key(table, columns, finding)
    }

    async fn dialect(&self, schemas: &[String]) -> Result<Box<dyn Dialect>> {
        Ok(Box::new(ddl::dialect(&mut self.session().await?, schemas).await?))
    }

    async fn create(&self, creation: &Creation) -> Result<()> {
        ddl::create(&mut self.session().await?, &self.endpoint, creation).await
    }

    async fn create_stream(&self, spec: &SourceSpec, _adopt: bool) -> Result<Position> {
        stream::create(&mut self.session().await?, &self.endpoint, spec).await
    }

    async fn open_source(&self, spec: &SourceSpec, from: &Position) -> Result<Box<dyn Source>> {
        Ok(Box::new(source::open(&self.endpoint, spec, from).await?))
    }

    async fn open_sink(&self, spec: &SinkSpec) -> Result<Lease> {
        sink::open(&self.endpoint, spec).await
    }

    async fn open_loader(&self, spec: &SinkSpec, epoch: u64, lane: u32) -> Result<Box<dyn Sink>> {
        sink::open_loader(&self.endpoint, spec, epoch, lane).await
    }

    async fn read_progress(&self, pipeline: &str) -> Result<Vec<Progress>> {
        meta::read_progress(&mut self.session().await?, self.meta(), pipeline).await
    }

    async fn read_states(&self, pipeline: &str) -> Result<Vec<StateRow>> {
        meta::read_states(&mut self.session().await?, self.meta(), pipeline).await
    }

    async fn write_state(&self, row: &StateRow) -> Result<()> {
        meta::write_state(&mut self.session().await?, self.meta(), row).await
    }

    async fn clear_state(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        let key = (pipeline, flow, mapping);
        meta::clear_state(&mut self.session().await?, self.meta(), key).await
    }

    async fn copier(&self) -> Result<Box<dyn Copier>> {
        Ok(Box::new(copy::MySqlCopier::open(&self.endpoint).await?))
    }

    async fn describe_query(
        &self,
        query: &TrackQuery,
        values: &[(String, DataType)],
    ) -> Result<Vec<QueryColumn>> {
        copy::MySqlCopier::open(&self.endpoint).await?.described(query, values).await
    }

    async fn explain_keys(&self, table: &CopyTable, by: &[String]) -> Result<Vec<Finding>> {
        copy::MySqlCopier::open(&self.endpoint).await?.explained(table, by).await
    }

    async fn made_of(&self, view: &TableName) -> Result<Option<Vec<TableName>>> {
        view::made_of(&mut self.session().await?, view).await
    }

    fn orders_alike(&self, data_type: &DataType) -> bool {
        copy::orders_alike(data_type)
    }

    async fn read_copies(&self, pipeline: &str) -> Result<Vec<CopyRow>> {
        meta::read_copies(&mut self.session().await?, self.meta(), pipeline).await
    }

    async fn write_copy(&self, row: &CopyRow) -> Result<()> {
        meta::write_copy(&mut self.session().await?, self.meta(), row).await
    }

    async fn clear_copy(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        let key = (pipeline, flow, mapping);
        meta::clear_copy(&mut self.session().await?, self.meta(), key).await
    }

    async fn probe(&self, _spec: &SourceSpec, from: Option<&Position>) -> Result<Probe> {
        let mut session = self.session().await?;
        stream::probe(&mut session, &self.endpoint, &self.retention, from).await
    }

    /// GTID positions move with every transaction of anybody; there is nothing to write.
    async fn heartbeat(&self) -> Result<()> {
        Ok(())
    }

    /// A binlog has no slots: nothing stays on the server on our account.
    async fn leftovers(&self, _pipeline: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn drop_stream(&self, _spec: &SourceSpec) -> Result<Dropped> {
        Ok(Dropped::default())
    }

    async fn forget_progress(&self, pipeline: &str, flow: &str) -> Result<()> {
        meta::forget_progress(&mut self.session().await?, self.meta(), pipeline, flow).await
    }

    async fn forget_memory(&self, pipeline: &str, flow: &str, mapping: &str) -> Result<()> {
        let whose = MemoryPrefix::flow(pipeline, flow).mapping(mapping);
        meta::forget_memory(&mut self.session().await?, self.meta(), &whose).await.map(drop)
    }

    async fn forget(&self, pipeline: &str, flow: &str) -> Result<u64> {
        meta::forget(&mut self.session().await?, self.meta(), pipeline, flow).await
    }

    fn compare(&self, a: &Position, b: &Position) -> Result<PositionOrder> {
        let (a, b): (BinlogPosition, BinlogPosition) = (a.as_str().parse()?, b.as_str().parse()?);
        Ok(a.gtids.order(&b.gtids))
    }

    fn parse_position(&self, text: &str) -> Result<Position> {
        (FAMILY.parse_position)(text)
    }

    fn bytes_between(&self, from: &Position, to: &Position) -> Option<u64> {
        let from = from.as_str().parse::<BinlogPosition>().ok()?.at?;
        let to = to.as_str().parse::<BinlogPosition>().ok()?.at?;
        match self.retention.try_lock() {
            Ok(seen) => seen.bytes_between(&from, &to),
            Err(_) => Retention::default().bytes_between(&from, &to),
        }
    }
}
