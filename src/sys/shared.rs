//! Words in a file of a tmpfs, mapped: what survives the process but not the host.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fixed number of 64-bit words in a mapped file. A store is visible to whoever maps the file
/// later, also when this process is killed on the next instruction.
#[derive(Debug)]
pub struct SharedWords {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping lives as long as the value and is only accessed through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `count` words of the file, creating it (mode 0600, zeroes) where it is missing.
    pub fn open(path: &Path, count: usize) -> io::Result<SharedWords> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path)?;
        let bytes = count * 8;
        if file.metadata()?.len() < bytes as u64 {
            // With its space: a store to a page that cannot be had would end the process.
            super::fallocate(file.as_fd(), 0, 0, bytes as u64)?;
        }
        // SAFETY: a new shared mapping of a file at least this long; the address is the kernel's.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(SharedWords { base, count })
    }

    /// The word at `index` (0-based).
    ///
    /// # Panics
    /// When there is no such word.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "no such word");
        // SAFETY: inside the mapping, aligned, and only ever accessed as an atomic.
        unsafe { self.base.add(index).as_ref() }
    }

    /// Stores a word; ordered after all earlier stores of this thread.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Loads a word.
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`; nobody borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.count * 8) };
    }
}
