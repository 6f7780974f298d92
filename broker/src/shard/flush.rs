//! Making accepted batches durable: one put per flush, a few in flight, acknowledged in slot order.

use super::fetch::{wake_all, wake_ready};
use super::quarantine::Quarantined;
use super::{LiveObject, PendingProduce, Shard, State};
use crate::mailbox::ProduceResult;
use crate::planted::{self, Bug};
use crate::runtime::Instant;
use bytes::Bytes;
use futures::future::select;
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{ObjectRef, PartitionKey};
use kafscale_storage_engine::wal::decide::{self, PutOutcome, SlotContent, WriterAction};
use kafscale_storage_engine::wal::{self, Kind, StreamId, WalBuilder, WalHeader};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// First pause before a put is tried again; doubles up to [`RETRY_PAUSE_MAX`].
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// A put that has not succeeded for this long is worth a line in the log.
const SLOW_PUT: Duration = Duration::from_secs(2);

/// A slot that is durable, waiting for those before it.
#[derive(Debug)]
pub(super) struct FinishedSlot {
    bytes: u64,
    durable_at: Instant,
    /// Partition, position in the object, length.
    runs: Vec<(PartitionKey, u64, u64)>,
}

/// One flush on its way.
struct FlushJob {
    stream: StreamId,
    seq: u64,
    nonce: u128,
    started: Instant,
    key: String,
    body: Vec<Bytes>,
    crc32c: u32,
    bytes: u64,
    /// Partition, position in the object, length; for whoever commits the slot.
    runs: Cell<Vec<(PartitionKey, u64, u64)>>,
}

/// Why a slot was not won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// A successor's fence is there.
    Fenced,
    /// It took too long, or the slot holds what it never should.
    GivenUp,
    /// An object that counts is missing or damaged.
    Damaged,
    /// This broker was without registration for so long that a successor's fence may be forgotten.
    Away,
}

/// What the flush loop does next.
enum Next {
    Flush,
    WaitFor(Duration),
    WaitForWork,
}

impl Shard {
    /// Flushes whenever there is something to flush and a place in the pipeline, until the shard stops.
    pub(super) async fn flush_loop(self: Rc<Self>) {
        while !self.stopped.get() {
            match self.next_flush() {
                Next::Flush => {
                    if let Some(job) = self.take_flush() {
                        let shard = self.clone();
                        self.runtime.spawn("put", Box::pin(async move { shard.put(job).await }));
                    }
                }
                Next::WaitFor(pause) => {
                    select(Box::pin(self.flush_wake.wait()), self.runtime.sleep(pause)).await;
                }
                Next::WaitForWork => {
                    self.flush_wake.wait().await;
                    // What other connections have ready now rides along.
                    self.runtime.yield_now().await;
                }
            }
        }
    }

    fn next_flush(&self) -> Next {
        let state = self.state.borrow();
        let Some(stream) = &state.stream else {
            return Next::WaitForWork;
        };
        if state.dirty.is_empty() || stream.in_flight() >= self.config.flush_pipeline {
            return Next::WaitForWork;
        }
        if state.buffered_bytes >= self.config.flush_bytes || self.draining.get() {
            return Next::Flush;
        }
        let since = state.buffered_since.unwrap_or(Duration::ZERO);
        let due = since + self.config.flush_interval;
        let now = self.runtime.now();
        if due <= now {
            Next::Flush
        } else {
            Next::WaitFor(due - now)
        }
    }

    /// Everything that is buffered, as the next slot's object.
    fn take_flush(&self) -> Option<FlushJob> {
        let mut state = self.state.borrow_mut();
        let State {
            partitions,
            stream,
            dirty,
            buffered_bytes,
            buffered_since,
            ..
        } = &mut *state;
        let stream = stream.as_mut()?;
        let started = self.runtime.now();
        let seq = stream.next_seq;
        let nonce = u128::from(self.runtime.random_u64()) << 64 | u128::from(self.runtime.random_u64());
        let mut builder = WalBuilder::new(&WalHeader {
            kind: Kind::Data,
            stream: stream.id,
            first_seq: seq,
            last_seq: seq,
            nonce,
            vouched: stream.next_commit_seq,
        });
        dirty.sort_unstable();
        let mut keys = Vec::with_capacity(dirty.len());
        for key in dirty.drain(..) {
            // A partition that was given up meanwhile has nothing left to flush: its log is gone.
            let Some(sealed) = partitions
                .get_mut(&key)
                .and_then(|partition| partition.log.seal_run(seq))
            else {
                continue;
            };
            builder.push_run(sealed.run, sealed.batches);
            keys.push(key);
        }
        *buffered_bytes = 0;
        let since = buffered_since.take().unwrap_or(started);
        if keys.is_empty() {
            return None;
        }
        self.metrics.ack_queued.record(started - since);
        stream.next_seq += 1;
        let object = builder.finish();
        stream.in_flight_bytes += object.len;
        let runs = keys
            .into_iter()
            .zip(&object.runs)
            .map(|(key, run)| (key, run.position, run.length))
            .collect();
        Some(FlushJob {
            stream: stream.id,
            seq,
            nonce,
            started,
            key: wal::slot_key(&self.config.namespace, stream.id, seq),
            body: object.parts,
            crc32c: object.crc32c,
            bytes: object.len,
            runs: Cell::new(runs),
        })
    }

    async fn put(self: Rc<Self>, job: FlushJob) {
        if planted::is(Bug::WatermarkAhead) {
            self.commit_slot(&job);
        }
        match self.win_slot(&job).await {
            Ok(()) => {
                self.commit_slot(&job);
                self.release_acks(job.stream);
            }
            Err(lost) => self.stream_lost(job.stream, lost),
        }
    }

    /// Puts the object until it is known whether it has the slot.
    async fn win_slot(&self, job: &FlushJob) -> Result<(), Lost> {
        let started = self.runtime.now();
        let mut pause = RETRY_PAUSE;
        let mut told = false;
        loop {
            self.refuse_after_fences()?;
            let answer = self.store.create_summed(&job.key, job.body.clone(), job.crc32c).await;
            match &answer {
                Ok(()) => self.set_full(None),
                Err(StoreError::Full(why)) => self.set_full(Some(why)),
                Err(_) => {}
            }
            let outcome = match &answer {
                Ok(()) => PutOutcome::Created,
                Err(StoreError::Conflict(_)) => PutOutcome::Conflict,
                Err(StoreError::OutcomeUnknown(_)) => PutOutcome::OutcomeUnknown,
                Err(_) => PutOutcome::NotApplied,
            };
            let mut action = decide::after_put(outcome);
            if action == WriterAction::ReadSlot {
                action = decide::after_read(self.read_slot(job).await);
            }
            match action {
                // Asked again: the put may have taken long.
                WriterAction::Committed => return self.refuse_after_fences(),
                WriterAction::Fenced if planted::is(Bug::FenceIgnored) => return Ok(()),
                WriterAction::Fenced => return Err(Lost::Fenced),
                WriterAction::GiveUp => {
                    log::error!("slot {} holds another writer's data: the stream is given up", job.key);
                    return Err(Lost::GivenUp);
                }
                WriterAction::RetrySameSlot | WriterAction::ReadSlot => {}
            }
            let elapsed = self.runtime.now() - started;
            if self.stopped.get() || elapsed > self.config.put_give_up {
                return Err(Lost::GivenUp);
            }
            if elapsed > SLOW_PUT && !told {
                told = true;
                let why = answer.err().map_or_else(String::new, |error| error.to_string());
                log::warn!(
                    "put {} has not succeeded for {elapsed:?}, producers wait: {why}",
                    job.key
                );
            }
            self.runtime.sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Notes whether the store has room for records.
    fn set_full(&self, why: Option<&str>) {
        match (self.full.replace(why.is_some()), why) {
            (false, Some(why)) => log::warn!(
                "shard {} refuses records with KAFKA_STORAGE_ERROR and serves what it has: {why}",
                self.config.shard
            ),
            (true, None) => log::info!("shard {} accepts records again", self.config.shard),
            _ => {}
        }
    }

    /// Asks the store whether it has room. While a put is under way that found none, its outcome answers.
    pub(super) async fn look_for_room(&self) {
        let putting = |state: &State| state.stream.as_ref().is_some_and(|stream| stream.in_flight() > 0);
        if self.full.get() && putting(&self.state.borrow()) {
            return;
        }
        match self.store.room().await {
            Ok(()) if self.full.get() && putting(&self.state.borrow()) => {}
            Ok(()) => self.set_full(None),
            Err(StoreError::Full(why)) => self.set_full(Some(&why)),
            // The next look tells.
            Err(_) => {}
        }
    }

    /// No put counts once a fence may be forgotten. Records that are refused after they were written are not acknowledged.
    fn refuse_after_fences(&self) -> Result<(), Lost> {
        match self.away_for_too_long() && !planted::is(Bug::PutsOutliveFence) {
            true => Err(Lost::Away),
            false => Ok(()),
        }
    }

    /// Who has the slot: read back after a conflict.
    async fn read_slot(&self, job: &FlushJob) -> SlotContent {
        match self.store.get_range(&job.key, 0..wal::HEADER_LEN as u64).await {
            Ok(bytes) => match wal::parse_header(&bytes) {
                Ok(header) if header.kind == Kind::Fence => SlotContent::Fence,
                Ok(header) if header.nonce == job.nonce => SlotContent::Mine,
                Ok(_) => SlotContent::Other,
                Err(error) => {
                    log::error!("slot {} cannot be read: {error}", job.key);
                    SlotContent::Other
                }
            },
            Err(StoreError::NotFound(_)) => SlotContent::Absent,
            Err(_) => SlotContent::Unreadable,
        }
    }

    /// A slot is durable. Slot by slot, in order: high watermarks move, and waiting consumers are told.
    fn commit_slot(&self, job: &FlushJob) {
        let mut state = self.state.borrow_mut();
        let State {
            partitions,
            stream,
            memory,
            memory_bytes,
            ..
        } = &mut *state;
        let Some(stream) = stream.as_mut().filter(|stream| stream.id == job.stream) else {
            return;
        };
        let now = self.runtime.now();
        self.metrics.ack_uploading.record(now - job.started);
        self.metrics.last_upload_at.set(Some(now));
        if job.seq >= stream.next_commit_seq {
            let runs = job.runs.take();
            let (bytes, durable_at) = (job.bytes, now);
            stream.finished.insert(
                job.seq,
                FinishedSlot {
                    bytes,
                    durable_at,
                    runs,
                },
            );
        }
        while let Some(slot) = stream.finished.remove(&stream.next_commit_seq) {
            self.metrics.ack_committing.record(now - slot.durable_at);
            stream.in_flight_bytes -= slot.bytes;
            let seq = stream.next_commit_seq;
            let object = ObjectRef {
                stream: stream.id,
                first_seq: seq,
                last_seq: seq,
                merged: false,
            };
            let mut runs_left = 0;
            for (key, position, length) in &slot.runs {
                let Some(partition) = partitions.get_mut(key) else {
                    continue;
                };
                let base_offset = partition.log.high_watermark();
                partition.log.commit(object, *position, *length);
                let records = partition.log.high_watermark() - base_offset;
                partition.metrics.produce_records.add(records as u64);
                partition.metrics.produce_bytes.add(*length);
                memory.push_back((*key, base_offset, *length as usize));
                *memory_bytes += *length as usize;
                wake_ready(&mut partition.waiters, partition.log.high_watermark());
                runs_left += 1;
            }
            let live = LiveObject {
                object,
                level: 0,
                bytes: slot.bytes,
                runs_left,
            };
            stream.live.insert(seq, live);
            stream.next_commit_seq += 1;
        }
        while *memory_bytes > self.config.tail_memory_bytes {
            let Some((key, base_offset, bytes)) = memory.pop_front() else {
                break;
            };
            *memory_bytes -= bytes;
            if let Some(partition) = partitions.get_mut(&key) {
                partition.log.evict(base_offset);
            }
        }
        self.flush_wake.wake();
    }

    /// Answers who waits for slots that are committed.
    fn release_acks(&self, stream: StreamId) {
        let mut state = self.state.borrow_mut();
        let State { stream: open, acks, .. } = &mut *state;
        if let Some(open) = open.as_ref().filter(|open| open.id == stream) {
            acks.release(open.next_commit_seq).for_each(PendingProduce::answer);
        }
    }

    /// The stream has a successor's fence, or its slot cannot be won: nothing that waits will be acknowledged, and every
    /// partition has to be claimed anew.
    pub(super) fn stream_lost(&self, stream: StreamId, lost: Lost) {
        let mut state = self.state.borrow_mut();
        if state.stream.as_ref().is_none_or(|open| open.id != stream) {
            return;
        }
        if !self.stopped.get() {
            match lost {
                Lost::Fenced => log::warn!("stream {stream:?} was fenced by a successor: its partitions are given up"),
                Lost::Damaged => log::error!("stream {stream:?} is damaged: its partitions are claimed anew"),
                Lost::GivenUp => log::error!("stream {stream:?} cannot be written: its partitions are claimed anew"),
                Lost::Away => log::error!(
                    "this broker has not been registered for {:?}, so a successor's fence of stream {stream:?} may be \
                     forgotten: its partitions are given up, and claimed anew once the metastore answers",
                    self.config.away_max
                ),
            }
        }
        state.forget_everything(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        self.ownership_wake.wake();
    }
}

impl State {
    /// Drops the stream and all partitions; whatever waits is answered with `error`.
    pub(super) fn forget_everything(&mut self, error: ErrorCode) {
        self.stream = None;
        for mut pending in self.acks.fail_all() {
            if planted::is(Bug::LostWaiter) {
                std::mem::forget(pending);
                continue;
            }
            for (_, result) in &mut pending.results {
                if result.says_stored() {
                    *result = ProduceResult::error(error);
                }
            }
            pending.answer();
        }
        for (_, mut partition) in self.partitions.drain() {
            wake_all(&mut partition.waiters);
        }
        // They are claimed anew with all others, and may be whole then.
        self.quarantined.values_mut().for_each(Quarantined::retry_now);
        self.dirty.clear();
        self.buffered_bytes = 0;
        self.buffered_since = None;
        self.memory.clear();
        self.memory_bytes = 0;
    }
}
