//! A replica that takes no more room than its source may have.
//!
//! Usage is what stat says: every inode below the root and in limbo once, with its allocated bytes. It is
//! counted by a walk when there is a quota and nothing was counted yet, and kept from then on by looking at
//! what an operation changes before and after it. Where that goes wrong (a file system drops what it had
//! allocated ahead, somebody else removes files), the count is taken anew before an operation is refused,
//! though not all the time.
//!
//! Refused is what may allocate, before it is begun. What is under way may overrun by its own payload; names
//! move, shrink and go whatever is in use. Without a quota nothing is looked at.
//!
//! A stream that is idle when the first quota is set is counted with its next operation.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use crate::sys;
use crate::types::{Attrs, Name, Node, Remap, Time, Xattr};

use super::replica::{
    Inode, InodeKind, Marker, Moving, Object, Place, Range, Replica, Syncer, Weight,
};
use super::terms::{Lease, Terms, Usage};

/// Between two counts: at least this, and this many times as long as one takes.
const RECOUNT_PAUSE_NS: u64 = 30_000_000_000;
const RECOUNT_PAUSE_FACTOR: u64 = 20;

/// Modes of fallocate(2) that give room back, or take none.
const FREEING: i32 = libc::FALLOC_FL_PUNCH_HOLE
    | libc::FALLOC_FL_COLLAPSE_RANGE
    | libc::FALLOC_FL_INSERT_RANGE
    | libc::FALLOC_FL_UNSHARE_RANGE;

/// See the module's doc.
#[derive(Debug)]
pub struct Metered<R: Replica> {
    inner: R,
    lease: Lease,
    /// Those that `mine` is charged to.
    terms: Arc<Terms>,
    /// Of this replica; `None`: not counted.
    mine: Option<Usage>,
    recount_at_ns: u64,
}

impl<R: Replica> Metered<R> {
    /// Counts, if there is a quota.
    ///
    /// # Errors
    /// What the replica says while it is walked.
    pub fn new(inner: R, lease: impl Into<Lease>) -> io::Result<Metered<R>> {
        let lease = lease.into();
        let mut metered = Metered {
            inner,
            terms: lease.terms(),
            lease,
            mine: None,
            recount_at_ns: 0,
        };
        metered.follow_terms()?;
        Ok(metered)
    }

    /// What this replica uses; `None`: there is no quota, and nothing was counted.
    pub fn usage(&self) -> Option<Usage> {
        self.mine
    }

    /// Begins or ends to count, as the terms are now. True: counting.
    fn follow_terms(&mut self) -> io::Result<bool> {
        let terms = self.lease.terms();
        if !Arc::ptr_eq(&terms, &self.terms) {
            if let Some(mine) = self.mine.take() {
                self.terms.give_back(mine);
            }
            self.terms = terms;
        }
        match (self.terms.has_quota(), self.mine) {
            (false, None) => Ok(false),
            (false, Some(mine)) => {
                self.terms.give_back(mine);
                self.mine = None;
                Ok(false)
            }
            (true, Some(_)) => Ok(true),
            (true, None) => self.count().map(|()| true),
        }
    }

    fn count(&mut self) -> io::Result<()> {
        let began = sys::monotonic_ns();
        let counted = self.walk()?;
        let ended = sys::monotonic_ns();
        let pause = (ended - began).saturating_mul(RECOUNT_PAUSE_FACTOR);
        self.recount_at_ns = ended.saturating_add(pause.max(RECOUNT_PAUSE_NS));
        self.terms.charge(counted);
        if let Some(before) = self.mine.replace(counted) {
            self.terms.give_back(before);
        }
        Ok(())
    }

    fn walk(&mut self) -> io::Result<Usage> {
        let mut usage = Usage::default();
        let mut linked = HashSet::new();
        let mut pending = vec![self.inner.root(), self.inner.limbo()];
        for dir in &pending {
            usage.bytes += self.inner.allocated(*dir)?;
        }
        while let Some(dir) = pending.pop() {
            let Some(names) = present(self.inner.names(dir))? else {
                continue;
            };
            for name in &names {
                let found = self.inner.weigh(Place { dir, name });
                let Some(found) = present(found)?.flatten() else {
                    continue;
                };
                if found.inode.kind == InodeKind::Dir {
                    pending.push(found.inode);
                } else if found.nlink > 1 && !linked.insert(found.inode.object) {
                    continue;
                }
                usage.bytes += found.bytes;
                usage.files += 1;
            }
        }
        Ok(usage)
    }

    /// May this be begun, which takes `more` or an unknown amount?
    fn admit(&mut self, more: Usage) -> io::Result<()> {
        if !self.follow_terms()? {
            return Ok(());
        }
        let Err(reached) = self.terms.admit(more) else {
            return Ok(());
        };
        if sys::monotonic_ns() < self.recount_at_ns {
            return Err(reached.into());
        }
        self.count()?;
        self.terms.admit(more).map_err(io::Error::from)
    }

    fn admit_bytes(&mut self, bytes: u64) -> io::Result<()> {
        self.admit(Usage { bytes, files: 0 })
    }

    fn add(&mut self, more: Usage) {
        if let Some(mine) = &mut self.mine {
            mine.bytes += more.bytes;
            mine.files += more.files;
            self.terms.charge(more);
        }
    }

    /// Never more than was charged: what nobody told us of is not ours to give back.
    fn take(&mut self, less: Usage) {
        if let Some(mine) = &mut self.mine {
            let less = Usage {
                bytes: less.bytes.min(mine.bytes),
                files: less.files.min(mine.files),
            };
            mine.bytes -= less.bytes;
            mine.files -= less.files;
            self.terms.give_back(less);
        }
    }

    /// Does something to an inode, and charges by how much it has grown. Also where the call failed: part
    /// of it may be done.
    fn around<T>(
        &mut self,
        inode: Inode,
        call: impl FnOnce(&mut R) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.follow_terms()? {
            return call(&mut self.inner);
        }
        let before = self.inner.allocated(inode);
        let done = call(&mut self.inner);
        if let (Ok(before), Ok(after)) = (before, self.inner.allocated(inode)) {
            let bytes = |bytes| Usage { bytes, files: 0 };
            self.add(bytes(after.saturating_sub(before)));
            self.take(bytes(before.saturating_sub(after)));
        }
        done
    }

    /// What goes with a name, if it is the last.
    fn goes_with(&mut self, at: Place<'_>) -> io::Result<Usage> {
        if !self.follow_terms()? {
            return Ok(Usage::default());
        }
        let found = self.inner.weigh(at)?;
        let gone = found.filter(|found| found.inode.kind == InodeKind::Dir || found.nlink <= 1);
        Ok(gone.map_or(Usage::default(), |gone| Usage {
            bytes: gone.bytes,
            files: 1,
        }))
    }
}

impl<R: Replica> Drop for Metered<R> {
    fn drop(&mut self) {
        if let Some(mine) = self.mine.take() {
            self.terms.give_back(mine);
        }
    }
}

/// Passes over what is gone, and over what is mounted there: it is no part of the replica.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => Ok(None),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(None),
        found => found.map(Some),
    }
}

impl<R: Replica> Replica for Metered<R> {
    fn root(&self) -> Inode {
        self.inner.root()
    }

    fn limbo(&self) -> Inode {
        self.inner.limbo()
    }

    fn instance(&self) -> u64 {
        self.inner.instance()
    }

    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
    }

    fn remap(&self) -> Option<&Remap> {
        self.inner.remap()
    }

    fn set_remap(&mut self, remap: Option<Remap>) {
        self.inner.set_remap(remap);
    }

    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>> {
        self.inner.lookup(at)
    }

    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>> {
        self.inner.inspect(at)
    }

    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode> {
        self.admit(Usage { bytes: 0, files: 1 })?;
        let made = self.around(at.dir, |inner| inner.create(at, node))?;
        if self.mine.is_some() {
            let bytes = self.inner.allocated(made).unwrap_or(0);
            self.add(Usage { bytes, files: 1 });
        }
        Ok(made)
    }

    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>> {
        self.inner.read_link(inode)
    }

    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)> {
        self.inner.special(inode)
    }

    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()> {
        self.admit_bytes(0)?;
        self.around(at.dir, |inner| inner.link(inode, at))
    }

    fn unlink(&mut self, at: Place<'_>) -> io::Result<()> {
        let gone = self.goes_with(at)?;
        self.around(at.dir, |inner| inner.unlink(at))?;
        self.take(gone);
        Ok(())
    }

    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()> {
        let gone = self.goes_with(at)?;
        self.around(at.dir, |inner| inner.rmdir(at))?;
        self.take(gone);
        Ok(())
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()> {
        let gone = match moving {
            Moving::Over => self.goes_with(to)?,
            Moving::ToFree | Moving::Exchange => Usage::default(),
        };
        self.around(to.dir, |inner| inner.rename(from, to, moving))?;
        self.take(gone);
        Ok(())
    }

    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>> {
        self.inner.names(dir)
    }

    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)> {
        self.inner.place_of_dir(dir)
    }

    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        self.admit_bytes(0)?;
        self.around(file, |inner| inner.write(file, offset, data))
    }

    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()> {
        self.around(file, |inner| inner.truncate(file, size))
    }

    fn fallocate(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()> {
        if range.mode & FREEING == 0 {
            self.admit_bytes(range.length)?;
        }
        self.around(file, |inner| inner.fallocate(file, range, seq))
    }

    fn shift_pending(&mut self, seq: u64) -> io::Result<bool> {
        self.inner.shift_pending(seq)
    }

    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs> {
        self.inner.attrs(inode)
    }

    fn allocated(&mut self, inode: Inode) -> io::Result<u64> {
        self.inner.allocated(inode)
    }

    fn weigh(&mut self, at: Place<'_>) -> io::Result<Option<Weight>> {
        self.inner.weigh(at)
    }

    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()> {
        self.inner.set_owner(inode, uid, gid)
    }

    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()> {
        self.inner.set_mode(inode, mode)
    }

    fn set_times(
        &mut self,
        inode: Inode,
        atime: Option<Time>,
        mtime: Option<Time>,
    ) -> io::Result<()> {
        self.inner.set_times(inode, atime, mtime)
    }

    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>> {
        self.inner.xattrs(inode)
    }

    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.admit_bytes(0)?;
        self.around(inode, |inner| inner.set_xattr(inode, name, value))
    }

    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()> {
        self.around(inode, |inner| inner.remove_xattr(inode, name))
    }

    fn forget(&mut self, object: Object) {
        self.inner.forget(object);
    }

    fn rest(&mut self) {
        self.inner.rest();
    }

    fn mark(&mut self, marker: Marker) -> io::Result<()> {
        self.inner.mark(marker)
    }

    fn marked(&mut self) -> io::Result<Option<Marker>> {
        self.inner.marked()
    }

    fn withholds(&mut self) -> io::Result<bool> {
        self.inner.withholds()
    }

    fn note_withholding(&mut self) -> io::Result<()> {
        self.inner.note_withholding()
    }

    fn syncer(&self) -> io::Result<Syncer> {
        self.inner.syncer()
    }

    fn path_of(&mut self, inode: Inode) -> String {
        self.inner.path_of(inode)
    }
}
