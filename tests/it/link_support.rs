//! Setup for the tests of both ends: a source that answers wants from a model, a target on a real
//! directory, waiting for a state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doppelfs::codec::Draft;
use doppelfs::journal::{self, Journal};
use doppelfs::keys::Pairings;
use doppelfs::receiver::{ServeOptions, Target};
use doppelfs::sender::{Sender, SenderEvents, SenderOptions, SenderState};
use doppelfs::types::{
    Attrs, Body, Dentry, Entry, FileId, History, Name, Node, Op, RenameMode, Replaced, Scope, Seq,
    SetName, Time,
};
use doppelfs::wire::TargetAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;

pub const ROOT: FileId = FileId {
    root: doppelfs::types::ROOT_ID,
    ino: doppelfs::types::Ino(2),
    generation: doppelfs::types::Generation(0),
};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A seed that is printed, or the one given.
pub fn seeded() -> StdRng {
    let given = std::env::var("DOPPELFS_SEED").ok();
    let seed = given
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(rand::random);
    println!("DOPPELFS_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A runtime as the daemon has one.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A directory that goes with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("doppelfs-link-{}-{count}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn small_queue() -> journal::Options {
    journal::Options {
        segment_bytes: 256 << 10,
        disk_bytes_max: None,
        free_bytes_min: 0,
    }
}

/// Files in one directory: what the source holds.
#[derive(Default)]
struct Model {
    files: BTreeMap<String, (FileId, Vec<u8>)>,
    next_ino: u64,
    mirror: u64,
}

/// A source: its journal and a model that records and wants are made from.
pub struct Source {
    pub journal: Arc<Journal>,
    pub history: History,
    model: Mutex<Model>,
    pub mirrors_begun: AtomicU64,
    pub mirrors_done: AtomicU64,
}

fn mtime(seconds: i64) -> Time {
    Time {
        secs: 1_700_000_000 + seconds,
        nanos: 5,
    }
}

fn attrs(mode: u32, size: usize) -> Attrs {
    Attrs {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: size as u64,
        mtime: mtime(1),
    }
}

fn dentry(name: &str) -> Dentry {
    Dentry {
        parent: ROOT,
        name: Name::new(name.as_bytes()).unwrap(),
    }
}

impl Source {
    pub fn new(dir: &Path, history: u128) -> Arc<Source> {
        let (journal, _) = Journal::open(dir, small_queue()).unwrap();
        Arc::new(Source {
            journal: Arc::new(journal),
            history: History(history),
            model: Mutex::new(Model {
                next_ino: 100,
                ..Model::default()
            }),
            mirrors_begun: AtomicU64::new(0),
            mirrors_done: AtomicU64::new(0),
        })
    }

    /// Everything is in doubt, and whoever says so dies before it begins a mirror.
    pub fn doubt(&self) {
        let (ids, everything) = (Vec::new(), true);
        self.append(&Body::of(Op::Gap { ids, everything }), b"");
    }

    fn append(&self, body: &Body, payload: &[u8]) -> Seq {
        self.journal.append(&Draft::new(body, payload)).unwrap()
    }

    fn body(op: Op, mode: u32, size: usize) -> Body {
        let mut body = Body::of(op);
        body.after = Some(attrs(mode, size));
        body.dir_mtime = Some(mtime(2));
        body.to_mtime = Some(mtime(2));
        body
    }

    pub fn create(&self, name: &str) {
        let mut model = self.model.lock().unwrap();
        let id = FileId::new(model.next_ino, 1);
        model.next_ino += 1;
        let op = Op::Create {
            at: dentry(name),
            id,
            node: Node::File,
            xattrs: Vec::new(),
        };
        self.append(&Source::body(op, 0o100_644, 0), b"");
        model.files.insert(name.to_owned(), (id, Vec::new()));
    }

    /// Appends to the file.
    pub fn write(&self, name: &str, data: &[u8]) -> Seq {
        let mut model = self.model.lock().unwrap();
        let (id, content) = model.files.get_mut(name).unwrap();
        let offset = content.len() as u64;
        content.extend_from_slice(data);
        let op = Op::Write { id: *id, offset };
        let mut body = Source::body(op, 0o100_644, content.len());
        body.path = name.as_bytes().to_vec();
        self.append(&body, data)
    }

    /// Swaps two names: done twice it is undone.
    pub fn swap(&self, a: &str, b: &str) {
        let mut model = self.model.lock().unwrap();
        let (first, second) = (model.files[a].clone(), model.files[b].clone());
        let op = Op::Rename {
            id: first.0,
            node: Node::File,
            from: dentry(a),
            to: dentry(b),
            replaced: Some(Replaced {
                id: second.0,
                nlink: 1,
                node: Node::File,
                mtime: None,
            }),
            mode: RenameMode::Exchange,
        };
        let mut body = Source::body(op, 0o100_644, first.1.len());
        body.path = a.as_bytes().to_vec();
        self.append(&body, b"");
        model.files.insert(a.to_owned(), second);
        model.files.insert(b.to_owned(), first);
    }

    pub fn unlink(&self, name: &str) {
        let mut model = self.model.lock().unwrap();
        let (id, _) = model.files.remove(name).unwrap();
        let op = Op::Unlink {
            at: dentry(name),
            id,
        };
        let mut body = Source::body(op, 0o100_644, 0);
        body.after = body.after.map(|after| Attrs { nlink: 0, ..after });
        self.append(&body, b"");
    }

    /// The files as they must stand on the target.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let model = self.model.lock().unwrap();
        let files = model.files.iter();
        files.map(|(n, (_, c))| (n.clone(), c.clone())).collect()
    }

    fn answer(&self, id: FileId) {
        let model = self.model.lock().unwrap();
        if id == ROOT {
            let entry = |(name, (id, _)): (&String, &(FileId, Vec<u8>))| Entry {
                name: Name::new(name.as_bytes()).unwrap(),
                id: *id,
                node: Node::File,
            };
            let op = Op::Listing {
                id,
                entries: model.files.iter().map(entry).collect(),
                xattrs: Vec::new(),
            };
            self.append(&Source::body(op, 0o040_755, 4096), b"");
            return;
        }
        let file = model.files.values().find(|(file, _)| *file == id);
        // A file that went meanwhile is dead by its own record.
        let Some((_, content)) = file else { return };
        let op = Op::Image {
            id,
            node: Node::File,
            xattrs: Vec::new(),
        };
        self.append(&Source::body(op, 0o100_644, content.len()), content);
    }

    pub fn options(
        self: &Arc<Self>,
        address: SocketAddr,
        runtime: &tokio::runtime::Runtime,
    ) -> SenderOptions {
        SenderOptions {
            id: 1,
            target: TargetAddr {
                host: address.ip().to_string(),
                port: address.port(),
                path: None,
            },
            set: SetName::new("data").unwrap(),
            source: "here".into(),
            instance: 77,
            root: ROOT,
            history: self.history,
            forks: Vec::new(),
            place: None,
            remap: Vec::new(),
            journal: Arc::clone(&self.journal),
            insecure_loopback: true,
            pairings: Pairings::of(Path::new("/nonexistent/keys")),
            runtime: runtime.handle().clone(),
            events: Arc::new(Answering(Arc::clone(self))),
        }
    }

    pub fn connect(
        self: &Arc<Self>,
        address: SocketAddr,
        runtime: &tokio::runtime::Runtime,
    ) -> Sender {
        Sender::start(self.options(address, runtime)).unwrap()
    }
}

/// Answers wants at once from the model.
struct Answering(Arc<Source>);

impl SenderEvents for Answering {
    fn wanted(&self, _connection: u32, ids: Vec<FileId>) -> bool {
        // More than these tests ever have.
        let is_fine = ids.len() < 1000;
        for id in ids.into_iter().filter(|_| is_fine) {
            self.0.answer(id);
        }
        is_fine
    }

    fn wants_reset(&self, _connection: u32) {}

    fn begin_full_mirror(
        &self,
        _connection: u32,
    ) -> Result<Seq, Box<dyn std::error::Error + Send + Sync>> {
        let mut model = self.0.model.lock().unwrap();
        model.mirror += 1;
        self.0.mirrors_begun.fetch_add(1, Ordering::SeqCst);
        let op = Op::MirrorBegin {
            mirror: model.mirror,
            scope: Scope::Full,
            root: ROOT,
        };
        Ok(self.0.journal.append(&Draft::new(&Body::of(op), b""))?)
    }

    fn mirror_due(&self, _connection: u32) {
        let mut model = self.0.model.lock().unwrap();
        model.mirror += 1;
        let op = Op::MirrorBegin {
            mirror: model.mirror,
            scope: Scope::Partial,
            root: ROOT,
        };
        self.0.append(&Body::of(op), b"");
    }

    fn mirror_done(&self, _connection: u32, mirror: u64) {
        self.0.mirrors_done.fetch_add(1, Ordering::SeqCst);
        let op = Op::MirrorEnd { mirror };
        self.0.append(&Body::of(op), b"");
    }
}

/// A target on a scratch directory.
pub struct Site {
    pub scratch: Scratch,
    pub runtime: tokio::runtime::Runtime,
    pub target: Option<Target>,
}

impl Site {
    /// `None`, loudly, without root.
    pub fn new(name: &str) -> Option<Site> {
        if !doppelfs::sys::is_root() {
            eprintln!("SKIPPED: {name} needs root");
            return None;
        }
        let mut site = Site {
            scratch: Scratch::new(name),
            runtime: runtime(),
            target: None,
        };
        site.start();
        Some(site)
    }

    pub fn options(&self) -> ServeOptions {
        ServeOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            root: self.scratch.dir("root"),
            state: self.scratch.dir("state"),
            run: None,
            host_name: "target".to_owned(),
            insecure_loopback: true,
            queue: small_queue(),
            runtime: self.runtime.handle().clone(),
        }
    }

    pub fn start(&mut self) {
        self.target = Some(Target::serve(self.options()).unwrap());
    }

    pub fn stop(&mut self) {
        if let Some(target) = self.target.take() {
            target.stop();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.target.as_ref().unwrap().address()
    }

    /// Starts again on the same port.
    pub fn restart(&mut self) {
        let mut options = self.options();
        options.listen = self.address();
        self.stop();
        self.target = Some(Target::serve(options).unwrap());
    }

    pub fn replica(&self) -> PathBuf {
        self.scratch.path().join("root/here/data")
    }

    /// The files as they stand in the replica.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.replica()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        files
    }

    /// Waits for a state of the connection.
    pub fn await_state(
        &self,
        sender: &Sender,
        what: &str,
        mut is_it: impl FnMut(&SenderState) -> bool,
    ) -> SenderState {
        let mut changes = sender.subscribe();
        let wait = async {
            loop {
                let state = sender.state();
                if is_it(&state) {
                    return state;
                }
                changes.changed().await.unwrap();
            }
        };
        let waited = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, wait).await });
        waited.unwrap_or_else(|_| panic!("no {what}: {:#?}", sender.state()))
    }

    /// Waits until everything captured by now is durable on the target.
    pub fn await_caught_up(&self, source: &Source, sender: &Sender) -> SenderState {
        self.await_state(sender, "catching up", |state| {
            sender.request_checkpoint();
            state.is_caught_up(source.journal.end())
        })
    }
}
