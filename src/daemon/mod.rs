//! Wires the rooms together: the worker of a set, and the target.

use anyhow::bail;

use crate::config::MountOptions;
use crate::config::TargetOptions;
use crate::supervisor::Ready;

/// Protects a directory until it is unmounted.
///
/// # Errors
/// What stands in the way, for people.
pub fn run_source(options: MountOptions, ready: Ready) -> anyhow::Result<()> {
    drop(ready);
    bail!(
        "the worker of set {} is not wired into this build",
        options.set
    )
}

/// Serves a target until it is told to end.
///
/// # Errors
/// What stands in the way, for people.
pub fn run_target(options: TargetOptions, ready: Ready) -> anyhow::Result<()> {
    drop(ready);
    bail!(
        "the target on {} is not wired into this build",
        options.listen
    )
}
