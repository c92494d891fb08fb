//! The handle of a connection: start, look, stop.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::sync;

use super::error::Error;
use super::events::SenderOptions;
use super::follow;
use super::shared::Shared;
use super::state::SenderState;

/// One connection of a source, running. Dropping it stops it.
pub struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
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
            sync::spawn(&format!("dfs-send-{id}"), move || follow::run(&shared))
                .map_err(|source| Error::Thread { id, source })?
        };
        Ok(Sender {
            shared,
            thread: Some(thread),
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

    /// Begins a new session with a full mirror, whatever the target stands at: the way out for a
    /// replica that was changed by hand and is held at a record that cannot be applied any more.
    pub fn require_mirror(&self) {
        self.shared.ask_mirror();
    }

    /// Ends the session and the thread. The cursor stays, so the backlog is kept.
    pub fn stop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook; the connection is down either way.
            let _ = thread.join();
        }
    }

    /// As [`Sender::stop`], and nothing is held back for this target any more.
    pub fn forget(mut self) {
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
