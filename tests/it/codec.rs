//! Goal: bytes are a record only if they are exactly what was sealed.
//! Method: round trips, golden bytes, every truncation, every flipped bit.

use doppelfs::codec::{Draft, Error, Frame};
use doppelfs::types::{
    Attrs, Body, Caller, Dentry, FileId, Kind, Name, Node, Op, Seq, Time, Xattr, limits,
};

fn sample() -> Body {
    let at = Dentry {
        parent: FileId::new(2, 0),
        name: Name::new(b"na\nme\xff").unwrap(),
    };
    let xattrs = vec![Xattr {
        name: b"user.x".to_vec(),
        value: vec![0, 255],
    }];
    let mut body = Body::of(Op::Create {
        at,
        id: FileId::new(12, 99),
        node: Node::Symlink(vec![7]),
        xattrs,
    });
    body.after = Some(Attrs {
        mode: 0o120777,
        uid: 1,
        gid: 2,
        nlink: 1,
        size: 1,
        mtime: Time {
            secs: -5,
            nanos: 999_999_999,
        },
    });
    body.caller = Caller {
        uid: 1,
        gid: 2,
        pid: 3,
    };
    body.path = b"a/na\nme\xff".to_vec();
    body
}

fn seal(draft: &Draft<'_>, seq: u64, prev: u64) -> Vec<u8> {
    let mut bytes = draft.seal(Seq(seq), Seq(prev), 42).to_vec();
    bytes.extend_from_slice(draft.meta());
    bytes.extend_from_slice(draft.payload());
    bytes
}

#[test]
fn a_sealed_record_reads_back() {
    let body = sample();
    let payload = [1u8, 2, 3];
    let bytes = seal(&Draft::new(&body, &payload).with_more(), 7, 3);
    let frame = Frame::parse(&bytes).unwrap();
    assert_eq!(frame.body().unwrap(), body);
    assert_eq!(frame.payload(), payload);
    let header = frame.header();
    assert_eq!(
        (header.seq, header.prev_seq, header.time_ns),
        (Seq(7), Seq(3), 42)
    );
    assert_eq!(header.kind, Kind::Create);
    assert!(header.has_more());
    assert_eq!(frame.bytes(), bytes);
}

#[test]
fn the_layout_of_the_header_stays_as_it_was() {
    let body = Body::of(Op::MirrorEnd { mirror: 5 });
    let bytes = seal(&Draft::new(&body, b"xy"), 0x0102, 0x0101);
    assert_eq!(&bytes[0..4], b"DPR1");
    assert_eq!(&bytes[4..8], &[1, 0, 14, 0]);
    assert_eq!(&bytes[12..16], &[2, 0, 0, 0]);
    assert_eq!(&bytes[16..24], &[2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[24..32], &[1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[32..40], &[42, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[40..56], &[0; 16]);
    assert_eq!(&bytes[56..60], &crc32c::crc32c(b"xy").to_le_bytes());
}

#[test]
fn every_truncation_is_seen() {
    let bytes = seal(&Draft::new(&sample(), b"payload"), 1, 0);
    for cut in 0..bytes.len() {
        assert!(
            matches!(Frame::parse(&bytes[..cut]), Err(Error::Cut { .. })),
            "cut at {cut}"
        );
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let bytes = seal(&Draft::new(&sample(), b"payload"), 1, 0);
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::parse(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn a_length_beyond_its_limit_is_refused_before_anything_is_read() {
    let mut bytes = seal(&Draft::new(&sample(), b""), 1, 0);
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Frame::parse(&bytes), Err(Error::TooLarge { .. })));
}

#[test]
fn unknown_version_and_kind_are_named() {
    let mut bytes = seal(&Draft::new(&sample(), b""), 1, 0);
    bytes[4] = 9;
    assert!(matches!(
        Frame::parse(&bytes),
        Err(Error::UnknownVersion { found: 9 })
    ));
    let mut bytes = seal(&Draft::new(&sample(), b""), 1, 0);
    bytes[6] = 200;
    assert!(matches!(
        Frame::parse(&bytes),
        Err(Error::UnknownKind { found: 200 })
    ));
}

#[test]
fn the_largest_payload_fits() {
    let payload = vec![3u8; limits::PAYLOAD_BYTES_MAX];
    let bytes = seal(&Draft::new(&sample(), &payload), 1, 0);
    assert_eq!(Frame::from_vec(bytes).unwrap().payload(), payload);
}

#[test]
fn every_kind_has_its_number() {
    for (index, kind) in Kind::ALL.iter().enumerate() {
        assert_eq!(usize::from(kind.number()), index + 1);
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(22), None);
}

#[test]
fn names_that_could_leave_their_directory_do_not_exist() {
    for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
        assert!(Name::new(bad).is_err(), "{bad:?}");
    }
    assert!(Name::new(&[b'x'; 256]).is_err());
    assert!(Name::new(&[b'x'; 255]).is_ok());
    // Nor can they be smuggled in encoded.
    #[derive(serde::Serialize)]
    struct Fake<'a>(#[serde(with = "serde_bytes")] &'a [u8]);
    let bytes = rmp_serde::to_vec(&Fake(b"..")).unwrap();
    let inner = &bytes[..];
    assert!(rmp_serde::from_slice::<Name>(inner).is_err());
}

/// The header says so with a right checksum: what is computed with it must not overflow.
#[test]
fn positions_that_no_record_can_have_are_refused() {
    let with = |seq: u64, prev_seq: u64| {
        let draft = Draft::new(&sample(), b"");
        let mut bytes = seal(&draft, 2, 1);
        bytes[16..24].copy_from_slice(&seq.to_le_bytes());
        bytes[24..32].copy_from_slice(&prev_seq.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), draft.meta());
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        Frame::parse(&bytes)
    };
    assert!(with(Seq::MAX.0, 0).is_ok());
    for (seq, prev_seq) in [(0, 0), (5, 5), (5, 6), (Seq::MAX.0 + 1, 1), (u64::MAX, 1)] {
        let refused = with(seq, prev_seq);
        assert!(
            matches!(refused, Err(Error::NoPosition { .. })),
            "{seq} after {prev_seq}"
        );
    }
}
