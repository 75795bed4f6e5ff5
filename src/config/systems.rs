//! The systems of a file alone: for a file that has no mappings yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_spanned::Spanned;
use tidelock_core::SystemConfig;

use super::file::{self, File, Kept, System};
use super::form::Form;
use super::resolve::{self, Source};
use super::{ConfigError, SourceText};

/// The systems of a file, by their names.
#[derive(Debug)]
pub struct Systems(BTreeMap<String, (SystemConfig, Vec<String>, Vec<String>)>);

impl Systems {
    /// Reads them; `file` is for messages.
    pub fn parse(text: &str, file: &str) -> Result<Systems, ConfigError> {
        let parsed: File = toml::from_str(text).map_err(|e| file::explain(file, text, &e))?;
        let source = SourceText { file: file.to_owned(), text: text.to_owned() };
        let systems = resolve::systems(&parsed, &Source(Arc::new(source)))?;
        let with_lines = |(name, config): (String, SystemConfig)| {
            let written = parsed.systems.get(&name)?;
            let (lines, reached) = (lines(&name, written, true), lines(&name, written, false));
            Some((name, (config, lines, reached)))
        };
        Ok(Systems(systems.into_iter().filter_map(with_lines).collect()))
    }

    /// A system: how it is reached, its lines for a new file, without any password, and those that reach it from here.
    pub fn get(&self, name: &str) -> Option<(&SystemConfig, &[String], &[String])> {
        self.0.get(name).map(|(config, lines, reached)| (config, &**lines, &**reached))
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn lines(name: &str, system: &System, bare: bool) -> Vec<String> {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut lines = Vec::new();
    let mut bared = false;
    lines.push(match system.url.get_ref() {
        Form::Table(from) => format!("url = {{ env = {} }}", text(&from.env)),
        Form::List(_) => String::new(),
        Form::Text(url) => {
            let stripped = without_password(url).filter(|_| bare);
            bared = stripped.is_some();
            format!("url = {}", text(stripped.as_deref().unwrap_or(url)))
        }
    });
    let kept = system.password.as_ref().and_then(|password| match password.get_ref() {
        Form::Table(kept) => Some(kept),
        Form::Text(_) | Form::List(_) => None,
    });
    match kept {
        Some(Kept { env: Some(env), .. }) => {
            lines.push(format!("password = {{ env = {} }}", text(env)));
        }
        Some(Kept { file: Some(file), .. }) => {
            lines.push(format!("password = {{ file = {} }}", text(&file.display().to_string())));
        }
        Some(Kept { env: None, file: None }) | None => {
            if bared {
                let letters = |c: char| match c.is_ascii_alphanumeric() {
                    true => c.to_ascii_uppercase(),
                    false => '_',
                };
                let variable =
                    format!("{}_PASSWORD", name.chars().map(letters).collect::<String>());
                lines.push(format!("password = {{ env = {} }}", text(&variable)));
            }
        }
    }
    if let Some(Form::Table(tls)) = system.tls.as_ref().map(Spanned::get_ref) {
        let files =
            [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)];
        let files = files.into_iter().filter_map(|(key, path)| {
            Some(format!(", {key} = {}", text(&path.as_ref()?.display().to_string())))
        });
        let files: String = files.collect();
        let mode = tls.mode.as_ref().map_or("verify-full", |mode| mode.get_ref());
        lines.push(format!("tls = {{ mode = {}{files} }}", text(mode)));
    }
    if let Some(schema) = &system.meta_schema {
        lines.push(format!("meta_schema = {}", text(schema.get_ref())));
    }
    lines
}

/// A URL without its password; `None` if it has none.
fn without_password(url: &str) -> Option<String> {
    let mut parsed = url::Url::parse(url).ok()?;
    let in_query = parsed.query_pairs().any(|(key, _)| key == "password");
    if parsed.password().is_none() && !in_query {
        return None;
    }
    if parsed.password().is_some() {
        parsed.set_password(None).ok()?;
    }
    if in_query {
        let kept: Vec<(String, String)> = parsed
            .query_pairs()
            .filter(|(key, _)| key != "password")
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        parsed.set_query(None);
        if !kept.is_empty() {
            parsed.query_pairs_mut().extend_pairs(kept);
        }
    }
    Some(parsed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_written_and_the_environment_is_named_instead() {
        let text = "version = 1\nname = \"x\"\n[systems.my-erp]\nurl = \"postgres://me:s3cret@h:5432/erp\"\n\
            [systems.crm]\nurl = \"mysql:///crm?password=s3cret&socket=/run/x\"\n\
            [systems.plain]\nurl = \"mariadb://me@h/crm\"\n";
        let systems = Systems::parse(text, "t.toml").expect("systems");
        let lines = |name: &str| systems.get(name).map(|(_, lines, _)| lines.join("\n"));
        assert_eq!(
            lines("my-erp").as_deref(),
            Some("url = \"postgres://me@h:5432/erp\"\npassword = { env = \"MY_ERP_PASSWORD\" }")
        );
        assert_eq!(
            lines("crm").as_deref(),
            Some("url = \"mysql:///crm?socket=%2Frun%2Fx\"\npassword = { env = \"CRM_PASSWORD\" }")
        );
        assert_eq!(lines("plain").as_deref(), Some("url = \"mariadb://me@h/crm\""));
    }
}
