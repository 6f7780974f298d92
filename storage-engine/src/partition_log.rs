//! One partition's offsets and tail: what is accepted, what is durable, what still has to be rolled into segments.
//!
//! ```text
//! log_start_offset   rolled_offset          high_watermark        next_offset
//!        |  segments      |  tail runs (durable)   |  in flight, buffered  |
//! ```
//!
//! Everything here is decided without IO. A batch is *accepted* (it has its offset), then part of a run that is *in
//! flight* in a write-ahead slot, then *committed* when every slot up to its own is durable. Only committed records
//! can be read.

use crate::producer_state::{self, ProducerChange, ProducerState};
use crate::wal::{Run, StreamId};
use bytes::Bytes;
use kafscale_codec::record_batch::BatchHeader;
use kafscale_codec::types::TopicId;
use std::collections::VecDeque;

/// A partition's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition's index in it.
    pub partition: i32,
}

/// Names a write-ahead object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// The first slot that it covers.
    pub first_seq: u64,
    /// The last slot that it covers.
    pub last_seq: u64,
    /// Whether it is a merged object rather than the slot itself.
    pub merged: bool,
}

/// Where a run's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The object.
    pub object: ObjectRef,
    /// First byte in it.
    pub position: u64,
    /// How many bytes.
    pub length: u64,
}

/// Committed batches that lie together in one write-ahead object.
#[derive(Debug, Clone)]
pub struct TailRun {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset after the last record.
    pub next_offset: i64,
    /// Leader epoch that the batches carry.
    pub leader_epoch: i32,
    /// Largest record timestamp, ms since the Unix epoch.
    pub max_timestamp: i64,
    /// When its first record was accepted or recovered, ms since the Unix epoch.
    pub since_ms: i64,
    /// Where the bytes are stored.
    pub location: Location,
    /// The stored batches, one buffer each, as long as they are kept in memory.
    pub batches: Option<Vec<Bytes>>,
    /// What the run changed of the producer state.
    pub producers: Vec<ProducerChange>,
}

/// A run on its way to the store.
#[derive(Debug)]
struct InFlightRun {
    seq: u64,
    base_offset: i64,
    next_offset: i64,
    leader_epoch: i32,
    max_timestamp: i64,
    since_ms: i64,
    batches: Vec<Bytes>,
    producers: Vec<ProducerChange>,
}

/// Where the records of an offset are to be read.
#[derive(Debug, Clone)]
pub enum FetchPlan {
    /// Nothing is committed at this offset yet.
    AtEnd,
    /// In memory: whole batches, the first one holds the offset.
    Memory(Vec<Bytes>),
    /// In a write-ahead object; the batch that holds the offset lies somewhere in it.
    Object {
        /// The run's place.
        location: Location,
        /// Offset of the first record there.
        base_offset: i64,
        /// Offset after the last record there.
        next_offset: i64,
    },
    /// Below the tail: in a segment.
    Segment,
}

/// The offset is below the log's start or beyond its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} is outside {log_start_offset}..={high_watermark}")]
pub struct OffsetOutOfRange {
    /// What was asked for.
    pub offset: i64,
    /// The first offset that can be read.
    pub log_start_offset: i64,
    /// The offset after the last one that can be read.
    pub high_watermark: i64,
}

/// A run sealed for one flush: the footer's entry (without position) and the batches.
#[derive(Debug)]
pub struct SealedRun {
    /// Footer entry; position and CRC are the builder's to fill.
    pub run: Run,
    /// The batches, in offset order.
    pub batches: Vec<Bytes>,
}

/// Which runs a roll takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollPlan {
    /// First offset of the segment.
    pub base_offset: i64,
    /// Offset after its last record.
    pub next_offset: i64,
    /// Bytes of the batches.
    pub length: u64,
}

/// One partition, on the shard that owns it.
#[derive(Debug)]
pub struct PartitionLog {
    key: PartitionKey,
    leader_epoch: i32,
    log_start_offset: i64,
    rolled_offset: i64,
    high_watermark: i64,
    next_offset: i64,
    tail: VecDeque<TailRun>,
    tail_bytes: u64,
    in_flight: VecDeque<InFlightRun>,
    buffered: Vec<Bytes>,
    buffered_base_offset: i64,
    buffered_max_timestamp: i64,
    buffered_since_ms: i64,
    buffered_producers: Vec<ProducerChange>,
    /// Idempotent producers, as of `next_offset`.
    pub producers: ProducerState,
    /// The same as of `rolled_offset`: what a roll's snapshot is made of.
    rolled_producers: ProducerState,
}

impl PartitionLog {
    /// Opens a log whose segments end at `rolled_offset`; `tail` are its committed runs beyond, in order and without a
    /// gap, `rolled_producers` the producer state as of `rolled_offset`.
    pub fn open(
        key: PartitionKey,
        leader_epoch: i32,
        log_start_offset: i64,
        rolled_offset: i64,
        tail: Vec<TailRun>,
        rolled_producers: ProducerState,
    ) -> Self {
        let mut producers = rolled_producers.clone();
        let mut end = rolled_offset;
        for (at, run) in tail.iter().enumerate() {
            // Only the first run may begin below: when segments end in the middle of it.
            assert!(
                (run.base_offset == end || (at == 0 && run.base_offset < end)) && run.next_offset > end,
                "the tail of {key:?} has neither a gap nor an overlap"
            );
            end = run.next_offset;
            let unrolled = run
                .producers
                .iter()
                .filter(|change| change.last_offset >= rolled_offset);
            unrolled.for_each(|change| producers.apply(change));
        }
        let tail_bytes = tail.iter().map(|run| run.location.length).sum();
        let mut log = PartitionLog {
            key,
            leader_epoch,
            log_start_offset,
            rolled_offset,
            high_watermark: end,
            next_offset: end,
            tail: tail.into(),
            tail_bytes,
            in_flight: VecDeque::new(),
            buffered: Vec::new(),
            buffered_base_offset: end,
            buffered_max_timestamp: -1,
            buffered_since_ms: 0,
            buffered_producers: Vec::new(),
            producers,
            rolled_producers,
        };
        log.forget_superseded();
        log
    }

    /// The partition.
    pub fn key(&self) -> PartitionKey {
        self.key
    }

    /// The epoch in which this owner leads.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The first offset that can be read.
    pub fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    /// The offset after the last durable record; consumers see nothing at or beyond it.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The offset that the next accepted record gets.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The offset after the last record in a segment.
    pub fn rolled_offset(&self) -> i64 {
        self.rolled_offset
    }

    /// Bytes committed and not rolled.
    pub fn tail_bytes(&self) -> u64 {
        self.tail_bytes
    }

    /// The committed runs beyond the segments, oldest first.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = &TailRun> + ExactSizeIterator {
        self.tail.iter()
    }

    /// Since when the oldest unrolled record waits, ms since the Unix epoch.
    pub fn unrolled_since_ms(&self) -> Option<i64> {
        self.tail.front().map(|run| run.since_ms)
    }

    /// Whether batches wait for the next flush.
    pub fn has_buffered(&self) -> bool {
        !self.buffered.is_empty()
    }

    /// Whether anything accepted is not committed yet.
    pub fn has_uncommitted(&self) -> bool {
        self.next_offset != self.high_watermark
    }

    /// Accepts one stamped batch: its header as validated, with base offset `next_offset()`, and its bytes.
    pub fn append(&mut self, header: &BatchHeader, batch: Bytes, change: Option<ProducerChange>, now_ms: i64) {
        let records = i64::from(header.last_offset_delta) + 1;
        if self.buffered.is_empty() {
            self.buffered_base_offset = self.next_offset;
            self.buffered_since_ms = now_ms;
            self.buffered_max_timestamp = header.max_timestamp;
        }
        self.buffered_max_timestamp = self.buffered_max_timestamp.max(header.max_timestamp);
        self.next_offset += records;
        self.buffered.push(batch);
        if let Some(change) = change {
            self.producers.apply(&change);
            self.buffered_producers.push(change);
        }
    }

    /// The slot that makes `offset` durable, given that the next flush will be slot `next_seq`; `None` if it is
    /// durable already.
    pub fn slot_of(&self, offset: i64, next_seq: u64) -> Option<u64> {
        if offset < self.high_watermark {
            return None;
        }
        let run = self.in_flight.iter().find(|run| offset < run.next_offset);
        Some(run.map_or(next_seq, |run| run.seq))
    }

    /// Takes what is buffered into slot `seq`. `None` if nothing is.
    pub fn seal_run(&mut self, seq: u64) -> Option<SealedRun> {
        if self.buffered.is_empty() {
            return None;
        }
        let batches = std::mem::take(&mut self.buffered);
        let producers = std::mem::take(&mut self.buffered_producers);
        let run = Run {
            topic_id: self.key.topic_id,
            partition: self.key.partition,
            leader_epoch: self.leader_epoch,
            base_offset: self.buffered_base_offset,
            next_offset: self.next_offset,
            position: 0,
            length: batches.iter().map(|batch| batch.len() as u64).sum(),
            max_timestamp: self.buffered_max_timestamp,
            crc32c: 0,
            producers: producers.clone(),
        };
        self.in_flight.push_back(InFlightRun {
            seq,
            base_offset: run.base_offset,
            next_offset: run.next_offset,
            leader_epoch: run.leader_epoch,
            max_timestamp: run.max_timestamp,
            since_ms: self.buffered_since_ms,
            batches: batches.clone(),
            producers,
        });
        Some(SealedRun { run, batches })
    }

    /// The run of `object` became durable, and so did everything before it: the high watermark moves.
    pub fn commit(&mut self, object: ObjectRef, position: u64, length: u64) {
        let run = self
            .in_flight
            .pop_front()
            .expect("a slot commits the runs that were sealed into it");
        assert_eq!(run.seq, object.first_seq, "slots commit in order");
        assert_eq!(
            run.base_offset, self.high_watermark,
            "the high watermark moves without a gap"
        );
        self.high_watermark = run.next_offset;
        self.tail_bytes += length;
        self.tail.push_back(TailRun {
            base_offset: run.base_offset,
            next_offset: run.next_offset,
            leader_epoch: run.leader_epoch,
            max_timestamp: run.max_timestamp,
            since_ms: run.since_ms,
            location: Location {
                object,
                position,
                length,
            },
            batches: Some(run.batches),
            producers: run.producers,
        });
    }

    /// Where to read from `offset` on, about `max_bytes` and at least one batch.
    pub fn plan_fetch(&self, offset: i64, max_bytes: usize) -> Result<FetchPlan, OffsetOutOfRange> {
        if offset < self.log_start_offset || offset > self.high_watermark {
            return Err(OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start_offset,
                high_watermark: self.high_watermark,
            });
        }
        if offset == self.high_watermark {
            return Ok(FetchPlan::AtEnd);
        }
        if offset < self.rolled_offset {
            return Ok(FetchPlan::Segment);
        }
        let first = self.tail.partition_point(|run| run.next_offset <= offset);
        let run = &self.tail[first];
        if run.batches.is_none() {
            return Ok(FetchPlan::Object {
                location: run.location,
                base_offset: run.base_offset,
                next_offset: run.next_offset,
            });
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        for run in self.tail.range(first..) {
            let Some(batches) = &run.batches else { break };
            let skip = batches.partition_point(|batch| next_offset_of(batch) <= offset);
            for batch in &batches[skip..] {
                if !taken.is_empty() && bytes + batch.len() > max_bytes {
                    return Ok(FetchPlan::Memory(taken));
                }
                bytes += batch.len();
                taken.push(batch.clone());
            }
        }
        Ok(FetchPlan::Memory(taken))
    }

    /// Drops the bytes of the run at `base_offset` from memory; from now on it is read from its object. Returns how
    /// many bytes that were.
    pub fn evict(&mut self, base_offset: i64) -> usize {
        let at = self.tail.partition_point(|run| run.next_offset <= base_offset);
        match self.tail.get_mut(at) {
            Some(run) if run.base_offset <= base_offset => run
                .batches
                .take()
                .map_or(0, |batches| batches.iter().map(Bytes::len).sum()),
            _ => 0,
        }
    }

    /// The runs that the next segment takes: whole runs from the front until `segment_bytes` are reached. `None` if
    /// nothing is committed beyond the segments.
    pub fn plan_roll(&self, segment_bytes: u64) -> Option<RollPlan> {
        let mut plan = RollPlan {
            base_offset: self.rolled_offset,
            next_offset: self.rolled_offset,
            length: 0,
        };
        for run in &self.tail {
            if plan.length > 0 && plan.length + run.location.length > segment_bytes {
                break;
            }
            plan.length += run.location.length;
            plan.next_offset = run.next_offset;
        }
        (plan.length > 0).then_some(plan)
    }

    /// The producer state as of `offset`, a roll's end: for the snapshot.
    pub fn producers_at(&self, offset: i64) -> ProducerState {
        let mut state = self.rolled_producers.clone();
        for change in self.tail.iter().flat_map(|run| &run.producers) {
            if change.last_offset >= self.rolled_offset && change.last_offset < offset {
                state.apply(change);
            }
        }
        state
    }

    /// Forgets producers that have not written since `before_ms` (ms since the Unix epoch), looking at some `most` of them from
    /// the id `from` on. Returns how many were looked at, and the id to go on from if there are more.
    pub fn expire_producers(&mut self, before_ms: i64, from: i64, most: usize) -> (usize, Option<i64>) {
        let (looked_at, next) = self.producers.expire_some(before_ms, from, most);
        let (also_looked_at, also_next) = self.rolled_producers.expire_some(before_ms, from, most);
        let next = next.into_iter().chain(also_next).min();
        (looked_at + also_looked_at, next)
    }

    /// Segments now reach `offset`: the runs below leave the tail and are returned. A run that reaches beyond stays
    /// whole.
    pub fn rolled(&mut self, offset: i64) -> Vec<TailRun> {
        assert!(offset <= self.high_watermark, "only committed records are rolled");
        self.rolled_producers = self.producers_at(offset);
        self.rolled_offset = self.rolled_offset.max(offset);
        let mut gone = Vec::new();
        while self.tail.front().is_some_and(|run| run.next_offset <= offset) {
            if let Some(run) = self.tail.pop_front() {
                self.tail_bytes -= run.location.length;
                gone.push(run);
            }
        }
        gone
    }

    /// Records below `offset` are gone for readers.
    pub fn advance_log_start(&mut self, offset: i64) {
        self.log_start_offset = self.log_start_offset.max(offset.min(self.high_watermark));
    }

    /// The runs between two offsets now lie in one merged object at `location` (runs that were rolled meanwhile are
    /// left out by the caller's choice of bounds). Adjacent runs become one. `false` if no run lies there.
    pub fn relocate(&mut self, base_offset: i64, next_offset: i64, location: Location) -> bool {
        let from = self.tail.partition_point(|run| run.next_offset <= base_offset);
        let to = self.tail.partition_point(|run| run.base_offset < next_offset);
        if from >= to {
            return false;
        }
        let old: Vec<TailRun> = self.tail.drain(from..to).collect();
        let (first, last) = (&old[0], &old[old.len() - 1]);
        assert!(
            first.base_offset >= base_offset && last.next_offset <= next_offset,
            "a merge takes whole runs of {:?}",
            self.key
        );
        self.tail_bytes -= old.iter().map(|run| run.location.length).sum::<u64>();
        self.tail_bytes += location.length;
        // A front run that was rolled while the merge ran is in the object but no longer in the tail: its batches are missing
        // here, and the next merge would write the run without them.
        let is_whole = first.base_offset == base_offset && old.iter().all(|run| run.batches.is_some());
        let batches = is_whole.then(|| {
            old.iter()
                .flat_map(|run| run.batches.iter().flatten())
                .cloned()
                .collect::<Vec<_>>()
        });
        let merged = TailRun {
            base_offset,
            next_offset,
            leader_epoch: last.leader_epoch,
            max_timestamp: old.iter().map(|run| run.max_timestamp).max().unwrap_or(-1),
            since_ms: first.since_ms,
            location,
            batches,
            producers: old.into_iter().flat_map(|run| run.producers).collect(),
        };
        self.tail.insert(from, merged);
        self.forget_superseded();
        true
    }

    /// Leaves out of the tail's changes of producers what no later state depends on: there may be many runs, and all but the
    /// newest then have none.
    fn forget_superseded(&mut self) {
        let all = self.tail.iter().flat_map(|run| run.producers.iter().copied());
        let mut kept = producer_state::compact(all.collect()).into_iter().peekable();
        for run in &mut self.tail {
            run.producers.retain(|change| kept.next_if_eq(change).is_some());
            run.producers.shrink_to_fit();
        }
    }
}

/// Offset after the last record of a stored batch.
pub fn next_offset_of(batch: &[u8]) -> i64 {
    let base = i64::from_be_bytes(batch[0..8].try_into().expect("a stored batch has its 61-byte header"));
    let delta = i32::from_be_bytes(batch[23..27].try_into().expect("a stored batch has its 61-byte header"));
    base + i64::from(delta) + 1
}
