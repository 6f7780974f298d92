//! Reading: memory, then write-ahead objects, then segments; stored batches go out as they are.

use super::segments::{given_up, Skip};
use super::takeover::check_header;
use super::Shard;
use crate::mailbox::{FetchPartition, FetchRequest, FetchResult, ListOffsetsResult, WaitRequest};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::record_batch::{self, BatchHeader, CRC_FROM, HEADER_LEN};
use kafscale_storage_engine::object_store::StoreError;
use kafscale_storage_engine::partition_log::{next_offset_of, FetchPlan, ObjectRef, PartitionKey, TailRun};
use kafscale_storage_engine::segment;
use kafscale_storage_engine::wal;
use std::ops::Range;
use std::rc::Rc;

/// Size of the blocks that are read from the object store and cached.
pub(super) const CACHE_BLOCK_BYTES: u64 = 1 << 20;

/// Pieces from different objects that one partition's fetch gathers at most.
const PIECES_MAX: usize = 64;

/// Remembered positions per partition: one per consumer that reads on from where it was.
const HINTS_MAX: usize = 16;

/// The least that is read of an object at a time.
const READ_BYTES_MIN: u64 = 64 * 1024;

/// Kafka's markers for ListOffsets (KIP-79, KIP-734, KIP-405, KIP-1005).
mod timestamp {
    pub const LATEST: i64 = -1;
    pub const EARLIEST: i64 = -2;
    pub const MAX_TIMESTAMP: i64 = -3;
    pub const EARLIEST_LOCAL: i64 = -4;
    pub const LATEST_TIERED: i64 = -5;
}

/// Where batches are read from, for look-ups that go on where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Object(ObjectRef),
    Segment(i64),
}

/// The batch with this base offset begins here.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositionHint {
    source: Source,
    offset: i64,
    position: u64,
}

/// What one look at a partition found.
enum Look {
    Done(FetchResult),
    /// Read these from the object store, from `position` up to `end`.
    Read {
        source: Source,
        position: u64,
        end: u64,
    },
    Segment,
}

impl Shard {
    /// Answers a read: at once if everything is in memory, else in a task of its own.
    pub fn start_fetch(self: &Rc<Self>, request: FetchRequest) {
        let shard = self.clone();
        let FetchRequest {
            partitions,
            max_bytes,
            reply,
        } = request;
        if self.surely_leads() {
            if let Some(results) = self.fetch_from_memory(&partitions, max_bytes) {
                let _ = reply.send(results);
                return;
            }
        }
        self.runtime.spawn(
            "fetch",
            Box::pin(async move {
                let results = match shard.leads().await {
                    true => shard.fetch(&partitions, max_bytes).await,
                    false => vec![FetchResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER); partitions.len()],
                };
                let _ = reply.send(results);
            }),
        );
    }

    /// Reads partitions in order until about `max_bytes` are found. The first that has anything gives at least one
    /// batch, however large, even if no bytes are wanted (KIP-74).
    pub async fn fetch(&self, partitions: &[FetchPartition], max_bytes: usize) -> Vec<FetchResult> {
        let mut results = Vec::with_capacity(partitions.len());
        let mut left = max_bytes.max(1);
        for partition in partitions {
            let result = self.fetch_partition(partition, left).await;
            left = left.saturating_sub(result.len());
            results.push(result);
        }
        results
    }

    fn fetch_from_memory(&self, partitions: &[FetchPartition], max_bytes: usize) -> Option<Vec<FetchResult>> {
        let mut left = max_bytes.max(1);
        let mut results = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let Look::Done(result) = self.look(partition, partition.offset, left) else {
                return None;
            };
            left = left.saturating_sub(result.len());
            results.push(result);
        }
        Some(results)
    }

    async fn fetch_partition(&self, wanted: &FetchPartition, limit: usize) -> FetchResult {
        let limit = wanted.max_bytes.max(1).min(limit);
        let mut offset = wanted.offset;
        let mut gathered = FetchResult::default();
        let mut bytes = 0;
        for piece in 0..PIECES_MAX {
            let found = match self.look(wanted, offset, limit - bytes.min(limit)) {
                Look::Done(result) => {
                    // Errors and the end of the log end the gathering. What was found before stays, unless the
                    // partition was lost meanwhile: then nobody here can say how far it goes.
                    let end = result.is_empty() || piece + 1 == PIECES_MAX;
                    if piece > 0 && result.error != ErrorCode::NONE {
                        break;
                    }
                    let next = result.records.last().map_or(offset, |batch| next_offset_of(batch));
                    bytes += result.len();
                    gathered.absorb(result);
                    if end {
                        return gathered;
                    }
                    offset = next;
                    Ok(())
                }
                Look::Read { source, position, end } => self
                    .read_object(wanted.key, source, position, end, offset, limit - bytes.min(limit))
                    .await
                    .map(|(records, next)| {
                        bytes += records.iter().map(Bytes::len).sum::<usize>();
                        gathered.records.extend(records);
                        offset = next;
                    }),
                Look::Segment => match self.find_segment(wanted.key, offset).await {
                    Ok(Some(found)) => {
                        let (source, position) = (Source::Segment(found.base_offset), found.position);
                        let read = self.read_object(
                            wanted.key,
                            source,
                            position,
                            found.end,
                            offset,
                            limit - bytes.min(limit),
                        );
                        read.await.map(|(records, next)| {
                            bytes += records.iter().map(Bytes::len).sum::<usize>();
                            gathered.records.extend(records);
                            offset = next;
                            if found.in_sequence {
                                self.read_ahead(wanted.key, found.base_offset, next);
                            }
                        })
                    }
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = found {
                if gathered.is_empty() {
                    log::warn!("read {:?} at {offset}: {error}", wanted.key);
                    return FetchResult::error(ErrorCode::KAFKA_STORAGE_ERROR);
                }
                break;
            }
            if bytes >= limit {
                break;
            }
        }
        let state = self.state.borrow();
        match state.led(wanted.key, wanted.current_leader_epoch) {
            Ok(partition) => {
                gathered.high_watermark = partition.log.high_watermark();
                gathered.log_start_offset = partition.log.log_start_offset();
                gathered
            }
            Err(error) => FetchResult::error(error),
        }
    }

    fn look(&self, wanted: &FetchPartition, offset: i64, limit: usize) -> Look {
        let state = self.state.borrow();
        let partition = match state.led(wanted.key, wanted.current_leader_epoch) {
            Ok(partition) => partition,
            Err(error) => return Look::Done(FetchResult::error(error)),
        };
        let log = &partition.log;
        let result = |error, records| {
            Look::Done(FetchResult {
                error,
                high_watermark: log.high_watermark(),
                log_start_offset: log.log_start_offset(),
                records,
            })
        };
        match log.plan_fetch(offset, wanted.max_bytes.min(limit)) {
            Err(_) => result(ErrorCode::OFFSET_OUT_OF_RANGE, Vec::new()),
            Ok(_) if limit == 0 => result(ErrorCode::NONE, Vec::new()),
            Ok(FetchPlan::AtEnd) => result(ErrorCode::NONE, Vec::new()),
            Ok(FetchPlan::Memory(batches)) => {
                let next = batches.last().map_or(offset, |batch| next_offset_of(batch));
                partition.count_fetched(offset, next, &batches);
                result(ErrorCode::NONE, batches)
            }
            Ok(FetchPlan::Object { location, .. }) => {
                let source = Source::Object(location.object);
                let position = partition.position_hint(source, offset).unwrap_or(location.position);
                Look::Read {
                    source,
                    position,
                    end: location.position + location.length,
                }
            }
            Ok(FetchPlan::Segment) => Look::Segment,
        }
    }

    /// Whole batches from `position` on that reach beyond `offset`, at least one and about `limit` bytes; and the offset
    /// after the last of them.
    async fn read_object(
        &self,
        key: PartitionKey,
        source: Source,
        position: u64,
        end: u64,
        offset: i64,
        limit: usize,
    ) -> Result<(Vec<Bytes>, i64), StoreError> {
        let name: Rc<str> = self.source_key(key, source)?.into();
        match self
            .read_checked(key, source, &name, position..end, offset, limit, false)
            .await
        {
            Err(StoreError::Damaged(why)) => {
                // The cache, the network or a replica may have damaged what the store holds in good order.
                self.metrics.damaged_reads.add(1);
                log::error!("{name}: {why}; reading it again");
                let again = self
                    .read_checked(key, source, &name, position..end, offset, limit, true)
                    .await;
                match (again, source) {
                    (Err(StoreError::Damaged(why)), Source::Segment(base_offset))
                        if position > segment::HEADER_LEN as u64 =>
                    {
                        // The index may have led to the wrong place.
                        self.segment_is_still_itself(key, base_offset).await?;
                        log::error!("{name}: {why}; reading it from its first batch on");
                        let whole = segment::HEADER_LEN as u64..end;
                        self.read_checked(key, source, &name, whole, offset, limit, true).await
                    }
                    (again, _) => again,
                }
            }
            read => read,
        }
    }

    /// [`Self::read_object`], once: from the cache, or past it from the store that objects are created in. Each batch that
    /// goes out is checked once for each time that its bytes came into the cache.
    #[allow(clippy::too_many_arguments)] // They are the place, and what is wanted of it.
    async fn read_checked(
        &self,
        key: PartitionKey,
        source: Source,
        name: &Rc<str>,
        range: Range<u64>,
        offset: i64,
        limit: usize,
        again: bool,
    ) -> Result<(Vec<Bytes>, i64), StoreError> {
        if let Source::Object(object) = source {
            self.object_is_itself(object, name, again).await?;
        }
        let (mut at, end) = (range.start, range.end);
        let mut want = (limit as u64).max(READ_BYTES_MIN);
        loop {
            let wanted = at..end.min(at.saturating_add(want));
            let pieces = Pieces {
                start: at,
                pieces: match again {
                    false => self.cache.read(name, wanted).await?,
                    true => self.cache.read_again(name, wanted).await?,
                },
            };
            let mut first = None;
            let mut cursor = at;
            let mut next = offset;
            // Whole batches in what was read: those below the offset are passed, the others are taken up to the limit.
            while let Some(header) = pieces.header(cursor) {
                let batch_end = cursor + header.total_len() as u64;
                if header.next_offset() > offset {
                    let over = first.is_some_and(|first| batch_end - first > limit as u64);
                    if batch_end > pieces.end() || over {
                        break;
                    }
                    let goes_on = match first {
                        None => header.base_offset <= offset,
                        Some(_) => header.base_offset == next,
                    };
                    if !goes_on {
                        return Err(StoreError::Damaged(format!(
                            "the batch at byte {cursor} begins at offset {}, and {next} is missing",
                            header.base_offset
                        )));
                    }
                    if !self.cache.is_checked(name, cursor..batch_end) {
                        pieces.check(cursor, batch_end, &header)?;
                        self.cache.mark_checked(name, cursor..batch_end);
                    }
                    first.get_or_insert(cursor);
                    next = header.next_offset();
                }
                cursor = batch_end;
            }
            if let Some(first) = first {
                let records = pieces.slice(first, cursor);
                if let Some(partition) = self.state.borrow().partitions.get(&key) {
                    partition.count_fetched(offset, next, &records);
                }
                self.remember(
                    key,
                    PositionHint {
                        source,
                        offset: next,
                        position: cursor,
                    },
                );
                return Ok((records, next));
            }
            if cursor >= end || (cursor == at && pieces.end() == at) {
                return Err(StoreError::Damaged(format!("no batch holds offset {offset}")));
            }
            // Either everything that was read lies below the offset, or the batch at the cursor is larger than that.
            let header = pieces.header(cursor);
            let needed = header.map_or(READ_BYTES_MIN, |header| header.total_len() as u64);
            let is_too_long = header.is_some() && needed > end - cursor;
            if (cursor == at && needed <= want) || is_too_long {
                return Err(StoreError::Damaged(format!("the batch at byte {cursor} is cut off")));
            }
            want = want.max(needed);
            at = cursor;
        }
    }

    /// Looks whether a write-ahead object is the one that its name says, once for each time that its first block comes into
    /// the cache. Its batches cannot tell: most objects have their first batch at the same place.
    async fn object_is_itself(&self, object: ObjectRef, name: &Rc<str>, again: bool) -> Result<(), StoreError> {
        let range = 0..wal::HEADER_LEN as u64;
        if !again && self.cache.is_checked(name, range.clone()) {
            return Ok(());
        }
        let header = match again {
            false => self.cache.read(name, range.clone()).await?,
            true => self.cache.read_again(name, range.clone()).await?,
        };
        check_header(&header.concat(), object).map_err(damaged)?;
        self.cache.mark_checked(name, range);
        Ok(())
    }

    fn source_key(&self, key: PartitionKey, source: Source) -> Result<String, StoreError> {
        match source {
            Source::Object(object) => Ok(self.object_key(object)),
            Source::Segment(base_offset) => self.segment_key(key, base_offset),
        }
    }

    /// Keeps a position for the consumer that reads on from there.
    fn remember(&self, key: PartitionKey, hint: PositionHint) {
        let mut state = self.state.borrow_mut();
        if let Some(partition) = state.partitions.get_mut(&key) {
            if partition.hints.len() == HINTS_MAX {
                partition.hints.pop_front();
            }
            partition.hints.push_back(hint);
        }
    }

    /// Registers a waiter, or tells it at once if there is something to read already.
    pub fn wait_for_data(&self, request: WaitRequest) {
        let mut state = self.state.borrow_mut();
        for (key, offset) in request.partitions {
            match state.partitions.get_mut(&key) {
                Some(partition) if partition.log.high_watermark() <= offset => {
                    partition.waiters.retain(|(_, waiter)| !waiter.is_closed());
                    partition.waiters.push((offset, request.notify.clone()));
                }
                _ => {
                    // A full channel means that it was told already.
                    let _ = request.notify.try_send(());
                    return;
                }
            }
        }
    }

    /// ListOffsets for one partition.
    pub(super) async fn list_offsets(
        &self,
        key: PartitionKey,
        timestamp: i64,
        current_leader_epoch: i32,
    ) -> ListOffsetsResult {
        let error = ListOffsetsResult::error;
        let (start, high_watermark) = {
            let state = self.state.borrow();
            match state.led(key, current_leader_epoch) {
                Ok(partition) => (partition.log.log_start_offset(), partition.log.high_watermark()),
                Err(code) => return error(code),
            }
        };
        let found = match timestamp {
            timestamp::LATEST => Ok(Some((high_watermark, -1))),
            timestamp::EARLIEST | timestamp::EARLIEST_LOCAL => Ok(Some((start, -1))),
            timestamp::LATEST_TIERED => Ok(None),
            timestamp::MAX_TIMESTAMP => self.find_max_timestamp(key, start).await,
            at if at >= 0 => self.find_timestamp(key, start, at).await,
            _ => return error(ErrorCode::INVALID_REQUEST),
        };
        match found {
            Ok(found) => {
                let (offset, timestamp) = found.unwrap_or((-1, -1));
                let leader_epoch = if offset >= 0 { self.epoch_of(key, offset) } else { -1 };
                ListOffsetsResult {
                    error: ErrorCode::NONE,
                    timestamp,
                    offset,
                    leader_epoch,
                }
            }
            Err(LookUpError::Read(code)) => error(code),
            Err(LookUpError::Store(failed)) => {
                log::warn!("look up time {timestamp} in {key:?}: {failed}; the client will try again");
                error(ErrorCode::KAFKA_STORAGE_ERROR)
            }
        }
    }

    fn epoch_of(&self, key: PartitionKey, offset: i64) -> i32 {
        let state = self.state.borrow();
        let starts = state
            .partitions
            .get(&key)
            .map_or(&[][..], |partition| &partition.record.epoch_starts[..]);
        let at = starts.partition_point(|(_, start)| *start <= offset);
        starts.get(at.saturating_sub(1)).map_or(-1, |(epoch, _)| *epoch)
    }

    /// The first record at or after a time: offset and timestamp.
    async fn find_timestamp(&self, key: PartitionKey, start: i64, at: i64) -> Result<Option<(i64, i64)>, LookUpError> {
        let mut offset = start;
        loop {
            let Some(from) = self.skip_older(key, offset, at).await? else {
                return Ok(None);
            };
            let wanted = FetchPartition {
                key,
                offset: from,
                max_bytes: 1 << 20,
                current_leader_epoch: -1,
            };
            let result = self.fetch_partition(&wanted, 1 << 20).await;
            if result.error != ErrorCode::NONE {
                // "No such record" would send the client to the end of the partition.
                return Err(LookUpError::Read(result.error));
            }
            if result.is_empty() {
                return Ok(None);
            }
            offset = from;
            for batch in whole_batches(&result.records) {
                let header = BatchHeader::parse(&batch).map_err(damaged)?;
                if header.max_timestamp >= at || header.understates_max_timestamp() {
                    let found = record_batch::first_record_at_or_after(&batch, at, start).map_err(damaged)?;
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                offset = header.next_offset();
            }
        }
    }

    /// The next offset at or after `offset` whose segment or run may hold a record of that time.
    async fn skip_older(&self, key: PartitionKey, offset: i64, at: i64) -> Result<Option<i64>, StoreError> {
        let mut offset = offset;
        loop {
            let passed = match self.skip_older_segments(key, offset, at).await? {
                Skip::ReadFrom(from) => return Ok(Some(from)),
                Skip::PassedUntil(end) => end,
            };
            let state = self.state.borrow();
            let partition = state.partitions.get(&key).ok_or_else(|| given_up(key))?;
            // What was in the tail may have been rolled while the segments were looked at.
            if partition.log.rolled_offset() > passed {
                offset = offset.max(passed);
                continue;
            }
            let may_have = |run: &&TailRun| run.next_offset > offset && run.max_timestamp >= at;
            let run = partition.log.tail().find(may_have);
            return Ok(run.map(|run| run.base_offset.max(offset)));
        }
    }

    /// The record with the largest timestamp (KIP-734).
    async fn find_max_timestamp(&self, key: PartitionKey, start: i64) -> Result<Option<(i64, i64)>, LookUpError> {
        let mut largest = self.largest_segment_timestamp(key, start).await?.unwrap_or(i64::MIN);
        if let Some(partition) = self.state.borrow().partitions.get(&key) {
            largest = partition
                .log
                .tail()
                .map(|run| run.max_timestamp)
                .fold(largest, i64::max);
        }
        if largest == i64::MIN {
            return Ok(None);
        }
        self.find_timestamp(key, start, largest).await
    }
}

/// Why a look-up by time has no answer.
enum LookUpError {
    Store(StoreError),
    /// The partition could not be read.
    Read(ErrorCode),
}

impl From<StoreError> for LookUpError {
    fn from(error: StoreError) -> Self {
        LookUpError::Store(error)
    }
}

impl super::Partition {
    pub(super) fn position_hint(&self, source: Source, offset: i64) -> Option<u64> {
        self.hints
            .iter()
            .rev()
            .find(|hint| hint.source == source && hint.offset == offset)
            .map(|hint| hint.position)
    }
}

impl super::Partition {
    fn count_fetched(&self, offset: i64, next_offset: i64, records: &[Bytes]) {
        self.metrics.fetch_records.add((next_offset - offset) as u64);
        self.metrics
            .fetch_bytes
            .add(records.iter().map(|buffer| buffer.len() as u64).sum());
    }
}

impl FetchResult {
    fn absorb(&mut self, more: FetchResult) {
        self.error = more.error;
        self.high_watermark = more.high_watermark;
        self.log_start_offset = more.log_start_offset;
        self.records.extend(more.records);
    }
}

/// Tells those waiters whose offset is below the high watermark, and forgets them and those that went away.
pub(super) fn wake_ready(waiters: &mut Vec<(i64, async_channel::Sender<()>)>, high_watermark: i64) {
    waiters.retain(|(offset, waiter)| {
        let ready = *offset < high_watermark;
        if ready {
            let _ = waiter.try_send(());
        }
        !ready && !waiter.is_closed()
    });
}

/// Tells all waiters: there is nothing more to wait for here.
pub(super) fn wake_all(waiters: &mut Vec<(i64, async_channel::Sender<()>)>) {
    wake_ready(waiters, i64::MAX);
}

pub(super) fn damaged(error: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(error.to_string())
}

/// Batches that may lie in several buffers each, one by one. For look-ups only: it copies.
fn whole_batches(buffers: &[Bytes]) -> Vec<Bytes> {
    let all = Bytes::from(buffers.concat());
    let mut at = 0;
    let mut batches = Vec::new();
    for (header, _) in record_batch::iter_batches(&all).map_while(Result::ok) {
        batches.push(all.slice(at..at + header.total_len()));
        at += header.total_len();
    }
    batches
}

/// Consecutive bytes of an object, in the pieces that the cache holds.
struct Pieces {
    start: u64,
    pieces: Vec<Bytes>,
}

impl Pieces {
    fn end(&self) -> u64 {
        self.start + self.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>()
    }

    /// The batch header at a position, if it is there whole.
    fn header(&self, at: u64) -> Option<BatchHeader> {
        let bytes = self.slice(at, at + HEADER_LEN as u64);
        match &bytes[..] {
            [one] => BatchHeader::parse(one).ok(),
            many => BatchHeader::parse(&many.concat()).ok(),
        }
    }

    /// Checks the CRC of the batch that lies there.
    fn check(&self, from: u64, to: u64, header: &BatchHeader) -> Result<(), StoreError> {
        let covered = self.slice(from + CRC_FROM as u64, to);
        let crc = covered.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        match crc == header.crc {
            true => Ok(()),
            false => Err(StoreError::Damaged(format!(
                "the CRC of the batch at byte {from}, offset {}, does not match",
                header.base_offset
            ))),
        }
    }

    fn slice(&self, from: u64, to: u64) -> Vec<Bytes> {
        let mut slices = Vec::new();
        let mut start = self.start;
        for piece in &self.pieces {
            let end = start + piece.len() as u64;
            let (low, high) = (from.max(start), to.min(end));
            if low < high {
                slices.push(piece.slice((low - start) as usize..(high - start) as usize));
            }
            start = end;
        }
        slices
    }
}
