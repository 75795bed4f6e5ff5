//! How a server is reached: passwords and TLS.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tidelock_core::{Code, Connector, ErrorKind, LogEvent, Secret, TlsMode};
use tidelock_postgres::connector;
use tidelock_scratch::PostgresOptions;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

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
    let key = |name: &str, kind: &str, subject: &str| {
        run(&format!(
            "req {kind} -newkey rsa:2048 -nodes -keyout {name}.key -subj /CN={subject} -sha256"
        ))
    };
    let signed = |name: &str, hash: &str| {
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
             -out {name}.pem {hash}"
        ))
    };
    let made = key("ca", "-x509 -days 2 -out ca.pem", "ca")
        && key("stranger", "-x509 -days 2 -out stranger.pem", "tidelock")
        && key("server", "-out server.csr", "localhost")
        && signed("server", "-sha256")
        && key("second", "-out second.csr", "localhost")
        && signed("second", "-sha384")
        && key("client", "-out client.csr", "tidelock")
        && signed("client", "-sha256");
    made.then_some(folder)
}

/// Turns TLS on with a certificate of that folder.
async fn encrypt(field: &Field, made: &Path, name: &str) {
    let path = |name: &str| {
        let bytes = std::fs::read(made.join(name)).expect("file");
        field.server.write_file(name, &bytes).expect("file").display().to_string()
    };
    for (setting, value) in [
        ("ssl_key_file", path(&format!("{name}.key"))),
        ("ssl_cert_file", path(&format!("{name}.pem"))),
        ("ssl_ca_file", path("ca.pem")),
        ("ssl", "on".to_owned()),
    ] {
        field.sql(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await;
    }
}

/// Puts rules in front of those that there are, and lets the server read all anew.
async fn rules(field: &Field, first: &str) {
    let hba = field.server.data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("hba");
    std::fs::write(&hba, format!("{first}\n{rules}")).expect("hba");
    field.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Reads one row through a replication connection of this connector.
async fn reads(field: &Field, connector: &dyn Connector, row: u32) {
    let spec = field.spec(&["t"]).await;
    let start = connector.create_stream(&spec, true).await.expect("stream");
    let mut source = connector.open_source(&spec, &start).await.expect("source");
    field.sql(&format!("INSERT INTO t VALUES ({row})")).await;
    assert_eq!(commits(&mut source, 1).await.0.len(), 3);
}

#[tokio::test]
async fn passwords_are_proved_by_scram_on_both_kinds_of_connection() {
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    field
        .sql("SET password_encryption = 'scram-sha-256'; CREATE ROLE r SUPERUSER LOGIN PASSWORD 'p/w'")
        .await;
    rules(&field, "host all r all scram-sha-256\nlocal all r scram-sha-256").await;

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
    encrypt(&field, made.path(), "server").await;
    rules(&field, "").await;

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
    let events = commits(&mut source, 1).await.0;
    // The log may have been idle for a moment before.
    let told = events.iter().filter(|e| !matches!(e, LogEvent::Idle(_))).count();
    assert_eq!(told, 5002);
    let sql = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_replication r USING (pid)";
    assert_eq!(field.one(sql).await, "t");
}

#[tokio::test]
async fn a_client_certificate_is_shown_on_both_kinds_of_connection() {
    let made = certificates().expect("openssl is needed to make certificates");
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    encrypt(&field, made.path(), "server").await;
    rules(&field, "hostssl all tidelock 127.0.0.1/32 cert clientcert=verify-full").await;
    let with = |certificate: Option<&str>| {
        let mut config = config(&field.server.url("erp").replace("127.0.0.1", "localhost"));
        config.tls.mode = TlsMode::VerifyFull;
        config.tls.ca_file = Some(made.path().join("ca.pem"));
        config.tls.cert_file = certificate.map(|name| made.path().join(format!("{name}.pem")));
        config.tls.key_file = certificate.map(|name| made.path().join(format!("{name}.key")));
        connector(config).expect("connector")
    };
    let known = with(Some("client"));
    reads(&field, &*known, 1).await;
    let shown = "SELECT string_agg(DISTINCT client_dn || ' ' || backend_type, ', ') \
                 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl";
    known.identify().await.expect("identity");
    let spec = field.spec(&["t"]).await;
    let start = known.create_stream(&spec, true).await.expect("stream");
    let source = known.open_source(&spec, &start).await.expect("source");
    assert_eq!(field.one(shown).await, "/CN=tidelock client backend, /CN=tidelock walsender");
    drop(source);

    for (certificate, code, hint) in
        [(None, Code::Authentication, "cert_file"), (Some("stranger"), Code::Tls, "ssl_ca_file")]
    {
        let error = with(certificate).identify().await.expect_err("refused");
        assert_eq!((error.code(), error.kind()), (code, ErrorKind::Transient), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains(hint)), "{error} {:?}", error.hint());
    }
}

/// Somebody in the middle who ends TLS with a certificate of their own: passes this many connections
/// through untouched, then reads along.
async fn middle(made: &Path, upstream: u16, untouched: usize) -> u16 {
    let certificate = CertificateDer::from_pem_file(made.join("second.pem")).expect("pem");
    let key = PrivateKeyDer::from_pem_file(made.join("second.key")).expect("key");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(made.join("ca.pem")).expect("pem")).expect("ca");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("server");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (acceptor, dialler) = (
        tokio_rustls::TlsAcceptor::from(Arc::new(server)),
        tokio_rustls::TlsConnector::from(Arc::new(client)),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        let mut met = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            met += 1;
            let (acceptor, dialler) = (acceptor.clone(), dialler.clone());
            let listens = met > untouched;
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", upstream)).await?;
                if !listens {
                    return copy_bidirectional(&mut near, &mut far).await;
                }
                let mut request = [0; 8];
                near.read_exact(&mut request).await?;
                near.write_all(b"S").await?;
                far.write_all(&request).await?;
                far.read_u8().await?;
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                let mut far = dialler.connect(name, far).await?;
                let mut near = acceptor.accept(near).await?;
                copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    port
}

#[tokio::test]
async fn a_login_is_bound_to_the_certificate_so_nobody_can_read_along() {
    let made = certificates().expect("openssl is needed to make certificates");
    let field = Field::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    field
        .sql(
            "SET password_encryption = 'scram-sha-256'; CREATE ROLE r SUPERUSER LOGIN PASSWORD 'p'",
        )
        .await;
    rules(&field, "host all r all scram-sha-256").await;
    // Any certificate is taken, so nothing but the login itself can tell.
    let at = |port: u16| {
        let url = format!("postgres://r@127.0.0.1:{port}/erp");
        let mut config = config(&url);
        config.tls.mode = TlsMode::Require;
        config.password = Some(Secret::new("p"));
        connector(config).expect("connector")
    };
    for (row, certificate) in [(1, "server"), (2, "second")] {
        encrypt(&field, made.path(), certificate).await;
        rules(&field, "").await;
        reads(&field, &*at(field.server.port()), row).await;
    }
    encrypt(&field, made.path(), "server").await;
    rules(&field, "").await;
    let refused = |error: tidelock_core::Error| {
        assert_eq!(error.code(), Code::Authentication, "{error}");
        assert!(error.to_string().contains("channel binding"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("another certificate")), "{error}");
    };
    let port = middle(made.path(), field.server.port(), 0).await;
    refused(at(port).identify().await.expect_err("an ordinary session"));
    // The first connection is the ordinary one, the second replicates.
    let port = middle(made.path(), field.server.port(), 1).await;
    let spec = field.spec(&["t"]).await;
    refused(at(port).create_stream(&spec, true).await.expect_err("a replication connection"));
    let port = middle(made.path(), field.server.port(), 9).await;
    reads(&field, &*at(port), 3).await;
}
