//! File systems that cannot be below, though their handles look like those of others.

const FUSE: &str = "a FUSE file system, which cannot be protected: its file handles do not last; \
                    protect the directory that its server gets its data from";
const FAT: &str = "a FAT file system, which cannot be protected: its files have numbers only while \
                   the kernel remembers them; move the data to ext4, xfs or btrfs";
const NETWORK: &str = "a network or cluster file system, which cannot be protected: other hosts change \
                       it unseen; protect the directory on the host that serves it";

/// Magic numbers of statfs(2) (`linux/magic.h` and the file systems' own headers).
const UNFIT: [(i64, &str); 13] = [
    (0x6573_5546, FUSE),
    // msdos and vfat, exfat.
    (0x4d44, FAT),
    (0x2011_bab0, FAT),
    // nfs, smb, cifs, smb2, 9p, ceph, afs, ocfs2, gfs2, lustre.
    (0x6969, NETWORK),
    (0x517b, NETWORK),
    (0xff53_4d42, NETWORK),
    (0xfe53_4d42, NETWORK),
    (0x0102_1997, NETWORK),
    (0x00c3_6400, NETWORK),
    (0x5346_414f, NETWORK),
    (0x7461_636f, NETWORK),
    (0x0116_1970, NETWORK),
    (0x0bd0_0bd0, NETWORK),
];

/// Why no tree on a file system with this magic number can be followed, to be read after "lies on";
/// `None`: nothing is known against it.
pub fn unfit(magic: i64) -> Option<&'static str> {
    UNFIT
        .iter()
        .find(|(number, _)| *number == magic)
        .map(|(_, reason)| *reason)
}
