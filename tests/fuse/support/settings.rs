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

/// How often a process of the product is killed.
pub(crate) fn kills() -> u64 {
    number("DOPPELFS_KILLS", 20)
}

/// At how many points of each operation workers are killed; 0: at all.
pub(crate) fn points_max() -> usize {
    usize::try_from(number("DOPPELFS_POINTS", 2)).unwrap_or(usize::MAX)
}

/// How often a target, or both sides, are killed.
pub(crate) fn target_kills() -> u64 {
    number("DOPPELFS_KILLS", 10)
}

/// How often a host loses its power.
pub(crate) fn power_cuts() -> u64 {
    number("DOPPELFS_POWER_CUTS", 3)
}

/// How many bytes a host that loses its power has that nobody changes.
pub(crate) fn power_bytes() -> u64 {
    number("DOPPELFS_POWER_BYTES", 256 << 20)
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

/// How often source or link of a database are lost.
pub(crate) fn database_crashes() -> u64 {
    number("DOPPELFS_ROUNDS", 1)
}

/// How much is written while the target is away.
pub(crate) fn backlog_bytes() -> u64 {
    number("DOPPELFS_BACKLOG_BYTES", 256 << 20)
}

/// How many operations the file exerciser does in each mode, and with how many seeds.
pub(crate) fn fsx_size() -> (u64, u64) {
    (
        number("DOPPELFS_FSX_OPS", 5_000),
        number("DOPPELFS_FSX_SEEDS", 1),
    )
}

/// How many seconds each stressor of stress-ng runs.
pub(crate) fn stress_seconds() -> u64 {
    number("DOPPELFS_STRESS_SECONDS", 2)
}

/// How many seconds dbench measures.
pub(crate) fn dbench_seconds() -> u64 {
    number("DOPPELFS_DBENCH_SECONDS", 5)
}

/// How many seconds pgbench runs.
pub(crate) fn pgbench_seconds() -> u64 {
    number("DOPPELFS_PGBENCH_SECONDS", 4)
}

/// How long the soak test runs, if it is to.
pub(crate) fn soak_minutes() -> Option<u64> {
    let minutes = number("DOPPELFS_SOAK_MINUTES", 0);
    (minutes > 0).then_some(minutes)
}

/// Which of its faults the soak test leaves out.
pub(crate) fn soak_without() -> Vec<String> {
    let names = std::env::var("DOPPELFS_SOAK_WITHOUT").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
}

/// The seed of a test's random choices; printed, so that a failure can be run again.
pub(crate) fn seed(test: &str) -> u64 {
    let fresh = doppelfs::sys::realtime_ns() % 1_000_000_007;
    let seed = number("DOPPELFS_SEED", fresh);
    eprintln!("{test}: DOPPELFS_SEED={seed}");
    seed
}
