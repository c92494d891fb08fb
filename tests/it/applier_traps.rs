//! Goal: the sequences that a naive redo gets wrong. Method: each is cut and killed at every point.

use doppelfs::applier::Start;
use doppelfs::types::{FileId, Name, Node, Op};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::applier_kills::{check, strict_rig};
use super::applier_model::{Made, Source, id_of, name};
use super::applier_rig::Rig;
use super::applier_world::{Depth, ROOT, SimReplica};

fn dir(source: &mut Source, parent: u64, text: &str) -> (u64, Made) {
    make(source, parent, text, Node::Dir)
}

fn make(source: &mut Source, parent: u64, text: &str, node: Node) -> (u64, Made) {
    let ino = source.world.create(parent, &name(text), &node).unwrap();
    let mut body = doppelfs::types::Body::of(Op::Create {
        at: dentry(parent, text),
        id: id_of(ino),
        node,
        xattrs: Vec::new(),
    });
    body.after = source.world.attrs(ino).ok();
    body.dir_mtime = Some(source.world.things[&parent].mtime);
    (ino, (body, Vec::new()))
}

fn dentry(parent: u64, text: &str) -> doppelfs::types::Dentry {
    doppelfs::types::Dentry {
        parent: id_of(parent),
        name: name(text),
    }
}

fn link(source: &mut Source, ino: u64, parent: u64, text: &str) -> Made {
    source.world.link(ino, parent, &name(text)).unwrap();
    let id: FileId = id_of(ino);
    let mut body = doppelfs::types::Body::of(Op::Link {
        id,
        at: dentry(parent, text),
        node: Node::File,
    });
    body.after = source.world.attrs(ino).ok();
    body.dir_mtime = Some(source.world.things[&parent].mtime);
    (body, Vec::new())
}

fn mv(source: &mut Source, from: (u64, &str), to: (u64, &str)) -> Made {
    let (old, new): (Name, Name) = (name(from.1), name(to.1));
    let ino = source.world.lookup(from.0, &old).unwrap().unwrap();
    let made = source.rename_at((from.0, old, ino), (to.0, new), false);
    let made = made.unwrap();
    // The model leaves whiteouts now and then; not here.
    assert!(!matches!(
        made.0.op,
        Op::Rename {
            mode: doppelfs::types::RenameMode::Whiteout { .. },
            ..
        }
    ));
    made
}

fn rm(source: &mut Source, parent: u64, text: &str) -> Made {
    let ino = source.world.lookup(parent, &name(text)).unwrap().unwrap();
    source.unlink_at((parent, name(text), ino)).unwrap()
}

/// Applies `before`, checkpoints, applies `after`, cuts in 200 ways; and kills at each operation.
fn survive(before: impl Fn(&mut Source) -> Vec<Made>, after: impl Fn(&mut Source) -> Vec<Made>) {
    for seed in 0..200 {
        let (mut source, mut rig) = prepared(&before);
        for made in after(&mut source) {
            let frame = source.seal(&made, false);
            rig.journal.push(frame);
        }
        rig.catch_up().unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        rig.lose_table();
        rig.replica.disk.lock().unwrap().cut(&mut rng);
        let recovered = rig.open().unwrap();
        assert!(
            matches!(recovered.start, Start::Redone { .. }),
            "{recovered:?}"
        );
        rig.catch_up().unwrap();
        check(&source, &rig, Depth::All, &format!("cut {seed}"));
    }
    for call in 0..40 {
        let (mut source, mut rig) = prepared(&before);
        for made in after(&mut source) {
            let frame = source.seal(&made, false);
            rig.journal.push(frame);
        }
        rig.light(call / 2, call % 2 == 1);
        if rig.catch_up().is_err() {
            rig.open().unwrap();
            rig.catch_up().unwrap();
        }
        check(&source, &rig, Depth::All, &format!("kill {call}"));
    }
}

fn prepared(before: &impl Fn(&mut Source) -> Vec<Made>) -> (Source, Rig<SimReplica>) {
    // A seed whose renames leave no whiteouts.
    let mut source = Source::new(5);
    let mut rig = strict_rig(&mut source);
    for made in before(&mut source) {
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
    }
    rig.catch_up().unwrap();
    rig.applier().checkpoint_now().unwrap();
    (source, rig)
}

#[test]
fn two_links_of_one_inode_renamed_over_each_other_keep_it() {
    survive(
        |source| {
            let (ino, made) = make(source, ROOT, "a", Node::File);
            vec![made, link(source, ino, ROOT, "b")]
        },
        |source| {
            vec![
                mv(source, (ROOT, "a"), (ROOT, "c")),
                rm(source, ROOT, "c"),
                mv(source, (ROOT, "b"), (ROOT, "a")),
            ]
        },
    );
}

/// Host and tmpfs are as after an orderly end and a boot; the map is an older one, from a backup.
#[test]
fn a_restored_older_map_does_not_take_the_last_link() {
    let (mut source, mut rig) = prepared(&|source: &mut Source| {
        let (ino, made) = make(source, ROOT, "a", Node::File);
        vec![made, link(source, ino, ROOT, "b")]
    });
    rig.applier.take().unwrap().close().unwrap();
    let old = rig.ledger.state.lock().unwrap().clone();
    rig.lose_table();
    assert_eq!(rig.open().unwrap().start, Start::Clean);
    let made = [
        mv(&mut source, (ROOT, "a"), (ROOT, "c")),
        rm(&mut source, ROOT, "c"),
        mv(&mut source, (ROOT, "b"), (ROOT, "a")),
    ];
    for one in &made {
        let frame = source.seal(one, false);
        rig.journal.push(frame);
    }
    rig.catch_up().unwrap();
    rig.applier.take().unwrap().close().unwrap();
    rig.lose_table();
    *rig.ledger.state.lock().unwrap() = old;
    rig.open().unwrap();
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "restored");
}

#[test]
fn directories_that_swap_nesting_do_not_wedge() {
    survive(
        |source| vec![dir(source, ROOT, "D1").1, dir(source, ROOT, "D2").1],
        |source| {
            let d1 = source.world.lookup(ROOT, &name("D1")).unwrap().unwrap();
            let d2 = source.world.lookup(ROOT, &name("D2")).unwrap().unwrap();
            vec![
                mv(source, (ROOT, "D1"), (d2, "D1")),
                mv(source, (d2, "D1"), (ROOT, "D1")),
                mv(source, (ROOT, "D2"), (d1, "D2")),
            ]
        },
    );
}

#[test]
fn a_name_used_again_by_another_file_is_not_mistaken() {
    survive(
        |source| vec![make(source, ROOT, "a", Node::File).1],
        |source| {
            vec![
                rm(source, ROOT, "a"),
                make(source, ROOT, "a", Node::File).1,
                rm(source, ROOT, "a"),
                dir(source, ROOT, "a").1,
            ]
        },
    );
}

#[test]
fn a_file_made_and_moved_into_a_directory_made_later_is_found() {
    survive(
        |_| Vec::new(),
        |source| {
            let (_, file) = make(source, ROOT, "f", Node::File);
            let (d, made) = dir(source, ROOT, "d");
            let (e, inner) = dir(source, d, "e");
            let moved = mv(source, (ROOT, "f"), (e, "g"));
            let moved_dir = mv(source, (d, "e"), (ROOT, "h"));
            vec![file, made, inner, moved, moved_dir]
        },
    );
}

/// The stream does not tell that D left X; then X goes into D. On the replica D is still in X.
#[test]
fn a_directory_that_moves_below_its_former_child_in_a_mirror_finds_its_place() {
    let before = |source: &mut Source| {
        let (x, made) = dir(source, ROOT, "X");
        vec![made, dir(source, x, "D").1]
    };
    let (mut source, mut rig) = prepared(&before);
    let x = source.world.lookup(ROOT, &name("X")).unwrap().unwrap();
    let d = source.world.lookup(x, &name("D")).unwrap().unwrap();
    mv(&mut source, (x, "D"), (ROOT, "D"));
    let gap = doppelfs::types::Body::of(Op::Gap {
        ids: vec![id_of(ROOT), id_of(x), id_of(d)],
        everything: false,
    });
    let begin = source.mirror_begin(2, doppelfs::types::Scope::Partial);
    let listing_of_d = source.listing(d, 9);
    let moved = mv(&mut source, (ROOT, "X"), (d, "X"));
    let mut all = vec![(gap, Vec::new()), begin];
    all.extend(listing_of_d);
    all.push(moved);
    all.extend(source.listing(x, 9));
    all.extend(source.listing(ROOT, 9));
    all.push(Source::mirror_end(2));
    for made in all {
        let frame = source.seal(&made, false);
        rig.journal.push(frame);
    }
    rig.catch_up().unwrap();
    check(&source, &rig, Depth::All, "disorder");
    assert_eq!(rig.applier().data_state(), doppelfs::applier::DataState::Ok);
}

/// The stream does not tell yet that Y, with D in it, left X; then A, above X, goes into D. On the replica D
/// is still below A, and none of the directories between them is in doubt. Whoever dies in between knows.
#[test]
fn a_directory_that_moves_below_what_left_it_unseen_is_sorted_out() {
    let before = |source: &mut Source| {
        let (a, made_a) = dir(source, ROOT, "A");
        let (x, made_x) = dir(source, a, "X");
        let (y, made_y) = dir(source, x, "Y");
        let (d, made_d) = dir(source, y, "D");
        vec![
            made_a,
            made_x,
            made_y,
            made_d,
            make(source, d, "f", Node::File).1,
        ]
    };
    for kill in 0..40 {
        let (mut source, mut rig) = prepared(&before);
        let find = |source: &Source, parent, text| {
            let found = source.world.lookup(parent, &name(text));
            found.unwrap().unwrap()
        };
        let a = find(&source, ROOT, "A");
        let x = find(&source, a, "X");
        let y = find(&source, x, "Y");
        let d = find(&source, y, "D");
        mv(&mut source, (x, "Y"), (ROOT, "Y"));
        let gap = |ids: &[u64]| {
            let op = Op::Gap {
                ids: ids.iter().map(|ino| id_of(*ino)).collect(),
                everything: false,
            };
            (doppelfs::types::Body::of(op), Vec::new())
        };
        let mut all = vec![
            gap(&[ROOT]),
            source.mirror_begin(2, doppelfs::types::Scope::Partial),
            mv(&mut source, (ROOT, "A"), (d, "A")),
            gap(&[x, y]),
        ];
        for dir in [ROOT, x, y, a] {
            all.extend(source.listing(dir, 9));
        }
        all.push(Source::mirror_end(2));
        for made in all {
            let frame = source.seal(&made, false);
            rig.journal.push(frame);
        }
        rig.light(kill, kill % 2 == 0);
        while rig.catch_up().is_err() {
            assert!(rig.is_dead(), "held");
            rig.unlight();
            rig.open().unwrap();
        }
        rig.unlight();
        check(&source, &rig, Depth::All, "disorder");
        assert_eq!(rig.applier().data_state(), doppelfs::applier::DataState::Ok);
    }
}

/// Does the replica show the effect without its cause?
fn shows_effect_alone(rig: &Rig<SimReplica>) -> bool {
    let disk = rig.replica.disk.lock().unwrap();
    let stands = |dir: &str, entry: &str| {
        let dir = disk.live.lookup(ROOT, &name(dir)).unwrap().unwrap();
        disk.live.lookup(dir, &name(entry)).unwrap().is_some()
    };
    stands("effects", "effect") && !stands("causes", "cause")
}

/// Applies a cause and its effect in another directory, in the order given, standing still after
/// each; tells whether the effect was ever seen alone.
fn effect_seen_alone(swapped: bool) -> bool {
    let (mut source, mut rig) = prepared(&|source: &mut Source| {
        vec![
            dir(source, ROOT, "causes").1,
            dir(source, ROOT, "effects").1,
        ]
    });
    let found = |source: &Source, text| source.world.lookup(ROOT, &name(text)).unwrap().unwrap();
    let (causes, effects) = (found(&source, "causes"), found(&source, "effects"));
    let mut made = vec![
        make(&mut source, causes, "cause", Node::File).1,
        make(&mut source, effects, "effect", Node::File).1,
    ];
    if swapped {
        made.swap(0, 1);
    }
    let mut seen = false;
    for one in &made {
        let frame = source.seal(one, false);
        rig.journal.push(frame);
        rig.catch_up().unwrap();
        seen |= shows_effect_alone(&rig);
    }
    seen
}

#[test]
fn in_the_order_of_the_stream_no_effect_stands_without_its_cause() {
    assert!(!effect_seen_alone(false));
}

#[test]
fn a_planted_swap_of_two_applies_is_found() {
    assert!(effect_seen_alone(true));
}
