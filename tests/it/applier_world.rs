//! A file system in memory: the source's tree in the model, and the replica's disk under the
//! applier, with power cuts that keep a prefix of its metadata operations.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use doppelfs::applier::{Inode, InodeKind, Marker, Moving, Object, Place, Range, Replica, Syncer};
use doppelfs::types::{Attrs, LINK_XATTR, Name, Node, Remap, Time, Xattr};
use rand::Rng;
use rand::rngs::StdRng;

pub const ROOT: u64 = 1;
pub const LIMBO: u64 = 2;

pub const COLLAPSE: i32 = 0x08;
pub const INSERT: i32 = 0x20;
pub const PUNCH: i32 = 0x02 | 0x01;
pub const ZERO: i32 = 0x10;

#[derive(Debug, Clone, PartialEq)]
pub struct Thing {
    pub node: Node,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub data: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Name, u64>,
    pub parent: u64,
    pub nlink: u32,
}

/// A tree. Inode numbers are never reused, so the generation is constant.
#[derive(Debug, Clone)]
pub struct World {
    pub things: BTreeMap<u64, Thing>,
    pub next: u64,
    pub clock: i64,
    pub marker: Option<Marker>,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

pub fn file_type(node: &Node) -> u32 {
    match node {
        Node::File => libc::S_IFREG,
        Node::Dir => libc::S_IFDIR,
        Node::Symlink(_) => libc::S_IFLNK,
        Node::Fifo => libc::S_IFIFO,
        Node::Socket => libc::S_IFSOCK,
        Node::Char(_) => libc::S_IFCHR,
        Node::Block(_) => libc::S_IFBLK,
    }
}

fn thing(node: &Node, mtime: Time) -> Thing {
    Thing {
        mode: match node {
            Node::Symlink(_) => 0o777,
            Node::Dir => 0o700,
            _ => 0o600,
        },
        uid: 0,
        gid: 0,
        mtime,
        data: Vec::new(),
        xattrs: BTreeMap::new(),
        entries: BTreeMap::new(),
        parent: ROOT,
        nlink: if node.is_dir() { 2 } else { 1 },
        node: node.clone(),
    }
}

impl World {
    /// An empty tree; `clock` is where its times begin, so that two trees never agree by chance.
    pub fn new(clock: i64) -> World {
        let mut world = World {
            things: BTreeMap::new(),
            next: 3,
            clock,
            marker: None,
        };
        let now = world.now();
        world.things.insert(ROOT, thing(&Node::Dir, now));
        world.things.insert(LIMBO, thing(&Node::Dir, now));
        world
    }

    pub fn now(&mut self) -> Time {
        self.clock += 1;
        Time {
            secs: self.clock,
            nanos: 7,
        }
    }

    pub fn get(&self, ino: u64) -> io::Result<&Thing> {
        self.things.get(&ino).ok_or_else(|| errno(libc::ESTALE))
    }

    fn get_mut(&mut self, ino: u64) -> io::Result<&mut Thing> {
        self.things.get_mut(&ino).ok_or_else(|| errno(libc::ESTALE))
    }

    pub fn attrs(&self, ino: u64) -> io::Result<Attrs> {
        let thing = self.get(ino)?;
        Ok(Attrs {
            mode: thing.mode | file_type(&thing.node),
            uid: thing.uid,
            gid: thing.gid,
            nlink: thing.nlink,
            size: thing.data.len() as u64,
            mtime: thing.mtime,
        })
    }

    /// What a replica looks like whose links are rewritten.
    pub fn remapped(&self, remap: Option<&Remap>) -> World {
        let mut world = self.clone();
        let Some(remap) = remap else {
            return world;
        };
        for thing in world.things.values_mut() {
            if let Node::Symlink(target) = &mut thing.node
                && let Some(here) = remap.rewritten(target)
            {
                let there = std::mem::replace(target, here);
                thing.xattrs.insert(LINK_XATTR.to_vec(), there);
            }
        }
        world
    }

    pub fn lookup(&self, dir: u64, name: &Name) -> io::Result<Option<u64>> {
        let dir = self.get(dir)?;
        if !dir.node.is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        Ok(dir.entries.get(name).copied())
    }

    fn touch_dir(&mut self, dir: u64) -> io::Result<()> {
        let now = self.now();
        self.get_mut(dir)?.mtime = now;
        Ok(())
    }

    pub fn create(&mut self, dir: u64, name: &Name, node: &Node) -> io::Result<u64> {
        if self.lookup(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        let now = self.now();
        let ino = self.next;
        self.next += 1;
        let mut made = thing(node, now);
        made.parent = dir;
        self.things.insert(ino, made);
        let parent = self.get_mut(dir)?;
        parent.entries.insert(name.clone(), ino);
        parent.nlink += u32::from(node.is_dir());
        parent.mtime = now;
        Ok(ino)
    }

    pub fn link(&mut self, ino: u64, dir: u64, name: &Name) -> io::Result<()> {
        if self.get(ino)?.node.is_dir() {
            return Err(errno(libc::EPERM));
        }
        if self.lookup(dir, name)?.is_some() {
            return Err(errno(libc::EEXIST));
        }
        self.get_mut(ino)?.nlink += 1;
        self.get_mut(dir)?.entries.insert(name.clone(), ino);
        self.touch_dir(dir)
    }

    fn drop_link(&mut self, ino: u64) {
        if let Some(thing) = self.things.get_mut(&ino) {
            thing.nlink -= 1;
            if thing.nlink == 0 {
                self.things.remove(&ino);
            }
        }
    }

    pub fn unlink(&mut self, dir: u64, name: &Name) -> io::Result<()> {
        let ino = self.lookup(dir, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        if self.get(ino)?.node.is_dir() {
            return Err(errno(libc::EISDIR));
        }
        self.get_mut(dir)?.entries.remove(name);
        self.drop_link(ino);
        self.touch_dir(dir)
    }

    pub fn rmdir(&mut self, dir: u64, name: &Name) -> io::Result<()> {
        let ino = self.lookup(dir, name)?.ok_or_else(|| errno(libc::ENOENT))?;
        let victim = self.get(ino)?;
        if !victim.node.is_dir() {
            return Err(errno(libc::ENOTDIR));
        }
        if !victim.entries.is_empty() {
            return Err(errno(libc::ENOTEMPTY));
        }
        self.things.remove(&ino);
        let parent = self.get_mut(dir)?;
        parent.entries.remove(name);
        parent.nlink -= 1;
        self.touch_dir(dir)
    }

    /// Is `ino` the directory `dir` or above it?
    pub fn is_above(&self, ino: u64, dir: u64) -> bool {
        let mut at = dir;
        loop {
            if at == ino {
                return true;
            }
            if at == ROOT || at == LIMBO {
                return false;
            }
            match self.things.get(&at) {
                Some(thing) => at = thing.parent,
                None => return false,
            }
        }
    }

    fn put(&mut self, ino: u64, old: u64, new: u64, name: &Name) -> io::Result<()> {
        self.get_mut(new)?.entries.insert(name.clone(), ino);
        if self.get(ino)?.node.is_dir() {
            self.get_mut(old)?.nlink -= 1;
            self.get_mut(new)?.nlink += 1;
            self.get_mut(ino)?.parent = new;
        }
        Ok(())
    }

    pub fn rename(
        &mut self,
        (from, name): (u64, &Name),
        (to, new_name): (u64, &Name),
        moving: Moving,
    ) -> io::Result<()> {
        let ino = self
            .lookup(from, name)?
            .ok_or_else(|| errno(libc::ENOENT))?;
        let there = self.lookup(to, new_name)?;
        let is_dir = self.get(ino)?.node.is_dir();
        if is_dir && self.is_above(ino, to) {
            return Err(errno(libc::EINVAL));
        }
        match (moving, there) {
            (Moving::ToFree, Some(_)) => return Err(errno(libc::EEXIST)),
            (Moving::Exchange, None) => return Err(errno(libc::ENOENT)),
            (Moving::Exchange, Some(other)) => {
                if self.get(other)?.node.is_dir() && self.is_above(other, from) {
                    return Err(errno(libc::EINVAL));
                }
                self.put(other, to, from, name)?;
                self.put(ino, from, to, new_name)?;
            }
            // Two names of one inode: nothing happens.
            (Moving::Over, Some(other)) if other == ino => return Ok(()),
            (_, there) => {
                if let Some(other) = there {
                    let victim = self.get(other)?;
                    match (is_dir, victim.node.is_dir()) {
                        (true, false) => return Err(errno(libc::ENOTDIR)),
                        (false, true) => return Err(errno(libc::EISDIR)),
                        (true, true) if !victim.entries.is_empty() => {
                            return Err(errno(libc::ENOTEMPTY));
                        }
                        (true, true) => self.rmdir(to, new_name)?,
                        (false, false) => self.unlink(to, new_name)?,
                    }
                }
                self.get_mut(from)?.entries.remove(name);
                self.put(ino, from, to, new_name)?;
            }
        }
        self.touch_dir(from)?;
        let now = self.get(from)?.mtime;
        self.get_mut(to)?.mtime = now;
        Ok(())
    }

    pub fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let now = self.now();
        let thing = self.get_mut(ino)?;
        let (start, end) = (offset as usize, offset as usize + data.len());
        if thing.data.len() < end {
            thing.data.resize(end, 0);
        }
        thing.data[start..end].copy_from_slice(data);
        thing.mtime = now;
        Ok(())
    }

    pub fn truncate(&mut self, ino: u64, size: u64) -> io::Result<()> {
        let now = self.now();
        let thing = self.get_mut(ino)?;
        thing.data.resize(size as usize, 0);
        thing.mtime = now;
        Ok(())
    }

    pub fn fallocate(&mut self, ino: u64, range: Range) -> io::Result<()> {
        let now = self.now();
        let thing = self.get_mut(ino)?;
        let size = thing.data.len();
        let (start, end) = (
            range.offset as usize,
            (range.offset + range.length) as usize,
        );
        if range.mode & COLLAPSE != 0 {
            if end >= size {
                return Err(errno(libc::EINVAL));
            }
            thing.data.drain(start..end);
        } else if range.mode & INSERT != 0 {
            if start >= size {
                return Err(errno(libc::EINVAL));
            }
            let zeroes = vec![0; end - start];
            thing.data.splice(start..start, zeroes);
        } else if range.mode & (0x02 | ZERO) != 0 {
            if range.mode & 0x01 == 0 && end > size {
                thing.data.resize(end, 0);
            }
            let end = end.min(thing.data.len());
            if start < end {
                thing.data[start..end].fill(0);
            }
        } else if range.mode & 0x01 == 0 && end > size {
            thing.data.resize(end, 0);
        }
        thing.mtime = now;
        Ok(())
    }

    pub fn set_owner(&mut self, ino: u64, uid: u32, gid: u32) -> io::Result<()> {
        let thing = self.get_mut(ino)?;
        (thing.uid, thing.gid) = (uid, gid);
        if !thing.node.is_dir() {
            thing.mode &= !0o6000;
        }
        Ok(())
    }

    pub fn set_mode(&mut self, ino: u64, mode: u32) -> io::Result<()> {
        self.get_mut(ino)?.mode = mode & 0o7777;
        Ok(())
    }

    pub fn set_mtime(&mut self, ino: u64, mtime: Option<Time>) -> io::Result<()> {
        let thing = self.get_mut(ino)?;
        thing.mtime = mtime.unwrap_or(thing.mtime);
        Ok(())
    }

    pub fn xattr_list(&self, ino: u64) -> io::Result<Vec<Xattr>> {
        let thing = self.get(ino)?;
        let pairs = thing.xattrs.iter();
        Ok(pairs
            .map(|(name, value)| Xattr {
                name: name.clone(),
                value: value.clone(),
            })
            .collect())
    }

    /// Runs a metadata operation again, as the file system's own journal does.
    fn replay(&mut self, step: &Step) {
        let done = match step {
            Step::Create(dir, name, node, ino) => {
                self.next = *ino;
                self.create(*dir, name, node).map(drop)
            }
            Step::Link(ino, dir, name) => self.link(*ino, *dir, name),
            Step::Unlink(dir, name) => self.unlink(*dir, name),
            Step::Rmdir(dir, name) => self.rmdir(*dir, name),
            Step::Rename(from, name, to, new_name, moving) => {
                self.rename((*from, name), (*to, new_name), *moving)
            }
            Step::Owner(ino, uid, gid) => self.set_owner(*ino, *uid, *gid),
            Step::Mode(ino, mode) => self.set_mode(*ino, *mode),
            Step::Times(ino, mtime) => self.set_mtime(*ino, *mtime),
            Step::Xattr(ino, name, value) => self.get_mut(*ino).map(|thing| {
                match value {
                    Some(value) => thing.xattrs.insert(name.clone(), value.clone()),
                    None => thing.xattrs.remove(name),
                };
            }),
            Step::Shift(ino, range) => self.fallocate(*ino, *range),
            Step::Mark(position) => {
                self.marker = Some(*position);
                Ok(())
            }
        };
        // A sabotaged prefix may not be replayable; then the tree is just wrong, as it should be.
        drop(done);
    }
}

/// A metadata operation, in the order of the file system's journal.
#[derive(Debug, Clone)]
enum Step {
    Create(u64, Name, Node, u64),
    Link(u64, u64, Name),
    Unlink(u64, Name),
    Rmdir(u64, Name),
    Rename(u64, Name, u64, Name, Moving),
    Owner(u64, u32, u32),
    Mode(u64, u32),
    Times(u64, Option<Time>),
    Xattr(u64, Vec<u8>, Option<Vec<u8>>),
    Shift(u64, Range),
    Mark(Marker),
}

/// Bugs planted on purpose: each must turn its property red.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Planted {
    #[default]
    Nothing,
    /// syncfs says yes and does nothing.
    SyncIsALie,
    /// A power cut loses one metadata operation in the middle of what it keeps.
    CutLosesTheMiddle,
    /// A hard link is a copy.
    LinkIsACopy,
}

/// A disk: what is, what is durable, and what came in between.
#[derive(Debug, Clone)]
pub struct Disk {
    pub live: World,
    durable: World,
    steps: Vec<Step>,
    /// Contents that files have had since the last sync.
    versions: BTreeMap<u64, Vec<Vec<u8>>>,
    shifted: bool,
    /// The next sync finds a file that could not be written, and says so.
    fails: bool,
    pub planted: Planted,
}

impl Disk {
    pub fn new(world: World) -> Disk {
        Disk {
            durable: world.clone(),
            live: world,
            steps: Vec::new(),
            versions: BTreeMap::new(),
            shifted: false,
            fails: false,
            planted: Planted::Nothing,
        }
    }

    /// The disk does not take what the file written to last had since the last sync. As the kernel does, it says so
    /// once, and shows what the disk has.
    pub fn lose_a_write(&mut self) {
        self.fails = true;
        let Some((ino, versions)) = self.versions.iter().next_back() else {
            return;
        };
        if let (Some(thing), Some(old)) = (self.live.things.get_mut(ino), versions.first()) {
            let length = thing.data.len();
            thing.data.clone_from(old);
            thing.data.resize(length, 0);
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fails) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        if self.planted == Planted::SyncIsALie {
            return Ok(());
        }
        self.durable = self.live.clone();
        self.steps.clear();
        self.versions.clear();
        self.shifted = false;
        Ok(())
    }

    /// Remembers the content before a change of it.
    fn remember(&mut self, ino: u64) {
        assert!(
            !self.shifted || self.planted == Planted::SyncIsALie,
            "a change after a shift that is not durable"
        );
        let now = self.live.things.get(&ino).map(|thing| thing.data.clone());
        self.versions.entry(ino).or_default().extend(now);
    }

    /// A power cut: a prefix of the metadata operations survives; of each file's data, anything.
    pub fn cut(&mut self, rng: &mut StdRng) {
        let kept = rng.random_range(0..=self.steps.len());
        let lost = match self.planted {
            Planted::CutLosesTheMiddle if kept > 1 => Some(rng.random_range(0..kept - 1)),
            _ => None,
        };
        let mut world = self.durable.clone();
        for (index, step) in self.steps[..kept].iter().enumerate() {
            if Some(index) != lost {
                world.replay(step);
            }
        }
        let shifted: Vec<u64> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Shift(ino, _) => Some(*ino),
                _ => None,
            })
            .collect();
        for (ino, versions) in &self.versions {
            let Some(thing) = world.things.get_mut(ino) else {
                continue;
            };
            if shifted.contains(ino) {
                continue;
            }
            let mut all: Vec<&Vec<u8>> = versions.iter().collect();
            all.extend(self.live.things.get(ino).map(|thing| &thing.data));
            thing.data = torn(&all, rng);
        }
        world.clock = self.live.clock + 1000;
        world.next = self.live.next;
        *self = Disk {
            planted: self.planted,
            ..Disk::new(world)
        };
    }

    fn run<T>(
        &mut self,
        step: impl FnOnce(&T) -> Option<Step>,
        call: impl FnOnce(&mut World) -> io::Result<T>,
    ) -> io::Result<T> {
        let done = call(&mut self.live)?;
        self.steps.extend(step(&done));
        Ok(done)
    }
}

/// One version whole, or a mixture in which each byte is of some version.
pub fn torn(versions: &[&Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| versions[rng.random_range(0..versions.len())];
    let mut data = pick(rng).clone();
    if rng.random_bool(0.5) {
        let mut source = pick(rng);
        for (at, byte) in data.iter_mut().enumerate() {
            if rng.random_bool(0.05) {
                source = pick(rng);
            }
            *byte = source.get(at).copied().unwrap_or(0);
        }
    }
    data
}

/// The disk as a replica.
#[derive(Debug, Clone)]
pub struct SimReplica {
    pub disk: Arc<Mutex<Disk>>,
    pub instance: u64,
    pub keeps_order: bool,
    pub remap: Option<Remap>,
}

impl SimReplica {
    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }
}

fn inode(world: &World, ino: u64) -> io::Result<Inode> {
    let kind = InodeKind::of(&world.get(ino)?.node);
    Ok(Inode {
        object: object(ino),
        kind,
    })
}

fn object(ino: u64) -> Object {
    Object { ino, generation: 1 }
}

impl Replica for SimReplica {
    fn root(&self) -> Inode {
        Inode {
            object: object(ROOT),
            kind: InodeKind::Dir,
        }
    }

    fn limbo(&self) -> Inode {
        Inode {
            object: object(LIMBO),
            kind: InodeKind::Dir,
        }
    }

    fn instance(&self) -> u64 {
        self.instance
    }

    fn keeps_order(&self) -> bool {
        self.keeps_order
    }

    fn remap(&self) -> Option<&Remap> {
        self.remap.as_ref()
    }

    fn set_remap(&mut self, remap: Option<Remap>) {
        self.remap = remap;
    }

    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>> {
        let disk = self.disk();
        Ok(disk.live.lookup(at.dir.object.ino, at.name)?.map(object))
    }

    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>> {
        let disk = self.disk();
        let found = disk.live.lookup(at.dir.object.ino, at.name)?;
        found.map(|ino| inode(&disk.live, ino)).transpose()
    }

    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode> {
        let dir = at.dir.object.ino;
        let ino = self.disk().run(
            |ino| Some(Step::Create(dir, at.name.clone(), node.clone(), *ino)),
            |world| world.create(dir, at.name, node),
        )?;
        Ok(Inode {
            object: object(ino),
            kind: InodeKind::of(node),
        })
    }

    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>> {
        match &self.disk().live.get(inode.object.ino)?.node {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)> {
        let disk = self.disk();
        let node = &disk.live.get(inode.object.ino)?.node;
        let number = match node {
            Node::Char(number) | Node::Block(number) => *number,
            _ => 0,
        };
        Ok((file_type(node), number))
    }

    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()> {
        let (ino, dir) = (inode.object.ino, at.dir.object.ino);
        let mut disk = self.disk();
        if disk.planted == Planted::LinkIsACopy {
            let copy = disk.live.get(ino)?.clone();
            let made = disk.live.create(dir, at.name, &copy.node)?;
            disk.live.things.get_mut(&made).unwrap().data = copy.data;
            return Ok(());
        }
        disk.run(
            |()| Some(Step::Link(ino, dir, at.name.clone())),
            |world| world.link(ino, dir, at.name),
        )
    }

    fn unlink(&mut self, at: Place<'_>) -> io::Result<()> {
        let dir = at.dir.object.ino;
        self.disk().run(
            |()| Some(Step::Unlink(dir, at.name.clone())),
            |world| world.unlink(dir, at.name),
        )
    }

    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()> {
        let dir = at.dir.object.ino;
        self.disk().run(
            |()| Some(Step::Rmdir(dir, at.name.clone())),
            |world| world.rmdir(dir, at.name),
        )
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()> {
        let (old, new) = (from.dir.object.ino, to.dir.object.ino);
        let step = Step::Rename(old, from.name.clone(), new, to.name.clone(), moving);
        self.disk().run(
            |()| Some(step),
            |world| world.rename((old, from.name), (new, to.name), moving),
        )
    }

    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>> {
        let disk = self.disk();
        Ok(disk
            .live
            .get(dir.object.ino)?
            .entries
            .keys()
            .cloned()
            .collect())
    }

    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)> {
        let disk = self.disk();
        let parent = disk.live.get(dir.object.ino)?.parent;
        let entries = &disk.live.get(parent)?.entries;
        let found = entries.iter().find(|(_, ino)| **ino == dir.object.ino);
        let (name, _) = found.ok_or_else(|| errno(libc::ESTALE))?;
        Ok((inode(&disk.live, parent)?, name.clone()))
    }

    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.remember(file.object.ino);
        disk.live.write(file.object.ino, offset, data)
    }

    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.remember(file.object.ino);
        disk.live.truncate(file.object.ino, size)
    }

    fn fallocate(&mut self, file: Inode, range: Range, _seq: u64) -> io::Result<()> {
        let ino = file.object.ino;
        let mut disk = self.disk();
        if range.mode & (COLLAPSE | INSERT) == 0 {
            disk.remember(ino);
            return disk.live.fallocate(ino, range);
        }
        let settled = disk.versions.is_empty() && !disk.shifted;
        assert!(
            settled || disk.planted == Planted::SyncIsALie,
            "a shift while something before it is not durable"
        );
        disk.shifted = true;
        disk.run(
            |()| Some(Step::Shift(ino, range)),
            |world| world.fallocate(ino, range),
        )
    }

    fn shift_pending(&mut self, _seq: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs> {
        self.disk().live.attrs(inode.object.ino)
    }

    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()> {
        let ino = inode.object.ino;
        self.disk().run(
            |()| Some(Step::Owner(ino, uid, gid)),
            |world| world.set_owner(ino, uid, gid),
        )
    }

    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()> {
        let ino = inode.object.ino;
        self.disk().run(
            |()| Some(Step::Mode(ino, mode)),
            |world| world.set_mode(ino, mode),
        )
    }

    fn set_times(
        &mut self,
        inode: Inode,
        _atime: Option<Time>,
        mtime: Option<Time>,
    ) -> io::Result<()> {
        let ino = inode.object.ino;
        self.disk().run(
            |()| Some(Step::Times(ino, mtime)),
            |world| world.set_mtime(ino, mtime),
        )
    }

    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>> {
        self.disk().live.xattr_list(inode.object.ino)
    }

    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()> {
        let ino = inode.object.ino;
        let step = Step::Xattr(ino, name.to_vec(), Some(value.to_vec()));
        self.disk().run(
            |()| Some(step),
            |world| {
                let thing = world.get_mut(ino)?;
                thing.xattrs.insert(name.to_vec(), value.to_vec());
                Ok(())
            },
        )
    }

    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()> {
        let ino = inode.object.ino;
        let step = Step::Xattr(ino, name.to_vec(), None);
        self.disk().run(
            |()| Some(step),
            |world| {
                world.get_mut(ino)?.xattrs.remove(name);
                Ok(())
            },
        )
    }

    fn forget(&mut self, _object: Object) {}

    fn mark(&mut self, position: Marker) -> io::Result<()> {
        self.disk().run(
            |()| Some(Step::Mark(position)),
            |world| {
                world.marker = Some(position);
                Ok(())
            },
        )
    }

    fn marked(&mut self) -> io::Result<Option<Marker>> {
        Ok(self.disk().live.marker)
    }

    fn syncer(&self) -> io::Result<Syncer> {
        let disk = Arc::clone(&self.disk);
        Ok(Box::new(move || disk.lock().unwrap().sync()))
    }

    fn path_of(&mut self, inode: Inode) -> String {
        format!("inode {}", inode.object.ino)
    }
}

/// How deep two trees are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Names, kinds, and which names are one inode.
    Names,
    /// Everything.
    All,
}

/// The first difference between the visible trees.
pub fn difference(source: &World, replica: &World, depth: Depth) -> Option<String> {
    let mut pairs = HashMap::new();
    let mut reverse = HashMap::new();
    compare(
        source,
        replica,
        (ROOT, ROOT),
        depth,
        &mut (&mut pairs, &mut reverse),
    )
    .map(|(path, what)| format!("{path}: {what}"))
}

type Pairs<'a> = (&'a mut HashMap<u64, u64>, &'a mut HashMap<u64, u64>);

fn compare(
    source: &World,
    replica: &World,
    (one, two): (u64, u64),
    depth: Depth,
    pairs: &mut Pairs<'_>,
) -> Option<(String, String)> {
    let here = |what: String| Some((String::new(), what));
    let first = pairs.0.insert(one, two);
    let second = pairs.1.insert(two, one);
    if first.is_some() || second.is_some() {
        if first != Some(two) || second != Some(one) {
            return here("linked otherwise".into());
        }
        return None;
    }
    let (Ok(a), Ok(b)) = (source.get(one), replica.get(two)) else {
        return here("inode missing".into());
    };
    if a.node != b.node {
        return here(format!("{:?} and {:?}", a.node, b.node));
    }
    if depth == Depth::All {
        let (x, y) = (source.attrs(one).ok()?, replica.attrs(two).ok()?);
        if x != y {
            return here(format!("{x:?} and {y:?}"));
        }
        if a.data != b.data {
            let at = a.data.iter().zip(&b.data).position(|(x, y)| x != y);
            return here(format!("data differ at {at:?}"));
        }
        if a.xattrs != b.xattrs {
            return here(format!("xattrs {:?} and {:?}", a.xattrs, b.xattrs));
        }
    }
    for name in a.entries.keys().chain(b.entries.keys()) {
        let found = match (a.entries.get(name), b.entries.get(name)) {
            (Some(x), Some(y)) => compare(source, replica, (*x, *y), depth, pairs),
            (Some(_), None) => here("missing on the replica".into()),
            _ => here("too much on the replica".into()),
        };
        if let Some((path, what)) = found {
            return Some((format!("/{}{path}", name.as_os_str().display()), what));
        }
    }
    None
}
