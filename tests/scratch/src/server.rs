//! One server process: start, stop, kill, freeze.
//!
//! The server starts behind a gate: a shell that waits for a line before it becomes the server. Between the two the
//! watchdog is told the pid, so there is no instant in which our death could leave a server behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::folder::{Account, Folder, Port};
use crate::{Result, ScratchError};

/// How often a start or a stop is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// A cold start with recovery on a busy machine; an ordinary one takes a few hundred milliseconds.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(90);
/// A fast shutdown writes a checkpoint and waits for the log's readers.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How much of the log an error shows.
const LOG_TAIL_BYTES: u64 = 4096;

const GATE: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// A server of ours: its folder, its port, how to start it, and the process while it runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) port: Port,
    pub(crate) account: Option<Account>,
    program: Vec<OsString>,
    stop_signal: Signal,
    end_signal: Signal,
    process: Mutex<Option<Child>>,
    // Last: dropped after the process is gone.
    pub(crate) folder: Folder,
}

/// The signals a server understands.
pub(crate) struct Signals {
    /// Stop, clients or not.
    pub(crate) stop: Signal,
    /// End at once, leaving no trace outside the folder.
    pub(crate) end: Signal,
}

impl Server {
    pub(crate) fn new(
        name: &'static str,
        folder: Folder,
        port: Port,
        account: Option<Account>,
        program: Vec<OsString>,
        signals: &Signals,
    ) -> Self {
        Self {
            name,
            port,
            account,
            program,
            stop_signal: signals.stop,
            end_signal: signals.end,
            process: Mutex::new(None),
            folder,
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path.join("log")
    }

    /// Starts the process; it may take a while until it answers.
    pub(crate) fn launch(&self) -> Result<()> {
        let mut process = self.process();
        if process.is_some() {
            return Err(ScratchError::State(format!(
                "{} already runs on port {}",
                self.name, self.port.number
            )));
        }
        let path = self.log_path();
        let open = || OpenOptions::new().create(true).append(true).open(&path);
        let log = open().map_err(ScratchError::machine(format!("open {}", path.display())))?;
        let errors = log.try_clone().map_err(ScratchError::machine("share the log"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "tidelock-scratch-gate"]).args(&self.program);
        command
            .current_dir(&self.folder.path)
            .env("HOME", &self.folder.path)
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        for name in [
            "PGDATA",
            "PGPORT",
            "PGHOST",
            "PGOPTIONS",
            "MYSQL_HOME",
            "MYSQL_TCP_PORT",
            "MYSQL_UNIX_PORT",
        ] {
            command.env_remove(name);
        }
        Account::dress(self.account.as_ref(), &mut command);
        command.process_group(0).stdin(Stdio::piped()).stdout(log).stderr(errors);
        let mut child =
            command.spawn().map_err(ScratchError::machine(format!("start {}", self.name)))?;
        let guarded = self.folder.guard(child.id());
        let gate = child.stdin.take();
        *process = Some(child);
        guarded?;
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n")
                .map_err(ScratchError::machine(format!("start {}", self.name)))?;
        }
        Ok(())
    }

    /// The process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    /// An error with the log's end when the process has ended by itself.
    pub(crate) fn still_runs(&self) -> Result<()> {
        let mut process = self.process();
        let Some(child) = process.as_mut() else {
            return Err(ScratchError::State(format!("{} does not run", self.name)));
        };
        match child.try_wait().map_err(ScratchError::machine(format!("look at {}", self.name)))? {
            None => Ok(()),
            Some(status) => {
                *process = None;
                self.folder.guard(0)?;
                Err(ScratchError::Died {
                    program: self.name.to_owned(),
                    status: status.to_string(),
                    log: self.log_tail(),
                })
            }
        }
    }

    /// The error of a start that took too long.
    pub(crate) fn late(&self, waited: Duration, answer: &str) -> ScratchError {
        let state = format!("{answer}; log: {}", self.log_tail());
        ScratchError::Late {
            what: format!("{} answers on port {}", self.name, self.port.number),
            waited,
            state,
        }
    }

    pub(crate) fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Stops in good order; kills and says so when that takes too long.
    pub(crate) async fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        self.unpause()?;
        let family = children(pid);
        signal(pid, self.stop_signal)?;
        let start = Instant::now();
        while start.elapsed() < STOP_WITHIN {
            if self.reap()? {
                return gone(self.name, &family).await;
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill9().await?;
        let what = format!("{} stops in good order", self.name);
        Err(ScratchError::Late { what, waited: STOP_WITHIN, state: "killed".to_owned() })
    }

    /// Kills every process of the server, as a power cut would, and waits until they are gone.
    pub(crate) async fn kill9(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // Frozen first, so that it cannot fork another child while we count them.
        let _ = signal(pid, Signal::STOP);
        let family = children(pid);
        let _ = signal(pid, Signal::KILL);
        for child in &family {
            let _ = signal(*child, Signal::KILL);
        }
        while !self.reap()? {
            tokio::time::sleep(POLL).await;
        }
        gone(self.name, &family).await
    }

    /// Freezes every process of the server: connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        self.to_all(Signal::STOP)
    }

    /// Lets a frozen server run on.
    pub(crate) fn unpause(&self) -> Result<()> {
        self.to_all(Signal::CONT)
    }

    fn to_all(&self, what: Signal) -> Result<()> {
        let pid =
            self.pid().ok_or_else(|| ScratchError::State(format!("{} does not run", self.name)))?;
        signal(pid, what)?;
        for child in children(pid) {
            let _ = signal(child, what);
        }
        Ok(())
    }

    /// True when the process has ended; the watchdog forgets the pid before it can become somebody else's.
    fn reap(&self) -> Result<bool> {
        let mut process = self.process();
        let Some(child) = process.as_mut() else { return Ok(true) };
        if !is_gone(child.id()) {
            return Ok(false);
        }
        self.folder.guard(0)?;
        child.wait().map_err(ScratchError::machine(format!("wait for {}", self.name)))?;
        *process = None;
        Ok(true)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        let _ = self.unpause();
        let _ = signal(pid, self.end_signal);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            if !matches!(self.reap(), Ok(false)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // The folder's own drop follows: its watchdog knows the pid and does not ask politely.
    }
}

fn signal(pid: u32, what: Signal) -> Result<()> {
    let to = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let to = to.ok_or_else(|| ScratchError::State(format!("{pid} is no process id")))?;
    kill_process(to, what)
        .map_err(|error| ScratchError::machine(format!("signal process {pid}"))(error.into()))
}

/// State and parent of a process, from `/proc/PID/stat`; the name in it may hold blanks and brackets.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// PostgreSQL's backends leave the process group of their parent, so they are found by descent.
fn children(parent: u32) -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}

/// A dead process that nobody has reaped holds neither files nor memory.
fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

async fn gone(name: &str, family: &[u32]) -> Result<()> {
    let what = format!("all processes of {name} are gone");
    crate::wait_until(&what, Duration::from_secs(10), || async {
        family.iter().all(|pid| is_gone(*pid))
    })
    .await
}
