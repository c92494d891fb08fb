//! Random calls from a small world, so that they meet: few names, few users, many modes.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::actor::{ALICE, BOB, CAST};
use super::op::{LockKind, Op, SLOTS, Way, Who};

const DIRS: [&str; 5] = ["", "a/", "b/", "a/c/", "s/"];
const NAMES: [&str; 9] = ["f0", "f1", "f2", "f3", "d0", "d1", "l0", "l1", "n0"];
const LENGTHS: [usize; 12] = [0, 1, 7, 100, 511, 512, 1024, 4095, 4096, 4097, 8192, 20_000];
const OFFSETS: [i64; 12] = [0, 0, 1, 7, 511, 512, 1024, 4096, 4097, 8192, 16_384, 65_536];
const SECONDS: [i64; 9] = [
    0,
    1,
    1_000_000_000,
    -1,
    -86_400,
    -3_000_000_000,
    5_000_000_000,
    16_000_000_000,
    100_000_000_000,
];

/// Makes calls, the same ones from the same seed.
pub(crate) struct Generator {
    rng: StdRng,
    /// Who acts now.
    acting: usize,
    /// Open files, as (actor, number).
    open: Vec<(usize, usize)>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        Generator {
            rng: StdRng::seed_from_u64(seed),
            acting: 0,
            open: Vec::new(),
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.rng).expect("a choice")
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_ratio(1, one_in)
    }

    /// Takes notice of what came of a call, so that more of the next ones can succeed.
    pub(crate) fn note(&mut self, actor: usize, op: &Op, ret: i64) {
        let (slot, is_open) = match op {
            Op::Open { slot, .. } => (*slot, ret >= 0),
            Op::Close { slot } => (*slot, false),
            _ => return,
        };
        self.open.retain(|open| *open != (actor, slot));
        if is_open {
            self.open.push((actor, slot));
        }
    }

    /// Who acts next.
    fn actor(&mut self) -> usize {
        // Root and the two users do most.
        if self.chance(3) {
            self.rng.random_range(0..CAST.len())
        } else {
            self.rng.random_range(0..3)
        }
    }

    fn path(&mut self) -> String {
        if self.chance(40) {
            return self.odd_path();
        }
        format!("{}{}", self.one(&DIRS), self.one(&NAMES))
    }

    fn odd_path(&mut self) -> String {
        let known = format!("{}{}", self.one(&DIRS), self.one(&NAMES));
        match self.rng.random_range(0..12) {
            0 => "n".repeat(255),
            1 => "n".repeat(256),
            2 => format!("{known}/"),
            3 => format!("{known}/x"),
            4 => format!("{known}/."),
            5 => "a".to_owned(),
            6 => "s".to_owned(),
            7 => ".".to_owned(),
            8 => "a/..".to_owned(),
            9 => String::new(),
            10 => format!("missing/{known}"),
            _ => "a/../".repeat(900) + "f0",
        }
    }

    fn slot(&mut self) -> usize {
        let acting = self.acting;
        let own = self.open.iter().filter(|(actor, _)| *actor == acting);
        let own: Vec<usize> = own.map(|(_, slot)| *slot).collect();
        if own.is_empty() || self.chance(5) {
            self.rng.random_range(0..SLOTS)
        } else {
            self.one(&own)
        }
    }

    /// Somebody who has a file open, most times.
    fn act_with_a_file(&mut self) {
        let holders = self.open.clone();
        if !holders.is_empty() && !self.chance(6) {
            self.acting = self.one(&holders).0;
        }
    }

    /// Opens a directory to everybody again: many calls close them.
    fn let_in(&mut self) -> Op {
        self.acting = 0;
        Op::Chmod {
            who: Who::Path(self.one(&["a", "b", "a/c", "s"]).to_owned()),
            mode: self.one(&[0o777, 0o777, 0o2777, 0o1777]),
        }
    }

    fn who(&mut self) -> Who {
        match self.rng.random_range(0..5) {
            0 => Who::Link(self.path()),
            1 | 2 => Who::Slot(self.slot()),
            _ => Who::Path(self.path()),
        }
    }

    fn umask(&mut self) -> u32 {
        self.one(&[0, 0o022, 0o022, 0o077, 0o007, 0o777])
    }

    fn mode(&mut self) -> u32 {
        let special = self.one(&[0, 0, 0, 0o4000, 0o2000, 0o6000, 0o1000]);
        special
            | self.one(&[
                0o666, 0o777, 0o755, 0o700, 0o640, 0o070, 0o444, 0o004, 0o000, 0o710,
            ])
    }

    fn len(&mut self) -> usize {
        if self.chance(60) {
            200_000
        } else {
            self.one(&LENGTHS)
        }
    }

    fn open(&mut self) -> Op {
        let access = self.one(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR]);
        let more = self.one(&[
            0,
            0,
            0,
            libc::O_CREAT,
            libc::O_CREAT,
            libc::O_CREAT,
            libc::O_CREAT | libc::O_EXCL,
            libc::O_CREAT | libc::O_TRUNC,
            libc::O_TRUNC,
            libc::O_APPEND,
            libc::O_CREAT | libc::O_APPEND,
            libc::O_NOFOLLOW,
            libc::O_DIRECTORY,
            libc::O_CREAT | libc::O_DIRECTORY,
            libc::O_PATH,
            libc::O_PATH | libc::O_NOFOLLOW,
            libc::O_SYNC,
            libc::O_DSYNC,
            libc::O_DIRECT,
            libc::O_DIRECT | libc::O_CREAT,
            libc::O_NOATIME,
            libc::O_TMPFILE,
        ]);
        // A fifo without a partner would wait.
        let flags = access | more | libc::O_NONBLOCK;
        Op::Open {
            slot: self.slot(),
            path: self.path(),
            flags,
            mode: self.mode(),
            umask: self.umask(),
        }
    }

    fn way(&mut self) -> Way {
        match self.rng.random_range(0..4) {
            0 => Way::Plain,
            1 => Way::Vector,
            _ => Way::At(self.one(&OFFSETS)),
        }
    }

    fn times(&mut self) -> (i64, i64) {
        match self.rng.random_range(0..6) {
            0 => (0, libc::UTIME_NOW),
            1 => (0, libc::UTIME_OMIT),
            2 => (self.one(&SECONDS), 2_000_000_000),
            _ => (
                self.one(&SECONDS),
                self.one(&[0, 1, 123_456_789, 999_999_999]),
            ),
        }
    }

    fn xattr_name(&mut self) -> String {
        let name = self.one(&[
            "user.a",
            "user.a",
            "user.b",
            "user.c",
            "trusted.a",
            "trusted.b",
            "security.capability",
            "security.other",
            "system.posix_acl_access",
            "system.posix_acl_default",
            "nothing",
            "user.",
            "system.other",
        ]);
        if self.chance(60) {
            format!("user.{}", "n".repeat(250))
        } else {
            name.to_owned()
        }
    }

    fn acl(&mut self) -> Vec<u8> {
        let bits = |rng: &mut StdRng| rng.random_range(0..8u16);
        let mut entries = vec![
            (1u16, bits(&mut self.rng), u32::MAX),
            (2, bits(&mut self.rng), ALICE),
        ];
        if self.chance(2) {
            entries.push((2, bits(&mut self.rng), BOB));
        }
        entries.push((4, bits(&mut self.rng), u32::MAX));
        if self.chance(2) {
            entries.push((8, bits(&mut self.rng), 3004));
        }
        entries.push((16, bits(&mut self.rng), u32::MAX));
        entries.push((32, bits(&mut self.rng), u32::MAX));
        if self.chance(10) {
            entries.truncate(2);
        }
        if self.chance(4) {
            entries.retain(|entry| [1, 4, 32].contains(&entry.0));
        }
        acl(&entries)
    }

    fn set_xattr(&mut self) -> Op {
        let name = self.xattr_name();
        let value = match name.as_str() {
            name if name.starts_with("system.posix_acl") => self.acl(),
            "security.capability" if !self.chance(4) => capability(),
            _ => {
                let len = self.one(&[0, 1, 10, 100, 100, 1000, 5000, 65_536, 65_537]);
                vec![self.rng.random(); len]
            }
        };
        let flags = self.one(&[0, 0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE, 3, 8]);
        Op::SetXattr {
            who: self.who(),
            name,
            value,
            flags,
        }
    }

    fn names(&mut self) -> Op {
        match self.rng.random_range(0..15) {
            0 | 1 => Op::Mkdir {
                path: self.path(),
                mode: self.mode(),
                umask: self.umask(),
            },
            2 => {
                let kind = self.one(&[
                    libc::S_IFREG,
                    libc::S_IFIFO,
                    libc::S_IFSOCK,
                    libc::S_IFCHR,
                    libc::S_IFBLK,
                    0,
                    libc::S_IFDIR,
                ]);
                let rdev = self.one(&[0, libc::makedev(1, 3), libc::makedev(259, 70_000)]);
                Op::Mknod {
                    path: self.path(),
                    mode: kind | self.mode(),
                    rdev,
                    umask: self.umask(),
                }
            }
            3 => {
                let target = self.one(&[
                    "f0",
                    "a/f1",
                    "d0",
                    "l0",
                    "l1",
                    "a/../f1",
                    "c",
                    "missing",
                    "/missing-root/x",
                    "",
                ]);
                Op::Symlink {
                    target: target.to_owned(),
                    path: self.path(),
                }
            }
            4 | 5 => Op::Link {
                old: self.path(),
                new: self.path(),
                follow: self.chance(2),
            },
            6 => Op::LinkOpen {
                slot: self.slot(),
                new: self.path(),
                by_proc: self.chance(2),
            },
            7..=10 => {
                let flags = self.one(&[0, 0, 0, 0, 1, 2, 2, 4, 3, 5, 6, 8]);
                Op::Rename {
                    old: self.path(),
                    new: self.path(),
                    flags,
                }
            }
            11..=13 => Op::Unlink { path: self.path() },
            _ => Op::Rmdir { path: self.path() },
        }
    }

    fn attributes(&mut self) -> Op {
        match self.rng.random_range(0..12) {
            0..=2 => Op::Chmod {
                who: self.who(),
                mode: self.mode(),
            },
            3 | 4 => {
                let ids = [0, ALICE, BOB, 3003, 3004, 3005, u32::MAX];
                Op::Chown {
                    who: self.who(),
                    uid: self.one(&ids),
                    gid: self.one(&ids),
                }
            }
            5 | 6 => Op::Utimens {
                who: self.who(),
                atime: self.times(),
                mtime: self.times(),
            },
            7 | 8 => self.set_xattr(),
            9 => Op::RemoveXattr {
                who: self.who(),
                name: match self.rng.random_range(0..3) {
                    0 => self.xattr_name(),
                    _ => "user.a".to_owned(),
                },
            },
            10 => Op::GetXattr {
                who: self.who(),
                name: self.xattr_name(),
                size: self.one(&[0, 1, 50, 4096, 65_536]),
            },
            _ => Op::ListXattr {
                who: self.who(),
                size: self.one(&[0, 1, 30, 4096, 65_536]),
            },
        }
    }

    fn files(&mut self) -> Op {
        let slot = self.slot();
        match self.rng.random_range(0..24) {
            0..=5 => Op::Write {
                slot,
                way: self.way(),
                len: self.len(),
                fill: self.rng.random(),
            },
            6..=9 => Op::Read {
                slot,
                way: self.way(),
                len: self.len(),
            },
            10 => Op::MapWrite {
                slot,
                at: self.one(&[0, 10, 4096, 5000]),
                len: self.one(&LENGTHS),
                fill: self.rng.random(),
            },
            11 => Op::MapRead {
                slot,
                len: self.len(),
            },
            12 | 13 => {
                let mode = self.one(&[0, 0, 1, 3, 3, 0x10, 0x10, 0x11, 8, 0x20, 0x40, 2, 0x19]);
                Op::Fallocate {
                    slot,
                    mode,
                    at: self.one(&OFFSETS),
                    len: self.one(&[0, 1, 512, 4096, 4097, 20_000, -1]),
                }
            }
            14 | 15 => {
                let who = if self.chance(2) {
                    Who::Slot(slot)
                } else {
                    Who::Path(self.path())
                };
                Op::Truncate {
                    who,
                    len: self.one(&[0, 0, 1, 100, 4096, 5000, 70_000, -1]),
                }
            }
            16 => {
                let (at, into) = (self.one(&OFFSETS), self.one(&OFFSETS));
                Op::CopyRange {
                    from: slot,
                    to: self.slot(),
                    at,
                    into,
                    len: self.len(),
                }
            }
            17 => Op::Sendfile {
                from: slot,
                to: self.slot(),
                len: self.len(),
            },
            18 => Op::Splice {
                from: slot,
                to: self.slot(),
                len: self.len(),
            },
            19 => {
                let whence = self.one(&[
                    libc::SEEK_SET,
                    libc::SEEK_CUR,
                    libc::SEEK_END,
                    libc::SEEK_DATA,
                    libc::SEEK_HOLE,
                    9,
                ]);
                Op::Lseek {
                    slot,
                    at: self.one(&[0, 0, 1, 4096, 5000, 100_000, -1]),
                    whence,
                }
            }
            20 => Op::Fsync {
                slot,
                data_only: self.chance(2),
            },
            21 => {
                let kind = self.one(&[
                    LockKind::Flock,
                    LockKind::Posix,
                    LockKind::Ofd,
                    LockKind::Ask,
                    LockKind::Lease,
                ]);
                let mode = self.one(&[libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK]);
                Op::Lock {
                    slot,
                    kind,
                    mode,
                    at: self.one(&[0, 0, 100, 4096]),
                    len: self.one(&[0, 1, 100]),
                }
            }
            22 => match self.rng.random_range(0..6) {
                0 => Op::Syncfs { slot },
                1 => Op::GetFlags { slot },
                2 => Op::Clone {
                    from: slot,
                    to: self.slot(),
                },
                _ => Op::Getfl { slot },
            },
            _ => Op::Close { slot },
        }
    }

    fn looks(&mut self) -> Op {
        match self.rng.random_range(0..8) {
            0 | 1 => Op::Access {
                path: self.path(),
                mode: self.rng.random_range(0..8),
                flags: self.one(&[0, 0x200, 0x100]),
            },
            2 => Op::Stat { who: self.who() },
            3 => Op::Readlink {
                path: self.path(),
                size: self.one(&[0, 1, 3, 100, 4096]),
            },
            4 => Op::List {
                path: self.dir(),
                size: self.one(&[10, 100, 400, 32_768]),
            },
            5 => Op::Seekdir {
                path: self.dir(),
                size: self.one(&[300, 32_768]),
                skip: self.rng.random_range(0..12),
            },
            6 => Op::Exec { path: self.path() },
            _ => Op::Statfs { path: self.path() },
        }
    }

    fn dir(&mut self) -> String {
        if self.chance(4) {
            self.path()
        } else {
            self.one(&[".", "a", "b", "a/c", "s", "d0", "a/d0"])
                .to_owned()
        }
    }

    /// The next call, and whose.
    pub(crate) fn next(&mut self) -> (usize, Op) {
        self.acting = self.actor();
        let op = self.op();
        (self.acting, op)
    }

    fn op(&mut self) -> Op {
        if self.chance(40) {
            return self.let_in();
        }
        let op = match self.rng.random_range(0..20) {
            0..=4 => self.open(),
            5..=8 => self.names(),
            9..=11 => self.attributes(),
            12..=17 => {
                self.act_with_a_file();
                self.files()
            }
            _ => self.looks(),
        };
        let grows = matches!(
            op,
            Op::Write { .. } | Op::Truncate { .. } | Op::Fallocate { .. }
        );
        if grows && self.chance(12) {
            return Op::Limited {
                bytes: self.one(&[0, 1, 600, 4096, 10_000]),
                op: Box::new(op),
            };
        }
        op
    }
}

/// An ACL as its extended attribute: version 2, then tag, permissions, id.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_raw+ep` as `security.capability` version 2.
pub(crate) fn capability() -> Vec<u8> {
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
