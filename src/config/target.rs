//! Options of `doppelfs target serve`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::OptionError;
use super::mount::{absolute, default_run_dir};
use crate::confine::{Wish, WishError};
use crate::wire::PORT_DEFAULT;

/// What `doppelfs target serve` was asked for, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Replicas are below it.
    pub root: PathBuf,
    /// Where its state is.
    pub state_dir: PathBuf,
    /// Where its sockets are.
    pub run_dir: PathBuf,
    /// Plain TCP is taken beside TLS, from this machine only.
    pub insecure_loopback: bool,
    /// What its process gives up once everything is open.
    pub confine: Wish,
}

/// `/var/lib/doppelfs/target`.
pub fn default_target_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/doppelfs/target")
}

/// All addresses of this host: IPv6 takes IPv4 along, where there is IPv6.
fn every_address() -> IpAddr {
    match Path::new("/proc/net/if_inet6").exists() {
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

fn parse_listen(text: &str, default_ip: IpAddr) -> Result<SocketAddr, OptionError> {
    let text = text
        .strip_prefix("localhost")
        .map_or_else(|| text.to_owned(), |rest| format!("127.0.0.1{rest}"));
    let port_only = text.strip_prefix(':').unwrap_or(&text).parse::<u16>();
    let whole = || text.parse::<SocketAddr>().ok();
    let host_only = || {
        let host = text.trim_start_matches('[').trim_end_matches(']');
        host.parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::new(ip, PORT_DEFAULT))
    };
    port_only
        .ok()
        .map(|port| SocketAddr::new(default_ip, port))
        .or_else(whole)
        .or_else(host_only)
        .ok_or_else(|| OptionError::Value {
            key: "listen".to_owned(),
            value: text.clone(),
            expected: "ADDRESS:PORT (IPv6 in brackets), ADDRESS or PORT".to_owned(),
        })
}

impl TargetOptions {
    /// Completes and checks what was asked for; the root is `/srv/doppelfs` by default.
    ///
    /// # Errors
    /// [`OptionError`].
    pub fn new(
        listen: Option<&str>,
        root: Option<&Path>,
        state: Option<&Path>,
        run_dir: Option<&Path>,
        insecure_loopback: bool,
    ) -> Result<TargetOptions, OptionError> {
        let default_ip = match insecure_loopback {
            true => IpAddr::V4(Ipv4Addr::LOCALHOST),
            false => every_address(),
        };
        let listen = match listen {
            Some(text) => parse_listen(text, default_ip)?,
            None => SocketAddr::new(default_ip, PORT_DEFAULT),
        };
        if insecure_loopback && !listen.ip().is_loopback() {
            return Err(OptionError::NotLoopback(listen.to_string()));
        }
        let or = |path: Option<&Path>, default: PathBuf| path.map_or(Ok(default), absolute);
        Ok(TargetOptions {
            listen,
            root: or(root, PathBuf::from("/srv/doppelfs"))?,
            state_dir: or(state, default_target_state_dir())?,
            run_dir: or(run_dir, default_run_dir())?,
            insecure_loopback,
            confine: Wish::default(),
        })
    }

    /// The same with this confinement, if one is asked for.
    ///
    /// # Errors
    /// [`OptionError::Value`].
    pub fn confined(mut self, asked: Option<&str>) -> Result<TargetOptions, OptionError> {
        if let Some(text) = asked {
            self.confine = text
                .parse()
                .map_err(|expected: WishError| OptionError::Value {
                    key: "confine".to_owned(),
                    value: text.to_owned(),
                    expected: expected.to_string(),
                })?;
        }
        Ok(self)
    }
}
