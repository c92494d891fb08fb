//! Goal: the target that runs, and not only a process like it, is refused what it is to be refused.
//! Method: its main thread is stopped where it waits and made to make the calls (ptrace(2)); the same is
//! done to a target without confinement.

use std::io::IoSlice;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::confine_child::is_ready;
use crate::confine_target::Serving;
use crate::scratch::Scratch;

/// A thread that is stopped in a system call.
struct Stopped {
    thread: Pid,
    /// With these it makes the call anew in which it was stopped.
    anew: libc::user_regs_struct,
}

/// Bytes of the instruction `syscall`.
const INSTRUCTION: u64 = 2;
/// How long it may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Below the stack's end and what may be used below it.
const FREE_STACK: u64 = 4096;

impl Stopped {
    /// Stops it where it waits: in a call, and nowhere between two.
    fn at(thread: Pid) -> Stopped {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
            let mut anew = ptrace::getregs(thread).unwrap();
            let waits = [libc::SYS_futex, libc::SYS_epoll_wait];
            if waits.contains(&anew.orig_rax.cast_signed()) {
                anew.rip -= INSTRUCTION;
                anew.rax = anew.orig_rax;
                anew.orig_rax = u64::MAX;
                return Stopped { thread, anew };
            }
            ptrace::detach(thread, None).unwrap();
            assert!(Instant::now() < deadline, "it never waits: {anew:?}");
            std::thread::yield_now();
        }
    }

    /// Makes it make a call.
    fn call(&self, number: libc::c_long, args: [u64; 3]) -> Result<i64, Errno> {
        let mut regs = self.anew;
        regs.rax = number.cast_unsigned();
        [regs.rdi, regs.rsi, regs.rdx] = args;
        ptrace::setregs(self.thread, regs).unwrap();
        ptrace::step(self.thread, None).unwrap();
        waitpid(self.thread, Some(WaitPidFlag::__WALL)).unwrap();
        let result = ptrace::getregs(self.thread).unwrap().rax.cast_signed();
        match result {
            -4095..0 => Err(Errno::from_raw(i32::try_from(-result).unwrap())),
            _ => Ok(result),
        }
    }

    /// Bytes where the thread can read them.
    fn lend(&self, bytes: &[u8]) -> u64 {
        let at = self.anew.rsp - FREE_STACK;
        let base = usize::try_from(at).unwrap();
        let len = bytes.len();
        let there = [RemoteIoVec { base, len }];
        process_vm_writev(self.thread, &[IoSlice::new(bytes)], &there).unwrap();
        at
    }

    /// Can it reach this port?
    fn connect(&self, port: u16) -> Result<i64, Errno> {
        let (inet, stream) = (2, 1);
        let socket = self
            .call(libc::SYS_socket, [inet, stream, 0])?
            .cast_unsigned();
        let mut address = vec![2, 0];
        address.extend(port.to_be_bytes());
        address.extend([127, 0, 0, 1]);
        address.resize(16, 0);
        let address = self.lend(&address);
        let connected = self.call(libc::SYS_connect, [socket, address, 16]);
        self.call(libc::SYS_close, [socket, 0, 0])?;
        connected
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.thread, self.anew);
        let _ = ptrace::detach(self.thread, None);
    }
}

#[test]
fn a_target_that_serves_is_refused_what_it_gave_up() {
    let test = "a_target_that_serves_is_refused_what_it_gave_up";
    if !is_ready(test) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let nowhere = u64::MAX;
    let bad = [nowhere, nowhere, nowhere];
    let parent = u64::from(std::process::id());
    for (wish, mount, packet, connect, signal) in [
        ("no", Err(Errno::EFAULT), Ok(()), Ok(0), Ok(0)),
        (
            "landlock",
            Err(Errno::EFAULT),
            Ok(()),
            Err(Errno::EACCES),
            Err(Errno::EPERM),
        ),
        (
            "auto",
            Err(Errno::EPERM),
            Err(Errno::EPERM),
            Err(Errno::EPERM),
            Err(Errno::EPERM),
        ),
    ] {
        let scratch = Scratch::new("confine-traced");
        let target = Serving::start(&scratch, Some(wish));
        let thread = Stopped::at(Pid::from_raw(target.pid().cast_signed()));
        assert!(thread.call(libc::SYS_getpid, [0; 3]).is_ok());
        assert_eq!(thread.call(libc::SYS_mount, bad), mount, "{wish}");
        let raw = thread.call(libc::SYS_socket, [17, 3, 0]);
        assert_eq!(raw.map(drop), packet, "{wish}");
        assert_eq!(thread.connect(port), connect, "{wish}");
        assert_eq!(
            thread.call(libc::SYS_kill, [parent, 0, 0]),
            signal,
            "{wish}"
        );
        drop(thread);
        target.end();
    }
}
