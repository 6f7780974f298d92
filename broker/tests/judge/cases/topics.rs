//! CreateTopics, CreatePartitions and DeleteTopics.

use super::*;

pub fn create_topics(judge: &mut Judge) {
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

pub fn create_partitions(judge: &mut Judge) {
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

pub fn delete_topics(judge: &mut Judge) {
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
                timeout_ms: 10_000,
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
        std::thread::sleep(Duration::from_millis(200));
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
