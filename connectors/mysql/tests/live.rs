//! The connector against a real server.

#[path = "live/access.rs"]
mod access;
#[path = "live/corpus.rs"]
mod corpus;
#[path = "live/loads.rs"]
mod loads;
#[path = "live/log.rs"]
mod log;
#[path = "live/types.rs"]
mod types;
#[path = "live/writer.rs"]
mod writer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tidelock_core::value::{Date, Instant, Timestamp};
use tidelock_core::{
    Change, Code, Connector, CopyTable, DataType, ErrorKind, HopList, KeyRange, Lease, Load,
    LogEvent, Mark, OldRow, Op, OpenSink, Position, Progress, Repertoire, Secret, ShapeChange,
    SinkSpec, Source, SourceSpec, SourceTable, SystemConfig, TableName, TargetColumn, TargetTable,
    Tls, TlsMode, Value, WriteBatch, WriteOp,
};
use tidelock_scratch::{Mysql, MysqlOptions};

async fn server() -> Mysql {
    let options = MysqlOptions::of_matrix().setting("binlog_row_metadata", "FULL");
    let server = options.start().await.unwrap();
    server.create_database("crm").await.unwrap();
    println!("server {}", server.one("crm", "SELECT VERSION()").await.unwrap());
    server
}

fn connector(server: &Mysql) -> Box<dyn Connector> {
    tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(server.url("crm")),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap()
}

fn source_spec(tables: &[&str]) -> SourceSpec {
    SourceSpec {
        pipeline: "p".into(),
        flow: "crm:erp".into(),
        slot: String::new(),
        publication: String::new(),
        tables: tables
            .iter()
            .map(|t| SourceTable {
                joins: false,
                name: TableName::new("crm", *t),
                key_columns: vec!["id".into()],
                columns: Vec::new(),
                shape: String::new(),
                optional: false,
            })
            .collect(),
        start_at: None,
        identity: String::new(),
    }
}

fn sink_spec() -> SinkSpec {
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

struct Log {
    source: Box<dyn Source>,
    position: Position,
    faults: Vec<Code>,
    changed: Vec<ShapeChange>,
    truncated: usize,
}

impl Log {
    async fn open(c: &dyn Connector, tables: &[&str]) -> Log {
        c.ensure_meta().await.unwrap();
        let spec = source_spec(tables);
        let start = c.create_stream(&spec, false).await.unwrap();
        Log::at(c, tables, &start).await
    }

    async fn at(c: &dyn Connector, tables: &[&str], position: &Position) -> Log {
        let source = c.open_source(&source_spec(tables), position).await.unwrap();
        Log { source, position: position.clone(), faults: vec![], changed: vec![], truncated: 0 }
    }

    /// The changes up to the server's present end.
    async fn changes(&mut self, c: &dyn Connector) -> tidelock_core::Result<Vec<Change>> {
        let end = c.probe(&source_spec(&[]), None).await.unwrap().end;
        let mut changes = Vec::new();
        while !c.compare(&self.position, &end).unwrap().reached() {
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.source.next())
                .await
                .expect("the log stands still")?;
            for event in chunk.events {
                match event {
                    LogEvent::Change(change) => changes.push(change),
                    LogEvent::Commit(x) => self.position = x.position,
                    LogEvent::Idle(x) => self.position = x.position,
                    LogEvent::TableFault(f) => self.faults.push(f.error.code()),
                    LogEvent::TableChanged(x) => self.changed.push(x.change),
                    LogEvent::Truncate(_) => self.truncated += 1,
                    LogEvent::Begin(b) => assert!(b.commit_micros > 1_600_000_000_000_000),
                }
            }
        }
        Ok(changes)
    }
}

fn inserted(change: &Change) -> &[Value] {
    match &change.op {
        Op::Insert(i) => &i.new.0,
        other => panic!("{other:?}"),
    }
}

fn text(t: &str) -> Value {
    Value::Text(t.to_owned().into())
}

fn target(columns: &[(&str, DataType)], key: &[usize]) -> Arc<TargetTable> {
    Arc::new(TargetTable {
        id: 1,
        name: TableName::new("crm", "t"),
        columns: columns
            .iter()
            .map(|(name, data_type)| TargetColumn {
                name: (*name).into(),
                data_type: data_type.clone(),
                native: String::new(),
                identity_always: false,
            })
            .collect(),
        key: key.to_vec(),
        suppress_unchanged: true,
        partial: false,
    })
}

fn batch(
    table: &Arc<TargetTable>,
    op: WriteOp,
    columns: &[usize],
    rows: Vec<Vec<Value>>,
) -> WriteBatch {
    WriteBatch {
        mapping: "m".into(),
        table: Arc::clone(table),
        op,
        columns: columns.into(),
        rows: rows.into_iter().map(Vec::into_boxed_slice).collect(),
    }
}

async fn hold(c: &dyn Connector) -> OpenSink {
    for _ in 0..50 {
        if let Lease::Held(open) = c.open_sink(&sink_spec()).await.unwrap() {
            return open;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the lease is never free")
}

/// Writes in a transaction of its own, taking the flow over first.
async fn write(c: &dyn Connector, batches: &[WriteBatch]) -> tidelock_core::Result<()> {
    let mut open = hold(c).await;
    let (epoch, seq) = match &open.progress {
        Some(p) => (p.epoch, p.seq + 1),
        None => {
            open.sink.create_progress(&progress()).await?;
            (1, 1)
        }
    };
    open.sink.begin(&Mark { epoch, seq, hops: HopList::default() }).await?;
    open.sink.write(batches).await?;
    open.sink.commit(&Position::new(format!("0-1-{seq}")), 7).await
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

fn int() -> DataType {
    DataType::Int { bits: 32, unsigned: false }
}

fn varchar() -> DataType {
    DataType::Text {
        chars_max: Some(20),
        bytes_max: Some(80),
        repertoire: Repertoire::Unicode,
        padded: false,
    }
}
