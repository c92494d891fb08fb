//! File servers that export the mount: nfs-ganesha and Samba, each with all that it keeps in a
//! directory of the test. They run in an isolated test only: their ports are the well-known ones.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::{Program, program};
use super::nfs::{MOUNT_PORT, NFS_PORT};
use super::until::until;

/// Where Samba listens.
pub(crate) const SMB_PORT: u16 = 445;

/// A server in the foreground.
#[derive(Debug)]
struct Daemon {
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it listens.
    fn start(&mut self, program: Program, port: u16) {
        assert!(self.child.is_none(), "the server runs already");
        let mut child = program.spawn(&self.log);
        until("the server to listen", || {
            let ended = child.try_wait().expect("look at the server");
            assert!(ended.is_none(), "the server ended: {}", self.log());
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        self.child = Some(child);
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(pid, signal).expect("send a signal");
        until("the server to end", || {
            child.try_wait().expect("look at the server").is_some()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("{}:\n{}", self.log.display(), tail.join("\n"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// nfs-ganesha with one export, as docs/file-servers.md has it.
#[derive(Debug)]
pub(crate) struct Ganesha {
    daemon: Daemon,
    config: PathBuf,
    dir: PathBuf,
}

impl Ganesha {
    /// What it needs to be installed.
    pub(crate) const PROGRAMS: [&'static str; 2] = ["ganesha.nfsd", "rpcbind"];

    /// Starts it with what it keeps in `dir`, and its export of `path`.
    pub(crate) fn start(dir: &Path, path: &Path) -> Ganesha {
        std::fs::create_dir_all(dir).expect("mkdir");
        let config = dir.join("ganesha.conf");
        let text = format!(
            "NFS_CORE_PARAM {{ NFS_Port = {NFS_PORT}; MNT_Port = {MOUNT_PORT};\n\
 Enable_NLM = false; Enable_RQUOTA = false;\n\
               Enable_UDP = false; }}\n\
             NFSV4 {{ RecoveryRoot = {dir}; Graceless = true; }}\n\
             EXPORT {{ Export_Id = 7420; Filesystem_Id = 7420.1; Path = {path}; Pseudo = /data;\n\
               Protocols = 3, 4; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;\n\
               Attr_Expiration_Time = 0; FSAL {{ Name = VFS; }} }}\n",
            dir = dir.display(),
            path = path.display(),
        );
        std::fs::write(&config, text).expect("write a configuration");
        // It comes to nothing without a port mapper, and ours has a /run of its own.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, 111)).is_err() {
            program("rpcbind").arg("-w").succeed();
        }
        let mut ganesha = Ganesha {
            daemon: Daemon {
                child: None,
                log: dir.join("ganesha.log"),
            },
            config,
            dir: dir.to_path_buf(),
        };
        ganesha.start_again();
        ganesha
    }

    pub(crate) fn start_again(&mut self) {
        let command = program("ganesha.nfsd").args(["-F", "-N", "NIV_EVENT", "-f"]);
        let command = command.arg(&self.config).arg("-L");
        let command = command.arg(&self.daemon.log).arg("-p");
        self.daemon
            .start(command.arg(self.dir.join("ganesha.pid")), NFS_PORT);
    }

    /// As `systemctl stop nfs-ganesha`.
    pub(crate) fn stop(&mut self) {
        self.daemon.end(Signal::SIGTERM);
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.end(Signal::SIGKILL);
    }
}

/// Samba with one share `data`, as docs/file-servers.md has it, and the users of [`Samba::USERS`].
#[derive(Debug)]
pub(crate) struct Samba {
    daemon: Daemon,
    config: String,
}

impl Samba {
    /// What it needs to be installed.
    pub(crate) const PROGRAMS: [&'static str; 4] = ["smbd", "smbpasswd", "smbclient", "smbcacls"];

    /// Who may log on, and with which ids.
    pub(crate) const USERS: [(&'static str, u32); 3] =
        [("root", 0), ("alice", 2001), ("bob", 2002)];

    /// Starts it with what it keeps in `dir`, and its share of `path`.
    pub(crate) fn start(dir: &Path, path: &Path) -> Samba {
        for name in ["private", "lock", "state", "cache", "pid", "ncalrpc"] {
            std::fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        let text = format!(
            "[global]\n server role = standalone server\n disable netbios = yes\n\
             private dir = {dir}/private\n lock directory = {dir}/lock\n\
             state directory = {dir}/state\n cache directory = {dir}/cache\n\
             pid directory = {dir}/pid\n ncalrpc dir = {dir}/ncalrpc\n\
             passdb backend = tdbsam:{dir}/private/passdb.tdb\n\
             disable spoolss = yes\n load printers = no\n\
             [data]\n path = {path}\n read only = no\n\
             vfs objects = acl_xattr streams_xattr\n\
             root preexec = mountpoint -q {path}\n root preexec close = yes\n",
            dir = dir.display(),
            path = path.display(),
        );
        let config = dir.join("smb.conf");
        std::fs::write(&config, text).expect("write a configuration");
        let mut samba = Samba {
            daemon: Daemon {
                child: None,
                log: dir.join("smbd.log"),
            },
            config: config.display().to_string(),
        };
        samba.add_users(dir);
        samba.start_again();
        samba
    }

    /// Samba's users are users of the system: an isolated test has its own list of them.
    fn add_users(&self, dir: &Path) {
        let (mut users, mut groups) = (String::new(), String::new());
        for (name, id) in Samba::USERS {
            users += &format!("{name}:x:{id}:{id}::/:/bin/false\n");
            groups += &format!("{name}:x:{id}:\n");
        }
        for (list, lines) in [("passwd", users), ("group", groups)] {
            let (real, ours) = (Path::new("/etc").join(list), dir.join(list));
            let known = std::fs::read_to_string(&real).expect("read a list of users");
            let others = known.lines().filter(|line| !line.starts_with("root:"));
            let text: String = others.map(|line| format!("{line}\n")).collect();
            std::fs::write(&ours, lines + &text).expect("write a list of users");
            program("mount").arg("--bind").arg(ours).arg(real).succeed();
        }
        for (name, _) in Samba::USERS {
            let script = format!(
                "printf 'pw\\npw\\n' | smbpasswd -c {} -s -a {name}",
                self.config
            );
            program("sh").args(["-c", &script]).succeed();
        }
    }

    pub(crate) fn start_again(&mut self) {
        // In a process group of its own, to which it sends the signal that ends it.
        let command = program("smbd").args(["--foreground", "--debug-stdout", "-d1"]);
        let command = command.arg(format!("--configfile={}", self.config));
        self.daemon.start(command, SMB_PORT);
    }

    /// As `systemctl stop smbd`.
    pub(crate) fn stop(&mut self) {
        self.daemon.end(Signal::SIGTERM);
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.end(Signal::SIGKILL);
    }

    /// `smbclient` or `smbcacls` as this user.
    fn client(&self, name: &str, user: &str) -> Program {
        program(name)
            .arg(format!("--configfile={}", self.config))
            .arg("//127.0.0.1/data")
            .args(["-U", &format!("{user}%pw")])
    }

    /// Commands of smbclient(1) in one session; local files are found in `dir`.
    pub(crate) fn commands(&self, user: &str, dir: &Path, commands: &[&str]) -> Program {
        self.client("smbclient", user)
            .current_dir(dir)
            .args(["-c", &commands.join("; ")])
    }

    /// As [`Samba::commands`], read line by line: `!` runs a local command within the session.
    pub(crate) fn session(&self, user: &str, dir: &Path, commands: &[&str]) -> Program {
        std::fs::write(dir.join("session"), commands.join("\n") + "\n").expect("write");
        let config = format!("--configfile={}", self.config);
        program("sh")
            .current_dir(dir)
            .args(["-c", "exec smbclient \"$@\" < session", "sh", &config])
            .args(["//127.0.0.1/data", "-U", &format!("{user}%pw")])
    }

    /// Shows and changes Windows' access list of a file.
    pub(crate) fn access_list(&self, user: &str, path: &str, args: &[&str]) -> Program {
        self.client("smbcacls", user).arg(path).args(args)
    }
}
