//! What `/api/v1/` says, as it is said. Unknown numbers are null: a broker knows offsets and sizes of what it leads itself.

use crate::shard::status::Traffic;
use serde::Serialize;
use std::collections::BTreeMap;

/// The broker and its cluster.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The cluster's id.
    pub cluster_id: String,
    /// The broker that answers.
    pub broker_id: i32,
    /// Its version.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Brokers that live.
    pub brokers: Vec<BrokerFacts>,
    /// The shards of the broker that answers.
    pub shards: Vec<ShardFacts>,
    /// Topics of the cluster.
    pub topics: usize,
    /// Partitions of the cluster.
    pub partitions: usize,
    /// Partitions that no live broker leads.
    pub leaderless: usize,
    /// Values of the metastore that this broker cannot read, by key, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// Partitions that this broker refuses because what they need is damaged.
    pub quarantined: Vec<QuarantinedFacts>,
    /// Bytes of all records whose partitions this broker leads.
    pub size_bytes: u64,
    /// Traffic of this broker.
    pub rates: Rates,
}

/// A partition that is refused.
#[derive(Debug, Serialize)]
pub struct QuarantinedFacts {
    /// Its topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What is wrong, and what to do.
    pub why: String,
}

/// A broker.
#[derive(Debug, Serialize)]
pub struct BrokerFacts {
    /// Its id.
    pub broker_id: i32,
    /// Where clients find it.
    pub host: String,
    /// Where clients find it.
    pub port: u16,
    /// Its rack, if it was told.
    pub rack: Option<String>,
    /// Its shards.
    pub shards: u32,
    /// Partitions that it leads.
    pub leads: usize,
}

/// A shard.
#[derive(Debug, Serialize)]
pub struct ShardFacts {
    /// Its number.
    pub shard: u32,
    /// Part of the time in which it had its CPU, 0 to 1; spinning counts.
    pub load: f64,
    /// Connections of clients.
    pub connections: i64,
    /// Partitions that it owns.
    pub partitions: usize,
    /// Requests answered per second.
    pub requests_per_s: f64,
    /// Bytes of recent records in memory.
    pub memory_bytes: usize,
    /// Write-ahead objects not rolled into segments yet.
    pub live_objects: usize,
    /// Uploads on their way.
    pub puts_in_flight: usize,
    /// Its traffic.
    pub rates: Rates,
}

/// Traffic per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Records stored.
    pub produce_records_per_s: f64,
    /// Bytes stored.
    pub produce_bytes_per_s: f64,
    /// Records read.
    pub fetch_records_per_s: f64,
    /// Bytes read.
    pub fetch_bytes_per_s: f64,
}

impl Rates {
    /// What happened between two counts.
    pub fn between(earlier: Traffic, later: Traffic, seconds: f64) -> Rates {
        // A topic that was deleted and made again counts from zero.
        let rate = |earlier: u64, later: u64| later.saturating_sub(earlier) as f64 / seconds;
        Rates {
            produce_records_per_s: rate(earlier.produce_records, later.produce_records),
            produce_bytes_per_s: rate(earlier.produce_bytes, later.produce_bytes),
            fetch_records_per_s: rate(earlier.fetch_records, later.fetch_records),
            fetch_bytes_per_s: rate(earlier.fetch_bytes, later.fetch_bytes),
        }
    }
}

/// A part of a list, in the order of names.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// Items that match, on all pages.
    pub matching: usize,
    /// What to ask for with `after` to get the next page; null on the last.
    pub next: Option<String>,
}

/// A topic.
#[derive(Debug, Serialize)]
pub struct TopicFacts {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its partitions.
    pub partitions: u32,
    /// Partitions that no live broker leads.
    pub leaderless: usize,
    /// Bytes of its records, of partitions that this broker leads.
    pub size_bytes: u64,
    /// Offsets between start and end, of partitions that this broker leads.
    pub offsets: i64,
    /// Its traffic through this broker.
    pub rates: Rates,
}

/// A topic with its partitions.
#[derive(Debug, Serialize)]
pub struct TopicDetail {
    /// All of it.
    pub topic: TopicFacts,
    /// One by one.
    pub partitions: Vec<PartitionFacts>,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct PartitionFacts {
    /// Its index.
    pub partition: i32,
    /// Broker that leads it.
    pub leader: Option<i32>,
    /// Shard of that broker.
    pub shard: Option<u32>,
    /// Epoch of the leadership.
    pub leader_epoch: Option<i32>,
    /// First offset that can be read.
    pub start_offset: Option<i64>,
    /// Offset after the last record.
    pub end_offset: Option<i64>,
    /// Bytes of its records.
    pub size_bytes: Option<u64>,
}

/// A group that this broker coordinates.
#[derive(Debug, Serialize)]
pub struct GroupFacts {
    /// Its id.
    pub id: String,
    /// Its state, in Kafka's words.
    pub state: String,
    /// `classic` or `consumer`, in Kafka's words.
    #[serde(rename = "type")]
    pub kind: String,
    /// How partitions are shared out.
    pub assignor: String,
    /// How many members it has.
    pub members: usize,
    /// Records that it has still to read, of partitions that it has committed for and whose end is known here.
    pub lag: Option<i64>,
}

/// A group with its members and offsets.
#[derive(Debug, Serialize)]
pub struct GroupDetail {
    /// All of it.
    pub group: GroupFacts,
    /// One by one.
    pub members: Vec<MemberFacts>,
    /// What is assigned or committed, by topic and partition.
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Debug, Serialize)]
pub struct MemberFacts {
    /// Its id.
    pub id: String,
    /// Its id as a static member.
    pub instance_id: Option<String>,
    /// What its client calls itself.
    pub client_id: String,
    /// Where it is.
    pub host: String,
    /// How many partitions it has.
    pub partitions: usize,
}

/// A partition as a group sees it.
#[derive(Debug, Serialize)]
pub struct GroupPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Next offset to read.
    pub committed_offset: Option<i64>,
    /// Offset after the last record.
    pub end_offset: Option<i64>,
    /// Records between the two.
    pub lag: Option<i64>,
    /// Id of the member that reads it.
    pub member: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// A sentence.
    pub error: String,
}
