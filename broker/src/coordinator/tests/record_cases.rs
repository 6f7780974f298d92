use super::*;
use proptest::prelude::*;

fn state() -> impl Strategy<Value = GroupState> {
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

proptest! {
    #[test]
    fn a_state_comes_back_as_it_was(state in state()) {
        prop_assert_eq!(GroupState::decode(&state.encode()), Ok(state));
    }

    #[test]
    fn a_state_that_is_cut_off_or_longer_is_an_error(state in state(), cut in any::<prop::sample::Index>()) {
        let bytes = state.encode();
        prop_assert!(GroupState::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(GroupState::decode(&longer).is_err());
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let framed = [&[1, 0][..], &bytes].concat();
        let _ = GroupState::decode(&framed);
        let _ = GroupState::decode(&bytes);
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
    let state = GroupState {
        generation: 5,
        protocol_type: Some("t".into()),
        protocol_name: None,
        leader: Some("m".into()),
        assigned: true,
        since_ms: 64,
        members: BTreeMap::from([("m".to_string(), member)]),
    };
    let expected =
        b"\x01\x00\x0a\x01\x01t\x00\x01\x01m\x01\x80\x01\x01\x01m\x01\x01i\x01\x01c\x02/h\x14\xd8\x04\x02md\x02as";
    assert_eq!(&state.encode()[..], expected);
}

#[test]
fn a_state_of_a_later_version_or_kind_is_refused_by_name() {
    assert_eq!(GroupState::decode(&[2, 0]), Err(GroupDecodeError::Unknown(2, 0)));
    assert_eq!(GroupState::decode(&[1, 1]), Err(GroupDecodeError::Unknown(1, 1)));
}
