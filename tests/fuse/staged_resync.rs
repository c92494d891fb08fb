//! Goal: a source that is lost for good while it sends what a loss of power put in doubt leaves a replica
//! of one moment. Method: the power fails, the link is slow, programs go on; the source is lost when
//! half of it is there, and the replica is compared with a copy from before.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use doppelfs::digest;

use crate::power_cuts::{disk, epochs};
use crate::support::{Fixture, Image, program, random_bytes, until};

const FILES: u64 = 40;
const FILE_BYTES: usize = 200_000;

fn write_all(dir: &Path, seed: u64) {
    for number in 0..FILES {
        let content = random_bytes(seed ^ number, FILE_BYTES);
        std::fs::write(dir.join(number.to_string()), content).expect("write");
    }
}

/// Its first bytes are others.
fn change_all(dir: &Path, what: &[u8]) {
    for number in 0..FILES {
        let path = dir.join(number.to_string());
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.write_all_at(what, 0))
            .expect("write in place");
    }
}

/// A source whose files were changed just now, as its target knows, when its power fails; and a copy of
/// the replica.
fn changed(test: &str, image: &Image) -> (Fixture, PathBuf) {
    let mut fixture = Fixture::apart(test, Some(image.path()), None);
    let dir = fixture.path("files");
    std::fs::create_dir(&dir).expect("mkdir");
    write_all(&dir, 1);
    fixture.start();
    until("the activity log to be small", || epochs(&fixture) == 1);
    change_all(&dir, b"known to the target");
    fixture.caught_up();
    image.cut();
    fixture.lose_source();
    image.come_back();
    let copy = fixture.outside("copy");
    program("cp")
        .arg("-a")
        .arg(fixture.replica(""))
        .arg(&copy)
        .succeed();
    (fixture, copy)
}

/// The replica is what it was.
fn assert_unchanged(fixture: &Fixture, copy: &Path) {
    let options = digest::Options::default();
    let report = digest::compare(copy, &fixture.replica(""), &options).expect("compare");
    assert!(report.is_equal(), "{report}");
    let stream = fixture.find_stream().expect("a stream");
    assert_eq!(stream.data_state(), "ok", "{stream:?}");
}

/// Half of what was in doubt is on the target.
fn wait_for_half(fixture: &Fixture, programs: impl Fn()) {
    fixture.proxy.slow(1 << 20);
    fixture.mount();
    programs();
    until("half of the mirror to be there", || {
        let stream = fixture.find_stream();
        stream.is_some_and(|stream| {
            let (received, applied) = stream.positions();
            stream.is_staged() && received > applied + FILES
        })
    });
    // The source hears of it a moment later.
    until("the source to say so", || {
        fixture.set().state() == "synchronising"
    });
}

#[test]
fn a_source_that_is_lost_in_its_resync_leaves_what_was_before() {
    let test = "a_source_that_is_lost_in_its_resync_leaves_what_was_before";
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let (mut fixture, copy) = changed(test, &image);
    // Lost by a second loss of power; and its processes alone, with a target that dies, too.
    for is_power in [true, false] {
        wait_for_half(&fixture, || {
            change_all(&fixture.path("files"), b"in the resync");
            std::fs::write(fixture.path("new"), "new").expect("write");
        });
        if is_power {
            image.cut();
        }
        fixture.lose_source();
        fixture.stands_still();
        assert_unchanged(&fixture, &copy);
        if is_power {
            image.come_back();
        } else {
            fixture.target.kill();
            fixture.target.start();
            until("the stream to be open", || fixture.find_stream().is_some());
            assert_unchanged(&fixture, &copy);
        }
    }
    fixture.proxy.mend();
    fixture.mount();
    let report = fixture.finish();
    eprintln!("{test}: {report}");
}

#[test]
fn a_resync_that_a_source_cannot_keep_is_applied_as_it_comes() {
    let test = "a_resync_that_a_source_cannot_keep_is_applied_as_it_comes";
    let Some(image) = disk(test, "ext4") else {
        return;
    };
    let (mut fixture, _copy) = changed(test, &image);
    // A quarter of it is less than the files.
    fixture = fixture.with_flags(&["-o", "queue-disk-max=16M"]);
    fixture.proxy.slow(2 << 20);
    fixture.mount();
    until("the mirror to be applied", || {
        fixture.connection().data_state() == "mirroring"
    });
    fixture.proxy.mend();
    let report = fixture.finish();
    eprintln!("{test}: {report}");
}
