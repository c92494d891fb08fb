//! The connection to the kernel, from mount to unmount.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};

use fuser::{Config, Session, SessionACL};

use crate::capture::Capture;
use crate::sys::{self, FuseMount};

use super::adapter::{Adapter, Agreed};
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
    agreed: Agreed,
    mountpoint: PathBuf,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.session.take().is_some()
            && let Err(error) = sys::umount(&self.mountpoint, true)
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
    let agreed: Agreed = Arc::new(OnceLock::new());
    let nodes = Arc::new(Nodes::new(
        capture.tree().root_id(),
        capture.counters().clone(),
    ));
    let notifier = Arc::new(OnceLock::new());
    let (unproven, questions) = mpsc::channel();
    export::start(capture.clone(), nodes.clone(), questions).map_err(SessionError::Broken)?;
    let adapter = Adapter {
        capture,
        nodes,
        agreed: agreed.clone(),
        notifier: notifier.clone(),
        unproven,
    };
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.acl = SessionACL::All;
    match Session::from_fd(adapter, device, SessionACL::All, config) {
        Ok(session) => {
            let _ = notifier.set(session.notifier());
            Ok(Kernel {
                session: Some(session),
                agreed,
                mountpoint: mountpoint.to_path_buf(),
            })
        }
        Err(error) => {
            // Ours, just mounted, and nobody can have used it.
            if let Err(e) = sys::umount(mountpoint, true) {
                tracing::error!(error = %e, "cannot take back the mount");
            }
            Err(SessionError::Handshake(error))
        }
    }
}

impl Kernel {
    /// What the kernel offered, for the log.
    pub fn agreed(&self) -> &str {
        self.agreed.get().map_or("", String::as_str)
    }

    /// Serves until the file system is unmounted.
    ///
    /// # Errors
    /// [`SessionError::Broken`].
    pub fn run(mut self) -> Result<(), SessionError> {
        let session = self.session.take();
        session.map_or(Ok(()), |session| {
            session.run().map_err(SessionError::Broken)
        })
    }
}
