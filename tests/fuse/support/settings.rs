//! Sizes and patience, from the environment.

use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// How long anything may take before the test fails.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(number("DOPPELFS_PATIENCE", 120))
}

/// How often the link is cut.
pub(crate) fn cuts() -> u64 {
    number("DOPPELFS_CUTS", 25)
}

/// How many files one directory gets.
pub(crate) fn files_max() -> u64 {
    number("DOPPELFS_FILES_MAX", 100_000)
}

/// How many files the kernel is made to know.
pub(crate) fn nodes_max() -> u64 {
    number("DOPPELFS_NODES", 20_000)
}

/// How many files and bytes a mirror under load has.
pub(crate) fn mirror_size() -> (u64, u64) {
    (
        number("DOPPELFS_MIRROR_FILES", 2_000),
        number("DOPPELFS_MIRROR_BYTES", 64 << 20),
    )
}

/// How often a random scenario is repeated.
pub(crate) fn rounds() -> u64 {
    number("DOPPELFS_ROUNDS", 2)
}

/// How much is written while the target is away.
pub(crate) fn backlog_bytes() -> u64 {
    number("DOPPELFS_BACKLOG_BYTES", 256 << 20)
}

/// The seed of a test's random choices; printed, so that a failure can be run again.
pub(crate) fn seed(test: &str) -> u64 {
    let fresh = doppelfs::sys::realtime_ns() % 1_000_000_007;
    let seed = number("DOPPELFS_SEED", fresh);
    eprintln!("{test}: DOPPELFS_SEED={seed}");
    seed
}
