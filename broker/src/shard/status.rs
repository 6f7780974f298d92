//! What a shard tells people of itself: its partitions with their sizes, its traffic, its load.

use super::Shard;
use kafscale_codec::types::TopicId;
use kafscale_storage_engine::partition_log::PartitionKey;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Partitions after which others of the shard get their turn.
const YIELD_AFTER: usize = 256;

/// A shard at one moment. Counts are since the start of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u32,
    /// CPU time that it has taken, spinning included.
    pub busy: Duration,
    /// Open connections of clients.
    pub connections: i64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes of recent records held in memory.
    pub memory_bytes: usize,
    /// Write-ahead objects that hold records of no segment yet.
    pub live_objects: usize,
    /// Uploads on their way.
    pub puts_in_flight: usize,
    /// The partitions it owns.
    pub partitions: Vec<PartitionStatus>,
    /// By topic, the traffic that went through this shard.
    pub traffic: BTreeMap<String, Traffic>,
}

/// A partition at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// First offset that can be read.
    pub log_start_offset: i64,
    /// Offset after the last durable record.
    pub high_watermark: i64,
    /// Bytes of its records in the object store, indexes excluded; none if the store does not say.
    pub size_bytes: Option<u64>,
}

/// What went through a shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Records that became durable.
    pub produce_records: u64,
    /// Their bytes, as stored.
    pub produce_bytes: u64,
    /// Records handed to consumers.
    pub fetch_records: u64,
    /// Bytes handed to consumers.
    pub fetch_bytes: u64,
}

impl Traffic {
    /// The sum of both.
    pub fn plus(self, other: Traffic) -> Traffic {
        Traffic {
            produce_records: self.produce_records + other.produce_records,
            produce_bytes: self.produce_bytes + other.produce_bytes,
            fetch_records: self.fetch_records + other.fetch_records,
            fetch_bytes: self.fetch_bytes + other.fetch_bytes,
        }
    }
}

impl Shard {
    /// Looks at everything that the shard owns. Sizes of partitions that nobody has asked for before come from the
    /// object store.
    pub(super) async fn status(self: &Rc<Self>) -> ShardStatus {
        let stats = self.stats();
        let mut partitions = Vec::with_capacity(stats.partitions.len());
        for (number, partition) in stats.partitions.iter().enumerate() {
            if number % YIELD_AFTER == YIELD_AFTER - 1 {
                self.runtime.yield_now().await;
            }
            partitions.push(PartitionStatus {
                topic_id: partition.key.topic_id,
                partition: partition.key.partition,
                log_start_offset: partition.log_start_offset,
                high_watermark: partition.high_watermark,
                size_bytes: self.size_bytes(partition.key).await,
            });
        }
        ShardStatus {
            shard: stats.shard,
            busy: self.runtime.busy(),
            connections: self.metrics.connections.get(),
            requests: self.metrics.requests_answered(),
            memory_bytes: stats.memory_bytes,
            live_objects: stats.live_objects,
            puts_in_flight: stats.puts_in_flight,
            partitions,
            traffic: self.metrics.traffic(),
        }
    }

    async fn size_bytes(&self, key: PartitionKey) -> Option<u64> {
        if let Err(failed) = self.list_segments(key).await {
            log::warn!("list the segments of {key:?}: {failed}");
            return None;
        }
        self.state.borrow().partitions.get(&key)?.size_bytes()
    }
}
