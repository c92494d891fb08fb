//! Captured changes of a file's bytes.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::live::Intent;
use crate::passthrough::{Error, OpenFile};
use crate::sys::{self, CopyRange, FileStat};
use crate::types::{FileId, Op, Time, limits};

use super::core::{Call, Capture, SetId};
use super::order::Locked;

/// A range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// What a change of content did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How many bytes were written.
    pub bytes: usize,
    /// The file had set-id bits that it may have lost.
    pub may_have_stripped: bool,
    /// Whoever asked has been answered.
    pub is_answered: bool,
}

impl Written {
    fn new(bytes: usize, mode_before: u32) -> Written {
        Written {
            bytes,
            may_have_stripped: mode_before & (libc::S_ISUID | libc::S_ISGID) != 0,
            is_answered: false,
        }
    }
}

/// fallocate modes that move bytes about: `FALLOC_FL_COLLAPSE_RANGE`, `FALLOC_FL_INSERT_RANGE`.
const SHIFTING: i32 = libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE;

/// Where a file's capabilities are (capabilities(7)).
pub(super) const CAPABILITIES: &CStr = c"security.capability";

/// A file's capabilities as its attribute holds them, if it has any.
fn capabilities_of(file: &OpenFile) -> Option<Vec<u8>> {
    let mut value = vec![0; 64];
    let length = sys::getxattr(file.fd.as_fd(), CAPABILITIES, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

impl Capture {
    /// Writes at `offset`.
    ///
    /// # Errors
    /// What pwrite(2) says below; then nothing was written and nothing is recorded.
    pub fn write(
        &self,
        call: &Call,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
    ) -> Result<Written, Error> {
        self.write_answering(call, file, offset, data, |_| {})
    }

    /// As [`Capture::write`]; where nothing but the record is left to do, `answer` is called with the number of
    /// bytes before that is made, which [`Written::is_answered`] then says. Nothing that is recorded because of
    /// the answer stands before this write.
    ///
    /// # Errors
    /// As [`Capture::write`]; then nobody was answered.
    pub fn write_answering(
        &self,
        call: &Call,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
        answer: impl FnOnce(usize),
    ) -> Result<Written, Error> {
        let id = file.id;
        let locked = self.lock(&[id]);
        let mode = self.act_changing(call, file.fd.as_fd(), id, None)?;
        let kept = match call.set_id {
            SetId::Mapped => capabilities_of(file),
            SetId::Keep | SetId::Strip | SetId::AsCaller => None,
        };
        self.intend(call, || Intent::Range {
            id,
            offset,
            length: data.len() as u64,
            capabilities: kept.clone().unwrap_or_default(),
        });
        let modified = self.modified_before(file)?;
        let began = sys::coarse_now();
        let written = sys::pwrite(file.fd.as_fd(), data, offset).map_err(|source| Error {
            op: "write",
            id: Some(id),
            source,
        });
        let put_back = self.put_modified_back(file, modified);
        if written.is_err() {
            self.record_rest(&locked, call, file, began);
        }
        let bytes = written?;
        self.or_doubt(put_back, id)?;
        let mut written = Written::new(bytes, mode);
        written.is_answered = kept.is_none() && !written.may_have_stripped;
        let op = Op::Write { id, offset };
        let answer = || {
            if written.is_answered {
                answer(bytes);
            }
        };
        self.record_content_answering(&locked, call, file, (op, &data[..bytes]), answer);
        if let Some(capabilities) = kept {
            self.restore_capabilities(&locked, call, file, &capabilities)?;
        }
        Ok(written)
    }

    /// When the file was modified last, where that is the kernel's to say.
    fn modified_before(&self, file: &OpenFile) -> Result<Option<Time>, Error> {
        if !self.options.writes_back {
            return Ok(None);
        }
        let stat = self.tree.stat_fd(file.fd.as_fd(), file.id)?;
        Ok(Some(stat.mtime))
    }

    /// Undoes what a write did to the modification time. A kernel that caches writes notes it when the
    /// program writes, keeps it, and sends it as a change of its own, before or after the pages: the
    /// time of these must not stay.
    fn put_modified_back(&self, file: &OpenFile, modified: Option<Time>) -> Result<(), Error> {
        let Some(modified) = modified else {
            return Ok(());
        };
        self.act_as_root()?;
        sys::utimens_fd(file.fd.as_fd(), None, Some(modified)).map_err(|source| Error {
            op: "utimensat",
            id: Some(file.id),
            source,
        })
    }

    /// Writes pages of the kernel's cache at `offset`: all of them, or it is an error. The kernel, which writes
    /// them back, takes any count for all, and the program at its fsync(2) would not hear of the rest.
    ///
    /// # Errors
    /// What pwrite(2) says below; what was written before is recorded.
    pub fn write_pages(
        &self,
        call: &Call,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
    ) -> Result<Written, Error> {
        let mut done = 0;
        loop {
            let written = self.write(call, file, offset + done as u64, &data[done..])?;
            done += written.bytes;
            if done >= data.len() || written.bytes == 0 {
                return Ok(Written {
                    bytes: done,
                    ..written
                });
            }
        }
    }

    /// Writing takes a file's capabilities away; writing into a mapping of it does not, but comes here
    /// as a write. So they are set again.
    pub(super) fn restore_capabilities(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        file: &OpenFile,
        capabilities: &[u8],
    ) -> Result<(), Error> {
        self.act_as_root()?;
        let (id, fd) = (file.id, file.fd.as_fd());
        let restored = sys::setxattr(fd, CAPABILITIES, capabilities, 0);
        let restored = restored.map_err(|source| Error {
            op: "setxattr",
            id: Some(id),
            source,
        });
        self.or_doubt(restored, id)?;
        let op = Op::SetXattr {
            id,
            name: CAPABILITIES.to_bytes().to_vec(),
        };
        self.record_content(locked, call, file, op, capabilities);
        Ok(())
    }

    /// Sets the size of an open file or, without one, of an inode.
    ///
    /// # Errors
    /// What ftruncate(2) says below.
    pub fn truncate(
        &self,
        call: &Call,
        id: FileId,
        file: Option<&OpenFile>,
        size: u64,
    ) -> Result<FileStat, Error> {
        let locked = self.lock(&[id]);
        self.truncate_locked(&locked, call, id, file, size)
    }

    pub(super) fn truncate_locked(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        id: FileId,
        file: Option<&OpenFile>,
        size: u64,
    ) -> Result<FileStat, Error> {
        let fail = |source| Error {
            op: "truncate",
            id: Some(id),
            source,
        };
        let node = self.tree.node(id)?;
        self.act_changing(call, node.as_fd(), id, None)?;
        self.intend(call, || Intent::Attrs { id, atime: false });
        match file {
            Some(file) => sys::ftruncate(file.fd.as_fd(), size).map_err(fail)?,
            None if size == 0 => self.empty(id)?,
            None => sys::truncate_fd(node.as_fd(), size).map_err(fail)?,
        }
        let stat = self.or_doubt(self.stat_after(node.as_fd(), id), id)?;
        if stat.nlink > 0 {
            let mut body = self.body(
                call,
                Op::Truncate { id, size },
                self.path_hint(file, id, &node),
            );
            body.after = Some(stat.attrs());
            self.record(locked, &body, &[], &[id]);
        }
        Ok(stat)
    }

    /// Empties a file as open(2) with `O_TRUNC` does: its times change also when it was empty. The
    /// kernel does not tell that from truncate(2) of a path to 0, where they would not.
    fn empty(&self, id: FileId) -> Result<(), Error> {
        let fd = self.tree.open(id, libc::O_WRONLY | libc::O_NOFOLLOW)?;
        sys::ftruncate(fd.as_fd(), 0).map_err(|source| Error {
            op: "truncate",
            id: Some(id),
            source,
        })
    }

    /// fallocate(2) in any mode that the file system below knows.
    ///
    /// # Errors
    /// What fallocate(2) says below.
    pub fn fallocate(
        &self,
        call: &Call,
        file: &OpenFile,
        extent: Extent,
        mode: i32,
    ) -> Result<Written, Error> {
        let id = file.id;
        let Extent { offset, length } = extent;
        let locked = self.lock(&[id]);
        let before = self.act_changing(call, file.fd.as_fd(), id, None)?;
        if mode & SHIFTING != 0 {
            self.shifts.fetch_add(1, Ordering::AcqRel);
        }
        self.intend(call, || Intent::Range {
            id,
            offset,
            length,
            capabilities: Vec::new(),
        });
        let began = sys::coarse_now();
        let done = sys::fallocate(file.fd.as_fd(), mode, offset, length).map_err(|source| Error {
            op: "fallocate",
            id: Some(id),
            source,
        });
        if done.is_err() && mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            // How much of the range was punched or zeroed before it failed cannot be told.
            let changed = self.tree.stat_fd(file.fd.as_fd(), id);
            if changed.map_or(true, |stat| stat.ctime >= began) {
                self.doubt(&[id], false);
            }
        } else if done.is_err() {
            self.record_rest(&locked, call, file, began);
        }
        done?;
        let op = Op::Fallocate {
            id,
            mode,
            offset,
            length,
        };
        self.record_content(&locked, call, file, op, &[]);
        Ok(Written::new(0, before))
    }

    /// Copies inside the file system, at most one record's payload at a time: the caller asks again
    /// for the rest, as the system call allows. The record carries the bytes as they now stand, since
    /// copying a second time from a source that has changed would give others.
    ///
    /// # Errors
    /// What copy_file_range(2) says below.
    pub fn copy_file_range(
        &self,
        call: &Call,
        from: &OpenFile,
        to: &OpenFile,
        range: CopyRange,
    ) -> Result<Written, Error> {
        let id = to.id;
        let range = CopyRange {
            length: range.length.min(limits::PAYLOAD_BYTES_MAX),
            ..range
        };
        let fail = |source| Error {
            op: "copy_file_range",
            id: Some(id),
            source,
        };
        let locked = self.lock(&[from.id, id]);
        let before = self.act_changing(call, to.fd.as_fd(), id, None)?;
        self.intend(call, || Intent::Range {
            id,
            offset: range.to,
            length: range.length as u64,
            capabilities: Vec::new(),
        });
        let copied = sys::copy_file_range(from.fd.as_fd(), to.fd.as_fd(), range).map_err(fail)?;
        if copied == 0 {
            return Ok(Written::new(0, before));
        }
        let mut bytes = vec![0u8; copied];
        match sys::pread(to.fd.as_fd(), &mut bytes, range.to) {
            Ok(read) if read == copied => {
                let op = Op::Write {
                    id,
                    offset: range.to,
                };
                self.record_content(&locked, call, to, op, &bytes);
            }
            // What was copied cannot be read back: it happened, so it is in doubt.
            Ok(_) | Err(_) => self.doubt(&[id], false),
        }
        Ok(Written::new(copied, before))
    }

    /// A call that failed below may have changed the file before it did: a full disk leaves what
    /// fallocate got so far, and a write strips suid before it finds no space. What that came to,
    /// size and attributes, is recorded.
    fn record_rest(&self, locked: &Locked<'_>, call: &Call, file: &OpenFile, began: Time) {
        let (id, fd) = (file.id, file.fd.as_fd());
        match self.tree.stat_fd(fd, id) {
            Ok(stat) if stat.ctime >= began => {
                let op = Op::Truncate {
                    id,
                    size: stat.size,
                };
                self.record_content(locked, call, file, op, &[]);
            }
            Ok(_) => {}
            Err(_) => self.doubt(&[id], false),
        }
    }

    pub(super) fn record_content(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        file: &OpenFile,
        op: Op,
        payload: &[u8],
    ) {
        self.record_content_answering(locked, call, file, (op, payload), || {});
    }

    fn record_content_answering(
        &self,
        locked: &Locked<'_>,
        call: &Call,
        file: &OpenFile,
        (op, payload): (Op, &[u8]),
        answer: impl FnOnce(),
    ) {
        match self.stat_after(file.fd.as_fd(), file.id) {
            Ok(stat) if stat.nlink == 0 => answer(),
            Ok(stat) => {
                let mut body = self.body(call, op, file.path.clone());
                body.after = Some(stat.attrs());
                self.record_answering(locked, &body, payload, &[file.id], answer);
            }
            // The change happened, what it led to is not known.
            Err(_) => {
                self.doubt(&[file.id], false);
                answer();
            }
        }
    }

    pub(super) fn path_hint(
        &self,
        file: Option<&OpenFile>,
        id: FileId,
        node: &impl AsFd,
    ) -> Vec<u8> {
        file.map_or_else(
            || self.tree.path_hint(id, node.as_fd()),
            |file| file.path.clone(),
        )
    }

    /// Writes an open file's data through to the disk below.
    ///
    /// # Errors
    /// What fsync(2) or fdatasync(2) says below.
    pub fn sync_file(&self, file: &OpenFile, data_only: bool) -> Result<(), Error> {
        let fd = file.fd.as_fd();
        let done = if data_only {
            sys::fdatasync(fd)
        } else {
            sys::fsync(fd)
        };
        done.map_err(|source| Error {
            op: "fsync",
            id: Some(file.id),
            source,
        })
    }
}
