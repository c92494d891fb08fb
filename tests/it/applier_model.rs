//! The source: random operations on a tree, and the records that they leave.

use doppelfs::applier::{Moving, Range};
use doppelfs::codec::{Draft, Frame};
use doppelfs::types::{
    Body, Caller, Dentry, Entry, FileId, Name, Node, Op, RenameMode, Replaced, Scope, Seq,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::applier_world::{COLLAPSE, INSERT, LIMBO, PUNCH, ROOT, World, ZERO};

/// What a source may do besides plain operations.
#[derive(Debug, Clone, Copy)]
pub struct Taste {
    /// Collapse and insert.
    pub shifts: bool,
    /// Large directories and deep trees are wanted less or more.
    pub things_max: usize,
}

impl Default for Taste {
    fn default() -> Taste {
        Taste {
            shifts: true,
            things_max: 40,
        }
    }
}

pub struct Source {
    pub world: World,
    pub rng: StdRng,
    pub seq: Seq,
    pub taste: Taste,
    /// Ids that the last operation touched, for gaps.
    pub touched: Vec<FileId>,
}

pub fn id_of(ino: u64) -> FileId {
    FileId::new(ino + 10_000, 77)
}

pub fn ino_of(id: FileId) -> u64 {
    id.ino.0 - 10_000
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Seals a record after `prev`.
pub fn frame(body: &Body, payload: &[u8], prev: Seq, seq: Seq, more: bool) -> Frame {
    let mut draft = Draft::new(body, payload);
    if more {
        draft = draft.with_more();
    }
    let mut bytes = draft.seal(seq, prev, 0).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(payload);
    Frame::from_vec(bytes).unwrap()
}

/// What an operation is made of before it has a position.
pub type Made = (Body, Vec<u8>);

impl Source {
    pub fn new(seed: u64) -> Source {
        Source {
            world: World::new(1_000_000),
            rng: StdRng::seed_from_u64(seed),
            seq: Seq::ZERO,
            taste: Taste::default(),
            touched: Vec::new(),
        }
    }

    /// Gives records positions; sometimes one is left out, as rules and elision do.
    pub fn seal(&mut self, made: &Made, more: bool) -> Frame {
        let prev = self.seq;
        self.seq = Seq(prev.0 + 1 + u64::from(self.rng.random_bool(0.1)));
        frame(&made.0, &made.1, prev, self.seq, more)
    }

    fn pick(&mut self, fits: impl Fn(&World, u64) -> bool) -> Option<u64> {
        let world = &self.world;
        let all: Vec<u64> = world
            .things
            .keys()
            .copied()
            .filter(|ino| *ino != LIMBO && fits(world, *ino))
            .collect();
        all.choose(&mut self.rng).copied()
    }

    fn pick_dir(&mut self) -> Option<u64> {
        self.pick(|world, ino| world.things[&ino].node.is_dir())
    }

    fn pick_file(&mut self) -> Option<u64> {
        self.pick(|world, ino| world.things[&ino].node == Node::File)
    }

    /// A random entry: directory, name, inode.
    fn pick_entry(&mut self, fits: impl Fn(&World, u64) -> bool) -> Option<(u64, Name, u64)> {
        let mut all = Vec::new();
        for (dir, thing) in &self.world.things {
            for (name, ino) in &thing.entries {
                if *dir != LIMBO && fits(&self.world, *ino) {
                    all.push((*dir, name.clone(), *ino));
                }
            }
        }
        all.choose(&mut self.rng).cloned()
    }

    fn fresh_name(&mut self, dir: u64) -> Option<Name> {
        for _ in 0..4 {
            let name = name(&format!("n{}", self.rng.random_range(0..12)));
            if self.world.lookup(dir, &name).ok()?.is_none() {
                return Some(name);
            }
        }
        None
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let length = self.rng.random_range(1..=max);
        let byte = self.rng.random_range(1..=255u8);
        vec![byte; length]
    }

    fn about(&mut self, op: Op, ino: u64) -> Body {
        let mut body = Body::of(op);
        body.after = self.world.attrs(ino).ok();
        self.touched = vec![id_of(ino)];
        body
    }

    fn dentry(&self, dir: u64, name: &Name) -> Dentry {
        Dentry {
            parent: id_of(dir),
            name: name.clone(),
        }
    }

    fn mtime(&self, dir: u64) -> Option<doppelfs::types::Time> {
        Some(self.world.things[&dir].mtime)
    }

    /// One random operation that the source's file system accepts.
    pub fn step(&mut self) -> Made {
        loop {
            let full = self.world.things.len() > self.taste.things_max;
            let made = match self.rng.random_range(0..100) {
                0..18 if !full => self.make(),
                18..24 => self.link(),
                24..34 => self.unlink(),
                34..38 => self.rmdir(),
                38..55 => self.rename(),
                55..75 => self.write(),
                75..80 => self.truncate(),
                80..85 => self.allocate(),
                85..95 => self.set_attr(),
                _ => self.set_xattr(),
            };
            if let Some(made) = made {
                return made;
            }
        }
    }

    fn make(&mut self) -> Option<Made> {
        let dir = self.pick_dir()?;
        let name = self.fresh_name(dir)?;
        let node = match self.rng.random_range(0..10) {
            0..5 => Node::File,
            5..8 => Node::Dir,
            8 if self.seq.0.is_multiple_of(2) => Node::Symlink(b"some/where".to_vec()),
            8 => Node::Symlink(b"/srv/set/some/where".to_vec()),
            _ if self.seq.0.is_multiple_of(2) => Node::Block(0x801),
            _ => Node::Fifo,
        };
        let ino = self.world.create(dir, &name, &node).ok()?;
        let thing = self.world.things.get_mut(&ino)?;
        thing.uid = self.rng.random_range(0..3);
        if !matches!(node, Node::Symlink(_)) {
            thing.mode = *[0o644, 0o755, 0o2755, 0o4711].choose(&mut self.rng)?;
        }
        if node == Node::Dir && self.rng.random_bool(0.2) {
            thing.xattrs.insert(b"user.born".to_vec(), b"with".to_vec());
        }
        let xattrs = self.world.xattr_list(ino).ok()?;
        let op = Op::Create {
            at: self.dentry(dir, &name),
            id: id_of(ino),
            node,
            xattrs,
        };
        let mut body = self.about(op, ino);
        body.dir_mtime = self.mtime(dir);
        self.touched.push(id_of(dir));
        Some((body, Vec::new()))
    }

    fn link(&mut self) -> Option<Made> {
        let ino = self.pick(|world, ino| !world.things[&ino].node.is_dir())?;
        let dir = self.pick_dir()?;
        let name = self.fresh_name(dir)?;
        self.world.link(ino, dir, &name).ok()?;
        let op = Op::Link {
            id: id_of(ino),
            at: self.dentry(dir, &name),
            node: self.world.things[&ino].node.clone(),
        };
        let mut body = self.about(op, ino);
        body.dir_mtime = self.mtime(dir);
        self.touched.push(id_of(dir));
        Some((body, Vec::new()))
    }

    fn unlink(&mut self) -> Option<Made> {
        let found = self.pick_entry(|world, ino| !world.things[&ino].node.is_dir())?;
        self.unlink_at(found)
    }

    pub fn unlink_at(&mut self, (dir, name, ino): (u64, Name, u64)) -> Option<Made> {
        let mut after = self.world.attrs(ino).ok()?;
        self.world.unlink(dir, &name).ok()?;
        after.nlink -= 1;
        let mut body = Body::of(Op::Unlink {
            at: self.dentry(dir, &name),
            id: id_of(ino),
        });
        body.after = Some(after);
        body.dir_mtime = self.mtime(dir);
        self.touched = vec![id_of(ino), id_of(dir)];
        Some((body, Vec::new()))
    }

    fn rmdir(&mut self) -> Option<Made> {
        let (dir, name, ino) = self.pick_entry(|world, ino| {
            let thing = &world.things[&ino];
            thing.node.is_dir() && thing.entries.is_empty()
        })?;
        self.world.rmdir(dir, &name).ok()?;
        let mut body = Body::of(Op::Rmdir {
            at: self.dentry(dir, &name),
            id: id_of(ino),
        });
        body.dir_mtime = self.mtime(dir);
        self.touched = vec![id_of(ino), id_of(dir)];
        Some((body, Vec::new()))
    }

    fn rename(&mut self) -> Option<Made> {
        let from = self.pick_entry(|_, _| true)?;
        let taken = match self.rng.random_bool(0.4) {
            true => self.pick_entry(|_, _| true),
            false => None,
        };
        let exchange = self.rng.random_bool(0.4);
        let to = match &taken {
            Some((dir, name, _)) => (*dir, name.clone()),
            None => {
                let dir = self.pick_dir()?;
                (dir, self.fresh_name(dir)?)
            }
        };
        self.rename_at(from, to, exchange)
    }

    pub fn rename_at(
        &mut self,
        (from, old, ino): (u64, Name, u64),
        (to, new): (u64, Name),
        exchange: bool,
    ) -> Option<Made> {
        let other = self.world.lookup(to, &new).ok()?;
        if other == Some(ino) {
            return None;
        }
        let (moving, mode) = match (exchange, other) {
            (true, Some(_)) => (Moving::Exchange, RenameMode::Exchange),
            (_, Some(_)) => (Moving::Over, RenameMode::Plain),
            (_, None) => (Moving::ToFree, RenameMode::Plain),
        };
        let node = other.map(|other| self.world.things[&other].node.clone());
        self.world.rename((from, &old), (to, &new), moving).ok()?;
        let mut mode = mode;
        let mut mtime = None;
        if mode == RenameMode::Exchange && from != to {
            // As on xfs, whatever the replica's file system does.
            let stamp = self.world.things[&from].mtime;
            for ino in [Some(ino), other].into_iter().flatten() {
                let thing = self.world.things.get_mut(&ino)?;
                if thing.node.is_dir() {
                    thing.mtime = stamp;
                    mtime = Some(stamp).filter(|_| Some(ino) == other).or(mtime);
                }
            }
        }
        let mut touched = vec![id_of(ino), id_of(from), id_of(to)];
        if mode == RenameMode::Plain && self.rng.random_bool(0.05) {
            let whiteout = self.world.create(from, &old, &Node::Char(0)).ok()?;
            let mtime = self.world.things[&from].mtime;
            let thing = self.world.things.get_mut(&whiteout)?;
            (thing.mode, thing.mtime) = (0, mtime);
            let after = self.world.attrs(whiteout).ok()?;
            mode = RenameMode::Whiteout {
                id: id_of(whiteout),
                after,
            };
            touched.push(id_of(whiteout));
        }
        let replaced = other.zip(node).map(|(other, node)| Replaced {
            id: id_of(other),
            nlink: self.world.things.get(&other).map_or(0, |thing| thing.nlink),
            node,
            mtime,
        });
        touched.extend(other.map(id_of));
        let op = Op::Rename {
            id: id_of(ino),
            node: self.world.things[&ino].node.clone(),
            from: self.dentry(from, &old),
            to: self.dentry(to, &new),
            replaced,
            mode,
        };
        let mut body = self.about(op, ino);
        body.caller = Caller::default();
        body.dir_mtime = self.mtime(from);
        body.to_mtime = self.mtime(to);
        self.touched = touched;
        Some((body, Vec::new()))
    }

    pub fn write(&mut self) -> Option<Made> {
        let ino = self.pick_file()?;
        self.write_to(ino)
    }

    pub fn write_to(&mut self, ino: u64) -> Option<Made> {
        let offset = self.rng.random_range(0..200);
        let data = self.bytes(64);
        self.world.write(ino, offset, &data).ok()?;
        let op = Op::Write {
            id: id_of(ino),
            offset,
        };
        Some((self.about(op, ino), data))
    }

    fn truncate(&mut self) -> Option<Made> {
        let ino = self.pick_file()?;
        self.truncate_to(ino)
    }

    pub fn truncate_to(&mut self, ino: u64) -> Option<Made> {
        let size = self.rng.random_range(0..200);
        self.world.truncate(ino, size).ok()?;
        let op = Op::Truncate {
            id: id_of(ino),
            size,
        };
        Some((self.about(op, ino), Vec::new()))
    }

    fn allocate(&mut self) -> Option<Made> {
        let ino = self.pick_file()?;
        let modes: &[i32] = match self.taste.shifts && self.rng.random_bool(0.15) {
            true => &[COLLAPSE, INSERT],
            false => &[0, 1, PUNCH, ZERO, ZERO | 1],
        };
        let range = Range {
            mode: *modes.choose(&mut self.rng)?,
            offset: self.rng.random_range(0..100),
            length: self.rng.random_range(1..100),
        };
        self.world.fallocate(ino, range).ok()?;
        let op = Op::Fallocate {
            id: id_of(ino),
            mode: range.mode,
            offset: range.offset,
            length: range.length,
        };
        Some((self.about(op, ino), Vec::new()))
    }

    fn set_attr(&mut self) -> Option<Made> {
        let ino = self.pick(|_, _| true)?;
        let symlink = matches!(self.world.things[&ino].node, Node::Symlink(_));
        let now = self.world.now();
        let (uid, mode) = (
            self.rng.random_range(0..5),
            self.rng.random_range(0..0o10000),
        );
        let thing = self.world.things.get_mut(&ino)?;
        match self.rng.random_range(0..3) {
            0 => thing.uid = uid,
            1 if !symlink => thing.mode = mode,
            _ => thing.mtime = now,
        }
        let op = Op::SetAttr {
            id: id_of(ino),
            atime: None,
        };
        Some((self.about(op, ino), Vec::new()))
    }

    fn set_xattr(&mut self) -> Option<Made> {
        let ino =
            self.pick(|world, ino| matches!(world.things[&ino].node, Node::File | Node::Dir))?;
        let key = format!("user.k{}", self.rng.random_range(0..3)).into_bytes();
        let value = self.bytes(8);
        let thing = self.world.things.get_mut(&ino)?;
        let id = id_of(ino);
        if thing.xattrs.remove(&key).is_some() {
            return Some((
                self.about(Op::RemoveXattr { id, name: key }, ino),
                Vec::new(),
            ));
        }
        thing.xattrs.insert(key.clone(), value.clone());
        Some((self.about(Op::SetXattr { id, name: key }, ino), value))
    }

    /// The beginning of a mirror.
    pub fn mirror_begin(&self, mirror: u64, scope: Scope) -> Made {
        let op = Op::MirrorBegin {
            mirror,
            scope,
            root: id_of(ROOT),
        };
        (Body::of(op), Vec::new())
    }

    pub fn mirror_end(mirror: u64) -> Made {
        (Body::of(Op::MirrorEnd { mirror }), Vec::new())
    }

    /// A directory's listing as it is now, in parts of at most `part` entries.
    pub fn listing(&mut self, ino: u64, part: usize) -> Vec<Made> {
        let id = id_of(ino);
        let of = |entries: Vec<Entry>| Op::Listing {
            id,
            entries,
            xattrs: Vec::new(),
        };
        let Some(thing) = self.world.things.get(&ino) else {
            let mut body = Body::of(of(Vec::new()));
            body.after = Some(Default::default());
            return vec![(body, Vec::new())];
        };
        let entries: Vec<Entry> = thing
            .entries
            .iter()
            .map(|(name, ino)| Entry {
                name: name.clone(),
                id: id_of(*ino),
                node: self.world.things[ino].node.clone(),
            })
            .collect();
        let mut parts: Vec<Made> = entries
            .chunks(part.max(1))
            .map(|chunk| (Body::of(of(chunk.to_vec())), Vec::new()))
            .collect();
        if parts.is_empty() {
            parts.push((Body::of(of(Vec::new())), Vec::new()));
        }
        if let Some((body, _)) = parts.last_mut() {
            body.after = self.world.attrs(ino).ok();
            if let Op::Listing { xattrs, .. } = &mut body.op {
                *xattrs = self.world.xattr_list(ino).unwrap();
            }
        }
        parts
    }

    /// The image of a small or special inode as it is now; one that says so when it is dead.
    pub fn image(&mut self, ino: u64) -> Made {
        let Some(thing) = self.world.things.get(&ino) else {
            let mut body = Body::of(Op::Image {
                id: id_of(ino),
                node: Node::File,
                xattrs: Vec::new(),
            });
            body.after = Some(Default::default());
            return (body, Vec::new());
        };
        let data = thing.data.clone();
        let mut body = Body::of(Op::Image {
            id: id_of(ino),
            node: thing.node.clone(),
            xattrs: self.world.xattr_list(ino).unwrap(),
        });
        body.after = self.world.attrs(ino).ok();
        (body, data)
    }
}
