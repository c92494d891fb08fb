//! Images of what is there, and what is read for them ahead of time.
//! Method: as in `capture`.

use std::os::fd::AsFd;

use doppelfs::capture::ImageOutcome;
use doppelfs::codec::Frame;
use doppelfs::sys;
use doppelfs::types::{Kind, Node, Op};

use crate::capture::{name, plain};

#[test]
fn an_image_of_a_directory_lists_all_and_of_a_file_carries_all() {
    let bed = plain("image");
    let root = bed.root();
    for index in 0..3000 {
        bed.make(root, &format!("{index:0>200}"), Node::File);
    }
    let before = bed.journal.end();
    assert_eq!(
        bed.capture.image(root, &mut |_| true).unwrap(),
        ImageOutcome::Imaged(0)
    );
    let mut reader = bed.journal.reader(before).unwrap();
    let (mut names, mut parts) = (0, 0);
    while let Some(frame) = reader.next().unwrap() {
        let Op::Listing { id, entries, .. } = frame.body().unwrap().op else {
            panic!()
        };
        assert_eq!(id, root);
        names += entries.len();
        parts += 1;
        let is_last = frame.header().seq == bed.journal.end();
        assert_eq!(frame.header().has_more(), !is_last);
    }
    assert_eq!(names, 3000);
    assert!(parts > 1, "a large listing comes in parts");

    let path = bed.scratch.path().join("data/sparse");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 3 << 20).unwrap();
    let (id, _) = bed.capture.tree().lookup(root, &name("sparse")).unwrap();
    let before = bed.journal.end();
    bed.capture.image(id, &mut |_| true).unwrap();
    let mut reader = bed.journal.reader(before).unwrap();
    let frames: Vec<Frame> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    let kinds: Vec<Kind> = frames.iter().map(|f| f.header().kind).collect();
    use Kind::{ImageBegin, ImageData, ImageEnd, ImageHole};
    assert_eq!(
        kinds,
        [ImageBegin, ImageHole, ImageData, ImageHole, ImageEnd]
    );
}

#[test]
fn reading_ahead_changes_nothing_and_saves_the_wait() {
    let bed = plain("ahead");
    let root = bed.root();
    for (text, node) in [
        ("file", Node::File),
        ("fifo", Node::Fifo),
        ("dir", Node::Dir),
    ] {
        bed.make(root, text, node);
    }
    let path = bed.scratch.path().join("data/file");
    std::fs::write(&path, [7; 50_000]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    let (end, cold) = (bed.journal.end(), bed.capture.cold_images());
    for text in ["file", "fifo", "dir"] {
        let (id, _) = bed.capture.tree().lookup(root, &name(text)).unwrap();
        bed.capture.read_ahead(id).unwrap();
    }
    assert_eq!(bed.journal.end(), end);
    let (id, _) = bed.capture.tree().lookup(root, &name("file")).unwrap();
    let image = || bed.capture.image(id, &mut |_| true).unwrap();
    sys::fadvise_dontneed(file.as_fd(), 0, 0).unwrap();
    assert_eq!(image(), ImageOutcome::Imaged(50_000));
    let after = bed.capture.cold_images();
    match after - cold {
        0 => eprintln!("NOT CHECKED: nothing leaves the cache of this file system"),
        _ => assert_eq!((after - cold, image()), (1, ImageOutcome::Imaged(50_000))),
    }
    assert_eq!(bed.capture.cold_images(), after, "it is in memory now");
}
