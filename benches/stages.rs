//! Each stage by itself: what it costs the engine, in CPU time of this process.
//!
//! ```text
//! decode ──changes──> map ──writes──> compact ──batches──> encode        checkpoint (wall clock: a disk's flush)
//!                      └ expressions: a filter and three computed columns
//! ```
//!
//! The rows are those of workload b of `replicate`, from the log of a real scratch server, read and written through the
//! connectors' public contract. Servers are other processes, so this process's CPU time is the stage alone: `decode` reads
//! the same log from its beginning each time (receiving and framing among it), `encode` writes the same batches to a
//! server (sending among it).

#[path = "replicate/workload.rs"]
#[allow(dead_code, reason = "the end-to-end benchmark uses the rest")]
mod workload;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};
use tidelock::apply::batch::{Batcher, Step};
use tidelock::apply::place::Places;
use tidelock::checkpoint::{Checkpoint, FlowRecord};
use tidelock::config::Config;
use tidelock::flow::start;
use tidelock::mapping::{Becomes, BoundPlan, MappingPlan, Write};
use tidelock_core::{
    Change, Connector, HopList, Lease, LogEvent, Mark, Op, OpKind, Position, Progress, SinkSpec,
    SourceSpec, TableName, TableSchema, WriteBatch,
};
use tidelock_scratch::mysql_async::prelude::Queryable;
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};
use tokio::runtime::Runtime;
use workload::Workload;

/// Enough for every batch to be of its usual size.
const ROWS: usize = 20_000;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The CPU time of this process, all threads and the kernel on their behalf.
struct CpuTime;

static WALL: WallTime = WallTime;

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu()
    }

    fn end(&self, started: Duration) -> Duration {
        cpu().saturating_sub(started)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WALL.formatter()
    }
}

enum Server {
    Postgres(Postgres),
    MariaDb(Mysql),
}

impl Server {
    async fn start(postgres: bool) -> Outcome<Server> {
        let server = if postgres {
            Server::Postgres(PostgresOptions::new().start().await?)
        } else {
            Server::MariaDb(MysqlOptions::new().start().await?)
        };
        match &server {
            Server::Postgres(server) => server.create_database("db").await?,
            Server::MariaDb(server) => server.create_database("db").await?,
        }
        server.sql(&workload::tables(postgres)).await?;
        Ok(server)
    }

    fn url(&self) -> String {
        match self {
            Server::Postgres(server) => server.url("db"),
            Server::MariaDb(server) => server.url("db"),
        }
    }

    /// Does the work in one session: its pieces end inside transactions.
    async fn work(&self, work: &Workload) -> Outcome {
        match self {
            Server::Postgres(server) => {
                let client = server.client("db").await?;
                for sql in work.sql() {
                    client.batch_execute(&sql).await?;
                }
            }
            Server::MariaDb(server) => {
                let mut conn = server.conn("db").await?;
                for sql in work.sql() {
                    conn.query_drop(sql).await?;
                }
            }
        }
        Ok(())
    }

    async fn sql(&self, statements: &str) -> Outcome {
        match self {
            Server::Postgres(server) => server.sql("db", statements).await?,
            Server::MariaDb(server) => server.sql("db", statements).await?,
        }
        Ok(())
    }
}

/// A pair of servers, and the changes of the workload as the source's log tells them.
struct Setup {
    source: Arc<dyn Connector>,
    target: Arc<dyn Connector>,
    spec: SourceSpec,
    from: Position,
    plans: Vec<Arc<MappingPlan>>,
    changes: Vec<Change>,
    _servers: [Server; 2],
}

impl Setup {
    async fn new(postgres: bool) -> Outcome<Setup> {
        let servers = [Server::start(postgres).await?, Server::start(postgres).await?];
        let mut text = "version = 1\nname = \"stages\"\nstate_dir = \"/nowhere\"\n".to_owned();
        for (name, server) in ["a", "b"].iter().zip(&servers) {
            text.push_str(&format!("[systems.{name}]\nurl = {:?}\n", server.url()));
        }
        for table in ["orders", "order_lines"] {
            text.push_str(&format!(
                "[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\nsnapshot = \"never\"\n"
            ));
        }
        let config = Config::parse(&text, "stages")?;
        let flow = config.flows.first().ok_or("no flow")?;
        let source = tidelock::registry::connector(&config.systems["a"])?;
        let target = tidelock::registry::connector(&config.systems["b"])?;
        source.ensure_meta().await?;
        target.ensure_meta().await?;
        let history = source.identify().await?.history;
        let plans = start::plan(flow, &*source, &*target, false).await?.mappings;
        let spec = start::source_spec(&config.name, flow, &plans, &history);
        let from = source.create_stream(&spec, false).await?;
        servers[0].work(&Workload::new('b', ROWS)).await?;
        let mut setup =
            Setup { source, target, spec, from, plans, changes: Vec::new(), _servers: servers };
        setup.changes = setup.read().await?;
        Ok(setup)
    }

    /// Every change of the workload, from the log's beginning.
    async fn read(&self) -> Outcome<Vec<Change>> {
        let mut source = self.source.open_source(&self.spec, &self.from).await?;
        let mut changes = Vec::with_capacity(ROWS);
        while changes.len() < ROWS {
            for event in source.next().await?.events {
                if let LogEvent::Change(change) = event {
                    changes.push(change);
                }
            }
        }
        Ok(changes)
    }

    /// The same, thrown away as it comes; gives the CPU time after the log is open.
    async fn decode(&self) -> Outcome<Duration> {
        let mut source = self.source.open_source(&self.spec, &self.from).await?;
        let began = cpu();
        let mut seen = 0;
        while seen < ROWS {
            let changes = source.next().await?.events.into_iter();
            seen += changes.filter(|event| matches!(event, LogEvent::Change(_))).count();
        }
        Ok(cpu().saturating_sub(began))
    }

    fn bound(&self) -> Outcome<HashMap<TableName, BoundPlan>> {
        let mut bound = HashMap::new();
        for change in &self.changes {
            if !bound.contains_key(&change.table.name) {
                let of = |plan: &&Arc<MappingPlan>| plan.source == change.table.name;
                let plan = self.plans.iter().find(of).ok_or("a change of no mapping")?;
                bound.insert(change.table.name.clone(), BoundPlan::new(plan, &change.table)?);
            }
        }
        Ok(bound)
    }
}

/// A change on its way.
type Mapped = (Arc<MappingPlan>, Write, OpKind);

fn map(bound: &mut HashMap<TableName, BoundPlan>, ops: Vec<(Arc<TableSchema>, Op)>) -> Vec<Mapped> {
    let mut writes = Vec::with_capacity(ops.len());
    for (table, op) in ops {
        let Some(plan) = bound.get_mut(&table.name) else { continue };
        let kind = op.kind();
        if let Ok(Becomes::Write(write)) = plan.write(op) {
            writes.push((plan.plan().clone(), write, kind));
        }
    }
    writes
}

fn compact(places: &Arc<Places>, writes: Vec<Mapped>) -> Vec<WriteBatch> {
    let mut batcher = Batcher::new(places.clone(), false);
    for (plan, write, kind) in writes {
        let _replaced = batcher.push(&plan, write, kind);
    }
    Step::writes(batcher.take())
}

/// Writes the batches so many times, each in a transaction of its own; gives the CPU time of `write` alone.
async fn encode(
    setup: &Setup,
    seq: &mut u64,
    batches: &[WriteBatch],
    times: u64,
) -> Outcome<Duration> {
    let spec = SinkSpec {
        pipeline: "stages".to_owned(),
        flow: setup.spec.flow.clone(),
        holder: "bench".to_owned(),
        config_hash: String::new(),
        tables: setup.plans.iter().map(|plan| plan.target.name.clone()).collect(),
        routines: Vec::new(),
        lookups: Vec::new(),
    };
    // The server may not have noticed yet that the session before is gone.
    let mut open = loop {
        match setup.target.open_sink(&spec).await? {
            Lease::Held(open) => break open,
            Lease::Busy { .. } => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let epoch = match &open.progress {
        Some(progress) => {
            *seq = progress.seq;
            progress.epoch
        }
        None => {
            let progress = Progress {
                pipeline: spec.pipeline.clone(),
                flow: spec.flow.clone(),
                epoch: 1,
                seq: 0,
                source_identity: setup.spec.identity.clone(),
                position: setup.from.clone(),
                config_hash: String::new(),
                source_commit_micros: 0,
            };
            open.sink.create_progress(&progress).await?;
            1
        }
    };
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        *seq += 1;
        open.sink.begin(&Mark { epoch, seq: *seq, hops: HopList::default() }).await?;
        let began = cpu();
        open.sink.write(batches).await?;
        spent += cpu().saturating_sub(began);
        open.sink.commit(&setup.from, 0).await?;
    }
    Ok(spent)
}

/// The CPU time of decoding so many times.
async fn decode(setup: &Setup, times: u64) -> Outcome<Duration> {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        spent += setup.decode().await?;
    }
    Ok(spent)
}

/// A bench has nobody to hand an error to.
fn done(spent: Outcome<Duration>) -> Duration {
    match spent {
        Ok(spent) => spent,
        Err(error) => panic!("{error}"),
    }
}

fn short<'a, M: Measurement>(criterion: &'a mut Criterion<M>, name: &str) -> BenchmarkGroup<'a, M> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(ROWS as u64));
    group
}

fn stages(
    criterion: &mut Criterion<CpuTime>,
    runtime: &Runtime,
    family: &str,
    setup: &Setup,
) -> Outcome {
    let ops: Vec<(Arc<TableSchema>, Op)> =
        setup.changes.iter().map(|change| (change.table.clone(), change.op.clone())).collect();
    let mut bound = setup.bound()?;
    let writes = map(&mut bound, ops.clone());
    let places = Arc::new(Places::new(&setup.plans, &HashSet::new()));
    let batches = compact(&places, writes.clone());
    short(criterion, "decode").bench_function(family, |b| {
        b.iter_custom(|times| done(runtime.block_on(decode(setup, times))))
    });
    short(criterion, "map").bench_function(family, |b| {
        b.iter_batched(|| ops.clone(), |ops| map(&mut bound, ops), BatchSize::PerIteration);
    });
    short(criterion, "compact").bench_function(family, |b| {
        b.iter_batched(
            || writes.clone(),
            |writes| compact(&places, writes),
            BatchSize::PerIteration,
        );
    });
    let mut seq = 0;
    let mut group = short(criterion, "encode");
    group.throughput(Throughput::Elements(
        batches.iter().map(|batch| batch.rows.len() as u64).sum(),
    ));
    group.bench_function(family, |b| {
        b.iter_custom(|times| done(runtime.block_on(encode(setup, &mut seq, &batches, times))));
    });
    group.finish();
    Ok(())
}

/// What a commit at the target is followed by: a record, sled's flush and an `fdatasync`.
fn checkpoint(criterion: &mut Criterion) -> Outcome {
    let folder = tempfile::tempdir()?;
    let (store, _) = Checkpoint::open(folder.path())?;
    let mut record = FlowRecord {
        position: Position::new("0/16B3748"),
        epoch: 1,
        seq: 0,
        source_identity: "7301234567890123456/1".to_owned(),
        target_id: "0123456789abcdef0123456789abcdef".to_owned(),
        saved_at_ms: 0,
    };
    let mut group = short(criterion, "checkpoint");
    group.throughput(Throughput::Elements(1));
    group.bench_function("save, flush, fdatasync", |b| {
        b.iter(|| {
            record.seq += 1;
            store.save("a:b", &record).and_then(|()| store.make_durable())
        });
    });
    group.finish();
    Ok(())
}

/// A filter and three computed columns over a wide row, without the rest of the mapping.
fn expressions(criterion: &mut Criterion<CpuTime>) -> Outcome {
    use tidelock::expr::{Env, Field, Input, NoDictionaries, Scope, compile, compile_condition};
    use tidelock_core::{DataType, Instant, Repertoire, Value};

    let int = DataType::Int { bits: 64, unsigned: false };
    let decimal = DataType::Decimal { precision: Some(12), scale: Some(2) };
    let text = DataType::Text {
        chars_max: Some(80),
        bytes_max: None,
        repertoire: Repertoire::Unicode,
        padded: false,
    };
    let fields: Vec<Field> = [
        ("id", int.clone()),
        ("status", text.clone()),
        ("qty", int.clone()),
        ("safety_stock", int),
        ("price", decimal.clone()),
        ("discount", decimal),
        ("name", text.clone()),
        ("note", text),
    ]
    .into_iter()
    .map(|(name, data_type)| Field::new(name, data_type, true))
    .collect();
    let scope = Scope::of(&fields);
    let filter = compile_condition("status = 'SHIPPED' AND qty < safety_stock", &scope)?;
    let columns = [
        compile("round(price * qty * (1 - discount), 2)", &scope)?,
        compile("upper(trim(name)) || '-' || id", &scope)?,
        compile("CASE WHEN qty > 10 THEN 'many' ELSE coalesce(note, 'few') END", &scope)?,
    ];
    let rows: Vec<Vec<Value>> = (0..ROWS as i64)
        .map(|id| {
            vec![
                Value::Int(id),
                Value::Text("SHIPPED".into()),
                Value::Int(id % 20),
                Value::Int(100),
                Value::Decimal(format!("{}.50", id % 1_000).into()),
                Value::Decimal("0.05".into()),
                Value::Text(format!(" product number {id} ").into()),
                Value::Null,
            ]
        })
        .collect();
    let env = Env { now: Instant(0), dictionaries: &NoDictionaries, mask_key: None };
    let mut group = short(criterion, "expressions");
    group.bench_function("filter", |b| {
        b.iter(|| {
            for new in &rows {
                let input = Input { new, old: None, lookups: &[], env: &env };
                let _kept = std::hint::black_box(filter.test(&input));
            }
        });
    });
    group.bench_function("filter and three columns", |b| {
        b.iter(|| {
            for new in &rows {
                let input = Input { new, old: None, lookups: &[], env: &env };
                let _kept = std::hint::black_box(filter.test(&input));
                for column in &columns {
                    let _value = std::hint::black_box(column.eval(&input));
                }
            }
        });
    });
    group.finish();
    Ok(())
}

fn main() -> Outcome {
    // `cargo test --all-targets` asks for a listing; there is nothing to list.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut criterion = Criterion::default().with_measurement(CpuTime).configure_from_args();
    expressions(&mut criterion)?;
    for (family, postgres) in [("PostgreSQL", true), ("MariaDB", false)] {
        let setup = runtime.block_on(Setup::new(postgres))?;
        stages(&mut criterion, &runtime, family, &setup)?;
    }
    checkpoint(&mut Criterion::default().configure_from_args())
}
