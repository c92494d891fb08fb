//! The file system of `doppelfs mount` with nothing recorded: what capture costs is the difference.
//!
//! `uncaptured DIR MOUNTPOINT` serves in the foreground until it is unmounted. For measuring alone: what is
//! changed through it reaches no replica.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use doppelfs::capture::{Capture, Observer, Options};
use doppelfs::fuse;
use doppelfs::journal::{self, Journal};
use doppelfs::live::Live;
use doppelfs::passthrough::Tree;
use doppelfs::stats::SetCounters;
use doppelfs::sys::{self, FuseMount};
use doppelfs::types::limits;

/// As `doppelfs mount` has them.
const THREADS: usize = 4;
const CACHED_DESCRIPTORS: usize = 1024;

/// Nothing is recorded, so nothing is heard.
struct Nobody;

impl Observer for Nobody {
    fn gap_recorded(&self) {}
    fn backlog_given_up(&self, _cursors: Vec<String>, _why: String) {}
    fn record_lost(&self, _why: String) {}
}

fn serve(dir: &Path, mountpoint: &Path, scratch: &Path) -> anyhow::Result<()> {
    let below = sys::clone_tree(dir, sys::Unstamped::AsBelow).context("opening the directory")?;
    let tree = Tree::new(below, CACHED_DESCRIPTORS)?;
    let (journal, _) = Journal::open(&scratch.join("queue"), journal::Options::default())?;
    let options = Options {
        atime: false,
        writes_back: false,
        gap_file: scratch.join("gap"),
        counters: Arc::new(SetCounters::default()),
        live: Live::none(),
        activity: None,
        records: false,
    };
    let (capture, _) = Capture::new(tree, Arc::new(journal), options, Arc::new(Nobody))?;
    let how = FuseMount {
        source: "uncaptured".to_owned(),
        read_only: false,
        restrictions: [false; 6],
        max_read: u32::try_from(limits::PAYLOAD_BYTES_MAX).unwrap_or(u32::MAX),
        is_beneath: false,
        device: None,
    };
    fuse::serve(Arc::new(capture), mountpoint, &how, THREADS)?.run()?;
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(dir), Some(mountpoint), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        anyhow::bail!("usage: uncaptured DIR MOUNTPOINT");
    };
    let scratch = std::env::temp_dir().join(format!("uncaptured-{}", std::process::id()));
    std::fs::create_dir(&scratch)?;
    let served = serve(&dir, &mountpoint, &scratch);
    std::fs::remove_dir_all(&scratch)?;
    served
}
