use super::*;
use bytes::Bytes;

const TOPIC: TopicId = TopicId([7; 16]);

fn item(key: &Key, value: Bytes) -> KeyValue {
    KeyValue {
        key: key.to_bytes(),
        value,
        create_revision: 1,
        mod_revision: 1,
        lease: None,
    }
}

fn topic(name: &str, topic_id: TopicId) -> KeyValue {
    let record = TopicRecord {
        topic_id,
        folder: name.to_string(),
        partitions: 1,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    item(&Key::Topic(name.to_string()), record.encode())
}

/// The same record, as a later version might write it.
fn of_next_version(item: &KeyValue) -> KeyValue {
    let mut value = item.value.to_vec();
    value[0] += 1;
    value.push(1);
    KeyValue {
        value: value.into(),
        ..item.clone()
    }
}

fn partition(topic_id: TopicId, leader: i32) -> KeyValue {
    let record = PartitionRecord {
        leader,
        leader_incarnation: 1,
        shard: 0,
        leader_epoch: 3,
        stream: 1,
        log_start_offset: 0,
        rolled_offset: 0,
        tail_streams: vec![],
        epoch_starts: vec![],
    };
    item(&Key::Partition(topic_id, 0), record.encode())
}

fn broker(broker_id: i32) -> KeyValue {
    let record = BrokerRecord {
        broker_id,
        incarnation: 1,
        host: "h".to_string(),
        port: 9092,
        rack: None,
        shards: 1,
        shard_ports: vec![],
    };
    item(&Key::Broker(broker_id), record.encode())
}

fn deleted(topic_id: TopicId) -> KeyValue {
    let record = DeletedTopicRecord {
        name: "t".to_string(),
        folder: "t".to_string(),
        partitions: 1,
        deleted_ms: 0,
    };
    item(&Key::Deleted(topic_id), record.encode())
}

fn removal(item: &KeyValue) -> WatchEvent {
    WatchEvent::Delete {
        key: item.key.clone(),
        revision: 2,
    }
}

fn view() -> ClusterView {
    let mut view = ClusterView::new("c".to_string());
    view.replace(Part::Brokers, &[broker(1)]);
    view.replace(Part::Topics, &[topic("a", TopicId([1; 16])), topic("t", TOPIC)]);
    view.replace(Part::Partitions, &[partition(TOPIC, 1)]);
    view.replace(Part::Deleted, &[]);
    view.replace(Part::GroupConfigs, &[]);
    view
}

fn names(view: &ClusterView) -> Vec<String> {
    view.image().topics.keys().cloned().collect()
}

#[test]
fn a_value_of_a_later_version_hides_nothing_that_is_listed_behind_it() {
    let mut view = view();
    let first = topic("a", TopicId([1; 16]));
    view.replace(Part::Topics, &[of_next_version(&first), topic("t", TOPIC)]);
    let image = view.image();
    assert!(image.complete);
    assert_eq!(names(&view), ["a", "t"], "the last readable copy stays");
    assert_eq!(
        image.unreadable.keys().collect::<Vec<_>>(),
        [&Key::Topic("a".to_string())]
    );
    assert!(image.topic_by_id(TOPIC).is_some_and(|topic| topic.leaders[0].is_some()));
    view.apply(&WatchEvent::Put(first));
    assert!(view.image().unreadable.is_empty());
}

#[test]
fn without_a_readable_copy_a_topic_is_named_and_not_served() {
    let mut view = ClusterView::new("c".to_string());
    view.replace(
        Part::Topics,
        &[of_next_version(&topic("a", TopicId([1; 16]))), topic("t", TOPIC)],
    );
    assert_eq!(names(&view), ["t"]);
    assert!(view.image().is_unreadable("a"));
    assert!(!view.image().is_unreadable("t"));
    assert!(!view.image().is_unreadable("b"));
}

#[test]
fn a_topic_that_is_missing_is_not_deleted_until_that_is_recorded() {
    let mut view = view();
    view.apply(&removal(&topic("t", TOPIC)));
    assert_eq!(names(&view), ["a"]);
    assert!(view.image().deleted.is_empty());
    // Its leader is still known when it comes back.
    view.apply(&WatchEvent::Put(topic("t", TOPIC)));
    assert!(view.image().topics["t"].leaders[0].is_some());
    view.apply(&WatchEvent::Put(deleted(TOPIC)));
    assert_eq!(names(&view), ["a"]);
    assert!(view.image().deleted.contains(&TOPIC));
    // A copy that comes late brings it not back.
    view.apply(&WatchEvent::Put(topic("t", TOPIC)));
    assert_eq!(names(&view), ["a"]);
}

#[test]
fn a_deletion_counts_even_if_its_record_is_of_a_later_version() {
    let mut view = view();
    view.apply(&WatchEvent::Put(of_next_version(&deleted(TOPIC))));
    assert!(view.image().deleted.contains(&TOPIC));
    assert_eq!(names(&view), ["a"]);
}

#[test]
fn a_partition_whose_record_is_missing_or_unreadable_keeps_its_leader() {
    let mut view = view();
    let led = |view: &ClusterView| view.image().topics["t"].leaders[0].map(|leader| leader.broker_id);
    view.apply(&WatchEvent::Put(of_next_version(&partition(TOPIC, 2))));
    assert_eq!(led(&view), Some(1));
    assert!(view.image().unreadable.contains_key(&Key::Partition(TOPIC, 0)));
    view.replace(Part::Partitions, &[]);
    assert_eq!(led(&view), Some(1));
    assert!(view.image().unreadable.contains_key(&Key::Partition(TOPIC, 0)));
    view.apply(&WatchEvent::Put(partition(TOPIC, 2)));
    assert_eq!(led(&view), Some(2));
    assert!(view.image().unreadable.is_empty());
}

#[test]
fn a_broker_whose_registration_cannot_be_read_counts_as_alive() {
    let mut view = view();
    view.apply(&WatchEvent::Put(of_next_version(&broker(2))));
    assert!(view.image().is_live(2, 99));
    assert!(view.image().is_live(1, 1));
    assert!(!view.image().is_live(1, 2));
    view.apply(&removal(&broker(2)));
    assert!(!view.image().is_live(2, 99));
}

#[test]
fn a_listing_takes_out_what_it_does_not_have() {
    let mut view = view();
    view.apply(&WatchEvent::Put(broker(2)));
    view.replace(Part::Brokers, &[broker(2)]);
    assert_eq!(view.image().brokers.keys().collect::<Vec<_>>(), [&2]);
    view.replace(Part::Topics, &[topic("t", TOPIC)]);
    assert_eq!(names(&view), ["t"]);
    assert_eq!(view.image().names.len(), 1);
}
