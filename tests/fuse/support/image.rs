//! A file system of our own in a file.

use std::path::{Path, PathBuf};

use doppelfs::sys;

use super::command::{is_installed, program};
use super::scratch::Scratch;
use super::until::until;

/// A loop-mounted image; unmounted on drop.
#[derive(Debug)]
pub(crate) struct Image {
    file: PathBuf,
    mountpoint: PathBuf,
    options: String,
    _scratch: Scratch,
}

impl Image {
    /// Makes and mounts a file system of `kind` (`ext4`, `xfs`, `btrfs`) and `mib` MiB. `None`, said
    /// loudly, where this host cannot.
    pub(crate) fn new(test: &str, kind: &str, mib: u64) -> Option<Image> {
        Image::with(test, (kind, &[]), mib, "loop")
    }

    /// As [`Image::new`], with more words for mkfs and other options of the mount.
    pub(crate) fn with(
        test: &str,
        (kind, words): (&str, &[&str]),
        mib: u64,
        options: &str,
    ) -> Option<Image> {
        let mkfs = format!("mkfs.{kind}");
        if !is_installed(&mkfs) {
            eprintln!("SKIPPED {test}: {mkfs} is not installed");
            return None;
        }
        let scratch = Scratch::new(kind);
        let file = scratch.path().join("image");
        let mountpoint = scratch.path().join("mnt");
        std::fs::create_dir(&mountpoint).expect("mkdir");
        let image = std::fs::File::create(&file).expect("create an image");
        image.set_len(mib << 20).expect("size an image");
        program(&mkfs).arg("-q").args(words).arg(&file).succeed();
        let mounted = program("mount")
            .args(["-o", options])
            .arg(&file)
            .arg(&mountpoint)
            .run();
        if mounted.code != Some(0) {
            eprintln!("SKIPPED {test}: cannot mount {kind}: {}", mounted.stderr);
            return None;
        }
        Some(Image {
            file,
            mountpoint,
            options: options.to_owned(),
            _scratch: scratch,
        })
    }

    /// The power fails: nothing more reaches the disk, and what has not yet never will.
    pub(crate) fn cut(&self) {
        let shutdown = program("xfs_io").args(["-x", "-c", "shutdown"]);
        shutdown.arg(&self.mountpoint).succeed();
    }

    /// The power is back: mounted anew with what had reached the disk. Nobody may use it any more.
    pub(crate) fn come_back(&self) {
        until("nobody to use the file system", || {
            sys::umount(&self.mountpoint, false).is_ok()
        });
        let mount = program("mount").args(["-o", &self.options]);
        mount.arg(&self.file).arg(&self.mountpoint).succeed();
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if sys::umount(&self.mountpoint, false).is_err() {
            let lazy = sys::umount(&self.mountpoint, true);
            eprintln!(
                "{} was busy; lazy umount: {lazy:?}",
                self.mountpoint.display()
            );
        }
    }
}
