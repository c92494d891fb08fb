//! Which operations somebody wants to see.

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use super::queue_line::QueueLine;
use crate::codec::Frame;
use crate::types::Kind;

/// What an operation must be to be shown; an empty list asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueFilter {
    /// Paths relative to the set, as they are shown: `dir` for itself and all below it, or a pattern with `*`
    /// (not over a slash), `**`, `?`, `[a-z]`, `{a,b}`. A rename is shown for either path.
    pub paths: Vec<String>,
    /// Words of operations.
    pub ops: Vec<String>,
    /// Processes.
    pub pids: Vec<u32>,
    /// Users.
    pub uids: Vec<u32>,
}

/// Each of a filter's lists: every record is held against all of them.
const WORDS_MAX: usize = 64;

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A pattern.
    #[error("--path {text}: {source}")]
    Path {
        /// As it was given.
        text: String,
        /// What is wrong.
        source: globset::Error,
    },
    /// More than every record can be held against.
    #[error("a filter has at most {WORDS_MAX} paths, operations, processes and users each")]
    TooMany,
    /// An operation.
    #[error("--op {word}: there is no such operation; there are {known}")]
    Op {
        /// As it was given.
        word: String,
        /// All words.
        known: String,
    },
}

/// A filter that is ready to be asked.
#[derive(Debug)]
pub struct QueueMatcher {
    paths: Vec<PathRule>,
    ops: Vec<Kind>,
    pids: Vec<u32>,
    uids: Vec<u32>,
}

#[derive(Debug)]
enum PathRule {
    Below(String),
    Pattern(GlobMatcher),
}

impl PathRule {
    fn new(text: &str) -> Result<PathRule, FilterError> {
        if !text.contains(['*', '?', '[', '{']) {
            let plain = text.trim_start_matches("./").trim_end_matches('/');
            return Ok(PathRule::Below(plain.to_owned()));
        }
        // What is shown has its backslashes doubled: they are no escapes here.
        let pattern = GlobBuilder::new(text.trim_start_matches("./"))
            .literal_separator(true)
            .backslash_escape(false)
            .build();
        let pattern = pattern.map_err(|source| FilterError::Path {
            text: text.to_owned(),
            source,
        })?;
        Ok(PathRule::Pattern(pattern.compile_matcher()))
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            PathRule::Below(dir) if dir.is_empty() || dir == "." => true,
            PathRule::Below(dir) => {
                let rest = path.strip_prefix(dir.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathRule::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

impl QueueFilter {
    /// Does it let everything through?
    pub fn is_empty(&self) -> bool {
        *self == QueueFilter::default()
    }

    /// Makes it ready.
    ///
    /// # Errors
    /// A pattern that cannot be read, an operation that there is not.
    pub fn matcher(&self) -> Result<QueueMatcher, FilterError> {
        let longest = [
            self.paths.len(),
            self.ops.len(),
            self.pids.len(),
            self.uids.len(),
        ];
        if longest.into_iter().any(|count| count > WORDS_MAX) {
            return Err(FilterError::TooMany);
        }
        let paths = self.paths.iter().map(|text| PathRule::new(text));
        let ops = self.ops.iter().map(|word| {
            let known = Kind::ALL.into_iter().find(|kind| kind.word() == word);
            known.ok_or_else(|| FilterError::Op {
                word: word.clone(),
                known: Kind::ALL.map(Kind::word).join(", "),
            })
        });
        Ok(QueueMatcher {
            paths: paths.collect::<Result<_, _>>()?,
            ops: ops.collect::<Result<_, _>>()?,
            pids: self.pids.clone(),
            uids: self.uids.clone(),
        })
    }
}

impl QueueMatcher {
    /// The line of a record, if it is to be shown. The kind stands in the header: where it is not asked
    /// for, nothing is decoded.
    pub fn line(&self, frame: &Frame) -> Option<QueueLine> {
        if !self.ops.is_empty() && !self.ops.contains(&frame.header().kind) {
            return None;
        }
        let line = QueueLine::of(frame);
        self.takes(&line).then_some(line)
    }

    /// Does it let this line through, whatever its operation?
    pub fn takes(&self, line: &QueueLine) -> bool {
        let is_path = |rule: &PathRule| {
            rule.matches(&line.path) || line.to.as_deref().is_some_and(|to| rule.matches(to))
        };
        (self.pids.is_empty() || self.pids.contains(&line.pid))
            && (self.uids.is_empty() || self.uids.contains(&line.uid))
            && (self.paths.is_empty() || self.paths.iter().any(is_path))
    }
}
