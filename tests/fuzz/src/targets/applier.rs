//! Records of a hostile source, applied to a real replica: whatever they say, nothing panics, and
//! nothing outside of the replica changes.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use doppelfs::applier::{
    Applier, Backlog, Change, Error, FsReplica, Held, Ledger, Meta, Stage, Staged,
};
use doppelfs::codec::{Draft, FLAG_MORE, Frame};
use doppelfs::sys;
use doppelfs::types::{
    Attrs, Body, Dentry, Entry, FileId, History, Kind, MarkName, Node, Op, Position, Remap,
    RenameMode, Replaced, Scope, Seq, Time, Xattr,
};

use super::draw::Draw;
use super::frame::Sealed;
use super::tree::{Outside, Scratch};

const HISTORY: History = History(7);
const ROOT: FileId = FileId {
    root: doppelfs::types::ROOT_ID,
    ino: doppelfs::types::Ino(1),
    generation: doppelfs::types::Generation(0),
};

/// Records of one input, at most.
const RECORDS_MAX: usize = 64;

/// Checkpoints in memory.
#[derive(Default)]
struct Kept(Mutex<(BTreeMap<FileId, Held>, Option<Meta>)>);

impl Ledger for Kept {
    fn load(&self, each: &mut dyn FnMut(Change)) -> Result<Option<Meta>, Error> {
        let kept = self.0.lock().expect("nobody panics");
        kept.0
            .iter()
            .for_each(|(id, held)| each((*id, Some(*held))));
        Ok(kept.1.clone())
    }

    fn commit(&self, changes: &[Change], meta: &Meta) -> Result<(), Error> {
        let mut kept = self.0.lock().expect("nobody panics");
        for (id, held) in changes {
            match held {
                Some(held) => kept.0.insert(*id, *held),
                None => kept.0.remove(id),
            };
        }
        kept.1 = Some(meta.clone());
        Ok(())
    }
}

/// One target with its replica, through restarts.
struct Rig {
    scratch: Scratch,
    ledger: Arc<Kept>,
    outside: Outside,
    applied: Vec<Frame>,
    remap: Option<Remap>,
}

impl Rig {
    fn new(draw: &mut Draw<'_>) -> Rig {
        let scratch = Scratch::new();
        for name in ["mirror", "hidden", "table"] {
            scratch.make(name);
        }
        let outside = Outside::new(&scratch);
        let remap = draw.one_in(4).then(|| Remap {
            from: vec!["/srv/data".into()],
            to: scratch.0.join("mirror").display().to_string(),
        });
        Rig {
            scratch,
            ledger: Arc::default(),
            outside,
            applied: Vec::new(),
            remap,
        }
    }

    fn open(&self) -> Option<Applier<FsReplica>> {
        let (mirror, hidden) = (self.scratch.open("mirror"), self.scratch.open("hidden"));
        let mut replica = FsReplica::open(mirror, hidden).ok()?;
        doppelfs::applier::Replica::set_remap(&mut replica, self.remap.clone());
        let backlog = Backlog {
            history: Some(HISTORY),
            end: self.applied.last().map_or(Seq::ZERO, |f| f.header().seq),
            after: Box::new(|after| {
                let later = self.applied.iter().filter(move |f| f.header().seq > after);
                Ok(Box::new(later.map(|frame| Ok(frame.clone()))))
            }),
        };
        let table = self.scratch.0.join("table");
        let ledger: Arc<dyn Ledger> = self.ledger.clone();
        let opened = Applier::open_with(replica, ledger, &table, backlog);
        opened.ok().map(|(applier, _)| applier)
    }

    /// The host went down: what is on a tmpfs is gone.
    fn forget_table(&self) {
        for entry in std::fs::read_dir(self.scratch.0.join("table"))
            .into_iter()
            .flatten()
            .flatten()
        {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

fn attrs(draw: &mut Draw<'_>) -> Attrs {
    Attrs {
        mode: [0o100_644, 0o040_755, 0o120_777, 0o104_777, 0, draw.word()][draw.below(6)],
        uid: draw.word(),
        gid: draw.word(),
        nlink: draw.word(),
        size: draw.number(),
        mtime: time(draw),
    }
}

fn time(draw: &mut Draw<'_>) -> Time {
    Time {
        secs: draw.number() as i64,
        nanos: draw.word(),
    }
}

fn node(draw: &mut Draw<'_>, outside: &[u8]) -> Node {
    match draw.byte() % 16 {
        0..5 => Node::File,
        5..9 => Node::Dir,
        9 => Node::Symlink(outside.to_vec()),
        10 => Node::Symlink(b"../outside".to_vec()),
        11 => Node::Symlink(draw.bytes(255).to_vec()),
        12 => Node::Fifo,
        13 => Node::Socket,
        14 => Node::Char(draw.number()),
        _ => Node::Block(draw.number()),
    }
}

fn xattrs(draw: &mut Draw<'_>) -> Vec<Xattr> {
    let count = draw.below(4).saturating_sub(1);
    let xattr = |draw: &mut Draw<'_>| Xattr {
        name: xattr_name(draw),
        value: draw.bytes(40).to_vec(),
    };
    (0..count).map(|_| xattr(draw)).collect()
}

fn xattr_name(draw: &mut Draw<'_>) -> Vec<u8> {
    let names: [&[u8]; 8] = [
        b"user.a",
        b"user.b",
        b"trusted.a",
        b"trusted.doppelfs.link",
        b"security.capability",
        b"system.posix_acl_access",
        b"",
        b"user.a\0b",
    ];
    match draw.below(9) {
        8 => draw.bytes(255).to_vec(),
        known => names[known].to_vec(),
    }
}

fn dentry(draw: &mut Draw<'_>) -> Dentry {
    Dentry {
        parent: draw.id(),
        name: draw.name(),
    }
}

fn rename(draw: &mut Draw<'_>, outside: &[u8]) -> Op {
    let replaced = draw.one_in(3).then(|| Replaced {
        id: draw.id(),
        nlink: draw.word(),
        node: node(draw, outside),
        mtime: draw.one_in(2).then(|| time(draw)),
    });
    Op::Rename {
        id: draw.id(),
        node: node(draw, outside),
        from: dentry(draw),
        to: dentry(draw),
        replaced,
        mode: match draw.below(4) {
            0 | 1 => RenameMode::Plain,
            2 => RenameMode::Exchange,
            _ => RenameMode::Whiteout {
                id: draw.id(),
                after: attrs(draw),
            },
        },
    }
}

fn entries(draw: &mut Draw<'_>, outside: &[u8]) -> Vec<Entry> {
    let entry = |draw: &mut Draw<'_>| Entry {
        name: draw.name(),
        id: draw.id(),
        node: node(draw, outside),
    };
    (0..draw.below(8)).map(|_| entry(draw)).collect()
}

/// Any operation.
fn op(draw: &mut Draw<'_>, outside: &[u8]) -> Op {
    let id = draw.id();
    match Kind::ALL[draw.below(Kind::ALL.len())] {
        Kind::Write => Op::Write {
            id,
            offset: draw.number(),
        },
        Kind::Truncate => Op::Truncate {
            id,
            size: draw.number(),
        },
        Kind::Fallocate => Op::Fallocate {
            id,
            mode: [0, 1, 3, 8, 16, 17, 32, 64, draw.word() as i32][draw.below(9)],
            offset: draw.number(),
            length: draw.number(),
        },
        Kind::SetAttr => Op::SetAttr {
            id,
            atime: draw.one_in(2).then(|| time(draw)),
        },
        Kind::SetXattr => Op::SetXattr {
            id,
            name: xattr_name(draw),
        },
        Kind::RemoveXattr => Op::RemoveXattr {
            id,
            name: xattr_name(draw),
        },
        Kind::Create => Op::Create {
            at: dentry(draw),
            id,
            node: node(draw, outside),
            xattrs: xattrs(draw),
        },
        Kind::Link => Op::Link {
            id,
            at: dentry(draw),
            node: node(draw, outside),
        },
        Kind::Unlink => Op::Unlink {
            at: dentry(draw),
            id,
        },
        Kind::Rmdir => Op::Rmdir {
            at: dentry(draw),
            id,
        },
        Kind::Rename => rename(draw, outside),
        Kind::Gap => Op::Gap {
            ids: (0..draw.below(6)).map(|_| draw.id()).collect(),
            everything: draw.one_in(3),
        },
        Kind::MirrorBegin => Op::MirrorBegin {
            mirror: draw.number(),
            scope: [Scope::Full, Scope::Partial][draw.below(2)],
            root: if draw.one_in(4) { id } else { ROOT },
        },
        Kind::MirrorEnd => Op::MirrorEnd {
            mirror: draw.number(),
        },
        Kind::Listing => Op::Listing {
            id,
            entries: entries(draw, outside),
            xattrs: xattrs(draw),
        },
        Kind::Image => Op::Image {
            id,
            node: node(draw, outside),
            xattrs: xattrs(draw),
        },
        Kind::ImageBegin => Op::ImageBegin { id },
        Kind::ImageData => Op::ImageData {
            id,
            offset: draw.number(),
        },
        Kind::ImageHole => Op::ImageHole {
            id,
            offset: draw.number(),
            length: draw.number(),
        },
        Kind::ImageEnd => Op::ImageEnd {
            id,
            xattrs: xattrs(draw),
        },
        Kind::Mark => {
            let name = format!("m{}", draw.number());
            match MarkName::new(&name) {
                Ok(name) => Op::Mark { name },
                Err(_) => Op::ImageBegin { id },
            }
        }
    }
}

fn body(draw: &mut Draw<'_>, outside: &[u8]) -> Body {
    let mut body = Body::of(op(draw, outside));
    let flags = draw.byte();
    body.after = (flags & 3 != 3).then(|| attrs(draw));
    body.dir_mtime = (flags & 12 != 12).then(|| time(draw));
    body.to_mtime = (flags & 48 != 48).then(|| time(draw));
    body
}

/// A sound frame around it; none where no number is left for one.
fn seal(body: &Body, payload: &[u8], after: Seq, has_more: bool) -> Option<Frame> {
    let draft = Draft::new(body, payload);
    let sealed = Sealed {
        kind: draft.kind().number(),
        meta: draft.meta(),
        payload,
        seq: after.0.saturating_add(1),
        prev_seq: after.0,
        time_ns: 1,
        flags: if has_more { FLAG_MORE } else { 0 },
    };
    Frame::from_vec(sealed.bytes()).ok()
}

/// A small tree, mirrored honestly, so that the rest meets something.
fn honest(outside: &[u8]) -> Vec<Body> {
    let name = |b: &[u8]| doppelfs::types::Name::new(b).expect("a name");
    let entry = |n: &[u8], ino, node| Entry {
        name: name(n),
        id: FileId::new(ino, 0),
        node,
    };
    let listing = |ino, entries| Op::Listing {
        id: FileId::new(ino, 0),
        entries,
        xattrs: Vec::new(),
    };
    let image = |ino, node| Op::Image {
        id: FileId::new(ino, 0),
        node,
        xattrs: Vec::new(),
    };
    let link = Node::Symlink(outside.to_vec());
    let below = vec![entry(b"a", 5, Node::File), entry(b"b", 6, Node::Dir)];
    let top = vec![
        entry(b"a", 2, Node::File),
        entry(b"b", 3, Node::Dir),
        entry(b"c", 4, link.clone()),
        entry(b"d", 2, Node::File),
    ];
    let ops = [
        (
            Op::MirrorBegin {
                mirror: 1,
                scope: Scope::Full,
                root: ROOT,
            },
            0,
            0,
        ),
        (listing(1, top), 0o040_755, 3),
        (image(2, Node::File), 0o100_644, 2),
        (listing(3, below), 0o040_755, 3),
        (image(4, link), 0o120_777, 1),
        (image(5, Node::File), 0o100_600, 1),
        (listing(6, Vec::new()), 0o040_700, 2),
        (Op::MirrorEnd { mirror: 1 }, 0, 0),
    ];
    let made = ops.into_iter().map(|(op, mode, nlink)| {
        let mut body = Body::of(op);
        body.after = (mode != 0).then(|| Attrs {
            mode,
            nlink,
            size: u64::from(mode == 0o100_644) * 5,
            ..Attrs::default()
        });
        body
    });
    made.collect()
}

/// A stream of records with restarts in between.
pub fn applier(bytes: &[u8]) {
    if !sys::is_root() {
        return;
    }
    let mut draw = Draw(bytes);
    let mut rig = Rig::new(&mut draw);
    let outside = rig.outside.path().as_os_str().as_bytes().to_vec();
    let Some(mut applier) = rig.open() else {
        return;
    };
    let start = position(&mut draw);
    if applier.reset_to(start).is_err() {
        return;
    }
    let honest = honest(&outside);
    let count = honest.len() - draw.below(honest.len() + 1);
    for body in honest.iter().take(count) {
        feed(&mut rig, &mut applier, body, b"hello", false);
    }
    let mut stage = Stage::default();
    for _ in 0..RECORDS_MAX {
        if draw.is_empty() {
            break;
        }
        let restarts = match draw.byte() {
            0..4 => true,
            4 => {
                rig.forget_table();
                true
            }
            5 => applier.checkpoint_now().is_err(),
            6 => {
                drop(applier.take_wants(draw.byte().into()));
                false
            }
            7 => {
                applier.reset_wants();
                false
            }
            8 => applier.reset_to(position(&mut draw)).is_err(),
            kind => {
                let body = body(&mut draw, &outside);
                let payload = draw.bytes(60);
                look_ahead(&applier, &mut stage, &body, payload);
                feed(&mut rig, &mut applier, &body, payload, kind > 248);
                false
            }
        };
        rig.outside.assert_untouched();
        if restarts {
            drop(applier);
            match rig.open() {
                Some(opened) => applier = opened,
                None => return,
            }
        }
    }
    drop(applier.close());
    rig.outside.assert_untouched();
}

fn position(draw: &mut Draw<'_>) -> Position {
    Position {
        history: HISTORY,
        seq: draw.seq(),
    }
}

/// One record; where it fails, once more.
fn feed(rig: &mut Rig, applier: &mut Applier<FsReplica>, body: &Body, payload: &[u8], more: bool) {
    let Some(frame) = seal(body, payload, applier.applied(), more) else {
        return;
    };
    let before = applier.applied();
    if applier.apply(&frame).is_err() {
        assert_eq!(applier.applied(), before, "an error advances nothing");
        drop(applier.apply(&frame));
    }
    if applier.applied() != before {
        rig.applied.push(frame);
    }
    // Without a position it says 0.
    assert!(applier.position().is_none() || applier.durable() <= applier.applied());
}

fn look_ahead(applier: &Applier<FsReplica>, stage: &mut Stage, body: &Body, payload: &[u8]) {
    let Some(frame) = seal(body, payload, applier.applied(), false) else {
        return;
    };
    if Stage::can_begin(&body.op) {
        *stage = Stage::default();
    }
    match applier.look_at(stage, &frame) {
        Ok(Staged::On) => drop(stage.take_wants(7)),
        Ok(Staged::Whole | Staged::Over) | Err(_) => *stage = Stage::default(),
    }
    applier.reset_staged_wants(stage);
}
