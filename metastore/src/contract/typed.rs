//! The typed operations, on a real store.

use crate::keys::{BrokerRecord, ClusterRecord, MergedObject, PartitionRecord, StreamState};
use crate::operation::OperationError;
use crate::partitions::{claim_partitions, load_partition, load_topic_partitions, remove_partitions, update_partition};
use crate::partitions::{update_partitions, PartitionWrite};
use crate::store::Metastore;
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
    partitions_are_claimed_in_batches_and_conflicts_stay_alone(store).await;
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
    assert_eq!(
        brokers::deregister_broker(store, 1, first).await,
        Err(OperationError::Conflict)
    );
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
    brokers::deregister_broker(store, 1, second).await.expect("it is ours");
    assert_eq!(brokers::load_broker(store, 1).await, Ok(None));
    brokers::register_broker(store, lease, &broker(7), 300, None)
        .await
        .expect("nobody is there");
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

async fn partitions_are_claimed_in_batches_and_conflicts_stay_alone(store: &dyn Metastore) {
    let id = TopicId([20; 16]);
    let others: Vec<_> = [3, 150].map(|partition| claim(20, partition, 2)).to_vec();
    assert!(claim_partitions(store, &others).await.iter().all(Result::is_ok));
    let claims: Vec<_> = (0..250).map(|partition| claim(20, partition, 1)).collect();
    let results = claim_partitions(store, &claims).await;
    for (partition, result) in results.iter().enumerate() {
        let taken = [3, 150].contains(&partition);
        assert_eq!(
            result.as_ref().err(),
            taken.then_some(&OperationError::Conflict),
            "partition {partition}"
        );
    }
    let stored = load_topic_partitions(store, id).await.expect("readable").items;
    assert_eq!(stored.len(), 250);
    let at_four = stored.iter().find(|item| item.partition == 4).expect("claimed");
    assert_eq!(Ok(at_four.record.mod_revision), results[4]);
    let mut record = at_four.record.value.clone();
    record.rolled_offset = 10;
    let updated = update_partition(store, id, 4, at_four.record.mod_revision, &record)
        .await
        .expect("unchanged");
    let found = load_partition(store, id, 4).await.expect("readable").expect("claimed");
    assert_eq!((found.value, found.mod_revision), (record.clone(), updated));
    let stale = update_partition(store, id, 4, at_four.record.mod_revision, &record).await;
    assert_eq!(stale, Err(OperationError::Conflict));
    let again = PartitionWrite {
        expected: Some(updated),
        ..claim(20, 4, 1)
    };
    assert!(update_partitions(store, &[again]).await[0].is_ok());
    claims_of_a_deleted_topic_fail(store).await;
    remove_partitions(store, id).await.expect("removed");
    assert_eq!(load_topic_partitions(store, id).await.expect("readable").items, []);
    assert!(claim_partitions(store, &[]).await.is_empty());
}

async fn claims_of_a_deleted_topic_fail(store: &dyn Metastore) {
    let gone = create_topic(store, &topic("gone", 21)).await.expect("the name is free");
    delete_topic(store, "gone", &gone, 1).await.expect("unchanged");
    // As many topics as partitions: the compares, not the writes, fill the transactions.
    let claims: Vec<_> = (0..100)
        .map(|n| claim(if n == 50 { 21 } else { 100 + n }, 0, 1))
        .collect();
    let results = claim_partitions(store, &claims).await;
    let failed: Vec<_> = (0..100).filter(|n| results[*n].is_err()).collect();
    assert_eq!(failed, [50]);
}

async fn many_records_are_listed_whole(store: &dyn Metastore) {
    let claims: Vec<_> = (0..2_500).map(|partition| claim(30, partition, 1)).collect();
    assert!(claim_partitions(store, &claims).await.iter().all(Result::is_ok));
    let stored = load_topic_partitions(store, TopicId([30; 16])).await.expect("readable");
    assert!(stored.items.iter().map(|item| item.partition).eq(0..2_500));
    remove_partitions(store, TopicId([30; 16])).await.expect("removed");
}
