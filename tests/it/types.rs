//! Goal: the nouns refuse what they cannot be, and keep their numbers.
//! Method: values at the limits and one beyond.

use doppelfs::types::{
    Body, Caller, FileId, Kind, Marks, Name, NameError, Op, Seq, SetName, limits,
};

#[test]
fn a_name_is_one_path_component() {
    for good in [
        "a".as_bytes(),
        b"...",
        b" ",
        b"\n",
        b"\xff\xfe",
        &[b'x'; limits::NAME_BYTES_MAX],
    ] {
        assert_eq!(Name::new(good).unwrap().as_bytes(), good);
    }
    for bad in ["".as_bytes(), b".", b"..", b"a/b", b"/", b"a\0"] {
        let error = Name::new(bad).unwrap_err();
        assert!(matches!(error, NameError::NotAComponent(_)), "{bad:?}");
    }
    let long = [b'x'; limits::NAME_BYTES_MAX + 1];
    assert_eq!(Name::new(&long), Err(NameError::TooLong(long.len())));
}

#[test]
fn a_decoded_name_is_checked_as_a_new_one() {
    let name = Name::new(b"\xffname").unwrap();
    let bytes = rmp_serde::to_vec(&name).unwrap();
    assert_eq!(rmp_serde::from_slice::<Name>(&bytes).unwrap(), name);
    let climbing = rmp_serde::to_vec(serde_bytes::Bytes::new(b"..")).unwrap();
    assert!(rmp_serde::from_slice::<Name>(&climbing).is_err());
}

#[test]
fn a_number_from_outside_always_has_a_next_one() {
    let decoded = |number: u64| {
        let bytes = rmp_serde::to_vec(&number).unwrap();
        rmp_serde::from_slice::<Seq>(&bytes).ok()
    };
    assert_eq!(rmp_serde::to_vec(&Seq(7)).unwrap(), [7]);
    assert_eq!(decoded(7), Some(Seq(7)));
    assert_eq!(decoded(Seq::MAX.0), Some(Seq::MAX));
    assert!(Seq::MAX.next() > Seq::MAX);
    for beyond in [Seq::MAX.0 + 1, u64::MAX] {
        assert_eq!(decoded(beyond), None, "{beyond}");
    }
}

#[test]
fn a_set_name_can_be_a_file_name() {
    for good in ["a", "srv-data", "A_1.b", "9", &"x".repeat(64)] {
        assert_eq!(SetName::new(good).unwrap().as_str(), good);
    }
    for bad in ["", ".", ".a", "-a", "a/b", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(SetName::new(bad), Err(NameError::NotASetName(bad.into())));
        let json = serde_json::to_string(bad).unwrap();
        assert!(serde_json::from_str::<SetName>(&json).is_err(), "{bad}");
    }
}

#[test]
fn kinds_have_the_numbers_of_their_places_and_words_of_their_own() {
    let mut words = Vec::new();
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(kind.number()), index + 1, "{kind:?}");
        assert_eq!(Kind::from_number(kind.number()), Some(kind));
        assert!(!words.contains(&kind.word()), "{}", kind.word());
        words.push(kind.word());
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(Kind::Mark.number() + 1), None);
    assert_eq!(Kind::from_number(u16::MAX), None);
}

#[test]
fn the_kinds_of_a_mirror_are_told_from_those_of_programs() {
    let mirror = Kind::ALL.into_iter().filter(|kind| kind.is_mirror());
    let first = mirror.clone().next();
    assert_eq!(first, Some(Kind::MirrorBegin));
    assert_eq!(mirror.count(), 8);
    assert!(!Kind::Gap.is_mirror());
    assert!(Kind::Listing.is_namespace() && Kind::Rename.is_namespace());
    assert!(!Kind::Write.is_namespace() && !Kind::SetAttr.is_namespace());
}

#[test]
fn a_record_of_our_own_making_has_no_caller_and_no_path() {
    let body = Body::of(Op::Truncate {
        id: FileId::new(1, 1),
        size: 7,
    });
    assert_eq!(body.op.kind(), Kind::Truncate);
    assert_eq!(body.caller, Caller::default());
    assert_eq!(body.request.unique, 0);
    assert!(body.path.is_empty() && body.after.is_none());
    assert!(body.dir_mtime.is_none() && body.to_mtime.is_none());
}

#[test]
fn numbers_begin_after_zero_and_ids_are_shown_for_people() {
    assert_eq!(Seq::ZERO.next(), Seq(1));
    assert_eq!(Marks::default().durable, Seq::ZERO);
    assert_eq!(FileId::new(12, 3).to_string(), "0:12.3");
}
