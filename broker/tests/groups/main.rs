//! Consumer groups from outside: the real binary, through the codec's client side.

mod client;
mod status;

use bytes::Bytes;
use client::{topic_request, Broker, Client, PATIENCE};
use kafscale_codec::api::served;
use kafscale_codec::error_code::ErrorCode;
use kafscale_codec::messages::*;
use std::time::{Duration, Instant};

const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const COMMIT: i16 = 9;
const FETCH: i16 = 9;

fn join(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"metadata"),
        }],
        ..Default::default()
    }
}

/// The member's own id, before it has joined (KIP-394).
fn member_id(client: &mut Client) -> String {
    let reply = client.call(JOIN, &join(""));
    assert_eq!(reply.error_code, ErrorCode::MEMBER_ID_REQUIRED);
    reply.member_id
}

fn sync(reply: &JoinGroupResponse, assignments: &[(&str, &'static [u8])]) -> SyncGroupRequest {
    let assignment = |(member_id, assignment): &(&str, &'static [u8])| SyncGroupRequestAssignment {
        member_id: member_id.to_string(),
        assignment: Bytes::from_static(assignment),
    };
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id: reply.generation_id,
        member_id: reply.member_id.clone(),
        protocol_type: Some("consumer".into()),
        protocol_name: Some("range".into()),
        assignments: assignments.iter().map(assignment).collect(),
        ..Default::default()
    }
}

fn heartbeat(client: &mut Client, member: &JoinGroupResponse) -> ErrorCode {
    let request = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: member.generation_id,
        member_id: member.member_id.clone(),
        ..Default::default()
    };
    client.call(HEARTBEAT, &request).error_code
}

/// A commit of offset `offset + partition` for each partition, by a member or by nobody.
fn commit(
    client: &mut Client,
    member: Option<&JoinGroupResponse>,
    topic: &str,
    partitions: &[i32],
    offset: i64,
) -> Vec<ErrorCode> {
    let partition = |partition: &i32| OffsetCommitRequestPartition {
        partition_index: *partition,
        committed_offset: offset + i64::from(*partition),
        committed_leader_epoch: 3,
        committed_metadata: Some("note".into()),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: member.map_or(-1, |member| member.generation_id),
        member_id: member.map(|member| member.member_id.clone()).unwrap_or_default(),
        topics: vec![OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: partitions.iter().map(partition).collect(),
        }],
        ..Default::default()
    };
    let response = client.call(COMMIT, &request);
    let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
    codes.map(|partition| partition.error_code).collect()
}

/// What the groups have committed: all of it, or these partitions.
fn fetch(client: &mut Client, groups: &[&str], wanted: Option<(&str, &[i32])>) -> Vec<OffsetFetchResponseGroup> {
    let topics = wanted.map(|(name, partitions)| {
        vec![OffsetFetchRequestTopic {
            name: name.into(),
            partition_indexes: partitions.to_vec(),
        }]
    });
    let group = |group: &&str| OffsetFetchRequestGroup {
        group_id: group.to_string(),
        topics: topics.clone(),
        ..Default::default()
    };
    let request = OffsetFetchRequest {
        groups: groups.iter().map(group).collect(),
        ..Default::default()
    };
    client.call(FETCH, &request).groups
}

fn offsets(group: &OffsetFetchResponseGroup) -> Vec<(i32, i64)> {
    let partitions = group.topics.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|partition| (partition.partition_index, partition.committed_offset))
        .collect()
}

fn has_topic(client: &mut Client, name: &str) -> bool {
    let all = MetadataRequest {
        topics: None,
        ..Default::default()
    };
    let topics = client.call(9, &all).topics;
    topics.iter().any(|topic| topic.name.as_deref() == Some(name))
}

/// Two members in one group, the leader first, both with their assignments.
fn two_members(broker: &Broker) -> [(Client, JoinGroupResponse); 2] {
    let (mut a, mut b) = (broker.connect(), broker.connect());
    let (a_id, b_id) = (member_id(&mut a), member_id(&mut b));
    let alone = a.call(JOIN, &join(&a_id));
    assert_eq!((alone.error_code, alone.members.len()), (ErrorCode::NONE, 1));
    b.send(JOIN, &join(&b_id));
    // The two connections may be on different shards: only the heartbeat tells that the second member has arrived.
    let until = Instant::now() + PATIENCE;
    while heartbeat(&mut a, &alone) != ErrorCode::REBALANCE_IN_PROGRESS {
        assert!(Instant::now() < until, "the second member does not arrive");
    }
    let a_joined = a.call(JOIN, &join(&a_id));
    let (_, b_joined) = b.receive::<JoinGroupRequest>(JOIN);
    assert_eq!(
        (a_joined.error_code, b_joined.error_code),
        (ErrorCode::NONE, ErrorCode::NONE)
    );
    assert_eq!(a_joined.generation_id, b_joined.generation_id);
    assert_eq!(a_joined.leader, a_joined.member_id);
    assert_eq!(
        (a_joined.members.len(), b_joined.members.len()),
        (2, 0),
        "the leader alone hears of all"
    );
    b.send(SYNC, &sync(&b_joined, &[]));
    let given: [(&str, &'static [u8]); 2] = [(&a_id, b"for a"), (&b_id, b"for b")];
    assert_eq!(a.call(SYNC, &sync(&a_joined, &given)).assignment, "for a");
    let (_, b_synced) = b.receive::<SyncGroupRequest>(SYNC);
    assert_eq!(
        (b_synced.error_code, &b_synced.assignment[..]),
        (ErrorCode::NONE, &b"for b"[..])
    );
    [(a, a_joined), (b, b_joined)]
}

#[test]
fn a_killed_broker_comes_back_with_its_groups_and_their_offsets() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    broker.connect().create_topic("t", 2);
    let [(mut a, a_joined), (mut b, b_joined)] = two_members(&broker);
    assert_eq!(heartbeat(&mut a, &a_joined), ErrorCode::NONE);
    assert_eq!(heartbeat(&mut b, &b_joined), ErrorCode::NONE);
    for round in 0..50 {
        let codes = commit(&mut a, Some(&a_joined), "t", &[0], 100 + round);
        assert_eq!(codes, [ErrorCode::NONE]);
        let codes = commit(&mut b, Some(&b_joined), "t", &[1], 200 + round);
        assert_eq!(codes, [ErrorCode::NONE]);
    }
    broker.kill();

    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    let groups = fetch(&mut client, &["g", "other"], Some(("t", &[1, 0, 7])));
    assert_eq!(offsets(&groups[0]), [(1, 250), (0, 149), (7, -1)]);
    let kept = &groups[0].topics[0].partitions[0];
    assert_eq!(
        (kept.committed_leader_epoch, kept.metadata.as_deref()),
        (3, Some("note"))
    );
    assert_eq!(offsets(&groups[1]), [(1, -1), (0, -1), (7, -1)]);
    assert_eq!(offsets(&fetch(&mut client, &["g"], None)[0]), [(0, 149), (1, 250)]);
    // The members go on where they were: nobody has to join again.
    assert_eq!(heartbeat(&mut client, &b_joined), ErrorCode::NONE);
    assert_eq!(commit(&mut client, Some(&b_joined), "t", &[1], 300), [ErrorCode::NONE]);
}

#[test]
fn a_member_that_waits_holds_up_nobody_and_keeps_its_connection_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let [(mut a, a_joined), _] = two_members(&broker);
    let mut c = broker.connect();
    let c_id = member_id(&mut c);
    let waiting = c.send(JOIN, &join(&c_id));
    let behind = c.send(5, &topic_request("behind", 1));
    let mut connections: Vec<Client> = (0..8).map(|_| broker.connect()).collect();
    for other in &mut connections {
        assert_eq!(
            other.call(0, &ApiVersionsRequest::default()).error_code,
            ErrorCode::NONE
        );
        assert_eq!(offsets(&fetch(other, &["g"], Some(("t", &[0])))[0]), [(0, -1)]);
    }
    let until = Instant::now() + PATIENCE;
    while !has_topic(&mut connections[0], "behind") {
        assert!(
            Instant::now() < until,
            "the request behind the one that waits is not executed"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        c.is_silent_for(Duration::from_millis(300)),
        "the others have not joined again"
    );
    assert_eq!(heartbeat(&mut a, &a_joined), ErrorCode::REBALANCE_IN_PROGRESS);
    let leave = LeaveGroupRequest {
        group_id: "g".into(),
        members: a_joined
            .members
            .iter()
            .map(|member| MemberIdentity {
                member_id: member.member_id.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let left = a.call(5, &leave);
    assert!(
        left.members.iter().all(|member| member.error_code == ErrorCode::NONE),
        "{left:?}"
    );
    let (id, joined) = c.receive::<JoinGroupRequest>(JOIN);
    assert_eq!(
        (id, joined.error_code, &joined.leader),
        (waiting, ErrorCode::NONE, &c_id)
    );
    assert_eq!(c.receive::<CreateTopicsRequest>(5).0, behind);
}

#[test]
fn a_broker_that_is_asked_to_end_answers_members_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let _members = two_members(&broker);
    let mut c = broker.connect();
    let c_id = member_id(&mut c);
    c.send(JOIN, &join(&c_id));
    assert!(c.is_silent_for(Duration::from_millis(100)));
    broker.terminate();
    let (_, joined) = c.receive::<JoinGroupRequest>(JOIN);
    assert_eq!(joined.error_code, ErrorCode::NOT_COORDINATOR);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn the_coordinator_is_the_node_that_metadata_names() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    let node = client.call(9, &MetadataRequest::default()).brokers.remove(0);
    let port = i32::from(broker.address.port());
    assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", port));
    let one = FindCoordinatorRequest {
        key: "g".into(),
        ..Default::default()
    };
    for version in 0..=3 {
        let found = client.call(version, &one);
        assert_eq!(
            (found.error_code, found.node_id, found.host, found.port),
            (ErrorCode::NONE, node.node_id, node.host.clone(), port)
        );
    }
    let two = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into(), "h".into()],
        ..Default::default()
    };
    for version in 4..=6 {
        let found = client.call(version, &two).coordinators;
        let keys: Vec<&str> = found.iter().map(|coordinator| coordinator.key.as_str()).collect();
        assert_eq!(keys, ["g", "h"]);
        assert!(found
            .iter()
            .all(|found| (found.node_id, found.port) == (node.node_id, port)));
    }
    let transaction = FindCoordinatorRequest { key_type: 1, ..one };
    let refused = client.call(3, &transaction);
    assert_eq!(refused.error_code, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let members = two_members(&broker);
    let listed = client.call(5, &ListGroupsRequest::default()).groups;
    assert_eq!(
        (
            listed[0].group_id.as_str(),
            listed[0].group_state.as_str(),
            listed.len()
        ),
        ("g", "Stable", 1)
    );
    let describe = DescribeGroupsRequest {
        groups: vec!["g".into(), "none".into()],
        include_authorized_operations: true,
    };
    let described = client.call(6, &describe).groups;
    let member = &described[0].members[0];
    assert_eq!(
        (
            member.client_id.as_str(),
            member.client_host.as_str(),
            &member.member_metadata[..]
        ),
        ("test", "/127.0.0.1", &b"metadata"[..])
    );
    assert!(described[0].authorized_operations > 0);
    assert_eq!(described[1].error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let before = client.call(5, &describe).groups;
    assert_eq!(
        (before[1].error_code, before[1].group_state.as_str()),
        (ErrorCode::NONE, "Dead")
    );
    let delete = DeleteGroupsRequest {
        groups_names: vec!["g".into()],
    };
    assert_eq!(
        client.call(2, &delete).results[0].error_code,
        ErrorCode::NON_EMPTY_GROUP
    );
    for (mut connection, joined) in members {
        let leave = LeaveGroupRequest {
            group_id: "g".into(),
            member_id: joined.member_id,
            ..Default::default()
        };
        assert_eq!(connection.call(2, &leave).error_code, ErrorCode::NONE);
        assert_eq!(connection.call(2, &leave).error_code, ErrorCode::UNKNOWN_MEMBER_ID);
    }
    assert_eq!(commit(&mut client, None, "t", &[0], 5), [ErrorCode::NONE]);
    assert_eq!(client.call(2, &delete).results[0].error_code, ErrorCode::NONE);
    assert_eq!(
        client.call(2, &delete).results[0].error_code,
        ErrorCode::GROUP_ID_NOT_FOUND
    );
    assert_eq!(offsets(&fetch(&mut client, &["g"], Some(("t", &[0])))[0]), [(0, -1)]);
}

#[test]
fn offsets_belong_to_a_topic_and_go_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    client.create_topic("t", 1);
    let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    assert_eq!(commit(&mut client, None, "none", &[0], 5), [unknown]);
    assert_eq!(
        commit(&mut client, None, "t", &[-1, 0, 1], 5),
        [unknown, ErrorCode::NONE, unknown],
        "one that is wrong does not fail the others"
    );
    let partitions = vec![OffsetDeleteRequestPartition { partition_index: 0 }];
    let forget = |group: &str| OffsetDeleteRequest {
        group_id: group.into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: partitions.clone(),
        }],
    };
    let missing = client.call(0, &forget("none"));
    assert_eq!(missing.error_code, ErrorCode::GROUP_ID_NOT_FOUND);
    let forgotten = client.call(0, &forget("g"));
    assert_eq!(forgotten.topics[0].partitions[0].error_code, ErrorCode::NONE);
    assert_eq!(offsets(&fetch(&mut client, &["g"], Some(("t", &[0])))[0]), [(0, -1)]);
    assert_eq!(commit(&mut client, None, "t", &[0], 5), [ErrorCode::NONE]);
    let delete = DeleteTopicsRequest {
        topic_names: vec!["t".into()],
        timeout_ms: 10_000,
        ..Default::default()
    };
    assert_eq!(client.call(5, &delete).responses[0].error_code, ErrorCode::NONE);
    client.create_topic("t", 1);
    assert_eq!(offsets(&fetch(&mut client, &["g"], Some(("t", &[0])))[0]), [(0, -1)]);
    let until = Instant::now() + PATIENCE;
    while !client.call(5, &ListGroupsRequest::default()).groups.is_empty() {
        assert!(Instant::now() < until, "the offset of the deleted topic is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_version_that_is_advertised_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let mut client = broker.connect();
    client.create_topic("t", 1);
    assert_eq!(commit(&mut client, None, "t", &[0], 5), [ErrorCode::NONE]);
    // Each with a member that nobody knows: so errors are said in every version, too.
    let nobody = JoinGroupResponse {
        member_id: "nobody".into(),
        generation_id: 1,
        ..Default::default()
    };
    for version in versions::<JoinGroupRequest>() {
        let reply = client.call(version, &join("nobody"));
        assert_eq!(reply.error_code, ErrorCode::UNKNOWN_MEMBER_ID, "version {version}");
    }
    for version in versions::<SyncGroupRequest>() {
        let reply = client.call(version, &sync(&nobody, &[]));
        assert_eq!(reply.error_code, ErrorCode::UNKNOWN_MEMBER_ID, "version {version}");
    }
    for version in versions::<HeartbeatRequest>() {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            member_id: "nobody".into(),
            ..Default::default()
        };
        let reply = client.call(version, &request);
        assert_eq!(reply.error_code, ErrorCode::UNKNOWN_MEMBER_ID, "version {version}");
    }
    for version in versions::<OffsetFetchRequest>() {
        let topics = vec![OffsetFetchRequestTopic {
            name: "t".into(),
            partition_indexes: vec![0],
        }];
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            request.groups = vec![OffsetFetchRequestGroup {
                group_id: "g".into(),
                topics: Some(topics),
                ..Default::default()
            }];
        } else {
            (request.group_id, request.topics) = ("g".into(), Some(topics));
        }
        let mut reply = client.call(version, &request);
        reply
            .topics
            .extend(reply.groups.pop().into_iter().flat_map(|group| group.topics));
        assert_eq!(reply.topics[0].partitions[0].committed_offset, 5, "version {version}");
    }
    for version in versions::<OffsetCommitRequest>() {
        let mut request = OffsetCommitRequest {
            group_id: "g".into(),
            topics: vec![OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![OffsetCommitRequestPartition {
                    committed_offset: i64::from(version),
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let code = |reply: OffsetCommitResponse| reply.topics[0].partitions[0].error_code;
        assert_eq!(
            code(client.call(version, &request)),
            ErrorCode::NONE,
            "version {version}"
        );
        (request.member_id, request.generation_id_or_member_epoch) = ("nobody".into(), 7);
        if version >= 1 {
            assert_ne!(
                code(client.call(version, &request)),
                ErrorCode::NONE,
                "version {version}"
            );
        }
        let stored = fetch(&mut client, &["g"], Some(("t", &[0])));
        assert_eq!(offsets(&stored[0]), [(0, i64::from(version))]);
    }
    for version in versions::<ListGroupsRequest>() {
        assert_eq!(client.call(version, &ListGroupsRequest::default()).groups.len(), 1);
    }
}

fn versions<R: Request>() -> std::ops::RangeInclusive<i16> {
    let api = served(R::API).expect("the API is served");
    api.min..=api.max
}
