//! How a server is reached: passwords and TLS.

use std::path::PathBuf;
use std::process::Command;

use tidelock_core::{Code, Secret, TlsMode};
use tidelock_postgres::connector;
use tidelock_scratch::PostgresOptions;

use crate::field::{Field, commits, config};

/// Makes an authority and a certificate for `localhost`; gives their folder.
fn certificates() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().ok()?;
    let run = |arguments: &str| {
        Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .is_ok_and(|o| o.status.success())
    };
    std::fs::write(folder.path().join("ext"), "subjectAltName=DNS:localhost\n").ok()?;
    let made = run(
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca",
    ) && run(
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
    ) && run(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile ext -out server.pem",
    );
    made.then_some(folder)
}

#[tokio::test]
async fn passwords_are_proved_by_scram_on_both_kinds_of_connection() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    field
        .sql("SET password_encryption = 'scram-sha-256'; CREATE ROLE r SUPERUSER LOGIN PASSWORD 'p/w'")
        .await;
    let hba = field.server.data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("hba");
    let rules = format!("host all r all scram-sha-256\nlocal all r scram-sha-256\n{rules}");
    std::fs::write(&hba, rules).expect("hba");
    field.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;

    let url = field.server.url("erp").replace("tidelock@", "r@");
    let mut good = config(&url);
    good.password = Some(Secret::new("p/w"));
    let spec = field.spec(&["t"]).await;
    let connector_good = connector(good.clone()).expect("connector");
    let start = connector_good.create_stream(&spec, false).await.expect("stream");
    let mut source = connector_good.open_source(&spec, &start).await.expect("source");
    field.sql("INSERT INTO t VALUES (1)").await;
    commits(&mut source, 1).await;

    good.password = Some(Secret::new("geheim"));
    let error = connector(good).expect("connector").identify().await.expect_err("wrong");
    assert_eq!(error.code(), Code::Authentication, "{error}");
    assert!(!format!("{error:?}").contains("geheim"));
    let error = connector(config(&url)).expect("connector").identify().await.expect_err("none");
    assert_eq!(error.code(), Code::Authentication, "{error}");

    let socket = connector(config(&field.server.socket_url("erp"))).expect("connector");
    assert_eq!(socket.identify().await.expect("socket").database, "erp");
}

#[tokio::test]
async fn certificates_are_checked_as_far_as_asked_and_plain_text_is_no_way_out() {
    let Some(made) = certificates() else {
        panic!("openssl is needed to make certificates");
    };
    let plain = Field::new("SELECT 1").await;
    let mut wanted = config(&plain.server.url("erp"));
    wanted.tls.mode = TlsMode::Require;
    let error = connector(wanted).expect("connector").identify().await.expect_err("no TLS");
    assert_eq!(error.code(), Code::Tls, "{error}");

    let field = Field::with(PostgresOptions::new(), "CREATE TABLE t (id int PRIMARY KEY)").await;
    let path = |name: &str| -> PathBuf {
        let bytes = std::fs::read(made.path().join(name)).expect("file");
        field.server.write_file(name, &bytes).expect("file")
    };
    let (key, cert) = (path("server.key"), path("server.pem"));
    field.sql(&format!("ALTER SYSTEM SET ssl_key_file = '{}'", key.display())).await;
    field.sql(&format!("ALTER SYSTEM SET ssl_cert_file = '{}'", cert.display())).await;
    field.sql("ALTER SYSTEM SET ssl = on").await;
    field.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;

    let ca = Some(made.path().join("ca.pem"));
    let by_name = field.server.url("erp").replace("127.0.0.1", "localhost");
    let by_address = field.server.url("erp");
    for (url, mode, ca_file, good) in [
        (&by_name, TlsMode::VerifyFull, &ca, true),
        (&by_address, TlsMode::VerifyFull, &ca, false),
        (&by_address, TlsMode::VerifyCa, &ca, true),
        (&by_address, TlsMode::VerifyCa, &None, false),
        (&by_address, TlsMode::Require, &None, true),
    ] {
        let mut config = config(url);
        config.tls.mode = mode;
        config.tls.ca_file = ca_file.clone();
        let answer = match connector(config) {
            Ok(connector) => connector.identify().await.map(|_| ()),
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) => assert!(good, "{mode:?}"),
            Err(error) => assert!(!good && error.code() == Code::Tls, "{mode:?}: {error}"),
        }
    }

    let mut config = config(&by_name);
    config.tls.mode = TlsMode::VerifyFull;
    config.tls.ca_file = ca;
    let encrypted = connector(config).expect("connector");
    let spec = field.spec(&["t"]).await;
    let start = encrypted.create_stream(&spec, false).await.expect("stream");
    let mut source = encrypted.open_source(&spec, &start).await.expect("source");
    field.sql("INSERT INTO t SELECT generate_series(1, 5000)").await;
    assert_eq!(commits(&mut source, 1).await.0.len(), 5002);
    let sql = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid)";
    assert_eq!(field.one(sql).await, "t");
}
