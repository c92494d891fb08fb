//! Images: inodes as they are, written into the stream by a mirror.
//!
//! An image is taken under the inode's lock and appended before the lock is freed, so what stands in
//! the stream after it happened after it. A large file is imaged in pieces, each under the lock;
//! what is written in between stands between the pieces, and the end is exact.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use crate::codec::Draft;
use crate::journal;
use crate::passthrough::Error;
use crate::sys::{self, EntryType};
use crate::types::{Attrs, Body, Entry, FileId, Name, Node, Op, Xattr, limits};

use super::core::{Capture, c_name};

/// What came of imaging an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageOutcome {
    /// Its image stands in the journal; so many bytes of content.
    Imaged(u64),
    /// It is gone, or has no name any more; the stream says so now.
    Gone,
    /// Told to stop in between: it is asked for again.
    Interrupted,
}

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system below failed.
    #[error(transparent)]
    Below(#[from] Error),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

impl Capture {
    /// Appends the image of an inode. `pause` is called between the pieces of a large file, without
    /// locks, and may wait; when it says false the image is left unfinished.
    ///
    /// # Errors
    /// [`ImageError`]; what was appended stays and does no harm.
    pub fn image(
        &self,
        id: FileId,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ImageOutcome, ImageError> {
        self.act_as_root()?;
        let node = match self.tree.node(id) {
            Ok(node) => node,
            Err(e) if e.errno() == libc::ESTALE => return self.image_of_the_dead(id),
            Err(e) => return Err(e.into()),
        };
        let stat = self.tree.stat_fd(node.as_fd(), id)?;
        let outcome = if stat.is_dir() {
            self.image_dir(id)
        } else if stat.is_file()
            && (stat.size > limits::PAYLOAD_BYTES_MAX as u64 || has_holes(&stat))
        {
            self.image_large(id, pause)
        } else {
            self.image_small(id, pause)
        };
        match outcome {
            Err(ImageError::Below(e)) if e.errno() == libc::ESTALE => self.image_of_the_dead(id),
            other => other,
        }
    }

    /// Says that the inode is dead, whatever it was: who still wants it must not wait for ever. An
    /// inode without a name never gets one again.
    fn image_of_the_dead(&self, id: FileId) -> Result<ImageOutcome, ImageError> {
        let dead = |op| Body {
            after: Some(Attrs::default()),
            ..Body::of(op)
        };
        let file = dead(Op::Image {
            id,
            node: Node::File,
            xattrs: Vec::new(),
        });
        let dir = dead(Op::Listing {
            id,
            entries: Vec::new(),
            xattrs: Vec::new(),
        });
        self.append(&Draft::new(&file, &[]))?;
        self.append(&Draft::new(&dir, &[]))?;
        Ok(ImageOutcome::Gone)
    }

    /// The extended attributes that fit a record's body, and the rest.
    pub(super) fn xattrs(
        &self,
        fd: BorrowedFd<'_>,
        id: FileId,
    ) -> Result<(Vec<Xattr>, Vec<Xattr>), Error> {
        let mut all = sys::list_all_xattrs(fd).map_err(|source| Error {
            op: "listxattr",
            id: Some(id),
            source,
        })?;
        let mut bytes = 0;
        let fits = all.iter().position(|xattr| {
            bytes += xattr.name.len() + xattr.value.len() + 16;
            bytes > limits::XATTRS_INLINE_BYTES_MAX
        });
        let rest = all.split_off(fits.unwrap_or(all.len()));
        Ok((all, rest))
    }

    /// Records of their own for extended attributes that did not fit the one before, under the same
    /// lock.
    pub(super) fn append_xattrs(
        &self,
        id: FileId,
        after: Attrs,
        rest: &[Xattr],
    ) -> Result<(), journal::Error> {
        for xattr in rest {
            let mut body = Body::of(Op::SetXattr {
                id,
                name: xattr.name.clone(),
            });
            body.after = Some(after);
            self.append(&Draft::new(&body, &xattr.value))?;
        }
        Ok(())
    }

    fn image_small(
        &self,
        id: FileId,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ImageOutcome, ImageError> {
        let locked = self.lock_for_image(id);
        let path_fd = self.tree.node(id)?;
        let stat = self.tree.stat_fd(path_fd.as_fd(), id)?;
        if stat.nlink == 0 {
            return self.image_of_the_dead(id);
        }
        let node = self.tree.kind_of(path_fd.as_fd(), id, &stat)?;
        let mut bytes = Vec::new();
        let mut opened = None;
        if node == Node::File && stat.size > 0 {
            if stat.size > limits::PAYLOAD_BYTES_MAX as u64 {
                // It grew before the lock was ours.
                drop(locked);
                return self.image_large(id, pause);
            }
            let fd = opened.insert(self.open_to_image(id)?);
            bytes.resize(usize::try_from(stat.size).unwrap_or(0), 0);
            let read = self.read_part(fd.as_fd(), &mut bytes, 0);
            let read = read.map_err(|source| Error {
                op: "read",
                id: Some(id),
                source,
            })?;
            bytes.truncate(read);
        }
        let any_fd = opened.as_ref().map_or(path_fd.as_fd(), OwnedFd::as_fd);
        let (xattrs, rest) = self.xattrs(any_fd, id)?;
        let mut body = Body::of(Op::Image { id, node, xattrs });
        body.after = Some(stat.attrs());
        body.path = self.tree.path_of(path_fd.as_fd());
        self.append(&Draft::new(&body, &bytes))?;
        self.append_xattrs(id, stat.attrs(), &rest)?;
        Ok(ImageOutcome::Imaged(bytes.len() as u64))
    }

    /// Reads until the buffer is full or the file ends, and takes note where that means to wait for the disk.
    fn read_part(&self, fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let cached = sys::pread_cached(fd, buf, offset)?;
        if cached == Some(buf.len()) {
            return Ok(buf.len());
        }
        self.cold.fetch_add(1, Ordering::Relaxed);
        match buf.len() < limits::PAYLOAD_BYTES_MAX {
            true => sys::pread(fd, buf, offset),
            // What programs use is in the cache already; the rest of a large file would drive that out.
            false => sys::pread_uncached(fd, buf, offset),
        }
    }

    /// How many parts of images had to be waited for, as the disk had them.
    pub fn cold_images(&self) -> u64 {
        self.cold.load(Ordering::Relaxed)
    }

    /// Has what the image of a file needs read into memory, of a large one the beginning. Waits for the disk, takes
    /// no lock, and changes nothing.
    ///
    /// # Errors
    /// When it cannot be opened now.
    pub fn read_ahead(&self, id: FileId) -> Result<(), Error> {
        self.act_as_root()?;
        let node = self.tree.node(id)?;
        let stat = self.tree.stat_fd(node.as_fd(), id)?;
        if !stat.is_file() || stat.size == 0 {
            return Ok(());
        }
        let flags = libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let fd = self.tree.open(id, flags)?;
        let length = stat.size.min(limits::PAYLOAD_BYTES_MAX as u64);
        sys::fadvise_willneed(fd.as_fd(), 0, length).map_err(|source| Error {
            op: "reading ahead",
            id: Some(id),
            source,
        })
    }

    fn open_to_image(&self, id: FileId) -> Result<OwnedFd, Error> {
        self.tree
            .open(id, libc::O_RDONLY | libc::O_NOATIME | libc::O_NOFOLLOW)
    }

    fn image_large(
        &self,
        id: FileId,
        pause: &mut dyn FnMut(u64) -> bool,
    ) -> Result<ImageOutcome, ImageError> {
        let fd = self.open_to_image(id)?;
        let path = self.tree.path_of(fd.as_fd());
        let append = |op: Op, after, payload: &[u8]| {
            let mut body = Body::of(op);
            body.after = after;
            body.path.clone_from(&path);
            self.append(&Draft::new(&body, payload))
        };
        let mut buf = vec![0u8; limits::PAYLOAD_BYTES_MAX];
        let mut sent = 0u64;
        'anew: loop {
            let shifts = self.shifts.load(Ordering::Acquire);
            {
                let _locked = self.lock_for_image(id);
                if self.tree.stat_fd(fd.as_fd(), id)?.nlink == 0 {
                    return self.image_of_the_dead(id);
                }
                append(Op::ImageBegin { id }, None, &[])?;
            }
            let mut offset = 0u64;
            loop {
                if !pause(sent) {
                    return Ok(ImageOutcome::Interrupted);
                }
                let _locked = self.lock_for_image(id);
                let stat = self.tree.stat_fd(fd.as_fd(), id)?;
                if stat.nlink == 0 {
                    return self.image_of_the_dead(id);
                }
                if self.shifts.load(Ordering::Acquire) != shifts {
                    continue 'anew;
                }
                if offset >= stat.size {
                    let (xattrs, rest) = self.xattrs(fd.as_fd(), id)?;
                    append(Op::ImageEnd { id, xattrs }, Some(stat.attrs()), &[])?;
                    self.append_xattrs(id, stat.attrs(), &rest)?;
                    return Ok(ImageOutcome::Imaged(sent));
                }
                let read = |source| Error {
                    op: "read",
                    id: Some(id),
                    source,
                };
                let segment = sys::data_segment(fd.as_fd(), offset).map_err(read)?;
                let (start, end) = segment.unwrap_or((stat.size, stat.size));
                if start > offset {
                    append(
                        Op::ImageHole {
                            id,
                            offset,
                            length: start - offset,
                        },
                        None,
                        &[],
                    )?;
                    offset = start;
                    continue;
                }
                let length = usize::try_from(end - start)
                    .unwrap_or(usize::MAX)
                    .min(buf.len());
                let got = self.read_part(fd.as_fd(), &mut buf[..length], offset);
                let got = got.map_err(read)?;
                append(Op::ImageData { id, offset }, None, &buf[..got])?;
                offset += got as u64;
                sent += got as u64;
            }
        }
    }

    fn image_dir(&self, id: FileId) -> Result<ImageOutcome, ImageError> {
        let locked = self.lock_for_image(id);
        let fd = self
            .tree
            .open(id, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOATIME)?;
        let stat = self.tree.stat_fd(fd.as_fd(), id)?;
        if stat.nlink == 0 {
            return self.image_of_the_dead(id);
        }
        let parts = self.read_parts(id, fd.as_fd())?;
        let (xattrs, rest) = self.xattrs(fd.as_fd(), id)?;
        let path = self.tree.path_of(fd.as_fd());
        let last = parts.len() - 1;
        let mut drafts = Vec::with_capacity(parts.len());
        for (index, entries) in parts.into_iter().enumerate() {
            let xattrs = if index == last {
                xattrs.clone()
            } else {
                Vec::new()
            };
            let mut body = Body::of(Op::Listing {
                id,
                entries,
                xattrs,
            });
            body.path.clone_from(&path);
            if index == last {
                body.after = Some(stat.attrs());
            }
            let draft = Draft::new(&body, &[]);
            drafts.push(if index == last {
                draft
            } else {
                draft.with_more()
            });
        }
        self.append_group(&drafts)?;
        self.append_xattrs(id, stat.attrs(), &rest)?;
        drop(locked);
        Ok(ImageOutcome::Imaged(0))
    }

    /// All entries of a directory, in parts that fit a frame each; at least one part.
    fn read_parts(&self, id: FileId, dir: BorrowedFd<'_>) -> Result<Vec<Vec<Entry>>, Error> {
        let fail = |source| Error {
            op: "reading the directory",
            id: Some(id),
            source,
        };
        let mut parts = vec![Vec::new()];
        let mut bytes = 0usize;
        let mut buf = vec![0u8; 64 << 10];
        loop {
            let mut names = Vec::new();
            let read = sys::read_entries(dir, &mut buf, |entry| {
                if entry.name != b"." && entry.name != b".." {
                    names.push((entry.ino, entry.name.to_vec(), entry.kind));
                }
                true
            })
            .map_err(fail)?;
            if read == 0 {
                return Ok(parts);
            }
            // In the order in which they lie on the disk, as far as numbers tell; the target asks for them in this
            // order, too. The order of a directory on ext4 is that of a hash.
            names.sort_unstable_by_key(|(ino, ..)| *ino);
            for (_, name, kind) in names {
                let Ok(name) = Name::new(&name) else { continue };
                let Some(entry) = self.read_entry(id, dir, name, kind)? else {
                    continue;
                };
                bytes += entry.name.as_bytes().len() + 48;
                if let Node::Symlink(target) = &entry.node {
                    bytes += target.len();
                }
                if bytes > limits::LISTING_BYTES_MAX {
                    parts.push(Vec::new());
                    bytes = 0;
                }
                if let Some(part) = parts.last_mut() {
                    part.push(entry);
                }
            }
        }
    }

    /// One entry; `None` for what lies on another file system, and so is not followed.
    fn read_entry(
        &self,
        id: FileId,
        dir: BorrowedFd<'_>,
        name: Name,
        kind: EntryType,
    ) -> Result<Option<Entry>, Error> {
        let simple = match kind {
            EntryType::File => Some(Node::File),
            EntryType::Fifo => Some(Node::Fifo),
            EntryType::Socket => Some(Node::Socket),
            _ => None,
        };
        let found = match simple {
            Some(node) => self.tree.entry_id_at(dir, id, &name).map(|id| (id, node)),
            None => self
                .tree
                .lookup_at(dir, id, &c_name(&name))
                .and_then(|(id, stat)| {
                    let fd = self.tree.node(id)?;
                    Ok((id, self.tree.kind_of(fd.as_fd(), id, &stat)?))
                }),
        };
        match found {
            Ok((id, node)) => Ok(Some(Entry { name, id, node })),
            Err(e) if e.errno() == crate::passthrough::UNFOLLOWED => {
                tracing::warn!(?name, "entry on another file system is not followed");
                Ok(None)
            }
            // Removed beside the mount.
            Err(e) if e.errno() == libc::ENOENT => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn has_holes(stat: &sys::FileStat) -> bool {
    stat.blocks * 512 < stat.size
}
