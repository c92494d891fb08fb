//! An actor: a process with an identity of its own that makes each call twice, in the reference tree
//! and through the mount, and tells what it saw.
//!
//! The test binary starts itself again, by setpriv(1) with other ids, groups and capabilities, as the
//! only test `an_actor_serves`; its standard input is a socket to the coordinator. So no credentials
//! are changed inside of a process, and no call is made by anything but a process as programs are.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::calls::{self, Aligned, Hands};
use super::listing::{list, seek_list};
use super::op::{Lie, Op, Order, Report, SLOTS, Seen, StatPair, Way, Who};

/// Set in the environment of an actor: the two roots, reference first, with a NUL-free separator.
const ROOTS: &str = "DOPPELFS_ACTOR_ROOTS";

/// Who an actor is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Persona {
    pub(crate) name: &'static str,
    /// Arguments of setpriv(1).
    pub(crate) privileges: &'static [&'static str],
}

pub(crate) const ALICE: u32 = 3001;
pub(crate) const BOB: u32 = 3002;

macro_rules! only {
    ($name:literal, $uid:literal, $cap:literal) => {
        Persona {
            name: $name,
            privileges: &[
                concat!("--reuid=", $uid),
                concat!("--regid=", $uid),
                "--groups=3004",
                concat!("--inh-caps=-all,+", $cap),
                concat!("--ambient-caps=-all,+", $cap),
                concat!("--bounding-set=-all,+", $cap),
            ],
        }
    };
}

/// Everybody who acts. The first is root.
pub(crate) const CAST: [Persona; 13] = [
    Persona {
        name: "root",
        privileges: &[],
    },
    Persona {
        name: "alice",
        privileges: &[
            "--reuid=3001",
            "--regid=3001",
            "--groups=3003,3004",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ],
    },
    Persona {
        name: "bob",
        privileges: &[
            "--reuid=3002",
            "--regid=3002",
            "--groups=3004,3005",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ],
    },
    Persona {
        name: "root without dac",
        privileges: &[
            "--inh-caps=-dac_override,-dac_read_search",
            "--bounding-set=-dac_override,-dac_read_search",
        ],
    },
    only!("fowner", "3006", "fowner"),
    only!("chown", "3006", "chown"),
    only!("dac_read_search", "3006", "dac_read_search"),
    only!("fsetid", "3001", "fsetid"),
    only!("dac_override", "3006", "dac_override"),
    only!("mknod", "3002", "mknod"),
    only!("setfcap", "3001", "setfcap"),
    only!("sys_admin", "3006", "sys_admin"),
    Persona {
        name: "root without fsetid",
        privileges: &[
            "--inh-caps=-fsetid,-sys_admin",
            "--bounding-set=-fsetid,-sys_admin",
        ],
    },
];

/// Persons by their place in [`CAST`].
pub(crate) const ROOT: usize = 0;
pub(crate) const USER: usize = 1;
pub(crate) const OTHER: usize = 2;

fn send(to: &mut UnixStream, bytes: &[u8]) {
    let mut frame = u32::try_from(bytes.len())
        .expect("a short frame")
        .to_le_bytes()
        .to_vec();
    frame.extend_from_slice(bytes);
    to.write_all(&frame)
        .expect("the other side of an actor's socket");
}

fn receive(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut len = [0u8; 4];
    from.read_exact(&mut len).ok()?;
    let mut bytes = vec![0u8; u32::from_le_bytes(len) as usize];
    from.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The coordinator's end of an actor.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    socket: Option<UnixStream>,
}

impl Actor {
    pub(crate) fn start(persona: &Persona, binary: &Path, reference: &Path, mount: &Path) -> Actor {
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let child = Command::new("setpriv")
            .args(persona.privileges)
            .arg(binary)
            .args(["--exact", "actor::an_actor_serves", "--nocapture"])
            .env(
                ROOTS,
                format!("{}\n{}", reference.display(), mount.display()),
            )
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .expect("start setpriv");
        Actor {
            child,
            socket: Some(ours),
        }
    }

    pub(crate) fn ask(&mut self, order: &Order) -> Report {
        let socket = self.socket.as_mut().expect("an actor that acts");
        send(socket, &rmp_serde::to_vec(order).expect("encode an order"));
        let answer = receive(socket).unwrap_or_else(|| panic!("an actor ended at {order:?}"));
        rmp_serde::from_slice(&answer).expect("decode a report")
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.socket.take());
        let _ = self.child.wait();
    }
}

/// One side of an actor: a root and open files.
struct Side {
    root: File,
    slots: [RawFd; SLOTS],
}

/// Not a descriptor: the calls on it say `EBADF`.
const CLOSED: RawFd = -1;

#[test]
fn an_actor_serves() {
    let Ok(roots) = std::env::var(ROOTS) else {
        // As a test it only says that a word of the protocol survives the way there and back.
        let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
        let order = Order {
            op: Op::Close { slot: 1 },
            lie: Lie::None,
        };
        send(&mut here, &rmp_serde::to_vec(&order).expect("encode"));
        let bytes = receive(&mut there).expect("a frame");
        let back: Order = rmp_serde::from_slice(&bytes).expect("decode");
        assert_eq!(back.op, order.op);
        return;
    };
    let mut socket = UnixStream::from(own_stdin());
    calls::hold_file_size_signal();
    let side = |path: &str| Side {
        root: File::open(path).unwrap_or_else(|e| panic!("open {path}: {e}")),
        slots: [CLOSED; SLOTS],
    };
    let mut sides: Vec<Side> = roots.lines().map(side).collect();
    while let Some(bytes) = receive(&mut socket) {
        let order: Order = rmp_serde::from_slice(&bytes).expect("decode an order");
        let report = act(&mut sides, &order);
        send(
            &mut socket,
            &rmp_serde::to_vec(&report).expect("encode a report"),
        );
    }
}

fn own_stdin() -> OwnedFd {
    use std::os::fd::AsFd;
    std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("duplicate standard input")
}

fn act(sides: &mut [Side], order: &Order) -> Report {
    let slots = order.op.slots();
    let stats = |sides: &[Side]| -> Vec<StatPair> {
        let of = |side: &Side, slot: usize| side.hands().stat(&Who::Slot(slot)).ok();
        slots
            .iter()
            .map(|&slot| [of(&sides[0], slot), of(&sides[1], slot)])
            .collect()
    };
    let before = stats(sides);
    let mut seen = if let Some(errno) = order.op.is_refused_with() {
        let mount = sides[1].call(&order.op);
        if mount.ret == -i64::from(errno) {
            if let Op::Open { slot, .. } = order.op {
                sides[0].call(&Op::Close { slot });
            }
            return Report {
                seen: [mount.clone(), mount],
                is_whole: false,
                after: before.clone(),
                before,
            };
        }
        // Refused for another reason: that reason must be the reference's, too.
        [sides[0].call(&order.op), mount]
    } else {
        let reference = sides[0].call(&order.op);
        [reference, sides[1].call(&order.op)]
    };
    let mut after = stats(sides);
    match order.lie {
        Lie::None => {}
        Lie::Errno => seen[1].ret = -i64::from(libc::EXDEV),
        Lie::Mode => after.iter_mut().for_each(|pair| {
            if let Some(st) = &mut pair[1] {
                st.mode ^= 0o001
            }
        }),
        Lie::Mtime => after.iter_mut().for_each(|pair| {
            if let Some(st) = &mut pair[1] {
                st.mtime.0 -= 100_000;
            }
        }),
    }
    Report {
        seen,
        is_whole: true,
        before,
        after,
    }
}

pub(crate) fn seen(ret: i64) -> Seen {
    Seen {
        ret,
        data: Vec::new(),
        signalled: false,
    }
}

pub(crate) fn given((ret, data): (i64, Vec<u8>)) -> Seen {
    Seen {
        ret,
        data,
        signalled: false,
    }
}

/// The bytes that are written: they tell where they belong.
fn pattern(len: usize, fill: u8) -> Aligned {
    let mut memory = Aligned::new(len);
    for (at, byte) in memory.bytes().iter_mut().enumerate() {
        *byte = fill.wrapping_add((at / 64) as u8);
    }
    memory
}

impl Side {
    fn hands(&self) -> Hands<'_> {
        Hands {
            root: self.root.as_raw_fd(),
            slots: &self.slots,
        }
    }

    fn open(&mut self, slot: usize, path: &str, flags: i32, mode: u32) -> Seen {
        if self.slots[slot] != CLOSED {
            calls::close(self.slots[slot]);
            self.slots[slot] = CLOSED;
        }
        let fd = self.hands().open(path, flags, mode);
        if fd < 0 {
            return seen(fd);
        }
        self.slots[slot] = fd as RawFd;
        seen(0)
    }

    fn call(&mut self, op: &Op) -> Seen {
        if let Op::Limited { bytes, op } = op {
            // The kernel refuses it before the mount hears of it, natively later: the times differ.
            if let Op::Fallocate { at, len, .. } = **op
                && at.saturating_add(len) > *bytes as i64
            {
                return seen(-i64::from(libc::EFBIG));
            }
            // A direct write that the limit cuts at no sector's end fails below after the part before.
            let is_direct = op
                .slots()
                .iter()
                .any(|slot| calls::is_direct(self.slots[*slot]));
            let bytes = if is_direct {
                bytes - bytes % 4096
            } else {
                *bytes
            };
            calls::take_file_size_signal();
            calls::limit_file_size(Some(bytes));
            let mut seen = self.call(op);
            calls::limit_file_size(None);
            seen.signalled = calls::take_file_size_signal();
            return seen;
        }
        if let Op::Open {
            slot,
            path,
            flags,
            mode,
            umask,
        } = op
        {
            calls::umask(*umask);
            return self.open(*slot, path, *flags, *mode);
        }
        if let Op::Close { slot } = op {
            let fd = std::mem::replace(&mut self.slots[*slot], CLOSED);
            return seen(calls::close(fd));
        }
        let hands = self.hands();
        on_names(&hands, op)
            .or_else(|| on_attributes(&hands, op))
            .or_else(|| on_files(&hands, op))
            .expect("a call")
    }
}

fn on_names(hands: &Hands<'_>, op: &Op) -> Option<Seen> {
    Some(seen(match op {
        Op::Mkdir { path, mode, umask } => {
            calls::umask(*umask);
            hands.mkdir(path, *mode)
        }
        Op::Mknod {
            path,
            mode,
            rdev,
            umask,
        } => {
            calls::umask(*umask);
            hands.mknod(path, *mode, *rdev)
        }
        Op::Symlink { target, path } => hands.symlink(target, path),
        Op::Link { old, new, follow } => hands.link(old, new, *follow),
        Op::LinkOpen { slot, new, by_proc } => hands.link_open(*slot, new, *by_proc),
        Op::Rename { old, new, flags } => hands.rename(old, new, *flags),
        Op::Unlink { path } => hands.unlink(path, 0),
        Op::Rmdir { path } => hands.unlink(path, libc::AT_REMOVEDIR),
        Op::Access { path, mode, flags } => hands.access(path, *mode, *flags),
        Op::Exec { path } => hands.access(path, libc::X_OK, libc::AT_EACCESS),
        Op::Readlink { path, size } => return Some(given(hands.readlink(path, *size))),
        Op::Statfs { path } => return Some(given(hands.statfs(path))),
        Op::List { path, size } => return Some(list(hands, path, *size)),
        Op::Seekdir { path, size, skip } => return Some(seek_list(hands, path, *size, *skip)),
        _ => return None,
    }))
}

fn on_attributes(hands: &Hands<'_>, op: &Op) -> Option<Seen> {
    Some(seen(match op {
        // Of an empty file by its path to 0: has a test of its own, the times differ.
        Op::Truncate { who, len: 0 } if hands.stat(who).is_ok_and(|st| st.size == 0) => {
            hands.truncate(who, 1)
        }
        Op::Truncate { who, len } => hands.truncate(who, *len),
        Op::Chmod { who, mode } => hands.chmod(who, *mode),
        // To nobody, of a file with set-id bits: has a script of its own, the bits differ.
        Op::Chown {
            who,
            uid: u32::MAX,
            gid: u32::MAX,
        } if hands.stat(who).is_ok_and(|st| st.mode & 0o6000 != 0) => 0,
        Op::Chown { who, uid, gid } => hands.chown(who, *uid, *gid),
        Op::Utimens { who, atime, mtime } => hands.utimens(who, *atime, *mtime),
        Op::SetXattr {
            who,
            name,
            value,
            flags,
        } => hands.set_xattr(who, name, value, *flags),
        Op::RemoveXattr { who, name } => hands.remove_xattr(who, name),
        Op::GetXattr { who, name, size } => return Some(given(hands.get_xattr(who, name, *size))),
        Op::ListXattr { who, size } => return Some(given(hands.list_xattr(who, *size))),
        Op::Stat { who } => match hands.stat(who) {
            Ok(_) => 0,
            Err(errno) => errno,
        },
        _ => return None,
    }))
}

fn on_files(hands: &Hands<'_>, op: &Op) -> Option<Seen> {
    let fd = |slot: &usize| hands.fd(*slot);
    Some(seen(match op {
        Op::Write {
            slot,
            way,
            len,
            fill,
        } => {
            // Direct writes that are not aligned have a test of their own: what they leave of the times
            // differs between file systems.
            let unit = if calls::is_direct(fd(slot)) { 4096 } else { 1 };
            if unit > 1 && !calls::align_position(fd(slot), unit as i64) {
                return Some(seen(-i64::from(libc::EINVAL)));
            }
            let mut memory = pattern(len.next_multiple_of(unit), *fill);
            match way {
                Way::Plain => calls::write(fd(slot), memory.bytes()),
                Way::At(at) => {
                    let at = at - at.rem_euclid(unit as i64);
                    calls::pwrite(fd(slot), memory.bytes(), at)
                }
                Way::Vector => calls::writev(fd(slot), memory.bytes()),
            }
        }
        Op::Read { slot, way, len } => {
            // Of direct reads file systems and kernels want different alignments, the mount none.
            let unit = if calls::is_direct(fd(slot)) { 4096 } else { 1 };
            let mut memory = Aligned::new(len.next_multiple_of(unit));
            let got = match way {
                Way::At(at) => {
                    let at = at - at.rem_euclid(unit as i64);
                    calls::pread(fd(slot), memory.bytes(), at)
                }
                _ => {
                    if unit > 1 {
                        calls::align_position(fd(slot), unit as i64);
                    }
                    calls::read(fd(slot), memory.bytes())
                }
            };
            let bytes = &memory.bytes()[..usize::try_from(got).unwrap_or(0)];
            return Some(given((got, digest(bytes))));
        }
        Op::MapWrite {
            slot,
            at,
            len,
            fill,
        } => calls::map_write(fd(slot), *at, *len, *fill),
        Op::MapRead { slot, len } => {
            let (got, bytes) = calls::map_read(fd(slot), *len);
            return Some(given((got, digest(&bytes))));
        }
        // Nothing to punch: some file systems then take no set-id bits away, the mount does.
        Op::Fallocate { slot, mode, at, .. }
            if mode & libc::FALLOC_FL_PUNCH_HOLE != 0
                && hands.stat(&Who::Slot(*slot)).is_ok_and(|st| *at >= st.size) =>
        {
            0
        }
        Op::Fallocate {
            slot,
            mode,
            at,
            len,
        } => calls::fallocate(fd(slot), *mode, *at, *len),
        Op::CopyRange {
            from,
            to,
            at,
            into,
            len,
        } => match aligned_for([fd(from), fd(to)], *len) {
            Some(rounded) if [fd(from), fd(to)].iter().any(|fd| calls::is_direct(*fd)) => {
                let (at, into) = (at - at.rem_euclid(4096), into - into.rem_euclid(4096));
                calls::copy_file_range(fd(from), fd(to), at, into, rounded)
            }
            Some(len) => calls::copy_file_range(fd(from), fd(to), *at, *into, len),
            None => -i64::from(libc::EINVAL),
        },
        Op::Sendfile { from, to, len } => match aligned_for([fd(from), fd(to)], *len) {
            Some(len) => calls::sendfile(fd(from), fd(to), len),
            None => -i64::from(libc::EINVAL),
        },
        Op::Splice { from, to, len } => match aligned_for([fd(from), fd(to)], *len) {
            Some(len) => calls::splice(fd(from), fd(to), len),
            None => -i64::from(libc::EINVAL),
        },
        // Where a directory ends is a number of the file system's own, which means nothing.
        Op::Lseek { slot, whence, .. } if *whence == libc::SEEK_END && calls::is_dir(fd(slot)) => 0,
        // Where data and holes are may differ: the position does not stay there.
        Op::Lseek { slot, at, whence } if [libc::SEEK_DATA, libc::SEEK_HOLE].contains(whence) => {
            let before = calls::lseek(fd(slot), 0, libc::SEEK_CUR);
            let found = calls::lseek(fd(slot), *at, *whence);
            calls::lseek(fd(slot), before, libc::SEEK_SET);
            found
        }
        Op::Lseek { slot, at, whence } => calls::lseek(fd(slot), *at, *whence),
        Op::Fsync { slot, data_only } => calls::fsync(fd(slot), *data_only),
        Op::Syncfs { slot } => calls::syncfs(fd(slot)),
        Op::Getfl { slot } => calls::getfl(fd(slot)),
        Op::GetFlags { slot } => calls::get_flags(fd(slot)),
        Op::Clone { from, to } => calls::clone(fd(from), fd(to)),
        Op::Lock {
            slot,
            kind,
            mode,
            at,
            len,
        } => {
            return Some(given(calls::lock(fd(slot), *kind, *mode, *at, *len)));
        }
        _ => return None,
    }))
}

/// Where one of the two is for direct I/O: positions and length that every file system takes; none
/// where it appends to an end that none takes, or both are one.
fn aligned_for(fds: [RawFd; 2], len: usize) -> Option<usize> {
    if !fds.iter().any(|fd| calls::is_direct(*fd)) {
        return Some(len);
    }
    let aligned = fds.iter().all(|fd| calls::align_position(*fd, 4096));
    (aligned && fds[0] != fds[1]).then(|| len.next_multiple_of(4096))
}

/// Short content as it is, long content as its hash.
fn digest(bytes: &[u8]) -> Vec<u8> {
    if bytes.len() <= 64 {
        bytes.to_vec()
    } else {
        blake3::hash(bytes).to_hex().as_bytes().to_vec()
    }
}
