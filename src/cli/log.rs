//! Where the lines of the log go.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// Between two attempts to write the log in its place again.
const RETRY_NS: u64 = 1_000_000_000;

/// The file of the log, where standard error is one.
static FILE: OnceLock<PathBuf> = OnceLock::new();
/// When it was tried last, while it cannot be written; 0: standard error is the file.
static LOST_NS: AtomicU64 = AtomicU64::new(0);

/// Standard error, where it can be written.
///
/// The log lies on the state's disk. When that is full or fails, lines are lost, and nobody may die of it
/// (who writes lines says so on standard error, too, and panics). A disk that fails is let go of as well:
/// while somebody has a file open there, it can be neither unmounted nor repaired.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(file) = FILE.get() {
            come_back(file);
        }
        match io::stderr().write(line) {
            Ok(count) => return Ok(count),
            Err(error) if is_full(&error) => {}
            Err(_) if FILE.get().is_some() => let_go(),
            Err(_) => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Standard error is nothing from now on.
fn let_go() {
    let nothing = OpenOptions::new().write(true).open("/dev/null");
    let gone = nothing.map(nix::unistd::dup2_stderr);
    if matches!(gone, Ok(Ok(()))) {
        LOST_NS.store(sys::monotonic_ns(), Ordering::Release);
    }
}

/// Standard error is the file again, if that can be opened and was not.
fn come_back(file: &Path) {
    let last = LOST_NS.load(Ordering::Acquire);
    let now = sys::monotonic_ns();
    if last == 0 || now.saturating_sub(last) < RETRY_NS {
        return;
    }
    LOST_NS.store(now, Ordering::Release);
    let opened = sys::open_private(file);
    let Ok(mut opened) = opened else { return };
    // A disk that fails may still be opened.
    let note = b"(lines before this one are missing: the log could not be written)\n";
    if opened.write_all(note).is_ok() && nix::unistd::dup2_stderr(&opened).is_ok() {
        LOST_NS.store(0, Ordering::Release);
    }
}

/// Log lines go to standard error: to the log file in the background, to the journal of systemd under a
/// unit. `DOPPELFS_LOG` chooses how much. `file`: what standard error is, where the log is a file of ours.
pub(super) fn start_log(file: Option<PathBuf>) {
    if let Some(file) = file {
        if is_nothing() {
            // The process that started this one had lost it.
            LOST_NS.store(1, Ordering::Release);
        }
        let _ = FILE.set(file);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("DOPPELFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Somebody else's subscriber, in a test for example, may be there first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lines)
        .with_ansi(false)
        .try_init();
}

/// Is standard error no file?
fn is_nothing() -> bool {
    use std::os::fd::AsFd;
    let own = io::stderr().as_fd().try_clone_to_owned();
    let kind = own.and_then(|own| std::fs::File::from(own).metadata());
    kind.is_ok_and(|kind| !kind.is_file())
}
