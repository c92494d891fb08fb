//! The capabilities of a target, each with its reason, and those that no source uses.

use crate::sys;

/// A capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its number (`linux/capability.h`).
    pub number: u32,
    /// Its name, without `CAP_`, in small letters.
    pub name: &'static str,
    /// What needs it.
    pub reason: &'static str,
}

const fn capability(number: u32, name: &'static str, reason: &'static str) -> Capability {
    Capability {
        number,
        name,
        reason,
    }
}

/// What a target keeps.
pub const KEPT: [Capability; 9] = [
    capability(0, "chown", "gives files their owners and groups"),
    capability(
        1,
        "dac_override",
        "writes below directories and in files of any mode",
    ),
    capability(2, "dac_read_search", "opens files by handle"),
    capability(3, "fowner", "sets modes, times and ACLs of others' files"),
    capability(4, "fsetid", "sets set-group-id for groups it is not in"),
    capability(21, "sys_admin", "sets trusted.* and security.* attributes"),
    capability(
        24,
        "sys_resource",
        "applies what fitted on the source over a user's quota here",
    ),
    capability(27, "mknod", "makes device nodes"),
    capability(31, "setfcap", "sets file capabilities"),
];

/// The bits of [`KEPT`].
pub(super) fn kept_bits() -> u64 {
    KEPT.iter().fold(0, |bits, kept| bits | 1 << kept.number)
}

/// Names of those whose bits are set.
pub(super) fn names(bits: u64) -> Vec<String> {
    let there = KEPT.iter().filter(|kept| bits & (1 << kept.number) != 0);
    there.map(|kept| kept.name.to_owned()).collect()
}

/// Numbers and names of what the worker of a source takes from its bounding set: none of it is about
/// files. Everything about files stays, because it acts for callers who may have it.
pub const UNUSED_BY_SOURCE: [(u32, &str); 16] = [
    (10, "net_bind_service"),
    (11, "net_broadcast"),
    (12, "net_admin"),
    (13, "net_raw"),
    (16, "sys_module"),
    (17, "sys_rawio"),
    (20, "sys_pacct"),
    (22, "sys_boot"),
    (25, "sys_time"),
    (26, "sys_tty_config"),
    (29, "audit_write"),
    (30, "audit_control"),
    (35, "wake_alarm"),
    (37, "audit_read"),
    (38, "perfmon"),
    (39, "bpf"),
];

/// Takes [`UNUSED_BY_SOURCE`] from the bounding, the permitted and the inheritable set of this thread.
///
/// # Errors
/// Without `CAP_SETPCAP`.
pub fn give_up_unused() -> std::io::Result<()> {
    let bits = UNUSED_BY_SOURCE
        .iter()
        .fold(0, |bits, (number, _)| bits | 1u64 << number);
    sys::give_up_capabilities(bits)
}
