//! What connections and shards say to the shard that owns a partition: one bounded inbox per shard.
//!
//! The inbox is a plain multi-producer channel with a oneshot reply in each message, so it serves other shards, the
//! HTTP server and the simulator alike. Messages of one sender arrive in order: a pipelining producer relies on that.

use crate::cluster::image::ClusterImage;
use crate::shard::status::ShardStatus;
use bytes::Bytes;
use futures::channel::oneshot;
use kafscale_codec::error_code::ErrorCode;
use kafscale_storage_engine::partition_log::PartitionKey;
use kafscale_storage_engine::producer_state::ProducerChange;
use std::sync::Arc;

/// How many messages an inbox holds before its senders wait.
pub const INBOX_CAPACITY: usize = 1024;

/// The sending side of a shard's inbox.
pub type Inbox = async_channel::Sender<ShardRequest>;

/// A message to a shard.
#[derive(Debug)]
pub enum ShardRequest {
    /// Accept batches, and answer once they are durable.
    Produce(ProduceRequest),
    /// Read what is there.
    Fetch(FetchRequest),
    /// Say when there is more to read.
    Wait(WaitRequest),
    /// Look an offset up.
    ListOffsets(ListOffsetsRequest),
    /// Delete the oldest records.
    DeleteRecords(DeleteRecordsRequest),
    /// Say where an epoch ended.
    EpochEnd(EpochEndRequest),
    /// Say how large partitions are, and who writes to them.
    Inspect(InspectRequest),
    /// Tell people about itself.
    Status(oneshot::Sender<ShardStatus>),
    /// The cluster has changed.
    Image(Arc<ClusterImage>),
    /// Accept nothing more, flush what is accepted, answer when all of it is answered.
    Drain(oneshot::Sender<()>),
}

/// Batches for partitions of one shard.
#[derive(Debug)]
pub struct ProduceRequest {
    /// Partitions and their record payload, one v2 batch each.
    pub partitions: Vec<(PartitionKey, Bytes)>,
    /// Gets one result per partition, in the same order.
    pub reply: oneshot::Sender<Vec<ProduceResult>>,
}

/// What became of one partition's batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceResult {
    /// `NONE`, or why nothing was stored.
    pub error: ErrorCode,
    /// Offset of the first record, −1 on error.
    pub base_offset: i64,
    /// The broker's time if the topic uses LogAppendTime, else −1; ms since the Unix epoch.
    pub log_append_time_ms: i64,
    /// First offset that can be read, −1 if unknown.
    pub log_start_offset: i64,
    /// Records that are the reason why nothing was stored, by their index in the batch.
    pub rejected: Vec<i32>,
}

impl ProduceResult {
    /// Nothing was stored.
    pub fn error(error: ErrorCode) -> Self {
        ProduceResult {
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            rejected: Vec::new(),
        }
    }

    /// Whether it says that the records are stored, be it now or by an earlier request: then it must wait for that to
    /// be durable.
    pub fn says_stored(&self) -> bool {
        matches!(self.error, ErrorCode::NONE | ErrorCode::DUPLICATE_SEQUENCE_NUMBER)
    }
}

/// Reads from partitions of one shard.
#[derive(Debug)]
pub struct FetchRequest {
    /// What to read.
    pub partitions: Vec<FetchPartition>,
    /// About how many bytes in all.
    pub max_bytes: usize,
    /// Gets one result per partition, in the same order.
    pub reply: oneshot::Sender<Vec<FetchResult>>,
}

/// One partition to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub key: PartitionKey,
    /// First offset wanted.
    pub offset: i64,
    /// About how many bytes.
    pub max_bytes: usize,
    /// The epoch that the client believes in, −1 if it does not say.
    pub current_leader_epoch: i32,
}

/// What one partition has.
#[derive(Debug, Clone, Default)]
pub struct FetchResult {
    /// `NONE`, or why there is nothing.
    pub error: ErrorCode,
    /// Offset after the last durable record, −1 if unknown.
    pub high_watermark: i64,
    /// First offset that can be read, −1 if unknown.
    pub log_start_offset: i64,
    /// Whole stored batches.
    pub records: Vec<Bytes>,
}

impl FetchResult {
    /// Nothing can be read.
    pub fn error(error: ErrorCode) -> Self {
        FetchResult {
            error,
            high_watermark: -1,
            log_start_offset: -1,
            records: Vec::new(),
        }
    }

    /// Bytes of records.
    pub fn len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    /// Whether it holds no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Tells when any of the partitions has something at its offset, or is no longer here.
#[derive(Debug)]
pub struct WaitRequest {
    /// Partitions with the offset that the consumer waits for.
    pub partitions: Vec<(PartitionKey, i64)>,
    /// Fires at most once. The waiter drops its end when it loses interest.
    pub notify: async_channel::Sender<()>,
}

/// ListOffsets for one partition.
#[derive(Debug)]
pub struct ListOffsetsRequest {
    /// The partition.
    pub key: PartitionKey,
    /// Milliseconds since the Unix epoch, or one of Kafka's negative markers.
    pub timestamp: i64,
    /// The epoch that the client believes in, −1 if it does not say.
    pub current_leader_epoch: i32,
    /// Gets the answer.
    pub reply: oneshot::Sender<ListOffsetsResult>,
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListOffsetsResult {
    /// `NONE`, or why there is no answer.
    pub error: ErrorCode,
    /// The record's timestamp, −1 if none is reported.
    pub timestamp: i64,
    /// The offset, −1 if no record matches.
    pub offset: i64,
    /// The epoch of that record, −1 if unknown.
    pub leader_epoch: i32,
}

impl ListOffsetsResult {
    /// Nothing is known.
    pub fn error(error: ErrorCode) -> Self {
        ListOffsetsResult {
            error,
            timestamp: -1,
            offset: -1,
            leader_epoch: -1,
        }
    }
}

/// Deletes the records of one partition before an offset.
#[derive(Debug)]
pub struct DeleteRecordsRequest {
    /// The partition.
    pub key: PartitionKey,
    /// First offset that stays; −1 is the high watermark.
    pub offset: i64,
    /// Gets the answer.
    pub reply: oneshot::Sender<DeleteRecordsResult>,
}

/// What a deletion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteRecordsResult {
    /// `NONE`, or why nothing was deleted.
    pub error: ErrorCode,
    /// First offset that can be read, −1 on error.
    pub low_watermark: i64,
}

/// Asks where the records of a leader epoch end.
#[derive(Debug)]
pub struct EpochEndRequest {
    /// The partition.
    pub key: PartitionKey,
    /// The epoch that the client believes in, −1 if it does not say.
    pub current_leader_epoch: i32,
    /// The epoch that is asked about.
    pub leader_epoch: i32,
    /// Gets the answer.
    pub reply: oneshot::Sender<EpochEnd>,
}

/// The end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// `NONE`, or why there is no answer.
    pub error: ErrorCode,
    /// The largest epoch with records that is not above the one asked about, −1 if unknown.
    pub leader_epoch: i32,
    /// Offset after its last record, −1 if unknown.
    pub end_offset: i64,
}

/// A look at partitions of one shard.
#[derive(Debug)]
pub struct InspectRequest {
    /// The partitions.
    pub partitions: Vec<PartitionKey>,
    /// Gets one answer per partition, in the same order.
    pub reply: oneshot::Sender<Vec<Inspection>>,
}

/// What there is to know of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// `NONE`, or why there is no answer.
    pub error: ErrorCode,
    /// Bytes of its records, in segments and not yet in segments.
    pub size_bytes: u64,
    /// The last batch of each idempotent producer that is remembered.
    pub producers: Vec<ProducerChange>,
}

/// A partition's state in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStats {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub key: PartitionKey,
    /// The epoch in which it is owned.
    pub leader_epoch: i32,
    /// First offset that can be read.
    pub log_start_offset: i64,
    /// Offset after the last durable record.
    pub high_watermark: i64,
    /// Bytes committed and not rolled.
    pub tail_bytes: u64,
}

/// A shard's state in numbers.
#[derive(Debug, Clone, Default)]
pub struct ShardStats {
    /// The shard.
    pub shard: u32,
    /// The partitions that it owns.
    pub partitions: Vec<PartitionStats>,
    /// The number of the stream that it appends to, if it has one.
    pub stream: Option<u64>,
    /// Bytes of committed records kept in memory.
    pub memory_bytes: usize,
    /// Slots of the open stream that still hold unrolled records.
    pub live_objects: usize,
    /// Runs of unrolled records in them.
    pub live_runs: u64,
    /// Puts on their way.
    pub puts_in_flight: usize,
    /// Partitions that it refuses because what they need is damaged.
    pub quarantined: Vec<PartitionKey>,
    /// Objects that wait to be deleted.
    pub doomed: usize,
    /// Requests to delete records that wait to be applied.
    pub deletions: usize,
}
