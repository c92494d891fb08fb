//! Credentials of the calling thread for file access.

use std::cell::Cell;
use std::io;

/// As whom a thread acts on the file system below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// File system user id: owner of what is created; reserved blocks are judged by it.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups, [`NO_GROUP`] where there is none: those that decide whether set-group-id
    /// stays.
    pub groups: [u32; 2],
    /// Keep `CAP_FSETID`: writes do not strip suid and sgid, chmod may set sgid.
    pub keeps_suid: bool,
}

/// In the place of a group: none. No group has this number.
pub const NO_GROUP: u32 = u32::MAX;

impl Identity {
    /// Root with every capability the process has.
    pub const ROOT: Identity = Identity {
        uid: 0,
        gid: 0,
        groups: [NO_GROUP; 2],
        keeps_suid: true,
    };
}

thread_local! {
    static CURRENT: Cell<Identity> = const { Cell::new(Identity::ROOT) };
}

const CAP_FSETID: u64 = 1 << 4;
const CAP_SYS_RESOURCE: u64 = 1 << 24;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3` (`linux/capability.h`).
const CAP_VERSION: u32 = 0x2008_0522;

/// Sets of capabilities of a thread; bit = number.
#[derive(Debug, Clone, Copy)]
pub(super) struct CapabilitySets {
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
}

fn this_thread() -> CapHeader {
    CapHeader {
        version: CAP_VERSION,
        pid: 0,
    }
}

/// capget(2) of this thread.
pub(super) fn capabilities() -> io::Result<CapabilitySets> {
    let mut header = this_thread();
    let mut words = [CapWord::default(); 2];
    // SAFETY: header and the two words have the kernel's layout for version 3.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    let whole = |of: fn(&CapWord) -> u32| u64::from(of(&words[0])) | u64::from(of(&words[1])) << 32;
    Ok(CapabilitySets {
        effective: whole(|word| word.effective),
        permitted: whole(|word| word.permitted),
        inheritable: whole(|word| word.inheritable),
    })
}

/// capset(2) of this thread.
pub(super) fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let mut header = this_thread();
    let word = |shift: u32| CapWord {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: as for capget; the kernel only reads.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn set_effective(drop: u64) -> io::Result<()> {
    let mut sets = capabilities()?;
    sets.effective = sets.permitted & !drop;
    set_capabilities(sets)
}

/// Makes this thread act as `who` from now on: fsuid, fsgid, and all capabilities raised again but
/// `CAP_SYS_RESOURCE` (quotas and reserved blocks hold) and, unless `keeps_suid`, `CAP_FSETID`.
/// Permission itself is judged by the kernel above, with the caller's real credentials. Costs
/// nothing when the thread already acts so.
pub fn adopt(who: Identity) -> io::Result<()> {
    let now = CURRENT.get();
    if now == who {
        return Ok(());
    }
    if now.groups != who.groups {
        let groups: Vec<u32> = who.groups.into_iter().filter(|g| *g != NO_GROUP).collect();
        // SAFETY: the list is readable for its length; a raw syscall changes this thread only.
        let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: plain calls; they change this thread only (raw syscalls, not glibc's broadcast).
    unsafe {
        if now.gid != who.gid {
            libc::syscall(libc::SYS_setfsgid, who.gid);
        }
        if now.uid != who.uid {
            libc::syscall(libc::SYS_setfsuid, who.uid);
        }
    }
    let mut drop = if who.uid == 0 { 0 } else { CAP_SYS_RESOURCE };
    if !who.keeps_suid {
        drop |= CAP_FSETID;
    }
    set_effective(drop)?;
    CURRENT.set(who);
    Ok(())
}

/// unshare(2) of `CLONE_FS`: this thread gets an umask of its own.
pub fn unshare_fs_state() -> io::Result<()> {
    // SAFETY: plain call; it changes this thread only.
    let rc = unsafe { libc::unshare(libc::CLONE_FS) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
