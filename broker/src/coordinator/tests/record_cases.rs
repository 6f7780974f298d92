use super::super::consumer::{Assignment, ClassicMember};
use super::*;
use proptest::prelude::*;

fn classic() -> impl Strategy<Value = GroupState> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let member = (
        (proptest::option::of(".*"), any::<u64>(), ".*", ".*"),
        (any::<i32>(), any::<i32>(), bytes(), bytes()),
    )
        .prop_map(
            |((instance_id, order, client_id, client_host), (session, rebalance, metadata, assignment))| MemberState {
                instance_id,
                order,
                client_id,
                client_host,
                session_timeout_ms: session,
                rebalance_timeout_ms: rebalance,
                metadata,
                assignment,
            },
        );
    let text = || proptest::option::of(".*");
    let members = proptest::collection::btree_map(".*", member, 0..4);
    (
        any::<i32>(),
        text(),
        text(),
        text(),
        any::<bool>(),
        any::<i64>(),
        members,
    )
        .prop_map(
            |(generation, protocol_type, protocol_name, leader, assigned, since_ms, members)| GroupState {
                generation,
                protocol_type,
                protocol_name,
                leader,
                assigned,
                since_ms,
                members,
            },
        )
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let partitions = proptest::collection::btree_set(any::<i32>(), 1..4);
    proptest::collection::btree_map(any::<[u8; 16]>().prop_map(TopicId), partitions, 0..3)
}

fn consumer() -> impl Strategy<Value = ConsumerState> {
    let text = || proptest::option::of(".*");
    let phase = prop_oneof![
        Just(MemberPhase::Stable),
        Just(MemberPhase::Unrevoked),
        Just(MemberPhase::Unreleased)
    ];
    let bytes = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let classic =
        (any::<i32>(), proptest::collection::vec((".*", bytes), 0..3)).prop_map(|(session_timeout_ms, protocols)| {
            ClassicMember {
                session_timeout_ms,
                protocols,
            }
        });
    let member = (
        (text(), text(), ".*", ".*", any::<i32>(), text(), text()),
        (
            any::<i32>(),
            any::<i32>(),
            phase,
            proptest::collection::btree_set(".*", 0..3),
        ),
        (
            assignment(),
            proptest::option::of(assignment()),
            assignment(),
            assignment(),
            proptest::option::of(classic),
        ),
    );
    let member = member.prop_map(|(texts, numbers, (target, assigned, gained, revoking, classic))| {
        let (instance_id, rack_id, client_id, client_host, rebalance_timeout_ms, regex, assignor) = texts;
        let (epoch, previous_epoch, phase, topics) = numbers;
        let assigned = assigned.unwrap_or_else(|| target.clone());
        Rc::new(ConsumerMember {
            instance_id,
            rack_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            topics,
            regex,
            assignor,
            epoch,
            previous_epoch,
            phase,
            target,
            assigned,
            gained,
            revoking,
            classic,
        })
    });
    let members = proptest::collection::btree_map(".*", member, 0..4);
    (any::<i32>(), any::<i32>(), any::<i64>(), any::<u64>(), ".*", members).prop_map(
        |(epoch, target_epoch, since_ms, topics_hash, assignor, members)| ConsumerState {
            epoch,
            target_epoch,
            since_ms,
            topics_hash,
            assignor,
            members,
        },
    )
}

fn state() -> impl Strategy<Value = StoredState> {
    prop_oneof![
        classic().prop_map(StoredState::Classic),
        consumer().prop_map(|state| StoredState::Consumer(Rc::new(state)))
    ]
}

proptest! {
    #[test]
    fn a_state_comes_back_as_it_was(state in state()) {
        prop_assert_eq!(StoredState::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn a_state_that_is_cut_off_or_longer_is_an_error(state in state(), cut in any::<prop::sample::Index>()) {
        let bytes = state.encode();
        prop_assert!(StoredState::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(StoredState::decode(&longer).is_err());
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for kind in [0, 1] {
            let framed = [&[1, kind][..], &bytes].concat();
            let _ = StoredState::decode(&framed);
        }
        let _ = StoredState::decode(&bytes);
        let _ = subscription::topics(&bytes);
    }

    #[test]
    fn a_consumers_topics_are_read(topics in proptest::collection::btree_set("[a-z]{1,9}", 0..5), rest in ".*") {
        let list: Vec<&str> = topics.iter().map(String::as_str).collect();
        let metadata = super::subscription(&list, &rest);
        prop_assert_eq!(subscription::topics(&metadata), Some(topics));
    }
}

#[test]
fn the_bytes_of_a_state_stay_as_they_are() {
    let member = MemberState {
        instance_id: Some("i".into()),
        order: 1,
        client_id: "c".into(),
        client_host: "/h".into(),
        session_timeout_ms: 10,
        rebalance_timeout_ms: 300,
        metadata: Bytes::from_static(b"md"),
        assignment: Bytes::from_static(b"as"),
    };
    let state = StoredState::Classic(GroupState {
        generation: 5,
        protocol_type: Some("t".into()),
        protocol_name: None,
        leader: Some("m".into()),
        assigned: true,
        since_ms: 64,
        members: BTreeMap::from([("m".to_string(), member)]),
    });
    let expected =
        b"\x01\x00\x0a\x01\x01t\x00\x01\x01m\x01\x80\x01\x01\x01m\x01\x01i\x01\x01c\x02/h\x14\xd8\x04\x02md\x02as";
    assert_eq!(&state.encode()[..], expected);
}

#[test]
fn a_state_of_a_later_version_or_kind_is_refused_by_name() {
    assert_eq!(StoredState::decode(&[2, 0]), Err(GroupDecodeError::Unknown(2, 0)));
    assert_eq!(StoredState::decode(&[1, 2]), Err(GroupDecodeError::Unknown(1, 2)));
}
