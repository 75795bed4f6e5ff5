//! The tidelock process under test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running `tidelock run` and its folder.
pub struct Daemon {
    child: Child,
    config: PathBuf,
}

impl Daemon {
    /// Writes the configuration into `folder` and starts; the log goes to `run.log` there.
    pub fn start(folder: &Path, config: &str) -> Daemon {
        let path = folder.join("tidelock.toml");
        std::fs::write(&path, config).expect("config");
        Daemon { child: spawn(&path, &folder.join("run.log")), config: path }
    }

    /// A command of the binary, answered.
    pub fn command(&self, args: &[&str]) -> (i32, String) {
        command(&self.config, args)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("pid");
        kill_process(pid, signal).expect("signal");
    }

    /// kill -9, then start again.
    pub fn kill_and_start(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts again after a kill.
    pub fn start_again(&mut self) {
        let log = self.config.with_file_name("run.log");
        self.child = spawn(&self.config, &log);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("wait");
    }

    /// SIGSTOP: alive for the servers, dead for everybody else.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM; the drain must end with exit code 0.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let code = self.child.wait().expect("wait").code();
        assert_eq!(code, Some(0), "{}", self.log());
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_file_name("run.log")).unwrap_or_default()
    }

    /// The status of each flow as `status --json` shows it; empty while it does not answer.
    pub fn flows(&self) -> Vec<Value> {
        let (code, text) = self.command(&["status", "--json"]);
        // 1 is an answer too: a flow shows an error, or exceptions are open.
        if !matches!(code, 0 | 1) {
            return Vec::new();
        }
        let status: Value = serde_json::from_str(&text).expect("json");
        status["flows"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the condition holds for the flows; panics with status and log else.
    pub async fn wait(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&[Value]) -> bool,
    ) {
        let began = Instant::now();
        loop {
            let flows = self.flows();
            if !flows.is_empty() && holds(&flows) {
                return;
            }
            assert!(began.elapsed() < within, "{what}: {flows:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every flow streams.
    pub async fn streaming(&self) {
        self.wait("streaming", super::SOON, |flows| {
            flows.iter().all(|f| f["state"] == "streaming")
        })
        .await;
    }

    /// Waits until a flow has halted; answers code, message and hint of its error.
    pub async fn halted(&self, flow: &str) -> (String, String) {
        let mut error = Value::Null;
        self.wait("halted", super::SOON, |flows| {
            let found = flows.iter().find(|f| f["flow"] == flow && f["state"] == "halted");
            error = found.map_or(Value::Null, |f| f["error"].clone());
            !error.is_null()
        })
        .await;
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (text("code"), format!("{} / {}", text("message"), text("hint")))
    }

    /// Peak resident memory in kilobytes.
    pub fn peak_rss_kb(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("proc");
        let line = status.lines().find(|l| l.starts_with("VmHWM")).expect("VmHWM");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(config: &Path, log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("log");
    Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .args(["run", "-c"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("tidelock")
}

/// A command of the binary, answered: exit code and standard output (with errors).
pub fn command(config: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidelock"))
        .args(args)
        .arg("-c")
        .arg(config)
        .output()
        .expect("tidelock");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), text)
}
