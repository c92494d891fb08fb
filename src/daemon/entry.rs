//! The way in of a worker: from options to a directory that it may serve, or from a dead worker to what
//! it served.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::config::{self, MountOptions, Order, Role, StateOwner, Surroundings};
use crate::confine;
use crate::journal::Journal;
use crate::keys::Pairings;
use crate::live::Live;
use crate::passthrough::{Tree, unfit};
use crate::supervisor::{Handover, Line, Ready};
use crate::sys;
use crate::types::FileId;

use super::claim::Claim;
use super::source::{Lineage, serve};
use super::stand_in::{StandIn, Unusable};
use super::start::{Begun, Start};
use super::ways::Spot;
use super::{bypass, claim, start};

/// `ST_NOSYMFOLLOW` of statfs(2).
const ST_NOSYMFOLLOW: u64 = 0x2000;

/// Protects a directory until it is unmounted.
///
/// # Errors
/// What stands in the way, for people.
pub fn run_source(mut options: MountOptions, ready: Ready) -> anyhow::Result<()> {
    sys::act_without_own_limits();
    if options.order == Order::Relaxed
        && let Err(error) = sys::serve_write_back()
    {
        tracing::warn!(%error, "writing back may wait for itself when memory is short");
    }
    // Before any thread is started, all of which inherit it.
    if let Err(error) = confine::give_up_unused() {
        tracing::debug!(%error, "capabilities that no source uses are kept");
    }
    let line = Line::inherited();
    let handover = line.as_ref().map(|line| line.begin()).transpose();
    let handover = handover.context("cannot hear the supervisor")?.flatten();
    if let (Some(handover), Some(line)) = (handover, &line) {
        return take_over(&options, handover, line, ready);
    }
    let around = Surroundings::look(&options.run_dir);
    config::check_mount(&mut options, &around)?;
    options.remap_from()?;
    let (warnings, is_bypassed) = look_around(&options)?;
    // A directory that cannot be protected leaves no claim behind.
    let tree = open_tree(&options)?;
    inherit_restrictions(&mut options, &tree)?;
    let claim = claim::take(&options)?;
    config::claim_state(&options.state_dir, &owner_of(&options))?;
    config::claim_queue(&options.queue_dir).with_context(|| {
        format!(
            "{} cannot be the queue directory; give another with --queue-dir",
            options.queue_dir.display()
        )
    })?;
    let stand_in = StandIn::of(&options);
    let how = Start::Mount {
        bypassed: is_bypassed,
        was_stood_in: stand_in.is_used(),
    };
    let begun = start::begin(&options, tree.root_id(), how)?;
    let live = match &line {
        Some(_) => Live::begin(&live_dir(&options), begun.incarnation)
            .context("cannot keep what survives a worker")?,
        None => Live::none(),
    };
    store_warnings(&begun.journal, &warnings);
    let lineage = Lineage {
        line,
        live,
        device: None,
        claim,
        restarts: 0,
        crashed: false,
        stand_in,
    };
    serve(&options, warnings, tree, begun, lineage, ready)
}

fn owner_of(options: &MountOptions) -> StateOwner {
    StateOwner {
        version: 1,
        role: Role::Source,
        name: options.set.to_string(),
        path: options.dir.clone(),
    }
}

/// Where what survives a worker is kept.
fn live_dir(options: &MountOptions) -> PathBuf {
    options.run_dir.join(format!("{}.live", options.set))
}

/// The fact that holds what the administrator should know, for the workers that come later: they do not
/// look around again, since their own mount is in the way.
const FACT_WARNINGS: &str = "warnings";

fn store_warnings(journal: &Journal, warnings: &[String]) {
    let bytes = rmp_serde::to_vec(warnings).unwrap_or_default();
    if let Err(error) = journal.put(FACT_WARNINGS, &bytes) {
        tracing::warn!(%error, "cannot keep the warnings");
    }
}

/// Goes on where the last worker died. Nothing of the mount may be touched before it is served.
fn take_over(
    options: &MountOptions,
    handover: Handover,
    line: &Arc<Line>,
    ready: Ready,
) -> anyhow::Result<()> {
    let Handover {
        device,
        tree,
        claim,
        kept,
        restarts,
        crashed,
    } = handover;
    tracing::info!(restarts, kept = kept.len(), "takes over");
    let live = Live::open(&live_dir(options)).context("cannot take over")?;
    let mut tree = Tree::new(tree, cached_descriptors()).context("cannot take over")?;
    tree.set_keeper(line.clone(), kept);
    let stand_in = StandIn::of(options);
    let (mut own, begun) = begin_again(options, tree.root_id(), &stand_in)?;
    let warnings = begun.journal.get(FACT_WARNINGS).ok().flatten();
    let warnings = warnings.and_then(|bytes| rmp_serde::from_slice(&bytes).ok());
    let mut warnings: Vec<String> = warnings.unwrap_or_default();
    if own.is_some() {
        warnings.push(stood_in_warning(options, &stand_in));
        let asked = start::ask_for_another(options);
        stand_in.watch(options, asked)?;
    }
    let lineage = Lineage {
        line: Some(line.clone()),
        live,
        device: Some(device),
        claim: Claim::of(claim),
        restarts,
        crashed,
        stand_in: stand_in.clone(),
    };
    drop(ready);
    let ready = Ready::silent();
    let is_own = own.is_none();
    let served = serve(
        &own.take().unwrap_or_else(|| options.clone()),
        warnings,
        tree,
        begun,
        lineage,
        ready,
    );
    if let Err(error) = &served
        && is_own
        && error.is::<Unusable>()
    {
        // The next worker is on its way.
        stand_in.note(&format!("{error:#}"), true)?;
    }
    served
}

/// What the next worker of a mount begins with: the state, or what stands in for it where it cannot be
/// used, whose options are returned then.
fn begin_again(
    options: &MountOptions,
    root: FileId,
    stand_in: &StandIn,
) -> anyhow::Result<(Option<MountOptions>, Begun)> {
    let begin = || -> anyhow::Result<Begun> {
        if !options.state_dir.exists() {
            tracing::error!(dir = %options.state_dir.display(), "the state is gone: it is begun anew, and a full mirror follows");
            config::claim_state(&options.state_dir, &owner_of(options))?;
        }
        let how = match stand_in.is_used() {
            true => Start::Anew,
            false => Start::TakeOver,
        };
        start::begin(options, root, how)
    };
    if !stand_in.take_advice() {
        // Libraries may panic over files that cannot be read.
        let begun = std::panic::catch_unwind(std::panic::AssertUnwindSafe(begin));
        match begun.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked; the log says where"))) {
            Ok(begun) => return Ok((None, begun)),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "the state cannot be used");
                stand_in.note(&format!("{error:#}"), false)?;
            }
        }
    }
    let own = stand_in.options(options)?;
    tracing::error!(dir = %own.state_dir.display(), "memory stands in for the state: a full mirror follows");
    let begun = start::begin(&own, root, Start::TakeOver)?;
    Ok((Some(own), begun))
}

fn stood_in_warning(options: &MountOptions, stand_in: &StandIn) -> String {
    format!(
        "the state in {} cannot be used ({}): memory stands in for it, with a small queue, and a loss of \
         power is followed by a full mirror; repair its disk, and the set goes back there by itself (at \
         once: `doppelfs restart {}`), with another mirror",
        options.state_dir.display(),
        stand_in.reason().trim(),
        options.set
    )
}

/// How many descriptors of nodes are cached.
fn cached_descriptors() -> usize {
    usize::try_from(sys::open_files_limit() / 4)
        .unwrap_or(256)
        .min(4096)
}

/// Can the directory be protected? Claims nothing; makes the run directory.
///
/// # Errors
/// Why not, for people.
pub fn probe_source(options: &MountOptions) -> anyhow::Result<()> {
    open_tree(options)?;
    check_pairings(options)?;
    claim::check(options)?;
    claim::make_run_dir(&options.run_dir)
}

/// Is this host paired with the targets? Found out here, where somebody reads it, and not only by the
/// connection.
fn check_pairings(options: &MountOptions) -> anyhow::Result<()> {
    if options.insecure_loopback {
        return Ok(());
    }
    let pairings = Pairings::of(&options.keys_dir);
    for target in &options.targets {
        pairings.find(&target.pairing())?;
        if pairings.key()?.is_none() {
            bail!(
                "there is no key in {}; pair this host with {target} once more",
                options.keys_dir.display()
            );
        }
    }
    Ok(())
}

fn open_tree(options: &MountOptions) -> anyhow::Result<Tree> {
    let unstamped = options.flags.unstamped();
    let root = if options.dir_is_dead {
        sys::clone_tree_beneath(&options.dir, config::FS_TYPE, unstamped)
    } else {
        sys::clone_tree(&options.dir, unstamped)
    };
    let root = root.with_context(|| format!("cannot reach below {}", options.dir.display()))?;
    let magic = sys::file_system_magic(root.as_fd()).unwrap_or_default();
    if let Some(reason) = unfit(magic) {
        bail!("{} lies on {reason}", options.dir.display());
    }
    if sys::folds_case(root.as_fd()) {
        bail!(
            "{} does not tell names apart that differ in case (casefold), and its replica would; \
             protect a directory without that attribute",
            options.dir.display()
        );
    }
    Tree::new(root, cached_descriptors()).with_context(|| {
        let mount = Spot::of(&options.dir).map(|spot| spot.mount);
        let fs_type = mount.map_or_else(|_| "unknown".to_owned(), |mount| mount.fs_type);
        format!(
            "{} lies on a file system of type {fs_type}, which cannot be protected: its files have \
             no lasting handles of a known form (those of ext2/3/4, xfs, btrfs, tmpfs have); protect \
             a directory of the file system that its data comes from",
            options.dir.display()
        )
    })
}

/// A mount never allows what the mount of the directory forbids: a set-user-id program, a device or
/// any program on a file system mounted without them must not come to life through ours.
fn inherit_restrictions(options: &mut MountOptions, tree: &Tree) -> anyhow::Result<()> {
    let below = sys::statvfs(tree.root())
        .with_context(|| format!("cannot examine the mount of {}", options.dir.display()))?;
    let flags = &mut options.flags;
    flags.read_only |= below.f_flag & libc::ST_RDONLY != 0;
    flags.no_suid |= below.f_flag & libc::ST_NOSUID != 0;
    flags.no_dev |= below.f_flag & libc::ST_NODEV != 0;
    flags.no_exec |= below.f_flag & libc::ST_NOEXEC != 0;
    flags.no_symfollow |= below.f_flag & ST_NOSYMFOLLOW != 0;
    Ok(())
}

/// Who reaches the tree beside the mount, and what lies in it unseen; and whether anybody does.
fn look_around(options: &MountOptions) -> anyhow::Result<(Vec<String>, bool)> {
    if options.dir_is_dead {
        let warning = format!(
            "the mount over {} took the place of a dead one, and ways beside it were not looked for: what \
             is changed by one is not replicated before the next mount",
            options.dir.display()
        );
        if options.strict_cover {
            bail!("strict-cover: {warning}; unmount the dead one first");
        }
        tracing::warn!("{warning}");
        return Ok((vec![warning], true));
    }
    let is_over = options.mountpoint == options.dir;
    let found = bypass::find(&options.dir, is_over);
    let mut warnings: Vec<String> = found.iter().map(ToString::to_string).collect();
    if options.strict_cover && !warnings.is_empty() {
        bail!("strict-cover: {}", warnings.join("; "));
    }
    let is_bypassed = !is_over || !warnings.is_empty();
    for mount in sys::beneath_mounts(&options.dir).unwrap_or_default() {
        warnings.push(format!(
            "{} is mounted inside the directory and is neither shown nor replicated; protect it as \
             a set of its own",
            mount.display()
        ));
    }
    warnings.extend(subvolumes_within(&options.dir));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok((warnings, is_bypassed))
}

/// Subvolumes of btrfs inside the directory, each with what becomes of it.
fn subvolumes_within(dir: &Path) -> Vec<String> {
    let found = std::fs::File::open(dir).and_then(|dir| sys::btrfs_subvolumes_in(dir.as_fd()));
    match found {
        Ok(found) => found
            .iter()
            .map(|inside| {
                format!(
                    "{} is a subvolume inside the directory and is neither shown nor replicated \
                     (opening it gives EXDEV); protect it as a set of its own",
                    dir.join(inside).display()
                )
            })
            .collect(),
        // Not btrfs, or a kernel that cannot tell.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => Vec::new(),
        Err(e) => vec![format!(
            "cannot tell whether subvolumes lie inside of {} ({e}); what is in them is neither shown \
             nor replicated",
            dir.display()
        )],
    }
}
