//! From a system's settings to the driver's options.
//!
//! The driver would otherwise ask any host for its socket and reconnect there (`prefer_socket`), and
//! it answers a server's LOCAL INFILE request only if a handler is set: none ever is, so such a
//! request is a protocol error.

use std::time::Duration;

use mysql_async::{Opts, OptsBuilder};
use percent_encoding::percent_decode_str;
use tidelock_core::{Code, Error, ErrorKind, Result, SystemConfig, TlsMode, is_loopback};
use url::Url;

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

/// Where a server listens.
enum Place {
    Socket(String),
    Host(String),
}

impl Place {
    /// The server that a URL names: the one place that decides.
    fn of(url: &Url) -> std::result::Result<Place, &'static str> {
        let socket = url.query_pairs().filter(|(key, _)| key == "socket").last();
        let host = percent_decode_str(url.host_str().unwrap_or_default()).decode_utf8();
        let host = host.map_err(|_| "percent-encoding that is not UTF-8")?;
        match (socket, host.trim_start_matches('[').trim_end_matches(']')) {
            (Some((_, path)), "") => Ok(Place::Socket(path.into_owned())),
            (None, "") => Err("it names neither host nor socket"),
            (None, bare) => Ok(Place::Host(bare.to_owned())),
            (Some(_), _) => Err("it names both a host and a socket"),
        }
    }
}

/// Whether a URL leads to this machine.
pub(crate) fn is_local(url: &str) -> bool {
    let place = Url::parse(url).map_err(|_| "").and_then(|url| Place::of(&url));
    match place {
        Ok(Place::Socket(_)) => true,
        Ok(Place::Host(host)) => is_loopback(&host),
        Err(_) => false,
    }
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
    let url = Url::parse(config.url.expose()).map_err(|_| bad("not a URL"))?;
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
    let place = Place::of(&url).map_err(bad)?;
    let mut given = url.password().map(decode).transpose()?;
    let mut user = decode(url.username())?;
    for (key, value) in url.query_pairs() {
        match &*key {
            "socket" => {}
            "password" => given = Some(value.into_owned()),
            // A URL without a host has no room for a user in front of it.
            "user" if user.is_empty() => user = value.into_owned(),
            "user" => return Err(bad("it names the user twice")),
            // It is not repeated: with a slip in it, it may be the password.
            _ => return Err(bad("it has another parameter than socket, user and password")),
        }
    }
    if user.is_empty() {
        user.clone_from(&config.user);
    }
    if user.is_empty() {
        return Err(bad("it names no user"));
    }
    let password = config.password.as_ref().map(|secret| secret.expose().to_owned()).or(given);
    let mut builder = OptsBuilder::default()
        .prefer_socket(false)
        .client_found_rows(true)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(20)))
        .stmt_cache_size(512usize)
        .user(Some(user.clone()))
        .pass(password)
        .setup(vec!["SET NAMES utf8mb4"])
        .connect_attribute("program_name", "tidelock");
    let shown = match place {
        Place::Socket(_) if config.tls.mode != TlsMode::Disable => {
            return Err(Error::new(
                ErrorKind::Config,
                Code::Tls,
                format!(
                    "system {} is reached by a Unix socket, where there is no TLS",
                    config.name
                ),
            )
            .with_hint("leave `tls` out, or name a host in the url"));
        }
        Place::Socket(path) => {
            let shown = format!("{path}/{database}");
            builder = builder.socket(Some(path));
            shown
        }
        Place::Host(host) => {
            let port = url.port().unwrap_or(3306);
            builder = builder.ssl_opts(tls::options(config)?);
            builder = builder.ip_or_hostname(&host).tcp_port(port);
            match host.contains(':') {
                true => format!("[{host}]:{port}/{database}"),
                false => format!("{host}:{port}/{database}"),
            }
        }
    };
    let meta = config.meta_schema.clone();
    let any_name = config.tls.mode == TlsMode::VerifyCa;
    Ok(Endpoint { opts: builder.into(), shown, database, meta, user, any_name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidelock_core::{Secret, Tls};

    fn parse(url: &str) -> Result<Endpoint> {
        with(url, TlsMode::Disable)
    }

    fn with(url: &str, mode: TlsMode) -> Result<Endpoint> {
        endpoint(&SystemConfig {
            name: "crm".into(),
            url: Secret::new(url),
            password: None,
            tls: Tls { mode, ca_file: None, cert_file: None, key_file: None },
            meta_schema: "tidelock".into(),
            user: "runner".into(),
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
    fn one_place_decides_which_host_a_url_leads_to() {
        for (url, local) in [
            ("mysql:///crm?socket=/run/s", true),
            ("mariadb://u@127.0.0.1/crm", true),
            ("mariadb://u@[::1]/crm", true),
            ("mysql://u@Localhost/crm", true),
            ("mysql://u@crm-db.example/crm", false),
            ("mysql://u@crm-db.example/crm?socket=/run/s", false),
            ("mysql:///crm", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_local(url), local, "{url}");
        }
    }

    #[test]
    fn there_is_no_tls_on_a_socket_and_it_is_not_passed_over() {
        let refused = with("mysql:///crm?socket=/run/s", TlsMode::VerifyFull).err();
        assert_eq!(refused.map(|e| e.code()), Some(Code::Tls));
    }

    #[test]
    fn urls_are_read_with_percent_encoding_and_sockets() {
        let e = parse("mariadb://tl%40x:p%2Fw@db:3307/my%20crm").unwrap();
        assert_eq!((e.opts.user(), e.opts.pass()), (Some("tl@x"), Some("p/w")));
        assert_eq!((e.shown.as_str(), e.database.as_str()), ("db:3307/my crm", "my crm"));
        assert!(!e.opts.prefer_socket());
        assert!(e.opts.client_found_rows());
        let e = parse("mysql:///crm?socket=/run/my.sock").unwrap();
        assert_eq!((e.opts.user(), e.opts.socket()), (Some("runner"), Some("/run/my.sock")));
        let e = parse("mysql:///crm?socket=/run/my.sock&user=me&password=p%2Fw").unwrap();
        assert_eq!((e.opts.user(), e.opts.pass()), (Some("me"), Some("p/w")));
        for bad in
            ["mysql://h", "mysql:///crm", "pg://h/d", "mysql://h/d?x=1", "mysql://h/d?socket=/x"]
        {
            assert_eq!(parse(bad).err().map(|e| e.kind()), Some(ErrorKind::Config), "{bad}");
        }
    }
}
