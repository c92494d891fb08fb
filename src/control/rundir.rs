//! The run directory, and who is let into it.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::Error;
use super::access::{ADMIN_GROUP, Groups, MONITOR_GROUP};
use crate::sync;
use crate::sys;

/// What stands in a run directory, by the end of its name: sockets and locks, claims, what supervisors
/// tell and what their mounts were asked for, what survives a worker, and what stands in for a state.
const EXTENSIONS: [&str; 8] = [
    "sock",
    "lock",
    "dir",
    "supervisor",
    "options",
    "new",
    "live",
    "standin",
];

fn is_ours(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| EXTENSIONS.contains(&found))
}

/// Makes the run directory, 0700, or closes one of ours to others. Groups that were let in stay.
///
/// # Errors
/// [`Error::Exposed`]: others could use it, and it cannot simply be closed.
pub fn make_run_dir(run_dir: &Path) -> Result<File, Error> {
    Ok(sys::make_private_dir(run_dir, true, is_ours)?)
}

/// Lets the groups look into the directory and talk to the socket. Without `known` a thread finds them
/// out: who waits for that is in the groups, and nobody else; the protected directory may be what it
/// has to be read from.
pub(super) fn let_in(
    run_dir: File,
    socket: &Path,
    known: Option<Groups>,
) -> Result<Arc<OnceLock<Groups>>, Error> {
    let groups = Arc::new(OnceLock::new());
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let place = options.open(socket).map_err(Error::io("open", socket))?;
    let path = socket.to_owned();
    if let Some(known) = known {
        open_door(&run_dir, &place, &path, known);
        let _ = groups.set(known);
        return Ok(groups);
    }
    let found = Arc::clone(&groups);
    let look = move || {
        let named = Groups::named(ADMIN_GROUP, MONITOR_GROUP);
        open_door(&run_dir, &place, &path, named);
        let _ = found.set(named);
    };
    sync::spawn("dfs-groups", look).map_err(Error::io("start a thread for", socket))?;
    Ok(groups)
}

/// Root is served all the same where this cannot be done.
fn open_door(run_dir: &File, place: &File, socket: &Path, groups: Groups) {
    let gids = groups.all();
    let shared = sys::share_with_groups(run_dir.as_fd(), 0o7, 0o5, &gids)
        .and_then(|()| sys::share_with_groups(place.as_fd(), 0o6, 0o6, &gids));
    match shared {
        Err(error) if !gids.is_empty() => {
            tracing::warn!(%error, socket = %socket.display(), "cannot let the groups in; only root may ask");
        }
        // Without groups both are closed already, with or without lists.
        _ => {}
    }
}
