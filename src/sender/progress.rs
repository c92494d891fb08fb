//! From positions to bytes and times: how far behind a mark is.

use std::collections::VecDeque;

use crate::types::Seq;

/// Records remembered; beyond it every second of the older half is dropped.
const NOTES_MAX: usize = 1 << 15;

/// A record that was handed to the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    /// Its position.
    pub(super) seq: Seq,
    /// Bytes of frames up to and including it, on the scale of the journal's `end_bytes`.
    pub(super) bytes_end: u64,
    /// When it was captured.
    pub(super) time_ns: u64,
    /// How many operations of programs it stands for: its own, which is none for a mirror's record, and those of records
    /// before it that were dropped.
    pub(super) captured: u64,
}

/// The records on their way, sparsely: exact at every record remembered, and always exact at the
/// newest one, so that a connection that is caught up is behind by nothing.
#[derive(Debug, Default)]
pub(super) struct Progress {
    base_seq: Seq,
    base_bytes: u64,
    notes: VecDeque<Note>,
}

impl Progress {
    /// Begins anew: everything up to `seq` is `bytes` and done.
    pub(super) fn restart(&mut self, seq: Seq, bytes: u64) {
        *self = Progress {
            base_seq: seq,
            base_bytes: bytes,
            notes: VecDeque::new(),
        };
    }

    /// Remembers a record; positions rise.
    pub(super) fn push(&mut self, note: Note) {
        if self.notes.back().is_some_and(|last| last.seq >= note.seq) {
            return;
        }
        if self.notes.len() >= NOTES_MAX {
            self.thin();
        }
        self.notes.push_back(note);
    }

    fn thin(&mut self) {
        let half = self.notes.len() / 2;
        let (mut index, mut dropped) = (0, 0);
        self.notes.retain_mut(|note| {
            index += 1;
            note.captured += std::mem::take(&mut dropped);
            let stays = index > half || index % 2 == 0;
            if !stays {
                dropped = note.captured;
            }
            stays
        });
    }

    /// Forgets what is not needed to translate marks at or after `seq`.
    pub(super) fn forget_before(&mut self, seq: Seq) {
        while let Some(first) = self.notes.front().filter(|n| n.seq <= seq) {
            self.base_seq = first.seq;
            self.base_bytes = first.bytes_end;
            self.notes.pop_front();
        }
    }

    /// Bytes up to the newest record remembered that is not after `seq`.
    pub(super) fn bytes_at(&self, seq: Seq) -> u64 {
        let after = self.notes.partition_point(|n| n.seq <= seq);
        let note = after.checked_sub(1).and_then(|at| self.notes.get(at));
        note.map_or(self.base_bytes, |n| n.bytes_end)
    }

    /// When operations of programs after `from` up to `to` were captured, and how many each time stands for.
    pub(super) fn times_between(&self, from: Seq, to: Seq) -> impl Iterator<Item = (u64, u64)> {
        let first = self.notes.partition_point(|n| n.seq <= from);
        let after = self.notes.partition_point(|n| n.seq <= to);
        let notes = self.notes.range(first..after.max(first));
        let notes = notes.filter(|n| n.captured > 0);
        notes.map(|n| (n.time_ns, n.captured))
    }

    /// Was the record after `seq` handed over in an earlier session?
    pub(super) fn is_before(&self, seq: Seq) -> bool {
        seq < self.base_seq
    }

    /// When the first record after `seq` was captured, as far as it is remembered.
    pub(super) fn time_after(&self, seq: Seq) -> Option<u64> {
        let after = self.notes.partition_point(|n| n.seq <= seq);
        self.notes.get(after).map(|n| n.time_ns)
    }
}
