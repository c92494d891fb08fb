//! Pairing, and who may come in: `target invite`, `pair`, `peers`, `target rotate-key`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::args_peers::{InviteArgs, PairArgs, PeersVerb, TermsArgs};
use super::run::{Outcome, unexpected};
use crate::config::{parse_bytes, parse_duration, parse_switch};
use crate::control::{
    self, Client, PeerLine, PeersReport, Reply, Request, Service, TermsChange, list_services,
};
use crate::keys::{PairedTarget, Pairings, Token};
use crate::sender;
use crate::sys;
use crate::wire::TargetAddr;

/// Longest token that is read from standard input.
const TOKEN_TEXT_BYTES_MAX: u64 = 4096;
/// Revoking waits for sessions to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The target of this host that was named, or the only one.
pub(super) fn choose_target(run_dir: &Path, port: Option<u16>) -> anyhow::Result<Service> {
    if let Some(port) = port {
        return Ok(Service::Target(port));
    }
    let services = list_services(run_dir)?;
    let targets: Vec<u16> = services
        .iter()
        .filter_map(|service| match service {
            Service::Target(port) => Some(*port),
            Service::Set(_) => None,
        })
        .collect();
    match targets.as_slice() {
        [port] => Ok(Service::Target(*port)),
        [] => bail!(
            "no target is served on this host (no control socket in {}); start one with `doppelfs target \
             serve`, or, if this is the source, run this on the target",
            run_dir.display()
        ),
        several => {
            let ports: Vec<String> = several.iter().map(u16::to_string).collect();
            bail!(
                "several targets are served on this host, name one by its port: {}",
                ports.join(", ")
            )
        }
    }
}

fn ask(run_dir: &Path, service: &Service, request: &Request) -> anyhow::Result<Reply> {
    let client = Client::connect(run_dir, service)?;
    Ok(client.ask(request, Some(PATIENCE))?)
}

fn terms_of(args: &TermsArgs) -> anyhow::Result<TermsChange> {
    let bytes = |text: &String| match text.as_str() {
        "unlimited" => Ok(0),
        text => parse_bytes("quota-bytes", text),
    };
    let files = |text: &String| match text.as_str() {
        "unlimited" => Ok(0),
        text => text
            .parse()
            .with_context(|| format!("quota-files: {text:?} is no number")),
    };
    let switch = |key: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| parse_switch(key, text)).transpose()
    };
    Ok(TermsChange {
        quota_bytes: args.quota_bytes.as_ref().map(bytes).transpose()?,
        quota_files: args.quota_files.as_ref().map(files).transpose()?,
        deny_dev: switch("deny-dev", &args.deny_dev)?,
        deny_suid: switch("deny-suid", &args.deny_suid)?,
    })
}

/// `doppelfs target invite`.
pub(super) fn invite(args: &InviteArgs, run_dir: &Path) -> anyhow::Result<Outcome> {
    let service = choose_target(run_dir, args.port)?;
    let expires = parse_duration("expires", &args.expires)?;
    if expires < Duration::from_secs(1) {
        bail!(
            "expires: {:?} is no time that somebody could use it in",
            args.expires
        );
    }
    let request = Request::Invite {
        set: args.set.clone(),
        path: args.path.clone(),
        terms: terms_of(&args.terms)?,
        expires_seconds: expires.as_secs(),
    };
    let (token, key) = match ask(run_dir, &service, &request)? {
        Reply::Invited { token, key } => (token, key),
        other => return unexpected(&service, &other).map(|()| Outcome::No),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let told = serde_json::json!({
            "token": token.0, "key": key, "expires_seconds": expires.as_secs(),
        });
        writeln!(out, "{told}")?;
        return Ok(Outcome::Yes);
    }
    let port = match service {
        Service::Target(port) => port,
        Service::Set(_) => 0,
    };
    writeln!(out, "{}", token.0)?;
    out.flush()?;
    // Beside the token, which a script may want alone.
    let mut words = std::io::stderr().lock();
    let _ = writeln!(
        words,
        "This lets in one source, once, within {}. It is a secret: carry it there by a safe way, and run\n  \
         doppelfs pair THIS-HOST:{port} TOKEN",
        args.expires
    );
    Ok(Outcome::Yes)
}

/// The token: the argument, or standard input where that is `-` or missing.
fn token_of(args: &PairArgs) -> anyhow::Result<Token> {
    let text = match args.token.as_deref() {
        Some(text) if text != "-" => {
            // Other users of this host see the arguments of its processes.
            if let Err(error) = sys::hide_argument(text.as_bytes()) {
                eprintln!("doppelfs: the token can be seen in the process list: {error}");
            }
            text.to_owned()
        }
        _ => {
            let mut input = std::io::stdin();
            if input.is_terminal() {
                eprint!("token: ");
            }
            let mut text = String::new();
            if input.is_terminal() {
                input
                    .read_line(&mut text)
                    .context("cannot read the token")?;
            } else {
                let mut limited = input.by_ref().take(TOKEN_TEXT_BYTES_MAX);
                limited
                    .read_to_string(&mut text)
                    .context("cannot read the token from standard input")?;
            }
            text
        }
    };
    let text = zeroize_text(text);
    Ok(text.0.parse()?)
}

/// Wiped when dropped.
fn zeroize_text(text: String) -> control::SecretText {
    control::SecretText(text)
}

fn need_root(what: &str) -> anyhow::Result<()> {
    if !sys::is_root() {
        bail!("{what} uses this host's key, which only root may read; run it with sudo");
    }
    Ok(())
}

/// `doppelfs pair`.
pub(super) fn pair(args: &PairArgs) -> anyhow::Result<Outcome> {
    let token = token_of(args)?;
    let target: TargetAddr = args.target.parse()?;
    if target.path.is_some() {
        bail!(
            "pair with HOST:PORT alone; the mirror path is given at the mount and granted by `target invite --path`"
        );
    }
    need_root("pairing")?;
    let name = args.name.clone().unwrap_or_else(sys::host_name);
    let pairings = Pairings::of(&absolute(&args.keys)?);
    let runtime = runtime()?;
    let paired = runtime.block_on(sender::pair(&target, &token, &name, &pairings));
    let (paired, grants) = paired?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "paired with {} ({}), which knows this host as {}",
        paired.endpoint, paired.name, paired.known_as
    )?;
    for grant in grants {
        writeln!(out, "  may replicate {grant}")?;
    }
    writeln!(out, "now: doppelfs mount DIR --target {}", paired.endpoint)?;
    Ok(Outcome::Yes)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("directory {}", path.display()))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// `doppelfs peers ...`.
pub(super) fn peers(verb: &PeersVerb, run_dir: &Path) -> anyhow::Result<Outcome> {
    match verb {
        PeersVerb::List { keys, json } => list(run_dir, &absolute(keys)?, *json),
        PeersVerb::Revoke { name, keys, port } => revoke(run_dir, &absolute(keys)?, name, *port),
        PeersVerb::Set { name, terms, port } => {
            let service = choose_target(run_dir, *port)?;
            let request = Request::SetPeer {
                name: name.clone(),
                terms: terms_of(terms)?,
            };
            match ask(run_dir, &service, &request)? {
                Reply::Peer(peer) => write!(std::io::stdout(), "{}", peer_text(&peer))?,
                other => unexpected(&service, &other)?,
            }
            Ok(Outcome::Yes)
        }
        PeersVerb::RotateKey { keys } => rotate_own(&absolute(keys)?),
    }
}

/// What the targets of this host say, and with whom it is paired as a source.
fn list(run_dir: &Path, keys: &Path, json: bool) -> anyhow::Result<Outcome> {
    let mut targets = Vec::new();
    for service in list_services(run_dir)? {
        if let Service::Target(port) = service
            && let Reply::Peers(report) = ask(run_dir, &service, &Request::Peers)?
        {
            targets.push((port, *report));
        }
    }
    let pairings = Pairings::of(keys);
    let (own, paired) = match sys::is_root() {
        true => (pairings.key()?, pairings.list()?),
        false => (None, Vec::new()),
    };
    let own = own.map(|key| key.fingerprint().to_string());
    let mut out = std::io::stdout().lock();
    if json {
        let of_target = |(port, report): &(u16, PeersReport)| serde_json::json!({ "port": port, "report": report });
        let told = serde_json::json!({
            "version": 1,
            "targets": targets.iter().map(of_target).collect::<Vec<_>>(),
            "source": { "key": own, "targets": paired },
        });
        writeln!(out, "{told:#}")?;
        return Ok(Outcome::Yes);
    }
    for (port, report) in &targets {
        write!(out, "{}", report_text(*port, report))?;
    }
    if let Some(own) = &own {
        writeln!(out, "as a source this host has key {own}")?;
    }
    for target in &paired {
        writeln!(out, "{}", paired_text(target))?;
    }
    if targets.is_empty() && paired.is_empty() {
        writeln!(
            out,
            "nobody is paired with this host; `doppelfs target invite` begins it on a target"
        )?;
    }
    Ok(Outcome::Yes)
}

fn paired_text(target: &PairedTarget) -> String {
    let keys: Vec<String> = target.keys.iter().map(|key| key.short()).collect();
    format!(
        "target {} ({}), key {}, knows this host as {}",
        target.endpoint,
        target.name,
        keys.join(" or "),
        target.known_as
    )
}

fn report_text(port: u16, report: &PeersReport) -> String {
    let mut text = format!("target on port {port}, key {}\n", report.key);
    if let Some(next) = &report.next_key {
        text += &format!("  next key {next}\n");
    }
    if report.peers.is_empty() {
        text += "  no source is paired; `doppelfs target invite` lets one in\n";
    }
    for peer in &report.peers {
        text += &peer_text(peer);
    }
    for refusal in &report.refusals {
        text += &format!("  refused {}: {}\n", refusal.from, refusal.text);
    }
    text
}

fn peer_text(peer: &PeerLine) -> String {
    let keys: Vec<&str> = peer
        .keys
        .iter()
        .map(|key| key.get(..16).unwrap_or(key))
        .collect();
    let mut text = format!(
        "  source {}, key {}, paired from {}: {}\n",
        peer.name,
        keys.join(" or "),
        peer.paired_from,
        match peer.connected.as_slice() {
            [] => "not connected".to_owned(),
            sets => format!("connected with {}", sets.join(", ")),
        }
    );
    for grant in &peer.grants {
        text += &format!("    may replicate {grant}\n");
    }
    let quota = |used: Option<u64>, max: Option<u64>, what: &str| match (used, max) {
        (Some(used), Some(max)) => format!("    {used} of {max} {what}\n"),
        (None, Some(max)) => format!("    at most {max} {what}\n"),
        (_, None) => String::new(),
    };
    text += &quota(peer.used_bytes, peer.quota_bytes, "bytes");
    text += &quota(peer.used_files, peer.quota_files, "files");
    if peer.deny_dev {
        text += "    device nodes are recorded, not made\n";
    }
    if peer.deny_suid {
        text += "    set-id bits and file capabilities are recorded, not set\n";
    }
    if peer.knows_next_key == Some(false) {
        text += "    has not been told the next key yet\n";
    }
    text
}

/// A source on a target of this host, or a target that this host is paired with.
fn revoke(run_dir: &Path, keys: &Path, name: &str, port: Option<u16>) -> anyhow::Result<Outcome> {
    let pairing = name.parse::<TargetAddr>().map(|target| target.pairing());
    let pairings = Pairings::of(keys);
    if let (None, true, Ok(pairing)) = (port, sys::is_root(), &pairing)
        && pairings.find(pairing).is_ok()
    {
        let _lock = pairings.lock()?;
        pairings.change(|targets| targets.retain(|known| known.endpoint != *pairing))?;
        writeln!(
            std::io::stdout(),
            "{pairing} is forgotten here; to have it forget this host, run `doppelfs peers revoke` there"
        )?;
        return Ok(Outcome::Yes);
    }
    let service = choose_target(run_dir, port)?;
    let request = Request::RevokePeer {
        name: name.to_owned(),
    };
    match ask(run_dir, &service, &request)? {
        Reply::Peer(peer) => writeln!(
            std::io::stdout(),
            "source {} is revoked: its connections are closed, its replicas stay as they are",
            peer.name
        )?,
        other => unexpected(&service, &other)?,
    }
    Ok(Outcome::Yes)
}

/// `doppelfs peers rotate-key`: this host's key as a source. All targets have to know the next one before
/// it is used.
fn rotate_own(keys: &Path) -> anyhow::Result<Outcome> {
    need_root("changing the key")?;
    let pairings = Pairings::of(keys);
    let lock = pairings.lock()?;
    let own = pairings.own_key()?;
    let paired = pairings.list()?;
    let next = pairings.next_key()?;
    let runtime = runtime()?;
    for target in &paired {
        let told = runtime.block_on(sender::announce_key(target, &own, &next));
        told.with_context(|| {
            format!(
                "the next key could not be told to {}; the old one stays in use, run this again (or forget that \
                 target: `doppelfs peers revoke {}`)",
                target.endpoint, target.endpoint
            )
        })?;
    }
    pairings.switch_key()?;
    drop(lock);
    let mut out = std::io::stdout().lock();
    writeln!(out, "this host's key is {} from now on", next.fingerprint())?;
    for target in &paired {
        // The old one is forgotten there, and sessions that came with it end.
        let told = runtime.block_on(sender::announce_key(target, &next, &next));
        if let Err(error) = told {
            writeln!(
                out,
                "warning: {} still takes the old key, too: {error}; run this again to change that",
                target.endpoint
            )?;
        }
    }
    Ok(Outcome::Yes)
}

/// `doppelfs target rotate-key`.
pub(super) fn rotate_target(
    run_dir: &Path,
    port: Option<u16>,
    finish: bool,
    force: bool,
) -> anyhow::Result<Outcome> {
    let service = choose_target(run_dir, port)?;
    let request = Request::RotateKey { finish, force };
    let mut out = std::io::stdout().lock();
    match ask(run_dir, &service, &request)? {
        Reply::KeyRotated {
            key,
            finished: true,
            ..
        } => writeln!(out, "the target's key is {key} from now on")?,
        Reply::KeyRotated { key, untold, .. } => {
            writeln!(
                out,
                "the next key is {key}; each source is told when it connects, and then `doppelfs target \
                 rotate-key --finish` goes over to it"
            )?;
            if !untold.is_empty() {
                writeln!(out, "not told yet: {}", untold.join(", "))?;
            }
        }
        other => unexpected(&service, &other)?,
    }
    Ok(Outcome::Yes)
}
