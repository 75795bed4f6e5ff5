//! The throw-away servers do what their names say, on real binaries.

use std::time::Duration;

use tidelock_scratch::{Mysql, MysqlOptions, Postgres, PostgresOptions, Result, wait_until};

#[tokio::test]
async fn postgres_survives_a_kill_and_leaves_nothing_behind() -> Result<()> {
    let server = PostgresOptions::new().setting("application_name", "it's").start().await?;
    server.create_database("erp").await?;
    server
        .sql(
            "erp",
            "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, NULL)",
        )
        .await?;
    let port = server.port();
    server.kill9().await?;
    assert!(server.sql("erp", "SELECT 1").await.is_err());
    server.start_again().await?;
    server.restart().await?;
    assert_eq!(server.port(), port);
    assert_eq!(server.rows("erp", "SELECT id, note FROM t").await?, [[Some("1".to_owned()), None]]);
    assert_eq!(server.one("erp", "SHOW wal_level").await?, "logical");
    let folder = server.data_dir();
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn two_postgres_servers_have_two_identities() -> Result<()> {
    let (one, other) = tokio::try_join!(Postgres::start(), Postgres::start())?;
    let query = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(one.one("postgres", query).await?, other.one("postgres", query).await?);
    Ok(())
}

#[tokio::test]
async fn mariadb_survives_a_kill_and_leaves_nothing_behind() -> Result<()> {
    let server = MysqlOptions::new().setting("max-connections", "50").start().await?;
    server.create_database("crm").await?;
    server
        .sql(
            "crm",
            "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, NULL)",
        )
        .await?;
    assert!(
        server.sql("crm", "DO 1; SELECT nonsense; DO 1").await.is_err(),
        "an error in the middle is one"
    );
    server.kill9().await?;
    assert!(server.sql("crm", "DO 1").await.is_err());
    server.start_again().await?;
    server.restart().await?;
    assert_eq!(server.rows("crm", "SELECT id, note FROM t").await?, [[Some("1".to_owned()), None]]);
    assert_eq!(server.one("", "SELECT @@max_connections").await?, "50");
    assert_eq!(server.one("", "SELECT @@binlog_row_metadata").await?, "FULL");
    let folder = server.data_dir();
    drop(server);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_answers_when_it_thaws() -> Result<()> {
    let (postgres, mysql) = tokio::try_join!(Postgres::start(), Mysql::start())?;
    let client = postgres.client("postgres").await?;
    postgres.pause()?;
    mysql.pause()?;
    let short = Duration::from_millis(150);
    assert!(tokio::time::timeout(short, client.batch_execute("SELECT 1")).await.is_err());
    assert!(tokio::time::timeout(short, mysql.sql("", "DO 1")).await.is_err());
    postgres.unpause()?;
    mysql.unpause()?;
    client.batch_execute("SELECT 1").await?;
    mysql.sql("", "DO 1").await
}

#[test]
fn a_killed_process_takes_its_servers_along() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os("TIDELOCK_SCRATCH_VICTIM").is_some() {
        return victim();
    }
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_process_takes_its_servers_along", "--nocapture"])
        .env("TIDELOCK_SCRATCH_VICTIM", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no pipe")?;
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
    let told = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("victim: ").map(|told| told.1.to_owned()));
    child.kill()?;
    child.wait()?;
    let told = told.ok_or("the victim said nothing")?;
    let gone = || async { told.split(' ').all(|path| !std::path::Path::new(path).exists()) };
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(wait_until(
        "servers and folders are gone",
        Duration::from_secs(10),
        gone,
    ))?)
}

/// Starts both servers, says where they are and waits to be killed.
fn victim() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (postgres, mysql) =
        runtime.block_on(async { tokio::try_join!(Postgres::start(), Mysql::start()) })?;
    let pids =
        [postgres.pid(), mysql.pid()].map(|pid| format!("/proc/{}", pid.unwrap_or_default()));
    let folders = [postgres.data_dir(), mysql.data_dir()].map(|path| path.display().to_string());
    println!("victim: {} {}", pids.join(" "), folders.join(" "));
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}
