//! The proxy cuts where it is told to, and nowhere else.

use std::time::Duration;

use tidelock_scratch::tokio_postgres::{self, Client, NoTls};
use tidelock_scratch::{Direction, Postgres, Proxy, Result, When, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(5);

async fn through(proxy: &Proxy) -> Result<Client, tokio_postgres::Error> {
    let url = format!("postgres://tidelock@127.0.0.1:{}/postgres", proxy.port());
    let (client, driver) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}

#[tokio::test]
async fn a_commit_arrives_or_does_not_as_the_cut_says() -> Result<()> {
    let server = Postgres::start().await?;
    server.sql("postgres", "CREATE TABLE t (id int)").await?;
    let proxy = Proxy::start("127.0.0.1", server.port()).await?;
    for (when, skip, rows) in [(When::BeforeForwarding, 0, "0"), (When::AfterForwarding, 1, "2")] {
        proxy.cut_when(Direction::ToServer, b"COMMIT", when, skip);
        let client = through(&proxy).await?;
        for _ in 0..=skip {
            client.batch_execute("BEGIN").await?;
            client.batch_execute("INSERT INTO t VALUES (1)").await?;
            if let Err(error) = client.batch_execute("COMMIT").await {
                assert!(error.is_closed() || error.as_db_error().is_none());
            }
        }
        assert!(!proxy.armed());
        let count =
            || async { server.one("postgres", "SELECT count(*) FROM t").await.unwrap_or_default() };
        wait_for("the commit's fate", SOON, rows.to_owned(), count).await?;
    }
    assert_eq!(proxy.cuts(), 2);
    Ok(())
}

#[tokio::test]
async fn cut_refuse_and_blackhole() -> Result<()> {
    let server = Postgres::start().await?;
    let proxy = Proxy::start("127.0.0.1", server.port()).await?;
    let client = through(&proxy).await?;
    proxy.refuse(true).await?;
    client.batch_execute("SELECT 1").await?;
    assert!(through(&proxy).await.is_err());
    proxy.refuse(false).await?;
    proxy.cut();
    wait_until("the connection is cut", SOON, || async { client.is_closed() }).await?;

    let (idle, busy) = (through(&proxy).await?, through(&proxy).await?);
    proxy.blackhole(true);
    let short = Duration::from_millis(100);
    assert!(tokio::time::timeout(short, busy.batch_execute("SELECT 1")).await.is_err());
    assert!(tokio::time::timeout(short, through(&proxy)).await.is_err());
    assert!(!busy.is_closed());
    proxy.blackhole(false);
    wait_until("the connection that lost bytes is dropped", SOON, || async { busy.is_closed() })
        .await?;
    idle.batch_execute("SELECT 1").await?;
    Ok(())
}
