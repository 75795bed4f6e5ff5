//! The address of a server, read from its URL.
//!
//! Only what names the server, the database and the role may stand in the URL; everything else
//! (TLS, timeouts, session settings) is decided elsewhere and refused here, so that no setting can
//! hide in an address.

use percent_encoding::percent_decode_str;
use tidelock_core::{
    Code, Error, ErrorKind, Result, Secret, SystemConfig, Tls, TlsMode, is_loopback,
};
use url::Url;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name or address, reached over TCP.
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(String),
}

impl Host {
    /// The server that a URL names, be it in front of the path or as a parameter: the one place that decides.
    fn of(url: &Url) -> std::result::Result<Host, &'static str> {
        let in_front = percent_decode_str(url.host_str().unwrap_or_default());
        let parameter = url.query_pairs().filter(|(key, _)| key == "host").last();
        let named = match parameter {
            Some((_, host)) => host.into_owned(),
            None => in_front
                .decode_utf8()
                .map_err(|_| "holds an escape that is not UTF-8")?
                .into_owned(),
        };
        if named.starts_with('/') {
            return Ok(Host::Unix(named));
        }
        if named.contains(',') {
            return Err("names several hosts, and a log is that of one server");
        }
        match named.trim_start_matches('[').trim_end_matches(']') {
            "" => Err("names no host"),
            bare => Ok(Host::Tcp(bare.to_owned())),
        }
    }

    /// Whether it is this machine.
    fn is_local(&self) -> bool {
        match self {
            Host::Unix(_) => true,
            Host::Tcp(host) => is_loopback(host),
        }
    }
}

/// Whether a URL leads to this machine.
pub(crate) fn is_local(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| Host::of(&url).is_ok_and(|host| host.is_local()))
}

/// How to reach one database.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) system: String,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Tls,
    pub(crate) meta_schema: String,
}

impl Address {
    /// Reads the address out of a system's configuration.
    pub(crate) fn new(config: &SystemConfig) -> Result<Address> {
        let refuse = |what: &str| {
            Error::new(
                ErrorKind::Config,
                Code::Config,
                format!("the url of system {}: {what}", config.name),
            )
            .with_hint(
                "postgres://user@host:5432/database, or postgres:///database?host=/run/postgresql",
            )
        };
        let url = Url::parse(config.url.expose()).map_err(|_| refuse("is not a url"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(refuse("has another scheme than postgres"));
        }
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(|t| t.into_owned())
                .map_err(|_| refuse("holds an escape that is not UTF-8"))
        };
        let host = Host::of(&url).map_err(refuse)?;
        let mut port = url.port();
        let mut user = decode(url.username())?;
        let mut database = decode(url.path().trim_start_matches('/'))?;
        let mut password = match url.password() {
            Some(text) => Some(Secret::new(decode(text)?)),
            None => None,
        };
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "host" => {}
                "port" => port = Some(value.parse().map_err(|_| refuse("has an odd port"))?),
                "user" => user = value.into_owned(),
                "dbname" => database = value.into_owned(),
                "password" => password = Some(Secret::new(value)),
                "sslmode" | "sslrootcert" | "sslcert" | "sslkey" => {
                    return Err(refuse("sets TLS; write tls = { mode = \"…\" } instead"));
                }
                // It is not repeated: with a slip in it, it may be the password.
                _ => {
                    return Err(refuse(
                        "has another parameter than host, port, user, dbname and password",
                    ));
                }
            }
        }
        if user.is_empty() {
            user.clone_from(&config.user);
        }
        if user.is_empty() {
            return Err(refuse("names no user"));
        }
        if database.is_empty() {
            return Err(refuse("names no database"));
        }
        if matches!(host, Host::Unix(_)) && config.tls.mode != TlsMode::Disable {
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
        Ok(Address {
            system: config.name.clone(),
            host,
            port: port.unwrap_or(5432),
            user,
            database,
            password: config.password.clone().or(password),
            tls: config.tls.clone(),
            meta_schema: config.meta_schema.clone(),
        })
    }

    /// Host, port and database, for people.
    pub(crate) fn endpoint(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => {
                format!("[{host}]:{}/{}", self.port, self.database)
            }
            Host::Tcp(host) => format!("{host}:{}/{}", self.port, self.database),
            Host::Unix(folder) => format!("{folder}:{}/{}", self.port, self.database),
        }
    }

    /// Whether what we send cannot be heard by others: TLS, a Unix socket or a loopback address.
    pub(crate) fn is_private(&self) -> bool {
        self.tls.mode != TlsMode::Disable || self.host.is_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address> {
        Address::new(&SystemConfig {
            name: "erp".into(),
            url: Secret::new(url),
            password: None,
            tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
            meta_schema: "tidelock".into(),
            user: "runner".into(),
        })
    }

    #[test]
    fn hosts_ports_and_escapes_are_read() {
        let a = address("postgres://t%40x:p%2Fw@db.example:6432/my%20db").expect("address");
        assert_eq!(a.host, Host::Tcp("db.example".into()));
        assert_eq!((a.port, a.user.as_str(), a.database.as_str()), (6432, "t@x", "my db"));
        assert_eq!(a.password.as_ref().map(Secret::expose), Some("p/w"));
        assert_eq!(a.endpoint(), "db.example:6432/my db");
        assert!(!a.is_private());
    }

    #[test]
    fn sockets_and_addresses_of_version_six_are_read() {
        let a = address("postgres:///erp?host=/run/postgresql&port=5433&user=me").expect("address");
        assert_eq!(a.host, Host::Unix("/run/postgresql".into()));
        assert_eq!((a.port, a.user.as_str()), (5433, "me"));
        let a = address("postgres://me@[::1]/erp").expect("address");
        assert_eq!(a.host, Host::Tcp("::1".into()));
        assert!(a.is_private());
        let a = address("postgresql://me@%2Frun%2Fpostgresql/erp").expect("address");
        assert_eq!(a.host, Host::Unix("/run/postgresql".into()));
    }

    #[test]
    fn one_place_decides_which_host_a_url_leads_to() {
        for (url, local) in [
            ("postgres:///erp?host=erp-db.example", false),
            ("postgres://u@localhost/erp?host=erp-db.example", false),
            ("postgres:///erp?host=127.0.0.1&host=erp-db.example", false),
            ("postgres://u@erp-db.example/erp?host=127.0.0.1", true),
            ("postgres:///erp?host=/run/postgresql", true),
            ("postgresql://me@%2Frun%2Fpostgresql/erp", true),
            ("postgres://u@LocalHost/erp", true),
            ("postgres://u@[::1]/erp", true),
            ("postgres://u@localhost.example/erp", false),
            ("postgres://u@127.0.0.1,erp-db.example/erp", false),
            ("postgres:///erp", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_local(url), local, "{url}");
            if let Ok(address) = address(url) {
                assert_eq!(address.is_private(), local, "{url}");
            }
        }
        for refused in [
            "postgres://u@a,b/erp",
            "postgres://u@localhost/erp?host=a,b",
            "postgres://u@localhost/erp?hostaddr=192.0.2.1",
        ] {
            assert!(address(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn who_is_not_named_is_the_user_of_the_process() {
        let a = address("postgres:///erp?host=/run/postgresql").expect("address");
        assert_eq!(a.user, "runner");
    }

    #[test]
    fn a_refusal_never_shows_the_password() {
        for url in [
            "mysql://u:geheim@h/d",
            "postgres://u:geheim@h/",
            "postgres://u:geheim@h/d?sslmode=disable",
            "postgres://u:geheim@h/d?x=1",
            "u:geheim@h",
        ] {
            let text = format!("{:?}", address(url).map(|_| ()).expect_err(url));
            assert!(!text.contains("geheim"), "{text}");
        }
    }
}
