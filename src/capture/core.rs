//! What every captured call shares: locks, the append, gaps, the check of uncovered time.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::activity::Activity;
use crate::codec::Draft;
use crate::journal::{self, Journal};
use crate::live::{Intent, Live};
use crate::passthrough::{Error, Handles, OpenDir, OpenFile, Tree};
use crate::stats::SetCounters;
use crate::sync::{Mutex, Rank};
use crate::sys::{self, Credentials, FileStat, Identity, NO_GROUP};
use crate::types::{Body, Caller, FileId, Name, Op, RequestId, Seq, Time};

use super::gap::{Gap, open_gap_file};
use super::order::{DirRename, Locked, Order, Stillness};

/// One request of the kernel, as far as capture needs it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Who asked.
    pub caller: Caller,
    /// The kernel's number of the request.
    pub unique: u64,
    /// What becomes of set-id bits when content changes.
    pub set_id: SetId,
}

/// What becomes of the set-user-id and set-group-id bits of a file whose content or owner is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetId {
    /// They stay, or the call does not concern them.
    Keep,
    /// The kernel says that they are to go; which, depends on the caller's groups.
    Strip,
    /// The kernel does not say: the caller's capabilities decide.
    AsCaller,
    /// They stay, and file capabilities too: pages of a mapping are written back.
    Mapped,
}

impl Call {
    /// A call of our own.
    pub const OURS: Call = Call {
        caller: Caller {
            uid: 0,
            gid: 0,
            pid: 0,
        },
        unique: 0,
        set_id: SetId::Keep,
    };
}

/// Who wants to know about what goes wrong with the queue; implemented above. Called under inode
/// locks: note it, wake somebody, return.
pub trait Observer: Send + Sync {
    /// A gap stands in the journal: a mirror of what is in doubt is wanted.
    fn gap_recorded(&self);
    /// The backlog was given up; these cursors lost their records.
    fn backlog_given_up(&self, cursors: Vec<String>, why: String);
    /// An operation could not be recorded.
    fn record_lost(&self, why: String);
}

/// Time during which nobody watched the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncovered {
    /// The last `ctime` that was captured.
    pub after: Time,
    /// When the mount was there again, its requests waiting; what is captured later has a later
    /// `ctime`. While the mount is being made: the end of time.
    pub until: Time,
}

impl Uncovered {
    /// Was an inode with this `ctime` last changed while nobody watched?
    pub fn covers(&self, ctime: Time) -> bool {
        ctime > self.after && ctime <= self.until
    }
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct Options {
    /// Replicate access times that are set explicitly.
    pub atime: bool,
    /// The kernel caches writes, and says itself when a file was modified.
    pub writes_back: bool,
    /// Where the durable gap flag lives (a file, created here).
    pub gap_file: PathBuf,
    /// What is counted.
    pub counters: Arc<SetCounters>,
    /// What survives this process.
    pub live: Live,
    /// Where what is changed is noted for the case of a loss of power.
    pub activity: Option<Arc<Activity>>,
    /// Record what is done. Without it nothing can be replicated: for measuring what recording costs.
    pub records: bool,
}

/// The file system with capture.
pub struct Capture {
    pub(super) tree: Tree,
    pub(super) journal: Arc<Journal>,
    pub(super) options: Options,
    /// Open files of the mount.
    pub files: Handles<OpenFile>,
    /// Open directories of the mount.
    pub dirs: Handles<OpenDir>,
    order: Order,
    incarnation: u64,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) gap_open: AtomicBool,
    /// Appends that failed, and whose files are in no gap yet.
    pub(super) unnamed: AtomicU64,
    pub(super) gap: Mutex<(Gap, File)>,
    last_ctime_ns: AtomicU64,
    last_doubt: AtomicU64,
    checking: AtomicBool,
    uncovered: Mutex<Option<Uncovered>>,
    /// What the check need not put in doubt. Rank `Leaf`.
    in_doubt: Mutex<HashSet<FileId>>,
    /// Directories that moved to another parent while the check walks, so that it may have missed
    /// them. Rank `Leaf`; nothing happens under it.
    moved: Mutex<Vec<FileId>>,
    /// Changes whenever a file's bytes move (collapse, insert): images in progress start anew.
    pub(super) shifts: AtomicU64,
    /// Images whose content was not in memory.
    pub(super) cold: AtomicU64,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("root", &self.tree.root_id())
            .finish_non_exhaustive()
    }
}

/// `None` for the time before 1970, which no watch compares.
fn nanoseconds(time: Time) -> u64 {
    u64::try_from(time.secs)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        + u64::from(time.nanos)
}

impl Capture {
    /// Puts capture over a tree. Returns also whether the durable gap flag was set, that is: whether
    /// an earlier run lost records and never got to say which.
    ///
    /// # Errors
    /// When the gap file cannot be made.
    pub fn new(
        tree: Tree,
        journal: Arc<Journal>,
        options: Options,
        observer: Arc<dyn Observer>,
    ) -> std::io::Result<(Capture, bool)> {
        let (file, was_set) = open_gap_file(&options.gap_file)?;
        let descriptors = sys::open_files_limit();
        let live = options.live.clone();
        let capture = Capture {
            tree,
            journal,
            options,
            files: Handles::new(descriptors / 2, &live, "files"),
            dirs: Handles::new(descriptors / 16, &live, "dirs"),
            order: Order::new(),
            incarnation: match live.incarnation() {
                0 => sys::random_u128()? as u64,
                incarnation => incarnation,
            },
            observer,
            gap_open: AtomicBool::new(false),
            unnamed: AtomicU64::new(0),
            gap: Mutex::new(Rank::Suspects, (Gap::default(), file)),
            last_ctime_ns: AtomicU64::new(0),
            last_doubt: AtomicU64::new(0),
            checking: AtomicBool::new(false),
            uncovered: Mutex::new(Rank::Leaf, None),
            in_doubt: Mutex::new(Rank::Leaf, HashSet::new()),
            moved: Mutex::new(Rank::Leaf, Vec::new()),
            shifts: AtomicU64::new(0),
            cold: AtomicU64::new(0),
        };
        for id in capture.files.ids().into_iter().chain(capture.dirs.ids()) {
            capture.tree.note_open(id);
        }
        Ok((capture, was_set))
    }

    /// Bytes of the operations that were recorded, mirrors left out.
    pub fn captured_bytes(&self) -> u64 {
        self.options.counters.captured_bytes.get()
    }

    /// What survives this process.
    pub fn live(&self) -> &Live {
        &self.options.live
    }

    /// Which mount its requests belong to.
    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// What was noted last did not happen.
    pub(super) fn retract(&self) {
        self.options.live.flight().retract();
    }

    /// Notes what the call is about to change; before it does.
    pub(super) fn intend(&self, call: &Call, intent: impl FnOnce() -> Intent) {
        if call.unique == 0 || !self.options.live.is_kept() {
            return;
        }
        let noted = self
            .options
            .live
            .flight()
            .intend(&intent(), self.journal.end());
        if !noted {
            let error = std::io::Error::from_raw_os_error(libc::E2BIG);
            self.options.live.note_missing(&error);
        }
    }

    /// The tree below.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is counted.
    pub fn counters(&self) -> &Arc<SetCounters> {
        &self.options.counters
    }

    /// Does the kernel cache writes?
    pub fn writes_back(&self) -> bool {
        self.options.writes_back
    }

    /// The activity log.
    pub fn activity(&self) -> Option<&Activity> {
        self.options.activity.as_deref()
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The latest `ctime` that a captured operation left, as nanoseconds since 1970.
    pub fn last_ctime_ns(&self) -> u64 {
        self.last_ctime_ns.load(Ordering::Acquire)
    }

    /// These are in doubt already: the check passes over them.
    pub fn known_in_doubt(&self, ids: HashSet<FileId>) {
        *self.in_doubt.lock() = ids;
    }

    /// From now until [`Capture::end_check`], inodes that were last changed in `uncovered` are put in
    /// doubt before an operation touches them.
    pub fn begin_check(&self, uncovered: Uncovered) {
        *self.uncovered.lock() = Some(uncovered);
        self.checking.store(true, Ordering::Release);
    }

    /// The walk over what it knows is done: takes the directories that moved meanwhile, which are to
    /// be walked too. When there are none the check ends, in the same step.
    pub fn end_check(&self) -> Vec<FileId> {
        let moved = {
            let mut moved = self.moved.lock();
            if moved.is_empty() {
                self.checking.store(false, Ordering::Release);
            }
            std::mem::take(&mut *moved)
        };
        if moved.is_empty() {
            *self.in_doubt.lock() = HashSet::new();
        }
        moved
    }

    /// A directory got another parent: a walk under way may have been to the new one and not yet to
    /// the old one. Called under the directory's lock.
    pub(super) fn note_moved(&self, id: FileId) {
        self.tree.members().note_dir_moved();
        let mut moved = self.moved.lock();
        if self.is_checking() {
            moved.push(id);
        }
    }

    /// Is the check of an uncovered time under way?
    pub fn is_checking(&self) -> bool {
        self.checking.load(Ordering::Acquire)
    }

    /// Takes the locks of these inodes, all of which are to be changed.
    pub fn lock(&self, ids: &[FileId]) -> Locked<'_> {
        self.lock_to_change(DirRename::No, ids, ids)
    }

    /// Takes the locks of directories, whose entries are to be changed, and of the inodes that these
    /// name. Those need no mark: names are told by the directories, and what is in the inodes stays.
    pub(super) fn lock_names(&self, dirs: &[FileId], inodes: &[FileId]) -> Locked<'_> {
        self.lock_to_change(DirRename::No, &[dirs, inodes].concat(), dirs)
    }

    pub(super) fn lock_for_dir_move(&self, dirs: &[FileId], inodes: &[FileId]) -> Locked<'_> {
        self.lock_to_change(DirRename::Yes, &[dirs, inodes].concat(), dirs)
    }

    fn lock_to_change(
        &self,
        dir_rename: DirRename,
        ids: &[FileId],
        changed: &[FileId],
    ) -> Locked<'_> {
        // Before the locks: it may wait for a disk.
        let activity = self.options.activity.as_ref();
        let underway = activity.map(|activity| activity.enter(changed));
        let mut locked = self.order.lock(dir_rename, ids);
        locked.underway = underway;
        self.check_doubts(ids);
        locked
    }

    /// `id` was made just now in a directory that is locked.
    pub(super) fn note_new(&self, locked: &Locked<'_>, id: FileId) {
        if let (Some(activity), Some(underway)) = (&self.options.activity, &locked.underway) {
            activity.note_new(id, underway);
        }
    }

    /// Waits until no change is under way; none begins while what is returned lives. For moments only: programs
    /// wait for it. `None`: something was still under way at `until`.
    pub fn hold_still(&self, until: Instant) -> Option<Stillness<'_>> {
        self.order.lock_all(until)
    }

    /// The last record that put something in doubt or began a mirror, as far as this worker knows: where a target
    /// has applied it and says that all is well, the replica is whole.
    pub fn last_doubt(&self) -> Seq {
        Seq(self.last_doubt.load(Ordering::Acquire))
    }

    pub(super) fn note_doubt(&self, seq: Seq) {
        self.last_doubt.fetch_max(seq.0, Ordering::AcqRel);
    }

    /// Takes the locks without looking for doubts: for images, which settle them.
    pub(super) fn lock_for_image(&self, id: FileId) -> Locked<'_> {
        self.order.lock(DirRename::No, &[id])
    }

    /// Does the stream say already that this is in doubt?
    pub fn is_in_doubt(&self, id: FileId) -> bool {
        self.in_doubt.lock().contains(&id)
    }

    fn check_doubts(&self, ids: &[FileId]) {
        if !self.is_checking() {
            return;
        }
        let Some(uncovered) = *self.uncovered.lock() else {
            return;
        };
        let in_doubt = |id: &&FileId| {
            let stat = self.tree.stat(**id);
            stat.is_ok_and(|stat| uncovered.covers(stat.ctime)) && !self.is_in_doubt(**id)
        };
        let ids: Vec<FileId> = ids.iter().filter(in_doubt).copied().collect();
        if !ids.is_empty() {
            self.doubt(&ids, false);
        }
    }

    /// Makes this thread act for the caller on the file system below, for a call that leaves set-id
    /// bits as they are.
    pub(super) fn act_as(&self, call: &Call) -> Result<(), Error> {
        adopt(Identity {
            uid: call.caller.uid,
            gid: call.caller.gid,
            groups: [NO_GROUP; 2],
            keeps_suid: true,
        })
    }

    /// As [`Capture::act_as`], for a call that may take set-id bits of the file `fd` away: the file
    /// system below then judges with the caller's right to keep them. Returns the mode before.
    ///
    /// Rights and groups are looked up only for files that have such bits. Membership in the file's
    /// group (with a chown in its new one) decides about set-group-id without group execution.
    pub(super) fn act_changing(
        &self,
        call: &Call,
        fd: BorrowedFd<'_>,
        id: FileId,
        new_gid: Option<u32>,
    ) -> Result<u32, Error> {
        if matches!(call.set_id, SetId::Keep | SetId::Mapped) {
            self.act_as(call)?;
            return Ok(0);
        }
        let stat = self.tree.stat_fd(fd, id)?;
        if stat.is_dir() || stat.mode & (libc::S_ISUID | libc::S_ISGID) == 0 {
            self.act_as(call)?;
            return Ok(stat.mode);
        }
        let rights = Credentials::of(call.caller.pid);
        let of = |gid: Option<u32>| {
            gid.filter(|gid| rights.is_in_group(*gid))
                .unwrap_or(NO_GROUP)
        };
        adopt(Identity {
            uid: call.caller.uid,
            gid: call.caller.gid,
            groups: [of(Some(stat.gid)), of(new_gid)],
            keeps_suid: call.set_id == SetId::AsCaller && rights.keeps_set_id(),
        })?;
        Ok(stat.mode)
    }

    pub(super) fn act_as_root(&self) -> Result<(), Error> {
        self.act_as(&Call::OURS)
    }

    pub(super) fn body(&self, call: &Call, op: Op, path: Vec<u8>) -> Body {
        let request = RequestId {
            incarnation: self.incarnation,
            // One that is sent again is the same.
            unique: call.unique,
        };
        Body {
            caller: call.caller,
            request,
            path,
            ..Body::of(op)
        }
    }

    /// stat after the operation, whose `ctime` becomes part of the covered time.
    pub(super) fn stat_after(&self, fd: BorrowedFd<'_>, id: FileId) -> Result<FileStat, Error> {
        let stat = self.tree.stat_fd(fd, id)?;
        self.last_ctime_ns
            .fetch_max(nanoseconds(stat.ctime), Ordering::AcqRel);
        Ok(stat)
    }

    /// Records what just took effect. `touched` are the files in doubt should that fail.
    pub(super) fn record(
        &self,
        locked: &Locked<'_>,
        body: &Body,
        payload: &[u8],
        touched: &[FileId],
    ) {
        self.record_after(locked, body, payload, touched, None::<fn()>);
    }

    /// As [`Capture::record`]; calls `answer` as soon as nothing else can be recorded before. The record is made
    /// while the program goes on already. Should this worker die in between, the next one finds what was
    /// intended, as it does for a request without an answer.
    pub(super) fn record_answering(
        &self,
        locked: &Locked<'_>,
        body: &Body,
        payload: &[u8],
        touched: &[FileId],
        answer: impl FnOnce(),
    ) {
        self.record_after(locked, body, payload, touched, Some(answer));
    }

    fn record_after(
        &self,
        locked: &Locked<'_>,
        body: &Body,
        payload: &[u8],
        touched: &[FileId],
        mut answer: Option<impl FnOnce()>,
    ) {
        debug_assert!(
            touched.iter().any(|&id| locked.holds(id)),
            "recording needs the lock"
        );
        if !self.options.records {
            return answer.into_iter().for_each(|answer| answer());
        }
        if self.gap_open.load(Ordering::Acquire) {
            self.close_gap();
        }
        let draft = Draft::new(body, payload);
        let failures = Cell::new(0);
        let failed = || {
            failures.set(failures.get() + 1);
            self.unnamed.fetch_add(1, Ordering::AcqRel);
        };
        let appended = self.append_or_give_up(|| {
            let first = || {
                if let Some(answer) = answer.take() {
                    self.options.live.flight().note_answered();
                    answer();
                }
            };
            self.journal.append_after(&draft, first, failed)
        });
        match appended {
            Ok(_) => {
                let counters = &self.options.counters;
                counters.captured.note(draft.kind());
                counters.captured_bytes.add(payload.len() as u64);
            }
            Err(error) => {
                self.options.counters.gaps.add(1);
                let gap = Gap {
                    ids: touched.to_vec(),
                    everything: false,
                };
                self.open_gap(gap, &error);
            }
        }
        self.unnamed.fetch_sub(failures.get(), Ordering::AcqRel);
        if let Some(answer) = answer {
            // The journal took nothing, and what is missing is known by now.
            answer();
        }
    }

    /// Appends; a full queue is given up and the record appended to the new one.
    pub(super) fn append(&self, draft: &Draft<'_>) -> Result<Seq, journal::Error> {
        self.append_or_give_up(|| self.journal.append(draft))
    }

    pub(super) fn append_group(&self, drafts: &[Draft<'_>]) -> Result<Seq, journal::Error> {
        self.append_or_give_up(|| self.journal.append_group(drafts))
    }

    fn append_or_give_up(
        &self,
        mut append: impl FnMut() -> Result<Seq, journal::Error>,
    ) -> Result<Seq, journal::Error> {
        let first = append();
        let Err(error @ journal::Error::Full { .. }) = first else {
            return first;
        };
        let cursors = self.journal.give_up()?;
        self.observer.backlog_given_up(cursors, error.to_string());
        append()
    }

    /// Appends a record of a job (mirror begin and end).
    ///
    /// # Errors
    /// What the journal says.
    pub fn append_job(&self, op: Op) -> Result<Seq, journal::Error> {
        let is_doubt = matches!(op, Op::MirrorBegin { .. } | Op::Gap { .. });
        let seq = self.append(&Draft::new(&Body::of(op), &[]))?;
        if is_doubt {
            self.note_doubt(seq);
        }
        Ok(seq)
    }
}

fn adopt(who: Identity) -> Result<(), Error> {
    sys::adopt(who).map_err(|source| Error {
        op: "taking the caller's identity",
        id: None,
        source,
    })
}

/// The directory's path with the name after it; for people only.
pub(super) fn joined(tree: &Tree, dir: (FileId, &impl AsFd), name: &Name) -> Vec<u8> {
    let mut path = tree.path_hint(dir.0, dir.1.as_fd());
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}

pub(super) fn c_name(name: &Name) -> CString {
    // A name has no NUL: its constructor saw to that.
    CString::new(name.as_bytes()).unwrap_or_default()
}
