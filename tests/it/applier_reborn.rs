//! Goal: a mirror ends although an id that the target knows is another kind of file by now.
//! Method: a file is made, and removed untold; its number goes to one of each other kind. The source is
//! asked, and answers at once, so that the answer for the id may come before the listing that tells
//! what it is. Nobody connects anew: that would ask for everything again, and hide it.

use doppelfs::applier::{DataState, Stage, Staged};
use doppelfs::types::{Body, FileId, Node, Op, Scope};

use super::applier_kills::{check, strict_rig};
use super::applier_model::{Made, Source, id_of, ino_of, name};
use super::applier_rig::Rig;
use super::applier_world::{Depth, ROOT, SimReplica};

const MIRROR: u64 = 2;

fn push(source: &mut Source, rig: &mut Rig<SimReplica>, made: &Made) {
    let frame = source.seal(made, false);
    rig.journal.push(frame);
}

/// What the source answers: of files an image in pieces, or in one.
fn answers(source: &mut Source, id: FileId, in_pieces: bool) -> Vec<Made> {
    let ino = ino_of(id);
    let node = source
        .world
        .things
        .get(&ino)
        .map(|thing| thing.node.clone());
    match node {
        Some(Node::Dir) => source.listing(ino, 99),
        Some(Node::File) if in_pieces => {
            let data = source.world.things[&ino].data.clone();
            let xattrs = source.world.xattr_list(ino).unwrap();
            let mut end = Body::of(Op::ImageEnd { id, xattrs });
            end.after = source.world.attrs(ino).ok();
            vec![
                (Body::of(Op::ImageBegin { id }), Vec::new()),
                (Body::of(Op::ImageData { id, offset: 0 }), data),
                (end, Vec::new()),
            ]
        }
        _ => vec![source.image(ino)],
    }
}

/// The target knows `old`; the source has `new` by the same id. What the stream says of it comes last.
fn reborn(old: &Node, new: &Node) -> (Source, Rig<SimReplica>) {
    let mut source = Source::new(7);
    let mut rig = strict_rig(&mut source);
    let ino = source.world.create(ROOT, &name("x"), old).unwrap();
    let mut create = Body::of(Op::Create {
        at: doppelfs::types::Dentry {
            parent: id_of(ROOT),
            name: name("x"),
        },
        id: id_of(ino),
        node: old.clone(),
        xattrs: Vec::new(),
    });
    create.after = source.world.attrs(ino).ok();
    create.dir_mtime = Some(source.world.things[&ROOT].mtime);
    push(&mut source, &mut rig, &(create, Vec::new()));
    rig.catch_up().unwrap();
    match old.is_dir() {
        true => source.world.rmdir(ROOT, &name("x")).unwrap(),
        false => source.world.unlink(ROOT, &name("x")).unwrap(),
    }
    source.world.next = ino;
    assert_eq!(
        source.world.create(ROOT, &name("y"), new).unwrap(),
        ino,
        "the number is not given again"
    );
    if *new == Node::File {
        source.world.write(ino, 0, b"content").unwrap();
    }
    let gap = Body::of(Op::Gap {
        ids: vec![id_of(ROOT), id_of(ino)],
        everything: false,
    });
    push(&mut source, &mut rig, &(gap, Vec::new()));
    let begin = source.mirror_begin(MIRROR, Scope::Partial);
    push(&mut source, &mut rig, &begin);
    (source, rig)
}

/// Asks for one thing after the other, more often than there are things.
fn ask(source: &mut Source, rig: &mut Rig<SimReplica>, in_pieces: bool) {
    for _ in 0..9 {
        for id in rig.applier().take_wants(1) {
            for made in answers(source, id, in_pieces) {
                push(source, rig, &made);
            }
        }
        rig.catch_up().unwrap();
    }
}

fn is_exact(source: &Source, rig: &mut Rig<SimReplica>, when: &str) {
    assert_eq!(rig.applier().data_state(), DataState::Ok, "{when}");
    check(source, rig, Depth::All, when);
}

fn each_pair(case: impl Fn(&Node, &Node, bool, &str)) {
    let kinds = [Node::File, Node::Dir, Node::Fifo, Node::Socket];
    for old in &kinds {
        for new in &kinds {
            for in_pieces in [false, true] {
                let when = format!("{old:?} is {new:?} now, in pieces: {in_pieces}");
                case(old, new, in_pieces, &when);
            }
        }
    }
}

#[test]
fn a_mirror_ends_although_an_id_is_of_another_kind() {
    each_pair(|old, new, in_pieces, when| {
        let (mut source, mut rig) = reborn(old, new);
        rig.catch_up().unwrap();
        ask(&mut source, &mut rig, in_pieces);
        assert!(rig.applier().mirror_done(), "{when}: it does not end");
        push(&mut source, &mut rig, &Source::mirror_end(MIRROR));
        rig.catch_up().unwrap();
        is_exact(&source, &mut rig, when);
    });
}

#[test]
fn a_collected_mirror_ends_although_an_id_is_of_another_kind() {
    each_pair(|old, new, in_pieces, when| {
        let (mut source, mut rig) = reborn(old, new);
        let mut stage = Stage::default();
        // What is to be applied before was: the gap and the beginning are held.
        let mut seen = rig.journal.len() - 2;
        let mut look = |rig: &mut Rig<SimReplica>, stage: &mut Stage| {
            let mut last = Staged::On;
            while seen < rig.journal.len() {
                let frame = rig.journal[seen].clone();
                last = rig.applier().look_at(stage, &frame).unwrap();
                seen += 1;
            }
            last
        };
        assert_eq!(look(&mut rig, &mut stage), Staged::On, "{when}");
        for _ in 0..9 {
            for id in stage.take_wants(1) {
                for made in answers(&mut source, id, in_pieces) {
                    push(&mut source, &mut rig, &made);
                }
            }
            look(&mut rig, &mut stage);
        }
        assert!(stage.is_done(), "{when}: it does not end");
        push(&mut source, &mut rig, &Source::mirror_end(MIRROR));
        assert_eq!(look(&mut rig, &mut stage), Staged::Whole, "{when}");
        rig.catch_up().unwrap();
        let is_special = |node: &Node| !matches!(node, Node::File | Node::Dir);
        if old != new && is_special(old) && is_special(new) {
            // It cannot be told from the other by its kind alone: the applier finds it wanting.
            ask(&mut source, &mut rig, in_pieces);
            push(&mut source, &mut rig, &Source::mirror_end(MIRROR));
            rig.catch_up().unwrap();
        }
        is_exact(&source, &mut rig, when);
    });
}
