//! Data and attributes: physical and idempotent, by identity, never by name.

use crate::types::{Attrs, Body, FileId, Op, RenameMode, Time, Xattr, is_own_xattr};

use super::engine::{Applier, Record};
use super::error::{At, Fault};
use super::replica::{Inode, InodeKind, Range, Replica};

const S_IFMT: u32 = libc::S_IFMT;

/// Attributes of extended kind that belong to the host, not to the tree: never removed.
fn is_host_label(name: &[u8]) -> bool {
    const LABELS: [&[u8]; 4] = [
        b"security.selinux",
        b"security.SMACK64",
        b"security.ima",
        b"security.evm",
    ];
    LABELS.contains(&name)
}

impl<R: Replica> Applier<R> {
    /// The object that an operation on `id` goes to; `None`: a mirror will bring its effect.
    fn touched(&self, id: FileId) -> Result<Option<Inode>, Fault> {
        match self.map.touchable(id) {
            Some(inode) => Ok(Some(inode)),
            None if self.meta.lenient => Ok(None),
            None => Err(Fault::unknown("the file is not known")),
        }
    }

    pub(super) fn content(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let (Op::Write { id, .. }
        | Op::Truncate { id, .. }
        | Op::Fallocate { id, .. }
        | Op::SetAttr { id, .. }
        | Op::SetXattr { id, .. }
        | Op::RemoveXattr { id, .. }) = &record.body.op
        else {
            return Ok(());
        };
        let Some(inode) = self.touched(*id)? else {
            return Ok(());
        };
        self.content_of(record, *id, inode)
    }

    pub(super) fn content_of(
        &mut self,
        record: &Record<'_>,
        id: FileId,
        inode: Inode,
    ) -> Result<(), Fault> {
        let mut atime = None;
        let is_of_file = matches!(
            record.body.op,
            Op::Write { .. } | Op::Truncate { .. } | Op::Fallocate { .. }
        );
        if is_of_file && inode.kind != InodeKind::File {
            return Err(Fault::Diverged {
                inode: Some(inode),
                name: None,
                what: "an object is of another kind",
            });
        }
        match &record.body.op {
            Op::Write { offset, .. } => {
                self.replica
                    .write(inode, *offset, record.payload)
                    .at(inode)?;
            }
            Op::Truncate { size, .. } => self.replica.truncate(inode, *size).at(inode)?,
            Op::Fallocate {
                mode,
                offset,
                length,
                ..
            } => {
                let range = Range {
                    mode: *mode,
                    offset: *offset,
                    length: *length,
                };
                if range.shifts() {
                    return self.shift(record, id, inode, range);
                }
                let done = self.replica.fallocate(inode, range, record.seq.0);
                done.at(inode)?;
            }
            Op::SetAttr { atime: wanted, .. } => atime = *wanted,
            Op::SetXattr { name, .. } | Op::RemoveXattr { name, .. } if is_own_xattr(name) => {}
            Op::SetXattr { name, .. } => {
                let done = self.replica.set_xattr(inode, name, record.payload);
                done.at(inode)?;
            }
            Op::RemoveXattr { name, .. } => self.replica.remove_xattr(inode, name).at(inode)?,
            _ => {}
        }
        match record.body.after {
            Some(after) => self.match_attrs(inode, &after, atime),
            None if atime.is_some() => self.replica.set_times(inode, atime, None).at(inode),
            None => Ok(()),
        }
    }

    /// Collapse and insert move what stands behind them, so doing one twice is wrong. Everything
    /// before is durable when it begins and it is durable before anything else begins (the barrier
    /// in `engine`); one in doubt was done if the file has the size that it leaves.
    fn shift(
        &mut self,
        record: &Record<'_>,
        id: FileId,
        inode: Inode,
        range: Range,
    ) -> Result<(), Fault> {
        if self.map.live(id).is_none() {
            // Half imaged: bytes that have not come yet would move to where they are believed.
            self.map.set_trust(id, super::map::Trust::Stale);
            self.wants.add_anew(id, inode.kind);
            return Ok(());
        }
        let Some(after) = record.body.after else {
            return Err(Fault::unknown("a shift without its result"));
        };
        // With the barrier down it has not begun, in doubt or not.
        let begun = self.barrier && self.doubt;
        if !begun {
            self.checkpoint_now()?;
            self.raise_barrier();
        }
        if !(begun && self.shift_is_done(record, inode, &after)?) {
            let done = self.replica.fallocate(inode, range, record.seq.0);
            done.at(inode)?;
        }
        self.match_attrs(inode, &after, None)?;
        self.mark(record.seq)
    }

    /// Decides a shift in doubt: by its leftovers, else by size.
    pub(super) fn shift_is_done(
        &mut self,
        record: &Record<'_>,
        inode: Inode,
        after: &Attrs,
    ) -> Result<bool, Fault> {
        if self.replica.shift_pending(record.seq.0).at(inode)? {
            return Ok(false);
        }
        Ok(self.replica.attrs(inode).at(inode)?.size == after.size)
    }

    /// Makes owner, mode and modification time what they must be, touching only what differs. The
    /// owner comes first, as it strips set-id bits; the time last.
    pub(super) fn match_attrs(
        &mut self,
        inode: Inode,
        want: &Attrs,
        atime: Option<Time>,
    ) -> Result<(), Fault> {
        let now = self.replica.attrs(inode).at(inode)?;
        self.match_found(inode, now, want, atime)
    }

    /// As [`Applier::match_attrs`], where it has `now`.
    fn match_found(
        &mut self,
        inode: Inode,
        now: Attrs,
        want: &Attrs,
        atime: Option<Time>,
    ) -> Result<(), Fault> {
        let mut mode = now.mode;
        if (now.uid, now.gid) != (want.uid, want.gid) {
            self.replica
                .set_owner(inode, want.uid, want.gid)
                .at(inode)?;
            mode &= !0o6000;
        }
        let is_symlink = now.mode & S_IFMT == libc::S_IFLNK;
        if mode & 0o7777 != want.mode & 0o7777 && !is_symlink {
            self.replica.set_mode(inode, want.mode & 0o7777).at(inode)?;
        }
        let mtime = (now.mtime != want.mtime).then_some(want.mtime);
        if mtime.is_some() || atime.is_some() {
            self.replica.set_times(inode, atime, mtime).at(inode)?;
        }
        Ok(())
    }

    /// Makes extended attributes exactly `want`. True: some were not.
    pub(super) fn match_xattrs(&mut self, inode: Inode, want: &[Xattr]) -> Result<bool, Fault> {
        let now = self.replica.xattrs(inode).at(inode)?;
        let mut were_others = false;
        for extra in &now {
            let wanted = want.iter().any(|x| x.name == extra.name);
            if !wanted && !is_host_label(&extra.name) {
                self.replica.remove_xattr(inode, &extra.name).at(inode)?;
                were_others = true;
            }
        }
        for xattr in want {
            if !now.contains(xattr) {
                let done = self.replica.set_xattr(inode, &xattr.name, &xattr.value);
                done.at(inode)?;
                were_others = true;
            }
        }
        Ok(were_others)
    }

    /// Extended attributes and attributes exactly. Setting an ACL changes the mode, setting the
    /// mode changes the ACL, setting the owner drops capabilities: owner and mode, then extended
    /// attributes, then what they changed, the time last.
    pub(super) fn match_all(
        &mut self,
        inode: Inode,
        xattrs: &[Xattr],
        want: Option<&Attrs>,
    ) -> Result<(), Fault> {
        let Some(want) = want else {
            return self.match_xattrs(inode, xattrs).map(drop);
        };
        let mut now = self.replica.attrs(inode).at(inode)?;
        let is_owner_other = (now.uid, now.gid) != (want.uid, want.gid);
        if is_owner_other {
            self.replica
                .set_owner(inode, want.uid, want.gid)
                .at(inode)?;
        }
        let are_others = self.match_xattrs(inode, xattrs)?;
        if is_owner_other || are_others {
            now = self.replica.attrs(inode).at(inode)?;
        }
        self.match_found(inode, now, want, None)
    }

    /// A directory's modification time after an entry of it changed.
    pub(super) fn dir_time(&mut self, dir: Inode, mtime: Option<Time>) -> Result<(), Fault> {
        match mtime {
            Some(_) => self.replica.set_times(dir, None, mtime).at(dir),
            None => Ok(()),
        }
    }

    /// Directories that were exchanged: xfs stamps those that get another parent.
    pub(super) fn exchanged_times(&mut self, body: &Body) -> Result<(), Fault> {
        let Op::Rename {
            id,
            node,
            replaced: Some(other),
            mode: RenameMode::Exchange,
            ..
        } = &body.op
        else {
            return Ok(());
        };
        let mtime = body.after.map(|after| after.mtime);
        for (id, mtime) in [
            (*id, mtime.filter(|_| node.is_dir())),
            (other.id, other.mtime),
        ] {
            if let Some(inode) = self.map.live(id) {
                self.dir_time(inode, mtime)?;
            }
        }
        Ok(())
    }

    /// Content of an image: all of the file.
    pub(super) fn whole_content(&mut self, file: Inode, data: &[u8]) -> Result<(), Fault> {
        if file.kind != InodeKind::File {
            return Ok(());
        }
        if !data.is_empty() {
            self.replica.write(file, 0, data).at(file)?;
        }
        self.exact_size(file, data.len() as u64)
    }

    pub(super) fn exact_size(&mut self, file: Inode, size: u64) -> Result<(), Fault> {
        if self.replica.attrs(file).at(file)?.size != size {
            self.replica.truncate(file, size).at(file)?;
        }
        Ok(())
    }
}
