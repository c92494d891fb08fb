//! Goal: with `remap-links` absolute links into the set lead into the replica, and no other link is
//! touched. Method: links of every kind, made, moved, mirrored and deleted, against a comparison
//! that knows what each has to be, through restarts, kills and changes of the setting.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};

use doppelfs::digest::{self, Options};
use doppelfs::sys;
use doppelfs::types::Remap;

use crate::support::{Fixture, Scratch, has_programs, is_ready, open_dir, program};

const FLAG: &str = "--remap-links";

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().expect("UTF-8").to_owned()
}

fn remap(fixture: &Fixture) -> Remap {
    Remap {
        from: vec![text(fixture.path(""))],
        to: text(fixture.replica("")),
    }
}

/// Waits for the replica; every link is what it has to be, and everything else is equal.
#[track_caller]
fn assert_remapped(fixture: &Fixture) {
    fixture.caught_up();
    assert_remapped_now(fixture, &remap(fixture));
}

#[track_caller]
fn assert_remapped_now(fixture: &Fixture, remap: &Remap) {
    let options = Options {
        remap: Some(remap.clone()),
        ..Options::default()
    };
    let report = digest::compare(&fixture.path(""), &fixture.replica(""), &options);
    let report = report.expect("compare");
    assert!(report.is_equal(), "{report}\n{}", fixture.status());
}

/// As `Fixture::finish`.
#[track_caller]
fn finish(fixture: Fixture) {
    assert_remapped(&fixture);
    fixture.umount();
    assert_remapped_now(&fixture, &remap(&fixture));
}

fn target_of(path: impl AsRef<Path>) -> PathBuf {
    std::fs::read_link(path).expect("read a link")
}

/// Where the replica's link leads on the source, as the replica tells.
fn original_of(fixture: &Fixture, name: &str) -> Option<Vec<u8>> {
    let dir = open_dir(&fixture.replica(""));
    let name = CString::new(name).expect("no NUL");
    let link = sys::openat(dir.as_fd(), &name, libc::O_PATH, 0).expect("open");
    let all = sys::list_all_xattrs(link.as_fd()).expect("list attributes");
    let found = all
        .into_iter()
        .find(|xattr| xattr.name == b"trusted.doppelfs.link");
    found.map(|xattr| xattr.value)
}

/// Links into the set by its path: name, target, where it leads below the replica.
fn links_in(dir: &Path) -> Vec<(&'static str, PathBuf, &'static str)> {
    let path = text(dir);
    let path = path.trim_end_matches('/');
    vec![
        ("to-the-root", path.into(), ""),
        ("to-a-file", format!("{path}/dir/file").into(), "dir/file"),
        ("to-a-dir", format!("{path}/dir").into(), "dir"),
        (
            "to-nothing",
            format!("{path}/not/there").into(),
            "not/there",
        ),
        ("slashes", format!("/{path}//dir/./file").into(), "dir/file"),
        ("dots", format!("{path}/no/../dir/../dir").into(), "dir"),
        ("to-a-link", format!("{path}/to-a-file").into(), "to-a-file"),
    ]
}

/// Links that lead elsewhere, or not by an absolute path.
fn links_out(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let path = text(dir);
    let path = path.trim_end_matches('/');
    vec![
        ("relative", "dir/file".into()),
        ("climbs-out", "../data/dir/file".into()),
        ("outside", "/etc/hostname".into()),
        ("beside", format!("{path}2/file").into()),
        ("above", Path::new(path).parent().expect("a parent").into()),
        ("leaves", format!("{path}/../data2").into()),
    ]
}

fn plant(dir: &Path) {
    std::fs::create_dir(dir.join("dir")).expect("mkdir");
    std::fs::write(dir.join("dir/file"), b"reached").expect("write");
    for (name, target, _) in links_in(dir) {
        symlink(target, dir.join(name)).expect("symlink");
    }
    for (name, target) in links_out(dir) {
        symlink(target, dir.join(name)).expect("symlink");
    }
}

/// What was planted stands on the replica as it has to.
#[track_caller]
fn assert_planted(fixture: &Fixture) {
    assert_remapped(fixture);
    let root = fixture.path("");
    for (name, target, below) in links_in(&root) {
        let expected = fixture.replica(below);
        assert_eq!(target_of(fixture.replica(name)), expected, "{name}");
        assert_eq!(target_of(fixture.path(name)), target, "the source's {name}");
        let original = original_of(fixture, name);
        assert_eq!(
            original.as_deref(),
            Some(target.as_os_str().as_bytes()),
            "{name}"
        );
    }
    for (name, target) in links_out(&root) {
        assert_eq!(target_of(fixture.replica(name)), target, "{name}");
        assert_eq!(original_of(fixture, name), None, "{name}");
    }
    let reached = fixture.replica("to-a-link").canonicalize().expect("follow");
    assert_eq!(reached, fixture.replica("dir/file"));
}

/// The inode that these names of the replica share.
#[track_caller]
fn assert_one_link(fixture: &Fixture, names: [&str; 2]) {
    let [one, two] = names.map(|name| {
        let meta = fixture.replica(name).symlink_metadata().expect("stat");
        (meta.ino(), meta.nlink())
    });
    assert_eq!(one, two);
    assert_eq!(one.1, 2, "{names:?}");
}

#[test]
fn links_made_through_the_mount_lead_into_the_replica() {
    if !is_ready("links_made_through_the_mount_lead_into_the_replica") {
        return;
    }
    let mut fixture = Fixture::new("remap-made").with_flags(&[FLAG]);
    fixture.start();
    plant(&fixture.path(""));
    assert_planted(&fixture);

    // They are links like others afterwards.
    let path = |name: &str| fixture.path(name);
    std::fs::rename(path("to-a-file"), path("dir/moved")).expect("rename");
    std::fs::hard_link(path("to-a-dir"), path("dir/linked")).expect("link");
    lchown(path("to-a-dir"), Some(4_000), Some(5_000)).expect("lchown");
    std::fs::remove_file(path("to-nothing")).expect("unlink");
    std::fs::rename(path("slashes"), path("dots")).expect("rename over");
    std::fs::rename(path("dir"), path("other")).expect("rename");
    assert_remapped(&fixture);
    assert_eq!(
        target_of(fixture.replica("other/moved")),
        fixture.replica("dir/file")
    );
    assert_eq!(
        target_of(fixture.replica("dots")),
        fixture.replica("dir/file")
    );
    assert_one_link(&fixture, ["to-a-dir", "other/linked"]);
    assert!(fixture.replica("to-nothing").symlink_metadata().is_err());
    finish(fixture);
}

fn set_on_link(path: &Path, value: Option<&[u8]>) {
    let dir = open_dir(path.parent().expect("a parent"));
    let name = path.file_name().expect("a name").as_bytes();
    let name = CString::new(name).expect("no NUL");
    let link = sys::openat(dir.as_fd(), &name, libc::O_PATH, 0).expect("open");
    let done = match value {
        Some(value) => sys::setxattr(link.as_fd(), c"trusted.doppelfs.link", value, 0),
        None => sys::removexattr(link.as_fd(), c"trusted.doppelfs.link"),
    };
    done.expect("change an attribute");
}

#[test]
fn the_original_is_safe_from_attributes_of_the_source() {
    if !is_ready("the_original_is_safe_from_attributes_of_the_source") {
        return;
    }
    let mut fixture = Fixture::new("remap-attributes").with_flags(&[FLAG]);
    let names = ["into", "outside"].map(|name| fixture.path(name));
    let [into, outside] = &names;
    std::fs::write(fixture.path("file"), b"file").expect("write");
    symlink(fixture.path("file"), into).expect("symlink");
    symlink("/etc/hostname", outside).expect("symlink");
    let original = fixture.path("file").as_os_str().as_bytes().to_vec();
    let check = |fixture: &Fixture| {
        assert_remapped(fixture);
        assert_eq!(original_of(fixture, "into").as_ref(), Some(&original));
        assert_eq!(original_of(fixture, "outside"), None);
    };
    // As images bring them.
    names
        .iter()
        .for_each(|name| set_on_link(name, Some(b"planted")));
    fixture.start();
    check(&fixture);
    // As single operations bring them. No attribute of that family is taken over, of files neither.
    names
        .iter()
        .for_each(|name| set_on_link(name, Some(b"changed")));
    set_on_link(&fixture.path("file"), Some(b"kept"));
    check(&fixture);
    assert_eq!(original_of(&fixture, "file"), None);
    set_on_link(&fixture.path("file"), None);
    names.iter().for_each(|name| set_on_link(name, None));
    check(&fixture);
    finish(fixture);
}

#[test]
fn links_that_are_mirrored_lead_into_the_replica() {
    if !is_ready("links_that_are_mirrored_lead_into_the_replica") {
        return;
    }
    let mut fixture = Fixture::new("remap-mirrored").with_flags(&[FLAG]);
    plant(&fixture.path(""));
    std::fs::hard_link(fixture.path("to-a-dir"), fixture.path("dir/linked")).expect("link");
    fixture.start();
    assert_planted(&fixture);
    assert_one_link(&fixture, ["to-a-dir", "dir/linked"]);

    // A second mirror finds nothing to change: the links are the same inodes.
    let ino = |name: &str| {
        fixture
            .replica(name)
            .symlink_metadata()
            .expect("stat")
            .ino()
    };
    let before = ino("to-a-file");
    fixture
        .doppelfs()
        .args(["mirror", "start", "data"])
        .succeed();
    assert_planted(&fixture);
    assert_eq!(ino("to-a-file"), before);
    finish(fixture);
}

#[test]
fn links_moved_in_and_changed_while_unmounted_lead_into_the_replica() {
    let test = "links_moved_in_and_changed_while_unmounted_lead_into_the_replica";
    if !is_ready(test) || !has_programs(test, &["mv"]) {
        return;
    }
    let mut fixture = Fixture::new("remap-moved-in").with_flags(&[FLAG]);
    fixture.start();
    let target = fixture.path("file");
    std::fs::write(&target, b"file").expect("write");
    symlink(&target, fixture.outside("beyond")).expect("symlink");
    program("mv")
        .arg(fixture.outside("beyond"))
        .arg(fixture.path("in"))
        .succeed();
    assert_remapped(&fixture);
    assert_eq!(target_of(fixture.replica("in")), fixture.replica("file"));

    fixture.umount();
    std::fs::remove_file(fixture.path("in")).expect("unlink");
    symlink("/etc/hostname", fixture.path("in")).expect("symlink");
    symlink(&target, fixture.path("while-unmounted")).expect("symlink");
    fixture.mount();
    assert_remapped(&fixture);
    assert_eq!(target_of(fixture.replica("in")), Path::new("/etc/hostname"));
    assert_eq!(
        target_of(fixture.replica("while-unmounted")),
        fixture.replica("file")
    );
    finish(fixture);
}

#[test]
fn restarts_and_kills_keep_links_remapped_without_a_mirror() {
    if !is_ready("restarts_and_kills_keep_links_remapped_without_a_mirror") {
        return;
    }
    let mut fixture = Fixture::new("remap-restarts").with_flags(&[FLAG]);
    fixture.start();
    let make = |fixture: &Fixture, round: usize| {
        let dir = fixture.path(format!("round-{round}"));
        std::fs::create_dir(&dir).expect("mkdir");
        for number in 0..300 {
            let inside = fixture.path(format!("round-{round}/link-{}", number + 1));
            let target = if number % 3 == 0 {
                "/etc".into()
            } else {
                inside
            };
            symlink(target, dir.join(format!("link-{number}"))).expect("symlink");
        }
    };
    let before = fixture.connection().mirror_bytes();
    for round in 0..4 {
        make(&fixture, round);
        fixture.target.kill();
        fixture.target.start();
    }
    fixture.target.stop();
    make(&fixture, 4);
    fixture.target.start();
    assert_remapped(&fixture);
    assert_eq!(fixture.connection().mirror_bytes(), before, "mirrored");
    fixture.proxy.cut();
    make(&fixture, 5);
    fixture.umount();
    fixture.mount();
    fixture.proxy.mend();
    assert_remapped(&fixture);
    fixture.assert_nothing_mirrored();
    finish(fixture);
}

#[test]
fn a_change_of_the_setting_makes_every_link_right() {
    if !is_ready("a_change_of_the_setting_makes_every_link_right") {
        return;
    }
    let mut fixture = Fixture::new("remap-toggled");
    plant(&fixture.path(""));
    std::fs::hard_link(fixture.path("to-a-dir"), fixture.path("dir/linked")).expect("link");
    fixture.start();
    // Off by default: the replica's links are the source's.
    fixture.assert_equal();
    assert_eq!(
        target_of(fixture.replica("to-a-file")),
        fixture.path("dir/file")
    );

    for round in 0..2 {
        // On; what is queued was made under the other setting.
        fixture.proxy.cut();
        let queued = fixture.path(format!("queued-{round}"));
        symlink(fixture.path("dir"), &queued).expect("symlink");
        fixture.umount();
        fixture.mount_command().arg(FLAG).succeed();
        fixture.proxy.mend();
        assert_planted(&fixture);
        assert_one_link(&fixture, ["to-a-dir", "dir/linked"]);
        assert!(fixture.connection().mirror_bytes() > 0, "not mirrored");

        // The target dies in the middle of the way back.
        fixture.umount();
        fixture.mount();
        fixture.target.kill();
        fixture.target.start();
        fixture.assert_equal();
        assert_one_link(&fixture, ["to-a-dir", "dir/linked"]);
        assert_eq!(original_of(&fixture, "to-a-dir"), None);
    }
    fixture.finish();
}

/// A mount at another place than the fixture's, unmounted in the end.
struct Elsewhere<'a>(&'a Fixture, PathBuf);

impl Elsewhere<'_> {
    fn umount(&self) {
        self.0.doppelfs().arg("umount").arg(&self.1).succeed();
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = sys::umount(&self.1, true);
        }
    }
}

#[test]
fn links_by_way_of_the_mount_point_lead_into_the_replica_too() {
    if !is_ready("links_by_way_of_the_mount_point_lead_into_the_replica_too") {
        return;
    }
    let mut fixture = Fixture::new("remap-elsewhere");
    let point = fixture.outside("elsewhere");
    std::fs::create_dir(&point).expect("mkdir");
    fixture.target.start();
    fixture.mount_command().args([FLAG]).arg(&point).succeed();
    let mounted = Elsewhere(&fixture, point.clone());
    std::fs::write(point.join("file"), b"reached").expect("write");
    symlink(point.join("file"), point.join("by-the-mount")).expect("symlink");
    symlink(fixture.path("file"), point.join("by-the-directory")).expect("symlink");
    fixture.caught_up();
    let both = Remap {
        from: vec![text(&point), text(fixture.path(""))],
        to: text(fixture.replica("")),
    };
    assert_remapped_now(&fixture, &both);
    for name in ["by-the-mount", "by-the-directory"] {
        assert_eq!(target_of(fixture.replica(name)), fixture.replica("file"));
    }
    mounted.umount();
    drop(mounted);

    // Over the directory itself the other path is one outside of the set.
    fixture.mount_command().arg(FLAG).succeed();
    assert_remapped(&fixture);
    assert_eq!(
        target_of(fixture.replica("by-the-mount")),
        point.join("file")
    );
    assert_eq!(
        target_of(fixture.replica("by-the-directory")),
        fixture.replica("file")
    );
    finish(fixture);
}

#[test]
fn status_tells_that_links_are_remapped() {
    if !is_ready("status_tells_that_links_are_remapped") {
        return;
    }
    let fixture = Fixture::new("remap-status");
    let mut fixture = fixture.with_flags(&["-o", "remap_links"]);
    fixture.start();
    let status = fixture.status();
    let told = status.pointer("/sets/0/roots/0/remap_links");
    assert_eq!(told, Some(&true.into()), "{status}");
    let from = status.pointer("/targets/0/streams/0/remap_from/0");
    let dir = text(fixture.path(""));
    let dir = dir.trim_end_matches('/');
    assert_eq!(from, Some(&dir.into()), "{status}");
    let shown = fixture.doppelfs().arg("status").run().stdout;
    assert!(
        shown.contains("absolute ones into the directory"),
        "{shown}"
    );
    assert!(shown.contains("lead here"), "{shown}");
    finish(fixture);
}

#[test]
fn compare_knows_what_remapped_links_have_to_be() {
    if !is_ready("compare_knows_what_remapped_links_have_to_be") {
        return;
    }
    let scratch = Scratch::new("remap-compare");
    let sides = ["left", "right"].map(|side| scratch.path().join(side));
    for side in &sides {
        std::fs::create_dir(side).expect("mkdir");
    }
    let [left, right] = &sides;
    let compare = |flags: &[&str]| {
        // Modification times are not what this is about: those of links and roots are made equal.
        for side in &sides {
            program("touch")
                .args(["-h", "-d", "@1"])
                .arg(side.join("link"))
                .succeed();
            program("touch").args(["-d", "@1"]).arg(side).succeed();
        }
        crate::support::doppelfs(scratch.path())
            .arg("compare")
            .arg(left)
            .arg(right)
            .args(flags)
            .run()
    };
    let relink = |target: &str, original: Option<&[u8]>| {
        let _ = std::fs::remove_file(right.join("link"));
        symlink(target, right.join("link")).expect("symlink");
        if let Some(original) = original {
            let dir = open_dir(right);
            let link = sys::openat(dir.as_fd(), c"link", libc::O_PATH, 0).expect("open");
            sys::setxattr(link.as_fd(), c"trusted.doppelfs.link", original, 0).expect("setxattr");
        }
    };
    symlink("/srv/data//x", left.join("link")).expect("symlink");
    let flags: &[&str] = &["--remap-links", "/srv/data=/replica"];
    relink("/replica/x", Some(b"/srv/data//x"));
    compare(flags).expect_code(0);
    compare(&[]).expect_code(1);
    compare(&["--remap-links", "/srv/other=/replica"]).expect_code(1);
    compare(&[
        "--remap-links",
        "/mnt=/replica",
        "--remap-links",
        "/srv/data=/replica",
    ])
    .expect_code(0);
    for (target, original) in [
        ("/replica/y", Some(b"/srv/data//x".as_slice())),
        ("/replica/x", Some(b"/srv/data/x")),
        ("/replica/x", None),
        ("/srv/data//x", None),
    ] {
        relink(target, original);
        compare(flags).expect_code(1);
    }
    for wrong in [
        ["--remap-links", "srv=/replica"].as_slice(),
        &["--remap-links", "/srv"],
        &["--remap-links", "/a=/b", "--remap-links", "/c=/d"],
    ] {
        compare(wrong)
            .expect_code(2)
            .expect_words(&["--remap-links"]);
    }
}
