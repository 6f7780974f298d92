//! ApiVersions, Metadata and its relatives, and what tools look at.

use super::*;

pub fn api_versions(judge: &mut Judge) {
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

pub fn metadata(judge: &mut Judge) {
    judge.topic("meta", 3, &[]);
    let named = |name: Option<&str>, topic_id: TopicId| MetadataRequestTopic {
        topic_id,
        name: name.map(str::to_string),
    };
    let long = "x".repeat(250);
    for name in ["meta", MISSING, "", ".", "..", "a/b", "ü", &long] {
        judge.ask_all(&format!("topic {name:?}"), |_, version| {
            // Before version 4 there is no way to forbid the creation; other cases need a topic that is missing.
            let created = format!("created-by-{version}");
            let name = if version < 4 && name == MISSING { &created } else { name };
            MetadataRequest {
                topics: Some(vec![named(Some(name), TopicId::ZERO)]),
                allow_auto_topic_creation: version < 4,
                ..Default::default()
            }
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

pub fn internal_topics(judge: &mut Judge) {
    // Kafka makes them when they are needed.
    until_coordinated(judge);
    until_transactional(judge);
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

pub fn inspection(judge: &mut Judge) {
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

pub fn init_producer_id(judge: &mut Judge) {
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
    until_transactional(judge);
    judge.ask_all("transactional id", |_, _| InitProducerIdRequest {
        transactional_id: Some("tx".into()),
        transaction_timeout_ms: 1000,
        ..Default::default()
    });
    judge.ask_all("empty transactional id", |_, _| InitProducerIdRequest {
        transactional_id: Some(String::new()),
        transaction_timeout_ms: 1000,
        ..Default::default()
    });
}

/// Waits until Kafka has a coordinator for transactions.
fn until_transactional(judge: &mut Judge) {
    let find = FindCoordinatorRequest {
        key: "tx".into(),
        key_type: 1,
        ..Default::default()
    };
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "no coordinator for transactions");
        judge.kafka.send(CONTROL, &encoded(3, 1, &find));
        if let Outcome::Answer(frame) = judge.kafka.receive(CONTROL) {
            let found = decode_response::<FindCoordinatorResponse>(frame, 3).map(|(_, answer)| answer.error_code);
            if found == Ok(ErrorCode::NONE) {
                return;
            }
        }
        std::thread::sleep(PAUSE);
    }
}
