//! The connectors: the only file here that names a database. Adding one is one line.

use std::sync::Arc;

use tidelock_core::{Code, Connector, Error, ErrorKind, Result, SystemConfig};

/// URL schemes of all connectors.
pub const SCHEMES: &[&str] = &["postgres", "postgresql", "mysql", "mariadb"];

/// The connector for a system, by the scheme of its URL.
pub fn connector(config: &SystemConfig) -> Result<Arc<dyn Connector>> {
    let scheme = config.url.expose().split("://").next().unwrap_or_default();
    let connector = match scheme {
        "postgres" | "postgresql" => tidelock_postgres::connector(config.clone())?,
        "mysql" | "mariadb" => tidelock_mysql::connector(config.clone())?,
        _ => {
            return Err(Error::new(
                ErrorKind::Config,
                Code::Config,
                format!("system {}: no connector for its url's scheme", config.name),
            ));
        }
    };
    Ok(Arc::from(connector))
}
