//! A server's folder, the account it runs as, its port, and the watchdog that removes all traces.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::{Result, ScratchError};

/// A socket's path ends at 107 bytes; what is left is for `tl-XXXXXX/.s.PGSQL.12345.lock`.
const BASE_BYTES_MAX: usize = 70;

/// Below the kernel's range for outgoing connections, so that no client takes the port between our look and the bind.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Reads pids until the pipe from us ends, then ends the last of them (0 = none) and removes the folder.
/// `$1` folder, `$2` the signal that ends the server at once, `$3` set: keep the folder.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM QUIT
pid=0
while read -r line; do pid=$line; done
children() { cat "/proc/$pid/task/$pid/children" 2>/dev/null; }
if [ "$pid" != 0 ]; then
  kill "-$2" "$pid"; kill -CONT $pid $(children)
  turns=0
  while kill -0 "$pid" && [ $turns -lt 40 ]; do sleep 0.05; turns=$((turns + 1)); done
  kill -KILL $(children) "$pid"
fi 2>/dev/null
[ -n "$3" ] && exit
turns=0
until rm -rf "$1" 2>/dev/null || [ $turns -ge 40 ]; do sleep 0.05; turns=$((turns + 1)); done
"#;

/// The account a server runs as: PostgreSQL and MySQL refuse to run as root.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// The first of `names` this machine knows, or `None` when we are not root and run servers as ourselves.
    pub(crate) fn for_servers(names: &[&str]) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd =
            fs::read_to_string("/etc/passwd").map_err(ScratchError::machine("read /etc/passwd"))?;
        let found = names.iter().find_map(|wanted| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let (name, _, uid, gid) =
                    (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
                let account =
                    Self { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? };
                (name == *wanted).then_some(account)
            })
        });
        found.map(Some).ok_or_else(|| ScratchError::NotInstalled {
            program: format!("an account to run a server as ({})", names.join(" or ")),
            cure: "create one of them, or run the tests as an ordinary user",
        })
    }

    /// Lets `command` run as this account, without our supplementary groups.
    pub(crate) fn dress(account: Option<&Self>, command: &mut Command) {
        if let Some(account) = account {
            command.uid(account.uid).gid(account.gid);
        }
    }

    /// Gives `path` to this account.
    pub(crate) fn own(account: Option<&Self>, path: &Path) -> Result<()> {
        let Some(account) = account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .map_err(ScratchError::machine(format!("give {} to {}", path.display(), account.name)))
    }
}

/// Where folders are made: short, and open to the account that servers run as.
pub(crate) fn base() -> Result<PathBuf> {
    let wanted = std::env::var_os("TIDELOCK_SCRATCH_DIR").map(PathBuf::from);
    let root = rustix::process::geteuid().is_root();
    wanted
        .into_iter()
        .chain([std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")])
        .find(|path| path.as_os_str().len() <= BASE_BYTES_MAX && (!root || open_to_all(path)))
        .ok_or_else(|| ScratchError::NotInstalled {
            program: "a temporary folder with a short path that every account may enter".to_owned(),
            cure: "set TIDELOCK_SCRATCH_DIR to one",
        })
}

fn open_to_all(path: &Path) -> bool {
    path.ancestors()
        .all(|part| fs::metadata(part).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o001 != 0))
}

/// The folder of our own under the base in which templates and locks live, shared by all test processes of one user.
pub(crate) fn shared() -> Result<PathBuf> {
    let us = rustix::process::geteuid().as_raw();
    let path = base()?.join(format!("tidelock-scratch-{us}"));
    match fs::create_dir(&path) {
        Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(ScratchError::machine(format!("open {}", path.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(ScratchError::machine(format!("create {}", path.display()))(error));
        }
    }
    // The name can be guessed, so somebody else may have been there first.
    let meta = fs::symlink_metadata(&path)
        .map_err(ScratchError::machine(format!("look at {}", path.display())))?;
    if !meta.is_dir() || meta.uid() != us {
        return Err(ScratchError::NotInstalled {
            program: format!("a folder {} of our own", path.display()),
            cure: "another user has it: set TIDELOCK_SCRATCH_DIR to a folder of yours",
        });
    }
    Ok(path)
}

/// A port that no other test process will take while this value lives, stopped server or not.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn lease() -> Result<Self> {
        let locks = shared()?.join("ports");
        fs::create_dir_all(&locks)
            .map_err(ScratchError::machine(format!("create {}", locks.display())))?;
        let span = usize::from(PORTS.end - PORTS.start);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Spread: processes that start together should not walk the same ports.
        let first = now.subsec_nanos() as usize / 1_000 + std::process::id() as usize * 37;
        for number in PORTS.cycle().skip(first % span).take(span) {
            let path = locks.join(number.to_string());
            let lock = File::create(&path)
                .map_err(ScratchError::machine(format!("create {}", path.display())))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && TcpListener::bind(("127.0.0.1", number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(ScratchError::State("no free port between 20000 and 32000 on 127.0.0.1".to_owned()))
    }
}

/// A folder that goes when we go, and takes its server along.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    watchdog: Mutex<Option<(Child, ChildStdin)>>,
}

impl Folder {
    /// A new folder of `account`'s; `end_signal` is what ends its server at once (without the `SIG`).
    pub(crate) fn new(account: Option<&Account>, end_signal: &str) -> Result<Self> {
        let base = base()?;
        let path = tempfile::Builder::new()
            .prefix("tl-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&base)
            .map_err(ScratchError::machine(format!("create a folder in {}", base.display())))?
            .keep();
        Account::own(account, &path)?;
        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "tidelock-scratch-watchdog"])
            .arg(&path)
            .arg(end_signal)
            .arg(std::env::var_os("TIDELOCK_SCRATCH_KEEP").unwrap_or_default())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(ScratchError::machine("start /bin/sh"))?;
        let pipe = watchdog
            .stdin
            .take()
            .ok_or_else(|| ScratchError::State("the watchdog has no pipe".into()))?;
        Ok(Self { path, watchdog: Mutex::new(Some((watchdog, pipe))) })
    }

    /// Tells the watchdog which process to end; 0 for none, before the process is reaped and its pid may be another's.
    pub(crate) fn guard(&self, pid: u32) -> Result<()> {
        let mut watchdog = self.watchdog.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((_, pipe)) = watchdog.as_mut() else { return Ok(()) };
        writeln!(pipe, "{pid}").map_err(ScratchError::machine("tell the watchdog"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let watchdog =
            self.watchdog.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some((mut child, pipe)) = watchdog {
            drop(pipe);
            let _ = child.wait();
        }
    }
}
