//! How much etcd has to hold: `docs/operations.md` says these numbers.

use super::*;
use std::collections::BTreeMap;

const ID: TopicId = TopicId([0xff; 16]);

#[test]
fn a_topic_takes_few_hundred_bytes() {
    let bytes = |name: &str| {
        let topic = TopicRecord {
            topic_id: ID,
            folder: name.to_string(),
            partitions: u32::MAX,
            configs: BTreeMap::new(),
            created_ms: i64::MAX,
        };
        let names = CountRecord { count: u64::MAX };
        topic_key(name).len() + topic.encode().len() + name_key(name).len() + names.encode().len()
    };
    assert!(bytes(&"n".repeat(20)) <= 160, "{}", bytes(&"n".repeat(20)));
    // Kafka's longest name.
    assert!(bytes(&"n".repeat(249)) <= 900, "{}", bytes(&"n".repeat(249)));
}

#[test]
fn a_partition_takes_less_than_two_hundred_bytes() {
    let bytes = |record: &PartitionRecord| partition_key(ID, i32::MAX).len() + record.encode().len();
    let mut record = PartitionRecord {
        leader: i32::MAX,
        leader_incarnation: u64::from(u32::MAX),
        shard: 255,
        leader_epoch: 1_000_000,
        stream: u64::from(u32::MAX),
        log_start_offset: 1 << 40,
        rolled_offset: 1 << 40,
        tail_streams: vec![u64::from(u32::MAX); 2],
        epoch_starts: Vec::new(),
    };
    assert!(bytes(&record) <= 130, "{}", bytes(&record));
    record.epoch_starts = vec![(1_000_000, 1 << 40); 8];
    assert!(bytes(&record) <= 200, "{}", bytes(&record));
}

#[test]
fn a_committed_offset_takes_little_more_than_its_key() {
    let bytes = |group: &str| {
        let record = OffsetRecord {
            offset: i64::MAX,
            leader_epoch: i32::MAX,
            metadata: String::new(),
            commit_ms: i64::MAX,
            expire_ms: None,
        };
        offset_key(group, ID, i32::MAX).len() + record.encode().len()
    };
    assert!(bytes(&"g".repeat(20)) <= 120, "{}", bytes(&"g".repeat(20)));
    assert!(bytes(&"g".repeat(249)) <= 350, "{}", bytes(&"g".repeat(249)));
}

#[test]
fn a_stream_takes_a_hundred_bytes_and_some_for_each_merged_object() {
    let bytes = |merged: usize| {
        let object = MergedObject {
            first: 1 << 40,
            last: 1 << 40,
            level: 3,
        };
        let record = StreamRecord {
            broker_id: i32::MAX,
            incarnation: u64::from(u32::MAX),
            shard: 255,
            state: StreamState::Sealed {
                end_seq: 1 << 40,
                sealed_ms: 1 << 42,
            },
            first_live_seq: 1 << 40,
            merged: vec![object; merged],
        };
        stream_key(u64::MAX).len() + record.encode().len()
    };
    assert!(bytes(0) <= 100, "{}", bytes(0));
    assert!(bytes(100) - bytes(0) <= 100 * 15, "{}", bytes(100));
}
