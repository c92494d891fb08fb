//! Looking at how things are, again and again, for those who want to be told.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::alerts::{Alert, Alerts, Kind, SetWatch, TargetWatch};
use crate::control::status::TargetStatus;
use crate::sync;

use super::source::Source;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A thread that looks, until it is dropped.
pub(super) struct Observing {
    /// Dropped, it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Observing {
    fn start(
        alerts: Alerts,
        mut look: impl FnMut(Instant) -> Vec<Alert> + Send + 'static,
    ) -> std::io::Result<Observing> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = sync::spawn("dfs-observe", move || {
            loop {
                for alert in look(Instant::now()) {
                    alerts.raise(alert);
                }
                match stopped.recv_timeout(LOOK_EVERY) {
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Observing {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Looks at a set.
    pub(super) fn set(source: &Arc<Source>, alerts: Alerts) -> std::io::Result<Observing> {
        let source = Arc::clone(source);
        let percent = u8::try_from(source.options.queue_alert_percent).unwrap_or(100);
        let mut watch = SetWatch::new(percent);
        let mut told = Told::default();
        Observing::start(alerts, move |now| {
            let status = source.status();
            let mut all = told.look(&source);
            all.extend(watch.look(&status, now));
            all
        })
    }

    /// Looks at a target.
    pub(super) fn target(
        status: impl Fn() -> TargetStatus + Send + 'static,
        alerts: Alerts,
    ) -> std::io::Result<Observing> {
        let mut watch = TargetWatch::default();
        Observing::start(alerts, move |now| watch.look(&status(), now))
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// What is told once for each worker.
#[derive(Debug, Default)]
struct Told {
    doubt: bool,
    supervisor: bool,
    below: bool,
}

impl Told {
    fn look(&mut self, source: &Source) -> Vec<Alert> {
        let set = source.options.set.as_str();
        let mut alerts = Vec::new();
        if source.suspects > 0 && !std::mem::replace(&mut self.doubt, true) {
            let text = format!("{} files and directories", source.suspects);
            alerts.push(Alert::new(Kind::FilesInDoubt, set, &text));
        }
        if let Some(pid) = source.lost_supervisor()
            && !std::mem::replace(&mut self.supervisor, true)
        {
            let text = format!("process {pid}");
            alerts.push(Alert::new(Kind::SupervisorLost, set, &text));
        }
        if let Some(why) = source.below.trouble()
            && !std::mem::replace(&mut self.below, true)
        {
            let text = format!("{}: {why}", source.options.dir.display());
            alerts.push(Alert::new(Kind::BelowFailing, set, &text));
        }
        alerts
    }
}
