//! From the file as written to the configuration as used.

mod flow;
mod mapping;
mod names;
mod system;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_spanned::Spanned;
use sha2::{Digest, Sha256};
use tidelock_core::{PIPELINE_CHARS_MAX, SystemConfig};

use self::flow::resolve_flows;
pub use self::names::{is_name_of, legal_name};
pub(super) use self::names::{plain_column, split_name, table_ref};
use self::system::{has_password, read_password, resolve_system};
use super::file::{self, File};
use super::{Config, ConfigError, Place, Placed, SourceText, Values, rows};

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

/// The text that places point into.
pub struct Source(pub Arc<SourceText>);

impl Source {
    /// An error at a place of the text.
    pub(super) fn error(&self, span: Range<usize>, words: impl AsRef<str>) -> ConfigError {
        file::at(&self.0.file, &self.0.text, &span, words.as_ref())
    }

    /// A place of the text, to be kept.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.0.clone(), span)
    }

    /// A text and its place, to be kept.
    pub(super) fn placed(&self, text: &Spanned<String>) -> Placed {
        Placed { text: text.get_ref().clone(), place: self.place(text.span()) }
    }
}

/// Checks and completes a parsed file.
pub fn resolve(parsed: File, source: &Source) -> Result<Config> {
    if *parsed.version.get_ref() != 1 {
        let words = "version must be 1\nhint: write version = 1: this program knows no other";
        return Err(source.error(parsed.version.span(), words));
    }
    let name = parsed.name.get_ref();
    fits("the pipeline's name", name, PIPELINE_CHARS_MAX, parsed.name.span(), source)?;
    let systems = self::systems(&parsed, source)?;
    let inline_passwords = parsed
        .systems
        .iter()
        .filter(|(_, s)| has_password(s))
        .map(|(name, _)| name.clone())
        .collect();
    let dictionaries = parsed
        .dictionaries
        .iter()
        .map(|(name, value)| rows::dictionary(name, value, &systems, source))
        .collect::<Result<Vec<_>>>()?;
    let mask_key = parsed.mask_key.as_ref().map(|key| read_password(key, source)).transpose()?;
    let shared = Arc::new(Values::new(dictionaries, mask_key));
    let flows = resolve_flows(&parsed, &systems, &shared, source)?;
    let hash = hex::encode(&Sha256::digest(source.0.text.as_bytes())[..8]);
    Ok(Config {
        name: name.clone(),
        state_dir: parsed.state_dir(),
        listen: parsed.listen.as_ref().map(|l| listen(l, source)).transpose()?,
        systems,
        flows,
        inline_passwords,
        hash,
    })
}

/// How the file's systems are reached.
pub(super) fn systems(parsed: &File, source: &Source) -> Result<BTreeMap<String, SystemConfig>> {
    let system = |(name, system): (&String, &file::System)| {
        Ok((name.clone(), resolve_system(name, system, source)?))
    };
    parsed.systems.iter().map(system).collect()
}

/// Where to listen, if it is an address and a port.
fn listen(text: &Spanned<String>, source: &Source) -> Result<String> {
    let good = text.get_ref().rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
    });
    if good {
        return Ok(text.get_ref().clone());
    }
    Err(source
        .error(text.span(), "expected host:port, such as \"127.0.0.1:7373\" or \"[::1]:7373\""))
}

/// Refuses a name that tidelock's own tables could not hold: no server may cut one.
fn fits(
    what: &str,
    name: &str,
    chars_max: usize,
    span: Range<usize>,
    source: &Source,
) -> Result<()> {
    let length = name.chars().count();
    if (1..=chars_max).contains(&length) {
        return Ok(());
    }
    Err(source.error(
        span,
        format!(
            "{what} has {length} characters; tidelock's own tables hold 1 to {chars_max}\n\
             hint: choose another name"
        ),
    ))
}

#[cfg(test)]
mod tests;
