//! Bugs planted on purpose, to see that the simulator finds them: each stands where such a bug would be made.
//!
//! Without the feature `planted-bugs` nothing of this is in the program; with it, a bug is in force only on a thread that
//! has called [`plant`].

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A produce request is answered once it is buffered.
    AckBeforeDurable,
    /// A writer that finds a successor's fence in its slot goes on as if the slot were its own.
    FenceIgnored,
    /// The high watermark moves when a put starts.
    WatermarkAhead,
    /// Who waits for a slot that is lost gets no answer.
    LostWaiter,
    /// A batch that is there already is appended again.
    DuplicateAccepted,
    /// A commit is answered once it is on its way to the store.
    CommitBeforeDurable,
    /// A member of an old generation may commit.
    StaleCommitAccepted,
    /// A partition is given to a member while another may still have it.
    AssignedTwice,
    /// A broker coordinates groups while the one before it still does.
    PredecessorIgnored,
    /// A broker whose registration has lapsed goes on to coordinate groups.
    LapsedCoordinator,
    /// Sessions and rebalances of groups never end by time.
    DeadlinesPassUnnoticed,
    /// A fetch session is told of records only when the partition's end has moved since it was last told.
    RecordsAreNoNews,
    /// A partition is handed over while records of it are not durable yet.
    HandOverTooEarly,
    /// A leader whose registration has lapsed reads without asking whether it was replaced.
    ZombieReads,
    /// A successor looks for a stream's end without marking the stream first.
    SealingSkipped,
    /// A stream's owner trims it although a successor looks for its end.
    TrimUnderSuccessor,
    /// A slot that is missing ends its stream, although a later one vouches for it.
    HoleIsEnd,
    /// A partition whose records are damaged is served as if it ended before them.
    QuarantineForgotten,
    /// A change of a stream's record that is applied late counts in the record, not in memory, and the next merge is planned
    /// without knowing how the record stands.
    LateMergeForgotten,
    /// A broker that was without registration for longer than fences last goes on to write.
    PutsOutliveFence,
    /// Retention takes a negative timestamp for a time long ago.
    RetentionTrustsNegativeTime,
    /// A segment is taken for recorded although the partition has another owner.
    RollUnfenced,
    /// A segment's times are written before the segment, and stay when it comes out otherwise.
    TimesFirst,
    /// A topic whose record is missing or cannot be decoded is taken for deleted.
    AbsenceIsDeletion,
    /// A shard claims partitions on its stream without a look at the stream's record.
    ClaimIgnoresStream,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Puts a bug in force on this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    kafscale_metastore::planted::ignore_stream(bug == Some(Bug::ClaimIgnoresStream));
}

/// Whether this bug is in force.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is in force: never.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
