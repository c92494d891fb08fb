//! What was asked for: raw words in, validated options out, once, at the front door.
//!
//! # Contract
//! [`MountOptions::new`] and [`TargetOptions::new`] turn [`Settings`] (pairs of key and value, from
//! flags and from `-o`) into options in which every path is absolute, every number in range and
//! every address complete. [`check_mount`] then looks at the machine: may this directory be
//! protected like this? Nothing behind these doors sees a raw string.
//!
//! [`Configuration`] is what stands in files: the same keys, of the same table, with the place of each
//! value, so that whatever is wrong names file, line and column. [`check_configuration`] and
//! [`check_fstab`] find what only shows when all sets, the target and fstab are seen together.
//!
//! # Invariants
//! * A key is known, or an error that names the nearest one; a value is legal, or an error that
//!   says what would be.
//! * [`check_mount`] changes nothing. [`claim_state`] and [`create_set`] are all that writes here.
//! * All problems of all files are found in one go; a file with a problem is never used in part.
//! * Checks look at nothing below a mounted doppelfs: its worker may be stopped, and would stop them.
//!
//! # Failure
//! [`OptionError`] before anything was looked at, [`MountRefusal`] before anything was changed,
//! [`StateError`] with the state directory as it was. [`ConfigError`] has a [`Problem`] for each thing
//! that is wrong.

mod check;
mod create;
mod cross;
mod document;
mod effective;
mod error;
mod files;
mod fstab;
mod given;
mod keys;
mod mount;
mod problem;
mod quantity;
mod set_file;
mod state;
mod target;
mod target_file;

pub use check::{FS_TYPE, MountRefusal, Surroundings, check_mount, is_held};
pub use create::{create_set, set_text};
pub use cross::{check_configuration, check_pairings};
pub use effective::{Effective, Shown, effective_general, effective_set, values};
pub use error::OptionError;
pub use files::{
    Configuration, GENERAL_FILE, METRICS_LISTEN_DEFAULT, SETS_DIR, default_config_dir,
};
pub use fstab::{FstabLine, check_fstab, read_fstab, unit_instance};
pub use given::Given;
pub use keys::{KeyUse, MOUNT_KEYS, Settings, is_ignored_key, split_options};
pub use mount::{
    MountFlags, MountOptions, Order, default_keys_dir, default_run_dir, default_state_dir,
};
pub use problem::{ConfigError, Place, Problem, Severity};
pub use quantity::{parse_bytes, parse_duration, parse_percent, parse_switch};
pub use set_file::SetFile;
pub use state::{Role, StateError, StateOwner, claim_queue, claim_state};
pub use target::{TargetOptions, default_target_state_dir};
pub use target_file::TargetFile;
