//! `doppelfs compare`.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;

use crate::digest::{self, Progress};
use crate::sync;
use crate::types::Remap;

use super::paper::{bytes_text, duration_text};
use super::progress::{self, Told};
use super::run::Outcome;
use super::verdict::{float, whole};

/// What of two trees is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything.
    Contents,
    /// Only what stat, extended attributes and links tell.
    Metadata,
}

/// `FROM=TO` words; all of them lead to one place.
pub(super) fn parse_remap(words: &[String]) -> anyhow::Result<Option<Remap>> {
    let mut remap: Option<Remap> = None;
    for word in words {
        // Both are absolute, so that a path may have a `=` in it.
        let pair = word
            .split_once("=/")
            .filter(|(from, _)| from.starts_with('/'));
        let Some((from, to)) = pair else {
            bail!("--remap-links {word}: give two absolute paths, as FROM=TO");
        };
        let to = format!("/{to}");
        let all = remap.get_or_insert_with(|| Remap {
            from: Vec::new(),
            to: to.clone(),
        });
        if all.to != to {
            bail!(
                "--remap-links {word}: the right-hand tree has one place, not {} too",
                all.to
            );
        }
        all.from.push(from.to_owned());
    }
    Ok(remap)
}

/// Compares two trees, prints what differs and a summary.
pub(super) fn compare(
    left: &Path,
    right: &Path,
    depth: Depth,
    remap: Option<Remap>,
    json: bool,
) -> anyhow::Result<Outcome> {
    let options = digest::Options {
        contents: depth == Depth::Contents,
        remap,
        ..Default::default()
    };
    let progress = Arc::new(Progress::default());
    let look = look_at(left, &progress, depth);
    let report = progress::telling(Told::Terminals, look, || {
        digest::compare_watched(left, right, &options, &progress)
    })?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", report.to_string().trim_end())?;
    }
    Ok(if report.is_equal() {
        Outcome::Yes
    } else {
        Outcome::No
    })
}

/// What there is to compare, counted meanwhile for an estimate of the end.
#[derive(Debug, Default)]
struct Size {
    entries: AtomicU64,
    bytes: AtomicU64,
    is_known: AtomicBool,
}

/// Names below `root` on its file system, and bytes of its files. What cannot be read is not counted: the
/// comparison tells of it.
fn measure(root: &Path, size: &Size) {
    let Ok(device) = root.metadata().map(|meta| meta.dev()) else {
        return;
    };
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            size.entries.fetch_add(1, Ordering::Relaxed);
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() {
                size.bytes.fetch_add(meta.len(), Ordering::Relaxed);
            } else if meta.is_dir() && meta.dev() == device {
                pending.push(entry.path());
            }
        }
    }
    size.is_known.store(true, Ordering::Release);
}

/// Tells how far the comparison is. The left tree is measured only if somebody is told.
fn look_at(
    left: &Path,
    progress: &Arc<Progress>,
    depth: Depth,
) -> impl FnMut() -> Option<String> + Send + use<> {
    let (left, progress) = (left.to_owned(), progress.clone());
    let begun = Instant::now();
    let mut measured: Option<Arc<Size>> = None;
    move || {
        let size = measured.get_or_insert_with(|| {
            let size = Arc::new(Size::default());
            let (left, of) = (left.clone(), size.clone());
            // Without it there is no estimate.
            let _ = sync::spawn("dfs-measure", move || measure(&left, &of));
            size
        });
        Some(line(&progress, size, depth, begun.elapsed().as_secs_f64()))
    }
}

fn line(progress: &Progress, size: &Size, depth: Depth, seconds: f64) -> String {
    let (entries, bytes) = (progress.entries(), progress.bytes());
    let seconds = seconds.max(0.001);
    let mut text = format!(
        "{entries} names, {} compared; {:.0} names/s, {}/s",
        bytes_text(bytes),
        float(entries) / seconds,
        bytes_text(whole(float(bytes) / seconds))
    );
    if size.is_known.load(Ordering::Acquire) {
        let (done, all) = match depth {
            Depth::Contents => (bytes, size.bytes.load(Ordering::Relaxed)),
            Depth::Metadata => (entries, size.entries.load(Ordering::Relaxed)),
        };
        if done > 0 && all >= done {
            let left = seconds * float(all - done) / float(done);
            let percent = float(done) * 100.0 / float(all);
            text += &format!("; {percent:.0} %, about {} left", duration_text(left));
        }
    }
    text
}
