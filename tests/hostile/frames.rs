//! Records and batches by hand, from the description of the format, so that any part of them can lie.

use super::pack::{Pack, bytes, text, variant};

/// An identity: inode number and generation on the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub u64, pub u64);

impl Id {
    pub fn pack(self) -> Pack {
        let numbers = [0, self.0, self.1];
        Pack::List(numbers.map(Pack::Whole).to_vec())
    }
}

/// Seconds and nanoseconds.
pub fn time(secs: i64, nanos: u64) -> Pack {
    let secs = match u64::try_from(secs) {
        Ok(secs) => Pack::Whole(secs),
        Err(_) => Pack::Negative(secs),
    };
    Pack::List(vec![secs, Pack::Whole(nanos)])
}

/// Attributes afterwards.
#[derive(Debug, Clone)]
pub struct After {
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub nlink: u64,
    pub size: u64,
    pub secs: i64,
    pub nanos: u64,
}

/// Those of an ordinary file or directory.
pub fn after(mode: u64) -> After {
    After {
        mode,
        uid: 1234,
        gid: 1234,
        nlink: 1,
        size: 0,
        secs: 1_600_000_000,
        nanos: 7,
    }
}

impl After {
    pub fn pack(&self) -> Pack {
        let numbers = [self.mode, self.uid, self.gid, self.nlink, self.size];
        let mut fields = numbers.map(Pack::Whole).to_vec();
        fields.push(time(self.secs, self.nanos));
        Pack::List(fields)
    }
}

/// A place for a name.
pub fn at(parent: Id, name: &[u8]) -> Pack {
    Pack::List(vec![parent.pack(), bytes(name)])
}

pub fn file() -> Pack {
    text("f")
}

pub fn dir() -> Pack {
    text("d")
}

pub fn symlink(to: &[u8]) -> Pack {
    Pack::Map(vec![(text("l"), bytes(to))])
}

/// `c` or `b`.
pub fn device(kind: &str, rdev: u64) -> Pack {
    Pack::Map(vec![(text(kind), Pack::Whole(rdev))])
}

pub fn none() -> Pack {
    Pack::List(Vec::new())
}

/// A record but for its place in the stream.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The kind's number in the header.
    pub kind: u16,
    pub meta: Vec<u8>,
    pub payload: Vec<u8>,
    pub flags: u32,
}

/// Numbers of kinds, as the headers have them.
pub const WRITE: u16 = 1;
pub const TRUNCATE: u16 = 2;
pub const FALLOCATE: u16 = 3;
pub const SETATTR: u16 = 4;
pub const SETXATTR: u16 = 5;
pub const REMOVEXATTR: u16 = 6;
pub const CREATE: u16 = 7;
pub const LINK: u16 = 8;
pub const UNLINK: u16 = 9;
pub const RMDIR: u16 = 10;
pub const RENAME: u16 = 11;
pub const GAP: u16 = 12;
pub const MIRROR_BEGIN: u16 = 13;
pub const MIRROR_END: u16 = 14;
pub const LISTING: u16 = 15;
pub const IMAGE: u16 = 16;
pub const IMAGE_DATA: u16 = 18;
pub const IMAGE_HOLE: u16 = 19;

/// A body around an operation, with attributes and the parent's time where they are given.
pub fn draft(kind: u16, op: Pack, after: Option<Pack>) -> Draft {
    let numbers = |count: usize| Pack::List(vec![Pack::Whole(0); count]);
    let body = Pack::List(vec![
        op,
        after.unwrap_or(Pack::Nil),
        Pack::Nil,
        Pack::Nil,
        bytes(b"where"),
        numbers(3),
        numbers(2),
    ]);
    Draft {
        kind,
        meta: body.encode(),
        payload: Vec::new(),
        flags: 0,
    }
}

impl Draft {
    pub fn with(mut self, payload: &[u8]) -> Draft {
        self.payload = payload.to_vec();
        self
    }

    /// The next frame belongs to the same operation.
    pub fn more(mut self) -> Draft {
        self.flags = 1;
        self
    }

    /// The frame at a position.
    pub fn seal(&self, seq: u64, prev: u64) -> Vec<u8> {
        let mut head = [0u8; 64];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"DPR1");
        put(4, &1u16.to_le_bytes());
        put(6, &self.kind.to_le_bytes());
        put(8, &u32::try_from(self.meta.len()).unwrap().to_le_bytes());
        put(
            12,
            &u32::try_from(self.payload.len()).unwrap().to_le_bytes(),
        );
        put(16, &seq.to_le_bytes());
        put(24, &prev.to_le_bytes());
        put(32, &1_600_000_000_000_000_000u64.to_le_bytes());
        put(40, &self.flags.to_le_bytes());
        put(56, &crc32c::crc32c(&self.payload).to_le_bytes());
        let mut frame = head.to_vec();
        frame.extend_from_slice(&self.meta);
        frame.extend_from_slice(&self.payload);
        reseal(&mut frame, self.meta.len());
        frame
    }
}

/// Makes the header's checksum right again.
pub fn reseal(frame: &mut [u8], meta_len: usize) {
    let sum = crc32c::crc32c(&frame[..60]);
    let sum = crc32c::crc32c_append(sum, &frame[64..64 + meta_len]);
    frame[60..64].copy_from_slice(&sum.to_le_bytes());
}

pub fn create(parent: Id, name: &[u8], id: Id, node: Pack, mode: u64) -> Draft {
    let op = variant("c", vec![at(parent, name), id.pack(), node, none()]);
    draft(CREATE, op, Some(after(mode).pack()))
}

pub fn write(id: Id, offset: u64, data: &[u8]) -> Draft {
    let op = variant("w", vec![id.pack(), Pack::Whole(offset)]);
    draft(WRITE, op, None).with(data)
}

pub fn truncate(id: Id, size: u64) -> Draft {
    let op = variant("t", vec![id.pack(), Pack::Whole(size)]);
    draft(TRUNCATE, op, None)
}

pub fn fallocate(id: Id, mode: i64, offset: u64, length: u64) -> Draft {
    let mode = match u64::try_from(mode) {
        Ok(mode) => Pack::Whole(mode),
        Err(_) => Pack::Negative(mode),
    };
    let op = variant(
        "a",
        vec![id.pack(), mode, Pack::Whole(offset), Pack::Whole(length)],
    );
    draft(FALLOCATE, op, None)
}

pub fn setattr(id: Id, after: &After) -> Draft {
    let op = variant("s", vec![id.pack(), Pack::Nil]);
    draft(SETATTR, op, Some(after.pack()))
}

pub fn setxattr(id: Id, name: &[u8], value: &[u8]) -> Draft {
    let op = variant("x", vec![id.pack(), bytes(name)]);
    draft(SETXATTR, op, None).with(value)
}

pub fn removexattr(id: Id, name: &[u8]) -> Draft {
    draft(
        REMOVEXATTR,
        variant("y", vec![id.pack(), bytes(name)]),
        None,
    )
}

pub fn link(id: Id, parent: Id, name: &[u8]) -> Draft {
    let op = variant("h", vec![id.pack(), at(parent, name), file()]);
    draft(LINK, op, Some(after(0o100_644).pack()))
}

pub fn unlink(parent: Id, name: &[u8], id: Id) -> Draft {
    let gone = After {
        nlink: 0,
        ..after(0o100_644)
    };
    let op = variant("u", vec![at(parent, name), id.pack()]);
    draft(UNLINK, op, Some(gone.pack()))
}

pub fn rmdir(parent: Id, name: &[u8], id: Id) -> Draft {
    draft(RMDIR, variant("r", vec![at(parent, name), id.pack()]), None)
}

pub fn rename(id: Id, node: Pack, from: Pack, to: Pack) -> Draft {
    let op = variant("m", vec![id.pack(), node, from, to, Pack::Nil, text("p")]);
    draft(RENAME, op, Some(after(0o100_644).pack()))
}

pub fn gap(ids: &[Id], everything: bool) -> Draft {
    let ids = ids.iter().map(|id| id.pack()).collect();
    let op = variant("g", vec![Pack::List(ids), Pack::Bool(everything)]);
    draft(GAP, op, None)
}

/// `f`: all of the tree.
pub fn mirror_begin(mirror: u64, scope: &str, root: Id) -> Draft {
    let op = variant("B", vec![Pack::Whole(mirror), text(scope), root.pack()]);
    draft(MIRROR_BEGIN, op, None)
}

pub fn mirror_end(mirror: u64) -> Draft {
    draft(MIRROR_END, variant("E", vec![Pack::Whole(mirror)]), None)
}

/// Entries: name, identity, node.
pub fn listing(id: Id, entries: Vec<(&[u8], Id, Pack)>) -> Draft {
    let entry =
        |(name, id, node): (&[u8], Id, Pack)| Pack::List(vec![bytes(name), id.pack(), node]);
    let entries = entries.into_iter().map(entry).collect();
    let op = variant("L", vec![id.pack(), Pack::List(entries), none()]);
    draft(LISTING, op, Some(after(0o040_755).pack()))
}

/// A batch's body: frames as they are.
pub fn batch(frames: &[u8]) -> Vec<u8> {
    batch_of(0, u32::try_from(frames.len()).unwrap(), frames)
}

/// A batch's body that says whatever it likes.
pub fn batch_of(codec: u8, raw_len: u32, packed: &[u8]) -> Vec<u8> {
    let mut body = vec![codec];
    body.extend_from_slice(&raw_len.to_le_bytes());
    body.extend_from_slice(packed);
    body
}
