//! Pausing replicas: what came in is kept and not applied.

use std::path::Path;
use std::sync::Arc;

use tracing::info;

use super::error::Error;
use super::registry::Pause;
use super::stream::Stream;
use super::target::Target;

impl Target {
    /// Pauses the replica at `path`, below the root or absolute, or all there are: each stands still as soon as it
    /// is what its source was at one moment, or, with `now`, after the operation under way. It stays so over
    /// restarts. Returns their paths. Blocks.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::State`].
    pub fn pause(&self, path: Option<&str>, now: bool) -> Result<Vec<String>, Error> {
        let wish = match now {
            true => Pause::Now,
            false => Pause::WhenWhole,
        };
        self.change_pauses(path, |pause| match pause {
            // One that waits for its moment can be told not to.
            Some(Pause::WhenWhole) | None => Some(wish),
            Some(Pause::Now | Pause::Held) => pause,
        })
    }

    /// Ends a pause of the replica at `path`, or of all: what came meanwhile is applied, and only that. Returns
    /// their paths. Blocks.
    ///
    /// # Errors
    /// As [`Target::pause`].
    pub fn resume(&self, path: Option<&str>) -> Result<Vec<String>, Error> {
        self.change_pauses(path, |_| None)
    }

    fn change_pauses(
        &self,
        path: Option<&str>,
        change: impl Fn(Option<Pause>) -> Option<Pause>,
    ) -> Result<Vec<String>, Error> {
        let root = &self.shared.options.root;
        let wanted = path.map(|path| {
            let below = Path::new(path).strip_prefix(root).ok();
            let below = below.unwrap_or(Path::new(path)).to_string_lossy();
            below.trim_matches('/').to_owned()
        });
        let streams: Vec<Arc<Stream>> = {
            let streams = self.shared.streams.lock();
            streams.values().map(Arc::clone).collect()
        };
        let mut changed = Vec::new();
        for stream in streams {
            let record = stream.record();
            if wanted.as_ref().is_some_and(|path| *path != record.path) {
                continue;
            }
            stream.change_pause(&change)?;
            info!(stream = stream.number, path = record.path, pause = ?stream.record().pause, "pause changed");
            changed.push(record.path);
        }
        match (wanted, changed.is_empty()) {
            (Some(path), true) => Err(Error::NoReplica { path }),
            _ => Ok(changed),
        }
    }
}
