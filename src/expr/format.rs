//! `to_char`, `to_date` and `to_timestamp`: values by a template.

use super::cell::Cell;
use super::error::Fail;
use super::kind::Kind;

/// How a value is written.
#[derive(Debug)]
pub struct Format {}

impl Format {
    pub fn parse(_template: &str, _kind: Kind) -> Result<Format, String> {
        Err("not yet".into())
    }

    pub fn write(&self, _cell: &Cell<'_>) -> Result<String, Fail> {
        Err(Fail::unexpected())
    }
}

/// How a time is read.
#[derive(Debug)]
pub struct Template {}

impl Template {
    pub fn parse(_template: &str) -> Result<Template, String> {
        Err("not yet".into())
    }

    pub fn read(&self, _text: &str) -> Result<i64, Fail> {
        Err(Fail::unexpected())
    }
}
