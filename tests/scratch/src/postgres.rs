//! A PostgreSQL server to throw away.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::answer::{chain, first, private_file};
use crate::folder::{Account, Folder, Port};
use crate::server::{POLL, START_WITHIN, Server, Signals};
use crate::template::{copy, output, run, template};
use crate::{Result, ScratchError};

const CURE: &str = "install PostgreSQL (on Debian: apt-get install postgresql), or set TIDELOCK_PG_BIN to the folder \
                    that holds initdb and postgres";

/// What a server needs to be read by logical decoding, and to be small; later settings win.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_prepared_transactions", "10"),
    ("max_connections", "100"),
    ("shared_buffers", "64MB"),
    // In the data folder, not in /dev/shm: a killed server leaves nothing outside.
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

const NOT_DURABLE: &[(&str, &str)] = &[("fsync", "off"), ("full_page_writes", "off")];

/// How a PostgreSQL server is to be started.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Lines for `postgresql.conf`, after (and so over) our own.
    pub settings: Vec<(String, String)>,
    /// The folder of `initdb` and `postgres`; looked for when absent.
    pub bin_dir: Option<PathBuf>,
    durable: bool,
}

impl PostgresOptions {
    /// The defaults: logical decoding on, `fsync` off.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line to `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Uses the programs of this folder.
    #[must_use]
    pub fn bin_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(path.into());
        self
    }

    /// Writes to disk as a production server does; slower.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Starts a server and waits until it answers.
    pub async fn start(self) -> Result<Postgres> {
        let server =
            tokio::task::spawn_blocking(move || self.prepare()).await.map_err(|error| {
                ScratchError::State(format!("preparing postgres failed: {error}"))
            })??;
        let postgres = Postgres { server };
        postgres.start_again().await?;
        Ok(postgres)
    }

    fn prepare(self) -> Result<Server> {
        let bin = match &self.bin_dir {
            Some(path) => path.clone(),
            None => find_bin()?,
        };
        let account = Account::for_servers(&["postgres", "nobody"])?;
        let version = output(Command::new(bin.join("postgres")).arg("--version"), None)?;
        let prepared = template(version.trim(), account.as_ref(), |path| {
            initdb(&bin, account.as_ref(), path)
        })?;
        let folder = Folder::new(account.as_ref(), "QUIT")?;
        let data = folder.path.join("data");
        copy(&prepared.join("data"), &data)?;
        let port = Port::lease()?;
        set_system_identifier(&data, port.number)?;
        self.configure(&folder.path, &data, port.number)?;
        let program: Vec<OsString> = vec![bin.join("postgres").into(), "-D".into(), data.into()];
        let signals = Signals { stop: Signal::INT, end: Signal::QUIT };
        Ok(Server::new("postgres", folder, port, account, program, &signals))
    }

    fn configure(&self, folder: &Path, data: &Path, port: u16) -> Result<()> {
        let path = data.join("postgresql.conf");
        let mut text = fs::read_to_string(&path)
            .map_err(ScratchError::machine(format!("read {}", path.display())))?;
        let place =
            [("port", port.to_string()), ("unix_socket_directories", folder.display().to_string())];
        let fixed = SETTINGS.iter().chain(if self.durable { &[][..] } else { NOT_DURABLE });
        let all = fixed
            .map(|(name, value)| (*name, *value))
            .chain(place.iter().map(|(name, value)| (*name, value.as_str())))
            .chain(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        for (name, value) in all {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        fs::write(&path, text).map_err(ScratchError::machine(format!("write {}", path.display())))
    }
}

/// A running PostgreSQL; dropped, it is gone with all its data.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
}

impl Postgres {
    /// Starts a server with the default options.
    pub async fn start() -> Result<Self> {
        PostgresOptions::new().start().await
    }

    /// `postgres://tidelock@127.0.0.1:PORT/db`; the role is a superuser without password.
    pub fn url(&self, db: &str) -> String {
        format!("postgres://tidelock@127.0.0.1:{}/{db}", self.port())
    }

    /// The same database through the server's unix socket.
    pub fn socket_url(&self, db: &str) -> String {
        let folder = self.server.folder.path.display();
        format!("postgres:///{db}?host={folder}&port={}&user=tidelock", self.port())
    }

    /// The TCP port on 127.0.0.1, the same over restarts.
    pub fn port(&self) -> u16 {
        self.server.port.number
    }

    /// The data folder (`PGDATA`).
    pub fn data_dir(&self) -> PathBuf {
        self.server.folder.path.join("data")
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// The process id of the postmaster while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Creates an empty database.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await
    }

    /// A new connection; its driver runs on the current runtime and ends with it.
    pub async fn client(&self, db: &str) -> Result<Client> {
        let (client, driver) = tokio_postgres::connect(&self.url(db), NoTls).await?;
        // The driver's error, a lost connection, reaches whoever uses the client.
        tokio::spawn(driver);
        Ok(client)
    }

    /// Runs statements, separated by `;`, in one implicit transaction of a connection of its own.
    pub async fn sql(&self, db: &str, statements: &str) -> Result<()> {
        Ok(self.client(db).await?.batch_execute(statements).await?)
    }

    /// The rows of a query, all values as text.
    pub async fn rows(&self, db: &str, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        let answer = self.client(db).await?.simple_query(query).await?;
        let rows = answer.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The first value of a query's first row as text; `NULL` for one, an error when there is no row.
    pub async fn one(&self, db: &str, query: &str) -> Result<String> {
        first(self.rows(db, query).await?, query)
    }

    /// Kills the postmaster and all backends, as a power cut would; returns when they are gone.
    pub async fn kill9(&self) -> Result<()> {
        self.server.kill9().await
    }

    /// Fast shutdown.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop().await
    }

    /// Starts a stopped or killed server on the same port and data, and waits until it answers.
    pub async fn start_again(&self) -> Result<()> {
        self.server.launch()?;
        let start = Instant::now();
        loop {
            let answer =
                match tokio::time::timeout(START_WITHIN, self.sql("postgres", "SELECT 1")).await {
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

fn find_bin() -> Result<PathBuf> {
    let holds = |path: &PathBuf| path.join("initdb").is_file() && path.join("postgres").is_file();
    if let Some(path) = std::env::var_os("TIDELOCK_PG_BIN").map(PathBuf::from) {
        return if holds(&path) {
            Ok(path)
        } else {
            Err(ScratchError::NotInstalled {
                program: format!("initdb in {}", path.display()),
                cure: CURE,
            })
        };
    }
    let configured =
        output(Command::new("pg_config").arg("--bindir"), None).ok().map(|said| said.trim().into());
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    packaged.sort();
    let packaged = packaged.into_iter().rev().map(|(_, path)| path);
    let searched = std::env::var_os("PATH").unwrap_or_default();
    configured
        .into_iter()
        .chain(packaged)
        .chain(std::env::split_paths(&searched))
        .find(holds)
        .ok_or(ScratchError::NotInstalled { program: "initdb".to_owned(), cure: CURE })
}

fn initdb(bin: &Path, account: Option<&Account>, folder: &Path) -> Result<()> {
    let data = folder.join("data");
    let with_locale = |locale: &str| {
        let mut command = Command::new(bin.join("initdb"));
        command.args([
            "--no-sync",
            "--username=tidelock",
            "--auth=trust",
            "--encoding=UTF8",
            locale,
        ]);
        command.arg("-D").arg(&data).current_dir(folder).env("LC_ALL", "C").env("TZ", "UTC");
        Account::dress(account, &mut command);
        run(&mut command, None)
    };
    // Not every machine has C.UTF-8; initdb removes what it made when it fails.
    with_locale("--locale=C.UTF-8").or_else(|_| with_locale("--locale=C"))
}

/// Gives a copied, cleanly shut down cluster an identity of its own, as if `initdb` had made it.
///
/// The identifier stands in `global/pg_control` (first 8 bytes; the CRC-32C over all that precedes it is found by
/// computing it, since its place differs between versions) and in the long header of each log file's first page
/// (byte 24, not covered by a checksum). Both are in the machine's byte order.
fn set_system_identifier(data: &Path, port: u16) -> Result<()> {
    let path = data.join("global/pg_control");
    let mut control =
        fs::read(&path).map_err(ScratchError::machine(format!("read {}", path.display())))?;
    let old: [u8; 8] = control.first_chunk().copied().unwrap_or_default();
    // initdb's own recipe: seconds, microseconds, 12 bits of a number that differs between neighbours.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let new =
        (now.as_secs() << 32) | (u64::from(now.subsec_micros()) << 12) | u64::from(port & 0xfff);
    let new = new.to_ne_bytes();
    let place = (64..control.len().saturating_sub(4)).step_by(4).find(|end| {
        let (Some(head), Some(stored)) = (control.get(..*end), control.get(*end..*end + 4)) else {
            return false;
        };
        crc32c::crc32c(head).to_ne_bytes() == stored
    });
    let place = place.ok_or_else(|| {
        ScratchError::State("the checksum in pg_control is not where it was".into())
    })?;
    control.splice(..8, new);
    let sum = crc32c::crc32c(control.get(..place).unwrap_or_default());
    control.splice(place..place + 4, sum.to_ne_bytes());
    fs::write(&path, control)
        .map_err(ScratchError::machine(format!("write {}", path.display())))?;
    let log = data.join("pg_wal");
    let entries =
        fs::read_dir(&log).map_err(ScratchError::machine(format!("read {}", log.display())))?;
    for entry in entries.flatten().filter(|entry| entry.file_name().len() == 24) {
        use std::os::unix::fs::FileExt;
        let path = entry.path();
        let patch = || -> std::io::Result<()> {
            let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
            let mut found = [0; 8];
            file.read_exact_at(&mut found, 24)?;
            if found == old { file.write_all_at(&new, 24) } else { Ok(()) }
        };
        patch().map_err(ScratchError::machine(format!("write {}", path.display())))?;
    }
    Ok(())
}
