//! What is wrong with configuration files, and where.

use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl Place {
    /// The beginning of a file: for what is missing in it, or wrong with it as a whole.
    pub fn beginning(file: &Path) -> Place {
        Place {
            file: file.to_owned(),
            line: 1,
            column: 1,
        }
    }

    /// The place of a byte of `text`.
    pub(super) fn of_byte(file: &Path, text: &str, at: usize) -> Place {
        let before = text.get(..at).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }

    /// `FILE:LINE`.
    pub fn in_short(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(f, "{file}:{}:{}", self.line, self.column)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It cannot stay so.
    Error,
    /// It works, and is perhaps not what is wanted.
    Warning,
}

/// Something wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What, and what to do.
    pub message: String,
}

impl Problem {
    pub(super) fn error(place: &Place, message: impl Into<String>) -> Problem {
        Problem {
            place: place.clone(),
            severity: Severity::Error,
            message: message.into(),
        }
    }

    pub(super) fn warning(place: &Place, message: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Warning,
            ..Problem::error(place, message)
        }
    }

    /// Can it not stay so?
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, "{}: {kind}{}", self.place, self.message)
    }
}

/// Configuration that cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// It.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What the files say is wrong.
    #[error("{}", lines(.0))]
    Wrong(Vec<Problem>),
    /// No such set.
    #[error(
        "there is no set {name:?} in {dir}{}; `doppelfs set list` shows what there is, `doppelfs set \
         create {name} --path DIR` makes it", near(.nearest.as_deref())
    )]
    NoSuchSet {
        /// Its name.
        name: String,
        /// Where its file would be.
        dir: PathBuf,
        /// The set whose name looks most like it.
        nearest: Option<String>,
    },
    /// A file is there already.
    #[error("{0} exists already; edit it, or remove it first")]
    Exists(PathBuf),
    /// It cannot stand in a file.
    #[error("{key} cannot stand in a set's file: {reason}")]
    NotInFiles {
        /// The key.
        key: String,
        /// Why.
        reason: String,
    },
    /// A file cannot be written. It was left as it was.
    #[error("cannot {operation} {path}: {reason}")]
    Unwritable {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

fn near(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    match lines.len() {
        1 => lines.concat(),
        count => format!(
            "{count} problems in the configuration:\n  {}",
            lines.join("\n  ")
        ),
    }
}
