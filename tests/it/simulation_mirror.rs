//! The threads of the simulation's source that put files in doubt and answer what is wanted, as
//! `mirror/check.rs`, `mirror/job.rs` and `capture/image.rs` do.

use doppelfs::types::{Body, FileId, Node, Op, RenameMode, Scope, Seq};
use rand::Rng;
use rand::rngs::StdRng;

use super::applier_model::{Source, id_of, ino_of};
use super::applier_world::{COLLAPSE, INSERT};
use super::simulation_source::{Event, Host, ns_of};

impl Host {
    pub fn is_checking(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.check.is_some())
    }

    /// The walk goes on by a directory.
    pub fn check_step(&mut self, rng: &mut StdRng) {
        let Some(run) = &mut self.run else { return };
        let Some(check) = &mut run.check else { return };
        let Some(dir) = check.dirs.pop() else {
            let suspects = std::mem::take(&mut check.suspects);
            if suspects.is_empty() {
                check.dirs = std::mem::take(&mut check.moved);
                if check.dirs.is_empty() {
                    run.check = None;
                    self.is_unwatched = false;
                }
            }
            return self.doubt(suspects.into_iter().collect(), false);
        };
        let Ok(thing) = self.source.world.get(dir) else {
            return;
        };
        for ino in thing.entries.values() {
            if self.source.world.things[ino].node.is_dir() {
                check.dirs.push(*ino);
            }
            let at = ns_of(&self.ctimes, *ino).unwrap_or(0);
            let covers = at > check.after_ns && at <= check.until_ns;
            if covers && !check.in_doubt.contains(&id_of(*ino)) {
                check.suspects.insert(id_of(*ino));
            }
        }
        if rng.random_bool(0.2) {
            let suspects = std::mem::take(&mut check.suspects);
            self.doubt(suspects.into_iter().collect(), false);
        }
    }

    /// Before an operation touches them: what was changed while nobody watched is put in doubt.
    pub fn check_doubts(&mut self, ids: &[FileId]) {
        let Some(check) = self.run.as_ref().and_then(|run| run.check.as_ref()) else {
            return;
        };
        let covers = |id: &&FileId| {
            let at = ns_of(&self.ctimes, ino_of(**id)).unwrap_or(0);
            at > check.after_ns && at <= check.until_ns && !check.in_doubt.contains(*id)
        };
        let ids: Vec<FileId> = ids.iter().filter(covers).copied().collect();
        self.doubt(ids, false);
    }

    /// What the walk and images under way have to know of an operation.
    pub fn note(&mut self, op: &Op) {
        match op {
            Op::Fallocate { mode, .. } if mode & (COLLAPSE | INSERT) != 0 => self.shifts += 1,
            Op::Rename {
                id,
                node,
                replaced,
                mode,
                ..
            } => {
                let other = replaced.as_ref().filter(|_| *mode == RenameMode::Exchange);
                let check = self.run.as_mut().and_then(|run| run.check.as_mut());
                let Some(check) = check else { return };
                if node.is_dir() {
                    check.moved.push(ino_of(*id));
                }
                if let Some(other) = other.filter(|other| other.node.is_dir()) {
                    check.moved.push(ino_of(other.id));
                }
            }
            _ => {}
        }
    }

    /// The mirror thread goes on by one record or group.
    pub fn mirror_step(&mut self, rng: &mut StdRng) {
        let Some(run) = &mut self.run else { return };
        let mut done = Vec::new();
        for event in run.events.drain(..) {
            match event {
                Event::Wanted(ids) => run.wants.extend(ids),
                Event::Reset => {
                    run.wants.clear();
                    run.imaging = None;
                }
                Event::Done(mirror) => done.push(mirror),
                Event::Doubt => run.partial_wanted = true,
            }
        }
        if run.check.is_some() {
            // More may be found.
            run.unended.append(&mut done);
        } else {
            done.extend(std::mem::take(&mut run.unended));
        }
        let begins = std::mem::take(&mut run.partial_wanted);
        for mirror in done {
            self.append(&[Source::mirror_end(mirror)]);
        }
        if begins {
            self.begin_mirror(Scope::Partial);
        }
        let Some(run) = &mut self.run else { return };
        if let Some(imaging) = run.imaging.take() {
            return self.image_on(imaging, rng);
        }
        let Some(id) = run.wants.pop_front() else {
            return;
        };
        let ino = ino_of(id);
        let world = &self.source.world;
        match world.things.get(&ino).map(|thing| &thing.node) {
            None => self.image_of_the_dead(ino),
            Some(Node::Dir) => {
                let listing = self.source.listing(ino, rng.random_range(1..6));
                self.append(&listing);
            }
            Some(Node::File) if rng.random_bool(0.3) => {
                let op = Op::ImageBegin { id };
                self.append(&[(Body::of(op), Vec::new())]);
                let shifts = self.shifts;
                self.run.as_mut().unwrap().imaging = Some((ino, 0, shifts));
            }
            Some(_) => {
                let image = self.source.image(ino);
                self.append(&[image]);
            }
        }
    }

    /// The mirror thread ends: a mirror that is due begins, as only its beginning in the stream leads to
    /// its end.
    pub fn stop_mirror(&mut self) {
        let run = self.run.as_mut();
        if run.is_some_and(|run| std::mem::take(&mut run.partial_wanted)) {
            self.begin_mirror(Scope::Partial);
        }
    }

    fn image_of_the_dead(&mut self, ino: u64) {
        let file = self.source.image(ino);
        self.append(&[file]);
        let dir = self.source.listing(ino, 1);
        self.append(&dir);
    }

    /// The next piece of a large file's image.
    fn image_on(&mut self, (ino, offset, shifts): (u64, usize, u64), rng: &mut StdRng) {
        let Some(thing) = self.source.world.things.get(&ino) else {
            return self.image_of_the_dead(ino);
        };
        let id = id_of(ino);
        let mut next = None;
        let (op, payload) = if shifts != self.shifts {
            next = Some((ino, 0, self.shifts));
            (Op::ImageBegin { id }, Vec::new())
        } else if offset < thing.data.len() {
            let end = thing.data.len().min(offset + rng.random_range(1..200));
            next = Some((ino, end, shifts));
            let offset_bytes = offset as u64;
            let op = Op::ImageData {
                id,
                offset: offset_bytes,
            };
            (op, thing.data[offset..end].to_vec())
        } else {
            let xattrs = self.source.world.xattr_list(ino).unwrap();
            (Op::ImageEnd { id, xattrs }, Vec::new())
        };
        let mut body = Body::of(op);
        if next.is_none() {
            body.after = self.source.world.attrs(ino).ok();
        }
        self.append(&[(body, payload)]);
        self.run.as_mut().unwrap().imaging = next;
    }

    /// Appends the beginning of a mirror; its position.
    pub fn begin_mirror(&mut self, scope: Scope) -> Seq {
        self.mirrors += 1;
        let begin = self.source.mirror_begin(self.mirrors, scope);
        self.append(&[begin]);
        self.journal.end()
    }

    /// Has the mirror thread nothing to do?
    pub fn is_idle(&self) -> bool {
        self.run.as_ref().is_some_and(|run| {
            let idle = run.wants.is_empty() && run.events.is_empty() && run.imaging.is_none();
            let idle = idle && run.unended.is_empty();
            idle && !run.partial_wanted && run.check.is_none()
        })
    }
}
