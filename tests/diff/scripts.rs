//! Goal: what is easily wrong is as below. Method: short sequences, each in a directory of its own, on
//! every file system; every call of them is compared.

use super::actor::{ALICE, BOB, CAST, OTHER, ROOT, USER};
use super::op::{Op, SLOTS, Way, Who};
use super::random::{acl, capability};
use super::rig::{Difference, Rig};

fn person(name: &str) -> usize {
    CAST.iter()
        .position(|persona| persona.name == name)
        .expect("a person of the cast")
}

/// A sequence under way.
struct Script<'a> {
    rig: &'a mut Rig,
    name: &'static str,
    found: Vec<(String, Difference)>,
}

impl Script<'_> {
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    fn who(&self, name: &str) -> Who {
        Who::Path(self.at(name))
    }

    fn run(&mut self, actor: usize, op: Op) {
        for found in self.rig.run(actor, &op) {
            self.found
                .push((format!("{}: {} {op:?}", self.name, CAST[actor].name), found));
        }
    }

    fn open(&mut self, actor: usize, slot: usize, name: &str, flags: i32) {
        let path = self.at(name);
        self.run(
            actor,
            Op::Open {
                slot,
                path,
                flags,
                mode: 0o644,
                umask: 0,
            },
        );
    }

    fn write(&mut self, actor: usize, slot: usize, at: i64, len: usize) {
        self.run(
            actor,
            Op::Write {
                slot,
                way: Way::At(at),
                len,
                fill: 7,
            },
        );
    }

    fn stat(&mut self, name: &str) {
        let who = self.who(name);
        self.run(ROOT, Op::Stat { who });
    }

    /// A file of alice's with this group and mode.
    fn plant(&mut self, name: &str, gid: u32, mode: u32) {
        self.open(ROOT, 0, name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
        self.write(ROOT, 0, 0, 5000);
        self.run(ROOT, Op::Close { slot: 0 });
        let who = self.who(name);
        self.run(
            ROOT,
            Op::Chown {
                who: who.clone(),
                uid: ALICE,
                gid,
            },
        );
        self.run(ROOT, Op::Chmod { who, mode });
    }
}

/// Whoever changes content in any way: what becomes of suid, sgid and capabilities.
fn set_ids(script: &mut Script<'_>) {
    let writers = [
        ROOT,
        USER,
        OTHER,
        person("fsetid"),
        person("root without fsetid"),
        person("dac_override"),
    ];
    let mut number = 0;
    for mode in [0o6777, 0o2767, 0o2777, 0o4777, 0o777] {
        for gid in [3003, 3004, ALICE] {
            for &writer in &writers {
                for way in 0..6usize {
                    number += 1;
                    let name = format!("f{number}");
                    script.plant(&name, gid, mode);
                    let who = script.who(&name);
                    if number % 3 == 0 {
                        let name = "security.capability".to_owned();
                        script.run(
                            ROOT,
                            Op::SetXattr {
                                who: who.clone(),
                                name,
                                value: capability(),
                                flags: 0,
                            },
                        );
                    }
                    match way {
                        0 | 1 => {
                            let access = [libc::O_WRONLY, libc::O_RDWR][way.min(1)];
                            script.open(writer, 0, &name, access);
                            script.write(writer, 0, 10, 100);
                        }
                        2 => script.run(writer, Op::Truncate { who, len: 10 }),
                        3 => script.open(writer, 0, &name, libc::O_WRONLY | libc::O_TRUNC),
                        4 => script.run(
                            writer,
                            Op::Chown {
                                who,
                                uid: u32::MAX,
                                gid: u32::MAX,
                            },
                        ),
                        _ => {
                            script.open(writer, 0, &name, libc::O_RDWR);
                            script.run(
                                writer,
                                Op::Fallocate {
                                    slot: 0,
                                    mode: 0,
                                    at: 0,
                                    len: 10_000,
                                },
                            );
                        }
                    }
                    script.stat(&name);
                    script.run(writer, Op::Close { slot: 0 });
                }
            }
        }
    }
}

/// trusted.* shows to those only to whom it shows below.
fn trusted(script: &mut Script<'_>) {
    script.plant("f", 3004, 0o666);
    let who = script.who("f");
    for name in ["user.a", "trusted.a", "security.other"] {
        script.run(
            ROOT,
            Op::SetXattr {
                who: who.clone(),
                name: name.into(),
                value: vec![1; 9],
                flags: 0,
            },
        );
    }
    for actor in 0..CAST.len() {
        for size in [0, 5, 4096] {
            script.run(
                actor,
                Op::ListXattr {
                    who: who.clone(),
                    size,
                },
            );
        }
        script.run(
            actor,
            Op::GetXattr {
                who: who.clone(),
                name: "trusted.a".into(),
                size: 100,
            },
        );
    }
}

/// Reading a file moves an access time that is due, also when the kernel has the file in its cache.
fn access_times(script: &mut Script<'_>) {
    script.plant("f", 3004, 0o666);
    let who = script.who("f");
    for _ in 0..3 {
        script.open(USER, 0, "f", libc::O_RDONLY);
        script.run(
            USER,
            Op::Read {
                slot: 0,
                way: Way::Plain,
                len: 4096,
            },
        );
        script.run(USER, Op::Close { slot: 0 });
        script.stat("f");
        let (atime, mtime) = ((1_000_000_000, 5), (1_000_000_001, 7));
        script.run(
            USER,
            Op::Utimens {
                who: who.clone(),
                atime,
                mtime,
            },
        );
        script.stat("f");
    }
}

/// Direct I/O refuses what is refused below.
fn direct(script: &mut Script<'_>) {
    script.plant("f", 3004, 0o666);
    for access in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        script.open(USER, 0, "f", access | libc::O_DIRECT);
        for (at, len) in [
            (0, 512),
            (0, 4096),
            (512, 512),
            (1, 512),
            (0, 100),
            (4096, 4096),
            (100, 100),
        ] {
            script.write(USER, 0, at, len);
            script.run(
                USER,
                Op::Read {
                    slot: 0,
                    way: Way::At(at),
                    len,
                },
            );
        }
    }
}

/// Files without a name work as long as they are open.
fn unlinked(script: &mut Script<'_>) {
    for slot in 0..SLOTS {
        script.open(USER, slot, "f", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
        script.write(USER, slot, 0, 100);
        let path = script.at("f");
        script.run(USER, Op::Unlink { path });
    }
    for number in 0..600 {
        let path = script.at(&format!("other{number}"));
        script.run(
            USER,
            Op::Mknod {
                path,
                mode: libc::S_IFREG | 0o644,
                rdev: 0,
                umask: 0,
            },
        );
    }
    for slot in 0..SLOTS {
        let who = Who::Slot(slot);
        script.run(USER, Op::Stat { who: who.clone() });
        script.write(USER, slot, 50, 100);
        script.run(
            USER,
            Op::Read {
                slot,
                way: Way::At(0),
                len: 200,
            },
        );
        script.run(
            USER,
            Op::Chmod {
                who: who.clone(),
                mode: 0o600,
            },
        );
        script.run(
            USER,
            Op::SetXattr {
                who: who.clone(),
                name: "user.a".into(),
                value: vec![1],
                flags: 0,
            },
        );
        script.run(USER, Op::Truncate { who, len: 20 });
        script.run(
            ROOT,
            Op::LinkOpen {
                slot,
                new: "unlinked/again".into(),
                by_proc: true,
            },
        );
        script.run(USER, Op::Close { slot });
    }
}

/// The limit of file sizes is the caller's.
fn size_limits(script: &mut Script<'_>) {
    script.plant("f", 3004, 0o666);
    script.open(USER, 0, "f", libc::O_RDWR);
    for bytes in [0, 1, 100, 5000, 6000] {
        let writes = [
            Op::Write {
                slot: 0,
                way: Way::At(4990),
                len: 100,
                fill: 1,
            },
            Op::Truncate {
                who: Who::Slot(0),
                len: 5500,
            },
            Op::Fallocate {
                slot: 0,
                mode: 0,
                at: 0,
                len: 7000,
            },
        ];
        for op in writes {
            script.run(
                USER,
                Op::Limited {
                    bytes,
                    op: Box::new(op),
                },
            );
        }
    }
}

/// Times before 1970, beyond what fits, and now.
fn times(script: &mut Script<'_>) {
    script.plant("f", 3004, 0o666);
    let seconds = [
        0,
        -1,
        -2_147_483_648,
        -2_147_483_649,
        -9_000_000_000,
        2_147_483_648,
        15_032_385_535,
        15_032_385_536,
        1 << 40,
    ];
    for secs in seconds {
        for nanos in [0, 1, 999_999_999] {
            let who = script.who("f");
            script.run(
                USER,
                Op::Utimens {
                    who,
                    atime: (secs, nanos),
                    mtime: (secs, nanos),
                },
            );
        }
    }
    for special in [libc::UTIME_NOW, libc::UTIME_OMIT] {
        for actor in [USER, OTHER, ROOT, person("fowner")] {
            let who = script.who("f");
            script.run(
                actor,
                Op::Utimens {
                    who,
                    atime: (0, special),
                    mtime: (0, libc::UTIME_NOW),
                },
            );
        }
    }
}

/// Renames touch both parents, what is replaced, and every name of a hard link.
fn names(script: &mut Script<'_>) {
    for dir in ["x", "y"] {
        let path = script.at(dir);
        script.run(
            ROOT,
            Op::Mkdir {
                path: path.clone(),
                mode: 0o777,
                umask: 0,
            },
        );
    }
    for flags in [0, 1, 2, 4] {
        for (name, new) in [("x/a", "y/b"), ("x/a", "x/c")] {
            for name in [name, new] {
                script.open(ROOT, 0, name, libc::O_RDWR | libc::O_CREAT);
                let link = format!("{}-link", script.at(name).replace('/', "-"));
                let (old, new) = (script.at(name), script.at(&link));
                script.run(
                    ROOT,
                    Op::Link {
                        old,
                        new,
                        follow: false,
                    },
                );
            }
            let (old, new) = (script.at(name), script.at(new));
            script.run(ROOT, Op::Rename { old, new, flags });
            for seen in [
                "x",
                "y",
                "x/a",
                "y/b",
                "x/c",
                "names-x-a-link",
                "names-y-b-link",
                "names-x-c-link",
            ] {
                script.stat(seen);
            }
            script.run(ROOT, Op::Stat { who: Who::Slot(0) });
        }
    }
}

/// Defaults of directories and the umask, in both orders.
fn default_acls(script: &mut Script<'_>) {
    for (number, umask) in [0, 0o022, 0o077, 0o777].into_iter().enumerate() {
        let dir = format!("d{number}");
        let path = script.at(&dir);
        script.run(
            USER,
            Op::Mkdir {
                path: path.clone(),
                mode: 0o2777,
                umask,
            },
        );
        let entries = [
            (1, 7, u32::MAX),
            (2, 5, BOB),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 4, u32::MAX),
        ];
        let name = "system.posix_acl_default".to_owned();
        let who = script.who(&dir);
        script.run(
            ROOT,
            Op::SetXattr {
                who,
                name,
                value: acl(&entries),
                flags: 0,
            },
        );
        for (actor, mode) in [(USER, 0o666), (OTHER, 0o777), (ROOT, 0o640)] {
            let file = format!("{path}/f{actor}");
            script.run(
                actor,
                Op::Open {
                    slot: 0,
                    path: file,
                    flags: libc::O_CREAT | libc::O_RDWR,
                    mode,
                    umask,
                },
            );
            script.run(
                actor,
                Op::Mkdir {
                    path: format!("{path}/d{actor}"),
                    mode,
                    umask,
                },
            );
        }
    }
}

fn scripts_on(test: &str, kind: &'static str) {
    let Some(mut rig) = Rig::new(test, kind, 512, false) else {
        return;
    };
    type Sequence = fn(&mut Script<'_>);
    let scripts: [(&str, Sequence); 9] = [
        ("set_ids", set_ids),
        ("trusted", trusted),
        ("access_times", access_times),
        ("direct", direct),
        ("unlinked", unlinked),
        ("size_limits", size_limits),
        ("times", times),
        ("names", names),
        ("default_acls", default_acls),
    ];
    let mut all = Vec::new();
    for (name, sequence) in scripts {
        rig.must(
            ROOT,
            &Op::Mkdir {
                path: name.into(),
                mode: 0o777,
                umask: 0,
            },
        );
        let mut script = Script {
            rig: &mut rig,
            name,
            found: Vec::new(),
        };
        sequence(&mut script);
        all.append(&mut script.found);
    }
    rig.print();
    let swept = rig.sweep();
    let shown: Vec<String> = all
        .iter()
        .take(60)
        .map(|(at, found)| format!("{at}\n    {found:?}"))
        .collect();
    assert!(
        all.is_empty() && swept.is_empty(),
        "{} differences on {kind}:\n{}\nsweep: {swept:?}",
        all.len(),
        shown.join("\n")
    );
}

#[test]
fn scripts_on_ext4_are_as_below() {
    scripts_on("scripts_on_ext4_are_as_below", "ext4");
}

#[test]
fn scripts_on_xfs_are_as_below() {
    scripts_on("scripts_on_xfs_are_as_below", "xfs");
}

#[test]
fn scripts_on_btrfs_are_as_below() {
    scripts_on("scripts_on_btrfs_are_as_below", "btrfs");
}
