//! The connectors: the only file here that names a database. Adding one is one line.

use std::sync::Arc;

use tidelock_core::{Code, Connector, Error, ErrorKind, Family, Result, SystemConfig};

const FAMILIES: &[Family] = &[tidelock_postgres::FAMILY, tidelock_mysql::FAMILY];

/// URL schemes of all connectors.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.schemes.iter().copied())
}

/// The family that a URL belongs to, by its scheme.
pub fn family(url: &str) -> Option<&'static Family> {
    let (scheme, _) = url.split_once("://")?;
    FAMILIES.iter().find(|family| family.schemes.contains(&scheme))
}

/// The connector for a system, by the scheme of its URL.
pub fn connector(config: &SystemConfig) -> Result<Arc<dyn Connector>> {
    let family = family(config.url.expose()).ok_or_else(|| {
        let words = format!("system {}: no connector for its url's scheme", config.name);
        Error::new(ErrorKind::Config, Code::Config, words)
    })?;
    Ok(Arc::from((family.connector)(config.clone())?))
}
