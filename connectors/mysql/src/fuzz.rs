//! Mutated real events against the decoders and the assembler: nothing panics, nothing runs on for long, and nothing
//! grows beyond what its bytes justify. `corpus/` was recorded from servers by `tests/live/corpus.rs`.
//!
//! `TIDELOCK_FUZZ_SECONDS` is how long to go on (one second if unset), `TIDELOCK_FUZZ_SEED` where to start from. A
//! failure shows its seed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tidelock_core::{Chunk, LogEvent, RowIdentity, Table, TableKind, TableName};

use crate::binlog::arena::Arena;
use crate::binlog::rows::{Layout, RowsEvent};
use crate::binlog::table_map::TableMap;
use crate::binlog::{self, kind};
use crate::catalog::CatalogTable;
use crate::charset::Charset;
use crate::gtid::{BinlogPosition, GtidSet};
use crate::source::assembler::{Assembler, Frame};
use crate::source::ddl;

const CORPORA: [&str; 2] =
    [include_str!("../corpus/mariadb.txt"), include_str!("../corpus/mysql.txt")];
/// One event with all its relatives takes microseconds; a second is a loop.
const EVENT_WITHIN: Duration = Duration::from_secs(1);
/// Deflate makes at most 1,032 bytes of one.
const INFLATED_MAX: usize = 1_040;

#[derive(Debug, Clone)]
struct Event {
    kind: u8,
    server: u32,
    seconds: u32,
    end: u64,
    data: Vec<u8>,
}

fn corpus(text: &str) -> Vec<Event> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| fields[i].parse::<u64>().unwrap();
            let hex = fields[4].as_bytes();
            let byte =
                |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
            Event {
                kind: number(0) as u8,
                server: number(1) as u32,
                seconds: number(2) as u32,
                end: number(3),
                data: hex.chunks(2).map(byte).collect(),
            }
        })
        .collect()
}

/// Every collation is UTF-8 but the ones that the recorded tables give to other columns.
fn charsets() -> Arc<HashMap<u64, Charset>> {
    let mut all: HashMap<u64, Charset> = (1..2600).map(|id| (id, Charset::Utf8)).collect();
    all.insert(8, Charset::Latin1);
    all.insert(63, Charset::Binary);
    Arc::new(all)
}

const TABLES: [&str; 2] = ["t", "n"];

/// That the tables are there, and nothing of their columns: the log names them.
fn catalog() -> Vec<CatalogTable> {
    let table = |name: &&str| Table {
        name: TableName::new("crm", *name),
        kind: TableKind::Table,
        columns: Vec::new(),
        unique_indexes: Vec::new(),
        identity: RowIdentity::Full,
        references: Vec::new(),
        triggers: false,
        refusals: Vec::new(),
    };
    let known = |t| CatalogTable { table: t, charsets: Vec::new(), changed: None };
    TABLES.iter().map(table).map(known).collect()
}

fn assembler(gtids: &str) -> Assembler {
    let gtids: GtidSet = gtids.parse().unwrap();
    let own = TABLES.map(|t| TableName::new("crm", t));
    let start = BinlogPosition { gtids, at: None };
    Assembler::new("test".into(), (&[], &own), catalog(), charsets(), (true, false), start)
}

/// A set of the corpus's flavour in which nothing of it is.
fn before(events: &[Event]) -> &'static str {
    if events.iter().any(|e| e.kind == kind::MARIA_GTID) {
        ""
    } else {
        "00000000-0000-0000-0000-000000000000:1"
    }
}

fn feed(log: &mut Assembler, event: &Event) -> tidelock_core::Result<Chunk> {
    let result = log.event(&Frame {
        kind: event.kind,
        server: event.server,
        seconds: event.seconds,
        end: event.end,
        ignorable: false,
        temporary: false,
        inner: false,
        gtid: None,
        data: &event.data,
    });
    if log.stale() {
        log.refreshed(catalog(), charsets(), HashMap::new());
    }
    let chunk = log.flush();
    assert!(!log.has_output(), "what was handed over is still there");
    result.map(|()| chunk)
}

/// Everything that reads bytes of an event, whatever kind it is.
fn decode(event: &Event, layouts: &[Layout]) {
    let data = &event.data;
    let _ = binlog::rotate(data);
    let _ = binlog::maria_gtid(data);
    let _ = binlog::mysql_gtid(data);
    let _ = binlog::payload(data);
    for compressed in [false, true] {
        if let Ok(query) = binlog::query(data, compressed) {
            // A byte that is not UTF-8 becomes three.
            let sql = query.text(&charsets());
            assert!(sql.len() <= 3 * INFLATED_MAX * data.len());
            let words = ddl::words(&sql, query.mode);
            assert!(words.len() <= sql.len());
            let _ = (ddl::classify(&words), ddl::subject(&words), ddl::renames(&words));
        }
    }
    if let Ok(inflated) = binlog::inflate(data) {
        assert!(inflated.len() <= INFLATED_MAX * data.len());
    }
    if let Ok(text) = binlog::jsonb::text(data) {
        assert!(text.len() <= 8 * data.len() + 1024, "{} of {}", text.len(), data.len());
    }
    if let Ok(map) = TableMap::decode(data) {
        let labels: usize =
            map.columns.iter().filter_map(|c| c.labels.as_ref()).map(Vec::len).sum();
        assert!(map.columns.len() <= data.len() && labels <= data.len());
        let _ = Layout::new(&map, None, &charsets(), 1);
    }
    if let Ok(rows) = RowsEvent::decode(event.kind, data) {
        for layout in layouts {
            let mut count = 0;
            let _ = rows.changes(layout, &mut Arena::default(), |_| count += 1);
            assert!(count <= INFLATED_MAX * data.len(), "{count} rows of {} bytes", data.len());
        }
    }
}

fn layouts(events: &[Event]) -> Vec<Layout> {
    let maps = events.iter().filter(|e| e.kind == kind::TABLE_MAP);
    let mut layouts: Vec<Layout> = Vec::new();
    for map in maps.filter_map(|e| TableMap::decode(&e.data).ok()) {
        if let Ok(layout) = Layout::new(&map, None, &charsets(), 1)
            && layouts.iter().all(|l| l.schema != layout.schema)
        {
            layouts.push(layout);
        }
    }
    layouts
}

/// A small generator of our own, so that a seed means the same for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    fn mutate(&mut self, data: &mut Vec<u8>) {
        const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfa, 0xfc, 0xfe, 0xff];
        for _ in 0..=self.below(3) {
            let at = self.below(data.len());
            match self.below(7) {
                _ if data.is_empty() => data.push(self.below(256) as u8),
                0 => data[at] ^= 1 << self.below(8),
                1 => data[at] = self.below(256) as u8,
                2 => data[at] = EDGES[self.below(EDGES.len())],
                3 => data.insert(at, self.below(256) as u8),
                4 => drop(data.remove(at)),
                5 => data.truncate(at),
                _ => {
                    let piece = data[at..(at + 1 + self.below(16)).min(data.len())].to_vec();
                    let to = self.below(data.len());
                    data.splice(to..to, piece);
                }
            }
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("TIDELOCK_FUZZ_SEED").ok().and_then(|s| s.parse().ok());
    let now = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |d| d.as_nanos() as u64);
    let seed = given.unwrap_or_else(now) | 1;
    println!("TIDELOCK_FUZZ_SEED={seed}");
    seed
}

fn until() -> Instant {
    let seconds = std::env::var("TIDELOCK_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    Instant::now() + Duration::from_secs(seconds.unwrap_or(1))
}

#[test]
fn the_recorded_events_are_read_whole() {
    for text in CORPORA {
        let events = corpus(text);
        let mut log = assembler(before(&events));
        let (mut changes, mut commits) = (0, 0);
        for event in &events {
            for told in feed(&mut log, event).unwrap().events {
                match told {
                    LogEvent::Change(_) => changes += 1,
                    LogEvent::Commit(_) => commits += 1,
                    LogEvent::TableFault(fault) => panic!("{}", fault.error),
                    LogEvent::Begin(_)
                    | LogEvent::Idle(_)
                    | LogEvent::Truncate(_)
                    | LogEvent::TableChanged(_) => {}
                }
            }
        }
        assert!(changes >= 10 && commits >= 6, "{changes} changes in {commits} transactions");
    }
}

#[test]
fn no_beginning_of_an_event_is_a_panic() {
    for text in CORPORA {
        let events = corpus(text);
        let layouts = layouts(&events);
        for event in &events {
            for end in 0..event.data.len() {
                decode(&Event { data: event.data[..end].to_vec(), ..event.clone() }, &layouts);
            }
        }
    }
}

#[test]
fn no_mutation_is_a_panic_a_loop_or_a_flood() {
    let (mut random, until, mut tried) = (Random(seed()), until(), 0u64);
    let corpora = CORPORA.map(corpus);
    let all = corpora.each_ref().map(|events| layouts(events));
    while Instant::now() < until {
        let which = random.below(corpora.len());
        let (Some(events), Some(layouts)) = (corpora.get(which), all.get(which)) else { continue };
        let mut event = events[random.below(events.len())].clone();
        random.mutate(&mut event.data);
        if random.below(8) == 0 {
            event.kind = events[random.below(events.len())].kind;
        }
        let begun = Instant::now();
        decode(&event, layouts);
        assert!(begun.elapsed() < EVENT_WITHIN, "an event of {} bytes", event.data.len());
        tried += 1;
    }
    println!("{tried} events");
}

#[test]
fn no_order_of_events_makes_the_assembler_panic() {
    let (mut random, until, mut tried) = (Random(seed()), until(), 0u64);
    let corpora = CORPORA.map(corpus);
    while Instant::now() < until {
        let events = &corpora[random.below(corpora.len())];
        let mut log = assembler(before(events));
        let from = random.below(events.len());
        let begun = Instant::now();
        for event in events.iter().cycle().skip(from).take(40) {
            let mut event = event.clone();
            match random.below(12) {
                0 => random.mutate(&mut event.data),
                1 => event = events[random.below(events.len())].clone(),
                2 => event.end = random.below(1 << 32) as u64,
                _ => {}
            }
            // What is an error ends a stream; here the next one goes on with the same state.
            let _ = feed(&mut log, &event);
            tried += 1;
        }
        assert!(begun.elapsed() < EVENT_WITHIN);
    }
    println!("{tried} events");
}
