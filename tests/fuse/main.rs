//! The product through its command line, over real mounts: a target, a protected directory, a link
//! between them that can be cut.
//!
//! Needs root and `/dev/fuse`; without them every test says `SKIPPED` and passes. Environment:
//!
//! * `DOPPELFS_SCRATCH`: where scratch directories lie (default `/var/tmp`); `DOPPELFS_KEEP` keeps
//!   them.
//! * `DOPPELFS_SEED`: the seed of all random choices; every test prints its own.
//! * `DOPPELFS_KILLS` (20, or 10 where the target is killed): how often a process of the product is
//!   killed. `DOPPELFS_POWER_CUTS` (3): how often a host loses its power. `DOPPELFS_CUTS` (25),
//!   `DOPPELFS_FILES_MAX` (100,000), `DOPPELFS_MIRROR_FILES` (2,000),
//!   `DOPPELFS_MIRROR_BYTES` (64 MiB), `DOPPELFS_ROUNDS` (2, or 1 of a database), `DOPPELFS_BACKLOG_BYTES` (256 MiB):
//!   `DOPPELFS_NODES` (20,000): sizes. `DOPPELFS_PATIENCE` (120): seconds that anything may take.
//! * `DOPPELFS_POINTS` (2): at how many of the system calls of each operation a worker is killed, chosen by
//!   the seed; 1000 is all of them, with each moment at which the program is killed (a quarter of an hour).
//! * `DOPPELFS_FSX_OPS` (5,000) and `DOPPELFS_FSX_SEEDS` (1): operations and rounds of the file
//!   exerciser. `DOPPELFS_STRESS_SECONDS` (2), `DOPPELFS_DBENCH_SECONDS` (5),
//!   `DOPPELFS_PGBENCH_SECONDS` (4): how long these programs run, each time.
//! * `DOPPELFS_SOAK_MINUTES`: how long the soak test runs, which does not run without (`scripts/soak`);
//!   `DOPPELFS_SOAK_WITHOUT`: faults that it leaves out (`TargetFull,LinkSlow`).

mod api;
mod backlog;
mod bad_directories;
mod compare_command;
mod configured;
mod confined;
mod dying_readers;
mod exercisers;
mod file_systems;
mod full;
mod handles;
mod hard_links;
mod held;
mod limits;
mod link_cuts;
mod lost_disks;
mod lost_queue;
mod mirror_cuts;
mod mirror_load;
mod monitoring;
mod mount8;
mod mount_options;
mod names;
mod namespaces;
mod nfs_server;
mod nodes;
mod notify;
mod odd_directories;
#[path = "../support/openapi.rs"]
#[allow(
    dead_code,
    reason = "the description itself is looked at by other tests"
)]
mod openapi;
mod pairing;
mod pauses;
mod posix_suite;
mod postgres;
mod postgres_crashes;
mod power_cuts;
mod privacy;
mod programs;
mod quotas;
mod ranges;
mod refusals;
mod refusals_target;
mod relaxed;
mod remap_links;
mod remount;
mod replaced_worker;
mod restart;
mod running_programs;
mod samba_server;
mod scale;
mod served_takeovers;
mod slow_requests;
mod soak;
mod staged_resync;
mod status_never_hangs;
mod support;
mod takeover;
mod takeover_cases;
mod takeover_points;
mod target_kills;
mod two_hosts;
mod ways_beside;
mod writers;
