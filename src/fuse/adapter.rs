//! One method per request: decode, call capture, reply.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::capture::{
    AttrChange, Call, Capture, Created, Extent, NewNode, OpenMode, SetId, Written,
};
use crate::live::{Answer, Offer};
use crate::passthrough::{Error, OpenFile};
use crate::sync::Mutex;
use crate::sys::{self, CopyRange, FileStat};
use crate::types::{Caller, FileId, Name, Node, limits};

use super::crew::Crew;
use super::errno::{errno, unknown_handle, unknown_node};
use super::export::{Unproven, reply_entry};
use super::nodes::Nodes;
use super::reply::{self, NEGATIVE_TTL, TTL};

/// What the kernel and we agreed on, for the log and for who asks.
pub(super) type Agreed = Arc<OnceLock<String>>;

/// The file system as fuser wants it.
pub struct Adapter {
    pub(super) capture: Arc<Capture>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) agreed: Agreed,
    /// The way to tell the kernel something unasked; there as soon as there is a session.
    pub(super) notifier: Arc<OnceLock<Notifier>>,
    /// Numbers that only a walk through the tree can answer.
    pub(super) unproven: mpsc::Sender<Unproven>,
    /// Files that an earlier worker wrote to and that the kernel may know otherwise; a leaf.
    pub(super) rewritten: Mutex<BTreeSet<FileId>>,
    /// Who reads the next request.
    pub(super) crew: Arc<Crew>,
}

/// `FUSE_UNIQUE_RESEND`: the mark of a request that the kernel sends again.
const RESENT: u64 = 1 << 63;

fn call(req: &Request) -> Call {
    Call {
        caller: Caller {
            uid: req.uid(),
            gid: req.gid(),
            pid: req.pid(),
        },
        unique: req.unique().0 & !RESENT,
        set_id: SetId::Keep,
    }
}

/// Of a request that may take set-id bits away; the library does not hand on what the kernel says.
fn changing_call(req: &Request) -> Call {
    Call {
        set_id: SetId::AsCaller,
        ..call(req)
    }
}

/// Does the caller's descriptor, as its flags are now, ask for direct I/O?
fn is_direct(flags: OpenFlags) -> bool {
    flags.0 & libc::O_DIRECT != 0
}

fn bad(op: &'static str, errno: i32) -> Error {
    Error {
        op,
        id: None,
        source: io::Error::from_raw_os_error(errno),
    }
}

fn name_of(name: &OsStr) -> Result<Name, Error> {
    let too_long = name.len() > limits::NAME_BYTES_MAX;
    let errno = if too_long {
        libc::ENAMETOOLONG
    } else {
        libc::EINVAL
    };
    Name::new(name.as_bytes()).map_err(|_| bad("name", errno))
}

fn xattr_name(name: &OsStr) -> Result<CString, Error> {
    CString::new(name.as_bytes()).map_err(|_| bad("attribute name", libc::EINVAL))
}

/// Replies with the error, or goes on with the value.
macro_rules! attempt {
    ($reply:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(&error)),
        }
    };
}

/// While a write of so many bytes is recorded it pays to let another thread read the next request.
const LARGE_WRITE: usize = 256 << 10;

thread_local! {
    /// What is read on its way to the kernel; as large as the largest read so far.
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Begins to serve a request, unless it is one that workers die over.
macro_rules! begin {
    ($self:expr, $req:expr, $reply:expr) => {
        unless_poison!($self.begin($req), $reply)
    };
}

/// As `begin!`, for a request that the kernel makes of its own.
macro_rules! begin_own {
    ($self:expr, $req:expr, $reply:expr) => {
        unless_poison!($self.begin_own($req), $reply)
    };
}

macro_rules! unless_poison {
    ($served:expr, $reply:expr) => {{
        let served = $served;
        if served.answer == Some(Answer::Poison) {
            return $reply.error(Errno::EIO);
        }
        served
    }};
}

/// How the kernel is to treat an open file: readers through its cache, which stays valid since every
/// change passes here; who only writes past it, in one piece; who does both through it again, written
/// through. A file whose access time the next read is to change is read anew, so that the read
/// reaches the file system below. Where the kernel caches writes, nobody goes past its cache.
fn open_reply(capture: &Capture, mode: OpenMode, stat: &FileStat) -> FopenFlags {
    let stamps = capture.tree().stamps_reads() && mode.flags & libc::O_NOATIME == 0;
    match mode.flags & libc::O_ACCMODE {
        libc::O_WRONLY if capture.writes_back() => FopenFlags::FOPEN_KEEP_CACHE,
        libc::O_WRONLY => FopenFlags::FOPEN_DIRECT_IO,
        _ if stamps && is_atime_due(stat) => FopenFlags::empty(),
        _ => FopenFlags::FOPEN_KEEP_CACHE,
    }
}

/// Would a read change the access time, as `relatime` has it (`relatime_need_update` in `fs/inode.c`)?
fn is_atime_due(stat: &FileStat) -> bool {
    const DAY_SECS: i64 = 24 * 60 * 60;
    stat.atime <= stat.mtime
        || stat.atime <= stat.ctime
        || sys::coarse_now().secs - stat.atime.secs >= DAY_SECS
}

impl Adapter {
    pub(super) fn id(&self, node: INodeNo) -> Result<FileId, Error> {
        self.nodes
            .id(node.0)
            .ok_or_else(|| bad("node", unknown_node().code()))
    }

    /// How many bytes a change of content came to. The reply to it has no room for attributes, and the
    /// kernel keeps those it has: also the mode, when set-id bits went, and all of them when the call
    /// failed, though it may have changed the file.
    fn forget_attrs(&self, id: FileId, done: Result<Written, Error>) -> Result<usize, Error> {
        if done
            .as_ref()
            .map_or(true, |written| written.may_have_stripped)
        {
            self.invalidate_attrs(id);
        }
        done.map(|written| written.bytes)
    }

    /// Has the kernel forget the attributes of an inode that it waits for an answer about. A negative
    /// offset: only those, no pages, so no lock that the kernel may hold now is waited for
    /// (`fuse_reverse_inval_inode` in `fs/fuse/inode.c`).
    fn invalidate_attrs(&self, id: FileId) {
        if let Some(notifier) = self.notifier.get() {
            // A node that the kernel has forgotten is none.
            let _ = notifier.inval_inode(INodeNo(self.nodes.number(id)), -1, 0);
        }
    }

    fn file(&self, fh: FileHandle) -> Result<Arc<OpenFile>, Error> {
        let file = self.capture.files.get(self.capture.tree(), fh.0)?;
        file.ok_or_else(|| bad("open file", unknown_handle().code()))
    }

    /// The open file that a request about an inode came with.
    fn file_of(&self, fh: Option<FileHandle>, id: FileId) -> Option<Arc<OpenFile>> {
        let file = self.file(fh?).ok()?;
        (file.id == id).then_some(file)
    }

    fn reply_created(&self, reply: ReplyEntry, created: &Created) {
        reply_entry(&self.nodes, reply, created);
    }

    fn make(
        &self,
        req: &Request,
        dir: INodeNo,
        name: &OsStr,
        new: &NewNode,
    ) -> Result<Created, Error> {
        self.capture
            .make(&call(req), self.id(dir)?, &name_of(name)?, new)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        // Not FUSE_ATOMIC_O_TRUNC: the file would be emptied before the kernel has looked whether it
        // is a program that runs, which it does at the truncation where the open is for reading only.
        let offered = config.capabilities();
        let mut missing = Vec::new();
        let cached = self.capture.writes_back();
        let cached = cached.then_some(InitFlags::FUSE_WRITEBACK_CACHE);
        for flag in wanted.into_iter().chain(cached) {
            if config.add_capabilities(flag).is_err() {
                missing.push(format!("{flag:?}"));
            }
        }
        let bytes = u32::try_from(limits::PAYLOAD_BYTES_MAX).unwrap_or(u32::MAX);
        if let Err(nearest) = config.set_max_write(bytes) {
            let _ = config.set_max_write(nearest);
        }
        let needed = [InitFlags::FUSE_POSIX_ACL, InitFlags::FUSE_DONT_MASK];
        for needed in needed.into_iter().chain(cached) {
            if !offered.contains(needed) {
                tracing::error!(
                    ?needed,
                    "this kernel cannot judge permissions or cache writes for us"
                );
                return Err(io::Error::from_raw_os_error(libc::EPROTO));
            }
        }
        let most = config.set_max_readahead(u32::MAX);
        self.capture.live().note_offer(Offer {
            flags: offered.bits(),
            minor: config.kernel_abi().1,
            max_readahead: most.unwrap_or_else(|most| most),
        });
        let text = format!(
            "kernel ABI {}, not offered: [{}]",
            config.kernel_abi(),
            missing.join(", ")
        );
        tracing::info!("{text}");
        let _ = self.agreed.set(text);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _served = begin!(self, req, reply);
        match name.as_bytes() {
            b"." => return self.look_up_number(parent, reply),
            b".." => return self.look_up_parent(parent, reply),
            _ => {}
        }
        let dir = attempt!(reply, self.id(parent));
        let name = attempt!(reply, name_of(name));
        match self.capture.tree().lookup(dir, &name) {
            Ok((id, stat)) => self.reply_created(reply, &Created { id, stat }),
            Err(e) if e.errno() == libc::ENOENT => {
                reply.entry(&NEGATIVE_TTL, &reply::negative(), Generation(0));
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // One of many, perhaps, that the kernel sends together.
        let _serving = self.crew.serve();
        self.forget_node(ino.0, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let open = self.file_of(fh, id);
        let stat = match open {
            Some(file) => self.capture.tree().stat_fd(file.fd.as_fd(), id),
            None => self.capture.tree().stat(id),
        };
        let stat = attempt!(reply, stat);
        reply.attr(&TTL, &reply::attr(&stat, stat.ino));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let open = self.file_of(fh, id);
        let change = AttrChange {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(reply::time_change),
            mtime: mtime.map(reply::time_change),
        };
        let tell = |reply: ReplyAttr, stat: &FileStat| {
            reply.attr(&TTL, &reply::attr(stat, stat.ino));
        };
        let mut reply = Some(reply);
        let answer = |stat: &FileStat| {
            if let Some(reply) = reply.take() {
                tell(reply, stat);
            }
        };
        let call = changing_call(req);
        let done = self
            .capture
            .set_attrs(&call, id, open.as_deref(), &change, answer);
        let Some(reply) = reply else { return };
        if done
            .as_ref()
            .is_err_and(|error| error.errno() == libc::ESTALE)
            && self.capture.writes_back()
            && change.is_modified_time_alone()
        {
            // Written back for an inode whose last name went meanwhile. An error would be that of the next
            // syncfs(2), and nobody looks at the answer.
            return reply.attr(&Duration::ZERO, &reply::gone(ino.0));
        }
        let stat = attempt!(reply, done);
        tell(reply, &stat);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let node = attempt!(reply, self.capture.tree().node(id));
        let target = sys::readlink_fd(node.as_fd()).map_err(|source| Error {
            op: "readlink",
            id: Some(id),
            source,
        });
        let target = attempt!(reply, target);
        reply.data(&target);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Entry(id)) = served.answer {
            return self.reply_entry_before(id, reply);
        }
        let node = match mode & libc::S_IFMT {
            libc::S_IFIFO => Node::Fifo,
            libc::S_IFSOCK => Node::Socket,
            libc::S_IFCHR => Node::Char(reply::user_dev(rdev)),
            libc::S_IFBLK => Node::Block(reply::user_dev(rdev)),
            libc::S_IFREG | 0 => Node::File,
            _ => return reply.error(Errno::EINVAL),
        };
        let new = NewNode { node, mode, umask };
        let created = attempt!(reply, self.make(req, parent, name, &new));
        self.reply_created(reply, &created);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Entry(id)) = served.answer {
            return self.reply_entry_before(id, reply);
        }
        let new = NewNode {
            node: Node::Dir,
            mode,
            umask,
        };
        let created = attempt!(reply, self.make(req, parent, name, &new));
        self.reply_created(reply, &created);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Entry(id)) = served.answer {
            return self.reply_entry_before(id, reply);
        }
        let node = Node::Symlink(target.as_os_str().as_bytes().to_vec());
        let new = NewNode {
            node,
            mode: 0o777,
            umask: 0,
        };
        let created = attempt!(reply, self.make(req, parent, link_name, &new));
        self.reply_created(reply, &created);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let dir = attempt!(reply, self.id(parent));
        let name = attempt!(reply, name_of(name));
        attempt!(reply, self.capture.unlink(&call(req), dir, &name));
        reply.ok();
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let dir = attempt!(reply, self.id(parent));
        let name = attempt!(reply, name_of(name));
        attempt!(reply, self.capture.rmdir(&call(req), dir, &name));
        reply.ok();
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let (from, to) = (
            attempt!(reply, self.id(parent)),
            attempt!(reply, self.id(newparent)),
        );
        let (name, new) = (
            attempt!(reply, name_of(name)),
            attempt!(reply, name_of(newname)),
        );
        let done = self
            .capture
            .rename(&call(req), (from, &name), (to, &new), flags.bits());
        if done.is_err() {
            // It may have stamped them, which the kernel does not expect.
            self.invalidate_attrs(from);
            self.invalidate_attrs(to);
        }
        attempt!(reply, done);
        reply.ok();
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Entry(id)) = served.answer {
            return self.reply_entry_before(id, reply);
        }
        let (id, dir) = (
            attempt!(reply, self.id(ino)),
            attempt!(reply, self.id(newparent)),
        );
        let name = attempt!(reply, name_of(newname));
        let created = attempt!(reply, self.capture.link(&call(req), id, dir, &name));
        self.reply_created(reply, &created);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let mode = OpenMode { flags: flags.0 };
        let (file, stat) = attempt!(reply, self.capture.open(&call(req), id, mode));
        let mut fopen = open_reply(&self.capture, mode, &stat);
        if fopen.contains(FopenFlags::FOPEN_KEEP_CACHE) && self.rewritten.lock().remove(&id) {
            fopen.remove(FopenFlags::FOPEN_KEEP_CACHE);
        }
        let number = self.capture.files.insert(file, mode.again());
        self.capture.live().flight().note_file(number);
        reply.opened(FileHandle(number), fopen);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Entry(id)) = served.answer {
            let mode = OpenMode { flags };
            return self.reply_made_before(&call(req), id, mode, open_reply, reply);
        }
        let dir = attempt!(reply, self.id(parent));
        let name = attempt!(reply, name_of(name));
        let new = NewNode {
            node: Node::File,
            mode,
            umask,
        };
        let open = OpenMode { flags };
        let done = self.capture.create(&call(req), dir, &name, &new, open);
        let (created, file) = attempt!(reply, done);
        self.nodes.remember(created.id);
        let attr = reply::attr(&created.stat, self.nodes.number(created.id));
        let number = self.capture.files.insert(file, open.again());
        self.capture.live().flight().note_file(number);
        reply.created(
            &TTL,
            &attr,
            Generation(created.id.generation.0),
            FileHandle(number),
            open_reply(&self.capture, open, &created.stat),
        );
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _served = begin!(self, req, reply);
        // The kernel reads ahead.
        self.crew.is_one_of_many();
        let file = attempt!(reply, self.file(fh));
        READ.with_borrow_mut(|buf| {
            let size = size as usize;
            if buf.len() < size {
                buf.resize(size, 0);
            }
            let read = sys::pread(file.fd.as_fd(), &mut buf[..size], offset);
            let read = read.map_err(|source| Error {
                op: "read",
                id: Some(file.id),
                source,
            });
            let read = attempt!(reply, read);
            reply.data(&buf[..read]);
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let served = begin!(self, req, reply);
        // Pages of a mapping come through any of a file's handles. They are written once more: what was
        // recorded may be a part of them, and the kernel takes any count for all.
        let is_page = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if let (Some(Answer::Written(bytes)), false) = (served.answer, is_page) {
            return reply.written(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        let file = attempt!(reply, self.file(fh));
        if is_direct(flags) && !is_page && file.refuses_direct_write(offset, data.len() as u64) {
            return reply.error(Errno::EINVAL);
        }
        let strips = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let set_id = match (is_page, strips) {
            (true, _) => SetId::Mapped,
            (false, true) => SetId::Strip,
            (false, false) => SetId::Keep,
        };
        let mut call = Call {
            set_id,
            ..call(req)
        };
        let mut reply = Some(reply);
        let done = if is_page {
            self.crew.is_one_of_many();
            // The kernel asks as root, to whom quotas and reserved blocks are open.
            call.caller = file.opener;
            self.capture.write_pages(&call, &file, offset, data)
        } else {
            let answer = |bytes: usize| {
                if let Some(reply) = reply.take() {
                    reply.written(u32::try_from(bytes).unwrap_or(u32::MAX));
                    if bytes >= LARGE_WRITE {
                        self.crew.has_much_left();
                    }
                }
            };
            self.capture
                .write_answering(&call, &file, offset, data, answer)
        };
        let Some(reply) = reply else { return };
        let written = attempt!(reply, self.forget_attrs(file.id, done));
        reply.written(u32::try_from(written).unwrap_or(u32::MAX));
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _served = begin_own!(self, req, reply);
        if let Some(id) = self.capture.files.remove(fh.0) {
            self.capture.tree().note_closed(id);
        }
        reply.ok();
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Every write is captured before it returns, or written back by the kernel before it asks this:
        // closing has nothing left to do, and the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _served = begin!(self, req, reply);
        let file = attempt!(reply, self.file(fh));
        self.crew.will_wait();
        attempt!(reply, self.capture.sync_file(&file, datasync));
        reply.ok();
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let number = attempt!(reply, self.open_dir(id));
        self.capture.live().flight().note_dir(number);
        reply.opened(FileHandle(number), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _served = begin!(self, req, reply);
        match self.list(fh.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _served = begin!(self, req, reply);
        match self.list_plus(fh.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn releasedir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _served = begin_own!(self, req, reply);
        if let Some(id) = self.capture.dirs.remove(fh.0) {
            self.capture.tree().note_closed(id);
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _served = begin!(self, req, reply);
        let dir = attempt!(reply, self.dir(fh.0));
        self.crew.will_wait();
        let done = sys::fsync(dir.fd.as_fd()).map_err(|source| Error {
            op: "fsync",
            id: Some(dir.id),
            source,
        });
        attempt!(reply, done);
        reply.ok();
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _served = begin!(self, req, reply);
        let done = sys::statvfs(self.capture.tree().root()).map_err(|source| Error {
            op: "statfs",
            id: None,
            source,
        });
        let st = attempt!(reply, done);
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        reply.statfs(
            st.f_blocks,
            st.f_bfree,
            st.f_bavail,
            st.f_files,
            st.f_ffree,
            word(st.f_bsize),
            word(st.f_namemax),
            word(st.f_frsize),
        );
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let id = attempt!(reply, self.id(ino));
        let name = attempt!(reply, xattr_name(name));
        attempt!(
            reply,
            self.capture.set_xattr(&call(req), id, &name, value, flags)
        );
        reply.ok();
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let name = attempt!(reply, xattr_name(name));
        let node = attempt!(reply, self.capture.tree().node(id));
        let mut buf = vec![0u8; size as usize];
        let got = sys::getxattr(node.as_fd(), &name, &mut buf).map_err(|source| Error {
            op: "getxattr",
            id: Some(id),
            source,
        });
        let got = attempt!(reply, got);
        if size == 0 {
            reply.size(u32::try_from(got).unwrap_or(u32::MAX));
        } else {
            reply.data(&buf[..got]);
        }
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _served = begin!(self, req, reply);
        let id = attempt!(reply, self.id(ino));
        let list = attempt!(reply, self.xattr_names(id, req));
        if size == 0 {
            reply.size(u32::try_from(list.len()).unwrap_or(u32::MAX));
        } else if list.len() > size as usize {
            reply.error(Errno::ERANGE);
        } else {
            reply.data(&list);
        }
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let id = attempt!(reply, self.id(ino));
        let name = attempt!(reply, xattr_name(name));
        attempt!(reply, self.capture.remove_xattr(&call(req), id, &name));
        reply.ok();
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let served = begin!(self, req, reply);
        if served.answer == Some(Answer::Done) {
            return reply.ok();
        }
        let file = attempt!(reply, self.file(fh));
        let extent = Extent { offset, length };
        let done = self
            .capture
            .fallocate(&changing_call(req), &file, extent, mode);
        attempt!(reply, self.forget_attrs(file.id, done));
        reply.ok();
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _served = begin!(self, req, reply);
        if self.capture.writes_back() {
            // What the kernel has and the file below has not would be taken for a hole. It answers itself
            // from here on: all is data.
            return reply.error(Errno::ENOSYS);
        }
        let file = attempt!(reply, self.file(fh));
        let at = sys::lseek(file.fd.as_fd(), offset, whence).map_err(|source| Error {
            op: "lseek",
            id: Some(file.id),
            source,
        });
        let at = attempt!(reply, at);
        reply.offset(at);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let served = begin!(self, req, reply);
        if let Some(Answer::Written(bytes)) = served.answer {
            return reply.written(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        let (from, to) = (
            attempt!(reply, self.file(fh_in)),
            attempt!(reply, self.file(fh_out)),
        );
        let length = usize::try_from(len).unwrap_or(usize::MAX);
        let range = CopyRange {
            from: offset_in,
            to: offset_out,
            length,
        };
        let done = self
            .capture
            .copy_file_range(&changing_call(req), &from, &to, range);
        // The source was read, which the kernel does not know.
        self.invalidate_attrs(from.id);
        let copied = attempt!(reply, self.forget_attrs(to.id, done));
        reply.written(u32::try_from(copied).unwrap_or(u32::MAX));
    }
}
