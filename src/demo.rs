//! The demonstration's world: a scratch PostgreSQL "ERP" and MariaDB "CRM" from `examples/erp-crm`,
//! people working in both, and a comparison that knows nothing of tidelock.
//!
//! The tests use the same world, so what a newcomer sees is what is tested.

pub mod compare;
pub mod work;

use std::path::Path;

use tidelock_core::{Code, Error, Result};
use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions};

const ERP_SQL: &str = include_str!("../examples/erp-crm/erp.sql");
const CRM_SQL: &str = include_str!("../examples/erp-crm/crm.sql");
const CONFIG: &str = include_str!("../examples/erp-crm/tidelock.toml");

/// Two scratch servers with the example's schemas.
pub struct World {
    /// The ERP, database `erp`.
    pub erp: Postgres,
    /// The CRM, database `crm`.
    pub crm: Mysql,
}

/// An error of the demonstration itself.
pub fn trouble(error: impl std::fmt::Display) -> Error {
    Error::setup(Code::Unreachable, format!("scratch servers: {error}"))
}

impl World {
    /// Starts both servers and loads the schemas.
    pub async fn start() -> Result<World> {
        World::over(PostgresOptions::new(), MysqlOptions::new()).await
    }

    /// The same with servers started by these options.
    pub async fn over(erp: PostgresOptions, crm: MysqlOptions) -> Result<World> {
        let (erp, crm) = tokio::try_join!(erp.start(), crm.start()).map_err(trouble)?;
        erp.create_database("erp").await.map_err(trouble)?;
        crm.create_database("crm").await.map_err(trouble)?;
        erp.sql("erp", ERP_SQL).await.map_err(trouble)?;
        crm.sql("crm", CRM_SQL).await.map_err(trouble)?;
        Ok(World { erp, crm })
    }

    /// The example's configuration for these servers.
    pub fn config(&self, state_dir: &Path, listen: Option<&str>) -> String {
        config_text(&self.erp.url("erp"), &self.crm.url("crm"), state_dir, listen)
    }
}

/// The example's configuration with these addresses.
pub fn config_text(erp_url: &str, crm_url: &str, state_dir: &Path, listen: Option<&str>) -> String {
    let listen = listen.map_or(String::new(), |l| format!("listen    = {l:?}"));
    CONFIG
        .replace("{ env = \"ERP_URL\" }", &format!("{erp_url:?}"))
        .replace("{ env = \"CRM_URL\" }", &format!("{crm_url:?}"))
        .replace("\"tidelock-state\"", &format!("{:?}", state_dir.display().to_string()))
        .replace("listen    = \"127.0.0.1:7373\"", &listen)
}
