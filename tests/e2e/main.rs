//! End to end: the tidelock binary between real servers, with everything that can befall it.
//!
//! Short rounds run in `make test`; with `TIDELOCK_SOAK=1` (`make soak`) the long figures.

mod broken;
mod chaos;
mod check;
mod compact;
mod company;
mod continuity;
mod daemon;
mod deferred;
mod dictionaries;
mod drift;
mod echo;
mod explain;
mod exposure;
mod folder;
mod handed;
mod held;
mod hostile;
mod init;
mod joined;
mod keys;
mod lag;
mod lanes;
mod lookups;
mod mappings;
mod mirrored;
mod mixed;
mod parallel;
mod plan;
mod pushes;
mod refused;
mod resync;
mod roundtrip;
mod routines;
mod rows;
mod schema;
mod snapshot;
mod soak;
mod sorted;
mod steer;
mod takeover;
mod tracks;
mod types;
mod untracked;
mod values;
mod views;
mod visibility;
mod waits;
mod writers;

use std::path::Path;
use std::time::Duration;

use tidelock_scratch::{Flavour, Mysql, MysqlOptions, Postgres};

/// Whether MySQL stands in for MariaDB.
fn is_mysql() -> bool {
    std::env::var_os("TIDELOCK_MYSQLD").is_some()
}

/// How long something may take that takes a moment on a busy machine.
pub const SOON: Duration = Duration::from_secs(90);

/// Whether the long figures are asked for.
pub fn soaking() -> bool {
    std::env::var_os("TIDELOCK_SOAK").is_some()
}

/// A table that exists in the same words on every server.
pub const ITEM: &str =
    "CREATE TABLE item (id bigint NOT NULL PRIMARY KEY, qty int NOT NULL, note varchar(200))";

/// A PostgreSQL with database `db` and table `item`.
pub async fn postgres() -> Postgres {
    let server = Postgres::start().await.expect("postgres");
    server.create_database("db").await.expect("database");
    server.sql("db", ITEM).await.expect("table");
    server
}

/// A MariaDB, or the MySQL that the version matrix asks for, with database `db` and table `item`.
pub async fn mysql() -> Mysql {
    let server = MysqlOptions::of_matrix().start().await.expect("mysql");
    server.create_database("db").await.expect("database");
    server.sql("db", ITEM).await.expect("table");
    server
}

/// A configuration with these systems and a mapping of `item` for each flow.
pub fn config(state: &Path, systems: &[(&str, String)], flows: &[(&str, &str)]) -> String {
    let mut text =
        format!("version = 1\nname = \"test\"\nstate_dir = {:?}\n", state.display().to_string());
    for (name, url) in systems {
        text.push_str(&format!("[systems.{name}]\nurl = {url:?}\n"));
    }
    for (from, to) in flows {
        let table = |system: &str| format!("{system}.item");
        text.push_str(&format!(
            "[[mappings]]\nfrom = {:?}\nto = {:?}\nsnapshot = \"never\"\n",
            table(from),
            table(to)
        ));
    }
    text
}

/// The rows of `item`, as text.
pub const ITEMS: &str = "SELECT id, qty, note FROM item ORDER BY id";

/// What stands in a MySQL's or MariaDB's log, as GTIDs.
pub async fn logged(server: &Mysql) -> String {
    let variable = match server.flavour() {
        Flavour::MariaDb => "gtid_binlog_pos",
        Flavour::MySql => "global.gtid_executed",
    };
    server.one("db", &format!("SELECT @@{variable}")).await.expect("gtid")
}
