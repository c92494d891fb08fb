//! Where a symbolic link leads on the replica, when it leads into the set by an absolute path.

use serde::{Deserialize, Serialize};

use super::op::Xattr;
use super::withheld::is_own_xattr;

/// The extended attribute of a link on the replica that holds where the link leads on the source,
/// byte for byte. Only links that were rewritten have it: what it says cannot be computed back, as
/// several targets are rewritten to the same one, and a link may lead to the replica's path already
/// on the source.
pub const LINK_XATTR: &[u8] = b"trusted.doppelfs.link";

/// Targets that are longer, before or after, are left as they are: whatever the file system of the
/// replica, it holds a link of this length and the attribute beside it (a block of 1 KiB is the
/// smallest that there is for either).
pub const REMAP_BYTES_MAX: usize = 900;

/// Absolute links into `from` are rewritten to lead into `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    /// The paths by which the set is reached on the source; the first that fits counts.
    pub from: Vec<String>,
    /// The replica's path on the target.
    pub to: String,
}

impl Remap {
    /// The target of the replica's link; `None`: that of the source's.
    ///
    /// Only absolute targets that are or lie below one of the paths, by whole components, after
    /// `//`, `.` and `..` are resolved by their text alone.
    pub fn rewritten(&self, target: &[u8]) -> Option<Vec<u8>> {
        let found = components(target)?;
        let to = components(self.to.as_bytes())?;
        let from = self.from.iter().find_map(|from| {
            let from = components(from.as_bytes())?;
            found.starts_with(&from).then_some(from)
        })?;
        if from == to {
            return None;
        }
        let mut path = Vec::with_capacity(target.len() + self.to.len());
        for component in to.iter().chain(&found[from.len()..]) {
            path.push(b'/');
            path.extend_from_slice(component);
        }
        if path.is_empty() || names_a_directory(target) {
            path.push(b'/');
        }
        let fits = target.len().max(path.len()) <= REMAP_BYTES_MAX;
        fits.then_some(path)
    }

    /// The extended attributes of the replica's link, where the source's has this target and these:
    /// what it says on the source, if it was rewritten. The name is ours on every link: one that the
    /// source gives to a link of its own would be taken for ours.
    pub fn xattrs(&self, target: &[u8], source: &[Xattr]) -> Vec<Xattr> {
        let others = source.iter().filter(|xattr| !is_own_xattr(&xattr.name));
        let ours = self.rewritten(target).map(|_| Xattr {
            name: LINK_XATTR.to_vec(),
            value: target.to_vec(),
        });
        others.cloned().chain(ours).collect()
    }
}

/// The components of an absolute path, without empty ones, `.` and `..`.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    if path.first() != Some(&b'/') {
        return None;
    }
    let mut found = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            // Nothing is above the root.
            b".." => drop(found.pop()),
            name => found.push(name),
        }
    }
    Some(found)
}

/// Does it end so that only a directory is found there? Then what is made of it must, too.
fn names_a_directory(path: &[u8]) -> bool {
    let last = path.rsplit(|&byte| byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}
