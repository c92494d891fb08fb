//! One stream of a source of our own: it begins in order, so that what follows is not stopped at the door.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::frames::{self, Draft, Id};
use super::line::{BATCH, HELLO, Heard, Hello, Line, PATIENCE, PING, START, start};
use super::stage::{Source, Stage};

/// How an attack ended: fine, or not as it should.
pub type Verdict = Result<(), String>;

/// How a record fared.
#[derive(Debug)]
pub enum Outcome {
    Applied,
    /// The stream stands before it, and says why.
    Held(String),
    /// The session ended with a reason.
    Refused(String),
    /// It ended without one.
    Closed,
    Silence,
}

/// A stream.
pub struct Scene<'a> {
    pub stage: &'a Stage,
    pub source: &'a Source,
    pub hello: Hello,
    pub line: Line,
    /// The last record sent.
    pub last: u64,
    next: u64,
    /// What went wrong with writing, where the target had ended the session.
    broken: Option<io::Error>,
}

/// The root of the tree on our side.
pub const ROOT: Id = Id(2, 0);

/// What a source says first that knows nothing of the target.
pub fn hello(set: &str) -> Hello {
    Hello {
        protocol: 1,
        set: set.to_owned(),
        path: None,
        instance: 7,
        history: rand::random(),
        forks: Vec::new(),
        end: 0,
        root: ROOT,
        more: Vec::new(),
    }
}

/// Says hello; the line, with what the target answered.
pub fn greet(stage: &Stage, source: &Source, hello: &Hello) -> io::Result<(Line, Heard)> {
    let mut line = Line::open(stage.address, &source.config)?;
    line.say(HELLO, &hello.pack().encode())?;
    let heard = line.hear(PATIENCE);
    Ok((line, heard))
}

impl<'a> Scene<'a> {
    /// A new stream with a mirror of an empty tree applied.
    pub fn open(stage: &'a Stage, source: &'a Source, set: &str) -> Result<Scene<'a>, String> {
        let mut scene = Scene::begin(stage, source, hello(set), true)?;
        scene.mirror(Vec::new())?;
        Ok(scene)
    }

    /// Hello and start; nothing was sent yet.
    pub fn begin(
        stage: &'a Stage,
        source: &'a Source,
        hello: Hello,
        jump: bool,
    ) -> Result<Scene<'a>, String> {
        let (mut line, heard) = greet(stage, source, &hello).map_err(|e| e.to_string())?;
        let Heard::Welcome(welcome) = heard else {
            return Err(format!("no welcome: {heard:?}"));
        };
        let after = if jump { 0 } else { welcome.received };
        let said = line.say(START, &start(hello.history, after, jump, None).encode());
        said.map_err(|e| e.to_string())?;
        Ok(Scene {
            stage,
            source,
            hello,
            line,
            last: after,
            next: 1000,
            broken: None,
        })
    }

    /// A whole mirror of a root with these entries, which have no content.
    pub fn mirror(&mut self, entries: Vec<(&[u8], Id, super::pack::Pack)>) -> Verdict {
        self.put(&frames::mirror_begin(1, "f", ROOT));
        self.put(&frames::listing(ROOT, entries));
        self.put(&frames::mirror_end(1));
        self.applied()
    }

    /// Where the replica is.
    pub fn replica(&self) -> PathBuf {
        let own = format!("{}/{}", self.source.name, self.hello.set);
        let path = self.hello.path.clone().unwrap_or(own);
        self.stage.root().join(path)
    }

    /// An identity that was not used yet.
    pub fn fresh(&mut self) -> Id {
        self.next += 1;
        Id(self.next, 1)
    }

    /// The frame that comes next.
    pub fn seal(&mut self, draft: &Draft) -> Vec<u8> {
        let frame = draft.seal(self.last + 1, self.last);
        self.last += 1;
        frame
    }

    /// Sends a record.
    pub fn put(&mut self, draft: &Draft) {
        let frame = self.seal(draft);
        self.send(BATCH, &frames::batch(&frame));
    }

    /// Sends a message. What fails is told by the outcome.
    pub fn send(&mut self, kind: u8, body: &[u8]) {
        if let Err(e) = self.line.say(kind, body) {
            self.broken = Some(e);
        }
    }

    /// Makes something in a directory, in order.
    pub fn make(&mut self, parent: Id, name: &str, node: super::pack::Pack) -> Result<Id, String> {
        let id = self.fresh();
        self.put(&frames::create(
            parent,
            name.as_bytes(),
            id,
            node,
            0o100_644,
        ));
        self.applied()?;
        Ok(id)
    }

    pub fn dir(&mut self, parent: Id, name: &str) -> Result<Id, String> {
        let id = self.fresh();
        let made = frames::create(parent, name.as_bytes(), id, frames::dir(), 0o040_755);
        self.put(&made);
        self.applied()?;
        Ok(id)
    }

    pub fn file(&mut self, name: &str) -> Result<Id, String> {
        self.make(ROOT, name, frames::file())
    }

    /// How the last record fared.
    pub fn outcome(&mut self) -> Outcome {
        self.outcome_within(PATIENCE)
    }

    pub fn outcome_within(&mut self, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        let mut said_at = Instant::now();
        while Instant::now() < deadline {
            match self.line.hear(Duration::from_secs(1)) {
                Heard::Ack(ack) if ack.applied >= self.last => return Outcome::Applied,
                Heard::Ack(ack) => {
                    if let Some(error) = ack.error {
                        return Outcome::Held(error);
                    }
                }
                Heard::Refused(refused) => {
                    return Outcome::Refused(format!("{}: {}", refused.code, refused.text));
                }
                Heard::Closed => return Outcome::Closed,
                Heard::Silence | Heard::Welcome(_) | Heard::Paired(_) | Heard::Other => {}
            }
            if said_at.elapsed() > Duration::from_secs(3) {
                said_at = Instant::now();
                let _ = self.line.say(PING, &[]);
            }
        }
        Outcome::Silence
    }

    fn unlike(&self, wanted: &str, outcome: &Outcome) -> String {
        let broken = self.broken.as_ref();
        let broken = broken.map_or(String::new(), |e| format!(" (writing: {e})"));
        format!("{outcome:?}{broken}, not {wanted}")
    }

    /// It must have been applied.
    pub fn applied(&mut self) -> Verdict {
        match self.outcome() {
            Outcome::Applied => Ok(()),
            other => Err(self.unlike("applied", &other)),
        }
    }

    /// The stream must be held with these words, which `status` shows.
    pub fn held(&mut self, words: &str) -> Verdict {
        match self.outcome() {
            Outcome::Held(text) if text.contains(words) => {}
            other => return Err(self.unlike(&format!("held with {words:?}"), &other)),
        }
        let status = self.stage.run(&["status", "--json"]);
        match status.contains(&self.hello.set) && status.contains(words) {
            true => Ok(()),
            false => Err(format!(
                "held with {words:?}, which status does not show: {status}"
            )),
        }
    }

    /// The session must have ended with these words, which the target remembers.
    pub fn refused(&mut self, words: &str) -> Verdict {
        match self.outcome() {
            Outcome::Refused(text) if text.contains(words) => {}
            other => return Err(self.unlike(&format!("refused with {words:?}"), &other)),
        }
        is_remembered(self.stage, words)
    }
}

/// `peers list` shows a refusal with these words.
pub fn is_remembered(stage: &Stage, words: &str) -> Verdict {
    let is_shown = || {
        let list = stage.run(&["peers", "list", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
        list.to_string().replace("\\\"", "\"").contains(words)
    };
    super::stage::until(&format!("peers list shows {words:?}"), is_shown)
}
