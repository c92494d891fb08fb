//! What was asked for: raw words in, validated options out, once, at the front door.
//!
//! # Contract
//! [`MountOptions::new`] and [`TargetOptions::new`] turn [`Settings`] (pairs of key and value, from
//! flags and from `-o`) into options in which every path is absolute, every number in range and
//! every address complete. [`check_mount`] then looks at the machine: may this directory be
//! protected like this? Nothing behind these doors sees a raw string.
//!
//! # Invariants
//! * A key is known, or an error that names the nearest one; a value is legal, or an error that
//!   says what would be.
//! * [`check_mount`] changes nothing. [`claim_state`] is the one thing here that writes.
//!
//! # Failure
//! [`OptionError`] before anything was looked at, [`MountRefusal`] before anything was changed,
//! [`StateError`] with the state directory as it was.

mod check;
mod error;
mod keys;
mod mount;
mod quantity;
mod state;
mod target;

pub use check::{FS_TYPE, MountRefusal, Surroundings, check_mount, is_held};
pub use error::OptionError;
pub use keys::{KeyUse, MOUNT_KEYS, Settings, is_ignored_key, split_options};
pub use mount::{
    MountFlags, MountOptions, Order, default_keys_dir, default_run_dir, default_state_dir,
};
pub use quantity::{parse_bytes, parse_duration, parse_percent, parse_switch};
pub use state::{Role, StateError, StateOwner, claim_queue, claim_state};
pub use target::{TargetOptions, default_target_state_dir};
