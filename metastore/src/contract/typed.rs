//! The typed operations, on a real store.

use crate::keys::{BrokerRecord, ClusterRecord, MergedObject, PartitionRecord, StreamState};
use crate::operation::OperationError;
use crate::partitions::{claim_length, claim_partitions, load_partition, load_partitions, remove_partitions};
use crate::partitions::{update_partition, Claim, PartitionWrite, StoredPartition};
use crate::store::{Metastore, Revision, TXN_OPS_MAX};
use crate::topics::{create_topic, delete_topic, forget_deleted_topic, load_deleted_topics, load_topic, load_topics};
use crate::topics::{update_topic, NewTopic};
use crate::{brokers, cluster, counters, streams};
use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;

pub(super) async fn check_all(store: &dyn Metastore) {
    counters_never_give_a_number_twice(store).await;
    the_first_gives_the_cluster_its_id(store).await;
    a_topic_is_created_once_and_its_folder_never_comes_back(store).await;
    no_topic_has_a_folder_of_the_broker(store).await;
    a_later_life_of_a_broker_replaces_an_earlier_one(store).await;
    a_stream_is_trimmed_only_while_open_and_sealed_once(store).await;
    partitions_are_claimed_together_or_not_at_all(store).await;
    a_claim_fails_when_anything_it_relies_on_has_changed(store).await;
    many_records_are_listed_whole(store).await;
}

fn topic(name: &str, id: u8) -> NewTopic {
    let configs = BTreeMap::from([("retention.ms".to_string(), "1".to_string())]);
    NewTopic {
        name: name.to_string(),
        topic_id: TopicId([id; 16]),
        partitions: 3,
        configs,
        created_ms: 5,
    }
}

async fn counters_never_give_a_number_twice(store: &dyn Metastore) {
    let (one, two, three) = futures::join!(
        counters::allocate(store, "contract", 10),
        counters::allocate(store, "contract", 10),
        counters::allocate(store, "contract", 10),
    );
    let mut firsts = [one, two, three].map(|first| first.expect("numbers are left"));
    firsts.sort_unstable();
    assert_eq!(firsts, [1, 11, 21]);
    assert_eq!(counters::allocate(store, "contract", 1).await, Ok(31));
}

async fn the_first_gives_the_cluster_its_id(store: &dyn Metastore) {
    let first = ClusterRecord {
        cluster_id: "one".to_string(),
    };
    let second = ClusterRecord {
        cluster_id: "two".to_string(),
    };
    assert_eq!(cluster::load_or_create_cluster(store, &first).await, Ok(first.clone()));
    assert_eq!(cluster::load_or_create_cluster(store, &second).await, Ok(first));
}

/// Deleting such a topic would delete the write-ahead objects of all others.
async fn no_topic_has_a_folder_of_the_broker(store: &dyn Metastore) {
    for (id, name) in [(101, "_wal"), (102, "_producers")] {
        for count in 1..=2 {
            let created = create_topic(store, &topic(name, id)).await.expect("the name is free");
            assert_eq!(created.value.folder, format!("{name}~{count}"));
            delete_topic(store, name, &created, 9).await.expect("unchanged");
            forget_deleted_topic(store, created.value.topic_id)
                .await
                .expect("nobody is in the way");
        }
    }
}

async fn a_topic_is_created_once_and_its_folder_never_comes_back(store: &dyn Metastore) {
    let first = create_topic(store, &topic("t", 1)).await.expect("the name is free");
    assert_eq!(first.value.folder, "t");
    assert_eq!(
        create_topic(store, &topic("t", 1)).await,
        Ok(first.clone()),
        "asked twice, created once"
    );
    assert_eq!(create_topic(store, &topic("t", 2)).await, Err(OperationError::Conflict));
    let mut grown = first.clone();
    grown.value.partitions = 6;
    grown.mod_revision = update_topic(store, "t", first.mod_revision, &grown.value)
        .await
        .expect("unchanged");
    assert_eq!(load_topic(store, "t").await, Ok(Some(grown.clone())));
    let stale = update_topic(store, "t", first.mod_revision, &first.value).await;
    assert_eq!(stale, Err(OperationError::Conflict));
    assert_eq!(delete_topic(store, "t", &first, 9).await, Err(OperationError::Conflict));
    delete_topic(store, "t", &grown, 9).await.expect("unchanged");
    assert_eq!(load_topic(store, "t").await, Ok(None));
    let deleted = load_deleted_topics(store).await.expect("readable").items;
    let found = deleted
        .iter()
        .find(|(id, _)| *id == TopicId([1; 16]))
        .expect("deleted above");
    assert_eq!((found.1.value.partitions, found.1.value.folder.as_str()), (6, "t"));
    forget_deleted_topic(store, TopicId([1; 16]))
        .await
        .expect("absent or not");
    assert!(load_deleted_topics(store).await.expect("readable").items.is_empty());
    let second = create_topic(store, &topic("t", 3))
        .await
        .expect("the name is free again");
    assert_eq!(second.value.folder, "t~2");
    let listed = load_topics(store).await.expect("readable");
    assert_eq!(listed.items, [("t".to_string(), second)]);
}

async fn a_later_life_of_a_broker_replaces_an_earlier_one(store: &dyn Metastore) {
    let broker = |incarnation| BrokerRecord {
        broker_id: 1,
        incarnation,
        host: "h".to_string(),
        port: 9092,
        rack: None,
        shards: 2,
        shard_ports: Vec::new(),
    };
    let lease = store.lease_grant(60_000).await.expect("granted");
    let first = brokers::register_broker(store, lease, &broker(5), 100, None)
        .await
        .expect("nobody is there");
    let second = brokers::register_broker(store, lease, &broker(6), 200, Some(first))
        .await
        .expect("an earlier life is there");
    let older = brokers::register_broker(store, lease, &broker(5), 100, Some(first)).await;
    assert_eq!(older, Err(OperationError::Conflict));
    let live = brokers::load_brokers(store).await.expect("readable").items;
    assert_eq!(
        (live.len(), &live[0].value, live[0].mod_revision),
        (1, &broker(6), second)
    );
    let registered = brokers::load_broker(store, 1)
        .await
        .expect("readable")
        .expect("it lives");
    assert_eq!((registered.broker.value, registered.started_ms), (broker(6), Some(200)));
    store.lease_revoke(lease).await.expect("it runs");
    assert!(brokers::load_brokers(store).await.expect("readable").items.is_empty());
}

async fn a_stream_is_trimmed_only_while_open_and_sealed_once(store: &dyn Metastore) {
    let (stream, opened) = streams::open_stream(store, 1, 5, 0).await.expect("opened");
    let (other, _) = streams::open_stream(store, 1, 5, 1).await.expect("opened");
    assert_ne!(stream, other);
    assert_eq!(
        streams::seal(store, stream, 9, 1).await,
        Err(OperationError::Conflict),
        "sealing comes first"
    );
    let merged = vec![MergedObject {
        first: 0,
        last: 3,
        level: 1,
    }];
    let trimmed = streams::advance_first_live(store, stream, &opened, 4, merged.clone())
        .await
        .expect("open");
    let stale = streams::advance_first_live(store, stream, &opened, 5, Vec::new()).await;
    assert_eq!(stale, Err(OperationError::Conflict));
    let sealing = streams::mark_sealing(store, stream).await.expect("it exists");
    assert_eq!(
        (sealing.value.state, sealing.value.first_live_seq),
        (StreamState::Sealing, 4)
    );
    assert_eq!(
        streams::mark_sealing(store, stream).await,
        Ok(sealing.clone()),
        "marked twice, changed once"
    );
    for known in [&trimmed, &sealing] {
        let late = streams::advance_first_live(store, stream, known, 6, Vec::new()).await;
        assert_eq!(
            late,
            Err(OperationError::Conflict),
            "nothing is trimmed under a successor"
        );
    }
    let sealed = streams::seal(store, stream, 7, 100).await.expect("sealing");
    assert_eq!(
        sealed.value.state,
        StreamState::Sealed {
            end_seq: 7,
            sealed_ms: 100
        }
    );
    assert_eq!(sealed.value.merged, merged);
    assert_eq!(
        streams::seal(store, stream, 8, 200).await,
        Ok(sealed.clone()),
        "the first end stands"
    );
    assert_eq!(streams::mark_sealing(store, stream).await, Ok(sealed.clone()));
    let rolled = streams::trim_sealed(store, stream, &sealed, 7, Vec::new())
        .await
        .expect("unchanged");
    assert_eq!(streams::load_stream(store, stream).await, Ok(Some(rolled.clone())));
    let stale = streams::forget_stream(store, stream, sealed.mod_revision).await;
    assert_eq!(stale, Err(OperationError::Conflict));
    streams::forget_stream(store, stream, rolled.mod_revision)
        .await
        .expect("unchanged");
    assert_eq!(
        streams::mark_sealing(store, stream).await,
        Err(OperationError::Conflict)
    );
    let left: Vec<_> = streams::load_streams(store).await.expect("readable").items;
    assert!(left.iter().any(|(id, _)| *id == other) && left.iter().all(|(id, _)| *id != stream));
}

fn claim(topic: u8, partition: i32, leader: i32) -> PartitionWrite {
    let record = PartitionRecord {
        leader,
        leader_incarnation: 5,
        shard: 0,
        leader_epoch: 0,
        stream: 1,
        log_start_offset: 0,
        rolled_offset: 0,
        tail_streams: Vec::new(),
        epoch_starts: vec![(0, 0)],
    };
    PartitionWrite {
        topic_id: TopicId([topic; 16]),
        partition,
        expected: None,
        record,
    }
}

/// Claims on a stream of its own, by broker 1, which is not registered.
async fn claim_all(store: &dyn Metastore, writes: &[PartitionWrite]) -> Result<Revision, OperationError> {
    let (stream, opened) = streams::open_stream(store, 1, 5, 0).await?;
    let claim = Claim {
        brokers: &[(1, None)],
        stream: (stream, opened.mod_revision),
        writes,
    };
    claim_partitions(store, &claim).await
}

async fn of_topic(store: &dyn Metastore, topic: u8) -> Vec<StoredPartition> {
    let all = load_partitions(store).await.expect("readable").items;
    all.into_iter()
        .filter(|stored| stored.topic_id == TopicId([topic; 16]))
        .collect()
}

async fn partitions_are_claimed_together_or_not_at_all(store: &dyn Metastore) {
    let id = TopicId([20; 16]);
    claim_all(store, &[claim(20, 3, 2)]).await.expect("nobody has it");
    let claims: Vec<_> = (0..5).map(|partition| claim(20, partition, 1)).collect();
    assert_eq!(
        claim_all(store, &claims).await,
        Err(OperationError::Conflict),
        "3 has changed"
    );
    assert_eq!(of_topic(store, 20).await.len(), 1);
    let revision = claim_all(store, &claims[..3]).await.expect("nobody has them");
    let stored = of_topic(store, 20).await;
    assert_eq!(stored.len(), 4);
    assert_eq!(stored[2].record.mod_revision, revision);
    let mut record = stored[2].record.value.clone();
    record.rolled_offset = 10;
    let updated = update_partition(store, id, 2, revision, &record)
        .await
        .expect("unchanged");
    let found = load_partition(store, id, 2).await.expect("readable").expect("claimed");
    assert_eq!((found.value, found.mod_revision), (record.clone(), updated));
    let stale = update_partition(store, id, 2, revision, &record).await;
    assert_eq!(stale, Err(OperationError::Conflict));
    remove_partitions(store, id).await.expect("removed");
    assert_eq!(of_topic(store, 20).await, []);
    assert!(claim_all(store, &[]).await.is_err(), "nothing to claim");
}

async fn a_claim_fails_when_anything_it_relies_on_has_changed(store: &dyn Metastore) {
    let broker = BrokerRecord {
        broker_id: 8,
        incarnation: 50,
        host: "h".to_string(),
        port: 9092,
        rack: None,
        shards: 1,
        shard_ports: Vec::new(),
    };
    let lease = store.lease_grant(60_000).await.expect("granted");
    brokers::register_broker(store, lease, &broker, 100, None)
        .await
        .expect("nobody is there");
    let (stream, opened) = streams::open_stream(store, 8, 50, 0).await.expect("opened");
    let writes = [claim(40, 0, 8)];
    let claim_by = |pictured: Option<BrokerRecord>, stream_revision| {
        let brokers = [(8, pictured)];
        async move {
            let claim = Claim {
                brokers: &brokers,
                stream: (stream, stream_revision),
                writes: &[claim(40, 0, 8)],
            };
            claim_partitions(store, &claim).await
        }
    };
    let other_life = BrokerRecord {
        incarnation: 49,
        ..broker.clone()
    };
    for pictured in [None, Some(other_life)] {
        let claimed = claim_by(pictured, opened.mod_revision).await;
        assert_eq!(
            claimed,
            Err(OperationError::Conflict),
            "the broker is registered otherwise"
        );
    }
    let gone = create_topic(store, &topic("gone", 40)).await.expect("the name is free");
    delete_topic(store, "gone", &gone, 1).await.expect("unchanged");
    let of_deleted = claim_by(Some(broker.clone()), opened.mod_revision).await;
    assert_eq!(of_deleted, Err(OperationError::Conflict), "the topic was deleted");
    forget_deleted_topic(store, writes[0].topic_id)
        .await
        .expect("it was deleted");
    streams::mark_sealing(store, stream).await.expect("it is open");
    let on_sealing = claim_by(Some(broker.clone()), opened.mod_revision).await;
    assert_eq!(
        on_sealing,
        Err(OperationError::Conflict),
        "the stream is not open any more"
    );
    let (stream, opened) = streams::open_stream(store, 8, 50, 0).await.expect("opened");
    let brokers = [(8, Some(broker))];
    let claim = Claim {
        brokers: &brokers,
        stream: (stream, opened.mod_revision),
        writes: &writes,
    };
    claim_partitions(store, &claim).await.expect("all is as it says");
    remove_partitions(store, writes[0].topic_id).await.expect("removed");
    store.lease_revoke(lease).await.expect("it runs");
}

async fn many_records_are_listed_whole(store: &dyn Metastore) {
    let claims: Vec<_> = (0..2_500).map(|partition| claim(30, partition, 1)).collect();
    let mut rest = &claims[..];
    while !rest.is_empty() {
        let count = claim_length(rest.iter().map(|write| (write.topic_id, Some(write.record.leader))));
        assert_eq!(count.min(TXN_OPS_MAX), count);
        claim_all(store, &rest[..count]).await.expect("nobody has them");
        rest = &rest[count..];
    }
    let stored = of_topic(store, 30).await;
    assert!(stored.iter().map(|item| item.partition).eq(0..2_500));
    remove_partitions(store, TopicId([30; 16])).await.expect("removed");
}
