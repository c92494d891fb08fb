//! Names, strictly: every entry must be what the source had before the operation. The one
//! exception is an operation in doubt, which is decided by what stands there now.

use crate::types::{
    Attrs, Body, Dentry, FileId, Name, Node, Op, RenameMode, Replaced, Time, Xattr,
};

use super::engine::Applier;
use super::error::{At, Fault};
use super::map::Trust;
use super::replica::{Inode, InodeKind, Moving, Object, Place, Replica};

/// The number of the device that a whiteout is (character 0:0).
pub(super) const WHITEOUT_RDEV: u64 = 0;

/// A rename, with the ids and places resolved.
struct Move<'a> {
    object: Object,
    from: Place<'a>,
    to: Place<'a>,
    at_from: Option<Object>,
    at_to: Option<Object>,
}

impl<R: Replica> Applier<R> {
    fn known_dir(&self, id: FileId) -> Result<Inode, Fault> {
        match self.map.live(id) {
            Some(inode) if inode.kind == InodeKind::Dir => Ok(inode),
            _ => Err(Fault::unknown("the directory is not known")),
        }
    }

    fn known(&self, id: FileId) -> Result<Inode, Fault> {
        self.map
            .live(id)
            .ok_or_else(|| Fault::unknown("the file is not known"))
    }

    pub(super) fn look(&mut self, at: Place<'_>) -> Result<Option<Object>, Fault> {
        self.replica.lookup(at).at_name(at.dir, at.name)
    }

    pub(super) fn namespace_strict(&mut self, body: &Body) -> Result<(), Fault> {
        match &body.op {
            Op::Create {
                at,
                id,
                node,
                xattrs,
            } => {
                let dir = self.known_dir(at.parent)?;
                let place = Place {
                    dir,
                    name: &at.name,
                };
                let made = self.create_strict(place, node)?;
                self.map.bind(*id, made, Trust::Live);
                self.finish_new(made, node, xattrs, body.after.as_ref())?;
                self.dir_time(dir, body.dir_mtime)
            }
            Op::Link { id, at, .. } => self.link_strict(*id, at, body.dir_mtime),
            Op::Unlink { at, id } => {
                let dead = body.after.is_some_and(|after| after.nlink == 0);
                self.unlink_strict(*id, at, dead, body.dir_mtime)
            }
            Op::Rmdir { at, id } => self.rmdir_strict(*id, at, body.dir_mtime),
            Op::Rename {
                id,
                from,
                to,
                replaced,
                mode,
                ..
            } => {
                let (from_dir, to_dir) = (self.known_dir(from.parent)?, self.known_dir(to.parent)?);
                self.rename_strict(*id, (from_dir, from), (to_dir, to), replaced, *mode)?;
                self.exchanged_times(body)?;
                self.dir_time(from_dir, body.dir_mtime)?;
                self.dir_time(to_dir, body.to_mtime)
            }
            _ => Ok(()),
        }
    }

    fn create_strict(&mut self, at: Place<'_>, node: &Node) -> Result<Inode, Fault> {
        if self.doubt
            && let Some(found) = self.replica.inspect(at).at_name(at.dir, at.name)?
        {
            return self.adopt(at, found, node);
        }
        self.make(at, node)
    }

    /// Takes what stands at the name for what the operation in doubt has made, if it can be.
    fn adopt(&mut self, at: Place<'_>, found: Inode, node: &Node) -> Result<Inode, Fault> {
        let attrs = self.replica.attrs(found).at_name(at.dir, at.name)?;
        let untouched = match found.kind {
            InodeKind::Dir => true,
            InodeKind::File => attrs.size == 0 && attrs.nlink == 1,
            InodeKind::Other => attrs.nlink == 1,
        };
        if found.kind == InodeKind::of(node) && untouched && self.can_be(found, node)? {
            return Ok(found);
        }
        Err(Fault::diverged(at.dir, at.name, "something else is there"))
    }

    /// Attributes of an inode just made.
    pub(super) fn finish_new(
        &mut self,
        made: Inode,
        node: &Node,
        xattrs: &[Xattr],
        after: Option<&Attrs>,
    ) -> Result<(), Fault> {
        let xattrs = self.xattrs_here(node, xattrs);
        self.match_all(made, &xattrs, after)
    }

    fn link_strict(&mut self, id: FileId, at: &Dentry, mtime: Option<Time>) -> Result<(), Fault> {
        let (dir, inode) = (self.known_dir(at.parent)?, self.known(id)?);
        let place = Place {
            dir,
            name: &at.name,
        };
        let done = self.doubt && self.look(place)? == Some(inode.object);
        if !done {
            self.replica.link(inode, place).at_name(dir, &at.name)?;
        }
        self.dir_time(dir, mtime)
    }

    fn unlink_strict(
        &mut self,
        id: FileId,
        at: &Dentry,
        dead: bool,
        mtime: Option<Time>,
    ) -> Result<(), Fault> {
        let (dir, inode) = (self.known_dir(at.parent)?, self.known_or_dead(id)?);
        let place = Place {
            dir,
            name: &at.name,
        };
        match self.look(place)? {
            Some(found) if inode.is_some_and(|inode| inode.object == found) => {
                self.replica.unlink(place).at_name(dir, &at.name)?;
            }
            None if self.doubt => {}
            _ => return Err(Fault::diverged(dir, &at.name, "another file is there")),
        }
        if dead {
            self.drop_id(id);
        }
        self.dir_time(dir, mtime)
    }

    /// In doubt an id may be dead already: the operation that is done again dropped it.
    fn known_or_dead(&self, id: FileId) -> Result<Option<Inode>, Fault> {
        match self.known(id) {
            Ok(inode) => Ok(Some(inode)),
            Err(_) if self.doubt => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn rmdir_strict(&mut self, id: FileId, at: &Dentry, mtime: Option<Time>) -> Result<(), Fault> {
        let (dir, inode) = (self.known_dir(at.parent)?, self.known_or_dead(id)?);
        let place = Place {
            dir,
            name: &at.name,
        };
        match self.look(place)? {
            Some(found) if inode.is_some_and(|inode| inode.object == found) => {
                self.replica.rmdir(place).at_name(dir, &at.name)?;
            }
            None if self.doubt => {}
            _ => return Err(Fault::diverged(dir, &at.name, "another file is there")),
        }
        self.drop_id(id);
        self.dir_time(dir, mtime)
    }

    fn rename_strict(
        &mut self,
        id: FileId,
        (from_dir, from): (Inode, &Dentry),
        (to_dir, to): (Inode, &Dentry),
        replaced: &Option<Replaced>,
        mode: RenameMode,
    ) -> Result<(), Fault> {
        let (from, to) = (
            Place {
                dir: from_dir,
                name: &from.name,
            },
            Place {
                dir: to_dir,
                name: &to.name,
            },
        );
        let step = Move {
            object: self.known(id)?.object,
            from,
            to,
            at_from: self.look(from)?,
            at_to: self.look(to)?,
        };
        let over = match replaced {
            Some(replaced) => self.known_or_dead(replaced.id)?.map(|inode| inode.object),
            None => None,
        };
        match mode {
            RenameMode::Exchange => self.exchange_strict(&step, over),
            RenameMode::Plain => {
                self.move_strict(&step, over)?;
                self.drop_replaced(replaced);
                Ok(())
            }
            RenameMode::Whiteout {
                id: whiteout,
                after,
            } => {
                self.mark_moving(step.object)?;
                self.move_strict(&step, over)?;
                self.drop_replaced(replaced);
                self.whiteout(whiteout, from, &after)
            }
        }
    }

    fn exchange_strict(&mut self, step: &Move<'_>, other: Option<Object>) -> Result<(), Fault> {
        let before = step.at_from == Some(step.object) && step.at_to == other;
        let after = step.at_to == Some(step.object) && step.at_from == other;
        if before && other.is_some() {
            self.mark_moving(step.object)?;
            let done = self.replica.rename(step.from, step.to, Moving::Exchange);
            done.at_name(step.to.dir, step.to.name)
        } else if self.doubt && after {
            Ok(())
        } else {
            let name = step.from.name;
            Err(Fault::diverged(
                step.from.dir,
                name,
                "another file is there",
            ))
        }
    }

    fn move_strict(&mut self, step: &Move<'_>, over: Option<Object>) -> Result<(), Fault> {
        let moved =
            self.doubt && step.at_to == Some(step.object) && step.at_from != Some(step.object);
        if moved {
            return Ok(());
        }
        if step.at_from != Some(step.object) {
            let name = step.from.name;
            return Err(Fault::diverged(
                step.from.dir,
                name,
                "another file is there",
            ));
        }
        if step.at_to != over {
            let name = step.to.name;
            return Err(Fault::diverged(step.to.dir, name, "another file is there"));
        }
        let moving = match over {
            Some(_) => Moving::Over,
            None => Moving::ToFree,
        };
        let done = self.replica.rename(step.from, step.to, moving);
        done.at_name(step.to.dir, step.to.name)
    }

    pub(super) fn drop_replaced(&mut self, replaced: &Option<Replaced>) {
        if let Some(replaced) = replaced
            && (replaced.nlink == 0 || replaced.node.is_dir())
        {
            self.drop_id(replaced.id);
        }
    }

    /// What `RENAME_WHITEOUT` leaves behind.
    pub(super) fn whiteout(
        &mut self,
        id: FileId,
        at: Place<'_>,
        after: &Attrs,
    ) -> Result<(), Fault> {
        let found = self.replica.inspect(at).at_name(at.dir, at.name)?;
        let made = match found {
            Some(found)
                if self.doubt
                    && found.kind == InodeKind::Other
                    && self.can_be(found, &Node::Char(WHITEOUT_RDEV))? =>
            {
                found
            }
            Some(_) => return Err(Fault::diverged(at.dir, at.name, "something is there")),
            None => {
                let node = Node::Char(WHITEOUT_RDEV);
                self.replica.create(at, &node).at_name(at.dir, at.name)?
            }
        };
        self.map.bind(id, made, Trust::Live);
        self.match_attrs(made, after, None)
    }
}

/// An entry's place.
pub(super) fn place(dir: Inode, name: &Name) -> Place<'_> {
    Place { dir, name }
}
