//! A stream that a test writes record by record, onto a real directory: support.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use doppelfs::applier::{
    Applier, Backlog, Error, FsReplica, Limits, Metered, Recovered, Terms, Withholding,
};
use doppelfs::codec::Frame;
use doppelfs::types::{
    Attrs, Body, Dentry, FileId, History, Node, Op, Position, Scope, Seq, Time, Xattr,
};

use super::applier_model::{frame, name};
use crate::scratch::Scratch;

pub const HISTORY: History = History(0xbad);
pub const ROOT: FileId = FileId {
    root: doppelfs::types::ROOT_ID,
    ino: doppelfs::types::Ino(2),
    generation: doppelfs::types::Generation(0),
};

pub type Replica = Metered<Withholding<FsReplica>>;

/// The directories of one stream: `mirror`, `hidden`, `state`, `table`, and `outside` beside them.
pub struct Dirs(pub Scratch);

impl Dirs {
    pub fn new(label: &str) -> Dirs {
        let scratch = Scratch::new(label);
        for part in ["mirror", "hidden", "state", "table", "outside"] {
            std::fs::create_dir(scratch.path().join(part)).unwrap();
        }
        Dirs(scratch)
    }

    pub fn path(&self, rest: &str) -> PathBuf {
        self.0.path().join(rest)
    }

    fn dir(&self, part: &str) -> OwnedFd {
        File::open(self.path(part)).unwrap().into()
    }

    pub fn replica(&self) -> Result<FsReplica, Error> {
        FsReplica::open(self.dir("mirror"), self.dir("hidden"))
    }
}

pub struct Stream {
    pub dirs: Dirs,
    pub terms: Arc<Terms>,
    pub applier: Option<Applier<Replica>>,
    pub frames: Vec<Frame>,
    seq: Seq,
}

/// A directory entry of the root.
pub fn at(text: &str) -> Dentry {
    Dentry {
        parent: ROOT,
        name: name(text),
    }
}

pub fn id(number: u64) -> FileId {
    FileId::new(number, 1)
}

pub fn attrs(mode: u32) -> Attrs {
    Attrs {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        mtime: Time {
            secs: 1_000,
            nanos: 5,
        },
    }
}

pub fn with_after(op: Op, after: Attrs) -> Body {
    let mut body = Body::of(op);
    body.after = Some(after);
    body
}

pub fn create(text: &str, number: u64, node: Node, mode: u32) -> Body {
    let op = Op::Create {
        at: at(text),
        id: id(number),
        node,
        xattrs: Vec::new(),
    };
    with_after(op, attrs(mode))
}

pub fn chmod(number: u64, mode: u32) -> Body {
    let op = Op::SetAttr {
        id: id(number),
        atime: None,
    };
    with_after(op, attrs(mode))
}

pub fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr {
        name: name.as_bytes().to_vec(),
        value: value.to_vec(),
    }
}

impl Stream {
    /// A stream whose replica is an empty directory.
    pub fn new(label: &str, limits: Limits) -> Stream {
        Stream::with(label, Arc::new(Terms::new("web1", limits)))
    }

    pub fn with(label: &str, terms: Arc<Terms>) -> Stream {
        let mut stream = Stream {
            dirs: Dirs::new(label),
            terms,
            applier: None,
            frames: Vec::new(),
            seq: Seq::ZERO,
        };
        stream.open();
        let position = Position {
            history: HISTORY,
            seq: Seq::ZERO,
        };
        stream.applier().reset_to(position).unwrap();
        stream.mirror(1, Scope::Full, Vec::new()).unwrap();
        stream
    }

    pub fn applier(&mut self) -> &mut Applier<Replica> {
        self.applier.as_mut().unwrap()
    }

    /// Opens it (again), as after a restart of the target.
    pub fn open(&mut self) -> Recovered {
        self.applier = None;
        let replica = self.dirs.replica().unwrap();
        let replica = Withholding::new(replica, Arc::clone(&self.terms)).unwrap();
        let replica = Metered::new(replica, Arc::clone(&self.terms)).unwrap();
        let frames = self.frames.clone();
        let backlog = Backlog {
            history: Some(HISTORY),
            end: self.seq,
            after: Box::new(move |seq| {
                let later = frames
                    .clone()
                    .into_iter()
                    .filter(move |f| f.header().seq > seq);
                Ok(Box::new(later.map(Ok)))
            }),
        };
        let (state, table) = (self.dirs.path("state"), self.dirs.path("table"));
        let (applier, recovered) = Applier::open(replica, &state, &table, backlog).unwrap();
        self.applier = Some(applier);
        recovered
    }

    /// What comes next, sealed; it has its place only when it is applied.
    pub fn seal(&self, body: &Body, payload: &[u8], more: bool) -> Frame {
        frame(body, payload, self.seq, Seq(self.seq.0 + 1), more)
    }

    pub fn apply(&mut self, body: &Body) -> Result<(), Error> {
        self.apply_with(body, &[])
    }

    pub fn apply_with(&mut self, body: &Body, payload: &[u8]) -> Result<(), Error> {
        let frame = self.seal(body, payload, false);
        self.applier().apply(&frame)?;
        self.seq = Seq(self.seq.0 + 1);
        self.frames.push(frame);
        Ok(())
    }

    /// Puts a file there, with content.
    pub fn file(&mut self, text: &str, number: u64, content: &[u8]) {
        self.apply(&create(text, number, Node::File, 0o100_644))
            .unwrap();
        self.write(number, 0, content).unwrap();
    }

    pub fn write(&mut self, number: u64, offset: u64, content: &[u8]) -> Result<(), Error> {
        let op = Op::Write {
            id: id(number),
            offset,
        };
        let mut after = attrs(0o100_644);
        after.size = offset.saturating_add(content.len() as u64);
        self.apply_with(&with_after(op, after), content)
    }

    pub fn unlink(&mut self, text: &str, number: u64) -> Result<(), Error> {
        let op = Op::Unlink {
            at: at(text),
            id: id(number),
        };
        let mut after = attrs(0o100_644);
        after.nlink = 0;
        self.apply(&with_after(op, after))
    }

    /// A mirror in which only the root is listed.
    pub fn mirror(
        &mut self,
        number: u64,
        scope: Scope,
        entries: Vec<(&str, u64, Node)>,
    ) -> Result<(), Error> {
        self.apply(&Body::of(Op::MirrorBegin {
            mirror: number,
            scope,
            root: ROOT,
        }))?;
        let entries = entries
            .into_iter()
            .map(|(text, number, node)| doppelfs::types::Entry {
                name: name(text),
                id: id(number),
                node,
            })
            .collect();
        let op = Op::Listing {
            id: ROOT,
            entries,
            xattrs: Vec::new(),
        };
        self.apply(&with_after(op, attrs(0o040_755)))?;
        self.apply(&Body::of(Op::MirrorEnd { mirror: number }))
    }

    pub fn is_there(&self, text: &str) -> bool {
        self.dirs
            .path(&format!("mirror/{text}"))
            .symlink_metadata()
            .is_ok()
    }
}
