//! Accepting batches: validate, deduplicate, stamp, buffer. Decides the order; durability is [`super::flush`]'s.

use super::flush::Lost;
use super::{PendingProduce, Shard, State};
use crate::mailbox::{ProduceRequest, ProduceResult};
use crate::planted::{self, Bug};
use crate::topic_config::TopicConfig;
use bytes::{Bytes, BytesMut};
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::record_batch::{self, BatchError, BatchHeader, Timestamps, NO_TIMESTAMP};
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::producer_state::{Decision, ProducerChange};

/// Batches are copied into blocks of this size; a larger batch gets a block of its own.
const ARENA_BLOCK_BYTES: usize = 1 << 20;

/// Largest batch that shares a block: a big one would leave most of the next block unused.
const ARENA_SHARED_BATCH_BYTES: usize = ARENA_BLOCK_BYTES / 4;

/// What a batch's length field counts at the least: the header after it.
const BATCH_LENGTH_MIN: i32 = record_batch::HEADER_LEN as i32 - 12;

/// What a producer says where its batch begins: offsets are the broker's to give.
const FIRST_BASE_OFFSET: [u8; 8] = [0; 8];

/// A result and the slot that it waits for, if it waits.
struct Accepted {
    result: ProduceResult,
    slot: Option<u64>,
}

impl Shard {
    /// Accepts the batches of one request, all at once: nothing comes between them. The reply is sent when all of them
    /// are durable.
    pub fn accept_produce(&self, request: ProduceRequest) {
        let ProduceRequest { partitions, reply } = request;
        let away = self.away_for_too_long() && !planted::is(Bug::PutsOutliveFence);
        if away {
            let stream = self.state.borrow().stream.as_ref().map(|open| open.id);
            stream
                .into_iter()
                .for_each(|stream| self.stream_lost(stream, Lost::Away));
        }
        if self.draining.get() || away {
            let results = partitions
                .iter()
                .map(|_| ProduceResult::error(ErrorCode::NOT_LEADER_OR_FOLLOWER));
            let _ = reply.send(results.collect());
            return;
        }
        let now_ms = self.runtime.wall_clock_ms();
        let mut state = self.state.borrow_mut();
        let mut results = Vec::with_capacity(partitions.len());
        let mut slot = None;
        for (key, records) in partitions {
            let accepted = self.accept_batch(&mut state, key, records, now_ms);
            slot = slot.max(accepted.slot);
            results.push((key, accepted.result));
        }
        if state.buffered_bytes > 0 {
            state.buffered_since.get_or_insert_with(|| self.runtime.now());
            self.flush_wake.wake();
        }
        let pending = PendingProduce { results, reply };
        match slot {
            Some(seq) if !planted::is(Bug::AckBeforeDurable) => state.acks.push(seq, pending),
            _ => pending.answer(),
        }
    }

    fn accept_batch(&self, state: &mut State, key: PartitionKey, records: Bytes, now_ms: i64) -> Accepted {
        match self.append(state, key, &records, now_ms) {
            Ok(accepted) => accepted,
            Err(error) => Accepted {
                result: refusal(state, key, &records, error, now_ms),
                slot: None,
            },
        }
    }

    fn append(&self, state: &mut State, key: PartitionKey, records: &[u8], now_ms: i64) -> Result<Accepted, ErrorCode> {
        if self.full.get() {
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        let State {
            partitions,
            quarantined,
            stream,
            arena,
            dirty,
            buffered_bytes,
            ..
        } = state;
        let partition = partitions
            .get_mut(&key)
            .filter(|partition| !partition.moving)
            .ok_or_else(|| super::quarantine::refusal(quarantined, key))?;
        let stream = stream.as_ref().ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?;
        let (next_seq, in_flight_bytes) = (stream.next_seq, stream.in_flight_bytes as usize);
        let config = partition.config.clone();
        if records.first_chunk() != Some(&FIRST_BASE_OFFSET) {
            return Err(ErrorCode::INVALID_RECORD);
        }
        if records.len() > config.max_message_bytes {
            return Err(ErrorCode::MESSAGE_TOO_LARGE);
        }
        if *buffered_bytes + in_flight_bytes + records.len() > self.config.undurable_bytes_max.max(records.len()) {
            return Err(ErrorCode::KAFKA_STORAGE_ERROR);
        }
        reserve(arena, records.len());
        let start = arena.len();
        let (header, times) = record_batch::copy_validated(records, arena).map_err(error_code)?;
        let log = &mut partition.log;
        let admitted = admit(&header, times, &config, now_ms).map(|()| match header.producer_id {
            producer_id if producer_id < 0 => Decision::Append,
            producer_id => log.producers.check(
                producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.last_sequence(),
            ),
        });
        let decision = match admitted {
            Ok(decision) => decision,
            Err(error) => {
                arena.truncate(start);
                return Err(error);
            }
        };
        let log_append_time_ms = if config.log_append_time { now_ms } else { -1 };
        match decision {
            Decision::Append => {}
            Decision::Duplicate { .. } if planted::is(Bug::DuplicateAccepted) => {}
            Decision::Duplicate {
                base_offset,
                last_offset,
                ..
            } => {
                arena.truncate(start);
                let result = ProduceResult {
                    error: ErrorCode::NONE,
                    base_offset,
                    log_append_time_ms,
                    log_start_offset: log.log_start_offset(),
                    rejected: Vec::new(),
                };
                return Ok(Accepted {
                    result,
                    slot: log.slot_of(last_offset, next_seq),
                });
            }
            Decision::DuplicateOfOld { before_offset } => {
                arena.truncate(start);
                let result = ProduceResult {
                    log_start_offset: log.log_start_offset(),
                    ..ProduceResult::error(ErrorCode::DUPLICATE_SEQUENCE_NUMBER)
                };
                return Ok(Accepted {
                    result,
                    slot: log.slot_of(before_offset - 1, next_seq),
                });
            }
            Decision::OutOfOrderSequence | Decision::InvalidProducerEpoch => {
                arena.truncate(start);
                return Err(producer_error(decision));
            }
        }
        let base_offset = log.next_offset();
        record_batch::stamp(&mut arena[start..], base_offset, log.leader_epoch());
        let mut header = header;
        header.base_offset = base_offset;
        if config.log_append_time {
            record_batch::stamp_log_append_time(&mut arena[start..], now_ms);
            header.max_timestamp = now_ms;
        } else {
            header.max_timestamp = max_timestamp(&header, times, now_ms);
            record_batch::stamp_create_time(&mut arena[start..], header.max_timestamp);
        }
        if !log.has_buffered() {
            dirty.push(key);
        }
        *buffered_bytes += records.len();
        let batch = arena.split().freeze();
        log.append(&header, batch, producer_change(&header, now_ms), now_ms);
        let result = ProduceResult {
            error: ErrorCode::NONE,
            base_offset,
            log_append_time_ms,
            log_start_offset: log.log_start_offset(),
            rejected: Vec::new(),
        };
        Ok(Accepted {
            result,
            slot: Some(next_seq),
        })
    }
}

/// Why nothing was stored, as Kafka says it: with the log's start, unless the batch itself or its size is at fault, and with
/// the records whose times are out of range.
fn refusal(state: &State, key: PartitionKey, records: &[u8], error: ErrorCode, now_ms: i64) -> ProduceResult {
    let mut result = ProduceResult::error(error);
    let says_no_start = matches!(
        error,
        ErrorCode::MESSAGE_TOO_LARGE
            | ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
    );
    let Some(partition) = state.partitions.get(&key).filter(|_| !says_no_start) else {
        return result;
    };
    result.log_start_offset = partition.log.log_start_offset();
    if error == ErrorCode::INVALID_TIMESTAMP {
        result.rejected = out_of_range(records, &partition.config, now_ms);
    }
    result
}

/// The records of a refused batch whose times are at fault.
fn out_of_range(batch: &[u8], config: &TopicConfig, now_ms: i64) -> Vec<i32> {
    let claims_append_time = BatchHeader::parse(batch).is_ok_and(|header| header.is_log_append_time());
    // It was read before, or its times are those of its header.
    let records = record_batch::records(batch).unwrap_or_default();
    let at_fault = |timestamp: i64| match config.log_append_time || timestamp == NO_TIMESTAMP {
        true => claims_append_time,
        false => !within_range(timestamp, timestamp, config, now_ms),
    };
    let indexes = (0..).zip(records).filter(|(_, record)| at_fault(record.timestamp));
    indexes.map(|(index, _)| index).collect()
}

/// Makes room for one batch, in the current block or a new one.
fn reserve(arena: &mut BytesMut, bytes: usize) {
    if arena.capacity() >= bytes {
        return;
    }
    let block = if bytes > ARENA_SHARED_BATCH_BYTES {
        bytes
    } else {
        ARENA_BLOCK_BYTES
    };
    *arena = BytesMut::with_capacity(block);
}

/// The largest timestamp of a batch that keeps its producer's times. What a header says is the producer's word: some leave
/// it at −1, some write the last record's. Retention and look-ups by time rest on it, so it is computed from the records
/// where they can be read without decompressing. Of compressed records the header is believed unless it contradicts
/// itself: then none is taken to be younger than now, which keeps them a little longer rather than too short.
fn max_timestamp(header: &BatchHeader, times: Timestamps, now_ms: i64) -> i64 {
    match header.is_compressed() && header.understates_max_timestamp() {
        true => header.base_timestamp.max(now_ms),
        false => times.max,
    }
}

/// What a batch must satisfy beyond its own structure.
fn admit(header: &BatchHeader, times: Timestamps, config: &TopicConfig, now_ms: i64) -> Result<(), ErrorCode> {
    if header.is_control() || header.is_transactional() {
        // Transactions are a non-goal; only brokers write control batches.
        return Err(ErrorCode::INVALID_RECORD);
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(ErrorCode::INVALID_RECORD);
    }
    check_times(header, times, config, now_ms)?;
    if header.producer_id >= 0 && header.producer_epoch < 0 {
        return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
    }
    Ok(())
}

fn check_times(header: &BatchHeader, times: Timestamps, config: &TopicConfig, now_ms: i64) -> Result<(), ErrorCode> {
    let Timestamps { min, max } = times;
    if config.log_append_time {
        // As Kafka: only a broker marks timestamps as a broker's.
        return match header.is_log_append_time() {
            true => Err(ErrorCode::INVALID_TIMESTAMP),
            false => Ok(()),
        };
    }
    if header.is_log_append_time() && max == NO_TIMESTAMP {
        return Err(ErrorCode::INVALID_TIMESTAMP);
    }
    if !within_range(min, max, config, now_ms) {
        return Err(ErrorCode::INVALID_TIMESTAMP);
    }
    Ok(())
}

/// Whether these are neither too far behind the broker's clock nor too far ahead of it.
fn within_range(min: i64, max: i64, config: &TopicConfig, now_ms: i64) -> bool {
    let ahead = max != NO_TIMESTAMP && max.saturating_sub(now_ms) > config.timestamp_after_max_ms;
    let behind = min != NO_TIMESTAMP && now_ms.saturating_sub(min) > config.timestamp_before_max_ms;
    !ahead && !behind
}

fn producer_change(header: &BatchHeader, now_ms: i64) -> Option<ProducerChange> {
    (header.producer_id >= 0).then(|| ProducerChange {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        timestamp: now_ms,
    })
}

fn error_code(error: BatchError) -> ErrorCode {
    match error {
        BatchError::Crc { .. } | BatchError::Truncated { .. } => ErrorCode::CORRUPT_MESSAGE,
        // As Kafka: shorter than a batch's header is corruption; more than one batch is a request that it refuses.
        BatchError::Length(length) if length < BATCH_LENGTH_MIN => ErrorCode::CORRUPT_MESSAGE,
        BatchError::UnsupportedCompression(_) => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        _ => ErrorCode::INVALID_RECORD,
    }
}

fn producer_error(decision: Decision) -> ErrorCode {
    match decision {
        Decision::OutOfOrderSequence => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        Decision::InvalidProducerEpoch => ErrorCode::INVALID_PRODUCER_EPOCH,
        Decision::Append | Decision::Duplicate { .. } | Decision::DuplicateOfOld { .. } => ErrorCode::NONE,
    }
}
