//! Names: one path component, the name of a set, the name of a mark.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use super::limits;

/// Why bytes are no [`Name`] or no [`SetName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Empty, `.` or `..`, or with a slash or a NUL in it: no directory entry can be called so.
    #[error("not a file name: {0:?}")]
    NotAComponent(String),
    /// Longer than any Linux file system allows.
    #[error("file name of {0} bytes is longer than {max}", max = limits::NAME_BYTES_MAX)]
    TooLong(usize),
    /// A set's name is 1 to 64 letters, digits, `.`, `_`, `-`, and starts with none of `.` and `-`.
    #[error(
        "not a set name: {0:?} (1 to 64 letters, digits, '.', '_' or '-', not starting with '.' or '-')"
    )]
    NotASetName(String),
    /// A mark's name is made as a set's.
    #[error(
        "not a name for a mark: {0:?} (1 to 64 letters, digits, '.', '_' or '-', not starting with '.' or '-')"
    )]
    NotAMarkName(String),
}

/// One directory entry's name: bytes, without `/` and NUL, neither empty nor `.` nor `..`.
///
/// The check stands in the only constructor, decoding included, so whoever holds a `Name` can join
/// it below a directory without looking again.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks and takes `bytes`.
    ///
    /// # Errors
    /// [`NameError::NotAComponent`] or [`NameError::TooLong`].
    pub fn new(bytes: &[u8]) -> Result<Name, NameError> {
        if bytes.len() > limits::NAME_BYTES_MAX {
            return Err(NameError::TooLong(bytes.len()));
        }
        let odd = bytes.is_empty() || bytes == b"." || bytes == b"..";
        if odd || bytes.iter().any(|&b| b == b'/' || b == 0) {
            return Err(NameError::NotAComponent(
                String::from_utf8_lossy(bytes).into_owned(),
            ));
        }
        Ok(Name(bytes.into()))
    }

    /// The bytes as the directory holds them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name for calls that take an `OsStr`.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_os_str(), f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let bytes: &serde_bytes::Bytes = Deserialize::deserialize(deserializer)?;
        Name::new(bytes).map_err(serde::de::Error::custom)
    }
}

/// The name of a replication set; also a file name below the state and run directories.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetName(String);

impl SetName {
    /// A name where none matters.
    pub fn any() -> SetName {
        SetName("any".into())
    }

    /// Checks and takes `name`.
    ///
    /// # Errors
    /// [`NameError::NotASetName`].
    pub fn new(name: &str) -> Result<SetName, NameError> {
        if is_plain(name) {
            Ok(SetName(name.to_owned()))
        } else {
            Err(NameError::NotASetName(name.into()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SetName {
    type Error = NameError;
    fn try_from(name: String) -> Result<SetName, NameError> {
        SetName::new(&name)
    }
}

impl From<SetName> for String {
    fn from(name: SetName) -> String {
        name.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Is this a name that can stand in paths, lists and command lines as it is?
fn is_plain(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 64 && name.chars().all(legal) && !name.starts_with(['.', '-'])
}

/// The name of a point in a stream, as an administrator gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MarkName(String);

impl MarkName {
    /// Checks and takes `name`.
    ///
    /// # Errors
    /// [`NameError::NotAMarkName`].
    pub fn new(name: &str) -> Result<MarkName, NameError> {
        match is_plain(name) {
            true => Ok(MarkName(name.to_owned())),
            false => Err(NameError::NotAMarkName(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MarkName {
    type Error = NameError;
    fn try_from(name: String) -> Result<MarkName, NameError> {
        MarkName::new(&name)
    }
}

impl From<MarkName> for String {
    fn from(name: MarkName) -> String {
        name.0
    }
}

impl fmt::Display for MarkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
