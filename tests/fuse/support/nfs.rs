//! A client of NFS version 3 (RFC 1813) over TCP, with nothing cached: each method is one call, so a
//! test says what the server is asked.
//!
//! As a hard mount it waits for a server that is away and asks again.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::settings::patience;
use super::xdr::{Packer, Unpacker};

/// Program, version and port.
#[derive(Debug, Clone, Copy)]
struct Service(u32, u32, u16);

/// Where the servers of these tests listen: each has a network of its own.
pub(crate) const NFS_PORT: u16 = 2049;
pub(crate) const MOUNT_PORT: u16 = 20048;
const NFS: Service = Service(100_003, 3, NFS_PORT);
const MOUNT: Service = Service(100_005, 3, MOUNT_PORT);

/// Who asks (`AUTH_SYS`).
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// What the server calls a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handle(pub(crate) Vec<u8>);

/// `nfsstat3`, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u32);

pub(crate) const PERM: Refused = Refused(1);
pub(crate) const NOENT: Refused = Refused(2);
pub(crate) const ACCES: Refused = Refused(13);
pub(crate) const EXIST: Refused = Refused(17);
pub(crate) const NOTEMPTY: Refused = Refused(66);
pub(crate) const STALE: Refused = Refused(70);

/// `sattr3`: what is `None` stays. Times are seconds and nanoseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct NewAttrs {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) mtime: Option<(u32, u32)>,
}

/// `fattr3`, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) kind: u32,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) fileid: u64,
    pub(crate) mtime: (u32, u32),
}

/// A connection of one user to one export.
#[derive(Debug)]
pub(crate) struct Nfs {
    user: User,
    stream: Option<TcpStream>,
    next_xid: u32,
    root: Handle,
}

type Answer<T> = Result<T, Refused>;

fn attrs(reply: &mut Unpacker) -> Attrs {
    let [kind, mode, nlink, uid, gid] = std::array::from_fn(|_| reply.u32());
    let size = reply.u64();
    let (_used, _rdev, _fsid) = (reply.u64(), reply.u64(), reply.u64());
    let fileid = reply.u64();
    let _atime = reply.u64();
    let mtime = (reply.u32(), reply.u32());
    let _ctime = reply.u64();
    Attrs {
        kind,
        mode,
        nlink,
        uid,
        gid,
        size,
        fileid,
        mtime,
    }
}

fn optional_attrs(reply: &mut Unpacker) -> Option<Attrs> {
    reply.flag().then(|| attrs(reply))
}

fn pack_attrs(call: Packer, new: &NewAttrs) -> Packer {
    let call = call.optional(new.mode).optional(new.uid);
    let call = call.optional(new.gid);
    let call = match new.size {
        Some(size) => call.u32(1).u64(size),
        None => call.u32(0),
    };
    // The access time stays; 2 says that the client gives the time.
    let call = call.u32(0);
    match new.mtime {
        Some((secs, nanos)) => call.u32(2).u32(secs).u32(nanos),
        None => call.u32(0),
    }
}

impl User {
    pub(crate) fn root() -> User {
        User {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
        }
    }

    fn pack(&self, call: Packer) -> Packer {
        let body = Packer::default().u32(0).bytes(b"client");
        let count = u32::try_from(self.groups.len()).expect("a count");
        let body = body.u32(self.uid).u32(self.gid).u32(count);
        let body = self.groups.iter().fold(body, |body, gid| body.u32(*gid));
        // AUTH_SYS, then an empty verifier.
        call.u32(1).bytes(&body.0).u32(0).u32(0)
    }
}

fn exchange(stream: &mut TcpStream, xid: u32, call: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(call.len()).expect("a length");
    let mut message = (length | 1 << 31).to_be_bytes().to_vec();
    message.extend_from_slice(call);
    stream.write_all(&message)?;
    loop {
        let mut reply = Vec::new();
        let mut is_last = false;
        while !is_last {
            let mut mark = [0; 4];
            stream.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            is_last = mark >> 31 == 1;
            let start = reply.len();
            reply.resize(start + (mark & !(1 << 31)) as usize, 0);
            stream.read_exact(&mut reply[start..])?;
        }
        // The answer to a call that was given up before is passed over.
        if reply.starts_with(&xid.to_be_bytes()) {
            return Ok(reply);
        }
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(patience()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One call, again and again until the server answers.
fn call_hard(stream: &mut Option<TcpStream>, service: Service, xid: u32, call: &[u8]) -> Unpacker {
    let start = Instant::now();
    loop {
        let attempt = match stream.take() {
            Some(open) => Ok(open),
            None => connect(service.2),
        };
        let done = attempt.and_then(|mut open| Ok((exchange(&mut open, xid, call)?, open)));
        match done {
            Ok((reply, open)) => {
                *stream = Some(open);
                let mut reply = Unpacker::new(reply);
                let head: [u32; 3] = std::array::from_fn(|_| reply.u32());
                assert_eq!(head[1..], [1, 0], "the call was not accepted: {reply:?}");
                let (_flavor, _verifier) = (reply.u32(), reply.bytes());
                assert_eq!(reply.u32(), 0, "the call was not understood: {reply:?}");
                return reply;
            }
            Err(error) => {
                assert!(start.elapsed() < patience(), "no NFS server: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Nfs {
    /// Asks for the root handle of an export.
    pub(crate) fn mount(user: User, path: &Path) -> Nfs {
        let mut nfs = Nfs {
            user,
            stream: None,
            next_xid: std::process::id() << 16,
            root: Handle(Vec::new()),
        };
        let call = Packer::default().bytes(path.as_os_str().as_bytes());
        let mut reply = nfs.call_service(&mut None, MOUNT, 1, call);
        assert_eq!(reply.u32(), 0, "no export {}", path.display());
        nfs.root = Handle(reply.bytes());
        nfs
    }

    /// Another connection to the same export, of another user.
    pub(crate) fn again(&self, user: User) -> Nfs {
        Nfs {
            user,
            stream: None,
            next_xid: self.next_xid ^ 0x0800_0000,
            root: self.root.clone(),
        }
    }

    pub(crate) fn root(&self) -> Handle {
        self.root.clone()
    }

    fn call_service(
        &mut self,
        stream: &mut Option<TcpStream>,
        service: Service,
        procedure: u32,
        arguments: Packer,
    ) -> Unpacker {
        self.next_xid = self.next_xid.wrapping_add(1);
        let Service(program, version, _) = service;
        let head = Packer::default().u32(self.next_xid).u32(0).u32(2);
        let head = head.u32(program).u32(version).u32(procedure);
        let call = self.user.pack(head).fixed(&arguments.0);
        call_hard(stream, service, self.next_xid, &call.0)
    }

    fn call(&mut self, procedure: u32, arguments: Packer) -> Answer<Unpacker> {
        let mut stream = self.stream.take();
        let mut reply = self.call_service(&mut stream, NFS, procedure, arguments);
        self.stream = stream;
        match reply.u32() {
            0 => Ok(reply),
            status => Err(Refused(status)),
        }
    }

    pub(crate) fn getattr(&mut self, of: &Handle) -> Answer<Attrs> {
        let mut reply = self.call(1, Packer::default().bytes(&of.0))?;
        Ok(attrs(&mut reply))
    }

    pub(crate) fn setattr(&mut self, of: &Handle, new: &NewAttrs) -> Answer<()> {
        let call = pack_attrs(Packer::default().bytes(&of.0), new);
        self.call(2, call.u32(0)).map(drop)
    }

    pub(crate) fn lookup(&mut self, dir: &Handle, name: impl AsRef<OsStr>) -> Answer<Handle> {
        let mut reply = self.call(3, in_dir(dir, name))?;
        Ok(Handle(reply.bytes()))
    }

    /// Looks up a path from the root.
    pub(crate) fn walk(&mut self, path: &str) -> Answer<Handle> {
        let names: Vec<&str> = path.split('/').collect();
        let root = self.root();
        names
            .iter()
            .try_fold(root, |dir, name| self.lookup(&dir, name))
    }

    pub(crate) fn readlink(&mut self, link: &Handle) -> Answer<Vec<u8>> {
        let mut reply = self.call(5, Packer::default().bytes(&link.0))?;
        optional_attrs(&mut reply);
        Ok(reply.bytes())
    }

    /// Bytes, and whether they are the last.
    pub(crate) fn read(&mut self, of: &Handle, offset: u64, count: u32) -> Answer<(Vec<u8>, bool)> {
        let call = Packer::default().bytes(&of.0).u64(offset).u32(count);
        let mut reply = self.call(6, call)?;
        optional_attrs(&mut reply);
        let (_count, is_end) = (reply.u32(), reply.flag());
        Ok((reply.bytes(), is_end))
    }

    /// The whole of a file, in reads of `piece`.
    pub(crate) fn read_all(&mut self, of: &Handle, piece: u32) -> Answer<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let (bytes, is_end) = self.read(of, all.len() as u64, piece)?;
            all.extend_from_slice(&bytes);
            if is_end || bytes.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Writes all of it, in pieces, unstable, then commits.
    pub(crate) fn write(&mut self, to: &Handle, mut offset: u64, bytes: &[u8]) -> Answer<()> {
        for piece in bytes.chunks(256 << 10) {
            let mut rest = piece;
            while !rest.is_empty() {
                let written = self.write_once(to, offset, rest)?;
                offset += written as u64;
                rest = &rest[written..];
            }
        }
        let call = Packer::default().bytes(&to.0).u64(0).u32(0);
        self.call(21, call).map(drop)
    }

    fn write_once(&mut self, to: &Handle, offset: u64, bytes: &[u8]) -> Answer<usize> {
        let count = u32::try_from(bytes.len()).expect("a length");
        let call = Packer::default().bytes(&to.0).u64(offset).u32(count);
        let mut reply = self.call(7, call.u32(0).bytes(bytes))?;
        if reply.flag() {
            reply.fixed(24);
        }
        optional_attrs(&mut reply);
        Ok(reply.u32() as usize)
    }

    fn made(&mut self, procedure: u32, call: Packer) -> Answer<Handle> {
        let mut reply = self.call(procedure, call)?;
        assert!(reply.flag(), "the server tells no handle of what it made");
        Ok(Handle(reply.bytes()))
    }

    /// A new file; `EXIST` where there is one.
    pub(crate) fn create(
        &mut self,
        dir: &Handle,
        name: impl AsRef<OsStr>,
        new: &NewAttrs,
    ) -> Answer<Handle> {
        self.made(8, pack_attrs(in_dir(dir, name).u32(1), new))
    }

    pub(crate) fn mkdir(
        &mut self,
        dir: &Handle,
        name: impl AsRef<OsStr>,
        new: &NewAttrs,
    ) -> Answer<Handle> {
        self.made(9, pack_attrs(in_dir(dir, name), new))
    }

    pub(crate) fn symlink(&mut self, dir: &Handle, name: &str, to: &str) -> Answer<Handle> {
        let call = pack_attrs(in_dir(dir, name), &NewAttrs::default());
        self.made(10, call.bytes(to.as_bytes()))
    }

    pub(crate) fn mkfifo(&mut self, dir: &Handle, name: &str, new: &NewAttrs) -> Answer<Handle> {
        self.made(11, pack_attrs(in_dir(dir, name).u32(7), new))
    }

    pub(crate) fn remove(&mut self, dir: &Handle, name: impl AsRef<OsStr>) -> Answer<()> {
        self.call(12, in_dir(dir, name)).map(drop)
    }

    pub(crate) fn rmdir(&mut self, dir: &Handle, name: impl AsRef<OsStr>) -> Answer<()> {
        self.call(13, in_dir(dir, name)).map(drop)
    }

    pub(crate) fn rename(
        &mut self,
        (from, name): (&Handle, &str),
        (to, new_name): (&Handle, &str),
    ) -> Answer<()> {
        let call = in_dir(from, name).fixed(&in_dir(to, new_name).0);
        self.call(14, call).map(drop)
    }

    pub(crate) fn link(&mut self, file: &Handle, dir: &Handle, name: &str) -> Answer<()> {
        let call = Packer::default().bytes(&file.0);
        self.call(15, call.fixed(&in_dir(dir, name).0)).map(drop)
    }

    /// All names of a directory with what READDIRPLUS says of them, `.` and `..` left out.
    pub(crate) fn list(&mut self, dir: &Handle) -> Answer<Vec<(Vec<u8>, Option<Attrs>)>> {
        let mut found = Vec::new();
        let (mut cookie, mut verifier) = (0, vec![0; 8]);
        loop {
            let call = Packer::default().bytes(&dir.0).u64(cookie);
            let call = call.fixed(&verifier).u32(4 << 10).u32(32 << 10);
            let mut reply = self.call(17, call)?;
            optional_attrs(&mut reply);
            verifier = reply.fixed(8);
            while reply.flag() {
                let _fileid = reply.u64();
                let name = reply.bytes();
                cookie = reply.u64();
                let attrs = optional_attrs(&mut reply);
                if reply.flag() {
                    reply.bytes();
                }
                if name != b"." && name != b".." {
                    found.push((name, attrs));
                }
            }
            if reply.flag() {
                return Ok(found);
            }
        }
    }
}

fn in_dir(dir: &Handle, name: impl AsRef<OsStr>) -> Packer {
    let name = name.as_ref().as_bytes();
    Packer::default().bytes(&dir.0).bytes(name)
}
