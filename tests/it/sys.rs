//! Goal: the wrappers of system calls say what the calls say.
//! Method: files in scratch space, compared with what std says of them. As any user; what needs root
//! is skipped loudly.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use doppelfs::sys::{self, EntryType, HandleCodec, RawHandle, SharedWords};
use doppelfs::types::FileId;

use crate::scratch::Scratch;

#[test]
fn a_handle_and_an_id_are_converted_both_ways_without_loss() {
    // Type, content, id: ext4, tmpfs, xfs, btrfs.
    let layouts: [(i32, Vec<u8>); 4] = [
        (1, (1..=8).collect()),
        (1, (1..=12).collect()),
        (0x81, (1..=12).collect()),
        (0x4d, (1..=20).collect()),
    ];
    for (kind, content) in layouts {
        let handle = RawHandle::new(kind, &content).unwrap();
        let codec = HandleCodec::learn(&handle).unwrap();
        let id = codec.id(&handle).unwrap();
        assert_eq!(codec.handle(id), handle, "{kind:#x}");
        let other = RawHandle::new(kind + 1, &content).unwrap();
        assert_eq!(codec.id(&other), None, "a handle of another type");
    }
    let unknown = RawHandle::new(0x97, &[1; 16]).unwrap();
    assert_eq!(HandleCodec::learn(&unknown), None);
    assert_eq!(RawHandle::new(1, &[0; 129]), None);
}

#[test]
fn a_handle_of_another_btrfs_subvolume_has_no_id() {
    let mut content: Vec<u8> = (1..=20).collect();
    let root = RawHandle::new(0x4d, &content).unwrap();
    let codec = HandleCodec::learn(&root).unwrap();
    content[8] ^= 1;
    assert_eq!(codec.id(&RawHandle::new(0x4d, &content).unwrap()), None);
}

#[test]
fn an_id_made_from_a_real_handle_names_the_inode() {
    let scratch = Scratch::new("sys-handle");
    let dir = File::open(scratch.path()).unwrap();
    let Ok(root) = sys::name_to_handle_at(dir.as_fd(), c"") else {
        eprintln!("SKIPPED: the file system of the scratch directory gives no handles");
        return;
    };
    let Some(codec) = HandleCodec::learn(&root) else {
        eprintln!("SKIPPED: handles of the scratch directory's file system are not known");
        return;
    };
    std::fs::write(scratch.path().join("f"), b"content").unwrap();
    symlink("nowhere", scratch.path().join("l")).unwrap();
    for name in [c"f", c"l"] {
        let handle = sys::name_to_handle_at(dir.as_fd(), name).unwrap();
        let id: FileId = codec.id(&handle).unwrap();
        let stat = sys::fstatat(dir.as_fd(), name).unwrap();
        assert_eq!(id.ino.0, stat.ino);
        assert_eq!(codec.handle(id), handle);
    }
    if !sys::is_root() {
        eprintln!("SKIPPED: open_by_handle_at needs root");
        return;
    }
    let handle = sys::name_to_handle_at(dir.as_fd(), c"f").unwrap();
    let again = codec.handle(codec.id(&handle).unwrap());
    match sys::open_by_handle_at(dir.as_fd(), &again, libc::O_RDONLY) {
        Ok(fd) => {
            let mut bytes = [0; 16];
            let read = sys::pread(fd.as_fd(), &mut bytes, 0).unwrap();
            assert_eq!(&bytes[..read], b"content");
        }
        Err(error) => eprintln!("SKIPPED: open_by_handle_at is not allowed here: {error}"),
    }
}

#[test]
fn attributes_are_those_that_std_shows() {
    let scratch = Scratch::new("sys-stat");
    let path = scratch.path().join("f");
    std::fs::write(&path, b"12345").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::hard_link(&path, scratch.path().join("g")).unwrap();
    let file = File::open(&path).unwrap();
    let stat = sys::fstat(file.as_fd()).unwrap();
    let known = file.metadata().unwrap();
    assert_eq!((stat.ino, stat.dev), (known.ino(), known.dev()));
    assert_eq!((stat.mode, stat.size), (known.mode(), known.len()));
    assert_eq!((stat.uid, stat.gid), (known.uid(), known.gid()));
    assert_eq!(
        (stat.mtime.secs, i64::from(stat.mtime.nanos)),
        (known.mtime(), known.mtime_nsec())
    );
    assert!(stat.is_file() && !stat.is_dir() && !stat.is_symlink());
    let attrs = stat.attrs();
    assert_eq!((attrs.nlink, attrs.mode & 0o7777), (2, 0o640));
}

#[test]
fn shared_words_are_there_when_the_file_is_mapped_again() {
    let scratch = Scratch::new("sys-words");
    let path = scratch.path().join("words");
    let words = SharedWords::open(&path, 8).unwrap();
    assert_eq!(words.load(7), 0);
    words.store(0, 42);
    words.store(7, u64::MAX);
    let other = SharedWords::open(&path, 8).unwrap();
    assert_eq!((other.load(0), other.load(7)), (42, u64::MAX));
    drop((words, other));
    let again = SharedWords::open(&path, 8).unwrap();
    assert_eq!((again.load(0), again.load(1)), (42, 0));
    assert_eq!(again.load(7), u64::MAX);
}

#[test]
fn extended_attributes_are_listed_sorted_with_their_values() {
    let scratch = Scratch::new("sys-xattr");
    let file = File::create(scratch.path().join("f")).unwrap();
    let set = |name: &CStr, value: &[u8]| sys::setxattr(file.as_fd(), name, value, 0);
    if set(c"user.b", b"two").is_err() {
        eprintln!("SKIPPED: no user.* attributes on the scratch directory's file system");
        return;
    }
    set(c"user.a", b"").unwrap();
    let user = || {
        let all = sys::list_all_xattrs(file.as_fd()).unwrap();
        let user = all.into_iter().filter(|x| x.name.starts_with(b"user."));
        user.map(|x| (x.name, x.value)).collect::<Vec<_>>()
    };
    let (a, b) = (b"user.a".to_vec(), b"user.b".to_vec());
    assert_eq!(user(), [(a.clone(), vec![]), (b, b"two".to_vec())]);
    sys::removexattr(file.as_fd(), c"user.b").unwrap();
    assert_eq!(user(), [(a, vec![])]);
}

#[test]
fn data_is_found_behind_a_hole_and_nothing_behind_data() {
    let scratch = Scratch::new("sys-holes");
    let file = File::create_new(scratch.path().join("f")).unwrap();
    file.set_len(4 << 20).unwrap();
    assert_eq!(sys::data_segment(file.as_fd(), 4 << 20).unwrap(), None);
    file.write_all_at(b"x", 1 << 20).unwrap();
    let (start, end) = sys::data_segment(file.as_fd(), 0).unwrap().unwrap();
    assert!(start <= 1 << 20 && end > 1 << 20, "{start}..{end}");
    let after = sys::data_segment(file.as_fd(), end).unwrap();
    let keeps_holes = file.metadata().unwrap().blocks() * 512 < 4 << 20;
    assert!(after.is_none() || !keeps_holes, "{after:?}");
}

#[test]
fn entries_of_a_directory_come_with_their_types() {
    let scratch = Scratch::new("sys-entries");
    std::fs::write(scratch.path().join("f"), b"").unwrap();
    std::fs::create_dir(scratch.path().join("d")).unwrap();
    symlink("f", scratch.path().join("l")).unwrap();
    let dir = File::open(scratch.path()).unwrap();
    let mut buf = [0; 4096];
    let mut found = Vec::new();
    while sys::read_entries(dir.as_fd(), &mut buf, |entry| {
        found.push((entry.name.to_vec(), entry.kind));
        true
    })
    .unwrap()
        > 0
    {}
    found.retain(|(name, _)| name != b"." && name != b"..");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&[u8]> = found.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [b"d", b"f", b"l"]);
    for ((_, kind), is) in found
        .iter()
        .zip([EntryType::Dir, EntryType::File, EntryType::Symlink])
    {
        assert!(*kind == is || *kind == EntryType::Unknown);
    }
}

#[test]
fn a_lock_has_one_owner_and_goes_with_the_descriptor() {
    let scratch = Scratch::new("sys-lock");
    let path = scratch.path().join("lock");
    let first = File::create(&path).unwrap();
    let second = File::open(&path).unwrap();
    assert!(sys::flock_exclusive(first.as_fd()).unwrap());
    assert!(!sys::flock_exclusive(second.as_fd()).unwrap());
    drop(first);
    assert!(sys::flock_exclusive(second.as_fd()).unwrap());
}

#[test]
fn what_leaves_the_cache_is_read_and_written_as_all_else() {
    let scratch = Scratch::new("uncached");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch.path().join("file"))
        .unwrap();
    let wanted: Vec<u8> = (0..700_001u32).map(|i| (i % 251) as u8).collect();
    let mut done = 0;
    while done < wanted.len() {
        let at = 3 + done as u64;
        done += sys::pwrite_uncached(file.as_fd(), &wanted[done..], at).unwrap();
    }
    let mut found = vec![0; wanted.len() + 10];
    let read = sys::pread_uncached(file.as_fd(), &mut found, 3).unwrap();
    assert_eq!(read, wanted.len(), "up to the end of the file");
    assert_eq!(found[..read], wanted);

    file.sync_all().unwrap();
    sys::fadvise_dontneed(file.as_fd(), 0, 0).unwrap();
    let cached = sys::pread_cached(file.as_fd(), &mut found[..100_000], 3).unwrap();
    assert!(cached.is_none_or(|n| n <= 100_000));
    sys::fadvise_willneed(file.as_fd(), 0, 1 << 20).unwrap();
    sys::pread(file.as_fd(), &mut found[..100_000], 3).unwrap();
    match sys::pread_cached(file.as_fd(), &mut found[..100_000], 3).unwrap() {
        Some(read) => assert_eq!(read, 100_000, "what was just read is there"),
        None => eprintln!("NOT CHECKED: this file system does not tell what is in the cache"),
    }
    assert_eq!(found[..100_000], wanted[..100_000]);
    let mut other = vec![0; 10];
    let unwritable = File::open(scratch.path().join("file")).unwrap();
    let refused = sys::pwrite_uncached(unwritable.as_fd(), &other, 0);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EBADF));
    let dir = File::open(scratch.path()).unwrap();
    let refused = sys::pread_uncached(dir.as_fd(), &mut other, 0);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EISDIR));
}

#[test]
fn kernels_are_compared_by_number() {
    for (release, is_new) in [
        ("6.16.0", true),
        ("6.18.2-cloud-amd64", true),
        ("10.0-rc1", true),
        ("6.15.9", false),
        ("6.9.1", false),
        ("5.20", false),
        ("6", false),
        ("", false),
    ] {
        assert_eq!(sys::is_from(release, (6, 16)), is_new, "{release}");
    }
}
