use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TOPIC: TopicId = TopicId([
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
]);

#[test]
fn keys_are_spelled_as_documented() {
    let spelled = |key: Key| String::from_utf8(key.to_bytes().to_vec()).unwrap();
    assert_eq!(spelled(Key::Cluster), "/kafscale/v1/cluster");
    assert_eq!(spelled(Key::Broker(7)), "/kafscale/v1/brokers/0000000007");
    assert_eq!(spelled(Key::Topic("a.b".into())), "/kafscale/v1/topics/a.b");
    assert_eq!(spelled(Key::Stream(0xbeef)), "/kafscale/v1/streams/000000000000beef");
    assert_eq!(
        spelled(Key::Partition(TOPIC, 12)),
        "/kafscale/v1/partitions/00112233445566778899aabbccddeeff/0000000012"
    );
    assert_eq!(
        spelled(Key::Offset {
            group: "a/b%".into(),
            topic_id: TOPIC,
            partition: 0
        }),
        format!(
            "/kafscale/v1/offsets/{:02}/a%2Fb%25/00112233445566778899aabbccddeeff/0000000000",
            group_slot("a/b%")
        )
    );
    assert_eq!(
        spelled(Key::GroupConfig("a/b%".into())),
        "/kafscale/v1/group-configs/a%2Fb%25"
    );
    assert_eq!(spelled(Key::Coordinator(7)), "/kafscale/v1/coordinators/07");
}

#[test]
fn keys_of_another_spelling_are_not_read() {
    for key in [
        "/kafscale/v2/cluster",
        "/kafscale/v1/clusters",
        "/kafscale/v1/brokers/7",
        "/kafscale/v1/brokers/+000000007",
        "/kafscale/v1/brokers/9999999999",
        "/kafscale/v1/streams/000000000000BEEF",
        "/kafscale/v1/deleted/00112233445566778899AABBCCDDEEFF",
        "/kafscale/v1/partitions/00112233445566778899aabbccddeeff/",
        "/kafscale/v1/coordinators/16",
        "/kafscale/v1/coordinators/7",
    ] {
        assert_eq!(Key::parse(key.as_bytes()), None, "{key}");
    }
    for group in ["%41", "%2f", "a b", "%FF", "%2"] {
        let parsed = (0..GROUP_SLOTS)
            .filter_map(|slot| Key::parse(format!("/kafscale/v1/groups/{slot:02}/{group}").as_bytes()))
            .next();
        assert_eq!(parsed, None, "{group}");
    }
}

/// Stored keys depend on it.
#[test]
fn the_slot_of_a_group_never_changes() {
    let slots = ["", "g", "group-1", "ä"].map(group_slot);
    assert_eq!(slots, [1, 10, 1, 5]);
    let mut counts = [0; GROUP_SLOTS as usize];
    (0..1600).for_each(|at| counts[group_slot(&format!("group-{at}")) as usize] += 1);
    assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
}

#[test]
fn a_groups_keys_lie_in_its_slot_and_nowhere_else() {
    for group in ["", "a", "a/", "a/b", "a%2Fb", "ab", "/", "ä"] {
        let (state, offset) = (group_key(group), offset_key(group, TOPIC, 1));
        for slot in 0..GROUP_SLOTS {
            let here = slot == group_slot(group);
            assert_eq!(state.starts_with(&groups_prefix(slot)), here, "{group}");
            assert_eq!(offset.starts_with(&offsets_prefix(slot)), here, "{group}");
        }
        assert_eq!(Key::parse(&state), Some(Key::Group(group.into())));
    }
    let elsewhere = format!("/kafscale/v1/groups/{:02}/a", (group_slot("a") + 1) % GROUP_SLOTS);
    assert_eq!(Key::parse(elsewhere.as_bytes()), None, "one key for each group");
}

#[test]
fn encoded_records_keep_their_bytes() {
    let stream = StreamRecord {
        broker_id: 1,
        incarnation: 300,
        shard: 2,
        state: StreamState::Sealed {
            end_seq: 5,
            sealed_ms: -1,
        },
        first_live_seq: 4,
        merged: vec![MergedObject {
            first: 0,
            last: 3,
            level: 1,
        }],
    };
    assert_eq!(stream.encode()[..], [1, 2, 0xac, 2, 2, 2, 5, 1, 4, 1, 0, 3, 1]);
    let broker = BrokerRecord {
        broker_id: -1,
        incarnation: u64::MAX,
        host: "h".into(),
        port: 9092,
        rack: Some("r".into()),
        shards: 2,
        shard_ports: vec![1, 2],
    };
    let bytes = broker.encode();
    assert_eq!(bytes[..3], [1, 1, 0xff]);
    assert_eq!(BrokerRecord::decode(&bytes), Ok(broker));
}

#[test]
fn a_length_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    let huge = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(ClusterRecord::decode(&huge), Err(RecordError::Truncated));
    assert_eq!(
        CountRecord::decode(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        { Err(RecordError::Invalid("number above 64 bits")) }
    );
    assert_eq!(CountRecord::decode(&[2, 0]), Err(RecordError::UnknownVersion(2)));
    assert_eq!(CountRecord::decode(&[1, 0, 0]), Err(RecordError::TrailingBytes(1)));
    assert_eq!(CountRecord::decode(&[]), Err(RecordError::Truncated));
}

fn topic_ids() -> impl Strategy<Value = TopicId> {
    any::<[u8; 16]>().prop_map(TopicId)
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        Just(Key::Cluster),
        (0..=i32::MAX).prop_map(Key::Broker),
        "[a-z]{1,9}".prop_map(Key::Counter),
        "[a-zA-Z0-9._-]{1,20}".prop_map(Key::Topic),
        "[a-zA-Z0-9._-]{1,20}".prop_map(Key::Name),
        (topic_ids(), 0..=i32::MAX).prop_map(|(id, partition)| Key::Partition(id, partition)),
        any::<u64>().prop_map(Key::Stream),
        topic_ids().prop_map(Key::Deleted),
        any::<String>().prop_map(Key::Group),
        (any::<String>(), topic_ids(), 0..=i32::MAX).prop_map(|(group, topic_id, partition)| Key::Offset {
            group,
            topic_id,
            partition
        }),
        (0..GROUP_SLOTS).prop_map(Key::Coordinator),
    ]
}

fn topics() -> impl Strategy<Value = TopicRecord> {
    let configs = proptest::collection::btree_map("[a-z.]{0,9}", any::<String>(), 0..4);
    (topic_ids(), any::<String>(), any::<u32>(), configs, any::<i64>()).prop_map(
        |(topic_id, folder, partitions, configs, created_ms)| TopicRecord {
            topic_id,
            folder,
            partitions,
            configs,
            created_ms,
        },
    )
}

fn partitions() -> impl Strategy<Value = PartitionRecord> {
    let numbers = (
        any::<i32>(),
        any::<u64>(),
        any::<u32>(),
        any::<i32>(),
        any::<u64>(),
        any::<i64>(),
        any::<i64>(),
    );
    let lists = (
        proptest::collection::vec(any::<u64>(), 0..4),
        proptest::collection::vec((any::<i32>(), any::<i64>()), 0..4),
    );
    (numbers, lists).prop_map(|(numbers, (tail_streams, epoch_starts))| PartitionRecord {
        leader: numbers.0,
        leader_incarnation: numbers.1,
        shard: numbers.2,
        leader_epoch: numbers.3,
        stream: numbers.4,
        log_start_offset: numbers.5,
        rolled_offset: numbers.6,
        tail_streams,
        epoch_starts,
    })
}

proptest! {
    #[test]
    fn every_key_reads_back(key in any_key()) {
        prop_assert_eq!(Key::parse(&key.to_bytes()), Some(key));
    }

    #[test]
    fn every_record_reads_back(topic in topics(), partition in partitions()) {
        prop_assert_eq!(TopicRecord::decode(&topic.encode()), Ok(topic));
        prop_assert_eq!(PartitionRecord::decode(&partition.encode()), Ok(partition));
    }

    #[test]
    fn a_cut_record_is_an_error(topic in topics(), cut in any::<proptest::sample::Index>()) {
        let bytes = topic.encode();
        prop_assert!(TopicRecord::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Key::parse(&bytes);
        let _ = TopicRecord::decode(&bytes);
        let _ = StreamRecord::decode(&bytes);
        if let Ok(record) = PartitionRecord::decode(&bytes) {
            prop_assert_eq!(PartitionRecord::decode(&record.encode()), Ok(record));
        }
    }
}

#[test]
fn an_empty_topic_record_is_small() {
    let record = TopicRecord {
        topic_id: TOPIC,
        folder: String::new(),
        partitions: 1,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    assert_eq!(record.encode().len(), 21);
}

#[test]
fn slots_that_count_twice_are_found_in_a_streams_record() {
    let record = |merged: &[(u64, u64)], first_live_seq| StreamRecord {
        broker_id: 1,
        incarnation: 7,
        shard: 0,
        state: StreamState::Open,
        first_live_seq,
        merged: merged
            .iter()
            .map(|(first, last)| MergedObject {
                first: *first,
                last: *last,
                level: 1,
            })
            .collect(),
    };
    assert_eq!(record(&[], 0).overlap(), None);
    assert_eq!(record(&[(0, 9), (12, 20)], 21).overlap(), None);
    assert_eq!(
        record(&[(0, 226), (200, 492)], 493).overlap(),
        Some(((0, 226), (200, 492)))
    );
    assert_eq!(record(&[(0, 9)], 9).overlap(), Some(((0, 9), (9, u64::MAX))));
    assert_eq!(record(&[(20, 30), (0, 9)], 40).overlap(), Some(((20, 30), (0, 9))));
    assert_eq!(record(&[(9, 0)], 40).overlap(), Some(((9, 0), (9, 0))));
}
