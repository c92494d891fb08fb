//! Goal: what is asked for is understood or refused with a message that says what to do.
//! Method: options as text; directories in scratch space; the machine around as a value.

use crate::cli_scratch::{Scratch, Talker, runtime, serve};
use doppelfs::cli;
use doppelfs::config::{
    MOUNT_KEYS, MountOptions, MountRefusal, OptionError, Order, Role, Settings, StateError,
    StateOwner, Surroundings, TargetOptions, check_mount, claim_state, is_ignored_key, parse_bytes,
    parse_duration, parse_percent, parse_switch, split_options,
};
use doppelfs::wire::TargetAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn options(text: &str) -> Result<MountOptions, OptionError> {
    let mut settings = Settings::new();
    settings.add_options(text)?;
    MountOptions::new(Path::new("/srv/data"), None, &settings)
}

#[test]
fn nothing_asked_gives_the_documented_defaults() {
    let options = options("").unwrap();
    assert_eq!(options.mountpoint, Path::new("/srv/data"));
    assert_eq!(options.set.as_str(), "data");
    assert_eq!(options.state_dir, Path::new("/var/lib/doppelfs/data"));
    assert_eq!(options.queue_dir, Path::new("/var/lib/doppelfs/data/queue"));
    assert_eq!(options.run_dir, Path::new("/run/doppelfs"));
    assert_eq!(options.order, Order::Strict);
    assert_eq!(options.journal_wait, Duration::from_secs(1));
    assert_eq!(options.queue_disk_max, None);
    assert_eq!(options.queue_free_min, 50 << 20);
    assert_eq!(options.queue_memory, 128 << 20);
    assert_eq!(options.queue_alert_percent, 50);
    assert!(options.auto_remirror);
    assert!(
        !options.insecure_loopback
            && !options.atime
            && !options.remap_links
            && !options.strict_cover
    );
    assert_eq!(options.flags.restrictions(), [false; 6]);
}

#[test]
fn every_key_is_taken() {
    let options = options(
        "set=web,target=127.0.0.1:7421:a/b,state=/s,run-dir=/r,order=relaxed,flush-interval=50ms,insecure-loopback,\
         foreground,atime,remap-links,strict-cover,journal-wait=250ms,queue-disk-max=100M,queue-free-min=1G,\
         queue-memory=64M,queue-alert=80%,queue-dir=/q,auto-remirror=no,ro,nosuid,nodev,noexec,\
         noatime,nodiratime,nosymfollow",
    )
    .unwrap();
    assert_eq!(options.set.as_str(), "web");
    assert_eq!(options.targets[0].to_string(), "127.0.0.1:7421:a/b");
    assert_eq!(options.state_dir, Path::new("/s"));
    assert_eq!(options.run_dir, Path::new("/r"));
    assert_eq!(options.queue_dir, Path::new("/q"));
    assert_eq!(options.order, Order::Relaxed);
    assert_eq!(options.flush_interval, Duration::from_millis(50));
    assert_eq!(options.journal_wait, Duration::from_millis(250));
    assert_eq!(options.queue_disk_max, Some(100 << 20));
    assert_eq!(options.queue_free_min, 1 << 30);
    assert_eq!(options.queue_memory, 64 << 20);
    assert_eq!(options.queue_alert_percent, 80);
    assert!(!options.auto_remirror);
    assert!(options.insecure_loopback && options.foreground);
    assert!(
        options.remap_links && options.atime && options.strict_cover && options.flags.read_only
    );
    assert_eq!(options.flags.restrictions(), [true; 6]);
}

/// README: "Every long flag of `mount` is also a key of `-o`."
#[test]
fn every_long_flag_of_mount_is_a_key() {
    let command = cli::command();
    let mount = command.find_subcommand("mount").unwrap();
    let mut flags: Vec<&str> = mount
        .get_arguments()
        .filter(|a| !a.is_hide_set())
        .filter_map(|a| a.get_long())
        .filter(|flag| *flag != "help")
        .collect();
    flags.push("run-dir");
    flags.sort_unstable();
    flags.dedup();
    let mut keys: Vec<&str> = MOUNT_KEYS.iter().map(|(key, _)| *key).collect();
    keys.sort_unstable();
    assert_eq!(flags, keys);
}

#[test]
fn a_later_value_replaces_an_earlier_one_and_targets_add_up() {
    let options = options("set=a,ro,set=b,rw,queue_memory=64M").unwrap();
    assert_eq!(options.set.as_str(), "b");
    assert!(!options.flags.read_only);
    assert_eq!(options.queue_memory, 64 << 20);
}

#[test]
fn what_fstab_and_the_kernel_add_is_passed_over() {
    let text = "defaults,_netdev,nofail,noauto,user,x-systemd.automount,X-mount.mkdir=755,\
                user_id=0,group_id=0,default_permissions,allow_other,comment=x,relatime";
    let options = options(text).unwrap();
    assert_eq!(options.flags.restrictions(), [false; 6]);
    assert!(is_ignored_key("x-a", None));
    assert!(!is_ignored_key("target", Some("x")));
}

#[test]
fn a_mistyped_key_names_the_nearest() {
    for (typed, meant) in [
        ("targt=x", "target"),
        ("insecure-loopbak", "insecure-loopback"),
        ("queue-disc-max=1G", "queue-disk-max"),
        ("nosuide", "nosuid"),
        ("_netdv", "_netdev"),
    ] {
        let error = options(typed).unwrap_err();
        let OptionError::UnknownKey { nearest, .. } = &error else {
            panic!("{typed}: {error}");
        };
        assert_eq!(nearest.as_deref(), Some(meant), "{typed}");
        assert!(
            error
                .to_string()
                .contains(&format!("did you mean {meant:?}?")),
            "{error}"
        );
    }
    let error = options("zebra").unwrap_err();
    assert!(error.to_string().contains("man doppelfs"), "{error}");
}

#[test]
fn sloppy_passes_over_unknown_keys_only() {
    assert!(options("sloppy,zebra=1").is_ok());
    assert!(options("sloppy,order=odd").is_err());
}

#[test]
fn every_option_error_says_what_would_be_right() {
    for (text, expected) in [
        ("set", "\"set\" needs a value"),
        ("foreground=1", "takes no value"),
        ("order=odd", "not strict or relaxed"),
        ("flush-interval=9ms", "not from 10ms to 60s"),
        ("flush-interval=61s", "not from 10ms to 60s"),
        ("queue-memory=1M", "not at least 32M"),
        ("queue-disk-max=lots", "not a size"),
        ("queue-alert=0", "1% to 100%"),
        ("journal-wait=soon", "not a time"),
        ("auto-remirror=perhaps", "yes or no"),
        ("set=\"a", "opened and not closed"),
        ("set=a b", "not a set name"),
        ("set=target-7420", "kept for the control sockets"),
        (
            "insecure-loopback,target=10.0.0.1:7420",
            "loopback addresses only",
        ),
        (
            "insecure-loopback,target=example.org",
            "loopback addresses only",
        ),
        (
            "insecure-loopback,target=localhost:1,target=localhost:2",
            "second target",
        ),
        (
            "insecure-loopback,target=localhost:x",
            "the port is no number",
        ),
    ] {
        let error = options(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn quotes_keep_commas() {
    let pairs = split_options("a,b=\"c,d\",,e=f=g").unwrap();
    let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    assert_eq!(
        pairs,
        [
            pair("a", None),
            pair("b", Some("c,d")),
            pair("e", Some("f=g"))
        ]
    );
}

#[test]
fn addresses_of_targets_are_read_and_written() {
    for (text, written) in [
        ("host", "host:7420"),
        ("host:1", "host:1"),
        ("host:1:a//b/", "host:1:a/b"),
        ("host:1:a:b", "host:1:a:b"),
        ("host::a", "host:7420:a"),
        ("host:1:/a", "host:1:a"),
        ("[::1]", "[::1]:7420"),
        ("[::1]:9", "[::1]:9"),
        ("[fe80::1]:9:x", "[fe80::1]:9:x"),
    ] {
        let address: TargetAddr = text.parse().unwrap();
        assert_eq!(address.to_string(), written, "{text}");
    }
    for text in [
        "",
        ":1",
        "host:0",
        "host:99999",
        "host:1:",
        "host:1:a/../b",
        "[::1",
        "[x]:1",
        "[::1]x",
        "ho st:1",
    ] {
        assert!(text.parse::<TargetAddr>().is_err(), "{text}");
    }
    for (text, is) in [
        ("127.1.2.3", true),
        ("[::1]", true),
        ("localhost", true),
        ("a", false),
    ] {
        assert_eq!(
            text.parse::<TargetAddr>().unwrap().is_loopback(),
            is,
            "{text}"
        );
    }
}

#[test]
fn quantities_are_read() {
    let bytes = |text| parse_bytes("k", text).ok();
    assert_eq!(bytes("0"), Some(0));
    assert_eq!(bytes("4096"), Some(4096));
    assert_eq!(bytes("50M"), Some(50 << 20));
    assert_eq!(bytes("1.5g"), Some(3 << 29));
    assert_eq!(bytes("2TiB"), Some(2 << 40));
    assert_eq!(bytes("8KB"), Some(8192));
    for odd in ["", "M", "-1", "1X", "1.5", "99999999T", "1.2.3M", "0x10"] {
        assert_eq!(bytes(odd), None, "{odd}");
    }
    let time = |text| parse_duration("k", text).ok();
    assert_eq!(time("1"), Some(Duration::from_secs(1)));
    assert_eq!(time("1.5s"), Some(Duration::from_millis(1500)));
    assert_eq!(time("20ms"), Some(Duration::from_millis(20)));
    assert_eq!(time("2m"), Some(Duration::from_secs(120)));
    assert_eq!(time("1h"), Some(Duration::from_secs(3600)));
    assert_eq!(time("1y"), None);
    assert_eq!(parse_percent("k", "50%").ok(), Some(50));
    assert_eq!(parse_percent("k", "101").ok(), None);
    assert_eq!(parse_switch("k", "on").ok(), Some(true));
}

#[test]
fn a_target_for_plain_tcp_listens_on_loopback_only() {
    let new = |listen, insecure| TargetOptions::new(listen, None, None, None, insecure);
    let listen = |text| new(Some(text), true).map(|o| o.listen.to_string());
    assert_eq!(
        new(None, true).unwrap().listen.to_string(),
        "127.0.0.1:7420"
    );
    assert_eq!(listen("127.0.0.1:0").unwrap(), "127.0.0.1:0");
    assert_eq!(listen("localhost:9").unwrap(), "127.0.0.1:9");
    assert_eq!(listen("9").unwrap(), "127.0.0.1:9");
    assert_eq!(listen("[::1]:9").unwrap(), "[::1]:9");
    assert_eq!(listen("[::1]").unwrap(), "[::1]:7420");
    let error = listen("0.0.0.0:7420").unwrap_err().to_string();
    assert!(error.contains("loopback addresses only"), "{error}");
    // With TLS for everybody: all addresses.
    assert_eq!(new(None, false).unwrap().listen.port(), 7420);
    assert!(new(None, false).unwrap().listen.ip().is_unspecified());
    assert!(new(Some("9"), false).unwrap().listen.ip().is_unspecified());
    assert!(new(Some("192.0.2.1:9"), false).is_ok());
    assert!(listen("nonsense").is_err());
}

/// A machine on which everything is allowed, and a directory in it.
struct Place {
    scratch: Scratch,
    dir: PathBuf,
    around: Surroundings,
}

impl Place {
    fn new() -> Place {
        let scratch = Scratch::new();
        Place {
            dir: scratch.dir("data"),
            scratch,
            around: Surroundings {
                is_root: true,
                has_fuse: true,
                mounts: Vec::new(),
                dead: Vec::new(),
            },
        }
    }

    /// The answer for `dir` with more options.
    fn check(
        &self,
        dir: &Path,
        mountpoint: Option<&Path>,
        more: &str,
    ) -> Result<MountOptions, MountRefusal> {
        let base = self.scratch.path().display();
        let mut settings = Settings::new();
        let text = format!("run-dir={base}/run,state={base}/state,{more}");
        settings.add_options(&text).unwrap();
        let mut options = MountOptions::new(dir, mountpoint, &settings).unwrap();
        check_mount(&mut options, &self.around).map(|()| options)
    }
}

#[test]
fn a_directory_with_its_files_elsewhere_may_be_protected() {
    let place = Place::new();
    assert_eq!(place.check(&place.dir, None, "").unwrap().dir, place.dir);
    let elsewhere = place.scratch.dir("elsewhere");
    assert!(place.check(&place.dir, Some(&elsewhere), "").is_ok());
}

#[test]
fn symbolic_links_are_resolved_before_judging() {
    let place = Place::new();
    let link = place.scratch.path().join("link");
    std::os::unix::fs::symlink(&place.dir, &link).unwrap();
    assert_eq!(place.check(&link, None, "").unwrap().dir, place.dir);
    let inner = place.scratch.dir("data/inner");
    let door = place.scratch.path().join("door");
    std::os::unix::fs::symlink(&inner, &door).unwrap();
    let refusal = place.check(&place.dir, None, &format!("state={}/s", door.display()));
    assert!(
        matches!(refusal, Err(MountRefusal::OwnInside { what: "state", .. })),
        "{refusal:?}"
    );
}

#[test]
fn each_reason_against_protection_has_its_own_message() {
    let place = Place::new();
    let base = place.scratch.path();
    let file = base.join("file");
    std::fs::write(&file, "").unwrap();
    let said = |result: Result<MountOptions, MountRefusal>| result.unwrap_err().to_string();
    let check = |dir: &Path| said(place.check(dir, None, ""));
    assert!(check(Path::new("/")).contains("/ cannot be protected as a whole"));
    assert!(check(&base.join("none")).contains("no such directory; create it first"));
    assert!(check(&file).contains("is not a directory"));
    assert!(check(&file.join("x")).contains("is not a directory"));
    for (what, key) in [
        ("state", "state"),
        ("run", "run-dir"),
        ("queue", "queue-dir"),
    ] {
        let more = format!("{key}={}/own", place.dir.display());
        let text = said(place.check(&place.dir, None, &more));
        assert!(text.contains(&format!("the {what} directory")), "{text}");
        assert!(text.contains(&format!("move it with --{key}")), "{text}");
    }
    let inner = place.scratch.dir("data/inner");
    let text = said(place.check(&place.dir, Some(&inner), ""));
    assert!(
        text.contains("lies inside") && text.contains("mount point"),
        "{text}"
    );
    let text = said(place.check(&place.dir, Some(base), ""));
    assert!(text.contains("would hide it"), "{text}");
    let unmounted = place.check(&place.dir, Some(&base.join("none")), "");
    assert!(matches!(unmounted, Err(MountRefusal::Missing(_))));
}

#[test]
fn a_protected_directory_is_not_protected_again() {
    let mut place = Place::new();
    place.around.mounts = vec![place.dir.clone()];
    let text = place.check(&place.dir, None, "").unwrap_err().to_string();
    assert!(text.contains("is protected already"), "{text}");
    assert!(text.contains("doppelfs umount"), "{text}");
    let inner = place.scratch.dir("data/inner");
    let text = place.check(&inner, None, "").unwrap_err().to_string();
    assert!(text.contains("lies inside"), "{text}");
    let other = place.scratch.dir("other");
    let refusal = place.check(&other, Some(&place.dir), "").unwrap_err();
    assert_eq!(refusal, MountRefusal::Protected(place.dir.clone()));
}

#[test]
fn a_name_that_a_live_worker_has_is_refused() {
    let place = Place::new();
    let run_dir = place.scratch.path().join("run");
    let runtime = runtime();
    let server = serve(&runtime, &run_dir, "data", Talker::default());
    let text = place.check(&place.dir, None, "").unwrap_err().to_string();
    assert!(
        text.contains("a set named \"data\" is mounted already"),
        "{text}"
    );
    assert!(place.check(&place.dir, None, "set=other").is_ok());
    drop(server);
    assert!(place.check(&place.dir, None, "").is_ok());
}

#[test]
fn without_root_or_fuse_the_remedy_is_named() {
    let mut place = Place::new();
    place.around.has_fuse = false;
    let text = place.check(&place.dir, None, "").unwrap_err().to_string();
    assert!(text.contains("modprobe fuse"), "{text}");
    place.around.is_root = false;
    let text = place.check(&place.dir, None, "").unwrap_err().to_string();
    assert!(text.contains("needs root"), "{text}");
}

#[test]
fn a_state_directory_belongs_to_one_owner() {
    let scratch = Scratch::new();
    let dir = scratch.path().join("a/b/state");
    let owner = StateOwner::new(Role::Source, "data", Path::new("/srv/data"));
    claim_state(&dir, &owner).unwrap();
    claim_state(&dir, &owner).unwrap();
    for other in [
        StateOwner::new(Role::Source, "web", Path::new("/srv/data")),
        StateOwner::new(Role::Source, "data", Path::new("/srv/web")),
        StateOwner::new(Role::Target, "target", Path::new("/srv/data")),
    ] {
        let error = claim_state(&dir, &other).unwrap_err();
        assert!(matches!(error, StateError::Other { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("belongs to set data (/srv/data)"),
            "{error}"
        );
    }
    let text = std::fs::read_to_string(dir.join("owner.json")).unwrap();
    std::fs::write(
        dir.join("owner.json"),
        text.replace("\"version\": 1", "\"version\": 2"),
    )
    .unwrap();
    assert!(matches!(
        claim_state(&dir, &owner),
        Err(StateError::Version { version: 2, .. })
    ));
    std::fs::write(dir.join("owner.json"), "{").unwrap();
    assert!(matches!(
        claim_state(&dir, &owner),
        Err(StateError::Damaged { .. })
    ));
}

#[test]
fn a_directory_with_foreign_files_is_no_state_directory() {
    let scratch = Scratch::new();
    let owner = StateOwner::new(Role::Source, "data", Path::new("/srv/data"));
    let dir = scratch.dir("home");
    std::fs::write(dir.join("letter"), "").unwrap();
    let error = claim_state(&dir, &owner).unwrap_err();
    assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    let error = claim_state(&dir.join("letter"), &owner).unwrap_err();
    assert!(matches!(error, StateError::Io { .. }), "{error}");
}
