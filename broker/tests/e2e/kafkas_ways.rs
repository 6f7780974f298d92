//! What Apache Kafka does and clients rely on, one small test for each fault that comparing the two has found.

use crate::client::{batch_of, encoded, fetch_request, produce_request, Client, FETCH, PRODUCE};
use crate::support::{broker, Launch, PATIENCE, PAUSE};
use bytes::Bytes;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;
use std::time::{Duration, Instant};

/// Times of records: these milliseconds after an arbitrary moment.
fn timed(times: std::ops::Range<i64>) -> Bytes {
    let mut batch = BatchBuilder::new();
    times.for_each(|at| batch.push(1_700_000_000_000 + at, None, Some(b"value"), &[]));
    batch.build().unwrap()
}

fn idempotent(producer: i64, sequence: i32) -> Bytes {
    let mut batch = BatchBuilder::new().producer(producer, 0, sequence);
    batch.push(1_700_000_000_000, None, Some(b"value"), &[]);
    batch.build().unwrap()
}

fn offset_at(client: &mut Client, version: i16, topic: &str, timestamps: &[i64]) -> Vec<(ErrorCode, i64)> {
    let partition = |timestamp: &i64| ListOffsetsPartition {
        timestamp: *timestamp,
        ..Default::default()
    };
    let request = ListOffsetsRequest {
        topics: vec![ListOffsetsTopic {
            name: topic.into(),
            partitions: timestamps.iter().map(partition).collect(),
        }],
        ..Default::default()
    };
    let answers = client.call(version, &request).topics.remove(0).partitions;
    answers.iter().map(|found| (found.error_code, found.offset)).collect()
}

fn delete_topic(client: &mut Client, name: &str) {
    let request = DeleteTopicsRequest {
        topic_names: vec![name.into()],
        ..Default::default()
    };
    assert_eq!(client.call(5, &request).responses[0].error_code, ErrorCode::NONE);
}

#[test]
fn a_failed_produce_without_acks_closes_the_connection() {
    let (_directory, broker) = broker("");
    broker.connect().create_topic("there", 1);
    let mut damaged = batch_of(&[b"value"]).to_vec();
    damaged[17] ^= 1;
    for (topic, partition, batch) in [
        ("missing", 0, batch_of(&[b"value"])),
        ("there", 7, batch_of(&[b"value"])),
        ("there", 0, damaged.into()),
    ] {
        let mut client = broker.connect();
        let request = ProduceRequest {
            acks: 0,
            ..produce_request(topic, partition, batch)
        };
        client.send(PRODUCE, &request).unwrap();
        assert!(client.is_closed_by_broker(), "{topic} {partition}");
    }
    let mut client = broker.connect();
    let request = ProduceRequest {
        acks: 0,
        ..produce_request("there", 0, batch_of(&[b"value"]))
    };
    client.send(PRODUCE, &request).unwrap();
    assert_eq!(client.produce_value("there", 0, b"the connection goes on"), 1);
}

#[test]
fn a_produce_is_not_cut_off_by_its_timeout() {
    let (_directory, broker) = broker("--flush-interval-ms 300");
    let mut client = broker.connect();
    client.create_topic("slow", 1);
    for acks in [1, -1] {
        let request = ProduceRequest {
            acks,
            timeout_ms: 1,
            ..produce_request("slow", 0, batch_of(&[b"value"]))
        };
        let answer = client
            .call(PRODUCE, &request)
            .responses
            .remove(0)
            .partition_responses
            .remove(0);
        assert_eq!(answer.error_code, ErrorCode::NONE, "acks {acks}");
    }
}

#[test]
fn a_time_in_the_batch_where_the_log_begins_is_found() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("trimmed", 1);
    assert_eq!(client.produce("trimmed", 0, timed(0..20)).error_code, ErrorCode::NONE);
    let delete = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "trimmed".into(),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 0,
                offset: 5,
            }],
        }],
        timeout_ms: 60_000,
    };
    let answer = client.call(2, &delete);
    assert_eq!(answer.topics[0].partitions[0].low_watermark, 5);
    for (at, offset) in [(0, 5), (3, 5), (5, 5), (6, 6), (19, 19), (20, -1)] {
        let found = offset_at(&mut client, 7, "trimmed", &[1_700_000_000_000 + at]);
        assert_eq!(found, [(ErrorCode::NONE, offset)], "at {at}");
    }
    assert_eq!(offset_at(&mut client, 7, "trimmed", &[-3]), [(ErrorCode::NONE, 19)]);
}

#[test]
fn a_producer_goes_on_in_a_topic_that_was_made_anew() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let producer = client.call(4, &InitProducerIdRequest::default()).producer_id;
    for first in [0, 1] {
        client.create_topic("anew", 1);
        let answer = client.produce("anew", 0, idempotent(producer, first));
        assert_eq!(answer.error_code, ErrorCode::NONE, "it begins at {first}");
        delete_topic(&mut client, "anew");
    }
    // One that is younger than the partition begins at 0: the start of its records must not be overtaken.
    client.create_topic("anew", 1);
    let younger = client.call(4, &InitProducerIdRequest::default()).producer_id;
    let answer = client.produce("anew", 0, idempotent(younger, 1));
    assert_eq!(answer.error_code, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
}

#[test]
fn a_fetch_of_no_bytes_gives_the_first_batch_and_more_than_the_most_is_not_waited_for() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("fetched", 1);
    client.produce_value("fetched", 0, b"value");
    let request = fetch_request("fetched", 0, 0, 0, 0);
    let records = client
        .call(FETCH, &request)
        .responses
        .remove(0)
        .partitions
        .remove(0)
        .records;
    assert!(records.unwrap().0.iter().any(|buffer| !buffer.is_empty()));
    let request = FetchRequest {
        min_bytes: i32::MAX,
        max_wait_ms: i32::MAX,
        ..fetch_request("fetched", 0, 0, 0, 1)
    };
    // The client's patience is a minute.
    assert_eq!(client.call(FETCH, &request).error_code, ErrorCode::NONE);
}

#[test]
fn list_offsets_refuses_duplicates_and_markers_that_the_version_has_not() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("listed", 1);
    let invalid = (ErrorCode::INVALID_REQUEST, -1);
    assert_eq!(offset_at(&mut client, 6, "listed", &[-1, -2]), [invalid], "once");
    for (version, marker) in [(6, -3), (7, -4), (8, -5), (10, -77), (10, i64::MIN)] {
        let found = offset_at(&mut client, version, "listed", &[marker]);
        assert_eq!(found, [(ErrorCode::UNSUPPORTED_VERSION, -1)], "{marker} in {version}");
    }
}

#[test]
fn a_manual_assignment_of_known_brokers_is_a_number_of_partitions() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let own = client.call(0, &DescribeClusterRequest::default()).brokers[0].broker_id;
    let mut create = |name: &str, assigned: &[(i32, Vec<i32>)], count: i32| {
        let assignment = |(partition_index, broker_ids): &(i32, Vec<i32>)| CreatableReplicaAssignment {
            partition_index: *partition_index,
            broker_ids: broker_ids.clone(),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.into(),
                num_partitions: count,
                replication_factor: -1,
                assignments: assigned.iter().map(assignment).collect(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let result = client.call(5, &request).topics.remove(0);
        (result.error_code, result.num_partitions)
    };
    assert_eq!(
        create("two", &[(0, vec![own]), (1, vec![own])], -1),
        (ErrorCode::NONE, 2)
    );
    for assigned in [
        vec![(0, vec![own + 77])],
        vec![(1, vec![own])],
        vec![(0, vec![own]), (0, vec![own])],
        vec![(0, vec![own, own])],
        vec![(0, vec![])],
    ] {
        let refused = create("bad", &assigned, -1);
        assert_eq!(refused, (ErrorCode::INVALID_REPLICA_ASSIGNMENT, -1), "{assigned:?}");
    }
    assert_eq!(create("both", &[(0, vec![own])], 1), (ErrorCode::INVALID_REQUEST, -1));
    let mut grow = |count: i32, brokers: &[i32]| {
        let assignment = |id: &i32| CreatePartitionsAssignment { broker_ids: vec![*id] };
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: "two".into(),
                count,
                assignments: Some(brokers.iter().map(assignment).collect()),
            }],
            timeout_ms: 60_000,
            ..Default::default()
        };
        client.call(3, &request).results[0].error_code
    };
    assert_eq!(grow(4, &[own]), ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(grow(3, &[own + 77]), ErrorCode::INVALID_REPLICA_ASSIGNMENT);
    assert_eq!(grow(3, &[own]), ErrorCode::NONE);
}

#[test]
fn kafkas_own_topics_are_not_created_by_asking_and_take_no_records() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    for name in ["__consumer_offsets", "__transaction_state"] {
        let error = client.metadata(name, true).error_code;
        assert_eq!(error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, "{name}");
        let refused = client.produce(name, 0, batch_of(&[b"value"])).error_code;
        assert_eq!(refused, ErrorCode::INVALID_TOPIC_EXCEPTION, "{name}");
    }
}

#[test]
fn a_new_topic_is_described_by_all_its_settings() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: "told".into(),
            num_partitions: 1,
            replication_factor: 1,
            configs: vec![CreatableTopicConfig {
                name: "retention.ms".into(),
                value: Some("5000".into()),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let configs = client.call(5, &request).topics.remove(0).configs.unwrap();
    assert_eq!(configs.len(), 33, "all that Kafka has");
    let retention = configs.iter().find(|config| config.name == "retention.ms").unwrap();
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5000"), 1));
}

#[test]
fn an_idle_connection_is_closed_and_one_that_waits_for_an_answer_is_not() {
    let (_directory, broker) = broker("--connections-max-idle-ms 1000");
    let mut client = broker.connect();
    client.create_topic("idle", 1);
    // Longer than the limit: the broker has the request, so the client is not idle.
    assert_eq!(client.fetch("idle", 0, 0, 3_000).unwrap().error_code, ErrorCode::NONE);
    assert!(client.is_closed_by_broker());
}

#[test]
fn a_client_that_takes_no_answers_is_closed() {
    let (_directory, broker) = broker("--connections-max-idle-ms 1000");
    let mut client = broker.connect();
    client.create_topic("taken", 1);
    let value = vec![7; 900_000];
    for _ in 0..8 {
        client.produce_value("taken", 0, &value);
    }
    let fetch = encoded(FETCH, 1, &fetch_request("taken", 0, 0, 0, 8 << 20));
    let until = Instant::now() + PATIENCE;
    // What the kernel takes in both directions is soon full; then only the end of the connection ends this.
    while client.send_raw(&fetch).is_ok() {
        assert!(
            Instant::now() < until,
            "a connection on which nothing moves is still open"
        );
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_group_is_empty_once_its_last_member_has_left() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("grouped", 1);
    for round in 0..20 {
        let group = format!("g-{round}");
        let join = JoinGroupRequest {
            group_id: group.clone(),
            session_timeout_ms: 60_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".into(),
                metadata: Bytes::new(),
            }],
            ..Default::default()
        };
        let joined = client.call(3, &join);
        let leave = LeaveGroupRequest {
            group_id: group.clone(),
            member_id: joined.member_id,
            ..Default::default()
        };
        assert_eq!(client.call(2, &leave).error_code, ErrorCode::NONE);
        let describe = DescribeGroupsRequest {
            groups: vec![group],
            ..Default::default()
        };
        assert_eq!(
            client.call(4, &describe).groups[0].group_state,
            "Empty",
            "round {round}"
        );
    }
}

#[test]
fn metadata_after_a_restart_is_complete_from_the_first_answer_on() {
    const TOPICS: usize = 150;
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::new(directory.path()).flags("--shards 2");
    let broker = launch.start();
    let request = CreateTopicsRequest {
        topics: (0..TOPICS)
            .map(|at| CreatableTopic {
                name: format!("topic-{at}"),
                num_partitions: 1,
                replication_factor: 1,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let created = broker.connect().call(5, &request);
    assert!(created.topics.iter().all(|topic| topic.error_code == ErrorCode::NONE));
    drop(broker);
    for _ in 0..3 {
        let broker = launch.spawn();
        let until = Instant::now() + PATIENCE;
        let all = MetadataRequest {
            topics: None,
            ..Default::default()
        };
        // The port may still be the killed broker's for a moment, which ends in a reset.
        let first = loop {
            assert!(Instant::now() < until, "the broker does not serve: {}", broker.log());
            match Client::connect(broker.address).and_then(|mut client| client.ask(9, &all)) {
                Ok(answer) => break answer,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        assert_eq!(first.topics.len(), TOPICS, "the first answer");
    }
}
