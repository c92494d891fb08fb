//! Records as they come: the frame, and the body in it.

use doppelfs::codec::{self, Draft, Frame};
use doppelfs::control::QueueLine;
use doppelfs::types::{Kind, Seq, limits};

use super::draw::Draw;

/// A frame with right checksums, whatever else it says.
pub struct Sealed<'a> {
    pub kind: u16,
    pub meta: &'a [u8],
    pub payload: &'a [u8],
    pub seq: u64,
    pub prev_seq: u64,
    pub time_ns: u64,
    pub flags: u32,
}

impl Sealed<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; limits::HEADER_BYTES];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &codec::MAGIC.to_le_bytes());
        put(4, &codec::VERSION.to_le_bytes());
        put(6, &self.kind.to_le_bytes());
        put(8, &(self.meta.len() as u32).to_le_bytes());
        put(12, &(self.payload.len() as u32).to_le_bytes());
        put(16, &self.seq.to_le_bytes());
        put(24, &self.prev_seq.to_le_bytes());
        put(32, &self.time_ns.to_le_bytes());
        put(40, &self.flags.to_le_bytes());
        put(56, &crc32c::crc32c(self.payload).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), self.meta);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(self.meta);
        bytes.extend_from_slice(self.payload);
        bytes
    }
}

/// Any frame with right checksums.
pub fn sealed(draw: &mut Draw<'_>) -> Vec<u8> {
    let kind = u16::from(draw.byte() % 22);
    let (seq, prev_seq) = (draw.number(), draw.number());
    let (time_ns, flags) = (draw.number(), draw.byte().into());
    let payload = draw.bytes(255);
    let meta = draw.rest();
    let sealed = Sealed {
        kind,
        meta,
        payload,
        seq,
        prev_seq,
        time_ns,
        flags,
    };
    sealed.bytes()
}

/// What holds of every frame that was taken.
pub fn check(frame: &Frame) {
    assert_eq!(frame.header().frame_len(), frame.bytes().len());
    let again = Frame::from_vec(frame.bytes().to_vec()).expect("a frame taken once");
    assert_eq!(again.header(), frame.header());
    let line = QueueLine::of(frame);
    for text in [&line.path, line.to.as_ref().unwrap_or(&line.op)] {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    let Ok(body) = frame.body() else { return };
    let draft = Draft::new(&body, frame.payload());
    let mut bytes = draft.seal(Seq(1), Seq(0), 0).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(draft.payload());
    let again = Frame::parse(&bytes).expect("a frame of ours");
    assert_eq!(again.body().expect("a body of ours"), body);
}

/// Frames back to back, with checksums as they come or made right.
pub fn frame(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let made;
    let mut rest = match mode % 3 {
        0 => rest,
        1 => {
            made = sealed(&mut Draw(rest));
            &made
        }
        _ => {
            made = mended(rest);
            &made
        }
    };
    while let Ok(frame) = Frame::parse(rest) {
        check(&frame);
        rest = &rest[frame.bytes().len()..];
    }
    drop(Frame::from_vec(rest.to_vec()));
}

/// The bytes with magic, version and checksums made right, where the lengths allow it.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < limits::HEADER_BYTES {
        return bytes;
    }
    bytes[..4].copy_from_slice(&codec::MAGIC.to_le_bytes());
    bytes[4..6].copy_from_slice(&codec::VERSION.to_le_bytes());
    let word = |at: usize| {
        bytes[at..at + 4]
            .iter()
            .rev()
            .fold(0, |n, b| n << 8 | usize::from(*b))
    };
    let meta_end = limits::HEADER_BYTES.saturating_add(word(8));
    let end = meta_end.saturating_add(word(12));
    if let Some(payload) = bytes.get(meta_end..end) {
        let crc = crc32c::crc32c(payload);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        let crc = crc32c::crc32c_append(crc, &bytes[limits::HEADER_BYTES..meta_end]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// A body by itself, in a frame of the kind that it says.
pub fn body(bytes: &[u8]) {
    for kind in Kind::ALL {
        let sealed = Sealed {
            kind: kind.number(),
            meta: bytes,
            payload: b"",
            seq: 2,
            prev_seq: 1,
            time_ns: 0,
            flags: 0,
        };
        let Ok(frame) = Frame::from_vec(sealed.bytes()) else {
            return;
        };
        match frame.body() {
            Ok(_) => return check(&frame),
            // The kind it says comes in its turn.
            Err(codec::Error::KindsDiffer { .. }) => {}
            Err(_) => return,
        }
    }
    panic!("a body of no kind");
}
