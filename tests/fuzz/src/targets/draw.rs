//! Structure out of any bytes: each question takes some of them, and zeroes when there are none left,
//! so that a small change of an input is a small change of what is made of it.

use doppelfs::types::{FileId, Generation, Ino, Name, RootId, Seq};

/// Numbers at which something may go wrong.
const ODD: [u64; 24] = [
    0,
    1,
    2,
    4095,
    4096,
    4097,
    65_535,
    65_536,
    1 << 20,
    (1 << 20) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1_000_000_000,
    1 << 42,
    1 << 53,
    (1 << 62) + 1,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 1,
    u64::MAX,
];

/// The bytes not yet used.
pub struct Draw<'a>(pub &'a [u8]);

impl<'a> Draw<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// One of `count`, the first when there are no bytes left.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One in `count`; never when there are no bytes left.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == count - 1
    }

    pub fn raw(&mut self) -> u64 {
        let mut number = [0; 8];
        number.fill_with(|| self.byte());
        u64::from_le_bytes(number)
    }

    /// Small, odd, or any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..128 => small.into(),
            odd @ 128..224 => ODD[usize::from(odd) % ODD.len()],
            224..248 => self.raw() & 0xff_ffff,
            _ => self.raw(),
        }
    }

    /// A position, as far as one can come through a door.
    pub fn seq(&mut self) -> Seq {
        Seq(self.number() & Seq::MAX.0)
    }

    pub fn word(&mut self) -> u32 {
        self.number() as u32
    }

    /// At most `max` of them.
    pub fn bytes(&mut self, max: usize) -> &'a [u8] {
        let count = self.below(256).min(max).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// One of a few files, so that records meet; seldom any.
    pub fn id(&mut self) -> FileId {
        match self.byte() {
            few @ 0..240 => FileId::new(u64::from(few % 9) + 1, 0),
            240..246 => FileId::new(2, self.raw()),
            _ => FileId {
                root: RootId(self.word() as u16),
                ino: Ino(self.number()),
                generation: Generation(self.number()),
            },
        }
    }

    /// One of a few names; seldom any.
    pub fn name(&mut self) -> Name {
        let few: &[u8] = match self.byte() {
            b @ 0..200 => [b"a", b"b", b"c", b"d", b"e"][usize::from(b) % 5],
            200..210 => &[b'n'; 255],
            210..220 => b"\xff\n\x1b[2J",
            220..230 => b".doppelfs",
            _ => self.bytes(255),
        };
        Name::new(few).unwrap_or_else(|_| Name::new(b"a").expect("a name"))
    }
}
