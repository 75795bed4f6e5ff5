//! The server version that `scripts/matrix.sh` points to starts, restarts and can be read.

use tidelock_scratch::{Flavour, Mysql, MysqlOptions, Postgres, Result};

#[tokio::test]
#[ignore = "scripts/matrix.sh runs it once per server version"]
async fn the_version_at_hand_starts_and_restarts() -> Result<()> {
    let version = std::env::var("TIDELOCK_MATRIX").unwrap_or_default();
    if version.starts_with("postgres") || version.is_empty() {
        let server = Postgres::start().await?;
        println!("{}", server.one("postgres", "SELECT version()").await?);
        server.kill9().await?;
        server.start_again().await?;
        assert_eq!(server.one("postgres", "SHOW wal_level").await?, "logical");
    }
    if version.starts_with("mariadb") || version.is_empty() {
        read_and_restart(&Mysql::start().await?).await?;
    }
    if version.starts_with("mysql") {
        read_and_restart(&MysqlOptions::new().flavour(Flavour::MySql).start().await?).await?;
    }
    Ok(())
}

async fn read_and_restart(server: &Mysql) -> Result<()> {
    println!("{}", server.one("", "SELECT version()").await?);
    server.create_database("crm").await?;
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    server.kill9().await?;
    server.start_again().await?;
    assert_eq!(server.one("crm", "SELECT count(*) FROM t").await?, "1");
    assert_eq!(server.one("", "SELECT @@binlog_row_metadata").await?, "FULL");
    Ok(())
}
