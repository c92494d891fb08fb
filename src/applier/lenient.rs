//! Names while a mirror is under way: per directory. In a live one an operation's effect is made
//! so, whatever stands there; in any other it is ignored, as its listing is still to come.
//!
//! Every step is of the form "make it so", so that doing an operation a second time (after a crash
//! in the middle) ends where doing it once does. What is in the way, or leaves to where we do not
//! look yet, goes to limbo: it may be wanted elsewhere.

use crate::types::{Body, Dentry, FileId, Name, Node, Op, RenameMode, Replaced, Xattr};

use super::engine::Applier;
use super::error::{At, Fault};
use super::map::Trust;
use super::namespace::place;
use super::replica::{Inode, InodeKind, Moving, Object, Place, Replica};

/// A file of the source that shall stand at a name.
#[derive(Clone, Copy)]
pub(super) struct Guest<'a> {
    pub(super) id: FileId,
    pub(super) node: &'a Node,
}

/// The name of an object in limbo: its own, so that it has at most one.
pub(super) fn limbo_name(object: Object) -> Result<Name, Fault> {
    let text = format!("{}.{}", object.ino, object.generation);
    Name::new(text.as_bytes()).map_err(|_| Fault::unknown("no name in limbo"))
}

impl<R: Replica> Applier<R> {
    fn live_dir(&self, id: FileId) -> Option<Inode> {
        self.map
            .live(id)
            .filter(|inode| inode.kind == InodeKind::Dir)
    }

    pub(super) fn namespace_lenient(&mut self, body: &Body) -> Result<(), Fault> {
        match &body.op {
            Op::Create {
                at,
                id,
                node,
                xattrs,
            } => {
                let guest = Guest { id: *id, node };
                self.create_lenient(body, at, guest, xattrs)
            }
            Op::Link { id, at, node } => {
                let Some(dir) = self.live_dir(at.parent) else {
                    return Ok(());
                };
                self.settle_at(place(dir, &at.name), Guest { id: *id, node })?;
                self.dir_time(dir, body.dir_mtime)
            }
            Op::Unlink { at, id } | Op::Rmdir { at, id } => self.remove_lenient(body, at, *id),
            Op::Rename {
                id,
                node,
                from,
                to,
                replaced,
                mode,
            } => {
                let guest = Guest { id: *id, node };
                match (mode, replaced) {
                    (RenameMode::Exchange, Some(other)) => {
                        self.exchange_lenient(guest, other, from, to)?;
                    }
                    _ => self.rename_lenient(guest, (from, to), replaced, *mode)?,
                }
                self.exchanged_times(body)?;
                for (parent, mtime) in [(from.parent, body.dir_mtime), (to.parent, body.to_mtime)] {
                    if let Some(dir) = self.live_dir(parent) {
                        self.dir_time(dir, mtime)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn create_lenient(
        &mut self,
        body: &Body,
        at: &Dentry,
        guest: Guest<'_>,
        xattrs: &[Xattr],
    ) -> Result<(), Fault> {
        let Some(dir) = self.live_dir(at.parent) else {
            // It is new: whoever is known by its id was made in a history that was lost, and is not it.
            self.drop_id(guest.id);
            return Ok(());
        };
        let at = place(dir, &at.name);
        let known = self.map.get(guest.id).map(|inode| inode.object);
        let found = self.look(at)?;
        let made = match (found, self.map.get(guest.id)) {
            // Done before, and an error came after it.
            (Some(_), Some(inode)) if found == known => inode,
            _ => {
                self.clear_name(at, found)?;
                self.make(at, guest.node)?
            }
        };
        self.wants.remove(guest.id);
        self.map.bind(guest.id, made, Trust::Live);
        self.finish_new(made, guest.node, xattrs, body.after.as_ref())?;
        self.dir_time(dir, body.dir_mtime)
    }

    fn remove_lenient(&mut self, body: &Body, at: &Dentry, id: FileId) -> Result<(), Fault> {
        let is_dir = matches!(body.op, Op::Rmdir { .. });
        let dead = is_dir || body.after.is_some_and(|after| after.nlink == 0);
        if let Some(dir) = self.live_dir(at.parent) {
            self.remove_name(place(dir, &at.name), id, dead)?;
            self.dir_time(dir, body.dir_mtime)?;
        }
        if dead {
            self.drop_id(id);
        }
        Ok(())
    }

    /// Frees a name in a live directory: of `id` as it should be, or of whoever is there.
    fn remove_name(&mut self, at: Place<'_>, id: FileId, dead: bool) -> Result<(), Fault> {
        let Some(found) = self.look(at)? else {
            return Ok(());
        };
        match self.map.get(id).filter(|inode| inode.object == found) {
            Some(inode) if dead => self.delete(at, inode),
            Some(inode) => self.leave(at, inode),
            None => self.displace(at, found),
        }
    }

    /// Deletes a name of an object that is dead; a directory with something in it goes to limbo.
    fn delete(&mut self, at: Place<'_>, inode: Inode) -> Result<(), Fault> {
        if inode.kind != InodeKind::Dir {
            return self.replica.unlink(at).at_name(at.dir, at.name);
        }
        match self.replica.rmdir(at) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => self.displace(at, inode.object),
            done => done.at_name(at.dir, at.name),
        }
    }

    /// An object that goes on living loses a name here: its last one, or a directory's only one,
    /// becomes one in limbo.
    fn leave(&mut self, at: Place<'_>, inode: Inode) -> Result<(), Fault> {
        let other_names = inode.kind != InodeKind::Dir && {
            let attrs = self.replica.attrs(inode).at_name(at.dir, at.name)?;
            attrs.nlink > 1
        };
        if other_names {
            self.replica.unlink(at).at_name(at.dir, at.name)
        } else {
            self.displace(at, inode.object)
        }
    }

    /// Moves whoever is at a name to limbo.
    pub(super) fn displace(&mut self, at: Place<'_>, found: Object) -> Result<(), Fault> {
        let name = limbo_name(found)?;
        let to = place(self.replica.limbo(), &name);
        match self.replica.rename(at, to, Moving::ToFree) {
            // Only the object itself has this name there: one name too many.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.replica.unlink(at).at_name(at.dir, at.name)
            }
            done => done.at_name(at.dir, at.name),
        }
    }

    fn clear_name(&mut self, at: Place<'_>, found: Option<Object>) -> Result<(), Fault> {
        match found {
            Some(found) => self.displace(at, found),
            None => Ok(()),
        }
    }

    /// Makes a name in a live directory lead to this file: its object if there is one, else a
    /// placeholder whose image is wanted.
    pub(super) fn settle_at(&mut self, at: Place<'_>, guest: Guest<'_>) -> Result<(), Fault> {
        let found = self.look(at)?;
        self.settle_found(at, guest, found)
    }

    pub(super) fn settle_found(
        &mut self,
        at: Place<'_>,
        guest: Guest<'_>,
        found: Option<Object>,
    ) -> Result<(), Fault> {
        let known = self.map.get(guest.id);
        let known = known.filter(|inode| inode.kind == InodeKind::of(guest.node));
        let known = match known {
            Some(inode) if !self.can_be(inode, guest.node)? => None,
            known => known,
        };
        let placed = match known {
            Some(inode) if found == Some(inode.object) => true,
            Some(inode) => {
                self.clear_name(at, found)?;
                self.bring(inode, at)?
            }
            None => {
                self.clear_name(at, found)?;
                false
            }
        };
        if !placed {
            let made = self.make(at, guest.node)?;
            let before = self.map.get(guest.id);
            if before.is_some_and(|inode| inode.kind != made.kind) {
                // An answer to the question for what it was before was passed over, or will be.
                self.wants.remove(guest.id);
            }
            self.map.bind(guest.id, made, Trust::Stale);
        }
        self.want_if_stale(guest.id);
        Ok(())
    }

    /// `id` stands in a live directory now.
    fn want_if_stale(&mut self, id: FileId) {
        if self.map.trust(id) == Some(Trust::Stale)
            && let Some(inode) = self.map.get(id)
        {
            // Binds it to this epoch as placed.
            self.map.set_trust(id, Trust::Stale);
            self.want(id, inode.kind);
        }
    }

    /// Brings a known object to a free name, from wherever it is. False: it is gone.
    fn bring(&mut self, inode: Inode, at: Place<'_>) -> Result<bool, Fault> {
        if inode.kind != InodeKind::Dir {
            return match self.replica.link(inode, at) {
                Err(e) if is_gone(&e) => Ok(false),
                Err(e) if e.raw_os_error() == Some(libc::EMLINK) => {
                    self.free_limbo_name(inode)?;
                    self.replica.link(inode, at).at_name(at.dir, at.name)?;
                    Ok(true)
                }
                done => done.at_name(at.dir, at.name).map(|()| true),
            };
        }
        let (parent, name) = match self.replica.place_of_dir(inode) {
            Err(e) if is_gone(&e) => return Ok(false),
            found => found.at(inode)?,
        };
        self.move_to_free(inode, place(parent, &name), at)?;
        Ok(true)
    }

    /// Moves an entry to a free name.
    fn move_to_free(&mut self, inode: Inode, from: Place<'_>, at: Place<'_>) -> Result<(), Fault> {
        match self.replica.rename(from, at, Moving::ToFree) {
            // The directory that shall hold it is below it: the replica is still in disorder.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && inode.kind == InodeKind::Dir => {
                self.step_aside(at.dir, inode.object)?;
                let done = self.replica.rename(from, at, Moving::ToFree);
                done.at_name(at.dir, at.name)
            }
            done => done.at_name(at.dir, at.name),
        }
    }

    /// Takes `dir` out from below `above`, where the source does not have it. On the way up some
    /// directory is not live: what it holds there is not to be believed and goes to limbo, and the
    /// listing that says where it belongs is still to come. Where all are live, one of them was changed
    /// unseen, and the source is still to find out: none of them is believed any more.
    fn step_aside(&mut self, dir: Inode, above: Object) -> Result<(), Fault> {
        let live = self.map.live_dirs();
        let (mut child, mut way) = (dir, Vec::new());
        while child.object != above {
            let (parent, name) = self.replica.place_of_dir(child).at(child)?;
            way.push(parent.object);
            if !live.contains(&parent.object) {
                return self.displace(place(parent, &name), child.object);
            }
            child = parent;
        }
        Err(Fault::Disbelieved(way))
    }

    fn free_limbo_name(&mut self, inode: Inode) -> Result<(), Fault> {
        let name = limbo_name(inode.object)?;
        let at = place(self.replica.limbo(), &name);
        match self.replica.unlink(at) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.at_name(at.dir, at.name),
        }
    }

    fn rename_lenient(
        &mut self,
        guest: Guest<'_>,
        (from, to): (&Dentry, &Dentry),
        replaced: &Option<Replaced>,
        mode: RenameMode,
    ) -> Result<(), Fault> {
        let (from_dir, to_dir) = (self.live_dir(from.parent), self.live_dir(to.parent));
        if let Some(dir) = to_dir {
            let at = place(dir, &to.name);
            let source = from_dir.map(|dir| place(dir, &from.name));
            self.arrive(at, guest, replaced, source)?;
        }
        if let Some(dir) = from_dir {
            let at = place(dir, &from.name);
            self.remove_name(at, guest.id, false)?;
            if let RenameMode::Whiteout { id, after } = mode {
                self.whiteout(id, at, &after)?;
            }
        } else if let RenameMode::Whiteout { id, .. } = mode {
            // New, as in `create_lenient`.
            self.drop_id(id);
        }
        self.drop_replaced(replaced);
        Ok(())
    }

    /// The destination of a rename, in a live directory.
    fn arrive(
        &mut self,
        at: Place<'_>,
        guest: Guest<'_>,
        replaced: &Option<Replaced>,
        source: Option<Place<'_>>,
    ) -> Result<(), Fault> {
        let mut found = self.look(at)?;
        let inode = self.map.get(guest.id);
        if found.is_some() && found == inode.map(|inode| inode.object) {
            return self.settle_found(at, guest, found);
        }
        if let (Some(object), Some(replaced)) = (found, replaced) {
            let dead = replaced.nlink == 0 || replaced.node.is_dir();
            let victim = self.map.get(replaced.id);
            if let Some(victim) = victim.filter(|victim| dead && victim.object == object) {
                self.delete(at, victim)?;
                found = None;
            }
        }
        // The plain case is one rename, without a second name in between.
        if let (Some(source), Some(inode)) = (source, inode)
            && self.look(source)? == Some(inode.object)
        {
            self.clear_name(at, found)?;
            self.move_to_free(inode, source, at)?;
            self.want_if_stale(guest.id);
            return Ok(());
        }
        self.settle_found(at, guest, found)
    }

    /// Both halves by the rules of a rename; in one step where both directories are live.
    fn exchange_lenient(
        &mut self,
        guest: Guest<'_>,
        other: &Replaced,
        from: &Dentry,
        to: &Dentry,
    ) -> Result<(), Fault> {
        let second = Guest {
            id: other.id,
            node: &other.node,
        };
        let (from_dir, to_dir) = (self.live_dir(from.parent), self.live_dir(to.parent));
        if let (Some(from_dir), Some(to_dir)) = (from_dir, to_dir) {
            let (at_from, at_to) = (place(from_dir, &from.name), place(to_dir, &to.name));
            let object = |id| self.map.get(id).map(|inode| inode.object);
            let (one, two) = (object(guest.id), object(second.id));
            let (here, there) = (self.look(at_from)?, self.look(at_to)?);
            if one.is_some() && two.is_some() && here == one && there == two {
                match self.replica.rename(at_from, at_to, Moving::Exchange) {
                    // One is above the other's new place: the long way sorts it out.
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                    done => return done.at_name(to_dir, &to.name),
                }
            }
        }
        // Nobody may be pushed out of its place by the other's arrival: first both names are
        // freed, then both are taken.
        for (dir, name, leaving, coming) in [
            (from_dir, &from.name, guest.id, second.id),
            (to_dir, &to.name, second.id, guest.id),
        ] {
            let Some(dir) = dir else { continue };
            let arrived = self.map.get(coming).map(|inode| inode.object);
            let found = self.look(place(dir, name))?;
            if found.is_some() && found != arrived {
                self.remove_name(place(dir, name), leaving, false)?;
            }
        }
        for (dir, name, coming) in [(from_dir, &from.name, second), (to_dir, &to.name, guest)] {
            let Some(dir) = dir else { continue };
            self.settle_at(place(dir, name), coming)?;
        }
        Ok(())
    }
}

/// The object behind a handle, or its last name, is no more.
pub(super) fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT))
}
