//! Opening: what a crash left, and what is made of it.
//!
//! Everything is looked at before anything is touched. Then only what a crash can have damaged is
//! scanned: after a crash of the process the last segment, after one of the host every segment that was
//! not durable as a whole (a backlog is flushed in the background, so these are few).
//! [`Recovery::letters`] names the rows that applied.
//!
//! "Another boot" stands for another mount of the file system, too: the page cache of the last one is
//! gone as well, and not written where that one was shut down by an error, or its device went away.
//!
//! | | found | done | records lost |
//! |---|---|---|---|
//! | A | nothing | an empty journal at position 0, durable | no |
//! | B | same boot, the tail ends with a record | nothing | no |
//! | C | same boot, the tail ends inside a record | cut at its start: what it was to tell is known from the intent that its worker left, or its files are in doubt | no |
//! | D | the tail ends inside a group | cut at the group's start | no |
//! | E | same boot, no sound record somewhere in the tail, beyond the synced mark | cut there | yes |
//! | F | another boot | what is sound is flushed, a new segment is begun that says so | perhaps |
//! | G | another boot, the sound records end before the bytes do | cut there, later segments removed: after a hole there is no order | yes |
//! | H | no sound record, but before the synced mark | kept; scanned on from the mark; readers report the damage | no |
//! | I | last segments without a readable header | removed; if none is left, the name tells the position | yes |
//! | J | files never finished; segments from before a reset | removed | no |
//! | K | a segment missing or headless before others | kept; readers report it | no |
//! | L | no segment, but cursors or a mark | empty at the highest position known | yes |
//! | M | no index, or one that does not open | made from the files; an old one is set aside | no |
//! | N | no cursor file | made from the index | no |
//! | O | files that are not ours, or of a newer format | [`Error::Foreign`], [`Error::UnknownVersion`], nothing touched | no |
//! | P | somebody else has it open | [`Error::Locked`], nothing touched | no |
//!
//! Zeroes behind the last record of the segment that was written to are no bytes: room was made ahead there
//! (`ahead.rs`). They are cut off in each row; a record of which the beginning stands in front of zeroes
//! is torn (C).
//!
//! "Records lost" means that numbers which had been given would be given again. That, and another
//! boot, is for the owner of the stream to answer with a new history.
//!
//! Why is a bad record inside the tail the end of it (E, G), and not skipped? Behind a hole nothing is a
//! prefix any more. Why is it kept before the mark (H, K)? There it is no crash but a broken disk, and
//! cutting would hide it together with all that follows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::core::{Core, Options, cursor_key, cursor_value, entry_of, fact_entries, fact_key};
use super::cursor::{self, Cursors};
use super::error::{Error, io};
use super::facts::{Facts, sync_dir};
use super::index::{self, Content, Owner};
use super::repair::{Parts, Repair};
use super::space::Ballast;
use super::survey::Survey;
use crate::sys;
use crate::types::Seq;

/// With less free than this the ballast is released before anything is opened.
const FREE_BYTES_TIGHT: u64 = 1 << 20;

/// What opening found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The rows of the table above that applied, in alphabetical order.
    pub letters: String,
    /// The oldest record kept.
    pub first: Seq,
    /// The last record.
    pub last: Seq,
    /// Bytes cut off or removed at the end.
    pub truncated_bytes: u64,
    /// The index was not usable and has been made from the files.
    pub index_rebuilt: bool,
    /// The host has been started anew since, or the file system mounted anew: what was not durable may
    /// be missing.
    pub boot_changed: bool,
    /// Records that had been appended are missing at the end, so their numbers would be given a
    /// second time: the owner of the stream begins a new history.
    pub records_lost: bool,
}

/// Opens, repairs, and puts the parts together.
pub(super) fn open(dir: &Path, options: Options) -> Result<(Arc<Core>, Owner, Recovery), Error> {
    let mut survey = Survey::of(dir)?;
    let seg_dir = make_dirs(dir)?;
    let boot = page_cache_of(&seg_dir)?;
    let lock = lock(dir)?;
    let ballast = Ballast::new(dir);
    if super::space::free_bytes(dir)? < FREE_BYTES_TIGHT {
        ballast.release();
    }
    let found = Cursors::open(&dir.join("cursors"))?;
    let mut repair = Repair::new(&seg_dir, boot, found.mark);
    let generations = found.table.iter().map(|(_, generation, _)| *generation);
    repair.sweep(&mut survey, generations.max())?;
    let of_now = found
        .table
        .iter()
        .filter(|(_, g, _)| *g == repair.generation);
    let position = of_now.map(|(_, _, seq)| *seq).max();
    repair.segments(&survey, position)?;
    let opened = index::open(&dir.join("index"))?;
    let facts = Facts::open(&dir.join("facts"))?;
    facts.mend(|key| opened.content.get(&fact_key(key)).cloned())?;
    let generation = repair.generation;
    let table = merge_cursors(&found, &opened.content, generation, repair.end().seq);
    if !found.existed && !table.is_empty() {
        repair.note('N');
    }
    found.cursors.settle(table, generation)?;
    let index_rebuilt = opened.is_rebuilt && !repair.letters.contains('A');
    if index_rebuilt {
        repair.note('M');
    }
    let index = Arc::clone(&opened.index);
    let core = repair.build(Parts {
        dir,
        options,
        lock,
        cursors: found.cursors,
        facts,
        index,
        ballast,
    })?;
    core.index.replace(&opened.content, wanted_content(&core));
    core.ballast.restore(options.free_bytes_min);
    let recovery = Recovery {
        letters: repair.letters(),
        first: core.first(),
        last: core.end(),
        truncated_bytes: repair.truncated_bytes,
        index_rebuilt,
        boot_changed: repair.boot_changed,
        records_lost: repair.records_lost,
    };
    tracing::info!(dir = %dir.display(), ?recovery, "journal opened");
    Ok((core, opened.owner, recovery))
}

/// Names the page cache that holds what is written to `dir` and not flushed yet: of this boot, and of
/// this mount of the file system. 40 bytes.
fn page_cache_of(dir: &Path) -> Result<String, Error> {
    let boot = sys::boot_id().map_err(io("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    let opened = File::open(dir).map_err(io("open", dir))?;
    let mount = sys::mount_instance(opened.as_fd()).map_err(io("stat", dir))?;
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
    Ok(format!("{boot:.23}.{mount:016x}"))
}

fn make_dirs(dir: &Path) -> Result<PathBuf, Error> {
    let seg_dir = dir.join("seg");
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    if !seg_dir.exists() {
        builder.create(&seg_dir).map_err(io("create", &seg_dir))?;
        sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
    }
    Ok(seg_dir)
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(io("open", &path))?;
    match sys::flock_exclusive(file.as_fd()).map_err(io("lock", &path))? {
        true => Ok(file),
        false => Err(Error::Locked {
            path: dir.to_path_buf(),
        }),
    }
}

/// The file is right about which cursors there are; the index helps where the file is lost. Both
/// only hold positions that were true, so the higher one is.
fn merge_cursors(
    found: &cursor::Found,
    content: &Content,
    generation: u64,
    end: Seq,
) -> BTreeMap<String, Seq> {
    let mut table = BTreeMap::new();
    for (name, theirs, seq) in &found.table {
        if *theirs == generation {
            table.insert(name.clone(), *seq);
        }
    }
    for (key, value) in content {
        let name = key.strip_prefix(b"c/").map(String::from_utf8_lossy);
        let Some((name, (theirs, seq))) = name.zip(rmp_serde::from_slice::<(u64, Seq)>(value).ok())
        else {
            continue;
        };
        if theirs == generation && (!found.existed || table.contains_key(name.as_ref())) {
            let at = table.entry(name.into_owned()).or_insert(seq);
            *at = seq.max(*at);
        }
    }
    // Beyond an end that was lost there is nothing to keep.
    table.values_mut().for_each(|seq| *seq = end.min(*seq));
    table
}

fn wanted_content(core: &Core) -> Content {
    let mut content: Content = fact_entries(&core.facts).collect();
    for segment in core.segments.lock().iter() {
        let (key, value) = entry_of(segment);
        content.insert(key, value);
    }
    let generation = core.generation();
    for (name, seq) in core.cursors.all() {
        content.insert(cursor_key(&name), cursor_value(generation, seq));
    }
    content
}
