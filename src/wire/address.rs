//! `HOST[:PORT[:PATH]]`: where a target listens and where on it the replica is to stand.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port that a target listens on when none is named.
pub const PORT_DEFAULT: u16 = 7420;

/// Why a text is no target. Nothing was done yet; the text has to be corrected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target {text:?}: {fault}; write HOST:PORT or HOST:PORT:PATH, IPv6 in brackets")]
pub struct AddressError {
    /// As given.
    pub text: String,
    /// What is wrong with it.
    pub fault: AddressFault,
}

/// What may be wrong with a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Nothing stands before the colon, or nothing that can be a host.
    #[error("no host name")]
    Host,
    /// A bracket is not closed.
    #[error("no ']' after '['")]
    OpenBracket,
    /// Something stands between the bracket and the colon.
    #[error("only ':' can follow ']'")]
    AfterBracket,
    /// Something else stands in brackets.
    #[error("what stands in brackets is no IPv6 address")]
    NotIpv6,
    /// What stands after the host is no port.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// The path cannot be joined below a root.
    #[error("the path is empty or has '..' in it; it is relative to the target's root")]
    Path,
}

/// A target: host, port, and the mirror path relative to its root.
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

    /// The target as a pairing knows it: as [`TargetAddr::endpoint`], in small letters.
    pub fn pairing(&self) -> String {
        self.endpoint().to_ascii_lowercase()
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
    type Err = AddressError;

    fn from_str(text: &str) -> Result<TargetAddr, AddressError> {
        let no = |fault| AddressError {
            text: text.to_owned(),
            fault,
        };
        let (host, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner
                    .split_once(']')
                    .ok_or_else(|| no(AddressFault::OpenBracket))?;
                host.parse::<Ipv6Addr>()
                    .map_err(|_| no(AddressFault::NotIpv6))?;
                if !rest.is_empty() && !rest.starts_with(':') {
                    return Err(no(AddressFault::AfterBracket));
                }
                (host, rest.strip_prefix(':'))
            }
            None => match text.split_once(':') {
                Some((host, rest)) => (host, Some(rest)),
                None => (text, None),
            },
        };
        if host.is_empty() || host.contains(['/', ' ']) {
            return Err(no(AddressFault::Host));
        }
        let (port, path) =
            match rest.map(|r| r.split_once(':').map_or((r, None), |(p, q)| (p, Some(q)))) {
                None => (PORT_DEFAULT, None),
                Some(("", Some(path))) => (PORT_DEFAULT, Some(path)),
                Some((port, path)) => match port.parse() {
                    Ok(port @ 1..) => (port, path),
                    Ok(_) | Err(_) => return Err(no(AddressFault::Port)),
                },
            };
        let path = path.map(|path| beneath(path).ok_or_else(|| no(AddressFault::Path)));
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
