//! A configuration file as keys and values with their places. The one file that names the TOML library.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Place, Problem};
use crate::sys;

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A value as written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Number(String),
    Switch(bool),
    List(Vec<(Place, Value)>),
    Table(Vec<Entry>),
    Date(String),
}

impl Value {
    /// What people call it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Number(_) => "a number",
            Value::Switch(_) => "true or false",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Date(_) => "a date",
        }
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Value,
    pub(super) value_place: Place,
}

/// Reads a file. What is no TOML is among the problems, and the rest is returned.
pub(super) fn read_document(
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Entry>, ConfigError> {
    let unreadable = |e: std::io::Error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: e.to_string(),
    };
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(ConfigError::Unreadable {
            path: path.to_owned(),
            reason: "it is no file".to_owned(),
        });
    }
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    let beginning = Place::beginning(path);
    problems.extend(judge_owner(path, &found));
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > FILE_BYTES_MAX {
        problems.push(Problem::error(
            &beginning,
            "a configuration file of more than 1 MiB is none",
        ));
        return Ok(Vec::new());
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let bytes = e.as_bytes();
            let good = String::from_utf8_lossy(&bytes[..e.utf8_error().valid_up_to()]);
            let place = Place::of_byte(path, &good, good.len());
            problems.push(Problem::error(&place, "this is no UTF-8"));
            return Ok(Vec::new());
        }
    };
    Ok(parse_document(path, &text, problems))
}

/// The same of a text that is to be written to `path`.
pub(super) fn parse_document(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().replace('\n', ", ");
        let place = Place::of_byte(path, text, at);
        problems.push(Problem::error(&place, format!("no TOML: {message}")));
    }
    entries(path, text, table.get_ref())
}

fn entries(path: &Path, text: &str, table: &DeTable<'_>) -> Vec<Entry> {
    let place = |at: usize| Place::of_byte(path, text, at);
    let mut found: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_place: place(key.span().start),
            value: value_of(path, text, value),
            value_place: place(value.span().start),
        })
        .collect();
    found.sort_by(|a, b| a.key_place.cmp(&b.key_place));
    found
}

fn value_of(path: &Path, text: &str, value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        // As the command line would have it: other notations are not known there.
        DeValue::Integer(number) if number.radix() == 10 => {
            Value::Number(number.as_str().trim_start_matches('+').replace('_', ""))
        }
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            Value::Number(number.map_or_else(|_| "too large".to_owned(), |n| n.to_string()))
        }
        DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
        DeValue::Boolean(on) => Value::Switch(*on),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(list) => {
            let items = list.iter().map(|item| {
                let place = Place::of_byte(path, text, item.span().start);
                (place, value_of(path, text, item))
            });
            Value::List(items.collect())
        }
        DeValue::Table(table) => Value::Table(entries(path, text, table)),
    }
}

/// Root does what these files say: nobody else may write to them.
pub(super) fn judge_owner(path: &Path, found: &std::fs::Metadata) -> Option<Problem> {
    if !sys::is_root() {
        return None;
    }
    let beginning = Place::beginning(path);
    let shown = path.display();
    if found.uid() != 0 {
        let text = format!(
            "it belongs to user {}, who could have root do anything with it; `chown root {shown}`",
            found.uid()
        );
        return Some(Problem::error(&beginning, text));
    }
    if found.mode() & 0o002 != 0 {
        let text = format!("everybody may write to it; look at it and then `chmod o-w {shown}`");
        return Some(Problem::error(&beginning, text));
    }
    if found.mode() & 0o020 != 0 && found.gid() != 0 {
        let text = format!(
            "group {} may write to it, and acts as root by that; `chmod g-w {shown}` if it is not \
             to",
            found.gid()
        );
        return Some(Problem::warning(&beginning, text));
    }
    None
}
