//! Names, identities and places in records: nothing outside of the replica has one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::attack;
use super::attack::{Attack, carry_out};
use super::frames::*;
use super::pack::{text, variant};
use super::scene::{ROOT, Scene, Verdict};

fn name_is_no_name(scene: &mut Scene<'_>, name: &[u8]) -> Verdict {
    let id = scene.fresh();
    scene.put(&create(ROOT, name, id, file(), 0o100_666));
    scene.held("file name")
}

fn ino(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

/// Every identity that something outside of the replica could have, if numbers were taken for identities.
fn foreign(scene: &Scene<'_>) -> Vec<Id> {
    let outside = scene.stage.outside();
    let root = scene.stage.root();
    let mut paths = vec![
        outside.join("passwd"),
        outside.join("shadow"),
        outside.clone(),
        root.join("file"),
        root.join("victim/data/passwd"),
        root.join("victim/data"),
        root.join("honest/data"),
        root.clone(),
        root.join(".doppelfs"),
        scene.stage.state().join("key"),
    ];
    // Limbo and markers of all streams.
    for hidden in std::fs::read_dir(root.join(".doppelfs")).unwrap().flatten() {
        paths.push(hidden.path());
        paths.push(hidden.path().join("limbo"));
        paths.push(hidden.path().join("position"));
    }
    let numbers = paths.iter().map(|path| ino(path));
    // Generations are not known to a source; 0 is what file systems without them have.
    numbers.flat_map(|ino| [Id(ino, 0), Id(ino, 1)]).collect()
}

fn link_to_outside(scene: &mut Scene<'_>) -> Result<Id, String> {
    let to = scene.stage.outside();
    scene.make(ROOT, "out", symlink(to.to_str().unwrap().as_bytes()))
}

const NAMES: &[Attack] = &[
    attack!("name_dot_dot", |s| name_is_no_name(s, b"..")),
    attack!("name_dot", |s| name_is_no_name(s, b".")),
    attack!("name_empty", |s| name_is_no_name(s, b"")),
    attack!("name_with_slash", |s| name_is_no_name(
        s,
        b"../victim/data/new"
    )),
    attack!("name_absolute", |s| {
        let path = s.stage.outside().join("new");
        name_is_no_name(s, path.to_str().unwrap().as_bytes())
    }),
    attack!("name_with_nul", |s| name_is_no_name(s, b"a\0b")),
    attack!("name_too_long", |s| name_is_no_name(s, &[b'n'; 256])),
    attack!("name_of_the_hidden_directory_is_a_name", |s| {
        let hidden = s.dir(ROOT, ".doppelfs")?;
        s.make(hidden, "position", file())?;
        match s.replica().join(".doppelfs/position").exists() {
            true => Ok(()),
            false => Err("it is not in the replica".to_owned()),
        }
    }),
    attack!("name_dot_dot_listed", |s| {
        s.put(&gap(&[], true));
        s.put(&listing(ROOT, vec![(b"..", Id(50, 1), dir())]));
        s.held("file name")
    }),
    attack!("rename_to_dot_dot", |s| {
        let id = s.file("a")?;
        s.put(&rename(id, file(), at(ROOT, b"a"), at(ROOT, b"..")));
        s.held("file name")
    }),
    attack!("link_to_slash", |s| {
        let id = s.file("a")?;
        s.put(&link(id, ROOT, b"../victim/a"));
        s.held("file name")
    }),
    attack!("unlink_below_by_name", |s| {
        link_to_outside(s)?;
        let id = s.file("a")?;
        s.put(&unlink(ROOT, b"out/passwd", id));
        s.held("file name")
    }),
];

#[test]
fn names_lead_nowhere() {
    carry_out("names", NAMES);
}

const IDENTITIES: &[Attack] = &[
    attack!("write_to_a_file_outside", |s| {
        let id = Id(ino(&s.stage.outside().join("passwd")), 0);
        s.put(&write(id, 0, b"mallory::0:0::/:/bin/sh\n"));
        s.held("not known")
    }),
    attack!("link_of_a_file_outside", |s| {
        let id = Id(ino(&s.stage.outside().join("shadow")), 0);
        s.put(&link(id, ROOT, b"shadow"));
        s.held("not known")
    }),
    attack!("create_in_a_directory_outside", |s| {
        let id = Id(ino(&s.stage.outside()), 0);
        s.put(&create(id, b"new", Id(60, 1), file(), 0o100_666));
        s.held("not known")
    }),
    attack!("rename_out_of_the_replica", |s| {
        let id = s.file("a")?;
        let outside = Id(ino(&s.stage.outside()), 0);
        s.put(&rename(id, file(), at(ROOT, b"a"), at(outside, b"a")));
        s.held("not known")
    }),
    attack!("rename_into_the_replica", |s| {
        let outside = s.stage.outside();
        let (dir, shadow) = (Id(ino(&outside), 0), Id(ino(&outside.join("shadow")), 0));
        s.put(&rename(shadow, file(), at(dir, b"shadow"), at(ROOT, b"a")));
        s.held("not known")
    }),
    attack!("foreign_identities_in_a_mirror", |s| {
        s.put(&mirror_begin(2, "f", ROOT));
        for id in foreign(s) {
            s.put(&write(id, 0, b"gone"));
            s.put(&setattr(id, &after(0o100_777)));
            s.put(&truncate(id, 0));
            s.put(&unlink(id, b"passwd", id));
            s.put(&create(id, b"new", Id(60, 1), file(), 0o100_666));
            s.put(&listing(id, Vec::new()));
            s.put(&draft(
                IMAGE,
                variant("I", vec![id.pack(), file(), none()]),
                Some(after(0o100_777).pack()),
            ));
        }
        s.applied()
    }),
    attack!("foreign_identities_linked_in_a_mirror", |s| {
        // A file of that identity is made new and empty; it is not the one with that number.
        s.put(&mirror_begin(2, "f", ROOT));
        let ids = foreign(s);
        let names: Vec<Vec<u8>> = ids
            .iter()
            .map(|id| format!("n{}.{}", id.0, id.1).into_bytes())
            .collect();
        let entries = names
            .iter()
            .zip(&ids)
            .map(|(name, id)| (name.as_slice(), *id, file()));
        s.put(&listing(ROOT, entries.collect()));
        for id in ids {
            s.put(&write(id, 0, b"gone"));
            s.put(&setattr(id, &after(0o100_777)));
        }
        s.applied()
    }),
    attack!("root_unlinked", |s| {
        s.put(&rmdir(ROOT, b"nothing", ROOT));
        s.held("another file is there")
    }),
    attack!("root_renamed_below_itself", |s| {
        s.dir(ROOT, "d")?;
        s.put(&rename(ROOT, dir(), at(ROOT, b"d"), at(ROOT, b"e")));
        s.held("another file is there")
    }),
    attack!("root_listed_in_itself", |s| {
        s.put(&mirror_begin(2, "f", ROOT));
        s.put(&listing(ROOT, vec![(b"self", ROOT, dir())]));
        match s.outcome_within(super::line::PATIENCE / 6) {
            super::scene::Outcome::Closed => Err("closed".to_owned()),
            _ => Ok(()),
        }
    }),
    attack!("root_given_to_a_new_directory", |s| {
        s.put(&create(ROOT, b"d", ROOT, dir(), 0o040_755));
        s.put(&create(ROOT, b"e", Id(70, 1), file(), 0o100_644));
        s.put(&rename(ROOT, dir(), at(ROOT, b"d"), at(ROOT, b"f")));
        match s.outcome_within(super::line::PATIENCE / 6) {
            super::scene::Outcome::Closed => Err("closed".to_owned()),
            _ => Ok(()),
        }
    }),
    attack!("directories_in_each_other", |s| {
        let a = s.dir(ROOT, "a")?;
        let b = s.dir(a, "b")?;
        s.put(&mirror_begin(2, "f", ROOT));
        s.put(&listing(ROOT, vec![(b"a", a, dir())]));
        s.put(&listing(a, vec![(b"b", b, dir())]));
        s.put(&listing(b, vec![(b"a", a, dir())]));
        match s.outcome_within(super::line::PATIENCE / 6) {
            super::scene::Outcome::Closed => Err("closed".to_owned()),
            _ => Ok(()),
        }
    }),
    attack!("directory_moved_below_itself", |s| {
        let a = s.dir(ROOT, "a")?;
        s.put(&rename(a, dir(), at(ROOT, b"a"), at(a, b"b")));
        s.held("a")
    }),
    attack!("write_through_a_link", |s| {
        let id = link_to_outside(s)?;
        s.put(&write(id, 0, b"gone"));
        s.held("another kind")
    }),
    attack!("create_below_a_link", |s| {
        let id = link_to_outside(s)?;
        s.put(&create(id, b"new", Id(60, 1), file(), 0o100_666));
        s.held("not known")
    }),
    attack!("unlink_below_a_link", |s| {
        let id = link_to_outside(s)?;
        s.put(&unlink(id, b"passwd", Id(60, 1)));
        s.held("not known")
    }),
    attack!("rename_below_a_link", |s| {
        let (id, a) = (link_to_outside(s)?, s.file("a")?);
        s.put(&rename(a, file(), at(ROOT, b"a"), at(id, b"passwd")));
        s.held("not known")
    }),
    attack!("attributes_of_a_link_are_its_own", |s| {
        let to = s.stage.outside().join("shadow");
        let id = s.make(ROOT, "out", symlink(to.to_str().unwrap().as_bytes()))?;
        s.put(&setattr(id, &after(0o120_777)));
        s.put(&setxattr(id, b"trusted.mark", b"1"));
        s.applied()
    }),
    attack!("listing_below_a_link", |s| {
        let id = link_to_outside(s)?;
        s.put(&gap(&[], true));
        s.put(&listing(ROOT, vec![(b"out", id, dir())]));
        s.put(&listing(id, Vec::new()));
        s.applied()
    }),
    attack!("hard_link_of_a_directory", |s| {
        let d = s.dir(ROOT, "d")?;
        s.put(&link(d, ROOT, b"e"));
        s.held("e")
    }),
    attack!("exchange_with_the_root", |s| {
        let d = s.dir(ROOT, "d")?;
        let other = super::pack::Pack::List(vec![
            ROOT.pack(),
            super::pack::Pack::Whole(2),
            dir(),
            super::pack::Pack::Nil,
        ]);
        let op = variant(
            "m",
            vec![
                d.pack(),
                dir(),
                at(ROOT, b"d"),
                at(d, b"x"),
                other,
                text("x"),
            ],
        );
        s.put(&draft(RENAME, op, None));
        s.held("another file is there")
    }),
];

#[test]
fn identities_lead_nowhere() {
    carry_out("identities", IDENTITIES);
}
