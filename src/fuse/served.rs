//! A request from before its first effect until after its answer, for the worker that comes after this
//! one; and the answers to requests that an earlier worker had carried out.

use fuser::{FileHandle, FopenFlags, Generation, ReplyCreate, ReplyEntry, Request};

use crate::capture::{Call, Capture, Created, OpenMode};
use crate::live::{Answer, Flight};
use crate::passthrough::Error;
use crate::sys::FileStat;
use crate::types::FileId;

use super::adapter::Adapter;
use super::crew::Crew;
use super::reply::{self, TTL};

/// A request that is being served; over when it is dropped, after the reply.
pub(super) struct Served<'a> {
    flight: &'a Flight,
    crew: &'a Crew,
    /// What it is to be answered with, without being served.
    pub(super) answer: Option<Answer>,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was intended is for the next worker, and this thread does not wait for anything any more.
            return;
        }
        self.flight.end();
        self.crew.rest();
    }
}

impl Adapter {
    /// Begins to serve a request. What an earlier worker counted and opened for its answer is taken back:
    /// the kernel has not heard of it.
    pub(super) fn begin(&self, req: &Request) -> Served<'_> {
        self.begin_of(req, Some(req.pid()))
    }

    /// As [`Adapter::begin`], for a request that the kernel makes of its own.
    pub(super) fn begin_own(&self, req: &Request) -> Served<'_> {
        self.begin_of(req, None)
    }

    fn begin_of(&self, req: &Request, caller: Option<u32>) -> Served<'_> {
        self.crew.begin(caller);
        let flight = &**self.capture.live().flight();
        let left = flight.begin(req.unique().0);
        let answer = left.as_ref().and_then(|left| left.answer);
        if let Some(left) = left {
            for node in left.nodes {
                self.forget_node(node, 1);
            }
            for (number, handles) in [(left.file, true), (left.dir, false)] {
                let gone = match (number, handles) {
                    (0, _) => None,
                    (number, true) => self.capture.files.remove(number),
                    (number, false) => self.capture.dirs.remove(number),
                };
                if let Some(id) = gone {
                    self.capture.tree().note_closed(id);
                }
            }
        }
        Served {
            flight,
            answer,
            crew: &self.crew,
        }
    }

    pub(super) fn forget_node(&self, node: u64, nlookup: u64) {
        if let Some(id) = self.nodes.forget(node, nlookup) {
            self.capture.tree().note_forgotten(id);
        }
    }

    /// What an inode that an earlier worker made is like now.
    pub(super) fn made_before(&self, id: FileId) -> Result<Created, Error> {
        let stat = self.capture.tree().stat(id)?;
        Ok(Created { id, stat })
    }

    /// Tells of the file that an earlier worker made, opened.
    pub(super) fn reply_made_before(
        &self,
        call: &Call,
        id: FileId,
        mode: OpenMode,
        open_reply: impl Fn(&Capture, OpenMode, &FileStat) -> FopenFlags,
        reply: ReplyCreate,
    ) {
        let mode = OpenMode {
            flags: mode.flags & !(libc::O_EXCL | libc::O_TRUNC),
        };
        let (file, stat) = match self.capture.open(call, id, mode) {
            Ok(opened) => opened,
            Err(error) => return reply.error(super::errno::errno(&error)),
        };
        self.nodes.remember(id);
        let number = self.capture.files.insert(file, mode.again());
        self.capture.live().flight().note_file(number);
        reply.created(
            &TTL,
            &reply::attr(&stat, self.nodes.number(id)),
            Generation(id.generation.0),
            FileHandle(number),
            open_reply(&self.capture, mode, &stat),
        );
    }

    /// Tells of an inode that an earlier worker made or gave a name.
    pub(super) fn reply_entry_before(&self, id: FileId, reply: ReplyEntry) {
        match self.made_before(id) {
            Ok(created) => super::export::reply_entry(&self.nodes, reply, &created),
            Err(error) => reply.error(super::errno::errno(&error)),
        }
    }
}
