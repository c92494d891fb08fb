//! Numbers, attributes and bodies that no honest source sends.

use std::os::unix::fs::MetadataExt;

use super::attack;
use super::attack::{Attack, carry_out, carry_out_under};
use super::frames::*;
use super::pack::{Pack, bytes, text, variant};
use super::scene::{ROOT, Scene, Verdict};

fn file_with(s: &mut Scene<'_>, record: impl Fn(Id) -> Draft, words: &str) -> Verdict {
    let id = s.file("a")?;
    s.put(&record(id));
    s.held(words)
}

fn node_is_refused(s: &mut Scene<'_>, node: Pack, words: &str) -> Verdict {
    let id = s.fresh();
    s.put(&create(ROOT, b"a", id, node, 0o100_644));
    s.held(words)
}

fn body_is_refused(s: &mut Scene<'_>, meta: Vec<u8>) -> Verdict {
    let kind = CREATE;
    let (payload, flags) = (Vec::new(), 0);
    s.put(&Draft {
        kind,
        meta,
        payload,
        flags,
    });
    s.held("cannot be decoded")
}

/// An extended attribute of something in the replica; empty where there is none.
fn xattr_of(s: &Scene<'_>, name: &str, attribute: &str) -> String {
    use std::os::fd::AsFd;
    let opened = std::fs::File::open(s.replica().join(name)).unwrap();
    let all = doppelfs::sys::list_all_xattrs(opened.as_fd()).unwrap();
    let found = all.iter().find(|xattr| xattr.name == attribute.as_bytes());
    found.map_or(String::new(), |xattr| {
        String::from_utf8_lossy(&xattr.value).into_owned()
    })
}

/// Attributes that differ from those of an ordinary file.
fn odd(change: impl Fn(&mut After)) -> After {
    let mut odd = after(0o100_644);
    change(&mut odd);
    odd
}

const NUMBERS: &[Attack] = &[
    attack!("write_at_the_end_of_numbers", |s| {
        file_with(s, |id| write(id, u64::MAX, b"xy"), "reaches that far")
    }),
    attack!("write_beyond_the_largest_file", |s| {
        file_with(
            s,
            |id| write(id, i64::MAX.unsigned_abs(), b"x"),
            "reaches that far",
        )
    }),
    attack!("truncate_to_a_negative_size", |s| {
        file_with(s, |id| truncate(id, 1 << 63), "reaches that far")
    }),
    attack!("truncate_to_minus_one", |s| {
        let id = s.file("a")?;
        let op = variant("t", vec![id.pack(), Pack::Negative(-1)]);
        s.put(&draft(TRUNCATE, op, None));
        s.held("cannot be decoded")
    }),
    attack!("truncate_to_exabytes", |s| file_with(
        s,
        |id| truncate(id, 1 << 62),
        "truncate"
    )),
    attack!("fallocate_exabytes", |s| {
        file_with(s, |id| fallocate(id, 0, 0, 1 << 62), "fallocate")
    }),
    attack!("fallocate_beyond_numbers", |s| {
        file_with(
            s,
            |id| fallocate(id, 0, u64::MAX - 5, 10),
            "reaches that far",
        )
    }),
    attack!("fallocate_in_no_way", |s| {
        file_with(s, |id| fallocate(id, 0x7000_0000, 0, 10), "no such way")
    }),
    attack!("fallocate_in_a_negative_way", |s| {
        file_with(s, |id| fallocate(id, -1, 0, 10), "no such way")
    }),
    attack!("image_hole_beyond_numbers", |s| {
        let op = variant(
            "H",
            vec![Id(60, 1).pack(), Pack::Whole(u64::MAX), Pack::Whole(1)],
        );
        s.put(&draft(IMAGE_HOLE, op, None));
        s.held("reaches that far")
    }),
    attack!("image_data_beyond_numbers", |s| {
        let op = variant("D", vec![Id(60, 1).pack(), Pack::Whole(u64::MAX)]);
        s.put(&draft(IMAGE_DATA, op, None).with(b"x"));
        s.held("reaches that far")
    }),
    attack!("owner_minus_one", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.uid = 0xffff_ffff)),
            "no user and no group",
        )
    }),
    attack!("group_minus_one", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.gid = 0xffff_ffff)),
            "no user and no group",
        )
    }),
    attack!("owner_beyond_numbers", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.uid = 1 << 40)),
            "cannot be decoded",
        )
    }),
    attack!("mode_with_bits_of_no_file", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.mode = 0o7_100_644)),
            "bits that no file has",
        )
    }),
    attack!("nanoseconds_that_mean_now", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.nanos = 0x3fff_ffff)),
            "nanoseconds",
        )
    }),
    attack!("nanoseconds_that_mean_as_it_is", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.nanos = 0x3fff_fffe)),
            "nanoseconds",
        )
    }),
    attack!("size_beyond_numbers", |s| {
        file_with(
            s,
            |id| setattr(id, &odd(|a| a.size = u64::MAX)),
            "reaches that far",
        )
    }),
    attack!("seconds_at_both_ends", |s| {
        let id = s.file("a")?;
        s.put(&setattr(id, &odd(|a| a.secs = i64::MAX)));
        s.put(&setattr(id, &odd(|a| a.secs = i64::MIN)));
        s.applied()
    }),
    attack!("link_text_too_long", |s| node_is_refused(
        s,
        symlink(&[b'x'; 4096]),
        "symbolic link"
    )),
    attack!("link_text_empty", |s| node_is_refused(
        s,
        symlink(b""),
        "symbolic link"
    )),
    attack!("link_text_with_nul", |s| node_is_refused(
        s,
        symlink(b"a\0b"),
        "symbolic link"
    )),
    attack!("device_of_64_bits", |s| node_is_refused(
        s,
        device("b", 1 << 40),
        "device"
    )),
    attack!("node_of_no_kind", |s| node_is_refused(
        s,
        text("z"),
        "cannot be decoded"
    )),
];

#[test]
fn numbers_do_no_harm() {
    carry_out("numbers", NUMBERS);
}

const ATTRIBUTES: &[Attack] = &[
    attack!("xattr_of_our_own", |s| {
        let id = s.file("a")?;
        s.put(&setxattr(id, b"trusted.doppelfs.withheld", b"device c 1:1"));
        s.put(&setxattr(id, b"trusted.doppelfs.position", &[1; 37]));
        s.applied()?;
        match xattr_of(s, "a", "trusted.doppelfs.withheld") {
            text if text.is_empty() => Ok(()),
            text => Err(text),
        }
    }),
    attack!("xattr_of_our_own_at_birth", |s| {
        let own = Pack::List(vec![
            bytes(b"trusted.doppelfs.withheld"),
            bytes(b"device c 1:1"),
        ]);
        let fields = vec![
            at(ROOT, b"a"),
            Id(60, 1).pack(),
            file(),
            Pack::List(vec![own]),
        ];
        s.put(&draft(
            CREATE,
            variant("c", fields),
            Some(after(0o100_644).pack()),
        ));
        s.applied()?;
        match xattr_of(s, "a", "trusted.doppelfs.withheld") {
            text if text.is_empty() => Ok(()),
            text => Err(text),
        }
    }),
    attack!("xattr_of_the_system", |s| {
        file_with(
            s,
            |id| setxattr(id, b"system.nfs4_acl", b"x"),
            "not replicated",
        )
    }),
    attack!("xattr_of_no_namespace", |s| {
        file_with(s, |id| setxattr(id, b"nothing", b"x"), "not replicated")
    }),
    attack!("xattr_without_a_name", |s| {
        file_with(s, |id| setxattr(id, b"", b"x"), "has that name")
    }),
    attack!("xattr_name_with_nul", |s| {
        file_with(s, |id| setxattr(id, b"user.a\0b", b"x"), "has that name")
    }),
    attack!("xattr_name_too_long", |s| {
        let name = [b"user.".as_slice(), &[b'x'; 251]].concat();
        file_with(s, |id| setxattr(id, &name, b"x"), "has that name")
    }),
    attack!("xattr_value_too_long", |s| {
        file_with(
            s,
            |id| setxattr(id, b"user.a", &vec![0; (64 << 10) + 1]),
            "that long",
        )
    }),
    attack!("xattr_list_with_nul", |s| {
        file_with(s, |id| removexattr(id, b"\0"), "has that name")
    }),
    attack!("write_to_a_directory", |s| {
        let d = s.dir(ROOT, "d")?;
        s.put(&write(d, 0, b"x"));
        s.held("another kind")
    }),
    attack!("body_of_another_kind", |s| {
        let mut record = truncate(Id(60, 1), 0);
        record.kind = WRITE;
        s.put(&record);
        s.held("by its body")
    }),
    attack!("body_empty", |s| body_is_refused(s, Vec::new())),
    attack!("body_nested_deep", |s| body_is_refused(
        s,
        vec![0x91; 1 << 20]
    )),
    attack!("body_of_maps_nested_deep", |s| body_is_refused(
        s,
        [0x81, 0xa1, b'c'].repeat(300_000)
    )),
    attack!("body_announces_many_entries", |s| {
        body_is_refused(s, vec![0xdf, 0xff, 0xff, 0xff, 0xff])
    }),
    attack!("body_announces_a_long_text", |s| {
        body_is_refused(s, vec![0x97, 0x81, 0xdb, 0xff, 0xff, 0xff, 0xff])
    }),
    attack!("listing_announces_many_entries", |s| {
        let many = Pack::Raw(vec![0xdd, 0xff, 0xff, 0xff, 0xff]);
        s.put(&draft(
            LISTING,
            variant("L", vec![ROOT.pack(), many, none()]),
            None,
        ));
        s.held("cannot be decoded")
    }),
    attack!("gap_announces_many_ids", |s| {
        let many = Pack::Raw(vec![0xdd, 0xff, 0xff, 0xff, 0xff]);
        s.put(&draft(
            GAP,
            variant("g", vec![many, Pack::Bool(false)]),
            None,
        ));
        s.held("cannot be decoded")
    }),
    attack!("group_of_no_listing", |s| {
        s.put(&create(ROOT, b"a", Id(60, 1), file(), 0o100_644).more());
        s.put(&create(ROOT, b"b", Id(61, 1), file(), 0o100_644));
        s.held("a")
    }),
    attack!("group_of_two_directories", |s| {
        let d = s.dir(ROOT, "d")?;
        s.put(&listing(ROOT, Vec::new()).more());
        s.put(&listing(d, Vec::new()));
        s.held("follows")
    }),
];

#[test]
fn attributes_and_bodies_do_no_harm() {
    carry_out("attributes", ATTRIBUTES);
}

const NODES: &[Attack] = &[attack!("device_and_set_id_inside_only", |s| {
    s.make(ROOT, "disk", device("b", 8 << 8))?;
    let id = s.file("su")?;
    s.put(&setattr(
        id,
        &odd(|a| (a.mode, a.uid, a.gid) = (0o104_755, 0, 0)),
    ));
    s.applied()?;
    let disk = std::fs::symlink_metadata(s.replica().join("disk")).unwrap();
    let su = std::fs::symlink_metadata(s.replica().join("su")).unwrap();
    match (disk.rdev(), su.mode() & 0o7777) {
        (0x800, 0o4755) => Ok(()),
        other => Err(format!("{other:?}")),
    }
})];

#[test]
fn devices_and_set_id_are_made_where_they_may() {
    carry_out("nodes", NODES);
}

const WITHHELD: &[Attack] = &[
    attack!("device_where_denied", |s| {
        s.make(ROOT, "disk", device("b", 8 << 8))?;
        let disk = std::fs::symlink_metadata(s.replica().join("disk")).unwrap();
        match disk.is_file()
            && xattr_of(s, "disk", "trusted.doppelfs.withheld").contains("device b 8:0")
        {
            true => Ok(()),
            false => Err(format!("{disk:?}")),
        }
    }),
    attack!("set_id_where_denied", |s| {
        let id = s.file("su")?;
        s.put(&setattr(
            id,
            &odd(|a| (a.mode, a.uid, a.gid) = (0o106_755, 0, 0)),
        ));
        s.applied()?;
        let su = std::fs::symlink_metadata(s.replica().join("su")).unwrap();
        match su.mode() & 0o6000 {
            0 => Ok(()),
            bits => Err(format!("{bits:o}")),
        }
    }),
    attack!("set_id_at_birth_where_denied", |s| {
        s.put(&create(ROOT, b"su", Id(60, 1), file(), 0o104_755));
        s.applied()?;
        let su = std::fs::symlink_metadata(s.replica().join("su")).unwrap();
        match su.mode() & 0o6000 {
            0 => Ok(()),
            bits => Err(format!("{bits:o}")),
        }
    }),
    attack!("capability_where_denied", |s| {
        let id = s.file("ping")?;
        let value = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        s.put(&setxattr(id, b"security.capability", &value));
        s.applied()?;
        match xattr_of(s, "ping", "security.capability") {
            text if text.is_empty() => Ok(()),
            text => Err(text),
        }
    }),
];

#[test]
fn what_is_denied_is_only_recorded() {
    carry_out_under("withheld", &["--deny-dev", "--deny-suid"], WITHHELD);
}
