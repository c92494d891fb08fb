//! The system calls that a target never makes.
//!
//! # Why refuse some and not allow some?
//! A list of what is allowed has to know every call of the C library, of the allocator, of tokio, sled
//! and zstd, in every version that will ever be below this program, and on two architectures; what it
//! does not know fails on somebody's machine, in the middle of an operation. What is gained beyond the
//! list here are calls about the process itself and about files, and files are what a target is about.
//! The list names what gives power over the kernel, over other processes, over mounts and the network.
//!
//! `EPERM` and not death, except for foreign architectures: a library that asks and is refused goes on.

use crate::sys::{CallRule, When};

/// `open_tree_attr(2)` (Linux 6.15); the number is the same everywhere.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// Refused whatever the arguments are.
const ALWAYS: [libc::c_long; 62] = [
    // Mounts and roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces.
    libc::SYS_setns,
    libc::SYS_unshare,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Programs. Threads come from clone, below.
    libc::SYS_execve,
    libc::SYS_execveat,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_personality,
    // A second way to make calls, which no filter sees.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keys.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The host: its power, clock, names, swap, accounts.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_vhangup,
    // Files of others, as they are opened.
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // The network: what is needed is bound, and sources come to us. A connection that was accepted
    // cannot be turned into one to somebody else either.
    libc::SYS_connect,
    // Secret memory and shared segments: nobody here has them.
    libc::SYS_memfd_secret,
    libc::SYS_shmat,
    libc::SYS_shmget,
];

/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OWN: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const OWN: &[libc::c_long] = &[];

/// `CLONE_NEW*`; that of time stands only in clone3 and unshare.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `TIOCSTI` and `TIOCLINUX`: typing at the terminal that the process was started from.
const TYPING: [u32; 2] = [0x5412, 0x541c];

fn refuse(number: libc::c_long, when: When) -> CallRule {
    CallRule {
        number,
        when,
        errno: libc::EPERM,
    }
}

fn has(argument: u8, bits: i32) -> When {
    let bits = bits.cast_unsigned();
    When::Is {
        argument,
        mask: bits,
        value: bits,
    }
}

/// Everything that a target's calls are measured by.
pub fn refused_calls() -> Vec<CallRule> {
    let always = ALWAYS.iter().chain(OWN);
    let mut rules: Vec<CallRule> = always.map(|&call| refuse(call, When::Always)).collect();
    let lacks = |argument, bits: i32| When::Is {
        argument,
        mask: bits.cast_unsigned(),
        value: 0,
    };
    let touches = |argument, bits: i32| When::IsNot {
        argument,
        mask: bits.cast_unsigned(),
        value: 0,
    };
    // Threads of this process, in its namespaces, and no children.
    rules.push(refuse(libc::SYS_clone, lacks(0, libc::CLONE_THREAD)));
    rules.push(refuse(libc::SYS_clone, touches(0, NAMESPACES)));
    // Its flags are in memory, where no filter looks: the C library then takes clone.
    rules.push(CallRule {
        number: libc::SYS_clone3,
        when: When::Always,
        errno: libc::ENOSYS,
    });
    // The control socket and the service manager are all that is left to make.
    let unix_only = When::IsNot {
        argument: 0,
        mask: u32::MAX,
        value: libc::AF_UNIX.cast_unsigned(),
    };
    rules.push(refuse(libc::SYS_socket, unix_only));
    for request in TYPING {
        let when = When::Is {
            argument: 1,
            mask: u32::MAX,
            value: request,
        };
        rules.push(refuse(libc::SYS_ioctl, when));
    }
    // Memory is written or run, never both, and nothing that was written is run.
    rules.push(refuse(
        libc::SYS_mmap,
        has(2, libc::PROT_WRITE | libc::PROT_EXEC),
    ));
    rules.push(refuse(libc::SYS_mprotect, has(2, libc::PROT_EXEC)));
    rules.push(refuse(libc::SYS_pkey_mprotect, has(2, libc::PROT_EXEC)));
    rules
}
