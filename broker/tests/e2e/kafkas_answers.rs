//! What Apache Kafka answers to requests that clients rarely send: one small test for each kind of difference that the judge
//! has found.

use crate::client::{batch_of, fetch_request, produce_request, records_of, Client};
use crate::support::broker;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use kafscale_codec::record_batch::BatchBuilder;

/// The newest versions that name topics.
const PRODUCE: i16 = 12;
const FETCH: i16 = 12;

fn produced(client: &mut Client, request: &ProduceRequest) -> Vec<PartitionProduceResponse> {
    let topics = client.call(PRODUCE, request).responses;
    topics.into_iter().flat_map(|topic| topic.partition_responses).collect()
}

#[test]
fn a_batch_begins_at_offset_zero_and_its_refusal_tells_where_the_log_starts() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let mut batch = batch_of(&[b"value"]).to_vec();
    batch[7] = 9;
    let refused = produced(&mut client, &produce_request("t", 0, batch.into())).remove(0);
    assert_eq!(refused.error_code, ErrorCode::INVALID_RECORD);
    assert_eq!((refused.base_offset, refused.log_start_offset), (-1, 0));
}

#[test]
fn a_batch_that_is_too_old_is_refused_with_the_records_that_are() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let configs = [("message.timestamp.before.max.ms", "60000")];
    assert_eq!(client.create_topic_with("t", 1, &configs), ErrorCode::NONE);
    let mut batch = BatchBuilder::new();
    for age_ms in [0, 3_600_000, 0, 7_200_000] {
        batch.push(crate::client::now_ms() - age_ms, None, Some(b"value"), &[]);
    }
    let refused = produced(&mut client, &produce_request("t", 0, batch.build().unwrap())).remove(0);
    assert_eq!(refused.error_code, ErrorCode::INVALID_TIMESTAMP);
    let records: Vec<i32> = refused.record_errors.iter().map(|record| record.batch_index).collect();
    assert_eq!(records, [1, 3]);
}

#[test]
fn a_partition_that_a_produce_names_twice_is_answered_once() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let mut request = produce_request("t", 0, batch_of(&[b"first"]));
    request
        .topic_data
        .push(produce_request("t", 0, batch_of(&[b"last"])).topic_data.remove(0));
    request.topic_data.push(TopicProduceData {
        name: "empty".into(),
        ..Default::default()
    });
    let answers = produced(&mut client, &request);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].error_code, ErrorCode::NONE);
    let stored = client.read_from("t", 0, 0);
    assert_eq!(stored[0].value.as_deref(), Some(&b"last"[..]));
}

#[test]
fn unknown_acks_are_reported_after_an_unknown_topic() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    for (topic, expected) in [
        ("t", ErrorCode::INVALID_REQUIRED_ACKS),
        ("missing", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let request = ProduceRequest {
            acks: 2,
            ..produce_request(topic, 0, batch_of(&[b"value"]))
        };
        assert_eq!(produced(&mut client, &request)[0].error_code, expected, "{topic}");
    }
}

/// The first partition of an answer, and how many there are.
fn fetched(client: &mut Client, change: impl Fn(&mut FetchRequest)) -> (PartitionData, usize) {
    let mut request = fetch_request("t", 0, 0, 0, 1 << 20);
    change(&mut request);
    let mut partitions: Vec<PartitionData> = client
        .call(FETCH, &request)
        .responses
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .collect();
    let count = partitions.len();
    (partitions.remove(0), count)
}

#[test]
fn a_fetch_that_asks_for_the_impossible_gets_kafkas_error() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    client.produce_value("t", 0, b"value");
    let error = |client: &mut Client, change: &dyn Fn(&mut FetchRequest)| fetched(client, change).0.error_code;
    assert_eq!(error(&mut client, &|_| {}), ErrorCode::NONE);
    assert_eq!(
        error(&mut client, &|request| request.replica_id = 7),
        ErrorCode::NOT_LEADER_OR_FOLLOWER
    );
    assert_eq!(
        error(&mut client, &|request| request.isolation_level = 2),
        ErrorCode::UNKNOWN_SERVER_ERROR
    );
    assert_eq!(
        error(&mut client, &|request| request.max_bytes = -1),
        ErrorCode::UNKNOWN_SERVER_ERROR
    );
    let of_partition = |change: &dyn Fn(&mut FetchPartition), client: &mut Client| {
        error(client, &|request| change(&mut request.topics[0].partitions[0]))
    };
    assert_eq!(
        of_partition(&|partition| partition.partition_max_bytes = -1, &mut client),
        ErrorCode::UNKNOWN_SERVER_ERROR
    );
    assert_eq!(
        of_partition(&|partition| partition.last_fetched_epoch = 1_000_000, &mut client),
        ErrorCode::OFFSET_OUT_OF_RANGE
    );
}

#[test]
fn a_fetch_tells_of_aborted_transactions_only_who_reads_what_is_committed() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    client.produce_value("t", 0, b"value");
    for (level, expected) in [(0, None), (1, Some(0))] {
        let (found, _) = fetched(&mut client, |request| request.isolation_level = level);
        assert_eq!(found.aborted_transactions.map(|list| list.len()), expected, "{level}");
    }
    let (failed, _) = fetched(&mut client, |request| request.topics[0].partitions[0].fetch_offset = 99);
    assert_eq!(failed.error_code, ErrorCode::OFFSET_OUT_OF_RANGE);
    assert_eq!((failed.high_watermark, failed.log_start_offset), (-1, -1));
    assert!(failed.aborted_transactions.is_none());
}

#[test]
fn of_a_partition_that_a_fetch_names_twice_the_last_counts() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    client.produce_value("t", 0, b"value");
    let (found, count) = fetched(&mut client, |request| {
        let mut again = request.topics[0].clone();
        again.partitions[0].fetch_offset = 1;
        request.topics.push(again);
    });
    assert_eq!((count, found.high_watermark), (1, 1));
    assert!(records_of(&found).is_empty(), "nothing is there yet at offset 1");
}

#[test]
fn topics_are_found_by_id_from_version_12_on() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let topic_id = client.call(12, &MetadataRequest::default()).topics[0].topic_id;
    let by_id = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic { topic_id, name: None }]),
        ..Default::default()
    };
    assert_eq!(client.call(12, &by_id).topics[0].error_code, ErrorCode::NONE);
    let refused = client.call(11, &by_id);
    assert_eq!(refused.topics[0].error_code, ErrorCode::INVALID_REQUEST);
    assert_eq!(refused.controller_id, -1);
}

fn described(client: &mut Client, resource_type: i8, name: &str, key: &str) -> DescribeConfigsResult {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type,
            resource_name: name.into(),
            configuration_keys: Some(vec![key.into()]),
        }],
        include_synonyms: true,
        ..Default::default()
    };
    client.call(4, &request).results.remove(0)
}

fn altered(client: &mut Client, resource_type: i8, name: &str, change: (&str, i8, Option<&str>)) -> ErrorCode {
    let request = IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type,
            resource_name: name.into(),
            configs: vec![IncrementalAlterableConfig {
                name: change.0.into(),
                config_operation: change.1,
                value: change.2.map(str::to_string),
            }],
        }],
        ..Default::default()
    };
    client.call(1, &request).responses[0].error_code
}

#[test]
fn settings_are_described_as_kafka_does() {
    const TOPIC: i8 = 2;
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let synonyms = |client: &mut Client, key| described(client, TOPIC, "t", key).configs[0].synonyms.len();
    assert_eq!(synonyms(&mut client, "retention.bytes"), 1);
    assert_eq!(
        synonyms(&mut client, "retention.ms"),
        0,
        "Kafka leaves its broker-wide value unset"
    );
    assert_eq!(
        altered(&mut client, TOPIC, "t", ("retention.ms", 0, Some("5"))),
        ErrorCode::NONE
    );
    assert_eq!(synonyms(&mut client, "retention.ms"), 1);
    for (change, expected) in [
        (("retention.ms", 0, None), ErrorCode::INVALID_REQUEST),
        (("retention.ms", 2, Some("5")), ErrorCode::INVALID_CONFIG),
    ] {
        for topic in ["t", "a/b"] {
            assert_eq!(
                altered(&mut client, TOPIC, topic, change),
                expected,
                "{topic} {change:?}"
            );
        }
    }
    let logger = described(&mut client, 8, "x", "any");
    assert_eq!(logger.error_code, ErrorCode::INVALID_REQUEST);
    let metrics = described(&mut client, 16, "x", "interval.ms");
    assert_eq!(metrics.configs[0].value.as_deref(), Some("300000"));
}

#[test]
fn a_groups_settings_are_in_force_at_once_and_kept() {
    const GROUP: i8 = 32;
    const INTERVAL: &str = "consumer.heartbeat.interval.ms";
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let beat = |client: &mut Client, epoch| {
        let joins = epoch == 0;
        let request = ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            member_epoch: epoch,
            rebalance_timeout_ms: if joins { 10_000 } else { -1 },
            subscribed_topic_names: joins.then(|| vec!["t".into()]),
            topic_partitions: joins.then(Vec::new),
            ..Default::default()
        };
        let answer = client.call(1, &request);
        assert_eq!(answer.error_code, ErrorCode::NONE);
        (answer.heartbeat_interval_ms, answer.member_epoch)
    };
    let (interval_ms, epoch) = beat(&mut client, 0);
    assert_eq!(interval_ms, 5_000);
    for (value, expected) in [
        (Some("7000"), ErrorCode::NONE),
        (Some("1"), ErrorCode::INVALID_CONFIG),
        (Some("x"), ErrorCode::INVALID_CONFIG),
        (None, ErrorCode::INVALID_REQUEST),
    ] {
        assert_eq!(
            altered(&mut client, GROUP, "g", (INTERVAL, 0, value)),
            expected,
            "{value:?}"
        );
    }
    assert_eq!(
        altered(&mut client, GROUP, "g", ("no.such", 0, Some("1"))),
        ErrorCode::INVALID_CONFIG
    );
    assert_eq!(
        altered(&mut client, GROUP, "", (INTERVAL, 0, Some("7000"))),
        ErrorCode::INVALID_REQUEST
    );
    assert_eq!(beat(&mut client, epoch).0, 7_000);
    let found = described(&mut client, GROUP, "g", INTERVAL).configs.remove(0);
    assert_eq!((found.value.as_deref(), found.config_source), (Some("7000"), 8));
    assert_eq!(altered(&mut client, GROUP, "g", (INTERVAL, 1, None)), ErrorCode::NONE);
    assert_eq!(beat(&mut client, epoch).0, 5_000);
}

#[test]
fn a_quota_filter_that_means_nothing_is_refused() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let mut ask = |components: &[(&str, i8, Option<&str>)]| {
        let component = |(entity, kind, name): &(&str, i8, Option<&str>)| QuotaComponent {
            entity_type: entity.to_string(),
            match_type: *kind,
            r#match: name.map(str::to_string),
        };
        let request = DescribeClientQuotasRequest {
            components: components.iter().map(component).collect(),
            strict: false,
        };
        let answer = client.call(1, &request);
        (answer.error_code, answer.entries.map(|entries| entries.len()))
    };
    assert_eq!(
        ask(&[("user", 0, Some("u")), ("client-id", 1, None)]),
        (ErrorCode::NONE, Some(0))
    );
    for filter in [
        &[("", 2, None)][..],
        &[("user", 0, None)],
        &[("user", 1, Some("u"))],
        &[("user", 3, None)],
        &[("user", 2, None), ("user", 2, None)],
        &[("user", 2, None), ("ip", 2, None)],
    ] {
        assert_eq!(ask(filter), (ErrorCode::INVALID_REQUEST, None), "{filter:?}");
    }
    assert_eq!(ask(&[("x", 2, None)]), (ErrorCode::UNSUPPORTED_VERSION, None));
}

#[test]
fn a_cursor_that_no_answer_had_is_refused() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    for (topic_name, partition_index, expected) in [
        ("t", 0, ErrorCode::NONE),
        ("t", -1, ErrorCode::INVALID_REQUEST),
        ("u", 0, ErrorCode::INVALID_REQUEST),
    ] {
        let request = DescribeTopicPartitionsRequest {
            topics: vec![DescribeTopicPartitionsTopic { name: "t".into() }],
            response_partition_limit: 10,
            cursor: Some(TopicPartitionsCursor {
                topic_name: topic_name.into(),
                partition_index,
            }),
        };
        let error = client.call(0, &request).topics[0].error_code;
        assert_eq!(error, expected, "{topic_name} {partition_index}");
    }
}

#[test]
fn groups_that_do_not_exist_or_have_no_name_are_answered_as_by_kafka() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let leave = LeaveGroupRequest {
        group_id: "nobody".into(),
        members: vec![MemberIdentity {
            member_id: "m".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let left = client.call(5, &leave);
    assert_eq!(left.error_code, ErrorCode::NONE);
    assert_eq!(left.members[0].error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    let delete = |group: &str, partition_index| OffsetDeleteRequest {
        group_id: group.into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index }],
        }],
    };
    assert_eq!(client.call(0, &delete("", 0)).error_code, ErrorCode::INVALID_GROUP_ID);
    let commit = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetCommitRequestPartition::default()],
        }],
        ..Default::default()
    };
    client.call(8, &commit);
    let refused = client.call(0, &delete("g", 9)).topics.remove(0);
    assert_eq!(refused.partitions[0].error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let groups = DeleteGroupsRequest {
        groups_names: vec!["g".into(), "g".into()],
    };
    let deleted = client.call(2, &groups).results;
    assert_eq!(deleted.len(), 1, "answered once");
    assert_eq!(deleted[0].error_code, ErrorCode::NONE);
    let describe = ConsumerGroupDescribeRequest {
        group_ids: vec![String::new()],
        ..Default::default()
    };
    assert_eq!(
        client.call(1, &describe).groups[0].error_code,
        ErrorCode::INVALID_GROUP_ID
    );
}

#[test]
fn a_deletion_that_names_a_partition_twice_is_answered_once() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 1);
    for _ in 0..3 {
        client.produce_value("t", 0, b"value");
    }
    let partition = |offset| DeleteRecordsPartition {
        partition_index: 0,
        offset,
    };
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "t".into(),
            partitions: vec![partition(1), partition(2)],
        }],
        timeout_ms: 10_000,
    };
    let answers = client.call(2, &request).topics.remove(0).partitions;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].low_watermark, 2, "the last counts");
}

#[test]
fn a_pattern_that_cannot_be_read_is_refused() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    let request = ListTransactionsRequest {
        transactional_id_pattern: Some("(".into()),
        ..Default::default()
    };
    assert_eq!(
        client.call(2, &request).error_code,
        ErrorCode::INVALID_REGULAR_EXPRESSION
    );
    let request = ListTransactionsRequest {
        state_filters: vec!["x".into(), "x".into()],
        ..Default::default()
    };
    assert_eq!(client.call(1, &request).unknown_state_filters, ["x"], "each once");
}

#[test]
fn an_empty_partition_takes_no_room() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 2);
    client.produce_value("t", 0, b"value");
    let mut found = client.call(4, &DescribeLogDirsRequest::default()).results.remove(0);
    let partitions = &mut found.topics[0].partitions;
    partitions.sort_by_key(|partition| partition.partition_index);
    let sizes: Vec<bool> = partitions
        .iter()
        .map(|partition| partition.partition_size > 0)
        .collect();
    assert_eq!(sizes, [true, false]);
}

#[test]
fn one_corrupt_batch_spoils_a_produce_and_a_transactional_one_as_well() {
    let (_directory, broker) = broker("");
    let mut client = broker.connect();
    client.create_topic("t", 2);
    for (at, byte, expected) in [
        (16, 3, ErrorCode::CORRUPT_MESSAGE),
        (22, 16, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
    ] {
        let mut spoilt = batch_of(&[b"value"]).to_vec();
        spoilt[at] = byte;
        let mut request = produce_request("t", 0, batch_of(&[b"value"]));
        let other = produce_request("t", 1, spoilt.into())
            .topic_data
            .remove(0)
            .partition_data;
        request.topic_data[0].partition_data.extend(other);
        let errors: Vec<ErrorCode> = produced(&mut client, &request)
            .iter()
            .map(|answer| answer.error_code)
            .collect();
        assert_eq!(errors, [expected, expected]);
    }
    assert_eq!(client.end_offset("t", 0).unwrap(), Ok(0), "nothing was stored");
}
