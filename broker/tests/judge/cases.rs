//! The table of edge cases, per API: fields at their limits, absent, duplicate, unknown or inconsistent, and each error
//! that Kafka's handlers have.

use super::batches::{self, TIME};
use super::Judge;
use bytes::Bytes;
use kafscale_codec::messages::*;
use kafscale_codec::types::TopicId;

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
    ("ApiVersions", api_versions),
    ("Produce", produce),
    ("Produce with acks 0", produce_without_answers),
    ("idempotent producers", idempotent),
    ("ListOffsets", list_offsets),
    ("ListOffsets after DeleteRecords", list_offsets_after_deletion),
    ("Fetch", fetch),
    ("Metadata", metadata),
    ("internal topics", internal_topics),
    ("CreateTopics", create_topics),
    ("CreatePartitions", create_partitions),
    ("DeleteRecords", delete_records),
    ("OffsetForLeaderEpoch", offset_for_leader_epoch),
    ("DescribeConfigs", describe_configs),
    ("topic settings", topic_settings),
    ("group settings", group_settings),
    ("offsets", offsets),
    ("FindCoordinator", find_coordinator),
    ("inspection", inspection),
    ("InitProducerId", init_producer_id),
    ("DeleteTopics", delete_topics),
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

fn api_versions(judge: &mut Judge) {
    for (name, version) in [
        ("", ""),
        ("judge", "1"),
        ("with space", "1"),
        ("-judge", "1.0"),
        ("judge", "-"),
    ] {
        judge.ask_all(&format!("software {name:?} {version:?}"), |_, _| ApiVersionsRequest {
            client_software_name: name.into(),
            client_software_version: version.into(),
        });
    }
}

fn produce(judge: &mut Judge) {
    for version in judge.versions::<ProduceRequest>() {
        let topic = format!("produce-{version}");
        judge.topic(&topic, 2, &[]);
        for (label, batch) in batches::all() {
            produce_to(judge, label, version, &topic, -1, &[(0, Some(batch))]);
        }
        for acks in [-2, 2, i16::MAX] {
            produce_to(judge, "acks", version, &topic, acks, &[(0, Some(batches::plain(1)))]);
        }
        for partition in [-1, 2, i32::MAX] {
            produce_to(
                judge,
                "unknown partition",
                version,
                &topic,
                1,
                &[(partition, Some(batches::plain(1)))],
            );
        }
        produce_to(
            judge,
            "unknown topic",
            version,
            MISSING,
            1,
            &[(0, Some(batches::plain(1)))],
        );
        produce_to(
            judge,
            "illegal topic",
            version,
            "a/b",
            1,
            &[(0, Some(batches::plain(1)))],
        );
        let twice = [(1, Some(batches::plain(1))), (1, Some(batches::plain(2)))];
        produce_to(judge, "a partition twice", version, &topic, -1, &twice);
        produce_to(judge, "no partitions", version, &topic, -1, &[]);
        judge.ask("no topics", version, |_| ProduceRequest {
            acks: -1,
            ..Default::default()
        });
        for timeout_ms in [-1, 0, i32::MAX] {
            judge.ask("timeout", version, |names| {
                let request = produce_request(&topic, names.topic(&topic), 1, &[(0, Some(batches::plain(1)))]);
                let request = ProduceRequest { timeout_ms, ..request };
                in_version(request, version)
            });
        }
    }
    // What is stored of each batch, in a partition of its own: what one side alone accepts shows once.
    let all = batches::all();
    judge.topic("produce-each", all.len() as i32, &[]);
    for (partition, (label, batch)) in (0..).zip(all) {
        produce_to(judge, label, 12, "produce-each", -1, &[(partition, Some(batch))]);
    }
    records_are_alike(judge, "produce-each", batches::all().len() as i32);
    for (name, configs) in [
        ("produce-small", vec![("max.message.bytes", "100")]),
        ("produce-append-time", vec![("message.timestamp.type", "LogAppendTime")]),
        ("produce-compact", vec![("cleanup.policy", "compact")]),
        ("produce-before", vec![("message.timestamp.before.max.ms", "1000")]),
    ] {
        judge.topic(name, 1, &configs);
        let version = judge.newest::<ProduceRequest>();
        for (label, batch) in batches::all() {
            produce_to(
                judge,
                &format!("{name}: {label}"),
                version,
                name,
                -1,
                &[(0, Some(batch))],
            );
        }
    }
    // Kafka's handler fails on these, without an answer.
    produce_to(judge, "null records", 12, "produce-small", -1, &[(0, None)]);
    // A day ahead of both clocks.
    let ahead = now_ms() + 24 * 3_600_000;
    produce_to(
        judge,
        "a day ahead",
        12,
        "produce-small",
        -1,
        &[(0, Some(batches::timed(&[ahead])))],
    );
    judge.topic(
        "produce-after",
        1,
        &[("message.timestamp.after.max.ms", "9223372036854775807")],
    );
    produce_to(
        judge,
        "a day ahead, allowed",
        12,
        "produce-after",
        -1,
        &[(0, Some(batches::timed(&[ahead])))],
    );
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is past 1970").as_millis() as i64
}

/// Reads all of a topic on both sides, and where it begins and ends.
pub fn records_are_alike(judge: &mut Judge, topic: &str, partitions: i32) {
    for partition in 0..partitions {
        for timestamp in [-1, -2, -3] {
            judge.ask("offsets afterwards", 7, |_| {
                list_request(topic, &[(partition, timestamp)])
            });
        }
        judge.ask("records afterwards", 12, |_| {
            fetch_request(topic, TopicId::ZERO, &[(partition, 0)])
        });
    }
}

fn produce_without_answers(judge: &mut Judge) {
    judge.topic("quiet", 1, &[]);
    for version in judge.versions::<ProduceRequest>() {
        for (label, batch) in batches::all() {
            produce_to(
                judge,
                &format!("acks 0: {label}"),
                version,
                "quiet",
                0,
                &[(0, Some(batch))],
            );
        }
        produce_to(
            judge,
            "acks 0: unknown topic",
            version,
            MISSING,
            0,
            &[(0, Some(batches::plain(1)))],
        );
        produce_to(
            judge,
            "acks 0: unknown partition",
            version,
            "quiet",
            0,
            &[(9, Some(batches::plain(1)))],
        );
    }
}

fn idempotent(judge: &mut Judge) {
    judge.topic("exact", 1, &[]);
    new_producer(judge, "p");
    let version = judge.newest::<ProduceRequest>();
    // Epoch, first sequence, count.
    let steps = [
        (0, 0, 2),
        (0, 0, 2),
        (0, 2, 1),
        (0, 4, 1),
        (0, 3, 1),
        (0, 0, 2),
        (0, 2, 2),
        (1, 5, 1),
        (1, 0, 1),
        (0, 4, 1),
        (1, 1, 1),
        (-1, 2, 1),
        (3, 0, 3),
        (3, i32::MAX, 1),
        (3, -1, 1),
        (3, 3, 1),
    ];
    for (epoch, sequence, count) in steps {
        idempotent_to(judge, "exact", version, "p", (epoch, sequence, count));
    }
    // A producer that the partition does not know may begin anywhere, in an old topic as in a new one.
    new_producer(judge, "q");
    idempotent_to(judge, "exact", version, "q", (0, 7, 1));
    idempotent_to(judge, "exact", version, "q", (0, 8, 1));
    judge.topic("exact-anew", 1, &[]);
    idempotent_to(judge, "exact-anew", version, "p", (3, 40, 2));
    idempotent_to(judge, "exact-anew", version, "p", (3, 42, 1));
    let delete = |_: &super::Names| DeleteTopicsRequest {
        topic_names: vec!["exact-anew".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    judge.ask("a topic made anew", 5, delete);
    std::thread::sleep(std::time::Duration::from_millis(500));
    judge.topic("exact-anew", 1, &[]);
    idempotent_to(judge, "exact-anew", version, "p", (3, 43, 1));
    records_are_alike(judge, "exact", 1);
    records_are_alike(judge, "exact-anew", 1);
}

fn new_producer(judge: &mut Judge, alias: &str) {
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

/// Kafka refuses for a moment after its start.
pub fn until_producers_have_ids(judge: &mut Judge) {
    let request = super::encoded(4, 1, &InitProducerIdRequest::default());
    let until = std::time::Instant::now() + super::PATIENCE;
    for side in [&mut judge.kafka, &mut judge.ours] {
        loop {
            assert!(std::time::Instant::now() < until, "no producer id");
            side.send("control", &request);
            if let super::Outcome::Answer(frame) = side.receive("control") {
                let answer = decode_response::<InitProducerIdResponse>(frame, 4);
                if answer.is_ok_and(|(_, answer)| answer.producer_id >= 0) {
                    break;
                }
            }
            std::thread::sleep(super::PAUSE);
        }
    }
}

fn idempotent_to(judge: &mut Judge, topic: &str, version: i16, alias: &str, (epoch, sequence, count): (i16, i32, i64)) {
    let label = format!("{topic}: producer {alias} epoch {epoch} sequence {sequence} of {count}");
    judge.ask(&label, version, |names| {
        let batch = batches::idempotent(names.number(alias), epoch, sequence, count);
        in_version(
            produce_request(topic, names.topic(topic), -1, &[(0, Some(batch))]),
            version,
        )
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

/// Times before, at, between and after those of the records, and every marker.
const LOOKUPS: &[i64] = &[
    TIME - 1,
    TIME,
    TIME + 1,
    TIME + 5,
    TIME + 19,
    TIME + 20,
    0,
    1,
    i64::MAX,
    -1,
    -2,
    -3,
    -4,
    -5,
    -6,
    -7,
    -77,
    i64::MIN,
];

fn list_offsets(judge: &mut Judge) {
    judge.topic("list", 2, &[]);
    judge.topic("list-empty", 1, &[]);
    let disordered = [TIME + 4, TIME, TIME + 9, TIME + 2];
    for batch in [batches::plain(5), batches::timed(&disordered), batches::plain(20)] {
        produce_to(judge, "prepare", 12, "list", -1, &[(0, Some(batch))]);
    }
    for topic in ["list", "list-empty", MISSING, "a/b", ""] {
        for timestamp in LOOKUPS {
            judge.ask_all(&format!("{topic} at {timestamp}"), |_, _| {
                list_request(topic, &[(0, *timestamp)])
            });
        }
    }
    for partition in INTEGERS {
        judge.ask_all("partition", |_, _| list_request("list", &[(partition, -1)]));
    }
    judge.ask_all("a partition twice", |_, _| list_request("list", &[(0, -1), (0, -2)]));
    judge.ask_all("twice and others", |_, _| {
        list_request("list", &[(0, -1), (1, -1), (0, -1)])
    });
    judge.ask_all("a topic twice", |_, _| {
        let mut request = list_request("list", &[(0, -1)]);
        request.topics.extend(list_request("list", &[(0, -2), (1, -2)]).topics);
        request
    });
    judge.ask_all("no topics", |_, _| ListOffsetsRequest::default());
    judge.ask_all("no partitions", |_, _| list_request("list", &[]));
    for replica_id in INTEGERS {
        judge.ask_all("replica", |_, _| ListOffsetsRequest {
            replica_id,
            ..list_request("list", &[(0, -1)])
        });
    }
    for isolation_level in [0, 1, 2, -1] {
        judge.ask_all("isolation", |_, _| ListOffsetsRequest {
            isolation_level,
            ..list_request("list", &[(0, -1)])
        });
    }
    for epoch in [-1, 1_000_000, i32::MAX] {
        judge.ask_all("leader epoch", |_, _| {
            let mut request = list_request("list", &[(0, -1)]);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            request
        });
    }
}

fn list_offsets_after_deletion(judge: &mut Judge) {
    judge.topic("trimmed", 1, &[]);
    let gzip: Vec<i64> = (0..20).map(|at| TIME + 100 + at).collect();
    produce_to(judge, "prepare", 12, "trimmed", -1, &[(0, Some(batches::plain(20)))]);
    let gzip = batches::compressed(&gzip, kafscale_codec::compression::Compression::Gzip);
    produce_to(judge, "prepare", 12, "trimmed", -1, &[(0, Some(gzip))]);
    let version = judge.newest::<ListOffsetsRequest>();
    for start in [0, 5, 19, 20, 25, 40] {
        judge.ask("prepare", 2, |_| delete_request("trimmed", &[(0, start)]));
        for at in [-1, 0, 3, 5, 6, 19, 20, 99, 100, 103, 105, 119, 120] {
            judge.ask(&format!("from {start} at +{at}"), version, |_| {
                list_request("trimmed", &[(0, TIME + at)])
            });
        }
        for marker in [-1, -2, -3, -4] {
            judge.ask(&format!("from {start}"), version, |_| {
                list_request("trimmed", &[(0, marker)])
            });
        }
        for offset in [0, start - 1, start, start + 1] {
            judge.ask(&format!("from {start}"), 12, |_| {
                fetch_request("trimmed", TopicId::ZERO, &[(0, offset)])
            });
        }
    }
}

fn delete_request(topic: &str, wanted: &[(i32, i64)]) -> DeleteRecordsRequest {
    let partition = |(partition_index, offset): &(i32, i64)| DeleteRecordsPartition {
        partition_index: *partition_index,
        offset: *offset,
    };
    DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: topic.to_string(),
            partitions: wanted.iter().map(partition).collect(),
        }],
        timeout_ms: 10_000,
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

fn fetch_in(
    judge: &mut Judge,
    label: &str,
    version: i16,
    topic: &str,
    wanted: &[(i32, i64)],
    change: impl Fn(&mut FetchRequest),
) {
    judge.ask(label, version, |names| {
        let mut request = match version {
            13.. => fetch_request("", names.topic(topic), wanted),
            _ => fetch_request(topic, TopicId::ZERO, wanted),
        };
        change(&mut request);
        request
    });
}

fn fetch(judge: &mut Judge) {
    judge.topic("fetch", 2, &[]);
    for batch in [batches::plain(3), batches::plain(1), batches::plain(10)] {
        produce_to(judge, "prepare", 12, "fetch", -1, &[(0, Some(batch))]);
    }
    for version in judge.versions::<FetchRequest>() {
        let same = |_: &mut FetchRequest| {};
        for offset in [0, 1, 3, 4, 13, 14, 15, -1, i64::MIN, i64::MAX] {
            fetch_in(
                judge,
                &format!("offset {offset}"),
                version,
                "fetch",
                &[(0, offset)],
                same,
            );
        }
        for partition in INTEGERS {
            fetch_in(judge, "partition", version, "fetch", &[(partition, 0)], same);
        }
        fetch_in(judge, "unknown topic", version, MISSING, &[(0, 0)], same);
        fetch_in(judge, "a partition twice", version, "fetch", &[(0, 0), (0, 3)], same);
        fetch_in(judge, "no partitions", version, "fetch", &[], same);
        fetch_in(judge, "no topics", version, "fetch", &[], |request| {
            request.topics.clear()
        });
        for bytes in [0, 1, 100, -1, i32::MAX] {
            let label = format!("{bytes} bytes");
            fetch_in(judge, &label, version, "fetch", &[(0, 0), (1, 0)], |request| {
                request.max_bytes = bytes
            });
            fetch_in(judge, &label, version, "fetch", &[(0, 0)], |request| {
                request.topics[0].partitions[0].partition_max_bytes = bytes;
            });
        }
        for (min, max) in [(0, 1000), (-1, 1000), (i32::MAX, 1000), (i32::MAX, 1), (1001, 1000)] {
            fetch_in(
                judge,
                &format!("min {min} max {max}"),
                version,
                "fetch",
                &[(0, 0)],
                |request| {
                    (request.min_bytes, request.max_bytes) = (min, max);
                },
            );
        }
        for wait in [-1, 0, 20] {
            fetch_in(
                judge,
                &format!("wait {wait}"),
                version,
                "fetch",
                &[(0, 14)],
                |request| request.max_wait_ms = wait,
            );
        }
        for level in [0, 1, 2, -1] {
            fetch_in(judge, "isolation", version, "fetch", &[(0, 0)], |request| {
                request.isolation_level = level
            });
        }
        for replica in [0, 1, -2, 77] {
            fetch_in(judge, "replica", version, "fetch", &[(0, 0)], |request| {
                request.replica_id = replica
            });
        }
        for epoch in [0, 1_000_000, -2] {
            fetch_in(judge, "leader epoch", version, "fetch", &[(0, 0)], |request| {
                request.topics[0].partitions[0].current_leader_epoch = epoch.max(1_000_000);
            });
            fetch_in(judge, "last fetched epoch", version, "fetch", &[(0, 3)], |request| {
                request.topics[0].partitions[0].last_fetched_epoch = epoch.max(1_000_000);
            });
        }
        for (id, epoch) in [
            (0, 0),
            (0, -1),
            (0, 1),
            (77, 0),
            (77, 1),
            (77, -1),
            (-1, 0),
            (0, i32::MAX),
        ] {
            fetch_in(
                judge,
                &format!("session {id} {epoch}"),
                version,
                "fetch",
                &[(0, 0)],
                |request| {
                    (request.session_id, request.session_epoch) = (id, epoch);
                },
            );
        }
    }
}

fn metadata(judge: &mut Judge) {
    judge.topic("meta", 3, &[]);
    let named = |name: Option<&str>, topic_id: TopicId| MetadataRequestTopic {
        topic_id,
        name: name.map(str::to_string),
    };
    let long = "x".repeat(250);
    for name in ["meta", MISSING, "", ".", "..", "a/b", "ü", &long] {
        judge.ask_all(&format!("topic {name:?}"), |_, version| MetadataRequest {
            topics: Some(vec![named(Some(name), TopicId::ZERO)]),
            // Before version 4 there is no way to forbid the creation.
            allow_auto_topic_creation: version < 4,
            ..Default::default()
        });
    }
    judge.ask_all("no topics", |_, _| MetadataRequest {
        topics: Some(Vec::new()),
        ..Default::default()
    });
    judge.ask_all("a topic twice", |_, _| MetadataRequest {
        topics: Some(vec![
            named(Some("meta"), TopicId::ZERO),
            named(Some("meta"), TopicId::ZERO),
        ]),
        ..Default::default()
    });
    for version in judge.versions::<MetadataRequest>().filter(|version| *version >= 10) {
        for id in ["meta", MISSING] {
            judge.ask(&format!("id of {id}"), version, |names| MetadataRequest {
                topics: Some(vec![named(None, names.topic(id))]),
                ..Default::default()
            });
        }
        judge.ask("null name, no id", version, |_| MetadataRequest {
            topics: Some(vec![named(None, TopicId::ZERO)]),
            ..Default::default()
        });
        judge.ask("id and name", version, |names| MetadataRequest {
            topics: Some(vec![named(Some("meta"), names.topic("meta"))]),
            ..Default::default()
        });
    }
    for version in judge.versions::<MetadataRequest>().filter(|version| *version >= 8) {
        judge.ask("authorized operations", version, |_| MetadataRequest {
            topics: Some(vec![named(Some("meta"), TopicId::ZERO)]),
            include_cluster_authorized_operations: version <= 10,
            include_topic_authorized_operations: true,
            ..Default::default()
        });
    }
    judge.ask_all("endpoint type", |_, _| DescribeClusterRequest {
        include_cluster_authorized_operations: true,
        ..Default::default()
    });
    for endpoint_type in [0, 2, 3, -1] {
        for version in 1..=judge.newest::<DescribeClusterRequest>() {
            judge.ask("endpoint type", version, |_| DescribeClusterRequest {
                endpoint_type,
                ..Default::default()
            });
        }
    }
    for (limit, cursor) in [
        (2000, None),
        (2, None),
        (0, None),
        (-1, None),
        (2, Some(("meta", 1))),
        (2, Some(("zzz", 0))),
        (2, Some(("meta", -1))),
    ] {
        judge.ask_all(&format!("limit {limit} cursor {cursor:?}"), |_, _| {
            DescribeTopicPartitionsRequest {
                topics: ["meta", MISSING, "a/b"]
                    .map(|name| DescribeTopicPartitionsTopic { name: name.into() })
                    .into(),
                response_partition_limit: limit,
                cursor: cursor.map(|(name, partition_index): (&str, i32)| TopicPartitionsCursor {
                    topic_name: name.into(),
                    partition_index,
                }),
            }
        });
    }
}

fn internal_topics(judge: &mut Judge) {
    for name in ["__transaction_state", "__share_group_state"] {
        judge.ask("internal topic without creation", 12, |_| MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(name.into()),
                ..Default::default()
            }]),
            allow_auto_topic_creation: false,
            ..Default::default()
        });
    }
    for name in ["__consumer_offsets", "__transaction_state"] {
        for version in judge.versions::<ProduceRequest>().filter(|version| *version < 13) {
            produce_to(
                judge,
                &format!("to {name}"),
                version,
                name,
                -1,
                &[(0, Some(batches::plain(1)))],
            );
        }
        judge.ask("delete an internal topic", 5, |_| DeleteTopicsRequest {
            topic_names: vec!["__share_group_state".into()],
            timeout_ms: 10_000,
            ..Default::default()
        });
    }
}

fn create_topics(judge: &mut Judge) {
    let change = |name: &str, change: &dyn Fn(&mut CreatableTopic)| {
        let mut request = create_topic(name, 1, &[]);
        change(&mut request.topics[0]);
        request
    };
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "ü", "with space", &long] {
        judge.ask_all(&format!("name {name:?}"), |_, _| change(name, &|_| {}));
    }
    for version in judge.versions::<CreateTopicsRequest>() {
        let mut at = 0;
        let mut one = |judge: &mut Judge, label: &str, edit: &dyn Fn(&mut CreatableTopic)| {
            at += 1;
            let name = format!("create-{version}-{at}");
            judge.ask(label, version, |_| change(&name, edit));
        };
        for count in [-2, -1, 0, 1, 3] {
            one(judge, &format!("{count} partitions"), &|topic| {
                topic.num_partitions = count
            });
        }
        for factor in [-2, -1, 0, 1] {
            one(judge, &format!("replication factor {factor}"), &|topic| {
                topic.replication_factor = factor
            });
        }
        one(judge, "assignment and count", &|topic| {
            topic.assignments = assignments(&[(0, 1)])
        });
        for (label, assigned) in [
            ("assignment from 1", vec![(1, 77)]),
            ("assignment with a gap", vec![(0, 77), (2, 77)]),
            ("a partition twice", vec![(0, 77), (0, 77)]),
            ("an unknown broker", vec![(0, 77)]),
            ("broker −1", vec![(0, -1)]),
        ] {
            one(judge, label, &|topic| {
                topic.num_partitions = -1;
                topic.replication_factor = -1;
                topic.assignments = assignments(&assigned);
            });
        }
        one(judge, "no replicas", &|topic| {
            topic.num_partitions = -1;
            topic.replication_factor = -1;
            topic.assignments = vec![CreatableReplicaAssignment::default()];
        });
        for (name, value) in [
            ("unknown.setting", Some("1")),
            ("retention.ms", None),
            ("retention.ms", Some("x")),
            ("retention.ms", Some("-2")),
            ("cleanup.policy", Some("shred")),
        ] {
            one(judge, &format!("{name}={value:?}"), &|topic| {
                topic.configs = vec![CreatableTopicConfig {
                    name: name.into(),
                    value: value.map(str::to_string),
                }];
            });
        }
        one(judge, "a setting twice", &|topic| {
            topic.configs = ["1000", "2000"]
                .map(|value| CreatableTopicConfig {
                    name: "retention.ms".into(),
                    value: Some(value.into()),
                })
                .into();
        });
        let twice = format!("create-twice-{version}");
        judge.ask("a topic twice", version, |_| {
            let mut request = create_topic(&twice, 1, &[]);
            request.topics.extend(create_topic(&twice, 2, &[]).topics);
            request
        });
        judge.ask("a topic that is there", version, |_| create_topic("meta", 1, &[]));
        judge.ask("no topics", version, |_| CreateTopicsRequest::default());
        if version > 0 {
            let dry = format!("create-dry-{version}");
            judge.ask("validate only", version, |_| CreateTopicsRequest {
                validate_only: true,
                ..create_topic(&dry, 2, &[("retention.ms", "1000")])
            });
        }
    }
    // Kafka takes these two for one, since its metrics cannot tell them apart.
    judge.topic("collide.name", 1, &[]);
    judge.ask("a name that collides", 7, |_| create_topic("collide_name", 1, &[]));
}

fn assignments(of: &[(i32, i32)]) -> Vec<CreatableReplicaAssignment> {
    let one = |(partition_index, broker): &(i32, i32)| CreatableReplicaAssignment {
        partition_index: *partition_index,
        broker_ids: vec![*broker],
    };
    of.iter().map(one).collect()
}

fn create_partitions(judge: &mut Judge) {
    let more = |name: &str, count: i32, brokers: Option<Vec<Vec<i32>>>| CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic {
            name: name.into(),
            count,
            assignments: brokers.map(|lists| {
                lists
                    .into_iter()
                    .map(|broker_ids| CreatePartitionsAssignment { broker_ids })
                    .collect()
            }),
        }],
        timeout_ms: 10_000,
        validate_only: false,
    };
    for version in judge.versions::<CreatePartitionsRequest>() {
        let topic = format!("grow-{version}");
        judge.topic(&topic, 2, &[]);
        for count in [-1, 0, 1, 2] {
            judge.ask(&format!("to {count}"), version, |_| more(&topic, count, None));
        }
        judge.ask("unknown topic", version, |_| more(MISSING, 3, None));
        judge.ask("illegal topic", version, |_| more("a/b", 3, None));
        judge.ask("unknown broker", version, |_| more(&topic, 3, Some(vec![vec![77]])));
        judge.ask("too few assignments", version, |_| {
            more(&topic, 5, Some(vec![vec![77]]))
        });
        judge.ask("too many assignments", version, |_| {
            more(&topic, 3, Some(vec![vec![77], vec![77]]))
        });
        judge.ask("no replicas", version, |_| more(&topic, 3, Some(vec![vec![]])));
        judge.ask("a topic twice", version, |_| {
            let mut request = more(&topic, 3, None);
            request.topics.extend(more(&topic, 4, None).topics);
            request
        });
        judge.ask("validate only", version, |_| CreatePartitionsRequest {
            validate_only: true,
            ..more(&topic, 3, None)
        });
        judge.ask("to 3", version, |_| more(&topic, 3, None));
        judge.await_topic(&topic, 3);
        judge.ask("metadata afterwards", 12, |_| MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(topic.clone()),
                ..Default::default()
            }]),
            ..Default::default()
        });
    }
}

fn delete_records(judge: &mut Judge) {
    judge.topic("shorten", 2, &[]);
    judge.topic("shorten-compact", 1, &[("cleanup.policy", "compact")]);
    for version in judge.versions::<DeleteRecordsRequest>() {
        produce_to(judge, "prepare", 12, "shorten", -1, &[(0, Some(batches::plain(10)))]);
        for offset in [0, 3, 2, -2, i64::MIN, i64::MAX, 1000, -1] {
            judge.ask(&format!("to {offset}"), version, |_| {
                delete_request("shorten", &[(0, offset)])
            });
        }
        for (topic, partition) in [
            (MISSING, 0),
            ("shorten", 7),
            ("shorten", -1),
            ("a/b", 0),
            ("shorten-compact", 0),
        ] {
            judge.ask(&format!("{topic} {partition}"), version, |_| {
                delete_request(topic, &[(partition, 0)])
            });
        }
        judge.ask("a partition twice", version, |_| {
            delete_request("shorten", &[(1, 0), (1, 0)])
        });
        judge.ask("no topics", version, |_| DeleteRecordsRequest::default());
    }
    records_are_alike(judge, "shorten", 2);
}

fn offset_for_leader_epoch(judge: &mut Judge) {
    for (topic, partition, current, epoch) in [
        ("fetch", 0, -1, -1),
        ("fetch", 0, -1, 1_000_000),
        ("fetch", 0, 1_000_000, 0),
        ("fetch", 7, -1, 0),
        ("fetch", -1, -1, 0),
        (MISSING, 0, -1, 0),
        ("fetch", 0, -1, i32::MIN),
    ] {
        judge.ask_all(
            &format!("{topic} {partition} current {current} epoch {epoch}"),
            |_, _| OffsetForLeaderEpochRequest {
                replica_id: -1,
                topics: vec![OffsetForLeaderTopic {
                    topic: topic.into(),
                    partitions: vec![OffsetForLeaderPartition {
                        partition,
                        current_leader_epoch: current,
                        leader_epoch: epoch,
                    }],
                }],
            },
        );
    }
}

fn describe_request(resource_type: i8, name: &str, keys: Option<Vec<&str>>) -> DescribeConfigsRequest {
    DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: keys.map(|keys| keys.into_iter().map(str::to_string).collect()),
        }],
        ..Default::default()
    }
}

fn describe_configs(judge: &mut Judge) {
    judge.topic("described", 1, &[("retention.ms", "5000")]);
    judge.ask_all("a topic with synonyms", |_, _| DescribeConfigsRequest {
        include_synonyms: true,
        ..describe_request(2, "described", None)
    });
    judge.ask_all("some settings", |_, _| {
        describe_request(2, "described", Some(vec!["retention.ms", "no.such"]))
    });
    judge.ask_all("no settings", |_, _| describe_request(2, "described", Some(vec![])));
    for (kind, name) in [
        (2, MISSING),
        (2, "a/b"),
        (2, ""),
        (4, "77"),
        (4, "x"),
        (0, "x"),
        (1, "x"),
        (8, "x"),
        (16, "x"),
        (32, "x"),
        (32, ""),
        (64, "x"),
        (-1, "x"),
    ] {
        judge.ask_all(&format!("resource {kind} {name:?}"), |_, _| {
            describe_request(kind, name, None)
        });
    }
    judge.ask_all("a resource twice", |_, _| {
        let mut request = describe_request(2, "described", Some(vec!["retention.ms"]));
        request.resources.extend(request.resources.clone());
        request
    });
    for (kind, name) in [
        (2, MISSING),
        (2, "a/b"),
        (4, "77"),
        (4, "x"),
        (0, "x"),
        (8, "x"),
        (16, "m"),
        (64, "x"),
    ] {
        judge.ask_all(&format!("alter {kind} {name:?}"), |_, _| AlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: kind,
                resource_name: name.into(),
                configs: vec![],
            }],
            validate_only: false,
        });
        for operation in [0, 1, 2, 3, 4, -1] {
            judge.ask_all(&format!("alter {kind} {name:?} by {operation}"), |_, _| {
                incremental(kind, name, &[("retention.ms", operation, Some("1000"))])
            });
        }
    }
    for (label, changes) in [
        ("append to a number", vec![("retention.ms", 2, Some("5"))]),
        ("append to a list", vec![("cleanup.policy", 2, Some("compact"))]),
        ("append again", vec![("cleanup.policy", 2, Some("compact"))]),
        ("subtract from a list", vec![("cleanup.policy", 3, Some("delete"))]),
        ("subtract all", vec![("cleanup.policy", 3, Some("compact"))]),
        ("delete", vec![("cleanup.policy", 1, None)]),
        ("delete what is not set", vec![("segment.ms", 1, None)]),
        (
            "a setting twice",
            vec![("retention.ms", 0, Some("1")), ("retention.ms", 0, Some("2"))],
        ),
        ("null", vec![("retention.ms", 0, None)]),
        ("unknown operation", vec![("retention.ms", 9, Some("1"))]),
        ("unknown setting", vec![("no.such", 0, Some("1"))]),
        ("delete an unknown setting", vec![("no.such", 1, None)]),
        ("bad value", vec![("retention.ms", 0, Some("x"))]),
        ("nothing", vec![]),
    ] {
        judge.ask_all(label, |_, _| incremental(2, "described", &changes));
        settle();
        judge.ask(&format!("after {label}"), 4, |_| describe_request(2, "described", None));
    }
    judge.ask_all("alter a topic twice", |_, _| {
        let mut request = incremental(2, "described", &[("retention.ms", 0, Some("7"))]);
        request.resources.extend(request.resources.clone());
        request
    });
    judge.ask_all("replace all settings", |_, _| AlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: 2,
            resource_name: "described".into(),
            configs: vec![AlterableConfig {
                name: "segment.ms".into(),
                value: Some("99999".into()),
            }],
        }],
        validate_only: false,
    });
    settle();
    judge.ask("after replacing", 4, |_| describe_request(2, "described", None));
}

/// Kafka's brokers follow its controller a moment later.
pub fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(60));
}

fn incremental(kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let change = |(name, config_operation, value): &(&str, i8, Option<&str>)| IncrementalAlterableConfig {
        name: name.to_string(),
        config_operation: *config_operation,
        value: value.map(str::to_string),
    };
    IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type: kind,
            resource_name: name.into(),
            configs: changes.iter().map(change).collect(),
        }],
        validate_only: false,
    }
}

/// All of Kafka's topic settings, each with values that it accepts and values that it refuses.
const SETTINGS: &[(&str, &[&str])] = &[
    (
        "cleanup.policy",
        &[
            "delete",
            "compact",
            "delete,compact",
            "compact,delete",
            "",
            "shred",
            "DELETE",
            "delete,delete",
            " delete ",
        ],
    ),
    ("compression.gzip.level", &["-1", "1", "9", "0", "10", "x"]),
    ("compression.lz4.level", &["1", "9", "17", "0", "18", "-1"]),
    (
        "compression.type",
        &[
            "uncompressed",
            "zstd",
            "lz4",
            "snappy",
            "gzip",
            "producer",
            "none",
            "ZSTD",
            "",
        ],
    ),
    ("compression.zstd.level", &["-131072", "3", "22", "23", "-131073"]),
    (
        "delete.retention.ms",
        &["0", "1000", "-1", "x", "9223372036854775807", "9223372036854775808"],
    ),
    ("errors.deadletterqueue.group.enable", &["true"]),
    ("file.delete.delay.ms", &["0", "60000", "-1"]),
    ("flush.messages", &["1", "0", "9223372036854775807"]),
    ("flush.ms", &["0", "-1", "9223372036854775807"]),
    (
        "follower.replication.throttled.replicas",
        &["", "*", "0:1,1:2", "x", "none"],
    ),
    ("index.interval.bytes", &["0", "4096", "-1", "2147483648"]),
    (
        "leader.replication.throttled.replicas",
        &["", "*", "0:1,1:2", "x", "0:1"],
    ),
    ("local.retention.bytes", &["-2", "-1", "1000", "-3", "0"]),
    ("local.retention.ms", &["-2", "-1", "1000", "-3", "0"]),
    ("max.compaction.lag.ms", &["1", "0", "9223372036854775807"]),
    (
        "max.message.bytes",
        &[
            "0",
            "1000",
            "-1",
            "2147483647",
            "2147483648",
            "1e3",
            " 5 ",
            "+5",
            "0x10",
        ],
    ),
    ("message.downconversion.enable", &["true", "false"]),
    ("message.format.version", &["3.0-IV1", "2.0", "x"]),
    (
        "message.timestamp.after.max.ms",
        &["0", "1000", "-1", "9223372036854775807"],
    ),
    (
        "message.timestamp.before.max.ms",
        &["0", "1000", "-1", "9223372036854775807"],
    ),
    ("message.timestamp.difference.max.ms", &["1000"]),
    (
        "message.timestamp.type",
        &["CreateTime", "LogAppendTime", "createtime", ""],
    ),
    ("min.cleanable.dirty.ratio", &["0", "0.5", "1", "1.1", "-0.1", "x"]),
    ("min.compaction.lag.ms", &["0", "1000", "-1"]),
    ("min.insync.replicas", &["1", "2", "0", "-1"]),
    (
        "preallocate",
        &["true", "false", "TRUE", "True", " true ", "1", "yes", ""],
    ),
    ("remote.copy.disable", &["true", "false"]),
    ("remote.log.copy.disable", &["true", "false"]),
    ("remote.log.delete.on.disable", &["true", "false"]),
    ("remote.storage.enable", &["true", "false"]),
    ("retention.bytes", &["-1", "0", "1000", "-2"]),
    ("retention.ms", &["-1", "0", "1000", "-2", "1.5", ""]),
    (
        "segment.bytes",
        &["1048576", "14", "13", "0", "2147483647", "1073741824"],
    ),
    ("segment.index.bytes", &["4", "3", "10485760"]),
    ("segment.jitter.ms", &["0", "1000", "-1"]),
    ("segment.ms", &["1", "1000", "0"]),
    ("unclean.leader.election.enable", &["true", "false", "False", "maybe"]),
    ("no.such.setting", &["1", ""]),
    ("Retention.ms", &["1"]),
];

fn topic_settings(judge: &mut Judge) {
    judge.topic("settings", 1, &[]);
    let version = judge.newest::<CreateTopicsRequest>();
    for (name, values) in SETTINGS {
        for value in *values {
            judge.ask(&format!("{name}={value:?}"), version, |_| CreateTopicsRequest {
                validate_only: true,
                ..create_topic("settings-dry", 1, &[(name, value)])
            });
            judge.ask(&format!("set {name}={value:?}"), 1, |_| {
                incremental(2, "settings", &[(name, 0, Some(value))])
            });
            settle();
            judge.ask(&format!("{name} after {value:?}"), 4, |_| DescribeConfigsRequest {
                include_synonyms: true,
                ..describe_request(2, "settings", Some(vec![name]))
            });
        }
        judge.ask(&format!("unset {name}"), 1, |_| {
            incremental(2, "settings", &[(name, 1, None)])
        });
        settle();
        judge.ask(&format!("{name} unset"), 4, |_| {
            describe_request(2, "settings", Some(vec![name]))
        });
    }
}

fn group_settings(judge: &mut Judge) {
    const GROUP: i8 = 32;
    judge.ask_all("settings of a group", |_, _| DescribeConfigsRequest {
        include_synonyms: true,
        ..describe_request(GROUP, "configured", None)
    });
    for (name, value) in [
        ("consumer.session.timeout.ms", "50000"),
        ("consumer.session.timeout.ms", "1"),
        ("consumer.session.timeout.ms", "999999999"),
        ("consumer.session.timeout.ms", "x"),
        ("consumer.heartbeat.interval.ms", "6000"),
        ("consumer.heartbeat.interval.ms", "1"),
        ("consumer.heartbeat.interval.ms", "60000"),
        ("no.such", "1"),
    ] {
        judge.ask(&format!("set {name}={value}"), 1, |_| {
            incremental(GROUP, "configured", &[(name, 0, Some(value))])
        });
        settle();
        judge.ask(&format!("after {name}={value}"), 4, |_| {
            describe_request(GROUP, "configured", None)
        });
    }
    judge.ask("the empty group", 1, |_| {
        incremental(GROUP, "", &[("consumer.session.timeout.ms", 0, Some("50000"))])
    });
    judge.ask("unset", 1, |_| {
        incremental(GROUP, "configured", &[("consumer.session.timeout.ms", 1, None)])
    });
    settle();
    judge.ask("after unset", 4, |_| describe_request(GROUP, "configured", None));
}

fn commit_request(group: &str, member: &str, generation: i32, topics: &[(&str, &[(i32, i64)])]) -> OffsetCommitRequest {
    let topic = |(name, partitions): &(&str, &[(i32, i64)])| OffsetCommitRequestTopic {
        name: name.to_string(),
        partitions: partitions
            .iter()
            .map(|(partition_index, committed_offset)| OffsetCommitRequestPartition {
                partition_index: *partition_index,
                committed_offset: *committed_offset,
                committed_metadata: Some("note".into()),
                ..Default::default()
            })
            .collect(),
    };
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        topics: topics.iter().map(topic).collect(),
        ..Default::default()
    }
}

fn offsets_request(version: i16, group: &str, topics: Option<Vec<(&str, Vec<i32>)>>) -> OffsetFetchRequest {
    let topics = topics.map(|topics| {
        let topic = |(name, partition_indexes): (&str, Vec<i32>)| OffsetFetchRequestTopic {
            name: name.into(),
            partition_indexes,
        };
        topics.into_iter().map(topic).collect::<Vec<_>>()
    });
    match version {
        8.. => OffsetFetchRequest {
            groups: vec![OffsetFetchRequestGroup {
                group_id: group.into(),
                topics,
                ..Default::default()
            }],
            ..Default::default()
        },
        _ => OffsetFetchRequest {
            group_id: group.into(),
            topics,
            ..Default::default()
        },
    }
}

fn offsets(judge: &mut Judge) {
    judge.topic("committed", 3, &[]);
    // The first look creates Kafka's own topics, which takes a while.
    until_coordinated(judge, "offsets");
    for (label, group, member, generation, topics) in [
        (
            "outside a group",
            "g",
            "",
            -1,
            vec![("committed", &[(0, 5), (1, 0)][..])],
        ),
        (
            "unknown topic and partition",
            "g",
            "",
            -1,
            vec![(MISSING, &[(0, 1)][..]), ("committed", &[(9, 1), (-1, 1)][..])],
        ),
        ("negative offset", "g", "", -1, vec![("committed", &[(0, -1)][..])]),
        (
            "very negative offset",
            "g",
            "",
            -1,
            vec![("committed", &[(0, i64::MIN)][..])],
        ),
        (
            "a partition twice",
            "g",
            "",
            -1,
            vec![("committed", &[(2, 3), (2, 4)][..])],
        ),
        ("no topics", "g", "", -1, vec![]),
        (
            "generation without member",
            "g",
            "",
            3,
            vec![("committed", &[(0, 5)][..])],
        ),
        (
            "member without generation",
            "g",
            "x",
            -1,
            vec![("committed", &[(0, 5)][..])],
        ),
        (
            "member of an empty group",
            "g",
            "x",
            3,
            vec![("committed", &[(0, 5)][..])],
        ),
        ("unknown group", "nobody", "x", 3, vec![("committed", &[(0, 5)][..])]),
        ("empty group id", "", "", -1, vec![("committed", &[(0, 5)][..])]),
        ("generation −2", "g", "", -2, vec![("committed", &[(0, 5)][..])]),
    ] {
        judge.ask_all(label, |_, _| commit_request(group, member, generation, &topics));
        for version in judge.versions::<OffsetFetchRequest>() {
            judge.ask(&format!("after {label}"), version, |_| {
                offsets_request(version, group, Some(vec![("committed", vec![0, 1, 2, 9])]))
            });
        }
    }
    for metadata in [
        None,
        Some(String::new()),
        Some("x".repeat(4096)),
        Some("x".repeat(4097)),
    ] {
        judge.ask_all("metadata", |_, _| {
            let mut request = commit_request("g", "", -1, &[("committed", &[(0, 5)])]);
            request.topics[0].partitions[0].committed_metadata = metadata.clone();
            request
        });
    }
    for version in judge.versions::<OffsetFetchRequest>() {
        if version >= 2 {
            judge.ask("all offsets", version, |_| offsets_request(version, "g", None));
            judge.ask("all of an unknown group", version, |_| {
                offsets_request(version, "nobody", None)
            });
        }
        judge.ask("no topics", version, |_| offsets_request(version, "g", Some(vec![])));
        judge.ask("unknown topic", version, |_| {
            offsets_request(version, "g", Some(vec![(MISSING, vec![0])]))
        });
        judge.ask("a partition twice", version, |_| {
            offsets_request(version, "g", Some(vec![("committed", vec![0, 0])]))
        });
        judge.ask("empty group id", version, |_| {
            offsets_request(version, "", Some(vec![("committed", vec![0])]))
        });
    }
    for version in 8..=judge.newest::<OffsetFetchRequest>() {
        judge.ask("no groups", version, |_| OffsetFetchRequest::default());
        judge.ask("a group twice", version, |_| {
            let mut request = offsets_request(version, "g", None);
            request.groups.extend(request.groups.clone());
            request
        });
    }
    for (group, topic, partition) in [
        ("g", "committed", 0),
        ("g", "committed", 9),
        ("g", MISSING, 0),
        ("nobody", "committed", 0),
        ("", "committed", 0),
    ] {
        judge.ask_all(&format!("delete {group} {topic} {partition}"), |_, _| {
            OffsetDeleteRequest {
                group_id: group.into(),
                topics: vec![OffsetDeleteRequestTopic {
                    name: topic.into(),
                    partitions: vec![OffsetDeleteRequestPartition {
                        partition_index: partition,
                    }],
                }],
            }
        });
    }
    for groups in [vec!["g"], vec!["nobody"], vec![""], vec![], vec!["g", "g"]] {
        let groups: Vec<String> = groups.into_iter().map(str::to_string).collect();
        judge.ask_all(&format!("describe {groups:?}"), |_, _| DescribeGroupsRequest {
            groups: groups.clone(),
            ..Default::default()
        });
        judge.ask_all(&format!("describe as consumer groups {groups:?}"), |_, _| {
            ConsumerGroupDescribeRequest {
                group_ids: groups.clone(),
                include_authorized_operations: true,
            }
        });
    }
    for version in 3..=judge.newest::<DescribeGroupsRequest>() {
        judge.ask("authorized operations", version, |_| DescribeGroupsRequest {
            groups: vec!["g".into()],
            include_authorized_operations: true,
        });
    }
    for (states, types) in [
        (vec![], vec![]),
        (vec!["Empty"], vec![]),
        (vec!["empty"], vec![]),
        (vec!["x"], vec![]),
        (vec![], vec!["classic"]),
        (vec![], vec!["CLASSIC"]),
        (vec![], vec!["x"]),
    ] {
        let text = |list: &[&str]| list.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        judge.ask_all(&format!("list {states:?} {types:?}"), |_, version| ListGroupsRequest {
            states_filter: if version >= 4 { text(&states) } else { vec![] },
            types_filter: if version >= 5 { text(&types) } else { vec![] },
        });
    }
    judge.ask_all("delete groups", |_, _| DeleteGroupsRequest {
        groups_names: vec!["nobody".into(), "".into()],
    });
    judge.ask("delete a group", 2, |_| DeleteGroupsRequest {
        groups_names: vec!["g".into(), "g".into()],
    });
    judge.ask("offsets of a deleted group", 8, |_| offsets_request(8, "g", None));
}

/// Waits until both have a coordinator for groups.
pub fn until_coordinated(judge: &mut Judge, group: &str) {
    let until = std::time::Instant::now() + super::PATIENCE;
    let request = encode_find(group);
    for side in [&mut judge.kafka, &mut judge.ours] {
        loop {
            assert!(std::time::Instant::now() < until, "no coordinator");
            side.send("control", &request);
            if let super::Outcome::Answer(frame) = side.receive("control") {
                let found = decode_response::<FindCoordinatorResponse>(frame, 3).map(|(_, answer)| answer.error_code);
                if found == Ok(kafscale_codec::error_code::ErrorCode::NONE) {
                    break;
                }
            }
            std::thread::sleep(super::PAUSE);
        }
    }
}

fn encode_find(group: &str) -> Vec<u8> {
    let request = FindCoordinatorRequest {
        key: group.into(),
        ..Default::default()
    };
    super::encoded(3, 1, &request)
}

fn find_coordinator(judge: &mut Judge) {
    for (key, key_type) in [
        ("g", 0),
        ("", 0),
        ("g", 2),
        ("g", -1),
        ("g:AAAAAAAAAAAAAAAAAAAAAA:0", 2),
    ] {
        for version in judge.versions::<FindCoordinatorRequest>() {
            judge.ask(&format!("key {key:?} of type {key_type}"), version, |_| match version {
                4.. => FindCoordinatorRequest {
                    coordinator_keys: vec![key.into()],
                    key_type,
                    ..Default::default()
                },
                _ => FindCoordinatorRequest {
                    key: key.into(),
                    key_type: if version > 0 { key_type } else { 0 },
                    ..Default::default()
                },
            });
        }
    }
    for version in 4..=judge.newest::<FindCoordinatorRequest>() {
        judge.ask("no keys", version, |_| FindCoordinatorRequest::default());
        judge.ask("a key twice", version, |_| FindCoordinatorRequest {
            coordinator_keys: vec!["g".into(), "g".into()],
            ..Default::default()
        });
    }
}

fn inspection(judge: &mut Judge) {
    for (topic, partitions) in [
        ("fetch", vec![0, 1]),
        ("fetch", vec![9]),
        (MISSING, vec![0]),
        ("fetch", vec![]),
    ] {
        judge.ask_all(&format!("log directories {topic} {partitions:?}"), |_, _| {
            DescribeLogDirsRequest {
                topics: Some(vec![DescribableLogDirTopic {
                    topic: topic.into(),
                    partitions: partitions.clone(),
                }]),
            }
        });
        judge.ask_all(&format!("producers {topic} {partitions:?}"), |_, _| {
            DescribeProducersRequest {
                topics: vec![DescribeProducersTopic {
                    name: topic.into(),
                    partition_indexes: partitions.clone(),
                }],
            }
        });
    }
    judge.ask_all("producers of exact", |_, _| DescribeProducersRequest {
        topics: vec![DescribeProducersTopic {
            name: "exact-anew".into(),
            partition_indexes: vec![0],
        }],
    });
    for states in [vec![], vec!["Ongoing"], vec!["ongoing"], vec!["x", "Empty"]] {
        judge.ask_all(&format!("transactions {states:?}"), |_, _| ListTransactionsRequest {
            state_filters: states.iter().map(|state| state.to_string()).collect(),
            ..Default::default()
        });
    }
    for pattern in [None, Some(""), Some("a.*"), Some("(")] {
        judge.ask(&format!("transactions like {pattern:?}"), 2, |_| {
            ListTransactionsRequest {
                transactional_id_pattern: pattern.map(str::to_string),
                ..Default::default()
            }
        });
    }
    for (entity, kind, value) in [
        ("user", 0, Some("u")),
        ("user", 1, None),
        ("user", 2, None),
        ("user", 3, None),
        ("x", 2, None),
        ("ip", 0, Some("127.0.0.1")),
        ("user", 0, None),
        ("user", 2, Some("u")),
        ("", 2, None),
        ("client-id", 2, None),
    ] {
        judge.ask_all(&format!("quotas {entity} {kind} {value:?}"), |_, _| {
            DescribeClientQuotasRequest {
                components: vec![QuotaComponent {
                    entity_type: entity.into(),
                    match_type: kind,
                    r#match: value.map(str::to_string),
                }],
                strict: false,
            }
        });
    }
    judge.ask_all("all quotas", |_, _| DescribeClientQuotasRequest::default());
}

fn init_producer_id(judge: &mut Judge) {
    for timeout in INTEGERS {
        judge.ask_all("timeout", |_, version| InitProducerIdRequest {
            transaction_timeout_ms: timeout,
            producer_id: if version >= 3 { -1 } else { Default::default() },
            ..Default::default()
        });
    }
    for (producer_id, producer_epoch) in [(-1, 0), (5, -1), (5, 5), (-2, -2)] {
        for version in 3..=judge.newest::<InitProducerIdRequest>().min(5) {
            judge.ask(
                &format!("producer {producer_id} epoch {producer_epoch}"),
                version,
                |_| InitProducerIdRequest {
                    transaction_timeout_ms: 1000,
                    producer_id,
                    producer_epoch,
                    ..Default::default()
                },
            );
        }
    }
    judge.ask_all("empty transactional id", |_, _| InitProducerIdRequest {
        transactional_id: Some(String::new()),
        transaction_timeout_ms: 1000,
        ..Default::default()
    });
}

fn delete_topics(judge: &mut Judge) {
    for version in judge.versions::<DeleteTopicsRequest>() {
        let topic = format!("delete-{version}");
        judge.topic(&topic, 1, &[]);
        let by_name = |names: &[&str]| match version {
            6.. => DeleteTopicsRequest {
                topics: names
                    .iter()
                    .map(|name| DeleteTopicState {
                        name: Some(name.to_string()),
                        ..Default::default()
                    })
                    .collect(),
                timeout_ms: 10_000,
                ..Default::default()
            },
            _ => DeleteTopicsRequest {
                topic_names: names.iter().map(|name| name.to_string()).collect(),
                timeout_ms: 10_000,
                ..Default::default()
            },
        };
        judge.ask("unknown topic", version, |_| by_name(&[MISSING]));
        judge.ask("illegal topic", version, |_| by_name(&["a/b", ""]));
        judge.ask("no topics", version, |_| by_name(&[]));
        judge.ask("a topic twice", version, |_| by_name(&[&topic, &topic]));
        if version >= 6 {
            judge.ask("unknown id", version, |names| DeleteTopicsRequest {
                topics: vec![DeleteTopicState {
                    name: None,
                    topic_id: names.topic(MISSING),
                }],
                ..Default::default()
            });
            judge.ask("neither name nor id", version, |_| DeleteTopicsRequest {
                topics: vec![DeleteTopicState::default()],
                ..Default::default()
            });
            judge.ask("name and id", version, |names| DeleteTopicsRequest {
                topics: vec![DeleteTopicState {
                    name: Some(topic.clone()),
                    topic_id: names.topic(&topic),
                }],
                ..Default::default()
            });
        }
        judge.ask("a topic", version, |_| by_name(&[&topic]));
        std::thread::sleep(std::time::Duration::from_millis(200));
        judge.ask("a topic that is gone", version, |_| by_name(&[&topic]));
        judge.ask("metadata without creation", 12, |_| MetadataRequest {
            topics: Some(vec![MetadataRequestTopic {
                name: Some(topic.clone()),
                ..Default::default()
            }]),
            allow_auto_topic_creation: false,
            ..Default::default()
        });
        produce_to(
            judge,
            "produce to a topic that is gone",
            12,
            &topic,
            -1,
            &[(0, Some(batches::plain(1)))],
        );
    }
}
