//! From a system's settings to the driver's options.
//!
//! The driver would otherwise ask any host for its socket and reconnect there (`prefer_socket`), and
//! it answers a server's LOCAL INFILE request only if a handler is set: none ever is, so such a
//! request is a protocol error.

use std::time::Duration;

use mysql_async::{Opts, OptsBuilder};
use percent_encoding::percent_decode_str;
use tidelock_core::{Code, Error, ErrorKind, Result, SystemConfig};

use crate::tls;

/// What is known of a system before connecting.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub opts: Opts,
    /// Host, port and database, without secrets.
    pub shown: String,
    pub database: String,
    pub meta: String,
    pub user: String,
    /// Whether the certificate's name is not to be checked, only its signature.
    pub any_name: bool,
}

/// Reads the URL and the settings beside it.
pub(crate) fn endpoint(config: &SystemConfig) -> Result<Endpoint> {
    let bad = |what: &str| {
        Error::new(
            ErrorKind::Config,
            Code::Config,
            format!("url of system {}: {what}", config.name),
        )
        .with_hint(
            "write mariadb://user@host:3306/database or mysql:///database?socket=/path&user=name",
        )
    };
    let url = url::Url::parse(config.url.expose()).map_err(|_| bad("not a URL"))?;
    if !matches!(url.scheme(), "mysql" | "mariadb") {
        return Err(bad("the scheme is neither mysql nor mariadb"));
    }
    let decode = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .map(|t| t.into_owned())
            .map_err(|_| bad("percent-encoding that is not UTF-8"))
    };
    let database = decode(url.path().trim_start_matches('/'))?;
    if database.is_empty() || database.contains('/') {
        return Err(bad("it names no database"));
    }
    let mut socket = None;
    let mut user = decode(url.username())?;
    for (key, value) in url.query_pairs() {
        match &*key {
            "socket" => socket = Some(value.into_owned()),
            // A URL without a host has no room for a user in front of it.
            "user" if user.is_empty() => user = value.into_owned(),
            "user" => return Err(bad("it names the user twice")),
            other => return Err(bad(&format!("unknown parameter '{other}'"))),
        }
    }
    let host = url.host_str().filter(|h| !h.is_empty()).map(decode).transpose()?;
    let password = match (&config.password, url.password()) {
        (Some(secret), _) => Some(secret.expose().to_owned()),
        (None, Some(text)) => Some(decode(text)?),
        (None, None) => None,
    };
    let mut builder = OptsBuilder::default()
        .prefer_socket(false)
        .client_found_rows(true)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(20)))
        .stmt_cache_size(512usize)
        .user((!user.is_empty()).then(|| user.clone()))
        .pass(password)
        .setup(vec!["SET NAMES utf8mb4"])
        .connect_attribute("program_name", "tidelock");
    let shown = match (&socket, &host) {
        (Some(path), None) => {
            builder = builder.socket(Some(path.clone()));
            format!("{path}/{database}")
        }
        (None, Some(host)) => {
            let port = url.port().unwrap_or(3306);
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            builder = builder.ip_or_hostname(bare).tcp_port(port);
            format!("{host}:{port}/{database}")
        }
        (Some(_), Some(_)) => return Err(bad("it names both a host and a socket")),
        (None, None) => return Err(bad("it names neither host nor socket")),
    };
    if socket.is_none() {
        builder = builder.ssl_opts(tls::options(config)?);
    }
    let meta = config.meta_schema.clone();
    let any_name = config.tls.mode == tidelock_core::TlsMode::VerifyCa;
    Ok(Endpoint { opts: builder.into(), shown, database, meta, user, any_name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::{Secret, Tls, TlsMode};

    fn parse(url: &str) -> Result<Endpoint> {
        endpoint(&SystemConfig {
            name: "crm".into(),
            url: Secret::new(url),
            password: None,
            tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
            meta_schema: "tidelock".into(),
        })
    }

    #[test]
    fn a_socket_url_names_its_user_as_a_parameter() {
        let e = parse("mysql:///crm?socket=/run/s&user=tl%40x").unwrap();
        assert_eq!((e.opts.user(), e.opts.socket()), (Some("tl@x"), Some("/run/s")));
        assert!(parse("mysql://me@/crm?socket=/run/s&user=you").is_err());
        assert!(parse("mysql://me@db/crm?user=you").is_err());
    }

    #[test]
    fn urls_are_read_with_percent_encoding_and_sockets() {
        let e = parse("mariadb://tl%40x:p%2Fw@db:3307/my%20crm").unwrap();
        assert_eq!((e.opts.user(), e.opts.pass()), (Some("tl@x"), Some("p/w")));
        assert_eq!((e.shown.as_str(), e.database.as_str()), ("db:3307/my crm", "my crm"));
        assert!(!e.opts.prefer_socket());
        assert!(e.opts.client_found_rows());
        let e = parse("mysql:///crm?socket=/run/my.sock").unwrap();
        assert_eq!(e.opts.socket(), Some("/run/my.sock"));
        for bad in
            ["mysql://h", "mysql:///crm", "pg://h/d", "mysql://h/d?x=1", "mysql://h/d?socket=/x"]
        {
            assert_eq!(parse(bad).err().map(|e| e.kind()), Some(ErrorKind::Config), "{bad}");
        }
    }
}
