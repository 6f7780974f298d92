//! Who has a slot: the rules of writers and successors as tables, without IO.
//!
//! Every slot is created at most once, so whoever creates it decides. A writer that finds another's object knows that it
//! was fenced; a successor that finds data goes on to the next slot. Nothing here looks at a clock.

/// What the store answered to a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutOutcome {
    /// The object is there, and it is ours.
    Created,
    /// The name is taken.
    Conflict,
    /// Not applied.
    NotApplied,
    /// Applied, not applied, or applied later: nobody knows.
    OutcomeUnknown,
}

/// What a slot holds, read back by its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotContent {
    /// Our object, known by its nonce.
    Mine,
    /// A successor's fence.
    Fence,
    /// Somebody's data, or bytes that are no write-ahead object.
    Other,
    /// Nothing.
    Absent,
    /// The store did not say.
    Unreadable,
}

/// What a writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriterAction {
    /// The slot is won and durable.
    Committed,
    /// Put the same bytes into the same slot again, after a pause.
    RetrySameSlot,
    /// Read the slot to see whose it is.
    ReadSlot,
    /// A successor has the stream.
    Fenced,
    /// The slot cannot be won and holds no fence: give the stream up and claim anew.
    GiveUp,
}

/// After a create. An unknown outcome is tried again in the same slot with the same bytes: if it was applied, the next
/// answer is a conflict, and the slot tells.
pub fn after_put(outcome: PutOutcome) -> WriterAction {
    match outcome {
        PutOutcome::Created => WriterAction::Committed,
        PutOutcome::Conflict => WriterAction::ReadSlot,
        PutOutcome::NotApplied | PutOutcome::OutcomeUnknown => WriterAction::RetrySameSlot,
    }
}

/// After reading a slot that a create found taken. Absent means that it was trimmed or that the read was served by a
/// store that lags: another create settles it.
pub fn after_read(content: SlotContent) -> WriterAction {
    match content {
        SlotContent::Mine => WriterAction::Committed,
        SlotContent::Fence => WriterAction::Fenced,
        SlotContent::Other => WriterAction::GiveUp,
        SlotContent::Absent | SlotContent::Unreadable => WriterAction::RetrySameSlot,
    }
}

/// How a stream's record stands, as a successor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SealState {
    /// Its owner may be writing and trimming.
    Open,
    /// A successor looks for the end; nothing is trimmed any more.
    Sealing,
    /// The slots before `end_seq` are the stream, for ever.
    Sealed {
        /// The slot after the last one that counts.
        end_seq: u64,
    },
}

/// What a successor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SuccessorAction {
    /// Record that the stream is being sealed (compare: unchanged).
    MarkSealing,
    /// Create a fence in this slot.
    PutFence(u64),
    /// Record that the stream ends before this slot (compare: unchanged).
    RecordSeal(u64),
    /// The end is known.
    Adopt(u64),
}

/// First step of a take-over, from the stream's record. The search begins at the first live slot of a record that says
/// *sealing*: only then can no slot vanish under it.
pub fn begin_takeover(state: SealState, first_live_seq: u64) -> SuccessorAction {
    match state {
        SealState::Open => SuccessorAction::MarkSealing,
        SealState::Sealing => SuccessorAction::PutFence(first_live_seq),
        SealState::Sealed { end_seq } => SuccessorAction::Adopt(end_seq),
    }
}

/// After a successor's create of a fence in `seq`. `taken_by` is what the slot holds if the name was taken.
pub fn after_fence(seq: u64, outcome: PutOutcome, taken_by: Option<SlotContent>) -> SuccessorAction {
    match (outcome, taken_by) {
        (PutOutcome::Created, _) => SuccessorAction::RecordSeal(seq),
        // Our own fence of an attempt whose outcome was unknown, or another successor's: the stream ends here either way.
        (PutOutcome::Conflict, Some(SlotContent::Fence | SlotContent::Mine)) => SuccessorAction::RecordSeal(seq),
        (PutOutcome::Conflict, Some(SlotContent::Other)) => SuccessorAction::PutFence(seq + 1),
        _ => SuccessorAction::PutFence(seq),
    }
}

/// Puts that a writer of any version has in flight at most: the upper limit of the setting `flush_pipeline`.
pub const PUTS_IN_FLIGHT_MAX: u64 = 64;

/// Every slot below the returned one was durable when the slot `seq` was written. `vouched` is what its header says.
///
/// A writer puts slot `seq` only while fewer than [`PUTS_IN_FLIGHT_MAX`] slots before it are not durable, so even an
/// object of a version that did not record the field vouches for the slots far enough before it. A fence goes into the
/// first free slot, so it vouches for all slots before it.
pub fn vouched_by(seq: u64, is_fence: bool, vouched: u64) -> u64 {
    match is_fence {
        true => seq,
        // A slot cannot vouch for itself: whatever a header says beyond that is not believed.
        false => vouched.min(seq).max((seq + 1).saturating_sub(PUTS_IN_FLIGHT_MAX)),
    }
}

/// Where the search for a stream's end begins: at the first live slot, or at the first slot that no later one vouches
/// for. A slot below that point counts even if it is missing: it was durable and has been lost, and a fence in its place
/// would silently cut off everything behind it.
pub fn search_from(first_live_seq: u64, vouched: u64) -> u64 {
    first_live_seq.max(vouched)
}

/// After a fence was found or won in `end`: `vouched` is what the slots behind it vouch for, by a listing that began after
/// the fence was there. A slot can be lost between a successor's first listing and its fence. The fence then sits in a
/// slot that counted, and the stream ends further behind.
pub fn after_second_listing(end: u64, vouched: u64) -> SuccessorAction {
    match vouched > end {
        true => SuccessorAction::PutFence(vouched),
        false => SuccessorAction::RecordSeal(end),
    }
}

/// Whether a stream's owner may record a new first live slot, and then delete what lies before.
pub fn may_trim(state: SealState) -> bool {
    state == SealState::Open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_acknowledges_only_what_is_its_own() {
        use PutOutcome::*;
        for outcome in [Created, Conflict, NotApplied, OutcomeUnknown] {
            assert_eq!(after_put(outcome) == WriterAction::Committed, outcome == Created);
        }
        for content in [
            SlotContent::Mine,
            SlotContent::Fence,
            SlotContent::Other,
            SlotContent::Absent,
            SlotContent::Unreadable,
        ] {
            assert_eq!(
                after_read(content) == WriterAction::Committed,
                content == SlotContent::Mine
            );
        }
    }

    #[test]
    fn a_successor_passes_data_and_stops_at_a_fence() {
        use PutOutcome::*;
        assert_eq!(after_fence(4, Created, None), SuccessorAction::RecordSeal(4));
        assert_eq!(
            after_fence(4, Conflict, Some(SlotContent::Fence)),
            SuccessorAction::RecordSeal(4)
        );
        assert_eq!(
            after_fence(4, Conflict, Some(SlotContent::Other)),
            SuccessorAction::PutFence(5)
        );
        for unclear in [NotApplied, OutcomeUnknown] {
            assert_eq!(after_fence(4, unclear, None), SuccessorAction::PutFence(4));
        }
        assert_eq!(
            after_fence(4, Conflict, Some(SlotContent::Unreadable)),
            SuccessorAction::PutFence(4)
        );
    }

    #[test]
    fn a_slot_vouches_for_what_was_durable_before_it_and_never_for_itself() {
        assert_eq!(vouched_by(9, false, 7), 7);
        assert_eq!(vouched_by(9, true, 0), 9, "a fence is in the first free slot");
        assert_eq!(
            vouched_by(9, false, 0),
            0,
            "an older version says nothing of the last few slots"
        );
        assert_eq!(
            vouched_by(100, false, 0),
            101 - PUTS_IN_FLIGHT_MAX,
            "and is believed of what cannot have been in flight"
        );
        assert_eq!(vouched_by(9, false, 1000), 9, "nonsense is not believed");
        assert_eq!((search_from(3, 7), search_from(7, 3)), (7, 7));
    }

    #[test]
    fn nothing_is_trimmed_under_a_successor() {
        assert!(may_trim(SealState::Open));
        assert!(!may_trim(SealState::Sealing));
        assert!(!may_trim(SealState::Sealed { end_seq: 3 }));
    }
}
