//! Goal: a target cannot have a source remember more than it has files. Method: the count alone.

use doppelfs::mirror::MirrorState;

#[test]
fn more_files_than_there_are_cannot_be_asked_for() {
    let state = MirrorState::default();
    // A set may be copied several times at once before anybody looks.
    assert!(state.ask(1 << 20, || panic!("few enough not to look")));
    assert_eq!(state.asked(), 1 << 20);
    assert!(state.ask(5_000_000, || 5_000_000));
    assert!(!state.ask(1, || 5_000_000));
    // What was refused is not counted.
    assert_eq!(state.asked(), (1 << 20) + 5_000_000);
    assert!(state.ask(1, || 5_000_001));
    assert!(!state.ask(4096, || 0));
}
