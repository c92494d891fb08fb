//! What Landlock takes from a target, by version and by place.
//!
//! # Why not simply "write below the root only"?
//! A target opens files by handle. When nobody has looked a file up since it was last in memory, the
//! kernel has no path for it (a *disconnected* entry), and Landlock, which looks for its rules on the
//! way from the file up to the root, finds nothing and refuses: opening for writing with `EACCES`, a
//! hard link with `EXDEV`. Kernels with the fix of erratum 3 go on at the root of the mount; so rules
//! there, or further up, hold for every file, and rules below it still fail. Hence three steps: with
//! the fix and a root that is a mount of its own, writes outside of it are refused; with the fix
//! alone, what needs no rule but one at `/`; without it, nothing about files at all, because any rule
//! set about files also refuses links and renames between directories unless a rule is found that
//! allows them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::sys;
use crate::sys::LandlockMask;

use super::apply::Places;
use super::report::Layer;

// `linux/landlock.h`.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
/// Removing and making of every kind.
const REMOVE_AND_MAKE: u64 = 0b1_1111_1111 << 4;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEVICE: u64 = 1 << 15;
const WRITES: u64 = WRITE_FILE | REMOVE_AND_MAKE | REFER | TRUNCATE;
const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// The erratum whose fix lets rules hold for files without a path.
const DISCONNECTED: u32 = 3;

/// What is asked of Landlock, and how it is told.
#[derive(Debug, Default)]
struct Plan {
    mask: LandlockMask,
    what: Vec<String>,
    lacks: Vec<String>,
    /// Where changes are allowed, with these rights.
    beneath: Vec<(File, u64)>,
}

impl Plan {
    fn refuse(&mut self, what: &str) {
        self.what.push(what.to_owned());
    }

    fn lack(&mut self, what: impl Into<String>) {
        self.lacks.push(what.into());
    }
}

fn network(plan: &mut Plan, version: u32) {
    if version >= 4 {
        plan.mask.network = BIND_TCP | CONNECT_TCP;
        plan.refuse("tcp-connect");
        plan.refuse("tcp-bind");
    } else {
        plan.lack("TCP needs version 4");
    }
}

fn scopes(plan: &mut Plan, version: u32) {
    if version < 6 {
        plan.lack("signals and abstract sockets need version 6");
        return;
    }
    plan.mask.scopes = SCOPE_SIGNAL;
    plan.refuse("signals");
    // The service manager may wait for our word at an abstract socket.
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    if socket.as_encoded_bytes().starts_with(b"@") {
        plan.lack("the service manager's socket is an abstract one");
    } else {
        plan.mask.scopes |= SCOPE_ABSTRACT_SOCKET;
        plan.refuse("abstract-sockets");
    }
}

fn files(plan: &mut Plan, version: u32, places: &Places<'_>) -> io::Result<()> {
    if version < 5 || !sys::is_landlock_fixed(DISCONNECTED) {
        plan.lack("files need version 5 and the fix of erratum 3");
        return Ok(());
    }
    if sys::is_mount_root(places.root)? {
        plan.mask.files = EXECUTE | IOCTL_DEVICE | WRITES;
        plan.refuse("writes-elsewhere");
        for dir in [places.root].iter().chain(places.own) {
            plan.beneath.push((File::open(dir)?, WRITES));
        }
    } else if sys::is_mount_root(Path::new("/"))? {
        plan.lack(format!(
            "writes elsewhere are possible while {} is no mount of its own",
            places.root.display()
        ));
        plan.mask.files = EXECUTE | IOCTL_DEVICE | REFER;
        plan.beneath.push((File::open("/")?, REFER));
    } else {
        plan.lack("files need a root directory (/) that is a mount");
        return Ok(());
    }
    plan.refuse("execute");
    plan.refuse("device-ioctl");
    Ok(())
}

/// Puts this thread into a domain. Needs that no new privileges can come.
pub(super) fn apply(places: &Places<'_>) -> (Layer, Option<u32>) {
    let version = match sys::landlock_version() {
        Ok(version) => version,
        Err(error) => {
            let why = match error.raw_os_error() {
                Some(libc::ENOSYS) => "this kernel is built without it".to_owned(),
                Some(libc::EOPNOTSUPP) => {
                    "it is not among the modules of this boot (lsm=)".to_owned()
                }
                _ => error.to_string(),
            };
            return (Layer::Missing(why), None);
        }
    };
    let mut plan = Plan::default();
    network(&mut plan, version);
    scopes(&mut plan, version);
    let done = files(&mut plan, version, places).and_then(|()| {
        let beneath: Vec<_> = plan
            .beneath
            .iter()
            .map(|(dir, rights)| (dir.as_fd(), *rights))
            .collect();
        if plan.what.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        sys::restrict(plan.mask, &beneath)
    });
    let layer = match done {
        Ok(()) => Layer::On {
            what: plan.what,
            lacks: plan.lacks,
        },
        Err(_) if plan.what.is_empty() => Layer::Missing(plan.lacks.join("; ")),
        Err(error) => Layer::Missing(error.to_string()),
    };
    (layer, Some(version))
}
