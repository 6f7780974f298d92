//! What sealed streams hold of a partition, and whether that is all of it.
//!
//! A partition's runs follow each other without a gap in their offsets, over all streams that its record names. So a run
//! behind a damaged object proves what the object held: if it begins where the run before the object ended, the object
//! held nothing of the partition; if it begins later, the offsets between are lost. Without a later run nothing is
//! proved, and the partition is refused until an operator decides.

use kafscale_storage_engine::partition_log::{ObjectRef, PartitionKey};
use kafscale_storage_engine::wal::Run;
use std::collections::HashMap;
use std::fmt;

/// An object that a stream's record counts on and that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub object: ObjectRef,
    /// Its key.
    pub key: String,
    /// What is wrong, after its key.
    pub why: String,
}

/// What a sealed stream holds.
#[derive(Debug, Default)]
pub(crate) struct StreamTail {
    /// By partition, in the order of slots.
    pub runs: HashMap<PartitionKey, Vec<(ObjectRef, Run)>>,
    /// What could not be read, in the order of slots.
    pub damaged: Vec<Damage>,
}

impl StreamTail {
    /// Adds the runs of the next object.
    pub fn add(&mut self, object: ObjectRef, runs: Vec<Run>) {
        for run in runs {
            let key = PartitionKey {
                topic_id: run.topic_id,
                partition: run.partition,
            };
            self.runs.entry(key).or_default().push((object, run));
        }
    }
}

/// Records of a partition are missing, or may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Lost {
    /// What is there ends here.
    pub from: i64,
    /// What is there goes on here; `None` if nobody knows whether there was more.
    pub to: Option<i64>,
    /// The object that held them, if one is known to be damaged.
    pub damage: Option<Damage>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) => write!(f, "the records from offset {} to {} are missing", self.from, to - 1)?,
            None => write!(f, "records from offset {} on may be missing", self.from)?,
        }
        let Some(Damage { object, key, why }) = &self.damage else {
            return write!(f, "; `kafscale-broker verify` names what is damaged");
        };
        write!(
            f,
            ": {key} {why}. Restore that object, or run `kafscale-broker accept-loss {} {}` to see and to accept what is lost",
            object.stream, object.first_seq
        )
    }
}

/// The runs of `key` that lie beyond `rolled_offset`, from its streams in order; `known_end` is an offset that the
/// partition has reached for sure.
///
/// # Errors
/// [`Lost`] if they have a gap, or may have one.
pub(crate) fn assemble<'a>(
    key: PartitionKey,
    rolled_offset: i64,
    known_end: i64,
    streams: impl Iterator<Item = &'a StreamTail>,
) -> Result<Vec<(ObjectRef, &'a Run)>, Lost> {
    let mut end = rolled_offset;
    let mut found = Vec::new();
    // Damage that no later run has explained yet.
    let mut open: Option<&Damage> = None;
    for stream in streams {
        let mut damaged = stream.damaged.iter().peekable();
        for (object, run) in stream.runs.get(&key).into_iter().flatten() {
            while let Some(damage) = damaged.next_if(|damage| damage.object.first_seq < object.first_seq) {
                open = open.or(Some(damage));
            }
            let is_new = run.next_offset > rolled_offset;
            // Only the first run may begin below the end: where segments end in the middle of it.
            if is_new && run.base_offset < end && (!found.is_empty() || run.next_offset <= end) {
                return Err(Lost {
                    from: end,
                    to: None,
                    damage: open.cloned(),
                });
            }
            if run.base_offset > end {
                return Err(Lost {
                    from: end,
                    to: Some(run.base_offset),
                    damage: open.cloned(),
                });
            }
            open = None;
            if is_new {
                end = run.next_offset;
                found.push((*object, run));
            }
        }
        open = open.or_else(|| damaged.next());
    }
    match open {
        // How far the damaged object reached is not known, even if an epoch began behind it.
        Some(damage) => Err(Lost {
            from: end,
            to: None,
            damage: Some(damage.clone()),
        }),
        None if end < known_end => Err(Lost {
            from: end,
            to: Some(known_end),
            damage: None,
        }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafscale_codec::types::TopicId;
    use kafscale_storage_engine::wal::StreamId;

    const P: PartitionKey = PartitionKey {
        topic_id: TopicId([1; 16]),
        partition: 0,
    };

    fn object(seq: u64) -> ObjectRef {
        ObjectRef {
            stream: StreamId(1),
            first_seq: seq,
            last_seq: seq,
            merged: false,
        }
    }

    fn run(base_offset: i64, next_offset: i64) -> Run {
        Run {
            topic_id: P.topic_id,
            partition: P.partition,
            leader_epoch: 1,
            base_offset,
            next_offset,
            position: 64,
            length: 1,
            max_timestamp: 0,
            crc32c: 0,
            producers: Vec::new(),
        }
    }

    /// A stream of slots: the offsets of one run each; `None` is a slot that is lost.
    fn stream(slots: &[Option<(i64, i64)>]) -> StreamTail {
        let mut tail = StreamTail::default();
        for (slot, seq) in slots.iter().zip(0..) {
            match slot {
                Some((0, 0)) => tail.add(object(seq), Vec::new()),
                Some((base, next)) => tail.add(object(seq), vec![run(*base, *next)]),
                None => tail.damaged.push(Damage {
                    object: object(seq),
                    key: format!("slot-{seq}"),
                    why: "is missing".to_string(),
                }),
            }
        }
        tail
    }

    fn ends(rolled: i64, known_end: i64, streams: &[StreamTail]) -> Result<i64, (i64, Option<i64>, Option<u64>)> {
        match assemble(P, rolled, known_end, streams.iter()) {
            Ok(runs) => Ok(runs.last().map_or(rolled, |(_, run)| run.next_offset)),
            Err(lost) => Err((lost.from, lost.to, lost.damage.map(|damage| damage.object.first_seq))),
        }
    }

    #[test]
    fn a_gap_in_the_offsets_is_what_the_lost_slot_held() {
        let all = [stream(&[Some((0, 5)), None, Some((8, 9))])];
        assert_eq!(ends(0, 0, &all), Err((5, Some(8), Some(1))));
    }

    #[test]
    fn a_partition_that_goes_on_without_a_gap_lost_nothing() {
        assert_eq!(ends(0, 0, &[stream(&[Some((0, 5)), None, Some((5, 9))])]), Ok(9));
        let two = [stream(&[Some((0, 5)), None]), stream(&[Some((5, 6))])];
        assert_eq!(ends(0, 0, &two), Ok(6), "a later stream proves it as well");
    }

    #[test]
    fn a_later_run_that_is_rolled_already_proves_it_too() {
        assert_eq!(ends(9, 0, &[stream(&[Some((0, 5)), None, Some((8, 9))])]), Ok(9));
    }

    #[test]
    fn without_a_later_run_nothing_is_proved() {
        assert_eq!(ends(0, 0, &[stream(&[Some((0, 5)), None])]), Err((5, None, Some(1))));
        assert_eq!(ends(5, 0, &[stream(&[None, Some((0, 0))])]), Err((5, None, Some(0))));
        assert_eq!(ends(0, 0, &[stream(&[Some((0, 5)), Some((0, 0))])]), Ok(5));
    }

    #[test]
    fn an_end_before_the_start_of_an_epoch_is_a_loss() {
        assert_eq!(ends(0, 5, &[stream(&[Some((0, 5))])]), Ok(5));
        assert_eq!(ends(0, 7, &[stream(&[Some((0, 5))])]), Err((5, Some(7), None)));
    }

    #[test]
    fn runs_that_overlap_are_refused() {
        for second in [(3, 5), (3, 8)] {
            let overlapping = [stream(&[Some((0, 5)), Some(second)])];
            assert_eq!(ends(0, 0, &overlapping), Err((5, None, None)));
        }
        assert_eq!(
            ends(2, 0, &[stream(&[Some((0, 5)), Some((5, 8))])]),
            Ok(8),
            "segments end in the middle of a run"
        );
    }
}
