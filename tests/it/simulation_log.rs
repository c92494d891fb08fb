//! A model of a queue: records in order, of which a loss of power takes those at the end that were
//! not made durable. Groups are there whole or not at all, as in `journal/scan.rs`.

use doppelfs::codec::Frame;
use doppelfs::types::Seq;
use rand::Rng;
use rand::rngs::StdRng;

#[derive(Debug, Default)]
pub struct Log {
    /// Each with the time at which it came.
    frames: Vec<(Frame, i64)>,
    /// Before the first record.
    pub base: Seq,
    synced: Seq,
}

impl Log {
    pub fn end(&self) -> Seq {
        let last = self.frames.last();
        last.map_or(self.base, |(frame, _)| frame.header().seq)
    }

    pub fn last_clock(&self) -> Option<i64> {
        self.frames.last().map(|(_, clock)| *clock)
    }

    pub fn push(&mut self, frame: Frame, clock: i64) {
        assert_eq!(
            frame.header().prev_seq,
            self.end(),
            "a record that is not next"
        );
        self.frames.push((frame, clock));
    }

    pub fn sync(&mut self) -> Seq {
        self.synced = self.end();
        self.synced
    }

    /// The records after a position; `None`: they were trimmed.
    pub fn after(&self, seq: Seq, max: usize) -> Option<Vec<Frame>> {
        if seq < self.base {
            return None;
        }
        let first = self.frames.partition_point(|(f, _)| f.header().seq <= seq);
        let found = self.frames[first..].iter().take(max);
        Some(found.map(|(frame, _)| frame.clone()).collect())
    }

    /// What came after a position, for the trace.
    pub fn shown_after(&self, seq: Seq) -> String {
        let first = self.frames.partition_point(|(f, _)| f.header().seq <= seq);
        let ops = self.frames[first..].iter().map(|(frame, _)| {
            let op = frame.body().map(|body| body.op);
            op.map_or_else(|e| e.to_string(), |op| format!("{op:?}"))
        });
        ops.collect::<Vec<_>>().join(" + ")
    }

    /// Forgets records up to `seq` at most.
    pub fn trim(&mut self, seq: Seq) {
        let kept = |(f, _): &(Frame, i64)| f.header().seq > seq || f.header().has_more();
        let Some(last) = self
            .frames
            .iter()
            .take_while(|f| f.0.header().seq <= seq)
            .count()
            .checked_sub(1)
        else {
            return;
        };
        // Not in the middle of a group.
        let Some(last) = (0..=last).rev().find(|at| !kept(&self.frames[*at])) else {
            return;
        };
        self.base = self.frames[last].0.header().seq;
        self.synced = self.synced.max(self.base);
        self.frames.drain(..=last);
    }

    /// Empty, and goes on after `seq`.
    pub fn reset(&mut self, seq: Seq) {
        *self = Log {
            frames: Vec::new(),
            base: seq,
            synced: seq,
        };
    }

    pub fn lose_power(&mut self, rng: &mut StdRng) {
        let durable = self
            .frames
            .partition_point(|(f, _)| f.header().seq <= self.synced);
        let kept = rng.random_range(durable..=self.frames.len());
        self.frames.truncate(kept);
        while self
            .frames
            .last()
            .is_some_and(|(f, _)| f.header().has_more())
        {
            self.frames.pop();
        }
        self.synced = self.end();
    }
}
