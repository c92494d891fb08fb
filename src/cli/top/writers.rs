//! Who writes most, of the operations of the last minute.

use std::collections::{HashMap, VecDeque};

use crate::control::QueueLine;

/// How far back, in seconds.
pub const WRITERS_SECONDS: u64 = 60;

/// Different writers kept of one second; those beyond it are counted together.
const KEYS_MAX: usize = 500;

/// By what writers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// The first two parts of the path.
    Path,
    /// The process.
    Process,
    /// The user.
    User,
}

impl Grouping {
    pub(super) fn next(self) -> Grouping {
        match self {
            Grouping::Path => Grouping::Process,
            Grouping::Process => Grouping::User,
            Grouping::User => Grouping::Path,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Grouping::Path => "path",
            Grouping::Process => "process",
            Grouping::User => "user",
        }
    }
}

/// What somebody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Operations.
    pub ops: u64,
    /// Bytes written.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    prefix: String,
    pid: u32,
    uid: u32,
}

/// Operations by writer, second by second.
#[derive(Debug, Clone, Default)]
pub struct Writers {
    seconds: VecDeque<(u64, HashMap<Key, Done>)>,
    /// Names of processes and users, as far as they could be learned.
    pids: HashMap<u32, String>,
    uids: HashMap<u32, String>,
    /// Why nobody is seen.
    pub(super) trouble: Option<String>,
}

/// The first two parts of a path: what most trees are divided by.
fn prefix(path: &str) -> String {
    let mut parts = path.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(first), Some(second), Some(_)) => format!("{first}/{second}/"),
        (Some(first), Some(_), None) => format!("{first}/"),
        _ => "./".to_owned(),
    }
}

impl Writers {
    /// Nobody is seen, and why.
    pub fn in_trouble(why: &str) -> Writers {
        Writers {
            trouble: Some(why.to_owned()),
            ..Writers::default()
        }
    }

    /// Counts an operation that came at `second`. Records of mirrors are nobody's.
    pub fn note(&mut self, line: &QueueLine, second: u64) {
        if ["mirror", "image", "listing", "gap"]
            .iter()
            .any(|word| line.op.starts_with(word))
        {
            return;
        }
        if self.seconds.back().is_none_or(|(last, _)| *last < second) {
            self.seconds.push_back((second, HashMap::new()));
        }
        self.forget(second);
        let Some((_, done)) = self.seconds.back_mut() else {
            return;
        };
        let mut key = Key {
            prefix: prefix(&line.path),
            pid: line.pid,
            uid: line.uid,
        };
        if done.len() >= KEYS_MAX && !done.contains_key(&key) {
            key = Key {
                prefix: "(others)".to_owned(),
                pid: 0,
                uid: u32::MAX,
            };
        }
        let done = done.entry(key).or_default();
        done.ops += 1;
        if line.op == "write" {
            done.bytes += line.size;
        }
    }

    /// Lets go what is older than a minute at `second`.
    pub fn forget(&mut self, second: u64) {
        let is_old = |then: u64| then + WRITERS_SECONDS <= second;
        while self.seconds.front().is_some_and(|(then, _)| is_old(*then)) {
            self.seconds.pop_front();
        }
    }

    /// Is the name of this process known, or known not to be?
    pub(super) fn knows_pid(&self, pid: u32) -> bool {
        self.pids.contains_key(&pid)
    }

    pub(super) fn name_pid(&mut self, pid: u32, name: String) {
        if self.pids.len() > KEYS_MAX {
            self.pids.clear();
        }
        self.pids.insert(pid, name);
    }

    pub(super) fn knows_uid(&self, uid: u32) -> bool {
        self.uids.contains_key(&uid)
    }

    pub(super) fn name_uid(&mut self, uid: u32, name: String) {
        self.uids.insert(uid, name);
    }

    fn shown(&self, key: &Key, grouping: Grouping) -> String {
        let named = |names: &HashMap<u32, String>, number: u32| {
            let name = names.get(&number).filter(|name| !name.is_empty());
            name.map_or_else(|| number.to_string(), |name| format!("{number} {name}"))
        };
        match grouping {
            _ if key.uid == u32::MAX => "(others)".to_owned(),
            Grouping::Path => key.prefix.clone(),
            Grouping::Process => named(&self.pids, key.pid),
            Grouping::User => named(&self.uids, key.uid),
        }
    }

    /// The biggest first: by bytes, then by operations, then by name.
    pub fn biggest(&self, grouping: Grouping) -> Vec<(String, Done)> {
        let mut sums: HashMap<String, Done> = HashMap::new();
        for (_, second) in &self.seconds {
            for (key, done) in second {
                let sum = sums.entry(self.shown(key, grouping)).or_default();
                sum.ops += done.ops;
                sum.bytes += done.bytes;
            }
        }
        let mut all: Vec<(String, Done)> = sums.into_iter().collect();
        all.sort_by(|(name, a), (other, b)| {
            (b.bytes, b.ops)
                .cmp(&(a.bytes, a.ops))
                .then(name.cmp(other))
        });
        all
    }
}
