//! The operations that workers are killed over: what each finds, what it does and says.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use doppelfs::sys::{self, CopyRange, SharedWords};
use nix::fcntl::{AT_FDCWD, RenameFlags};
use nix::libc;
use nix::sys::stat::Mode;

use crate::support::{get_xattr, remove_xattr, set_xattr};

/// Does it, and tells what the program learned.
pub(crate) type Act = Box<dyn FnOnce() -> String + Send>;

/// One operation.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Can its program be killed while its request waits to be read? Who waits for pages of a mapping to
    /// be written is not heard before they are.
    pub(crate) is_killable: bool,
    /// Makes what it needs in an empty directory.
    pub(crate) prepare: fn(&Path) -> Act,
}

const fn case(name: &'static str, prepare: fn(&Path) -> Act) -> Case {
    Case {
        name,
        is_killable: true,
        prepare,
    }
}

/// All of them.
pub(crate) const CASES: &[Case] = &[
    case("mkdir", mkdir),
    case("fifo", fifo),
    case("symlink", symlink),
    case("create-new", |dir| create(dir, true)),
    case("create", |dir| create(dir, false)),
    case("link", link),
    case("unlink", |dir| unlink(dir, false)),
    case("unlink-one", |dir| unlink(dir, true)),
    case("unlink-open", unlink_open),
    case("rmdir", rmdir),
    case("rename", |dir| {
        rename(dir, &[("from", "one")], RenameFlags::empty())
    }),
    case("rename-over", |dir| {
        let files = [("from", "one"), ("to", "two")];
        rename(dir, &files, RenameFlags::empty())
    }),
    case("rename-over-open", rename_over_open),
    case("rename-dir", rename_dir),
    case("rename-dir-over", rename_dir_over),
    case("exchange", |dir| {
        let files = [("from", "one"), ("to", "two")];
        rename(dir, &files, RenameFlags::RENAME_EXCHANGE)
    }),
    case("exchange-dirs", exchange_dirs),
    case("whiteout", |dir| {
        rename(dir, &[("from", "one")], RenameFlags::RENAME_WHITEOUT)
    }),
    case("whiteout-over", |dir| {
        let files = [("from", "one"), ("to", "two")];
        rename(dir, &files, RenameFlags::RENAME_WHITEOUT)
    }),
    case("noreplace", |dir| {
        rename(dir, &[("from", "one")], RenameFlags::RENAME_NOREPLACE)
    }),
    case("write-extending", |dir| write(dir, 9000, 0, 4000)),
    case("write-over", |dir| write(dir, 100, 0, 4000)),
    // Not more than the kernel puts into one request, whatever memory is like.
    case("write-cached", |dir| write(dir, 1, 0, 60_000)),
    case("append", append),
    case("write-direct", write_direct),
    case("write-nameless", write_nameless),
    case("truncate-up", |dir| truncate(dir, 70_000)),
    case("truncate-down", |dir| truncate(dir, 7)),
    case("truncate-empty", |dir| truncate(dir, 0)),
    case("ftruncate", ftruncate),
    case("fallocate", |dir| fallocate(dir, 0)),
    case("punch", |dir| {
        fallocate(dir, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
    }),
    case("zero", |dir| fallocate(dir, libc::FALLOC_FL_ZERO_RANGE)),
    case("copy", copy),
    case("chmod", chmod),
    case("chown", chown),
    case("times", times),
    case("times-now", times_now),
    case("set-xattr", |dir| xattr(dir, Some("old"), 0)),
    case("create-xattr", |dir| xattr(dir, None, libc::XATTR_CREATE)),
    case("replace-xattr", |dir| {
        xattr(dir, Some("old"), libc::XATTR_REPLACE)
    }),
    case("remove-xattr", no_xattr),
    case("set-acl", |dir| acl(dir, &acl_of_user())),
    case("set-mode-acl", |dir| acl(dir, &acl_of_mode())),
    Case {
        is_killable: false,
        ..case("mapping", mapping)
    },
    case("open", open),
    case("open-dir", open_dir),
    case("list", list),
];

fn said<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    format!("{result:?}")
}

/// Bytes that differ everywhere.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

fn file(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true);
    options.open(path).expect("create")
}

fn filled(path: &Path, count: usize) -> File {
    let file = file(path);
    file.write_all_at(&bytes(count), 0).expect("write");
    file
}

/// The kernel knows now that there is none.
fn is_missing(path: &Path) {
    let found = std::fs::symlink_metadata(path);
    assert!(found.is_err(), "{found:?}");
}

fn mkdir(dir: &Path) -> Act {
    let path = dir.join("new");
    is_missing(&path);
    Box::new(move || said(std::fs::create_dir(path)))
}

fn fifo(dir: &Path) -> Act {
    let path = dir.join("new");
    is_missing(&path);
    Box::new(move || said(nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o640))))
}

fn symlink(dir: &Path) -> Act {
    let path = dir.join("new");
    is_missing(&path);
    Box::new(move || said(std::os::unix::fs::symlink("wherever", path)))
}

fn create(dir: &Path, is_new: bool) -> Act {
    let path = dir.join("new");
    is_missing(&path);
    Box::new(move || {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).mode(0o640);
        let created = match is_new {
            true => options.create_new(true).open(&path),
            false => options.create(true).truncate(false).open(&path),
        };
        let mut file = match created {
            Ok(file) => file,
            Err(error) => return said::<(), _>(Err(error)),
        };
        file.write_all(b"content").expect("write");
        let (stat, named) = (file.metadata(), path.metadata());
        let (stat, named) = (stat.expect("stat"), named.expect("stat"));
        format!(
            "same {} links {} bytes {}",
            stat.ino() == named.ino(),
            stat.nlink(),
            named.len()
        )
    })
}

fn link(dir: &Path) -> Act {
    let (old, new) = (dir.join("old"), dir.join("new"));
    filled(&old, 10);
    is_missing(&new);
    Box::new(move || said(std::fs::hard_link(old, new)))
}

fn unlink(dir: &Path, has_other: bool) -> Act {
    let path = dir.join("old");
    filled(&path, 10);
    if has_other {
        std::fs::hard_link(&path, dir.join("other")).expect("link");
    }
    Box::new(move || said(std::fs::remove_file(path)))
}

fn links_and_text(file: &File) -> String {
    let stat = file.metadata().expect("stat");
    let mut found = vec![0; 5];
    let read = file.read_exact_at(&mut found, 0);
    let text = String::from_utf8_lossy(&found).into_owned();
    format!("links {} read {read:?} {text:?}", stat.nlink())
}

fn unlink_open(dir: &Path) -> Act {
    let path = dir.join("old");
    let file = filled(&path, 10);
    Box::new(move || {
        let done = said(std::fs::remove_file(path));
        file.write_all_at(b"still", 0).expect("write");
        done + &links_and_text(&file)
    })
}

fn rmdir(dir: &Path) -> Act {
    let path = dir.join("old");
    std::fs::create_dir(&path).expect("mkdir");
    Box::new(move || said(std::fs::remove_dir(path)))
}

fn renamed(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> Act {
    let (from, to) = (dir.join(from), dir.join(to));
    let _ = std::fs::symlink_metadata(&to);
    Box::new(move || said(nix::fcntl::renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags)))
}

fn rename(dir: &Path, files: &[(&str, &str)], flags: RenameFlags) -> Act {
    for (name, text) in files {
        std::fs::write(dir.join(name), text).expect("write");
    }
    renamed(dir, "from", "to", flags)
}

fn rename_over_open(dir: &Path) -> Act {
    std::fs::write(dir.join("from"), "one").expect("write");
    let over = filled(&dir.join("to"), 10);
    let act = renamed(dir, "from", "to", RenameFlags::empty());
    Box::new(move || {
        let done = act();
        over.write_all_at(b"still", 0).expect("write");
        done + &links_and_text(&over)
    })
}

fn rename_dir(dir: &Path) -> Act {
    std::fs::create_dir_all(dir.join("a/moved/deep")).expect("mkdir");
    std::fs::create_dir(dir.join("b")).expect("mkdir");
    std::fs::write(dir.join("a/moved/deep/file"), "text").expect("write");
    renamed(dir, "a/moved", "b/moved", RenameFlags::empty())
}

fn rename_dir_over(dir: &Path) -> Act {
    std::fs::create_dir_all(dir.join("a/moved/deep")).expect("mkdir");
    std::fs::create_dir_all(dir.join("b/moved")).expect("mkdir");
    renamed(dir, "a/moved", "b/moved", RenameFlags::empty())
}

fn exchange_dirs(dir: &Path) -> Act {
    std::fs::create_dir_all(dir.join("a/one/deep")).expect("mkdir");
    std::fs::create_dir_all(dir.join("b/two/other")).expect("mkdir");
    renamed(dir, "a/one", "b/two", RenameFlags::RENAME_EXCHANGE)
}

fn write(dir: &Path, offset: u64, from: usize, count: usize) -> Act {
    let file = filled(&dir.join("file"), 9000);
    Box::new(move || {
        let bytes: Vec<u8> = (from..from + count).map(|at| (at % 7) as u8).collect();
        said(file.write_at(&bytes, offset))
    })
}

fn append(dir: &Path) -> Act {
    let path = dir.join("lines");
    std::fs::write(&path, "first\n").expect("write");
    let mut file = OpenOptions::new().append(true).open(&path).expect("open");
    Box::new(move || said(file.write(b"second\n")))
}

#[repr(align(4096))]
struct Page([u8; 4096]);

fn write_direct(dir: &Path) -> Act {
    let path = dir.join("file");
    filled(&path, 9000);
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_DIRECT);
    let file = options.open(&path).expect("open");
    Box::new(move || {
        let page = Box::new(Page([7; 4096]));
        said(file.write_at(&page.0, 4096))
    })
}

fn write_nameless(dir: &Path) -> Act {
    let path = dir.join("file");
    let file = filled(&path, 9000);
    std::fs::remove_file(&path).expect("unlink");
    Box::new(move || {
        let done = said(file.write_at(b"still", 0));
        done + &links_and_text(&file)
    })
}

fn truncate(dir: &Path, size: i64) -> Act {
    let path = dir.join("file");
    filled(&path, 9000);
    Box::new(move || said(nix::unistd::truncate(&path, size)))
}

fn ftruncate(dir: &Path) -> Act {
    let file = filled(&dir.join("file"), 9000);
    Box::new(move || said(file.set_len(12_345)))
}

fn fallocate(dir: &Path, mode: i32) -> Act {
    let file = filled(&dir.join("file"), 9000);
    Box::new(move || said(sys::fallocate(file.as_fd(), mode, 4096, 20_000)))
}

fn copy(dir: &Path) -> Act {
    let from = filled(&dir.join("from"), 9000);
    let to = filled(&dir.join("to"), 20);
    Box::new(move || {
        let range = CopyRange {
            from: 1000,
            to: 10,
            length: 5000,
        };
        said(sys::copy_file_range(from.as_fd(), to.as_fd(), range))
    })
}

fn chmod(dir: &Path) -> Act {
    let path = dir.join("file");
    filled(&path, 9000);
    Box::new(move || {
        let done = std::fs::set_permissions(&path, Permissions::from_mode(0o4751));
        let mode = path.metadata().expect("stat").mode();
        said(done) + &format!(" {mode:o}")
    })
}

fn chown(dir: &Path) -> Act {
    let path = dir.join("file");
    filled(&path, 9000);
    Box::new(move || said(std::os::unix::fs::chown(path, Some(7), Some(8))))
}

fn times(dir: &Path) -> Act {
    let path = dir.join("file");
    let file = filled(&path, 9000);
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_001, 123_456_789);
    let times = std::fs::FileTimes::new()
        .set_modified(time)
        .set_accessed(time);
    Box::new(move || {
        let done = said(file.set_times(times));
        let stat = path.metadata().expect("stat");
        let modified = stat.modified().expect("a time") == time;
        done + &format!(" {modified} {}", stat.atime())
    })
}

fn times_now(dir: &Path) -> Act {
    let path = dir.join("file");
    let file = filled(&path, 9000);
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_001, 0);
    file.set_modified(old).expect("set the time");
    let (before, now) = (sys::coarse_now().secs, nix::sys::time::TimeSpec::UTIME_NOW);
    Box::new(move || {
        let done = nix::sys::stat::futimens(&file, &now, &now);
        let modified = file.metadata().expect("stat").mtime();
        said(done) + &format!(" {}", modified >= before)
    })
}

fn xattr(dir: &Path, before: Option<&str>, flags: i32) -> Act {
    let file = filled(&dir.join("file"), 10);
    if let Some(before) = before {
        set_xattr(&file, "user.note", before.as_bytes(), 0).expect("setxattr");
    }
    Box::new(move || {
        let done = said(set_xattr(&file, "user.note", b"new value", flags));
        done + &said(get_xattr(&file, "user.note"))
    })
}

fn no_xattr(dir: &Path) -> Act {
    let file = filled(&dir.join("file"), 10);
    set_xattr(&file, "user.note", b"old", 0).expect("setxattr");
    Box::new(move || {
        let done = said(remove_xattr(&file, "user.note"));
        let left: io::Result<Vec<u8>> = get_xattr(&file, "user.note");
        done + &said(left)
    })
}

/// An ACL as its attribute holds it (`struct posix_acl_xattr_header` and `_entry`).
fn acl_bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl_of_user() -> Vec<u8> {
    let none = u32::MAX;
    acl_bytes(&[
        (1, 6, none),
        (2, 5, 1234),
        (4, 4, none),
        (0x10, 5, none),
        (0x20, 0, none),
    ])
}

/// One that the mode says all of: no attribute is left of it.
fn acl_of_mode() -> Vec<u8> {
    let none = u32::MAX;
    acl_bytes(&[(1, 7, none), (4, 5, none), (0x20, 1, none)])
}

fn acl(dir: &Path, value: &[u8]) -> Act {
    let path = dir.join("file");
    let (file, value) = (filled(&path, 10), value.to_vec());
    Box::new(move || {
        let done = said(set_xattr(&file, "system.posix_acl_access", &value, 0));
        let mode = path.metadata().expect("stat").mode();
        done + &format!(" {mode:o}")
    })
}

fn mapping(dir: &Path) -> Act {
    let path = dir.join("file");
    let file = filled(&path, 8192);
    let words = SharedWords::open(&path, 1024).expect("map");
    // The page is there: nothing is to be read.
    assert_ne!(words.load(600), 0);
    Box::new(move || {
        words.store(600, u64::from_le_bytes(*b"stored!!"));
        let done = said(file.sync_all());
        drop(words);
        done
    })
}

fn open(dir: &Path) -> Act {
    let path = dir.join("file");
    filled(&path, 10);
    Box::new(move || said(File::open(&path).map(|file| links_and_text(&file))))
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let listed = std::fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name()));
    let mut names = listed.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn many(dir: &Path) {
    for number in 0..100 {
        file(&dir.join(number.to_string()));
    }
}

fn open_dir(dir: &Path) -> Act {
    let dir = dir.to_path_buf();
    many(&dir);
    Box::new(move || said(names(&dir)))
}

fn list(dir: &Path) -> Act {
    many(dir);
    let listed = std::fs::read_dir(dir).expect("open");
    Box::new(move || {
        let names = listed.map(|entry| entry.map(|e| e.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>();
        if let Ok(names) = &mut names {
            names.sort();
        }
        said(names)
    })
}
