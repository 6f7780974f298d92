//! The table of edge cases, per API: fields at their limits, absent, duplicate, unknown or inconsistent, and each error
//! that Kafka's handlers have.

mod configs;
mod metadata;
mod offsets;
mod produce;
mod reads;
mod topics;

use super::batches::{self, TIME};
use super::report::Verdict;
use super::side::Names;
use super::{encoded, Judge, Outcome, CONTROL, PATIENCE, PAUSE};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A topic that no case creates.
const MISSING: &str = "missing";

/// Numbers at the limits of their types.
const INTEGERS: [i32; 5] = [i32::MIN, -2, -1, 0, i32::MAX];

/// All cases.
pub fn run(judge: &mut Judge) {
    for (name, part) in PARTS {
        println!("cases of {name}");
        part(judge);
    }
}

type Part = (&'static str, fn(&mut Judge));

const PARTS: &[Part] = &[
    ("ApiVersions", metadata::api_versions),
    ("Produce", produce::produce),
    ("Produce with acks 0", produce::produce_without_answers),
    ("idempotent producers", produce::idempotent),
    ("ListOffsets", reads::list_offsets),
    ("ListOffsets after DeleteRecords", reads::list_offsets_after_deletion),
    ("Fetch", reads::fetch),
    ("Metadata", metadata::metadata),
    ("internal topics", metadata::internal_topics),
    ("CreateTopics", topics::create_topics),
    ("CreatePartitions", topics::create_partitions),
    ("DeleteRecords", reads::delete_records),
    ("OffsetForLeaderEpoch", reads::offset_for_leader_epoch),
    ("DescribeConfigs", configs::describe_configs),
    ("topic settings", configs::topic_settings),
    ("group settings", configs::group_settings),
    ("offsets", offsets::offsets),
    ("FindCoordinator", offsets::find_coordinator),
    ("inspection", metadata::inspection),
    ("InitProducerId", metadata::init_producer_id),
    ("DeleteTopics", topics::delete_topics),
];

pub fn create_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreateTopicsRequest {
    let config = |(name, value): &(&str, &str)| CreatableTopicConfig {
        name: name.to_string(),
        value: Some(value.to_string()),
    };
    CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: name.to_string(),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn produce_request(topic: &str, id: TopicId, acks: i16, partitions: &[(i32, Option<Bytes>)]) -> ProduceRequest {
    let partition = |(index, records): &(i32, Option<Bytes>)| PartitionProduceData {
        index: *index,
        records: records.clone(),
    };
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_string(),
            topic_id: id,
            partition_data: partitions.iter().map(partition).collect(),
        }],
        ..Default::default()
    }
}

/// The request in the form of a version: topics by name or by id.
fn in_version(mut request: ProduceRequest, version: i16) -> ProduceRequest {
    for topic in &mut request.topic_data {
        match version {
            13.. => topic.name = String::new(),
            _ => topic.topic_id = TopicId::ZERO,
        }
    }
    request
}

fn produce_to(
    judge: &mut Judge,
    label: &str,
    version: i16,
    topic: &str,
    acks: i16,
    partitions: &[(i32, Option<Bytes>)],
) {
    judge.ask(label, version, |names| {
        in_version(produce_request(topic, names.topic(topic), acks, partitions), version)
    });
}

/// Reads all of a topic on both sides, and where it begins and ends. Returns whether that is alike.
pub fn records_are_alike(judge: &mut Judge, topic: &str, partitions: i32) -> bool {
    let mut alike = true;
    for partition in 0..partitions {
        for timestamp in [-1, -2, -3] {
            let offsets = judge.ask("offsets afterwards", 7, |_| {
                list_request(topic, &[(partition, timestamp)])
            });
            alike &= offsets.verdict != Verdict::Differs;
        }
        let records = judge.ask("records afterwards", 12, |_| {
            fetch_request(topic, TopicId::ZERO, &[(partition, 0)])
        });
        alike &= records.verdict != Verdict::Differs;
    }
    alike
}

/// Kafka refuses for a moment after its start.
pub fn until_producers_have_ids(judge: &mut Judge) {
    let request = encoded(4, 1, &InitProducerIdRequest::default());
    let until = Instant::now() + PATIENCE;
    for side in [&mut judge.kafka, &mut judge.ours] {
        loop {
            assert!(Instant::now() < until, "no producer id");
            side.send(CONTROL, &request);
            if let Outcome::Answer(frame) = side.receive(CONTROL) {
                let answer = decode_response::<InitProducerIdResponse>(frame, 4);
                if answer.is_ok_and(|(_, answer)| answer.producer_id >= 0) {
                    break;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Kafka's brokers follow its controller a moment later.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(100));
}

/// Waits until both coordinate every group: Kafka loads its partitions one by one, and refuses meanwhile.
pub fn until_coordinated(judge: &mut Judge) {
    /// Enough for each of Kafka's four partitions of offsets to have some.
    const GROUPS: usize = 40;
    let groups = (0..GROUPS)
        .map(|at| format!("probe-{at}"))
        .chain([String::new(), "g".into()]);
    let groups: Vec<OffsetFetchRequestGroup> = groups
        .map(|group_id| OffsetFetchRequestGroup {
            group_id,
            member_epoch: -1,
            ..Default::default()
        })
        .collect();
    let find = FindCoordinatorRequest {
        key: "probe".into(),
        ..Default::default()
    };
    let fetch = OffsetFetchRequest {
        groups,
        ..Default::default()
    };
    let until = Instant::now() + PATIENCE;
    for side in [&mut judge.kafka, &mut judge.ours] {
        loop {
            assert!(Instant::now() < until, "no coordinator");
            // The first look creates Kafka's own topics.
            side.send(CONTROL, &encoded(3, 1, &find));
            let found = side.receive(CONTROL);
            side.send(CONTROL, &encoded(8, 2, &fetch));
            if let (Outcome::Answer(_), Outcome::Answer(frame)) = (found, side.receive(CONTROL)) {
                let answer = decode_response::<OffsetFetchResponse>(frame, 8)
                    .expect("OffsetFetch can be read")
                    .1;
                if answer.groups.iter().all(|group| group.error_code == ErrorCode::NONE) {
                    break;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Has both give out a producer id, under an alias.
pub fn new_producer(judge: &mut Judge, alias: &str) {
    until_producers_have_ids(judge);
    let answers = judge.ask("prepare", judge.newest::<InitProducerIdRequest>().min(5), |_| {
        InitProducerIdRequest {
            transaction_timeout_ms: 1000,
            ..Default::default()
        }
    });
    judge.learn(&answers, |answer, names| {
        names.numbers.insert(alias.to_string(), answer.producer_id);
    });
}

pub fn list_request(topic: &str, wanted: &[(i32, i64)]) -> ListOffsetsRequest {
    let partition = |(partition_index, timestamp): &(i32, i64)| ListOffsetsPartition {
        partition_index: *partition_index,
        timestamp: *timestamp,
        ..Default::default()
    };
    ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: topic.to_string(),
            partitions: wanted.iter().map(partition).collect(),
        }],
        ..Default::default()
    }
}

pub fn fetch_request(topic: &str, id: TopicId, wanted: &[(i32, i64)]) -> FetchRequest {
    let partition = |(partition, fetch_offset): &(i32, i64)| FetchPartition {
        partition: *partition,
        fetch_offset: *fetch_offset,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: vec![FetchTopic {
            topic: topic.to_string(),
            topic_id: id,
            partitions: wanted.iter().map(partition).collect(),
        }],
        ..Default::default()
    }
}
