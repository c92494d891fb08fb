//! What the tests of this binary share: a fixture of target, link and mount, commands with a
//! deadline, trees to copy, load.

mod causes;
mod command;
mod fixture;
mod image;
mod isolated;
pub(crate) mod nfs;
mod pair;
mod postgres;
mod proxy;
#[path = "../../support/scratch.rs"]
mod scratch;
mod servers;
mod settings;
mod status;
mod target;
mod tracer;
mod trees;
mod until;
mod xdr;

pub(crate) use causes::{Causes, check_causes};
pub(crate) use command::{Finished, Program, doppelfs, program};
pub(crate) use fixture::{Fixture, kill_worker};
pub(crate) use image::Image;
pub(crate) use isolated::isolated;
pub(crate) use pair::{LIMITED, Pair, USER, said_in};
pub(crate) use postgres::Postgres;
pub(crate) use scratch::Scratch;
pub(crate) use servers::{Ganesha, Samba};
pub(crate) use settings::{
    backlog_bytes, cuts, database_crashes, dbench_seconds, files_max, fsx_size, kills, mirror_size,
    nodes_max, pgbench_seconds, points_max, power_bytes, power_cuts, rounds, seed, soak_minutes,
    soak_without, stress_seconds, target_kills,
};
pub(crate) use target::{Target, free_port};
pub(crate) use tracer::{Moment, Seen, Tracer, may_trace};
pub(crate) use trees::{open_dir, plant_everything, plant_source_tree, random_bytes};
pub(crate) use until::until;

/// setxattr(2) of an open file.
pub(crate) fn set_xattr(
    file: &std::fs::File,
    name: &str,
    value: &[u8],
    flags: i32,
) -> std::io::Result<()> {
    let name = std::ffi::CString::new(name).expect("no NUL");
    doppelfs::sys::setxattr(std::os::fd::AsFd::as_fd(file), &name, value, flags)
}

/// getxattr(2) of an open file.
pub(crate) fn get_xattr(file: &std::fs::File, name: &str) -> std::io::Result<Vec<u8>> {
    let name = std::ffi::CString::new(name).expect("no NUL");
    let mut value = vec![0u8; 4096];
    let length = doppelfs::sys::getxattr(std::os::fd::AsFd::as_fd(file), &name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// removexattr(2) of an open file.
pub(crate) fn remove_xattr(file: &std::fs::File, name: &str) -> std::io::Result<()> {
    let name = std::ffi::CString::new(name).expect("no NUL");
    doppelfs::sys::removexattr(std::os::fd::AsFd::as_fd(file), &name)
}

/// Can this test run here? Says loudly when not.
pub(crate) fn is_ready(test: &str) -> bool {
    let root = doppelfs::sys::is_root();
    let fuse = std::path::Path::new("/dev/fuse").exists();
    if !root || !fuse {
        eprintln!("SKIPPED {test}: needs root and /dev/fuse");
    }
    root && fuse
}

/// Are these programs installed? Says loudly when not.
pub(crate) fn has_programs(test: &str, names: &[&str]) -> bool {
    let missing: Vec<&&str> = names.iter().filter(|n| !command::is_installed(n)).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED {test}: not installed: {missing:?}");
    }
    missing.is_empty()
}
