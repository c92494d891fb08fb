//! What a thread gives up for good, and every thread that it starts: capabilities, system calls, and
//! what Landlock takes. What is given up, and why, is not decided here.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::cred::{capabilities, set_capabilities};

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// Threads of this process.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// prctl(2) `PR_SET_NO_NEW_PRIVS`: no program that is run later gains anything by its file.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: plain call without pointers.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// `SECBIT_NOROOT`, `SECBIT_NO_CAP_AMBIENT_RAISE`, and that neither is taken back
/// (`linux/securebits.h`).
const SECURE_BITS: libc::c_ulong = 0b1100_0011;

/// Capabilities have numbers below this one.
const CAPABILITY_COUNT_MAX: u32 = 64;

/// Takes these capabilities (bit = number) from the bounding set; `EPERM` without `CAP_SETPCAP`.
fn drop_bounding(gone: u64) -> io::Result<()> {
    for number in 0..CAPABILITY_COUNT_MAX {
        // SAFETY: plain call without pointers; a number that the kernel does not know gives EINVAL.
        let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if has == 1 && gone & (1 << number) != 0 {
            // SAFETY: as above.
            done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })?;
        }
    }
    Ok(())
}

/// Keeps no capability but these, as far as they are there, and says which are left: permitted and
/// effective; none inheritable, none ambient, and none comes back because the user is root.
///
/// # Errors
/// The sets could not be read or set. The bounding set is reduced first, which needs `CAP_SETPCAP`;
/// where that is missing the others are reduced all the same, and the error comes afterwards.
pub fn keep_capabilities(keep: u64) -> io::Result<u64> {
    let bounded = drop_bounding(!keep);
    // SAFETY: plain calls without pointers.
    let rooted = unsafe {
        // No ambient capabilities are left in any case: they end with the inheritable ones.
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        done(libc::prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0))
    };
    let mut sets = capabilities()?;
    sets.permitted &= keep;
    sets.effective = sets.permitted;
    sets.inheritable = 0;
    set_capabilities(sets)?;
    bounded?;
    rooted?;
    Ok(sets.permitted)
}

/// Takes these capabilities from every set of this thread; the others stay.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn give_up_capabilities(gone: u64) -> io::Result<()> {
    drop_bounding(gone)?;
    let mut sets = capabilities()?;
    sets.permitted &= !gone;
    sets.effective &= !gone;
    sets.inheritable &= !gone;
    set_capabilities(sets)
}

/// A system call that a filter refuses.
#[derive(Debug, Clone, Copy)]
pub struct CallRule {
    /// Its number on this architecture.
    pub number: libc::c_long,
    /// Refused always, or by one of its arguments.
    pub when: When,
    /// What the caller gets.
    pub errno: i32,
}

/// When a system call is refused.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Always.
    Always,
    /// When this argument, under this mask, is this value. The lower 32 bits only.
    Is {
        /// From 0.
        argument: u8,
        /// Bits that count.
        mask: u32,
        /// Their value.
        value: u32,
    },
    /// When it is not.
    IsNot {
        /// From 0.
        argument: u8,
        /// Bits that count.
        mask: u32,
        /// Their value.
        value: u32,
    },
}

/// `AUDIT_ARCH_*` of this program (`linux/audit.h`).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Numbers from here on are the x32 ABI of x86_64, and none on aarch64.
const X32_BIT: u32 = 0x4000_0000;

// Places in struct seccomp_data (`linux/seccomp.h`).
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;
const AT_ARGUMENTS: u32 = 16;

fn at_argument(argument: u8) -> u32 {
    let lower_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    AT_ARGUMENTS + 8 * u32::from(argument) + lower_half
}

fn step(code: u32, jump_true: u8, jump_false: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    }
}

fn load(at: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at)
}

fn if_equal(value: u32, jump_true: u8, jump_false: u8) -> libc::sock_filter {
    let code = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    step(code, jump_true, jump_false, value)
}

fn answer(action: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

/// The program: foreign architectures kill, each rule in its turn, all else is allowed.
fn compile(architecture: u32, rules: &[CallRule]) -> Vec<libc::sock_filter> {
    let from = |n: u32| step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 2, n);
    let mut program = vec![
        load(AT_ARCHITECTURE),
        if_equal(architecture, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(AT_NUMBER),
        from(X32_BIT),
        // A tracer that skips a call leaves this number.
        if_equal(u32::MAX, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
    ];
    for rule in rules {
        let number = rule.number as u32;
        let refusal = answer(libc::SECCOMP_RET_ERRNO | rule.errno as u32);
        let test = |argument, mask, equal: libc::sock_filter| {
            [
                if_equal(number, 0, 5),
                load(at_argument(argument)),
                step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, mask),
                equal,
                refusal,
                load(AT_NUMBER),
            ]
        };
        match rule.when {
            When::Always => program.extend([if_equal(number, 0, 1), refusal]),
            When::Is {
                argument,
                mask,
                value,
            } => program.extend(test(argument, mask, if_equal(value, 0, 1))),
            When::IsNot {
                argument,
                mask,
                value,
            } => program.extend(test(argument, mask, if_equal(value, 1, 0))),
        }
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

/// seccomp(2): from now on these calls of this thread fail, and calls of another architecture kill the
/// process. Needs [`forbid_new_privileges`] or `CAP_SYS_ADMIN`.
///
/// # Errors
/// The kernel has no filters, or nothing is known of this architecture (`ENOTSUP`).
pub fn refuse_calls(rules: &[CallRule]) -> io::Result<()> {
    let Some(architecture) = ARCHITECTURE else {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    };
    let mut program = compile(architecture, rules);
    let length = u16::try_from(program.len());
    let described = libc::sock_fprog {
        len: length.map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program is readable for its length while the call runs; the kernel copies and
    // checks it.
    done(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const described,
            0,
            0,
        )
    })
    .map(drop)
}

/// What Landlock is to take; the bits are those of `linux/landlock.h`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LandlockMask {
    /// `LANDLOCK_ACCESS_FS_*`, refused unless a rule allows them.
    pub files: u64,
    /// `LANDLOCK_ACCESS_NET_*`.
    pub network: u64,
    /// `LANDLOCK_SCOPE_*`.
    pub scopes: u64,
}

/// `struct landlock_ruleset_attr`; older kernels know its beginning.
#[repr(C)]
struct RulesetAttr {
    files: u64,
    network: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

fn ask_landlock(flag: u32) -> io::Result<u32> {
    // SAFETY: without attributes the call only answers.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            flag,
        )
    };
    u32::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// Version of Landlock's interface, from 1.
///
/// # Errors
/// `ENOSYS`: the kernel is built without it. `EOPNOTSUPP`: it is not among the modules of this boot.
pub fn landlock_version() -> io::Result<u32> {
    ask_landlock(1)
}

/// Is this erratum of Landlock (from 1, `security/landlock/errata`) fixed here?
pub fn is_landlock_fixed(erratum: u32) -> bool {
    // Kernels without the question have none of the fixes.
    ask_landlock(2).is_ok_and(|fixed| fixed & (1 << (erratum - 1)) != 0)
}

/// landlock_restrict_self(2): this thread loses what `mask` names, for good, but for the rights given
/// beneath these directories. Needs [`forbid_new_privileges`] or `CAP_SYS_ADMIN`.
///
/// # Errors
/// As the system says; nothing is taken then.
pub fn restrict(mask: LandlockMask, beneath: &[(BorrowedFd<'_>, u64)]) -> io::Result<()> {
    let attr = RulesetAttr {
        files: mask.files,
        network: mask.network,
        scopes: mask.scopes,
    };
    // An older kernel refuses a longer struct, unless what it does not know is 0.
    let bytes = size_of::<RulesetAttr>();
    // SAFETY: the pointer is to a readable struct of the size that is given.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            bytes,
            0u32,
        )
    };
    done(rc as i32)?;
    // SAFETY: the call just returned this new descriptor, nobody else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(rc as i32) };
    for &(dir, allowed) in beneath {
        let rule = PathBeneath {
            allowed,
            parent: dir.as_raw_fd(),
        };
        const BENEATH: u32 = 1;
        // SAFETY: the pointer is to a readable struct of this kind of rule.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                ruleset.as_raw_fd(),
                BENEATH,
                &raw const rule,
                0u32,
            )
        };
        done(rc as i32)?;
    }
    // SAFETY: plain call without pointers.
    let rc = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    done(rc as i32).map(drop)
}

/// `STATX_ATTR_MOUNT_ROOT` (`linux/stat.h`).
const MOUNT_ROOT: u64 = 0x2000;

/// Is this directory the root of a mount?
pub fn is_mount_root(dir: &Path) -> io::Result<bool> {
    let dir = File::open(dir)?;
    let mut st = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty name ends with NUL and the pointer is to writable memory of the right size.
    done(unsafe {
        libc::statx(
            dir.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            0,
            st.as_mut_ptr(),
        )
    })?;
    // SAFETY: zeroed and then filled by the call; every bit pattern is valid.
    let st = unsafe { st.assume_init() };
    Ok(st.stx_attributes_mask & st.stx_attributes & MOUNT_ROOT != 0)
}
