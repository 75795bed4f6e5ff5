//! Small things both kinds of server need: a value from an answer, an error in one line, a private file.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::folder::Account;
use crate::server::Server;
use crate::{Result, ScratchError};

/// The first value of the first row.
pub(crate) fn first(rows: Vec<Vec<Option<String>>>, query: &str) -> Result<String> {
    let row = rows
        .into_iter()
        .next()
        .ok_or_else(|| ScratchError::State(format!("no row came from: {query}")))?;
    Ok(row.into_iter().next().flatten().unwrap_or_else(|| "NULL".to_owned()))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// A file in the server's folder, owned by its account, mode 0600.
pub(crate) fn private_file(server: &Server, name: &str, contents: &[u8]) -> Result<PathBuf> {
    let path = server.folder.path.join(name);
    fs::write(&path, contents)
        .map_err(ScratchError::machine(format!("write {}", path.display())))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(ScratchError::machine(format!("protect {}", path.display())))?;
    Account::own(server.account.as_ref(), &path)?;
    Ok(path)
}
