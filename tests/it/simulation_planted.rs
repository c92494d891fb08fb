//! Bugs planted in the simulation's driver: each must be found.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// The target says that it has received what its queue may still lose.
    AckBeforeDurable,
    /// A position is durable before the replica is.
    CheckpointWithoutSync,
    /// After the death of its process the target begins again some records earlier.
    AppliedTwice,
    /// The source forgets what it has sent.
    TrimmedEarly,
    /// The activity log names files after they were changed.
    MarkAfterChange,
    /// After a loss of power positions go on in the same history.
    HistoryKept,
    /// The operation that was under way when the target's process died is not looked at.
    DoubtIgnored,
}
