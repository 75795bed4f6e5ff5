//! Names: of slots and publications that we make, and of tables and columns that the file says.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_spanned::Spanned;
use sha2::{Digest, Sha256};
use tidelock_core::SystemConfig;

use super::{Result, Source};
use crate::config::{TablePattern, TableRef};

pub(super) fn legal(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// `tidelock_<pipeline>_<target>` in the letters that slots allow; a name that had to be changed or
/// cut gets a hash, so that two pipelines never meet in one name. `-` becomes `_` without a hash in
/// the pipeline's part only, and a target that looks like a hash gets one: what follows the last `_` is
/// then the target or the hash, and nothing else fits.
pub fn legal_name(pipeline: &str, target: &str) -> String {
    let plain = format!("tidelock_{pipeline}_{target}");
    let made = letters(&plain);
    let like_hash = target.len() == 8 && target.bytes().all(|b| b.is_ascii_hexdigit());
    let lossless = plain.replace('-', "_") == made
        && !pipeline.contains('_')
        && !target.contains(['_', '-'])
        && !like_hash;
    if lossless && legal(&made) {
        return made;
    }
    let hash = hex::encode(&Sha256::digest(format!("{pipeline}\0{target}"))[..4]);
    format!("{}_{hash}", made.chars().take(54).collect::<String>())
}

fn letters(plain: &str) -> String {
    plain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect()
}

/// Whether [`legal_name`] made this name for this pipeline and one of these systems, or one that the
/// name itself spells. As no two pipelines share a name, a match is proof; a name whose target can no
/// longer be told (gone from the file, with letters that were changed or cut) matches nothing.
pub fn is_name_of<'a>(
    pipeline: &str,
    name: &str,
    mut systems: impl Iterator<Item = &'a String>,
) -> bool {
    if systems.any(|system| legal_name(pipeline, system) == name) {
        return true;
    }
    let prefix = letters(&format!("tidelock_{pipeline}_"));
    let Some(spelt) = name.strip_prefix(&prefix) else { return false };
    let unhashed = spelt.rsplit_once('_').map(|(target, _)| target);
    [Some(spelt), unhashed]
        .into_iter()
        .flatten()
        .flat_map(readings)
        .any(|target| legal_name(pipeline, &target) == name)
}

/// What a system may be called whose name is spelt so: each `_` may have been a `-`.
pub(super) fn readings(spelt: &str) -> Vec<String> {
    let mut read = vec![String::new()];
    for (n, part) in spelt.split('_').enumerate() {
        // A name of 63 letters could have thousands of readings; people use few such signs.
        let signs: &[&str] = match n {
            0 => &[""],
            1..=6 => &["_", "-"],
            _ => &["_"],
        };
        read = read
            .iter()
            .flat_map(|before| signs.iter().map(move |sign| format!("{before}{sign}{part}")))
            .collect();
    }
    read
}

/// The name in `name` or `"odd name"`; `None` for anything that is more than a name.
pub(in crate::config) fn plain_column(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        let name = inner.replace("\"\"", "\u{0}");
        return (!name.contains('"') && !name.is_empty()).then(|| name.replace('\u{0}', "\""));
    }
    let mut chars = text.chars();
    let first = chars.next()?;
    let good = (first.is_alphabetic() || first == '_')
        && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
    good.then(|| text.to_owned())
}

/// `system.table`, `system.schema.table`, with `"quoted"` parts and `*` for the table.
pub(in crate::config) fn table_ref(
    text: &str,
    span: Range<usize>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<TableRef> {
    let named = TableRef::parse(text).ok_or_else(|| {
        source.error(span.clone(), "expected system.table or system.schema.table")
    })?;
    let system = &named.system;
    if !systems.contains_key(system) {
        let near = systems.keys().max_by(|a, b| {
            strsim::jaro_winkler(a, system).total_cmp(&strsim::jaro_winkler(b, system))
        });
        let hint = near.map_or(String::new(), |n| format!("\nhint: did you mean `{n}`?"));
        return Err(source.error(span, format!("there is no system {system}{hint}")));
    }
    Ok(named)
}

/// A routine of a system.
pub(super) fn routine(
    text: &Spanned<String>,
    systems: &BTreeMap<String, SystemConfig>,
    source: &Source,
) -> Result<TableRef> {
    let named = table_ref(text.get_ref(), text.span(), systems, source)?;
    if named.table == TablePattern::All {
        return Err(source.error(text.span(), "expected system.routine or system.schema.routine"));
    }
    Ok(named)
}

/// The parts of a dotted name and whether each was quoted; `None` if it is malformed.
pub(in crate::config) fn split_name(text: &str) -> Option<Vec<(String, bool)>> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut part = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        if quoted {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    '"' => break,
                    c => part.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != '.' && *c != '"') {
                part.push(c);
            }
        }
        if part.is_empty() {
            return None;
        }
        parts.push((part, quoted));
        match chars.next() {
            None => return Some(parts),
            Some('.') => {}
            Some(_) => return None,
        }
    }
}
