//! TLS by the driver's rustls: either it is agreed on as asked, or there is no connection.

use mysql_async::{ClientIdentity, SslOpts};
use tidelock_core::{Code, Error, Result, SystemConfig, TlsMode};

/// The driver's TLS options; `None` means plain text was asked for.
pub(crate) fn options(config: &SystemConfig) -> Result<Option<SslOpts>> {
    let tls = &config.tls;
    let mut options = match tls.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Require => SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true),
        TlsMode::VerifyCa => SslOpts::default().with_danger_skip_domain_validation(true),
        TlsMode::VerifyFull => SslOpts::default(),
    };
    // A second process default is refused by rustls; the first one stands and is good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for file in [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten() {
        std::fs::metadata(file).map_err(|e| {
            Error::setup(
                Code::Tls,
                format!("system {}: TLS file {} cannot be read", config.name, file.display()),
            )
            .with_hint("see that the file is there and that tidelock's user may read it")
            .with_source(e)
        })?;
    }
    if let Some(ca) = &tls.ca_file {
        options =
            options.with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true);
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let identity = ClientIdentity::new(cert.clone().into(), key.clone().into());
            Ok(Some(options.with_client_identity(Some(identity))))
        }
        (None, None) => Ok(Some(options)),
        _ => Err(Error::setup(
            Code::Tls,
            format!("system {}: cert_file and key_file go together", config.name),
        )
        .with_hint("give both, or neither where the server asks for no certificate of ours")),
    }
}

/// The first name that a certificate is made out to, by the text of the error that it is not ours.
pub(crate) fn presented_name(text: &str) -> Option<String> {
    let (_, names) = text.split_once("only valid for ")?;
    let between = |open: &str, close: &str| {
        let (_, rest) = names.split_once(open)?;
        rest.split_once(close).map(|(name, _)| name.replacen('*', "any", 1))
    };
    between("DnsName(\"", "\")").or_else(|| between("IpAddress(", ")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_certificate_is_found_in_the_refusal() {
        let name = |t: &str| presented_name(&format!("x; certificate is only valid for {t}"));
        assert_eq!(name("DnsName(\"*.db\")").as_deref(), Some("any.db"));
        assert_eq!(name("IpAddress(127.0.0.1) or DnsName(\"b\")").as_deref(), Some("b"));
        assert_eq!(name("IpAddress(127.0.0.1)").as_deref(), Some("127.0.0.1"));
        assert_eq!(presented_name("expired"), None);
    }
}
