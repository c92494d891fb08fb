//! Who of the threads that serve reads the next request.
//!
//! The kernel wakes a thread for each request, a wake-up costs more than most requests do, and with several
//! threads in read(2) each request finds another one, whose caches are cold. So one thread reads, and looks for
//! the next request for a moment before it sleeps in the kernel (a program that makes one call after the other
//! comes back sooner than that); the others are parked. More of them read as soon as there are requests that
//! wait and come from several callers, and when a request takes long: where that is known before
//! ([`Crew::will_wait`]) at once, else a parked thread, which looks at the clock, notices. A single caller that is
//! quicker than a thread at the end of its request gains nothing by a second one: each would take turns with the
//! other, for the price of a wake-up.
//!
//! # Invariants
//! * While somebody is parked and nobody reads, somebody looks at the clock.
//! * Somebody is parked only while a thread reads or serves that says so when it ends: then all go.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard, Rank};
use crate::sys;

/// For so long a thread looks for the next request before it sleeps.
const LOOK_NS: u64 = 50_000;
/// After so many looks in vain only some are made.
const VAIN_LOOKS: u32 = 8;
/// Of so many, then, one.
const RARE_LOOKS: u64 = 32;
/// So many requests after the last one of another caller there is but one.
const ALONE: u32 = 16;
/// A request that takes longer is not waited for.
const LONG: Duration = Duration::from_millis(1);

/// The threads of one mount.
#[derive(Debug)]
pub(super) struct Crew {
    /// The connection to the kernel, to see whether a request waits; without it nobody looks.
    device: OnceLock<OwnedFd>,
    state: Mutex<State>,
    called: Condvar,
    vain_looks: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    /// Threads that read, or look whether they should.
    readers: usize,
    parked: usize,
    /// So many of the parked are to read.
    calls: usize,
    /// Requests begun.
    begun: u64,
    /// Who asked last, and how many requests may come until it is taken for the only one that asks.
    caller: u32,
    others: u32,
    /// Somebody parked looks at the clock, and whether nothing happened so long that it sleeps.
    is_watched: bool,
    watch_sleeps: bool,
    /// The connection has ended.
    is_over: bool,
}

thread_local! {
    static MEMBER: RefCell<Option<Member>> = const { RefCell::new(None) };
}

/// A thread that has served; dropped when it ends, which it does when the connection has ended.
struct Member(Arc<Crew>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.state.lock().is_over = true;
        self.0.called.notify_all();
    }
}

/// A request without an answer that is being served.
pub(super) struct Serving<'a>(&'a Crew);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().readers += 1;
    }
}

impl Crew {
    /// Nobody has served yet.
    pub(super) fn new() -> Crew {
        Crew {
            device: OnceLock::new(),
            state: Mutex::new(Rank::Leaf, State::default()),
            called: Condvar::new(),
            vain_looks: AtomicU32::new(0),
        }
    }

    /// From now on the connection is looked at.
    pub(super) fn connect(&self, device: OwnedFd) {
        // With one processor only, whoever looks keeps the program from going on.
        if std::thread::available_parallelism().is_ok_and(|count| count.get() > 1) {
            let _ = self.device.set(device);
        }
    }

    /// The calling thread has read a request of this thread id, which is 0 for those of other namespaces; none: one
    /// of the kernel's own, such as the end of an open file.
    pub(super) fn begin(self: &Arc<Crew>, caller: Option<u32>) {
        let is_new = self.join();
        let mut state = self.state.lock();
        state.begun += 1;
        match caller {
            Some(caller) if caller == 0 || caller != state.caller => {
                state.others = ALONE;
                state.caller = caller;
            }
            Some(_) => state.others = state.others.saturating_sub(1),
            None => {}
        }
        self.stop_reading(state, is_new);
    }

    /// Makes the calling thread a member; false when it was one.
    fn join(self: &Arc<Crew>) -> bool {
        MEMBER.with_borrow_mut(|member| {
            let is_new = member.is_none();
            member.get_or_insert_with(|| Member(Arc::clone(self)));
            is_new
        })
    }

    fn stop_reading(&self, mut state: MutexGuard<'_, State>, is_new: bool) {
        if !is_new {
            state.readers = state.readers.saturating_sub(1);
        }
        if state.readers == 0 && state.watch_sleeps {
            state.watch_sleeps = false;
            drop(state);
            self.called.notify_all();
        }
    }

    /// The calling thread has read a request without an answer, and reads on when what is returned is dropped. The
    /// kernel sends many of them in one: they are no sign that requests are short.
    pub(super) fn serve(self: &Arc<Crew>) -> Serving<'_> {
        let is_new = self.join();
        self.stop_reading(self.state.lock(), is_new);
        Serving(self)
    }

    /// More requests of the same caller come before this one is answered.
    pub(super) fn is_one_of_many(&self) {
        self.state.lock().others = ALONE;
    }

    /// The request of the calling thread is going to wait for a disk. A caller who is the only one waits, too.
    pub(super) fn will_wait(&self) {
        let mut state = self.state.lock();
        if state.readers == 0 && state.others > 0 {
            self.call_one(&mut state);
        }
    }

    /// The request of the calling thread is answered, and much is left to do for it.
    pub(super) fn has_much_left(&self) {
        let mut state = self.state.lock();
        if state.readers == 0 {
            self.call_one(&mut state);
        }
    }

    fn call_one(&self, state: &mut State) {
        if state.parked > state.calls {
            state.calls += 1;
            self.called.notify_one();
        }
    }

    /// The calling thread has answered its request. Returns when it is to read the next one.
    pub(super) fn rest(&self) {
        let mut state = self.state.lock();
        if state.readers > 0 && !state.is_over && (state.others == 0 || !self.has_request()) {
            return self.park(state);
        }
        state.readers += 1;
        let (is_only, begun, others) = (state.readers == 1, state.begun, state.others);
        drop(state);
        if !is_only {
            return;
        }
        if self.has_request() {
            if others > 0 {
                // It came while nobody read: one thread is not enough.
                self.call_one(&mut self.state.lock());
            }
            return;
        }
        self.look(begun);
    }

    fn has_request(&self) -> bool {
        let device = self.device.get();
        device.is_some_and(|device| {
            sys::poll_readable(device.as_fd(), Duration::ZERO).unwrap_or(true)
        })
    }

    /// Looks for a request for a moment.
    fn look(&self, begun: u64) {
        let in_vain = self.vain_looks.load(Ordering::Relaxed);
        if self.device.get().is_none() || in_vain >= VAIN_LOOKS && !begun.is_multiple_of(RARE_LOOKS)
        {
            return;
        }
        let until = sys::monotonic_ns() + LOOK_NS;
        while sys::monotonic_ns() < until {
            if self.has_request() {
                self.vain_looks.store(0, Ordering::Relaxed);
                return;
            }
        }
        self.vain_looks
            .store(in_vain.saturating_add(1), Ordering::Relaxed);
    }

    fn park(&self, mut state: MutexGuard<'_, State>) {
        state.parked += 1;
        while state.calls == 0 && !state.is_over {
            if state.is_watched {
                self.called.wait(&mut state);
                continue;
            }
            state.is_watched = true;
            let takes_long = self.watch(&mut state);
            state.is_watched = false;
            if takes_long {
                state.calls += 1;
            }
        }
        state.calls = state.calls.saturating_sub(1);
        state.parked -= 1;
        state.readers += 1;
        if state.parked > 0 && !state.is_watched {
            // Somebody else looks at the clock from now on.
            self.called.notify_one();
        }
    }

    /// Looks at the clock until there is something to do: true when a request takes long and nobody reads.
    fn watch(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let mut begun = state.begun;
        while state.calls == 0 && !state.is_over {
            if self.called.wait_for(state, LONG) {
                continue;
            }
            if state.begun != begun {
                begun = state.begun;
            } else if state.readers == 0 {
                return true;
            } else {
                state.watch_sleeps = true;
                while state.watch_sleeps && state.calls == 0 && !state.is_over {
                    self.called.wait(state);
                }
                state.watch_sleeps = false;
            }
        }
        false
    }
}
