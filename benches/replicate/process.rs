//! The process that a benchmark measures.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Clock ticks a second in `/proc`: 100 on every Linux that matters here.
pub const TICKS_A_SECOND: f64 = 100.0;

/// CPU seconds of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// In its own code.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

impl Cpu {
    /// What a process has used; nothing for one that is not there.
    pub fn of(pid: u32) -> Cpu {
        let (user, system, ..) = ticks(pid);
        Cpu { user: user / TICKS_A_SECOND, system: system / TICKS_A_SECOND }
    }

    /// Both.
    pub fn sum(self) -> f64 {
        self.user + self.system
    }
}

/// User and system ticks of a process, then those of its children that ended.
pub fn ticks(pid: u32) -> (f64, f64, f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the process stands in brackets and may hold blanks.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let tick = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (tick(11), tick(12), tick(13), tick(14))
}

/// A running tidelock.
pub struct Tidelock(Child);

impl Tidelock {
    /// Writes a configuration with a mapping of each table from system `a` to system `b`, and starts the tidelock of
    /// this build.
    #[allow(dead_code, reason = "each benchmark has its own copy of this module")]
    pub fn start(
        folder: &Path,
        source: &str,
        target: &str,
        snapshot: &str,
    ) -> Result<Tidelock, std::io::Error> {
        let config = configure(folder, "bench", [source, target], &["wide"], snapshot)?;
        Self::run(Path::new(env!("CARGO_BIN_EXE_tidelock")), &config)
    }

    /// Starts a tidelock of the caller's choice.
    pub fn run(program: &Path, config: &Path) -> Result<Tidelock, std::io::Error> {
        Command::new(program)
            .args(["run", "-c"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .env("TIDELOCK_LOG", "warn")
            .spawn()
            .map(Tidelock)
    }

    /// CPU seconds so far.
    pub fn cpu(&self) -> Cpu {
        Cpu::of(self.0.id())
    }

    fn memory_mb(&self, what: &str) -> f64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kb = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        kb.unwrap_or(0.0) / 1024.0
    }

    /// The most memory it ever had, in megabytes.
    pub fn peak_mb(&self) -> f64 {
        self.memory_mb("VmHWM:")
    }

    /// The memory it has, in megabytes.
    #[allow(dead_code, reason = "each benchmark has its own copy of this module")]
    pub fn rss_mb(&self) -> f64 {
        self.memory_mb("VmRSS:")
    }

    /// Asks it to drain and waits for its end.
    #[allow(dead_code, reason = "each benchmark has its own copy of this module")]
    pub fn stop(mut self) -> Result<(), Box<dyn std::error::Error>> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(60) {
                return Err("tidelock did not stop within a minute".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// An error if it has ended by itself.
    #[allow(dead_code, reason = "each benchmark has its own copy of this module")]
    pub fn still_runs(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("tidelock ended: {status}").into()),
        }
    }
}

impl Drop for Tidelock {
    fn drop(&mut self) {
        // Ended on purpose; it may be gone already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Writes a configuration with a mapping of each table from the first system to the second; gives its path.
pub fn configure(
    folder: &Path,
    name: &str,
    [source, target]: [&str; 2],
    tables: &[&str],
    snapshot: &str,
) -> Result<PathBuf, std::io::Error> {
    let config = folder.join("tidelock.toml");
    let mut text = format!(
        "version = 1\nname = {name:?}\nstate_dir = {:?}\n[systems.a]\nurl = {source:?}\n[systems.b]\nurl = {target:?}\n",
        folder.display().to_string()
    );
    for table in tables {
        text.push_str(&format!(
            "[[mappings]]\nfrom = \"a.{table}\"\nto = \"b.{table}\"\nsnapshot = {snapshot:?}\n"
        ));
    }
    std::fs::write(&config, text)?;
    Ok(config)
}
