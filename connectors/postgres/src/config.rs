//! The address of a server, read from its URL.
//!
//! Only what names the server, the database and the role may stand in the URL; everything else
//! (TLS, timeouts, session settings) is decided elsewhere and refused here, so that no setting can
//! hide in an address.

use percent_encoding::percent_decode_str;
use tidelock_core::{Code, Error, ErrorKind, Result, Secret, SystemConfig, Tls, TlsMode};
use url::Url;

use crate::quote::IDENTIFIER_MAX;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name or address, reached over TCP.
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(String),
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
        let mut host = decode(url.host_str().unwrap_or(""))?;
        let mut port = url.port();
        let mut user = decode(url.username())?;
        let mut database = decode(url.path().trim_start_matches('/'))?;
        let mut password = match url.password() {
            Some(text) => Some(Secret::new(decode(text)?)),
            None => None,
        };
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "host" => host = value.into_owned(),
                "port" => port = Some(value.parse().map_err(|_| refuse("has an odd port"))?),
                "user" => user = value.into_owned(),
                "dbname" => database = value.into_owned(),
                "password" => password = Some(Secret::new(value)),
                "sslmode" | "sslrootcert" | "sslcert" | "sslkey" => {
                    return Err(refuse("sets TLS; write tls = { mode = \"…\" } instead"));
                }
                other => return Err(refuse(&format!("has an unknown parameter {other}"))),
            }
        }
        if user.is_empty() {
            user = std::env::var("USER").unwrap_or_default();
        }
        if user.is_empty() {
            return Err(refuse("names no user"));
        }
        if database.is_empty() {
            return Err(refuse("names no database"));
        }
        let host = if host.starts_with('/') {
            Host::Unix(host)
        } else if host.is_empty() {
            return Err(refuse("names no host"));
        } else {
            Host::Tcp(host.trim_start_matches('[').trim_end_matches(']').to_owned())
        };
        if matches!(host, Host::Unix(_)) && config.tls.mode != TlsMode::Disable {
            return Err(refuse("is a Unix socket, where there is no TLS; set tls mode disable"));
        }
        if let Some(excess) = IDENTIFIER_MAX.excess(&config.meta_schema) {
            return Err(Error::new(
                ErrorKind::Config,
                Code::Config,
                format!("meta_schema of system {} is {excess}", config.name),
            )
            .with_hint("choose a shorter one: the server would cut it and never find it again"));
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
        self.tls.mode != TlsMode::Disable
            || match &self.host {
                Host::Unix(_) => true,
                Host::Tcp(host) => {
                    host == "localhost"
                        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
                }
            }
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
        let a = address("postgres://me@/erp?host=/run/postgresql&port=5433");
        let a = a.or_else(|_| address("postgres:///erp?host=/run/postgresql&port=5433&user=me"));
        let a = a.expect("address");
        assert_eq!(a.host, Host::Unix("/run/postgresql".into()));
        assert_eq!((a.port, a.user.as_str()), (5433, "me"));
        let a = address("postgres://me@[::1]/erp").expect("address");
        assert_eq!(a.host, Host::Tcp("::1".into()));
        assert!(a.is_private());
        let a = address("postgresql://me@%2Frun%2Fpostgresql/erp").expect("address");
        assert_eq!(a.host, Host::Unix("/run/postgresql".into()));
    }

    #[test]
    fn a_meta_schema_that_the_server_would_cut_is_refused() {
        let with = |meta_schema: &str| {
            Address::new(&SystemConfig {
                name: "erp".into(),
                url: Secret::new("postgres://me@h/d"),
                password: None,
                tls: Tls { mode: TlsMode::Disable, ca_file: None, cert_file: None, key_file: None },
                meta_schema: meta_schema.into(),
            })
        };
        assert!(with(&"m".repeat(63)).is_ok());
        let text = with(&"ü".repeat(32)).expect_err("64 bytes").to_string();
        assert!(text.contains("meta_schema of system erp is 64 bytes long"), "{text}");
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
