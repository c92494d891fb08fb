//! Confining this process.

use std::path::Path;

use crate::sys;

use super::calls::refused_calls;
use super::capabilities::{kept_bits, names};
use super::landlock;
use super::report::{Confinement, Error, Layer};
use super::wish::{Part, Wish};

/// Where a confined process may change files, as far as that can be enforced.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The root of the replicas.
    pub root: &'a Path,
    /// Its own directories; they exist.
    pub own: &'a [&'a Path],
}

/// Confines this process for good. To be called by its only thread.
///
/// # Errors
/// [`Error`]; the process is to end then.
pub fn confine(wish: &Wish, places: &Places<'_>) -> Result<Confinement, Error> {
    let call = |operation| move |source| Error::Call { operation, source };
    let threads = sys::thread_count().map_err(call("count the threads"))?;
    if *wish != Wish::No && threads > 1 {
        return Err(Error::Threads(threads));
    }
    confine_thread(wish, places)
}

/// As [`confine`], for this thread and those that it starts, whatever others do.
///
/// # Errors
/// As [`confine`].
pub fn confine_thread(wish: &Wish, places: &Places<'_>) -> Result<Confinement, Error> {
    let mut got = Confinement {
        wish: wish.clone(),
        capabilities: Layer::Off,
        seccomp: Layer::Off,
        landlock: Layer::Off,
        landlock_version: None,
    };
    if *wish == Wish::No {
        return Ok(got);
    }
    sys::forbid_new_privileges().map_err(|source| Error::Call {
        operation: "forbid new privileges",
        source,
    })?;
    if wish.wants(Part::Landlock) {
        (got.landlock, got.landlock_version) = landlock::apply(places);
    }
    if wish.wants(Part::Capabilities) {
        got.capabilities = drop_capabilities();
    }
    // Last: it refuses nothing of the above, and need not for ever.
    if wish.wants(Part::Seccomp) {
        got.seccomp = refuse_calls();
    }
    let missing = |(part, layer): (Part, &Layer)| match layer {
        Layer::Missing(why) => Some(format!("{}: {why}", part.name())),
        Layer::On { .. } | Layer::Off => None,
    };
    let missing: Vec<String> = got.layers().into_iter().filter_map(missing).collect();
    if wish.insists() && !missing.is_empty() {
        let wish = wish.clone();
        return Err(Error::Missing { wish, missing });
    }
    Ok(got)
}

fn drop_capabilities() -> Layer {
    match sys::keep_capabilities(kept_bits()) {
        Ok(left) => Layer::On {
            what: names(left),
            lacks: Vec::new(),
        },
        Err(error) => Layer::Missing(format!("not all could be given up: {error}")),
    }
}

fn refuse_calls() -> Layer {
    match sys::refuse_calls(&refused_calls()) {
        Ok(()) => Layer::On {
            what: vec![format!("{} rules", refused_calls().len())],
            lacks: Vec::new(),
        },
        Err(error) => Layer::Missing(match error.raw_os_error() {
            Some(libc::ENOTSUP) => "no filter is written for this architecture".to_owned(),
            Some(libc::EINVAL | libc::ENOSYS) => "this kernel has no filters".to_owned(),
            _ => error.to_string(),
        }),
    }
}
