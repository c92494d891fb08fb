//! All targets in one program, so that there is one build and one link: `DOPPELFS_FUZZ` names the one.

#![no_main]

mod targets;

use std::alloc::System;
use std::sync::OnceLock;

use cap::Cap;

/// An input may have this much allocated beyond what was there before it. What an input of some KiB
/// makes us take is bounded by the largest message, a few MiB.
const INPUT_HEAP_BYTES_MAX: usize = 64 << 20;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

static TARGET: OnceLock<targets::Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("DOPPELFS_FUZZ").unwrap_or_default();
        match targets::ALL.iter().find(|target| target.name == name) {
            Some(target) => *target,
            None => panic!("DOPPELFS_FUZZ={name} names no target"),
        }
    });
    // What cannot be allocated ends the program, and the input is kept.
    let limit = HEAP.allocated().saturating_add(INPUT_HEAP_BYTES_MAX);
    let _ = HEAP.set_limit(limit);
    (target.run)(bytes);
    let _ = HEAP.set_limit(usize::MAX);
});
