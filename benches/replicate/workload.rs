//! The four workloads: which rows change in which transaction, the statements that a source executes, and the rows
//! that are left, as the bulk loaders of both families read them.
//!
//! | | a transaction | |
//! |---|---|---|
//! | a | 100 inserts into `orders` | one statement |
//! | b | 1 to 10 rows of `orders` and `order_lines`: 60 % inserts, 35 % updates, 5 % deletes | one statement a row |
//! | c | all rows at once into `orders` | statements of 1,000 rows |
//! | d | 10 updates of `inventory`, of 4,000 keys | one statement a row |
//!
//! Everything follows from a seed, so all servers and all runs see the same rows.

use std::collections::HashMap;
use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How many rows of `inventory` there are.
pub const HOT_KEYS: u64 = 4_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Orders,
    Lines,
    Inventory,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::Orders, Table::Lines, Table::Inventory];

    pub fn name(self) -> &'static str {
        match self {
            Table::Orders => "orders",
            Table::Lines => "order_lines",
            Table::Inventory => "inventory",
        }
    }

    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Table::Orders => &[
                "id",
                "customer_id",
                "reference",
                "status",
                "channel",
                "total",
                "discount",
                "currency",
                "priority",
                "created_at",
                "updated_at",
                "note",
                "details",
            ],
            Table::Lines => {
                &["id", "order_id", "line_no", "sku", "quantity", "price", "shipped_at", "note"]
            }
            Table::Inventory => {
                &["id", "sku", "warehouse", "quantity", "reserved", "price", "updated_at", "note"]
            }
        }
    }

    /// The columns that an update sets.
    fn updated(self) -> &'static [usize] {
        match self {
            Table::Orders => &[3, 5, 10, 11],
            Table::Lines => &[4, 6],
            Table::Inventory => &[3, 4, 6],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Insert,
    Update,
    Delete,
}

/// One row of a transaction. The row's values follow from table, id and version.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub table: Table,
    pub kind: Kind,
    pub id: u64,
    pub version: u32,
}

pub struct Workload {
    pub letter: char,
    pub changes: Vec<Change>,
    /// Where each transaction ends.
    ends: Vec<usize>,
    statement_rows: usize,
}

impl Workload {
    pub fn new(letter: char, rows: usize) -> Workload {
        match letter {
            'b' => oltp(rows),
            'd' => hot(rows),
            'c' => {
                Workload { ends: vec![rows], statement_rows: 1_000, ..inserts(letter, rows, 100) }
            }
            _ => inserts(letter, rows, 100),
        }
    }

    /// The transactions as SQL, in pieces of about a megabyte for one trip each. A piece may end inside a transaction, so all
    /// of them belong into one session.
    pub fn sql(&self) -> impl Iterator<Item = String> + '_ {
        let mut transaction = 0;
        let mut at = 0;
        std::iter::from_fn(move || {
            if at == self.changes.len() {
                return None;
            }
            let mut out = String::with_capacity(1 << 20);
            while out.len() < 1_000_000 && at < self.changes.len() {
                let start = if transaction == 0 { 0 } else { self.ends[transaction - 1] };
                let end = self.ends[transaction];
                if at == start {
                    out.push_str("BEGIN;");
                }
                let until = end.min(at + self.statement_rows);
                self.statement(&mut out, &self.changes[at..until]);
                at = until;
                if at == end {
                    out.push_str("COMMIT;");
                    transaction += 1;
                }
            }
            Some(out)
        })
    }

    /// Only inserts share a statement.
    fn statement(&self, out: &mut String, changes: &[Change]) {
        let Some(first) = changes.first() else { return };
        let table = first.table;
        match first.kind {
            Kind::Insert => {
                let _ = write!(out, "INSERT INTO {} VALUES ", table.name());
                for (i, change) in changes.iter().enumerate() {
                    out.push_str(if i == 0 { "(" } else { ",(" });
                    for column in 0..table.columns().len() {
                        if column > 0 {
                            out.push(',');
                        }
                        literal(out, table, column, change.id, change.version);
                    }
                    out.push(')');
                }
            }
            Kind::Update => {
                let _ = write!(out, "UPDATE {} SET ", table.name());
                for (i, &column) in table.updated().iter().enumerate() {
                    let _ = write!(
                        out,
                        "{}{} = ",
                        if i == 0 { "" } else { ", " },
                        table.columns()[column]
                    );
                    literal(out, table, column, first.id, first.version);
                }
                let _ = write!(out, " WHERE id = {}", first.id);
            }
            Kind::Delete => {
                let _ = write!(out, "DELETE FROM {} WHERE id = {}", table.name(), first.id);
            }
        }
        out.push(';');
    }

    /// The net effect of each run of `changes_max` changes: the last word on each key.
    pub fn net(&self, changes_max: usize) -> Vec<Vec<Change>> {
        let net = |run: &[Change]| {
            let mut last = HashMap::new();
            for change in run {
                last.insert((change.table, change.id), *change);
            }
            let mut net: Vec<Change> = last.into_values().collect();
            net.sort_by_key(|change| (change.table, change.id));
            net
        };
        self.changes.chunks(changes_max).map(net).collect()
    }
}

pub fn title(letter: char) -> &'static str {
    match letter {
        'a' => "a bulk inserts, 100 rows a transaction",
        'b' => "b OLTP, 1 to 10 rows a transaction",
        'c' => "c one transaction",
        _ => "d hot updates, 10 a transaction",
    }
}

fn inserts(letter: char, rows: usize, transaction_rows: usize) -> Workload {
    let insert = |id| Change { table: Table::Orders, kind: Kind::Insert, id, version: 0 };
    Workload {
        letter,
        changes: (1..=rows as u64).map(insert).collect(),
        ends: (1..=rows.div_ceil(transaction_rows))
            .map(|n| (n * transaction_rows).min(rows))
            .collect(),
        statement_rows: transaction_rows.min(1_000),
    }
}

fn oltp(rows: usize) -> Workload {
    let mut rng = StdRng::seed_from_u64(0xb);
    let mut changes = Vec::with_capacity(rows);
    let mut ends = Vec::new();
    let mut live: [Vec<(u64, u32)>; 2] = [Vec::new(), Vec::new()];
    let mut next_id = [1u64, 1u64];
    while changes.len() < rows {
        for _ in 0..rng.random_range(1..=10usize).min(rows - changes.len()) {
            let (t, table) =
                if rng.random_bool(0.4) { (0, Table::Orders) } else { (1, Table::Lines) };
            let dice = rng.random_range(0..100);
            let change = if dice < 60 || live[t].is_empty() {
                let id = next_id[t];
                next_id[t] += 1;
                live[t].push((id, 0));
                Change { table, kind: Kind::Insert, id, version: 0 }
            } else {
                let at = rng.random_range(0..live[t].len());
                if dice < 95 {
                    let (id, version) = &mut live[t][at];
                    *version += 1;
                    Change { table, kind: Kind::Update, id: *id, version: *version }
                } else {
                    let (id, version) = live[t].swap_remove(at);
                    Change { table, kind: Kind::Delete, id, version }
                }
            };
            changes.push(change);
        }
        ends.push(changes.len());
    }
    Workload { letter: 'b', changes, ends, statement_rows: 1 }
}

fn hot(rows: usize) -> Workload {
    let mut rng = StdRng::seed_from_u64(0xd);
    let mut versions = vec![0u32; HOT_KEYS as usize];
    let update = |_| {
        let id = rng.random_range(1..=HOT_KEYS);
        let version = &mut versions[id as usize - 1];
        *version += 1;
        Change { table: Table::Inventory, kind: Kind::Update, id, version: *version }
    };
    Workload {
        letter: 'd',
        changes: (0..rows).map(update).collect(),
        ends: (1..=rows.div_ceil(10)).map(|n| (n * 10).min(rows)).collect(),
        statement_rows: 1,
    }
}

/// The tables. Without a foreign key, which would be checked on one side or the other by chance of the lane's way.
pub fn tables(postgres: bool) -> String {
    let (moment, own) =
        if postgres { ("timestamp(6)", "") } else { ("datetime(6)", " ENGINE = InnoDB") };
    format!(
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, customer_id bigint NOT NULL, reference varchar(40) NOT NULL, \
         status varchar(16) NOT NULL, channel varchar(16), total decimal(14,2) NOT NULL, discount decimal(14,2), \
         currency varchar(3) NOT NULL, priority smallint, created_at {moment} NOT NULL, updated_at {moment}, \
         note varchar(200), details json){own};\
         CREATE INDEX orders_customer ON orders (customer_id);\
         CREATE TABLE order_lines (id bigint NOT NULL PRIMARY KEY, order_id bigint NOT NULL, line_no int NOT NULL, \
         sku varchar(40) NOT NULL, quantity int NOT NULL, price decimal(14,2) NOT NULL, shipped_at {moment}, note varchar(200)){own};\
         CREATE INDEX order_lines_order ON order_lines (order_id);\
         CREATE TABLE inventory (id bigint NOT NULL PRIMARY KEY, sku varchar(40) NOT NULL, warehouse varchar(16) NOT NULL, \
         quantity int NOT NULL, reserved int NOT NULL, price decimal(14,2) NOT NULL, updated_at {moment} NOT NULL, note varchar(200)){own};\
         CREATE TABLE marker (id bigint NOT NULL PRIMARY KEY){own}"
    )
}

/// The rows that workload `d` starts from.
pub fn inventory() -> String {
    let changes: Vec<Change> = (1..=HOT_KEYS)
        .map(|id| Change { table: Table::Inventory, kind: Kind::Insert, id, version: 0 })
        .collect();
    let mut out = String::new();
    let all = Workload { letter: 'd', changes: Vec::new(), ends: Vec::new(), statement_rows: 1 };
    all.statement(&mut out, &changes);
    out
}

/// An insert into `orders` of which only the id is still open.
pub fn insert_of_one(id: &str) -> String {
    let mut out = format!("INSERT INTO orders VALUES ({id}");
    for column in 1..Table::Orders.columns().len() {
        out.push(',');
        literal(&mut out, Table::Orders, column, 1, 0);
    }
    out.push(')');
    out
}

/// A row as `COPY` and `LOAD DATA` read it by default.
pub fn line(out: &mut String, change: &Change) {
    for column in 0..change.table.columns().len() {
        if column > 0 {
            out.push('\t');
        }
        match value(change.table, column, change.id, change.version) {
            Cell::Null => out.push_str("\\N"),
            Cell::Bare(text) | Cell::Quoted(text) => out.push_str(&text),
        }
    }
    out.push('\n');
}

fn literal(out: &mut String, table: Table, column: usize, id: u64, version: u32) {
    let _ = match value(table, column, id, version) {
        Cell::Null => write!(out, "NULL"),
        Cell::Bare(text) => write!(out, "{text}"),
        Cell::Quoted(text) => write!(out, "'{text}'"),
    };
}

/// No text has a quote, a tab or a backslash in it.
enum Cell {
    Null,
    Bare(String),
    Quoted(String),
}

/// Numbers without a pattern, so that nothing compresses or sorts too well.
fn mix(id: u64, salt: u64) -> u64 {
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 29)
}

fn value(table: Table, column: usize, id: u64, version: u32) -> Cell {
    const STATUS: [&str; 6] = ["new", "paid", "packed", "shipped", "delivered", "returned"];
    const CHANNEL: [&str; 4] = ["web", "shop", "phone", "marketplace"];
    let now = mix(id, u64::from(version) * 64 + 100 + column as u64);
    let ever = mix(id, column as u64);
    let bare = |text: String| Cell::Bare(text);
    let money = |n: u64| Cell::Bare(format!("{}.{:02}", n / 100 % 100_000, n % 100));
    let moment = |n: u64| {
        Cell::Quoted(format!(
            "2026-{:02}-{:02} {:02}:{:02}:{:02}.{:06}",
            n % 12 + 1,
            n / 12 % 28 + 1,
            n / 336 % 24,
            n / 8064 % 60,
            n / 483_840 % 60,
            n / 29_030_400 % 1_000_000
        ))
    };
    let name = table.columns()[column];
    match name {
        "id" => bare(id.to_string()),
        "customer_id" => bare((ever % 50_000).to_string()),
        "order_id" => bare((id / 3 + 1).to_string()),
        "line_no" => bare((id % 3 + 1).to_string()),
        "reference" => Cell::Quoted(format!("ORD-{:012}-{:04x}", id, ever & 0xffff)),
        "sku" => Cell::Quoted(format!("SKU-{:06}-{:08x}", ever % 100_000, ever >> 32)),
        "warehouse" => Cell::Quoted(format!("WH-{:02}", ever % 24)),
        "status" => Cell::Quoted(STATUS[(now % 6) as usize].to_owned()),
        "channel" if ever.is_multiple_of(10) => Cell::Null,
        "channel" => Cell::Quoted(CHANNEL[(ever % 4) as usize].to_owned()),
        "currency" => Cell::Quoted(if ever.is_multiple_of(3) { "USD" } else { "EUR" }.to_owned()),
        "discount" if !ever.is_multiple_of(4) => Cell::Null,
        "total" | "discount" | "price" => money(now),
        "priority" if ever.is_multiple_of(5) => Cell::Null,
        "priority" => bare((ever % 9).to_string()),
        "quantity" | "reserved" => bare((now % 1_000).to_string()),
        "created_at" => moment(ever),
        "shipped_at" if version == 0 => Cell::Null,
        "updated_at" if version == 0 && table == Table::Orders => Cell::Null,
        "updated_at" | "shipped_at" => moment(now),
        "note" if ever.is_multiple_of(3) => Cell::Null,
        "note" => {
            Cell::Quoted(format!("Lieferung Nr. {} – bitte klingeln, {:x}", now % 1_000, now))
        }
        _ => Cell::Quoted(format!(
            "{{\"ip\": \"10.{}.{}.{}\", \"campaign\": \"c{}\", \"gift\": {}, \"items\": {}}}",
            ever % 256,
            ever / 256 % 256,
            ever / 65_536 % 256,
            ever % 97,
            ever.is_multiple_of(2),
            ever % 7 + 1
        )),
    }
}
