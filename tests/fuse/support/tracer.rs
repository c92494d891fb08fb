//! Follows what a worker does for the requests of its mount, system call by system call (ptrace(2)),
//! kills it at one of them, and tells when its successor has come so far.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::settings::patience;
use super::until::until;

/// How many threads of a worker serve requests.
const SERVING: usize = 4;

/// Bytes of `struct fuse_in_header`, and where its `opcode` is.
const HEADER_BYTES: usize = 40;
const OPCODE_AT: u64 = 4;

/// Requests that nobody waits for, and that come whenever they like: `FORGET`, `STATFS`, `RELEASE`,
/// `RELEASEDIR`, `INTERRUPT`, `BATCH_FORGET`. None of them is a point of an operation.
const BY_THE_WAY: [u32; 6] = [2, 17, 18, 29, 36, 42];

/// The notification that has the kernel send requests again: its length (a `struct fuse_out_header`), and
/// what stands in place of an error.
const RESEND_BYTES: u64 = 16;
const RESEND: u32 = 7;
const ERROR_AT: u64 = 4;

/// Part of the path of every table of open directories.
const TABLE: &str = ".live/dirs.";

/// How long nothing may have happened before it is looked again.
const PAUSE: Duration = Duration::from_micros(30);

/// The moment in the life of the next worker at which something is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It is started.
    Started,
    /// The kernel has put the requests that were read and not answered into its queue again, and nobody
    /// has read them there.
    Resent,
    /// It has stopped so often at system calls since it opened the tables of open directories, which it does
    /// before it decides what was left, or has requests sent again: it is killed.
    Dies(usize),
}

/// A system call as the registers of a stopped thread tell it.
struct Call {
    number: u64,
    args: [u64; 3],
    result: i64,
}

#[cfg(target_arch = "x86_64")]
fn call_of(thread: Pid) -> nix::Result<Call> {
    let regs = ptrace::getregs(thread)?;
    Ok(Call {
        number: regs.orig_rax,
        args: [regs.rdi, regs.rsi, regs.rdx],
        result: regs.rax.cast_signed(),
    })
}

#[cfg(target_arch = "aarch64")]
fn call_of(thread: Pid) -> nix::Result<Call> {
    let regs = ptrace::getregs(thread)?;
    Ok(Call {
        number: regs.regs[8],
        args: [regs.regs[0], regs.regs[1], regs.regs[2]],
        result: regs.regs[0].cast_signed(),
    })
}

/// Is it poll(2)?
fn is_poll(call: &Call) -> bool {
    #[cfg(target_arch = "x86_64")]
    let number = libc::SYS_poll;
    #[cfg(not(target_arch = "x86_64"))]
    let number = libc::SYS_ppoll;
    u64::try_from(number) == Ok(call.number)
}

/// A thread that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serving {
    /// It has not come to wait for a request since it is followed.
    Arriving,
    /// It waits for a request, which comes into this place in its memory.
    Waiting(u64),
    /// It serves one; is it one of the operation's?
    Busy(bool),
    /// It has served, and reads the next request when there is one that waits, or when it is called.
    Resting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Serving(Serving),
    Supervisor,
    /// The first thread of the next worker; is it about to have requests sent again?
    Next(bool),
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The stops at system calls while requests of the operation were served.
    pub(crate) points: Vec<String>,
    /// Was the worker killed at one of them?
    pub(crate) killed: bool,
}

/// Threads that are followed. All of it has to be used by one thread.
pub(crate) struct Tracer<'a> {
    worker: Pid,
    threads: BTreeMap<i32, Role>,
    seen: Seen,
    /// 0 where it is not followed.
    supervisor: i32,
    kill_at: Option<usize>,
    /// How often the next worker has stopped since it opened a table.
    stops: Option<usize>,
    opcode: u32,
    on_request: Box<dyn FnMut() + 'a>,
    awaited: Option<(Moment, Box<dyn FnOnce() + 'a>)>,
}

/// The threads of a worker that serve requests.
fn serving(worker: Pid) -> Vec<i32> {
    let tasks = PathBuf::from(format!("/proc/{worker}/task"));
    let listed = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
    let ids = listed.filter_map(|entry| entry.file_name().into_string().ok());
    let serves = |id: &String| {
        let name = std::fs::read_to_string(tasks.join(id).join("comm"));
        name.is_ok_and(|name| name.starts_with("fuser-"))
    };
    ids.filter(serves)
        .map(|id| id.parse().expect("a number"))
        .collect()
}

fn is_device(process: Pid, fd: u64) -> bool {
    let path = std::fs::read_link(format!("/proc/{process}/fd/{fd}"));
    path.is_ok_and(|path| path == Path::new("/dev/fuse"))
}

/// A word in the memory of a process whose thread is stopped.
fn word(process: Pid, address: u64) -> u32 {
    let memory = std::fs::File::open(format!("/proc/{process}/mem"));
    let mut word = [0u8; 4];
    let read = memory.and_then(|memory| memory.read_exact_at(&mut word, address));
    read.expect("read the memory of a worker");
    u32::from_ne_bytes(word)
}

/// A text in the memory of a process whose thread is stopped: a path, or most of one.
fn text(process: Pid, address: u64) -> String {
    let memory = std::fs::File::open(format!("/proc/{process}/mem"));
    let mut bytes = [0u8; 512];
    let read = memory.and_then(|memory| memory.read_at(&mut bytes, address));
    let bytes = &bytes[..read.expect("read the memory of a worker")];
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Whoever is to be told something may have been killed a moment ago.
fn told(done: nix::Result<()>, what: &str) {
    match done {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{what}: {error}"),
    }
}

/// May this process follow others here?
pub(crate) fn may_trace() -> bool {
    let child = std::process::Command::new("sleep").arg("100").spawn();
    let mut child = child.expect("start sleep");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let seized = ptrace::seize(pid, Options::empty());
    let _ = child.kill();
    let _ = child.wait();
    seized.is_ok()
}

impl<'a> Tracer<'a> {
    /// Follows a worker. Returns when all of its threads wait for requests.
    pub(crate) fn attach(worker: i32) -> Tracer<'a> {
        let worker = Pid::from_raw(worker);
        until("the worker's threads to serve", || {
            serving(worker).len() == SERVING
        });
        let mut tracer = Tracer {
            worker,
            threads: BTreeMap::new(),
            seen: Seen {
                points: Vec::new(),
                killed: false,
            },
            supervisor: 0,
            kill_at: None,
            stops: None,
            opcode: 0,
            on_request: Box::new(|| {}),
            awaited: None,
        };
        for thread in serving(worker) {
            let pid = Pid::from_raw(thread);
            ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD).expect("follow a thread");
            let role = Role::Serving(Serving::Arriving);
            tracer.threads.insert(thread, role);
            ptrace::interrupt(pid).expect("interrupt a thread");
        }
        tracer.follow("the worker's threads to wait", Tracer::all_wait);
        tracer
    }

    /// Kills the worker at this one of the points.
    pub(crate) fn kill_at(mut self, point: usize) -> Self {
        self.kill_at = Some(point);
        self
    }

    /// Does this whenever a request of the operation was read, before the worker does anything for it.
    pub(crate) fn on_request(mut self, act: impl FnMut() + 'a) -> Self {
        self.on_request = Box::new(act);
        self
    }

    /// Follows the supervisor, too, and does this at a moment of the next worker, which rests meanwhile.
    pub(crate) fn at_next(
        mut self,
        supervisor: i32,
        moment: Moment,
        act: impl FnOnce() + 'a,
    ) -> Self {
        let starts = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE;
        let pid = Pid::from_raw(supervisor);
        ptrace::seize(pid, starts).expect("follow the supervisor");
        self.threads.insert(supervisor, Role::Supervisor);
        self.supervisor = supervisor;
        self.awaited = Some((moment, Box::new(act)));
        self
    }

    /// Follows until the worker is dead - and the next one has come to its moment, where one is awaited -
    /// or the operation is done.
    pub(crate) fn run(mut self, is_done: impl Fn() -> bool) -> Seen {
        let supervisor = self.supervisor;
        self.follow("the operation or the worker to end", |tracer| {
            if tracer.seen.killed {
                tracer.awaited.is_none() && tracer.threads.keys().all(|id| *id == supervisor)
            } else {
                tracer.all_wait() && is_done()
            }
        });
        for thread in std::mem::take(&mut self.threads).into_keys() {
            let_alone(thread);
        }
        self.seen
    }

    fn serving(&self) -> impl Iterator<Item = Serving> {
        self.threads.values().filter_map(|role| match role {
            Role::Serving(state) => Some(*state),
            Role::Supervisor | Role::Next(_) => None,
        })
    }

    fn all_wait(&self) -> bool {
        let reads = |state| matches!(state, Serving::Waiting(_));
        self.serving().any(reads)
            && self
                .serving()
                .all(|state| reads(state) || state == Serving::Resting)
    }

    fn follow(&mut self, what: &str, is_over: impl Fn(&Tracer<'a>) -> bool) {
        let mut since = Instant::now();
        while !is_over(self) {
            let threads: Vec<i32> = self.threads.keys().copied().collect();
            let stopped = threads.into_iter().filter(|thread| self.look_at(*thread));
            if stopped.count() > 0 {
                since = Instant::now();
                continue;
            }
            assert!(
                since.elapsed() < patience(),
                "no end of waiting for: {what}; {:?}, {:?}",
                self.threads,
                self.seen
            );
            // Not a synchronisation: this only spares the processor.
            std::thread::sleep(PAUSE);
        }
    }

    /// Did it stop? It goes on then.
    fn look_at(&mut self, thread: i32) -> bool {
        let pid = Pid::from_raw(thread);
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(WaitStatus::PtraceSyscall(_)) => match self.at_call(thread) {
                Ok(true) => self.resume(thread, None),
                Ok(false) | Err(Errno::ESRCH) => {}
                Err(error) => panic!("look at a stopped thread: {error}"),
            },
            Ok(WaitStatus::PtraceEvent(_, _, event)) => self.at_event(thread, event),
            Ok(WaitStatus::Stopped(_, signal)) => self.resume(thread, Some(signal)),
            Ok(_) | Err(Errno::ECHILD) => drop(self.threads.remove(&thread)),
            Err(error) => panic!("wait for a thread: {error}"),
        }
        true
    }

    fn resume(&self, thread: i32, signal: Option<Signal>) {
        let pid = Pid::from_raw(thread);
        let resumed = match self.threads.get(&thread) {
            Some(Role::Supervisor) => ptrace::cont(pid, signal),
            Some(_) => ptrace::syscall(pid, signal),
            None => ptrace::detach(pid, signal),
        };
        told(resumed, "let a thread go on");
    }

    fn at_event(&mut self, thread: i32, event: i32) {
        let pid = Pid::from_raw(thread);
        match self.threads.get(&thread) {
            Some(Role::Supervisor) if event != libc::PTRACE_EVENT_STOP => {
                let child = ptrace::getevent(pid).expect("the process that was started");
                let child = i32::try_from(child).expect("a process id");
                self.threads.insert(child, Role::Next(false));
            }
            Some(Role::Next(_)) => {
                // It was followed as the supervisor is; what it starts itself does not matter.
                let options = Options::PTRACE_O_TRACESYSGOOD;
                told(ptrace::setoptions(pid, options), "set the options");
                self.arrived(thread, |moment| moment == Moment::Started);
            }
            _ => {}
        }
        self.resume(thread, None);
    }

    /// The next worker has come to a moment: is it the one that was waited for? False where it dies.
    fn arrived(&mut self, thread: i32, is_it: impl Fn(Moment) -> bool) -> bool {
        let Some((moment, act)) = self.awaited.take_if(|(moment, _)| is_it(*moment)) else {
            return true;
        };
        if let Moment::Dies(_) = moment {
            // The worker after it is none of ours.
            self.threads.remove(&self.supervisor);
            let_alone(self.supervisor);
            kill(Pid::from_raw(thread), Signal::SIGKILL).expect("kill the next worker");
            act();
            return false;
        }
        act();
        // It is let alone, not only resumed.
        self.threads.remove(&thread);
        true
    }

    /// True where it is to go on.
    fn at_call(&mut self, thread: i32) -> nix::Result<bool> {
        let pid = Pid::from_raw(thread);
        let is_entry = ptrace::syscall_info(pid)?.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
        let call = call_of(pid)?;
        let [fd, address, length] = call.args;
        let is_call = |number: libc::c_long| u64::try_from(number) == Ok(call.number);
        match self.threads.get(&thread).copied() {
            Some(Role::Serving(state)) => {
                let reads = is_call(libc::SYS_read) && is_entry && is_device(self.worker, fd);
                // A thread that has served looks whether there is another request.
                let looks = is_entry && is_poll(&call) && {
                    let looked_at = word(self.worker, call.args[0]);
                    is_device(self.worker, looked_at.into())
                };
                let sleeps = is_entry && is_call(libc::SYS_futex);
                let (next, point) = match (state, is_entry) {
                    (Serving::Waiting(buffer), false) => self.read_request(buffer, call.result),
                    (Serving::Busy(true), _) if reads => (Serving::Waiting(address), true),
                    (_, _) if reads => (Serving::Waiting(address), false),
                    (Serving::Busy(of_operation), _) if looks => (Serving::Resting, of_operation),
                    (Serving::Arriving, _) if looks || sleeps => (Serving::Resting, false),
                    (state, _) => (state, state == Serving::Busy(true)),
                };
                self.threads.insert(thread, Role::Serving(next));
                return Ok(!point || self.pass(is_entry, &call));
            }
            Some(Role::Next(_)) if self.awaited.is_none() => return Ok(true),
            Some(Role::Next(resends)) => {
                let opens = is_entry && is_call(libc::SYS_openat);
                self.stops = match opens && text(pid, address).contains(TABLE) {
                    true => Some(0),
                    false => self.stops.map(|stops| stops + 1),
                };
                let stops = self.stops;
                let resent = resends && !is_entry;
                let resends = resends
                    || is_entry
                        && is_call(libc::SYS_write)
                        && length == RESEND_BYTES
                        && is_device(pid, fd)
                        && word(pid, address + ERROR_AT) == RESEND;
                self.threads.insert(thread, Role::Next(resends));
                return Ok(self.arrived(thread, |moment| match moment {
                    Moment::Started => false,
                    Moment::Resent => resent,
                    Moment::Dies(after) => resent || stops.is_some_and(|stops| stops >= after),
                }));
            }
            Some(Role::Supervisor) | None => {}
        }
        Ok(true)
    }

    /// A thread has read from the kernel.
    fn read_request(&mut self, buffer: u64, result: i64) -> (Serving, bool) {
        if usize::try_from(result).is_ok_and(|bytes| bytes >= HEADER_BYTES) {
            self.opcode = word(self.worker, buffer + OPCODE_AT);
            let counts = !BY_THE_WAY.contains(&self.opcode);
            if counts {
                (self.on_request)();
            }
            return (Serving::Busy(counts), counts);
        }
        // It was interrupted and asks again.
        (Serving::Arriving, false)
    }

    /// A point of the operation; false where the worker is killed at it.
    fn pass(&mut self, is_entry: bool, call: &Call) -> bool {
        let side = if is_entry { "before" } else { "after" };
        let (opcode, number) = (self.opcode, call.number);
        let number_of_point = self.seen.points.len();
        let text = format!("{number_of_point}: request {opcode}, {side} system call {number}");
        self.seen.points.push(text);
        if self.kill_at != Some(number_of_point) {
            return true;
        }
        self.seen.killed = true;
        kill(self.worker, Signal::SIGKILL).expect("kill the worker");
        false
    }
}

/// A thread that was followed goes on alone.
fn let_alone(thread: i32) {
    let pid = Pid::from_raw(thread);
    told(ptrace::interrupt(pid), "interrupt a thread");
    until("a thread to stop", || {
        match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => false,
            Ok(WaitStatus::Stopped(_, signal)) => {
                told(ptrace::detach(pid, signal), "let a thread alone");
                true
            }
            Ok(WaitStatus::PtraceSyscall(_) | WaitStatus::PtraceEvent(..)) => {
                told(ptrace::detach(pid, None), "let a thread alone");
                true
            }
            Ok(_) | Err(Errno::ECHILD) => true,
            Err(error) => panic!("wait for a thread: {error}"),
        }
    });
}
