//! Committed offsets, groups as tools see them, and FindCoordinator.

use super::*;

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

pub fn offsets(judge: &mut Judge) {
    judge.topic("committed", 3, &[]);
    until_coordinated(judge);
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

pub fn find_coordinator(judge: &mut Judge) {
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
