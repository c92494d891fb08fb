//! A replica on which some of what a source has is recorded, and not made.
//!
//! Where devices are withheld, an empty regular file stands for each, with its names, owner, times and mode,
//! and beside it as an extended attribute what it is on the source ([`Withheld`]). To the applier it is the
//! device. Set-id bits of files and capabilities of programs are recorded in the same way. What is recorded
//! follows what the source does: a mode without the bits, and what takes them away on the way (a change of
//! owner, a write), takes them from the record.
//!
//! Not withheld are the set-group-id bit of directories, which gives nobody a right; the character device
//! 0:0, which is a whiteout; and the bits of pipes and sockets, which nobody runs.
//!
//! # Invariants
//! * A file that stands for a device comes to its name as a whole: it is made in limbo and moved.
//! * Bits are recorded before they are taken, and set before they are no more recorded, so that doing an
//!   operation a second time ends where doing it once does.
//! * A replica that never had anything withheld is not asked for records: that some may be there is noted on
//!   it once, before the first.

use std::io;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::types::{
    Attrs, CAPABILITY_XATTR, Device, Name, Node, Remap, Time, WITHHELD_CAPABILITY_XATTR,
    WITHHELD_XATTR, Withheld, Xattr,
};

use super::replica::{
    Inode, InodeKind, Marker, Moving, Object, Place, Range, Replica, Syncer, Weight,
};
use super::terms::Lease;

/// Inodes whose record, or that they have none, is remembered.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

const S_IFMT: u32 = libc::S_IFMT;

/// What is recorded of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Record {
    withheld: Withheld,
    has_capability: bool,
}

/// See the module's doc.
#[derive(Debug)]
pub struct Withholding<R> {
    inner: R,
    lease: Lease,
    /// There may be records.
    has_records: bool,
    known: LruCache<Object, Record>,
}

impl<R: Replica> Withholding<R> {
    /// Wraps a replica.
    ///
    /// # Errors
    /// What the replica says when it is asked whether it has records.
    pub fn new(mut inner: R, lease: impl Into<Lease>) -> io::Result<Withholding<R>> {
        let has_records = inner.withholds()?;
        Ok(Withholding {
            inner,
            lease: lease.into(),
            has_records,
            known: LruCache::new(KNOWN_MAX),
        })
    }

    fn record(&mut self, inode: Inode) -> io::Result<Record> {
        if !self.has_records || inode.kind == InodeKind::Dir {
            return Ok(Record::default());
        }
        if let Some(known) = self.known.get(&inode.object) {
            return Ok(*known);
        }
        let attrs = self.inner.attrs(inode)?;
        let mut record = Record::default();
        if attrs.mode & S_IFMT == libc::S_IFREG {
            for xattr in self.inner.xattrs(inode)? {
                if xattr.name == WITHHELD_XATTR {
                    record.withheld = Withheld::decode(&xattr.value).unwrap_or_default();
                }
                record.has_capability |= xattr.name == WITHHELD_CAPABILITY_XATTR;
            }
        }
        // What has content is no device.
        if attrs.size > 0 {
            record.withheld.device = None;
        }
        self.known.put(inode.object, record);
        Ok(record)
    }

    fn note_records(&mut self) -> io::Result<()> {
        if !self.has_records {
            self.inner.note_withholding()?;
            self.has_records = true;
        }
        Ok(())
    }

    /// Makes the record of an inode so.
    fn set_withheld(&mut self, inode: Inode, withheld: Withheld) -> io::Result<()> {
        let before = self.record(inode)?;
        if before.withheld == withheld {
            return Ok(());
        }
        // Not known until it is written.
        self.known.pop(&inode.object);
        if withheld.is_empty() {
            self.inner.remove_xattr(inode, WITHHELD_XATTR)?;
        } else {
            self.note_records()?;
            let text = withheld.encode();
            self.inner.set_xattr(inode, WITHHELD_XATTR, &text)?;
        }
        self.known.put(inode.object, Record { withheld, ..before });
        Ok(())
    }

    fn drop_capability(&mut self, inode: Inode) -> io::Result<()> {
        let record = self.record(inode)?;
        if record.has_capability {
            self.known.pop(&inode.object);
            self.inner.remove_xattr(inode, WITHHELD_CAPABILITY_XATTR)?;
        }
        Ok(())
    }

    /// Is it a device that is not there?
    fn stands_for(&mut self, inode: Inode) -> io::Result<Option<Device>> {
        Ok(self.record(inode)?.withheld.device)
    }

    fn make_stand_in(&mut self, at: Place<'_>, device: Device) -> io::Result<Inode> {
        self.note_records()?;
        let name = Name::new(b"stand-in").map_err(|_| io::ErrorKind::InvalidInput)?;
        let dir = self.inner.limbo();
        let aside = Place { dir, name: &name };
        // What an earlier attempt left.
        match self.inner.unlink(aside) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
            _ => {}
        }
        let made = self.inner.create(aside, &Node::File)?;
        let withheld = Withheld {
            device: Some(device),
            mode_bits: 0,
        };
        self.inner
            .set_xattr(made, WITHHELD_XATTR, &withheld.encode())?;
        // It is opened anew as what it stands for: never to be written to.
        self.inner.forget(made.object);
        if let Err(e) = self.inner.rename(aside, at, Moving::ToFree) {
            drop(self.inner.unlink(aside));
            return Err(e);
        }
        let record = Record {
            withheld,
            has_capability: false,
        };
        self.known.put(made.object, record);
        Ok(Inode {
            object: made.object,
            kind: InodeKind::Other,
        })
    }
}

impl<R: Replica> Replica for Withholding<R> {
    fn root(&self) -> Inode {
        self.inner.root()
    }

    fn limbo(&self) -> Inode {
        self.inner.limbo()
    }

    fn instance(&self) -> u64 {
        self.inner.instance()
    }

    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
    }

    fn remap(&self) -> Option<&Remap> {
        self.inner.remap()
    }

    fn set_remap(&mut self, remap: Option<Remap>) {
        self.inner.set_remap(remap);
    }

    fn lookup(&mut self, at: Place<'_>) -> io::Result<Option<Object>> {
        self.inner.lookup(at)
    }

    fn inspect(&mut self, at: Place<'_>) -> io::Result<Option<Inode>> {
        let Some(mut found) = self.inner.inspect(at)? else {
            return Ok(None);
        };
        if found.kind == InodeKind::File && self.stands_for(found)?.is_some() {
            self.inner.forget(found.object);
            found.kind = InodeKind::Other;
        }
        Ok(Some(found))
    }

    fn create(&mut self, at: Place<'_>, node: &Node) -> io::Result<Inode> {
        match Device::of(node) {
            Some(device) if self.lease.terms().withholds_devices() => {
                self.make_stand_in(at, device)
            }
            _ => self.inner.create(at, node),
        }
    }

    fn read_link(&mut self, inode: Inode) -> io::Result<Vec<u8>> {
        self.inner.read_link(inode)
    }

    fn special(&mut self, inode: Inode) -> io::Result<(u32, u64)> {
        match self.stands_for(inode)? {
            Some(device) => Ok((device.type_bits(), device.rdev)),
            None => self.inner.special(inode),
        }
    }

    fn link(&mut self, inode: Inode, at: Place<'_>) -> io::Result<()> {
        self.inner.link(inode, at)
    }

    fn unlink(&mut self, at: Place<'_>) -> io::Result<()> {
        self.inner.unlink(at)
    }

    fn rmdir(&mut self, at: Place<'_>) -> io::Result<()> {
        self.inner.rmdir(at)
    }

    fn rename(&mut self, from: Place<'_>, to: Place<'_>, moving: Moving) -> io::Result<()> {
        self.inner.rename(from, to, moving)
    }

    fn names(&mut self, dir: Inode) -> io::Result<Vec<Name>> {
        self.inner.names(dir)
    }

    fn place_of_dir(&mut self, dir: Inode) -> io::Result<(Inode, Name)> {
        self.inner.place_of_dir(dir)
    }

    /// As the kernel does with a real one, also for root.
    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) -> io::Result<()> {
        self.drop_capability(file)?;
        self.inner.write(file, offset, data)
    }

    fn truncate(&mut self, file: Inode, size: u64) -> io::Result<()> {
        self.drop_capability(file)?;
        self.inner.truncate(file, size)
    }

    fn fallocate(&mut self, file: Inode, range: Range, seq: u64) -> io::Result<()> {
        self.drop_capability(file)?;
        self.inner.fallocate(file, range, seq)
    }

    fn shift_pending(&mut self, seq: u64) -> io::Result<bool> {
        self.inner.shift_pending(seq)
    }

    fn attrs(&mut self, inode: Inode) -> io::Result<Attrs> {
        let record = self.record(inode)?;
        let mut attrs = self.inner.attrs(inode)?;
        attrs.mode = record.withheld.mode(attrs.mode);
        Ok(attrs)
    }

    fn allocated(&mut self, inode: Inode) -> io::Result<u64> {
        self.inner.allocated(inode)
    }

    fn weigh(&mut self, at: Place<'_>) -> io::Result<Option<Weight>> {
        self.inner.weigh(at)
    }

    /// chown(2) clears set-id bits and capabilities, and so what is recorded of them.
    fn set_owner(&mut self, inode: Inode, uid: u32, gid: u32) -> io::Result<()> {
        self.inner.set_owner(inode, uid, gid)?;
        let mut withheld = self.record(inode)?.withheld;
        withheld.mode_bits &= !Withheld::SET_ID_BITS;
        self.set_withheld(inode, withheld)?;
        self.drop_capability(inode)
    }

    fn set_mode(&mut self, inode: Inode, mode: u32) -> io::Result<()> {
        let before = self.record(inode)?.withheld;
        let bits = match (before.device, inode.kind) {
            (Some(_), _) => Withheld::DEVICE_BITS,
            (None, InodeKind::File) if self.lease.terms().withholds_set_id() => {
                Withheld::SET_ID_BITS
            }
            (None, _) => 0,
        };
        let after = Withheld {
            mode_bits: mode & bits,
            ..before
        };
        if after.mode_bits & !before.mode_bits != 0 {
            let both = Withheld {
                mode_bits: before.mode_bits | after.mode_bits,
                ..before
            };
            self.set_withheld(inode, both)?;
        }
        self.inner.set_mode(inode, mode & !bits)?;
        self.set_withheld(inode, after)
    }

    fn set_times(
        &mut self,
        inode: Inode,
        atime: Option<Time>,
        mtime: Option<Time>,
    ) -> io::Result<()> {
        self.inner.set_times(inode, atime, mtime)
    }

    fn xattrs(&mut self, inode: Inode) -> io::Result<Vec<Xattr>> {
        let mut all = self.inner.xattrs(inode)?;
        if self.record(inode)? == Record::default() {
            return Ok(all);
        }
        all.retain(|xattr| xattr.name != WITHHELD_XATTR);
        let recorded = all
            .iter()
            .position(|xattr| xattr.name == WITHHELD_CAPABILITY_XATTR);
        if let Some(index) = recorded {
            let value = all.remove(index).value;
            all.retain(|xattr| xattr.name != CAPABILITY_XATTR);
            all.push(Xattr {
                name: CAPABILITY_XATTR.to_vec(),
                value,
            });
        }
        Ok(all)
    }

    fn set_xattr(&mut self, inode: Inode, name: &[u8], value: &[u8]) -> io::Result<()> {
        if name != CAPABILITY_XATTR {
            return self.inner.set_xattr(inode, name, value);
        }
        let is_withheld = match inode.kind {
            InodeKind::File => self.lease.terms().withholds_set_id(),
            InodeKind::Other => self.stands_for(inode)?.is_some(),
            InodeKind::Dir => false,
        };
        if is_withheld {
            self.note_records()?;
            self.known.pop(&inode.object);
            self.inner
                .set_xattr(inode, WITHHELD_CAPABILITY_XATTR, value)?;
            // One from before there was anything to be withheld.
            return self.inner.remove_xattr(inode, CAPABILITY_XATTR);
        }
        self.inner.set_xattr(inode, name, value)?;
        self.drop_capability(inode)
    }

    fn remove_xattr(&mut self, inode: Inode, name: &[u8]) -> io::Result<()> {
        self.inner.remove_xattr(inode, name)?;
        match name == CAPABILITY_XATTR {
            true => self.drop_capability(inode),
            false => Ok(()),
        }
    }

    fn forget(&mut self, object: Object) {
        self.known.pop(&object);
        self.inner.forget(object);
    }

    fn rest(&mut self) {
        self.known.clear();
        self.inner.rest();
    }

    fn mark(&mut self, marker: Marker) -> io::Result<()> {
        self.inner.mark(marker)
    }

    fn marked(&mut self) -> io::Result<Option<Marker>> {
        self.inner.marked()
    }

    fn withholds(&mut self) -> io::Result<bool> {
        self.inner.withholds()
    }

    fn note_withholding(&mut self) -> io::Result<()> {
        self.inner.note_withholding()
    }

    fn syncer(&self) -> io::Result<Syncer> {
        self.inner.syncer()
    }

    fn path_of(&mut self, inode: Inode) -> String {
        self.inner.path_of(inode)
    }
}
