//! Prepared data folders, made once per server version and copied for each server.
//!
//! A template is built under another name and renamed when whole, with a file lock held: processes that start
//! together build it once, and a process that dies half way leaves nothing that a later one would take for whole.
//! After the rename nobody writes to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use crate::folder::{Account, shared};
use crate::{Result, ScratchError};

/// Part of every template's name: raise it when the way they are made changes.
const RECIPE: u32 = 1;

/// The template of `version`, built by `build` (which gets an empty folder of `account`'s) when there is none.
pub(crate) fn template(
    version: &str,
    account: Option<&Account>,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let shared = shared()?;
    let name: String = version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
        .collect();
    let whole = shared.join(format!("v{RECIPE}-{name}"));
    if whole.exists() {
        return Ok(whole);
    }
    let path = shared.join(format!("v{RECIPE}-{name}.lock"));
    let lock =
        File::create(&path).map_err(ScratchError::machine(format!("create {}", path.display())))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| ScratchError::machine(format!("lock {}", path.display()))(error.into()))?;
    if whole.exists() {
        return Ok(whole);
    }
    let half = shared.join(format!("v{RECIPE}-{name}.half"));
    let _ = fs::remove_dir_all(&half);
    fs::create_dir(&half).map_err(ScratchError::machine(format!("create {}", half.display())))?;
    Account::own(account, &half)?;
    build(&half)?;
    fs::rename(&half, &whole)
        .map_err(ScratchError::machine(format!("rename {}", half.display())))?;
    Ok(whole)
}

/// Copies `from` to `to` with owners and modes, sharing blocks where the file system can.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to), None)
}

/// Runs `command` to its end with `input` on its standard input; its output is the error's text when it fails.
pub(crate) fn run(command: &mut Command, input: Option<&Path>) -> Result<()> {
    output(command, input).map(drop)
}

/// The same, giving its standard output.
pub(crate) fn output(command: &mut Command, input: Option<&Path>) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let input = match input {
        Some(path) => Stdio::from(
            File::open(path).map_err(ScratchError::machine(format!("open {}", path.display())))?,
        ),
        None => Stdio::null(),
    };
    let done =
        command.stdin(input).output().map_err(ScratchError::machine(format!("run {program}")))?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(said);
    }
    let log = format!("{said}{}", String::from_utf8_lossy(&done.stderr));
    Err(ScratchError::Died { program, status: done.status.to_string(), log })
}
