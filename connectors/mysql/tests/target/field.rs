//! A server, a database and the connector to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidelock_core::{
    Connector, HopList, Lease, Mark, OpenSink, Position, Progress, Secret, SinkSpec, SystemConfig,
    TableName, TargetColumn, TargetTable, Tls, TlsMode, Value, WriteBatch, WriteOp,
};
use tidelock_scratch::{Mysql, MysqlOptions};

pub struct Field {
    pub server: Mysql,
    pub connector: Box<dyn Connector>,
}

pub fn connector(url: &str) -> Box<dyn Connector> {
    tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(url),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap()
}

pub fn sink_spec() -> SinkSpec {
    SinkSpec {
        pipeline: "p".into(),
        flow: "erp:crm".into(),
        holder: "test".into(),
        config_hash: "h".into(),
        tables: vec![],
        routines: vec![],
        lookups: Vec::new(),
    }
}

/// A session that holds the flow, and the number of its last transaction.
pub struct Held {
    pub open: OpenSink,
    epoch: u64,
    seq: u64,
}

impl Field {
    pub async fn new(schema: &str) -> Field {
        let server =
            MysqlOptions::of_matrix().setting("binlog_row_metadata", "FULL").start().await.unwrap();
        server.create_database("crm").await.unwrap();
        let connector = connector(&server.url("crm"));
        connector.ensure_meta().await.unwrap();
        let field = Field { server, connector };
        if !schema.is_empty() {
            field.sql(schema).await;
        }
        field
    }

    pub async fn sql(&self, sql: &str) {
        self.server.sql("crm", sql).await.expect(sql);
    }

    pub async fn one(&self, sql: &str) -> String {
        self.server.one("crm", sql).await.expect(sql)
    }

    /// Takes the flow over, once whoever had it is gone.
    pub async fn hold(&self) -> Held {
        for _ in 0..200 {
            if let Lease::Held(mut open) = self.connector.open_sink(&sink_spec()).await.unwrap() {
                let (epoch, seq) = match &open.progress {
                    Some(progress) => (progress.epoch, progress.seq),
                    None => {
                        open.sink.create_progress(&progress()).await.unwrap();
                        (1, 0)
                    }
                };
                return Held { open, epoch, seq };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the lease is never free")
    }

    /// The table as the catalog has it, with the primary key as mapping key.
    pub async fn target(&self, name: &str) -> TargetTable {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let tables = self.connector.catalog(&["crm".into()]).await.unwrap();
        let table = tables.into_iter().find(|t| t.name.name == name).unwrap();
        let key = table.primary_key().unwrap().iter();
        let key = key.map(|k| table.columns.iter().position(|c| c.name == *k).unwrap()).collect();
        let columns = table.columns.iter().map(|c| TargetColumn {
            name: c.name.clone(),
            data_type: c.data_type.clone(),
            native: c.native.clone(),
            identity_always: false,
        });
        TargetTable {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            name: TableName::new("crm", name),
            columns: columns.collect(),
            key,
            suppress_unchanged: false,
            partial: false,
        }
    }
}

fn progress() -> Progress {
    Progress {
        pipeline: "p".into(),
        flow: "erp:crm".into(),
        epoch: 1,
        seq: 0,
        source_identity: "x".into(),
        position: Position::new("0-1-0"),
        config_hash: "h".into(),
        source_commit_micros: 0,
    }
}

impl Held {
    pub async fn begin(&mut self) {
        self.seq += 1;
        let mark = Mark { epoch: self.epoch, seq: self.seq, hops: HopList::default() };
        self.open.sink.begin(&mark).await.expect("begin");
    }

    pub async fn commit(&mut self) {
        let position = Position::new(format!("0-1-{}", self.seq));
        self.open.sink.commit(&position, 0).await.expect("commit");
    }

    pub async fn write(&mut self, batches: &[WriteBatch]) {
        self.begin().await;
        self.open.sink.write(batches).await.expect("write");
        self.commit().await;
    }
}

pub fn batch(
    table: &Arc<TargetTable>,
    op: WriteOp,
    columns: &[usize],
    rows: Vec<Vec<Value>>,
) -> WriteBatch {
    WriteBatch {
        mapping: "m".into(),
        table: table.clone(),
        op,
        columns: columns.into(),
        rows: rows.into_iter().map(Vec::into_boxed_slice).collect(),
    }
}

pub const INT: fn(i64) -> Value = Value::Int;

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}
