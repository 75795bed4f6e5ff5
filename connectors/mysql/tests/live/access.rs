//! Who may connect, and how.

use super::*;

fn openssl(folder: &std::path::Path, args: &str) {
    let done = std::process::Command::new("openssl")
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl is needed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Keys and certificates in the server's folder, and in its option file for the next start: its own (`s`) and one for
/// clients (`c`), both by the authority `ca`; and an authority that signed neither (`stranger`).
fn certify(server: &Mysql) -> std::path::PathBuf {
    let folder = server.data_dir();
    std::fs::write(folder.join("san.cnf"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let subject = "-nodes -days 9 -newkey rsa:2048";
    for ca in ["ca", "stranger"] {
        openssl(
            &folder,
            &format!("req -x509 {subject} -keyout {ca}.k -out {ca}.crt -subj /CN={ca}"),
        );
    }
    for (name, common) in [("s", "db"), ("c", "client")] {
        openssl(
            &folder,
            &format!(
                "req -nodes -newkey rsa:2048 -keyout {name}.k -out {name}.csr -subj /CN={common}"
            ),
        );
        openssl(
            &folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.k -CAcreateserial -days 9 \
                 -out {name}.crt -extfile san.cnf"
            )
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
        );
    }
    for name in ["s.crt", "s.k", "ca.crt"] {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let path = server.write_file(&format!("tls-{name}"), &bytes).unwrap();
        let option = match name {
            "s.crt" => "ssl-cert",
            "s.k" => "ssl-key",
            _ => "ssl-ca",
        };
        server.set_option(option, path.to_str().unwrap()).unwrap();
    }
    folder
}

fn connector_of(url: String, password: Option<&str>, tls: Tls) -> Box<dyn Connector> {
    tidelock_mysql::connector(SystemConfig {
        name: "crm".into(),
        url: Secret::new(url),
        password: password.map(Secret::new),
        tls,
        meta_schema: "tidelock".into(),
        user: String::new(),
    })
    .unwrap()
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let server = server().await;
    let folder = certify(&server);
    server.restart().await.unwrap();
    server.sql("", "CREATE USER sealed REQUIRE X509; GRANT ALL ON *.* TO sealed").await.unwrap();
    let url = server.url("crm").replace("tidelock@", "sealed@");
    let tls = |cert: Option<&str>, mode| Tls {
        mode,
        ca_file: (mode != TlsMode::Disable).then(|| folder.join("ca.crt")),
        cert_file: cert.map(|c| folder.join(format!("{c}.crt"))),
        key_file: cert.map(|c| folder.join(format!("{c}.k"))),
    };
    let shown = connector_of(url.clone(), None, tls(Some("c"), TlsMode::VerifyFull));
    shown.identify().await.unwrap();
    for without in [tls(None, TlsMode::VerifyFull), tls(None, TlsMode::Disable)] {
        let error = connector_of(url.clone(), None, without).identify().await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Setup, Code::Authentication),
            "{error}"
        );
    }
    // By an authority that the server does not know.
    let stranger = connector_of(url, None, tls(Some("stranger"), TlsMode::VerifyFull));
    stranger.identify().await.unwrap_err();
}

#[tokio::test]
async fn ed25519_and_unknown_plugins_of_mariadb_are_answered() {
    let server = server().await;
    if connector(&server).identify().await.unwrap().version.starts_with("MySQL") {
        return;
    }
    server
        .sql(
            "",
            "INSTALL SONAME 'auth_ed25519'; \
             CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('Geheim-7'); GRANT ALL ON *.* TO ed",
        )
        .await
        .unwrap();
    let plain = || Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None };
    let url = |user: &str| server.url("crm").replace("tidelock@", &format!("{user}@"));
    connector_of(url("ed"), Some("Geheim-7"), plain()).identify().await.unwrap();
    let error = connector_of(url("ed"), Some("geheim-7"), plain()).identify().await.unwrap_err();
    assert_eq!(error.code(), Code::Authentication, "{error}");
    // From MariaDB 11.6 on.
    let parsec = "INSTALL SONAME 'auth_parsec'; CREATE USER pa IDENTIFIED VIA parsec USING PASSWORD('Geheim-7')";
    if server.sql("", parsec).await.is_ok() {
        let error =
            connector_of(url("pa"), Some("Geheim-7"), plain()).identify().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Setup, Code::Authentication));
    }
}

#[tokio::test]
async fn tls_is_verified_and_never_given_up() {
    let server = server().await;
    let folder = certify(&server);
    let dial = |host: &str, mode, ca: &str| {
        tidelock_mysql::connector(SystemConfig {
            name: "crm".into(),
            url: Secret::new(server.url("crm").replace("127.0.0.1", host)),
            password: None,
            tls: Tls { mode, ca_file: Some(folder.join(ca)), cert_file: None, key_file: None },
            meta_schema: "tidelock".into(),
            user: String::new(),
        })
        .unwrap()
    };
    dial("127.0.0.1", TlsMode::Disable, "ca.crt").identify().await.unwrap();
    // MySQL, and MariaDB from 11.4, make a certificate by themselves.
    if server.one("crm", "SELECT @@have_ssl").await.is_ok_and(|has| has != "YES") {
        let error = dial("127.0.0.1", TlsMode::Require, "ca.crt").identify().await.unwrap_err();
        assert_eq!(error.code(), Code::Tls, "{error}");
    }
    server.restart().await.unwrap();
    for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
        dial("127.0.0.1", mode, "ca.crt").identify().await.unwrap();
    }
    for mode in [TlsMode::VerifyCa, TlsMode::VerifyFull] {
        let error = dial("127.0.0.1", mode, "stranger.crt").identify().await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Setup, Code::Tls), "{error}");
    }
    // The certificate is not made out to this name.
    dial("localhost", TlsMode::VerifyCa, "ca.crt").identify().await.unwrap();
    let error = dial("localhost", TlsMode::VerifyFull, "ca.crt").identify().await.unwrap_err();
    assert_eq!(error.code(), Code::Tls, "{error}");
}

#[tokio::test]
async fn preflight_names_what_is_wrong_with_the_statement_that_mends_it() {
    let server = server().await;
    let c = connector(&server);
    server.sql("crm", "CREATE TABLE t (id int PRIMARY KEY, v int); SET GLOBAL binlog_row_image = MINIMAL; SET GLOBAL binlog_format = MIXED").await.unwrap();
    let found = c.preflight_source(&source_spec(&["t"])).await.unwrap();
    let all: Vec<&str> = found.iter().flat_map(|f| f.sql.iter().map(String::as_str)).collect();
    assert!(all.contains(&"SET GLOBAL binlog_format = 'ROW';"), "{found:#?}");
    assert!(all.contains(&"SET GLOBAL binlog_row_image = 'FULL';"), "{found:#?}");
    let found = c.preflight_target(&sink_spec()).await.unwrap();
    assert!(found.iter().all(|f| f.severity == tidelock_core::Severity::Warning), "{found:#?}");
}
