//! Mirrors: listings and images make the replica exact, whatever it was before.

use std::collections::HashSet;

use crate::types::{Attrs, Entry, FileId, Name, Op, Scope, Xattr};

use super::engine::{Applier, Record};
use super::error::{At, Fault};
use super::fit::without_own;
use super::ledger::Mirror;
use super::lenient::{Guest, is_gone, limbo_name};
use super::map::Trust;
use super::namespace::place;
use super::replica::{Inode, InodeKind, Moving, Object, Range, Replica};

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

impl<R: Replica> Applier<R> {
    /// Something was done on the source that the stream does not tell.
    pub(super) fn gap(&mut self, ids: &[FileId], everything: bool) {
        self.meta.lenient = true;
        self.meta_changed = true;
        if everything {
            self.doubt_everything();
            // All that is there is found from here.
            if let Some(root) = self.meta.root {
                self.want_root(root);
            }
        }
        for id in ids {
            // Where everything is in doubt already it is wanted when it is found in a listing.
            if let Some(inode) = self.map.get(*id).filter(|_| self.map.is_of_epoch(*id)) {
                self.map.set_trust(*id, Trust::Stale);
                self.wants.add_anew(*id, inode.kind);
            }
        }
    }

    fn doubt_everything(&mut self) {
        self.map.set_epoch(self.map.epoch() + 1);
        self.wants.clear();
        self.meta_changed = true;
    }

    fn want_root(&mut self, root: FileId) {
        let inode = self.replica.root();
        self.map.bind(root, inode, Trust::Stale);
        self.want(root, InodeKind::Dir);
    }

    pub(super) fn mirror_begin(&mut self, number: u64, scope: Scope, root: FileId) {
        let unfinished = self.meta.mirror.map(|mirror| mirror.scope);
        if scope == Scope::Full {
            self.doubt_everything();
            if let Some(old) = self.meta.root.filter(|old| *old != root) {
                self.map.remove(old);
            }
            self.want_root(root);
            self.meta.root = Some(root);
        }
        self.meta.mirror = Some(Mirror {
            number,
            scope: if unfinished == Some(Scope::Full) {
                Scope::Full
            } else {
                scope
            },
            done_items: 0,
        });
        self.meta.lenient = true;
        self.meta.jump = false;
        self.meta_changed = true;
    }

    /// The mirror's end, unless something is still wanted: then it will be told again.
    pub(super) fn mirror_end(&mut self, number: u64) -> Result<(), Fault> {
        let ours = self
            .meta
            .mirror
            .is_some_and(|mirror| mirror.number == number);
        if !ours || self.wants.len() > 0 {
            return Ok(());
        }
        let mut gone = self.purge_limbo()?;
        if self.doubt {
            gone.extend(self.gone_objects()?);
        }
        self.map.remove_stale();
        // Their numbers may be given again, to files that are not these.
        self.map.remove_objects(&gone);
        self.meta.mirror = None;
        self.meta.lenient = false;
        self.meta_changed = true;
        Ok(())
    }

    /// What is known and is no more: an earlier attempt may have deleted it.
    fn gone_objects(&mut self) -> Result<HashSet<Object>, Fault> {
        let mut gone = HashSet::new();
        for inode in self.map.inodes() {
            match self.replica.attrs(inode) {
                Err(e) if is_gone(&e) => drop(gone.insert(inode.object)),
                found => drop(found.at(inode)?),
            }
        }
        Ok(gone)
    }

    /// Deletes everything in limbo; returns the objects that are no more. Directories are lifted out of
    /// directories first, so that depth costs neither stack nor long paths.
    fn purge_limbo(&mut self) -> Result<HashSet<Object>, Fault> {
        let limbo = self.replica.limbo();
        let mut gone = HashSet::new();
        loop {
            let names = self.replica.names(limbo).at(limbo)?;
            if names.is_empty() {
                return Ok(gone);
            }
            for name in &names {
                let found = self.replica.inspect(place(limbo, name));
                let Some(inode) = found.at_name(limbo, name)? else {
                    continue;
                };
                if inode.kind == InodeKind::Dir {
                    self.empty_into_limbo(inode, &mut gone)?;
                    self.replica
                        .rmdir(place(limbo, name))
                        .at_name(limbo, name)?;
                    gone.insert(inode.object);
                    self.replica.forget(inode.object);
                } else {
                    self.unlink_for_good(limbo, name, inode, &mut gone)?;
                }
            }
        }
    }

    /// Removes a name of something that is no directory.
    fn unlink_for_good(
        &mut self,
        dir: Inode,
        name: &Name,
        inode: Inode,
        gone: &mut HashSet<Object>,
    ) -> Result<(), Fault> {
        let attrs = self.replica.attrs(inode).at_name(dir, name)?;
        self.replica.unlink(place(dir, name)).at_name(dir, name)?;
        if attrs.nlink <= 1 {
            gone.insert(inode.object);
        }
        self.replica.forget(inode.object);
        Ok(())
    }

    fn empty_into_limbo(&mut self, dir: Inode, gone: &mut HashSet<Object>) -> Result<(), Fault> {
        let limbo = self.replica.limbo();
        for name in self.replica.names(dir).at(dir)? {
            let at = place(dir, &name);
            let Some(inode) = self.replica.inspect(at).at_name(dir, &name)? else {
                continue;
            };
            if inode.kind == InodeKind::Dir {
                let lifted = limbo_name(inode.object)?;
                let to = place(limbo, &lifted);
                let done = self.replica.rename(at, to, Moving::ToFree);
                done.at_name(dir, &name)?;
            } else {
                self.unlink_for_good(dir, &name, inode, gone)?;
            }
        }
        Ok(())
    }

    fn is_mirror_expected(&self) -> bool {
        self.meta.lenient && self.meta.position.is_some()
    }

    /// The source's answer for a file that it no longer has; it need not know what it was.
    fn is_told_dead(&mut self, id: FileId, after: Option<Attrs>) -> bool {
        let dead = after.is_some_and(|after| after.nlink == 0);
        if dead && self.is_mirror_expected() {
            self.drop_id(id);
        }
        dead
    }

    pub(super) fn listing(
        &mut self,
        id: FileId,
        entries: &[Entry],
        xattrs: &[Xattr],
        after: Option<Attrs>,
    ) -> Result<(), Fault> {
        if self.is_told_dead(id, after) {
            return Ok(());
        }
        let known = self
            .map
            .get(id)
            .filter(|inode| inode.kind == InodeKind::Dir);
        let Some(dir) = known.filter(|_| self.is_mirror_expected()) else {
            // Not in a mirror the directory is exact already; an unknown one has a parent that will
            // be listed.
            return Ok(());
        };
        let names = self.replica.names(dir).at(dir)?;
        let here: HashSet<&Name> = names.iter().collect();
        let listed: HashSet<&Name> = entries.iter().map(|entry| &entry.name).collect();
        for name in names.iter().filter(|name| !listed.contains(name)) {
            if let Some(object) = self.look(place(dir, name))? {
                self.displace(place(dir, name), object)?;
            }
        }
        for entry in entries {
            let guest = Guest {
                id: entry.id,
                node: &entry.node,
            };
            let at = place(dir, &entry.name);
            // Looked up now: what stood here may have been brought to an earlier entry.
            let found = match here.contains(&entry.name) {
                true => self.look(at)?,
                false => None,
            };
            self.settle_found(at, guest, found)?;
        }
        self.match_all(dir, &without_own(xattrs), after.as_ref())?;
        self.imaged(id);
        Ok(())
    }

    /// The image of `id` is complete.
    fn imaged(&mut self, id: FileId) {
        self.map.set_trust(id, Trust::Live);
        self.wants.remove(id);
        if let Some(mirror) = &mut self.meta.mirror {
            mirror.done_items += 1;
        }
    }

    pub(super) fn image(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let (Op::Image { id, .. }
        | Op::ImageBegin { id }
        | Op::ImageData { id, .. }
        | Op::ImageHole { id, .. }
        | Op::ImageEnd { id, .. }) = &record.body.op
        else {
            return Ok(());
        };
        let whole = matches!(record.body.op, Op::Image { .. });
        if whole && self.is_told_dead(*id, record.body.after) {
            return Ok(());
        }
        let known = self
            .map
            .get(*id)
            .filter(|inode| inode.kind != InodeKind::Dir);
        let Some(inode) = known.filter(|_| self.is_mirror_expected()) else {
            return Ok(());
        };
        let after = record.body.after;
        let imaging = self.map.trust(*id) == Some(Trust::Imaging);
        match &record.body.op {
            Op::Image { node, xattrs, .. } if InodeKind::of(node) == inode.kind => {
                self.whole_content(inode, record.payload)?;
                let xattrs = self.xattrs_here(node, xattrs);
                self.match_all(inode, &xattrs, after.as_ref())?;
                self.imaged(*id);
            }
            // Of another kind, it is made anew by the listing that it stands in, and asked for again.
            Op::ImageBegin { .. } if inode.kind == InodeKind::File => {
                self.map.set_trust(*id, Trust::Imaging);
                self.wants.add_asked(*id);
            }
            Op::ImageData { offset, .. } if imaging => {
                self.replica
                    .write(inode, *offset, record.payload)
                    .at(inode)?;
            }
            Op::ImageHole { offset, length, .. } if imaging => {
                let size = self.replica.attrs(inode).at(inode)?.size;
                if size > *offset && *length > 0 {
                    let range = Range {
                        mode: PUNCH,
                        offset: *offset,
                        length: *length,
                    };
                    let done = self.replica.fallocate(inode, range, record.seq.0);
                    done.at(inode)?;
                }
            }
            Op::ImageEnd { xattrs, .. } if imaging => {
                if let Some(after) = &after {
                    self.exact_size(inode, after.size)?;
                    self.match_all(inode, &without_own(xattrs), Some(after))?;
                    self.imaged(*id);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
