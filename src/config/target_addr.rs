//! Where a target is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::OptionError;

/// The port that a target listens on when none is named.
pub const DEFAULT_PORT: u16 = 7420;

/// `HOST[:PORT[:PATH]]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TargetAddr {
    /// Name or address, IPv6 without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Mirror path relative to the target's root, without `.` and `..`; without one the target
    /// chooses `<source host>/<set>`.
    pub path: Option<String>,
}

impl TargetAddr {
    /// `host:port`, with brackets where they are needed.
    pub fn endpoint(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Is it surely this machine? Names other than `localhost` are not looked up: what they mean
    /// can change.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
    type Err = OptionError;

    fn from_str(text: &str) -> Result<TargetAddr, OptionError> {
        let no = |reason| OptionError::Target {
            text: text.to_owned(),
            reason,
        };
        let (host, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner
                    .split_once(']')
                    .ok_or_else(|| no("no ']' after '['"))?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| no("what stands in brackets is no IPv6 address"))?;
                if !rest.is_empty() && !rest.starts_with(':') {
                    return Err(no("only ':' can follow ']'"));
                }
                (host, rest.strip_prefix(':'))
            }
            None => match text.split_once(':') {
                Some((host, rest)) => (host, Some(rest)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(no("no host name"));
        }
        let (port, path) =
            match rest.map(|r| r.split_once(':').map_or((r, None), |(p, q)| (p, Some(q)))) {
                None => (DEFAULT_PORT, None),
                Some(("", Some(path))) => (DEFAULT_PORT, Some(path)),
                Some((port, path)) => match port.parse() {
                    Ok(port @ 1..) => (port, path),
                    Ok(_) | Err(_) => return Err(no("the port is no number from 1 to 65535")),
                },
            };
        let path = path.map(|path| {
            beneath(path).ok_or_else(|| {
                no("the path is empty or has '..' in it; it is relative to the target's root")
            })
        });
        Ok(TargetAddr {
            host: host.to_owned(),
            port,
            path: path.transpose()?,
        })
    }
}

/// The path without leading, trailing and doubled slashes; `None` when nothing is left or it
/// could lead out.
fn beneath(path: &str) -> Option<String> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    let fine = !parts.is_empty() && !parts.contains(&"..") && !path.contains('\0');
    fine.then(|| parts.join("/"))
}
