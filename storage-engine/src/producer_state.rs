//! Idempotent producers of one partition (KIP-98): which batch comes next, and which is here already.
//!
//! The rules are those of Kafka's `ProducerStateManager` for producers without transactions. State changes when a batch
//! is *accepted*, so that several batches of one producer may be in flight.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};

/// Batches remembered per producer: as many as a producer may have in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

const MAGIC: &[u8; 4] = b"KPRS";
const VERSION: u16 = 2;

/// One batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerChange {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
    /// Sequence of the last record.
    pub last_sequence: i32,
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record.
    pub last_offset: i64,
    /// When it was accepted, ms since the Unix epoch.
    pub timestamp: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is the next one.
    Append,
    /// It is in the log already; answer as for the first time.
    Duplicate {
        /// Offset of its first record.
        base_offset: i64,
        /// Offset of its last record.
        last_offset: i64,
        /// When it was accepted, ms since the Unix epoch.
        timestamp: i64,
    },
    /// It is in the log already, before everything that is remembered of its producer: nobody knows where.
    DuplicateOfOld {
        /// It lies before this offset.
        before_offset: i64,
    },
    /// One before it is missing.
    OutOfOrderSequence,
    /// A newer incarnation of the producer has written.
    InvalidProducerEpoch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// Sequence with which it began in this epoch.
    first_sequence: i32,
    last_timestamp: i64,
    /// Oldest first; never empty.
    batches: VecDeque<Batch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Batch {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
    timestamp: i64,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerState {
    producers: BTreeMap<i64, Producer>,
    /// The largest id that was forgotten. Ids are handed out in ascending order, so a larger one that is not known never
    /// wrote here.
    forgotten: Option<i64>,
}

/// Leaves out of changes, in offset order, what no later state depends on: of each producer the first in its latest epoch
/// and its last [`BATCHES_PER_PRODUCER`] stay, so their number does not grow with that of the batches.
pub fn compact(changes: Vec<ProducerChange>) -> Vec<ProducerChange> {
    if changes.len() <= BATCHES_PER_PRODUCER + 1 {
        return changes;
    }
    // By producer: its latest epoch, and how many changes it has in it.
    let mut latest: BTreeMap<i64, (i16, usize)> = BTreeMap::new();
    for change in &changes {
        let (epoch, count) = latest.entry(change.producer_id).or_insert((change.producer_epoch, 0));
        if *epoch != change.producer_epoch {
            (*epoch, *count) = (change.producer_epoch, 0);
        }
        *count += 1;
    }
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    let mut kept = changes;
    kept.retain(|change| {
        let Some((epoch, count)) = latest.get(&change.producer_id) else {
            return true;
        };
        if *epoch != change.producer_epoch {
            return false;
        }
        let at = seen.entry(change.producer_id).or_insert(0);
        *at += 1;
        *at == 1 || *at + BATCHES_PER_PRODUCER > *count
    });
    kept.shrink_to_fit();
    kept
}

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no snapshot of producer state: {0}")]
pub struct SnapshotError(&'static str);

impl ProducerState {
    /// The state of a partition that has forgotten every producer: each may begin anywhere.
    pub fn all_forgotten() -> Self {
        ProducerState {
            forgotten: Some(i64::MAX),
            ..ProducerState::default()
        }
    }

    /// Decides about a batch. A producer that may have been forgotten may begin anywhere (KIP-360); one that is new begins
    /// at 0, or else the second of several requests on their way could get in before a first one that failed.
    pub fn check(&self, producer_id: i64, epoch: i16, base_sequence: i32, last_sequence: i32) -> Decision {
        let Some(producer) = self.producers.get(&producer_id) else {
            return match base_sequence {
                0 => Decision::Append,
                _ if self.forgotten >= Some(producer_id) => Decision::Append,
                _ => Decision::OutOfOrderSequence,
            };
        };
        if epoch < producer.epoch {
            return Decision::InvalidProducerEpoch;
        }
        if epoch > producer.epoch {
            return if base_sequence == 0 {
                Decision::Append
            } else {
                Decision::OutOfOrderSequence
            };
        }
        let same = |batch: &&Batch| batch.base_sequence == base_sequence && batch.last_sequence == last_sequence;
        if let Some(batch) = producer.batches.iter().find(same) {
            return Decision::Duplicate {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset,
                timestamp: batch.timestamp,
            };
        }
        match (producer.batches.front(), producer.batches.back()) {
            // What began at 0 and has come to here has nothing missing before.
            (Some(oldest), _) if producer.first_sequence == 0 && precedes(last_sequence, oldest.base_sequence) => {
                Decision::DuplicateOfOld {
                    before_offset: oldest.base_offset,
                }
            }
            (_, Some(last)) if next_sequence(last.last_sequence) != base_sequence => Decision::OutOfOrderSequence,
            _ => Decision::Append,
        }
    }

    /// Records an accepted batch.
    pub fn apply(&mut self, change: &ProducerChange) {
        let producer = self.producers.entry(change.producer_id).or_insert_with(|| Producer {
            epoch: change.producer_epoch,
            first_sequence: change.base_sequence,
            last_timestamp: change.timestamp,
            batches: VecDeque::new(),
        });
        if producer.epoch != change.producer_epoch {
            producer.epoch = change.producer_epoch;
            producer.first_sequence = change.base_sequence;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_PER_PRODUCER {
            producer.batches.pop_front();
        }
        producer.last_timestamp = producer.last_timestamp.max(change.timestamp);
        producer.batches.push_back(Batch {
            base_sequence: change.base_sequence,
            last_sequence: change.last_sequence,
            base_offset: change.base_offset,
            last_offset: change.last_offset,
            timestamp: change.timestamp,
        });
    }

    /// Forgets producers that have not written since `before_ms` (ms since the Unix epoch).
    pub fn expire(&mut self, before_ms: i64) {
        let forgotten = self
            .producers
            .extract_if(.., |_, producer| producer.last_timestamp < before_ms);
        self.forgotten = self.forgotten.max(forgotten.map(|(id, _)| id).max());
    }

    /// Producers with ids up to this one may begin anywhere, as if they had been forgotten.
    pub fn may_have_forgotten(&mut self, producer_id: i64) {
        self.forgotten = self.forgotten.max(Some(producer_id));
    }

    /// The same for at most `most` producers, from the id `from` on. Returns how many were looked at, and the id to go on
    /// from if there are more.
    pub fn expire_some(&mut self, before_ms: i64, from: i64, most: usize) -> (usize, Option<i64>) {
        let mut looked_at = 0;
        let mut next = None;
        let mut silent = Vec::new();
        for (id, producer) in self.producers.range(from..) {
            if looked_at == most {
                next = Some(*id);
                break;
            }
            looked_at += 1;
            if producer.last_timestamp < before_ms {
                silent.push(*id);
            }
        }
        for id in silent {
            self.producers.remove(&id);
            self.forgotten = self.forgotten.max(Some(id));
        }
        (looked_at, next)
    }

    /// The last batch of each producer.
    pub fn latest(&self) -> impl Iterator<Item = ProducerChange> + '_ {
        self.producers.iter().filter_map(|(id, producer)| {
            let last = producer.batches.back()?;
            Some(ProducerChange {
                producer_id: *id,
                producer_epoch: producer.epoch,
                base_sequence: last.base_sequence,
                last_sequence: last.last_sequence,
                base_offset: last.base_offset,
                last_offset: last.last_offset,
                timestamp: last.timestamp,
            })
        })
    }

    /// How many producers are remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The state as bytes: magic, version, largest forgotten id (−1 for none), producers, CRC-32C; big-endian.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u16(VERSION);
        out.put_i64(self.forgotten.unwrap_or(-1));
        out.put_u32(self.producers.len() as u32);
        for (id, producer) in &self.producers {
            out.put_i64(*id);
            out.put_i16(producer.epoch);
            out.put_i32(producer.first_sequence);
            out.put_i64(producer.last_timestamp);
            out.put_u8(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.put_i32(batch.base_sequence);
                out.put_i32(batch.last_sequence);
                out.put_i64(batch.base_offset);
                out.put_i64(batch.last_offset);
                out.put_i64(batch.timestamp);
            }
        }
        out.put_u32(crc32c::crc32c(&out));
        out.freeze()
    }

    /// Reads what [`ProducerState::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(SnapshotError("too short"))?;
        if crc32c::crc32c(body).to_be_bytes() != *crc {
            return Err(SnapshotError("CRC-32C does not match"));
        }
        let mut rest = body.strip_prefix(MAGIC).ok_or(SnapshotError("wrong magic"))?;
        let short = |_| SnapshotError("too short");
        if rest.try_get_u16().map_err(short)? != VERSION {
            return Err(SnapshotError("unknown version"));
        }
        let forgotten = Some(rest.try_get_i64().map_err(short)?).filter(|id| *id >= 0);
        let count = rest.try_get_u32().map_err(short)?;
        let mut producers = BTreeMap::new();
        for _ in 0..count {
            let id = rest.try_get_i64().map_err(short)?;
            let epoch = rest.try_get_i16().map_err(short)?;
            let first_sequence = rest.try_get_i32().map_err(short)?;
            let last_timestamp = rest.try_get_i64().map_err(short)?;
            let mut batches = VecDeque::new();
            for _ in 0..rest.try_get_u8().map_err(short)? {
                batches.push_back(Batch {
                    base_sequence: rest.try_get_i32().map_err(short)?,
                    last_sequence: rest.try_get_i32().map_err(short)?,
                    base_offset: rest.try_get_i64().map_err(short)?,
                    last_offset: rest.try_get_i64().map_err(short)?,
                    timestamp: rest.try_get_i64().map_err(short)?,
                });
            }
            producers.insert(
                id,
                Producer {
                    epoch,
                    first_sequence,
                    last_timestamp,
                    batches,
                },
            );
        }
        Ok(ProducerState { producers, forgotten })
    }
}

fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

/// Whether `sequence` is nearer behind `other` than before it; after the largest comes 0.
fn precedes(sequence: i32, other: i32) -> bool {
    let behind = (i64::from(other) - i64::from(sequence)).rem_euclid(1 << 31);
    (1..1 << 30).contains(&behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(epoch: i16, base_sequence: i32, last_sequence: i32, base_offset: i64) -> ProducerChange {
        ProducerChange {
            producer_id: 1,
            producer_epoch: epoch,
            base_sequence,
            last_sequence,
            base_offset,
            last_offset: base_offset + i64::from(last_sequence.wrapping_sub(base_sequence)),
            timestamp: base_offset,
        }
    }

    fn state(changes: &[ProducerChange]) -> ProducerState {
        let mut state = ProducerState::default();
        changes.iter().for_each(|change| state.apply(change));
        state
    }

    #[test]
    fn the_last_five_batches_are_answered_again_and_older_ones_are_known_to_be_there() {
        let changes: Vec<_> = (0..7).map(|n| change(0, n * 2, n * 2 + 1, i64::from(n) * 2)).collect();
        let state = state(&changes);
        for n in 0..7 {
            let decision = state.check(1, 0, n * 2, n * 2 + 1);
            let duplicate =
                matches!(decision, Decision::Duplicate { base_offset, .. } if base_offset == i64::from(n) * 2);
            assert_eq!(duplicate, n >= 2, "{n}: {decision:?}");
            assert_eq!(
                decision == (Decision::DuplicateOfOld { before_offset: 4 }),
                n < 2,
                "{decision:?}"
            );
        }
        assert_eq!(state.check(1, 0, 14, 20), Decision::Append);
        assert_eq!(state.check(1, 0, 15, 20), Decision::OutOfOrderSequence);
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_an_old_one_is_fenced() {
        let state = state(&[change(3, 10, 19, 0)]);
        assert_eq!(state.check(1, 4, 0, 3), Decision::Append);
        assert_eq!(state.check(1, 4, 20, 23), Decision::OutOfOrderSequence);
        assert_eq!(state.check(1, 2, 20, 23), Decision::InvalidProducerEpoch);
    }

    #[test]
    fn a_new_producer_begins_at_zero_and_one_that_may_have_been_forgotten_anywhere() {
        let mut state = state(&[change(0, 0, 9, 0)]);
        assert_eq!(state.check(2, 0, 5, 6), Decision::OutOfOrderSequence);
        assert_eq!(state.check(2, 0, 0, 6), Decision::Append);
        state.expire(i64::MAX);
        let restored = ProducerState::decode(&state.encode()).unwrap();
        for state in [state, restored] {
            assert_eq!(state.check(1, 0, 10, 12), Decision::Append);
            assert_eq!(state.check(0, 0, 10, 12), Decision::Append);
            assert_eq!(state.check(2, 0, 5, 6), Decision::OutOfOrderSequence);
        }
    }

    #[test]
    fn sequences_go_from_the_largest_to_zero() {
        let state = state(&[change(0, i32::MAX - 1, i32::MAX, 0)]);
        assert_eq!(state.check(1, 0, 0, 5), Decision::Append);
        assert_eq!(state.check(1, 0, 1, 5), Decision::OutOfOrderSequence);
        assert!(precedes(i32::MAX, 0) && precedes(i32::MAX - 5, 3) && precedes(3, 4));
        assert!(!precedes(0, i32::MAX) && !precedes(4, 4) && !precedes(4, 3));
        let state = self::state(&[change(0, 3, 5, 9)]);
        assert_eq!(
            state.check(1, 0, 0, 2),
            Decision::OutOfOrderSequence,
            "who did not begin at 0 may have left something out"
        );
        assert_eq!(state.check(1, 0, 7, 8), Decision::OutOfOrderSequence);
    }

    #[test]
    fn a_snapshot_restores_the_state_and_a_damaged_one_is_refused() {
        let state = state(&[change(0, 0, 4, 0), change(0, 5, 6, 5), change(1, 0, 0, 7)]);
        let bytes = state.encode();
        assert_eq!(ProducerState::decode(&bytes).unwrap(), state);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 4;
            assert!(ProducerState::decode(&damaged).is_err());
            assert!(ProducerState::decode(&bytes[..at]).is_err());
        }
    }

    #[test]
    fn producers_that_fell_silent_are_forgotten() {
        let mut state = state(&[change(0, 0, 0, 100)]);
        state.expire(100);
        assert_eq!(state.len(), 1);
        state.expire(101);
        assert!(state.is_empty());
    }

    #[test]
    fn producers_are_forgotten_a_few_at_a_time_and_all_in_the_end() {
        let changes: Vec<ProducerChange> = (0..100)
            .map(|id| ProducerChange {
                producer_id: id,
                timestamp: if id % 10 == 0 { 200 } else { 100 },
                ..change(0, 0, 0, id)
            })
            .collect();
        let mut some = state(&changes);
        let (mut from, mut rounds) = (0, 0);
        while let (looked_at, Some(next)) = some.expire_some(150, from, 7) {
            assert_eq!(looked_at, 7);
            (from, rounds) = (next, rounds + 1);
        }
        assert_eq!(rounds, 14);
        let mut all = state(&changes);
        all.expire(150);
        assert_eq!(some, all);
        assert_eq!(some.len(), 10);
    }

    #[test]
    fn compacted_changes_lead_to_the_same_state_wherever_they_are_cut() {
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) % below
        };
        for _ in 0..300 {
            let mut producers = [(0i16, 0i32); 3];
            let mut changes = Vec::new();
            for offset in 0..next(60) as i64 {
                let id = next(3) as usize;
                let (epoch, sequence) = &mut producers[id];
                if next(20) == 0 {
                    (*epoch, *sequence) = (*epoch + 1, 0);
                }
                changes.push(ProducerChange {
                    producer_id: id as i64,
                    producer_epoch: *epoch,
                    base_sequence: *sequence,
                    last_sequence: *sequence,
                    base_offset: offset,
                    last_offset: offset,
                    timestamp: offset,
                });
                *sequence += 1;
            }
            let state = |changes: &[ProducerChange], from: ProducerState| {
                let mut state = from;
                changes.iter().for_each(|change| state.apply(change));
                state
            };
            let all = state(&changes, ProducerState::default());
            let few = compact(changes.clone());
            assert!(few.len() <= 3 * (BATCHES_PER_PRODUCER + 1));
            // A snapshot may be taken between any two of them, and what comes after is applied to it.
            for cut in 0..=few.len() {
                let snapshot = state(&few[..cut], ProducerState::default());
                let snapshot = ProducerState::decode(&snapshot.encode()).unwrap();
                assert_eq!(state(&few[cut..], snapshot), all);
            }
        }
    }
}
