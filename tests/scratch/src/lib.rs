//! Real database servers to throw away, and the accidents that can befall them.
//!
//! Tests and `tidelock demo` never talk to a mock: they start a PostgreSQL, MariaDB or MySQL of their own, on a free
//! port of 127.0.0.1 and a socket in its own folder, and lose it again when the value is dropped.
//!
//! ```no_run
//! # async fn shown() -> tidelock_scratch::Result<()> {
//! let erp = tidelock_scratch::Postgres::start().await?;
//! erp.create_database("erp").await?;
//! erp.sql("erp", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
//! assert_eq!(erp.one("erp", "SELECT count(*) FROM t").await?, "1");
//! erp.kill9().await?; // the power goes
//! erp.start_again().await?; // same port, same data
//! # Ok(()) }
//! ```
//!
//! **Nothing is left behind**, however the test ends. Each server has a watchdog: a shell that reads a pipe from us.
//! It learns the server's pid *before* the server may run, and when the pipe ends (drop, panic, SIGKILL of the test
//! process) it kills what still runs and removes the folder. A server is never a member of our process group, so
//! Ctrl-C in a terminal reaches tidelock first and not the databases under it.
//!
//! **Starting is cheap**: `initdb` and its like run once per server version into a template under the temporary
//! folder; a start copies it. A copied PostgreSQL gets a system identifier of its own, since two servers with one
//! identity would look like a server and its own standby.

mod answer;
mod error;
mod folder;
mod mysql;
mod postgres;
mod proxy;
mod server;
mod template;
mod wait;

pub use error::{Result, ScratchError};
pub use mysql::{Flavour, Mysql, MysqlOptions};
pub use postgres::{Postgres, PostgresOptions};
pub use proxy::{Direction, Proxy, When};
pub use wait::{wait_for, wait_until};

// A test that opens connections of its own needs these exact versions.
pub use mysql_async;
pub use tokio_postgres;
