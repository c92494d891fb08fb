//! The connection to the kernel, from mount to unmount.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};

use fuser::{Config, INodeNo, Session, SessionACL};

use crate::capture::{Capture, TakenOver};
use crate::sync::{self, Mutex, Rank};
use crate::sys::{self, FuseMount};
use crate::types::FileId;

use super::adapter::{Adapter, Agreed};
use super::crew::Crew;
use super::export;
use super::nodes::Nodes;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse: {0}; load the module with `modprobe fuse` and run as root")]
    Device(#[source] io::Error),
    /// The mount failed.
    #[error("cannot mount on {mountpoint}: {source}")]
    Mount {
        /// Where.
        mountpoint: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel and we did not agree on a protocol.
    #[error("the kernel's FUSE refused or was refused: {0}")]
    Handshake(#[source] io::Error),
    /// Serving ended with an error.
    #[error("the connection to the kernel broke: {0}")]
    Broken(#[source] io::Error),
}

/// A mounted file system that is not served yet: requests wait.
///
/// Dropped without having been served, it takes the mount back: nobody would answer.
pub struct Kernel {
    session: Option<Session<Adapter>>,
    nodes: Arc<Nodes>,
    agreed: Agreed,
    crew: Arc<Crew>,
    /// A mount that was made just now and goes when it was never served.
    takes_back: Option<PathBuf>,
    device: OwnedFd,
    /// What an earlier worker left, where there was one.
    left: Option<TakenOver>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.session.take().is_some()
            && let Some(mountpoint) = &self.takes_back
            && let Err(error) = sys::umount(mountpoint, true)
        {
            tracing::error!(%error, "cannot take back the mount");
        }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

/// Mounts by hand and shakes hands with the kernel. The session does not own the mount, so it can
/// never unmount what lies below.
///
/// # Errors
/// [`SessionError`]; nothing is mounted then.
pub fn serve(
    capture: Arc<Capture>,
    mountpoint: &Path,
    how: &FuseMount,
    threads: usize,
) -> Result<Kernel, SessionError> {
    let device: OwnedFd = sys::fuse_open().map_err(SessionError::Device)?;
    sys::mount_fuse(device.as_fd(), mountpoint, how).map_err(|source| SessionError::Mount {
        mountpoint: mountpoint.display().to_string(),
        source,
    })?;
    let live = device.try_clone().map_err(SessionError::Device)?;
    match shake_hands(capture, device, threads, BTreeSet::new()) {
        Ok(shaken) => {
            if how.is_beneath {
                // From here on paths lead to us; before, to the dead mount, and never below.
                sys::umount(mountpoint, true).map_err(|source| SessionError::Mount {
                    mountpoint: format!("{} in place of the dead mount", mountpoint.display()),
                    source,
                })?;
            }
            Ok(Kernel {
                session: Some(shaken.session),
                nodes: shaken.nodes,
                agreed: shaken.agreed,
                crew: shaken.crew,
                takes_back: Some(mountpoint.to_path_buf()),
                device: live,
                left: None,
            })
        }
        Err(error) => {
            // Ours, just mounted, and nobody can have used it.
            if let Err(e) = sys::umount(mountpoint, true) {
                tracing::error!(error = %e, "cannot take back the mount");
            }
            Err(error)
        }
    }
}

/// Takes over a file system whose last worker has died: `device` is its connection. Nothing is served
/// yet, and nothing is taken back should this fail. `left` was decided about what that worker left.
///
/// # Errors
/// [`SessionError`].
pub fn take_over(
    capture: Arc<Capture>,
    device: OwnedFd,
    threads: usize,
    mut left: TakenOver,
) -> Result<Kernel, SessionError> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "what it offered is not known");
    let offer = capture.live().offer();
    let offer = offer.ok_or_else(|| SessionError::Handshake(unknown()))?;
    // The library insists to shake hands. It does so with us, over a connection of our own, and gets
    // the kernel's under the same number afterwards. Parameters stay those agreed on at the mount.
    let (theirs, ours) = sys::message_pair().map_err(SessionError::Device)?;
    let hello = sys::fuse_init_again(offer.minor, offer.max_readahead, offer.flags);
    sys::send_message(ours.as_fd(), &hello, &[]).map_err(SessionError::Device)?;
    let number = theirs.as_raw_fd();
    let rewritten = std::mem::take(&mut left.rewritten);
    let shaken = shake_hands(capture, theirs, threads, rewritten)?;
    sys::replace_fd(device.as_fd(), number).map_err(SessionError::Device)?;
    Ok(Kernel {
        session: Some(shaken.session),
        nodes: shaken.nodes,
        agreed: shaken.agreed,
        crew: shaken.crew,
        takes_back: None,
        device,
        left: Some(left),
    })
}

/// What the kernel and we agreed on, and who is to serve it.
struct Shaken {
    session: Session<Adapter>,
    nodes: Arc<Nodes>,
    agreed: Agreed,
    crew: Arc<Crew>,
}

fn shake_hands(
    capture: Arc<Capture>,
    device: OwnedFd,
    threads: usize,
    rewritten: BTreeSet<FileId>,
) -> Result<Shaken, SessionError> {
    let agreed: Agreed = Arc::new(OnceLock::new());
    let nodes = Arc::new(Nodes::new(
        capture.tree().root_id(),
        capture.counters().clone(),
        capture.live(),
    ));
    let notifier = Arc::new(OnceLock::new());
    let crew = Arc::new(Crew::new());
    let (unproven, questions) = mpsc::channel();
    export::start(capture.clone(), nodes.clone(), questions).map_err(SessionError::Broken)?;
    let adapter = Adapter {
        capture,
        nodes: nodes.clone(),
        agreed: agreed.clone(),
        notifier: notifier.clone(),
        unproven,
        rewritten: Mutex::new(Rank::Leaf, rewritten),
        crew: crew.clone(),
    };
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.acl = SessionACL::All;
    let session = Session::from_fd(adapter, device, SessionACL::All, config)
        .map_err(SessionError::Handshake)?;
    let _ = notifier.set(session.notifier());
    Ok(Shaken {
        session,
        nodes,
        agreed,
        crew,
    })
}

impl Kernel {
    /// What the kernel offered, for the log.
    pub fn agreed(&self) -> &str {
        self.agreed.get().map_or("", String::as_str)
    }

    /// The connection, for who keeps it when this process dies.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Serves until the file system is unmounted.
    ///
    /// # Errors
    /// [`SessionError::Broken`].
    pub fn run(mut self) -> Result<(), SessionError> {
        if let Some(left) = self.left.take() {
            self.doubt(&left)?;
            match sys::fuse_resend(self.device.as_fd()) {
                // The mount ended meanwhile, which the session hears, too.
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
                done => done.map_err(SessionError::Broken)?,
            }
        }
        match self.device.try_clone() {
            Ok(device) => self.crew.connect(device),
            Err(error) => tracing::warn!(%error, "requests are not looked for, which takes time"),
        }
        let session = self.session.take();
        session.map_or(Ok(()), |session| {
            session.run().map_err(SessionError::Broken)
        })
    }

    /// Has the kernel doubt what it knows of everything that the last worker may have changed. Who asked
    /// for that can be killed while the request waits to be read again; the kernel takes it back then,
    /// believes that nothing happened, and would for as long as it was told to believe.
    fn doubt(&self, left: &TakenOver) -> Result<(), SessionError> {
        if left.requests == 0 {
            return Ok(());
        }
        // All names, since telling of a single one waits for the lock of its directory, which may be held
        // for a request that waits for us: should this worker be killed then, it could not even end.
        if let Err(error) = sys::fuse_doubt_names(self.device.as_fd()) {
            tracing::warn!(%error, "cannot have the kernel look at names anew (Linux 6.16 can): where a \
                program was killed with its worker, it may go on seeing names as they were");
        }
        let Some(session) = &self.session else {
            return Ok(());
        };
        let (notifier, touched) = (session.notifier(), left.touched.clone());
        let numbers: Vec<u64> = touched
            .into_iter()
            .map(|id| self.nodes.number(id))
            .collect();
        // Attributes alone, and no pages, whose locks are held for requests, too. In a thread of its own: an
        // inode on its way out is waited for, and may wait for its last pages to be written by us.
        let forget = move || {
            for number in numbers {
                // A node that the kernel has forgotten is none.
                let _ = notifier.inval_inode(INodeNo(number), -1, 0);
            }
        };
        sync::spawn("dfs-doubt", forget).map_err(SessionError::Broken)?;
        Ok(())
    }
}
