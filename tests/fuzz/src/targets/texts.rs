//! Other texts: the kernel's tables, links, descriptions of our own that lie on disks.

use doppelfs::activity::Covered;
use doppelfs::config::StateOwner;
use doppelfs::stats::Snapshot;
use doppelfs::sys;
use doppelfs::types::{LINK_XATTR, Remap};

use super::draw::Draw;

/// Any bytes in each of their roles.
pub fn texts(bytes: &[u8]) {
    for mount in sys::parse_mounts(bytes) {
        assert!(mount.mountpoint.as_os_str().len() <= bytes.len());
    }
    let _ = sys::mount_id_in(bytes);
    if let Some(covered) = Covered::from_bytes(bytes) {
        assert_eq!(Covered::from_bytes(&covered.to_bytes()), Some(covered));
    }
    drop(serde_json::from_slice::<StateOwner>(bytes));
    drop(serde_json::from_slice::<Snapshot>(bytes));
    remap(bytes);
}

/// A link, and where it may lead.
fn remap(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let mut text = || String::from_utf8_lossy(draw.bytes(64)).into_owned();
    let remap = Remap {
        from: vec![text(), text()],
        to: text(),
    };
    let target = draw.rest();
    let Some(found) = remap.rewritten(target) else {
        return;
    };
    assert_eq!(found.first(), Some(&b'/'));
    assert!(!found.split(|&b| b == b'/').any(|part| part == b".."));
    let xattrs = remap.xattrs(target, &[]);
    assert!(
        xattrs
            .iter()
            .any(|x| x.name == LINK_XATTR && x.value == target)
    );
}
