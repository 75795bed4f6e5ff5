//! The process that a benchmark measures.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running tidelock with a mapping of table `wide` from system `a` to system `b`.
pub struct Tidelock(Child);

impl Tidelock {
    /// Writes a configuration and starts.
    pub fn start(
        folder: &Path,
        source: &str,
        target: &str,
        snapshot: &str,
    ) -> Result<Tidelock, std::io::Error> {
        let config = folder.join("tidelock.toml");
        let text = format!(
            "version = 1\nname = \"bench\"\nstate_dir = {:?}\n[systems.a]\nurl = {source:?}\n[systems.b]\nurl = {target:?}\n\
             [[mappings]]\nfrom = \"a.wide\"\nto = \"b.wide\"\nsnapshot = {snapshot:?}\n",
            folder.display().to_string()
        );
        std::fs::write(&config, text)?;
        Command::new(env!("CARGO_BIN_EXE_tidelock"))
            .args(["run", "-c"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .env("TIDELOCK_LOG", "warn")
            .spawn()
            .map(Tidelock)
    }

    /// CPU seconds and peak memory in megabytes.
    pub fn cost(&self) -> (f64, u64) {
        let proc = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap_or_default()
        };
        let stat = proc("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |i: usize| fields.get(i).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
        let peak = proc("status")
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0);
        ((ticks(11) + ticks(12)) / 100.0, peak / 1024)
    }
}

impl Drop for Tidelock {
    fn drop(&mut self) {
        // Ended on purpose; it may be gone already.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
