//! The handle of a connection: start, look, stop.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::sync::{self, Mutex, Rank};
use crate::sys;
use crate::types::Seq;

use super::error::Error;
use super::events::SenderOptions;
use super::follow;
use super::shared::Shared;
use super::state::SenderState;
use super::wish::Wish;

/// One connection of a source, running. Dropping it stops it.
pub struct Sender {
    shared: Arc<Shared>,
    /// Guards the thread, which is joined once.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sender {
    /// Starts the connection's thread, which connects and sends until [`Sender::stop`]. When this
    /// returns, the journal keeps what the target does not have.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(options: SenderOptions) -> Result<Sender, Error> {
        let id = options.id;
        let shared = Arc::new(Shared::new(options));
        follow::resume(&shared);
        let thread = {
            let shared = Arc::clone(&shared);
            sync::spawn(&format!("dfs-send-{id}"), move || {
                // Programs go first.
                sys::lower_priority();
                follow::run(&shared);
            })
            .map_err(|source| Error::Thread { id, source })?
        };
        Ok(Sender {
            shared,
            thread: Mutex::new(Rank::Leaf, Some(thread)),
        })
    }

    /// The connection at this moment. Never waits for the network.
    pub fn state(&self) -> SenderState {
        self.shared.state()
    }

    /// A number that rises with each change of [`Sender::state`]; wait for it with `changed()`, look
    /// at the state, wait again.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }

    /// Asks the target to make all that is captured by now durable as soon as it is applied; also
    /// when there is no session yet.
    pub fn request_checkpoint(&self) {
        let end = self.shared.options.journal.end();
        self.shared.want_checkpoint(end);
    }

    /// As [`Sender::request_checkpoint`], for what was captured up to `seq`.
    pub fn request_checkpoint_at(&self, seq: Seq) {
        self.shared.want_checkpoint(seq);
    }

    /// Begins a new session with a full mirror, whatever the target stands at: the way out for a
    /// replica that was changed by hand and is held at a record that cannot be applied any more.
    pub fn require_mirror(&self) {
        self.shared.ask_mirror();
    }

    /// From now on nothing more goes out, until [`Sender::set_wish`]: so that a mark which is appended now is
    /// behind everything that has gone.
    pub fn freeze(&self) {
        self.shared.freeze();
    }

    /// What is wanted of the connection.
    pub fn wish(&self) -> Wish {
        self.shared.wish()
    }

    /// Changes what is wanted of the connection, durably. Blocks for as long as the journal's disk takes.
    ///
    /// # Errors
    /// [`Error::Journal`]: it is as before, and frozen no more.
    pub fn set_wish(&self, wish: Wish) -> Result<(), Error> {
        let options = &self.shared.options;
        let (journal, cursor) = (&options.journal, options.cursor());
        let stored = wish.store(options).and_then(|()| {
            let is_kept = self.shared.wish().is_kept();
            match wish.is_kept() {
                true if !is_kept => journal.register(&cursor, journal.end()),
                _ => Ok(()),
            }
        });
        if let Err(source) = stored {
            self.shared.take_wish(self.shared.wish());
            return Err(Error::Journal { source });
        }
        let is_kept = wish.is_kept();
        self.shared.take_wish(wish);
        if !is_kept {
            journal.unregister(&cursor);
            if let Err(error) = journal.trim() {
                tracing::warn!(%error, "journal not trimmed");
            }
        }
        Ok(())
    }

    /// Ends the session and the thread. The cursor stays, so the backlog is kept.
    pub fn stop(&self) {
        self.shared.stop();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic has been reported by the panic hook; the connection is down either way.
            let _ = thread.join();
        }
    }

    /// As [`Sender::stop`], and nothing is held back for this target any more.
    pub fn forget(self) {
        self.stop();
        let options = &self.shared.options;
        options.journal.unregister(&options.cursor());
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop();
    }
}
