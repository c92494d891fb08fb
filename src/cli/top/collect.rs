//! Asking in the background: nothing here keeps the picture from being drawn.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use nix::unistd::{Uid, User};

use super::model::Said;
use super::writers::Writers;
use crate::cli::show::{ask_within, put};
use crate::control::status::StatusReport;
use crate::control::{self, Client, Error, Item, QueueLine, Reply, Request, Service};
use crate::sync::{self, Mutex, Rank};
use crate::sys;
use crate::types::SetName;

/// How long a service may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What came in.
pub(super) enum News {
    /// A service said something, or why not.
    Said {
        service: String,
        said: Result<Said, String>,
    },
    /// A service is gone.
    Gone { service: String },
    /// Nobody can be asked.
    Trouble(String),
}

/// As the services are called here: sets first.
pub(super) fn shown(service: &Service) -> String {
    match service {
        Service::Set(name) => format!("set {name}"),
        Service::Target(port) => format!("target {port}"),
    }
}

/// What is shown for an answer; `None`: the service is gone.
pub(super) fn understood(
    run_dir: &Path,
    service: &Service,
    said: Result<Reply, Error>,
) -> Option<Result<Said, String>> {
    let mut report = StatusReport {
        version: 0,
        sets: Vec::new(),
        targets: Vec::new(),
    };
    let answered = said.is_ok();
    if let Err(error) = put(run_dir, &mut report, service, said) {
        return Some(Err(error.to_string()));
    }
    let said = match (report.sets.pop(), report.targets.pop()) {
        (Some(set), _) if !answered => Err(set.error.unwrap_or_default()),
        (_, Some(target)) if !answered => Err(target.error.unwrap_or_default()),
        (Some(set), _) => Ok(Said::Set(Box::new(set))),
        (_, Some(target)) => Ok(Said::Target(Box::new(target))),
        (None, None) => return None,
    };
    Some(said)
}

/// Looks for services, and asks each in a thread of its own, until nobody listens any more.
pub(super) fn start(run_dir: &Path, interval: Duration) -> std::io::Result<mpsc::Receiver<News>> {
    let (news, inbox) = mpsc::channel();
    let run_dir = run_dir.to_owned();
    sync::spawn("dfs-look", move || look_for(&run_dir, interval, &news))?;
    Ok(inbox)
}

fn look_for(run_dir: &Path, interval: Duration, news: &mpsc::Sender<News>) {
    let asked: Arc<Mutex<HashSet<String>>> = Arc::new(Mutex::new(Rank::Leaf, HashSet::new()));
    loop {
        match control::list_services(run_dir) {
            Ok(services) => {
                for service in services {
                    if asked.lock().insert(shown(&service)) {
                        let (run_dir, news, asked) =
                            (run_dir.to_owned(), news.clone(), asked.clone());
                        let poll = move || {
                            poll(&run_dir, &service, interval, &news);
                            asked.lock().remove(&shown(&service));
                        };
                        // Another look comes.
                        let _ = sync::spawn("dfs-poll", poll);
                    }
                }
            }
            Err(error) => {
                if news.send(News::Trouble(error.to_string())).is_err() {
                    return;
                }
            }
        }
        std::thread::sleep(interval.max(Duration::from_millis(200)));
    }
}

/// Asks one service until it is gone.
fn poll(run_dir: &Path, service: &Service, interval: Duration, news: &mpsc::Sender<News>) {
    let name = shown(service);
    loop {
        let said = ask_within(run_dir, service, &Request::Status, PATIENCE);
        let Some(said) = understood(run_dir, service, said) else {
            let _ = news.send(News::Gone { service: name });
            return;
        };
        let service = name.clone();
        if news.send(News::Said { service, said }).is_err() {
            return;
        }
        std::thread::sleep(interval);
    }
}

/// Follows the queue of the selected set.
pub(super) struct Followers {
    run_dir: PathBuf,
    tails: HashMap<String, Tail>,
}

#[derive(Clone)]
struct Tail {
    writers: Arc<Mutex<Writers>>,
    is_wanted: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

/// After a tail has ended it is not begun again for so long.
const TAIL_PAUSE: Duration = Duration::from_secs(2);

impl Followers {
    pub(super) fn new(run_dir: &Path) -> Followers {
        Followers {
            run_dir: run_dir.to_owned(),
            tails: HashMap::new(),
        }
    }

    /// Who writes into `set`, as far as it is known by now; from now on it alone is followed.
    pub(super) fn writers_of(&mut self, set: &str) -> Writers {
        for (name, tail) in &self.tails {
            tail.is_wanted.store(name == set, Ordering::Relaxed);
        }
        let is_over = |tail: &Tail| tail.is_over.load(Ordering::Acquire);
        if self.tails.get(set).is_none_or(is_over) {
            let tail = Tail {
                writers: match self.tails.get(set) {
                    Some(old) => old.writers.clone(),
                    None => Arc::new(Mutex::new(Rank::Leaf, Writers::default())),
                },
                is_wanted: Arc::new(AtomicBool::new(true)),
                is_over: Arc::new(AtomicBool::new(false)),
            };
            let (run_dir, own, name) = (self.run_dir.clone(), tail.clone(), set.to_owned());
            let follow = move || {
                let ended = follow(&run_dir, &name, &own);
                own.writers.lock().trouble = ended.err();
                std::thread::sleep(TAIL_PAUSE);
                own.is_over.store(true, Ordering::Release);
            };
            if sync::spawn("dfs-tail", follow).is_err() {
                return Writers::in_trouble("the system gives no thread");
            }
            self.tails.insert(set.to_owned(), tail);
        }
        let Some(tail) = self.tails.get(set) else {
            return Writers::default();
        };
        let mut writers = tail.writers.lock();
        writers.forget(sys::realtime_ns() / 1_000_000_000);
        writers.clone()
    }
}

/// Counts what comes, until it is not wanted any more.
fn follow(run_dir: &Path, set: &str, tail: &Tail) -> Result<(), String> {
    let name = SetName::new(set).map_err(|error| error.to_string())?;
    let service = Service::Set(name);
    let request = Request::QueueTail {
        follow: true,
        count: 0,
    };
    let answers = Client::connect_within(run_dir, &service, PATIENCE);
    let answers = answers.and_then(|client| client.follow(&request));
    let mut answers = answers.map_err(|error| error.to_string())?;
    loop {
        match answers.next_item() {
            Ok(Some(Item::Record(line))) => note(tail, &line),
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        if !tail.is_wanted.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn note(tail: &Tail, line: &QueueLine) {
    let (is_pid_known, is_uid_known) = {
        let writers = tail.writers.lock();
        (writers.knows_pid(line.pid), writers.knows_uid(line.uid))
    };
    // Looked up without the lock: the one reads /proc, the other may ask a server.
    let pid_name = (!is_pid_known).then(|| {
        let name = std::fs::read(format!("/proc/{}/comm", line.pid)).unwrap_or_default();
        control::escape(name.trim_ascii())
    });
    let uid_name = (!is_uid_known).then(|| {
        let user = User::from_uid(Uid::from_raw(line.uid)).ok().flatten();
        user.map(|user| user.name).unwrap_or_default()
    });
    let mut writers = tail.writers.lock();
    if let Some(name) = pid_name {
        writers.name_pid(line.pid, name);
    }
    if let Some(name) = uid_name {
        writers.name_uid(line.uid, name);
    }
    writers.note(line, sys::realtime_ns() / 1_000_000_000);
}
