//! A server, a database and the connector to it.

use std::time::Duration;

use tidelock_core::{
    Connector, Lease, LogEvent, OpenSink, Position, Secret, SinkSpec, Source, SourceSpec,
    SourceTable, SystemConfig, TableName, Tls, TlsMode,
};
use tidelock_postgres::connector;
use tidelock_scratch::{Postgres, PostgresOptions};

/// A server with one database and tidelock's tables in it.
pub struct Field {
    pub server: Postgres,
    pub connector: Box<dyn Connector>,
}

pub fn config(url: &str) -> SystemConfig {
    SystemConfig {
        name: "erp".into(),
        url: Secret::new(url),
        password: None,
        tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
        meta_schema: "tidelock".into(),
        user: String::new(),
    }
}

impl Field {
    pub async fn new(schema: &str) -> Field {
        Field::with(PostgresOptions::new(), schema).await
    }

    pub async fn with(options: PostgresOptions, schema: &str) -> Field {
        let server = options.start().await.expect("server");
        server.create_database("erp").await.expect("database");
        server.sql("erp", schema).await.expect("schema");
        let connector = connector(config(&server.url("erp"))).expect("connector");
        connector.ensure_meta().await.expect("meta");
        Field { server, connector }
    }

    pub async fn sql(&self, sql: &str) {
        self.server.sql("erp", sql).await.expect(sql);
    }

    pub async fn one(&self, sql: &str) -> String {
        self.server.one("erp", sql).await.expect(sql)
    }

    pub async fn spec(&self, tables: &[&str]) -> SourceSpec {
        SourceSpec {
            pipeline: "p".into(),
            flow: "erp:crm".into(),
            slot: "tidelock_p_crm".into(),
            publication: "tidelock_p_crm".into(),
            tables: tables
                .iter()
                .map(|t| SourceTable {
                    joins: false,
                    name: TableName::new("public", *t),
                    key_columns: vec!["id".into()],
                    columns: Vec::new(),
                    shape: String::new(),
                    optional: false,
                })
                .collect(),
            start_at: None,
            identity: self.connector.identify().await.expect("identity").history,
        }
    }

    pub async fn stream(&self, tables: &[&str]) -> (SourceSpec, Position, Box<dyn Source>) {
        let spec = self.spec(tables).await;
        let start = self.connector.create_stream(&spec, false).await.expect("stream");
        let source = self.connector.open_source(&spec, &start).await.expect("source");
        (spec, start, source)
    }

    pub fn sink_spec(&self) -> SinkSpec {
        SinkSpec {
            pipeline: "p".into(),
            flow: "crm:erp".into(),
            holder: "test".into(),
            config_hash: "c".into(),
            tables: Vec::new(),
            routines: Vec::new(),
            lookups: Vec::new(),
        }
    }

    pub async fn sink(&self) -> OpenSink {
        match self.connector.open_sink(&self.sink_spec()).await.expect("sink") {
            Lease::Held(open) => open,
            Lease::Busy { holder } => panic!("busy: {holder}"),
        }
    }
}

/// Events until so many commits were met, and the last commit's position.
pub async fn commits(source: &mut Box<dyn Source>, mut count: usize) -> (Vec<LogEvent>, Position) {
    let mut events = Vec::new();
    let mut last = None;
    while count > 0 {
        let chunk = tokio::time::timeout(Duration::from_secs(20), source.next())
            .await
            .expect("events in time")
            .expect("events");
        for event in chunk.events {
            if let LogEvent::Commit(commit) = &event {
                count -= 1;
                last = Some(commit.position.clone());
            }
            events.push(event);
        }
    }
    (events, last.expect("a commit"))
}

/// Asks until a query answers so.
pub async fn until(field: &Field, sql: &str, answer: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let now = field.one(sql).await;
        if now == answer {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {now}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
