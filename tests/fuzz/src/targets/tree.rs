//! A directory for one input, and what lies beside the replica in it and must not change.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Removed when it is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Below `DOPPELFS_FUZZ_DIR`, which `scripts/fuzz` makes a small tmpfs: an input may fill it.
    pub fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let below = std::env::var("DOPPELFS_FUZZ_DIR").unwrap_or_else(|_| "/dev/shm".into());
        let name = format!("doppelfs-fuzz-{}-{number}", std::process::id());
        let path = Path::new(&below).join(name);
        std::fs::create_dir(&path).expect("make a directory");
        Scratch(path)
    }

    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir(&path).expect("make a directory");
        path
    }

    pub fn open(&self, name: &str) -> OwnedFd {
        File::open(self.0.join(name))
            .expect("open a directory")
            .into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A directory that links out of the replica lead to.
pub struct Outside {
    dir: PathBuf,
    before: Vec<String>,
}

impl Outside {
    pub fn new(scratch: &Scratch) -> Outside {
        let dir = scratch.make("outside");
        std::fs::create_dir(dir.join("a")).expect("make a directory");
        std::fs::write(dir.join("b"), "untouched").expect("write a file");
        std::fs::write(dir.join("a/a"), "untouched").expect("write a file");
        symlink("b", dir.join("c")).expect("make a link");
        let before = look(&dir);
        Outside { dir, before }
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn assert_untouched(&self) {
        assert_eq!(
            look(&self.dir),
            self.before,
            "something outside was changed"
        );
    }
}

/// What any change changes.
fn look(dir: &Path) -> Vec<String> {
    let paths = [
        dir.to_owned(),
        dir.join("a"),
        dir.join("a/a"),
        dir.join("b"),
        dir.join("c"),
    ];
    paths
        .iter()
        .map(|path| {
            let meta = std::fs::symlink_metadata(path).expect("it is there");
            let ctime = (meta.ctime(), meta.ctime_nsec());
            format!("{} {ctime:?} {} {}", meta.ino(), meta.nlink(), meta.size())
        })
        .collect()
}
