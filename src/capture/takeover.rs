//! What a worker that died left half done: decided, recorded, and answered later.
//!
//! # The decision
//! For each request that was under way, in this order:
//!
//! 1. Three workers died over it: it is answered with `EIO`, and what it concerns is in doubt.
//! 2. The journal has its record: it took effect. A request that the kernel sends again is answered and
//!    not served; but changes of size and attributes, which come to the same, are served again.
//! 3. It had said what it was about to change, and by what was there before it shows that it took
//!    effect: it is recorded now, and then as 2. That is so for names, and for extended attributes
//!    whose presence matters.
//! 4. It had said what it was about to change, and whether it did does not show: how the range, the
//!    attributes or the extended attribute is now is recorded, and the request served again. Its
//!    program has had no answer, so what it does then is what it asked for.
//!
//! All that happens before the next request is served: nobody else has changed what is looked at. It
//! does not depend on the kernel's sending a request again, since who asked may have been killed.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use crate::live::{Answer, Intent, Left};
use crate::passthrough::{Error, Open, OpenFile};
use crate::sys;
use crate::types::{Caller, Dentry, FileId, Op, Seq, limits};

use super::attributes::has_xattr;
use super::content::CAPABILITIES;
use super::core::{Call, Capture, SetId, joined};
use super::rename::Parties;

/// A request that so many workers died over is answered with `EIO`.
const DEATHS_MAX: u64 = 3;

/// A longer range is not read back; the file is in doubt then.
const RANGE_BYTES_MAX: u64 = 64 << 20;

/// An entry that is older than the request by this much is not of its making.
const CLOCK_SLACK_NS: u64 = 1_000_000_000;

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakenOver {
    /// Requests that were under way.
    pub requests: usize,
    /// Of these, which had taken effect and were recorded.
    pub recorded: usize,
    /// Which had taken effect and were recorded only now.
    pub found: usize,
    /// Which are refused.
    pub refused: usize,
    /// Inodes that may have changed without an answer that says so.
    pub touched: BTreeSet<FileId>,
    /// Of these, whose bytes may have.
    pub rewritten: BTreeSet<FileId>,
}

fn is_gone(error: &Error) -> bool {
    [libc::ENOENT, libc::ESTALE].contains(&error.errno())
}

impl Capture {
    /// Decides about everything that the last worker left. To be called before anything is served.
    /// `crashed`: it died by itself, perhaps of one of these requests.
    pub fn take_over(&self, crashed: bool) -> TakenOver {
        let all = self.live().flight().take_left(crashed);
        let recorded = self.recorded(&all);
        let mut taken = TakenOver {
            requests: all.len(),
            ..TakenOver::default()
        };
        for left in &all {
            // Also what an earlier worker decided: it may have died before it told the kernel to doubt.
            if let Some(intent) = &left.intent {
                taken.touched.extend(intent.ids());
                if let Intent::Range { id, .. } = intent {
                    taken.rewritten.insert(*id);
                }
            }
            if left.answer.is_some() {
                continue;
            }
            let answer = if left.deaths >= DEATHS_MAX {
                self.doubt_all(left);
                taken.refused += 1;
                Some(Answer::Poison)
            } else if let Some(known) = recorded.get(&left.unique) {
                taken.recorded += 1;
                self.complete(left);
                // One that several records belong to may miss the last of them.
                if let (None, Some(intent)) = (known, &left.intent)
                    && let Err(error) = self.settle(left.unique, intent)
                {
                    tracing::error!(%error, request = left.unique, "what a request left cannot be told");
                    self.doubt_all(left);
                }
                *known
            } else {
                let settled = left
                    .intent
                    .as_ref()
                    .map_or(Ok(None), |intent| self.settle(left.unique, intent));
                match settled {
                    Ok(answer) => {
                        taken.found += usize::from(answer.is_some());
                        answer
                    }
                    Err(error) => {
                        tracing::error!(%error, request = left.unique, "what a request left cannot be told");
                        self.doubt_all(left);
                        None
                    }
                }
            };
            match answer {
                Some(answer) => self.live().flight().note_answer(left.unique, answer),
                None => self.live().flight().note_settled(left.unique),
            }
        }
        taken
    }

    fn doubt_all(&self, left: &Left) {
        if let Some(intent) = &left.intent {
            self.doubt(&intent.ids(), false);
        }
    }

    /// The requests that the journal has, and what they are answered with, where that is known by it.
    fn recorded(&self, all: &[Left]) -> HashMap<u64, Option<Answer>> {
        let mut found = HashMap::new();
        let open = all
            .iter()
            .filter(|left| left.answer.is_none() && left.intent.is_some());
        let Some(after) = open.map(|left| left.end.0).min() else {
            return found;
        };
        // What is no longer there was received by all targets long ago.
        let after = after.max(self.journal.first().0.saturating_sub(1));
        let mut reader = match self.journal.reader(Seq(after)) {
            Ok(reader) => reader,
            Err(error) => {
                tracing::error!(%error, "cannot read what was recorded last");
                return found;
            }
        };
        loop {
            let frame = match reader.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return found,
                Err(error) => {
                    tracing::error!(%error, "cannot read what was recorded last");
                    return found;
                }
            };
            let Ok(body) = frame.body() else { continue };
            if body.request.incarnation != self.incarnation() || body.request.unique == 0 {
                continue;
            }
            let answer = match &body.op {
                Op::Write { .. } => Some(Answer::Written(frame.payload().len() as u64)),
                Op::Create { id, .. } | Op::Link { id, .. } => Some(Answer::Entry(*id)),
                Op::Unlink { .. }
                | Op::Rmdir { .. }
                | Op::Rename { .. }
                | Op::Fallocate { .. }
                | Op::SetXattr { .. }
                | Op::RemoveXattr { .. } => Some(Answer::Done),
                _ => None,
            };
            // The first record of a request is what it is about.
            found.entry(body.request.unique).or_insert(answer);
        }
    }

    /// A request was recorded; what it does after that may be missing.
    fn complete(&self, left: &Left) {
        let Some(Intent::Range {
            id, capabilities, ..
        }) = &left.intent
        else {
            return;
        };
        if capabilities.is_empty() {
            return;
        }
        if let Err(error) = self.restore_after(*id, capabilities) {
            tracing::error!(%error, "cannot set file capabilities again");
            self.doubt(&[*id], false);
        }
    }

    fn restore_after(&self, id: FileId, capabilities: &[u8]) -> Result<(), Error> {
        let locked = self.lock(&[id]);
        let file = self.open_to_read(id)?;
        if sys::getxattr(file.fd.as_fd(), CAPABILITIES, &mut []).is_ok() {
            return Ok(());
        }
        self.restore_capabilities(&locked, &Call::OURS, &file, capabilities)
    }

    fn open_to_read(&self, id: FileId) -> Result<OpenFile, Error> {
        let fd = self.tree.open(id, libc::O_RDONLY | libc::O_NOFOLLOW)?;
        Ok(OpenFile::of(&self.tree, id, fd, Caller::default()))
    }

    /// Finds out whether the change took effect and records it.
    fn settle(&self, unique: u64, intent: &Intent) -> Result<Option<Answer>, Error> {
        let call = Call {
            caller: Caller::default(),
            unique,
            set_id: SetId::Keep,
        };
        let settled = match intent {
            Intent::Make { at, began_ns } => self.settle_new(&call, at, *began_ns),
            Intent::Link { id, at } => self.settle_link(&call, *id, at),
            Intent::Unlink { id, at, is_dir } => self.settle_unlink(&call, *id, at, *is_dir),
            Intent::Rename {
                id,
                from,
                to,
                replaced,
                flags,
            } => self.settle_rename(&call, *id, (from, to), *replaced, *flags),
            Intent::Range {
                id,
                offset,
                length,
                capabilities,
            } => self.image_range(*id, *offset, *length).and_then(|()| {
                match capabilities.is_empty() {
                    true => Ok(None),
                    false => self.restore_after(*id, capabilities).map(|()| None),
                }
            }),
            Intent::Attrs { id, atime } => self.image_attrs(*id, *atime).map(|()| None),
            Intent::Xattr { id, name, was } => self.settle_xattr(&call, *id, name, *was),
        };
        match settled {
            // Nothing that has a name is concerned.
            Err(error) if is_gone(&error) => Ok(None),
            settled => settled,
        }
    }

    /// What a directory has under a name now.
    fn entry_now(&self, at: &Dentry) -> Result<Option<FileId>, Error> {
        match self.tree.entry_id(at.parent, &at.name) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.errno() == libc::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn settle_new(&self, call: &Call, at: &Dentry, began_ns: u64) -> Result<Option<Answer>, Error> {
        let locked = self.lock(&[at.parent]);
        let (id, stat) = match self.tree.lookup(at.parent, &at.name) {
            Ok(found) => found,
            Err(error) if error.errno() == libc::ENOENT => return Ok(None),
            Err(error) => return Err(error),
        };
        let born_ns = u64::try_from(stat.ctime.secs).unwrap_or(0) * 1_000_000_000
            + u64::from(stat.ctime.nanos);
        if born_ns + CLOCK_SLACK_NS < began_ns {
            return Ok(None);
        }
        let parent = self.tree.node(at.parent)?;
        let node = self.tree.node(id)?;
        let kind = self.tree.kind_of(node.as_fd(), id, &stat)?;
        let made = (&*node, kind);
        self.born(&locked, call, at.parent, &parent, &at.name, made)?;
        Ok(Some(Answer::Entry(id)))
    }

    fn settle_link(&self, call: &Call, id: FileId, at: &Dentry) -> Result<Option<Answer>, Error> {
        let locked = self.lock(&[id, at.parent]);
        if self.entry_now(at)? != Some(id) {
            return Ok(None);
        }
        let (node, parent) = (self.tree.node(id)?, self.tree.node(at.parent)?);
        let dir = (at.parent, &*parent);
        self.linked(&locked, call, (id, &node), dir, &at.name)?;
        Ok(Some(Answer::Entry(id)))
    }

    fn settle_unlink(
        &self,
        call: &Call,
        id: FileId,
        at: &Dentry,
        is_dir: bool,
    ) -> Result<Option<Answer>, Error> {
        let locked = self.lock(&[id, at.parent]);
        if self.entry_now(at)? == Some(id) {
            return Ok(None);
        }
        let parent = self.tree.node(at.parent)?;
        let path = joined(&self.tree, (at.parent, &parent), &at.name);
        let node = self.tree.node(id);
        if is_dir {
            if let Ok(node) = &node {
                self.tree.note_removed(id, node, true);
            }
            let at = at.clone();
            let dir = at.parent;
            let body = self.body(call, Op::Rmdir { at, id }, path);
            self.removed(&locked, body, dir, &parent, id)?;
            return Ok(Some(Answer::Done));
        }
        match node {
            Ok(node) => {
                let dir = (at.parent, &*parent);
                self.unlinked(&locked, call, (id, &node), dir, (&at.name, path))?;
            }
            // It had no other name, and nobody used it.
            Err(error) if is_gone(&error) => {
                let (dir, at) = (at.parent, at.clone());
                let body = self.body(call, Op::Unlink { at, id }, path);
                self.removed(&locked, body, dir, &parent, id)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Some(Answer::Done))
    }

    fn settle_rename(
        &self,
        call: &Call,
        id: FileId,
        (from, to): (&Dentry, &Dentry),
        replaced: Option<FileId>,
        flags: u32,
    ) -> Result<Option<Answer>, Error> {
        let mut inodes = vec![id];
        inodes.extend(replaced);
        let locked = self.lock_for_dir_move(&[from.parent, to.parent], &inodes);
        let (old, new) = (self.entry_now(from)?, self.entry_now(to)?);
        let is_exchange = flags & libc::RENAME_EXCHANGE != 0;
        let is_done = if replaced == Some(id) || new != Some(id) {
            false
        } else if is_exchange {
            old == replaced
        } else {
            old != Some(id)
        };
        if !is_done {
            return Ok(None);
        }
        let moved = (id, self.tree.stat(id)?);
        let over = replaced.map(|over| self.tree.node(over)).transpose();
        let over = match over {
            Ok(over) => over,
            // What was replaced is gone, and what it was cannot be told any more.
            Err(error) if is_gone(&error) => {
                self.doubt(&[from.parent, to.parent, id], false);
                return Ok(Some(Answer::Done));
            }
            Err(error) => return Err(error),
        };
        let replaced = match (replaced, &over) {
            (Some(id), Some(fd)) => Some((id, self.tree.stat_fd(fd.as_fd(), id)?)),
            _ => None,
        };
        if from.parent != to.parent {
            let dirs = [Some(moved), replaced].into_iter().flatten();
            for (dir, _) in dirs.filter(|(_, stat)| stat.is_dir()) {
                self.note_moved(dir);
            }
        }
        let from_dir = self.tree.node(from.parent)?;
        let to_dir = self.tree.node(to.parent)?;
        let mut path = joined(&self.tree, (from.parent, &from_dir), &from.name);
        path.push(0);
        path.extend(joined(&self.tree, (to.parent, &to_dir), &to.name));
        let parties = Parties {
            from: (from.parent, &from.name),
            to: (to.parent, &to.name),
            moved,
            replaced,
            over: over.as_ref(),
            flags,
        };
        self.renamed(&locked, call, &parties, path);
        Ok(Some(Answer::Done))
    }

    /// Records a range of a file as it is now, with the file's size and attributes.
    fn image_range(&self, id: FileId, offset: u64, length: u64) -> Result<(), Error> {
        if length > RANGE_BYTES_MAX {
            self.doubt(&[id], false);
            return Ok(());
        }
        let locked = self.lock(&[id]);
        let file = self.open_to_read(id)?;
        let size = self.tree.stat_fd(file.fd.as_fd(), id)?.size;
        let op = Op::Truncate { id, size };
        self.record_content(&locked, &Call::OURS, &file, op, &[]);
        let end = size.min(offset.saturating_add(length));
        let mut at = offset;
        let mut buf = vec![0u8; limits::PAYLOAD_BYTES_MAX];
        while at < end {
            let wanted = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buf.len());
            let read =
                sys::pread(file.fd.as_fd(), &mut buf[..wanted], at).map_err(|source| Error {
                    op: "read",
                    id: Some(id),
                    source,
                })?;
            if read == 0 {
                break;
            }
            let op = Op::Write { id, offset: at };
            self.record_content(&locked, &Call::OURS, &file, op, &buf[..read]);
            at += read as u64;
        }
        Ok(())
    }

    /// Records attributes as they are now, of a file its size, too.
    fn image_attrs(&self, id: FileId, atime: bool) -> Result<(), Error> {
        let locked = self.lock(&[id]);
        let node = self.tree.node(id)?;
        let stat = self.stat_after(node.as_fd(), id)?;
        if stat.nlink == 0 {
            return Ok(());
        }
        let mut ops = Vec::new();
        if stat.mode & libc::S_IFMT == libc::S_IFREG {
            ops.push(Op::Truncate {
                id,
                size: stat.size,
            });
        }
        ops.push(Op::SetAttr {
            id,
            atime: (atime && self.options.atime).then_some(stat.atime),
        });
        for op in ops {
            let mut body = self.body(&Call::OURS, op, self.tree.path_of(node.as_fd()));
            body.after = Some(stat.attrs());
            self.record(&locked, &body, &[], &[id]);
        }
        Ok(())
    }

    fn settle_xattr(
        &self,
        call: &Call,
        id: FileId,
        name: &[u8],
        was: Option<bool>,
    ) -> Result<Option<Answer>, Error> {
        let Ok(c_name) = CString::new(name) else {
            return Ok(None);
        };
        let locked = self.lock(&[id]);
        let node = self.tree.node(id)?;
        let stat = self.stat_after(node.as_fd(), id)?;
        if stat.nlink == 0 {
            return Ok(None);
        }
        let is = has_xattr(&node, &c_name);
        // It came or went as asked; else the request is served again.
        let is_done = was.is_some_and(|was| was != is);
        let op = match (is, is_done) {
            (true, _) => Op::SetXattr {
                id,
                name: name.to_vec(),
            },
            (false, false) if was.is_some() => return Ok(None),
            // Setting it may have taken it away: an access ACL that says what the mode says is none.
            (false, _) => Op::RemoveXattr {
                id,
                name: name.to_vec(),
            },
        };
        let value = if is {
            value_of(&node, id, &c_name)?
        } else {
            Vec::new()
        };
        let call = if is_done { call } else { &Call::OURS };
        let mut body = self.body(call, op, self.tree.path_of(node.as_fd()));
        body.after = Some(stat.attrs());
        self.record(&locked, &body, &value, &[id]);
        Ok(is_done.then_some(Answer::Done))
    }
}

fn value_of(node: &impl AsFd, id: FileId, name: &CStr) -> Result<Vec<u8>, Error> {
    let mut value = vec![0u8; 64 << 10];
    let length = sys::getxattr(node.as_fd(), name, &mut value).map_err(|source| Error {
        op: "getxattr",
        id: Some(id),
        source,
    })?;
    value.truncate(length);
    Ok(value)
}
