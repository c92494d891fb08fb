//! `HOST:PORT[:PATH]`: where a target listens and where on it the replica is to stand.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port where none is given.
pub const PORT_DEFAULT: u16 = 7420;

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing stands before the colon.
    #[error("target {0:?} names no host (HOST:PORT[:PATH], IPv6 in brackets)")]
    NoHost(String),
    /// What stands after the host is no port.
    #[error("target {0:?} has no port between 1 and 65535 after the host (HOST:PORT[:PATH])")]
    BadPort(String),
    /// A bracket is open, or something stands between it and the colon.
    #[error("target {0:?}: an IPv6 address stands as [ADDRESS]:PORT")]
    BadBracket(String),
}

/// A target: host, port, and the mirror path relative to its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetAddr {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Mirror path; `None`: the target's default, `<source>/<set>`.
    pub path: Option<String>,
}

impl TargetAddr {
    /// `HOST:PORT`, IPv6 in brackets.
    pub fn endpoint(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for TargetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint())?;
        match &self.path {
            Some(path) => write!(f, ":{path}"),
            None => Ok(()),
        }
    }
}

impl FromStr for TargetAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<TargetAddr, AddressError> {
        let whole = || text.to_owned();
        let (host, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner
                    .split_once(']')
                    .ok_or_else(|| AddressError::BadBracket(whole()))?;
                if !rest.is_empty() && !rest.starts_with(':') {
                    return Err(AddressError::BadBracket(whole()));
                }
                (host, rest.strip_prefix(':'))
            }
            None => match text.split_once(':') {
                Some((host, rest)) => (host, Some(rest)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(AddressError::NoHost(whole()));
        }
        let (port, path) = match rest {
            None => (PORT_DEFAULT, None),
            Some(rest) => {
                let (port, path) = match rest.split_once(':') {
                    Some((port, path)) => (port, Some(path)),
                    None => (rest, None),
                };
                let port = port.parse().ok().filter(|p| *p != 0);
                (port.ok_or_else(|| AddressError::BadPort(whole()))?, path)
            }
        };
        Ok(TargetAddr {
            host: host.to_owned(),
            port,
            path: path.filter(|p| !p.is_empty()).map(str::to_owned),
        })
    }
}
