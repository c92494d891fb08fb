//! Files are read into memory before their turn comes.
//!
//! One thread images one file after the other, and a file that is not in memory costs it two waits for the disk: for
//! the inode and for the content. Disks answer many requests at a time, so some threads look at the files that come
//! next. Only while files are found to be cold: what is in memory needs nobody to look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::capture::Capture;
use crate::sync::{self, Mutex, Rank};
use crate::types::FileId;

/// Files looked at before their turn, at most.
pub(super) const AHEAD_MAX: usize = 256;

/// After a file that was cold, so many are looked at.
const AFTER_A_COLD_ONE: usize = 2 * AHEAD_MAX;

/// How many read at a time.
const THREADS: usize = 4;

/// The threads that read ahead; none before the first cold file.
pub(super) struct Ahead {
    capture: Arc<Capture>,
    files: Option<mpsc::Sender<FileId>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Cold files so far.
    cold: u64,
    /// So many more are to be looked at.
    due: usize,
}

impl Ahead {
    pub(super) fn new(capture: Arc<Capture>) -> Ahead {
        Ahead {
            cold: capture.cold_images(),
            capture,
            files: None,
            is_over: Arc::default(),
            threads: Vec::new(),
            due: 0,
        }
    }

    /// Another file was imaged: was it cold?
    pub(super) fn note_image(&mut self) {
        let cold = self.capture.cold_images();
        if cold != self.cold {
            self.cold = cold;
            self.due = AFTER_A_COLD_ONE;
        }
    }

    /// Are files to be looked at?
    pub(super) fn is_due(&self) -> bool {
        self.due > 0
    }

    /// Has a file read. It may be looked at when its turn has come, or never: that costs time and nothing else.
    pub(super) fn read(&mut self, id: FileId) {
        self.due -= 1;
        if self.files.is_none() {
            self.start();
        }
        // Threads that could not be had look at nothing.
        let _ = self.files.as_ref().map(|files| files.send(id));
    }

    fn start(&mut self) {
        let (files, inbox) = mpsc::channel();
        let inbox = Arc::new(Mutex::new(Rank::Leaf, inbox));
        for _ in 0..THREADS {
            let (capture, inbox) = (Arc::clone(&self.capture), Arc::clone(&inbox));
            let is_over = Arc::clone(&self.is_over);
            match sync::spawn("dfs-ahead", move || read_all(&capture, &inbox, &is_over)) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => tracing::warn!(%error, "files are read one at a time"),
            }
        }
        self.files = Some(files);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.files = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads ahead panicked");
            }
        }
    }
}

fn read_all(capture: &Capture, inbox: &Mutex<mpsc::Receiver<FileId>>, is_over: &AtomicBool) {
    loop {
        let next = inbox.lock().recv();
        let Ok(id) = next else { return };
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = capture.read_ahead(id) {
            // Who images it finds out, too.
            tracing::debug!(%error, %id, "not read ahead");
        }
    }
}
