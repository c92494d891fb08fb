//! Being told to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears SIGTERM and SIGINT, which do not end the process any more from [`EndSignal::listen`] on.
#[derive(Debug)]
pub struct EndSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignal {
    /// Begins to listen; needs a runtime with I/O around it. Do this before saying that you serve.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub fn listen() -> std::io::Result<EndSignal> {
        Ok(EndSignal {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them and returns its name.
    pub async fn heard(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
