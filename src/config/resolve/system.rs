//! How the systems of the file are reached: address, password, TLS, the schema of our own tables.

use std::ops::Range;

use serde_spanned::Spanned;
use tidelock_core::{Code, Family, Secret, SystemConfig, Tls, TlsMode};

use super::{Result, Source};
use crate::config::file;
use crate::config::form::{Form, Forms};
use crate::registry;

/// Whether the file itself holds the system's password.
pub(super) fn has_password(system: &file::System) -> bool {
    let Form::Text(url) = system.url.get_ref() else { return false };
    url::Url::parse(url).is_ok_and(|url| {
        url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password")
    })
}

pub(super) fn resolve_system(
    name: &str,
    system: &file::System,
    source: &Source,
) -> Result<SystemConfig> {
    let url = match system.url.get_ref() {
        Form::Text(url) => url.clone(),
        Form::Table(from) => environment(&from.env, system.url.span(), source)?,
        Form::List(_) => return Err(source.error(system.url.span(), file::FromEnv::EXPECTED)),
    };
    let Some(family) = registry::family(&url) else {
        let known = registry::schemes().collect::<Vec<_>>().join(", ");
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        return Err(source.error(
            system.url.span(),
            format!(
                "the url of system {name} must begin with one of: {known} (and ://){}",
                file::nearest(scheme, registry::schemes()).replace("`?", "://`?")
            ),
        ));
    };
    if let Err(why) = url::Url::parse(&url) {
        return Err(source.error(
            system.url.span(),
            format!(
                "the url of system {name} is not one: {why}\n\
                 hint: signs such as @ : / ? # % in user or password are percent-encoded (%40 %3A %2F %3F \
                 %23 %25), or the password stands apart: password = {{ file = \"PATH\" }}"
            ),
        ));
    }
    let password = match &system.password {
        None => None,
        Some(password) => Some(read_password(password, source)?),
    };
    let config = SystemConfig {
        name: name.to_owned(),
        tls: resolve_tls(&url, family, system, source)?,
        url: Secret::new(url),
        password,
        meta_schema: resolve_meta_schema(name, family, system, source)?,
        user: user(),
    };
    (family.check)(&config).map_err(|error| {
        let tls = system.tls.as_ref().filter(|_| error.code() == Code::Tls);
        let span = tls.map_or(system.url.span(), Spanned::span);
        let hint = error.hint().map_or(String::new(), |hint| format!("\nhint: {hint}"));
        source.error(span, format!("{error}{hint}"))
    })?;
    Ok(config)
}

/// The schema of our own tables; no server may cut its name.
fn resolve_meta_schema(
    name: &str,
    family: &Family,
    system: &file::System,
    source: &Source,
) -> Result<String> {
    let Some(schema) = &system.meta_schema else { return Ok("tidelock".to_owned()) };
    let words = match family.identifier_max.excess(schema.get_ref()) {
        None if !schema.get_ref().is_empty() => return Ok(schema.get_ref().clone()),
        None => format!("meta_schema of system {name} is empty\nhint: leave it out, or name one"),
        Some(excess) => format!(
            "meta_schema of system {name} is {excess}\n\
             hint: choose a shorter one: the server would cut it and never find it again"
        ),
    };
    Err(source.error(schema.span(), words))
}

/// The user that this process runs as: as `$USER` says, else as the machine's list of users does.
fn user() -> String {
    let told = std::env::var("USER").unwrap_or_default();
    if !told.is_empty() {
        return told;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_of(&users, rustix::process::geteuid().as_raw()).unwrap_or_default()
}

/// The name of a user in a list as `/etc/passwd` is one.
pub(super) fn user_of(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let own = fields.nth(1)?.parse::<u32>() == Ok(id);
        own.then(|| name.to_owned())
    })
}

/// What an environment variable holds.
fn environment(variable: &str, span: Range<usize>, source: &Source) -> Result<String> {
    std::env::var(variable).map_err(|_| {
        source.error(
            span,
            format!(
                "environment variable {variable} is not set\n\
                 hint: set it where tidelock is started: export {variable}=..., or EnvironmentFile= of the service"
            ),
        )
    })
}

pub(super) fn read_password(password: &Spanned<file::Password>, source: &Source) -> Result<Secret> {
    let expected = || {
        let words = format!("expected {}", file::Kept::EXPECTED);
        source.error(password.span(), words)
    };
    let Form::Table(kept) = password.get_ref() else { return Err(expected()) };
    match (&kept.env, &kept.file) {
        (Some(variable), None) => environment(variable, password.span(), source).map(Secret::new),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])))
            .map_err(|e| {
                source.error(
                    password.span(),
                    format!(
                        "password file {} cannot be read: {e}\n\
                         hint: see that the file is there and that tidelock's user may read it",
                        path.display()
                    ),
                )
            }),
        _ => Err(expected()),
    }
}

/// `verify-full` off the host; nothing to protect on it.
fn resolve_tls(url: &str, family: &Family, system: &file::System, source: &Source) -> Result<Tls> {
    let Some(tls) = &system.tls else {
        let mode = if (family.is_local)(url) { TlsMode::Disable } else { TlsMode::VerifyFull };
        return Ok(Tls { mode, ca_file: None, cert_file: None, key_file: None });
    };
    let Form::Table(settings) = tls.get_ref() else {
        let words = format!("expected {}", file::TlsSettings::EXPECTED);
        return Err(source.error(tls.span(), words));
    };
    let known = [
        ("disable", TlsMode::Disable),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
    let mode = match &settings.mode {
        None => TlsMode::VerifyFull,
        Some(word) => {
            let found = known.iter().find(|(name, _)| name == word.get_ref());
            let (_, mode) = found.ok_or_else(|| {
                let near = file::nearest(word.get_ref(), known.iter().map(|(name, _)| *name));
                let words = format!("expected disable, require, verify-ca or verify-full{near}");
                source.error(word.span(), words)
            })?;
            *mode
        }
    };
    Ok(Tls {
        mode,
        ca_file: settings.ca_file.clone(),
        cert_file: settings.cert_file.clone(),
        key_file: settings.key_file.clone(),
    })
}
