//! Telling whoever waits that we serve.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::sync::{Mutex, Rank};
use crate::sys;

/// Who waits for our readiness.
#[derive(Debug)]
enum Waiting {
    /// A parent, at the other end of a pipe.
    Parent(File),
    /// Somebody who reads our output.
    Reader,
    /// Nobody, or nobody any more.
    Nobody,
}

/// A handle to say "I serve" with, once. Clones share the saying.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Guards who waits; a short write to a pipe happens under it. Rank `Leaf`.
    waiting: Arc<Mutex<Waiting>>,
}

impl Ready {
    fn of(waiting: Waiting) -> Ready {
        Ready {
            waiting: Arc::new(Mutex::new(Rank::Leaf, waiting)),
        }
    }

    /// For the foreground: the line goes to standard output.
    pub fn on_stdout() -> Ready {
        Ready::of(Waiting::Reader)
    }

    /// For tests and embedding: nobody is told.
    pub fn silent() -> Ready {
        Ready::of(Waiting::Nobody)
    }

    /// For a worker in the background: its standard input is the pipe at which a parent waits.
    ///
    /// # Errors
    /// There is no standard input.
    pub fn on_stdin() -> std::io::Result<Ready> {
        let pipe = File::from(sys::take_stdin()?);
        Ok(Ready::of(Waiting::Parent(pipe)))
    }

    /// Whoever waits for us is to wait for another process: what its standard input is to be. `None`
    /// where nobody waits at a pipe.
    pub fn hand_over(&self) -> Option<std::os::fd::OwnedFd> {
        let mut waiting = self.waiting.lock();
        match std::mem::replace(&mut *waiting, Waiting::Nobody) {
            Waiting::Parent(pipe) => Some(pipe.into()),
            other => {
                *waiting = other;
                None
            }
        }
    }

    /// We serve; `line` is what people read about it. The service manager is told in any case. Only
    /// the first call says something.
    pub fn serving(&self, line: &str) {
        let mut waiting = self.waiting.lock();
        match std::mem::replace(&mut *waiting, Waiting::Nobody) {
            Waiting::Parent(mut pipe) => {
                // A parent that has gone does not wait any more.
                let _ = pipe.write_all(format!("ready {line}\n").as_bytes());
            }
            Waiting::Reader => {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            }
            Waiting::Nobody => {}
        }
        drop(waiting);
        sys::ready_notify(&format!("READY=1\nSTATUS={line}"));
    }

    /// We do not serve and end; a waiting parent gets the text and prints it. Returns false when
    /// nobody was told, so that the caller prints it.
    pub fn refuse(&self, text: &str) -> bool {
        let mut waiting = self.waiting.lock();
        match std::mem::replace(&mut *waiting, Waiting::Nobody) {
            Waiting::Parent(mut pipe) => pipe
                .write_all(format!("refused {text}\n").as_bytes())
                .is_ok(),
            Waiting::Reader | Waiting::Nobody => false,
        }
    }
}
