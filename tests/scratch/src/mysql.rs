//! A MariaDB or MySQL server to throw away.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Value};
use rustix::process::Signal;

use crate::answer::{chain, first, private_file};
use crate::folder::{Account, Folder, Port};
use crate::server::{POLL, START_WITHIN, Server, Signals};
use crate::template::{copy, output, run, template};
use crate::{Result, ScratchError};

const MARIADB_CURE: &str = "install MariaDB (on Debian: apt-get install mariadb-server), or set TIDELOCK_MARIADBD to \
                            its mariadbd and, for one outside /usr, TIDELOCK_MARIADB_BASEDIR to its base folder";
const MYSQL_CURE: &str = "set TIDELOCK_MYSQLD to a mysqld and TIDELOCK_MYSQL_BASEDIR to its base folder (and \
                          TIDELOCK_MYSQL_LD to the folder of its libraries, if it needs one)";

/// The redo log's size must be the same in the template, else every start rewrites it.
const REDO_LOG: &str = "32M";

/// One connection is all that a start needs to prove; a frozen one must not hold it.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

/// What a server needs to be read by its binlog, and to be small.
const SETTINGS: &[(&str, &str)] = &[
    ("bind-address", "127.0.0.1"),
    ("skip-name-resolve", ""),
    ("character-set-server", "utf8mb4"),
    ("log-bin", "binlog"),
    ("binlog-format", "ROW"),
    ("binlog-row-image", "FULL"),
    ("binlog-row-metadata", "FULL"),
    ("innodb-buffer-pool-size", "64M"),
    ("default-time-zone", "+00:00"),
];

const MARIADB_SETTINGS: &[(&str, &str)] = &[
    ("gtid-strict-mode", "ON"),
    ("log-slave-updates", "ON"),
    ("innodb-log-file-size", REDO_LOG),
    ("performance-schema", "OFF"),
];

const MYSQL_SETTINGS: &[(&str, &str)] = &[
    ("secure-file-priv", "NULL"),
    ("gtid-mode", "ON"),
    ("enforce-gtid-consistency", "ON"),
    ("innodb-redo-log-capacity", REDO_LOG),
    ("performance-schema", "OFF"),
    ("mysqlx", "OFF"),
    ("log-error-verbosity", "2"),
];

/// Which of the two families' servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flavour {
    /// MariaDB, from the distribution's packages or `TIDELOCK_MARIADBD`.
    #[default]
    MariaDb,
    /// MySQL, from `TIDELOCK_MYSQLD`.
    MySql,
}

/// How a MariaDB or MySQL server is to be started.
#[derive(Debug, Clone, Default)]
pub struct MysqlOptions {
    /// Which server.
    pub flavour: Flavour,
    /// Options for its `[mysqld]` section, after (and so over) our own; an empty value makes a bare option.
    pub settings: Vec<(String, String)>,
    durable: bool,
}

impl MysqlOptions {
    /// The default options, for the server that the version matrix asks for (`TIDELOCK_MATRIX=mysql-…`), else MariaDB.
    pub fn of_matrix() -> Self {
        let mysql = std::env::var("TIDELOCK_MATRIX").is_ok_and(|v| v.starts_with("mysql"));
        MysqlOptions::new().flavour(if mysql { Flavour::MySql } else { Flavour::MariaDb })
    }

    /// The defaults: MariaDB, row binlog with GTIDs, relaxed durability.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the server.
    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// Adds an option.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Writes to disk as a production server does; slower.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Starts a server and waits until it answers.
    pub async fn start(self) -> Result<Mysql> {
        let flavour = self.flavour;
        let server =
            tokio::task::spawn_blocking(move || self.prepare()).await.map_err(|error| {
                ScratchError::State(format!("preparing {flavour:?} failed: {error}"))
            })??;
        let mysql = Mysql { server, flavour };
        mysql.start_again().await?;
        Ok(mysql)
    }

    fn prepare(self) -> Result<Server> {
        let programs = match self.flavour {
            Flavour::MariaDb => Programs::mariadb()?,
            Flavour::MySql => Programs::mysql()?,
        };
        let account = Account::for_servers(&["mysql", "nobody"])?;
        let mut command = programs.dressed(Command::new(&programs.server));
        let version = output(command.args(["--no-defaults", "--version"]), None)?;
        let version = format!("{:?} {}", self.flavour, version.trim());
        let prepared =
            template(&version, account.as_ref(), |path| programs.install(account.as_ref(), path))?;
        let folder = Folder::new(account.as_ref(), "KILL")?;
        let data = folder.path.join("data");
        copy(&prepared.join("data"), &data)?;
        // MySQL makes itself a new identity when it finds none.
        let _ = fs::remove_file(data.join("auto.cnf"));
        let port = Port::lease()?;
        let options = folder.path.join("my.cnf");
        fs::write(&options, self.options(&programs, &folder.path, port.number))
            .map_err(ScratchError::machine(format!("write {}", options.display())))?;
        let mut program = Vec::new();
        if let Some(libraries) = &programs.libraries {
            program
                .extend(["env".into(), format!("LD_LIBRARY_PATH={}", libraries.display()).into()]);
        }
        program.push(programs.server.clone().into());
        program.push(format!("--defaults-file={}", options.display()).into());
        let signals = Signals { stop: Signal::TERM, end: Signal::KILL };
        let name = match self.flavour {
            Flavour::MariaDb => "mariadbd",
            Flavour::MySql => "mysqld",
        };
        Ok(Server::new(name, folder, port, account, program, &signals))
    }

    fn options(&self, programs: &Programs, folder: &Path, port: u16) -> String {
        let mut text = String::from("[mysqld]\n");
        let mut add = |name: &str, value: &str| {
            let _ = if value.is_empty() {
                writeln!(text, "{name}")
            } else {
                writeln!(text, "{name} = {value}")
            };
        };
        for (name, path) in programs.places() {
            add(name, &path.display().to_string());
        }
        add("datadir", &folder.join("data").display().to_string());
        add("tmpdir", &folder.display().to_string());
        add("socket", &folder.join("s").display().to_string());
        add("pid-file", &folder.join("pid").display().to_string());
        add("port", &port.to_string());
        // Two servers must not write the same GTIDs; the port is ours alone on this machine.
        add("server-id", &port.to_string());
        let own = match self.flavour {
            Flavour::MariaDb => MARIADB_SETTINGS,
            Flavour::MySql => MYSQL_SETTINGS,
        };
        let general = SETTINGS
            .iter()
            .filter(|(name, _)| self.flavour == Flavour::MariaDb || *name != "binlog-format");
        for (name, value) in general.chain(own) {
            add(name, value);
        }
        let (redo, binlog) = if self.durable { ("1", "1") } else { ("2", "0") };
        add("innodb-flush-log-at-trx-commit", redo);
        add("sync-binlog", binlog);
        for (name, value) in &self.settings {
            add(name, value);
        }
        text
    }
}

/// A running MariaDB or MySQL; dropped, it is gone with all its data.
#[derive(Debug)]
pub struct Mysql {
    server: Server,
    flavour: Flavour,
}

impl Mysql {
    /// Starts a MariaDB with the default options.
    pub async fn start() -> Result<Self> {
        MysqlOptions::new().start().await
    }

    /// Which server this is.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Whether the server has the type `uuid`: MariaDB has it from 10.7 on.
    pub async fn has_uuid(&self) -> Result<bool> {
        let version = self.one("", "SELECT VERSION()").await?;
        let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        Ok(self.flavour == Flavour::MariaDb && version >= (10, 7))
    }

    fn scheme(&self) -> &'static str {
        match self.flavour {
            Flavour::MariaDb => "mariadb",
            Flavour::MySql => "mysql",
        }
    }

    /// `mariadb://tidelock@127.0.0.1:PORT/db` (or `mysql://`); the user has all privileges and no password.
    pub fn url(&self, db: &str) -> String {
        format!("{}://tidelock@127.0.0.1:{}/{db}", self.scheme(), self.port())
    }

    /// The same database through the server's unix socket.
    pub fn socket_url(&self, db: &str) -> String {
        let socket = self.server.folder.path.join("s");
        format!("{}:///{db}?socket={}&user=tidelock", self.scheme(), socket.display())
    }

    /// The TCP port on 127.0.0.1, the same over restarts.
    pub fn port(&self) -> u16 {
        self.server.port.number
    }

    /// The data folder, in which the binlog files `binlog.*` are too.
    pub fn data_dir(&self) -> PathBuf {
        self.server.folder.path.join("data")
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Adds an option to the server's option file, for its next start.
    pub fn set_option(&self, name: &str, value: &str) -> Result<()> {
        let path = self.server.folder.path.join("my.cnf");
        let mut text = fs::read_to_string(&path)
            .map_err(ScratchError::machine(format!("read {}", path.display())))?;
        let _ = writeln!(text, "{name} = {value}");
        fs::write(&path, text).map_err(ScratchError::machine(format!("write {}", path.display())))
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.sql("", &format!("CREATE DATABASE `{}`", name.replace('`', "``"))).await
    }

    /// A new connection over TCP; an empty `db` for none chosen.
    pub async fn conn(&self, db: &str) -> Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port())
            .user(Some("tidelock"))
            .db_name((!db.is_empty()).then_some(db))
            .prefer_socket(false)
            .client_found_rows(true);
        Ok(Conn::new(Opts::from(options)).await?)
    }

    /// Runs statements, separated by `;`, on a connection of its own; each commits by itself.
    pub async fn sql(&self, db: &str, statements: &str) -> Result<()> {
        let mut conn = self.conn(db).await?;
        conn.query_drop(statements).await?;
        Ok(conn.disconnect().await?)
    }

    /// The rows of a query, all values as text.
    pub async fn rows(&self, db: &str, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut conn = self.conn(db).await?;
        let rows: Vec<mysql_async::Row> = conn.query(query).await?;
        conn.disconnect().await?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    /// The first value of a query's first row as text; `NULL` for one, an error when there is no row.
    pub async fn one(&self, db: &str, query: &str) -> Result<String> {
        first(self.rows(db, query).await?, query)
    }

    /// Kills the server, as a power cut would; returns when it is gone.
    pub async fn kill9(&self) -> Result<()> {
        self.server.kill9().await
    }

    /// Orderly shutdown.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop().await
    }

    /// Starts a stopped or killed server on the same port and data, and waits until it answers.
    pub async fn start_again(&self) -> Result<()> {
        self.server.launch()?;
        let start = Instant::now();
        loop {
            let answer = match tokio::time::timeout(PROBE_WITHIN, self.sql("", "DO 1")).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => chain(&error),
                Err(_) => "no answer".to_owned(),
            };
            self.server.still_runs()?;
            if start.elapsed() > START_WITHIN {
                return Err(self.server.late(start.elapsed(), &answer));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops in good order and starts again.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes the server (SIGSTOP): connections stay, nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.server.pause()
    }

    /// Lets a frozen server run on (SIGCONT).
    pub fn unpause(&self) -> Result<()> {
        self.server.unpause()
    }

    /// Writes a file that only the server may read (a key, a certificate) and gives its path.
    pub fn write_file(&self, name: &str, contents: &[u8]) -> Result<PathBuf> {
        private_file(&self.server, name, contents)
    }
}

/// The programs of one installation.
struct Programs {
    server: PathBuf,
    /// MariaDB's installer script; MySQL's server installs itself.
    installer: Option<PathBuf>,
    base: Option<PathBuf>,
    libraries: Option<PathBuf>,
}

impl Programs {
    fn mariadb() -> Result<Self> {
        let missing = |program: &str| ScratchError::NotInstalled {
            program: program.into(),
            cure: MARIADB_CURE,
        };
        let base = std::env::var_os("TIDELOCK_MARIADB_BASEDIR").map(PathBuf::from);
        let server = std::env::var_os("TIDELOCK_MARIADBD")
            .map(PathBuf::from)
            .or_else(|| find("mariadbd"))
            .ok_or_else(|| missing("mariadbd"))?;
        let installer = base
            .as_ref()
            .map(|base| base.join("bin/mariadb-install-db"))
            .filter(|path| path.is_file())
            .or_else(|| find("mariadb-install-db"))
            .ok_or_else(|| missing("mariadb-install-db"))?;
        Ok(Self { server, installer: Some(installer), base, libraries: None })
    }

    fn mysql() -> Result<Self> {
        let missing = || ScratchError::NotInstalled { program: "mysqld".into(), cure: MYSQL_CURE };
        let server = std::env::var_os("TIDELOCK_MYSQLD").map(PathBuf::from).ok_or_else(missing)?;
        let base = std::env::var_os("TIDELOCK_MYSQL_BASEDIR").map(PathBuf::from);
        let libraries = std::env::var_os("TIDELOCK_MYSQL_LD").map(PathBuf::from);
        Ok(Self { server, installer: None, base, libraries })
    }

    /// Where an installation outside `/usr` keeps what the server looks for.
    fn places(&self) -> Vec<(&'static str, PathBuf)> {
        let Some(base) = &self.base else { return Vec::new() };
        let share = ["share/mariadb", "share/mysql"].map(|part| base.join(part));
        let share =
            share.iter().find(|path| path.is_dir()).cloned().unwrap_or_else(|| base.join("share"));
        let plugins = ["lib/mysql/plugin", "lib/plugin"].map(|part| base.join(part));
        let mut places = vec![
            ("basedir", base.clone()),
            ("lc-messages-dir", share.clone()),
            ("character-sets-dir", share.join("charsets")),
        ];
        places.extend(
            plugins.into_iter().find(|path| path.is_dir()).map(|path| ("plugin-dir", path)),
        );
        places
    }

    fn dressed(&self, mut command: Command) -> Command {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Fills a template: system tables and our user, nobody else's data.
    fn install(&self, account: Option<&Account>, folder: &Path) -> Result<()> {
        let users = folder.join("users.sql");
        let mut text = String::new();
        if self.installer.is_some() {
            // A bootstrapping MariaDB skips the grant tables until it is told to read them.
            text.push_str("FLUSH PRIVILEGES;\n");
        }
        for host in ["%", "localhost"] {
            let _ = writeln!(text, "CREATE USER 'tidelock'@'{host}';");
            let _ = writeln!(
                text,
                "GRANT ALL PRIVILEGES ON *.* TO 'tidelock'@'{host}' WITH GRANT OPTION;"
            );
        }
        fs::write(&users, text)
            .map_err(ScratchError::machine(format!("write {}", users.display())))?;
        let data = format!("--datadir={}", folder.join("data").display());
        let places =
            || self.places().into_iter().map(|(name, path)| format!("--{name}={}", path.display()));
        let as_account = |program: &Path| {
            let mut command = self.dressed(Command::new(program));
            command.arg("--no-defaults").current_dir(folder).env("HOME", folder).env("LC_ALL", "C");
            Account::dress(account, &mut command);
            command
        };
        let Some(installer) = &self.installer else {
            let mut command = as_account(&self.server);
            command
                .args(["--initialize-insecure", "--secure-file-priv=NULL", &data])
                .args(places());
            return run(command.arg(format!("--init-file={}", users.display())), None);
        };
        let redo = format!("--innodb-log-file-size={REDO_LOG}");
        let mut command = as_account(installer);
        command.args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]);
        run(command.arg(&data).arg(&redo).args(places()), None)?;
        let mut command = as_account(&self.server);
        run(command.args(["--bootstrap", &data, &redo]).args(places()), Some(&users))
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let searched = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&searched)
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}
